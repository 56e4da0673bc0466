"""A serialized model, and what its tensors tell before anything opens it.

The onnx package is not asked: who only runs a file need not have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
_DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 2, 13, 14  # fields of a tensor
_FLOAT16 = 10


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


@dataclass(frozen=True)
class TensorFacts:
    """What matters about the tensors of a model.

    Parameters
    ----------
    external : bool
        Whether one of them is kept elsewhere, in another file or in memory.
    half : bool
        Whether one of them is of float16.
    """

    external: bool
    half: bool


def content_of(model) -> bytes:
    """Return what is in a file, or the bytes that were passed, once they are seen to be whole.

    Parameters
    ----------
    model : str, path-like or bytes

    Raises
    ------
    FileNotFoundError, TypeError
        If there is no such file.
    ValueError
        If it is no serialized model, or keeps tensors elsewhere.
    """
    content = model if isinstance(model, bytes) else _read(model)
    try:
        external = tensor_facts(content).external
    except ValueError as exc:
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must be an ONNX model that onnxruntime can "
            f"load. Got {len(content)} bytes that it cannot: {exc}. Export again."
        ) from exc
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
    if not Path(model).is_file():
        raise FileNotFoundError(
            "The 'model' parameter of OnnxPredictor must be a file. "
            f"Got {os.fspath(model)!r} instead. Write it with to_onnx(estimator, X, path)."
        )
    return Path(model).read_bytes()


def tensor_facts(content: bytes) -> TensorFacts:
    """Read a serialized model as far as its tensors, wherever they are in it.

    Parameters
    ----------
    content : bytes

    Raises
    ------
    ValueError
        If it is no serialized model.
    """
    external = half = False
    for number, value in _fields_of_tensors(content):
        external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        half |= number == _DATA_TYPE and value == _FLOAT16
    return TensorFacts(external, half)


def _fields_of_tensors(content: bytes) -> Iterator[tuple[int, int | memoryview]]:
    pending = [("Model", memoryview(content))]
    while pending:  # no recursion: a file may nest deeper than Python does
        message, data = pending.pop()
        for number, value in fields(data):
            inner = _NESTED[message].get(number)
            if message == "Tensor":
                yield number, value
            elif inner is not None and isinstance(value, int):
                raise ValueError("it is damaged")
            elif inner is not None:
                pending.append((inner, value))


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = (key & 0xFFFFFFFF) >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value & 0xFFFFFFFF  # all numbers read here are of 32 bits
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("it is damaged")
        if number == 0 or position + length > len(data):
            raise ValueError("it is damaged or cut short")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is damaged")
