"""The value function contract."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor


class BaseValueFunction(ABC):
    """A differentiable map from a candidate to its predicted score.

    The engine calls `start` once, `describe` on every observed candidate, `fit` after every round
    of observations, and takes gradients of ``predict(describe(...))`` in between.

    See Also
    --------
    BehaviourValueFunction : The default.
    sk_metricopt.testing.check_value_function : The contract as a test.
    """

    @abstractmethod
    def start(self, scores: Tensor, y: Tensor) -> BaseValueFunction:
        """Forget earlier fits and take scales from the model as it came.

        Parameters
        ----------
        scores : Tensor of shape (n_samples, n_classes)
            Log-scores of the model as it came.
        y : Tensor of shape (n_samples,)
            Encoded labels.
        """

    @abstractmethod
    def describe(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> Tensor:
        """Return descriptors (n_candidates, n_descriptors), differentiable in what they read.

        Parameters
        ----------
        adapter_params : Tensor of shape (n_candidates, n_params)
        scores : Tensor of shape (n_candidates, n_samples, n_classes)
            Log-scores on the rows that the labels belong to.
        y : Tensor of shape (n_samples,)
        """

    @abstractmethod
    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> BaseValueFunction:
        """Fit on descriptors (n_observations, n_descriptors) and observed scores."""

    @abstractmethod
    def predict(self, descriptors: Tensor) -> Tensor:
        """Return predicted scores (n_candidates,), differentiable in `descriptors`."""
