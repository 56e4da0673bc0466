"""Tests of the speed suite: rows are complete, rivals agree, the page is that of its rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import speed_observations
from benchmarks.memory import peak_bytes
from benchmarks.speed import COLUMNS, KEY, TASKS, measure
from benchmarks.speed_fit import Fit, fit_cost, profile
from benchmarks.speed_observations import Case, Observing
from benchmarks.speed_report import compose, growth, main
from benchmarks.timing import best_of

PAGES = Path(__file__).parents[1] / "docs" / "benchmarks"
SMALL = Fit(budget=10, n_train=200, n_rows=100)


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(PAGES / "speed.csv")


@pytest.mark.parametrize(
    "case",
    [
        Case(n_rows=200, n_phi=2),
        Case(n_rows=200, n_phi=5, n_classes=30),
        Case(net="wide MLP", width=32, n_rows=200),
        Case(net="CNN", n_rows=20, n_phi=2, n_classes=10),
        Case(net="CNN", n_rows=20, n_phi=2, n_classes=10, targets="all"),
    ],
    ids=lambda case: case.subject,
)
def test_all_ways_to_observe_see_the_same_models(case):
    observing = Observing(case)
    observing.check()
    assert len(observing.ours()) == case.n_phi
    assert len(observing.bare()) == case.n_looped


def test_rows_of_a_task_are_complete_and_told_apart_by_their_key(monkeypatch):
    cases = tuple(Case(n_rows=100, n_phi=n) for n in (1, 2))
    monkeypatch.setitem(speed_observations.GROWTH, "phi", ("n_phi", cases))
    monkeypatch.setattr(speed_observations, "peak_bytes", lambda prepare: 2**20)
    rows = measure("observations-phi", repeats=1)
    assert len({tuple(row[name] for name in KEY) for row in rows}) == len(rows) == 12
    for row in rows:
        assert list(row) == COLUMNS
        assert row["amount"] > 0
        assert row["value"] == row["n_phi"]
        assert row["versions"] and row["commit"] and row["machine"]


def test_cost_of_a_fit_is_held_against_the_steps_it_took(monkeypatch):
    monkeypatch.setattr("benchmarks.speed_fit.peak_bytes", lambda prepare: None)
    found = {(r["way"], r["quantity"]): r["amount"] for r in fit_cost("budget", (SMALL,), 1)}
    steps = found["fit", "gradient steps"]
    assert steps > found["fit", "optimizer steps"] > 0
    equal, sequential = (
        found[f"equal {name} steps", "seconds per fit"] for name in ("gradient", "optimizer")
    )
    assert equal / sequential == pytest.approx(steps / found["fit", "optimizer steps"])


def test_parts_of_a_fit_add_up():
    parts = {row["way"]: row["amount"] for row in profile((SMALL,), 1)}
    total = parts.pop("total")
    assert sum(parts.values()) == pytest.approx(total)
    assert parts["steps"] > 0


def test_peak_memory_is_that_of_the_run():
    n_bytes = peak_bytes(_prepared)
    assert n_bytes is None or 0.9 * 2**26 <= n_bytes < 1.5 * 2**26


def _prepared():
    return lambda: bytearray(b"x") * 2**26


def test_turns_are_as_many_as_asked_for():
    calls = []
    assert min(best_of(3, lambda: calls.append(0), clock=lambda: float(len(calls)))) >= 0
    assert len(calls) == 4


def test_page_is_what_its_rows_make_of_it(committed, tmp_path):
    assert set(committed["task"]) == set(TASKS)
    assert (PAGES / "speed.md").read_text("utf-8") == compose(committed)
    main([str(PAGES / "speed.csv"), "--folder", str(tmp_path)])
    assert (tmp_path / "benchmarks" / "speed.md").read_text("utf-8") == compose(committed)
    assert len(list((tmp_path / "images").glob("speed_*.png"))) == 4


def test_growth_is_a_power():
    x = pd.Series([10.0, 100.0])
    assert growth(x, x**1.5) == pytest.approx(1.5)
