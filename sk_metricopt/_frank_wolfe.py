"""FWEG on one page: probe, elicit weights, go towards them; then choose and judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice

import numpy as np

from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._elicitation import Confusions, elicited
from sk_metricopt._guard import Verdict, guarded, unchanged
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._resampling import StratifiedResampling
from sk_metricopt._selection import Referee
from sk_metricopt._weighting import Mixture, Weighting, Weights, average

_SELECTION_FOLDS = 4  # of the validation rows, for the choice to be judged on
_RESERVED = 1  # observation of what was chosen
_STEPS = (1.0, 0.5, 0.25)  # of the way to the elicited weights, until one of them gains
_SMALLER = 0.6  # what becomes of epsilon where none does
_LEAST_PROBES, _PROBE_SHARE = 4, 0.25  # of the budget, in one iteration
_FEW_CHANGES = 2  # decisions that a probe changes at least
_LARGEST_FACTOR = 16.0  # logarithm of the factor beyond which a probe is not looked for
_HALVINGS = 12
_ENOUGH_ROWS = 5000  # to find the factor of a probe on

_Probe = tuple[int, int, int]  # basis function, class, direction


@dataclass(frozen=True)
class ValidationAnswers:
    """What the estimator says on the validation rows.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_classes)
        Calibrated, where that is possible.
    initial_proba : ndarray of shape (n_samples, n_classes)
        As they came.
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
    initial_proba: np.ndarray
    decided: np.ndarray
    y: np.ndarray
    membership: np.ndarray
    sample_weight: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class Settings:
    """How the search goes about it; see PostShiftClassifier for the meaning."""

    n_iter: int
    epsilon: float
    with_offsets: bool
    randomized: bool
    guard_z: float | None


