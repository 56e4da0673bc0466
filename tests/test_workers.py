"""Scorers asked in other processes: the same fit, whoever scores."""

from __future__ import annotations

import os
import threading
import zlib

import joblib
import numpy as np
import pytest
from sklearn.metrics import make_scorer

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt.exceptions import ObservationWarning
from sk_metricopt.metrics import make_retrieval_scorer
from tests.embedding_nets import embedder, labelled_points
from tests.killed_runs import X_FIT, X_VAL, Y_FIT, Y_VAL, finetuner
from tests.nets import log_likelihood


def fit(scorer=log_likelihood, **params) -> MetricOptFinetuner:
    params = {"max_observations": 8} | params
    return finetuner(None, scorer, **params).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


def assert_same_fit(fitted, other):
    assert fitted.n_scorer_calls_ == other.n_scorer_calls_
    assert_same_answers(fitted, other)


def assert_same_answers(fitted, other):
    np.testing.assert_array_equal(fitted.adapter_params_, other.adapter_params_)
    assert (fitted.score_gain_, fitted.score_gain_se_) == (other.score_gain_, other.score_gain_se_)
    for name, column in fitted.observations_.items():
        np.testing.assert_array_equal(column, other.observations_[name])


def mean_recall(y, predicted):
    return float(np.mean([(predicted[y == k] == k).mean() for k in np.unique(y)]))


def of_other_rows(estimator, X, y):
    """Asks for rows that nobody has answered beforehand."""
    return float(estimator.predict_proba(X_FIT[:20] * 0.5)[:, 1].mean()) + log_likelihood(
        estimator, X, y
    )


def noisy(estimator, X, y):
    return float(np.random.normal(scale=0.01)) + log_likelihood(estimator, X, y)


@pytest.mark.filterwarnings("ignore:The scorer is not deterministic")
@pytest.mark.parametrize(
    "scorer",
    [make_scorer(mean_recall), of_other_rows, noisy],
    ids=["made by make_scorer", "callable on other rows", "noisy"],
)
def test_the_fit_is_the_same_whether_processes_or_threads_or_nobody_help(scorer):
    alone = fit(scorer)
    assert_same_fit(fit(scorer, n_jobs=2), alone)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        threaded = fit(scorer)
    if scorer is not noisy:  # threads share the global streams
        assert_same_fit(threaded, alone)


@pytest.mark.parametrize("scoring", ["decomposed", "plain"])
def test_retrievers_are_scored_by_workers_too(scoring):
    X, y = labelled_points()

    def found_first(estimator, X, y):
        neighbours = estimator.set_gallery(X, y).kneighbors(X, 2, return_distance=False)
        return float((y[neighbours[:, 1]] == y).mean())

    scorer = make_retrieval_scorer("recall_at_k", k=1) if scoring == "decomposed" else found_first
    fits = [
        MetricOptFinetuner(
            EmbeddingRetriever(embedder()),
            scoring=scorer,
            max_observations=8,
            random_state=0,
            n_jobs=n_jobs,
        ).fit(X, y)
        for n_jobs in (None, 2)
    ]
    assert_same_answers(*fits)
    n_calls = [fitted.n_scorer_calls_ for fitted in fits]
    assert n_calls[0] <= n_calls[1] <= 3 * n_calls[0]


def test_scores_come_from_other_processes():
    def elsewhere(estimator, X, y):
        return float(os.getpid() != parent) + 0.001 * log_likelihood(estimator, X, y)

    parent = os.getpid()
    assert fit(elsewhere, n_jobs=2).initial_score_ > 0.5
    assert fit(elsewhere).initial_score_ < 0.5


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@pytest.mark.parametrize("kind", [ValueError, Unpicklable])
def test_failures_in_workers_are_recorded_as_failures_here(kind):
    def fails_now_and_then(estimator, X, y):
        if len(y) == len(Y_VAL) and zlib.crc32(estimator.predict_proba(X).tobytes()) % 2 == 1:
            raise kind("on this one", 2)
        return log_likelihood(estimator, X, y)

    def fitted(n_jobs):
        with pytest.warns(ObservationWarning, match="on this one"):
            return fit(fails_now_and_then, n_jobs=n_jobs, max_observations=16)

    alone = fitted(None)
    assert np.isnan(alone.observations_["score"]).any()
    assert_same_fit(fitted(2), alone)


def test_a_scorer_that_cannot_be_sent_is_named():
    def holds_a_lock(estimator, X, y):
        with lock:
            return log_likelihood(estimator, X, y)

    lock = threading.Lock()
    with pytest.raises(ValueError, match="'n_jobs' parameter of MetricOptFinetuner"):
        fit(holds_a_lock, n_jobs=2)
    assert fit(holds_a_lock).n_observations_ > 1


def test_a_checkpoint_written_with_workers_is_gone_on_from_without(tmp_path):
    def fitted(**params):
        model = finetuner(tmp_path, log_likelihood, max_observations=8, **params)
        return model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)

    first, second = fitted(n_jobs=2), fitted()
    assert second.n_scorer_calls_ == 0
    np.testing.assert_array_equal(first.adapter_params_, second.adapter_params_)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_dask_cluster_scores_as_one_process_does():
    distributed = pytest.importorskip("distributed")
    alone = fit()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
        distributed.Client(c),
        joblib.parallel_config(backend="dask"),
    ):
        spread = fit()
    assert_same_fit(spread, alone)
