"""Reads of a disk that are under way at the same time, without a thread each.

Asynchronous I/O of the kernel: one system call begins many reads, another one
waits for all of them.  Threads would do the same, but of two dozen disks with
four threads each most of the time goes into handing over Python's lock.

Sources: io_setup(2), io_submit(2), io_getevents(2), io_destroy(2), fs/aio.c
(iocb_destroy), include/uapi/linux/aio_abi.h.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from array import array
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from cc_kraken.proof import directio

try:
    import ctypes
except (ImportError, MemoryError):
    # Some policies of SELinux refuse what importing it does (execmem).
    ctypes = None  # type: ignore[assignment]

Span = Tuple[int, int]
"""The first byte of a read, and how many bytes it is to give."""

PAGE = 4096
#: Bytes of all reads of a batch.
ROOM = 2 << 20
#: Reads of a batch.
DEPTH = 64

#: io_setup, io_destroy, io_submit, io_getevents, by what uname(2) calls the
#: machine (asm/unistd_64.h, asm-generic/unistd.h).
_CALLS: Dict[str, Tuple[int, int, int, int]] = {
    "x86_64": (206, 207, 209, 208),
    "aarch64": (0, 1, 2, 4),
}
#: struct iocb, in words of 64 bits: data; key, rw_flags; opcode, reqprio, fildes
#: (the upper half); buf; nbytes; offset; reserved; flags, resfd.
#: IOCB_CMD_PREAD is 0.
_IOCB_WORDS, _DATA, _FILDES, _BUF, _NBYTES, _OFFSET = 8, 0, 2, 3, 4, 5
#: struct io_event: data, obj, res (bytes, or an error below 0), res2.
_EVENT = struct.Struct("<QQqq")


class Batch:
    """Reads of one file that begin and end together, into memory of its own.

    To be closed (a context): the kernel has then let go of that memory, too.
    """

    def __init__(self, fd: int) -> None:
        """``fd``: opened with O_DIRECT.  Raises OSError where there is no
        asynchronous I/O: ENOSYS, or EAGAIN (fs.aio-max-nr is used up)."""
        setup, self._destroy, self._submit, self._events = _calls()
        self._fd = fd
        self._spans: List[Span] = []
        self._places: List[int] = []
        self._results: List[int] = []
        self._under_way = 0
        self._memory = mmap.mmap(-1, ROOM)
        self._view = memoryview(self._memory)
        requests = (ctypes.c_uint64 * (_IOCB_WORDS * DEPTH))()
        size = _IOCB_WORDS * 8
        first = ctypes.addressof(requests)
        self._pointers = (ctypes.c_uint64 * DEPTH)(
            *range(first, first + size * DEPTH, size)
        )
        self._requests = memoryview(requests).cast("B").cast("Q")
        self._set(_DATA, range(DEPTH))
        self._set(_FILDES, [fd << 32] * DEPTH)
        self._answers = ctypes.create_string_buffer(_EVENT.size * DEPTH)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._context = ctypes.c_ulong(0)
        _call(setup, ctypes.c_uint(DEPTH), ctypes.byref(self._context))

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way, and until the kernel has let go of the
        file (which takes it some 30 ms): else it is in use for a moment more
        when its descriptor is closed, and mdadm or losetup say so."""
        self.end()
        _call(self._destroy, self._context)

    def begin(self, spans: Sequence[Span]) -> None:
        """Begin these reads, which are aligned and fit (:func:`batches`)."""
        places, used = [], 0
        for _, length in spans:
            places.append(used)
            used += padded(length)
        if len(spans) > DEPTH or used > ROOM:
            raise ValueError(f"{len(spans)} reads are too much for one batch")
        self.end()
        self._spans = list(spans)
        self._places = places
        self._results = [-errno.EIO] * len(places)
        self._set(_BUF, [self._address + place for place in places])
        self._set(_NBYTES, [length for _, length in spans])
        self._set(_OFFSET, [start for start, _ in spans])
        for place in places:
            # A read that does not come about must not look like zeros.
            self._view[place] = 0xFF
        asked = 0
        while asked < len(self._spans):
            try:
                taken = _call(
                    self._submit,
                    self._context,
                    ctypes.c_long(len(self._spans) - asked),
                    ctypes.byref(self._pointers, asked * 8),
                )
                self._under_way += taken
                asked += taken
            except OSError as error:
                # It is the first of these that the kernel does not take.
                self._results[asked] = -(error.errno or errno.EIO)
                asked += 1

    def _set(self, word: int, values: Sequence[int]) -> None:
        """This word of the first requests, in their order."""
        last = len(values) * _IOCB_WORDS
        self._requests[word:last:_IOCB_WORDS] = memoryview(array("Q", values))

    def end(self) -> None:
        """Wait for all of them; what the kernel wants to be asked again is read
        one by one."""
        while self._under_way:
            try:
                came = _call(
                    self._events,
                    self._context,
                    ctypes.c_long(self._under_way),
                    ctypes.c_long(self._under_way),
                    self._answers,
                    None,
                )
            except InterruptedError:
                continue
            for at in range(0, came * _EVENT.size, _EVENT.size):
                number, _, result, _ = _EVENT.unpack_from(self._answers, at)
                self._results[number] = result
            self._under_way -= came
        for number, result in enumerate(self._results):
            if -result in directio.AGAIN:
                self._results[number] = self._once_more(number)

    def _once_more(self, number: int) -> int:
        try:
            start, _ = self._spans[number]
            return directio.preadv(self._fd, self.data(number), start)
        except OSError as error:
            return -(error.errno or errno.EIO)

    @property
    def spans(self) -> Sequence[Span]:
        """What was asked for."""
        return self._spans

    @property
    def zero(self) -> bool:
        """Whether each read gave all that it was to give, and all of it zeros."""
        if self._results != [length for _, length in self._spans]:
            return False
        used = self._places[-1] + padded(self._spans[-1][1]) if self._spans else PAGE
        # A first page of zeros, and each page like the one before it:
        # memcmp(3), while other threads go on.
        return _ZERO.startswith(self._view[:PAGE]) and not _LIBC.memcmp(
            self._address, self._address + PAGE, used - PAGE
        )

    def result(self, number: int) -> int:
        """Bytes that this read gave; below 0: the error's number."""
        return self._results[number]

    def data(self, number: int) -> memoryview:
        """What this read gave, if it gave all; good until the next :meth:`begin`."""
        place, (_, length) = self._places[number], self._spans[number]
        return self._view[place : place + length]


def padded(length: int) -> int:
    """What a read takes of the memory: O_DIRECT asks for aligned addresses."""
    return -(-length // PAGE) * PAGE


def batches(spans: Iterable[Span]) -> Iterator[List[Span]]:
    """All of them in their order, as many at a time as fit into a batch."""
    batch: List[Span] = []
    used = 0
    for span in spans:
        takes = padded(span[1])
        if batch and (len(batch) == DEPTH or used + takes > ROOM):
            yield batch
            batch, used = [], 0
        batch.append(span)
        used += takes
    if batch:
        yield batch


def _calls() -> Tuple[int, int, int, int]:
    machine = os.uname().machine
    if ctypes is None or machine not in _CALLS or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _CALLS[machine]


_ZERO = bytes(PAGE)
_LIBC: Any = None
if ctypes is not None:
    _LIBC = ctypes.CDLL(None, use_errno=True)
    _LIBC.syscall.restype = ctypes.c_long
    _LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def _call(number: int, *arguments: object) -> int:
    """One system call (syscall(2)), while other threads go on.  Raises OSError."""
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
