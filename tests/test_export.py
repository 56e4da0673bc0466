"""Tests of sk_metricopt.export: what onnxruntime computes is what the estimator says."""

from __future__ import annotations

import functools
import itertools
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt._onnx_mixin import OnnxMixin
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export import to_onnx

N_FEATURES = 6


class Classifier(OnnxMixin, ClassifierMixin, BaseEstimator):
    """The least that an estimator has to have: a net on encoded labels, and the labels."""

    def __init__(self, estimator=None, scoring=None):
        self.estimator = estimator
        self.scoring = scoring

    def predict_proba(self, X):
        return self.estimator_.predict_proba(X)

    def predict(self, X):
        return self.classes_[self.estimator_.predict(X)]


class MLP(nn.Sequential):
    def __init__(self, n_outputs, softmax=False, n_features=N_FEATURES):
        layers = [nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)]
        last = [nn.Softmax(-1)] if softmax else []
        super().__init__(*layers, nn.Linear(8, n_outputs), *last)


class CNN(nn.Sequential):
    def __init__(self, n_outputs):
        layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(4, n_outputs))


class TokenNet(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, n_outputs)

    def forward(self, X):
        E = self.embedding(X)
        scores = self.linear(self.attention(E, E, E)[0].mean(1))
        return scores if self.training else (scores, E)


class FixedBatch(nn.Linear):
    def forward(self, X):
        return super().forward(X.reshape(4, -1))


class FixedOutput(nn.Linear):
    def forward(self, X):
        return super().forward(X).reshape(4, -1)


class Centred(nn.Linear):
    def forward(self, X):
        return super().forward(X - X.mean(0))


class Branching(nn.Linear):
    def forward(self, X):
        return super().forward(X if X.sum() > 0 else -X)


NETS = ["mlp", "mlp_nll", "binary", "binary_column", "cnn", "embedding"]


def make_rows(kind, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "embedding":
        return rng.integers(0, 10, size=(n_rows, 5))
    shape = (2, 8, 8) if kind == "cnn" else (N_FEATURES,)
    return rng.normal(size=(n_rows, *shape)).astype(np.float32)


@functools.cache
def fitted_net(kind, n_classes):
    torch.manual_seed(0)
    X = make_rows(kind, 60)
    y = np.arange(60) % n_classes
    shared = {"train_split": None, "verbose": 0, "max_epochs": 2, "lr": 0.1}
    if kind.startswith("binary"):
        flat = [] if kind == "binary_column" else [nn.Flatten(0)]
        module = nn.Sequential(MLP(1), *flat)
        return NeuralNetBinaryClassifier(module, threshold=0.47, **shared).fit(
            X, y.astype(np.float32)
        )
    if kind == "mlp_nll":
        return NeuralNetClassifier(MLP(n_classes, softmax=True), **shared).fit(X, y)
    module = {"mlp": MLP, "cnn": CNN, "embedding": TokenNet}[kind](n_classes)
    return NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, **shared).fit(X, y)


LABELS = {
    "int": [0, 1, 2],
    "str": ["an", "né", "漢字"],
    "object": np.array(["an", "bo", "cy"], dtype=object),
    "bool": [False, True],
    "non_contiguous": [-3, 5, 2**40],
    "integral_float": [0.0, 1.0, 2.0],
}


def make_classifier(kind="mlp", labels="str", cls=Classifier):
    estimator = cls()
    classes = np.asarray(LABELS[labels])
    estimator.classes_ = classes[:2] if kind.startswith("binary") else classes
    estimator.estimator_ = fitted_net(kind, len(estimator.classes_))
    return estimator


def fit_linear(module, **params):
    X = make_rows("mlp", 24)
    params = {"train_split": None, "verbose": 0, "max_epochs": 1, "batch_size": 4, **params}
    net = NeuralNetClassifier(module(N_FEATURES, 4), criterion=nn.CrossEntropyLoss, **params)
    return net.fit(X, np.arange(24) % 4), X


def run(model, X):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["label", "probabilities"], {"X": X})


