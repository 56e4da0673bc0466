"""The exploration contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """The criterion of one trajectory.

    Attributes
    ----------
    validation_share : float
        Weight in [0, 1] of validation rows in the criterion; the rest is on training rows.
    balance : float
        Class weights are proportional to ``frequency ** -balance``: 0 natural, 1 balanced.
    class_weight : tuple of float or None
        Further factors, one per class.
    """

    validation_share: float = 0.0
    balance: float = 0.0
    class_weight: tuple[float, ...] | None = None


class BaseExploration(ABC):
    """Says which trajectories are explored.

    See Also
    --------
    PortfolioExploration : The default.
    sk_metricopt.testing.check_exploration : The contract as a test.
    """

    @abstractmethod
    def recipes(
        self,
        n_classes: int,
        use_validation_labels: bool,
        max_observations: int,
        rng: np.random.RandomState,
    ) -> list[Recipe]:
        """Return the recipe of each trajectory.

        Parameters
        ----------
        n_classes : int
        use_validation_labels : bool
            If False every recipe has ``validation_share=0``.
        max_observations : int
            Observations that exploration may use; no more recipes than that are of use.
        rng : numpy.random.RandomState

        Returns
        -------
        list of Recipe
        """
