"""Which layers host the adapter."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sk_metricopt.adapters import BaseAdapter
from sk_metricopt.exceptions import AdapterError

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.LayerNorm,
    nn.GroupNorm,
)


def find_hosts(
    module: nn.Module, adapter: BaseAdapter, targets: str | list[str], example: Tensor
) -> list[str]:
    """Return the names of the layers of `module` that host `adapter`, in the order they run.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode.
    adapter : BaseAdapter
    targets : {"auto", "all"} or list of str
        "all": every layer of a host type that runs. "auto": of these, in a convolutional network
        only from the last layer that puts out maps, so that the trunk before it runs once; and,
        for a channelwise adapter, not the layers that feed a normalisation that is a host, whose
        own affine does the same. A list holds layer names or shell-style patterns of names.
    example : Tensor of shape (n_rows, ...)
        A few rows of input.
    """
    running, feeds_norm, spatial = _trace_layers(module, adapter, example)
    if not running:
        looked_for = ", ".join(t.__name__ for t in adapter.host_types)
        raise AdapterError(
            "The 'estimator' parameter of MetricOptFinetuner must hold a layer that can host the "
            f"adapter ({looked_for}). Got {type(module).__name__} with none. Add such a layer, or "
            "pass an adapter for the layers it has."
        )
    if targets == "all":
        return running
    if targets == "auto":
        useful = [name for name in running if not (adapter.channelwise and name in feeds_norm)]
        stages = [name for name in useful if name in spatial]
        return useful[useful.index(stages[-1]) :] if stages else useful
    return _match_targets(running, list(targets))


def _match_targets(running: list[str], patterns: list[str]) -> list[str]:
    unmatched = [
        p
        for p in patterns
        if not isinstance(p, str) or not any(fnmatchcase(name, p) for name in running)
    ]
    if unmatched or not patterns:
        raise AdapterError(
            f"The 'adapter_targets' parameter of MetricOptFinetuner must be 'auto', 'all' or a "
            f"list of layer names or patterns. Got {patterns!r}, of which {unmatched!r} match no "
            f"host. Choose from {running!r}."
        )
    return [name for name in running if any(fnmatchcase(name, p) for p in patterns)]


def _trace_layers(
    module: nn.Module, adapter: BaseAdapter, example: Tensor
) -> tuple[list[str], set[str], set[str]]:
    """Run `module` once; return its hosts in order, those that feed a norm, those with maps."""
    running: list[str] = []
    feeds_norm: set[str] = set()
    spatial: set[str] = set()
    source: dict[int, str] = {}
    outputs: list[Tensor] = []  # kept alive, so that an id stands for one tensor only

    def watch(name: str):
        def hook(layer: nn.Module, inputs: tuple, output) -> None:
            if not isinstance(output, Tensor):
                return
            if name not in running:
                running.append(name)
            fed_by = source.get(id(inputs[0])) if inputs else None
            normalised = fed_by if isinstance(layer, _NORM) else None
            if normalised is not None:
                feeds_norm.add(normalised)
            if isinstance(layer, _CONV) or normalised in spatial:
                spatial.add(name)
            source[id(output)] = name
            outputs.append(output)

        return hook

    handles = [
        layer.register_forward_hook(watch(name))
        for name, layer in module.named_modules()
        if isinstance(layer, adapter.host_types)
    ]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return running, feeds_norm, spatial
