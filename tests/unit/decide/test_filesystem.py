"""Which filesystem is there, or is to be made?"""

from __future__ import annotations

import dataclasses
from typing import Optional

import pytest

from cc_kraken.decide.plan import FAILED
from cc_kraken.decide.steps import MakeFilesystem
from cc_kraken.model import HalfMade, Known, Look, Record, Trouble, Unknown
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    OVERWRITE,
    RECORD,
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
    records,
    shown,
)

MOUNT = ["MakeDirectory", "WriteFstab", "MountFilesystem"]
MAKE = ["MakeFilesystem", "EraseRecords", *MOUNT]
WAY = {
    "a blank volume": (w.blank(), ["WriteRecords", *MAKE]),
    "blank, with our record": (dataclasses.replace(w.blank(), record=RECORD), MAKE),
    "a half-made filesystem of ours": (w.look(HalfMade(), RECORD), MAKE),
    "the wanted filesystem": (w.look(Known("ext4", FS, "KRKN-log")), MOUNT),
}


@pytest.mark.parametrize("name", WAY)
def test_the_way_to_the_wanted_filesystem(name: str) -> None:
    look, expected = WAY[name]
    plan = shown(look)
    assert names(plan.steps) == expected
    if isinstance(look.content, Known):
        assert plan.steps[-1].uuid == FS  # type: ignore[attr-defined]


REFUSED_CONTENT = {
    "another filesystem": (w.look(Known("xfs", FS)), "content-other"),
    "a partition table": (w.look(Known("gpt", FS)), "content-other"),
    "a member": (w.member(0), "content-other"),
    "random bytes": (w.look(Unknown("data", 512)), "content-unknown"),
    "a record of another set": (
        w.look(HalfMade(), dataclasses.replace(RECORD, identity="0" * 64)),
        "record-foreign",
    ),
    "half made by an older run, and enlarged since": (
        dataclasses.replace(w.look(HalfMade(), RECORD), moved=1 << 20),
        "record-unusable",
    ),
    "data beside the record": (
        w.look(Unknown("data", 1 << 20), RECORD),
        "record-unusable",
    ),
    "a filesystem beside the record": (
        w.look(Known("xfs", FS), RECORD),
        "record-unusable",
    ),
}


@pytest.mark.parametrize("name", REFUSED_CONTENT)
def test_content_that_is_refused(name: str) -> None:
    look, expected = REFUSED_CONTENT[name]
    plan = shown(look)
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, expected)


def test_what_was_finished_for_an_older_wish_is_not_mounted_for_a_new_one() -> None:
    plan = shown(w.look(Known("ext4", RECORD.fs_uuid), RECORD), fs_type="xfs")
    assert names(plan.steps) == ["EraseRecords"]


def test_a_copy_of_a_snapshot_is_never_formatted() -> None:
    volume = dataclasses.replace(w.attached(1), origin="snap-1")
    plan = decide(w.claim(w.single(), volume), w.world(1, looks={1: w.blank()}))
    assert (plan.steps, kind(plan)) == ((), "snapshot-blank")


@pytest.mark.parametrize("record", [None, RECORD])
def test_overwrite_permits_exactly_that_content(record: Optional[Record]) -> None:
    """With a record beside it, too: nothing of an older overwrite is resumed."""
    look = w.look(Unknown("data", 512), record, mark="abc")
    for given, expected in (("abc", OVERWRITE), ("abd", []), ("", [])):
        plan = shown(look, overwrite={w.volume_id(1): given})
        assert names(plan.steps)[:4] == expected
        assert (kind(plan) is None) == bool(expected)
    assert f"overwrite: {{{w.volume_id(1)}: abc}}" in str(plan.trouble)


def test_where_no_fixed_place_tells_the_way_to_a_fingerprint_is_named() -> None:
    look = w.look(Unknown("data", 512), RECORD)
    plan = shown(look)
    assert plan.trouble is not None and "blank_proof: full" in plan.trouble.remedy


USED = Known("ext4", RECORD.fs_uuid, ever_mounted=True)


