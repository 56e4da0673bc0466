"""Print the results of `benchmarks.post_shift` as markdown, or write them to a folder.

python -m benchmarks.post_shift_report results.csv
python -m benchmarks.post_shift_report results.csv --folder docs/benchmarks
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from benchmarks.post_shift_tasks import IMBALANCED
from benchmarks.report import HARM, TOLERANCE, to_markdown

HEADER = """# Gains of post-shifting

Made by `python -m benchmarks.post_shift` and `python -m benchmarks.post_shift_report`; do not edit.
Gains are test scores less those of the classifier as it was trained on the training rows. A task is
a data set, a metric, noise in the training labels and a classifier (logistic regression or boosted
trees); its gain is the mean over seeds. "post_shift", like all searches, observes the metric on
validation rows.

- none, none_all: as trained on training rows; on training and validation rows
- tuned_threshold: scikit-learn's `TunedThresholdClassifierCV` on training and validation rows:
  5 folds x 100 thresholds, and more rows to train on; binary only. tuned_threshold_val: 100
  thresholds on the validation rows
- bias: per-class shifts of log-probabilities by coordinate search, a threshold with two classes, as
  many observations. bias_balanced: started where classes are balanced if that is better
- bias_informed: the same from what post_shift starts from, calibrated and balanced; with two
  classes, thresholds at quantiles of rows of which both classes have as many
- reweighted: trained again with class_weight="balanced". balanced_plugin: probabilities divided by
  class shares of the validation rows. Neither observes the metric
- post_shift: `PostShiftClassifier` with its defaults on the validation rows. Others differ by
  guard_z (1.64, None), weighting="full" or randomized=True. post_shift_cv: cv=5 on training and
  validation rows, so that its rows are those of tuned_threshold

Standard errors are over tasks. These share data sets, so that they and p (Wilcoxon's signed rank
test over tasks, on gain/(best-base)) promise more than they should; W/L by data set does not.
gain/(best-base) is the share of the way to the best possible score. Harmed are runs that end below
the base score, "5%" is that quantile of gains. W/T/L counts the runs that post_shift won, tied or
lost against the row, "post_shift over it" is the mean paired difference in gain. Imbalanced are
tasks whose largest class is at least 3 times the smallest. CPU s are those of a method alone: where
it trains the classifier again (none_all, tuned_threshold, reweighted, post_shift_cv) that is part
of it. Methods on all rows are left out where labels are noisy, so that their means are over fewer
tasks."""
ADULT = """The setting of Hiranandani et al. (2021) on black-box fairness. The metric is the
geometric mean of the true positive and true negative rates of women and of men, on the official
test part. Training labels are right, or positives are recorded as negatives: 30 % of women's, 10 %
of men's (ours to choose). Standard errors are over seeds, which draw validation rows and noise; all
share the test rows.

- threshold, threshold_gender, bias_gender: one threshold; a grid of two; two, one at a time
- balanced_plugin(_gender): probabilities divided by class shares, of the same gender
- reweighted(_gender): trained again, with classes, or classes of both genders, weighted alike.
  clean_only: trained on the validation rows
- post_shift, post_shift_gender: basis="class", and the gender's column"""
CONDITIONS = ["versions", "commit", "source"]
LINKS = (  # of the published ordering; its reweighting may not know genders, so both are here
    ("post_shift_gender", "post_shift"),
    ("post_shift_gender", "threshold"),
    ("post_shift_gender", "reweighted_gender"),
    ("post_shift", "reweighted"),
    ("post_shift", "balanced_plugin"),
    ("reweighted", "none"),
    ("balanced_plugin", "none"),
)
GROUPS = ("binary", "imbalanced multiclass", "other multiclass", "money")


def read_results(path: Path) -> pd.DataFrame:
    """Read a results file and add each run's group and normalised gain."""
    runs = pd.read_csv(path)
    money = runs["metric"].str.endswith("_cost")
    headroom = np.where(money, 0.0, 1.0) - runs["base_score"]
    runs["normalised"] = (runs["gain"] / headroom).where(headroom > TOLERANCE)
    imbalanced = runs.groupby("task")["imbalance"].transform("median") >= IMBALANCED
    kinds = [money, runs["n_classes"] == 2, imbalanced]
    runs["group"] = np.select(kinds, ["money", "binary", "imbalanced multiclass"], GROUPS[2])
    return runs


