"""Plots show what was observed and what changed, and can be read without colour."""

from __future__ import annotations

import copy
import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline

from sk_metricopt import MetricOptDisplay, MetricOptFinetuner
from tests.inspected import (
    FEW,
    X_NEW,
    X_TEST,
    Y_NEW,
    Y_TEST,
    X,
    Y,
    accuracy,
    finetuner,
    post_shift,
    retriever,
    unchanged,
)
from tests.nets import classifier

OF_FIT = ("trajectories", "budget", "gain")
OF_ROWS = ("calibration", "change")
CASES = {
    **{f"finetuner, {kind}": (finetuner, kind, ()) for kind in OF_FIT},
    **{f"finetuner, {kind}": (finetuner, kind, (X_TEST, Y_TEST)) for kind in OF_ROWS},
    **{f"unchanged, {kind}": (unchanged, kind, ()) for kind in OF_FIT},
    **{f"unchanged, {kind}": (unchanged, kind, (X_TEST, Y_TEST)) for kind in OF_ROWS},
    **{f"post shift, {kind}": (post_shift, kind, ()) for kind in OF_FIT[1:]},
    **{f"post shift, {kind}": (post_shift, kind, (X_TEST, Y_TEST)) for kind in OF_ROWS},
    **{f"retriever, {kind}": (retriever, kind, ()) for kind in OF_FIT},
    "retriever, change": (retriever, "change", (X_NEW, Y_NEW)),
}


@pytest.fixture(autouse=True)
def no_open_figures():
    """Close what a test opened."""
    yield
    plt.close("all")


def shown(name):
    make, kind, rows = CASES[name]
    return MetricOptDisplay.from_estimator(make(), *rows, kind=kind)


def lines(display, label):
    """Curves under one entry of the legend."""
    style = next(line for line in display.ax_.lines if line.get_label() == label)
    return [line for line in display.ax_.lines if line.get_color() == style.get_color()]


def level(display, label):
    """Where a horizontal or vertical line lies."""
    line = next(line for line in display.ax_.lines if line.get_label().startswith(label))
    xs, ys = (np.unique(values) for values in line.get_data())
    return xs[0] if len(xs) == 1 else ys[0]


# every kind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_plot_can_be_drawn_and_says_what_its_axes_are(name):
    display = shown(name)
    assert isinstance(display, MetricOptDisplay)
    assert display.figure_ is display.ax_.figure
    assert display.ax_.get_xlabel() and display.ax_.get_ylabel()
    display.figure_.canvas.draw()


@pytest.mark.parametrize("name", CASES)
def test_what_the_legend_tells_apart_can_be_told_apart_without_colour(name):
    handles = shown(name).ax_.get_legend().legend_handles

    def look(handle):
        parts = [getattr(handle, f"get_{p}", lambda: None)() for p in ("marker", "hatch")]
        hollow = to_rgba(getattr(handle, "get_markerfacecolor", lambda: "none")()) == (1, 1, 1, 1)
        style, width = handle.get_linestyle(), handle.get_linewidth()
        return *map(str, parts), hollow, str(style), width

    for one, other in itertools.combinations(handles, 2):
        assert look(one) != look(other), (one.get_label(), other.get_label())


def test_axes_that_are_given_are_drawn_on_and_display_can_be_plotted_again():
    _, (left, right) = plt.subplots(1, 2)
    display = MetricOptDisplay.from_estimator(finetuner(), kind="budget", ax=left)
    assert display.ax_ is left
    assert display.plot(ax=right) is display
    assert display.ax_ is right
    np.testing.assert_array_equal(left.lines[0].get_data(), right.lines[0].get_data())


# each kind --------------------------------------------------------------------------------------


def test_trajectories_are_the_observations_by_step():
    est, display = finetuner(), shown("finetuner, trajectories")
    seen = est.observations_
    explored = lines(display, "explored")
    numbers = np.unique(seen["trajectory"][seen["phase"] == "explore"])
    assert len(explored) == len(numbers)
    for line, number in zip(explored, numbers, strict=True):
        on = (seen["trajectory"] == number) & (seen["phase"] == "explore")
        assert line.get_xdata().tolist() == [0, *seen["step"][on]]
        assert line.get_ydata().tolist() == [est.initial_score_, *seen["score"][on]]
    assert level(display, "as it came") == est.initial_score_
    assert level(display, "returned") == est.best_score_


