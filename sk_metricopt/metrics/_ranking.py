"""Metrics of a ranking: from relevance and similarity, both (n_queries, n_gallery), to a score."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from torch import Tensor

from sk_metricopt._search import row_slices
from sk_metricopt._validation import as_array
from sk_metricopt.metrics import _expected
from sk_metricopt.metrics._relevance import GradedItems

_K = Interval(Integral, 1, None, closed="left")
LONE = StrOptions({"skip", "zero", "raise"})
# What each metric takes beside relevance, similarity and how to average.
PARAMS: dict[str, dict[str, list]] = {
    "recall_at_k": {"k": [_K], "counts": [StrOptions({"any", "all"})]},
    "precision_at_k": {"k": [_K]},
    "mean_average_precision_at_r": {},
    "mean_reciprocal_rank": {},
    "ndcg_at_k": {"k": [_K, None]},
}
# From Relevance and similarity of some queries, both on tensors, to the values of these.
PER_QUERY: dict[str, Callable[..., Tensor]] = {
    "recall_at_k": _expected.recall,
    "precision_at_k": _expected.precision,
    "mean_average_precision_at_r": _expected.average_precision_at_r,
    "mean_reciprocal_rank": _expected.reciprocal_rank,
    "ndcg_at_k": _expected.normalized_discounted_gain,
}


def _checked(name: str) -> Callable:
    """Check what is passed to a metric as scikit-learn's functions do."""
    shared = {
        "relevance": ["array-like", Tensor],
        "similarity": ["array-like", Tensor],
        "lone": [LONE],
        "average": [StrOptions({"mean"}), None],
    }
    return validate_params(shared | PARAMS[name], prefer_skip_nested_validation=True)


@_checked("recall_at_k")
def recall_at_k(relevance, similarity, *, k=1, counts="any", lone="skip", average="mean"):
    """Recall at k: whether right answers are among the k nearest.

    Equally near items are taken in random order, and the value is the expectation: a model that
    embeds everything alike gets what chance gets.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_gallery)
        Above 0 for the relevant items.
    similarity : array-like of shape (n_queries, n_gallery)
        Greater is nearer; -inf leaves an item out, such as the query itself.
    k : int, default=1
        How many of the nearest items count.
    counts : {"any", "all"}, default="any"
        "any": the share of queries with a relevant item among the k nearest, as in metric
        learning [1]_ (elsewhere called hit rate). "all": the share of the relevant items that are
        among the k nearest, as in information retrieval.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0, or is an
        error.
    average : {"mean"} or None, default="mean"
        Mean over the queries, or None for their values.

    Returns
    -------
    score : float or ndarray of shape (n_queries,)
        Greater is better, 1 is best. NaN in an array marks a query left out.

    Raises
    ------
    ValueError
        If shapes differ, the gallery has fewer than k items, a similarity is NaN, a relevance is
        negative or not finite, or no query has a relevant item.

    References
    ----------
    .. [1] Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020.

    Examples
    --------
    >>> from sk_metricopt.metrics import recall_at_k
    >>> relevance = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> similarity = [[0.9, 0.1, 0.2, 0.3], [0.5, 0.5, 0.5, 0.5]]
    >>> recall_at_k(relevance, similarity, k=2, average=None).tolist()
    [1.0, 0.5]
    >>> recall_at_k(relevance, similarity, k=2, counts="all", average=None).tolist()
    [0.5, 0.5]
    """
    return _score("recall_at_k", relevance, similarity, lone, average, k=k, counts=counts)


