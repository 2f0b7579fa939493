"""The decision as a table: one row is one thing that an operator can meet."""

from __future__ import annotations

import dataclasses
from typing import Optional, Sequence

import pytest

from cc_kraken.decide import decision
from cc_kraken.decide.plan import ASSEMBLED, ATTACHED, FAILED, MOUNTED, PENDING, Plan
from cc_kraken.decide.steps import (
    Attach,
    MakeFilesystem,
    Step,
    WriteFstab,
    WriteRecords,
)
from cc_kraken.decide.world import World
from cc_kraken.machine import fstab
from cc_kraken.model import (
    ArrayLine,
    Attachment,
    Claim,
    HalfMade,
    Holder,
    Known,
    Look,
    PathState,
    Record,
    Trouble,
    Unknown,
    Volume,
    WantedSet,
)
from tests.unit import worlds as w

OTHER = "i-00000000000000002"
FS = "11111111-2222-3333-4444-555555555555"
NEW_XFS = [
    "WriteRecords",
    "CreateArray",
    "WriteArrayLine",
    "MakeFilesystem",
    "EraseRecords",
    "MakeDirectory",
    "WriteFstab",
    "MountFilesystem",
]


def decide(claim: Claim, world: World, *others: Claim) -> Plan:
    return decision.decide(w.NODE, (claim, *others), world)[0]


def names(steps: Sequence[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def kind(plan: Plan) -> Optional[str]:
    return plan.trouble.kind if plan.trouble else None


def records(wanted: WantedSet, *volumes: Volume) -> tuple[Record, ...]:
    """The intent records that a run on blank volumes would write."""
    numbers = [int(volume.id[4:], 16) for volume in volumes]
    world = w.world(*numbers, looks={n: w.blank() for n in numbers})
    plan = decide(w.claim(wanted, *volumes), world)
    (step,) = [step for step in plan.steps if isinstance(step, WriteRecords)]
    return step.records


# ------------------------------------------------------------- sets of one


def test_a_free_volume_is_attached_and_the_rest_is_foretold() -> None:
    plan = decide(w.claim(w.single(), w.volume(1)), w.world())
    assert plan.steps == (Attach("log", (w.volume_id(1),)),)
    assert "where the volume is blank: ext4 is made" in plan.outcomes


def test_a_blank_volume_gets_record_filesystem_and_mount_in_this_order() -> None:
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: w.blank()}))
    assert names(plan.steps) == [
        "WriteRecords",
        "MakeFilesystem",
        "EraseRecords",
        "MakeDirectory",
        "WriteFstab",
        "MountFilesystem",
    ]


def test_a_known_filesystem_is_used_as_it_is() -> None:
    looks = {1: w.look(Known("ext4", FS, "KRKN-log"))}
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks=looks))
    assert names(plan.steps) == ["MakeDirectory", "WriteFstab", "MountFilesystem"]
    assert plan.steps[-1].uuid == FS  # type: ignore[attr-defined]


def test_nothing_is_left_to_do_when_mounted_with_its_fstab_line() -> None:
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    world = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
        fstab={"log": line},
    )
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert (plan.steps, plan.state, plan.trouble) == ((), MOUNTED, None)


def test_without_fs_type_a_volume_is_attached_and_left_alone() -> None:
    plan = decide(w.claim(w.single(fs_type=None), w.attached(1)), w.world(1))
    assert (plan.steps, plan.state) == ((), ATTACHED)


RECORD = records(w.single(), w.attached(1))[0]
REFUSED_CONTENT = {
    "another filesystem": (w.look(Known("xfs", FS)), "content-other"),
    "a partition table": (w.look(Known("gpt", FS)), "content-other"),
    "a member": (w.member(0), "content-other"),
    "random bytes": (w.look(Unknown("data", 512)), "content-unknown"),
    "a read error": (w.look(Unknown("read error at 0")), "content-unknown"),
    "a record of another set": (
        w.look(HalfMade(), dataclasses.replace(RECORD, identity="0" * 64)),
        "record-foreign",
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
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: look}))
    assert (plan.steps, plan.state, kind(plan)) == ((), FAILED, expected)


def test_a_half_made_filesystem_of_ours_is_made_anew() -> None:
    plan = decide(
        w.claim(w.single(), w.attached(1)),
        w.world(1, looks={1: w.look(HalfMade(), RECORD)}),
    )
    assert names(plan.steps)[:2] == ["MakeFilesystem", "EraseRecords"]


def test_a_record_on_blank_goes_on_without_a_second_one() -> None:
    look = dataclasses.replace(w.blank(), record=RECORD)
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: look}))
    assert names(plan.steps)[:2] == ["MakeFilesystem", "EraseRecords"]


def test_a_copy_of_a_snapshot_is_never_formatted() -> None:
    volume = dataclasses.replace(w.attached(1), origin="snap-1")
    plan = decide(w.claim(w.single(), volume), w.world(1, looks={1: w.blank()}))
    assert (plan.steps, kind(plan)) == ((), "snapshot-blank")


OVERWRITE = ["Wipe", "WriteRecords", "MakeFilesystem", "EraseRecords"]


