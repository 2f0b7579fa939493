"""Mount points: what is there, and whose it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cc_kraken.machine import command, mount_points
from cc_kraken.model import KrakenError, PathState
from tests.unit.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_path_states(tmp_path: Path) -> None:
    (tmp_path / "dir/lost+found").mkdir(parents=True)
    (tmp_path / "dir").chmod(0o751)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir/below").mkdir()

    def state(name: str) -> PathState:
        return mount_points.path_state(str(tmp_path / name))

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
    entries = mount_points.path_state(str(tmp_path)).entries
    assert len(entries) == 10
    assert list(entries) == sorted(entries)


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a/./b", "/a\0b"])
def test_paths_that_are_not_normal(path: str) -> None:
    for call in (mount_points.path_state, mount_points.make_directory):
        with pytest.raises(KrakenError):
            call(path)
    with pytest.raises(KrakenError):
        mount_points.set_owner(path, None, None, 0o755)


def test_make_directory(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b c"
    umask = os.umask(0o077)
    try:
        mount_points.make_directory(str(path))
    finally:
        os.umask(umask)
    for each in (path, path.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o755
    path.parent.chmod(0o700)
    mount_points.make_directory(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("obstacle", ["link", "dangling", "file"])
@pytest.mark.parametrize("tail", ["", "/below"])
def test_make_directory_refuses(tmp_path: Path, obstacle: str, tail: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("made")
    (tmp_path / "file").write_text("")
    with pytest.raises(KrakenError) as caught:
        mount_points.make_directory(str(tmp_path / obstacle) + tail)
    assert caught.value.trouble.kind == "mount-point"
    assert os.listdir(tmp_path / "dir") == []
    assert not (tmp_path / "made").exists()


def test_set_mode(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    assert mount_points.set_owner(str(path), None, None, 0o750)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert not mount_points.set_owner(str(path), os.getuid(), os.getgid(), 0o750)
    assert not mount_points.set_owner(str(path), None, None, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_set_owner(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    assert mount_points.set_owner(str(path), 1234, None, 0o2770)
    status = path.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o2770)
    assert mount_points.set_owner(str(path), None, 4321, None)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_set_owner_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("dir")
    with pytest.raises(KrakenError) as caught:
        mount_points.set_owner(str(tmp_path / "link"), None, None, 0o700)
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
    assert mount_points.user_id(text) == number
    assert mount_points.group_id(text) == number


def test_relabel_without_selinux(tree: Tree) -> None:
    assert not mount_points.relabel(tree.paths, "/data")


def test_relabel_with_selinux(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root alone, nothing below it; without the program nothing is done."""
    tree.write("sys/fs/selinux/enforce", "1")
    monkeypatch.setattr(command, "PATH", str(tree.base))
    assert not mount_points.relabel(tree.paths, "/data")
    said = tree.base / "said"
    program = tree.write("restorecon", f'#!/bin/sh\necho "$@" >> {said}\n')
    program.chmod(0o755)
    assert mount_points.relabel(tree.paths, "/data")
    assert said.read_text() == "/data\n"
    # SELinux permits its domain to write to a pipe of ours, not into our memory.
    pipe = "[ -p /dev/fd/1 ] && [ -p /dev/fd/2 ] && echo no label for it >&2"
    program.write_text(f"#!/bin/sh\n{pipe}\nexit 1\n")
    with pytest.raises(KrakenError, match="restorecon failed .*: no label for it"):
        mount_points.relabel(tree.paths, "/data")


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
