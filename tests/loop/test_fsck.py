"""Damage of each type: what is done before a mount, what is refused, what is
said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cc_kraken.machine import command
from tests.conftest import attach
from tests.loop.test_run import GIB, Machine, error_of, machine, states

__all__ = ["machine"]  # a fixture

pytestmark = pytest.mark.long


def tool(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout


def made(machine: Machine, kind: str) -> tuple[str, str]:
    """A set with a file in it, not mounted; volume and device."""
    volume = machine.volume("data", FsType=kind)
    machine.run()
    Path(machine.path("data"), "planted").write_text("still here")
    machine.unmount()
    return volume, machine.disk(volume)


def planted(machine: Machine) -> str:
    return Path(machine.path("data"), "planted").read_text()


# ----------------------------------------------------------------------- ext4


def test_an_ext4_with_errors_is_checked_and_mounted(machine: Machine) -> None:
    volume, node = made(machine, "ext4")
    tool("debugfs", "-w", "-R", "set_super_value state 2", node)
    planned = machine.run("plan", dry_run=True, wait=0)["sets"]["data"]["plan"]
    status = machine.run()
    assert states(status) == {"data": "mounted"} and status["warnings"] == []
    check, mount = status["sets"]["data"]["done"]
    assert check == f"check the ext4 on {volume}, which has errors"
    assert mount.startswith("mount ") and planned == [check, mount]
    assert planted(machine) == "still here"
    machine.unmount()
    (done,) = machine.run()["sets"]["data"]["done"]
    assert done.startswith("mount ")


def test_an_ext4_that_its_checker_gave_up_is_checked_again(machine: Machine) -> None:
    """e2fsck takes the mark of a sound filesystem away where errors are left."""
    volume, node = made(machine, "ext4")
    tool("debugfs", "-w", "-R", "set_super_value state 0", node)
    check, mount = machine.run()["sets"]["data"]["done"]
    assert check.startswith(f"check the ext4 on {volume}")
    assert planted(machine) == "still here"
    machine.unmount()
    (done,) = machine.run()["sets"]["data"]["done"]
    assert done.startswith("mount ")


def test_an_ext4_without_a_journal_is_checked_after_a_crash(machine: Machine) -> None:
    """Nothing is replayed: its bitmaps can be older than its files."""
    volume = machine.volume("data", MkfsOptions="-O ^has_journal")
    assert states(machine.run()) == {"data": "mounted"}
    status = machine.run()
    assert (status["sets"]["data"]["done"], status["warnings"]) == ([], [])
    Path(machine.path("data"), "planted").write_text("still here")
    tool("sync", "-f", machine.path("data"))
    crashed = Path(f"{machine.file(volume)}.crashed")
    tool("cp", "--sparse=always", str(machine.file(volume)), str(crashed))
    machine.unmount()
    tool("dd", "bs=1M", "conv=notrunc", f"if={crashed}", f"of={machine.disk(volume)}")
    check, mount = machine.run()["sets"]["data"]["done"]
    assert check.startswith(f"check the ext4 on {volume}")
    assert mount.startswith("mount ")
    assert planted(machine) == "still here"
    machine.unmount()
    (done,) = machine.run()["sets"]["data"]["done"]
    assert done.startswith("mount ")


def test_what_e2fsck_does_not_repair_by_itself_is_refused(machine: Machine) -> None:
    _, node = made(machine, "ext4")
    tool("debugfs", "-w", "-R", "clri <2>", node)
    tool("debugfs", "-w", "-R", "set_super_value state 2", node)
    status = machine.run()
    assert error_of(status, "data") == "filesystem-errors"
    text = status["sets"]["data"]["error"]["message"]
    assert "snapshot" in text and f"e2fsck -f {node}" in text
    assert machine.mounted() == {}


def test_errors_that_are_found_while_it_is_mounted(machine: Machine) -> None:
    """The set stays up; a person must see it."""
    volume, node = made(machine, "ext4")
    machine.run()
    tool("debugfs", "-w", "-R", "set_super_value state 2", node)
    status = machine.run()
    assert states(status) == {"data": "mounted"}
    (warning,) = status["warnings"]
    assert "errors in the ext4" in warning and "snapshot" in warning
    assert status["sets"]["data"]["done"] == []


# ------------------------------------------------------------------------ xfs


def dirty(machine: Machine) -> str:
    """An xfs whose log holds what its tree does not; its device."""
    _, node = made(machine, "xfs")
    machine.run()
    logged = Path(machine.path("data"), "logged")
    logged.write_text("in the log")
    with open(logged) as file:
        os.fsync(file.fileno())
    tool("xfs_io", "-x", "-c", "shutdown -f", machine.path("data"))
    machine.unmount()
    return node


def test_the_log_of_an_xfs_is_replayed_by_its_mount(machine: Machine) -> None:
    node = dirty(machine)
    assert "dirty" in tool("xfs_logprint", "-t", node).lower()
    before = command.STARTED["xfs_repair"]
    status = machine.run()
    assert states(status) == {"data": "mounted"} and status["warnings"] == []
    assert Path(machine.path("data"), "logged").read_text() == "in the log"
    assert command.STARTED["xfs_repair"] == before


def test_an_xfs_that_has_shut_down_is_told(machine: Machine) -> None:
    """It is mounted, and every access is an error."""
    machine.volume("data", FsType="xfs")
    machine.run()
    path = machine.path("data")
    tool("xfs_io", "-x", "-c", "shutdown", path)
    status = machine.run()
    assert states(status) == {"data": "mounted"}
    (warning,) = status["warnings"]
    assert f"{path} cannot be looked at" in warning and f"umount {path}" in warning
    machine.unmount()
    status = machine.run()
    assert states(status) == {"data": "mounted"} and status["warnings"] == []


def test_an_xfs_whose_log_cannot_be_replayed_is_refused(machine: Machine) -> None:
    """Nothing throws the log away."""
    node = dirty(machine)
    said = tool("xfs_db", "-r", "-c", "sb 0", "-c", "p logstart logblocks", node)
    number = {k: int(v) for k, v in (x.split(" = ") for x in said.splitlines())}
    start = tool(
        "xfs_db", "-r", "-c", f"convert fsblock {number['logstart']} byte", node
    )
    at = int(start.split()[-1].strip("()"))
    with open(node, "r+b") as file:
        file.seek(at)
        file.write(os.urandom(number["logblocks"] * 4096))
    before = command.STARTED["xfs_repair"]
    status = machine.run()
    assert error_of(status, "data") == "mount-failed"
    text = status["sets"]["data"]["error"]["message"]
    assert "snapshot" in text and "xfs_repair" in text
    assert command.STARTED["xfs_repair"] == before
    assert machine.mounted() == {}


# ---------------------------------------------------------------------- btrfs


def test_a_btrfs_that_lacks_a_device_is_refused(machine: Machine) -> None:
    volume = machine.volume("data", FsType="btrfs")
    other = machine.base / "other"
    with open(other, "xb") as file:
        file.truncate(GIB)
    pair = [attach(machine.file(volume)), attach(other)]
    try:
        tool("mkfs.btrfs", "-q", "-m", "raid1", "-d", "raid1", *pair)
    finally:
        for node in pair:
            subprocess.run(["losetup", "--detach", node], check=True)
        subprocess.run(["btrfs", "device", "scan", "--forget"], check=True)
    before = machine.digest(volume)
    status = machine.run()
    assert error_of(status, "data") == "content-unknown"
    text = status["sets"]["data"]["error"]["message"]
    assert "A btrfs over 2 devices" in text
    assert machine.digest(volume) == before and machine.mounted() == {}
