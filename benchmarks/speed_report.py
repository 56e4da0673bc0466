"""Write the results of the speed suite as a page with plots.

python -m benchmarks.speed_report results.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import to_markdown
from benchmarks.speed_batching import J
from benchmarks.speed_fit import CNN, N_FEATURES, Fit
from benchmarks.speed_observations import BARE_ROWS, MANY_ROWS, MAX_LOOPED
from benchmarks.speed_plots import PANELS, PARTS, draw_all, fixed_in, table_of

HEADER = """# Speed

Made by `python -m benchmarks.run --suite speed` and `python -m benchmarks.speed_report`; do not
edit. Seconds are CPU seconds of one thread, the least of a few repeats. Rivals take turns, so that
ratios within a table stand up to other load on the machine, which seconds do not. Peak memory is
by how much a run grows a process of its own, with net and rows at hand; of a few MiB it is a rough
figure."""
FIT = f"""## A fit

`MetricOptFinetuner` on a frozen net: an MLP trained on {Fit().n_train:,} rows of {N_FEATURES}
numbers, F1 in numpy, or a small CNN trained on {CNN.n_train:,} images. It is held against as many
steps of plain Adam on the cross-entropy of that net, with minibatches of the same size: the
gradient steps of all trajectories and twins, each of them one step of one net, or, less
generously, as many as its optimizer takes, which moves all of them in one step."""
PROFILE = """## Where the time of a fit goes

By the clock of a fit itself, `report_.seconds`, made to read CPU seconds. "other" is drawing
resamples, choosing, judging, and what is left."""
OBSERVATIONS = f"""## An observation

From φ to a score on validation rows; the scorer is accuracy in numpy. Weights and rows are random:
neither matters to the time.

- ours: as a fit with adapter = "film" does, J φ in one evaluation of the net after its frozen
  prefix (which is computed once per fit, and here in the last column), softmax, the scorer on
  answers that are there
- loop: for each φ copy the skorch net, set its weights, call the scorer on it; batch_size as skorch
  has it (128)
- bare loop: for each φ set the weights of the bare torch module, run it on some rows at a time (MLP
  {BARE_ROWS["MLP"]:,}, CNN {BARE_ROWS["CNN"]}), compute the metric. No probabilities, no budget, no
  record, no scorer that may ask what it likes: the arithmetic alone

Loops are measured with {MAX_LOOPED} φ at most, above {MANY_ROWS:,} rows with one, and scaled by
the number of φ: each costs them the same."""
MEMORY = """## Peak memory

Of an evaluation of J φ with its frozen prefix, and of one turn of the loop."""
BATCHING = f"""## Ways to batch

