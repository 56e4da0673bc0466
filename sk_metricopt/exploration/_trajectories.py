"""Trajectories of φ, all stepped together, each with its twins on folds of the probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet, Encoded
from sk_metricopt.exploration._objectives import Objective

_EMA = 0.9

OptimizerFactory = Callable[[list[dict]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Guidance:
    """Where the value function wants to go, for each trajectory and twin.

    Attributes
    ----------
    on_outputs : Tensor of shape (J * T, n_probe, K) or None
        Direction in the outputs of each probe row, of the size of the criterion's gradient
        there, times the guidance weight.
    on_params : Tensor of shape (J, T, n_params) or None
        Direction in φ, of length one, times the guidance weight.
    """

    on_outputs: Tensor | None
    on_params: Tensor | None

    def only(self, kept: Tensor) -> Guidance:
        """Return guidance for the trajectories that a mask (J,) keeps, none for others."""

        def masked(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            of_each = kept.repeat_interleave(len(values) // len(kept))
            return values * of_each.view(-1, *[1] * (values.dim() - 1))

        return Guidance(masked(self.on_outputs), masked(self.on_params))


class Trajectories:
    """φ of J trajectories with T twins each, stepped together.

    A trajectory's twins follow one recipe on the same training minibatches. Twin k never sees the
    probe rows of fold k, so that these can judge it; the last twin sees all rows and is what
    is deployed.

    Parameters
    ----------
    adapted : AdaptedNet
    objective : Objective
    recipes : list of Recipe or RetrievalRecipe
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
        objective: Objective,
        recipes: list,
        start: Tensor,
        make_optimizer: OptimizerFactory,
        lr: float,
        generator: torch.Generator,
    ):
        self.recipes = recipes
        self.n_steps = 0
        self.n_restarts = [0] * len(recipes)
        self._adapted = adapted
        self._objective = objective
        self._generator = generator
        # One parameter per trajectory: restarting one forgets its state and no other's.
        self._phi = [torch.nn.Parameter(phi.clone()) for phi in start]
        self._average = start.clone()
        self._optimizer = make_optimizer([{"params": self._phi, "lr": lr}])

    @property
    def position(self) -> Tensor:
        """Averaged φ (J, T, n_params): what is observed."""
        return self._average.clone()

    def restart(self, j: int, start: Tensor, recipe) -> None:
        """Put trajectory `j` at `start` (T, n_params), without the optimizer's memory."""
        self._phi[j].data.copy_(start)
        self._average[j] = start
        self._optimizer.state.pop(self._phi[j], None)
        self.recipes[j] = recipe
        self.n_restarts[j] += 1

    def step(self, n_steps: int, guidance: Guidance | None = None) -> None:
        """Take optimizer steps on criterion and, where given, value guidance."""
        self._objective.follow(self.recipes)
        for _ in range(n_steps):
            gradient = self._gradient(torch.stack([p.data for p in self._phi]), guidance)
            if guidance is not None and guidance.on_params is not None:
                gradient -= guidance.on_params * gradient.norm(dim=-1, keepdim=True)
            for parameter, g in zip(self._phi, gradient, strict=True):
                parameter.grad = g
            self._optimizer.step()
            self._average.lerp_(torch.stack([p.data for p in self._phi]), 1 - _EMA)
        self.n_steps += n_steps

    def _gradient(self, phi: Tensor, guidance: Guidance | None) -> Tensor:
        """Return the gradient (J, T, n_params) on a minibatch."""
        rows = self._objective.rows
        training, probe = self._objective.draw(len(phi), self._generator)
        n_probe = probe.shape[1]
        n_rows = training.shape[1] + n_probe
        jitter = self._jitter(n_rows, phi.shape[1])

        def rows_of(part: slice) -> Encoded:
            encoded = _side_by_side(
                rows.training.encoded.take(training[part]), rows.probe.encoded.take(probe[part])
            )
            return encoded if jitter is None else jitter(encoded, part)

        def pull(outputs: Tensor) -> Tensor:
            pull = self._objective.pull(outputs, training, probe)
            if guidance is not None and guidance.on_outputs is not None:
                twin = torch.arange(len(probe), device=probe.device)[:, None]
                pull[:, -n_probe:] -= guidance.on_outputs[twin, probe] / n_probe
            return pull

        gradient = self._adapted.pulled_back(phi.flatten(0, 1), rows_of, pull, n_rows)
        return gradient.view_as(phi)

    def _jitter(self, n_rows: int, n_twins: int) -> Callable[[Encoded, slice], Encoded] | None:
        """Draw noise for the features of `n_rows` rows, the same for all trajectories.

        Returns what adds it to the rows (j, n_rows, ...) of some of them; None where no recipe
        asks for noise.
        """
        jitter = torch.tensor([getattr(recipe, "jitter", 0.0) for recipe in self.recipes])
        if not jitter.any():
            return None
        size = jitter.repeat_interleave(n_twins).to(self._adapted.device)
        training = self._objective.rows.training
        # What the first hosts put out; the rest, such as a mask, is not theirs to change.
        n_jittered = self._adapted.n_entries or len(training.encoded.tensors)
        noises = {}
        for i, (like, spread) in enumerate(
            zip(training.encoded.tensors[:n_jittered], training.spread, strict=False)
        ):
            if like.is_floating_point():
                noise = torch.randn(n_rows, *like.shape[1:], generator=self._generator).to(like)
                noises[i] = noise * spread

        def jittered(encoded: Encoded, part: slice) -> Encoded:
            tensors = list(encoded.tensors)
            for i, noise in noises.items():
                by = size[part].view(-1, *[1] * noise.dim()).to(noise)
                tensors[i] = tensors[i] + by * noise
            return Encoded(tuple(tensors))

        return jittered


def _side_by_side(first: Encoded, second: Encoded) -> Encoded:
    pairs = zip(first.tensors, second.tensors, strict=True)
    return Encoded(tuple(torch.cat(pair, dim=1) for pair in pairs))
