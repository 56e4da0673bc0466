"""Encoders of categories, as lookups: a category becomes its index, the index a row of a table."""

from __future__ import annotations

import numpy as np

from sk_metricopt.export._inputs import MISSING
from sk_metricopt.export._sklearn_nodes import ML, Nodes, columns_of, is_text, no_strings

_WHOLE = 2**24  # float32 tells whole numbers apart up to here


def one_hot_encoder(scope, operator, container) -> None:
    """Write the converter of OneHotEncoder, infrequent and dropped categories included."""
    encoder, nodes = operator.raw_operator, Nodes(scope, container)
    blocks = []
    for i, (column, variable) in enumerate(columns_of(nodes, operator)):
        width = _n_codes(encoder, i)
        codes = np.append(_grouped(encoder, i), _code_of_unknown(encoder, i)).astype(np.int64)
        code = _lookup(nodes, column, variable, encoder.categories_[i], codes, encoder)
        hot = nodes("Equal", code, nodes.constant(_kept(encoder, i, width)[None]))
        blocks.append(nodes.cast(hot, _type_of(encoder)))
    nodes.give("Concat", blocks, operator.outputs[0].full_name, axis=1)


def _n_codes(encoder, i: int) -> int:
    return int(_grouped(encoder, i).max()) + 1


def _kept(encoder, i: int, width: int) -> np.ndarray:
    dropped = encoder._drop_idx_after_grouping
    codes = np.arange(width)
    return codes if dropped is None or dropped[i] is None else np.delete(codes, dropped[i])


def _grouped(encoder, i: int) -> np.ndarray:
    """Code of each category: infrequent ones share the last."""
    mapping = encoder._default_to_infrequent_mappings[i] if encoder._infrequent_enabled else None
    return np.arange(len(encoder.categories_[i])) if mapping is None else np.asarray(mapping)


def _code_of_unknown(encoder, i: int) -> list[int]:
    """Code of an unknown category; none where the encoder raises: the graph does so too."""
    if encoder.handle_unknown == "error":
        return []
    groups = encoder._infrequent_enabled and encoder._infrequent_indices[i] is not None
    if encoder.handle_unknown in ("infrequent_if_exist", "warn") and groups:
        return [_n_codes(encoder, i) - 1]
    return [-1]


def ordinal_encoder(scope, operator, container) -> None:
    """Write the converter of OrdinalEncoder, missing and infrequent categories included."""
    encoder, nodes = operator.raw_operator, Nodes(scope, container)
    columns = []
    for i, (column, variable) in enumerate(columns_of(nodes, operator)):
        categories = encoder.categories_[i]
        known = ~_is_missing(categories)
        codes = np.full(len(categories), encoder.encoded_missing_value, float)
        codes[known] = _grouped(encoder, i)[: known.sum()]  # a missing one comes last
        unknown = [] if encoder.handle_unknown == "error" else [float(encoder.unknown_value)]
        table = np.append(codes, unknown)
        columns.append(_lookup(nodes, column, variable, categories, table, encoder))
    joined = nodes("Concat", *columns, axis=1)
    nodes.give("Identity", [nodes.cast(joined, _type_of(encoder))], operator.outputs[0].full_name)


def target_encoder(scope, operator, container) -> None:
    """Write the converter of TargetEncoder: a column of the table per class."""
    encoder, nodes = operator.raw_operator, Nodes(scope, container)
    n_tables = len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    means = np.atleast_1d(encoder.target_mean_)
    blocks = []
    for i, (column, variable) in enumerate(columns_of(nodes, operator)):
        encodings = np.array(encoder.encodings_[i * n_tables : (i + 1) * n_tables])
        table = np.column_stack([encodings, means]).T
        categories = encoder.categories_[i]
        blocks.append(_lookup(nodes, column, variable, categories, table, encoder))
    nodes.give("Concat", blocks, operator.outputs[0].full_name, axis=1)