def test_overwrite_permits_exactly_that_content() -> None:
    look = w.look(Unknown("data", 512), mark="abc")
    for given, expected in (("abc", OVERWRITE), ("abd", [])):
        wanted = w.single(overwrite={w.volume_id(1): given})
        plan = decide(w.claim(wanted, w.attached(1)), w.world(1, looks={1: look}))
        assert names(plan.steps)[:4] == expected


def test_what_is_left_of_an_overwrite_asks_for_a_new_fingerprint() -> None:
    """Nothing is resumed; named once more, it is given up with its record."""
    look = w.look(Unknown("data", 512), RECORD, mark="abc")
    claim = w.claim(w.single(), w.attached(1))
    plan = decide(claim, w.world(1, looks={1: look}))
    assert (plan.steps, kind(plan)) == ((), "record-unusable")
    assert plan.trouble is not None
    assert f"overwrite: {{{w.volume_id(1)}: abc}}" in plan.trouble.remedy
    claim = w.claim(w.single(overwrite={w.volume_id(1): "abc"}), w.attached(1))
    plan = decide(claim, w.world(1, looks={1: look}))
    assert names(plan.steps)[:4] == OVERWRITE


def test_where_no_fixed_place_tells_the_way_to_a_fingerprint_is_named() -> None:
    look = w.look(Unknown("data", 512), RECORD)
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: look}))
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
    plan = decide(
        w.claim(w.single(), w.attached(1)),
        w.world(1, looks={1: w.look(content, record)}),
    )
    assert plan.trouble is None
    before = [one for one in names(plan.steps) if one in (*OVERWRITE, "CreateArray")]
    assert before == expected
    assert names(plan.steps)[-1] == "MountFilesystem"


def test_what_was_ever_mounted_and_is_not_what_is_wanted_is_refused() -> None:
    look = w.look(Known("xfs", RECORD.fs_uuid, ever_mounted=True), RECORD)
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: look}))
    assert (plan.steps, kind(plan)) == ((), "content-other")


def test_a_journal_that_would_reach_the_record_is_refused_at_once() -> None:
    wanted = w.single(mkfs_options=("-J", "size=900"))
    plan = decide(w.claim(wanted, w.attached(1)), w.world(1, looks={1: w.blank()}))
    assert (plan.steps, kind(plan)) == ((), "mkfs-option-refused")


# ------------------------------------------------------- holders and devices

