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
from cc_kraken.act.report import Report
from cc_kraken.act.waiting import LONGEST_POLL, Limits, Waiting
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Trouble

WAITS = Trouble("ec2-throttled", "throttled", "", "", waits=True)
OTHER = Trouble("incorrect-state", "pending", "", "", waits=True)


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
