"""What the finetuner has to beat: simpler ways to spend the same number of model evaluations.

A baseline is a function ``baseline(problem, budget, seed) -> Outcome``. Each makes exactly `budget`
scored model evaluations, the unchanged net first, and keeps the point that scored best on the
validation rows. A point is a pair: adapter parameters, and a shift of the per-class log-scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.tasks import Split
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import FiLMAdapter

LR = 3e-3
BATCH_SIZE = 256
STEPS_PER_OBSERVATION = 10
SHIFT_OBSERVATIONS = 24  # what mixbias leaves for its closing search
SHIFT_GRID = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
SHIFT_DECAY = 0.6


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
    """

    def __init__(self, net: Any, scorer: Callable, split: Split):
        self.bridge = NetBridge(net)
        self.adapted = AdaptedNet(self.bridge, FiLMAdapter(), "auto", split.X_train[:8])
        self.scorer = scorer
        self.X_val, self.y_val = split.X_val, split.y_val
        # Both sets are encoded in one piece so that a minibatch can be drawn from their union.
        self.rows = self.adapted.encode(np.concatenate([split.X_train, split.X_val]))
        self.y = torch.as_tensor(np.concatenate([split.y_train, split.y_val]))
        self.n_train, self.n_rows = len(split.y_train), len(self.y)
        self.n_classes = len(net.classes_)
        self.val_rows = self.rows.take(torch.arange(self.n_train, self.n_rows))

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
class Outcome:
    """The record of a baseline: every observed score, and the point that scored best."""

    problem: Problem
    budget: int
    scores: list[float] = field(default_factory=list)
    phi: Tensor = field(init=False)
    shift: Tensor = field(init=False)

    def __post_init__(self):
        self.observe(torch.zeros(self.problem.adapted.n_params))

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

    def val_log_scores(self, phi: Tensor) -> Tensor:
        with torch.no_grad():
            return self.problem.adapted.outputs(phi[None], self.problem.val_rows)[0]

    def observe(self, phi: Tensor, shifts: Tensor | None = None) -> None:
        """Score `phi` under each row of `shifts`, as far as the budget goes."""
        if shifts is None:
            shifts = torch.zeros(1, self.problem.n_classes)
        log_scores = self.val_log_scores(phi)
        for shift in shifts[: self.left]:
            score = self.problem.score(log_scores + shift, self.problem.X_val, self.problem.y_val)
            if not self.scores or score > self.best_score:
                self.phi, self.shift = phi.clone(), shift.clone()
            self.scores.append(score)


def no_finetuning(problem: Problem, budget: int, seed: int) -> Outcome:
    """Leave the net as it is; the one observation only reports its score."""
    return Outcome(problem, budget=1)


def bias(problem: Problem, budget: int, seed: int) -> Outcome:
    """Search a per-class shift of the log-scores; with two classes, a threshold."""
    outcome = Outcome(problem, budget)
    _search_shift(outcome, seed)
    return outcome


def loss(problem: Problem, budget: int, seed: int) -> Outcome:
    """Finetune on the cross-entropy of the training rows."""
    outcome = Outcome(problem, budget)
    _descend(outcome, _train_rows, seed, n_observations=outcome.left)
    return outcome


def mixloss(problem: Problem, budget: int, seed: int) -> Outcome:
    """Finetune on the cross-entropy of training and validation rows, half a batch each."""
    outcome = Outcome(problem, budget)
    _descend(outcome, _mixed_rows, seed, n_observations=outcome.left)
    return outcome


def mixbias(problem: Problem, budget: int, seed: int) -> Outcome:
    """Spend the last observations of `mixloss` on a shift of its best point."""
    outcome = Outcome(problem, budget)
    _descend(outcome, _mixed_rows, seed, n_observations=outcome.left - SHIFT_OBSERVATIONS)
    _search_shift(outcome, seed)
    return outcome


BASELINES: dict[str, Callable[[Problem, int, int], Outcome]] = {
    "none": no_finetuning,
    "bias": bias,
    "loss": loss,
    "mixloss": mixloss,
    "mixbias": mixbias,
}


def _train_rows(problem: Problem, generator: torch.Generator) -> Tensor:
    return torch.randint(problem.n_train, (BATCH_SIZE,), generator=generator)


def _mixed_rows(problem: Problem, generator: torch.Generator) -> Tensor:
    half = (BATCH_SIZE // 2,)
    train = torch.randint(problem.n_train, half, generator=generator)
    val = torch.randint(problem.n_train, problem.n_rows, half, generator=generator)
    return torch.cat([train, val])


def _descend(outcome: Outcome, draw_rows: Callable, seed: int, n_observations: int) -> None:
    """Take Adam steps on the cross-entropy, observed every few steps."""
    problem, generator = outcome.problem, torch.Generator().manual_seed(seed)
    phi = torch.zeros(1, problem.adapted.n_params, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=LR)
    for _ in range(n_observations):
        for _ in range(STEPS_PER_OBSERVATION):
            rows = draw_rows(problem, generator)
            log_scores = problem.adapted.outputs(phi, problem.rows.take(rows))[0]
            optimizer.zero_grad()
            cross_entropy(log_scores, problem.y[rows]).backward()
            optimizer.step()
        outcome.observe(phi.detach()[0])


def _search_shift(outcome: Outcome, seed: int) -> None:
    """Spend what is left of the budget on shifts of the best point."""
    if outcome.problem.n_classes == 2:
        _scan_thresholds(outcome)
    else:
        _search_coordinates(outcome, np.random.default_rng(seed))


def _scan_thresholds(outcome: Outcome) -> None:
    """Try the quantiles of the log-score difference as thresholds."""
    log_scores = outcome.val_log_scores(outcome.phi)
    levels = torch.linspace(0, 1, outcome.left + 2)[1:-1]
    thresholds = torch.quantile(log_scores[:, 0] - log_scores[:, 1], levels)
    just_above = thresholds + 1e-5
    outcome.observe(outcome.phi, torch.stack([torch.zeros_like(just_above), just_above], dim=1))


def _search_coordinates(outcome: Outcome, rng: np.random.Generator) -> None:
    """Move the shift of one class at a time, by ever smaller steps."""
    scale = 1.0
    while outcome.left:
        for k in rng.permutation(outcome.problem.n_classes):
            shifts = outcome.shift.repeat(len(SHIFT_GRID), 1)
            shifts[:, k] += torch.as_tensor(SHIFT_GRID * scale, dtype=shifts.dtype)
            outcome.observe(outcome.phi, shifts)
        scale *= SHIFT_DECAY
