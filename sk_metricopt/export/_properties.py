"""What a file tells about itself, read only where it fits the graph."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt.export._inputs import ADAPTER, INPUT
from sk_metricopt.export._metadata import PREFIX

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Kinds of dtypes that classes may have, by the type of the labels in the graph.
_KINDS = {"tensor(string)": "UO", "tensor(int64)": "biufO"}
_KINDS_BY_INDEX = {"tensor(int64)": "biufOUMm"}
_DTYPE = re.compile(r"[<>=|]?[A-Za-z?][\w\[\],]{0,40}")  # numpy parses what starts otherwise
_LONGEST = 2**26  # characters of JSON, which takes ten times as much when it is read
_MOST_TEXT = 2**26  # characters of classes, all as wide as the widest


def properties_of(session: InferenceSession) -> dict[str, str]:
    """Return the properties of a file, without the prefix of their names.

    Raises
    ------
    ValueError
        If they, or the names in the graph, are no text.
    """
    try:
        found = session.get_modelmeta().custom_metadata_map
        for value in (*session.get_inputs(), *session.get_outputs()):
            str(value)  # decodes names of the graph, which nothing else has to fear after that
        for value in session.get_overridable_initializers():
            str(value)
    except UnicodeDecodeError as exc:
        raise unfit(f"names that are no text ({exc})") from exc
    return {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}


def feature_names_of(session: InferenceSession, properties: Mapping[str, str]) -> list[str] | None:
    """Return the names of columns that a file tells, if any.

    Raises
    ------
    ValueError
        If they are not one name for each column.
    """
    if "feature_names" not in properties:
        return None
    names = from_json(properties, "feature_names")
    inputs = [value for value in session.get_inputs() if value.name != ADAPTER]
    is_array = [value.name for value in inputs] == [INPUT]
    expected = inputs[0].shape[1:] if is_array else [len(inputs)]
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or [len(set(names))] != expected or len(set(names)) < len(names):
        raise unfit(f"feature_names {_short(names)} for columns of shape {expected}")
    return names


def classes_of(session: InferenceSession, properties: Mapping[str, str]) -> np.ndarray | None:
    """Return the classes that a file tells, if any.

    Raises
    ------
    ValueError
        If they are not one for each column of probabilities, or no values of their dtype, or of
        another kind than the labels of the graph.
    """
    by_index = properties.get("labels") == "index"
    if "classes" not in properties:
        if by_index:
            raise unfit("labels by index without classes")
        return None
    values = from_json(properties, "classes")
    outputs = {output.name: output for output in session.get_outputs()}
    width = outputs["probabilities"].shape[-1:] if "probabilities" in outputs else []
    n_classes = [length for length in width if isinstance(length, int)]
    plain = isinstance(values, list) and all(isinstance(v, int | float | str) for v in values)
    if not plain or not values or (n_classes and n_classes != [len(values)]):
        raise unfit(f"classes {_short(values)} for probabilities of shape [rows, *{width}]")
    classes = _typed(values, properties.get("classes_dtype", ""))
    kinds = _KINDS_BY_INDEX if by_index else _KINDS
    if "label" in outputs and classes.dtype.kind not in kinds.get(outputs["label"].type, ""):
        raise unfit(f"classes of {classes.dtype} for labels of {outputs['label'].type}")
    return classes


def from_json(properties: Mapping[str, str], key: str) -> Any:
    """Return what a property says.

    Raises
    ------
    ValueError
        If it is no JSON, or too long.
    """
    text = properties[key]
    if len(text) > _LONGEST:
        raise unfit(f"{key} of {len(text)} characters")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise unfit(f"{key} {_short(text)}, which is no JSON ({exc})") from exc


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def unfit(got: str) -> ValueError:
    """Return the error of properties that do not fit."""
    return ValueError(
        "The 'model' parameter of OnnxPredictor must be a file with properties that fit its "
        f"graph. Got {got} instead. Export again."
    )


def _typed(values: list, dtype: str) -> np.ndarray:
    """Return `values` as an array of `dtype`, which a file may name at will."""
    if not _DTYPE.fullmatch(dtype):
        raise unfit(f"classes {_short(values)} of dtype {_short(dtype)}")
    widest = max(len(value) if isinstance(value, str) else 0 for value in values)
    if widest * len(values) > _MOST_TEXT:
        raise unfit(f"{len(values)} classes, one of {widest} characters")
    try:
        kind = np.dtype(dtype).kind
        if kind == "U":
            return np.array(values, dtype=str)  # as wide as they are, however wide it says
        if kind in "biufOMm":
            return np.array(values, dtype=object).astype(dtype)
    except (TypeError, ValueError, OverflowError, SyntaxError) as exc:
        raise unfit(f"classes {_short(values)} of dtype {_short(dtype)}") from exc
    raise unfit(f"classes of dtype {_short(dtype)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
