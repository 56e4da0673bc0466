"""Graphs of post-shifts: weights on the class probabilities that another graph gives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt._basis import Basis
from sk_metricopt._weighting import LEAST
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._graph_edit import remove_dead_ends, rename_value
from sk_metricopt.export._inputs import Feed
from sk_metricopt.export._logistic import sharpen
from sk_metricopt.export._source import INDEX, PROBABILITIES, Source

if TYPE_CHECKING:
    from onnx import ModelProto


def is_post_shift(estimator: object) -> bool:
    """Return whether `estimator` is a fitted PostShiftClassifier."""
    return isinstance(getattr(estimator, "_basis", None), Basis)


class PostShiftSource(Source):
    """The source of the classifier inside, and the weights.

    Parameters
    ----------
    estimator : PostShiftClassifier
        Fitted.
    inner : Source
        Of the classifier that it weights.
    """

    def __init__(self, estimator, inner: Source):
        _check_fixed(estimator)
        self._estimator = estimator
        self._inner = inner
        self.libraries, self.packages = inner.libraries, inner.packages
        self.outputs, self.takes_fed = inner.outputs, inner.takes_fed
        self.takes_tables, self.by_column = inner.takes_tables, inner.by_column
        self.nested_types = inner.nested_types

    def trace(self, feed: Feed, opset: int) -> ModelProto:
        model = self._inner.trace(feed, opset)
        if self._decides:
            sharpen(model.graph)
            append_weights(model, self._estimator.weights_)
        return model

    def dtype(self, X: np.ndarray) -> Any:
        return self._inner.dtype(X)

    def boundary(self, probabilities: np.ndarray) -> np.ndarray:
        rule = super() if self._decides else self._inner
        return rule.boundary(probabilities)

    def properties(self) -> Mapping[str, Any]:
        rule = {} if self._decides else self._inner.properties()
        return {**rule, "weights": self._estimator.weights_}

    def left_as_found(self) -> AbstractContextManager:
        return self._inner.left_as_found()

    def why_probabilities_differ(self) -> tuple[str, str]:
        cause, step = self._inner.why_probabilities_differ()
        if self._decides:
            cause += (
                ". Besides, weights magnify the float32 rounding of probabilities near 0: by up "
                f"to {_spread(self._estimator.weights_):.2g} here"
            )
        return cause, step

    def why_labels_differ(self) -> tuple[str, str]:
        if not self._decides:
            return self._inner.why_labels_differ()
        cause = (
            "the largest weighted probabilities of these rows are equal within rounding: predict "
            "computes in float64, the graph in float32"
        )
        return cause, "leave these rows out of X, or pass other rows, and try again"

    @property
    def _decides(self) -> bool:
        """Whether there are weights; if not, the classifier inside decides."""
        return self._estimator._weights is not None


def append_weights(model: ModelProto, weights: np.ndarray) -> None:
    """Weight the output 'probabilities' of `model` and let the largest decide, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph from the source of a classifier.
    weights : ndarray of shape (n_classes,) or (n_classes, n_classes)
        By class, or by true and decided class.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    # Another prefix for a post-shift of a post-shift.
    before = sum(value.name.startswith("post_shift_") for value in graph.initializer)
    prefix = f"post_shift_{before}_"
    given, least, factor, axis, clipped, weighted, total = (
        prefix + name
        for name in ("given", "least", "weights", "axis", "clipped", "weighted", "total")
    )
    rename_value(graph, PROBABILITIES, given)
    rename_value(graph, INDEX, prefix + INDEX)
    for name, value in (
        (least, np.float32(LEAST)),
        (factor, weights.astype(np.float32)),
        (axis, np.array([1])),
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    weigh = "Mul" if weights.ndim == 1 else "MatMul"
    node = helper.make_node
    graph.node.extend(
        [
            node("Max", [given, least], [clipped], name=clipped),
            node(weigh, [clipped, factor], [weighted], name=weighted),
            node("ReduceSum", [weighted, axis], [total], name=total),
            node("Div", [weighted, total], [PROBABILITIES], name=prefix + PROBABILITIES),
            node("ArgMax", [PROBABILITIES], [INDEX], axis=1, keepdims=0, name=prefix + INDEX),
        ]
    )
    label, probabilities = graph.output
    label.name, probabilities.name = INDEX, PROBABILITIES
    remove_dead_ends(graph)  # how the classifier inside decides


def _check_fixed(estimator) -> None:
    """Raise ExportError unless the weights of all rows are the same."""
    name = type(estimator).__name__
    if not estimator._basis.is_class:
        raise ExportError(
            f"{name} cannot be exported with the 'basis' it was fitted with: its weights differ "
            "between groups of rows, and what finds the group of a row is Python. Next step: fit "
            "it with basis='class', or export estimator_ and apply weights_ where the groups are "
            "known. No file was written."
        )
    if hasattr(estimator, "shares_"):
        raise ExportError(
            f"{name} cannot be exported with randomized=True: it decides rows by chance, and a "
            "graph gives the same row the same label. Next step: fit it with randomized=False. No "
            "file was written."
        )


def _spread(weights: np.ndarray) -> float:
    """Return how much larger the largest weight is than the least that is not 0."""
    return float(weights.max() / weights[weights > 0].min())
