"""What benchmark tasks are judged by: ordinary scikit-learn scorers.

In vectorised numpy, because a scorer runs thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import make_scorer


def confusion(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count rows by true class (axis 0) and predicted class (axis 1).

    Examples
    --------
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]))
    array([[1, 0],
           [1, 1]])
    """
    y, predicted = np.asarray(y), np.asarray(predicted)
    size = int(max(y.max(), predicted.max())) + 1
    return np.bincount(y * size + predicted, minlength=size * size).reshape(size, size)


def f_beta(y: np.ndarray, predicted: np.ndarray, beta: float = 1.0) -> float:
    """F-beta of class 1."""
    truth, found = np.asarray(y) == 1, np.asarray(predicted) == 1
    hits = np.count_nonzero(truth & found)
    weighted = beta**2 * np.count_nonzero(truth) + np.count_nonzero(found)
    return (1 + beta**2) * hits / weighted if weighted else 0.0


def g_mean(y: np.ndarray, predicted: np.ndarray) -> float:
    """Geometric mean of the recalls of the classes in `y`."""
    counts = confusion(y, predicted)
    support = counts.sum(axis=1)
    recalls = counts.diagonal()[support > 0] / support[support > 0]
    return float(np.exp(np.log(recalls).mean())) if recalls.min() > 0 else 0.0


