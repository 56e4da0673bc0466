"""The guard: the model as it came stays unless the gain stands out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What the guard decided.

    Attributes
    ----------
    improved : bool
        The candidate may replace the model.
    initial_score, best_score : float
        Of the model as it came, and of what is returned.
    gain, gain_se : float
        What the guard saw, with its paired standard error.
    reason : str
        The decision in words.
    """

    improved: bool
    initial_score: float
    best_score: float
    gain: float
    gain_se: float
    reason: str


def guarded(initial: float, gain: float, se: float, z: float | None, done: str) -> Verdict:
    """Decide whether a gain that was judged stands out.

    Parameters
    ----------
    initial : float
        Score of the model as it came.
    gain, se : float
        Gain over it and its standard error.
    z : float or None
        Standard errors that the gain has to exceed; None accepts it whatever it is.
    done : str
        What is done to the model that may change.
    """
    if z is not None and not gain > max(0.0, z * se):
        reason = f"the gain {gain:+.4f} does not exceed {z} standard errors of {se:.4f}"
        return unchanged(initial, reason, gain, se)
    reason = f"{done}: gain {gain:+.4f}, standard error {se:.4f}"
    return Verdict(True, initial, initial + gain, gain, se, reason)


def unchanged(initial: float, reason: str, gain: float = 0.0, se: float = 0.0) -> Verdict:
    """Leave the model as it came."""
    return Verdict(False, initial, initial, gain, se, f"unchanged: {reason}")
