"""What a fitted skorch classifier does between its module and its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor

from sk_metricopt._random import seeded
from sk_metricopt._skorch import NetBridge, evaluating


def is_classifier_net(net: object) -> bool:
    """Return whether `net` is one of skorch's classifiers."""
    return isinstance(net, NeuralNetClassifier | NeuralNetBinaryClassifier)


def net_proba(bridge: NetBridge, output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the net's probabilities (n, n_classes) for what its module returned.

    The net's own nonlinearity, not ``bridge.scores(output).softmax(-1)``: that is equal up to
    rounding, but a graph with more nodes.
    """
    output = output[0] if isinstance(output, tuple) else output
    nonlinearity = bridge.net._get_predict_nonlinearity()
    return nonlinearity(output.reshape(-1) if bridge.binary else output)


@contextmanager
def left_as_found(bridge: NetBridge) -> Iterator[None]:
    """Put back what predicting changes: train or eval mode, and the global random streams."""
    net = bridge.net
    with seeded(0, bridge.device), evaluating(net.module_), evaluating(net.criterion_):
        yield
