"""The retriever that a scorer sees while candidates are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.utils import get_tags

from sk_metricopt._candidate import KnownRows
from sk_metricopt._retriever import SearchMixin
from sk_metricopt._scoring import Scoring, ValidationRows


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
    model : callable
        Returns the real estimator behind this candidate; called only when it is needed.
    """

    def __init__(self, scoring, part, X, rows, model: Callable[[], object]):
        self._scoring = scoring
        self._part = part
        self._X = X
        self._rows = rows
        self._model = model
        self._gallery: tuple | None = None  # that the scorer set
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
        return getattr(self._model(), name)

    def transform(self, X):
        """Return embeddings."""
        rows = self._rows if X is self._X else self._scoring.known.find(X)
        return self._model().transform(X) if rows is None else self._part.embeddings[rows].copy()

    def set_gallery(self, X, y=None):
        """Replace the gallery, for as long as the scorer holds this candidate."""
        self._gallery = self.transform(X), None if y is None else np.asarray(y)
        return self

    @property
    def gallery_embeddings_(self) -> np.ndarray:
        return self._part.gallery if self._gallery is None else self._gallery[0]

    @property
    def gallery_labels_(self) -> np.ndarray | None:
        return self._scoring.gallery_labels if self._gallery is None else self._gallery[1]

    def _check_gallery(self) -> None:
        """There always is one."""


@dataclass(frozen=True)
class SearchPart:
    """Some queries, and the embeddings of all validation rows by the twin that answers for them.

    Attributes
    ----------
    rows : ndarray of int
        The queries among the validation rows.
    embeddings : ndarray of shape (n_samples, n_components)
    embed_gallery : callable
        Returns the embeddings of the estimator's gallery by the same twin.
    """

    rows: np.ndarray
    embeddings: np.ndarray
    embed_gallery: Callable[[], np.ndarray]

    @cached_property
    def gallery(self) -> np.ndarray:
        """Embeddings of the gallery."""
        return self.embed_gallery()


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
    """

    def __init__(self, scorer: Callable, rows: ValidationRows, template, retriever, gallery_labels):
        super().__init__(scorer, rows)
        self.template = template
        self.retriever = retriever
        self.gallery_labels = gallery_labels
        self.tags = get_tags(template)
        self.known = KnownRows(rows.X)
        # A mean over queries: one call tells the score on any of them, the gallery staying whole.
        self.by_query = bool(getattr(scorer, "decomposes", False)) and not rows.params

    def must_work_on(self, rows: np.ndarray) -> bool:
        """Whether a scorer that fails on these rows would fail on too many."""
        return True


class RetrieverResponse:
    """What one net that embeds answers on the validation rows.

    Parameters
    ----------
    scoring : RetrieverScoring
    parts : list of SearchPart
    model : callable
        Returns the real estimator, for scorers that embed other rows.
    """

    def __init__(self, scoring: RetrieverScoring, parts: list[SearchPart], model: Callable):
        self._scoring = scoring
        self._parts = parts
        self._model = model
        self._by_query: np.ndarray | None = None

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""
        if self._scoring.by_query:
            return self._mean_of_queries(rows)
        return self._mean_of_parts(rows)

    def _mean_of_queries(self, rows: np.ndarray | None) -> float:
        if self._by_query is None:
            self._by_query = self._scored_by_query()
            self._parts = []  # all that they can tell is known
        asked = self._by_query if rows is None else self._by_query[rows]
        counted = asked[~np.isnan(asked)]
        if len(counted):
            return float(counted.mean())
        if rows is None:
            raise ValueError("no query has a relevant item")
        return np.nan  # a resample may leave none

    def _scored_by_query(self) -> np.ndarray:
        scoring = self._scoring
        X, y, _ = scoring.given(None)
        scores = np.full(len(scoring.rows), np.nan)
        for part in self._parts:
            scoring.n_calls += 1
            candidate = RetrieverCandidate(scoring, part, X, slice(None), self._model)
            found = scoring.scorer.per_query(candidate, X, y, queries=part.rows)
            scores[part.rows] = found[part.rows]
        return scores

    def _mean_of_parts(self, rows: np.ndarray | None) -> float:
        """Where a score cannot be taken apart, each part's queries search among each other."""
        total, n_rows = 0.0, 0
        for part in self._parts:
            asked = part.rows if rows is None else np.intersect1d(part.rows, rows)
            if len(asked):
                X, y, params = self._scoring.given(asked)
                candidate = RetrieverCandidate(self._scoring, part, X, asked, self._model)
                total += len(asked) * self._scoring.ask(candidate, X, y, params)
                n_rows += len(asked)
        if not n_rows:
            raise ValueError("there are no rows to score")
        return total / n_rows
