"""What must hold before a byte of a volume is changed: plain questions.

Each check raises KrakenError and writes nothing.  The first ones ask the machine
(sysfs, never what an earlier look said), the others compare what is asked for with
itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

from cc_kraken.config.values import FEWEST_MEMBERS
from cc_kraken.machine import devices, md, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Array, Device, Known, Layer, Look, MdSuperblock, Record
from cc_kraken.proof import probe
from cc_kraken.proof import record as records_module
from cc_kraken.proof.record import MEMBER_PLACE
from cc_kraken.proof.superblock import MD_MEMBER
from cc_kraken.storage import unwritten

Pairs = Sequence[tuple[Device, Record]]
"""The volumes of a set, each with its intent record."""

_ARRAY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,26}")
_SPARE = 0xFFFF


# ------------------------------------------------------------- the machine now


def check_identity(paths: Paths, target: Layer) -> None:
    """The name still has this number, and the serial of this volume (an array has
    none)."""
    number = sysfs.disk(paths, target.name, "dev") or "absent"
    if number != target.devno:
        raise unwritten.changed(target, f"is {number} now", f"It was {target.devno}")
    found = devices.serial_of(paths, target.name) or ""
    if found != target.volume_id:
        now = f"is {found or 'no EBS volume'} now"
        raise unwritten.changed(target, now, f"It was {target.volume_id}")


def check_unused(paths: Paths, device: Layer, *, partitions: bool = False) -> None:
    """The volume is there; nothing mounts it, swaps on it or holds it, and no other
    disk has its serial.  ``partitions``: it may have some, unused."""
    found = devices.of_volume(paths, device.volume_id)
    if len(found) > 1:
        names = ", ".join(twin.path for twin in found)
        raise unwritten.changed(
            device, f"has twins: {names}", "Only one disk may have this serial"
        )
    now = found[0] if found else None
    if now is None or (now.name, now.devno) != (device.name, device.devno):
        raise unwritten.changed(
            device, "is gone, or has another number", f"Its number was {device.devno}"
        )
    uses = [f"mounted at {path}" for path in now.mounted]
    uses += [f"held by {holder}" for holder in now.holders]
    uses += ["swap"] if now.swap else []
    if not partitions:
        uses += [f"partitioned ({name})" for name in now.partitions]
    if uses:
        raise unwritten.in_use(device, ", ".join(uses))


def check_layer(
    target: Layer,
    paths: Paths,
    volumes: Optional[Sequence[Device]] = None,
    *,
    used: bool = False,
) -> None:
    """The layer is as it was seen, and nothing uses it, unless it may be ``used``.  An
    array consists of these volumes alone: of some of them where it is degraded."""
    if isinstance(target, Array):
        _check_array(target, paths, volumes, used)
    elif not isinstance(target, Device):
        # What is no disk and no array needs a check of its own here.
        raise NotImplementedError(type(target).__name__)
    elif used:
        check_identity(paths, target)
    else:
        check_unused(paths, target)


def _check_array(
    array: Array, paths: Paths, members: Optional[Sequence[Device]], used: bool
) -> None:
    """It runs, and its members say that they are of it."""
    now = array_now(paths, array, members, used=used)
    if not now.running:
        raise unwritten.array_changed(array, "it does not run any more")
    if now.uuid and not same_uuid(now.uuid, array.uuid):
        raise unwritten.array_changed(array, f"its UUID is {now.uuid}")
    for device in members or ():
        if device.name not in now.members:
            continue
        block = probe.superblock(device.path)
        if block is None or not same_uuid(block.uuid, array.uuid):
            raise unwritten.array_changed(array, f"{device.path} is not a member of it")


def array_now(
    paths: Paths,
    array: Array,
    members: Optional[Sequence[Device]] = None,
    *,
    used: bool = False,
) -> Array:
    """The array as it is now, running or not.  It must not be mounted, unless it may be
    ``used``, and must consist of these members alone: of some where it is degraded."""
    same = (array.name, array.devno)
    now = next((one for one in md.scan(paths) if (one.name, one.devno) == same), None)
    if now is None:
        raise unwritten.array_changed(array, "it is gone")
    if now.mounted and not used:
        raise unwritten.in_use(array, f"mounted at {', '.join(now.mounted)}")
    if members is not None:
        if not now.members or not set(now.members) <= {one.name for one in members}:
            shown = ", ".join(now.members)
            raise unwritten.array_changed(array, f"its members are {shown}")
    return now


# ------------------------------------------------------------ what is asked for


def place_of(target: Layer, record: Record) -> int:
    member, single = records_module.places(target.size)
    return member if record.array_uuid else single


def check_place(device: Device, record: Record, place: int) -> None:
    if record.volume_id != device.volume_id:
        raise unwritten.record(
            device, f"a record for {record.volume_id}", "its own one"
        )
    known = place in records_module.places(device.size)
    if place < 0 or not (known or records_module.is_former_place(device.size, place)):
        raise ValueError(f"no place of a record on {device.path}: {place}")


def check_new_array(device: Device, record: Record) -> None:
    """The record of this volume speaks of an array that we create."""
    check_place(device, record, MEMBER_PLACE)
    if not record.array_uuid or record.level not in FEWEST_MEMBERS:
        raise unwritten.wrong_record(device, record, "a new array")


def check_request(volumes: Pairs, uuid: str, level: int, name: str) -> None:
    """Does all that is asked for a new array agree with itself?"""
    ids = [device.volume_id for device, _ in volumes]
    wrong = ""
    if level not in FEWEST_MEMBERS or len(ids) < FEWEST_MEMBERS[level]:
        wrong = f"RAID {level} cannot consist of {len(ids)} volumes"
    elif not _ARRAY_NAME.fullmatch(name):
        wrong = f"mdadm does not take the name {name!r}"
    elif len(set(ids)) != len(ids):
        wrong = "one volume is named twice"
    elif len({device.size for device, _ in volumes}) != 1:
        wrong = "the volumes differ in size"
    elif min(device.size for device, _ in volumes) < records_module.SMALLEST:
        wrong = "the volumes have less than 1 GiB"
    elif len({record.identity for _, record in volumes}) != 1 or any(
        record.volume_id != device.volume_id
        or not same_uuid(record.array_uuid, uuid)
        or (record.level, record.members) != (level, len(ids))
        for device, record in volumes
    ):
        wrong = "their intent records are not those of this very array"
    if wrong:
        raise unwritten.array(uuid, ids, wrong)


def check_intent(target: Layer, volumes: Pairs, kind: str, uuid: str) -> None:
    """Do all records speak of this very filesystem on this very target?"""
    names = {device.name for device, _ in volumes}
    array_uuid = target.array_uuid
    if not volumes or not target.lies_on(names):
        raise ValueError(f"{target.path} does not consist of {sorted(names)}")
    where = f" on array {array_uuid}" if array_uuid else ""
    for device, record in volumes:
        check_place(device, record, place_of(device, record))
        meant = (record.fs_type, record.fs_uuid) == (kind, uuid)
        if not meant or not same_uuid(record.array_uuid, array_uuid):
            raise unwritten.wrong_record(device, record, f"{kind} {uuid}{where}")
    _check_one_set(volumes)


def check_stop(array: Array, volumes: Pairs) -> None:
    """Do all records speak of the creation of this very array?"""
    uuid = array.uuid or volumes[0][1].array_uuid
    for device, record in volumes:
        check_new_array(device, record)
        if not same_uuid(record.array_uuid, uuid) or record.members != len(volumes):
            meant = f"array {uuid} of {len(volumes)} volumes"
            raise unwritten.wrong_record(device, record, meant)
    _check_one_set(volumes)


def _check_one_set(volumes: Pairs) -> None:
    if len({record.identity for _, record in volumes}) != 1:
        raise unwritten.record(
            volumes[0][0],
            "an intent record of another set than the other volumes",
            "one of the same set",
        )


# ------------------------------------------------------------------------- md


def wrong_member(
    members: Sequence[Device],
    blocks: Sequence[Optional[MdSuperblock]],
    uuid: str,
    level: int,
) -> str:
    """What is wrong with the superblocks of a new array, "" for nothing."""
    for index, (device, block) in enumerate(zip(members, blocks)):
        if block is None or not same_uuid(block.uuid, uuid):
            return f"{device.path} has no superblock of it"
        if (block.level, block.raid_disks) != (level, len(members)):
            return f"{device.path} says RAID {block.level} of {block.raid_disks}"
        roles = [index]
        if level == 5 and index == len(members) - 1:
            # mdadm makes the last one a spare that is rebuilt at once.
            roles.append(_SPARE)
        if block.role not in roles:
            return f"{device.path} has the role {block.role}"
    return ""


def is_member(look: Look, uuid: str) -> bool:
    shown = look.content
    return (
        isinstance(shown, Known)
        and shown.type == MD_MEMBER
        and shown.superblock is not None
        and shown.superblock.minor == 2
        and same_uuid(shown.superblock.uuid, uuid)
    )


def same_uuid(one: str, other: str) -> bool:
    """Equal whatever the punctuation (mdadm groups by eight)."""
    digits = [re.sub("[:-]", "", uuid).lower() for uuid in (one, other)]
    return digits[0] == digits[1]
