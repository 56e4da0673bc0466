"""Export of a fitted classifier or retriever as one ONNX file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt.export._choice import graph_kind
from sk_metricopt.export._metadata import caller_properties, model_properties, set_properties
from sk_metricopt.export._parity import check_parity
from sk_metricopt.export._source import Source
from sk_metricopt.export._torch_graph import export_lock

if TYPE_CHECKING:
    from onnx import ModelProto

_OPSETS = (18, 22)  # torch writes 18 natively and converts badly below; skl2onnx ends at 22


def to_onnx(
    estimator,
    X,
    path: str | os.PathLike[str] | None = None,
    *,
    opset: int = 18,
    labels: str = "class",
    metadata: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Export a fitted classifier or retriever to ONNX and check that the graph says what it says.

    The graph has one input, 'X', with any number of rows. That of a classifier has two outputs:
    'label' (n_samples,) and 'probabilities' (n_samples, n_classes). That of a retriever has one:
    'embeddings' (n_samples, n_components), of length 1 where its metric is cosine. Before anything
    is written, onnxruntime runs it on `X`: labels must equal ``estimator.predict(X)``,
    probabilities must be within 1e-5 of ``estimator.predict_proba(X)``, and embeddings within 1e-5
    of ``estimator.transform(X)``, relative to the longest of them.

    Parameters
    ----------
    estimator : MetricOptFinetuner, PostShiftClassifier, EmbeddingRetriever or skorch classifier
        Fitted: a :class:`~sk_metricopt.MetricOptFinetuner` around a classifier or a retriever, a
        :class:`~sk_metricopt.PostShiftClassifier` around one of these, a net, or any classifier or
        Pipeline of numeric columns that skl2onnx converts, an
        :class:`~sk_metricopt.EmbeddingRetriever` around a net or module, a
        :class:`~skorch.classifier.NeuralNetClassifier` or a
        :class:`~skorch.classifier.NeuralNetBinaryClassifier`. It is left unchanged.
    X : array-like of shape (n_samples, ...)
        Rows that `estimator` can predict or transform. They give the graph the shape of its input
        and are the rows of the check; a validation set is a good choice.
    path : str or path-like, default=None
        File to write. It appears only once the check has passed. With None nothing is written.
    opset : int, default=18
        ONNX opset, from 18 to 22.
    labels : {'class', 'index'}, default='class'
        What the output 'label' holds: values of ``classes_`` (int64, or strings), or their int64
        index, which also runs where there are no string tensors, as on CUDA. Retrievers have no
        labels.
    metadata : mapping of str to object, default=None
        Further properties of the file. Strings are kept as they are, other values become JSON.

    Returns
    -------
    onnx.ModelProto
        The graph, with the properties 'sk_metricopt.versions', 'sk_metricopt.scorer',
        'sk_metricopt.classes' of a classifier, 'sk_metricopt.weights' of a post-shift,
        'sk_metricopt.metric' of a retriever, and others.

    Raises
    ------
    ExportError
        If the estimator cannot be translated, or the graph does not reproduce it. A post-shift by
        groups of rows (`basis`) or by chance (`randomized`) is none that a graph can hold.
    ImportError
        If onnx, onnxruntime, or what writes the graph (onnxscript for a net, skl2onnx for other
        classifiers) is missing.

    See Also
    --------
    sk_metricopt.MetricOptFinetuner.export_onnx : The same as a method.
    OnnxPredictor : Runs the file as a scikit-learn estimator.

    Notes
    -----
    Weights are part of the file and nothing else is: no second file, no local path. The input is
    float32, or int64 for modules with an embedding table. A skorch net on its own predicts the
    index of a class, whatever its ``classes_``, and so does its graph. A post-shift adds its
    weights after the classifier's probabilities, and nothing where its guard kept the classifier
    as it was. The gallery of a retriever is not part of the file; see :class:`OnnxPredictor` for
    search without torch.

    Examples
    --------
    >>> from skorch import NeuralNetClassifier
    >>> from sklearn.datasets import load_iris
    >>> from torch import nn
    >>> from sk_metricopt.export import to_onnx
    >>> X, y = load_iris(return_X_y=True)
    >>> X = X.astype("float32")
    >>> net = NeuralNetClassifier(
    ...     nn.Linear, module__in_features=4, module__out_features=3,
    ...     criterion=nn.CrossEntropyLoss, train_split=None, verbose=0,
    ... ).fit(X, y)
    >>> model = to_onnx(net, X)
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    _check_options(opset, labels)
    target = _check_path(path)
    extra_properties = caller_properties(metadata)
    kind = graph_kind(estimator, labels)
    source = kind.source
    for name in ("onnx", *source.libraries, "onnxruntime"):
        import_optional_dependency(name, "onnx,cpu")
    from onnx.checker import check_model

    rows = _graph_rows(X, source)
    with export_lock, source.left_as_found():
        expected = kind.expected(rows if source.takes_rows else X)
        model = source.trace(rows, opset)
    kind.complete(model, expected)
    check_model(model, full_check=True)
    properties = model_properties(
        estimator, kind.properties(expected), rows.shape[1:], source.packages
    )
    set_properties(model, properties | extra_properties)
    serialized = model.SerializeToString()
    check_parity(serialized, rows, expected, kind)
    if target is not None:
        _write(serialized, target)
    return model


def _check_options(opset: int, labels: str) -> None:
    low, high = _OPSETS
    if not isinstance(opset, Integral) or isinstance(opset, bool) or not low <= opset <= high:
        raise ValueError(
            f"The 'opset' parameter of to_onnx must be an int in the range [{low}, {high}]. "
            f"Got {opset!r} instead. Leave it at {low} unless your runtime asks for more."
        )
    if labels not in ("class", "index"):
        raise ValueError(
            f"The 'labels' parameter of to_onnx must be 'class' or 'index'. Got {labels!r} instead."
        )


def _check_path(path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(
            "The 'path' parameter of to_onnx must be a file in an existing folder. "
            f"Got {os.fspath(path)!r} instead. Create the folder, or name a file in it."
        )
    return target


def _graph_rows(X, source: Source) -> np.ndarray:
    """Return `X` as the graph will get it."""
    if X is None:
        raise ValueError(_wanted_rows("None"))
    values = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)
    if values.ndim == 0 or values.dtype.kind not in "biuf":
        got = f"{type(X).__name__} of shape {values.shape} and dtype {values.dtype}"
        raise TypeError(_wanted_rows(got))
    if len(values) == 0:
        raise ValueError(_wanted_rows(f"an empty array of shape {values.shape}"))
    return np.ascontiguousarray(values, dtype=source.dtype(values))


def _wanted_rows(got: str) -> str:
    return (
        "The 'X' parameter of to_onnx must be a numeric array with at least one row. "
        f"Got {got} instead. Pass rows that the estimator takes, such as a validation set: they "
        "give the graph its input shape and are used to check it."
    )


def _write(serialized: bytes, target: Path) -> None:
    """Write the file in one step, so that nobody sees half of it."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(serialized)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