@_checked("precision_at_k")
def precision_at_k(relevance, similarity, *, k=1, lone="skip", average="mean"):
    """Precision at k: the share of right answers among the k nearest.

    Equally near items are taken in random order, and the value is the expectation.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_gallery)
        Above 0 for the relevant items.
    similarity : array-like of shape (n_queries, n_gallery)
        Greater is nearer; -inf leaves an item out, such as the query itself.
    k : int, default=1
        How many of the nearest items count. Where fewer are left in, empty places count as wrong.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0, or is an
        error.
    average : {"mean"} or None, default="mean"
        Mean over the queries, or None for their values.

    Returns
    -------
    score : float or ndarray of shape (n_queries,)
        Greater is better, 1 is best. NaN in an array marks a query left out.

    Raises
    ------
    ValueError
        If shapes differ, the gallery has fewer than k items, a similarity is NaN, a relevance is
        negative or not finite, or no query has a relevant item.

    Examples
    --------
    >>> from sk_metricopt.metrics import precision_at_k
    >>> precision_at_k([[1, 0, 1, 0]], [[0.9, 0.8, 0.7, 0.1]], k=2)
    0.5
    """
    return _score("precision_at_k", relevance, similarity, lone, average, k=k)


@_checked("mean_average_precision_at_r")
def mean_average_precision_at_r(relevance, similarity, *, lone="skip", average="mean"):
    """MAP@R: the precision up to each right answer, averaged over the R nearest items.

    R is the number of relevant items of the query; a relevant item beyond the R nearest adds
    nothing [1]_. Equally near items are taken in random order, and the value is the expectation.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_gallery)
        Above 0 for the relevant items.
    similarity : array-like of shape (n_queries, n_gallery)
        Greater is nearer; -inf leaves an item out, such as the query itself.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0, or is an
        error.
    average : {"mean"} or None, default="mean"
        Mean over the queries, or None for their values.

    Returns
    -------
    score : float or ndarray of shape (n_queries,)
        Greater is better, 1 is best. NaN in an array marks a query left out.

    Raises
    ------
    ValueError
        If shapes differ, a similarity is NaN, a relevance is negative or not finite, or no query
        has a relevant item.

    References
    ----------
    .. [1] Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020.

    Examples
    --------
    >>> from sk_metricopt.metrics import mean_average_precision_at_r
    >>> mean_average_precision_at_r([[1, 0, 1, 0]], [[0.9, 0.8, 0.7, 0.1]])
    0.5
    """
    return _score("mean_average_precision_at_r", relevance, similarity, lone, average)


@_checked("mean_reciprocal_rank")
def mean_reciprocal_rank(relevance, similarity, *, lone="skip", average="mean"):
    """Mean reciprocal rank: one over the place of the first right answer.

    Equally near items are taken in random order, and the value is the expectation.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_gallery)
        Above 0 for the relevant items.
    similarity : array-like of shape (n_queries, n_gallery)
        Greater is nearer; -inf leaves an item out, such as the query itself.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0, or is an
        error.
    average : {"mean"} or None, default="mean"
        Mean over the queries, or None for their values.

    Returns
    -------
    score : float or ndarray of shape (n_queries,)
        Greater is better, 1 is best. NaN in an array marks a query left out.

    Raises
    ------
    ValueError
        If shapes differ, a similarity is NaN, a relevance is negative or not finite, or no query
        has a relevant item.

    Examples
    --------
    >>> from sk_metricopt.metrics import mean_reciprocal_rank
    >>> mean_reciprocal_rank([[0, 0, 1, 1]], [[0.9, 0.8, 0.85, 0.1]])
    0.5
    """
    return _score("mean_reciprocal_rank", relevance, similarity, lone, average)


@_checked("ndcg_at_k")
def ndcg_at_k(relevance, similarity, *, k=None, lone="skip", average="mean"):
    """Normalized discounted cumulative gain: how near the top the best answers are.

    The grade of an item is its gain, discounted by the logarithm of its place, over what the best
    order gets, as :func:`sklearn.metrics.ndcg_score`. For exponential gains pass
    ``2**relevance - 1``. Equally near items are taken in random order, and the value is the
    expectation.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_gallery)
        Grades, 0 for irrelevant items.
    similarity : array-like of shape (n_queries, n_gallery)
        Greater is nearer; -inf leaves an item out, such as the query itself.
    k : int, default=None
        How many of the nearest items count; all by default.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0 (as in
        scikit-learn), or is an error.
    average : {"mean"} or None, default="mean"
        Mean over the queries, or None for their values.

    Returns
    -------
    score : float or ndarray of shape (n_queries,)
        Greater is better, 1 is best. NaN in an array marks a query left out.

    Raises
    ------
    ValueError
        If shapes differ, the gallery has fewer than k items, a similarity is NaN, a relevance is
        negative or not finite, or no query has a relevant item.

    Examples
    --------
    >>> from sk_metricopt.metrics import ndcg_at_k
    >>> round(ndcg_at_k([[3, 2, 0, 1]], [[0.5, 0.9, 0.8, 0.1]], k=3), 3)
    0.735
    """
    return _score("ndcg_at_k", relevance, similarity, lone, average, k=k)