CPU milliseconds for {J} φ on the same rows. Adapters sit on all hosts and change weights or
outputs, in one call of vmap or in a loop; only "as planned" has the frozen prefix at hand."""
NO_GPU = "Not measured, no GPU: batches of {} φ on {}."
FITS = {"fit-budget": "observations", "fit-rows": "validation rows", "fit-cnn": "observations"}
FIT_SECONDS, OBSERVATION = "seconds per fit", "seconds per observation"


def growth(x: pd.Series, y: pd.Series) -> float:
    """Return the power of `x` that `y` grows by between the last two points.

    Examples
    --------
    >>> growth(pd.Series([1, 10, 100]), pd.Series([1.0, 2.0, 200.0]))
    2.0
    """
    return float(np.log(y.iloc[-1] / y.iloc[-2]) / np.log(x.iloc[-1] / x.iloc[-2]))


def targets(results: pd.DataFrame) -> pd.DataFrame:
    """Hold the results against what they should be."""
    fits = table_of(results, "fit-budget", FIT_SECONDS).loc[Fit().budget]
    nets = table_of(results, "observations-nets", OBSERVATION, index="subject")
    ratio = nets["loop"] / nets["ours"]
    rows = [
        (f"fit of the MLP, B = {Fit().budget}: CPU seconds", fits["fit"], "<", 1.0),
        ("over equal gradient steps", fits["fit"] / fits["equal gradient steps"], "<", 4.0),
    ]
    for subject, value in ratio.items():
        least = 10.0 if subject.startswith("MLP") else 3.0
        rows.append((f"observations of {subject}: times as fast as the loop", value, ">", least))
    return pd.DataFrame(
        [
            {
                "measured": name,
                "value": f"{value:.3g}",
                "target": f"{sign} {target:g}",
                "met": "yes" if (value < target) == (sign == "<") else "**no**",
            }
            for name, value, sign, target in rows
        ]
    ).set_index("measured")


def fit_table(results: pd.DataFrame, task: str) -> pd.DataFrame:
    """Seconds, ratios, steps, scorer calls and memory of fits."""
    seconds = table_of(results, task, FIT_SECONDS)
    counts = results[(results["task"] == task) & (results["way"] == "fit")]
    counts = counts.pivot_table(index="value", columns="quantity", values="amount")
    table = pd.DataFrame(
        {
            "CPU s": seconds["fit"].map("{:.2f}".format),
            "over equal gradient steps": _ratio(seconds["fit"], seconds["equal gradient steps"]),
            "over equal optimizer steps": _ratio(seconds["fit"], seconds["equal optimizer steps"]),
        }
    )
    for name in ("gradient steps", "optimizer steps", "scorer calls", "peak MiB"):
        if name in counts:
            table[name] = counts[name].map("{:,.0f}".format)
    table.index = table.index.map("{:,.0f}".format)
    return table


def _ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    return (above / below).map("{:.2f}".format)


def profile_table(results: pd.DataFrame) -> pd.DataFrame:
    """Shares of the parts of fits, and their seconds in all."""
    seconds = table_of(results, "profile", FIT_SECONDS, index="subject")
    total = seconds["total"]
    shares = seconds[list(PARTS)].div(total, axis=0)
    shares = shares.map("{:.0%}".format)
    shares.insert(0, "CPU s", total.map("{:.2f}".format))
    return shares


def observation_table(results: pd.DataFrame, task: str, index: str) -> pd.DataFrame:
    """Observations per second each way, and how many times as fast ours is."""
    seconds = table_of(results, task, OBSERVATION, index)
    prefix = table_of(results, task, "seconds of the prefix", index)["ours"]
    per_second = (1 / seconds).map(_three_digits)
    table = per_second[["ours", "loop", "bare loop"]]
    table["ours over loop"] = _ratio(seconds["loop"], seconds["ours"])
    table["ours over bare loop"] = _ratio(seconds["bare loop"], seconds["ours"])
    table["prefix, CPU ms"] = (1e3 * prefix).map("{:.3g}".format)
    return table


def _rows_of(results: pd.DataFrame) -> pd.Series:
    rows = results[results["task"] == "observations-nets"]
    return rows.groupby("subject", sort=False)["n_rows"].first().map("{:,.0f}".format)


def _three_digits(value: float) -> str:
    """Format a number.

    Examples
    --------
    >>> _three_digits(12345.6), _three_digits(0.00123456)
    ('12,346', '0.00123')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _grows(seconds: pd.DataFrame, ways: tuple[str, ...]) -> str:
    powers = [f"{way} {growth(seconds.index.to_series(), seconds[way]):.2f}" for way in ways]
    return f"Seconds grow, over the last step, as this power of it: {', '.join(powers)}."


def growing_section(results: pd.DataFrame) -> list[str]:
    """Tables of all that grows, and by what power."""
    parts = []
    for task, name in PANELS.items():
        table = observation_table(results, task, "value")
        table.index = table.index.map("{:,.0f}".format)
        parts += [f"### {name}", f"{fixed_in(results, task)}. Observations per CPU second:"]
        parts += [to_markdown(table, name)]
        parts += [_grows(table_of(results, task, OBSERVATION), ("ours", "loop", "bare loop"))]
    return parts


def memory_table(results: pd.DataFrame) -> pd.DataFrame:
    """Peak MiB of an evaluation, by what grows."""
    rows = {}
    for task, name in PANELS.items():
        peaks = table_of(results, task, "peak MiB")
        for value, of_value in peaks.iterrows():
            rows[f"{name}: {value:,.0f}"] = of_value[["ours", "loop"]].map("{:,.1f}".format)
    return pd.DataFrame.from_dict(rows, orient="index")


