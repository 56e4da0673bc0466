"""Adapters: what is computed in batches is what is folded, for every host and module."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._skorch import NetBridge, net_around
from sk_metricopt.adapters import BaseAdapter, FiLMAdapter, WeightAdapter
from sk_metricopt.exceptions import AdapterError
from sk_metricopt.exploration import BaseExploration, PortfolioExploration, Recipe
from sk_metricopt.testing import check_adapter, check_exploration, check_value_function
from sk_metricopt.value_functions import BaseValueFunction, BehaviourValueFunction
from tests import nets
from tests.nets import same_weights, weights_of

HOSTS = {
    "Linear": (nn.Linear(6, 5), (6,)),
    "Linear on sequences": (nn.Linear(6, 5), (4, 6)),
    "Linear without bias": (nn.Linear(6, 5, bias=False), (6,)),
    "Conv1d": (nn.Conv1d(2, 5, 3), (2, 8)),
    "Conv2d": (nn.Conv2d(2, 5, 3, stride=2), (2, 8, 8)),
    "Conv2d without bias, grouped": (nn.Conv2d(4, 4, 3, groups=2, bias=False), (4, 8, 8)),
    "Conv3d": (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "BatchNorm1d": (nn.BatchNorm1d(6), (6,)),
    "BatchNorm1d on sequences": (nn.BatchNorm1d(3), (3, 6)),
    "BatchNorm2d": (nn.BatchNorm2d(3), (3, 4, 4)),
    "BatchNorm2d without affine": (nn.BatchNorm2d(3, affine=False), (3, 4, 4)),
    "BatchNorm3d": (nn.BatchNorm3d(3), (3, 2, 2, 2)),
    "LayerNorm": (nn.LayerNorm(6), (6,)),
    "LayerNorm without bias": (nn.LayerNorm(6, bias=False), (6,)),
    "LayerNorm without affine": (nn.LayerNorm(6, elementwise_affine=False), (6,)),
    "LayerNorm of two axes": (nn.LayerNorm((3, 4)), (3, 4)),
    "GroupNorm": (nn.GroupNorm(2, 4), (4, 4, 4)),
    "GroupNorm without affine": (nn.GroupNorm(2, 4, affine=False), (4, 4, 4)),
    "InstanceNorm1d": (nn.InstanceNorm1d(3), (3, 6)),
    "InstanceNorm2d": (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    "InstanceNorm3d": (nn.InstanceNorm3d(3, track_running_stats=True), (3, 2, 2, 2)),
}


class OwnLinear(nn.Linear):
    """What users derive from torch's layers."""


class CosineLinear(nn.Linear):
    """A weight scaled by (1 + gamma) is here not an output scaled by (1 + gamma)."""

    def forward(self, X):
        return nn.functional.linear(X, nn.functional.normalize(self.weight, dim=1), self.bias)


class Chain(nn.Module):
    """Any first layer, then a norm-free head."""

    def __init__(self, first):
        super().__init__()
        self.first, self.output = first, nn.Linear(first.out_features, 3)

    def forward(self, X):
        return self.output(torch.tanh(self.first(X)))


class Branching(nets.MLP):
    """Control flow that hangs on the data."""

    def forward(self, X):
        return super().forward(X if len(X) and bool(X.isfinite().all()) else torch.zeros_like(X))


class Residual(nn.Module):
    """Two hosts side by side, one called twice, and the input once more at the end."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.norm, self.output = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, X):
        H = self.norm(torch.relu(self.left(X)) + self.right(X))
        return self.output(self.norm(H) + X)


class Tied(nn.Module):
    """One weight in two layers, and read by hand in a third place."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(6, 6), nn.Linear(6, 6)
        self.output.weight = self.hidden.weight

    def forward(self, X):
        return self.output(torch.tanh(self.hidden(X)))[:, :3] + (X @ self.hidden.weight)[:, :3]


