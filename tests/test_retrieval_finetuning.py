"""Finetuning of retrievers: search among labelled rows, towards any metric of it."""

from __future__ import annotations

import copy
import io
import pickle
import random
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from pytorch_metric_learning import losses, miners
from sklearn.base import clone, is_classifier
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import NotFittedError
from torch import nn

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt._adapted import AdaptedNet, Encoded
from sk_metricopt._embedding_net import EmbeddingBridge, takes_any_labels
from sk_metricopt._random import draw_seed
from sk_metricopt._resampling import GroupedResampling
from sk_metricopt._roles import Data, RetrieverSubject
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._tasks import search_resampling
from sk_metricopt._tasks._search import RetrieverCandidate
from sk_metricopt._validation import split_by_label, split_rows_of_labels, stratified_split
from sk_metricopt.adapters import FiLMAdapter
from sk_metricopt.exceptions import AdapterError, ObservationWarning
from sk_metricopt.exploration import (
    BaseExploration,
    PortfolioExploration,
    Recipe,
    RetrievalExploration,
    RetrievalRecipe,
)
from sk_metricopt.exploration._neighbours import _Items
from sk_metricopt.exploration._rows import Rows
from sk_metricopt.metrics import make_retrieval_scorer
from sk_metricopt.testing import check_exploration, check_value_function
from sk_metricopt.value_functions import (
    BehaviourValueFunction,
    RetrievalValueFunction,
    SoftSearchDescriptor,
)
from sk_metricopt.value_functions._retrieval import _some_rows
from tests.embedding_nets import ImageEmbedder, NormEmbedder, TokenEmbedder, embedder
from tests.nets import MLP, classifier, same_weights, trained, weights_of

METRICS = ("cosine", "dot", "euclidean")
N_FEATURES, N_TELLING = 12, 4
RECALL = make_retrieval_scorer("recall_at_k", k=1)


class Scales(nn.Linear):
    """Gives rows back as they are: what φ does to it is to scale features."""

    def __init__(self):
        super().__init__(N_FEATURES, N_FEATURES)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)


def drowned(labels, n_each, seed=0):
    """Rows whose labels tell by a few features, which the others drown in noise."""
    y = np.repeat(labels, n_each)
    rng = np.random.default_rng(seed)
    X = 1.5 * rng.normal(size=(len(y), N_FEATURES))
    centres = normalize(np.random.default_rng(99).normal(size=(100, N_TELLING)))
    X[:, :N_TELLING] = 4 * centres[y] + 0.3 * X[:, :N_TELLING]
    order = rng.permutation(len(y))
    return X[order].astype(np.float32), y[order]


X, Y = drowned(range(20), 6)
X_VAL, Y_VAL = drowned(range(20, 36), 6, seed=1)
X_TEST, Y_TEST = drowned(range(40, 70), 8, seed=2)
X_SAME, Y_SAME = drowned(range(20), 4, seed=3)  # labels of the training rows
NEW_LABELS = {"X_val": X_VAL, "y_val": Y_VAL}
KNOWN_LABELS = {"X_val": X_SAME, "y_val": Y_SAME}


def finetuner(estimator=None, scoring=RECALL, **params):
    """A finetuner that moves the net in next to no time, guard or not."""
    few = {"max_observations": 10, "observation_interval": 3, "lr": 0.05, "random_state": 0}
    estimator = EmbeddingRetriever(Scales()) if estimator is None else estimator
    return MetricOptFinetuner(estimator, scoring=scoring, **({"guard_z": None} | few | params))


def fitted(scoring=RECALL, rows=NEW_LABELS, estimator=None, **params):
    return finetuner(estimator, scoring, **params).fit(X, Y, **rows)


def unchanged(scoring, rows=NEW_LABELS, estimator=None, **params):
    """Fitted, but as it came."""
    model = fitted(
        scoring, rows, estimator, **({"guard_z": 1000.0, "max_observations": 5} | params)
    )
    assert not model.improved_
    return model


def folds_of(y, seed=0):
    """Rows that each twin answers for, in a fit with this random state."""
    fold = search_resampling(y).folds(2, np.random.RandomState(draw_seed(seed)))
    return [np.flatnonzero(fold == k) for k in (0, 1)]


def mean_of_folds(scorer, model, X, y):
    return sum(len(rows) * scorer(model, X[rows], y[rows]) for rows in folds_of(y)) / len(y)


def task_of(scorer, metric="cosine", net=None, rows=NEW_LABELS, labelled=True):
    """The task of a fit, with what it is made of."""
    given = ValidationRows(rows["X_val"], rows["y_val"])
    data = Data(X, Y, {}, rows["X_val"], given, scorer, (X, Y))
    retriever = EmbeddingRetriever(Scales() if net is None else net, metric=metric, random_state=0)
    subject = RetrieverSubject(FrozenEstimator(retriever.fit(X, Y)), data)
    adapted = AdaptedNet(subject.bridge, FiLMAdapter(), "auto", X[:64])
    return subject.task(adapted, labelled, np.random.RandomState(0), lambda e: e), subject


def twins_apart(task, n=1):
    shape = n, len(task.rows.twin_rows), task.adapted.n_params
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Following(BaseExploration):
    """Every trajectory follows one recipe."""

    def __init__(self, recipe):
        self.recipe = recipe

    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return [self.recipe]


# what comes out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_search_among_labels_that_nobody_has_seen_gets_better(metric):
    retriever = EmbeddingRetriever(Scales(), metric=metric)
    before = retriever.fit(X).score(X_TEST, Y_TEST)
    model = finetuner(retriever, max_observations=40, observation_interval=5, guard_z=1.0)
    model.fit(X, Y, **NEW_LABELS)
    assert model.improved_ and model.best_score_ > model.initial_score_ + model.score_gain_se_
    assert model.score(X_TEST, Y_TEST) > before + 0.15
    telling, noise = np.split(model.adapter_params_[:N_FEATURES], [N_TELLING])
    assert telling.min() > noise.max()


@pytest.mark.parametrize("metric", METRICS)
def test_finetuned_retriever_is_an_ordinary_one_with_adapters_folded_in(metric):
    net = trained(embedder(NormEmbedder, module__input_dim=N_FEATURES), X, Y)
    retriever = EmbeddingRetriever(FrozenEstimator(net), metric=metric)
    model = fitted(nearness, estimator=retriever)
    assert type(model.estimator_) is EmbeddingRetriever and model.improved_
    folded = model.estimator_.estimator_
    assert type(folded) is type(net) and type(folded.module_) is NormEmbedder
    embeddings = model.transform(X_TEST)
    np.testing.assert_array_equal(embeddings, model.estimator_.transform(X_TEST))
    adapted = AdaptedNet(EmbeddingBridge(net, metric), FiLMAdapter(), "auto", X[:64])
    phi = torch.tensor(model.adapter_params_)
    expected = adapted.outputs(phi[None], adapted.encode(X_TEST))[0]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert not np.allclose(embeddings, retriever.fit(X).transform(X_TEST), atol=1e-3)
    assert all(not p._forward_hooks for p in folded.module_.modules())


@pytest.mark.parametrize("guard_z", [None, 1000.0])
@pytest.mark.parametrize("given", [True, False])
def test_gallery_is_all_rows_of_fit(guard_z, given):
    stale = EmbeddingRetriever(Scales()).fit(X).set_gallery(X_TEST, Y_TEST)
    model = finetuner(FrozenEstimator(stale), guard_z=guard_z, validation_fraction=0.5)
    model.fit(X, Y, **(NEW_LABELS if given else {}))
    assert model.improved_ is (guard_z is None)
    np.testing.assert_allclose(model.estimator_.gallery_embeddings_, model.transform(X), atol=1e-6)
    np.testing.assert_array_equal(model.estimator_.gallery_labels_, Y)
    np.testing.assert_array_equal(model.predict(X), Y)
    assert model.kneighbors(n_neighbors=2)[1].shape == (len(X), 2)
    assert len(stale.gallery_labels_) == len(X_TEST)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("frozen", [True, False])
