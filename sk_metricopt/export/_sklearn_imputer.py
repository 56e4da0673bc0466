"""SimpleImputer: missing strings, several columns, indicators, and columns that are dropped."""

from __future__ import annotations

import numpy as np

from sk_metricopt.export._inputs import MISSING
from sk_metricopt.export._sklearn_nodes import ML, Nodes, is_text, no_strings, table_of


def simple_imputer(scope, operator, container) -> None:
    """Write the converter of SimpleImputer, for a table of strings or of numbers."""
    imputer, nodes = operator.raw_operator, Nodes(scope, container)
    text = _holds_text(operator)
    if text and imputer.add_indicator:
        raise NotImplementedError(
            "SimpleImputer(add_indicator=True) on strings joins strings and booleans in one table"
        )
    if not text and any(isinstance(value, str) for value in imputer.statistics_):
        raise no_strings(imputer)
    table = table_of(nodes, operator)
    missing = _missing_strings(nodes, table, imputer) if text else _missing(nodes, table, imputer)
    statistics = imputer.statistics_.astype(object if text else np.float64)
    kept = np.flatnonzero([_is_kept(value) for value in imputer.statistics_])
    fill = nodes.constant([[str(v) for v in statistics]] if text else statistics[None])
    filled = nodes("Where", missing, fill, table)
    if len(kept) < len(statistics):
        filled = nodes("Gather", filled, nodes.constant(kept), axis=1)
    parts = [filled]
    if imputer.add_indicator:
        flagged = nodes("Gather", missing, nodes.constant(imputer.indicator_.features_), axis=1)
        parts.append(nodes.cast(flagged, "FLOAT"))
    nodes.give("Concat", parts, operator.outputs[0].full_name, axis=1)


def imputed_width(imputer) -> int:
    """Columns that a SimpleImputer gives."""
    return len(imputer.get_feature_names_out())


def imputed_type(operator) -> str:
    """Type of skl2onnx that a SimpleImputer gives."""
    return "StringTensorType" if _holds_text(operator) else "FloatTensorType"


def _holds_text(operator) -> bool:
    kinds = {is_text(variable) for variable in operator.inputs}
    if len(kinds) > 1:
        raise NotImplementedError("SimpleImputer on strings and numbers in one table")
    return kinds.pop()


def _missing_strings(nodes: Nodes, table: str, imputer) -> str:
    value = imputer.missing_values
    key = value if isinstance(value, str) else MISSING
    # Strings compare by their codes: Equal takes them from opset 19 on.
    attributes = {"keys_strings": [key], "values_int64s": [1], "default_int64": 0}
    return nodes.cast(nodes("LabelEncoder", table, domain=ML, **attributes), "BOOL")


def _missing(nodes: Nodes, table: str, imputer) -> str:
    value = imputer.missing_values
    if _is_kept(value):
        return nodes("Equal", table, nodes.constant(np.float32(value)))
    return nodes("IsNaN", table)


def _is_kept(value) -> bool:
    """Whether a value is there: neither None nor NaN."""
    return value is not None and bool(value == value)
