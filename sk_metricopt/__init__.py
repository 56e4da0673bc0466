"""Finetune torch classifiers and retrievers towards any black-box metric, as scikit-learn does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sk_metricopt._lazy import lazy

if TYPE_CHECKING:
    from sk_metricopt._display import MetricOptDisplay
    from sk_metricopt._finetuner import MetricOptFinetuner
    from sk_metricopt._post_shift import PostShiftClassifier
    from sk_metricopt._retriever import EmbeddingRetriever
    from sk_metricopt._session import MetricOptSession

__all__ = [
    "EmbeddingRetriever",
    "MetricOptDisplay",
    "MetricOptFinetuner",
    "MetricOptSession",
    "PostShiftClassifier",
    "__version__",
]

__version__ = "0.1.0.dev0"

# Imported when they are asked for: who serves an exported file needs no torch.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "EmbeddingRetriever": "_retriever",
        "MetricOptDisplay": "_display",
        "MetricOptFinetuner": "_finetuner",
        "MetricOptSession": "_session",
        "PostShiftClassifier": "_post_shift",
    },
)
