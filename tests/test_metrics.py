"""Retrieval metrics: against other libraries, exact under ties, and as scorers of estimators."""

from __future__ import annotations

import pickle
from itertools import permutations
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sk_metricopt import _search, metrics
from sk_metricopt._search import METRICS, nearest, similarities
from sk_metricopt.metrics import (
    make_retrieval_scorer,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

EMBED = FunctionTransformer()  # the rows are their embeddings
EVERY_METRIC = [
    ("recall_at_k", {"k": 1}),
    ("recall_at_k", {"k": 3}),
    ("recall_at_k", {"k": 3, "counts": "all"}),
    ("precision_at_k", {"k": 1}),
    ("precision_at_k", {"k": 3}),
    ("mean_average_precision_at_r", {}),
    ("mean_reciprocal_rank", {}),
    ("ndcg_at_k", {"k": 3}),
    ("ndcg_at_k", {}),
]
every_metric = pytest.mark.parametrize(("name", "options"), EVERY_METRIC)


def clusters(n=120, n_labels=12, n_components=6, spread=0.8, seed=0):
    """Embeddings that lie around the centre of their label, and the labels, some of them rare."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_labels, n)
    X = rng.normal(size=(n_labels, n_components))[y] + spread * rng.normal(size=(n, n_components))
    return X.astype(np.float32), y


def judgements(n_queries=40, n_gallery=30, levels=None, grades=2, seed=0):
    """Relevance and similarity; the latter of a few `levels` only, so that many items tie."""
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, grades, (n_queries, n_gallery))
    relevance *= rng.random((n_queries, n_gallery)) < 0.4
    relevance[:, 0] |= relevance.sum(1) == 0
    similarity = rng.normal(size=(n_queries, n_gallery))
    if levels is not None:
        similarity = rng.integers(0, levels, (n_queries, n_gallery)).astype(float)
    return relevance, similarity


def value_of_ranking(name, ranked, k=None, counts="any"):
    """The metric by its definition, for the grades of the items in order."""
    grades = np.asarray(ranked, dtype=float)
    hits, n_relevant = grades > 0, np.count_nonzero(grades)
    k = {"recall_at_k": k, "precision_at_k": k, "ndcg_at_k": k}.get(name) or len(grades)
    if name == "recall_at_k":
        return float(hits[:k].any()) if counts == "any" else hits[:k].sum() / n_relevant
    if name == "precision_at_k":
        return hits[:k].mean()
    if name == "mean_reciprocal_rank":
        return 1 / (1 + np.flatnonzero(hits)[0])
    if name == "mean_average_precision_at_r":
        precisions = [hits[: i + 1].mean() * hits[i] for i in range(n_relevant)]
        return sum(precisions) / n_relevant
    discount = 1 / np.log2(np.arange(k) + 2)
    return (grades[:k] * discount).sum() / (np.sort(grades)[::-1][:k] * discount).sum()


def mean_over_orders(name, relevance, similarity, options):
    """Mean over all orders of the items that do not contradict their similarities."""
    values = [
        value_of_ranking(name, relevance[list(order)], **options)
        for order in permutations(range(len(similarity)))
        if (np.diff(similarity[list(order)]) <= 0).all()
    ]
    return np.mean(values)


# the value of a ranking --------------------------------------------------------------------------


@every_metric
def test_metric_equals_its_definition_without_ties(name, options):
    relevance, similarity = judgements(grades=4)
    values = getattr(metrics, name)(relevance, similarity, average=None, **options)
    order = np.argsort(-similarity, axis=1)
    ranked = np.take_along_axis(relevance, order, axis=1)
    expected = [value_of_ranking(name, row, **options) for row in ranked]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert getattr(metrics, name)(relevance, similarity, **options) == pytest.approx(
        np.mean(expected)
    )


@every_metric
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ties_count_as_the_mean_over_all_their_orders(name, options, levels):
    relevance, similarity = judgements(12, 6, levels, grades=4, seed=levels)
    values = getattr(metrics, name)(relevance, similarity, average=None, **options)
    expected = [
        mean_over_orders(name, *row, options) for row in zip(relevance, similarity, strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-10)


@every_metric
def test_items_at_minus_infinity_are_left_out(name, options):
    relevance, similarity = judgements(levels=4, grades=3)
    left_out = np.arange(len(relevance)) % relevance.shape[1]
    similarity[np.arange(len(relevance)), left_out] = -np.inf
    values = getattr(metrics, name)(relevance, similarity, average=None, **options)
    for row, column in enumerate(left_out):
        shorter = [np.delete(part[[row]], column, axis=1) for part in (relevance, similarity)]
        value = getattr(metrics, name)(*shorter, average=None, lone="zero", **options)
        assert values[row] == pytest.approx(value[0]) or np.isnan(values[row])


@pytest.mark.parametrize("k", [1, 2, 5, None])
@pytest.mark.parametrize("levels", [None, 3, 1])
def test_ndcg_equals_scikit_learns_with_and_without_ties(k, levels):
    relevance, similarity = judgements(levels=levels, grades=5)
    relevance[3] = 0  # scikit-learn has it count 0
    expected = sklearn.metrics.ndcg_score(relevance, similarity, k=k)
    assert ndcg_at_k(relevance, similarity, k=k, lone="zero") == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1, 300])
def test_any_hit_in_a_cut_tie_is_exact_for_large_galleries(scale):
    relevance = np.repeat([[1, 0, 0, 0]], scale, axis=0).ravel()[None]
    missed = np.prod([(3 * scale - i) / (4 * scale - i) for i in range(3)])
    assert recall_at_k(relevance, np.zeros_like(relevance), k=3) == pytest.approx(1 - missed)


@pytest.mark.parametrize(
    ("function", "options", "measure"),
    [
        (recall_at_k, {"k": 1}, "Success@1"),
        (recall_at_k, {"k": 5}, "Success@5"),
        (recall_at_k, {"k": 5, "counts": "all"}, "R@5"),
        (precision_at_k, {"k": 5}, "P@5"),
        (mean_reciprocal_rank, {}, "RR"),
        (ndcg_at_k, {"k": 5}, "nDCG@5"),
        (ndcg_at_k, {}, "nDCG"),
    ],
)
def test_values_equal_those_of_ir_measures(function, options, measure):
    ir_measures = pytest.importorskip("ir_measures")
    relevance, similarity = judgements(grades=4)
    qrels, run = (
        {str(q): {str(d): cast(v) for d, v in enumerate(row)} for q, row in enumerate(matrix)}
        for matrix, cast in ((relevance, int), (similarity, float))
    )
    measured = ir_measures.iter_calc([ir_measures.parse_measure(measure)], qrels, run)
    expected = {int(result.query_id): result.value for result in measured}
    values = function(relevance, similarity, average=None, **options)
    np.testing.assert_allclose(values, [expected[q] for q in range(len(values))], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("recall_at_k", {"k": 1}, "precision_at_1"),
        ("mean_average_precision_at_r", {}, "mean_average_precision_at_r"),
        ("mean_reciprocal_rank", {}, "mean_reciprocal_rank"),
    ],
)
@pytest.mark.parametrize("gallery", ["self", "fitted"])
def test_scorer_equals_the_accuracy_calculator_of_pytorch_metric_learning(
    name, options, theirs, gallery
):
    pytest.importorskip("faiss")
    accuracy_calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    (X, y), (X_gallery, y_gallery) = clusters(), clusters(90, seed=1)
    X, X_gallery = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (X, X_gallery))
    calculator = accuracy_calculator.AccuracyCalculator(
        include=(theirs, "precision_at_1"), k=None, device=torch.device("cpu")
    )
    rows = [torch.as_tensor(part) for part in (X, y, X_gallery, y_gallery)]
    expected = calculator.get_accuracy(*(rows if gallery == "fitted" else rows[:2]))[theirs]
    scorer = make_retrieval_scorer(name, gallery=gallery, **options)
    assert scorer(Gallery(X_gallery, y_gallery), X, y) == pytest.approx(expected, abs=1e-6)


@every_metric
def test_order_of_the_gallery_does_not_matter(name, options):
    relevance, similarity = judgements(levels=5)
    order = np.random.default_rng(0).permutation(relevance.shape[1])
    function = getattr(metrics, name)
    shuffled = function(relevance[:, order], similarity[:, order], **options)
    assert function(relevance, similarity, **options) == pytest.approx(shuffled, abs=1e-12)


@every_metric
def test_perfect_ranking_scores_one(name, options):
    relevance = np.tile([3, 2, 1] + [0] * 7, (4, 1))
    assert getattr(metrics, name)(relevance, relevance, **options) == pytest.approx(1)


@every_metric
def test_matrices_may_be_lists_frames_or_tensors(name, options):
    relevance, similarity = judgements(5, 6)
    function = getattr(metrics, name)
    expected = function(relevance, similarity, **options)
    for convert in (np.ndarray.tolist, pd.DataFrame, torch.as_tensor):
        assert function(convert(relevance), convert(similarity), **options) == expected
    assert function(relevance.astype(bool), similarity.astype(np.float32), **options) == (
        pytest.approx(expected)
    )


@every_metric
def test_lone_queries_are_skipped_count_zero_or_raise(name, options):
    relevance, similarity = judgements(6, 8)
    relevance[1] = 0
    function = getattr(metrics, name)
    values = function(relevance, similarity, average=None, **options)
    assert np.flatnonzero(np.isnan(values)).tolist() == [1]
    assert function(relevance, similarity, **options) == pytest.approx(np.nanmean(values))
    zero = function(relevance, similarity, lone="zero", **options)
    assert zero == pytest.approx(np.nansum(values) / 6)
    with pytest.raises(ValueError, match="Got 1 of 6 without any"):
        function(relevance, similarity, lone="raise", **options)
    with pytest.raises(ValueError, match="Got none in 6 queries"):
        function(0 * relevance, similarity, **options)


@pytest.mark.parametrize(
    ("relevance", "similarity", "options", "message"),
    [
        ([[1, 0]], [[0.5, np.nan]], {}, "'similarity' parameter of recall_at_k must not be NaN"),
        ([[1, np.nan]], [[0.5, 0.1]], {}, "Input relevance contains NaN"),
        ([[1, -1]], [[0.5, 0.1]], {}, r"Got -1.0 instead. Shift the grades"),
        ([[1, 0, 0]], [[0.5, 0.1]], {}, r"\(n_queries, n_gallery\), \(1, 2\). Got \(1, 3\)"),
        ([1, 0], [[0.5, 0.1]], {}, "Expected 2D array"),
        ([[1, 0]], [[0.5, 0.1]], {"k": 3}, "at most the number of gallery items .* 2. Got 3"),
        ([[1, 0]], [[0.5, 0.1]], {"k": 0}, r"'k' parameter of recall_at_k must be an int"),
        ([[1, 0]], [[0.5, 0.1]], {"counts": "one"}, "'counts' parameter of recall_at_k"),
        ([[1, 0]], [[0.5, 0.1]], {"lone": "drop"}, "'lone' parameter of recall_at_k"),
    ],
)
def test_bad_input_of_a_metric_is_named(relevance, similarity, options, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(relevance, similarity, **options)


# search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 4, 7])
def test_nearest_equals_a_stable_sort(metric, k):
    generator = torch.Generator().manual_seed(k)
    queries, gallery = (  # few values: many ties
        torch.randint(-1, 2, (n, 2), generator=generator).float() for n in (30, 7)
    )
    expected = similarities(queries, gallery, metric).sort(dim=1, descending=True, stable=True)
    similarity, index = nearest(queries, gallery, k, metric)
    assert torch.equal(similarity, expected.values[:, :k])
    assert torch.equal(index, expected.indices[:, :k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_similarities_are_what_their_names_say(dtype):
    queries, gallery = torch.randn(5, 3).to(dtype), torch.randn(7, 3).to(dtype)
    expected = {
        "cosine": sklearn.metrics.pairwise.cosine_similarity(queries, gallery),
        "dot": (queries @ gallery.T).numpy(),
        "euclidean": -sklearn.metrics.pairwise.euclidean_distances(queries, gallery),
    }
    for metric in METRICS:
        found = similarities(queries, gallery, metric)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected[metric], atol=1e-6)


def test_small_distances_far_from_the_origin_are_not_lost():
    gallery = 1000 + 1e-2 * torch.arange(5.0)[:, None].expand(5, 8)
    found = similarities(gallery, gallery, "euclidean")
    np.testing.assert_allclose(found, -torch.cdist(gallery.double(), gallery.double()), atol=1e-4)


def test_cosine_of_huge_and_of_tiny_vectors():
    vectors = torch.tensor([[1e30, 1e30], [1e-30, 1e-30], [0.0, 0.0]])
    expected = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(similarities(vectors, vectors, "cosine"), expected, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [5, 17, 101, 333])
def test_equal_gallery_items_are_exactly_equally_near(metric, n):
    gallery = torch.randn(1, 64).expand(n, 64)
    found = similarities(torch.randn(50, 64), gallery, metric)
    assert (found == found[:, :1]).all()


def test_left_out_rows_are_not_found():
    points = torch.randn(20, 4)
    index = nearest(points, points, 19, "euclidean", leave_out=torch.arange(20))[1]
    assert not (index == torch.arange(20)[:, None]).any()
    assert (index.sort(dim=1).values.diff(dim=1) > 0).all()


def test_search_by_blocks_finds_the_same(monkeypatch):
    queries, gallery = torch.randn(50, 4), torch.randn(40, 4)
    whole = nearest(queries, gallery, 3, "cosine")
    monkeypatch.setattr(_search, "_BLOCK", 130)
    in_blocks = nearest(queries, gallery, 3, "cosine")
    torch.testing.assert_close(whole, in_blocks)
    assert nearest(queries[:0], gallery, 3, "cosine")[1].shape == (0, 3)


# scorers -----------------------------------------------------------------------------------------


class Gallery(TransformerMixin, BaseEstimator):
    """Embeds rows as they are, and stores a gallery."""

    def __init__(self, embeddings=None, labels=None, metric="cosine"):
        self.embeddings = embeddings
        self.labels = labels
        self.metric = metric

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X

    @property
    def gallery_embeddings_(self):
        return self.embeddings

    @property
    def gallery_labels_(self):
        return self.labels

    def __sklearn_is_fitted__(self):
        return True


def matrices(X, y, metric="cosine"):
    """Relevance and similarity of rows that query each other, themselves left out."""
    similarity = similarities(torch.as_tensor(X), torch.as_tensor(X), metric).numpy()
    np.fill_diagonal(similarity, -np.inf)
    return y[:, None] == y, similarity


@every_metric
@pytest.mark.parametrize("similarity", METRICS)
def test_rows_query_each_other(name, options, similarity):
    X, y = clusters()
    if name == "ndcg_at_k":
        options = options or {"k": len(X) - 1}
    scorer = make_retrieval_scorer(name, similarity=similarity, **options)
    expected = getattr(metrics, name)(*matrices(X, y, similarity), average=None, **options)
    np.testing.assert_allclose(scorer.per_query(EMBED, X, y), expected, rtol=1e-6)
    assert scorer(EMBED, X, y) == pytest.approx(np.nanmean(expected))


@every_metric
def test_rows_query_the_gallery_of_the_estimator(name, options):
    (X, y), (X_gallery, y_gallery) = clusters(), clusters(70, seed=1)
    y[:3] = 99  # not in the gallery
    scorer = make_retrieval_scorer(name, gallery="fitted", **options)
    similarity = similarities(torch.as_tensor(X), torch.as_tensor(X_gallery), "cosine")
    relevance = y[:, None] == y_gallery
    expected = getattr(metrics, name)(relevance, similarity, average=None, **options)
    values = scorer.per_query(Gallery(X_gallery, y_gallery), X, y)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert np.isnan(values[:3]).all()


@every_metric
@pytest.mark.parametrize("gallery", ["self", "fitted"])
def test_scorer_by_blocks_scores_the_same(name, options, gallery, monkeypatch):
    X, y = clusters(n_components=2)
    X = np.round(X)  # ties
    estimator = Gallery(X[:50], y[:50], metric="euclidean")
    scorer = make_retrieval_scorer(name, gallery=gallery, **options)
    whole = scorer.per_query(estimator, X, y)
    monkeypatch.setattr(_search, "_BLOCK", 700)
    np.testing.assert_allclose(scorer.per_query(estimator, X, y), whole, rtol=1e-10)


@every_metric
@pytest.mark.parametrize("similarity", METRICS)
def test_collapsed_embedding_scores_what_chance_scores(name, options, similarity):
    X, y = clusters()
    relevance = y[:, None] == y
    others = ~np.eye(len(y), dtype=bool)
    chance = getattr(metrics, name)(
        relevance[others].reshape(len(y), -1), np.zeros((len(y), len(y) - 1)), **options
    )
    collapsed = np.full_like(X, 0.3) * np.arange(1, 7, dtype=np.float32)
    scorer = make_retrieval_scorer(name, similarity=similarity, **options)
    assert scorer(EMBED, collapsed, y) == pytest.approx(chance)
    if name == "precision_at_k":
        assert chance == pytest.approx(np.mean((relevance.sum(1) - 1) / (len(y) - 1)))


def nearness(y_query, y_gallery):
    """Graded relevance of labels that are numbers."""
    return np.maximum(0, 3 - np.abs(y_query[:, None] - y_gallery))


@pytest.mark.parametrize("gallery", ["self", "fitted"])
@pytest.mark.parametrize("name", ["ndcg_at_k", "mean_average_precision_at_r"])
def test_relevance_may_be_graded(name, gallery, monkeypatch):
    monkeypatch.setattr(_search, "_BLOCK", 700)  # the callable is asked block by block
    X, y = clusters()
    scorer = make_retrieval_scorer(name, gallery=gallery, relevance=nearness)
    if gallery == "self":
        similarity = matrices(X, y)[1]
    else:
        similarity = similarities(torch.as_tensor(X), torch.as_tensor(X), "cosine")
    expected = getattr(metrics, name)(nearness(y, y), similarity, average=None)
    np.testing.assert_allclose(scorer.per_query(Gallery(X, y), X, y), expected, rtol=1e-6)


def test_relevance_may_read_several_columns_of_y():
    X, y = clusters()
    tags = np.eye(12)[y]
    scorer = make_retrieval_scorer(
        "recall_at_k", relevance=lambda query, gallery: query @ gallery.T
    )
    assert scorer(EMBED, X, tags) == make_retrieval_scorer("recall_at_k")(EMBED, X, y)
    with pytest.raises(ValueError, match="pass 'relevance' where equal labels do not say"):
        make_retrieval_scorer("recall_at_k")(EMBED, X, tags)


@pytest.mark.parametrize("convert", [list, pd.Series, torch.as_tensor, lambda y: y.astype(str)])
def test_labels_may_be_of_any_kind(convert):
    X, y = clusters()
    scorer = make_retrieval_scorer("recall_at_k")
    assert scorer(EMBED, X, convert(y)) == scorer(EMBED, X, y)


@pytest.mark.parametrize(
    "convert", [pd.DataFrame, torch.as_tensor, np.float64, np.float16, lambda X: X[:, ::-1]]
)
def test_embeddings_may_be_of_any_kind(convert):
    X, y = clusters()
    scorer = make_retrieval_scorer("mean_reciprocal_rank")
    assert scorer(EMBED, convert(X), y) == pytest.approx(scorer(EMBED, X, y), abs=0.01)


def wrapped_estimators():
    retriever = Gallery(metric="euclidean")
    yield "itself", retriever
    yield "pipeline", make_pipeline(StandardScaler(with_std=False), retriever)
    yield "frozen", FrozenEstimator(retriever)
    yield "searched", SimpleNamespace(best_estimator_=retriever, transform=retriever.transform)
    yield "finetuned", SimpleNamespace(estimator_=retriever, transform=retriever.transform)


@pytest.mark.parametrize(
    "estimator", [pytest.param(wrapped, id=name) for name, wrapped in wrapped_estimators()]
)
def test_embeddings_are_compared_as_the_estimator_says(estimator):
    X, y = clusters(spread=1.5)
    X += 3
    if hasattr(estimator, "steps"):
        estimator.fit(X)
    as_said, euclidean, cosine = (
        make_retrieval_scorer("mean_average_precision_at_r", similarity=similarity)
        for similarity in ("auto", "euclidean", "cosine")
    )
    assert as_said(estimator, X, y) == euclidean(estimator, X, y) != cosine(estimator, X, y)
    assert as_said(EMBED, X, y) == cosine(EMBED, X, y)


def test_gallery_is_found_in_the_last_step_of_a_pipeline():
    X, y = clusters()
    scaler = StandardScaler().fit(X)
    pipeline = make_pipeline(scaler, Gallery(scaler.transform(X), y))
    scorer = make_retrieval_scorer("recall_at_k", gallery="fitted")
    assert scorer(pipeline, X, y) == 1  # every row finds itself


def test_scorer_by_name_equals_scorer_by_function():
    by_function = make_retrieval_scorer(recall_at_k, k=5, counts="all")
    assert repr(by_function) == "make_retrieval_scorer('recall_at_k', k=5, counts='all')"
    assert by_function.decomposes


def mean_rank(relevance, similarity):
    """Minus the mean rank of the relevant items."""
    ranks = similarity.argsort(1)[:, ::-1].argsort(1)
    return -float(ranks[relevance > 0].mean())


def best_similarity(relevance, similarity, scale=1.0):
    """A value for each query."""
    return scale * np.where(relevance > 0, similarity, -np.inf).max(1)


def test_callable_that_returns_one_number():
    X, y = clusters()
    y[0] = 99
    scorer = make_retrieval_scorer(mean_rank)
    relevance, similarity = matrices(X, y)
    others = ~np.eye(len(y), dtype=bool)
    parts = [part[others].reshape(len(y), -1)[1:] for part in (relevance, similarity)]
    assert scorer(EMBED, X, y) == pytest.approx(mean_rank(*parts))
    assert not scorer.decomposes
    assert not hasattr(scorer, "per_query")
    assert repr(scorer) == "make_retrieval_scorer(mean_rank)"


@pytest.mark.parametrize("lone", ["skip", "zero"])
def test_callable_that_returns_a_value_per_query(lone, monkeypatch):
    monkeypatch.setattr(_search, "_BLOCK", 130)
    X, y = clusters()
    y[4] = 99
    scorer = make_retrieval_scorer(best_similarity, per_query=True, lone=lone, scale=2.0)
    values = scorer.per_query(EMBED, X, y)
    relevance, similarity = matrices(X, y)
    expected = best_similarity(relevance, similarity, 2.0)
    expected[4] = np.nan if lone == "skip" else 0
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert scorer(EMBED, X, y) == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize(
    "metric", [sklearn.metrics.ndcg_score, sklearn.metrics.label_ranking_average_precision_score]
)
@pytest.mark.parametrize("gallery", ["self", "fitted"])
def test_metrics_of_scikit_learn_are_callables_too(metric, gallery):
    X, y = clusters()
    assert 0 < make_retrieval_scorer(metric, gallery=gallery)(Gallery(X, y), X, y) < 1


def test_callable_that_returns_the_wrong_shape_is_named():
    X, y = clusters()
    with pytest.raises(ValueError, match="must return one number.* Pass per_query=True"):
        make_retrieval_scorer(best_similarity)(EMBED, X, y)
    with pytest.raises(ValueError, match="must return one value per query.* Leave per_query out"):
        make_retrieval_scorer(mean_rank, per_query=True)(EMBED, X, y)


@pytest.mark.parametrize("copy", [lambda s: pickle.loads(pickle.dumps(s)), joblib.hash])
def test_scorer_survives_pickle(copy):
    scorer = make_retrieval_scorer("ndcg_at_k", k=3, relevance=nearness, lone="zero")
    copied = copy(scorer)
    if not isinstance(copied, str):
        assert repr(copied) == repr(scorer)
        X, y = clusters()
        assert copied(EMBED, X, y) == scorer(EMBED, X, y)


def test_repr_shows_what_differs_from_the_defaults():
    scorer = make_retrieval_scorer(
        "ndcg_at_k", k=3, gallery="fitted", similarity="dot", lone="zero"
    )
    shown = (
        "make_retrieval_scorer('ndcg_at_k', k=3, gallery='fitted', similarity='dot', lone='zero')"
    )
    assert repr(scorer) == shown
    shown = "make_retrieval_scorer(best_similarity, per_query=True)"
    assert repr(make_retrieval_scorer(best_similarity, per_query=True)) == shown


def test_scorer_serves_a_grid_search_with_groups_and_several_metrics():
    X, y = clusters()
    scoring = {
        "hit": make_retrieval_scorer("recall_at_k", k=1),
        "map": make_retrieval_scorer("mean_average_precision_at_r"),
    }
    search = GridSearchCV(
        PCA(random_state=0),
        {"n_components": [1, 5]},
        scoring=scoring,
        refit="map",
        cv=GroupKFold(3),
    ).fit(X, y, groups=y)
    assert search.best_params_ == {"n_components": 5}
    assert np.isfinite(search.cv_results_["mean_test_hit"]).all()
    results = cross_validate(PCA(2), X, y, scoring=scoring["hit"], groups=y, cv=GroupKFold(3))
    assert np.isfinite(results["test_score"]).all()


def test_text_is_embedded_by_a_pipeline():
    texts = ["red apple", "green apple", "red car", "fast car"]
    labels = ["fruit", "fruit", "vehicle", "vehicle"]
    estimator = make_pipeline(TfidfVectorizer(), TruncatedSVD(3, random_state=0)).fit(texts)
    assert make_retrieval_scorer("recall_at_k", k=2)(estimator, texts, labels) == 1
    with pytest.raises(ValueError, match="dense embeddings. Got a sparse matrix"):
        make_retrieval_scorer("recall_at_k")(estimator[:1], texts, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "recal_at_k"}, "Got 'recal_at_k' instead. Did you mean 'recall_at_k'"),
        ({"metric": ["recall_at_k"]}, "'metric' parameter of make_retrieval_scorer must be one of"),
        ({"metric": "recall_at_k", "k": 0}, "'k' parameter of recall_at_k must be an int"),
        ({"metric": "recall_at_k", "counts": "some"}, "'counts' parameter of recall_at_k"),
        ({"metric": "recall_at_k", "gallery": "train"}, "'gallery' parameter of make_retrieval"),
        ({"metric": "recall_at_k", "similarity": "l2"}, "'similarity' parameter of make_retr"),
        ({"metric": "recall_at_k", "relevance": 1}, "'relevance' parameter of make_retrieval"),
        ({"metric": "recall_at_k", "lone": None}, "'lone' parameter of make_retrieval_scorer"),
        ({"metric": mean_rank, "lone": "zero"}, "pass per_query=True"),
    ],
)
def test_bad_parameter_of_a_scorer_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_retrieval_scorer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "recall_at_k", "count": "all"}, "no parameter 'count'. Did you mean 'counts'"),
        ({"metric": "mean_reciprocal_rank", "k": 3}, "mean_reciprocal_rank has no parameter 'k'"),
        ({"metric": mean_rank, "k": 3}, "mean_rank has no parameter 'k'"),
    ],
)
def test_option_that_a_metric_does_not_take_is_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        make_retrieval_scorer(**arguments)


X5, Y5 = clusters(5, 2)


@pytest.mark.parametrize(
    ("estimator", "X", "y", "message"),
    [
        (EMBED, X5, np.arange(5), "Got none in 5 queries. Check the labels"),
        (EMBED, X5, Y5[:4], "'y' parameter of RetrievalScorer must have one entry per row of X, 5"),
        (EMBED, X5, None, "'y' parameter of RetrievalScorer must be an array of labels. Got None"),
        (EMBED, X5, [0, 0, 1, 1, np.nan], "one label per row, none missing"),
        (EMBED, X5 * np.nan, Y5, "finite embeddings. Got NaN or infinity in 5 of 5 rows"),
        (EMBED, X5[:, 0], Y5, r"shape \(n_samples, n_components\). Got shape \(5,\)"),
        (EMBED, X5.astype(str), Y5, "must return numbers"),
        (LogisticRegression(), X5, Y5, "Got LogisticRegression instead. Wrap the net in Embedding"),
        (Gallery(metric="l2"), X5, Y5, "must be one of 'cosine', 'dot', 'euclidean'. Got 'l2'"),
    ],
)
def test_what_cannot_be_scored_is_named(estimator, X, y, message):
    with pytest.raises(ValueError, match=message):
        make_retrieval_scorer("recall_at_k")(estimator, X, y)


@pytest.mark.parametrize("name", ["recall_at_k", "precision_at_k", "ndcg_at_k"])
@pytest.mark.parametrize(("gallery", "n_found"), [("self", 4), ("fitted", 3)])
def test_scorer_with_k_larger_than_the_gallery_is_named(name, gallery, n_found):
    scorer = make_retrieval_scorer(name, k=5, gallery=gallery)
    with pytest.raises(ValueError, match=f"number of gallery items .* {n_found}. Got 5"):
        scorer(Gallery(X5[:3], Y5[:3]), X5, Y5)


@pytest.mark.parametrize(
    ("gallery", "message"),
    [
        (EMBED, "Got FunctionTransformer without the gallery. Call set_gallery"),
        (Gallery(X5), "Got Gallery without the labels of its gallery"),
        (Gallery(X5[:, :2], Y5), "must have 6 components, as the queries"),
        (Gallery(X5, Y5[:2]), "and 2 labels"),
        (Gallery(X5 * np.inf, Y5), "gallery_embeddings_ must hold finite"),
    ],
)
def test_gallery_that_cannot_be_searched_is_named(gallery, message):
    with pytest.raises(ValueError, match=message):
        make_retrieval_scorer("recall_at_k", gallery="fitted")(gallery, X5, Y5)


@pytest.mark.parametrize("metric", ["recall_at_k", mean_rank])
def test_lone_rows_raise_where_asked_to(metric):
    scorer = make_retrieval_scorer(metric, lone="raise")
    with pytest.raises(ValueError, match="Got 1 of 5 without any. Drop them"):
        scorer(EMBED, X5, [0, 0, 1, 1, 2])


def test_relevance_of_the_wrong_shape_is_named():
    scorer = make_retrieval_scorer("recall_at_k", relevance=lambda query, gallery: query == gallery)
    with pytest.raises(ValueError, match=r"\(n_queries, n_gallery\), \(5, 5\). Got \(5,\)"):
        scorer(EMBED, X5, Y5)
