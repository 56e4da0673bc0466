"""EmbeddingRetriever: what scikit-learn sees of search by embeddings."""

from __future__ import annotations

import copy
from numbers import Integral

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_consistent_length, column_or_1d, get_tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted

from sk_metricopt import _embedding_net, _skorch, _validation
from sk_metricopt._gallery_index import (
    GalleryIndex,
    as_tensor,
    build_index,
    check_choice,
    check_index,
    check_n_neighbors,
    read_only,
)
from sk_metricopt._html import HTMLMixin
from sk_metricopt._onnx_mixin import OnnxMixin
from sk_metricopt._random import draw_seed, preserved, seeded
from sk_metricopt._search import METRICS, similarities
from sk_metricopt.metrics import make_retrieval_scorer


class SearchMixin:
    """Search by embeddings, for whatever has a gallery and turns rows into queries.

    Everything follows, at the time of the call, from ``transform(X)``, ``gallery_embeddings_``,
    ``gallery_labels_`` and the parameters ``metric``, ``n_neighbors`` and ``index``.
    """

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        """Find the nearest gallery items of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features) or (n_queries, ...), default=None
            Queries. If None, the gallery items are the queries, and none is its own neighbour.
        n_neighbors : int, default=None
            Neighbours per query. If None, the parameter of the constructor.
        return_distance : bool, default=True
            Whether to return the distances too.

        Returns
        -------
        distance : ndarray of shape (n_queries, n_neighbors)
            Ascending: 1 - cosine, the Euclidean distance, or minus the dot product. Only if
            `return_distance`.
        index : ndarray of shape (n_queries, n_neighbors)
            Rows of the gallery.

        Raises
        ------
        ValueError
            If the gallery was never set or holds fewer than `n_neighbors` items.
        """
        self._check_gallery()
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        gallery = self.gallery_embeddings_
        check_n_neighbors(k, len(gallery), X is None)
        if X is None:
            found = self._gallery_index().search(gallery, k, np.arange(len(gallery)))
        else:
            found = self._gallery_index().search(np.asarray(self.transform(X)), k)
        similarity, index = found
        return (_distance(similarity, self.metric), index) if return_distance else index

    def decision_function(self, X):
        """Return the similarity of each query to each gallery item.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features) or (n_queries, ...)

        Returns
        -------
        ndarray of shape (n_queries, n_gallery)
            Cosine, dot product or minus the Euclidean distance: greater is nearer.
        """
        self._check_gallery()
        queries = as_tensor(np.asarray(self.transform(X)))
        return similarities(queries, as_tensor(self.gallery_embeddings_), self.metric).numpy()

    def predict(self, X):
        """Return the label of the nearest gallery item.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features) or (n_queries, ...)

        Returns
        -------
        ndarray of shape (n_queries,)

        Raises
        ------
        ValueError
            If the gallery was set without labels.
        """
        self._check_gallery()
        if self.gallery_labels_ is None:
            raise ValueError(
                "EmbeddingRetriever.predict needs the labels of the gallery, which was set without "
                "any. Call set_gallery(X, y) with a label per row, or use kneighbors."
            )
        index = self.kneighbors(X, n_neighbors=1, return_distance=False)
        return self.gallery_labels_[index[:, 0]]

    def score(self, X, y):
        """Return recall@1 where the rows of `X` search each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
            Labels; rows alone with theirs do not count.

        Returns
        -------
        float
            Share of rows whose nearest other row has their label.
        """
        check_is_fitted(self)
        return make_retrieval_scorer("recall_at_k", k=1)(self, X, y)

    def _check_gallery(self) -> None:
        check_is_fitted(self)
        if not hasattr(self, "gallery_embeddings_"):
            raise ValueError(
                "The gallery of this EmbeddingRetriever was never set. Call set_gallery(X, y)."
            )

    def _gallery_index(self) -> GalleryIndex:
        return build_index(self.index, self.metric, self.gallery_embeddings_)


