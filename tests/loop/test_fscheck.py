"""A power cut keeps no order of writes: a filesystem whose superblock is there
and the rest not looks whole, and is found out where its intent record lies.
"""

from __future__ import annotations

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.model import HalfMade, Known
from cc_kraken.proof import half_made, record, rehearsal
from tests.loop.test_destroy import (
    FS,
    Disk,
    Machine,
    disk,
    machine,
    make,
    nonzero,
    refused,
)

pytestmark = pytest.mark.long

__all__ = ["disk", "machine"]  # fixtures

PRIMARY = {"ext4": 0, "xfs": 0, "btrfs": 64 << 10}


def torn(disk: Disk, kind: str) -> None:
    """Made, and all but its first superblock lost."""
    disk.put(disk.single, record.encode(disk.intent(kind)))
    make(disk, disk.intent(kind))
    assert half_made.sound(disk.path, kind)
    for extent in nonzero(disk):
        if extent.start not in (PRIMARY[kind], disk.single):
            disk.put(extent.start, bytes(extent.end - extent.start))


@pytest.mark.parametrize("kind", registry.TYPES)
def test_what_only_looks_whole_is_made_again(kind: str, disk: Disk) -> None:
    torn(disk, kind)
    assert disk.look() == Known(kind, FS, "KRKN-data")
    assert not half_made.sound(disk.path, kind)
    ours = rehearsal.extents(disk.machine.paths, disk.device, disk.intent(kind))
    assert disk.look(ours=ours) == HalfMade()
    make(disk, disk.intent(kind))
    assert half_made.sound(disk.path, kind)
    assert disk.look() == Known(kind, FS, "KRKN-data")


@pytest.mark.parametrize("kind", registry.TYPES)
def test_not_where_something_else_lies_beside_it(kind: str, disk: Disk) -> None:
    torn(disk, kind)
    disk.put(disk.device.size - (8 << 20), b"somebody's")
    refused(disk, "content-refused", lambda disk: make(disk, disk.intent(kind)))


@pytest.mark.parametrize("kind", registry.TYPES)
def test_what_is_whole_is_never_made_again(kind: str, machine: Machine) -> None:
    disk = machine.disk()
    disk.put(disk.single, record.encode(disk.intent(kind)))
    make(disk, disk.intent(kind))
    refused(disk, "content-refused", lambda disk: make(disk, disk.intent(kind)))


def test_a_type_without_a_checker_is_not_believed(disk: Disk) -> None:
    assert not half_made.sound(disk.path, "vfat")
