"""Who writes the graph of a fitted estimator: torch, skl2onnx, or both for what is nested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sk_metricopt._onnx_mixin import OnnxMixin
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt.export._classifier import classifier_net_source, is_classifier_net
from sk_metricopt.export._embedding import retriever_source
from sk_metricopt.export._post_shift import PostShiftSource, is_post_shift
from sk_metricopt.export._sklearn_graph import SklearnSource
from sk_metricopt.export._source import Source


def source_of(estimator, precision: str = "fp32") -> Source | None:
    """Return what writes the graph of a fitted estimator, None where nothing can.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    precision : {'fp32', 'fp16'}
        Of nets.
    """
    own = own_source(estimator, precision)
    if own is not None:
        return own
    estimator = answering(estimator)
    if hasattr(estimator, "transform") or (
        hasattr(estimator, "predict") and is_classifier(estimator)
    ):
        return _sklearn_source(estimator, precision)
    return None


def own_source(estimator, precision: str = "fp32") -> Source | None:
    """Return the source of a net, of what holds one, or of a post-shift; None of all others.

    Parameters
    ----------
    estimator : estimator
    precision : {'fp32', 'fp16'}
        Of nets.
    """
    estimator = answering(estimator)
    if is_post_shift(estimator):
        inner = answering(estimator.estimator_)
        source = own_source(inner, precision) or _sklearn_source(inner, precision)
        return PostShiftSource(estimator, source)
    # Wrappers of others hold one by this name too, and decide otherwise than it does.
    held = getattr(estimator, "estimator_", None) if isinstance(estimator, OnnxMixin) else None
    for model in (estimator, held):
        if is_classifier_net(model):
            model.check_is_fitted()
            return classifier_net_source(estimator, model, precision)
        if isinstance(model, EmbeddingRetriever) and hasattr(model, "estimator_"):
            return retriever_source(estimator, model, precision)
    return None


def answering(estimator):
    """Return what answers for `estimator`: what is frozen, the best of a search, a single step."""
    if isinstance(estimator, FrozenEstimator):
        return answering(estimator.estimator)
    if isinstance(estimator, Pipeline) and len(estimator.steps) == 1:
        return answering(estimator.steps[0][1])
    best = getattr(estimator, "best_estimator_", None)
    return estimator if best is None else answering(best)


def last_step(estimator):
    """Return what decides in the end: the last step of a pipeline, the best of a search."""
    estimator = answering(estimator)
    return last_step(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def served_estimator(estimator):
    """Return the estimator of ours in `estimator` that serves a metric, else itself."""
    parts = map(answering, nested(estimator))
    return next((part for part in parts if hasattr(part, "improved_")), answering(estimator))


def nested(estimator) -> Iterator[Any]:
    """Yield `estimator` and the fitted estimators in it, outer ones first.

    What is inside of an estimator of ours, or of a net, is its own affair.
    """
    yield estimator
    if own_source(estimator) is None:
        for name, value in getattr(estimator, "__dict__", {}).items():
            if _holds_fitted(estimator, name):
                for part in _flat(value):
                    yield from nested(part)


def _holds_fitted(estimator, name: str) -> bool:
    """Whether an attribute is as `fit` left it; parameters are not, but for a few."""
    if name == "estimator":  # of what is frozen, and of scikit-learn's inner wrappers
        return isinstance(estimator, FrozenEstimator) or type(estimator).__name__.startswith("_")
    if name == "estimator_":  # beside estimators_ it is what these are clones of
        return not hasattr(estimator, "estimators_")
    return name.endswith("_") or name in ("steps", "transformer_list")


def _flat(value) -> Iterator[Any]:
    """Yield the estimators in a value: itself, or those in lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _flat(entry)
    elif any(hasattr(value, name) for name in ("predict", "predict_proba", "transform")):
        yield value


def _sklearn_source(estimator, precision: str) -> SklearnSource:
    found = list({id(part): part for part in nested(estimator)}.values())
    sources = ((part, own_source(part, precision)) for part in found)
    parts = [(answering(part), source) for part, source in sources if source is not None]
    by_column = any(isinstance(part, ColumnTransformer) for part in found)
    return SklearnSource(estimator, parts, own_source(last_step(estimator)), by_column)
