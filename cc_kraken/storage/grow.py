"""Growth: how large a mounted filesystem is, and how it gets larger.

Sizes are in bytes.  The size of a mounted filesystem is what the kernel says:
the superblock on the device can be older (xfs and btrfs write it back some
time after they have grown).  Nothing here shrinks, and nothing here takes
anything offline.  Source: mdadm(8).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Optional

from cc_kraken.decide.grow import LEAST, UNWRITTEN, WORKING
from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import State, opened
from cc_kraken.machine import command, md, mountinfo
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Array, Device, KrakenError, Layer, Mount, failure, gib
from cc_kraken.storage import preconditions


def state(mount: Mount, node: str) -> Optional[State]:
    """What the kernel says of a mounted filesystem; ``node`` is its device.

    None: of another type, over several devices, or it does not say.
    """
    kind = registry.TYPES.get(mount.type)
    try:
        return kind.state(mount.path, node) if kind else None
    except (OSError, struct.error):
        return None


def read_only(mount: Mount) -> bool:
    """Whether nothing can be written there (statvfs(3))."""
    try:
        return bool(os.statvfs(mount.path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def array(paths: Paths, found: Array, members: Sequence[Device], room: int) -> None:
    """Let an array use ``room`` bytes of each of ``members``, all of its own.

    Raises KrakenError ``grow-refused`` or ``grow-failed``.
    """
    _check_members(paths, found, members)
    if found.state == UNWRITTEN:
        # md changes no size before the first write, which may come meanwhile from
        # what is mounted on it.
        try:
            md.read_write(found)
        except KrakenError:
            if _now(paths, found).state == UNWRITTEN:
                raise
        found = _now(paths, found)
    if found.degraded or found.action != "idle" or found.state not in WORKING:
        raise _refused(
            found.path,
            f"is {found.state}, {found.action or 'without redundancy'}, with "
            f"{found.degraded} members lost",
            "It must be whole and in step before it grows.",
        )
    md.grow(found)
    used = _now(paths, found).component
    if room - used >= LEAST:
        raise _failed(found.path, f"still uses {gib(used)} of each member")


def _now(paths: Paths, found: Array) -> Array:
    return preconditions.array_now(paths, found, used=True)


def filesystem(
    paths: Paths, target: Layer, members: Sequence[Device], path: str, kind: str
) -> None:
    """Let the filesystem of type ``kind``, mounted at ``path`` from
    ``target``, fill it.

    ``members``: the volumes that ``target`` consists of.  Raises KrakenError
    ``grow-refused`` or ``grow-failed``.
    """
    _check_members(paths, target, members)
    mount = mountinfo.verify(paths, path, target.devno)
    before = state(mount, target.path)
    if mount.type != kind or before is None or before.errors or read_only(mount):
        sound = f"It must be a sound {kind} that can be written."
        raise _refused(path, "is not as it was seen", sound)
    # Never killed: a half-grown filesystem is sound, but who would know.
    argv = registry.of(kind).grow_argv(path, target.path, before)
    finished = command.run(argv, timeout=None)
    if finished.code != 0:
        said = " ".join((finished.err or finished.out).split())[-400:]
        raise _failed(
            path, f"did not grow, {finished.argv[0]} says: {said.rstrip('.')}"
        )
    after = state(mount, target.path)
    with opened(target.path) as fd:
        size = os.lseek(fd, 0, os.SEEK_END)
    if after is None or size - after.size >= LEAST:
        raise _failed(path, f"still has {gib(after.size if after else before.size)}")


def _check_members(paths: Paths, target: Layer, members: Sequence[Device]) -> None:
    """Every volume is the one that was seen, and what lies on them is on no others."""
    preconditions.check_layer(target, paths, members, used=True)
    for device in members:
        preconditions.check_identity(paths, device)


def _refused(where: str, found: str, expected: str) -> KrakenError:
    remedy = "Nothing was changed. Nothing to do: the next run looks again."
    return failure("grow-refused", f"{where} {found}.", expected, remedy)


def _failed(where: str, found: str) -> KrakenError:
    return failure(
        "grow-failed",
        f"{where} {found}.",
        "It must use all the room of its volumes.",
        "The set stays up as it is. See the kernel's log (dmesg), then: cc-kraken "
        "apply. To grow it no more, set grow: false.",
    )
