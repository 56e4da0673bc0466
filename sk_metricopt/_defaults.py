"""Parts of the method that have a name, or a default by the kind of estimator."""

from __future__ import annotations

import copy
from numbers import Integral

from torch import nn

from sk_metricopt.adapters import BaseAdapter, FiLMAdapter, WeightAdapter
from sk_metricopt.exploration import BaseExploration, PortfolioExploration, RetrievalExploration
from sk_metricopt.value_functions import (
    AdapterValueFunction,
    BaseValueFunction,
    BehaviourValueFunction,
    RetrievalValueFunction,
)
from sk_metricopt.value_functions._base import cannot_start_warm

_FEW_WEIGHTS = 2**16  # of a net; a fit holds several hundred φ


def adapter_of(given, module: nn.Module, compact: bool) -> BaseAdapter:
    """Return the adapter that a parameter stands for, a copy of one that is given.

    Parameters
    ----------
    given : {"auto", "film", "weights"} or BaseAdapter
    module : torch.nn.Module
        What is to be adapted.
    compact : bool
        Whether "auto" is to be compact however few weights there are.
    """
    named = {"film": FiLMAdapter, "weights": WeightAdapter}
    if given == "auto":
        few = sum(weight.numel() for weight in module.parameters()) <= _FEW_WEIGHTS
        given = "weights" if few and not compact else "film"
    return named[given]() if isinstance(given, str) else copy.deepcopy(given)


def value_function_of(given, searches: bool, warm: bool) -> BaseValueFunction:
    """Return the value function that a parameter stands for, a copy of one that is given.

    Parameters
    ----------
    given : {"auto", "adapter"} or BaseValueFunction
    searches : bool
        Whether the estimator embeds.
    warm : bool
        Whether it is to go on from what it learned.

    Raises
    ------
    ValueError, TypeError
        If it cannot, or reads another kind of outputs.
    """
    default = RetrievalValueFunction if searches else BehaviourValueFunction
    if isinstance(given, str) and warm:
        raise cannot_start_warm(f"{given!r}, which has learned nothing yet")
    if given == "auto":
        return default()
    if given == "adapter":
        return AdapterValueFunction()
    # One of ours for the other kind of outputs would fail deep inside, or not even that.
    if isinstance(given, BehaviourValueFunction) and searches != isinstance(
        given, RetrievalValueFunction
    ):
        raise TypeError(
            "The 'value_function' parameter of MetricOptFinetuner must read what the estimator "
            f"puts out. Got {type(given).__name__} instead. Use {default.__name__}, or 'auto'."
        )
    return copy.deepcopy(given)


def exploration_of(given, searches: bool) -> BaseExploration:
    """Return the exploration that a parameter stands for, a copy of one that is given.

    Parameters
    ----------
    given : "auto" or BaseExploration
    searches : bool
        Whether the estimator embeds.

    Raises
    ------
    ValueError
        If its trajectories have no length.
    """
    if given == "auto":
        return RetrievalExploration() if searches else PortfolioExploration()
    n_steps = given.n_steps
    if isinstance(n_steps, bool) or not isinstance(n_steps, Integral) or n_steps < 1:
        raise ValueError(
            "The 'exploration' parameter of MetricOptFinetuner must have n_steps that are a whole "
            f"number of at least 1. Got {type(given).__name__} with n_steps={n_steps!r:.200}. "
            "Pass a number such as 900."
        )
    return copy.deepcopy(given)
