"""Export to ONNX, one self-contained file that says what the estimator says; and its runner.

The only package that imports onnx and onnxruntime, and only when something of it is called.
"""

from __future__ import annotations

from sk_metricopt.export._predictor import OnnxPredictor
from sk_metricopt.export._register import register
from sk_metricopt.export._to_onnx import to_onnx

__all__ = ["OnnxPredictor", "register", "to_onnx"]
