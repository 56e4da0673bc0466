"""Graphs that skl2onnx writes: scikit-learn's own classifiers, and pipelines of columns."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._graph_edit import rename_value
from sk_metricopt.export._source import BATCH, INDEX, INPUT, PROBABILITIES, Source
from sk_metricopt.export._torch_graph import export_lock

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

_ML = "ai.onnx.ml"
_ML_OPSET = 3  # the first whose LabelEncoder and trees are those of today, old runtimes have it
_OWN_LABEL = "estimator_own_label"
_HIST = "SklearnHistGradientBoostingClassifier"  # skl2onnx's name


class SklearnSource(Source):
    """A classifier that skl2onnx converts.

    Parameters
    ----------
    estimator : estimator
        Fitted on numeric columns.
    """

    libraries = ("skl2onnx",)
    packages = ("skl2onnx",)

    def __init__(self, estimator):
        self._estimator = estimator

    def trace(self, rows: np.ndarray, opset: int) -> ModelProto:
        with export_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = _converted(self._estimator, rows.shape[1], opset)
            except Exception as exc:
                raise _translation_error(self._estimator, exc) from exc
        _tidy(model, opset)
        _name_outputs(model.graph, np.asarray(self._estimator.classes_))
        return model

    def why_probabilities_differ(self) -> tuple[str, str]:
        cause = (
            "the graph computes in float32 where predict_proba computes in float64 (columns with "
            "a large mean, thresholds of trees between close values), or skl2onnx translates a "
            "step otherwise than scikit-learn runs it"
        )
        step = (
            "fit on float32 rows of scaled columns and pass X as float32; if rows still differ, "
            "replace the step that skl2onnx gets wrong"
        )
        return cause, step

    def why_labels_differ(self) -> tuple[str, str]:
        cause = (
            "skl2onnx leaves out how predict decides (a tuned threshold), or these rows are tied "
            "within rounding: the graph computes in float32"
        )
        step = "export a classifier that decides for the largest probability, or pass other rows"
        return cause, step


def _converted(estimator, n_features: int, opset: int) -> ModelProto:
    from skl2onnx import convert_sklearn
    from skl2onnx.common._registration import get_shape_calculator
    from skl2onnx.common.data_types import FloatTensorType

    return convert_sklearn(
        estimator,
        name=type(estimator).__name__,
        initial_types=[(INPUT, FloatTensorType([None, n_features]))],
        target_opset={"": opset, _ML: _ML_OPSET},
        options={"zipmap": False},
        black_op={"Scaler"},  # subtracts and divides instead: exact, and there on CUDA
        naming="estimator_",  # no name of ours
        custom_conversion_functions={HistGradientBoostingClassifier: _hist_gradient_boosting},
        custom_shape_calculators={HistGradientBoostingClassifier: get_shape_calculator(_HIST)},
    )


def _hist_gradient_boosting(scope, operator, container) -> None:
    """Run skl2onnx's own converter, which fails since protobuf takes no booleans for integers."""
    from skl2onnx.common._registration import get_converter

    get_converter(_HIST)(scope, operator, _WithIntegers(container))


class _WithIntegers:
    """A container of skl2onnx that writes booleans in lists as integers."""

    def __init__(self, container):
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args, **attributes) -> None:
        for name, value in attributes.items():
            if isinstance(value, list) and any(isinstance(entry, bool) for entry in value):
                attributes[name] = [int(entry) for entry in value]
        self._container.add_node(*args, **attributes)


def _tidy(model: ModelProto, opset: int) -> None:
    """Make the model like one that torch wrote: a version per domain, rows of any number."""
    from onnx import helper

    imports = [helper.make_opsetid("", opset), helper.make_opsetid(_ML, _ML_OPSET)]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(imports)
    model.ir_version = helper.find_min_ir_version_for(imports)
    for name in ("domain", "doc_string", "model_version"):
        model.ClearField(name)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = BATCH


def _name_outputs(graph: GraphProto, classes: np.ndarray) -> None:
    """Let the graph give the index of its label, and probabilities."""
    from onnx import TensorProto, helper

    label, probabilities = graph.output
    rename_value(graph, label.name, _OWN_LABEL)
    rename_value(graph, probabilities.name, PROBABILITIES)
    # The label is the classifier's own: not all decide for the largest probability.
    if label.type.tensor_type.elem_type == TensorProto.STRING:
        keys: dict[str, list] = {"keys_strings": [str(value) for value in classes.tolist()]}
    else:
        keys = {"keys_int64s": [int(value) for value in classes.tolist()]}
    encoder = {"name": INDEX, "domain": _ML, "values_int64s": list(range(len(classes))), **keys}
    graph.node.append(helper.make_node("LabelEncoder", [_OWN_LABEL], [INDEX], **encoder))
    shape = [BATCH, len(classes)]
    outputs = [
        helper.make_tensor_value_info(INDEX, TensorProto.INT64, shape[:1]),
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape),
    ]
    del graph.output[:]
    graph.output.extend(outputs)


def _translation_error(estimator, exc: Exception) -> ExportError:
    reason = " ".join(str(exc).split()) or type(exc).__name__
    return ExportError(
        f"skl2onnx could not translate {type(estimator).__name__} into ONNX. Likely cause: it has "
        "no converter for a step or for its settings, or a step picks columns by name, where the "
        "graph has numbered ones. Next step: replace that step, or put it before the classifier "
        "and pass X as it leaves it. No file was written. "
        f"skl2onnx says: {type(exc).__name__}: {reason:.300}"
    )
