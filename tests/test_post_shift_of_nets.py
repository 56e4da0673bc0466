"""Post-shift after finetuning: what order, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import make_scorer, recall_score

from sk_metricopt import MetricOptFinetuner, PostShiftClassifier
from tests.nets import binary_classifier, classifier, table, trained

X, Y = table(2)
RARE = np.flatnonzero((Y == 0) | (np.arange(len(Y)) % 3 == 0))  # a third of the second class
X, Y = X[RARE], Y[RARE]
SCORER = make_scorer(recall_score, average="macro")
FEW = {"scoring": SCORER, "random_state": 0, "guard_z": None}


def finetuner(net):
    return MetricOptFinetuner(net, max_observations=10, observation_interval=2, **FEW)


def shifted(estimator):
    return PostShiftClassifier(estimator, max_observations=20, **FEW)


@pytest.mark.parametrize("make", [classifier, binary_classifier])
def test_finetuned_net_is_shifted(make):
    model = shifted(finetuner(make())).fit(X, Y)
    assert model.improved_ and model.n_observations_ <= 20
    assert isinstance(model.estimator_, MetricOptFinetuner)
    weighted = model.estimator_.predict_proba(X) * model.weights_
    np.testing.assert_array_equal(model.predict(X), weighted.argmax(axis=1))


def test_bare_net_is_shifted():
    model = shifted(FrozenEstimator(trained(classifier(), X[:100], Y[:100])))
    model.fit(X[100:].astype(np.float32), Y[100:])
    assert model.initial_score_ == pytest.approx(
        SCORER(model.estimator_, X[100:].astype(np.float32), Y[100:])
    )


@pytest.mark.parametrize("wrap", [lambda model: model, FrozenEstimator])
def test_finetuning_a_shifted_net_is_refused_with_the_right_order(wrap):
    message = r"'estimator' parameter.*PostShiftClassifier.*PostShiftClassifier\(MetricOptFine"
    with pytest.raises(TypeError, match=message):
        finetuner(wrap(shifted(classifier()))).fit(X, Y)
