"""Which run a checkpoint belongs to."""

from __future__ import annotations

import contextlib
import inspect
from contextlib import AbstractContextManager
from functools import partial

from sklearn.metrics._scorer import _BaseScorer

from sk_metricopt._identity import described, digest, weights_digest
from sk_metricopt._journal import Journal
from sk_metricopt._random import draw_seed
from sk_metricopt._roles import Data, Subject, subject_of
from sk_metricopt._stopping import Stop

# Parameters that change when and where answers are got, and not what comes of them; the seed is
# compared as a number.
_OF_CONDUCT = (
    "max_time",
    "error_score",
    "checkpoint_dir",
    "n_jobs",
    "callbacks",
    "random_state",
    "verbose",
)


def opened_journal(finetuner) -> AbstractContextManager[Journal | None]:
    """Return the journal in the finetuner's `checkpoint_dir`, None without one."""
    if finetuner.checkpoint_dir is None:
        return contextlib.nullcontext()
    return Journal(finetuner.checkpoint_dir, type(finetuner).__name__)


def seed_of(finetuner, journal: Journal | None) -> int:
    """Return the seed of the run; without a `random_state` the one it was begun with."""
    if finetuner.random_state is None and journal is not None and journal.seed is not None:
        return journal.seed
    return draw_seed(finetuner.random_state)


def bound_subject(finetuner, data: Data, seed: int, journal: Journal | None, stop: Stop) -> Subject:
    """Train or take over the net; what a journal holds must be about this run and this net."""
    if journal is None:
        return subject_of(finetuner.estimator, data)
    journal.bind(_identity(finetuner, data), seed)
    subject = subject_of(finetuner.estimator, data)
    if stop.interrupted:  # in training: whoever goes on later trains to the end
        return subject
    weights = weights_digest(subject.bridge.module)
    if journal.recall(("net",), weights) is None:
        journal.append(("net",), weights, {})
    return subject


def _identity(finetuner, data: Data) -> dict[str, str]:
    params = finetuner.get_params(deep=False)
    about = {name: described(params[name]) for name in params if name not in _OF_CONDUCT}
    about["scoring"] = _scorer_name(params["scoring"])
    about["metadata"] = described({"fit": data.fit_params, "score": data.observed.params})
    X, y = data.given
    rows = {"X": X, "y": y, "X_val": data.X_val, "y_val": data.observed.y}
    return about | {name: f"data {digest(array)}" for name, array in rows.items()}


def _scorer_name(scoring) -> str:
    """Return a scorer's name and parameters; what another callable object holds may be state."""
    by_params = isinstance(scoring, _BaseScorer | partial | str | None)
    ours = type(scoring).__module__.startswith("sk_metricopt.")
    if by_params or ours or inspect.isroutine(scoring):
        return described(scoring)
    return type(scoring).__qualname__
