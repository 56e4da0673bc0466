"""Seconds of rivals that take turns: their ratios stand up to other load, seconds do not."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Clock = Callable[[], float]
LEAST_SECONDS = 0.02  # of a turn


def best_of(
    repeats: int, *runs: Callable[[], object], clock: Clock = time.process_time
) -> list[float]:
    """Return the least seconds of a call of each of `runs`, which take turns.

    A call before tells how many make a turn, and warms up.
    """
    calls = [max(1, round(LEAST_SECONDS / max(_time(run, 1, clock), 1e-6))) for run in runs]
    turns = [
        [_time(run, n, clock) / n for run, n in zip(runs, calls, strict=True)]
        for _ in range(repeats)
    ]
    return [min(of_run) for of_run in zip(*turns, strict=True)]


def _time(run: Callable[[], object], n_calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(n_calls):
        run()
    return clock() - start


def clock_of(device: str) -> Clock:
    """Return the clock of CPU seconds; of wall time where another device is to be waited for."""
    return time.process_time if device == "cpu" else _waited


def _waited() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
