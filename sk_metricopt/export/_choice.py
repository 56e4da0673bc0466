"""Which graph an estimator gets: the one place that tells them apart."""

from __future__ import annotations

from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt.export._classifier import (
    ClassifierGraph,
    classifier_net_source,
    is_classifier_net,
)
from sk_metricopt.export._embedding import EmbeddingGraph
from sk_metricopt.export._kind import GraphKind
from sk_metricopt.export._post_shift import PostShiftSource, is_post_shift
from sk_metricopt.export._sklearn_graph import SklearnSource
from sk_metricopt.export._source import Source


def graph_kind(estimator, labels: str) -> GraphKind:
    """Return what to make of `estimator`.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`.
    labels : {'class', 'index'}
        What 'label' is to hold.

    Raises
    ------
    TypeError, ValueError, ExportError
        If nothing can be made of it.
    """
    estimator = _unfrozen(estimator)
    source = _source(estimator)
    if source is not None:
        return ClassifierGraph(estimator, source, labels)
    for model in (estimator, getattr(estimator, "estimator_", None)):
        if isinstance(model, EmbeddingRetriever):
            check_is_fitted(model)
            _check_no_labels(labels)
            return EmbeddingGraph(estimator, model)
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    raise TypeError(
        "The 'estimator' parameter of to_onnx must be a fitted MetricOptFinetuner, "
        "PostShiftClassifier, EmbeddingRetriever, NeuralNetClassifier or "
        f"NeuralNetBinaryClassifier. Got {type(estimator).__name__} instead. Pass the one inside "
        "it, for example pipeline[-1] with X as the steps before it leave it, or "
        "search.best_estimator_."
    )


def _source(estimator) -> Source | None:
    """Return the source of a classifier that is a net, holds one, or weights another."""
    estimator = _unfrozen(estimator)
    if is_post_shift(estimator):
        inner = _unfrozen(estimator.estimator_)
        _check_no_net_inside(inner)
        return PostShiftSource(estimator, _source(inner) or SklearnSource(inner))
    for model in (estimator, getattr(estimator, "estimator_", None)):
        if is_classifier_net(model):
            model.check_is_fitted()
            return classifier_net_source(estimator, model)
    return None


def _unfrozen(estimator):
    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator


def _check_no_net_inside(estimator) -> None:
    """Raise TypeError for a pipeline or search around what skl2onnx does not know."""
    steps = [step for _, step in getattr(estimator, "steps", [])]
    for part in map(_unfrozen, [*steps, getattr(estimator, "best_estimator_", None)]):
        if _source(part) is not None:
            raise TypeError(
                "The 'estimator' parameter of to_onnx must be a PostShiftClassifier around a net, "
                "a MetricOptFinetuner, or a classifier or Pipeline of scikit-learn's own steps. "
                f"Got one around a {type(estimator).__name__} with a {type(part).__name__} in it "
                f"instead. Shift the {type(part).__name__} itself, as in make_pipeline(..., "
                f"PostShiftClassifier({type(part).__name__}(...))), and export the last step with "
                "X as those before it leave it."
            )
        if part is not None:
            _check_no_net_inside(part)


def _check_no_labels(labels: str) -> None:
    if labels != "class":
        raise ValueError(
            "The 'labels' parameter of to_onnx must be left out for a retriever, whose graph gives "
            f"embeddings and no labels. Got {labels!r} instead. Leave it out."
        )
