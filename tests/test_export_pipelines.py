"""Whole scikit-learn estimators with nets in them, as one graph."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks.tasks import data_home
from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export import OnnxPredictor, register, to_onnx
from tests.nets import (
    CNN,
    TokenNet,
    adaptive_classifier,
    binary_classifier,
    classifier,
    images,
    table,
    tokens,
    trained,
)


def finetuner(n_classes=2, **params):
    return MetricOptFinetuner(
        classifier(module__n_classes=n_classes),
        scoring="f1_macro",
        max_observations=12,
        random_state=0,
        **params,
    )


def post_shift(n_classes=2):
    return PostShiftClassifier(
        classifier(module__n_classes=n_classes),
        scoring="f1_macro",
        max_observations=12,
        random_state=0,
    )


def net(n_classes=2):
    return classifier(module__n_classes=n_classes)


def threshold_net(n_classes=2):
    return binary_classifier(threshold=0.37)


CLASSIFIERS = {"net": net, "finetuner": finetuner, "post_shift": post_shift}


def scaled(inner):
    return make_pipeline(StandardScaler(), inner)


def by_number(inner):
    numbers = make_column_transformer(
        (StandardScaler(), [4, 0]), (PCA(3), slice(1, 4)), remainder="passthrough"
    )
    return make_pipeline(numbers, inner)


STRUCTURES = {
    "pipeline": scaled,
    "column_transformer": by_number,
    "nested_pipeline": lambda inner: make_pipeline(StandardScaler(), make_pipeline(PCA(6), inner)),
    "feature_union": lambda inner: make_pipeline(
        FeatureUnion([("scaled", StandardScaler()), ("pca", PCA(2))]), PCA(6), inner
    ),
    "search_inside": lambda inner: make_pipeline(
        StandardScaler(),
        GridSearchCV(make_pipeline(PCA(), inner), {"pca__n_components": [6]}, cv=2),
    ),
    "search_of_classifier": lambda inner: GridSearchCV(inner, {}, cv=2),
    "search_outside": lambda inner: GridSearchCV(
        scaled(inner), {"standardscaler__with_mean": [True, False]}, cv=2
    ),
    "stacking": lambda inner: make_pipeline(
        StandardScaler(),
        StackingClassifier([("net", inner), ("linear", LogisticRegression())], cv=2),
    ),
    "voting": lambda inner: VotingClassifier(
        [("net", scaled(inner)), ("linear", LogisticRegression())], voting="soft"
    ),
    "calibrated": lambda inner: make_pipeline(
        StandardScaler(), CalibratedClassifierCV(inner, cv=2)
    ),
}


@functools.cache
def rows(dtype="float32", n_classes=2):
    X, y = table(n_classes)
    return X.astype(dtype), y


def labelled(y, labels):
    return {
        "int": y,
        "offset": y * 10 - 5,
        "str": np.array(["an", "né", "漢字"])[y],
        "bool": y.astype(bool),
    }[labels]


def run(model, X):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["label", "probabilities"], {"X": X})


def assert_agrees(model, estimator, X):
    for n_rows in (1, 2, 7, len(X)):
        label, probabilities = run(model, X[:n_rows].astype(np.float32))
        np.testing.assert_array_equal(label, estimator.predict(X[:n_rows]))
        np.testing.assert_allclose(probabilities, estimator.predict_proba(X[:n_rows]), atol=1e-5)


def properties_of(model):
    return {entry.key.removeprefix("sk_metricopt."): entry.value for entry in model.metadata_props}


# What holds a net


PAIRS = [(kind, structure) for kind in ("net", "finetuner") for structure in STRUCTURES]
PAIRS += [("post_shift", structure) for structure in ("pipeline", "stacking", "calibrated")]


@pytest.mark.parametrize("kind, structure", PAIRS)
def test_graph_of_what_holds_a_net_agrees_with_it_at_any_batch_size(kind, structure):
    X, y = rows()
    if kind == "net" and structure in ("search_outside", "search_inside"):
        X = X.astype(np.float32)
    estimator = STRUCTURES[structure](CLASSIFIERS[kind]()).fit(X, y)
    assert_agrees(to_onnx(estimator, X), estimator, X)


@pytest.mark.parametrize("labels", ["offset", "str", "bool"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_and_dtypes_of_any_kind_go_through_a_pipeline(dtype, labels):
    X, y = rows(dtype)
    estimator = scaled(finetuner()).fit(X, labelled(y, labels))
    assert_agrees(to_onnx(estimator, X), estimator, X)


def test_three_classes_with_names_go_through_a_stack_of_finetuners():
    X, y = rows(n_classes=3)
    stack = StackingClassifier(
        [("a", scaled(finetuner(3))), ("b", scaled(net(3)))], cv=2, passthrough=True
    ).fit(X, labelled(y, "str"))
    assert_agrees(to_onnx(stack, X), stack, X)


def test_threshold_of_a_binary_net_decides_inside_a_pipeline():
    X, y = rows()
    estimator = scaled(threshold_net()).fit(X, y.astype(np.float32))
    proba = estimator.predict_proba(X)[:, 1]
    assert ((proba > 0.37) != (proba > 0.5)).any()
    model = to_onnx(estimator, X)
    assert_agrees(model, estimator, X)
    assert properties_of(model)["threshold"] == "0.37"


def test_tuned_threshold_around_a_pipeline_with_a_net_decides():
    X, y = rows()
    estimator = TunedThresholdClassifierCV(scaled(net()), scoring="recall", cv=2).fit(X, y)
    assert (estimator.predict(X) != estimator.estimator_.predict(X)).any()
    assert_agrees(to_onnx(estimator, X), estimator, X)


def test_frozen_steps_are_seen_through():
    X, y = rows()
    inner = scaled(finetuner()).fit(X, y)
    estimator = make_pipeline(FrozenEstimator(inner[0]), FrozenEstimator(inner[1])).fit(X, y)
    assert_agrees(to_onnx(FrozenEstimator(estimator), X), estimator, X)


# Modules that are hard to nest


class Recurrent(nn.Module):
    """Optional inputs that are left out: of the LSTM, and of Clip."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True)
        self.output = nn.Linear(4, 2)

    def forward(self, X):
        hidden, _ = self.lstm(X.reshape(X.shape[0], 3, 2))
        return self.output(hidden[:, -1].clamp(max=0.5))


