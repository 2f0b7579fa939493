"""Which UUIDs the disks show that belong to no set of this node.

A copy of a volume shows the UUIDs of the original (see :mod:`cc_kraken.decide.copies`).
So every EBS disk is asked for them, its partitions too, and the arrays on them.
"""

from __future__ import annotations

from collections.abc import Iterable

from cc_kraken.machine import devices
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Array, Device, Known, Look, Unknown
from cc_kraken.proof import superblock
from cc_kraken.proof.directio import Reader, ReadError, reading


def ask(path: str) -> Look:
    """The type and UUID that a device shows: a few direct reads, no lock.

    Good for nothing else: nothing is proved by it.  Never raises.
    """
    try:
        with reading(path):
            with Reader(path) as reader:
                scanned = superblock.scan(reader.read, reader.size)
    except OSError as error:
        return Look(Unknown(f"{path} cannot be read ({error.strerror})"))
    except ReadError as error:
        return Look(Unknown(str(error)))
    found = [one for one in scanned if one.uuid]
    if not found:
        return Look(Unknown(f"{path} shows no superblock"))
    # A whole one counts for more than what is left of an older one.
    best = min(found, key=lambda one: bool(one.flaw))
    return Look(Known(best.type, best.uuid))


def places(
    paths: Paths, disks: Iterable[Device], arrays: Iterable[Array]
) -> dict[str, tuple[str, ...]]:
    """The paths to ask, with the ids of the volumes below each: the disks, their
    partitions, and the arrays (those that run) that lie on any of them."""
    found: dict[str, tuple[str, ...]] = {}
    volumes = {disk.name: disk.volume_id for disk in disks}
    for disk in disks:
        for name in (disk.name, *disk.partitions):
            found[devices.node_of(paths, name)] = (disk.volume_id,)
    for array in arrays:
        below = sorted({volumes[one] for one in array.members if one in volumes})
        if array.running and below:
            found[array.path] = tuple(below)
    return found
