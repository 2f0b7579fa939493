"""Growth on real filesystems: volumes that were enlarged, mounted or not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.decide.grow import LEAST
from cc_kraken.filesystems import registry
from cc_kraken.machine import devices, md, mountinfo
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, Known, KrakenError
from cc_kraken.proof import probe, record
from cc_kraken.state import layout
from cc_kraken.storage import grow
from tests.conftest import umount
from tests.loop.test_destroy import HalfArray, MakeDevice
from tests.loop.test_destroy import Machine as Disks
from tests.loop.test_run import GIB, Machine, intent, machine, put, states

__all__ = ["machine"]  # a fixture

pytestmark = pytest.mark.long

CAP_SYS_RESOURCE = 1 << 24


def may_grow_ext4() -> bool:
    """The kernel asks for a capability that a container may lack."""
    text = Path("/proc/self/status").read_text()
    (line,) = [one for one in text.splitlines() if one.startswith("CapEff")]
    return bool(int(line.split()[1], 16) & CAP_SYS_RESOURCE)


TYPES = [
    pytest.param(
        "ext4",
        marks=pytest.mark.skipif(
            not may_grow_ext4(), reason="CAP_SYS_RESOURCE is needed for ext4"
        ),
    ),
    "xfs",
    "btrfs",
]


def enlarge(machine: Machine, volume: str, gib: int, *, ec2: bool = True) -> None:
    """ModifyVolume, and the disk that shows it."""
    if ec2:
        machine.lab.resize_volume(volume, gib)
    os.truncate(machine.file(volume), gib * GIB)
    path = machine.disk(volume)
    subprocess.run(["losetup", "--set-capacity", path], check=True)
    size = machine.base / "sys/block" / os.path.basename(path) / "size"
    size.write_text(f"{gib * GIB // 512}\n")


def size(path: str, node: str) -> int:
    mount = mountinfo.at(Paths(), path)
    assert mount is not None
    found = grow.state(mount, node)
    assert found is not None
    return found.size


def done(status: dict[str, Any], name: str = "data") -> list[str]:
    return list(status["sets"][name]["done"])


# ----------------------------------------------------------------- whole runs


@pytest.mark.parametrize("kind", TYPES)
def test_a_mounted_filesystem_follows_its_volume(machine: Machine, kind: str) -> None:
    volume = machine.volume("data", FsType=kind)
    machine.run()
    path, node = machine.path("data"), machine.disk(volume)
    planted = Path(path, "planted")
    planted.write_text("still here")
    before = size(path, node)
    assert before <= GIB

    enlarge(machine, volume, 3)
    status = machine.run()
    assert done(status) == [f"grow the {kind} at {path} from 1 GiB to 3 GiB"]
    assert states(status) == {"data": "mounted"} and status["warnings"] == []
    assert status["phases"][-1]["name"] == "grow"
    after = size(path, node)
    print(f"{kind}: {before} bytes, then {after}")
    assert 3 * GIB - after < LEAST
    assert planted.read_text() == "still here"
    # At once, though the superblock on the disk may be older.
    assert done(machine.run()) == []


def test_a_btrfs_with_another_default_subvolume_follows_its_volume(
    machine: Machine,
) -> None:
    volume = machine.volume("data", FsType="btrfs")
    machine.run()
    path, below = machine.path("data"), machine.path("data/below")
    subprocess.run(["btrfs", "subvolume", "create", below], check=True)
    subprocess.run(["btrfs", "subvolume", "set-default", below], check=True)
    machine.unmount()
    assert states(machine.run()) == {"data": "mounted"}
    enlarge(machine, volume, 3)
    status = machine.run()
    assert done(status) == [f"grow the btrfs at {path} from 1 GiB to 3 GiB"]
    assert 3 * GIB - size(path, machine.disk(volume)) < LEAST
    assert done(machine.run()) == [] and status["warnings"] == []


@pytest.mark.parametrize("kind", TYPES)
def test_the_next_instance_mounts_and_grows(machine: Machine, kind: str) -> None:
    volume = machine.volume("data", FsType=kind)
    machine.run()
    machine.unmount()
    enlarge(machine, volume, 2)
    seen = probe.look(machine.disk(volume), volume_id=volume)
    assert isinstance(seen.content, Known)
    status = machine.run()
    path = machine.path("data")
    assert [text.split()[0] for text in done(status)] == ["mount", "grow"]
    assert 2 * GIB - size(path, machine.disk(volume)) < LEAST
    assert status["sets"]["data"]["filesystem"]["uuid"] == seen.content.uuid


def test_the_fast_way_ends_where_a_volume_was_enlarged(machine: Machine) -> None:
    """Without a call: the machine shows it, EC2 is not asked."""
    volume = machine.volume("data", FsType="xfs")
    machine.run()
    saved = layout.load(machine.paths)
    assert saved is not None and not layout.enlarged(machine.paths, saved)
    enlarge(machine, volume, 2)
    assert layout.enlarged(machine.paths, saved)
    machine.run()
    saved = layout.load(machine.paths)
    assert saved is not None and not layout.enlarged(machine.paths, saved)


def test_grow_false_leaves_it_and_says_nothing(machine: Machine) -> None:
    volume = machine.volume("data", FsType="xfs")
    off = {"data": {"grow": False}}
    machine.run(volumes=off)
    enlarge(machine, volume, 2)
    status = machine.run(volumes=off)
    entry = status["sets"]["data"]
    assert (entry["done"], entry["notes"], status["warnings"]) == ([], [], [])
    assert size(machine.path("data"), machine.disk(volume)) <= GIB
    saved = layout.load(machine.paths)
    assert saved is not None and not layout.enlarged(machine.paths, saved)


def test_ec2_is_ahead_of_the_machine(machine: Machine) -> None:
    """A mounted set stays up; it grows when the disk shows its new size."""
    volume = machine.volume("data", FsType="xfs")
    machine.run()
    machine.lab.resize_volume(volume, 2)
    status = machine.run(wait=5)
    assert (status["state"], states(status)) == ("done", {"data": "mounted"})
    (note,) = status["sets"]["data"]["notes"]
    assert f"EC2 says that {volume} has 2 GiB" in note
    assert status["warnings"] == []
    enlarge(machine, volume, 2, ec2=False)
    assert done(machine.run())[0].startswith("grow the xfs")


def test_what_cannot_be_grown_is_a_warning_and_serves_as_before(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resize2fs without its capability, or as if."""
    volume = machine.volume("data")
    machine.run()
    enlarge(machine, volume, 2)
    if may_grow_ext4():
        words = ("resize2fs", "/nonexistent")
        monkeypatch.setattr(registry.of("ext4"), "grow_argv", lambda *_: words)
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"data": "mounted"})
    (warning,) = status["warnings"]
    assert "data could not be grown" in warning and "resize2fs" in warning
    assert status["sets"]["data"]["warnings"] == [warning]
    assert done(status) == []
    monkeypatch.undo()


