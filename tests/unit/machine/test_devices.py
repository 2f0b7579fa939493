"""Disks are told by serial, and nothing that moves confuses the walk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.machine import devices, mountinfo
from cc_kraken.model import Device
from tests.unit.tree import GIB, Tree

LONG = "vol0123456789abcdef0"
LONG_ID = "vol-0123456789abcdef0"
OTHER = "vol0fedcba9876543210"
OTHER_ID = "vol-0fedcba9876543210"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("serial", "volume"),
    [
        (LONG, LONG_ID),
        (LONG_ID, LONG_ID),
        ("vol1234abcd            ", "vol-1234abcd"),
        ("vol-1234abcd\n", "vol-1234abcd"),
        ("vol1234abcd\0\0", "vol-1234abcd"),
        ("AWS1234567890ABCDEF0", None),
        ("vol1234abcde", None),
        ("VOL1234ABCD", None),
        ("vol1234abcg", None),
        ("xvol1234abcd", None),
        ("", None),
        ("vol", None),
        ("vol1234abcd vol1234abcd", None),
    ],
)
def test_serial(serial: str, volume: str) -> None:
    assert devices.volume_of_serial(serial) == volume


def test_scan(tree: Tree) -> None:
    tree.disk(0, "vol0aaaaaaaaaaaaaaa0", partitions=["nvme0n1p1"])
    tree.disk(1, LONG, size=3 * GIB)
    tree.disk(2, "AWS1234567890ABCDEF0", model="Amazon EC2 NVMe Instance Storage")
    tree.disk(3, "vol1234abcd", read_only=True, holders=["md127"])
    tree.disk(4, OTHER, model="QEMU NVMe Ctrl")
    tree.disk(5, "vol0bbbbbbbbbbbbbbb0", model=None)
    tree.disk(6, None)
    found = devices.scan(tree.paths)
    assert found.duplicates == {}
    assert {key: device.name for key, device in found.by_volume.items()} == {
        "vol-0aaaaaaaaaaaaaaa0": "nvme0n1",
        LONG_ID: "nvme1n1",
        "vol-1234abcd": "nvme3n1",
        OTHER_ID: "nvme4n1",
        "vol-0bbbbbbbbbbbbbbb0": "nvme5n1",
    }
    assert found.by_volume[LONG_ID] == Device(
        name="nvme1n1",
        path=os.path.join(tree.paths.dev, "nvme1n1"),
        devno=tree.number("nvme1n1"),
        volume_id=LONG_ID,
        size=3 * GIB,
    )
    assert found.by_volume["vol-0aaaaaaaaaaaaaaa0"].partitions == ("nvme0n1p1",)
    assert found.by_volume["vol-1234abcd"].read_only
    assert found.by_volume["vol-1234abcd"].holders == ("md127",)


@pytest.mark.skipif(not shutil.which("lsblk"), reason="needs lsblk")
def test_lsblk_sees_the_same_serials(tree: Tree) -> None:
    """An independent reader of the same tree."""
    tree.disk(1, LONG, size=3 * GIB)
    tree.disk(2, "AWS1234567890ABCDEF0")
    tree.disk(3, "vol1234abcd", size=7 * GIB)
    out = subprocess.run(
        ["lsblk", "--sysroot", str(tree.base), "--json", "--bytes", "--nodeps"]
        + ["-o", "NAME,SERIAL,SIZE"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    rows = json.loads(out)["blockdevices"]
    theirs = {
        devices.volume_of_serial(row["serial"]): (row["name"], row["size"])
        for row in rows
    }
    assert len(rows) == 3
    theirs.pop(None)
    ours = {
        volume: (device.name, device.size)
        for volume, device in devices.scan(tree.paths).by_volume.items()
    }
    assert ours == theirs


def test_duplicates_are_in_neither_place(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, LONG_ID[:20])
    tree.disk(3, LONG)
    found = devices.scan(tree.paths)
    assert found.by_volume == {}
    assert [one.name for one in found.duplicates[LONG_ID]] == ["nvme1n1", "nvme3n1"]


def test_hidden_paths_of_multipath_are_skipped(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, LONG).joinpath("hidden").write_text("1\n")
    found = devices.scan(tree.paths)
    assert found.by_volume[LONG_ID].name == "nvme1n1"
    assert devices.serial_of(tree.paths, "nvme2n1") is None


def test_mounted_swap_and_partitions(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, OTHER, partitions=["nvme2n1p1"])
    tree.disk(3, "vol1234abcd")
    tree.mount("/a\\040b", tree.number("nvme1n1"), "xfs", "/dev/nvme1n1")
    tree.mount("/again", tree.number("nvme1n1"), "xfs", "/dev/nvme1n1")
    tree.mount("/part", tree.number("nvme2n1p1"), "ext4", "/dev/nvme2n1p1")
    tree.swap("/dev/nvme3n1")
    found = devices.scan(tree.paths).by_volume
    assert found[LONG_ID].mounted == ("/a b", "/again")
    assert found[OTHER_ID].mounted == ("/part",)
    assert [device.swap for device in found.values()] == [False, False, True]


def test_btrfs_is_mounted_on_all_its_devices(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, OTHER)
    tree.btrfs("f00d", ["nvme1n1", "nvme2n1"])
    tree.mount("/b", "0:44", "btrfs", "/dev/nvme1n1")
    found = devices.scan(tree.paths).by_volume
    assert {device.mounted for device in found.values()} == {("/b",)}
    (mount,) = [one for one in mountinfo.tree(tree.paths).mounts if one.path == "/b"]
    assert devices.volumes_behind_mount(tree.paths, mount) == {LONG_ID, OTHER_ID}


@pytest.mark.parametrize("victim", ["dev", "size", "device"])
def test_half_vanished_disk_is_left_out(tree: Tree, victim: str) -> None:
    (tree.disk(1, LONG) / victim).unlink()
    tree.disk(2, OTHER)
    assert list(devices.scan(tree.paths).by_volume) == [OTHER_ID]


def test_dangling_link_in_block(tree: Tree) -> None:
    tree.disk(1, LONG)
    (tree.base / "sys/block/nvme9n1").symlink_to("../devices/gone")
    assert list(devices.scan(tree.paths).by_volume) == [LONG_ID]


def test_renumbered_while_it_is_read(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk whose serial changes between first and last read is no device."""
    disk = tree.disk(1, LONG)
    partitions = devices.partitions

    def renumber(paths, name):
        (disk.parent / "serial").write_text(f"{OTHER}\n")
        return partitions(paths, name)

    monkeypatch.setattr(devices, "partitions", renumber)
    assert devices.scan(tree.paths).by_volume == {}
    assert devices.serial_of(tree.paths, "nvme1n1") == OTHER_ID


