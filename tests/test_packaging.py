"""What an installed sk_metricopt asks for and ships."""

from __future__ import annotations

import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sk_metricopt

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))[
    "project"
]
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def required(extra: str) -> set[str]:
    """Names that an extra installs, with the extras of our own that it builds on."""
    names = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            names = names.union(*(required(inner) for inner in requirement.extras))
        else:
            names.add(requirement.name)
    return names


def test_onnx_extra_pulls_no_runtime():
    assert required("onnx")
    assert not required("onnx") & RUNTIMES


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_no_extra_pulls_both_runtimes(extra):
    assert not required(extra) >= RUNTIMES


def test_core_requirements_leave_the_torch_build_to_the_user():
    core = {req.name: req for req in map(Requirement, PROJECT["dependencies"])}
    assert not core["torch"].specifier
    assert not core.keys() & RUNTIMES
    assert "onnx" not in core


def test_constraints_pin_torch():
    lines = Path(__file__).parents[1].joinpath("constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [pin.name for pin in pins if str(pin.specifier).startswith("==")] == ["torch"]


def test_type_hints_are_shipped():
    assert resources.files("sk_metricopt").joinpath("py.typed").is_file()


def test_installed_version_is_the_one_in_the_source():
    try:
        installed = metadata.version(PROJECT["name"])
    except metadata.PackageNotFoundError:
        pytest.skip("sk-metricopt runs from a source tree that is not installed")
    assert installed == sk_metricopt.__version__, "install again: the version in the source moved"
