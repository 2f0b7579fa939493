"""sysfs.py: small files of the kernel, and what is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cc_kraken.machine import sysfs
from tests.unit.tree import Tree


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"259:1\n", "259:1"),
        (b"vol0123456789abcdef0 \0\n", "vol0123456789abcdef0"),
        (b"", ""),
        (b"\xff\n", "\ufffd"),
    ],
)
def test_an_attribute_is_its_text(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "dev").write_bytes(data)
    assert sysfs.attribute(str(tmp_path), "dev") == text


def test_what_cannot_be_read_is_no_attribute(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("absent", "file/below", ".", "a\0b"):
        assert sysfs.attribute(str(tmp_path), path) is None
    # Readable by its mode, and an error when it is read.
    assert sysfs.attribute("/proc/self/mem") is None


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "mountinfo").write_bytes(data)
    assert sysfs.read(str(tmp_path / "mountinfo")) == data
    with open("/proc/self/status", "rb") as file:
        assert sysfs.read("/proc/self/status").split()[:2] == file.read().split()[:2]
    with pytest.raises(OSError):
        sysfs.read(str(tmp_path / "absent"))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sysfs.attribute("/proc/self/mem")
    sysfs.attribute(str(tmp_path))
    with pytest.raises(OSError):
        sysfs.read("/proc/self/mem")
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_are_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    assert sysfs.names(str(tmp_path)) == ["a", "b", "c"]
    assert sysfs.names(str(tmp_path / "a")) == []
    assert sysfs.names(str(tmp_path / "absent")) == []


def test_attributes_and_numbers_of_disks(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.disk(1, "vol1234abcd", partitions=["nvme1n1p1"])
    assert sysfs.disk(tree.paths, "nvme1n1", "device", "serial") == "vol1234abcd"
    for name in ("nvme1n1", "nvme1n1p1"):
        assert sysfs.number(tree.paths, name) == tree.number(name)
    for name in ("", ".", "..", "nvme2n1", "a\0b"):
        assert sysfs.number(tree.paths, name) is None
