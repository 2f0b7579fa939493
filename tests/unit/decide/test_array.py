"""Which array do the volumes carry, and how is it used?"""

from __future__ import annotations

import dataclasses
from typing import Optional

import pytest

from cc_kraken.decide.plan import ASSEMBLED, FAILED
from cc_kraken.decide.steps import AssembleArray, RemoveFstab, WriteRecords
from cc_kraken.machine import fstab
from cc_kraken.model import HalfMade, Known, Look, Trouble, Unknown
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    blanks,
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
    running,
    with_look,
)


def test_an_array_that_udev_started_under_another_name_is_used() -> None:
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        array_lines={w.ARRAY: "data"},
    )
    plan = decide(raid_claim(w.raid()), world)
    assert names(plan.steps) == ["MakeDirectory", "WriteFstab", "MountFilesystem"]


def test_an_array_that_does_not_run_is_assembled_by_uuid() -> None:
    plan = decide(raid_claim(w.raid()), raid_world(members()))
    assert names(plan.steps) == ["AssembleArray", "WriteArrayLine"]
    assert plan.outcomes


@pytest.mark.parametrize("trouble", [None, Trouble("sizes-differ", "", "", "")])
def test_a_volume_that_is_left_out_of_the_array_gets_no_record(
    trouble: Optional[Trouble],
) -> None:
    """It would be in the way after a cut: blank, and with a record."""
    claim = dataclasses.replace(raid_claim(w.raid(3, 1)), trouble=trouble)
    looks = {
        1: w.member(0, count=2, level=1),
        2: w.member(1, count=2, level=1),
        3: w.blank(),
    }
    running = {
        "arrays": (w.array(1, 2, level="raid1"),),
        "array_lines": {w.ARRAY: "data"},
    }
    world = raid_world(looks, array_looks={w.ARRAY: w.blank()}, **running)
    plan = decide(claim, world)
    (write,) = [step for step in plan.steps if isinstance(step, WriteRecords)]
    assert [one.volume_id for one in write.records] == [w.volume_id(1), w.volume_id(2)]
    # Cut off after it, or within mkfs.
    for number, record in enumerate(write.records, 1):
        looks[number] = dataclasses.replace(looks[number], record=record)
    for shown in (w.blank(), Look(HalfMade())):
        world = raid_world(looks, array_looks={w.ARRAY: shown}, **running)
        again = decide(claim, world)
        assert kind(again) is None
        assert names(again.steps)[:2] == ["MakeFilesystem", "EraseRecords"]


ARRAYS_REFUSED = {
    "one member of another array": (
        w.raid(),
        with_look(members(), 3, w.member(2, uuid=FS)),
        "array-foreign-member",
    ),
    "a mirror with one member zeroed": (
        w.raid(2, 1),
        with_look(members(2, level=1), 2, w.blank()),
        "array-members-missing",
    ),
    "a stripe with one member zeroed": (
        w.raid(),
        with_look(members(), 3, w.blank()),
        "array-members-missing",
    ),
    "a stale mirror": (
        w.raid(2, 1),
        {
            1: w.member(0, count=2, level=1, events=25, active=(0, 0xFFFE)),
            2: w.member(1, count=2, level=1, events=10),
        },
        "array-stale",
    ),
    "a copy of a member": (
        w.raid(2, 1),
        {1: w.member(0, count=2, level=1), 2: w.member(0, count=2, level=1)},
        "array-clone",
    ),
    "random bytes on one": (
        w.raid(),
        with_look(blanks(), 2, w.look(Unknown("data", 8 << 20))),
        "content-unknown",
    ),
    "a filesystem on one": (
        w.raid(),
        with_look(blanks(), 2, w.look(Known("ext4", FS))),
        "content-other",
    ),
}


@pytest.mark.parametrize("name", ARRAYS_REFUSED)
def test_arrays_that_are_refused(name: str) -> None:
    wanted, looks, expected = ARRAYS_REFUSED[name]
    plan = decide(raid_claim(wanted, len(looks)), raid_world(looks))
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, expected)


def test_a_member_recorded_as_lost_is_replaced_by_a_blank_volume() -> None:
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    plan = decide(raid_claim(w.raid(2, 1), 2), raid_world(looks))
    assert names(plan.steps)[:2] == ["AssembleArray", "AddMember"]
    assert any("degraded" in text for text in plan.warnings)


def test_a_member_that_could_not_be_added_is_left_alone() -> None:
    """The array is mounted without it."""
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    world = dataclasses.replace(raid_world(looks), not_added=frozenset({"data"}))
    plan = decide(raid_claim(w.raid(2, 1), 2), world)
    assert "AssembleArray" in names(plan.steps) and plan.trouble is None
    assert "AddMember" not in names(plan.steps)