class ReadsEntry(Tied):
    """The weight of a host is read before the host runs."""

    def forward(self, X):
        extra = nn.functional.linear(X, self.hidden.weight)
        return self.output(torch.tanh(self.hidden(X) + extra))[:, :3]


class Transformer(nn.Module):
    """Hosts inside a layer of torch that runs as one."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.output = nn.Linear(6, 3)

    def forward(self, X):
        return self.output(self.encoder(X[:, None]).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Linear(6, 6), nn.LSTM(6, 5, batch_first=True)
        self.output = nn.Linear(5, 3)

    def forward(self, X):
        return self.output(self.lstm(self.first(X)[:, None])[0][:, -1])


class SizeFirst(nets.MLP):
    """A number of rows that is read before the first layer."""

    def forward(self, X):
        n_rows = X.size(0)
        return super().forward(X).view(n_rows, -1)


class Len(nets.MLP):
    """What torch.fx cannot trace."""

    def forward(self, X):
        return super().forward(X).view(len(X), -1)


class TupleOutput(nets.MLP):
    def forward(self, X):
        output = super().forward(X)
        return output, output.mean()


class WeightNormed(Chain):
    def __init__(self):
        super().__init__(parametrizations.weight_norm(nn.Linear(6, 5)))


MODULES = {
    "mlp": lambda: nets.MLP(n_classes=3),
    "softmax at the end": lambda: nets.MLP(n_classes=3, softmax=True),
    "norms and dropout": lambda: nets.NormMLP(n_classes=3),
    "one logit": nets.BinaryNet,
    "column of logits": lambda: nets.BinaryNet(flat=False),
    "own subclass of Linear": lambda: Chain(OwnLinear(6, 5)),
    "own forward in a Linear": lambda: Chain(CosineLinear(6, 5)),
    "data-dependent": lambda: Branching(n_classes=3),
    "residual": Residual,
    "tied": Tied,
    "weight read elsewhere": ReadsEntry,
    "transformer": Transformer,
    "recurrent": Recurrent,
    "size first": lambda: SizeFirst(n_classes=3),
    "len": lambda: Len(n_classes=3),
    "tuple output": lambda: TupleOutput(n_classes=3),
    "weight norm": WeightNormed,
    "cnn": lambda: nets.CNN(3),
    "view": lambda: nets.ViewCNN(3),
    "conv1d": lambda: nets.Conv1dNet(3),
    "embedding": lambda: nets.TokenNet(3),
}
WHOLE = {"data-dependent", "transformer", "size first", "len"}  # stay in one piece
LOOPED = {"data-dependent", "transformer", "recurrent"}  # vmap cannot run them


def rows_for(name, n_rows=20):
    rng = np.random.default_rng(0)
    if name == "embedding":
        return rng.integers(0, 10, size=(n_rows, 5))
    shape = {"cnn": (2, 8, 8), "view": (2, 8, 8), "conv1d": (3, 8)}.get(name, (6,))
    return rng.normal(size=(n_rows, *shape)).astype(np.float32)


def trained(module, X):
    """The module in eval mode, with weights and statistics that are not those of its birth."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and "running_var" not in name:
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return module.eval()


def adapt(module, X, targets="all", adapter=None):
    bridge = NetBridge(net_around(module, X))
    return AdaptedNet(bridge, adapter or FiLMAdapter(), targets, X)


def random_phi(adapted, n=3):
    generator = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(n, adapted.n_params, generator=generator)


def folded_scores(adapted, phi, X):
    module = adapted.fold(phi).eval()
    with torch.no_grad():
        return adapted.bridge.outputs(module(torch.as_tensor(X)))


