"""The command `inspect`: what a file takes, gives and says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sk_metricopt.export._content import content_of, fields
from sk_metricopt.export._device import open_on
from sk_metricopt.export._metadata import PREFIX

_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2  # fields of a model, and of one of its opsets
_AS_JSON = (  # properties that are no strings
    "adapters",
    "classes",
    "feature_names",
    "improved",
    "input_shape",
    "n_components",
    "n_features",
    "score_after",
    "score_before",
    "threshold",
    "versions",
    "weights",
)
_NAMES = ("adapters", "feature_names", "versions")  # lists of names
_SHOWN = 12  # entries of a list; the JSON has all of them
_WIDTH = 200  # characters of a value; the JSON has all of them

Row = tuple[str, ...]


def inspect(model: str, as_json: bool) -> str:
    """Return what there is to say about a file, as text or as a JSON object.

    Parameters
    ----------
    model : str
        Path of the file.
    as_json : bool
    """
    facts = _facts(model)
    return json.dumps(facts) + "\n" if as_json else _report(facts)


def _facts(model: str) -> dict[str, Any]:
    content = content_of(model)
    session = open_on(content, "cpu", None)
    meta = session.get_modelmeta()
    found = dict(sorted(meta.custom_metadata_map.items()))
    ours = {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}
    inputs = [_value(value, False) for value in session.get_inputs()]
    return {
        "file": str(model),
        "bytes": len(content),
        "opset": _opsets(content),
        "producer": meta.producer_name,
        "inputs": inputs + [_value(v, True) for v in session.get_overridable_initializers()],
        "outputs": [_value(value, False) for value in session.get_outputs()],
        "sk_metricopt": {key: _parsed(key, text) for key, text in ours.items()},
        "metadata": {k: v for k, v in found.items() if not k.startswith(PREFIX)},
    }


def _value(value, has_default: bool) -> dict[str, Any]:
    return {
        "name": value.name,
        "type": value.type,
        "shape": list(value.shape),
        "has_default": has_default,
    }


def _opsets(content: bytes) -> dict[str, int]:
    """Return the version of each set of operators; onnxruntime does not tell it."""
    found: dict[str, Any] = {}
    for number, value in fields(memoryview(content)):
        if number == _OPSET_IMPORT and isinstance(value, memoryview):
            opset = dict(fields(value))
            found[bytes(opset.get(_DOMAIN, b"")).decode() or "ai.onnx"] = opset.get(_VERSION, 0)
    return found


def _parsed(key: str, text: str) -> Any:
    try:
        return json.loads(text) if key in _AS_JSON else text
    except (ValueError, RecursionError):  # written by something else, or changed by hand
        return text


def _report(facts: Mapping[str, Any]) -> str:
    size = f"{facts['bytes'] / 1000:.1f} kB"
    opset = ", ".join(f"{domain} {version}" for domain, version in facts["opset"].items())
    producer = facts["producer"] or "unknown"
    parts = [
        (facts["file"], [("size", size), ("opset", opset), ("producer", producer)]),
        ("Inputs", [_value_row(value) for value in facts["inputs"]]),
        ("Outputs", [_value_row(value) for value in facts["outputs"]]),
        ("Model", list(_model_rows(facts["sk_metricopt"]))),
        ("Other metadata", list(facts["metadata"].items())),
    ]
    return "\n".join(_section(title, rows) for title, rows in parts if rows)


def _value_row(value: Mapping[str, Any]) -> Row:
    shape = ", ".join("?" if length is None else str(length) for length in value["shape"])
    default = ["has a default"] if value["has_default"] else []
    return (value["name"], value["type"], f"[{shape}]", *default)


def _model_rows(ours: Mapping[str, Any]) -> Iterable[Row]:
    """Yield what users look for first, then the rest as it comes."""
    rest = dict(ours)
    scores = _scores(rest.pop("score_before", None), rest.pop("score_after", None))
    if scores:
        improved = rest.pop("improved", None)
        rest["score"] = scores + ("" if improved is None else _improvement(improved))
    for key, name in (
        ("classes", "classes"),
        ("metric", "metric"),
        ("scorer", "scorer"),
        ("score", "score"),
        ("precision", "precision"),
        ("adapter_digest", "adapter sha256"),
        ("adapters", "adapters"),
        ("feature_names", "columns"),
        ("versions", "versions"),
    ):
        if key in rest:
            yield name, _said(rest.pop(key), key)
    for key, value in rest.items():
        yield key, _said(value, key)


def _scores(before: Any, after: Any) -> str:
    if before is None and after is None:
        return ""
    shown = [f"{s:.4f}" if isinstance(s, int | float) else "unknown" for s in (before, after)]
    return " -> ".join(shown)


def _improvement(improved: Any) -> str:
    return ", improved" if improved is True else ", not improved"


def _said(value: Any, key: str) -> str:
    if key == "versions" and isinstance(value, dict):
        value = [f"{name} {version}" for name, version in value.items()]
    if isinstance(value, str):
        return value
    if not isinstance(value, list | dict):
        return json.dumps(value)
    # Quotes tell the class '1' from the class 1.
    shown = [str(item) if key in _NAMES else repr(item) for item in value]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _section(title: str, rows: Sequence[Row]) -> str:
    """Return rows with their cells one below the other."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    columns = max(map(len, cells))
    widths = [max(len(row[i]) for row in cells if len(row) > i) for i in range(columns)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in cells
    ]
    return "\n  ".join([_plain(title), *lines]) + "\n"


def _plain(text: str) -> str:
    """Return `text` as one line that does nothing to a terminal: a file may say anything."""
    shown = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
