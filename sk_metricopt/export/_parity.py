"""The check that a graph says what the estimator says that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._inputs import Feed
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._runtime import open_session, run


@dataclass(frozen=True)
class Case:
    """What the graph gives for one choice of adapter.

    Parameters
    ----------
    what : str
        The choice, in errors.
    fed : dict of str to ndarray
        What the graph is fed beside the rows.
    kind : GraphKind
        Of the estimator that it has to reproduce then.
    expected : dict of str to ndarray of shape (n_samples, ...)
        What that estimator says.
    """

    what: str
    fed: Feed
    kind: GraphKind
    expected: Rows


def check_parity(
    serialized: bytes,
    feed: Feed,
    expected: Rows,
    kind: GraphKind,
    cases: Sequence[Case] = (),
) -> None:
    """Run the graph through onnxruntime and compare it with the estimator, row by row.

    Parameters
    ----------
    serialized : bytes
        The graph as it will be written.
    feed : dict of str to ndarray of shape (n_samples, ...)
        Rows of each input.
    expected : dict of str to ndarray of shape (n_samples, ...)
        What the estimator says about the same rows, by output.
    kind : GraphKind
        Says what differs too much.
    cases : sequence of Case, default=()
        What else the graph can be fed beside the rows, and what to expect then.

    Raises
    ------
    ExportError
        If the graph does not load, does not run, or differs.
    """
    session = _session(serialized, kind.name)
    _check_batches(session, feed, {}, expected, kind)
    for case in cases:
        try:
            _check_batches(session, feed, case.fed, case.expected, case.kind)
        except ExportError as exc:
            raise ExportError(f"With {case.what} fed: {exc}") from exc


def _check_batches(session, feed: Feed, fed: Feed, expected: Rows, kind: GraphKind) -> None:
    n_rows = len(next(iter(feed.values())))
    everything = np.arange(n_rows)
    # Other sizes than the traced one, 1 among them: code that fixes the batch shows there.
    for indices in (everything, everything[:1], np.arange(3) % n_rows):
        rows = {name: values[indices] for name, values in feed.items()}
        got = _answers(session, list(expected), {**rows, **fed}, kind.name)
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


def _answers(session, outputs: list[str], feed: Feed, name: str) -> Rows:
    try:
        return run(session, outputs, feed)
    except Exception as exc:
        n_rows = len(next(iter(feed.values())))
        raise ExportError(
            f"onnxruntime cannot run the graph of {name} on a batch of {n_rows} rows: {exc} "
            "Likely cause: forward fixes the number of rows. Next step: write -1 or X.shape[0] "
            "for the rows in every reshape, view or expand. No file was written."
        ) from exc
