"""Value functions: learned maps from what a candidate does to the score it will get."""

from sk_metricopt.value_functions._base import BaseValueFunction
from sk_metricopt.value_functions._behaviour import BehaviourValueFunction
from sk_metricopt.value_functions._descriptors import (
    SoftConfusionDescriptor,
    SoftMetricDescriptor,
)
from sk_metricopt.value_functions._retrieval import RetrievalValueFunction, SoftSearchDescriptor

__all__ = [
    "BaseValueFunction",
    "BehaviourValueFunction",
    "RetrievalValueFunction",
    "SoftConfusionDescriptor",
    "SoftMetricDescriptor",
    "SoftSearchDescriptor",
]
