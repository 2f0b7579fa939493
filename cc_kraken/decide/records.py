"""The intent records of a set: whose they are, and what they permit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Optional

from cc_kraken.decide.case import Case
from cc_kraken.model import Known, Look, Record, failure


def of_set(
    case: Case,
    array_uuid: str = "",
    level: int = -1,
    volume_ids: Optional[Collection[str]] = None,
) -> tuple[Record, ...]:
    """The intent on every volume (or these).  ``level`` -1: the array is
    there already, and the record is no licence to take it back."""
    return tuple(
        Record(
            identity=case.identity,
            volume_id=volume_id,
            fs_type=case.wanted.fs_type or "",
            fs_uuid=case.fs_uuid if case.wanted.fs_type else "",
            array_uuid=array_uuid,
            level=level,
            members=case.wanted.members,
        )
        for volume_id in case.volume_ids
        if volume_ids is None or volume_id in volume_ids
    )


def check_own(case: Case, present: Sequence[Record]) -> None:
    for record in present:
        if record.identity != case.identity:
            raise failure(
                "record-foreign",
                f"{record.volume_id} carries the intent record of another set "
                "or of other volumes.",
                "cc_kraken finishes only what a record of this set began.",
                "Give the volume its old tags back, then: cc-kraken apply. Or use a "
                "new volume.",
            )


def is_of(case: Case, record: Record, content: Known) -> bool:
    """Whether it is this set's record of making this very filesystem."""
    meant = (record.fs_type, record.fs_uuid) == (content.type, content.uuid)
    return meant and record.identity == case.identity


def check_no_copy(case: Case) -> None:
    """Asked before anything is made: a volume of a snapshot is never formatted."""
    for volume in case.claim.volumes:
        if volume.origin:
            raise failure(
                "snapshot-blank",
                f"{volume.id} was made from {volume.origin} and shows no "
                f"{case.wanted.fs_type or 'array'}.",
                "It must hold what it was copied from.",
                "A copy is never formatted: use an empty volume, or correct FsType.",
            )


def permitted(case: Case, volume_id: str, look: Look) -> bool:
    """Whether ``overwrite`` gives up exactly this content."""
    given = case.wanted.overwrite.get(volume_id, "")
    return bool(given) and bool(look.fingerprint) and given == look.fingerprint