EVER_MOUNTED = {
    "no record": (USED, None, []),
    "the very record": (USED, RECORD, ["EraseRecords"]),
    "a record of another set": (
        USED, dataclasses.replace(RECORD, identity="0" * 64), [],
    ),
    "a record of another filesystem": (
        USED, dataclasses.replace(RECORD, fs_uuid=FS), [],
    ),
    "a record beside somebody's filesystem": (
        Known("ext4", FS, ever_mounted=True), RECORD, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVER_MOUNTED)
def test_what_was_ever_mounted_is_whole_whatever_its_record(name: str) -> None:
    content, record, expected = EVER_MOUNTED[name]
    plan = shown(w.look(content, record))
    assert plan.trouble is None
    before = [one for one in names(plan.steps) if one in (*OVERWRITE, "CreateArray")]
    assert before == expected
    assert names(plan.steps)[-1] == "MountFilesystem"


def test_what_was_ever_mounted_and_is_not_what_is_wanted_is_refused() -> None:
    look = w.look(Known("xfs", RECORD.fs_uuid, ever_mounted=True), RECORD)
    plan = shown(look)
    assert (plan.steps, kind(plan)) == ((), "content-other")


def test_a_journal_that_would_reach_the_record_is_refused_at_once() -> None:
    wanted = w.single(mkfs_options=("-J", "size=900"))
    plan = decide(w.claim(wanted, w.attached(1)), w.world(1, looks={1: w.blank()}))
    assert (plan.steps, kind(plan)) == ((), "mkfs-option-refused")


def test_the_plan_reaches_to_the_mount_where_the_first_chunk_tells() -> None:
    world = raid_world(members(), heads={w.ARRAY: Known("xfs", FS)})
    plan = decide(raid_claim(w.raid()), world)
    assert names(plan.steps)[0] == "AssembleArray"
    assert names(plan.steps)[-1] == "MountFilesystem"


def test_an_array_whose_filesystem_was_half_made_goes_on_at_mkfs() -> None:
    claim = raid_claim(w.raid())
    made = records(claim.wanted, *claim.volumes)
    uuid = made[0].array_uuid
    looks = {
        n: dataclasses.replace(w.member(n - 1, uuid=uuid), record=made[n - 1])
        for n in (1, 2, 3)
    }
    world = raid_world(
        looks,
        arrays=(w.array(1, 2, 3, uuid=uuid),),
        array_looks={uuid: Look(HalfMade())},
        array_lines={uuid: "data"},
    )
    assert names(decide(claim, world).steps)[:2] == ["MakeFilesystem", "EraseRecords"]


def test_what_was_ever_mounted_on_an_array_needs_nothing_of_its_records() -> None:
    """They are erased where they are; a lost member's is no reason to wait."""
    whole = raid_claim(w.raid(2, 1), 2)
    made = records(whole.wanted, *whole.volumes)
    used = Known("xfs", made[0].fs_uuid, ever_mounted=True)
    looks = {
        n: dataclasses.replace(look, record=made[n - 1])
        for n, look in members(2, level=1).items()
    }
    running = {
        "arrays": (w.array(1, 2, level="raid1"),),
        "array_looks": {w.ARRAY: Look(used)},
        "array_lines": {w.ARRAY: "data"},
    }
    plan = decide(whole, raid_world(looks, **running))
    assert names(plan.steps)[0] == "EraseRecords"
    assert names(plan.steps)[-1] == "MountFilesystem"

    late = Trouble("members-missing", "1 of 2", "2", "Tag it.", waits=True)
    wanted = w.raid(2, 1, allow_degraded=True)
    fewer = dataclasses.replace(raid_claim(wanted, 1), trouble=late)
    running["arrays"] = (w.array(1, level="raid1", raid_disks=2, degraded=1),)
    world = raid_world({1: looks[1]}, overdue=True, **running)
    plan = decide(fewer, world)
    assert plan.trouble is None, plan.trouble
    assert names(plan.steps)[-1] == "MountFilesystem"


def test_the_label_is_cut_to_what_the_type_can_hold() -> None:
    wanted = w.single(name="a-rather-long-name")
    plan = decide(w.claim(wanted, w.attached(1)), w.world(1, looks={1: w.blank()}))
    (make,) = [step for step in plan.steps if isinstance(step, MakeFilesystem)]
    assert len(make.label.encode()) <= 16


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("label", ["", "GOAT-log", "somebody's"])
def test_a_filesystem_of_another_tool_is_used_as_it_is(
    fs_type: str, label: str
) -> None:
    claim = w.claim(w.single(fs_type=fs_type, label="mine"), w.attached(1))
    looks = {1: w.look(Known(fs_type, FS, label))}
    plan = decide(claim, w.world(1, looks=looks))
    assert names(plan.steps) == ["MakeDirectory", "WriteFstab", "MountFilesystem"]
    assert plan.filesystem == Known(fs_type, FS, label)
