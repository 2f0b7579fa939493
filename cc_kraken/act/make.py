"""The few functions that can destroy data.

Each one trusts nobody: under the exclusive lock of the device it checks again
that the node is the device that was seen, that its serial is still the volume,
that nothing uses it, and that its content is what permits the step; it reads
the serial once more right before the write, and reads back what it did.
Refusals are KrakenError and leave every byte as it was.

Kinds of trouble: device-changed, device-in-use, device-read-only,
content-refused, record-refused, array-refused, array-changed, write-failed,
made-otherwise, and those of command.run, rehearsal.extents.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Sequence, Tuple, Union

from cc_kraken.act import guard
from cc_kraken.filesystems import registry
from cc_kraken.machine import command, md
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Blank,
    Device,
    Extent,
    HalfMade,
    Known,
    Look,
    Record,
    Unknown,
)
from cc_kraken.proof import content, directio, half_made, places, rehearsal, superblock
from cc_kraken.proof import record as records_module
from cc_kraken.proof.record import BLOCK, MEMBER_PLACE

LOG = logging.getLogger(__name__)

MD_MEMBER = "linux_raid_member"

#: KiB of a stripe on one member; mdadm's default.
CHUNK = 512

_BLKRRPART = 0x125F


# ---------------------------------------------------------------- the record


def write_record(
    paths: Paths,
    device: Device,
    record: Record,
    place: int,
    *,
    permitted: bool = False,
) -> bool:
    """Write and flush ``record`` at ``place``; False if it is there already.

    The device must be blank without a record.  For ``MEMBER_PLACE`` it may
    also be a member of the very array that the record names, running or not,
    whose metadata leaves the place free.  ``permitted``: ``overwrite`` has
    just wiped it, so the fixed places must be zero, not the samples.
    """
    block = guard.encode(record)
    guard.check_place(device, record, place)
    with guard.opened(paths, device, os.O_RDWR, used=place == MEMBER_PLACE) as fd:
        present = directio.read(fd, place, BLOCK)
        if present == block:
            return False
        look = content.look(device.path, volume_id=device.volume_id)
        if guard.is_member(look, record.array_uuid) and place == MEMBER_PLACE:
            guard.check_gap(fd, device, place)
        else:
            guard.check_unused(paths, device)
            if look.record is not None:
                raise guard.refused_record(device, "another intent record", "none")
            guard.check_blank(fd, device, look, permitted)
            if place == MEMBER_PLACE:
                guard.check_exclusive(device)
        if any(present):
            raise guard.refused_content(device, look.content, "zeros where it goes")
        guard.write_checked(paths, device, fd, place, block)
    LOG.debug("%s: intent record written at %d", device.path, place)
    return True


def erase_record(paths: Paths, device: Device, record: Record, place: int) -> bool:
    """Zero and flush exactly ``record`` at ``place``; False if the place is
    zero already.  A member may be held by md: its place lies before the data.
    """
    block = guard.encode(record)
    guard.check_place(device, record, place)
    with guard.opened(paths, device, os.O_RDWR, used=place == MEMBER_PLACE) as fd:
        present = directio.read(fd, place, BLOCK)
        if not any(present):
            return False
        if present != block:
            raise guard.refused_record(
                device, guard.tell_block(present), "exactly this one"
            )
        guard.write_checked(paths, device, fd, place, bytes(BLOCK))
    LOG.debug("%s: intent record erased at %d", device.path, place)
    return True


# --------------------------------------------------------------------- arrays


def create_array(
    paths: Paths,
    members: Sequence[Device],
    records: Sequence[Record],
    *,
    uuid: str,
    level: int,
    name: str,
    chunk: int = CHUNK,
    bitmap: bool = True,
    permitted: Sequence[str] = (),
) -> None:
    """``mdadm --create`` over blank members that carry our records, in order.

    ``chunk`` in KiB (not for RAID 1); ``bitmap``: a write-intent bitmap where
    the level is redundant; ``permitted``: volume ids that ``overwrite`` has
    just wiped.  The redundant levels resync.  Success is what the members'
    superblocks say afterwards.
    """
    guard.check_request(members, records, uuid, level, name)
    with ExitStack() as stack:
        # Locked one after another, always in this order; read side by side.
        ordered = sorted(zip(members, records), key=lambda pair: pair[0].path)
        locks = []
        for device, _ in ordered:
            locks.append(stack.enter_context(guard.locked(paths, device)))
            guard.check_unused(paths, device)
        with ThreadPoolExecutor(len(ordered), "kraken-member") as pool:
            looks = list(pool.map(guard.look_at, [device for device, _ in ordered]))
        for (device, record), fd, look in zip(ordered, locks, looks):
            guard.check_record(fd, device, record, MEMBER_PLACE)
            guard.check_blank(fd, device, look, device.volume_id in permitted, record)
            guard.check_exclusive(device)
        for device in members:
            guard.check_serial(paths, device)
        finished = command.run(
            create_argv(
                [device.path for device in members],
                node=md.node(paths, name, uuid, [one.path for one in members]),
                size=members[0].size,
                uuid=uuid,
                level=level,
                name=name,
                chunk=chunk,
                bitmap=bitmap,
            ),
            timeout=None,
        )
        command.check(finished, f"creating array {uuid}")
        guard.verify_array(members, records, uuid, level)


def create_argv(
    members: Sequence[str],
    *,
    node: str,
    size: int,
    uuid: str,
    level: int,
    name: str,
    chunk: int = CHUNK,
    bitmap: bool = True,
) -> Tuple[str, ...]:
    """The command that creates an array of members of ``size`` bytes at ``node``.

    The data offset is mdadm 4's own choice for this size, but said by us, so
    that no version decides it: at least 2 MiB for a member of 1 GiB, far
    behind MEMBER_PLACE, and among the offsets behind which the proof of
    blankness looks.  mdadm 4.4 asks unless ``--bitmap`` is given for a
    redundant level, and 4.2 refuses the word, ``none`` too, for RAID 0.
    """
    words = [
        "mdadm",
        "--create",
        node,
        "--metadata=1.2",
        f"--uuid={md.mdadm_uuid(uuid)}",
        f"--level={level}",
        f"--raid-devices={len(members)}",
        "--homehost=any",
        f"--name={name}",
        f"--data-offset={places.data_offset(size) >> 10}K",
    ]
    if level != 0:
        words.append(f"--bitmap={'internal' if bitmap else 'none'}")
    if level != 1:
        words.append(f"--chunk={chunk}")
    return (*words, *members)


def stop_array(
    paths: Paths,
    array: Array,
    members: Sequence[Device],
    records: Sequence[Record],
) -> None:
    """``mdadm --stop`` of an array that udev made of half-made members.

    Only where every volume of the set carries the record of its creation and
    nothing but zeros outside md's own places, nothing else is in the array,
    and it does not run or shows nothing.
    """
    guard.check_stop(array, members, records)
    with ExitStack() as stack:
        for device, record in sorted(
            zip(members, records), key=lambda pair: pair[0].path
        ):
            fd = stack.enter_context(guard.locked(paths, device))
            guard.check_record(fd, device, record, MEMBER_PLACE)
            look = content.look(
                device.path, volume_id=device.volume_id, ours=rehearsal.MD_EXTENTS
            )
            if not isinstance(look.content, HalfMade):
                raise guard.refused_content(
                    device, look.content, "zeros outside md's own places"
                )
        now = guard.check_array_unused(paths, array, members)
        if now.running:
            look = content.look(array.path)
            if not isinstance(look.content, Blank):
                raise guard.refused_content(array, look.content, "zeros")
            guard.check_exclusive(array)
        for device in members:
            guard.check_serial(paths, device)
        finished = command.run(["mdadm", "--stop", array.path], timeout=None)
        command.check(finished, f"stopping the half-made {array.path}")


def zero_superblock(paths: Paths, device: Device, record: Record) -> bool:
    """Take back what a creation that was cut off left on one member.

    Only where ``record`` lies on it and names the superblock's array, nothing
    holds it, and nothing but zeros lies outside md's own places.  Bitmap and
    bad-block log first, the superblock last (it is what permits to go on).
    False if there was nothing to take back.
    """
    guard.check_place(device, record, MEMBER_PLACE)
    if not record.array_uuid or record.level not in guard.LEVELS:
        raise guard.refused_record(device, "a record of no new array", "one that is")
    # One lock from the beginning to the end: udev, which sees every close
    # after a write, would put the member into an array again in between.
    with guard.locked(paths, device):
        guard.check_unused(paths, device)
        return _zero_superblock(paths, device, record)


def _zero_superblock(paths: Paths, device: Device, record: Record) -> bool:
    with guard.opened_node(device, os.O_RDWR | os.O_EXCL) as fd:
        guard.check_record(fd, device, record, MEMBER_PLACE)
        look = content.look(device.path, volume_id=device.volume_id)
        if isinstance(look.content, Blank):
            return False
        _check_superblock(fd, device, record)
        look = content.look(
            device.path, volume_id=device.volume_id, ours=rehearsal.MD_EXTENTS
        )
        if not isinstance(look.content, HalfMade):
            raise guard.refused_content(
                device, look.content, "zeros outside md's own places"
            )
        guard.check_serial(paths, device)
        directio.zero(fd, [Extent(8192, MEMBER_PLACE)])
        os.fsync(fd)
    if content.superblock(device.path) is not None:
        _run_zero_superblock(paths, device, record)
    with guard.opened_node(device, os.O_RDWR | os.O_EXCL) as fd:
        guard.check_record(fd, device, record, MEMBER_PLACE)
        _check_superblock(fd, device, record)
        guard.check_serial(paths, device)
        directio.zero(fd, rehearsal.MD_EXTENTS)
        os.fsync(fd)
        look = content.look(device.path, volume_id=device.volume_id)
        if not isinstance(look.content, Blank) or look.record != record:
            raise guard.made_otherwise(
                device.path, look.content, "blank with its record"
            )
    return True


def _check_superblock(fd: int, device: Device, record: Record) -> None:
    """Where md's superblock lies there is that of the record's array, whole
    or torn, or none."""
    head = directio.read(fd, 4096, 4096)
    if head[:4] == guard.MD_MAGIC and head[16:32].hex() != guard.digits(
        record.array_uuid
    ):
        raise guard.refused_record(
            device,
            f"the superblock of array {head[16:32].hex()} beside its record",
            f"that of array {record.array_uuid}",
        )


def _run_zero_superblock(paths: Paths, device: Device, record: Record) -> None:
    """mdadm opens the member exclusively: no descriptor of ours does."""
    guard.check_unused(paths, device)
    with guard.opened_node(device, os.O_RDONLY | os.O_EXCL) as fd:
        guard.check_record(fd, device, record, MEMBER_PLACE)
        _check_superblock(fd, device, record)
    guard.check_serial(paths, device)
    finished = command.run(["mdadm", "--zero-superblock", device.path], timeout=None)
    command.check(finished, f"zeroing the superblock of {device.path}")


def add_member(paths: Paths, array: Array, device: Device) -> None:
    """``mdadm --add`` of a blank volume without a record to ``array``."""
    with guard.locked(paths, device) as fd:
        guard.check_unused(paths, device)
        look = content.look(device.path, volume_id=device.volume_id)
        if look.record is not None:
            raise guard.refused_record(device, "an intent record", "none")
        guard.check_blank(fd, device, look, False)
        guard.check_array(paths, array, used=True)
        guard.check_exclusive(device)
        guard.check_serial(paths, device)
        md.add_member(array, device.path)


# ---------------------------------------------------------------- filesystems


def make_filesystem(
    paths: Paths,
    target: Union[Device, Array],
    members: Sequence[Device],
    records: Sequence[Record],
    *,
    type: str,
    uuid: str,
    label: str = "",
    options: Sequence[str] = (),
    permitted: bool = False,
) -> None:
    """mkfs on a volume or an array whose members all carry our records.

    The target is blank, or half made by just this step: then what is in the
    way within the places that mkfs writes is zeroed first, because xfs and
    btrfs refuse over their own remains.  ``options`` as configured.
    ``permitted``: ``overwrite`` has just wiped the volumes.  Never killed by a
    deadline.
    """
    shape = rehearsal.geometry(paths, target)
    argv = rehearsal.command_line(
        type,
        target.path,
        shape,
        uuid=uuid,
        label=label,
        options=options,
        prezeroed=not permitted,
    )
    if isinstance(target, Device):
        registry.of(type).check_room(options, target.size)
    guard.check_intent(target, members, records, type, uuid)
    with ExitStack() as stack:
        on_array = isinstance(target, Array)
        for device, record in sorted(
            zip(members, records), key=lambda pair: pair[0].path
        ):
            fd = stack.enter_context(guard.locked(paths, device))
            if on_array:
                guard.check_identity(paths, device, fd)
            else:
                guard.check_unused(paths, device)
            guard.check_record(fd, device, record, guard.place_of(device, record))
        if isinstance(target, Array):
            guard.check_array(paths, target, members)
            fd = stack.enter_context(content.locked(target.path))
            guard.check_node(fd, target)
        blank = _make_room(paths, target, records[0], options, permitted)
        for device in members:
            guard.check_serial(paths, device)
        finished = command.run(argv, timeout=None)
        command.check(finished, f"making {type} on {target.path}")
        with guard.io_errors(target):
            os.fsync(fd)
        _verify_filesystem(target, members, records, type, uuid, blank)


def _make_room(
    paths: Paths,
    target: Union[Device, Array],
    record: Record,
    options: Sequence[str],
    permitted: bool,
) -> bool:
    """Leave ``target`` blank, which it is, or half made, or wiped; whether it
    was found blank, and nothing had to be done."""
    look = guard.look_at(target)
    blank = isinstance(look.content, Blank)
    if permitted and not blank:
        _check_permitted(target, look, record)
        guard.check_exclusive(target)
        return False
    look = half_made.look(paths, target, record, options, look)
    if isinstance(look.content, HalfMade):
        LOG.info("%s: what was half made is taken back", target.path)
        with guard.opened_node(target, os.O_RDWR | os.O_EXCL) as fd:
            if isinstance(target, Device):
                guard.check_serial(paths, target)
            directio.zero(fd, rehearsal.extents(paths, target, record, options))
            os.fsync(fd)
        look = guard.look_at(target)
    # Nothing else that is Known: it is whole and ours, or somebody's.
    if not isinstance(look.content, Blank):
        raise guard.refused_content(
            target, look.content, f"zeros, or {record.fs_type} half made by us"
        )
    if isinstance(target, Device) and look.record != record:
        raise guard.refused_record(target, "another intent record", "this one")
    guard.check_exclusive(target)
    return blank


def _check_permitted(target: Union[Device, Array], look: Look, record: Record) -> None:
    """What overwrite has wiped shows nothing at the fixed places of a volume.  An
    array of such volumes has others, which still hold what was given up: they are
    zeroed here."""
    if not isinstance(look.content, Unknown):
        raise guard.refused_content(target, look.content, "what overwrite has wiped")
    if isinstance(target, Device):
        with guard.opened_node(target, os.O_RDONLY | os.O_EXCL) as fd:
            guard.check_blank(fd, target, look, True, record)
        return
    with guard.opened_node(target, os.O_RDWR | os.O_EXCL) as fd:
        directio.zero(fd, places.places(target.size))
        os.fsync(fd)
        stray = directio.first_byte(fd, places.places(target.size))
    if stray is not None:
        raise guard.refused_content(
            target, Unknown("something not wiped", stray), "what overwrite has wiped"
        )


def _verify_filesystem(
    target: Union[Device, Array],
    members: Sequence[Device],
    records: Sequence[Record],
    kind: str,
    uuid: str,
    blank: bool,
) -> None:
    shown = guard.look_at(target, made=(kind, uuid) if blank else None).content
    if not isinstance(shown, Known) or (shown.type, shown.uuid) != (kind, uuid):
        raise guard.made_otherwise(target.path, shown, f"{kind} with UUID {uuid}")
    for device, record in zip(members, records):
        with guard.opened_node(device, os.O_RDONLY) as fd:
            guard.check_record(fd, device, record, guard.place_of(device, record))


# ------------------------------------------------------------------ overwrite


def wipe(paths: Paths, device: Device, fingerprint: str) -> None:
    """Zero the fixed places of a volume whose content the operator gave up.

    ``overwrite: {vol-…: fingerprint}`` names exactly this content: one byte
    of it changed, and nothing is done.  A wipe that was cut off leaves a content with
    another fingerprint, which shows no filesystem any more.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise guard.refused_content(device, Unknown("no fingerprint given"), "one")
    with guard.opened(paths, device, os.O_RDWR, partitions=True) as fd:
        look = _look_to_wipe(device)
        if look.fingerprint != fingerprint:
            raise guard.refused_content(
                device,
                look.content,
                f"the content with fingerprint {fingerprint}, which overwrite names; "
                f"it has {look.fingerprint or 'none'}",
            )
        guard.check_serial(paths, device)
        own = map(records_module.extent, records_module.places(device.size))
        everything = (*places.places(device.size), *own)
        # Each write is synchronous: what shows a filesystem goes before the rest of it.
        directio.zero(fd, superblock.FILESYSTEMS)
        directio.zero(fd, everything)
        os.fsync(fd)
        _forget_partitions(fd)
        stray = directio.first_byte(fd, everything)
        look = content.look(device.path, volume_id=device.volume_id)
        if stray is not None or isinstance(look.content, Known):
            raise guard.made_otherwise(device.path, look.content, "nothing known")


def _look_to_wipe(device: Device) -> Look:
    """A content that touches no fixed place has a fingerprint only where all
    of it is read."""
    look = content.look(device.path, volume_id=device.volume_id, fingerprint=True)
    if isinstance(look.content, Unknown) and not look.fingerprint:
        look = content.look(device.path, volume_id=device.volume_id, full=True)
    return look


def _forget_partitions(fd: int) -> None:
    try:
        fcntl.ioctl(fd, _BLKRRPART)
    except OSError as error:
        # EINVAL: a device that takes no partitions.
        if error.errno != errno.EINVAL:
            LOG.debug("BLKRRPART: %s", error)
