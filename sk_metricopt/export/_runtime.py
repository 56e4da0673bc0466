"""onnxruntime: a model opened, and run over any number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = "CPUExecutionProvider"
_CHUNK = 1024  # rows per run, so that many images fit in memory


def open_session(content: bytes, providers: Sequence[Any] = (CPU,)) -> InferenceSession:
    """Return a session; what fails in it is raised, and not logged as well."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=list(providers))


def run(session: InferenceSession, names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs called `names` for all rows."""
    feed = session.get_inputs()[0].name
    starts = range(0, len(rows), _CHUNK)
    chunks = [session.run(list(names), {feed: rows[i : i + _CHUNK]}) for i in starts]
    return {
        name: np.concatenate(parts)
        for name, parts in zip(names, zip(*chunks, strict=True), strict=True)
    }