def summarise(runs: pd.DataFrame, ours: str) -> pd.DataFrame:
    """One row per method, best mean gain first; `runs` are of one half, group and budget."""
    rows = {}
    for method, part in runs.groupby("method"):
        gain = part.groupby(["task", "estimator"])["gain"].mean()
        rows[method] = {
            "tasks": len(gain),
            "mean gain": gain.mean(),
            "s.e.": f"{_standard_error(gain):.4f}",
            "gain/(best-base)": f"{part['normalised'].mean():+.3f}",
            "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
            f"harmed > {HARM}": f"{(part['gain'] < -HARM).mean():.2f}",
            "5%": f"{part['gain'].quantile(0.05):+.4f}",
            **_duel(part, runs[runs["method"] == ours], method == ours),
            "changed": f"{part['improved'].mean():.2f}",
            "observations": _range(part["n_observations"]),
            "CPU s": f"{part['cpu_seconds'].median():.2f}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean gain", ascending=False)
    table["mean gain"] = table["mean gain"].map("{:+.4f}".format)
    return table


def _duel(rival: pd.DataFrame, ours: pd.DataFrame, same: bool) -> dict[str, str]:
    """Compare a method with a rival: by run, by task and by data set."""
    key = ["task", "dataset", "estimator", "seed", "budget"]
    pairs = ours.merge(rival, on=key, suffixes=("", "_rival"))
    if pairs.empty or same:
        return dict.fromkeys(("W/T/L", "data sets W/L", "post_shift over it", "p"), "")
    difference = pairs["test_score"] - pairs["test_score_rival"]
    won, lost = (difference > TOLERANCE).sum(), (difference < -TOLERANCE).sum()
    by_task = difference.groupby([pairs["task"], pairs["estimator"]]).mean()
    normalised = pairs["normalised"] - pairs["normalised_rival"]
    ranked = normalised.groupby([pairs["task"], pairs["estimator"]]).mean().dropna()
    by_data = normalised.groupby(pairs["dataset"]).mean()
    p = wilcoxon(ranked).pvalue if (ranked.abs() > TOLERANCE).any() else np.nan
    return {
        "W/T/L": f"{won}/{len(pairs) - won - lost}/{lost}",
        "data sets W/L": f"{(by_data > TOLERANCE).sum()}/{(by_data < -TOLERANCE).sum()}",
        "post_shift over it": f"{by_task.mean():+.4f} ± {_standard_error(by_task):.4f}",
        "p": "" if np.isnan(p) else f"{p:.2g}",
    }


def _standard_error(values: pd.Series) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _range(counts: pd.Series) -> str:
    least, most = int(counts.min()), int(counts.max())
    return str(least) if least == most else f"{least} to {most}"


def by_task(runs: pd.DataFrame) -> pd.DataFrame:
    """Imbalance and mean base score of each task, and the mean gain of each method."""
    keys = ["group", "task", "estimator"]
    gains = runs.pivot_table(index=keys, columns="method", values="gain")
    order = gains.mean().sort_values(ascending=False).index
    table = gains[order].map(lambda gain: "" if np.isnan(gain) else f"{gain:+.4f}")
    about = runs.groupby(keys)[["imbalance", "base_score"]].mean()
    table.insert(0, "base", about["base_score"].map("{:.4f}".format))
    table.insert(0, "imbalance", about["imbalance"].map("{:.1f}".format))
    table = table.reset_index()
    table["group"] = pd.Categorical(table["group"], GROUPS)
    table = table.sort_values(["group", "task", "estimator"])
    return table.set_index(table["task"] + ", " + table["estimator"]).drop(columns=keys)


