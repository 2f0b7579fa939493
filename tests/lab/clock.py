"""Clocks for the lab: the real one, and one that a test moves by hand."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from abc import ABC, abstractmethod
from typing import Callable, Optional

Event = tuple[float, int, Callable[[], None]]


class Clock(ABC):
    """What the lab asks of a clock.  Times are Unix seconds."""

    @abstractmethod
    def now(self) -> float:
        """The time."""

    @abstractmethod
    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` once, ``seconds`` from now."""

    @abstractmethod
    def spawn(self, function: Callable[[], None]) -> None:
        """Call ``function`` soon, where it may block (a hypervisor's work)."""

    @abstractmethod
    def stop(self) -> None:
        """Forget what is still to come."""


class RealClock(Clock):
    """Wall time; one thread for what falls due, one for each spawned call."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._stopped = False

    def now(self) -> float:
        return time.time()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        due = time.monotonic() + max(0.0, seconds)
        with self._wake:
            if self._stopped:
                return
            heapq.heappush(self._events, (due, next(self._order), function))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="lab-clock", daemon=True
                )
                self._thread.start()
            self._wake.notify()

    def spawn(self, function: Callable[[], None]) -> None:
        threading.Thread(target=function, name="lab-hook", daemon=True).start()

    def stop(self) -> None:
        with self._wake:
            self._stopped = True
            self._events.clear()
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopped and not self._due():
                    self._wake.wait(self._pause())
                if self._stopped:
                    return
                function = heapq.heappop(self._events)[2]
            function()

    def _due(self) -> bool:
        return bool(self._events) and self._events[0][0] <= time.monotonic()

    def _pause(self) -> Optional[float]:
        if not self._events:
            return None
        return max(0.0, self._events[0][0] - time.monotonic())


class ManualClock(Clock):
    """Stands still until ``advance``; nothing happens between two calls."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._events: list[Event] = []
        self._order = itertools.count()
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        with self._lock:
            due = self._now + max(0.0, seconds)
            heapq.heappush(self._events, (due, next(self._order), function))

    def spawn(self, function: Callable[[], None]) -> None:
        self.later(0, function)

    def advance(self, seconds: float = 0.0) -> None:
        """Move on, and do in order, in this thread, what falls due."""
        self.advance_to(self._now + seconds)

    def advance_to(self, until: float) -> None:
        """The same up to a moment, which ``next_event`` may have named."""
        while True:
            with self._lock:
                if not self._events or self._events[0][0] > until:
                    self._now = max(self._now, until)
                    return
                due, _, function = heapq.heappop(self._events)
                self._now = max(self._now, due)
            function()

    def next_event(self) -> Optional[float]:
        """When the next thing falls due, or None (for simulations)."""
        with self._lock:
            return self._events[0][0] if self._events else None

    def stop(self) -> None:
        with self._lock:
            self._events.clear()
