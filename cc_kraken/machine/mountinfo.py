"""What is mounted, where one sees it, and on which devices.

Device numbers are text, ``major:minor``.  Sources: proc_pid_mountinfo(5),
proc_swaps(5).
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Optional

from cc_kraken.machine import sysfs
from cc_kraken.machine.files import decode, unusable
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Mount, failure

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


class Tree:
    """The mounts as they were at one moment, and which of them one sees."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self.mounts = tuple(mounts)
        self._inside: defaultdict[int, list[Mount]] = defaultdict(list)
        self._root: Optional[Mount] = None
        numbers = {mount.id for mount in mounts}
        for mount in mounts:
            top = mount.parent not in numbers or mount.parent == mount.id
            if top and mount.path == "/":
                self._root = mount
            self._inside[mount.parent].append(mount)

    def at(self, path: str) -> Optional[Mount]:
        """The mount that one sees at exactly ``path``, None where there is none.

        Follows the tree as a path lookup does: of several mounts on one path the
        topmost counts, and one that is hidden below another does not.
        """
        if self._root is None:
            # In a chroot that is no mount itself nothing ties the mounts together.
            same = [mount for mount in self.mounts if mount.path == path]
            return same[-1] if same else None
        here = self._root
        visited = {here.id}
        while True:
            ways = [
                mount
                for mount in self._inside[here.id]
                if mount.id not in visited and is_within(path, mount.path)
            ]
            if not ways:
                return here if here.path == path else None
            here = min(ways, key=lambda mount: len(mount.path))
            visited.add(here.id)

    def seen(self, mount: Mount) -> bool:
        """Whether nothing hides this one."""
        return self.at(mount.path) == mount

    def stack(self, inside: int, path: str) -> list[Mount]:
        """What is mounted on the directory ``path`` of the mount with the number
        ``inside``, one upon the other."""
        found: list[Mount] = []
        while True:
            upon = [one for one in self._inside[inside] if one not in found]
            here = [one for one in upon if one.path == path]
            if not here:
                return found
            found.append(here[-1])
            inside = here[-1].id

    def below(self, inside: int, path: str) -> tuple[Mount, ...]:
        """What a mount on that directory hides (:meth:`stack`), or would."""
        return tuple(
            one
            for one in self._inside[inside]
            if is_within(one.path, path) and one.path != path
        )


def tree(paths: Paths) -> Tree:
    """The mounts as they are now.  Raises :class:`KrakenError` ``cannot-read``."""
    return Tree(parse(_read(paths, "self/mountinfo")))


def at(paths: Paths, path: str) -> Optional[Mount]:
    """:meth:`Tree.at`, now."""
    return tree(paths).at(path)


def parse(data: bytes) -> list[Mount]:
    """The lines of a mountinfo text; those that make no sense are left out."""
    lines = (_parse_line(line) for line in data.split(b"\n"))
    return [line for line in lines if line is not None]


def mount_number(paths: Paths, descriptor: int) -> int:
    """The number of the mount that an open file or directory lies in."""
    data = _read(paths, f"self/fdinfo/{descriptor}")
    found = re.search(rb"^mnt_id:\s*(\d+)", data, re.MULTILINE)
    return int(found.group(1)) if found else 0


def verify(paths: Paths, path: str, devno: str) -> Mount:
    """The mount at ``path``, if the device ``devno`` is what is mounted there.

    Raises :class:`KrakenError` ``mount-differs``.
    """
    found = at(paths, path)
    if found is not None and device_number(paths, found) == devno:
        return found
    what = "nothing" if found is None else f"{found.source!r} ({found.devno})"
    raise failure(
        kind="mount-differs",
        found=f"After mounting, {what} is mounted at {path!r}.",
        expected=f"It must be the device {devno}.",
        remedy="Look for another fstab line or systemd unit with this path, "
        "then: cc-kraken apply.",
    )


def device_number(paths: Paths, mount: Mount) -> Optional[str]:
    """The device behind a mount; None for a filesystem without one.

    btrfs shows a number of no device, so there the source is asked.
    """
    if not mount.devno.startswith("0:"):
        return mount.devno
    return node_number(paths, mount.source) if mount.source.startswith("/") else None


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
    return sysfs.number(paths, name.replace("/", "!"))


def mounted(paths: Paths) -> dict[str, tuple[str, ...]]:
    """Mount paths by device number; of a mounted filesystem over several devices each
    of them counts."""
    found: dict[str, list[str]] = {}
    several = False
    for mount in tree(paths).mounts:
        number = device_number(paths, mount)
        if number is not None:
            found.setdefault(number, []).append(mount.path)
            several = several or number != mount.devno
    for group in groups(paths) if several else ():
        seen = [path for number in sorted(group) for path in found.get(number, [])]
        if seen:
            found.update(dict.fromkeys(group, seen))
    return {number: tuple(dict.fromkeys(seen)) for number, seen in found.items()}


def groups(paths: Paths) -> tuple[frozenset[str], ...]:
    """The device numbers of each mounted filesystem of a type that can lie on several
    devices."""
    from cc_kraken.filesystems import registry  # not at every reboot

    found: list[frozenset[str]] = []
    for pattern in registry.SEVERAL.values():
        where = os.path.join(glob.escape(paths.sys), pattern)
        for directory in sorted(glob.glob(where)):
            numbers = (sysfs.number(paths, name) for name in sysfs.names(directory))
            found.append(frozenset(number for number in numbers if number))
    return tuple(found)


def swaps(paths: Paths) -> frozenset[str]:
    """The numbers of the devices in use as swap.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    lines = [line.split() for line in _read(paths, "swaps").split(b"\n")[1:]]
    nodes = (node_number(paths, unescape(words[0])) for words in lines if words)
    return frozenset(number for number in nodes if number is not None)


def is_within(path: str, directory: str) -> bool:
    """Whether ``path`` is this directory or lies below it, both normal."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def names_inside(path: str, places: Iterable[Optional[str]]) -> frozenset[str]:
    """The names in the directory ``path`` that lead to these mount points."""
    start = path.rstrip("/") + "/"
    inside = (one[len(start) :] for one in places if one and one.startswith(start))
    return frozenset(one.split("/")[0] for one in inside)


def unescape(field: bytes) -> str:
    """Text of a mountinfo, swaps or fstab field (``\\040`` is a space)."""
    return decode(_OCTAL.sub(lambda m: bytes([int(m.group(1), 8)]), field))


def _read(paths: Paths, name: str) -> bytes:
    path = os.path.join(paths.proc, name)
    try:
        return sysfs.read(path)
    except OSError as error:
        raise unusable("cannot-read", path, error, "a mounted /proc") from error


def _parse_line(line: bytes) -> Optional[Mount]:
    fields = line.split(b" ")
    try:
        separator = fields.index(b"-", 6)
        kind, source = fields[separator + 1 : separator + 3]
        number, parent = int(fields[0]), int(fields[1])
    except ValueError:
        return None
    if not re.fullmatch(rb"\d+:\d+", fields[2]):
        return None
    return Mount(
        path=unescape(fields[4]),
        devno=fields[2].decode("ascii"),
        type=unescape(kind),
        source=unescape(source),
        root=unescape(fields[3]),
        id=number,
        parent=parent,
    )
