"""Export to ONNX, one self-contained file that says what the estimator says; and its runner.

The only package that imports onnx and onnxruntime, and only when something of it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sk_metricopt.export._predictor import OnnxPredictor
    from sk_metricopt.export._register import register
    from sk_metricopt.export._to_onnx import to_onnx

__all__ = ["OnnxPredictor", "register", "to_onnx"]

# Imported when they are asked for: who runs a file needs neither torch nor onnx.
_PLACES = {"OnnxPredictor": "_predictor", "register": "_register", "to_onnx": "_to_onnx"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
