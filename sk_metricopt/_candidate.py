"""The estimator that a scorer sees while candidates are compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.base import ClassifierMixin


class Candidate(ClassifierMixin):
    """A fitted classifier whose answers for the known rows are already there.

    A scorer may call whatever a fitted classifier has. For the rows it was given the answers are
    looked up; for any other X the prediction is made for real.

    Parameters
    ----------
    like : Likeness
        What it shares with all candidates: classes, tags, what methods there are.
    proba : ndarray of shape (n_samples, n_classes)
    labels : ndarray of shape (n_samples,)
    X : array-like
        The rows `proba` and `labels` belong to.
    model : callable
        Returns the real estimator behind this candidate; called only when it is needed.
    """

    def __init__(self, like, proba, labels, X, model: Callable[[], object]):
        self.like = like
        self.proba = proba
        self.labels = labels
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

    def _knows(self, X) -> bool:
        if X is self.X:
            return True
        same_shape = getattr(X, "shape", None) == getattr(self.X, "shape", ())
        return same_shape and type(X) is type(self.X) and np.array_equal(X, self.X)

    def predict_proba(self, X):
        """Return the probabilities of each class."""
        return self.proba.copy() if self._knows(X) else self.model().predict_proba(X)

    def predict(self, X):
        """Return the predicted labels."""
        return self.labels.copy() if self._knows(X) else self.model().predict(X)
