"""What it costs that adapters are an input of the graph: the time of a run, against folded weights.

Run as ``python -m benchmarks.adapter_input``. onnxruntime on the CPU, one thread; the least of many
interleaved runs, in microseconds, and its ratio to the graph whose weights are folded.
"""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.export import to_onnx

BATCHES = (1, 32, 1024)
_SECONDS = 3.0  # per net and batch, over all graphs


def mlp() -> nn.Module:
    """Return a perceptron of 64-64-64-10."""
    hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Return two convolutions of 28 x 28 images."""
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def graphs(module: nn.Module, X: np.ndarray, y: np.ndarray) -> dict[str, tuple[bytes, dict]]:
    """Return a graph of each kind, and what it is fed beside the rows.

    Parameters
    ----------
    module : torch.nn.Module
    X : ndarray of shape (n_samples, ...)
    y : ndarray of shape (n_samples,)
    """
    net = NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0
    ).fit(X, y)
    estimator = MetricOptFinetuner(
        FrozenEstimator(net), scoring="f1_macro", max_observations=8, guard_z=None, random_state=0
    ).fit(X, y)
    named = {"first": estimator, "second": estimator}
    models = {
        "folded": (to_onnx(estimator, X[:8]), {}),
        "free": (
            to_onnx(estimator, X[:8], adapter_input=True),
            {"adapter": estimator.adapter_params_.astype(np.float32)},
        ),
        "named": (to_onnx(estimator, X[:8], adapters=named), {"adapter": np.array(1)}),
    }
    return {name: (model.SerializeToString(), fed) for name, (model, fed) in models.items()}


def seconds_per_run(models: dict[str, tuple[bytes, dict]], X: np.ndarray) -> dict[str, float]:
    """Return the least time of a run on all of `X`, by graph; the graphs take turns.

    Parameters
    ----------
    models : dict of str to (bytes, dict)
    X : ndarray of shape (n_samples, ...)
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it warns that the default of an input is no constant
    sessions = {
        name: (onnxruntime.InferenceSession(content, options), {"X": X, **fed})
        for name, (content, fed) in models.items()
    }
    best = dict.fromkeys(models, np.inf)
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        for name, (session, feed) in sessions.items():
            for _ in range(10):
                start = time.perf_counter()
                session.run(["probabilities"], feed)
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Print a table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{'net':6}{'batch':>6}" + "".join(f"{name:>20}" for name in ("folded", "free", "named")))
    for make, shape in ((mlp, (64,)), (cnn, (1, 28, 28))):
        X = rng.normal(size=(max(BATCHES), *shape)).astype(np.float32)
        models = graphs(make(), X[:200], np.arange(200) % 10)
        for batch in BATCHES:
            took = seconds_per_run(models, X[:batch])
            cells = (f"{t * 1e6:12.1f} x{t / took['folded']:6.2f}" for t in took.values())
            print(f"{make.__name__:6}{batch:6}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
