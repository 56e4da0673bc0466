"""Write the results of the suites ``gain`` and ``guidance`` as a page with plots.

    python -m benchmarks.gain_report gain.csv guidance.csv

The page is docs/benchmarks/gain.md, its plots are in docs/images; all numbers are computed here.
Without guidance.csv its section is left out, as is what takes more tasks than there are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from benchmarks import gain_plots
from benchmarks.gain_tables import (
    RANKED,
    as_ours,
    best_cma,
    budgets,
    by_task,
    guidance,
    in_setting,
    partial_summary,
    reached,
    summary,
    targets,
    with_cma,
    with_rivals_on_weights,
)
from benchmarks.report import to_markdown, with_share

DOCS = Path(__file__).parent.parent / "docs"
BUDGET, MIN_RANKED = 150, 3
SHOWN = ["ours", "ours_film", "weights_mixbias", "mixbias", "all_weights_mix", "weighted_refit"]
OPAQUE_SHOWN = ["ours", "ours_unguided", "ours_film", "weights_loss", "loss", "bias", "cma", "tpe"]
OTHERS = ["ours_film", "weights_mixbias", "all_weights_mix", "refit", "weighted_refit", "tpe"]
CURVES = ["ours", "mixbias", "mixloss", "bias", "cma"]
HEAD = """# Gains of finetuning classifiers

Made by `python -m benchmarks.run`, suites `gain` and `guidance`, and `python -m
benchmarks.gain_report`; do not edit. All gains are on test rows, which neither training nor any
observation saw. Choices were made on the design half of the tasks, which shares no data set with
the confirm half, with one exception: increments of all weights had been measured on the confirm
half, with shorter trajectories, and led there, before they became the default. **Of ours against
ours_film the confirm half is no independent test.** Earlier versions were measured there too.

{about}

gain/(best-base)
: share of the way from the base score to the best possible one, so that metrics in money count too;
  where less than .01 is left, of that

mean gain, harmed > 0.01, worst 5%
: over metrics that end at 1; "harmed" counts all

calls
: median calls of the scorer. Observations are evaluations of the net; ours are also scored on
  resamples of their rows, which costs no evaluation but tells more of the metric

rank
: over runs, among those of {ranked} that there are

W/T/L, p
: runs that one of ours won, tied or lost against the row. p is Wilcoxon's signed rank test over
  means of **data sets**: tasks of one data set share rows, as seeds do

CPU s
: median of a run, training included where a method trains, on a shared machine
"""
METHODS = """## Methods

All are scored on the same test rows. What is finetuned starts from one net, trained on the
training rows. Where several points were observed, the best is kept; of rivals that train on
validation rows, this is the best on rows they trained on.

ours
: `MetricOptFinetuner` as it comes, guard_z = 1; with 0 and 1.64 as ours_z0, ours_z1.64

ours_film...
: the same with adapter = "film", φ of scale and shift

ours_unguided..., ours_film_unguided...
: these with guidance_weight = 0

mixsoup
: ours with one recipe, that of mixloss, and no value function: what selection and guard are worth

none, bias
: the net as it is; a search of shifts of each class's log-score (two classes: thresholds)

loss, balanced
: φ on the training rows' cross-entropy, plain or with balanced classes

valloss, mixloss, mixbias
: φ on that of validation rows; on as many training as validation rows; and a bias search after it

weights_loss, weights_balanced, weights_mixloss, weights_mixbias
: the same where φ is an increment of every weight, as in ours; in those above and below it scales
  and shifts channels

cma_.02, cma_.05, cma_.1, cma_2000
: CMA-ES on φ with that step size; the one that was best on the design half is called cma. The last
  has .05 and 2,000 observations, about as many as ours has calls of the scorer

tpe
: Optuna over class weights, learning rate and label smoothing of training φ, ten observations each

post_shift
: `PostShiftClassifier` on the net

libauc
: φ on LibAUC's losses, for AUROC and average precision

weighted
: the net trained again with class weights, which are chosen on the validation rows

