"""Places of a device that the proof of blankness reads, as pure arithmetic.

A volume counts as blank only when every byte at these places is zero, and so
is every one of the samples that are drawn anew at each run (:func:`samples`).

What is read (:func:`places`), for a volume of more than 256 MiB:

- the first and the last 16 MiB: partition tables (GPT at both ends), LVM
  labels and metadata, LUKS headers (the second one of LUKS2 at 16 KiB to
  4 MiB), swap, bcache, the four labels of ZFS, md superblocks 0.90 to 1.2;
- 5 MiB behind every offset at which md, LVM or a partition lets its data
  begin, and 32 MiB behind the one that mdadm picks for this very size;
- behind each of these offsets again: what each filesystem type leaves there
  (its ``places``): backup superblocks, allocation groups, trees;
- the same structures as they lie on one member of an array of 1 to 8 data
  disks (RAID 0, 5, 6, 10), with chunks of 64 KiB to 1 MiB.

The detection limit (its numbers: docs/reference/decisions.md).  Of content that
touches none of these places only the samples see anything: one of 64 KiB in each of
1,024 slices of w = size / 1024.

- In one piece of 2 w or more (0.2 % of the volume): seen in every run.
- In one piece of b < w: seen with a probability of b / w - (b / 2 w) ** 2 at
  least; a single 4 KiB block with one of 68 KiB / w.
- Spread at random over a share f of the 4 KiB blocks: missed with a
  probability of (1 - f) ** 16384, whatever the size.

``blank_proof: full`` (``whole``) has no such limit.  Not in the table either:
allocation groups of an xfs that was made when the volume was smaller, or with its
own ``agsize`` or ``agcount`` (odd numbers); ext4 with blocks of 8 to 32 KiB or
clusters; arrays of more than 8 data disks, or with chunks of another size.

Sources: the modules of the types; mdadm super1.c (validate_geometry1), md(4),
OpenZFS vdev_label.c, cryptsetup's LUKS2 on-disk format.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import BLOCK, KIB, MIB
from cc_kraken.model import Extent

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

Span = tuple[int, int]


def places(size: int, whole: bool = False) -> tuple[Extent, ...]:
    """The fixed places of a device of ``size`` bytes.

    Sorted, disjoint, inside the device, aligned to 4 KiB (but for an odd end
    of the device), the same at every call.
    """
    if size <= 0:
        return ()
    if whole or size <= WHOLE:
        return (Extent(0, size),)
    return _merged(_spans(size), size)


def samples(size: int, rng: random.Random) -> tuple[Extent, ...]:
    """1,024 places of 64 KiB, one in each of as many equal slices."""
    found = []
    for index in range(SAMPLES if size > WHOLE else 0):
        low = -(-size * index // SAMPLES // BLOCK)
        high = (size * (index + 1) // SAMPLES - SAMPLE) // BLOCK
        start = (low + int(rng.random() * (high - low + 1))) * BLOCK
        found.append(Extent(start, start + SAMPLE))
    return tuple(found)


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


def data_offsets(size: int) -> tuple[int, ...]:
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


def likely_offsets(size: int) -> tuple[int, ...]:
    """mdadm's data offsets for exactly this size: of version 4 and of 3."""
    now = data_offset(size)
    return (now, now - MIB) if now > 2 * MIB else (now,)


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
    # behind 0 also for offsets of 4 KiB to 192 KiB: old mdadm, old LVM,
    # partitions of the days of cylinders
    breadth = BLOCK if offset else 256 * KIB
    for kind in registry.TYPES.values():
        for place, before, behind in kind.places(size - offset):
            yield offset + place - before, offset + place + max(breadth, behind)


def _striped(size: int, offset: int, disks: int, chunk: int) -> Iterator[Span]:
    """One member of an array of ``disks`` data disks: what lies at x of the
    array lies in row x // (disks * chunk) of a member, whichever it is."""
    row = disks * chunk
    array = (size - offset) // chunk * row
    for kind in registry.TYPES.values():
        for place in kind.striped_places(array, chunk, row):
            start = offset + place // row * chunk + place % chunk
            yield start, start + BLOCK


def _merged(spans: Iterable[Span], size: int) -> tuple[Extent, ...]:
    merged: list[list[int]] = []
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