def test_embeddings_stay_as_they_were_unless_improved(metric, frozen):
    net = embedder(module__input_dim=N_FEATURES, max_epochs=2)
    retriever = EmbeddingRetriever(net, metric=metric, random_state=1)
    estimator = FrozenEstimator(retriever.fit(X, Y)) if frozen else retriever
    model = unchanged(RECALL, estimator=estimator)
    expected = clone(retriever).fit(X, Y).transform(X_TEST)
    np.testing.assert_array_equal(model.transform(X_TEST), expected)
    assert not model.adapter_params_.any() and model.best_score_ == model.initial_score_


# scorers ----------------------------------------------------------------------------------------


def in_steps_of_labels(y_query, y_gallery):
    """Graded: labels next to each other are somewhat alike."""
    return np.clip(2 - np.abs(y_query[:, None] - y_gallery), 0, 2)


def first_is_right(relevance, similarity):
    return (relevance[np.arange(len(relevance)), similarity.argmax(1)] > 0).astype(float)


def share_first_right(relevance, similarity):
    return float(first_is_right(relevance, similarity).mean())


DECOMPOSING = {
    "recall": (RECALL, NEW_LABELS),
    "recall of all": (make_retrieval_scorer("recall_at_k", k=3, counts="all"), NEW_LABELS),
    "precision": (make_retrieval_scorer("precision_at_k", k=2), NEW_LABELS),
    "mean average precision": (make_retrieval_scorer("mean_average_precision_at_r"), NEW_LABELS),
    "reciprocal rank": (make_retrieval_scorer("mean_reciprocal_rank"), NEW_LABELS),
    "ndcg": (make_retrieval_scorer("ndcg_at_k", k=4), NEW_LABELS),
    "graded": (make_retrieval_scorer("ndcg_at_k", k=4, relevance=in_steps_of_labels), NEW_LABELS),
    "euclidean": (make_retrieval_scorer("recall_at_k", k=1, similarity="euclidean"), NEW_LABELS),
    "callable": (make_retrieval_scorer(first_is_right, per_query=True), NEW_LABELS),
    "fitted gallery": (make_retrieval_scorer("ndcg_at_k", k=5, gallery="fitted"), KNOWN_LABELS),
    "lone queries": (make_retrieval_scorer("recall_at_k", k=1, lone="zero"), NEW_LABELS),
}


@pytest.mark.parametrize("name", DECOMPOSING)
def test_initial_score_is_what_the_scorer_says_of_the_model_as_it_came(name):
    scorer, rows = DECOMPOSING[name]
    model = unchanged(scorer, rows)
    expected = scorer(model, rows["X_val"], rows["y_val"])
    assert model.initial_score_ == pytest.approx(expected, abs=1e-6)
    assert model.score(rows["X_val"], rows["y_val"]) == expected
    assert np.ptp(model.observations_["score"]) > 0
    assert model.scorer_ is scorer


def own_recall(estimator, X, y):
    similarity = estimator.transform(X) @ estimator.transform(X).T
    np.fill_diagonal(similarity, -np.inf)
    return float((y[similarity.argmax(1)] == y).mean())


def nearness(estimator, X, y):
    """How much more alike rows of a label are than others; it changes with whatever φ does."""
    embeddings = estimator.transform(X)
    similarity, same = embeddings @ embeddings.T, y[:, None] == y
    if same.all():
        return 0.0
    return float((similarity[same].mean() - similarity[~same].mean()) / similarity.std())


def knows_label(estimator, X, y):
    return float((estimator.predict(X) == y).mean())


def knows_label_by_similarity(estimator, X, y):
    nearest = estimator.decision_function(X).argmax(1)
    return float((estimator.gallery_labels_[nearest] == y).mean())


def knows_label_by_neighbours(estimator, X, y):
    distance, index = estimator.kneighbors(X, n_neighbors=3)
    assert (np.diff(distance) >= 0).all() and distance.shape == (len(X), 3)
    labels = getattr(estimator, "estimator_", estimator).gallery_labels_
    return float((labels[index] == y[:, None]).mean())


def gallery_and_queries(estimator, X, y):
    """Half of the rows are searched by the others."""
    estimator.set_gallery(X[::2], y[::2])
    return float((estimator.predict(X[1::2]) == y[1::2]).mean())


@pytest.mark.parametrize(
    "scorer",
    [
        own_recall,
        gallery_and_queries,
        make_retrieval_scorer(share_first_right),
        lambda estimator, X, y: RECALL(estimator, X, y),
    ],
    ids=["transform", "set_gallery", "callable metric", "wrapped"],
)
def test_plain_scorer_is_asked_for_each_half_of_the_labels(scorer):
    model = unchanged(scorer)
    assert model.initial_score_ == pytest.approx(mean_of_folds(scorer, model, X_VAL, Y_VAL))
    assert np.ptp(model.observations_["score"]) > 0
    assert model.n_scorer_calls_ > 2 * model.n_observations_


@pytest.mark.parametrize(
    "scorer",
    [knows_label, knows_label_by_neighbours, "accuracy"],
    ids=lambda s: getattr(s, "__name__", s),
)
def test_scorer_of_predictions_searches_the_training_rows(scorer):
    model = unchanged(scorer, KNOWN_LABELS, max_observations=4)
    expected = model.score(X_SAME, Y_SAME)
    assert 0.1 < expected < 0.9
    assert model.initial_score_ == pytest.approx(expected)
    assert np.ptp(model.observations_["score"]) > 0


def test_similarities_and_predictions_of_a_candidate_agree():
    def both(estimator, X, y):
        one, other = knows_label(estimator, X, y), knows_label_by_similarity(estimator, X, y)
        assert one == other
        return one

    assert 0 < fitted(both, KNOWN_LABELS, max_observations=4).initial_score_ < 1


def test_without_scoring_it_is_recall_at_one():
    one, other = fitted(None), fitted(RECALL)
    assert repr(one.scorer_) == repr(RECALL)
    assert (one.adapter_params_ == other.adapter_params_).all()
    assert one.score(X_TEST, Y_TEST) == other.score(X_TEST, Y_TEST)


def test_candidate_looks_like_the_finetuner():
    def inquisitive(estimator, X, y):
        sklearn.utils.validation.check_is_fitted(estimator)
        assert not is_classifier(estimator)
        assert estimator.n_features_in_ == N_FEATURES
        for name in ("classes_", "predict_proba", "nonsense"):
            assert not hasattr(estimator, name)
        assert len(estimator.get_feature_names_out()) == N_FEATURES
        assert estimator.gallery_embeddings_.shape == (len(Y), N_FEATURES)
        assert (estimator.gallery_labels_ == Y).all()
        estimator.transform(X)[:] = 0  # what it gets is its own
        return own_recall(estimator, X, y)

    inquisitive_model, model = (
        finetuner(scoring=scorer).fit(X, Y, **KNOWN_LABELS) for scorer in (inquisitive, own_recall)
    )
    assert inquisitive_model.score(X_SAME, Y_SAME) == model.score(X_SAME, Y_SAME)
    assert (inquisitive_model.adapter_params_ == model.adapter_params_).all()


