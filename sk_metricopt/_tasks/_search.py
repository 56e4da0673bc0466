"""The retriever that a scorer sees while candidates are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import get_tags

from sk_metricopt._candidate import KnownRows
from sk_metricopt._gallery_index import GalleryIndex, build_index
from sk_metricopt._retriever import SearchMixin
from sk_metricopt._scoring import Scoring, ValidationRows

_GALLERIES = 8  # embedded galleries kept at a time: those of one candidate's parts


class RetrieverCandidate(SearchMixin):
    """A fitted retriever whose embeddings of the known rows are already there.

    Parameters
    ----------
    scoring : RetrieverScoring
    part : SearchPart
    X : array-like
        What the scorer is given.
    rows : ndarray of int or slice
        Which of the known rows `X` holds.
    """

    def __init__(self, scoring: RetrieverScoring, part: SearchPart, X, rows):
        self._scoring = scoring
        self._part = part
        self._X = X
        self._rows = rows
        self._gallery: EmbeddedGallery | None = None  # that the scorer set
        template = scoring.retriever
        self.metric = template.metric
        self.n_neighbors = template.n_neighbors
        self.index = template.index

    def __sklearn_tags__(self):
        return self._scoring.tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        if not hasattr(self._scoring.template, name):
            kind = type(self._scoring.template).__name__
            raise AttributeError(f"{kind} has no attribute {name!r}")
        return getattr(self._part.model(), name)

    def transform(self, X):
        """Return embeddings, all by one twin, so that they can be compared."""
        rows = self._rows if X is self._X else self._scoring.known.find(X)
        if rows is None:
            return np.asarray(self._part.model().transform(X))
        return self._part.embeddings[rows].copy()

    def set_gallery(self, X, y=None):
        """Replace the gallery, for as long as the scorer holds this candidate."""
        labels = None if y is None else np.asarray(y)
        self._gallery = EmbeddedGallery(self.transform(X), labels, self.index, self.metric)
        return self

    @property
    def _searched(self) -> EmbeddedGallery:
        return self._scoring.gallery_of(self._part) if self._gallery is None else self._gallery

    @property
    def gallery_embeddings_(self) -> np.ndarray:
        return self._searched.embeddings

    @property
    def gallery_labels_(self) -> np.ndarray | None:
        if self._gallery is None:
            self._scoring.check_gallery()
        return self._searched.labels

    def _gallery_index(self) -> GalleryIndex:
        return self._searched.built

    def _check_gallery(self) -> None:
        """There always is one."""


class EmbeddedGallery:
    """A gallery's embeddings and labels; its index is built when it is searched."""

    def __init__(self, embeddings: np.ndarray, labels: np.ndarray | None, index, metric: str):
        self.embeddings = embeddings
        self.labels = labels
        self._index = index
        self._metric = metric

    @cached_property
    def built(self) -> GalleryIndex:
        return build_index(self._index, self._metric, self.embeddings)


@dataclass(frozen=True, eq=False)
class SearchPart:
    """Some queries, and the embeddings of all validation rows by the twin that answers for them.

    Attributes
    ----------
    rows : ndarray of int
        The queries among the validation rows.
    embeddings : ndarray of shape (n_samples, n_components)
    embed_gallery : callable
        Returns the embeddings of the estimator's gallery by the same twin.
    model : callable
        Returns the real estimator of this twin, for scorers that embed other rows.
    """

    rows: np.ndarray
    embeddings: np.ndarray
    embed_gallery: Callable[[], np.ndarray]
    model: Callable[[], object]


