"""The suite ``guidance``: what the value function's gradient is worth, on ground where it might.

The same finetuning with and without it, guard off, so that nothing but guidance tells the rows
apart. One row per task, seed and method.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from sklearn.frozen import FrozenEstimator

from benchmarks.gain_tasks import GUIDANCE_TASKS, GuidanceTask
from benchmarks.models import train_base
from benchmarks.provenance import clock, seconds_since
from benchmarks.tasks import load_split
from sk_metricopt import MetricOptFinetuner

TASKS = GUIDANCE_TASKS
METHODS: dict[str, dict] = {
    "guided": {},
    "unguided": {"guidance_weight": 0.0},
    "film_guided": {"adapter": "film"},
    "film_unguided": {"adapter": "film", "guidance_weight": 0.0},
}
KEY = ["task", "seed", "method"]
ABOUT_TASK = ["dataset", "ground", "opaque", "budget", "deep", "half"]
SCORES = ["metric", "base_score", "test_score", "gain", "val_claimed_gain", "n_observations"]
COLUMNS = [*KEY, *ABOUT_TASK, *SCORES, "fit_seconds", "cpu_seconds"]
COLUMNS += ["machine", "versions", "commit"]


def measure(task: GuidanceTask, seed: int, methods: list[str], about: dict) -> Iterator[dict]:
    """Train the net once, and finetune it by each method."""
    torch.set_num_threads(1)
    split, scorer = load_split(task.task, seed), task.task.scorer
    net = train_base(split, seed)
    base = float(scorer(net, split.X_test, split.y_test))
    for method in methods:
        finetuner = MetricOptFinetuner(
            FrozenEstimator(net),
            scoring=scorer,
            max_observations=task.budget,
            use_validation_labels=not task.opaque,
            adapter_targets="all" if task.deep else "auto",
            guard_z=None,
            random_state=seed,
            **METHODS[method],
        )
        started = clock()
        finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
        row = {"task": task.name, "seed": seed, "method": method, "metric": task.task.metric}
        row |= {name: getattr(task, name) for name in ABOUT_TASK}
        test = float(scorer(finetuner, split.X_test, split.y_test))
        row |= {"base_score": base, "test_score": test, "gain": test - base}
        row |= {
            "val_claimed_gain": finetuner.score_gain_,
            "n_observations": finetuner.n_observations_,
        }
        yield row | seconds_since(started) | about
