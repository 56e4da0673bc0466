"""What a fit tells as it goes: nothing on stdout; a bar, lines or the log where asked for."""

from __future__ import annotations

import logging
import re

import pytest
from sklearn.linear_model import LogisticRegression

from sk_metricopt import MetricOptFinetuner, PostShiftClassifier
from tests.nets import classifier, log_likelihood, table

X, Y = table()


def finetuner(**params) -> MetricOptFinetuner:
    params = {"scoring": log_likelihood, "max_observations": 12, "random_state": 0} | params
    return MetricOptFinetuner(classifier(), **params)


def post_shift(**params) -> PostShiftClassifier:
    params = {"scoring": "f1", "max_observations": 12, "random_state": 0} | params
    return PostShiftClassifier(LogisticRegression(), **params)


@pytest.mark.parametrize("make", [finetuner, post_shift])
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_nothing_is_ever_written_on_stdout(make, verbose, capfd):
    make(verbose=verbose).fit(X, Y)
    out, err = capfd.readouterr()
    assert out == ""
    assert bool(err) == bool(verbose)


def test_the_bar_ends_with_the_last_score_and_the_budget(capfd):
    fitted = finetuner(verbose=1).fit(X, Y)
    last = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    score = fitted.observations_["score"]
    assert f"score={score[-1]:.4f}, best={score.max():.4f}" in last
    assert f"phase={fitted.observations_['phase'][-1]}" in last
    assert "12/12" in last


@pytest.mark.parametrize("make", [finetuner, post_shift])
def test_verbose_2_writes_one_line_for_each_observation_and_no_bar(make, capfd):
    fitted = make(verbose=2).fit(X, Y)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == fitted.n_observations_
    record = fitted.observations_
    for k, line in enumerate(lines):
        number, budget, phase = re.match(r"MetricOpt +(\d+)/(\d+) +(\w+)", line).groups()
        assert (int(number), int(budget), phase) == (k + 1, 12, record["phase"][k])
        score, best = re.search(r"score (\S+)  best (\S+)", line).groups()
        assert score == f"{record['score'][k]:.4f}"
        assert best == f"{record['score'][: k + 1].max():.4f}"
        on = re.search(r"trajectory (\d+) step (\d+)", line)
        found = tuple(map(int, on.groups())) if on else (-1, record["step"][k])
        assert found == (record["trajectory"][k], record["step"][k])


@pytest.mark.parametrize("make", [finetuner, post_shift])
def test_the_log_tells_of_phases_and_verdict(make, caplog):
    with caplog.at_level(logging.INFO, logger="sk_metricopt"):
        fitted = make().fit(X, Y)
    told = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert told[0] == "observation 1 of 12: initial"
    assert any(line.endswith(": explore") for line in told)
    assert told[-1].endswith(fitted.verdict_)
    assert type(fitted).__name__ in told[-1]


def test_the_log_tells_those_who_look_for_faults_of_the_plan_and_of_the_value_function(caplog):
    with caplog.at_level(logging.DEBUG, logger="sk_metricopt"):
        finetuner().fit(X, Y)
    told = "\n".join(r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG)
    assert "Plan(vmap=" in told
    assert re.search(r"value function learns from \d+ points", told)


def test_a_fit_says_nothing_where_nobody_set_up_logging(capfd):
    finetuner().fit(X, Y)
    assert capfd.readouterr() == ("", "")
