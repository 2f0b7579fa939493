"""xfs.

Its own mount replays the log and refuses what it cannot, so nothing checks it before.
Sources: mkfs.xfs(8), xfs_repair(8), fsck.xfs(8), xfs_growfs(8), xfs(5),
ioctl_xfs_fsgeometry(2); xfsprogs mkfs/xfs_mkfs.c (calc_default_ag_geometry,
align_ag_geometry), xfs_format.h, xfs_log_format.h; the kernel's
xlog_clear_stale_blocks().
"""

from __future__ import annotations

import fcntl
import struct
import uuid as uuids
from collections.abc import Iterator, Sequence
from typing import Optional

from cc_kraken.filesystems import base
from cc_kraken.filesystems.base import (
    BLOCK,
    GIB,
    KIB,
    MIB,
    NUMBER,
    SIZE,
    TIB,
    Found,
    Geometry,
    State,
)
from cc_kraken.filesystems.options import BOOL, BYTES, COUNT, Given

SECTOR = 512
LOG_MAGIC = 0xFEEDBABE
LOG_RECORD = 256 << 10
LOG_HEADER_FOR = 32 << 10
"""Bytes of a log record at most, and of its buffer for each sector of header."""
GEOMETRY = 0x80705864
"""XFS_IOC_FSGEOMETRY_V1, known to every kernel."""