class Attentive(nn.Module):
    """Attention over a row's features."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
        self.lift, self.output = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, X):
        return self.output(self.layer(self.lift(X[:, :, None])).mean(1))


class Branching(nn.Module):
    """A branch of the graph that reads names from outside of it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, X):
        scores, positive = self.linear(X), X.sum() > 0
        if not torch.compiler.is_exporting():
            return scores * 2.0
        return torch.cond(positive, lambda S: S * 2.0, lambda S: S + S, (scores,))


@pytest.mark.parametrize("module", [Recurrent, Attentive])
@pytest.mark.parametrize("opset", [18, 20, 22])
def test_modules_with_optional_inputs_and_attention_are_nested_at_every_opset(module, opset):
    X, y = rows()
    inner = NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0, train_split=None
    )
    estimator = scaled(inner).fit(X, y)
    model = to_onnx(estimator, X, opset=opset)
    assert_agrees(model, estimator, X)
    domains = {entry.domain: entry.version for entry in model.opset_import}
    assert domains[""] == opset and len(domains) == len(model.opset_import)


def test_branches_that_read_from_outside_are_nested_twice_in_one_graph():
    X, y = rows()
    inner = NeuralNetClassifier(
        Branching,
        criterion=nn.CrossEntropyLoss,
        max_epochs=1,
        verbose=0,
        train_split=None,
    )
    members = [("a", inner), ("b", clone(inner).set_params(lr=0.1))]
    estimator = make_pipeline(StandardScaler(), VotingClassifier(members, voting="soft"))
    estimator.fit(X, y)
    model = to_onnx(estimator, X)
    assert sum(node.op_type == "If" for node in model.graph.node) == 2
    signs = set()
    for part in (X[:40], X[40:90], X[:1], X[1:2]):  # a branch hangs on all rows of a batch
        signs.add(bool(estimator[0].transform(part).sum() > 0))
        np.testing.assert_allclose(run(model, part)[1], estimator.predict_proba(part), atol=1e-5)
    assert signs == {True, False}


