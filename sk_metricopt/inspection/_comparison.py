"""A fitted estimator beside the model as it came, on rows that neither has seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sk_metricopt import _validation
from sk_metricopt._asking import Question, answers
from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring, ready
from sk_metricopt._metric_estimator import MetricEstimatorMixin
from sk_metricopt._resampling import Resampling, StratifiedResampling
from sk_metricopt._roles import is_retriever
from sk_metricopt._scoring import Response, ValidationRows
from sk_metricopt._tasks import RetrieverScoring, search_resampling
from sk_metricopt._tasks._search import RetrieverResponse, SearchPart
from sk_metricopt.metrics import make_retrieval_scorer

_BINS = 10
_ROWS_AT_ONCE = 2**24  # of resamples in memory


class Comparison:
    """The model as it came and the fitted estimator, on the same rows.

    Everything that comes in twos has the model as it came first.

    Attributes
    ----------
    rows : ValidationRows
    y : ndarray of shape (n_samples,)
        Their labels.
    models : tuple of estimators
    resampling : Resampling
        Of the rows.
    """

    resampling: Resampling
    _responses: list[Response]

    def __init__(self, est, rows: ValidationRows):
        self.rows, self.y = rows, rows.y
        self.models = est._as_it_came(), est
        self._changed = est.improved_

    def scores(self, bags: list, seed: int) -> np.ndarray:
        """Return the scores (2, n_bags) on bags of rows, where None is all of them.

        NaN where the scorer fails; both models are scored under the same random streams.
        """
        scores = [self._scored(r, bags, seed) for r in self._responses[: 1 + self._changed]]
        return np.stack([scores[0], scores[-1]])

    def gains(self, n_resamples: int, seed: int) -> np.ndarray:
        """Return the difference of scores on each of `n_resamples` resamples."""
        rng, everything = np.random.RandomState(seed), np.arange(len(self.y))
        at_once = max(1, _ROWS_AT_ONCE // len(everything))
        gains = []
        for start in range(0, n_resamples, at_once):
            n = min(at_once, n_resamples - start)
            bags = self.resampling.draw(everything, n, rng)
            gains.append(np.diff(self.scores(bags, seed + start), axis=0)[0])
        return np.concatenate(gains)

    def _scored(self, response: Response, bags: list, seed: int) -> list[float]:
        questions = [Question(response, bag, seed + k) for k, bag in enumerate(bags)]
        found, on_all = [], bags[0] is None
        with warnings.catch_warnings():
            if not on_all:
                warnings.simplefilter("ignore")  # ill-defined on a few rows: of no use to anyone
            for answer in answers(questions, n_jobs=1):
                if answer.error is not None and on_all:
                    raise answer.error
                found.append(answer.score)
        return found


class ClassifierComparison(Comparison):
    """Two classifiers.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
    codes : ndarray of shape (n_samples,)
        Index of each row's class.
    proba : list of ndarray of shape (n_samples, n_classes)
    decided : list of ndarray of shape (n_samples,)
        Index of the predicted class.
    """

    def __init__(self, est, rows: ValidationRows, caller: str):
        super().__init__(est, rows)
        self.classes = est.classes_
        unknown = np.setdiff1d(rows.y, self.classes)
        if len(unknown):
            raise ValueError(
                f"The 'y' parameter of {caller} must hold labels that the estimator knows, "
                f"{self.classes[:5].tolist()!r}{' ...' if len(self.classes) > 5 else ''}. Got "
                f"{unknown[:5].tolist()!r} besides. Leave these rows out."
            )
        self.codes = _validation.encoded(rows.y, self.classes)
        self.proba = [np.asarray(model.predict_proba(rows.X)) for model in self.models]
        decided = (model.predict(rows.X) for model in self.models)
        self.decided = [_validation.encoded(labels, self.classes) for labels in decided]
        self._responses = [
            ClassifierResponse(
                ClassifierScoring(est.scorer_, rows, model), proba, labels, partial(ready, model)
            )
            for model, proba, labels in zip(self.models, self.proba, self.decided, strict=True)
        ]
        self.resampling = StratifiedResampling(self.codes)

    def recalls(self) -> np.ndarray:
        """Return the recall of each class (2, n_classes), NaN where there is no row of it."""
        n = len(self.classes)
        counts = np.bincount(self.codes, minlength=n)
        hits = [np.bincount(self.codes[d == self.codes], minlength=n) for d in self.decided]
        return np.stack(hits) / np.where(counts, counts, np.nan)

    def reliability(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what one model says and whether it is so, of each row.

        Of two classes, the probability of the second; of more, that of the likeliest.
        """
        proba = self.proba[which]
        if proba.shape[1] == 2:
            return proba[:, 1], self.codes == 1
        return proba.max(axis=1), proba.argmax(axis=1) == self.codes

    def bins(self, which: int) -> np.ndarray:
        """Return mean probability, frequency and share of rows in each bin (3, n_bins).

        Bins hold as many rows each as far as equal probabilities allow.
        """
        said, is_so = self.reliability(which)
        edges = np.unique(np.quantile(said, np.linspace(0, 1, _BINS + 1)[1:-1]))
        bin_of = np.searchsorted(edges, said, side="right")
        counts = np.bincount(bin_of)
        sums = [np.bincount(bin_of, weights=values) for values in (said, is_so)]
        filled = counts > 0
        return np.stack([*(s[filled] / counts[filled] for s in sums), counts[filled] / len(said)])


