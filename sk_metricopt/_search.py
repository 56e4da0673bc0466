"""Exact search: similarities of queries to a gallery, and each query's nearest gallery items."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = ("cosine", "dot", "euclidean")
_BLOCK = 2**22  # similarities held at once


def similarities(queries: Tensor, gallery: Tensor, metric: str) -> Tensor:
    """Return how near each gallery item is to each query.

    Parameters
    ----------
    queries : Tensor of shape (n_queries, n_components)
        Finite embeddings.
    gallery : Tensor of shape (n_gallery, n_components)
        Finite embeddings, on the same device.
    metric : {"cosine", "dot", "euclidean"}
        Cosine of the angle (0 for a zero vector), dot product, or minus the distance.

    Returns
    -------
    similarity : Tensor of shape (n_queries, n_gallery)
        Greater is nearer. Equal gallery items are exactly equally near.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt._search import similarities
    >>> queries, gallery = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [0.0, 0.0]])
    >>> {metric: similarities(queries, gallery, metric).tolist() for metric in METRICS}
    {'cosine': [[1.0, 0.0]], 'dot': [[50.0, 0.0]], 'euclidean': [[-5.0, -5.0]]}
    """
    return Gallery(gallery, metric, queries.dtype).similarities(queries)


def blocks(
    queries: Tensor, gallery: Tensor | Gallery, metric: str, *, leave_out: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the similarities of some queries at a time, so that memory stays bounded.

    Parameters
    ----------
    queries, gallery, metric
        As in `similarities`.
    leave_out : Tensor of shape (n_queries,), optional
        One gallery row for each query that it cannot find: itself, where queries are gallery rows.

    Yields
    ------
    rows : slice
        Which queries.
    similarity : Tensor of shape (n_rows, n_gallery)
        Theirs, -inf for what is left out. Yours to overwrite.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt._search import blocks
    >>> points = torch.tensor([[0.0], [1.0], [3.0]])
    >>> for rows, similarity in blocks(points, points, "euclidean", leave_out=torch.arange(3)):
    ...     print(rows, similarity.tolist())
    slice(0, 3, None) [[-inf, -1.0, -3.0], [-1.0, -inf, -2.0], [-3.0, -2.0, -inf]]
    """
    ready = isinstance(gallery, Gallery)
    stored = gallery if ready else Gallery(gallery, metric, queries.dtype)
    for rows in row_slices(len(queries), len(stored)):
        similarity = stored.similarities(queries[rows])
        if leave_out is not None:
            similarity.scatter_(1, leave_out[rows, None], -torch.inf)
        yield rows, similarity


