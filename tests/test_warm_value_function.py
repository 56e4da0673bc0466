"""A value function that goes on from what it learned on another net, other rows or other data."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt.metrics import make_retrieval_scorer
from sk_metricopt.value_functions import AdapterValueFunction, BehaviourValueFunction
from tests.nets import CNN, MLP, classifier, images, table, trained

X, Y = table(3, n_rows=400)
X_FIT, Y_FIT, X_VAL, Y_VAL = X[::2], Y[::2], X[1::2], Y[1::2]


def finetuner(net=None, **params) -> MetricOptFinetuner:
    params = {"scoring": "f1_macro", "max_observations": 40, "random_state": 0} | params
    return MetricOptFinetuner(net or classifier(module__n_classes=3), **params)


def fit(net=None, **params) -> MetricOptFinetuner:
    return finetuner(net, **params).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


@pytest.fixture(scope="module")
def learned():
    return fit().value_function_


def warm(value_function, net=None, **params) -> MetricOptFinetuner:
    return fit(net, value_function=value_function, warm_start_value=True, **params)


def test_a_warm_value_function_guides_from_the_first_step(learned):
    model = warm(learned, max_observations=20)
    predicted = model.observations_["predicted_score"]
    cold = fit(max_observations=20).observations_
    explored = cold["phase"] == "explore"
    assert np.isnan(cold["predicted_score"][explored]).all()
    assert not np.array_equal(model.observations_["score"][explored], cold["score"][explored])
    assert np.isfinite(predicted[model.observations_["phase"] == "guide"]).all()


@pytest.mark.parametrize("hidden", [4, 20])
def test_it_changes_to_a_net_of_another_width(learned, hidden):
    model = warm(learned, classifier(module__n_classes=3, module__hidden=hidden))
    assert model.value_function_.expert_ in ("soft metrics", "soft confusion")
    assert model.score(X_VAL, Y_VAL) >= model.initial_score_ - 0.05


def test_it_changes_to_another_architecture_and_other_data(learned):
    pictures, y = images(3, n_rows=240)
    net = classifier(CNN, module__n_classes=3)
    model = finetuner(net, value_function=learned, warm_start_value=True, max_observations=20)
    assert model.fit(pictures, y).predict(pictures).shape == (240,)


def test_the_value_function_passed_is_not_changed(learned):
    before = copy.deepcopy(learned)
    model = warm(learned)
    assert model.value_function_ is not learned
    X = torch.randn(5, sum(before._sizes))
    assert torch.equal(learned.predict(X), before.predict(X))


def test_a_clone_keeps_what_was_learned(learned):
    model = finetuner(value_function=learned, warm_start_value=True)
    copied = clone(model).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    np.testing.assert_array_equal(copied.adapter_params_, warm(learned).adapter_params_)


def test_coefficients_stay_near_what_was_learned_while_little_is_observed():
    rng = np.random.RandomState(0)
    y = torch.arange(90) % 3
    quality = torch.as_tensor(rng.rand(40)).float()[:, None, None]
    noise = torch.as_tensor(rng.randn(40, 90, 3)).float()
    scores = noise + 3 * quality * torch.nn.functional.one_hot(y, 3)
    value = BehaviourValueFunction().start(scores[0], y)
    described = value.describe(torch.zeros(40, 0), scores, y)
    accuracy = (scores.argmax(-1) == y).double().mean(1).numpy()
    value.fit(described.numpy(), accuracy)
    few = described[:4].numpy(), accuracy[:4]
    cold = BehaviourValueFunction().start(scores[1], y).fit(*few)
    value.resume(torch.zeros(0), scores[1], y).fit(*few)

    def error(of):
        return float(np.abs(of.predict(described[4:]).numpy() - accuracy[4:]).mean())

    assert error(value) < error(cold)


def test_before_anything_is_observed_its_slope_is_that_of_before(learned):
    value = copy.deepcopy(learned)
    y = torch.as_tensor(Y_VAL)
    scores = torch.randn(len(y), 3, generator=torch.Generator().manual_seed(0))
    leaf = value.describe(torch.zeros(1, 0), scores[None], y).requires_grad_(True)
    name = value.expert_
    before = value._experts[name].coef_ / value._experts[name].scale_ * value._scale
    value.resume(torch.zeros(0), scores, y)
    gradient = torch.autograd.grad(value.predict(leaf).sum(), leaf)[0][0]
    part = gradient.split(value._sizes)[list(value._experts).index(name)]
    np.testing.assert_allclose(part.numpy(), before, rtol=1e-4, atol=1e-7)


def test_a_retrievers_value_function_changes_to_embeddings_of_another_size():
    scorer = make_retrieval_scorer("recall_at_k", k=1)
    rng = np.random.RandomState(0)
    y = np.repeat(np.arange(20), 8)
    X = (rng.randn(20, 6)[y] + rng.randn(160, 6)).astype(np.float32)

    def retriever(size):
        from skorch import NeuralNet

        net = NeuralNet(
            MLP,
            module__n_classes=size,
            criterion=torch.nn.CrossEntropyLoss,
            max_epochs=1,
            verbose=0,
            train_split=None,
        )
        return EmbeddingRetriever(net)

    first = MetricOptFinetuner(
        retriever(20), scoring=scorer, max_observations=12, random_state=0
    ).fit(X, y)
    second = MetricOptFinetuner(
        retriever(24),
        scoring=scorer,
        max_observations=12,
        random_state=0,
        value_function=first.value_function_,
        warm_start_value=True,
    ).fit(X, y)
    assert second.n_observations_ <= 12


# what cannot be warm ----------------------------------------------------------------------------


class NeverAsked:
    """A scorer that must not be called: what cannot work is found before anything is observed."""

    def __call__(self, estimator, X, y):
        raise AssertionError("an observation was spent")


@pytest.mark.parametrize(
    ("value_function", "message"),
    [
        ("auto", "Got 'auto', which has learned nothing yet"),
        ("adapter", "Got 'adapter', which has learned nothing yet"),
        (BehaviourValueFunction(), "Got a BehaviourValueFunction that was never fitted"),
        (AdapterValueFunction(), "Got an AdapterValueFunction that was never fitted"),
    ],
)
def test_what_has_learned_nothing_cannot_be_warm(value_function, message):
    with pytest.raises(ValueError, match=f"'value_function' parameter.*{message}"):
        warm(value_function, scoring=NeverAsked())


def test_another_number_of_classes_is_refused_before_anything_is_observed(learned):
    X2, y2 = table(2)
    model = finetuner(
        classifier(), scoring=NeverAsked(), value_function=learned, warm_start_value=True
    )
    with pytest.raises(ValueError, match="one of 3 classes for 2 classes"):
        model.fit(X2, y2)


def test_adapter_parameters_of_another_length_are_refused_before_anything_is_observed():
    rng = np.random.RandomState(0)
    value = AdapterValueFunction(2, n_steps=5).fit(rng.randn(12, 7), rng.rand(12))
    with pytest.raises(ValueError, match="7 adapter parameters for a net with 22 of them"):
        warm(value, scoring=NeverAsked())


def test_adapter_parameters_of_the_same_net_can_be_gone_on_from():
    net = FrozenEstimator(trained(classifier(module__n_classes=3), X_FIT, Y_FIT))
    first = fit(net, value_function=AdapterValueFunction(2, n_steps=20), max_observations=24)
    second = warm(first.value_function_, net, max_observations=24, random_state=1)
    assert second.value_function_.n_params_ == len(second.adapter_params_)


def test_a_class_without_resume_is_named():
    class OnlyCold(BehaviourValueFunction):
        from sk_metricopt.value_functions import BaseValueFunction as _Base

        resume = _Base.resume

    with pytest.raises(ValueError, match="OnlyCold, which has no method 'resume'"):
        warm(OnlyCold(), scoring=NeverAsked())