def _converted(estimator, X):
    register()
    return skl2onnx.to_onnx(estimator, X[:2], target_opset=18, options={"zipmap": False})


# skl2onnx on its own


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("structure", ["pipeline", "stacking", "search_of_classifier"])
def test_skl2onnx_converts_what_holds_a_net_once_it_is_registered(kind, structure):
    X, y = rows()
    estimator = STRUCTURES[structure](CLASSIFIERS[kind]()).fit(X, y)
    session = onnxruntime.InferenceSession(
        _converted(estimator, X).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    label, probabilities = session.run(None, {"X": X})
    np.testing.assert_array_equal(label, estimator.predict(X))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-5)


def test_estimators_carry_their_converter_where_nothing_was_registered():
    code = """
    import numpy as np, onnxruntime, skl2onnx
    from tests.test_export_pipelines import finetuner, rows, scaled
    X, y = rows()
    class Subclass(type(finetuner())):
        pass
    estimator = scaled(Subclass(**finetuner().get_params(deep=False))).fit(X, y)
    model = skl2onnx.to_onnx(estimator, X[:2], target_opset=18)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert (session.run(None, {"X": X})[0] == estimator.predict(X)).all()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# Tables


@functools.cache
def people():
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {
            "age-years": rng.integers(18, 90, n),
            "pay": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(3, 1, n)),
            "town": rng.choice(["Ulm", "Łódź", "Oslo", None], n),
            "married": rng.random(n) < 0.5,
            "job": pd.Categorical(rng.choice(["nurse", "cook"], n)),
        }
    )
    y = np.where((frame["pay"].fillna(0) > 20) ^ (frame["town"] == "Oslo"), "yes", "no")
    return frame, y


def table_pipeline(inner):
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="?", missing_values=np.nan),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    columns = make_column_transformer(
        (numbers, ["pay", "age-years"]), (words, ["job", "town"]), remainder="passthrough"
    )
    return make_pipeline(columns, inner)


@functools.cache
def fitted_table_pipeline():
    frame, y = people()
    inner = MetricOptFinetuner(
        adaptive_classifier(), scoring="f1_macro", max_observations=12, random_state=0
    )
    return table_pipeline(inner).fit(frame.replace({None: np.nan}), y)


def test_every_column_of_a_table_is_an_input_under_its_own_name(tmp_path):
    frame = people()[0].replace({None: np.nan})
    estimator = fitted_table_pipeline()
    model = to_onnx(estimator, frame, tmp_path / "model.onnx")
    assert [value.name for value in model.graph.input] == list(frame)
    predictor = OnnxPredictor(tmp_path / "model.onnx")
    assert list(predictor.feature_names_in_) == list(frame)
    new = frame.iloc[::-1].assign(town="never seen")
    np.testing.assert_array_equal(predictor.predict(new), estimator.predict(new))
    np.testing.assert_allclose(
        predictor.predict_proba(new), estimator.predict_proba(new), atol=1e-5
    )


def test_table_of_numbers_is_one_array_unless_columns_are_picked_by_name():
    frame = pd.DataFrame(rows()[0], columns=list("abcdef"))
    whole = scaled(finetuner()).fit(frame, rows()[1])
    model = to_onnx(whole, frame)
    assert [value.name for value in model.graph.input] == ["X"]
    assert json.loads(properties_of(model)["feature_names"]) == list("abcdef")
    picked = ColumnTransformer([("s", StandardScaler(), make_column_selector("[ace]"))])
    some = make_pipeline(picked, classifier(module__input_dim=3)).fit(frame, rows()[1])
    assert len(to_onnx(some, frame).graph.input) == 6


def test_array_of_strings_is_one_input():
    words = people()[0][["town", "job"]].astype(object).fillna("none").to_numpy(dtype=object)
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore", dtype=np.float32)
    estimator = make_pipeline(encoder, finetuner_of(6)).fit(words, people()[1])
    predictor = OnnxPredictor(to_onnx(estimator, words).SerializeToString())
    np.testing.assert_array_equal(predictor.predict(words), estimator.predict(words))


def finetuner_of(n_features):
    inner = classifier(module__input_dim=n_features)
    return MetricOptFinetuner(inner, scoring="f1_macro", max_observations=6, random_state=0)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda frame: frame[frame.columns[::-1]], ValueError, "columns in another order"),
        (lambda frame: frame.drop(columns="pay"), ValueError, r"columns without \['pay'\]"),
        (lambda frame: frame.assign(extra=1), ValueError, r"columns with \['extra'\] besides"),
        (lambda frame: frame.assign(pay="much"), TypeError, "must have numbers in column 'pay'"),
        (lambda frame: frame.assign(town=3), TypeError, "must have strings in column 'town'"),
        (lambda frame: frame.to_numpy()[:, :3], ValueError, "must be a table with 5 columns"),
        (lambda frame: 3, ValueError, "must be a table with 5 columns"),
    ],
)
def test_table_that_does_not_fit_the_graph_is_refused_by_name(change, error, message):
    frame = people()[0].replace({None: np.nan})
    predictor = OnnxPredictor(to_onnx(fitted_table_pipeline(), frame).SerializeToString())
    with pytest.raises(error, match=message):
        predictor.predict(change(frame))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda frame: frame.rename(columns={"pay": 3}), ValueError, "a different string"),
        (lambda frame: frame.rename(columns={"pay": "town"}), ValueError, "a different string"),
        (lambda frame: frame.rename(columns={"pay": "adapter"}), ValueError, "other names than"),
        (
            lambda frame: frame.assign(pay=pd.Timestamp("2020-01-01")),
            TypeError,
            "columns of numbers or strings. Got 'pay'",
        ),
        (lambda frame: frame.iloc[:0], ValueError, "at least one row"),
    ],
)
def test_table_that_no_graph_can_take_is_refused_by_name(change, error, message, tmp_path):
    frame = change(people()[0].replace({None: np.nan}))
    with pytest.raises(error, match=message):
        to_onnx(fitted_table_pipeline(), frame, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_strings_for_a_net_on_its_own_are_refused_by_name():
    with pytest.raises(TypeError, match="must be numbers for a net on its own"):
        to_onnx(finetuner().fit(*rows()), people()[0])


# Retrievers


def test_retriever_at_the_end_of_a_pipeline_gives_its_embeddings():
    X, y = rows()
    estimator = make_pipeline(StandardScaler(), FrozenEstimator(_retriever())).fit(X, y)
    model = to_onnx(estimator, X)
    predictor = OnnxPredictor(model.SerializeToString())
    np.testing.assert_allclose(predictor.transform(X), estimator.transform(X), atol=1e-5)
    assert properties_of(model)["metric"] == "cosine"


def test_retriever_may_be_a_step_before_a_classifier_and_in_a_union():
    X, y = rows()
    union = FeatureUnion([("net", _retriever()), ("pca", PCA(2))])
    estimator = make_pipeline(union, LogisticRegression()).fit(X, y)
    assert_agrees(to_onnx(estimator, X), estimator, X)


def test_transformer_without_a_net_is_a_graph_as_well():
    X, _ = rows()
    estimator = make_pipeline(StandardScaler(), PCA(3)).fit(X)
    predictor = OnnxPredictor(to_onnx(estimator, X).SerializeToString())
    np.testing.assert_allclose(predictor.transform(X), estimator.transform(X), atol=1e-5)


def _retriever():
    torch.manual_seed(0)
    return EmbeddingRetriever(nn.Linear(6, 4)).fit(rows()[0], rows()[1])


# Precision and outputs


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("kind", [*CLASSIFIERS, "pipeline", "retriever"])
def test_half_precision_computes_in_halves_and_takes_and_gives_floats(kind, opset):
    X, y = rows()
    estimator = {"pipeline": lambda: scaled(finetuner()), "retriever": _retriever, **CLASSIFIERS}
    estimator = estimator[kind]()
    estimator = estimator if kind == "retriever" else estimator.fit(X, y)
    model = to_onnx(estimator, X, precision="fp16", opset=opset)
    kinds = {value.data_type for value in model.graph.initializer}
    assert 10 in kinds  # FLOAT16
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {1}
    predictor = OnnxPredictor(model.SerializeToString())
    method = "transform" if kind == "retriever" else "predict_proba"
    got, wanted = getattr(predictor, method)(X), getattr(estimator, method)(X)
    assert got.dtype == np.float32
    assert 1e-6 < np.abs(got - wanted).max() < 5e-3
    assert properties_of(model)["precision"] == "fp16"


def test_half_precision_that_overflows_is_refused_and_explained(tmp_path):
    X, y = rows()
    estimator = finetuner().fit(X, y)
    module = estimator.estimator_.module_
    with torch.no_grad():  # the same function in full precision
        for part, factor in ((module.hidden, 1e6), (module.output, 1e-6)):
            part.weight.mul_(factor)
        module.hidden.bias.mul_(1e6)
    to_onnx(estimator, X)
    with pytest.raises(ExportError, match="half precision cannot hold .* scale the features"):
        to_onnx(estimator, X, tmp_path / "model.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("outputs", [["label"], ["probabilities"], ["probabilities", "label"]])
def test_outputs_that_nobody_asked_for_are_left_out(outputs):
    X, y = rows()
    estimator = scaled(finetuner()).fit(X, y)
    model = to_onnx(estimator, X, outputs=outputs)
    assert {value.name for value in model.graph.output} == set(outputs)
    predictor = OnnxPredictor(model.SerializeToString())
    for name, method in (("label", "predict"), ("probabilities", "predict_proba")):
        assert hasattr(predictor, method) == (name in outputs)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "bf16"}, "'precision' parameter of to_onnx must be 'fp32' or 'fp16'"),
        ({"outputs": "label"}, r"'outputs' parameter of to_onnx .* Got 'label'"),
        ({"outputs": []}, r"'outputs' parameter of to_onnx .* Got \[\]"),
        ({"outputs": ["embeddings"]}, r"'outputs' parameter .* \['label', 'probabilities'\]"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(options, message):
    X, y = rows()
    with pytest.raises(ValueError, match=message):
        to_onnx(scaled(finetuner()).fit(X, y), X, **options)


# What a file says, and what export leaves


def test_file_tells_of_the_estimator_in_it_that_serves_the_metric():
    X, y = rows()
    search = GridSearchCV(scaled(finetuner()), {}, cv=2, scoring="accuracy").fit(X, y)
    served = search.best_estimator_[-1]
    found = properties_of(to_onnx(search, X))
    assert found["scorer"] == "f1_macro"
    assert float(found["score_after"]) == served.best_score_
    assert json.loads(found["improved"]) == served.improved_
    assert len(found["adapter_digest"]) == 64


def test_file_is_one_reproducible_and_free_of_local_paths(tmp_path):
    frame = people()[0].replace({None: np.nan})
    contents = []
    for name in ("a.onnx", "b.onnx"):
        to_onnx(fitted_table_pipeline(), frame, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert contents[0] == contents[1]
    for place in (Path(__file__).parent, Path.home(), Path(torch.__file__).parent, tmp_path):
        assert str(place).encode() not in contents[0]
    assert b".py" not in contents[0]


def test_pipelines_are_exported_from_three_threads_at_once():
    X, y = rows()
    estimator = scaled(finetuner()).fit(X, y)
    wanted, got = to_onnx(estimator, X).SerializeToString(), []
    threads = [
        threading.Thread(target=lambda: got.append(to_onnx(estimator, X).SerializeToString()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [wanted] * 3


@pytest.mark.parametrize("training", [True, False])
def test_nets_in_a_pipeline_keep_mode_weights_and_the_random_streams(training):
    X, y = rows()
    estimator = scaled(finetuner()).fit(X, y)
    module = estimator[-1].estimator_.module_.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    np.random.seed(3)
    torch.manual_seed(3)
    streams = np.random.get_state()[1].copy(), torch.get_rng_state()
    to_onnx(estimator, X)
    assert all(part.training == training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert (np.random.get_state()[1] == streams[0]).all()
    assert torch.equal(torch.get_rng_state(), streams[1])


def test_missing_dependency_of_a_pipeline_with_a_net_is_named(monkeypatch):
    X, y = rows()
    estimator = scaled(finetuner()).fit(X, y)
    for name in ("skl2onnx", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ImportError, match=rf"'{name}'.*pip install"):
                to_onnx(estimator, X)


# Real data


@pytest.mark.data
def test_adult_pipeline_is_served_by_onnxruntime_alone_with_equal_labels_on_all_test_rows(tmp_path):
    table = pd.read_csv(data_home() / "adult_raw.csv.gz", na_values="?")
    y, split = table.pop("income"), table.pop("split")
    train, test = table[split == "train"][:6000], table[split == "test"]
    numbers = list(train.select_dtypes("number"))
    words = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers), remainder=words
    )
    inner = adaptive_classifier(optimizer=torch.optim.Adam, lr=1e-3)
    finetuned = MetricOptFinetuner(inner, scoring="f1_macro", max_observations=30, random_state=0)
    pipeline = make_pipeline(columns, finetuned).fit(train, y[train.index])
    assert test.isna().any().any() and pipeline[-1].improved_
    to_onnx(pipeline, test[:2000], tmp_path / "model.onnx")
    test.to_csv(tmp_path / "test.csv", index=False)
    code = """
    import sys
    import numpy as np, onnxruntime, pandas as pd
    frame = pd.read_csv("test.csv")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    kinds = {value.name: value.type for value in session.get_inputs()}
    feed = {
        name: frame[name].fillna("nan").to_numpy(object) if kind == "tensor(string)"
        else frame[name].to_numpy(np.float32)
        for name, kind in kinds.items()
    }
    feed = {name: values.reshape(-1, 1) for name, values in feed.items()}
    label, probabilities = session.run(["label", "probabilities"], feed)
    np.savez("out.npz", label=label.astype(str), probabilities=probabilities)
    assert not {"torch", "skorch", "sklearn", "sk_metricopt", "onnx"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=tmp_path)
    served = np.load(tmp_path / "out.npz")
    assert len(served["label"]) == 16281
    np.testing.assert_array_equal(served["label"], pipeline.predict(test))
    np.testing.assert_allclose(served["probabilities"], pipeline.predict_proba(test), atol=1e-5)