@pytest.mark.parametrize("kind", TYPES)
def test_a_filesystem_that_is_mounted_to_be_read_waits(
    machine: Machine, kind: str
) -> None:
    volume = machine.volume("data", FsType=kind, MountOptions="ro")
    machine.run()
    enlarge(machine, volume, 2)
    status = machine.run()
    assert done(status) == [] and status["warnings"] == []
    assert "can be written" in status["sets"]["data"]["outcomes"][0]
    assert layout.load(machine.paths) is None


# ------------------------------------------------- what is no enlargement


SIZES = [1 << 30, (1 << 30) - (16 << 20), (3 << 30) // 2 + 4096 * 77, (5 << 30) - 8192]
OPTIONS: dict[str, list[list[str]]] = {
    "ext4": [[], ["-b", "1024"], ["-i", "4096", "-I", "1024"], ["-T", "news"]],
    "xfs": [[], ["-d", "su=64k,sw=3"], ["-b", "size=1024"]],
    "btrfs": [[], ["-d", "dup"]],
}


@pytest.mark.parametrize("kind", registry.TYPES)
def test_what_mkfs_leaves_is_no_reason_to_grow(
    kind: str,
    tmp_path: Path,
    loop_device: Any,
) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    for number in SIZES:
        node = loop_device(number)
        for options in OPTIONS[kind]:
            force = [] if kind == "ext4" else ["-f"]
            command = [f"mkfs.{kind}", "-q", *force, *options, node]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["mount", node, str(where)], check=True)
            try:
                left = number - size(str(where), node)
            finally:
                umount(where)
            assert 0 <= left < LEAST, (number, options, left)


# ------------------------------------------------------------- what is refused


def refusal(do: Callable[[], object]) -> str:
    with pytest.raises(KrakenError) as caught:
        do()
    return caught.value.trouble.kind


def device_of(machine: Machine, volume: str) -> Device:
    return devices.scan(machine.paths).by_volume[volume]


def test_a_record_in_what_is_mounted_keeps_nothing_from_growing(
    machine: Machine,
) -> None:
    """Any user of the filesystem can write one there."""
    volume = machine.volume("data", FsType="xfs")
    machine.run()
    enlarge(machine, volume, 2)
    text = record.encode(intent(volume, "xfs"))
    for place in record.places(2 * GIB):
        put(machine, volume, place, text)
    assert done(machine.run())[0].startswith("grow the xfs")


def test_another_device_is_mounted_there(machine: Machine) -> None:
    volume, other = machine.volume("data", FsType="xfs"), machine.volume("other")
    machine.run()
    enlarge(machine, volume, 2)
    path, node = machine.path("data"), machine.disk(volume)
    device, before = device_of(machine, other), size(path, node)

    def act() -> None:
        grow.filesystem(machine.paths, device, (device,), path, "xfs")

    assert refusal(act) == "mount-differs"
    assert size(path, node) == before


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({}, "command-failed"),  # mdadm's word, who finds no array
        ({"degraded": 1}, "grow-refused"),
        ({"action": "resync"}, "grow-refused"),
        ({"state": "readonly"}, "grow-refused"),
    ],
)
def test_an_array_that_is_not_whole_is_not_grown(
    what: dict[str, Any], kind: str, tmp_path: Path, loop_device: MakeDevice
) -> None:
    half = HalfArray(Disks(tmp_path, loop_device), "clean")
    paths = half.array.machine.paths
    (array,) = md.scan(paths)
    array = replace(array, **{"action": "idle", "path": half.array.path, **what})
    members = [disk.device for disk in half.disks]
    for disk in half.disks:
        disk.put(record.MEMBER_PLACE, bytes(4096))
    before = [disk.digest() for disk in half.disks]
    assert refusal(lambda: grow.array(paths, array, members, 2 * GIB)) == kind
    assert [disk.digest() for disk in half.disks] == before
