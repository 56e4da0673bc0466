"""
A live experiment: candidates that people vote on
=================================================

A form reads handwritten digits. Where it is sure it fills the field in, where it is not it leaves
the field to the person, and everybody who was served gives a thumb up or down. The share of thumbs
up is what counts. No function can compute it: it takes people.

So there is no scorer here. A `MetricOptSession` hands out candidates, each a fitted estimator; each
serves 500 people for a while; the session is told the share of thumbs up and its standard error.
Half way the server goes down. All that was told is in the checkpoint, and the session goes on.
"""

# %%
# A net, and people
# -----------------
# The labels that the net was trained on were typed in a hurry: a third of them were drawn at
# random. The people below stand for real ones. Nothing but their votes reaches the session. They
# meet digits of their own, ``X_live``, and those in ``X_test`` are for the numbers at the end.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptSession

SURE = 0.8  # a digit that is less probable is left to the person
PLEASED = {"right": 0.95, "left out": 0.6, "wrong": 0.1}  # chance of a thumb up
N_PEOPLE = 500  # that each candidate serves

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
X = (X / 16 + rng.normal(scale=0.15, size=X.shape)).astype(np.float32)  # a bad camera
X_train, X, y_train, y = train_test_split(X, y, train_size=600, stratify=y, random_state=0)
X_live, X_test, y_live, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)
careless = rng.random(len(y_train)) < 1 / 3
y_train = np.where(careless, rng.integers(10, size=len(y_train)), y_train)

torch.manual_seed(0)
net = NeuralNetClassifier(
    nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=1e-3,
    max_epochs=30,
    train_split=None,
    verbose=0,
).fit(X_train, y_train)


def chance_of_thumb_up(model, X, y):
    proba = model.predict_proba(X)
    filled = np.where(proba.argmax(axis=1) == y, PLEASED["right"], PLEASED["wrong"])
    return np.where(proba.max(axis=1) < SURE, PLEASED["left out"], filled)


def serve(model):
    """Let a model serve some people; return the share of thumbs up and its standard error."""
    met = rng.integers(len(y_live), size=N_PEOPLE)
    thumbs = rng.random(N_PEOPLE) < chance_of_thumb_up(model, X_live[met], y_live[met])
    share = thumbs.mean()
    return share, np.sqrt(share * (1 - share) / N_PEOPLE)


# %%
# The experiment, until the server goes down
# ------------------------------------------
# What is told is on disk before ``tell`` returns. Candidates of one round do not depend on each
# other: they could serve at the same time.

folder = tempfile.TemporaryDirectory()
settings = {"checkpoint_dir": folder.name, "max_observations": 40, "random_state": 0}

session = MetricOptSession(FrozenEstimator(net), X_train, y_train, **settings)
n_told = 0
while n_told < 20:
    (candidate,) = session.ask(1)
    session.tell(candidate.id, *serve(candidate.estimator))
    n_told += 1
session.close()  # a process that is killed lets go of the folder, too
print(f"{n_told} candidates told, then the server went down")

# %%
# The same session again, in another process perhaps
# --------------------------------------------------
# Made with the same net, rows, parameters and seed it is where it was: what was told is read, and
# the next candidate is the one that would have come.

session = MetricOptSession(FrozenEstimator(net), X_train, y_train, **settings)
print(f"goes on with candidate {session.waiting[0]}")
while not session.finished:
    for candidate in session.ask():
        share, error = serve(candidate.estimator)
        session.tell(candidate.id, share, se=error)

# %%
# The result
# ----------
# The guard compares what it chose with the net as it came, by their standard errors. That gain is
# what people said of ``X_live``; the last line is what would be said, without the luck of who was
# asked, of digits that nobody has met.

model = session.result()
print(model.verdict_)
before, after = (chance_of_thumb_up(est, X_test, y_test).mean() for est in (net, model))
print(f"thumbs up on untouched rows: {before:.3f} as trained, {after:.3f} with the result")

# %%
# What was told, and what it came to. Single shares jump about by the luck of 500 votes; what was
# chosen is no candidate that was merely lucky but an average of several, which then served 500
# people of its own.

observations = session.observations
share = observations["score"]
error = np.sqrt(share * (1 - share) / N_PEOPLE)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 3.8), width_ratios=[2.6, 1], layout="constrained", sharey=True
)
looks = {
    "initial": ("s", "#000000", "as trained"),
    "shift": ("v", "#e69f00", "shift of decisions"),
    "explore": ("o", "#56b4e9", "on trajectories"),
    "guide": ("^", "#0072b2", "guided by what was told"),
    "judge": ("D", "#d55e00", "what was chosen"),
}
for phase, (marker, color, label) in looks.items():
    (at,) = np.nonzero(observations["phase"] == phase)
    left.errorbar(at, share[at], error[at], fmt=marker, color=color, label=label, ms=5, lw=1)
left.axvline(n_told - 0.5, color="#666666", ls="--", lw=1)
left.text(n_told - 0.9, 0.735, "server down", color="#444444", ha="right")
left.set(xlabel="candidate", ylabel="share of thumbs up", title="Told, with standard errors")
left.set(ylim=(0.48, 0.76))
left.legend(loc="lower right", fontsize=8, ncols=2)

initial, gain, se = model.initial_score_, model.score_gain_, model.score_gain_se_
right.errorbar(-0.1, initial, error[0], fmt="s", color="#000000")
right.errorbar(
    0.9, initial + gain, se, fmt="D", color="#d55e00", label="told, and its standard error"
)
right.plot([0.1, 1.1], [before, after], "*", ms=12, color="#009e73", label="untouched rows")
right.set(xticks=[0, 1], xticklabels=["as trained", "result"], xlim=(-0.6, 1.6), title="Worth")
right.legend(loc="upper left", fontsize=8)
plt.show()
folder.cleanup()