# What is easily mistaken


@pytest.mark.parametrize("wrap", [FixedThresholdClassifier, TunedThresholdClassifierCV])
def test_threshold_directly_around_a_net_decides_for_rows_that_were_not_checked(wrap):
    X, y = rows()
    settings = {"threshold": 0.8} if wrap is FixedThresholdClassifier else {"scoring": "recall"}
    estimator = wrap(net(), **settings).fit(X, y)
    inner = estimator.estimator_
    alike = X[inner.predict(X) == estimator.predict(X)]
    assert 0 < len(alike) < len(X)
    assert_agrees(to_onnx(estimator, alike), estimator, X)


@pytest.mark.parametrize("name", ["label", "probabilities", "embeddings", "", "adapter"])
def test_columns_called_as_outputs_are_refused_by_name(name):
    frame = people()[0].replace({None: np.nan}).rename(columns={"pay": name})
    with pytest.raises(ValueError, match="columns with other names than"):
        to_onnx(fitted_table_pipeline(), frame)


@pytest.mark.parametrize("name", ["classes", "label_index", "post_shift_0_given", "a column", "né"])
def test_columns_may_be_called_as_anything_within_the_graph(name):
    frame, y = people()
    frame = frame[["pay", "job"]].fillna(0).rename(columns={"pay": name})
    columns = make_column_transformer(
        (StandardScaler(), [name]), (OneHotEncoder(sparse_output=False), ["job"])
    )
    estimator = PostShiftClassifier(
        make_pipeline(columns, LogisticRegression()),
        scoring="f1_macro",
        max_observations=20,
        guard_z=None,
        random_state=0,
    ).fit(frame, y)
    predictor = OnnxPredictor(to_onnx(estimator, frame).SerializeToString())
    assert list(predictor.feature_names_in_) == [name, "job"]
    np.testing.assert_array_equal(predictor.predict(frame), estimator.predict(frame))


