"""mountinfo, swaps, mount points and owners."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.machine import command, mounts
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Mount, PathState
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
    assert mounts.parse(text) == (
        Mount("/mnt2", "98:0", "ext3", "/dev/root", "/mnt1"),
        Mount("/a b\t\n\\", "0:44", "btrfs", "/dev/nvme1n1", "/"),
        Mount("/none", "0:45", "tmpfs", "", "/"),
    )


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
    assert mounts.parse(line) == ()


@given(st.binary(max_size=300))
def test_parser_takes_any_bytes(data: bytes) -> None:
    assert isinstance(mounts.parse(data), tuple)


@given(
    st.lists(
        st.sampled_from(
            [b"36", b"1", b"0:4", b"/", b"/a", b"-", b"rw", b"ext4", b"", b"\\777"]
        ),
        max_size=14,
    )
)
def test_parser_takes_any_fields(fields: list) -> None:
    for mount in mounts.parse(b" ".join(fields)):
        assert mount.devno == "0:4"


def test_our_own_mountinfo_is_understood_whole() -> None:
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    found = mounts.scan(Paths())
    assert len(found) == len(lines)
    for mount in found:
        seen = mounts.at(Paths(), mount.path)
        if seen == mount:
            assert os.path.lexists(mount.path)
    top = mounts.at(Paths(), "/proc")
    assert top is not None
    assert top.type == "proc"


def test_at_takes_the_topmost(tree: Tree) -> None:
    first = tree.mount("/data", "259:1", "ext4", "/dev/a")
    tree.mount("/data", "259:2", "xfs", "/dev/b", parent=first)
    assert mounts.at(tree.paths, "/data").source == "/dev/b"
    assert mounts.at(tree.paths, "/").source == "/dev/vda1"
    assert mounts.at(tree.paths, "/dat") is None
    assert mounts.at(tree.paths, "/data/below") is None


def test_at_does_not_see_what_is_hidden(tree: Tree) -> None:
    tree.mount("/data/log", "259:1", "ext4", "/dev/a")
    over = tree.mount("/data", "259:2", "xfs", "/dev/b")
    assert mounts.at(tree.paths, "/data/log") is None
    tree.mount("/data/log", "259:3", "xfs", "/dev/c", parent=over)
    assert mounts.at(tree.paths, "/data/log").source == "/dev/c"


def test_at_in_a_chroot_without_a_root_mount(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "50 40 259:1 / /data rw - ext4 /dev/a rw\n"
        "51 50 259:2 / /data rw - ext4 /dev/b rw\n"
    )
    paths = Paths(proc=str(tmp_path))
    assert mounts.at(paths, "/data").source == "/dev/b"
    assert mounts.at(paths, "/") is None


def test_no_proc_is_a_sentence(tmp_path: Path) -> None:
    for call in (mounts.scan, mounts.swaps):
        with pytest.raises(KrakenError) as caught:
            call(Paths(proc=str(tmp_path)))
        assert caught.value.trouble.kind == "cannot-read"


def test_device_numbers(tree: Tree) -> None:
    tree.disk(1, "vol1234abcd", partitions=["nvme1n1p1"])
    tree.virtual("dm-0", [], major=253)
    (tree.base / "dev/mapper").mkdir()
    (tree.base / "dev/mapper/x").symlink_to("../dm-0")

    def number(devno: str, source: str):
        return mounts.device_number(tree.paths, Mount("/m", devno, "t", source))

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
    assert mounts.swaps(tree.paths) == {tree.number("nvme1n1")}


def test_verify(tree: Tree) -> None:
    tree.disk(1, "vol1234abcd")
    devno = tree.number("nvme1n1")
    with pytest.raises(KrakenError, match="nothing is mounted"):
        mounts.verify(tree.paths, "/data", devno)
    tree.mount("/data", "0:50", "btrfs", "/dev/nvme1n1")
    assert mounts.verify(tree.paths, "/data", devno).type == "btrfs"
    with pytest.raises(KrakenError, match="expected the device 259:99") as caught:
        mounts.verify(tree.paths, "/data", "259:99")
    assert caught.value.trouble.kind == "mount-differs"


# ---------------------------------------------------------------- mount points


def test_path_states(tmp_path: Path) -> None:
    (tmp_path / "dir/lost+found").mkdir(parents=True)
    (tmp_path / "dir").chmod(0o751)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir/below").mkdir()

    def state(name: str) -> PathState:
        return mounts.path_state(str(tmp_path / name))

    me = (os.getuid(), os.getgid())
    assert state("dir") == PathState("directory", ("below",), *me, 0o751)
    assert state("absent").kind == "absent"
    assert state("absent/below").kind == "absent"
    assert state("file").kind == "other"
    assert state("file/below").kind == "other"
    assert state("fifo").kind == "other"
    assert state("link").kind == "symlink"
    assert state("link/below").kind == "symlink"
    assert state("dangling").kind == "symlink"


def test_entries_are_cut(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}").touch()
    entries = mounts.path_state(str(tmp_path)).entries
    assert len(entries) == 10
    assert list(entries) == sorted(entries)


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a/./b", "/a\0b"])
def test_paths_that_are_not_normal(path: str) -> None:
    for call in (mounts.path_state, mounts.make_directory):
        with pytest.raises(KrakenError):
            call(path)
    with pytest.raises(KrakenError):
        mounts.set_owner(path, None, None, 0o755)


def test_make_directory(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b c"
    umask = os.umask(0o077)
    try:
        assert mounts.make_directory(str(path))
    finally:
        os.umask(umask)
    for each in (path, path.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o755
    path.parent.chmod(0o700)
    assert not mounts.make_directory(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("obstacle", ["link", "dangling", "file"])
@pytest.mark.parametrize("tail", ["", "/below"])
def test_make_directory_refuses(tmp_path: Path, obstacle: str, tail: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("made")
    (tmp_path / "file").write_text("")
    with pytest.raises(KrakenError) as caught:
        mounts.make_directory(str(tmp_path / obstacle) + tail)
    assert caught.value.trouble.kind == "mount-point"
    assert os.listdir(tmp_path / "dir") == []
    assert not (tmp_path / "made").exists()


def test_set_mode(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    assert mounts.set_owner(str(path), None, None, 0o750)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert not mounts.set_owner(str(path), os.getuid(), os.getgid(), 0o750)
    assert not mounts.set_owner(str(path), None, None, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_set_owner(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    assert mounts.set_owner(str(path), 1234, None, 0o2770)
    status = path.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o2770)
    assert mounts.set_owner(str(path), None, 4321, None)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_set_owner_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("dir")
    with pytest.raises(KrakenError) as caught:
        mounts.set_owner(str(tmp_path / "link"), None, None, 0o700)
    assert caught.value.trouble.kind == "set-owner"
    assert stat.S_IMODE((tmp_path / "dir").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("root", 0),
        ("0", 0),
        ("65534", 65534),
        ("4294967294", 4294967294),
        ("4294967295", None),
        ("99999999999999999999", None),
        ("-1", None),
        ("no-such-name", None),
        ("", None),
        ("a\0b", None),
        ("\udcff", None),
        ("\u0663", None),
    ],
)
def test_ids(text: str, number) -> None:
    assert mounts.user_id(text) == number
    assert mounts.group_id(text) == number


def test_reload_where_systemd_is_not_the_init(tmp_path: Path) -> None:
    assert not mounts.reload(booted=str(tmp_path / "absent"))


def test_relabel_without_selinux(tree: Tree) -> None:
    assert not mounts.relabel(tree.paths, "/data")


def test_relabel_with_selinux(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root alone, nothing below it; without the program nothing is done."""
    tree.write("sys/fs/selinux/enforce", "1")
    monkeypatch.setattr(command, "PATH", str(tree.base))
    assert not mounts.relabel(tree.paths, "/data")
    said = tree.base / "said"
    program = tree.write("restorecon", f'#!/bin/sh\necho "$@" >> {said}\n')
    program.chmod(0o755)
    assert mounts.relabel(tree.paths, "/data")
    assert said.read_text() == "/data\n"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(KrakenError, match="restorecon failed"):
        mounts.relabel(tree.paths, "/data")


@pytest.mark.parametrize(
    "state, made",
    [
        (PathState("directory"), True),
        (PathState("directory", ("file",)), False),
        (PathState("directory", (), 12), False),
        (PathState("directory", (), 0, 0, 0o700), False),
        (PathState("absent"), False),
    ],
)
def test_a_root_as_mkfs_left_it(state: PathState, made: bool) -> None:
    assert state.as_made is made
