"""The bridge to skorch: the only room that knows what a net looks like inside."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

_CALLER = "MetricOptFinetuner"
_TINY = 1e-12  # probabilities below this have the log-score of this


class Bridge:
    """What every fitted skorch net has.

    Parameters
    ----------
    net : skorch.NeuralNet
        A fitted net; it is read, never written.
    """

    def __init__(self, net: NeuralNet):
        self.net = net
        self.module: nn.Module = net.module_

    @property
    def device(self) -> torch.device:
        """Where the net computes."""
        return device_of(self.module)

    def tensor(self, X: np.ndarray) -> Tensor:
        """Return a copy of `X` on the net's device; modules may write into their input."""
        return torch.tensor(np.ascontiguousarray(X), device=self.device)  # no negative strides

    def with_module(self, module: nn.Module) -> NeuralNet:
        """Return a net like this one around `module`, with an optimizer for its weights."""
        net = object.__new__(type(self.net))
        net.__dict__ = {**self.net.__dict__, "module_": module}
        net.initialize_optimizer()
        return net


class NetBridge(Bridge):
    """What the engine needs of a fitted skorch classifier net.

    Parameters
    ----------
    net : skorch.NeuralNetClassifier or skorch.NeuralNetBinaryClassifier
        A fitted net; it is read, never written.
    """

    def __init__(self, net: NeuralNetClassifier):
        super().__init__(net)
        self.binary = isinstance(net, NeuralNetBinaryClassifier)
        self._nonlinearity = net._get_predict_nonlinearity()
        self._head = self._infer_head()

    def _infer_head(self) -> str:
        """Return whether the module's outputs are logits, one logit, or need the nonlinearity."""
        criterion = getattr(self.net.criterion_, "_orig_mod", self.net.criterion_)
        if self.net.predict_nonlinearity == "auto":
            if isinstance(criterion, nn.CrossEntropyLoss):
                return "logits"
            if isinstance(criterion, nn.BCEWithLogitsLoss):
                return "logit"
        return "probabilities"

    def outputs(self, output: Any) -> Tensor:
        """Return log-scores (n, K) whose softmax is the net's ``predict_proba``."""
        output = self._first(output)
        if self._head == "logits":
            return output
        if self._head == "logit":
            return torch.stack([torch.zeros_like(output), output], dim=1)
        return self._nonlinearity(output).clamp_min(_TINY).log()

    def proba(self, output: Any) -> Tensor:
        """Return the net's ``predict_proba`` of the module's output."""
        return self._nonlinearity(self._first(output))

    def _first(self, output: Any) -> Tensor:
        """The output that counts; a binary net's as one logit per row, as skorch takes it."""
        output = output[0] if isinstance(output, tuple) else output
        return output.reshape(len(output)) if self.binary and output.dim() == 2 else output

    def decide(self, proba: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Return the index of the class that the net would predict."""
        if self.binary:
            decided = proba[..., 1] > self.net.threshold
            return decided.astype(np.intp) if isinstance(decided, np.ndarray) else decided.long()
        return proba.argmax(-1)

    def check_output(self, X: np.ndarray, n_classes: int) -> None:
        """Raise ValueError unless the net gives one probability per class for a few rows."""
        check_class_output(output_of(self.module, self.tensor(X[:8])), len(X[:8]))
        self._check_gradient(X)
        proba = self.proba(output_of(self.module, self.tensor(X[:8])))
        criterion = type(self.net.criterion_).__name__
        if proba.dim() != 2 or proba.shape[1] != n_classes:
            raise ValueError(
                f"The 'estimator' parameter of MetricOptFinetuner must be a net with one output "
                f"per class. Got outputs of shape {tuple(proba.shape)} for {n_classes} classes. "
                f"Change the module's last layer (NeuralNetBinaryClassifier: one output)."
            )
        if not torch.isfinite(proba).all():
            raise ValueError(
                "The 'estimator' parameter of MetricOptFinetuner must be a net with finite "
                "outputs. Got NaN or infinity: training diverged. Lower its learning rate or "
                "scale X."
            )
        sums = proba.sum(1)
        if (proba < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise ValueError(
                f"The 'estimator' parameter of MetricOptFinetuner must be a net whose "
                f"predict_proba gives probabilities. Got rows that sum to {sums[0].item():.3g} "
                f"with criterion {criterion}. Use criterion=torch.nn.CrossEntropyLoss for a "
                f"module that returns logits, or end the module in a softmax."
            )

        if not np.allclose(self.net.predict_proba(X[:8]), proba.cpu().numpy(), atol=1e-4):
            raise ValueError(
                "The 'estimator' parameter of MetricOptFinetuner must be a net whose predict_proba "
                "is its nonlinearity applied to its module's output. Got other probabilities from "
                f"{type(self.net).__name__}.predict_proba. Put what it adds into the module."
            )

    def _check_gradient(self, X: np.ndarray) -> None:
        """Raise ValueError for outputs that weights change without a gradient."""
        weights = {
            name: value.detach().requires_grad_(value.is_floating_point())
            for name, value in self.module.named_parameters()
        }
        with torch.enable_grad(), evaluating(self.module):
            output = torch.func.functional_call(self.module, weights, (self.tensor(X[:2]),))
        output = output[0] if isinstance(output, tuple) else output
        if weights and not output.requires_grad:
            raise ValueError(
                "The 'estimator' parameter of MetricOptFinetuner must be a net with a gradient "
                "from its outputs to its weights. Got outputs without any. Take detach(), numpy "
                "and torch.no_grad() out of the module's forward."
            )


class evaluating:
    """Context in which a module is in eval mode; every submodule's own mode comes back."""

    def __init__(self, module: nn.Module):
        self._modes = [(m, m.training) for m in module.modules()]
        self._module = module

    def __enter__(self) -> None:
        self._module.eval()

    def __exit__(self, *exc) -> None:
        for module, mode in self._modes:
            module.training = mode


def check_estimator_kind(estimator) -> None:
    """Raise TypeError unless `estimator` is a skorch classifier net, frozen net or module."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if isinstance(inner, nn.Module) and inner is estimator:
        _check_module(inner)
        return
    if isinstance(inner, NeuralNetClassifier | NeuralNetBinaryClassifier):
        return
    raise TypeError(
        "The 'estimator' parameter of MetricOptFinetuner must be a skorch NeuralNetClassifier or "
        "NeuralNetBinaryClassifier, an EmbeddingRetriever, a FrozenEstimator around a fitted one, "
        "or a torch.nn.Module. "
        f"Got {inner!r:.200} instead. Wrap a module as NeuralNetClassifier(module, "
        "criterion=torch.nn.CrossEntropyLoss), and a net that embeds as EmbeddingRetriever(net); "
        "put preprocessing steps before the finetuner in a Pipeline."
    )


def _check_module(module: nn.Module) -> None:
    """Raise TypeError or ValueError for a module that holds no weights to start from."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "The 'estimator' parameter of MetricOptFinetuner must be a module whose layers can be "
            f"reached. Got a {type(module).__name__}, which torch.jit compiled. Pass the module it "
            "was made of."
        )
    values = list(module.parameters())
    unset = any(nn.parameter.is_lazy(value) or value.is_meta for value in values)
    if unset or not values:
        got = "weights that were never set" if unset else "none"
        raise ValueError(
            "The 'estimator' parameter of MetricOptFinetuner must be a module with weights. Got "
            f"{type(module).__name__} with {got}. Pass a net that has been trained."
        )


