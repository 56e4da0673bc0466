"""Any scorer: what it may look at, how often it is called, and what happens when it fails."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    fbeta_score,
    get_scorer,
    log_loss,
    make_scorer,
    roc_auc_score,
)
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.exceptions import InterruptionWarning, ObservationWarning
from tests.nets import MLP, binary_classifier, classifier, log_likelihood, table, trained

X, Y = table(2)
X3, Y3 = table(3)
X_TRAIN, Y_TRAIN, X_VAL, Y_VAL = X[:180], Y[:180], X[180:], Y[180:]
N_VAL = len(Y_VAL)


def finetuner(scoring, net=None, **params):
    few = {"max_observations": 14, "observation_interval": 3, "lr": 0.05, "random_state": 0}
    net = classifier() if net is None else net
    return MetricOptFinetuner(net, scoring=scoring, **({"guard_z": None} | few | params))


def fitted(scoring, net=None, params=None, **fit_params):
    model = finetuner(scoring, net, **(params or {}))
    return model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL, **fit_params)


def accuracy(estimator, X, y):
    return float((estimator.predict(X) == y).mean())


def frozen_net():
    return FrozenEstimator(trained(classifier(), X_TRAIN, Y_TRAIN))


# which scorers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["accuracy", "f1", "roc_auc", "average_precision", "neg_log_loss", "neg_brier_score"]
)
@pytest.mark.parametrize("make", [classifier, binary_classifier])
def test_scorers_by_name(name, make):
    model = fitted(name, make(), {"guard_z": 1000.0, "max_observations": 6})
    assert model.initial_score_ == pytest.approx(get_scorer(name)(model, X_VAL, Y_VAL), abs=1e-6)
    assert model.score(X_VAL, Y_VAL) == pytest.approx(model.initial_score_, abs=1e-6)
    assert (model.initial_score_ < 0) == name.startswith("neg")


@pytest.mark.parametrize("name", ["f1_macro", "roc_auc_ovr", "neg_log_loss", "top_k_accuracy"])
def test_scorers_of_three_classes_by_name(name):
    net = classifier(module__n_classes=3)
    model = finetuner(name, net, guard_z=1000.0).fit(
        X3[:180], Y3[:180], X_val=X3[180:], y_val=Y3[180:]
    )
    expected = get_scorer(name)(model, X3[180:], Y3[180:])
    assert model.initial_score_ == pytest.approx(expected, abs=1e-6)


class ScoringNet(NeuralNetClassifier):
    """A net with a decision function of its own."""

    def decision_function(self, X):
        return self.predict_proba(X)[:, 1] - 0.5


@pytest.mark.parametrize(
    "response_method, metric",
    [
        ("predict", f1_score),
        ("predict_proba", average_precision_score),
        ("decision_function", roc_auc_score),
        (("decision_function", "predict_proba"), roc_auc_score),
        (["predict_proba", "decision_function"], roc_auc_score),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_make_scorer_with_each_response_method(response_method, metric):
    scorer = make_scorer(metric, response_method=response_method)
    net = ScoringNet(MLP, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0)
    model = fitted(scorer, net, {"guard_z": 1000.0, "max_observations": 8, "lr": 0.2})
    assert model.initial_score_ == pytest.approx(scorer(model, X_VAL, Y_VAL), abs=1e-6)
    assert model.observations_["score"].std() > 0


def test_decision_function_that_the_net_lacks_is_refused_with_scikit_learns_words():
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    with pytest.raises(ValueError, match="'scoring' .*decision_function"):
        fitted(scorer)


def test_the_sign_of_a_loss_is_in_the_scorer():
    scorer = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba")
    model = fitted(scorer)
    assert model.improved_ and model.initial_score_ < model.best_score_ < 0
    # As scikit-learn hands it on: the positive class alone. The other's column rounds otherwise.
    assert model.score(X_VAL, Y_VAL) == -log_loss(Y_VAL, model.predict_proba(X_VAL)[:, 1])


def test_arguments_of_the_metric_are_kept():
    y = np.array(["bad", "good"])[Y]
    scorer = make_scorer(fbeta_score, beta=2, pos_label="bad")
    model = finetuner(scorer, guard_z=1000.0).fit(X[:180], y[:180], X_val=X[180:], y_val=y[180:])
    expected = fbeta_score(y[180:], model.predict(X[180:]), beta=2, pos_label="bad")
    assert model.initial_score_ == expected


def test_weighted_kappa_of_ordered_classes_improves():
    scorer = make_scorer(cohen_kappa_score, weights="quadratic")
    model = finetuner(scorer, classifier(module__n_classes=3), max_observations=30).fit(X3, Y3)
    assert model.improved_ and model.best_score_ > model.initial_score_


# what a scorer sees -----------------------------------------------------------------------------


def test_scorer_sees_a_fitted_classifier():
    def inquisitive(estimator, X, y):
        assert sklearn.base.is_classifier(estimator)
        sklearn.utils.validation.check_is_fitted(estimator)
        assert estimator.classes_.tolist() == ["no", "yes"]
        assert estimator.n_features_in_ == 6
        assert not hasattr(estimator, "transform")
        assert estimator.predict_proba(X).shape == (len(X), 2)
        assert set(estimator.predict(X)) <= {"no", "yes"}
        return accuracy(estimator, X, y)

    y = np.array(["no", "yes"])[Y]
    assert finetuner(inquisitive).fit(X, y).n_scorer_calls_ > 14


def test_scorer_may_change_what_it_gets():
    def careless(estimator, X, y):
        value = accuracy(estimator, X, y)
        estimator.predict_proba(X)[:] = 0
        estimator.predict(X)[:] = 1
        return value

    careful, other = fitted(accuracy), fitted(careless)
    assert (careful.adapter_params_ == other.adapter_params_).all()


def profit(estimator, X, y):
    """A plain callable that looks at a column of X."""
    assert list(X.columns) == [*"abcdef", "amount"]
    return float(X["amount"][estimator.predict(X) == y].sum() / X["amount"].sum())


@pytest.mark.parametrize("given", [True, False])
def test_scorer_sees_the_data_frame_that_was_given(given):
    frame = pd.DataFrame(X, columns=list("abcdef")).assign(amount=np.linspace(0, 1, 300))
    model = finetuner(profit, classifier(module__input_dim=7), guard_z=1000.0)
    if given:
        model.fit(frame[:180], Y[:180], X_val=frame[180:], y_val=Y[180:])
        assert model.initial_score_ == profit(model, frame[180:], Y[180:])
    else:
        model.fit(frame, Y)
    assert len(model.observations_["score"]) > 10


def test_scorer_may_predict_on_other_rows():
    """Stability: decisions that stay when the rows are moved a little."""

    def stability(estimator, X, y):
        moved = estimator.predict(X + np.float32(0.05))
        return accuracy(estimator, X, y) - 0.5 * float((moved != estimator.predict(X)).mean())

    model = fitted(stability, params={"max_observations": 6, "guard_z": 1000.0})
    assert model.initial_score_ == pytest.approx(stability(model, X_VAL, Y_VAL))
    assert len(set(model.observations_["score"])) > 1


def test_scorer_of_rows_it_keeps_to_itself_sees_each_candidate():
    held_X, held_y = X_TRAIN[:60], Y_TRAIN[:60]

    def secret(estimator, X, y):
        return float((estimator.predict_proba(held_X)[:, 1] * held_y).mean())

    model = fitted(secret, params={"max_observations": 6})
    assert len(set(model.observations_["score"])) > 3


# metadata ---------------------------------------------------------------------------------------


WEIGHTS = np.linspace(0, 5, 300)


class Routed:
    """A metric that keeps the weights it is called with."""

    def __init__(self):
        self.seen = []

    def __call__(self, y_true, y_pred, sample_weight=None):
        self.seen.append((len(y_true), sample_weight))
        return accuracy_score(y_true, y_pred, sample_weight=sample_weight)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_sample_weight_reaches_only_the_scorer_and_row_by_row(routing):
    metric = Routed()
    scorer = make_scorer(metric).set_score_request(sample_weight=True)
    net = frozen_net()
    model = fitted(scorer, net, {"guard_z": 1000.0}, sample_weight=WEIGHTS[180:])
    expected = accuracy_score(Y_VAL, model.predict(X_VAL), sample_weight=WEIGHTS[180:])
    assert model.initial_score_ == expected
    assert all(len(weight) == n_rows for n_rows, weight in metric.seen)
    assert (metric.seen[0][1] == WEIGHTS[180:]).all()
    for _, weight in metric.seen:  # of a resample: these rows' weights
        assert np.isin(weight, WEIGHTS[180:]).all()
    unweighted = fitted(make_scorer(accuracy_score), net, {"guard_z": 1000.0})
    assert model.initial_score_ != unweighted.initial_score_


def test_sample_weight_is_split_like_the_rows(routing):
    weight_of = {row.tobytes(): weight for row, weight in zip(X, WEIGHTS, strict=True)}

    def scorer_on_rows(estimator, X, y, sample_weight):
        expected = [weight_of[row.tobytes()] for row in X]
        assert (sample_weight == expected).all()
        return accuracy(estimator, X, y)

    class Scorer:
        """A scorer of one's own that asks for weights."""

        def __call__(self, estimator, X, y, **params):
            return scorer_on_rows(estimator, X, y, **params)

        def get_metadata_routing(self):
            request = sklearn.utils.metadata_routing.MetadataRequest(owner="Scorer")
            request.score.add_request(param="sample_weight", alias=True)
            return request

    model = finetuner(Scorer()).fit(X, Y, sample_weight=WEIGHTS)
    assert model.n_scorer_calls_ > 14
    assert np.isfinite(model.observations_["score"]).all()


