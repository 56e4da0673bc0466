"""The guard: the model as it came stays unless the gain stands out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Gain:
    """A gain over the model as it came, on rows that had no say in it.

    Attributes
    ----------
    value, se : float
        The gain, and its paired standard error.
    resampled : ndarray of shape (n_resamples,)
        The gain on resamples; `se` is their spread, and more where predictions are mixed in. NaN
        where the scorer failed.
    """

    value: float = 0.0
    se: float = 0.0
    resampled: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Verdict:
    """What the guard decided.

    Attributes
    ----------
    improved : bool
        The candidate may replace the model.
    initial_score, best_score : float
        Of the model as it came, and of what is returned.
    gain : Gain
        What the guard saw.
    needed : float or None
        What the gain had to exceed; None where it did not come to that.
    reason : str
        The decision in words.
    """

    improved: bool
    initial_score: float
    best_score: float
    gain: Gain
    needed: float | None
    reason: str


def guarded(initial: float, gain: Gain, z: float | None, done: str) -> Verdict:
    """Decide whether a gain that was judged stands out.

    Parameters
    ----------
    initial : float
        Score of the model as it came.
    gain : Gain
        Over it.
    z : float or None
        Standard errors that the gain has to exceed; None accepts it whatever it is.
    done : str
        What is done to the model that may change.
    """
    needed = None if z is None else max(0.0, z * gain.se)
    if needed is not None and not gain.value > needed:
        reason = f"the gain {gain.value:+.4f} does not exceed {z} standard errors of {gain.se:.4f}"
        return unchanged(initial, reason, gain, needed)
    reason = f"{done}: gain {gain.value:+.4f}, standard error {gain.se:.4f}"
    return Verdict(True, initial, initial + gain.value, gain, needed, reason)


def unchanged(
    initial: float, reason: str, gain: Gain | None = None, needed: float | None = None
) -> Verdict:
    """Leave the model as it came."""
    return Verdict(False, initial, initial, gain or Gain(), needed, f"unchanged: {reason}")
