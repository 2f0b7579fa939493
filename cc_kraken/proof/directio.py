"""Direct reads and writes of whole 4 KiB blocks, past the page cache.

The descriptors are open with O_DIRECT (open(2)); errors are OSError.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from typing import Iterable, Iterator, Optional, Sequence, Tuple, Union

from cc_kraken.model import Extent
from cc_kraken.proof.record import BLOCK

MIB = 1 << 20
#: Errors by which the kernel asks for the same read again, how often it is
#: tried, and seconds between two tries.
AGAIN = (errno.EAGAIN, errno.EINTR)
TRIES = 4
PAUSE = 0.01


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
    """``length`` bytes (a multiple of 4096) past the page cache."""
    with mmap.mmap(-1, length) as buffer:
        done = preadv(fd, buffer, start)
        if done != length:
            raise OSError(errno.EIO, f"short read of {done} bytes at {start}")
        return buffer[:]


def _chunks(extents: Iterable[Extent]) -> Iterator[Tuple[int, int]]:
    for extent in extents:
        start = extent.start // BLOCK * BLOCK
        end = -(-extent.end // BLOCK) * BLOCK
        while start < end:
            length = min(MIB, end - start)
            yield start, length
            start += length


def zero(fd: int, extents: Iterable[Extent]) -> None:
    """Zero what is not zero within ``extents`` (whole 4 KiB blocks)."""
    nothing = bytes(MIB)
    for start, length in _chunks(extents):
        present = read(fd, start, length)
        if present == nothing[:length]:
            continue
        with mmap.mmap(-1, length) as buffer:
            if os.pwritev(fd, [buffer], start) != length:
                raise OSError(errno.EIO, f"short write at {start}")


def first_byte(
    fd: int, extents: Iterable[Extent], exempt: Sequence[Extent] = ()
) -> Optional[int]:
    """The offset of the first non-zero byte in ``extents`` outside ``exempt``
    (whole 4 KiB blocks), or None."""
    nothing = bytes(MIB)
    for start, length in _chunks(extents):
        present = read(fd, start, length)
        if present == nothing[:length]:
            continue
        kept = bytearray(present)
        for extent in exempt:
            low = max(extent.start - start, 0)
            high = min(extent.end - start, length)
            if low < high:
                kept[low:high] = bytes(high - low)
        if any(kept):
            return start + len(kept) - len(kept.lstrip(b"\0"))
    return None
