"""Selection: not the luckiest observation, but what wins again and again, judged where it did not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sk_metricopt._observation import ObservationEngine
from sk_metricopt._resampling import out_of_bag

_CONTENDERS = 16  # at most so many observations are scored on resamples
_STILL_WINS = 3.0  # standard errors below the best from which nothing wins a bootstrap


@dataclass(frozen=True)
class Winners:
    """Bootstrap winners among observations.

    Attributes
    ----------
    indices : ndarray of shape (n_bootstraps,)
        Observation that scores best on each bootstrap.
    out_of_bag_gain : float
        Their mean gain over the reference on the rows their bootstrap left out.
    optimism : float
        How much larger that gain looks on the rows they were chosen on.
    """

    indices: np.ndarray
    out_of_bag_gain: float
    optimism: float


class Referee:
    """Scores observations on the same bootstraps, each at most once.

    Parameters
    ----------
    engine : ObservationEngine
    bootstraps : list of ndarray
        Row indices.
    """

    def __init__(self, engine: ObservationEngine, bootstraps: list[np.ndarray]):
        self._engine = engine
        self._bags = bootstraps
        self._left_out = [out_of_bag(bag, len(engine.rows)) for bag in bootstraps]
        self._in_bag_scores: dict[int, np.ndarray] = {}
        self._left_out_scores: dict[tuple[int, int], float] = {}

    def in_bag(self, index: int) -> np.ndarray:
        """Return scores of one observation on all bootstraps (n_bootstraps,)."""
        if index not in self._in_bag_scores:
            scores = [self._engine.resampled(index, bag) for bag in self._bags]
            self._in_bag_scores[index] = np.array(scores)
        return self._in_bag_scores[index]

    def left_out(self, index: int, bootstrap: int) -> float:
        """Return the score of one observation on the rows that one bootstrap left out."""
        key = (index, bootstrap)
        if key not in self._left_out_scores:
            self._left_out_scores[key] = self._engine.resampled(index, self._left_out[bootstrap])
        return self._left_out_scores[key]

    def standard_error(self, index: int, reference: int) -> float:
        """Return the paired bootstrap standard error of a gain over `reference`."""
        gains = self.in_bag(index) - self.in_bag(reference)
        return float(np.nanstd(gains)) if np.isfinite(gains).any() else np.inf

    def winners(self, candidates: np.ndarray, reference: int) -> Winners:
        """Return who wins the bootstraps among `candidates`, and what winning is worth.

        Candidates too far below the best to win any bootstrap are not scored again.

        Parameters
        ----------
        candidates : ndarray of int
            Indices of observations.
        reference : int
            Index of the observation that gains are measured against.
        """
        scores = self._engine.scores
        alive = [i for i in candidates if self._engine.remembers(i) and np.isfinite(scores[i])]
        ranked = sorted(alive, key=lambda i: (-scores[i], i))[:_CONTENDERS]
        margin = _STILL_WINS * max(self.standard_error(ranked[0], reference), 1e-12)
        contenders = np.array([i for i in ranked if scores[i] >= scores[ranked[0]] - margin])
        table = np.stack([self.in_bag(i) for i in contenders])
        indices = contenders[np.where(np.isfinite(table), table, -np.inf).argmax(0)]
        bags = range(len(self._bags))
        inside = [self.in_bag(w)[b] - self.in_bag(reference)[b] for b, w in zip(bags, indices)]
        outside = [self.left_out(w, b) - self.left_out(reference, b) for b, w in zip(bags, indices)]
        if not np.isfinite(outside).any():
            return Winners(indices, -np.inf, np.inf)
        gain = float(np.nanmean(outside))
        return Winners(indices, gain, max(0.0, float(np.nanmean(inside)) - gain))
