"""Value guidance in training loops that are not ours."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import nn
from torch.nn.functional import cross_entropy

from sk_metricopt.callbacks import ValueGuidance, add_value_gradient
from sk_metricopt.value_functions import (
    AdapterValueFunction,
    BehaviourValueFunction,
    RetrievalValueFunction,
)
from tests.nets import NormMLP, binary_classifier, classifier, same_weights, table, weights_of

X, Y = table(2, n_rows=600)


def balanced_accuracy_value(n_classes=2) -> BehaviourValueFunction:
    """Fitted to balanced accuracy on random candidates, so that it climbs that."""
    rng = torch.Generator().manual_seed(0)
    y = torch.as_tensor(table(n_classes, n_rows=600)[1])
    onehot = torch.nn.functional.one_hot(y, n_classes)
    scores = torch.randn(60, 600, n_classes, generator=rng)
    scores = scores + 3 * torch.rand(60, 1, n_classes, generator=rng) * onehot
    scores = scores + 2 * torch.randn(60, 1, n_classes, generator=rng)
    right = (scores.argmax(-1) == y).double()
    recalls = torch.stack([right[:, y == k].mean(1) for k in range(n_classes)])
    value = BehaviourValueFunction().start(scores[0], y)
    described = value.describe(torch.zeros(60, 0), scores, y)
    return value.fit(described.numpy(), recalls.mean(0).numpy())


VALUE = balanced_accuracy_value()


def balanced_accuracy(net) -> float:
    decided = net.predict(X)
    return float(np.mean([(decided[k == Y] == k).mean() for k in (0, 1)]))


def trained(callbacks=(), make=classifier, **params):
    torch.manual_seed(0)
    return make(callbacks=list(callbacks) or None, max_epochs=3, **params).fit(X, Y)


# what it adds -----------------------------------------------------------------------------------


def test_training_goes_towards_the_metric():
    assert balanced_accuracy(trained([ValueGuidance(VALUE, X, Y)])) > 0.02 + (
        balanced_accuracy(trained())
    )


@pytest.mark.parametrize("match_norm", [False, True])
def test_the_gradient_added_is_that_of_the_predicted_score(match_norm):
    module = classifier().initialize().module_
    rows, y = torch.as_tensor(X), torch.as_tensor(Y)
    own = torch.autograd.grad(cross_entropy(module(rows), y), list(module.parameters()))
    described = VALUE.describe(torch.zeros(1, 0), module(rows)[None], y)
    value = torch.autograd.grad(VALUE.predict(described).sum(), list(module.parameters()))
    factor = 0.5
    if match_norm:
        factor *= torch.cat([g.flatten() for g in own]).norm()
        factor /= torch.cat([g.flatten() for g in value]).norm()
    cross_entropy(module(rows), y).backward()
    add_value_gradient(module, VALUE, X, Y, guidance_weight=0.5, match_norm=match_norm)
    for parameter, g, v in zip(module.parameters(), own, value, strict=True):
        assert torch.allclose(parameter.grad, g - factor * v, atol=1e-6)


def test_a_skorch_net_and_a_plain_loop_take_the_same_steps():
    torch.manual_seed(0)
    net = classifier(batch_size=-1, max_epochs=5, optimizer=torch.optim.Adam)
    net.set_params(callbacks=[ValueGuidance(VALUE, X, Y)]).initialize()
    module = copy.deepcopy(net.module_)
    net.partial_fit(X, Y)
    optimizer = torch.optim.Adam(module.parameters(), lr=net.lr)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(module(torch.as_tensor(X)), torch.as_tensor(Y)).backward()
        add_value_gradient(module, VALUE, X, Y)
        optimizer.step()
    for one, other in zip(net.module_.parameters(), module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_no_weight_is_no_guidance():
    with_none = trained([ValueGuidance(VALUE, X, Y, guidance_weight=0.0)])
    assert same_weights(with_none.module_, weights_of(trained().module_))


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]
)
def test_any_optimizer_of_one_gradient_a_step_can_be_guided(optimizer):
    net = trained([ValueGuidance(VALUE, X, Y)], optimizer=optimizer, lr=0.01)
    assert dict(net.callbacks_)["ValueGuidance"].n_guided_ == 3 * 19


def test_schedulers_and_clipping_after_it_work_on_the_guided_gradient():
    class Watch(GradientNormClipping):
        lengths: list[float] = []

        def on_grad_computed(self, net, named_parameters, **kwargs):
            super().on_grad_computed(net, named_parameters, **kwargs)
            gradients = [p.grad.flatten() for _, p in named_parameters]
            self.lengths.append(float(torch.cat(gradients).norm()))

    guidance = ValueGuidance(VALUE, X, Y, guidance_weight=100.0)
    scheduler = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)
    trained([guidance, Watch(gradient_clip_value=0.1), scheduler])
    assert max(Watch.lengths) < 0.1001


@pytest.mark.parametrize("flat", [True, False])
def test_a_binary_net_of_one_logit_is_guided(flat):
    torch.manual_seed(0)
    net = binary_classifier(flat=flat, callbacks=[ValueGuidance(VALUE, X, Y)])
    net.fit(X, Y.astype(np.float32))
    assert dict(net.callbacks_)["ValueGuidance"].n_guided_ == 4 * 19


def test_one_logit_of_a_plain_module_is_read_as_two_classes():
    module = nn.Linear(X.shape[1], 1)
    rows = torch.as_tensor(X)
    module(rows).sigmoid().mean().backward()
    before = module.weight.grad.clone()
    add_value_gradient(module, VALUE, X, Y)
    assert not torch.equal(module.weight.grad, before)


def test_embeddings_are_guided_by_what_search_would_find():
    embeddings, y = torch.randn(20, 60, 8), torch.arange(60) % 6
    value = RetrievalValueFunction().start(embeddings[0], y)
    described = value.describe(torch.zeros(20, 0), embeddings, y)
    value.fit(described.numpy(), described[:, 0].double().numpy())
    rows = np.random.RandomState(0).randn(60, 5).astype(np.float32)
    guidance = ValueGuidance(value, rows, y.numpy())
    net = NeuralNet(
        nn.Linear,
        module__in_features=5,
        module__out_features=4,
        criterion=nn.CrossEntropyLoss,
        callbacks=[guidance],
        train_split=None,
        max_epochs=1,
        verbose=0,
    ).fit(rows, y.numpy() % 4)
    assert dict(net.callbacks_)["ValueGuidance"].n_guided_ == 1
    module = nn.Linear(5, 4)
    add_value_gradient(module, value, rows, y)
    assert module.weight.grad.abs().sum() == 0  # as long as a gradient that there is not


def test_of_many_rows_each_class_is_drawn_by_its_share():
    from sk_metricopt.callbacks import _ROWS, _first, _ValueGradient

    y = np.repeat([0, 1], [9000, 1000])
    gradient = _ValueGradient("test", VALUE, np.zeros((10_000, 2)), y, 1.0, True, _first, 0)
    first, second = gradient._draw(), gradient._draw()
    for rows in (first, second):
        assert len(rows.unique()) == _ROWS and abs(y[rows].mean() - 0.1) < 0.002
    assert not torch.equal(first, second)


# what it leaves alone ---------------------------------------------------------------------------


def test_modes_statistics_and_random_streams_stay_as_they_are():
    module = NormMLP()
    module.train()
    module[6].eval()
    before = weights_of(module)
    modes = [m.training for m in module.modules()]
    state = torch.get_rng_state()
    add_value_gradient(module, VALUE, X, Y)
    assert same_weights(module, before)
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_weights_get_no_gradient():
    module = classifier().initialize().module_
    module.hidden.requires_grad_(False)
    cross_entropy(module(torch.as_tensor(X)), torch.as_tensor(Y)).backward()
    add_value_gradient(module, VALUE, X, Y)
    assert module.hidden.weight.grad is None and module.output.weight.grad is not None


def test_a_guided_net_pickles_and_clones():
    from sklearn.base import clone

    net = trained([ValueGuidance(VALUE, X, Y)])
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    assert clone(net).fit(X, Y).predict(X).shape == Y.shape


def test_training_goes_on_with_guidance_after_a_pickle():
    net = pickle.loads(pickle.dumps(trained([ValueGuidance(VALUE, X, Y)])))
    net.partial_fit(X, Y)
    assert dict(net.callbacks_)["ValueGuidance"].n_guided_ == 6 * 19


# traps ------------------------------------------------------------------------------------------


def test_clipping_before_it_is_refused_with_the_order_that_works():
    with pytest.raises(ValueError, match="GradientNormClipping before it. Put ValueGuidance first"):
        trained([GradientNormClipping(1.0), ValueGuidance(VALUE, X, Y)])


def test_lbfgs_is_refused():
    with pytest.raises(ValueError, match="LBFGS, whose line search.*Use SGD, Adam"):
        trained([ValueGuidance(VALUE, X, Y)], optimizer=torch.optim.LBFGS)


def test_a_net_of_accelerate_is_refused():
    net = classifier(callbacks=[ValueGuidance(VALUE, X, Y)])
    net.initialize()
    net.__dict__["accelerator"] = object()
    with pytest.raises(ValueError, match="accelerate.*Train without it"):
        net.partial_fit(X, Y)


@pytest.mark.parametrize("how", ["scaler", "autocast"])
def test_mixed_precision_is_refused(how):
    net = classifier(callbacks=[ValueGuidance(VALUE, X, Y)])
    net.initialize()
    if how == "scaler":
        net.__dict__["scaler"] = torch.amp.GradScaler("cpu")
    with (
        torch.autocast("cpu", enabled=how == "autocast"),
        pytest.raises(ValueError, match="mixed precision.*call add_value_gradient after"),
    ):
        net.partial_fit(X, Y)


def test_a_net_without_callbacks_never_calls_it_and_the_count_tells():
    guidance = ValueGuidance(VALUE, X, Y)
    net = classifier(callbacks=[guidance])
    net.set_params(callbacks="disable")
    net.fit(X, Y)
    assert getattr(guidance, "n_guided_", 0) == 0


def test_an_initialized_net_takes_it_once_its_callbacks_are_initialized():
    net = trained()
    before = weights_of(net.module_)
    net.set_params(callbacks=[ValueGuidance(VALUE, X, Y, guidance_weight=0.0)], lr=0.0)
    net.partial_fit(X, Y)
    assert "ValueGuidance" not in dict(net.callbacks_)  # skorch does not look again
    net.initialize_callbacks().partial_fit(X, Y)
    assert dict(net.callbacks_)["ValueGuidance"].n_guided_ == 3 * 19
    assert same_weights(net.module_, before)


@pytest.mark.parametrize(
    ("value_function", "error", "message"),
    [
        ("auto", TypeError, "must be a fitted value function. Got 'auto'"),
        (None, TypeError, "must be a fitted value function. Got None"),
        (AdapterValueFunction(), TypeError, "AdapterValueFunction, which reads adapter parameters"),
        (BehaviourValueFunction(), ValueError, "must be fitted, and on what the module gives"),
        (balanced_accuracy_value(3), ValueError, "must be fitted, and on what the module gives"),
    ],
    ids=["a name", "none", "adapter", "never fitted", "other classes"],
)
def test_a_value_function_that_cannot_guide_is_named(value_function, error, message):
    with pytest.raises(error, match=f"'value_function' parameter of ValueGuidance.*{message}"):
        trained([ValueGuidance(value_function, X, Y)])
    with pytest.raises(error, match=f"'value_function' parameter of add_value_gradient.*{message}"):
        add_value_gradient(classifier().initialize().module_, value_function, X, Y)


def test_rows_in_double_precision_are_taken_as_the_module_takes_them():
    gradients = []
    for rows, y in ((X, Y), (X.astype(np.float64).tolist(), Y.tolist())):
        torch.manual_seed(0)
        module = nn.Linear(X.shape[1], 2)
        module(torch.as_tensor(X)).sum().backward()
        add_value_gradient(module, VALUE, rows, y)
        gradients.append(module.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (X.astype(str), TypeError, "'X' parameter of .* an array or a tensor of numbers. Got nda"),
        (X[:, :3], ValueError, r"'X' parameter of .* rows that the module takes. Got shape \(600"),
        (np.float32(1), ValueError, "'y' parameter of .* one label per row of X"),
    ],
    ids=["strings", "too few columns", "a number"],
)
def test_rows_that_the_module_cannot_take_are_named(X, error, message):
    with pytest.raises(error, match=message):
        add_value_gradient(nn.Linear(6, 2), VALUE, X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"y": Y[:-1]}, "one label per row of X. Got shape"),
        ({"y": Y + 0.5}, "encoded labels, 0 to n_classes - 1. Got"),
        ({"guidance_weight": -1.0}, "a number that is not negative. Got -1.0"),
        ({"guidance_weight": float("nan")}, "a number that is not negative. Got nan"),
    ],
    ids=["short", "fractions", "negative", "nan"],
)
def test_bad_rows_and_weights_are_named(params, message):
    params = {"X": X, "y": Y} | params
    with pytest.raises(ValueError, match=message):
        trained([ValueGuidance(VALUE, **params)])
