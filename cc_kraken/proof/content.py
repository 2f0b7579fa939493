"""What a device holds, by direct reads: blank, known, half made, or unknown.

Nothing is written here, and nothing is believed that was not read past the
page cache (open(2), O_DIRECT).  Blank is proved, never assumed: every read
succeeded, every byte of :mod:`cc_kraken.proof.places` and of the samples is zero,
libblkid (``wipefs``) finds nothing.  That alone proves nothing: it says the same
of a read error.
A proof holds until something is written (:mod:`cc_kraken.proof.write_counters`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import random
import stat
import threading
import time
from dataclasses import dataclass
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import HEAD, Found
from cc_kraken.machine.command import run
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
    Trouble,
    Unknown,
)
from cc_kraken.proof import aio, directio, places, record, write_counters
from cc_kraken.proof import superblock as blocks
from cc_kraken.proof.superblock import MD_MEMBER

LOG = logging.getLogger(__name__)

PAGE = 4096
#: Bytes of one read at most.
PIECE = 1 << 20
#: Seconds that :func:`locked` waits, and between two tries.
LOCK_WAIT = 30.0
LOCK_PAUSE = 0.1

#: blkid's exit status where it finds nothing, or something fails.
NOTHING_FOUND = 2
PARTITION_TABLES = ("gpt", "dos", "PMBR")

_ZERO = bytes(PIECE)


def look(
    path: str,
    *,
    volume_id: str = "",
    full: bool = False,
    ours: Sequence[Extent] = (),
    licence: Optional[Record] = None,
    rng: Optional[random.Random] = None,
    fingerprint: bool = False,
    in_use: bool = False,
    made: Optional[Tuple[str, str]] = None,
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
    ``rng``: of the samples.
    ``fingerprint``: ask for one also where an md member or a filesystem is
    recognised, which otherwise takes a handful of reads.
    ``in_use``: it is mounted, or in an array that is: what lies in a record's place
    is its users', and where our own reading finds one whole superblock, the tools are
    not asked.  Nor are they of what was ``made`` (type, UUID) a moment ago where it
    was proved blank.

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
        return Look(Unknown(_opening(path, error)))
    try:
        return _Examination(
            path,
            reader,
            volume_id,
            full,
            tuple(ours),
            licence,
            rng,
            fingerprint,
            in_use,
            made,
        ).outcome()
    finally:
        reader.close()


def superblock(path: str) -> Optional[MdSuperblock]:
    """The md superblock of the device at ``path``, if there is exactly one,
    of version 1.x and without a flaw.  Never raises."""
    try:
        reader = Reader(path)
    except OSError:
        return None
    try:
        found = [one for one in blocks.scan(reader.read, reader.size)]
    except ReadError:
        return None
    finally:
        reader.close()
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
        reader = Reader(path)
    except OSError as error:
        return Unknown(_opening(path, error))
    try:
        data = reader.read(offset, HEAD)
    except ReadError as error:
        return Unknown(_sentence(str(error)), error.offset)
    finally:
        reader.close()
    found = registry.superblocks(data, 1 << 63)
    if len(found) == 1 and not found[0].flaw:
        return _known(found[0])
    first = first_byte(data, offset, ())
    if first is None:
        return None
    flaw = next((one.flaw for one in found if one.flaw), "")
    return Unknown(_sentence(flaw or "data without a known signature"), first)


@contextlib.contextmanager
def locked(path: str, wait: float = LOCK_WAIT) -> Iterator[int]:
    """Hold the exclusive lock of a whole disk, which udev honours; yields
    the read-only descriptor.

    Source: systemd.io/BLOCK_DEVICE_LOCKING.  ``wait`` in seconds.  Raises
    KrakenError ``device-locked`` or ``device-missing``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KrakenError(
            Trouble(
                "device-missing",
                _opening(path, error),
                "a disk that can be opened",
                "See whether its volume is still attached.",
            )
        ) from error
    try:
        _lock(fd, path, time.monotonic() + wait)
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, path: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise KrakenError(
                Trouble(
                    "device-locked",
                    f"another process holds the lock of {path}",
                    "the exclusive lock of the disk (flock)",
                    f"See who holds it: lsof {path}.",
                    waits=True,
                )
            )
        time.sleep(LOCK_PAUSE)