def test_rows_the_engine_does_not_know_are_embedded_for_real():
    def moved(estimator, X, y):
        return own_recall(estimator, X + np.float32(0.3), y)

    model = unchanged(moved, max_observations=4)
    assert model.initial_score_ == pytest.approx(mean_of_folds(moved, model, X_VAL, Y_VAL))
    assert np.ptp(model.observations_["score"]) > 0


@pytest.mark.parametrize(
    "scoring",
    [
        lambda estimator, X, y: float((estimator.predict(X) == y).mean()),
        make_retrieval_scorer("recall_at_k", k=1, gallery="fitted", lone="zero"),
    ],
    ids=["predictions", "fitted gallery"],
)
def test_gallery_without_any_label_of_the_validation_rows_is_refused(scoring):
    with pytest.raises(ValueError, match="hold no label of the validation rows: pass X_val"):
        fitted(scoring)


def test_metric_of_predictions_is_that_of_all_rows_and_the_gallery_is_indexed_once_a_twin():
    fits = []

    class Counting(NearestNeighbors):
        def fit(self, X, y=None):
            fits.append(len(X))
            return super().fit(X, y)

    retriever = EmbeddingRetriever(Scales(), index=Counting(metric="cosine"))
    model = finetuner(retriever, "f1_macro", guard_z=1000.0).fit(X, Y, **KNOWN_LABELS)
    assert len(fits) < 5 * model.n_observations_ < model.n_scorer_calls_
    assert model.initial_score_ == pytest.approx(model.score(X_SAME, Y_SAME))
    assert np.ptp(model.observations_["score"]) > 0


def test_scorer_that_fails_now_and_then_loses_observations_only():
    calls = []

    def moody(estimator, X, y):
        calls.append(len(y))
        if len(calls) in (5, 12):
            raise RuntimeError("not now")
        return own_recall(estimator, X, y)

    with pytest.warns(ObservationWarning, match="not now"):
        model = fitted(moody)
    assert np.isnan(model.observations_["score"]).any()
    assert np.isfinite([model.best_score_, model.score_gain_]).all()


def test_scorer_that_fails_on_everything_but_whole_halves_keeps_the_best_observed():
    def whole(estimator, X, y):
        if len(y) < len(Y_VAL) // 2:
            raise ValueError("too few")
        return own_recall(estimator, X, y)

    with pytest.warns(ObservationWarning, match="too few"):
        model = fitted(whole)
    assert np.isfinite(model.best_score_)


def test_weights_reach_the_scorer_row_by_row():
    weight_of = {row.tobytes(): i / 100 for i, row in enumerate(X)}

    class Weighted:
        def __call__(self, estimator, X, y, sample_weight):
            assert sample_weight.tolist() == [weight_of[row.tobytes()] for row in X]
            return float(np.average(estimator.transform(X)[:, 0], weights=sample_weight + 1))

        def get_metadata_routing(self):
            request = MetadataRequest(owner="Weighted")
            request.score.add_request(param="sample_weight", alias=True)
            return request

    weights = np.arange(len(X)) / 100
    with sklearn.config_context(enable_metadata_routing=True):
        model = finetuner(scoring=Weighted()).fit(X, Y, sample_weight=weights)
        assert np.isfinite(model.score(X, Y, sample_weight=weights))
    assert np.isfinite(model.observations_["score"]).all()


# who answers for which rows ---------------------------------------------------------------------


@pytest.mark.parametrize("gallery", ["self", "fitted"])
def test_each_query_is_answered_by_the_twin_that_did_not_train_on_it(gallery):
    rows = NEW_LABELS if gallery == "self" else KNOWN_LABELS
    scorer = make_retrieval_scorer("mean_reciprocal_rank", gallery=gallery)
    task, subject = task_of(scorer, rows=rows)
    phi, n_rows = twins_apart(task), len(rows["y_val"])
    response = task.response(task.answers(phi)[0], phi[0, -1])
    expected = np.full(n_rows, np.nan)
    for k, fold in enumerate(task.judged.folds):
        trained_on = set(task.rows.twin_rows[k].tolist())
        assert not trained_on & set(fold.tolist())
        twin = subject.around(task.adapted.fold(phi[0, k]))
        expected[fold] = scorer.per_query(twin, **{"X": rows["X_val"], "y": rows["y_val"]})[fold]
    assert not np.isnan(expected).any()
    for asked in (None, np.arange(7), np.arange(1, n_rows, 3)):
        some = expected if asked is None else expected[asked]
        assert response.score(asked) == pytest.approx(some.mean(), abs=1e-6)


@pytest.mark.parametrize("labelled", [True, False])
def test_embeddings_of_two_twins_are_never_compared(labelled):
    seen = []

    def spy(estimator, X, y):
        rows = [row_of[row.tobytes()] for row in X]
        beside_another = estimator.transform(np.vstack([X, X[:1] + 1]))[:-1]
        seen.append((rows, estimator.transform(X), beside_another))
        return own_recall(estimator, X, y)

    row_of = {row.tobytes(): i for i, row in enumerate(X_VAL)}
    task, subject = task_of(spy, labelled=labelled)
    phi = twins_apart(task, n=3)
    halves = search_resampling(Y_VAL).folds(2, np.random.RandomState(5))
    parts = [(np.flatnonzero(halves == k), phi[k]) for k in (0, 1)]
    folds = task.judged.folds or [torch.arange(len(X_VAL))]
    queries = [fold.tolist() for fold in folds]
    expected = [(rows, phi[2, k]) for k, rows in enumerate(queries)]
    task.response(task.answers(phi)[2], phi[2, -1]).score()
    joined = task.response(task.joined(parts), phi[2, -1])
    joined.score()
    expected += [
        ([q for q in queries[k] if q in set(rows.tolist())], by[k])
        for rows, by in parts
        for k in range(len(queries))
    ]
    assert len(seen) == len(expected)
    for (rows, whole, beside), (asked, by) in zip(seen, expected, strict=True):
        assert rows == asked
        own = subject.around(task.adapted.fold(by)).transform(X_VAL[rows])
        np.testing.assert_allclose(whole, own, atol=1e-5)
        np.testing.assert_allclose(beside, own, atol=1e-5)


def test_joined_answers_are_those_of_their_parts():
    task, subject = task_of(RECALL)
    phi = twins_apart(task, n=2)
    halves = [np.arange(0, len(X_VAL), 2), np.arange(1, len(X_VAL), 2)]
    response = task.response(task.joined(list(zip(halves, phi, strict=True))), phi[0, -1])
    for half, of_half in zip(halves, phi, strict=True):
        alone = task.response(task.answers(of_half[None])[0], of_half[-1])
        assert response.score(half) == pytest.approx(alone.score(half))


def test_gain_of_a_plain_scorer_stands_out_where_there_is_one():
    model = fitted(own_recall, max_observations=20, observation_interval=8, guard_z=1.0)
    assert model.improved_ and own_recall(model, X_TEST, Y_TEST) > 0.65


