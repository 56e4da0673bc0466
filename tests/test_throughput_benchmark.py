"""Tests of benchmarks.throughput: what its tables take for granted."""

from __future__ import annotations

import csv

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from benchmarks.throughput import COLUMNS, check, measure, take_turns
from benchmarks.throughput_report import compose
from benchmarks.throughput_subjects import LIMIT, Way, mlp, numeric, sessions_of

ABOUT = {"machine": "a computer", "versions": "python", "commit": "c", "source": "s"}


@pytest.fixture(scope="module")
def net_rows():
    return measure(mlp((3,)), 3, n_threads=1, repeats=2, seconds=0.001)


@pytest.fixture(scope="module")
def pipe_rows():
    return measure(numeric((1,)), 1, n_threads=1, repeats=2, seconds=0.001)


def test_every_way_is_measured_or_says_why_not(net_rows, pipe_rows):
    for row in net_rows + pipe_rows:
        assert ("seconds" in row) == (not row["not_measured"])
        assert set(row) <= set(COLUMNS)


def test_speed_is_held_to_the_reference_of_the_same_turns(net_rows):
    seconds = {r["contender"]: float(r["seconds"]) for r in net_rows if "seconds" in r}
    for row in net_rows:
        if "speedup" in row:
            expected = seconds["torch eager"] / seconds[row["contender"]]
            assert float(row["speedup"]) == pytest.approx(expected, rel=1e-2)
            assert float(row["rows_per_second"]) == pytest.approx(
                3 / seconds[row["contender"]], rel=1e-2
            )


def test_arithmetic_and_bytes_of_a_net_are_those_of_its_layers(net_rows):
    row = net_rows[0]
    weights = 57 * 64 + 64 * 64 + 64 * 2
    assert float(row["flops"]) == pytest.approx(2 * 3 * weights, rel=1e-3)
    n_bytes = 4 * (weights + 64 + 64 + 2 + 3 * 57 + 3 * 2)
    assert float(row["bytes"]) == pytest.approx(n_bytes, rel=1e-3)


def test_times_limit_is_over_the_slower_of_arithmetic_and_memory(net_rows):
    rows = {row["contender"]: row for row in net_rows}
    limits = [row for name, row in rows.items() if name.startswith(f"{LIMIT}cpu")]
    rate = {
        unit: max(float(row[unit]) / float(row["seconds"]) for row in limits if row[unit])
        for unit in ("flops", "bytes")
    }
    eager = rows["torch eager"]
    bound = max(float(eager[unit]) / rate[unit] for unit in rate)
    expected = float(eager["seconds"]) / bound
    assert float(eager["times_limit"]) == pytest.approx(expected, rel=1e-2)


def test_a_way_that_answers_otherwise_is_not_timed():
    right, wrong = np.full((2, 2), 0.5), np.full((2, 2), 0.6)
    with pytest.raises(AssertionError, match="the wrong one"):
        check({"right": Way(lambda: right), "the wrong one": Way(lambda: wrong)}, "right")
    with pytest.raises(AssertionError, match="other labels"):
        check({"right": Way(lambda: right[0]), "wrong": Way(lambda: wrong[0])}, "right")


def test_ways_take_turns():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timed = take_turns(runs, repeats=3, seconds=0.0)
    assert [times.shape for _, times in timed.values()] == [(3,), (3,)]
    in_turns = "".join(calls).lstrip("a").lstrip("b")  # the first are to learn how many calls
    assert in_turns == "aabb" * 3


def test_sessions_have_the_threads_they_are_told_only_inside():
    before = onnxruntime.SessionOptions().intra_op_num_threads
    with sessions_of(3):
        assert onnxruntime.SessionOptions().intra_op_num_threads == 3
    assert onnxruntime.SessionOptions().intra_op_num_threads == before


def test_report_tells_what_was_measured_and_what_not(tmp_path, net_rows, pipe_rows):
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row | ABOUT for row in net_rows + pipe_rows)
    results = pd.read_csv(path)
    report = compose(results)
    for row in results.itertuples():
        assert row.contender.removeprefix(LIMIT) in report
    aimed = results[results["target"].notna()]
    assert len(aimed) == 2
    for row in aimed.itertuples():
        met = "yes" if row.speedup >= row.target else "**no**"
        assert f"| {row.contender} | 1 | {row.speedup:.1f} | 5 | {met} |" in report
