"""How to batch: rows in a chunk, vmap or a loop over φ, memory format."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

logger = logging.getLogger("sk_metricopt")

# Activations of one chunk stay in the cache of a core (benchmarks/speed.py shows the effect).
_CHUNK_BYTES = 2**20
_CHUNK_BYTES_GPU = 2**28
# A timing overturns the default only when it is this clear, so that noise cannot change results.
_CLEARLY = 1.5

_measured: dict[tuple, bool] = {}


@dataclass(frozen=True)
class Plan:
    """How a batch of φ is evaluated.

    Attributes
    ----------
    vmap : bool
        One vectorised call over φ, or a loop.
    chunk : int
        Rows times φ evaluated together without gradients.
    memory_format : torch.memory_format
        Layout of images.
    """

    vmap: bool
    chunk: int
    memory_format: torch.memory_format

    def row_chunk(self, n_phi: int) -> int:
        """Rows in a chunk when `n_phi` vectors are evaluated together."""
        return max(1, self.chunk // (n_phi if self.vmap else 1))


def memory_format(module: nn.Module, example: Tensor) -> torch.memory_format:
    """Return channels_last, the faster layout, for images through 2-d convolutions.

    Modules that `view` their feature maps need the default layout; they are tried and left alone.
    """
    convolves = any(isinstance(m, nn.Conv2d) for m in module.modules())
    # torch 2.13 on a CPU crashes in the backward of a channels_last group norm of which only some
    # gradients are asked for (remove when fixed there).
    crashes = any(isinstance(m, nn.GroupNorm) for m in module.modules())
    if not convolves or crashes or example.dim() != 4:
        return torch.contiguous_format
    try:
        with torch.no_grad():
            module.to(memory_format=torch.channels_last)(
                example.contiguous(memory_format=torch.channels_last)
            )
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def chunk_rows(module: nn.Module, features: tuple[Tensor, ...]) -> int:
    """Return how many rows keep the activations of `module` within a core's cache."""
    n_rows = len(features[0])
    largest = [0]

    def watch(_layer, _inputs, output) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.numel() * output.element_size())

    handles = [m.register_forward_hook(watch) for m in module.modules()]
    try:
        with torch.no_grad():
            module(*features)
    finally:
        for handle in handles:
            handle.remove()
    budget = _CHUNK_BYTES_GPU if features[0].is_cuda else _CHUNK_BYTES
    return max(1, budget * n_rows // max(1, largest[0]))


def prefers_vmap(signature: tuple, step: Callable[[bool], None], convolves_on_cpu: bool) -> bool:
    """Time `step` (with vmap or without) and return whether vmap pays.

    The answer is kept for the life of the process, so that a second fit of the same network runs
    the same arithmetic and gives the same bits.
    """
    if signature not in _measured:
        default = not convolves_on_cpu
        seconds = {vmap: _time(step, vmap) for vmap in (default, not default)}
        overturned = seconds[not default] * _CLEARLY < seconds[default]
        _measured[signature] = default != overturned
        logger.debug("plan: vmap %s (seconds with vmap, loop: %s)", _measured[signature], seconds)
    return _measured[signature]


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _time(step: Callable[[bool], None], vmap: bool) -> float:
    """Best of three after a warm-up; infinity where vmap cannot run the module."""
    try:
        step(vmap)
        best = float("inf")
        for _ in range(3):
            _wait_for_device()
            start = time.perf_counter()
            step(vmap)
            _wait_for_device()
            best = min(best, time.perf_counter() - start)
        return best
    except (RuntimeError, ValueError):
        if not vmap:
            raise
        return float("inf")
