"""Intervals and what is put off: pure arithmetic on a clock that is a number."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.act.pacing import (
    FIRST_RETRY,
    LONGEST_BEGUN,
    LONGEST_RETRY,
    Backoff,
    PutOff,
)
from cc_kraken.act.waiting import LONGEST_POLL, Limits, Waiting
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Trouble
from cc_kraken.state.report import Report

WAITS = Trouble("ec2-throttled", "throttled", "", "", waits=True)
OTHER = Trouble("incorrect-state", "pending", "", "", waits=True)


class Hand(Clock):
    """A clock whose hand the test moves."""

    moment = 0.0

    def now(self) -> float:
        return self.moment


@given(st.floats(0.1, 5), st.floats(1.0, 4), st.floats(5, 100), st.integers(1, 30))
def test_intervals_grow_and_stay_within_their_limits(
    first: float, growth: float, longest: float, count: int
) -> None:
    backoff = Backoff(first, growth, longest)
    for number in range(count):
        whole = min(first * growth**number, longest)
        assert 0.499 * whole <= backoff.interval() <= 1.001 * whole
    backoff.reset()
    assert backoff.interval() <= first


def test_two_instances_do_not_keep_in_step() -> None:
    one, other = Backoff(1, 2, 30), Backoff(1, 2, 30)
    assert [one.interval() for _ in range(8)] != [other.interval() for _ in range(8)]


def test_a_set_that_is_held_leaves_the_others_alone() -> None:
    sets = PutOff()
    sets.hold("data", OTHER, 100.0)
    held = sets.held("data")
    assert held is not None and held.trouble is OTHER
    assert FIRST_RETRY / 2 <= sets.until("data") - 100.0 <= FIRST_RETRY
    assert sets.held("log") is None and sets.until("log") == 0.0
    assert not sets.throttled
    sets.progress("data")
    assert sets.held("data") is None


def test_a_throttle_holds_every_set_until_something_is_accepted() -> None:
    sets = PutOff()
    sets.hold("data", OTHER, 100.0)
    for _ in range(12):
        sets.throttle(WAITS, 100.0, begun=False)
    assert sets.throttled
    assert 115.0 <= sets.until("log") <= 130.0
    held = sets.held("data")
    assert held is not None and held.trouble is WAITS, "the later one counts"
    sets.progress("log")
    assert not sets.throttled and sets.until("log") == 0.0
    assert sets.until("data") <= 100.0 + FIRST_RETRY, "its own reason is still there"
    sets.throttle(WAITS, 200.0, begun=False)
    assert sets.until("log") <= 200.0 + FIRST_RETRY, "the intervals are short again"


@pytest.mark.parametrize(
    ("begun", "longest"), [(True, LONGEST_BEGUN), (False, LONGEST_RETRY)]
)
def test_who_has_begun_asks_more_often(begun: bool, longest: float) -> None:
    sets = PutOff()
    for _ in range(12):
        sets.throttle(WAITS, 0.0, begun=begun)
    assert longest / 2 <= sets.until("any") <= longest


@pytest.mark.parametrize(
    ("found", "expected", "text"),
    [
        ("It is held.", "It must be free.", "It is held (awaited for 5 s). It must"),
        ("it is held", "a free one", "it is held (awaited for 5 s); expected a free"),
    ],
)
def test_an_error_that_was_awaited_stays_sentences(
    tmp_path: Path, found: str, expected: str, text: str
) -> None:
    told = Report(Paths(run=str(tmp_path)), "background", kept=False)
    clock = Hand()
    waiting = Waiting(Limits(3600.0, final=True), clock, told)
    trouble = Trouble("holder-running", found, expected, "Wait.", waits=True)
    assert "awaited" not in str(waiting.over(trouble)), "nobody has waited yet"
    clock.moment = 5.0
    assert f"[holder-running] {text}" in str(waiting.over(trouble))
    waiting.asked(Trouble("ec2-throttled", "EC2 throttles.", "An answer.", "Wait."))
    told_why = "(awaited for 5 s; not asked again: EC2 throttles)"
    assert told_why in waiting.over(trouble).found


def test_who_has_no_node_yet_asks_a_throttled_account_more_rarely(
    tmp_path: Path,
) -> None:
    """A thousand claimants read lists of several pages from one bucket of tokens."""
    told = Report(Paths(run=str(tmp_path)), "background", kept=False)
    waiting = Waiting(Limits(3600.0, final=True), Clock(), told)
    throttle = Trouble("ec2-throttled", "It throttles", "an answer", "Wait.")
    plain = [waiting.pause(throttle) for _ in range(20)]
    assert max(plain) <= LONGEST_POLL
    rare = [waiting.pause(throttle, throttled=60.0) for _ in range(20)]
    assert LONGEST_POLL < max(rare) <= 60.0
    assert waiting.pause() <= LONGEST_POLL
