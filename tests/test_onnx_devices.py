"""Devices of OnnxPredictor: the one asked for runs, or an error says why it does not."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from sk_metricopt.export import OnnxPredictor, _device

CUDA = "CUDAExecutionProvider"
needs_a_build_without_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)


def content(op="Neg"):
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3])
        for name in ("X", "embeddings")
    ]
    node = onnx.helper.make_node(op, ["X"], ["embeddings"])
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def install(folder, *names):
    """Have pip believe that these distributions are installed in `folder`."""
    for name in names:
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


@pytest.fixture
def nothing_told(monkeypatch):
    monkeypatch.setattr(_device, "_told", set())


@pytest.mark.parametrize("device", ["cpu", "CPUExecutionProvider"])
def test_cpu_takes_options_of_its_provider(device):
    predictor = OnnxPredictor(content(), device=device, provider_options={"use_arena": "0"})
    np.testing.assert_array_equal(predictor.transform(np.eye(3)), -np.eye(3))


@needs_a_build_without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1", CUDA])
def test_cuda_that_is_not_there_is_refused(device):
    with pytest.raises(
        ValueError,
        match=f"'device' parameter of OnnxPredictor must be .* Got '{device}' instead: this "
        f"onnxruntime has .*, not '{CUDA}'. .*pip uninstall onnxruntime",
    ):
        OnnxPredictor(content(), device=device)


@needs_a_build_without_cuda
def test_auto_runs_on_the_cpu_and_says_so_once(nothing_told):
    with pytest.warns(UserWarning, match="OnnxPredictor runs on the CPU: this onnxruntime has"):
        predictor = OnnxPredictor(content(), device="auto")
    np.testing.assert_array_equal(predictor.transform(np.eye(3)), -np.eye(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnnxPredictor(content(), device="auto")


def test_provider_that_takes_no_node_is_refused():
    # It starts, is the first of the session, and leaves all to the CPU.
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    with pytest.raises(ValueError, match=f"'{name}' instead: no node of the model has a kernel"):
        OnnxPredictor(content(), device=name)


def test_provider_that_this_build_does_not_have_is_refused():
    absent = set(onnxruntime.get_all_providers()) - set(onnxruntime.get_available_providers())
    name = sorted(absent - {CUDA, "TensorrtExecutionProvider"})[0]
    with pytest.raises(ValueError, match=f"not '{name}'. Install an onnxruntime built with it"):
        OnnxPredictor(content(), device=name)


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1.5", "", None, 0])
def test_device_that_is_none_is_refused(device):
    with pytest.raises(ValueError, match="'device' parameter of OnnxPredictor must be 'cpu', 'cu"):
        OnnxPredictor(content(), device=device)


def test_options_that_do_not_go_with_the_device_are_refused():
    with pytest.raises(TypeError, match="'provider_options' parameter .* Got 'fast' instead"):
        OnnxPredictor(content(), provider_options="fast")
    with pytest.raises(ValueError, match="without 'device_id' where .* Got '0' beside 'cuda:1'"):
        OnnxPredictor(content(), device="cuda:1", provider_options={"device_id": "0"})


@needs_a_build_without_cuda
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_model_that_runs_nowhere_is_to_blame_on_any_device(device, nothing_told):
    with pytest.raises(ValueError, match="'model' parameter of OnnxPredictor must be an ONNX"):
        OnnxPredictor(content("NoSuchOperation"), device=device)


def test_set_params_with_a_device_that_is_refused_changes_nothing():
    predictor = OnnxPredictor(content())
    with pytest.raises(ValueError, match="'device' parameter"):
        predictor.set_params(device="gpu")
    assert predictor.device == "cpu"
    np.testing.assert_array_equal(predictor.transform(np.eye(3)), -np.eye(3))


@needs_a_build_without_cuda
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_two_runtimes_in_one_folder_are_explained(device, tmp_path, monkeypatch, nothing_told):
    install(tmp_path, "onnxruntime", "onnxruntime-gpu")
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        "Both onnxruntime and onnxruntime-gpu are installed: .* Run: pip uninstall onnxruntime, "
        "then: pip install --force-reinstall --no-deps onnxruntime-gpu"
    )
    if device == "cuda":
        with pytest.raises(ValueError, match=message):
            OnnxPredictor(content(), device=device)
    else:
        with pytest.warns(UserWarning, match=message):
            OnnxPredictor(content(), device=device)


@pytest.mark.parametrize(
    "names, command",
    [
        (["onnxruntime-gpu"], "--force-reinstall --no-deps onnxruntime-gpu"),
        (["onnxruntime"], "--force-reinstall --no-deps onnxruntime"),
        ([], r"\"sk_metricopt\[cpu\]\""),
    ],
)
def test_runtime_whose_files_another_took_along_is_explained(names, command, tmp_path, monkeypatch):
    # What is left of its folder still imports, as a namespace with nothing in it.
    install(tmp_path, *names)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(ImportError, match=f"'onnxruntime' has lost its files.* install {command}"):
        OnnxPredictor(content())


@pytest.mark.gpu
def test_cuda_runs_the_session():
    predictor = OnnxPredictor(content(), device="cuda")
    assert predictor._opened().session.get_providers()[0] == CUDA
    np.testing.assert_array_equal(predictor.transform(np.eye(3)), -np.eye(3))


@pytest.mark.gpu
def test_cuda_ordinal_that_no_gpu_has_is_refused():
    with pytest.raises(ValueError, match="'device' parameter of OnnxPredictor .* cannot start"):
        OnnxPredictor(content(), device="cuda:99")
