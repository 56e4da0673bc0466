"""Changes to a graph that leave what it computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def rename_value(graph: GraphProto, old: str, new: str) -> None:
    """Give a value another name wherever it is made or used, in place.

    Parameters
    ----------
    graph : onnx.GraphProto
    old, new : str
    """
    for node in _all_nodes(graph):
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if value.name == old:
            value.name = new


def name_inputs(graph: GraphProto, names: Sequence[str]) -> None:
    """Give the inputs of a graph other names, in place; what had these before gives way.

    Parameters
    ----------
    graph : onnx.GraphProto
    names : sequence of str
        None of them that of an output.
    """
    for value, name in zip(graph.input, names, strict=True):
        if value.name != name:
            rename_value(graph, name, f"inner {name}")
            rename_value(graph, value.name, name)


def keep_outputs(graph: GraphProto, names: Sequence[str]) -> None:
    """Remove all outputs but some, and what only they hung on, in place.

    Parameters
    ----------
    graph : onnx.GraphProto
        Nodes stand after those they read from.
    names : sequence of str
    """
    kept = [copy.deepcopy(value) for value in graph.output if value.name in names]
    if len(kept) < len(graph.output):
        del graph.output[:]
        graph.output.extend(kept)
        remove_dead_ends(graph)


def remove_dead_ends(graph: GraphProto) -> None:
    """Remove what no output hangs on, in place.

    Parameters
    ----------
    graph : onnx.GraphProto
        Nodes stand after those they read from.
    """
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _read_by(node)
    made = {name for node in kept for name in node.output}
    for field, wanted in (
        (graph.node, kept[::-1]),
        (graph.initializer, [value for value in graph.initializer if value.name in needed]),
        (graph.value_info, [value for value in graph.value_info if value.name in made]),
    ):
        # As copies: what is deleted from a graph is gone for those who hold it.
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in wanted]
        del field[:]
        field.extend(copies)


def _read_by(node: NodeProto) -> set[str]:
    """Names a node reads, those that the bodies of loops and branches see from outside included."""
    names = set(node.input)
    for body in bodies(node):
        names |= {value.name for value in body.output}
        for inner in body.node:
            names |= _read_by(inner)
    return names


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _all_nodes(body)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside of a node: branches, and what loops repeat.

    Parameters
    ----------
    node : onnx.NodeProto
    """
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
