"""
What the guard is for
=====================

The best of many observations is lucky. On a small validation set a finetuned net can look better
than the net as it came and be worse. `MetricOptFinetuner` therefore judges what it chose on
validation rows that had no say in it, and lets it pass only if its gain exceeds ``guard_z``
standard errors.

Sixteen runs show what that does with only 120 validation rows. In eight of them there is next to
nothing to gain: the net was trained on digits of the camera that it is used with. In the others it
was trained on digits of a better one.
"""

# %%
# Runs without a guard
# --------------------
# With ``guard_z=None`` everything passes. The gain that was judged and its standard error are kept,
# so that one run tells what the guard would have done at any ``guard_z``. (It also refuses where a
# class that matters has too few validation rows; here each has twelve.)

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

N_SEEDS = 8
GUARDS = [None, 0, 1, 1.64]

digits, y = load_digits(return_X_y=True)
sharp = (digits / 16).astype(np.float32)
images = sharp.reshape(-1, 8, 8)
blurred = (images + np.roll(images, 1, axis=2)).reshape(-1, 64) / 2
noise = np.random.default_rng(0).normal(scale=0.15, size=blurred.shape)
X = (blurred + noise).astype(np.float32)  # the camera in use
trained_on = {"trained on the same camera": X, "trained on a better camera": sharp}


def macro_f1(estimator, X, y):
    counts = np.bincount(y * 10 + estimator.predict(X), minlength=100).reshape(10, 10)
    return np.mean(2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1)))


def judged_and_true_gain(source, seed):
    train, rest = train_test_split(np.arange(len(y)), train_size=500, stratify=y, random_state=seed)
    val, test = train_test_split(rest, train_size=120, stratify=y[rest], random_state=seed)
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=5e-3,
        max_epochs=20,
        train_split=None,
        verbose=0,
    ).fit(source[train], y[train])
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring=macro_f1,
        guard_z=None,
        max_observations=30,
        random_state=seed,
    ).fit(source[train], y[train], X_val=X[val], y_val=y[val])
    gain = macro_f1(finetuner, X[test], y[test]) - macro_f1(net, X[test], y[test])
    return finetuner.score_gain_, finetuner.score_gain_se_, gain


runs = [
    [judged_and_true_gain(source, seed) for seed in range(N_SEEDS)]
    for source in trained_on.values()
]
judged, error, gain = np.transpose(runs, (2, 0, 1))  # each of shape (2, N_SEEDS)

# %%
# What each guard lets through
# ----------------------------


def passes(guard_z):
    if guard_z is None:
        return np.ones_like(judged, dtype=bool)
    return judged > np.maximum(0, guard_z * error)


for name, row in zip(trained_on, range(2), strict=True):
    print(f"{name}: {N_SEEDS} runs")
    for guard_z in GUARDS:
        passed = passes(guard_z)[row]
        kept = np.where(passed, gain[row], 0)
        print(f"  guard_z={guard_z}: {passed.sum()} pass, {(kept < 0).sum()} harmed,", end=" ")
        print(f"mean gain on test rows {kept.mean():+.4f}")

# %%
# Judged, and true
# ----------------
# A mark is a run; below zero it is worse on test rows than the net as it came. A guard lets through
# what is to the right of its line. (Runs at 0, 0 found nothing that scored better.)
#
# Where there is next to nothing to gain, three runs of eight are harmed without a guard. The guard
# stops two of these, and with them some small gains: 120 rows cannot tell them from luck. **The one
# run that stands out is harmed**: a guard is a rule, no proof. Where there is much to gain, all
# runs gain, and nearly all pass. More validation rows are the remedy for either error; without them
# ``guard_z`` is a choice of which is worse.

figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
stands_out = np.divide(judged, error, out=np.zeros_like(judged), where=error > 0)
looks = [("^", "#e69f00"), ("o", "#0072b2")]
for row, (name, (marker, color)) in enumerate(zip(trained_on, looks, strict=True)):
    ax.plot(stands_out[row], gain[row], marker, color=color, mec="#222222", ms=8, label=name)
ax.axhline(0, color="#444444", lw=1)
for guard_z in GUARDS[1:]:
    ax.axvline(guard_z, color="#888888", ls="--", lw=1, zorder=0)
    ax.text(guard_z, 1.01, guard_z, transform=ax.get_xaxis_transform(), ha="center")
ax.set_title("guard_z", fontsize=10, pad=18)
ax.set(
    xlabel="gain as judged on validation rows, in standard errors",
    ylabel="gain in macro-F1 on test rows",
)
ax.legend(frameon=False, loc="upper left")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
