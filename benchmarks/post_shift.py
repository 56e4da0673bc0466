"""Measure what post-shifting to a metric gains on test rows, against simpler ways.

    python -m benchmarks.post_shift --tasks design --seeds 5 --budgets 50 --out results.csv
    python -m benchmarks.post_shift --setting adult --seeds 10 --budgets 50,150 --out results.csv

One row per task, classifier, seed, budget and method. The run can be stopped and started again:
rows that are in the file are not measured twice. The data folder is named by
SK_METRICOPT_DATA_HOME. The confirm half is for one look, when all choices are final.
"""

from __future__ import annotations

import argparse
import csv
import sys
import traceback
from functools import lru_cache
from pathlib import Path

from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from benchmarks.post_shift_adult import ADULT_BASELINES, ADULT_OURS, ADULT_TASKS
from benchmarks.post_shift_baselines import (
    BASELINES,
    BINARY_ONLY,
    CV,
    FREE_OF_BUDGET,
    ON_ALL_ROWS,
    Problem,
    Result,
)
from benchmarks.post_shift_tasks import (
    BINARY,
    ESTIMATORS,
    POST_SHIFT_TASKS,
    imbalance,
    make_estimator,
)
from benchmarks.provenance import clock, provenance, seconds_since, source_digest
from benchmarks.tasks import Split, data_home, select_tasks
from sk_metricopt import PostShiftClassifier

OURS: dict[str, dict] = {
    "post_shift": {},
    "post_shift_z1.64": {"guard_z": 1.64},
    "post_shift_noguard": {"guard_z": None},
    "post_shift_full": {"weighting": "full"},
    "post_shift_random": {"randomized": True},
    "post_shift_cv": {"cv": CV},
}
SETTINGS = {
    "tasks": (POST_SHIFT_TASKS, BASELINES, OURS, ESTIMATORS),
    "adult": (ADULT_TASKS, ADULT_BASELINES, ADULT_OURS, ("logistic",)),
}
MEASURING = ("post_shift", "post_shift_adult", "post_shift_baselines", "post_shift_tasks", "tasks")
PACKAGES = ("scikit-learn", "numpy", "scipy")
KEY = ["task", "estimator", "seed", "budget", "method"]
ABOUT = ["dataset", "metric", "noise", "half", "n_classes", "imbalance"]
SCORES = ["base_score", "test_score", "gain", "val_claimed_gain", "improved", "n_observations"]
COLUMNS = [*KEY, *ABOUT, *SCORES, "fit_seconds", "cpu_seconds", "versions", "commit", "source"]


@lru_cache(maxsize=1)
def _searched(problem: Problem, options: tuple) -> tuple[PostShiftClassifier, dict]:
    """Post-shift the fitted classifier without guard, or with `cv` one trained on all rows.

    The guard has its say when all is done: methods that differ in it alone share this search.
    """
    split, started, with_cv = problem.split, clock(), "cv" in dict(options)
    estimator = clone(problem.estimator) if with_cv else FrozenEstimator(problem.fitted)
    model = PostShiftClassifier(
        estimator,
        scoring=problem.scorer,
        max_observations=problem.budget,
        random_state=problem.seed,
        guard_z=None,
        **dict(options),
    )
    if with_cv:
        model.fit(problem.X_all, problem.y_all)
    else:
        model.fit(split.X_val, split.y_val)
    return model, seconds_since(started)


def post_shift(problem: Problem, options: dict) -> tuple[Result, dict]:
    """Return what the guard makes of a search, and the seconds of the search."""
    default = PostShiftClassifier(problem.fitted).guard_z
    searching = tuple(item for item in options.items() if item[0] != "guard_z")
    model, seconds = _searched(problem, searching)
    guard_z, gain = options.get("guard_z", default), model.score_gain_
    passed = guard_z is None or gain > max(0.0, guard_z * model.score_gain_se_)
    improved = bool(model.improved_) and passed
    result = Result(model if improved else model.estimator_, model.n_observations_, gain, improved)
    return result, seconds


def measure(method: str, problem: Problem, setting: str) -> dict:
    """Run a method and score what it returns on the test rows."""
    _, baselines, ours, _ = SETTINGS[setting]
    if method in baselines:
        started = clock()
        result = baselines[method](problem)
        seconds = seconds_since(started)
    else:
        result, seconds = post_shift(problem, ours[method])
    if method not in FREE_OF_BUDGET:
        assert result.n_observations <= problem.budget, (method, result.n_observations)
    return seconds | {
        "test_score": problem.scorer(result.model, problem.split.X_test, problem.split.y_test),
        "val_claimed_gain": result.claimed_gain,
        "improved": result.improved,
        "n_observations": result.n_observations,
    }


