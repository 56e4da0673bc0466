"""EmbeddingRetriever: search, training, what it wraps, and as a citizen of scikit-learn."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import random
import re

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from pytorch_metric_learning import losses, miners
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.cluster import FeatureAgglomeration
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import NotFittedError
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn

from sk_metricopt import EmbeddingRetriever, _gallery_index
from sk_metricopt import _optional as optional
from sk_metricopt._embedding_net import MinedCriterion, SupervisedContrastiveLoss
from tests.embedding_nets import (
    N_FEATURES,
    Embedder,
    ImageEmbedder,
    NormEmbedder,
    TokenEmbedder,
    embedder,
    labelled_points,
)
from tests.nets import MLP, classifier, same_weights, trained, weights_of

X, Y = labelled_points()
QUERIES, QUERY_LABELS = labelled_points(seed=0, n_rows=40)
METRICS = ("cosine", "dot", "euclidean")


def fitted(net=None, X=X, y=Y, **params):
    net = embedder() if net is None else net
    return EmbeddingRetriever(net, **({"random_state": 0} | params)).fit(X, y)


@pytest.fixture(scope="module")
def net():
    """A net that was trained once, by its own fit."""
    return trained(embedder(max_epochs=8), X, Y.astype(np.int64))


def similarity_by_hand(A, B, metric):
    A, B = A.astype(np.float64), B.astype(np.float64)
    by = {"cosine": cosine_similarity, "dot": np.matmul, "euclidean": euclidean_distances}[metric]
    return -by(A, B) if metric == "euclidean" else by(A, B.T if metric == "dot" else B)


# Search


@pytest.mark.parametrize("metric", METRICS)
def test_search_follows_the_metric(net, metric):
    retriever = fitted(FrozenEstimator(net), metric=metric)
    similarity = similarity_by_hand(net.forward(QUERIES).numpy(), net.forward(X).numpy(), metric)
    np.testing.assert_allclose(retriever.decision_function(QUERIES), similarity, atol=1e-5)
    distance, index = retriever.kneighbors(QUERIES, n_neighbors=7)
    np.testing.assert_array_equal(index, np.argsort(-similarity, axis=1)[:, :7])
    expected = -np.sort(-similarity, axis=1)[:, :7]
    expected = 1 - expected if metric == "cosine" else -expected
    np.testing.assert_allclose(distance, expected, atol=1e-5)
    np.testing.assert_array_equal(retriever.predict(QUERIES), Y[index[:, 0]])


@pytest.mark.parametrize("index", ["auto", "faiss", NearestNeighbors()], ids=str)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gallery_item_is_not_its_own_neighbour(net, metric, index):
    retriever = fitted(FrozenEstimator(net), metric=metric, index=index)
    similarity = retriever.decision_function(X)
    np.fill_diagonal(similarity, -np.inf)
    rows = retriever.kneighbors(n_neighbors=3, return_distance=False)
    np.testing.assert_array_equal(rows, np.argsort(-similarity, axis=1)[:, :3])
    rows = retriever.kneighbors(n_neighbors=len(X) - 1, return_distance=False)
    assert all(sorted([i, *found]) == list(range(len(X))) for i, found in enumerate(rows.tolist()))


@pytest.mark.parametrize("index", ["auto", "faiss", NearestNeighbors()], ids=str)
def test_duplicates_of_a_gallery_item_are_its_neighbours(net, index):
    same = np.repeat(X[:1], 6, axis=0)
    retriever = fitted(FrozenEstimator(net), X=same, y=Y[:6], index=index)
    distance, rows = retriever.kneighbors(n_neighbors=2)
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    assert (rows != np.arange(6)[:, None]).all()


@pytest.mark.parametrize(
    ("metric", "index"),
    [
        *itertools.product(METRICS, ["exact", "faiss"]),
        *itertools.product(["cosine", "euclidean"], ["brute", "kd_tree"]),  # they know no products
    ],
)
def test_all_indexes_find_the_same(net, metric, index):
    if index in ("brute", "kd_tree"):
        index = NearestNeighbors(algorithm=index)
    exact = fitted(FrozenEstimator(net), metric=metric)
    other = fitted(FrozenEstimator(net), metric=metric, index=index)
    for asked in ({}, {"X": QUERIES}, {"X": QUERIES, "n_neighbors": len(X)}):
        for found, expected in zip(
            other.kneighbors(**asked), exact.kneighbors(**asked), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_index_is_cloned_and_may_be_approximate_or_rank_by_another_metric(net):
    class Backwards(BaseEstimator):
        """Proposes the right rows in the wrong order, and finds too few."""

        def fit(self, X):
            self.inner_ = NearestNeighbors().fit(X)
            return self

        def kneighbors(self, X, n_neighbors, return_distance):
            rows = self.inner_.kneighbors(X, n_neighbors, return_distance=False)[:, ::-1].copy()
            rows[:, 0] = -1
            return rows

    index = Backwards()
    retriever = fitted(FrozenEstimator(net), index=index)
    exact = fitted(FrozenEstimator(net))
    rows = retriever.kneighbors(QUERIES, n_neighbors=4, return_distance=False)
    np.testing.assert_array_equal(rows[:, :3], exact.kneighbors(QUERIES, 4)[1][:, :3])
    assert not hasattr(index, "inner_")


def test_search_follows_the_gallery_at_the_time_of_the_call(net):
    for index in ("auto", "faiss", NearestNeighbors()):
        retriever = fitted(FrozenEstimator(net), index=index)
        expected = retriever.kneighbors(QUERIES, n_neighbors=1, return_distance=False)
        retriever.gallery_embeddings_ = retriever.gallery_embeddings_[::-1]
        retriever.gallery_labels_ = retriever.gallery_labels_[::-1]
        found = retriever.kneighbors(QUERIES, n_neighbors=1, return_distance=False)
        np.testing.assert_array_equal(found, len(X) - 1 - expected)
        np.testing.assert_array_equal(retriever.predict(QUERIES), Y[expected[:, 0]])


@pytest.mark.parametrize("metric", METRICS)
def test_gallery_is_made_ready_once_and_not_stored_twice(net, metric, monkeypatch):
    made = []

    class Counting(_gallery_index.Gallery):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(_gallery_index, "Gallery", Counting)
    retriever = fitted(FrozenEstimator(net), metric=metric)
    size = len(pickle.dumps(retriever))
    found = [retriever.kneighbors(QUERIES) for _ in range(3)]
    assert len(made) == 1
    for distance, index in found[1:]:
        np.testing.assert_array_equal(distance, found[0][0])
        np.testing.assert_array_equal(index, found[0][1])
    assert len(pickle.dumps(retriever)) == size
    assert retriever.set_gallery(QUERIES[:7]).kneighbors(X)[1].max() == 6
    assert len(made) == 2


def test_gallery_is_replaced(net):
    retriever = fitted(FrozenEstimator(net))
    labels = QUERY_LABELS.astype(str)
    assert retriever.set_gallery(QUERIES, labels) is retriever
    np.testing.assert_array_equal(retriever.predict(QUERIES), labels)
    assert retriever.gallery_embeddings_.shape == (len(QUERIES), 4)
    assert retriever.decision_function(X).shape == (len(X), len(QUERIES))
    retriever.set_gallery(X)
    assert retriever.gallery_labels_ is None
    assert retriever.kneighbors(QUERIES)[0].shape == (len(QUERIES), 5)


@pytest.mark.parametrize("index", ["auto", "faiss", NearestNeighbors()], ids=str)
def test_gallery_that_an_index_was_built_of_cannot_be_written_into(net, index):
    retriever = fitted(FrozenEstimator(net), index=index)
    with pytest.raises(ValueError, match="read-only"):
        retriever.gallery_embeddings_[:] = 0
    own = retriever.gallery_embeddings_.copy()
    retriever.gallery_embeddings_ = own
    before = retriever.kneighbors(QUERIES, return_distance=False)
    own[:] = own[::-1].copy()
    after = retriever.kneighbors(QUERIES, return_distance=False)
    np.testing.assert_array_equal(after, len(X) - 1 - before)


def test_zero_embedding_is_searched_by_without_nan():
    module = nn.Linear(N_FEATURES, 3, bias=False)
    rows = np.vstack([np.zeros((1, N_FEATURES), np.float32), X])
    retriever = EmbeddingRetriever(module).fit(rows)
    assert np.isfinite(retriever.kneighbors()[0]).all()
    np.testing.assert_array_equal(retriever.transform(rows)[0], 0)


def test_score_is_recall_at_one_of_the_rows_among_themselves(net):
    retriever = fitted(FrozenEstimator(net), X=QUERIES, y=QUERY_LABELS)
    nearest = EmbeddingRetriever(FrozenEstimator(net)).fit(X).kneighbors(n_neighbors=1)[1][:, 0]
    assert retriever.score(X, Y) == pytest.approx((Y[nearest] == Y).mean())


def test_no_query_is_no_error_of_ours(net):
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        fitted(FrozenEstimator(net)).kneighbors(X[:0])


# Training


def test_net_is_trained_as_skorch_would_with_labels_from_0():
    retriever = fitted(y=np.array(list("abcdefgh"))[Y])
    seen = []

    class Watching(losses.SupConLoss):
        def forward(self, embeddings, labels):
            seen.append(labels)
            return super().forward(embeddings, labels)

    fitted(embedder(criterion=Watching()), y=np.array(list("hgfedcba"))[Y])
    assert seen[0].dtype == torch.int64
    assert set(torch.cat(seen).tolist()) == set(range(8))
    assert set(retriever.gallery_labels_) == set("abcdefgh")
    assert len(retriever.history_) == 4
    assert retriever.history_ is retriever.estimator_.history


def test_training_improves_search():
    few, many = fitted(embedder(max_epochs=1, lr=1e-6)), fitted(embedder(max_epochs=25))
    test = labelled_points(seed=0, n_rows=400)
    assert many.score(*test) > few.score(*test) + 0.05


@pytest.mark.parametrize(
    "params",
    [
        {"criterion": losses.TripletMarginLoss},
        {"criterion": losses.SupConLoss, "criterion__temperature": 0.5},
        {"criterion": losses.SupConLoss(temperature=0.5)},
        {
            "criterion": losses.ProxyAnchorLoss,
            "criterion__num_classes": 8,
            "criterion__embedding_size": 4,
        },
        {"criterion": losses.NormalizedSoftmaxLoss(num_classes=8, embedding_size=4)},
    ],
    ids=["triplet", "class", "instance", "proxies", "softmax"],
)
@pytest.mark.parametrize("mined", [False, True])
def test_criteria_and_miners_of_metric_learning(params, mined):
    miner = miners.BatchHardMiner() if mined else None
    net = embedder(**params)
    before = copy.deepcopy(net.get_params())
    retriever = fitted(net, miner=miner)
    assert 0 < retriever.score(X, Y) <= 1
    assert not getattr(net, "initialized_", False)
    assert net.get_params().keys() == before.keys()
    assert type(net.criterion) is type(before["criterion"])
    own = dict(retriever.estimator_.criterion_.named_parameters())
    proxies = [value for name, value in own.items() if value.dim() == 2]
    assert len(proxies) == isinstance(params["criterion"], losses.NormalizedSoftmaxLoss) + (
        params["criterion"] is losses.ProxyAnchorLoss
    )
    in_optimizer = {
        id(p) for g in retriever.estimator_.optimizer_.param_groups for p in g["params"]
    }
    assert all(id(p) in in_optimizer for p in proxies)
    pickle.loads(pickle.dumps(retriever))


def test_miner_chooses_what_the_criterion_sees():
    batches = []

    class Nobody(nn.Module):
        """Mines no triplet at all."""

        def forward(self, embeddings, labels):
            batches.append((embeddings.shape, labels.dtype))
            nothing = torch.zeros(0, dtype=torch.long)
            return nothing, nothing, nothing

    net = embedder(Embedder, criterion=losses.TripletMarginLoss, max_epochs=1)
    retriever = fitted(net, miner=Nobody())
    assert len(batches) == 3
    assert batches[0] == ((32, 4), torch.int64)
    np.testing.assert_array_equal(retriever.history_[:, "train_loss"], [0.0])
    assert type(retriever._criterion_module()) is MinedCriterion


def test_same_seed_gives_the_same_retriever_and_another_seed_another():
    first, same, other = (fitted(random_state=seed).transform(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_global_random_streams_are_left_where_they_were():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    retriever = fitted()
    retriever.set_gallery(X, Y).kneighbors(QUERIES)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


# What it wraps


@pytest.mark.parametrize("training", [True, False])
def test_frozen_net_is_copied_and_unchanged(training):
    net = trained(embedder(NormEmbedder), X, Y.astype(np.int64))
    net.module_.train(training)
    before = weights_of(net.module_)
    retriever = fitted(FrozenEstimator(net))
    embeddings = retriever.transform(QUERIES)
    assert same_weights(net.module_, before)
    assert all(m.training is training for m in net.module_.modules())
    assert retriever.estimator_ is not net
    assert not hasattr(retriever, "history_")
    with torch.no_grad():
        next(net.module_.parameters()).zero_()
    np.testing.assert_array_equal(retriever.transform(QUERIES), embeddings)


def test_module_counts_as_pre_trained_and_is_unchanged():
    module = NormEmbedder().train()
    before = weights_of(module)
    retriever = fitted(module, y=None)
    assert same_weights(module, before)
    assert module.training
    expected = copy.deepcopy(module).eval()(torch.tensor(QUERIES)).detach()
    expected = nn.functional.normalize(expected).numpy()
    np.testing.assert_allclose(retriever.transform(QUERIES), expected, atol=1e-6)
    assert isinstance(retriever._criterion_module(), SupervisedContrastiveLoss)


def test_net_around_a_module_instance_warns_and_leaves_it_alone():
    module = Embedder()
    before = weights_of(module)
    with pytest.warns(UserWarning, match="module is an instance"):
        fitted(embedder(module))
    assert same_weights(module, before)


def test_first_of_a_tuple_is_the_embedding(net):
    plain, several = Embedder(), Embedder(output="tuple")
    several.load_state_dict(plain.state_dict())
    one, other = (EmbeddingRetriever(module).fit(X) for module in (plain, several))
    np.testing.assert_array_equal(one.transform(QUERIES), other.transform(QUERIES))


def test_fitted_transformer_embeds():
    pca = PCA(3, random_state=0).fit(X)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    retriever = EmbeddingRetriever(FrozenEstimator(pca), metric="euclidean").fit(X, Y)
    np.testing.assert_allclose(retriever.transform(QUERIES), pca.transform(QUERIES))
    assert retriever.estimator_ is pca
    assert retriever.n_features_in_ == N_FEATURES
    assert retriever.predict(QUERIES).shape == QUERY_LABELS.shape
    named = PCA(3).set_output(transform="pandas").fit(frame)
    retriever = EmbeddingRetriever(FrozenEstimator(named)).fit(frame, Y)
    np.testing.assert_allclose(np.linalg.norm(retriever.transform(frame), axis=1), 1, atol=1e-6)
    assert list(retriever.feature_names_in_) == list("abcdef")


class Lengths(TransformerMixin, BaseEstimator):
    """Embeds texts, which no array of numbers holds."""

    def fit(self, texts, y=None):
        return self

    def transform(self, texts):
        return [[len(text), text.count("a")] for text in texts]


def test_transformer_is_given_rows_as_they_came():
    retriever = EmbeddingRetriever(FrozenEstimator(Lengths()), n_neighbors=1)
    retriever.fit(["a", "bbbb", "aaaa"], ["x", "y", "z"])
    assert retriever.predict(["cccc", "aa"]).tolist() == ["y", "x"]
    assert retriever.transform(["a"]).dtype == np.float32


def test_images_and_tokens():
    rng = np.random.default_rng(0)
    images, tokens = rng.normal(size=(30, 2, 8, 8)), rng.integers(0, 10, size=(30, 5))
    y = np.arange(30) % 3
    assert fitted(embedder(ImageEmbedder), X=images, y=y).kneighbors()[0].shape == (30, 5)
    for rows in (tokens, tokens.astype(float), pd.DataFrame(tokens)):
        retriever = fitted(embedder(TokenEmbedder), X=rows, y=y)
        assert retriever.transform(rows).shape == (30, 4)


@pytest.mark.parametrize(
    "convert",
    [
        np.float64,
        lambda X: X.tolist(),
        torch.tensor,
        lambda X: pd.DataFrame(X, columns=list("abcdef")),
    ],
    ids=["float64", "list", "tensor", "frame"],
)
def test_same_rows_in_any_container_give_the_same_retriever(convert):
    expected = fitted().kneighbors(QUERIES)
    found = fitted(X=convert(X), y=torch.tensor(Y)).kneighbors(convert(QUERIES))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1]], ids=["rows", "columns"])
@pytest.mark.parametrize("kind", ["net", "module"])
def test_rows_may_be_a_reversed_view(kind, view):
    estimator = embedder() if kind == "net" else Embedder()
    expected = fitted(estimator, X=X[view].copy()).kneighbors(QUERIES[view].copy())
    found = fitted(estimator, X=X[view]).kneighbors(QUERIES[view])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# What the engine uses


def test_retriever_around_another_module(net):
    retriever = fitted(FrozenEstimator(net))
    module = copy.deepcopy(retriever._bridge().module)
    with torch.no_grad():
        module.embedding.weight.mul_(torch.tensor([[2.0], [0.1], [1.0], [1.0]]))
    embeddings = retriever.transform(QUERIES)
    other = retriever._with_module(module, X, Y)
    assert other._bridge().module is module
    assert not np.allclose(other.transform(QUERIES), embeddings)
    np.testing.assert_array_equal(retriever.transform(QUERIES), embeddings)
    np.testing.assert_allclose(other.transform(X), other.gallery_embeddings_, atol=1e-6)
    with pytest.raises(ValueError, match="gallery .* was never set. Call set_gallery"):
        retriever._with_module(module).kneighbors(QUERIES)


@pytest.mark.parametrize("metric", METRICS)
def test_bridge_gives_what_transform_gives(net, metric):
    retriever = fitted(FrozenEstimator(net), metric=metric)
    bridge = retriever._bridge()
    with torch.no_grad():
        outputs = bridge.outputs(bridge.module(bridge.tensor(QUERIES)))
    np.testing.assert_allclose(outputs.numpy(), retriever.transform(QUERIES), atol=1e-6)
    np.testing.assert_array_equal(bridge.tensor(QUERIES[::-1]).numpy(), QUERIES[::-1])


@pytest.mark.parametrize("same_label", [True, False])
def test_default_criterion_pulls_labels_together(same_label):
    E = torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.2, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1]) if same_label else torch.arange(3)
    loss = SupervisedContrastiveLoss()(E, labels)
    loss.backward()
    assert torch.isfinite(E.grad).all()
    assert bool((E.grad != 0).any()) is same_label
    if same_label:
        expected = losses.SupConLoss(temperature=0.1)(E, labels)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# A citizen of scikit-learn


def test_it_is_a_transformer_and_no_classifier():
    retriever = fitted()
    assert not is_classifier(retriever)
    assert not hasattr(retriever, "classes_")
    assert retriever.get_feature_names_out().tolist() == [
        f"embeddingretriever{i}" for i in range(4)
    ]
    assert retriever.n_features_in_ == N_FEATURES
    assert retriever.gallery_embeddings_.shape == (len(X), 4)
    assert sklearn.utils.get_tags(retriever).target_tags.required
    assert not sklearn.utils.get_tags(EmbeddingRetriever(nn.Linear(2, 2))).target_tags.required
    np.testing.assert_array_equal(retriever.fit_transform(X, Y), retriever.transform(X))


def test_frames_in_and_out():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    retriever = EmbeddingRetriever(embedder(), random_state=0).set_output(transform="pandas")
    embeddings = retriever.fit(frame, Y).transform(frame)
    assert isinstance(embeddings, pd.DataFrame)
    assert embeddings.shape == (len(X), 4)
    assert list(retriever.feature_names_in_) == list("abcdef")
    expected = fitted().kneighbors(QUERIES)[1]
    queries = pd.DataFrame(QUERIES, columns=list("abcdef"))
    np.testing.assert_array_equal(retriever.kneighbors(queries)[1], expected)
    assert retriever.score(frame, Y) == fitted().score(X, Y)
    with pytest.raises(ValueError, match="feature names"):
        retriever.transform(queries[list("fedcba")])


@pytest.mark.parametrize("index", ["auto", "faiss", NearestNeighbors()], ids=str)
@pytest.mark.parametrize("dump", [pickle, joblib], ids=["pickle", "joblib"])
def test_dumped_and_loaded_finds_the_same(dump, index):
    retriever, file = fitted(miner=miners.BatchHardMiner(), index=index), io.BytesIO()
    dump.dump(retriever, file)
    file.seek(0)
    loaded = dump.load(file)
    for a, b in zip(loaded.kneighbors(QUERIES), retriever.kneighbors(QUERIES), strict=True):
        np.testing.assert_array_equal(a, b)
    for one in (loaded, retriever, copy.deepcopy(retriever)):
        assert one.index_.embeddings is one.gallery_embeddings_
        assert not one.gallery_embeddings_.flags.writeable


def test_clone_shares_nothing_fitted():
    retriever = fitted(miner=miners.BatchHardMiner(), n_neighbors=3)
    cloned = clone(retriever)
    assert not hasattr(cloned, "estimator_")
    assert cloned.n_neighbors == 3
    assert isinstance(cloned.miner, miners.BatchHardMiner)
    expected = retriever.transform(QUERIES)
    np.testing.assert_array_equal(cloned.fit(X, Y).transform(QUERIES), expected)


def test_fit_that_fails_leaves_no_fitted_retriever():
    retriever = fitted()
    with pytest.raises(ValueError, match="must embed each row"):
        retriever.set_params(estimator__module__output="flat").fit(X, Y)
    with pytest.raises(NotFittedError):
        retriever.transform(X)


def test_pipeline_and_search_over_splits_that_keep_labels_apart():
    rows, labels = labelled_points(n_labels=9, n_rows=108)
    pipeline = make_pipeline(StandardScaler(), EmbeddingRetriever(embedder(), random_state=0))
    grid = {
        "embeddingretriever__metric": ["cosine", "euclidean"],
        "embeddingretriever__estimator__max_epochs": [1, 6],
    }
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(3), error_score="raise")
    search.fit(rows, labels, groups=labels)
    assert (search.cv_results_["mean_test_score"] > 0).all()
    best = search.best_estimator_
    assert best.predict(rows).shape == labels.shape
    assert best[-1].kneighbors(best[:-1].transform(rows))[1].shape == (108, 5)


# Errors


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (
            classifier(),
            TypeError,
            "give it to MetricOptFinetuner directly; .* use skorch.NeuralNet",
        ),
        (PCA(), TypeError, "Wrap a fitted transformer as FrozenEstimator"),
        (FrozenEstimator(embedder()), ValueError, "was never fitted. Call net.fit first"),
        (FrozenEstimator(TfidfVectorizer().fit(["a b", "bb cc"])), ValueError, "dense embeddings"),
        (Embedder(output="flat"), ValueError, r"shape \(8,\) for 8 rows. Have its last layer"),
        (Embedder(output="maps"), ValueError, r"shape \(8, 1, 4\) for 8 rows"),
        (Embedder(output="nan"), ValueError, "finite embeddings. Got NaN"),
        (nn.Linear(2, 3), ValueError, r"a net that takes X. It failed .*\(6,\) in float32"),
        (embedder(module__output="nan"), ValueError, "finite embeddings. Got NaN"),
        (embedder(module__input_dim=5), ValueError, "a net that takes X"),
        (embedder(module__output="flat"), ValueError, r"shape \(8,\) for 8 rows"),
        (embedder(criterion=nn.CrossEntropyLoss), ValueError, r"criterion .* labels 0\.\.7"),
        (embedder(module__hiden=3), TypeError, "a net that trains on X and y"),
        (embedder(NormEmbedder, batch_size=95), ValueError, "iterator_train__drop_last=True"),
    ],
)
def test_estimator_that_cannot_embed_is_named(estimator, error, message):
    rows = ["a"] * len(X) if isinstance(getattr(estimator, "estimator", 0), TfidfVectorizer) else X
    with pytest.raises(error, match=message) as raised:
        fitted(estimator, X=rows)
    assert "The 'estimator' parameter of EmbeddingRetriever must" in str(raised.value)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"metric": "cosin"}, ValueError, "'metric' .* Got 'cosin' instead. Did you mean 'cosine'"),
        ({"metric": "hamming"}, ValueError, "Got 'hamming' instead. Pass 'cosine'"),
        ({"index": "fais"}, ValueError, "'index' .* Did you mean 'faiss'"),
        ({"index": NearestNeighbors}, TypeError, "Pass an instance"),
        ({"index": 3}, TypeError, "an object with fit and kneighbors. Got 3"),
        ({"n_neighbors": 0}, ValueError, "'n_neighbors' parameter of EmbeddingRetriever"),
        ({"miner": "hard"}, ValueError, "'miner' parameter of EmbeddingRetriever"),
        ({"y": None}, ValueError, "wrap a fitted net in FrozenEstimator"),
        ({"y": Y[:-1]}, ValueError, "inconsistent numbers of samples"),
        ({"y": Y + 0.5}, ValueError, "continuous"),
        ({"X": csr_array(X)}, TypeError, "[Ss]parse"),
        ({"X": {"X": X}}, TypeError, "The 'X' parameter of EmbeddingRetriever must be an array"),
    ],
)
def test_parameters_and_input_that_cannot_work_are_named(params, error, message):
    with pytest.raises(error, match=message):
        fitted(**params)


METHODS = {
    "transform": lambda retriever: retriever.transform(X),
    "kneighbors": lambda retriever: retriever.kneighbors(),
    "decision_function": lambda retriever: retriever.decision_function(X),
    "predict": lambda retriever: retriever.predict(X),
    "score": lambda retriever: retriever.score(X, Y),
    "set_gallery": lambda retriever: retriever.set_gallery(X, Y),
    "bridge": lambda retriever: retriever._bridge(),
}


@pytest.mark.parametrize("method", METHODS)
def test_metric_changed_after_fit_is_refused_until_the_next_fit(net, method):
    retriever = fitted(FrozenEstimator(net)).set_params(metric="euclidean")
    message = "as it was in fit, 'cosine'. Got 'euclidean' instead: .* Call fit again"
    with pytest.raises(ValueError, match=message):
        METHODS[method](pickle.loads(pickle.dumps(retriever)))
    METHODS[method](retriever.set_params(metric="cosine"))
    METHODS[method](retriever.set_params(metric="euclidean").fit(X, Y))


@pytest.mark.parametrize("index", ["faiss", NearestNeighbors()], ids=str)
def test_index_changed_after_fit_is_built_by_set_gallery(net, index):
    retriever = fitted(FrozenEstimator(net))
    expected = retriever.kneighbors(QUERIES, return_distance=False)
    retriever.set_params(index=index)
    with pytest.raises(ValueError, match="as it was in fit, 'auto'.* Call fit or set_gallery"):
        retriever.kneighbors(QUERIES)
    retriever.set_gallery(X, Y)
    loaded = pickle.loads(pickle.dumps(retriever))
    for one in (retriever, loaded, copy.deepcopy(retriever)):
        np.testing.assert_array_equal(one.kneighbors(QUERIES, return_distance=False), expected)
    with pytest.raises(ValueError, match="'index' .* Did you mean 'faiss'"):
        retriever.set_params(index="fais").set_gallery(X)


@pytest.mark.parametrize(
    ("metric", "index", "message"),
    [
        ("dot", NearestNeighbors(), r"metric is 'minkowski' with p=2, .*'exact' or 'faiss'\."),
        ("dot", NearestNeighbors(metric="cosine"), "rank as .* 'dot', does"),
        ("euclidean", NearestNeighbors(metric="cosine"), "or give it metric='euclidean'"),
        ("euclidean", NearestNeighbors(p=1), "metric is 'minkowski' with p=1"),
        ("cosine", NearestNeighbors(metric="manhattan"), "or give it metric='cosine'"),
    ],
)
def test_index_that_ranks_by_another_metric_is_refused(net, metric, index, message):
    with pytest.raises(ValueError, match=message):
        fitted(FrozenEstimator(net), metric=metric, index=index)


def minus_dot(a, b):
    return -a @ b


@pytest.mark.parametrize(
    ("metric", "index"),
    [
        ("cosine", NearestNeighbors(metric="cosine")),
        ("cosine", NearestNeighbors(metric="l2")),
        ("euclidean", NearestNeighbors(metric="sqeuclidean")),
        ("dot", NearestNeighbors(metric=minus_dot, algorithm="brute")),
    ],
    ids=["cosine", "l2", "sqeuclidean", "function"],
)
def test_index_that_ranks_alike_under_another_name_finds_the_same(net, metric, index):
    expected = fitted(FrozenEstimator(net), metric=metric).kneighbors(QUERIES)[1]
    found = fitted(FrozenEstimator(net), metric=metric, index=index).kneighbors(QUERIES)[1]
    np.testing.assert_array_equal(found, expected)


def test_metric_that_is_a_parameter_of_a_transformer_is_about_its_input():
    transformer = FeatureAgglomeration(3, metric="euclidean").fit(X)
    assert fitted(FrozenEstimator(transformer)).kneighbors()[1].shape == (len(X), 5)


def test_more_neighbours_than_gallery_items(net):
    retriever = fitted(FrozenEstimator(net), X=X[:5], y=Y[:5])
    assert retriever.kneighbors(QUERIES)[1].shape == (len(QUERIES), 5)
    with pytest.raises(ValueError, match="at most the number of gallery items, 5. Got 6 instead"):
        retriever.kneighbors(QUERIES, n_neighbors=6)
    with pytest.raises(ValueError, match="other than the query, 4. Got 5 instead"):
        retriever.kneighbors()
    with pytest.raises(ValueError, match="an int of 1 or more. Got 2.5"):
        retriever.kneighbors(QUERIES, n_neighbors=2.5)


def test_gallery_without_labels_predicts_nothing(net):
    retriever = EmbeddingRetriever(FrozenEstimator(net)).fit(X)
    with pytest.raises(ValueError, match=r"needs the labels of the gallery.*set_gallery\(X, y\)"):
        retriever.predict(QUERIES)


@pytest.mark.parametrize(
    "method", ["transform", "kneighbors", "decision_function", "predict", "set_gallery", "score"]
)
def test_every_method_asks_to_be_fitted_first(method):
    given = (X, Y) if method == "score" else (X,)
    with pytest.raises(NotFittedError):
        getattr(EmbeddingRetriever(embedder()), method)(*given)


def test_rows_of_another_shape_are_refused(net):
    with pytest.raises(ValueError, match="expecting 6 features"):
        fitted(FrozenEstimator(net)).kneighbors(X[:, :4])
    images = np.zeros((12, 2, 8, 8))
    retriever = fitted(ImageEmbedder(), X=images, y=None)
    with pytest.raises(ValueError, match=r"EmbeddingRetriever must have samples of the shape"):
        retriever.transform(images[..., :7])


def test_missing_faiss_is_named_with_its_pip_line(net, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=re.escape('pip install "sk_metricopt[retrieval]"')):
        fitted(FrozenEstimator(net), index="faiss")


def test_transformer_is_searched_by_but_not_finetuned():
    retriever = fitted(FrozenEstimator(PCA(2).fit(X)))
    with pytest.raises(TypeError, match="Got a PCA, which can only be searched by"):
        retriever._bridge()


def test_classifier_in_a_frozen_estimator_is_refused_too():
    net = trained(classifier(MLP, module__n_classes=8), X, Y.astype(np.int64))
    assert isinstance(net, NeuralNetClassifier) and isinstance(net, NeuralNet)
    with pytest.raises(TypeError, match="give it to MetricOptFinetuner directly"):
        fitted(FrozenEstimator(net))