def check_folded_is_functional(adapted, X, vmaps=(True, False)):
    phi, encoded = random_phi(adapted), adapted.encode(X)
    expected = torch.stack([folded_scores(adapted, p, X) for p in phi])
    assert expected[0].sub(expected[1]).abs().max() > 1e-3
    for vmap in vmaps:
        adapted.plan = dataclasses.replace(adapted.plan, vmap=vmap, chunk=7)
        torch.testing.assert_close(adapted.outputs(phi, encoded), expected, atol=2e-5, rtol=1e-4)
        rows = torch.stack([torch.arange(5), torch.arange(5, 10), torch.arange(3, 8)])
        each = adapted.outputs_each(phi, encoded.take(rows))
        wanted = torch.stack([e[r] for e, r in zip(expected, rows, strict=True)])
        torch.testing.assert_close(each, wanted, atol=2e-5, rtol=1e-4)


def check_zero_is_the_identity(adapted, X):
    expected = adapted.bridge.outputs(adapted.bridge.module.eval()(torch.as_tensor(X))).detach()
    zero = torch.zeros(1, adapted.n_params)
    torch.testing.assert_close(adapted.outputs(zero, adapted.encode(X))[0], expected)
    torch.testing.assert_close(folded_scores(adapted, zero[0], X), expected)


def gradient(adapted, phi, encoded):
    phi = phi.clone().requires_grad_(True)
    return torch.autograd.grad(adapted.outputs(phi, encoded).sin().sum(), phi)[0]


def gradient_by_the_whole_module(adapted, phi, X):
    """Without a prefix, without vmap: weights that hang on φ in the module as it is folded."""
    module = adapted.fold(torch.zeros(adapted.n_params)).eval().requires_grad_(False)
    phi, total = phi.clone().requires_grad_(True), 0
    for one in phi:
        weights = {
            f"{name}.{key}": value
            for name, part in adapted._slices.items()
            for key, value in adapted.adapter.weights(module.get_submodule(name), one[part]).items()
        }
        output = functional_call(module, weights, (torch.as_tensor(X),), tie_weights=False)
        total = total + adapted.bridge.outputs(output).sin().sum()
    return torch.autograd.grad(total, phi)[0]


@pytest.mark.parametrize("name", HOSTS)
def test_film_on_a_host_folds_to_what_it_computes(name):
    host, shape = HOSTS[name]
    X = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    head = [nn.Flatten(), nn.LazyLinear(3)]
    module = nn.Sequential(host, nn.Tanh(), *head).eval()
    module(torch.as_tensor(X))
    module = trained(module, X)
    adapted = adapt(module, X, ["0"])

    assert adapted.hosts == ["0"]
    assert list(adapted._split.entries) == ["0"], "the host's own output is computed once"
    check_zero_is_the_identity(adapted, X)
    check_folded_is_functional(adapted, X)
    check_adapter(FiLMAdapter(), host, torch.as_tensor(X))
    check_folded_is_functional(adapt(module, X, "all"), X)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning")
def test_module_with_other_weights_folds_to_what_it_computes(name):
    X = rows_for(name)
    adapted = adapt(trained(MODULES[name](), X), X, "all", WeightAdapter())
    check_zero_is_the_identity(adapted, X)
    check_folded_is_functional(adapted, X, (False,) if name in LOOPED else (True, False))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning")
def test_module_folds_to_what_it_computes(name):
    X = rows_for(name)
    module = trained(MODULES[name](), X)
    before = weights_of(module)
    for targets in ("auto", "all"):
        adapted = adapt(module, X, targets)
        assert not (adapted.plan.vmap and name in LOOPED)
        assert (adapted._split.prefix is None) == (name in WHOLE)
        check_zero_is_the_identity(adapted, X)
        check_folded_is_functional(adapted, X, (False,) if name in LOOPED else (True, False))
    assert same_weights(module, before) and not module.training


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning")
def test_gradients_are_those_of_the_whole_module(name):
    X = rows_for(name, 8)
    adapted = adapt(trained(MODULES[name](), X), X)
    encoded, phi = adapted.encode(X), random_phi(adapted)
    expected = gradient_by_the_whole_module(adapted, phi, X)
    for vmap in (True, False) if name not in LOOPED else (False,):
        adapted.plan = dataclasses.replace(adapted.plan, vmap=vmap)
        found = gradient(adapted, phi, encoded)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "weight norm"])
