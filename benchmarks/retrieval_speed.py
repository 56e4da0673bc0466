"""Measure what a metric observation of a net that embeds costs, and how that grows.

    python -m benchmarks.retrieval_speed

Ratios are of CPU seconds within one run, rivals taking turns, as in `benchmarks.timing`. Memory is
the peak of a process of its own over what it held before, where the system tells (Linux).
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.frozen import FrozenEstimator

from benchmarks.memory import memory, restart_peak
from benchmarks.provenance import machine, provenance
from benchmarks.report import to_markdown
from benchmarks.retrieval_baselines import KnownEmbeddings
from benchmarks.retrieval_tasks import N_COMPONENTS, SCORERS, Trunk
from benchmarks.timing import best_of
from sk_metricopt import EmbeddingRetriever
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._roles import Data, subject_of
from sk_metricopt._scoring import ValidationRows
from sk_metricopt.adapters import FiLMAdapter

PACKAGES = ("torch", "scikit-learn", "skorch", "numpy")
J = 8  # φ evaluated together
N_ROWS, N_ITEMS = 2000, 20  # rows, and rows of a label
GROWTH = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)


def images(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images (n, 1, 28, 28) and labels, `N_ITEMS` rows of each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) // N_ITEMS
    X = rng.standard_normal((y.max() + 1, 1, 28, 28))[y]
    return (X + 2 * rng.standard_normal(X.shape)).astype(np.float32), y


def embeddings(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors in 64 dimensions and labels, `N_ITEMS` rows of each."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) // N_ITEMS
    E = rng.standard_normal((y.max() + 1, N_COMPONENTS))[y]
    E = (E + 1.5 * rng.standard_normal(E.shape)).astype(np.float32)
    return E / np.linalg.norm(E, axis=1, keepdims=True), y


# An observation ---------------------------------------------------------------------------------


def recall_at_1(right: np.ndarray) -> float:
    """Whether the nearest item is a right answer, from right answers (n,) nearest first."""
    return float(right[0])


def map_at_r(right: np.ndarray) -> float:
    """Average precision over the first R items, where R is the number of right answers."""
    n_right = int(right.sum())
    top = right[:n_right]
    return float((np.cumsum(top) / np.arange(1, n_right + 1) * top).sum() / n_right)


NAIVE = {"recall_at_1": recall_at_1, "map_at_r": map_at_r}


class Observing:
    """Ways from φ (J, n_params) to J scores of an embedding net on validation rows."""

    def __init__(self, metric: str):
        torch.manual_seed(0)
        self.metric, self.scorer = metric, SCORERS[metric]
        self.X, self.y = images(N_ROWS)
        self.retriever = EmbeddingRetriever(Trunk().eval()).fit(self.X, self.y)
        self.adapted = AdaptedNet(self.retriever._bridge(), FiLMAdapter(), "auto", self.X[:64])
        self.phi = 0.1 * torch.randn(J, self.adapted.n_params)
        self.weights = [self.adapted.fold(phi).state_dict() for phi in self.phi]
        self.tasks = {folded: self._task(folded) for folded in (False, True)}

    def _task(self, folded: bool):
        """What a fit observes by; `folded` if its twins answer out of fold, as is the default."""
        X, y = images(3 * N_ITEMS, seed=1)  # training rows, of which an observation needs none
        rows = ValidationRows(self.X, self.y)
        data = Data(X, y, {}, self.X, rows, self.scorer, (X, y))
        subject = subject_of(FrozenEstimator(self.retriever), data)
        return subject.task(self.adapted, folded, np.random.RandomState(0), lambda model: model)

    def batched(self, folded: bool) -> list[float]:
        """As a fit does: all φ in one evaluation, the scorer on embeddings that are there."""
        task = self.tasks[folded]
        engine = ObservationEngine(task.scoring, budget=J, caller="benchmark")
        phi = self.phi[:, None].expand(-1, len(task.rows.twin_rows), -1)
        for answers, own in zip(task.answers(phi), phi, strict=True):
            observation = Observation(0, 0, "explore", np.nan)
            engine.observe(observation, task.response(answers, own[-1]))
        return list(engine.scores)

    def one_by_one(self) -> list[float]:
        """Copy the net, set its weights, embed, and sort the gallery for each query."""
        scores = []
        for weights in self.weights:
            retriever = copy.deepcopy(self.retriever)
            retriever.estimator_.module_.load_state_dict(weights)
            E = retriever.transform(self.X)
            scores.append(np.mean([self._one_query(E, i) for i in range(len(E))]))
        return scores

    def _one_query(self, E: np.ndarray, i: int) -> float:
        order = np.argsort(-(E @ E[i]))
        return NAIVE[self.metric](self.y[order[order != i]] == self.y[i])

    def copied(self) -> list[float]:
        """Copy the net, set its weights, and call the scorer that a fit calls."""
        scores = []
        for weights in self.weights:
            retriever = copy.deepcopy(self.retriever)
            retriever.estimator_.module_.load_state_dict(weights)
            scores.append(self.scorer(retriever, self.X, self.y))
        return scores

    def check(self) -> None:
        """Raise unless all ways observe the same."""
        expected = self.one_by_one()
        for scores in (self.copied(), self.batched(False), self.batched(True)):
            # Rounding may swap neighbours that are equally near but for the last digit.
            np.testing.assert_allclose(scores, expected, atol=2e-3)

    def rows(self, repeats: int) -> list[tuple[str, ...]]:
        """Time all ways; return the rows of the table."""
        self.check()
        ways = (partial(self.batched, False), partial(self.batched, True))
        once, folded, copied, naive = best_of(repeats, *ways, self.copied, self.one_by_one)
        name = f"{self.metric}, {N_ROWS} x {N_ROWS} at {N_COMPONENTS}, batches of {J}"
        return [
            (f"{name}: observations per CPU second", f"{J / once:.1f}"),
            ("over a loop of copy, set weights, embed, sort for each query", f"{naive / once:.1f}"),
            ("over a loop of copy, set weights, our scorer", f"{copied / once:.1f}"),
            ("out of fold, two twins for each: observations per CPU second", f"{J / folded:.1f}"),
            ("over that loop of copy, set weights, embed, sort", f"{naive / folded:.1f}"),
        ]


# Growth -----------------------------------------------------------------------------------------


def measure_scorer(metric: str, n_rows: int) -> dict[str, float | None]:
    """CPU seconds and peak memory of one call of the scorer, in this process."""
    torch.set_num_threads(1)
    E, y = embeddings(n_rows)
    SCORERS[metric](KnownEmbeddings(E[:200]), E[:200], y[:200])  # libraries load what they need
    before = restart_peak()
    start = time.process_time()
    SCORERS[metric](KnownEmbeddings(E), E, y)
    seconds = time.process_time() - start
    peak = memory("VmHWM")
    return {"seconds": seconds, "bytes": None if before is None else peak - before}


def growth(metric: str, sizes: tuple[int, ...]) -> list[tuple[str, ...]]:
    """CPU seconds and peak memory of the scorer by number of rows, in a process for each."""
    table = []
    for n_rows in sizes:
        command = [sys.executable, "-m", "benchmarks.retrieval_speed"]
        command += ["--scorer", metric, "--rows", str(n_rows)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(answer.stdout)
        memory = "" if found["bytes"] is None else f"{found['bytes'] / 2**20:.0f}"
        each = 1e9 * found["seconds"] / n_rows**2
        full = f"{4 * n_rows**2 / 2**20:.0f}"
        table.append((f"{n_rows:,}", f"{found['seconds']:.2f}", f"{each:.1f}", memory, full))
    return table


def print_table(header: list[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as a markdown table."""
    first, *columns = header
    table = pd.DataFrame(rows, columns=header).set_index(first)
    print(to_markdown(table[columns], first), end="\n\n")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_speed")
    parser.add_argument("--repeats", type=int, default=3, help="timings, of which the best counts")
    parser.add_argument("--up-to", type=int, default=GROWTH[-1], help="most rows to score")
    parser.add_argument("--scorer", choices=list(SCORERS), help="only time one call of it, as JSON")
    parser.add_argument("--rows", type=int, default=N_ROWS, help="rows for --scorer")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.scorer:
        print(json.dumps(measure_scorer(options.scorer, options.rows)))
        return
    about = f"{machine()}; {provenance(PACKAGES)['versions']}"
    print("# What an observation of search costs", about, sep="\n\n", end="\n\n")
    rows = [row for metric in NAIVE for row in Observing(metric).rows(options.repeats)]
    print_table(["measured", "value"], rows)
    sizes = tuple(n for n in GROWTH if n <= options.up_to)
    for metric in SCORERS:
        header = [f"{metric} of n rows among each other", "CPU s", "ns per pair", "peak MiB"]
        header.append("MiB of all similarities")
        print_table(header, growth(metric, sizes))


if __name__ == "__main__":
    main()
