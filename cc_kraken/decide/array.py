"""Which array do the volumes carry, and may it be started and used; or is one made
of them, and taken back where its making was cut off (section 7)?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from cc_kraken.decide import array_line, copies, disks, members, records, refusal
from cc_kraken.decide.case import Base, Case, Target
from cc_kraken.decide.filesystem import OLDER
from cc_kraken.decide.members import ArrayState
from cc_kraken.decide.plan import Again
from cc_kraken.decide.steps import (
    AddMember,
    AssembleArray,
    CreateArray,
    EraseRecords,
    Step,
    StopArray,
    Wipe,
    WriteRecords,
    ZeroSuperblocks,
)
from cc_kraken.machine.md import array_name
from cc_kraken.model import (
    Array,
    Blank,
    HalfMade,
    KrakenError,
    Look,
    MdSuperblock,
    Trouble,
    failure,
    gib,
)

ALL = "All members that the newest superblock names must be in it."


def base(case: Case) -> Optional[Base]:
    """The array of the set, found or to be made.  None: no array is wanted."""
    looks = {volume: disks.look(case, volume) for volume in case.volume_ids}
    blocks = members.superblocks(looks, looks)
    if not blocks:
        return _new(case, looks)
    state = members.read(blocks)
    if isinstance(state, Trouble):
        raise KrakenError(state)
    _take_back(case, looks, blocks, state.uuid)
    return _existing(case, state, blocks, looks)


def _existing(
    case: Case,
    state: ArrayState,
    blocks: Mapping[str, MdSuperblock],
    looks: Mapping[str, Look],
) -> Base:
    others = [volume for volume in looks if volume not in blocks]
    array = case.world.array(state.uuid)
    running = array if array is not None and array.running else None
    _check_no_strangers(case, state.uuid)
    outdated = members.outdated(state, case.world.arrays_seen.get(state.uuid))
    if outdated is not None:
        raise KrakenError(outdated)
    steps: list[Step] = []
    if running is not None:
        _check_running(case, state, running)
    else:
        copies.check(case, state.uuid)
        _check_startable(case, state)
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
    try:
        for volume in others:
            if not isinstance(looks[volume].content, Blank) or looks[volume].record:
                target = Target(case.device(volume))
                raise refusal.of_content(case, looks[volume], target)
        _notice_wishes(case, state)
        spares = _spares(case, state, others)
    except KrakenError:
        _warn_of_lost(case, state, ())
        raise
    steps += spares
    added = [step.volume_id for step in spares]
    _warn_of_lost(case, state, added)
    try:
        name = next(iter(blocks.values())).name
        steps += array_line.steps(case, state.uuid, name)
    except KrakenError as error:
        # No reason to give up an array that is in use.
        if case.mounted() is None and not (running and case.wanted.fs_type is None):
            raise
        case.warn(str(error))
    inside = {*blocks, *added}
    return Base(
        Target(array_uuid=state.uuid, array=array),
        tuple(steps),
        look=case.world.array_looks.get(state.uuid) if running else None,
        members={volume: one for volume, one in looks.items() if volume in inside},
        blocks=blocks,
    )


# ------------------------------------------------------- an array that exists


def _check_no_strangers(case: Case, uuid: str) -> None:
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
            raise KrakenError(trouble)


def _check_running(case: Case, state: ArrayState, array: Array) -> None:
    """Whether what runs is the array with its newest content.

    Who is in it is the kernel's to say: the superblocks of an array in use
    are read one after another, and their event counts can differ.
    """
    inside = {one for one in case.volume_ids if case.device(one).name in array.members}
    outside = [volume for volume in state.fresh if volume not in inside]
    older = [volume for volume in state.stale if volume in inside]
    if outside and older:
        raise failure(
            "array-stale",
            f"Array {array.name} ({state.uuid}) runs with {', '.join(older)}, "
            f"whose content is older than that of {', '.join(outside)}.",
            "It must run with the newest content.",
            "Stop the array and whatever uses it, detach the older volume, "
            "then: cc-kraken apply.",
        )
    for volume in state.stale:
        if volume not in older:
            case.warn(
                f"{volume} is stale and not in array {state.uuid}: add it back "
                "by hand (mdadm --re-add), or replace it."
            )
    absent = bool(array.degraded and state.missing and not older)
    if not outside and not absent:
        return
    missing = ", ".join(outside) or f"{len(state.missing)} of its members"
    if not array.mounted and not case.wanted.allow_degraded:
        raise failure(
            "array-members-missing",
            f"Array {array.name} ({state.uuid}) was started without {missing}.",
            ALL,
            "Bring it back, or add it by hand (mdadm --re-add). To use the array as "
            "it is, set allow_degraded: true.",
        )
    case.warn(f"Array {state.uuid} runs without {missing}.")


def _check_startable(case: Case, state: ArrayState) -> None:
    """Whether an array that does not run may be started from what is here."""
    array = f"Array {state.uuid} (RAID {state.freshest.level})"
    here = ", ".join(state.fresh)
    if state.stale:
        raise failure(
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
        raise failure(
            "array-members-missing",
            f"{array} has {len(state.fresh)} of its {len(state.expected)} members here "
            f"({here}).",
            ALL,
            f"Bring the missing volumes back{or_else if state.redundant else ''}.",
        )
    if not state.may_run:
        raise failure(
            "array-members-missing",
            f"{array} has lost more than it can do without: {len(state.fresh)} of "
            f"{state.freshest.raid_disks} members are whole ({here or 'none'}).",
            "Enough members must be here to carry the data.",
            "Bring the lost volumes back, or restore the set from a backup.",
        )
    if state.missing:
        written = members.when(state.freshest.update_time)
        case.warn(
            f"Array {state.uuid} is started without {len(state.missing)} of its "
            "members, as allow_degraded permits. Its content is that of "
            f"{written}: were the missing members used after that, stop what uses it "
            "and bring them back."
        )


def _warn_of_lost(case: Case, state: ArrayState, added: Sequence[str]) -> None:
    """``added``: the volumes that take the places of lost members."""
    array = f"Array {state.uuid} (RAID {state.freshest.level})"
    if added:
        case.warn(
            f"{array} has lost members: it runs degraded until md has copied to "
            f"{', '.join(added)}. See /proc/mdstat."
        )
    if len(added) < len(state.failed):
        case.warn(
            f"{array} has already lost {len(state.failed)} of "
            f"{state.freshest.raid_disks} members and runs degraded: give the set a "
            "new, empty volume."
        )


def _notice_wishes(case: Case, state: ArrayState) -> None:
    """An existing array is used as its superblocks say, whatever is wished."""
    wanted = case.wanted
    whose = f"the array on the volumes of {case.name}"
    level, count = state.freshest.level, state.freshest.raid_disks
    if wanted.raid_level not in (None, level):
        case.warn(
            f"RaidLevel says {wanted.raid_level}, {whose} is RAID {level}: it is used "
            "as it is."
        )
    if wanted.members != count:
        case.warn(
            f"Members says {wanted.members}, {whose} has {count} members: it is used "
            "as it is."
        )
    if wanted.allow_degraded and not (state.missing or state.failed):
        case.note(
            f"allow_degraded is on, and array {state.uuid} is whole: take it out "
            "again. While it is on, an older half may be started where the newer "
            "one is missing."
        )


def _spares(case: Case, state: ArrayState, blank: list[str]) -> list[AddMember]:
    """Blank volumes take the places of members that are recorded as lost."""
    steps: list[AddMember] = []
    if case.name in case.world.not_added:
        return steps
    slots = len(state.failed)
    if case.wanted.allow_degraded:
        # Started without them, the array counts them as lost.
        slots += len(state.missing)
    copied = {volume.id for volume in case.claim.volumes if volume.origin}
    least = state.freshest.data_offset + state.freshest.component
    for volume_id in sorted(blank):
        disks.check_not_held(case, volume_id)
        if volume_id in copied:
            case.warn(
                f"{volume_id} is a copy of another volume: it is not added to "
                f"array {state.uuid}."
            )
        elif len(steps) >= slots or not state.redundant:
            case.warn(
                f"{volume_id} is blank and array {state.uuid} has no free "
                "slot for it: it is left alone."
            )
        elif case.device(volume_id).size < least:
            case.warn(
                f"{volume_id} is too small for array {state.uuid}, which takes "
                f"{gib(least)} of each member: it is left alone."
            )
        else:
            steps.append(AddMember(case.name, state.uuid, volume_id))
    return steps


# ----------------------------------------------------------- one that is made


def _new(case: Case, looks: Mapping[str, Look]) -> Optional[Base]:
    """Of volumes none of which has a superblock.  None: no array is wanted."""
    if case.claim.trouble is not None:
        # Only an array that exists may do with fewer or unequal volumes.
        raise KrakenError(case.claim.trouble)
    level = case.wanted.raid_level
    if level is None:
        return None
    intent = records.of_set(case, case.array_uuid, level)
    present = [look.record for look in looks.values() if look.record is not None]
    records.check_own(case, present)
    steps: list[Step] = _wipes(case, looks)
    wiped = tuple(step.volume_id for step in steps if isinstance(step, Wipe))
    records.check_no_copy(case)
    if any(isinstance(look.content, HalfMade) for look in looks.values()):
        steps.append(ZeroSuperblocks(case.name, tuple(present)))
    stale = tuple(record for record in present if record not in intent)
    if stale:
        raise Again([*steps, EraseRecords(case.name, stale, member=True)], OLDER)
    if len(present) < len(intent):
        steps.append(WriteRecords(case.name, intent, member=True, permitted=wiped))
    name = array_name(case.name)
    steps.append(
        CreateArray(
            case.name,
            uuid=case.array_uuid,
            name=name,
            level=level,
            volume_ids=case.volume_ids,
            records=intent,
            permitted=wiped,
        )
    )
    steps += array_line.steps(case, case.array_uuid, f"any:{name}")
    target = Target(array_uuid=case.array_uuid)
    return Base(target, tuple(steps), created=intent, wiped=wiped)


def _wipes(case: Case, looks: Mapping[str, Look]) -> list[Step]:
    """Every volume is blank, half made by us, or given up by ``overwrite``."""
    steps: list[Step] = []
    for volume_id, look in looks.items():
        disks.check_not_held(case, volume_id)
        if isinstance(look.content, (Blank, HalfMade)):
            continue
        if look.record is not None:
            raise refusal.of_record(look.content, look.record)
        if not records.permitted(case, volume_id, look):
            raise refusal.of_content(case, look, Target(case.device(volume_id)))
        steps.append(Wipe(case.name, volume_id, look.fingerprint))
    return steps


def _take_back(
    case: Case, looks: Mapping[str, Look], blocks: Mapping[str, MdSuperblock], uuid: str
) -> None:
    """Superblocks of ours on some members only, and our record on all:
    the creation was cut off, and goes back to its beginning."""
    intent = [look.record for look in looks.values() if look.record is not None]
    if len(blocks) == len(looks) or len(intent) != len(looks):
        return
    records.check_own(case, intent)
    if any(record.array_uuid != uuid or record.level < 0 for record in intent):
        return
    if any(case.device(volume_id).mounted for volume_id in looks):
        return
    records.check_no_copy(case)
    for volume_id, look in looks.items():
        rest = volume_id not in blocks and not isinstance(
            look.content, (Blank, HalfMade)
        )
        if rest and look.record is not None:
            raise refusal.of_record(look.content, look.record)
    steps: list[Step] = []
    array = case.world.array(uuid)
    if array is not None:
        # udev starts what has its superblocks, of RAID 5 for instance all
        # but the last one.
        shown = case.world.array_looks.get(uuid)
        blank = shown is not None and isinstance(
            disks.answered(case, shown).content, Blank
        )
        if array.mounted or (array.running and not blank):
            return
        _check_no_strangers(case, uuid)
        steps.append(StopArray(case.name, uuid, tuple(intent)))
    steps.append(ZeroSuperblocks(case.name, tuple(intent)))
    raise Again(steps, "then the array is created from the beginning")
