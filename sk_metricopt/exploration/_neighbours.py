"""The objective of nets that embed: rows of a label near each other, others further away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.exploration._base import RetrievalRecipe
from sk_metricopt.exploration._objectives import Objective
from sk_metricopt.exploration._rows import LabelledRows

_BATCH = 192  # training rows, and as many probe rows, in a step
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
        training labels only; the soft nearest neighbour criterion then takes its place.
    metric : {"cosine", "dot", "euclidean"}
    """

    def __init__(
        self, adapted: AdaptedNet, rows: LabelledRows, criterion: Callable | None, metric: str
    ):
        self.rows = rows
        self._criterion = criterion
        self._metric = metric
        self._training = _Items(rows.training.y, torch.arange(len(rows.training)))
        self._twins = [_Items(rows.probe.y, twin) for twin in rows.twin_rows]
        self._n_training = min(_BATCH, self._training.n_at_most)
        self._n_probe = min(_BATCH, *(twin.n_at_most for twin in self._twins))
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
        own = [r.temperature is None and self._criterion is not None for r in recipes]
        soft = torch.tensor([not o for o in own], device=y.device) & (weight > 0)
        gradient = torch.zeros_like(embeddings)
        with torch.enable_grad():
            if soft.any():
                default = RetrievalRecipe.temperature
                temperature = torch.tensor([r.temperature or default for r in recipes])
                leaf = embeddings[soft].detach().requires_grad_(True)
                loss = self._soft_neighbours(leaf, y[soft], temperature.to(leaf)[soft])
                (gradient[soft],) = torch.autograd.grad(loss @ weight[soft], leaf)
            for j in (j for j, is_own in enumerate(own) if is_own and weight[j] > 0):
                leaf = embeddings[j].detach().requires_grad_(True)
                loss = self._criterion(leaf, y[j])
                if loss.requires_grad:  # a miner may have found nothing
                    gradient[j] = weight[j] * torch.autograd.grad(loss, leaf)[0]
        return gradient

    def _soft_neighbours(self, embeddings: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
        """Return the criterion (J,) of embeddings (J, n, d) with labels (J, n)."""
        logits = self._similarity(embeddings) / (temperature * self._scale)[:, None, None]
        itself = torch.eye(y.shape[1], dtype=torch.bool, device=y.device)
        logits = logits.masked_fill(itself, _FAR)
        same = (y[:, :, None] == y[:, None, :]) & ~itself
        known = same.any(2)
        right = logits.masked_fill(~same, _FAR).logsumexp(2) - logits.logsumexp(2)
        return -(right * known).sum(1) / known.sum(1).clamp_min(1)

    def _similarity(self, embeddings: Tensor) -> Tensor:
        if self._metric == "euclidean":
            length = embeddings.square().sum(2)
            squares = length[:, :, None] + length[:, None]
            squares = squares - 2 * embeddings @ embeddings.transpose(1, 2)
            return -squares.clamp_min(1e-12).sqrt()
        return embeddings @ embeddings.transpose(1, 2)


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