def macro_f1(y: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in `y` or among the predictions."""
    counts = confusion(y, predicted)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    seen = total > 0
    return float(np.mean(2 * counts.diagonal()[seen] / total[seen]))


def quadratic_weighted_kappa(y: np.ndarray, predicted: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights, for ordered classes."""
    counts = confusion(y, predicted)
    grade = np.arange(len(counts))
    weights = (grade[:, None] - grade) ** 2
    chance = counts.sum(axis=1)[:, None] * counts.sum(axis=0) / counts.sum()
    expected = np.sum(weights * chance)
    return 1.0 - float(np.sum(weights * counts) / expected) if expected else 0.0


def _precision_recall(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each distinct threshold, from the highest down."""
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(np.asarray(y)[order] == 1)
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits = hits[last_of_tie]
    return hits / (last_of_tie + 1), hits / max(hits[-1], 1)


def average_precision(y: np.ndarray, score: np.ndarray) -> float:
    """Average precision of class 1."""
    precision, recall = _precision_recall(y, score)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_at_recall(y: np.ndarray, score: np.ndarray, recall: float = 0.8) -> float:
    """Best precision of class 1 among the thresholds that reach `recall`."""
    precision, reached = _precision_recall(y, score)
    return float(precision[reached >= recall].max(initial=0.0))


def auroc(y: np.ndarray, score: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative that are in order; 0.5 without pairs."""
    positive = np.asarray(y) == 1
    n_pairs = np.count_nonzero(positive) * np.count_nonzero(~positive)
    if not n_pairs:
        return 0.5
    n_positive = np.count_nonzero(positive)
    above = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / n_pairs)


@dataclass(frozen=True)
class MoneyScorer:
    """A plain callable scorer: minus the mean cost of a decision, in units of money.

    Parameters
    ----------
    costs : tuple of tuple of float
        ``costs[i][j]`` is what deciding class ``j`` costs for a row of class ``i``.
    """

    costs: tuple[tuple[float, ...], ...]

    def __call__(self, estimator, X, y) -> float:
        return -float(np.asarray(self.costs)[np.asarray(y), estimator.predict(X)].mean())


@dataclass(frozen=True)
class CostPerRowScorer:
    """Minus the mean cost of a decision between two classes, where rows differ in what they cost.

    Parameters
    ----------
    column : int
        Feature that a wrongly found row's cost grows with.
    found : float
        What deciding 1 costs for a row of class 0, and again for each unit of the feature above 0.
    missed : float
        What deciding 0 costs for a row of class 1.
    """

    column: int
    found: float
    missed: float

    def __call__(self, estimator, X, y) -> float:
        y, decided = np.asarray(y), estimator.predict(X)
        of_row = self.found * (1 + np.maximum(X[:, self.column], 0))
        costs = np.where(y == 0, of_row * (decided == 1), self.missed * (decided == 0))
        return -float(costs.mean())


@dataclass(frozen=True)
class WorstGroupScorer:
    """The least score of two groups of rows, which the scorer knows and the net need not.

    Parameters
    ----------
    metric : callable
        ``metric(y, decided)``, greater is better.
    column : int
        Feature that tells groups apart.
    level : float
        What the feature exceeds in one of the groups.
    """

    metric: Callable
    column: int
    level: float

    def __call__(self, estimator, X, y) -> float:
        y, decided = np.asarray(y), estimator.predict(X)
        group = X[:, self.column] > self.level
        return min(self.metric(y[rows], decided[rows]) for rows in (group, ~group) if rows.any())


@dataclass(frozen=True)
class EqualisedOddsScorer:
    """Accuracy less half of what recall and false alarms differ by between two groups.

    Parameters
    ----------
    column : int
        Feature that tells groups apart.
    level : float
        What the feature exceeds in one of the groups.
    """

    column: int
    level: float

    def __call__(self, estimator, X, y) -> float:
        y, decided = np.asarray(y), estimator.predict(X)
        group = X[:, self.column] > self.level
        gaps = [_gap(decided[y == k] == 1, group[y == k]) for k in (0, 1)]
        return float(np.mean(y == decided) - np.mean(gaps))


def _gap(found: np.ndarray, group: np.ndarray) -> float:
    """By how much the share found differs between a group and the other rows."""
    if group.all() or not group.any():
        return 0.0
    return abs(float(found[group].mean() - found[~group].mean()))


# Euro per patient: a specialist visit for a healthy one, treatment begun late for an ill one.
_THYROID_COSTS = MoneyScorer(((0, 40, 60), (150, 0, 30), (600, 200, 0)))
# Cent per block of a scanned page: 1 text, 2 horizontal line, 3 graphic, 4 vertical line,
# 5 picture. Text that is not read is retyped by hand, pictures that are "read" are cleaned up.
_PAGE_COSTS = MoneyScorer(
    (
        (0, 20, 40, 20, 40),
        (10, 0, 5, 5, 5),
        (60, 30, 0, 30, 5),
        (10, 5, 5, 0, 5),
        (60, 30, 5, 30, 0),
    )
)


# Columns of the data sets: 0 or 1, or standardised, as a mail's number of capital letters is.
_ADULT_MALE, _THYROID_FEMALE, _MAIL_CAPITALS = 62, 2, 56


def _on_probability(metric: Callable, **options) -> Callable:
    return make_scorer(metric, response_method="predict_proba", **options)


SCORERS: dict[str, Callable] = {
    "f1": make_scorer(f_beta),
    "f2": make_scorer(f_beta, beta=2.0),
    "g_mean": make_scorer(g_mean),
    "macro_f1": make_scorer(macro_f1),
    "qwk": make_scorer(quadratic_weighted_kappa),
    "average_precision": _on_probability(average_precision),
    "precision_at_recall_80": _on_probability(precision_at_recall),
    "precision_at_recall_95": _on_probability(precision_at_recall, recall=0.95),
    "auroc": _on_probability(auroc),
    "adult_worst_sex_f1": WorstGroupScorer(f_beta, _ADULT_MALE, 0.5),
    "adult_equalised_odds": EqualisedOddsScorer(_ADULT_MALE, 0.5),
    "thyroid_worst_sex_f1": WorstGroupScorer(macro_f1, _THYROID_FEMALE, 0.5),
    "mail_worst_capitals_f1": WorstGroupScorer(f_beta, _MAIL_CAPITALS, 0.0),
    "mail_cost": CostPerRowScorer(_MAIL_CAPITALS, found=5.0, missed=1.0),
    "page_cost": _PAGE_COSTS,
    "thyroid_cost": _THYROID_COSTS,
}


def best_score(metric: str) -> float:
    """The score nothing can exceed: no money lost, or 1."""
    return 0.0 if isinstance(SCORERS[metric], (MoneyScorer, CostPerRowScorer)) else 1.0


def judges_decisions(metric: str) -> bool:
    """Whether ``make_scorer`` made it, from decisions: what threshold tuners ask for."""
    return getattr(SCORERS[metric], "_response_method", None) == "predict"