@lru_cache(maxsize=1)
def _loaded(task, seed: int) -> Split:
    """Rows of a task: loading takes longer than training."""
    return task.load(seed)


def run_methods(
    setting: str, estimator_name: str, seed: int, wanted: list[tuple]
) -> tuple[list[dict], list[str]]:
    """Measure (task, budget, method), all on the same rows, on one trained classifier.

    Returns the rows, and what failed.
    """
    split = _loaded(wanted[0][0].rows, seed)
    estimator = make_estimator(estimator_name, seed)
    fitted = clone(estimator).fit(split.X_train, split.y_train)
    about = {"n_classes": len(fitted.classes_), "imbalance": round(imbalance(split), 2)}
    rows, failures = [], []
    problem = None
    for task, budget, method in wanted:
        if problem is None or (task.scorer, budget) != (problem.scorer, problem.budget):
            problem = Problem(estimator, fitted, split, task.scorer, task.groups, budget, seed)
        base_score = task.scorer(fitted, split.X_test, split.y_test)
        key = (task.name, estimator_name, seed, budget, method)
        try:
            row = measure(method, problem, setting)
        except Exception:  # noqa: BLE001 - a long run outlives one failure; resuming tries it again
            failures.append(f"{' '.join(map(str, key))}\n{traceback.format_exc()}")
            continue
        row |= {"base_score": base_score, "gain": row["test_score"] - base_score}
        row |= {name: getattr(task, name) for name in ABOUT[:4]}
        rows.append(dict(zip(KEY, key, strict=True)) | row | about)
    return rows, failures


def fits(method: str, task) -> bool:
    """Whether a method is for a task."""
    if method in ON_ALL_ROWS and task.noise:  # they would take noisy labels for right ones
        return False
    return method not in BINARY_ONLY or task.dataset in BINARY


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
        return {
            (r["task"], r["estimator"], int(r["seed"]), int(r["budget"]), r["method"])
            for r in reader
        }


def _jobs_to_do(options: argparse.Namespace) -> list[tuple[str, int, list[tuple]]]:
    """What is missing, by classifier and seed: tasks on the same rows together."""
    done = _measured(options.out)
    jobs: dict[tuple, list[tuple]] = {}
    for seed in range(options.seeds):
        for task in options.tasks:
            for name in options.estimators:
                for budget in options.budgets:
                    for method in options.methods:
                        key = (task.name, name, seed, budget, method)
                        if key not in done and fits(method, task):
                            wanted = jobs.setdefault((name, seed, task.rows), [])
                            wanted.append((task, budget, method))
    return [(name, seed, wanted) for (name, seed, _), wanted in jobs.items()]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.post_shift")
    parser.add_argument("--setting", choices=SETTINGS, default="tasks")
    parser.add_argument("--tasks", help="design, confirm, all, or names; all for adult")
    parser.add_argument("--estimators", help="names, comma separated")
    parser.add_argument("--methods", help="names, comma separated")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--budgets", default="50", help="metric observations per run")
    parser.add_argument("--jobs", type=int, default=1, help="classifiers worked on at once")
    parser.add_argument("--out", type=Path, default=Path("results.csv"), help="CSV to add to")
    options = parser.parse_args(arguments)
    tasks, baselines, ours, estimators = SETTINGS[options.setting]
    default = "design" if options.setting == "tasks" else "all"
    try:
        data_home()
        options.tasks = select_tasks(options.tasks or default, tasks)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for name, known in (("estimators", estimators), ("methods", (*baselines, *ours))):
        chosen = (getattr(options, name) or ",".join(known)).split(",")
        setattr(options, name, chosen)
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"unknown {name} {unknown}; choose from {list(known)}")
    options.budgets = [int(budget) for budget in options.budgets.split(",")]
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; return the number of measurements that failed."""
    options = _parse(arguments)
    jobs = _jobs_to_do(options)
    about, n_failures = provenance(PACKAGES) | {"source": source_digest(MEASURING)}, 0
    results = Parallel(n_jobs=options.jobs, return_as="generator_unordered")(
        delayed(run_methods)(options.setting, *job) for job in jobs
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
