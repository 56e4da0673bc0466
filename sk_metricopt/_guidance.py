"""Value guidance: the value function's gradient, made ready to join the criterion's."""

from __future__ import annotations

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.exploration._base import Recipe
from sk_metricopt.exploration._trajectories import (
    Guidance,
    LabelledRows,
    class_frequencies,
    class_weights,
)
from sk_metricopt.value_functions import BaseValueFunction

_TINY = 1e-12


def value_guidance(
    value_function: BaseValueFunction,
    adapted: AdaptedNet,
    rows: LabelledRows,
    phi: Tensor,
    recipes: list[Recipe],
    weight: float,
) -> Guidance:
    """Return where the value function wants each trajectory to go from `phi`.

    The value function is differentiated once per round, at the log-scores of all probe rows a twin
    trains on; the steps of the round reuse that direction row by row, and so cost no more than
    steps on the criterion alone.

    Parameters
    ----------
    value_function : BaseValueFunction
        Fitted.
    adapted : AdaptedNet
    rows : LabelledRows
    phi : Tensor of shape (J, T, n_params)
    recipes : list of Recipe
        Of each trajectory, to match the size of the criterion's gradient.
    weight : float
        Size of the guidance relative to the criterion.
    """
    n_trajectories, n_twins, _ = phi.shape
    n_probe = len(rows.probe)
    on_scores = None
    on_params = torch.zeros_like(phi)
    for k, twin_rows in enumerate(rows.twin_rows):
        seen = rows.probe.take(twin_rows)
        scores = adapted.scores(phi[:, k], seen.encoded)
        by_scores, by_params = _gradients(value_function, phi[:, k], scores, seen.y)
        if by_params is not None:
            length = by_params.norm(dim=1, keepdim=True).clamp_min(_TINY)
            on_params[:, k] = weight * by_params / length
        if by_scores is not None:
            if on_scores is None:
                on_scores = scores.new_zeros(n_trajectories, n_twins, n_probe, scores.shape[-1])
            size = _criterion_size(scores, seen.y, recipes, rows.n_classes)
            own = by_scores.square().mean((1, 2)).sqrt().clamp_min(_TINY)
            on_scores[:, k, twin_rows] = weight * by_scores * (size / own)[:, None, None]
    return Guidance(
        None if on_scores is None else on_scores.flatten(0, 1),
        on_params if bool(on_params.any()) else None,
    )


def _gradients(
    value_function: BaseValueFunction, phi: Tensor, scores: Tensor, y: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    with torch.enable_grad():
        phi = phi.detach().clone().requires_grad_(True)
        scores = scores.detach().clone().requires_grad_(True)
        value = value_function.predict(value_function.describe(phi, scores, y)).sum()
        if not value.requires_grad:
            return None, None
        by_scores, by_params = torch.autograd.grad(value, (scores, phi), allow_unused=True)
        return by_scores, by_params


def _criterion_size(scores: Tensor, y: Tensor, recipes: list[Recipe], n_classes: int) -> Tensor:
    """Root mean square of the criterion's gradient at the log-scores, for each trajectory."""
    frequency = class_frequencies(y, n_classes)
    weights = torch.stack([class_weights(frequency, recipe) for recipe in recipes])
    pull = torch.softmax(scores, -1)
    index = y.expand(len(scores), -1).unsqueeze(-1)
    pull.scatter_add_(-1, index, -torch.ones_like(index, dtype=pull.dtype))
    pull *= weights[:, y].unsqueeze(-1)
    return pull.square().mean((1, 2)).sqrt()