class RetrieverScoring(Scoring):
    """Scores what nets that embed answer on the validation rows.

    Parameters
    ----------
    scorer : callable
    rows : ValidationRows
    template : estimator
        The fitted estimator before finetuning.
    retriever : EmbeddingRetriever
        Inside it.
    gallery_labels : ndarray of shape (n_gallery,)

    Attributes
    ----------
    by_query : bool
        The score is a mean over queries: one call tells it for any of them, the gallery whole.
    by_row : bool
        The score is one of predicted labels, of which each row has its own.
    """

    def __init__(self, scorer: Callable, rows: ValidationRows, template, retriever, gallery_labels):
        super().__init__(scorer, rows)
        self.template = template
        self.retriever = retriever
        self.gallery_labels = gallery_labels
        self.tags = get_tags(template)
        self.known = KnownRows(rows.X)
        self.by_query = bool(getattr(scorer, "decomposes", False)) and not rows.params
        self.by_row = isinstance(scorer, _BaseScorer)
        self.gallery_of = lru_cache(_GALLERIES)(self._gallery_of)

    def _gallery_of(self, part: SearchPart) -> EmbeddedGallery:
        template = self.retriever
        embeddings = part.embed_gallery()
        return EmbeddedGallery(embeddings, self.gallery_labels, template.index, template.metric)

    def check_gallery(self) -> None:
        """Raise ValueError where no query can find its label in the gallery."""
        own = getattr(self.scorer, "relevance", None) is not None
        if not own and not np.isin(self.rows.y, self.gallery_labels).any():
            raise ValueError(
                "it searches the estimator's gallery, the training rows, which hold no label of "
                "the validation rows: pass X_val and y_val with labels of the training rows, or "
                "have validation rows search each other"
            )

    def must_work_on(self, rows: np.ndarray) -> bool:
        """Whether a scorer that fails on these rows would fail on too many."""
        return True


class PredictedLabels:
    """A fitted estimator whose labels are already there: each row's by the twin for it."""

    def __init__(self, scoring: RetrieverScoring, X, labels: np.ndarray):
        self._scoring = scoring
        self._X = X
        self._labels = labels

    def __sklearn_tags__(self):
        return self._scoring.tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X):
        """Return the label of each row's nearest gallery item."""
        if X is not self._X:
            raise ValueError("only labels of the validation rows are there")
        return self._labels.copy()


class RetrieverResponse:
    """What one net that embeds answers on the validation rows.

    Parameters
    ----------
    scoring : RetrieverScoring
    parts : list of SearchPart
    """

    def __init__(self, scoring: RetrieverScoring, parts: list[SearchPart]):
        self._scoring = scoring
        self._parts = parts
        self._found: np.ndarray | None = None  # of each query, all that parts can tell

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""
        if self._scoring.by_query:
            return self._mean_of_queries(rows)
        if self._scoring.by_row:
            return self._score_of_labels(rows)
        return self._mean_of_parts(rows)

    def _mean_of_queries(self, rows: np.ndarray | None) -> float:
        values = self._of_each_query(self._values)
        asked = values if rows is None else values[rows]
        counted = asked[~np.isnan(asked)]
        if len(counted):
            return float(counted.mean())
        if rows is None:
            raise ValueError("no query has a relevant item")
        return np.nan  # a resample may leave none

    def _values(self, part: SearchPart) -> np.ndarray:
        scoring = self._scoring
        scoring.n_calls += 1
        X, y, _ = scoring.given(None)
        candidate = RetrieverCandidate(scoring, part, X, slice(None))
        return scoring.scorer.per_query(candidate, X, y, queries=part.rows)[part.rows]

    def _score_of_labels(self, rows: np.ndarray | None) -> float:
        labels = self._of_each_query(self._labels)
        X, y, params = self._scoring.given(rows)
        candidate = PredictedLabels(self._scoring, X, labels if rows is None else labels[rows])
        return self._scoring.ask(candidate, X, y, params)

    def _labels(self, part: SearchPart) -> np.ndarray:
        X = self._scoring.X_of(part.rows)
        return RetrieverCandidate(self._scoring, part, X, part.rows).predict(X)

    def _of_each_query(self, ask: Callable[[SearchPart], np.ndarray]) -> np.ndarray:
        if self._found is None:
            answers = [ask(part) for part in self._parts]
            order = np.concatenate([part.rows for part in self._parts])
            self._found = np.concatenate(answers)[np.argsort(order)]
            self._parts = []
        return self._found

    def _mean_of_parts(self, rows: np.ndarray | None) -> float:
        """Where a score cannot be taken apart, each part's queries search among each other."""
        total, n_rows = 0.0, 0
        for part in self._parts:
            asked = part.rows if rows is None else np.intersect1d(part.rows, rows)
            if len(asked):
                X, y, params = self._scoring.given(asked)
                candidate = RetrieverCandidate(self._scoring, part, X, asked)
                total += len(asked) * self._scoring.ask(candidate, X, y, params)
                n_rows += len(asked)
        if not n_rows:
            raise ValueError("there are no rows to score")
        return total / n_rows
