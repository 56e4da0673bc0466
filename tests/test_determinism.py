"""The same seed gives the same answer, and a fit leaves nothing behind."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from sk_metricopt import MetricOptFinetuner, _plan
from sk_metricopt._identity import digest
from tests.nets import CNN, MLP, NormMLP, binary_classifier, classifier

# What threads and chunks may change: rounding, and what optimizer steps make of it.
ROUNDING = {"rtol": 0, "atol": 1e-5}


def rows_for(module, n=120):
    rng = np.random.RandomState(0)
    shape = (2, 8, 8) if module is CNN else (6,)
    X = rng.standard_normal((n, *shape)).astype(np.float32)
    noise = rng.standard_normal(n)
    return X, (X.reshape(n, -1)[:, :6].sum(1) + 1.5 * noise > 0.5).astype(np.int64)


def fitted(module=MLP, **params):
    net = binary_classifier() if module == "binary" else classifier(module)
    X, y = rows_for(module)
    defaults = {"scoring": "f1", "max_observations": 16, "observation_interval": 6}
    defaults |= {"lr": 0.02, "random_state": 3, "guard_z": None}
    return MetricOptFinetuner(net, **(defaults | params)).fit(X, y), X


def traces(module=MLP, **params):
    """What a fit comes to, in digests."""
    est, X = fitted(module, **params)
    told = {
        "phi": est.adapter_params_,
        "scores": est.observations_["score"],
        "proba": est.predict_proba(X),
        "gain": np.array([est.score_gain_, est.score_gain_se_]),
    }
    return {name: digest(value) for name, value in told.items()} | {"moved": est.improved_}


KINDS = {"mlp": MLP, "norms": NormMLP, "cnn": CNN, "binary": "binary"}


def traces_in_a_process(hash_seed, n_threads):
    """The traces of all kinds of nets, from a fresh process."""
    code = (
        "import json, torch, warnings; warnings.simplefilter('ignore')\n"
        f"torch.set_num_threads({n_threads})\n"
        "from tests.test_determinism import KINDS, traces\n"
        "print(json.dumps({name: traces(kind) for name, kind in KINDS.items()}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_thread():
    return traces_in_a_process(1, 1)


def test_another_process_with_another_hash_seed_gives_the_same_bits(one_thread):
    assert traces_in_a_process(2, 1) == one_thread


def test_some_fits_compared_have_moved(one_thread):
    assert any(told["moved"] for told in one_thread.values())


@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("module", KINDS.values(), ids=KINDS.keys())
def test_two_threads_give_the_same_model_up_to_rounding(module):
    with threads(1):
        one, X = fitted(module)
    with threads(2):
        two, _ = fitted(module)
    assert np.allclose(one.adapter_params_, two.adapter_params_, **ROUNDING)
    assert np.allclose(one.predict_proba(X), two.predict_proba(X), **ROUNDING)


usually_fitted = functools.cache(fitted)


@pytest.mark.parametrize("module", KINDS.values(), ids=KINDS.keys())
def test_chunks_of_another_size_give_the_same_model_up_to_rounding(module, monkeypatch):
    usual, X = usually_fitted(module)
    monkeypatch.setattr(_plan, "_CHUNK_BYTES", 2**10)
    monkeypatch.setattr(_plan, "_STEP_BYTES", 1)  # steps take one vector at a time
    small, _ = fitted(module)
    assert np.allclose(usual.adapter_params_, small.adapter_params_, **ROUNDING)
    assert np.allclose(usual.predict_proba(X), small.predict_proba(X), **ROUNDING)


@pytest.mark.parametrize("module", KINDS.values(), ids=KINDS.keys())
def test_vmap_and_a_loop_give_the_same_model_up_to_rounding(module, monkeypatch):
    usual, X = usually_fitted(module)
    monkeypatch.setattr(_plan, "_VMAP_BYTES", 0)
    looped, _ = fitted(module)
    assert np.allclose(usual.adapter_params_, looped.adapter_params_, **ROUNDING)
    assert np.allclose(usual.predict_proba(X), looped.predict_proba(X), **ROUNDING)


# What is around a fit --------------------------------------------------------------------------


def state():
    """Everything global that a fit could disturb."""
    return {
        "python stream": random.getstate(),
        "numpy stream": digest(np.random.get_state()[1], np.random.get_state()[2]),
        "torch stream": digest(torch.get_rng_state()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "mkldnn": torch.backends.mkldnn.enabled,
        "matmul": torch.get_float32_matmul_precision(),
        "anomalies": torch.is_anomaly_enabled(),
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
        "printing": np.get_printoptions(),
    }


def net_state(net):
    module = net.module_
    return {
        "values": digest(*(part for item in module.state_dict().items() for part in item)),
        "identity": [id(p) for p in module.parameters()],
        "gradients": [(p.requires_grad, p.grad is None) for p in module.parameters()],
        "modes": [part.training for part in module.modules()],
        "hooks": [
            (len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
            for part in module.modules()
        ],
        "attributes": sorted(vars(net)),
    }


def pre_trained(module=NormMLP):
    """A fitted net with a mode, a frozen parameter and a hook of its own."""
    X, y = rows_for(module)
    net = classifier(module).fit(X, y)
    net.module_.train()
    next(net.module_.children()).eval()
    next(net.module_.parameters()).requires_grad_(False)
    net.module_.register_forward_hook(_look)
    return net


def _look(_module, _inputs, _output):
    return None


def fails_at(call, error):
    """A scorer that fails at one call and all that follow."""
    calls = [0]

    def scorer(estimator, X, y):
        calls[0] += 1
        random.random(), np.random.rand(), torch.rand(1)
        if calls[0] >= call:
            raise error
        return float((estimator.predict(X) == y).mean())

    return scorer


class Faulty(MLP):
    """Fails once it is shown fewer rows than it was trained on."""

    def forward(self, X):
        if not self.training:
            raise RuntimeError("a fault")
        return super().forward(X)


FAULTS = {
    "the first observation fails": ({"scoring": fails_at(1, ValueError("no"))}, ValueError),
    "a later one fails": (
        {"scoring": fails_at(5, ValueError("no")), "error_score": "raise"},
        ValueError,
    ),
    "interrupted at first": ({"scoring": fails_at(1, KeyboardInterrupt())}, BaseException),
    "interrupted again and again": ({"scoring": fails_at(5, KeyboardInterrupt())}, BaseException),
    "an error that nobody catches": ({"scoring": fails_at(3, SystemExit())}, SystemExit),
    "an unknown target": ({"adapter_targets": ["nowhere"]}, ValueError),
    "an unknown scorer": ({"scoring": "nonsense"}, ValueError),
    "too few rows": ({"validation_fraction": 0.999}, ValueError),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("params", "error"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fit_that_raises_leaves_everything_as_it_was(params, error):
    net = pre_trained()
    X, y = rows_for(NormMLP)
    before, net_before = state(), net_state(net)
    est = MetricOptFinetuner(
        FrozenEstimator(net), **({"max_observations": 16, "random_state": 0} | params)
    )
    with suppress(error):
        est.fit(X, y)
    assert state() == before
    assert net_state(net) == net_before


def test_a_net_that_raises_leaves_everything_as_it_was():
    X, y = rows_for(MLP)
    before = state()
    with pytest.raises(ValueError, match="a fault"):
        MetricOptFinetuner(classifier(Faulty), random_state=0).fit(X, y)
    assert state() == before


def test_a_fit_leaves_everything_as_it_was():
    net = pre_trained()
    X, y = rows_for(NormMLP)
    before, net_before = state(), net_state(net)
    est = MetricOptFinetuner(
        FrozenEstimator(net), scoring="f1", max_observations=16, random_state=0
    ).fit(X, y)
    est.predict_proba(X)
    assert state() == before
    assert net_state(net) == net_before


def test_a_fit_leaves_a_bare_module_as_it_was():
    X, y = rows_for(MLP)
    module = copy.deepcopy(classifier(MLP).fit(X, y).module_).train()
    values = digest(*module.state_dict().values())
    before = state()
    MetricOptFinetuner(module, scoring="f1", max_observations=16, random_state=0).fit(X, y)
    assert state() == before
    assert digest(*module.state_dict().values()) == values
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "cpu": lambda: default_device("cpu"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "numpy errors": lambda: np.errstate(all="raise"),
    "deterministic algorithms": deterministic_algorithms,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
}


@pytest.fixture(scope="module")
def usual_traces():
    return {"mlp": traces(MLP), "cnn": traces(CNN)}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(
    ("kind", "around"),
    [("mlp", name) for name in SURROUNDINGS]
    + [("cnn", name) for name in ("inference", "float64", "autocast")],
)
def test_modes_around_a_fit_change_neither_it_nor_are_changed(kind, around, usual_traces):
    with SURROUNDINGS[around]():
        before = state()
        est, _ = fitted(KINDS[kind])
        assert state() == before
    X, _ = rows_for(KINDS[kind])
    told = {"phi": est.adapter_params_, "scores": est.observations_["score"]}
    told["proba"] = est.predict_proba(X)
    for name, value in told.items():
        assert digest(value) == usual_traces[kind][name], name


# How φ is batched ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "weight", "expected"),
    [(256, 2**14, True), (2**12, 0, False), (16, 2**19, False), (2**12 - 1, 2**19 - 1, True)],
)
def test_whether_to_vmap_hangs_on_sizes_and_on_no_clock(row, weight, expected):
    size = _plan.Footprint(row, row, weight, weight)
    assert _plan.prefers_vmap(size, torch.device("cpu"), nullcontext) == expected


def test_what_vmap_cannot_run_is_looped():
    size = _plan.Footprint(16, 16, 16, 16)

    def step():
        rows = torch.zeros(2, 3, 4, 8)
        return torch.vmap(nn.LSTM(8, 8, batch_first=True))(rows)

    assert not _plan.prefers_vmap(size, torch.device("cpu"), step)
