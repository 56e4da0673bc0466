"""What the engine relies on, as tests anyone can run on their own objects."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from sk_metricopt.adapters import BaseAdapter
from sk_metricopt.exploration import BaseExploration, Recipe, RetrievalRecipe
from sk_metricopt.value_functions import BaseValueFunction


def check_adapter(adapter: BaseAdapter, host: nn.Module, x: torch.Tensor) -> None:
    """Check an adapter on one host layer.

    Parameters
    ----------
    adapter : BaseAdapter
    host : torch.nn.Module
        A layer of one of ``adapter.host_types``; it is copied.
    x : Tensor of shape (n_rows, ...)
        Input for the layer.

    Raises
    ------
    AssertionError
        Naming the part of the contract that is broken.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.adapters import FiLMAdapter
    >>> from sk_metricopt.testing import check_adapter
    >>> check_adapter(FiLMAdapter(), torch.nn.Linear(3, 2), torch.randn(5, 3))
    """
    _require(isinstance(adapter, BaseAdapter), "an adapter derives from BaseAdapter")
    _require(isinstance(host, adapter.host_types), "the host is of one of the host_types")
    host = copy.deepcopy(host).eval()
    expected = host(x).detach()
    adapter.prepare(host)
    host.requires_grad_(False)
    _require(torch.allclose(host(x), expected), "prepare does not change what a host computes")
    n_params = adapter.n_params(host)
    _require(isinstance(n_params, int) and n_params > 0, "n_params is a positive int")

    def run(params: torch.Tensor) -> torch.Tensor:
        weights = adapter.weights(host, params)
        own = dict(host.named_parameters())
        _require(set(weights) <= set(own), "weights replaces parameters the host has")
        for name, value in weights.items():
            _require(value.shape == own[name].shape, f"weights keeps the shape of {name!r}")
        return functional_call(host, weights, (x,))

    _require(torch.allclose(run(torch.zeros(n_params)), expected), "zero is the identity")
    params = 0.1 * torch.randn(n_params, generator=torch.Generator().manual_seed(0))
    params.requires_grad_(True)
    output = run(params)
    _require(not torch.allclose(output, expected), "other parameters change the output")
    _require(output.requires_grad, "weights is differentiable in the parameters")
    (gradient,) = torch.autograd.grad(output.square().sum(), params)
    _require(bool(gradient.abs().sum() > 0), "weights is differentiable in the parameters")
    batch = torch.stack([params.detach(), torch.zeros(n_params)])
    try:
        several = torch.vmap(run)(batch)
    except RuntimeError as error:
        raise AssertionError(f"contract broken: weights works under torch.vmap: {error}") from error
    _require(torch.allclose(several[1], expected, atol=1e-5), "weights works under torch.vmap")
    modulated = adapter.modulate(host, expected, params)
    if modulated is not None:
        same = torch.allclose(modulated, output, atol=1e-5)
        _require(same, "modulate gives what the host gives under weights")


def check_value_function(value_function: BaseValueFunction) -> None:
    """Check a value function on synthetic candidates that differ in accuracy.

    Parameters
    ----------
    value_function : BaseValueFunction
        It is copied.

    Raises
    ------
    AssertionError
        Naming the part of the contract that is broken.

    Examples
    --------
    >>> from sk_metricopt.testing import check_value_function
    >>> from sk_metricopt.value_functions import BehaviourValueFunction
    >>> check_value_function(BehaviourValueFunction())
    """
    _require(
        isinstance(value_function, BaseValueFunction),
        "a value function derives from BaseValueFunction",
    )
    for n_classes in (2, 3):
        _check_on_candidates(copy.deepcopy(value_function), n_classes)


def _check_on_candidates(value_function: BaseValueFunction, n_classes: int) -> None:
    phi, scores, y = _candidates(n_classes)
    observed = (scores.argmax(-1) == y).double().mean(1).numpy()
    _require(
        value_function.start(scores[0], y) is value_function, "start returns the value function"
    )
    described = value_function.describe(phi, scores, y)
    _require(
        described.dim() == 2 and len(described) == len(phi),
        "describe gives one row per candidate",
    )
    _require(bool(torch.isfinite(described).all()), "descriptors are finite")
    seen = slice(0, 40)
    fitted = value_function.fit(described[seen].detach().numpy(), observed[seen])
    _require(fitted is value_function, "fit returns the value function")
    predicted = value_function.predict(described)
    _require(predicted.shape == (len(phi),), "predict gives one number per candidate")
    again = value_function.predict(value_function.describe(phi, scores, y))
    _require(torch.equal(predicted, again), "the same input gives the same prediction")
    unseen = np.corrcoef(predicted.detach().numpy()[40:], observed[40:])[0, 1]
    _require(unseen > 0.3, f"predictions follow the score of unseen candidates (r={unseen:.2f})")
    _check_gradient(value_function, phi, scores, y)
    constant = value_function.fit(described[:3].detach().numpy(), np.full(3, 0.5))
    finite = torch.isfinite(constant.predict(described)).all()
    _require(bool(finite), "a score that never changes gives finite predictions")


def _check_gradient(value_function, phi, scores, y) -> None:
    phi = phi.clone().requires_grad_(True)
    scores = scores.clone().requires_grad_(True)
    value = value_function.predict(value_function.describe(phi, scores, y)).sum()
    _require(value.requires_grad, "predict(describe(...)) is differentiable")
    gradients = torch.autograd.grad(value, (phi, scores), allow_unused=True)
    given = [g for g in gradients if g is not None]
    _require(bool(given), "the value reads adapter parameters or log-scores")
    finite = all(bool(torch.isfinite(g).all()) for g in given)
    _require(finite, "its gradients are finite")


def _candidates(n_classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """φ, log-scores and labels of 60 candidates along one direction of φ that is worth going."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % n_classes
    quality = torch.rand(60, generator=generator)
    direction = torch.randn(12, generator=generator)
    noise = torch.randn(90, n_classes, generator=generator)
    right = torch.nn.functional.one_hot(y, n_classes).float()
    scores = noise + 2 * quality[:, None, None] * right
    phi = quality[:, None] * direction + 0.05 * torch.randn(60, 12, generator=generator)
    return phi, scores, y


