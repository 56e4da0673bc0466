"""PostShiftClassifier finds the weights that a metric asks for, on rows it may look at."""

from __future__ import annotations

import itertools
import pickle
import random

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy.stats import norm, qmc
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    cross_val_predict,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags
from sklearn.utils.validation import NotFittedError, check_is_fitted

from sk_metricopt import PostShiftClassifier
from sk_metricopt.exceptions import ObservationWarning
from tests.nets import table

X, Y = table(2, 600)
X3, Y3 = table(3, 600)
X_VAL, Y_VAL = X3[300:], Y3[300:]
NAMES = np.array(["often", "seldom", "rare"])
ALL_ROWS = np.arange(600)


def recall(y, decided):
    """Macro recall, in a hundredth of scikit-learn's time."""
    return float(np.mean([(decided[y == label] == label).mean() for label in np.unique(y)]))


def recall_of(estimator, X, y):
    return recall(y, estimator.predict(X))


RECALL = make_scorer(recall)


def fast(estimator=None, **params):
    """A search whose weights pass, guard or not."""
    few = {"scoring": RECALL, "max_observations": 14, "guard_z": None, "random_state": 0}
    estimator = LogisticRegression() if estimator is None else estimator
    return PostShiftClassifier(estimator, **(few | params))


def frozen(estimator=None, X=X3, y=Y3):
    return FrozenEstimator((LogisticRegression() if estimator is None else estimator).fit(X, y))


# what is best, in closed form -------------------------------------------------------------------


