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

    Examples
    --------
    A value function that reads the mean log-score of the true class and nothing else:

    >>> import numpy as np
    >>> from sk_metricopt.testing import check_value_function
    >>> from sk_metricopt.value_functions import BaseValueFunction
    >>> class LogScore(BaseValueFunction):
    ...     def start(self, scores, y):
    ...         return self
    ...     def describe(self, adapter_params, scores, y):
    ...         right = scores.log_softmax(-1)[:, range(len(y)), y]
    ...         return right.mean(1, keepdim=True)
    ...     def fit(self, descriptors, observed):
    ...         self.slope, self.level = np.polyfit(descriptors[:, 0], observed, 1)
    ...         return self
    ...     def predict(self, descriptors):
    ...         return self.level + self.slope * descriptors[:, 0]
    >>> check_value_function(LogScore())
    """

    @abstractmethod
    def start(self, scores: Tensor, y: Tensor) -> BaseValueFunction:
        """Forget earlier fits and take scales from the model as it came.

        Parameters
        ----------
        scores : Tensor of shape (n_samples, n_classes)
            Log-scores of the model as it came; of a retriever, embeddings.
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
            Log-scores, or embeddings, of the rows that the labels belong to.
        y : Tensor of shape (n_samples,)
        """

    @abstractmethod
    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> BaseValueFunction:
        """Learn from observations.

        Parameters
        ----------
        descriptors : ndarray of shape (n_observations, n_descriptors)
        observed : ndarray of shape (n_observations,)
            Scores, all finite.
        """

    @abstractmethod
    def predict(self, descriptors: Tensor) -> Tensor:
        """Return predicted scores (n_candidates,), differentiable in what is described.

        Parameters
        ----------
        descriptors : Tensor of shape (n_candidates, n_descriptors)
        """
