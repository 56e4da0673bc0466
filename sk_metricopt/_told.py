"""Scores that are told: an engine without a scorer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from sk_metricopt._observation import ObservationEngine
from sk_metricopt._observer import Observer, Point
from sk_metricopt._scoring import Scoring

_UNSURE = (
    "nothing is known of how sure scores are: tell their standard errors, or candidates repeatedly"
)


class ToldObserver(Observer):
    """Enters models in place of their answers: what is scored is elsewhere."""

    def _response(self, point: Point, answers):
        return cache(partial(self.task.make_model, point.phi[-1]))


class ToldEngine(ObservationEngine):
    """An engine that is told what others found.

    Parameters
    ----------
    scoring : Scoring
        Never asked.
    budget : int
    caller : str
    seed : int
    """

    def __init__(self, scoring: Scoring, budget: int, caller: str, seed: int):
        super().__init__(scoring, budget, caller)
        self._seed = seed
        self._told: dict[int, list[tuple[float, float | None]]] = {}
        self._revision = 0

    @property
    def revision(self) -> int:
        """Changes whenever a score that has been told does."""
        return self._revision

    @property
    def waiting(self) -> list[int]:
        """Candidates of this round that nobody has told a score of."""
        return [i for i in range(self._n_settled, len(self.observations)) if i not in self._told]

    def model(self, index: int) -> Callable[[], object]:
        """Return what makes the model of a candidate."""
        return self._responses[index]  # type: ignore[return-value]

    def tell(self, index: int, score: float, se: float | None) -> None:
        """Take note of a score, NaN if it could not be had."""
        self._told.setdefault(index, []).append((score, se))
        self._revision += 1
        self.observations[index].score = self._score_and_se(index)[0]

    def end_round(self) -> None:
        """Go on with what has been told; a score that nobody told is NaN, or was not asked for."""
        while self.observations and len(self.observations) - 1 in self.waiting:
            self._responses.pop(len(self.observations) - 1)
            self.observations.pop()
        for index in range(self._n_settled, len(self.observations)):
            self.settle(index, self.observations[index].score)

    def measure_noise(self, index: int) -> None:
        """Noise is told, as standard errors or by repetition."""

    def resampled(self, index: int, bags: list[np.ndarray]) -> np.ndarray:
        """Return the score of an observation as it might have been, once for each bag."""
        score, se = self._score_and_se(index)
        draws = np.random.RandomState([self._seed, index]).standard_normal(len(bags))
        return score + (se or 0.0) * draws

    def why_not_judged(self) -> str | None:
        """Say why nothing can be judged where no standard error is known."""
        unsure = any(self._score_and_se(index)[1] is None for index in self._told)
        return _UNSURE if unsure else None

    def _score_and_se(self, index: int) -> tuple[float, float | None]:
        """Return the mean of what was told of a candidate, and its standard error if known."""
        told = [(score, se) for score, se in self._told.get(index, []) if math.isfinite(score)]
        if not told:
            return math.nan, 0.0
        scores = np.array([score for score, _ in told])
        errors = [se for _, se in told if se]
        if len(errors) == len(told):
            weights = 1 / np.square(errors)
            return float(np.average(scores, weights=weights)), float(weights.sum() ** -0.5)
        spread = self._spread()
        se = None if spread is None else float(spread / np.sqrt(len(scores)))
        if len(told) == 1 and told[0][1] is not None:
            se = told[0][1]  # zero: it is known exactly
        return float(scores.mean()), se

    def _spread(self) -> float | None:
        """Standard deviation of scores of one candidate, pooled over those told repeatedly."""
        groups = [
            np.array([s for s, _ in told if math.isfinite(s)]) for told in self._told.values()
        ]
        repeated = [group for group in groups if len(group) > 1]
        if not repeated:
            return None
        squares = sum(((scores - scores.mean()) ** 2).sum() for scores in repeated)
        return float(np.sqrt(squares / sum(len(scores) - 1 for scores in repeated)))
