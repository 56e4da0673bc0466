"""The objective of nets that embed: rows of a label near each other, others further away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.exploration._base import RetrievalRecipe
from sk_metricopt.exploration._objectives import Objective
from sk_metricopt.exploration._rows import LabelledRows

_TRAINING_ROWS, _PROBE_ROWS = 96, 192  # in a step, at most
_ITEMS = 8  # of a label in a batch, at most
_SPREAD = 0.3  # of the cosine similarities that temperatures are meant for
_FAR = -1e9


class NeighbourObjective(Objective):
    """Soft nearest neighbours by temperature, or the net's own criterion.

    The soft nearest neighbour criterion is minus the mean log-probability that a row's neighbour,
    drawn by softmax of similarity over temperature, has its label (Goldberger et al.,
    "Neighbourhood Components Analysis", NeurIPS 2004).

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
    criterion : callable or None
        ``criterion(embeddings, labels)``, for any labels. None where the net's own knows its
        training labels only; recipes that ask for it are then left out.
    metric : {"cosine", "dot", "euclidean"}
    """

    recipe_type = RetrievalRecipe

    def __init__(
        self, adapted: AdaptedNet, rows: LabelledRows, criterion: Callable | None, metric: str
    ):
        self.rows = rows
        self._criterion: Any = criterion
        self._metric = metric
        self._training = _Items(rows.training.y, torch.arange(len(rows.training)))
        self._twins = [_Items(rows.probe.y, twin) for twin in rows.twin_rows]
        self._n_training = min(_TRAINING_ROWS, self._training.n_at_most)
        self._n_probe = min(_PROBE_ROWS, *(twin.n_at_most for twin in self._twins))
        self._scale = self._similarity_scale(adapted)

    def _similarity_scale(self, adapted: AdaptedNet) -> float:
        """What one unit of temperature is in similarities of the model as it came."""
        if self._metric == "cosine":
            return 1.0
        some = self._training.draw(self._n_training, torch.Generator().manual_seed(0))
        encoded = self.rows.training.encoded.take(some.to(adapted.device))
        zero = torch.zeros(1, adapted.n_params, device=adapted.device)
        similarity = self._similarity(adapted.outputs(zero, encoded))
        return max(float(similarity.std()), 1e-12) / _SPREAD

    def followed(self, recipes: list) -> list[RetrievalRecipe]:
        """Return the recipes that can be followed here, on rows that have a pair to learn from."""
        known = [
            recipe
            for recipe in super().followed(recipes)
            if recipe.temperature is not None or self._criterion is not None
        ]
        if not known:
            raise ValueError(
                "The 'exploration' parameter of MetricOptFinetuner must give a recipe with a "
                "temperature, since the net's own criterion has weights that know its training "
                "labels only. Got none. Add RetrievalRecipe(temperature=0.1)."
            )
        moving = [recipe for recipe in known if self._has_pairs(recipe)]
        if not moving:
            raise ValueError(
                "The training rows of MetricOptFinetuner.fit must hold at least 2 labels, one of "
                "them twice, for rows of a label to be brought together. Got "
                f"{len(self.rows.training)} rows without such a pair. Pass X and y with several "
                "rows of several labels, or let validation rows take part: use_validation_labels="
                "True, and recipes with a validation_share."
            )
        return moving

    def _has_pairs(self, recipe: RetrievalRecipe) -> bool:
        share = recipe.validation_share
        on_probe = any(twin.has_pairs for twin in self._twins)
        return bool((share < 1 and self._training.has_pairs) or (share > 0 and on_probe))

    def follow(self, recipes: list[RetrievalRecipe]) -> None:
        """Take one recipe per trajectory."""
        self._recipes = [recipe for recipe in recipes for _ in self._twins]

    def draw(self, n_trajectories: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return row indices (J * T, n) into the training and the probe rows."""
        device = self.rows.probe.y.device
        training = self._training.draw(self._n_training, generator).to(device)
        probe = torch.stack([twin.draw(self._n_probe, generator) for twin in self._twins])
        n_each = n_trajectories * len(self._twins)
        return training.expand(n_each, -1), probe.to(device).repeat(n_trajectories, 1)

    def pull(self, outputs: Tensor, training: Tensor, probe: Tensor) -> Tensor:
        """Return the gradient of the criteria at the embeddings of the rows drawn."""
        share = torch.tensor([r.validation_share for r in self._recipes]).to(outputs)
        on_training, on_probe = outputs.split([training.shape[1], probe.shape[1]], dim=1)
        y_training, y_probe = self.rows.training.y[training], self.rows.probe.y[probe]
        return torch.cat(
            [
                self._gradient(on_training, y_training, self._recipes, 1 - share),
                self._gradient(on_probe, y_probe, self._recipes, share),
            ],
            dim=1,
        )

    def size(self, outputs: Tensor, y: Tensor, recipes: list[RetrievalRecipe]) -> Tensor:
        """Return the root mean square (J,) of the gradient at one row's embedding."""
        items = _Items(y.cpu(), torch.arange(len(y)))
        n = min(self._n_probe, items.n_at_most)
        some = items.draw(n, torch.Generator().manual_seed(0)).to(y.device)
        each = torch.ones(len(outputs), device=y.device)
        labels = y[some].expand(len(outputs), -1)
        gradient = self._gradient(outputs[:, some], labels, recipes, each)
        return n * gradient.square().mean((1, 2)).sqrt()

    def _gradient(
        self, embeddings: Tensor, y: Tensor, recipes: list[RetrievalRecipe], weight: Tensor
    ) -> Tensor:
        """Return the gradient at embeddings (J, n, d) with labels (J, n), times `weight` (J,)."""
        own = torch.tensor([r.temperature is None for r in recipes], device=y.device)
        gradient = torch.zeros_like(embeddings)
        soft = ~own & (weight > 0)
        if soft.any():
            temperature = torch.tensor([r.temperature or torch.nan for r in recipes])
            some = self._of_soft_neighbours(embeddings[soft], y[soft], temperature.to(weight)[soft])
            gradient[soft] = weight[soft, None, None] * some
        for j in (own & (weight > 0)).nonzero()[:, 0].tolist():
            gradient[j] = weight[j] * self._of_own_criterion(embeddings[j], y[j])
        return gradient

    def _of_own_criterion(self, embeddings: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = embeddings.clone().requires_grad_(True)
            loss = self._criterion(leaf, y)
            if not loss.requires_grad:  # a miner may have found nothing
                return torch.zeros_like(embeddings)
            return torch.autograd.grad(loss, leaf)[0]

    def _of_soft_neighbours(self, embeddings: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
        """Written down, not recorded: at logits it is one softmax less another."""
        similarity = self._similarity(embeddings)
        unit = (temperature * self._scale)[:, None, None]
        itself = torch.eye(y.shape[1], dtype=torch.bool, device=y.device)
        logits = (similarity / unit).masked_fill_(itself, _FAR)
        same = (y[:, :, None] == y[:, None, :]) & ~itself
        known = same.any(2, keepdim=True)
        among_same = logits.masked_fill(~same, _FAR).softmax(2)
        n_known = known.sum(1, keepdim=True).clamp_min(1)  # a batch may hold no two of a label
        pull = (logits.softmax(2) - among_same) * known / (unit * n_known)
        if self._metric == "euclidean":
            pull = (pull / similarity).masked_fill_(itself, 0)
            pull = pull + pull.transpose(1, 2)
            return pull.sum(2, keepdim=True) * embeddings - pull @ embeddings
        return (pull + pull.transpose(1, 2)) @ embeddings

    def _similarity(self, embeddings: Tensor) -> Tensor:
        products = embeddings @ embeddings.transpose(1, 2)
        if self._metric != "euclidean":
            return products
        length = embeddings.square().sum(2)
        squares = length[:, :, None] + length[:, None] - 2 * products
        return -squares.clamp_min(1e-12).sqrt()


class _Items:
    """Rows by label, to draw batches that hold several rows of each label they hold.

    Parameters
    ----------
    y : Tensor of shape (n_samples,)
    rows : Tensor of int
        The rows to draw from.
    """

    def __init__(self, y: Tensor, rows: Tensor):
        rows, labels = rows.cpu(), y.cpu()[rows.cpu()]
        order = labels.argsort(stable=True)
        counts = torch.unique_consecutive(labels[order], return_counts=True)[1]
        self._of_label = rows[order].split(counts.tolist())
        self.n_at_most = int(counts.clamp_max(_ITEMS).sum())
        self.has_pairs = len(counts) > 1 and int(counts.max()) > 1

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return `n` rows, at most `n_at_most`: no row twice, labels in random order."""
        drawn: list[Tensor] = []
        left = n
        for label in torch.randperm(len(self._of_label), generator=generator).tolist():
            items = self._of_label[label]
            some = torch.randperm(len(items), generator=generator)[: min(_ITEMS, left)]
            drawn.append(items[some])
            left -= len(some)
            if not left:
                break
        return torch.cat(drawn)
