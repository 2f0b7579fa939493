"""btrfs on one device; one over several is recognised, never used.

Its own mount picks the last whole tree and refuses what it cannot, so nothing checks
it before.
Sources: mkfs.btrfs(8), btrfs-check(8), btrfs-filesystem(8), btrfs(5); btrfs-progs
mkfs/main.c (measured with 6.2); linux/btrfs.h, btrfs ctree.h (uapi),
update_super_roots().
"""

from __future__ import annotations

import fcntl
import hashlib
import struct
import uuid as uuids
from collections.abc import Iterator
from typing import Optional

from cc_kraken.filesystems import base
from cc_kraken.filesystems.base import (
    GIB,
    KIB,
    MIB,
    NUMBER,
    SIZE,
    Found,
    Geometry,
    State,
)
from cc_kraken.filesystems.options import Given, either

OFFSET = 64 * KIB
"""Of the superblock, which has 4096 bytes."""
FS_INFO = 0x8400941F
DEV_INFO = 0xD000941E
MOST_DEVICES = 4096


class Btrfs(base.Filesystem):
    name = "btrfs"
    package = ("btrfs-progs", "btrfs-progs")
    offset = OFFSET

    label_bytes = 255
    options = {
        "-d": "=single|dup",
        "-m": "=single|dup",
        "-n": "=4096|8192|16384|32768|65536|(4|8|16|32|64)k",
        "-s": "=4096|4k",
        "-O": either(
            "block-group-tree extref free-space-tree no-holes quota skinny-metadata "
            "squota"
        ),
        "-R": either("free-space-tree quota"),
        "--csum": "=crc32c|xxhash|sha256|blake2",
    }
    long_options = {
        "--data": "-d",
        "--metadata": "-m",
        "--nodesize": "-n",
        "--sectorsize": "-s",
        "--features": "-O",
        "--runtime-features": "-R",
        "--checksum": "--csum",
    }
    mount_options = (
        "autodefrag noautodefrag barrier nobarrier datacow nodatacow datasum "
        "nodatasum flushoncommit noflushoncommit ssd nossd ssd_spread nossd_spread "
        "treelog notreelog user_subvol_rm_allowed skip_balance "
        "compress(-force)?(=(no|none|lzo|zlib(:[0-9]{1,2})?|zstd(:-?[0-9]{1,2})?))? "
        f"discard=(sync|async) space_cache(=v[12])? max_inline={SIZE} "
        f"(commit|metadata_ratio|thread_pool)={NUMBER}"
    )
    several = "fs/btrfs/*/devices"
    subvolumes = True
    mounted_test = "/sys/fs/btrfs/$env{ID_FS_UUID}/devices/%k"

    checker = ("btrfs", "check", "--readonly")
    grower = "btrfs"
    repair = "btrfs check --readonly"
    own_uuid = "btrfstune -u {0}"

    def words(
        self, uuid: str, given: Given, geometry: Geometry, usage: str, prezeroed: bool
    ) -> list[str]:
        # Before 5.15 the profile of metadata depended on the disk's rotation.
        given.setdefault("-m", ["dup"])
        given.setdefault("-d", ["single"])
        return ["-q", "-K", "-U", uuid]

    def superblock(
        self, head: bytes, size: int, read: Optional[base.Read] = None
    ) -> Optional[Found]:
        """It was ever mounted if it has a log tree, or a generation of its UUID tree.
        The kernel sets that once it has looked through the tree, a moment after the
        mount.  (One that crashed in that moment is told by its checker.)"""
        data = head[OFFSET : OFFSET + 4096]
        if len(data) < 4096 or data[64:72] != b"_BHRfS_M":
            return None
        (place,) = struct.unpack_from("<Q", data, 48)
        (total,) = struct.unpack_from("<Q", data, 112)
        (devices,) = struct.unpack_from("<Q", data, 136)
        (sector,) = struct.unpack_from("<I", data, 144)
        (own,) = struct.unpack_from("<Q", data, 209)
        claimed = max(total, own) if devices == 1 else own
        flaw = ""
        if not _checksum_fits(data):
            flaw = "a btrfs superblock with a wrong checksum"
        elif place != OFFSET:
            flaw = f"a btrfs superblock that belongs at {place}"
        elif devices != 1:
            flaw = f"a btrfs over {devices} devices"
        elif claimed > size:
            flaw = base.beyond("a btrfs superblock", claimed, size)
        uuid = str(uuids.UUID(bytes=bytes(data[32:48])))
        log_root, uuid_tree = struct.unpack_from("<Q459xQ", data, 96)
        label, used = base.text(data[299:555]), bool(log_root or uuid_tree)
        return Found(
            "btrfs", OFFSET, uuid, label, claimed, sector, flaw, ever_mounted=used
        )

    def places(self, size: int) -> Iterator[base.Place]:
        """The superblocks, and the tree blocks that mkfs.btrfs writes."""
        for place in _places(size):
            yield place, 0, 32 * KIB

    def striped_places(self, size: int, unit: int, width: int) -> Iterator[int]:
        for place in _places(size):
            # trees take 192 KiB and may begin at the end of a chunk
            yield from range(place, place + 192 * KIB, 64 * KIB)

    def state(self, path: str, node: str) -> Optional[State]:
        with base.opened(path) as fd:
            info = bytearray(1024)
            fcntl.ioctl(fd, FS_INFO, info)
            last, count = struct.unpack_from("QQ", info)
            if count != 1:
                return None
            for number in range(1, min(last, MOST_DEVICES) + 1):
                device = bytearray(4096)
                struct.pack_into("Q", device, 0, number)
                try:
                    fcntl.ioctl(fd, DEV_INFO, device)
                except OSError:
                    continue  # a number that was given back
                return State(struct.unpack_from("Q", device, 32)[0], device=number)
        return None

    def grow_argv(self, path: str, node: str, now: State) -> tuple[str, ...]:
        return ("btrfs", "filesystem", "resize", f"{now.device}:max", path)


def _places(size: int) -> list[int]:
    chunk = 256 * MIB
    if size > 50 * GIB:
        chunk = GIB
    elif size // 20 < chunk:
        chunk = size // 20 // (64 * KIB) * (64 * KIB)
    whole = (1, 5, 21, 29, 37, 64)
    found = (64 * KIB, *(mib * MIB for mib in whole), 37 * MIB + chunk, 256 * GIB)
    return [place for place in found if place < size]


def _checksum_fits(data: bytes) -> bool:
    (kind,) = struct.unpack_from("<H", data, 196)
    body = bytes(data[32:4096])
    if kind == 0:
        return struct.pack("<I", base.crc32c(body) ^ 0xFFFFFFFF) == data[:4]
    if kind == 2:
        return hashlib.sha256(body).digest() == data[:32]
    if kind == 3:
        return hashlib.blake2b(body, digest_size=32).digest() == data[:32]
    # xxhash is in no standard library: left to blkid
    return bool(kind == 1)
