"""Graphs of classifiers: 'label' and 'probabilities'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.base import is_classifier
from torch import Tensor

from sk_metricopt._skorch import NetBridge
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._source import INDEX, PROBABILITIES, Source
from sk_metricopt.export._torch_graph import NetSource

if TYPE_CHECKING:
    from onnx import ModelProto

# Of a probability. float32 kernels differ by about 1e-7, and half precision has 11 bits.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}


def is_classifier_net(net: object) -> bool:
    """Return whether `net` is one of skorch's classifiers."""
    return hasattr(net, "forward_iter") and is_classifier(net)


def classifier_net_source(estimator, net, precision: str = "fp32") -> Source:
    """Return what torch is to write of a fitted classifier around `net`, or of `net`."""
    bridge = NetBridge(net)
    threshold = net.threshold if bridge.binary else None

    def head(output: Any) -> tuple[Tensor, ...]:
        proba = bridge.proba(output).float()
        return cast(Tensor, bridge.decide(proba)), proba

    facts = {"threshold": threshold}
    return NetSource(estimator, bridge, head, (INDEX, PROBABILITIES), facts, precision)


class ClassifierGraph(GraphKind):
    """The label that predict gives and the probabilities that predict_proba gives.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    source : Source
        Of the index of the label, and of the probabilities.
    labels : {'class', 'index'}
        What 'label' holds.
    precision : {'fp32', 'fp16'}
        Of the nets in it.
    """

    outputs = ("label", PROBABILITIES)

    def __init__(self, estimator, source: Source, labels: str, precision: str):
        super().__init__(estimator, source)
        self.labels = labels
        self.tolerance = TOLERANCES[precision]

    def expected(self, X) -> Rows:
        labels = np.asarray(self.estimator.predict(X))
        probabilities = np.asarray(self.estimator.predict_proba(X))
        if labels.ndim != 1 or probabilities.ndim != 2:
            raise ExportError(
                f"{self.name} predicts labels of shape {labels.shape} and probabilities of shape "
                f"{probabilities.shape}; only one label per row can be exported. Next step: make "
                "forward return one row of class scores per sample. No file was written."
            )
        return {"label": labels, "probabilities": probabilities}

    def complete(self, model: ModelProto, expected: Rows) -> None:
        name_labels(model, self._classes(expected) if self.labels == "class" else None)

    def properties(self, expected: Rows) -> dict[str, Any]:
        classes = self._classes(expected)
        return {
            "classes": [c if isinstance(c, int | str) else str(c) for c in classes.tolist()],
            "classes_dtype": str(classes.dtype),
            "labels": self.labels,
            **self.source.properties(),
        }

    def compare(self, got: Rows, expected: Rows, indices: np.ndarray) -> None:
        probabilities, labels = got["probabilities"], got["label"]
        wanted = expected["probabilities"][indices]
        if probabilities.shape != wanted.shape:
            raise ExportError(
                f"The graph of {self.name} returns probabilities of shape {probabilities.shape}, "
                f"predict_proba returns {wanted.shape}. Likely cause: the module's output has "
                "another number of columns than there are classes, or mixes rows. Next step: make "
                "forward return one row per sample. No file was written."
            )
        if self.labels == "index":
            labels = self._classes(expected)[labels]
        errors = np.abs(probabilities - wanted)
        wrong_probabilities = ~(errors <= self.tolerance).all(axis=1)  # catches NaN too
        # As objects, so that labels of unlike kinds are compared rather than refused.
        wrong_labels = labels.astype(object) != expected["label"][indices].astype(object)
        if self.tolerance > TOLERANCES["fp32"]:  # where half precision may decide otherwise
            wrong_labels &= self.source.boundary(wanted) > self.tolerance
        if wrong_probabilities.any() or wrong_labels.any():
            raise self._difference(errors, wrong_probabilities, wrong_labels)

    def _classes(self, expected: Rows) -> np.ndarray:
        n_classes = expected["probabilities"].shape[1]
        classes = label_values(self.estimator, n_classes)
        if len(classes) != n_classes:
            raise ExportError(
                f"{self.name} has {len(classes)} classes_, but its predict_proba returns "
                f"{n_classes} columns. Next step: give the module as many outputs as there are "
                "classes. No file was written."
            )
        return classes

    def _difference(self, errors, wrong_probabilities, wrong_labels) -> ExportError:
        n, findings = len(errors), []
        if wrong_labels.any():
            findings.append(
                f"output 'label' differs from predict on {wrong_labels.sum()} of {n} rows"
            )
        if wrong_probabilities.any():
            findings.append(
                f"output 'probabilities' differs from predict_proba on "
                f"{wrong_probabilities.sum()} of {n} rows (by up to {errors.max():.2g}, allowed "
                f"{self.tolerance:g})"
            )
            cause, step = self.source.why_probabilities_differ()
        else:
            cause, step = self.source.why_labels_differ()
        return ExportError(
            f"The graph of {self.name} does not reproduce it: {'; '.join(findings)}, in a batch of "
            f"{n}. Likely cause: {cause}. Next step: {step}. No file was written."
        )


def label_values(estimator, n_classes: int | None = None) -> np.ndarray:
    """Return the label of each class index; a bare net predicts the index itself.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    n_classes : int or None, default=None
        Where a net does not know it.
    """
    if is_classifier_net(estimator):
        return np.arange(len(estimator.classes_) if n_classes is None else n_classes)
    return np.asarray(estimator.classes_)


def name_labels(model: ModelProto, classes: np.ndarray | None) -> None:
    """Turn the output 'label_index' of `model` into 'label', in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph from the source of a classifier.
    classes : ndarray of shape (n_classes,) or None
        Label of each index; None leaves the index.
    """
    from onnx import helper, numpy_helper

    graph, label = model.graph, model.graph.output[0]
    label.name = "label"
    if classes is None:
        graph.node.append(helper.make_node("Identity", [INDEX], ["label"], name="label"))
    else:
        # Gather takes ints and strings alike, and needs no second operator domain.
        values = numpy_helper.from_array(class_values(classes), "classes")
        graph.initializer.append(values)
        graph.node.append(helper.make_node("Gather", ["classes", INDEX], ["label"], name="label"))
        label.type.tensor_type.elem_type = values.data_type


def class_values(classes: np.ndarray) -> np.ndarray:
    """Return `classes` as int64 or as str objects, the two kinds every runtime knows.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    """
    values = classes.tolist()
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    if all(isinstance(value, int | float) and value == int(value) for value in values):
        return np.array([int(value) for value in values], dtype=np.int64)
    raise TypeError(
        "The 'estimator' parameter of to_onnx must have classes_ that are integers, booleans or "
        f"strings. Got dtype {classes.dtype} instead. Use labels='index', and map the index to "
        "a class yourself."
    )
