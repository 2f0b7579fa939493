"""The fleet in small: the scenarios, and two claimants in many interleavings."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from cc_kraken.model import Section
from tests import fleet as simulation
from tests.conftest import LATER, soon
from tests.fleet import Boot, Fleet, Time, bucket_bound, in_turn, simulate
from tests.lab.ec2 import TokenBucket

pytest.importorskip("boto3")


# --------------------------------------------------------------- virtual time


def test_threads_take_turns_in_the_order_of_their_moments() -> None:
    time = Time()
    seen: list[str] = []

    def sleeper(name: str, *pauses: float) -> Callable[[], None]:
        def work() -> None:
            for pause in pauses:
                seen.append(f"{name} {time.now():.0f}")
                time.sleep(pause)

        return work

    time.clock.later(2.5, lambda: seen.append("event"))
    time.start("a", sleeper("a", 2, 2))
    time.start("b", sleeper("b", 3), delay=1)
    time.run()
    assert seen == ["a 0", "b 1", "a 2", "event"]
    assert time.now() == 4


def test_what_a_thread_raises_ends_the_simulation() -> None:
    time = Time()

    def broken() -> None:
        time.sleep(1)
        raise ValueError("no")

    time.start("broken", broken)
    time.start("other", lambda: time.sleep(100))
    with pytest.raises(ValueError, match="no"):
        time.run()


@pytest.mark.parametrize("order", [1, -1])
def test_the_bound_is_what_a_bucket_serves_at_best(order: int) -> None:
    """Asked at every tenth of a second, the lab's own bucket is no faster."""
    ready = [0.0] * 70 + [3.0] * 30 + [60.0] * 80
    bucket, served, now = TokenBucket(50, 5, 0.0), 0, 0.0
    while served < len(ready):
        waiting = sum(moment <= now for moment in ready) - served
        for _ in range(waiting):
            if not bucket.take(now):
                break
            served += 1
            last = now
        now += 0.1
    bound = bucket_bound(ready[::order])
    assert bound <= last + 1e-6 and last - bound < 0.2


# ------------------------------------------------------------------- scenarios


@pytest.mark.parametrize("name", soon(("boot",), simulation.SCENARIOS, LATER))
def test_a_small_fleet(name: str) -> None:
    outcome = simulate(name, 60, 300)
    assert outcome.wrong() == []
    # so few nodes wait for their own polls more than for the bucket
    assert outcome.seconds <= outcome.bound * 1.3 + 30
    text = "\n".join(outcome.table())
    assert "attached twice, lost or refused: none" in text


def test_the_same_seed_is_the_same_story() -> None:
    tables = [simulate("zone", 30, 30, seed=7).table() for _ in range(2)]
    assert tables[0] == tables[1]


def test_wrong_is_found() -> None:
    """The judge itself: a set that is split, and one that did not come up."""
    with in_turn(1):
        outcome = simulation.all_at_once(2, 0)
        first = outcome.boots[0]
        assert outcome.wrong() == []
        volume = next(
            one.volume_id
            for one in outcome.fleet.lab.attached_to(first.instance_id)
            if one.device != "/dev/xvda"
        )
        outcome.fleet.lab.detach_volume(volume)
        outcome.fleet.time.clock.advance(10)
        outcome.boots[1].states.append("failed")
        assert len(outcome.wrong()) == 2


# --------------------------------------------------------------- two claimants


def holders(fleet: Fleet, volumes: list[str]) -> dict[str, list[str]]:
    """Who has the volumes of each set at the end."""
    found: dict[str, list[str]] = {"log": [], "data": []}
    for volume in map(fleet.lab.volume, volumes):
        name = volume.tags["KRKN-IN:VolumeName"]
        found[name] += [one.instance_id for one in volume.attachments]
    return found


def two_claimants(seed: int, **lab: Any) -> None:
    """Two instances with one NodeId boot at the same moment; at every call of
    EC2 it may be the other one's turn."""
    with in_turn(seed):
        section = Section(boot_wait=20, wait=120)
        fleet = Fleet(seed, section, throttled=False, **lab)
        volumes = fleet.volumes("0", "us-east-1a")
        boots = [fleet.launch("0", "us-east-1a") for _ in range(2)]
        fleet.settle(seed)
        if seed % 3 == 0:
            fleet.lab.unavailable("AttachVolume", 1)
        if seed % 5 == 0:
            fleet.lab.throttle("AttachVolume", 3)
        fleet.turn = lambda: fleet.time.sleep(0.0)
        for boot in boots:
            fleet.boot(boot, 0.0)
        fleet.time.run()
    found = holders(fleet, volumes)
    for name, count in (("log", 1), ("data", 3)):
        assert len(found[name]) == count, f"seed {seed}: {name} is not up: {found}"
        assert len(set(found[name])) == 1, f"seed {seed}: {name} is split: {found}"
        winner = next(b for b in boots if b.instance_id == found[name][0])
        assert name in winner.machine.mounted_at, f"seed {seed}: {name}"
    assert found["log"][0] == found["data"][0], f"seed {seed}: two halves: {found}"
    losers = [boot for boot in boots if boot.states[-1] != "done"]
    for boot in losers:
        assert all("same node" in text for text in boot.troubles), boot.troubles


@pytest.mark.parametrize(
    "block",
    [
        0,
        *(pytest.param(one, marks=pytest.mark.long) for one in range(1, 4)),
        *(pytest.param(one, marks=pytest.mark.slow) for one in range(4, 10)),
    ],
)
def test_two_claimants_never_split_a_set(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        two_claimants(seed)


def test_the_loser_comes_up_when_the_winner_goes() -> None:
    """Nobody deadlocks: what one holds the other one gets in the end."""
    with in_turn(3):
        fleet = Fleet(3, Section(boot_wait=20, wait=600), throttled=False)
        volumes = fleet.volumes("0", "us-east-1a")
        boots = [fleet.launch("0", "us-east-1a") for _ in range(2)]
        fleet.turn = lambda: fleet.time.sleep(0.0)

        up: list[str] = []

        def ends(boot: Boot) -> None:
            if boot.states[-1] == "done":
                up.append(boot.instance_id)
                fleet.lab.terminate_instance(boot.instance_id, 20, 3)

        for boot in boots:
            fleet.boot(boot, 0.0, ends)
        fleet.time.run()
    assert sorted(up) == sorted(boot.instance_id for boot in boots)
    assert {x for one in holders(fleet, volumes).values() for x in one} <= {up[1]}
