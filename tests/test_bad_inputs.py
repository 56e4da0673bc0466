"""Bad and odd input ends in an error that names it, or in a result that is right."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.bad_inputs import CASES, WORKS, observe
from tests.bad_inputs.page import PAGE, cell, named_on
from tests.bad_inputs.rows import Y, fit


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input_is_refused_by_name_or_works(case):
    outcome = observe(case.call)
    assert outcome.fault() is None
    if case.expected == WORKS:
        assert outcome.error is None, outcome.told
    else:
        assert outcome.error is not None, outcome.told
        assert re.search(f"(?s){case.expected}", str(outcome.error)), outcome.told


def test_page_lists_the_cases():
    assert len(CASES) >= 200
    names = [f"{cell(case.entry)}: {cell(case.passed)}" for case in CASES]
    assert len(set(names)) == len(names)
    assert named_on(PAGE.read_text(encoding="utf-8")) == names


_DTYPES = st.sampled_from(
    ["?", "i1", "u1", "i8", "u8", "f2", "f4", "f8", "c8", "U3", "S3", "O"]
).map(np.dtype)
_SHAPES = st.one_of(
    st.sampled_from([(80, 6), (80, 6), (80,), (80, 5), (79, 6), (0, 6), (80, 0), ()]),
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=8),
)
_X = st.builds(
    lambda shape, dtype, seed: (3 * np.random.RandomState(seed).normal(size=shape)).astype(dtype),
    _SHAPES,
    _DTYPES,
    st.integers(0, 9),
)
_Y = st.one_of(
    st.just(Y),
    st.lists(st.sampled_from([0, 1, 2, -1, 0.5, "a", "", None, np.nan, True]), max_size=80),
    st.builds(lambda k: np.resize(k, 80), st.lists(st.integers(0, 2), min_size=1, max_size=5)),
)
_PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.sampled_from([5e-3, 0, -1, np.nan, "0.1", 1e9]),
        "max_observations": st.sampled_from([1, 2, 3, 0, 2.5, None]),
        "validation_fraction": st.sampled_from([0.2, 0.01, 0.99, 0, 1, "half"]),
        "guard_z": st.sampled_from([1.0, 0, None, -1]),
        "adapter_targets": st.sampled_from(["all", ["output"], [], [1], "no"]),
    },
)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(X=_X, y=_Y, params=_PARAMS)
def test_drawn_input_is_refused_by_name_or_works(X, y, params):
    assert observe(lambda: fit(X=X, y=y, **params)).fault() is None
