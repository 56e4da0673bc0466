"""
F1 of a rare class: a threshold, a finetuned net, or more rows
==============================================================

One digit in ten is an eight, and finding the eights is what counts: **F1** of that class. A net
that was trained with cross-entropy decides at a probability of one half, which F1 has no reason to
like.

Three things can be done with 500 further rows whose labels are known: tune the threshold with
scikit-learn's ``TunedThresholdClassifierCV``, finetune the net with `MetricOptFinetuner`, or train
a new net on all rows, and tune its threshold by cross-validation.
"""

# %%
# Eights, seen by a bad camera
# ----------------------------
# Every seed draws its own training, validation and test rows and its own first weights.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

N_SEEDS = 5

X, y = load_digits(return_X_y=True)
X = X / 16 + np.random.default_rng(0).normal(scale=0.15, size=X.shape)  # a bad camera
X, y = X.astype(np.float32), (y == 8).astype(int)


def new_net(seed):
    torch.manual_seed(seed)
    return NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=5e-3,
        max_epochs=30,
        train_split=None,
        verbose=0,
    )


# %%
# The metric
# ----------
# ``scoring="f1"`` does the same. A scorer is called about two thousand times in a fit, mostly on
# resamples, and two lines of numpy are faster than scikit-learn's function with all its checks.


def f1(y_true, y_pred):
    hits = np.sum((y_true == 1) & (y_pred == 1))
    return 2 * hits / max(np.sum(y_true == 1) + np.sum(y_pred == 1), 1)


# %%
# Five times
# ----------
# The finetuner and the first threshold get the same net and the same validation rows.

ways = ["as trained", "threshold\ntuned", "finetuned", "new net,\nall rows, its\nthreshold tuned"]
scores = np.empty((N_SEEDS, len(ways)))
for seed in range(N_SEEDS):
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, train_size=600, stratify=y, random_state=seed
    )
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, train_size=500, stratify=y_rest, random_state=seed
    )
    net = new_net(seed).fit(X_train, y_train)
    threshold = TunedThresholdClassifierCV(
        FrozenEstimator(net), scoring="f1", cv="prefit", refit=False
    ).fit(X_val, y_val)
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net), scoring=make_scorer(f1), max_observations=60, random_state=seed
    ).fit(X_train, y_train, X_val=X_val, y_val=y_val)
    retrained = TunedThresholdClassifierCV(new_net(seed), scoring="f1", cv=3).fit(
        np.concatenate([X_train, X_val]), np.concatenate([y_train, y_val])
    )
    models = net, threshold, finetuner, retrained
    scores[seed] = [f1_score(y_test, model.predict(X_test)) for model in models]
    print(f"seed {seed}: {finetuner.verdict_}")

for way, score in zip(ways, scores.mean(axis=0), strict=True):
    print(f"F1 on test rows {score:.3f}  {' '.join(way.split())}")

# %%
# What to do with validation rows
# -------------------------------
# A dot is a seed, a grey line joins what one seed came to, a bar is the mean; rivals are orange. A
# better threshold helps, but 60 eights are few, and 50 more of them teach what no threshold can.
# Both the finetuned net and the new one learn from them, and **seeds do not agree which of the two
# is better**. Where a net is quickly trained, try both. Finetuning is for nets that are given, or
# for labels of training rows that cannot be trusted
# (:ref:`sphx_glr_auto_examples_plot_noisy_labels.py`).

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
at = np.arange(len(ways))
ax.bar(at, scores.mean(axis=0), color=["#bbbbbb", "#e69f00", "#0072b2", "#e69f00"], width=0.6)
ax.plot(at, scores.T, color="#444444", lw=0.8, alpha=0.6, marker="o", ms=4)
ax.set(xticks=at, xticklabels=ways, ylabel="F1 of the eights on test rows", ylim=(0, 1))
ax.spines[["top", "right"]].set_visible(False)
plt.show()
