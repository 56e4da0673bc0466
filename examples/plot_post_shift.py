"""
Rare classes and any classifier: weights that the metric asks for
=================================================================

A random forest reads digits, most of which are zeros and ones: the higher the digit, the fewer
there are. It is accurate, and overlooks the rare ones. What counts here is the **G-mean**, the
geometric mean of the recalls of all ten classes, which is a number between 0 and 1 that no class
can be left out of.

`PostShiftClassifier` finds weights on the forest's probabilities from 50 observations of that
metric. It knows no formula: it tries some weights, watches what the metric does, and infers which
it would like.
"""

# %%
# Digits, the high ones rare
# --------------------------
# Each digit is .8 times as frequent as the one before it, in all rows: those to train on and those
# for the numbers at the end, which nothing else touches.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import train_test_split

from sk_metricopt import PostShiftClassifier

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
share = 0.8 ** np.arange(10)
kept = rng.random(len(y)) < share[y]
X, y = X[kept] + rng.normal(scale=5, size=(kept.sum(), 64)), y[kept]  # a bad camera
X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
print("rows to fit on, by digit:", np.bincount(y))


def g_mean(y_true, y_pred):
    return float(np.prod(recall_score(y_true, y_pred, average=None)) ** 0.1)


# %%
# Fit
# ---
# With ``cv=5`` no row is set aside: the metric is observed on predictions of forests that did not
# see the row. The forest that is kept has seen all of them.

forest = RandomForestClassifier(n_estimators=100, min_samples_leaf=2, random_state=0)
model = PostShiftClassifier(forest, scoring=make_scorer(g_mean), cv=5, random_state=0).fit(X, y)
print(model.verdict_)
print(f"{model.n_observations_} observations, {model.n_scorer_calls_} calls of the scorer")

before, after = (g_mean(y_test, est.predict(X_test)) for est in (model.estimator_, model))
print(f"G-mean on test rows: {before:.3f} as trained, {after:.3f} with weights")

# %%
# What it found
# -------------
# Weights grow with rarity, though not in proportion: a digit that is easily told from others needs
# less. On test rows the rare digits are found far more often; ones and twos pay for it.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.bar(np.arange(10), model.weights_, color="#4c72b0")
left.set(xticks=np.arange(10), xlabel="digit", ylabel="weight", title="Weights on probabilities")

recalls = [
    recall_score(y_test, est.predict(X_test), average=None) for est in (model.estimator_, model)
]
right.plot(recalls[0], "o--", color="#8c8c8c", label=f"as trained (G-mean {before:.2f})")
right.plot(recalls[1], "s-", color="#c44e52", label=f"with weights (G-mean {after:.2f})")
right.set(xticks=np.arange(10), ylim=(-0.03, 1.03), xlabel="digit", ylabel="recall")
right.set_title("Recall on test rows; rarer to the right")
right.legend(loc="lower left")
plt.show()
