"""Finetuning on LibAUC's losses, where LibAUC is installed and the metric is one of theirs.

It asks for much that its losses do without: ``pip install --no-deps libauc`` is enough.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from benchmarks.baselines import BATCH_SIZE, LR, STEPS_PER_OBSERVATION
from benchmarks.problem import Outcome, Problem

METRICS = ("auroc", "average_precision", "precision_at_recall_80", "precision_at_recall_95")


def applies(metric: str) -> bool:
    """Whether there is a loss for the metric, and the package."""
    return metric in METRICS and find_spec("libauc") is not None


def libauc(problem: Problem, budget: int, seed: int, metric: str) -> Outcome:
    """Finetune on the AUC margin loss, or on that of average precision, of all labelled rows.

    Half of each minibatch are positives, as LibAUC recommends.
    """
    from libauc.losses import APLoss, AUCMLoss
    from libauc.optimizers import PESG, SOAP

    outcome, generator = Outcome(problem, budget), torch.Generator().manual_seed(seed)
    phi = torch.zeros(1, problem.adapted.n_params, requires_grad=True)
    if metric == "auroc":
        criterion = AUCMLoss(version="v2", device="cpu")
        # Epoch decay would pull φ towards a random vector: it expects weights, which start there.
        plain = {"mode": "adam", "epoch_decay": 0.0, "device": "cpu", "verbose": False}
        optimizer = PESG([phi], criterion, lr=LR, **plain)
    else:
        criterion = APLoss(problem.n_rows, device="cpu")
        optimizer = SOAP([phi], lr=LR, mode="adam", device="cpu", verbose=False)
    pools = [torch.nonzero(problem.y == k)[:, 0] for k in (1, 0)]
    while outcome.left:
        for _ in range(STEPS_PER_OBSERVATION):
            rows = torch.cat([_drawn(pool, BATCH_SIZE // 2, generator) for pool in pools])
            log_scores = problem.adapted.outputs(phi, problem.rows.take(rows))[0]
            score = torch.sigmoid(log_scores[:, 1] - log_scores[:, 0])
            optimizer.zero_grad()
            criterion(score, problem.y[rows], index=rows).backward()
            optimizer.step()
        outcome.observe(phi.detach()[0])
    return outcome


def _drawn(pool: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    return pool[torch.randint(len(pool), (n,), generator=generator)]
