"""Which array do the volumes carry, and may it be started and used (section 7)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from cc_kraken.decide import (
    array_line,
    array_members,
    copies,
    disks,
    members,
    new_array,
    refusal,
)
from cc_kraken.decide.case import Base, Case, Noticed, Target
from cc_kraken.decide.members import ArrayState
from cc_kraken.decide.plan import Stop
from cc_kraken.decide.steps import AddMember, AssembleArray, Step
from cc_kraken.machine.md import array_name
from cc_kraken.model import Blank, Look, MdSuperblock, Trouble


def base(case: Case, noticed: Noticed) -> Optional[Base]:
    """The array of the set, found or to be made.  None: no array is wanted."""
    looks = {volume: disks.look(case, volume) for volume in case.volume_ids}
    blocks = members.superblocks(looks, looks)
    if not blocks:
        return new_array.base(case, looks)
    state = members.read(blocks)
    if isinstance(state, Trouble):
        raise Stop(state)
    new_array.take_back(case, looks, blocks, state.uuid)
    return _existing(case, noticed, state, blocks, looks)


def _existing(
    case: Case,
    noticed: Noticed,
    state: ArrayState,
    blocks: Mapping[str, MdSuperblock],
    looks: Mapping[str, Look],
) -> Base:
    others = [volume for volume in looks if volume not in blocks]
    array = case.world.array(state.uuid)
    running = array if array is not None and array.running else None
    array_members.check_no_strangers(case, state.uuid)
    outdated = members.outdated(state, case.world.arrays_seen.get(state.uuid))
    if outdated is not None:
        raise Stop(outdated)
    steps: list[Step] = []
    if running is not None:
        array_members.check_running(case, noticed, state, running)
    else:
        copies.check(case, state.uuid)
        array_members.check_startable(case, noticed, state)
        steps.append(
            AssembleArray(
                case.name,
                uuid=state.uuid,
                name=array_name(case.name),
                # A spare may be about to take the place of a lost member.
                volume_ids=state.fresh + state.spare,
                degraded=bool(state.missing),
            )
        )
    for volume in others:
        if not isinstance(looks[volume].content, Blank) or looks[volume].record:
            target = Target(case.device(volume))
            raise refusal.of_content(case, looks[volume], target)
    _notice_wishes(case, noticed, state)
    spares = _spares(case, noticed, state, others)
    steps += spares
    added = [step.volume_id for step in spares]
    array_members.warn_of_lost(noticed, state, added)
    try:
        name = next(iter(blocks.values())).name
        steps += array_line.steps(case, state.uuid, name)
    except Stop as stop:
        # No reason to give up an array that is in use.
        if case.mounted() is None and not (running and case.wanted.fs_type is None):
            raise
        noticed.warnings.append(str(stop.trouble))
    inside = {*blocks, *added}
    return Base(
        Target(array_uuid=state.uuid, array=array),
        tuple(steps),
        look=case.world.array_looks.get(state.uuid) if running else None,
        members={volume: one for volume, one in looks.items() if volume in inside},
        blocks=blocks,
    )


def _notice_wishes(case: Case, noticed: Noticed, state: ArrayState) -> None:
    """An existing array is used as its superblocks say, whatever is wished."""
    wanted = case.wanted
    whose = f"the array on the volumes of {case.name}"
    if wanted.raid_level is not None and wanted.raid_level != state.level:
        noticed.warnings.append(
            f"RaidLevel says {wanted.raid_level}, {whose} is RAID {state.level}: "
            "it is used as it is."
        )
    if wanted.members != state.raid_disks:
        noticed.warnings.append(
            f"Members says {wanted.members}, {whose} has {state.raid_disks} "
            "members: it is used as it is."
        )
    if wanted.allow_degraded and not (state.missing or state.failed):
        noticed.notes.append(
            f"allow_degraded is on, and array {state.uuid} is whole: take it out "
            "again. While it is on, an older half may be started where the newer "
            "one is missing."
        )


def _spares(
    case: Case, noticed: Noticed, state: ArrayState, blank: list[str]
) -> list[AddMember]:
    """Blank volumes take the places of members that are recorded as lost."""
    steps: list[AddMember] = []
    slots = len(state.failed)
    if case.wanted.allow_degraded:
        # Started without them, the array counts them as lost.
        slots += len(state.missing)
    copied = {volume.id for volume in case.claim.volumes if volume.origin}
    for volume_id in sorted(blank):
        disks.check_not_held(case, volume_id)
        if volume_id in copied:
            noticed.warnings.append(
                f"{volume_id} is a copy of another volume: it is not added to "
                f"array {state.uuid}."
            )
        elif len(steps) >= slots or not state.redundant:
            noticed.warnings.append(
                f"{volume_id} is blank and array {state.uuid} has no free "
                "slot for it: it is left alone."
            )
        else:
            steps.append(AddMember(case.name, state.uuid, volume_id))
    return steps
