"""Peak memory stays within what docs/reliability.md states, measured in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)
MIB = 2**20
N_FEATURES, WIDTH = 20, 32


def allowed_per_row(n_classes, n_kept):
    """Bytes per validation row, as stated in docs/reliability.md."""
    return 1800 + 8 * (N_FEATURES + WIDTH) + 4 * n_classes * (30 + n_kept) + 8 * n_kept


def allowed_per_param(max_observations):
    """Bytes per entry of φ, as stated there."""
    return 1200 + 20 * max_observations


# A process that has imported everything and fitted once, so that what it grows by is the data's.
PROLOGUE = f"""
import warnings; warnings.simplefilter("ignore")
import numpy as np, torch
from pathlib import Path
from torch import nn
from sk_metricopt import MetricOptFinetuner
torch.set_num_threads(1)

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

def rows(n, n_classes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, {N_FEATURES}), dtype=np.float32)
    return X, (X[:, :n_classes].argmax(1) + (rng.random(n) < 0.2)) % n_classes

def accuracy(estimator, X, y):
    return float((estimator.predict(X) == y).mean())

def fit(n, n_classes, max_observations, width={WIDTH}):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear({N_FEATURES}, width), nn.ReLU(), nn.Linear(width, n_classes)
    )
    est = MetricOptFinetuner(
        net, scoring=accuracy, max_observations=max_observations, random_state=0,
        observation_interval=2,
    )
    X, y = rows(500, n_classes)
    X_val, y_val = rows(n, n_classes)
    before = peak()
    est.fit(X, y, X_val=X_val, y_val=y_val)
    return peak() - before
"""


def printed(code):
    """The last line that code prints in a process of its own, as a number."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def grown(n, n_classes, max_observations):
    """Bytes that a fit with `n` validation rows adds to what the process had at its highest."""
    return printed(f"fit(300, {n_classes}, 10); print(fit({n}, {n_classes}, {max_observations}))\n")


@pytest.mark.parametrize("n_classes", [2, 10])
def test_memory_grows_with_validation_rows_as_stated(n_classes):
    few, many = 20_000, 80_000
    growth = grown(many, n_classes, 14) - grown(few, n_classes, 14)
    assert growth / (many - few) < allowed_per_row(n_classes, 14)


def test_memory_grows_with_adapter_parameters_and_observations_as_stated():
    width, max_observations = 2_800, 60
    n_params = (N_FEATURES + 1) * width + 2 * width + 2
    assert n_params <= 2**16  # so that all of them adapt
    code = f"fit(300, 2, 10); print(fit(300, 2, {max_observations}, {width}))\n"
    assert n_params * 20 * max_observations < printed(code) < n_params * allowed_per_param(60)


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_million_validation_rows_stay_within_what_is_stated(n_classes):
    n = 1_000_000
    assert grown(n, n_classes, 12) < 64 * MIB + n * allowed_per_row(n_classes, 12)


def test_memory_of_a_step_does_not_grow_with_the_number_of_trajectories():
    code = """
from sk_metricopt import _plan
from sk_metricopt._adapted import AdaptedNet, Encoded
from sk_metricopt._skorch import NetBridge, net_around
from sk_metricopt.adapters import FiLMAdapter
_plan._STEP_BYTES = 2**25
X = rows(64, 2)[0]
net = nn.Sequential(nn.Linear(20, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.Linear(1024, 2))
adapted = AdaptedNet(NetBridge(net_around(net, X)), FiLMAdapter(), "auto", X)
encoded = adapted.encode(X)

def step(n_phi):
    index = torch.arange(64).expand(n_phi, -1)
    phi = torch.zeros(n_phi, adapted.n_params)
    adapted.pulled_back(phi, lambda part: encoded.take(index[part]), torch.ones_like, 64)

step(8)
before = peak()
step(64)
print(peak() - before)
"""
    # All at once, 64 vectors hold 64 times 4 MiB of weights and their gradients.
    assert printed(code) < 100 * MIB
