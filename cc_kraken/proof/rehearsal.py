"""Where mkfs and mdadm write, learnt by running mkfs on an empty file.

The same mkfs command is run on a sparse file of the same size; where that file
has data afterwards is where the step can have written before it was cut off.
Everything else must still read zero before it may be done again.

The file lies in the state directory, or below /run, in memory, which takes files of
any size: ext4 ends at 16 TiB.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
import threading
import uuid as uuids
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import MIB, Geometry
from cc_kraken.machine import command, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Extent, Layer, Record, failure
from cc_kraken.proof.record import BLOCK, MEMBER_PLACE

#: On a member: md superblock, bitmap and bad-block log (super1.c of mdadm).
MD_EXTENTS: tuple[Extent, ...] = (Extent(BLOCK, MEMBER_PLACE),)

#: Left free on the disk that carries the file.
RESERVE = 256 * MIB

_ONE = threading.Lock()


def extents(
    paths: Paths,
    target: Layer,
    record: Record,
    options: Sequence[str] = (),
) -> tuple[Extent, ...]:
    """Where the step that ``record`` speaks of writes on ``target``.

    On a volume that was to become a member: the places of md.  Otherwise the
    extents of mkfs with these ``options`` (as configured, unchecked), sorted
    and disjoint; () when no filesystem was intended.  Raises KrakenError:
    ``shadow-no-room``, ``mkfs-option-refused``, and those of command.run.
    """
    if target.volume_id and record.array_uuid:
        return MD_EXTENTS
    if not record.fs_type:
        return ()
    shape = geometry(paths, target)
    # After a power cut all sets need theirs, in the room of one.
    with _ONE:
        where = (paths.state, paths.run)
        return _of_mkfs(record.fs_type, target.size, tuple(options), shape, where)


def geometry(paths: Paths, target: Layer) -> Geometry:
    """Sector and stripes of a device, from sysfs (``queue/``)."""
    queue = (target.name, "queue")
    logical = sysfs.count(paths, *queue, "logical_block_size") or 512
    physical = sysfs.count(paths, *queue, "physical_block_size") or logical
    sector = max(logical, min(physical, 4096))
    unit = sysfs.count(paths, *queue, "minimum_io_size")
    width = sysfs.count(paths, *queue, "optimal_io_size")
    if not target.striped or unit < 4096 or unit % 4096 or width < unit or width % unit:
        return Geometry(sector)
    return Geometry(sector, unit, width)


def command_line(
    kind: str,
    path: str,
    shape: Geometry,
    *,
    uuid: str,
    label: str = "",
    options: Sequence[str] = (),
    prezeroed: bool = True,
) -> tuple[str, ...]:
    """The type's command, for the mkfs that is installed here."""
    filesystem = registry.of(kind)
    usage = command.run(filesystem.usage) if filesystem.usage else None
    return filesystem.argv(
        path,
        uuid=uuid,
        label=label,
        options=options,
        geometry=shape,
        usage=usage.out + usage.err if usage else "",
        prezeroed=prezeroed,
    )


@functools.lru_cache(maxsize=64)
def _of_mkfs(
    kind: str,
    size: int,
    options: tuple[str, ...],
    shape: Geometry,
    directories: tuple[str, ...],
) -> tuple[Extent, ...]:
    # Not the UUID of the record: mkfs.btrfs refuses one that it sees elsewhere,
    # on the very volume perhaps, and no place depends on it.
    uuid = str(uuids.uuid4())
    with _file(directories, size, registry.of(kind).written(size, options)) as path:
        argv = command_line(kind, path, shape, uuid=uuid, options=options)
        command.check(
            command.run(argv, timeout=600),
            f"making {kind} on an empty file of {size} bytes, to learn where it writes",
        )
        return _written(path)


def _written(path: str) -> tuple[Extent, ...]:
    """The blocks of a sparse file that are not zero: what mkfs only zeroes
    cannot hold anything of its making."""
    found: list[Extent] = []
    nothing = bytes(BLOCK)
    with open(path, "rb") as file:
        for extent in data_extents(path):
            file.seek(extent.start)
            for start in range(extent.start, extent.end, BLOCK):
                if file.read(BLOCK) == nothing:
                    continue
                if found and found[-1].end == start:
                    found[-1] = Extent(found[-1].start, start + BLOCK)
                else:
                    found.append(Extent(start, start + BLOCK))
    return tuple(found)


def data_extents(path: str) -> tuple[Extent, ...]:
    """The parts of a sparse file that hold data (lseek(2) SEEK_DATA)."""
    found: list[Extent] = []
    end = 0
    with open(path, "rb", buffering=0) as file:
        while True:
            try:
                start = file.seek(end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return tuple(found)
                raise
            end = file.seek(start, os.SEEK_HOLE)
            found.append(Extent(start, end))


@contextmanager
def _file(directories: Sequence[str], size: int, need: int) -> Iterator[str]:
    """A sparse file of ``size`` bytes in the first of these that takes it.  It has no
    name: nothing is left of it after this, or after the run is killed."""
    obstacles = []
    for directory in directories:
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            free = shutil.disk_usage(directory).free
            if free < need + RESERVE:
                obstacles.append(f"{directory} has {free >> 20} MiB free")
                continue
            file = tempfile.TemporaryFile(dir=directory)
            file.truncate(size)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            obstacles.append(f"{directory} takes no file of {size} bytes ({why})")
            continue
        with file:
            yield f"/proc/{os.getpid()}/fd/{file.fileno()}"
        return
    raise failure(
        "shadow-no-room",
        "A filesystem may be half made, and there is no room for the sparse file "
        f"that shows where mkfs writes: {' and '.join(obstacles)}.",
        f"One of them must have {need + RESERVE >> 20} MiB free.",
        "Make room, then: cc-kraken apply. Or give the content up with overwrite.",
    )
