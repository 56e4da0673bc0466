"""scikit-learn's own checks of what an estimator has to do."""

from __future__ import annotations

import pytest
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from sk_metricopt import MetricOptFinetuner
from tests.nets import adaptive_classifier

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": (
        "float32 kernels round by batch size: up to 2e-7, where 1e-7 is allowed"
    ),
}


def accuracy(estimator, X, y):
    """As scikit-learn's, in a hundredth of the time."""
    return float((estimator.predict(X) == y).mean())


def make_finetuner():
    """A finetuner whose net adapts to any table of any number of classes, made to be fast."""
    net = adaptive_classifier(max_epochs=8, lr=0.3, module__hidden=16)
    few = {"max_observations": 12, "observation_interval": 2, "lr": 0.05}
    return MetricOptFinetuner(net, scoring=accuracy, guard_z=None, random_state=0, **few)


def name_of(check):
    return check.func.__name__ + "".join(f"-{value}" for value in check.keywords.values())


PAIRS = list(estimator_checks_generator(make_finetuner()))


@pytest.mark.parametrize("estimator, check", PAIRS, ids=[name_of(check) for _, check in PAIRS])
def test_check_of_scikit_learn(estimator, check, request):
    reason = EXPECTED_FAILED_CHECKS.get(check.func.__name__)
    if reason:  # it hangs on the processor's kernels whether such a check fails
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=False))
    check(estimator)


def test_checks_of_scikit_learn_are_not_skipped():
    assert get_tags(make_finetuner())._skip_test is False
    assert len(PAIRS) > 40
    assert {check.func.__name__ for _, check in PAIRS} >= set(EXPECTED_FAILED_CHECKS)
    assert len(EXPECTED_FAILED_CHECKS) <= 1
