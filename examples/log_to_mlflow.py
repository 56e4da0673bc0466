"""Follow a fit in MLflow: a callback logs each observation while the fit runs.

A callback is a function that is called after each metric observation. This one logs the score, the
best so far and the phase to the active run of MLflow; another one ends the run when nothing better
has been seen for a while. The package itself knows nothing of MLflow.

Runs are kept in a folder that is gone in the end, so nothing leaves this machine. For a server of
your own, set its address with ``mlflow.set_tracking_uri``.

Needs ``pip install mlflow-skinny``. Run it from anywhere with ``python examples/log_to_mlflow.py``;
it takes about ten seconds.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

# Before MLflow is imported: no word to its makers, and folders in place of a database.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
import mlflow

PATIENCE = 30  # observations without a better one


def log_observation(state) -> None:
    """Log one observation to the active run."""
    if state.replayed:  # from a checkpoint: the run that made it has logged it
        return
    metrics = {"score": state.score, "best_score": state.best_score, "seconds": state.elapsed}
    mlflow.log_metrics(metrics, step=state.number)
    mlflow.set_tag("phase", state.phase)


class Patience:
    """End the run when nothing better has been seen for some observations.

    Parameters
    ----------
    n_observations : int
    """

    def __init__(self, n_observations: int):
        self.n_observations = n_observations

    def __call__(self, state) -> None:
        if state.number == 1:  # one object may see several fits
            self.best, self.since = -np.inf, 1
        if state.best_score > self.best:
            self.best, self.since = state.best_score, state.number
        elif state.number - self.since >= self.n_observations:
            state.stop(f"nothing better in {self.n_observations} observations")


def lowest_recall(estimator, X, y) -> float:
    """Score an estimator: the recall of the digit that is found worst."""
    decided = estimator.predict(X)
    return float(min((decided[y == k] == k).mean() for k in np.unique(y)))


def load_data() -> tuple[np.ndarray, ...]:
    """Return training rows, validation rows and their labels."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)


def train_net(X: np.ndarray, y: np.ndarray) -> NeuralNetClassifier:
    """Train an ordinary skorch net."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    settings = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "verbose": 0}
    return NeuralNetClassifier(module, max_epochs=10, train_split=None, **settings).fit(X, y)


def main() -> int:
    """Finetune under a run of MLflow, and print what is found there afterwards."""
    X, X_val, y, y_val = load_data()
    finetuner = MetricOptFinetuner(
        FrozenEstimator(train_net(X, y)),
        scoring=lowest_recall,
        max_observations=100,
        random_state=0,
        callbacks=[log_observation, Patience(PATIENCE)],
    )
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(Path(folder).as_uri())
        mlflow.set_experiment("lowest recall of digits")
        with mlflow.start_run() as run:
            mlflow.log_params({"max_observations": 100, "lr": finetuner.lr})
            finetuner.fit(X, y, X_val=X_val, y_val=y_val)
            mlflow.log_metric("judged_score", finetuner.best_score_)
            mlflow.set_tag("verdict", finetuner.verdict_)
        logged = mlflow.MlflowClient().get_metric_history(run.info.run_id, "score")
    print(f"{len(logged)} of {finetuner.n_observations_} observations logged")
    print(f"first {logged[0].value:.3f}, best {max(m.value for m in logged):.3f}")
    print(finetuner.verdict_)
    return 0 if len(logged) == finetuner.n_observations_ else 1


if __name__ == "__main__":
    raise SystemExit(main())
