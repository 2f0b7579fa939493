"""Filesystem checkers: whether one is whole, and what may be repaired unasked.

:func:`sound` reads only, and is asked only where our intent record still lies
beside a filesystem that looks complete and was never mounted: a power cut keeps no
order of writes, so its superblock can be there without the rest.

:func:`preen` is for an ext4 whose superblock says that it has errors, before
it is mounted: what every boot does for a line of fstab with a pass number.
xfs and btrfs have no such checker: their own mount replays the log or picks
the last whole tree, and refuses what it cannot.
Sources: e2fsck(8), fsck.xfs(8), xfs_repair(8), btrfs-check(8).
"""

from __future__ import annotations

import threading
from typing import Mapping, Tuple

from cc_kraken.machine import command
from cc_kraken.model import KrakenError, Trouble

CHECKS: Mapping[str, Tuple[str, ...]] = {
    # Read-only, and all of it: a clean flag alone says nothing here.
    "ext4": ("e2fsck", "-nf"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}

AT_ONCE = 8
"""Each holds some ten MiB in memory for a TiB of its filesystem."""

_SLOTS = threading.Semaphore(AT_ONCE)


def sound(path: str, kind: str) -> bool:
    """Whether the checker of this type finds nothing wrong on ``path``.

    False for a type without a checker, and where it cannot judge: alone that is no
    licence.  Raises KrakenError ``program-missing``, and ``command-failed`` where it
    was killed.
    """
    words = CHECKS.get(kind)
    if words is None:
        return False
    try:
        with _SLOTS:
            finished = command.run([*words, path], timeout=None)
    except KrakenError as error:
        # Of a TiB that is torn e2fsck has more to say than anybody reads.
        if error.trouble.kind != "command-output":
            raise
        return False
    if finished.code < 0:
        command.check(finished, f"checking the {kind} on {path}")
    return finished.code == 0


def preen(path: str, kind: str) -> str:
    """Repair what the checker of an unmounted filesystem repairs without
    being asked (``e2fsck -p``); what it said.

    Raises KrakenError ``filesystem-errors`` where that is not enough, and
    ``program-missing``.
    """
    if kind != "ext4":
        return ""
    # Never killed: it writes.
    finished = command.run(["e2fsck", "-p", path], timeout=None)
    said = " ".join((finished.out or finished.err).split())[-600:]
    # 1: corrected; 2: corrected, and the system's root would want a reboot.
    if 0 <= finished.code <= 3:
        return said
    raise KrakenError(
        Trouble(
            "filesystem-errors",
            f"The ext4 on {path} has errors that e2fsck does not repair by itself "
            f"(exit status {finished.code}): {said}",
            "a filesystem that can be mounted",
            f"Take a snapshot of the volume, run e2fsck -f {path} by hand, and run "
            "again.",
        )
    )