class Given(ClassifierMixin, BaseEstimator):
    """A classifier of rows that hold the probabilities themselves, first."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X[:, : len(self.classes_)]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def drawn(prior, log2_rows, seed):
    """True probabilities of classes given a noisy sight of each, and classes.

    From a low-discrepancy sequence: such rows are as good as many more independent ones.
    """
    u = qmc.Sobol(len(prior) + 1, seed=seed).random_base2(log2_rows)
    y = np.searchsorted(np.cumsum(prior)[:-1], u[:, 0])
    sight = 1.5 * np.eye(len(prior))[y] + norm.ppf(u[:, 1:])
    proba = np.exp(1.5 * sight) * prior
    return proba / proba.sum(axis=1, keepdims=True), y


PRIOR = [0.7, 0.2, 0.1]
P_FIT, Y_FIT = drawn(PRIOR, 12, 0)
P_NEW, Y_NEW = drawn(PRIOR, 16, 1)
VALUES = np.array([1.0, 3.0, 6.0])
COSTS = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0], [10.0, 4.0, 0.0]])


def given(metric, P=P_FIT, y=Y_FIT, **params):
    scorer = make_scorer(metric)
    estimator = FrozenEstimator(Given().fit(P, y))
    params = {"random_state": 0} | params
    return PostShiftClassifier(estimator, scoring=scorer, **params).fit(P, y)


def counted(y, decided):
    """Share of rows of each true and decided class."""
    return np.bincount(3 * y + decided, minlength=9).reshape(3, 3) / len(y)


def g_mean(y, decided):
    cells = counted(y, decided)
    return float(np.prod(np.diag(cells) / cells.sum(axis=1)) ** (1 / 3))


def value(y, decided):
    return float(VALUES @ np.diag(counted(y, decided)))


def saved(y, decided):
    return -float((COSTS * counted(y, decided)).sum())


def f1_of_each(y, decided):
    cells = counted(y, decided)
    return 2 * np.diag(cells), cells.sum(axis=0) + cells.sum(axis=1)


def macro_f1(y, decided):
    twice_hits, sizes = f1_of_each(y, decided)
    return float((twice_hits / sizes).mean())


def best_weights_for_g_mean():
    """Those that are the reciprocal of the hits they lead to."""
    weights = np.ones(3)
    for _ in range(60):
        weights = 1 / np.diag(counted(Y_NEW, (P_NEW * weights).argmax(axis=1)))
    return weights


def best_decisions_for_macro_f1():
    """Those for the largest (2 eta - F) / D, as F and D follow from them."""
    decided = P_NEW.argmax(axis=1)
    for _ in range(60):
        twice_hits, sizes = f1_of_each(Y_NEW, decided)
        decided = ((2 * P_NEW - twice_hits / sizes) / sizes).argmax(axis=1)
    return decided


def log_ratios(weights):
    return np.log(weights / weights[-1])


@pytest.mark.parametrize(
    "metric, best", [(g_mean, best_weights_for_g_mean()), (value, VALUES)], ids=["g-mean", "value"]
)
def test_weights_of_classes_are_those_of_the_closed_form(metric, best):
    model = given(metric)
    assert model.improved_, model.verdict_
    assert model.weights_.shape == (3,) and model.weights_.max() == 1
    np.testing.assert_allclose(log_ratios(model.weights_), log_ratios(best), atol=0.25)
    optimum = metric(Y_NEW, (P_NEW * best).argmax(axis=1))
    assert optimum - metric(Y_NEW, P_NEW.argmax(axis=1)) > 0.05
    assert metric(Y_NEW, model.predict(P_NEW)) > optimum - 0.003


@pytest.mark.parametrize("weighting", ["diagonal", "full"])
def test_macro_f1_comes_close_to_its_bayes_rule(weighting):
    model = given(macro_f1, weighting=weighting)
    optimum = macro_f1(Y_NEW, best_decisions_for_macro_f1())
    assert optimum - macro_f1(Y_NEW, P_NEW.argmax(axis=1)) > 0.005
    assert macro_f1(Y_NEW, model.predict(P_NEW)) > optimum - 0.003


def test_costs_of_errors_are_met_by_full_weights_best():
    optimum = saved(Y_NEW, (-P_NEW @ COSTS).argmax(axis=1))
    as_came = saved(Y_NEW, P_NEW.argmax(axis=1))

    def reached(weighting):  # on average: now and then a search ends near where scales alone do
        models = [given(saved, weighting=weighting, random_state=seed) for seed in range(3)]
        return np.mean([saved(Y_NEW, model.predict(P_NEW)) for model in models])

    full, diagonal = reached("full"), reached("diagonal")
    assert as_came < optimum - 0.15
    assert full > optimum - 0.015
    assert optimum - full < 0.8 * (optimum - diagonal)


def test_threshold_of_binary_f1_is_half_the_best_f1():
    proba, y = drawn([0.85, 0.15], 12, 0)
    proba_new, y_new = drawn([0.85, 0.15], 16, 1)

    def f1(y, decided):
        return float(2 * (decided & y).sum() / max(1, decided.sum() + y.sum()))

    best = max(f1(y_new, (proba_new[:, 1] > t).astype(int)) for t in np.arange(0.1, 0.6, 0.01))
    model = given(f1, proba, y)
    threshold = model.weights_[0] / model.weights_.sum()
    assert threshold == pytest.approx(best / 2, abs=0.04)
    assert f1(y_new, model.predict(proba_new)) > best - 0.003


def test_randomized_decisions_come_close_to_the_optimum_too():
    model = given(g_mean, randomized=True)
    optimum = g_mean(Y_NEW, (P_NEW * best_weights_for_g_mean()).argmax(axis=1))
    decided = model.predict(P_NEW)
    assert g_mean(Y_NEW, decided) > optimum - 0.003
    for label in range(3):  # drawn as often as predict_proba says
        expected = model.predict_proba(P_NEW)[:, label].mean()
        assert (decided == label).mean() == pytest.approx(expected, abs=0.005)


# basis ------------------------------------------------------------------------------------------


PRIORS_OF_GROUPS = [0.9, 0.1], [0.1, 0.9]


def of_two_groups(seed, log2_rows=12):
    """Classes are as 9 to 1 in one group, as 1 to 9 in the other; probabilities ignore that."""
    parts = [drawn(prior, log2_rows - 1, seed) for prior in PRIORS_OF_GROUPS]
    odds = [(proba / prior, y) for (proba, y), prior in zip(parts, PRIORS_OF_GROUPS, strict=True)]
    proba = np.concatenate([of / of.sum(axis=1, keepdims=True) for of, _ in odds])
    group = np.repeat([0, 1], 2 ** (log2_rows - 1))
    return np.column_stack([proba, group]), np.concatenate([y for _, y in odds])


def worst_group(estimator, X, y):
    right = estimator.predict(X) == y
    return float(min(right[X[:, 2] == group].mean() for group in (0, 1)))


def one_hot(X):
    return np.eye(2)[X[:, 2].astype(int)]


def blurred(X):
    return 0.02 + 0.96 * one_hot(X)


@pytest.fixture(scope="module")
def of_basis():
    """Classifiers for the worst group's accuracy, with soft groups for that of all rows."""
    P, y = of_two_groups(0, 11)
    frozen = FrozenEstimator(Given().fit(P[:, :2], y))
    bases = {"class": "class", "column": [2], "one hot": one_hot, "soft": blurred}
    few = {"max_observations": 30, "random_state": 0}
    return {
        name: PostShiftClassifier(
            frozen, scoring=None if name == "soft" else worst_group, basis=basis, **few
        ).fit(P, y)
        for name, basis in bases.items()
    }


