"""Measure what finetuning to a metric gains on test rows, against simpler ways.

    python -m benchmarks.gain --tasks design --seeds 5 --budget 150 --jobs 2 --out results.csv

One row per task, seed and method. The run can be stopped and started again: rows that are in the
file are not measured twice. The data folder is named by SK_METRICOPT_DATA_HOME.
"""

from __future__ import annotations

import argparse
import csv
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from joblib import Parallel, delayed
from sklearn.frozen import FrozenEstimator

from benchmarks.baselines import BASELINES, Problem
from benchmarks.models import train_base
from benchmarks.provenance import clock, provenance, seconds_since
from benchmarks.tasks import Split, Task, data_home, load_split, select_tasks
from sk_metricopt import MetricOptFinetuner, PostShiftClassifier

FINETUNERS: dict[str, dict] = {
    "ours": {},
    "ours_z1.64": {"guard_z": 1.64},
    "ours_noguard": {"guard_z": None},
    "ours_noguide": {"guidance_weight": 0.0},
}
METHODS = (*BASELINES, *FINETUNERS, "post_shift")
PACKAGES = ("torch", "skorch", "scikit-learn", "numpy")
LABELS = ["task", "dataset", "metric", "noise", "half", "seed", "method", "budget"]
SCORES = ["base_score", "test_score", "gain", "val_claimed_gain", "improved", "n_observations"]
COLUMNS = [*LABELS, *SCORES, "fit_seconds", "cpu_seconds", "versions", "commit"]


def measure_finetuner(method: str, net, task: Task, split: Split, budget: int, seed: int) -> dict:
    """Finetune a frozen copy of `net` and score it on the test rows."""
    started = clock()
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring=task.scorer,
        max_observations=budget,
        random_state=seed,
        **FINETUNERS[method],
    )
    finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
    return seconds_since(started) | _results(finetuner, task, split)


def measure_post_shift(method: str, net, task: Task, split: Split, budget: int, seed: int) -> dict:
    """Weight the probabilities of `net` and score it on the test rows."""
    started = clock()
    shifted = PostShiftClassifier(
        FrozenEstimator(net),
        scoring=task.scorer,
        max_observations=budget,
        random_state=seed,
    )
    shifted.fit(split.X_val, split.y_val)
    return seconds_since(started) | _results(shifted, task, split)


def _results(model, task: Task, split: Split) -> dict:
    return {
        "test_score": task.scorer(model, split.X_test, split.y_test),
        "val_claimed_gain": model.score_gain_,
        "improved": bool(model.improved_),
        "n_observations": model.n_observations_,
    }


def measure_baseline(method: str, net, task: Task, split: Split, budget: int, seed: int) -> dict:
    """Run a baseline on adapters around `net` and score its best point on the test rows."""
    started = clock()
    problem = Problem(net, task.scorer, split)
    outcome = BASELINES[method](problem, budget, seed)
    return seconds_since(started) | {
        "test_score": problem.score_point(outcome.phi, outcome.shift, split.X_test, split.y_test),
        "val_claimed_gain": outcome.best_score - outcome.initial_score,
        "improved": outcome.changed,
        "n_observations": len(outcome.scores),
    }


def run_methods(
    task: Task, seed: int, methods: list[str], budget: int
) -> tuple[list[dict], list[str]]:
    """Train the base net once and measure each method on it; return rows, and what failed."""
    torch.set_num_threads(1)
    split = load_split(task, seed)
    net = train_base(split, seed)
    base_score = task.scorer(net, split.X_test, split.y_test)
    rows, failures = [], []
    for method in methods:
        measure = _measures(method)
        try:
            row = measure(method, net, task, split, budget, seed)
        except Exception:  # noqa: BLE001 - a long run outlives one failure; resuming tries it again
            failures.append(f"{task.name} seed {seed} {method}\n{traceback.format_exc()}")
            continue
        row |= {"base_score": base_score, "gain": row["test_score"] - base_score}
        rows.append(_label(task, seed, method, budget) | row)
    return rows, failures


def _measures(method: str) -> Callable[..., dict]:
    if method == "post_shift":
        return measure_post_shift
    return measure_baseline if method in BASELINES else measure_finetuner


def _label(task: Task, seed: int, method: str, budget: int) -> dict:
    about_task = (task.name, task.dataset, task.metric, task.noise, task.half)
    return dict(zip(LABELS, (*about_task, seed, method, budget), strict=True))


def _measured(out: Path) -> set[tuple]:
    """Keys of the rows that are in the file."""
    if not out.exists():
        return set()
    with out.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(
                f"The 'out' option must be a new file or one with the columns {COLUMNS}. "
                f"Got columns {reader.fieldnames} instead. Choose another file."
            )
        return {(r["task"], int(r["seed"]), r["method"], int(r["budget"])) for r in reader}


def _jobs_to_do(options: argparse.Namespace) -> list[tuple[Task, int, list[str]]]:
    done = _measured(options.out)
    jobs = []
    for seed in range(options.seeds):
        for task in select_tasks(options.tasks):
            missing = [
                method
                for method in options.methods
                if (task.name, seed, method, options.budget) not in done
            ]
            if missing:
                jobs.append((task, seed, missing))
    return jobs


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gain")
    parser.add_argument("--tasks", default="design", help="design, confirm, all, or names")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, comma separated")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--budget", type=int, default=150, help="metric observations per run")
    parser.add_argument("--jobs", type=int, default=2, help="tasks measured at the same time")
    parser.add_argument("--out", type=Path, default=Path("results.csv"), help="CSV to add to")
    options = parser.parse_args(arguments)
    options.methods = options.methods.split(",")
    try:
        data_home()
        select_tasks(options.tasks)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    unknown = sorted(set(options.methods) - set(METHODS))
    if unknown:
        parser.error(f"unknown methods {unknown}; choose from {list(METHODS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; return the number of measurements that failed."""
    options = _parse(arguments)
    jobs = _jobs_to_do(options)
    about, n_failures = provenance(PACKAGES), 0
    results = Parallel(n_jobs=options.jobs, return_as="generator_unordered")(
        delayed(run_methods)(task, seed, methods, options.budget) for task, seed, methods in jobs
    )
    is_new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        for n_done, (rows, failures) in enumerate(results, start=1):
            writer.writerows(row | about for row in rows)
            file.flush()
            n_failures += len(failures)
            print(*failures, f"{n_done}/{len(jobs)} jobs", sep="\n", file=sys.stderr, flush=True)
    return n_failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