def properties_of(model):
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize(
    "kind, labels",
    # An export takes a second, and labels come after the net: each kind of label once, each net
    # with and without strings.
    [*itertools.product(["mlp"], LABELS), *itertools.product(NETS[1:], ["str", "bool"])],
)
def test_graph_gives_labels_and_probabilities_of_estimator_at_any_batch_size(kind, labels):
    estimator = make_classifier(kind, labels)
    model = to_onnx(estimator, make_rows(kind, 20))

    for n_rows in (1, 2, 7):
        X = make_rows(kind, n_rows, seed=1)
        label, probabilities = run(model, X)
        assert (label == estimator.predict(X)).all()
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "binary"])
def test_bare_net_exports_the_index_it_predicts(kind):
    net = fitted_net(kind, 2)
    X = make_rows(kind, 30)
    label, _ = run(to_onnx(net, X), X)
    assert label.dtype == np.int64
    assert (label == net.predict(X)).all()


def test_labels_index_gives_the_index_and_keeps_the_classes_in_the_metadata():
    estimator = make_classifier("mlp", "str")
    X = make_rows("mlp", 30)
    model = to_onnx(estimator, X, labels="index")
    label, _ = run(model, X)
    assert label.dtype == np.int64
    classes = json.loads(properties_of(model)["sk_metricopt.classes"])
    assert (np.array(classes)[label] == estimator.predict(X)).all()


def test_one_row_of_X_is_enough_for_a_graph_with_named_values_and_a_dynamic_batch():
    estimator = make_classifier("embedding")
    model = to_onnx(estimator, make_rows("embedding", 1))
    values = [*model.graph.input, *model.graph.output]
    assert [value.name for value in values] == ["X", "label", "probabilities"]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}
    X = make_rows("embedding", 7)
    assert (run(model, X)[0] == estimator.predict(X)).all()


