"""What tells two runs apart: digests of data and words for parameters."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial

import numpy as np
import torch
from scipy.sparse import issparse
from torch import nn

_DIGITS = 16
_LONGEST = 120  # of a value that is told as it is
_DEPTH = 5  # of objects inside objects that are looked into
_SPARSE = ("data", "indices", "indptr")


def digest(*parts: object) -> str:
    """Return a digest of arrays, tensors, bytes and whatever else has a repr."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(_bytes(part))
    return whole.hexdigest()[:_DIGITS]


def _bytes(part: object) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu().numpy()
    if issparse(part):
        return _bytes(digest(part.shape, *(part.tocsr().__dict__[n] for n in _SPARSE)))
    if hasattr(part, "to_numpy"):
        part = np.asarray(part)
    if isinstance(part, np.ndarray) and part.dtype.kind != "O":
        told = f"{part.dtype.str}{part.shape}".encode()
        return told + np.ascontiguousarray(part).tobytes()
    if isinstance(part, np.ndarray):
        return repr((part.shape, part.ravel().tolist())).encode()
    return repr(part).encode()


def weights_digest(module: nn.Module) -> str:
    """Return a digest of the names, shapes and values of a module's parameters and buffers."""
    return digest(*(part for item in module.state_dict().items() for part in item))


def described(value: object, depth: int = _DEPTH) -> str:
    """Return words that are the same for the same parameter, in any process."""
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} with weights {weights_digest(value)}"
    if value is None or isinstance(value, str | bytes | int | float | complex | np.generic):
        return repr(value) if len(repr(value)) < _LONGEST else digest(value)
    if isinstance(value, np.ndarray | torch.Tensor) or issparse(value) or hasattr(value, "dtypes"):
        return f"array {digest(value)}"
    return _looked_into(value, depth) if depth else type(value).__qualname__


def _looked_into(value: object, depth: int) -> str:
    def told(part: object) -> str:
        return described(part, depth - 1)

    if isinstance(value, dict):
        return "{" + ", ".join(f"{told(k)}: {told(v)}" for k, v in value.items()) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(told, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(told, value)) + "]"
    if isinstance(value, partial):
        return f"partial({told(value.func)}, {told(value.args)}, {told(value.keywords)})"
    of_estimator = hasattr(value, "get_params")
    parts = value.get_params(deep=False) if of_estimator else getattr(value, "__dict__", {})
    return f"{type(value).__qualname__}({', '.join(f'{k}={told(v)}' for k, v in parts.items())})"
