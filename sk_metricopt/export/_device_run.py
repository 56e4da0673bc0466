"""Rows through a session: arrays, or tensors that stay on the device they are on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt.export._device import tensor_device
from sk_metricopt.export._inputs import INPUT, Feed
from sk_metricopt.export._runtime import DTYPES, STRING, run

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession

Tensors = dict[str, "torch.Tensor"]


class Runner:
    """Rows of any number through a session, some at a time; threads may share it.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    batch_size : int or None
        Rows per run. None is 1024 for arrays, and all at once for tensors.
    constants : dict of str to ndarray
        What is fed as it is in every run.
    """

    def __init__(self, session: InferenceSession, batch_size: int | None, constants: Feed):
        self.session = session
        self._size = batch_size
        self._constants = constants

    def run(self, names: Sequence[str], feeds: Feed) -> Feed:
        """Return the outputs called `names`."""
        return run(self.session, names, {**feeds, **self._constants}, self._size)

    def run_tensors(self, names: Sequence[str], X: torch.Tensor) -> Tensors:
        """Return the outputs called `names` beside `X`; nothing passes through the host."""
        from onnxruntime import OrtValue

        X = _checked(self.session, X)
        constants = {k: OrtValue.ortvalue_from_numpy(v) for k, v in self._constants.items()}
        outputs = _empty_outputs(self.session, names, X)
        _synchronize(X)  # X, and what torch still does in the memory of outputs, must be done
        for rows in _parts(len(X), self._size or len(X)):
            binding = self.session.io_binding()
            _bind(binding.bind_input, INPUT, X[rows])
            for name, output in outputs.items():
                _bind(binding.bind_output, name, output[rows])
            for name, value in constants.items():
                binding.bind_ortvalue_input(name, value)
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return outputs


class FixedRunner:
    """Rows through buffers that stay where they are, as a CUDA graph wants them; one at a time.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Used by nothing else: a CUDA graph that it has caught is bound to these buffers.
    batch_size : int
        Rows of the buffers. Fewer rows are run as that many.
    constants : dict of str to ndarray
        What is fed as it is in every run.
    """

    def __init__(self, session: InferenceSession, batch_size: int, constants: Feed):
        from onnxruntime import OrtValue

        self.session = session
        self._size = batch_size
        self._device = tensor_device(session)
        self._binding = session.io_binding()
        self._lock = threading.Lock()
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        for value in session.get_inputs():
            zeros = np.zeros(_buffer_shape(value, batch_size), _dtype(value))
            self._inputs[value.name] = OrtValue.ortvalue_from_numpy(zeros, *self._device)
        for value in session.get_outputs():
            shape, dtype = _buffer_shape(value, batch_size), np.dtype(_dtype(value))
            buffer = OrtValue.ortvalue_from_shape_and_type(shape, dtype, *self._device)
            self._outputs[value.name] = buffer
        self._constants = {
            name: OrtValue.ortvalue_from_numpy(np.array(value), *self._device)
            for name, value in constants.items()
        }
        for name, buffer in {**self._inputs, **self._constants}.items():
            self._binding.bind_ortvalue_input(name, buffer)
        for name, buffer in self._outputs.items():
            self._binding.bind_ortvalue_output(name, buffer)

    def run(self, names: Sequence[str], feeds: Feed) -> Feed:
        """Return the outputs called `names`."""
        n_rows = len(next(iter(feeds.values())))
        results = {name: self._empty(name, n_rows) for name in names}
        with self._lock:
            for rows in _parts(n_rows, self._size):
                for name, buffer in self._inputs.items():
                    buffer.update_inplace(_padded(feeds[name][rows], self._size))
                self.session.run_with_iobinding(self._binding)
                for name, result in results.items():
                    result[rows] = self._outputs[name].numpy()[: rows.stop - rows.start]
        return results

    def run_tensors(self, names: Sequence[str], X: torch.Tensor) -> Tensors:
        """Return the outputs called `names` beside `X`; nothing passes through the host."""
        import torch

        X = _checked(self.session, X)
        results = _empty_outputs(self.session, names, X)
        with self._lock:
            fed = torch.from_dlpack(self._inputs[INPUT])
            given = {name: torch.from_dlpack(self._outputs[name]) for name in names}
            for rows in _parts(len(X), self._size):
                n_rows = rows.stop - rows.start
                fed[:n_rows] = X[rows]
                _synchronize(X)
                self.session.run_with_iobinding(self._binding)
                for name, result in results.items():
                    result[rows] = given[name][:n_rows]
            _synchronize(X)  # before another thread writes into the buffers
        return results

    def _empty(self, name: str, n_rows: int) -> np.ndarray:
        buffer = self._outputs[name]
        dtype = DTYPES[buffer.data_type()]
        return np.empty((n_rows, *buffer.shape()[1:]), dtype)


def bindable(session: InferenceSession) -> list[str]:
    """Return the outputs that tensors can hold: all but strings."""
    return [value.name for value in session.get_outputs() if value.type != STRING]


def check_fixed(session: InferenceSession, batch_size: int | None) -> None:
    """Raise ValueError unless a CUDA graph can be caught of a session."""
    option = "The 'provider_options' parameter of OnnxPredictor must be without a CUDA graph"
    if batch_size is None:
        raise ValueError(
            f"{option} where 'batch_size' is None, since a graph runs one number of rows. Got "
            "both. Pass batch_size as well."
        )
    values = [*session.get_inputs(), *session.get_outputs()]
    strings = [value.name for value in values if value.type == STRING]
    if strings:
        raise ValueError(
            f"{option} for a file with strings, which no GPU holds. Got strings in {strings}. "
            "Export with labels='index', from columns of numbers."
        )
    for value in values:
        _buffer_shape(value, batch_size)


def _parts(n_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, max(size, 1)))


def _dtype(value) -> str:
    """Return what numpy and torch call the type of an input or output."""
    if value.type not in DTYPES:
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must be of numbers that tensors can hold. "
            f"Got {value.name!r} of {value.type} instead. Use predict, or export again."
        )
    return DTYPES[value.type]


def _buffer_shape(value, n_rows: int) -> tuple[int, ...]:
    """Return the shape of `n_rows` rows of an input or output."""
    shape = tuple(value.shape[1:])
    if not all(isinstance(length, int) for length in shape):
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must give rows of one shape, so that tensors "
            f"can be made for them. Got {value.name!r} of shape {value.shape} instead. Use "
            "predict, or export again."
        )
    return (n_rows, *shape)


def _checked(session: InferenceSession, X) -> torch.Tensor:
    """Return `X` without gaps in memory, once it is what the session takes."""
    import torch

    inputs = session.get_inputs()
    if [value.name for value in inputs] != [INPUT]:
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must have one input 'X' to run on tensors. "
            f"Got {[value.name for value in inputs]} instead. Use predict, which takes tables."
        )
    dtype, (kind, index) = getattr(torch, _dtype(inputs[0])), tensor_device(session)
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    if not isinstance(X, torch.Tensor):
        raise TypeError(
            "The 'X' parameter of OnnxPredictor.run_tensors must be a torch.Tensor. "
            f"Got a {type(X).__name__} instead. Use predict for other rows."
        )
    if X.dtype != dtype or X.device != device:
        raise ValueError(
            f"The 'X' parameter of OnnxPredictor.run_tensors must be of {dtype} on {device}. "
            f"Got {X.dtype} on {X.device} instead. Pass X.to({str(device)!r}, {dtype})."
        )
    expected = _buffer_shape(inputs[0], len(X) if X.ndim else 0)
    if X.shape != expected:
        raise ValueError(
            "The 'X' parameter of OnnxPredictor.run_tensors must have rows of shape "
            f"{expected[1:]}. Got a tensor of shape {tuple(X.shape)} instead. Reshape X."
        )
    return X.detach().contiguous()


def _empty_outputs(session: InferenceSession, names: Sequence[str], X: torch.Tensor) -> Tensors:
    import torch

    return {
        value.name: torch.empty(
            _buffer_shape(value, len(X)), dtype=getattr(torch, _dtype(value)), device=X.device
        )
        for value in session.get_outputs()
        if value.name in names
    }


def _bind(bind, name: str, tensor: torch.Tensor) -> None:
    dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    index = tensor.device.index or 0
    bind(name, tensor.device.type, index, dtype, tuple(tensor.shape), tensor.data_ptr())


def _synchronize(X: torch.Tensor) -> None:
    """Wait for what torch was asked to do where `X` is: onnxruntime has a stream of its own."""
    import torch

    if X.is_cuda:
        torch.cuda.current_stream(X.device).synchronize()


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