class RetrieverComparison(Comparison):
    """Two retrievers.

    Attributes
    ----------
    by_query : callable
        The scorer that tells what each query contributes: the estimator's, or recall@1.
    """

    def __init__(self, est, rows: ValidationRows, caller: str):
        super().__init__(est, rows)
        scorer = est.scorer_
        decomposes = bool(getattr(scorer, "decomposes", False))
        self.by_query: Callable = (
            scorer if decomposes else make_retrieval_scorer("recall_at_k", k=1)
        )
        if getattr(scorer, "gallery", None) == "fitted" or isinstance(scorer, _BaseScorer):
            self._check_galleries(caller)
        self._responses = [self._response(model, scorer, rows) for model in self.models]
        self.resampling = search_resampling(np.unique(rows.y, return_inverse=True)[1])

    def _check_galleries(self, caller: str) -> None:
        labels = [model.gallery_labels_ for model in self.models]
        if not np.array_equal(*labels):
            raise ValueError(
                f"{caller} compares searches of one gallery. Got a gallery that was replaced "
                f"after fit, by {len(self.models[1].gallery_embeddings_)} rows. Replace that of "
                "the model as it came too: est.initial_estimator_.set_gallery(X, y)."
            )

    def _response(self, model, scorer, rows: ValidationRows) -> RetrieverResponse:
        labels = model.gallery_labels_
        scoring = RetrieverScoring(scorer, rows, model, model.estimator_, labels)
        gallery = partial(getattr, model, "gallery_embeddings_")
        embeddings = np.asarray(model.transform(rows.X))
        everything = np.arange(len(rows))
        return RetrieverResponse(
            scoring, [SearchPart(everything, embeddings, gallery, partial(ready, model))]
        )

    def per_query(self) -> np.ndarray:
        """Return what each query contributes (2, n_queries), NaN where it does not count."""
        return np.stack([self.by_query.per_query(m, self.rows.X, self.y) for m in self.models])


def compared(est, X, y, caller: str, params: dict | None = None) -> Comparison:
    """Return the comparison of a fitted estimator with the model as it came.

    Parameters
    ----------
    est : MetricOptFinetuner or PostShiftClassifier
        Fitted.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y : array-like of shape (n_samples,)
    caller : str
        Named in errors.
    params : dict or None
        Metadata for the scorer.

    Raises
    ------
    TypeError, ValueError
        If that cannot be compared.
    """
    check_comparable(est, caller)
    X, y = _validation.as_array(X), column_or_1d(_validation.as_array(y))
    check_consistent_length(X, y)
    X = X if hasattr(X, "shape") else np.asarray(X)
    rows = ValidationRows(X, y, est._route("score", params or {}).scorer.score)
    kind = RetrieverComparison if is_retriever(est.estimator) else ClassifierComparison
    return kind(est, rows, caller)


def check_comparable(est, caller: str) -> None:
    """Raise TypeError, ValueError or NotFittedError unless `est` is a fitted one of ours."""
    if not isinstance(est, MetricEstimatorMixin):
        raise TypeError(
            f"The 'est' parameter of {caller} must be a fitted MetricOptFinetuner or "
            f"PostShiftClassifier. Got {type(est).__name__} instead. Of a Pipeline pass the last "
            "step, pipeline[-1], and rows as they reach it, pipeline[:-1].transform(X); of a "
            "search its best_estimator_."
        )
    check_is_fitted(est)
    check_is_fitted(est, "report_")  # a session's candidate predicts, but has seen no end of a fit
