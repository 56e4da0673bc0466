"""The adapter that a file is run with: what the user chose, as the graph is fed it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from sk_metricopt.export._inputs import ADAPTER
from sk_metricopt.export._properties import from_json, unfit

_FREE = "tensor(float)"  # any parameters, as against the number of a named choice


class AdapterChoice:
    """What a file lets be chosen.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Of the file.
    properties : mapping of str to str
        Of the file, without the prefix of their names.

    Attributes
    ----------
    names : list of str
        Adapters that the file knows by name.

    Raises
    ------
    ValueError
        If the file names adapters that its graph does not take.
    """

    def __init__(self, session, properties: Mapping[str, str]):
        inputs = {value.name: value for value in session.get_overridable_initializers()}
        self._type = inputs[ADAPTER].type if ADAPTER in inputs else None
        self._shape = tuple(inputs[ADAPTER].shape) if ADAPTER in inputs else None
        self._values = from_json(properties, "adapters") if "adapters" in properties else []
        if not self._fit():
            raise unfit(f"adapters that its input {ADAPTER!r} does not take")
        self.names = list(self._values)

    def feed(self, adapter: Any) -> dict[str, np.ndarray]:
        """Return what the graph is fed beside the rows.

        Parameters
        ----------
        adapter : None, str, int or array-like of shape (n_params,)

        Raises
        ------
        ValueError
            If the file has no such adapter.
        """
        if adapter is None:
            return {}
        value = self._free(adapter) if self._type == _FREE else self._number(adapter)
        if value is None:
            raise ValueError(
                f"The 'adapter' parameter of OnnxPredictor must be {self._expected()}. "
                f"Got {_said(adapter)} instead. Leave it out for the default of the file."
            )
        return {ADAPTER: value}

    def _fit(self) -> bool:
        """Whether the adapters that the file names are such as its graph takes."""
        if self._type == _FREE and isinstance(self._values, dict):
            params = map(self._params, self._values.values())
            return all(value is not None and np.isfinite(value).all() for value in params)
        names = self._values if isinstance(self._values, list) else [None]
        wanted = self._type not in (None, _FREE)
        return all(wanted and isinstance(name, str) for name in names)

    def _free(self, adapter: Any) -> np.ndarray | None:
        if isinstance(adapter, str):
            adapter = self._values[adapter] if adapter in self.names else None
        return self._params(adapter)

    def _params(self, adapter: Any) -> np.ndarray | None:
        try:
            value = np.asarray(adapter, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            return None
        return value if value.shape == self._shape else None

    def _number(self, adapter: Any) -> np.ndarray | None:
        if self._type is None:
            return None
        if isinstance(adapter, str):
            return np.array(self.names.index(adapter)) if adapter in self.names else None
        valid = isinstance(adapter, Integral) and not isinstance(adapter, bool)
        if valid and 0 <= adapter < len(self.names):
            return np.array(int(adapter), dtype=np.int64)
        return None

    def _expected(self) -> str:
        if self._type is None:
            return "None for this file, which was exported without adapter_input=True"
        named = f"one of {self.names}, " if self.names else ""
        if self._type == _FREE:
            return f"{named}an array of numbers of shape {self._shape} or None"
        return f"{named}an index of them or None"


def _said(adapter: Any) -> str:
    shape = np.shape(adapter) if hasattr(adapter, "__array__") else ()
    return f"an array of shape {shape}" if shape else repr(adapter)