@pytest.mark.parametrize("name", ["nvme9n1", "", ".", "..", "a\0b"])
def test_serial_of_what_is_not_there(tree: Tree, name: str) -> None:
    assert devices.serial_of(tree.paths, name) is None


def test_volumes_behind_layers(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, OTHER, partitions=["nvme2n1p1"])
    tree.disk(3, "AWS1234567890ABCDEF0")
    tree.virtual("md127", ["nvme1n1", "nvme2n1p1"])
    tree.virtual("dm-0", ["md127"], major=253)
    tree.virtual("md126", ["nvme1n1", "nvme3n1"])
    tree.virtual("loop0", [], major=7)

    def behind(name: str):
        return devices.volumes_behind(tree.paths, tree.number(name))

    assert behind("nvme1n1") == {LONG_ID}
    assert behind("nvme2n1p1") == {OTHER_ID}
    assert behind("md127") == {LONG_ID, OTHER_ID}
    assert behind("dm-0") == {LONG_ID, OTHER_ID}
    assert behind("nvme3n1") is None
    assert behind("md126") is None
    assert behind("loop0") is None
    assert devices.volumes_behind(tree.paths, "1:99") is None
    assert devices.leaves(tree.paths, tree.number("md126")) == {"nvme1n1", "nvme3n1"}