def test_sample_weight_that_the_scorer_refuses_does_not_reach_it(routing):
    metric = Routed()
    scorer = make_scorer(metric).set_score_request(sample_weight=False)
    with pytest.raises((TypeError, ValueError), match="sample_weight"):
        finetuner(scorer).fit(X, Y, sample_weight=WEIGHTS)
    assert not metric.seen


def test_weights_of_another_length_than_the_validation_rows_are_refused(routing):
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    with pytest.raises(ValueError, match="'sample_weight' .* per row of X_val, 120.*Got 180"):
        fitted(scorer, sample_weight=WEIGHTS[:180])


def test_score_routes_weights_too(routing):
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    model = finetuner(scorer).fit(X, Y, sample_weight=WEIGHTS)
    expected = accuracy_score(Y, model.predict(X), sample_weight=WEIGHTS)
    assert model.score(X, Y, sample_weight=WEIGHTS) == expected


# how often --------------------------------------------------------------------------------------


def test_resampling_asks_only_for_what_can_still_win(record_property):
    calls = []

    def f1(y_true, y_pred):
        calls.append(len(y_true))
        return f1_score(y_true, y_pred)

    X_many, y_many = table(2, n_rows=2100)
    rows = {"X_val": X_many[600:], "y_val": y_many[600:]}
    model = finetuner(make_scorer(f1), max_observations=150, observation_interval=2)
    model.fit(X_many[:600], y_many[:600], **rows)
    record_property("scorer calls", len(calls))
    print(f"{len(calls)} scorer calls for {model.n_observations_} observations of 1,500 rows")
    assert model.n_observations_ > 120
    assert len(calls) == model.n_scorer_calls_
    assert len(calls) < 3000 < 150 * 120


