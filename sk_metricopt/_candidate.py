"""The classifier that a scorer sees while candidates are compared."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin, clone
from sklearn.metrics._scorer import _Scorer
from sklearn.utils import Tags, get_tags

from sk_metricopt._scoring import ANY_ROWS, Lent, Scoring, ValidationRows, lent

_FIXED = (
    "a scorer is given a fitted estimator, to be asked and not to be changed. Clone it to have one "
    "to {}: sklearn.base.clone(estimator)"
)
_OWN = ("_template", "_model", "_like", "_scoring", "_part")  # not for a model to have


class Likeness:
    """What every candidate shows of the estimator it stands for.

    Parameters
    ----------
    template : estimator
        The fitted estimator before finetuning.
    """

    def __init__(self, template):
        self.template = template
        self.classes_: np.ndarray = lent(template.classes_)
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
    return [_hashable(row) for row in array]


def _hashable(row):
    # A value that is missing equals no other, not even itself.
    key = tuple("nan" if _is_nan(value) else value for value in np.ravel(row).tolist())
    try:
        hash(key)
    except TypeError:  # lists or dicts
        return pickle.dumps(key)
    return key


def _is_nan(value) -> bool:
    return isinstance(value, float) and value != value


class StandIn:
    """A fitted estimator that a scorer may look at as it likes, and not change.

    What it says of itself comes from the real estimator behind it, as copies: parts of that may be
    the user's own. Attributes that a scorer sets are gone after the call.

    Attributes
    ----------
    _template : estimator
        Has the same attributes. Asked first: making the model only to say no would be slow.
    _model : callable
        Returns the real estimator; called only when it is needed.
    """

    _template: object
    _model: Callable

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self):
        return self._copied(clone(self._model()))

    def __getattr__(self, name: str):
        # Only what the class lacks comes here: other fitted attributes and rarer methods.
        if name.startswith("__") or name in _OWN:
            raise AttributeError(name)
        if not hasattr(self._template, name):
            raise AttributeError(f"{type(self._template).__name__} has no attribute {name!r}")
        value = getattr(self._model(), name)
        return value if inspect.ismethod(value) else self._copied(value)

    def _copied(self, value):
        # The scorer itself may keep state: that one stays the same.
        scorers = [getattr(self._template, name, None) for name in ("scorer_", "scoring")]
        return copy.deepcopy(value, {id(scorer): scorer for scorer in scorers})

    def get_params(self, deep=True):
        """Return copies of the parameters."""
        return self._copied(self._model().get_params(deep))

    def set_params(self, **params):
        """Refuse: the parameters may hold the user's own net."""
        raise TypeError(_FIXED.format("set parameters of"))

    def fit(self, X, y=None, **params):
        """Refuse: what is scored has been fitted."""
        raise TypeError(_FIXED.format("fit"))

    def partial_fit(self, X, y=None, **params):
        """Refuse, as `fit` does."""
        raise TypeError(_FIXED.format("fit"))


class Candidate(StandIn, ClassifierMixin):
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
    shown : Lent
        What the scorer is given.
    model : callable
        Returns the real estimator behind this candidate; called only when it is needed.
    """

    def __init__(self, like, proba, labels, known, rows, shown: Lent, model: Callable[[], object]):
        self._like = like
        self._proba = proba
        self._labels = labels
        self._known = known
        self._rows = rows
        self._shown = shown
        self._template = like.template
        self._model = model
        self.classes_ = like.classes_

    def __sklearn_tags__(self):
        return copy.copy(self._like.tags)

    def _find(self, X) -> np.ndarray | slice | None:
        return self._rows if self._shown.still_is(X) else self._known.find(X)

    def predict_proba(self, X):
        """Return the probabilities of each class."""
        rows = self._find(X)
        return self._model().predict_proba(X) if rows is None else self._proba[rows].copy()

    def predict(self, X):
        """Return the predicted labels."""
        rows = self._find(X)
        return self._model().predict(X) if rows is None else self._labels[rows].copy()


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
        self.hands_on_X = type(scorer) is _Scorer and all_known

    def on(self, rows: np.ndarray) -> ClassifierScoring:
        """Return the scoring of some of the rows alone."""
        return ClassifierScoring(self.scorer, self.rows.take(rows), self.like.template)

    def portable(self, model) -> ClassifierScoring:
        """Return what scores like this one in another process, `model` the real estimator."""
        other = copy.copy(self)
        other.like = copy.copy(self.like)
        other.like.template = model
        if self.hands_on_X:
            other.rows = replace(self.rows, X=None)
        other._known = KnownRows(other.rows.X)
        return other

    def X_of(self, rows: np.ndarray | None) -> Lent:
        """Return `X` of the rows asked for, or what stands for it."""
        return ANY_ROWS if self.hands_on_X else super().X_of(rows)

    def candidate(
        self, response: ClassifierResponse, rows: np.ndarray | None, shown: Lent
    ) -> Candidate:
        """Return the classifier that answers `response` on the given rows, which are lent."""
        asked = slice(None) if rows is None else rows
        labels = self.like.classes_[response.decided]
        return Candidate(
            self.like, response.proba, labels, self._known, asked, shown, response.model
        )

    def score_decisions(self, decided: np.ndarray) -> float:
        """Score hypothetical decisions (n_samples,) of certain probability; no observation."""
        proba = np.eye(len(self.like.classes_), dtype=np.float32)[decided]
        try:
            return ClassifierResponse(self, proba, decided, _no_model).score()
        except Exception:  # noqa: BLE001  user code; the question is then left open
            return np.nan


def _no_model():
    raise ValueError("a hypothetical decision has no model behind it")


def ready(value):
    """Return `value`; with ``partial``, a function that can be pickled."""
    return value


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

    def __reduce__(self):
        # The model is made here, where all is that it takes, if the scorer can ask for it at all.
        model = None if self.scoring.hands_on_X else self.model()
        scoring = self.scoring.portable(model)
        return ClassifierResponse, (scoring, self.proba, self.decided, partial(ready, model))

    def with_scoring(self, scoring: ClassifierScoring) -> ClassifierResponse:
        """Return the same answers, to be scored by another scoring."""
        return replace(self, scoring=scoring)

    @property
    def nbytes(self) -> int:
        """What keeping the response costs."""
        return self.proba.nbytes + self.decided.nbytes

    def score(self, rows: np.ndarray | None = None) -> float:
        """Return the score on the given rows, on all of them if None."""
        shown, y, params = self.scoring.given(rows)
        candidate = self.scoring.candidate(self, rows, shown)
        return self.scoring.ask(candidate, shown.X, y, params)
