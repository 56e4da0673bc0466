"""Fitted estimators to look into, each fitted once, for several test files."""

from __future__ import annotations

import functools

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from sk_metricopt.metrics import make_retrieval_scorer
from tests.embedding_nets import embedder, labelled_points
from tests.nets import classifier, table, trained

FEW = {"max_observations": 40, "observation_interval": 5, "random_state": 0}
X, Y = table(3, 900)
NAMES = np.array(["no", "maybe", "yes"])
X_TEST, Y_TEST = X[600:], NAMES[Y[600:]]


def accuracy(estimator, X, y):
    """As scikit-learn's, in a hundredth of the time."""
    return float((estimator.predict(X) == y).mean())


def g_mean(estimator, X, y):
    """Geometric mean of recalls, which a net trained on accuracy leaves much to gain in."""
    hits = estimator.predict(X) == y
    return float(np.prod([hits[y == label].mean() for label in np.unique(y)]) ** (1 / 3))


@functools.cache
def net():
    return trained(classifier(module__n_classes=3, max_epochs=8), X[:300], Y[:300])


@functools.cache
def finetuner(scoring=g_mean, **params):
    """A finetuner of `net`, whose labels are strings; finetuning changes decisions."""
    fitted = MetricOptFinetuner(classifier(module__n_classes=3), scoring=scoring, **FEW | params)
    return fitted.fit(X[:300], NAMES[Y[:300]], X_val=X[300:600], y_val=NAMES[Y[300:600]])


@functools.cache
def unchanged():
    """One observation is the model as it came."""
    return finetuner(max_observations=1)


@functools.cache
def of_frozen_net():
    fitted = MetricOptFinetuner(FrozenEstimator(net()), scoring=g_mean, **FEW)
    return fitted.fit(X[:300], Y[:300], X_val=X[300:600], y_val=Y[300:600])


@functools.cache
def post_shift():
    params = {"scoring": g_mean, "guard_z": None, "random_state": 0}
    return PostShiftClassifier(LogisticRegression(), **params).fit(X[:600], NAMES[Y[:600]])


QUERIES, LABELS = labelled_points(24, 480)
SEEN = LABELS < 16
X_NEW, Y_NEW = QUERIES[~SEEN], LABELS[~SEEN]


@functools.cache
def retriever(gallery="self", **params):
    scoring = make_retrieval_scorer("mean_average_precision_at_r", gallery=gallery)
    net = EmbeddingRetriever(embedder(max_epochs=1, lr=0.01))
    fitted = MetricOptFinetuner(net, scoring=scoring, **FEW | {"guard_z": None} | params)
    return fitted.fit(QUERIES[SEEN], LABELS[SEEN])