def check_class_output(output: Any, n_rows: int) -> None:
    """Raise ValueError unless a module gives a row of floats, or one float, for each row."""
    output = output[0] if isinstance(output, tuple) and output else output
    tensor = isinstance(output, Tensor)
    right = tensor and output.dim() in (1, 2) and len(output) == n_rows and output.numel() > 0
    if not right or not output.is_floating_point():
        got = f"a {type(output).__name__}"
        if tensor:
            got = f"outputs of shape {tuple(output.shape)} in {output.dtype} for {n_rows} rows"
        raise ValueError(
            "The 'estimator' parameter of MetricOptFinetuner must be a net that returns a tensor "
            f"of floats, one output per class for each row. Got {got} instead. Change what the "
            "module's forward returns."
        )


def frozen_net(estimator: FrozenEstimator) -> NeuralNetClassifier:
    """Return a private copy of the fitted net inside `estimator`."""
    net = estimator.estimator
    fitted = getattr(net, "initialized_", False) and hasattr(net, "classes_")
    if not fitted:
        raise ValueError(
            "The 'estimator' parameter of MetricOptFinetuner must be a fitted net inside "
            "FrozenEstimator. Got a net that was never fitted. Call net.fit first (a net whose "
            "weights came through load_params also needs classes=[...]), or pass the net without "
            "FrozenEstimator to have it trained."
        )
    return copy_net(net)


