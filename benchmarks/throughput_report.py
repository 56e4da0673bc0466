"""Print the results of `benchmarks.throughput` as markdown, or write them to a folder.

python -m benchmarks.throughput_report results.csv
python -m benchmarks.throughput_report results.csv --folder docs/benchmarks
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from benchmarks.report import to_markdown
from benchmarks.throughput_subjects import LIMIT

HEADER = """# Throughput of exported graphs

Made by `python -m benchmarks.throughput` and `python -m benchmarks.throughput_report`; do not edit.
A cell has the wall time of a call on so many rows and, in brackets, how many times as fast as the
first row of the table that is. Ways take turns, and the least of a few repeats counts, so that
ratios stand up to other load on the machine, which seconds do not. All ways gave the same answers.

- onnxruntime session: `session.run` on arrays that are ready
- OnnxPredictor.predict, predict_proba: from what the Pipeline takes, tables checked and converted;
  1024 rows per run, and the session all at once. run_tensors: torch tensors in and out
- adapter as an input: the session of a file with `adapter_input=True`, fed adapter parameters
- torch eager, torch.compile: the module and a softmax in inference mode, on tensors that are ready;
  compiled for each batch size. skorch predict_proba: batch_size as the batch
- Pipeline.predict: scikit-learn's steps and a `MetricOptFinetuner`, batch_size as fitted (128)
- fp16 file: what `precision="fp16"` writes for GPUs, on the CPU for the record
- CUDA: tensors are on the GPU and stay there; arrays (predict_proba, predict) go there and back.
  Products are in full float32, without TF32

Times the limit is the wall time over what the arithmetic of the net alone would take at the rate
of large matrix products, or reading weights and rows and writing answers at the rate of a large
copy, whichever is more; both rates are the best of the same turns. Little batches are held back by
the cost of calls instead. It may be less than 1 for convolutions: zeros around an image count as
arithmetic, 2 operations a product as all others, and need not be done."""
CONDITIONS = ["machine", "versions", "commit", "source"]


def _seconds(value: float) -> str:
    """Format seconds.

    Examples
    --------
    >>> _seconds(0.0000123), _seconds(0.0456), _seconds(7.0)
    ('12.3 µs', '45.6 ms', '7 s')
    """
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if value < 1000 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"


def by_batch(rows: pd.DataFrame, cell) -> pd.DataFrame:
    """One row per contender and one column per batch size, in the order of `rows`."""
    table: dict[str, dict[str, str]] = {}
    for row in rows.to_dict("records"):
        table.setdefault(row["contender"], {})[f"batch {row['batch']}"] = cell(row)
    return pd.DataFrame.from_dict(table, orient="index")


def _time_and_speed(row: dict) -> str:
    return f"{_seconds(row['seconds'])} ({row['speedup']:.3g} x)"


def _times_limit(row: dict) -> str:
    return f"{row['times_limit']:.3g}"


def not_measured(rows: pd.DataFrame) -> list[str]:
    """One line for each reason why some contenders were not measured."""
    left_out = rows[rows["not_measured"].notna()]
    return [
        f"Not measured, {why}: {'; '.join(part['contender'].unique())}"
        for why, part in left_out.groupby("not_measured", sort=False)
    ]


def targets(results: pd.DataFrame) -> pd.DataFrame:
    """How many times as fast as the Pipeline each graph is, and should be."""
    aimed = results[results["target"].notna()]
    table = pd.DataFrame(
        {
            "threads": aimed["threads"].astype(str),
            "contender": aimed["contender"],
            "batch": aimed["batch"].astype(str),
            "times as fast": aimed["speedup"].map("{:.1f}".format),
            "target": aimed["target"].map("{:g}".format),
            "met": (aimed["speedup"] >= aimed["target"]).map({True: "yes", False: "**no**"}),
        }
    )
    return table.set_index(aimed["subject"])


def limits(results: pd.DataFrame) -> pd.DataFrame:
    """The best rates of large products and copies in all turns, and the worst."""
    rows = results[results["contender"].str.startswith(LIMIT)]
    rates = rows["flops"].fillna(rows["bytes"]) / rows["seconds"] / 1e9
    unit = rows["flops"].notna().map({True: "GFLOP/s", False: "GB/s"})
    by = ["contender", "threads", unit.rename("unit")]
    grouped = rates.groupby([rows["contender"], rows["threads"], unit.rename("unit")])
    table = grouped.agg(["max", "min"]).round(1).reset_index()
    table["contender"] = table["contender"].str.removeprefix(LIMIT)
    table.columns = [*table.columns[:3], "best", "worst"]
    return table.astype(str).set_index(by[0])


def conditions(results: pd.DataFrame) -> str:
    """What the measurements were made with, and how long turns were."""
    lines = [f"- {name}: {'; or '.join(map(str, results[name].unique()))}" for name in CONDITIONS]
    repeats = "; or ".join(f"{n:.0f}" for n in results["n_repeats"].dropna().unique())
    spread = (results["median_seconds"] / results["seconds"]).median()
    lines.append(f"- repeats: {repeats}; their median is {spread:.2f} times the least (median)")
    return "\n".join(lines)


def compose(results: pd.DataFrame) -> str:
    """Return the report as markdown."""
    parts = [HEADER, conditions(results)]
    if results["target"].notna().any():
        parts += ["## One graph against the Pipeline", to_markdown(targets(results), "Pipeline")]
    answers = results[~results["contender"].str.startswith(LIMIT)]
    for n_threads, of_threads in answers.groupby("threads"):
        parts.append(f"## Threads: {n_threads}")
        for subject, rows in of_threads.groupby("subject", sort=False):
            parts += [f"### {subject}, threads: {n_threads}"]
            measured = rows[rows["seconds"].notna()]
            parts += [to_markdown(by_batch(measured, _time_and_speed), "contender")]
            parts += not_measured(rows)
            held = rows[rows["times_limit"].notna()]
            if len(held):
                parts += [
                    "Times the limit:",
                    to_markdown(by_batch(held, _times_limit), "contender"),
                ]
    compiled = answers[answers["compile_seconds"].notna()]
    if len(compiled):
        spent = (
            f"{compiled['compile_seconds'].min():.1f} to {compiled['compile_seconds'].max():.1f}"
        )
        parts.append(f"torch.compile took {spent} s before its first answer, for each batch size.")
    if results["contender"].str.startswith(LIMIT).any():
        parts += ["## What the machine can", to_markdown(limits(results), "limit")]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Print the report, or write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput_report")
    parser.add_argument("results", type=Path, help="CSV of benchmarks.throughput")
    parser.add_argument("--folder", type=Path, help="write throughput.md and throughput.csv here")
    options = parser.parse_args(arguments)
    results = pd.read_csv(options.results)
    report = compose(results)
    if options.folder is None:
        print(report, end="")
        return
    (options.folder / "throughput.md").write_text(report, "utf-8")
    results.to_csv(options.folder / "throughput.csv", index=False)


if __name__ == "__main__":
    sys.exit(main())
