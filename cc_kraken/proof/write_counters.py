"""Whether a disk is, byte for byte, what it was when it was looked at.

A proof reads 130 to 260 MiB, and each step that writes must know that it still
holds.  The kernel counts the sectors of every write, zeroing and discard that passes
its block layer, of a whole disk with its partitions, and gives each disk that it
meets a number of its own (``diskseq``).  What waits in the page cache is flushed
before the counters are read.  Where they stand as before the proof's first read, no
byte can have changed anywhere: more than a second proof would show.

It holds for NVMe disks and for arrays of them (whose members are counted, too): an EBS
volume that is attached here, and is no multi-attach volume, has no other writer.
Where a counter cannot be had or does not count (a loop device whose file somebody
writes, a kernel before 5.15, ``queue/iostats`` switched off), there is no testimony,
and everything is read again.  Not counted are commands past the block layer (``nvme
io-passthru``), and what another instance writes while this one is hibernated: of that
the clocks tell.

Sources: Documentation/block/stat.rst, Documentation/ABI/stable/sysfs-block
(diskseq, inflight), block/blk-mq.c (blk_account_io_completion), clock_gettime(2).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import Optional

from cc_kraken.machine import sysfs
from cc_kraken.model import Testimony

SYS = "/sys"
SECTOR = 512
#: Kernel names of the disks whose every writer passes this kernel.
TRUSTED = re.compile(r"nvme\d+n\d+|md[\w-]+")


def testimony(fd: int) -> Optional[Testimony]:
    """The counters of the disk that ``fd`` is open on; None where they prove
    nothing.  Flushes what the page cache holds of it."""
    try:
        os.fsync(fd)
        found = _of(_directory(fd))
        # Last: a hibernation between two of these reads must show, too.
        return None if found is None else replace(found, slept=_slept())
    except (IndexError, OSError, ValueError):
        return None


def sectors_read(fd: int) -> int:
    """Sectors that the kernel has counted as read from this disk; -1 where it
    does not say."""
    try:
        return _numbers(_directory(fd), "stat")[2]
    except (IndexError, OSError, ValueError):
        return -1


def _slept() -> int:
    awake = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - awake) // 10**9


def _directory(fd: int) -> str:
    """Where sysfs has the disk that ``fd`` is open on."""
    number = os.fstat(fd).st_rdev
    index = f"{SYS}/dev/block"
    link = os.readlink(f"{index}/{os.major(number)}:{os.minor(number)}")
    return os.path.normpath(os.path.join(index, link))


def _of(directory: str) -> Optional[Testimony]:
    if not TRUSTED.fullmatch(os.path.basename(directory)):
        return None
    below = []
    for name in sorted(_names(os.path.join(directory, "slaves"))):
        one = _of(os.path.join(directory, "slaves", name))
        if one is None:
            return None
        below.append(one)
    (sequence,) = _numbers(directory, "diskseq")
    (size,) = _numbers(directory, "size")
    # In this order: a write that ends meanwhile is in flight, or is counted.
    waiting = _numbers(directory, "inflight")[1]
    counts = _numbers(directory, "stat")
    if waiting or _numbers(directory, "queue/iostats") != (1,) or len(counts) < 15:
        return None
    return Testimony(sequence, size, counts[6], counts[13], tuple(below))


def counts(fd: int, before: int, read: int) -> bool:
    """Whether the kernel counts what is done to this disk: it has counted the
    bytes that were ``read`` since it said ``before`` (:func:`sectors_read`)."""
    return before >= 0 and (sectors_read(fd) - before) * SECTOR >= read


def after_write(
    fd: int, before: Optional[Testimony], length: int
) -> Optional[Testimony]:
    """The testimony to use after our own write of ``length`` bytes, which has been
    flushed.  None where anything else was written as well."""
    now = testimony(fd)
    if now is None or replace(now, written=now.written - length // SECTOR) != before:
        return None
    return now


def _numbers(directory: str, name: str) -> tuple[int, ...]:
    text = sysfs.attribute(directory, name)
    if text is None:
        raise ValueError(f"the kernel does not say {directory}/{name}")
    return tuple(int(word) for word in text.split())


def _names(directory: str) -> tuple[str, ...]:
    try:
        return tuple(os.listdir(directory))
    except FileNotFoundError:
        return ()
