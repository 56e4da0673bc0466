"""What an observation costs: a batch of φ as a fit evaluates it, against loops over φ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from sklearn.metrics import make_scorer
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks.memory import peak_bytes
from benchmarks.models import MLP, SmallCNN
from benchmarks.timing import best_of, clock_of
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import FiLMAdapter

N_FEATURES = 30
MAX_LOOPED = 4  # φ that loops are measured with; each costs them the same
MANY_ROWS = 50_000  # from which loops are measured with one φ, and nothing is repeated
BARE_ROWS = {
    "MLP": 1024,
    "wide MLP": 1024,
    "CNN": 128,
}  # in a batch of the bare loop, as they suit the cache of a core

Row = dict[str, object]


def accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Share of rows that are right."""
    return float(np.mean(y == predicted))


def wide(n_inputs: int, n_classes: int, width: int) -> nn.Module:
    """Return a wide hidden layer and a narrow one: nearly all φ belong to the width."""
    layers = [nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, n_classes))


@dataclass(frozen=True)
class Case:
    """A net with weights as they are drawn, on random rows: neither matters to the time it takes.

    Attributes
    ----------
    net : {"MLP", "wide MLP", "CNN"}
    targets : {"auto", "all"}
        Which layers adapt.
    width : int
        Of hidden layers; the CNN has its own.
    n_rows, n_classes, n_phi : int
    device : str
    """

    net: str = "MLP"
    targets: str = "auto"
    width: int = 64
    n_rows: int = 1500
    n_classes: int = 2
    n_phi: int = 8
    device: str = "cpu"

    @property
    def subject(self) -> str:
        """The net in words."""
        if self.net == "CNN":
            return f"CNN, adapter_targets={self.targets!r}"
        return "MLP 30-w-16" if self.net == "wide MLP" else f"MLP {self.width}-{self.width}"

    @property
    def is_large(self) -> bool:
        """Whether one turn takes long enough."""
        return self.n_rows > MANY_ROWS

    @property
    def n_looped(self) -> int:
        """How many φ a loop is measured with."""
        return min(self.n_phi, 1 if self.is_large else MAX_LOOPED)

    def make_net(self) -> NeuralNetClassifier:
        """Return the net, not trained."""
        torch.manual_seed(0)
        if self.net == "CNN":
            module = SmallCNN(3, self.n_classes)
        else:
            module = (MLP if self.net == "MLP" else wide)(N_FEATURES, self.n_classes, self.width)
        return NeuralNetClassifier(
            module,
            criterion=nn.CrossEntropyLoss,
            classes=list(range(self.n_classes)),
            device=self.device,
        ).initialize()

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return validation rows and labels, each class among them."""
        rng = np.random.default_rng(0)
        shape = (3, 32, 32) if self.net == "CNN" else (N_FEATURES,)
        X = rng.standard_normal((self.n_rows, *shape), dtype=np.float32)
        return X, rng.permutation(self.n_rows) % self.n_classes


class Observing:
    """Ways from φ (J, n_params) to J scores on validation rows."""

    def __init__(self, case: Case):
        self.case, self.net, self.scorer = case, case.make_net(), make_scorer(accuracy)
        self.X, self.y = case.rows()
        self.bridge = NetBridge(self.net)
        self.adapted = AdaptedNet(self.bridge, FiLMAdapter(), case.targets, self.X[:64])
        self.phi = 0.1 * torch.randn(case.n_phi, self.adapted.n_params, device=case.device)
        looped = self.phi[: case.n_looped]
        self.weights = [self.adapted.fold(phi).state_dict() for phi in looped]

    @cached_property
    def encoded(self):
        """Validation rows after the frozen prefix, which a fit computes once."""
        return self.adapted.encode(self.X)

    def ours(self) -> list[float]:
        """As a fit does: all φ in one evaluation, the scorer on answers that are there."""
        scoring = ClassifierScoring(self.scorer, ValidationRows(self.X, self.y), self.net)
        engine = ObservationEngine(scoring, budget=len(self.phi), caller="benchmark")
        for scores in self.adapted.outputs(self.phi, self.encoded):
            proba = torch.softmax(scores, -1).cpu().numpy()
            response = ClassifierResponse(
                scoring, proba, self.bridge.decide(proba), lambda: self.net
            )
            engine.observe(Observation(0, 0, "explore", np.nan), response)
        return list(engine.scores)

    def loop(self) -> list[float]:
        """Copy the net, set its weights, predict, score."""
        scores = []
        for weights in self.weights:
            net = copy.deepcopy(self.net)
            net.module_.load_state_dict(weights)
            scores.append(self.scorer(net, self.X, self.y))
        return scores

    def bare(self) -> list[float]:
        """Set the weights of a module, ask it for many rows at once, compute the metric."""
        module = self.net.module_.eval()
        own, X = copy.deepcopy(module.state_dict()), torch.as_tensor(self.X)
        scores, n_rows = [], BARE_ROWS[self.case.net]
        for weights in self.weights:
            module.load_state_dict(weights)
            with torch.inference_mode():
                parts = [module(x.to(self.case.device)).argmax(-1) for x in X.split(n_rows)]
            scores.append(accuracy(self.y, torch.cat(parts).cpu().numpy()))
        module.load_state_dict(own)
        return scores

    def check(self) -> None:
        """Raise unless all ways see the same models; rows on a boundary may fall either way."""
        expected = self.loop()
        for scores in (self.bare(), self.ours()[: len(expected)]):
            np.testing.assert_allclose(scores, expected, atol=2e-3 + 1.5 / self.case.n_rows)


def prepared(case: Case, way: str) -> Callable[[], object]:
    """Return a way to observe that has been gone once, on few rows."""
    getattr(Observing(replace(case, n_rows=max(64, case.n_classes))), way)()
    return getattr(Observing(case), way)


def measure_case(case: Case, repeats: int) -> Iterator[Row]:
    """Yield seconds and peak memory of an observation, each way."""
    observing, clock = Observing(case), clock_of(case.device)
    start = clock()
    _ = observing.encoded
    prefix = clock() - start
    setting = {
        "subject": case.subject,
        "device": case.device,
        "n_phi": case.n_phi,
        "n_rows": case.n_rows,
        "n_params": observing.adapted.n_params,
        "n_classes": case.n_classes,
    }
    observing.check()
    ways = {"ours": case.n_phi, "loop": case.n_looped, "bare loop": case.n_looped}
    runs = (observing.ours, observing.loop, observing.bare)
    seconds = best_of(1 if case.is_large else repeats, *runs, clock=clock)
    for (way, n_phi), of_way in zip(ways.items(), seconds, strict=True):
        amount = of_way / n_phi
        yield setting | {"way": way, "quantity": "seconds per observation", "amount": amount}
    yield setting | {"way": "ours", "quantity": "seconds of the prefix", "amount": prefix}
    for way in ("ours", "loop"):
        yield setting | {"way": way} | _peak(case, way)


def _peak(case: Case, way: str) -> Row:
    if case.device == "cpu":
        n_bytes = peak_bytes(partial(prepared, case, way))
    else:
        run = prepared(case, way)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        n_bytes = torch.cuda.max_memory_allocated() - before
    return {"quantity": "peak MiB", "amount": None if n_bytes is None else n_bytes / 2**20}


NETS = (
    Case(),
    Case(net="CNN", n_rows=2000, n_classes=10),
    Case(net="CNN", n_rows=500, n_classes=10, targets="all"),
)
# What varies, and the cases it varies over.
GROWTH: dict[str, tuple[str, tuple[Case, ...]]] = {
    "params": (
        "n_params",
        tuple(
            Case(net="wide MLP", width=n // 2 - 18, n_rows=500)
            for n in (100, 1000, 10_000, 100_000)
        ),
    ),
    "rows": (
        "n_rows",
        tuple(Case(width=16, n_rows=n) for n in (1000, 10_000, 100_000, 1_000_000)),
    ),
    "phi": ("n_phi", tuple(Case(n_phi=n) for n in (1, 4, 16, 64))),
    "classes": ("n_classes", tuple(Case(n_classes=n) for n in (2, 10, 100, 1000))),
    "cnn": (
        "n_phi",
        tuple(Case(net="CNN", n_rows=500, n_classes=10, n_phi=n) for n in (1, 4, 16, 64)),
    ),
}
GPU = tuple(
    Case(net="CNN", n_rows=2000, n_classes=10, n_phi=64, targets=targets, device="cuda")
    for targets in ("auto", "all")
)


def observed_nets(repeats: int) -> Iterator[Row]:
    """Yield the rows of the nets that stand for themselves."""
    for case in NETS:
        yield from measure_case(case, repeats)


def growth(name: str, repeats: int) -> Iterator[Row]:
    """Yield the rows of cases that differ in one number."""
    varies, cases = GROWTH[name]
    for case in cases:
        for row in measure_case(case, repeats):
            yield row | {"varies": varies, "value": row[varies]}


def on_gpu(repeats: int) -> Iterator[Row]:
    """Yield the rows of the GPU, or that there is none."""
    if torch.cuda.is_available():
        for case in GPU:
            yield from measure_case(case, repeats)
        return
    for case in GPU:
        yield {
            "subject": case.subject,
            "device": case.device,
            "n_phi": case.n_phi,
            "n_rows": case.n_rows,
            "way": "ours",
            "quantity": "seconds per observation",
            "not_measured": "no GPU",
        }
