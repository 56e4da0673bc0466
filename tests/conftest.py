"""Same random streams for all tests; skips, with the reason, where a need is not met."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

os.environ.setdefault("MPLBACKEND", "agg")  # no windows

# Workers of pytest-xdist share the cores: with threads of their own, those of torch and BLAS in
# each worker, and in the processes that tests start, would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def same_random_streams():
    """Start every test from the same global random streams."""
    np.random.seed(0)
    torch.manual_seed(0)


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
