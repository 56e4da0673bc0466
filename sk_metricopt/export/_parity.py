"""The check that a graph decides as the estimator it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sk_metricopt.exceptions import ExportError

TOLERANCE = 1e-5  # of a probability; float32 kernels differ by about 1e-7
_CHUNK = 1024  # rows per run, so that many images fit in memory


@dataclass(frozen=True)
class Decisions:
    """Labels (n,) and probabilities (n, n_classes) of the same rows."""

    labels: np.ndarray
    probabilities: np.ndarray

    def take(self, index: np.ndarray) -> Decisions:
        return Decisions(self.labels[index], self.probabilities[index])


def check_parity(
    serialized: bytes,
    rows: np.ndarray,
    expected: Decisions,
    *,
    classes: np.ndarray | None,
    name: str,
) -> None:
    """Run the graph through onnxruntime and compare it with the estimator, row by row.

    Parameters
    ----------
    serialized : bytes
        The graph as it will be written.
    rows : ndarray of shape (n_samples, ...)
        Input of the graph.
    expected : Decisions
        What the estimator says on the same rows.
    classes : ndarray of shape (n_classes,) or None
        What the graph's labels index, None if they are class values already.
    name : str
        Name of the estimator, for the error.

    Raises
    ------
    ExportError
        If a label differs or a probability differs by more than ``TOLERANCE``.
    """
    session = _session(serialized, name)
    everything = np.arange(len(rows))
    # Other sizes than the traced one, 1 among them: code that fixes the batch shows there.
    for index in (everything, everything[:1], np.arange(3) % len(rows)):
        got = _run(session, rows[index], classes, name)
        _compare(got, expected.take(index), name)


def _session(serialized: bytes, name: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    try:
        return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ExportError(
            f"onnxruntime cannot load the graph of {name}: {exc} Likely cause: an operation that "
            "this release of onnxruntime does not have at this opset. Next step: upgrade "
            "onnxruntime, or export with another opset. No file was written."
        ) from exc


def _run(session, rows: np.ndarray, classes: np.ndarray | None, name: str) -> Decisions:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    try:
        outputs = [session.run(["label", "probabilities"], {"X": chunk}) for chunk in chunks]
    except Exception as exc:
        raise ExportError(
            f"onnxruntime cannot run the graph of {name} on a batch of {len(rows)} rows: {exc} "
            "Likely cause: forward fixes the number of rows. Next step: write -1 or X.shape[0] "
            "for the rows in every reshape, view or expand. No file was written."
        ) from exc
    labels, probabilities = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return Decisions(labels if classes is None else classes[labels], probabilities)


def _compare(got: Decisions, expected: Decisions, name: str) -> None:
    if got.probabilities.shape != expected.probabilities.shape:
        raise ExportError(
            f"The graph of {name} returns probabilities of shape {got.probabilities.shape}, "
            f"predict_proba returns {expected.probabilities.shape}. Likely cause: the module's "
            "output has another number of columns than there are classes, or mixes rows. Next "
            "step: make forward return one row per sample. No file was written."
        )
    errors = np.abs(got.probabilities - expected.probabilities)
    wrong_probabilities = ~(errors <= TOLERANCE).all(axis=1)  # catches NaN too
    # As objects, so that labels of unlike kinds are compared rather than refused.
    wrong_labels = got.labels.astype(object) != expected.labels.astype(object)
    if wrong_probabilities.any() or wrong_labels.any():
        raise _difference(name, errors, wrong_probabilities, wrong_labels)


def _difference(name, errors, wrong_probabilities, wrong_labels) -> ExportError:
    n, findings = len(errors), []
    if wrong_labels.any():
        findings.append(f"output 'label' differs from predict on {wrong_labels.sum()} of {n} rows")
    if wrong_probabilities.any():
        findings.append(
            f"output 'probabilities' differs from predict_proba on {wrong_probabilities.sum()} of "
            f"{n} rows (by up to {errors.max():.2g}, allowed {TOLERANCE:g})"
        )
        cause = (
            "predict_proba does more than the net's module and its nonlinearity, forward depends "
            "on chance or on the other rows of the batch, or the estimator computes in reduced "
            "precision (TF32 on a GPU)"
        )
        step = "remove that dependence, or move the net to the CPU in full float32, and try again"
    else:
        cause = (
            "predict does not decide by the net's own rule (argmax of the probabilities, or the "
            "threshold of a binary net), or these rows are tied within rounding"
        )
        step = (
            "put the rule into the net (shift the last bias, or set the threshold of a binary "
            "net between two scores), and try again"
        )
    return ExportError(
        f"The graph of {name} does not reproduce it: {'; '.join(findings)}, in a batch of {n}. "
        f"Likely cause: {cause}. Next step: {step}. No file was written."
    )
