"""Which filesystem is there, or is to be made (design, section 6)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from cc_kraken.decide import records, refusal
from cc_kraken.decide.case import Base, Case
from cc_kraken.decide.disks import answered
from cc_kraken.decide.plan import Again
from cc_kraken.decide.steps import (
    EraseRecords,
    MakeFilesystem,
    Step,
    Wipe,
    WriteRecords,
)
from cc_kraken.filesystems import registry
from cc_kraken.machine import fstab
from cc_kraken.model import Blank, Content, HalfMade, Known, KrakenError, Look, Record
from cc_kraken.proof.superblock import MD_MEMBER

Found = tuple[list[Step], Optional[Known]]
OLDER = "what follows is decided when the older intent is gone"


def steps(case: Case, base: Base) -> Found:
    """What is to be done until the wanted filesystem is there, and which it is."""
    if base.created:
        return _on_new_array(case, base)
    if case.wanted.fs_type is None:
        return [*base.steps, *_leftovers(case, base)], None
    if base.look is None:
        return _on_unseen_array(case, base)
    more, known = _on(case, base, answered(case, base.look))
    return [*base.steps, *more], known


def _made(case: Case) -> Known:
    return Known(case.wanted.fs_type or "", case.fs_uuid)


def _erase(case: Case, those: Sequence[Record]) -> EraseRecords:
    return EraseRecords(case.name, tuple(those), member=case.is_array)


def _present(base: Base) -> list[Record]:
    return [one.record for one in base.members.values() if one.record is not None]


def _mkfs(
    case: Case, intent: Sequence[Record], array_uuid: str = "", permitted: bool = False
) -> MakeFilesystem:
    kind = registry.of(case.wanted.fs_type or "")
    case.check_program(kind.mkfs)
    if not array_uuid:
        size = case.device(intent[0].volume_id).size
        kind.check_room(case.wanted.mkfs_options, size)
    return MakeFilesystem(
        case.name,
        type=kind.name,
        uuid=case.fs_uuid,
        label=kind.label(case.wanted.label or f"KRKN-{case.name}"),
        options=case.wanted.mkfs_options,
        records=tuple(intent),
        array_uuid=array_uuid,
        permitted=permitted,
    )


def _on_new_array(case: Case, base: Base) -> Found:
    out = list(base.steps)
    if case.wanted.fs_type:
        uuid = base.target.array_uuid
        out.append(_mkfs(case, base.created, uuid, permitted=bool(base.wiped)))
    return [*out, _erase(case, base.created)], _made(case)


def _leftovers(case: Case, base: Base) -> list[Step]:
    """No filesystem is wanted on the array: only a record may still lie there."""
    present = _present(base)
    records.check_own(case, present)
    if any(record.fs_type for record in present):
        raise refusal.of_record(Known(MD_MEMBER), present[0])
    return [_erase(case, present)] if present else []


def _on_unseen_array(case: Case, base: Base) -> Found:
    """The array does not run: its first chunk, read through the member
    that holds it, tells what it will show."""
    wanted, world, uuid = case.wanted, case.world, base.target.array_uuid
    head = world.heads.get(uuid)
    # Whether a line of somebody else's names it shows when the array runs.
    theirs = fstab.on_path(world.fstab_foreign, wanted.mount_path or "")
    if not _present(base) and not theirs:
        if isinstance(head, Known) and head.type == wanted.fs_type:
            return list(base.steps), head
    raise Again(
        base.steps,
        f"where the array holds {wanted.fs_type}: it is mounted",
        "where it holds anything else: it is refused",
        array_uuid=uuid,
    )


def _on(case: Case, base: Base, look: Look) -> Found:
    """On a volume, or on an array that runs, where this look was taken."""
    content, present, target = look.content, _present(base), base.target
    if isinstance(content, Known) and content.ever_mounted:
        # Whole: a record that speaks of something else is its users' data.
        stale = [one for one in present if records.is_of(case, one, content)]
        if content.type == case.wanted.fs_type:
            return [_erase(case, stale)] if stale else [], content
        if stale:
            raise Again([_erase(case, stale)], OLDER)
        present = []
    missing = case.claim.trouble
    if missing is not None and (present or isinstance(content, Blank)):
        # Made only where all volumes are there that the record is to name.
        if missing.kind == "members-missing":
            raise KrakenError(missing)
    given_up = not case.is_array and records.permitted(case, target.volume_id, look)
    if present:
        try:
            return _of_record(case, base, look, present)
        except KrakenError as error:
            # Named with its record, it may be given up like anything else.
            if not given_up:
                raise refusal.naming(error, look, target) from None
    elif isinstance(content, Blank):
        return _on_blank(case, base), _made(case)
    elif isinstance(content, Known) and content.type == case.wanted.fs_type:
        return [], content
    if given_up:
        return _over(case, target.volume_id, look.fingerprint), _made(case)
    raise refusal.of_content(case, look, target)


def _on_blank(case: Case, base: Base) -> list[Step]:
    records.check_no_copy(case)
    uuid = base.target.array_uuid
    intent = records.of_set(case, uuid, volume_ids=base.members)
    write = WriteRecords(case.name, intent, member=case.is_array)
    return [write, _mkfs(case, intent, uuid), _erase(case, intent)]


def _over(case: Case, volume_id: str, fingerprint: str) -> list[Step]:
    """From a content that was given up to the filesystem, on one volume."""
    records.check_no_copy(case)
    intent = records.of_set(case)
    return [
        Wipe(case.name, volume_id, fingerprint),
        WriteRecords(case.name, intent, member=False, permitted=(volume_id,)),
        _mkfs(case, intent, permitted=True),
        _erase(case, intent),
    ]


def _of_record(case: Case, base: Base, look: Look, present: list[Record]) -> Found:
    """What a record of ours permits: to go on with what it names, or nothing."""
    content, first = look.content, present[0]
    if look.moved is not None and not isinstance(content, Known):
        # Enlarged since: what it may explain lies elsewhere now.
        raise refusal.of_record(content, first)
    records.check_own(case, present)
    if isinstance(content, Known):
        if (content.type, content.uuid) != (first.fs_type, first.fs_uuid):
            raise refusal.of_record(content, first)
        if content.type != case.wanted.fs_type:
            # The wish has changed: it is judged without its record.
            raise Again([_erase(case, present)], OLDER)
        return [_erase(case, present)], content
    if not isinstance(content, (Blank, HalfMade)):
        raise refusal.of_record(content, first)
    records.check_no_copy(case)
    return _go_on(case, base, content, present), Known(first.fs_type, first.fs_uuid)


def _go_on(
    case: Case, base: Base, content: Content, present: list[Record]
) -> list[Step]:
    """Make what the records name, where nothing else lies."""
    uuid = base.target.array_uuid
    intent = records.of_set(case, uuid, volume_ids=base.members)
    meant = (case.wanted.fs_type, case.fs_uuid)
    same = all((one.fs_type, one.fs_uuid) == meant for one in present)
    if same and len(present) == len(intent):
        return [_mkfs(case, present, uuid), _erase(case, present)]
    if not isinstance(content, Blank):
        raise refusal.of_record(content, present[0])
    if same and set(present) <= set(intent):
        return _on_blank(case, base)
    # Nothing was begun: the wish has changed meanwhile.
    raise Again([_erase(case, present)], OLDER)
