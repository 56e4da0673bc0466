"""Finetune torch classifiers and retrievers towards any black-box metric, as scikit-learn does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sk_metricopt._finetuner import MetricOptFinetuner
    from sk_metricopt._post_shift import PostShiftClassifier
    from sk_metricopt._retriever import EmbeddingRetriever

__all__ = ["EmbeddingRetriever", "MetricOptFinetuner", "PostShiftClassifier", "__version__"]

__version__ = "0.1.0.dev0"

# Imported when they are asked for: who serves an exported file needs no torch.
_PLACES = {
    "EmbeddingRetriever": "_retriever",
    "MetricOptFinetuner": "_finetuner",
    "PostShiftClassifier": "_post_shift",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
