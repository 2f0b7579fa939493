"""The classification matrix on loop devices: what is there, what is said.

After every look the backing file must be what it was, block by block.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import random
import re
import subprocess
import threading
import uuid as uuids
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken.machine.command import ENVIRONMENT
from cc_kraken.model import (
    Blank,
    Extent,
    HalfMade,
    Known,
    Look,
    Record,
    Unknown,
)
from cc_kraken.proof import places, probe, record
from cc_kraken.proof.directio import Reader, ReadError
from tests import crafted
from tests.conftest import make_loop_nodes, umount

pytestmark = [
    pytest.mark.loop,
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
]

MIB = 1 << 20
#: Larger than what is read whole, so that the places matter.
SIZE = 640 * MIB
VOLUME = "vol-0123456789abcdef0"
#: Its own in each process: mkfs.btrfs refuses a UUID that it sees elsewhere.
UUID = str(uuids.uuid4())


@dataclass(frozen=True)
class Disk:
    """A loop device and its backing file."""

    path: str
    file: Path

    @property
    def size(self) -> int:
        return self.file.stat().st_size

    def write(self, offset: int, data: bytes) -> None:
        with self.file.open("r+b") as file:
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def run(self, *command: str) -> None:
        """A command on the device, its name put for ``DEV``."""
        _run([self.path if word == "DEV" else word for word in command])


@contextlib.contextmanager
def attached(folder: Path, size: int = SIZE, *options: str) -> Iterator[Disk]:
    file = folder / f"disk{len(list(folder.iterdir()))}"
    with file.open("wb") as new:
        new.truncate(size)
    path = _attach(["losetup", "--find", "--show", *options, str(file)])
    try:
        yield Disk(path, file)
    finally:
        _run(["losetup", "--detach", path])
        file.unlink()


def _attach(command: Sequence[str]) -> str:
    make_loop_nodes()
    for _ in range(10):
        # another run may take the free device first
        with contextlib.suppress(AssertionError):
            return _run(command).strip()
    return _run(command).strip()


@contextlib.contextmanager
def mounted(disk: Disk, target: Path) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    _run(["mount", disk.path, str(target)])
    try:
        yield target
    finally:
        umount(target)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with attached(tmp_path) as one:
        yield one


def looked(disk: Disk, **options: object) -> Look:
    """A look that is held to have changed nothing and left nobody behind."""
    before, threads = _digest(disk.file), set(threading.enumerate())
    options.setdefault("volume_id", VOLUME)
    found = probe.look(disk.path, **options)  # type: ignore[arg-type]
    assert set(threading.enumerate()) <= threads
    assert _digest(disk.file) == before
    return found


# ------------------------------------------------------------------ the matrix

Prepare = Callable[[Disk], None]


def _parts(*parts: tuple[int, bytes]) -> Prepare:
    def prepare(disk: Disk) -> None:
        for offset, data in parts:
            disk.write(offset, data)

    return prepare


def _noise(offset: int, length: int) -> Prepare:
    return _parts((offset, random.Random(offset).randbytes(length)))


def _command(*command: str) -> Prepare:
    return lambda disk: disk.run(*command)


def _both(*prepares: Prepare) -> Prepare:
    def prepare(disk: Disk) -> None:
        for one in prepares:
            one(disk)

    return prepare


def _zeroed(offset: int, length: int) -> Prepare:
    return _parts((offset, bytes(length)))


def _made(kind: str, uuid: str) -> Prepare:
    named = {"xfs": ("-m", f"uuid={uuid}")}.get(kind, ("-U", uuid))
    return _command(f"mkfs.{kind}", "-q", *named, "-L", "data", "DEV")


def matrix(size: int, uuid: str) -> dict[str, tuple[Prepare, str]]:
    """What is there on a device of ``size`` bytes, by name: how it is made, and
    what is said of it.  A filesystem has this ``uuid``, an array too."""
    array = uuids.UUID(uuid) if uuid else crafted.MD_UUID
    md1 = functools.partial(crafted.md1, array_uuid=array)
    ext4, xfs, btrfs = (_made(kind, uuid) for kind in ("ext4", "xfs", "btrfs"))
    return {
        "zeros": (_parts(), "blank"),
        "random bytes in the first 4 KiB": (
            _noise(0, 4096),
            "unknown at 0: Data without a known signature",
        ),
        "random bytes from 8 MiB": (
            _noise(8 * MIB, 4 * MIB),
            f"unknown at {8 * MIB}: Data without a known signature",
        ),
        "the last byte": (
            _parts((size - 1, b"\1")),
            f"unknown at {size - 1}: Data without a known signature",
        ),
        "ext4": (ext4, "ext4"),
        "xfs": (xfs, "xfs"),
        "btrfs": (btrfs, "btrfs"),
        "ext3": (_command("mkfs.ext3", "-q", "DEV"), "ext3"),
        "ext4, primary superblock zeroed": (
            _both(ext4, _zeroed(1024, 1024)),
            "unknown at 4096: Data without a known signature",
        ),
        "ext4, first 16 MiB zeroed": (
            _both(ext4, _zeroed(0, 16 * MIB)),
            "unknown: Data without a known signature",
        ),
        "xfs, first 16 MiB zeroed": (
            _both(xfs, _zeroed(0, 16 * MIB)),
            "unknown: Data without a known signature",
        ),
        "btrfs, first 16 MiB zeroed": (
            _both(btrfs, _zeroed(0, 16 * MIB)),
            "unknown: Data without a known signature",
        ),
        "ext4, superblock damaged": (
            _both(ext4, _parts((1024 + 0x200, b"\xff"))),
            "unknown at 1024: An ext4 superblock with a wrong checksum",
        ),
        "xfs, half made": (
            _both(xfs, _parts((126, b"\1"))),
            "unknown at 0: Xfs half made",
        ),
        "btrfs, superblock damaged": (
            _both(btrfs, _parts((65536 + 300, b"\xff"))),
            "unknown at 65536: A btrfs superblock with a wrong checksum",
        ),
        "swap": (_command("mkswap", "DEV"), "swap"),
        "LVM physical volume": (_parts(crafted.lvm(size)), "LVM2_member"),
        "LUKS 1": (_parts(crafted.luks(1)), "crypto_LUKS"),
        "LUKS 2": (_parts(crafted.luks(2)), "crypto_LUKS"),
        "GPT": (_parts(*crafted.gpt(size)), "gpt"),
        "MBR": (_parts(crafted.mbr()), "dos"),
        "MBR, empty": (_parts(crafted.mbr(empty=True)), "dos"),
        "zfs": (_parts(*crafted.zfs()), "zfs_member"),
        "bcache": (_parts(crafted.bcache()), "bcache"),
        "md 1.2": (_parts(md1(size)), "linux_raid_member"),
        "md 1.1": (_parts(md1(size, minor=1)), "linux_raid_member"),
        "md 1.0": (_parts(md1(size, minor=0)), "linux_raid_member"),
        "md 0.90": (_parts(crafted.md090(size)), "linux_raid_member"),
        "md 1.2, wrong checksum": (
            _parts(md1(size, wrong=True)),
            "unknown at 4096: An md superblock with a wrong checksum",
        ),
        "md 0.90, wrong checksum": (
            _parts(crafted.md090(size, wrong=True)),
            "unknown: An md superblock (0.90) with a wrong checksum",
        ),
        "md 1.2 and 1.0": (
            _parts(md1(size), md1(size, minor=0)),
            "unknown at 4096: More than one md superblock",
        ),
        "md 1.2 over an old ext4": (
            _both(
                _command("mkfs.ext4", "-q", "-b", "4096", "DEV"),
                _parts(md1(size)),
            ),
            "linux_raid_member",
        ),
        "md 1.2 over an old btrfs": (
            _both(btrfs, _parts(md1(size))),
            "linux_raid_member",
        ),
        "md 1.2 inside an ext4 with blocks of 1 KiB": (
            _both(
                _command("mkfs.ext4", "-q", "-b", "1024", "DEV"),
                _parts(md1(size)),
            ),
            "unknown at 1080: An md member that also carries a signature of ext4",
        ),
        "md 1.2 and a partition table": (
            _parts(md1(size), crafted.mbr()),
            "unknown at 510: An md member that also carries a signature of dos",
        ),
        "mirror with md 1.0 behind its ext4": (
            _both(
                _command("mkfs.ext4", "-q", "DEV", f"{(size - 4 * MIB) // 1024}k"),
                _parts(md1(size, minor=0)),
            ),
            "linux_raid_member",
        ),
        "md 1.2 of a larger device": (
            _parts((4096, md1(2 * size)[1])),
            "unknown at 4096: An md superblock",
        ),
        "ext4 and xfs": (
            _both(xfs, lambda disk: disk.write(1024, _ext4_superblock(disk, size))),
            "unknown at 0: More than one signature: ext4 and xfs",
        ),
        "ext4 and a partition table": (
            _both(ext4, _parts(crafted.mbr())),
            "unknown at 510: More than one signature: dos and ext4",
        ),
        "swap and LVM": (
            _both(_command("mkswap", "DEV"), _parts(crafted.lvm(size))),
            "unknown at 536: More than one signature: LVM2_member and swap",
        ),
        "ext4 of a larger device": (
            lambda disk: disk.write(1024, _ext4_superblock(disk, 2 * size)),
            "unknown at 1024: An ext4 superblock of",
        ),
    }


EXT4, XFS, BTRFS = (_made(kind, UUID) for kind in ("ext4", "xfs", "btrfs"))
MATRIX = matrix(SIZE, UUID)


@pytest.mark.parametrize("what", MATRIX)
def test_matrix(disk: Disk, what: str) -> None:
    # a UUID of its own: the device of the test before may still be going away
    prepare, expected = matrix(SIZE, str(uuids.uuid4()))[what]
    prepare(disk)
    found = looked(disk)
    said = _said(found)
    print(f"{what}: {said}")
    if expected.startswith("unknown: "):
        # where it lies is up to the tool that made it
        said = re.sub(r" at \d+:", ":", said)
    assert said.startswith(expected)
    assert found.record is None
    # why blkid is asked only where wipefs has found something
    listed = _run(["wipefs", "--no-act", "--noheadings", disk.path])
    asked = ["blkid", "-p", disk.path]
    blkid = subprocess.run(asked, env=ENVIRONMENT, capture_output=True, text=True)
    assert listed or (blkid.returncode, blkid.stdout) == (2, "")
    quick = expected in ("ext3", "ext4", "xfs", "btrfs", "linux_raid_member")
    assert bool(found.fingerprint) == (expected != "blank" and not quick)
    if quick:
        assert found.reads <= 8
        assert found.bytes_read <= MIB
        again = looked(disk, fingerprint=True)
        assert again.content == found.content
        assert len(again.fingerprint) == 64


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_known_filesystem_has_its_uuid_and_label(disk: Disk, kind: str) -> None:
    MATRIX[kind][0](disk)
    assert looked(disk).content == Known(kind, UUID, "data")


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_md_member_has_its_superblock(disk: Disk, minor: int) -> None:
    disk.write(*crafted.md1(SIZE, minor=minor, roles=(0xFFFE, 1), number=1, events=9))
    found = looked(disk).content
    assert isinstance(found, Known)
    assert found.uuid == str(crafted.MD_UUID)
    assert found.superblock is not None
    block = found.superblock
    assert (block.minor, block.role, block.events) == (minor, 1, 9)
    assert probe.superblock(disk.path) == block


def test_no_md_superblock(disk: Disk) -> None:
    assert probe.superblock(disk.path) is None
    disk.write(*crafted.md1(SIZE, wrong=True))
    assert probe.superblock(disk.path) is None
    assert probe.superblock("/dev/null") is None


def test_btrfs_over_two_devices(tmp_path: Path) -> None:
    with attached(tmp_path) as one, attached(tmp_path) as two:
        one.run("mkfs.btrfs", "-q", "DEV", two.path)
        for disk in (one, two):
            assert _said(looked(disk)).startswith(
                "unknown at 65536: A btrfs over 2 devices"
            )


@pytest.mark.parametrize("seed", range(5))
def test_a_single_byte_at_a_place_is_found(disk: Disk, seed: int) -> None:
    rng = random.Random(seed)
    place = rng.choice(places.places(SIZE))
    where = rng.randrange(place.start, place.end)
    disk.write(where, b"\x80")
    assert looked(disk).content == Unknown("Data without a known signature.", where)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_byte_anywhere_is_found_in_a_small_volume(
    tmp_path: Path, seed: int
) -> None:
    where = random.Random(seed).randrange(places.WHOLE)
    with attached(tmp_path, places.WHOLE) as disk:
        disk.write(where, b"\1")
        assert looked(disk).content == Unknown("Data without a known signature.", where)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_byte_anywhere_is_found_by_reading_everything(
    disk: Disk, seed: int
) -> None:
    where = _odd_place(random.Random(seed))
    disk.write(where, b"\1")
    found = looked(disk, full=True)
    assert found.content == Unknown("Data without a known signature.", where)
    assert len(found.fingerprint) == 64
    disk.write(where, b"\2")
    assert looked(disk, full=True).fingerprint not in ("", found.fingerprint)


def test_samples_find_what_lies_between_the_places(disk: Disk) -> None:
    where = _odd_place(random.Random(3)) // 4096 * 4096
    length = 2 * SIZE // places.SAMPLES
    disk.write(where, b"\xff" * length)
    covered = [
        place
        for place in places.places(SIZE)
        if place.end > where and place.start < where + length
    ]
    assert not covered
    for _ in range(5):
        found = looked(disk)
        assert isinstance(found.content, Unknown)
        assert found.content.offset is not None
        assert where <= found.content.offset < where + length
        # nobody can name content that the next run would not see
        assert found.fingerprint == ""


def test_full_reads_every_byte(tmp_path: Path) -> None:
    with attached(tmp_path, 300 * MIB) as disk:
        found = looked(disk, full=True)
        assert found.content == Blank()
        assert found.bytes_read >= 300 * MIB


# ---------------------------------------------------------------- fingerprints


def test_fingerprint_is_of_the_content(disk: Disk) -> None:
    disk.write(MIB, b"something")
    first = looked(disk).fingerprint
    assert looked(disk).fingerprint == first, "whatever is sampled"
    assert looked(disk, volume_id="vol-0aaaaaaaaaaaaaaaa").fingerprint != first
    disk.write(MIB, b"Something")
    assert looked(disk).fingerprint not in ("", first)
    disk.write(MIB, b"something")
    assert looked(disk).fingerprint == first
    disk.write(SIZE - MIB, b"\1")
    assert looked(disk).fingerprint not in ("", first)


def test_fingerprint_knows_the_size(tmp_path: Path) -> None:
    prints = set()
    for size in (SIZE, SIZE + MIB):
        with attached(tmp_path, size) as disk:
            disk.write(MIB, b"something")
            prints.add(looked(disk).fingerprint)
    assert len(prints) == 2


def test_blank_has_no_fingerprint(disk: Disk) -> None:
    assert looked(disk, fingerprint=True) == replace(
        looked(disk), content=Blank(), record=None, fingerprint=""
    )


# --------------------------------------------------------------------- records


RECORD = Record(
    identity=hashlib.sha256(b"node and set").hexdigest(),
    volume_id=VOLUME,
    fs_type="ext4",
    fs_uuid=UUID,
)


@pytest.mark.parametrize("which", [0, 1])
def test_blank_with_a_record(disk: Disk, which: int) -> None:
    disk.write(record.places(SIZE)[which], record.encode(RECORD))
    found = looked(disk)
    assert (found.content, found.record, found.fingerprint) == (Blank(), RECORD, "")


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_record_is_data(disk: Disk, which: int) -> None:
    place = record.places(SIZE)[which]
    disk.write(place, record.encode(RECORD))
    disk.write(place + 700, b"\1")
    found = looked(disk, full=True)
    assert found.record is None
    assert found.content == Unknown("Data without a known signature.", place)


def test_a_record_elsewhere_is_data(disk: Disk) -> None:
    disk.write(3 * MIB, record.encode(RECORD))
    found = looked(disk)
    assert found.content == Unknown("Data without a known signature.", 3 * MIB)


@pytest.mark.parametrize("over", [_parts(), EXT4, _noise(0, 4096)])
def test_a_record_of_another_volume_is_never_ours(disk: Disk, over: Prepare) -> None:
    over(disk)
    place = record.places(SIZE)[1]
    other = replace(RECORD, volume_id="vol-0ffffffffffffffff")
    disk.write(place, record.encode(other))
    for ours in ((), (Extent(0, SIZE),)):
        found = looked(disk, ours=ours)
        assert found.record is None
        assert isinstance(found.content, Unknown)
        assert "record of vol-0ffffffffffffffff" in found.content.reason
        assert found.content.offset == place


def test_two_records_that_differ(disk: Disk) -> None:
    member, single = record.places(SIZE)
    disk.write(member, record.encode(RECORD))
    disk.write(single, record.encode(replace(RECORD, fs_type="xfs")))
    found = looked(disk, ours=(Extent(0, SIZE),))
    assert found.record is None
    assert found.content == Unknown("Two intent records that differ.", member)


def test_record_and_data(disk: Disk) -> None:
    disk.write(record.places(SIZE)[1], record.encode(RECORD))
    disk.write(5 * MIB, b"data")
    found = looked(disk)
    assert found.record == RECORD
    assert found.content == Unknown("Data without a known signature.", 5 * MIB)
    assert found.fingerprint


def test_known_with_a_record(disk: Disk) -> None:
    EXT4(disk)
    disk.write(record.places(SIZE)[1], record.encode(RECORD))
    found = looked(disk)
    assert found.record == RECORD
    assert found.content == Known("ext4", UUID, "data")


def test_half_made(disk: Disk) -> None:
    """Only with a record, and only where nothing is outside both."""
    ours = (Extent(0, 2 * MIB), Extent(100 * MIB, 101 * MIB))
    disk.write(MIB, b"by our mkfs")
    disk.write(100 * MIB + 5, b"by our mkfs")
    assert isinstance(looked(disk, ours=ours).content, Unknown)
    disk.write(record.places(SIZE)[1], record.encode(RECORD))
    found = looked(disk, ours=ours)
    assert (found.content, found.record) == (HalfMade(), RECORD)
    assert isinstance(looked(disk).content, Unknown)
    disk.write(2 * MIB, b"\1")
    found = looked(disk, ours=ours)
    assert found.content == Unknown("Data without a known signature.", 2 * MIB)


def test_half_made_xfs(disk: Disk) -> None:
    XFS(disk)
    ours = tuple(Extent(start, end) for start, end in _nonzero(disk.file))
    disk.write(126, b"\1")
    disk.write(record.places(SIZE)[1], record.encode(RECORD))
    assert looked(disk, ours=ours).content == HalfMade()
    disk.write(7 * MIB + 1, b"\1")
    found = looked(disk, ours=ours)
    assert found.content == Unknown("Data without a known signature.", 7 * MIB + 1)


def test_half_made_by_the_licence_of_a_record_on_the_members(disk: Disk) -> None:
    ours = (Extent(0, 2 * MIB),)
    disk.write(MIB, b"by our mkfs")
    assert looked(disk, ours=ours, licence=RECORD).content == HalfMade()
    disk.write(3 * MIB, b"\1")
    found = looked(disk, ours=ours, licence=RECORD)
    assert found.content == Unknown("Data without a known signature.", 3 * MIB)
    assert found.record is None


# -------------------------------------------------------------- odd conditions


def test_read_only_device(tmp_path: Path) -> None:
    with attached(tmp_path, SIZE, "--read-only") as disk:
        assert looked(disk).content == Blank()


@pytest.mark.parametrize("size", [512, 4096, 12288, 65536, MIB, 20 * MIB + 512])
def test_tiny_devices(tmp_path: Path, size: int) -> None:
    with attached(tmp_path, size) as disk:
        found = looked(disk)
        assert found.content == Blank()
        assert found.bytes_read >= size
        disk.write(size - 1, b"\1")
        assert looked(disk).content == Unknown(
            "Data without a known signature.", size - 1
        )


def test_a_device_without_a_size(tmp_path: Path) -> None:
    with attached(tmp_path, MIB) as disk:
        with disk.file.open("r+b") as file:
            file.truncate(0)
        disk.run("losetup", "--set-capacity", "DEV")
        found = looked(disk)
        assert isinstance(found.content, Unknown)
        assert "no size" in found.content.reason


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/no-such-device", "is not there"),
        ("/dev/null", "not a block device"),
        ("/dev", "not a block device"),
        (__file__, "not a block device"),
    ],
)
def test_no_block_device(path: str, words: str) -> None:
    found = probe.look(path)
    assert isinstance(found.content, Unknown)
    assert words in found.content.reason
    assert found == Look(found.content)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert isinstance(probe.look(str(pipe)).content, Unknown)


@pytest.mark.parametrize("good", [0, 20 * MIB, 620 * MIB])
@pytest.mark.parametrize("full", [False, True])
def test_read_error_is_never_blank(tmp_path: Path, good: int, full: bool) -> None:
    """A backing file cut under the device: reads behind its end fail."""
    with attached(tmp_path) as disk:
        with disk.file.open("r+b") as file:
            file.truncate(good)
        found = looked(disk, full=full)
        assert isinstance(found.content, Unknown)
        assert "cannot be read at byte" in found.content.reason
        assert found.content.unread
        assert found.content.offset is not None
        assert good <= found.content.offset < SIZE
        assert found.fingerprint == ""


def test_read_error_offset_is_that_of_the_page(tmp_path: Path) -> None:
    with attached(tmp_path, 200 * MIB) as disk:
        with Reader(disk.path) as reader:
            with disk.file.open("r+b") as file:
                file.truncate(100 * MIB + 12 * 4096)
            with pytest.raises(ReadError) as caught:
                reader.piece(100 * MIB, MIB)
        assert caught.value.offset == 100 * MIB + 12 * 4096


@pytest.mark.parametrize(
    ("where", "full"), [(10 * MIB, False), (10 * MIB, True), (None, True)]
)
def test_read_error_in_the_middle(
    tmp_path: Path, where: int | None, full: bool
) -> None:
    """A single bad page, head and end being fine: the backing file lies on a
    btrfs of which that page's checksum no longer fits."""
    at = _odd_place(random.Random(1)) // 4096 * 4096 if where is None else where
    pattern = random.Random(at).randbytes(4096)
    with attached(tmp_path, 300 * MIB) as below:
        below.run("mkfs.btrfs", "-q", "DEV")
        with mounted(below, tmp_path / "mounted") as target:
            with (target / "disk").open("wb") as file:
                file.truncate(SIZE)
                file.seek(at)
                file.write(pattern)
        (spot,) = (
            start
            for start, end in _nonzero(below.file)
            if _pread(below.file, start, end - start) == pattern
        )
        below.write(spot, b"\0" * 16)
        with mounted(below, tmp_path / "mounted") as target:
            path = _attach(["losetup", "--find", "--show", str(target / "disk")])
            try:
                found = probe.look(path, full=full)
            finally:
                _run(["losetup", "--detach", path])
    assert isinstance(found.content, Unknown)
    assert found.content.reason.startswith(f"{path} cannot be read at byte {at} (")
    assert found.content.unread
    assert found.content.offset == at
    assert found.fingerprint == ""


