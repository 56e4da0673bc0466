"""Files of value functions: arrays in safetensors, all else as JSON in its header."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = "sk_metricopt.value_function"
SCHEMA = 1
_LARGEST = 2**28  # bytes of a file
_ARRAY = "$array"  # key of what stands for an array in JSON


def write(path, kind: str, state: dict) -> None:
    """Write a state, nested dicts of arrays, numbers, strings and None, whole or not at all."""
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    told = {"format": _FORMAT, "schema": SCHEMA, "kind": kind, "state": _stored(state, arrays)}
    content = save(arrays, {_FORMAT: json.dumps(told, allow_nan=False)})
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _stored(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {name: _stored(part, arrays) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value, dtype=np.float64)
        return {_ARRAY: name}
    return value


def read(path) -> tuple[str, dict]:
    """Return whose state a file holds, and the state.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is damaged, too large, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The 'path' parameter must be a file. Got {path.name!r}, no file.")
    if path.stat().st_size > _LARGEST:
        raise _refused(path, f"of {path.stat().st_size} bytes, more than a value function has")
    told, arrays = _opened(path)
    try:
        whole = json.loads(told[_FORMAT])
        schema, kind, state = whole["schema"], whole["kind"], whole["state"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(path, "of another format") from error
    if schema != SCHEMA:
        raise _refused(path, f"of version {schema!r}; this library reads {SCHEMA}")
    try:
        return str(kind), _restored(state, arrays)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise _refused(path, "damaged") from error


def _opened(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, arrays
    except OSError:
        raise
    except Exception as error:
        raise _refused(path, f"damaged ({type(error).__name__}: {error})") from error


def _restored(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict) and value.keys() == {_ARRAY}:
        array = arrays[value[_ARRAY]]
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise TypeError("numbers must be finite and of double precision")
        return array
    if isinstance(value, dict):
        return {name: _restored(part, arrays) for name, part in value.items()}
    if not isinstance(value, str | int | float | None) or value != value or value in _INFINITE:
        raise TypeError("a list, or no number")
    return value


_INFINITE = (math.inf, -math.inf)


def _refused(path: Path, what: str) -> ValueError:
    return ValueError(
        "The 'path' parameter must be a file that a value function's to_file has written. Got "
        f"{path.name!r}, {what}. Write it again."
    )


class Fields:
    """What a file says of one object, each part checked when it is taken.

    Parameters
    ----------
    state : object
        A dict, if the file is whole.
    """

    def __init__(self, state: object):
        if not isinstance(state, dict):
            raise self._damaged("its parts")
        self._state = state

    def number(self, name: str, least: float = -math.inf) -> float:
        value = self._state.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
            raise self._damaged(name)
        return float(value)

    def count(self, name: str, least: int, most: int) -> int:
        value = self._state.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._damaged(name)
        return value

    def optional_count(self, name: str, least: int, most: int) -> int | None:
        return None if self._state.get(name) is None else self.count(name, least, most)

    def flag(self, name: str) -> bool:
        value = self._state.get(name)
        if not isinstance(value, bool):
            raise self._damaged(name)
        return value

    def choice(self, name: str, among) -> Any:
        value = self._state.get(name)
        if value not in list(among):
            raise self._damaged(name)
        return value

    def array(self, name: str, *shape: int) -> np.ndarray:
        value = self._state.get(name)
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise self._damaged(name)
        return value

    def optional_array(self, name: str, n_rows: int) -> np.ndarray | None:
        value = self._state.get(name)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.ndim != 2 or len(value) != n_rows:
            raise self._damaged(name)
        return value

    def part(self, name: str) -> Fields:
        return Fields(self._state.get(name))

    @staticmethod
    def _damaged(name: str) -> ValueError:
        return ValueError(
            f"The 'path' parameter must be a file that a value function's to_file has written. "
            f"Got one whose {name!r} is missing or wrong. Write it again."
        )
