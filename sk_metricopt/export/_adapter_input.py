"""Adapters as an input of a graph: finetuners of one backbone, and which of them is meant."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from torch import nn

from sk_metricopt._finetuner import MetricOptFinetuner
from sk_metricopt._identity import described
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt._skorch import NetBridge
from sk_metricopt.exceptions import AdapterError
from sk_metricopt.export._adapted_module import AdaptedModule, bare
from sk_metricopt.export._graph_edit import rename_value
from sk_metricopt.export._inputs import ADAPTER, INPUT, Feed
from sk_metricopt.export._kind import GraphKind
from sk_metricopt.export._parity import Case
from sk_metricopt.export._parts import answering, last_step, own_source
from sk_metricopt.export._post_shift import is_post_shift

if TYPE_CHECKING:
    from onnx import ModelProto

_TABLE, _PARAMS = "adapters", "adapter_params"  # values in a graph of named choices

Finetuners = Mapping[str, MetricOptFinetuner]


class FixedAdapter:
    """None of all this: the weights are those of the estimator, and no input changes them."""

    def given_to(self, kind: GraphKind, feed: Feed) -> GraphKind:
        """Return `kind`, once its source knows about the adapter."""
        return kind

    def cases(self, kind: GraphKind, X) -> list[Case]:
        """Return what to expect of each choice that can be fed."""
        return []

    def declare(self, model: ModelProto) -> None:
        """Let the value that stands for the adapter be fed, in place."""

    def properties(self) -> dict[str, Any]:
        """Return what a file says of its adapters."""
        return {}

    def left_as_found(self) -> AbstractContextManager:
        """Put back what predicting changes."""
        return nullcontext()


class AdapterInput(FixedAdapter):
    """What the input 'adapter' of a graph stands for.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`; its last step is a fitted finetuner.
    free : bool
        Whether any parameters can be fed, rather than the index of a name.
    named : mapping of str to MetricOptFinetuner
        Fitted, of the same backbone.
    """

    def __init__(self, estimator, free: bool, named: Finetuners):
        self._estimator = estimator
        self._free = free
        self._named = dict(named)
        self._finetuner = last_step(estimator)
        values = list(self._named.values())
        given = [i for i, value in enumerate(values) if value is self._finetuner]
        self._index = given[0] if given else 0
        self._default = self._finetuner if free else values[self._index]
        for name, finetuner in self._owners():
            _check_like(finetuner, self._finetuner, name)

    def given_to(self, kind: GraphKind, feed: Feed) -> GraphKind:
        """Return `kind` for what the graph gives where no adapter is fed.

        Parameters
        ----------
        kind : GraphKind
            Of the estimator. Its source is told what stands in the place of the net's module.
        feed : dict of str to ndarray of shape (n_samples, ...)
            Rows as the graph takes them.

        Raises
        ------
        ValueError
            If finetuners were made of different nets, or a net has changed since.
        """
        kind.source.adapt(self._finetuner, self._adapted_module(feed), self._set_default)
        return self._kind_of(kind, self._default)

    def _adapted_module(self, feed: Feed) -> AdaptedModule:
        """Return the backbone with its adapter as an input, once all finetuners have that one."""
        example = self._example(feed)
        adapted = [(name, f, _adapted(f, name, example)) for name, f in self._owners()]
        _, _, first = adapted[0]
        for name, finetuner, module in adapted:
            _check_folded(finetuner, module, name)
            _check_same(finetuner, module, self._finetuner, first, name)
        return first

    def _set_default(self, model: ModelProto) -> None:
        """Turn the input for parameters into a value that is there from the start, in place."""
        from onnx import numpy_helper

        graph = model.graph
        kept = [copy.deepcopy(value) for value in graph.input if value.name != ADAPTER]
        del graph.input[:]
        graph.input.extend(kept)
        default = _params(self._finetuner) if self._free else np.array(self._index, np.int64)
        if not self._free:
            _read_from_table(graph, np.stack([_params(f) for f in self._named.values()]))
        graph.initializer.append(numpy_helper.from_array(default, ADAPTER))

    def cases(self, kind: GraphKind, X) -> list[Case]:
        """Return what to expect of each choice, and of no adapter at all where it can be fed."""
        chosen = [
            (f"adapter {name!r}", _params(f) if self._free else np.array(i, np.int64), f)
            for i, (name, f) in enumerate(self._named.items())
        ]
        if self._free:
            zero = np.zeros_like(_params(self._finetuner))
            chosen.append(("an adapter of zeros", zero, _before(self._finetuner)))
        found = []
        for what, value, finetuner in chosen:
            own = self._kind_of(kind, finetuner)
            found.append(Case(what, {ADAPTER: value}, own, own.expected(X)))
        return found

    def _kind_of(self, kind: GraphKind, finetuner: MetricOptFinetuner) -> GraphKind:
        """Return `kind` for the estimator with `finetuner` as its last step."""
        other = copy.copy(kind)
        other.estimator = _with_last_step(self._estimator, finetuner)
        return other

    def properties(self) -> dict[str, Any]:
        if not self._named:
            return {}
        values = {name: _params(finetuner).tolist() for name, finetuner in self._named.items()}
        return {"adapters": values if self._free else list(values)}

    def declare(self, model: ModelProto) -> None:
        from onnx import helper

        (default,) = (value for value in model.graph.initializer if value.name == ADAPTER)
        value = helper.make_tensor_value_info(ADAPTER, default.data_type, list(default.dims))
        model.graph.input.append(value)

    @contextmanager
    def left_as_found(self) -> Iterator[None]:
        with ExitStack() as stack:
            for _, finetuner in self._owners():
                stack.enter_context(own_source(finetuner).left_as_found())
            yield

    def _owners(self) -> list[tuple[str, MetricOptFinetuner]]:
        """Return all finetuners by their names, the one that is exported first and as ''."""
        return [("", self._finetuner), *self._named.items()]

    def _example(self, feed: Feed) -> torch.Tensor:
        """Return a few rows as the net takes them, which tell what runs and not what comes out."""
        alone = answering(self._estimator) is self._finetuner
        if alone and INPUT in feed:
            rows = feed[INPUT]
            return torch.from_numpy(rows[np.arange(2) % len(rows)])
        return torch.from_numpy(
            np.zeros((2, self._finetuner.n_features_in_), self._finetuner._dtype)
        )


def adapter_of(estimator, free: bool, named: Finetuners | None) -> FixedAdapter:
    """Return what the input 'adapter' is to stand for, or that there is none.

    Parameters
    ----------
    estimator : estimator
        As it was passed to `to_onnx`.
    free : bool
        `adapter_input` of `to_onnx`.
    named : mapping of str to MetricOptFinetuner or None
        `adapters` of `to_onnx`.

    Raises
    ------
    TypeError, ValueError
        If `estimator` does not end in a finetuner of a net that is still there, or a value of
        `adapters` is no such finetuner.
    """
    if not isinstance(free, bool | np.bool_):
        raise TypeError(
            f"The 'adapter_input' parameter of to_onnx must be a bool. Got {free!r} instead."
        )
    if not free and named is None:
        return FixedAdapter()
    _check_finetuner(last_step(estimator))
    return AdapterInput(estimator, bool(free), _checked(named))


def _checked(named: Any) -> Finetuners:
    if named is None:
        return {}
    if not isinstance(named, Mapping) or not named or not _are_names(named):
        got = f"the keys {list(named)!r}" if isinstance(named, Mapping) else repr(named)
        raise TypeError(
            "The 'adapters' parameter of to_onnx must be a dict of fitted MetricOptFinetuners by "
            f"their names. Got {got:.200} instead. Pass one such as {{'f1': est_f1}}."
        )
    for name, value in named.items():
        if not isinstance(value, MetricOptFinetuner):
            raise TypeError(
                "The 'adapters' parameter of to_onnx must be a dict of fitted MetricOptFinetuners. "
                f"Got {type(value).__name__} as {name!r} instead. Of a Pipeline, pass its last "
                "step: all adapters are fed what the steps before leave."
            )
        if not hasattr(value, "estimator_"):
            raise NotFittedError(
                "The 'adapters' parameter of to_onnx must be a dict of fitted MetricOptFinetuners. "
                f"Got one that is not fitted as {name!r} instead. Call its fit first."
            )
    return named


def _are_names(named: Mapping) -> bool:
    return all(isinstance(name, str) and name for name in named)


def _check_finetuner(last) -> None:
    if isinstance(last, MetricOptFinetuner):
        if not hasattr(last, "estimator_"):
            raise NotFittedError(
                "The 'estimator' parameter of to_onnx must be fitted. Got a MetricOptFinetuner "
                "that is not. Call its fit first."
            )
        return
    step = "Leave out adapter_input and adapters: nothing in it is adapted."
    if is_post_shift(last):
        step = (
            "Its weights come after the net and would not fit another adapter: export the "
            "finetuner inside, or leave out adapter_input and adapters."
        )
    raise TypeError(
        "The 'estimator' parameter of to_onnx must be a MetricOptFinetuner, or a Pipeline or "
        "search that ends in one, for adapters to be an input of the graph. Got "
        f"{type(last).__name__} instead. {step}"
    )


def _check_like(finetuner, first, name: str) -> None:
    """Raise unless two finetuners put out the same kind of thing, and their backbones are there."""
    _backbone(finetuner, name)
    for what, of in (
        ("kind of output", lambda f: own_source(f).outputs),
        ("classes", lambda f: getattr(f, "classes_", np.empty(0)).tolist()),
        ("adapter", lambda f: described(f.adapter_)),
        ("decision rule", lambda f: own_source(f).properties()),
    ):
        if of(finetuner) != of(first):
            raise _other(name, f"one with another {what}: {of(finetuner)!r}, not {of(first)!r}")


def _backbone(finetuner: MetricOptFinetuner, name: str) -> nn.Module:
    """Return the module as it was before finetuning; it is not to be changed."""
    inner = answering(finetuner.estimator)
    frozen = inner is not finetuner.estimator
    if isinstance(inner, EmbeddingRetriever):
        inner, frozen = _embedder(inner, frozen)
    if isinstance(inner, nn.Module):
        return inner
    if not frozen:
        raise ValueError(
            f"The {_parameter(name)} parameter of to_onnx must be finetuned from a net that was "
            f"trained before, for adapters to be an input of the graph. Got {_called(name)}a "
            f"MetricOptFinetuner around an unfitted {type(inner).__name__}, whose weights before "
            "finetuning are gone. Train the net once, and pass FrozenEstimator(net) to "
            "MetricOptFinetuner."
        )
    return inner.module_


def _embedder(retriever: EmbeddingRetriever, frozen: bool) -> tuple[Any, bool]:
    """Return the net of a retriever, and whether it has its weights."""
    if frozen:
        return retriever.estimator_, True
    inner = retriever.estimator
    return answering(inner), isinstance(inner, FrozenEstimator)


def _params(finetuner: MetricOptFinetuner) -> np.ndarray:
    return np.asarray(finetuner.adapter_params_, dtype=np.float32)


def _adapted(finetuner: MetricOptFinetuner, name: str, example: torch.Tensor) -> AdaptedModule:
    try:
        return AdaptedModule(
            _backbone(finetuner, name), finetuner.adapter_, finetuner.adapter_targets, example
        )
    except AdapterError as exc:  # as the parameters of the finetuner are now
        raise _other(name, f"one whose hosts cannot be found any more: {exc}") from exc


def _check_folded(finetuner: MetricOptFinetuner, module: AdaptedModule, name: str) -> None:
    """Raise ValueError unless the backbone under φ has the weights that are deployed."""
    params = torch.from_numpy(_params(finetuner))
    if len(params) != module.n_params:
        raise _other(
            name,
            f"one with {len(params)} parameters where its adapter and adapter_targets ask for "
            f"{module.n_params} now",
        )
    deployed = bare(_net(finetuner).module_).state_dict()
    weight = _first_difference(module.folded(params), deployed, exact=False)
    if weight is not None:
        raise _other(name, f"one whose net has changed in {weight!r} since, or was finetuned anew")


def _check_same(finetuner, module, first_finetuner, first, name: str) -> None:
    """Raise ValueError unless two backbones are the same."""
    mine, theirs = (bare(_backbone(f, name)).state_dict() for f in (finetuner, first_finetuner))
    weight = _first_difference(mine, theirs, exact=True)
    if weight is not None:
        raise _other(name, f"one of another net: {weight!r} differs")
    if module.hosts != first.hosts:
        raise _other(name, f"one that adapts the layers {module.hosts}, not {first.hosts}")


def _first_difference(ours: Mapping, theirs: Mapping, exact: bool) -> str | None:
    """Return the name of the first weight that differs, None where none does.

    What only one has is no difference unless asked for: adapters create what hosts lack.
    """
    if exact and ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())[0]
    for name in (name for name in ours if name in theirs):
        one, other = ours[name], theirs[name]
        same = one.shape == other.shape and (
            torch.equal(one, other) if exact else torch.allclose(one, other, 1e-4, 1e-6)
        )
        if not same:
            return name
    return None


def _other(name: str, got: str) -> ValueError:
    return ValueError(
        f"The {_parameter(name)} parameter of to_onnx must share one backbone with all other "
        f"adapters of the graph. Got {_called(name)}{got}. Finetune all of them from the same "
        "FrozenEstimator(net), and leave net and finetuners as they are from then on."
    )


def _parameter(name: str) -> str:
    return "'adapters'" if name else "'estimator'"


def _called(name: str) -> str:
    return f"as {name!r} " if name else ""


def _net(finetuner: MetricOptFinetuner):
    return getattr(finetuner.estimator_, "estimator_", finetuner.estimator_)


def _before(finetuner: MetricOptFinetuner) -> MetricOptFinetuner:
    """Return what is like `finetuner`, around its net as it was before finetuning."""
    before, deployed = copy.copy(finetuner), finetuner.estimator_
    module = copy.deepcopy(_backbone(finetuner, ""))
    if isinstance(deployed, EmbeddingRetriever):
        before.estimator_ = deployed._with_module(module)
    else:
        before.estimator_ = NetBridge(deployed).with_module(module)
    return before


def _with_last_step(estimator, finetuner: MetricOptFinetuner):
    """Return what is like a fitted estimator, with another finetuner as its last step."""
    estimator = answering(estimator)
    if not isinstance(estimator, Pipeline):
        return finetuner
    other = copy.copy(estimator)
    *before, (name, last) = estimator.steps
    other.steps = [*before, (name, _with_last_step(last, finetuner))]
    return other


def _read_from_table(graph, table: np.ndarray) -> None:
    """Let `graph` take a row of `table` where it took parameters, in place."""
    from onnx import helper, numpy_helper

    rename_value(graph, ADAPTER, _PARAMS)
    graph.initializer.append(numpy_helper.from_array(table, _TABLE))
    gather = helper.make_node("Gather", [_TABLE, ADAPTER], [_PARAMS], name=_PARAMS)
    nodes = [gather, *(copy.deepcopy(node) for node in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