def check_exploration(exploration: BaseExploration) -> None:
    """Check an exploration in both access settings and at small budgets.

    Parameters
    ----------
    exploration : BaseExploration
        It is copied.

    Raises
    ------
    AssertionError
        Naming the part of the contract that is broken.

    Examples
    --------
    >>> from sk_metricopt.exploration import PortfolioExploration
    >>> from sk_metricopt.testing import check_exploration
    >>> check_exploration(PortfolioExploration())
    """
    _require(
        isinstance(exploration, BaseExploration), "an exploration derives from BaseExploration"
    )
    for n_classes in (2, 5):
        for labelled in (True, False):
            for budget in (1, 3, 100):
                _check_recipes(copy.deepcopy(exploration), n_classes, labelled, budget)


def _check_recipes(exploration, n_classes: int, labelled: bool, budget: int) -> None:
    first, second = (
        copy.deepcopy(exploration).recipes(n_classes, labelled, budget, np.random.RandomState(0))
        for _ in range(2)
    )
    _require(first == second, "the same random state gives the same recipes")
    _require(len(first) > 0, "there is at least one recipe")
    for recipe in first:
        known = isinstance(recipe, Recipe | RetrievalRecipe)
        _require(known, "recipes are Recipe or RetrievalRecipe objects")
        _require(0 <= recipe.validation_share <= 1, "validation_share is in [0, 1]")
        opaque = labelled or recipe.validation_share == 0
        _require(opaque, "no recipe uses validation rows where their labels may not be used")
        weights = getattr(recipe, "class_weight", None)
        sized = weights is None or len(weights) == n_classes
        _require(sized, "class_weight has one factor per class")


def _require(holds: bool, contract: str) -> None:
    if not holds:
        raise AssertionError(f"contract broken: {contract}")
