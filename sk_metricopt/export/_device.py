"""Where a model runs: on the execution provider asked for, which has to be there and to work."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt.export._runtime import CPU, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # distributions that share one folder
_told: set[str] = set()  # why "auto" took the CPU, once per process and reason


class _Unfit(Exception):
    """A provider does not run a model: why, and what to do about it."""


def open_on(content: bytes, device: Any, provider_options: Any) -> InferenceSession:
    """Return a session that runs on `device`, or say why there is none.

    Parameters
    ----------
    content : bytes
        A serialized model.
    device : str
        'cpu', 'cuda', 'cuda:<ordinal>', 'auto' or the name of a provider.
    provider_options : mapping or None
        Options of the provider, in the words of onnxruntime.

    Raises
    ------
    ImportError
        If onnxruntime is missing or broken.
    ValueError
        If no device can run the model, or this one cannot.
    """
    runtime = _runtime("cpu" if device in ("cpu", "auto") else "gpu")
    provider, options = _asked(runtime, device, provider_options)
    if provider == CPU:
        return _loaded(content, options)
    try:
        return _strictly(runtime, content, provider, options)
    except _Unfit as unfit:
        on_cpu = _loaded(content, {})  # raises for a model that runs nowhere
        if device != "auto":
            raise ValueError(
                f"The 'device' parameter of OnnxPredictor must be a device that works here. "
                f"Got {device!r} instead: {unfit}"
            ) from unfit.__cause__
        _tell(str(unfit))
        return on_cpu


def tensor_device(session: InferenceSession) -> tuple[str, int]:
    """Return the kind, 'cpu' or 'cuda', and the ordinal of where a session wants its tensors."""
    provider = session.get_providers()[0]
    if provider not in (CUDA, TENSORRT):
        return "cpu", 0
    return "cuda", int(session.get_provider_options()[provider].get("device_id", 0))


def installed_runtimes() -> list[str]:
    """Return those of the two distributions of onnxruntime that pip has installed."""
    found = []
    for name in _RUNTIMES:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def _runtime(extra: str) -> ModuleType:
    runtime = import_optional_dependency("onnxruntime", extra)
    if hasattr(runtime, "InferenceSession"):
        return runtime
    left = installed_runtimes()
    cure = f"--force-reinstall --no-deps {left[-1]}" if left else f'"sk_metricopt[{extra}]"'
    raise ImportError(
        "The optional dependency 'onnxruntime' has lost its files: onnxruntime and "
        "onnxruntime-gpu share a folder, and uninstalling one takes the files of the other. "
        f"Run: pip install {cure}",
        name="onnxruntime",
    )


def _asked(runtime: ModuleType, device: Any, given: Any) -> tuple[str, dict[str, Any]]:
    """Return the provider that `device` means, and its options."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            "The 'provider_options' parameter of OnnxPredictor must be a dict of the options of "
            f"one provider, or None. Got {given!r} instead. Pass one such as {{'device_id': '1'}}."
        )
    options = dict(given or {})
    cuda = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if cuda and cuda[1] and "device_id" in options:
        raise ValueError(
            "The 'provider_options' parameter of OnnxPredictor must be without 'device_id' where "
            f"the device has an ordinal. Got {options['device_id']!r} beside {device!r}. Leave one "
            "of them out."
        )
    if cuda:
        return CUDA, {**options, "device_id": cuda[1]} if cuda[1] else options
    known = {*runtime.get_all_providers(), *runtime.get_available_providers()}
    named = {"cpu": CPU, "auto": CUDA, **{name: name for name in known}}
    if not isinstance(device, str) or device not in named:
        raise ValueError(
            "The 'device' parameter of OnnxPredictor must be 'cpu', 'cuda', 'cuda:' and an "
            "ordinal, 'auto', or an execution provider that onnxruntime knows, "
            f"{sorted(known)}. Got {device!r} instead. Leave it out to run on the CPU."
        )
    return named[device], options


def _loaded(content: bytes, options: dict[str, Any]) -> InferenceSession:
    """Return a session on the CPU; the fault is the model's if there is none."""
    try:
        return open_session(content, [(CPU, options)])
    except Exception as exc:
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must be an ONNX model that onnxruntime can "
            f"load. Got {len(content)} bytes that it cannot: {exc}. Export again; a file that is "
            "newer than the runtime needs a newer onnxruntime or a lower opset."
        ) from exc


def _strictly(
    runtime: ModuleType, content: bytes, provider: str, options: dict[str, Any]
) -> InferenceSession:
    """Return a session on `provider`; onnxruntime itself goes to the CPU without a word."""
    available = runtime.get_available_providers()
    if provider not in available:
        raise _Unfit(f"this onnxruntime has {available}, not {provider!r}. {_cure(provider)}")
    missing = _preload(runtime) if provider in (CUDA, TENSORRT) else ""
    # What TensorRT has no kernel for stays on the GPU.
    asked = [(provider, options), *([CUDA] if provider == TENSORRT else []), CPU]
    try:
        session = open_session(content, asked)
    except Exception as exc:
        raise _Unfit(f"onnxruntime cannot start {provider}: {exc}. {_cure(provider)}") from exc
    if session.get_providers()[0] != provider:
        raise _Unfit(
            f"onnxruntime cannot start {provider} and fell back to {session.get_providers()[0]}. "
            f"{missing}{_cure(provider)}"
        )
    if not _takes_part(session, provider):
        raise _Unfit(
            f"no node of the model has a kernel of {provider}, so that all would run on the CPU. "
            "Leave 'device' out."
        )
    return session


def _takes_part(session: InferenceSession, provider: str) -> bool:
    """Whether some node runs on `provider`, as far as this onnxruntime tells."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return True
    parts = session.get_provider_graph_assignment_info()
    return not parts or provider in {part.ep_name for part in parts}


def _preload(runtime: ModuleType) -> str:
    """Load the CUDA libraries that pip has installed; return what onnxruntime prints about it.

    A CUDA build of torch that is imported has loaded its own, which serve as well.
    """
    if not hasattr(runtime, "preload_dlls"):  # before onnxruntime 1.21
        return ""
    with redirect_stdout(io.StringIO()) as printed:
        runtime.preload_dlls()
    said = " ".join(printed.getvalue().split())
    return f"{said} " if said else ""


def _cure(provider: str) -> str:
    """Return what to do to have a provider."""
    installed = installed_runtimes()
    if provider not in (CUDA, TENSORRT):
        return "Install an onnxruntime built with it, or leave 'device' out to run on the CPU."
    if len(installed) > 1:
        return (
            "Both onnxruntime and onnxruntime-gpu are installed: they share a folder, and the one "
            "installed last has taken the place of the other. Run: pip uninstall onnxruntime, "
            "then: pip install --force-reinstall --no-deps onnxruntime-gpu"
        )
    if installed == ["onnxruntime"]:
        return 'Run: pip uninstall onnxruntime, then: pip install "sk_metricopt[gpu]"'
    return (
        "See that nvidia-smi finds the GPU, and that CUDA and cuDNN are those that "
        'onnxruntime.print_debug_info() names; pip install "onnxruntime-gpu[cuda,cudnn]" brings '
        "them. Or pass device='cpu'."
    )


def _tell(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"OnnxPredictor runs on the CPU: {reason}", UserWarning, stacklevel=2)
