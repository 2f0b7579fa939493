"""The filesystem types: one line for each.  All that lists types asks here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from cc_kraken.filesystems.base import Filesystem, Found, Read
from cc_kraken.filesystems.btrfs import Btrfs
from cc_kraken.filesystems.ext4 import Ext4
from cc_kraken.filesystems.xfs import Xfs
from cc_kraken.model import failure

TYPES: Mapping[str, Filesystem] = {
    one.name: one
    for one in (
        Ext4(),
        Xfs(),
        Btrfs(),
    )
}

KINDS: tuple[str, ...] = tuple(
    kind for one in TYPES.values() for kind in one.kinds or (one.name,)
)
"""What blkid calls them."""
SEVERAL: Mapping[str, str] = {
    one.name: one.several for one in TYPES.values() if one.several
}
"""Types that can lie on several devices, and the pattern below /sys of these."""
PACKAGES: Mapping[str, tuple[str, str]] = {
    program: one.package for one in TYPES.values() for program in one.programs
}


def of(kind: str) -> Filesystem:
    """The type of this name.  Raises KrakenError ``fs-type-unknown``."""
    if kind not in TYPES:
        raise failure(
            kind="fs-type-unknown",
            found=f"The filesystem type is {kind!r}.",
            expected=f"It must be one of {', '.join(TYPES)}.",
            remedy="Correct fs_type (the tag FsType).",
        )
    return TYPES[kind]


def cut(kind: str, label: str) -> str:
    """A label as its type can hold it; of a type that we do not make, itself."""
    return TYPES[kind].label(label) if kind in TYPES else label


def superblocks(
    head: bytes, size: int, read: Optional[Read] = None
) -> tuple[Found, ...]:
    """The filesystems whose superblocks are in ``head`` (128 KiB) of a device or an
    array of ``size`` bytes, the first one first.  ``read``: see
    :meth:`Filesystem.superblock`."""
    found = (one.superblock(head, size, read) for one in TYPES.values())
    return tuple(sorted((one for one in found if one), key=lambda one: one.offset))