class Xfs(base.Filesystem):
    name = "xfs"
    package = ("xfsprogs", "xfsprogs")
    offset = 0

    label_bytes = 12
    usage = ("mkfs.xfs",)
    options = {
        "-b": "size=1024|2048|4096|[124]k",
        # Powers of two from 4 KiB to 1 MiB, with a unit or without, or in sectors.
        "-d": "su=(4|8|16|32|64|128|256|512|1024)[kK]|1[mM]|4096|8192|16384|32768"
        f"|65536|131072|262144|524288|1048576 sw={COUNT} "
        f"sunit=8|16|32|64|128|256|512|1024|2048 swidth={COUNT} noalign",
        "-i": "size=256|512|1024|2048|[12]k maxpct=[0-9]{1,2}|100 attr=2 "
        f"projid32bit=1 sparse={BOOL} nrext64={BOOL} exchange={BOOL}",
        "-l": f"size=[1-9][0-9]{{0,9}}[kKmMgG]? su={BYTES} sunit={COUNT} version=2 "
        f"lazy-count={BOOL}",
        "-m": f"crc=1 finobt={BOOL} rmapbt={BOOL} reflink={BOOL} inobtcount={BOOL} "
        f"bigtime={BOOL}",
        "-n": "size=4096|8192|16384|32768|65536|(4|8|16|32|64)k version=2|ci ftype=1 "
        f"parent={BOOL}",
        "-s": "size=512|4096|4k",
    }
    mount_options = (
        "attr2 noattr2 filestreams grpid nogrpid bsdgroups sysvgroups ikeep "
        "noikeep inode32 inode64 largeio nolargeio noalign swalloc wsync quota "
        "noquota uquota usrquota uqnoenforce qnoenforce gquota grpquota "
        "gqnoenforce pquota prjquota pqnoenforce dax(=(inode|always|never))? "
        f"(allocsize|logbsize)={SIZE} (logbufs|sunit|swidth)={NUMBER}"
    )
    mounted_test = "/sys/fs/xfs/%k"

    checker = ("xfs_repair", "-n")
    grower = "xfs_growfs"
    repair = "xfs_repair (its option -L throws away what was written last)"
    # What its log still holds comes first.
    own_uuid = "mount -o nouuid {0} /mnt && umount /mnt && xfs_admin -U generate {0}"

    def words(
        self, uuid: str, given: Given, geometry: Geometry, usage: str, prezeroed: bool
    ) -> list[str]:
        data = given.setdefault("-d", [])
        if not data:
            if geometry.stripe_unit:
                width = geometry.stripe_width // geometry.stripe_unit
                data += [f"su={geometry.stripe_unit}", f"sw={width}"]
            else:
                data.append("noalign")
        if "concurrency=" in usage:
            # Since xfsprogs 6.8 it sizes allocation groups by the processors.
            data.append("concurrency=0")
            given.setdefault("-l", []).append("concurrency=0")
        given.setdefault("-s", [f"size={geometry.sector}"])
        given.setdefault("-m", []).insert(0, f"uuid={uuid}")
        return ["-q", "-K"]

    def written(self, size: int, options: Sequence[str]) -> int:
        """The log above all."""
        log = 2 * GIB if "-l" in options else max(64 * MIB, size // 2048)
        return 64 * MIB + min(2 * GIB, log)

    def superblock(
        self, head: bytes, size: int, read: Optional[base.Read] = None
    ) -> Optional[Found]:
        """It was ever mounted if its log holds more than mkfs wrote: the kernel stamps
        the first 2 MiB of it before the mount returns."""
        data = head[:4096]
        if len(data) < SECTOR or data[:4] != b"XFSB":
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
        elif version & 0xF == 5 and not _checksum_fits(data, sector):
            flaw = "an xfs superblock with a wrong checksum"
        elif claimed > size:
            flaw = base.beyond("an xfs superblock", claimed, size)
        uuid = str(uuids.UUID(bytes=bytes(data[32:48])))
        used = read is not None and _log_used(read, data, size)
        label = base.text(data[108:120])
        return Found("xfs", 0, uuid, label, claimed, block, flaw, ever_mounted=used)

    def places(self, size: int) -> Iterator[base.Place]:
        """Allocation groups of a disk: 4, or of 1 TiB each."""
        for place in self.striped_places(size, 0, 0):
            yield place, 64 * KIB, BLOCK
        # mkfs.xfs of today makes an allocation group per processor: of any even
        # number of them one begins in the middle, give or take their rounding
        yield size // 2, 512 * KIB, 512 * KIB

    def striped_places(self, size: int, unit: int, width: int) -> Iterator[int]:
        """Allocation groups, without the first."""
        step = group_size(size, unit, width)
        return iter(range(step, size, step) if step > 0 else ())

    def state(self, path: str, node: str) -> State:
        with base.opened(path) as fd:
            geometry = fcntl.ioctl(fd, GEOMETRY, bytes(112))
        (block,) = struct.unpack_from("I", geometry)
        (blocks,) = struct.unpack_from("Q", geometry, 32)
        return State(block * blocks)

    def grow_argv(self, path: str, node: str, now: State) -> tuple[str, ...]:
        return ("xfs_growfs", "-d", path)


def group_size(size: int, unit: int = 0, width: int = 0) -> int:
    """Bytes of an allocation group of the xfs that mkfs.xfs makes.

    ``unit`` and ``width``: of the stripe, in bytes, 0 for a single device.
    """
    blocks = size // BLOCK
    most = (TIB - 512) // BLOCK
    shift = 2
    if unit:
        shift = 5 - (size <= 512 * GIB) - (size <= 8 * GIB)
    if size >= 32 * TIB or (not unit and size >= 4 * TIB):
        wanted = most
    else:
        wanted = min(-(-blocks // (1 << shift)), most)
    if not unit:
        return wanted * BLOCK
    stripe, across = unit // BLOCK, width // BLOCK
    if wanted % stripe:
        up = -(-wanted // stripe) * stripe
        wanted = up if up <= most else wanted // stripe * stripe
    if across > stripe and wanted % across == 0:
        wanted -= stripe
    return wanted * BLOCK


def _log_used(read: base.Read, head: bytes, size: int) -> bool:
    """Whether the log holds more than the one record that mkfs.xfs writes at its
    beginning.  ``head``: at least 512 bytes with a superblock."""
    (block,) = struct.unpack_from(">I", head, 4)
    (start,) = struct.unpack_from(">Q", head, 48)
    (group,) = struct.unpack_from(">I", head, 84)
    shift = head[124]
    at = ((start >> shift) * group + (start & (1 << shift) - 1)) * block
    if not 0 < at < size - 2 * LOG_RECORD:
        return False
    header = read(at, SECTOR)
    magic, cycle, _, length = struct.unpack_from(">4I", header)
    if (magic, cycle) != (LOG_MAGIC, 1) or length > LOG_RECORD:
        # Zeros: mkfs.xfs has not come so far.  Else the log has come round.
        return bool(magic)
    (buffer,) = struct.unpack_from(">I", header, 320)
    headers = max(1, -(-buffer // LOG_HEADER_FOR))
    return any(read(at + headers * SECTOR + length, 4096))


def _checksum_fits(data: bytes, sector: int) -> bool:
    # sectors of more than 4 KiB occur on no disk: not read, not judged
    if sector > len(data):
        return False
    plain = bytes(data[:224]) + bytes(4) + bytes(data[228:sector])
    return struct.pack("<I", base.crc32c(plain) ^ 0xFFFFFFFF) == data[224:228]


def _power(value: int, least: int, most: int) -> bool:
    return least <= value <= most and value & (value - 1) == 0
