"""Mounts and mount points: mountinfo, swaps, directories, owners.

Device numbers are text, ``major:minor``.  Sources: proc_pid_mountinfo(5),
proc_swaps(5), openat(2).
"""

from __future__ import annotations

import errno
import functools
import glob
import grp
import itertools
import os
import pwd
import re
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple

from cc_kraken.machine import command, files, sysfs
from cc_kraken.machine.files import decode
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Mount, PathState, Trouble

ENTRIES_SHOWN = 10
#: Names that a new filesystem holds by itself.
OWN_ENTRIES = frozenset({"lost+found"})
#: Where systemd has units from (systemd.unit(5), "Unit File Search Path").
UNITS = (
    "/run/systemd/generator.early",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/run/systemd/transient",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/etc/systemd/system.control",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
#: Of a unit's name, without what is behind its dot; file names have 255 bytes.
LONGEST_UNIT = 240
#: Exists where systemd is the init (sd_booted(3)).
SYSTEMD_BOOTED = "/run/systemd/system"
#: The largest user or group number; the next one means "no change".
MAX_ID = 2**32 - 2

#: A leading dot would hide the unit.
_NOT_IN_UNITS = re.compile(rb"^\.|[^0-9A-Za-z:_./]")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Line:
    """A line of mountinfo: a mount, its number and that of the one it is in."""

    id: int
    parent: int
    mount: Mount


# ------------------------------------------------------------- what is mounted


def scan(paths: Paths) -> Tuple[Mount, ...]:
    """Every mount that this process sees, in the kernel's order.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    return parse(_mountinfo(paths))


def parse(data: bytes) -> Tuple[Mount, ...]:
    """The mounts of a mountinfo text; lines that make no sense are left out."""
    return tuple(line.mount for line in _parse(data))


class Tree:
    """The mounts as they were at one moment, and which of them one sees."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = tuple(lines)
        self._inside: Dict[int, List[Line]] = {}
        ids = {line.id for line in lines}
        self._root: Optional[Line] = None
        for line in lines:
            top = line.parent not in ids or line.parent == line.id
            if top and line.mount.path == "/":
                self._root = line
            self._inside.setdefault(line.parent, []).append(line)

    def at(self, path: str) -> Optional[Mount]:
        """The mount that one sees at exactly ``path``, None where there is none.

        Follows the tree as a path lookup does: of several mounts on one path the
        topmost counts, and one that is hidden below another does not.
        """
        line = self._line_at(path)
        return None if line is None else line.mount

    def seen(self, line: Line) -> bool:
        """Whether nothing hides this one."""
        return self._line_at(line.mount.path) is line

    def stack(self, inside: int, path: str) -> List[Line]:
        """What is mounted on the directory ``path`` of the mount with the number
        ``inside``, one upon the other."""
        found: List[Line] = []
        while True:
            upon = [one for one in self._inside.get(inside, ()) if one not in found]
            here = [line for line in upon if line.mount.path == path]
            if not here:
                return found
            found.append(here[-1])
            inside = here[-1].id

    def below(self, inside: int, path: str) -> Tuple[Mount, ...]:
        """What a mount on that directory hides (:meth:`stack`), or would."""
        return tuple(
            line.mount
            for line in self._inside.get(inside, ())
            if is_within(line.mount.path, path) and line.mount.path != path
        )

    def _line_at(self, path: str) -> Optional[Line]:
        if self._root is None:
            # In a chroot that is no mount itself nothing ties the mounts together.
            same = [line for line in self.lines if line.mount.path == path]
            return same[-1] if same else None
        here = self._root
        visited = {here.id}
        while True:
            ways = [
                line
                for line in self._inside.get(here.id, ())
                if line.id not in visited and is_within(path, line.mount.path)
            ]
            if not ways:
                return here if here.mount.path == path else None
            here = min(ways, key=lambda line: len(line.mount.path))
            visited.add(here.id)


def tree(paths: Paths) -> Tree:
    """The mounts as they are now.  Raises :class:`KrakenError` ``cannot-read``."""
    return Tree(_parse(_mountinfo(paths)))


def at(paths: Paths, path: str) -> Optional[Mount]:
    """:meth:`Tree.at`, now."""
    return tree(paths).at(path)


def mount_number(paths: Paths, descriptor: int) -> int:
    """The number of the mount that an open file or directory lies in."""
    data = _read(os.path.join(paths.proc, "self", "fdinfo", str(descriptor)))
    found = re.search(rb"^mnt_id:\s*(\d+)", data, re.MULTILINE)
    return int(found.group(1)) if found else 0


def device_number(paths: Paths, mount: Mount) -> Optional[str]:
    """The device behind a mount; None for a filesystem without one.

    btrfs shows a number of no device, so there the source is asked.
    """
    if not mount.devno.startswith("0:"):
        return mount.devno
    if not mount.source.startswith("/"):
        return None
    return node_number(paths, mount.source)


def node_number(paths: Paths, node: str) -> Optional[str]:
    """The number of the block device that ``node`` (``/dev/…``) names."""
    path = node
    if node.startswith("/dev/"):
        path = os.path.join(paths.dev, node[len("/dev/") :])
    try:
        status = os.stat(path)
        if stat.S_ISBLK(status.st_mode):
            return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    except OSError:
        pass
    except ValueError:
        return None
    # A node that is gone (or not made yet) still has its kernel name.
    name = os.path.relpath(os.path.realpath(path), os.path.realpath(paths.dev))
    return block_number(paths, name.replace("/", "!"))


def block_number(paths: Paths, name: str) -> Optional[str]:
    """The number of the disk or partition with this kernel name (sysfs)."""
    if name in ("", ".", ".."):
        return None
    block = os.path.join(paths.sys, "block")
    candidates = [os.path.join(block, name, "dev")]
    try:
        candidates += [os.path.join(block, disk, name, "dev") for disk in _names(block)]
    except OSError:
        pass
    for candidate in candidates:
        text = sysfs.attribute(candidate)
        if text is not None and re.fullmatch(r"\d+:\d+", text):
            return text
    return None


def mounted(paths: Paths) -> Dict[str, Tuple[str, ...]]:
    """Mount paths by device number; of a mounted filesystem over several devices each
    of them counts."""
    found: Dict[str, List[str]] = {}
    several = False
    for mount in scan(paths):
        number = device_number(paths, mount)
        if number is not None:
            found.setdefault(number, []).append(mount.path)
            several = several or number != mount.devno
    for group in groups(paths) if several else ():
        seen = [path for number in sorted(group) for path in found.get(number, [])]
        for number in group:
            if seen:
                found[number] = seen
    return {number: tuple(dict.fromkeys(seen)) for number, seen in found.items()}


def groups(paths: Paths) -> Tuple[FrozenSet[str], ...]:
    """The device numbers of each mounted filesystem of a type that can lie on several
    devices."""
    from cc_kraken.filesystems import registry  # not at every reboot

    found: List[FrozenSet[str]] = []
    for pattern in registry.SEVERAL.values():
        where = os.path.join(glob.escape(paths.sys), pattern)
        for directory in sorted(glob.glob(where)):
            numbers = (block_number(paths, name) for name in sysfs.names(directory))
            found.append(frozenset(number for number in numbers if number))
    return tuple(found)


def swaps(paths: Paths) -> FrozenSet[str]:
    """The numbers of the devices in use as swap.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    data = _read(os.path.join(paths.proc, "swaps"))
    found = set()
    for line in data.split(b"\n")[1:]:
        fields = line.split()
        if fields:
            number = node_number(paths, unescape(fields[0]))
            if number is not None:
                found.add(number)
    return frozenset(found)


def unescape(field: bytes) -> str:
    """Text of a mountinfo, swaps or fstab field (``\\040`` is a space)."""
    return decode(_OCTAL.sub(lambda m: bytes([int(m.group(1), 8)]), field))


def _mountinfo(paths: Paths) -> bytes:
    return _read(os.path.join(paths.proc, "self", "mountinfo"))


def _read(path: str) -> bytes:
    try:
        return sysfs.read(path)
    except OSError as error:
        raise _path_error("cannot-read", path, error, "a mounted /proc") from error


def _parse(data: bytes) -> List[Line]:
    lines = (_parse_line(line) for line in data.split(b"\n"))
    return [line for line in lines if line is not None]


@functools.lru_cache(maxsize=1024)  # of the lines, most are those of the time before
def _parse_line(line: bytes) -> Optional[Line]:
    fields = line.split(b" ")
    try:
        separator = fields.index(b"-", 6)
    except ValueError:
        return None
    if len(fields) < separator + 3:
        return None
    if not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    if not re.fullmatch(rb"\d+:\d+", fields[2]):
        return None
    mount = Mount(
        path=unescape(fields[4]),
        devno=fields[2].decode("ascii"),
        type=unescape(fields[separator + 1]),
        source=unescape(fields[separator + 2]),
        root=unescape(fields[3]),
    )
    return Line(int(fields[0]), int(fields[1]), mount)


def is_within(path: str, directory: str) -> bool:
    """Whether ``path`` is this directory or lies below it, both normal."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# ---------------------------------------------------------------- mount points


def path_state(path: str) -> PathState:
    """What is at a mount path now; no symbolic link is followed.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    try:
        with _open_directory(path) as descriptor:
            status = os.fstat(descriptor)
            return PathState(
                kind="directory",
                entries=entries(descriptor),
                uid=status.st_uid,
                gid=status.st_gid,
                mode=stat.S_IMODE(status.st_mode),
            )
    except _SymlinkError:
        return PathState(kind="symlink")
    except FileNotFoundError:
        return PathState(kind="absent")
    except NotADirectoryError:
        return PathState(kind="other")
    except (OSError, ValueError) as error:
        raise _path_error("cannot-read", path, error, "a directory") from error


@contextmanager
def opened(path: str) -> Iterator[int]:
    """The open directory at ``path``; no symbolic link is followed.

    Raises :class:`KrakenError` ``mount-point``.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(_open_directory(path))
        except (OSError, ValueError) as error:
            raise _path_error("mount-point", path, error, "a directory") from error
        yield descriptor


def make_directory(path: str, mode: int = 0o755) -> bool:
    """Make a mount point and its missing parents; True when it was missing.

    Raises :class:`KrakenError` ``mount-point`` where a symbolic link or a
    file is in the way.
    """
    try:
        return _make_directory(path, mode)
    except (OSError, ValueError) as error:
        raise _path_error("mount-point", path, error, "a directory") from error


def set_owner(
    path: str, uid: Optional[int], gid: Optional[int], mode: Optional[int]
) -> bool:
    """Give a directory its owner, group and mode (None: as it is).

    Returns whether anything was changed.  Raises :class:`KrakenError`
    ``set-owner``.
    """
    try:
        with _open_directory(path) as descriptor:
            return _set_owner(descriptor, uid, gid, mode)
    except (OSError, ValueError) as error:
        raise _path_error("set-owner", path, error, "a directory") from error


def user_id(owner: str) -> Optional[int]:
    """The number of a user given by name or number; None: no such user."""
    if _is_id(owner):
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except (KeyError, ValueError, UnicodeEncodeError):
        return None


def group_id(group: str) -> Optional[int]:
    """The number of a group given by name or number; None: no such group."""
    if _is_id(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError, UnicodeEncodeError):
        return None


class _SymlinkError(OSError):
    pass


@contextmanager
def _open_directory(path: str) -> Iterator[int]:
    descriptor = os.open("/", _DIRECTORY)
    try:
        for part in _parts(path):
            descriptor = _step(descriptor, part)
        yield descriptor
    finally:
        os.close(descriptor)


def _parts(path: str) -> List[str]:
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or "." in parts or ".." in parts:
        raise ValueError("not an absolute, normal path")
    return parts


def _step(descriptor: int, part: str) -> int:
    """Exchange an open directory for one inside it."""
    try:
        below = os.open(part, _DIRECTORY, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(part, descriptor):
            raise _SymlinkError(
                errno.ELOOP, f"{part!r} in it is a symbolic link"
            ) from error
        raise
    os.close(descriptor)
    return below


def _is_link(part: str, descriptor: int) -> bool:
    status = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
    return stat.S_ISLNK(status.st_mode)


def entries(descriptor: int) -> Tuple[str, ...]:
    """The first names in an open directory, without those of a new filesystem."""
    with os.scandir(descriptor) as listing:
        names = (entry.name for entry in listing if entry.name not in OWN_ENTRIES)
        return tuple(sorted(itertools.islice(names, ENTRIES_SHOWN)))


def _make_directory(path: str, mode: int) -> bool:
    made = False
    descriptor = os.open("/", _DIRECTORY)
    try:
        for part in _parts(path):
            try:
                os.mkdir(part, mode, dir_fd=descriptor)
            except FileExistsError:
                made = False
            else:
                made = True
                os.fsync(descriptor)
            descriptor = _step(descriptor, part)
            if made:
                # The caller's umask takes bits away from mkdir's.
                os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return made


def _set_owner(
    descriptor: int, uid: Optional[int], gid: Optional[int], mode: Optional[int]
) -> bool:
    status = os.fstat(descriptor)
    changed = False
    if uid not in (None, status.st_uid) or gid not in (None, status.st_gid):
        os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
        changed = True
    # After the owner, since a change of owner can take bits away.
    if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)
        changed = True
    if changed:
        os.fsync(descriptor)
    return changed


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:12]) <= MAX_ID


