"""Adapters: parameters φ that change what a frozen backbone computes."""

from sk_metricopt.adapters._base import BaseAdapter
from sk_metricopt.adapters._film import FiLMAdapter
from sk_metricopt.adapters._weight import WeightAdapter

__all__ = ["BaseAdapter", "FiLMAdapter", "WeightAdapter"]
