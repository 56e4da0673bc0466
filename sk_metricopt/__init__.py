"""Finetune torch classifiers and retrievers towards any black-box metric, as scikit-learn does."""

from sk_metricopt._finetuner import MetricOptFinetuner
from sk_metricopt._post_shift import PostShiftClassifier
from sk_metricopt._retriever import EmbeddingRetriever

__all__ = ["EmbeddingRetriever", "MetricOptFinetuner", "PostShiftClassifier", "__version__"]

__version__ = "0.1.0.dev0"
