"""scikit-learn's own checks of what an estimator has to do, for retrievers."""

from __future__ import annotations

import pytest
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from sk_metricopt import EmbeddingRetriever
from tests.embedding_nets import adaptive_embedder

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": (
        "float32 kernels round by batch size: up to 2e-7, where 1e-7 is allowed"
    ),
}


def name_of(check):
    return check.func.__name__ + "".join(f"-{value}" for value in check.keywords.values())


RETRIEVERS = {
    metric: EmbeddingRetriever(adaptive_embedder(max_epochs=2), metric=metric, random_state=0)
    for metric in ("cosine", "euclidean")
}
CHECKS = {
    f"{kind}-{name_of(check)}": (estimator, check)
    for kind, retriever in RETRIEVERS.items()
    for estimator, check in estimator_checks_generator(retriever)
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_of_scikit_learn(name, request):
    estimator, check = CHECKS[name]
    reason = EXPECTED_FAILED_CHECKS.get(check.func.__name__)
    if reason:  # it hangs on the processor's kernels whether such a check fails
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=False))
    check(estimator)


@pytest.mark.parametrize("kind", RETRIEVERS)
def test_checks_of_scikit_learn_are_not_skipped(kind):
    assert get_tags(RETRIEVERS[kind])._skip_test is False
    names = {check.func.__name__ for name, (_, check) in CHECKS.items() if name.startswith(kind)}
    assert len(names) > 40
    assert names >= EXPECTED_FAILED_CHECKS.keys()
    assert len(EXPECTED_FAILED_CHECKS) <= 1
