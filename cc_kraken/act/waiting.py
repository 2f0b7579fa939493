"""What a run waits for, until when, and when it asks the cloud again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Callable, Optional, TypeVar

from cc_kraken.act.pacing import Backoff, PutOff
from cc_kraken.cloud.protocol import THROTTLED
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import Step
from cc_kraken.machine.clock import Clock
from cc_kraken.model import KrakenError, Trouble
from cc_kraken.state.report import Report

_Answer = TypeVar("_Answer")
LOG = logging.getLogger(__name__)

FIRST_POLL, POLL_GROWTH, LONGEST_POLL, SLOW_POLL = 1.5, 1.8, 12.0, 40.0
UNREACHED_POLL = 4.0
"""Seconds: a network that is coming up burdens nobody with the questions."""
SLOW_AFTER = 120.0
"""Seconds: who waits this long is not helped by asking every ten."""
TOLD_AGAIN_AFTER = 60.0
"""Seconds: reasons that come and go by turns are not told each time."""
DEVICE_GRACE = 10.0
"""Seconds in which an accepted attachment is looked for in sysfs only."""
OWNER_EVERY = 30.0
"""Seconds: is there another reason to end the waiting for a user?"""
LOCAL_KINDS = ("parent-not-mounted", "device-unseen")
"""Cured by what this run itself does."""
REFUSED_KINDS = (THROTTLED, "credentials-refused", "credentials-missing")
"""The cloud has done nothing of what it was asked for: what is known stays true."""
UNREACHED_KINDS = ("ec2-unreachable", "credentials-missing")
PASSING_KINDS = (*REFUSED_KINDS, "ec2-unavailable", "ec2-unreachable", "ec2-answer")
"""Told by their kind: whichever call it was that met with them."""


@dataclass
class Limits:
    """How long a run may take.

    ``seconds`` from its start; ``final``: what is still awaited then has
    failed (the network stage hands it on instead).  ``background``: nobody
    waits for this run, so it waits for users that do not exist yet, and in a warm
    pool for as long as the instance is kept there.
    """

    seconds: float
    final: bool
    background: bool = False


@dataclass
class Waiting:
    """The time of one run, and the reasons for which it passes."""

    limits: Limits
    clock: Clock
    report: Report

    def __post_init__(self) -> None:
        self.begun = self.clock.now()
        self.put_off = PutOff()
        self._polls = Backoff(FIRST_POLL, POLL_GROWTH, LONGEST_POLL)
        self._next_ask = self.begun
        self._not_asked: Optional[Trouble] = None
        self._logged: dict[frozenset[tuple[str, str]], float] = {}
        self._logged_last: frozenset[tuple[str, str]] = frozenset()
        self._awaited: frozenset[tuple[str, str]] = frozenset()

    def left(self) -> float:
        if self.clock.stopped:
            return 0.0
        return self.limits.seconds - self.elapsed()

    def elapsed(self) -> float:
        return self.clock.now() - self.begun

    def pause(
        self, failed: Optional[Trouble] = None, *, throttled: float = LONGEST_POLL
    ) -> float:
        """The next interval between questions to the cloud, with jitter.

        ``failed``: why the last one had no answer; ``throttled``: the longest interval
        where that was a throttle, in seconds.
        """
        kind = failed.kind if failed is not None else ""
        longest = UNREACHED_POLL if kind in UNREACHED_KINDS else LONGEST_POLL
        if self.elapsed() > SLOW_AFTER:
            longest = SLOW_POLL
        self._polls.longest = max(throttled, longest) if kind == THROTTLED else longest
        return max(0.0, min(self._polls.interval(), self.left()))

    def asked(self, failed: Optional[Trouble]) -> None:
        """The cloud was asked for the volumes; why it could not be."""
        self._not_asked = failed
        self._next_ask = self.clock.now() + self.pause(failed)

    def over(self, trouble: Trouble) -> Trouble:
        """A trouble whose time is over."""
        if not trouble.waits:
            return trouble
        notes = []
        if self.elapsed() >= 1:
            notes.append(f"awaited for {int(self.elapsed())} s")
        if self._not_asked is not None and self._not_asked is not trouble:
            notes.append(f"not asked again: {self._not_asked.found.rstrip('.')}")
        found = trouble.found
        if notes:
            end = "." if found.endswith(".") else ""
            found = f"{found.rstrip('.')} ({'; '.join(notes)}){end}"
        return replace(trouble, waits=False, found=found)

    def reasons(self, plans: Sequence[Plan]) -> dict[str, Trouble]:
        """What each set that is not up yet waits for."""
        reasons: dict[str, Trouble] = {}
        for plan in plans:
            held = self.put_off.held(plan.name) if plan.steps else None
            if held is not None:
                reasons[plan.name] = held.trouble
            elif plan.trouble is not None and self._awaits(plan.trouble):
                reasons[plan.name] = plan.trouble
        return reasons

    def _awaits(self, trouble: Trouble) -> bool:
        if trouble.kind == "owner-pending":
            return self.limits.background
        return trouble.waits

    def say(self, reasons: Mapping[str, Trouble]) -> None:
        """One line when the reasons change; ``""`` is the whole node."""
        reasons = dict(reasons)
        if self._not_asked is not None:
            reasons.setdefault("", self._not_asked)
        text = "; ".join(
            f"{name}: {trouble}" if name else str(trouble)
            for name, trouble in reasons.items()
        )
        key = _same(reasons)
        moment = self.clock.now()
        before = self._logged.get(key)
        quiet = key == self._logged_last or (
            before is not None and moment - before < TOLD_AGAIN_AFTER
        )
        self._logged[key], self._logged_last = moment, key
        self.report.waiting(text, quiet=quiet)

    def wait(
        self,
        reasons: Mapping[str, Trouble],
        ages: Mapping[str, float],
        changed: Callable[[], bool],
    ) -> bool:
        """Wait for a change; returns whether the cloud is to be asked.

        ``ages``: seconds since the youngest attachment of a set was asked for.
        """
        self._ask_sooner(reasons)
        moments = [
            self._moment(name, trouble, ages.get(name, DEVICE_GRACE))
            for name, trouble in reasons.items()
        ]
        end = min(moment for moment, _ in moments)
        self.clock.watch(min(end - self.clock.now(), self.left()), changed)
        now = self.clock.now()
        return any(ask and moment <= now for moment, ask in moments)

    def _ask_sooner(self, reasons: Mapping[str, Trouble]) -> None:
        """Something has changed: more may follow soon."""
        key = _same({n: t for n, t in reasons.items() if t.kind not in PASSING_KINDS})
        if key != self._awaited:
            self._awaited = key
            self._polls.reset()
            self._next_ask = min(self._next_ask, self.clock.now() + self.pause())

    def _moment(self, name: str, trouble: Trouble, age: float) -> tuple[float, bool]:
        """When there is something to do again for a set, and whether the cloud is
        to be asked then."""
        now = self.clock.now()
        held = self.put_off.held(name)
        if held is not None and held.trouble is trouble:
            return held.until, held.asked and trouble.kind not in REFUSED_KINDS
        if trouble.kind in LOCAL_KINDS:
            return now + 1.0, False
        if trouble.kind == "owner-pending":
            return now + OWNER_EVERY, False
        if trouble.kind == "attaching" and age < DEVICE_GRACE:
            return now + DEVICE_GRACE - age, False
        return self._next_ask, True


def until_answered(
    ask: Callable[[], _Answer], hold_up: Callable[[Trouble], None]
) -> _Answer:
    """What ``ask`` returns; ``hold_up`` waits while it raises, or ends the run."""
    while True:
        try:
            return ask()
        except KrakenError as error:
            hold_up(error.trouble)


def out_of_time(to_do: str) -> Trouble:
    """``to_do`` goes on after "no time left to": "claim kafka/1"."""
    return Trouble(
        "out-of-time",
        f"There was no time left to {to_do}.",
        "The run must come to it before its time is over.",
        "Run cc-kraken apply --wait 300, or give it more time (boot_wait, wait).",
        waits=True,
    )


def stopped(step: Step) -> Trouble:
    return Trouble(
        "stopped",
        f"The run was told to end before it could {step}.",
        "",
        "Nothing to do: the next run goes on from here.",
        waits=True,
    )


def _same(reasons: Mapping[str, Trouble]) -> frozenset[tuple[str, str]]:
    """What makes reasons the same ones, though their words may differ."""
    return frozenset(
        (name, trouble.kind if trouble.kind in PASSING_KINDS else trouble.found)
        for name, trouble in reasons.items()
    )
