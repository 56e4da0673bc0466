"""A serialized model, and what is seen in its bytes before anything opens it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sk_metricopt.export._bounds import Functions, SparseTensors, check_tensor, check_trees
from sk_metricopt.export._wire import Value, fields

# Messages of ONNX that hold tensors, by the numbers of the fields that lead to them.
_NESTED = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
# Fields of these that hold one message: of two, a parser makes a third that nobody wrote.
_ONE = {
    "Model": {7},
    "TrainingInfo": {1, 2},
    "Attribute": {5, 6, 22},
    "SparseTensor": {1, 2},
}
_DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 2, 13, 14  # fields of a tensor
_FLOAT16 = 10
_LARGEST = 2**31 - 1  # bytes: protobuf ends there
_DEEPEST = 100  # messages in each other, as protobuf reads them


class Content(bytes):
    """What is in a file; prints as its size."""

    @classmethod
    def of(cls, model):
        """Return `model` as this if it is bytes of any kind, and as it is if not."""
        if isinstance(model, bytes | bytearray | memoryview) and not isinstance(model, cls):
            return cls(model)
        return model

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def content_of(model) -> bytes:
    """Return what is in a file, or the bytes that were passed, once they are seen to be whole.

    Parameters
    ----------
    model : str, path-like or bytes

    Raises
    ------
    OSError, TypeError
        If there is no such file, or it cannot be read.
    ValueError
        If it is no serialized model, keeps tensors elsewhere, or would take far more memory than
        its size tells.
    """
    content = model if isinstance(model, bytes) else _read(model)
    _check_size(len(content))
    try:
        external = _keeps_tensors_elsewhere(content)
    except ValueError as exc:
        raise _unloadable(len(content), exc) from exc
    if external:
        # onnxruntime would look for them in the folder that the process happens to run in.
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must be one file with all of its tensors. Got "
            "a model that keeps some elsewhere, where nothing is read. Write one file: "
            "onnx.save(onnx.load(path), new_path)."
        )
    return content


def _read(model) -> bytes:
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            "The 'model' parameter of OnnxPredictor must be a path or bytes. "
            f"Got a {type(model).__name__} instead. Of what to_onnx returned, pass "
            "model.SerializeToString()."
        )
    path, name = Path(model), os.fspath(model)
    try:
        content = _bytes_of(path) if path.is_file() else None
    except OSError as exc:
        raise type(exc)(
            "The 'model' parameter of OnnxPredictor must be a file that can be read. "
            f"Got {name!r} instead: {exc.strerror}. Check its permissions."
        ) from exc
    if content is None:  # pipes and devices among them, which might never end
        raise FileNotFoundError(
            "The 'model' parameter of OnnxPredictor must be a file. "
            f"Got {name!r} instead. Write it with to_onnx(estimator, X, path)."
        )
    return content


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size)
        return file.read(size)


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise _unloadable(size, f"a model has at most {_LARGEST}")


def _unloadable(size: int, why: object) -> ValueError:
    return ValueError(
        "The 'model' parameter of OnnxPredictor must be an ONNX model that onnxruntime can "
        f"load. Got {size} bytes that it cannot: {why}. Export again."
    )


def holds_float16(content: bytes) -> bool:
    """Return whether some tensor of a model that was looked through is of float16."""
    return any(
        number == _DATA_TYPE and _as_32_bits(value) == _FLOAT16
        for message, data, _ in _messages(content)
        if message == "Tensor"
        for number, value in fields(data)
    )


def _keeps_tensors_elsewhere(content: bytes) -> bool:
    """Look through a model, and raise ValueError for what onnxruntime had better not see."""
    elsewhere = False
    functions, sparse = Functions(), SparseTensors()
    for message, data, function in _messages(content):
        if message == "Tensor":
            check_tensor(data)
            for number, value in fields(data):
                located = number == _DATA_LOCATION and _as_32_bits(value) != 0
                elsewhere |= located or number == _EXTERNAL_DATA
        elif message == "SparseTensor":
            sparse.add(data)
        elif message == "Function":
            functions.add(data, function)
        elif message == "Node":
            functions.call(data, function)
            check_trees(data)
    functions.check()
    return elsewhere


def _as_32_bits(value: Value) -> int | None:
    """Return a number as parsers take it, whatever a file says beyond that."""
    return value & 0xFFFFFFFF if isinstance(value, int) else None


class _Message(NamedTuple):
    name: str
    data: memoryview
    function: int  # which it is in; 0 is none


def _messages(content: bytes) -> Iterator[_Message]:
    """Yield the messages that may hold tensors; one at a time, however many there are."""
    model = _Message("Model", memoryview(content), 0)
    open_ones = [iter([model])]  # no recursion: a file may nest deeper than Python does
    while open_ones:
        message = next(open_ones[-1], None)
        if message is None:
            open_ones.pop()
            continue
        yield message
        if len(open_ones) > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if _NESTED[message.name]:
            open_ones.append(_inner(message))


def _inner(outer: _Message) -> Iterator[_Message]:
    seen: set[int] = set()
    n_functions = 0
    names = _NESTED[outer.name]
    for number, value in fields(outer.data):
        name = names.get(number)
        if name is None:
            continue
        if isinstance(value, int) or (number in seen and number in _ONE.get(outer.name, ())):
            raise ValueError("it is damaged")
        seen.add(number)
        n_functions += name == "Function"
        yield _Message(name, value, n_functions if name == "Function" else outer.function)