# ------------------------------------------------------------------- mounting


def reload(booted: str = SYSTEMD_BOOTED) -> bool:
    """Make systemd read a changed fstab; False where it is not the init.

    Without it systemd still holds the units of the old fstab, and can
    unmount at once what contradicts them.  Raises ``command-failed``.
    """
    if not os.path.isdir(booted):
        return False
    command.check(
        command.run(["systemctl", "daemon-reload"]), "making systemd read fstab"
    )
    return True


def read_fstab(paths: Paths) -> None:
    """Make systemd read fstab if we have changed it since it did.

    Raises as :func:`reload` does; then, after a fault of ours, and where fstab is
    changed meanwhile, the next call does it.
    """
    if not os.path.exists(paths.unread):
        return
    files.remove(paths.unread)
    try:
        reload()
    except BaseException:
        files.write_atomic(paths.unread, b"", 0o644)
        raise


def has_unit(path: str, directories: Sequence[str] = UNITS) -> bool:
    """Whether systemd may hold a unit for ``path``, of fstab or another file:
    one that could contradict what is mounted there."""
    name = unit_name(path)
    if len(name) > LONGEST_UNIT:
        return True  # systemd has another name for it
    return any(
        os.path.lexists(os.path.join(directory, name + kind))
        for directory in directories
        for kind in (".mount", ".automount")
    )


