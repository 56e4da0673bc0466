"""An ensemble of small networks over φ, trained so that a few observations adapt it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sk_metricopt.value_functions._interpolation import Interpolated

_HIDDEN, _EMBEDDED = 32, 8
_META_LR, _DECAY = 3e-3, 1e-3
_ADAPT_LR, _ADAPT_STEPS = 0.1, 5
_SUPPORT = 5  # observations that a network is adapted on while it is meta-trained
_PAIRS = 256  # whose order is looked at in a step
_RANK_SCALE = 0.2  # difference of predictions that is an order, in units of all scores' spread
_LEAST_STD = 0.05  # how sure an observation is taken to be at most

Weights = dict[str, Tensor]


class Tasks:
    """Trajectories side by side, padded to one length; each is a task of meta-training.

    Parameters
    ----------
    trajectories : list of Interpolated
    """

    def __init__(self, trajectories: list[Interpolated]):
        n = max(len(t.mean) for t in trajectories)

        def padded(name: str, like: float) -> Tensor:
            out = np.full((len(trajectories), n), like)
            for row, t in zip(out, trajectories, strict=True):
                row[: len(t.mean)] = getattr(t, name)
            return torch.as_tensor(out, dtype=torch.float32)

        self.mean = padded("mean", 0.0)
        self.std = padded("std", 1.0).clamp_min(_LEAST_STD)
        self.there = torch.tensor([[i < len(t.mean) for i in range(n)] for t in trajectories])
        self.observed = padded("observed", 0.0) > 0
        size = trajectories[0].descriptors.shape[1]
        self.X = torch.zeros(len(trajectories), n, size)
        for x, t in zip(self.X, trajectories, strict=True):
            x[: len(t.mean)] = torch.as_tensor(t.descriptors, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.X)


class Loss:
    """Squared errors, each by how sure its target is, and the order of pairs.

    Parameters
    ----------
    rank_weight : float
        Of the order of pairs.
    generator : torch.Generator
        Draws the pairs.
    """

    def __init__(self, rank_weight: float, generator: torch.Generator):
        self._rank_weight = rank_weight
        self.generator = generator

    def __call__(self, f: Tensor, mean: Tensor, std: Tensor, used: Tensor) -> Tensor:
        """Return the loss (E,) of predictions (E, n) for targets of the points that are used."""
        weight = used / std**2
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
        loss = (weight * (f - mean) ** 2).sum(1)
        if not self._rank_weight:
            return loss
        i, j = torch.randint(f.shape[1], (2, _PAIRS), generator=self.generator)
        gap = mean[:, i] - mean[:, j]
        sure = torch.erf(gap.abs() / torch.hypot(std[:, i], std[:, j]) / 2**0.5)
        sure = sure * (used[:, i] & used[:, j])
        wrong = F.softplus(-gap.sign() * (f[:, i] - f[:, j]) / _RANK_SCALE)
        return loss + self._rank_weight * (sure * wrong).sum(1) / sure.sum(1).clamp_min(1.0)


def initial(n_members: int, n_inputs: int, generator: torch.Generator) -> Weights:
    """Return weights of an ensemble, drawn at random."""
    weights = {}
    for name, shape in shapes(n_members, n_inputs):
        if name.startswith("w"):
            weights[name] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        else:
            weights[name] = torch.zeros(shape)
    return weights


def shapes(n_members: int, n_inputs: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Return names and shapes of an ensemble's weights."""
    sizes = [(n_inputs, _HIDDEN), (_HIDDEN, _EMBEDDED), (_EMBEDDED, 1)]
    weights = [(f"w{k}", (n_members, n, m)) for k, (n, m) in enumerate(sizes)]
    return weights + [(f"b{k}", (n_members, 1, m)) for k, (_, m) in enumerate(sizes)]


def embedded(weights: Weights, X: Tensor) -> Tensor:
    """Return embeddings (E, n, d) of inputs (n, n_inputs) or (E, n, n_inputs)."""
    hidden = torch.tanh(X @ weights["w0"] + weights["b0"])
    return torch.tanh(hidden @ weights["w1"] + weights["b1"])


def values(weights: Weights, X: Tensor) -> Tensor:
    """Return predictions (E, n) of each network."""
    return (embedded(weights, X) @ weights["w2"] + weights["b2"])[..., 0]


def trained(weights: Weights, tasks: Tasks, loss: Loss, n_steps: int) -> Weights:
    """Train on all trajectories pooled."""

    def gradient(now: Weights, which: Tensor) -> Weights:
        return _gradient(now, tasks, which, tasks.there[which], loss)

    return _descended(weights, gradient, tasks, loss, n_steps)


def meta_trained(weights: Weights, tasks: Tasks, loss: Loss, n_steps: int) -> Weights:
    """Train so that a few observations of a trajectory adapt to it (first-order MAML).

    Each network in each step adapts a copy to some observations of one trajectory, and adds the
    gradient there, on the whole trajectory, to its own: it is to be right before adaptation too.
    """

    def gradient(now: Weights, which: Tensor) -> Weights:
        support = _drawn(tasks.observed[which], _SUPPORT, loss.generator)
        there = tasks.there[which]
        before = _gradient(now, tasks, which, there, loss)
        after = _gradient(_stepped(now, tasks, which, support, loss), tasks, which, there, loss)
        return {name: (before[name] + after[name]) / 2 for name in before}

    return _descended(weights, gradient, tasks, loss, n_steps)


def adapted(weights: Weights, tasks: Tasks, loss: Loss) -> Weights:
    """Adapt to trajectories, all of them pooled as one."""
    every = torch.zeros(len(weights["w0"]), dtype=torch.long)
    return _stepped(weights, tasks, every, tasks.there[every], loss)


def _descended(
    weights: Weights,
    gradient: Callable[[Weights, Tensor], Weights],
    tasks: Tasks,
    loss: Loss,
    n_steps: int,
) -> Weights:
    leaves = {name: w.clone().requires_grad_(True) for name, w in weights.items()}
    optimizer = torch.optim.AdamW(leaves.values(), lr=_META_LR, weight_decay=_DECAY)
    n_members = len(weights["w0"])
    for _ in range(n_steps):
        which = torch.randint(len(tasks), (n_members,), generator=loss.generator)
        for name, g in gradient({n: w.detach() for n, w in leaves.items()}, which).items():
            leaves[name].grad = g
        optimizer.step()
    return {name: w.detach() for name, w in leaves.items()}


def _stepped(weights: Weights, tasks: Tasks, which: Tensor, used: Tensor, loss: Loss) -> Weights:
    """Return weights after plain gradient steps on the points that are used."""
    for _ in range(_ADAPT_STEPS):
        gradient = _gradient(weights, tasks, which, used, loss)
        weights = {name: w - _ADAPT_LR * gradient[name] for name, w in weights.items()}
    return weights


def _gradient(weights: Weights, tasks: Tasks, which: Tensor, used: Tensor, loss: Loss) -> Weights:
    with torch.enable_grad():
        leaves = {name: w.detach().requires_grad_(True) for name, w in weights.items()}
        f = values(leaves, tasks.X[which])
        total = loss(f, tasks.mean[which], tasks.std[which], used).sum()
        return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def _drawn(candidates: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return a mask of `n` of the candidates in each row, all where there are fewer."""
    order = torch.rand(candidates.shape, generator=generator).masked_fill(~candidates, 2.0)
    chosen = order.argsort(dim=1)[:, :n]
    return torch.zeros_like(candidates).scatter_(1, chosen, True) & candidates
