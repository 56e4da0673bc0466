"""Tests of adapters as an input: one graph is each of several finetuners, or any other."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._embedding_net import EmbeddingBridge
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import BaseAdapter, WeightAdapter
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export import OnnxPredictor, to_onnx
from tests.nets import CNN, MLP, NormMLP

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(90, 6)).astype(np.float32)
SCORES = TABLE[:, 0] + TABLE[:, 1] ** 2 + RNG.normal(size=90) / 2
LABELS = np.array(["a", "b", "c"])[np.digitize(SCORES, [0, 1.5])]
IMAGES = RNG.normal(size=(60, 2, 8, 8)).astype(np.float32)
SIDES = (IMAGES[:, 0].mean((1, 2)) > 0).astype(int)


class ShiftAdapter(BaseAdapter):
    """Shifts linear layers by their biases; it cannot act on outputs."""

    host_types = (nn.Linear,)

    def prepare(self, host):
        if host.bias is None:
            host.bias = nn.Parameter(torch.zeros(host.out_features))

    def n_params(self, host):
        return host.out_features

    def weights(self, host, params):
        return {"bias": host.bias + params}


class ScaleAdapter(BaseAdapter):
    """Scales the weights of linear layers by one number each, and never their outputs."""

    host_types = (nn.Linear,)

    def n_params(self, host):
        return 1

    def weights(self, host, params):
        return {"weight": host.weight * (1 + params)}


def net_like(kind=NeuralNetClassifier, module=NormMLP, **params):
    criterion = nn.BCEWithLogitsLoss if kind is NeuralNetBinaryClassifier else nn.CrossEntropyLoss
    return kind(module, criterion=criterion, max_epochs=2, verbose=0, train_split=None, **params)


def finetuner_of(net, **params):
    settings = {"scoring": "f1_macro", "max_observations": 8, "guard_z": None, "random_state": 0}
    return MetricOptFinetuner(net, **{**settings, **params})


def with_params(estimator, params, X):
    """Return a finetuner like this one, with other adapter parameters folded into its net."""
    other = copy.copy(estimator)
    other.adapter_params_ = np.asarray(params, np.float32)
    source = estimator.estimator
    net = source.estimator if isinstance(source, FrozenEstimator) else None
    searches = isinstance(net, EmbeddingRetriever)
    bridge = EmbeddingBridge(net.estimator_, net.metric) if searches else NetBridge(net)
    folded = AdaptedNet(bridge, estimator.adapter_, estimator.adapter_targets, X[:8]).fold(
        torch.from_numpy(other.adapter_params_)
    )
    deployed = estimator.estimator_
    other.estimator_ = deployed._with_module(folded) if searches else bridge.with_module(folded)
    return other


def some_params(estimator, seed=0):
    shape = estimator.adapter_params_.shape
    return np.random.default_rng(seed).normal(scale=0.3, size=shape).astype(np.float32)


def run(model, X, adapter=None):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"X": X} if adapter is None else {"X": X, "adapter": adapter}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def properties(model):
    return {p.key.removeprefix("sk_metricopt."): p.value for p in model.metadata_props}


def assert_same(got, estimator, X, tolerance=1e-5):
    if hasattr(estimator, "classes_"):
        assert np.abs(got["probabilities"] - estimator.predict_proba(X)).max() < tolerance
        assert (got["label"] == estimator.predict(X)).all()
    else:
        assert np.abs(got["embeddings"] - estimator.transform(X)).max() < tolerance


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    codes = np.unique(LABELS, return_inverse=True)[1]
    net = net_like(module__n_classes=3).fit(TABLE, codes)
    net.classes_inferred_ = np.unique(LABELS)
    return net


@pytest.fixture(scope="module")
def by_metric(net):
    return {
        scoring: finetuner_of(FrozenEstimator(net), scoring=scoring).fit(TABLE, LABELS)
        for scoring in ("f1_macro", "recall_macro")
    }


@pytest.fixture(scope="module")
def multiclass(by_metric):
    """A finetuner and its rows; its parameters are far from zero."""
    first = by_metric["f1_macro"]
    return with_params(first, some_params(first, 1), TABLE), TABLE


@pytest.fixture(scope="module")
def binary():
    torch.manual_seed(0)
    codes = (SCORES > 0).astype(int)
    net = net_like(NeuralNetBinaryClassifier, MLP, module__n_classes=1)
    net.set_params(threshold=0.4).fit(TABLE, codes.astype(np.float32))
    estimator = finetuner_of(FrozenEstimator(net), scoring="f1").fit(TABLE, codes)
    return with_params(estimator, some_params(estimator, 1), TABLE), TABLE


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    net = net_like(module=CNN).fit(IMAGES, SIDES)
    estimator = finetuner_of(FrozenEstimator(net), adapter_targets="all").fit(IMAGES, SIDES)
    return with_params(estimator, some_params(estimator, 1), IMAGES), IMAGES


@pytest.fixture(scope="module")
def retriever():
    torch.manual_seed(0)
    fitted = EmbeddingRetriever(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    fitted.fit(TABLE, LABELS)
    estimator = finetuner_of(FrozenEstimator(fitted), scoring=None).fit(TABLE, LABELS)
    return with_params(estimator, some_params(estimator, 1), TABLE), TABLE


@pytest.fixture(params=["multiclass", "binary", "images", "retriever"])
def case(request):
    return request.getfixturevalue(request.param)


def test_every_name_is_the_estimator_that_was_given_for_it(by_metric):
    model = to_onnx(by_metric["f1_macro"], TABLE, adapters=by_metric)
    assert json.loads(properties(model)["adapters"]) == list(by_metric)
    for index, estimator in enumerate(by_metric.values()):
        assert_same(run(model, TABLE, np.array(index)), estimator, TABLE)


@pytest.mark.parametrize("free", [False, True])
def test_choices_of_all_kinds_of_nets_are_their_estimators(case, free):
    estimator, X = case
    other = with_params(estimator, some_params(estimator, 2), X)
    named = {"other": other, "own": estimator}
    model = to_onnx(estimator, X, adapters=named, adapter_input=free)
    assert [value.name for value in model.graph.input] == ["X", "adapter"]
    assert_same(run(model, X), estimator, X)  # the default
    for index, one in enumerate(named.values()):
        fed = one.adapter_params_ if free else np.array(index)
        assert_same(run(model, X, fed), one, X)
        assert_same(run(model, X[:1], fed), one, X[:1])
    told = json.loads(properties(model)["adapters"])
    assert list(told) == list(named)
    if free:
        np.testing.assert_array_equal(np.float32(told["other"]), other.adapter_params_)


def test_free_parameters_are_the_weights_folded_with_them(case):
    estimator, X = case
    model = to_onnx(estimator, X, adapter_input=True)
    assert "adapters" not in properties(model)
    for seed in (3, 4):
        params = some_params(estimator, seed)
        assert_same(run(model, X, params), with_params(estimator, params, X), X)


def test_parameters_of_zero_are_the_net_before_finetuning(multiclass, net):
    estimator, X = multiclass
    model = to_onnx(estimator, X, adapter_input=True)
    got = run(model, X, np.zeros_like(estimator.adapter_params_))["probabilities"]
    assert np.abs(got - net.predict_proba(X)).max() < 1e-5
    assert np.abs(got - estimator.predict_proba(X)).max() > 1e-3


def test_the_first_name_is_the_default_and_told_of_where_the_estimator_is_none(by_metric):
    first, second = by_metric.values()
    changed = with_params(second, some_params(second, 5), TABLE)
    model = to_onnx(first, TABLE, adapters={"changed": changed})
    assert_same(run(model, TABLE), changed, TABLE)
    assert properties(model)["scorer"] == "recall_macro"


@pytest.mark.parametrize(
    ("adapter", "targets"), [(ScaleAdapter(), "all"), (ShiftAdapter(), ["7"])], ids=["all", "last"]
)
def test_an_adapter_that_only_replaces_weights_is_an_input(net, adapter, targets):
    estimator = finetuner_of(FrozenEstimator(net), adapter=adapter, adapter_targets=targets)
    estimator.set_params(max_observations=6).fit(TABLE, LABELS)
    estimator = with_params(estimator, some_params(estimator), TABLE)
    model = to_onnx(estimator, TABLE, adapter_input=True)
    assert_same(run(model, TABLE), estimator, TABLE)


def test_half_precision_takes_the_same_parameters(multiclass):
    estimator, X = multiclass
    other = with_params(estimator, some_params(estimator, 2), X)
    named = {"own": estimator, "other": other}
    model = to_onnx(estimator, X, adapters=named, adapter_input=True, precision="fp16")
    got = run(model, X, other.adapter_params_)["probabilities"]
    assert np.abs(got - other.predict_proba(X)).max() < 5e-3


def test_indices_of_classes_and_one_output_at_the_last_opset(multiclass):
    estimator, X = multiclass
    options = {"labels": "index", "outputs": ["label"], "opset": 22}
    model = to_onnx(estimator, X, adapter_input=True, **options)
    other = with_params(estimator, some_params(estimator, 2), X)
    got = run(model, X, other.adapter_params_)
    assert list(got) == ["label"]
    assert (estimator.classes_[got["label"]] == other.predict(X)).all()


def test_an_initialised_module_is_a_backbone():
    torch.manual_seed(0)
    codes = (SCORES > 0).astype(int)
    estimator = finetuner_of(MLP(), max_observations=6).fit(TABLE, codes)
    model = to_onnx(estimator, TABLE, adapter_input=True)
    assert_same(run(model, TABLE), estimator, TABLE)


def test_a_pipeline_around_the_finetuner_takes_adapters_of_its_last_step(multiclass):
    estimator, X = multiclass
    rows = X * 3 + 1
    pipeline = make_pipeline(StandardScaler(), FrozenEstimator(estimator)).fit(rows, LABELS)
    pipeline.steps[-1] = (pipeline.steps[-1][0], estimator)
    other = with_params(estimator, some_params(estimator, 2), X)
    model = to_onnx(pipeline, rows, adapters={"other": other}, adapter_input=True)
    scaled = pipeline[0].transform(rows)
    assert_same(run(model, rows), pipeline, rows)
    assert_same(run(model, rows, other.adapter_params_), other, scaled)


def test_a_search_over_a_pipeline_with_columns_of_strings_takes_adapters(net):
    frame = pd.DataFrame(TABLE[:, :3], columns=["u", "v", "w"])
    frame["kind"] = np.array(["x", "y", "z"])[np.arange(len(frame)) % 3]
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["u", "v", "w"]),
            ("strings", OneHotEncoder(sparse_output=False), ["kind"]),
        ]
    )
    pipeline = make_pipeline(columns, finetuner_of(FrozenEstimator(net), max_observations=6))
    search = GridSearchCV(pipeline, {"metricoptfinetuner__lr": [0.01]}, cv=2).fit(frame, LABELS)
    best = search.best_estimator_
    other = with_params(best[-1], some_params(best[-1]), TABLE)
    model = to_onnx(search, frame, adapters={"own": best[-1], "other": other})
    predictor = OnnxPredictor(model.SerializeToString(), adapter="other")
    expected = other.predict_proba(best[:-1].transform(frame))
    assert np.abs(predictor.predict_proba(frame) - expected).max() < 1e-5
    predictor.set_params(adapter=None)
    assert (predictor.predict(frame) == search.predict(frame)).all()


@pytest.mark.parametrize("free", [False, True])
def test_a_predictor_runs_the_adapter_that_it_is_told(multiclass, free):
    estimator, X = multiclass
    other = with_params(estimator, some_params(estimator, 2), X)
    named = {"own": estimator, "other": other}
    model = to_onnx(estimator, X, adapters=named, adapter_input=free).SerializeToString()
    predictor = OnnxPredictor(model, adapter="other", batch_size=32)
    assert predictor.adapters_ == list(named)
    assert np.abs(predictor.predict_proba(X) - other.predict_proba(X)).max() < 1e-5
    assert (OnnxPredictor(model).predict(X) == estimator.predict(X)).all()


def test_export_leaves_finetuners_and_their_net_as_they_were(multiclass, net):
    estimator, X = multiclass
    other = with_params(estimator, some_params(estimator, 2), X)
    modules = [net.module_, estimator.estimator_.module_, other.estimator_.module_]
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    for module in modules:
        module.train()
    to_onnx(estimator, X, adapters={"other": other}, adapter_input=True)
    for module, state in zip(modules, before, strict=True):
        assert all(part.training for part in module.modules())
        assert not any(part._forward_hooks for part in module.modules())
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[k]) for k, value in module.state_dict().items())


def test_a_net_that_fit_trained_itself_is_refused():
    codes = (SCORES > 0).astype(int)
    estimator = finetuner_of(net_like(module=MLP), max_observations=6).fit(TABLE, codes)
    with pytest.raises(ValueError, match=r"weights before finetuning are gone.*FrozenEstimator"):
        to_onnx(estimator, TABLE, adapter_input=True)


def test_another_net_is_refused_and_the_layer_named(multiclass):
    estimator, X = multiclass
    foreign = copy.deepcopy(estimator)
    with torch.no_grad():
        for module in (foreign.estimator.estimator.module_, foreign.estimator_.module_):
            module[0].bias.add_(1)  # which hosts nothing
    with pytest.raises(ValueError, match=r"as 'foreign' one of another net: '0.bias' differs"):
        to_onnx(estimator, X, adapters={"foreign": foreign})


def test_a_net_that_was_trained_on_since_is_refused(multiclass):
    estimator, X = copy.deepcopy(multiclass[0]), multiclass[1]
    with torch.no_grad():
        estimator.estimator.estimator.module_[0].weight.mul_(1.01)
    with pytest.raises(ValueError, match=r"'estimator' .* changed in '0.weight' since"):
        to_onnx(estimator, X, adapter_input=True)


def test_other_hosts_and_other_adapters_are_refused(multiclass):
    estimator, X = multiclass
    last = copy.copy(estimator).set_params(adapter_targets=["7"])
    last = with_params(last, np.ones(8 * 3 + 3), X)
    with pytest.raises(ValueError, match=r"adapts the layers \['7'\]"):
        to_onnx(estimator, X, adapters={"last": last})
    shifted = copy.copy(estimator)
    shifted.adapter_ = ShiftAdapter()
    with pytest.raises(
        ValueError, match=r"another adapter: 'ShiftAdapter\(\)', not 'WeightAdapter\(scale=0.2\)'"
    ):
        to_onnx(estimator, X, adapters={"shifted": shifted})
    rescaled = copy.copy(estimator)
    rescaled.adapter_ = WeightAdapter(0.1)
    with pytest.raises(ValueError, match=r"WeightAdapter\(scale=0.1\)', not .*scale=0.2"):
        to_onnx(estimator, X, adapters={"rescaled": rescaled})
    changed = copy.copy(estimator).set_params(adapter_targets=["7"])
    with pytest.raises(ValueError, match="parameters where its adapter and adapter_targets ask"):
        to_onnx(changed, X, adapter_input=True)


def test_outputs_of_another_kind_are_refused(multiclass, retriever, binary):
    estimator, X = multiclass
    with pytest.raises(ValueError, match="another kind of output"):
        to_onnx(estimator, X, adapters={"search": retriever[0]})
    with pytest.raises(ValueError, match="another classes"):
        to_onnx(estimator, X, adapters={"binary": binary[0]})


def test_what_ends_in_no_finetuner_is_refused(multiclass, net):
    estimator, X = multiclass
    shifted = PostShiftClassifier(FrozenEstimator(estimator), scoring="f1_macro").fit(X, LABELS)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, LABELS)
    for other, message in (
        (net, "NeuralNetClassifier instead.* nothing in it is adapted"),
        (pipeline, "LogisticRegression instead.* nothing in it is adapted"),
        (shifted, "PostShiftClassifier instead.* export the finetuner inside"),
    ):
        with pytest.raises(TypeError, match=message):
            to_onnx(other, X, adapter_input=True)
        with pytest.raises(TypeError, match=message):
            to_onnx(other, X, adapters={"f1": estimator})


@pytest.mark.parametrize("adapters", [{}, [], "f1", {0: None}, {"": None}])
def test_adapters_that_are_no_dict_by_name_are_refused(multiclass, adapters):
    estimator, X = multiclass
    with pytest.raises(TypeError, match="must be a dict of fitted MetricOptFinetuners"):
        to_onnx(estimator, X, adapters=adapters)


def test_adapters_that_are_no_fitted_finetuners_are_refused(multiclass, net):
    estimator, X = multiclass
    with pytest.raises(TypeError, match="NeuralNetClassifier as 'net'"):
        to_onnx(estimator, X, adapters={"net": net})
    with pytest.raises(ValueError, match="not fitted as 'new'"):
        to_onnx(estimator, X, adapters={"new": finetuner_of(FrozenEstimator(net))})
    with pytest.raises(TypeError, match="'adapter_input' parameter of to_onnx must be a bool"):
        to_onnx(estimator, X, adapter_input="yes")


def test_parity_names_the_adapter_that_the_graph_does_not_reproduce(multiclass, tmp_path):
    estimator, X = multiclass

    class Liar(MetricOptFinetuner):
        def predict_proba(self, X):
            return super().predict_proba(X)[:, ::-1]

    liar = copy.copy(estimator)
    liar.__class__ = Liar
    with pytest.raises(ExportError, match="With adapter 'liar' fed: .* does not reproduce it"):
        to_onnx(estimator, X, tmp_path / "f.onnx", adapters={"own": estimator, "liar": liar})
    assert not list(tmp_path.iterdir())
