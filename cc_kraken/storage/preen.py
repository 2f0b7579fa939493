"""Repair what a filesystem's own checker repairs unasked, before a mount."""

from __future__ import annotations

from cc_kraken.filesystems import registry
from cc_kraken.machine import command
from cc_kraken.model import failure


def repair(path: str, kind: str) -> str:
    """Repair an unmounted filesystem as far as its checker does so unasked; what it
    said, "" where the type's own mount repairs what it can.

    Raises KrakenError ``filesystem-errors`` where that is not enough, and
    ``program-missing``.  Sources: e2fsck(8), fsck.xfs(8).
    """
    filesystem = registry.of(kind)
    if not filesystem.preener:
        return ""
    # Never killed: it writes.
    finished = command.run([*filesystem.preener, path], timeout=None)
    said = " ".join((finished.out or finished.err).split())[-600:]
    if finished.code in filesystem.preened:
        return said
    raise failure(
        "filesystem-errors",
        f"The {kind} on {path} has errors that {filesystem.preener[0]} does not "
        f"repair by itself (exit status {finished.code}): {said.rstrip('.')}.",
        "It must be without errors before it is mounted.",
        "Take a snapshot of the volume. Repair it by hand "
        f"({filesystem.repair} {path}), then: cc-kraken apply.",
    )
