"""Files of value functions: what was learned comes back, and nothing else comes in."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from sk_metricopt.value_functions import (
    AdapterValueFunction,
    BaseValueFunction,
    BehaviourValueFunction,
    RetrievalValueFunction,
)
from sk_metricopt.value_functions import _file as files

N_PARAMS = 5


def learned(kind: str) -> tuple[BaseValueFunction, torch.Tensor]:
    """A fitted value function, and descriptors to ask it about."""
    rng = torch.Generator().manual_seed(0)
    if kind.startswith("adapter"):
        phi = torch.randn(40, N_PARAMS, generator=rng)
        most = 3 if kind == "adapter, long" else None
        value = AdapterValueFunction(2, n_steps=10, max_directions=most)
        return value.fit(phi.numpy(), phi[:, 0].double().numpy()), phi
    n_outputs = {"binary": 2, "multiclass": 3, "retrieval": 8}[kind]
    y = torch.arange(60) % (3 if kind == "retrieval" else n_outputs)
    scores = torch.randn(20, 60, n_outputs, generator=rng)
    value = (RetrievalValueFunction if kind == "retrieval" else BehaviourValueFunction)()
    described = value.start(scores[0], y).describe(torch.zeros(20, 0), scores, y)
    return value.fit(described.numpy(), described[:, 0].double().numpy()), described


KINDS = ["binary", "multiclass", "retrieval", "adapter", "adapter, long"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_comes_back(tmp_path, kind):
    value, descriptors = learned(kind)
    value.to_file(tmp_path / "value.safetensors")
    again = BaseValueFunction.from_file(tmp_path / "value.safetensors")
    assert type(again) is type(value)
    assert torch.equal(again.predict(descriptors), value.predict(descriptors))
    assert torch.equal(again.trusted(descriptors), value.trusted(descriptors))
    assert [path.name for path in tmp_path.iterdir()] == ["value.safetensors"]


@pytest.mark.parametrize("kind", ["multiclass", "adapter"])
def test_a_file_is_read_in_a_fresh_process(tmp_path, kind):
    value, descriptors = learned(kind)
    value.to_file(tmp_path / "value")
    np.save(tmp_path / "asked.npy", descriptors.numpy())
    code = (
        "import sys, numpy as np, torch\n"
        "from sk_metricopt.value_functions import BaseValueFunction\n"
        "value = BaseValueFunction.from_file(sys.argv[1] + '/value')\n"
        "asked = torch.as_tensor(np.load(sys.argv[1] + '/asked.npy'))\n"
        "np.save(sys.argv[1] + '/told.npy', value.predict(asked).numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "told.npy"), value.predict(descriptors).numpy(), rtol=1e-6
    )


def test_a_file_can_be_asked_for_by_class(tmp_path):
    learned("retrieval")[0].to_file(tmp_path / "value")
    assert isinstance(BehaviourValueFunction.from_file(tmp_path / "value"), RetrievalValueFunction)
    with pytest.raises(ValueError, match="'path' parameter.*AdapterValueFunction.*Got one of 'Ret"):
        AdapterValueFunction.from_file(tmp_path / "value")


@pytest.mark.parametrize("value", [BehaviourValueFunction(), AdapterValueFunction()])
def test_what_has_learned_nothing_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="has learned nothing yet. Fit it first"):
        value.start(torch.randn(6, 2), torch.arange(6) % 2).to_file(tmp_path / "value")
    assert not list(tmp_path.iterdir())


def test_a_class_that_does_not_tell_its_state_is_named(tmp_path):
    class Constant(BehaviourValueFunction):
        _state, _from_state = BaseValueFunction._state, BaseValueFunction._from_state

    with pytest.raises(TypeError, match="Constant cannot be written to a file.*'_state'"):
        Constant().to_file(tmp_path / "value")


def test_a_file_that_was_there_survives_a_write_that_fails(tmp_path):
    value, descriptors = learned("binary")
    value.to_file(tmp_path / "value")
    value._mean = float("nan")  # JSON has none
    with pytest.raises(ValueError, match="JSON"):
        value.to_file(tmp_path / "value")
    again = BaseValueFunction.from_file(tmp_path / "value")
    assert torch.isfinite(again.predict(descriptors)).all()


# foreign and damaged files ----------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return (print, ("code of a file was run",))


def safetensors_with(metadata: dict, arrays: dict | None = None) -> bytes:
    from safetensors.numpy import save

    return save(arrays or {"0": np.zeros(2)}, metadata)


FOREIGN = {
    "empty": b"",
    "text": b"a value function",
    "pickle": pickle.dumps(Harm()),
    "header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "another safetensors file": safetensors_with({"format": "pt"}),
    "no JSON": safetensors_with({files._FORMAT: "{"}),
    "a list": safetensors_with({files._FORMAT: "[]"}),
    "deep JSON": safetensors_with({files._FORMAT: "[" * 100_000}),
    "a later version": safetensors_with(
        {files._FORMAT: json.dumps({"schema": 99, "kind": "BehaviourValueFunction", "state": {}})}
    ),
    "another class": safetensors_with(
        {files._FORMAT: json.dumps({"schema": 1, "kind": "os.system", "state": {}})}
    ),
    "nothing in it": safetensors_with(
        {files._FORMAT: json.dumps({"schema": 1, "kind": "BehaviourValueFunction", "state": {}})}
    ),
    "no state": safetensors_with(
        {files._FORMAT: json.dumps({"schema": 1, "kind": "BehaviourValueFunction", "state": 3})}
    ),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_by_name_and_runs_nothing(tmp_path, capsys, content):
    (tmp_path / "value").write_bytes(content)
    with pytest.raises(ValueError, match="The 'path' parameter must be"):
        BaseValueFunction.from_file(tmp_path / "value")
    assert not capsys.readouterr().out


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "value", tmp_path):
        with pytest.raises(FileNotFoundError, match="The 'path' parameter must be a file"):
            BaseValueFunction.from_file(path)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    learned("binary")[0].to_file(tmp_path / "value")
    monkeypatch.setattr(files, "_LARGEST", 100)
    with pytest.raises(ValueError, match="more than a value function has"):
        BaseValueFunction.from_file(tmp_path / "value")


def test_a_file_of_more_networks_than_it_has_weights_for_is_refused(tmp_path):
    value, _ = learned("adapter")
    value.n_members = 3
    value.to_file(tmp_path / "value")
    with pytest.raises(ValueError, match="is missing or wrong"):
        BaseValueFunction.from_file(tmp_path / "value")


@pytest.mark.parametrize("kind", ["multiclass", "adapter"])
def test_a_damaged_file_is_refused_by_name_or_gives_finite_predictions(tmp_path, kind):
    value, descriptors = learned(kind)
    value.to_file(tmp_path / "value")
    whole = (tmp_path / "value").read_bytes()
    rng, n_refused = np.random.RandomState(0), 0
    for _ in range(250):
        content = bytearray(whole)
        if rng.rand() < 0.3:
            del content[rng.randint(len(content)) :]
        else:
            end = len(content) if rng.rand() < 0.5 else 1500
            for place in rng.randint(min(end, len(content)), size=rng.randint(1, 4)):
                content[place] = rng.randint(256)
        (tmp_path / "value").write_bytes(content)
        try:
            again = BaseValueFunction.from_file(tmp_path / "value")
        except ValueError as error:
            assert "The 'path' parameter" in str(error)
            n_refused += 1
        else:
            assert again.predict(descriptors[:, : getattr(again, "n_params_", None)]).shape
    assert n_refused > 100