def test_folded_module_is_of_the_same_class_without_hooks_or_wrappers(name):
    X = rows_for(name)
    module = trained(MODULES[name](), X)
    adapted = adapt(module, X)
    folded = adapted.fold(random_phi(adapted)[0])
    layers = {key: layer for key, layer in module.named_modules() if "parametrizations" not in key}
    if name != "weight norm":  # whose layers are of a class of their own
        assert {key: type(layer) for key, layer in folded.named_modules()} == {
            key: type(layer) for key, layer in layers.items()
        }
    assert dict(folded.named_modules()).keys() == layers.keys()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in folded.modules())
    assert all(p.requires_grad and p.is_leaf for p in folded.parameters())


class Counting(nn.Module):
    """A trunk that counts its rows; torch.fx takes it apart, so the count is an operator's."""

    rows = 0

    @staticmethod
    def count(X):
        Counting.rows += len(X)
        return X


torch.fx.wrap("count_rows")


def count_rows(X):
    return Counting.count(X)


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.hidden = nn.Linear(6, 6), nn.Linear(6, 6)
        self.output = nn.Linear(6, 3)

    def forward(self, X):
        X = count_rows(torch.relu(self.trunk(X)))
        return self.output(torch.relu(self.hidden(X)))


@pytest.mark.parametrize("targets", [["hidden", "output"], ["output"]])
def test_frozen_prefix_runs_once(targets):
    X = rows_for("mlp")
    adapted = adapt(trained(Trunk(), X), X, targets)
    assert adapted.hosts == targets
    assert list(adapted._split.entries) == targets[:1]
    encoded = adapted.encode(X)
    Counting.rows = 0
    for _ in range(3):
        adapted.outputs(random_phi(adapted), encoded)
        gradient(adapted, random_phi(adapted), encoded)
    assert Counting.rows == 0
    adapted.encode(X)
    assert Counting.rows == len(X)


def test_auto_targets_leave_out_what_feeds_a_norm_and_all_but_the_last_stage():
    X = rows_for("cnn")
    assert adapt(nets.CNN(3).eval(), X, "auto").hosts == ["norm2", "output"]
    assert adapt(nets.CNN(3).eval(), X, "all").hosts == [
        *("conv1", "norm1", "conv2", "norm2", "output")
    ]
    assert adapt(nets.NormMLP(n_classes=3).eval(), rows_for("mlp"), "auto").hosts == ["1", "4", "7"]


class LinearAdapter(WeightAdapter):
    """Increments of linear layers, and of nothing that normalises."""

    host_types = (nn.Linear,)


def test_a_layer_that_feeds_a_norm_is_left_out_only_where_the_norm_can_do_the_same():
    module, X = nets.NormMLP(n_classes=3).eval(), rows_for("mlp")
    adapters = [FiLMAdapter(), WeightAdapter(), LinearAdapter()]
    hosts = {
        type(adapter).__name__: adapt(module, X, "auto", adapter).hosts for adapter in adapters
    }
    assert hosts["FiLMAdapter"] == ["1", "4", "7"]
    assert hosts["WeightAdapter"] == ["0", "1", "3", "4", "7"]
    assert hosts["LinearAdapter"] == ["0", "3", "7"]
    cnn = adapt(nets.CNN(3).eval(), rows_for("cnn"), "auto", WeightAdapter())
    assert cnn.hosts == ["norm2", "output"]


@pytest.mark.parametrize(
    "targets, hosts",
    [
        (["output"], ["output"]),
        (["conv*"], ["conv1", "conv2"]),
        (["output", "norm?"], ["norm1", "norm2", "output"]),
        (["*1", "conv1"], ["conv1", "norm1"]),
    ],
)
def test_adapter_targets_are_names_and_patterns(targets, hosts):
    assert adapt(nets.CNN(3).eval(), rows_for("cnn"), targets).hosts == hosts


