"""The intent record: what a run set out to make, on the volumes themselves.

A record is 512 bytes of text that people can read (``dd bs=512 count=1``), so
it fits one sector and is written whole or not at all, in a 4 KiB block that
is zero otherwise.  It lies where neither mkfs nor mdadm writes: the proof is
``tests/loop/test_record_place.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from typing import Optional

from cc_kraken.model import Extent, Node, Record

MAGIC = b"KRAKEN INTENT RECORD, version 1: not to be mounted\n"

#: Bytes that hold text and bytes that are written at once.
SIZE = 512
BLOCK = 4096

MIB = 1 << 20
MD_MAGIC = b"\xfc\x4e\x2b\xa9"

#: On a member of an array, from its start: behind the md superblock (4 KiB),
#: the bitmap (8 KiB, at most 128 KiB long) and the bad-block log (4 KiB)
#: that mdadm's super1.c places, before the data.
MEMBER_PLACE = 512 << 10

#: On a single volume this far before seven eighths of it.  EBS volumes have
#: whole GiB, so this is 5 MiB before the end of an ext4 block group (128
#: MiB), far from the middle (journal, log), from the start of an allocation
#: group of xfs, and from the copies of the btrfs superblock.
SINGLE_MARGIN = 5 * MIB

#: The smallest EBS volume.
SMALLEST = 1 << 30

_LINE = re.compile(
    rb"identity (?P<identity>[0-9a-f]{64})\n"
    rb"volume (?P<volume>vol-[0-9a-f]{8,17})\n"
    rb"filesystem (?P<type>[a-z][a-z0-9]{0,15}|-) (?P<fs>[0-9a-f-]{36}|-)\n"
    rb"array (?P<array>[0-9a-f:-]{32,36}|-) level (?P<level>-?[0-9]{1,2})"
    rb" members (?P<members>[0-9]{1,3})\n"
    rb"sha256 (?P<sum>[0-9a-f]{64})\n\0*\Z"
)


def identity(node: Node, set_name: str, volume_ids: Iterable[str]) -> str:
    """The sha256 (hex) over node, set and volume ids in any order."""
    what = [node.prefix, node.node_id, set_name, sorted(volume_ids)]
    return hashlib.sha256(json.dumps(what).encode("ascii")).hexdigest()


def places(size: int) -> tuple[int, int]:
    """Offsets where a device of ``size`` bytes may carry a record: as a
    member of an array, and as a volume of its own."""
    return MEMBER_PLACE, single_place(size)


def single_place(size: int) -> int:
    """The offset of the record of a single volume of ``size`` bytes."""
    return (size // 8 * 7 - SINGLE_MARGIN) // BLOCK * BLOCK


def former_place(size: int, filesystem: int) -> Optional[int]:
    """Where the record lies on a volume of ``size`` bytes that was smaller,
    when a filesystem of this many bytes was made to fill it.

    None where it fills the volume as it is.  EBS volumes have whole GiB, and
    mkfs leaves less than that.
    """
    before = -(-filesystem // SMALLEST) * SMALLEST
    return single_place(before) if 0 < before < size else None


def is_former_place(size: int, place: int) -> bool:
    """Whether a volume that has ``size`` bytes now could once have had its
    record at ``place``."""
    smaller = range(SMALLEST, size, SMALLEST)
    return any(single_place(before) == place for before in smaller)


def extent(place: int) -> Extent:
    """The bytes that a record at ``place`` takes."""
    return Extent(place, place + BLOCK)


def encode(record: Record) -> bytes:
    """The block of 4096 bytes that carries ``record``.

    Raises ValueError for a record whose fields are not of their form, such
    as a UUID in capitals: what is written must be read back equal.
    """
    text = MAGIC + _body(record)
    text += b"sha256 " + hashlib.sha256(text).hexdigest().encode("ascii") + b"\n"
    block = text.ljust(BLOCK, b"\0")
    if len(text) > SIZE or _parse(block) != record:
        raise ValueError(f"not a record that can be written: {record}")
    return block


def decode(block: bytes) -> Optional[Record]:
    """The record in ``block`` (4096 bytes as read from a place), or None.

    Never raises.  None for anything but the very bytes that ``encode`` makes:
    a flipped bit, a byte behind the text, a short read.
    """
    record = _parse(block)
    try:
        return record if record and encode(record) == block else None
    except ValueError:
        return None


def _body(record: Record) -> bytes:
    lines = [
        f"identity {record.identity}",
        f"volume {record.volume_id}",
        f"filesystem {record.fs_type or '-'} {record.fs_uuid or '-'}",
        f"array {record.array_uuid or '-'} level {record.level}"
        f" members {record.members}",
    ]
    return "".join(line + "\n" for line in lines).encode("utf-8", "replace")


def _parse(block: bytes) -> Optional[Record]:
    found = _LINE.match(block, len(MAGIC))
    if found is None:
        return None
    words = {
        name: "" if value == b"-" else value.decode("ascii")
        for name, value in found.groupdict().items()
    }
    return Record(
        identity=words["identity"],
        volume_id=words["volume"],
        fs_type=words["type"],
        fs_uuid=words["fs"],
        array_uuid=words["array"],
        level=int(words["level"]),
        members=int(words["members"]),
    )


def md_extents(head: bytes) -> tuple[Extent, ...]:
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


def room_for_record(head: bytes) -> bool:
    """Whether a member that begins with these 12 KiB leaves the place of a record
    free."""
    taken = md_extents(head)
    own = extent(MEMBER_PLACE)
    return bool(taken) and not any(
        own.start < used.end and used.start < own.end for used in taken
    )
