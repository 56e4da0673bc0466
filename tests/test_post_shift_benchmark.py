"""Tests of benchmarks.post_shift: what its tables take for granted."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks.metrics import SCORERS
from benchmarks.post_shift import OURS, fits, measure, post_shift
from benchmarks.post_shift_adult import group_g_mean
from benchmarks.post_shift_baselines import BASELINES, Problem
from benchmarks.post_shift_tasks import POST_SHIFT_TASKS
from benchmarks.tasks import TASKS, Split
from sk_metricopt import PostShiftClassifier


@pytest.fixture(scope="module")
def problem():
    X, y = make_classification(
        1500, n_informative=5, n_classes=3, weights=[0.8, 0.15], random_state=0
    )
    parts = [part for rows in np.split(np.arange(1500), [500, 1000]) for part in (X[rows], y[rows])]
    fitted = LogisticRegression().fit(*parts[:2])
    groups = POST_SHIFT_TASKS[0].groups
    scorer = SCORERS["macro_f1"]
    return Problem(LogisticRegression(), fitted, Split(*parts), scorer, groups, 20, seed=0)


@pytest.mark.parametrize("method", ["post_shift", "post_shift_z1.64", "post_shift_noguard"])
def test_a_shared_search_is_the_search_of_the_guarded_one(problem, method):
    shared = post_shift(problem, OURS[method])[0]
    alone = PostShiftClassifier(
        FrozenEstimator(problem.fitted),
        scoring=problem.scorer,
        max_observations=20,
        random_state=0,
        **OURS[method],
    ).fit(problem.split.X_val, problem.split.y_val)
    X = problem.split.X_test
    np.testing.assert_array_equal(shared.model.predict(X), alone.predict(X))
    assert shared.improved == alone.improved_
    assert shared.n_observations == alone.n_observations_


@pytest.mark.parametrize("method", ["bias", "bias_informed", "post_shift_random", "post_shift_cv"])
def test_searches_keep_to_the_budget_and_better_the_score_they_saw(problem, method):
    row = measure(method, problem, "tasks")
    assert row["n_observations"] <= problem.budget
    if method in BASELINES:
        assert row["n_observations"] == problem.budget
        assert row["val_claimed_gain"] >= 0


def test_halves_share_no_data_set_and_are_those_declared():
    declared = {task.dataset: task.half for task in TASKS}
    assert {(task.dataset, task.half) for task in POST_SHIFT_TASKS} <= set(declared.items())
    assert len({task.name for task in POST_SHIFT_TASKS}) == len(POST_SHIFT_TASKS)


def test_methods_on_all_rows_are_not_given_noisy_labels():
    noisy = next(task for task in POST_SHIFT_TASKS if task.noise)
    assert not fits("post_shift_cv", noisy)
    assert fits("post_shift", noisy)


def test_group_g_mean_is_the_mean_of_four_rates():
    X = np.zeros((8, 62))
    X[4:, 61] = 1
    y = np.array([0, 0, 1, 1] * 2)
    model = LogisticRegression()
    model.predict = lambda X: np.array([0, 1, 1, 1, 0, 0, 0, 1])
    assert group_g_mean(model, X, y) == pytest.approx((0.5 * 1 * 1 * 0.5) ** 0.25)