def net_around(module: nn.Module, X: np.ndarray) -> NeuralNetClassifier:
    """Return an initialised net around a pre-trained module; the head is read off its outputs."""
    module = copy.deepcopy(module)
    device = device_of(module)
    output = output_of(module, torch.tensor(np.ascontiguousarray(X[:8]), device=device))
    check_class_output(output, len(X[:8]))
    output = output[0] if isinstance(output, tuple) else output
    if output.dim() == 1 or output.shape[1] == 1:
        return NeuralNetBinaryClassifier(module, device=device, train_split=None).initialize()
    sums = output.sum(1)
    is_proba = bool((output >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    criterion = nn.NLLLoss if is_proba else nn.CrossEntropyLoss
    classes = list(range(output.shape[1]))
    return NeuralNetClassifier(
        module, criterion=criterion, classes=classes, device=device, train_split=None
    ).initialize()


def output_of(module: nn.Module, x: Tensor, caller: str = _CALLER) -> Any:
    """Return the output for a few rows, or say that the module does not take them."""
    try:
        with torch.no_grad(), evaluating(module):
            return module(x)
    except Exception as error:  # the module is the user's
        shape, dtype = tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")
        step = f"Give it a module for rows of shape {shape} in {dtype}, or pass other X."
        raise explained("a net that takes X", error, step, caller) from error


def explained(expected: str, error: Exception, step: str, caller: str = _CALLER) -> Exception:
    """Return an error that says what the net must be, how it failed and what to do."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(
        f"The 'estimator' parameter of {caller} must be {expected}. It failed "
        f"({type(error).__name__}: {error}). {step}"
    )


def check_not_trimmed(estimator) -> None:
    """Raise ValueError for a net that `trim_for_prediction` left without optimizer."""
    net = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if getattr(net, "_trimmed_for_prediction", False):
        raise ValueError(
            "The 'estimator' parameter of MetricOptFinetuner must be a net that can be trained. "
            "Got one that trim_for_prediction left without optimizer and criterion. Pass the net "
            "as it was before that call."
        )


def check_trainable(net: NeuralNetClassifier, n_classes: int) -> None:
    """Raise ValueError for a binary net and many classes; warn where weights are reused."""
    if isinstance(net, NeuralNetBinaryClassifier) and n_classes > 2:
        raise ValueError(
            "The 'estimator' parameter of MetricOptFinetuner must be a NeuralNetClassifier for "
            f"{n_classes} classes. Only binary classification is supported by "
            "NeuralNetBinaryClassifier."
        )
    warn_of_instance(net)


def warn_of_instance(net: NeuralNet) -> None:
    """Warn where training a clone of `net` starts from weights that are there."""
    if isinstance(net.module, nn.Module):
        warnings.warn(
            "The net's module is an instance: training goes on from a copy of its present "
            "weights. Give the net the module's class to start afresh, or wrap a fitted net in "
            "FrozenEstimator to keep it as it is.",
            UserWarning,
            stacklevel=2,
        )


def trained_net(net: NeuralNetClassifier, X, y: np.ndarray, params: dict) -> NeuralNetClassifier:
    """Return a clone of `net` fitted on encoded labels `y`."""
    try:
        return clone(net).fit(X, net_labels(net, y), **params)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if "more than 1 value per channel" in str(error):
            step = "The last batch holds one row: set iterator_train__drop_last=True on the net."
        elif isinstance(error, TypeError):
            step = "Check the parameters of the net and of its module."
        else:
            step = (
                f"Give its module rows of shape {X.shape[1:]} in {X.dtype} and one output per "
                f"class, {len(np.unique(y))} (NeuralNetBinaryClassifier: one)."
            )
        raise explained("a net that trains on X and y", error, step) from error


def net_labels(net: NeuralNetClassifier, y: np.ndarray) -> np.ndarray:
    """Return encoded labels in the dtype that the net's criterion wants."""
    return y.astype(np.float32 if isinstance(net, NeuralNetBinaryClassifier) else np.int64)


def is_net(estimator) -> bool:
    """Whether this is a net of skorch."""
    return isinstance(estimator, NeuralNet)


def changed_params(net: NeuralNet) -> dict[str, Any]:
    """Return the parameters that were set to something else than skorch's defaults."""
    defaults: dict[str, Any] = {}
    for cls in reversed(type(net).__mro__):
        for param in inspect.signature(cls).parameters.values():
            defaults[param.name] = param.default
    params = net.get_params(deep=False)
    changed = {name for name in params if repr(params[name]) != repr(defaults.get(name, ...))}
    return {name: params[name] for name in params if name in changed and name[0] != "_"}


def is_binary(estimator) -> bool:
    """Whether the net has one output and so two classes."""
    net = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return isinstance(net, NeuralNetBinaryClassifier)


def device_of(estimator) -> torch.device:
    """Return where the net or module computes."""
    if isinstance(estimator, nn.Module):
        return next((p.device for p in estimator.parameters()), torch.device("cpu"))
    net = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    try:
        return torch.device(net.device or "cpu")
    except (RuntimeError, TypeError) as error:
        raise explained(
            "a net on a device of torch", error, "Set its parameter 'device'."
        ) from error


def takes_integers(estimator) -> bool:
    """Whether integer input is meant as indices, because the module looks them up."""
    module = _module_of(estimator)
    return module is not None and any(
        isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()
    )


def _module_of(estimator) -> nn.Module | None:
    if isinstance(estimator, nn.Module):
        return estimator
    net = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if getattr(net, "initialized_", False):
        return net.module_
    if isinstance(net.module, nn.Module):
        return net.module
    try:
        return clone(net).initialize().module_
    except (TypeError, ValueError):  # arguments that a callback sets when training begins
        return None


def copy_net(net: NeuralNet, caller: str = _CALLER) -> NeuralNet:
    """Return a deep copy of `net`, or say why it cannot be copied."""
    # Part by part: skorch's own way pickles the module, which fails for more of them.
    copied = object.__new__(type(net))
    try:
        copied.__dict__ = copy.deepcopy(net.__dict__, {id(net): copied})
    except (pickle.PicklingError, AttributeError, RuntimeError, TypeError) as error:
        raise TypeError(
            f"The 'estimator' parameter of {caller} must be a net that can be copied. "
            f"Copying it failed ({type(error).__name__}: {error}). Keep open files, generators, "
            "locks and tensors with a gradient history out of the net, its module and callbacks."
        ) from error
    return copied


def plain(module: nn.Module) -> nn.Module:
    """Turn weights that are computed (weight norm and kin) into what they stand for, in place."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            # By hand: remove_parametrizations edits the class, which copies of a module share.
            with torch.no_grad(), evaluating(part):
                computed = {name: getattr(part, name) for name in part.parametrizations}
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, value in computed.items():
                part.register_parameter(name, nn.Parameter(value))
        for hook in list(part._forward_pre_hooks.values()):  # before there were parametrizations
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
    return module
