"""A run as a program of its own, so that the boot outlives what hangs in it.

A disk that answers no read leaves its reader in a sleep that no signal ends,
and a process ends only when all of its threads have.  So cloud-init's process
starts the program (:func:`carry_out`), hands it on standard input what only
cloud-init knows, and follows what it says (:func:`main`).  That is one JSON
object a line: ``{"log": record}``, ``{"phase": name}``, and at the end
``{"status": status}`` or ``{"error": sentence}``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Callable, Optional

from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, Section, failure

LOG = logging.getLogger(__name__)

Enter = Callable[[Optional[str]], None]
Line = Mapping[str, Any]

PYTHON = "/usr/bin/python3"
"""Where cloud-init's own interpreter does not know its path."""
LAST_MOMENTS = 2.0
"""Seconds that the program has to go away after its last line."""


def carry_out(
    section: Section,
    identity: Identity,
    paths: Paths,
    stage: str,
    enter: Enter,
    seconds: float,
) -> dict[str, Any]:
    """One run for ``stage`` (``network``, ``single``) in a program; its status.

    Its log records come out of this process's handlers, and ``enter`` is
    called with each of its phases, at last with None.  After ``seconds`` the
    program is left behind as it is, never killed: mkfs may be at work.

    Raises KrakenError ``run-hangs`` or ``run-killed``, and RuntimeError with
    the sentence of whatever the run itself has raised.
    """
    order = {
        "section": asdict(section),
        "identity": asdict(identity),
        "paths": asdict(paths),
        "stage": stage,
    }
    with command.memory(json.dumps(order).encode("ascii")) as source:
        # Of cloud-init's open files the program has standard error alone:
        # somebody may wait until all have closed a connection.
        process = subprocess.Popen(
            argv(), stdin=source, stdout=subprocess.PIPE, cwd="/", umask=0o022
        )
    assert process.stdout is not None
    try:
        last = _follow(process.stdout.fileno(), time.monotonic() + seconds, enter)
    except TimeoutError:
        raise failure(
            "run-hangs",
            f"The run (process {process.pid}) is still going after {seconds:.0f} s.",
            "The boot continues without it.",
            "Look for a disk that answers no read (dmesg, and the volume's status in "
            "EC2). Detach it, or wait for it: then the run ends, and cc-kraken.service "
            "carries on.",
        ) from None
    finally:
        process.stdout.close()
        enter(None)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a thread of it hangs
        process.wait(LAST_MOMENTS)
    if last is None:
        code = process.returncode or 0
        how = f"was killed by signal {-code}" if code < 0 else "ended without a result"
        raise failure(
            "run-killed",
            f"The run {how}",
            "",
            "Look for a lack of memory in the kernel's log (dmesg), then: cc-kraken "
            "apply.",
        )
    if "error" in last:
        raise RuntimeError(last["error"])
    status: dict[str, Any] = last["status"]
    return status


def argv() -> list[str]:
    """This very copy of the package, by cloud-init's own Python, which heeds
    no ``PYTHON…`` variable of the caller's (-I)."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main = f"{package}/__main__.py"
    return [sys.executable or PYTHON, "-I", main, "from-cloud-init"]


def _follow(source: int, end: float, enter: Enter) -> Optional[Line]:
    """Log its lines until the result comes; None if it ends without one."""
    for text in _lines(source, end):
        line: Line = json.loads(text)
        if "log" in line:
            _log(line["log"])
        elif "phase" in line:
            enter(line["phase"])
        else:
            return line
    return None


def _lines(source: int, end: float) -> Iterator[bytes]:
    """Whole lines, until all have closed the pipe; TimeoutError at ``end``."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    begun = b""
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if not poll.poll(min(left, 60.0) * 1000):
            continue
        more = os.read(source, 1 << 16)
        if not more:
            return
        *lines, begun = (begun + more).split(b"\n")
        yield from lines


def _log(fields: Mapping[str, Any]) -> None:
    record = logging.makeLogRecord(fields)
    if record.levelno >= logging.ERROR:
        # cloud-init's status lists it, and the exception that follows, too.
        record.levelno, record.levelname = logging.INFO, "INFO"
    logger = logging.getLogger(record.name)
    if not logger.isEnabledFor(record.levelno):
        return
    try:
        logger.handle(record)
    except Exception:  # a handler's fault must not cost the run
        LOG.debug("a handler failed at a record of %s", record.name, exc_info=True)
