"""Commands: the one place where a tool of the system is started.

Never a shell, never the caller's environment, never the caller's standard
input.  Output goes to anonymous memory (memfd_create(2)) instead of pipes: a
mkfs whose reader died would be killed half way by SIGPIPE.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from cc_kraken.model import failure

LOG = logging.getLogger(__name__)

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: Without libblkid's cache: mkfs.btrfs refuses a UUID that the cache still
#: ascribes to a device that was zeroed seconds ago.
ENVIRONMENT = {"BLKID_FILE": "/dev/null", "LC_ALL": "C", "PATH": PATH}

#: More output than this is an error: half an answer must not be parsed.
OUTPUT_LIMIT = 8 << 20
#: By SELinux's policies these have domains of their own, which may write to a pipe
#: of the caller's and not into its memory. They say little. Who continues a reshape
#: for mdadm may speak when nobody reads any more: SIGPIPE stays ignored for them, and
#: none of them waits for room.
_PIPED = frozenset(("mdadm", "mount", "restorecon", "umount"))
#: What a pipe holds (pipe(7)).
PIPE_SIZE = 64 << 10
#: Exists where systemd is the init (sd_booted(3)), which systemctl speaks to.
SYSTEMD = "/run/systemd/system"
#: Seconds that a killed command has to go away.
KILL_WAIT = 5.0

#: Processes started by :func:`run` by program name (``clear()`` resets).
STARTED: Counter[str] = Counter()
_COUNTING = threading.Lock()


@dataclass(frozen=True)
class Finished:
    """A command that ended: ``code`` is negative for a signal, as in
    subprocess; ``out`` and ``err`` are text (undecodable bytes replaced)."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Why it failed, in one line."""
        return " ".join(self.err.split()) or f"exit status {self.code}"


def has_systemd() -> bool:
    """Whether systemctl has somebody to speak to."""
    return os.path.isdir(SYSTEMD)


def run(
    argv: Sequence[str],
    *,
    timeout: Optional[float] = 60,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run ``argv`` to its end and return what it said, whatever its code.

    ``timeout`` in seconds; None for a command that writes to a volume: it is
    never killed, and an interrupt of ours is raised only after its end.  The
    command has its own session, so a Ctrl-C at our terminal passes it by.
    ``pass_fds``: descriptors that it shares, under the same numbers.
    Raises KrakenError: ``program-missing``, ``command-argument``,
    ``command-timeout``, ``command-output``.
    """
    words = tuple(argv)
    program = _find(words)
    piped = os.path.basename(program) in _PIPED
    with _output(piped) as (out, out_end), _output(piped) as (err, err_end):
        process = subprocess.Popen(
            words,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=out_end,
            stderr=err_end,
            env=ENVIRONMENT,
            cwd="/",
            umask=0o022,
            pass_fds=pass_fds,
            restore_signals=not piped,
            start_new_session=True,
        )
        with _COUNTING:
            STARTED[os.path.basename(program)] += 1
        code = _wait(process, words, timeout)
        finished = Finished(words, code, _text(out, words), _text(err, words))
    LOG.debug("%s: exit status %d", shlex.join(words), code)
    return finished


def check(finished: Finished, doing: str) -> Finished:
    """Return ``finished`` if its code is 0, else raise ``command-failed``.

    ``doing`` completes "while …": ``making the filesystem on /dev/nvme1n1``.
    """
    if finished.code == 0:
        return finished
    if finished.code < 0:
        how = f"was killed by {_signal_name(-finished.code)}"
    else:
        how = f"failed with exit status {finished.code}"
    said = _last_lines(finished.err) or _last_lines(finished.out)
    ended = f": {said.rstrip('.')}." if said else ", and printed nothing."
    raise failure(
        kind="command-failed",
        found=f"{os.path.basename(finished.argv[0])} {how} while {doing}{ended}",
        expected="It must end with exit status 0.",
        remedy="See the kernel's log for a reason (dmesg). The command was: "
        + shlex.join(finished.argv),
    )


def available(program: str) -> bool:
    """Is ``program`` installed where :func:`run` looks?"""
    return shutil.which(program, path=PATH) is not None


def _find(words: tuple[str, ...]) -> str:
    if any("\0" in word for word in words):
        raise failure(
            kind="command-argument",
            found=f"An argument of {words[0]!r} holds a NUL character.",
            expected="It must be text without control characters.",
            remedy="Correct the tag or configuration value that it comes from.",
        )
    program = shutil.which(words[0], path=PATH)
    if program is not None:
        return program
    name = os.path.basename(words[0])
    remedy = "Install it in the image."
    from cc_kraken.machine import packages  # not at every reboot

    debian, rhel = packages.of(name)
    if debian:
        names = debian if debian == rhel else f"{debian} (Debian), {rhel} (RHEL)"
        remedy = f"Install the package {names} in the image."
    raise failure(
        kind="program-missing",
        found=f"The program {name} is not on this machine.",
        expected=f"It must be in one of {PATH}.",
        remedy=remedy,
    )


@contextlib.contextmanager
def memory(content: bytes) -> Iterator[int]:
    """A descriptor of anonymous memory that holds this."""
    descriptor = os.memfd_create("cc-kraken", os.MFD_CLOEXEC)
    try:
        os.pwrite(descriptor, content, 0)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _output(piped: bool) -> Iterator[tuple[int, int]]:
    """A descriptor to read what a command says, and the one that it writes to."""
    if not piped:
        with memory(b"") as descriptor:
            yield descriptor, descriptor
        return
    # Nobody waits at it, for more or for room.
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield ends
    finally:
        os.close(ends[0])
        os.close(ends[1])


def _wait(
    process: "subprocess.Popen[bytes]",
    words: tuple[str, ...],
    timeout: Optional[float],
) -> int:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
    except BaseException:
        if timeout is None:
            process.wait()
        else:
            _kill(process)
        raise
    raise failure(
        kind="command-timeout",
        found=f"{shlex.join(words)} did not end within {timeout:g} s.",
        expected="It must end in that time.",
        remedy="See the kernel's log for a device that does not answer (dmesg).",
    )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(KILL_WAIT)
    except subprocess.TimeoutExpired:
        LOG.warning("process %d does not go away (waits for I/O)", process.pid)


def _text(descriptor: int, words: tuple[str, ...]) -> str:
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, PIPE_SIZE).decode("utf-8", "replace")
        return ""
    size = os.fstat(descriptor).st_size
    # The child has moved the position, which it shares.
    content = os.pread(descriptor, min(size, OUTPUT_LIMIT + 1), 0) if size else b""
    if len(content) > OUTPUT_LIMIT:
        raise failure(
            kind="command-output",
            found=f"{shlex.join(words)} printed more than {OUTPUT_LIMIT} bytes.",
            expected="It must print less.",
            remedy="Run it by hand, and see what it says.",
        )
    return content.decode("utf-8", "replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_lines(text: str, count: int = 4, width: int = 800) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-width:]
