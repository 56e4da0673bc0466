"""Make the figures of docs/method.md and docs/inspection.md: ``python docs/figures.py``.

It takes some minutes, and is run by hand: the images are kept with the page.
"""

from __future__ import annotations

import contextlib
import runpy
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sk_metricopt import MetricOptFinetuner

DOCS = Path(__file__).resolve().parent
QUICKSTART = SimpleNamespace(
    **runpy.run_path(str(DOCS.parent / "examples" / "quickstart.py"), run_name="quickstart")
)
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"  # Okabe and Ito's
N_SEEDS = 10


def load_clean(seed: int) -> tuple[np.ndarray, ...]:
    """Return rows as the quickstart's, with the labels that training rows ought to have."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X_train, X, y_train, y = train_test_split(X, y, train_size=700, stratify=y, random_state=seed)
    X_val, X_test, y_val, y_test = train_test_split(
        X, y, train_size=500, stratify=y, random_state=seed
    )
    return X_train, y_train, X_val, y_val, X_test, y_test


def fit(rows: tuple[np.ndarray, ...], seed: int) -> SimpleNamespace:
    """Return a fit of the quickstart and what its test rows gained."""
    X_train, y_train, X_val, y_val, X_test, y_test = rows
    net = QUICKSTART.train_net(X_train, y_train, max_epochs=30, seed=seed)
    model = MetricOptFinetuner(
        FrozenEstimator(net), scoring=QUICKSTART.minus_cost, random_state=seed
    )
    model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    gain, error = test_gain(net, model, X_test, y_test)
    return SimpleNamespace(model=model, test_gain=gain, test_gain_se=error)


def test_gain(net, model, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return what test rows gained, and its standard error on bootstraps of them."""
    rng = np.random.default_rng(0)
    drawn = [np.arange(len(y)), *rng.integers(len(y), size=(200, len(y)))]
    cost = QUICKSTART.minus_cost
    gains = [cost(model, X[rows], y[rows]) - cost(net, X[rows], y[rows]) for rows in drawn]
    return gains[0], float(np.std(gains[1:]))


def draw_trajectories(model: MetricOptFinetuner, path: Path) -> None:
    """Draw one fit: the score along each trajectory, and what was chosen in the end."""
    seen = {name: np.asarray(column) for name, column in model.observations_.items()}
    euros = -seen["score"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4), sharey=True, width_ratios=[4, 1], layout="constrained"
    )
    guided = seen["phase"] == "guide"
    for trajectory in np.unique(seen["trajectory"][seen["phase"] == "explore"]):
        at = (seen["trajectory"] == trajectory) & (seen["phase"] == "explore")
        label = "trajectories, explored" if trajectory == 0 else None
        left.plot(seen["step"][at], euros[at], "o-", color=BLUE, lw=0.9, ms=3.5, label=label)
    left.plot(seen["step"][guided], euros[guided], "^", color=ORANGE, ms=6, label="agents, guided")
    before = -model.initial_score_
    left.axhline(before, color="black", ls="--", lw=1, label="the net as it came")
    left.set(xlabel="optimizer steps of φ", ylabel="euros per 100 digits, out of fold")
    left.set_title("150 observations of one fit: less is better")
    left.legend(loc="center right", fontsize=9)

    error = model.score_gain_se_
    right.axhline(before, color="black", ls="--", lw=1)
    right.plot(0, euros.min(), "x", color=GREY, ms=9, mew=2)
    right.annotate("best\nobserved", (0, euros.min()), (0, -10), **_BELOW)
    chosen = -model.best_score_
    right.errorbar(1, chosen, error, fmt="D", color=GREEN, ms=7, capsize=4)
    right.annotate("chosen,\njudged", (1, chosen - error), (0, -6), **_BELOW)
    right.set(xlim=(-0.7, 1.7), xticks=[], title="In the end")
    right.set_ylim(bottom=euros.min() - 1.4)
    figure.savefig(path, dpi=140)


_BELOW = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9}


def draw_luck(groups: dict[str, list[SimpleNamespace]], path: Path) -> None:
    """Draw what the best observation promised, what was judged, and what test rows gained."""
    figure, both = plt.subplots(
        2, 1, figsize=(9, 6.4), sharex=True, height_ratios=[1, 1], layout="constrained"
    )
    for axes, (title, fits) in zip(both, groups.items(), strict=True):
        seeds = np.arange(len(fits))
        first = [fit.model.initial_score_ for fit in fits]
        best = [np.nanmax(fit.model.observations_["score"]) for fit in fits] - np.array(first)
        judged = [fit.model.score_gain_ for fit in fits]
        error = [fit.model.score_gain_se_ for fit in fits]
        test = [fit.test_gain for fit in fits]
        test_error = [fit.test_gain_se for fit in fits]
        axes.axhline(0, color="black", lw=0.8)
        looks = [
            (best, None, "x", GREY, -0.2, "best observed"),
            (judged, error, "D", GREEN, 0.0, "judged, ± s.e."),
            (test, test_error, "*", ORANGE, 0.2, "test rows, ± s.e."),
        ]
        for values, errors, marker, color, shift, name in looks:
            label = f"{name}; mean {np.mean(values):.2f}"
            style = {"fmt": marker, "color": color, "ms": 7, "mew": 1.5, "capsize": 3}
            axes.errorbar(seeds + shift, values, errors, label=label, **style)
        changed = sum(fit.model.improved_ for fit in fits)
        axes.set(title=f"{title}: the guard let {changed} of {len(fits)} pass")
        axes.set(xticks=seeds, ylabel="euros saved per 100 digits")
        axes.margins(y=0.08)
        axes.set_ylim(top=max(np.max(best), np.max(np.add(test, test_error))) * 1.25)
        axes.legend(loc="upper center", ncols=3, fontsize=9)
    axes.set_xlabel("seed: other rows, another net")
    figure.savefig(path, dpi=140)


def keep_plots(page: str, names: list[str]) -> None:
    """Run the code of a page, and keep what it plots."""
    run = runpy.run_path(str(DOCS.parent / "tests" / "pages.py"))["run"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run(f"docs/{page}.md")
        for name in names:
            shutil.copy(f"{name}.png", DOCS / "images" / f"{page}_{name}.png")


def main() -> None:
    """Fit, and write all images."""
    matplotlib.use("agg")
    (DOCS / "images").mkdir(exist_ok=True)
    keep_plots("inspection", ["fit", "changed"])
    careless = [fit(QUICKSTART.load_data(seed), seed) for seed in range(N_SEEDS)]
    clean = [fit(load_clean(seed), seed) for seed in range(N_SEEDS)]
    draw_trajectories(careless[0].model, DOCS / "images" / "method_trajectories.png")
    groups = {"A third of the training labels drawn at random": careless, "Clean labels": clean}
    draw_luck(groups, DOCS / "images" / "method_luck.png")


if __name__ == "__main__":
    main()
