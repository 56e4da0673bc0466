"""A backbone as a function of φ: batched, differentiable, its frozen prefix computed once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
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

_LOG = logging.getLogger(__name__)
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
        self.plan = self._planned(example)
        _LOG.debug("%d parameters on hosts %s; %s", self.n_params, self.hosts, self.plan)

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

    def _planned(self, example: Tensor) -> _plan.Plan:
        features = self._encode_rows(example)
        phi = torch.zeros(2, self.n_params, device=self.device, requires_grad=True)
        weights = [w for w in self._weights_at(phi[0]).values() if w.requires_grad]
        size = _plan.footprint(self._split.suffix, features, weights)
        encoded = Encoded(tuple(t.expand(2, *t.shape) for t in features))

        def step() -> None:
            with torch.enable_grad():
                torch.autograd.grad(self._batched(phi, encoded, 0, vmap=True).sum(), phi)

        vmap = _plan.prefers_vmap(size, self.device, step)
        chunk = _plan.chunk_rows(size, self.device.type == "cuda")
        return _plan.Plan(vmap, chunk, self._layout, size)

    def encode(self, X: np.ndarray) -> Encoded:
        """Return `X` after the frozen prefix."""
        x = self.bridge.tensor(X)
        if self._split.prefix is None:
            return Encoded((self._arranged(x),))
        parts = (self._encode_rows(x[i : i + _ENCODE_ROWS]) for i in range(0, len(x), _ENCODE_ROWS))
        return Encoded(tuple(_joined(parts, len(x), dim=0)))

    def _encode_rows(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._split.prefix is None:
            return (self._arranged(x),)
        with torch.no_grad():
            return tuple(self._split.prefix(self._arranged(x)))

    def outputs(self, phi: Tensor, rows: Encoded, index: Tensor | None = None) -> Tensor:
        """Return outputs (J, n, K) of the same rows under each φ of (J, n_params).

        What outputs are is the bridge's to say: log-scores of classes, or embeddings. With an
        `index` they are of these rows only, which are never all taken out at once.
        """
        if torch.is_grad_enabled() and phi.requires_grad:
            rows = rows if index is None else rows.take(index)
            return self._batched(phi, rows, None, self.plan.vmap)
        chunk = self.plan.row_chunk(len(phi))
        n_rows = len(rows if index is None else index)
        starts = range(0, max(1, n_rows), chunk)
        chunks = (slice(i, i + chunk) if index is None else index[i : i + chunk] for i in starts)
        with torch.no_grad():
            parts = ((self._batched(phi, rows.take(c), None, self.plan.vmap),) for c in chunks)
            return _joined(parts, n_rows, dim=1)[0]

    def outputs_each(self, phi: Tensor, rows: Encoded) -> Tensor:
        """Return outputs (J, n, K) where each φ has its own batch of rows (J, n, ...)."""
        return self._batched(phi, rows, 0, self.plan.vmap)

    def pulled_back(
        self,
        phi: Tensor,
        rows_of: Callable[[slice], Encoded],
        pull: Callable[[Tensor], Tensor],
        n_rows: int,
    ) -> Tensor:
        """Return a gradient at outputs, pulled back to each φ with a batch of rows of its own.

        Where the graph of all φ would take too much memory, only outputs are computed for all, and
        then again, with a graph, for a few φ at a time.

        Parameters
        ----------
        phi : Tensor of shape (J, n_params)
        rows_of : callable
            From a slice of J to batches (j, n_rows, ...).
        pull : callable
            From outputs (J, n_rows, K) to the gradient there.
        n_rows : int
        """
        chunk = self.plan.phi_chunk(n_rows)
        parts = [slice(i, i + chunk) for i in range(0, len(phi), chunk)]
        if len(parts) == 1:
            leaf, outputs = self._recorded(phi, rows_of(slice(None)))
            return torch.autograd.grad(outputs, leaf, pull(outputs.detach()))[0]
        with torch.no_grad():
            outputs = torch.cat([self.outputs_each(phi[part], rows_of(part)) for part in parts])
        pulled = pull(outputs)
        gradients: list[Tensor] = []
        for part in parts:
            leaf, outputs = self._recorded(phi[part], rows_of(part))
            gradients += torch.autograd.grad(outputs, leaf, pulled[part])
        return torch.cat(gradients)

    def _recorded(self, phi: Tensor, rows: Encoded) -> tuple[Tensor, Tensor]:
        """Return φ as a leaf, and the outputs with their graph."""
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_(True)
            return leaf, self.outputs_each(leaf, rows)

    def _batched(self, phi: Tensor, rows: Encoded, dims: int | None, vmap: bool) -> Tensor:
        if vmap:
            return self._vmapped[dims](phi, rows.tensors)
        batches = (rows if dims is None else rows.take(j) for j in range(len(phi)))
        return torch.stack(
            [self._outputs_of_one(p, r.tensors) for p, r in zip(phi, batches, strict=True)]
        )

    def _weights_at(self, phi: Tensor) -> dict[str, Tensor]:
        """Return what takes the place of the suffix's own weights and buffers at one φ."""
        weights: dict[str, Tensor] = {}
        for name, part in self._slices.items():
            entry = self._split.entries.get(name)
            if entry is not None:
                weights[f"{entry}.params"] = phi[part]
                continue
            for key, value in self.adapter.weights(self._hosts[name], phi[part]).items():
                weights[f"{name}.{key}" if name else key] = value
        return weights

    def _outputs_of_one(self, phi: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        # Entry hosts' outputs come first and are modulated into new tensors; what else the module
        # is given it may write into.
        n = self.n_entries
        given = (*tensors[:n], *(t.clone() for t in tensors[n:]))
        weights = self._weights_at(phi)
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

    def norms(self, phi: Tensor) -> dict[str, float]:
        """Return the Euclidean norm of φ (n_params,) at each host."""
        return {name: float(phi[part].norm()) for name, part in self._slices.items()}

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


def _joined(parts: Iterable[tuple[Tensor, ...]], n_rows: int, dim: int) -> list[Tensor]:
    """Return tensors put together along `dim`, each part forgotten as soon as it is written."""
    whole: list[Tensor] = []
    start = 0
    for part in parts:
        if part[0].shape[dim] == n_rows:
            return list(part)
        if not whole:
            whole = [_longer(t, n_rows, dim) for t in part]
        n = part[0].shape[dim]
        for tensor, piece in zip(whole, part, strict=True):
            tensor.narrow(dim, start, n).copy_(piece)
        start += n
    return whole


def _longer(like: Tensor, n_rows: int, dim: int) -> Tensor:
    """Return an empty tensor of `n_rows` in the layout of `like`."""
    shape = (*like.shape[:dim], n_rows, *like.shape[dim + 1 :])
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return like.new_empty_strided(shape, like.stride())
    return like.new_empty(shape)