def test_a_short_read_is_an_error(disk: Disk) -> None:
    with Reader(disk.path) as reader:
        assert reader.piece(SIZE - 4096, 4096) == bytes(4096)
        with pytest.raises(ReadError, match="0 of 4096 bytes"):
            reader.piece(SIZE, 4096)
        with pytest.raises(ReadError) as caught:
            reader.piece(SIZE - 8192, 16384)
        assert caught.value.offset == SIZE


def test_the_page_cache_is_not_believed(disk: Disk) -> None:
    """Zeros in the cache, data below: what the device really holds counts.
    A page that is mapped stays in the cache, whoever asks to drop it."""
    with open(disk.path, "rb", buffering=0) as cached:
        page = mmap.mmap(
            cached.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ, offset=8 * MIB
        )
        with page:
            assert page[:] == bytes(4096)
            disk.write(8 * MIB, b"\1")
            found = looked(disk)
            assert page[:] == bytes(4096), "the cache is not stale"
    assert found.content == Unknown("Data without a known signature.", 8 * MIB)


def test_the_tools_do_not_see_a_stale_page_cache(disk: Disk) -> None:
    """An ext4 in the cache, zeros below."""
    EXT4(disk)
    with open(disk.path, "rb", buffering=0) as cached:
        assert os.pread(cached.fileno(), 4096, 0)[1024 + 56 :][:2] == b"\x53\xef"
        for start, end in list(_nonzero(disk.file)):
            disk.write(start, bytes(end - start))
        assert looked(disk).content == Blank()


