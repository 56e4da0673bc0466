"""What else could be done with the same labels: train again, or go on training all weights.

A method is a function ``method(case) -> Result``, as in `benchmarks.gain`. None of them judges its
own gain on rows that had no say in it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import TunedThresholdClassifierCV
from torch.nn.functional import cross_entropy

from benchmarks.baselines import BATCH_SIZE, STEPS_PER_OBSERVATION
from benchmarks.models import base_net, train_base
from benchmarks.tasks import Split

if TYPE_CHECKING:
    from benchmarks.gain import Case, Result

BALANCES = (0.0, 0.5, 1.0)  # exponents of inverse class frequency, of which one is chosen
LEARNING_RATES = (1e-3, 1e-4)  # share the observations


def weighted(case: Case) -> Result:
    """Train again with class weights; the exponent is chosen on the validation rows."""
    nets = [_weighted_net(case, balance) for balance in BALANCES]
    scores = [case.validation_score(net) for net in nets]
    best = int(np.argmax(scores))
    return case.result(nets[best], scores[best] - scores[0], len(scores))


def refit(case: Case) -> Result:
    """Train again on training and validation rows; the metric has no say."""
    return case.result(_refitted(case, 0.0), np.nan, 0)


def weighted_refit(case: Case) -> Result:
    """Choose the class weights as `weighted` does, then train on all rows with these."""
    scores = [case.validation_score(_weighted_net(case, balance)) for balance in BALANCES]
    best = int(np.argmax(scores))
    return case.result(_refitted(case, BALANCES[best]), scores[best] - scores[0], len(scores))


def tuned_threshold(case: Case) -> Result:
    """scikit-learn's threshold, cross-validated on training and validation rows."""
    rows = _all_rows(case.split)
    model = TunedThresholdClassifierCV(clone(base_net(rows, case.seed)), scoring=case.task.scorer)
    torch.manual_seed(case.seed)
    model.fit(rows.X_train, rows.y_train)
    return case.result(model, np.nan, model.get_params()["thresholds"] * 5)


def all_weights_val(case: Case) -> Result:
    """Go on training all weights on the validation rows; the best checkpoint is kept."""
    return _go_on(case, share=1.0)


def all_weights_mix(case: Case) -> Result:
    """Go on training all weights on as many training as validation rows."""
    return _go_on(case, share=0.5)


def all_weights_held_out(case: Case) -> Result:
    """Go on training on training rows and half of the validation rows; the others choose."""
    half = np.random.default_rng(case.seed).permutation(len(case.split.y_val)) % 2 == 0
    return _go_on(case, share=0.5, trained=half, judged=~half)


def _weighted_net(case: Case, balance: float):
    if not balance:
        return case.net
    return case.once(("weighted", balance), lambda: _trained(case, case.split, balance))


def _refitted(case: Case, balance: float):
    rows = _all_rows(case.split)
    return case.once(("refitted", balance), lambda: _trained(case, rows, balance))


def _trained(case: Case, rows: Split, balance: float):
    weight = case.problem.class_weight(balance) if balance else None
    return train_base(rows, case.seed, weight)


def _all_rows(split: Split) -> Split:
    return replace(
        split,
        X_train=np.concatenate([split.X_train, split.X_val]),
        y_train=np.concatenate([split.y_train, split.y_val]),
    )


def _go_on(case: Case, share: float, trained=slice(None), judged=slice(None)) -> Result:
    """Train copies of the net by each learning rate, observed every few steps.

    `trained` and `judged` say which validation rows are for what.
    """
    X, y = case.split.X_val, case.split.y_val
    rows = replace(case.split, X_val=X[trained], y_val=y[trained])
    best, scores = case.net, [case.score(case.net, X[judged], y[judged])]
    n_each = (case.budget - 1) // len(LEARNING_RATES)
    for lr in LEARNING_RATES:
        net = copy.deepcopy(case.net)
        for _ in _trained_on(net, rows, case.seed, share, lr, n_each):
            score = case.score(net, X[judged], y[judged])
            if score > max(scores):
                best = copy.deepcopy(net)
            scores.append(score)
    return case.result(best, max(scores) - scores[0], len(scores))


def _trained_on(net, split: Split, seed: int, share: float, lr: float, n_observations: int):
    """Take steps on all weights, as the net was trained; yield whenever it is to be observed."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(split.X_train, split.y_train, 1 - share), (split.X_val, split.y_val, share)]
    parts = [(torch.as_tensor(X), torch.as_tensor(y), n) for X, y, n in parts if n]
    optimizer = torch.optim.Adam(net.module_.parameters(), lr=lr)
    for _ in range(n_observations):
        net.module_.train()
        for _ in range(STEPS_PER_OBSERVATION):
            rows = [
                torch.randint(len(y), (round(n * BATCH_SIZE),), generator=generator)
                for _, y, n in parts
            ]
            X = torch.cat([X[drawn] for (X, _, _), drawn in zip(parts, rows, strict=True)])
            y = torch.cat([y[drawn] for (_, y, _), drawn in zip(parts, rows, strict=True)])
            optimizer.zero_grad()
            cross_entropy(net.module_(X), y).backward()
            optimizer.step()
        net.module_.eval()
        yield
