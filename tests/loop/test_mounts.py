"""The fstab line, what is mounted, verification and owners on real filesystems."""

from __future__ import annotations

import os
import stat
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken.decide.steps import MountFilesystem
from cc_kraken.machine import files, fstab, mount_points, mountinfo
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, FstabLine, KrakenError
from cc_kraken.storage import mount_point
from tests.conftest import umount
from tests.unit.tree import Tree, index

MIB = 1 << 20
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-U"],
    "xfs": ["mkfs.xfs", "-q", "-m"],
    "btrfs": ["mkfs.btrfs", "-q", "-U"],
}
MakeDevice = Callable[..., str]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "etc").mkdir()
    return Paths(etc=str(tmp_path / "etc"))


@pytest.fixture
def target(tmp_path: Path, loop_device: MakeDevice) -> Iterator[str]:
    """A mount path that is unmounted before its loop devices go."""
    path = str(tmp_path / "mnt" / "a b#c")
    yield path
    while os.path.ismount(path):
        umount(path)


def make_filesystem(fs_type: str, device: str) -> str:
    new = str(uuid.uuid4())
    option = f"uuid={new}" if fs_type == "xfs" else new
    subprocess.run([*MKFS[fs_type], option, device], check=True)
    return new


def number_of(device: str) -> str:
    rdev = os.stat(device).st_rdev
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def line_for(device: str, path: str, fs_type: str, *options: str) -> FstabLine:
    """A line like ours, by node: in a container no udev makes by-uuid links."""
    line = fstab.entry("data", "unused", path, fs_type, options)
    return FstabLine(**{**vars(line), "spec": device})


def by_fstab(paths: Paths, path: str) -> None:
    """By fstab, as a boot does."""
    subprocess.run(["mount", "-T", paths.fstab, path], check=True)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_fstab_mount_verify_owner(
    paths: Paths, target: str, loop_device: MakeDevice, fs_type: str
) -> None:
    device = loop_device(512 * MIB)
    make_filesystem(fs_type, device)
    line = line_for(device, target, fs_type, "noatime")
    assert fstab.write(paths, fstab.replace(fstab.read(paths), {"data": line}))
    mount_points.make_directory(target)
    assert mountinfo.at(paths, target) is None
    by_fstab(paths, target)

    mount = mountinfo.verify(paths, target, number_of(device))
    assert (mount.path, mount.type, mount.source) == (target, fs_type, device)
    assert mount.devno.startswith("0:") == (fs_type == "btrfs")
    assert mountinfo.mounted(paths)[number_of(device)] == (target,)
    with pytest.raises(KrakenError, match="It must be the device 1:1"):
        mountinfo.verify(paths, target, "1:1")

    assert mount_points.path_state(target).entries == ()
    assert mount_points.set_owner(target, 1234, 4321, 0o2750)
    state = mount_points.path_state(target)
    assert (state.uid, state.gid, state.mode) == (1234, 4321, 0o2750)
    umount(target)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o755
    by_fstab(paths, target)
    assert mount_points.path_state(target) == state


def test_findmnt_finds_no_fault(
    paths: Paths, target: str, loop_device: MakeDevice
) -> None:
    """An independent reader of the line that we write."""
    device = loop_device(64 * MIB)
    make_filesystem("ext4", device)
    fstab.write(paths, fstab.replace("", {"data": line_for(device, target, "ext4")}))
    mount_points.make_directory(target)
    argv = ["findmnt", "--verify", "--tab-file", paths.fstab]
    assert subprocess.run(argv, stdout=subprocess.DEVNULL).returncode == 0


def test_mount_by_uuid(paths: Paths, target: str, loop_device: MakeDevice) -> None:
    """The very line of :func:`fstab.entry`; mount probes where links lack."""
    device = loop_device(64 * MIB)
    line = fstab.entry("data", make_filesystem("ext4", device), target, "ext4")
    fstab.write(paths, fstab.replace("", {"data": line}))
    mount_points.make_directory(target)
    by_fstab(paths, target)
    mountinfo.verify(paths, target, number_of(device))


def disk(machine: Tree, device: str, volume: str) -> Device:
    """A loop device as the disk of this volume."""
    name = os.path.basename(device)
    machine.write(f"sys/block/{name}/dev", f"{number_of(device)}\n")
    index(machine.base / "sys", name)
    serial = volume.replace("-", "")
    machine.write(f"sys/block/{name}/device/serial", f"{serial}\n")
    return Device(name, device, number_of(device), volume, 64 * MIB)


@pytest.fixture
def machine(tmp_path: Path) -> Tree:
    """Its disks are files, its mounts and nodes are real."""
    made = Tree(tmp_path / "machine")
    made.paths = replace(made.paths, proc="/proc", dev="/dev")
    return made


OPTIONS = {
    "ext4": ("noatime", "commit=30", "nodelalloc", "journal_checksum"),
    "xfs": ("noatime", "logbufs=8", "nodiscard", "inode64"),
    "btrfs": ("noatime", "compress=zstd", "space_cache=v2", "nosuid"),
}


