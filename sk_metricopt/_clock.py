"""Where the time of a fit goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds of wall-clock time by what they were spent on.

    Attributes
    ----------
    seconds : dict of str to float
        Of each part so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the time inside towards `part`; parts must not be nested."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def split(self) -> dict[str, float]:
        """Return the seconds of each part, of the rest, and of all since the clock was made."""
        total = time.perf_counter() - self._began
        return {**self.seconds, "other": total - sum(self.seconds.values()), "total": total}
