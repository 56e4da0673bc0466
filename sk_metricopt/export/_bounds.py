"""What a few bytes of a model would make onnxruntime do, refused before it sees them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter

import numpy as np

from sk_metricopt.export._wire import Value, fields, numbers

_MOST_CELLS = 2**26  # of all sparse tensors, which onnxruntime writes out when it opens a file
_MOST_NODES = 2**14  # of all functions, written out at every call
_DEEPEST_TREE = 1000  # onnxruntime goes down by recursion, and out of its stack at some thousands
_PER_BYTE = 4  # values, of two bits each
_LEAF = b"LEAF"

Name = tuple[bytes, bytes]  # domain and name


def check_tensor(tensor: memoryview) -> None:
    """Raise ValueError unless a tensor has room for the values that it says it has."""
    n_values = _n_values(tensor, field=1)
    if n_values > _PER_BYTE * len(tensor):
        raise ValueError(f"it has a tensor of {n_values} values in {len(tensor)} bytes")


def _n_values(tensor: memoryview, field: int) -> int:
    lengths = list(numbers(value for number, value in fields(tensor) if number == field))
    if any(length < 0 for length in lengths):
        raise ValueError("it has a tensor of negative length")
    # A zero must not hide the others: whoever multiplies them goes beyond 64 bits before it.
    return math.prod(length for length in lengths if length)


class SparseTensors:
    """Sparse tensors, which are small in a file and large once it is open."""

    def __init__(self):
        self._n_cells = 0

    def add(self, tensor: memoryview) -> None:
        """Raise ValueError if `tensor` and those before it are too large."""
        self._n_cells += _n_values(tensor, field=3)
        if self._n_cells > _MOST_CELLS:
            raise ValueError(f"its sparse tensors have more than {_MOST_CELLS} values")


class Functions:
    """Functions that a model brings, which onnxruntime writes out wherever they are called.

    Numbers say which function is meant; 0 is the graph of the model.
    """

    def __init__(self):
        self._names: dict[int, Name] = {}
        self._calls: dict[int, Counter[Name]] = defaultdict(Counter)

    def add(self, function: memoryview, number: int) -> None:
        """Take note of a function."""
        found = dict(fields(function))
        self._names[number] = _name(found, domain=10, name=1)

    def call(self, node: memoryview, number: int) -> None:
        """Take note of a node in a function."""
        self._calls[number][_name(dict(fields(node)), domain=7, name=4)] += 1

    def check(self) -> None:
        """Raise ValueError if they call themselves or come to too many nodes."""
        bodies: dict[Name, Counter[Name]] = defaultdict(Counter)
        for number, name in self._names.items():
            bodies[name] += self._calls[number]  # those of one name are taken together
        calls = {
            name: [callee for callee in body if callee in bodies] for name, body in bodies.items()
        }
        try:
            order = list(TopologicalSorter(calls).static_order())
        except CycleError as exc:
            raise ValueError("it has a function that calls itself") from exc
        sizes: dict[Name, int] = {}
        for name in order:
            sizes[name] = _size(bodies[name], sizes)
        if _size({k: n for k, n in self._calls[0].items() if k in sizes}, sizes) > _MOST_NODES:
            raise ValueError(f"its functions come to more than {_MOST_NODES} nodes")


def _size(calls: dict[Name, int], sizes: dict[Name, int]) -> int:
    """Return the nodes that calls come to; capped, since it may double each time."""
    return min(sum(n * (1 + sizes.get(name, 0)) for name, n in calls.items()), _MOST_NODES + 1)


def _name(found: dict[int, Value], domain: int, name: int) -> Name:
    of = _bytes(found.get(domain))
    return (b"" if of == b"ai.onnx" else of, _bytes(found.get(name)))


def _bytes(value: Value | None) -> bytes:
    return bytes(value) if isinstance(value, memoryview) else b""


def check_trees(node: memoryview) -> None:
    """Raise ValueError if a node is an ensemble of trees one of which is too deep."""
    if not _bytes(dict(fields(node)).get(4)).startswith(b"TreeEnsemble"):
        return
    children = _children(_attributes(node))
    n_nodes = children.shape[1]
    if n_nodes <= _DEEPEST_TREE:
        return
    reached = np.arange(n_nodes)
    for _ in range(_DEEPEST_TREE):
        below = np.zeros(n_nodes + 1, dtype=bool)  # the last stands for no node
        below[children[:, reached]] = True
        reached = np.flatnonzero(below[:-1])
        if not len(reached):
            return
    raise ValueError(f"it has a tree deeper than {_DEEPEST_TREE}, or one without end")


def _attributes(node: memoryview) -> dict[bytes, list[Value]]:
    """Return numbers and strings of the attributes that say how trees branch."""
    found: dict[bytes, list[Value]] = {}
    for number, attribute in fields(node):
        if number == 5 and isinstance(attribute, memoryview):
            parts = list(fields(attribute))
            name = _bytes(dict(parts).get(1)).removeprefix(b"nodes_")
            if name in found:
                raise ValueError("it has an attribute twice")
            found[name] = [value for field, value in parts if field in (8, 9)]
    return found


def _children(found: dict[bytes, list[Value]]) -> np.ndarray:
    """Return the nodes on both sides of each node, -1 where there is none."""
    read = {name: list(numbers(values)) for name, values in found.items() if name in _NUMBERS}
    sides = [read.get(name, []) for name in (b"truenodeids", b"falsenodeids")]
    if b"treeids" in read or b"nodeids" in read:
        trees, ids = read.get(b"treeids", []), read.get(b"nodeids", [])
        modes = [_bytes(mode) for mode in found.get(b"modes", [])]
        _check_lengths(trees, ids, modes, *sides)
        index = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
        leaf = np.array([mode == _LEAF for mode in modes], dtype=bool)
        at = [[index.get(key, -1) for key in zip(trees, side, strict=True)] for side in sides]
        return np.where(leaf, -1, np.array(at, dtype=np.int64).reshape(2, -1))
    leaves = [read.get(name, []) for name in (b"trueleafs", b"falseleafs")]
    _check_lengths(*sides, *leaves)
    n_nodes = len(sides[0])
    at = [[i if 0 <= i < n_nodes else -1 for i in side] for side in sides]
    return np.where(np.array(leaves, dtype=bool), -1, np.array(at, dtype=np.int64)).reshape(2, -1)


_NUMBERS = {
    b"treeids",
    b"nodeids",
    b"truenodeids",
    b"falsenodeids",
    b"trueleafs",
    b"falseleafs",
}


def _check_lengths(*parts: list) -> None:
    if len({len(part) for part in parts}) > 1:
        raise ValueError("it has trees of unlike lengths")
