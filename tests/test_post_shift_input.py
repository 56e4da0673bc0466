"""What PostShiftClassifier takes, and what it refuses by name with the next step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import DataConversionWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.validation import NotFittedError

from sk_metricopt import PostShiftClassifier
from tests.nets import table

X, Y = table(2, 200)
X3, Y3 = table(3, 200)
SIDE = np.where(X[:, 0] > 0, "left", "right")
FRAME = pd.DataFrame(X, columns=list("abcdef"))


def recall(y, decided):
    return float(np.mean([(decided[y == label] == label).mean() for label in np.unique(y)]))


def recall_of(estimator, X, y):
    return recall(y, estimator.predict(X))


def weighted_accuracy(y, decided, sample_weight):
    return float(np.asarray(sample_weight) @ (decided == y) / np.sum(sample_weight))


RECALL = make_scorer(recall)


def fast(estimator=None, **params):
    few = {"scoring": RECALL, "max_observations": 8, "guard_z": None, "random_state": 0}
    estimator = LogisticRegression() if estimator is None else estimator
    return PostShiftClassifier(estimator, **(few | params))


def fit(estimator=None, X=X, y=Y, X_val=None, y_val=None, **params):
    return fast(estimator, **params).fit(X, y, X_val=X_val, y_val=y_val)


def frozen(X=X, y=Y):
    return FrozenEstimator(LogisticRegression().fit(X, y))


# what works -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", [RECALL, recall_of], ids=["make_scorer", "callable"])
@pytest.mark.parametrize(
    "as_rows",
    [
        sparse.csr_matrix,
        sparse.csr_array,
        sparse.coo_array,
        np.ndarray.tolist,
        torch.as_tensor,
        lambda rows: pd.DataFrame(rows, index=np.arange(len(rows))[::-1] * 7),
    ],
    ids=["csr matrix", "csr array", "coordinates", "lists", "tensor", "odd index"],
)
def test_rows_in_any_container_are_the_same(as_rows, scoring):
    estimator = KNeighborsClassifier(7, algorithm="brute")
    expected, rows = fit(estimator, scoring=scoring), as_rows(X)
    model = fit(estimator, rows, scoring=scoring)
    assert model.improved_
    np.testing.assert_allclose(model.weights_, expected.weights_, rtol=1e-6)
    assert (model.predict(rows) == expected.predict(X)).mean() > 0.99


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array])
def test_scorer_may_predict_on_a_part_of_sparse_rows(form):
    def in_parts(estimator, X, y):
        half = X.shape[0] // 2
        return recall(y, np.concatenate([estimator.predict(X[:half]), estimator.predict(X[half:])]))

    model = fit(frozen(), form(X), scoring=in_parts)
    assert model.initial_score_ == recall_of(model.estimator_, X, Y)


LABELS = {
    "strings": np.array(["no", "yes"])[Y],
    "objects": np.array(["no", "yes"], dtype=object)[Y],
    "bool": Y == 1,
    "floats": Y * 2.0 - 1,
    "list": Y.tolist(),
    "tensor": torch.as_tensor(Y),
    "series": pd.Series(np.array(["no", "yes"])[Y], index=np.arange(200)[::-1]),
    "categories": pd.Series(pd.Categorical(np.array(["no", "yes"])[Y])),
    "read only": np.broadcast_to(Y, Y.shape),
}


@pytest.mark.parametrize("cv", [None, 3])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_are_the_same(kind, cv):
    y, expected = LABELS[kind], fit(cv=cv)
    model = fit(y=y, cv=cv)
    known = np.asarray(y)
    assert model.improved_ and (model.weights_ == expected.weights_).all()
    assert model.predict(X).dtype.kind == model.classes_.dtype.kind
    assert (model.predict(X) == np.unique(known)[expected.predict(X)]).all()


def test_labels_as_a_column_are_taken_with_scikit_learns_warning():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = fit(y=Y[:, None])
    assert (model.predict(X) == fit().predict(X)).all()


class Backwards(ClassifierMixin, BaseEstimator):
    """Logistic regression whose classes are in falling order, as a net's may be in any."""

    def fit(self, X, y):
        self.model_ = LogisticRegression().fit(X, y)
        self.classes_ = self.model_.classes_[::-1]
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)[:, ::-1]

    def predict(self, X):
        return self.model_.predict(X)


