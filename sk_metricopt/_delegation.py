"""What a fitted finetuner answers: the methods of the estimator it holds."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sk_metricopt import _skorch, _validation
from sk_metricopt._random import preserved
from sk_metricopt._roles import is_retriever


def _estimator_has(attr: str):
    """Whether the estimator that is wrapped, fitted or not, has `attr`."""

    def check(self) -> bool:
        estimator = getattr(self, "estimator_", self.estimator)
        if isinstance(estimator, torch.nn.Module):
            return attr in ("predict", "predict_proba")
        return getattr(estimator, attr) is not None

    return check


def _searches(attr: str):
    """Whether a retriever is wrapped, and has `attr`."""

    def check(self) -> bool:
        if not is_retriever(self.estimator):
            kind = type(self.estimator).__name__
            raise AttributeError(f"{attr!r} is for an EmbeddingRetriever. Got {kind} instead.")
        return True

    return check


class DelegationMixin:
    """Methods of a classifier or retriever, where the wrapped estimator has them."""

    _sklearn_auto_wrap_output_keys = frozenset({"transform"})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimator_")

    def _as_it_came(self):
        """Return this estimator around the net before it was finetuned."""
        if not hasattr(self, "initial_estimator_"):
            raise ValueError(
                "The model as it came is needed to compare with. Got a MetricOptFinetuner whose "
                "initial_estimator_ was deleted. Compare before that, or fit again."
            )
        model = copy.copy(self)
        model.estimator_ = self.initial_estimator_
        return model

    def _checked(self, X) -> np.ndarray:
        check_is_fitted(self)
        return _validation.features(self, X, self._dtype)

    def _net_proba(self, X) -> np.ndarray:
        X = self._checked(X)
        with preserved():
            return self.estimator_.predict_proba(X)

    @available_if(_estimator_has("predict"))
    def predict(self, X):
        """Predict labels: a classifier's decision, a retriever's nearest gallery item.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        if is_retriever(self.estimator):
            rows = self._checked(X)
            return self.estimator_.predict(rows)
        proba = self._net_proba(X)
        return self.classes_[_skorch.NetBridge(self.estimator_).decide(proba)]

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X):
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        proba = self._net_proba(X).astype(np.float64)
        return proba / proba.sum(axis=1, keepdims=True)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X):
        """Return the wrapped estimator's own decision function, where it has one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray
            A retriever's similarities (n_samples, n_gallery).
        """
        X = self._checked(X)
        with preserved():
            return self.estimator_.decision_function(X)

    @available_if(_searches("transform"))
    def transform(self, X):
        """Return embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        rows = self._checked(X)
        embeddings = np.asarray(self.estimator_.transform(rows))  # it may be set to give frames
        return _wrap_data_with_container("transform", embeddings, X, self)

    @available_if(_searches("fit_transform"))
    def fit_transform(self, X, y, **params):
        """Fit, and return embeddings of the rows of `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
        **params : dict
            What else `fit` takes.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        return self.fit(X, y, **params).transform(X)

    @available_if(_searches("kneighbors"))
    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        """Find the nearest gallery items of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features) or (n_queries, ...), default=None
            Queries. If None, the gallery items are the queries, and none is its own neighbour.
        n_neighbors : int, default=None
            Neighbours per query. If None, the retriever's `n_neighbors`.
        return_distance : bool, default=True
            Whether to return the distances too.

        Returns
        -------
        distance : ndarray of shape (n_queries, n_neighbors)
            Only if `return_distance`.
        index : ndarray of shape (n_queries, n_neighbors)
            Rows of the gallery, which are the rows of `fit` unless `set_gallery` replaced them.
        """
        check_is_fitted(self)
        queries = None if X is None else self._checked(X)
        return self.estimator_.kneighbors(queries, n_neighbors, return_distance)

    @property
    def gallery_embeddings_(self) -> np.ndarray:
        """Embeddings of a retriever's gallery."""
        return self.estimator_.gallery_embeddings_

    @property
    def gallery_labels_(self) -> np.ndarray:
        """Labels of a retriever's gallery."""
        return self.estimator_.gallery_labels_

    @available_if(_searches("set_gallery"))
    def set_gallery(self, X, y=None):
        """Replace the gallery.

        Parameters
        ----------
        X : array-like of shape (n_gallery, n_features) or (n_gallery, ...)
        y : array-like of shape (n_gallery,), default=None
            Its labels; `predict` needs them.

        Returns
        -------
        self : MetricOptFinetuner
        """
        rows = self._checked(X)
        self.estimator_.set_gallery(rows, y)
        return self

    @available_if(_searches("get_feature_names_out"))
    def get_feature_names_out(self, input_features=None):
        """Return names of the embeddings' columns.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of str of shape (n_components,)
        """
        check_is_fitted(self)
        return self.estimator_.get_feature_names_out()

    @available_if(_searches("set_output"))
    def set_output(self, *, transform=None):
        """Say in which container `transform` returns embeddings.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            None leaves it as it is.

        Returns
        -------
        self : MetricOptFinetuner
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self
