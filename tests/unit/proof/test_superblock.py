"""Parsers of superblocks, against the tools that make and read them."""

from __future__ import annotations

import calendar
import re
import struct
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.decide import members
from cc_kraken.filesystems.base import Found, Read
from cc_kraken.proof import superblock
from tests import crafted

MIB = 1 << 20
SIZE = 512 * MIB
Parser = Callable[[bytes, int], Optional[Found]]


@pytest.mark.parametrize("minor", [0, 1, 2])
@pytest.mark.parametrize(
    ("level", "disks", "number", "roles", "layout"),
    [
        (0, 3, 1, (0, 1, 2), 0),
        (1, 2, 0, (0, 1), 0),
        (1, 2, 1, (0xFFFE, 1), 0),
        (5, 3, 2, (0, 1, 0xFFFF, 2), 2),
        (6, 4, 3, (0, 1, 2, 3), 2),
        (10, 4, 0, (0, 1, 2, 3), 0x102),
    ],
)
def test_md_as_mdadm_reads_it(
    tmp_path: Path,
    minor: int,
    level: int,
    disks: int,
    number: int,
    roles: tuple[int, ...],
    layout: int,
) -> None:
    at, block = crafted.md1(
        SIZE,
        minor=minor,
        level=level,
        disks=disks,
        number=number,
        roles=roles,
        layout=layout,
        events=4711,
    )
    told = _examine(tmp_path, at, block)
    found = _only(superblock.scan(_reader({at: block}), SIZE))
    assert found.flaw == ""
    assert found.offset == at
    parsed = found.superblock
    assert parsed is not None
    assert parsed.minor == minor
    assert told["Version"] == f"1.{minor}"
    assert told["Checksum"].endswith("correct")
    assert uuid.UUID(told["Array UUID"].replace(":", "")) == uuid.UUID(parsed.uuid)
    assert uuid.UUID(told["Device UUID"].replace(":", "")) == uuid.UUID(
        parsed.device_uuid
    )
    assert told["Name"] == parsed.name
    assert told["Raid Level"] == f"raid{parsed.level}"
    assert int(told["Raid Devices"]) == parsed.raid_disks
    assert int(told["Events"]) == parsed.events == 4711
    if minor:
        assert _sectors(told["Data Offset"]) == parsed.data_offset
    assert _sectors(told["Avail Dev Size"]) == parsed.data_size
    assert _sectors(told.get("Used Dev Size", "0 sectors")) in (0, parsed.component)
    assert bool(parsed.component) == (level != 0)
    if "Chunk Size" in told:
        assert told["Chunk Size"] == f"{parsed.chunk // 1024}K"
    role = told["Device Role"]
    if role == "spare":
        assert parsed.role == 0xFFFF
    else:
        assert role == f"Active device {parsed.role}"
    expected = "".join("A" if slot in parsed.roles else "." for slot in range(disks))
    assert told["Array State"].split()[0] == expected


def test_when_an_array_was_created_and_a_replacement_as_mdadm_reads_them(
    tmp_path: Path,
) -> None:
    microseconds = 123456 << 40
    at, block = crafted.md1(
        SIZE, number=2, roles=(0, 1, 1), features=16 | 2, created=1_700_000_000
    )
    told = _examine(tmp_path, at, block)
    assert told["Device Role"] == "Replacement device 1"
    parsed = _only(superblock.scan(_reader({at: block}), SIZE)).superblock
    assert parsed is not None and members.is_replacement(parsed)
    assert parsed.role == 1
    when = time.strptime(told["Creation Time"], "%a %b %d %H:%M:%S %Y")
    assert parsed.created == calendar.timegm(when) == 1_700_000_000
    _, block = crafted.md1(SIZE, created=1_700_000_000 | microseconds)
    plain = _only(superblock.scan(_reader({at: block}), SIZE)).superblock
    assert plain is not None and plain.created == parsed.created


def test_a_device_beyond_the_table_of_roles_has_none() -> None:
    at, block = crafted.md1(SIZE, number=3, max_dev=2)
    found = _only(superblock.scan(_reader({at: block}), SIZE))
    assert found.superblock is not None
    assert found.superblock.role is None


def test_a_wrong_checksum_is_one_for_mdadm_too(tmp_path: Path) -> None:
    at, block = crafted.md1(SIZE, wrong=True)
    assert "expected" in _examine(tmp_path, at, block)["Checksum"]
    found = _only(superblock.scan(_reader({at: block}), SIZE))
    assert "wrong checksum" in found.flaw
    assert found.superblock is None


