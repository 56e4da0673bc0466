"""What kinds of graphs have in common: all that the export asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt.export._source import Source

if TYPE_CHECKING:
    from onnx import ModelProto

Rows = dict[str, np.ndarray]  # values of all rows, by the name of the graph's output


class GraphKind(ABC):
    """A fitted estimator, and what a graph has to say to say the same.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`.
    source : Source
        Writes the part of the graph that is not particular to this kind.

    Attributes
    ----------
    outputs : tuple of str
        What graphs of this kind give.
    """

    outputs: tuple[str, ...]

    def __init__(self, estimator, source: Source):
        self.estimator = estimator
        self.source = source

    @property
    def name(self) -> str:
        """What errors call the estimator."""
        return type(self.estimator).__name__

    @abstractmethod
    def expected(self, X) -> Rows:
        """Return what the estimator says about `X`, which the graph has to reproduce."""

    @abstractmethod
    def complete(self, model: ModelProto, expected: Rows) -> None:
        """Do what the source cannot do, in place."""

    @abstractmethod
    def properties(self, expected: Rows) -> dict[str, Any]:
        """Return what a file of this kind says of itself, beyond what all do."""

    @abstractmethod
    def compare(self, got: Rows, expected: Rows, indices: np.ndarray) -> None:
        """Raise ExportError if rows `indices` of `expected` differ from those the graph gave."""
