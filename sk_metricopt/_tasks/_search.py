"""The retriever that a scorer sees while candidates are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from types import SimpleNamespace

import numpy as np
from sklearn.metrics._scorer import _BaseScorer, _Scorer
from sklearn.utils import get_tags

from sk_metricopt._candidate import KnownRows, StandIn, ready
from sk_metricopt._gallery_index import GalleryIndex, build_index
from sk_metricopt._retriever import SearchMixin
from sk_metricopt._scoring import ANY_ROWS, Lent, Scoring, ValidationRows, lent
from sk_metricopt.metrics._scorer import RetrievalScorer

_GALLERIES = 8  # embedded galleries kept at a time: those of one candidate's parts


class RetrieverCandidate(StandIn, SearchMixin):
    """A fitted retriever whose embeddings of the known rows are already there.

    Parameters
    ----------
    scoring : RetrieverScoring
    part : SearchPart
    shown : Lent
        What the scorer is given.
    rows : ndarray of int or slice
        Which of the known rows that holds.
    """

    def __init__(self, scoring: RetrieverScoring, part: SearchPart, shown: Lent, rows):
        self._scoring = scoring
        self._part = part
        self._template = scoring.template
        self._model = part.model
        self._shown = shown
        self._rows = rows
        self._gallery: EmbeddedGallery | None = None  # that the scorer set
        template = scoring.retriever
        self.metric = template.metric
        self.n_neighbors = template.n_neighbors
        self.index = template.index

    def __sklearn_tags__(self):
        return copy.copy(self._scoring.tags)

    def transform(self, X):
        """Return embeddings, all by one twin, so that they can be compared."""
        rows = self._rows if self._shown.still_is(X) else self._scoring.known.find(X)
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
        return lent(self._searched.embeddings)

    @property
    def gallery_labels_(self) -> np.ndarray | None:
        if self._gallery is None:
            self._scoring.check_gallery()
        return lent(self._searched.labels)

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
        # These hand X to the estimator and look at it no further, so that any X will do.
        self.hands_on_X = type(scorer) in (RetrievalScorer, _Scorer)
        self.gallery_of = lru_cache(_GALLERIES)(self._gallery_of)

    def portable(self, model) -> RetrieverScoring:
        """Return what scores like this one in another process, `model` the real estimator."""
        other = copy.copy(self)
        other.template, template = model, self.retriever
        other.retriever = SimpleNamespace(
            metric=template.metric, n_neighbors=template.n_neighbors, index=template.index
        )
        if self.hands_on_X:
            other.rows = replace(self.rows, X=None)
        other.known = KnownRows(other.rows.X)
        del other.gallery_of
        return other

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.gallery_of = lru_cache(_GALLERIES)(self._gallery_of)

    def X_of(self, rows: np.ndarray | None) -> Lent:
        """Return `X` of the rows asked for, or what stands for it."""
        return ANY_ROWS if self.hands_on_X else super().X_of(rows)

    @property
    def searches_gallery(self) -> bool:
        """Whether the scorer may ask for the estimator's gallery."""
        return getattr(self.scorer, "gallery", None) != "self" or not self.hands_on_X

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

    def __init__(self, scoring: RetrieverScoring, shown: Lent, labels: np.ndarray):
        self._scoring = scoring
        self._shown = shown
        self._labels = labels

    def __sklearn_tags__(self):
        return self._scoring.tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X):
        """Return the label of each row's nearest gallery item."""
        if not self._shown.still_is(X):
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
        self.scoring = scoring
        self._parts = parts
        self._found: np.ndarray | None = None  # of each query, all that parts can tell

    def __getstate__(self):
        # What the scorer can ask for is made here, where all is that it takes.
        scoring = self.scoring
        if scoring.by_row:
            self._of_each_query(self._labels)  # searching is not the scorer's work
        parts = [self._portable(part) for part in self._parts]
        model = parts[0].model() if parts else None
        return {"scoring": scoring.portable(model), "_parts": parts, "_found": self._found}

    def _portable(self, part: SearchPart) -> SearchPart:
        scoring = self.scoring
        model = None if scoring.hands_on_X else part.model()
        gallery = scoring.gallery_of(part).embeddings if scoring.searches_gallery else None
        return replace(part, embed_gallery=partial(ready, gallery), model=partial(ready, model))

    def with_scoring(self, scoring: RetrieverScoring) -> RetrieverResponse:
        """Return the same answers, to be scored by another scoring."""
        other = RetrieverResponse(scoring, self._parts)
        other._found = self._found
        return other

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""
        if self.scoring.by_query:
            return self._mean_of_queries(rows)
        if self.scoring.by_row:
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
        scoring = self.scoring
        scoring.n_calls += 1
        shown, y, _ = scoring.given(None)
        candidate = RetrieverCandidate(scoring, part, shown, slice(None))
        values = scoring.scorer.per_query(candidate, shown.X, y, queries=part.rows)
        return values[part.rows]

    def _score_of_labels(self, rows: np.ndarray | None) -> float:
        labels = self._of_each_query(self._labels)
        shown, y, params = self.scoring.given(rows)
        candidate = PredictedLabels(self.scoring, shown, labels if rows is None else labels[rows])
        return self.scoring.ask(candidate, shown.X, y, params)

    def _labels(self, part: SearchPart) -> np.ndarray:
        shown = self.scoring.X_of(part.rows)
        return RetrieverCandidate(self.scoring, part, shown, part.rows).predict(shown.X)

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
                shown, y, params = self.scoring.given(asked)
                candidate = RetrieverCandidate(self.scoring, part, shown, asked)
                total += len(asked) * self.scoring.ask(candidate, shown.X, y, params)
                n_rows += len(asked)
        if not n_rows:
            raise ValueError("there are no rows to score")
        return total / n_rows
