"""Whole runs on volumes whose intent record has outlived its time, or is a copy that
a user of the filesystem has written, or that a run was told to leave behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.machine import command
from cc_kraken.machine.clock import Clock, ended_by_signals
from cc_kraken.machine.command import Finished
from cc_kraken.model import Known
from cc_kraken.proof import probe, record
from cc_kraken.storage import make
from tests.conftest import attach, soon, umount
from tests.loop.test_run import (
    GIB,
    MIB,
    Machine,
    error_of,
    finished_but_for_the_record,
    intent,
    machine,
    put,
    states,
)

pytestmark = pytest.mark.long

__all__ = ["machine"]  # fixture

NOBODY = 65534


def at_record(machine: Machine, volume: str, place: int = 0) -> bytes:
    with open(machine.file(volume), "rb") as file:
        file.seek(place or record.single_place(GIB))
        return file.read(4096)


# ------------------------------------------- mounted by somebody else's line


def write_files(where: Path, crash: Callable[[], None]) -> None:
    (where / "precious").write_text("a")
    subprocess.run(["sync", "-f", where], check=True)
    crash()


def fsync_one_file(where: Path, crash: Callable[[], None]) -> None:
    with open(where / "precious", "w") as file:
        file.write("a")
        file.flush()
        os.fsync(file.fileno())
    crash()


def be_at_work(where: Path, crash: Callable[[], None]) -> None:
    """A part of the metadata is written home, the rest in the journal alone."""
    with open("/proc/self/mountinfo") as file:
        (device,) = (
            words[words.index("-") + 2]
            for words in map(str.split, file)
            if words[4] == str(where)
        )
    for number in range(20):
        below = where / f"directory{number}"
        below.mkdir()
        for name in range(300):
            (below / f"{name}").write_bytes(b"x" * (name % 3 * 3000))
        write_files(below, lambda: None)
        (below / "more").touch()
        # What the transaction of "more" has not in hand goes to its place.
        fd = os.open(device, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    fsync_one_file(where, crash)


HAPPENED = {
    "files": write_files,
    "one file": fsync_one_file,
    "at work": be_at_work,
}


@pytest.mark.parametrize("happened", HAPPENED)
@pytest.mark.parametrize("kind", registry.TYPES)
def test_mounted_by_an_old_line_and_then_the_power_failed(
    machine: Machine, kind: str, happened: str
) -> None:
    """The run was told to stop after mkfs, fstab mounted what was finished, and
    the instance crashed: it is whole, and its data is never to be given up."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    file = machine.file(volume)
    where = Path(tempfile.mkdtemp(dir=machine.mounts))
    cut = file.with_name("cut")

    def crash() -> None:
        subprocess.run(["cp", "--sparse=always", file, cut], check=True)

    loop = attach(file)
    try:
        subprocess.run(["mount", "-t", kind, loop, where], check=True)
        HAPPENED[happened](where, crash)
        umount(where)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
    cut.rename(file)
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert not any(f"make {kind}" in text for text in status["sets"]["data"]["done"])
    assert Path(machine.path("data"), "precious").read_text() == "a"
    assert not at_record(machine, volume).startswith(record.MAGIC)


