"""ext4, and ext2 and ext3 as far as their superblocks are told from it.

Sources: mke2fs(8), e2fsck(8), resize2fs(8), ext4(5); e2fsprogs
lib/ext2fs/initialize.c and closefs.c (sparse_super); kernel documentation
filesystems/ext4/super, ext4_setup_super().
"""

from __future__ import annotations

import os
import struct
import uuid as uuids
from collections.abc import Iterator, Sequence
from typing import Optional

from cc_kraken.filesystems import base
from cc_kraken.filesystems.base import BLOCK, KIB, MIB, NUMBER, Found, Geometry, State
from cc_kraken.filesystems.options import BYTES, COUNT, Given, either, refused

OFFSET = 1024
"""Of the superblock, which has 1024 bytes."""

_JOURNAL = 0x4
_RO_OLD = 0x7
_INCOMPAT_EXT2 = 0x2 | 0x10
_INCOMPAT_EXT3 = _INCOMPAT_EXT2 | 0x4
_JOURNAL_DEVICE = 0x8
_64BIT = 0x80
_METADATA_CSUM = 0x400
_VALID_STATE, _ERROR_STATE = 0x1, 0x2
_RECOVER = 0x4
"""Of the incompatible ones: the journal is to be replayed."""


class Ext4(base.Filesystem):
    name = "ext4"
    package = ("e2fsprogs", "e2fsprogs")
    kinds = ("ext2", "ext3", "ext4")
    offset = OFFSET

    label_bytes = 16
    options = {
        "-b": "=1024|2048|4096",
        "-e": "=continue|remount-ro",
        "-i": "=[1-9][0-9]{3,7}",
        "-I": "=256|512|1024",
        "-m": r"=[0-9]{1,2}(\.[0-9]{1,2})?",
        "-N": "=[1-9][0-9]{1,9}",
        "-T": "=small|big|huge|news|largefile|largefile4",
        "-J": "size=[1-9][0-9]{0,3} fast_commit_size=[1-9][0-9]{0,3}",
        "-E": f"stride={COUNT} stripe_width={COUNT} stripe-width={COUNT} "
        f"num_backup_sb=[012] orphan_file_size={BYTES} "
        "quotatype=(usr|grp|prj)(quota)?(:(usr|grp|prj)(quota)?){0,2} "
        r"encoding=utf8(-[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,2})?)?",
        "-O": either(
            "64bit casefold dir_index dir_nlink ea_inode encrypt extra_isize "
            "fast_commit has_journal huge_file inline_data large_dir large_file "
            "metadata_csum_seed orphan_file project quota sparse_super2 "
            "stable_inodes verity"
        ),
    }
    mount_options = (
        "barrier(=[01])? nobarrier delalloc nodelalloc auto_da_alloc noauto_da_alloc "
        "journal_checksum nojournal_checksum journal_async_commit user_xattr "
        "nouser_xattr noinit_itable quota noquota usrquota grpquota "
        "prjquota grpid nogrpid bsdgroups sysvgroups bsddf minixdf i_version "
        "block_validity noblock_validity dioread_lock dioread_nolock dax "
        "data=(ordered|journal|writeback) data_err=(abort|ignore) "
        "errors=(continue|remount-ro|panic) journal_ioprio=[0-7] init_itable "
        f"(init_itable|commit|stripe|inode_readahead_blks|resuid|resgid)={NUMBER} "
        f"(max_batch_time|min_batch_time)={NUMBER}"
    )
    mounted_test = "/sys/fs/ext4/%k"

    # A clean flag alone says nothing here.
    checker = ("e2fsck", "-nf")
    # What every boot does for a line of fstab with a pass number.
    preener = ("e2fsck", "-p")
    # 1: corrected; 2: corrected, and the system's root would want a reboot.
    preened = range(4)
    grower = "resize2fs"
    repair = "e2fsck -f"
    own_uuid = "e2fsck -fp {0}; tune2fs -U random {0}"

    def words(
        self, uuid: str, given: Given, geometry: Geometry, usage: str, prezeroed: bool
    ) -> list[str]:
        # The kernel zeroes the inode tables after the mount: the proof of
        # blankness is sampled, so assume_storage_prezeroed would promise more
        # than is known.  The journal needs no zeros where no older one can be.
        lazy = int(prezeroed)
        extended = ["nodiscard", "lazy_itable_init=1", f"lazy_journal_init={lazy}"]
        own = given.pop("-E", [])
        block = int(given.setdefault("-b", ["4096"])[0])
        if not any(item.startswith(("stride=", "stripe")) for item in own):
            # 0 as well: it keeps mke2fs from asking the device.
            extended.append(f"stride={geometry.stripe_unit // block}")
            extended.append(f"stripe_width={geometry.stripe_width // block}")
        return ["-q", "-U", uuid, "-E", ",".join(extended + own)]

    def check_room(self, options: Sequence[str], size: int) -> None:
        """Refuse options whose journal could reach the intent record.

        The journal begins in the middle of the volume (get_midpoint_journal_block()
        of e2fsprogs) and goes on behind whatever is there; the record lies three
        eighths of the volume further.  Half of what inode tables leave free of that
        is allowed."""
        given = self.parse(options)
        journal = dict(item.split("=") for item in given.get("-J", ()))
        wanted = int(journal.get("size", 0)) << 20
        inodes = size // int(given.get("-i", ["4096"])[0])
        if "-N" in given:
            inodes = int(given["-N"][0])
        tables = inodes * int(given.get("-I", ["256"])[0])
        most = (size - tables) * 3 // 16
        if wanted > most:
            raise refused(
                self.name,
                f"-J size={journal['size']}",
                f"a journal of {max(most, 0) >> 20} MiB at most on {size >> 30} GiB",
            )

    def written(self, size: int, options: Sequence[str]) -> int:
        """Backup group descriptors above all."""
        return 64 * MIB + size // 16384

    def superblock(
        self, head: bytes, size: int, read: Optional[base.Read] = None
    ) -> Optional[Found]:
        """It was ever mounted if it has a mount time, which the kernel writes before
        the mount returns; mkfs writes none."""
        data = head[OFFSET : OFFSET + 1024]
        if len(data) < 1024 or data[56:58] != b"\x53\xef":
            return None
        (log_block,) = struct.unpack_from("<I", data, 24)
        compat, incompat, ro_compat = struct.unpack_from("<III", data, 92)
        (blocks,) = struct.unpack_from("<I", data, 4)
        if incompat & _64BIT:
            blocks += struct.unpack_from("<I", data, 0x150)[0] << 32
        kind = _kind(compat, incompat, ro_compat)
        block = 1024 << log_block if log_block <= 6 else 0
        claimed = blocks * block
        flaw = ""
        if not claimed:
            flaw = f"an {kind} superblock without a sensible size"
        elif ro_compat & _METADATA_CSUM and _checksum(data) != data[1020:1024]:
            flaw = f"an {kind} superblock with a wrong checksum"
        elif claimed > size:
            flaw = base.beyond(f"an {kind} superblock", claimed, size)
        uuid = str(uuids.UUID(bytes=bytes(data[104:120])))
        label = base.text(data[120:136])
        mounts, state = struct.unpack_from("<H4xH", data, 52)
        # Not valid: mounted without a journal, or left so by its checker.
        errors = bool(state & _ERROR_STATE or not state & _VALID_STATE)
        # e2fsck sets the count back to zero, and nobody the time.
        used = bool(mounts or any(data[44:48]) or incompat & _RECOVER)
        return Found(kind, OFFSET, uuid, label, claimed, block, flaw, errors, used)

    def places(self, size: int) -> Iterator[base.Place]:
        """With blocks of 1, 2, 4 and 64 KiB."""
        for block in (KIB, 2 * KIB, 4 * KIB, 64 * KIB):
            for place in places(size, block):
                yield place, 0, BLOCK

    def striped_places(self, size: int, unit: int, width: int) -> Iterator[int]:
        return places(size)

    def state(self, path: str, node: str) -> Optional[State]:
        """Through the page cache, where the kernel keeps its superblock; its
        checksum is brought up to date only when it is written."""
        with base.opened(node) as fd:
            head = os.pread(fd, 2 * OFFSET, 0)
        found = self.superblock(head, 1 << 63)
        if found is None:
            return None
        # While it is mounted without a journal it is not valid either.
        (state,) = struct.unpack_from("<H", head, OFFSET + 58)
        return State(found.size, bool(state & _ERROR_STATE))

    def grow_argv(self, path: str, node: str, now: State) -> tuple[str, ...]:
        return ("resize2fs", node)


