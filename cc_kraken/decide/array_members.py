"""Are the members of an array its own, the newest, and enough of them?"""

from __future__ import annotations

from cc_kraken.decide import members
from cc_kraken.decide.case import Case, Noticed
from cc_kraken.decide.members import ArrayState
from cc_kraken.decide.plan import Stop, stopped
from cc_kraken.model import Array

ALL = "All members that the newest superblock names must be in it."


def check_no_strangers(case: Case, uuid: str) -> None:
    """In every array that has this UUID or a volume of this set: there can be
    several where there are copies.

    One of copies alone is no matter while ours runs without them.
    """
    world = case.world
    volumes = {one.name: volume for volume, one in world.devices.items()}
    ours = {case.device(volume).name for volume in case.volume_ids}
    running = [set(one.members) for one in world.arrays if one.uuid == uuid]
    apart = any(inside and inside <= ours for inside in running)
    for array in world.arrays:
        mine = ours & set(array.members)
        if not mine and (array.uuid != uuid or apart):
            continue
        trouble = members.wrong_members(array, volumes, case.name, case.volume_ids)
        if trouble is not None:
            raise Stop(trouble)


def check_running(
    case: Case, noticed: Noticed, state: ArrayState, array: Array
) -> None:
    """Whether what runs is the array with its newest content.

    Who is in it is the kernel's to say: the superblocks of an array in use
    are read one after another, and their event counts can differ.
    """

    def inside(volume: str) -> bool:
        return case.device(volume).name in array.members

    outside = [volume for volume in state.fresh if not inside(volume)]
    older = [volume for volume in state.stale if inside(volume)]
    if outside and older:
        raise stopped(
            "array-stale",
            f"Array {array.name} ({state.uuid}) runs with {', '.join(older)}, "
            f"whose content is older than that of {', '.join(outside)}.",
            "It must run with the newest content.",
            "Stop the array and whatever uses it, detach the older volume, "
            "then: cc-kraken apply.",
        )
    for volume in state.stale:
        if volume not in older:
            noticed.warnings.append(
                f"{volume} is stale and not in array {state.uuid}: add it back "
                "by hand (mdadm --re-add), or replace it."
            )
    absent = bool(array.degraded and state.missing and not older)
    if not outside and not absent:
        _warn_of_lost(noticed, state)
        return
    missing = ", ".join(outside) or f"{len(state.missing)} of its members"
    if not array.mounted and not case.wanted.allow_degraded:
        raise stopped(
            "array-members-missing",
            f"Array {array.name} ({state.uuid}) was started without {missing}.",
            ALL,
            "Bring it back, or add it by hand (mdadm --re-add). To use the array as "
            "it is, set allow_degraded: true.",
        )
    noticed.warnings.append(f"Array {state.uuid} runs without {missing}.")


def check_startable(case: Case, noticed: Noticed, state: ArrayState) -> None:
    """Whether an array that does not run may be started from what is here."""
    array = f"Array {state.uuid} (RAID {state.level})"
    here = ", ".join(state.fresh)
    if state.stale:
        raise stopped(
            "array-stale",
            f"{', '.join(state.stale)} fell out of array {state.uuid} "
            "earlier than the other members: its content is older.",
            "All members must be equally new.",
            "Replace the stale volume by an empty one, or add it back by "
            "hand (mdadm --re-add).",
        )
    if state.missing and not (
        state.redundant and case.wanted.allow_degraded and state.enough_when_degraded
    ):
        or_else = ", or start it without them with allow_degraded: true"
        raise stopped(
            "array-members-missing",
            f"{array} has {len(state.fresh)} of its {len(state.expected)} members here "
            f"({here}).",
            ALL,
            f"Bring the missing volumes back{or_else if state.redundant else ''}.",
        )
    if not state.may_run:
        raise stopped(
            "array-members-missing",
            f"{array} has lost more than it can do without: {len(state.fresh)} of "
            f"{state.raid_disks} members are whole ({here or 'none'}).",
            "Enough members must be here to carry the data.",
            "Bring the lost volumes back, or restore the set from a backup.",
        )
    _warn_of_lost(noticed, state)
    if state.missing:
        noticed.warnings.append(
            f"Array {state.uuid} is started without {len(state.missing)} of its "
            "members, as allow_degraded permits. Its content is that of "
            f"{members.when(state.written)}: were the missing members used "
            "after that, stop what uses it and bring them back."
        )


def _warn_of_lost(noticed: Noticed, state: ArrayState) -> None:
    if state.failed:
        noticed.warnings.append(
            f"Array {state.uuid} (RAID {state.level}) has already lost "
            f"{len(state.failed)} of {state.raid_disks} members and runs "
            "degraded: give the set a new, empty volume."
        )
