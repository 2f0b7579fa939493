"""Direct reads of a block device, past the page cache (open(2), O_DIRECT)."""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional, Union

from cc_kraken.model import Extent

PAGE = 4096
#: Bytes of one read at most.
PIECE = 1 << 20
#: Threads that read one disk.
THREADS = 4
#: Errors by which the kernel asks for the same read again, how often it is
#: tried, and seconds between two tries.
AGAIN = (errno.EAGAIN, errno.EINTR)
TRIES = 4
PAUSE = 0.01

_ZERO = bytes(PIECE)


def preadv(fd: int, view: Union[mmap.mmap, memoryview], start: int) -> int:
    """One read into ``view``, repeated where the kernel asks for it; the bytes
    that came.  Raises OSError."""
    for _ in range(TRIES - 1):
        try:
            return os.preadv(fd, [view], start)
        except OSError as error:
            if error.errno not in AGAIN:
                raise
        time.sleep(PAUSE)
    return os.preadv(fd, [view], start)


def read(fd: int, start: int, length: int) -> bytes:
    """``length`` bytes (a multiple of 4096) past the page cache.  Raises OSError."""
    with mmap.mmap(-1, length) as buffer:
        done = preadv(fd, buffer, start)
        if done != length:
            raise OSError(errno.EIO, f"short read of {done} bytes at {start}")
        return buffer[:]


def spans(extents: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    """These extents in pieces: where each begins, and its length."""
    for extent in extents:
        for start in range(extent.start, extent.end, PIECE):
            yield start, min(PIECE, extent.end - start)


def is_zero(data: Union[bytes, memoryview]) -> bool:
    """Whether these bytes, a piece at most, are all zero."""
    return _ZERO.startswith(data)  # memcmp(3), without a copy


def first_byte(data: bytes, start: int, exempt: Sequence[Extent] = ()) -> Optional[int]:
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


_under_way: dict[int, tuple[str, float]] = {}
"""By thread: the device that it reads right now, and since when."""


@contextmanager
def reading(path: str) -> Iterator[None]:
    """While this thread waits for an answer of this device."""
    thread = threading.get_ident()
    _under_way[thread] = path, time.monotonic()
    try:
        yield
    finally:
        _under_way.pop(thread, None)


def waiting(path: str) -> float:
    """Seconds that the oldest read of this device has been waiting; 0 for none."""
    begun = [since for of, since in list(_under_way.values()) if of == path]
    return time.monotonic() - min(begun) if begun else 0.0


class ReadError(Exception):
    """The device at ``path`` could not be read at ``offset``; ``why``, in brackets."""

    def __init__(self, path: str, offset: int, why: str) -> None:
        super().__init__(f"{path} cannot be read at byte {offset} ({why})")
        self.offset = offset


@dataclass(frozen=True)
class Piece:
    """A piece that is not all zero, or that cannot be read (``error``).

    ``in_the_way``: the first byte of it that is not exempt, or the first one that
    cannot be read.
    """

    start: int
    digest: str = ""
    in_the_way: Optional[int] = None
    error: str = ""


class Reader:
    """One block device, open for direct reads (a context)."""

    def __init__(self, path: str) -> None:
        """Raises OSError; ENOTBLK where ``path`` is something else."""
        flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK
        _check_block(path, os.stat(path))
        self.path = path
        self.fd = os.open(path, flags)
        try:
            _check_block(path, os.fstat(self.fd))
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
            # blkid and wipefs read through the page cache: what lies there
            # and is not dirty goes (nothing is written by this)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            os.close(self.fd)
            raise
        self.reads = 0
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._buffer = _buffer()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, at any alignment, cut at the end
        of the device.  Raises ReadError."""
        end = min(start + length, self.size)
        first = start // PAGE * PAGE
        last = min(self.size, -(-end // PAGE) * PAGE)
        parts = [bytes(self.piece(*span)) for span in spans([Extent(first, last)])]
        return b"".join(parts)[start - first : end - first]

    def piece(
        self, start: int, length: int, into: Optional[memoryview] = None
    ) -> memoryview:
        """One aligned read of 1 MiB at most, never a short one; it is there
        until the next read.  Raises ReadError with the offset of the first
        page that cannot be read."""
        into = into or self._buffer
        try:
            return self._direct(start, length, into)
        except ReadError as error:
            raise self._narrowed(start, length, error, into) from error

    def survey(
        self, extents: Sequence[Extent], exempt: Sequence[Extent] = ()
    ) -> tuple[Piece, ...]:
        """What is not zero within ``extents``, or cannot be read, in its order.

        Some threads read side by side: a disk answers several reads at a time.
        """

        def share(first: int) -> list[Piece]:
            buffer = _buffer()
            found: list[Piece] = []
            for span in itertools.islice(spans(extents), first, None, THREADS):
                found += self._judged(*span, buffer, exempt)
            return found

        with ThreadPoolExecutor(THREADS, thread_name_prefix="kraken-read") as pool:
            shares = list(pool.map(share, range(THREADS)))
        found = [piece for pieces in shares for piece in pieces]
        return tuple(sorted(found, key=lambda piece: piece.start))

    def _judged(
        self, start: int, length: int, into: memoryview, exempt: Sequence[Extent]
    ) -> list[Piece]:
        try:
            view = self.piece(start, length, into)
        except ReadError as error:
            return [Piece(start, in_the_way=error.offset, error=str(error))]
        if is_zero(view):
            return []
        data = bytes(view)
        digest = hashlib.sha256(data).hexdigest()
        return [Piece(start, digest, first_byte(data, start, exempt))]

    def _narrowed(
        self, start: int, length: int, error: ReadError, into: memoryview
    ) -> ReadError:
        """The error of the first page of these that cannot be read; ``error``
        itself where by now all of them can."""
        for page in range(start, start + length, PAGE):
            try:
                self._direct(page, min(PAGE, start + length - page), into)
            except ReadError as nearer:
                return nearer
        return error

    def _direct(self, start: int, length: int, into: memoryview) -> memoryview:
        view = into[:length]
        # A read that does not come about must not look like zeros.
        view[0] = view[-1] = 0xFF
        try:
            with reading(self.path):
                count = preadv(self.fd, view, start)
        except OSError as error:
            raise ReadError(self.path, start, error.strerror or "failed") from error
        if count != length:
            raise ReadError(self.path, start, f"only {count} of {length} bytes came")
        with self._lock:
            self.reads += 1
            self.bytes_read += length
        return view


def _buffer() -> memoryview:
    # anonymous memory begins at a page, as O_DIRECT asks for
    return memoryview(mmap.mmap(-1, PIECE))


def _check_block(path: str, status: os.stat_result) -> None:
    if not stat.S_ISBLK(status.st_mode):
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
