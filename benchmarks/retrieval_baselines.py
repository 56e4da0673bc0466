"""What the finetuner has to beat in retrieval: simpler ways to spend the same observations.

A baseline is a function ``baseline(problem, budget, seed) -> Outcome`` as in
`benchmarks.baselines`: exactly `budget` scored candidates, the unchanged net first, and the one
that scored best on the validation rows is kept. All work on the adapters that the finetuner's
defaults would choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import cma
import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from benchmarks.problem import Record
from benchmarks.tasks import Split
from sk_metricopt import EmbeddingRetriever
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt.adapters import FiLMAdapter

LR = 3e-3
STEPS_PER_OBSERVATION = 10
TEMPERATURE = 0.1
BATCH_LABELS, BATCH_ITEMS = 24, 8
JITTER = 1.0  # standard deviations of each feature
FAR = -1e9


class KnownEmbeddings(TransformerMixin, BaseEstimator):
    """A fitted retriever whose embeddings of the rows at hand are already there."""

    metric = "cosine"

    def __init__(self, embeddings: np.ndarray):
        self.embeddings = embeddings

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X, y=None):
        return self

    def transform(self, X) -> np.ndarray:
        return self.embeddings


class Problem:
    """A trained net with adapters, its training and validation rows, and the metric.

    Parameters
    ----------
    base : EmbeddingRetriever
        Fitted; it is not modified.
    scorer : callable
        ``scorer(estimator, X, y)``, greater is better.
    split : Split
        The rows; the test rows are not looked at.
    """

    def __init__(self, base: EmbeddingRetriever, scorer: Callable, split: Split):
        self.base, self.scorer = base, scorer
        self.adapted = AdaptedNet(base._bridge(), FiLMAdapter(), "auto", split.X_train[:64])
        self.X_val, self.y_val = split.X_val, split.y_val
        # Both sets are encoded in one piece so that a minibatch can be drawn from their union.
        self.rows = self.adapted.encode(np.concatenate([split.X_train, split.X_val]))
        self.y = torch.as_tensor(np.concatenate([split.y_train, split.y_val]))
        self.n_train, self.n_rows = len(split.y_train), len(self.y)
        self.val_rows = self.rows.take(slice(self.n_train, self.n_rows))
        training = self.rows.take(slice(0, self.n_train))
        self.spread = tuple(t.std(0, correction=0) for t in training.tensors)

    def scores(self, phi: Tensor) -> list[float]:
        """Score each φ of (J, n_params) on the validation rows."""
        with torch.no_grad():
            embedded = self.adapted.outputs(phi, self.val_rows).numpy()
        return [self.scorer(KnownEmbeddings(e), self.X_val, self.y_val) for e in embedded]

    def model(self, phi: Tensor) -> EmbeddingRetriever:
        """Return the retriever that would be deployed."""
        return self.base._with_module(self.adapted.fold(phi))


@dataclass
class Outcome(Record):
    """The record of a baseline: every observed score, and the φ that scored best."""

    phi: Tensor = field(init=False)

    def __post_init__(self):
        self.observe(torch.zeros(1, self.problem.adapted.n_params))

    def observe(self, phi: Tensor) -> list[float]:
        """Score each φ of (J, n_params), as far as the budget goes."""
        phi = phi[: self.left]
        scores = self.problem.scores(phi)
        for one, score in zip(phi, scores, strict=True):
            if not self.scores or score > self.best_score:
                self.phi = one.clone()
            self.scores.append(score)
        return scores


def soft_neighbours(embeddings: Tensor, y: Tensor) -> Tensor:
    """Minus the mean log-probability that a row's soft nearest neighbour has its label."""
    itself = torch.eye(len(y), dtype=torch.bool)
    logits = (embeddings @ embeddings.T / TEMPERATURE).masked_fill(itself, FAR)
    same = (y[:, None] == y) & ~itself
    right = logits.masked_fill(~same, FAR).logsumexp(1) - logits.logsumexp(1)
    return -right[same.any(1)].mean()


class Batches:
    """Draws rows of a few labels, several of each."""

    def __init__(self, y: Tensor, first: int, last: int):
        rows = torch.arange(first, last)
        self.rows_of_label = [rows[y[first:last] == label] for label in y[first:last].unique()]

    def draw(self, generator: torch.Generator) -> Tensor:
        labels = torch.randperm(len(self.rows_of_label), generator=generator)[:BATCH_LABELS]
        some = [self.rows_of_label[label] for label in labels.tolist()]
        return torch.cat(
            [rows[torch.randperm(len(rows), generator=generator)[:BATCH_ITEMS]] for rows in some]
        )


def no_finetuning(problem: Problem, budget: int, seed: int) -> Outcome:
    """Leave the net as it is; the one observation only reports its score."""
    return Outcome(problem, budget=1)


def descend(
    problem: Problem,
    budget: int,
    seed: int,
    *,
    train: bool = False,
    val: bool = False,
    jitter: float = 0.0,
) -> Outcome:
    """Take Adam steps on the soft nearest neighbour criterion, observed every few steps.

    Training and validation rows have a batch each, of equal weight where there are both.
    """
    outcome, generator = Outcome(problem, budget), torch.Generator().manual_seed(seed)
    sources = [Batches(problem.y, 0, problem.n_train)] if train else []
    sources += [Batches(problem.y, problem.n_train, problem.n_rows)] if val else []
    phi = torch.zeros(1, problem.adapted.n_params, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=LR)
    while outcome.left:
        for _ in range(STEPS_PER_OBSERVATION):
            batches = [source.draw(generator) for source in sources]
            embedded = _embedded(problem, phi, torch.cat(batches), jitter, generator)
            parts = embedded.split([len(rows) for rows in batches])
            pairs = zip(parts, batches, strict=True)
            optimizer.zero_grad()
            sum(soft_neighbours(part, problem.y[rows]) for part, rows in pairs).backward()
            optimizer.step()
        outcome.observe(phi.detach())
    return outcome


def _embedded(
    problem: Problem, phi: Tensor, rows: Tensor, jitter: float, generator: torch.Generator
) -> Tensor:
    encoded = problem.rows.take(rows)
    if jitter:  # on the features that enter the first hosts, as the finetuner does by default
        for values, spread in zip(encoded.tensors, problem.spread, strict=True):
            values += jitter * spread * torch.randn(values.shape, generator=generator)
    return problem.adapted.outputs(phi, encoded)[0]


def evolve(problem: Problem, budget: int, seed: int, *, sigma: float) -> Outcome:
    """Evolution strategy with a diagonal covariance matrix (Hansen's CMA-ES)."""
    outcome = Outcome(problem, budget)
    options = {"seed": seed + 1, "verbose": -9, "CMA_diagonal": True}  # seed 0 means the clock
    strategy = cma.CMAEvolutionStrategy(np.zeros(problem.adapted.n_params), sigma, options)
    while outcome.left:
        asked = strategy.ask()
        scores = outcome.observe(torch.tensor(np.array(asked), dtype=torch.float32))
        if len(scores) == len(asked):
            strategy.tell(asked, [-score for score in scores])
    return outcome


BASELINES: dict[str, Callable[[Problem, int, int], Outcome]] = {
    "none": no_finetuning,
    "loss": partial(descend, train=True),
    "vloss": partial(descend, val=True),
    "mixloss": partial(descend, train=True, val=True),
    "mixloss_jitter": partial(descend, train=True, val=True, jitter=JITTER),
    "cma": partial(evolve, sigma=0.05),
    "cma_0.02": partial(evolve, sigma=0.02),
    "cma_0.1": partial(evolve, sigma=0.1),
}
