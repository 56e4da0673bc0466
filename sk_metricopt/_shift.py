"""The closing stage: a shift of the log-score of each class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_RATE_SPAN = 1.1  # log ratio of predicted positives that thresholds span, each way
_FIRST_STEP = 0.6
_SHRINK = 0.6


def threshold_shifts(scores: np.ndarray, n: int) -> np.ndarray:
    """Return `n` shifts (n, 2) that move a two-class threshold around where it is.

    Thresholds lie midway between neighbouring margins, so that rounding cannot flip a decision.
    """
    margin = np.sort(scores[:, 1] - scores[:, 0])
    rate = np.clip((margin > 0).mean(), 2 / len(margin), 0.98)
    rates = np.clip(rate * np.exp(np.linspace(-_RATE_SPAN, _RATE_SPAN, n)), 1 / len(margin), 0.99)
    above = np.clip(np.round((1 - rates) * len(margin)).astype(int), 1, len(margin) - 1)
    thresholds = (margin[above - 1] + margin[above]) / 2
    return np.stack([np.zeros(n), -thresholds], axis=1)


def coordinate_shifts(n_classes: int, rng: np.random.RandomState) -> Iterator[tuple[int, float]]:
    """Yield (class, step) forever: both directions of every class, then smaller steps."""
    step = _FIRST_STEP
    while True:
        for k in rng.permutation(n_classes):
            yield int(k), step
            yield int(k), -step
        step *= _SHRINK