def _opening(path: str, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
        return f"there is no device at {path} ({os.strerror(error.errno)})"
    if error.errno == errno.ENOTBLK:
        return f"{path} is not a block device"
    return f"{path} cannot be opened for direct reads ({error.strerror})"


# ------------------------------------------------------------- direct reading


class ReadError(Exception):
    """``offset`` could not be read; ``why`` completes the sentence."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"read error at {offset}: {why}")
        self.offset = offset


_under_way: Dict[int, Tuple[str, float]] = {}
"""By thread: the device that it reads right now, and since when."""


class reading:
    """While this thread waits for an answer of this device (a context)."""

    __slots__ = ("_path", "_thread")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        _under_way[self._thread] = self._path, time.monotonic()

    def __exit__(self, *_: object) -> None:
        _under_way.pop(self._thread, None)


def waiting(path: str) -> float:
    """Seconds that the oldest read of this device has been waiting; 0 for none."""
    begun = [since for of, since in list(_under_way.values()) if of == path]
    return time.monotonic() - min(begun) if begun else 0.0


class Reader:
    """Direct reads of one block device."""

    def __init__(self, path: str) -> None:
        """Raises OSError; ENOTBLK where ``path`` is something else."""
        if not stat.S_ISBLK(os.stat(path).st_mode):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
        flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK
        self.path = path
        self.fd = os.open(path, flags)
        try:
            if not stat.S_ISBLK(os.fstat(self.fd).st_mode):
                raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
            # blkid and wipefs read through the page cache: what lies there
            # and is not dirty goes (nothing is written by this)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            os.close(self.fd)
            raise
        self.reads = 0
        self.bytes_read = 0
        # anonymous memory begins at a page, as O_DIRECT asks for
        self._buffer = memoryview(mmap.mmap(-1, PIECE))
        self._batches: List[aio.Batch] = []

    def close(self) -> None:
        try:
            with reading(self.path):  # what is under way still ends
                for batch in self._batches:
                    batch.close()
        finally:
            os.close(self.fd)

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, at any alignment, cut at the end
        of the device.  Raises ReadError."""
        end = min(start + length, self.size)
        first = start // PAGE * PAGE
        last = min(self.size, -(-end // PAGE) * PAGE)
        parts = [
            bytes(self.piece(at, min(PIECE, last - at)))
            for at in range(first, last, PIECE)
        ]
        return b"".join(parts)[start - first : end - first]

    def piece(self, start: int, length: int) -> memoryview:
        """One aligned read of 1 MiB at most, never a short one; it is there
        until the next read.  Raises ReadError with the offset of the first
        page that cannot be read."""
        try:
            return self._direct(start, length)
        except ReadError as error:
            raise self._narrowed(start, length, error) from error

    def pieces(self, extents: Iterable[Extent]) -> Iterator[Sequence[Read]]:
        """What is not zero of ``extents``, or cannot be read: aligned pieces,
        many at a time, the next ones being read meanwhile.  The data is there
        until the next ones are asked for."""
        spans = (
            (start, min(PIECE, extent.end - start))
            for extent in extents
            for start in range(extent.start, extent.end, PIECE)
        )
        try:
            while len(self._batches) < 2:
                self._batches.append(aio.Batch(self.fd))
        except OSError as error:
            LOG.debug("%s: read one by one (%s)", self.path, error)
            for span in spans:
                yield self._one(span)
            return
        now, then = self._batches
        batches = aio.batches(spans)
        self._begin(now, next(batches, ()))
        while now.spans:
            self._begin(then, next(batches, ()))
            yield self._end(now)
            now, then = then, now

    def _one(self, span: aio.Span) -> Sequence[Read]:
        try:
            view = self.piece(*span)
        except ReadError as error:
            return [(span[0], error)]
        return [] if _is_zero(view) else [(span[0], view)]

    def _begin(self, batch: aio.Batch, spans: Sequence[aio.Span]) -> None:
        with reading(self.path):
            batch.begin(spans)

    def _end(self, batch: aio.Batch) -> Sequence[Read]:
        with reading(self.path):
            batch.end()
        self.reads += len(batch.spans)
        self.bytes_read += sum(length for _, length in batch.spans)
        if batch.zero:
            return []
        return [
            (start, self._failed(start, length, result))
            if result != length
            else (start, batch.data(number))
            for number, (start, length) in enumerate(batch.spans)
            for result in [batch.result(number)]
            if result != length or not _is_zero(batch.data(number))
        ]

    def _failed(self, start: int, length: int, result: int) -> ReadError:
        why = os.strerror(-result) if result < 0 else _short(result, length)
        return self._narrowed(start, length, ReadError(start, why))

    def _narrowed(self, start: int, length: int, error: ReadError) -> ReadError:
        """The error of the first page of these that cannot be read; ``error``
        itself where by now all of them can."""
        good = 0
        bad = -(-length // PAGE)
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._direct(start + good * PAGE, (middle - good) * PAGE)
            except ReadError:
                bad = middle
            else:
                good = middle
        left = min(PAGE, length - good * PAGE)
        try:
            self._direct(start + good * PAGE, left)
        except ReadError as nearer:
            return nearer
        return error

    def _direct(self, start: int, length: int) -> memoryview:
        view = self._buffer[:length]
        try:
            with reading(self.path):
                count = directio.preadv(self.fd, view, start)
        except OSError as error:
            raise ReadError(start, error.strerror or "failed") from error
        if count != length:
            raise ReadError(start, _short(count, length))
        self.reads += 1
        self.bytes_read += length
        return view


Read = Tuple[int, Union[memoryview, ReadError]]
"""Where a piece begins, and its data or why there is none."""


def _short(count: int, length: int) -> str:
    return f"only {count} of {length} bytes came"


def _is_zero(view: memoryview) -> bool:
    # memcmp(3), without a copy
    return _ZERO.startswith(view)


@dataclass(frozen=True)
class _Piece:
    """What one read told: a digest, and the first byte that is in the way
    (also the one that could not be read, with its error)."""

    start: int
    digest: str = ""
    in_the_way: Optional[int] = None
    error: str = ""


@dataclass(frozen=True)
class _Survey:
    """What many reads told: ``found`` are those that were not all zero, in
    the order of their place."""

    found: Tuple[_Piece, ...]

    @property
    def error(self) -> Optional[_Piece]:
        return next((piece for piece in self.found if piece.error), None)

    @property
    def in_the_way(self) -> Optional[int]:
        return min(
            (piece.in_the_way for piece in self.found if piece.in_the_way is not None),
            default=None,
        )


def _survey(
    reader: Reader, extents: Iterable[Extent], exempt: Sequence[Extent]
) -> _Survey:
    """Read ``extents``, many pieces at a time."""
    found = [
        _judge_piece(start, data, exempt)
        for pieces in reader.pieces(extents)
        for start, data in pieces
    ]
    return _Survey(tuple(found))


def _judge_piece(
    start: int, view: Union[memoryview, ReadError], exempt: Sequence[Extent]
) -> _Piece:
    """Of a piece that is not zero, or could not be read."""
    if isinstance(view, ReadError):
        return _Piece(start, in_the_way=view.offset, error=str(view))
    data = bytes(view)
    digest = hashlib.sha256(data).hexdigest()
    return _Piece(start, digest, first_byte(data, start, exempt))


def first_byte(data: bytes, start: int, exempt: Sequence[Extent]) -> Optional[int]:
    """The offset of the first byte of ``data``, read at ``start``, that is
    neither zero nor in one of the extents ``exempt``."""
    rest = data
    for extent in exempt:
        low = max(0, extent.start - start)
        high = min(len(data), extent.end - start)
        if low < high:
            rest = rest[:low] + bytes(high - low) + rest[high:]
    bare = rest.lstrip(b"\0")
    return start + len(rest) - len(bare) if bare else None


# --------------------------------------------------------- what the tools say


@dataclass(frozen=True)
class Signs:
    """What ``blkid -p`` and ``wipefs`` say of a device.

    ``code``: blkid's exit status, or what it would be (:func:`signs`).
    ``tags``: of blkid (TYPE, UUID, PTTYPE …).  ``signatures``: offset and type,
    of wipefs.
    """

    code: int
    tags: Dict[str, str]
    wipefs_code: int
    signatures: Tuple[Tuple[int, str], ...]

    @property
    def nothing(self) -> bool:
        return (
            self.code == NOTHING_FOUND
            and not self.tags
            and self.wipefs_code == 0
            and not self.signatures
        )

    @property
    def names(self) -> Tuple[str, ...]:
        """Every type that either names; GPT's protective MBR is part of it."""
        found = {name for _, name in self.signatures}
        found.update(self.tags[key] for key in ("TYPE", "PTTYPE") if key in self.tags)
        if "gpt" in found:
            found -= {"PMBR", "dos"}
        return tuple(sorted(found))


def signs(path: str) -> Signs:
    """Ask wipefs, and blkid where there is anything to name.  Raises KrakenError
    (program missing, no answer).

    Both look by libblkid, at the same places for the same types; wipefs takes also
    what has a wrong checksum, and a GPT without its MBR.  So where it finds nothing
    blkid does not either (misc-utils/wipefs.c, new_probe; misc-utils/blkid.c).
    """
    wipefs = run(["wipefs", "--no-act", "--json", path])
    listed = _listed(wipefs.out)
    code = wipefs.code if listed is not None else wipefs.code or -1
    if code == 0 and not listed:
        return Signs(NOTHING_FOUND, {}, code, ())
    blkid = run(["blkid", "-p", "-o", "export", path])
    tags = dict(line.split("=", 1) for line in blkid.out.splitlines() if "=" in line)
    tags.pop("DEVNAME", None)
    return Signs(blkid.code, tags, code, tuple(listed or ()))


def _known(found: Found) -> Known:
    return Known(
        found.type,
        found.uuid,
        found.label,
        size=found.size,
        errors=found.errors,
        ever_mounted=found.ever_mounted,
    )


def _listed(text: str) -> Optional[List[Tuple[int, str]]]:
    if not text.strip():
        # older ones print nothing at all for an empty list
        return []
    try:
        return [
            (int(entry["offset"], 0), str(entry["type"]))
            for entry in json.loads(text)["signatures"]
        ]
    except (ValueError, KeyError, TypeError):
        return None


# ------------------------------------------------------------------- judgement


def judge(found: Sequence[Found], said: Signs) -> Optional[Content]:
    """Known or Unknown by signatures, None where there is not one: pure.

    Known is what exactly one signature says, of which our own parser (for
    md, ext, xfs, btrfs), blkid and wipefs say the same.
    """
    members = [one for one in found if one.type == MD_MEMBER]
    if members:
        return _judge_member(members, found, said)
    for one in found:
        if one.flaw:
            return Unknown(_sentence(one.flaw), one.offset)
    if said.nothing and not found:
        return None
    names = " and ".join(sorted({*said.names, *(one.type for one in found)}))
    first = min((offset for offset, _ in said.signatures), default=None)
    if said.code == 8 or len(said.names) > 1 or len(found) > 1:
        return Unknown(f"More than one signature: {names}.", first)
    if said.code not in (0, NOTHING_FOUND) or said.wipefs_code != 0:
        return Unknown(
            f"blkid and wipefs failed (exit status {said.code} and "
            f"{said.wipefs_code}){': ' + names if names else ''}.",
            first,
        )
    return _judge_one(found[0] if found else None, said, names, first)


def judge_used(found: Sequence[Found]) -> Optional[Known]:
    """What a device in use holds, None where that is not plain: its one
    superblock, and of a member of an array the array's."""
    members = [one for one in found if one.type == MD_MEMBER]
    if len(members) > 1 or (not members and len(found) != 1):
        return None
    one = members[0] if members else found[0]
    if one.flaw or (members and one.superblock is None):
        return None
    if members:
        return Known(MD_MEMBER, one.uuid, one.label, one.superblock)
    return _known(one)


def _judge_one(
    own: Optional[Found], said: Signs, names: str, first: Optional[int]
) -> Content:
    kind = said.tags.get("TYPE") or said.tags.get("PTTYPE") or ""
    uuid = said.tags.get("UUID") or said.tags.get("PTUUID") or ""
    agreed = said.code == 0 and kind and {name for _, name in said.signatures} != set()
    if kind in registry.KINDS or own is not None:
        agreed = (
            agreed and own is not None and (own.type, own.uuid) == (kind, uuid.lower())
        )
    if not agreed:
        return Unknown(
            f"Those who looked for signatures do not agree about {names} "
            f"(blkid: {kind or 'nothing'}, wipefs: "
            f"{', '.join(sorted({n for _, n in said.signatures})) or 'nothing'}, "
            f"our own reading: {own.type if own else 'nothing'}).",
            own.offset if own else first,
        )
    if own is not None:
        return _known(own)
    return Known(kind, uuid, said.tags.get("LABEL", ""))


def _judge_member(
    members: Sequence[Found], found: Sequence[Found], said: Signs
) -> Content:
    """An md member is one although other signatures show on it, if they lie
    in what md leaves alone before its data (remains of what was there before)
    or in its data (a mirror with its superblock at the end shows its
    filesystem).  It is not with a second md superblock; nor, where the
    superblock is at the start, with a partition table, or an ext with blocks
    of 1 KiB, which could be whole and in use around it."""
    one = members[0]
    if len(members) > 1:
        places_of = " and ".join(str(member.offset) for member in members)
        return Unknown(f"More than one md superblock: at {places_of}.", one.offset)
    if one.flaw:
        return Unknown(_sentence(one.flaw), one.offset)
    if said.code != 0 or said.tags.get("TYPE") != MD_MEMBER or said.wipefs_code != 0:
        return Unknown(
            "An md superblock that blkid does not take for one (exit status "
            f"{said.code}: {', '.join(said.names) or 'nothing'}).",
            one.offset,
        )
    block = one.superblock
    if block is None:
        return Known(MD_MEMBER, one.uuid, one.label)
    if said.tags.get("UUID", "").lower() != one.uuid:
        return Unknown("blkid reads another UUID of the md superblock.", one.offset)
    for offset, name in said.signatures:
        if name == MD_MEMBER:
            inside = one.offset <= offset < one.offset + blocks.MD_SIZE
        elif block.minor == 0:
            inside = block.data_offset <= offset < block.data_offset + block.data_size
        else:
            whole = any(
                other.type == name and name != MD_MEMBER and 0 < other.block <= 1024
                for other in found
            )
            inside = (
                offset < block.data_offset + block.data_size
                and name not in PARTITION_TABLES
                and not whole
            )
        if not inside:
            return Unknown(
                f"An md member that also carries a signature of {name}.", offset
            )
    return Known(MD_MEMBER, one.uuid, one.label, block)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# --------------------------------------------------------------- one whole look


class _Examination:
    """One look, in its order: signatures, record, proof."""

    def __init__(
        self,
        path: str,
        reader: Reader,
        volume_id: str,
        full: bool,
        ours: Tuple[Extent, ...],
        licence: Optional[Record],
        rng: Optional[random.Random],
        fingerprint: bool,
        in_use: bool,
        made: Optional[Tuple[str, str]],
    ) -> None:
        self.path = path
        self.reader = reader
        self.volume_id = volume_id
        self.full = full
        self.ours = ours
        self.licence = licence
        self.rng = rng or random.Random()
        self.fingerprint = fingerprint
        self.in_use = in_use and not ours and not fingerprint
        self.made = made
        self.record: Optional[Record] = None
        self.moved: Optional[int] = None
        self.exempt: Tuple[Extent, ...] = ()
        self.strange: Optional[Unknown] = None
        # Before the first byte is read: what is written after it counts.
        with reading(path):  # it flushes
            self.testimony = write_counters.testimony(reader.fd)
        self.counted = write_counters.sectors_read(reader.fd)

    def outcome(self) -> Look:
        if self.reader.size <= 0:
            return Look(Unknown(f"{self.path} has no size: nothing is bound to it."))
        try:
            found = blocks.scan(self.reader.read, self.reader.size)
            self._find_records(found)
        except ReadError as error:
            return self._look(Unknown(_sentence(str(error)), error.offset))
        if not found and self._proved_before():
            return self._look(Blank())
        if self.in_use and self.record is None and self.strange is None:
            # The kernel uses it as this: it needs no other word for it.
            used = judge_used(found)
            if used is not None:
                return self._look(used)
        made = self._made(found)
        if made is not None:
            return self._look(made)
        try:
            said = self._signs()
        except KrakenError as error:
            if error.trouble.kind == "program-missing":
                raise
            return self._look(Unknown(str(error)))
        content = self.strange or judge(found, said)
        if self.ours and self.strange is None and (self.record or self.licence):
            if not any(one.ever_mounted for one in found):
                return self._half_made(found)
        if isinstance(content, Known) and not self.fingerprint:
            if content.type in (MD_MEMBER, *registry.KINDS):
                return self._look(content)
        if content is not None:
            survey = self._fixed()
            return self._look(content, self._digest(survey))
        return self._proof()

    def _find_records(self, found: Sequence[Found]) -> None:
        """Which of the blocks that may carry an intent record does.

        What lies there in a filesystem that was ever mounted, or is now, is its
        users', but for the very record of this filesystem.
        """
        if self.in_use or not self.volume_id:
            return
        used = [one for one in found if one.ever_mounted]
        spots: List[Tuple[int, Record]] = []
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

    def _half_made(self, found: Sequence[Found]) -> Look:
        survey, fingerprint = self._whole(self.exempt + self.ours)
        content = self._in_the_way(survey)
        whole = next((one for one in found if not one.flaw), None)
        if content is None and whole is not None and not self._is_gap(self.ours):
            content = Unknown(
                f"{whole.type} that its checker does not call whole, though nothing "
                "is missing of what mkfs writes.",
                whole.offset,
            )
        return self._look(content or HalfMade(), fingerprint)

    def _is_gap(self, extents: Sequence[Extent]) -> bool:
        """Whether any block of these is zero."""
        return any(
            _is_zero(data[at : at + PAGE])
            for extent in extents
            for start in range(extent.start, extent.end, PIECE)
            for data in [self.reader.piece(start, min(PIECE, extent.end - start))]
            for at in range(0, len(data), PAGE)
        )

    def _proved_before(self) -> bool:
        """Whether it was proved blank, outside its record, and the kernel has
        counted no write since but that of the record."""
        if self.strange is not None or self.ours:
            return False
        seen = write_counters.recall(self.reader.fd, self.testimony)
        return (
            seen is not None
            and seen.zeros is not None
            and set(seen.zeros) <= set(self.exempt)
            and (seen.full or not self.full)
        )

    def _made(self, found: Sequence[Found]) -> Optional[Known]:
        """The filesystem that we have made here, where it is still that, and
        nothing but the record was written to since.

        The device was blank, said the tools, too: what else could they find?
        """
        if self.strange is not None or self.ours or self.fingerprint:
            return None
        seen = write_counters.recall(self.reader.fd, self.testimony)
        made = self.made or (seen.made if seen is not None else None)
        shown = judge_used(found)
        if made is None or shown is None or (shown.type, shown.uuid) != made:
            return None
        if self.made is not None:
            self._remember(made=made)
        return shown

    def _signs(self) -> Signs:
        """What the tools say, or have said of just these bytes."""
        seen = write_counters.recall(self.reader.fd, self.testimony)
        if seen is not None and isinstance(seen.said, Signs):
            return seen.said
        said = signs(self.path)
        self._remember(said=said)
        return said

    def _remember(self, **found: Any) -> None:
        """Keep what was found, if the kernel counts what is done to this disk:
        it has counted our own reads."""
        counted = write_counters.sectors_read(self.reader.fd) - self.counted
        if self.testimony is None or self.counted < 0:
            return
        if counted * write_counters.SECTOR >= self.reader.bytes_read:
            seen = write_counters.Seen(self.testimony, **found)
            write_counters.remember(self.reader.fd, seen)

    def _proof(self) -> Look:
        survey, fingerprint = self._whole(self.exempt)
        content = self._in_the_way(survey)
        if content is None:
            self._remember(zeros=self.exempt, full=self.full)
        return self._look(content or Blank(), fingerprint if content else "")

    def _whole(self, exempt: Tuple[Extent, ...]) -> Tuple[_Survey, str]:
        """Fixed places, and only if nothing is there the rest."""
        survey = self._fixed(exempt)
        fingerprint = self._digest(survey)
        if survey.in_the_way is not None:
            return survey, fingerprint
        size = self.reader.size
        if self.full:
            rest: Iterable[Extent] = places.places(size, whole=True)
        else:
            rest = places.samples(size, self.rng)
        more = _survey(self.reader, rest, exempt)
        if self.full and not fingerprint:
            fingerprint = self._digest(more)
        return more, fingerprint

    def _fixed(self, exempt: Tuple[Extent, ...] = ()) -> _Survey:
        return _survey(self.reader, places.places(self.reader.size), exempt)

    def _in_the_way(self, survey: _Survey) -> Optional[Unknown]:
        if survey.error is not None:
            piece = survey.error
            return Unknown(_sentence(piece.error), piece.in_the_way)
        if survey.in_the_way is not None:
            return Unknown("Data without a known signature.", survey.in_the_way)
        return None

    def _digest(self, survey: _Survey) -> str:
        if survey.error is not None or not survey.found:
            return ""
        lines = [f"cc_kraken 1 {self.volume_id} {self.reader.size}"]
        lines += [f"{piece.start} {piece.digest}" for piece in survey.found]
        if self.record is not None:
            text = record.encode(self.record)
            lines.append(f"record {hashlib.sha256(text).hexdigest()}")
        return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()

    def _look(self, content: Content, fingerprint: str = "") -> Look:
        return Look(
            content,
            self.record,
            fingerprint,
            self.moved,
            self.reader.bytes_read,
            self.reader.reads,
        )
