"""A module whose adapter parameters are an input beside the rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sk_metricopt._hosts import find_hosts
from sk_metricopt._skorch import plain
from sk_metricopt.adapters import BaseAdapter

_PARAMS = "adapter_params"  # buffer of a host that holds its slice of φ


class AdaptedModule(nn.Module):
    """A private copy of a module, called with rows and with φ.

    Weights as few as their share of φ, those of normalisations, are replaced in every call. Others
    stay constant where the adapter can act on the host's output, so that a runtime packs them once.

    Parameters
    ----------
    module : torch.nn.Module
        As it was before finetuning.
    adapter : BaseAdapter
    targets : {"auto", "all"} or list of str
        Hosts, see `find_hosts`.
    example : Tensor of shape (n_rows, ...)
        A few rows of input.

    Attributes
    ----------
    hosts : list of str
        Names of the host layers in the order they run.
    n_params : int
        Length of φ.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: BaseAdapter,
        targets: str | Sequence[str],
        example: Tensor,
    ):
        super().__init__()
        module = bare(module)
        self.hosts = find_hosts(module, adapter, targets, example)
        for name in self.hosts:
            adapter.prepare(module.get_submodule(name))
        module.requires_grad_(False)
        self._module, self._adapter = module, adapter
        self._sizes = [adapter.n_params(module.get_submodule(name)) for name in self.hosts]
        self.n_params = sum(self._sizes)
        many = [
            name for name in self.hosts if _has_many_weights(module.get_submodule(name), adapter)
        ]
        self._modulated = _modulate(module, adapter, many, example)

    def forward(self, X: Tensor, params: Tensor) -> Any:
        replaced: dict[str, Tensor] = {}
        for name, part in zip(self.hosts, params.split(self._sizes), strict=True):
            if name in self._modulated:
                replaced[_inside(name, _PARAMS)] = part
            else:
                replaced.update(self._weights(name, part))
        return functional_call(self._module, replaced, (X,), tie_weights=False)

    def folded(self, params: Tensor) -> dict[str, Tensor]:
        """Return the weights of the module, by name, with the adapter of `params` written in.

        Parameters
        ----------
        params : Tensor of shape (n_params,)
        """
        weights = {name: v for name, v in self._module.state_dict().items() if _PARAMS not in name}
        for name, part in zip(self.hosts, params.split(self._sizes), strict=True):
            weights.update(self._weights(name, part))
        return weights

    def _weights(self, name: str, params: Tensor) -> dict[str, Tensor]:
        weights = self._adapter.weights(self._module.get_submodule(name), params)
        return {_inside(name, key): value for key, value in weights.items()}


def bare(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the CPU and in eval mode, all of its weights plain."""
    module = getattr(module, "_orig_mod", module)  # torch.compile
    return plain(copy.deepcopy(module)).cpu().eval()


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _has_many_weights(host: nn.Module, adapter: BaseAdapter) -> bool:
    n_params = adapter.n_params(host)
    weights = adapter.weights(host, torch.zeros(n_params))
    return sum(value.numel() for value in weights.values()) > n_params


def _modulate(
    module: nn.Module, adapter: BaseAdapter, hosts: list[str], example: Tensor
) -> set[str]:
    """Let the adapter act on the outputs of those hosts of `module` where it can; return them."""
    unable = set()

    def hook_of(name: str):
        def hook(host: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            adapted = adapter.modulate(host, output, getattr(host, _PARAMS))
            if adapted is None:
                unable.add(name)
            return adapted

        return hook

    handles = {}
    for name in hosts:
        host = module.get_submodule(name)
        host.register_buffer(_PARAMS, torch.zeros(adapter.n_params(host)))
        handles[name] = host.register_forward_hook(hook_of(name))
    with torch.no_grad():
        module(example)
    for name in unable:
        handles[name].remove()
        delattr(module.get_submodule(name), _PARAMS)
    return set(hosts) - unable
