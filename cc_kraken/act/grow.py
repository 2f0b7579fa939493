"""Growth: how large a mounted filesystem is, and how it gets larger.

Sizes are in bytes.  The size of a mounted filesystem is what the kernel says:
the superblock on the device can be older (xfs and btrfs write it back some
time after they have grown), and statvfs(2) leaves out what the filesystem
keeps for itself.  Nothing here shrinks, and nothing here takes anything
offline.  Sources: ioctl_xfs_fsgeometry(2); linux/btrfs.h; resize2fs(8);
xfs_growfs(8); btrfs-filesystem(8); mdadm(8).
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Mapping, Optional, Sequence, Tuple, Union

from cc_kraken.act import preconditions
from cc_kraken.decide.growth import LEAST, UNWRITTEN, WORKING
from cc_kraken.machine import command, md, mounts
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Array, Device, KrakenError, Mount, Trouble, gib
from cc_kraken.proof import superblock

PROGRAMS: Mapping[str, str] = {
    "ext4": "resize2fs",
    "xfs": "xfs_growfs",
    "btrfs": "btrfs",
}
_XFS_GEOMETRY = 0x80705864
"""XFS_IOC_FSGEOMETRY_V1, known to every kernel."""
_BTRFS_FS_INFO = 0x8400941F
_BTRFS_DEV_INFO = 0xD000941E
_BTRFS_MOST_DEVICES = 4096


@dataclass(frozen=True)
class State:
    """A mounted filesystem: its size on its device (0: not known), whether
    the kernel has found it damaged (ext4), and its number of that device
    (btrfs)."""

    size: int
    errors: bool = False
    device: int = 1


def state(paths: Paths, mount: Mount, node: str) -> Optional[State]:
    """What the kernel says of a mounted filesystem; ``node`` is its device.

    None: of another type, over several devices, or it does not say.
    """
    try:
        if mount.type == "ext4":
            return _ext4(node)
        if mount.type == "xfs":
            return _xfs(mount.path)
        if mount.type == "btrfs":
            return _btrfs(mount.path)
    except (OSError, struct.error):
        pass
    return None


def read_only(mount: Mount) -> bool:
    """Whether nothing can be written there (statvfs(3))."""
    try:
        return bool(os.statvfs(mount.path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _ext4(node: str) -> Optional[State]:
    """Through the page cache, where the kernel keeps its superblock; its
    checksum is brought up to date only when it is written."""
    with _opened(node) as fd:
        data = os.pread(fd, 1024, superblock.EXT_OFFSET)
    found = superblock.ext(data, 1 << 63)
    return None if found is None else State(found.size, found.errors)


def _xfs(path: str) -> State:
    with _opened(path) as fd:
        geometry = fcntl.ioctl(fd, _XFS_GEOMETRY, bytes(112))
    (block,) = struct.unpack_from("I", geometry)
    (blocks,) = struct.unpack_from("Q", geometry, 32)
    return State(block * blocks)


def _btrfs(path: str) -> Optional[State]:
    with _opened(path) as fd:
        info = bytearray(1024)
        fcntl.ioctl(fd, _BTRFS_FS_INFO, info)
        last, count = struct.unpack_from("QQ", info)
        if count != 1:
            return None
        for number in range(1, min(last, _BTRFS_MOST_DEVICES) + 1):
            device = bytearray(4096)
            struct.pack_into("Q", device, 0, number)
            try:
                fcntl.ioctl(fd, _BTRFS_DEV_INFO, device)
            except OSError:
                continue  # a number that was given back
            return State(struct.unpack_from("Q", device, 32)[0], device=number)
    return None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


# ----------------------------------------------------------------- enlarging


def array(paths: Paths, found: Array, members: Sequence[Device], room: int) -> None:
    """Let an array use ``room`` bytes of each of ``members``, all of its own.

    Raises KrakenError ``grow-refused`` or ``grow-failed``.
    """
    _check_members(paths, found, members)
    if found.state == UNWRITTEN:
        # md changes no size before the first write; what is mounted on it is
        # about to do one.
        found = _written(paths, found)
    if found.degraded or found.action != "idle" or found.state not in WORKING:
        raise _refused(
            found.path,
            f"is {found.state}, {found.action or 'without redundancy'}, with "
            f"{found.degraded} members lost",
            "an array that is whole and in step",
        )
    md.grow(found)
    now = _again(paths, found)
    if room - now.component >= LEAST:
        raise _failed(found.path, f"still uses {gib(now.component)} of each member")


def _written(paths: Paths, found: Array) -> Array:
    """The array, once it may be written to; the first write may come first."""
    try:
        md.read_write(found)
    except KrakenError:
        now = _again(paths, found)
        if now.state == UNWRITTEN:
            raise
        return now
    return _again(paths, found)


def _again(paths: Paths, found: Array) -> Array:
    """The array as it is now."""
    for one in md.scan(paths):
        if one.name == found.name:
            return one
    return found


def filesystem(
    paths: Paths,
    target: Union[Device, Array],
    members: Sequence[Device],
    path: str,
    kind: str,
) -> None:
    """Let the filesystem of type ``kind``, mounted at ``path`` from
    ``target``, fill it.

    ``members``: the volumes that ``target`` consists of.  Raises KrakenError
    ``grow-refused`` or ``grow-failed``.
    """
    _check_members(paths, target, members)
    mount = mounts.verify(paths, path, target.devno)
    before = state(paths, mount, target.path)
    if mount.type != kind or before is None or before.errors or read_only(mount):
        raise _refused(
            path, "is not as it was seen", f"a sound {kind} that can be written"
        )
    # Never killed: a half-grown filesystem is sound, but who would know.
    finished = command.run(_words(kind, target.path, path, before), timeout=None)
    if finished.code != 0:
        said = " ".join((finished.err or finished.out).split())[-400:]
        raise _failed(path, f"{finished.argv[0]}: {said}")
    after = state(paths, mount, target.path)
    if after is None or _size(target.path) - after.size >= LEAST:
        raise _failed(path, f"still has {gib(after.size if after else before.size)}")


def _words(kind: str, node: str, path: str, found: State) -> Tuple[str, ...]:
    if kind == "ext4":
        return ("resize2fs", node)
    if kind == "xfs":
        return ("xfs_growfs", "-d", path)
    return ("btrfs", "filesystem", "resize", f"{found.device}:max", path)


def _size(node: str) -> int:
    with _opened(node) as fd:
        return os.lseek(fd, 0, os.SEEK_END)


def _check_members(
    paths: Paths, target: Union[Device, Array], members: Sequence[Device]
) -> None:
    """Every volume is the one that was seen, and an array consists of these and no
    others."""
    if isinstance(target, Array):
        preconditions.check_array(paths, target, members, used=True)
    for device in members:
        preconditions.check_serial(paths, device)


def _refused(where: str, found: str, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "grow-refused",
            f"{where} {found}",
            expected,
            "Nothing was changed; the next run looks again.",
        )
    )


def _failed(where: str, found: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "grow-failed",
            f"{where} {found}",
            "all the room of its volumes in use",
            "What is mounted stays in use as it is. See the kernel's log (dmesg), "
            "then run again, or switch it off with grow: false.",
        )
    )
