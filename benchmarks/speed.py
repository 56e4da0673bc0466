"""Measure what finetuning costs: a fit, an observation, and the ways to batch them.

    python -m benchmarks.speed

Figures to compare are ratios of CPU seconds within one run: those stand up to other load on the
machine, seconds do not. Each is the best of a few repeats, rivals taking turns.
The CNN needs ``SK_METRICOPT_DATA_HOME`` with ``cifar10_small.npz`` and is left out without it.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.models import MLP, SmallCNN
from benchmarks.report import to_markdown
from benchmarks.tasks import DATA_HOME, SCORERS
from sk_metricopt import MetricOptFinetuner
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import BaseAdapter, FiLMAdapter

BUDGET, N_TRAIN, N_VAL, N_FEATURES = 150, 4000, 1500, 30
J = 8  # φ evaluated together
PLAIN_STEPS = 2000


def best_of(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """Return the least CPU seconds of each of `runs`, which take turns, after one to warm up."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + repeats):
        for run, of_run in zip(runs, seconds, strict=True):
            start = time.process_time()
            run()
            of_run.append(time.process_time() - start)
    return [min(of_run[1:]) for of_run in seconds]


# A fit ------------------------------------------------------------------------------------------


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


def fit_cost(repeats: int) -> list[tuple[str, ...]]:
    """CPU seconds of a fit, and how many times that of as many plain gradient steps."""
    X, y = make_classification(
        N_TRAIN + N_VAL, N_FEATURES, n_informative=10, weights=[0.85], flip_y=0.05, random_state=0
    )
    X = X.astype(np.float32)
    net = mlp().fit(X[:N_TRAIN], y[:N_TRAIN])
    fitted = {}

    def fit() -> None:
        finetuner = MetricOptFinetuner(
            FrozenEstimator(net), scoring=SCORERS["f1"], max_observations=BUDGET, random_state=0
        )
        fitted["finetuner"] = finetuner.fit(
            X[:N_TRAIN], y[:N_TRAIN], X_val=X[N_TRAIN:], y_val=y[N_TRAIN:]
        )

    with counted_steps() as steps:
        fit()
    (seconds,) = best_of(repeats, fit)
    step = plain_step(net.module_, X[:N_TRAIN], y[:N_TRAIN], steps.rows, repeats)
    calls = fitted["finetuner"].n_scorer_calls_
    name = f"fit, MLP 64-64, B = {BUDGET}, {N_TRAIN} + {N_VAL} rows"
    return [
        (f"{name}: CPU seconds", f"{seconds:.2f}", "< 3"),
        (
            f"over the {steps.plain} plain gradient steps it takes ({steps.rows} rows each)",
            f"{seconds / (steps.plain * step):.2f}",
            "< 4",
        ),
        (
            f"over as many plain steps as its optimizer takes ({steps.sequential})",
            f"{seconds / (steps.sequential * step):.2f}",
            "",
        ),
        ("one plain gradient step: CPU milliseconds", f"{1e3 * step:.3f}", ""),
        (f"scorer calls for {BUDGET} observations", str(calls), ""),
    ]


def mlp() -> NeuralNetClassifier:
    return NeuralNetClassifier(
        MLP,
        module__n_inputs=N_FEATURES,
        module__n_classes=2,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=10,
        train_split=None,
        verbose=0,
    )


