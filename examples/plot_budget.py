"""
How many observations are enough
================================

An observation is one evaluation of the net on the validation rows and one call of the scorer. If
the scorer is a function that is nothing. If it is a simulation, an auction or a shop for a day, it
is what finetuning costs. This example measures what is gained with 10, 20, 40, 80 and 160
observations, next to the simplest rival that asks the same number of questions: a random search for
a bonus on each class's log-probability.
"""

# %%
# Rare digits, and a metric that none may be left out of
# ------------------------------------------------------
# The higher the digit, the fewer there are. What counts is the mean recall of the ten classes.

import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

BUDGETS = [10, 20, 40, 80, 160]
N_SEEDS = 3

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
kept = rng.random(len(y)) < 0.8**y
X = (X / 16 + rng.normal(scale=0.15, size=X.shape)).astype(np.float32)[kept]  # a bad camera
y = y[kept]


def mean_recall(y_true, y_pred):
    hits = np.bincount(y_true[y_true == y_pred], minlength=10)
    return (hits / np.bincount(y_true, minlength=10)).mean()


def scorer(estimator, X, y):
    return mean_recall(y, estimator.predict(X))


def random_search(scores, y, seed):
    """Yield the bonus of each class that was best so far, an observation at a time."""
    rng = np.random.default_rng(seed)
    best, best_score = np.zeros(10), mean_recall(y, scores.argmax(axis=1))
    while True:
        yield best
        bonus = best + rng.normal(scale=0.5, size=10)
        score = mean_recall(y, (scores + bonus).argmax(axis=1))
        if score > best_score:
            best, best_score = bonus, score


# %%
# The same net with every budget
# ------------------------------

gains = {"finetuned": np.empty((N_SEEDS, len(BUDGETS)))}
gains["bonus on classes, random search"] = np.empty((N_SEEDS, len(BUDGETS)))
for seed in range(N_SEEDS):
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, train_size=250, stratify=y, random_state=seed
    )
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, train_size=250, stratify=y_rest, random_state=seed
    )
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=5e-3,
        max_epochs=40,
        train_split=None,
        verbose=0,
    ).fit(X_train, y_train)
    before = scorer(net, X_test, y_test)
    log_val, log_test = (np.log(net.predict_proba(part)) for part in (X_val, X_test))
    found = list(itertools.islice(random_search(log_val, y_val, seed), max(BUDGETS)))
    for k, budget in enumerate(BUDGETS):
        finetuner = MetricOptFinetuner(
            FrozenEstimator(net), scoring=scorer, max_observations=budget, random_state=seed
        ).fit(X_train, y_train, X_val=X_val, y_val=y_val)
        searched = mean_recall(y_test, (log_test + found[budget - 1]).argmax(axis=1))
        after = scorer(finetuner, X_test, y_test), searched
        for gain, score in zip(gains.values(), after, strict=True):
            gain[seed, k] = score - before

print("mean gain on test rows:", *gains, sep="  ")
for k, budget in enumerate(BUDGETS):
    print(f"{budget:4} observations:", *(f"{gain[:, k].mean():+10.3f}" for gain in gains.values()))

# %%
# What was gained
# ---------------
# Lines are means over seeds, marks are seeds; where a gain is just 0 the guard left the net as it
# came. Validation labels may be used here, and labels say more than scores do: ten observations are
# enough to choose among a few trajectories. More of them look closer, not further, and gain little
# on this task. The random search knows scores only and gets half as far. It has no guard, either:
# with few observations it did harm.
#
# Where labels may not be used, observations are all there is, see
# :ref:`sphx_glr_auto_examples_plot_opaque_oracle.py`.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
looks = [("o", "-", "#0072b2"), ("^", "--", "#e69f00")]
for i, ((way, gain), (marker, line, color)) in enumerate(zip(gains.items(), looks, strict=True)):
    at = np.array(BUDGETS) * (0.97 + 0.06 * i)
    ax.plot(at, gain.T, marker, color=color, mfc="none", ms=5)
    ax.plot(at, gain.mean(axis=0), line, color=color, lw=2, label=way)
ax.axhline(0, color="#888888", lw=1)
ax.set(xscale="log", xticks=BUDGETS, xticklabels=BUDGETS, xlabel="metric observations")
ax.minorticks_off()
ax.set_ylabel("gain in mean recall on test rows")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
