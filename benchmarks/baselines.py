"""What the finetuner has to beat: simpler ways to spend the same number of model evaluations.

A baseline is a function ``baseline(problem, budget, seed) -> Outcome``. Each makes exactly `budget`
scored model evaluations, the unchanged net first, and keeps the point that scored best on the
validation rows. A point is a pair: adapter parameters, and a shift of the per-class log-scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cma
import numpy as np
import optuna
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.problem import Outcome, Problem

LR = 3e-3
BATCH_SIZE = 256
STEPS_PER_OBSERVATION = 10
SHIFT_OBSERVATIONS = 24  # what mixbias leaves for its closing search
SHIFT_GRID = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
SHIFT_DECAY = 0.6
OBSERVATIONS_PER_TRIAL = 10
MANY = 2000  # about as many calls of the scorer as the finetuner makes, on all rows

DrawRows = Callable[[Problem, torch.Generator], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]


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
    return _finetuned(problem, budget, seed, train_rows)


def balanced(problem: Problem, budget: int, seed: int) -> Outcome:
    """Finetune on the cross-entropy of the training rows with balanced class weights."""
    weight = problem.class_weight(balance=1.0)
    return _finetuned(problem, budget, seed, train_rows, partial(cross_entropy, weight=weight))


def valloss(problem: Problem, budget: int, seed: int) -> Outcome:
    """Finetune on the cross-entropy of the validation rows."""
    return _finetuned(problem, budget, seed, val_rows)


def mixloss(problem: Problem, budget: int, seed: int) -> Outcome:
    """Finetune on the cross-entropy of training and validation rows, half a batch each."""
    return _finetuned(problem, budget, seed, mixed_rows)


def mixbias(problem: Problem, budget: int, seed: int) -> Outcome:
    """Spend the last observations of `mixloss` on a shift of its best point."""
    outcome = Outcome(problem, budget)
    n_shifts = min(SHIFT_OBSERVATIONS, budget // 2)
    descend(outcome, seed, mixed_rows, outcome.left - n_shifts)
    _search_shift(outcome, seed)
    return outcome


def cma_es(problem: Problem, budget: int, seed: int, sigma: float) -> Outcome:
    """Search φ by covariance matrix adaptation, from the net as it is."""
    outcome = Outcome(problem, budget)
    options = {"seed": seed + 1, "verbose": -9}  # 0 would be a seed from the clock
    search = cma.CMAEvolutionStrategy(np.zeros(problem.adapted.n_params), sigma, options)
    while outcome.left:
        asked = search.ask()
        scores = []
        for phi in asked:
            scores += outcome.observe(torch.as_tensor(phi, dtype=torch.float32))
        if len(scores) == len(asked):
            search.tell(asked, [-score for score in scores])
    return outcome


def tpe(problem: Problem, budget: int, seed: int) -> Outcome:
    """Let Optuna choose class weights, learning rate and smoothing of finetuning on the loss."""
    outcome = Outcome(problem, budget)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        weight = problem.class_weight(trial.suggest_float("balance", 0.0, 1.0))
        factors = [trial.suggest_float(f"log_weight_{k}", -1, 1) for k in range(len(weight))]
        criterion = partial(
            cross_entropy,
            weight=weight * torch.tensor(factors).exp(),
            label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.1),
        )
        lr = trial.suggest_float("lr", 5e-4, 2e-2, log=True)
        n = min(OBSERVATIONS_PER_TRIAL, outcome.left)
        return max(descend(outcome, seed, train_rows, n, criterion, lr))

    study.optimize(objective, n_trials=-(-outcome.left // OBSERVATIONS_PER_TRIAL))
    return outcome


BASELINES: dict[str, Callable[[Problem, int, int], Outcome]] = {
    "none": no_finetuning,
    "bias": bias,
    "loss": loss,
    "balanced": balanced,
    "valloss": valloss,
    "mixloss": mixloss,
    "mixbias": mixbias,
    "cma_.02": partial(cma_es, sigma=0.02),
    "cma_.05": partial(cma_es, sigma=0.05),
    "cma_.1": partial(cma_es, sigma=0.1),
    "cma_2000": lambda problem, budget, seed: cma_es(problem, MANY, seed, sigma=0.05),
    "tpe": tpe,
}


def train_rows(problem: Problem, generator: torch.Generator, n: int = BATCH_SIZE) -> Tensor:
    """Draw a minibatch of training rows."""
    return torch.randint(problem.n_train, (n,), generator=generator)


def val_rows(problem: Problem, generator: torch.Generator, n: int = BATCH_SIZE) -> Tensor:
    """Draw a minibatch of validation rows."""
    return torch.randint(problem.n_train, problem.n_rows, (n,), generator=generator)


def mixed_rows(problem: Problem, generator: torch.Generator) -> Tensor:
    """Draw a minibatch of as many training as validation rows."""
    halves = [draw(problem, generator, BATCH_SIZE // 2) for draw in (train_rows, val_rows)]
    return torch.cat(halves)


def _finetuned(
    problem: Problem,
    budget: int,
    seed: int,
    draw_rows: DrawRows,
    criterion: Criterion = cross_entropy,
) -> Outcome:
    outcome = Outcome(problem, budget)
    descend(outcome, seed, draw_rows, outcome.left, criterion)
    return outcome


def descend(
    outcome: Outcome,
    seed: int,
    draw_rows: DrawRows,
    n_observations: int,
    criterion: Criterion = cross_entropy,
    lr: float = LR,
) -> list[float]:
    """Take Adam steps from the net as it is, observed every few steps; return the scores."""
    problem, generator = outcome.problem, torch.Generator().manual_seed(seed)
    phi = torch.zeros(1, problem.adapted.n_params, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=lr)
    scores = []
    for _ in range(n_observations):
        for _ in range(STEPS_PER_OBSERVATION):
            rows = draw_rows(problem, generator)
            log_scores = problem.adapted.outputs(phi, problem.rows.take(rows))[0]
            optimizer.zero_grad()
            criterion(log_scores, problem.y[rows]).backward()
            optimizer.step()
        scores += outcome.observe(phi.detach()[0])
    return scores


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
