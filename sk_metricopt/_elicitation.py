"""From metric observations to the weights that they ask for (Hiranandani et al., section 4)."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

from sk_metricopt._weighting import Weighting

_NEAR = 0.5  # median distances from which an observation tells little of the gradient
_COLUMN_SCALE, _CELL_SCALE = 0.5, 0.2  # prior of these parts of a gradient, that of hits being 1
_ALPHAS = np.logspace(-4, 1.5, 12)  # of ridge, in units of the largest eigenvalue
_LEAST_WEIGHT = 1e-3  # of a class, in units of the largest
_TINY = 1e-12


class Confusions:
    """Confusion matrices under each basis function, of the decisions for the same rows.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Encoded labels.
    membership : ndarray of shape (n_samples, n_basis)
    n_classes : int

    Attributes
    ----------
    prior : ndarray of shape (n_basis, n_classes)
        Share of each class.
    """

    def __init__(self, y: np.ndarray, membership: np.ndarray, n_classes: int):
        self._y = y
        self._membership = membership
        self._n_classes = n_classes
        self.prior = self.of(y).sum(axis=2)

    def of(self, decided: np.ndarray) -> np.ndarray:
        """Return shares of rows (n_basis, n_classes, n_classes), by true and decided class."""
        k = self._n_classes
        cell = self._y * k + decided
        counts = [np.bincount(cell, weights=m, minlength=k * k) for m in self._membership.T]
        return np.stack(counts).reshape(-1, k, k) / len(self._y)


def elicited(
    confusions: np.ndarray,
    scores: np.ndarray,
    prior: np.ndarray,
    scale: np.ndarray,
    with_offsets: bool,
) -> Weighting:
    """Return the weights that the metric's gradient asks for at the first of some observations.

    The metric is taken as linear in the confusion matrix nearby. Its coefficients are fitted to how
    the score moved with the matrix, by ridge regression towards the present weights: what the
    observations leave open stays as it is, where solving the published square system would
    magnify noise. A decision that is best for the linear metric weights probabilities by them.

    Parameters
    ----------
    confusions : ndarray of shape (n_observations, n_basis, n_classes, n_classes)
        The one to start from first.
    scores : ndarray of shape (n_observations,)
    prior : ndarray of shape (n_basis, n_classes)
        Share of each class.
    scale : ndarray of shape (n_basis, n_classes)
        Present weights.
    with_offsets : bool
        Whether the metric may hang on all cells of the matrix, or on the hits of each class alone.
    """
    n_basis, n_classes = prior.shape
    present = prior > 0
    rarity = np.where(present, prior, 1.0)[:, :, None]
    moved = (confusions[1:] - confusions[0]) / rarity  # as shares of the true class
    hits = np.einsum("tljj->tlj", moved).reshape(len(moved), -1)
    distance = np.abs(moved).sum(axis=(1, 2, 3))
    trust = 1 / (1 + (distance / max(_NEAR * np.median(distance), _TINY)) ** 2)
    gains = scores[1:] - scores[0]

    as_now = (scale * prior).ravel()
    expected = hits @ as_now
    slope = max(0.0, (trust * gains) @ expected / max((trust * expected) @ expected, _TINY))
    features = [hits]
    if with_offsets:
        decided = (moved * prior[:, :, None]).sum(axis=2) / rarity[:, :, 0]
        wrong = moved * (1 - np.eye(n_classes))
        features += [_COLUMN_SCALE * decided.reshape(len(moved), -1)]
        features += [_CELL_SCALE * wrong.reshape(len(moved), -1)]
    coefficients = _ridge(np.concatenate(features, axis=1), gains - slope * expected, trust)
    n = n_basis * n_classes
    of_hits = (slope * as_now + coefficients[:n]).reshape(n_basis, n_classes)
    if not of_hits.max() > 0:  # nothing is known: all classes count alike
        of_hits = np.ones_like(of_hits)
    of_hits = np.where(present, of_hits / rarity[:, :, 0], 0)
    if not with_offsets:
        return Weighting(_log_weights(of_hits, present, scale))
    of_decided = _COLUMN_SCALE * coefficients[n : 2 * n].reshape(n_basis, n_classes)
    of_wrong = _CELL_SCALE * coefficients[2 * n :].reshape(moved.shape[1:])
    gradient = of_hits[:, None, :] * np.eye(n_classes) + of_wrong / rarity
    gradient += (of_decided / rarity[:, :, 0])[:, None, :]
    return _with_offsets(gradient, present, scale)


def _ridge(features: np.ndarray, target: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Return coefficients; how much they are drawn to 0 is cross-validated."""
    largest = np.linalg.norm(features * np.sqrt(trust)[:, None], ord=2) ** 2
    if len(target) < 2 or largest < _TINY or not np.ptp(target):
        return np.zeros(features.shape[1])
    model = RidgeCV(alphas=_ALPHAS * largest, fit_intercept=False)
    return model.fit(features, target, sample_weight=trust).coef_


def _log_weights(weights: np.ndarray, present: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return logarithms; what no row is there to tell of keeps its weight."""
    least = _LEAST_WEIGHT * weights.max()
    kept = scale * weights[present].mean() / scale[present].mean()
    return np.log(np.maximum(np.where(present, weights, kept), least))


def _with_offsets(gradient: np.ndarray, present: np.ndarray, scale: np.ndarray) -> Weighting:
    """Return the weighting of a gradient (n_basis, n_classes, n_classes).

    Decisions stay the same when all weights of a true class move by one number: it is chosen so
    that wrong decisions weigh 0 on average.
    """
    n_classes = gradient.shape[1]
    diagonal = np.eye(n_classes, dtype=bool)
    wrong = np.where(diagonal, 0, gradient)
    gradient = gradient - wrong.sum(axis=2, keepdims=True) / (n_classes - 1)
    log_scale = _log_weights(np.abs(gradient).sum(axis=1), present, scale)
    offset = gradient / np.exp(log_scale)[:, None, :] - np.eye(n_classes)
    return Weighting(log_scale, np.where(present[:, :, None], offset, 0))