@pytest.mark.parametrize("labelled", [True, False])
def test_gain_is_not_that_of_searches_among_fewer_rows(labelled):
    """With nothing to learn there is no gain, though what is joined is searched part by part."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(216, N_FEATURES)).astype(np.float32)
    y = np.arange(216) % 36
    rows = {"X_val": noise[y >= 18], "y_val": y[y >= 18]}
    model = finetuner(scoring=own_recall, guard_z=2.0, use_validation_labels=labelled)
    model.fit(noise[y < 18], y[y < 18], **rows)
    assert not model.improved_
    assert abs(model.score_gain_) < 0.08
    assert model.observations_["phase"].tolist().count("judge") == 2
    assert model.n_observations_ == 10


@pytest.mark.parametrize("scorer", [RECALL, own_recall], ids=["by query", "by part"])
@pytest.mark.parametrize("max_observations", [1, 2, 3, 4, 7])
def test_budget_is_kept(scorer, max_observations):
    model = fitted(scorer, max_observations=max_observations, observation_interval=1)
    assert 1 <= model.n_observations_ <= max_observations
    assert np.isfinite(model.best_score_)


# folds, draws and splits ------------------------------------------------------------------------


def test_groups_are_dealt_and_drawn_whole():
    groups = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 9])
    rng = np.random.RandomState(0)
    groups = rng.permutation(groups)
    resampling = GroupedResampling(groups)
    fold_of = resampling.folds(4, rng)
    assert set(fold_of) == {0, 1, 2, 3}
    assert all(len(set(fold_of[groups == g])) == 1 for g in range(9))
    rows = np.flatnonzero(fold_of != 0)
    for drawn in resampling.draw(rows, 10, rng):
        assert (np.diff(drawn) > 0).all() and set(drawn) <= set(rows)
        names = set(groups[drawn])
        assert len(names) == len(set(groups[rows])) // 2
        np.testing.assert_array_equal(drawn, rows[np.isin(groups[rows], list(names))])


@pytest.mark.parametrize("n_labels, whole", [(8, True), (7, False)])
def test_few_labels_are_resampled_row_by_row(n_labels, whole):
    y = np.repeat(np.arange(n_labels), 5)
    fold_of = search_resampling(y).folds(2, np.random.RandomState(0))
    assert all((len(set(fold_of[y == label])) == 1) for label in range(n_labels)) is whole


@pytest.mark.parametrize(
    "n_labels, n_each, fraction, by_label",
    [(40, 5, 0.2, True), (16, 20, 0.5, True), (15, 20, 0.5, False), (10, 20, 0.2, False)],
)
def test_labels_are_split_where_there_are_enough_on_both_sides(
    n_labels, n_each, fraction, by_label
):
    y = np.tile(np.arange(n_labels), n_each)
    training, validation = split_by_label(y, fraction, seed=0)
    assert sorted([*training, *validation]) == list(range(len(y)))
    shared = set(y[training]) & set(y[validation])
    assert len(shared) == (0 if by_label else n_labels)
    assert len(validation) == pytest.approx(fraction * len(y), abs=n_each)


@pytest.mark.parametrize("n_labels, n_each", [(20, 5), (20, 2), (4, 4), (30, 3)])
def test_few_rows_of_a_label_are_not_torn_apart(n_labels, n_each):
    y = np.tile(np.arange(n_labels), n_each)
    training, validation = split_by_label(y, 0.2, seed=0)
    assert not set(y[training]) & set(y[validation])
    assert len(set(y[validation])) >= 2 and len(set(y[training])) >= 2
    rows = np.random.default_rng(0).normal(size=(len(y), N_FEATURES))
    assert np.isfinite(finetuner().fit(rows, y).observations_["score"]).all()


@pytest.mark.parametrize(
    "scoring", ["accuracy", make_retrieval_scorer("recall_at_k", k=1, gallery="fitted")], ids=str
)
def test_labels_are_not_split_where_training_rows_are_searched(scoring):
    rows, y = drowned(range(50), 10)
    model = finetuner(scoring=scoring, max_observations=1).fit(rows, y)
    assert model.initial_score_ > 0.1  # of labels not in the gallery none would be found


# the objective ----------------------------------------------------------------------------------


def soft_neighbour_loss(embeddings, y, unit, metric):
    if metric == "euclidean":
        similarity = -(embeddings[:, None] - embeddings + 1e-30).square().sum(-1).sqrt()
    else:
        similarity = embeddings @ embeddings.T
    itself = torch.eye(len(y), dtype=torch.bool)
    log_proba = (similarity / unit).masked_fill(itself, -torch.inf).log_softmax(1)
    same = (y[:, None] == y) & ~itself
    found = log_proba.masked_fill(~same, -torch.inf)[same.any(1)].logsumexp(1)
    return -found.mean() if len(found) else 0 * embeddings.sum()


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_of_soft_neighbours_is_the_one_of_autograd(metric):
    task, _ = task_of(RECALL, metric)
    objective = task.objective
    recipes = [RetrievalRecipe(0.8, 0.1), RetrievalRecipe(0.0, 0.3), RetrievalRecipe(1.0, 0.05)]
    objective.follow(recipes)
    training, probe = objective.draw(3, torch.Generator().manual_seed(0))
    assert len(training) == len(probe) == 9
    shape = 9, training.shape[1] + probe.shape[1], 5
    outputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pull = objective.pull(outputs, training, probe)
    y_training, y_probe = objective.rows.training.y, objective.rows.probe.y
    for j, recipe in enumerate(r for r in recipes for _ in range(3)):
        leaf = outputs[j].clone().requires_grad_(True)
        first, second = leaf.split([training.shape[1], probe.shape[1]])
        unit = recipe.temperature * objective._scale
        on_training = soft_neighbour_loss(first, y_training[training[j]], unit, metric)
        on_probe = soft_neighbour_loss(second, y_probe[probe[j]], unit, metric)
        share = recipe.validation_share
        loss = (1 - share) * on_training + share * on_probe
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(pull[j], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_is_finite_where_no_label_occurs_twice_or_rows_are_equal(metric):
    objective = task_of(RECALL, metric)[0].objective
    each = torch.ones(1)
    embeddings = torch.randn(1, 12, 5)
    lone = objective._gradient(embeddings, torch.arange(12)[None], [RetrievalRecipe()], each)
    assert not lone.any()
    embeddings[:, 6:] = embeddings[:, :6]
    y = torch.arange(12)[None] % 6
    assert objective._gradient(embeddings, y, [RetrievalRecipe()], each).isfinite().all()
    collapsed = embeddings[:, :1].expand(1, 12, 5).contiguous()
    assert objective._gradient(collapsed, y % 3, [RetrievalRecipe()], each).abs().max() < 1e3


def test_batches_hold_no_row_twice_and_none_that_judges_the_twin():
    task, _ = task_of(RECALL)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        training, probe = task.objective.draw(2, generator)
        assert all(len(set(rows.tolist())) == len(rows) for rows in (*training, *probe))
        for j, rows in enumerate(probe):
            k = j % 3
            assert set(rows.tolist()) <= set(task.rows.twin_rows[k].tolist())
            if k < 2:
                assert not set(rows.tolist()) & set(task.judged.folds[k].tolist())


@pytest.mark.parametrize("n", [1, 8, 20, 35])
def test_batch_holds_several_rows_of_each_label(n):
    y = torch.tensor([0] * 30 + [1] * 20 + [2] * 9 + [3] * 2 + [4] * 9)
    items = _Items(y, torch.arange(len(y)))
    assert items.n_at_most == 8 + 8 + 8 + 2 + 8
    n = min(n, items.n_at_most)
    drawn = items.draw(n, torch.Generator().manual_seed(0))
    assert len(drawn) == len(set(drawn.tolist())) == n
    assert torch.bincount(y[drawn]).max() <= 8


def knowing(embeddings, labels):
    return nn.functional.cross_entropy(embeddings, labels)


def of_a_tuple(output, labels):
    embeddings, _ = output
    return losses.SupConLoss()(embeddings, labels)


@pytest.mark.parametrize(
    "criterion, free",
    [
        (losses.SupConLoss(), True),
        (losses.TripletMarginLoss(), True),
        (losses.ContrastiveLoss(), True),
        (losses.ProxyAnchorLoss(num_classes=20, embedding_size=N_FEATURES), False),
        (losses.NormalizedSoftmaxLoss(num_classes=20, embedding_size=N_FEATURES), False),
        (losses.CrossBatchMemory(losses.SupConLoss(), N_FEATURES, memory_size=64), False),
        (knowing, False),
        (of_a_tuple, False),
    ],
    ids=lambda c: getattr(c, "__name__", type(c).__name__),
)
def test_own_criterion_joins_only_if_new_labels_mean_something_to_it(criterion, free):
    y = torch.arange(20).repeat(3)[:40] % 10
    assert takes_any_labels(criterion, torch.randn(40, N_FEATURES), y) is free


def test_gradient_of_the_own_criterion_is_the_one_of_autograd():
    net = embedder(module__input_dim=N_FEATURES, module__n_components=5, max_epochs=1)
    task, _ = task_of(RECALL, net=net)
    embeddings, y = torch.randn(2, 30, 5), torch.arange(30).expand(2, -1) % 6
    recipes = [RetrievalRecipe(temperature=None), RetrievalRecipe(temperature=0.1)]
    gradient = task.objective._gradient(embeddings, y, recipes, torch.tensor([0.5, 0.0]))
    leaf = embeddings[0].clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(losses.SupConLoss()(leaf, y[0]), leaf)
    torch.testing.assert_close(gradient[0], 0.5 * expected)
    assert not gradient[1].any()


OWN = Following(RetrievalRecipe(0.5, None, 0.0))


@pytest.mark.parametrize("mined", [False, True])
def test_criterion_with_weights_is_left_to_training(mined):
    criterion = losses.ProxyAnchorLoss(num_classes=20, embedding_size=4)
    net = embedder(module__input_dim=N_FEATURES, criterion=criterion)
    retriever = EmbeddingRetriever(net, miner=miners.BatchHardMiner() if mined else None)
    assert len(fitted(estimator=retriever).history_) == 4
    with pytest.raises(ValueError, match="'exploration' .* with a temperature.*Got none. Add"):
        fitted(estimator=retriever, exploration=OWN)


def test_criterion_without_weights_and_its_miner_finetune():
    miner = miners.TripletMarginMiner()
    state = copy.deepcopy(vars(miner))
    net = embedder(module__input_dim=N_FEATURES, criterion=losses.TripletMarginLoss)
    retriever = EmbeddingRetriever(FrozenEstimator(trained(net, X, Y)), miner=miner)
    model = fitted(estimator=retriever, exploration=OWN)
    assert model.adapter_params_.any() and np.isfinite(model.adapter_params_).all()
    assert {k: v for k, v in vars(miner).items() if isinstance(v, int | float)} == {
        k: v for k, v in state.items() if isinstance(v, int | float)
    }


def test_jitter_reaches_training_and_no_observation():
    differences = []

    def watching(estimator, X, y):
        if isinstance(estimator, RetrieverCandidate) and len(X) == len(X_VAL):
            real = estimator._part.model().transform(X)
            differences.append(np.abs(estimator.transform(X) - real))
        return own_recall(estimator, X, y)

    still, jittered = (
        fitted(
            watching,
            use_validation_labels=False,
            exploration=Following(RetrievalRecipe(0.0, 0.1, jitter)),
            max_observations=6,
        )
        for jitter in (0.0, 3.0)
    )
    assert len(differences) >= 8 and np.max(differences) < 1e-5
    assert still.initial_score_ == jittered.initial_score_
    assert not np.allclose(still.adapter_params_, jittered.adapter_params_, atol=1e-3)


# value function and exploration -----------------------------------------------------------------


def test_defaults_keep_the_contracts():
    check_value_function(RetrievalValueFunction())
    check_exploration(RetrievalExploration())
    assert isinstance(fitted().value_function_, RetrievalValueFunction)


@pytest.mark.parametrize(
    "estimator, exploration, wanted",
    [
        (EmbeddingRetriever(Scales()), PortfolioExploration(), "give RetrievalRecipe objects"),
        (EmbeddingRetriever(Scales()), Following(Recipe()), "give RetrievalRecipe objects"),
        (classifier(MLP, module__input_dim=N_FEATURES, module__n_classes=20),
         RetrievalExploration(), "give Recipe objects"),
    ],
)  # fmt: skip
def test_recipes_for_another_kind_of_estimator_are_refused(estimator, exploration, wanted):
    rows = KNOWN_LABELS
    model = finetuner(estimator, scoring=None, exploration=exploration)
    with pytest.raises(TypeError, match=f"'exploration' parameter .* {wanted}.*Got .*ecipe"):
        model.fit(X, Y, **rows)


def test_value_function_reads_validation_rows_where_it_may():
    class Watching(RetrievalValueFunction):
        def start(self, scores, y):
            self.started_ = len(scores), y.tolist()
            return super().start(scores, y)

    codes = [np.unique(y, return_inverse=True)[1].tolist() for y in (Y, Y_VAL)]
    read = fitted(value_function=Watching()).value_function_.started_
    assert read == (len(Y_VAL), codes[1])
    model = fitted(value_function=Watching(), use_validation_labels=False)
    n_read, labels = model.value_function_.started_
    assert n_read == len(Y) and sorted(labels) == sorted(codes[0])


def test_secret_labels_reach_the_scorer_and_nothing_else():
    label_of = {row.tobytes(): label for row, label in zip(X_VAL, Y_VAL, strict=True)}

    def oracle(estimator, X, y):
        """Knows the labels, whatever it is told."""
        return own_recall(estimator, X, np.array([label_of[row.tobytes()] for row in X]))

    for labelled in (False, True):
        one, other = (
            fitted(
                oracle,
                rows={"X_val": X_VAL, "y_val": y_val},
                use_validation_labels=labelled,
                max_observations=16,
            )
            for y_val in (Y_VAL, np.random.RandomState(0).permutation(Y_VAL))
        )
        same = np.array_equal(one.observations_["score"], other.observations_["score"])
        assert same is not labelled
        assert np.array_equal(one.adapter_params_, other.adapter_params_) is not labelled


# nets and data ----------------------------------------------------------------------------------


def pictures(n_labels=8, n_each=8):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n_labels), n_each)
    prototypes = rng.normal(size=(n_labels, 1, 8, 8))
    return (prototypes[y] + rng.normal(size=(len(y), 1, 8, 8))).astype(np.float32), y


def test_images_are_searched():
    images, y = pictures()
    net = embedder(ImageEmbedder, module__channels=1)
    model = finetuner(EmbeddingRetriever(net), nearness).fit(images, y)
    assert model.transform(images).shape == (64, 4)
    assert model.improved_ and not hasattr(model, "n_features_in_")
    assert model.kneighbors(images[:3].tolist(), 2, return_distance=False).shape == (3, 2)
    with pytest.raises(ValueError, match="shape seen in fit, \\(1, 8, 8\\). Got \\(64,\\)"):
        model.transform(images.reshape(64, -1))


def test_integers_are_looked_up():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 12)
    tokens = (y[:, None] * 2 + rng.integers(0, 4, size=(60, 6))) % 10
    model = finetuner(EmbeddingRetriever(embedder(TokenEmbedder)), adapter_targets="all")
    with pytest.raises(AdapterError, match="can host the adapter"):
        model.fit(tokens, y)

    class Head(nn.Sequential):
        def __init__(self):
            super().__init__(TokenEmbedder(), nn.Linear(4, 4))

    assert finetuner(EmbeddingRetriever(embedder(Head))).fit(tokens, y).transform(tokens).shape == (
        60,
        4,
    )


class Pair(nn.Module):
    """Returns more than embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = Scales(), nn.Linear(N_FEATURES, 36)

    def forward(self, X):
        embeddings = self.embedding(X)
        return embeddings, self.head(embeddings)


