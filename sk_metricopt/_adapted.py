"""A backbone as a function of φ: batched, differentiable, its frozen prefix computed once."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sk_metricopt import _plan
from sk_metricopt._hosts import find_hosts
from sk_metricopt._skorch import Bridge, plain
from sk_metricopt._split import split_at_hosts
from sk_metricopt.adapters import BaseAdapter

_ENCODE_ROWS = 256


@dataclass(frozen=True)
class Encoded:
    """Rows of data after the frozen prefix; `tensors` have rows first."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, rows: Tensor | slice) -> Encoded:
        """Return the rows asked for; an index of shape (J, n) gives J batches of n rows."""
        return Encoded(tuple(t[rows] for t in self.tensors))


class AdaptedNet:
    """A net's outputs as a pure function of adapter parameters φ.

    Parameters
    ----------
    bridge : NetBridge or EmbeddingBridge
        The net; its module is copied, never edited.
    adapter : BaseAdapter
    targets : {"auto", "all"} or list of str
        Hosts, see `find_hosts`.
    X : ndarray of shape (n_rows, ...)
        A few rows, at least two, to see which layers run and how fast.

    Attributes
    ----------
    n_params : int
        Length of φ.
    hosts : list of str
        Names of the host layers in the order they run.
    """

    def __init__(
        self, bridge: Bridge, adapter: BaseAdapter, targets: str | list[str], X: np.ndarray
    ):
        self.bridge = bridge
        self.adapter = adapter
        example = bridge.tensor(X)
        module = plain(copy.deepcopy(bridge.module)).eval()
        self.hosts = find_hosts(module, adapter, targets, example)
        for name in self.hosts:
            adapter.prepare(module.get_submodule(name))
        module.to(self.device)
        module.requires_grad_(False)
        self._layout = _plan.memory_format(module, example)
        module.to(memory_format=self._layout)
        self._hosts = {name: module.get_submodule(name) for name in self.hosts}
        self._slices = self._layout_of_phi()
        self._split = split_at_hosts(module, adapter, self.hosts, self._arranged(example))
        self._vmapped = {
            dims: torch.vmap(self._outputs_of_one, in_dims=(0, dims)) for dims in (None, 0)
        }
        self.plan = self._measure(example)

    @property
    def n_params(self) -> int:
        return self._n_params

    @property
    def n_entries(self) -> int:
        """How many of the tensors of encoded rows, the first ones, are outputs of hosts."""
        return len(self._split.entries)

    @property
    def device(self) -> torch.device:
        return self.bridge.device

    def _layout_of_phi(self) -> dict[str, slice]:
        slices, start = {}, 0
        for name, host in self._hosts.items():
            stop = start + self.adapter.n_params(host)
            slices[name], start = slice(start, stop), stop
        self._n_params = start
        return slices

    def _arranged(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._layout) if x.dim() == 4 else x

    def _measure(self, example: Tensor) -> _plan.Plan:
        features = self._encode_rows(example)
        chunk = _plan.chunk_rows(self._split.suffix, features)
        rows = min(max(64, len(example)), 128)
        index = torch.arange(rows, device=self.device) % len(example)
        encoded = Encoded(features).take(index.expand(4, -1))
        phi = torch.zeros(4, self.n_params, device=self.device, requires_grad=True)

        def step(vmap: bool) -> None:
            with torch.enable_grad():
                torch.autograd.grad(self._batched(phi, encoded, 0, vmap).sum(), phi)

        layers = [type(m).__name__ for m in self._split.suffix.modules()]
        convolves = any("Conv" in name for name in layers) and self.device.type == "cpu"
        shapes = tuple(tuple(t.shape[1:]) for t in features)
        signature = (*layers, self.n_params, shapes, str(self.device), torch.get_num_threads())
        vmap = _plan.prefers_vmap(signature, step, convolves)
        return _plan.Plan(vmap, chunk, self._layout)

    def encode(self, X: np.ndarray) -> Encoded:
        """Return `X` after the frozen prefix."""
        x = self.bridge.tensor(X)
        if self._split.prefix is None:
            return Encoded((self._arranged(x),))
        parts = [self._encode_rows(x[i : i + _ENCODE_ROWS]) for i in range(0, len(x), _ENCODE_ROWS)]
        return Encoded(tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _encode_rows(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._split.prefix is None:
            return (self._arranged(x),)
        with torch.no_grad():
            return tuple(self._split.prefix(self._arranged(x)))

    def outputs(self, phi: Tensor, rows: Encoded) -> Tensor:
        """Return outputs (J, n, K) of the same rows under each φ of (J, n_params).

        What outputs are is the bridge's to say: log-scores of classes, or embeddings.
        """
        if torch.is_grad_enabled() and phi.requires_grad:
            return self._batched(phi, rows, None, self.plan.vmap)
        chunk = self.plan.row_chunk(len(phi))
        with torch.no_grad():
            parts = [
                self._batched(phi, rows.take(slice(i, i + chunk)), None, self.plan.vmap)
                for i in range(0, max(1, len(rows)), chunk)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def outputs_each(self, phi: Tensor, rows: Encoded) -> Tensor:
        """Return outputs (J, n, K) where each φ has its own batch of rows (J, n, ...)."""
        return self._batched(phi, rows, 0, self.plan.vmap)

    def _batched(self, phi: Tensor, rows: Encoded, dims: int | None, vmap: bool) -> Tensor:
        if vmap:
            return self._vmapped[dims](phi, rows.tensors)
        batches = (rows if dims is None else rows.take(j) for j in range(len(phi)))
        return torch.stack(
            [self._outputs_of_one(p, r.tensors) for p, r in zip(phi, batches, strict=True)]
        )

    def _outputs_of_one(self, phi: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        weights: dict[str, Tensor] = {}
        for name, part in self._slices.items():
            entry = self._split.entries.get(name)
            if entry is not None:
                weights[f"{entry}.params"] = phi[part]
                continue
            for key, value in self.adapter.weights(self._hosts[name], phi[part]).items():
                weights[f"{name}.{key}" if name else key] = value
        # Entry hosts' outputs come first and are modulated into new tensors; what else the module
        # is given it may write into.
        n = self.n_entries
        given = (*tensors[:n], *(t.clone() for t in tensors[n:]))
        output = functional_call(self._split.suffix, weights, given, tie_weights=False)
        return self.bridge.outputs(output)

    def fold(self, phi: Tensor) -> nn.Module:
        """Return a copy of the net's module with the adapter of φ (n_params,) written in."""
        module = plain(copy.deepcopy(self.bridge.module))
        for name, part in self._slices.items():
            host = module.get_submodule(name)
            self.adapter.prepare(host)
            weights = self.adapter.weights(self._hosts[name], phi[part].to(self.device))
            for key, value in weights.items():
                trains = host._parameters[key].requires_grad
                layout = host._parameters[key].detach()
                new = torch.empty_like(layout).copy_(value.detach())
                host.register_parameter(key, nn.Parameter(new, requires_grad=trains))
        return module

    def shift_params(self, shift: Tensor) -> Tensor:
        """Return φ increments (..., n_params) for shifts (..., K) of the last host's output.

        Whether these shift the log-scores is for the caller to see: a layer may follow.
        """
        last = self._hosts[self.hosts[-1]]
        part = self._slices[self.hosts[-1]]
        phi = shift.new_zeros(*shift.shape[:-1], self.n_params)
        if self.bridge.binary:  # one output, the logit of the second class
            shift = shift[..., 1:] - shift[..., :1]
        rows = shift.reshape(-1, shift.shape[-1])
        increments = [self.adapter.output_shift(last, row) for row in rows]
        if all(i is not None and len(i) == part.stop - part.start for i in increments):
            phi[..., part] = torch.stack(increments).reshape(*shift.shape[:-1], -1)
        return phi
