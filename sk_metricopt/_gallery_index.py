"""Ways to find the nearest rows of a gallery: exactly, with faiss, or as scikit-learn's do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt._search import Gallery, nearest

_CHUNK = 2**24  # numbers gathered at once where found rows are measured


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


def as_tensor(array: np.ndarray) -> Tensor:
    """Return `array` as a tensor, shared where torch may write into it."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
