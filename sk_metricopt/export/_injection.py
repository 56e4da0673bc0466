"""A finished graph inside of one that skl2onnx is writing.

skl2onnx sorts its nodes, and knows neither optional inputs that are left out nor what the bodies of
branches and loops read from outside. So one node stands for the graph until it has sorted them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sk_metricopt.export._graph_edit import bodies
from sk_metricopt.export._inputs import ADAPTER

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_DOMAIN = "sk_metricopt.placeholder"


def inject(
    model: ModelProto, scope, container, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Put the nodes of `model` where skl2onnx puts those of the operator it converts.

    Parameters
    ----------
    model : onnx.ModelProto
        It is left unchanged.
    scope : skl2onnx.common._topology.Scope
    container : skl2onnx.common._container.ModelComponentContainer
    inputs, outputs : sequence of str
        Names, in the graph to be, of the inputs and outputs of `model`.
    """
    from onnx import helper

    graph = copy.deepcopy(model.graph)
    names = {"": "", ADAPTER: ADAPTER}  # that one is to become an input of the whole
    names.update(zip((value.name for value in graph.input), inputs, strict=True))
    for value in graph.output:
        names[value.name] = scope.get_unique_variable_name("net_" + value.name)
    made = [names[value.name] for value in graph.output]
    _rename(graph, names, scope)
    container.initializers.extend(graph.initializer)
    for entry in model.opset_import:
        container.node_domain_version_pair_sets.add((entry.domain, entry.version))
    placeholder = helper.make_node(
        "Net", list(inputs), made, name=scope.get_unique_operator_name("Net"), domain=_DOMAIN
    )
    container.nodes.append(placeholder)
    for name, output in zip(made, outputs, strict=True):
        identity = scope.get_unique_operator_name("Identity")
        container.nodes.append(helper.make_node("Identity", [name], [output], name=identity))
    _expand_once_sorted(container, placeholder.name, list(graph.node))


def _rename(graph: GraphProto, names: dict[str, str], scope) -> None:
    """Give all values and nodes of `graph` names that are new in `scope`, in place."""

    def new(name: str) -> str:
        if name not in names:
            names[name] = scope.get_unique_variable_name("net_" + name)
        return names[name]

    for node in graph.node:
        _rename_node(node, new, scope)
    for value in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        value.name = new(value.name)


def _rename_node(node: NodeProto, new: Callable[[str], str], scope) -> None:
    node.input[:] = [new(name) for name in node.input]
    node.output[:] = [new(name) for name in node.output]
    node.name = scope.get_unique_operator_name("net_" + (node.name or node.op_type))
    for body in bodies(node):
        for inner in body.node:
            _rename_node(inner, new, scope)
        for value in (*body.initializer, *body.input, *body.output, *body.value_info):
            value.name = new(value.name)


def _expand_once_sorted(container, name: str, nodes: list[NodeProto]) -> None:
    """Let `nodes` take the place of the node called `name` as soon as skl2onnx has sorted."""
    sort = container.ensure_topological_order

    def sort_and_expand() -> None:
        sort()
        expanded: list[NodeProto] = []
        for node in container.nodes:
            stands_for = node.domain == _DOMAIN and node.name == name
            expanded.extend(nodes if stands_for else [node])
        container.nodes[:] = expanded

    container.ensure_topological_order = sort_and_expand
