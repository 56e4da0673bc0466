"""The classifier that a scorer sees while candidates are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import Tags, get_tags

from sk_metricopt._scoring import Scoring, ValidationRows


class Likeness:
    """What every candidate shows of the estimator it stands for.

    Parameters
    ----------
    template : estimator
        The fitted estimator before finetuning.
    """

    def __init__(self, template):
        self.template = template
        self.classes_: np.ndarray = template.classes_
        self.tags: Tags = get_tags(template)


class KnownRows:
    """The validation rows, to be recognised in whatever part and order a scorer asks for.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        As the scorer is given it.
    """

    def __init__(self, X):
        self.X = X
        self._row_of: dict | None = None

    def find(self, X) -> np.ndarray | None:
        """Return which rows `X` holds, or None if any of them is another."""
        if self._row_of is None:
            self._row_of = {key: i for i, key in enumerate(_keys(self.X))}
        rows = [self._row_of.get(key) for key in _keys(X)]
        return None if None in rows else np.array(rows, dtype=np.intp)


def _keys(X) -> list:
    """What tells rows apart, whatever container they are in."""
    if issparse(X):
        rows = X.tocsr(copy=True)
        rows.sum_duplicates()
        starts = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
        return [(rows.indices[a:b].tobytes(), rows.data[a:b].tobytes()) for a, b in starts]
    array = np.asarray(X)
    if array.dtype.kind in "biuf":
        return [row.tobytes() for row in np.ascontiguousarray(array, dtype=np.float64)]
    return [tuple(np.ravel(row).tolist()) for row in array]


class Candidate(ClassifierMixin):
    """A fitted classifier whose answers for the known rows are already there.

    A scorer may call whatever a fitted classifier has. Answers for known rows, in part or whole,
    are looked up: they come from models that did not train on them. For any other X the prediction
    is made for real.

    Parameters
    ----------
    like : Likeness
        What it shares with all candidates: classes, tags, what methods there are.
    proba : ndarray of shape (n_known, n_classes)
    labels : ndarray of shape (n_known,)
    known : KnownRows
        The rows `proba` and `labels` belong to.
    rows : ndarray of int or slice
        Which of them `X` holds.
    X : array-like
        What the scorer is given.
    model : callable
        Returns the real estimator behind this candidate; called only when it is needed.
    """

    def __init__(self, like, proba, labels, known, rows, X, model: Callable[[], object]):
        self.like = like
        self.proba = proba
        self.labels = labels
        self.known = known
        self.rows = rows
        self.X = X
        self.model = model
        self.classes_ = like.classes_

    def __sklearn_tags__(self):
        return self.like.tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getattr__(self, name: str):
        # Only what the class lacks comes here: other fitted attributes and rarer methods.
        # The template is asked first: making the model only to say no would be slow.
        if name.startswith("__") or name in ("like", "model"):
            raise AttributeError(name)
        if not hasattr(self.like.template, name):
            raise AttributeError(f"{type(self.like.template).__name__} has no attribute {name!r}")
        return getattr(self.model(), name)

    def _find(self, X) -> np.ndarray | slice | None:
        return self.rows if X is self.X else self.known.find(X)

    def predict_proba(self, X):
        """Return the probabilities of each class."""
        rows = self._find(X)
        return self.model().predict_proba(X) if rows is None else self.proba[rows].copy()

    def predict(self, X):
        """Return the predicted labels."""
        rows = self._find(X)
        return self.model().predict(X) if rows is None else self.labels[rows].copy()


class ClassifierScoring(Scoring):
    """Scores what classifiers answer on the validation rows.

    Parameters
    ----------
    scorer : callable
    rows : ValidationRows
    template : estimator
        The fitted classifier before finetuning.
    """

    def __init__(self, scorer: Callable, rows: ValidationRows, template):
        super().__init__(scorer, rows)
        self.like = Likeness(template)
        self._known = KnownRows(rows.X)
        # A scorer made by make_scorer hands X to the estimator and looks at it no further; where
        # all it can ask for is known, any X will do.
        all_known = not hasattr(template, "decision_function")
        self._hands_on_X = isinstance(scorer, _BaseScorer) and all_known

    def on(self, rows: np.ndarray) -> ClassifierScoring:
        """Return the scoring of some of the rows alone."""
        return ClassifierScoring(self.scorer, self.rows.take(rows), self.like.template)

    def X_of(self, rows: np.ndarray):
        """Return `X` of the rows asked for, or what stands for it."""
        return rows if self._hands_on_X else super().X_of(rows)

    def candidate(self, response: ClassifierResponse, rows: np.ndarray | None, X) -> Candidate:
        """Return the classifier that answers `response` on the given rows, which `X` holds."""
        asked = slice(None) if rows is None else rows
        labels = self.like.classes_[response.decided]
        return Candidate(self.like, response.proba, labels, self._known, asked, X, response.model)

    def score_decisions(self, decided: np.ndarray) -> float:
        """Score hypothetical decisions (n_samples,) of certain probability; no observation."""
        proba = np.eye(len(self.like.classes_), dtype=np.float32)[decided]
        try:
            return ClassifierResponse(self, proba, decided, _no_model).score()
        except Exception:  # noqa: BLE001  user code; the question is then left open
            return np.nan


def _no_model():
    raise ValueError("a hypothetical decision has no model behind it")


@dataclass(frozen=True)
class ClassifierResponse:
    """What one classifier answers on the validation rows.

    Attributes
    ----------
    scoring : ClassifierScoring
    proba : ndarray of shape (n_samples, n_classes)
    decided : ndarray of shape (n_samples,)
        Index of the predicted class.
    model : callable
        Returns the real estimator, for scorers that predict on other data.
    """

    scoring: ClassifierScoring
    proba: np.ndarray
    decided: np.ndarray
    model: Callable[[], object]

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""
        X, y, params = self.scoring.given(rows)
        return self.scoring.ask(self.scoring.candidate(self, rows, X), X, y, params)
