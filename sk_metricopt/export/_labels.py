"""The last step of a graph: from the index of a class to its label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sk_metricopt.export._torch_graph import INDEX

if TYPE_CHECKING:
    from onnx import ModelProto


def name_labels(model: ModelProto, classes: np.ndarray | None) -> None:
    """Turn the output 'label_index' of `model` into 'label', in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph from `torch_graph`.
    classes : ndarray of shape (n_classes,) or None
        Label of each index; None leaves the index.
    """
    from onnx import checker, helper, numpy_helper

    graph, label = model.graph, model.graph.output[0]
    label.name = "label"
    if classes is None:
        graph.node.append(helper.make_node("Identity", [INDEX], ["label"], name="label"))
    else:
        # Gather takes ints and strings alike, and needs no second operator domain.
        values = numpy_helper.from_array(_class_values(classes), "classes")
        graph.initializer.append(values)
        graph.node.append(helper.make_node("Gather", ["classes", INDEX], ["label"], name="label"))
        label.type.tensor_type.elem_type = values.data_type
    checker.check_model(model, full_check=True)


def _class_values(classes: np.ndarray) -> np.ndarray:
    """Return `classes` as int64 or as str objects, the two kinds every runtime knows."""
    values = classes.tolist()
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    if all(isinstance(value, int | float) and value == int(value) for value in values):
        return np.array([int(value) for value in values], dtype=np.int64)
    raise TypeError(
        "The 'estimator' parameter of to_onnx must have classes_ that are integers, booleans or "
        f"strings. Got dtype {classes.dtype} instead. Use labels='index', and map the index to "
        "a class yourself."
    )
