"""Graphs that skl2onnx writes: scikit-learn's own estimators, and what is nested in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier

from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._classifier import label_values
from sk_metricopt.export._graph_edit import rename_value
from sk_metricopt.export._inputs import BATCH, INPUT, Feed
from sk_metricopt.export._nested import convert, set_types
from sk_metricopt.export._sklearn_converters import overrides
from sk_metricopt.export._sklearn_nodes import ML
from sk_metricopt.export._source import EMBEDDINGS, INDEX, PROBABILITIES, Source
from sk_metricopt.export._torch_graph import export_lock

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

_PREFIX = "estimator_"  # no name of ours
_ML_OPSET = 3  # the first whose LabelEncoder and trees are those of today, old runtimes have it
_OWN_LABEL, _OWN_EMBEDDINGS = "estimator_own_label", "estimator_own_embeddings"

Parts = Sequence[tuple[Any, Source]]  # estimators, and what writes their graph


class SklearnSource(Source):
    """A classifier or transformer that skl2onnx converts, with what is nested in it.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    parts : sequence of (estimator, Source)
        Those in it that others write.
    last : Source or None
        Of the estimator that decides in the end, where others write it.
    by_column : bool
        Whether it takes columns by their names.
    """

    takes_tables = True

    def __init__(self, estimator, parts: Parts, last: Source | None, by_column: bool):
        self._estimator = estimator
        self._parts = parts
        self._last = last
        self.by_column = by_column
        self.nested_types = tuple(type(part) for part, _ in parts)
        self.outputs = (INDEX, PROBABILITIES) if is_classifier(estimator) else (EMBEDDINGS,)
        of_parts = [source for _, source in parts]
        self.libraries = _union(["skl2onnx"], *(source.libraries for source in of_parts))
        self.packages = _union(["skl2onnx"], *(source.packages for source in of_parts))

    def trace(self, feed: Feed, opset: int) -> ModelProto:
        with export_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = _converted(self._estimator, self._parts, feed, opset)
            except ExportError:  # of a part, which says more
                raise
            except Exception as exc:
                raise _translation_error(self._estimator, exc) from exc
        _tidy(model, opset)
        if EMBEDDINGS in self.outputs:
            _name_embeddings(model.graph)
        else:
            _name_outputs(model.graph, label_values(self._estimator))
        return model

    def properties(self) -> Mapping[str, Any]:
        return {} if self._last is None else self._last.properties()

    def boundary(self, probabilities: np.ndarray) -> np.ndarray:
        rule = super() if self._last is None else self._last
        return rule.boundary(probabilities)

    def adapt(self, estimator, adapted, set_default) -> None:
        for part, source in self._parts:
            if part is estimator:
                source.adapt(estimator, adapted, set_default)

    @contextmanager
    def left_as_found(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().left_as_found())
            for _, source in self._parts:
                stack.enter_context(source.left_as_found())
            yield

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
            "these rows are tied within rounding, as the graph computes in float32 (a value on "
            "the split of a tree), or None stands among strings, which scikit-learn tells from NaN"
        )
        step = "export a classifier that decides for the largest probability, or pass other rows"
        return cause, step


def _union(*names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _converted(estimator, parts: Parts, feed: Feed, opset: int) -> ModelProto:
    from skl2onnx import convert_sklearn

    converters, shapes, parsers = overrides()
    sources = {id(part): source for part, source in parts}
    for part, _ in parts:
        converters[type(part)] = partial(_convert_part, sources)
        shapes[type(part)] = partial(_set_types_of_part, sources)
    return convert_sklearn(
        estimator,
        name=type(estimator).__name__,
        initial_types=_input_types(feed),
        target_opset={"": opset, ML: _ML_OPSET},
        options={"zipmap": False} if is_classifier(estimator) else None,
        black_op={"Scaler"},  # subtracts and divides instead: exact, and there on CUDA
        naming=_PREFIX,
        custom_conversion_functions=converters,
        custom_shape_calculators=shapes,
        custom_parsers=parsers,
    )


def _convert_part(sources: Mapping[int, Source], scope, operator, container) -> None:
    convert(scope, operator, container, sources[id(operator.raw_operator)])


def _set_types_of_part(sources: Mapping[int, Source], operator) -> None:
    set_types(operator, sources[id(operator.raw_operator)])


def _input_types(feed: Feed) -> list[tuple[str, Any]]:
    """Return types by names that mean nothing: columns may be called as values in the graph are."""
    types = [_tensor_type(values) for values in feed.values()]
    return (
        [(INPUT, types[0])]
        if list(feed) == [INPUT]
        else [(f"{_PREFIX}column_{i}", kind) for i, kind in enumerate(types)]
    )


def _tensor_type(values: np.ndarray):
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    types = {"f": FloatTensorType, "i": Int64TensorType, "O": StringTensorType}
    return types[values.dtype.kind]([None, *values.shape[1:]])


def _tidy(model: ModelProto, opset: int) -> None:
    """Make the model like one that torch wrote: a version per domain, rows of any number."""
    from onnx import helper

    imports = [helper.make_opsetid("", opset), helper.make_opsetid(ML, _ML_OPSET)]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(imports)
    model.ir_version = helper.find_min_ir_version_for(imports)
    for name in ("domain", "doc_string", "model_version"):
        model.ClearField(name)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = BATCH


def _name_embeddings(graph: GraphProto) -> None:
    """Let the graph give float32 embeddings."""
    from onnx import TensorProto, helper

    (output,) = graph.output
    rename_value(graph, output.name, _OWN_EMBEDDINGS)
    width = output.type.tensor_type.shape.dim[1].dim_value or "n_components"
    cast = {"to": TensorProto.FLOAT, "name": EMBEDDINGS}
    graph.node.append(helper.make_node("Cast", [_OWN_EMBEDDINGS], [EMBEDDINGS], **cast))
    del graph.output[:]
    shape = [BATCH, width]
    graph.output.append(helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, shape))


def _name_outputs(graph: GraphProto, classes: np.ndarray) -> None:
    """Let the graph give the index of its label, and probabilities."""
    from onnx import TensorProto, helper

    *_, label, probabilities = graph.output  # some steps leave their own output there
    rename_value(graph, label.name, _OWN_LABEL)
    rename_value(graph, probabilities.name, PROBABILITIES)
    # The label is the classifier's own: not all decide for the largest probability.
    if label.type.tensor_type.elem_type == TensorProto.STRING:
        keys: dict[str, list] = {"keys_strings": [str(value) for value in classes.tolist()]}
    else:
        keys = {"keys_int64s": [int(value) for value in classes.tolist()]}
    encoder = {"name": INDEX, "domain": ML, "values_int64s": list(range(len(classes))), **keys}
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
    if isinstance(exc, NotImplementedError):  # says what and why
        return ExportError(
            f"skl2onnx could not translate {type(estimator).__name__} into ONNX. Likely cause: "
            f"{reason:.400}. Next step: change that, or put the step before the classifier and "
            "pass X as it leaves it. No file was written."
        )
    return ExportError(
        f"skl2onnx could not translate {type(estimator).__name__} into ONNX. Likely cause: it has "
        "no converter for a step or for its settings, or a step picks columns by name, where the "
        "graph has numbered ones. Next step: replace that step, or put it before the classifier "
        "and pass X as it leaves it. No file was written. "
        f"skl2onnx says: {type(exc).__name__}: {reason:.400}"
    )
