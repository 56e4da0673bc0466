"""
An opaque oracle: scores only, no labels
========================================

A net reads digits. A customer uses it with another camera, a worse one than took the training
images, and sends images without labels: what they show is confidential. All that is told of a net
is one number, the share of digits that it reads right.

``use_validation_labels=False`` finetunes under these terms: labels of validation rows reach the
scorer and nothing else. The rival asks as often, and searches at random for a bonus on the
log-probability of each class. Finetuning with labels shows how much the missing ones cost.
"""

# %%
# Two cameras
# -----------

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner

N_SEEDS = 4
N_OBSERVATIONS = 60

digits, y = load_digits(return_X_y=True)
sharp = (digits / 16).astype(np.float32)
images = sharp.reshape(-1, 8, 8)
blurred = (images + np.roll(images, 1, axis=2)).reshape(-1, 64) / 2
noise = np.random.default_rng(0).normal(scale=0.15, size=blurred.shape)
customer = (blurred + noise).astype(np.float32)


def share_read_right(estimator, X, y):
    return float(np.mean(estimator.predict(X) == y))


def random_search(scores, y, seed):
    """Return the bonus of each class that made most decisions right."""
    rng = np.random.default_rng(seed)
    best, best_score = np.zeros(10), np.mean(scores.argmax(axis=1) == y)
    for _ in range(N_OBSERVATIONS - 1):
        bonus = best + rng.normal(scale=0.3, size=10)
        score = np.mean((scores + bonus).argmax(axis=1) == y)
        if score > best_score:
            best, best_score = bonus, score
    return best


# %%
# The same net, asked about as often
# ----------------------------------

ways = [
    "as it came",
    "scores only:\nrandom search",
    "scores only:\nfinetuned",
    "with labels:\nfinetuned",
]
scores = np.empty((N_SEEDS, len(ways)))
for seed in range(N_SEEDS):
    train, rest = train_test_split(np.arange(len(y)), train_size=900, stratify=y, random_state=seed)
    val, test = train_test_split(rest, train_size=400, stratify=y[rest], random_state=seed)
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=5e-3,
        max_epochs=20,
        train_split=None,
        verbose=0,
    ).fit(sharp[train], y[train])
    log_val, log_test = (np.log(net.predict_proba(customer[rows])) for rows in (val, test))
    searched = (log_test + random_search(log_val, y[val], seed)).argmax(axis=1)
    scores[seed, :2] = share_read_right(net, customer[test], y[test]), np.mean(searched == y[test])
    for way, labels in [(2, False), (3, True)]:
        finetuner = MetricOptFinetuner(
            FrozenEstimator(net),
            scoring=share_read_right,
            use_validation_labels=labels,
            max_observations=N_OBSERVATIONS,
            random_state=seed,
        ).fit(sharp[train], y[train], X_val=customer[val], y_val=y[val])
        print(f"seed {seed}, labels {labels}: {finetuner.verdict_}")
        scores[seed, way] = share_read_right(finetuner, customer[test], y[test])

for way, score in zip(ways, scores.mean(axis=0), strict=True):
    print(f"read right of test rows: {score:.3f}  {' '.join(way.split())}")

# %%
# What scores tell, and what labels tell
# --------------------------------------
# A dot is a seed, a grey line joins what one seed came to, a thick bar is the mean. Sixty numbers
# from the customer are enough to win back part of what the camera lost. **Finetuning on scores is
# level with the random search** of ten numbers, which is less work: where only scores are told, try
# that first. Finetuning with labels gains more than three times as much: ask for labels, if only
# for a few hundred images.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
at = np.arange(len(ways))
ax.plot(at, scores.T, color="#888888", lw=0.8, marker="o", ms=4)
colors = ["#222222", "#e69f00", "#0072b2", "#0072b2"]
for x, mean, color in zip(at, scores.mean(axis=0), colors, strict=True):
    ax.plot([x - 0.25, x + 0.25], [mean, mean], color=color, lw=5, solid_capstyle="butt")
ax.set(xticks=at, xticklabels=ways, ylabel="share of test digits read right", xlim=(-0.5, 3.5))
ax.spines[["top", "right"]].set_visible(False)
plt.show()
