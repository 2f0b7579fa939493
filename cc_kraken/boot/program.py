"""The program that cloud-init's process starts for a run (:mod:`.launch`)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from logging.handlers import QueueHandler
from typing import Any, NoReturn, Optional

from cc_kraken.boot import stage
from cc_kraken.machine import journal
from cc_kraken.machine.clock import ended_by_signals
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Ec2Options, Identity, KrakenError, Section

LOG = logging.getLogger(__name__)


class _Wire(QueueHandler):
    """Says everything on the pipe.  When nobody follows any more, log records
    go to standard error instead."""

    def __init__(self, pipe: int) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        if not self.say(log=vars(record)):
            print(f"{record.levelname}: {record.msg}", file=sys.stderr, flush=True)

    def enter(self, phase: Optional[str]) -> None:
        """A phase, for the process that has cloud-init's reporter."""
        self.say(phase=phase)

    def say(self, **line: object) -> bool:
        """False when nobody follows."""
        rest = json.dumps(line, default=str).encode("ascii") + b"\n"
        try:
            with self.lock:  # type: ignore[union-attr]
                while rest:
                    rest = rest[os.write(self.pipe, rest) :]
        except OSError:
            return False
        return True


def main() -> NoReturn:
    """Carry out the run that standard input describes, and end the process,
    whichever of its threads hangs."""
    wire = _Wire(os.dup(1))
    os.dup2(2, 1)  # nobody else writes between the lines
    logging.getLogger().addHandler(wire)
    last: dict[str, Any]
    try:
        last = {"status": _carry_out(json.load(sys.stdin), wire)}
    except KrakenError as error:
        last = {"error": str(error)}
    except BaseException as error:  # SystemExit too
        LOG.exception("cc_kraken failed")
        last = {"error": f"cc_kraken failed: {error!r}"}
    wire.say(**last)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(1 if "error" in last else 0)


def _carry_out(order: Mapping[str, Any], wire: _Wire) -> Any:
    # Of other libraries warnings alone: their details can hold credentials.
    ours = logging.getLogger("cc_kraken")
    ours.setLevel(logging.DEBUG)
    beside = journal.handler()
    if beside is not None:
        ours.addHandler(beside)
    ec2 = Ec2Options(**order["section"]["ec2"])
    section = Section(**{**order["section"], "ec2": ec2})
    with ended_by_signals() as clock:
        return stage.carry_out(
            section,
            Identity(**order["identity"]),
            Paths(**order["paths"]),
            wire.enter,
            order["stage"],
            seconds=section.boot_wait,
            dry_run=section.dry_run,
            clock=clock,
        )
