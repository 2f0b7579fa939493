"""Proofs that begin as soon as a disk shows itself, while a round is still
busy with others, or a set waits for its last member.

Nothing is decided by them.  What such a look has found is remembered with the
kernel's counters (:mod:`cc_kraken.witness`); the look that decides comes
later, and reads again what they do not vouch for.  Where there are no counters
nothing is read early.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Dict, FrozenSet, Iterable

from cc_kraken import content, devices, witness
from cc_kraken.clock import LOOK_EVERY
from cc_kraken.model import Device, KrakenError
from cc_kraken.paths import Paths

LOG = logging.getLogger(__name__)

MOST = 32
"""Looks under way at the same time."""


class Early:
    """Early looks at the disks of one run."""

    def __init__(self, paths: Paths, full: bool) -> None:
        self._paths = paths
        self._full = full
        self._expected: FrozenSet[str] = frozenset()
        self._looks: Dict[str, threading.Thread] = {}
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._watching = False

    def expect(self, volume_ids: Iterable[str]) -> None:
        """Look at these when their disks come, once, and at no others any more."""
        with self._taking:
            self._expected = frozenset(volume_ids) - set(self._looks)
            begin = bool(self._expected) and not self._watching
            self._watching |= begin
        if begin:
            threading.Thread(
                target=self._watch, name="kraken-early", daemon=True
            ).start()

    def take(self, volume_id: str) -> None:
        """Look at it no more; waits for a look that is under way."""
        with self._taking:
            self._expected -= {volume_id}
            look = self._looks.get(volume_id)
        if look is not None:
            look.join()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            if self._expected & devices.volume_ids(self._paths):
                self._begin()

    def _begin(self) -> None:
        try:
            found = devices.scan(self._paths).by_volume
        except KrakenError as error:
            LOG.debug("%s", error)
            return
        for device in found.values():
            with self._taking:
                under_way = sum(look.is_alive() for look in self._looks.values())
                if under_way >= MOST or self._stop.is_set():
                    return
                if device.volume_id not in self._expected:
                    continue
                self._expected -= {device.volume_id}
                # What is in use is no blank volume.
                if device.holders or device.mounted or device.swap:
                    continue
                look = threading.Thread(
                    target=self._look, args=(device,), name="kraken-early", daemon=True
                )
                self._looks[device.volume_id] = look
                look.start()

    def _look(self, device: Device) -> None:
        with contextlib.suppress(OSError, KrakenError):
            if _vouched(device.path):
                content.look(device.path, volume_id=device.volume_id, full=self._full)


def _vouched(path: str) -> bool:
    """Whether the kernel will testify that nothing was written since."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with content.reading(path):  # it flushes
            return witness.testimony(descriptor) is not None
    finally:
        os.close(descriptor)