def test_mounted_filesystem_is_known(disk: Disk, tmp_path: Path) -> None:
    EXT4(disk)
    with mounted(disk, tmp_path / "mounted"):
        assert probe.look(disk.path).content == Known("ext4", UUID, "data")


# ------------------------------------------------------------------------ head


def test_head_of_an_array_that_does_not_run(disk: Disk, tmp_path: Path) -> None:
    offset = 2 * MIB
    assert probe.head(disk.path, offset) is None
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    _run(["mkfs.xfs", "-q", "-m", f"uuid={UUID}", "-L", "data", str(image)])
    disk.write(offset, image.read_bytes()[: 1 * MIB])
    image.unlink()
    assert probe.head(disk.path, offset) == Known("xfs", UUID, "data")
    disk.write(offset + 126, b"\1")
    found = probe.head(disk.path, offset)
    assert isinstance(found, Unknown)
    assert "half made" in found.reason
    disk.write(offset, bytes(MIB))
    disk.write(offset + 4097, b"\1")
    found = probe.head(disk.path, offset)
    assert found == Unknown("Data without a known signature.", offset + 4097)
    assert isinstance(probe.head("/dev/no-such-device", 0), Unknown)


# --------------------------------------------------------------------- helpers


def _said(found: Look) -> str:
    if isinstance(found.content, Known):
        return found.content.type
    if isinstance(found.content, Unknown):
        return f"unknown at {found.content.offset}: {found.content.reason}"
    return type(found.content).__name__.lower()