def test_slaves_in_a_circle_end(tree: Tree) -> None:
    tree.virtual("dm-0", ["dm-1"], major=253)
    tree.virtual("dm-1", ["dm-0"], major=253)
    assert devices.volumes_behind(tree.paths, tree.number("dm-0")) is None


@pytest.mark.parametrize("layer", ["disk", "partition", "md", "btrfs", "btrfs-root"])
def test_root_volumes(tree: Tree, layer: str) -> None:
    tree.disk(0, LONG, partitions=["nvme0n1p1"])
    tree.disk(1, OTHER)
    tree.virtual("md0", ["nvme0n1p1"])
    if layer.startswith("btrfs"):
        tree.btrfs("f00d", ["nvme0n1p1"])
        source = "/dev/root" if layer == "btrfs-root" else "/dev/nvme0n1p1"
        tree.mount("/boot", "0:31", "btrfs", source)
    else:
        name = {"disk": "nvme0n1", "partition": "nvme0n1p1", "md": "md0"}[layer]
        tree.mount("/boot", tree.number(name), "ext4", f"/dev/{name}")
    tree.mount("/data", tree.number("nvme1n1"), "ext4", "/dev/nvme1n1")
    assert devices.root_volumes(tree.paths) == {LONG_ID}


@given(st.text(max_size=30))
def test_any_serial(text: str) -> None:
    volume = devices.volume_of_serial(text)
    assert volume is None or len(volume) in (12, 21)


def test_one_volume_is_found_as_the_scan_finds_it(tree: Tree) -> None:
    tree.disk(1, LONG, partitions=["nvme1n1p1"], holders=["md127"])
    tree.disk(2, OTHER)
    tree.disk(3, "AWS1234567890ABCDEF0")
    tree.disk(4, LONG).joinpath("hidden").write_text("1\n")
    found = devices.scan(tree.paths).by_volume
    for volume in (LONG_ID, OTHER_ID):
        assert devices.of_volume(tree.paths, volume) == (found[volume],)
    assert devices.of_volume(tree.paths, "vol-0eeeeeeeeeeeeeee0") == ()


def test_any_change_of_the_disks_shows(tree: Tree) -> None:
    """Also of a twin, a hidden one, and of a size: each is to be looked at."""
    seen = [devices.present(tree.paths)]
    assert seen == [frozenset()]
    disks = [tree.disk(1, LONG), tree.disk(2, OTHER), tree.disk(3, LONG)]
    tree.disk(9, "AWS1234567890ABCDEF0")
    seen.append(devices.present(tree.paths))
    assert {volume for _, volume, _ in seen[-1]} == {LONG_ID, OTHER_ID}
    (disks[0] / "size").write_text("4096\n")
    seen.append(devices.present(tree.paths))
    for name in ("nvme3n1", "nvme1n1", "nvme2n1"):
        (tree.base / "sys/block" / name).unlink()
        seen.append(devices.present(tree.paths))
    assert len(set(seen[1:-1])) == 4 and seen[-1] == frozenset()


def test_the_disk_itself_is_asked_each_time(tree: Tree) -> None:
    """Whatever its serial was: right before a write it is read again."""
    tree.disk(1, LONG)
    assert len(devices.of_volume(tree.paths, LONG_ID)) == 1
    (tree.base / "sys/block/nvme1n1/device/serial").write_text(OTHER)
    assert devices.of_volume(tree.paths, LONG_ID) == ()
    assert devices.serial_of(tree.paths, "nvme1n1") == OTHER_ID


def test_all_twins_of_a_volume_are_found(tree: Tree) -> None:
    tree.disk(1, LONG)
    tree.disk(2, OTHER)
    tree.disk(3, LONG)
    found = devices.of_volume(tree.paths, LONG_ID)
    assert found == devices.scan(tree.paths).duplicates[LONG_ID]