def unit_name(path: str) -> str:
    """The name of the units of a normal path, without what is behind its dot:
    ``/srv/my-data`` is ``srv-my\\x2ddata`` (systemd.unit(5), "String Escaping")."""
    data = files.encode(path.strip("/"))
    escaped = _NOT_IN_UNITS.sub(lambda match: b"\\x%02x" % match.group()[0], data)
    return escaped.decode("ascii").replace("/", "-") or "-"


def verify(paths: Paths, path: str, devno: str) -> Mount:
    """The mount at ``path``, if the device ``devno`` is what is mounted there.

    Raises :class:`KrakenError` ``mount-differs``.
    """
    found = at(paths, path)
    if found is not None and device_number(paths, found) == devno:
        return found
    what = "nothing" if found is None else f"{found.source!r} ({found.devno})"
    raise KrakenError(
        Trouble(
            kind="mount-differs",
            found=f"after mounting, {what} is mounted at {path!r}",
            expected=f"the device {devno}",
            remedy="Look for a second fstab line or systemd unit for this path.",
        )
    )


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


def _names(directory: str) -> List[str]:
    return sorted(os.listdir(directory))


def _path_error(kind: str, path: str, error: Exception, expected: str) -> KrakenError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return KrakenError(
        Trouble(
            kind=kind,
            found=f"cannot use {path!r}: {reason}",
            expected=expected,
            remedy="Correct this or choose another path, and run again.",
        )
    )
