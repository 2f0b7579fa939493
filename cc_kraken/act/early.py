"""Proofs that begin as soon as a disk shows itself, while a round is still
busy with others, or a set waits for its last member.

Nothing is decided by them.  What such a look has found is remembered with the
kernel's counters (:mod:`cc_kraken.proof.write_counters`); the look that decides comes
later, and reads again what they do not vouch for.  Where there are no counters
nothing is read early.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import (
    Callable,
    Container,
    Dict,
    FrozenSet,
    Iterable,
    Optional,
    Tuple,
)

from cc_kraken.machine import devices
from cc_kraken.machine.clock import LOOK_EVERY
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, KrakenError
from cc_kraken.proof import content, write_counters

LOG = logging.getLogger(__name__)

MOST = 32
"""Looks under way at the same time."""


class Early:
    """Early looks at the disks of one run."""

    def __init__(self, paths: Paths, full: bool) -> None:
        self._paths = paths
        self._full = full
        self._expected: FrozenSet[str] = frozenset()
        self._looks: Dict[str, Tuple[str, threading.Thread]] = {}
        """By volume: the path of its disk, and who looks at it."""
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
            _begin_thread(self._watch)

    def take(self, volume_id: str, path: str) -> None:
        """Look at it no more; waits for a look that is under way at ``path``."""
        with self._taking:
            self._expected -= {volume_id}
            looked_at, look = self._looks.get(volume_id, ("", None))
        if look is not None and looked_at == path:
            look.join()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            came = self._expected.intersection(devices.claimed(self._paths).values())
            if came:
                self._begin(came)

    def _begin(self, volume_ids: Container[str]) -> None:
        try:
            found = devices.scan(self._paths, volume_ids).by_volume
        except KrakenError as error:
            LOG.debug("%s", error)
            return
        for device in found.values():
            with self._taking:
                under_way = sum(one.is_alive() for _, one in self._looks.values())
                if under_way >= MOST or self._stop.is_set():
                    return
                if device.volume_id not in self._expected:
                    continue
                self._expected -= {device.volume_id}
                # What is in use is no blank volume.
                if device.holders or device.mounted or device.swap:
                    continue
                look = _begin_thread(self._look, device)
                if look is not None:
                    self._looks[device.volume_id] = device.path, look

    def _look(self, device: Device) -> None:
        with contextlib.suppress(OSError, KrakenError):
            if _vouched(device.path):
                content.look(device.path, volume_id=device.volume_id, full=self._full)


def _begin_thread(do: Callable[..., None], *what: Device) -> Optional[threading.Thread]:
    """None where there is no thread to be had: what is early can be left."""
    thread = threading.Thread(target=do, args=what, name="kraken-early", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        LOG.debug("%s", error)
        return None
    return thread


def _vouched(path: str) -> bool:
    """Whether the kernel will testify that nothing was written since."""
    # Opening waits, too, while the kernel reads the partitions of a new disk.
    with content.reading(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return write_counters.testimony(descriptor) is not None
        finally:
            os.close(descriptor)
