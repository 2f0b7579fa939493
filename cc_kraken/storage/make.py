"""All that makes something new on a volume, or destroys what is there.

:class:`Held` is a disk under its lock, and the only object that writes to one.  It
checks again and again that the disk is the volume that was seen, it flushes, and it
reads back.  Below it come the steps: the intent record and its end, the array, the
filesystem, and the wipe that ``overwrite`` permits.  Each trusts nobody: it proves
under the lock what permits it.  What it refuses leaves every byte as it was
(:mod:`cc_kraken.storage.unwritten` has the words).

What assembles, repairs, enlarges or mounts keeps what is there, and stands elsewhere:
:mod:`cc_kraken.act.step_actions`, :mod:`cc_kraken.storage.grow`,
:mod:`cc_kraken.storage.mount_point`.

A step takes ``seen``, what was found on its target before, and returns what is there
after it.  Such a look is believed only where the kernel testifies that nothing was
written since (:mod:`cc_kraken.proof.write_counters`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, Optional

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
    Layer,
    Look,
    Record,
    Unknown,
)
from cc_kraken.proof import (
    directio,
    half_made,
    places,
    probe,
    rehearsal,
    superblock,
    write_counters,
)
from cc_kraken.proof import record as records_module
from cc_kraken.proof.record import BLOCK, MEMBER_PLACE
from cc_kraken.storage import preconditions, unwritten
from cc_kraken.storage.preconditions import Pairs

LOG = logging.getLogger(__name__)

#: Seconds that another process may hold a disk's lock; that udev may hold a disk
#: exclusively (blkid, mdadm); in which the kernel gives the last member of RAID 5
#: its role.
LOCK_WAIT, BUSY_WAIT, ROLE_WAIT = 30.0, 10.0, 10.0
PAUSE = 0.1

_BLKRRPART, _BLKROGET, _BLKGETSIZE64 = 0x125F, 0x125E, 0x80081272


# ---------------------------------------------------------------- a locked disk


class Held:
    """A volume, or an array, under its exclusive lock.

    ``below``: the volumes of the array, held as well.
    """

    def __init__(
        self, paths: Paths, target: Layer, fd: int, below: Sequence[Held] = ()
    ) -> None:
        self.paths, self.target, self.below = paths, target, below
        self._fd = fd

    def check(self) -> None:
        """It is what was seen: node, size, serial, and those of the volumes below."""
        check_node(self._fd, self.target)
        if self.target.volume_id:
            self._check_size()
        preconditions.check_identity(self.paths, self.target)
        for volume in self.below:
            volume.check()

    def _check_size(self) -> None:
        device = self.target
        with io_errors(device):
            (size,) = struct.unpack("Q", self.ioctl(_BLKGETSIZE64, 8))
            (read_only,) = struct.unpack("i", self.ioctl(_BLKROGET, 4))
        if size != device.size:
            was = f"It had {device.size} bytes"
            raise unwritten.changed(device, f"has {size} bytes now", was)
        if read_only:
            raise unwritten.read_only(device)

    def ioctl(self, code: int, length: int) -> bytes:
        return fcntl.ioctl(self._fd, code, bytes(length))

    def check_unused(self, *, partitions: bool = False) -> None:
        preconditions.check_unused(self.paths, self.target, partitions=partitions)

    def check_exclusive(self) -> None:
        """The kernel's own word that nothing uses it: an exclusive open, closed at
        once, since mkfs and mdadm open it exclusively themselves.  Until they do, our
        lock keeps udev away; from a person who mounts by hand their own open saves."""
        with self.opened(os.O_RDONLY | os.O_EXCL):
            pass

    @contextmanager
    def opened(self, flags: int) -> Iterator[None]:
        """Open it once more; with O_EXCL nothing can mount it or put it together
        meanwhile.  Waits for a device that is busy for a moment (udev's probes)."""
        locked = self._fd
        self._fd = _open(self.target, flags | os.O_SYNC, BUSY_WAIT)
        try:
            self.check()
            with io_errors(self.target):
                yield
        finally:
            os.close(self._fd)
            self._fd = locked

    def read(self, start: int, length: int) -> bytes:
        with io_errors(self.target):
            return directio.read(self._fd, start, length)

    def look(self, **question: Any) -> Look:
        """What it holds now (:func:`cc_kraken.proof.probe.look`)."""
        volume = self.target.volume_id
        return probe.look(self.target.path, volume_id=volume, **question)

    def write(self, start: int, data: bytes) -> None:
        """Check once more that it is the right disk, write, flush, and read back."""
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            self.check()
            done = os.pwritev(self._fd, [buffer], start)
        os.fsync(self._fd)
        if done != len(data) or self.read(start, len(data)) != data:
            raise unwritten.lost(self.target, start)

    def zero(self, extents: Sequence[Extent]) -> None:
        """Zero what is not zero within ``extents`` (whole 4 KiB blocks)."""
        whole = [
            Extent(one.start // BLOCK * BLOCK, -(-one.end // BLOCK) * BLOCK)
            for one in extents
        ]
        for start, length in directio.spans(whole):
            if not directio.is_zero(self.read(start, length)):
                self.write(start, bytes(length))

    def flush(self) -> None:
        with io_errors(self.target):
            os.fsync(self._fd)

    def after_write(self, look: Optional[Look], record: Optional[Record]) -> Look:
        """``look`` with this ``record`` put in.  The kernel vouches for it only where
        our one block is all that was written since."""
        found = look or Look(Unknown("Nobody has looked."))
        testimony = write_counters.after_write(self._fd, found.testimony, BLOCK)
        return replace(found, record=record, moved=None, testimony=testimony)

    def check_record(self, record: Record) -> None:
        """This very record lies at its place."""
        present = self.read(preconditions.place_of(self.target, record), BLOCK)
        if present != records_module.encode(record):
            there = unwritten.describe_block(present)
            raise unwritten.record(self.target, there, "its own intent record")

    def check_blank(
        self, look: Look, permitted: bool, record: Optional[Record]
    ) -> None:
        """Blank apart from ``record``; or, where ``overwrite`` permits it, without
        anything at the fixed places."""
        if look.record != record:
            there = "another intent record" if look.record else "no intent record"
            wanted = "its own intent record" if record else "no intent record"
            raise unwritten.record(self.target, there, wanted)
        if isinstance(look.content, Blank):
            return
        wiped = permitted and isinstance(look.content, Unknown)
        if not wiped or self._is_stray(record):
            raise unwritten.not_blank(self.target, look.content)

    def _is_stray(self, record: Optional[Record]) -> bool:
        """Whether anything but the record lies at the fixed places."""
        size = self.target.size
        own = map(records_module.extent, records_module.places(size) if record else ())
        with io_errors(self.target), directio.Reader(self.target.path) as reader:
            found = reader.survey(places.places(size), tuple(own))
        return any(piece.in_the_way is not None for piece in found)


@contextmanager
def held(paths: Paths, target: Layer, below: Sequence[Held] = ()) -> Iterator[Held]:
    """``target`` under its exclusive lock, which udev honours, and checked to be
    what was seen; whether something uses it is not asked.

    Source: systemd.io/BLOCK_DEVICE_LOCKING.
    """
    fd = _open(target, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _lock(fd, target.path)
        one = Held(paths, target, fd, below)
        one.check()
        yield one
    finally:
        os.close(fd)


def _open(target: Layer, flags: int, wait: float = 0.0) -> int:
    """A descriptor for direct I/O of a block device."""
    deadline = time.monotonic() + wait
    while True:
        try:
            if not stat.S_ISBLK(os.stat(target.path).st_mode):
                raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
            return os.open(target.path, flags | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(PAUSE)
                continue
            raise unwritten.cannot_open(target, error) from error


def _lock(fd: int, path: str) -> None:
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise unwritten.locked(path)
        time.sleep(PAUSE)


def check_node(fd: int, target: Layer) -> None:
    """What ``fd`` is open on is the block device with the number that was seen."""
    status = os.fstat(fd)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if not stat.S_ISBLK(status.st_mode) or number != target.devno:
        raise unwritten.changed(target, f"is {number} now", f"It was {target.devno}")


@contextmanager
def kept_open(target: Layer) -> Iterator[None]:
    """The device held open, unlocked: until then the kernel gives its name to no
    other."""
    fd = _open(target, os.O_RDONLY)
    try:
        check_node(fd, target)
        yield
    finally:
        os.close(fd)


@contextmanager
def io_errors(target: Layer) -> Iterator[None]:
    """An error of the kernel in here is the device's, and no fault of ours."""
    try:
        yield
    except OSError as error:
        raise unwritten.io_error(target, error) from error


@contextmanager
def together(paths: Paths, volumes: Pairs) -> Iterator[list[tuple[Held, Record]]]:
    """The volumes of a set, locked one after another, always in this order."""
    with ExitStack() as stack:
        yield [
            (stack.enter_context(held(paths, device)), record)
            for device, record in sorted(volumes, key=lambda pair: pair[0].path)
        ]


def run_on(disks: Sequence[Held], argv: Sequence[str], doing: str) -> None:
    """Run a program that writes to these disks: each is checked right before, and
    flushed after it.  It is never killed by a deadline."""
    for disk in disks:
        disk.check()
    command.check(command.run(argv, timeout=None), doing)
    for disk in disks:
        disk.flush()


# ------------------------------------------------------------ the intent record


@contextmanager
def _at_place(
    paths: Paths, device: Device, record: Record, place: int
) -> Iterator[tuple[Held, bytes, bytes]]:
    """The volume, open to be written; the block of its record; and what lies at its
    place.  A member may be held by md: that place lies before the data."""
    block = records_module.encode(record)
    preconditions.check_place(device, record, place)
    used = place == MEMBER_PLACE
    with held(paths, device) as disk:
        if not used:
            disk.check_unused()
        with disk.opened(os.O_RDWR if used else os.O_RDWR | os.O_EXCL):
            yield disk, block, disk.read(place, BLOCK)


def write_record(
    paths: Paths,
    device: Device,
    record: Record,
    place: int,
    *,
    permitted: bool = False,
    seen: Optional[Look] = None,
) -> Optional[Look]:
    """Write and flush ``record`` at ``place``, unless it is there already.

    The device must be blank without a record.  For ``MEMBER_PLACE`` it may
    also be a member of the very array that the record names, running or not,
    whose metadata leaves the place free.  ``permitted``: ``overwrite`` has
    just wiped it, so the fixed places must be zero, not the samples.
    """
    with _at_place(paths, device, record, place) as (disk, block, present):
        if present == block:
            return seen
        look = disk.look(seen=seen)
        member = preconditions.is_member(look, record.array_uuid)
        if member and place == MEMBER_PLACE:
            if not records_module.room_for_record(disk.read(0, 3 * BLOCK)):
                full = Unknown("an array whose metadata leaves no room", place)
                need = "A record must fit between its metadata and its data"
                raise unwritten.content(device, full, need)
        else:
            disk.check_unused()
            disk.check_blank(look, permitted, None)
            if place == MEMBER_PLACE:
                disk.check_exclusive()
        if any(present):
            need = "The record's place must be zero"
            raise unwritten.content(device, look.content, need)
        disk.write(place, block)
        return disk.after_write(look, record)


def erase_record(
    paths: Paths,
    device: Device,
    record: Record,
    place: int,
    *,
    seen: Optional[Look] = None,
) -> Optional[Look]:
    """Zero and flush exactly ``record`` at ``place``, unless the place is zero
    already."""
    with _at_place(paths, device, record, place) as (disk, block, present):
        if not any(present):
            return seen
        if present != block:
            there = unwritten.describe_block(present)
            raise unwritten.record(device, there, "exactly this intent record")
        disk.write(place, bytes(BLOCK))
        return disk.after_write(seen, None)


# --------------------------------------------------------------------- arrays


def create_array(
    paths: Paths,
    volumes: Pairs,
    *,
    uuid: str,
    level: int,
    name: str,
    permitted: Sequence[str] = (),
    seen: Mapping[str, Look] = {},
) -> None:
    """``mdadm --create`` over blank volumes that carry our records, in order.

    ``permitted``: volume ids that ``overwrite`` has just wiped; ``seen``: by volume
    id.  The redundant levels resync.  Success is what the members' superblocks say
    afterwards.
    """
    preconditions.check_request(volumes, uuid, level, name)
    members = [device for device, _ in volumes]
    with together(paths, volumes) as pairs:
        disks = [disk for disk, _ in pairs]
        for disk in disks:
            disk.check_unused()
        for disk, record in pairs:
            disk.check_record(record)
            look = disk.look(seen=seen.get(record.volume_id))
            disk.check_blank(look, record.volume_id in permitted, record)
            disk.check_exclusive()
        md.load_driver(paths)
        argv = md.create_argv(
            [device.path for device in members],
            node=md.node(paths, name, uuid, [one.path for one in members]),
            uuid=uuid,
            level=level,
            name=name,
            data_offset=places.data_offset(members[0].size),
        )
        run_on(disks, argv, f"creating array {uuid}")
        _verify_array(members, uuid, level)
        for disk, record in pairs:
            disk.check_record(record)


def _verify_array(members: Sequence[Device], uuid: str, level: int) -> None:
    """All members carry the array's superblock, in order."""
    deadline = time.monotonic() + ROLE_WAIT
    while True:
        blocks = [probe.superblock(device.path) for device in members]
        wrong = preconditions.wrong_member(members, blocks, uuid, level)
        if not wrong:
            return
        if time.monotonic() > deadline:
            paths = [device.path for device in members]
            raise unwritten.wrong_members(uuid, wrong, paths)
        time.sleep(2 * PAUSE)


def stop_array(paths: Paths, array: Array, volumes: Pairs) -> None:
    """``mdadm --stop`` of an array that udev made of half-made members.

    Only where every volume of the set carries the record of its creation and
    nothing but zeros outside md's own places, nothing else is in the array,
    and it does not run or shows nothing.
    """
    preconditions.check_stop(array, volumes)
    with together(paths, volumes) as pairs:
        for disk, record in pairs:
            disk.check_record(record)
            _check_half_made(disk)
        members = [device for device, _ in volumes]
        now = preconditions.array_now(paths, array, members)
        if now.running:
            with held(paths, array) as whole:
                look = whole.look()
                if not isinstance(look.content, Blank):
                    raise unwritten.not_blank(array, look.content)
                whole.check_exclusive()
        argv = ["mdadm", "--stop", array.path]
        disks = [disk for disk, _ in pairs]
        run_on(disks, argv, f"stopping the half-made {array.path}")


def stop_idle(paths: Paths, array: Array) -> None:
    """``mdadm --stop`` of an array that does not run: it lets its members go, and
    writes nothing, so it needs no lock.  One that runs is left alone."""
    same = (array.name, array.devno, array.members)
    now = [one for one in md.scan(paths) if (one.name, one.devno, one.members) == same]
    if now and not now[0].running:
        argv = ["mdadm", "--stop", array.path]
        command.check(command.run(argv), f"stopping {array.path}")


def _check_half_made(disk: Held) -> None:
    """Nothing but zeros lies outside the record and md's own places."""
    look = disk.look(ours=rehearsal.MD_EXTENTS)
    if not isinstance(look.content, HalfMade):
        need = "It must be zero outside md's own places"
        raise unwritten.content(disk.target, look.content, need)


def zero_superblock(paths: Paths, device: Device, record: Record) -> None:
    """Take back what a creation that was cut off left on one member.

    Only where ``record`` lies on it and names the superblock's array, nothing
    holds it, and nothing but zeros lies outside md's own places.  Bitmap and
    bad-block log first, the superblock last (it is what permits to go on).
    """
    preconditions.check_new_array(device, record)
    # One lock from the beginning to the end: udev, which sees every close
    # after a write, would put the member into an array again in between.
    with held(paths, device) as disk:
        disk.check_unused()
        with disk.opened(os.O_RDWR | os.O_EXCL):
            disk.check_record(record)
            if isinstance(disk.look().content, Blank):
                return
            _check_superblock(disk, device, record)
            _check_half_made(disk)
            disk.zero([Extent(2 * BLOCK, MEMBER_PLACE)])
            disk.zero(rehearsal.MD_EXTENTS)
            look = disk.look()
        if not isinstance(look.content, Blank) or look.record != record:
            left = "nothing but the record"
            raise unwritten.made_otherwise(device.path, look.content, left)


def _check_superblock(disk: Held, device: Device, record: Record) -> None:
    """Where md's superblock lies there is that of the record's array, whole
    or torn, or none."""
    head = disk.read(BLOCK, BLOCK)
    uuid = head[16:32].hex()
    ours = preconditions.same_uuid(uuid, record.array_uuid)
    if head[:4] == records_module.MD_MAGIC and not ours:
        other = f"the superblock of array {uuid} beside its record"
        raise unwritten.record(device, other, f"that of array {record.array_uuid}")


def add_member(
    paths: Paths, array: Array, device: Device, *, seen: Optional[Look] = None
) -> None:
    """``mdadm --add`` of a blank volume without a record to ``array``.  md copies for
    hours; the next look at the array says how far it is."""
    with held(paths, device) as disk:
        disk.check_unused()
        disk.check_blank(disk.look(seen=seen), False, None)
        preconditions.check_layer(array, paths, used=True)
        disk.check_exclusive()
        argv = ["mdadm", "--manage", array.path, "--add", device.path]
        run_on([disk], argv, f"adding {device.path} to {array.path}")


# ---------------------------------------------------------------- filesystems


def make_filesystem(
    paths: Paths,
    target: Layer,
    volumes: Pairs,
    *,
    type: str,
    uuid: str,
    label: str = "",
    options: Sequence[str] = (),
    permitted: bool = False,
    seen: Optional[Look] = None,
) -> Look:
    """mkfs on a volume or an array whose members all carry our records.

    The target is blank, or half made by just this step: then what is in the
    way within the places that mkfs writes is zeroed first, because xfs and
    btrfs refuse over their own remains.  ``options`` as configured.
    ``permitted``: ``overwrite`` has just wiped the volumes.
    """
    argv = rehearsal.command_line(
        type,
        target.path,
        rehearsal.geometry(paths, target),
        uuid=uuid,
        label=label,
        options=options,
        prezeroed=not permitted,
    )
    if target.volume_id:
        registry.of(type).check_room(options, target.size)
    preconditions.check_intent(target, volumes, type, uuid)
    with ExitStack() as stack:
        pairs = stack.enter_context(together(paths, volumes))
        preconditions.check_layer(target, paths, [one for one, _ in volumes])
        for disk, record in pairs:
            disk.check_record(record)
        disks = [disk for disk, _ in pairs]
        disk = disks[0]
        if not target.volume_id:
            disk = stack.enter_context(held(paths, target, disks))
        blank = _make_room(disk, volumes[0][1], options, permitted, seen)
        run_on([disk], argv, f"making {type} on {target.path}")
        look = disk.look(made=blank)
        shown = look.content
        if not isinstance(shown, Known) or (shown.type, shown.uuid) != (type, uuid):
            raise unwritten.made_otherwise(
                target.path, shown, f"{type} with UUID {uuid}"
            )
        for volume, record in pairs:
            volume.check_record(record)
        return look


def _make_room(
    disk: Held,
    record: Record,
    options: Sequence[str],
    permitted: bool,
    seen: Optional[Look],
) -> bool:
    """Leave the disk blank, which it is, or half made, or wiped; whether it
    was found blank, and nothing had to be done."""
    target = disk.target
    look = disk.look(seen=seen)
    blank = isinstance(look.content, Blank)
    if permitted and not blank:
        _check_wiped(disk, look, record)
        return False
    look = half_made.look(disk.paths, target, record, options, look)
    if isinstance(look.content, HalfMade):
        LOG.info("%s: what was half made is taken back", target.path)
        with disk.opened(os.O_RDWR | os.O_EXCL):
            disk.zero(rehearsal.extents(disk.paths, target, record, options))
        look = disk.look()
    # Nothing else that is Known: it is whole and ours, or somebody's.
    if not isinstance(look.content, Blank):
        need = f"It must hold nothing but zeros, or {record.fs_type} half made by us"
        raise unwritten.content(target, look.content, need)
    if target.volume_id:
        disk.check_blank(look, False, record)
    disk.check_exclusive()
    return blank


def _check_wiped(disk: Held, look: Look, record: Record) -> None:
    """What overwrite has wiped shows nothing at the fixed places of a volume.  An
    array of such volumes has others, which still hold what was given up: they are
    zeroed here."""
    if not isinstance(look.content, Unknown):
        need = "It must be what overwrite has wiped"
        raise unwritten.content(disk.target, look.content, need)
    if disk.target.volume_id:
        disk.check_blank(look, True, record)
        disk.check_exclusive()
        return
    with disk.opened(os.O_RDWR | os.O_EXCL):
        disk.zero(places.places(disk.target.size))


# ------------------------------------------------------------------ overwrite


def wipe(paths: Paths, device: Device, fingerprint: str) -> None:
    """Zero the fixed places of a volume whose content the operator gave up.

    ``overwrite: {vol-…: fingerprint}`` names exactly this content: one byte
    of it changed, and nothing is done.  A wipe that was cut off leaves a content with
    another fingerprint, which shows no filesystem any more.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        need = "overwrite must name its fingerprint"
        raise unwritten.content(device, Unknown("nobody has said what"), need)
    with held(paths, device) as disk:
        disk.check_unused(partitions=True)
        with disk.opened(os.O_RDWR | os.O_EXCL):
            look = disk.look(fingerprint=True)
            if isinstance(look.content, Unknown) and not look.fingerprint:
                # What touches no fixed place has a fingerprint only where all is read.
                look = disk.look(full=True)
            if look.fingerprint != fingerprint:
                need = f"overwrite names the content with fingerprint {fingerprint}"
                has = f"This one has {look.fingerprint or 'none'}"
                raise unwritten.content(device, look.content, f"{need}. {has}")
            own = map(records_module.extent, records_module.places(device.size))
            # Each write is synchronous: what shows a filesystem goes first.
            disk.zero(superblock.FILESYSTEMS)
            disk.zero((*places.places(device.size), *own))
            with suppress(OSError):  # of a device that takes no partitions
                disk.ioctl(_BLKRRPART, 0)
            look = disk.look()
            if isinstance(look.content, Known):
                raise unwritten.made_otherwise(
                    device.path, look.content, "nothing that is known"
                )
