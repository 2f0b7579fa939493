"""What is decided on arrays of copies, of two histories, and of half a mirror."""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide.members import Seen
from cc_kraken.decide.plan import FAILED
from cc_kraken.decide.steps import AssembleArray
from cc_kraken.decide.world import World
from cc_kraken.model import Claim, Known, Look, Trouble
from tests.unit import worlds as w
from tests.unit.test_decision import (
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
    running,
)


def test_a_stranger_is_named_by_its_volume_also_where_the_set_is_mounted() -> None:
    """A copy, which udev took for the member, and fstab mounted."""
    world = dataclasses.replace(
        raid_world(members(), arrays=(w.array(1, 2, 9, mounted=("/krkn_data",)),)),
        mounts=(w.mounted("/krkn_data", "xfs", 1, 2, 9),),
    )
    disks = {**world.devices, w.volume_id(9): w.device(9)}
    plan = decide(raid_claim(w.raid()), dataclasses.replace(world, devices=disks))
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, "array-stranger")
    assert f"nvme9n1 ({w.volume_id(9)})" in str(plan.trouble)
    assert "unmount /krkn_data" in str(plan.trouble)


def test_a_second_array_of_the_same_uuid_hides_no_stranger() -> None:
    """The original that came late waits alone, in an array that does not run."""
    late = w.array(3, name="md126", state="inactive")
    world = raid_world(members(), arrays=(late, w.array(1, 2, 9)))
    plan = decide(raid_claim(w.raid()), world)
    assert (plan.steps, kind(plan)) == ((), "array-stranger")
    assert "md127" in str(plan.trouble) and "nvme9n1" in str(plan.trouble)


PARTED = {
    1: w.member(0, count=2, level=1, events=500, active=(0, 0xFFFE)),
    2: w.member(1, count=2, level=1, events=600, active=(0xFFFE, 1)),
}


@pytest.mark.parametrize("inside", [(), (1,), (2,)], ids=["idle", "older", "newer"])
def test_halves_that_were_each_used_alone_are_refused(inside: tuple[int, ...]) -> None:
    """Whichever runs, the other has data that it lacks."""
    claim = raid_claim(w.raid(2, 1, allow_degraded=True), 2)
    world = running(PARTED, *inside) if inside else raid_world(PARTED)
    plan = decide(claim, world)
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, "array-diverged")


def half(**changes: object) -> tuple[Claim, World]:
    """allow_degraded, and one half of a mirror, which believes in both."""
    late = Trouble("members-missing", "1 of 2", "2", "Tag it.", waits=True)
    claim = raid_claim(w.raid(2, 1, allow_degraded=True), 1)
    looks = {1: w.member(1, count=2, level=1, events=150)}
    world = raid_world(looks, overdue=True, **changes)
    return dataclasses.replace(claim, trouble=late), world


def test_half_a_mirror_that_is_all_we_know_is_started_and_dated() -> None:
    plan = decide(*half())
    assert names(plan.steps)[0] == "AssembleArray"
    (told,) = [text for text in plan.warnings if "allow_degraded" in text]
    assert "1970-01-01 00:02:30 UTC" in told


@pytest.mark.parametrize("runs", [False, True])
def test_the_older_half_of_a_mirror_is_not_started(runs: bool) -> None:
    """This instance has seen the array at a later event."""
    seen = Seen(500, 0, (w.volume_id(1), w.volume_id(2)))
    claim, world = half(arrays_seen={w.ARRAY: seen})
    if runs:
        array = w.array(1, level="raid1", raid_disks=2, degraded=1)
        world = dataclasses.replace(world, arrays=(array,))
    plan = decide(claim, world)
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, "array-stale")
    assert w.volume_id(2) in str(plan.trouble)


def test_allow_degraded_that_is_left_on_is_noted() -> None:
    for allowed in (False, True):
        claim = raid_claim(w.raid(2, 1, allow_degraded=allowed), 2)
        plan = decide(claim, raid_world(members(2, level=1)))
        assert any("allow_degraded" in text for text in plan.notes) == allowed
        assert not plan.warnings


@pytest.mark.parametrize("runs", [False, True])
def test_a_replacement_under_way_is_left_alone(runs: bool) -> None:
    """mdadm --replace, cut off by a power failure: md goes on with it."""
    looks = members(2, level=1)
    block = w.superblock(1, count=2, level=1)
    block = dataclasses.replace(block, feature_map=16 | 2, device_uuid="new")
    looks[3] = Look(Known("linux_raid_member", w.ARRAY, superblock=block))
    world = running(looks, 1, 2, 3, degraded=0) if runs else raid_world(looks)
    plan = decide(raid_claim(w.raid(3, 1), 3), world)
    assert plan.trouble is None
    assert ("AssembleArray" in names(plan.steps)) == (not runs)
    for step in plan.steps:
        if isinstance(step, AssembleArray):
            assert step.volume_ids == tuple(w.volume_id(n) for n in (1, 2, 3))