@pytest.mark.parametrize("name", ["column", "soft"])
def test_weights_of_groups_raise_the_worst_groups_metric(of_basis, name):
    P, y = of_two_groups(1)
    model = of_basis[name]
    assert model.improved_ and model.weights_.shape == (2, 2)
    assert worst_group(model, P, y) > worst_group(of_basis["class"], P, y) + 0.05
    left, right = (blurred if name == "soft" else one_hot)(P[[0, -1]]) @ model.weights_
    assert left[0] > 2 * left[1] and right[1] > 2 * right[0]


def test_callable_that_gives_groups_is_the_same_as_their_column(of_basis):
    assert (of_basis["one hot"].weights_ == of_basis["column"].weights_).all()


@pytest.mark.parametrize("name", ["column", "one hot", "soft"])
def test_weights_of_a_row_mix_those_of_its_basis(of_basis, name):
    P, _ = of_two_groups(1, 8)
    model = of_basis[name]
    weights = (blurred if name == "soft" else one_hot)(P) @ model.weights_
    assert (model.predict(P) == (P[:, :2] * weights).argmax(axis=1)).all()


def named_groups():
    frame = pd.DataFrame(X3, columns=list("abcdef"))
    return frame.assign(side=np.where(X3[:, 0] > 0, "left", "right"), even=ALL_ROWS % 2)


def mixed_pipeline():
    columns = make_column_transformer(
        (StandardScaler(), list("abcdef")), (OneHotEncoder(), ["side"])
    )
    return make_pipeline(columns, LogisticRegression())