def test_adapter_targets_that_match_nothing_are_named_with_what_there_is():
    with pytest.raises(AdapterError, match=r"\['conv9', 'x\*'\] match no host.*'conv1', 'norm1'"):
        adapt(nets.CNN(3).eval(), rows_for("cnn"), ["conv9", "output", "x*"])


def test_module_without_a_host_is_refused_with_the_types_looked_for():
    with pytest.raises(AdapterError, match="Linear, Conv1d.*LayerNorm.*Got Hostless with none"):
        adapt(nets.Hostless(n_classes=3), rows_for("mlp"))


def test_shift_params_add_a_shift_to_the_log_scores():
    X = rows_for("mlp")
    for module, n_classes in ((nets.MLP(n_classes=3), 3), (nets.BinaryNet(), 2)):
        adapted = adapt(trained(module, X), X)
        encoded, phi = adapted.encode(X), random_phi(adapted, 1)
        shift = torch.arange(1.0, n_classes + 1)
        moved = adapted.outputs(phi + adapted.shift_params(shift), encoded)
        expected = (adapted.outputs(phi, encoded) + shift).softmax(-1)
        torch.testing.assert_close(moved.softmax(-1), expected)


# contracts for extenders ------------------------------------------------------------------------


class ScaleOnly(BaseAdapter):
    """The least an adapter is: weights and their number."""

    host_types = (nn.Linear,)

    def n_params(self, host):
        return host.out_features

    def weights(self, host, params):
        return {"weight": (1 + params)[:, None] * host.weight}


class NotIdentity(ScaleOnly):
    def weights(self, host, params):
        return {"weight": (2 + params)[:, None] * host.weight}


class Deaf(ScaleOnly):
    def weights(self, host, params):
        return {"weight": host.weight + 0 * params.sum()}


class Detached(ScaleOnly):
    def weights(self, host, params):
        return super().weights(host, params.detach())


class WrongShape(ScaleOnly):
    def weights(self, host, params):
        return {"weight": super().weights(host, params)["weight"][:1]}


class Inventive(ScaleOnly):
    def weights(self, host, params):
        return {"scale": 1 + params}


class Empty(ScaleOnly):
    def n_params(self, host):
        return 0


class WrongModulation(ScaleOnly):
    def modulate(self, host, output, params):
        return (1 + params) * output  # forgets that the bias is not scaled


class Meddling(ScaleOnly):
    def prepare(self, host):
        host.weight.data += 1


class Branchy(ScaleOnly):
    def weights(self, host, params):
        return super().weights(host, params if bool(params.sum() > -9) else -params)


@pytest.mark.parametrize("host", [nn.Linear(3, 2), nn.Linear(3, 2, bias=False), nn.LayerNorm(3)])
def test_a_weight_adapter_reaches_every_weight(host):
    adapter = WeightAdapter(scale=0.5)
    check_adapter(adapter, host, torch.randn(5, 3))
    adapter.prepare(host)
    moved = adapter.weights(host, torch.ones(adapter.n_params(host)))
    for name, weight in host.named_parameters():
        torch.testing.assert_close(moved[name], weight + 0.5)
    shift = torch.arange(float(len(host.bias)))
    shifted = adapter.weights(host, adapter.output_shift(host, shift))
    torch.testing.assert_close(shifted["bias"], host.bias + shift)
    torch.testing.assert_close(shifted["weight"], host.weight)


def test_check_adapter_passes_adapters_that_keep_the_contract():
    check_adapter(ScaleOnly(), nn.Linear(3, 2), torch.randn(5, 3))
    for training in (True, False):
        host = nn.BatchNorm1d(3).train(training)
        check_adapter(FiLMAdapter(), host, torch.randn(5, 3))
        assert host.training is training and host.num_batches_tracked == 0


