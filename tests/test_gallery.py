"""The examples of the gallery that take seconds run, and show what their text says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

EXAMPLES = Path(__file__).parents[1] / "examples"


def rare_class_f1(shown):
    trained, threshold, finetuned, _ = shown["scores"].mean(axis=0)
    assert min(threshold, finetuned) > trained
    assert shown["scores"].shape == (5, 4)


def cost_in_euros(shown):
    spent = shown["spent"].mean(axis=0)
    assert (spent[1:] < 0.75 * spent[0]).all()


def noisy_labels(shown):
    spent = dict(zip(shown["ways"], shown["spent"].mean(axis=1).T, strict=True))
    assert (spent["finetuned"] < spent["as trained"]).all()
    assert (spent["finetuned"] < spent["threshold tuned"])[1:].all()
    assert np.ptp(spent["clean rows only"]) == 0  # the noise is not in them


def fairness_groups(shown):
    worst = shown["scores"].min(axis=2).mean(axis=0)
    assert (worst[1:] > worst[0]).all()


def ordinal_kappa(shown):
    trained, _, finetuned = shown["scores"].mean(axis=0)
    assert (finetuned > trained).all()


def budget(shown):
    gain = shown["gains"]["finetuned"]
    assert gain.shape == (3, 5)
    assert (gain.mean(axis=0) > 0).all()


def guard(shown):
    passed = [shown["passes"](guard_z).sum() for guard_z in shown["GUARDS"]]
    assert passed[0] == 16
    assert passed == sorted(passed, reverse=True)
    assert shown["gain"][1].mean() > shown["gain"][0].mean()


def opaque_oracle(shown):
    came, _, _, with_labels = shown["scores"].mean(axis=0)
    assert with_labels > came


def value_function(shown):
    value, points = shown["value"], shown["points"].observed()
    predicted = value.predict(torch.as_tensor(points.descriptors)).detach().numpy()
    assert spearmanr(predicted, points.scores)[0] > 0.7
    assert (shown["std"] > 0).all()


# More than half a minute each where nothing else runs; `make docs` runs them all.
SLOW = (rare_class_f1, cost_in_euros, noisy_labels, budget, guard)


@pytest.mark.parametrize(
    "shows",
    [
        *(pytest.param(shows, marks=pytest.mark.slow) for shows in SLOW),
        pytest.param(fairness_groups, marks=pytest.mark.data),
        pytest.param(ordinal_kappa, marks=pytest.mark.data),
        opaque_oracle,
        value_function,
    ],
)
def test_example_shows_what_its_text_says(shows, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("MPLBACKEND", "agg")
    pyplot.switch_backend("agg")
    pyplot.close("all")
    name = f"plot_{shows.__name__}"
    # Under a name of its own: skorch pickles what it copies, so classes must be importable.
    shown = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    assert " test " in capsys.readouterr().out
    (number,) = pyplot.get_fignums()
    for ax in pyplot.figure(number).axes:
        if ax.get_label() == "<colorbar>":
            continue
        named = ax.get_xlabel(), ax.get_ylabel()
        assert any(named)
        for name, ticks in zip(named, (ax.get_xticklabels(), ax.get_yticklabels()), strict=True):
            assert name or len(ticks) == len({tick.get_text() for tick in ticks}) > 1
    pyplot.close("all")
    shows(shown)


@pytest.mark.parametrize("name", ["plot_fairness_groups", "plot_ordinal_kappa"])
def test_example_without_its_data_says_what_is_missing(name, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    for folder in (None, str(tmp_path)):
        if folder is None:
            monkeypatch.delenv("SK_METRICOPT_DATA_HOME", raising=False)
        else:
            monkeypatch.setenv("SK_METRICOPT_DATA_HOME", folder)
        with pytest.raises(FileNotFoundError, match="Set the environment variable SK_METRICOPT"):
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
