"""
What a value function learns
============================

The idea of MetricOpt in three pictures. Trajectories of adapter parameters φ are followed and the
metric is observed at a few points of each. A network that reads φ, the value function of the paper,
learns from these points what the metric is, between them as well. Its gradient then joins the
criterion's.

The metric is the macro F1 of a net that was trained on digits with half of the labels drawn
at random.
"""

# %%
# Data with careless labels, and a net trained on them
# -----------------------------------------------------
# Validation rows have the right labels.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.value_functions import AdapterValueFunction


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
X_fit, X_val, y_fit, y_val = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
X_val, X_test, y_val, y_test = train_test_split(
    X_val, y_val, test_size=0.5, stratify=y_val, random_state=0
)
rng = np.random.default_rng(0)
y_fit = np.where(rng.random(len(y_fit)) < 0.5, rng.integers(10, size=len(y_fit)), y_fit)

torch.manual_seed(0)
net = NeuralNetClassifier(
    Net,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=15,
    verbose=0,
    iterator_train__shuffle=True,
).fit(X_fit, y_fit)

# %%
# Finetuning with and without guidance
# -------------------------------------
# The same trajectories are explored. What differs is the agents that follow: in one run they go
# where criterion and value function point, in the other where the criterion points. A subclass
# keeps the points that the value function was shown.


class Remembering(AdapterValueFunction):
    def learn(self, points):
        self.points_ = points
        return super().learn(points)


def finetuned(guidance_weight: float) -> MetricOptFinetuner:
    finetuner = MetricOptFinetuner(
        FrozenEstimator(net),
        scoring="f1_macro",
        value_function=Remembering(),
        guidance_weight=guidance_weight,
        use_validation_labels=False,
        max_observations=120,
        observation_interval=60,  # shorter trajectories than by default, looked at more closely
        random_state=0,
    )
    return finetuner.fit(X_fit, y_fit, X_val=X_val, y_val=y_val)


guided, alone = finetuned(1.0), finetuned(0.0)
print(guided.verdict_)
print("macro F1 on test rows:")
for name, estimator in {"as trained": net, "guided": guided, "criterion alone": alone}.items():
    print(f"  {name:16} {guided.scorer_(estimator, X_test, y_test):.3f}")

# %%
# Three pictures
# --------------
# *Left:* the metric along trajectories. *Middle:* one trajectory, what was observed of it and what
# the value function says of every point, with the ensemble's spread. *Right:* where the value
# function puts the points of all trajectories before it reads the score off: neighbours have
# similar scores.
#
# The middle one is the trajectory along which the metric varies most. The value function sees where
# it falls and not how far, and the spread is no margin for that: it is where members of the
# ensemble differ, not where all of them are wrong.

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")


def draw_trajectories(estimator, phase, color, label, style):
    seen = estimator.observations_
    for k in np.unique(seen["trajectory"][seen["phase"] == phase]):
        own = (seen["trajectory"] == k) & (seen["phase"] == phase)
        left.plot(seen["step"][own], seen["score"][own], style, color=color, label=label, ms=4)
        label = None


draw_trajectories(guided, "explore", GREY, "explored", "-")
draw_trajectories(alone, "guide", BLUE, "agents, criterion alone", "s--")
draw_trajectories(guided, "guide", ORANGE, "agents, guided", "o-")
left.axhline(guided.initial_score_, color="black", linestyle=":", label="as trained")
left.set(xlabel="optimizer steps from the start", ylabel="macro F1, validation rows")
left.legend(fontsize=8, ncols=2, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))

value, points = guided.value_function_, guided.value_function_.points_
scores_of = [points.scores[points.trajectory == k] for k in range(8)]
widest = np.argmax([np.nanmax(scores) - np.nanmin(scores) for scores in scores_of])
own = np.flatnonzero(points.trajectory == widest)
own = own[np.argsort(points.step[own])]
with torch.no_grad():
    phi = torch.as_tensor(points.descriptors[own])
    mean, std = (t.numpy() for t in value.predict(phi, return_std=True))
    embedded = value.embed(torch.as_tensor(points.descriptors)).numpy()
middle.fill_between(points.step[own], mean - 2 * std, mean + 2 * std, color=BLUE, alpha=0.25)
middle.plot(points.step[own], mean, color=BLUE, label="predicted, ± 2 standard deviations")
middle.plot(points.step[own], points.scores[own], "o", color="black", ms=4, label="observed")
middle.set(xlabel="optimizer steps", ylabel="macro F1, validation rows", title="one trajectory")
middle.legend(fontsize=8)

flat = PCA(2, random_state=0).fit(embedded).transform(embedded)
known = np.isfinite(points.scores)
right.plot(*flat[~known].T, ".", color=GREY, ms=2, zorder=0)
shown = right.scatter(*flat[known].T, c=points.scores[known], s=18, cmap="viridis")
figure.colorbar(shown, ax=right, label="macro F1, observed")
right.set(xlabel="first component", ylabel="second component", title="embedding of φ")
plt.show()