def _odd_place(rng: random.Random) -> int:
    """A byte far from every place: in the middle of the widest gap or two."""
    fixed = places.places(SIZE)
    gaps = sorted(
        (
            (after.start - before.end, before.end)
            for before, after in zip(fixed, fixed[1:])
        ),
        reverse=True,
    )
    width, start = gaps[0]
    return start + width // 4 + rng.randrange(width // 4)


def _ext4_superblock(disk: Disk, size: int = SIZE) -> bytes:
    image = disk.file.parent / "ext4"
    with image.open("wb") as file:
        file.truncate(size)
    try:
        _run(["mkfs.ext4", "-q", str(image)])
        with image.open("rb") as file:
            return file.read(2048)[1024:]
    finally:
        image.unlink()


def _nonzero(file: Path) -> Iterator[tuple[int, int]]:
    with file.open("rb") as opened:
        fd = opened.fileno()
        position, size = 0, os.fstat(fd).st_size
        while position < size:
            try:
                position = os.lseek(fd, position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(fd, position, os.SEEK_HOLE)
            for at in range(position // 4096 * 4096, end, 4096):
                data = os.pread(fd, 4096, at)
                if data.strip(b"\0"):
                    yield at, at + len(data)
            position = end


def _pread(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as opened:
        return os.pread(opened.fileno(), length, offset)


def _digest(file: Path) -> str:
    """sha256 over every block of the file that is not zero, and its size."""
    whole = hashlib.sha256(str(file.stat().st_size).encode())
    with file.open("rb") as opened:
        for start, end in _nonzero(file):
            whole.update(start.to_bytes(8, "big"))
            whole.update(os.pread(opened.fileno(), end - start, start))
    return whole.hexdigest()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
