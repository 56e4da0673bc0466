"""The exploration contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """The criterion of one trajectory.

    Parameters
    ----------
    validation_share : float
        Weight in [0, 1] of validation rows in the criterion; the rest is on training rows.
    balance : float
        Class weights are proportional to ``frequency ** -balance``: 0 natural, 1 balanced.
    class_weight : tuple of float or None
        Further factors, one per class.

    Examples
    --------
    >>> from sk_metricopt.exploration import Recipe
    >>> Recipe(validation_share=0.5, balance=1.0).class_weight is None
    True
    """

    validation_share: float = 0.0
    balance: float = 0.0
    class_weight: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RetrievalRecipe:
    """The criterion of one trajectory of a net that embeds.

    Parameters
    ----------
    validation_share : float
        Weight in [0, 1] of validation rows in the criterion; the rest is on training rows.
    temperature : float or None
        Of the soft nearest neighbour criterion: the smaller, the more only the nearest rows count.
        None is the net's own criterion.
    jitter : float
        Noise on the features that enter what is adapted, in standard deviations of each feature:
        the input of the first hosts or, where all before φ acts is run once, their own output.
        φ then cannot fit single rows, and carries over to labels nobody has seen.

    Examples
    --------
    >>> from sk_metricopt.exploration import RetrievalRecipe
    >>> RetrievalRecipe(validation_share=0.5, temperature=0.1).jitter
    1.0
    """

    validation_share: float = 0.0
    temperature: float | None = 0.1
    jitter: float = 1.0


class BaseExploration(ABC):
    """Says which trajectories are explored.

    Attributes
    ----------
    n_steps : int
        Optimizer steps of each trajectory in all, where ``observation_interval="auto"``; at least
        5 and at most 100 between two observations, so that few observations make fewer steps.

    See Also
    --------
    PortfolioExploration : The default for classifiers.
    RetrievalExploration : The default for nets that embed.
    sk_metricopt.testing.check_exploration : The contract as a test.

    Examples
    --------
    >>> from sk_metricopt.exploration import BaseExploration, Recipe
    >>> from sk_metricopt.testing import check_exploration
    >>> class Balanced(BaseExploration):
    ...     def recipes(self, n_classes, use_validation_labels, max_observations, rng):
    ...         return [Recipe(0.5 if use_validation_labels else 0.0, balance=1.0)]
    >>> check_exploration(Balanced())
    """

    n_steps: int = 900

    @abstractmethod
    def recipes(
        self,
        n_classes: int,
        use_validation_labels: bool,
        max_observations: int,
        rng: np.random.RandomState,
    ) -> list[Recipe] | list[RetrievalRecipe]:
        """Return the recipe of each trajectory.

        Parameters
        ----------
        n_classes : int
            Labels among the training rows.
        use_validation_labels : bool
            If False every recipe has ``validation_share=0``.
        max_observations : int
            Observations that exploration may use; no more recipes than that are of use.
        rng : numpy.random.RandomState

        Returns
        -------
        list of Recipe, or of RetrievalRecipe for a net that embeds
        """
