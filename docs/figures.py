"""Make the figures of docs/method.md from fits of the quickstart: ``python docs/figures.py``.

It takes some minutes, and is run by hand: the images are kept with the page.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sk_metricopt import MetricOptFinetuner

DOCS = Path(__file__).parent
QUICKSTART = SimpleNamespace(
    **runpy.run_path(str(DOCS.parent / "examples" / "quickstart.py"), run_name="quickstart")
)
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"  # Okabe and Ito's
N_SEEDS = 10


def fit(seed: int) -> SimpleNamespace:
    """Return a fit of the quickstart and what its test rows gained."""
    X_train, y_train, X_val, y_val, X_test, y_test = QUICKSTART.load_data(seed)
    net = QUICKSTART.train_net(X_train, y_train, max_epochs=30, seed=seed)
    model = MetricOptFinetuner(
        FrozenEstimator(net), scoring=QUICKSTART.minus_cost, random_state=seed
    )
    model.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    before, after = (QUICKSTART.minus_cost(est, X_test, y_test) for est in (net, model))
    return SimpleNamespace(model=model, test_gain=after - before)


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
    left.legend(loc="upper right", fontsize=9)

    error = model.score_gain_se_
    right.axhline(before, color="black", ls="--", lw=1)
    right.plot(0, euros.min(), "x", color=GREY, ms=9, mew=2)
    right.annotate("best\nobserved", (0, euros.min()), (0, -10), **_BELOW)
    chosen = -model.best_score_
    right.errorbar(1, chosen, error, fmt="D", color=GREEN, ms=7, capsize=4)
    right.annotate("chosen,\njudged", (1, chosen - error), (0, -6), **_BELOW)
    right.set(xlim=(-0.7, 1.7), xticks=[], title="In the end")
    figure.savefig(path, dpi=140)


_BELOW = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9}


def draw_luck(fits: list[SimpleNamespace], path: Path) -> None:
    """Draw what the best observation promised, what was judged, and what test rows gained."""
    seeds = np.arange(len(fits))
    best = [np.nanmax(f.model.observations_["score"]) - f.model.initial_score_ for f in fits]
    judged = [f.model.score_gain_ for f in fits]
    error = [f.model.score_gain_se_ for f in fits]
    test = [f.test_gain for f in fits]
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    axes.axhline(0, color="black", lw=0.8)
    looks = [
        (best, None, "x", GREY, -0.2, "best observed"),
        (judged, error, "D", GREEN, 0.0, "judged, and its standard error"),
        (test, None, "*", ORANGE, 0.2, "test rows"),
    ]
    for values, errors, marker, color, shift, name in looks:
        label = f"{name}: {np.mean(values):.1f} on average"
        style = {"fmt": marker, "color": color, "ms": 8, "mew": 1.5, "capsize": 3}
        axes.errorbar(seeds + shift, values, errors, label=label, **style)
    axes.set(xticks=seeds, xlabel="seed: other rows, another net", ylabel="euros saved per 100 digits")
    axes.set_ylim(bottom=min(0, *test) - 2, top=max(best) * 1.35)
    axes.legend(loc="upper center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Fit, and write both images."""
    matplotlib.use("agg")
    fits = [fit(seed) for seed in range(N_SEEDS)]
    (DOCS / "images").mkdir(exist_ok=True)
    draw_trajectories(fits[0].model, DOCS / "images" / "method_trajectories.png")
    draw_luck(fits, DOCS / "images" / "method_luck.png")


if __name__ == "__main__":
    main()
