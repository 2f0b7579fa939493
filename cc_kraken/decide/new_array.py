"""An array of blank volumes: made, and taken back where its making was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from cc_kraken.decide import array_line, disks, records, refusal
from cc_kraken.decide.array_members import check_no_strangers
from cc_kraken.decide.case import Base, Case, Target
from cc_kraken.decide.filesystem import OLDER
from cc_kraken.decide.plan import Again
from cc_kraken.decide.steps import (
    CreateArray,
    EraseRecords,
    Step,
    StopArray,
    Wipe,
    WriteRecords,
    ZeroSuperblocks,
)
from cc_kraken.machine.md import array_name
from cc_kraken.model import Blank, HalfMade, KrakenError, Look, MdSuperblock


def base(case: Case, looks: Mapping[str, Look]) -> Optional[Base]:
    """From volumes none of which has a superblock.  None: no array is wanted."""
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


def take_back(
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
        blank = shown is not None and isinstance(disks.answered(shown).content, Blank)
        if array.mounted or (array.running and not blank):
            return
        check_no_strangers(case, uuid)
        steps.append(StopArray(case.name, uuid, tuple(intent)))
    steps.append(ZeroSuperblocks(case.name, tuple(intent)))
    raise Again(steps, "then the array is created from the beginning")
