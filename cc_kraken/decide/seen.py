"""Is a set up?  One question, asked by everything that says that one is.

A set is up at its mount path when its own devices are what one sees there now.
A mount that is covered by another one, or lies below one, serves nobody: what a
service writes lands on the mount that hides it.  Pure; :func:`devices.mounts_now`
says what is mounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from cc_kraken.machine.mountinfo import is_within
from cc_kraken.model import Mount, Mounted, Trouble


def up_at(
    mounts: Iterable[Mounted], path: str, volumes: frozenset[str]
) -> Optional[Mounted]:
    """The one question: the mount of these volumes (or of some, as a degraded
    array has them), if it is what one sees at ``path``."""
    found = at(mounts, path)
    if found is None or not found.volumes or not found.volumes <= volumes:
        return None
    return found


def at(mounts: Iterable[Mounted], path: str) -> Optional[Mounted]:
    """The mount that one sees at exactly ``path``."""
    here = [one for one in mounts if one.seen and one.mount.path == path]
    return here[0] if here else None


def below(mounts: Iterable[Mounted], path: str) -> tuple[Mounted, ...]:
    """The mounts that a mount at ``path`` would hide."""
    return tuple(
        one
        for one in mounts
        if one.seen and one.mount.path != path and is_within(one.mount.path, path)
    )


def cover(mounts: Iterable[Mounted], hidden: Mounted) -> Mounted:
    """The mount that hides this one."""
    over = [
        one
        for one in mounts
        if one.seen and is_within(hidden.mount.path, one.mount.path)
    ]
    return max(over, key=lambda one: len(one.mount.path), default=hidden)


def hides(path: str, name: str, mounts: Sequence[Mount]) -> Trouble:
    """Why the set ``name`` is not mounted at ``path``, where it would hide these."""
    there = " and ".join(
        f"{brief(mount)} is mounted at {mount.path}" for mount in mounts
    )
    paths = " ".join(mount.path for mount in mounts)
    return Trouble(
        "mounts-below",
        f"{there}, below {path}: the set {name} would hide it.",
        f"Nothing may be mounted below {path}.",
        f"Stop what uses it, then: umount {paths} && cc-kraken apply. A set that "
        f"belongs there is mounted again, inside {name}. Or choose another MountPath.",
    )


def busy(path: str, name: str, mount: Mount) -> Trouble:
    """Why the set ``name`` is not mounted at ``path``: something else is."""
    return Trouble(
        "mount-path-busy",
        f"{brief(mount)} is mounted at {path}.",
        f"{path} must be free for the set {name}.",
        "Unmount it, or choose another MountPath.",
    )


def hidden(name: str, mounts: Sequence[Mounted], own: Mounted) -> Trouble:
    """Why the set ``name`` is not up although it is mounted: what one sees there
    is something else."""
    over, path = cover(mounts, own).mount, own.mount.path
    # A set that belongs above this one is mounted first, then.
    paths = path if over.path == path else f"{over.path} {path}"
    return Trouble(
        "mount-hidden",
        f"The set {name} is mounted at {path}, but {brief(over)}, mounted at "
        f"{over.path}, hides it.",
        f"One must see the set's own volumes at {path}.",
        f"What was written to {path} since then is on {over.source}: copy it first. "
        f"Stop what uses both, then: umount {paths} && cc-kraken apply.",
    )


def brief(mount: Mount) -> str:
    return f"{mount.source} ({mount.type})"
