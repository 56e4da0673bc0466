"""Where graphs come from: what every source of one has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt._random import seeded

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT = "X"
BATCH = "batch"  # name of the axis of rows
INDEX, PROBABILITIES = "label_index", "probabilities"  # outputs of a classifier's source


class Source(ABC):
    """A fitted estimator that some library can turn into a graph."""

    libraries: tuple[str, ...]  # what that takes beside onnx and onnxruntime
    packages: tuple[str, ...]  # whose versions the file names, beside those that all name
    takes_rows = False  # whether the estimator takes arrays of the graph's own dtype only

    @abstractmethod
    def trace(self, rows: np.ndarray, opset: int) -> ModelProto:
        """Return the graph from 'X' to the source's outputs, with a dynamic number of rows.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, ...)
            Example input, of dtype `dtype`.
        opset : int
            Opset of the graph.
        """

    def dtype(self, values: np.ndarray) -> Any:
        """Return the dtype of the graph's input, given what the caller passed."""
        return np.float32

    def properties(self) -> Mapping[str, Any]:
        """Return what only a file from this source says of itself."""
        return {}

    def left_as_found(self) -> AbstractContextManager:
        """Put back what predicting changes."""
        return seeded(0)

    @abstractmethod
    def why_probabilities_differ(self) -> tuple[str, str]:
        """Return the likely cause and the next step."""

    @abstractmethod
    def why_labels_differ(self) -> tuple[str, str]:
        """Return the likely cause and the next step, where probabilities agree."""
