"""Which graph an estimator gets: the one place that tells them apart."""

from __future__ import annotations

from sklearn.utils.validation import check_is_fitted

from sk_metricopt.export._classifier import ClassifierGraph
from sk_metricopt.export._embedding import EmbeddingGraph
from sk_metricopt.export._kind import GraphKind
from sk_metricopt.export._parts import answering, source_of
from sk_metricopt.export._source import PROBABILITIES


def graph_kind(estimator, labels: str, precision: str) -> GraphKind:
    """Return what to make of `estimator`.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`.
    labels : {'class', 'index'}
        What 'label' is to hold.
    precision : {'fp32', 'fp16'}
        Of nets.

    Raises
    ------
    TypeError, ValueError, ExportError
        If nothing can be made of it.
    """
    _check_instance(estimator)
    estimator = answering(estimator)
    source = source_of(estimator, precision)
    if source is None:
        raise TypeError(
            "The 'estimator' parameter of to_onnx must be a classifier, a retriever or another "
            "transformer, or a Pipeline or search around one. Got "
            f"{type(estimator).__name__} instead."
        )
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    if PROBABILITIES in source.outputs:
        _check_probabilities(estimator)
        return ClassifierGraph(estimator, source, labels, precision)
    _check_no_labels(labels)
    return EmbeddingGraph(estimator, source, precision)


def _check_instance(estimator) -> None:
    if isinstance(estimator, type):
        raise TypeError(
            "The 'estimator' parameter of to_onnx must be a fitted estimator. Got the class "
            f"{estimator.__name__} instead. Make one of it, and fit it."
        )


def _check_probabilities(estimator) -> None:
    """Raise TypeError for a classifier whose decisions no graph of ours can give."""
    name = type(estimator).__name__
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            "The 'estimator' parameter of to_onnx must be a classifier with predict_proba. Got "
            f"{name} without instead. Wrap it in CalibratedClassifierCV, or choose the setting "
            "that gives probabilities."
        )
    if isinstance(getattr(estimator, "classes_", None), list):
        raise TypeError(
            "The 'estimator' parameter of to_onnx must be a classifier of one label. Got "
            f"{name} of {len(estimator.classes_)} instead. Fit and export one for each."
        )


def _check_no_labels(labels: str) -> None:
    if labels != "class":
        raise ValueError(
            "The 'labels' parameter of to_onnx must be left out for a retriever or transformer, "
            f"whose graph gives embeddings and no labels. Got {labels!r} instead. Leave it out."
        )
