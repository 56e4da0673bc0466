"""What skl2onnx is told about nets and estimators of ours inside of others."""

from __future__ import annotations

import numpy as np

from sk_metricopt.export._classifier import class_values, label_values, name_labels
from sk_metricopt.export._injection import inject
from sk_metricopt.export._inputs import INPUT
from sk_metricopt.export._source import EMBEDDINGS, PROBABILITIES, Source


def set_types(operator, source: Source) -> None:
    """Tell skl2onnx types and shapes of what a source gives.

    Parameters
    ----------
    operator : skl2onnx.common._topology.Operator
    source : Source
        Of its estimator.
    """
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    n_rows = operator.inputs[0].get_first_dimension()
    if EMBEDDINGS in source.outputs:
        operator.outputs[0].set_type(FloatTensorType([n_rows, None]))
        return
    classes = label_values(operator.raw_operator)
    texts = class_values(classes).dtype == object
    operator.outputs[0].set_type((StringTensorType if texts else Int64TensorType)([n_rows]))
    operator.outputs[1].set_type(FloatTensorType([n_rows, len(classes)]))


def convert(scope, operator, container, source: Source) -> None:
    """Write the graph of a source where skl2onnx is.

    Parameters
    ----------
    scope : skl2onnx.common._topology.Scope
    operator : skl2onnx.common._topology.Operator
    container : skl2onnx.common._container.ModelComponentContainer
    source : Source
        Of the operator's estimator.
    """
    estimator = operator.raw_operator
    example = np.zeros((2, *_row_shape(operator)), dtype=np.int64)
    dtype = source.dtype(example)
    model = source.trace({INPUT: example.astype(dtype)}, container.target_opset_any_domain(""))
    if PROBABILITIES in source.outputs:
        name_labels(model, label_values(estimator))
    rows = _rows(scope, operator, container, np.dtype(dtype))
    outputs = [variable.full_name for variable in operator.outputs]
    inject(model, scope, container, [rows], outputs)


def output_names(source: Source) -> list[str]:
    """Return what skl2onnx calls the outputs of a source's estimator."""
    return ["label", PROBABILITIES] if PROBABILITIES in source.outputs else [EMBEDDINGS]


def parse(scope, model, inputs, source: Source, alias: str) -> list:
    """Declare the outputs of a source's estimator, and never one dict per row.

    Parameters
    ----------
    scope : skl2onnx.common._topology.Scope
    model : estimator
    inputs : list of skl2onnx.common._topology.Variable
    source : Source
        Of `model`.
    alias : str
        What skl2onnx calls the type of `model`.
    """
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    operator = scope.declare_local_operator(alias, model)
    operator.inputs = inputs
    for name in output_names(source):
        kind = Int64TensorType() if name == "label" else FloatTensorType()
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return operator.outputs


def _row_shape(operator) -> tuple[int, ...]:
    shapes = [tuple(variable.type.shape[1:]) for variable in operator.inputs]
    if len(shapes[0]) > 1:  # images and sequences
        return shapes[0]
    known = getattr(operator.raw_operator, "n_features_in_", None)
    return (known or sum(width for (width,) in shapes),)


def _rows(scope, operator, container, dtype: np.dtype) -> str:
    """Return the name of the operator's input as one array of `dtype`."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(dtype)
    columns = []
    for variable in operator.inputs:
        columns.append(scope.get_unique_variable_name("net_rows"))
        cast = scope.get_unique_operator_name("Cast")
        container.add_node("Cast", [variable.full_name], [columns[-1]], to=kind, name=cast)
    if len(columns) == 1:
        return columns[0]
    rows, concat = scope.get_unique_variable_name("net_rows"), scope.get_unique_operator_name("Cat")
    container.add_node("Concat", columns, [rows], axis=1, name=concat)
    return rows
