"""Export of retrievers: the embeddings that onnxruntime computes are those of transform."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from torch import nn

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt._onnx_mixin import OnnxMixin
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export import to_onnx
from sk_metricopt.metrics import make_retrieval_scorer
from tests.embedding_nets import (
    N_FEATURES,
    Embedder,
    ImageEmbedder,
    NormEmbedder,
    TokenEmbedder,
    embedder,
    labelled_points,
)
from tests.nets import same_weights, weights_of

X, Y = labelled_points()


class Centred(Embedder):
    def forward(self, X):
        return super().forward(X - X.mean(0))


class FixedBatch(Embedder):
    def forward(self, X):
        return super().forward(X.reshape(4, -1))


class Holder(OnnxMixin, BaseEstimator):
    """What a finetuner is to the export: it holds a fitted retriever."""

    def __init__(self, estimator_=None, scoring=None):
        self.estimator_ = estimator_
        self.scoring = scoring

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return self.estimator_.transform(X)


class Reversed(Holder):
    def transform(self, X):
        return super().transform(X)[:, ::-1]


MODULES = {
    "table": NormEmbedder,
    "tuple": functools.partial(Embedder, output="tuple"),
    "images": ImageEmbedder,
    "tokens": TokenEmbedder,
}


def make_rows(kind, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "tokens":
        return rng.integers(0, 10, size=(n_rows, 5))
    shape = (2, 8, 8) if kind == "images" else (N_FEATURES,)
    return rng.normal(size=(n_rows, *shape)).astype(np.float32)


@functools.cache
def fitted(kind="table", metric="cosine"):
    """A retriever with a trained net, except where the criterion would be given a tuple."""
    rows = make_rows(kind, 48)
    module = MODULES[kind]
    net = module() if kind == "tuple" else embedder(module, max_epochs=1)
    return EmbeddingRetriever(net, metric=metric, random_state=0).fit(rows, np.arange(48) % 6)


def around(module, metric="cosine"):
    return EmbeddingRetriever(module, metric=metric).fit(X)


def run(model, rows):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"X": rows})[0]


def properties_of(model):
    return {entry.key.removeprefix("sk_metricopt."): entry.value for entry in model.metadata_props}


@pytest.mark.parametrize(
    "kind, metric",
    [*((kind, "cosine") for kind in MODULES), ("table", "dot"), ("table", "euclidean")],
)
def test_graph_gives_the_embeddings_of_transform_at_any_batch_size(kind, metric):
    retriever = fitted(kind, metric)
    model = to_onnx(retriever, make_rows(kind, 9))
    for n_rows in (1, 2, 7):
        rows = make_rows(kind, n_rows, seed=1)
        embeddings = run(model, rows)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, retriever.transform(rows), atol=1e-5)
        if metric == "cosine":
            np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_one_row_of_X_is_enough_for_a_graph_of_one_output_and_a_dynamic_batch():
    model = to_onnx(fitted(), X[:1])
    values = [*model.graph.input, *model.graph.output]
    assert [value.name for value in values] == ["X", "embeddings"]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}


@pytest.mark.parametrize("opset", [18, 22])
def test_opset_is_the_one_asked_for_and_the_only_one(opset):
    model = to_onnx(fitted(), X, opset=opset)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


def test_pretrained_modules_and_frozen_nets_export_alike():
    net = fitted().estimator_
    graphs = [
        to_onnx(EmbeddingRetriever(pretrained).fit(X), X)
        for pretrained in (FrozenEstimator(net), net.module_)
    ]
    for graph in graphs:
        np.testing.assert_allclose(run(graph, X), fitted().transform(X), atol=1e-5)


def test_zero_vectors_stay_zero_where_the_metric_is_cosine():
    rows = np.array([[-1.0, -2.0], [3.0, 4.0]], dtype=np.float32)
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    model = to_onnx(EmbeddingRetriever(nn.Sequential(linear, nn.ReLU())).fit(rows), rows)
    np.testing.assert_allclose(run(model, rows), [[0, 0], [0.6, 0.8]], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_what_may_differ_goes_by_the_length_of_the_embeddings(scale):
    module = nn.Linear(N_FEATURES, 64)
    with torch.no_grad():
        module.weight.mul_(scale)
        module.bias.mul_(scale)
    to_onnx(around(module, "dot"), X)  # raises where float32 rounding counts as a difference

    wrong = Holder(around(module, "dot"))
    wrong.transform = lambda X: wrong.estimator_.transform(X) * np.float32(1.001)
    with pytest.raises(ExportError, match="'embeddings' differs from transform"):
        to_onnx(wrong, X)


def test_X_may_be_a_frame_and_columns_are_named_in_the_metadata():
    frame = pd.DataFrame(X.astype(np.float64), columns=list("abcdef"))
    retriever = EmbeddingRetriever(FrozenEstimator(fitted().estimator_), metric="dot").fit(frame)
    model = to_onnx(retriever, frame, metadata={"team": "search"})
    np.testing.assert_allclose(run(model, X), retriever.transform(frame), atol=1e-5)
    found = properties_of(model)
    assert json.loads(found.pop("versions"))["torch"] == torch.__version__
    assert found == {
        "schema": "1",
        "precision": "fp32",
        "metric": "dot",
        "n_components": "4",
        "n_features": str(N_FEATURES),
        "input_shape": f"[{N_FEATURES}]",
        "feature_names": json.dumps(list("abcdef")),
        "team": "search",
    }


def test_file_is_the_graph_and_nothing_else(tmp_path):
    path = tmp_path / "model.onnx"
    model = to_onnx(fitted("images"), make_rows("images", 5), path)
    content = path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert content == model.SerializeToString()
    for place in (Path(__file__).parent, Path.home(), Path(torch.__file__).parent, tmp_path):
        assert str(place).encode() not in content
    assert b".py" not in content


@pytest.mark.parametrize("training", [True, False])
def test_retriever_and_global_random_state_are_unchanged(training):
    retriever = fitted()
    net, gallery = retriever.estimator_, retriever.gallery_embeddings_.copy()
    net.module_.train(training)
    weights = weights_of(net.module_)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    to_onnx(retriever, X)

    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert net.module_.training is training
    assert same_weights(net.module_, weights)
    assert retriever.estimator_ is net
    assert np.array_equal(retriever.gallery_embeddings_, gallery)


def test_what_holds_a_retriever_exports_as_its_retriever_with_its_scorer_by_name():
    scorer = make_retrieval_scorer("recall_at_k", k=1)
    holder = Holder(fitted(), scoring=scorer)
    holder.scorer_, holder.initial_score_, holder.best_score_ = scorer, 0.25, 0.75
    model = to_onnx(holder, X)
    np.testing.assert_allclose(run(model, X), fitted().transform(X), atol=1e-5)
    found = properties_of(model)
    assert found["scorer"] == repr(scorer) and "recall_at_k" in found["scorer"]
    assert (found["score_before"], found["score_after"]) == ("0.25", "0.75")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Reversed(fitted()), "'embeddings' differs from transform on 96 of 96 rows"),
        (lambda: around(Centred()), "'embeddings' differs from transform on 1 of 1 rows"),
    ],
)
def test_graph_that_would_embed_otherwise_is_refused_and_leaves_no_file(make, message, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=message) as info:
        to_onnx(make(), X, path)
    assert all(word in str(info.value) for word in ("Likely cause", "Next step", "No file"))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [
        ("model.onnx", b"before")
    ]


def test_module_that_fixes_the_batch_is_refused():
    retriever = EmbeddingRetriever(FixedBatch()).fit(X[:4])
    with pytest.raises(ExportError, match="could not translate FixedBatch into ONNX"):
        to_onnx(retriever, X[:4])


def test_retriever_around_a_transformer_is_refused():
    retriever = EmbeddingRetriever(FrozenEstimator(PCA(2).fit(X))).fit(X)
    with pytest.raises(TypeError, match="retriever around a torch net. Got one around PCA"):
        to_onnx(retriever, X)


def test_labels_are_refused_for_a_retriever():
    with pytest.raises(ValueError, match="'labels' parameter of to_onnx .* Got 'index' instead"):
        to_onnx(fitted(), X, labels="index")


@pytest.mark.parametrize(
    "estimator",
    [
        EmbeddingRetriever(embedder()),
        Holder(EmbeddingRetriever(embedder())),
        MetricOptFinetuner(EmbeddingRetriever(embedder())),
    ],
)
def test_retriever_that_was_never_fitted_is_refused(estimator):
    with pytest.raises(NotFittedError):
        to_onnx(estimator, X)


def test_finetuned_retriever_embeds_in_onnxruntime_as_in_python(tmp_path):
    finetuner = MetricOptFinetuner(
        EmbeddingRetriever(embedder()),
        scoring=make_retrieval_scorer("recall_at_k", k=1),
        max_observations=8,
        guard_z=None,
        random_state=0,
    )
    finetuner.fit(X, Y)
    path = tmp_path / "model.onnx"
    model = finetuner.export_onnx(path, X)
    assert [output.name for output in model.graph.output] == ["embeddings"]
    np.testing.assert_allclose(run(path.read_bytes(), X), finetuner.transform(X), atol=1e-5)
    found = properties_of(model)
    assert "recall_at_k" in found["scorer"]
    assert json.loads(found["score_after"]) == finetuner.best_score_