HOLDERS = {
    ("running", "kafka", "0"): ("holder-predecessor", True),
    ("running", "kafka", "1"): ("holder-running", False),
    ("running", None, None): ("holder-running", False),
    ("pending", "kafka", "0"): ("holder-predecessor", True),
    ("stopped", "kafka", "0"): ("holder-stopped", True),
    ("stopping", None, None): ("holder-stopped", True),
    ("shutting-down", None, None): ("holder-leaving", True),
    ("terminated", "kafka", "0"): ("holder-leaving", True),
    ("gone", None, None): ("holder-leaving", True),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_volume_that_another_instance_holds(
    holder: tuple[str, Optional[str], Optional[str]],
) -> None:
    state, prefix, node_id = holder
    volumes = (w.volume(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(holders={OTHER: Holder(OTHER, state, prefix, node_id)})
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert plan.trouble is not None
    assert (plan.trouble.kind, plan.trouble.waits) == HOLDERS[holder]
    assert plan.steps == ()  # nothing is attached before all members are free
    assert OTHER in str(plan.trouble)


@pytest.mark.parametrize("state", ["detaching", "busy"])
@pytest.mark.parametrize("holder", ["running", "stopped"])
def test_a_volume_that_another_instance_is_letting_go(holder: str, state: str) -> None:
    """Whoever the holder is: somebody has asked for the volume already."""
    volumes = (w.volume(1), w.attached(2, OTHER, state), w.volume(3))
    world = w.world(holders={OTHER: Holder(OTHER, holder)})
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert plan.trouble is not None and plan.steps == ()
    assert (plan.trouble.kind, plan.trouble.waits) == ("holder-detaching", True)
    assert ("busy" in plan.trouble.found) is (state == "busy")
    assert OTHER in plan.trouble.found


def test_who_loses_a_member_lets_the_unused_others_go() -> None:
    volumes = (w.attached(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(
        1,
        holders={OTHER: Holder(OTHER, "running", "kafka", "0")},
        attached_now=frozenset({w.volume_id(1)}),
    )
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert names(plan.steps) == ["Detach"]
    assert (plan.state, kind(plan)) == (PENDING, "holder-predecessor")


def test_what_was_attached_before_this_run_stays() -> None:
    volumes = (w.attached(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(1, holders={OTHER: Holder(OTHER, "running", "kafka", "0")})
    assert decide(w.claim(w.raid(), *volumes), world).steps == ()


def test_attaching_is_awaited_and_in_the_end_called_stuck() -> None:
    claim = w.claim(w.single(), w.attached(1, state="attaching"))
    plan = decide(claim, w.world(awaited={w.volume_id(1): 89.0}))
    assert (plan.state, kind(plan)) == (PENDING, "attaching")
    plan = decide(claim, w.world(awaited={w.volume_id(1): 91.0}))
    assert (plan.state, kind(plan)) == (FAILED, "attach-stuck")


def device_case(**change: object) -> World:
    found = w.world(1, looks={1: w.blank()})
    device = dataclasses.replace(w.device(1), **change)  # type: ignore[arg-type]
    return dataclasses.replace(found, devices={w.volume_id(1): device})


DEVICES = {
    "device-read-only": device_case(read_only=True),
    "device-size": device_case(size=w.GIB - 512),
    "device-swap": device_case(swap=True),
    "device-held": device_case(holders=("dm-0",)),
    "device-duplicate": dataclasses.replace(
        w.world(1, looks={1: w.blank()}),
        duplicates={w.volume_id(1): ("nvme1n1", "nvme7n1")},
    ),
    "system-volume": dataclasses.replace(
        w.world(1, looks={1: w.blank()}),
        system_volumes=frozenset({w.volume_id(1)}),
    ),
    "program-missing": dataclasses.replace(
        w.world(1, looks={1: w.blank()}),
        missing_programs=frozenset({"mkfs.ext4"}),
    ),
}


@pytest.mark.parametrize("expected", DEVICES)
def test_devices_that_are_refused(expected: str) -> None:
    plan = decide(w.claim(w.single(), w.attached(1)), DEVICES[expected])
    assert (plan.steps, kind(plan)) == ((), expected)


def test_delete_on_termination_is_a_warning_with_the_remedy() -> None:
    attachment = Attachment(w.ME, "/dev/sdf", "attached", delete_on_termination=True)
    volume = dataclasses.replace(w.attached(1), attachments=(attachment,))
    world = w.world(1, looks={1: w.look(Known("ext4", FS))})
    plan = decide(w.claim(w.single(), volume), world)
    assert "modify-instance-attribute" in plan.warnings[0]
    assert plan.steps


# --------------------------------------------------------------------- arrays


def raid_claim(wanted: WantedSet, count: int = 3) -> Claim:
    return w.claim(wanted, *(w.attached(n) for n in range(1, count + 1)))


def raid_world(looks: dict[int, Look], **kwargs: object) -> World:
    return w.world(*looks, looks=looks, **kwargs)


def blanks(count: int = 3) -> dict[int, Look]:
    return {n: w.blank() for n in range(1, count + 1)}


def members(count: int = 3, **kwargs: object) -> dict[int, Look]:
    return {n: w.member(n - 1, count=count, **kwargs) for n in range(1, count + 1)}


@pytest.mark.parametrize(("level", "count"), [(0, 3), (1, 2), (5, 3), (6, 4), (10, 4)])
def test_blank_members_become_an_array(level: int, count: int) -> None:
    claim = raid_claim(w.raid(count, level), count)
    plan = decide(claim, raid_world(blanks(count)))
    assert names(plan.steps) == NEW_XFS


def test_all_free_members_are_attached_in_one_step() -> None:
    claim = w.claim(w.raid(), *(w.volume(n) for n in (3, 1, 2)))
    plan = decide(claim, w.world())
    assert plan.steps == (Attach("data", tuple(map(w.volume_id, (1, 2, 3)))),)


def test_mdadm_is_asked_for_before_anything_is_attached() -> None:
    claim = w.claim(w.raid(), *(w.volume(n) for n in (1, 2, 3)))
    plan = decide(claim, w.world(missing_programs=frozenset({"mdadm"})))
    assert (plan.steps, kind(plan)) == ((), "program-missing")


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


def test_the_plan_reaches_to_the_mount_where_the_first_chunk_tells() -> None:
    world = raid_world(members(), heads={w.ARRAY: Known("xfs", FS)})
    plan = decide(raid_claim(w.raid()), world)
    assert names(plan.steps)[0] == "AssembleArray"
    assert names(plan.steps)[-1] == "MountFilesystem"


def test_half_an_array_with_our_records_goes_back_to_its_beginning() -> None:
    claim = raid_claim(w.raid())
    made = records(claim.wanted, *claim.volumes)
    block = w.member(0, uuid=made[0].array_uuid)
    looks = {
        1: dataclasses.replace(block, record=made[0]),
        2: dataclasses.replace(w.blank(), record=made[1]),
        3: dataclasses.replace(w.blank(), record=made[2]),
    }
    assert names(decide(claim, raid_world(looks)).steps) == ["ZeroSuperblocks"]

    # Not beside anything that the record does not explain.
    for strange in (Unknown("data", 512), Known("ext4", FS)):
        looks[3] = w.look(strange, made[2])
        plan = decide(claim, raid_world(looks))
        assert (plan.steps, kind(plan)) == ((), "record-unusable")
    without = {n: dataclasses.replace(one, record=None) for n, one in looks.items()}
    plan = decide(claim, raid_world(without))
    assert (plan.steps, plan.state) == ((), FAILED)


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


def test_members_of_different_sizes_are_refused_unless_the_array_exists() -> None:
    """It may have no filesystem yet: one was enlarged between the two."""
    claim = dataclasses.replace(
        raid_claim(w.raid()), trouble=Trouble("sizes-differ", "", "", "")
    )
    plan = decide(claim, raid_world(blanks(3)))
    assert (plan.steps, kind(plan)) == ((), "sizes-differ")
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.blank()},
        array_lines={w.ARRAY: "data"},
    )
    assert names(decide(claim, world).steps)[:2] == ["WriteRecords", "MakeFilesystem"]


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


def with_look(looks: dict[int, Look], number: int, look: Look) -> dict[int, Look]:
    return {**looks, number: look}


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


SILENT = w.look(Unknown("/dev/x has not answered", silent=True))


@pytest.mark.parametrize("others", ["blank", "members", "records"])
def test_a_disk_that_does_not_answer_is_waited_for(others: str) -> None:
    """Whatever the other members hold: nothing is judged without it."""
    claim = raid_claim(w.raid(2, 1, allow_degraded=True), 2)
    looks = {"blank": blanks(2), "members": members(2, level=1)}.get(others, blanks(2))
    if others == "records":
        written = records(w.raid(2, 1), *(w.attached(n) for n in (1, 2)))
        looks = {1: dataclasses.replace(w.blank(), record=written[0])}
    plan = decide(claim, raid_world(with_look(looks, 2, SILENT)))
    assert (plan.steps, kind(plan)) == ((), "device-silent")
    assert plan.trouble is not None and plan.trouble.waits


def test_a_single_disk_that_does_not_answer_is_waited_for() -> None:
    plan = decide(w.claim(w.single(), w.attached(1)), w.world(1, looks={1: SILENT}))
    assert (plan.steps, plan.state, kind(plan)) == ((), PENDING, "device-silent")


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


def test_a_member_recorded_as_lost_is_replaced_by_a_blank_volume() -> None:
    looks = {
        1: w.member(0, count=2, level=1, active=(0, 0xFFFE)),
        2: w.blank(),
    }
    plan = decide(raid_claim(w.raid(2, 1), 2), raid_world(looks))
    assert names(plan.steps)[:2] == ["AssembleArray", "AddMember"]
    assert any("degraded" in text for text in plan.warnings)


def test_tags_that_contradict_the_array_are_a_warning() -> None:
    world = raid_world(
        members(level=5),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
    )
    plan = decide(raid_claim(w.raid(3, 0)), world)
    assert plan.steps and "it is used as it is" in plan.warnings[0]


def test_an_array_that_runs_with_a_stranger_is_refused() -> None:
    world = raid_world(members(), arrays=(w.array(1, 2, 9),))
    assert kind(decide(raid_claim(w.raid()), world)) == "array-stranger"


def test_without_fs_type_an_array_is_only_assembled() -> None:
    world = raid_world(
        members(), arrays=(w.array(1, 2, 3),), array_lines={w.ARRAY: "data"}
    )
    plan = decide(raid_claim(w.raid(fs_type=None)), world)
    assert (plan.steps, plan.state) == ((), ASSEMBLED)


# --------------------------------------------------------------------- mounts


def path_plan(state: PathState, *, known: bool, over: bool = False) -> Plan:
    look = w.look(Known("ext4", FS)) if known else w.blank()
    world = w.world(1, looks={1: look}, paths={"/krkn_log": state})
    return decide(w.claim(w.single(mount_over=over), w.attached(1)), world)


def test_a_directory_with_files_is_a_warning_or_a_refusal() -> None:
    full = w.directory("precious")
    known = path_plan(full, known=True)
    assert known.steps and "precious" in known.warnings[0]
    new = path_plan(full, known=False)
    assert (new.steps, kind(new)) == ((), "mount-path-files")
    assert path_plan(full, known=False, over=True).steps


@pytest.mark.parametrize("found", ["symlink", "other"])
def test_a_mount_path_that_is_no_directory(found: str) -> None:
    plan = path_plan(PathState(found), known=False)
    assert (plan.steps, kind(plan)) == ((), "mount-path-kind")


def test_a_path_where_something_else_is_mounted() -> None:
    world = w.world(
        1, looks={1: w.blank()}, mounts=(w.mounted("/krkn_log", "ext4", 5),)
    )
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert (plan.steps, kind(plan)) == ((), "mount-path-busy")


def test_a_changed_path_moves_at_the_next_reboot() -> None:
    world = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/old", "ext4", 1),),
        former={w.volume_id(1): frozenset({"/old"})},
    )
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert names(plan.steps) == ["WriteFstab"]
    assert "next reboot" in plan.warnings[0]
    assert (plan.state, plan.mount_path) == (MOUNTED, "/old")
    assert plan.outcomes == ("it is mounted at /krkn_log at the next reboot",)


OLD = ("/old", 1)
HERE = ("/krkn_log", 1)
UP: dict[str, tuple[list[tuple[str, int]], set[str], Optional[str]]] = {
    # What is mounted, by whose disk (0: somebody's), in the order of the mounts;
    # where the set has been before; what becomes of it.
    "at its path": ([HERE], set(), None),
    "at its path, upon another mount": ([("/krkn_log", 0), HERE], set(), None),
    "at its path and elsewhere": ([HERE, ("/bind", 1)], set(), None),
    "covered": ([HERE, ("/krkn_log", 0)], set(), "mount-hidden"),
    "covered, and elsewhere": ([HERE, OLD, ("/krkn_log", 0)], {"/old"},
                               "mount-hidden"),
    "covered by another set": ([HERE, ("/krkn_log", 2)], set(), "mount-hidden"),
    "below another mount": ([HERE, ("/", 0)], set(), "mount-hidden"),
    "where it was": ([OLD], {"/old"}, None),
    "where it was, and covered": ([OLD, ("/old", 0)], {"/old"}, "mount-hidden"),
    "where it was, and another set is to be": ([("/two", 1)], {"/two"},
                                               "mounted-elsewhere"),
    "at the path of another set": ([("/two", 1)], set(), "mounted-elsewhere"),
    "where nobody wants it": ([OLD], set(), "mounted-elsewhere"),
    "where it was never": ([OLD], {"/older"}, "mounted-elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("evidence", [w.volume_id(1), f"UUID={FS}"])
@pytest.mark.parametrize("name", UP)
def test_a_mounted_set_is_up_where_one_sees_it(name: str, evidence: str) -> None:
    mounts, former, expected = UP[name]
    world = w.world(
        *(1, 2),
        looks={n: w.look(Known("ext4", FS if n == 1 else w.ARRAY)) for n in (1, 2)},
        mounts=w.stacked(*mounts),
        former={evidence: frozenset(former)},
        fstab={"log": fstab.entry("log", FS, "/krkn_log", "ext4")},
    )
    two = w.claim(w.single(name="two", mount_path="/two"), w.attached(2))
    plan = decide(w.claim(w.single(), w.attached(1)), world, two)
    assert kind(plan) == expected
    assert plan.state == (FAILED if expected else MOUNTED)
    assert plan.steps == ()  # its line in fstab is right
    if plan.trouble is not None:
        place = mounts[0][0]
        assert place in plan.trouble.found and "umount" in plan.trouble.remedy


@pytest.mark.parametrize(
    ("text", "steps", "remedy"),
    [
        ("", 1, "fstab has it at"),
        ("/dev/nvme2n1 /krkn_log ext4 defaults 0 0\n", 1, "fstab has it at"),
        ("/dev/nvme1n1 /two ext4 defaults 0 0\n", 1, "fstab has it at"),
        # By intent, with more than ours says, or for a disk that is not there.
        (f"UUID={w.ARRAY} /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
        ("/dev/disk/by-id/x /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
        ("/dev/nvme2n1 /krkn_log ext4 noauto,ro 0 0\n", 0, "Correct fstab"),
        ("/dev/nvme9n1 /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
    ],
)
def test_fstab_is_put_right_where_kernel_names_were_swapped(
    text: str, steps: int, remedy: str
) -> None:
    """Also if only one of the two lines is wrong."""
    one, two = (
        dataclasses.replace(w.mounted(path, "ext4", n), device=f"259:{n}")
        for n, path in ((1, "/two"), (2, "/krkn_log"))
    )
    devnos = {f"/dev/nvme{n}n1": f"259:{n}" for n in (1, 2)}
    devnos.update({f"UUID={w.ARRAY}": "259:2", "/dev/disk/by-id/x": "259:2"})
    world = w.world(
        *(1, 2),
        looks={n: w.look(Known("ext4", FS if n == 1 else w.ARRAY)) for n in (1, 2)},
        mounts=(one, two),
        fstab_foreign=fstab.parse(text),
        fstab_devnos=devnos,
    )
    other = w.claim(w.single(name="two", mount_path="/two"), w.attached(2))
    plan = decide(w.claim(w.single(), w.attached(1)), world, other)
    assert kind(plan) == "mounted-elsewhere" and plan.trouble is not None
    assert names(plan.steps) == ["WriteFstab"] * steps
    assert remedy in plan.trouble.remedy
    assert ("the warnings" in plan.trouble.remedy) == bool(plan.warnings)
    for step in plan.steps:
        assert isinstance(step, WriteFstab)
        after = fstab.replace(text, {"log": step.line}, step.instead_of)
        assert after == fstab.render(step.line) + "\n"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([("/krkn_log/a", 0)], "mounts-below"),
        ([("/krkn_log/a", 2), ("/krkn_log/b/c", 0)], "mounts-below"),
        ([("/krkn_log2", 0), ("/", 0)], None),
        ([("/krkn_log", 0), ("/krkn_log/a", 0)], "mount-path-busy"),
        # Hidden already: what is to be mounted hides nothing.
        ([("/krkn_log/a", 0), ("/", 0)], None),
    ],
)
def test_nothing_is_mounted_over_mounts(
    mounts: list[tuple[str, int]], expected: Optional[str], known: bool
) -> None:
    content = w.look(Known("ext4", FS)) if known else w.blank()
    world = w.world(1, looks={1: content}, mounts=w.stacked(*mounts))
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert kind(plan) == expected
    assert bool(plan.steps) == (expected is None)
    if expected == "mounts-below":
        assert all(path in str(plan.trouble) for path, _ in mounts)


def test_no_line_for_a_path_below_which_another_set_is_mounted() -> None:
    """systemd would mount it over that one for whoever asks for the path."""
    child = w.claim(w.single(name="wal", mount_path="/krkn_log/wal"), w.attached(2))
    world = w.world(
        *(1, 2),
        looks={1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))},
        mounts=w.stacked(OLD, ("/krkn_log/wal", 2)),
        former={w.volume_id(1): frozenset({"/old"})},
    )
    plan = decide(w.claim(w.single(), w.attached(1)), world, child)
    assert (plan.state, plan.steps) == (MOUNTED, ())
    assert any("/krkn_log/wal" in text for text in plan.warnings)


def test_a_foreign_fstab_line_on_the_same_path() -> None:
    foreign = fstab.parse("/dev/sdz /krkn_log ext4 defaults 0 0\n")
    world = w.world(1, looks={1: w.blank()}, fstab_foreign=foreign)
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")


def test_a_set_below_another_one_waits_for_its_mount() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))}
    plan = decide(child, w.world(1, 2, looks=looks), parent)
    assert kind(plan) == "parent-not-mounted"
    there = w.world(1, 2, looks=looks, mounts=(w.mounted("/pg", "ext4", 2),))
    assert names(decide(child, there, parent).steps)[-1] == "MountFilesystem"


def test_the_owner_is_set_on_a_new_filesystem_and_pending_without_the_user() -> None:
    claim = w.claim(w.single(owner="kafka"), w.attached(1))
    there = w.world(1, looks={1: w.blank()}, accounts={"user:kafka": 1001})
    assert names(decide(claim, there).steps)[-1] == "SetOwner"
    absent = w.world(1, looks={1: w.blank()}, accounts={"user:kafka": None})
    assert names(decide(claim, absent).steps)[-1] == "MountFilesystem"
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    up = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
        paths={"/krkn_log": w.directory()},
        fstab={"log": line},
        accounts={"user:kafka": None},
    )
    plan = decide(claim, up)
    assert (plan.state, kind(plan)) == (MOUNTED, "owner-pending")
    used = dataclasses.replace(up, paths={"/krkn_log": w.directory("data")})
    assert decide(claim, used).trouble is None


def test_the_line_of_a_set_that_is_gone_is_taken_out_unless_mounted() -> None:
    line = fstab.entry("old", FS, "/old", "ext4")
    world = w.world(fstab={"old": line})
    (plan,) = decision.decide(w.NODE, (), world)
    assert names(plan.steps) == ["RemoveFstab"]
    up = dataclasses.replace(world, mounts=(w.mounted("/old", "ext4", 4),))
    (plan,) = decision.decide(w.NODE, (), up)
    assert plan.steps == () and "still mounted" in plan.warnings[0]


def test_the_trouble_of_a_claim_ends_its_plan() -> None:
    late = Trouble("members-missing", "2 of 3", "3", "Tag it.", waits=True)
    claim = dataclasses.replace(raid_claim(w.raid()), trouble=late)
    plan = decide(claim, raid_world(blanks()))
    assert (plan.steps, plan.state, plan.trouble) == ((), PENDING, late)


def test_the_label_is_cut_to_what_the_type_can_hold() -> None:
    wanted = w.single(name="a-rather-long-name")
    plan = decide(w.claim(wanted, w.attached(1)), w.world(1, looks={1: w.blank()}))
    (make,) = [step for step in plan.steps if isinstance(step, MakeFilesystem)]
    assert len(make.label.encode()) <= 16


# ------------------------------------------ what a running array is made of


def running(looks: dict[int, Look], *inside: int, **kwargs: object) -> World:
    """A set whose mirror runs with these members."""
    change = {"level": "raid1", "degraded": int(len(inside) < len(looks)), **kwargs}
    return raid_world(
        looks,
        arrays=(w.array(*inside, **change),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        array_lines={w.ARRAY: "data"},
    )


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


def test_a_copy_is_never_added_to_an_array() -> None:
    looks = {1: w.member(0, count=2, level=1, active=(0, 0xFFFE)), 2: w.blank()}
    claim = raid_claim(w.raid(2, 1), 2)
    copy = dataclasses.replace(claim.volumes[1], origin="snap-1")
    claim = dataclasses.replace(claim, volumes=(claim.volumes[0], copy))
    plan = decide(claim, raid_world(looks))
    assert "AddMember" not in names(plan.steps)
    assert any("copy" in text for text in plan.warnings)


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


# ------------------------------------------------------ what is left alone


@pytest.mark.parametrize(
    "change", [{"holders": ("dm-0",)}, {"swap": True}, {"read_only": True}]
)
def test_a_volume_without_fs_type_may_be_used_by_anybody(
    change: dict[str, object],
) -> None:
    plan = decide(w.claim(w.single(fs_type=None), w.attached(1)), device_case(**change))
    assert (plan.steps, plan.state, plan.trouble) == ((), ATTACHED, None)


def test_without_fs_type_and_raid_level_no_array_is_made() -> None:
    wanted = w.raid(fs_type=None, mount_path=None, raid_level=None)
    for looks in (blanks(), with_look(blanks(), 2, w.look(Known("xfs", FS)))):
        plan = decide(raid_claim(wanted), raid_world(looks))
        assert (plan.steps, plan.state, plan.trouble) == ((), ATTACHED, None)
    plan = decide(raid_claim(wanted), raid_world(members()))
    assert names(plan.steps) == ["AssembleArray", "WriteArrayLine"]


def test_disks_with_one_serial_are_told_as_such_whatever_ec2_says() -> None:
    """A disk that has a twin is not among the devices."""
    twins = {w.volume_id(1): ("nvme1n1", "nvme7n1")}
    for volume in (w.attached(1), w.attached(1, state="attaching"), w.volume(1)):
        plan = decide(w.claim(w.single(), volume), w.world(duplicates=twins))
        assert (plan.steps, kind(plan)) == ((), "device-duplicate")


def test_the_table_of_a_mounted_partition_is_no_line_for_fstab() -> None:
    world = w.world(
        1,
        looks={1: w.look(Known("gpt", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
    )
    plan = decide(w.claim(w.single(), w.attached(1)), world)
    assert (plan.steps, plan.state) == ((), MOUNTED)


def test_a_set_below_one_that_has_failed_fails_at_once() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    for look in (w.blank(), w.look(Known("ext4", FS))):
        world = w.world(1, looks={1: look}, failed=frozenset({"pg"}))
        plan = decide(child, world, parent)
        assert (plan.steps, kind(plan)) == ((), "parent-failed")


def test_a_mirror_that_runs_beside_a_member_that_was_zeroed() -> None:
    looks = with_look(members(2, level=1), 2, w.blank())
    plan = decide(raid_claim(w.raid(2, 1), 2), running(looks, 1))
    assert (plan.steps, kind(plan)) == ((), "array-members-missing")


# ------------------------------------------- what goat left, and what changes

GOAT_LINE = "LABEL=GOAT-log /krkn_log ext4 defaults 0 1\n"
GOAT_FS = Known("ext4", FS, "GOAT-log")


def goat(text: str = GOAT_LINE, **kwargs: object) -> World:
    """A machine whose fstab has these lines of somebody else's."""
    looks = {1: w.look(GOAT_FS)}
    return w.world(1, looks=looks, fstab_foreign=fstab.parse(text), **kwargs)


def up(*paths: str) -> dict[str, object]:
    return {"mounts": tuple(w.mounted(path, "ext4", 1) for path in paths)}


LOG = w.claim(w.single(), w.attached(1))


def line_step(plan: Plan) -> WriteFstab:
    (step,) = [step for step in plan.steps if isinstance(step, WriteFstab)]
    return step


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        GOAT_LINE,
        GOAT_LINE * 3,
        f"UUID={FS} /krkn_log/ ext4 auto,rw,nouser,async,relatime,_netdev 0 0\n",
        f"UUID={FS} /krkn_log ext4 x-systemd.device-timeout=9,comment=mine 0 0\n",
        "LABEL=GOAT-log /krkn_log auto defaults 0 0\n",
        "LABEL=GOAT-log /krkn_log xfs,ext4 defaults 0 0\n",
        f"/dev/sdx /krkn_log ext4 defaults 0 0\n{GOAT_LINE}",
    ],
)
def test_a_line_for_this_very_filesystem_is_taken_over(
    text: str, mounted: bool
) -> None:
    found = {"LABEL=GOAT-log": "259:1", "/dev/sdx": "259:1"}
    world = goat(text, fstab_devnos=found, **(up("/krkn_log") if mounted else {}))
    plan = decide(LOG, world)
    assert plan.trouble is None
    step = line_step(plan)
    assert set(step.instead_of) == set(fstab.parse(text))
    after = fstab.replace(text, {"log": step.line}, step.instead_of)
    assert after == fstab.render(step.line) + "\n"
    assert "instead of" in str(step)
    done = dataclasses.replace(world, fstab={"log": step.line}, fstab_foreign=())
    assert "WriteFstab" not in names(decide(LOG, done).steps)


@pytest.mark.parametrize(
    "text",
    [
        "/dev/sdz /krkn_log ext4 defaults 0 0\n",
        "LABEL=other /krkn_log ext4 defaults 0 0\n",
        f"{GOAT_LINE}UUID=aaaa /krkn_log xfs defaults 0 0\n",
        "tmpfs /krkn_log tmpfs defaults 0 0\n",
        "LABEL=GOAT-log /krkn_log btrfs subvol=x 0 0\n",
    ],
)
def test_a_line_for_something_else_is_refused_or_where_mounted_a_warning(
    text: str,
) -> None:
    plan = decide(LOG, goat(text))
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")
    plan = decide(LOG, goat(text, **up("/krkn_log")))
    assert (plan.state, plan.steps, plan.trouble) == (MOUNTED, (), None)
    assert any("fstab mounts" in text for text in plan.warnings)


def test_a_line_by_label_where_the_label_is_found_on_another_disk() -> None:
    plan = decide(LOG, goat(fstab_devnos={"LABEL=GOAT-log": "259:9"}))
    assert kind(plan) == "fstab-conflict"


def test_a_line_elsewhere_is_left_alone_unless_the_set_moves_from_there() -> None:
    text = "LABEL=GOAT-log /old ext4 defaults 0 1\n"
    assert line_step(decide(LOG, goat(text))).instead_of == ()
    plan = decide(LOG, goat(text, **up("/old")))
    assert (plan.state, kind(plan)) == (FAILED, "mounted-elsewhere")
    assert line_step(plan).instead_of == fstab.parse(text)


def test_a_new_filesystem_takes_no_line_over() -> None:
    world = dataclasses.replace(goat(), looks={w.volume_id(1): w.blank()})
    assert kind(decide(LOG, world)) == "fstab-conflict"


def test_an_array_line_of_somebody_else_is_replaced() -> None:
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS, "GOAT-data"))},
        array_lines_foreign=(ArrayLine("/etc/mdadm.conf", uuid=w.ARRAY),),
        fstab_foreign=fstab.parse("LABEL=GOAT-data /krkn_data xfs defaults 0 1\n"),
        fstab_devnos={"LABEL=GOAT-data": "9:127"},
    )
    plan = decide(raid_claim(w.raid()), world)
    assert names(plan.steps) == [
        "WriteArrayLine",
        "MakeDirectory",
        "WriteFstab",
        "MountFilesystem",
    ]
    assert "/etc/mdadm.conf" in str(plan.steps[0])
    both = dataclasses.replace(world, array_lines={w.ARRAY: "data"})
    assert "WriteArrayLine" in names(decide(raid_claim(w.raid()), both).steps)


