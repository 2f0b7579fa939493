"""What was proved once is read again as soon as a byte may have changed.

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
from pathlib import Path

import pytest

from cc_kraken.act import make
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Blank, Device, Known, KrakenError, Look, Record, Unknown
from cc_kraken.proof import content, places, record, write_counters

pytestmark = pytest.mark.long

GIB, MIB = 1 << 30, 1 << 20
SIZE = 64 * MIB
"""Small volumes are read whole."""
PROOF = places.cost(SIZE)[1]
VOLUME = "vol-00000000000000001"
FS = "0f0e0d0c-0b0a-4908-8706-050403020100"
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
PLACE = 8 << 20
"""Read by every proof, and by nothing else."""


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_counters, "TRUSTED", re.compile(r"loop\d+"))
    monkeypatch.setattr(write_counters, "_SEEN", {})


@pytest.fixture
def disk(trusted: None, loop_device: Callable[..., str]) -> str:
    path = loop_device(SIZE)
    assert proof(path) >= PROOF
    return path


def proof(path: str, **more: bool) -> int:
    """Bytes read to find it blank."""
    look = content.look(path, volume_id=VOLUME, **more)
    assert isinstance(look.content, Blank)
    return look.bytes_read


def test_what_was_proved_is_not_read_again(disk: str) -> None:
    assert proof(disk) < 1 << 20
    assert proof(disk) < 1 << 20


def test_a_full_proof_is_more_than_a_sampled_one(
    trusted: None, loop_device: Callable[..., str]
) -> None:
    disk = loop_device(GIB)
    assert proof(disk) >= places.cost(GIB)[1]
    assert proof(disk, full=True) == pytest.approx(GIB, rel=0.2)
    assert proof(disk, full=True) < 1 << 20
    assert proof(disk) < 1 << 20


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
    try:
        WRITES[name](disk)
        look = content.look(disk, volume_id=VOLUME)
        if "write" in name:
            assert isinstance(look.content, Unknown) and look.content.offset == PLACE
        else:
            assert isinstance(look.content, Blank) and look.bytes_read >= PROOF
    finally:
        while kept:
            os.close(kept.pop())


def test_another_disk_of_this_number_is_another_disk(
    trusted: None, loop_device: Callable[..., str], tmp_path: Path
) -> None:
    path = loop_device(SIZE)
    proof(path)
    fd = os.open(path, os.O_RDONLY)
    before = write_counters.testimony(fd)
    os.close(fd)
    assert before is not None
    subprocess.run(["losetup", "--detach", path], check=True)
    second = tmp_path / "second"
    with open(second, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["losetup", path, str(second)], check=True)
    assert proof(path) >= PROOF


def test_an_enlarged_disk_is_read_again(
    trusted: None, loop_device: Callable[..., str], tmp_path: Path
) -> None:
    path = loop_device(SIZE)
    proof(path)
    (backing,) = tmp_path.glob("disk*")
    os.truncate(backing, 2 * SIZE)
    subprocess.run(["losetup", "--set-capacity", path], check=True)
    assert proof(path) >= PROOF


@pytest.mark.parametrize("alone", [True, False])
def test_what_somebody_else_wrote_beside_our_record_counts(
    disk: str, alone: bool
) -> None:
    own = Record("0" * 64, VOLUME, "ext4", FS)
    place = record.single_place(SIZE)
    fd = os.open(disk, os.O_RDWR)
    try:
        before = write_counters.testimony(fd)
        os.pwrite(fd, record.encode(own), place)
        if not alone:
            direct(disk)
        os.fsync(fd)
        write_counters.note_write(fd, before, record.extent(place), erased=False)
    finally:
        os.close(fd)
    look = content.look(disk, volume_id=VOLUME)
    assert look.record == own
    assert isinstance(look.content, Blank if alone else Unknown)
    assert (look.bytes_read < PROOF) == alone


# ------------------------------------------------------- what we have made


MADE = ("ext4", FS)


def tools() -> int:
    return command.STARTED["blkid"] + command.STARTED["wipefs"]


def looked(path: str, **more: object) -> tuple[Look, int]:
    """What is there, and how many programs were asked."""
    before = tools()
    look = content.look(path, volume_id=VOLUME, **more)  # type: ignore[arg-type]
    return look, tools() - before


@pytest.fixture
def made(disk: str) -> str:
    """A filesystem of ours, with our record still beside it."""
    subprocess.run(["mkfs.ext4", "-q", "-U", FS, disk], check=True)
    write_record(disk, record.encode(Record("0" * 64, VOLUME, *MADE)))
    return disk


def write_record(path: str, data: bytes) -> None:
    place = record.single_place(SIZE)
    fd = os.open(path, os.O_RDWR)
    try:
        before = write_counters.testimony(fd)
        os.pwrite(fd, data, place)
        os.fsync(fd)
        write_counters.note_write(
            fd, before, record.extent(place), erased=not any(data)
        )
    finally:
        os.close(fd)


def is_made(look: Look) -> bool:
    shown = look.content
    return isinstance(shown, Known) and (shown.type, shown.uuid) == MADE


def test_of_what_we_have_made_nobody_else_is_asked(made: str) -> None:
    look, asked = looked(made, made=MADE)
    assert is_made(look) and look.record is not None and asked == 0
    write_record(made, bytes(4096))
    look, asked = looked(made)
    assert is_made(look) and look.record is None and asked == 0


@pytest.mark.parametrize("other", [("ext4", FS.replace("0f", "ff")), ("xfs", FS)])
def test_what_we_have_not_made_is_everybodys_to_tell(
    made: str, other: tuple[str, str]
) -> None:
    look, asked = looked(made, made=other)
    assert is_made(look) and asked == 2


def test_what_was_written_to_since_it_was_made_is_asked_about(made: str) -> None:
    looked(made, made=MADE)
    direct(made)
    look, asked = looked(made)
    assert is_made(look) and asked == 2


def test_a_record_that_comes_after_it_was_made_is_asked_about(made: str) -> None:
    looked(made, made=MADE)
    write_record(made, bytes(4096))
    write_record(made, record.encode(Record("0" * 64, VOLUME, "xfs", FS)))
    look, asked = looked(made)
    assert is_made(look) and asked == 2


def test_what_somebody_adds_to_what_we_have_made_is_seen(made: str) -> None:
    looked(made, made=MADE)
    fd = os.open(made, os.O_RDWR)
    os.pwrite(fd, b"LABELONE", 512)
    os.pwrite(fd, b"LVM2 001", 512 + 24)
    os.fsync(fd)
    os.close(fd)
    _, asked = looked(made)
    assert asked == 2


def test_without_a_witness_it_is_asked_about_later(
    loop_device: Callable[..., str],
) -> None:
    path = loop_device(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-U", FS, path], check=True)
    assert looked(path, made=MADE)[1] == 0
    look, asked = looked(path)
    assert is_made(look) and asked == 2


def test_a_loop_device_is_no_witness(loop_device: Callable[..., str]) -> None:
    path = loop_device(SIZE)
    assert proof(path) >= PROOF
    assert proof(path) >= PROOF


def test_a_kernel_that_does_not_count_is_no_witness(disk: str) -> None:
    switch = Path("/sys/block", os.path.basename(disk), "queue/iostats")
    switch.write_text("0")
    assert proof(disk) >= PROOF
    switch.write_text("1")


def test_the_record_is_the_only_write(
    trusted: None, loop_device: Callable[..., str], tmp_path: Path
) -> None:
    """The proof holds beside a record of ours, and for that record alone."""
    disk = loop_device(GIB)
    proof(disk)
    number = os.stat(disk).st_rdev
    name = os.path.basename(disk)
    paths = Paths(sys=str(tmp_path / "sys"))
    below = tmp_path / "sys/block" / name
    (below / "device").mkdir(parents=True)
    (below / "holders").mkdir()
    devno = f"{os.major(number)}:{os.minor(number)}"
    for entry, text in (
        ("dev", devno),
        ("size", str(GIB // 512)),
        ("ro", "0"),
        ("device/serial", VOLUME.replace("-", "")),
    ):
        (below / entry).write_text(f"{text}\n")
    device = Device(name, disk, devno, VOLUME, GIB)
    own = Record("0" * 64, VOLUME, "ext4", FS)
    place = record.single_place(GIB)
    assert make.write_record(paths, device, own, place)
    look = content.look(disk, volume_id=VOLUME)
    assert isinstance(look.content, Blank) and look.record == own
    assert look.bytes_read < 1 << 20
    # Gone: the place itself must be read again, too.
    fd = os.open(disk, os.O_WRONLY)
    os.pwrite(fd, bytes(4096), place)
    os.fsync(fd)
    os.close(fd)
    assert proof(disk) >= PROOF
    assert make.write_record(paths, device, own, place)
    direct(disk)
    with pytest.raises(KrakenError, match=str(PLACE)):
        make.make_filesystem(paths, device, [device], [own], type="ext4", uuid=FS)
