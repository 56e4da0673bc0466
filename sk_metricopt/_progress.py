"""What is told of a run as it goes: a record for each observation, a bar, lines, the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm.auto import tqdm

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObservationState:
    """Where a run stands after a metric observation: what a callback is given.

    Parameters
    ----------
    number : int
        Of the observation, from 1.
    budget : int
        Observations allowed.
    phase : {"initial", "explore", "guide", "judge", "shift"}
        What the observation is for.
    trajectory : int
        Which one; -1 for candidates on none.
    step : int
        Optimizer steps taken on the trajectory.
    score : float
        Of this observation; NaN where the scorer failed.
    best_score : float
        Best value observed so far. It was chosen among many, so it is lucky; ``best_score_`` of the
        fitted estimator is not.
    predicted_score : float
        What the value function said beforehand, NaN where there was none.
    initial_score : float
        Of the model as it came.
    elapsed : float
        Seconds since `fit` began, the net's own training included.
    replayed : bool
        Whether the score was read from a checkpoint and nobody was asked for it now.
    stop : callable
        ``stop(reason)`` ends the run here: the best that has been observed is judged, and `fit`
        returns. The reason, a str, is part of the warning and of the verdict.

    Examples
    --------
    >>> from sk_metricopt import MetricOptFinetuner
    >>> def stop_when_good(state):
    ...     if state.best_score > 0.95:
    ...         state.stop(f"{state.best_score:.3f} is good enough")
    >>> MetricOptFinetuner(None, callbacks=[stop_when_good]).callbacks[0].__name__
    'stop_when_good'
    """

    number: int
    budget: int
    phase: str
    trajectory: int
    step: int
    score: float
    best_score: float
    predicted_score: float
    initial_score: float
    elapsed: float
    replayed: bool
    stop: Callable[[str], None] = field(repr=False, compare=False)


Listener = Callable[[ObservationState], object]


@contextmanager
def progress(verbose: int, total: int) -> Iterator[Listener]:
    """Yield a function that logs and shows observations as they are made, on stderr.

    1 is a bar. 2 is a line for each observation in place of the bar, which would be torn by the
    lines; they are for files and services, where nothing can be drawn over.
    """
    last_phase = ""
    with tqdm(total=total, desc="MetricOpt", unit="obs", disable=verbose != 1) as bar:

        def show(state: ObservationState) -> None:
            nonlocal last_phase
            if state.phase != last_phase:
                last_phase = state.phase
                _LOG.info("observation %d of %d: %s", state.number, state.budget, state.phase)
            if verbose > 1:
                print(_line(state), file=sys.stderr, flush=True)  # noqa: T201 (never on stdout)
                return
            figures = {"score": f"{state.score:.4f}", "best": f"{state.best_score:.4f}"}
            bar.set_postfix(figures | {"phase": state.phase}, refresh=False)
            bar.update()

        yield show


def _line(state: ObservationState) -> str:
    where = "-" if state.trajectory < 0 else f"trajectory {state.trajectory} step {state.step}"
    return (
        f"MetricOpt {state.number:{len(str(state.budget))}d}/{state.budget}  {state.phase:7}  "
        f"{where:24}  score {state.score:.4f}  best {state.best_score:.4f}"
    )
