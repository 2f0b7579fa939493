"""What is to be grown: pure.

Volumes are enlarged in EC2, one after another, and what lies on them follows:
an array of a redundant level first, when all of its members have grown, then
the filesystem.  Growing is decided for what is mounted and nothing else.
Sizes are in bytes.  Source: md(4), mdadm(8) on ``--grow --size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cc_kraken.decide.case import Base, Case
from cc_kraken.decide.disks import GIB
from cc_kraken.decide.steps import GrowArray, GrowFilesystem, Step
from cc_kraken.filesystems import registry
from cc_kraken.model import Array, MdSuperblock, Mounted, gib

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
    """``outcomes``: growth that waits for what no size shows (a resync that ends)."""

    steps: list[Step] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)


def of_set(case: Case, base: Base, up: Mounted) -> Growth:
    """Growth of a set that is mounted, on a volume or an array as it is now."""
    found, target = Growth(), base.target
    if not case.wanted.grow or case.name in case.world.not_grown:
        return found
    for volume in case.claim.volumes:
        device = case.device(volume.id)
        if device.size < volume.size_gib * GIB:
            case.note(
                f"EC2 says that {volume.id} has {volume.size_gib} GiB, and "
                f"{device.path} has {gib(device.size)} so far: it grows when "
                "the machine sees the new size, at the next boot at the latest."
            )
    if target.layer is None or not up.size:
        return found
    if up.device != target.layer.devno or _is_part(up):
        return found  # a partition, a mapping, or a part of the filesystem
    size = target.layer.size
    if target.array is not None:
        names = target.array.members
        inside = {
            volume: block
            for volume, block in base.blocks.items()
            if case.device(volume).name in names
        }
        if not inside:
            return found
        size = _array(case, found, target.array, inside, up)
    if size - up.size < LEAST:
        return found
    path, kind = up.mount.path, up.mount.type
    if up.errors or up.read_only:
        found.outcomes.append(
            f"the {kind} at {path} grows to {gib(size)} when it is sound and "
            "can be written"
        )
        return found
    found.steps.append(
        GrowFilesystem(
            case.name,
            path=path,
            type=kind,
            before=up.size,
            after=size,
            array_uuid=target.array_uuid,
            volume_id=target.volume_id,
        )
    )
    return found


def _is_part(up: Mounted) -> bool:
    kind = registry.TYPES.get(up.mount.type)
    return up.mount.root != "/" and not (kind and kind.subvolumes)


def _array(
    case: Case,
    found: Growth,
    array: Array,
    inside: Mapping[str, MdSuperblock],
    up: Mounted,
) -> int:
    """The size that the array will have.  ``inside``: its members, by volume id."""
    room = {
        volume: case.device(volume).size - block.data_offset
        for volume, block in inside.items()
    }
    obstacle = _cannot_grow(next(iter(inside.values())))
    if obstacle:
        larger = _larger(room, {one: block.data_size for one, block in inside.items()})
        if larger:
            case.warn(
                f"{', '.join(larger)} had more room for array {array.uuid}, and "
                f"{obstacle}. {WAY_OUT}"
            )
        return array.size
    used = array.component
    if not used:
        return array.size
    chunk = max(block.chunk for block in inside.values()) or 1
    possible = min(room.values()) // chunk * chunk
    if possible - used >= LEAST:
        busy = _not_now(array, len(inside))
        if busy or up.errors or up.read_only:
            found.outcomes.append(
                f"array {array.uuid} grows to {gib(possible)} of each member when "
                + (busy or "its filesystem is sound and can be written")
            )
            return array.size
        found.steps.append(GrowArray(case.name, array.uuid, used, possible))
        # As many members' worth of data as before.
        return array.size * possible // used
    larger = _larger(room, dict.fromkeys(room, used))
    if larger:
        others = sorted(set(room) - set(larger))
        case.note(
            f"{', '.join(larger)} had more room for array {array.uuid}: it grows "
            f"when {', '.join(others)} are enlarged, too."
        )
    return array.size


def _cannot_grow(block: MdSuperblock) -> str:
    """Why no array of this kind can use more of its members."""
    if block.level == 0:
        return "RAID 0 cannot grow"
    far = block.layout >> 8 & 0xFF
    if block.level == 10 and far > 1 and not block.layout & _OFFSET_LAYOUT:
        return "RAID 10 with far copies cannot grow"
    return ""


def _not_now(array: Array, inside: int) -> str:
    if array.degraded or inside < array.raid_disks:
        return "it is whole again"
    if array.action != "idle":
        return f"its {array.action} is over"
    if array.state not in (*WORKING, UNWRITTEN):
        return f"it is not {array.state} any more"
    return ""


def _larger(room: Mapping[str, int], used: Mapping[str, int]) -> list[str]:
    """The volumes with room that the array does not use."""
    return [volume for volume in sorted(room) if room[volume] - used[volume] >= LEAST]
