"""What `PostShiftClassifier` has to beat, from no observations at all to as many as it makes.

A method is a function ``method(problem) -> Result``. Searches keep what scored best on the
validation rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import TunedThresholdClassifierCV

from benchmarks.baselines import SHIFT_DECAY, SHIFT_GRID
from benchmarks.problem import KnownAnswers
from benchmarks.tasks import Split
from sk_metricopt._weighting import calibration

CV = 5
THRESHOLDS = 100  # of TunedThresholdClassifierCV, in each fold


@dataclass(frozen=True, eq=False)
class Problem:
    """A classifier, trained, and what is to be made of it.

    Parameters
    ----------
    estimator : classifier
        Unfitted.
    fitted : classifier
        The same, fitted on the training rows.
    split : Split
    scorer : callable
        ``scorer(estimator, X, y)``, greater is better.
    groups : callable
        ``groups(X)``, index of the group of each row.
    budget : int
        Metric observations.
    seed : int
    """

    estimator: Any
    fitted: Any
    split: Split
    scorer: Callable
    groups: Callable
    budget: int
    seed: int

    @property
    def X_all(self) -> np.ndarray:
        """Training and validation rows."""
        return np.concatenate([self.split.X_train, self.split.X_val])

    @property
    def y_all(self) -> np.ndarray:
        return np.concatenate([self.split.y_train, self.split.y_val])


@dataclass
class Result:
    """A fitted classifier, and what its method says of it."""

    model: Any
    n_observations: int = 0
    claimed_gain: float = float("nan")
    improved: bool = True


class Shifted(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose log-probabilities are shifted, group by group."""

    def __init__(self, estimator, shift: np.ndarray, groups: Callable):
        self.estimator = estimator
        self.shift = shift
        self.groups = groups

    @property
    def classes_(self) -> np.ndarray:
        return self.estimator.classes_

    def fit(self, X, y=None):
        return self

    def predict(self, X) -> np.ndarray:
        scores = log_proba(self.estimator, X) + self.shift[self.groups(X)]
        return self.classes_[scores.argmax(axis=1)]


def log_proba(estimator, X: np.ndarray) -> np.ndarray:
    """Log-probabilities, none below that of 1e-12."""
    return np.log(np.maximum(estimator.predict_proba(X), 1e-12))


class Search:
    """The record of a search for shifts (n_groups, n_classes); the first is zero."""

    def __init__(self, problem: Problem, n_groups: int = 1):
        self.problem = problem
        self.log_proba = log_proba(problem.fitted, problem.split.X_val)
        self.groups = problem.groups(problem.split.X_val) if n_groups > 1 else None
        self.scores: list[float] = []
        self.observe(np.zeros((n_groups, self.log_proba.shape[1])))

    @property
    def left(self) -> int:
        return self.problem.budget - len(self.scores)

    def observe(self, shift: np.ndarray) -> None:
        """Score a shift, if the budget allows for it."""
        if not self.left:
            return
        scores = self.log_proba + (shift[0] if self.groups is None else shift[self.groups])
        model = KnownAnswers(scores, scores.argmax(axis=1))
        split = self.problem.split
        score = float(self.problem.scorer(model, split.X_val, split.y_val))
        if not self.scores or score > max(self.scores):
            self.shift = shift.copy()
        self.scores.append(score)

    def coordinates(self) -> None:
        """Move one shift at a time by ever smaller steps, as `benchmarks.baselines` does."""
        rng, scale = np.random.default_rng(self.problem.seed), 1.0
        n_groups, n_classes = self.shift.shape
        first = 1 if n_classes == 2 else 0  # of two classes one shift is enough
        free = [(g, k) for g in range(n_groups) for k in range(first, n_classes)]
        while self.left:
            for i in rng.permutation(len(free)):
                start = self.shift.copy()
                for step in SHIFT_GRID * scale:
                    moved = start.copy()
                    moved[free[i]] += step
                    self.observe(moved)
            scale *= SHIFT_DECAY

    def result(self) -> Result:
        groups = self.problem.groups if self.groups is not None else _one_group
        gain = max(self.scores) - self.scores[0]
        model = Shifted(self.problem.fitted, self.shift, groups)
        return Result(model, len(self.scores), gain, gain > 0)


def _one_group(X) -> np.ndarray:
    return np.zeros(len(X), dtype=np.intp)


