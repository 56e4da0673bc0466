"""Asking the scorer: here or, through joblib, wherever its backend has workers."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed

from sk_metricopt._random import reseed, seeded
from sk_metricopt._scoring import Response, apart
from sk_metricopt._stopping import deaf_to_interrupts


@dataclass(frozen=True)
class Question:
    """A response to be scored.

    Attributes
    ----------
    response : Response
    rows : ndarray of int or None
        All validation rows if None.
    seed : int
        Of the global random streams, so that a scorer that draws from them gives the same answer
        whoever is asked before it, and where.
    """

    response: Response
    rows: np.ndarray | None
    seed: int


@dataclass(frozen=True)
class Answer:
    """A score, NaN where the scorer failed with `error`; `n_calls` were made elsewhere."""

    score: float
    error: Exception | None = None
    n_calls: int = 0


def answers(questions: list[Question], n_jobs: int | None) -> Generator[Answer, None, None]:
    """Yield the answers in the order of questions, none asked before the one before is taken.

    With several workers, questions that follow are on their way already.

    Raises
    ------
    ValueError
        If workers cannot be sent a question, or die of one.
    """
    if effective_n_jobs(n_jobs) == 1:
        yield from map(_answer, questions)
    elif questions:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator")
        try:
            yield from parallel(delayed(_answer_apart)(q) for q in questions)
        except Exception as error:  # a scorer's own are answers
            raise ValueError(
                "The 'n_jobs' parameter of MetricOptFinetuner must be None or 1 where a scorer or "
                f"net cannot work in another process. It failed ({type(error).__name__}: {error}). "
                "Have the scorer open files and connections inside its call, or leave out n_jobs."
            ) from error


@contextmanager
def called_off(stream: Generator[Answer, None, None]) -> Iterator[Iterator[Answer]]:
    """In the end, whatever it is, workers need not begin what they have not begun."""
    try:
        yield stream
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # joblib tells what it has cancelled
            stream.close()


def _answer(question: Question) -> Answer:
    reseed(question.seed)
    try:
        return Answer(question.response.score(question.rows))
    except Exception as error:  # noqa: BLE001  user code; the engine decides what it means
        return Answer(np.nan, error)


def _answer_apart(question: Question) -> Answer:
    """Answer in a worker, whose streams nobody has seeded."""
    response = apart(question.response)
    with seeded(question.seed), deaf_to_interrupts():
        try:
            score, error = response.score(question.rows), None
        except Exception as raised:  # noqa: BLE001  as above
            score, error = np.nan, _portable(raised)
    return Answer(score, error, response.scoring.n_calls)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent back."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  an error's own pickling may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