@pytest.mark.parametrize("make, data", [(CNN, images), (TokenNet, tokens)])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: make_pipeline(inner),
        lambda inner: GridSearchCV(inner, {"lr": [0.1]}, cv=2),
        lambda inner: FrozenEstimator(inner),
    ],
)
def test_what_holds_a_net_for_images_or_tokens_and_nothing_else_is_that_net(wrap, make, data):
    X, y = data()
    estimator = wrap(trained(classifier(make), X, y)).fit(X, y)
    label, probabilities = run(to_onnx(estimator, X), X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("word", ["nan", "never seen"])
def test_a_string_that_stands_for_missing_values_is_refused_and_no_other(word):
    frame = people()[0].replace({None: np.nan})
    predictor = OnnxPredictor(to_onnx(fitted_table_pipeline(), frame).SerializeToString())
    if word == "nan":
        with pytest.raises(ValueError, match="must not have the string 'nan' in column 'town'"):
            predictor.predict(frame.assign(town=word))
    else:
        assert len(predictor.predict(frame.assign(town=word))) == len(frame)


@pytest.mark.parametrize(
    "make, options, error, message",
    [
        (lambda X, y: LinearSVC().fit(X, y), {}, TypeError, "with predict_proba. Got LinearSVC"),
        (
            lambda X, y: DecisionTreeClassifier().fit(X, np.c_[y, y]),
            {},
            TypeError,
            "of one label. Got DecisionTreeClassifier of 2",
        ),
        (lambda X, y: LogisticRegression, {}, TypeError, "Got the class LogisticRegression"),
        (lambda X, y: net().fit(X, y), {"X": np.ones((3, 4), "f4")}, ValueError, "'X' parameter"),
        (lambda X, y: net().fit(X, y), {"X": [[1.0], [1.0, 2.0]]}, ValueError, "'X' parameter"),
        (lambda X, y: net().fit(X, y), {"outputs": 5}, ValueError, "'outputs' .* Got 5"),
        (lambda X, y: net().fit(X, y), {"outputs": [["label"]]}, ValueError, "'outputs'"),
        (lambda X, y: net().fit(X, y), {"metadata": ["a"]}, TypeError, "'metadata' .* mapping"),
        (lambda X, y: net().fit(X, y), {"metadata": {"a": "\ud800"}}, ValueError, "UTF-8"),
        (lambda X, y: net().fit(X, y), {"path": 5}, TypeError, "'path' parameter"),
        (lambda X, y: net().fit(X, y), {"path": "a\0b"}, TypeError, "'path' parameter"),
        (lambda X, y: net().fit(X, y), {"labels": np.ones(2)}, ValueError, "'labels' parameter"),
    ],
)
def test_what_no_graph_can_be_made_of_is_refused_by_name(make, options, error, message):
    X, y = rows()
    with pytest.raises(error, match=message):
        to_onnx(make(X, y), **{"X": X, **options})


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that takes no files")
def test_file_that_cannot_be_written_is_named():
    X, y = rows()
    with pytest.raises(OSError, match=r"'path' parameter of to_onnx must be .*: '/proc/a.onnx'"):
        to_onnx(net().fit(X, y), X, "/proc/a.onnx")


def test_longest_name_of_a_file_is_written_and_a_longer_one_refused(tmp_path):
    X, y = rows()
    estimator = net().fit(X, y)
    to_onnx(estimator, X, tmp_path / ("a" * 255))
    with pytest.raises(ValueError, match="'path' parameter of to_onnx must be a file in an"):
        to_onnx(estimator, X, tmp_path / ("a" * 256))
    assert [len(entry.name) for entry in tmp_path.iterdir()] == [255]


def test_translation_that_fails_says_so_and_logs_nothing(capfd):
    class Deciding(nn.Linear):
        def forward(self, X):
            return super().forward(X if bool(X.sum() > 0) else -X)

    X, y = rows()
    inner = NeuralNetClassifier(
        Deciding(6, 2), criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0, train_split=None
    )
    estimator = scaled(inner).fit(X, y)
    capfd.readouterr()
    with pytest.raises(ExportError, match="torch could not translate Deciding"):
        to_onnx(estimator, X)
    assert "Traceback" not in capfd.readouterr().err
