"""Retrieval metrics, and scorers that judge an embedding by them."""

from sk_metricopt.metrics._ranking import (
    mean_average_precision_at_r,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from sk_metricopt.metrics._scorer import make_retrieval_scorer

__all__ = [
    "make_retrieval_scorer",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
]