def test_guided_agents_are_beside_what_was_predicted_of_them_with_a_band():
    est, display = finetuner(), shown("finetuner, trajectories")
    seen, guided = est.observations_, est.observations_["phase"] == "guide"
    observed = lines(display, "guided")
    predicted = [line for line in lines(display, "predicted, ± its error") if line.get_marker()]
    assert np.sort(np.concatenate([line.get_ydata() for line in observed])).tolist() == sorted(
        seen["score"][guided]
    )
    guesses = np.concatenate([p.get_ydata() for p in predicted if p.get_linestyle() == "--"])
    assert sorted(guesses) == sorted(seen["predicted_score"][guided])
    error = np.sqrt(np.mean((seen["score"] - seen["predicted_score"])[guided] ** 2))
    (band, *_), first = display.ax_.collections, np.unique(seen["trajectory"][guided])[0]
    heights = band.get_paths()[0].vertices[:, 1]
    guess = seen["predicted_score"][guided & (seen["trajectory"] == first)]
    assert heights.max() == pytest.approx(guess.max() + error)
    assert heights.min() == pytest.approx(guess.min() - error)
    start = max(line.get_xdata().max() for line in lines(display, "explored"))
    assert min(line.get_xdata().min() for line in observed) > start


@pytest.mark.parametrize("make", [finetuner, post_shift, retriever])
def test_budget_is_the_best_so_far(make):
    display = MetricOptDisplay.from_estimator(make(), kind="budget")
    scores = make().observations_["score"]
    (best,) = (line for line in display.ax_.lines if "luck included" in line.get_label())
    assert best.get_ydata().tolist() == [max(scores[: i + 1]) for i in range(len(scores))]
    assert best.get_xdata().tolist() == list(range(1, len(scores) + 1))


def test_observations_that_failed_are_left_out():
    calls = itertools.count()

    def fails_at_times(estimator, X, y):
        if next(calls) in (3, 4, 9):
            raise ValueError("busy")
        return accuracy(estimator, X, y)

    est = MetricOptFinetuner(classifier(module__n_classes=3), scoring=fails_at_times, **FEW)
    est.set_params(max_observations=12)
    with pytest.warns(UserWarning, match="busy"):
        est.fit(X[:300], Y[:300])
    failed = np.isnan(est.observations_["score"])
    assert failed.any()
    for kind in ("trajectories", "budget"):
        display = MetricOptDisplay.from_estimator(est, kind=kind)
        assert all(np.isfinite(line.get_ydata()).all() for line in display.ax_.lines)
    (best,) = (line for line in display.ax_.lines if "luck included" in line.get_label())
    assert best.get_xdata().tolist() == (np.flatnonzero(~failed) + 1).tolist()


def test_gain_is_shown_with_its_resamples_and_the_guards_line():
    est, display = finetuner(), shown("finetuner, gain")
    assert level(display, "judged gain") == est.score_gain_
    assert level(display, "guard's line") == est.guard_z * est.score_gain_se_
    assert level(display, "as it came") == 0
    assert sum(bar.get_height() for bar in display.ax_.patches) == len(est.resampled_gains_)
    assert display.ax_.get_title() == est.verdict_


def test_without_guard_there_is_no_line_and_without_judgement_a_word():
    labels = {line.get_label() for line in shown("post shift, gain").ax_.lines}
    assert not any(label.startswith("guard") for label in labels)
    display = shown("unchanged, gain")
    assert [text.get_text() for text in display.ax_.texts] == ["no gain was judged"]
    assert display.ax_.get_title() == unchanged().verdict_


def test_calibration_shows_bins_before_and_after():
    display = shown("finetuner, calibration")
    before, after = (line for line in display.ax_.lines if "error" in line.get_label())
    assert before.get_xdata().tolist() != after.get_xdata().tolist()
    est = finetuner()
    proba = est.predict_proba(X_TEST)
    right = est.classes_[proba.argmax(axis=1)] == Y_TEST
    _, _, share = display.data["bins"][1]
    assert share @ after.get_xdata() == pytest.approx(proba.max(axis=1).mean())
    assert share @ after.get_ydata() == pytest.approx(right.mean())


