"""Where graphs come from: what every source of one has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt._random import seeded
from sk_metricopt.export._inputs import Feed

if TYPE_CHECKING:
    from onnx import ModelProto

    from sk_metricopt.export._adapted_module import AdaptedModule

# Outputs of a classifier's source, and of a retriever's or transformer's.
INDEX, PROBABILITIES = "label_index", "probabilities"
EMBEDDINGS = "embeddings"


class Source(ABC):
    """A fitted estimator that some library can turn into a graph."""

    libraries: tuple[str, ...]  # what that takes beside onnx and onnxruntime
    packages: tuple[str, ...]  # whose versions the file names, beside those that all name
    outputs: tuple[str, ...]
    takes_fed = False  # whether the estimator takes arrays of the graph's own dtype only
    takes_tables = False  # whether the estimator may take strings, or columns by their names
    nested_types: tuple[type, ...] = ()  # of estimators in it that skl2onnx has to be told of
    by_column = False  # whether it does take columns by their names

    @abstractmethod
    def trace(self, feed: Feed, opset: int) -> ModelProto:
        """Return the graph from the inputs of `feed` to `outputs`, for any number of rows.

        Parameters
        ----------
        feed : dict of str to ndarray of shape (n_samples, ...)
            Example input; numbers in a single array are of dtype `dtype`.
        opset : int
            Opset of the graph.
        """

    def dtype(self, X: np.ndarray) -> Any:
        """Return the dtype of numbers in the graph's input, given what the caller passed."""
        return np.float32

    def boundary(self, probabilities: np.ndarray) -> np.ndarray:
        """Return how far the probabilities of each row are from another decision."""
        first, second = np.sort(probabilities, axis=1)[:, :-3:-1].T
        return (first - second) / 2

    def properties(self) -> Mapping[str, Any]:
        """Return what only a file from this source says of itself."""
        return {}

    def adapt(self, estimator, adapted: AdaptedModule, set_default: Callable) -> None:
        """Let the adapter parameters of an estimator be a value of the graph called 'adapter'.

        Parameters
        ----------
        estimator : MetricOptFinetuner
            It is what the source is of, or in it.
        adapted : AdaptedModule
            In the place of its module.
        set_default : callable
            Called with the graph in which that value is an input, to make it none.
        """
        raise NotImplementedError

    def left_as_found(self) -> AbstractContextManager:
        """Put back what predicting changes."""
        return seeded(0)

    @abstractmethod
    def why_probabilities_differ(self) -> tuple[str, str]:
        """Return the likely cause and the next step."""

    def why_embeddings_differ(self) -> tuple[str, str]:
        """Return the likely cause and the next step."""
        return self.why_probabilities_differ()

    @abstractmethod
    def why_labels_differ(self) -> tuple[str, str]:
        """Return the likely cause and the next step, where probabilities agree."""
