"""Superblocks as each type's mkfs writes them, and hostile ones."""

from __future__ import annotations

import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import BLOCK, HEAD, Found, crc32c
from cc_kraken.proof import superblock
from tests.conftest import LATER

SIZE = 512 << 20
#: Its own in each process: mkfs.btrfs refuses a UUID that it sees elsewhere.
UUID = str(uuid.uuid4())
#: Where the magic of each is in the head of a device.
MAGIC = {
    "ext4": (1024 + 56, b"\x53\xef"),
    "xfs": (0, b"XFSB"),
    "btrfs": ((64 << 10) + 64, b"_BHRfS_M"),
}


def made(folder: Path, command: str) -> Path:
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run(*command.split(), str(image))
    return image


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def head_of(image: Path) -> bytearray:
    with image.open("rb") as file:
        return bytearray(file.read(HEAD))


def the_only(head: bytes, size: int = SIZE) -> Found:
    (found,) = registry.superblocks(bytes(head), size)
    return found


def test_crc32c_check_value() -> None:
    """The check value of CRC-32C (RFC 3720, appendix B.4)."""
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


AS_BLKID = [
    ("mkfs.ext4 -q -U UUID", "ext4"),
    ("mkfs.ext4 -q -b 1024 -U UUID", "ext4"),
    ("mkfs.ext4 -q -O ^metadata_csum -U UUID", "ext4"),
    ("mkfs.ext4 -q -O ^has_journal -U UUID", "ext4"),
    ("mkfs.ext3 -q -U UUID", "ext3"),
    ("mkfs.ext2 -q -U UUID", "ext2"),
    ("mke2fs -q -O journal_dev -U UUID", "jbd"),
    ("mkfs.xfs -q -m uuid=UUID", "xfs"),
    ("mkfs.xfs -q -m crc=0,uuid=UUID", "xfs"),
    ("mkfs.xfs -q -s size=4096 -m uuid=UUID", "xfs"),
    ("mkfs.btrfs -q -U UUID", "btrfs"),
    ("mkfs.btrfs -q --csum xxhash -U UUID", "btrfs"),
    ("mkfs.btrfs -q --csum sha256 -U UUID", "btrfs"),
    ("mkfs.btrfs -q --csum blake2 -U UUID", "btrfs"),
]


@pytest.mark.parametrize(("command", "kind"), AS_BLKID)
def test_read_as_blkid_reads_it(tmp_path: Path, command: str, kind: str) -> None:
    image = made(tmp_path, f"{command} -L my_label".replace("UUID", UUID))
    lines = run("blkid", "-p", "-o", "export", str(image)).splitlines()
    said = dict(line.split("=", 1) for line in lines)
    with image.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        (found,) = superblock.scan(read, SIZE)
    assert (found.type, found.uuid, found.flaw) == (kind, UUID, "")
    assert (said["TYPE"], said["LABEL"]) == (kind, found.label)
    assert said.get("UUID", said.get("LOGUUID")) == UUID
    assert 0 < found.size <= SIZE and not found.ever_mounted
    if kind in registry.TYPES:
        assert found.offset == registry.of(kind).offset


FLIPPED = [
    ("mkfs.ext4 -q", 1024, 1024),
    ("mkfs.xfs -q", 0, 512),
    ("mkfs.btrfs -q", 65536, 4096),
    pytest.param("mkfs.btrfs -q --csum sha256", 65536, 4096, marks=LATER),
]


@pytest.mark.parametrize(("command", "start", "length"), FLIPPED)
def test_a_flipped_byte_is_a_flaw(
    tmp_path: Path, command: str, start: int, length: int
) -> None:
    head = head_of(made(tmp_path, command))
    assert the_only(head).flaw == ""
    for where in range(start, start + length, 7):
        head[where] ^= 0x40
        for found in registry.superblocks(bytes(head), SIZE):
            # the checksum field of btrfs has room for longer sums than its own
            assert found.flaw or (found.type == "btrfs" and where < start + 32)
        head[where] ^= 0x40


@pytest.mark.parametrize("kind", registry.TYPES)
def test_larger_than_its_device_is_a_flaw(tmp_path: Path, kind: str) -> None:
    head = head_of(made(tmp_path, f"mkfs.{kind} -q"))
    assert "beyond the end" in the_only(head, SIZE // 2).flaw
    assert the_only(head).flaw == ""


def test_an_ext4_of_more_than_16_tib(tmp_path: Path) -> None:
    """The upper half of the count of blocks."""
    head = head_of(made(tmp_path, "mkfs.ext4 -q"))
    struct.pack_into("<I", head, 1024 + 0x150, 1)
    struct.pack_into("<I", head, 2044, crc32c(bytes(head[1024:2044])))
    found = the_only(head, 1 << 50)
    assert (found.flaw, found.size) == ("", (1 << 32) * found.block + SIZE)


def test_an_xfs_whose_mkfs_was_cut_off(tmp_path: Path) -> None:
    head = head_of(made(tmp_path, "mkfs.xfs -q"))
    head[126] = 1
    assert "half made" in the_only(head).flaw


def test_a_btrfs_over_two_devices(tmp_path: Path) -> None:
    second = tmp_path / "second"
    with second.open("wb") as file:
        file.truncate(SIZE)
    image = made(tmp_path, f"mkfs.btrfs -q {second}")
    for one in (image, second):
        assert "2 devices" in the_only(head_of(one)).flaw


@pytest.mark.parametrize("kind", registry.TYPES)
@given(
    magic=st.booleans(),
    changes=st.lists(
        st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=8)), max_size=30
    ),
    cut=st.one_of(st.just(HEAD), st.integers(0, HEAD)),
    size=st.integers(0, 1 << 70),
)
def test_junk_never_raises(
    kind: str, magic: bool, changes: list[tuple[int, bytes]], cut: int, size: int
) -> None:
    head = bytearray(HEAD)
    for where, what in changes:
        start = registry.of(kind).offset // BLOCK * BLOCK + where
        head[start : start + len(what)] = what
    at, text = MAGIC[kind]
    if magic:
        head[at : at + len(text)] = text

    def read(offset: int, length: int) -> bytes:
        return bytes(head[:length])

    found = registry.of(kind).superblock(bytes(head[:cut]), size, read)
    assert found is None or isinstance(found, Found)
    assert not magic or cut < HEAD or found
