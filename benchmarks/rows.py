"""Measured rows in a CSV: a run that was stopped goes on where it was."""

from __future__ import annotations

import csv
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from joblib import Parallel, delayed


def measured(out: Path, columns: list[str], key: list[str]) -> set[tuple[str, ...]]:
    """Return the keys of the rows that are in the file, as text."""
    if not out.exists():
        return set()
    with out.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise ValueError(
                f"The 'out' option must be a new file or one with the columns {columns}. Got "
                f"columns {reader.fieldnames} instead. Choose another file."
            )
        return {tuple(row[name] for name in key) for row in reader}


def measure_all(
    jobs: list[tuple],
    measure: Callable[..., Iterable[dict]],
    out: Path,
    columns: list[str],
    n_jobs: int,
) -> int:
    """Append the rows of all jobs to the file as they come; return how many jobs failed."""
    results = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
        delayed(_measured)(measure, job) for job in jobs
    )
    is_new, n_failures = not out.exists(), 0
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        for n_done, (rows, failure) in enumerate(results, start=1):
            writer.writerows(rows)
            file.flush()
            n_failures += failure is not None
            print(*filter(None, [failure]), f"{n_done}/{len(jobs)}", file=sys.stderr, flush=True)
    return n_failures


def _measured(measure: Callable[..., Iterable[dict]], job: tuple) -> tuple[list[dict], str | None]:
    rows = []
    try:
        for row in measure(*job):
            rows.append(row)  # what came before a failure is kept
    except Exception:  # noqa: BLE001  a long run outlives one failure; resuming tries it again
        return rows, traceback.format_exc()
    return rows, None
