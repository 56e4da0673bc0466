"""Cut a module in two at its first hosts: what φ never reaches, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from sk_metricopt.adapters import BaseAdapter


class Modulation(nn.Module):
    """A host's adapter applied to the output that was computed without it."""

    params: Tensor

    def __init__(self, adapter: BaseAdapter, host: nn.Module):
        super().__init__()
        self.adapter = adapter
        self.host = [host]  # in a list: the host's weights are no weights of this layer
        device = next(host.parameters()).device
        self.register_buffer("params", torch.zeros(adapter.n_params(host), device=device))

    def forward(self, output: Tensor) -> Tensor | None:
        """Return the adapted output."""
        return self.adapter.modulate(self.host[0], output, self.params)


class _Tracer(fx.Tracer):
    """Leaves hosts whole, also those that users derived from torch's layers."""

    def __init__(self, hosts: set[str]):
        super().__init__()
        self._hosts = hosts

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._hosts or super().is_leaf_module(
            m, module_qualified_name
        )


@dataclass
class SplitModule:
    """A module as `suffix(*prefix(x))`, where φ acts on `suffix` only.

    Attributes
    ----------
    prefix : torch.nn.Module or None
        Maps the input to a tuple of row-first tensors; None where the input itself is kept.
    suffix : torch.nn.Module
        Maps those tensors to the module's output.
    entries : dict of str to str
        Hosts whose own output is in the prefix, to the name of their `Modulation` in the suffix.
    """

    prefix: nn.Module | None
    suffix: nn.Module
    entries: dict[str, str] = field(default_factory=dict)


def split_at_hosts(
    module: nn.Module, adapter: BaseAdapter, hosts: list[str], example: Tensor
) -> SplitModule:
    """Split `module`, or return it whole where its control flow depends on the data."""
    try:
        graph = _Tracer(set(hosts)).trace(module)
        if not set(hosts) <= {node.target for node in graph.nodes}:
            return SplitModule(None, module)  # a host runs inside a call that is not taken apart
        split = _split_graph(module, graph, adapter, set(hosts))
        return split if _is_faithful(split, module, example) else SplitModule(None, module)
    except Exception:  # noqa: BLE001  tracing runs user code on stand-ins; any failure means: whole
        return SplitModule(None, module)


def _is_faithful(split: SplitModule, module: nn.Module, example: Tensor) -> bool:
    """Whether the halves compute what the whole does, and what lies between has rows first."""
    if split.prefix is None:
        return True
    with torch.no_grad():
        kept = split.prefix(example)
        joined, whole = split.suffix(*kept), module(example)
    if isinstance(whole, tuple):
        joined, whole = joined[0], whole[0]
    rows_first = all(isinstance(t, Tensor) and len(t) == len(example) for t in kept)
    return rows_first and torch.equal(joined, whole)


def _split_graph(
    module: nn.Module, graph: fx.Graph, adapter: BaseAdapter, hosts: set[str]
) -> SplitModule:
    calls = [n for n in graph.nodes if n.op == "call_module" and n.target in hosts]
    once = {n.target for n in calls if sum(m.target == n.target for m in calls) == 1}
    reached: set[fx.Node] = {n for n in graph.nodes if _reads_a_host(n, hosts)}
    entries: list[fx.Node] = []
    for node in graph.nodes:
        depends = any(parent in reached for parent in node.all_input_nodes)
        if (
            node in calls
            and not depends
            and node.target in once
            and _modulates(module, adapter, node)
        ):
            entries.append(node)
            reached.add(node)
        elif depends or node in calls:
            reached.add(node)
    frontier = _frontier(graph, reached, entries)
    root = nn.Module()
    for name, child in module.named_children():
        root.add_module(name, child)
    for name, value in module.named_parameters(recurse=False):
        root.register_parameter(name, value)
    for name, buffer in module.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    names = {node: f"modulation_{i}" for i, node in enumerate(entries)}
    for node, name in names.items():
        host = module.get_submodule(str(node.target))
        root.add_module(name, Modulation(adapter, host))
    prefix = fx.GraphModule(module, _prefix_graph(graph, reached, entries, frontier))
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    suffix = fx.GraphModule(root, _suffix_graph(graph, reached, names, frontier))
    return SplitModule(
        prefix.eval(), suffix.eval(), {str(node.target): name for node, name in names.items()}
    )


def _reads_a_host(node: fx.Node, hosts: set[str]) -> bool:
    """Whether the node fetches a weight that φ may change."""
    return node.op == "get_attr" and str(node.target).rpartition(".")[0] in hosts


def _modulates(module: nn.Module, adapter: BaseAdapter, node: fx.Node) -> bool:
    """Whether to adapt the host's output is the same as to adapt its weights."""
    host = module.get_submodule(str(node.target))
    stock = next(kind for kind in adapter.host_types if isinstance(host, kind))
    weights_read_elsewhere = any(
        _reads_a_host(other, {str(node.target)}) for other in node.graph.nodes
    )
    return (
        type(adapter).modulate is not BaseAdapter.modulate
        and type(host).forward is stock.forward
        and not (host._forward_hooks or host._forward_pre_hooks)
        and len(node.args) == 1
        and not weights_read_elsewhere
    )


def _frontier(graph: fx.Graph, reached: set[fx.Node], entries: list[fx.Node]) -> list[fx.Node]:
    """Values computed without φ that the rest needs: entry hosts' own outputs among them."""
    frontier = list(entries)
    for node in graph.nodes:
        needed = any(user in reached and user not in entries for user in node.users)
        if needed and node not in reached and node.op != "get_attr":
            frontier.append(node)
    return frontier


def _prefix_graph(graph, reached, entries, frontier) -> fx.Graph:
    out = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "output" and (node not in reached or node in entries):
            copied[node] = out.node_copy(node, lambda n: copied[n])
    out.output(tuple(copied[node] for node in frontier))
    return out


def _suffix_graph(graph, reached, names, frontier) -> fx.Graph:
    out = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for i, node in enumerate(frontier):
        copied[node] = out.placeholder(f"kept_{i}")
    for node, name in names.items():
        copied[node] = out.call_module(name, (copied[node],))
    for node in graph.nodes:
        if node.op == "get_attr" and node not in copied:
            copied[node] = out.node_copy(node)
        elif node in reached and node not in names:
            copied[node] = out.node_copy(node, lambda n: copied[n])
    return out
