"""A filesystem that was ever mounted is whole, whatever lies in a record's place.

Crashes are real: the file behind a mounted loop device is copied, and the copy is
what the disk holds at that moment.
"""

from __future__ import annotations

import contextlib
import copy
import os
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import crc32c
from cc_kraken.machine import command
from cc_kraken.model import HalfMade, Known, KrakenError, Record, Unknown
from cc_kraken.proof import half_made, probe, record
from cc_kraken.storage import make as destroy
from tests import crafted
from tests.conftest import umount
from tests.loop.test_destroy import FS, OTHER, Disk, disk, machine, make, refused

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
    # mkfs.btrfs refuses a UUID that the test before had on a disk a moment ago.
    own = {"fs_uuid": str(uuid4())} if kind == "btrfs" else {}
    intent = disk.intent(kind, **own)
    argv = registry.of(kind).argv(disk.path, uuid=intent.fs_uuid, options=options)
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
    cut = copy.copy(disk)
    cut.file = Path(f"{disk.file}.cut")
    subprocess.run(["cp", "--sparse=always", disk.file, cut.file], check=True)
    cut.path = disk.machine.attach(path=cut.file)
    return cut


def sync_write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def ever_mounted(disk: Disk) -> bool:
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert isinstance(look.content, Known), look.content
    return look.content.ever_mounted


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_what_only_mkfs_wrote_was_never_mounted(
    kind: str, options: tuple[str, ...], disk: Disk
) -> None:
    """Nor is it after its checker, or a person's, has written to it."""
    intent = made(disk, kind, options)
    assert not ever_mounted(disk)
    look = probe.look(disk.path, volume_id=disk.volume_id)
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
def test_what_was_mounted_is_whole_at_any_crash(
    kind: str, options: tuple[str, ...], how: str, disk: Disk
) -> None:
    """It says so; but for btrfs, before its first look at its own UUIDs is over: then
    its checker does."""
    intent = made(disk, kind, options)
    with mounted(disk) as where:
        sync_write(where / "file", "precious")
        if how == "sync":
            subprocess.run(["sync", "-f", where], check=True)
        cut = crash(disk)
    if how == "mounted twice":
        with mounted(disk) as where:
            sync_write(where / "file", "precious")
    shown = cut if how in ("fsync", "sync") else disk
    assert ever_mounted(shown) or kind == "btrfs"
    device = replace(shown.device, path=shown.path)
    seen = probe.look(shown.path, volume_id=shown.volume_id)
    look = half_made.look(shown.machine.paths, device, intent, options, seen)
    assert look.content == Known(kind, intent.fs_uuid)


def use_until_it_shows(disk: Disk, where: Path, files: int) -> None:
    """Write so many files at most, until the superblock says that it was mounted."""
    for number in range(files):
        sync_write(where / f"file{number}", "precious")
        subprocess.run(["sync", "-f", where], check=True)
        if ever_mounted(disk):
            break
        time.sleep(0.1)


@pytest.mark.parametrize("options", OPTIONS["btrfs"])
def test_a_btrfs_says_so_when_it_has_looked_at_its_uuids(
    options: tuple[str, ...], disk: Disk
) -> None:
    made(disk, "btrfs", options)
    with mounted(disk) as where:
        use_until_it_shows(disk, where, 600)
    assert ever_mounted(disk)


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


# ------------------------------------------------------------- what follows


def patch(disk: Disk, kind: str, at: int, data: bytes) -> None:
    """Change these bytes of the superblock, and its checksum with them."""
    where = {"ext4": 1024, "xfs": 0, "btrfs": 64 << 10}[kind]
    size = {"ext4": 1024, "xfs": 512, "btrfs": 4096}[kind]
    block = bytearray(disk.get(where, size))
    block[at : at + len(data)] = data
    if kind == "ext4":
        block[1020:] = struct.pack("<I", crc32c(bytes(block[:1020])))
    elif kind == "xfs":
        block[224:228] = bytes(4)
        block[224:228] = struct.pack("<I", crc32c(bytes(block)) ^ 0xFFFFFFFF)
    else:
        block[:4] = struct.pack("<I", crc32c(bytes(block[32:])) ^ 0xFFFFFFFF)
    disk.put(where, bytes(block))


