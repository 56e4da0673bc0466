"""What value functions predict, what guidance by them gains, and what they are worth elsewhere.

    python -m benchmarks.value_functions --suite ranks,gain,transfer --tasks confirm --out r.csv

- ``ranks``: on trajectories that are observed at every step, how well the order of scores is
  predicted from observations every 1 to 40 steps: between them, and on trajectories not seen.
- ``gain``: test gains of finetuning with the default value function, with the paper's (and with
  each of its ingredients left out), and without guidance; under several optimizers.
- ``transfer``: test gains with few observations, cold and with a value function learned on other
  rows, by a net of another width or kind, or on other data.

One row per suite, task, seed, variant and budget. A run can be stopped and started again. The data
folder is named by SK_METRICOPT_DATA_HOME; `benchmarks.value_functions_report` makes the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from benchmarks.models import train_base
from benchmarks.provenance import clock, provenance, seconds_since
from benchmarks.rows import measure_all, measured
from benchmarks.tasks import Split, Task, data_home, load_split, select_tasks
from benchmarks.value_function_ranks import measure_ranks
from sk_metricopt import MetricOptFinetuner
from sk_metricopt.value_functions import AdapterValueFunction

PACKAGES = ("torch", "skorch", "scikit-learn", "numpy")
KEY = ["suite", "setting", "task", "seed", "variant", "budget"]
RESULTS = ["base_score", "gain", "improved", "rank_between", "rank_unseen", "rank_adapted"]
COLUMNS = [*KEY, "metric", *RESULTS, "fit_seconds", "cpu_seconds", "versions", "commit"]
SETTINGS = {"labelled": {}, "opaque": {"use_validation_labels": False}}


class Momentum(torch.optim.SGD):
    """SGD with momentum 0.9."""

    def __init__(self, params, lr: float = 1e-3):
        super().__init__(params, lr=lr, momentum=0.9)


OPTIMIZERS: dict[str, dict] = {
    "SGD": {"optimizer": "sgd", "lr": 0.5},
    "momentum": {"optimizer": Momentum, "lr": 0.05},
    "Adam": {},
    "AdamW": {"optimizer": torch.optim.AdamW},
}
VALUE_FUNCTIONS: dict[str, dict] = {
    "default": {},
    "paper": {"value_function": "adapter"},
    "none": {"guidance_weight": 0.0},
}
ABLATIONS: dict[str, dict] = {
    "paper, no interpolation": {"interpolate": False},
    "paper, no ranks": {"rank_weight": 0.0},
    "paper, no meta-training": {"meta_train": False},
    "paper, no adaptation": {"adapt": False},
    "paper, no caution": {"caution": 0.0},
}
GAIN_BUDGET = 50
COLD_BUDGETS, WARM_BUDGETS = (10, 25, 50, 150), (10, 25, 50)
# Data of as many classes, for transfer between data sets.
OTHER_DATA = {
    "spambase/f1": Task("phoneme", "f1", "design"),
    "spambase/precision_at_recall_95": Task("mammography", "precision_at_recall_95", "design"),
    "spambase/f2/0.3": Task("adult", "f2", "design"),
    "abalone19/average_precision": Task("mammography", "average_precision", "design"),
    "penbased/macro_f1/0.4": Task("optdigits", "macro_f1", "design", noise=0.4),
}


def finetuned(
    net, task: Task, split: Split, seed: int, **params
) -> tuple[MetricOptFinetuner, dict]:
    """Finetune a frozen copy of `net`; return the finetuner, and its test gain as a row."""
    started = clock()
    # One adapter for all: "auto" is compact only where the value function reads φ.
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net), scoring=task.scorer, adapter="film", random_state=seed, **params
    )
    finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
    seconds = seconds_since(started)
    base, test = (task.scorer(model, split.X_test, split.y_test) for model in (net, finetuner))
    told = {"base_score": base, "gain": test - base, "improved": bool(finetuner.improved_)}
    return finetuner, told | seconds


def measure_gain(task: Task, seed: int, setting: str) -> Iterator[dict]:
    """Measure every value function, ablation and optimizer on one base net."""
    split = load_split(task, seed)
    net = train_base(split, seed)
    variants = dict(VALUE_FUNCTIONS)
    for name, params in ABLATIONS.items():
        variants[name] = {"value_function": AdapterValueFunction(**params)}
    for name, params in OPTIMIZERS.items():
        variants[f"{name}, default"] = params
        variants[f"{name}, none"] = params | VALUE_FUNCTIONS["none"]
    common = SETTINGS[setting] | {"max_observations": GAIN_BUDGET}
    for name, params in variants.items():
        row = finetuned(net, task, split, seed, **params, **common)[1]
        yield {"variant": name, "budget": GAIN_BUDGET} | row


def measure_transfer(task: Task, seed: int, setting: str) -> Iterator[dict]:
    """Measure cold fits, and fits with value functions learned elsewhere."""
    split, source = in_two(load_split(task, seed), seed)
    net, params = train_base(split, seed), SETTINGS[setting]
    for budget in COLD_BUDGETS:
        row = finetuned(net, task, split, seed, max_observations=budget, **params)[1]
        yield {"variant": "cold", "budget": budget} | row
    for name, (other, rows, other_net) in _sources(task, source, seed).items():
        learned = finetuned(other_net, other, rows, seed + 1, max_observations=150)[0]
        for budget in WARM_BUDGETS:
            warm = {"value_function": learned.value_function_, "warm_start_value": True}
            row = finetuned(net, task, split, seed, max_observations=budget, **warm, **params)[1]
            yield {"variant": f"warm, {name}", "budget": budget} | row


def in_two(split: Split, seed: int) -> tuple[Split, Split]:
    """Return the split with half of its test rows, and a split of the other half.

    The second is where value functions are learned: no row of it is in the first.
    """
    rows, y = np.arange(len(split.y_test)), split.y_test

    def divided(rows: np.ndarray, share: float) -> list[np.ndarray]:
        return train_test_split(rows, test_size=share, stratify=y[rows], random_state=seed)

    kept, other = divided(rows, 0.5)
    train, val = divided(other, 1 / 3)
    X, test = split.X_test, (split.X_test[kept], y[kept])
    return (
        Split(split.X_train, split.y_train, split.X_val, split.y_val, *test),
        Split(X[train], y[train], X[val], y[val], *test),
    )


def _sources(task: Task, source: Split, seed: int) -> dict[str, tuple[Task, Split, object]]:
    """Return where value functions are learned: another task, its rows and a net."""
    sources = {"other rows": (task, source, train_base(source, seed + 1))}
    if task.slow:
        flat = Split(*(a.reshape(len(a), -1) if a.ndim > 1 else a for a in vars(source).values()))
        sources["MLP to CNN"] = (task, flat, train_base(flat, seed + 1))
    else:
        sources["width 16"] = (task, source, train_base(source, seed + 1, width=16))
    if task.name in OTHER_DATA:
        other = OTHER_DATA[task.name]
        rows = load_split(other, seed)
        sources["other data"] = (other, rows, train_base(rows, seed + 1))
    return sources


SUITES = {"ranks": measure_ranks, "gain": measure_gain, "transfer": measure_transfer}


def measure(suite: str, setting: str, task: Task, seed: int, about: dict) -> Iterator[dict]:
    """Measure one task and seed of one suite."""
    torch.set_num_threads(1)
    name = {"suite": suite, "setting": setting, "task": task.name, "metric": task.metric}
    for row in SUITES[suite](task, seed, setting):
        yield name | {"seed": seed} | row | about


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; return the number of measurements that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.value_functions")
    parser.add_argument("--suite", default=",".join(SUITES), help="names, comma separated")
    parser.add_argument("--settings", default="labelled", help="labelled, opaque, or both")
    parser.add_argument("--tasks", default="design", help="design, confirm, all, or names")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    parser.add_argument("--jobs", type=int, default=2, help="tasks measured at the same time")
    parser.add_argument("--out", type=Path, default=Path("results.csv"), help="CSV to add to")
    options = parser.parse_args(arguments)
    data_home()
    done = {key[:4] for key in measured(options.out, COLUMNS, KEY)}
    about = provenance(PACKAGES)
    jobs = [
        (suite, setting, task, seed, about)
        for suite in options.suite.split(",")
        for setting in options.settings.split(",")
        for seed in range(options.seeds)
        for task in select_tasks(options.tasks)
        if (suite, setting, task.name, str(seed)) not in done
    ]
    return measure_all(jobs, measure, options.out, COLUMNS, options.jobs)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
