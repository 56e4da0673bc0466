"""Repeatability: one integer seed in, every global stream and mode left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state


def draw_seed(random_state) -> int:
    """Return an integer seed drawn from `random_state`, as scikit-learn understands it."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global streams of Python, numpy and torch, and put them back afterwards.

    skorch and user code draw from the global streams, so the same seed gives the same result
    only when these are seeded; nobody else may notice. For the same reason torch and numpy are in
    their ordinary modes inside, whatever the caller has set.
    """
    on_gpu = torch.device(device).type == "cuda" or torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if on_gpu else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices), _ordinary_modes():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach further
            if on_gpu:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _ordinary_modes() -> Iterator[None]:
    """Record gradients, in full precision, on the CPU unless told otherwise."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a context that every call would pass through
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def preserved() -> Iterator[None]:
    """Put torch's global stream back afterwards: loading data draws from it."""
    with torch.random.fork_rng(devices=[]):
        yield


def reseed(seed: int) -> None:
    """Seed the global streams within `seeded`, which puts them back."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
