"""Who queries what: queries, gallery and relevance from an estimator and labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from sk_metricopt._search import METRICS, blocks
from sk_metricopt._validation import as_array
from sk_metricopt.metrics._ranking import as_tensor, checked_grades
from sk_metricopt.metrics._relevance import EqualLabels, GradedItems, Relevance

_CALLER = "RetrievalScorer"
_WRAPPED = ("best_estimator_", "estimator_", "estimator")  # what meta-estimators hold


@dataclass
class Retrieval:
    """Queries that search a gallery.

    Attributes
    ----------
    queries, gallery : Tensor of shape (n_queries, n_components) and (n_gallery, n_components)
    metric : str
        How they are compared.
    own : Tensor of shape (n_queries,) or None
        The gallery row that a query is itself, which it cannot find.
    total : Tensor of shape (n_queries,) or None
        Number of relevant items, where it is known beforehand.
    relevance_of : callable
        From indices of queries to their `Relevance`.
    """

    queries: Tensor
    gallery: Tensor
    metric: str
    own: Tensor | None
    total: Tensor | None
    relevance_of: Callable[[Tensor], Relevance]

    @property
    def n_found(self) -> int:
        """Number of gallery items that a query can find."""
        return len(self.gallery) - (self.own is not None)

    def blocks(
        self, in_order: bool, asked: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Relevance, Tensor]]:
        """Yield indices of some queries, their relevance and their similarities."""
        everything = np.arange(len(self.queries)) if asked is None else asked
        order = torch.as_tensor(everything, device=self.queries.device)
        if not in_order and self.total is not None:
            # The query with most right answers decides how deep all of its block are ranked.
            order = order[self.total[order].argsort(stable=True)]
        own = None if self.own is None else self.own[order]
        for part, similarity in blocks(
            self.queries[order], self.gallery, self.metric, leave_out=own
        ):
            yield order[part], self.relevance_of(order[part]), similarity


def retrieval(
    estimator, X, y, gallery: str, similarity: str, relevance: Callable | None
) -> Retrieval:
    """Return what the rows of `X` search, as asked for in `make_retrieval_scorer`."""
    metric = _metric_of(estimator) if similarity == "auto" else similarity
    queries, y = _embedded(estimator, X), _labels(y, "y")
    if len(queries) != len(y):
        raise ValueError(
            f"The 'y' parameter of {_CALLER} must have one entry per row of X, {len(queries)}. "
            f"Got {len(y)} instead. Pass the labels of these rows."
        )
    if gallery == "self":
        own = torch.arange(len(y), device=queries.device)
        stored, y_stored = queries, y
    else:
        own = None
        stored, y_stored = _fitted_gallery(estimator, queries)
    total, relevance_of = (
        _equal_labels(y, y_stored, own, queries.device)
        if relevance is None
        else (None, _graded(relevance, y, y_stored, own, queries.device))
    )
    return Retrieval(queries, stored, metric, own, total, relevance_of)


def _equal_labels(y, y_stored, own, device) -> tuple[Tensor, Callable[[Tensor], Relevance]]:
    for labels in (y, y_stored):
        if labels.ndim != 1 or (labels.dtype.kind == "f" and np.isnan(labels).any()):
            raise ValueError(
                f"The 'y' parameter of {_CALLER} must hold one label per row, none missing. Got "
                f"an array of shape {labels.shape}. Drop rows without a label, and pass "
                "'relevance' where equal labels do not say what is relevant."
            )
    _, encoded = np.unique(np.concatenate([y, y_stored]), return_inverse=True)
    codes, stored = torch.as_tensor(encoded, device=device).split([len(y), len(y_stored)])
    total = torch.bincount(stored, minlength=int(encoded.max()) + 1)[codes].double()
    if own is not None:
        total -= 1
    return total, lambda rows: EqualLabels(codes[rows], stored, total[rows])


def _graded(relevance, y, y_stored, own, device) -> Callable[[Tensor], Relevance]:
    def relevance_of(rows: Tensor) -> Relevance:
        shape = (len(rows), len(y_stored))
        grades = relevance(y[rows.cpu().numpy()], y_stored)
        grades = checked_grades(grades, shape, _CALLER).to(device)
        if own is not None:
            grades = grades.scatter(1, own[rows, None], 0)
        return GradedItems(grades)

    return relevance_of


def _embedded(estimator, X) -> Tensor:
    if not hasattr(estimator, "transform"):
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must have a method transform that embeds "
            f"rows. Got {type(estimator).__name__} instead. Wrap the net in EmbeddingRetriever."
        )
    return _checked_embeddings(
        estimator.transform(X), f"{type(estimator).__name__}.transform must return"
    )


def _fitted_gallery(estimator, queries: Tensor) -> tuple[Tensor, np.ndarray]:
    embeddings = _attribute(estimator, "gallery_embeddings_")
    labels = _attribute(estimator, "gallery_labels_")
    if embeddings is None or labels is None:
        what = "labels of its gallery" if embeddings is not None else "gallery"
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must hold a labelled gallery, since gallery "
            f"is 'fitted'. Got {type(estimator).__name__} without the {what}. Call "
            "set_gallery(X, y) of the EmbeddingRetriever, or score with gallery='self'."
        )
    stored = _checked_embeddings(embeddings, "gallery_embeddings_ must hold").to(queries.device)
    y_stored = _labels(labels, "gallery_labels_")
    if stored.shape[1] != queries.shape[1] or len(stored) != len(y_stored):
        raise ValueError(
            f"The gallery of the estimator passed to {_CALLER} must have {queries.shape[1]} "
            f"components, as the queries, and one label per row. Got embeddings of shape "
            f"{tuple(stored.shape)} and {len(y_stored)} labels. Call set_gallery(X, y) again."
        )
    return stored, y_stored


def _checked_embeddings(embeddings, what: str) -> Tensor:
    if issparse(embeddings):
        raise ValueError(
            f"{what} dense embeddings. Got a sparse matrix instead. Add a step such as "
            "TruncatedSVD."
        )
    if not isinstance(embeddings, Tensor):  # one on an accelerator stays there
        embeddings = np.asarray(embeddings)
        if embeddings.dtype.kind not in "fiub":
            raise ValueError(
                f"{what} numbers. Got an array of {embeddings.dtype} instead. Convert it."
            )
        embeddings = as_tensor(embeddings)
    embeddings = embeddings.detach()
    if embeddings.ndim != 2:
        raise ValueError(
            f"{what} embeddings of shape (n_samples, n_components). Got shape "
            f"{tuple(embeddings.shape)} instead. Have the net return one vector per row."
        )
    finite = embeddings.isfinite()
    if not finite.all():
        n_bad = int((~finite).any(1).sum())
        raise ValueError(
            f"{what} finite embeddings. Got NaN or infinity in {n_bad} of {len(embeddings)} rows "
            "instead. Check the rows and the learning rate."
        )
    return embeddings


def _labels(labels, name: str) -> np.ndarray:
    labels = np.asarray(as_array(labels))
    if labels.ndim == 0:
        raise ValueError(
            f"The {name!r} parameter of {_CALLER} must be an array of labels. Got "
            f"{labels.item()!r} instead. Pass the label of each row."
        )
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _metric_of(estimator) -> str:
    metric = _attribute(estimator, "metric")
    if metric is None:
        return "cosine"
    if metric in METRICS:
        return metric
    raise ValueError(
        f"The metric of the estimator passed to {_CALLER} must be one of "
        f"{', '.join(map(repr, METRICS))}. Got {metric!r} instead. Pass one as 'similarity' to "
        "make_retrieval_scorer."
    )


def _attribute(estimator, name: str):
    """Return an attribute of the estimator or of the first one inside it that has it."""
    while estimator is not None:
        if getattr(estimator, name, None) is not None:
            return getattr(estimator, name)
        steps = getattr(estimator, "steps", None)
        inner = (getattr(estimator, attribute, None) for attribute in _WRAPPED)
        estimator = steps[-1][1] if steps else next((e for e in inner if e is not None), None)
    return None
