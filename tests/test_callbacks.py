"""Callbacks: told of every observation, in order, and able to end the run."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import EarlyStopping

from sk_metricopt import MetricOptFinetuner, MetricOptSession
from sk_metricopt.exceptions import InterruptionWarning, ObservationWarning
from tests.killed_runs import X_FIT, X_VAL, Y_FIT, Y_VAL, finetuner, n_kept
from tests.nets import classifier, log_likelihood, trained


def fit(callbacks, folder=None, scorer=log_likelihood, **params) -> MetricOptFinetuner:
    params = {"max_observations": 16} | params
    model = finetuner(folder, scorer, callbacks=callbacks, **params)
    return model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


def stop_at(number: int):
    def stop(state):
        if state.number == number:
            state.stop("that was enough")

    return stop


def assert_same_fit(fitted, other):
    np.testing.assert_array_equal(fitted.adapter_params_, other.adapter_params_)
    assert fitted.verdict_ == other.verdict_
    for name, column in fitted.observations_.items():
        np.testing.assert_array_equal(column, other.observations_[name])


def test_a_callback_is_told_of_each_observation_as_the_record_has_it():
    states = []
    fitted = fit([states.append])
    record = fitted.observations_
    assert [s.number for s in states] == list(range(1, fitted.n_observations_ + 1))
    for name in ("phase", "trajectory", "step", "score", "predicted_score"):
        np.testing.assert_array_equal([getattr(s, name) for s in states], record[name])
    best = np.maximum.accumulate(record["score"])
    np.testing.assert_array_equal([s.best_score for s in states], best)
    assert {(s.budget, s.initial_score, s.replayed) for s in states} == {
        (16, fitted.initial_score_, False)
    }
    elapsed = [s.elapsed for s in states]
    assert elapsed == sorted(elapsed)
    assert 0 < elapsed[0] < elapsed[-1]


def test_the_record_that_a_callback_gets_cannot_be_changed():
    def write(state):
        state.score = 1.0

    with pytest.raises(dataclasses.FrozenInstanceError):
        fit([write])


def test_callbacks_change_nothing_about_a_fit_even_if_they_draw_random_numbers():
    def draws(state):
        np.random.random(3)
        torch.rand(3)

    assert_same_fit(fit([draws]), fit(None))


@pytest.mark.parametrize("number", [1, 2, 7, 16])
def test_a_callback_ends_the_run_and_the_estimator_is_fitted(number):
    states = []
    with pytest.warns(InterruptionWarning, match="that was enough"):
        fitted = fit([stop_at(number), states.append])
    assert fitted.n_observations_ == len(states) == number
    assert fitted.predict(X_VAL).shape == Y_VAL.shape


def test_the_reason_is_the_verdict_where_nothing_else_was_observed():
    with pytest.warns(InterruptionWarning):
        fitted = fit([stop_at(1)])
    assert fitted.verdict_ == "unchanged: that was enough"


def test_all_callbacks_hear_of_the_observation_that_one_of_them_stops_at():
    heard = []
    with pytest.warns(InterruptionWarning, match="first reason"):
        fit([lambda s: s.stop("first reason"), lambda s: s.stop("second"), heard.append])
    assert len(heard) == 1


@pytest.mark.parametrize("reason", [None, "", "  ", 3])
def test_a_stop_without_a_reason_is_refused(reason):
    with pytest.raises(TypeError, match="'reason' parameter of ObservationState.stop"):
        fit([lambda state: state.stop(reason)])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_what_a_callback_raises_leaves_fit_at_once(n_jobs):
    def breaks(state):
        seen.append(state)
        if state.number == 5:
            raise ZeroDivisionError("in the callback")

    seen = []
    model = finetuner(None, log_likelihood, callbacks=[breaks], n_jobs=n_jobs)
    with pytest.raises(ZeroDivisionError, match="in the callback"):
        model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    assert len(seen) == 5
    assert not hasattr(model, "estimator_")


def test_answers_are_on_disk_before_callbacks_hear_of_them(tmp_path):
    kept = []
    fit([lambda state: kept.append((state.number, n_kept(tmp_path)))], tmp_path)
    assert all(on_disk >= number for number, on_disk in kept)


def test_nothing_is_lost_or_asked_twice_where_a_callback_breaks_down(tmp_path):
    def breaks(state):
        if state.number == 7:
            raise RuntimeError("in the callback")

    def counted(estimator, X, y):
        asked.append(len(y))
        return log_likelihood(estimator, X, y)

    asked = []
    alone = fit(None, scorer=counted)
    n_alone = len(asked)
    asked.clear()
    with pytest.raises(RuntimeError, match="in the callback"):
        fit([breaks], tmp_path, counted)
    assert_same_fit(fit(None, tmp_path, counted), alone)
    assert len(asked) == n_alone


def test_callbacks_are_told_of_replayed_observations_and_that_they_are(tmp_path):
    with pytest.warns(InterruptionWarning):
        fit([stop_at(7)], tmp_path)
    states = []
    assert_same_fit(fit([states.append], tmp_path), fit(None))
    assert [s.replayed for s in states] == [True] * 7 + [False] * 9


def test_a_callback_that_stops_by_what_it_sees_stops_at_the_same_point_again(tmp_path):
    with pytest.warns(InterruptionWarning):
        first = fit([stop_at(7)], tmp_path)
    with pytest.warns(InterruptionWarning):
        again = fit([stop_at(7)], tmp_path)
    assert_same_fit(again, first)
    assert again.n_scorer_calls_ == 0


def test_a_failed_observation_is_told_as_nan_and_is_not_the_best():
    def fails_at_times(estimator, X, y):
        asked.append(len(y))
        if len(y) == len(Y_VAL) and len(asked) == 4:
            raise ValueError("today not")
        return log_likelihood(estimator, X, y)

    asked, states = [], []
    with pytest.warns(ObservationWarning, match="today not"):
        fit([states.append], scorer=fails_at_times)
    failed = [s for s in states if np.isnan(s.score)]
    assert len(failed) == 1
    assert failed[0].best_score == states[failed[0].number - 2].best_score


def test_callbacks_stay_here_where_workers_score():
    def locked(state):
        with lock:
            threads.add(threading.current_thread())

    lock, threads = threading.Lock(), set()  # a lock cannot be sent
    assert_same_fit(fit([locked], n_jobs=2), fit(None))
    assert threads == {threading.current_thread()}


def test_the_copy_that_a_scorer_gets_calls_nobody_when_it_is_cloned_and_fitted():
    def clones(estimator, X, y):
        assert clone(estimator).callbacks is None
        return log_likelihood(estimator, X, y)

    states = []
    fitted = fit([states.append], scorer=clones, max_observations=3)
    assert len(states) == 3
    assert fitted.callbacks == [states.append]


def remember(state):
    pass


def test_a_finetuner_with_a_callback_is_cloned_and_pickled():
    fitted = fit([remember], max_observations=3)
    assert pickle.loads(pickle.dumps(clone(fitted))).callbacks == [remember]


@pytest.mark.parametrize(
    "callbacks, expected",
    [
        (remember, "'callbacks' parameter of MetricOptFinetuner must be"),
        ([remember, 3], "must be a list of functions fn\\(state\\). Got one with 3"),
        ([EarlyStopping()], "Callbacks of skorch go to the net"),
    ],
)
def test_what_is_no_list_of_functions_is_refused(callbacks, expected):
    with pytest.raises((TypeError, ValueError), match=expected):
        fit(callbacks)


def test_a_session_has_its_caller_in_the_loop_and_takes_no_callbacks():
    net = trained(classifier(), X_FIT, Y_FIT)
    with pytest.raises(TypeError, match="'callbacks' parameter is not one of MetricOptSession"):
        MetricOptSession(FrozenEstimator(net), X_FIT, Y_FIT, callbacks=[remember])
