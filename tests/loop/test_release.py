"""A volume that is given back is held until it is gone, by the kernel's own means."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cc_kraken.machine.clock import Clock
from cc_kraken.storage import make, release
from tests.conftest import umount
from tests.loop import test_run as whole
from tests.loop.test_run import Machine

pytestmark = pytest.mark.long

machine = whole.machine


def ext4(machine: Machine) -> tuple[str, str]:
    """A volume with a filesystem, and its disk."""
    volume = machine.volume("data")
    subprocess.run(["mkfs.ext4", "-q", str(machine.file(volume))], check=True)
    return volume, machine.plug(volume)


def mount(device: str, path: str, *before: str) -> "subprocess.CompletedProcess[str]":
    os.makedirs(path, exist_ok=True)
    argv = [*before, "mount", "-t", "ext4", device, path]
    return subprocess.run(argv, stderr=subprocess.PIPE, text=True)


def test_who_mounts_it_during_the_call_is_refused(machine: Machine) -> None:
    volume, device = ext4(machine)
    path = machine.path("stale")
    said: list[str] = []

    def detach(asked: str) -> None:
        """systemd mounts by a stale line, while EC2 is asked and until the disk
        is gone."""
        assert asked == volume
        said.append(mount(device, path).stderr)
        swap = subprocess.run(["swapon", device], stderr=subprocess.PIPE, text=True)
        said.append(swap.stderr)
        with pytest.raises(OSError, match="busy"):
            os.open(device, os.O_RDONLY | os.O_EXCL)
        shutil.rmtree(machine.base / "sys/block" / os.path.basename(device))

    assert release.unused(machine.paths, Clock(), [volume], detach) == {}
    assert "already mounted" in said[0] or "busy" in said[0]
    assert said[1]
    # and then it is nobody's again
    os.close(os.open(device, os.O_RDONLY | os.O_EXCL))


def never(volume: str) -> None:
    raise AssertionError(f"{volume} is detached")


def test_what_is_mounted_where_we_do_not_see_it_is_not_given_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a mount namespace of a service: only the kernel knows."""
    monkeypatch.setattr(make, "BUSY_WAIT", 0.3)
    volume, device = ext4(machine)
    path = machine.path("inside")
    os.makedirs(path)
    script = f"mount -t ext4 {device} {path} && echo up && exec sleep 60"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "up\n"
        try:
            assert str(Path(path)) not in Path("/proc/self/mountinfo").read_text()
            why = release.unused(machine.paths, Clock(), [volume], never)
        finally:
            inside.kill()
    assert why[volume].kind == "device-in-use" and "busy" in why[volume].found


def test_what_is_mounted_at_the_last_moment_is_not_given_back(
    machine: Machine,
) -> None:
    volume, device = ext4(machine)
    path = machine.path("stale")
    assert mount(device, path).returncode == 0
    try:
        why = release.unused(machine.paths, Clock(), [volume], never)
        assert f"mounted at {path}" in why[volume].found
    finally:
        umount(path)


def test_a_partition_that_is_mounted_is_a_use_of_its_disk(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no file here shows that it is a part of this disk."""
    monkeypatch.setattr(make, "BUSY_WAIT", 0.3)
    volume = machine.volume("data")
    table = b"label: gpt\n,512M\n"
    subprocess.run(["sfdisk", "-q", str(machine.file(volume))], input=table, check=True)
    device = machine.plug(volume)
    subprocess.run(["partx", "--add", device], stderr=subprocess.DEVNULL)
    part = f"{device}p1"
    if not os.path.exists(part):
        pytest.skip("the kernel makes no partitions of loop devices here")
    subprocess.run(["mkfs.ext4", "-q", part], check=True)
    path = machine.path("part")
    assert mount(part, path).returncode == 0
    try:
        why = release.unused(machine.paths, Clock(), [volume], never)
        assert why[volume].kind == "device-in-use"
    finally:
        umount(path)
        subprocess.run(["partx", "--delete", device], check=True)
    # A table alone is no use of it.
    calls: list[str] = []

    def detach(asked: str) -> None:
        calls.append(asked)
        shutil.rmtree(machine.base / "sys/block" / os.path.basename(device))

    assert release.unused(machine.paths, Clock(), [volume], detach) == {}
    assert calls == [volume]