def places(size: int, block: int = 4 * KIB) -> Iterator[int]:
    """Backup superblocks (groups that are powers of 3, 5 and 7), journal and a few
    bitmaps of an ext4 of ``size`` bytes."""
    group = block * 8 * block
    last = (size // block - 1) * block // group
    # 1 and the last ones: sparse_super2; 16 to 64: bitmaps of flexible groups
    numbers = {1, 16, 32, 48, 64, last, last - 1}
    for base_number in (3, 5, 7):
        power = base_number
        while power <= last:
            numbers.add(power)
            power *= base_number
    for number in sorted(numbers):
        if 0 < number <= last:
            yield number * group
    # the journal's extent block and superblock: in the second group of the
    # flexible group about the middle
    flexible = 16 * group
    middle = size // 2 // flexible * flexible
    for start in (middle - flexible, middle):
        journal = start + group
        if flexible <= journal < size:
            yield journal - block
            yield journal


def _kind(compat: int, incompat: int, ro_compat: int) -> str:
    if incompat & _JOURNAL_DEVICE:
        return "jbd"
    if ro_compat & ~_RO_OLD or incompat & ~_INCOMPAT_EXT3:
        return "ext4"
    if compat & _JOURNAL:
        return "ext3"
    return "ext4" if incompat & ~_INCOMPAT_EXT2 else "ext2"


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", base.crc32c(data[:1020]))
