"""The speed suite: what a fit and an observation cost, how both grow, where the time goes.

    python -m benchmarks.run --suite speed --out results.csv
    python -m benchmarks.speed_report results.csv

A row has one number: the amount of a quantity, of one way to do something, in one setting. Seconds
are CPU seconds of one thread (wall time on a GPU), the least of a few repeats; rivals take turns,
so that ratios within a task stand up to other load on the machine, which seconds do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from benchmarks import speed_batching, speed_fit, speed_observations
from benchmarks.provenance import machine, provenance
from benchmarks.speed_fit import fit_cost, profile
from benchmarks.speed_observations import GROWTH

PACKAGES = ("torch", "skorch", "scikit-learn", "numpy")
KEY = ["task", "subject", "device", "varies", "value", "way", "quantity"]
SETTING = ["n_phi", "n_rows", "n_params", "n_classes", "budget"]
COLUMNS = [*KEY, "amount", *SETTING, "repeats", "not_measured", "machine", "versions", "commit"]

Row = dict[str, object]

_MEASURES: dict[str, Callable[[int], Iterable[Row]]] = {
    "fit-budget": partial(fit_cost, "budget", speed_fit.BUDGETS),
    "fit-rows": partial(fit_cost, "n_rows", speed_fit.ROWS),
    "fit-cnn": partial(fit_cost, "budget", (speed_fit.CNN,)),
    "profile": partial(profile, speed_fit.PROFILED),
    "observations-nets": speed_observations.observed_nets,
    **{f"observations-{of}": partial(speed_observations.growth, of) for of in GROWTH},
    "observations-gpu": speed_observations.on_gpu,
    "batching": speed_batching.ways_to_batch,
    "chunks": speed_batching.chunks_and_layouts,
}
TASKS = tuple(_MEASURES)


def measure(task: str, repeats: int) -> list[Row]:
    """Measure one task.

    Parameters
    ----------
    task : str
        One of `TASKS`.
    repeats : int
        Timings, of which the least counts; what takes long is timed once.

    Returns
    -------
    rows : list of dict
        With all `COLUMNS`; those of `KEY` tell one from the other.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = list(_MEASURES[task](repeats))
    finally:
        torch.set_num_threads(n_threads)
    blank = dict.fromkeys(COLUMNS, "") | {"task": task, "device": "cpu", "repeats": repeats}
    about = {"machine": machine(), **provenance(PACKAGES)}
    return [blank | row | about for row in rows]
