"""What is mounted, what one sees of it, and on which devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.machine import mountinfo
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Mount
from tests.unit.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_parse() -> None:
    text = (
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
        b"37 35 0:44 / /a\\040b\\011\\012\\134 rw - btrfs /dev/nvme1n1 rw\n"
        b"38 35 0:45 / /none rw - tmpfs  rw\n"
    )
    assert mountinfo.parse(text) == [
        Mount("/mnt2", "98:0", "ext3", "/dev/root", "/mnt1", 36, 35),
        Mount("/a b\t\n\\", "0:44", "btrfs", "/dev/nvme1n1", "/", 37, 35),
        Mount("/none", "0:45", "tmpfs", "", "/", 38, 35),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"36 35 98:0 / /mnt rw ext3 /dev/root rw",
        b"x 35 98:0 / /mnt rw - ext3 /dev/root rw",
        b"36 35 98 / /mnt rw - ext3 /dev/root rw",
        b"36 35 98:0 / /mnt rw -",
    ],
)
def test_senseless_lines_are_left_out(line: bytes) -> None:
    assert mountinfo.parse(line) == []


@given(st.binary(max_size=300))
def test_parser_takes_any_bytes(data: bytes) -> None:
    assert isinstance(mountinfo.parse(data), list)


@given(
    st.lists(
        st.sampled_from(
            [b"36", b"1", b"0:4", b"/", b"/a", b"-", b"rw", b"ext4", b"", b"\\777"]
        ),
        max_size=14,
    )
)
def test_parser_takes_any_fields(fields: list) -> None:
    for mount in mountinfo.parse(b" ".join(fields)):
        assert mount.devno == "0:4"


def test_our_own_mountinfo_is_understood_whole() -> None:
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    found = mountinfo.tree(Paths()).mounts
    assert len(found) == len(lines)
    for mount in found:
        seen = mountinfo.at(Paths(), mount.path)
        if seen == mount:
            assert os.path.lexists(mount.path)
    top = mountinfo.at(Paths(), "/proc")
    assert top is not None
    assert top.type == "proc"


def test_at_takes_the_topmost(tree: Tree) -> None:
    first = tree.mount("/data", "259:1", "ext4", "/dev/a")
    tree.mount("/data", "259:2", "xfs", "/dev/b", parent=first)
    assert mountinfo.at(tree.paths, "/data").source == "/dev/b"
    assert mountinfo.at(tree.paths, "/").source == "/dev/vda1"
    assert mountinfo.at(tree.paths, "/dat") is None
    assert mountinfo.at(tree.paths, "/data/below") is None


def test_at_does_not_see_what_is_hidden(tree: Tree) -> None:
    tree.mount("/data/log", "259:1", "ext4", "/dev/a")
    over = tree.mount("/data", "259:2", "xfs", "/dev/b")
    assert mountinfo.at(tree.paths, "/data/log") is None
    tree.mount("/data/log", "259:3", "xfs", "/dev/c", parent=over)
    assert mountinfo.at(tree.paths, "/data/log").source == "/dev/c"


def test_at_in_a_chroot_without_a_root_mount(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "50 40 259:1 / /data rw - ext4 /dev/a rw\n"
        "51 50 259:2 / /data rw - ext4 /dev/b rw\n"
    )
    paths = Paths(proc=str(tmp_path))
    assert mountinfo.at(paths, "/data").source == "/dev/b"
    assert mountinfo.at(paths, "/") is None


def test_no_proc_is_a_sentence(tmp_path: Path) -> None:
    for call in (mountinfo.tree, mountinfo.swaps):
        with pytest.raises(KrakenError) as caught:
            call(Paths(proc=str(tmp_path)))
        assert caught.value.trouble.kind == "cannot-read"


def test_device_numbers(tree: Tree) -> None:
    tree.disk(1, "vol1234abcd", partitions=["nvme1n1p1"])
    tree.virtual("dm-0", [], major=253)
    (tree.base / "dev/mapper").mkdir()
    (tree.base / "dev/mapper/x").symlink_to("../dm-0")

    def number(devno: str, source: str):
        return mountinfo.device_number(tree.paths, Mount("/m", devno, "t", source))

    assert number("259:7", "/dev/anything") == "259:7"
    assert number("0:44", "/dev/nvme1n1") == tree.number("nvme1n1")
    assert number("0:44", "/dev/nvme1n1p1") == tree.number("nvme1n1p1")
    assert number("0:44", "/dev/mapper/x") == tree.number("dm-0")
    assert number("0:44", "/dev/root") is None
    assert number("0:44", "tmpfs") is None
    assert number("0:44", "") is None
    assert number("0:44", "/dev/a\0b") is None
    assert number("0:44", "/dev/") is None


def test_swaps(tree: Tree) -> None:
    tree.disk(1, "vol1234abcd")
    tree.swap("/dev/nvme1n1")
    tree.swap("/swap\\040file")
    tree.disk(2, "vol1234abce")
    tree.swap("/files/nvme2n1")
    assert mountinfo.swaps(tree.paths) == {tree.number("nvme1n1")}


def test_verify(tree: Tree) -> None:
    tree.disk(1, "vol1234abcd")
    devno = tree.number("nvme1n1")
    with pytest.raises(KrakenError, match="nothing is mounted"):
        mountinfo.verify(tree.paths, "/data", devno)
    tree.mount("/data", "0:50", "btrfs", "/dev/nvme1n1")
    assert mountinfo.verify(tree.paths, "/data", devno).type == "btrfs"
    with pytest.raises(KrakenError, match="It must be the device 259:99") as caught:
        mountinfo.verify(tree.paths, "/data", "259:99")
    assert caught.value.trouble.kind == "mount-differs"
