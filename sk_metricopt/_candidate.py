"""The estimator that a scorer sees while candidates are compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.base import ClassifierMixin


class KnownRows:
    """The validation rows, to be recognised in whatever part and order a scorer asks for.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        As the scorer is given it.
    """

    def __init__(self, X):
        self.X = X
        self._row_of: dict | None = None

    def find(self, X) -> np.ndarray | None:
        """Return which rows `X` holds, or None if any of them is another."""
        if self._row_of is None:
            self._row_of = {key: i for i, key in enumerate(_keys(self.X))}
        rows = [self._row_of.get(key) for key in _keys(X)]
        return None if None in rows else np.array(rows, dtype=np.intp)


def _keys(X) -> list:
    """What tells rows apart, whatever container they are in."""
    array = np.asarray(X)
    if array.dtype.kind in "biuf":
        return [row.tobytes() for row in np.ascontiguousarray(array, dtype=np.float64)]
    return [tuple(np.ravel(row).tolist()) for row in array]


class Candidate(ClassifierMixin):
    """A fitted classifier whose answers for the known rows are already there.

    A scorer may call whatever a fitted classifier has. Answers for known rows, in part or whole,
    are looked up: they come from models that did not train on them. For any other X the prediction
    is made for real.

    Parameters
    ----------
    like : Likeness
        What it shares with all candidates: classes, tags, what methods there are.
    proba : ndarray of shape (n_known, n_classes)
    labels : ndarray of shape (n_known,)
    known : KnownRows
        The rows `proba` and `labels` belong to.
    rows : ndarray of int or slice
        Which of them `X` holds.
    X : array-like
        What the scorer is given.
    model : callable
        Returns the real estimator behind this candidate; called only when it is needed.
    """

    def __init__(self, like, proba, labels, known, rows, X, model: Callable[[], object]):
        self.like = like
        self.proba = proba
        self.labels = labels
        self.known = known
        self.rows = rows
        self.X = X
        self.model = model
        self.classes_ = like.classes_

    def __sklearn_tags__(self):
        return self.like.tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getattr__(self, name: str):
        # Only what the class lacks comes here: other fitted attributes and rarer methods.
        # The template is asked first: making the model only to say no would be slow.
        if name.startswith("__") or name in ("like", "model"):
            raise AttributeError(name)
        if not hasattr(self.like.template, name):
            raise AttributeError(f"{type(self.like.template).__name__} has no attribute {name!r}")
        return getattr(self.model(), name)

    def _find(self, X) -> np.ndarray | slice | None:
        return self.rows if X is self.X else self.known.find(X)

    def predict_proba(self, X):
        """Return the probabilities of each class."""
        rows = self._find(X)
        return self.model().predict_proba(X) if rows is None else self.proba[rows].copy()

    def predict(self, X):
        """Return the predicted labels."""
        rows = self._find(X)
        return self.model().predict(X) if rows is None else self.labels[rows].copy()
