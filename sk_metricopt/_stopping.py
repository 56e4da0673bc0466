"""Ending early without losing anything: Ctrl-C, time, a failing scorer, a callback."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether a run should end, asked after every observation.

    Parameters
    ----------
    max_time : float or None
        Seconds from now.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C was pressed.
    elapsed : float
        Seconds since this was made.
    """

    def __init__(self, max_time: float | None = None):
        self._max_time = max_time
        self._began = time.monotonic()
        self._deadline = math.inf if max_time is None else self._began + max_time
        self._reason: str | None = None
        self._holds = False
        self.interrupted = False

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    @property
    def reason(self) -> str | None:
        """Why to end, None to go on. What was once a reason stays it."""
        if self._reason is None and time.monotonic() >= self._deadline:
            self._reason = f"max_time, {self._max_time:g} seconds, was over"
        return self._reason

    def request(self, reason: str) -> None:
        """Ask for the end; the first reason counts."""
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(
                "The 'reason' parameter of ObservationState.stop must be a str that says why. Got "
                f"{reason!r} instead. It is part of the warning and of the verdict."
            )
        self._reason = self.reason or reason

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Take note of Ctrl-C while inside.

        Within `held` the first one is only noted and the second raises KeyboardInterrupt; elsewhere
        every one raises. Only the main thread can listen, and only where nobody else does.
        """
        listens = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if not listens:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the first Ctrl-C lets what runs come to its end."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False

    def _interrupted(self, _signal, _frame) -> None:
        first = self._reason is None
        self.interrupted = True
        self.request("it was interrupted")
        if not (first and self._holds):
            raise KeyboardInterrupt


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in a worker process: whoever sent it the work decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
