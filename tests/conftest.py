"""Skip, with the reason, the tests whose needs this machine does not meet."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    unmet = {}
    if not os.environ.get("SK_METRICOPT_DATA_HOME"):
        unmet["data"] = "SK_METRICOPT_DATA_HOME does not name a folder with the data sets"
    if not torch.cuda.is_available():
        unmet["gpu"] = "no CUDA device"
    for item in items:
        for marker, reason in unmet.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
