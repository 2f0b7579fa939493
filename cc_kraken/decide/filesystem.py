"""Which filesystem there is, or is to be made (design, section 6).  Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, List, Mapping, Optional, Sequence, Tuple

from cc_kraken.decide.plan import (
    Again,
    SetDecision,
    Stop,
    Target,
    stopped,
    tell,
)
from cc_kraken.decide.steps import (
    EraseRecords,
    MakeFilesystem,
    Step,
    Wipe,
    WriteRecords,
)
from cc_kraken.filesystems import registry
from cc_kraken.machine.partitions import TABLES
from cc_kraken.model import (
    Blank,
    Content,
    HalfMade,
    Known,
    KrakenError,
    Look,
    Record,
    Unknown,
)
from cc_kraken.proof.superblock import MD_MEMBER


class Formatting(SetDecision):
    """From a content to the filesystem that is wanted, or a refusal."""

    def _records(
        self,
        array_uuid: str = "",
        level: int = -1,
        volume_ids: Optional[Collection[str]] = None,
    ) -> Tuple[Record, ...]:
        """The intent on every volume (or these).  ``level`` -1: the array is
        there already, and the record is no licence to take it back."""
        return tuple(
            Record(
                identity=self.identity,
                volume_id=volume_id,
                fs_type=self.wanted.fs_type or "",
                fs_uuid=self.fs_uuid if self.wanted.fs_type else "",
                array_uuid=array_uuid,
                level=level,
                members=self.wanted.members,
            )
            for volume_id in self.volume_ids
            if volume_ids is None or volume_id in volume_ids
        )

    def _mkfs(
        self,
        records: Tuple[Record, ...],
        *,
        array_uuid: str = "",
        permitted: bool = False,
    ) -> MakeFilesystem:
        kind = self.wanted.fs_type or ""
        filesystem = registry.of(kind)
        self._check_programs((filesystem.mkfs,))
        if not array_uuid:
            try:
                size = self._device(records[0].volume_id).size
                filesystem.check_room(self.wanted.mkfs_options, size)
            except KrakenError as error:
                raise Stop(error.trouble) from None
        return MakeFilesystem(
            self.claim.name,
            type=kind,
            uuid=self.fs_uuid,
            label=filesystem.label(self.wanted.label or f"KRKN-{self.claim.name}"),
            options=self.wanted.mkfs_options,
            records=records,
            array_uuid=array_uuid,
            permitted=permitted,
        )

    def _filesystem_steps(
        self, look: Look, target: Target, members: Mapping[str, Look]
    ) -> Tuple[List[Step], Known]:
        """What is to be done until the wanted filesystem is there.

        ``look`` is of where the filesystem belongs, ``members`` of the
        volumes below it (the same one in a set of one), which may carry
        records.
        """
        records = self._records(target.array_uuid, volume_ids=members)
        made = Known(self.wanted.fs_type or "", self.fs_uuid)
        content = look.content
        present = [one.record for one in members.values() if one.record is not None]
        if isinstance(content, Known) and content.ever_mounted:
            # Whole: a record that speaks of something else is its users' data.
            stale = tuple(one for one in present if self._is_of(one, content))
            erase = EraseRecords(self.claim.name, stale, member=self.is_array)
            if content.type == self.wanted.fs_type:
                return [erase] if stale else [], content
            if stale:
                raise Again(erase)
            present = []
        missing = self.claim.trouble
        if missing is not None and (present or isinstance(content, Blank)):
            # Made only where all volumes are there that the record is to name.
            if missing.kind == "members-missing":
                raise Stop(missing)
        permitted = not self.is_array and self._permitted(target.volume_id, look)
        if present:
            try:
                if look.moved is not None and not isinstance(content, Known):
                    # Enlarged since: what it may explain lies elsewhere now.
                    raise self._refuse_record(content, present[0])
                return self._filesystem_of_record(content, present, records, target)
            except Stop as stop:
                # Named with its record, it may be given up like anything else.
                if not permitted:
                    raise self._naming(stop, look, target) from None
        elif isinstance(content, Blank):
            self._check_origin()
            erase = EraseRecords(self.claim.name, records, member=self.is_array)
            write = WriteRecords(self.claim.name, records, member=self.is_array)
            make = self._mkfs(records, array_uuid=target.array_uuid)
            return [write, make, erase], made
        elif isinstance(content, Known) and content.type == self.wanted.fs_type:
            return [], content
        if permitted:
            self._check_origin()
            return self._overwrite_steps(look.fingerprint), made
        raise self._refuse_content(content, look, target)

    def _is_of(self, record: Record, content: Known) -> bool:
        """Whether it is this set's record of making this very filesystem."""
        meant = (record.fs_type, record.fs_uuid) == (content.type, content.uuid)
        return meant and record.identity == self.identity

    def _overwrite_steps(self, fingerprint: str) -> List[Step]:
        """From a content that was given up to the filesystem, on one volume."""
        records = self._records()
        name, volume_ids = self.claim.name, (records[0].volume_id,)
        return [
            Wipe(name, volume_ids[0], fingerprint),
            WriteRecords(name, records, member=False, permitted=volume_ids),
            self._mkfs(records, permitted=True),
            EraseRecords(name, records, member=False),
        ]

    def _filesystem_of_record(
        self,
        content: Content,
        present: Sequence[Record],
        records: Tuple[Record, ...],
        target: Target,
    ) -> Tuple[List[Step], Known]:
        self._check_records(present)
        erase = EraseRecords(
            self.claim.name, tuple(present), member=bool(target.array_uuid)
        )
        first = present[0]
        if isinstance(content, Known):
            if (content.type, content.uuid) != (first.fs_type, first.fs_uuid):
                raise self._refuse_record(content, first)
            if content.type != self.wanted.fs_type:
                # The wish has changed: it is judged without its record.
                raise Again(erase)
            return [erase], content
        if isinstance(content, (Blank, HalfMade)):
            self._check_origin()
            meant = (self.wanted.fs_type, self.fs_uuid)
            if any((one.fs_type, one.fs_uuid) != meant for one in present):
                if isinstance(content, Blank):
                    # Nothing was begun: the wish has changed meanwhile.
                    raise Again(erase)
                raise self._refuse_record(content, first)
            made = Known(first.fs_type, first.fs_uuid)
            make = self._mkfs(tuple(present), array_uuid=target.array_uuid)
            if len(present) == len(records):
                return [make, erase], made
            if isinstance(content, Blank) and set(present) <= set(records):
                write = WriteRecords(self.claim.name, records, member=self.is_array)
                make = self._mkfs(records, array_uuid=target.array_uuid)
                erase = replace(erase, records=records)
                return [write, make, erase], made
            if isinstance(content, Blank):
                raise Again(erase)
            raise self._refuse_record(content, first)
        raise self._refuse_record(content, first)

    def _check_records(self, present: Sequence[Record]) -> None:
        for record in present:
            if record.identity != self.identity:
                raise stopped(
                    "record-foreign",
                    f"{record.volume_id} carries the intent record of another set "
                    "or of other volumes",
                    "a record of this very set, or none",
                    "Look at the volume by hand; to give its content up, see "
                    "overwrite.",
                )

    def _refuse_record(self, content: Content, record: Record) -> Stop:
        return stopped(
            "record-unusable",
            f"{record.volume_id} carries the intent record of making "
            f"{record.fs_type or 'an array'}, but holds {tell(content)}",
            "nothing but zeros and our own half-made structures",
            "It is never mounted or made anew like this. Look at the volume by "
            "hand; to give its content up, see overwrite.",
        )

    def _check_origin(self) -> None:
        for volume in self.claim.volumes:
            if volume.origin:
                raise stopped(
                    "snapshot-blank",
                    f"{volume.id} was made from {volume.origin} and shows no "
                    f"{self.wanted.fs_type or 'array'}",
                    "the content that it was copied from",
                    "A copy is never formatted: use an empty volume, or correct "
                    "FsType.",
                )

    def _naming(self, stop: Stop, look: Look, target: Target) -> Stop:
        """The refusal of a record, with what overwrite would have to name."""
        if not target.volume_id:
            return stop
        remedy = f"{stop.trouble.remedy} " + (
            f"What is there now: overwrite: {{{target.volume_id}: {look.fingerprint}}}."
            if look.fingerprint
            else "For a fingerprint set blank_proof: full, and run again."
        )
        return Stop(replace(stop.trouble, remedy=remedy))

    def _permitted(self, volume_id: str, look: Look) -> bool:
        given = self.wanted.overwrite.get(volume_id, "")
        return bool(given) and bool(look.fingerprint) and given == look.fingerprint

    def _refuse_content(
        self, content: Content, look: Look, target: Target, expected: str = ""
    ) -> Stop:
        where = target.volume_id or f"array {target.array_uuid}"
        path = target.layer.path if target.layer else ""
        partitioned = isinstance(content, Known) and content.type in TABLES
        found = f"{where} ({path}) {'has' if partitioned else 'holds'} {tell(content)}"
        remedy = f"Nothing was written. {self._way_out(content, target)}"
        offset = content.offset if isinstance(content, Unknown) else None
        give_up = "to give this content up"
        if partitioned:
            give_up = "only to give up all that is in it"
        if look.fingerprint and target.volume_id:
            named = f"{{{target.volume_id}: {look.fingerprint}}}"
            remedy += f"; {give_up}, set overwrite: {named}"
        elif offset is not None and target.volume_id:
            remedy += (
                "; to give this content up, set blank_proof: full, and run again for "
                "a fingerprint of every byte"
            )
        kind = "content-other" if isinstance(content, Known) else "content-unknown"
        return stopped(
            kind,
            found,
            expected or f"{self.wanted.fs_type}, or a blank volume",
            remedy + ".",
        )

    def _way_out(self, content: Content, target: Target) -> str:
        """What helps against this content, and destroys nothing."""
        kind = content.type if isinstance(content, Known) else ""
        member = self.is_array and bool(target.volume_id)
        if kind in TABLES:
            by_hand = "take its tags off" if self.is_array else "set FsType to none"
            return (
                "A set uses whole volumes, partitions are not supported. Use a volume "
                f"without a partition table, and copy the files to it; or {by_hand}, "
                "and mount the partition by a line of your own in fstab"
            )
        if member or kind == MD_MEMBER:
            return "Correct VolumeSize, or use another volume"
        if kind in registry.TYPES:
            return "Correct FsType, or use another volume"
        return "Use another volume"