def adult_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method, best mean score first; `runs` are of one task and budget."""
    scores = runs.pivot(index="seed", columns="method", values="test_score")
    ours, rows = scores["post_shift_gender"], {}
    for method, part in runs.groupby("method"):
        over = ours - scores[method]
        won, lost = (over > TOLERANCE).sum(), (over < -TOLERANCE).sum()
        same = method == ours.name
        rows[method] = {
            "score": scores[method].mean(),
            "s.e.": f"{_standard_error(scores[method]):.4f}",
            "least": f"{scores[method].min():.4f}",
            "post_shift_gender over it": "" if same else _mean(over),
            "W/T/L": "" if same else f"{won}/{len(over) - won - lost}/{lost}",
            "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
            "observations": _range(part["n_observations"]),
            "CPU s": f"{part['cpu_seconds'].median():.2f}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("score", ascending=False)
    table["score"] = table["score"].map("{:.4f}".format)
    return table


def ordering(runs: pd.DataFrame) -> pd.DataFrame:
    """By how much each link of the published ordering holds, bold where it does not."""
    rows = {}
    for (task, budget), part in runs.groupby(["task", "budget"]):
        scores = part.pivot(index="seed", columns="method", values="test_score")
        row = {}
        for better, worse in LINKS:
            over = scores[better] - scores[worse]
            row[f"{better} > {worse}"] = _mean(over) if over.mean() > 0 else f"**{_mean(over)}**"
        rows[f"{task}, B = {budget}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(differences: pd.Series) -> str:
    return f"{differences.mean():+.4f} ± {_standard_error(differences):.4f}"


def conditions(runs: pd.DataFrame) -> str:
    """What the runs were made with; a line more where that differs."""
    lines = [f"- {name}: {'; or '.join(map(str, runs[name].unique()))}" for name in CONDITIONS]
    if runs["source"].nunique() > 1:
        lines.append("- **the code changed between runs: these are not one experiment**")
    return "\n".join(lines)


def compose(results: pd.DataFrame, ours: str) -> str:
    """Return the report as markdown."""
    parts = [HEADER]
    for half in ("design", "confirm"):
        of_half = results[results["half"] == half]
        for budget, runs in of_half.groupby("budget"):
            n_seeds = runs["seed"].nunique()
            parts += [f"## Half: {half}, B = {budget}, {n_seeds} seeds", conditions(runs)]
            for group in GROUPS:
                part = runs[runs["group"] == group]
                if len(part):
                    names = ", ".join(sorted(part["dataset"].unique()))
                    parts += [f"### {half}, {group}: {names}"]
                    parts += [to_markdown(summarise(part, ours), "method")]
            parts += [f"### {half}, mean gain by task", to_markdown(by_task(runs), "task")]
    adult = results[results["half"] == "adult"]
    if len(adult):
        n_seeds = adult["seed"].nunique()
        parts += [f"## Adult, rates of both genders: {n_seeds} seeds", ADULT, conditions(adult)]
        parts += ["### The published ordering, link by link", to_markdown(ordering(adult), "task")]
        for (_, budget, noise, task), runs in adult.groupby(["half", "budget", "noise", "task"]):
            about = "noisy labels" if noise else "right labels"
            share = f"{100 * float(task.rsplit('/')[-1]):g} % of rows validate"
            parts += [f"### {about}, {share}, B = {budget}"]
            parts += [to_markdown(adult_scores(runs), "method")]
    return "\n\n".join(parts) + "\n"


def condense(results: pd.DataFrame) -> pd.DataFrame:
    """One row per task, classifier, budget and method: means over seeds."""
    keys = ["half", "task", "estimator", "budget", "method", "source"]
    grouped = results.groupby(keys)
    means = grouped[["base_score", "test_score", "gain", "n_observations", "cpu_seconds"]].mean()
    means.insert(0, "seeds", grouped.size())
    means["least_gain"] = grouped["gain"].min()
    means["harmed"] = grouped["gain"].apply(lambda gain: (gain < -TOLERANCE).mean())
    return means.round(5).reset_index()


def main(arguments: list[str] | None = None) -> None:
    """Print the report, or write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.post_shift_report")
    parser.add_argument("results", type=Path, nargs="+", help="CSV of benchmarks.post_shift")
    parser.add_argument("--ours", default="post_shift", help="the method that rivals are held to")
    parser.add_argument("--folder", type=Path, help="write post_shift.md and post_shift.csv here")
    options = parser.parse_args(arguments)
    results = pd.concat([read_results(path) for path in options.results])
    report = compose(results, options.ours)
    if options.folder is None:
        print(report, end="")
        return
    (options.folder / "post_shift.md").write_text(report)
    condense(results).to_csv(options.folder / "post_shift.csv", index=False)


if __name__ == "__main__":
    sys.exit(main())
