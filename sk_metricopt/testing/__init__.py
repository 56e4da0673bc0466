"""Contract tests for those who write adapters, value functions and explorations."""

from sk_metricopt.testing._contracts import (
    check_adapter,
    check_exploration,
    check_value_function,
)

__all__ = ["check_adapter", "check_exploration", "check_value_function"]
