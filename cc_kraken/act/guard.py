"""Guards: what must hold right before a byte of a volume is changed.

Each check raises KrakenError and writes nothing.  They look at the device
itself (node, kernel, sysfs, bytes), never at what an earlier look said.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import time
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence, Tuple, Union

from cc_kraken.machine import devices, md, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Blank,
    Content,
    Device,
    Extent,
    HalfMade,
    Known,
    KrakenError,
    Look,
    MdSuperblock,
    Record,
    Trouble,
    Unknown,
)
from cc_kraken.proof import content, directio, places, write_counters
from cc_kraken.proof import record as records_module
from cc_kraken.proof.record import BLOCK, MEMBER_PLACE

MD_MEMBER = "linux_raid_member"
MD_MAGIC = b"\xfc\x4e\x2b\xa9"

#: Members that a level needs at least.
LEVELS = {0: 2, 1: 2, 5: 3, 6: 4, 10: 2}

#: Seconds that udev may hold a device exclusively (blkid, mdadm).
BUSY_WAIT = 10.0
#: Seconds in which the kernel gives the last member of RAID 5 its role.
ROLE_WAIT = 10.0

_ARRAY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,26}")
_BLKROGET = 0x125E
_BLKGETSIZE64 = 0x80081272
_SPARE = 0xFFFF


# --------------------------------------------------------------- what is asked


def encode(record: Record) -> bytes:
    try:
        return records_module.encode(record)
    except ValueError as error:
        raise KrakenError(
            Trouble(
                "record-refused",
                str(error),
                "a record with UUIDs in lower case",
                "This is a fault of cc_kraken: please report it.",
            )
        ) from error


def check_place(device: Device, record: Record, place: int) -> None:
    if record.volume_id != device.volume_id:
        raise refused_record(device, f"a record for {record.volume_id}", "its own")
    known = place in records_module.places(device.size)
    if place < 0 or not (known or records_module.is_former_place(device.size, place)):
        raise ValueError(f"no place of a record on {device.path}: {place}")


def place_of(device: Device, record: Record) -> int:
    member, single = records_module.places(device.size)
    return member if record.array_uuid else single


def check_request(
    members: Sequence[Device],
    records: Sequence[Record],
    uuid: str,
    level: int,
    name: str,
) -> None:
    """Does all that is asked for a new array agree with itself?"""
    volumes = [device.volume_id for device in members]
    wrong = ""
    if level not in LEVELS or len(members) < LEVELS[level]:
        wrong = f"RAID {level} of {len(members)} volumes"
    elif not _ARRAY_NAME.fullmatch(name):
        wrong = f"the array name {name!r}"
    elif [record.volume_id for record in records] != volumes:
        wrong = "records that are not those of the members"
    elif len(set(volumes)) != len(volumes):
        wrong = "one volume twice"
    elif len({device.size for device in members}) != 1:
        wrong = "members of unequal size"
    elif min(device.size for device in members) < records_module.SMALLEST:
        wrong = "members of less than 1 GiB"
    elif len({record.identity for record in records}) != 1:
        wrong = "records of different sets"
    elif any(
        not same_uuid(record.array_uuid, uuid)
        or (record.level, record.members) != (level, len(members))
        for record in records
    ):
        wrong = "records that speak of another array"
    if wrong:
        raise KrakenError(
            Trouble(
                "array-refused",
                f"Array {uuid} was to be created from {', '.join(volumes)}, with "
                + wrong,
                "equal blank members with one intent",
                "Correct the tags of the set; nothing was written.",
            )
        )


def check_intent(
    target: Union[Device, Array],
    members: Sequence[Device],
    records: Sequence[Record],
    kind: str,
    uuid: str,
) -> None:
    """Do all records speak of this very filesystem on this very target?"""
    if isinstance(target, Device):
        right = list(members) == [target]
        array_uuid = ""
    else:
        right = {device.name for device in members} >= set(target.members)
        array_uuid = target.uuid
    if not members or len(records) != len(members) or not right:
        raise ValueError(f"{target.path} does not consist of {members}")
    for device, record in zip(members, records):
        check_place(device, record, place_of(device, record))
        if (record.fs_type, record.fs_uuid) != (kind, uuid):
            raise refused_record(device, "a record of another filesystem", uuid)
        if not same_uuid(record.array_uuid, array_uuid):
            raise refused_record(device, "a record of another array", array_uuid)
    if len({record.identity for record in records}) != 1:
        raise refused_record(members[0], "records of different sets", "one set")


# ------------------------------------------------------------ what is verified


@contextmanager
def locked(paths: Paths, device: Device) -> Iterator[int]:
    """The device under its exclusive lock (read-only descriptor), checked to
    be the one that was seen; whether something uses it is not asked."""
    with content.locked(device.path) as fd:
        check_identity(paths, device, fd)
        yield fd


@contextmanager
def opened(
    paths: Paths,
    device: Device,
    flags: int,
    *,
    used: bool = False,
    partitions: bool = False,
) -> Iterator[int]:
    """The device under its lock, opened with ``flags`` for direct I/O.

    Unless ``used`` may be, it is also held exclusively, so that nothing can
    mount it or put it together meanwhile.
    """
    with locked(paths, device):
        if not used:
            check_unused(paths, device, partitions=partitions)
        exclusive = 0 if used else os.O_EXCL
        with opened_node(device, flags | exclusive) as fd:
            check_identity(paths, device, fd)
            yield fd


@contextmanager
def opened_node(target: Union[Device, Array], flags: int) -> Iterator[int]:
    """A descriptor for direct, synchronous I/O; waits for a device that is
    busy for a moment (udev's probes), and checks what it got."""
    flags |= os.O_DIRECT | os.O_SYNC | os.O_CLOEXEC
    deadline = time.monotonic() + BUSY_WAIT
    while True:
        try:
            fd = os.open(target.path, flags)
            break
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise cannot_open(target, error) from error
    try:
        check_node(fd, target)
        with io_errors(target):
            yield fd
    finally:
        os.close(fd)


@contextmanager
def held(target: Union[Device, Array]) -> Iterator[None]:
    """The device held open: until then the kernel gives its name to no other."""
    try:
        fd = os.open(target.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_open(target, error) from error
    try:
        check_node(fd, target)
        yield
    finally:
        os.close(fd)


@contextmanager
def io_errors(target: Union[Device, Array]) -> Iterator[None]:
    """An error of the kernel in here is the device's, and no fault of ours."""
    try:
        yield
    except OSError as error:
        raise KrakenError(
            Trouble(
                "write-failed",
                f"{title(target)}: {error.strerror or error}",
                "a device that can be read and written",
                "See the kernel's log, and the state of the volume in EC2; it may "
                "be failing, or detached. Run again.",
            )
        ) from error


def check_node(fd: int, target: Union[Device, Array]) -> None:
    """Is what ``fd`` is open on the block device with the number seen?"""
    status = os.fstat(fd)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if not stat.S_ISBLK(status.st_mode) or number != target.devno:
        raise changed(target, f"is {number}", target.devno)


def check_identity(paths: Paths, device: Device, fd: int) -> None:
    """Node, size, writability and serial are those of ``device``."""
    check_node(fd, device)
    with io_errors(device):
        (size,) = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
        (read_only,) = struct.unpack("i", fcntl.ioctl(fd, _BLKROGET, bytes(4)))
    if size != device.size:
        raise changed(device, f"has {size} bytes", f"{device.size} bytes")
    if read_only:
        raise KrakenError(
            Trouble(
                "device-read-only",
                f"{device.path} ({device.volume_id}) is read-only",
                "a device that can be written",
                "See why the kernel set it so (blockdev --getro, its log).",
            )
        )
    check_serial(paths, device)


def check_serial(paths: Paths, device: Device) -> None:
    found = devices.serial_of(paths, device.name)
    number = _sysfs_number(paths, device.name)
    if found != device.volume_id or number != device.devno:
        raise changed(
            device, f"is now {found or 'no EBS volume'} ({number})", device.volume_id
        )


def _sysfs_number(paths: Paths, name: str) -> str:
    return sysfs.attribute(paths.sys, "block", name, "dev") or "absent"


def check_unused(paths: Paths, device: Device, *, partitions: bool = False) -> None:
    """Nothing mounts it, swaps on it or holds it, and no other disk has its
    serial."""
    found = devices.of_volume(paths, device.volume_id)
    if len(found) > 1:
        names = ", ".join(twin.path for twin in found)
        raise changed(device, f"has twins: {names}", "one disk with this serial")
    now = found[0] if found else None
    if now is None or (now.name, now.devno) != (device.name, device.devno):
        raise changed(device, "is gone or renumbered", device.devno)
    uses = [f"mounted at {path}" for path in now.mounted]
    uses += [f"held by {holder}" for holder in now.holders]
    uses += ["swap"] if now.swap else []
    if not partitions:
        uses += [f"partitioned ({name})" for name in now.partitions]
    if uses:
        raise in_use(device, ", ".join(uses))


def check_exclusive(target: Union[Device, Array]) -> None:
    """The kernel's own word that nothing uses it: an exclusive open, closed
    at once, since mkfs and mdadm open it exclusively themselves."""
    with opened_node(target, os.O_RDONLY | os.O_EXCL):
        pass


def check_array(
    paths: Paths,
    array: Array,
    members: Optional[Sequence[Device]] = None,
    *,
    used: bool = False,
) -> None:
    """The array runs, as it was seen, on (some of) these members only, and is
    not mounted (unless ``used``: a member can be added at any time)."""
    now = next((one for one in md.scan(paths) if one.name == array.name), None)
    if now is None or now.devno != array.devno or not now.running:
        raise array_changed(array, "it does not run any more")
    if now.uuid and not same_uuid(now.uuid, array.uuid):
        raise array_changed(array, f"its UUID is {now.uuid}")
    if now.mounted and not used:
        raise in_use(array, f"mounted at {', '.join(now.mounted)}")
    if members is None:
        return
    if not set(now.members) or not set(now.members) <= {one.name for one in members}:
        raise array_changed(array, f"its members are {', '.join(now.members)}")
    for device in members:
        if device.name not in now.members:
            continue
        block = content.superblock(device.path)
        if block is None or not same_uuid(block.uuid, array.uuid):
            raise array_changed(array, f"{device.path} is not a member of it")


def check_stop(
    array: Array, members: Sequence[Device], records: Sequence[Record]
) -> None:
    """Do all records speak of the creation of this very array?"""
    if not members or len(records) != len(members):
        raise ValueError(f"{array.path} does not consist of {members}")
    for device, record in zip(members, records):
        check_place(device, record, MEMBER_PLACE)
        if record.level not in LEVELS or record.members != len(members):
            raise refused_record(device, "a record of no new array", "one that is")
        if not same_uuid(record.array_uuid, array.uuid or record.array_uuid):
            raise refused_record(device, "a record of another array", array.uuid)
    if len({(record.identity, record.array_uuid) for record in records}) != 1:
        raise refused_record(members[0], "records of different sets", "one set")


def check_array_unused(paths: Paths, array: Array, members: Sequence[Device]) -> Array:
    """The array as it is now: of these members only, and not mounted."""
    now = next((one for one in md.scan(paths) if one.name == array.name), None)
    if now is None or now.devno != array.devno:
        raise array_changed(array, "it is gone")
    if now.mounted:
        raise in_use(array, f"mounted at {', '.join(now.mounted)}")
    if not now.members or not set(now.members) <= {one.name for one in members}:
        raise array_changed(array, f"its members are {', '.join(now.members)}")
    return now


def check_record(fd: int, device: Device, record: Record, place: int) -> None:
    with io_errors(device):
        present = directio.read(fd, place, BLOCK)
    if present != encode(record):
        raise refused_record(device, tell_block(present), "its own intent record")


def check_blank(
    fd: int,
    device: Device,
    look: Look,
    permitted: bool,
    record: Optional[Record] = None,
) -> None:
    """Blank apart from ``record``; or, where ``overwrite`` permits it, without
    anything at the fixed places."""
    if look.record != record:
        raise refused_record(device, "another intent record", "this one, or none")
    if isinstance(look.content, Blank):
        return
    if permitted and isinstance(look.content, Unknown):
        own = (
            tuple(map(records_module.extent, records_module.places(device.size)))
            if record is not None
            else ()
        )
        with io_errors(device):
            stray = directio.first_byte(fd, places.places(device.size), own)
        if stray is None:
            return
    raise refused_content(device, look.content, "zeros")


def check_gap(fd: int, device: Device, place: int) -> None:
    """The place of the record is free in the layout of this member."""
    taken = md_extents(directio.read(fd, 0, 12288))
    own = records_module.extent(place)
    if not taken or any(
        own.start < used.end and used.start < own.end for used in taken
    ):
        raise refused_content(
            device,
            Unknown("an array whose metadata leaves no room for a record", place),
            "room between its metadata and its data",
        )


def md_extents(head: bytes) -> Tuple[Extent, ...]:
    """Where md 1.2 says that superblock, bitmap, bad-block log and data lie.

    ``head``: the first 12 KiB of a member.  () if it holds no superblock of
    version 1.2.  Source: mdadm super1.c, struct mdp_superblock_1; md-bitmap.h
    of the kernel, struct bitmap_super_s.
    """
    start = 4096
    if len(head) < 12288 or head[start : start + 4] != MD_MAGIC:
        return ()
    (features,) = struct.unpack_from("<I", head, start + 8)
    (bitmap,) = struct.unpack_from("<i", head, start + 96)
    data, size = struct.unpack_from("<QQ", head, start + 128)
    log_length, log = struct.unpack_from("<Hi", head, start + 186)
    found = [Extent(start, start + 4096), Extent(data * 512, (data + size) * 512)]
    if features & 1 and bitmap:
        at = start + bitmap * 512
        found.append(Extent(at, at + _bitmap_length(head[at : at + 256])))
    if log_length and log:
        at = start + log * 512
        found.append(Extent(at, at + log_length * 512))
    return tuple(sorted(found, key=lambda extent: extent.start))


def _bitmap_length(header: bytes) -> int:
    """Bytes of a bitmap with its header; 256 KiB where it does not tell,
    which is more than mdadm gives it."""
    if len(header) < 64 or header[:4] != b"bitm":
        return 256 << 10
    sectors: int = struct.unpack_from("<Q", header, 40)[0]
    chunk: int = struct.unpack_from("<I", header, 52)[0]
    if not chunk:
        return 256 << 10
    bits = -(-sectors * 512 // chunk)
    return -(-(-(-bits // 8) + 256) // 4096) * 4096


def verify_array(
    members: Sequence[Device], records: Sequence[Record], uuid: str, level: int
) -> None:
    """All members carry the array's superblock, in order, and our record."""
    deadline = time.monotonic() + ROLE_WAIT
    while True:
        blocks = [content.superblock(device.path) for device in members]
        wrong = wrong_member(members, blocks, uuid, level)
        if not wrong:
            break
        if time.monotonic() > deadline:
            raise KrakenError(
                Trouble(
                    "made-otherwise",
                    f"mdadm reported success, but {wrong}",
                    f"superblocks of array {uuid} in order on "
                    + ", ".join(device.path for device in members),
                    "Compare mdadm --examine of the members; run again.",
                )
            )
        time.sleep(0.2)
    for device, record in zip(members, records):
        with opened_node(device, os.O_RDONLY) as fd:
            check_record(fd, device, record, MEMBER_PLACE)


def wrong_member(
    members: Sequence[Device],
    blocks: Sequence[Optional[MdSuperblock]],
    uuid: str,
    level: int,
) -> str:
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
    return digits(one) == digits(other)


def digits(uuid: str) -> str:
    return uuid.replace(":", "").replace("-", "").lower()


def look_at(
    target: Union[Device, Array],
    *,
    ours: Sequence[Extent] = (),
    record: Optional[Record] = None,
    made: Optional[Tuple[str, str]] = None,
) -> Look:
    volume_id = target.volume_id if isinstance(target, Device) else ""
    licence = record if ours and not volume_id else None
    return content.look(
        target.path, volume_id=volume_id, ours=ours, licence=licence, made=made
    )


def write_checked(
    paths: Paths, device: Device, fd: int, start: int, data: bytes
) -> None:
    """Write, flush, read back; the serial is read right before."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        before = write_counters.testimony(fd)
        check_serial(paths, device)
        done = os.pwritev(fd, [buffer], start)
    os.fsync(fd)
    if done != len(data) or directio.read(fd, start, len(data)) != data:
        raise KrakenError(
            Trouble(
                "write-failed",
                f"{device.path} does not return what was written at {start}",
                "the same bytes",
                "See the kernel's log; the volume may be failing.",
            )
        )
    extent = Extent(start, start + len(data))
    write_counters.note_write(fd, before, extent, erased=not any(data))


# ------------------------------------------------------------------- troubles


def title(target: Union[Device, Array]) -> str:
    if isinstance(target, Device):
        return f"{target.path} ({target.volume_id})"
    return f"{target.path} (array {target.uuid})"


def changed(target: Union[Device, Array], found: str, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "device-changed",
            f"{title(target)} {found}",
            expected,
            "Nothing was written. Run again: devices are looked up afresh.",
        )
    )


def in_use(target: Union[Device, Array], how: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "device-in-use",
            f"{title(target)} is in use: {how}",
            "a device that nothing uses",
            "Nothing was written. Stop what uses it, and run again.",
        )
    )


def cannot_open(target: Union[Device, Array], error: OSError) -> KrakenError:
    if error.errno == errno.EBUSY:
        return in_use(target, "the kernel says that it is busy")
    return changed(
        target, f"cannot be opened: {os.strerror(error.errno or 0)}", "a device"
    )


def refused_content(
    target: Union[Device, Array], shown: Content, expected: str
) -> KrakenError:
    return KrakenError(
        Trouble(
            "content-refused",
            f"{title(target)} holds {tell(shown)}",
            expected,
            "Nothing was written. Look at the volume by hand; to give its content "
            "up, see overwrite.",
        )
    )


def refused_record(device: Device, found: str, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "record-refused",
            f"{title(device)} carries {found}",
            expected,
            "Nothing was written. Look at the volume by hand; to give its content "
            "up, see overwrite.",
        )
    )


def array_changed(array: Array, found: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "array-changed",
            f"{title(array)} is not as it was seen: {found}",
            f"the array of {', '.join(array.members)}",
            "Nothing was written. Run again: arrays are looked up afresh.",
        )
    )


def made_otherwise(path: str, shown: Content, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "made-otherwise",
            f"{path} holds {tell(shown)} afterwards",
            expected,
            "See the kernel's log for I/O errors; run again.",
        )
    )


def tell(shown: Content) -> str:
    if isinstance(shown, Blank):
        return "zeros"
    if isinstance(shown, HalfMade):
        return "something that we half made"
    if isinstance(shown, Known):
        return f"{shown.type} {shown.uuid}".rstrip()
    where = "" if shown.offset is None else f" at byte {shown.offset}"
    return f"unknown content ({shown.reason}{where})"


def tell_block(block: bytes) -> str:
    if not any(block):
        return "no intent record"
    if records_module.decode(block) is not None:
        return "another intent record"
    return "unknown bytes where the record belongs"