PUBLIC: dict[str, Callable] = {name: globals()[name] for name in PER_QUERY}


def depth(k: int | None, n_found: int, caller: str) -> int:
    """Return `k` for a gallery of which a query can find `n_found` items."""
    if k is not None and k > n_found:
        raise ValueError(
            f"The 'k' parameter of {caller} must be at most the number of gallery items that a "
            f"query can find, {n_found}. Got {k} instead. Lower k or enlarge the gallery."
        )
    return n_found if k is None else int(k)


def settled(values: np.ndarray, lone: str, caller: str) -> np.ndarray:
    """Return values of queries with those of lone ones, NaN so far, as asked for."""
    alone = np.isnan(values)
    if lone == "raise" and alone.any():
        raise ValueError(
            f"Each query of {caller} must have a relevant gallery item, since lone is 'raise'. "
            f"Got {alone.sum()} of {len(values)} without any. Drop them or pass lone='skip'."
        )
    if lone == "zero":
        return np.where(alone, 0.0, values)
    if alone.all():
        raise ValueError(
            f"Some query of {caller} must have a relevant gallery item. Got none in "
            f"{len(values)} queries. Check the labels, or pass lone='zero' to have it score 0."
        )
    return values


def as_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor that shares memory where torch can: not with what is read-only."""
    return torch.as_tensor(np.require(values, requirements=["C", "W"]))


def checked_grades(relevance, shape: tuple[int, int], caller: str) -> Tensor:
    """Return `relevance` as a tensor of grades, booleans where it came as such."""
    relevance = np.asarray(as_array(relevance))
    if relevance.dtype != bool:
        relevance = check_array(
            relevance, dtype=np.float64, input_name="relevance", estimator=caller
        )
    if relevance.shape != shape:
        raise ValueError(
            f"The 'relevance' parameter of {caller} must be of shape (n_queries, n_gallery), "
            f"{shape}. Got {relevance.shape} instead. Give each query a row with one grade per "
            "gallery item."
        )
    if relevance.dtype != bool and relevance.min() < 0:
        raise ValueError(
            f"The 'relevance' parameter of {caller} must be 0 for irrelevant items and greater "
            f"for relevant ones. Got {relevance.min()} instead. Shift the grades."
        )
    return as_tensor(relevance)


def _checked_similarity(similarity, caller: str) -> Tensor:
    options = {"ensure_all_finite": False, "input_name": "similarity", "estimator": caller}
    similarity = check_array(as_array(similarity), dtype=[np.float64, np.float32], **options)
    n_missing = np.isnan(similarity).sum()
    if n_missing:
        raise ValueError(
            f"The 'similarity' parameter of {caller} must not be NaN. Got {n_missing} NaN. "
            "Pass -inf for items to leave out."
        )
    return as_tensor(similarity)


def _score(name: str, relevance, similarity, lone: str, average: str | None, **params):
    similarity = _checked_similarity(similarity, name)
    grades = checked_grades(relevance, tuple(similarity.shape), name)
    if "k" in params:
        params["k"] = depth(params["k"], similarity.shape[1], name)
    values = []
    for rows in row_slices(*similarity.shape):
        left_in = grades[rows].masked_fill(similarity[rows].isneginf(), 0)
        values.append(PER_QUERY[name](GradedItems(left_in), similarity[rows], **params))
    settled_values = settled(torch.cat(values).numpy(), lone, name)
    return settled_values if average is None else float(np.nanmean(settled_values))