@pytest.mark.parametrize("opset", [18, 22])
def test_opset_is_the_one_asked_for_and_the_only_one(opset):
    model = to_onnx(fitted_net("mlp", 3), make_rows("mlp", 5), opset=opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version <= 10


@pytest.mark.parametrize(
    "convert", [np.ndarray.tolist, torch.from_numpy, np.float64, np.asfortranarray]
)
def test_X_may_be_any_numeric_array_like(convert):
    net = fitted_net("mlp", 3)
    X = make_rows("mlp", 9)
    assert (run(to_onnx(net, convert(X)), X)[0] == net.predict(X)).all()


def test_input_is_an_index_only_where_a_table_is_looked_up():
    converting = make_classifier("embedding", "int")
    net = converting.estimator_
    converting.predict = lambda X: net.predict(np.int64(X))
    converting.predict_proba = lambda X: net.predict_proba(np.int64(X))
    for estimator, dtype, expected in [
        (fitted_net("mlp", 3), np.int32, onnx.TensorProto.FLOAT),
        (net, np.int32, onnx.TensorProto.INT64),
        (converting, np.float64, onnx.TensorProto.INT64),
    ]:
        model = to_onnx(estimator, np.ones((2, N_FEATURES), dtype))
        assert model.graph.input[0].type.tensor_type.elem_type == expected


def test_file_is_complete_reproducible_readable_and_free_of_local_paths(tmp_path):
    path = tmp_path / "model.onnx"
    X = make_rows("cnn", 5)
    model = to_onnx(make_classifier("cnn"), X, str(path))
    content = path.read_bytes()
    to_onnx(make_classifier("cnn"), X, path)
    assert path.read_bytes() == content

    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert content == model.SerializeToString()
    assert (run(content, X)[0] == run(model, X)[0]).all()
    for place in (Path(__file__).parent, Path.home(), Path(torch.__file__).parent, tmp_path):
        assert str(place).encode() not in content
    assert b".py" not in content
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_metadata_round_trip_through_onnxruntime(tmp_path):
    estimator = make_classifier("mlp", "non_contiguous")
    estimator.scorer_ = make_scorer(fbeta_score, beta=2)
    estimator.initial_score_, estimator.best_score_ = np.float64(0.25), 0.75
    estimator.improved_ = np.bool_(True)
    estimator.n_features_in_ = N_FEATURES
    estimator.feature_names_in_ = np.array(list("abcdef"), dtype=object)
    path = tmp_path / "model.onnx"
    to_onnx(estimator, make_rows("mlp", 5), path, metadata={"team": "risk", "cost": np.eye(2)})

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta()
    found = dict(meta.custom_metadata_map)
    assert meta.producer_name == "sk_metricopt"
    assert found.pop("team") == "risk"
    assert json.loads(found.pop("cost")) == [[1.0, 0.0], [0.0, 1.0]]
    ours = {key.removeprefix("sk_metricopt."): value for key, value in found.items()}
    assert ours.pop("scorer").startswith("make_scorer(fbeta_score")
    assert ours.pop("labels") == "class"
    assert ours.pop("precision") == "fp32"
    assert ours.pop("classes_dtype") == "int64"
    assert json.loads(ours.pop("versions"))["torch"] == torch.__version__
    assert {key: json.loads(value) for key, value in ours.items()} == {
        "schema": 1,
        "classes": [-3, 5, 2**40],
        "n_features": N_FEATURES,
        "input_shape": [N_FEATURES],
        "feature_names": list("abcdef"),
        "score_before": 0.25,
        "score_after": 0.75,
        "improved": True,
    }


def test_metadata_names_the_scoring_and_the_threshold():
    estimator = make_classifier("binary", "bool").set_params(scoring="f1")
    found = properties_of(to_onnx(estimator, make_rows("binary", 5)))
    assert found["sk_metricopt.scorer"] == "f1"
    assert found["sk_metricopt.threshold"] == "0.47"
    assert found["sk_metricopt.classes"] == "[false, true]"


def test_three_threads_export_at_once():
    kinds = ["mlp", "cnn", "embedding"]
    with ThreadPoolExecutor(3) as pool:
        models = pool.map(lambda kind: to_onnx(make_classifier(kind), make_rows(kind, 5)), kinds)
        for kind, model in zip(kinds, models, strict=True):
            X = make_rows(kind, 3)
            assert (run(model, X)[0] == make_classifier(kind).predict(X)).all()


def double_output(module, args, output):
    return 2 * output


@pytest.mark.parametrize("training", [True, False])
def test_estimator_and_global_random_state_are_unchanged(training):
    net, X = fit_linear(nn.Linear)
    net.module_.register_forward_hook(double_output)
    net.module_.train(training)
    net.criterion_.train(training)
    module, hooks = net.module_, dict(net.module_._forward_hooks)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    model = to_onnx(net, X)

    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert net.module_ is module and dict(module._forward_hooks) == hooks
    assert module.training is training and net.criterion_.training is training
    assert all(torch.equal(weights[key], value) for key, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())

    expected = net.predict_proba(X)
    with torch.no_grad():
        module.weight.add_(1.0)  # the graph has weights of its own
    np.testing.assert_allclose(run(model, X)[1], expected, atol=1e-5)


@pytest.mark.parametrize(
    "module, batch_size, message",
    [
        (FixedBatch, 4, "could not translate FixedBatch into ONNX"),
        (FixedOutput, 4, "fixed number of rows at label_index, probabilities"),
        (Branching, 24, "could not translate Branching into ONNX"),
        (Centred, 24, "'probabilities' differs from predict_proba on 1 of 1 rows"),
    ],
)
def test_module_that_hangs_on_the_batch_is_refused_and_leaves_no_file(
    module, batch_size, message, tmp_path
):
    net, X = fit_linear(module, batch_size=batch_size)
    with pytest.raises(ExportError, match=message) as info:
        to_onnx(net, X, tmp_path / "model.onnx")
    assert all(word in str(info.value) for word in ("Likely cause", "Next step", "No file"))
    assert not list(tmp_path.iterdir())


class Rotated(Classifier):
    def predict(self, X):
        return np.roll(self.classes_, 1)[self.estimator_.predict(X)]


class Sharpened(Classifier):
    def predict_proba(self, X):
        proba = super().predict_proba(X) ** 2
        return proba / proba.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "cls, message",
    [
        (Rotated, "'label' differs from predict on .*argmax of the probabilities"),
        (Sharpened, "'probabilities' differs from predict_proba on 20 of 20 rows"),
    ],
)
@pytest.mark.parametrize("labels", ["class", "index"])
def test_wrapper_that_decides_otherwise_than_its_net_is_refused(cls, message, labels, tmp_path):
    estimator = make_classifier("mlp", "str", cls=cls)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=message):
        to_onnx(estimator, make_rows("mlp", 20), path, labels=labels)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [
        ("model.onnx", b"before")
    ]


def test_classes_and_columns_that_disagree_are_refused():
    estimator = make_classifier("mlp", "int")
    estimator.classes_ = np.array(["a", "b"])
    estimator.predict = lambda X: estimator.classes_[np.zeros(len(X), int)]
    with pytest.raises(ExportError, match="has 2 classes_, but its predict_proba returns 3"):
        to_onnx(estimator, make_rows("mlp", 5))


