"""Print the results of `benchmarks.gain` as markdown tables.

    python -m benchmarks.report results.csv

Mean gain, the share harmed by more than .01 and the 5 % quantile are over the metrics bounded by
1; tasks in money enter the other columns. gain/(best-base) is the share of the way from the base
score to the best possible score. W/T/L counts the runs that `ours` won, tied or lost against the
row, and p is Wilcoxon's signed rank test over tasks, on their mean gain/(best-base).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from benchmarks.metrics import best_score

TOLERANCE = 1e-9  # scores closer than this are a tie
HARM = 0.01


def read_results(path: Path) -> pd.DataFrame:
    """Read a results file and add each run's normalised gain."""
    runs = pd.read_csv(path)
    best = runs["metric"].map(best_score)
    headroom = best - runs["base_score"]
    runs["bounded"] = best == 1.0
    runs["normalised"] = (runs["gain"] / headroom).where(headroom > TOLERANCE)
    return runs


def summarise(runs: pd.DataFrame, ours: str) -> pd.DataFrame:
    """One row per method, best mean normalised gain first."""
    rows = {method: _summary(part, runs, ours) for method, part in runs.groupby("method")}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table = table.sort_values("gain/(best-base)", ascending=False)
    table["gain/(best-base)"] = table["gain/(best-base)"].map("{:+.3f}".format)
    return table


def _summary(part: pd.DataFrame, runs: pd.DataFrame, ours: str) -> dict[str, object]:
    bounded = part.loc[part["bounded"], "gain"]
    return {
        "runs": len(part),
        "mean gain": f"{bounded.mean():+.4f}",
        "gain/(best-base)": part["normalised"].mean(),
        "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
        f"harmed > {HARM}": f"{(bounded < -HARM).mean():.2f}",
        "5% quantile": f"{bounded.quantile(0.05):+.4f}",
        **_duel(part, runs[runs["method"] == ours]),
        "changed": f"{part['improved'].mean():.2f}",
        "CPU s": f"{part['cpu_seconds'].median():.2f}",
    }


def _duel(rival: pd.DataFrame, ours: pd.DataFrame) -> dict[str, str]:
    """Compare `ours` with a rival run by run and, tested, task by task."""
    pairs = ours.merge(rival, on=["task", "seed", "budget"], suffixes=("", "_rival"))
    difference = pairs["test_score"] - pairs["test_score_rival"]
    won, lost = (difference > TOLERANCE).sum(), (difference < -TOLERANCE).sum()
    by_task = (pairs["normalised"] - pairs["normalised_rival"]).groupby(pairs["task"]).mean()
    tasks = f"{(by_task > TOLERANCE).sum()}/{(by_task < -TOLERANCE).sum()}"
    p = wilcoxon(by_task).pvalue if (by_task.abs() > TOLERANCE).any() else np.nan
    return {
        "W/T/L of ours": f"{won}/{len(pairs) - won - lost}/{lost}",
        "tasks W/L": tasks,
        "p (tasks)": "-" if np.isnan(p) else f"{p:.2g}",
    }


def by_task(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean base score of each task and the mean gain of each method."""
    gains = runs.pivot_table(index=["half", "task"], columns="method", values="gain")
    base = runs.groupby(["half", "task"])["base_score"].mean().rename("base")
    order = gains.mean().sort_values(ascending=False).index
    signed = gains[order].map(lambda gain: "" if np.isnan(gain) else f"{gain:+.4f}")
    table = pd.concat([base.map("{:.4f}".format), signed], axis=1)
    return table.sort_index(ascending=[False, True]).droplevel("half")


def to_markdown(table: pd.DataFrame, first_column: str) -> str:
    """Format a frame as a markdown table.

    Examples
    --------
    >>> print(to_markdown(pd.DataFrame({"gain": ["+0.1"]}, index=["ours"]), "method"))
    | method | gain |
    |---|---|
    | ours | +0.1 |
    """
    lines = [[first_column, *table.columns], *table.reset_index().values.tolist()]
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--ours", default="ours", help="the method that the others are held against"
    )
    parser.add_argument("--half", choices=["design", "confirm"], help="tasks of one half only")
    options = parser.parse_args(arguments)
    runs = read_results(options.results)
    if options.half:
        runs = runs[runs["half"] == options.half]
    noisy = runs["noise"] > 0
    for budget, of_budget in runs.groupby("budget"):
        for title, part in (
            ("all tasks", of_budget),
            ("clean training labels", of_budget[~noisy]),
            ("noisy training labels", of_budget[noisy]),
        ):
            if part.empty:
                continue
            n_tasks, n_seeds = part["task"].nunique(), part["seed"].nunique()
            print(f"\n### B = {budget}, {title}: {n_tasks} tasks x {n_seeds} seeds\n")
            print(to_markdown(summarise(part, options.ours), "method"))
        print(f"\n### B = {budget}, mean gain by task\n")
        print(to_markdown(by_task(of_budget), "task"))


if __name__ == "__main__":
    sys.exit(main())
