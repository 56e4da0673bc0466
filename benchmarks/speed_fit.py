"""What a fit costs: against as many plain gradient steps, how it grows, where the time goes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks.memory import peak_bytes
from benchmarks.models import MLP, SmallCNN
from benchmarks.tasks import SCORERS
from sk_metricopt import MetricOptFinetuner
from sk_metricopt._adapted import AdaptedNet

N_FEATURES = 30
PLAIN_STEPS = {"MLP": 1000, "CNN": 50}  # that one step's time is the mean of

Row = dict[str, object]


@dataclass(frozen=True)
class Fit:
    """A fit of a frozen net.

    Attributes
    ----------
    net : {"MLP", "CNN"}
        The CNN on images of ten classes, each a picture in noise.
    scoring : str
        A metric of `benchmarks.tasks`, in numpy, or else a name that scikit-learn knows.
    budget, n_train, n_rows, n_classes : int
        Observations, training rows, validation rows, classes.
    """

    net: str = "MLP"
    scoring: str = "f1"
    budget: int = 150
    n_train: int = 4000
    n_rows: int = 1500
    n_classes: int = 2

    @property
    def subject(self) -> str:
        """The net and the metric in words."""
        net = "CNN" if self.net == "CNN" else "MLP 64-64"
        whose = "" if self.scoring in SCORERS else " of scikit-learn"
        return f"{net}, {self.n_classes} classes, {self.scoring}{whose}"

    @property
    def is_large(self) -> bool:
        """Whether it takes long enough to be timed once."""
        return self.net == "CNN" or self.budget * self.n_rows > 250_000

    @property
    def data(self) -> tuple[np.ndarray, ...]:
        """Training and validation rows."""
        make = _images if self.net == "CNN" else _table
        X, y = make(self.n_train + self.n_rows, self.n_classes)
        n = self.n_train
        return X[:n], y[:n], X[n:], y[n:]


def _table(n_rows: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    weights = [0.85] if n_classes == 2 else None
    X, y = make_classification(
        n_rows,
        N_FEATURES,
        n_informative=10,
        n_classes=n_classes,
        weights=weights,
        flip_y=0.05,
        random_state=0,
    )
    return X.astype(np.float32), y


def _images(n_rows: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=n_rows)
    pictures = rng.standard_normal((n_classes, 3, 32, 32), dtype=np.float32)
    X = 0.1 * pictures[y] + rng.standard_normal((n_rows, 3, 32, 32), dtype=np.float32)
    return X, y


@cache
def trained(net: str, n_train: int, n_classes: int) -> NeuralNetClassifier:
    """Return a net trained on rows as a fit's."""
    X, y, _, _ = Fit(net, n_train=n_train, n_rows=100, n_classes=n_classes).data
    torch.manual_seed(0)
    module = SmallCNN(3, n_classes) if net == "CNN" else MLP(N_FEATURES, n_classes)
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=2 if net == "CNN" else 10,
        train_split=None,
        verbose=0,
    ).fit(X, y)


def prepared(fit: Fit) -> Callable[[], MetricOptFinetuner]:
    """Return the fit ready to run."""
    net = trained(fit.net, fit.n_train, fit.n_classes)
    X, y, X_val, y_val = fit.data
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring=SCORERS.get(fit.scoring, fit.scoring),
        max_observations=fit.budget,
        random_state=0,
    )
    return lambda: finetuner.fit(X, y, X_val=X_val, y_val=y_val)


def prepared_warm(fit: Fit) -> Callable[[], MetricOptFinetuner]:
    """Return the fit ready to run, after another on few rows."""
    prepared(replace(fit, n_rows=500, budget=10))()
    return prepared(fit)


# Against plain gradient steps -------------------------------------------------------------------


@dataclass
class Steps:
    """Optimizer steps of a fit.

    Attributes
    ----------
    plain : int
        Steps of all trajectories and all twins: each is one gradient step of one net.
    sequential : int
        Calls of the optimizer; trajectories and twins step together.
    rows : int
        Rows in the minibatch of one net.
    """

    plain: int = 0
    sequential: int = 0
    rows: int = 0