@pytest.mark.parametrize("cv", [None, 3])
def test_classes_in_any_order_are_told_apart(cv):
    y = np.array(["often", "seldom", "rare"])[Y3]
    frozen = FrozenEstimator(Backwards().fit(X3, y)) if cv is None else Backwards()
    model = fit(frozen, X3, y, cv=cv, max_observations=14)
    assert model.classes_.tolist() == ["seldom", "rare", "often"]
    assert model.improved_ and recall_of(model, X3, y) > model.initial_score_
    assert model.weights_[2] < min(model.weights_[:2])
    proba = model.predict_proba(X3)
    assert (model.predict(X3) == model.classes_[proba.argmax(axis=1)]).all()


def test_texts_go_to_a_pipeline():
    texts = [("good " if label else "bad ") + f"word{i % 9}" for i, label in enumerate(Y)]
    noisy = np.where(np.arange(200) % 10, Y, 0)
    model = fit(make_pipeline(TfidfVectorizer(), LogisticRegression()), texts, noisy, cv=3)
    assert model.predict(texts[:3]).shape == (3,)
    assert model.initial_score_ > 0.8


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("weighting", ["diagonal", "full"])
def test_many_classes(weighting, randomized):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 50
    rows = 2 * rng.normal(size=(50, 5))[y] + rng.normal(size=(400, 5))
    model = fit(KNeighborsClassifier(5), rows, y, weighting=weighting, randomized=randomized)
    assert model.weights_.shape[-1] == 50 and np.isfinite(model.weights_).all()
    assert model.n_observations_ <= 8
    np.testing.assert_allclose(model.predict_proba(rows).sum(axis=1), 1)


@pytest.mark.parametrize("cv", [None, 2])
@pytest.mark.parametrize("n_rows", [4, 8, 20])
def test_few_rows(n_rows, cv):
    y = np.arange(n_rows) % 2
    model = fit(X=X[:n_rows], y=y, cv=cv)
    assert np.isfinite([model.initial_score_, model.best_score_, model.score_gain_]).all()
    assert "concatenate" not in model.verdict_
    assert set(model.predict(X)) <= {0, 1}


def test_class_of_two_rows():
    y = np.zeros(200, dtype=int)
    y[[3, 50]] = 1
    for cv in (None, 2):
        assert fit(y=y, cv=cv).classes_.tolist() == [0, 1]


# estimators that are refused --------------------------------------------------------------------


class Constant(ClassifierMixin, BaseEstimator):
    """Says the same of every row, or of the last one something else."""

    def __init__(self, row=(0.5, 0.5), last=None):
        self.row = row
        self.last = last

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        proba = np.tile(np.array(self.row), (len(X), 1))
        proba[-1] = self.row if self.last is None else self.last
        return proba

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Flat(Constant):
    def predict_proba(self, X):
        return np.full(len(X), 0.5)


def test_constant_probabilities_are_taken_and_nothing_gained():
    model = fit(Constant((0.7, 0.3)), guard_z=1.0)
    assert not model.improved_ and (model.predict(X) == 0).all()


@pytest.mark.parametrize(
    "estimator, error, message",
    [
        (LinearSVC(), TypeError, r"with predict_proba. Got LinearSVC.*CalibratedClassifierCV"),
        (LinearRegression(), TypeError, "must be a classifier.*Got LinearRegression"),
        (FrozenEstimator(LinearRegression()), TypeError, "must be a classifier.*Got Frozen"),
        (None, ValueError, "must be an object implementing 'fit' and 'predict'. Got None"),
        ("logistic", ValueError, "Got 'logistic' instead"),
        (Constant((1.0, 1.0)), ValueError, "sums to 2. Check its training, or calibrate"),
        (Constant((np.nan, 1.0)), ValueError, "sums to nan. Check its training"),
        (Constant((2.0, -1.0)), ValueError, "gives probabilities.*calibrate"),
        (Constant(last=(1.0, 1.0)), ValueError, "gives probabilities.*calibrate"),
        (Constant(last=(np.nan, 1.0)), ValueError, "gives probabilities.*calibrate"),
        (Constant((0.2, 0.3, 0.5)), ValueError, r"of shape \(40, 2\). Got shape \(40, 3\)"),
        (Flat(), ValueError, r"of shape \(40, 2\). Got shape \(40,\)"),
    ],
)
def test_estimator_without_probabilities_is_refused(estimator, error, message):
    model = PostShiftClassifier(estimator, scoring=RECALL, random_state=0)
    with pytest.raises(error, match=message) as info:
        model.fit(X, Y)
    assert "'estimator' parameter of PostShiftClassifier" in str(info.value)
    assert not hasattr(model, "estimator_")