def test_classes_that_onnx_cannot_hold_are_refused_and_may_go_as_an_index():
    estimator = make_classifier("mlp", "int")
    estimator.classes_ = np.array(["2020", "2021", "2022"], dtype="datetime64[Y]")
    with pytest.raises(TypeError, match="integers, booleans or strings.*labels='index'"):
        to_onnx(estimator, make_rows("mlp", 5))
    found = properties_of(to_onnx(estimator, make_rows("mlp", 5), labels="index"))
    assert json.loads(found["sk_metricopt.classes"])[0].startswith("2020")


@pytest.mark.parametrize(
    "X, error, message",
    [
        (None, ValueError, "'X' parameter of to_onnx .* Got None instead"),
        (np.empty((0, 6)), ValueError, r"'X' parameter .* empty array of shape \(0, 6\)"),
        ([["a"] * 6], TypeError, "'X' parameter of to_onnx must be numbers for a net"),
        ({"X": np.ones((2, 6))}, TypeError, "'X' parameter of to_onnx .* Got dict"),
    ],
)
def test_X_that_cannot_be_an_example_is_refused_by_name(X, error, message):
    with pytest.raises(error, match=message):
        to_onnx(fitted_net("mlp", 3), X)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"opset": 17}, ValueError, r"'opset' parameter .* \[18, 22\]. Got 17 instead"),
        ({"opset": "18"}, ValueError, "'opset' parameter .* Got '18' instead"),
        ({"labels": "name"}, ValueError, "'labels' parameter .* Got 'name' instead"),
        ({"path": "no_such_folder/model.onnx"}, ValueError, "'path' parameter .* existing folder"),
        ({"path": "."}, ValueError, "'path' parameter of to_onnx must be a file"),
        ({"metadata": {"sk_metricopt.schema": "2"}}, ValueError, "'metadata' parameter"),
        ({"metadata": {"when": object()}}, TypeError, "'metadata' parameter .* Got object"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        to_onnx(fitted_net("mlp", 3), make_rows("mlp", 5), **options)


@pytest.mark.parametrize(
    "estimator, error",
    [
        (NeuralNetClassifier(MLP), NotFittedError),
        (MetricOptFinetuner(NeuralNetClassifier(MLP)), NotFittedError),
        (make_pipeline(StandardScaler()), NotFittedError),
        (NeuralNetRegressor(MLP(1)).initialize(), TypeError),
        (nn.Linear(6, 2), TypeError),
        (Ridge().fit(np.eye(6), np.ones(6)), TypeError),
    ],
)
def test_estimator_that_is_not_fitted_or_has_no_graph_is_refused(estimator, error):
    with pytest.raises(error):
        to_onnx(estimator, make_rows("mlp", 5))


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_dependency_is_named_with_what_installs_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"'{name}'.*pip install \"sk_metricopt\[onnx,cpu\]\""):
        to_onnx(fitted_net("mlp", 3), make_rows("mlp", 5))


def test_importing_the_export_package_imports_no_onnx():
    code = (
        "import sys, sk_metricopt.export;"
        "sys.exit(bool({'onnx', 'onnxscript', 'onnxruntime', 'skl2onnx'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_net_on_a_gpu_stays_there():
    net, X = fit_linear(nn.Linear, device="cuda")
    model = to_onnx(net, X)
    assert next(net.module_.parameters()).is_cuda
    assert (run(model, X)[0] == net.predict(X)).all()


def test_finetuned_network_on_digits_decides_in_onnxruntime_as_in_python(tmp_path):
    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        functools.partial(MLP, 10, n_features=64), criterion=nn.CrossEntropyLoss, verbose=0
    )
    finetuner = MetricOptFinetuner(
        net, scoring="f1_macro", max_observations=30, guard_z=None, random_state=0
    )
    finetuner.fit(X[:1200] / 16, np.char.add("digit ", y[:1200].astype(str)))
    path = tmp_path / "digits.onnx"
    finetuner.export_onnx(path, X[1200:] / 16)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    X_test = (X[1200:] / 16).astype(np.float32)
    label, probabilities = session.run(["label", "probabilities"], {"X": X_test})
    assert (label == finetuner.predict(X_test)).all()
    np.testing.assert_allclose(probabilities, finetuner.predict_proba(X_test), atol=1e-5)
    found = session.get_modelmeta().custom_metadata_map
    assert found["sk_metricopt.scorer"] == "f1_macro"
    assert json.loads(found["sk_metricopt.score_after"]) == finetuner.best_score_