def balancing(problem: Problem, n_groups: int = 1) -> np.ndarray:
    """Shifts that divide probabilities by class shares of the validation rows, in each group."""
    split = problem.split
    groups = problem.groups(split.X_val) if n_groups > 1 else _one_group(split.X_val)
    counts = np.zeros((n_groups, len(problem.fitted.classes_)))
    np.add.at(counts, (groups, split.y_val), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.where(shares > 0, -np.log(np.maximum(shares, 1e-12)), 0.0)


def none(problem: Problem) -> Result:
    """The classifier as it was trained."""
    return Result(problem.fitted, improved=False)


def none_all(problem: Problem) -> Result:
    """The classifier trained on training and validation rows: what more data alone gain."""
    return Result(clone(problem.estimator).fit(problem.X_all, problem.y_all))


def tuned_threshold(problem: Problem) -> Result:
    """scikit-learn's threshold, cross-validated on training and validation rows."""
    model = TunedThresholdClassifierCV(
        clone(problem.estimator), scoring=problem.scorer, cv=CV, thresholds=THRESHOLDS
    )
    model.fit(problem.X_all, problem.y_all)
    return Result(model, THRESHOLDS * CV)


def tuned_threshold_val(problem: Problem) -> Result:
    """scikit-learn's threshold, tuned on the validation rows as they are."""
    model = TunedThresholdClassifierCV(
        FrozenEstimator(problem.fitted),
        scoring=problem.scorer,
        cv="prefit",
        refit=False,
        thresholds=THRESHOLDS,
    )
    model.fit(problem.split.X_val, problem.split.y_val)
    return Result(model, THRESHOLDS)


def bias(problem: Problem) -> Result:
    """Search a shift of each class; with two classes, thresholds at quantiles."""
    search = Search(problem)
    if search.log_proba.shape[1] == 2:
        threshold(search)
    else:
        search.coordinates()
    return search.result()


def threshold(search: Search, weights: np.ndarray | None = None) -> None:
    """Try the quantiles of the log-score difference as thresholds, of weighted rows if asked."""
    levels = np.linspace(0, 1, search.left + 2)[1:-1]
    difference = search.log_proba[:, 0] - search.log_proba[:, 1]
    method = "linear" if weights is None else "inverted_cdf"
    for at in np.quantile(difference, levels, weights=weights, method=method):
        search.observe(np.array([[0.0, at + 1e-9]]))


def bias_balanced(problem: Problem) -> Result:
    """Search shifts from the better of none and those that balance classes."""
    search = Search(problem)
    search.observe(balancing(problem))
    search.coordinates()
    return search.result()


def bias_informed(problem: Problem) -> Result:
    """Search shifts from the starts that post-shifting has, calibrated ones among them.

    With two classes, thresholds at quantiles of the rows of which both classes have as many.
    """
    search, y = Search(problem), problem.split.y_val
    n_classes = search.log_proba.shape[1]
    if n_classes == 2:
        threshold(search, 1 / np.bincount(y)[y])
        return search.result()
    one, equal = np.ones((len(y), 1)), np.ones(len(y))
    calibrated = calibration(np.exp(search.log_proba), y, one, equal)
    search.observe(calibrated)
    search.observe(calibrated + balancing(problem))
    search.coordinates()
    return search.result()


def reweighted(problem: Problem) -> Result:
    """Train again, with classes weighted as if all were as frequent."""
    model = clone(problem.estimator).set_params(class_weight="balanced")
    return Result(model.fit(problem.split.X_train, problem.split.y_train))


def balanced_plugin(problem: Problem) -> Result:
    """Divide probabilities by class shares of the validation rows."""
    return Result(Shifted(problem.fitted, balancing(problem), _one_group))


BASELINES: dict[str, Callable[[Problem], Result]] = {
    "none": none,
    "none_all": none_all,
    "tuned_threshold": tuned_threshold,
    "tuned_threshold_val": tuned_threshold_val,
    "bias": bias,
    "bias_balanced": bias_balanced,
    "bias_informed": bias_informed,
    "reweighted": reweighted,
    "balanced_plugin": balanced_plugin,
}
FREE_OF_BUDGET = ("tuned_threshold", "tuned_threshold_val")  # more evaluations than the others
ON_ALL_ROWS = ("none_all", "tuned_threshold", "post_shift_cv")  # of no use with noisy labels
BINARY_ONLY = ("tuned_threshold", "tuned_threshold_val")
