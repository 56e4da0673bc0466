"""MetricOptSession: asked for candidates, told their scores."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import EpochScoring

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, MetricOptSession
from sk_metricopt.exceptions import CheckpointError, CheckpointWarning
from tests.embedding_nets import embedder, labelled_points
from tests.killed_runs import X_FIT, X_VAL, Y_FIT, Y_VAL
from tests.nets import classifier, log_likelihood, same_weights, table, trained, weights_of


def session(folder=None, **params) -> MetricOptSession:
    params = {"max_observations": 16, "random_state": 0} | params
    return MetricOptSession(classifier(), X_FIT, Y_FIT, checkpoint_dir=folder, **params)


def experiment(candidate) -> float:
    """Stands for what happens in the world: no row of it is known to the session."""
    return log_likelihood(candidate.estimator, X_VAL, Y_VAL)


def carried_out(asked: MetricOptSession, se=0.001, n=10**6) -> MetricOptSession:
    """Tell up to `n` scores."""
    while n and not asked.finished:
        for candidate in asked.ask(n):
            asked.tell(candidate.id, experiment(candidate), se)
            n -= 1
    return asked


@pytest.fixture(scope="module")
def whole():
    return carried_out(session()).result()


def assert_same_result(result, other):
    np.testing.assert_array_equal(result.adapter_params_, other.adapter_params_)
    np.testing.assert_array_equal(result.observations_["score"], other.observations_["score"])
    assert result.verdict_ == other.verdict_


def test_a_session_improves_a_model_on_what_it_never_saw(whole):
    assert isinstance(whole, MetricOptFinetuner)
    assert whole.improved_
    gained = log_likelihood(whole, X_VAL, Y_VAL) - whole.initial_score_
    assert gained == pytest.approx(whole.score_gain_)
    assert gained > 0.01


def test_the_result_is_an_ordinary_fitted_finetuner(whole):
    assert whole.predict(X_VAL).shape == Y_VAL.shape
    assert whole.n_observations_ <= 16
    assert whole.n_scorer_calls_ == 0
    assert set(whole.observations_) >= {"step", "trajectory", "phase", "score"}
    assert whole.n_features_in_ == X_FIT.shape[1]


def test_candidates_are_fitted_estimators_that_can_be_exported():
    pytest.importorskip("onnx")
    from sk_metricopt.export import OnnxPredictor, to_onnx

    asked = carried_out(session(), n=5)
    (candidate, *_) = [asked.candidate(i) for i in asked.waiting]
    exported = OnnxPredictor(to_onnx(candidate.estimator, X_VAL).SerializeToString())
    np.testing.assert_array_equal(exported.predict(X_VAL), candidate.estimator.predict(X_VAL))
    first = asked.candidate(0).estimator
    assert not np.allclose(first.predict_proba(X_VAL), candidate.estimator.predict_proba(X_VAL))


def test_the_first_candidate_is_the_model_as_it_came():
    net = trained(classifier(), X_FIT, Y_FIT)
    asked = MetricOptSession(FrozenEstimator(net), X_FIT, Y_FIT, random_state=0)
    (candidate,) = asked.ask()
    assert (candidate.id, candidate.phase) == (0, "initial")
    np.testing.assert_allclose(
        candidate.estimator.predict_proba(X_VAL), net.predict_proba(X_VAL), atol=1e-6
    )


def test_a_round_may_be_told_in_any_order(whole):
    asked = session()
    rng = np.random.RandomState(0)
    while not asked.finished:
        for candidate in rng.permutation(np.array(asked.ask(), dtype=object)):
            asked.tell(candidate.id, experiment(candidate), 0.001)
    assert_same_result(asked.result(), whole)


def test_ask_hands_out_every_candidate_before_one_a_second_time():
    asked = carried_out(session(), n=2)  # the model as it came, and one that shifts decisions
    round_ = list(asked.waiting)
    assert len(round_) >= 4
    assert [c.id for c in asked.ask(2)] == round_[:2]
    assert [c.id for c in asked.ask(3)] == [*round_[2:], *round_[:2]][:3]
    assert sorted(c.id for c in asked.ask()) == round_
    assert asked.waiting == round_


def test_scores_told_again_are_averaged_by_their_standard_errors():
    asked = session()
    asked.tell(0, 1.0, 0.1)
    asked.tell(0, 4.0, 0.2)
    assert asked.observations["score"][0] == pytest.approx((1.0 * 100 + 4.0 * 25) / 125)
    asked.tell(0, 7.0)  # one without: all count the same
    assert asked.observations["score"][0] == pytest.approx(4.0)


def test_a_score_that_cannot_be_had_is_told_as_nan():
    asked = carried_out(session(), n=2)
    lost = asked.waiting[0]
    asked.tell(lost, np.nan)
    result = carried_out(asked).result()
    assert np.isnan(result.observations_["score"]).tolist().count(True) == 1
    assert np.isnan(result.observations_["score"][lost])


# how sure ---------------------------------------------------------------------------------------


def test_without_any_standard_error_the_guard_lets_nothing_pass():
    result = carried_out(session(), se=None).result()
    assert not result.improved_
    assert "tell their standard errors, or candidates repeatedly" in result.verdict_


def test_without_a_guard_no_standard_error_is_needed():
    assert carried_out(session(guard_z=None), se=None).result().improved_


def test_candidates_told_repeatedly_tell_how_sure_scores_are():
    asked, rng = session(max_observations=30), np.random.RandomState(0)
    while not asked.finished:
        for candidate in asked.ask():
            for _ in range(2 if candidate.id < 4 else 1):
                asked.tell(candidate.id, experiment(candidate) + 0.001 * rng.normal())
    result = asked.result()
    assert result.improved_
    assert 0.0002 < result.score_gain_se_ < 0.005


def test_a_gain_within_its_standard_error_does_not_pass():
    assert not carried_out(session(), se=5.0).result().improved_


def test_pure_noise_seldom_passes():
    passed = 0
    for seed in range(12):
        asked, rng = session(random_state=seed, guard_z=1.64), np.random.RandomState(seed)
        while not asked.finished:
            for candidate in asked.ask():
                asked.tell(candidate.id, rng.normal(), 1.0)
        passed += asked.result().improved_
    assert passed <= 3


# an early result ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_told", [1, 2, 4, 8, 15])
def test_the_result_can_be_had_at_any_time_after_the_first_score(n_told):
    asked = carried_out(session(), n=n_told)
    result = asked.result()
    assert result.n_observations_ == n_told
    assert result.predict(X_VAL).shape == Y_VAL.shape
    assert asked.finished
    assert asked.ask() == []


def test_an_early_result_is_the_best_candidate_that_was_told():
    asked = carried_out(session(), se=1e-9, n=9)
    result = asked.result()
    assert result.improved_
    assert log_likelihood(result, X_VAL, Y_VAL) == pytest.approx(
        np.max(result.observations_["score"]), abs=1e-5
    )


def test_the_best_of_many_has_to_stand_out_further_than_one():
    asked = carried_out(session(), n=10)
    gain = max(asked.observations["score"]) - asked.observations["score"][0]
    barely = gain / 1.2 / np.sqrt(2)  # 1.2 standard errors of a difference
    early = carried_out(session(), se=barely, n=10).result()
    assert not early.improved_
    assert "standard errors" in early.verdict_


def test_there_is_no_result_without_a_score_of_the_model_as_it_came():
    with pytest.raises(ValueError, match="Tell the score of candidate 0 first"):
        session().result()


# durable ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_each", [1, 3, 7])
def test_a_session_goes_on_in_another_object_as_if_it_had_never_ended(tmp_path, whole, n_each):
    for _ in range(40):
        with session(tmp_path) as asked:
            if carried_out(asked, n=n_each).finished:
                break
    assert_same_result(asked.result(), whole)


def test_scores_told_later_about_earlier_candidates_are_relived_in_their_place(tmp_path):
    def tell_some(asked, n):
        while not asked.finished and n:
            for candidate in asked.ask():
                if candidate.id:  # drag an earlier one down a little
                    asked.tell((candidate.id - 1) // 2, -2.0, 0.5)
                asked.tell(candidate.id, experiment(candidate), 0.01)
                n -= 1
                if not n:
                    break
        return asked

    expected = tell_some(session(), -1).result()
    for _ in range(40):
        with session(tmp_path) as asked:
            if tell_some(asked, 3).finished:
                break
    assert_same_result(asked.result(), expected)


def test_a_score_lost_from_the_checkpoint_is_asked_for_again(tmp_path, whole):
    with session(tmp_path) as asked:
        carried_out(asked, n=9)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[6]  # of candidate 4
    path.write_bytes(b"".join([*lines, b"rubbish\n"]))
    with pytest.warns(CheckpointWarning), session(tmp_path) as asked:
        assert asked.waiting == [4]
        result = carried_out(asked).result()
    assert_same_result(result, whole)
    with session(tmp_path) as again:
        assert_same_result(again.result(), whole)


def test_a_finished_session_comes_back_finished(tmp_path, whole):
    carried_out(session(tmp_path))
    again = session(tmp_path)
    assert again.finished
    assert_same_result(again.result(), whole)


@pytest.mark.parametrize("changed", [{"lr": 0.1}, {"random_state": 1}, {"max_observations": 17}])
def test_the_checkpoint_of_another_session_is_refused(tmp_path, changed):
    with session(tmp_path) as asked:
        carried_out(asked, n=3)
    with pytest.raises(CheckpointError, match=next(iter(changed)).replace("random_state", "seed")):
        session(tmp_path, **changed)


def test_a_fit_cannot_go_on_from_a_session(tmp_path):
    with session(tmp_path) as asked:
        carried_out(asked, n=3)
    with pytest.raises(CheckpointError, match="checkpoint of another run"):
        MetricOptFinetuner(
            classifier(),
            checkpoint_dir=tmp_path,
            max_observations=16,
            use_validation_labels=False,
            random_state=0,
        ).fit(X_FIT, Y_FIT)


def test_two_sessions_cannot_use_one_folder(tmp_path):
    with session(tmp_path), pytest.raises(CheckpointError, match="another fit has open"):
        session(tmp_path)


def test_a_session_that_cannot_start_lets_go_of_its_folder(tmp_path):
    with pytest.raises(ValueError, match="inconsistent numbers"):
        MetricOptSession(classifier(), X_FIT, Y_FIT[:3], checkpoint_dir=tmp_path)
    session(tmp_path).close()


def test_ctrl_c_while_the_net_trains_starts_no_session_and_binds_no_folder(tmp_path):
    def press_in_second_epoch(net, X, y):
        if presses and len(net.history) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    def started():
        callback = EpochScoring(press_in_second_epoch, name="press", on_train=True)
        net = classifier(callbacks=[("press", callback)])
        params = {"max_observations": 8, "random_state": 0, "checkpoint_dir": tmp_path}
        return MetricOptSession(net, X_FIT, Y_FIT, **params)

    presses = True
    with pytest.raises(KeyboardInterrupt):
        started()
    presses = False
    assert started().waiting == [0]


# manners ----------------------------------------------------------------------------------------


def test_a_session_leaves_random_streams_and_the_users_net_alone():
    net = trained(classifier(), X_FIT, Y_FIT)
    weights, numpy_state = weights_of(net.module_), np.random.get_state()[1].copy()
    torch_state = torch.get_rng_state()
    asked = MetricOptSession(FrozenEstimator(net), X_FIT, Y_FIT, random_state=0, max_observations=8)
    carried_out(asked).result()
    assert same_weights(net.module_, weights)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("n_classes", [3])
def test_classes_may_be_many_and_have_names(n_classes):
    X, y = table(n_classes)
    names = np.array(["low", "middle", "high"])[y]
    asked = MetricOptSession(classifier(module__n_classes=3), X, names, max_observations=10)
    while not asked.finished:
        for candidate in asked.ask():
            asked.tell(candidate.id, (candidate.estimator.predict(X) == names).mean(), 0.01)
    assert set(asked.result().predict(X)) <= set(names)


def test_retrievers_can_be_finetuned_by_what_people_say():
    X, y = labelled_points()
    retriever = EmbeddingRetriever(embedder())
    asked = MetricOptSession(retriever, X, y, max_observations=8, random_state=0, guard_z=None)
    while not asked.finished:
        for candidate in asked.ask():
            found = candidate.estimator.kneighbors(X[:20], return_distance=False)
            asked.tell(candidate.id, (y[found[:, 1:]] == y[:20, None]).mean())
    assert asked.result().transform(X[:5]).shape[0] == 5


# wrong input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [1, -1, 0.0, "0", None, True])
def test_an_id_of_no_candidate_is_refused(id):
    asked = session()
    with pytest.raises(ValueError, match="'id' parameter of MetricOptSession"):
        asked.tell(id, 0.5)


@pytest.mark.parametrize("score", [np.inf, -np.inf, "0.5", None, [0.5], True, 1j])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(TypeError, match=r"'score' parameter of MetricOptSession\.tell"):
        session().tell(0, score)


@pytest.mark.parametrize("se", [-1, np.nan, np.inf, "0.5", True])
def test_a_standard_error_that_is_none_is_refused(se):
    with pytest.raises(ValueError, match=r"'se' parameter of MetricOptSession\.tell"):
        session().tell(0, 0.5, se)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_a_number_of_candidates_that_is_none_is_refused(n):
    with pytest.raises(ValueError, match=r"'n' parameter of MetricOptSession\.ask"):
        session().ask(n)


def test_the_model_as_it_came_must_have_a_score():
    with pytest.raises(ValueError, match="must be finite for candidate 0"):
        session().tell(0, np.nan)


def test_nothing_can_be_told_after_the_end():
    asked = carried_out(session())
    with pytest.raises(ValueError, match="no score changes it any more"):
        asked.tell(0, 0.5)


@pytest.mark.parametrize("name", ["scoring", "n_jobs", "max_time", "use_validation_labels"])
def test_parameters_of_scorers_are_refused(name):
    with pytest.raises(TypeError, match=f"'{name}' parameter is not one of MetricOptSession"):
        session(**{name: None})


def test_a_parameter_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="max_observation'"):
        session(max_observation=3)
