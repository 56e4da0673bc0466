"""Export of a fitted estimator as one ONNX file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._adapter_input import adapter_of
from sk_metricopt.export._choice import graph_kind
from sk_metricopt.export._graph_edit import keep_outputs, name_inputs
from sk_metricopt.export._inputs import INPUT, Inputs, TableInput, inputs_like
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._metadata import caller_properties, model_properties, set_properties
from sk_metricopt.export._parity import check_parity
from sk_metricopt.export._parts import served_estimator
from sk_metricopt.export._register import register
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
    precision: str = "fp32",
    labels: str = "class",
    outputs: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    adapter_input: bool = False,
    adapters: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Export a fitted estimator to ONNX and check that the graph says what it says.

    A whole Pipeline becomes one graph, nets included. It has one input, 'X', with any number of
    rows, or one input per column where `X` is a DataFrame with strings, or with columns that the
    estimator picks by name. The graph of a classifier has two outputs: 'label' (n_samples,) and
    'probabilities' (n_samples, n_classes). That of a retriever or another transformer has one:
    'embeddings' (n_samples, n_components), of length 1 where a retriever's metric is cosine. Before
    anything is written, onnxruntime runs it on `X`, in batches of several sizes: labels must equal
    ``estimator.predict(X)``, probabilities must be within 1e-5 of ``estimator.predict_proba(X)``,
    and embeddings within 1e-5 of ``estimator.transform(X)``, relative to the longest of them.

    Parameters
    ----------
    estimator : estimator
        Fitted: a :class:`~sk_metricopt.MetricOptFinetuner`, a
        :class:`~sk_metricopt.PostShiftClassifier`, an :class:`~sk_metricopt.EmbeddingRetriever`, a
        skorch classifier, or a Pipeline, ColumnTransformer, FeatureUnion, search, stack or
        calibrated classifier with any of these in it, or with none, as far as skl2onnx converts
        the other steps. It is left unchanged.
    X : array-like of shape (n_samples, ...) or DataFrame
        Rows that `estimator` can predict or transform. They give the graph its inputs and are the
        rows of the check; a validation set is a good choice.
    path : str or path-like, default=None
        File to write. It appears only once the check has passed. With None nothing is written.
    opset : int, default=18
        ONNX opset, from 18 to 22.
    precision : {'fp32', 'fp16'}, default='fp32'
        In which nets compute. With 'fp16', which is for GPUs, inputs and outputs stay float32,
        probabilities may differ by 5e-3, and labels where a decision is that close.
    labels : {'class', 'index'}, default='class'
        What the output 'label' holds: values of ``classes_`` (int64, or strings), or their int64
        index, which also runs where there are no string tensors, as on CUDA. Others have no
        labels.
    outputs : sequence of str, default=None
        Outputs to keep: 'label', 'probabilities' or both. None keeps all.
    metadata : mapping of str to object, default=None
        Further properties of the file. Strings are kept as they are, other values become JSON.
    adapter_input : bool, default=False
        Whether the graph takes adapter parameters as a further input, 'adapter' (n_params,), for
        `estimator` a finetuner of a pre-trained net, or a Pipeline or search that ends in one.
        Where nothing is fed they are its ``adapter_params_``. Zeros are the net before finetuning.
    adapters : dict of str to MetricOptFinetuner, default=None
        Finetuners of one and the same ``FrozenEstimator(net)`` or module, `estimator` or its last
        step among them or not. With them the input 'adapter' is a number, the index of a name
        here, unless ``adapter_input=True``. Where nothing is fed it is the one of `estimator`, or 0
        if it is none of these.

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
    ValueError, TypeError
        If a parameter cannot work, such as `adapters` of different nets.
    ImportError
        If onnx, onnxruntime, or what writes the graph (onnxscript for a net, skl2onnx for other
        classifiers) is missing.

    See Also
    --------
    sk_metricopt.MetricOptFinetuner.export_onnx : The same as a method.
    OnnxPredictor : Runs the file as a scikit-learn estimator.

    Notes
    -----
    skl2onnx is told of the types of nets in `estimator`, as by :func:`register`.

    Weights are part of the file and nothing else is: no second file, no local path. Numbers are
    float32, or int64 for modules with an embedding table. A missing string, None or NaN, is the
    string "nan". A skorch net on its own predicts the index of a class, whatever its ``classes_``,
    and so does its graph. A post-shift adds its weights after the classifier's probabilities, and
    nothing where its guard kept the classifier as it was. The gallery of a retriever is not part of
    the file; see :class:`OnnxPredictor` for search without torch.

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
    _check_options(opset, labels, precision)
    target = _check_path(path)
    extra_properties = caller_properties(metadata)
    adapter = adapter_of(estimator, adapter_input, adapters)
    kind = graph_kind(estimator, labels, precision)
    source, kept = kind.source, _kept_outputs(outputs, kind)
    for name in ("onnx", *source.libraries, "onnxruntime"):
        import_optional_dependency(name, "onnx,cpu")
    if source.nested_types:
        register(*source.nested_types)

    inputs = _inputs(X, source)
    feed = inputs.feed(X)
    with export_lock, source.left_as_found(), adapter.left_as_found():
        kind = adapter.given_to(kind, feed)
        cases = adapter.cases(kind, X)
        expected = _expected(kind, feed[INPUT] if source.takes_fed else X)
        model = source.trace(feed, opset)
    kind.complete(model, expected)
    name_inputs(model.graph, list(feed))
    adapter.declare(model)
    _check_valid(model)
    of_kind = {**kind.properties(expected), **adapter.properties()}
    served = served_estimator(kind.estimator)
    properties = model_properties(estimator, served, precision, of_kind, inputs, source.packages)
    set_properties(model, properties | extra_properties)
    check_parity(_serialized(model), feed, expected, kind, cases)
    keep_outputs(model.graph, kept)
    serialized = _serialized(model)
    if target is not None:
        _write(serialized, target)
    return model


def _check_options(opset: int, labels: str, precision: str) -> None:
    low, high = _OPSETS
    if not isinstance(opset, Integral) or isinstance(opset, bool) or not low <= opset <= high:
        raise ValueError(
            f"The 'opset' parameter of to_onnx must be an int in the range [{low}, {high}]. "
            f"Got {opset!r} instead. Leave it at {low} unless your runtime asks for more."
        )
    if not isinstance(labels, str) or labels not in ("class", "index"):
        raise ValueError(
            f"The 'labels' parameter of to_onnx must be 'class' or 'index'. Got {labels!r} instead."
        )
    if not isinstance(precision, str) or precision not in ("fp32", "fp16"):
        raise ValueError(
            "The 'precision' parameter of to_onnx must be 'fp32' or 'fp16'. "
            f"Got {precision!r} instead."
        )


def _kept_outputs(outputs: Sequence[str] | None, kind: GraphKind) -> list[str]:
    if outputs is None:
        return list(kind.outputs)
    valid = isinstance(outputs, list | tuple | set) and len(outputs) > 0
    if not valid or not all(name in kind.outputs for name in outputs):
        raise ValueError(
            "The 'outputs' parameter of to_onnx must be None or a list of some of "
            f"{list(kind.outputs)!r}. Got {outputs!r} instead."
        )
    return [name for name in kind.outputs if name in outputs]


def _check_path(path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise TypeError(
            f"The 'path' parameter of to_onnx must be a path or None. Got {path!r} instead."
        )
    target = Path(path)
    if len(target.name) > 255 or target.is_dir() or not target.parent.is_dir():
        raise ValueError(
            "The 'path' parameter of to_onnx must be a file in an existing folder. "
            f"Got {os.fspath(path)!r} instead. Create the folder, or name a file in it."
        )
    return target


def _inputs(X, source: Source) -> Inputs:
    """Return what the graph takes, once it is what the estimator's graph can take."""
    inputs = inputs_like(X, source.by_column, source.dtype, "to_onnx")
    of_text = isinstance(inputs, TableInput) or inputs.dtype is object
    if of_text and not source.takes_tables:
        raise TypeError(
            "The 'X' parameter of to_onnx must be numbers for a net on its own. Got "
            f"{type(X).__name__} with strings instead. Encode them in the steps of a Pipeline, and "
            "export the Pipeline."
        )
    return inputs