@pytest.mark.parametrize("kind", registry.TYPES)
def test_mounted_by_an_old_line_right_now(machine: Machine, kind: str) -> None:
    """At its own path: it is what the set wants, and the record says nothing."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    machine.lab.attach_volume(volume, machine.id, "/dev/sdf")
    machine.lab.wait_until(
        lambda: machine.lab.volume(volume).attachments[0].state == "attached"
    )
    where = Path(machine.path("data"))
    where.mkdir()
    subprocess.run(["mount", machine.disk(volume), where], check=True)
    (where / "precious").write_text("a")
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert status["warnings"] == [] and len(machine.lines()) == 1
    machine.unmount()
    assert states(machine.run()) == {"data": "mounted"}
    assert (where / "precious").read_text() == "a"


# ------------------------------------------------ copies that a user has written


def copies(machine: Machine, volume: str, kind: str) -> dict[str, bytes]:
    mine = intent(volume, kind)
    return {
        "of this very record": record.encode(mine),
        "of another set's": record.encode(replace(mine, identity="0" * 64)),
        "of another volume's": record.encode(
            replace(mine, volume_id="vol-0123456789abcdef0")
        ),
        "of another filesystem's": record.encode(
            replace(mine, fs_uuid="f1a3c0de-0000-4000-8000-0123456789ab")
        ),
    }


def fill(where: Path, block: bytes) -> Path:
    """As a user without any privilege, until the filesystem is full."""
    where.parent.chmod(0o755)
    below = where / "user"
    below.mkdir()
    os.chown(below, NOBODY, NOBODY)
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    path = below / "file"
    done = subprocess.run(
        [*command, "dd", "bs=1M", f"of={path}", "conv=fsync"],
        input=block * 256 * 1024,
        capture_output=True,
    )
    assert b"No space left" in done.stderr, done.stderr
    return path


@pytest.mark.parametrize(
    "what",
    soon(
        ("of this very record", "of another set's"),
        (
            "of this very record",
            "of another set's",
            "of another volume's",
            "of another filesystem's",
        ),
    ),
)
@pytest.mark.on_disk
@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_user_cannot_keep_the_set_from_being_mounted(
    machine: Machine, kind: str, what: str
) -> None:
    volume = machine.volume("data", FsType=kind)
    assert states(machine.run()) == {"data": "mounted"}
    block = copies(machine, volume, kind)[what]
    path = fill(Path(machine.path("data")), block)
    blocks = path.stat().st_size // 4096
    subprocess.run(["sync"], check=True)
    assert at_record(machine, volume) == block, "the disk is not full enough"
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    machine.unmount()
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert status["warnings"] == []
    wrong = 0
    with open(path, "rb") as file:
        for number in range(blocks):
            with_error = kind == "btrfs" and what == "of this very record"
            try:
                file.seek(number * 4096)
                wrong += file.read(4096) != block
            except OSError:
                assert with_error
                wrong += 1
    # Exactly the record is erased, which nobody else has any use for.
    assert wrong == (1 if what == "of this very record" else 0)


# ----------------------------------------------------------- told to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_within_mkfs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What was begun is finished: no record is left for the next boot's fstab."""
    volume = machine.volume("data", FsType="xfs")
    run = command.run

    def told(argv: Sequence[str], **more: Any) -> Finished:
        if argv[0] == "mkfs.xfs" and argv[-1] == machine.disk(volume):
            os.kill(os.getpid(), number)
        return run(argv, **more)

    with monkeypatch.context() as patch, ended_by_signals() as clock:
        patch.setattr(command, "run", told)
        status = machine.run(clock=clock)
    assert clock.stopped and states(status)["data"] != "mounted"
    done = status["sets"]["data"]["done"]
    assert done[-1] == f"erase the intent record on {volume}", done
    assert not any(at_record(machine, volume))
    look = probe.look(machine.disk(volume), volume_id=volume)
    assert isinstance(look.content, Known) and look.record is None
    assert states(machine.run()) == {"data": "mounted"}