def test_a_set_with_a_new_name_replaces_its_old_lines() -> None:
    old = fstab.entry("old", FS, "/krkn_log", "ext4")
    world = w.world(
        1, looks={1: w.look(GOAT_FS)}, fstab={"old": old}, **up("/krkn_log")
    )
    (plan,) = decision.decide(w.NODE, (LOG,), world)
    assert line_step(plan).instead_of == (old,)
    done = dataclasses.replace(world, fstab={"log": line_step(plan).line})
    (plan,) = decision.decide(w.NODE, (LOG,), done)
    assert (plan.steps, plan.warnings) == ((), ())
    named = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        array_lines={w.ARRAY: "old"},
    )
    assert "WriteArrayLine" in names(decide(raid_claim(w.raid()), named).steps)


def test_the_line_of_another_set_that_is_gone_is_no_former_name() -> None:
    old = fstab.entry("old", w.ARRAY, "/krkn_log", "ext4")
    world = w.world(1, looks={1: w.look(GOAT_FS)}, fstab={"old": old})
    plans = decision.decide(w.NODE, (LOG,), world)
    assert line_step(plans[0]).instead_of == ()
    assert names(plans[1].steps) == ["RemoveFstab"]


def test_changed_mount_options_are_written_and_told_once() -> None:
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    world = w.world(1, looks={1: w.look(GOAT_FS)}, fstab={"log": line})
    world = dataclasses.replace(world, **up("/krkn_log"))
    claim = w.claim(w.single(mount_options=("noatime",)), w.attached(1))
    plan = decide(claim, world)
    assert names(plan.steps) == ["WriteFstab"]
    assert any("remount /krkn_log" in text for text in plan.warnings)
    after = dataclasses.replace(world, fstab={"log": line_step(plan).line})
    plan = decide(claim, after)
    assert (plan.steps, plan.warnings) == ((), ())


