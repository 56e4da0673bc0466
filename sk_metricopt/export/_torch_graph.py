"""Graphs that torch writes: a skorch net's module, and what follows it."""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sk_metricopt._embedding_net import first_of
from sk_metricopt._random import seeded
from sk_metricopt._skorch import Bridge, evaluating, takes_integers
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._adapted_module import AdaptedModule
from sk_metricopt.export._inputs import ADAPTER, BATCH, INPUT, Feed
from sk_metricopt.export._source import Source

if TYPE_CHECKING:
    from onnx import ModelProto

# torch.export keeps global state: two exports at once fail.
export_lock = threading.RLock()

_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
)

Head = Callable[[Any], tuple[Tensor, ...]]  # from the module's output to the graph's


class NetSource(Source):
    """A skorch net.

    Parameters
    ----------
    estimator : estimator
        It may be the net, or hold it.
    bridge : Bridge
        Around the net. Its module is copied.
    head : callable
        Returns the graph's outputs from the module's.
    outputs : tuple of str
        Their names.
    facts : mapping of str to object
        What a file says of the net.
    precision : {'fp32', 'fp16'}
        In which the module computes. Inputs and outputs are float32 all the same.
    """

    libraries = ("onnxscript",)
    packages = ("torch", "skorch")

    def __init__(
        self,
        estimator,
        bridge: Bridge,
        head: Head,
        outputs: tuple[str, ...],
        facts: Mapping[str, Any],
        precision: str,
    ):
        self.outputs = outputs
        self._estimator = estimator
        self._bridge = bridge
        self._head = head
        self._facts = facts
        self._halves = precision == "fp16"
        # A bare net takes arrays of its own dtype only; the others convert by themselves.
        self.takes_fed = estimator is bridge.net
        # What stands in the place of the module, and what makes its second input a value.
        self._adapted: tuple[AdaptedModule, Callable[[ModelProto], None]] | None = None

    def dtype(self, X: np.ndarray) -> Any:
        # The finetuner converts to what it was fitted on; a bare net takes floats for floats.
        given_floats = self.takes_fed and X.dtype.kind == "f"
        as_index = takes_integers(self._bridge.net) and not given_floats
        return getattr(self._estimator, "_dtype", np.int64 if as_index else np.float32)

    def properties(self) -> Mapping[str, Any]:
        return self._facts

    def boundary(self, probabilities: np.ndarray) -> np.ndarray:
        threshold = self._facts.get("threshold")
        if threshold is None:
            return super().boundary(probabilities)
        return np.abs(probabilities[:, 1] - threshold)

    def adapt(self, estimator, adapted, set_default) -> None:
        self._adapted = adapted, set_default

    @contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Put back train or eval mode, and the global random streams."""
        with ExitStack() as stack:
            stack.enter_context(seeded(0, self._bridge.device))
            for part in (self._bridge.net.module_, self._bridge.net.criterion_):
                if isinstance(part, nn.Module):
                    stack.enter_context(evaluating(part))
            yield

    def trace(self, feed: Feed, opset: int) -> ModelProto:
        rows = feed[INPUT]
        # One row would make torch specialise the batch axis to 1, silently.
        example = torch.from_numpy(rows[np.arange(2) % len(rows)])
        module, names, inputs = self._bridge.module, [INPUT], [example]
        if self._adapted is not None:
            module, set_default = self._adapted
            names.append(ADAPTER)
            inputs.append(torch.zeros(module.n_params))
        with export_lock, _quiet():
            try:
                program = torch.onnx.export(
                    _Traced(module, self._head, self._halves),
                    tuple(inputs),
                    dynamo=True,
                    opset_version=opset,
                    input_names=names,
                    output_names=list(self.outputs),
                    dynamic_shapes=({0: BATCH}, None)[: len(inputs)],
                    verbose=False,
                )
                model = _without_traces(program)
            except Exception as exc:
                raise _translation_error(self._bridge.module, exc) from exc
        if self._adapted is not None:
            set_default(model)
        _check_opset(model, opset)
        _check_batch_axis(model)
        return model

    def why_probabilities_differ(self) -> tuple[str, str]:
        if self._halves:
            cause = "values within the net that half precision cannot hold (above 65504, or tiny)"
            return cause, "scale the features, or export with precision='fp32'"
        cause = (
            "predict_proba does more than the net's module and its nonlinearity, forward depends "
            "on chance or on the other rows of the batch, or the estimator computes in reduced "
            "precision (TF32 on a GPU)"
        )
        step = "remove that dependence, or move the net to the CPU in full float32, and try again"
        return cause, step

    def why_embeddings_differ(self) -> tuple[str, str]:
        if self._halves:
            return self.why_probabilities_differ()
        cause = (
            "transform does more than the net's module, forward depends on chance or on the other "
            "rows of the batch, embeddings are so near zero that their direction is rounding, or "
            "the estimator computes in reduced precision (TF32 on a GPU)"
        )
        step = "remove that dependence, or move the net to the CPU in full float32, and try again"
        return cause, step

    def why_labels_differ(self) -> tuple[str, str]:
        cause = (
            "predict does not decide by the net's own rule (argmax of the probabilities, or the "
            "threshold of a binary net), or these rows are tied within rounding"
        )
        step = (
            "put the rule into the net (shift the last bias, or set the threshold of a binary "
            "net between two scores), and try again"
        )
        return cause, step


class _Traced(nn.Module):
    """A private copy of a net's module, followed by its head."""

    def __init__(self, module: nn.Module, head: Head, halves: bool):
        super().__init__()
        module = getattr(module, "_orig_mod", module)  # torch.compile
        # A copy, since the exported program would alias the live weights.
        self.module = copy.deepcopy(module).cpu().eval()
        self.head = head
        self.halves = halves
        if halves:
            self.module.half()

    def forward(self, X: Tensor, params: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = (X,) if params is None else (X, params)
        if not self.halves:
            return self.head(self.module(*inputs))
        halves = (value.half() if value.is_floating_point() else value for value in inputs)
        output = self.module(*halves)
        return self.head(first_of(output).float())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging what is raised or of no concern, and from warning about itself."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _without_traces(program) -> ModelProto:
    from onnx.helper import find_min_ir_version_for
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    # The oldest IR that holds the opset, for the sake of older runtimes.
    model.ir_version = find_min_ir_version_for(list(model.opset_import))
    return model


def _translation_error(module: nn.Module, exc: Exception) -> ExportError:
    reason = " ".join(str(exc.__cause__ or exc).split()) or type(exc).__name__
    return ExportError(
        f"torch could not translate {type(module).__name__} into ONNX. Likely cause: its "
        "forward fixes the number of rows, branches on values of the data, or leaves torch. Next "
        "step: write forward with torch operations that hold for any number of rows, then export "
        f"again. No file was written. torch says: {reason:.300}"
    )


def _check_opset(model: ModelProto, opset: int) -> None:
    """torch only logs it when it cannot convert to the opset asked for."""
    got = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if got != opset:
        raise ExportError(
            f"torch wrote opset {got} where {opset} was asked for: an operation of the module has "
            f"no translation to opset {opset}. Next step: export with opset={got}. No file was "
            "written."
        )


def _check_batch_axis(model: ModelProto) -> None:
    values = [*model.graph.input, *model.graph.output]
    axes = {value.name: value.type.tensor_type.shape.dim[0] for value in values}
    fixed = [name for name, axis in axes.items() if axis.dim_param != axes[INPUT].dim_param]
    if fixed or not axes[INPUT].dim_param:
        raise ExportError(
            f"The graph has a fixed number of rows at {', '.join(fixed) or INPUT}. Likely cause: "
            "forward has a literal batch size in a reshape, view or expand. Next step: write -1 "
            "or X.shape[0] for the rows, then export again. No file was written."
        )