@contextmanager
def counted_steps() -> Iterator[Steps]:
    """Count the gradient steps that a fit takes."""
    steps, pulled_back = Steps(), AdaptedNet.pulled_back

    def counting(self, phi, rows_of, pull, n_rows):
        steps.plain += len(phi)
        steps.sequential += 1
        steps.rows = n_rows
        return pulled_back(self, phi, rows_of, pull, n_rows)

    with patch.object(AdaptedNet, "pulled_back", counting):
        yield steps


def plain_step(fit: Fit, n_rows: int) -> float:
    """CPU seconds of an Adam step on the cross-entropy of the plain net, the mean of many."""
    module = copy.deepcopy(trained(fit.net, fit.n_train, fit.n_classes).module_).train()
    X, y = map(torch.as_tensor, fit.data[:2])
    optimizer = torch.optim.Adam(module.parameters())
    n_steps = PLAIN_STEPS[fit.net]
    start = time.process_time()
    for _ in range(n_steps):
        rows = torch.randint(len(X), (n_rows,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
        optimizer.step()
    return (time.process_time() - start) / n_steps


def fit_cost(varies: str, fits: tuple[Fit, ...], repeats: int) -> Iterator[Row]:
    """Yield the seconds, steps, scorer calls and peak memory of fits that differ in `varies`."""
    for fit in fits:
        run = prepared_warm(fit)
        seconds, step = np.inf, np.inf
        for _ in range(1 if fit.is_large else repeats):
            with counted_steps() as steps:
                start = time.process_time()
                finetuner = run()
                seconds = min(seconds, time.process_time() - start)
            step = min(step, plain_step(fit, steps.rows))
        n_bytes = peak_bytes(partial(prepared_warm, fit))
        found = {
            ("fit", "seconds per fit"): seconds,
            ("equal gradient steps", "seconds per fit"): steps.plain * step,
            ("equal optimizer steps", "seconds per fit"): steps.sequential * step,
            ("fit", "gradient steps"): steps.plain,
            ("fit", "optimizer steps"): steps.sequential,
            ("fit", "rows of a step"): steps.rows,
            ("fit", "scorer calls"): finetuner.n_scorer_calls_,
            ("fit", "peak MiB"): None if n_bytes is None else n_bytes / 2**20,
        }
        setting = _setting(fit, finetuner) | {"varies": varies, "value": getattr(fit, varies)}
        for (way, quantity), amount in found.items():
            yield setting | {"way": way, "quantity": quantity, "amount": amount}


def _setting(fit: Fit, finetuner: MetricOptFinetuner) -> Row:
    return {
        "subject": fit.subject,
        "budget": fit.budget,
        "n_rows": fit.n_rows,
        "n_params": len(finetuner.adapter_params_),
        "n_classes": fit.n_classes,
    }


# Where the time goes ----------------------------------------------------------------------------


def profile(fits: tuple[Fit, ...], repeats: int) -> Iterator[Row]:
    """Yield the CPU seconds of the parts of fits, as the fit's own clock tells them apart."""
    for fit in fits:
        run = prepared_warm(fit)
        with patch("sk_metricopt._clock.time", SimpleNamespace(perf_counter=time.process_time)):
            finetuners = [run() for _ in range(1 if fit.is_large else repeats)]
            splits = [dict(finetuner.report_.seconds) for finetuner in finetuners]
        split = min(splits, key=lambda seconds: seconds["total"])
        split["preparation"] += split.pop("training")  # of a frozen net there is none
        setting = _setting(fit, finetuners[0])
        setting["subject"] += f", {fit.n_rows:,} rows"
        for part, amount in split.items():
            yield setting | {"way": part, "quantity": "seconds per fit", "amount": amount}


BUDGETS = tuple(Fit(budget=budget) for budget in (10, 25, 50, 100, 150, 300))
ROWS = tuple(Fit(budget=50, n_rows=n_rows) for n_rows in (1000, 10_000, 100_000))
CNN = Fit("CNN", "macro_f1", n_train=1000, n_rows=1000, n_classes=10)
PROFILED = (
    Fit(),
    Fit(scoring="f1_macro"),  # scikit-learn's own, which checks its input at every call
    Fit(n_rows=10_000),
    Fit(scoring="macro_f1", n_classes=10),
    CNN,
)
