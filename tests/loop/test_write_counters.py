"""What was found is believed again only as long as no byte can have changed.

Loop devices are no witnesses (who writes to their file is not counted), so
these tests say that they are, and write through the device.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cc_kraken.act.observe import Observer
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Attachment,
    Blank,
    Claim,
    Device,
    HalfMade,
    Known,
    KrakenError,
    Look,
    Record,
    Section,
    Unknown,
    Volume,
    WantedSet,
)
from cc_kraken.proof import probe, record, write_counters
from cc_kraken.storage import make
from tests.counting import proof_cost
from tests.unit import worlds as w

pytestmark = pytest.mark.long

GIB, MIB = 1 << 30, 1 << 20
SIZE = 64 * MIB
"""Small volumes are read whole."""
PROOF = proof_cost(SIZE)[1]
VOLUME = "vol-00000000000000001"
FS = "0f0e0d0c-0b0a-4908-8706-050403020100"
OWN = Record("0" * 64, VOLUME, "ext4", FS)
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
PLACE = 8 << 20
"""Read by every proof, and by nothing else."""


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_counters, "TRUSTED", re.compile(r"loop\d+"))


@pytest.fixture
def disk(trusted: None, loop_device: Callable[..., str]) -> str:
    return loop_device(SIZE)


def proof(path: str, seen: Look | None = None) -> Look:
    look = probe.look(path, volume_id=VOLUME, seen=seen)
    assert isinstance(look.content, Blank)
    return look


def test_what_was_proved_is_not_read_again(disk: str) -> None:
    first = proof(disk)
    assert first.bytes_read >= PROOF
    assert proof(disk, first) is first
    assert proof(disk) is not first, "nothing is remembered by itself"


def direct(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"x", PLACE)
    os.fsync(fd)
    os.close(fd)


def waiting(path: str) -> None:
    """In the page cache: closing the last descriptor would flush it."""
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"x", PLACE)
    kept.append(fd)


def ioctl(code: int) -> Callable[[str], None]:
    def do(path: str) -> None:
        fd = os.open(path, os.O_WRONLY)
        fcntl.ioctl(fd, code, struct.pack("QQ", PLACE, 4096))
        os.close(fd)

    return do


kept: list[int] = []
WRITES = {
    "a write": direct,
    "a write that waits": waiting,
    "a discard": ioctl(BLKDISCARD),
    "zeroing": ioctl(BLKZEROOUT),
}


@pytest.mark.parametrize("name", WRITES)
def test_any_write_ends_it(disk: str, name: str) -> None:
    first = proof(disk)
    try:
        WRITES[name](disk)
        look = probe.look(disk, volume_id=VOLUME, seen=first)
    finally:
        while kept:
            os.close(kept.pop())
    assert look is not first and look.bytes_read >= PROOF
    if "write" in name:
        assert isinstance(look.content, Unknown) and look.content.offset == PLACE
    else:
        assert isinstance(look.content, Blank)


def test_another_disk_of_this_number_is_another_disk(
    trusted: None, loop_device: Callable[..., str], tmp_path: Path
) -> None:
    path = loop_device(SIZE)
    first = proof(path)
    assert first.testimony is not None
    subprocess.run(["losetup", "--detach", path], check=True)
    second = tmp_path / "second"
    with open(second, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["losetup", path, str(second)], check=True)
    assert proof(path, first) is not first


def test_an_enlarged_disk_is_read_again(
    trusted: None, loop_device: Callable[..., str], tmp_path: Path
) -> None:
    path = loop_device(SIZE)
    first = proof(path)
    (backing,) = tmp_path.glob("disk*")
    os.truncate(backing, 2 * SIZE)
    subprocess.run(["losetup", "--set-capacity", path], check=True)
    assert proof(path, first) is not first


@pytest.mark.parametrize(
    "found", [Unknown("Read error at 0."), HalfMade()], ids=["an error", "half made"]
)
def test_only_what_is_blank_or_known_is_believed(
    disk: str, found: Unknown | HalfMade
) -> None:
    first = replace(proof(disk), content=found)
    assert proof(disk, first) is not first


def test_a_device_in_use_is_no_answer_to_other_questions(disk: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    used = probe.look(disk, volume_id=VOLUME, in_use=True)
    assert isinstance(used.content, Known) and used.testimony is None


def test_a_loop_device_is_no_witness(loop_device: Callable[..., str]) -> None:
    path = loop_device(SIZE)
    first = proof(path)
    assert first.testimony is None and proof(path, first) is not first


def test_a_kernel_that_does_not_count_is_no_witness(disk: str) -> None:
    switch = Path("/sys/block", os.path.basename(disk), "queue/iostats")
    switch.write_text("0")
    try:
        assert proof(disk).testimony is None
    finally:
        switch.write_text("1")


# --------------------------------------------------------- what travels with it


class Machine:
    """The disk as a volume, with a tree of files for sysfs."""

    def __init__(self, path: str, base: Path) -> None:
        number = os.stat(path).st_rdev
        name, devno = os.path.basename(path), f"{os.major(number)}:{os.minor(number)}"
        self.paths = Paths(
            sys=str(base / "sys"),
            state=str(base / "state"),
            run=str(base / "run"),
            etc=str(base),
        )
        size = int(Path("/sys/block", name, "size").read_text()) * 512
        below = base / "sys/block" / name
        (below / "device").mkdir(parents=True)
        (below / "holders").mkdir()
        for entry, text in (
            ("dev", devno),
            ("size", str(size // 512)),
            ("ro", "0"),
            ("device/serial", VOLUME.replace("-", "")),
        ):
            (below / entry).write_text(f"{text}\n")
        self.device = Device(name, path, devno, VOLUME, size)
        self.place = record.single_place(size)

    def write(self, seen: Look | None) -> Look | None:
        return make.write_record(self.paths, self.device, OWN, self.place, seen=seen)

    def make(self, seen: Look | None) -> Look:
        return make.make_filesystem(
            self.paths,
            self.device,
            [(self.device, OWN)],
            type="ext4",
            uuid=FS,
            seen=seen,
        )

    def erase(self, seen: Look | None) -> Look | None:
        return make.erase_record(self.paths, self.device, OWN, self.place, seen=seen)


@pytest.fixture
def machine(trusted: None, loop_device: Callable[..., str], tmp_path: Path) -> Machine:
    return Machine(loop_device(GIB), tmp_path)


def asked() -> int:
    return command.STARTED["blkid"] + command.STARTED["wipefs"]


def test_one_proof_and_one_question_are_enough_from_end_to_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine.device.path
    first, before = proof(path), asked()
    surveys = []
    survey = probe.Reader.survey
    monkeypatch.setattr(
        probe.Reader, "survey", lambda *given: surveys.append(1) or survey(*given)
    )
    written = machine.write(first)
    assert written is not None and (written.content, written.record) == (Blank(), OWN)
    made = machine.make(written)
    erased = machine.erase(made)
    assert erased is not None and erased.record is None
    assert probe.look(path, volume_id=VOLUME, seen=erased) is erased
    assert erased.content == Known("ext4", FS)
    assert not surveys and asked() == before


def test_the_next_round_believes_what_the_one_before_has_found(
    machine: Machine,
) -> None:
    watcher = Observer(machine.paths, Section())
    attached = Attachment(w.ME, "/dev/sdf", "attached")
    volume = Volume(VOLUME, 1, w.ZONE, "in-use", attachments=(attached,))
    claim = Claim("log", WantedSet("log", fs_type="ext4"), (volume,))

    def look() -> Look:
        return watcher.look(w.ME, [claim]).looks[VOLUME]

    first = look()
    assert isinstance(first.content, Blank) and look() is first
    direct(machine.device.path)
    assert isinstance(look().content, Unknown)


def test_what_somebody_else_writes_in_between_is_found(machine: Machine) -> None:
    path = machine.device.path
    first = proof(path)
    direct(path)
    with pytest.raises(KrakenError, match=str(PLACE)):
        machine.write(first)


def test_what_somebody_else_writes_beside_our_record_is_found(
    machine: Machine,
) -> None:
    path = machine.device.path
    written = machine.write(proof(path))
    direct(path)
    with pytest.raises(KrakenError, match=str(PLACE)):
        machine.make(written)


def test_a_write_at_the_moment_of_ours_ends_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the proof and our own write nothing but our block may be counted."""
    path = machine.device.path
    first, write = proof(path), os.pwritev

    def both(fd: int, buffers: list[bytes], offset: int) -> int:
        direct(path)
        return write(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", both)
    written = machine.write(first)
    assert written is not None and written.testimony is None
    monkeypatch.undo()
    monkeypatch.setattr(write_counters, "TRUSTED", re.compile(r"loop\d+"))
    with pytest.raises(KrakenError, match=str(PLACE)):
        machine.make(written)


def test_the_tools_are_asked_about_what_was_written_after_mkfs(
    machine: Machine,
) -> None:
    path = machine.device.path
    made = machine.make(machine.write(proof(path)))
    direct(path)
    before = asked()
    look = probe.look(path, volume_id=VOLUME, seen=made)
    assert look.content == Known("ext4", FS) and look.record == OWN
    assert asked() == before + 2


def test_where_nothing_was_proved_the_tools_are_asked_after_mkfs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made over remains is not told by our own reading alone."""
    machine.write(None)
    fd = os.open(machine.device.path, os.O_WRONLY)
    os.pwrite(fd, b"half made", 1032)
    os.fsync(fd)
    os.close(fd)
    before = asked()
    machine.make(None)
    assert asked() > before + 2
