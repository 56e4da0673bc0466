"""What the guard sees must not depend on how a scorer asks, nor on what is kept in memory."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._candidate import KnownRows
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import FiLMAdapter
from sk_metricopt.exceptions import AdapterError
from sk_metricopt.exploration import Recipe
from sk_metricopt.exploration._objectives import CrossEntropyObjective
from sk_metricopt.exploration._rows import LabelledRows, Rows
from sk_metricopt.exploration._trajectories import Trajectories
from tests.nets import classifier, table, trained

X, Y = table(2)
FAST = {"max_observations": 40, "observation_interval": 5, "random_state": 0}


def whole(estimator, X, y):
    return float((estimator.predict(X) == y).mean())


def by_group(estimator, X, y):
    """The same number, asked for in two parts and another container."""
    X = np.asarray(X)
    group = X[:, 0] > 0
    hits = [(estimator.predict(X[g]) == y[g]).sum() for g in (group, ~group) if g.any()]
    return float(sum(hits) / len(y))


def fitted(scorer, X_val, **params):
    net = FrozenEstimator(trained(classifier(), X[:200], Y[:200]))
    finetuner = MetricOptFinetuner(net, scoring=scorer, **FAST | params)
    return finetuner.fit(X[:200], Y[:200], X_val=X_val, y_val=Y[200:])


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame], ids=["array", "frame"])
def test_scorer_that_predicts_on_groups_gets_the_same_out_of_fold_answers(container):
    X_val = container(X[200:])
    one, other = fitted(whole, X_val), fitted(by_group, X_val)
    np.testing.assert_allclose(one.observations_["score"], other.observations_["score"])
    assert one.score_gain_ == pytest.approx(other.score_gain_)


def test_known_rows_are_found_in_any_order_and_unknown_ones_are_not():
    known = KnownRows(X[:50])
    np.testing.assert_array_equal(known.find(X[[7, 3]]), [7, 3])
    assert known.find(X[49:51]) is None
    strings = KnownRows(pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}))
    np.testing.assert_array_equal(strings.find(pd.DataFrame({"a": ["y"], "b": [2]})), [1])


@pytest.mark.parametrize("max_observations", [65, 97, 130])
def test_judged_observations_are_kept_however_many_score_better(max_observations):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetuner = fitted("accuracy", X[200:], max_observations=max_observations)
    assert np.isfinite(finetuner.score_gain_se_)
    assert finetuner.n_observations_ <= max_observations


def test_module_that_writes_into_its_input_changes_no_data_of_the_user():
    class Inplace(nn.Sequential):
        def __init__(self):
            super().__init__(nn.ReLU(inplace=True), nn.Linear(X.shape[1], 2))

    X_train, X_val = (np.array(part, dtype=np.float32) for part in (X[:200], X[200:]))
    before = X_train.copy(), X_val.copy()
    finetuner = MetricOptFinetuner(Inplace().eval(), scoring="f1", **FAST)
    finetuner.fit(X_train, Y[:200], X_val=X_val, y_val=Y[200:])
    np.testing.assert_array_equal(X_train, before[0])
    np.testing.assert_array_equal(X_val, before[1])


def test_fit_that_fails_leaves_no_fitted_estimator():
    finetuner = fitted("f1", X[200:])
    finetuner.set_params(adapter_targets=["no such layer"])
    with pytest.raises(AdapterError):
        finetuner.fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    with pytest.raises(NotFittedError):
        check_is_fitted(finetuner)


def test_restarted_trajectory_steps_as_a_fresh_one_does():
    net = trained(classifier(), X, Y)
    adapted = AdaptedNet(NetBridge(net), FiLMAdapter(), "auto", X[:64])
    rows = Rows(adapted.encode(X), torch.as_tensor(Y))
    objective = CrossEntropyObjective(adapted, LabelledRows(rows, rows, [], 2))

    def steps_after_restart(n_before):
        zero = torch.zeros(1, 1, adapted.n_params)
        generator = torch.Generator().manual_seed(0)
        run = Trajectories(
            adapted, objective, [Recipe(0.5)], zero, torch.optim.Adam, 0.01, generator
        )
        run.step(n_before)
        run.restart(0, zero[0], Recipe(0.5))
        generator.manual_seed(1)
        run.step(3)
        return run.position

    torch.testing.assert_close(steps_after_restart(50), steps_after_restart(0))


@pytest.mark.parametrize("max_observations", [84, 110, 122])
def test_score_that_ties_all_candidates_is_no_trouble(max_observations):
    finetuner = fitted(
        lambda *_: 0.5, X[200:], max_observations=max_observations, observation_interval=1
    )
    assert finetuner.n_observations_ <= max_observations
    assert not finetuner.improved_


@pytest.mark.parametrize("turned", [np.s_[::-1], np.s_[:, ::-1]], ids=["rows", "columns"])
def test_arrays_that_run_backwards_are_taken(turned):
    net = classifier().fit(X[:200][turned].copy(), Y[:200])
    finetuner = MetricOptFinetuner(FrozenEstimator(net), scoring="f1", **FAST)
    finetuner.fit(X[:200][turned], Y[:200], X_val=X[200:][turned], y_val=Y[200:])
    assert len(finetuner.predict(X[200:][turned])) == len(Y[200:])
