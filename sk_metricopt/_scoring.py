"""The scorer, and the rows it is asked on."""

from __future__ import annotations

import copy
import datetime
import math
import numbers
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.sparse import issparse
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params

_IMMUTABLE = (str, bytes, numbers.Number, type(None), np.generic, datetime.date, datetime.timedelta)
_FLAT = ("csr", "csc", "bsr", "coo", "dia")  # sparse formats that are arrays of numbers, no more
_COPY_FIRST = (
    "what a scorer is given is lent to it, and arrays are read-only. Have it change a copy, as in "
    "X = X.copy()"
)


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


# lending ----------------------------------------------------------------------------------------


class Lent:
    """Rows as a scorer is given them: what it does to them reaches nobody else.

    Parameters
    ----------
    X : array-like

    Attributes
    ----------
    X : array-like
        The same rows: a read-only view of arrays and sparse matrices, of which there may be much;
        a copy of what has no read-only.
    """

    def __init__(self, X):
        self._of = X
        self.X = lent(X)
        self._arrays = _read_only_arrays(self.X)

    def __reduce__(self):
        return Lent, (self._of,)  # pickled alone, a view would be writable

    def still_is(self, X) -> bool:
        """Whether `X` is what was lent, and unchanged."""
        if X is not self.X:
            return False
        if not self._arrays:
            return _same(X, self._of)
        now = _read_only_arrays(X)
        return len(now) == len(self._arrays) and all(map(_is, now, self._arrays))


def lent(values):
    """Return the same values for a scorer to do with as it likes, or that refuse to be changed."""
    if type(values) is dict:
        return {key: lent(value) for key, value in values.items()}
    if type(values) in (np.ndarray, np.memmap) and _immutable_inside(values):
        return _read_only(values)
    if issparse(values) and values.format in _FLAT:
        return _read_only_sparse(values)
    if type(values).__module__.startswith("pandas.") and hasattr(values, "iloc"):
        return values.copy(deep=int(sys.modules["pandas"].__version__.split(".")[0]) < 3)
    if type(values) is list and all(isinstance(v, _IMMUTABLE) for v in values):
        return values.copy()
    try:
        return copy.deepcopy(values)
    except Exception:  # noqa: BLE001  whatever its copying raises: an open file, say
        return values


def _lent_data(value):
    """Lend metadata; an object that is no data may be meant to be this one."""
    is_data = isinstance(value, dict | list | tuple | set) or hasattr(value, "shape")
    return lent(value) if is_data else value


def _immutable_inside(array: np.ndarray) -> bool:
    return array.dtype.kind != "O" or all(isinstance(v, _IMMUTABLE) for v in array.flat)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _read_only_sparse(matrix):
    """Return another matrix of the same numbers, in canonical order: scipy may sort in place."""
    if matrix.format in ("csr", "csc") and not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    view = copy.copy(matrix)
    for name, value in vars(matrix).items():
        if isinstance(value, np.ndarray):
            setattr(view, name, _read_only(value))
        elif isinstance(value, tuple) and all(isinstance(v, np.ndarray) for v in value):
            setattr(view, name, tuple(map(_read_only, value)))
    return view


def _read_only_arrays(values) -> list[np.ndarray]:
    """Return the arrays that `values` is made of, if nobody can write into any of them."""
    arrays = [values] if isinstance(values, np.ndarray) else []
    if issparse(values) and values.format in _FLAT:
        for value in vars(values).values():
            parts = value if isinstance(value, tuple) else (value,)
            arrays += [part for part in parts if isinstance(part, np.ndarray)]
    return [] if any(a.flags.writeable for a in arrays) else arrays


def _is(a, b) -> bool:
    return a is b


