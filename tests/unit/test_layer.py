"""A disk and an array are both a layer, and so would be what LUKS opens."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cc_kraken.filesystems.base import Geometry
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, KrakenError, Layer, Record
from cc_kraken.proof import rehearsal
from cc_kraken.storage import preconditions
from tests.unit import worlds as w

DISKS = (w.device(1), w.device(2))


@dataclass(frozen=True)
class Opened(Layer):
    """What LUKS shows of the layer below."""

    name: str
    path: str
    devno: str
    size: int
    below: Layer
    read_only: bool = False
    mounted: tuple[str, ...] = ()
    volume_id = ""

    @property
    def striped(self) -> bool:  # type: ignore[override]
        return self.below.striped

    def disks(self, devices: Iterable[Device]) -> tuple[Device, ...]:
        return self.below.disks(devices)

    def lies_on(self, names: Set[str]) -> bool:
        return self.below.lies_on(names)


def opened(below: Layer) -> Opened:
    return Opened("dm-0", "/dev/mapper/data", "253:0", 64 << 20, below)


LAYERS = [
    (DISKS[0], w.volume_id(1), False, DISKS[:1]),
    (w.array(1, 2, level="raid0"), "", True, DISKS),
    (w.array(1, 2, level="raid1"), "", False, DISKS),
    (opened(DISKS[0]), "", False, DISKS[:1]),
    (opened(w.array(1, 2, level="raid0")), "", True, DISKS),
]


@pytest.mark.parametrize(("layer", "volume", "striped", "disks"), LAYERS)
def test_what_a_layer_answers(
    layer: Layer, volume: str, striped: bool, disks: tuple[Device, ...], tmp_path: Path
) -> None:
    assert (layer.volume_id, layer.disks((*DISKS, w.device(3)))) == (volume, disks)
    queue = tmp_path / "sys/block" / layer.name / "queue"
    queue.mkdir(parents=True)
    (queue / "minimum_io_size").write_text("65536\n")
    (queue / "optimal_io_size").write_text("131072\n")
    shape = Geometry(512, 65536, 131072) if striped else Geometry(512)
    assert rehearsal.geometry(Paths(sys=str(tmp_path / "sys")), layer) == shape


def test_a_record_that_names_an_array_is_of_the_disk_alone(tmp_path: Path) -> None:
    """On the disk md was to write; mkfs on what lies above."""
    paths = Paths(sys=str(tmp_path / "sys"), state=str(tmp_path / "state"))
    disk = replace(DISKS[0], size=64 << 20)
    record = Record("me", w.volume_id(1), "ext4", "a-uuid", w.ARRAY, 1, 2)
    assert rehearsal.extents(paths, disk, record) == rehearsal.MD_EXTENTS
    made = rehearsal.extents(paths, disk, replace(record, array_uuid=""))
    assert rehearsal.extents(paths, opened(disk), record) == made != ()


@pytest.mark.parametrize("layer", [one for one, *_ in LAYERS])
def test_a_layer_lies_on_its_disks_and_on_no_others(layer: Layer) -> None:
    names = {disk.name for disk in layer.disks(DISKS)}
    assert layer.lies_on(names)
    assert not layer.lies_on({"nvme9n1"})


def test_messages_and_looks_know_a_layer_by_what_does_not_change() -> None:
    disk, array = DISKS[0], w.array(1, 2)
    assert (disk.key, array.key) == (disk.volume_id, array.uuid)
    assert opened(disk).key == "dm-0"
    assert disk.title == f"{disk.path} ({disk.volume_id})"
    assert array.title == f"{array.path} (array {array.uuid})"
    assert opened(disk).title == "/dev/mapper/data (dm-0)"


@pytest.mark.parametrize("layer", [one for one, *_ in LAYERS])
def test_a_name_that_went_to_another_device_is_seen(
    layer: Layer, tmp_path: Path
) -> None:
    paths = Paths(sys=str(tmp_path / "sys"))
    block = tmp_path / "sys/block" / layer.name
    (block / "device").mkdir(parents=True)
    (block / "dev").write_text(f"{layer.devno}\n")
    if layer.volume_id:
        (block / "device/serial").write_text(layer.volume_id.replace("-", ""))
    preconditions.check_identity(paths, layer)
    (block / "device/serial").write_text("vol0000000000000ffff")
    with pytest.raises(KrakenError, match="is vol-0000000000000ffff now"):
        preconditions.check_identity(paths, layer)
    (block / "dev").write_text("259:99\n")
    with pytest.raises(KrakenError, match=f"is 259:99 now. It was {layer.devno}"):
        preconditions.check_identity(paths, layer)


def test_a_layer_that_nobody_can_check_is_no_layer_that_is_right() -> None:
    with pytest.raises(NotImplementedError, match="Opened"):
        preconditions.check_layer(opened(DISKS[0]), Paths(), DISKS[:1])
