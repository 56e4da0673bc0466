"""The torch part of an ONNX graph: a module, and what its kind of graph does after it."""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._kind import GraphKind

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT = "X"

# torch.export keeps global state: two exports at once fail.
export_lock = threading.RLock()


class _Traced(nn.Module):
    """A private copy of a net's module, followed by the head of its kind."""

    def __init__(self, kind: GraphKind):
        super().__init__()
        self.kind = kind
        module = getattr(kind.bridge.module, "_orig_mod", kind.bridge.module)  # torch.compile
        # A copy, since the exported program would alias the live weights.
        self.module = copy.deepcopy(module).cpu().eval()

    def forward(self, X: Tensor) -> tuple[Tensor, ...]:
        return self.kind.head(self.module(X))


def torch_graph(kind: GraphKind, rows: np.ndarray, opset: int) -> ModelProto:
    """Return the graph from 'X' to the outputs that `kind` has torch write.

    Parameters
    ----------
    kind : GraphKind
        What to export. The module of its net is copied.
    rows : ndarray of shape (n_samples, ...)
        Example input; the first axis becomes dynamic, the others keep their length.
    opset : int
        Opset of the graph.

    Returns
    -------
    onnx.ModelProto
        Without stack traces: they hold paths and source lines of this machine.
    """
    # One row would make torch specialise the batch axis to 1, silently.
    example = torch.from_numpy(rows[np.arange(2) % len(rows)])
    with export_lock, _quiet():
        try:
            program = torch.onnx.export(
                _Traced(kind),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(kind.traced),
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
            model = _without_traces(program)
        except Exception as exc:
            raise _translation_error(kind.bridge.module, exc) from exc
    _check_opset(model, opset)
    _check_batch_axis(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging that torchvision is missing, and from warning about its own code."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
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