class PairLoss(nn.Module):
    def forward(self, output, labels):
        embeddings, logits = output
        return losses.SupConLoss()(embeddings, labels) + knowing(logits, labels)


@pytest.mark.parametrize(
    "net",
    [
        Scales(),
        Pair(),
        embedder(Pair, criterion=PairLoss, lr=0.01),
        embedder(criterion=nn.CrossEntropyLoss, module__input_dim=12, module__n_components=20),
        embedder(NormEmbedder, module__input_dim=N_FEATURES),
    ],
    ids=["module", "tuple", "criterion of a tuple", "cross-entropy", "norms and dropout"],
)
def test_nets_of_all_sorts(net):
    model = fitted(nearness, estimator=EmbeddingRetriever(net), max_observations=14)
    assert np.ptp(model.observations_["score"]) > 0
    np.testing.assert_allclose(model.transform(X[:5]), model.transform(X)[:5], atol=1e-5)


@pytest.mark.parametrize("convert", [str, lambda n: f"label {n}"], ids=["digits", "words"])
def test_labels_may_be_strings(convert):
    y, y_val = (np.array([convert(label) for label in labels]) for labels in (Y, Y_VAL))
    model = finetuner(max_observations=4).fit(X, y, X_val=X_VAL, y_val=y_val)
    assert set(model.predict(X_TEST)) <= set(y)
    assert model.score(X_VAL, y_val) > 0


