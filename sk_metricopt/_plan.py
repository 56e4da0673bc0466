"""How to batch: rows in a chunk, vmap or a loop over φ, memory format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Activations of one chunk stay in the cache of a core: benchmarks/speed_batching.py shows it.
_CHUNK_BYTES = 2**20
_CHUNK_BYTES_GPU = 2**28
# On a CPU vmap saves the calls of small layers and pays for it in cache: measured on dense,
# convolutional and normalised nets, it wins where a layer's share of one φ is below this.
_VMAP_BYTES = 2**19
_STEP_ROWS = 128  # with one φ, in an optimizer step
_STEP_BYTES = 2**29  # of graph in a step; what would be more is taken a few φ at a time


@dataclass(frozen=True)
class Footprint:
    """Bytes that a module touches, from which all sizes of batches follow.

    Attributes
    ----------
    row : int
        Of the largest activation of one row.
    row_in_all : int
        Of all activations of one row.
    weight : int
        Of the largest weight that depends on φ.
    weight_in_all : int
        Of all of them.
    """

    row: int
    row_in_all: int
    weight: int
    weight_in_all: int


@dataclass(frozen=True)
class Plan:
    """How a batch of φ is evaluated.

    It follows from the module and the kind of device alone, never from a clock, so that any process
    on a machine runs the same arithmetic.

    Attributes
    ----------
    vmap : bool
        One vectorised call over φ, or a loop.
    chunk : int
        Rows times φ evaluated together without gradients.
    memory_format : torch.memory_format
        Layout of images.
    footprint : Footprint
    """

    vmap: bool
    chunk: int
    memory_format: torch.memory_format
    footprint: Footprint

    def row_chunk(self, n_phi: int) -> int:
        """Rows in a chunk when `n_phi` vectors are evaluated together."""
        return max(1, self.chunk // (n_phi if self.vmap else 1))

    def phi_chunk(self, n_rows: int) -> int:
        """Vectors in a chunk when gradients of `n_rows` rows each are asked for."""
        size = self.footprint
        return max(1, _STEP_BYTES // (n_rows * size.row_in_all + size.weight_in_all))


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


def footprint(module: nn.Module, features: tuple[Tensor, ...], weights: list[Tensor]) -> Footprint:
    """Return what `module` touches when it runs on `features`, with `weights` that depend on φ."""
    sizes = [1]

    def watch(_layer, _inputs, output) -> None:
        if isinstance(output, Tensor):
            sizes.append(_bytes_of(output))

    handles = [m.register_forward_hook(watch) for m in module.modules()]
    try:
        with torch.no_grad():
            module(*features)
    finally:
        for handle in handles:
            handle.remove()
    n_rows = len(features[0])
    in_all = sum(sizes) + sum(map(_bytes_of, features))
    of_weights = [0, *map(_bytes_of, weights)]
    return Footprint(
        max(1, max(sizes) // n_rows), -(-in_all // n_rows), max(of_weights), sum(of_weights)
    )


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def chunk_rows(size: Footprint, on_gpu: bool) -> int:
    """Return how many rows keep their activations within a core's cache."""
    return max(1, (_CHUNK_BYTES_GPU if on_gpu else _CHUNK_BYTES) // size.row)


def prefers_vmap(size: Footprint, device: torch.device, step: Callable[[], object]) -> bool:
    """Whether vmap pays for small layers on a CPU, for all elsewhere, and can run `step` at all.

    A rule and not a timing: a clock would make one process differ from the next.
    """
    touched = max(_STEP_ROWS * size.row, size.weight)
    if device.type == "cpu" and touched >= _VMAP_BYTES:
        return False
    try:
        step()
    except (RuntimeError, ValueError):  # an operator that has no rule for batches
        return False
    return True
