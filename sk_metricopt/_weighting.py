"""Weights on class probabilities, and the decisions they lead to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

LEAST = 1e-12  # a class of smaller probability than this has this one


class Weights(ABC):
    """Weights of classes, for rows in the degree that basis functions say they are members."""

    @property
    @abstractmethod
    def scale(self) -> np.ndarray:
        """Weight of a right decision for each class (n_basis, n_classes), the largest 1."""

    @abstractmethod
    def scaled(self, basis: int, label: int, log_factor: float) -> Weights:
        """Return these weights with those of one class under one basis function multiplied."""

    @abstractmethod
    def towards(self, target: Weighting, step: float) -> Weights:
        """Return the weights that lie `step` of the way to `target`."""

    @abstractmethod
    def after(self, log_weights: np.ndarray) -> Weights:
        """Return the weights that do to `proba` what these do to it after others.

        Parameters
        ----------
        log_weights : ndarray of shape (n_basis, n_classes) or (1, n_classes)
            Of what comes first.
        """

    @abstractmethod
    def decide(
        self, proba: np.ndarray, membership: np.ndarray, draws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (n_samples, n_classes) and decisions (n_samples,).

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_classes)
        membership : ndarray of shape (n_samples, n_basis)
            Values of the basis functions.
        draws : ndarray of shape (n_samples,)
            Uniform in [0, 1), for those who decide by chance.
        """


@dataclass(frozen=True)
class Weighting(Weights):
    """Decides for the class ``i`` of the largest ``sum_j w_ji(x) eta_j(x)``.

    The weights of a row mix those of basis functions, ``w_ji(x) = sum_l phi_l(x) w_lji``, each
    written as ``w_lji = exp(log_scale_li) (1[i = j] + offset_lji)``. Scales alone weight classes;
    with offsets, weights can be what any metric of the confusion matrix asks for.

    Parameters
    ----------
    log_scale : ndarray of shape (n_basis, n_classes)
    offset : ndarray of shape (n_basis, n_classes, n_classes) or None
        By true class and decided class; None is zero.
    """

    log_scale: np.ndarray
    offset: np.ndarray | None = None

    @property
    def scale(self) -> np.ndarray:
        return np.exp(self.log_scale - self.log_scale.max())

    @property
    def weights(self) -> np.ndarray:
        """Weights (n_basis, n_classes), with offsets (n_basis, n_classes, n_classes)."""
        if self.offset is None:
            return self.scale
        weights = self.scale[:, None, :] * (np.eye(self.scale.shape[1]) + self.offset)
        return weights - weights.min(axis=2, keepdims=True)  # decides the same, none is negative

    def scaled(self, basis: int, label: int, log_factor: float) -> Weighting:
        log_scale = self.log_scale.copy()
        log_scale[basis, label] += log_factor
        return Weighting(log_scale, self.offset)

    def towards(self, target: Weighting, step: float) -> Weighting:
        return average_weighting([self, target], [1 - step, step])

    def after(self, log_weights: np.ndarray) -> Weighting:
        if self.offset is None:
            return Weighting(self.log_scale + log_weights)
        ratio = np.exp(log_weights[:, :, None] - log_weights[:, None, :])
        return Weighting(self.log_scale + log_weights, self.offset * ratio)

    def decide(self, proba, membership, draws):
        weighted = weighted_proba(proba, membership, self.weights)
        return weighted, weighted.argmax(axis=1)


@dataclass(frozen=True)
class Mixture(Weights):
    """Decides each row by one of several weightings, drawn by their shares.

    Parameters
    ----------
    members : tuple of Weighting
    shares : tuple of float
        They sum to 1.
    """

    members: tuple[Weighting, ...]
    shares: tuple[float, ...] = (1.0,)

    @property
    def scale(self) -> np.ndarray:
        return np.average([w.scale for w in self.members], axis=0, weights=self.shares)

    def scaled(self, basis: int, label: int, log_factor: float) -> Mixture:
        members = tuple(w.scaled(basis, label, log_factor) for w in self.members)
        return Mixture(members, self.shares)

    def towards(self, target: Weighting, step: float) -> Mixture:
        shares = [share * (1 - step) for share in self.shares]
        return Mixture((*self.members, target), (*shares, step))

    def after(self, log_weights: np.ndarray) -> Mixture:
        return Mixture(tuple(w.after(log_weights) for w in self.members), self.shares)

    def decide(self, proba, membership, draws):
        """Return how probable each decision is, and the decisions drawn."""
        decided = np.stack([w.decide(proba, membership, draws)[1] for w in self.members])
        chances = np.average(np.eye(proba.shape[1])[decided], axis=0, weights=self.shares)
        drawn = np.searchsorted(np.cumsum(self.shares)[:-1], draws, side="right")
        return chances, decided[drawn, np.arange(len(proba))]


