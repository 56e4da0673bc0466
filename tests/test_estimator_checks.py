"""scikit-learn's own checks of what an estimator has to do."""

from __future__ import annotations

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from tests.embedding_nets import adaptive_embedder
from tests.nets import adaptive_binary_classifier, adaptive_classifier

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": (
        "float32 kernels round by batch size: up to 2e-7, where 1e-7 is allowed"
    ),
}
EXPECTED_FAILED_CHECKS_OF = {
    "post shift, randomized": {
        "check_classifiers_train": "decisions are drawn: a row's is not always its likeliest",
    },
}


def accuracy(estimator, X, y):
    """As scikit-learn's, in a hundredth of the time."""
    return float((estimator.predict(X) == y).mean())


def make_finetuner(net, scoring=accuracy):
    """A finetuner of a net that adapts to any table, made to be fast."""
    few = {"max_observations": 12, "observation_interval": 2, "lr": 0.05}
    return MetricOptFinetuner(net, scoring=scoring, guard_z=None, random_state=0, **few)


def make_post_shift(**params):
    """A classifier whose weights change, guard or not, made to be fast."""
    few = {"scoring": accuracy, "max_observations": 7, "guard_z": None, "random_state": 0}
    return PostShiftClassifier(LogisticRegression(), **few, **params)


def name_of(check):
    return check.func.__name__ + "".join(f"-{value}" for value in check.keywords.values())


FINETUNERS = {
    "classifier": make_finetuner(adaptive_classifier(max_epochs=8, lr=0.3, module__hidden=16)),
    "binary": make_finetuner(adaptive_binary_classifier(max_epochs=8, lr=0.3)),
    "retriever": make_finetuner(EmbeddingRetriever(adaptive_embedder(max_epochs=1)), None),
}
RETRIEVERS = {
    metric: EmbeddingRetriever(adaptive_embedder(max_epochs=2), metric=metric, random_state=0)
    for metric in ("cosine", "euclidean")
}
POST_SHIFTS = {
    "post shift": make_post_shift(weighting="full"),
    "post shift, out of fold": make_post_shift(cv=3),
    "post shift, randomized": make_post_shift(randomized=True),
}
ESTIMATORS = FINETUNERS | RETRIEVERS | POST_SHIFTS
CHECKS = {
    f"{kind}-{name_of(check)}": (kind, estimator, check)
    for kind, checked in ESTIMATORS.items()
    for estimator, check in estimator_checks_generator(checked)
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_of_scikit_learn(name, request):
    kind, estimator, check = CHECKS[name]
    expected = EXPECTED_FAILED_CHECKS | EXPECTED_FAILED_CHECKS_OF.get(kind, {})
    reason = expected.get(check.func.__name__)
    if reason:  # it hangs on the processor's kernels whether such a check fails
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=False))
    check(estimator)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_checks_of_scikit_learn_are_not_skipped(kind):
    assert get_tags(ESTIMATORS[kind])._skip_test is False
    names = {check.func.__name__ for of, _, check in CHECKS.values() if of == kind}
    assert len(names) > 40
    expected = EXPECTED_FAILED_CHECKS_OF.get(kind, {}).keys()
    if not get_tags(ESTIMATORS[kind]).non_deterministic:  # of these it is not asked
        expected |= EXPECTED_FAILED_CHECKS.keys()
    assert names >= expected
    assert len(EXPECTED_FAILED_CHECKS) <= 1
