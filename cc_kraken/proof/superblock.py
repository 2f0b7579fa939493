"""Superblocks of md, ext2/3/4, xfs and btrfs, parsed from bytes; pure.

No parser raises, whatever the bytes.  Each returns None where its magic is
not, and a :class:`Found` where it is: with a ``flaw`` in words if the
superblock cannot be what a tool left behind on purpose (checksum, position,
half made, larger than its device).

A filesystem says of itself whether it was ever mounted to be written: ext4 by its
mount time, which the kernel writes before the mount returns; xfs by its log, of
which the kernel stamps the first 2 MiB likewise; btrfs by its log tree, and by the
generation of its UUID tree, which the kernel sets once it has looked through it, a
moment after the mount.  mkfs sets none of them.  (A btrfs that crashed in that moment
is told by its checker.)

Sources: md_p.h (kernel, uapi), mdadm super1.c; kernel documentation
filesystems/ext4/super, ext4_setup_super(); xfsprogs xfs_format.h, xfs_log_format.h,
xlog_clear_stale_blocks() of the kernel; btrfs ctree.h (uapi), update_super_roots().
"""

from __future__ import annotations

import hashlib
import struct
import uuid as uuids
from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Tuple

from cc_kraken.model import MdSuperblock

MD_MEMBER = "linux_raid_member"
EXT_TYPES = ("ext2", "ext3", "ext4")
TYPES = (*EXT_TYPES, "xfs", "btrfs")

SECTOR = 512
MD_SIZE = 4096
"""Bytes of an md superblock of any version."""
MD_MAGIC = 0xA92B4EFC
_SECONDS = (1 << 40) - 1
"""Of a time in an md superblock; microseconds are above."""
EXT_OFFSET = 1024
BTRFS_OFFSET = 64 << 10
HEAD = 128 << 10
"""Bytes of the head that hold every superblock but those of md at the end."""

#: ``read(offset, length)`` of a device.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Found:
    """A superblock.

    ``type`` as blkid names it; ``size`` in bytes that it claims of its
    device; ``offset`` where it lies; ``block`` bytes of a filesystem block.
    ``errors``: the filesystem says of itself that it needs its checker;
    ``ever_mounted``: that somebody has mounted it, to write.
    """

    type: str
    offset: int
    uuid: str = ""
    label: str = ""
    size: int = 0
    block: int = 0
    flaw: str = ""
    superblock: Optional[MdSuperblock] = None
    errors: bool = False
    ever_mounted: bool = False


def scan(read: Read, size: int) -> Tuple[Found, ...]:
    """Every superblock of a device of ``size`` bytes, filesystems first.

    Reads 128 KiB at the head, 132 KiB at the end, and 8 KiB of the log of an xfs at
    most, through ``read``, whose errors pass through.
    """
    head = read(0, min(HEAD, size))
    found: List[Optional[Found]] = [
        replace(one, ever_mounted=_xfs_log_used(read, head, size))
        if one.type == "xfs"
        else one
        for one in filesystems(head, size)
    ]
    for offset in (0, 4096):
        found.append(md1(head[offset : offset + MD_SIZE], offset, size))
    for offset, parse in ((md10_offset(size), md1), (md090_offset(size), md090)):
        if offset > 4096:
            found.append(parse(read(offset, MD_SIZE), offset, size))
    return tuple(one for one in found if one is not None)


def filesystems(head: bytes, size: int) -> Tuple[Found, ...]:
    """The filesystems whose superblocks are in ``head`` (128 KiB) of a device
    or an array of ``size`` bytes.  Whether an xfs was mounted is not in there."""
    found = (
        xfs(head[:4096], size),
        ext(head[EXT_OFFSET : EXT_OFFSET + 1024], size),
        btrfs(head[BTRFS_OFFSET : BTRFS_OFFSET + 4096], size),
    )
    return tuple(one for one in found if one is not None)


# ------------------------------------------------------------------ checksum


def _table() -> Tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _table()


