"""Are the members of an array its own, the newest, and enough of them?"""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide.members import Seen
from cc_kraken.decide.plan import FAILED, MOUNTED
from cc_kraken.decide.world import World
from cc_kraken.model import Claim, Trouble
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
    running,
    with_look,
)


def test_allow_degraded_starts_a_redundant_array_without_a_member() -> None:
    looks = with_look(members(2, level=1), 2, w.blank())
    plan = decide(raid_claim(w.raid(2, 1, allow_degraded=True), 2), raid_world(looks))
    assert plan.steps[0].degraded  # type: ignore[attr-defined]
    # Its place is free then, for the volume that is there instead.
    assert names(plan.steps)[:2] == ["AssembleArray", "AddMember"]
    assert not any("no free slot" in text for text in plan.warnings)
    stripe = with_look(members(), 3, w.blank())
    plan = decide(raid_claim(w.raid(allow_degraded=True)), raid_world(stripe))
    assert kind(plan) == "array-members-missing"


def test_an_array_that_runs_with_a_stranger_is_refused() -> None:
    world = raid_world(members(), arrays=(w.array(1, 2, 9),))
    assert kind(decide(raid_claim(w.raid()), world)) == "array-stranger"


SPLIT = {
    1: w.member(0, count=2, level=1, events=10),
    2: w.member(1, count=2, level=1, events=25, active=(0xFFFE, 1)),
}


def test_a_mirror_that_was_started_with_its_older_half_is_refused() -> None:
    """udev starts whoever comes first: here with last month's content."""
    claim = raid_claim(w.raid(2, 1), 2)
    for allowed in (False, True):
        wanted = dataclasses.replace(claim.wanted, allow_degraded=allowed)
        plan = decide(dataclasses.replace(claim, wanted=wanted), running(SPLIT, 1))
        assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, "array-stale")
        assert w.volume_id(1) in str(plan.trouble)


def test_a_mirror_that_runs_with_its_newer_half_is_used_with_a_warning() -> None:
    plan = decide(raid_claim(w.raid(2, 1), 2), running(SPLIT, 2))
    assert names(plan.steps)[-1] == "MountFilesystem"
    assert any(w.volume_id(1) in text for text in plan.warnings)


def test_event_counts_that_were_read_while_the_array_was_used() -> None:
    """The superblocks of an array in use are not read at one moment."""
    looks = {
        1: w.member(0, count=2, level=1, events=10),
        2: w.member(1, count=2, level=1, events=15),
    }
    plan = decide(raid_claim(w.raid(2, 1), 2), running(looks, 1, 2))
    assert plan.trouble is None and plan.warnings == ()
    assert kind(decide(raid_claim(w.raid(2, 1), 2), raid_world(looks))) == "array-stale"


def test_an_array_that_was_started_without_a_whole_member() -> None:
    """udev's timer was faster than the last volume: not without permission;
    where it is mounted already, a warning is all that is left."""
    looks = members(2, level=1)
    claim = raid_claim(w.raid(2, 1), 2)
    assert kind(decide(claim, running(looks, 1))) == "array-members-missing"
    allowed = dataclasses.replace(
        claim, wanted=dataclasses.replace(claim.wanted, allow_degraded=True)
    )
    assert names(decide(allowed, running(looks, 1)).steps)[-1] == "MountFilesystem"
    world = dataclasses.replace(
        running(looks, 1, mounted=("/krkn_data",)),
        mounts=(w.mounted("/krkn_data", "xfs", 1),),
    )
    plan = decide(claim, world)
    assert plan.state == MOUNTED
    assert any("without" in text and w.volume_id(2) in text for text in plan.warnings)


def test_degraded_is_not_for_members_of_which_some_are_copies() -> None:
    late = Trouble("members-missing", "2 of 3", "3", "Tag it.", waits=True)
    wanted = w.raid(3, 5, allow_degraded=True)
    looks = {n: w.member(n - 1, level=5) for n in (1, 2)}
    world = raid_world(looks, overdue=True)
    claim = dataclasses.replace(raid_claim(wanted, 2), trouble=late)
    assert names(decide(claim, world).steps)[0] == "AssembleArray"
    copy = dataclasses.replace(claim.volumes[1], origin="snap-1")
    claim = dataclasses.replace(claim, volumes=(claim.volumes[0], copy))
    assert decide(claim, world).trouble == late


def test_a_mirror_that_runs_beside_a_member_that_was_zeroed() -> None:
    looks = with_look(members(2, level=1), 2, w.blank())
    plan = decide(raid_claim(w.raid(2, 1), 2), running(looks, 1))
    assert (plan.steps, kind(plan)) == ((), "array-members-missing")


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
