"""What is to be grown: pure.

Volumes are enlarged in EC2, one after another, and what lies on them follows:
an array of a redundant level first, when all of its members have grown, then
the filesystem.  Growing is decided for what is mounted and nothing else.
Sizes are in bytes.  Source: md(4), mdadm(8) on ``--grow --size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cc_kraken.decide.steps import GrowArray, GrowFilesystem, Step
from cc_kraken.model import Array, Device, MdSuperblock, Mounted, gib

LEAST = 128 << 20
"""Less than this is no enlargement: volumes grow by whole GiB, and a
filesystem can leave up to a block group (ext4: 128 MiB), 16 MiB (xfs), or a
chunk of its array."""

WORKING = ("clean", "active", "active-idle", "write-pending")
"""States of an array that is written to (Linux admin-guide/md.rst)."""
UNWRITTEN = "read-auto"
"""The state of an array until its first write after it was started: what lies
on it can be mounted and not yet written to."""

WAY_OUT = (
    "The way out: make a set of larger volumes under another VolumeName, copy "
    "the files, and give it the mount path (docs/operations.md, Enlarge a "
    "volume). With grow: false this is not said again."
)

_OFFSET_LAYOUT = 1 << 16


@dataclass
class Growth:
    """What is to be done and said of one set.  ``outcomes``: what is put off until
    something that no size shows."""

    name: str
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Member:
    """A volume that an array has in it, and what its superblock says."""

    device: Device
    block: MdSuperblock

    @property
    def room(self) -> int:
        """What the array could have of it."""
        return self.device.size - self.block.data_offset


def of_volume(name: str, device: Device, mounted: Mounted) -> Growth:
    """Growth of the set ``name``, a filesystem right on one volume."""
    found = Growth(name)
    if _is_whole(mounted, device.devno):
        _filesystem(found, mounted, device.size, volume_id=device.volume_id)
    return found


def of_array(
    name: str, array: Array, members: Mapping[str, Member], mounted: Mounted
) -> Growth:
    """Growth of the set ``name``, a filesystem right on ``array``.

    ``members``: those in it, by volume id.
    """
    found = Growth(name)
    if not _is_whole(mounted, array.devno) or not members:
        return found
    obstacle = _cannot_grow(next(iter(members.values())).block)
    size = array.size
    if not obstacle:
        size = _redundant(found, array, members, mounted)
    else:
        larger = _larger(members, {v: m.block.data_size for v, m in members.items()})
        if larger:
            found.warnings.append(
                f"{', '.join(larger)} had more room for array {array.uuid}, and "
                f"{obstacle}. {WAY_OUT}"
            )
    _filesystem(found, mounted, size, array_uuid=array.uuid)
    return found


def _redundant(
    found: Growth, array: Array, members: Mapping[str, Member], mounted: Mounted
) -> int:
    """The size that the array will have."""
    chunk = max(member.block.chunk for member in members.values()) or 1
    smallest = min(member.room for member in members.values()) // chunk * chunk
    used = array.component
    if not used:
        return array.size
    possible = max(used, smallest)
    if possible - used >= LEAST:
        busy = _not_now(array, members)
        if busy or mounted.errors or mounted.read_only:
            found.outcomes.append(
                f"array {array.uuid} grows to {gib(possible)} of each member when "
                + (busy or "its filesystem is sound and can be written")
            )
            return array.size
        found.steps.append(GrowArray(found.name, array.uuid, used, possible))
        # As many members' worth of data as before.
        return array.size * possible // used
    larger = _larger(members, dict.fromkeys(members, used))
    if larger:
        others = sorted(set(members) - set(larger))
        found.notes.append(
            f"{', '.join(larger)} had more room for array {array.uuid}: it grows "
            f"when {', '.join(others)} are enlarged, too."
        )
    return array.size


def _filesystem(
    found: Growth,
    mounted: Mounted,
    size: int,
    array_uuid: str = "",
    volume_id: str = "",
) -> None:
    """``size``: of what it lies on, once that has grown."""
    if mounted.size is None or size - mounted.size < LEAST:
        return
    path, kind = mounted.mount.path, mounted.mount.type
    if mounted.errors or mounted.read_only:
        found.outcomes.append(
            f"the {kind} at {path} grows to {gib(size)} when it is sound and "
            "can be written"
        )
        return
    found.steps.append(
        GrowFilesystem(
            found.name,
            path=path,
            type=kind,
            before=mounted.size,
            after=size,
            array_uuid=array_uuid,
            volume_id=volume_id,
        )
    )


def _is_whole(mounted: Mounted, devno: str) -> bool:
    """Whether it is this device that is mounted, not a part or a mapping of
    it, and all of its filesystem."""
    return mounted.device == devno and mounted.mount.root == "/" and bool(mounted.size)


def _cannot_grow(block: MdSuperblock) -> str:
    """Why no array of this kind can use more of its members."""
    if block.level == 0:
        return "RAID 0 cannot grow"
    far = block.layout >> 8 & 0xFF
    if block.level == 10 and far > 1 and not block.layout & _OFFSET_LAYOUT:
        return "RAID 10 with far copies cannot grow"
    return ""


def _not_now(array: Array, members: Mapping[str, Member]) -> str:
    if array.degraded or len(members) < array.raid_disks:
        return "it is whole again"
    if array.action != "idle":
        return f"its {array.action} is over"
    if array.state not in (*WORKING, UNWRITTEN):
        return f"it is not {array.state} any more"
    return ""


def _larger(members: Mapping[str, Member], used: Mapping[str, int]) -> list[str]:
    """The volumes with room that the array does not use."""
    return [
        volume
        for volume, member in sorted(members.items())
        if member.room - used[volume] >= LEAST
    ]
