"""Spread a slow scorer over a cluster: the same fit, sooner.

A scorer may be slow: a simulation, a service elsewhere, an evaluation on millions of rows. The
candidates of a round do not depend on each other, nor do the resamples that a candidate is scored
on, so they can be scored at the same time, wherever joblib has a backend. Here that is dask, with a
cluster of processes on this machine; for machines of your own, only the ``Client`` changes.

Run it from anywhere with ``python examples/score_on_a_cluster.py``; it takes about a minute.
"""

from __future__ import annotations

import time

import joblib
import numpy as np
import torch
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_breast_cancer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

SECONDS = 0.1  # that the scorer takes


def slow_score(estimator, X, y) -> float:
    """Score an estimator: the lower of both recalls, after a while."""
    time.sleep(SECONDS)
    decided = estimator.predict(X)
    return float(min((decided[y == k] == k).mean() for k in (0, 1)))


def load_data() -> tuple[np.ndarray, ...]:
    """Return training rows, validation rows and their labels."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    return train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)


def timed_fit(net: NeuralNetClassifier, data: tuple) -> tuple[MetricOptFinetuner, float]:
    """Finetune `net`; return what was fitted and the seconds it took."""
    X, X_val, y, y_val = data
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net), scoring=slow_score, max_observations=6, random_state=0
    )
    began = time.perf_counter()
    finetuner.fit(X, y, X_val=X_val, y_val=y_val)
    return finetuner, time.perf_counter() - began


def main(n_workers: int = 4) -> int:
    """Fit alone and on a cluster; return 0 if both fits are the same."""
    data = load_data()
    torch.manual_seed(1)
    net = NeuralNetClassifier(
        nn.Linear(30, 2), criterion=nn.CrossEntropyLoss, max_epochs=5, verbose=0
    ).fit(data[0], data[2])

    alone, seconds = timed_fit(net, data)
    print(f"one process: {alone.n_scorer_calls_} calls of the scorer in {seconds:.1f} s")

    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        spread, seconds = timed_fit(net, data)
    print(
        f"{n_workers} workers: {spread.n_scorer_calls_} calls in {seconds:.1f} s, imports included"
    )

    same = np.array_equal(alone.adapter_params_, spread.adapter_params_) and np.array_equal(
        alone.observations_["score"], spread.observations_["score"]
    )
    print(f"the same scores and the same weights, bit by bit: {same}")
    print(spread.verdict_)
    return 0 if same else 1


# Workers import this file; only the one that was started may start a cluster.
if __name__ == "__main__":
    raise SystemExit(main())