# scorers that fail ------------------------------------------------------------------------------


class Failing:
    """A log-likelihood that fails on the observations named, counted over calls on all rows."""

    def __init__(self, fails, how=None):
        self.fails, self.how, self.n = fails, how, 0

    def __call__(self, estimator, X, y):
        if len(y) == N_VAL and set(map(bytes, X)) == set(map(bytes, X_VAL)):
            self.n += 1
            if self.fails(self.n - 1):
                if isinstance(self.how, Exception):
                    raise self.how
                return self.how
        return log_likelihood(estimator, X, y)


@pytest.mark.parametrize("how", [ValueError("too bold"), KeyError("x"), np.nan, None, "0.5"])
def test_failed_observations_are_recorded_with_one_warning_and_the_rest_goes_on(how):
    scorer = Failing(lambda n: n % 3 == 2, how)
    with pytest.warns(ObservationWarning) as caught:
        model = fitted(scorer, params={"max_observations": 20})
    assert len(caught) == 1
    assert "recorded as failed and never chosen" in str(caught[0].message)
    scores = model.observations_["score"]
    assert np.isnan(scores).sum() >= 4 and np.isfinite(scores).sum() >= 10
    assert model.n_observations_ > 15
    assert np.isfinite([model.best_score_, model.score_gain_]).all()
    assert {"explore", "guide"} <= set(model.observations_["phase"])


