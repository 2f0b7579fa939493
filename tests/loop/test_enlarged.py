"""What lies on a volume that was enlarged is known as before."""

from __future__ import annotations

import os
import subprocess

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.model import Known
from cc_kraken.proof import probe, record
from tests import crafted
from tests.loop.test_destroy import Disk, disk, machine, make

pytestmark = pytest.mark.long

__all__ = ["disk", "machine"]  # fixtures

GIB = 1 << 30


def enlarge_disk(disk: Disk, gib: int) -> None:
    disk.flush()
    os.truncate(disk.file, gib * GIB)
    subprocess.run(["losetup", "--set-capacity", disk.path], check=True)


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_known_filesystem_stays_known(kind: str, disk: Disk) -> None:
    disk.put(disk.single, record.encode(disk.intent(kind)))
    make(disk, disk.intent(kind))
    disk.put(disk.single, bytes(4096))
    before = disk.look()
    enlarge_disk(disk, 3)
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert look.content == before and isinstance(look.content, Known)
    assert 0 < look.content.size <= disk.device.size


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_record_from_before_is_not_overlooked(kind: str, disk: Disk) -> None:
    """Its place depends on the size: what looks whole may not be."""
    disk.put(disk.single, record.encode(disk.intent(kind)))
    make(disk, disk.intent(kind))
    enlarge_disk(disk, 2)
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert isinstance(look.content, Known)
    assert (look.record, look.moved) == (disk.intent(kind), disk.single)


@pytest.mark.parametrize("level", [0, 1, 5, 6, 10])
def test_a_member_stays_a_member(level: int, disk: Disk) -> None:
    """Version 1.2 has its place at the start."""
    disk.put(*crafted.md1(GIB, level=level, disks=4, roles=(0, 1, 2, 3)))
    before = disk.look()
    enlarge_disk(disk, 3)
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert look.content == before and isinstance(look.content, Known)
    assert look.content.superblock is not None
