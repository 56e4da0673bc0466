"""The check that a graph says what the estimator says that it came from."""

from __future__ import annotations

import numpy as np

from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._runtime import open_session, run


def check_parity(serialized: bytes, rows: np.ndarray, expected: Rows, kind: GraphKind) -> None:
    """Run the graph through onnxruntime and compare it with the estimator, row by row.

    Parameters
    ----------
    serialized : bytes
        The graph as it will be written.
    rows : ndarray of shape (n_samples, ...)
        Input of the graph.
    expected : dict of str to ndarray of shape (n_samples, ...)
        What the estimator says about the same rows, by output.
    kind : GraphKind
        Says what differs too much.

    Raises
    ------
    ExportError
        If the graph does not load, does not run, or differs.
    """
    session = _session(serialized, kind.name)
    everything = np.arange(len(rows))
    # Other sizes than the traced one, 1 among them: code that fixes the batch shows there.
    for indices in (everything, everything[:1], np.arange(3) % len(rows)):
        got = _answers(session, list(expected), rows[indices], kind.name)
        kind.compare(got, expected, indices)


def _session(serialized: bytes, name: str):
    try:
        return open_session(serialized)
    except Exception as exc:
        raise ExportError(
            f"onnxruntime cannot load the graph of {name}: {exc} Likely cause: an operation that "
            "this release of onnxruntime does not have at this opset. Next step: upgrade "
            "onnxruntime, or export with another opset. No file was written."
        ) from exc


def _answers(session, outputs: list[str], rows: np.ndarray, name: str) -> Rows:
    try:
        return run(session, outputs, rows)
    except Exception as exc:
        raise ExportError(
            f"onnxruntime cannot run the graph of {name} on a batch of {len(rows)} rows: {exc} "
            "Likely cause: forward fixes the number of rows. Next step: write -1 or X.shape[0] "
            "for the rows in every reshape, view or expand. No file was written."
        ) from exc