#: A superblock says that it was mounted, at this offset and with these bytes.
SAYS_SO = {"ext4": (44, struct.pack("<I", 1)), "btrfs": (563, struct.pack("<Q", 7))}
#: What mkfs writes, and its checker misses.
TORN = {"ext4": (40 << 12, 1 << 20), "btrfs": (20 * MIB, 64 * MIB)}


@pytest.mark.parametrize("flaw", [False, True])
@pytest.mark.parametrize("kind", SAYS_SO)
def test_what_was_ever_mounted_is_never_made_again(
    kind: str, flaw: bool, disk: Disk
) -> None:
    """Not even where its checker finds it torn, our record explains all that is
    there, or its superblock has a wrong checksum."""
    intent = made(disk, kind)
    start, end = TORN[kind]
    disk.put(start, bytes(end - start))
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    shown = half_made.look(disk.machine.paths, disk.device, intent, (), seen)
    assert shown.content == HalfMade()
    patch(disk, kind, *SAYS_SO[kind])
    if flaw:
        disk.put({"ext4": 2047, "btrfs": 64 << 10}[kind], b"\xa5")
    refused(disk, "content-refused", lambda disk: make(disk, intent))
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    shown = half_made.look(disk.machine.paths, disk.device, intent, (), seen)
    assert isinstance(shown.content, Unknown if flaw else Known)


#: Where a feature belongs that nobody has heard of.
UNKNOWN = {"ext4": (100, "<I", 31), "xfs": (212, ">I", 31), "btrfs": (188, "<Q", 60)}