def batching_tables(results: pd.DataFrame) -> list[str]:
    """Tables of the ways to batch, and of chunks and layouts."""
    ways = 1e3 * table_of(results, "batching", "seconds", index="subject")
    rows = results[results["task"] == "batching"]
    plan = rows.pivot_table(index="subject", columns="quantity", values="amount", sort=False)
    table = ways.map(_three_digits)
    table["the plan"] = [_plan(plan.loc[subject]) for subject in table.index]
    chunks = (1e3 * table_of(results, "chunks", "seconds")).map(_three_digits)
    chunks.index = chunks.index.map("{:,.0f}".format)
    subject = results.loc[results["task"] == "chunks", "subject"].iloc[0]
    text = f"The {subject}, by rows in a chunk and memory format, CPU milliseconds:"
    return [to_markdown(table, "net"), text, to_markdown(chunks[::-1], "rows in a chunk")]


def _plan(chosen: pd.Series) -> str:
    parts = ["vmap" if chosen["vmap"] else "loop", f"{chosen['rows in a chunk']:.0f} rows"]
    return ", ".join(parts + ["channels_last"] * bool(chosen["channels_last"]))


def gpu_section(results: pd.DataFrame) -> list[str]:
    """What the GPU did, or that there was none."""
    rows = results[results["task"] == "observations-gpu"]
    without = rows[rows["not_measured"].notna()]
    parts = [NO_GPU.format(f"{row.n_phi:.0f}", row.subject) for row in without.itertuples()]
    if len(without) < len(rows):
        first = rows.iloc[0]
        text = f"{first['n_phi']:.0f} φ at once on {first['n_rows']:,.0f} images. Wall time:"
        peaks = table_of(results, "observations-gpu", "peak MiB", index="subject")
        table = observation_table(results, "observations-gpu", "subject")
        table["ours, peak MiB"] = peaks["ours"].map("{:,.0f}".format)
        parts += [text, to_markdown(table.rename(columns={"prefix, CPU ms": "prefix, ms"}), "net")]
    return parts


def conditions(results: pd.DataFrame) -> str:
    """What the measurements were made with."""
    names = ("machine", "versions", "commit", "repeats")
    lines = [f"- {name}: {'; or '.join(map(str, results[name].unique()))}" for name in names]
    return "\n".join(lines)


def compose(results: pd.DataFrame) -> str:
    """Return the page as markdown."""
    nets = observation_table(results, "observations-nets", "subject")
    nets.insert(0, "rows", _rows_of(results))
    parts = [HEADER, conditions(results), to_markdown(targets(results), "measured"), FIT]
    parts += ["![Seconds of a fit](../images/speed_fit.png)"]
    for task, varies in FITS.items():
        parts += [f"{fixed_in(results, task)}:", to_markdown(fit_table(results, task), varies)]
        if results.loc[results["task"] == task, "value"].nunique() > 1:
            parts += [_grows(table_of(results, task, FIT_SECONDS), ("fit",))]
    parts += [PROFILE, "![Shares of the parts of a fit](../images/speed_profile.png)"]
    parts += [to_markdown(profile_table(results), "fit"), OBSERVATIONS]
    parts += [to_markdown(nets, "observations per CPU second")]
    parts += ["![Observations per CPU second](../images/speed_observations.png)"]
    parts += [*growing_section(results), MEMORY]
    parts += ["![Peak memory](../images/speed_memory.png)"]
    parts += [to_markdown(memory_table(results), "peak MiB")]
    parts += [BATCHING, *batching_tables(results), "## On a GPU", *gpu_section(results)]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write the page, its plots and its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_report")
    parser.add_argument("results", type=Path, help="CSV of the suite")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="of the documentation")
    options = parser.parse_args(arguments)
    results = pd.read_csv(options.results)
    pages, images = options.folder / "benchmarks", options.folder / "images"
    for folder in (pages, images):
        folder.mkdir(parents=True, exist_ok=True)
    draw_all(results, images)
    (pages / "speed.md").write_text(compose(results), "utf-8")
    results.to_csv(pages / "speed.csv", index=False)


if __name__ == "__main__":
    sys.exit(main())
