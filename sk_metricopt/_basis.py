"""Basis functions: how much a row is a member of what weights may differ between."""

from __future__ import annotations

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

_MOST_GROUPS = 20  # of one basis; columns of more values are numbers to be binned
_CALLER = "PostShiftClassifier"


class Basis:
    """What the parameter `basis` stands for.

    Parameters
    ----------
    basis : "class", callable or array-like
        One function that is 1 everywhere; a callable that returns the values of the functions; or
        columns of `X` whose values name groups.
    """

    def __init__(self, basis):
        self._basis = basis
        self._groups: list[tuple] = []
        self._n_basis: int | None = None  # not known before fit

    @property
    def is_class(self) -> bool:
        """Whether weights are the same for all rows."""
        return isinstance(self._basis, str) and self._basis == "class"

    def fit(self, X) -> np.ndarray:
        """Learn groups and return values (n_samples, n_basis).

        Raises
        ------
        ValueError, TypeError
            If there is nothing to weight apart.
        """
        if not self.is_class and not callable(self._basis):
            self._groups = sorted(set(self._keys(X)), key=repr)
            if not 2 <= len(self._groups) <= _MOST_GROUPS:
                raise ValueError(
                    f"The 'basis' parameter of {_CALLER} must name columns of 2 to {_MOST_GROUPS} "
                    f"groups. Got {len(self._groups)} groups in columns {self._columns()!r}. Bin "
                    "numbers and join rare groups, or pass a callable that does."
                )
        membership = self.membership(X)
        _check_independent(membership)
        self._n_basis = membership.shape[1]
        return membership

    def membership(self, X) -> np.ndarray:
        """Return values (n_samples, n_basis) of the basis functions.

        Raises
        ------
        ValueError, TypeError
            If a callable returns anything else, or a group is new.
        """
        n_rows = _num_samples(X)
        if self.is_class:
            return np.ones((n_rows, 1))
        if callable(self._basis):
            return _checked(self._basis(X), n_rows, self._n_basis)
        known = {key: m for m, key in enumerate(self._groups)}
        keys = self._keys(X)
        new = sorted({repr(key) for key in keys if key not in known})
        if new:
            raise ValueError(
                f"The 'X' parameter of {_CALLER} must hold groups seen among the validation rows "
                f"of fit, {self._groups!r}. "
                f"Got {', '.join(new[:5])} besides. Drop these rows, or join rare groups before "
                "fit."
            )
        return np.eye(len(known))[[known[key] for key in keys]]

    def _columns(self) -> list:
        columns = np.asarray(self._basis).ravel()
        return (np.flatnonzero(columns) if columns.dtype == bool else columns).tolist()

    def _keys(self, X) -> list[tuple]:
        """The group of each row: its values in the columns."""
        X = np.asarray(X, dtype=object) if isinstance(X, list) else X
        try:
            columns = [_as_list(_safe_indexing(X, column, axis=1)) for column in self._columns()]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The 'basis' parameter of {_CALLER} must be 'class', a callable, or columns of X "
                f"by position or name. Got {self._basis!r}, which failed ({error}). Name columns "
                "that X has."
            ) from error
        return list(zip(*columns, strict=True))


def _as_list(column) -> list:
    array = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
    # Missing values are a group as well, and one is like the other.
    return [None if _is_missing(value) else value for value in array.ravel().tolist()]


def _is_missing(value) -> bool:
    try:
        return bool(value != value)
    except TypeError:  # what pandas says of its own missing value
        return True


def _checked(values, n_rows: int, n_basis: int | None) -> np.ndarray:
    """Return what a callable gave as floats, or say what is wrong with it."""
    expected = (
        f"The 'basis' parameter of {_CALLER} must return numbers of at least 0, of shape "
        "(n_samples, n_basis), a positive one in every row."
    )
    try:
        dense = values.toarray() if hasattr(values, "toarray") else values
        membership = np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{expected} It failed ({error}). Return an array of floats.") from error
    if membership.ndim != 2 or len(membership) != n_rows or not membership.shape[1]:
        raise ValueError(
            f"{expected} Got shape {membership.shape} for {n_rows} rows. Return a column each."
        )
    if n_basis not in (None, membership.shape[1]):
        raise ValueError(
            f"{expected} Got {membership.shape[1]} columns, and {n_basis} in fit. Fit what it "
            "computes to the training rows once."
        )
    if not np.isfinite(membership).all() or membership.min() < 0:
        raise ValueError(f"{expected} Got negative, infinite or missing numbers. Clip them.")
    if not membership.sum(axis=1).all():
        row = int(np.flatnonzero(membership.sum(axis=1) == 0)[0])
        raise ValueError(
            f"{expected} Got zeros only in row {row}. Add a column for what is in no other."
        )
    return membership


def _check_independent(membership: np.ndarray) -> None:
    """Raise ValueError for functions that are empty, or can be had from the others."""
    empty = np.flatnonzero(membership.sum(axis=0) == 0)
    if len(empty):
        raise ValueError(
            f"The 'basis' parameter of {_CALLER} must have members of every basis function among "
            f"the validation rows. Got none for {empty.tolist()}. Leave these out, or have more "
            "rows validate."
        )
    rank = np.linalg.matrix_rank(membership)
    if rank < membership.shape[1]:
        raise ValueError(
            f"The 'basis' parameter of {_CALLER} must be linearly independent functions: the "
            "system of equations for the weights of others is singular, they cannot be told apart. "
            f"Got rank {rank} of {membership.shape[1]} on the validation rows. Drop columns that "
            "others add up to."
        )
