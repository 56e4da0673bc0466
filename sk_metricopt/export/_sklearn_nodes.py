"""What our converters of scikit-learn's steps share: nodes of skl2onnx, columns and labels."""

from __future__ import annotations

from typing import Any

import numpy as np

ML = "ai.onnx.ml"  # the domain of operators for categories and trees


class Nodes:
    """Adds nodes to a container of skl2onnx, under names that nobody else has.

    Parameters
    ----------
    scope : skl2onnx Scope
        Hands out the names.
    container : skl2onnx ModelComponentContainer
        Takes the nodes.
    """

    def __init__(self, scope, container):
        self.scope = scope
        self.container = container

    def __call__(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output, whose name is returned."""
        output = self.scope.get_unique_variable_name(op_type.lower())
        self.give(op_type, inputs, output, domain=domain, **attributes)
        return output

    def give(self, op_type: str, inputs, output: str, domain: str = "", **attributes: Any) -> None:
        """Add a node that writes a named value."""
        name = self.scope.get_unique_operator_name(op_type)
        if domain:
            attributes |= {"op_domain": domain, "op_version": 2}
        self.container.add_node(op_type, list(inputs), [output], name=name, **attributes)

    def constant(self, values) -> str:
        """Add an initializer: int64, float32, or strings where the values are text."""
        from onnx import TensorProto

        values = np.asarray(values)
        name = self.scope.get_unique_variable_name("constant")
        if values.dtype.kind in "iub":
            kind, values = TensorProto.INT64, values.astype(np.int64)
        elif values.dtype.kind == "f":
            kind, values = TensorProto.FLOAT, values.astype(np.float32)
        else:
            kind = TensorProto.STRING
        flat = [str(v).encode() if kind == TensorProto.STRING else v for v in values.ravel()]
        self.container.add_initializer(name, kind, list(values.shape), flat)
        return name

    def cast(self, value: str, kind: str) -> str:
        """Cast to a type of TensorProto, by its name."""
        from onnx import TensorProto

        return self("Cast", value, to=getattr(TensorProto, kind))

    def column(self, table: str, index: int) -> str:
        """One column of a table, of shape (n_samples, 1)."""
        return self("Gather", table, self.constant([index]), axis=1)

    def label(self, index: str, classes: np.ndarray, output: str) -> None:
        """Write the classes that a vector of indices means, as skl2onnx types them."""
        if classes.dtype.kind in "fb":  # classes_ of skl2onnx are integers or strings
            classes = classes.astype(np.int64)
        self.give("Gather", (self.constant(classes), index), output, axis=0)


def is_text(variable) -> bool:
    """Whether a variable of skl2onnx holds strings."""
    from skl2onnx.common.data_types import StringTensorType

    return isinstance(variable.type, StringTensorType)


def no_strings(step) -> NotImplementedError:
    """Return the refusal of a step that knows strings, in a graph that would read numbers."""
    return NotImplementedError(
        f"{type(step).__name__} was fitted on strings, and that column of X has none: pass rows "
        "that have some"
    )


def columns_of(nodes: Nodes, operator) -> list[tuple[str, Any]]:
    """Columns of all inputs of a step, each (n_samples, 1), and the variable each is of."""
    n_features = operator.raw_operator.n_features_in_
    found = []
    for variable in operator.inputs:
        width = variable.type.shape[1] if len(operator.inputs) > 1 else n_features
        for index in range(width):
            name = variable.full_name if width == 1 else nodes.column(variable.full_name, index)
            found.append((name, variable))
    return found


def table_of(nodes: Nodes, operator) -> str:
    """All inputs of a step as one table, numbers as float32."""
    names = [
        variable.full_name if is_text(variable) else nodes.cast(variable.full_name, "FLOAT")
        for variable in operator.inputs
    ]
    return names[0] if len(names) == 1 else nodes("Concat", *names, axis=1)


def classifier_shapes(operator) -> None:
    """Say the types of a label and of probabilities."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    n_samples, classes = operator.inputs[0].get_first_dimension(), operator.raw_operator.classes_
    label = Int64TensorType if classes.dtype.kind in "iubf" else StringTensorType
    operator.outputs[0].set_type(label([n_samples]))
    operator.outputs[1].set_type(FloatTensorType([n_samples, len(classes)]))


def table_shape(width, kind=None):
    """Return a shape calculator of a step that gives one table: float32 unless told.

    Parameters
    ----------
    width : callable
        Number of columns, given the fitted step.
    kind : callable, optional
        A name of skl2onnx.common.data_types, given the operator.
    """

    def calculate(operator) -> None:
        from skl2onnx.common import data_types

        name = "FloatTensorType" if kind is None else kind(operator)
        n_samples = operator.inputs[0].get_first_dimension()
        shape = [n_samples, width(operator.raw_operator)]
        operator.outputs[0].type = getattr(data_types, name)(shape)

    return calculate
