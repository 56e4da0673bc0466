"""Stratified folds and bootstraps of the validation rows."""

from __future__ import annotations

import numpy as np


def stratified_folds(y: np.ndarray, n_folds: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the fold of each row, every class spread as evenly as it goes."""
    order = np.concatenate([rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)])
    folds = np.empty(len(y), dtype=np.intp)
    folds[order] = np.arange(len(y)) % n_folds  # dealt in turn: no fold is empty
    return folds


def stratified_bootstraps(y: np.ndarray, n: int, rng: np.random.RandomState) -> list[np.ndarray]:
    """Return `n` bootstraps as sorted row indices; each keeps the class counts of `y`."""
    classes = [np.flatnonzero(y == label) for label in np.unique(y)]
    return [
        np.sort(np.concatenate([rng.choice(rows, len(rows)) for rows in classes])) for _ in range(n)
    ]