def plain_step(module: nn.Module, X: np.ndarray, y: np.ndarray, n_rows: int, repeats: int) -> float:
    """CPU seconds of one Adam step on the cross-entropy of the plain net."""
    module = copy.deepcopy(module).train()
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    optimizer = torch.optim.Adam(module.parameters())

    def run() -> None:
        for _ in range(PLAIN_STEPS):
            rows = torch.randint(len(X), (n_rows,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
            optimizer.step()

    return best_of(repeats, run)[0] / PLAIN_STEPS


# An observation ---------------------------------------------------------------------------------


class Observing:
    """Two ways from φ (J, n_params) to J scores of `net` on validation rows."""

    def __init__(self, net: NeuralNetClassifier, scorer: Callable, X, y, targets: str):
        self.net, self.scorer, self.X, self.y = net, scorer, X, y
        self.bridge = NetBridge(net)
        self.adapted = AdaptedNet(self.bridge, FiLMAdapter(), targets, X[:64])
        start = time.process_time()
        self.encoded = self.adapted.encode(X)
        self.encode_seconds = time.process_time() - start
        self.phi = 0.1 * torch.randn(J, self.adapted.n_params)
        self.weights = [self.adapted.fold(phi).state_dict() for phi in self.phi]

    def batched(self) -> list[float]:
        """As a fit does: all φ in one evaluation, the scorer on answers that are there."""
        scoring = ClassifierScoring(self.scorer, ValidationRows(self.X, self.y), self.net)
        engine = ObservationEngine(scoring, budget=J, caller="benchmark")
        for scores in self.adapted.outputs(self.phi, self.encoded):
            proba = torch.softmax(scores, -1).numpy()
            observation = Observation(0, 0, "explore", np.nan)
            decided = self.bridge.decide(proba)
            engine.observe(
                observation, ClassifierResponse(scoring, proba, decided, lambda: self.net)
            )
        return list(engine.scores)

    def one_by_one(self) -> list[float]:
        """Copy the net, set its weights, predict, score."""
        scores = []
        for weights in self.weights:
            net = copy.deepcopy(self.net)
            net.module_.load_state_dict(weights)
            scores.append(self.scorer(net, self.X, self.y))
        return scores

    def check(self) -> None:
        """Raise unless both ways see the same model."""
        net = copy.deepcopy(self.net)
        net.module_.load_state_dict(self.weights[0])
        proba = torch.softmax(self.adapted.outputs(self.phi[:1], self.encoded)[0], -1).numpy()
        np.testing.assert_allclose(proba, net.predict_proba(self.X), atol=1e-4)

    def rows(self, name: str, target: str, repeats: int) -> list[tuple[str, ...]]:
        """Time both ways; return the rows of the table."""
        self.check()
        ours, naive = best_of(repeats, self.batched, self.one_by_one)
        return [
            (f"{name}: observations per CPU second, batches of {J}", f"{J / ours:.1f}", ""),
            ("over a loop of copy, set weights, predict, score", f"{naive / ours:.1f}", target),
            ("frozen prefix, once per fit: CPU seconds", f"{self.encode_seconds:.3f}", ""),
        ]


def observations_of_mlp(repeats: int) -> list[tuple[str, ...]]:
    """Observations per second of the MLP."""
    X, y = make_classification(N_VAL, N_FEATURES, n_informative=10, random_state=0)
    X = X.astype(np.float32)
    net = mlp().fit(X, y)
    observing = Observing(net, SCORERS["f1"], X, y, "auto")
    return observing.rows(f"MLP 64-64, {N_VAL} rows", "> 10", repeats)


def observations_of_cnn(repeats: int) -> list[tuple[str, ...]]:
    """Observations per second of a small CNN on real images, where there are any."""
    path = Path(os.environ.get(DATA_HOME, "")) / "cifar10_small.npz"
    if not path.is_file():
        return [(f"CNN: skipped, {DATA_HOME} names no folder with {path.name}", "", "")]
    with np.load(path) as file:
        X, y = file["X_test"].astype(np.float32), file["y_test"]
    X = (X - X.mean()) / X.std()
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        SmallCNN,
        module__n_inputs=3,
        module__n_classes=10,
        criterion=nn.CrossEntropyLoss,
        classes=list(range(10)),
    ).initialize()
    rows = []
    for targets in ("auto", "all"):
        observing = Observing(net, SCORERS["macro_f1"], X, y, targets)
        name = f"small CNN, {len(X)} images, adapter_targets={targets!r}"
        rows += observing.rows(name, "> 3", max(2, repeats // 2))
    return rows


# The plan ---------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One transformer layer and a linear head on the mean token."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 10) for tokens (n, 16, 64)."""
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An LSTM and a linear head on its last state."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 10) for sequences (n, 20, 16)."""
        return self.head(self.lstm(x)[0][:, -1])


class Modulated(nn.Module):
    """A host whose output the adapter works on."""

    def __init__(self, adapter: BaseAdapter, host: nn.Module):
        super().__init__()
        self.adapter, self.host = adapter, host
        self.register_buffer("params", torch.zeros(adapter.n_params(host)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output."""
        return self.adapter.modulate(self.host, self.host(x), self.params)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-64, 500 rows": (lambda: MLP(N_FEATURES, 10), (500, N_FEATURES)),
    "CNN 3x32x32, 200 rows": (lambda: SmallCNN(3, 10), (200, 3, 32, 32)),
    "transformer layer, 100 rows": (Attention, (100, 16, 64)),
    "LSTM + linear, 100 rows": (Recurrent, (100, 20, 16)),
}


def ways_to_batch(make: Callable[[], nn.Module], shape: tuple[int, ...], repeats: int) -> list[str]:
    """Milliseconds to evaluate J φ on the same rows, in six ways; then what the plan chose.

    Adapters sit on all hosts. Only "as planned" has the frozen prefix of the rows at hand.
    """
    torch.manual_seed(0)
    module, x = make().eval().requires_grad_(False), torch.randn(shape)
    net = NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, classes=list(range(10)))
    adapted = AdaptedNet(NetBridge(net.initialize()), FiLMAdapter(), "all", x.numpy())
    module = copy.deepcopy(net.module_).eval()
    phi = 0.1 * torch.randn(J, adapted.n_params)
    encoded = adapted.encode(x.numpy())
    ways: dict[str, Callable[[], object]] = {}
    for one in (overridden(module, adapted, x), modulated(module, adapted, x)):
        ways[f"{one.__name__} vmap"] = lambda one=one: torch.vmap(one)(phi)
        ways[f"{one.__name__} loop"] = lambda one=one: torch.stack([one(p) for p in phi])
    ways["plain"] = lambda: [module(x) for _ in phi]
    ways["planned"] = lambda: adapted.outputs(phi, encoded)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vmap says where it has to loop inside: the table shows it
        milliseconds = [1e3 * seconds for seconds in best_of(repeats, *ways.values())]
    plan = adapted.plan
    chosen = ["vmap" if plan.vmap else "loop", f"{min(len(x), plan.row_chunk(J))} rows"]
    chosen += ["channels_last"] * (plan.memory_format is torch.channels_last)
    return [*(f"{ms:.3g}" for ms in milliseconds), ", ".join(chosen)]


def overridden(module: nn.Module, adapted: AdaptedNet, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the net as a function of φ that computes the weights of every host."""
    hosts = _hosts(module, adapted)

    def overridden(phi: Tensor) -> Tensor:
        weights = {}
        for name, host, part in hosts:
            for key, value in adapted.adapter.weights(host, phi[part]).items():
                weights[f"{name}.{key}"] = value
        return functional_call(module, weights, (x,))

    return overridden


def modulated(module: nn.Module, adapted: AdaptedNet, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the net as a function of φ that computes on the outputs of every host."""
    module = copy.deepcopy(module)
    hosts = _hosts(module, adapted)
    for name, host, _ in hosts:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, Modulated(adapted.adapter, host))

    def modulated(phi: Tensor) -> Tensor:
        params = {f"{name}.params": phi[part] for name, _, part in hosts}
        return functional_call(module, params, (x,))

    return modulated


def _hosts(module: nn.Module, adapted: AdaptedNet) -> list[tuple[str, nn.Module, slice]]:
    hosts, start = [], 0
    for name in adapted.hosts:
        host = module.get_submodule(name)
        stop = start + adapted.adapter.n_params(host)
        hosts.append((name, host, slice(start, stop)))
        start = stop
    return hosts


def chunks_and_layout(repeats: int) -> list[list[str]]:
    """Milliseconds of the plain CNN on 1,600 rows by chunk of rows and memory format."""
    module, x = SmallCNN(3, 10).eval(), torch.randn(1600, 3, 32, 32)
    table = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = copy.deepcopy(module).to(memory_format=layout)
        rows = x.contiguous(memory_format=layout)
        line = [str(layout).removeprefix("torch.")]
        for chunk in (1600, 200, 50, 16):
            with torch.no_grad():
                run = lambda: [net(part) for part in rows.split(chunk)]  # noqa: B023, E731
                line.append(f"{1e3 * best_of(repeats, run)[0]:.3g}")
        table.append(line)
    return table


# The report -------------------------------------------------------------------------------------


def machine() -> str:
    """Processor, versions and threads, in one line."""
    parts = [_processor(), f"{os.cpu_count()} cores", f"torch threads {torch.get_num_threads()}"]
    parts.append(f"python {platform.python_version()}")
    packages = ("torch", "scikit-learn", "skorch", "numpy")
    return ", ".join(parts + [f"{package} {version(package)}" for package in packages])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_table(header: list[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as a markdown table."""
    first, *columns = header
    table = pd.DataFrame(rows, columns=header).set_index(first)
    print(to_markdown(table[columns], first), end="\n\n")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--repeats", type=int, default=5, help="timings, of which the best counts")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = fit_cost(options.repeats)
    rows += observations_of_mlp(options.repeats) + observations_of_cnn(options.repeats)
    print(machine(), end="\n\n")
    print_table(["measured", "value", "target"], rows)
    ways = ["weights, vmap", "weights, loop", "outputs, vmap", "outputs, loop"]
    header = [f"CPU ms for {J} φ", *ways, f"plain net {J} times", "as planned", "the plan"]
    nets = [[name, *ways_to_batch(*net, options.repeats)] for name, net in NETS.items()]
    print_table(header, nets)
    header = ["CPU ms for the plain CNN, 1600 rows", "one batch", "chunks of 200", "of 50", "of 16"]
    print_table(header, chunks_and_layout(options.repeats))


if __name__ == "__main__":
    main()
