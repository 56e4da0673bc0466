"""Scores between observations: a Gaussian process over the steps of one trajectory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

_LEAST_FITTED = 4  # observations from which the process's scales are fitted, not guessed
_NOISE = 0.05  # standard deviation of one observation, in units of all scores' spread


@dataclass(frozen=True)
class Interpolated:
    """One trajectory with a score for every point of it.

    Attributes
    ----------
    descriptors : ndarray of shape (n_points, n_descriptors)
    mean, std : ndarray of shape (n_points,)
        Scores, standardised, and how unsure they are.
    observed : ndarray of bool of shape (n_points,)
        Which of them are observations.
    """

    descriptors: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    observed: np.ndarray


def interpolated(descriptors: np.ndarray, scores: np.ndarray, step: np.ndarray) -> Interpolated:
    """Return a trajectory with mean and standard deviation at every point.

    Parameters
    ----------
    descriptors : ndarray of shape (n_points, n_descriptors)
    scores : ndarray of shape (n_points,)
        Standardised; NaN where there is no observation.
    step : ndarray of shape (n_points,)
    """
    observed = np.isfinite(scores)
    mean, std = np.where(observed, scores, 0.0), np.full(len(scores), _NOISE)
    if not observed.all():
        between = ~observed
        mean[between], std[between], std[observed] = _process(
            step[observed], scores[observed], step[between]
        )
    return Interpolated(descriptors, mean, std, observed)


def _process(
    step: np.ndarray, scores: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and standard deviation at other steps, and that of an observation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    spacing = float(np.diff(np.unique(step)).mean()) if len(np.unique(step)) > 1 else 1.0
    centre = scores.mean()
    smooth = ConstantKernel(0.5, (1e-2, 10.0)) * RBF(2.0, (1.0, 20.0))
    noise = WhiteKernel(_NOISE**2, (1e-4, 1.0))
    optimizer = "fmin_l_bfgs_b" if len(scores) >= _LEAST_FITTED else None
    process = GaussianProcessRegressor(smooth + noise, optimizer=optimizer, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is an answer
        process.fit(step[:, None] / spacing, scores - centre)
        mean, std = process.predict(at[:, None] / spacing, return_std=True)
    return mean + centre, std, float(np.sqrt(process.kernel_.k2.noise_level))
