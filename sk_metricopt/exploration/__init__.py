"""Exploration: the trajectories along which the first metric observations are made."""

from sk_metricopt.exploration._base import BaseExploration, Recipe, RetrievalRecipe
from sk_metricopt.exploration._portfolio import PortfolioExploration, RetrievalExploration

__all__ = [
    "BaseExploration",
    "PortfolioExploration",
    "Recipe",
    "RetrievalExploration",
    "RetrievalRecipe",
]
