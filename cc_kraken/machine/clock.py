"""Time as a run sees it: it can be stopped, and a simulation can replace it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Callable, Optional

LOOK_EVERY = 0.1


class Clock:
    """The machine's time.  ``stop`` ends every sleep: a run then begins no
    further step and ends."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def now(self) -> float:
        """Seconds since some fixed moment (CLOCK_MONOTONIC)."""
        return time.monotonic()

    def date(self) -> float:
        """Seconds since 1970 (CLOCK_REALTIME)."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``, or until the run is to end."""
        self._stop.wait(max(seconds, 0.0))

    def watch(self, seconds: float, changed: Callable[[], bool]) -> None:
        """Sleep until ``changed`` is true, for ``seconds`` at most."""
        end = self.now() + max(seconds, 0.0)
        while self.now() < end and not self.stopped:
            self.sleep(min(LOOK_EVERY, end - self.now()))
            if changed():
                return

    def stop(self) -> None:
        """Ask the run to end; safe in a signal handler."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Clock]:
    """SIGTERM and Ctrl-C let the step under way come to its end, and a filesystem that
    is begun; no other step is begun.  For the main thread."""
    clock = Clock()

    def end(_number: int, _frame: Optional[FrameType]) -> None:
        clock.stop()

    before = {
        number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield clock
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
