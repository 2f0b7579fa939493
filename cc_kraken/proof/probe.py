"""What a device holds, by direct reads: blank, known, half made, or unknown.

Nothing is written here, and nothing is believed that was not read past the
page cache (open(2), O_DIRECT).  Blank is proved, never assumed: every read
succeeded, every byte of :mod:`cc_kraken.proof.places` and of the samples is zero,
libblkid (``wipefs``) finds nothing.  That alone proves nothing: it says the same
of a read error.
A proof holds until something is written (:mod:`cc_kraken.proof.write_counters`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import HEAD, Found
from cc_kraken.model import (
    Blank,
    Content,
    Extent,
    HalfMade,
    Known,
    KrakenError,
    Look,
    MdSuperblock,
    Record,
    Testimony,
    Unknown,
)
from cc_kraken.proof import directio, judgement, places, record, write_counters
from cc_kraken.proof import superblock as blocks
from cc_kraken.proof.directio import PAGE, Piece, Reader, ReadError, reading
from cc_kraken.proof.judgement import sentence
from cc_kraken.proof.superblock import MD_MEMBER


def look(
    path: str,
    *,
    volume_id: str = "",
    full: bool = False,
    ours: Sequence[Extent] = (),
    licence: Optional[Record] = None,
    fingerprint: bool = False,
    in_use: bool = False,
    made: bool = False,
    seen: Optional[Look] = None,
) -> Look:
    """Classify the device at ``path``.

    ``volume_id``: an intent record of another volume counts as unknown
    content ("": an array, which carries none).  ``full``: read every byte
    before calling it blank.  ``ours``: extents that the recorded step may
    have written; with them and a valid record the outcome is HalfMade or Unknown,
    whatever signature is there by now, but for what was ever mounted.  Beside a
    complete superblock something else that the step writes must be missing.
    ``licence``: that record,
    where it lies elsewhere: on the members of the array at ``path``.
    ``fingerprint``: ask for one also where an md member or a filesystem is
    recognised, which otherwise takes a handful of reads.
    ``in_use``: it is mounted, or in an array that is: what lies in a record's place
    is its users', and where our own reading finds one whole superblock, the tools are
    not asked.  Nor are they of what we have ``made`` a moment ago where it was proved
    blank.
    ``seen``: an earlier answer to this very question.  It is the answer again where
    it was blank or known and the kernel testifies that nothing was written since.
    Where it was unknown, the same samples are read again.

    The fingerprint is a sha256 (hex) over what the fixed places and the intent
    record hold (with ``full``, and nothing there: over everything), the size
    and the volume id.  It is "" when the fixed places are all zero or could
    not be read in whole.

    A device that is missing, unreadable or no block device is Unknown.
    Raises KrakenError only where a program is missing.
    """
    try:
        with reading(path):
            reader = Reader(path)
    except OSError as error:
        return Look(_unopened(path, error))
    with reader:
        with reading(path):  # it flushes
            # Before the first byte is read: what is written after it counts.
            testimony = write_counters.testimony(reader.fd)
        if seen is not None and _holds(seen, testimony):
            return seen
        drawn = random.randrange(1, 1 << 32)
        if seen is not None and isinstance(seen.content, Unknown):
            # Where a read failed it must succeed: other samples might miss the place.
            drawn = seen.drawn or drawn
        examination = _Examination(
            reader,
            volume_id,
            full,
            tuple(ours),
            licence,
            fingerprint,
            in_use,
            made,
            drawn,
        )
        counted = write_counters.sectors_read(reader.fd)
        content, mark = examination.outcome()
        # Of a device in use not all was asked.
        read = reader.bytes_read
        if in_use or not write_counters.counts(reader.fd, counted, read):
            testimony = None
        return Look(
            content,
            examination.record,
            mark,
            examination.moved,
            reader.bytes_read,
            reader.reads,
            testimony,
            drawn,
        )


def _holds(seen: Look, testimony: Optional[Testimony]) -> bool:
    same = testimony is not None and seen.testimony == testimony
    return same and isinstance(seen.content, (Blank, Known))


def superblock(path: str) -> Optional[MdSuperblock]:
    """The md superblock of the device at ``path``, if there is exactly one,
    of version 1.x and without a flaw.  Never raises."""
    try:
        with Reader(path) as reader:
            found = blocks.scan(reader.read, reader.size)
    except (OSError, ReadError):
        return None
    members = [one for one in found if one.type == MD_MEMBER]
    if len(members) != 1 or members[0].flaw:
        return None
    return members[0].superblock


def head(path: str, offset: int) -> Optional[Content]:
    """The filesystem that begins at ``offset`` of the device at ``path``: of
    an array that does not run, read through the member with its first chunk.

    Known by our own parser alone, so good for a forecast and for nothing
    else; Unknown where something else is there or cannot be read, None where
    the 128 KiB read are zero.
    """
    try:
        with Reader(path) as reader:
            data = reader.read(offset, HEAD)
    except OSError as error:
        return _unopened(path, error)
    except ReadError as error:
        return _unread(error)
    found = registry.superblocks(data, 1 << 63)
    if len(found) == 1 and not found[0].flaw:
        return judgement.known(found[0])
    first = directio.first_byte(data, offset)
    if first is None:
        return None
    flaw = next((one.flaw for one in found if one.flaw), "")
    return Unknown(sentence(flaw or "data without a known signature"), first)


def _unopened(path: str, error: OSError) -> Unknown:
    """Why a device cannot be opened."""
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
        why = os.strerror(error.errno)
        # With a node and without a disk: one that is about to come, or to go.
        unread = error.errno != errno.ENOENT
        return Unknown(f"{path} is not there ({why})", unread=unread)
    if error.errno == errno.ENOTBLK:
        return Unknown(f"{path} is not a block device")
    return Unknown(f"{path} cannot be opened for direct reads ({error.strerror})")


# --------------------------------------------------------------- one whole look

Answer = tuple[Content, str]
"""A content, and its fingerprint."""


@dataclass
class _Examination:
    """One look, in its order: signatures, record, proof."""

    reader: Reader
    volume_id: str
    full: bool
    ours: tuple[Extent, ...]
    licence: Optional[Record]
    fingerprint: bool
    in_use: bool
    made: bool
    drawn: int
    record: Optional[Record] = None
    moved: Optional[int] = None
    exempt: tuple[Extent, ...] = ()
    strange: Optional[Unknown] = None

    def outcome(self) -> Answer:
        path, size = self.reader.path, self.reader.size
        if size <= 0:
            return Unknown(f"{path} has no size: nothing is bound to it."), ""
        try:
            found = blocks.scan(self.reader.read, size)
            self._find_records(found)
        except ReadError as error:
            return _unread(error), ""
        alone = self._alone(found)
        if alone is not None:
            return alone, ""
        try:
            said = judgement.signs(path)
        except KrakenError as error:
            if error.trouble.kind == "program-missing":
                raise
            slow = error.trouble.kind == "command-timeout"
            return Unknown(str(error), unread=slow), ""
        content = self.strange or judgement.judge(found, said)
        if self.ours and self.strange is None and (self.record or self.licence):
            if not any(one.ever_mounted for one in found):
                return self._half_made(found)
        if isinstance(content, Known) and not self.fingerprint:
            if content.type in (MD_MEMBER, *registry.KINDS):
                return content, ""
        if content is not None:
            return content, self._digest(self._fixed(()))
        pieces, mark = self._whole(self.exempt)
        content = _in_the_way(pieces)
        return (Blank(), "") if content is None else (content, mark)

    def _alone(self, found: Sequence[Found]) -> Optional[Known]:
        """What our own reading alone tells: the kernel uses it as this, or we have
        made it where nothing was.  What else could the tools find?"""
        if self.ours or self.fingerprint or self.strange is not None:
            return None
        if self.made or (self.in_use and self.record is None):
            return judgement.judge_used(found)
        return None

    def _find_records(self, found: Sequence[Found]) -> None:
        """Which of the blocks that may carry an intent record does.

        What lies there in a filesystem that was ever mounted, or is now, is its
        users', but for the very record of this filesystem.
        """
        users = self.in_use and not self.ours and not self.fingerprint
        if users or not self.volume_id:
            return
        used = [one for one in found if one.ever_mounted]
        spots: list[tuple[int, Record]] = []
        for place in self._places(found):
            decoded = record.decode(self.reader.read(place, record.BLOCK))
            if decoded is None:
                continue
            if used and not any(self._speaks_of(decoded, one) for one in used):
                continue
            if decoded.volume_id != self.volume_id:
                self.strange = Unknown(
                    f"An intent record of {decoded.volume_id}: this is a copy of "
                    "that volume, made before it was finished.",
                    place,
                )
                return
            spots.append((place, decoded))
        if used:
            del spots[1:]
        if any(decoded != spots[0][1] for _, decoded in spots):
            self.strange = Unknown("Two intent records that differ.", spots[0][0])
        elif spots:
            self.record = spots[0][1]
            now = record.places(self.reader.size)
            if not any(place in now for place, _ in spots):
                self.moved = spots[0][0]
            self.exempt = tuple(record.extent(place) for place, _ in spots)

    def _places(self, found: Sequence[Found]) -> Sequence[int]:
        """Offsets of the blocks that may carry a record, outside of what an array
        holds: as a member and as a volume of its own, of this size and of that which
        a filesystem was made for."""
        size = self.reader.size
        member, single = record.places(size)
        blocks = [one.superblock for one in found if one.superblock is not None]
        if blocks:
            end = record.extent(member).end
            free = all(one.minor == 2 and end <= one.data_offset for one in blocks)
            return (member,) if free else ()
        former = {record.former_place(size, one.size) for one in found}
        places_of = {single, *(place for place in former if place is not None)}
        if not any(one.ever_mounted for one in found):
            places_of.add(member)
        return sorted(place for place in places_of if 0 <= place <= size - record.BLOCK)

    def _speaks_of(self, decoded: Record, one: Found) -> bool:
        return decoded.volume_id == self.volume_id and (
            decoded.fs_type,
            decoded.fs_uuid,
            decoded.array_uuid,
        ) == (one.type, one.uuid, "")

    def _half_made(self, found: Sequence[Found]) -> Answer:
        pieces, mark = self._whole(self.exempt + self.ours)
        content = _in_the_way(pieces)
        whole = next((one for one in found if not one.flaw), None)
        if content is None and whole is not None and not self._is_gap(self.ours):
            content = Unknown(
                f"{whole.type} that its checker does not call whole, though nothing "
                "is missing of what mkfs writes.",
                whole.offset,
            )
        return content or HalfMade(), mark

    def _is_gap(self, extents: Sequence[Extent]) -> bool:
        """Whether any block of these is zero."""
        return any(
            directio.is_zero(data[at : at + PAGE])
            for span in directio.spans(extents)
            for data in [self.reader.piece(*span)]
            for at in range(0, len(data), PAGE)
        )

    def _whole(self, exempt: tuple[Extent, ...]) -> tuple[tuple[Piece, ...], str]:
        """Fixed places, and only if nothing is there the rest; the fingerprint."""
        pieces = self._fixed(exempt)
        mark = self._digest(pieces)
        if _in_the_way(pieces) is not None:
            return pieces, mark
        size = self.reader.size
        if not self.full:
            rest = places.samples(size, random.Random(self.drawn))
            return self.reader.survey(rest, exempt), mark
        pieces = self.reader.survey(places.places(size, whole=True), exempt)
        return pieces, mark or self._digest(pieces)

    def _fixed(self, exempt: tuple[Extent, ...]) -> tuple[Piece, ...]:
        return self.reader.survey(places.places(self.reader.size), exempt)

    def _digest(self, pieces: Sequence[Piece]) -> str:
        if not pieces or any(piece.error for piece in pieces):
            return ""
        lines = [f"cc_kraken 1 {self.volume_id} {self.reader.size}"]
        lines += [f"{piece.start} {piece.digest}" for piece in pieces]
        if self.record is not None:
            text = record.encode(self.record)
            lines.append(f"record {hashlib.sha256(text).hexdigest()}")
        return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def _unread(error: ReadError) -> Unknown:
    return Unknown(sentence(str(error)), error.offset, unread=True)


def _in_the_way(pieces: Sequence[Piece]) -> Optional[Unknown]:
    for piece in pieces:
        if piece.error:
            return Unknown(sentence(piece.error), piece.in_the_way, unread=True)
    for piece in pieces:
        if piece.in_the_way is not None:
            return Unknown("Data without a known signature.", piece.in_the_way)
    return None