def k_bins_discretizer(scope, operator, container) -> None:
    """Write the converter of KBinsDiscretizer: how many inner edges a number has reached."""
    binner, nodes = operator.raw_operator, Nodes(scope, container)
    blocks = []
    for i, (column, _) in enumerate(columns_of(nodes, operator)):
        edges = nodes.constant(binner.bin_edges_[i][None, 1:-1].astype(float))
        reached = nodes("GreaterOrEqual", nodes.cast(column, "FLOAT"), edges)
        summed = (nodes.cast(reached, "FLOAT"), nodes.constant([1]))
        code = nodes("ReduceSum", *summed, keepdims=1)
        if binner.encode != "ordinal":
            bins = nodes.constant(np.arange(binner.n_bins_[i], dtype=float)[None])
            code = nodes.cast(nodes("Equal", code, bins), "FLOAT")
        blocks.append(code)
    nodes.give("Concat", blocks, operator.outputs[0].full_name, axis=1)


def binned_width(binner) -> int:
    """Columns that a KBinsDiscretizer gives."""
    return len(binner.n_bins_) if binner.encode == "ordinal" else int(sum(binner.n_bins_))


def target_width(encoder) -> int:
    """Columns that a TargetEncoder gives."""
    return len(encoder.encodings_)


def one_hot_width(encoder) -> int:
    """Columns that a OneHotEncoder gives."""
    return len(encoder.get_feature_names_out())


def encoded_type(operator) -> str:
    """Type of skl2onnx that an encoder gives."""
    return {"INT64": "Int64TensorType"}.get(_type_of(operator.raw_operator), "FloatTensorType")


def _type_of(encoder) -> str:
    return "INT64" if np.issubdtype(encoder.dtype, np.integer) else "FLOAT"


def _lookup(nodes: Nodes, column: str, variable, categories, table, encoder) -> str:
    """Row of the table of each entry of a column; the last row, if any, is of unknown ones."""
    keys, missing = _keys(categories, variable, encoder)
    kind = "keys_strings" if is_text(variable) else "keys_floats"
    if kind == "keys_floats":
        column = nodes.cast(column, "FLOAT")
    attributes = {kind: keys, "values_int64s": list(range(len(keys)))}
    # A default beyond the table makes the graph fail where the encoder raises.
    index = nodes("LabelEncoder", column, domain=ML, default_int64=len(categories), **attributes)
    if missing is not None:  # a key that is NaN equals nothing
        index = nodes("Where", nodes("IsNaN", column), nodes.constant([missing]), index)
    index = nodes("Reshape", index, nodes.constant([-1]))
    rows = nodes.constant(table if np.ndim(table) == 2 else np.reshape(table, (-1, 1)))
    return nodes("Gather", rows, index, axis=0)


def _keys(categories: np.ndarray, variable, encoder) -> tuple[list, int | None]:
    """Categories as the graph meets them, and the index of NaN where it has to be asked for."""
    missing = _is_missing(categories)
    known = categories[~missing]
    owner = type(encoder).__name__
    if is_text(variable):
        if MISSING in known:
            raise NotImplementedError(
                f"{owner} has a category {MISSING!r}, which is how a graph is fed a missing "
                "string: give the category another name, or leave such strings missing in fit"
            )
        if not all(isinstance(category, str) for category in known):
            raise NotImplementedError(
                f"{owner} met numbers where the graph has strings, in categories {known[:3]!r}..."
            )
        keys = [MISSING if absent else c for c, absent in zip(categories, missing, strict=True)]
        distinct = len(set(keys)) == len(keys)
    else:
        if any(isinstance(category, str) for category in known):
            raise no_strings(encoder)
        numbers = known.astype(float)
        if np.any(np.abs(numbers) >= _WHOLE):
            raise NotImplementedError(
                f"{owner} has numbers of 2**24 and beyond as categories, which the graph cannot "
                "tell apart from their neighbours: it reads numbers as float32. Fit on strings"
            )
        keys = numbers.astype(np.float32).tolist()
        distinct = len(set(keys)) + missing.sum() == len(categories)
    if not distinct:
        raise NotImplementedError(
            f"{owner} has categories that the graph cannot tell apart: it reads numbers as "
            "float32, and None and NaN as one missing string"
        )
    return keys, None if is_text(variable) or not missing.any() else len(categories) - 1


def _is_missing(categories: np.ndarray) -> np.ndarray:
    return np.array([c is None or c != c for c in categories], bool)