def test_rows_alone_with_their_label_are_no_trouble():
    """Most labels of a long tail have one row; no warning about their number escapes."""
    rng = np.random.default_rng(0)
    y = np.r_[np.arange(150), np.arange(10)]
    rows = rng.normal(size=(160, N_FEATURES)).astype(np.float32)
    net = embedder(module__input_dim=N_FEATURES, max_epochs=1)
    for given in (NEW_LABELS, {"X_val": rows, "y_val": y}):
        model = finetuner(EmbeddingRetriever(net)).fit(rows, y, **given)
        assert np.isfinite(model.observations_["score"]).all()
        assert np.isfinite(model.adapter_params_).all()


@pytest.mark.gpu
@pytest.mark.parametrize("labelled", [True, False])
def test_net_on_a_gpu_is_finetuned_there(labelled):
    net = embedder(NormEmbedder, module__input_dim=N_FEATURES, device="cuda")
    model = fitted(estimator=EmbeddingRetriever(net), use_validation_labels=labelled)
    assert next(model.estimator_.estimator_.module_.parameters()).is_cuda
    assert model.transform(X).shape == (len(X), 4)
    assert np.isfinite(fitted(own_recall, estimator=EmbeddingRetriever(net)).best_score_)


# side effects -----------------------------------------------------------------------------------


def test_same_seed_gives_the_same_retriever_and_another_seed_another():
    net = embedder(module__input_dim=N_FEATURES)
    one, same, other = (
        fitted(estimator=EmbeddingRetriever(net), random_state=s) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.transform(X), same.transform(X))
    np.testing.assert_array_equal(one.observations_["score"], same.observations_["score"])
    assert not np.allclose(one.transform(X), other.transform(X))


def test_global_random_streams_are_left_where_they_were():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    model = fitted(estimator=EmbeddingRetriever(embedder(module__input_dim=N_FEATURES)))
    model.set_gallery(X_TEST, Y_TEST).predict(X)
    model.transform(X)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("training", [True, False])
def test_frozen_retriever_is_unchanged(training):
    net = trained(embedder(NormEmbedder, module__input_dim=N_FEATURES), X, Y)
    frame = pd.DataFrame(X, columns=[f"column {i}" for i in range(N_FEATURES)])
    retriever = EmbeddingRetriever(FrozenEstimator(net)).fit(frame, Y)
    inner = retriever.estimator_
    inner.module_.train(training)
    before, gallery = weights_of(inner.module_), retriever.gallery_embeddings_.copy()
    names = set(vars(retriever))
    model = finetuner(FrozenEstimator(retriever)).fit(frame, Y, **{
        "X_val": pd.DataFrame(X_VAL, columns=frame.columns), "y_val": Y_VAL
    })  # fmt: skip
    assert model.improved_ and model.feature_names_in_.tolist() == frame.columns.tolist()
    assert same_weights(inner.module_, before) and retriever.estimator_ is inner
    assert all(m.training is training for m in inner.module_.modules())
    np.testing.assert_array_equal(retriever.gallery_embeddings_, gallery)
    assert set(vars(retriever)) == names
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[frame.columns[::-1]])


def test_module_and_unfitted_net_are_unchanged():
    module = NormEmbedder(input_dim=N_FEATURES).train()
    before = weights_of(module)
    retriever = EmbeddingRetriever(module)
    fitted(estimator=retriever)
    assert same_weights(module, before) and module.training
    assert not hasattr(retriever, "estimator_") and not module._forward_hooks
    net = embedder(module__input_dim=N_FEATURES)
    fitted(estimator=EmbeddingRetriever(net))
    assert not net.initialized_


# a citizen of scikit-learn ----------------------------------------------------------------------


def test_methods_and_tags_are_those_of_a_retriever_before_and_after_fit():
    model = finetuner()
    searches = ("transform", "kneighbors", "set_gallery", "decision_function", "predict")
    for _ in range(2):
        assert all(hasattr(model, name) for name in (*searches, "get_feature_names_out"))
        assert not hasattr(model, "predict_proba") and not hasattr(model, "classes_")
        tags = get_tags(model)
        assert not is_classifier(model) and tags.classifier_tags is None
        assert tags.target_tags.required and not tags._skip_test
        model.fit(X, Y, **NEW_LABELS)
    other = finetuner(classifier(module__input_dim=N_FEATURES, module__n_classes=20), "accuracy")
    for _ in range(2):
        assert hasattr(other, "predict_proba") and is_classifier(other)
        for name in ("transform", "kneighbors", "set_gallery", "set_output"):
            assert not hasattr(other, name)
        other.fit(X, Y, **KNOWN_LABELS)
    other.set_params(estimator=EmbeddingRetriever(Scales()), scoring=None).fit(X, Y, **NEW_LABELS)
    assert not hasattr(other, "classes_") and other.transform(X).shape == X.shape


def test_every_method_asks_to_be_fitted_first():
    model = finetuner()
    for method in (model.transform, model.kneighbors, model.decision_function, model.predict):
        with pytest.raises(NotFittedError):
            method(X)
    for call in (lambda: model.score(X, Y), lambda: model.set_gallery(X), model.kneighbors):
        with pytest.raises(NotFittedError):
            call()


def test_gallery_can_be_replaced():
    model = fitted()
    assert model.set_gallery(X_TEST, Y_TEST) is model
    np.testing.assert_array_equal(model.predict(X_TEST), Y_TEST)
    assert model.decision_function(X).shape == (len(X), len(X_TEST))
    distance, index = model.kneighbors(X_TEST, n_neighbors=2)
    np.testing.assert_allclose(distance[:, 0], 0, atol=1e-5)
    np.testing.assert_array_equal(index[:, 0], np.arange(len(X_TEST)))


def dumped(model):
    joblib.dump(model, buffer := io.BytesIO())
    buffer.seek(0)
    return joblib.load(buffer)


@pytest.mark.parametrize(
    "copied", [lambda m: pickle.loads(pickle.dumps(m)), dumped, copy.deepcopy], ids=range(3)
)
def test_fitted_model_is_stored_whole(copied):
    model = fitted()
    other = copied(model)
    np.testing.assert_array_equal(other.transform(X_TEST), model.transform(X_TEST))
    np.testing.assert_array_equal(other.kneighbors()[1], model.kneighbors()[1])
    assert other.score(X_TEST, Y_TEST) == model.score(X_TEST, Y_TEST)


