"""Ways to evaluate several φ on the same rows, and what chunks and layouts do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.models import MLP, SmallCNN
from benchmarks.timing import best_of
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import BaseAdapter, FiLMAdapter

N_FEATURES = 30
J = 8  # φ evaluated together
N_ROWS, CHUNKS = 1600, (1600, 200, 50, 16)

Row = dict[str, object]


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


def ways_to_batch(repeats: int) -> Iterator[Row]:
    """Yield the seconds of `J` φ on the same rows in six ways, and then what the plan chose.

    Adapters sit on all hosts. Only "as planned" has the frozen prefix of the rows at hand.
    """
    for subject, (make, shape) in NETS.items():
        adapted, ways = _ways(make, shape)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap says where it has to loop inside; it shows
            seconds = best_of(repeats, *ways.values())
        setting = {"subject": subject, "n_phi": J, "n_rows": shape[0], "n_params": adapted.n_params}
        for way, amount in zip(ways, seconds, strict=True):
            yield setting | {"way": way, "quantity": "seconds", "amount": amount}
        for name, amount in _plan(adapted, shape[0]).items():
            yield setting | {"way": "as planned", "quantity": name, "amount": amount}


def _ways(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> tuple[AdaptedNet, dict[str, Callable[[], object]]]:
    torch.manual_seed(0)
    module, x = make().eval().requires_grad_(False), torch.randn(shape)
    net = NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, classes=list(range(10)))
    adapted = AdaptedNet(NetBridge(net.initialize()), FiLMAdapter(), "all", x.numpy())
    module = copy.deepcopy(net.module_).eval()
    phi = 0.1 * torch.randn(J, adapted.n_params)
    encoded = adapted.encode(x.numpy())
    ways: dict[str, Callable[[], object]] = {}
    for name, make_one in (("weights", overridden), ("outputs", modulated)):
        one = make_one(module, adapted, x)
        ways[f"{name}, vmap"] = lambda one=one: torch.vmap(one)(phi)
        ways[f"{name}, loop"] = lambda one=one: torch.stack([one(p) for p in phi])
    ways[f"plain net {J} times"] = lambda: [module(x) for _ in phi]
    ways["as planned"] = lambda: adapted.outputs(phi, encoded)
    return adapted, ways


def _plan(adapted: AdaptedNet, n_rows: int) -> dict[str, int]:
    """Return what the plan chose, as numbers."""
    plan = adapted.plan
    return {
        "vmap": int(plan.vmap),
        "rows in a chunk": min(n_rows, plan.row_chunk(J)),
        "channels_last": int(plan.memory_format is torch.channels_last),
    }


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


def chunks_and_layouts(repeats: int) -> Iterator[Row]:
    """Yield the seconds of the plain CNN by chunk of rows and memory format."""
    module, x = SmallCNN(3, 10).eval(), torch.randn(N_ROWS, 3, 32, 32)
    for layout in (torch.contiguous_format, torch.channels_last):
        net = copy.deepcopy(module).to(memory_format=layout)
        rows = x.contiguous(memory_format=layout)
        for chunk in CHUNKS:
            with torch.no_grad():
                run = lambda: [net(part) for part in rows.split(chunk)]  # noqa: B023, E731
                (amount,) = best_of(repeats, run)
            yield {
                "subject": f"plain CNN, {N_ROWS} rows",
                "n_rows": N_ROWS,
                "varies": "rows in a chunk",
                "value": chunk,
                "way": str(layout).removeprefix("torch."),
                "quantity": "seconds",
                "amount": amount,
            }