def newer(disk: Disk, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, form, bit = UNKNOWN[kind]
    base = {"ext4": 1024, "xfs": 0, "btrfs": 64 << 10}[kind]
    (now,) = struct.unpack(form, disk.get(base + at, struct.calcsize(form)))
    patch(disk, kind, at, struct.pack(form, now | 1 << bit))


def broken(disk: Disk, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = ("wipefs", "--no-such-option")
    monkeypatch.setattr(registry.of(kind), "checker", checker)


@pytest.mark.parametrize("why", [newer, broken])
@pytest.mark.parametrize("kind", registry.TYPES)
def test_what_the_checker_cannot_judge_is_no_licence(
    kind: str, why: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer mkfs has made it, or the checker does not even start: though our
    record explains all that is there."""
    intent = made(disk, kind)
    why(disk, kind, monkeypatch)
    refused(disk, "content-refused", lambda disk: make(disk, intent))
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    shown = half_made.look(disk.machine.paths, disk.device, intent, (), seen)
    assert isinstance(shown.content, Unknown)
    assert (shown.record, bool(shown.fingerprint)) == (intent, True)


def test_a_checker_that_was_killed_says_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory, for instance."""
    made(disk, "ext4")
    run = command.run

    def killed(argv: Sequence[str], **more: Any) -> command.Finished:
        if argv[0] != "e2fsck":
            return run(argv, **more)
        return command.Finished(tuple(argv), -9, "", "")

    monkeypatch.setattr(command, "run", killed)
    with pytest.raises(KrakenError) as caught:
        half_made.sound(disk.path, "ext4")
    assert "SIGKILL" in str(caught.value)


COPIES = {
    "of another set's": ({"identity": "b2" * 32}, True),
    "of another volume's": ({"volume_id": "vol-00000000000000bad"}, False),
    "of another filesystem's": ({"fs_uuid": OTHER}, False),
    "of an array's": ({"array_uuid": OTHER}, False),
}


@pytest.mark.parametrize("place", ["its own", "a member's"])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_that_a_user_has_written_is_his(
    name: str, place: str, disk: Disk
) -> None:
    """Only what speaks of this very filesystem is a record there; whose set's it is
    says the decision."""
    changes, shown = COPIES[name]
    intent = made(disk, "ext4")
    patch(disk, "ext4", *SAYS_SO["ext4"])
    disk.put(disk.single, bytes(4096))
    block = record.encode(disk.intent("ext4", **changes))
    disk.put(disk.single if place == "its own" else record.MEMBER_PLACE, block)
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert look.content == Known("ext4", FS)
    assert (look.record is not None) == (shown and place == "its own")
    assert intent != look.record


def test_two_records_of_one_filesystem_are_no_contradiction(disk: Disk) -> None:
    """A user has written the second one, where the volume's first size has it."""
    intent = made(disk, "ext4")
    patch(disk, "ext4", *SAYS_SO["ext4"])
    os.truncate(disk.file, 3 * GIB)
    subprocess.run(["losetup", "--set-capacity", disk.path], check=True)
    disk.put(record.single_place(3 * GIB), record.encode(intent))
    disk.put(
        record.single_place(GIB),
        record.encode(disk.intent("ext4", identity="b2" * 32)),
    )
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert look.content == Known("ext4", FS)
    assert look.record is not None and look.moved == record.single_place(GIB)


def test_the_data_of_an_array_carries_no_record(disk: Disk) -> None:
    """Neither as its member shows it, nor as the array does."""
    disk.put(*crafted.md1(GIB))
    disk.put(disk.single, record.encode(disk.intent("ext4", identity="b2" * 32)))
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert isinstance(look.content, Known) and look.record is None
    for place in record.places(GIB):
        disk.put(place, record.encode(disk.intent("ext4")))
    look = probe.look(disk.path)
    assert isinstance(look.content, Known) and look.record is None
    # In the gap that md leaves it is one.
    look = probe.look(disk.path, volume_id=disk.volume_id)
    assert look.record == disk.intent("ext4")


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_record_in_what_is_mounted_is_nobodys_concern(kind: str, disk: Disk) -> None:
    """btrfs does not even say yet that it is mounted."""
    intent = made(disk, kind)
    with mounted(disk):
        look = probe.look(disk.path, volume_id=disk.volume_id, in_use=True)
    assert (look.content, look.record) == (Known(kind, intent.fs_uuid), None)


@pytest.mark.parametrize("kind", registry.TYPES)
def test_the_erased_record_is_all_that_changes(kind: str, disk: Disk) -> None:
    intent = made(disk, kind)
    with mounted(disk) as where:
        sync_write(where / "file", "precious")
    digest = disk.digest()
    destroy.erase_record(disk.machine.paths, disk.device, intent, disk.single)
    assert disk.digest() != digest
    disk.put(disk.single, record.encode(intent))
    assert disk.digest() == digest


@pytest.mark.parametrize("kind", registry.TYPES)
def test_the_end_of_a_partition_table_is_a_users(kind: str, disk: Disk) -> None:
    """A file of whoever fills the filesystem: an image of a disk ends so."""
    size = disk.device.size
    (backup,) = [part for part in crafted.gpt(size) if part[0] == size - 512]
    subprocess.run([f"mkfs.{kind}", "-q", disk.path], check=True, capture_output=True)
    plain = probe.look(disk.path, volume_id=disk.volume_id).content
    assert isinstance(plain, Known) and plain.type == kind
    disk.put(*backup)
    disk.flush()
    new = probe.look(disk.path, volume_id=disk.volume_id).content
    assert isinstance(new, Unknown) and "gpt" in new.reason
    with mounted(disk) as where:
        use_until_it_shows(disk, where, 100)
    used = probe.look(disk.path, volume_id=disk.volume_id)
    assert used.content == plain
    # At the head it is no file's.
    disk.put(*crafted.lvm(size))
    disk.flush()
    both = probe.look(disk.path, volume_id=disk.volume_id).content
    assert isinstance(both, Unknown)
