"""What the superblocks of a set say about its array; pure.

Nothing is started to find out: the freshest superblock tells who is expected
(its table of roles), the event counts tell who is stale.  Source: md(4),
mdadm's super1.c and Assemble.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Tuple, Union

from cc_kraken.model import MdSuperblock, Trouble

REDUNDANT = (1, 4, 5, 6, 10)
EVENT_MARGIN = 1
"""mdadm takes a member whose event count is one behind for fresh."""

_FIRST_SPECIAL_ROLE = 0xFFFD


@dataclass(frozen=True)
class ArrayState:
    """An existing array as its members describe it.

    ``fresh``, ``stale``, ``spare``: volume ids.  ``expected``: roles that
    the freshest superblock counts as in sync; ``missing``: those of them
    that nobody here has; ``failed``: roles already recorded as lost.
    """

    uuid: str
    name: str
    level: int
    raid_disks: int
    fresh: Tuple[str, ...]
    stale: Tuple[str, ...]
    spare: Tuple[str, ...]
    expected: Tuple[int, ...]
    missing: Tuple[int, ...]
    failed: Tuple[int, ...]

    @property
    def redundant(self) -> bool:
        return self.level in REDUNDANT

    @property
    def enough_when_degraded(self) -> bool:
        """Whether the fresh members alone could carry the data."""
        lost = self.raid_disks - len(self.fresh)
        if self.level == 1:
            return len(self.fresh) >= 1
        if self.level in (4, 5, 10):
            # RAID 10 may survive more: see may_run.
            return lost <= 1
        if self.level == 6:
            return lost <= 2
        return lost == 0

    @property
    def may_run(self) -> bool:
        """Whether the fresh members can be all that is left of the array.

        Of RAID 10 it depends on which are lost, and the kernel decides.
        """
        if self.level == 10:
            return 2 * len(self.fresh) >= self.raid_disks
        return self.enough_when_degraded


def read(superblocks: Mapping[str, MdSuperblock]) -> Union[ArrayState, Trouble]:
    """The array that these members (volume id to superblock) belong to.

    Returns a Trouble when they do not belong together.
    """
    uuids = sorted({block.uuid for block in superblocks.values()})
    if len(uuids) != 1:
        told = ", ".join(
            f"{volume} of array {block.uuid}"
            for volume, block in sorted(superblocks.items())
        )
        return Trouble(
            "array-foreign-member",
            f"The volumes are members of different arrays: {told}",
            "one array UUID on all members",
            "Pin the volumes that belong together with volume_ids, or take the "
            "tags off the foreign one.",
        )
    freshest = max(
        superblocks.values(), key=lambda block: (block.events, block.update_time)
    )
    if freshest.minor != 2:
        return Trouble(
            "array-metadata",
            f"Array {freshest.uuid} has its superblock in version "
            f"1.{freshest.minor if freshest.minor >= 0 else 'x'}",
            "md metadata 1.2",
            "Assemble and mount this array by hand, or copy it to a new set.",
        )
    roles_taken: dict[int, str] = {}
    fresh, stale, spare = [], [], []
    expected = tuple(
        sorted({role for role in freshest.roles if role < _FIRST_SPECIAL_ROLE})
    )
    for volume, block in sorted(superblocks.items()):
        if block.role is None or block.role >= _FIRST_SPECIAL_ROLE:
            spare.append(volume)
            continue
        if block.events + EVENT_MARGIN < freshest.events or block.role not in expected:
            stale.append(volume)
            continue
        other = roles_taken.get(block.role)
        if other is not None:
            return Trouble(
                "array-clone",
                f"{other} and {volume} both say that they are member "
                f"{block.role} of array {block.uuid}: one is a copy of the other",
                "each role once",
                "Pin the original volumes with volume_ids.",
            )
        roles_taken[block.role] = volume
        fresh.append(volume)
    missing = tuple(role for role in expected if role not in roles_taken)
    failed = tuple(role for role in range(freshest.raid_disks) if role not in expected)
    return ArrayState(
        uuid=freshest.uuid,
        name=freshest.name,
        level=freshest.level,
        raid_disks=freshest.raid_disks,
        fresh=tuple(fresh),
        stale=tuple(stale),
        spare=tuple(spare),
        expected=expected,
        missing=missing,
        failed=failed,
    )
