"""Trajectories of φ, all stepped together, each with its twins on folds of the probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet, Encoded
from sk_metricopt.exploration._base import Recipe

_EMA = 0.9
_BATCH = 64  # training rows, and as many probe rows, in a step; half where rows are expensive

OptimizerFactory = Callable[[list[dict]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Rows:
    """Encoded rows with their labels."""

    encoded: Encoded
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> Rows:
        return Rows(self.encoded.take(rows), self.y[rows])


@dataclass(frozen=True)
class LabelledRows:
    """Everything with labels that gradients may come from.

    Attributes
    ----------
    training : Rows
    probe : Rows
        What the value function reads: the validation rows or, where their labels may not be
        used, training rows.
    folds : list of Tensor
        Probe rows in each fold; empty where there is nothing to judge out of fold.
    n_classes : int
    """

    training: Rows
    probe: Rows
    folds: list[Tensor]
    n_classes: int

    @cached_property
    def twin_rows(self) -> list[Tensor]:
        """Probe rows each twin trains on: all but one fold in turn, and all of them last."""
        everything = torch.arange(len(self.probe), device=self.probe.y.device)
        if not self.folds:
            return [everything]
        others = [torch.cat([f for f in self.folds if f is not fold]) for fold in self.folds]
        return [*others, everything]

    def pooled(self, adapted: AdaptedNet, phi: Tensor, within: Tensor | None = None) -> Tensor:
        """Return log-scores (J, n, K), each row's by the twin that did not train on it.

        Parameters
        ----------
        adapted : AdaptedNet
        phi : Tensor of shape (J, T, n_params)
        within : Tensor of bool of shape (n_probe,) or None
            Rows asked for, all if None.
        """
        everything = torch.arange(len(self.probe), device=self.probe.y.device)
        twins = self.folds or [everything]
        asked = [fold if within is None else fold[within[fold]] for fold in twins]
        parts = [
            adapted.scores(phi[:, k], self.probe.encoded.take(rows))
            for k, rows in enumerate(asked)
            if len(rows)
        ]
        return torch.cat(parts, dim=1)[:, torch.cat(asked).argsort()]


@dataclass(frozen=True)
class Guidance:
    """Where the value function wants to go, for each trajectory and twin.

    Attributes
    ----------
    on_scores : Tensor of shape (J * T, n_probe, K) or None
        Direction in the log-scores of each probe row, of the size of the criterion's gradient
        there, times the guidance weight.
    on_params : Tensor of shape (J, T, n_params) or None
        Direction in φ, of length one, times the guidance weight.
    """

    on_scores: Tensor | None
    on_params: Tensor | None


class Trajectories:
    """φ of J trajectories with T twins each, stepped together.

    A trajectory's twins follow one recipe on the same training minibatches. Twin k never sees the
    probe rows of fold k, so that these can judge it; the last twin sees all rows and is what
    is deployed.

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
    recipes : list of Recipe
    start : Tensor of shape (J, T, n_params)
    make_optimizer : callable
        From parameter groups to a torch optimizer.
    lr : float
    generator : torch.Generator
        Draws the minibatches.
    """

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        recipes: list[Recipe],
        start: Tensor,
        make_optimizer: OptimizerFactory,
        lr: float,
        generator: torch.Generator,
    ):
        self.recipes = recipes
        self.n_steps = 0
        self._adapted = adapted
        self._rows = rows
        self._generator = generator
        self._batch = int(np.clip(adapted.plan.chunk // 2, _BATCH // 2, _BATCH))
        # One parameter per trajectory: restarting one forgets its state and no other's.
        self._phi = [torch.nn.Parameter(phi.clone()) for phi in start]
        self._average = start.clone()
        self._optimizer = make_optimizer([{"params": self._phi, "lr": lr}])
        self._weights = self._class_weights()

    @property
    def position(self) -> Tensor:
        """Averaged φ (J, T, n_params): what is observed."""
        return self._average.clone()

    def restart(self, j: int, start: Tensor, recipe: Recipe) -> None:
        """Put trajectory `j` at `start` (T, n_params), without the optimizer's memory."""
        self._phi[j].data.copy_(start)
        self._average[j] = start
        self._optimizer.state.pop(self._phi[j], None)
        self.recipes[j] = recipe
        self._weights = self._class_weights()

    def _class_weights(self) -> tuple[Tensor, Tensor]:
        """Weights (J * T, K) of classes for training and for probe rows, shares included."""
        training = class_frequencies(self._rows.training.y, self._rows.n_classes)
        twins = [
            class_frequencies(self._rows.probe.y[rows], self._rows.n_classes)
            for rows in self._rows.twin_rows
        ]
        on_training, on_probe = [], []
        for recipe in self.recipes:
            for twin in twins:
                share = recipe.validation_share
                on_training.append((1 - share) * class_weights(training, recipe))
                on_probe.append(share * class_weights(twin, recipe))
        return torch.stack(on_training), torch.stack(on_probe)

    def step(self, n_steps: int, guidance: Guidance | None = None) -> None:
        """Take optimizer steps on criterion and, where given, value guidance."""
        for _ in range(n_steps):
            phi = torch.stack(list(self._phi))
            scores, pull = self._scores_and_pull(phi, guidance)
            (gradient,) = torch.autograd.grad(scores, phi, pull)
            if guidance is not None and guidance.on_params is not None:
                gradient -= guidance.on_params * gradient.norm(dim=-1, keepdim=True)
            for parameter, g in zip(self._phi, gradient, strict=True):
                parameter.grad = g
            self._optimizer.step()
            self._average.lerp_(torch.stack([p.data for p in self._phi]), 1 - _EMA)
        self.n_steps += n_steps

    def _scores_and_pull(self, phi: Tensor, guidance: Guidance | None) -> tuple[Tensor, Tensor]:
        """Log-scores of a minibatch and the gradient to pull back through them."""
        training, probe = self._draw()
        on_training, on_probe = self._weights
        y_training, y_probe = self._rows.training.y[training], self._rows.probe.y[probe]
        encoded = _side_by_side(
            self._rows.training.encoded.take(training), self._rows.probe.encoded.take(probe)
        )
        scores = self._adapted.scores_each(phi.flatten(0, 1), encoded)
        with torch.no_grad():
            # The gradient of the cross-entropy at the log-scores: no graph for the loss is needed.
            pull = torch.softmax(scores, -1)
            y = torch.cat([y_training, y_probe], 1).unsqueeze(-1)
            pull.scatter_add_(-1, y, -torch.ones_like(y, dtype=pull.dtype))
            weight = torch.cat([on_training.gather(1, y_training), on_probe.gather(1, y_probe)], 1)
            pull *= weight.unsqueeze(-1) / self._batch
            if guidance is not None and guidance.on_scores is not None:
                twin = torch.arange(len(probe), device=probe.device)[:, None]
                pull[:, self._batch :] -= guidance.on_scores[twin, probe] / self._batch
        return scores, pull

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Row indices (J * T, n) into the training and the probe rows."""
        device, n_trajectories = self._rows.training.y.device, len(self._phi)
        twin_rows = self._rows.twin_rows
        training = torch.randint(
            len(self._rows.training), (self._batch,), generator=self._generator
        )
        drawn = [
            torch.randint(len(rows), (self._batch,), generator=self._generator)
            for rows in twin_rows
        ]
        probe = torch.stack([r[d.to(device)] for r, d in zip(twin_rows, drawn, strict=True)])
        training = training.to(device).expand(n_trajectories * len(twin_rows), -1)
        return training, probe.repeat(n_trajectories, 1)


def _side_by_side(first: Encoded, second: Encoded) -> Encoded:
    pairs = zip(first.tensors, second.tensors, strict=True)
    return Encoded(tuple(torch.cat(pair, dim=1) for pair in pairs))


def class_frequencies(y: Tensor, n_classes: int) -> Tensor:
    """Return the share of each class, an absent one counted once."""
    counts = torch.bincount(y, minlength=n_classes).clamp_min(1).float()
    return counts / counts.sum()


def class_weights(frequency: Tensor, recipe: Recipe) -> Tensor:
    """Return the weights of a recipe's criterion, of mean one over rows."""
    weights = frequency**-recipe.balance
    if recipe.class_weight is not None:
        weights = weights * torch.tensor(recipe.class_weight).to(weights)
    return weights / (weights * frequency).sum()
