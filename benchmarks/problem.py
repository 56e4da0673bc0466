"""A trained net with adapters, and a record of what was tried on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from benchmarks.tasks import Split
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import BaseAdapter, FiLMAdapter


class KnownAnswers(ClassifierMixin, BaseEstimator):
    """A classifier whose answers for the rows at hand are already there."""

    def __init__(self, proba: np.ndarray, decisions: np.ndarray):
        self.proba = proba
        self.decisions = decisions

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.proba.shape[1])

    def fit(self, X, y=None):
        return self

    def predict_proba(self, X) -> np.ndarray:
        return self.proba

    def predict(self, X) -> np.ndarray:
        return self.decisions


class Problem:
    """A trained net with adapters, its training and validation rows, and the metric.

    Parameters
    ----------
    net : NeuralNetClassifier
        Fitted net; it is not modified.
    scorer : callable
        ``scorer(estimator, X, y)``, greater is better.
    split : Split
        The rows; the test rows are not looked at.
    adapter : BaseAdapter, optional
        `FiLMAdapter` if left out.
    """

    def __init__(
        self, net: Any, scorer: Callable, split: Split, adapter: BaseAdapter | None = None
    ):
        self.bridge = NetBridge(net)
        self.adapted = AdaptedNet(self.bridge, adapter or FiLMAdapter(), "auto", split.X_train[:8])
        self.scorer = scorer
        self.X_val, self.y_val = split.X_val, split.y_val
        # Both sets are encoded in one piece so that a minibatch can be drawn from their union.
        self.rows = self.adapted.encode(np.concatenate([split.X_train, split.X_val]))
        self.y = torch.as_tensor(np.concatenate([split.y_train, split.y_val]))
        self.n_train, self.n_rows = len(split.y_train), len(self.y)
        self.n_classes = len(net.classes_)
        self.val_rows = self.rows.take(torch.arange(self.n_train, self.n_rows))

    def class_weight(self, balance: float) -> Tensor:
        """Weights proportional to ``frequency ** -balance`` in the training rows, 1 on average."""
        counts = torch.bincount(self.y[: self.n_train], minlength=self.n_classes).float()
        weight = counts.clamp_min(1) ** -balance
        return weight * counts.sum() / (weight * counts).sum()

    def score(self, log_scores: Tensor, X: np.ndarray, y: np.ndarray) -> float:
        """Score log-scores of shape (n_samples, n_classes) by the metric."""
        proba = log_scores.softmax(-1).numpy()
        return float(self.scorer(KnownAnswers(proba, self.bridge.decide(proba)), X, y))

    def score_point(self, phi: Tensor, shift: Tensor, X: np.ndarray, y: np.ndarray) -> float:
        """Score a point on other rows, such as the test rows."""
        with torch.no_grad():
            log_scores = self.adapted.outputs(phi[None], self.adapted.encode(X))[0]
        return self.score(log_scores + shift, X, y)


@dataclass
class Record:
    """What a search observed, as far as its budget goes; the first is the model as it came."""

    problem: Any
    budget: int
    scores: list[float] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.budget - len(self.scores)

    @property
    def initial_score(self) -> float:
        return self.scores[0]

    @property
    def best_score(self) -> float:
        return max(self.scores)

    @property
    def changed(self) -> bool:
        return self.best_score > self.initial_score


@dataclass
class Outcome(Record):
    """The record of a baseline: every observed score, and the point that scored best."""

    phi: Tensor = field(init=False)
    shift: Tensor = field(init=False)

    def __post_init__(self):
        self.observe(torch.zeros(self.problem.adapted.n_params))

    def val_log_scores(self, phi: Tensor) -> Tensor:
        with torch.no_grad():
            return self.problem.adapted.outputs(phi[None], self.problem.val_rows)[0]

    def observe(self, phi: Tensor, shifts: Tensor | None = None) -> list[float]:
        """Score `phi` under each row of `shifts`, as far as the budget goes."""
        if shifts is None:
            shifts = torch.zeros(1, self.problem.n_classes)
        log_scores, n_before = self.val_log_scores(phi), len(self.scores)
        for shift in shifts[: self.left]:
            score = self.problem.score(log_scores + shift, self.problem.X_val, self.problem.y_val)
            if not self.scores or score > self.best_score:
                self.phi, self.shift = phi.clone(), shift.clone()
            self.scores.append(score)
        return self.scores[n_before:]
