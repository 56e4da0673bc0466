"""Ctrl-C, max_time and scorers that give up: a fit that ends early leaves a fitted estimator."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
from skorch.callbacks import EpochScoring

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.exceptions import InterruptionWarning, ObservationWarning
from tests.killed_runs import X_FIT, X_VAL, Y_FIT, Y_VAL, finetuner
from tests.nets import classifier, log_likelihood


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class ActsAt:
    """The log-likelihood; does something when asked on all rows for the nth time."""

    def __init__(self, n, act):
        self.n = n
        self.act = act
        self.n_asked = 0

    def __call__(self, estimator, X, y) -> float:
        if np.array_equal(y, Y_VAL):
            self.n_asked += 1
            if self.n_asked == self.n:
                self.act()
        return log_likelihood(estimator, X, y)


def fit(scorer, **params) -> MetricOptFinetuner:
    return finetuner(None, scorer, **params).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


@pytest.fixture(autouse=True)
def same_handler_afterwards():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("act", [press_ctrl_c, raise_keyboard_interrupt])
def test_ctrl_c_leaves_a_fitted_estimator_of_what_was_observed(act):
    scorer = ActsAt(14, act)
    with pytest.warns(InterruptionWarning, match=r"after 1\d observations: it was interrupted"):
        fitted = fit(scorer)
    assert 12 <= fitted.n_observations_ <= 13
    assert "judge" not in fitted.observations_["phase"]
    assert fitted.improved_
    assert fitted.predict(X_VAL).shape == Y_VAL.shape
    assert fitted.best_score_ > fitted.initial_score_


def test_the_observation_under_way_at_ctrl_c_is_finished_and_counts():
    whole = fit(ActsAt(10**6, None))
    with pytest.warns(InterruptionWarning):
        fitted = fit(ActsAt(14, press_ctrl_c))
    n = fitted.n_observations_
    np.testing.assert_array_equal(fitted.observations_["score"], whole.observations_["score"][:n])
    assert n == 13  # the second time a score is asked for is a repetition


def test_a_second_ctrl_c_ends_fit_at_once():
    def twice():
        press_ctrl_c()
        press_ctrl_c()

    scorer = ActsAt(14, twice)
    with pytest.raises(KeyboardInterrupt):
        fit(scorer)
    assert scorer.n_asked == 14


def test_ctrl_c_before_anything_is_explored_leaves_the_model_as_it_came():
    with pytest.warns(InterruptionWarning, match="interrupted"):
        fitted = fit(ActsAt(1, press_ctrl_c))
    assert not fitted.improved_
    assert fitted.verdict_ == "unchanged: it was interrupted"


def test_ctrl_c_while_the_net_trains_ends_there_and_scores_once():
    def press_in_second_epoch(net, X, y):
        if len(net.history) == 2:
            press_ctrl_c()
        return 0.0

    callback = EpochScoring(press_in_second_epoch, name="press", on_train=True)
    net = classifier(callbacks=[("press", callback)], max_epochs=50)
    model = MetricOptFinetuner(net, scoring=log_likelihood, max_observations=30, random_state=0)
    with pytest.warns(InterruptionWarning, match="interrupted"):
        model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    assert len(model.history_) <= 2
    assert model.n_observations_ == 1
    assert model.predict(X_VAL).shape == Y_VAL.shape


def test_a_checkpoint_is_not_bound_to_a_net_whose_training_was_interrupted(tmp_path):
    def press_in_second_epoch(net, X, y):
        if presses and len(net.history) == 2:
            press_ctrl_c()
        return 0.0

    def fit_there():
        callback = EpochScoring(press_in_second_epoch, name="press", on_train=True)
        net = classifier(callbacks=[("press", callback)], max_epochs=4)
        model = finetuner(tmp_path, log_likelihood, max_observations=8)
        return model.set_params(estimator=net).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)

    for presses in (True, False, True):
        with pytest.warns(InterruptionWarning) if presses else contextlib.nullcontext():
            fitted = fit_there()
        assert (fitted.n_observations_ == 1) == presses
        assert (len(fitted.history_) < 4) == presses


def test_a_program_with_its_own_handler_keeps_it():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        fitted = fit(ActsAt(5, press_ctrl_c))
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]
    assert fitted.n_observations_ > 14


def test_fit_works_in_a_thread_where_nobody_can_listen_to_ctrl_c():
    fitted = []
    thread = threading.Thread(target=lambda: fitted.append(fit(log_likelihood)))
    thread.start()
    thread.join()
    assert fitted[0].n_observations_ > 14


def test_ctrl_c_is_deaf_to_a_checkpoint_which_goes_on_as_if_nothing_had_happened(tmp_path):
    def scorer(estimator, X, y):
        return current(estimator, X, y)

    current = ActsAt(14, press_ctrl_c)
    with pytest.warns(InterruptionWarning):
        finetuner(tmp_path, scorer).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    current = ActsAt(10**6, None)
    resumed = finetuner(tmp_path, scorer).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    whole = fit(ActsAt(10**6, None))
    np.testing.assert_array_equal(resumed.adapter_params_, whole.adapter_params_)
    assert current.n_asked == whole.n_observations_ + 1 - 14


# max_time ---------------------------------------------------------------------------------------


def test_max_time_ends_a_fit_and_says_so():
    def slow(estimator, X, y):
        time.sleep(0.05 if np.array_equal(y, Y_VAL) else 0)
        return log_likelihood(estimator, X, y)

    with pytest.warns(InterruptionWarning, match=r"max_time, 0\.8 seconds, was over"):
        fitted = fit(slow, max_time=0.8, max_observations=500)
    assert fitted.n_observations_ < 100
    assert fitted.predict(X_VAL).shape == Y_VAL.shape


def test_a_max_time_shorter_than_training_leaves_the_net_trained_and_as_it_came():
    with pytest.warns(InterruptionWarning, match="after 1 observations"):
        fitted = fit(log_likelihood, max_time=1e-6)
    assert fitted.verdict_.startswith("unchanged: max_time")
    assert len(fitted.history_) == 4


@pytest.mark.parametrize("value", [0, -1.0, "1h"])
def test_a_max_time_that_is_no_time_is_refused(value):
    with pytest.raises(ValueError, match="'max_time' parameter of MetricOptFinetuner"):
        fit(log_likelihood, max_time=value)


# scorers that give up ---------------------------------------------------------------------------


class FailsFrom:
    """The log-likelihood, until it fails on candidates from the nth on for a while."""

    def __init__(self, n, n_failures):
        self.failing = range(n, n + n_failures)
        self.n_asked = 0

    def __call__(self, estimator, X, y) -> float:
        if np.array_equal(y, Y_VAL):
            self.n_asked += 1
            if self.n_asked in self.failing:
                raise ConnectionError("no answer")
        return log_likelihood(estimator, X, y)


def test_five_failures_in_a_row_end_the_run_with_the_best_so_far():
    with (
        pytest.warns(ObservationWarning, match="no answer"),
        pytest.warns(InterruptionWarning, match="failed 5 times in a row .*no answer"),
    ):
        fitted = fit(FailsFrom(14, 5))
    scores = fitted.observations_["score"]
    assert np.isnan(scores).sum() == 5
    assert fitted.improved_
    assert fitted.best_score_ > fitted.initial_score_


def test_a_scorer_that_never_comes_back_still_leaves_the_best_of_what_it_told():
    with (
        pytest.warns(ObservationWarning, match="no answer"),
        pytest.warns(InterruptionWarning, match="failed 5 times"),
    ):
        fitted = fit(FailsFrom(14, 10**6))
    assert fitted.improved_
    best = np.nanmax(fitted.observations_["score"])
    assert fitted.best_score_ == pytest.approx(best)


@pytest.mark.parametrize(
    ("guard_z", "verdict"),
    [
        (1.0, "unchanged: the scorer failed on all resamples, which tell how sure a gain is"),
        (0.0, "finetuned: gain"),
        (None, "finetuned: gain"),
    ],
)
def test_the_guard_needs_resamples_where_it_asks_how_sure_a_gain_is(guard_z, verdict):
    def down_for_good(estimator, X, y):
        if scorer.n_asked == 14:
            raise ConnectionError("no answer")
        return scorer(estimator, X, y)

    scorer = ActsAt(10**6, None)
    with (
        pytest.warns(ObservationWarning),
        pytest.warns(InterruptionWarning, match="failed 5 times"),
    ):
        fitted = fit(down_for_good, guard_z=guard_z)
    assert fitted.verdict_.startswith(verdict)


def test_four_failures_in_a_row_do_not_end_the_run():
    with pytest.warns(ObservationWarning, match="no answer"):
        fitted = fit(FailsFrom(14, 4))
    assert np.isnan(fitted.observations_["score"]).sum() == 4
    assert fitted.n_observations_ > 25


def test_error_score_raise_ends_fit_at_the_first_failure_with_the_scorers_own_error():
    scorer = FailsFrom(14, 1)
    with pytest.raises(ConnectionError, match="no answer"):
        fit(scorer, error_score="raise")
    assert scorer.n_asked == 14


@pytest.mark.parametrize("value", [0, 0.5, "ignore", None])
def test_another_error_score_is_refused(value):
    with pytest.raises(ValueError, match="'error_score' parameter of MetricOptFinetuner"):
        fit(log_likelihood, error_score=value)


# scorers with noise -----------------------------------------------------------------------------


def noise_alone(estimator, X, y) -> float:
    return float(np.random.normal())


def test_a_scorer_with_noise_is_noticed_and_its_noise_measured():
    with pytest.warns(ObservationWarning, match="not deterministic"):
        fitted = fit(noise_alone)
    assert 0.2 < fitted.score_noise_ < 3


def test_a_deterministic_scorer_has_no_noise():
    assert fit(log_likelihood).score_noise_ == 0


@pytest.mark.filterwarnings("ignore:The scorer is not deterministic")
def test_the_guard_is_seldom_taken_in_by_pure_noise():
    passed = [fit(noise_alone, random_state=seed, guard_z=1.64).improved_ for seed in range(12)]
    assert sum(passed) <= 3


@pytest.mark.filterwarnings("ignore:The scorer is not deterministic")
def test_a_scorer_that_draws_from_global_streams_gives_the_same_fit_again():
    first, second = fit(noise_alone), fit(noise_alone)
    np.testing.assert_array_equal(first.observations_["score"], second.observations_["score"])
