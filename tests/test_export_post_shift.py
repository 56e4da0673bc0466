"""Export of PostShiftClassifier: weights after whatever gives the probabilities."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from sk_metricopt import MetricOptFinetuner, PostShiftClassifier
from sk_metricopt._weighting import Weighting
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export import OnnxPredictor, to_onnx
from tests.nets import binary_classifier, classifier, table, trained

# What is inside

NAMES = np.array(["an", "né", "漢字"])
INNER = {
    "logistic": LogisticRegression,
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "hist_gradient_boosting": lambda: HistGradientBoostingClassifier(max_iter=5),
    "random_forest": lambda: RandomForestClassifier(7, max_depth=4, random_state=0),
    "mlp": lambda: MLPClassifier((6,), solver="lbfgs", max_iter=100, tol=0.1, random_state=0),
    "gradient_boosting": lambda: GradientBoostingClassifier(n_estimators=3),
    "neighbors": KNeighborsClassifier,
    "search": lambda: GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2),
}
TORCH = ["net", "binary_net", "finetuner"]


@functools.cache
def inner(kind, n_classes=3, named=True):
    X, y = table(n_classes)
    if kind == "net":
        return trained(classifier(module__n_classes=n_classes), X, y)
    if kind == "binary_net":
        return trained(binary_classifier(threshold=0.3), X, y.astype(np.float32))
    y = NAMES[y] if named else y
    if kind == "finetuner":
        net = classifier(module__n_classes=n_classes)
        return MetricOptFinetuner(net, max_observations=3, random_state=0).fit(X, y)
    return INNER[kind]().fit(X, y)


def post_shift(estimator, weighting="diagonal", improved=True, data=None, **params):
    """Weights that a search might find, without the search."""
    X, y = data or table(len(estimator.classes_))
    model = PostShiftClassifier(
        FrozenEstimator(estimator), weighting=weighting, max_observations=1, **params
    ).fit(X, np.asarray(estimator.classes_)[y])
    assert not model.improved_
    if improved:
        n_classes = len(model.classes_)
        log_scale = np.linspace(-2, 1.3, n_classes)[None]
        offset = np.array([[[0, 0.4, 0.1], [0.2, 0, 0.5], [0.3, 0.15, 0]]])
        offset = offset[:, :n_classes, :n_classes] if weighting == "full" else None
        model._weights = Weighting(log_scale, offset)
        model._set_weights(1)
        model.improved_ = True
    return model


def run(model, X):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["label", "probabilities"], {"X": X})


def op_types(model):
    return Counter(node.op_type for node in model.graph.node)


def properties_of(model):
    return {entry.key.removeprefix("sk_metricopt."): entry.value for entry in model.metadata_props}


def assert_says_the_same(model, estimator, n_classes):
    for n_rows, seed in ((1, 1), (2, 2), (300, 3)):
        X = table(n_classes, seed=seed)[0][:n_rows]
        label, probabilities = run(model, X)
        np.testing.assert_array_equal(label, estimator.predict(X))
        np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-5)
        assert probabilities.dtype == np.float32


# What it says


@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("weighting", ["diagonal", "full"])
@pytest.mark.parametrize(
    "kind, n_classes",
    [*((kind, n) for kind in INNER for n in (2, 3)), ("net", 3), ("binary_net", 2)]
    + [("finetuner", 3)],
)
def test_graph_decides_as_the_post_shift_at_any_batch_size(kind, n_classes, weighting, improved):
    estimator = post_shift(inner(kind, n_classes), weighting, improved)
    X = table(n_classes)[0]
    model = to_onnx(estimator, X)
    assert_says_the_same(model, estimator, n_classes)

    values = [*model.graph.input, *model.graph.output]
    assert [value.name for value in values] == ["X", "label", "probabilities"]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}
    if improved:
        assert (run(model, X)[0] != estimator.estimator_.predict(X)).any()
        assert model.graph.node[-2].op_type == "ArgMax" and op_types(model)["ArgMax"] == 1
        assert op_types(model)["Mul" if weighting == "diagonal" else "MatMul"] >= 1


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("kind", ["pipeline", "random_forest", "net"])
def test_opset_is_the_one_asked_for_and_each_domain_stands_once(kind, opset):
    model = to_onnx(post_shift(inner(kind)), table(3)[0], opset=opset)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions[""] == opset and len(versions) == len(model.opset_import)
    assert model.ir_version <= 10
    assert_says_the_same(model, post_shift(inner(kind)), 3)


@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("kind", ["logistic", "mlp", "finetuner"])
def test_labels_index_gives_the_index_and_the_predictor_the_labels(kind, improved):
    estimator = post_shift(inner(kind), improved=improved)
    X = table(3)[0]
    model = to_onnx(estimator, X, labels="index")
    label = run(model, X)[0]
    assert label.dtype == np.int64
    np.testing.assert_array_equal(estimator.classes_[label], estimator.predict(X))
    predictor = OnnxPredictor(model.SerializeToString())
    np.testing.assert_array_equal(predictor.predict(X), estimator.predict(X))


@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("classes", [[False, True], [-3, 2**40], [0.0, 1.0]])
def test_labels_that_are_no_strings_come_back_as_they_were(classes, improved):
    X, y = table(2)
    estimator = post_shift(LogisticRegression().fit(X, np.array(classes)[y]), improved=improved)
    predictor = OnnxPredictor(to_onnx(estimator, X).SerializeToString())
    assert predictor.classes_.dtype == estimator.classes_.dtype
    np.testing.assert_array_equal(predictor.predict(X), estimator.predict(X))


def test_label_of_an_unweighted_classifier_is_its_own_where_that_is_not_the_most_probable():
    X, y = table(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that probability=True will go
        machine = SVC(probability=True, random_state=0).fit(X, NAMES[y])
    estimator = post_shift(machine, improved=False)
    assert (machine.classes_[machine.predict_proba(X).argmax(1)] != machine.predict(X)).any()
    np.testing.assert_array_equal(run(to_onnx(estimator, X), X)[0], machine.predict(X))


def test_weights_of_a_thousand_keep_the_digits_of_small_probabilities():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3)).astype(np.float32)
    y = (X[:, 0] + 0.3 * rng.normal(size=2000) > 2.6).astype(int)
    for classes in ([0, 1], [1, 0]):  # the rare one second, and first
        for estimator in (
            LogisticRegression(),
            HistGradientBoostingClassifier(max_iter=10),
            MLPClassifier((4,), solver="lbfgs", max_iter=30, tol=0.1, random_state=0),
        ):
            model = PostShiftClassifier(FrozenEstimator(estimator), max_observations=1)
            labels = np.array(classes)[y]
            estimator.fit(X.astype(np.float64), labels)
            model.fit(X, labels)
            model._weights = Weighting(np.log([[1e-3, 1.0] if classes == [0, 1] else [1.0, 1e-3]]))
            model._set_weights(1)
            graph = to_onnx(model, X.astype(np.float64))
            expected = model.predict_proba(X.astype(np.float64))
            np.testing.assert_allclose(run(graph, X)[1], expected, rtol=0, atol=1e-5)


def test_post_shift_of_a_post_shift_is_one_graph():
    estimator = post_shift(post_shift(inner("logistic")), "full")
    model = to_onnx(estimator, table(3)[0])
    assert_says_the_same(model, estimator, 3)
    assert op_types(model)["ArgMax"] == 1


@pytest.mark.parametrize("weighting", ["diagonal", "full"])
def test_post_shift_that_found_its_weights_exports_by_its_method(weighting, tmp_path):
    X, y = table(3)
    estimator = PostShiftClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()),
        scoring="balanced_accuracy",
        weighting=weighting,
        n_iter=2,
        max_observations=8,
        guard_z=None,
        random_state=0,
    ).fit(X, NAMES[y])
    assert estimator.improved_
    path = tmp_path / "model.onnx"
    model = estimator.export_onnx(path, X)
    assert path.read_bytes() == model.SerializeToString()
    predictor = OnnxPredictor(path)
    np.testing.assert_array_equal(predictor.classes_, NAMES)
    np.testing.assert_array_equal(predictor.predict(X), estimator.predict(X))
    np.testing.assert_allclose(predictor.predict_proba(X), estimator.predict_proba(X), atol=1e-5)


# What the file holds


def test_file_is_reproducible_free_of_local_paths_and_without_the_unweighted_decision(tmp_path):
    for kind in ("pipeline", "hist_gradient_boosting", "mlp", "net"):
        path, estimator = tmp_path / f"{kind}.onnx", post_shift(inner(kind))
        X = table(3)[0]
        content = to_onnx(estimator, X, path).SerializeToString()
        assert path.read_bytes() == content == to_onnx(estimator, X).SerializeToString()
        for place in (Path(__file__).parent, Path.home(), Path(torch.__file__).parent, tmp_path):
            assert str(place).encode() not in content
        assert b".py" not in content
        found = op_types(onnx.load(path))
        assert {"Max", "Mul", "ReduceSum", "Div", "ArgMax", "Gather"} <= found.keys()
        assert not {"ZipMap", "LabelEncoder", "Scaler", "ArrayFeatureExtractor"} & found.keys()


@pytest.mark.parametrize("kind, library", [("logistic", "skl2onnx"), ("net", "torch")])
def test_metadata_tells_weights_scores_and_the_versions_of_what_wrote_it(kind, library):
    estimator = post_shift(inner(kind), scoring="f1_macro")
    found = properties_of(to_onnx(estimator, table(3)[0], metadata={"team": "risk"}))
    assert found["scorer"] == "f1_macro" and found["team"] == "risk"
    assert json.loads(found["weights"]) == estimator.weights_.tolist()
    assert json.loads(found["classes"]) == estimator.classes_.tolist()
    assert json.loads(found["score_before"]) == estimator.initial_score_
    assert json.loads(found["score_after"]) == estimator.best_score_
    versions = json.loads(found["versions"])
    assert library in versions and ("skl2onnx" in versions) != ("torch" in versions)
    assert "threshold" not in found


def test_threshold_of_a_net_is_told_only_where_it_decides():
    X = table(2)[0]
    kept, shifted = (post_shift(inner("binary_net", 2), improved=i) for i in (False, True))
    assert properties_of(to_onnx(kept, X))["threshold"] == "0.3"
    assert "threshold" not in properties_of(to_onnx(shifted, X))


@pytest.mark.parametrize("kind", ["random_forest", "net"])
def test_estimator_and_global_random_state_are_unchanged(kind):
    estimator, X = post_shift(inner(kind)), table(3)[0]
    expected, weights = estimator.predict_proba(X), estimator.weights_.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    to_onnx(estimator, X)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    np.testing.assert_array_equal(estimator.predict_proba(X), expected)
    np.testing.assert_array_equal(estimator.weights_, weights)


# What is refused


@pytest.mark.parametrize(
    "params, message",
    [
        ({"basis": [0]}, "PostShiftClassifier cannot be exported with the 'basis'"),
        ({"randomized": True}, "PostShiftClassifier cannot be exported with randomized=True"),
    ],
)
def test_decisions_that_are_no_function_of_the_probabilities_are_refused(params, message, tmp_path):
    X, y = table(3)
    X[:, 0] = X[:, 0] > 0
    estimator = PostShiftClassifier(
        FrozenEstimator(LogisticRegression().fit(X, y)), max_observations=1, **params
    ).fit(X, y)
    with pytest.raises(ExportError, match=message) as info:
        estimator.export_onnx(tmp_path / "model.onnx", X)
    assert all(words in str(info.value) for words in ("Next step", "No file was written"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: make_pipeline(StandardScaler(), net),
        lambda net: make_pipeline(StandardScaler(), FrozenEstimator(net)),
        lambda net: make_pipeline(make_pipeline(StandardScaler(), net)),
        lambda net: GridSearchCV(net, {"lr": [0.1]}, cv=2),
    ],
)
def test_net_inside_a_pipeline_or_search_is_weighted_where_it_is(wrap):
    X, y = table(2)
    estimator = post_shift(wrap(inner("net", 2)).fit(X, y))
    assert_says_the_same(to_onnx(estimator, X), estimator, 2)


def test_finetuner_inside_a_pipeline_is_weighted_where_it_is():
    estimator = post_shift(
        make_pipeline(FunctionTransformer().fit(table(3)[0]), inner("finetuner"))
    )
    assert_says_the_same(to_onnx(estimator, table(3)[0]), estimator, 3)


def test_step_that_skl2onnx_cannot_convert_is_named_and_leaves_no_file(tmp_path):
    X, y = table(2)
    pipeline = make_pipeline(FunctionTransformer(np.sinc), LogisticRegression()).fit(X, y)
    with pytest.raises(ExportError, match="skl2onnx could not translate Pipeline") as info:
        to_onnx(post_shift(pipeline), X, tmp_path / "model.onnx")
    assert all(word in str(info.value) for word in ("Likely cause", "Next step", "No file"))
    assert not list(tmp_path.iterdir())


def test_threshold_that_skl2onnx_forgets_decides_where_there_are_no_weights():
    X, y = table(2)
    tuned = TunedThresholdClassifierCV(LogisticRegression(), scoring="balanced_accuracy").fit(X, y)
    untuned = tuned.estimator_.predict(X)
    assert (tuned.predict(X) != untuned).any()
    estimator = post_shift(tuned, improved=False)
    assert_says_the_same(to_onnx(estimator, X), estimator, 2)


@pytest.mark.parametrize("improved", [True, False])
def test_graph_that_does_not_reproduce_the_estimator_leaves_no_file(improved, tmp_path):
    X, y = table(3)
    estimator = post_shift(inner("logistic"), improved=improved)
    estimator.predict_proba = lambda X: np.full((len(X), 3), 1 / 3)
    with pytest.raises(ExportError, match="'probabilities' differs from predict_proba") as info:
        to_onnx(estimator, X, tmp_path / "model.onnx")
    assert all(word in str(info.value) for word in ("Likely cause", "float32", "No file"))
    assert not list(tmp_path.iterdir())


def test_rows_tied_within_rounding_are_explained():
    # Probabilities 1/3 and 2/3, and weights that make them equal but for what float32 cannot hold.
    X, y = np.zeros((3, 1), dtype=np.float32), np.array([0, 1, 1])
    errors = []
    for excess in (1e-12, -1e-12):
        estimator = post_shift(DecisionTreeClassifier().fit(X, y), data=(X, y))
        estimator._weights = Weighting(np.log([[2.0 + excess, 1.0]]))
        estimator._set_weights(1)
        assert (estimator.predict(X) == (excess < 0)).all()
        try:
            to_onnx(estimator, X)
        except ExportError as error:
            errors.append(str(error))
    assert len(errors) == 1  # one graph for both
    assert "equal within rounding" in errors[0] and "leave these rows out of X" in errors[0]


@pytest.mark.parametrize(
    "X, error, message",
    [
        (None, ValueError, "'X' parameter of to_onnx .* Got None instead"),
        ({"X": np.ones((2, 6))}, TypeError, "'X' parameter of to_onnx .* Got dict"),
    ],
)
def test_X_that_cannot_be_an_example_is_refused_by_name(X, error, message):
    with pytest.raises(error, match=message):
        to_onnx(post_shift(inner("logistic")), X)


def test_unfitted_post_shift_is_refused_as_such():
    with pytest.raises(NotFittedError):
        to_onnx(PostShiftClassifier(LogisticRegression()), table(3)[0])


@pytest.mark.parametrize("kind, needed", [("logistic", "skl2onnx"), ("net", "onnxscript")])
def test_only_what_writes_the_graph_has_to_be_installed(kind, needed, monkeypatch):
    other = {"skl2onnx": "onnxscript", "onnxscript": "skl2onnx"}[needed]
    estimator, X = post_shift(inner(kind)), table(3)[0]
    to_onnx(estimator, X)
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(ImportError, match=rf"'{needed}'.*pip install \"sk_metricopt\[onnx,cpu\]\""):
        to_onnx(estimator, X)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, other, None)
    to_onnx(estimator, X)