@given(st.integers(0, 511), st.integers(1, 255))
def test_every_byte_counts(where: int, change: int) -> None:
    """A flipped byte is a flaw, another array it is never."""
    at, block = crafted.md1(SIZE)
    broken = bytearray(block)
    broken[where] ^= change
    found = superblock.md1(bytes(broken), at, SIZE)
    assert found is None or found.flaw


def test_md_at_another_place_than_it_says() -> None:
    _, block = crafted.md1(SIZE, minor=2)
    found = superblock.md1(block, 0, SIZE)
    assert found is not None
    assert "belongs at 4096" in found.flaw


def test_md_larger_than_its_device() -> None:
    at, block = crafted.md1(SIZE)
    found = superblock.md1(block, at, SIZE - 4096)
    assert found is not None
    assert "beyond the end" in found.flaw


@pytest.mark.parametrize("order", ["<", ">"])
def test_md_090(order: str) -> None:
    at, block = crafted.md090(SIZE)
    words = struct.unpack("<1024I", block)
    found = _only(
        superblock.scan(_reader({at: struct.pack(f"{order}1024I", *words)}), SIZE)
    )
    assert (found.type, found.flaw, found.superblock) == ("linux_raid_member", "", None)
    assert found.uuid == "11111111-2222-2222-3333-333344444444"


def test_md_090_as_mdadm_reads_it(tmp_path: Path) -> None:
    at, block = crafted.md090(SIZE)
    told = _examine(tmp_path, at, block)
    assert told["Version"] == "0.90.00"
    assert told["Checksum"].endswith("correct")


def test_md_090_with_a_wrong_checksum() -> None:
    at, block = crafted.md090(SIZE, wrong=True)
    assert "wrong checksum" in _only(superblock.scan(_reader({at: block}), SIZE)).flaw


@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 4096 + 512, 100 * 1000**3])
def test_places_at_the_end_are_those_of_mdadm(tmp_path: Path, size: int) -> None:
    size = size // 512 * 512
    for at, block in (crafted.md1(size, minor=0), crafted.md090(size)):
        assert _examine(tmp_path, at, block, size)["Checksum"].endswith("correct")


# ------------------------------------------------------------- hostile input

PARSERS: tuple[Parser, ...] = (
    lambda data, size: superblock.md1(data, 4096, size),
    lambda data, size: superblock.md1(data, 0, size),
    lambda data, size: superblock.md090(data, 65536, size),
)
MAGIC = struct.pack("<II", 0xA92B4EFC, 1), struct.pack("<III", 0xA92B4EFC, 0, 90)


@pytest.mark.parametrize("parse", PARSERS)
@given(
    start=st.sampled_from([b"", *MAGIC]),
    data=st.binary(max_size=5000),
    size=st.integers(0, 1 << 70),
)
def test_junk_never_raises(parse: Parser, start: bytes, data: bytes, size: int) -> None:
    found = parse(start + data, size)
    assert found is None or isinstance(found, Found)


@given(st.integers(0, 1 << 44), st.binary(max_size=64))
def test_scan_never_reads_outside(size: int, junk: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset
        assert length >= 0
        return (junk * (length // max(1, len(junk)) + 1))[: min(length, size - offset)]

    superblock.scan(read, size)


# -------------------------------------------------------------------- helpers


def _only(found: Sequence[Found]) -> Found:
    assert len(found) == 1, found
    return found[0]


def _reader(parts: dict[int, bytes]) -> Read:
    """Zeros, but for ``parts``."""

    def read(offset: int, length: int) -> bytes:
        data = bytearray(length)
        for at, part in parts.items():
            low, high = max(at, offset), min(at + len(part), offset + length)
            if low < high:
                data[low - offset : high - offset] = part[low - at : high - at]
        return bytes(data)

    return read


def _examine(folder: Path, at: int, block: bytes, size: int = SIZE) -> dict[str, str]:
    image = folder / "member"
    with image.open("wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(block)
    text = _run(["mdadm", "--examine", str(image)])
    return {
        key.strip(): value.strip()
        for key, _, value in (line.partition(" : ") for line in text.splitlines())
    }


def _sectors(text: str) -> int:
    match = re.match(r"(\d+) sectors", text)
    assert match is not None
    return int(match[1]) * 512


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
