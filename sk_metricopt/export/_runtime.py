"""onnxruntime: a model opened, and run over any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt.export._content import holds_float16

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = "CPUExecutionProvider"
BATCH_SIZE = 1024  # so that many images fit in memory
STRING = "tensor(string)"
DTYPES = {  # of what can be bound: by these names both numpy and torch know them
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


def open_session(content: bytes, providers: Sequence[Any] = (CPU,)) -> InferenceSession:
    """Return a session; what fails in it is raised, and not logged or tried elsewhere as well."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The bytes were looked through as ONNX, so nothing else may be seen in them.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first == CPU and holds_float16(content):
        # Above this level, attention in float16 crashes the process (onnxruntime 1.31, 1.32).
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(
        content, options, providers=list(providers), enable_fallback=0
    )


def run(
    session: InferenceSession,
    names: Sequence[str],
    feeds: Mapping[str, np.ndarray],
    batch_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs called `names` for all rows, run `batch_size` (1024) at a time.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    names : sequence of str
    feeds : mapping of str to ndarray
        Rows of each input. What has a default in the graph is no row, and is fed as it is.
    batch_size : int or None
    """
    size = batch_size or BATCH_SIZE
    row_names = [value.name for value in session.get_inputs()]
    n_rows = len(feeds[row_names[0]])
    if n_rows == 0:
        told = _no_rows(session, names)
        if told is not None:
            return told
        # Few graphs take no rows at all: what one row gives has the shape and the dtype.
        one = {name: _row_like(feeds[name]) for name in row_names}
        return {k: v[:0] for k, v in run(session, names, {**feeds, **one}).items()}
    parts = []
    for start in range(0, n_rows, size):
        batch = {name: feeds[name][start : start + size] for name in row_names}
        parts.append(session.run(list(names), {**feeds, **batch}))
    joined = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    return dict(zip(names, joined, strict=True))


def _no_rows(session: InferenceSession, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Return outputs of no rows, as far as the session tells their shapes and dtypes."""
    outputs = {value.name: value for value in session.get_outputs()}
    results = {}
    for name in names:
        shape, dtype = outputs[name].shape, {**DTYPES, STRING: "object"}.get(outputs[name].type)
        if dtype is None or not shape or not all(isinstance(length, int) for length in shape[1:]):
            return None
        results[name] = np.empty((0, *shape[1:]), dtype)
    return results


def _row_like(rows: np.ndarray) -> np.ndarray:
    return np.full((1, *rows.shape[1:]), "" if rows.dtype == object else 0, rows.dtype)
