"""May the disks of a set be used?"""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide import decision
from cc_kraken.decide.plan import ATTACHED, PENDING
from cc_kraken.machine import fstab
from cc_kraken.model import Trouble, Unknown
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    GOAT_FS,
    LOG,
    blanks,
    decide,
    device_case,
    kind,
    members,
    raid_claim,
    raid_world,
    records,
    shown,
    up,
    with_look,
)

DEVICES = {
    "device-read-only": device_case(read_only=True),
    "device-size": device_case(size=w.GIB - 512),
    "device-swap": device_case(swap=True),
    "device-held": device_case(holders=("dm-0",)),
    "device-duplicate": w.world(
        1, looks={1: w.blank()}, duplicates={w.volume_id(1): ("nvme1n1", "nvme7n1")}
    ),
    "system-volume": w.world(
        1, looks={1: w.blank()}, system_volumes=frozenset({w.volume_id(1)})
    ),
    "program-missing": w.world(
        1, looks={1: w.blank()}, missing_programs=frozenset({"mkfs.ext4"})
    ),
}


@pytest.mark.parametrize("expected", DEVICES)
def test_devices_that_are_refused(expected: str) -> None:
    plan = decide(LOG, DEVICES[expected])
    assert (plan.steps, kind(plan)) == ((), expected)


SILENT = w.look(Unknown("/dev/x has not answered", unread=True))


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


@pytest.mark.parametrize(
    ("offset", "expected"), [(None, "device-silent"), (4096, "array-members-missing")]
)
def test_what_is_mounted_waits_for_no_disk_that_answers_with_errors(
    offset: int | None, expected: str
) -> None:
    failing = w.look(Unknown("/dev/x cannot be read", offset, unread=True))
    mounts = (w.mounted("/krkn_data", "xfs", 1, 2),)
    world = raid_world(with_look(members(2, level=1), 2, failing), mounts=mounts)
    plan = decide(raid_claim(w.raid(2, 1), 2), world)
    assert (plan.steps, kind(plan)) == ((), expected)
    assert plan.trouble is not None and "overwrite" not in str(plan.trouble)


@pytest.mark.parametrize("offset", [None, 4096])
def test_a_single_disk_that_cannot_be_read_is_waited_for(offset: int | None) -> None:
    plan = shown(w.look(Unknown("/dev/x cannot be read", offset, unread=True)))
    assert (plan.steps, plan.state, kind(plan)) == ((), PENDING, "device-silent")


@pytest.mark.parametrize(
    "change", [{"holders": ("dm-0",)}, {"swap": True}, {"read_only": True}]
)
def test_a_volume_without_fs_type_may_be_used_by_anybody(
    change: dict[str, object],
) -> None:
    plan = decide(w.claim(w.single(fs_type=None), w.attached(1)), device_case(**change))
    assert (plan.steps, plan.state, plan.trouble) == ((), ATTACHED, None)


def test_disks_with_one_serial_are_told_as_such_whatever_ec2_says() -> None:
    """A disk that has a twin is not among the devices."""
    twins = {w.volume_id(1): ("nvme1n1", "nvme7n1")}
    for volume in (w.attached(1), w.attached(1, state="attaching"), w.volume(1)):
        plan = decide(w.claim(w.single(), volume), w.world(duplicates=twins))
        assert (plan.steps, kind(plan)) == ((), "device-duplicate")


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
