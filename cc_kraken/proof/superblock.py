"""Superblocks of a device: those of md, parsed here, and those of filesystems.

No parser raises, whatever the bytes.  Each returns None where its magic is
not, and a :class:`Found` where it is: with a ``flaw`` in words if the
superblock cannot be what a tool left behind on purpose (checksum, position,
half made, larger than its device).

Sources: md_p.h (kernel, uapi), mdadm super1.c.
"""

from __future__ import annotations

import struct
import uuid as uuids
from typing import Optional

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import BLOCK, HEAD, Found, Read, beyond, text
from cc_kraken.model import Extent, MdSuperblock

FILESYSTEMS = tuple(
    Extent(start, start + BLOCK)
    for start in sorted(
        {one.offset // BLOCK * BLOCK for one in registry.TYPES.values()}
    )
)
"""Blocks with the superblocks of all types."""

MD_MEMBER = "linux_raid_member"
SECTOR = 512
MD_SIZE = 4096
"""Bytes of an md superblock of any version."""
MD_MAGIC = 0xA92B4EFC
_SECONDS = (1 << 40) - 1
"""Of a time in an md superblock; microseconds are above."""


def scan(read: Read, size: int) -> tuple[Found, ...]:
    """Every superblock of a device of ``size`` bytes, filesystems first.

    Reads 128 KiB at the head, 132 KiB at the end, and 8 KiB of the log of an xfs at
    most, through ``read``, whose errors pass through.
    """
    head = read(0, min(HEAD, size))
    found: list[Optional[Found]] = [*registry.superblocks(head, size, read)]
    for offset in (0, 4096):
        found.append(md1(head[offset : offset + MD_SIZE], offset, size))
    for offset, parse in ((md10_offset(size), md1), (md090_offset(size), md090)):
        if offset > 4096:
            found.append(parse(read(offset, MD_SIZE), offset, size))
    return tuple(one for one in found if one is not None)


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
    name = text(data[32:64])
    data_offset, data_size, place = struct.unpack_from("<QQQ", data, 128)
    checksum, devices = struct.unpack_from("<II", data, 216)
    flaw = ""
    if 256 + 2 * devices > len(data):
        flaw = f"an md superblock that counts {devices} devices"
    elif checksum != md1_checksum(data):
        flaw = "an md superblock with a wrong checksum"
    elif place * SECTOR != offset:
        flaw = (
            f"an md superblock that belongs at {place * SECTOR}: the device was "
            "resized, or it is a copy"
        )
    if flaw:
        return Found(MD_MEMBER, offset, uuid, name, flaw=flaw)
    features, created, level, layout, used, chunk, disks = struct.unpack_from(
        "<I52xQiIQII", data, 8
    )
    (number,) = struct.unpack_from("<I", data, 160)
    utime, events = struct.unpack_from("<QQ", data, 192)
    roles = struct.unpack_from(f"<{devices}H", data, 256)
    block = MdSuperblock(
        uuid=uuid,
        name=name,
        level=level,
        raid_disks=disks,
        role=roles[number] if number < devices else None,
        events=events,
        device_uuid=str(uuids.UUID(bytes=bytes(data[168:184]))),
        data_offset=data_offset * SECTOR,
        data_size=data_size * SECTOR,
        chunk=chunk * SECTOR,
        layout=layout,
        update_time=utime & _SECONDS,
        roles=roles,
        minor={0: 1, 4096: 2}.get(offset, 0),
        feature_map=features,
        created=created & _SECONDS,
        component=used * SECTOR,
    )
    claimed = block.data_offset + block.data_size
    if claimed > size:
        flaw = beyond("an md superblock", claimed, size)
    return Found(MD_MEMBER, offset, uuid, name, claimed, 0, flaw, superblock=block)


def md1_checksum(data: bytes) -> int:
    """The checksum that a superblock of version 1.x should carry."""
    (devices,) = struct.unpack_from("<I", data, 220)
    length = 256 + 2 * devices
    plain = bytes(data[:216]) + bytes(4) + bytes(data[220:length])
    total: int = sum(struct.unpack_from(f"<{length // 4}I", plain))
    if length % 4:
        total += struct.unpack_from("<H", plain, length - 2)[0]
    return (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF


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
