"""Peak memory, as the system tells it (Linux)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

_IMPORTED = ("skorch", "sk_metricopt", "sklearn.datasets")


def peak_bytes(prepare: Callable[[], Callable[[], object]]) -> int | None:
    """Return by how much a run grows a process of its own, None where the system does not tell.

    A process that did other things before has freed memory to use again, which does not show.

    Parameters
    ----------
    prepare : callable
        Returns the run, everything it needs at hand; is pickled.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED])  # once, and not in each process
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_grown, prepare).result()


def _grown(prepare: Callable[[], Callable[[], object]]) -> int | None:
    torch.set_num_threads(1)
    run = prepare()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, not to be used again unseen
    before = restart_peak()
    run()
    return None if before is None else memory("VmHWM") - before


def restart_peak() -> int | None:
    """Have the system forget the peak so far; return the memory held, None where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return None
    return memory("VmRSS")


def memory(name: str) -> int:
    """Return bytes that this process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
