"""FWEG on one page: probe, elicit weights, go towards them, average what wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, islice

import numpy as np

from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._elicitation import Confusions, elicited
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._resampling import StratifiedResampling
from sk_metricopt._selection import Referee
from sk_metricopt._weighting import (
    Mixture,
    Weighting,
    Weights,
    average,
    calibration,
    weighted_proba,
)

_RESERVED = 2  # observations: of the average winner, and of what it is judged by
_LEAST_SEARCH = 3  # observations: two starts and a probe
_STEPS = (1.0, 0.5, 0.25)  # of the way to the elicited weights, until one of them gains
_SMALLER = 0.6  # what becomes of epsilon where none does
_LEAST_PROBES, _PROBE_SHARE = 4, 0.25  # of the budget, in one iteration
_FEW_CHANGES = 2  # decisions that a probe changes at least
_MOST_MOVED = 0.5  # of the rows that it could change the decision of
_LARGEST_FACTOR = 16.0  # logarithm of the factor beyond which a probe is not looked for
_HALVINGS = 6
_SAME = 1e-9  # relative difference of scores that rounding makes
_ENOUGH_ROWS = 3000  # to find the factor of a probe on

_Probe = tuple[int, int, int]  # basis function, class, direction


@dataclass(frozen=True)
class KnownAnswers:
    """What the estimator says on validation rows, and all else that is known of them.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_classes)
    decided : ndarray of shape (n_samples,)
        Its own decisions, as index of the class.
    y : ndarray of shape (n_samples,)
        Encoded labels.
    membership : ndarray of shape (n_samples, n_basis)
        Values of the basis functions.
    sample_weight : ndarray of shape (n_samples,)
    draws : ndarray of shape (n_samples,)
        Uniform in [0, 1), for randomised decisions.
    """

    proba: np.ndarray
    decided: np.ndarray
    y: np.ndarray
    membership: np.ndarray
    sample_weight: np.ndarray
    draws: np.ndarray

    def take(self, rows: np.ndarray) -> KnownAnswers:
        """Return what is known of some rows."""
        return KnownAnswers(**{name: values[rows] for name, values in vars(self).items()})

    @property
    def exclusive(self) -> bool:
        """Whether every row is a member under one basis function."""
        return bool((np.count_nonzero(self.membership, axis=1) == 1).all())


@dataclass(frozen=True)
class Settings:
    """How the search goes about it; see PostShiftClassifier for the meaning."""

    n_iter: int | None
    epsilon: float
    with_offsets: bool
    randomized: bool
    guard_z: float | None


class FrankWolfe:
    """Search for weights by elicited gradients.

    It works on probabilities that are calibrated to the labels at hand: by class, and apart under
    each basis function where every row is a member under one.

    Parameters
    ----------
    answers : KnownAnswers
    scoring : ClassifierScoring
        Of the same rows.
    engine : ObservationEngine
    make_model : callable
        Returns the estimator of some weights, for scorers that predict on other data.
    settings : Settings
    rng : numpy.random.RandomState
    n_resamples : int
        On which winners are averaged.

    Attributes
    ----------
    referee : Referee
    resampling : StratifiedResampling
        By class and basis function.
    """

    def __init__(
        self,
        answers: KnownAnswers,
        scoring: ClassifierScoring,
        engine: ObservationEngine,
        make_model: Callable[[Weights | None], object],
        settings: Settings,
        rng: np.random.RandomState,
        n_resamples: int,
    ):
        self.answers = answers
        self.scoring = scoring
        self.engine = engine
        self.settings = settings
        self.rng = rng
        self._make_model = make_model
        membership, sample_weight = answers.membership, answers.sample_weight
        among = membership if answers.exclusive else np.ones((len(membership), 1))
        self._calibrated = calibration(answers.proba, answers.y, among, sample_weight)
        self._proba = weighted_proba(answers.proba, among, np.exp(self._calibrated))
        weighted = membership * sample_weight[:, None]
        self._confusions = Confusions(answers.y, weighted, answers.proba.shape[1])
        self._observed: list[Weights] = []
        self._cells: list[np.ndarray] = []
        self._decided: list[np.ndarray] = []
        strata = answers.y * membership.shape[1] + membership.argmax(axis=1)
        self.resampling = StratifiedResampling(strata)
        self.referee = Referee(engine, self.resampling, 0, rng, n_resamples)

    def search(self) -> tuple[Weights | None, str]:
        """Return weights on the probabilities, or None and why."""
        self._observe_as_came()
        if self._left < _LEAST_SEARCH:
            return None, f"a search takes {1 + _LEAST_SEARCH + _RESERVED} observations or more"
        current = self._best_of(0, self._starts())
        probes, epsilon, n_iter = self._probes(), self.settings.epsilon, self.settings.n_iter
        for iteration in count(1) if n_iter is None else range(1, n_iter + 1):
            current = self._best_of(current, self._probe(current, probes, epsilon, iteration))
            if iteration == 1 and not self._reacts():
                return None, self._why_no_reaction()
            if self._left < 1:
                break
            if np.isfinite(self.engine.scores).sum() < 2:
                return None, "the scorer failed on all weights that were tried"
            following = self._step(current, iteration)
            if following == current:
                epsilon *= _SMALLER
            current = following
        return self._winner()

    @property
    def _left(self) -> int:
        return self.engine.remaining - _RESERVED

    def _score(self, index: int) -> float:
        return float(self.engine.scores[index])

    def _weights(self, log_scale: np.ndarray) -> Weights:
        weighting = Weighting(log_scale)
        return Mixture((weighting,)) if self.settings.randomized else weighting

    def _best_of(self, current: int, others: list[int]) -> int:
        """The best of some observations, the current one of equals."""
        return max([current, *others], key=self._score)

    # observe ------------------------------------------------------------------------------------

    def _observe_as_came(self) -> None:
        """Observe the estimator's own decisions, which no weights need to give."""
        n_basis = self.answers.membership.shape[1]
        log_scale = np.broadcast_to(-self._calibrated, (n_basis, self._calibrated.shape[1]))
        as_came = self._weights(log_scale)
        self._record(as_came, "initial", 0, self.answers.proba, self.answers.decided)

    def _observe(self, weights: Weights, phase: str, step: int) -> int:
        proba, decided = self._decide(weights)
        return self._record(weights, phase, step, proba, decided)

    def _decide(self, weights: Weights, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        answers = self.answers
        return weights.decide(self._proba[rows], answers.membership[rows], answers.draws[rows])

    def _model_of(self, weights: Weights) -> Callable[[], object]:
        deployed = weights.after(self._calibrated) if self._observed else None
        return cache(partial(self._make_model, deployed))

    def _record(self, weights, phase, step, proba, decided) -> int:
        response = ClassifierResponse(self.scoring, proba, decided, self._model_of(weights))
        index = self.engine.observe(Observation(step, -1, phase, np.nan), response)
        self._observed.append(weights)
        self._cells.append(self._confusions.of(decided))
        self._decided.append(decided)
        return index

    # search -------------------------------------------------------------------------------------

    def _starts(self) -> list[int]:
        """Observe calibrated probabilities, and classes weighted as if all were as frequent."""
        prior = self._confusions.prior
        balanced = np.where(prior > 0, -np.log(np.maximum(prior, 1e-12)), 0.0)
        starts = self._weights(np.zeros_like(prior)), self._weights(balanced)
        return [self._observe(start, "explore", 0) for start in starts]

    def _probes(self) -> Iterator[_Probe]:
        """Yield (basis, class, direction) forever: up in the first round, later both ways.

        By chance a class can only be decided for more often.
        """
        n_basis, n_classes = self._confusions.prior.shape
        classes = [(m, k) for m in range(n_basis) for k in range(n_classes)]
        directions = [1]
        while True:
            order = [(m, k, d) for m, k in classes for d in directions]
            for i in self.rng.permutation(len(order)):
                yield order[i]
            directions = [1] if self.settings.randomized else [1, -1]

    def _probe(
        self, current: int, probes: Iterator[_Probe], epsilon: float, iteration: int
    ) -> list[int]:
        """Observe some of the weights around the current ones."""
        most = max(_LEAST_PROBES, int(_PROBE_SHARE * self.engine.budget))
        n = min(self._confusions.prior.size, most, self._left)
        around = self._observed[current]
        found = [self._probing(around, *which, epsilon) for which in islice(probes, n)]
        return [self._observe(weights, "explore", iteration) for weights in found]

    def _probing(
        self, weights: Weights, basis: int, label: int, direction: int, epsilon: float
    ) -> Weights:
        """Return weights that decide for one class more, or less, often by a share of its rows.

        Mixtures decide for it more often by chance, as published.
        """
        answers = self.answers
        rows = np.flatnonzero(answers.membership[:, basis] > 0)
        if len(rows) > _ENOUGH_ROWS:
            rows = self.rng.permutation(rows)[:_ENOUGH_ROWS]
        if not len(rows):
            return weights
        wanted = max(_FEW_CHANGES, epsilon * np.count_nonzero(answers.y[rows] == label))
        if isinstance(weights, Mixture):
            only = weights.members[-1].scaled(basis, label, _LARGEST_FACTOR)
            return weights.towards(only, min(wanted / len(rows), 1.0))
        as_is = self._decide(weights, rows)[1] == label
        movable = np.count_nonzero(as_is if direction < 0 else ~as_is)
        wanted = min(wanted, _MOST_MOVED * movable)

        def scaled(log_factor: float) -> Weights:
            return weights.scaled(basis, label, direction * log_factor)

        def too_little(log_factor: float) -> bool:
            decided = self._decide(scaled(log_factor), rows)[1] == label
            return bool(np.count_nonzero(decided != as_is) < wanted)

        low, high = 0.0, 1.0
        while too_little(high) and high < _LARGEST_FACTOR:
            low, high = high, 2 * high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if too_little(middle) else (low, middle)
        return scaled(high)

    def _step(self, current: int, iteration: int) -> int:
        """Go towards the weights elicited here; return where that leads."""
        target = self._elicited(current)
        if self.settings.randomized:  # the steps of Frank and Wolfe
            steps: tuple[float, ...] = (2 / (iteration + 1),)
        else:
            steps = _STEPS
        for step in steps[: self._left]:
            weights = self._observed[current].towards(target, step)
            following = self._observe(weights, "guide", iteration)
            if self._score(following) > self._score(current):
                return following
        return current

    def _elicited(self, current: int) -> Weighting:
        finite = np.flatnonzero(np.isfinite(self.engine.scores))
        known = [current, *finite[finite != current]]
        return elicited(
            np.stack([self._cells[i] for i in known]),
            self.engine.scores[known],
            self._confusions.prior,
            self._observed[current].scale,
            self.settings.with_offsets,
        )

    def _reacts(self) -> bool:
        scores = self.engine.scores
        return bool(np.ptp(scores) > _SAME * np.abs(scores[0]))

    def _why_no_reaction(self) -> str:
        n = len(self._decided) - 1
        if all(np.array_equal(decided, self._decided[0]) for decided in self._decided):
            return f"none of {n} weightings changed a decision: the probabilities are 0 and 1"
        return (
            f"the metric is the same under {n} weightings of the classes. It may read the order of "
            "probabilities only, as the area under a curve does, or be at its least for all of them"
        )

    def _winner(self) -> tuple[Weights | None, str]:
        """Return the average of the winners on resamples, None for the model as it came."""
        winners = self.referee.winners(list(range(len(self._observed))))
        if not winners.any():
            return None, "no weights scored better than the model as it came"
        found = average([self._observed[i] for i in winners])
        worst = min(self._score(i) for i in winners)
        if not self._score(self._observe(found, "judge", 0)) >= worst:
            found = self._observed[np.bincount(winners).argmax()]  # between good ones may be bad
        return found.after(self._calibrated), ""
