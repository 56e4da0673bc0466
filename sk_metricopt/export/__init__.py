"""Export to ONNX, one self-contained file that says what the estimator says; and its runner.

The only package that imports onnx and onnxruntime, and only when something of it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sk_metricopt._lazy import lazy

if TYPE_CHECKING:
    from sk_metricopt.export._predictor import OnnxPredictor
    from sk_metricopt.export._register import register
    from sk_metricopt.export._to_onnx import to_onnx

__all__ = ["OnnxPredictor", "register", "to_onnx"]

# Imported when they are asked for: who runs a file needs neither torch nor onnx.
__getattr__, __dir__ = lazy(
    __name__, {"OnnxPredictor": "_predictor", "register": "_register", "to_onnx": "_to_onnx"}
)