@pytest.mark.parametrize("basis, n", [(["side"], 2), ([6], 2), (["side", "even"], 4), ([6, 7], 4)])
def test_columns_of_a_data_frame_by_name_and_by_position(basis, n):
    frame = named_groups()
    model = fast(mixed_pipeline(), basis=basis).fit(frame, NAMES[Y3])
    assert model.weights_.shape == (n, 3)
    group = np.zeros(600, dtype=int) if n == 2 else frame["even"].to_numpy()
    group = group + (n // 2) * (frame["side"] == "right").to_numpy()
    scores = model.estimator_.predict_proba(frame) * model.weights_[group]
    assert (model.predict(frame) == model.classes_[scores.argmax(axis=1)]).all()


# data roles -------------------------------------------------------------------------------------


class Recorder:
    """Macro recall that keeps the first rows it was asked on."""

    def __init__(self):
        self.first = None

    def __call__(self, estimator, X, y):
        self.first = np.asarray(X) if self.first is None else self.first
        return recall_of(estimator, X, y)


def as_set(rows):
    return set(map(bytes, np.ascontiguousarray(rows, dtype=np.float64)))


def test_frozen_estimator_is_used_as_it_is_and_observed_on_all_rows():
    recorder, net = Recorder(), LogisticRegression().fit(X3, Y3)
    coef = net.coef_.copy()
    model = fast(FrozenEstimator(net), scoring=recorder).fit(X3[:200], Y3[:200])
    assert (recorder.first == X3[:200]).all()
    assert (net.coef_ == coef).all() and (model.estimator_.coef_ == coef).all()
    assert model.initial_score_ == recall(Y3[:200], net.predict(X3[:200]))


def test_validation_rows_given_are_what_is_observed():
    recorder = Recorder()
    model = fast(KNeighborsClassifier(1), scoring=recorder).fit(
        X3[:300], Y3[:300], X_val=X_VAL, y_val=Y_VAL
    )
    assert (recorder.first == X_VAL).all()
    assert as_set(model.estimator_._fit_X) == as_set(X3[:300])


def test_rows_split_off_are_observed_and_never_trained_on():
    recorder = Recorder()
    model = fast(KNeighborsClassifier(1), scoring=recorder, validation_fraction=0.3).fit(X3, Y3)
    assert len(recorder.first) == 180 and model.estimator_.n_samples_fit_ == 420
    assert not as_set(recorder.first) & as_set(model.estimator_._fit_X)


@pytest.mark.parametrize("estimator", [KNeighborsClassifier(1), DecisionTreeClassifier()])
def test_out_of_fold_predictions_are_what_is_observed(estimator):
    estimator.set_params(
        **({"random_state": 0} if "random_state" in estimator.get_params() else {})
    )
    model = fast(estimator, scoring="accuracy", cv=4).fit(X, Y)
    out_of_fold = accuracy_score(Y, cross_val_predict(estimator, X, Y, cv=4))
    assert model.initial_score_ == pytest.approx(out_of_fold, abs=1e-12)
    assert model.estimator_.score(X, Y) == 1.0 > out_of_fold + 0.02
    assert model.best_score_ < 1.0


def test_splits_that_leave_rows_out_have_the_others_observed():
    splits = list(ShuffleSplit(2, test_size=0.2, random_state=0).split(X))
    held = np.union1d(splits[0][1], splits[1][1])
    recorder = Recorder()
    model = fast(KNeighborsClassifier(1), scoring=recorder, cv=splits).fit(X, Y)
    assert len(held) < 240 and as_set(recorder.first) == as_set(X[held])
    assert len(recorder.first) == len(held)
    assert model.estimator_.n_samples_fit_ == 600


def test_class_that_a_training_fold_lacks_has_no_probability_there():
    without = np.flatnonzero((ALL_ROWS < 300) & (Y3 != 2))
    splits = [(without, np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    model = fast(scoring="accuracy", cv=splits).fit(X3, NAMES[Y3])
    first = LogisticRegression().fit(X3[300:], Y3[300:]).predict(X3[:300])
    second = LogisticRegression().fit(X3[without], Y3[without]).predict(X3[300:])
    expected = accuracy_score(Y3, np.concatenate([first, second]))
    assert model.initial_score_ == pytest.approx(expected, abs=1e-12)
    assert model.predict_proba(X3).shape == (600, 3)


# what the result is -----------------------------------------------------------------------------


def test_methods_and_tags():
    model = fast()
    for _ in range(2):
        assert is_classifier(model) and hasattr(model, "predict_proba")
        assert get_tags(model).classifier_tags.multi_class
        model.fit(X, Y)
    for unfitted in (fast().predict, fast().predict_proba, fast().export_onnx):
        with pytest.raises(NotFittedError):
            unfitted(X)


def test_fitted_attributes():
    model = fast().fit(pd.DataFrame(X3, columns=list("abcdef")), NAMES[Y3])
    check_is_fitted(model)
    assert model.classes_.tolist() == ["often", "rare", "seldom"]
    assert model.n_features_in_ == 6 and model.feature_names_in_.tolist() == list("abcdef")
    assert model.scorer_ is RECALL and isinstance(model.estimator_, LogisticRegression)
    assert model.improved_ is True and model.verdict_.startswith("post-shifted")
    assert model.best_score_ == pytest.approx(model.initial_score_ + model.score_gain_)
    assert model.n_scorer_calls_ > model.n_observations_


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("max_observations", [1, 2, 3, 5, 50])
def test_budget_is_kept_and_observations_are_a_table(max_observations, randomized):
    calls = []

    def counting(estimator, X, y):
        calls.append(len(y))
        return recall_of(estimator, X, y)

    model = fast(scoring=counting, max_observations=max_observations, randomized=randomized)
    rows = pd.DataFrame(model.fit(X3, Y3).observations_)
    assert list(rows) == ["step", "trajectory", "phase", "score", "predicted_score"]
    assert len(rows) == model.n_observations_ <= max_observations
    assert len(calls) == model.n_scorer_calls_
    assert rows.phase[0] == "initial" and rows.score[0] == model.initial_score_
    assert set(rows.phase) <= {"initial", "explore", "guide", "judge"}
    assert (rows.phase == "judge").sum() == 2 * (max_observations > 5)
    assert (rows.trajectory == -1).all() and rows.predicted_score.isna().all()
    assert model.improved_ or max_observations < 6


@pytest.mark.parametrize("weighting, randomized", [("full", False), ("diagonal", True)])
def test_same_seed_same_result_and_global_streams_stay_where_they_were(weighting, randomized):
    forest = RandomForestClassifier(10)  # draws from the global stream

    def fitted(seed):
        params = {"weighting": weighting, "randomized": randomized, "random_state": seed}
        return fast(forest, cv=3, **params).fit(X3, Y3)

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    one, same, other = fitted(0), fitted(0), fitted(1)
    one.predict(X3)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    np.testing.assert_array_equal(one.weights_, same.weights_)
    np.testing.assert_array_equal(one.predict_proba(X3), same.predict_proba(X3))
    np.testing.assert_array_equal(one.observations_["score"], same.observations_["score"])
    assert one.score_gain_se_ == same.score_gain_se_
    assert not np.array_equal(one.observations_["score"], other.observations_["score"])


def test_what_the_user_passes_is_left_alone():
    estimator, rows, labels = LogisticRegression(), X3.copy(), NAMES[Y3]
    model = fast(estimator).fit(rows, labels, X_val=X_VAL, y_val=NAMES[Y_VAL])
    assert vars(estimator) == vars(LogisticRegression())
    assert (rows == X3).all() and (labels == NAMES[Y3]).all()
    params = model.get_params(deep=False)
    assert params["estimator"] is estimator and params["scoring"] is RECALL


@pytest.mark.parametrize(
    "weighting, basis, randomized",
    list(itertools.product(["diagonal", "full"], ["class", "column"], [False, True])),
)
def test_weights_reproduce_decisions_by_hand(weighting, basis, randomized):
    rows = np.column_stack([X3, X3[:, 0] > 0])
    basis = [6] if basis == "column" else basis
    model = fast(weighting=weighting, basis=basis, randomized=randomized).fit(rows, NAMES[Y3])
    shape = (3, 3) if weighting == "full" else (3,)
    shape = shape if basis == "class" else (2, *shape)
    weights = model.weights_ if randomized else model.weights_[None]
    assert weights.shape == (len(weights), *shape)
    assert (weights >= 0).all()
    assert weights.reshape(len(weights), -1).max(axis=1) == pytest.approx(1)
    proba = model.estimator_.predict_proba(rows)
    by_weights = weights if basis != "class" else np.stack([weights, weights], axis=1)
    chances = np.zeros_like(proba)
    for share, of_group in zip(getattr(model, "shares_", [1.0]), by_weights, strict=True):
        of_rows = of_group[rows[:, 6].astype(int)]
        full = of_rows if weighting == "full" else of_rows[:, :, None] * np.eye(3)
        chances += share * np.eye(3)[np.einsum("nj,nji->ni", proba, full).argmax(axis=1)]
    np.testing.assert_allclose(model.predict_proba(rows).sum(axis=1), 1)
    decided = np.searchsorted(model.classes_, model.predict(rows))
    if randomized:
        assert model.shares_.sum() == pytest.approx(1) and (model.shares_ >= 0).all()
        np.testing.assert_allclose(model.predict_proba(rows), chances, atol=1e-12)
        assert (chances[ALL_ROWS, decided] > 0).all()
    else:
        assert not hasattr(model, "shares_")
        assert (decided == chances.argmax(axis=1)).all()
        assert (decided == model.predict_proba(rows).argmax(axis=1)).all()


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("weighting", ["diagonal", "full"])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        FixedThresholdClassifier(LogisticRegression(), threshold=0.3),
        HistGradientBoostingClassifier(max_iter=5),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_model_that_stays_as_it_came_is_the_estimator_itself(estimator, weighting, randomized):
    params = {"weighting": weighting, "randomized": randomized, "guard_z": 1000.0}
    recorder = Recorder()
    model = fast(frozen(estimator, X, Y), scoring=recorder, **params).fit(X, Y)
    assert not model.improved_ and model.verdict_.startswith("unchanged")
    assert (model.predict(X) == model.estimator_.predict(X)).all()
    assert (model.predict_proba(X) == model.estimator_.predict_proba(X)).all()
    assert model.best_score_ == model.initial_score_ == recall(Y, model.estimator_.predict(X))
    equal = np.eye(2) if weighting == "full" else np.ones(2)
    np.testing.assert_array_equal(model.weights_, equal[None] if randomized else equal)
    assert not randomized or model.shares_.tolist() == [1.0]


@pytest.mark.parametrize("guard_z", [None, 0.0])
def test_guard_lets_a_gain_pass(guard_z):
    model = fast(frozen(), guard_z=guard_z, max_observations=30).fit(X3, Y3)
    assert model.improved_ and model.score_gain_ > 0.03
    assert recall_of(model, X3, Y3) > model.initial_score_ + 0.03


@pytest.mark.parametrize("then", [{"randomized": False}, {"guard_z": 1000.0}])
def test_second_fit_forgets_the_first(then):
    model = fast(randomized=True, basis=[6]).fit(np.column_stack([X, X[:, 0] > 0]), Y)
    again = model.set_params(basis="class", **then).fit(X3, Y3)
    fresh = fast(randomized=True).set_params(**then).fit(X3, Y3)
    assert vars(again).keys() == vars(fresh).keys()
    np.testing.assert_array_equal(again.weights_, fresh.weights_)
    np.testing.assert_array_equal(again.predict(X3), fresh.predict(X3))


# metrics that do not react ----------------------------------------------------------------------


def test_metric_of_the_order_of_probabilities_is_soon_given_up():
    model = fast(frozen(X=X, y=Y), scoring="roc_auc", max_observations=50).fit(X, Y)
    assert not model.improved_ and "order of probabilities" in model.verdict_
    assert model.n_observations_ <= 10
    assert (model.predict_proba(X) == model.estimator_.predict_proba(X)).all()


def test_metric_of_probabilities_is_served_where_these_are_off():
    estimator = LogisticRegression(class_weight="balanced")
    model = fast(frozen(estimator, X, Y), scoring="neg_log_loss", guard_z=1.0).fit(X, Y)
    assert model.improved_, model.verdict_
    as_came = log_loss(Y, model.estimator_.predict_proba(X))
    assert log_loss(Y, model.predict_proba(X)) < as_came - 0.05


def test_probabilities_of_0_and_1_leave_nothing_to_weight():
    tree = DecisionTreeClassifier(random_state=0)
    model = fast(frozen(tree, X[:300], Y[:300]), max_observations=50).fit(X[:300], Y[:300])
    assert not model.improved_ and "probabilities are 0 and 1" in model.verdict_
    assert model.n_observations_ <= 10
    assert (model.predict(X) == model.estimator_.predict(X)).all()


# scorers ----------------------------------------------------------------------------------------


class Failing:
    """Macro recall that fails on the observations named, counted over calls on all rows."""

    def __init__(self, fails):
        self.fails, self.n = fails, 0

    def __call__(self, estimator, X, y):
        if np.array_equal(X, X_VAL):
            self.n += 1
            if self.fails(self.n - 1):
                raise ValueError("too bold")
        return recall_of(estimator, X, y)


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("fails", [lambda n: n % 3 == 2, lambda n: n == 1, lambda n: 6 <= n < 12])
def test_best_of_the_observations_that_did_not_fail_is_chosen(fails, randomized):
    with pytest.warns(ObservationWarning, match="too bold.*never chosen") as caught:
        model = fast(frozen(), scoring=Failing(fails), randomized=randomized, guard_z=0.0).fit(
            X_VAL, Y_VAL
        )
    assert len(caught) == 1
    failed = np.array([fails(n) for n in range(model.n_observations_)])
    assert (np.isnan(model.observations_["score"]) == failed).all() and failed.any()
    assert model.improved_, model.verdict_
    assert recall_of(model, X_VAL, Y_VAL) > model.initial_score_


@pytest.mark.parametrize("randomized", [False, True])
def test_scorer_that_fails_on_all_but_the_model_as_it_came_leaves_it_alone(randomized):
    with pytest.warns(ObservationWarning):
        scorer = Failing(lambda n: n > 0)
        model = fast(frozen(), scoring=scorer, randomized=randomized).fit(X_VAL, Y_VAL)
    assert not model.improved_ and model.best_score_ == model.initial_score_
    assert (model.predict(X3) == model.estimator_.predict(X3)).all()


def in_parts(estimator, X, y):
    halves = estimator.predict(X[: len(y) // 2]), estimator.predict(X[len(y) // 2 :])
    return recall(y, np.concatenate(halves))


def on_other_rows(estimator, X, y):
    return recall(Y3[:100], estimator.predict(X3[:100] + 1e-3))


@pytest.mark.parametrize("scorer", [in_parts, on_other_rows])
def test_scorer_may_predict_on_any_rows(scorer):
    model = fast(frozen(), scoring=scorer).fit(X3[100:], Y3[100:])
    assert model.initial_score_ == scorer(model.estimator_, X3[100:], Y3[100:])
    assert model.improved_ and scorer(model, X3[100:], Y3[100:]) > model.initial_score_


def test_scorer_may_look_at_fitted_attributes_of_the_model():
    seen = set()

    def scorer(estimator, X, y):
        seen.add((estimator.n_features_in_, "".join(estimator.feature_names_in_)))
        return recall_of(estimator, X, y) + 0 * len(estimator.classes_)

    frame = pd.DataFrame(X3, columns=list("abcdef"))
    fast(scoring=scorer).fit(frame, Y3)
    assert seen == {(6, "abcdef")}


# a citizen of scikit-learn ----------------------------------------------------------------------


def test_clone_pickle_and_nested_parameters():
    model = fast(LogisticRegression(C=0.5), basis=one_hot, scoring=recall_of)
    copied = clone(model).set_params(estimator__C=2.0, epsilon=0.1)
    assert (model.estimator.C, copied.estimator.C, copied.epsilon) == (0.5, 2.0, 0.1)
    assert copied.basis is one_hot and not hasattr(copied, "classes_")
    rows = np.column_stack([X3[:, :2], X3[:, 2] > 0, X3[:, 3:]])
    model.fit(rows, NAMES[Y3])
    again = pickle.loads(pickle.dumps(model))
    assert model.improved_ and (again.predict(rows) == model.predict(rows)).all()
    assert again.score(rows, NAMES[Y3]) == model.score(rows, NAMES[Y3])


def test_grid_search_inside_a_pipeline_around_a_pipeline():
    inner = fast(make_pipeline(StandardScaler(), LogisticRegression()), max_observations=6)
    outer = make_pipeline(StandardScaler(), inner)
    prefix = "postshiftclassifier__"
    grid = {
        prefix + "estimator__logisticregression__C": [1e-6, 1.0],
        prefix + "weighting": ["diagonal", "full"],
    }
    search = GridSearchCV(outer, grid, scoring=RECALL, cv=2, error_score="raise")
    search.fit(X3, NAMES[Y3])
    best = search.best_estimator_[-1]
    assert search.best_params_[next(iter(grid))] == best.estimator_[-1].C
    assert best.weighting == search.best_params_[prefix + "weighting"]
    assert len(np.unique(search.cv_results_["mean_test_score"])) > 1


def test_score_is_the_metric_and_cross_validation_shows_its_gain():
    model = fast(scoring="f1_macro", max_observations=3).fit(X3, NAMES[Y3])
    expected = f1_score(NAMES[Y3], model.predict(X3), average="macro")
    assert model.score(X3, NAMES[Y3]) == pytest.approx(expected)
    shifted = cross_val_score(fast(cv=3, max_observations=30), X3, Y3, cv=3)
    as_came = cross_val_score(LogisticRegression(), X3, Y3, cv=3, scoring=RECALL)
    assert shifted.mean() > as_came.mean() + 0.02


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


WEIGHTS = np.random.default_rng(0).uniform(0.1, 5, 600)


def weighted_accuracy(y, decided, sample_weight):
    return float(sample_weight @ (decided == y) / sample_weight.sum())


@pytest.mark.parametrize("cv", [None, 3])
def test_sample_weight_reaches_the_estimator_row_by_row(routing, cv):
    estimator = LogisticRegression().set_fit_request(sample_weight=True)
    scorer = make_scorer(recall_as_sklearns).set_score_request(sample_weight=False)
    model = fast(estimator, scoring=scorer, cv=cv).fit(X, Y, sample_weight=WEIGHTS)
    if cv:
        expected = LogisticRegression().fit(X, Y, sample_weight=WEIGHTS)
        np.testing.assert_allclose(model.estimator_.coef_, expected.coef_)
    unweighted = fast(cv=cv).fit(X, Y).estimator_
    assert not np.allclose(model.estimator_.coef_, unweighted.coef_, rtol=1e-3)


def recall_as_sklearns(y_true, y_pred, sample_weight=None):
    return recall(y_true, y_pred)


@pytest.mark.parametrize("cv", [None, 3])
def test_sample_weight_reaches_the_scorer_row_by_row(routing, cv):
    weight_of = {row.tobytes(): weight for row, weight in zip(X, WEIGHTS, strict=True)}

    class Scorer:
        def __call__(self, estimator, X, y, sample_weight):
            assert (sample_weight == [weight_of[row.tobytes()] for row in X]).all()
            return weighted_accuracy(y, estimator.predict(X), sample_weight)

        def get_metadata_routing(self):
            request = sklearn.utils.metadata_routing.MetadataRequest(owner="Scorer")
            request.score.add_request(param="sample_weight", alias=True)
            return request

    estimator = LogisticRegression().set_fit_request(sample_weight=False)
    model = fast(estimator, scoring=Scorer(), cv=cv).fit(X, Y, sample_weight=WEIGHTS)
    assert np.isfinite(model.observations_["score"]).all()
    assert (model.estimator_.coef_ == fast(cv=cv).fit(X, Y).estimator_.coef_).all()
    expected = weighted_accuracy(Y, model.predict(X), WEIGHTS)
    assert model.score(X, Y, sample_weight=WEIGHTS) == pytest.approx(expected)


def test_weights_of_rows_change_what_weights_of_classes_are_best(routing):
    scorer = make_scorer(weighted_accuracy).set_score_request(sample_weight=True)
    weights = np.where(Y_FIT == 0, 1.0, 5.0)
    model = PostShiftClassifier(frozen(Given(), P_FIT, Y_FIT), scoring=scorer, random_state=0)
    model.fit(P_FIT, Y_FIT, sample_weight=weights)

    def value(weights_of_classes):
        return weighted_accuracy(Y_FIT, (P_FIT * weights_of_classes).argmax(axis=1), weights)

    assert value(model.weights_) > value([0.2, 1.0, 1.0]) - 0.003
    assert model.weights_[0] < 0.3 < model.weights_[1:].min()


def test_groups_reach_the_splitter(routing):
    groups = ALL_ROWS % 5
    rows = np.column_stack([X, groups])

    class Together(KNeighborsClassifier):
        """Fails if it meets a group that it was trained on."""

        def predict(self, X):
            assert self.whole or not np.isin(X[:, 6], self._fit_X[:, 6]).any()
            return super().predict(X)

        @property
        def whole(self):
            return len(np.unique(self._fit_X[:, 6])) == 5

    model = fast(Together(1), scoring="accuracy", cv=GroupKFold(5)).fit(rows, Y, groups=groups)
    expected = cross_val_predict(
        KNeighborsClassifier(1), rows, Y, cv=GroupKFold(5), params={"groups": groups}
    )
    assert model.initial_score_ == pytest.approx(accuracy_score(Y, expected), abs=1e-12)
    with pytest.raises(ValueError, match="groups"):
        fast(cv=GroupKFold(5)).fit(X, Y)