def weighted_proba(proba: np.ndarray, membership: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return probabilities times weights; every row sums to 1.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes)
    membership : ndarray of shape (n_samples, n_basis)
    weights : ndarray of shape (n_basis, n_classes) or (n_basis, n_classes, n_classes)
    """
    proba = np.maximum(proba, LEAST)
    if weights.ndim == 2:
        scores = proba * (membership @ weights)
    else:
        by_basis = zip(membership.T, weights, strict=True)
        scores = sum((member[:, None] * proba) @ w for member, w in by_basis)
    return scores / scores.sum(axis=1, keepdims=True)


def average(weights: Sequence[Weights]) -> Weights:
    """Return what stands for all: mean weights, of mixtures all members."""
    if isinstance(weights[0], Weighting):
        return average_weighting(weights)
    share_of: dict[int, float] = {}
    member_of = {id(member): member for mixture in weights for member in mixture.members}
    for mixture in weights:
        for member, share in zip(mixture.members, mixture.shares, strict=True):
            share_of[id(member)] = share_of.get(id(member), 0.0) + share / len(weights)
    drawn = {key: share for key, share in share_of.items() if share > 0}
    total = sum(drawn.values())
    shares = tuple(share / total for share in drawn.values())
    return Mixture(tuple(member_of[key] for key in drawn), shares)


def draws_of(proba: np.ndarray, seed: int) -> np.ndarray:
    """Return numbers in [0, 1) to decide rows by (n_samples,), the same for the same seed.

    They follow from a row's probabilities and its place: rows predicted one by one are not all
    drawn alike, and neither are equal rows of one batch.
    """
    bits = np.ascontiguousarray(proba, dtype=np.float64).view(np.uint64)
    odd = np.random.RandomState(seed).randint(2**62, size=bits.shape[1]).astype(np.uint64) * 2 + 1
    mixed = (bits * odd).sum(axis=1, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    of_place = np.random.RandomState(seed).random_sample(len(proba))
    return ((mixed >> np.uint64(11)) / 2.0**53 + of_place) % 1.0


def average_weighting(
    weightings: Sequence[Weighting], shares: Sequence[float] | None = None
) -> Weighting:
    """Return the mean weighting: of the logarithms of scales, and of offsets."""
    log_scales = [w.log_scale - w.log_scale.mean() for w in weightings]
    log_scale = np.average(log_scales, axis=0, weights=shares)
    if all(w.offset is None for w in weightings):
        return Weighting(log_scale)
    none = np.zeros((*log_scale.shape, log_scale.shape[1]))
    offsets = [none if w.offset is None else w.offset for w in weightings]
    return Weighting(log_scale, np.average(offsets, axis=0, weights=shares))


def calibration(
    proba: np.ndarray, y: np.ndarray, membership: np.ndarray, sample_weight: np.ndarray
) -> np.ndarray:
    """Return log weights (n_basis, n_classes) that make probabilities fit the labels `y`.

    The most likely ones, drawn to 0 by a standard normal prior: where the estimator was trained
    on other class shares or on labels with noise, its probabilities are off, and weights that
    would be optimal for true ones are not.
    """
    n_basis, (n_rows, n_classes) = membership.shape[1], proba.shape
    proba, right = np.maximum(proba, LEAST), np.eye(n_classes)[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        log_weights = flat.reshape(n_basis, n_classes)
        of_rows = membership @ np.exp(log_weights)
        scores = proba * of_rows
        total = scores.sum(axis=1)
        nll = -np.log(scores[np.arange(n_rows), y] / total) @ sample_weight
        slope = sample_weight[:, None] * (scores / total[:, None] - right) / of_rows
        gradient = np.exp(log_weights) * (membership.T @ slope) + log_weights
        return nll + 0.5 * (log_weights**2).sum(), gradient.ravel()

    found = minimize(loss, np.zeros(n_basis * n_classes), jac=True, method="L-BFGS-B")
    return found.x.reshape(n_basis, n_classes)
