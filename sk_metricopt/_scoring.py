"""The scorer, and the rows it is asked on."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params


@dataclass
class ValidationRows:
    """The rows that metric observations are made on, as the user gave them."""

    X: object
    y: np.ndarray
    params: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> ValidationRows:
        """Return some of the rows."""
        return ValidationRows(_safe_indexing(self.X, rows), self.y[rows], self.params_of(rows))

    def params_of(self, rows: np.ndarray) -> dict:
        """Return metadata of some rows; what is not one entry per row is for all of them."""
        return _check_method_params(self.y, self.params, indices=rows)


class Response(Protocol):
    """What a candidate answers on the validation rows, ready to be scored."""

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""


class Scoring:
    """The scorer and the validation rows it is asked on.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y, **params) -> float``, greater is better.
    rows : ValidationRows

    Attributes
    ----------
    n_calls : int
        Calls of the scorer.
    """

    def __init__(self, scorer: Callable, rows: ValidationRows):
        self.scorer = scorer
        self.rows = rows
        self.n_calls = 0

    def given(self, rows: np.ndarray | None) -> tuple[object, np.ndarray, dict]:
        """Return X, y and metadata of the rows asked for."""
        X, y, params = self.rows.X, self.rows.y.copy(), self.rows.params
        if rows is None:
            return X, y, params
        return self.X_of(rows), y[rows], self.rows.params_of(rows)

    def X_of(self, rows: np.ndarray):
        """Return `X` of the rows asked for."""
        return _safe_indexing(self.rows.X, rows)

    def ask(self, candidate, X, y: np.ndarray, params: dict) -> float:
        """Call the scorer once.

        Raises
        ------
        TypeError, ValueError
            If it returns anything but one finite number.
        """
        self.n_calls += 1
        return _finite(self.scorer(candidate, X, y, **params))

    def must_work_on(self, rows: np.ndarray) -> bool:
        """Whether a scorer that fails on these rows would fail on too many."""
        return len(np.unique(self.rows.y[rows])) == len(np.unique(self.rows.y))


def _finite(value) -> float:
    number = value.item() if getattr(value, "shape", None) == () else value  # array, tensor
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise TypeError(f"it returned {value!r} instead of a number")
    if not np.isfinite(number):
        raise ValueError(f"it returned {number!r}, which is not finite")
    return float(number)


def score_apart(response: Response, rows: np.ndarray | None = None) -> tuple[float, int]:
    """Return a score and the calls of the scorer that it took, where nobody counts them."""
    return response.score(rows), 0
