"""A copy of a set's volume is attached to the machine, without tags."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken.model import Known
from cc_kraken.proof import signatures
from cc_kraken.state import udev_rules
from tests.conftest import attach
from tests.crafted import md1
from tests.loop.test_run import MIB, ZONE, Machine, machine, states
from tests.unit.tree import index

__all__ = ["machine"]  # a fixture

KINDS = ("ext4", "xfs", "btrfs")
SIZE = 320 * MIB


def filesystem(kind: str, device: str, number: str) -> None:
    option = {"ext4": ["-U", number], "xfs": ["-m", f"uuid={number}"]}
    more = option.get(kind, ["--uuid", number])
    subprocess.run([f"mkfs.{kind}", "-q", *more, device], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_filesystem_shows(kind: str, loop_device: Callable[..., str]) -> None:
    device, number = loop_device(SIZE), str(uuid.uuid4())
    filesystem(kind, device, number)
    assert signatures.ask(device).content == Known(kind, number)


def test_what_a_member_of_an_array_shows(loop_device: Callable[..., str]) -> None:
    device = loop_device(SIZE)
    offset, block = md1(size=SIZE)
    with open(device, "r+b") as disk:
        disk.seek(offset)
        disk.write(block)
    found = signatures.ask(device).content
    assert isinstance(found, Known) and found.type == "linux_raid_member"
    assert found.uuid == str(uuid.UUID(bytes=block[16:32]))


def test_what_is_left_of_an_older_filesystem_counts_less(
    loop_device: Callable[..., str],
) -> None:
    old, new = loop_device(SIZE), loop_device(SIZE)
    numbers = str(uuid.uuid4()), str(uuid.uuid4())
    filesystem("btrfs", old, numbers[0])
    filesystem("ext4", new, numbers[1])
    with open(old, "rb") as one, open(new, "r+b") as other:
        one.seek(64 << 10)
        left = bytearray(one.read(4096))
        left[3000] ^= 1  # its checksum is wrong by now
        other.seek(64 << 10)
        other.write(left)
    assert signatures.ask(new).content == Known("ext4", numbers[1])


def test_a_disk_that_shows_nothing(loop_device: Callable[..., str]) -> None:
    assert not isinstance(signatures.ask(loop_device(SIZE)).content, Known)


def copied(machine: Machine, volume: str) -> str:
    """A volume without tags with the same content; not attached."""
    copy = machine.lab.create_volume(1, ZONE, {})
    subprocess.run(["sync"], check=True)
    files = machine.file(volume), machine.file(copy)
    subprocess.run(["cp", "--sparse=always", *files], check=True)
    return copy


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_a_warning_then_a_refusal_then_no_copy(
    machine: Machine, kind: str
) -> None:
    volume = machine.volume("log", FsType=kind)
    assert states(machine.run()) == {"log": "mounted"}
    own = machine.disk(volume)
    assert machine.mounted() == {machine.path("log"): own}
    named = udev_rules.current(machine.paths)
    assert named["log"].volumes == (volume,)

    # The set is up.
    machine.unmount()
    copy = copied(machine, volume)
    machine.run()
    other = machine.plug(copy)
    up = machine.run("background")
    assert states(up) == {"log": "mounted"} and up["state"] == "done"
    assert machine.mounted() == {machine.path("log"): own}
    (said,) = up["sets"]["log"]["warnings"]
    assert copy in said and volume in said and other in said
    assert os.path.exists(machine.paths.layout), "a reboot is still cheap"

    # It is not: neither is mounted, and neither is written to.
    machine.unmount()
    before = machine.digest(volume, copy)
    refused = machine.run()
    assert states(refused) == {"log": "failed"} and machine.mounted() == {}
    error = refused["sets"]["log"]["error"]
    assert error["kind"] == "filesystem-clone"
    assert copy in error["found"] and volume in error["found"]
    assert machine.digest(volume, copy) == before
    assert udev_rules.current(machine.paths) == named

    # As the text says.
    remedy = error["remedy"].partition("its own UUID: ")[2]
    assert remedy.endswith(other)
    shell = ["sh", "-c", remedy.replace("/mnt", str(machine.mounts))]
    subprocess.run(shell, input="y\n", text=True, check=True)
    again = machine.run()
    assert states(again) == {"log": "mounted"}
    assert again["sets"]["log"]["warnings"] == []
    assert machine.mounted() == {machine.path("log"): own}


@pytest.mark.long
def test_a_copy_that_is_mounted_where_the_set_belongs(machine: Machine) -> None:
    """As systemd did it at a reboot: both are named, and nothing is moved."""
    volume = machine.volume("log")
    machine.run()
    machine.unmount()
    copy = copied(machine, volume)
    path = machine.path("log")
    subprocess.run(["mount", machine.plug(copy), path], check=True)
    told = machine.run()
    error = told["sets"]["log"]["error"]
    assert error["kind"] == "filesystem-clone"
    assert f"mounted at {path}" in error["found"]
    assert copy in error["found"] and volume in error["found"]
    assert "Unmount the copy and detach it" in error["remedy"]
    assert not os.path.exists(machine.paths.layout)


@pytest.mark.long
def test_a_copy_in_a_partition(machine: Machine) -> None:
    volume = machine.volume("log")
    machine.run()
    machine.unmount()
    outer = machine.lab.create_volume(2, ZONE, {})
    copy = copied(machine, volume)
    disk = os.path.basename(machine.plug(outer))
    # This kernel may read no partitions: the node of another disk stands for it.
    inner = os.stat(attached(machine, machine.file(copy))).st_rdev
    node = f"/dev/{disk}p1"
    os.mknod(node, 0o60600, inner)
    machine.stack.callback(os.unlink, node)
    below = machine.base / "sys" / "block" / disk / f"{disk}p1"
    below.mkdir()
    (below / "partition").write_text("1\n")
    (below / "dev").write_text(f"{os.major(inner)}:{os.minor(inner)}\n")
    index(machine.base / "sys", f"{disk}/{disk}p1")
    error = machine.run()["sets"]["log"]["error"]
    assert error["kind"] == "filesystem-clone"
    assert f"{outer} ({node}) has the same ext4 UUID" in error["found"]


def attached(machine: Machine, path: Path) -> str:
    device = attach(path)
    machine.stack.callback(subprocess.run, ["losetup", "--detach", device])
    return device


@pytest.mark.long
def test_a_disk_that_is_asked_is_not_written_to(machine: Machine) -> None:
    volume = machine.volume("log")
    stranger = machine.lab.create_volume(1, ZONE, {})
    with open(machine.file(stranger), "r+b") as file:
        file.write(os.urandom(MIB))
    before = machine.digest(stranger)
    machine.plug(stranger)
    assert states(machine.run()) == {"log": "mounted"}
    assert machine.digest(stranger) == before
    assert machine.mounted() == {machine.path("log"): machine.disk(volume)}
