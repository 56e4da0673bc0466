"""Finetune a net to what its mistakes cost, on real data, from training to an ONNX file.

A net reads handwritten digits. Where it is unsure a clerk reads the digit, for 10 cents; a digit
read wrong costs 2 euros. The training labels were typed in a hurry and a third of them were drawn
at random; 500 rows were checked by hand. What counts is euros per 100 digits, which is no loss
function but three lines of Python that see probabilities and labels.

Run it from anywhere with ``python examples/quickstart.py``; it takes less than a minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

CLERK, MISTAKE = 0.10, 2.00  # euros for one digit
CARELESS = 1 / 3  # share of training labels drawn at random
SURE = 1 - CLERK / MISTAKE  # a probability below this is worth a clerk


def minus_cost(estimator, X, y, sure: float = SURE) -> float:
    """Score an estimator: minus the euros spent on 100 digits. Greater is better."""
    proba = estimator.predict_proba(X)
    euros = np.where(proba.max(axis=1) < sure, CLERK, MISTAKE * (proba.argmax(axis=1) != y))
    return -100 * float(euros.mean())


def load_data(seed: int) -> tuple[np.ndarray, ...]:
    """Return training rows with careless labels, checked validation rows and test rows."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, train_size=700, stratify=y, random_state=seed
    )
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, train_size=500, stratify=y_rest, random_state=seed
    )
    rng = np.random.default_rng(seed)
    careless = rng.random(len(y_train)) < CARELESS
    y_train = np.where(careless, rng.integers(10, size=len(y_train)), y_train)
    return X_train, y_train, X_val, y_val, X_test, y_test


def train_net(X: np.ndarray, y: np.ndarray, max_epochs: int, seed: int) -> NeuralNetClassifier:
    """Train an ordinary skorch net, as one would without this library."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    net = NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=max_epochs,
        train_split=None,
        verbose=0,
    )
    return net.fit(X, y)


def report(net, finetuner, X_val, y_val, X_test, y_test) -> None:
    """Print test scores: as trained, with the threshold tuned on the same rows, finetuned."""
    tuned = max(np.linspace(0.1, 1, 181), key=lambda sure: minus_cost(net, X_val, y_val, sure))
    print(f"{len(y_test)} test rows, never seen   as trained   threshold tuned   finetuned")
    euros = [-minus_cost(net, X_test, y_test), -minus_cost(net, X_test, y_test, tuned)]
    euros.append(-minus_cost(finetuner, X_test, y_test))
    rows = {"euros per 100 digits": euros}
    # The threshold decides who reads a digit; it changes no prediction.
    accuracy = [accuracy_score(y_test, model.predict(X_test)) for model in (net, net, finetuner)]
    loss = [log_loss(y_test, model.predict_proba(X_test)) for model in (net, net, finetuner)]
    rows |= {"accuracy": accuracy, "log loss": loss}
    for name, (trained, threshold, finetuned) in rows.items():
        print(f"  {name:23} {trained:10.3f} {threshold:17.3f} {finetuned:11.3f}")


def check_export(finetuner: MetricOptFinetuner, X_val: np.ndarray, X_test: np.ndarray) -> int:
    """Export, run the file in onnxruntime and return on how many test rows the labels differ."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        finetuner.export_onnx(path, X_val)
        session = onnxruntime.InferenceSession(
            path.read_bytes(), providers=["CPUExecutionProvider"]
        )
        size = path.stat().st_size / 1024
    labels, _ = session.run(["label", "probabilities"], {"X": X_test})
    differing = int((labels != finetuner.predict(X_test)).sum())
    agreeing = len(labels) - differing
    print(f"ONNX file of {size:.0f} kB: {agreeing} of {len(labels)} labels agree in onnxruntime")
    return differing


def main(max_epochs: int = 30, max_observations: int = 150, seed: int = 0) -> int:
    """Train, finetune, compare on untouched rows, export, check the file.

    Returns
    -------
    int
        Number of test rows on which onnxruntime disagrees: 0.
    """
    X_train, y_train, X_val, y_val, X_test, y_test = load_data(seed)
    net = train_net(X_train, y_train, max_epochs, seed)
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring=minus_cost,
        max_observations=max_observations,
        random_state=seed,
    )
    finetuner.fit(X_train, y_train, X_val=X_val, y_val=y_val)

    print(f"guard, after {finetuner.n_observations_} observations on {len(y_val)} validation rows")
    print(f"  {finetuner.verdict_}\n")
    report(net, finetuner, X_val, y_val, X_test, y_test)
    print()
    return check_export(finetuner, X_val, X_test)


if __name__ == "__main__":
    raise SystemExit(main())
