"""Tensors in and out of OnnxPredictor, and buffers that stay where they are."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sk_metricopt.export import OnnxPredictor

FIXED = {"enable_cuda_graph": "1"}  # other devices ignore it, and run through the same buffers
RUNNERS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "provider_options": FIXED},
        {"batch_size": 64, "provider_options": FIXED},
    ],
)
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
WEIGHTS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
X = torch.from_numpy(np.random.default_rng(1).normal(size=(11, 3)).astype(np.float32))


def serialized(nodes, inputs, outputs, initializers=(), properties=None):
    values = [
        [helper.make_tensor_value_info(name, *rest) for name, *rest in some]
        for some in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *values, initializers)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    helper.set_model_props(model, properties or {})
    return model.SerializeToString()


def classifier_content(strings=False):
    """Label and softmax of X @ WEIGHTS."""
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["classes", "index"], ["label"]),
    ]
    classes = np.array(["an", "bo"], dtype=object) if strings else np.array([0, 1])
    kind = TensorProto.STRING if strings else TensorProto.INT64
    return serialized(
        nodes,
        [("X", TensorProto.FLOAT, ["n", 3])],
        [("label", kind, ["n"]), ("probabilities", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(WEIGHTS, "W"), numpy_helper.from_array(classes, "classes")],
    )


def lookup_content():
    """A table of embeddings, whose indices must be in range whatever pads the rows."""
    return serialized(
        [helper.make_node("Gather", ["W", "X"], ["embeddings"])],
        [("X", TensorProto.INT64, ["n", 2])],
        [("embeddings", TensorProto.FLOAT, ["n", 2, 2])],
        [numpy_helper.from_array(WEIGHTS, "W")],
    )


@DEVICES
@RUNNERS
@pytest.mark.parametrize("n_rows", [0, 1, 4, 11])
def test_tensors_give_what_arrays_give(device, options, n_rows):
    predictor = OnnxPredictor(classifier_content(), device=device, **options)
    expected = (X[:n_rows] @ torch.from_numpy(WEIGHTS)).softmax(1)
    got = predictor.run_tensors(X[:n_rows].to(device))
    assert {name: (value.dtype, value.device.type) for name, value in got.items()} == {
        "label": (torch.int64, device),
        "probabilities": (torch.float32, device),
    }
    torch.testing.assert_close(got["probabilities"].cpu(), expected)
    assert (got["label"].cpu() == expected.argmax(1)).all()
    rows = X[:n_rows].numpy()
    np.testing.assert_allclose(predictor.predict_proba(rows), expected, atol=1e-6)
    np.testing.assert_array_equal(predictor.predict(rows), got["label"].cpu())
    assert predictor.predict(rows).dtype == np.int64


@RUNNERS
def test_results_are_not_overwritten_by_the_next_run(options):
    predictor = OnnxPredictor(classifier_content(), **options)
    first, array = predictor.run_tensors(X[:4]), predictor.predict_proba(X[:4])
    kept, array_kept = first["probabilities"].clone(), array.copy()
    predictor.run_tensors(-X[:4]), predictor.predict_proba(-X[:4])
    assert torch.equal(first["probabilities"], kept)
    np.testing.assert_array_equal(array, array_kept)


@RUNNERS
def test_threads_share_one_predictor(options):
    predictor = pickle.loads(pickle.dumps(OnnxPredictor(classifier_content(), **options)))
    parts = [X[i : i + 5] for i in range(6)] * 20
    expected = [(part @ torch.from_numpy(WEIGHTS)).softmax(1) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(predictor.run_tensors, parts), expected, strict=True):
            torch.testing.assert_close(got["probabilities"], wanted)
        for got, wanted in zip(pool.map(predictor.predict_proba, parts), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)


@RUNNERS
def test_rows_of_indices_are_looked_up(options):
    predictor = OnnxPredictor(lookup_content(), **options)
    rows = torch.tensor([[2, 0]] * 9)
    got = predictor.run_tensors(rows)["embeddings"]
    np.testing.assert_array_equal(got, WEIGHTS[rows])
    np.testing.assert_array_equal(predictor.transform(rows), WEIGHTS[rows])


def test_tensors_may_have_gaps_and_gradients():
    predictor = OnnxPredictor(classifier_content())
    rows = X.T.clone().requires_grad_().T
    got = predictor.run_tensors(rows)["probabilities"]
    torch.testing.assert_close(got, predictor.run_tensors(X)["probabilities"])
    assert not got.requires_grad


def test_labels_that_are_strings_are_left_out():
    assert list(OnnxPredictor(classifier_content(strings=True)).run_tensors(X)) == ["probabilities"]


@RUNNERS
@pytest.mark.parametrize(
    "rows, error, message",
    [
        (X.numpy(), TypeError, "must be a torch.Tensor. Got a ndarray instead"),
        (X.double(), ValueError, r"of torch.float32 on cpu. Got torch.float64 .* X.to\('cpu', to"),
        (X.to("meta"), ValueError, "on cpu. Got torch.float32 on meta instead"),
        (X[:, :2], ValueError, r"rows of shape \(3,\). Got a tensor of shape \(11, 2\) instead"),
        (X[0], ValueError, r"rows of shape \(3,\). Got a tensor of shape \(3,\) instead"),
        (torch.tensor(1.0), ValueError, r"rows of shape \(3,\). Got a tensor of shape \(\)"),
    ],
)
def test_tensors_that_the_graph_does_not_take_are_refused(options, rows, error, message):
    predictor = OnnxPredictor(classifier_content(), **options)
    with pytest.raises(error, match=f"'X' parameter of OnnxPredictor.run_tensors .*{message}"):
        predictor.run_tensors(rows)


def column_content(width=1):
    return serialized(
        [helper.make_node("Add", ["a", "b"], ["embeddings"])],
        [("a", TensorProto.FLOAT, ["n", 1]), ("b", TensorProto.FLOAT, ["n", 1])],
        [("embeddings", TensorProto.FLOAT, ["n", width])],
    )


def test_tables_are_no_tensors():
    with pytest.raises(ValueError, match=r"one input 'X' to run on tensors. Got \['a', 'b'\]"):
        OnnxPredictor(column_content()).run_tensors(X)


def test_outputs_of_a_width_that_is_not_told_are_no_tensors():
    content = serialized(
        [helper.make_node("Reshape", ["X", "shape"], ["embeddings"])],
        [("X", TensorProto.FLOAT, ["n", 3]), ("shape", TensorProto.INT64, [2])],
        [("embeddings", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(np.array([-1, 3]), "shape")],
    )
    predictor = OnnxPredictor(content)
    np.testing.assert_array_equal(predictor.transform(X), X)
    with pytest.raises(ValueError, match="must give rows of one shape.* Got 'embeddings' of shape"):
        predictor.run_tensors(X)
    with pytest.raises(ValueError, match="must give rows of one shape.* Got 'embeddings' of shape"):
        predictor.set_params(batch_size=4, provider_options=FIXED)


def test_columns_of_a_table_go_through_fixed_buffers():
    predictor = OnnxPredictor(column_content(), batch_size=4, provider_options=FIXED)
    np.testing.assert_array_equal(predictor.transform(np.ones((9, 2))), np.full((9, 1), 2))


@pytest.mark.parametrize("value", ["1", 1, True, "true"])
def test_cuda_graph_without_a_batch_size_is_refused(value):
    with pytest.raises(ValueError, match="without a CUDA graph where 'batch_size' is None"):
        OnnxPredictor(classifier_content(), provider_options={"enable_cuda_graph": value})


@pytest.mark.parametrize("value", ["0", 0, False])
def test_cuda_graph_that_is_off_needs_no_batch_size(value):
    predictor = OnnxPredictor(classifier_content(), provider_options={"enable_cuda_graph": value})
    assert predictor.predict(X).shape == (11,)


def test_cuda_graph_of_strings_is_refused():
    with pytest.raises(ValueError, match=r"strings, which .* in \['label'\]. Export with labels="):
        OnnxPredictor(classifier_content(strings=True), batch_size=4, provider_options=FIXED)


def test_another_adapter_through_fixed_buffers_takes_effect():
    content = serialized(
        [helper.make_node("Mul", ["X", "adapter"], ["embeddings"])],
        [("X", TensorProto.FLOAT, ["n", 3]), ("adapter", TensorProto.FLOAT, [3])],
        [("embeddings", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "adapter")],
    )
    predictor = OnnxPredictor(content, batch_size=4, provider_options=FIXED)
    torch.testing.assert_close(predictor.run_tensors(X)["embeddings"], X)
    for adapter in ([2, 2, 2], [3, 3, 3]):
        predictor.set_params(adapter=adapter)
        torch.testing.assert_close(predictor.run_tensors(X)["embeddings"], adapter[0] * X)
        np.testing.assert_allclose(predictor.transform(X), adapter[0] * X)


@pytest.mark.gpu
def test_tensors_are_ready_when_torch_has_work_in_its_queue():
    predictor = OnnxPredictor(classifier_content(), device="cuda")
    rows = torch.zeros(4096, 3, device="cuda")
    for _ in range(20):
        rows += 1
    expected = (rows @ torch.from_numpy(WEIGHTS).cuda()).softmax(1)
    torch.testing.assert_close(predictor.run_tensors(rows)["probabilities"], expected)
