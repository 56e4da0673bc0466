"""What a fitted skorch classifier does between its module and its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.base import is_classifier

from sk_metricopt._random import seeded
from sk_metricopt._skorch import NetBridge, evaluating


def is_classifier_net(net: object) -> bool:
    """Return whether `net` is one of skorch's classifiers."""
    return hasattr(net, "forward_iter") and is_classifier(net)


@contextmanager
def left_as_found(bridge: NetBridge) -> Iterator[None]:
    """Put back what predicting changes: train or eval mode, and the global random streams."""
    net = bridge.net
    with seeded(0, bridge.device), evaluating(net.module_), evaluating(net.criterion_):
        yield
