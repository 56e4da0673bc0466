"""What a file says about where it came from: string properties, read back without this library."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt.export._inputs import Inputs

if TYPE_CHECKING:
    from onnx import ModelProto

PREFIX = "sk_metricopt."
SCHEMA = "1"


def model_properties(
    estimator,
    served,
    precision: str,
    of_kind: Mapping[str, Any],
    inputs: Inputs,
    packages: Sequence[str],
) -> dict[str, str]:
    """Return what a file says of itself; strings stay as they are, the rest becomes JSON.

    Parameters
    ----------
    estimator : estimator
        What is exported.
    served : estimator
        The one in it that serves a metric, or `estimator`.
    precision : {'fp32', 'fp16'}
        Of nets.
    of_kind : mapping of str to object
        What only files of this kind say; None is left out.
    inputs : ArrayInput or TableInput
        Of the graph.
    packages : sequence of str
        Whose versions matter, beside those of all files.
    """
    found = {
        "schema": SCHEMA,
        **of_kind,
        "n_features": _n_features(estimator, inputs.row_shape),
        "input_shape": list(inputs.row_shape),
        "feature_names": inputs.names or getattr(estimator, "feature_names_in_", None),
        "versions": _versions("sk_metricopt", *packages, "scikit-learn", "onnx"),
        "scorer": _scorer_name(served),
        "score_before": _finite(getattr(served, "initial_score_", None)),
        "score_after": _finite(getattr(served, "best_score_", None)),
        "improved": getattr(served, "improved_", None),
        "adapter_digest": _digest(served),
        "precision": precision,
    }
    return {PREFIX + key: _text(value) for key, value in found.items() if value is not None}


def set_properties(model: ModelProto, properties: dict[str, str]) -> None:
    """Write `properties` into `model`, and who produced it."""
    from onnx import helper

    model.producer_name = "sk_metricopt"
    model.producer_version = _versions("sk_metricopt").get("sk_metricopt", "")
    helper.set_model_props(model, properties)


def caller_properties(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what the caller wants to add, as strings."""
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, Mapping):
        raise TypeError(
            "The 'metadata' parameter of to_onnx must be a mapping or None. "
            f"Got {metadata!r} instead."
        )
    for key in metadata:
        if not isinstance(key, str) or key.startswith(PREFIX):
            raise ValueError(
                "The 'metadata' parameter of to_onnx must have string keys that do not start with "
                f"{PREFIX!r}. Got the key {key!r} instead. Choose another prefix."
            )
    try:
        texts = {key: _text(value) for key, value in metadata.items()}
        "".join([*texts, *texts.values()]).encode()  # fails for what no file can hold
        return texts
    except UnicodeEncodeError as exc:
        raise ValueError(
            f"The 'metadata' parameter of to_onnx must hold text that UTF-8 can write. {exc}."
        ) from exc
    except TypeError as exc:
        raise TypeError(
            "The 'metadata' parameter of to_onnx must hold values that JSON can hold. "
            f"{exc}. Convert them to numbers, strings, lists or dicts."
        ) from exc


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Turn numpy scalars and arrays into what JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"Got {type(value).__name__} instead")


def _n_features(estimator, input_shape: tuple[int, ...]) -> int | None:
    """Return the number of columns; images and sequences have a shape instead."""
    columns = input_shape[0] if len(input_shape) == 1 else None
    return getattr(estimator, "n_features_in_", columns)


def _finite(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)


def _digest(served) -> str | None:
    """Return the SHA-256 of adapter parameters, as little-endian float32."""
    params = getattr(served, "adapter_params_", None)
    return None if params is None else sha256(np.asarray(params, dtype="<f4").tobytes()).hexdigest()


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return found


def _scorer_name(estimator) -> str | None:
    scoring = getattr(estimator, "scoring", None)
    scorer = getattr(estimator, "scorer_", None)
    if isinstance(scoring, str) or scorer is None:
        return scoring if isinstance(scoring, str) else None
    # Scorers print as the call that made them, unless something in them prints its address.
    name = getattr(scorer, "__name__", None) or repr(scorer)
    return type(scorer).__name__ if " at 0x" in name else name
