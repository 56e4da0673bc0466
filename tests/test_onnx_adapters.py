"""OnnxPredictor with a file that holds several adapters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from sklearn.base import clone

from sk_metricopt.export import OnnxPredictor
from tests.onnx_files import foreign_model, serialized


def adapter_content(form):
    """Embeddings of X times the adapter: two parameters, or one of two named choices."""
    tensor, make = onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
    values = [make(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in ("X", "embeddings")]
    if form == "free":
        chosen = make("adapter", onnx.TensorProto.FLOAT, [2])
        initial = [tensor(np.ones(2, np.float32), "adapter")]
        nodes = [onnx.helper.make_node("Mul", ["X", "adapter"], ["embeddings"])]
        adapters = '{"f1": [2.0, 3.0], "recall": [5.0, 7.0]}'
    else:
        chosen = make("adapter", onnx.TensorProto.INT64, [])
        table = np.array([[2.0, 3.0], [5.0, 7.0]], np.float32)
        initial = [tensor(np.array(0), "adapter"), tensor(table, "table")]
        nodes = [
            onnx.helper.make_node("Gather", ["table", "adapter"], ["phi"]),
            onnx.helper.make_node("Mul", ["X", "phi"], ["embeddings"]),
        ]
        adapters = '["f1", "recall"]'
    graph = onnx.helper.make_graph(nodes, "graph", [values[0], chosen], values[1:], initial)
    return serialized(graph, {"sk_metricopt.adapters": adapters})


@pytest.mark.parametrize(
    "form, adapter, expected",
    [
        ("free", None, [1, 1]),
        ("free", "f1", [2, 3]),
        ("free", "recall", [5, 7]),
        ("free", [4, 9], [4, 9]),
        ("free", np.array([4.0, 9.0]), [4, 9]),
        ("named", None, [2, 3]),
        ("named", "f1", [2, 3]),
        ("named", "recall", [5, 7]),
        ("named", 1, [5, 7]),
        ("named", np.int64(1), [5, 7]),
    ],
)
def test_adapter_is_the_one_asked_for(form, adapter, expected):
    predictor = OnnxPredictor(adapter_content(form), adapter=adapter, batch_size=2)
    rows = np.ones((3, 2))
    assert predictor.transform(rows).tolist() == [expected] * 3
    assert predictor.transform(rows[:0]).shape == (0, 2)
    assert predictor.run_tensors(torch.ones(3, 2))["embeddings"].tolist() == [expected] * 3
    assert predictor.adapters_ == ["f1", "recall"]
    assert clone(predictor).transform(rows).tolist() == [expected] * 3


@pytest.mark.parametrize("form", ["free", "named"])
def test_adapter_is_switched_in_the_same_session(form):
    predictor = OnnxPredictor(adapter_content(form), adapter="f1")
    session = predictor._opened().session
    assert predictor.set_params(adapter="recall").transform([[1, 1]]).tolist() == [[5, 7]]
    assert predictor._opened().session is session


@pytest.mark.parametrize(
    "form, adapter, message",
    [
        ("free", "none", r"one of \['f1', 'recall'\], an array .* \(2,\) or None. Got 'none'"),
        ("free", [1, 2, 3], r"shape \(2,\) or None. Got \[1, 2, 3\] instead"),
        ("free", np.ones((2, 2)), r"Got an array of shape \(2, 2\) instead"),
        ("free", 1, "Got 1 instead"),
        ("named", "none", r"one of \['f1', 'recall'\], an index of them or None. Got 'none'"),
        ("named", 2, "Got 2 instead"),
        ("named", -1, "Got -1 instead"),
        ("named", True, "Got True instead"),
        ("named", [1.0, 2.0], r"Got \[1.0, 2.0\] instead"),
    ],
)
def test_adapter_that_the_file_does_not_have_is_refused(form, adapter, message):
    with pytest.raises(
        ValueError, match=f"'adapter' parameter of OnnxPredictor must be .*{message}"
    ):
        OnnxPredictor(adapter_content(form), adapter=adapter)


def test_adapter_of_a_file_without_any_is_refused():
    predictor = OnnxPredictor(foreign_model(output="embeddings"))
    with pytest.raises(ValueError, match="None for this file, .* without adapter_input=True"):
        predictor.set_params(adapter="f1")
    assert predictor.adapters_ == [] and predictor.adapter is None
