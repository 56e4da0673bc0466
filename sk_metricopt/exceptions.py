"""Exceptions and warnings of sk_metricopt."""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "CheckpointError",
    "CheckpointWarning",
    "ExportError",
    "InterruptionWarning",
    "ObservationWarning",
]


class AdapterError(ValueError):
    """A module has no layer that can host the adapter, or not the ones asked for."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used or written; what it held before is still there."""


class CheckpointWarning(UserWarning):
    """Part of a checkpoint could not be read and is made again."""


class ExportError(RuntimeError):
    """An exported graph does not decide as the estimator does; no file was left behind."""


class InterruptionWarning(UserWarning):
    """A fit ended early; the estimator is fitted with what had been observed."""


class ObservationWarning(UserWarning):
    """The scorer failed on some candidate; that observation is recorded as failed."""