def test_frozen_estimator_that_was_never_fitted_is_refused():
    with pytest.raises(NotFittedError, match="LogisticRegression.*not fitted yet. Call 'fit'"):
        fit(FrozenEstimator(LogisticRegression()))


# rows and labels that are refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "data, message",
    [
        ({"y": np.zeros(200)}, r"'y' parameter .* at least 2 classes. Got one class: \[0.0\]"),
        ({"y": np.arange(200) == 3}, r"'y' parameter .* 2 rows of every class.*one row of \[True"),
        ({"y": X[:, 0]}, "Unknown label type: continuous"),
        ({"y": np.where(Y == 0, np.nan, 1.0)}, "Input y contains NaN"),
        ({"y": np.where(Y == 0, np.inf, 1.0)}, "Input y contains infinity"),
        ({"y": None}, "y should be a 1d array|requires y"),
        ({"y": np.column_stack([Y, Y])}, "y should be a 1d array"),
        ({"y": Y[:-1]}, "inconsistent numbers of samples"),
        ({"X": np.where(np.arange(6) == 2, np.nan, X)}, "(?s)Input X contains NaN"),
        ({"X_val": X}, "'y_val' parameter .*together with 'X_val'.*Pass both, or neither"),
        ({"y_val": Y}, "'X_val' parameter .*together with 'y_val'.*Pass both, or neither"),
        ({"X_val": X, "y_val": Y + 1}, r"'y_val' parameter .* labels .*\[0, 1\]. Got \[2\]"),
        ({"X_val": X, "y_val": LABELS["strings"]}, r"'y_val' parameter .*Got \['no', 'yes'\]"),
        ({"X_val": X, "y_val": Y[:-1]}, "inconsistent numbers of samples"),
        ({"X_val": X[:, :3], "y_val": Y}, "X has 3 features, but LogisticRegression is expect"),
        ({"X": X3, "y": Y3, "X_val": X, "y_val": Y}, r"'y_val' parameter .* no row of \[2\]"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        fit(**data)


def test_one_class_among_the_validation_rows_is_said_of_them():
    with pytest.raises(ValueError, match=r"'y_val' parameter .*PostShiftClassifier"):
        fit(X_val=X[Y == 0], y_val=Y[Y == 0])


def test_labels_that_a_frozen_estimator_cannot_know_are_refused():
    with pytest.raises(ValueError, match=r"'y' parameter .* \[0, 1\]. Got \[2\].*Drop these"):
        fit(frozen(), X3, Y3)
    with pytest.raises(ValueError, match=r"'y' parameter .* no row of \[2\]. Add rows"):
        fit(frozen(X3, Y3))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize(
    "weights",
    [np.zeros(200), np.full(200, np.nan), -np.ones(200), np.ones(199)],
    ids=["zero", "missing", "negative", "short"],
)
def test_sample_weight_that_weighs_nothing_is_refused(routing, weights):
    def metric(y, decided, sample_weight):
        return recall(y, decided)

    scorer = make_scorer(metric).set_score_request(sample_weight=True)
    with pytest.raises(ValueError, match="sample_weight"):
        fast(frozen(), scoring=scorer).fit(X, Y, sample_weight=weights)


def test_some_rows_may_weigh_nothing(routing):
    scorer = make_scorer(weighted_accuracy).set_score_request(sample_weight=True)
    weights = (np.arange(200) % 2).astype(float)
    model = fast(frozen(), scoring=scorer).fit(X, Y, sample_weight=weights)
    assert model.initial_score_ == (model.estimator_.predict(X) == Y)[1::2].mean()
    with pytest.raises(ValueError, match="'sample_weight' .* per row of X_val, 100.*Got 200"):
        fast(frozen(), scoring=scorer).fit(
            X, Y, X_val=X[:100], y_val=Y[:100], sample_weight=weights
        )


def test_metadata_that_nobody_asked_for_is_refused():
    with pytest.raises(ValueError, match="enable_metadata_routing=True.*'sample_weight'"):
        fast().fit(X, Y, sample_weight=np.ones(200))


# splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cv, message",
    [
        (1, "'cv' parameter of PostShiftClassifier must be an int in the range .2, inf.*Got 1"),
        ("five", "'cv' parameter of PostShiftClassifier.*Got 'five'"),
        (300, "n_splits=300"),
        ([], "'cv' parameter of PostShiftClassifier"),
    ],
    ids=str,
)
def test_splits_that_cannot_be_made_are_refused(cv, message):
    with pytest.raises(ValueError, match=message):
        fit(cv=cv)


def test_splits_that_were_used_up_are_refused_by_name():
    model = fast(cv=KFold(3).split(X)).fit(X, Y)
    with pytest.raises(ValueError, match="'cv' parameter of PostShiftClassifier"):
        model.fit(X, Y)


def test_splits_from_a_generator_serve_with_metadata_too(routing):
    scorer = make_scorer(weighted_accuracy).set_score_request(sample_weight=True)
    estimator = LogisticRegression().set_fit_request(sample_weight=False)
    weights = np.linspace(1, 2, 200)
    made = fast(estimator, scoring=scorer, cv=KFold(3)).fit(X, Y, sample_weight=weights)
    cv = KFold(3).split(X)
    model = fast(estimator, scoring=scorer, cv=cv).fit(X, Y, sample_weight=weights)
    assert model.initial_score_ == made.initial_score_


def test_splits_that_hold_no_row_of_a_class_are_refused():
    cv = [(np.arange(200), np.flatnonzero(Y3 != 2))]
    with pytest.raises(ValueError, match=r"of PostShiftClassifier.*no row of \[2\]"):
        fit(X=X3, y=Y3, cv=cv, scoring=lambda estimator, X, y: float((y == 0).mean()))


# basis ------------------------------------------------------------------------------------------


WITH_SIDE = FRAME.assign(side=SIDE, same="x", left=(SIDE == "left").astype(int))


def of_numbers():
    """A pipeline that takes the columns that hold features."""
    columns = [("keep", "passthrough", list("abcdef"))]
    return make_pipeline(ColumnTransformer(columns), LogisticRegression())


def one_hot(X):
    return np.column_stack([X["left"], 1 - X["left"]])


@pytest.mark.parametrize(
    "basis, message",
    [
        ("side", "must be a str among {'class'}, an array-like or a callable. Got 'side'"),
        (0, "must be a str among {'class'}, an array-like or a callable. Got 0"),
        (["no such"], r"columns of X by position or name. Got \['no such'\].*Name columns that X"),
        ([17], r"columns of X by position or name. Got \[17\].*Name columns that X"),
        (["same"], "2 to 20 groups. Got 1 groups in columns .'same'.*Bin numbers"),
        (["a"], "2 to 20 groups. Got 40 groups in columns .'a'.*Bin numbers"),
        ([], "2 to 20 groups. Got 0 groups"),
        (lambda X: np.ones(len(X)), r"\(n_samples, n_basis\).* Got shape \(40,\) for 40 rows"),
        (lambda X: np.ones((3, 2)), r"Got shape \(3, 2\) for 40 rows. Return a column each"),
        (lambda X: np.ones((len(X), 0)), r"Got shape \(40, 0\)"),
        (lambda X: one_hot(X) - 0.5, "at least 0.*Got negative, infinite or missing.*Clip"),
        (lambda X: one_hot(X) / 0.0, "Got negative, infinite or missing numbers"),
        (lambda X: one_hot(X) * 0, "a positive one in every row. Got zeros only in row 0. Add"),
        (lambda X: one_hot(X)[:, [0, 0, 1]], "linearly independent.*Got rank 2 of 3.*Drop"),
        (lambda X: one_hot(X) @ np.eye(2, 3), r"members of every.*Got none for \[2\].*Leave"),
        (lambda X: np.array([["a", "b"]] * len(X)), "must return numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")
def test_basis_that_tells_nothing_apart_is_refused(basis, message):
    with pytest.raises(ValueError, match="'basis' parameter of PostShiftClassifier .*" + message):
        fit(of_numbers(), WITH_SIDE, basis=basis)


def test_group_that_fit_did_not_see_is_refused_by_predict():
    model = fit(of_numbers(), WITH_SIDE, basis=["side"])
    assert model.improved_
    message = "'X' parameter .*seen among the validation rows.*'left'.*Got .*'above'"
    with pytest.raises(ValueError, match=message):
        model.predict(WITH_SIDE.assign(side="above"))
    only = WITH_SIDE[SIDE == "left"]
    assert (model.predict(only) == model.predict(WITH_SIDE)[SIDE == "left"]).all()


def test_callable_whose_columns_go_by_the_rows_at_hand_is_refused_by_predict():
    """A common slip: groups that are absent have no column."""
    model = fit(of_numbers(), WITH_SIDE, basis=lambda X: pd.get_dummies(X["side"]))
    assert model.improved_ and model.weights_.shape == (2, 2)
    with pytest.raises(ValueError, match="'basis' parameter of PostShiftClassifier"):
        model.predict(WITH_SIDE[SIDE == "left"])


def test_rows_without_a_group_are_a_group():
    missing = np.where(X[:, 0] > 0.5, np.nan, (X[:, 1] > 0).astype(float))
    rows = np.column_stack([X, missing])
    model = fit(HistGradientBoostingClassifier(max_iter=5), rows, basis=[6], cv=2)
    assert model.improved_ and model.weights_.shape == (3, 2)
    assert model.predict(rows).shape == (200,)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, np.ndarray.tolist])
def test_groups_in_a_column_of_any_container(form):
    rows = np.column_stack([X, SIDE == "left"])
    expected, model = fit(X=rows, basis=[6]), fit(X=form(rows), basis=[6])
    assert expected.improved_
    np.testing.assert_allclose(model.weights_, expected.weights_, rtol=0.01)
    assert (model.predict(form(rows)) == expected.predict(rows)).mean() > 0.98


# parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"scoring": {"f1": "f1"}}, TypeError, "must be one metric.*Got a dict.*combine"),
        ({"scoring": ["f1"]}, TypeError, "must be one metric.*Got a list.*combine"),
        ({"scoring": "f1_marco"}, ValueError, "Got 'f1_marco' instead. Did you mean 'f1_macro'"),
        ({"scoring": lambda y, decided: 0.5}, TypeError, "takes 2 positional.*by hand"),
        ({"scoring": lambda e, X, y: np.nan}, ValueError, "returned nan.*by hand"),
        ({"weighting": "cell"}, ValueError, "'diagonal'.*Got 'cell' instead"),
        ({"n_iter": 0}, ValueError, "Got 0 instead"),
        ({"epsilon": 0}, ValueError, "Got 0 instead"),
        ({"epsilon": 1.5}, ValueError, "Got 1.5 instead"),
        ({"randomized": "no"}, ValueError, "Got 'no' instead"),
        ({"max_observations": 0}, ValueError, "Got 0 instead"),
        ({"validation_fraction": 1.0}, ValueError, "Got 1.0 instead"),
        ({"guard_z": -1}, ValueError, "Got -1 instead"),
        ({"verbose": -1}, ValueError, "Got -1 instead"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, dict) else "",
)
def test_parameter_that_cannot_work_is_refused_by_name(params, error, message):
    name = next(iter(params))
    with pytest.raises(error, match=f"'{name}' parameter of PostShiftClassifier .*{message}"):
        fit(**params)


def test_fit_that_is_refused_leaves_an_unfitted_estimator():
    model = fit()
    with pytest.raises(ValueError, match="n_splits"):
        model.set_params(cv=300).fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict(X)
