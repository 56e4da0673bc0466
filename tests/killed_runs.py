"""A fit in a process of its own that can be killed at any moment, and what it leaves behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch

from sk_metricopt import MetricOptFinetuner
from tests.nets import classifier, table

X, Y = table(2)
X_FIT, Y_FIT, X_VAL, Y_VAL = X[::2], Y[::2], X[1::2], Y[1::2]


class LoggingScorer:
    """Accuracy, a little slow, that notes in a file each time it is asked on all rows."""

    def __init__(self, log: Path):
        self.log = log

    def __call__(self, estimator, X, y) -> float:
        time.sleep(0.002)
        if np.array_equal(y, Y_VAL):
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"asked\n")
            os.close(descriptor)
        return float((estimator.predict(X) == y).mean())


def accuracy(estimator, X, y) -> float:
    return float((estimator.predict(X) == y).mean())


def finetuner(folder: Path | None, scorer, **params) -> MetricOptFinetuner:
    params = {"max_observations": 30, "guard_z": None, "random_state": 0} | params
    return MetricOptFinetuner(classifier(), scoring=scorer, checkpoint_dir=folder, **params)


def fit_apart(folder: Path) -> None:
    """Fit, and leave φ and the scores in the folder's parent."""
    torch.set_num_threads(1)
    scorer = LoggingScorer(folder.parent / "asked.log")
    fitted = finetuner(folder, scorer).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    np.savez(folder.parent / "done.npz", phi=fitted.adapter_params_, **fitted.observations_)


def process(folder: Path) -> multiprocessing.Process:
    """A process that fits; forked from one that has imported everything, so that it is quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_runs"])
    return context.Process(target=fit_apart, args=(folder,))


def n_asked(folder: Path) -> int:
    """Times that a scorer was asked on all rows, whatever became of the answer."""
    log = folder.parent / "asked.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def n_kept(folder: Path) -> int:
    """Answers on all rows that are in the journal and whole."""
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return 0
    lines = journal.read_bytes().split(b"\n")[1:-1]
    keys = [json.loads(line.split(b" ", 1)[1])["key"] for line in lines]
    return sum(key[0] == "observation" or key[-1] == "repeat" for key in keys)