class EmbeddingRetriever(
    SearchMixin,
    HTMLMixin,
    OnnxMixin,
    MetaEstimatorMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Search by the embeddings of a torch net.

    The net maps rows to vectors; rows given to `fit` or `set_gallery` become the gallery, and
    queries find what lies near them in it. `MetricOptFinetuner` finetunes the net of a retriever
    towards what search is judged by, such as recall@k.

    Parameters
    ----------
    estimator : skorch.NeuralNet, FrozenEstimator or torch.nn.Module
        An unfitted net, whose module returns embeddings (n_samples, n_components) and whose
        criterion is called with embeddings and labels, is cloned and trained. A
        ``FrozenEstimator`` around a fitted one is copied and used as it is; around any other
        fitted estimator with ``transform``, that is used. An initialised module is wrapped and
        counts as pre-trained. Of a module that returns a tuple the first counts.
    metric : {"cosine", "dot", "euclidean"}, default="cosine"
        How embeddings are compared. With "cosine" they have length 1.
    n_neighbors : int, default=5
        Neighbours that `kneighbors` returns unless told otherwise.
    index : {"auto", "exact", "faiss"} or object, default="auto"
        How neighbours are found. "auto" and "exact" compare each query with the whole gallery,
        "faiss" does so with faiss' flat index. An object with scikit-learn's ``fit`` and
        ``kneighbors``, exact or approximate, is cloned and fitted on the gallery's embeddings;
        its own metric must rank as `metric` does. With "dot" none of scikit-learn's do.
    miner : callable, default=None
        ``miner(embeddings, labels)`` picks pairs or triplets of a batch, which the criterion is
        given as third argument; any miner of ``pytorch_metric_learning``.
    random_state : int, RandomState instance or None, default=None
        Seeds training. Global random streams are left as they were.

    Attributes
    ----------
    estimator_ : skorch.NeuralNet or transformer
        The net, fitted on labels encoded from 0, or the transformer.
    gallery_embeddings_ : ndarray of shape (n_gallery, n_components)
        Embeddings of the gallery, read-only.
    gallery_labels_ : ndarray of shape (n_gallery,) or None
        Labels of the gallery.
    index_ : object
        What finds neighbours in the gallery.
    n_features_in_ : int
        Number of features, for two-dimensional `X`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where `X` has string column names.
    history_ : skorch.History
        Of the net's training, where it was trained.

    See Also
    --------
    MetricOptFinetuner : Finetunes a retriever towards a metric of search.
    sk_metricopt.metrics.make_retrieval_scorer : A scorer of search.

    Notes
    -----
    A batch must hold several rows of a label for most criteria to learn from it: give the net
    ``iterator_train__shuffle=True``, or a sampler, where rows are sorted by label.

    Examples
    --------
    >>> import torch
    >>> from pytorch_metric_learning.losses import SupConLoss
    >>> from sklearn.datasets import load_digits
    >>> from skorch import NeuralNet
    >>> from sk_metricopt import EmbeddingRetriever
    >>> X, y = load_digits(return_X_y=True)
    >>> net = NeuralNet(
    ...     torch.nn.Linear,
    ...     module__in_features=64,
    ...     module__out_features=16,
    ...     criterion=SupConLoss,
    ...     max_epochs=3,
    ...     train_split=None,
    ...     iterator_train__shuffle=True,
    ...     verbose=0,
    ... )
    >>> retriever = EmbeddingRetriever(net, random_state=0).fit(X[:900], y[:900])
    >>> retriever.kneighbors(X[900:], n_neighbors=3, return_distance=False).shape
    (897, 3)
    >>> retriever.score(X[900:], y[900:]) > 0.9
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"]), torch.nn.Module],
        "metric": "no_validation",  # _check_choice says what was meant
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "index": "no_validation",
        "miner": [callable, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator,
        *,
        metric="cosine",
        n_neighbors=5,
        index="auto",
        miner=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.index = index
        self.miner = miner
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Train the net where needed, and set the gallery.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Rows to train on, and the gallery. What an estimator with ``transform`` is given is
            left to it.
        y : array-like of shape (n_samples,), default=None
            Labels of any type. Needed where a net is trained.

        Returns
        -------
        self : EmbeddingRetriever

        Raises
        ------
        ValueError, TypeError
            If the input cannot work; the message names the parameter and the next step.
        ImportError
            If faiss is asked for and missing.
        """
        check_choice("metric", self.metric, METRICS)
        check_index(self.index, self.metric)
        _embedding_net.check_estimator_kind(self.estimator)
        self._check_labels_given(y)
        for name in list(vars(self)):  # a fit that fails leaves no fitted estimator
            if name.endswith("_") or name == "_sample_shape":
                delattr(self, name)
        with seeded(draw_seed(self.random_state), self._device()):
            X, y = self._checked(X, y, reset=True)
            estimator = self._embedder(X, y)
            embeddings = _embedding_net.embed(estimator, X, self.metric)
        self.estimator_ = estimator
        if not _embedding_net.is_pretrained(self.estimator):
            self.history_ = estimator.history
        self._n_features_out = embeddings.shape[1]
        self._fitted_metric = self.metric
        self._set_gallery(embeddings, y)
        return self

    def _validate_params(self):
        _validation.check_instance(self.estimator, type(self).__name__)
        super()._validate_params()

    def set_gallery(self, X, y=None):
        """Replace the gallery; the net stays as it is.

        Parameters
        ----------
        X : array-like of shape (n_gallery, n_features) or (n_gallery, ...)
            The new gallery. Its embeddings are kept, not its rows.
        y : array-like of shape (n_gallery,), default=None
            Its labels; `predict` needs them.

        Returns
        -------
        self : EmbeddingRetriever
        """
        check_is_fitted(self)
        check_index(self.index, self.metric)
        X, y = self._checked(X, y, reset=False)
        self._set_gallery(self._embedded(X), y)
        return self

    def transform(self, X):
        """Return embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Of length 1 where the metric is "cosine".
        """
        check_is_fitted(self)
        return self._embedded(self._checked(X, None, reset=False)[0])

    def _embedded(self, X) -> np.ndarray:
        _check_unchanged("metric", self.metric, self._fitted_metric)
        with preserved():
            return _embedding_net.embed(self.estimator_, X, self.metric)

    def _checked(self, X, y, reset: bool):
        """Return `X` as the net takes it, and labels; a transformer takes `X` as it came."""
        if _embedding_net.is_transformer(self.estimator):
            if y is not None:
                y = column_or_1d(_validation.as_array(y))
                check_consistent_length(X, y)
            return X, y
        if reset:
            indices = _skorch.takes_integers(self.estimator) and _validation.holds_integers(X)
            self._dtype = np.int64 if indices else np.float32
        if y is None:
            X = _validation.features(self, X, self._dtype, reset)
        else:
            X, y = _validation.features_and_labels(self, X, y, self._dtype, reset)
        return np.ascontiguousarray(X), y  # torch takes no negative strides

    def _check_labels_given(self, y) -> None:
        if y is None and not _embedding_net.is_pretrained(self.estimator):
            raise ValueError(
                "EmbeddingRetriever requires y to be passed, but the target y is None. Pass a "
                "label per row to train the net on, or wrap a fitted net in FrozenEstimator to "
                "search without labels."
            )

    def _device(self) -> torch.device:
        if _embedding_net.is_transformer(self.estimator):
            return torch.device("cpu")
        return _skorch.device_of(self.estimator)

    def _embedder(self, X, y):
        """Return the fitted net or transformer."""
        if isinstance(self.estimator, torch.nn.Module):
            net = _embedding_net.net_around(self.estimator)
        elif not _embedding_net.is_pretrained(self.estimator):
            _validation.check_labels(y)
            labels = np.unique(y, return_inverse=True)[1]
            net = _embedding_net.trained_net(self.estimator, X, labels, self.miner)
        elif _embedding_net.is_transformer(self.estimator):
            return self._take_transformer()
        else:
            net = _embedding_net.frozen_net(self.estimator)
        _embedding_net.EmbeddingBridge(net, self.metric).check_output(X)
        return net

    def _take_transformer(self):
        transformer = self.estimator.estimator
        _check_metric_of(transformer, self.metric)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(transformer, name):
                setattr(self, name, getattr(transformer, name))
        return transformer

    def _set_gallery(self, embeddings: np.ndarray, labels: np.ndarray | None) -> None:
        self.index_ = build_index(self.index, self.metric, embeddings)
        self._fitted_index = self.index
        self.gallery_embeddings_ = self.index_.embeddings = read_only(embeddings)
        self.gallery_labels_ = labels

    def _check_gallery(self) -> None:
        super()._check_gallery()
        _check_unchanged("metric", self.metric, self._fitted_metric)
        _check_unchanged("index", self.index, self._fitted_index, " or set_gallery")

    def _gallery_index(self) -> GalleryIndex:
        built, gallery = self.index_, self.gallery_embeddings_
        same = built.embeddings is gallery or np.array_equal(built.embeddings, gallery)
        return built if same else super()._gallery_index()

    def _bridge(self) -> _embedding_net.EmbeddingBridge:
        """Return what the engine and the export need of the fitted net."""
        check_is_fitted(self)
        if _embedding_net.is_transformer(self.estimator_):
            raise TypeError(
                "The 'estimator' parameter of EmbeddingRetriever must be a skorch net or a "
                "torch.nn.Module for this. Got a "
                f"{type(self.estimator_).__name__}, which can only be searched by."
            )
        _check_unchanged("metric", self.metric, self._fitted_metric)
        return _embedding_net.EmbeddingBridge(self.estimator_, self.metric)

    def _with_module(self, module, X_gallery=None, y_gallery=None) -> EmbeddingRetriever:
        """Return a retriever like this one around `module`, its gallery `X_gallery` if given.

        Without it there is no gallery: the embeddings of this one are another module's.
        """
        other = copy.copy(self)
        other.estimator_ = self._bridge().with_module(module)
        for name in ("gallery_embeddings_", "gallery_labels_", "index_"):
            other.__dict__.pop(name, None)
        return other if X_gallery is None else other.set_gallery(X_gallery, y_gallery)

    def _criterion_module(self):
        """Return the net's criterion, called with embeddings and labels; the miner is in it."""
        criterion = self._bridge().net.criterion_
        if self.miner is None or isinstance(criterion, _embedding_net.MinedCriterion):
            return criterion
        return _embedding_net.MinedCriterion(criterion, self.miner)

    def __getstate__(self):
        state = dict(super().__getstate__())
        if "gallery_embeddings_" in state:  # joblib would store what both hold twice
            state["index_"] = copy.copy(self._gallery_index())
            state["index_"].embeddings = None
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "gallery_embeddings_" in state:
            self.gallery_embeddings_ = read_only(self.gallery_embeddings_)
            self.index_.embeddings = self.gallery_embeddings_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimator_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.target_tags.required = not _embedding_net.is_pretrained(self.estimator)
        if hasattr(self.estimator, "__sklearn_tags__"):
            tags.input_tags = copy.copy(get_tags(self.estimator).input_tags)
        return tags


def _distance(similarity: np.ndarray, metric: str) -> np.ndarray:
    return np.clip(1 - similarity, 0, 2) if metric == "cosine" else -similarity


def _check_unchanged(name: str, value, fitted, also: str = "") -> None:
    if value is not fitted and value != fitted:
        raise ValueError(
            f"The {name!r} parameter of EmbeddingRetriever must be as it was in fit, {fitted!r}. "
            f"Got {value!r} instead: it was changed after fit. Call fit{also} again."
        )


def _check_metric_of(transformer, metric: str) -> None:
    params = transformer.get_params(deep=False) if hasattr(transformer, "get_params") else {}
    made_for = str(getattr(transformer, "metric", None))
    if "metric" in params or made_for not in METRICS:  # a parameter tells of what goes in
        return
    if made_for != metric:
        raise ValueError(
            f"The 'metric' parameter of EmbeddingRetriever must be the one that the embeddings of "
            f"{type(transformer).__name__} are made for, {made_for!r}. Got {metric!r} instead. "
            f"Pass metric={made_for!r}."
        )
