"""Folds and resamples of the validation rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Resampling(ABC):
    """How validation rows are dealt into folds and drawn again."""

    @abstractmethod
    def folds(self, n_folds: int, rng: np.random.RandomState) -> np.ndarray:
        """Return the fold of each row; none is empty if there are as many rows or groups."""

    @abstractmethod
    def draw(self, rows: np.ndarray, n: int, rng: np.random.RandomState) -> list[np.ndarray]:
        """Return `n` resamples of `rows`, each sorted.

        Scores on them spread about as much as scores on another validation set would.
        """


class StratifiedResampling(Resampling):
    """Folds and bootstraps that keep the share of each stratum.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Stratum of each row.
    """

    def __init__(self, y: np.ndarray):
        self.y = y

    def folds(self, n_folds: int, rng: np.random.RandomState) -> np.ndarray:
        """Return the fold of each row, every stratum spread as evenly as it goes."""
        return stratified_folds(self.y, min(n_folds, len(self.y)), rng)

    def draw(self, rows: np.ndarray, n: int, rng: np.random.RandomState) -> list[np.ndarray]:
        """Return `n` bootstraps of `rows`; each keeps the counts of strata."""
        strata = [rows[self.y[rows] == label] for label in np.unique(self.y[rows])]
        drawn = (np.concatenate([rng.choice(s, len(s)) for s in strata]) for _ in range(n))
        return [np.sort(bag.astype(np.int32)) for bag in drawn]  # half of what a run holds per row


class GroupedResampling(Resampling):
    """Folds and halves of whole groups, such as the items of one class.

    A search among resampled rows must not meet a row twice: it would find itself. So half of the
    groups are drawn, each once. As a sample half as large, drawn without replacement from twice as
    many, its scores spread as those of the whole do from one validation set to another (the
    delete-half jackknife).

    Parameters
    ----------
    groups : ndarray of shape (n_samples,)
        Group of each row.
    """

    def __init__(self, groups: np.ndarray):
        self.groups = groups

    def folds(self, n_folds: int, rng: np.random.RandomState) -> np.ndarray:
        """Return the fold of each row, one for all rows of a group."""
        names, group_of = np.unique(self.groups, return_inverse=True)
        return (rng.permutation(len(names)) % min(n_folds, len(names)))[group_of]

    def draw(self, rows: np.ndarray, n: int, rng: np.random.RandomState) -> list[np.ndarray]:
        """Return `n` halves of the groups in `rows`."""
        groups = self.groups[rows]
        names = np.unique(groups)
        half = max(1, len(names) // 2)
        return [rows[np.isin(groups, rng.permutation(names)[:half])] for _ in range(n)]


def stratified_folds(y: np.ndarray, n_folds: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the fold of each row, every class spread as evenly as it goes."""
    order = np.concatenate([rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)])
    folds = np.empty(len(y), dtype=np.intp)
    folds[order] = np.arange(len(y)) % n_folds  # dealt in turn: no fold is empty
    return folds
