"""Measure what finetuning an embedding net gains on characters nobody has seen.

    python -m benchmarks.retrieval --design --seeds 5 --budgets 80,150 --out results_retrieval.csv

One row per setting, metric, seed, budget and method. The run can be stopped and started again:
rows that are in the file are not measured twice. With --design a known alphabet is the test.
Without it the secret alphabets are: look at these once, when all choices are final.
"""

from __future__ import annotations

import argparse
import csv
import sys
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from joblib import Parallel, delayed
from sklearn.frozen import FrozenEstimator

from benchmarks.provenance import clock, provenance, seconds_since, source_digest
from benchmarks.retrieval_baselines import BASELINES, Problem
from benchmarks.retrieval_tasks import FILE, SCORERS, load_split, train_base
from benchmarks.tasks import Split, data_home
from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner

# The guard has its say when all is done, so that runs that differ in it alone are one fit.
FINETUNERS: dict[str, tuple[float | None, float]] = {  # guard_z, guidance_weight
    "ours": (1.0, 1.0),
    "ours_z1.64": (1.64, 1.0),
    "ours_noguard": (None, 1.0),
    "ours_noguidance": (1.0, 0.0),
}
MEASURING = ("retrieval", "retrieval_baselines", "retrieval_tasks")  # modules of this benchmark
METHODS = (*BASELINES, *FINETUNERS)
PACKAGES = ("torch", "skorch", "scikit-learn", "numpy", "pytorch-metric-learning", "cma")
KEY = ["setting", "metric", "seed", "budget", "method"]
SCORES = ["base_score", "test_score", "gain", "val_claimed_gain", "improved", "n_observations"]
CONDITIONS = ["hosts", "n_params", "alphabets", "versions", "commit", "source"]
COLUMNS = [*KEY, *SCORES, "fit_seconds", "cpu_seconds", *CONDITIONS]


@lru_cache(maxsize=2)
def measure_unguarded(
    setting: str, metric: str, seed: int, budget: int, guidance_weight: float
) -> dict:
    """Finetune a frozen copy of the base net without guard; score it on the test rows."""
    split, scorer = load_split(seed, setting)[0], SCORERS[metric]
    started = clock()
    finetuner = MetricOptFinetuner(
        FrozenEstimator(train_base(seed, setting)),
        scoring=scorer,
        max_observations=budget,
        guidance_weight=guidance_weight,
        guard_z=None,
        random_state=seed,
    )
    finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
    return seconds_since(started) | {
        "test_score": scorer(finetuner, split.X_test, split.y_test),
        "val_claimed_gain": finetuner.score_gain_,
        "val_claimed_se": finetuner.score_gain_se_,
        "improved": bool(finetuner.improved_),
        "n_observations": finetuner.n_observations_,
        "n_params": finetuner.adapter_params_.size,
    }


def measure_finetuner(key: tuple, base_score: float) -> dict:
    """Return what the guard of a method makes of a finetuned net."""
    *run, method = key
    guard_z, guidance_weight = FINETUNERS[method]
    row = dict(measure_unguarded(*run, guidance_weight))
    se = row.pop("val_claimed_se")
    if guard_z is not None and not row["val_claimed_gain"] > max(0.0, guard_z * se):
        row |= {"test_score": base_score, "improved": False}
    return row


def measure_baseline(
    method: str, base: EmbeddingRetriever, scorer, split: Split, budget: int, seed: int
) -> dict:
    """Run a baseline on adapters around `base` and score its best point on the test rows."""
    started = clock()
    problem = Problem(base, scorer, split)
    outcome = BASELINES[method](problem, budget, seed)
    return seconds_since(started) | {
        "test_score": scorer(problem.model(outcome.phi), split.X_test, split.y_test),
        "val_claimed_gain": outcome.best_score - outcome.initial_score,
        "improved": outcome.changed,
        "n_observations": len(outcome.scores),
        "n_params": problem.adapted.n_params,
    }


def run_method(key: tuple) -> tuple[dict | None, str]:
    """Measure one method; return its row, or None and what failed."""
    torch.set_num_threads(1)
    setting, metric, seed, budget, method = key
    split, alphabets = load_split(seed, setting)
    base, scorer = train_base(seed, setting), SCORERS[metric]
    hosts = " ".join(Problem(base, scorer, split).adapted.hosts)
    base_score = scorer(base, split.X_test, split.y_test)
    try:
        if method in FINETUNERS:
            row = measure_finetuner(key, base_score)
        else:
            row = measure_baseline(method, base, scorer, split, budget, seed)
    except Exception:  # noqa: BLE001 - a long run outlives one failure; resuming tries it again
        return None, f"{' '.join(map(str, key))}\n{traceback.format_exc()}"
    row |= {"base_score": base_score, "gain": row["test_score"] - base_score}
    about_split = {"hosts": hosts, "alphabets": str(alphabets)}
    return dict(zip(KEY, key, strict=True)) | row | about_split, ""


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
            (r["setting"], r["metric"], int(r["seed"]), int(r["budget"]), r["method"])
            for r in reader
        }


def _wanted(options: argparse.Namespace) -> Iterator[tuple]:
    """Keys asked for: all of a seed together, whose base net is then trained once."""
    setting = "design" if options.design else "confirm"
    setting += "_augmented" if options.augmented else ""
    for seed in range(options.seeds):
        for budget in options.budgets:
            for metric in options.metrics:
                for method in options.methods:
                    yield setting, metric, seed, budget, method


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval")
    parser.add_argument("--metrics", default=",".join(SCORERS), help="names, comma separated")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, comma separated")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--budgets", default="80,150", help="metric observations per run")
    parser.add_argument(
        "--design", action="store_true", help="test on a known alphabet, not on the secret ones"
    )
    parser.add_argument(
        "--augmented", action="store_true", help="a better net: turned and distorted drawings"
    )
    parser.add_argument("--jobs", type=int, default=1, help="methods measured at the same time")
    parser.add_argument("--out", type=Path, default=Path("results_retrieval.csv"), help="CSV")
    options = parser.parse_args(arguments)
    for name, known in (("metrics", SCORERS), ("methods", METHODS)):
        chosen = getattr(options, name).split(",")
        setattr(options, name, chosen)
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"unknown {name} {unknown}; choose from {list(known)}")
    options.budgets = [int(budget) for budget in options.budgets.split(",")]
    try:
        if not (data_home() / FILE).is_file():
            parser.error(f"{data_home()} holds no {FILE}")
    except FileNotFoundError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; return the number of measurements that failed."""
    options = _parse(arguments)
    done = _measured(options.out)
    keys = [key for key in _wanted(options) if key not in done]
    about, n_failures = provenance(PACKAGES) | {"source": source_digest(MEASURING)}, 0
    results = Parallel(n_jobs=options.jobs, return_as="generator_unordered")(
        delayed(run_method)(key) for key in keys
    )
    is_new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        for n_done, (row, failure) in enumerate(results, start=1):
            if row:
                writer.writerow(row | about)
                file.flush()
                said = f"{' '.join(str(row[name]) for name in KEY)}: {row['gain']:+.4f}"
                if n_done == 1:
                    print(f"hosts: {row['hosts']} ({row['n_params']} numbers)", file=sys.stderr)
            else:
                said, n_failures = failure, n_failures + 1
            print(f"{n_done}/{len(keys)} {said}", file=sys.stderr, flush=True)
    return n_failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
