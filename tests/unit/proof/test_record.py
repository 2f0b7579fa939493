"""record.py: encoding, decoding and places of the intent record."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.model import Node, Record
from cc_kraken.proof import record

HEX = "0123456789abcdef"
GIB = 1 << 30

uuids = st.uuids().map(str)
records = st.builds(
    Record,
    identity=st.text(HEX, min_size=64, max_size=64),
    volume_id=st.one_of(
        st.text(HEX, min_size=17, max_size=17), st.text(HEX, min_size=8, max_size=8)
    ).map("vol-{}".format),
    fs_type=st.sampled_from(["", "ext4", "xfs", "btrfs"]),
    fs_uuid=st.one_of(st.just(""), uuids),
    array_uuid=st.one_of(st.just(""), uuids),
    level=st.sampled_from([-1, 0, 1, 5, 6, 10]),
    members=st.integers(1, 128),
)
one = Record(
    identity="a1" * 32,
    volume_id="vol-0123456789abcdef0",
    fs_type="xfs",
    fs_uuid="f1a3c0de-0000-4000-8000-0123456789ab",
    array_uuid="ae000000-0000-4000-8000-0123456789ab",
    level=10,
    members=128,
)


@given(records)
def test_round_trip(value: Record) -> None:
    block = record.encode(value)
    assert len(block) == 4096
    assert not any(block[512:])
    assert record.decode(block) == value


def test_people_can_read_it() -> None:
    text = record.encode(one).rstrip(b"\0").decode("ascii").splitlines()
    assert text[0] == "KRAKEN INTENT RECORD, version 1: not to be mounted"
    assert text[2] == "volume vol-0123456789abcdef0"
    assert text[3] == "filesystem xfs f1a3c0de-0000-4000-8000-0123456789ab"
    body = record.encode(one).partition(b"sha256 ")[0]
    assert text[5] == "sha256 " + hashlib.sha256(body).hexdigest()


def test_no_flipped_bit_is_decoded() -> None:
    """Every bit of the block, its zeros included."""
    block = record.encode(one)
    for position in range(len(block)):
        for bit in range(8):
            changed = bytearray(block)
            changed[position] ^= 1 << bit
            assert record.decode(bytes(changed)) is None


@given(st.binary(max_size=5000))
def test_never_raises(data: bytes) -> None:
    assert record.decode(data) is None


@given(st.binary(max_size=500), st.booleans())
def test_never_raises_behind_the_magic(data: bytes, summed: bool) -> None:
    text = record.MAGIC + data
    if summed:
        text += b"sha256 " + hashlib.sha256(text).hexdigest().encode() + b"\n"
    record.decode(text.ljust(4096, b"\0")[:4096])


@given(records, st.integers(0, 4095))
def test_a_torn_write_is_no_record(value: Record, cut: int) -> None:
    block = record.encode(value)
    torn = block[:cut].ljust(4096, b"\0")
    assert record.decode(torn) in (None, value)
    assert (record.decode(torn) is None) == (torn != block)
    assert record.decode(block[:cut]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "A1" * 32},
        {"identity": "a1"},
        {"volume_id": "vol-0123"},
        {"volume_id": "vol-0123456789abcdef0\nvolume vol-1"},
        {"fs_type": "ext4 x"},
        {"fs_type": "ü"},
        {"fs_uuid": "F1A3C0DE-0000-4000-8000-0123456789AB"},
        {"array_uuid": "-"},
        {"level": 1000},
        {"members": -1},
    ],
)
def test_what_could_not_be_read_back_is_not_written(change: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        record.encode(Record(**{**one.__dict__, **change}))  # type: ignore[arg-type]


@given(
    st.text(max_size=9),
    st.text(max_size=9),
    st.text(max_size=9),
    st.lists(st.text(HEX, min_size=8, max_size=8), min_size=1, unique=True),
)
def test_identity_is_of_all_its_parts(
    prefix: str, number: str, name: str, ids: list[str]
) -> None:
    own = record.identity(Node(prefix, number), name, ids)
    assert len(own) == 64 and set(own) <= set(HEX)
    assert own == record.identity(Node(prefix, number), name, reversed(ids))
    for other in (
        record.identity(Node(prefix + "x", number), name, ids),
        record.identity(Node(prefix, number + "x"), name, ids),
        record.identity(Node(prefix, number), name + "x", ids),
        record.identity(Node(prefix, number), name, [*ids, "vol-x"]),
        record.identity(Node(prefix + number, ""), name, ids) if number else "",
    ):
        assert own != other


@given(st.integers(1, 64 * 1024))
def test_places(gib: int) -> None:
    """Whole blocks inside the device, apart, and off every GiB, ext4 group
    (128 MiB), and copy of the btrfs superblock."""
    size = gib * GIB
    member, single = record.places(size)
    assert member == 512 << 10
    assert single % 4096 == 0
    assert member + record.BLOCK < single < size - 100 * record.MIB
    assert single == size // 8 * 7 - 5 * record.MIB
    assert single % (128 << 20) == 123 << 20
    for mirror in (64 << 10, 64 << 20, 256 << 30):
        assert abs(single - mirror) > 4 << 20
