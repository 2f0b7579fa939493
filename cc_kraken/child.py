"""Work in a process of its own, so that the boot outlives what hangs in it.

A disk that answers no read (EC2's images let the kernel wait without end, see
``io_timeout`` of nvme_core) leaves who reads it in a sleep that no signal
ends, and a process has not ended before all of its threads have.  A fork costs
no import, and what the work has imported and held in memory goes with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import stat
import struct
import sys
import time
from logging.handlers import QueueHandler
from typing import Any, Callable, Iterator, List, Optional, Tuple, TypeVar

from cc_kraken.model import KrakenError, Trouble

LOG = logging.getLogger(__name__)

T = TypeVar("T")
Frame = Tuple[str, Any]
Tell = Callable[[Any], None]

LENGTH = struct.Struct("=I")
CHUNK = 1 << 16
LAST_MOMENTS = 2.0
"""Seconds that a process has to end after it has told its result."""


def carry_out(
    work: Callable[[Tell], T], seconds: float, hear: Callable[[Any], object]
) -> T:
    """What ``work`` returns (it must be picklable), done in a fork.

    Its log records come out of this process's handlers, and what it tells
    (by the function that it is given) goes to ``hear``.  After ``seconds`` it
    is left behind as it is, never killed: mkfs may be at work.

    Raises KrakenError: what ``work`` raises; ``run-killed`` when the process
    ended without a result; ``run-hangs`` when it has not ended.  RuntimeError
    for any other exception, which is logged with its traceback.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _let_go_of_sockets()
            _work(work, writing)
            os._exit(0)
        except BaseException:
            LOG.exception("cc_kraken could not tell its result")
        finally:
            os._exit(1)
    os.close(writing)
    try:
        result = _follow(reading, time.monotonic() + seconds, hear)
    except TimeoutError:
        raise KrakenError(_hangs(pid, seconds)) from None
    finally:
        os.close(reading)
    code = _reap(pid)
    if result is None:
        raise KrakenError(_killed(code))
    kind, value = result
    if kind == "trouble":
        raise KrakenError(value)
    if kind == "failed":
        raise RuntimeError(value)
    done: T = value
    return done


# ------------------------------------------------------------- in this process


def _follow(reading: int, end: float, hear: Callable[[Any], object]) -> Optional[Frame]:
    """Log what it logs, up to its result; None: it ended without one."""
    for kind, value in _frames(reading, end):
        if kind == "told":
            hear(value)
            continue
        if kind != "log":
            return kind, value
        record = logging.makeLogRecord(value)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            try:
                logger.handle(record)
            except Exception:  # a handler's mistake must not lose the run
                LOG.debug("a record of %s is lost", record.name, exc_info=True)
    return None


def _frames(reading: int, end: float) -> Iterator[Frame]:
    """Raises TimeoutError at ``end``."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    held = b""
    while True:
        while len(held) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(held)
            if len(held) < LENGTH.size + length:
                break
            frame: Frame = pickle.loads(held[LENGTH.size : LENGTH.size + length])
            held = held[LENGTH.size + length :]
            yield frame
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if poll.poll(left * 1000):
            more = os.read(reading, CHUNK)
            if not more:
                return
            held += more


def _reap(pid: int) -> Optional[int]:
    """Its wait status (waitpid(2)); None while one of its threads hangs, or
    when somebody else has reaped it."""
    end = time.monotonic() + LAST_MOMENTS
    while time.monotonic() < end:
        try:
            found, code = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return code
        time.sleep(0.01)
    return None


def _hangs(pid: int, seconds: float) -> Trouble:
    return Trouble(
        "run-hangs",
        f"The run (process {pid}) has not ended after {seconds:.0f} s",
        "its end",
        "The boot goes on without it. Look for a disk that answers no read "
        "(dmesg, and the volume's status in EC2); detach it, or wait until it "
        "is well again: the run then ends, and cc-kraken.service goes on.",
    )


def _killed(code: Optional[int]) -> Trouble:
    how = "ended"
    if code is not None and os.WIFSIGNALED(code):
        how = f"was killed by signal {os.WTERMSIG(code)}"
    return Trouble(
        "run-killed",
        f"The run {how} without a result",
        "a result",
        "See the kernel's log (dmesg) for a lack of memory, then run cc-kraken apply.",
    )


# --------------------------------------------------------------- in the other


class _Pipe(QueueHandler):
    """Sends records where they are handled; when nobody is there any more,
    hands them to the handlers that were there before."""

    def __init__(self, writing: int, before: List[logging.Handler]) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.writing = writing
        self.before = before

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            _send(self.writing, ("log", record.__dict__))
        except OSError:
            for handler in self.before:
                if record.levelno >= handler.level:
                    handler.handle(record)


def _let_go_of_sockets() -> None:
    """Somebody waits for the end of the caller's connections: from 24.3 on,
    each stage of cloud-init is a process that reads from one until it is
    closed by all who have it.  Replaced, not closed: an object that has the
    number may close it later."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(nothing, number, inheritable=False)
        except OSError:
            continue  # that of the directory itself
    os.close(nothing)


def _work(work: Callable[[Tell], object], writing: int) -> None:
    root = logging.getLogger()
    pipe = _Pipe(writing, list(root.handlers))
    for logger in [*root.manager.loggerDict.values(), root]:
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers, logger.propagate = [], True
    root.addHandler(pipe)
    frame: Frame

    def tell(value: Any) -> None:
        with contextlib.suppress(OSError), pipe.lock:  # type: ignore[union-attr]
            _send(writing, ("told", value))

    try:
        frame = ("result", work(tell))
    except KrakenError as error:
        frame = ("trouble", error.trouble)
    except BaseException as error:  # SystemExit too
        LOG.exception("cc_kraken failed")
        frame = ("failed", f"cc_kraken failed: {error!r}")
    with pipe.lock:  # type: ignore[union-attr]
        _send(writing, frame)
    sys.stdout.flush()
    sys.stderr.flush()


def _send(writing: int, frame: Frame) -> None:
    data = pickle.dumps(frame)
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(writing, view) :]
