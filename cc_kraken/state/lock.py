"""The lock of the machine: one run of cc_kraken at a time, whoever starts it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator

from cc_kraken.machine import files
from cc_kraken.machine.clock import LOOK_EVERY
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Trouble
from cc_kraken.state import report

LOG = logging.getLogger(__name__)

RUNNERS = {
    "network": "that of cloud-init's network stage",
    "background": "that of cc-kraken.service",
    "single": "by cloud-init single",
    "apply": "cc-kraken apply",
    "plan": "cc-kraken plan",
}
"""The run of each stage, as its status names it."""


@contextlib.contextmanager
def held(paths: Paths, seconds: float) -> Iterator[None]:
    """One run at a time on this machine.

    Raises KrakenError ``run-locked`` when another run does not end in time, and
    ``cannot-write``.
    """
    files.make_directories(paths.run)
    end = time.monotonic() + seconds
    logged = False
    try:
        handle = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise files.cannot("write", paths.lock, error) from error
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not logged:
                    LOG.info("%s Waiting for it.", _locked(paths).found)
                    logged = True
                if time.monotonic() >= end:
                    raise KrakenError(_locked(paths)) from None
                time.sleep(LOOK_EVERY)
        yield
    finally:
        os.close(handle)


def _locked(paths: Paths) -> Trouble:
    """Who has the lock, and what that one waits for."""
    found = "Another run of cc_kraken is at work on this machine"
    remedy = "Wait for it (cc-kraken status shows it), then: cc-kraken apply."
    status = report.read(paths)
    if status is not None and status["state"] == report.RUNNING:
        found += f" ({RUNNERS.get(status['stage'], status['stage'])}"
        if status["waiting_for"]:
            found += f", which waits: {status['waiting_for'].rstrip('.')}"
        found += ")"
        if status["stage"] == "background":
            remedy += " To run now, first: systemctl stop cc-kraken.service."
    return Trouble(
        "run-locked", f"{found}.", "Only one run may work at a time.", remedy
    )