def crc32c(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """The CRC-32C register after ``data`` (the customary sum is its
    complement)."""
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc


# ------------------------------------------------------------------------ md


def md10_offset(size: int) -> int:
    """Where the superblock of version 1.0 lies: 8 to 12 KiB before the end."""
    return max(0, (size // SECTOR - 16) // 8 * 8 * SECTOR)


def md090_offset(size: int) -> int:
    """Where version 0.90 lies: 64 to 128 KiB before the end."""
    return max(0, (size // 65536 - 1) * 65536)


def md1(data: bytes, offset: int, size: int) -> Optional[Found]:
    """An md superblock of version 1.x in ``data`` (4 KiB), read at ``offset``
    of a device of ``size`` bytes."""
    if len(data) < 256 or struct.unpack_from("<II", data) != (MD_MAGIC, 1):
        return None
    uuid = str(uuids.UUID(bytes=bytes(data[16:32])))
    name = _text(data[32:64])
    flaw = _md1_flaw(data, offset)
    if flaw:
        return Found(MD_MEMBER, offset, uuid, name, flaw=flaw)
    block = _md1_fields(data, offset, uuid, name)
    claimed = block.data_offset + block.data_size
    if claimed > size:
        flaw = _beyond("an md superblock", claimed, size)
    return Found(MD_MEMBER, offset, uuid, name, claimed, 0, flaw, block)


def md1_checksum(data: bytes) -> int:
    """The checksum that a superblock of version 1.x should carry."""
    (devices,) = struct.unpack_from("<I", data, 220)
    length = 256 + 2 * devices
    plain = bytes(data[:216]) + bytes(4) + bytes(data[220:length])
    total: int = sum(struct.unpack_from(f"<{length // 4}I", plain))
    if length % 4:
        total += struct.unpack_from("<H", plain, length - 2)[0]
    return (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF


def _md1_flaw(data: bytes, offset: int) -> str:
    (devices,) = struct.unpack_from("<I", data, 220)
    if 256 + 2 * devices > len(data):
        return f"an md superblock that counts {devices} devices"
    (stored,) = struct.unpack_from("<I", data, 216)
    if stored != md1_checksum(data):
        return "an md superblock with a wrong checksum"
    (place,) = struct.unpack_from("<Q", data, 144)
    if place * SECTOR != offset:
        return (
            f"an md superblock that belongs at {place * SECTOR}: the device was "
            "resized, or it is a copy"
        )
    return ""


def _md1_fields(data: bytes, offset: int, uuid: str, name: str) -> MdSuperblock:
    features, created, level, layout, used, chunk, disks = struct.unpack_from(
        "<I52xQiIQII", data, 8
    )
    data_offset, data_size = struct.unpack_from("<QQ", data, 128)
    (number,) = struct.unpack_from("<I", data, 160)
    utime, events = struct.unpack_from("<QQ", data, 192)
    (devices,) = struct.unpack_from("<I", data, 220)
    roles = struct.unpack_from(f"<{devices}H", data, 256)
    return MdSuperblock(
        uuid=uuid,
        name=name,
        level=level,
        raid_disks=disks,
        role=roles[number] if number < devices else None,
        events=events,
        device_uuid=str(uuids.UUID(bytes=bytes(data[168:184]))),
        data_offset=data_offset * SECTOR,
        data_size=data_size * SECTOR,
        array_size=_array_size(level, layout, disks, used, data_size, chunk) * SECTOR,
        chunk=chunk * SECTOR,
        layout=layout,
        update_time=utime & _SECONDS,
        roles=roles,
        minor={0: 1, 4096: 2}.get(offset, 0),
        feature_map=features,
        created=created & _SECONDS,
    )


def _array_size(
    level: int, layout: int, disks: int, used: int, data: int, chunk: int
) -> int:
    """Sectors of the array; 0 where its superblock does not tell (linear,
    and RAID 0 of unequal members, which would be larger)."""
    if level == 0:
        return (data // chunk * chunk if chunk else 0) * disks
    if level == 1:
        return used
    if level in (4, 5, 6):
        return used * max(0, disks - (2 if level == 6 else 1))
    if level == 10:
        copies = (layout & 0xFF) * (layout >> 8 & 0xFF)
        return used * disks // copies if copies else 0
    return 0


def md090(data: bytes, offset: int, size: int) -> Optional[Found]:
    """An md superblock of version 0.90: recognised, never used."""
    for order in "<>":
        if len(data) < MD_SIZE:
            return None
        words = struct.unpack_from(f"{order}1024I", data)
        if words[:3] != (MD_MAGIC, 0, 90):
            continue
        uuid = str(uuids.UUID("".join(f"{words[i]:08x}" for i in (5, 13, 14, 15))))
        total = sum(words) - words[38]
        flaw = ""
        if words[38] != (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF:
            flaw = "an md superblock (0.90) with a wrong checksum"
        return Found(MD_MEMBER, offset, uuid, flaw=flaw)
    return None


# ------------------------------------------------------------------ ext2/3/4

_JOURNAL = 0x4
_RO_OLD = 0x7
_INCOMPAT_EXT2 = 0x2 | 0x10
_INCOMPAT_EXT3 = _INCOMPAT_EXT2 | 0x4
_JOURNAL_DEVICE = 0x8
_64BIT = 0x80
_METADATA_CSUM = 0x400
_ERROR_STATE = 0x2
_RECOVER = 0x4
"""Of the incompatible ones: the journal is to be replayed."""


def ext(data: bytes, size: int) -> Optional[Found]:
    """An ext2, ext3 or ext4 superblock in ``data`` (1 KiB, from 1024)."""
    if len(data) < 1024 or data[56:58] != b"\x53\xef":
        return None
    (log_block,) = struct.unpack_from("<I", data, 24)
    compat, incompat, ro_compat = struct.unpack_from("<III", data, 92)
    (blocks,) = struct.unpack_from("<I", data, 4)
    if incompat & _64BIT:
        blocks += struct.unpack_from("<I", data, 0x150)[0] << 32
    kind = _ext_kind(compat, incompat, ro_compat)
    block = 1024 << log_block if log_block <= 6 else 0
    claimed = blocks * block
    flaw = ""
    if not claimed:
        flaw = f"an {kind} superblock without a sensible size"
    elif ro_compat & _METADATA_CSUM and _ext_checksum(data) != data[1020:1024]:
        flaw = f"an {kind} superblock with a wrong checksum"
    elif claimed > size:
        flaw = _beyond(f"an {kind} superblock", claimed, size)
    uuid = str(uuids.UUID(bytes=bytes(data[104:120])))
    label = _text(data[120:136])
    (mounts,) = struct.unpack_from("<H", data, 52)
    (state,) = struct.unpack_from("<H", data, 58)
    return Found(
        kind,
        EXT_OFFSET,
        uuid,
        label,
        claimed,
        block,
        flaw,
        errors=bool(state & _ERROR_STATE),
        # e2fsck sets the count back to zero, and nobody the time.
        ever_mounted=bool(mounts or any(data[44:48]) or incompat & _RECOVER),
    )


def _ext_kind(compat: int, incompat: int, ro_compat: int) -> str:
    if incompat & _JOURNAL_DEVICE:
        return "jbd"
    if ro_compat & ~_RO_OLD or incompat & ~_INCOMPAT_EXT3:
        return "ext4"
    if compat & _JOURNAL:
        return "ext3"
    return "ext4" if incompat & ~_INCOMPAT_EXT2 else "ext2"


def _ext_checksum(data: bytes) -> bytes:
    return struct.pack("<I", crc32c(data[:1020]))


# ----------------------------------------------------------------------- xfs

_XFS_LOG_MAGIC = 0xFEEDBABE
_XFS_LOG_RECORD = 256 << 10
_XFS_LOG_HEADER_FOR = 32 << 10
"""Bytes of a log record at most, and of its buffer for each sector of header."""


def xfs(data: bytes, size: int) -> Optional[Found]:
    """An xfs superblock in ``data`` (the first 4 KiB)."""
    if len(data) < 512 or data[:4] != b"XFSB":
        return None
    block, blocks = struct.unpack_from(">IQ", data, 4)
    group, groups = struct.unpack_from(">II", data, 84)
    version, sector = struct.unpack_from(">HH", data, 100)
    claimed = blocks * block
    flaw = ""
    if (
        not _power(block, 512, 65536)
        or not _power(sector, 512, 32768)
        or not group * (groups - 1) < blocks <= group * groups
    ):
        flaw = "an xfs superblock whose numbers do not fit together"
    elif data[126] != 0:
        flaw = "xfs half made: mkfs.xfs did not come to its end (inprogress is set)"
    elif version & 0xF == 5 and not _xfs_checksum_fits(data, sector):
        flaw = "an xfs superblock with a wrong checksum"
    elif claimed > size:
        flaw = _beyond("an xfs superblock", claimed, size)
    uuid = str(uuids.UUID(bytes=bytes(data[32:48])))
    return Found("xfs", 0, uuid, _text(data[108:120]), claimed, block, flaw)


def _xfs_log_used(read: Read, head: bytes, size: int) -> bool:
    """Whether the log holds more than the one record that mkfs.xfs writes at its
    beginning.  ``head``: at least 512 bytes with a superblock."""
    (block,) = struct.unpack_from(">I", head, 4)
    (start,) = struct.unpack_from(">Q", head, 48)
    (group,) = struct.unpack_from(">I", head, 84)
    shift = head[124]
    at = ((start >> shift) * group + (start & (1 << shift) - 1)) * block
    if not 0 < at < size - 2 * _XFS_LOG_RECORD:
        return False
    header = read(at, SECTOR)
    magic, cycle, _, length = struct.unpack_from(">4I", header)
    if (magic, cycle) != (_XFS_LOG_MAGIC, 1) or length > _XFS_LOG_RECORD:
        # Zeros: mkfs.xfs has not come so far.  Else the log has come round.
        return bool(magic)
    (buffer,) = struct.unpack_from(">I", header, 320)
    headers = max(1, -(-buffer // _XFS_LOG_HEADER_FOR))
    return any(read(at + headers * SECTOR + length, 4096))


def _xfs_checksum_fits(data: bytes, sector: int) -> bool:
    # sectors of more than 4 KiB occur on no disk: not read, not judged
    if sector > len(data):
        return False
    plain = bytes(data[:224]) + bytes(4) + bytes(data[228:sector])
    return struct.pack("<I", crc32c(plain) ^ 0xFFFFFFFF) == data[224:228]


# --------------------------------------------------------------------- btrfs


def btrfs(data: bytes, size: int) -> Optional[Found]:
    """A btrfs superblock in ``data`` (4 KiB, from 64 KiB)."""
    if len(data) < 4096 or data[64:72] != b"_BHRfS_M":
        return None
    (place,) = struct.unpack_from("<Q", data, 48)
    (total,) = struct.unpack_from("<Q", data, 112)
    (devices,) = struct.unpack_from("<Q", data, 136)
    (sector,) = struct.unpack_from("<I", data, 144)
    (own,) = struct.unpack_from("<Q", data, 209)
    claimed = max(total, own) if devices == 1 else own
    flaw = ""
    if not _btrfs_checksum_fits(data):
        flaw = "a btrfs superblock with a wrong checksum"
    elif place != BTRFS_OFFSET:
        flaw = f"a btrfs superblock that belongs at {place}"
    elif devices != 1:
        flaw = f"a btrfs over {devices} devices"
    elif claimed > size:
        flaw = _beyond("a btrfs superblock", claimed, size)
    uuid = str(uuids.UUID(bytes=bytes(data[32:48])))
    log_root, uuid_tree = struct.unpack_from("<Q459xQ", data, 96)
    return Found(
        "btrfs",
        BTRFS_OFFSET,
        uuid,
        _text(data[299:555]),
        claimed,
        sector,
        flaw,
        ever_mounted=bool(log_root or uuid_tree),
    )


def _btrfs_checksum_fits(data: bytes) -> bool:
    (kind,) = struct.unpack_from("<H", data, 196)
    body = bytes(data[32:4096])
    if kind == 0:
        return struct.pack("<I", crc32c(body) ^ 0xFFFFFFFF) == data[:4]
    if kind == 2:
        return hashlib.sha256(body).digest() == data[:32]
    if kind == 3:
        return hashlib.blake2b(body, digest_size=32).digest() == data[:32]
    # xxhash is in no standard library: left to blkid
    return bool(kind == 1)


# ------------------------------------------------------------------- details


def _power(value: int, least: int, most: int) -> bool:
    return least <= value <= most and value & (value - 1) == 0


def _text(raw: bytes) -> str:
    return bytes(raw).split(b"\0", 1)[0].decode("utf-8", "replace")


def _beyond(what: str, claimed: int, size: int) -> str:
    return (
        f"{what} of {claimed} bytes, beyond the end of the device "
        f"({size} bytes): the device was made smaller, or it is a copy"
    )
