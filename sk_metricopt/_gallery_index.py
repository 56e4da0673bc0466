"""Ways to find the nearest rows of a gallery: exactly, with faiss, or as scikit-learn's do."""

from __future__ import annotations

import difflib
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt._search import Gallery, nearest

INDEXES = ("auto", "exact", "faiss")
_CHUNK = 2**24  # numbers gathered at once where found rows are measured
_DISTANCES = {"euclidean", "l2", "minkowski", "sqeuclidean"}
_PRODUCTS = {"dot", "inner_product", "ip"}
# Names that libraries have for what ranks alike; embeddings of cosine galleries have length 1.
_ALIKE = {
    "cosine": {"cosine", "angular"} | _DISTANCES | _PRODUCTS,
    "dot": _PRODUCTS,
    "euclidean": _DISTANCES,
}


class GalleryIndex(Protocol):
    """What finds the nearest rows of a gallery of embeddings."""

    embeddings: np.ndarray

    def search(
        self, queries: np.ndarray, k: int, leave_out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarity and gallery row (q, k) of the k nearest, nearest first.

        `leave_out` (q,) is a gallery row not to be found, for each query.
        """


def build_index(index, metric: str, embeddings: np.ndarray) -> GalleryIndex:
    """Return what `index` stands for, built of the embeddings of a gallery."""
    if isinstance(index, str):
        return (FaissIndex if index == "faiss" else ExactIndex)(embeddings, metric)
    return NeighborsIndex(embeddings, metric, index)


class ExactIndex:
    """Compares each query with the whole gallery, in chunks.

    Parameters
    ----------
    embeddings : ndarray of shape (n_gallery, n_components)
    metric : {"cosine", "dot", "euclidean"}
    """

    def __init__(self, embeddings: np.ndarray, metric: str):
        self.embeddings = embeddings
        self.metric = metric
        self._ready: Gallery | None = None  # since the first search

    def search(self, queries, k, leave_out=None):
        asked = as_tensor(queries)
        if self._ready is None or not self._ready.takes(asked):
            self._ready = Gallery(as_tensor(self.embeddings), self.metric, asked.dtype)
        left_out = None if leave_out is None else torch.from_numpy(leave_out)
        found = nearest(asked, self._ready, k, self.metric, leave_out=left_out)
        similarity, rows = (tensor.numpy() for tensor in found)
        return similarity, rows

    def __getstate__(self):
        return {**self.__dict__, "_ready": None}  # as large as the embeddings, and soon made


class _RankedIndex:
    """An index that proposes rows; similarities and their order are then worked out here.

    So what is returned does not hang on the unit or rounding of the library that proposed.
    """

    def __init__(self, embeddings: np.ndarray, metric: str):
        self.embeddings = embeddings
        self.metric = metric

    def search(self, queries, k, leave_out=None):
        if not len(queries):
            return np.empty((0, k), queries.dtype), np.empty((0, k), np.intp)
        asked = k if leave_out is None else k + 1
        rows = self._propose(np.ascontiguousarray(queries), asked)
        similarity = self._measured(queries, rows)
        similarity[rows < 0] = -np.inf  # an approximate index that found too few
        if leave_out is not None:
            similarity[rows == leave_out[:, None]] = -np.inf
        order = np.lexsort((rows, -similarity))[:, :k]
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)

    def _propose(self, queries: np.ndarray, k: int) -> np.ndarray:
        raise NotImplementedError

    def _measured(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        chunk = max(1, _CHUNK // max(1, rows.shape[1] * queries.shape[1]))
        parts = [
            _similarity(queries[i : i + chunk, None], self.embeddings[rows[i : i + chunk]], self)
            for i in range(0, len(queries), chunk)
        ]
        return np.concatenate(parts)


def _similarity(a: np.ndarray, b: np.ndarray, index: _RankedIndex) -> np.ndarray:
    """Similarity along the last axis; embeddings of cosine galleries have length 1 already."""
    if index.metric == "euclidean":
        return -np.sqrt(((a - b) ** 2).sum(-1))
    return (a * b).sum(-1)


class FaissIndex(_RankedIndex):
    """faiss' flat index.

    Parameters
    ----------
    embeddings : ndarray of shape (n_gallery, n_components)
    metric : {"cosine", "dot", "euclidean"}
    """

    def __init__(self, embeddings: np.ndarray, metric: str):
        super().__init__(embeddings, metric)
        faiss = import_optional_dependency("faiss", "retrieval")
        flat = faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP
        self._index = flat(embeddings.shape[1])
        self._index.add(np.ascontiguousarray(embeddings, dtype=np.float32))

    def _propose(self, queries, k):
        return self._index.search(queries.astype(np.float32, copy=False), k)[1]


class NeighborsIndex(_RankedIndex):
    """An object with scikit-learn's ``fit`` and ``kneighbors``.

    Parameters
    ----------
    embeddings : ndarray of shape (n_gallery, n_components)
    metric : {"cosine", "dot", "euclidean"}
    neighbors : estimator
        Cloned, then fitted on the embeddings.
    """

    def __init__(self, embeddings: np.ndarray, metric: str, neighbors):
        super().__init__(embeddings, metric)
        self._neighbors = clone(neighbors, safe=False).fit(embeddings)

    def _propose(self, queries, k):
        rows = self._neighbors.kneighbors(queries, n_neighbors=k, return_distance=False)
        return np.asarray(rows, dtype=np.intp)


def check_index(index, metric: str) -> None:
    """Raise unless `index` is a known name, or an object that finds neighbours by `metric`."""
    if isinstance(index, str):
        check_choice("index", index, INDEXES, ", or an object with fit and kneighbors")
        return
    if isinstance(index, type) or not (hasattr(index, "fit") and hasattr(index, "kneighbors")):
        raise TypeError(
            f"The 'index' parameter of EmbeddingRetriever must be one of {INDEXES}, or an object "
            f"with fit and kneighbors. Got {index!r:.200} instead. Pass an instance, such as "
            "sklearn.neighbors.NearestNeighbors()."
        )
    name, power = getattr(index, "metric", None), getattr(index, "p", 2)
    if not isinstance(name, str):  # none, or a function that only its author knows
        return
    if name not in _ALIKE[metric] or (name == "minkowski" and power != 2):
        ranks = f"{name!r} with p={power}" if name == "minkowski" else repr(name)
        own = f", or give it metric={metric!r}" if metric != "dot" else ""
        raise ValueError(
            "The 'index' parameter of EmbeddingRetriever must rank as its 'metric' parameter, "
            f"{metric!r}, does. Got {index!r:.200}, whose metric is {ranks}, instead. Pass "
            f"index='exact' or 'faiss'{own}."
        )


def check_choice(name: str, value, known: tuple, other: str = "") -> None:
    """Raise ValueError unless a parameter has a known value, or say which was meant."""
    if value not in known:
        near = difflib.get_close_matches(str(value), known)
        hint = f" Did you mean {near[0]!r}?" if near else f" Pass {known[0]!r}, the default."
        raise ValueError(
            f"The {name!r} parameter of EmbeddingRetriever must be one of {known}{other}. "
            f"Got {value!r} instead.{hint}"
        )


def check_n_neighbors(k, n_gallery: int, itself: bool) -> None:
    """Raise ValueError unless a gallery of so many items has `k` neighbours for a query."""
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(
            "The 'n_neighbors' parameter of EmbeddingRetriever.kneighbors must be an int of 1 or "
            f"more. Got {k!r} instead. Ask for at least one neighbour."
        )
    if k > n_gallery - itself:
        other = " other than the query" if itself else ""
        raise ValueError(
            "The 'n_neighbors' parameter of EmbeddingRetriever.kneighbors must be at most the "
            f"number of gallery items{other}, {n_gallery - itself}. Got {k} instead. Ask for fewer "
            "neighbours or set a larger gallery."
        )


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view through which `array` cannot be changed: an index was built of it."""
    view = array.view()
    view.flags.writeable = False
    return view


def as_tensor(array: np.ndarray) -> Tensor:
    """Return `array` as a tensor, shared where torch takes and may write into it."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
