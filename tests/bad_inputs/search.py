"""EmbeddingRetriever and scorers of search."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt.metrics import make_retrieval_scorer
from tests.bad_inputs.case import WORKS, Case
from tests.bad_inputs.parameters import Raises, Returns
from tests.bad_inputs.rows import holding, module
from tests.embedding_nets import Embedder, embedder, labelled_points
from tests.nets import classifier

X, Y = labelled_points(4, 40)


@functools.cache
def served():
    return EmbeddingRetriever(module(Embedder)).fit(X, Y)


def fit(estimator=None, X=X, y=Y, **params):
    """Set a gallery, search it, and say what came of it."""
    estimator = module(Embedder) if estimator is None else estimator
    retriever = EmbeddingRetriever(estimator, **({"random_state": 0} | params)).fit(X, y)
    distance, index = retriever.kneighbors(X)
    assert distance.shape == index.shape == (len(X), retriever.n_neighbors)
    assert (index >= 0).all() and (index < len(X)).all()
    assert (np.diff(distance, axis=1) >= 0).all()
    return f"finds {index.shape[1]} neighbours of each of {len(X)} rows"


def finetune(**params):
    given = {"estimator": EmbeddingRetriever(module(Embedder)), "max_observations": 3}
    given |= {"observation_interval": 5, "random_state": 0}
    data = {"X": params.pop("X", X), "y": params.pop("y", Y)}
    model = MetricOptFinetuner(**(given | params)).fit(**data)
    predicted = model.predict(data["X"])
    assert predicted.shape == (len(data["y"]),)
    assert np.isin(predicted, data["y"]).all()
    return f"predicts labels of {len(predicted)} rows"


def _fit(passed, expected, **params):
    return Case("EmbeddingRetriever.fit", passed, lambda: fit(**params), expected)


def _estimator(passed, make, expected, **params):
    return Case(
        "EmbeddingRetriever", f"estimator: {passed}", lambda: fit(make(), **params), expected
    )


def _method(passed, call, expected):
    def called():
        call(served())
        return "answers"

    return Case("EmbeddingRetriever", passed, called, expected)


def _scorer(passed, expected, estimator=None, X=X, y=Y, metric="recall_at_k", **params):
    def call():
        scorer = make_retrieval_scorer(metric, **params)
        score = scorer(served() if estimator is None else estimator, X, y)
        assert np.isfinite(score)
        return "a finite score"

    return Case("make_retrieval_scorer", passed, call, expected)


def _finetune(passed, expected, **params):
    return Case("MetricOptFinetuner of a retriever", passed, lambda: finetune(**params), expected)


_SPARSE = FunctionTransformer(sparse.csr_matrix)
_TEXT = FunctionTransformer(lambda X: np.full((len(X), 2), "a"))

CASES = [
    _fit("X with NaN", "Input X contains NaN", X=holding(np.nan, X)),
    _fit("X sparse", "Sparse data", X=sparse.csr_matrix(X)),
    _fit("X without rows", "0 sample", X=X[:0], y=Y[:0]),
    _fit("X of one dimension", "2D", X=X[:, 0]),
    _fit("X as a dict", "'X' parameter", X={"X": X}),
    _fit("X of objects", "'X' parameter", X=np.array([[object()] * 6] * 40)),
    _fit("y too short", "inconsistent", y=Y[:-1]),
    _fit("y with NaN", "Input y contains NaN", y=np.where(Y == 0, np.nan, Y)),
    _fit("y of two columns", "1d", y=np.c_[Y, Y]),
    _fit("no y, for a module", WORKS, y=None),
    _fit("fewer rows than neighbours", "n_neighbors", X=X[:3], y=Y[:3]),
    _fit("n_neighbors=0", "'n_neighbors' parameter", n_neighbors=0),
    _fit("n_neighbors=2.5", "'n_neighbors' parameter", n_neighbors=2.5),
    _fit("metric='cosin'", "'metric' parameter", metric="cosin"),
    _fit("metric=None", "'metric' parameter", metric=None),
    _fit("metric=['cosine']", "'metric' parameter", metric=["cosine"]),
    _fit("index='tree'", "'index' parameter", index="tree"),
    _fit("index=3", "'index' parameter", index=3),
    _fit("miner='hard'", "'miner' parameter", miner="hard"),
    _fit("random_state=-1", "'random_state' parameter", random_state=-1),
    _estimator("None", lambda: 3, "'estimator' parameter"),
    _estimator("a module's class", lambda: Embedder, r"'estimator' .*NeuralNet\(Embedder, "),
    _estimator("a classifier net", classifier, "'estimator' parameter"),
    _estimator("LogisticRegression", LogisticRegression, "'estimator' parameter"),
    _estimator("a frozen net never fitted", lambda: FrozenEstimator(embedder()), "never fitted"),
    _estimator("a net without labels to train on", embedder, "requires y", y=None),
    _estimator("a net of other features", lambda: module(Embedder, input_dim=3), "'estimator'"),
    _estimator("one number per row", lambda: module(Embedder, output="flat"), "'estimator'"),
    _estimator("maps instead of vectors", lambda: module(Embedder, output="maps"), "'estimator'"),
    _estimator("embeds as NaN", lambda: module(Embedder, output="nan"), "finite"),
    _estimator("returns a tuple", lambda: module(Embedder, output="tuple"), WORKS),
    _estimator("returns None", lambda: Returns(lambda out: None), "'estimator'"),
    _estimator("returns integers", lambda: Returns(lambda out: out.long()), "'estimator'"),
    _estimator("returns complex numbers", lambda: Returns(lambda out: out + 1j), "'estimator'"),
    _estimator("raises KeyError", lambda: Raises(KeyError("no")), "'estimator'"),
    _estimator("a sparse transformer", lambda: FrozenEstimator(_SPARSE), "dense"),
    _estimator("a transformer of text", lambda: FrozenEstimator(_TEXT), "could not convert"),
    _method("transform: a column too few", lambda r: r.transform(X[:, :5]), "5 features"),
    _method("transform: NaN", lambda r: r.transform(holding(np.nan, X)), "NaN"),
    _method("transform: no rows", lambda r: r.transform(X[:0]), "0 sample"),
    _method("kneighbors: 0 neighbours", lambda r: r.kneighbors(X, 0), "n_neighbors"),
    _method("kneighbors: more than there are", lambda r: r.kneighbors(X, 99), "n_neighbors"),
    _method("kneighbors: 1.5 neighbours", lambda r: r.kneighbors(X, 1.5), "n_neighbors"),
    _method("score: y too short", lambda r: r.score(X, Y[:-1]), "'y' parameter"),
    _method("score: y with NaN", lambda r: r.score(X, np.where(Y == 0, np.nan, Y)), "'y'"),
    _scorer("an unknown metric", "Did you mean 'recall_at_k'", metric="recall_at"),
    _scorer("metric=None", "'metric' parameter", metric=None),
    _scorer("k=0", "'k' parameter", k=0),
    _scorer("k='all'", "'k' parameter", k="all"),
    _scorer("k beyond the gallery", "'k' parameter", k=10**6),
    _scorer("an option it does not have", "no parameter 'depth'", depth=3),
    _scorer("gallery='mine'", "'gallery' parameter", gallery="mine"),
    _scorer("similarity='l2'", "'similarity' parameter", similarity="l2"),
    _scorer("relevance=3", "'relevance' parameter", relevance=3),
    _scorer("relevance of another shape", "Expected 2D", relevance=lambda a, b: np.ones(3)),
    _scorer(
        "relevance of NaN", "relevance", relevance=lambda a, b: np.full((len(a), len(b)), np.nan)
    ),
    _scorer("lone='drop'", "'lone' parameter", lone="drop"),
    _scorer("an estimator without transform", "transform", estimator=LogisticRegression()),
    _scorer("embeddings of text", "numbers", estimator=_TEXT),
    _scorer("sparse embeddings", "dense", estimator=_SPARSE),
    _scorer("y as a number", "'y'", y=3),
    _scorer("a metric that returns text", "metric", metric=lambda relevance, similarity: "good"),
    _scorer("a metric that returns None", "metric", metric=lambda relevance, similarity: None),
    _scorer("a metric that returns an array", "one number", metric=lambda r, s: np.ones(len(r))),
    _finetune("defaults", WORKS),
    _finetune("a label of its own for every row", "'y' parameter", y=np.arange(40)),
    _finetune("one label", "at least 2 classes", y=np.zeros(40, int)),
    _finetune("labels of text", WORKS, y=np.array(list("abcd"))[Y]),
    _finetune("scoring='f1'", "'scoring' parameter", scoring="f1"),
]