refit, weighted_refit
: the net trained again on training **and** validation rows, plain or with those weights

tuned_threshold
: `TunedThresholdClassifierCV` on nets trained on five folds of training and validation rows, noisy
  labels included, and on all of them

all_weights_val, all_weights_mix, all_weights_held_out
: all weights trained on, with validation rows; half and half; and so that half of the validation
  rows choose
"""
TARGETS = """## Targets, on the confirm half

Against rivals whose φ scales and shifts channels; then with those of them that descend a loss on
all weights, as ours does; then ours on the rivals' adapter. Ties do not count as runs won or lost.
"""
LABELLED = """## Labelled validation rows, {labels} training labels

{n_tasks} tasks, {seeds}, B = {budget}.
"""
OPAQUE = """## Opaque metric, {labels} training labels

Validation labels reach the scorer and nothing else. {n_tasks} tasks, {seeds}, B = {budget}.
"""
RANKS = """## Ranks over tasks

Average ranks over the {n} tasks of the confirm half by mean gain/(best-base), labelled; lines join
what Nemenyi's test does not tell apart at .05. Friedman's p is {p:.2g}.

![Critical difference diagram](../images/gain_ranks.png)

![Gains by task](../images/gain_tasks.png)
"""
CURVE = """## Budgets

Mean gain/(best-base) over the {n} runs ({tasks} tasks of the confirm half) that have all methods
and budgets; labelled.

![Gain over budget](../images/gain_budgets.png)
"""
GUIDED = """## Guidance on its own ground

