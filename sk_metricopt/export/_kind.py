"""What kinds of graphs have in common: all that the export asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from sk_metricopt._random import seeded
from sk_metricopt._skorch import Bridge, evaluating

if TYPE_CHECKING:
    from onnx import ModelProto

Rows = dict[str, np.ndarray]  # values of all rows, by the name of the graph's output


class GraphKind(ABC):
    """A fitted estimator, and what a graph has to do after its module to say the same.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`: it may be the net, or hold it.
    bridge : Bridge
        Around the net.
    """

    traced: tuple[str, ...]  # outputs of `head`, which `complete` may rename

    def __init__(self, estimator, bridge: Bridge):
        self.estimator = estimator
        self.bridge = bridge

    @property
    def net(self):
        """The skorch net."""
        return self.bridge.net

    @property
    def name(self) -> str:
        """What errors call the estimator."""
        return type(self.estimator).__name__

    @property
    def is_bare_net(self) -> bool:
        """Whether the estimator is the net: it takes and gives what nobody converts."""
        return self.estimator is self.net

    @abstractmethod
    def head(self, output: Any) -> tuple[Tensor, ...]:
        """Return the graph's outputs, in the order of `traced`, from the module's."""

    @abstractmethod
    def expected(self, X) -> Rows:
        """Return what the estimator says about `X`, which the graph has to reproduce."""

    @abstractmethod
    def complete(self, model: ModelProto, expected: Rows) -> None:
        """Do what torch cannot do, in place."""

    @abstractmethod
    def properties(self, expected: Rows) -> dict[str, Any]:
        """Return what a file of this kind says of itself, beyond what all do."""

    @abstractmethod
    def compare(self, got: Rows, expected: Rows, indices: np.ndarray) -> None:
        """Raise ExportError if rows `indices` of `expected` differ from those the graph gave."""


@contextmanager
def left_as_found(bridge: Bridge) -> Iterator[None]:
    """Put back what predicting changes: train or eval mode, and the global random streams."""
    with ExitStack() as stack:
        stack.enter_context(seeded(0, bridge.device))
        for part in (bridge.net.module_, bridge.net.criterion_):
            if isinstance(part, nn.Module):
                stack.enter_context(evaluating(part))
        yield