@pytest.mark.parametrize("found", ["symlink", "other", "unreadable"])
def test_a_set_does_not_move_to_what_is_no_directory(found: str) -> None:
    world = w.world(
        1,
        looks={1: w.look(GOAT_FS)},
        paths={"/krkn_log": PathState(found)},
        former={w.volume_id(1): frozenset({"/old"})},
        **up("/old"),
    )
    plan = decide(LOG, world)
    assert (plan.state, plan.steps, plan.trouble) == (MOUNTED, (), None)
    assert len(plan.warnings) == 2


def test_a_set_that_moves_will_hide_files() -> None:
    paths = {"/krkn_log": w.directory("precious")}
    former = {w.volume_id(1): frozenset({"/old"})}
    looks = {1: w.look(GOAT_FS)}
    world = w.world(1, looks=looks, paths=paths, former=former, **up("/old"))
    plan = decide(LOG, world)
    assert names(plan.steps) == ["WriteFstab"]
    assert any("precious" in text for text in plan.warnings)


def test_a_new_filesystem_below_another_set_is_made_after_its_mount() -> None:
    """What its directory holds can be seen only then."""
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.blank(), 2: w.look(Known("ext4", w.ARRAY))}
    plan = decide(child, w.world(1, 2, looks=looks), parent)
    assert (plan.steps, kind(plan)) == ((), "parent-not-mounted")
    mounts = (w.mounted("/pg", "ext4", 2),)
    paths = {"/pg/wal": w.directory("segment")}
    there = w.world(1, 2, looks=looks, mounts=mounts, paths=paths)
    assert kind(decide(child, there, parent)) == "mount-path-files"