def row_slices(n_queries: int, n_gallery: int) -> list[slice]:
    """Cut a matrix of similarities into rows that are worked on at once.

    Parameters
    ----------
    n_queries, n_gallery : int
        Shape of the matrix.

    Returns
    -------
    slices : list of slice
        All rows in order.

    Examples
    --------
    >>> from sk_metricopt._search import row_slices
    >>> row_slices(3_000, 2**21)[-1]
    slice(2998, 3000, None)
    """
    step = max(1, _BLOCK // max(1, n_gallery))
    return [slice(row, min(row + step, n_queries)) for row in range(0, n_queries, step)]


def nearest(
    queries: Tensor,
    gallery: Tensor | Gallery,
    k: int,
    metric: str,
    *,
    leave_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the nearest gallery items of each query, nearest first.

    Parameters
    ----------
    queries, gallery, metric, leave_out
        As in `blocks`. A gallery that is searched again and again may come made ready.
    k : int
        How many; no more than a query can find.

    Returns
    -------
    similarity : Tensor of shape (n_queries, k)
        Descending.
    index : Tensor of shape (n_queries, k)
        Rows of the gallery; of equally near ones the first come first.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt._search import nearest
    >>> points = torch.tensor([[0.0], [1.0], [3.0]])
    >>> similarity, index = nearest(points, points, 1, "euclidean", leave_out=torch.arange(3))
    >>> similarity.tolist(), index.tolist()
    ([[-1.0], [-1.0], [-2.0]], [[1], [0], [1]])
    """
    found = [_top(block, k) for _, block in blocks(queries, gallery, metric, leave_out=leave_out)]
    if not found:
        return queries.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=queries.device)
    values, index = zip(*found, strict=True)
    return torch.cat(values), torch.cat(index)


class Gallery:
    """Gallery items made ready for products with any number of blocks of queries.

    Parameters
    ----------
    gallery : Tensor of shape (n_gallery, n_components)
        Finite embeddings.
    metric : {"cosine", "dot", "euclidean"}
    dtype : torch.dtype
        Of the queries.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt._search import Gallery, nearest
    >>> ready = Gallery(torch.tensor([[0.0], [1.0], [3.0]]), "dot", torch.float32)
    >>> nearest(torch.tensor([[2.0]]), ready, 1, "dot")[1].tolist()
    [[2]]
    """

    def __init__(self, gallery: Tensor, metric: str, dtype: torch.dtype):
        widest = torch.promote_types(gallery.dtype, torch.float32)
        self._metric, self._dtype = metric, torch.promote_types(widest, dtype)
        self._n_items = len(gallery)
        self._items, self._column = _distinct(self._embedded(gallery))
        if metric == "euclidean":
            self._squares = self._items.square().sum(1)

    def __len__(self) -> int:
        return self._n_items

    def takes(self, queries: Tensor) -> bool:
        """Whether nothing is lost of the precision of `queries`."""
        return torch.promote_types(self._dtype, queries.dtype) == self._dtype

    def similarities(self, queries: Tensor) -> Tensor:
        """Return how near each item is to each query."""
        queries = self._embedded(queries)
        if self._metric == "euclidean":
            squares = torch.addmm(self._squares, queries, self._items.T, alpha=-2)
            squares += queries.square().sum(1, keepdim=True)
            # Halved by the root, float64's rounding becomes float32's.
            result = squares.clamp_min_(0).to(self._dtype).sqrt_().neg_()
        else:
            result = queries @ self._items.T
        return result if self._column is None else result[:, self._column]

    def _embedded(self, X: Tensor) -> Tensor:
        """Vectors whose products are wanted, in a precision that does them justice."""
        if self._metric == "dot":
            return X.to(self._dtype)
        X = X.double()  # float32 would lose small distances, and overflow in large norms
        return X if self._metric == "euclidean" else F.normalize(X, eps=1e-300).to(self._dtype)


def _distinct(items: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return items without duplicates and where each went, or as they came where all differ.

    A matrix product may round equal columns differently, and so put an order into what is a tie.
    """
    rows = np.ascontiguousarray((items + 0.0).detach().cpu().numpy())  # no -0.0, which is 0.0
    if not rows.size:
        return items, None
    as_bytes = rows.view(np.dtype((np.void, rows[0].nbytes))).ravel()
    _, first, column = np.unique(as_bytes, return_index=True, return_inverse=True)
    if len(first) == len(items):
        return items, None
    return (
        items[torch.as_tensor(first, device=items.device)],
        torch.as_tensor(column, device=items.device),
    )


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    value, index = similarity.topk(min(k + 1, similarity.shape[1]))
    tied = (value[:, 1:] == value[:, :-1]).any(1)
    value, index = value[:, :k], index[:, :k]
    if tied.any():
        index[tied] = _first_of_ties(similarity[tied], value[tied, -1:], k)
    return value, index


def _first_of_ties(similarity: Tensor, smallest: Tensor, k: int) -> Tensor:
    """Return the rows of the k nearest, given the smallest similarity among these."""
    greater, level = similarity > smallest, similarity == smallest
    room = k - greater.sum(1, keepdim=True)
    kept = greater | (level & (level.cumsum(1) <= room))
    index = kept.nonzero()[:, 1].view(len(kept), k)
    order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True).indices
    return index.gather(1, order)