def _expected(kind: GraphKind, X) -> Rows:
    """Return what the estimator says; torch does not say why it cannot."""
    try:
        return kind.expected(X)
    except (RuntimeError, IndexError) as exc:
        raise ValueError(
            f"The 'X' parameter of to_onnx must be rows that {kind.name} takes. It failed on them: "
            f"{exc}. Pass rows like those of fit."
        ) from exc


def _check_valid(model: ModelProto) -> None:
    from onnx.checker import check_model

    try:
        check_model(model, full_check=True)
    except Exception as exc:
        raise ExportError(
            "What was written is no valid graph. Likely cause: a step that skl2onnx converts in a "
            "way of its own. Next step: replace the step that the message names. No file was "
            f"written. onnx says: {' '.join(str(exc).split()):.300}"
        ) from exc


def _serialized(model: ModelProto) -> bytes:
    try:
        return model.SerializeToString()
    except Exception as exc:  # protobuf has several for what is too large
        raise ExportError(
            "The graph does not fit into one file: protobuf ends at 2 GB. Likely cause: the net's "
            "weights. Next step: export with precision='fp16', or a smaller net. No file was "
            f"written. protobuf says: {exc}"
        ) from exc


def _write(serialized: bytes, target: Path) -> None:
    """Write the file in one step, so that nobody sees half of it."""
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(serialized)
        os.replace(part, target)
    except OSError as exc:
        raise type(exc)(
            exc.errno,
            f"The 'path' parameter of to_onnx must be a file that can be written: {exc.strerror}",
            os.fspath(target),
        ) from exc
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
