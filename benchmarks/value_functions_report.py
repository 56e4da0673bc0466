"""Write the results of `benchmarks.value_functions` as a page of tables.

    python -m benchmarks.value_functions_report results.csv > docs/benchmarks/value_functions.md

Gains are on test rows, as a share of the way from the base score to the best possible one, so that
metrics in money and metrics bounded by 1 can be averaged. Standard errors are over tasks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from benchmarks.metrics import best_score

TOLERANCE = 1e-9
HEAD = """# Value functions, measured

Made by `python -m benchmarks.value_functions_report`; see there, and
`benchmarks/value_functions.py`, for what is measured.
[The page on value functions](../value_functions.md) says what they are. All fits have
adapter = "film", whose φ is short enough to be read.

{about}
"""
RANKS = """## Order of scores on trajectories

{n} runs ({tasks}). Six trajectories with random class weights are observed at every one of 200
steps. A value function sees four of them, every so many steps. Spearman correlation with the true
scores: *between* the observations of these four; on the other two before anything of them is known
(*unseen*); and on the rest of them after their first five observations (*adapted*). Mean over runs.
"""
GAIN = """## Gains by guidance, {setting}

B = {budget} observations, {n} runs ({tasks}), guard_z = 1. W/T/L are runs that the row won, tied or
lost against the default without guidance (*none*), p is Wilcoxon's test over tasks.
"""
TRANSFER = """## Transfer, {setting}

{n} runs ({tasks}). Gain with few observations: cold, and with a value function that was learned on
rows of its own (half of what are test rows elsewhere; none of them is trained, observed or tested
on here) with 150 observations and validation labels. *of cold 150* divides mean gains.
"""


def read(path: Path) -> pd.DataFrame:
    """Read rows, with gains as a share of what is possible."""
    rows = pd.read_csv(path)
    headroom = rows["metric"].map(best_score) - rows["base_score"]
    rows["share"] = rows["gain"] / headroom.where(headroom > TOLERANCE)
    return rows


def ranks(rows: pd.DataFrame) -> str:
    """Return the table of rank correlations."""
    names = {"rank_between": "between", "rank_unseen": "unseen", "rank_adapted": "adapted"}
    table = rows.groupby(["variant", "budget"])[list(names)].mean().rename(columns=names)
    table = table.unstack("budget").swaplevel(axis=1)
    order = sorted(table.columns, key=lambda c: (c[0], list(names.values()).index(c[1])))
    table = table[order].dropna(axis=1, how="all")  # every step: none between
    table.columns = [f"{every}: {name}" for every, name in table.columns]
    return _markdown(table.map("{:.2f}".format), "every n steps")


def gains(rows: pd.DataFrame) -> str:
    """Return the table of guided against unguided finetuning."""
    reference = rows[rows["variant"] == "none"].set_index(["task", "seed"])["share"]
    table = {}
    for variant, part in rows.groupby("variant", sort=False):
        share = part.set_index(["task", "seed"])["share"]
        difference = (share - reference).dropna()
        by_task = difference.groupby("task").mean()
        table[variant] = {
            "mean share": _with_error(share.groupby("task").mean()),
            "minus none": _with_error(by_task),
            "W/T/L": _duel(difference),
            "p": _p(by_task),
            "harmed": f"{(share < -TOLERANCE).mean():.2f}",
            "CPU s": f"{part['cpu_seconds'].median():.1f}",
        }
    return _markdown(pd.DataFrame.from_dict(table, orient="index"), "variant")


def transfer(rows: pd.DataFrame) -> str:
    """Return the table of cold and warm fits."""
    mean = rows.groupby(["variant", "budget", "task"])["share"].mean()
    table = {}
    for variant in rows["variant"].unique():
        tasks = mean[variant].unstack("task")
        cold = mean["cold"].unstack("task")[tasks.columns]
        line: dict[str, object] = {"tasks": len(tasks.columns)}
        for budget in sorted(rows["budget"].unique()):
            if budget not in tasks.index:
                line[f"B = {budget}"] = ""
                continue
            line[f"B = {budget}"] = f"{tasks.loc[budget].mean():+.3f}"
            whole = cold.loc[150].mean()
            if budget != 150 and whole > TOLERANCE:
                line[f"B = {budget}, of cold 150"] = f"{tasks.loc[budget].mean() / whole:.2f}"
        if variant != "cold":
            differences = (tasks - cold.loc[tasks.index]).loc[25]
            line["B = 25, minus cold 25"] = _with_error(differences)
        table[variant] = line
    return _markdown(pd.DataFrame.from_dict(table, orient="index").fillna(""), "variant")


def _with_error(by_task: pd.Series) -> str:
    if len(by_task) < 2:
        return f"{by_task.mean():+.3f}"
    return f"{by_task.mean():+.3f} ± {by_task.std(ddof=1) / np.sqrt(len(by_task)):.3f}"


def _duel(difference: pd.Series) -> str:
    won, lost = (difference > TOLERANCE).sum(), (difference < -TOLERANCE).sum()
    return f"{won}/{len(difference) - won - lost}/{lost}"


def _p(by_task: pd.Series) -> str:
    if (by_task.abs() < TOLERANCE).all():
        return ""
    return f"{wilcoxon(by_task, zero_method='zsplit').pvalue:.2f}"


def _markdown(table: pd.DataFrame, corner: str) -> str:
    lines = [[corner, *map(str, table.columns)], ["---"] * (1 + len(table.columns))]
    lines += [
        [str(name), *map(str, row)] for name, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(rows: pd.DataFrame) -> str:
    """Return the page."""
    about = f"Measured at {', '.join(sorted(rows['commit'].unique()))} with {rows['versions'][0]}."
    parts = [HEAD.format(about=about)]

    def told(text: str, some: pd.DataFrame, **more) -> str:
        runs = some[["task", "seed"]].drop_duplicates()
        tasks = f"{runs['task'].nunique()} tasks: {', '.join(sorted(runs['task'].unique()))}"
        return text.format(n=len(runs), tasks=tasks, **more)

    for (suite, setting), some in rows.groupby(["suite", "setting"], sort=False):
        if suite == "ranks":
            parts += [told(RANKS, some), ranks(some)]
        elif suite == "gain":
            budget = some["budget"].iloc[0]
            parts += [told(GAIN, some, setting=setting, budget=budget), gains(some)]
        else:
            parts += [told(TRANSFER, some, setting=setting), transfer(some)]
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.value_functions_report")
    parser.add_argument("results", type=Path, help="CSV of benchmarks.value_functions")
    print(page(read(parser.parse_args(arguments).results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