def test_clone_of_a_finetuner_gives_the_same():
    retriever = EmbeddingRetriever(embedder(module__input_dim=N_FEATURES), metric="dot")
    model = fitted(estimator=retriever)
    other = clone(model)
    assert not hasattr(other, "estimator_") and other.estimator is not retriever
    other.fit(X, Y, **NEW_LABELS)
    np.testing.assert_array_equal(other.transform(X), model.transform(X))


def test_pipeline_scales_searches_and_is_scored():
    scaled = StandardScaler().fit(X)
    model = make_pipeline(StandardScaler(), finetuner(max_observations=6)).fit(X, Y)
    alone = finetuner(max_observations=6).fit(scaled.transform(X), Y)
    np.testing.assert_array_equal(model.transform(X), alone.transform(scaled.transform(X)))
    assert model.score(X_TEST, Y_TEST) == RECALL(model, X_TEST, Y_TEST)
    first = make_pipeline(finetuner(max_observations=6), PCA(2)).fit(X, Y)
    assert first.transform(X_TEST).shape == (len(X_TEST), 2)


def test_grid_search_on_whole_labels():
    grid = {"lr": [1e-3, 0.1], "estimator__metric": ["cosine", "dot"]}
    net = embedder(module__input_dim=N_FEATURES, max_epochs=1)
    model = finetuner(EmbeddingRetriever(net), max_observations=5, guard_z=1.0)
    search = GridSearchCV(model, grid, scoring=RECALL, cv=GroupKFold(2), error_score="raise")
    search.fit(X, Y, groups=Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.transform(X_TEST).shape == (len(X_TEST), 4)
    assert search.score(X_TEST, Y_TEST) == RECALL(search.best_estimator_, X_TEST, Y_TEST)


def test_embeddings_come_in_the_container_asked_for():
    names = [f"feature {i}" for i in range(N_FEATURES)]
    frame, frame_val = (pd.DataFrame(rows, columns=names) for rows in (X, X_VAL))
    frame.index = [f"row {i}" for i in range(len(X))]
    retriever = EmbeddingRetriever(Scales()).set_output(transform="pandas")
    model, plain = finetuner(retriever), fitted()
    model.fit(frame, Y, X_val=frame_val, y_val=Y_VAL)
    expected = model.transform(frame)  # the finetuner has a setting of its own
    assert isinstance(expected, np.ndarray)
    np.testing.assert_array_equal(expected, plain.transform(X))
    assert model.score(frame_val, Y_VAL) == plain.score(X_VAL, Y_VAL)
    assert model.set_output(transform="pandas") is model
    embeddings = model.transform(frame)
    assert list(embeddings) == model.get_feature_names_out().tolist()
    assert embeddings.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(embeddings.to_numpy(), expected)
    assert isinstance(clone(model).fit(frame, Y).transform(frame), pd.DataFrame)
    with sklearn.config_context(transform_output="pandas"):
        same = fitted(own_recall)
        assert list(same.transform(X)) == list(embeddings)
        assert (same.kneighbors(X)[1] == fitted(own_recall).kneighbors(X)[1]).all()


# what cannot work -------------------------------------------------------------------------------


class Fragile(Scales):
    """Gives up on large numbers."""

    def forward(self, X):
        return torch.where(X > 1e4, torch.nan, super().forward(X))


def with_one_huge(rows):
    rows = rows.copy()
    rows[-1, 0] = 1e5
    return rows


ERRORS = {
    "frozen transformer": (
        lambda: finetuner(EmbeddingRetriever(FrozenEstimator(PCA(2).fit(X)))).fit(X, Y),
        TypeError, "around a skorch net or a torch.nn.Module. Got one around .*PCA.*retriever",
    ),
    "fitted frozen transformer": (
        lambda: finetuner(FrozenEstimator(
            EmbeddingRetriever(FrozenEstimator(PCA(2).fit(X))).fit(X))).fit(X, Y),
        TypeError, "around a skorch net or a torch.nn.Module. Got one around .*PCA",
    ),
    "net that embeds": (
        lambda: finetuner(embedder()).fit(X, Y), TypeError, "EmbeddingRetriever\\(net\\)",
    ),
    "pipeline": (
        lambda: finetuner(make_pipeline(StandardScaler(), EmbeddingRetriever(Scales()))).fit(X, Y),
        TypeError, "before the finetuner in a Pipeline",
    ),
    "classifier in a retriever": (
        lambda: finetuner(EmbeddingRetriever(classifier())).fit(X, Y),
        TypeError, "'estimator' parameter of EmbeddingRetriever .* MetricOptFinetuner directly",
    ),
    "unfitted": (
        lambda: finetuner(FrozenEstimator(EmbeddingRetriever(embedder()))).fit(X, Y),
        NotFittedError, "EmbeddingRetriever instance is not fitted",
    ),
    "labels of one row": (
        lambda: finetuner().fit(X[:20], np.arange(20)),
        ValueError, "'y'|several rows of several labels",
    ),
    "validation labels of one row": (
        lambda: fitted(rows={"X_val": X[:20], "y_val": np.arange(20)}),
        ValueError, "Got a label of its own for every row. Pass X_val and y_val with several rows",
    ),
    "one label": (
        lambda: finetuner().fit(X, np.zeros(len(X))), ValueError, "at least 2 classes",
    ),
    "one validation label": (
        lambda: fitted(rows={"X_val": X, "y_val": np.zeros(len(X))}), ValueError, "Got one label",
    ),
    "no labels": (lambda: finetuner().fit(X, None), ValueError, "requires y to be passed"),
    "large k": (
        lambda: fitted(make_retrieval_scorer("recall_at_k", k=96)),
        ValueError, "'scoring' .* failed .*'k' parameter .* at most .*, 95. Got 96 instead. Lower",
    ),
    "NaN embeddings": (
        lambda: fitted(estimator=EmbeddingRetriever(Fragile()),
                       rows={"X_val": with_one_huge(X_VAL), "y_val": Y_VAL}),
        ValueError, "finite embeddings. Got NaN or infinity in 1 of 96 rows",
    ),
    "NaN embeddings in training": (
        lambda: finetuner(EmbeddingRetriever(Fragile())).fit(
            with_one_huge(X), Y, **NEW_LABELS),
        ValueError, "must give finite embeddings. Got NaN or infinity",
    ),
    "other columns": (
        lambda: fitted(rows={"X_val": X_VAL[:, :5], "y_val": Y_VAL}),
        ValueError, "In 'X_val' and 'y_val' .*5 features.*expecting 12",
    ),
    "other axes": (
        lambda: fitted(rows={"X_val": X_VAL[:, None], "y_val": Y_VAL}),
        ValueError, "In 'X_val' .* seen in fit, \\(12,\\). Got \\(1, 12\\)",
    ),
    "other rows than the retriever's": (
        lambda: finetuner(FrozenEstimator(EmbeddingRetriever(Scales()).fit(X))).fit(X[:, :5], Y),
        ValueError, "'estimator' parameter of EmbeddingRetriever must be a net that takes X",
    ),
    "one vector for all": (
        lambda: finetuner(EmbeddingRetriever(nn.Flatten(0))).fit(X, Y),
        ValueError, "must be a module with weights. Got Flatten",
    ),
    "tuple": (
        lambda: finetuner(EmbeddingRetriever(embedder(Pair))).fit(X, Y),
        ValueError, "returns a tuple, which the criterion",
    ),
    "several metrics": (
        lambda: fitted({"a": RECALL}), TypeError, "'scoring' .* must be one metric",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_work_is_refused_with_the_next_step(name):
    call, kind, said = ERRORS[name]
    with pytest.raises(kind, match=f"(?s){said}"):
        call()


def test_three_axes_where_two_were_fitted_name_the_shape():
    with pytest.raises(ValueError, match="seen in fit, \\(12,\\). Got \\(2, 6\\)"):
        fitted(max_observations=1).transform(X.reshape(-1, 2, 6))


def test_scorer_made_for_predictions_takes_strings_too():
    y, y_val = Y.astype(str), Y_SAME.astype(str)
    scorer = make_scorer(accuracy_score)
    model = finetuner(scoring=scorer, guard_z=1000.0, max_observations=3)
    model.fit(X, y, X_val=X_SAME, y_val=y_val)
    assert model.initial_score_ == pytest.approx(scorer(model, X_SAME, y_val))


@pytest.mark.parametrize(
    "estimator, value_function, use",
    [
        (EmbeddingRetriever(Scales()), BehaviourValueFunction(), "RetrievalValueFunction"),
        (classifier(), RetrievalValueFunction(), "BehaviourValueFunction"),
    ],
    ids=["retriever", "classifier"],
)
def test_value_function_for_the_other_kind_of_outputs_is_refused(estimator, value_function, use):
    model = MetricOptFinetuner(estimator, value_function=value_function, random_state=0)
    with pytest.raises(TypeError, match=f"'value_function' .* Use {use}"):
        model.fit(X[:, :6], Y % 2) if use.startswith("B") else model.fit(X, Y)


# long tails, large data and galleries of one's own ----------------------------------------------


@pytest.mark.parametrize(
    "n_labels, n_each, n_found",
    [(10, 400, 10), (2, 3000, 2), (200, 20, 20), (100, 400, 10), (40, 50, 10)],
)
def test_soft_search_sees_many_labels_whatever_their_size(n_labels, n_each, n_found):
    for y in (torch.arange(n_labels).repeat(n_each), torch.arange(n_labels * n_each) // n_each):
        rows = _some_rows(y)
        assert len(y[rows].unique()) == n_found and len(rows) <= 600
        assert (rows.diff() > 0).all() and torch.bincount(y[rows]).max() <= 40


def test_soft_search_keeps_whole_labels_of_few_rows():
    y = torch.arange(5000)[torch.randperm(5000)] % 251
    chosen = torch.unique(y)[:: round(len(y) / 400)]
    assert torch.equal(_some_rows(y), torch.isin(y, chosen).nonzero()[:, 0])


@pytest.mark.parametrize("n", [300, 3000])
def test_soft_search_finds_the_few_rows_that_are_not_alone(n):
    y = torch.arange(n)
    y[1] = y[n - 1]
    embeddings = torch.randn(2, n, 4)
    near = embeddings.clone()
    near[:, 1] = near[:, n - 1]
    describe = SoftSearchDescriptor()
    assert (describe(near, y)[:, :6] > describe(embeddings, y)[:, :6]).all()
    assert describe(embeddings, torch.arange(n)).isfinite().all()


@pytest.mark.parametrize("n", [50, 2048, 6000])
def test_spread_of_features_is_that_of_rows_from_end_to_end(n):
    values = torch.randn(n, 3) + torch.arange(n)[:, None] // 1000
    rows = Rows(Encoded((values, torch.arange(n))), torch.arange(n) // 1000)
    spread, of_integers = rows.spread
    expected = values.std(0, correction=0)
    torch.testing.assert_close(spread, expected, rtol=0.05 if n > 2048 else 0, atol=0)
    assert not of_integers.any()


@pytest.mark.parametrize("split", [split_by_label, split_rows_of_labels])
def test_rows_alone_with_their_label_are_for_training(split):
    y = np.random.RandomState(0).permutation(np.r_[np.repeat(np.arange(12), 5), 100:160])
    training, validation = split(y, 0.2, seed=0)
    assert sorted([*training, *validation]) == list(range(len(y)))
    assert set(range(100, 160)) <= set(y[training])
    counts = np.unique(y[validation], return_counts=True)[1]
    assert counts.min() > 1 and len(counts) >= 2
    shared = set(y[training]) & set(y[validation])
    assert len(shared) == (0 if split is split_by_label else 12)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("n_labels, n_each", [(30, 4), (10, 20), (3, 9), (20, 2)])
def test_splits_are_the_stratified_one_where_no_row_is_alone(n_labels, n_each, fraction):
    y = np.tile(np.arange(n_labels), n_each)
    expected = stratified_split(y, fraction, 3, n_each=2)
    for rows, same in zip(split_rows_of_labels(y, fraction, 3), expected, strict=True):
        np.testing.assert_array_equal(rows, same)


def test_labels_of_one_row_each_cannot_be_split():
    for split in (split_by_label, split_rows_of_labels):
        with pytest.raises(ValueError, match="'y' .* Got a label of its own for every row. Pass"):
            split(np.arange(30), 0.2, 0)


def test_training_rows_without_a_pair_are_refused_where_nothing_else_is_learned_from():
    alone = np.arange(len(Y))
    assert (
        finetuner().fit(X, alone, **NEW_LABELS).adapter_params_.any()
    )  # validation rows have some
    said = "training rows .* Got 120 rows without such a pair. Pass X and y .* validation_share"
    on_training = Following(RetrievalRecipe(0.0))
    for params in ({"use_validation_labels": False}, {"exploration": on_training}):
        with pytest.raises(ValueError, match=said):
            finetuner(**params).fit(X, alone, **NEW_LABELS)


def test_opaque_validation_labels_may_be_names_of_rows():
    """What is relevant is the scorer's to say; the labels only tell it which rows these are."""

    def same_label(y_query, y_gallery):
        return (Y_VAL[y_query][:, None] == Y_VAL[y_gallery]).astype(float)

    scorer = make_retrieval_scorer("recall_at_k", k=1, relevance=same_label)
    rows = {"X_val": X_VAL, "y_val": np.arange(len(X_VAL))}
    model = fitted(scorer, rows, use_validation_labels=False)
    expected = fitted(rows=NEW_LABELS, use_validation_labels=False)
    np.testing.assert_array_equal(model.observations_["score"], expected.observations_["score"])
    with pytest.raises(ValueError, match="label of its own .* use_validation_labels=False"):
        fitted(scorer, rows)


@pytest.mark.parametrize("scorer, told", [("fitted", True), ("self", False)])
def test_gallery_that_is_replaced_is_told_of_where_it_is_searched(scorer, told):
    scorer = make_retrieval_scorer("recall_at_k", k=1, gallery=scorer)
    catalogue = EmbeddingRetriever(Scales()).fit(X_SAME, Y_SAME)
    model = finetuner(FrozenEstimator(catalogue), scorer, max_observations=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, Y, **KNOWN_LABELS)
        said = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(said) == told
    assert all("80 rows" in s and "Pass the catalogue as X and y" in s for s in said)
    model.set_params(estimator=FrozenEstimator(EmbeddingRetriever(Scales()).fit(X, Y)))
    model.fit(X, Y, **KNOWN_LABELS)  # the same gallery: no warning, which would be an error here


def test_columns_in_another_order_than_the_frozen_retrievers_are_refused():
    names = np.array([f"column {i}" for i in range(N_FEATURES)], dtype=object)
    frozen = FrozenEstimator(EmbeddingRetriever(Scales()).fit(pd.DataFrame(X, columns=names), Y))
    observed = ValidationRows(X_VAL, Y_VAL)

    def subject(feature_names):
        return RetrieverSubject(
            frozen, Data(X, Y, {}, X_VAL, observed, RECALL, (X, Y), feature_names=feature_names)
        )

    for given in (names, None):
        subject(given)
    with pytest.raises(ValueError, match="(?s)should match those .* during fit.* in that order"):
        subject(names[::-1])
