"""FunctionTransformer of functions that are known to compute as one operator does."""

from __future__ import annotations

import numpy as np

from sk_metricopt.export._sklearn_nodes import Nodes, table_of

# A graph computes in float32 whatever the type of its rows, so casts to floats change nothing.
_CASTS = (np.asarray, np.array, np.ascontiguousarray, np.float32, np.float64)
_OPERATORS = {
    np.abs: "Abs",
    np.exp: "Exp",
    np.log: "Log",
    np.negative: "Neg",
    np.reciprocal: "Reciprocal",
    np.sign: "Sign",
    np.sqrt: "Sqrt",
    np.tanh: "Tanh",
}


def function_transformer(scope, operator, container) -> None:
    """Write the converter of FunctionTransformer."""
    transformer, nodes = operator.raw_operator, Nodes(scope, container)
    function, output = transformer.func, operator.outputs[0].full_name
    if function is None:
        nodes.give("Identity", [operator.inputs[0].full_name], output)
        return
    table = table_of(nodes, operator)
    if _is_cast(function, transformer.kw_args or {}):
        nodes.give("Identity", [table], output)
    elif transformer.kw_args:
        raise _unknown(function)
    elif function is np.log1p:
        nodes.give("Log", [nodes("Add", table, nodes.constant(1.0))], output)
    elif function is np.square:
        nodes.give("Mul", [table, table], output)
    elif isinstance(function, np.ufunc) and function in _OPERATORS:
        nodes.give(_OPERATORS[function], [table], output)
    else:
        raise _unknown(function)


def function_type(operator) -> str:
    """Type of skl2onnx that a FunctionTransformer gives."""
    unchanged = operator.raw_operator.func is None
    return type(operator.inputs[0].type).__name__ if unchanged else "FloatTensorType"


def _is_cast(function, arguments: dict) -> bool:
    to_float = np.issubdtype(np.dtype(arguments.get("dtype", np.float32)), np.floating)
    return any(function is known for known in _CASTS) and set(arguments) <= {"dtype"} and to_float


def _unknown(function) -> NotImplementedError:
    name = getattr(function, "__name__", repr(function))
    return NotImplementedError(
        f"FunctionTransformer of {name}: known are numpy's log1p, log, exp, sqrt, square, abs, "
        "tanh, ... and casts to float. Write a cast as FunctionTransformer(np.float32), or leave "
        "it out: the graph computes in float32 anyway"
    )
