"""The bytes of a protobuf message, read one field at a time.

The onnx package is not asked: who only runs a file need not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Value = int | memoryview
Fields = Iterable[tuple[int, Value]]


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a protobuf message.

    Parameters
    ----------
    data : memoryview of bytes

    Raises
    ------
    ValueError
        If it is no protobuf message.
    """
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = (key & 0xFFFFFFFF) >> 3, key & 7
        if number == 0:
            raise ValueError("it is damaged")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("it is damaged")
        if position + length > len(data):
            raise ValueError("it is damaged or cut short")
        yield number, data[position : position + length]
        position += length


def numbers(values: Iterable[Value]) -> Iterator[int]:
    """Yield the signed numbers of a field that is repeated, packed or not."""
    for value in values:
        if isinstance(value, int):
            yield _signed(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            yield _signed(number)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] < 0x80:  # most are of one byte
        return data[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("it is damaged")