The same finetuning with guidance_weight 1 and 0, guard off, with the default adapter and, where
that was measured, with adapter = "film"; {seeds}. What guidance might pay for is the ground of a
task. Errors are over data sets.
"""


def compose(gain: pd.DataFrame, guided: pd.DataFrame | None, docs: Path) -> str:
    """Return the page; write its plots."""
    gain = with_share(gain)
    main = gain[gain["budget"] == BUDGET]
    chosen = best_cma(main[main["half"] == "design"])
    gain, main = with_cma(gain, chosen), with_cma(main, chosen)
    confirm, design = main[main["half"] == "confirm"], main[main["half"] == "design"]
    about = {name: _named(main[name]) for name in ("commit", "versions", "machine")}
    about = "Measured at {commit} with {versions}; on {machine}.".format(**about)
    parts = [HEAD.format(about=about, ranked=", ".join(RANKED)), METHODS]
    curves = in_setting(gain[gain["half"] == "confirm"], "labelled")
    parts += [TARGETS, _targets(confirm, guided, reached(curves))]
    parts += _settings(confirm)
    parts.append(_ranks(in_setting(confirm, "labelled"), docs))
    parts.append(_curves(curves, docs))
    parts.append(_guided(guided))
    parts.append("## The design half\n\nWhere choices were made: no evidence.")
    parts += [part.replace("## ", "### ", 1) for part in _settings(design)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _named(conditions: pd.Series) -> str:
    """Return what rows were measured under; the first of them did not name their machine."""
    known = conditions.astype(object).fillna("a machine that was not recorded")
    return " / ".join(sorted(known.unique()))


def _targets(runs: pd.DataFrame, guided: pd.DataFrame | None, of_budget: float | None) -> str:
    """Hold the default against what was asked for, and like against like."""
    settings = [in_setting(runs, setting) for setting in ("labelled", "opaque")]
    guided = guided if guided is None else guided[guided["half"] == "confirm"]
    compared = [("measured", settings, guided, of_budget)]
    if "weights_mixbias" in set(settings[0]["method"]):
        on_weights = [with_rivals_on_weights(part) for part in settings]
        compared.append(("losses on weights", on_weights, None, None))
    film = [as_ours(part, "ours_film") for part in settings]
    compared.append(("all on film", film, _on_film(guided), None))
    columns = {}
    for name, parts, *others in compared:
        table = targets(*parts, *others)
        columns |= {"asked": columns.get("asked", table["asked"])}
        met = "met" if name == "measured" else f"{name}: met"
        columns |= {name: table["measured"], met: table["met"]}
    return to_markdown(pd.DataFrame(columns).reindex(columns["asked"].index).fillna(""), "target")


def _on_film(guided: pd.DataFrame | None) -> pd.DataFrame | None:
    if guided is None:
        return None
    names = {"film_guided": "guided", "film_unguided": "unguided"}
    film = guided[guided["method"].isin(names)]
    return film.assign(method=film["method"].map(names))


def _guided(runs: pd.DataFrame | None) -> str:
    if runs is None:
        return ""
    parts = [GUIDED.format(seeds=_seeds(runs))]
    for half, of_half in runs.groupby("half"):
        parts += [f"### {half} half", to_markdown(guidance(of_half), "ground, method")]
    return "\n\n".join(part.strip() for part in parts)


def _settings(runs: pd.DataFrame) -> list[str]:
    parts = []
    for setting, head, shown in (("labelled", LABELLED, SHOWN), ("opaque", OPAQUE, OPAQUE_SHOWN)):
        of_setting = in_setting(runs, setting)
        noisy = of_setting["noise"] > 0
        for labels, part in (("clean", of_setting[~noisy]), ("noisy", of_setting[noisy])):
            if part.empty:
                continue
            counts = {"n_tasks": part["task"].nunique(), "seeds": _seeds(part)}
            parts.append(head.format(labels=labels, budget=BUDGET, **counts))
            parts.append(to_markdown(summary(part), "method"))
            some = partial_summary(part)
            if len(some):
                parts.append(f"On some runs only:\n\n{to_markdown(some, 'method')}")
            parts.append(f"Mean gain by task:\n\n{to_markdown(by_task(part, shown), 'task')}")
    return parts


def _seeds(runs: pd.DataFrame) -> str:
    """Say how many seeds the tasks have."""
    of_task = runs.groupby("task")["seed"].nunique()
    few, many = of_task.min(), of_task.max()
    return f"{many} seeds" if few == many else f"{few} to {many} seeds"


def _ranks(runs: pd.DataFrame, docs: Path) -> str:
    shares = runs.pivot_table(index="task", columns="method", values="share")
    known = [method for method in (*RANKED, *OTHERS) if method in shares]
    if len(shares[known].dropna()) < MIN_RANKED:
        return ""
    p = gain_plots.critical_differences(shares[known], docs / "images" / "gain_ranks.png")
    rivals = [m for m in ("ours_film", "mixbias", "all_weights_mix", "refit") if m in shares]
    gain_plots.gains_of_tasks(shares, rivals, docs / "images" / "gain_tasks.png")
    return RANKS.format(n=len(shares[known].dropna()), p=p)


def _curves(runs: pd.DataFrame, docs: Path) -> str:
    wide = budgets(runs[runs["method"].isin(CURVES)])
    if wide.empty:
        return ""
    means = wide.mean().unstack().loc[[m for m in CURVES if m in wide]]
    gain_plots.budget_curves(means, docs / "images" / "gain_budgets.png")
    table = means.map("{:+.3f}".format)
    table.columns = [f"B = {budget}" for budget in table.columns]
    n_tasks = wide.index.get_level_values("task").nunique()
    return CURVE.format(n=len(wide), tasks=n_tasks) + "\n" + to_markdown(table, "method")


def main(arguments: list[str] | None = None) -> None:
    """Write page and plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gain_report")
    parser.add_argument("gain", type=Path, help="CSV of the suite gain")
    parser.add_argument("guidance", type=Path, nargs="?", help="CSV of the suite guidance")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args(arguments)
    guided = with_share(pd.read_csv(options.guidance)) if options.guidance else None
    for folder in ("images", "benchmarks"):
        (options.docs / folder).mkdir(parents=True, exist_ok=True)
    page = compose(pd.read_csv(options.gain), guided, options.docs)
    (options.docs / "benchmarks" / "gain.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