@pytest.mark.parametrize("fs_type", OPTIONS)
def test_mount_of_the_very_device(
    machine: Tree, target: str, loop_device: MakeDevice, fs_type: str
) -> None:
    """By its descriptor, with the options that mount(8) takes apart; a second
    filesystem has the same UUID, as a copied volume has it."""
    size = 64 * MIB if fs_type == "ext4" else 512 * MIB
    device, copy = loop_device(size), loop_device(size)
    same = make_filesystem(fs_type, device)
    option = f"uuid={same}" if fs_type == "xfs" else same
    if fs_type != "btrfs":  # of btrfs the kernel knows one at a time
        subprocess.run([*MKFS[fs_type], option, copy], check=True)
    mount_points.make_directory(target)
    own = disk(machine, device, "vol-00000000000000001")
    disk(machine, copy, "vol-00000000000000002")
    step = MountFilesystem("data", target, fs_type, same, OPTIONS[fs_type])
    volumes = frozenset({own.volume_id})
    mount_point.mount(machine.paths, own, volumes, step)
    mountinfo.verify(machine.paths, target, number_of(device))
    shown = subprocess.check_output(
        ["findmnt", "--mountpoint", target, "-n", "-o", "OPTIONS"], text=True
    )
    assert "noatime" in shown
    utab = Path("/run/mount/utab")
    assert not utab.exists() or "/proc/self/fd" not in utab.read_text()
    with pytest.raises(KrakenError) as caught:
        mount_point.mount(machine.paths, own, volumes, step)
    assert caught.value.trouble.kind == "mount-path-busy"
    assert os.path.ismount(target)
    umount(target)
    assert not os.path.ismount(target)


def test_a_second_mount_over_it_is_seen(
    paths: Paths, target: str, loop_device: MakeDevice
) -> None:
    first, second = loop_device(64 * MIB), loop_device(64 * MIB)
    mount_points.make_directory(target)
    for device in (first, second):
        make_filesystem("ext4", device)
        subprocess.run(["mount", device, target], check=True)
    mountinfo.verify(paths, target, number_of(second))
    with pytest.raises(KrakenError, match="After mounting"):
        mountinfo.verify(paths, target, number_of(first))
    assert mountinfo.mounted(paths)[number_of(first)] == (target,)


def test_btrfs_of_two_devices(
    paths: Paths, target: str, loop_device: MakeDevice
) -> None:
    devices = [loop_device(256 * MIB), loop_device(256 * MIB)]
    subprocess.run(["mkfs.btrfs", "-q", *devices], check=True)
    subprocess.run(["btrfs", "device", "scan", *devices], check=True)
    mount_points.make_directory(target)
    subprocess.run(["mount", devices[0], target], check=True)
    found = mountinfo.mounted(paths)
    assert [found[number_of(device)] for device in devices] == [(target,), (target,)]


@pytest.mark.parametrize("case", ["blank", "no device", "no directory", "option"])
def test_mount_that_fails_is_a_sentence(
    machine: Tree, target: str, loop_device: MakeDevice, case: str
) -> None:
    device = loop_device(64 * MIB)
    if case != "blank":
        make_filesystem("ext4", device)
    own = disk(machine, device, "vol-00000000000000001")
    if case == "no device":
        own = replace(own, path="/dev/no-such-node")
    if case != "no directory":
        mount_points.make_directory(target)
    options = ("nonsense=1",) if case == "option" else ()
    step = MountFilesystem("data", target, "ext4", "", options)
    with pytest.raises(KrakenError) as caught:
        mount_point.mount(machine.paths, own, frozenset({own.volume_id}), step)
    kind = "mount-point" if case == "no directory" else "mount-failed"
    assert caught.value.trouble.kind == kind
    assert target in str(caught.value) and "/proc/" not in str(caught.value)
    assert mountinfo.at(machine.paths, target) is None


@pytest.mark.parametrize("obstacle", ["full", "read-only"])
def test_fstab_on_a_disk_that_takes_nothing(
    target: str, loop_device: MakeDevice, obstacle: str
) -> None:
    device = loop_device(16 * MIB)
    make_filesystem("ext4", device)
    mount_points.make_directory(target)
    subprocess.run(["mount", device, target], check=True)
    paths = Paths(etc=target)
    old = "UUID=aaaa / ext4 defaults 0 1\n"
    Path(paths.fstab).write_text(old)
    if obstacle == "full":
        # The last block goes, so that the new content finds none.
        with pytest.raises(OSError), open(os.path.join(target, "big"), "wb", 0) as big:
            while True:
                big.write(b"x" * 512)
    else:
        subprocess.run(["mount", "-o", "remount,ro", target], check=True)
    before = sorted(os.listdir(target))
    with pytest.raises(KrakenError) as caught:
        fstab.write(paths, old + "# more\n")
    assert caught.value.trouble.kind == "cannot-write"
    assert files.read_text(paths.fstab) == old
    assert sorted(os.listdir(target)) == before


def test_owner_is_kept_by_a_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    path.chmod(0o4640)
    files.write_atomic(str(path), b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert stat.S_IMODE(status.st_mode) == 0o4640
