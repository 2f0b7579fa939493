"""What the superblocks of a set say about its array; pure.

Nothing is started to find out: the freshest superblock tells who is expected
(its table of roles), the event counts tell who is stale.  Source: md(4),
mdadm's super1.c and Assemble.c, md_p.h of the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Optional, Union

from cc_kraken.model import Array, Known, Look, MdSuperblock, Trouble

REDUNDANT = (1, 4, 5, 6, 10)
EVENT_MARGIN = 1
"""mdadm takes a member whose event count is one behind for fresh."""

_FIRST_SPECIAL_ROLE = 0xFFFD
_RECOVERING, _REPLACEMENT = 2, 16
"""Features of a superblock: MD_FEATURE_RECOVERY_OFFSET, MD_FEATURE_REPLACEMENT."""


@dataclass(frozen=True)
class ArrayState:
    """An existing array as its members describe it.

    ``freshest``: the superblock of the newest content.  ``fresh``, ``stale``,
    ``spare``: volume ids; a replacement under way is a spare.  ``rebuilt``: those of
    ``fresh`` that have a part of their data so far.  ``expected``: roles that the
    freshest counts as in sync; ``missing``: those of them that nobody here has;
    ``failed``: roles already recorded as lost.
    """

    freshest: MdSuperblock
    fresh: tuple[str, ...]
    stale: tuple[str, ...]
    spare: tuple[str, ...]
    rebuilt: tuple[str, ...]
    expected: tuple[int, ...]
    missing: tuple[int, ...]
    failed: tuple[int, ...]

    @property
    def uuid(self) -> str:
        return self.freshest.uuid

    @property
    def redundant(self) -> bool:
        return self.freshest.level in REDUNDANT

    @property
    def whole(self) -> int:
        """How many members here have all of their data."""
        return len(self.fresh) - len(self.rebuilt)

    @property
    def enough_when_degraded(self) -> bool:
        """Whether the fresh members alone could carry the data."""
        level, lost = self.freshest.level, self.freshest.raid_disks - self.whole
        if level == 1:
            return self.whole >= 1
        if level in (4, 5, 10):
            # RAID 10 may survive more: see may_run.
            return lost <= 1
        return lost <= 2 if level == 6 else lost == 0

    @property
    def may_run(self) -> bool:
        """Whether the fresh members can be all that is left of the array.

        Of RAID 10 it depends on which are lost, and the kernel decides.
        """
        if self.freshest.level == 10:
            return 2 * self.whole >= self.freshest.raid_disks
        return self.enough_when_degraded


@dataclass(frozen=True)
class Seen:
    """What is kept of an array: the highest event count that it had here, when
    it was created, and the volumes that were members of it by then."""

    events: int
    created: int
    volumes: tuple[str, ...]


def superblocks(
    looks: Mapping[str, Look], volume_ids: Iterable[str]
) -> dict[str, MdSuperblock]:
    """The md superblocks that were found on these volumes, by volume id."""
    found = {}
    for volume in volume_ids:
        shown = looks[volume].content if volume in looks else None
        if isinstance(shown, Known) and shown.superblock is not None:
            found[volume] = shown.superblock
    return found


def read(superblocks: Mapping[str, MdSuperblock]) -> Union[ArrayState, Trouble]:
    """The array that these members (volume id to superblock) belong to.

    Returns a Trouble when they do not belong together.
    """
    trouble = _not_one_array(superblocks) or _copies(superblocks)
    if trouble is not None:
        return trouble
    freshest = max(
        superblocks.values(), key=lambda block: (block.events, block.update_time)
    )
    if freshest.minor != 2:
        return Trouble(
            "array-metadata",
            f"Array {freshest.uuid} has its superblock in version "
            f"1.{freshest.minor if freshest.minor >= 0 else 'x'}.",
            "It must have md metadata 1.2.",
            "Assemble and mount this array by hand, or copy it to a new set.",
        )
    taken: dict[tuple[Optional[int], bool], str] = {}
    stale: list[str] = []
    spare: list[str] = []
    expected = _in_sync(freshest)
    for volume, block in sorted(superblocks.items()):
        if block.role is None or block.role >= _FIRST_SPECIAL_ROLE:
            spare.append(volume)
            continue
        if block.events + EVENT_MARGIN < freshest.events or block.role not in expected:
            stale.append(volume)
            continue
        place = block.role, is_replacement(block)
        if place in taken:
            return _clone(taken[place], volume, block)
        taken[place] = volume
    fresh = {role: one for (role, in_place), one in taken.items() if not in_place}
    spare += [one for (_, in_place), one in taken.items() if in_place]
    trouble = _parted(superblocks, fresh, stale)
    if trouble is not None:
        return trouble
    here = tuple(sorted(fresh.values()))
    return ArrayState(
        freshest,
        fresh=here,
        stale=tuple(stale),
        spare=tuple(sorted(spare)),
        rebuilt=tuple(v for v in here if superblocks[v].feature_map & _RECOVERING),
        expected=expected,
        missing=tuple(role for role in expected if role not in fresh),
        failed=tuple(r for r in range(freshest.raid_disks) if r not in expected),
    )


def is_replacement(block: MdSuperblock) -> bool:
    """Whether it is being filled to take the place of the member whose role it
    has (mdadm --replace): two have one role until then."""
    return bool(block.feature_map & _REPLACEMENT)


def _in_sync(block: MdSuperblock) -> tuple[int, ...]:
    """The roles that this superblock knows a member of."""
    return tuple(sorted({role for role in block.roles if role < _FIRST_SPECIAL_ROLE}))


def _not_one_array(superblocks: Mapping[str, MdSuperblock]) -> Optional[Trouble]:
    blocks = sorted(superblocks.items())
    if len({block.uuid for _, block in blocks}) > 1:
        found = "The volumes are members of different arrays: " + ", ".join(
            f"{volume} of array {block.uuid}" for volume, block in blocks
        )
    elif len({block.created for _, block in blocks}) > 1:
        found = (
            f"The volumes are members of different arrays, all with the UUID "
            f"{blocks[0][1].uuid}: "
        )
        found += ", ".join(
            f"that of {volume} was created at {when(block.created)}"
            for volume, block in blocks
        )
    else:
        return None
    return Trouble(
        "array-foreign-member",
        f"{found}.",
        "They must be members of one array.",
        "Pin the volumes that belong together with volume_ids, or take the "
        "tags off the foreign one.",
    )


def _copies(superblocks: Mapping[str, MdSuperblock]) -> Optional[Trouble]:
    """Each member has a UUID of its own, which a copy has, too."""
    known: dict[str, str] = {}
    for volume, block in sorted(superblocks.items()):
        other = known.setdefault(block.device_uuid, volume)
        if other != volume:
            return _clone(other, volume, block)
    return None


def _clone(one: str, other: str, block: MdSuperblock) -> Trouble:
    return Trouble(
        "array-clone",
        f"{one} and {other} both say that they are the same member of array "
        f"{block.uuid}: one is a copy of the other.",
        "Each member must be there once.",
        "Pin the original volumes with volume_ids.",
    )


def _parted(
    superblocks: Mapping[str, MdSuperblock],
    fresh: Mapping[Optional[int], str],
    stale: Collection[str],
) -> Optional[Trouble]:
    """A member that fell out still counts the others as its own.  One that
    counts none of them was used without them: it has data that they lack."""
    alone = [one for one in stale if not set(_in_sync(superblocks[one])) & set(fresh)]
    if not alone or not fresh:
        return None
    others = ", ".join(sorted(fresh.values()))
    return Trouble(
        "array-diverged",
        f"{', '.join(alone)} and {others} were used without each other as array "
        f"{superblocks[alone[0]].uuid}: each has data that the other has not.",
        "All members must have been used together.",
        "Decide whose data you want to keep, and take the tags off the other. "
        "Until you have looked at both, add neither to the array and wipe neither.",
    )


def wrong_members(
    array: Array, volumes: Mapping[str, Optional[str]], name: str, ours: Collection[str]
) -> Optional[Trouble]:
    """What is wrong with the members that the kernel has in ``array``, of the
    set ``name``, whose volumes are ``ours``.

    ``volumes``: the volume id that the serial of each disk spells, by the kernel
    name of the disk.  Of a copy all else is the original's, event count and
    UUIDs included.
    """
    strangers = [one for one in sorted(array.members) if volumes.get(one) not in ours]
    if not strangers:
        return None
    named = [f"{one} ({volumes.get(one) or 'no EBS volume'})" for one in strangers]
    away = [volumes.get(one) or one for one in strangers]
    unmount = f"unmount {', '.join(array.mounted)}, " if array.mounted else ""
    return Trouble(
        "array-stranger",
        f"Array {array.name} ({array.uuid or 'without a UUID'}) contains "
        f"{', '.join(named)}, which {'does' if len(named) == 1 else 'do'} not "
        f"belong to the set {name}.",
        "Only the volumes of this set may be in its array.",
        f"Stop what uses the array, {unmount}stop it (mdadm --stop {array.path}), "
        f"detach {', '.join(away)}, then: cc-kraken apply.",
    )


def outdated(state: ArrayState, seen: Optional[Seen]) -> Optional[Trouble]:
    """Whether these members are older than what this instance has seen of the
    array: the newer ones are missing, and cannot be asked."""
    if seen is None or not _same(state, seen):
        return None
    if state.freshest.events + EVENT_MARGIN >= seen.events:
        return None
    absent = sorted(set(seen.volumes) - set(state.fresh))
    return Trouble(
        "array-stale",
        f"Array {state.uuid} is at event {state.freshest.events} on "
        f"{', '.join(state.fresh)}, and this instance has seen it at event "
        f"{seen.events}: the newer data is on {', '.join(absent) or 'neither'}.",
        "The members that were used last must be here.",
        "Bring the newer members back. To use the older data for good, remove "
        "/var/lib/cc-kraken/arrays.json.",
    )


def seen_now(state: ArrayState, before: Optional[Seen]) -> Seen:
    """What is to be kept of an array after this look at it."""
    volumes, events = {*state.fresh, *state.stale}, state.freshest.events
    if before is not None and _same(state, before):
        volumes |= set(before.volumes)
        events = max(events, before.events)
    return Seen(events, state.freshest.created, tuple(sorted(volumes)))


def _same(state: ArrayState, seen: Seen) -> bool:
    """Whether it is the array that was seen, not one that was made anew under its
    UUID, nor one of copies."""
    created = state.freshest.created == seen.created
    return created and bool(set(state.fresh) & set(seen.volumes))


def when(seconds: int) -> str:
    """A time in a superblock (seconds since 1970), as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