def _same(a, b) -> bool:
    """Whether contents are equal, as far as that can be told."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if hasattr(a, "equals"):  # data frames
        return bool(a.equals(b))
    if issparse(a):
        return a.shape == b.shape and not (a != b).nnz
    if isinstance(a, np.ndarray) and a.dtype.kind == "O":
        return a.shape == b.shape and all(map(_same, a.flat, b.flat))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    try:
        return bool(a == b)
    except Exception:  # noqa: BLE001  lists of arrays do not say whether they are equal
        inside = isinstance(a, list | tuple) and len(a) == len(b)
        return inside and all(map(_same, a, b))


ANY_ROWS = Lent(np.empty(0))  # for a scorer that hands X to the estimator without a look


def scorer_name(scoring, scorer) -> str:
    """Return what people call the metric; a scorer of make_scorer goes by its function."""
    if isinstance(scoring, str):
        return scoring
    if isinstance(scorer, _BaseScorer):
        function = getattr(scorer._score_func, "__name__", repr(scorer._score_func))
        options = ", ".join(f"{name}={value!r}" for name, value in scorer._kwargs.items())
        name = function.removesuffix("_score") + (options and f"({options})")
        return name if scorer._sign > 0 else f"neg_{name}"
    names = (getattr(scorer, name, None) for name in ("short_name", "__name__"))
    return next(filter(None, names), f"{scorer!r:.80}")


def next_step(scorer, labels: np.ndarray, error: Exception) -> str:
    """Return what to do about a scorer that failed."""
    if not isinstance(scorer, _BaseScorer) or "pos_label" not in str(error):
        return "Try scorer(estimator, X_val, y_val) by hand on any fitted estimator of this kind."
    known = np.unique(labels).tolist()
    return (
        f"The labels are {known!r:.200}: pass a scorer that knows which one is positive, such as "
        f"{_with_positive_label(scorer, known[-1])}."
    )


def _with_positive_label(scorer: _BaseScorer, label) -> str:
    """Return the call of make_scorer that makes this scorer with another positive label."""
    usual = {"average": "binary", "response_method": "predict", "greater_is_better": True}
    options = {
        "response_method": scorer._response_method,
        "greater_is_better": scorer._sign > 0,
        **scorer._kwargs,
        "pos_label": label,
    }
    said = [f"{name}={value!r}" for name, value in options.items() if usual.get(name) != value]
    return f"make_scorer({', '.join([scorer._score_func.__name__, *said])})"


# scoring ----------------------------------------------------------------------------------------


class Response(Protocol):
    """What a candidate answers on the validation rows, ready to be scored.

    One that is pickled carries the real model behind it, where the scorer may ask for that.
    """

    @property
    def scoring(self) -> Scoring:
        """What scores it, and counts that."""

    def with_scoring(self, scoring) -> Response:
        """Return the same answers, to be scored by another scoring."""

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
    by_query : bool
        One call tells the score on any rows: the scorer is not asked on resamples.
    """

    by_query: bool = False

    def __init__(self, scorer: Callable, rows: ValidationRows):
        self.scorer = scorer
        self.rows = rows
        self.n_calls = 0

    def given(self, rows: np.ndarray | None) -> tuple[Lent, np.ndarray, dict]:
        """Return X, y and metadata of the rows asked for, all of them lent."""
        if rows is None:
            y, params = self.rows.y.copy(), self.rows.params
        else:
            y, params = self.rows.y[rows], self.rows.params_of(rows)
        return self.X_of(rows), y, {name: _lent_data(value) for name, value in params.items()}

    def X_of(self, rows: np.ndarray | None) -> Lent:
        """Return `X` of the rows asked for."""
        return Lent(self.rows.X if rows is None else _safe_indexing(self.rows.X, rows))

    def ask(self, candidate, X, y: np.ndarray, params: dict) -> float:
        """Call the scorer once.

        Raises
        ------
        TypeError, ValueError
            If it returns anything but one finite number.
        """
        self.n_calls += 1
        try:
            value = self.scorer(candidate, X, y, **params)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise ValueError(f"{error}; {_COPY_FIRST}") from error
        return _finite(value)

    def must_work_on(self, rows: np.ndarray) -> bool:
        """Whether a scorer that fails on these rows would fail on too many."""
        return len(np.unique(self.rows.y[rows])) == len(np.unique(self.rows.y))


def _finite(value) -> float:
    number = value.item() if getattr(value, "shape", None) == () else value  # array, tensor
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise TypeError(f"it returned {value!r:.200} instead of a number")
    if not math.isfinite(number):
        raise ValueError(f"it returned {number!r}, which is not finite")
    return float(number)


def apart(response: Response) -> Response:
    """Return the same answers with a scoring of their own, which counts calls from zero."""
    scoring = copy.copy(response.scoring)
    scoring.n_calls = 0
    return response.with_scoring(scoring)
