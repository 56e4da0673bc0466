"""Objectives: what a step of a trajectory minimises, as a gradient at the net's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.exploration._base import Recipe
from sk_metricopt.exploration._rows import LabelledRows

_BATCH = 64  # training rows, and as many probe rows, in a step; half where rows are expensive
_BATCH_BYTES = 2**20  # of the largest activation of a step's rows, for one φ


class Objective(ABC):
    """The criteria of several trajectories with their twins, each a recipe's.

    Attributes
    ----------
    rows : LabelledRows
    """

    rows: LabelledRows
    recipe_type: type

    def followed(self, recipes: list) -> list:
        """Return the recipes that can be followed here.

        Raises
        ------
        TypeError, ValueError
            If a recipe is for another kind of estimator, or none can be followed.
        """
        for recipe in recipes:
            if not isinstance(recipe, self.recipe_type):
                raise TypeError(
                    "The 'exploration' parameter of MetricOptFinetuner must give "
                    f"{self.recipe_type.__name__} objects for this estimator. Got {recipe!r} "
                    "instead. RetrievalRecipe is for an EmbeddingRetriever, Recipe for a "
                    "classifier."
                )
        return recipes

    @abstractmethod
    def follow(self, recipes: list) -> None:
        """Take one recipe per trajectory."""

    @abstractmethod
    def draw(self, n_trajectories: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return row indices (J * T, n) into the training and the probe rows."""

    @abstractmethod
    def pull(self, outputs: Tensor, training: Tensor, probe: Tensor) -> Tensor:
        """Return the gradient of the criteria at the outputs of the rows drawn.

        Parameters
        ----------
        outputs : Tensor of shape (J * T, n_training + n_probe, K)
        training, probe : Tensor of shape (J * T, n)
            As drawn.
        """

    @abstractmethod
    def size(self, outputs: Tensor, y: Tensor, recipes: list) -> Tensor:
        """Return the root mean square (J,) of the gradient at one row's outputs.

        Of each recipe's criterion, by itself on the rows of `outputs` (J, n, K), times n.
        """


class CrossEntropyObjective(Objective):
    """Weighted cross-entropies of log-scores.

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
    """

    recipe_type = Recipe

    def __init__(self, adapted: AdaptedNet, rows: LabelledRows):
        self.rows = rows
        affordable = _BATCH_BYTES // (2 * adapted.plan.footprint.row)
        self._batch = int(np.clip(affordable, _BATCH // 2, _BATCH))

    def follow(self, recipes: list[Recipe]) -> None:
        """Take one recipe per trajectory."""
        training = class_frequencies(self.rows.training.y, self.rows.n_classes)
        twins = [
            class_frequencies(self.rows.probe.y[rows], self.rows.n_classes)
            for rows in self.rows.twin_rows
        ]
        on_training, on_probe = [], []
        for recipe in recipes:
            for twin in twins:
                share = recipe.validation_share
                on_training.append((1 - share) * class_weights(training, recipe))
                on_probe.append(share * class_weights(twin, recipe))
        # Weights (J * T, K) of classes for training and for probe rows, shares included.
        self._weights = torch.stack(on_training), torch.stack(on_probe)

    def draw(self, n_trajectories: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return row indices (J * T, n) into the training and the probe rows."""
        device = self.rows.training.y.device
        twin_rows = self.rows.twin_rows
        training = torch.randint(len(self.rows.training), (self._batch,), generator=generator)
        drawn = [
            torch.randint(len(rows), (self._batch,), generator=generator) for rows in twin_rows
        ]
        probe = torch.stack([r[d.to(device)] for r, d in zip(twin_rows, drawn, strict=True)])
        training = training.to(device).expand(n_trajectories * len(twin_rows), -1)
        return training, probe.repeat(n_trajectories, 1)

    def pull(self, outputs: Tensor, training: Tensor, probe: Tensor) -> Tensor:
        """Return the gradient at the log-scores: no graph for the loss is needed."""
        on_training, on_probe = self._weights
        y_training, y_probe = self.rows.training.y[training], self.rows.probe.y[probe]
        pull = torch.softmax(outputs, -1)
        y = torch.cat([y_training, y_probe], 1).unsqueeze(-1)
        pull.scatter_add_(-1, y, -torch.ones_like(y, dtype=pull.dtype))
        weight = torch.cat([on_training.gather(1, y_training), on_probe.gather(1, y_probe)], 1)
        pull *= weight.unsqueeze(-1) / self._batch
        return pull

    def size(self, outputs: Tensor, y: Tensor, recipes: list[Recipe]) -> Tensor:
        """Return the root mean square (J,) of the gradient at one row's log-scores."""
        frequency = class_frequencies(y, self.rows.n_classes)
        weights = torch.stack([class_weights(frequency, recipe) for recipe in recipes])
        pull = torch.softmax(outputs, -1)
        index = y.expand(len(outputs), -1).unsqueeze(-1)
        pull.scatter_add_(-1, index, -torch.ones_like(index, dtype=pull.dtype))
        pull *= weights[:, y].unsqueeze(-1)
        return pull.square().mean((1, 2)).sqrt()


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