def test_scorer_that_fails_from_some_observation_on_still_gives_the_best_before():
    net = frozen_net()
    reference = fitted(log_likelihood, net, {"max_observations": 60, "guard_z": 0.0})
    with pytest.warns(ObservationWarning), pytest.warns(InterruptionWarning, match="5 times"):
        scorer = Failing(lambda n: n >= 30)
        model = fitted(scorer, net, {"max_observations": 60, "guard_z": 0.0})
    scores = model.observations_["score"]
    # The first is scored twice, to see whether the scorer has noise.
    assert np.isfinite(scores[:29]).all() and np.isnan(scores[29:]).all()
    assert model.initial_score_ == reference.initial_score_
    assert np.isfinite([model.best_score_, model.score_gain_]).all()
    assert model.best_score_ >= model.initial_score_
    assert scores[:29].max() > scores[0]
    assert model.improved_, model.verdict_


def test_scorer_that_fails_on_all_but_the_model_as_it_came_leaves_it_alone():
    net = frozen_net()
    with pytest.warns(ObservationWarning), pytest.warns(InterruptionWarning, match="5 times"):
        model = fitted(Failing(lambda n: n > 0), net)
    assert not model.improved_ and model.verdict_.startswith("unchanged")
    assert (model.predict(X) == net.predict(X)).all()
    assert model.best_score_ == model.initial_score_


@pytest.mark.parametrize("guard_z", [None, 0.0, 1.0])
def test_scorer_of_a_fixed_number_of_rows_is_told_what_it_takes(guard_z):
    costs = np.linspace(1, 2, N_VAL)

    def cost(estimator, X, y):
        return -float((costs * (estimator.predict(X) != y)).sum())

    with pytest.warns(ObservationWarning, match="on a resample.*must work on any rows.*metadata"):
        model = fitted(cost, params={"guard_z": guard_z})
    assert np.isfinite(model.observations_["score"]).all()
    assert guard_z is None or not model.improved_


def test_metric_that_is_undefined_on_a_resample_is_no_news():
    """Two rows of a class: some resamples have none left out."""
    rare = np.concatenate([np.flatnonzero(Y == 0)[:100], np.flatnonzero(Y == 1)[:12]])
    model = finetuner("roc_auc").fit(X[rare], Y[rare])
    assert np.isfinite(model.initial_score_)


def test_constant_metric_changes_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(lambda estimator, X, y: 0.5, params={"guard_z": 0.0})
    assert not model.improved_ and model.best_score_ == 0.5


def test_interrupt_is_not_a_failed_observation():
    def interrupted(estimator, X, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(interrupted)
