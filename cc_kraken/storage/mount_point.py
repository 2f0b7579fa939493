"""Mount a device on a directory that is held open, and nowhere else.

Between a check and mount(2) a path can come to lead elsewhere, and a device's name
to another disk.  So the directory is opened once, checked, and mounted on by its
descriptor, and what one sees afterwards is compared with what was meant.  What turns
out wrong is unmounted again: the one case in which anything is.

mount(8) and umount(8) must not resolve these paths themselves.  The ``/.`` makes
move_mount(2) follow the descriptor's link as mount(2) does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cc_kraken.decide import seen
from cc_kraken.decide.steps import MountFilesystem
from cc_kraken.filesystems import registry
from cc_kraken.machine import command, devices, mount_points, mountinfo
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Layer, Mount, failure


def mount(
    paths: Paths, target: Layer, volumes: frozenset[str], step: MountFilesystem
) -> None:
    """Mount ``target``, which consists of these volumes, and verify it.

    Raises KrakenError ``mount-point``, ``mount-path-files``, ``mount-path-busy``,
    ``mounts-below``, ``mount-failed``, ``mount-differs`` or ``device-changed``.  It
    is not mounted then, unless the text says so.
    """
    with mount_points.opened(step.path) as descriptor:
        _check_files(mount_points.entries(descriptor), step)
        _check_place(_look(paths, descriptor), step)
        _mount(target.path, descriptor, step)
        try:
            _check_place(_look(paths, descriptor), step, target.path)
            verify(paths, target, volumes, step.path)
        except KrakenError as error:
            left = _take_back(paths, target.path, descriptor, step)
            found = f"{error.trouble.found}{left}"
            raise KrakenError(replace(error.trouble, found=found)) from error


def verify(paths: Paths, target: Layer, volumes: frozenset[str], path: str) -> None:
    """Right after a mount: is it what one sees at ``path``, and still these volumes?

    Raises KrakenError ``mount-differs`` or ``device-changed``.
    """
    mountinfo.verify(paths, path, target.devno)
    now = devices.mounts_now(paths, {path})
    if seen.up_at(now, path, volumes) is None:
        found = seen.at(now, path)
        behind = ", ".join(sorted(found.volumes or ())) if found else ""
        raise failure(
            "device-changed",
            f"{target.path}, mounted at {path}, is {behind or 'no EBS volume'} now.",
            f"It must be {', '.join(sorted(volumes))}.",
            "Run cc-kraken apply, which looks disks up afresh.",
        )


@dataclass(frozen=True)
class _Look:
    """Where a directory is now, what is mounted on it, one upon the other, and what
    is mounted below it."""

    place: str
    upon: tuple[Mount, ...]
    below: tuple[Mount, ...]


def _look(paths: Paths, descriptor: int) -> _Look:
    place = os.readlink(os.path.join(paths.proc, "self/fd", str(descriptor)))
    inside = mountinfo.mount_number(paths, descriptor)
    tree = mountinfo.tree(paths)
    # Its own root, where something was mounted before it was opened.
    own = [one for one in tree.mounts if one.id == inside and one.path == place]
    upon = (*own, *tree.stack(inside, place))
    return _Look(place, upon, tree.below(inside, place))


def _check_files(names: Sequence[str], step: MountFilesystem) -> None:
    if names and not step.covers:
        raise failure(
            "mount-path-files",
            f"{step.path} has files in it ({', '.join(names)}), which the new "
            "filesystem would hide.",
            "It must be empty.",
            "Move the files away, or set mount_over: true.",
        )


def _check_place(here: _Look, step: MountFilesystem, source: str = "") -> None:
    """Nobody else's mount is on or below the directory, which is where it was.

    ``source``: what was mounted there, by now.
    """
    if here.place != step.path:
        raise failure(
            "mount-differs",
            f"{step.path} leads elsewhere: the directory that was there is now "
            f"{here.place}.",
            "Nobody may change the path during the mount.",
            "See what changes it, then: cc-kraken apply.",
        )
    others = [one for one in here.upon[:1] if one.source != source]
    if others and len(here.upon) > bool(source):
        raise KrakenError(seen.busy(step.path, step.set, others[0]))
    if here.below:
        raise KrakenError(seen.hides(step.path, step.set, here.below))


def _mount(source: str, descriptor: int, step: MountFilesystem) -> None:
    chosen = ["-o", ",".join(step.options)] if step.options else []
    there = f"/proc/self/fd/{descriptor}/."
    argv = ["mount", "--no-canonicalize", "-t", step.type, *chosen, source, there]
    # No timeout: a mount can replay a long journal.
    finished = command.run(argv, timeout=None, pass_fds=(descriptor,))
    if finished.code == 0:
        return
    repair = registry.of(step.type).repair
    said = finished.said.replace(there, step.path)
    raise failure(
        kind="mount-failed",
        found=f"{source} of the set {step.set} cannot be mounted at {step.path}: "
        f"{said.rstrip('.')}.",
        expected=f"This kernel must be able to mount its {step.type}.",
        remedy="See the kernel's log for the reason (dmesg). A filesystem that a newer "
        f"release made may need a newer kernel. If {source} is damaged, take a "
        f"snapshot of the volume, then: {repair}.",
    )


def _take_back(
    paths: Paths, source: str, descriptor: int, step: MountFilesystem
) -> str:
    """Unmount what was mounted a moment ago, and nothing else; what is to be said
    where it stays."""
    here = _look(paths, descriptor)
    if not here.upon:
        return ""
    top = here.upon[-1]
    # btrfs shows whichever of its devices it likes.
    any_of_them = top.type == step.type and step.type in registry.SEVERAL
    if top.source != source and not any_of_them:
        return f" {source} stays mounted at {here.place}, below {seen.brief(top)}."
    # By its parent, which no umount(8) can mistake: a mount point is not renamed.
    name = os.path.basename(here.place)
    there = f"/proc/self/fd/{descriptor}/../{name}"
    argv = ["umount", "--no-canonicalize", there]
    finished = command.run(argv, pass_fds=(descriptor,))
    if finished.code == 0:
        return ""
    said = finished.said.replace(there, here.place)
    return f" {source} stays mounted at {here.place}: {said.rstrip('.')}."
