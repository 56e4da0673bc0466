"""Measure how fast exported graphs answer, beside torch, skorch and scikit-learn.

    python -m benchmarks.throughput --out results.csv

Figures to compare are ratios of wall time within one run: ways to answer take turns, the least of
a few repeats counts, and what the machine can at most is measured in the same turns. That holds
for one thread. Several wait for each other, some of them by spinning, so that whatever else runs
costs torch many times as much as others: use ``--threads 1 2`` on a machine that is quiet.
The subject `census` needs ``SK_METRICOPT_DATA_HOME`` with ``adult_raw.csv.gz``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.provenance import machine, provenance, source_digest
from benchmarks.throughput_subjects import LIMIT, SUBJECTS, Way

PACKAGES = ("torch", "scikit-learn", "skorch", "numpy", "pandas", "onnx", "skl2onnx")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
MEASURING = ("throughput", "throughput_subjects", "models")
COLUMNS = ["subject", "contender", "batch", "threads", "seconds", "median_seconds"]
COLUMNS += ["rows_per_second", "reference", "speedup", "target", "times_limit", "compile_seconds"]
COLUMNS += ["flops", "bytes", "n_repeats", "n_calls", "not_measured"]
COLUMNS += ["machine", "versions", "commit", "source"]
LEAST_SECONDS = 0.05  # of a timing: as many calls as it takes
SAME_LABELS = 0.999  # at a boundary, float32 in another order may decide otherwise

Row = dict[str, object]


def n_calls_for(run: Callable[[], object], seconds: float) -> int:
    """Return how often to call `run` so that it takes `seconds`."""
    n_calls = 1
    while (taken := _time(run, n_calls)) < seconds:
        n_calls = max(2 * n_calls, int(1.2 * n_calls * seconds / max(taken, 1e-9)))
    return n_calls


def _time(run: Callable[[], object], n_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(n_calls):
        run()
    return time.perf_counter() - start


def take_turns(
    runs: dict[str, Callable[[], object]], repeats: int, seconds: float
) -> dict[str, tuple[int, np.ndarray]]:
    """Time all `runs`, one after the other, `repeats` times.

    Returns
    -------
    dict of str to (int, ndarray of shape (repeats,))
        How many calls a timing has, and seconds per call.
    """
    calls = {name: n_calls_for(run, seconds) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()  # threads of whoever came before have time to go to sleep
            times[name].append(_time(run, calls[name]) / calls[name])
    return {name: (calls[name], np.array(times[name])) for name in runs}


def check(ways: dict[str, Way], reference: str) -> None:
    """Raise unless all ways give the answer of the reference; each has run once then."""
    expected = _as_array(ways[reference].run())
    for name, way in ways.items():
        if way.run is None or (answer := way.run()) is None:  # a limit answers nothing
            continue
        got = _as_array(answer)
        if expected.ndim == 1:
            assert np.mean(got == expected) >= SAME_LABELS, f"{name} gives other labels"
        else:
            np.testing.assert_allclose(got, expected, atol=way.tolerance, err_msg=name)


def _as_array(answer) -> np.ndarray:
    return answer.float().cpu().numpy() if isinstance(answer, torch.Tensor) else np.asarray(answer)


def measure(subject, batch: int, n_threads: int, repeats: int, seconds: float) -> list[Row]:
    """Measure all ways to answer `batch` rows; return a row of results each.

    Parameters
    ----------
    subject : Net or Pipe
    batch : int
    n_threads : int
        Of torch, of onnxruntime and of numpy.
    repeats : int
        Timings of each way.
    seconds : float
        How long one lasts, at the least.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    torch._dynamo.reset()  # what is compiled knows the number of threads
    try:
        with threadpool_limits(n_threads):
            ways = subject.ways(batch, n_threads)
            check(ways, subject.reference)
            runs = {name: way.run for name, way in ways.items() if way.run is not None}
            timed = take_turns(runs, repeats, seconds)
    finally:
        torch.set_num_threads(before)
    least = {name: times.min() for name, (_, times) in timed.items()}
    rows = []
    for name, way in ways.items():
        row = {"subject": subject.name, "contender": name, "batch": batch, "threads": n_threads}
        row |= {"reference": subject.reference, "not_measured": way.why_not}
        if name in timed:
            row |= _found(way, *timed[name])
        if name in timed and not name.startswith(LIMIT):
            row["rows_per_second"] = f"{batch / least[name]:.4g}"
            row["speedup"] = f"{least[subject.reference] / least[name]:.4g}"
            row["times_limit"] = _number(_times_limit(name, ways, least))
            if name.startswith(("onnxruntime", "OnnxPredictor")):
                row["target"] = subject.targets.get(batch, "")
        rows.append(row)
    return rows


def _found(way: Way, n_calls: int, times: np.ndarray) -> Row:
    return {
        "seconds": _number(times.min()),
        "median_seconds": _number(np.median(times)),
        "compile_seconds": _number(way.compile_seconds),
        "flops": _number(way.flops),
        "bytes": _number(way.n_bytes),
        "n_repeats": len(times),
        "n_calls": n_calls,
    }


def _times_limit(name: str, ways: dict[str, Way], least: dict[str, float]) -> float:
    """Return the time of a way over what computing, or moving, what it has to would take."""
    way, limits = ways[name], ways[name].limits
    if not limits:
        return np.nan
    computing = np.nanmax([ways[limit].flops / least[limit] for limit in limits])
    moving = np.nanmax([ways[limit].n_bytes / least[limit] for limit in limits])
    return least[name] / max(way.flops / computing, way.n_bytes / moving)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _about() -> dict[str, str]:
    packages = PACKAGES + tuple(name for name in RUNTIMES if _is_installed(name))
    about = {"machine": machine(), "source": source_digest(MEASURING)}
    return about | provenance(packages)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write a CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=7, help="timings, of which the best counts")
    parser.add_argument("--seconds", type=float, default=LEAST_SECONDS, help="of a timing")
    parser.add_argument("--batches", nargs="+", type=int, help="rows per call")
    parser.add_argument("--out", type=Path, default=Path("results.csv"), help="CSV to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(min(options.threads))
    torch.backends.cudnn.allow_tf32 = False  # as products and onnxruntime are here
    chosen = {"batches": tuple(options.batches)} if options.batches else {}
    about = _about()
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name in options.subjects:
            subject = SUBJECTS[name](**chosen)
            for n_threads in options.threads:
                for batch in subject.batches:
                    rows = measure(subject, batch, n_threads, options.repeats, options.seconds)
                    writer.writerows(row | about for row in rows)
                    file.flush()
                    done = f"{subject.name}: batch {batch}, {n_threads} threads"
                    print(done, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
