"""
A cost matrix in euros: decide by expected cost first
=====================================================

A machine reads digits of amounts. A digit that is read wrong costs the difference in euros: a nine
read as a one costs eight, read as an eight it costs one. A clerk reads any digit right for 50
cents. What counts is **euros per 100 digits**.

Costs need no finetuning to be taken into account: the decision with the least expected cost is one
line. This example measures how much that line saves, and how much is left for calibration and for
`MetricOptFinetuner` after it.
"""

# %%
# The costs, and the decision
# ---------------------------
# A row of the matrix for each true digit, a column for each decision; the last one is the clerk.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

N_SEEDS = 5
CLERK = 0.50  # euros for one digit

digit = np.arange(10)
COSTS = np.c_[np.abs(digit[:, None] - digit), np.full(10, CLERK)]  # euros, (10, 11)


def euros(decided, y):
    return 100 * COSTS[y, decided].mean()


def cheapest(model, X):
    return (model.predict_proba(X) @ COSTS).argmin(axis=1)


def minus_euros(estimator, X, y):
    """Score an estimator; the decision is part of the metric."""
    return -euros(cheapest(estimator, X), y)


# %%
# Nets
# ----
# The net was trained on 700 rows. Another 400 are there to tune with.

X, y = load_digits(return_X_y=True)
X = X / 16 + np.random.default_rng(0).normal(scale=0.15, size=X.shape)  # a bad camera
X = X.astype(np.float32)


def new_net(seed):
    torch.manual_seed(seed)
    return NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=5e-3,
        max_epochs=30,
        train_split=None,
        verbose=0,
    )


ways = [
    "most probable digit",
    "least expected cost",
    "... of calibrated probabilities",
    "... of the finetuned net",
    "... of a new net on all rows",
]
spent = np.empty((N_SEEDS, len(ways)))
for seed in range(N_SEEDS):
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, train_size=700, stratify=y, random_state=seed
    )
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, train_size=400, stratify=y_rest, random_state=seed
    )
    net = new_net(seed).fit(X_train, y_train)
    calibrated = CalibratedClassifierCV(FrozenEstimator(net), method="temperature")
    calibrated.fit(X_val, y_val)
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net), scoring=minus_euros, max_observations=60, random_state=seed
    ).fit(X_train, y_train, X_val=X_val, y_val=y_val)
    retrained = new_net(seed).fit(
        np.concatenate([X_train, X_val]), np.concatenate([y_train, y_val])
    )
    decisions = [net.predict(X_test)]
    decisions += [cheapest(model, X_test) for model in (net, calibrated, finetuner, retrained)]
    spent[seed] = [euros(decided, y_test) for decided in decisions]
    print(f"seed {seed}: {finetuner.verdict_}")

for way, cost in zip(ways, spent.mean(axis=0), strict=True):
    print(f"{cost:5.1f} euros per 100 test digits  {way}")

# %%
# What each way costs
# -------------------
# A dot is a seed, a bar the mean; rivals are orange. **The line of numpy halves the bill**, and
# here finetuning adds nothing to it: the guard let two nets of five pass, and on average they are
# no better. Training labels are right, and the decision is already the best one for the
# probabilities. Then rows are better used to train a new net. With careless training labels this is
# otherwise, see :ref:`sphx_glr_auto_examples_plot_noisy_labels.py`.

figure, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
at = np.arange(len(ways))
colors = ["#bbbbbb", "#e69f00", "#e69f00", "#0072b2", "#e69f00"]
ax.barh(at, spent.mean(axis=0), color=colors, height=0.6)
ax.plot(spent.T, np.broadcast_to(at[:, None], spent.T.shape), "o", color="#222222", ms=4, mfc="w")
ax.set(yticks=at, yticklabels=ways, xlabel="euros per 100 test digits (less is better)")
ax.invert_yaxis()
ax.spines[["top", "right"]].set_visible(False)
plt.show()
