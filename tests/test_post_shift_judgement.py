"""What post-shift elicits from observations, and that its judgement has not seen what it judges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import make_scorer

from sk_metricopt import PostShiftClassifier
from sk_metricopt._elicitation import Confusions, elicited
from sk_metricopt._post_shifting import FrankWolfe


class Given(ClassifierMixin, BaseEstimator):
    """Has the rows themselves for probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


def drawn(n, prior, seed):
    """Labels, and their true probabilities."""
    rng = np.random.RandomState(seed)
    y = rng.choice(len(prior), n, p=prior)
    proba = prior * np.exp(np.eye(len(prior))[y] + rng.randn(n, len(prior)))
    return proba / proba.sum(axis=1, keepdims=True), y


def f1_of_last(y, decided):
    hits = np.count_nonzero((y == y.max()) & (decided == y.max()))
    total = np.count_nonzero(y == y.max()) + np.count_nonzero(decided == y.max())
    return 2 * hits / total


def macro_f1(y, decided):
    counts = np.zeros((3, 3))
    np.add.at(counts, (y, decided), 1)
    return float((2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).mean())


PRIOR = {2: np.array([0.9, 0.1]), 3: np.array([0.7, 0.2, 0.1])}
METRIC = {2: f1_of_last, 3: macro_f1}


def shifted(n, n_classes, seed, **params):
    proba, y = drawn(n, PRIOR[n_classes], seed)
    estimator = FrozenEstimator(Given().fit(proba, y))
    scoring = make_scorer(METRIC[n_classes])
    return PostShiftClassifier(estimator, scoring=scoring, random_state=seed, **params).fit(
        proba, y
    )


# judgement --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_row_is_judged_by_one_search_that_was_not_given_it(n_classes, monkeypatch):
    searched = []
    init = FrankWolfe.__init__

    def watched(self, answers, scoring, *args):
        assert len(scoring.rows) == len(answers.y)
        searched.append(set(answers.draws))
        init(self, answers, scoring, *args)

    monkeypatch.setattr(FrankWolfe, "__init__", watched)
    shifted(160, n_classes, 0, max_observations=12)
    everything, *parts = searched
    assert len(everything) == 160 and len(parts) == 8
    missing = [everything - part for part in parts]
    assert all(part < everything for part in parts)
    assert sum(map(len, missing)) == 160 and set.union(*missing) == everything


@pytest.mark.parametrize("n_classes", [2, 3])
def test_judged_gain_is_that_of_fresh_rows_on_average(n_classes):
    fresh, y = drawn(20_000, PRIOR[n_classes], 1000)
    metric, excess = METRIC[n_classes], []
    for seed in range(16):
        model = shifted(150, n_classes, seed, guard_z=None, max_observations=20)
        true = metric(y, model.predict(fresh)) - metric(y, fresh.argmax(axis=1))
        excess.append(model.score_gain_ - true)
    assert np.mean(excess) < 2 * np.std(excess) / np.sqrt(len(excess))


# elicitation ------------------------------------------------------------------------------------

WORTH = np.array([1.0, 3.0, 8.0])  # of a hit of each class
COSTS = np.array([[0.0, 1.0, 4.0], [2.0, 0.0, 1.0], [9.0, 3.0, 0.0]])


def observed(value, n=40):
    """Confusion matrices of some weights, and what a metric says of them."""
    proba, y = drawn(5000, PRIOR[3], 0)
    cells = Confusions(y, np.ones((len(y), 1)), 3)
    rng = np.random.RandomState(0)
    weights = np.exp(0.5 * rng.randn(n, 1, 3)) * (np.eye(3) + 0.1 * rng.randn(n, 3, 3))
    decided = [(proba @ w).argmax(axis=1) for w in weights]
    scores = np.array([value(y, d) for d in decided])
    return np.stack([cells.of(d) for d in decided]), scores, cells.prior


def test_metric_of_hits_asks_for_what_a_hit_is_worth():
    confusions, scores, prior = observed(lambda y, d: (WORTH[y] * (y == d)).mean())
    found = elicited(confusions, scores, prior, np.ones((1, 3)), with_offsets=False)
    assert found.log_scale[0] - found.log_scale[0, 2] == pytest.approx(
        np.log(WORTH / WORTH[2]), abs=0.05
    )


def test_costs_of_errors_ask_for_decisions_of_least_cost():
    confusions, scores, prior = observed(lambda y, d: -COSTS[y, d].mean())
    proba, y = drawn(20_000, PRIOR[3], 1)

    def cost(with_offsets):
        found = elicited(confusions, scores, prior, np.ones((1, 3)), with_offsets)
        decided = found.decide(proba, np.ones((len(y), 1)), np.zeros(len(y)))[1]
        return COSTS[y, decided].mean()

    least = COSTS[y, (proba @ COSTS).argmin(axis=1)].mean()
    assert cost(True) < least + 0.01
    assert cost(False) > least + 0.1


def test_metric_that_never_moved_leaves_the_weights_of_balanced_classes():
    confusions, _, prior = observed(lambda y, d: 0.0)
    found = elicited(confusions, np.zeros(len(confusions)), prior, np.ones((1, 3)), False)
    expected = -np.log(prior[0])
    assert found.log_scale[0] - found.log_scale[0, 0] == pytest.approx(expected - expected[0])


def test_class_that_no_row_shows_keeps_its_weight():
    confusions, scores, prior = observed(lambda y, d: (WORTH[y] * (y == d) * (y < 2)).mean())
    confusions[:, :, 2], prior = 0, prior * [1, 1, 0]
    scale = np.array([[0.2, 0.2, 1.0]])
    found = np.exp(elicited(confusions, scores, prior, scale, with_offsets=False).log_scale[0])
    assert found[2] == pytest.approx(5 * found[:2].mean())
    assert found[1] / found[0] == pytest.approx(3, rel=0.1)