def test_a_failed_member_is_replaced_while_the_array_is_in_use() -> None:
    """As docs/guides/replace-member.md has it: --fail and --remove, a new volume."""
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    world = running(looks, 1, raid_disks=2)
    mount = w.mounted("/krkn_data", "xfs", 1)
    mount = dataclasses.replace(
        mount, mount=dataclasses.replace(mount.mount, devno="9:127")
    )
    world = dataclasses.replace(world, mounts=(mount,))
    plan = decide(raid_claim(w.raid(2, 1), 2), world)
    assert plan.trouble is None
    assert names(plan.steps)[0] == "AddMember"
    assert not {"CreateArray", "MakeFilesystem", "Wipe"} & set(names(plan.steps))
    (warning,) = plan.warnings
    assert f"degraded until md has copied to {w.volume_id(2)}" in warning
    assert "give the set" not in warning, "it has one"


@pytest.mark.parametrize("use", ["something else holds it", "it holds data"])
def test_a_refused_volume_hides_no_lost_member(use: str) -> None:
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    if use == "it holds data":
        looks[2] = w.look(Unknown("data", 8 << 20))
    world = running(looks, 1, raid_disks=2)
    if use == "something else holds it":
        held = dataclasses.replace(world.devices[w.volume_id(2)], holders=("dm-0",))
        devices = {**world.devices, w.volume_id(2): held}
        world = dataclasses.replace(world, devices=devices)
    plan = decide(raid_claim(w.raid(2, 1), 2), world)
    assert kind(plan) in ("content-unknown", "device-held")
    (warning,) = plan.warnings
    assert "has already lost 1 of 2 members" in warning


def test_tags_that_contradict_the_array_are_a_warning() -> None:
    world = raid_world(
        members(level=5),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
    )
    plan = decide(raid_claim(w.raid(3, 0)), world)
    assert plan.steps and "it is used as it is" in plan.warnings[0]


def test_without_fs_type_an_array_is_only_assembled() -> None:
    world = raid_world(
        members(), arrays=(w.array(1, 2, 3),), array_lines={w.ARRAY: "data"}
    )
    plan = decide(raid_claim(w.raid(fs_type=None)), world)
    assert (plan.steps, plan.state) == ((), ASSEMBLED)


def test_an_array_that_is_not_to_be_mounted_any_more_keeps_its_array_line() -> None:
    line = fstab.entry("data", FS, "/krkn_data", "xfs")
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_lines={w.ARRAY: "data"},
        fstab={"data": line},
    )
    plan = decide(raid_claim(w.raid(fs_type=None, mount_path=None)), world)
    assert plan.steps == (RemoveFstab("data", gone=False),)
    assert plan.state == ASSEMBLED


def test_a_copy_is_never_added_to_an_array() -> None:
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    claim = raid_claim(w.raid(2, 1), 2)
    copy = dataclasses.replace(claim.volumes[1], origin="snap-1")
    claim = dataclasses.replace(claim, volumes=(claim.volumes[0], copy))
    plan = decide(claim, raid_world(looks))
    assert "AddMember" not in names(plan.steps)
    assert any("copy" in text for text in plan.warnings)


def test_a_volume_that_is_too_small_costs_no_array() -> None:
    """mdadm would refuse it, and nothing would be mounted."""
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    content = looks[1].content
    assert isinstance(content, Known) and content.superblock is not None
    wants = dataclasses.replace(content.superblock, component=w.GIB)
    looks[1] = w.look(dataclasses.replace(content, superblock=wants))
    world = raid_world(looks)
    plan = decide(raid_claim(w.raid(2, 1), 2), world)
    assert "AddMember" not in names(plan.steps) and plan.trouble is None
    assert "AssembleArray" in names(plan.steps)
    assert any("too small" in text for text in plan.warnings)
    assert any("give the set" in text for text in plan.warnings)


def test_an_array_whose_size_was_raised_is_used_as_it_is() -> None:
    """The new volume has no place in it: a warning, and it is left alone."""
    wanted = w.raid(4, 0)
    late = Trouble("members-missing", "3 of 4", "4", "Tag it.", waits=True)
    three = [w.attached(n) for n in (1, 2, 3)]
    plan = decide(w.claim(wanted, *three, trouble=late), raid_world(members()))
    assert (plan.steps, kind(plan)) == ((), "members-missing")
    world = w.world(
        *(1, 2, 3, 4),
        looks={**members(), 4: w.blank()},
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
    )
    plan = decide(w.claim(wanted, *three, w.attached(4)), world)
    assert plan.trouble is None and names(plan.steps)[-1] == "MountFilesystem"
    assert not {"AddMember", "CreateArray", "MakeFilesystem"} & set(names(plan.steps))
    assert any("left alone" in text for text in plan.warnings)
    assert any("Members says 4" in text for text in plan.warnings)


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
