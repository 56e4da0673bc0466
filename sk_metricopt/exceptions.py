"""Exceptions and warnings of sk_metricopt."""

from __future__ import annotations

__all__ = ["AdapterError", "ExportError", "ObservationWarning"]


class AdapterError(ValueError):
    """A module has no layer that can host the adapter, or not the ones asked for."""


class ExportError(RuntimeError):
    """An exported graph does not decide as the estimator does; no file was left behind."""


class ObservationWarning(UserWarning):
    """The scorer failed on some candidate; that observation is recorded as failed."""
