"""A progress bar with score and budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

Tick = Callable[[str, float, float], None]


@contextmanager
def progress_bar(verbose: int, total: int) -> Iterator[Tick]:
    """Yield a function to call with (phase, score, best) after each observation.

    Nothing is shown where `verbose` is 0.
    """
    with tqdm(total=total, desc="MetricOpt", unit="obs", disable=not verbose) as bar:

        def tick(phase: str, score: float, best: float) -> None:
            bar.update()
            bar.set_postfix(phase=phase, score=f"{score:.4f}", best=f"{best:.4f}", refresh=False)

        yield tick
