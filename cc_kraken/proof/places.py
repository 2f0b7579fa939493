"""Places of a device that the proof of blankness reads, as pure arithmetic.

A volume counts as blank only when every byte at these places is zero, and so
is every one of the samples that are drawn anew at each run (:func:`samples`).

What is read (:func:`places`), for a volume of more than 256 MiB:

- the first and the last 16 MiB: partition tables (GPT at both ends), LVM
  labels and metadata, LUKS headers (the second one of LUKS2 at 16 KiB to
  4 MiB), swap, bcache, the four labels of ZFS, md superblocks 0.90 to 1.2;
- 5 MiB behind every offset at which md, LVM or a partition lets its data
  begin, and 32 MiB behind the one that mdadm picks for this very size;
- behind each of these offsets again: the backup superblocks of ext4 with
  blocks of 1, 2, 4 and 64 KiB (groups that are powers of 3, 5 and 7; the last
  groups for sparse_super2), the allocation groups of xfs (4, every even
  number of them about the middle, and those of 1 TiB), the superblocks of
  btrfs and the tree blocks that mkfs.btrfs writes;
- the same structures as they lie on one member of an array of 1 to 8 data
  disks (RAID 0, 5, 6, 10), with chunks of 64 KiB to 1 MiB.

The detection limit.  Of content that touches none of these places only the
samples see anything: one of 64 KiB in each of 1,024 slices of w = size / 1024.

- In one piece of 2 w or more (0.2 % of the volume): seen in every run.
- In one piece of b < w: seen with a probability of b / w - (b / 2 w) ** 2 at
  least; a single 4 KiB block with one of 68 KiB / w.
- Spread at random over a share f of the 4 KiB blocks: missed with a
  probability of (1 - f) ** 16384, whatever the size; f = 0.0281 % is seen in
  99 of 100 runs.

For a volume of 100 GiB (w = 100 MiB) that means 200 MiB in one piece always,
10 MiB in one piece in 1 of 10 runs, a single block in 1 of 1,500, and 28.8
MiB in scattered blocks in 99 of 100.  Every run draws anew, but a volume is
formatted after one.  ``blank_proof: full`` (``whole``) has no such limit.
What is not in the table either: allocation groups of an xfs that was made
when the volume was smaller, or with its own ``agsize`` or ``agcount`` (odd
numbers); ext4 with blocks of 8 to 32 KiB or clusters; arrays of more than 8
data disks, or with other chunks than 64, 256, 512 and 1,024 KiB.

Sources: e2fsprogs lib/ext2fs/initialize.c and closefs.c (sparse_super),
xfsprogs mkfs/xfs_mkfs.c (calc_default_ag_geometry, align_ag_geometry),
btrfs-progs mkfs/main.c (measured with 6.2), mdadm super1.c
(validate_geometry1), md(4), OpenZFS vdev_label.c, cryptsetup's LUKS2 on-disk
format.
"""

from __future__ import annotations

import functools
import random
from typing import Iterable, Iterator, List, Set, Tuple

from cc_kraken.model import Extent

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

BLOCK = 4 * KIB
#: Volumes up to this size are read whole.
WHOLE = 256 * MIB
#: Read at both ends.
EDGE = 16 * MIB
#: Read behind every plausible data offset (LUKS2's second header included).
BEHIND = 5 * MIB
#: Read behind the data offset that mdadm picks for this size.
BEHIND_LIKELY = 32 * MIB
#: Two places closer than this are read as one.
GAP = 64 * KIB

SAMPLES = 1024
SAMPLE = 64 * KIB

#: Data disks of an array whose striping is taken into account.
DATA_DISKS = range(2, 9)
CHUNKS = (512 * KIB, 64 * KIB, 256 * KIB, MIB)

Span = Tuple[int, int]