class FrankWolfe:
    """Search for weights by elicited gradients.

    Parameters
    ----------
    answers : ValidationAnswers
    calibrated : ndarray of shape (n_basis, n_classes)
        Log weights that calibration multiplied the probabilities by.
    scoring : ClassifierScoring
    engine : ObservationEngine
    make_model : callable
        Returns the estimator of some weights, for scorers that predict on other data.
    settings : Settings
    rng : numpy.random.RandomState
    """

    def __init__(
        self,
        answers: ValidationAnswers,
        calibrated: np.ndarray,
        scoring: ClassifierScoring,
        engine: ObservationEngine,
        make_model: Callable[[Weights | None], object],
        settings: Settings,
        rng: np.random.RandomState,
    ):
        self.answers = answers
        self.scoring = scoring
        self.engine = engine
        self.settings = settings
        self.rng = rng
        self._make_model = make_model
        n_classes = answers.proba.shape[1]
        weighted = answers.membership * answers.sample_weight[:, None]
        self._confusions = Confusions(answers.y, weighted, n_classes)
        self._as_came = self._weights(-calibrated)
        self._observed: list[Weights] = []
        self._cells: list[np.ndarray] = []
        self._decided: list[np.ndarray] = []
        strata = answers.y * answers.membership.shape[1] + answers.membership.argmax(axis=1)
        resampling = StratifiedResampling(strata)
        self.referee = Referee(engine, resampling, _SELECTION_FOLDS, rng)

    def run(self) -> tuple[Weights | None, Verdict]:
        """Return weights, None for the model as it came, and why."""
        self._observe_as_came()
        current = self._best_of(0, self._starts())
        probes, epsilon = self._probes(), self.settings.epsilon
        for iteration in range(self.settings.n_iter):
            current = self._best_of(current, self._probe(current, probes, epsilon))
            if iteration == 0 and not self._reacts():
                return None, unchanged(self._score(0), self._why_no_reaction())
            if self._left < 1:
                break
            following = self._step(current, iteration)
            if following == current:
                epsilon *= _SMALLER
            current = following
        return self._chosen()

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
        answers = self.answers
        self._record(self._as_came, "initial", 0, answers.initial_proba, answers.decided)

    def _observe(self, weights: Weights, phase: str, step: int) -> int:
        proba, decided = self._decide(weights)
        return self._record(weights, phase, step, proba, decided)

    def _decide(self, weights: Weights, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        answers = self.answers
        return weights.decide(answers.proba[rows], answers.membership[rows], answers.draws[rows])

    def _record(self, weights, phase, step, proba, decided) -> int:
        model = cache(partial(self._make_model, weights if self._observed else None))
        response = ClassifierResponse(self.scoring, proba, decided, model)
        observation = Observation(step, -1, phase, np.nan)
        index = self.engine.observe(observation, response, keep=phase == "judge")
        self._observed.append(weights)
        self._cells.append(self._confusions.of(decided))
        self._decided.append(decided)
        return index

    # search -------------------------------------------------------------------------------------

    def _starts(self) -> list[int]:
        """Observe calibrated probabilities, and classes weighted as if all were as frequent."""
        prior = self._confusions.prior
        balanced = np.where(prior > 0, -np.log(np.maximum(prior, 1e-12)), 0.0)
        starts = [self._weights(np.zeros_like(prior)), self._weights(balanced)]
        return [self._observe(start, "explore", 0) for start in starts[: max(self._left, 0)]]

    def _probes(self) -> Iterator[_Probe]:
        """Yield (basis, class, direction) forever: up in the first round, later both ways."""
        n_basis, n_classes = self._confusions.prior.shape
        classes = [(m, k) for m in range(n_basis) for k in range(n_classes)]
        directions = [1]
        while True:
            order = [(m, k, d) for m, k in classes for d in directions]
            for i in self.rng.permutation(len(order)):
                yield order[i]
            directions = [1, -1]

    def _probe(
        self, current: int, probes: Iterator[tuple[int, int, int]], epsilon: float
    ) -> list[int]:
        """Observe some of the weights around the current ones."""
        most = max(_LEAST_PROBES, int(_PROBE_SHARE * self.engine.budget))
        n = max(0, min(self._confusions.prior.size, most, self._left))
        around = self._observed[current]
        found = [self._probing(around, *which, epsilon) for which in islice(probes, n)]
        return [self._observe(weights, "explore", 0) for weights in found]

    def _probing(
        self, weights: Weights, basis: int, label: int, direction: int, epsilon: float
    ) -> Weights:
        """Return weights that decide for one class more, or less, often by a share of its rows."""
        answers = self.answers
        rows = np.flatnonzero(answers.membership[:, basis] > 0)
        if len(rows) > _ENOUGH_ROWS:
            rows = self.rng.permutation(rows)[:_ENOUGH_ROWS]
        as_is = self._decide(weights, rows)[1] == label
        wanted = max(_FEW_CHANGES, epsilon * np.count_nonzero(answers.y[rows] == label))

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
            steps: tuple[float, ...] = (2 / (iteration + 2),)
        else:
            steps = _STEPS
        for step in steps[: self._left]:
            weights = self._observed[current].towards(target, step)
            following = self._observe(weights, "guide", iteration + 1)
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
        return len(self.engine.scores) < 2 or np.ptp(self.engine.scores) > 0

    def _why_no_reaction(self) -> str:
        n = len(self._decided) - 1
        if all(np.array_equal(decided, self._decided[0]) for decided in self._decided):
            return f"none of {n} weightings changed a decision: the probabilities are 0 and 1"
        return (
            f"the metric is the same under {n} weightings of the classes. It may read the order of "
            "probabilities only, as the area under a curve does, or be at its least for all of them"
        )

    # choose -------------------------------------------------------------------------------------

    def _chosen(self) -> tuple[Weights | None, Verdict]:
        """Average the winners on resamples, judged on rows that had no say in it."""
        initial = self._score(0)
        if self.engine.remaining < 1 or len(self._observed) < 2:
            return None, unchanged(initial, "there were no observations left to search with")
        winners, of_folds = self.referee.cross_fitted(list(range(len(self._observed))))
        if not winners.any():
            return None, unchanged(initial, "no weights scored better than the model as it came")
        weights, index = self._judged(winners, of_folds)
        if not np.isfinite(self._score(index)):
            index = self._best_of(0, list(range(len(self._observed))))
            weights = self._observed[index]
            if index == 0:
                return None, unchanged(initial, "the scorer failed on what was chosen")
        gain = self._score(index) - initial
        se = self.referee.standard_error(index, 0)
        verdict = guarded(initial, gain, se, self.settings.guard_z, "post-shifted")
        return (weights if verdict.improved else None), verdict

    def _judged(self, winners: np.ndarray, of_folds: list) -> tuple[Weights, int]:
        """Observe the average winner, on each fold that of the winners elsewhere."""

        def averaged(indices: np.ndarray) -> Weights:
            return average([self._observed[i] for i in indices])

        proba = np.empty_like(self.answers.proba)
        decided = np.empty_like(self.answers.decided)
        for fold, winners_there in of_folds:
            proba[fold], decided[fold] = self._decide(averaged(winners_there), fold)
        weights = averaged(winners)
        return weights, self._record(weights, "judge", 0, proba, decided)
