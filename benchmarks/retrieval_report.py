"""Print the results of `benchmarks.retrieval` as markdown tables.

    python -m benchmarks.retrieval_report results_retrieval.csv

Gains are test scores less the base net's. Standard errors are over seeds: another base net and
other alphabets to train and validate on. In the confirm setting all seeds share the test
characters, so that these errors say nothing of other test alphabets. Harmed are runs that end
below the base net. W/T/L counts the runs that the method won, tied or lost against the rival;
"over" is the mean paired difference to it, with its standard error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import TOLERANCE, to_markdown

HEADER = """# Gains in retrieval

Made by `python -m benchmarks.retrieval` and `python -m benchmarks.retrieval_report`; do not edit.
Gains are test scores less those of the base net, on characters of alphabets that neither net nor
metric has seen. "confirm_augmented" has a better base net, trained on turned and distorted drawings
too.

- none, loss, vloss, mixloss: as trained; the soft neighbour criterion on training rows, validation
  rows, or both, its best observed checkpoint
- mixloss_jitter: the same with the jitter of our trajectories, but without these, selection and
  guard
- cma: CMA-ES on the adapter parameters
- ours, ours_z1.64, ours_noguard: `MetricOptFinetuner` with guard_z of 1, 1.64 and None

Standard errors are over seeds: another base net and other alphabets to train and validate on. All
seeds share the test characters. Harmed are runs that end below the base net. "over" is the mean
paired difference to the rival, with its standard error; "claimed" the gain that the method itself
saw on validation rows."""
CONDITIONS = ["versions", "commit", "source", "hosts", "n_params"]


def summarise(runs: pd.DataFrame, rival: str) -> pd.DataFrame:
    """One row per method, best mean gain first; `runs` are of one metric and budget."""
    rows = {}
    for method, part in runs.groupby("method"):
        rows[method] = {
            "runs": len(part),
            "base": f"{part['base_score'].mean():.4f}",
            "mean gain": part["gain"].mean(),
            "s.e.": _signless(_standard_error(part["gain"])),
            "least": f"{part['gain'].min():+.4f}",
            "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
            **_duel(part, runs[runs["method"] == rival], rival),
            "claimed": f"{part['val_claimed_gain'].mean():+.4f}",
            "changed": f"{part['improved'].mean():.2f}",
            "observations": _range(part["n_observations"]),
            "CPU s": f"{part['cpu_seconds'].median():.1f}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean gain", ascending=False)
    table["mean gain"] = table["mean gain"].map("{:+.4f}".format)
    return table


def _duel(part: pd.DataFrame, rival: pd.DataFrame, name: str) -> dict[str, str]:
    pairs = part.merge(rival, on=["setting", "metric", "budget", "seed"], suffixes=("", "_rival"))
    difference = pairs["test_score"] - pairs["test_score_rival"]
    won, lost = (difference > TOLERANCE).sum(), (difference < -TOLERANCE).sum()
    counts, over = f"{won}/{len(pairs) - won - lost}/{lost}", f"{difference.mean():+.4f}"
    if len(pairs) > 1:
        over += f" ± {_standard_error(difference):.4f}"
    if pairs.empty or (part["method"] == name).all():
        counts = over = ""
    return {f"W/T/L against {name}": counts, f"over {name}": over}


def _standard_error(values: pd.Series) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _signless(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _range(counts: pd.Series) -> str:
    least, most = counts.min(), counts.max()
    return str(least) if least == most else f"{least} to {most}"


def overview(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of each method by metric and budget, and over all of these."""
    gains = runs.pivot_table(index="method", columns=["metric", "budget"], values="gain")
    harmed = (runs["gain"] < -TOLERANCE).groupby(runs["method"])
    over_all = gains.mean(axis=1, skipna=False)  # with some left out, means do not compare
    gains = gains.loc[over_all.sort_values(ascending=False).index]
    table = gains.map(lambda gain: "" if np.isnan(gain) else f"{gain:+.4f}")
    table.columns = [f"{metric}, B = {budget}" for metric, budget in table.columns]
    table["all"] = over_all.map("{:+.4f}".format).mask(over_all.isna(), "")
    table["harmed"] = harmed.sum().astype(str) + " of " + harmed.size().astype(str)
    table["CPU s"] = runs.groupby("method")["cpu_seconds"].sum().map("{:.0f}".format)
    return table


def conditions(runs: pd.DataFrame) -> list[str]:
    """What the runs were made with; a line more where that differs."""
    lines = []
    for name in CONDITIONS:
        values = runs[name].unique()
        lines.append(f"- {name}: {'; or '.join(map(str, values))}")
    if runs["source"].nunique() > 1:
        lines.append("- **the code changed between runs: these are not one experiment**")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_report")
    parser.add_argument("results", type=Path)
    parser.add_argument("--rival", default="mixloss", help="the method to be held against")
    options = parser.parse_args(arguments)
    results = pd.read_csv(options.results)
    print(HEADER)
    for setting, of_setting in results.groupby("setting"):
        print(f"\n## Omniglot, {setting}: {of_setting['seed'].nunique()} seeds\n")
        print(*conditions(of_setting), sep="\n", end="\n\n")
        print(to_markdown(overview(of_setting), "mean gain"))
        for (metric, budget), runs in of_setting.groupby(["metric", "budget"]):
            print(f"\n### {metric}, B = {budget}\n")
            print(to_markdown(summarise(runs, options.rival), "method"))


if __name__ == "__main__":
    sys.exit(main())
