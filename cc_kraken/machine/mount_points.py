"""Mount points: directories, what is in them, and whose they are.

No symbolic link is followed on the way to one.  Source: openat(2).
"""

from __future__ import annotations

import errno
import grp
import itertools
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional

from cc_kraken.machine import command
from cc_kraken.machine.files import unusable
from cc_kraken.machine.paths import Paths
from cc_kraken.model import ENTRIES_SHOWN, PathState

#: Names that a new filesystem holds by itself.
OWN_ENTRIES = frozenset({"lost+found"})
#: The largest user or group number; the next one means "no change".
MAX_ID = 2**32 - 2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o755


def path_state(path: str) -> PathState:
    """What is at a mount path now.  Raises :class:`KrakenError` ``cannot-read``."""
    try:
        with _closing(_open(path)) as descriptor:
            status = os.fstat(descriptor)
            return PathState(
                kind="directory",
                entries=entries(descriptor),
                uid=status.st_uid,
                gid=status.st_gid,
                mode=stat.S_IMODE(status.st_mode),
            )
    except FileNotFoundError:
        return PathState(kind="absent")
    except NotADirectoryError:
        return PathState(kind="other")
    except OSError as error:
        if error.errno == errno.ELOOP:
            return PathState(kind="symlink")
        raise unusable("cannot-read", path, error, "a directory") from error


@contextmanager
def opened(path: str, kind: str = "mount-point") -> Iterator[int]:
    """The open directory at ``path``.

    Raises :class:`KrakenError` of this kind, also for what fails inside.
    """
    try:
        with _closing(_open(path)) as descriptor:
            yield descriptor
    except OSError as error:
        raise unusable(kind, path, error, "a directory") from error


def entries(descriptor: int) -> tuple[str, ...]:
    """The first names in an open directory, without those of a new filesystem."""
    with os.scandir(descriptor) as listing:
        names = (entry.name for entry in listing if entry.name not in OWN_ENTRIES)
        return tuple(sorted(itertools.islice(names, ENTRIES_SHOWN)))


def make_directory(path: str) -> None:
    """Make a mount point and its missing parents.

    Raises :class:`KrakenError` ``mount-point`` where a symbolic link or a
    file is in the way.
    """
    try:
        os.close(_open(path, make=True))
    except OSError as error:
        raise unusable("mount-point", path, error, "a directory") from error


def set_owner(
    path: str, uid: Optional[int], gid: Optional[int], mode: Optional[int]
) -> bool:
    """Give a directory its owner, group and mode (None: as it is).

    Returns whether anything was changed.  Raises :class:`KrakenError`
    ``set-owner``.
    """
    with opened(path, "set-owner") as descriptor:
        before = os.fstat(descriptor)
        uid = before.st_uid if uid is None else uid
        gid = before.st_gid if gid is None else gid
        changed = (uid, gid) != (before.st_uid, before.st_gid)
        if changed:
            os.fchown(descriptor, uid, gid)
        # After the owner, since a change of owner can take bits away.
        if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
            changed = True
        if changed:
            os.fsync(descriptor)
    return changed


def user_id(owner: str) -> Optional[int]:
    """The number of a user given by name or number; None: no such user."""
    return _id(owner, lambda: pwd.getpwnam(owner).pw_uid)


def group_id(group: str) -> Optional[int]:
    """The number of a group given by name or number; None: no such group."""
    return _id(group, lambda: grp.getgrnam(group).gr_gid)


def relabel(paths: Paths, path: str) -> bool:
    """Give the root of a new filesystem its SELinux label, where SELinux is.

    The root alone: what people put below has labels of its own.  Returns
    whether it was done.  Raises ``command-failed``.
    """
    if not os.path.exists(os.path.join(paths.sys, "fs", "selinux", "enforce")):
        return False
    if not command.available("restorecon"):
        return False
    command.check(command.run(["restorecon", path]), f"labelling {path!r}")
    return True


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: str, make: bool = False) -> int:
    """The directory, opened step by step; ``make`` makes what is missing."""
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or {".", ".."} & set(parts) or "\0" in path:
        raise OSError(errno.EINVAL, "not an absolute, normal path")
    here = os.open("/", _DIRECTORY)
    for part in parts:
        with _closing(here):
            made = make and _make(part, here)
            here = _step(here, part)
        if made:
            # The caller's umask takes bits away from mkdir's.
            os.fchmod(here, _MODE)
    return here


def _make(part: str, descriptor: int) -> bool:
    try:
        os.mkdir(part, _MODE, dir_fd=descriptor)
    except FileExistsError:
        return False
    os.fsync(descriptor)
    return True


def _step(descriptor: int, part: str) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            status = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                said = f"{part!r} in it is a symbolic link"
                raise OSError(errno.ELOOP, said) from error
        raise


def _id(text: str, look_up: Callable[[], int]) -> Optional[int]:
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= MAX_ID:
        return int(text)
    try:
        return look_up()
    except (KeyError, ValueError):
        return None
