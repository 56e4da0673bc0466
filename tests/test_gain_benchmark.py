"""Tests of the evidence benchmark: what its tables take for granted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from benchmarks import gain, gain_report, run
from benchmarks.baselines import BASELINES
from benchmarks.gain_tables import (
    as_ours,
    average_ranks,
    budgets,
    reached,
    targets,
    with_rivals_on_weights,
)
from benchmarks.gain_tasks import GAIN_TASKS, GUIDANCE_TASKS
from benchmarks.metrics import SCORERS
from benchmarks.models import train_base
from benchmarks.problem import KnownAnswers, Problem
from benchmarks.report import duel, with_share
from benchmarks.tasks import Split, Task, load_split
from sk_metricopt import MetricOptFinetuner
from sk_metricopt.adapters import WeightAdapter

TASK = Task("breast_cancer", "f1", "design")
BUDGET = 24


@pytest.fixture(scope="module")
def split():
    return load_split(TASK, seed=0)


@pytest.fixture(scope="module")
def net(split):
    return train_base(split, seed=0)


@pytest.fixture
def case(split, net):
    return gain.Case(TASK, split, net, 0, BUDGET, "labelled")


LABELLED = [m for m in gain.METHODS if any(gain.applies(m, TASK, s) for s in run.SETTINGS)]


@pytest.mark.parametrize("method", LABELLED)
def test_every_method_keeps_to_its_budget_and_leaves_the_net_as_it_was(case, net, method):
    before = {name: value.clone() for name, value in net.module_.state_dict().items()}
    row = gain._measured(case, gain.METHODS[method])
    if method not in ("tuned_threshold", "cma_2000"):  # which make more, and say so
        assert row["n_observations"] <= BUDGET
    assert np.isfinite(row["test_score"])
    for name, value in net.module_.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_says_how_its_best_point_scores(case, method):
    outcome = BASELINES[method](case.problem, BUDGET, 0)
    X, y = case.split.X_val, case.split.y_val
    score = case.problem.score_point(outcome.phi, outcome.shift, X, y)
    assert score == pytest.approx(outcome.best_score, abs=1e-12)
    assert len(outcome.scores) == {"none": 1, "cma_2000": 2000}.get(method, BUDGET)


@pytest.mark.parametrize("method", gain.EITHER)
def test_what_counts_in_both_settings_reads_validation_labels_through_the_scorer_only(
    split, net, method
):
    adapter = WeightAdapter() if method.startswith("weights_") else None
    search = BASELINES[method.removeprefix("weights_")]
    told, blind = (Problem(net, TASK.scorer, split, adapter) for _ in range(2))
    blind.y[blind.n_train :] = 0
    found = [search(problem, BUDGET, 0).scores for problem in (told, blind)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("method", "guard_z"), [("ours", 1.0), ("ours_z1.64", 1.64)])
def test_one_fit_tells_what_each_guard_would_have_said(case, split, net, method, guard_z):
    shared = gain.METHODS[method](case)
    alone = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring=TASK.scorer,
        max_observations=BUDGET,
        guard_z=guard_z,
        random_state=0,
    ).fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
    assert shared.improved == alone.improved_
    assert shared.test_score == TASK.scorer(alone, split.X_test, split.y_test)


def test_a_method_that_fails_takes_no_other_with_it(monkeypatch):
    def failing(case):
        raise RuntimeError("on purpose")

    monkeypatch.setitem(gain.METHODS, "refit", failing)
    wanted = [("labelled", method, 6) for method in ("weighted", "refit", "mixloss")]
    measured = []
    with pytest.raises(ExceptionGroup, match="breast_cancer/f1, seed 0"):
        for row in gain.measure(TASK, 0, wanted, {}):
            measured.append(row["method"])
    assert measured == ["weighted", "mixloss"]


@pytest.mark.parametrize("metric", ["mail_cost", "mail_worst_capitals_f1", "auroc", "qwk"])
def test_thresholds_are_tuned_only_for_scorers_that_take_decisions(metric):
    task = Task("spambase", metric, "confirm")
    assert gain.applies("tuned_threshold", task, "labelled") == (metric == "qwk")


def test_shared_work_counts_for_whoever_asks(case):
    first = gain._measured(case, gain.METHODS["ours"])
    again = gain._measured(case, gain.METHODS["ours_z0"])
    assert again["fit_seconds"] >= 0.9 * first["fit_seconds"] > 0


def test_no_data_set_is_in_both_halves_and_there_are_enough_tasks():
    tasks = [*GAIN_TASKS, *(guided.task for guided in GUIDANCE_TASKS)]
    halves = pd.DataFrame({"dataset": t.dataset, "half": t.half} for t in tasks)
    assert (halves.groupby("dataset")["half"].nunique() == 1).all()
    assert len({t.name for t in GAIN_TASKS}) == len(GAIN_TASKS) >= 24
    assert len({t.name for t in GUIDANCE_TASKS}) == len(GUIDANCE_TASKS)
    assert sum(t.half == "confirm" for t in GUIDANCE_TASKS) >= 8


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("auroc", 0.75),
        ("adult_worst_sex_f1", 0.0),
        ("adult_equalised_odds", 0.5 - 1.0),
        ("mail_cost", -(5.0 * 3 + 1.0) / 4),
    ],
)
def test_metrics_by_hand(metric, expected):
    y = np.array([0, 0, 1, 1])
    proba = np.array([0.1, 0.6, 0.4, 0.7])
    decided = (proba > 0.5).astype(int)
    X = np.zeros((4, 63))
    X[[1, 3], 62], X[1, 56] = 1, 2
    model = KnownAnswers(np.stack([1 - proba, proba], axis=1), decided)
    assert SCORERS[metric](model, X, y) == pytest.approx(expected)


@pytest.mark.parametrize("shift", ["labels", "covariates"])
def test_a_shift_thins_training_rows_and_no_others(shift):
    whole = load_split(TASK, seed=1)
    thinned = load_split(Task("breast_cancer", "f1", "design", shift=shift), seed=1)
    assert 0.2 < len(thinned.y_train) / len(whole.y_train) < 0.8
    np.testing.assert_array_equal(thinned.y_val, whole.y_val)
    np.testing.assert_array_equal(thinned.y_test, whole.y_test)


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("SK_METRICOPT_DATA_HOME", raising=False)
    name = "breast_cancer/precision_at_recall_95"
    arguments = ["--tasks", name, "--seeds", "1", "--budgets", "6", "--out"]
    arguments.append(str(tmp_path / "rows.csv"))
    assert run.main(["--methods", "none", *arguments]) == 0
    assert run.main(["--methods", "none,bias", *arguments]) == 0
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert rows["method"].tolist() == ["none", "bias"]
    assert rows.columns.tolist() == gain.COLUMNS
    assert rows[["machine", "versions", "commit"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magic"], "unknown names"),
        (["--tasks", "magic"], "'tasks' option"),
        (["--tasks", "spambase/f1"], "SK_METRICOPT_DATA_HOME"),
        (["--suite", "speed", "--tasks", "magic"], "unknown tasks ['magic']"),
    ],
)
def test_what_cannot_be_run_is_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SK_METRICOPT_DATA_HOME", raising=False)
    with pytest.raises(SystemExit):
        run.main([*arguments, "--out", str(tmp_path / "rows.csv")])
    assert message in capsys.readouterr().err


def rows_of(half: str, gains: dict[str, float], budget: int = 150) -> pd.DataFrame:
    """Runs on four tasks, whose gains differ a little."""
    rows = []
    for i, noise in enumerate([0.0, 0.0, 0.0, 0.3]):
        for method, by in gains.items():
            setting = "either" if method in gain.EITHER else "labelled"
            row = {"setting": setting, "task": f"{half}{i}", "seed": 0, "method": method}
            row |= {"budget": budget, "dataset": f"{half}{i}", "metric": "f1", "noise": noise}
            row |= {"half": half, "base_score": 0.5, "gain": by * (1 + i / 10)}
            row |= {"test_score": 0.5 + row["gain"], "improved": by != 0, "cpu_seconds": 1.0}
            row |= {"n_scorer_calls": 150}
            rows.append(row | {"commit": "c", "versions": "v", "machine": "m"})
    return pd.DataFrame(rows)


GAINS = {
    "ours": 0.1,
    "ours_z1.64": 0.1,
    "ours_film": 0.3,
    "ours_film_z1.64": 0.3,
    "mixbias": 0.2,
    "mixloss": 0.05,
    "loss": -0.02,
    "weights_mixbias": 0.4,
    "weights_mixloss": 0.04,
    "weights_loss": 0.03,
    "weights_balanced": 0.02,
}
GAINS |= {"balanced": 0.0, "bias": 0.01, "cma_.02": 0.0, "cma_.05": 0.02, "cma_.1": 0.01}


def test_targets_are_held_against_what_was_measured():
    runs = with_share(rows_of("confirm", GAINS)).replace({"method": {"cma_.05": "cma"}})
    table = targets(runs, runs, None, 0.9)
    assert table.loc["average rank among seven methods", "measured"] == "2.000"
    assert table.loc["average rank among seven methods", "met"] == "**no**"
    assert table.loc["runs won against mixbias", "measured"] == "0.000"
    assert table.loc["runs won against mixloss", "met"] == "yes"
    assert table.loc["harmed, guard_z = 1", "met"] == "yes"
    assert table.loc["gain at B = 50, of that with most", "met"] == "**no**"
    assert average_ranks(runs)["loss"] == 7


def test_a_lead_is_told_by_runs_tasks_and_data_sets():
    runs = with_share(rows_of("confirm", GAINS)).replace({"method": {"cma_.05": "cma"}})
    behind = runs[runs["task"] == "confirm0"]
    ahead = runs[runs["task"] == "confirm1"].copy()
    ahead.loc[ahead["method"] == "ours", "share"] += 0.4
    twin = ahead.assign(task="confirm1, another metric")
    both = pd.concat([behind, *(behind.assign(seed=i) for i in (1, 2, 3, 4, 5)), ahead, twin])
    told = targets(both, both, None, None)["measured"]
    lead = {
        unit: float(told[f"clean: gain/(best-base) less mixbias's, mean of {unit}"])
        for unit in ("runs", "tasks", "data sets")
    }
    by_task = [-0.2, 0.18, 0.18]  # of the possible gain, .5
    assert lead["runs"] == pytest.approx(np.average(by_task, weights=[6, 1, 1]), abs=1e-3)
    assert lead["tasks"] == pytest.approx(np.mean(by_task), abs=1e-3)
    assert lead["data sets"] == pytest.approx((-0.2 + 0.18) / 2, abs=1e-3)


def test_what_few_observations_reach_is_told_by_all_runs_of_ours():
    many, few = (with_share(rows_of("confirm", GAINS, budget)) for budget in (500, 50))
    few = few.assign(share=few["share"] * 0.9)
    assert reached(many) is None
    assert reached(pd.concat([many, few])) == pytest.approx(0.9)
    lone = few[(few["method"] == "ours") | (few["task"] == "confirm0")]
    assert reached(pd.concat([many, lone])) == pytest.approx(0.9)


def test_a_variant_may_stand_for_ours():
    runs = with_share(rows_of("confirm", GAINS)).replace({"method": {"cma_.05": "cma"}})
    table = targets(as_ours(runs, "ours_film"), as_ours(runs, "ours_film"), None, None)
    assert table.loc["average rank among seven methods", "measured"] == "1.000"
    assert table.loc["runs won against mixbias", "met"] == "yes"
    assert set(as_ours(runs, "ours")["method"]) >= {"ours", "ours_z1.64", "mixbias"}
    assert "ours_film" not in set(as_ours(runs, "ours")["method"])


def test_rivals_may_step_all_weights_too():
    runs = with_share(rows_of("confirm", GAINS)).replace({"method": {"cma_.05": "cma"}})
    table = targets(*[with_rivals_on_weights(runs)] * 2, None, None)
    assert table.loc["runs won against mixbias", "measured"] == "0.000"
    assert table.loc["runs won against loss", "measured"] == "1.000"
    assert average_ranks(with_rivals_on_weights(runs))["mixbias"] == 1


def test_duels_count_runs_and_tasks():
    runs = with_share(rows_of("confirm", GAINS))
    ours, rival = (runs[runs["method"] == m] for m in ("ours", "mixbias"))
    told = duel(ours, rival, ["task", "seed"])
    assert (told["won"], told["tied"], told["lost"], told["tasks lost"]) == (0, 0, 4, 4)
    assert told["difference"] == pytest.approx(-0.2 * 1.15)


def test_budgets_are_compared_on_runs_that_have_all_of_them():
    many, few = (with_share(rows_of("confirm", GAINS, budget)) for budget in (150, 25))
    wide = budgets(pd.concat([many, few[few["task"] == "confirm0"]]))
    assert wide["ours"].to_numpy().tolist() == [pytest.approx([0.2, 0.2])]
    assert budgets(many).empty


def test_the_report_is_a_page_with_plots(tmp_path):
    (tmp_path / "images").mkdir()
    runs = pd.concat([rows_of("confirm", GAINS), rows_of("design", GAINS)])
    guided = pd.DataFrame(
        {
            "task": f"t{i}",
            "dataset": f"d{i}",
            "seed": 0,
            "method": method,
            "ground": "opaque",
            "half": "confirm",
            "metric": "f1",
            "base_score": 0.5,
            "test_score": 0.5 + by,
            "gain": by,
        }
        for i in range(6)
        for adapter in ("", "film_")
        for method, by in ((f"{adapter}guided", 0.1 + i / 100), (f"{adapter}unguided", 0.05))
    )
    page = gain_report.compose(runs, with_share(guided), tmp_path)
    assert "| ours |" in page and "cma_.05" not in page.split("## Labelled")[1]
    assert "| opaque, guided | 6 |" in page
    won = next(line for line in page.splitlines() if line.startswith("| runs won against mixbias"))
    assert (
        won
        == "| runs won against mixbias | >= 0.6 | 0.000 | **no** | 0.000 | **no** | 1.000 | yes |"
    )
    for name in ("gain_ranks", "gain_tasks"):
        assert (tmp_path / "images" / f"{name}.png").stat().st_size > 1000


def test_splits_of_built_in_data_have_three_roles():
    split = load_split(Task("digits", "macro_f1", "design", noise=0.2), seed=0)
    assert isinstance(split, Split)
    assert len(split.y_train) > len(split.y_val) > 300


def test_the_page_is_what_the_report_makes_of_its_rows(tmp_path):
    folder = Path(__file__).parent.parent / "docs" / "benchmarks"
    rows = [str(folder / f"{name}.csv") for name in ("gain", "guidance")]
    gain_report.main([*rows, "--docs", str(tmp_path)])
    made = (tmp_path / "benchmarks" / "gain.md").read_text("utf-8")
    assert made == (folder / "gain.md").read_text("utf-8")