@pytest.mark.parametrize(
    "adapter, message",
    [
        (NotIdentity(), "zero is the identity"),
        (Deaf(), "other parameters change the output"),
        (Detached(), "differentiable"),
        (WrongShape(), "keeps the shape of 'weight'"),
        (Inventive(), "replaces parameters the host has"),
        (Empty(), "n_params is a positive int"),
        (WrongModulation(), "modulate gives what the host gives"),
        (Meddling(), "prepare does not change"),
        (Branchy(), "vmap"),
        (object(), "derives from BaseAdapter"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_check_adapter_names_what_is_broken(adapter, message):
    with pytest.raises(AssertionError, match=message):
        check_adapter(adapter, nn.Linear(3, 2), torch.randn(5, 3))


def test_own_adapter_runs_without_a_cached_host():
    X = rows_for("mlp")
    adapted = adapt(trained(nets.MLP(n_classes=3), X), X, adapter=ScaleOnly())
    assert not adapted._split.entries
    check_zero_is_the_identity(adapted, X)
    check_folded_is_functional(adapted, X)


class MeanValue(BaseValueFunction):
    """Accuracy, as the mean probability of the right class: needs no fit."""

    def start(self, scores, y):
        return self

    def describe(self, adapter_params, scores, y):
        right = scores.softmax(-1)[:, torch.arange(len(y)), y]
        return right.mean(1, keepdim=True)

    def fit(self, descriptors, observed):
        return self

    def predict(self, descriptors):
        return descriptors[:, 0]


class Backwards(MeanValue):
    def predict(self, descriptors):
        return -descriptors[:, 0]


class Rigid(MeanValue):
    def predict(self, descriptors):
        return descriptors.detach()[:, 0]


class TwoFaced(MeanValue):
    def predict(self, descriptors):
        return descriptors[:, 0] + torch.rand(len(descriptors))


class Flat(MeanValue):
    def describe(self, adapter_params, scores, y):
        return super().describe(adapter_params, scores, y)[:, 0]


class Infinite(MeanValue):
    def describe(self, adapter_params, scores, y):
        return super().describe(adapter_params, scores, y) / 0


class Silent(MeanValue):
    def fit(self, descriptors, observed):
        return None


@pytest.mark.parametrize("value_function", [MeanValue(), BehaviourValueFunction()])
def test_check_value_function_passes_those_that_keep_the_contract(value_function):
    check_value_function(value_function)


@pytest.mark.parametrize(
    "value_function, message",
    [
        (Backwards(), "follow the score of unseen candidates"),
        (Rigid(), "differentiable"),
        (TwoFaced(), "same prediction"),
        (Flat(), "one row per candidate"),
        (Infinite(), "finite"),
        (Silent(), "fit returns the value function"),
        (object(), "derives from BaseValueFunction"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_check_value_function_names_what_is_broken(value_function, message):
    with pytest.raises(AssertionError, match=message):
        check_value_function(value_function)


class OneRecipe(BaseExploration):
    def __init__(self, *recipes):
        self.given = list(recipes)

    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return self.given


class Restless(BaseExploration):
    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return [Recipe(balance=np.random.uniform())]


@pytest.mark.parametrize("exploration", [OneRecipe(Recipe()), PortfolioExploration()])
def test_check_exploration_passes_those_that_keep_the_contract(exploration):
    check_exploration(exploration)


@pytest.mark.parametrize(
    "exploration, message",
    [
        (OneRecipe(), "at least one recipe"),
        (OneRecipe(Recipe(validation_share=0.5)), "labels may not be used"),
        (OneRecipe(Recipe(validation_share=-1.0)), "validation_share is in"),
        (OneRecipe(Recipe(class_weight=(1.0,))), "one factor per class"),
        (OneRecipe("natural"), "Recipe objects"),
        (Restless(), "same random state"),
        (object(), "derives from BaseExploration"),
    ],
)
def test_check_exploration_names_what_is_broken(exploration, message):
    with pytest.raises(AssertionError, match=message):
        check_exploration(exploration)