def test_told_to_stop_within_an_overwrite(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first byte that was given up on, it goes through."""
    volume = machine.volume("data", FsType="xfs")
    for at in range(3 * MIB, GIB, 20 * MIB):
        put(machine, volume, at, os.urandom(MIB))
    remedy = machine.run()["sets"]["data"]["error"]["remedy"]
    mark = remedy.split(f"{{{volume}: ")[1][:64]
    permitted = {"data": {"overwrite": {volume: mark}}}
    wipe, clock = make.wipe, Clock()

    def told(*given: Any, **more: Any) -> None:
        clock.stop()
        wipe(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(make, "wipe", told)
        status = machine.run(clock=clock, volumes=permitted)
    assert not any(at_record(machine, volume)), status["sets"]["data"]
    assert states(machine.run()) == {"data": "mounted"}


# ------------------------------------------------------- options that move things


def test_packed_metadata_is_refused(machine: Machine) -> None:
    """It was allowed: with a bit that no checker knows, a finished filesystem
    with a small file was made anew."""
    volume = machine.volume("data", MkfsOptions="-E packed_meta_blocks=1")
    mine = intent(volume, "ext4")
    file = machine.file(volume)
    argv = registry.of("ext4").argv(str(file), uuid=mine.fs_uuid)
    where_e = argv.index("-E") + 1
    packed = f"{argv[where_e]},packed_meta_blocks=1"
    subprocess.run([*argv[:where_e], packed, *argv[where_e + 1 :]], check=True)
    where = Path(tempfile.mkdtemp(dir=machine.mounts))
    subprocess.run(["mount", "-o", "loop", file, where], check=True)
    (where / "file").write_text("precious")
    umount(where)
    subprocess.run(["debugfs", "-w", "-R", "feature FEATURE_I31", file], check=True)
    put(machine, volume, record.single_place(GIB), record.encode(mine))
    before = machine.digest(volume)
    status = machine.run()
    assert machine.digest(volume) == before, status["sets"]["data"]["done"]
    assert error_of(status, "data") == "mkfs-options"


@pytest.mark.parametrize("bit", ["FEATURE_I31", "FEATURE_R31", "FEATURE_C31"])
def test_what_the_checker_cannot_judge_is_not_made_anew(
    machine: Machine, bit: str
) -> None:
    """A newer mkfs has made it, and nobody has mounted it."""
    volume = machine.volume("data")
    finished_but_for_the_record(machine, volume, "ext4")
    file = machine.file(volume)
    subprocess.run(["debugfs", "-w", "-R", f"feature {bit}", file], check=True)
    before = machine.digest(volume)
    status = machine.run()
    assert not any("make ext4" in text for text in status["sets"]["data"]["done"])
    if states(status) != {"data": "mounted"}:  # FEATURE_C31 harms nobody
        assert machine.digest(volume) == before
        assert error_of(status, "data") in ("record-unusable", "content-unknown")


# ------------------------------------------------- half made, and beyond 16 TiB

TIB = 1 << 40


class Large:
    """A volume of 17 TiB, and a state directory on ext4, which takes no such file."""

    def __init__(self, machine: Machine, stack: ExitStack, kind: str) -> None:
        self.machine = machine
        room = machine.base / "room"
        self._mounted(stack, room, "xfs", 4 * GIB)
        self._mounted(stack, Path(machine.paths.state), "ext4", GIB)
        os.makedirs(machine.paths.run, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=5g", "none", machine.paths.run],
            check=True,
        )
        stack.callback(umount, machine.paths.run)
        own = machine.lab
        self.size = 17 * TIB
        self.volume = machine.volume("data", FsType=kind)
        own.resize_volume(self.volume, self.size // GIB)
        with open(room / self.volume, "xb") as file:
            file.truncate(self.size)
        self.file = machine.base / "volumes" / self.volume
        self.file.symlink_to(room / self.volume)

    def _mounted(self, stack: ExitStack, where: Path, kind: str, size: int) -> None:
        image = self.machine.base / f"{where.name}.image"
        with open(image, "xb") as file:
            file.truncate(size)
        where.mkdir(exist_ok=True)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
        stack.callback(umount, where)

    def half_made(self, kind: str) -> None:
        """Cut off within mkfs: the superblock, which is written last, is not there."""
        mine = intent(self.volume, kind)
        argv = registry.of(kind).argv(str(self.file), uuid=mine.fs_uuid)
        subprocess.run(argv, check=True)
        end = {"ext4": 4096, "xfs": 512, "btrfs": 128 << 10}[kind]
        put(self.machine, self.volume, 0, bytes(end))
        place = record.single_place(self.size)
        put(self.machine, self.volume, place, record.encode(mine))


@pytest.fixture
def stack(machine: Machine) -> Iterator[ExitStack]:
    """What is mounted for a test goes after the sets are unmounted."""
    with ExitStack() as stack:
        yield stack
        machine.unmount()
        for path in (machine.base / "sys/block").iterdir():
            subprocess.run(["losetup", "--detach", f"/dev/{path.name}"])


@pytest.mark.on_disk
@pytest.mark.parametrize("kind", soon(("xfs", "btrfs"), registry.TYPES))
def test_half_made_and_beyond_16_tib(
    machine: Machine, stack: ExitStack, kind: str
) -> None:
    large = Large(machine, stack, kind)
    large.half_made(kind)
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert any(f"make {kind} " in text for text in status["sets"]["data"]["done"])


@pytest.mark.on_disk
@pytest.mark.parametrize("kind", ["xfs"])
def test_without_room_for_the_shadow_it_can_still_be_given_up(
    machine: Machine, stack: ExitStack, kind: str
) -> None:
    large = Large(machine, stack, kind)
    large.half_made(kind)
    subprocess.run(["mount", "-o", "remount,size=1m", machine.paths.run], check=True)
    status = machine.run()
    error = status["sets"]["data"]["error"]
    assert error["kind"] == "record-unusable", error
    assert "16 TiB" not in error["remedy"] and "overwrite: {vol-" in error["remedy"]
    mark = error["remedy"].split(f"{{{large.volume}: ")[1][:64]
    permitted = {"data": {"overwrite": {large.volume: mark}}}
    status = machine.run(volumes=permitted)
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
