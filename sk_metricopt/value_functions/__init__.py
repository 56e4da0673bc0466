"""Value functions: learned maps from what a candidate does to the score it will get."""

from sk_metricopt.value_functions._adapter import AdapterValueFunction
from sk_metricopt.value_functions._base import BaseValueFunction, TrajectoryPoints
from sk_metricopt.value_functions._behaviour import BehaviourValueFunction
from sk_metricopt.value_functions._descriptors import (
    SoftConfusionDescriptor,
    SoftMetricDescriptor,
)
from sk_metricopt.value_functions._retrieval import RetrievalValueFunction, SoftSearchDescriptor

__all__ = [
    "AdapterValueFunction",
    "BaseValueFunction",
    "BehaviourValueFunction",
    "RetrievalValueFunction",
    "SoftConfusionDescriptor",
    "SoftMetricDescriptor",
    "SoftSearchDescriptor",
    "TrajectoryPoints",
]
