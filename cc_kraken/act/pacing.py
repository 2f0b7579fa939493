"""When to ask EC2 again: growing intervals with jitter, and what is put off.

EC2 throttles by account, region and action, so many instances that boot
together share one bucket of tokens.  Three rules keep that bucket in full use
without a storm of calls, and let nobody wait for long (docs/reference/fleets.md has the
figures): ask soon after a change and ever more rarely while nothing changes;
never in step with others; and who has begun is done before the next begins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Optional

from cc_kraken.model import Trouble

FIRST_RETRY, RETRY_GROWTH, LONGEST_RETRY = 1.5, 2.0, 30.0
LONGEST_BEGUN = 10.0
"""Seconds: for an instance that has some of its volumes.  It asks more often than
those that have none, so that it is out of their way soon."""


@dataclass
class Backoff:
    """Intervals in seconds: ``first``, then longer by ``growth`` each time up
    to ``longest``; each drawn between half of that and all of it."""

    first: float = FIRST_RETRY
    growth: float = RETRY_GROWTH
    longest: float = LONGEST_RETRY

    def __post_init__(self) -> None:
        self._next = self.first

    def interval(self) -> float:
        """The next interval; the one after it is longer."""
        seconds = min(self._next, self.longest)
        self._next = min(self._next * self.growth, self.longest)
        return seconds * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = self.first


@dataclass(frozen=True)
class Delay:
    """What a set has to wait for, and ``until`` when (the clock's seconds).
    ``asked``: it was EC2 that put it off, not a step on this machine."""

    until: float
    trouble: Trouble
    asked: bool = True


class PutOff:
    """The sets that EC2 has put off.

    What concerns one set (its volume is not available yet) has a back-off of
    its own.  A throttle concerns all: they share one.
    """

    def __init__(self) -> None:
        self._backoffs: dict[str, Backoff] = {}
        self._held: dict[str, Delay] = {}
        self._throttle = Backoff()
        self._throttled: Optional[Delay] = None

    def hold(
        self, name: str, trouble: Trouble, now: float, *, asked: bool = True
    ) -> None:
        """This set not before its next interval is over."""
        backoff = self._backoffs.setdefault(name, Backoff())
        self._held[name] = Delay(now + backoff.interval(), trouble, asked)

    def throttle(self, trouble: Trouble, now: float, *, begun: bool) -> None:
        """No set before the next interval is over.  ``begun``: this instance has some
        of its volumes."""
        self._throttle.longest = LONGEST_BEGUN if begun else LONGEST_RETRY
        self._throttled = Delay(now + self._throttle.interval(), trouble)

    def progress(self, name: str) -> None:
        """EC2 has accepted what was asked for this set."""
        self._held.pop(name, None)
        if name in self._backoffs:
            self._backoffs[name].reset()
        self._throttle.reset()
        self._throttled = None

    @property
    def throttled(self) -> bool:
        """EC2 has throttled, and has not accepted anything since."""
        return self._throttled is not None

    def held(self, name: str) -> Optional[Delay]:
        """What the set was put off with, also when that is over."""
        found = [one for one in (self._held.get(name), self._throttled) if one]
        return max(found, key=lambda one: one.until) if found else None

    def until(self, name: str) -> float:
        """The moment from which the set may be asked for."""
        held = self.held(name)
        return held.until if held is not None else 0.0

    def until_tried(self, name: str) -> float:
        """The moment from which steps that ask EC2 for nothing may be tried again."""
        held = self._held.get(name)
        return held.until if held is not None and not held.asked else 0.0
