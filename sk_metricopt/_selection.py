"""Selection: not the luckiest observation, but what wins again and again."""

from __future__ import annotations

import numpy as np

from sk_metricopt._observation import ObservationEngine
from sk_metricopt._resampling import Resampling

_RESAMPLES = 40  # of all validation rows
_RESAMPLES_OF_REST = 8  # of the rows outside each selection fold
_CONTENDERS = 10  # at most so many observations are scored on resamples
_STILL_WINS = 3.0  # standard errors below the best from which nothing wins a resample


class Referee:
    """Chooses by winners on resamples, on all validation rows or on all but one selection fold.

    What is chosen without a fold can be judged on it: joined over folds this tells what choosing
    is worth on rows that had no say in it. Every value is computed at most once, and only for
    observations that can still win.

    Parameters
    ----------
    engine : ObservationEngine
    resampling : Resampling
        Of the validation rows.
    n_folds : int
        Selection folds; 0 where nothing is chosen without some rows.
    rng : numpy.random.RandomState
    n_resamples : int
        Of all validation rows.

    Attributes
    ----------
    folds : list of ndarray
        Rows of each selection fold.
    resamples : list of ndarray
        Rows of each resample of all validation rows.
    """

    def __init__(
        self,
        engine: ObservationEngine,
        resampling: Resampling,
        n_folds: int,
        rng: np.random.RandomState,
        n_resamples: int = _RESAMPLES,
    ):
        self._engine = engine
        everything = np.arange(len(engine.scoring.rows))
        fold_of = resampling.folds(n_folds, rng) if n_folds else np.full(len(everything), -1)
        self.folds = [np.flatnonzero(fold_of == k) for k in range(fold_of.max() + 1)]
        self.resamples = resampling.draw(everything, n_resamples, rng)
        self._rest = [np.flatnonzero(fold_of != k) for k in range(len(self.folds))]
        self._of_rest = [resampling.draw(rest, _RESAMPLES_OF_REST, rng) for rest in self._rest]
        self._known: dict[tuple[int, int | None, int], np.ndarray] = {}

    def resampled(self, index: int, without: int | None = None) -> np.ndarray:
        """Scores of one observation on the resamples that leave out fold `without`."""
        key = (index, without, self._engine.revision)
        if key not in self._known:
            bags = self.resamples if without is None else self._of_rest[without]
            self._known[key] = self._engine.resampled(index, bags)
        return self._known[key]

    def standard_error(self, index: int, reference: int) -> float:
        """Return the paired standard error of a gain over `reference`."""
        return spread(self.resampled(index) - self.resampled(reference))

    def winners(self, candidates: list[int], without: int | None = None) -> np.ndarray:
        """Return which of the observations `candidates` wins each resample.

        Parameters
        ----------
        candidates : list of int
            Indices of observations, the one to measure against first.
        without : int or None
            Selection fold whose rows have no say.

        Returns
        -------
        ndarray of int
            One index per resample.
        """
        full = self._engine.scores
        known = sorted(filter(self._engine.remembers, candidates), key=lambda i: -full[i])
        alive = known[: 2 * _CONTENDERS]
        scores = {i: self.score(i, without) for i in alive}
        ranked = sorted(alive, key=lambda i: (-scores[i], i))[:_CONTENDERS]
        noise = self._noise(ranked[0], candidates[0], without)
        contenders = [i for i in ranked if scores[i] >= scores[ranked[0]] - _STILL_WINS * noise]
        table = np.stack([self.resampled(i, without) for i in contenders])
        return np.array(contenders)[np.where(np.isfinite(table), table, -np.inf).argmax(0)]

    def _noise(self, leader: int, reference: int, without: int | None) -> float:
        gains = self.resampled(leader, without) - self.resampled(reference, without)
        return spread(gains) if np.isfinite(gains).any() else 0.0

    def score(self, index: int, without: int | None) -> float:
        """Score on all rows, or on all but one fold's."""
        if without is None:
            score = self._engine.scores[index]
        else:
            score = self._engine.resampled(index, [self._rest[without]])[0]
        return score if np.isfinite(score) else -np.inf


def spread(gains: np.ndarray) -> float:
    """Return the standard deviation of resampled gains; infinite if none is known."""
    return float(np.nanstd(gains)) if np.isfinite(gains).any() else np.inf
