"""Atomic writes: the old content or the new, and nothing beside it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cc_kraken.machine import files
from cc_kraken.model import KrakenError


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "new"
    old_umask = os.umask(0o077)
    try:
        assert files.write_atomic(str(path), b"one")
    finally:
        os.umask(old_umask)
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["new"]


def test_same_content_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"same")
    before = path.stat()
    assert not files.write_atomic(str(path), b"same")
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_same_content_other_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"same")
    path.chmod(0o644)
    assert files.write_atomic(str(path), b"same", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not files.write_atomic(str(path), b"same", mode=0o600)


def test_mode_and_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    os.utime(path, (1, 1))
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("no user attributes on this filesystem")
    assert files.write_atomic(str(path), b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.getxattr(path, "user.note") == b"kept"
    assert path.stat().st_mtime > 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOTSUP])
def test_an_attribute_that_cannot_be_set_keeps_no_file_from_being_written(
    tmp_path: Path, mocker: MockerFixture, number: int
) -> None:
    """SELinux answers EACCES to who may not set a label, and fstab has one."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    mocker.patch("os.listxattr", return_value=["security.selinux"])
    mocker.patch("os.getxattr", return_value=b"system_u:object_r:etc_t:s0")
    mocker.patch("os.setxattr", side_effect=OSError(number, os.strerror(number)))
    assert files.write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_symlink_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "fstab"
    target.write_bytes(b"old")
    link = tmp_path / "fstab"
    link.symlink_to("real/fstab")
    assert files.write_atomic(str(link), b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "real") == ["fstab"]


def test_dangling_symlink_gets_its_target(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")
    assert files.write_atomic(str(link), b"new")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def _no_directory(base: Path) -> Path:
    return base / "absent" / "file"


def _directory(base: Path) -> Path:
    (base / "dir").mkdir()
    return base / "dir"


def _loop_of_links(base: Path) -> Path:
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    return base / "a"


def _below_a_file(base: Path) -> Path:
    (base / "file").write_bytes(b"")
    return base / "file" / "below"


@pytest.mark.parametrize(
    "make", [_no_directory, _directory, _loop_of_links, _below_a_file]
)
def test_impossible_places_are_a_sentence(tmp_path: Path, make) -> None:
    path = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KrakenError) as caught:
        files.write_atomic(str(path), b"data")
    assert caught.value.trouble.kind == "cannot-write"
    assert repr(str(path)) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_nul_in_path() -> None:
    with pytest.raises(KrakenError, match="cannot be written"):
        files.write_atomic("/tmp/a\0b", b"data")


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "fchmod"])
def test_failure_leaves_the_old_file_alone(
    tmp_path: Path, mocker: MockerFixture, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    mocker.patch.object(files.os, call, side_effect=full)
    with pytest.raises(KrakenError) as caught:
        files.write_atomic(str(path), b"new")
    mocker.stopall()
    assert caught.value.trouble.kind == "cannot-write"
    assert "No space left" in str(caught.value)
    assert "Make room" in caught.value.trouble.remedy
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".file.kraken-{ended.pid}-00ff00ff"
    alive = tmp_path / f".file.kraken-{os.getpid()}-00ff00ff"
    foreign = tmp_path / ".file.kraken-note"
    for each in (dead, alive, foreign):
        each.write_bytes(b"half")
    files.write_atomic(str(tmp_path / "file"), b"new")
    assert not dead.exists()
    assert alive.exists()
    assert foreign.exists()


def test_order_of_durability(tmp_path: Path, mocker: MockerFixture) -> None:
    """Content is on the disk before the name, the name before the return."""
    calls = []
    rename = os.rename

    def synced(descriptor: int) -> None:
        kind = "dir" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"fsync {kind}")

    def renamed(*names: str) -> None:
        calls.append("rename")
        rename(*names)

    mocker.patch.object(files.os, "fsync", side_effect=synced)
    mocker.patch.object(files.os, "rename", side_effect=renamed)
    files.write_atomic(str(tmp_path / "file"), b"data")
    assert calls == ["fsync file", "rename", "fsync dir"]


def test_read_and_remove(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.read_text(str(path)) is None
    assert not files.remove(str(path))
    path.write_bytes(b"a\r\n\xff\n")
    assert files.read_text(str(path)) == "a\r\n\udcff\n"
    assert files.remove(str(path))
    assert not path.exists()
    with pytest.raises(KrakenError) as caught:
        files.read_text(str(tmp_path))
    assert caught.value.trouble.kind == "cannot-read"


@given(st.binary())
def test_any_bytes_survive_as_text(data: bytes) -> None:
    assert files.encode(files.decode(data)) == data
