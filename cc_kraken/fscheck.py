"""Whether a filesystem that mkfs was to make is whole; reads only.

Asked only where our intent record still lies beside a filesystem that looks
complete: a power cut keeps no order of writes, so its superblock can be there
without the rest.  Sources: e2fsck(8), xfs_repair(8), btrfs-check(8).
"""

from __future__ import annotations

from typing import Mapping, Tuple

from cc_kraken import command

CHECKS: Mapping[str, Tuple[str, ...]] = {
    # Read-only, and all of it: a clean flag alone says nothing here.
    "ext4": ("e2fsck", "-nf"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


def sound(path: str, kind: str) -> bool:
    """Whether the checker of this type finds nothing wrong on ``path``.

    False for a type without a checker.  Raises KrakenError
    ``program-missing``.
    """
    words = CHECKS.get(kind)
    if words is None:
        return False
    return command.run([*words, path], timeout=None).code == 0