def test_a_set_below_one_that_moves_at_the_next_reboot() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))}
    world = w.world(1, 2, looks=looks, mounts=(w.mounted("/old", "ext4", 2),))
    plan = decide(child, world, parent)
    assert (kind(plan), plan.state) == ("parent-moves", FAILED)


def test_a_set_of_one_that_is_to_become_an_array() -> None:
    """VolumeSize raised where the volume is in use: nothing is touched."""
    wanted = w.raid(2, 0, name="log", fs_type="ext4", mount_path="/krkn_log")
    late = Trouble("members-missing", "1 of 2", "2", "Tag it.", waits=True)
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    one = w.world(1, looks={1: w.look(GOAT_FS)}, fstab={"log": line}, **up("/krkn_log"))
    (plan,) = decision.decide(
        w.NODE, (w.claim(wanted, w.attached(1), trouble=late),), one
    )
    assert (plan.steps, kind(plan)) == ((), "members-missing")
    looks = {1: w.look(GOAT_FS), 2: w.blank()}
    both = w.claim(wanted, w.attached(1), w.attached(2))
    used = w.device(1, mounted=("/krkn_log",))
    world = w.world(1, 2, looks=looks, fstab={"log": line}, **up("/krkn_log"))
    world = dataclasses.replace(world, devices={**world.devices, used.volume_id: used})
    assert (decide(both, world).steps, kind(decide(both, world))) == ((), "device-held")
    bare = w.world(1, 2, looks=looks, fstab={"log": line})
    assert (decide(both, bare).steps, kind(decide(both, bare))) == ((), "content-other")


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
    assert any("VolumeSize says 4" in text for text in plan.warnings)


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
