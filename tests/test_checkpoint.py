"""Checkpoints: nothing that a scorer said is lost, and a run goes on as if it had never ended."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, fbeta_score, make_scorer

from sk_metricopt import MetricOptFinetuner
from sk_metricopt._journal import Journal
from sk_metricopt.exceptions import CheckpointError, CheckpointWarning
from tests import killed_runs
from tests.killed_runs import X_FIT, X_VAL, Y_FIT, Y_VAL, LoggingScorer, accuracy, finetuner
from tests.nets import classifier, trained


class FailsAfter:
    """A scorer that breaks down for good after some answers on all rows."""

    def __init__(self, n: int, error: BaseException):
        self.n = n
        self.error = error
        self.asked: list[int] = []

    def __call__(self, estimator, X, y) -> float:
        self.asked.append(len(y))
        if len(self.asked) > self.n:
            raise self.error
        return accuracy(estimator, X, y)


def fit(folder, scorer=accuracy, **params) -> MetricOptFinetuner:
    return finetuner(folder, scorer, **params).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


def assert_same_fit(fitted, other):
    np.testing.assert_array_equal(fitted.adapter_params_, other.adapter_params_)
    assert (fitted.score_gain_, fitted.score_gain_se_) == (other.score_gain_, other.score_gain_se_)
    for name, column in fitted.observations_.items():
        np.testing.assert_array_equal(column, other.observations_[name])


def journal_of(folder):
    return folder / "journal.jsonl"


@pytest.fixture(scope="module")
def uninterrupted():
    return fit(None)


def test_a_checkpoint_changes_nothing_about_a_fit(tmp_path, uninterrupted):
    assert_same_fit(fit(tmp_path / "new" / "folder"), uninterrupted)


def test_a_finished_fit_is_repeated_without_asking_the_scorer(tmp_path, uninterrupted):
    fit(tmp_path)
    again = fit(tmp_path)
    assert_same_fit(again, uninterrupted)
    assert again.n_scorer_calls_ == 0


@pytest.mark.parametrize("n_answers", [1, 7, 29, 60, 200])
def test_fit_goes_on_after_an_error_with_every_answer_that_was_given(
    tmp_path, uninterrupted, n_answers
):
    def named_accuracy(estimator, X, y):
        return scorer(estimator, X, y)

    scorer = FailsAfter(n_answers, SystemExit("killed"))
    with pytest.raises(SystemExit):
        fit(tmp_path, named_accuracy)
    scorer = FailsAfter(10**6, SystemExit("killed"))
    resumed = fit(tmp_path, named_accuracy)
    assert_same_fit(resumed, uninterrupted)
    assert len(scorer.asked) == uninterrupted.n_scorer_calls_ - n_answers


def kill_at_random_moments(folder, n_kills: int, rng) -> None:
    """Start a fit, kill it, start it again: no answer on all rows is lost or asked for twice."""
    for _ in range(n_kills):
        kept, asked = killed_runs.n_kept(folder), killed_runs.n_asked(folder)
        running = killed_runs.process(folder)
        running.start()
        deadline = time.monotonic() + 60
        while killed_runs.n_asked(folder) == asked and running.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        running.kill()
        running.join()
        made = killed_runs.n_asked(folder) - asked
        found = killed_runs.n_kept(folder) - kept
        assert made - found in (0, 1)  # one may have been under way
    finishing = killed_runs.process(folder)
    finishing.start()
    finishing.join(120)
    assert finishing.exitcode == 0


@pytest.mark.parametrize("n_kills", [5, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs processes to fork"
)
def test_runs_killed_at_random_moments_end_bit_by_bit_as_an_uninterrupted_one(tmp_path, n_kills):
    folder = tmp_path / "checkpoint"
    kill_at_random_moments(folder, n_kills, np.random.RandomState(n_kills))
    whole = tmp_path / "whole"
    whole.mkdir()
    uninterrupted = killed_runs.process(whole / "checkpoint")
    uninterrupted.start()
    uninterrupted.join(120)
    with np.load(tmp_path / "done.npz") as done, np.load(whole / "done.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(done[name], expected[name])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:-1],
        lambda data: data + b"0123456789abcdef {",
        lambda data: data[:-40] + b"#" + data[-39:],
        lambda data: data + b"\x00\xff" * 200 + b"\n",
        lambda data: data + b"[" * 10**5 + b"\n",
    ],
)
def test_a_damaged_last_record_is_dropped_with_a_warning_and_the_rest_kept(
    tmp_path, uninterrupted, damage
):
    fit(tmp_path)
    journal_of(tmp_path).write_bytes(damage(journal_of(tmp_path).read_bytes()))
    with pytest.warns(CheckpointWarning, match="1 of .* records"):
        resumed = fit(tmp_path)
    assert_same_fit(resumed, uninterrupted)
    assert resumed.n_scorer_calls_ <= 1
    assert_same_fit(fit(tmp_path), uninterrupted)  # and nothing is left of the damage


def test_a_damaged_record_in_the_middle_is_asked_for_again(tmp_path, uninterrupted):
    fit(tmp_path)
    lines = journal_of(tmp_path).read_bytes().splitlines(keepends=True)
    lines[9] = lines[9].replace(b"score", b"scrod")
    journal_of(tmp_path).write_bytes(b"".join(lines))
    with pytest.warns(CheckpointWarning, match="1 of"):
        resumed = fit(tmp_path)
    assert_same_fit(resumed, uninterrupted)
    assert resumed.n_scorer_calls_ == 1


def macro(y, predicted):
    return float(np.mean([(predicted[y == k] == k).mean() for k in np.unique(y)]))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.1}, "lr is 0.1, there it was 0.005"),
        ({"max_observations": 31}, "max_observations is 31, there it was 30"),
        ({"random_state": 1}, "seed is "),
        ({"scorer": make_scorer(macro)}, "scoring is"),
        ({"scorer": "accuracy"}, "scoring is 'accuracy'"),
        ({"guard_z": 0.0}, "guard_z is 0.0, there it was None"),
        ({"adapter_targets": ["output"]}, "adapter_targets is"),
        ({"estimator": classifier(max_epochs=1)}, "estimator is"),
        ({"estimator": classifier(module__hidden=4)}, "estimator is"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, changed, named):
    fit(tmp_path, max_observations=30)
    before = journal_of(tmp_path).read_bytes()
    model = finetuner(tmp_path, changed.pop("scorer", accuracy)).set_params(**changed)
    with pytest.raises(CheckpointError, match="checkpoint of another run") as error:
        model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    assert named in str(error.value)
    assert journal_of(tmp_path).read_bytes() == before


@pytest.mark.parametrize("name", ["X", "y", "X_val", "y_val"])
def test_a_checkpoint_of_other_data_is_refused_with_what_differs(tmp_path, name):
    data = {"X": X_FIT, "y": Y_FIT, "X_val": X_VAL, "y_val": Y_VAL}
    finetuner(tmp_path, accuracy).fit(**data)
    data[name] = data[name].copy()
    data[name][3] = data[name][0] if name.startswith("X") else 1 - data[name][3]
    with pytest.raises(CheckpointError, match=rf"another run: (?:.*; )?{name} is data"):
        finetuner(tmp_path, accuracy).fit(**data)


def test_another_net_with_the_same_parameters_is_refused(tmp_path):
    nets = [trained(classifier(lr=lr), X_FIT, Y_FIT) for lr in (0.1, 0.2)]
    models = [finetuner(tmp_path, accuracy).set_params(estimator=FrozenEstimator(n)) for n in nets]
    models[0].fit(X_FIT, Y_FIT)
    with pytest.raises(CheckpointError, match="another"):
        models[1].fit(X_FIT, Y_FIT)


def test_what_only_says_how_scores_are_got_may_change(tmp_path, uninterrupted):
    fit(tmp_path)
    assert_same_fit(fit(tmp_path, verbose=0, max_time=1e6, error_score="raise"), uninterrupted)


def test_without_a_random_state_the_seed_is_that_of_the_checkpoint(tmp_path):
    first = fit(tmp_path, random_state=None)
    assert_same_fit(fit(tmp_path, random_state=None), first)


def test_a_candidate_that_comes_out_otherwise_is_refused_not_given_another_ones_score(tmp_path):
    fit(tmp_path)
    lines = journal_of(tmp_path).read_bytes().splitlines(keepends=True)
    from sk_metricopt._journal import _line

    record = json.loads(lines[5].split(b" ", 1)[1])
    record["of"] = "0" * 16
    journal_of(tmp_path).write_bytes(b"".join([*lines[:5], _line(record), *lines[6:]]))
    with pytest.raises(CheckpointError, match="about another candidate"):
        fit(tmp_path)


# the folder ---------------------------------------------------------------------------------------


def test_two_fits_cannot_use_one_folder(tmp_path):
    def fit_inside(estimator, X, y):
        fit(tmp_path)
        return accuracy(estimator, X, y)

    with pytest.raises(ValueError, match="which another fit has open"):
        fit(tmp_path, fit_inside)


def test_a_folder_can_be_used_again_after_a_fit_that_failed(tmp_path):
    with pytest.raises(RuntimeError, match="at once"):
        fit(tmp_path, FailsAfter(3, RuntimeError("at once")), error_score="raise")
    Journal(tmp_path, "a test").close()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="'checkpoint_dir' parameter of MetricOptFinetuner"):
        fit(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        fit(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"{}\n", b"\x00" * 100, b"PK\x03\x04" * 10, b"[" * 10**6]
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    journal_of(tmp_path).write_bytes(content)
    with pytest.raises(CheckpointError, match="starts with something else"):
        fit(tmp_path)
    assert journal_of(tmp_path).read_bytes() == content


def test_a_journal_of_a_later_version_is_refused(tmp_path):
    from sk_metricopt._journal import _line

    header = {"schema": 99, "seed": 0, "identity": {}, "environment": {}}
    journal_of(tmp_path).write_bytes(_line(header))
    with pytest.raises(CheckpointError, match="of this version"):
        fit(tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 11])
@pytest.mark.parametrize("n_writes", [0, 1, 20])
def test_a_full_disk_is_named_and_what_was_written_survives(
    tmp_path, monkeypatch, uninterrupted, n_writes, n_bytes
):
    writes, write = [], os.write

    def full_after_a_while(descriptor, data):
        writes.append(len(data))
        if len(writes) <= n_writes:
            return write(descriptor, data)
        if n_bytes and len(writes) == n_writes + 1:
            return write(descriptor, data[:n_bytes])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full_after_a_while)
        with pytest.raises(CheckpointError, match=r"No space left.*"):
            fit(tmp_path)
    n_lines = len(journal_of(tmp_path).read_bytes().splitlines()) if n_writes else 0
    assert n_lines == n_writes
    assert_same_fit(fit(tmp_path), uninterrupted)


def test_answers_are_on_disk_before_the_next_question(tmp_path, monkeypatch):
    events, fsync = [], os.fsync

    def noted_fsync(descriptor):
        events.append("synced")
        fsync(descriptor)

    def noted_accuracy(estimator, X, y):
        if np.array_equal(y, Y_VAL):
            events.append("asked")
        return accuracy(estimator, X, y)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    fit(tmp_path, noted_accuracy)
    asked = [k for k, event in enumerate(events) if event == "asked"]
    repeated = asked[1]  # a second score of the model as it came tells nothing but noise
    assert all(
        "synced" in events[a:b] for a, b in zip(asked, asked[1:], strict=False) if a != repeated
    )


def test_failures_at_the_end_are_asked_again_since_they_may_have_been_an_outage(tmp_path):
    def down_after_a_while(estimator, X, y):
        calls.append(0)
        if len(calls) > 12 and down:
            raise ConnectionError("the server is down")
        return accuracy(estimator, X, y)

    calls, down = [], True
    with pytest.warns(UserWarning, match="the server is down"):
        broken_off = fit(tmp_path, down_after_a_while)
    assert broken_off.n_observations_ < 30
    down = False
    resumed = fit(tmp_path, down_after_a_while)
    assert np.isfinite(resumed.observations_["score"]).all()
    calls.clear()
    assert_same_fit(resumed, fit(None, down_after_a_while))


def test_a_scorer_that_keeps_state_is_the_same_scorer_later(tmp_path):
    scorer = FailsAfter(9, SystemExit("killed"))
    with pytest.raises(SystemExit):
        fit(tmp_path, scorer)
    scorer.n = 10**6
    resumed = fit(tmp_path, scorer)
    assert len(scorer.asked) == 1 + fit(None, scorer.__class__(10**6, None)).n_scorer_calls_
    assert resumed.n_observations_ > 10


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_scorer(fbeta_score, beta=1), make_scorer(fbeta_score, beta=2)),
        (make_scorer(macro), make_scorer(accuracy_score)),
        (partial(accuracy), partial(accuracy, X=1)),
    ],
    ids=["arguments", "metric", "partial"],
)
def test_scorers_that_differ_in_arguments_are_different(tmp_path, first, second):
    fit(tmp_path, first)
    with pytest.raises(CheckpointError, match="scoring is"):
        fit(tmp_path, second)


def test_metadata_is_part_of_the_run(tmp_path):
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        weight = np.linspace(0.5, 1.5, len(Y_VAL))
        model = finetuner(tmp_path, scorer)
        model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL, sample_weight=weight)
        with pytest.raises(CheckpointError, match="metadata is"):
            model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL, sample_weight=weight[::-1])


def test_the_journal_holds_no_machine_path_and_no_data(tmp_path):
    fit(tmp_path, LoggingScorer(tmp_path / "log"))
    text = journal_of(tmp_path).read_text()
    assert "NeuralNetClassifier" in text
    assert all(len(line) < 20_000 for line in text.splitlines())
    assert torch.__version__ in text
