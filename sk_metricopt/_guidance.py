"""Value guidance: the value function's gradient, made ready to join the criterion's."""

from __future__ import annotations

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.exploration._objectives import Objective
from sk_metricopt.exploration._trajectories import Guidance
from sk_metricopt.value_functions import BaseValueFunction

_TINY = 1e-12


def value_guidance(
    value_function: BaseValueFunction,
    adapted: AdaptedNet,
    objective: Objective,
    phi: Tensor,
    recipes: list,
    weight: float,
) -> Guidance:
    """Return where the value function wants each trajectory to go from `phi`.

    The value function is differentiated once per round, at the outputs of all probe rows a twin
    trains on; the steps of the round reuse that direction row by row, and so cost no more than
    steps on the criterion alone.

    Parameters
    ----------
    value_function : BaseValueFunction
        Fitted.
    adapted : AdaptedNet
    objective : Objective
    phi : Tensor of shape (J, T, n_params)
    recipes : list of Recipe or RetrievalRecipe
        Of each trajectory, to match the size of the criterion's gradient.
    weight : float
        Size of the guidance relative to the criterion.
    """
    rows = objective.rows
    n_trajectories, n_twins, _ = phi.shape
    n_probe = len(rows.probe)
    on_outputs = None
    on_params = torch.zeros_like(phi)
    for k, twin_rows in enumerate(rows.twin_rows):
        y = rows.probe.y[twin_rows]
        outputs = adapted.outputs(phi[:, k], rows.probe.encoded, twin_rows)
        by_outputs, by_params = _gradients(value_function, phi[:, k], outputs, y)
        if by_params is not None:
            length = by_params.norm(dim=1, keepdim=True).clamp_min(_TINY)
            on_params[:, k] = weight * by_params / length
        if by_outputs is not None:
            if on_outputs is None:
                on_outputs = outputs.new_zeros(n_trajectories, n_twins, n_probe, outputs.shape[-1])
            size = objective.size(outputs, y, recipes)
            own = by_outputs.square().mean((1, 2)).sqrt().clamp_min(_TINY)
            on_outputs[:, k, twin_rows] = weight * by_outputs * (size / own)[:, None, None]
    return Guidance(
        None if on_outputs is None else on_outputs.flatten(0, 1),
        on_params if bool(on_params.any()) else None,
    )


def _gradients(
    value_function: BaseValueFunction, phi: Tensor, outputs: Tensor, y: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    with torch.enable_grad():
        phi = phi.detach().clone().requires_grad_(True)
        outputs = outputs.detach().clone().requires_grad_(True)
        value = value_function.trusted(value_function.describe(phi, outputs, y)).sum()
        if not value.requires_grad:
            return None, None
        by_outputs, by_params = torch.autograd.grad(value, (outputs, phi), allow_unused=True)
        return by_outputs, by_params
