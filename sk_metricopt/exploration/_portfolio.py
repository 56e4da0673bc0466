"""The default explorations: portfolios of criteria."""

from __future__ import annotations

import numpy as np

from sk_metricopt.exploration._base import BaseExploration, Recipe, RetrievalRecipe

_LABELLED = ((0.5, 0.0), (0.5, 0.5), (0.5, 1.0), (1.0, 0.0))
_OPAQUE = ((0.0, 0.0), (0.0, 1.0), (0.0, 0.5))
_SEARCHES = ((0.8, 0.1, 1.0), (0.8, 0.05, 1.0), (1.0, 0.05, 0.5))  # share, temperature, jitter


class PortfolioExploration(BaseExploration):
    """Long trajectories that differ in rows and class weights.

    With validation labels: half training and half validation rows, from natural to balanced class
    weights, and validation rows alone (which wins where training labels are noisy). Without:
    training rows, natural to balanced, and random class weights.

    Parameters
    ----------
    n_random : int, default=5
        Trajectories with random class weights where validation labels may not be used.
    spread : float, default=0.5
        Standard deviation of their log class weights.
    n_steps : int, default=900
        Optimizer steps of each trajectory in all, at most 100 between two observations.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_metricopt.exploration import PortfolioExploration
    >>> rng = np.random.RandomState(0)
    >>> [r.balance for r in PortfolioExploration().recipes(3, True, 100, rng)]
    [0.0, 0.5, 1.0, 0.0]
    """

    def __init__(self, n_random: int = 5, spread: float = 0.5, n_steps: int = 900):
        self.n_random = n_random
        self.spread = spread
        self.n_steps = n_steps

    def recipes(
        self,
        n_classes: int,
        use_validation_labels: bool,
        max_observations: int,
        rng: np.random.RandomState,
    ) -> list[Recipe]:
        """Return the recipe of each trajectory."""
        if use_validation_labels:
            recipes = [Recipe(share, balance) for share, balance in _LABELLED]
        else:
            recipes = [Recipe(share, balance) for share, balance in _OPAQUE]
            for _ in range(self.n_random):
                factors = np.exp(self.spread * rng.standard_normal(n_classes))
                recipes.append(Recipe(0.0, float(rng.uniform()), tuple(factors)))
        return recipes[: max(1, max_observations // 2)]


class RetrievalExploration(BaseExploration):
    """Long trajectories of a net that embeds, which differ in rows, temperature and criterion.

    With validation labels: mostly validation rows, at two temperatures, and validation rows alone.
    Without: training rows. One more trajectory follows the net's own criterion, where that takes
    labels it was not trained on.

    Parameters
    ----------
    n_steps : int, default=1000
        Optimizer steps of each trajectory in all, at most 100 between two observations.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_metricopt.exploration import RetrievalExploration
    >>> rng = np.random.RandomState(0)
    >>> [r.temperature for r in RetrievalExploration().recipes(40, True, 100, rng)]
    [0.1, 0.05, 0.05, None]
    """

    def __init__(self, n_steps: int = 1000):
        self.n_steps = n_steps

    def recipes(
        self,
        n_classes: int,
        use_validation_labels: bool,
        max_observations: int,
        rng: np.random.RandomState,
    ) -> list[RetrievalRecipe]:
        """Return the recipe of each trajectory."""
        all_recipes = [*_SEARCHES, (0.8, None, 1.0)]
        recipes = [
            RetrievalRecipe(share if use_validation_labels else 0.0, temperature, jitter)
            for share, temperature, jitter in all_recipes
        ]
        return recipes[: max(1, max_observations // 2)]
