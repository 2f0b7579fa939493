"""A filesystem that was ever mounted is whole, whatever lies in a record's place.

Crashes are real: the file behind a mounted loop device is copied, and the copy is
what the disk holds at that moment.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cc_kraken import content, mkfs, record
from cc_kraken.model import Known, Record
from tests.conftest import umount
from tests.loop.test_destroy import Disk, disk, machine

__all__ = ["disk", "machine"]  # fixtures

MIB, GIB = 1 << 20, 1 << 30

#: What changes where a filesystem notes that it was mounted.
OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ext4": (
        (),
        ("-O", "^has_journal"),
        ("-b", "1024"),
        ("-O", "fast_commit,inline_data"),
    ),
    "xfs": ((), ("-l", "su=256k,size=64m"), ("-s", "size=4096"), ("-b", "size=1024")),
    "btrfs": ((), ("-m", "single", "-n", "4096"), ("--csum", "sha256")),
}
CASES = [(kind, options) for kind, some in OPTIONS.items() for options in some]


def made(disk: Disk, kind: str, options: Sequence[str] = ()) -> Record:
    """The filesystem that a record speaks of, made and never mounted."""
    intent = disk.intent(kind)
    argv = mkfs.argv(kind, disk.path, uuid=intent.fs_uuid, options=options)
    subprocess.run(argv, check=True, capture_output=True)
    disk.put(disk.single, record.encode(intent))
    disk.flush()
    return intent


@contextlib.contextmanager
def mounted(disk: Disk) -> Iterator[Path]:
    where = disk.machine.base / "mounted"
    where.mkdir()
    subprocess.run(["mount", disk.path, where], check=True)
    try:
        yield where
    finally:
        umount(where)
        where.rmdir()


def crash(disk: Disk) -> Disk:
    """The same volume after the power has failed just now."""
    subprocess.run(["cp", "--sparse=always", disk.file, f"{disk.file}.cut"], check=True)
    other = disk.machine.attach(path=Path(f"{disk.file}.cut"))
    return _moved(disk, other)


def _moved(disk: Disk, path: str) -> Disk:
    import copy

    moved = copy.copy(disk)
    moved.path, moved.file = path, Path(f"{disk.file}.cut")
    return moved


def sync_write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def ever_mounted(disk: Disk) -> bool:
    look = content.look(disk.path, volume_id=disk.volume_id)
    assert isinstance(look.content, Known), look.content
    return look.content.ever_mounted


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_what_only_mkfs_wrote_was_never_mounted(
    kind: str, options: tuple[str, ...], disk: Disk
) -> None:
    """Nor is it after its checker, or a person's, has written to it."""
    intent = made(disk, kind, options)
    assert not ever_mounted(disk)
    look = content.look(disk.path, volume_id=disk.volume_id)
    assert look.record == intent
    repair = {
        "ext4": ["e2fsck", "-fy", disk.path],
        "xfs": ["xfs_repair", disk.path],
        "btrfs": ["btrfs", "check", disk.path],
    }[kind]
    subprocess.run(repair, check=True, capture_output=True)
    assert not ever_mounted(disk)


@pytest.mark.parametrize("how", ["fsync", "sync", "unmounted", "mounted twice"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_what_was_mounted_says_so_at_any_crash(
    kind: str, options: tuple[str, ...], how: str, disk: Disk
) -> None:
    made(disk, kind, options)
    with mounted(disk) as where:
        sync_write(where / "file", "precious")
        if how == "sync":
            subprocess.run(["sync", "-f", where], check=True)
        cut = crash(disk)
    if how == "mounted twice":
        with mounted(disk) as where:
            sync_write(where / "file", "precious")
    assert ever_mounted(cut if how in ("fsync", "sync") else disk)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_mount_alone_says_so_at_once(kind: str, disk: Disk) -> None:
    """btrfs writes nothing before the first file is safe."""
    made(disk, kind)
    with mounted(disk):
        cut = crash(disk)
    assert ever_mounted(cut)


@pytest.mark.long
def test_a_log_that_has_come_round_says_so(disk: Disk) -> None:
    """The beginning of the log is then no longer what mkfs wrote."""
    # A log of 8 MiB, which mkfs.xfs makes for its own tests alone.
    small = {**os.environ, "TEST_DIR": "/x", "TEST_DEV": "/x", "QA_CHECK_FS": "1"}
    argv = ["mkfs.xfs", "-q", "-l", "size=8m", disk.path]
    subprocess.run(argv, check=True, env=small)
    with mounted(disk) as where:
        for number in range(30):
            names = [where / f"{number}-{name}-{'x' * 200}" for name in range(1000)]
            for name in names:
                name.touch()
            subprocess.run(["sync", "-f", where], check=True)
            for name in names:
                name.unlink()
            subprocess.run(["sync", "-f", where], check=True)
        sync_write(where / "file", "precious")
        cut = crash(disk)
    assert cut.get(xfs_log(cut), 8) != bytes.fromhex("feedbabe00000001"), "not yet"
    assert ever_mounted(cut)


def xfs_log(disk: Disk) -> int:
    """Where the log of an xfs with blocks of 4 KiB begins."""
    shown = subprocess.run(
        ["xfs_db", "-r", "-c", "sb 0", "-c", "p logstart agblocks agblklog", disk.path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    start, blocks, shift = (int(line.split()[-1]) for line in shown.splitlines())
    return ((start >> shift) * blocks + (start & (1 << shift) - 1)) * 4096