@functools.lru_cache(maxsize=8)
def places(size: int, whole: bool = False) -> Tuple[Extent, ...]:
    """The fixed places of a device of ``size`` bytes.

    Sorted, disjoint, inside the device, aligned to 4 KiB (but for an odd end
    of the device), the same at every call.
    """
    if size <= 0:
        return ()
    if whole or size <= WHOLE:
        return (Extent(0, size),)
    return _merged(_spans(size), size)


@functools.lru_cache(maxsize=8)
def _slices(size: int) -> Tuple[Tuple[int, int], ...]:
    """Of each slice: the first block in which a sample may begin, and how many
    such blocks there are."""
    found = []
    for index in range(SAMPLES):
        low = -(-size * index // SAMPLES // BLOCK)
        high = (size * (index + 1) // SAMPLES - SAMPLE) // BLOCK
        found.append((low, high - low + 1))
    return tuple(found)


def samples(size: int, rng: random.Random) -> Tuple[Extent, ...]:
    """1,024 places of 64 KiB, one in each of as many equal slices."""
    if size <= WHOLE:
        return ()
    starts = [(low + int(rng.random() * count)) * BLOCK for low, count in _slices(size)]
    return tuple([Extent(start, start + SAMPLE) for start in starts])


def cost(size: int, whole: bool = False) -> Tuple[int, int]:
    """``(reads, bytes)`` of one proof, samples included."""
    fixed = places(size, whole)
    count, volume = len(fixed), sum(place.end - place.start for place in fixed)
    if whole or size <= WHOLE:
        return count, volume
    return count + SAMPLES, volume + SAMPLES * SAMPLE


def data_offset(size: int, chunk: int = 512 * KIB) -> int:
    """Where mdadm 4 lets the data of a 1.1 or 1.2 member begin.

    ``size`` of the member in bytes; ``chunk`` 0 for RAID 1.
    """
    sectors = size // 512
    headroom = 128 * 1024 * 2
    while (headroom << 10) > sectors and (
        chunk == 0 or headroom // 2 >= chunk // KIB * 4
    ):
        headroom >>= 1
    bitmap = 8
    if sectors - 64 * 2 >= 200 * 1024 * 1024 * 2:
        bitmap = 128 * 2
    elif sectors - 4 * 2 > 8 * 1024 * 1024 * 2:
        bitmap = 64 * 2
    offset = (24 + bitmap + headroom) * 512
    return -(-offset // MIB) * MIB


def data_offsets(size: int) -> Tuple[int, ...]:
    """Every plausible beginning of data on a device of ``size`` bytes.

    0; behind 1 MiB (partitions, LVM); mdadm's choice for this size and, since
    volumes are enlarged, for every smaller one, of mdadm 4 (rounded up) and
    of mdadm 3 (rounded down), each also behind a partition at 1 MiB.  Offsets
    below 1 MiB are within the breadth of each place behind 0.
    """
    largest = data_offset(size)
    found = {0, MIB}
    step = MIB
    while step <= largest:
        found.update((step, step + MIB, step + 2 * MIB))
        step *= 2
    return tuple(sorted(offset for offset in found if offset <= largest + MIB))


def likely_offsets(size: int) -> Tuple[int, ...]:
    """mdadm's data offsets for exactly this size: of version 4 and of 3."""
    now = data_offset(size)
    return (now, now - MIB) if now > 2 * MIB else (now,)


# ------------------------------------------------------------- one filesystem


def ext4_places(size: int, block: int = 4 * KIB) -> Iterator[int]:
    """Backup superblocks, journal and a few bitmaps of an ext4 of ``size``
    bytes."""
    group = block * 8 * block
    last = (size // block - 1) * block // group
    # 1 and the last ones: sparse_super2; 16 to 64: bitmaps of flexible groups
    numbers = {1, 16, 32, 48, 64, last, last - 1}
    for base in (3, 5, 7):
        power = base
        while power <= last:
            numbers.add(power)
            power *= base
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


def btrfs_places(size: int) -> Iterator[int]:
    """Superblocks of a btrfs of ``size`` bytes, and mkfs.btrfs's trees."""
    chunk = 256 * MIB
    if size > 50 * GIB:
        chunk = GIB
    elif size // 20 < chunk:
        chunk = size // 20 // (64 * KIB) * (64 * KIB)
    for place in (
        64 * KIB,
        MIB,
        5 * MIB,
        21 * MIB,
        29 * MIB,
        37 * MIB,
        64 * MIB,
        37 * MIB + chunk,
        256 * GIB,
    ):
        if place < size:
            yield place


def xfs_ag_size(size: int, unit: int = 0, width: int = 0) -> int:
    """Bytes of an allocation group of the xfs that mkfs.xfs makes.

    ``unit`` and ``width``: of the stripe, in bytes, 0 for a single device.
    """
    blocks = size // BLOCK
    most = (TIB - 512) // BLOCK
    shift = 2 if not unit else _multidisk_shift(size)
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


def _multidisk_shift(size: int) -> int:
    shift = 5
    for bound in (512 * GIB, 8 * GIB):
        if size <= bound:
            shift -= 1
    return shift


def xfs_places(size: int, unit: int = 0, width: int = 0) -> Iterator[int]:
    """Allocation groups of an xfs of ``size`` bytes, without the first."""
    step = xfs_ag_size(size, unit, width)
    if step <= 0:
        return iter(())
    return iter(range(step, size, step))


# --------------------------------------------------------------- all together


def _spans(size: int) -> Iterator[Span]:
    yield 0, EDGE
    yield size - EDGE, size
    offsets = data_offsets(size)
    for offset in offsets:
        yield offset, offset + BEHIND
        yield from _single(size, offset)
    for offset in likely_offsets(size):
        yield offset, offset + BEHIND_LIKELY
        for chunk in CHUNKS:
            for disks in DATA_DISKS:
                yield from _striped(size, offset, disks, chunk)


def _single(size: int, offset: int) -> Iterator[Span]:
    """A filesystem behind ``offset``, on a disk, a partition, a mirror."""
    inside = size - offset
    # behind 0 also for offsets of 4 KiB to 192 KiB: old mdadm, old LVM,
    # partitions of the days of cylinders
    breadth = BLOCK if offset else 256 * KIB
    for block in (KIB, 2 * KIB, 4 * KIB, 64 * KIB):
        for place in ext4_places(inside, block):
            yield offset + place, offset + place + breadth
    for place in btrfs_places(inside):
        yield offset + place, offset + place + max(breadth, 32 * KIB)
    for place in xfs_places(inside):
        yield offset + place - 64 * KIB, offset + place + breadth
    # mkfs.xfs of today makes an allocation group per processor: of any even
    # number of them one begins in the middle, give or take their rounding
    middle = offset + inside // 2
    yield middle - 512 * KIB, middle + 512 * KIB


def _striped(size: int, offset: int, disks: int, chunk: int) -> Iterator[Span]:
    """One member of an array of ``disks`` data disks: what lies at x of the
    array lies in row x // (disks * chunk) of a member, whichever it is."""
    row = disks * chunk
    array = (size - offset) // chunk * row
    found: Set[int] = set()
    found.update(ext4_places(array))
    found.update(xfs_places(array, chunk, row))
    for place in btrfs_places(array):
        # trees take 192 KiB and may begin at the end of a chunk
        found.update(range(place, place + 192 * KIB, 64 * KIB))
    for place in found:
        start = offset + place // row * chunk + place % chunk
        yield start, start + BLOCK


def _merged(spans: Iterable[Span], size: int) -> Tuple[Extent, ...]:
    merged: List[List[int]] = []
    for start, end in sorted(spans):
        start = max(0, start) // BLOCK * BLOCK
        end = min(size, -(-end // BLOCK) * BLOCK)
        if start >= end:
            continue
        if merged and start <= merged[-1][1] + GAP:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return tuple(Extent(start, end) for start, end in merged)
