"""Export to ONNX: one self-contained file that decides as the estimator does.

The only package that imports onnx and onnxruntime, and only when a function is called.
"""

from __future__ import annotations

from sk_metricopt.export._to_onnx import to_onnx

__all__ = ["to_onnx"]