def test_calibration_of_two_classes_is_of_the_second():
    est = MetricOptFinetuner(classifier(), scoring=accuracy, **FEW | {"max_observations": 1})
    est.fit(X[:300], np.where(Y[:300] == 2, "yes", "no"))
    y = np.where(Y[600:] == 2, "yes", "no")
    display = MetricOptDisplay.from_estimator(est, X[600:], y, kind="calibration")
    assert display.ax_.get_xlabel() == "mean probability of class 'yes'"
    said, is_so, share = display.data["bins"][1]
    assert share @ said == pytest.approx(est.predict_proba(X[600:])[:, 1].mean())
    assert share @ is_so == pytest.approx((y == "yes").mean())


def test_change_of_classes_is_that_of_their_recalls():
    est, display = finetuner(), shown("finetuner, change")
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    old = est.classes_[est.initial_estimator_.predict(X_TEST)]
    recalls = [
        recall_score(Y_TEST, decided, labels=est.classes_, average=None)
        for decided in (old, est.predict(X_TEST))
    ]
    order = np.argsort(recalls[1] - recalls[0])
    counts = [(est.classes_[k] == Y_TEST).sum() for k in order]
    assert names == [f"{est.classes_[k]} ({n})" for k, n in zip(order, counts, strict=True)]
    (before,) = (line for line in display.ax_.lines if line.get_label() == "before")
    assert before.get_xdata().tolist() == recalls[0][order].tolist()
    gained = [line for line in display.ax_.lines if line.get_label() == "gained"]
    ends = np.sort(np.concatenate([line.get_xdata() for line in gained]))
    np.testing.assert_array_equal(ends, np.sort(recalls[1][recalls[1] > recalls[0]]))
    assert any(isinstance(artist, LineCollection) for artist in display.ax_.collections)


def test_of_many_classes_those_that_changed_most_are_shown():
    display = copy.copy(shown("finetuner, change"))
    before = np.linspace(0.2, 0.8, 40)
    change = np.where(np.arange(40) % 2, 0.1, -0.1) * np.arange(40) / 40
    recalls = np.stack([before, before + change])
    display.data = {"recalls": recalls, "classes": np.arange(40), "counts": np.full(40, 9)}
    display.plot()
    names = {label.get_text() for label in display.ax_.get_yticklabels()}
    assert names == {f"{k} (9)" for k in range(10, 40)}
    assert display.ax_.get_title() == "the 30 of 40 classes that changed most"


def test_classes_without_rows_are_left_out():
    rows = Y_TEST != "yes"
    display = MetricOptDisplay.from_estimator(
        finetuner(), X_TEST[rows], Y_TEST[rows], kind="change"
    )
    names = {label.get_text().split()[0] for label in display.ax_.get_yticklabels()}
    assert names == {"no", "maybe"}


def test_change_of_queries_counts_who_gained_and_lost():
    est, display = retriever(), shown("retriever, change")
    values = [est.scorer_.per_query(model, X_NEW, Y_NEW) for model in (est.initial_estimator_, est)]
    change = values[1] - values[0]
    entries = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert sorted(entries) == sorted(
        [
            f"{(change > 1e-12).sum()} gained",
            f"{(change < -1e-12).sum()} lost",
            f"{(np.abs(change) <= 1e-12).sum()} the same",
        ]
    )
    assert display.ax_.get_ylabel() == "change in mean_average_precision_at_r"


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, rows, kind, error, message",
    [
        (finetuner, (), "loss", ValueError, "'kind' parameter.*'trajectories'"),
        (finetuner, (), "change", ValueError, "needs X and y for kind='change'"),
        (finetuner, (X_TEST,), "calibration", ValueError, "needs X and y"),
        (post_shift, (), "trajectories", ValueError, "PostShiftClassifier, which has no traj"),
        (retriever, (X_NEW, Y_NEW), "calibration", ValueError, "which has no probabilities"),
        (lambda: clone(finetuner()), (), "budget", NotFittedError, "not fitted"),
        (lambda: make_pipeline(finetuner()), (), "budget", TypeError, "Got Pipeline instead"),
        (finetuner, (X_TEST, Y_TEST[:9]), "change", ValueError, "inconsistent numbers"),
    ],
)
def test_bad_input_is_named(make, rows, kind, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        MetricOptDisplay.from_estimator(make(), *rows, kind=kind)


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"sk_metricopt\[inspection\]"):
        MetricOptDisplay.from_estimator(finetuner(), kind="budget")
