"""destroy.py on real loop devices: what each function does, and that every
refusal leaves every byte.

sysfs is a tree of files here, so that a loop device can have the serial of an
EBS volume; everything else (nodes, locks, mounts, mkfs) is real.  What needs a
running md is shown in the virtual machines.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
import subprocess
import threading
import time
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import BLOCK
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Blank,
    Device,
    Extent,
    HalfMade,
    Known,
    KrakenError,
    Node,
    Record,
    Unknown,
)
from cc_kraken.proof import half_made, places, probe, record, rehearsal
from cc_kraken.storage import make as destroy
from tests import conftest, crafted
from tests.conftest import LATER, soon, umount
from tests.loop.test_record_place import member_head

MIB, GIB = 1 << 20, 1 << 30
#: Its own in each run: mkfs.btrfs refuses a UUID that it sees elsewhere.
FS = str(uuids.uuid4())
OTHER = str(uuids.uuid4())
ARRAY = str(crafted.MD_UUID)
MEMBER = record.MEMBER_PLACE
NODE = Node("kafka", "0")

MakeDevice = Callable[..., str]


def digest(path: Path) -> str:
    """Of every byte of a sparse file; holes are zeros."""
    total, zero = hashlib.sha256(), bytes(BLOCK)
    with open(path, "rb") as file:
        for extent in rehearsal.data_extents(str(path)):
            file.seek(extent.start)
            for start in range(extent.start, extent.end, MIB):
                data = file.read(min(MIB, extent.end - start))
                if data.count(0) == len(data):
                    continue
                for at in range(0, len(data), BLOCK):
                    block = data[at : at + BLOCK]
                    if block != zero:
                        total.update(b"%d " % (start + at) + block)
    return total.hexdigest()


class Disk:
    """A sparse file, the loop device on it, and its entry in sysfs."""

    def __init__(self, machine: Machine, number: int, size: int) -> None:
        self.machine = machine
        self.file = machine.base / f"volume{number}"
        with open(self.file, "xb") as file:
            file.truncate(size)
        self.path = machine.attach(path=self.file)
        self.name = os.path.basename(self.path)
        self.volume_id = f"vol-{number:017x}"
        status = os.stat(self.path).st_rdev
        self.devno = f"{os.major(status)}:{os.minor(status)}"
        self.sysfs = Path(machine.paths.sys) / "block" / self.name
        self.write("dev", self.devno)
        self.write("size", str(size // 512))
        self.write("ro", "0")
        self.write("device/serial", self.volume_id.replace("-", ""))
        (self.sysfs / "holders").mkdir()
        self.device = Device(self.name, self.path, self.devno, self.volume_id, size)

    def write(self, name: str, text: str) -> None:
        (self.sysfs / name).parent.mkdir(parents=True, exist_ok=True)
        (self.sysfs / name).write_text(text + "\n")

    def put(self, offset: int, data: bytes) -> None:
        """Write past the page cache's back: through the device itself."""
        fd = os.open(self.path, os.O_WRONLY)
        os.pwrite(fd, data, offset)
        os.fsync(fd)
        os.close(fd)

    def get(self, offset: int, length: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def flush(self) -> None:
        """What programs wrote through the device's page cache, to the file."""
        fd = os.open(self.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def digest(self) -> str:
        """Of every byte."""
        self.flush()
        return digest(self.file)

    def intent(self, kind: str = "xfs", **changes: object) -> Record:
        """The record of making a filesystem on this volume alone."""
        own = record.identity(NODE, "data", [self.volume_id])
        base = Record(own, self.volume_id, kind, FS)
        return replace(base, **changes)  # type: ignore[arg-type]

    @property
    def single(self) -> int:
        return record.single_place(self.device.size)

    def look(self, **more: object) -> object:
        return probe.look(
            self.path,
            volume_id=self.volume_id,
            **more,  # type: ignore[arg-type]
        ).content


class Machine:
    def __init__(self, base: Path, attach: MakeDevice) -> None:
        self.base = base
        self.attach = attach
        self.paths = Paths(
            sys=str(base / "sys"), state=str(base / "state"), run=str(base / "run")
        )
        self.disks: list[Disk] = []
        self.arrays: list[Array] = []

    def existing(self) -> None:
        """An array that has nothing to do with the first disk."""
        self.arrays.append(existing(self.disk(), self.disk()))

    def disk(self, size: int = GIB) -> Disk:
        made = Disk(self, len(self.disks) + 1, size)
        self.disks.append(made)
        return made


@pytest.fixture
def machine(tmp_path: Path, loop_device: MakeDevice) -> Machine:
    return Machine(tmp_path, loop_device)


@pytest.fixture
def disk(machine: Machine) -> Disk:
    return machine.disk()


def make(disk: Disk, intent: Record, **more: object) -> None:
    destroy.make_filesystem(
        disk.machine.paths,
        disk.device,
        [(disk.device, intent)],
        type=intent.fs_type,
        uuid=intent.fs_uuid,
        label="KRKN-data",
        **more,  # type: ignore[arg-type]
    )


# ----------------------------------------------------------------------- held


def test_held_excludes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for its lock, as udev does; nothing can be written meanwhile."""
    paths = disk.machine.paths
    with destroy.held(paths, disk.device) as one:
        other = os.open(disk.path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)
        assert disk.look() == Blank()
        with pytest.raises(OSError):
            one.write(0, b"x" * 4096)
        monkeypatch.setattr(destroy, "LOCK_WAIT", 0.2)
        with pytest.raises(KrakenError) as caught, destroy.held(paths, disk.device):
            pass
        assert caught.value.trouble.kind == "device-locked"
        assert caught.value.trouble.waits
    with destroy.held(paths, disk.device):
        pass


def test_held_waits(disk: Disk) -> None:
    """Until who holds the lock, here a thread with its own descriptor, lets go."""
    other = os.open(disk.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    freed = threading.Event()

    def free() -> None:
        time.sleep(0.3)
        freed.set()
        os.close(other)

    thread = threading.Thread(target=free)
    thread.start()
    with destroy.held(disk.machine.paths, disk.device):
        assert freed.is_set()
    thread.join()


def test_held_without_a_device(disk: Disk) -> None:
    absent = replace(disk.device, path="/dev/no-such-device")
    with pytest.raises(KrakenError) as caught, destroy.held(disk.machine.paths, absent):
        pass
    assert caught.value.trouble.kind == "device-missing"


@pytest.mark.parametrize("place", [0, 4096, 5 << 20])
def test_a_block_that_held_writes(place: int, disk: Disk) -> None:
    with destroy.held(disk.machine.paths, disk.device) as one:
        with one.opened(os.O_RDWR | os.O_EXCL):
            one.write(place, b"x" * 4096)
            one.zero([Extent(place + 4096, place + 8192)])
    assert disk.get(place, 8192) == b"x" * 4096 + bytes(4096)


# ------------------------------------------------------------------ refusals

Act = Callable[[Disk], object]

#: Every function on a volume that is ready for it: the state, and the call.
READY: dict[str, tuple[Act, Act]] = {
    "write_record": (
        lambda disk: None,
        lambda disk: destroy.write_record(
            disk.machine.paths, disk.device, disk.intent(), disk.single
        ),
    ),
    "write_record of a member": (
        lambda disk: None,
        lambda disk: destroy.write_record(
            disk.machine.paths, disk.device, array_intent(disk, disk), MEMBER
        ),
    ),
    "erase_record": (
        lambda disk: disk.put(disk.single, record.encode(disk.intent())),
        lambda disk: destroy.erase_record(
            disk.machine.paths, disk.device, disk.intent(), disk.single
        ),
    ),
    "zero_superblock": (
        lambda disk: half_member(disk, array_intent(disk, disk)),
        lambda disk: destroy.zero_superblock(
            disk.machine.paths, disk.device, array_intent(disk, disk)
        ),
    ),
    "create_array": (
        lambda disk: [
            one.put(MEMBER, record.encode(array_intent(one, disk, second(disk))))
            for one in (disk, second(disk))
        ],
        lambda disk: create(disk, second(disk)),
    ),
    "add_member": (
        lambda disk: disk.machine.existing(),
        lambda disk: destroy.add_member(
            disk.machine.paths, disk.machine.arrays[0], disk.device
        ),
    ),
    "make_filesystem": (
        lambda disk: disk.put(disk.single, record.encode(disk.intent())),
        lambda disk: make(disk, disk.intent()),
    ),
    "wipe": (
        lambda disk: disk.put(4096, b"old" * 100),
        lambda disk: destroy.wipe(disk.machine.paths, disk.device, fingerprint(disk)),
    ),
}


def second(disk: Disk) -> Disk:
    if len(disk.machine.disks) < 2:
        disk.machine.disk()
    return disk.machine.disks[1]


def array_intent(disk: Disk, *disks: Disk, **changes: object) -> Record:
    own = record.identity(NODE, "data", [one.volume_id for one in disks])
    base = Record(own, disk.volume_id, "xfs", FS, ARRAY, 1, 2)
    return replace(base, **changes)  # type: ignore[arg-type]


def half_member(disk: Disk, intent: Record) -> None:
    disk.put(MEMBER, record.encode(intent))
    disk.put(0, member_head(disk.device.size))


def create(*disks: Disk, **changes: object) -> None:
    records = [array_intent(disk, *disks) for disk in disks]
    wanted: dict[str, object] = {"uuid": ARRAY, "level": 1, "name": "KRKN-data"}
    wanted.update(changes)
    destroy.create_array(
        disks[0].machine.paths,
        [(disk.device, intent) for disk, intent in zip(disks, records)],
        **wanted,  # type: ignore[arg-type]
    )


def fingerprint(disk: Disk) -> str:
    seen = probe.look(disk.path, volume_id=disk.volume_id, fingerprint=True)
    return seen.fingerprint


def wrong_serial(disk: Disk) -> None:
    disk.write("device/serial", "vol0000000000000ffff")


def no_serial(disk: Disk) -> None:
    (disk.sysfs / "device/serial").unlink()


def renumbered(disk: Disk) -> None:
    disk.write("dev", "7:77")


def gone(disk: Disk) -> None:
    shutil.rmtree(disk.sysfs)


def other_node(disk: Disk) -> None:
    disk.device = replace(disk.device, path=disk.machine.disk().path)


def not_a_device(disk: Disk) -> None:
    disk.device = replace(disk.device, path=str(disk.file))


def other_size(disk: Disk) -> None:
    disk.device = replace(disk.device, size=disk.device.size + MIB)


def twin(disk: Disk) -> None:
    disk.machine.disk().write("device/serial", disk.volume_id.replace("-", ""))


def held(disk: Disk) -> None:
    (disk.sysfs / "holders" / "md127").mkdir()


def partitioned(disk: Disk) -> None:
    disk.write(f"{disk.name}p1/partition", "1")
    disk.write(f"{disk.name}p1/dev", "259:1")
    (disk.sysfs / f"{disk.name}p1" / "holders").mkdir()
    (disk.sysfs / f"{disk.name}p1" / "holders" / "dm-0").mkdir()


def read_only(disk: Disk) -> None:
    subprocess.run(["blockdev", "--setro", disk.path], check=True)


UNSAFE: tuple[tuple[Act, str], ...] = (
    (wrong_serial, "device-changed"),
    (no_serial, "device-changed"),
    (renumbered, "device-changed"),
    (gone, "device-changed"),
    (other_node, "device-changed"),
    (not_a_device, "device-changed"),
    (other_size, "device-changed"),
    (twin, "device-changed"),
    (held, "device-in-use"),
    (partitioned, "device-in-use"),
    (read_only, "device-read-only"),
)


@pytest.mark.parametrize(
    ("unsafe", "kind"), UNSAFE, ids=[unsafe.__name__ for unsafe, _ in UNSAFE]
)
@pytest.mark.parametrize("name", READY)
def test_unsafe_device(name: str, unsafe: Act, kind: str, machine: Machine) -> None:
    """No function touches a device that is not surely the volume, or that
    something uses."""
    disk = machine.disk()
    prepare, act = READY[name]
    prepare(disk)
    if name == "wipe":
        seen = fingerprint(disk)

        def act(disk: Disk) -> object:
            return destroy.wipe(machine.paths, disk.device, seen)

    before = [one.digest() for one in machine.disks]
    unsafe(disk)
    try:
        with pytest.raises((KrakenError, ValueError)) as caught:
            act(disk)
    finally:
        if unsafe is read_only:
            subprocess.run(["blockdev", "--setrw", disk.path], check=True)
    if unsafe is not other_size:
        assert isinstance(caught.value, KrakenError)
        assert caught.value.trouble.kind == kind
    after = [one.digest() for one in machine.disks]
    assert after[: len(before)] == before
    assert all(
        digest == hashlib.sha256().hexdigest() for digest in after[len(before) :]
    )


@pytest.mark.parametrize("name", READY)
def test_ready_is_ready(name: str, disk: Disk) -> None:
    """What is refused above is done without the reason for the refusal (an
    array needs md: there mdadm is reached and says so).  A member is added to what
    is no array in the end."""
    prepare, act = READY[name]
    prepare(disk)
    before = disk.digest()
    no_md = not os.path.exists("/sys/module/md_mod")
    if name == "add_member" or (name == "create_array" and no_md):
        with pytest.raises(KrakenError) as caught:
            act(disk)
        assert caught.value.trouble.kind == "command-failed"
        assert "mdadm" in str(caught.value)
        assert disk.digest() == before
        return
    act(disk)
    assert disk.digest() != before


@pytest.mark.parametrize(
    "name", ["write_record", "write_record of a member", "make_filesystem", "wipe"]
)
def test_mounted(name: str, disk: Disk, tmp_path: Path) -> None:
    prepare, act = READY[name]
    subprocess.run(["mkfs.ext4", "-q", disk.path], check=True)
    if name != "wipe":
        prepare(disk)
    target = tmp_path / "mounted"
    target.mkdir()
    subprocess.run(["mount", "-o", "ro,noload", disk.path, target], check=True)
    try:
        before = disk.digest()
        with pytest.raises(KrakenError) as caught:
            act(disk)
        assert disk.digest() == before
    finally:
        umount(target)
    assert caught.value.trouble.kind == "device-in-use"
    assert str(target) in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(READY) - {"write_record of a member"}))
def test_held_without_a_trace_in_sysfs(
    name: str, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own exclusive claim counts, too (md, dm, mounts of other
    namespaces)."""
    monkeypatch.setattr(destroy, "BUSY_WAIT", 0.0)
    prepare, act = READY[name]
    prepare(disk)
    before = disk.digest()
    fd = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(KrakenError) as caught:
            act(disk)
    finally:
        os.close(fd)
    assert caught.value.trouble.kind == "device-in-use"
    assert disk.digest() == before


@pytest.mark.parametrize("name", ["write_record", "write_record of a member", "wipe"])
def test_a_disk_that_takes_no_write(name: str, tmp_path: Path) -> None:
    """The file behind it is on a filesystem that is full: no write to a new
    place succeeds.  An I/O error is no fault of ours, and no silence."""
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", full], check=True)
    with ExitStack() as stack:
        stack.callback(umount, full)

        def plug(*, path: Path) -> str:
            device = conftest.attach(path)
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
            return device

        disk = Machine(full, plug).disk()
        prepare, _ = READY[name]
        prepare(disk)
        seen = fingerprint(disk)
        with open(full / "ballast", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        before = disk.digest()
        with pytest.raises(KrakenError) as caught:
            if name == "wipe":
                destroy.wipe(disk.machine.paths, disk.device, seen)
            else:
                READY[name][1](disk)
        assert caught.value.trouble.kind == "write-failed"
        assert disk.path in str(caught.value)
        assert disk.digest() == before


@pytest.mark.parametrize("name", ["write_record", "erase_record"])
def test_a_disk_that_loses_writes(
    name: str, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is read back."""
    prepare, act = READY[name]
    prepare(disk)
    before = disk.digest()
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: len(buffers[0]))
    with pytest.raises(KrakenError) as caught:
        act(disk)
    assert caught.value.trouble.kind == "write-failed"
    assert disk.digest() == before


@pytest.mark.parametrize("name", sorted(READY))
def test_a_disk_that_cannot_be_read(name: str, machine: Machine) -> None:
    """What lies behind its first half is not there any more."""
    disk = machine.disk()
    prepare, act = READY[name]
    prepare(disk)
    os.truncate(disk.file, disk.device.size // 2)
    before = [one.digest() for one in machine.disks]
    with pytest.raises(KrakenError) as caught:
        act(disk)
    assert disk.path in str(caught.value)
    assert [one.digest() for one in machine.disks] == before


def test_swap(machine: Machine) -> None:
    """In use as swap by /proc alone: a real one could be written any time."""
    proc = machine.base / "proc"
    proc.mkdir()
    (proc / "self").symlink_to("/proc/self")
    machine.paths = replace(machine.paths, proc=str(proc))
    disk = machine.disk()
    subprocess.run(["mkswap", disk.path], check=True, capture_output=True)
    (proc / "swaps").write_text(
        f"Filename Type Size Used Priority\n{disk.path} partition 1048572 0 -2\n"
    )
    error = refused(disk, "device-in-use", READY["wipe"][1])
    assert "swap" in str(error)


# --------------------------------------------------------------- write, erase


@pytest.mark.parametrize("member", [False, True])
def test_record_is_written_and_erased(member: bool, disk: Disk) -> None:
    paths, intent = disk.machine.paths, disk.intent()
    if member:
        intent = array_intent(disk, disk, second(disk))
    place = record.places(disk.device.size)[0 if member else 1]
    destroy.write_record(paths, disk.device, intent, place)
    assert disk.get(place, 4096) == record.encode(intent)
    written = disk.digest()
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    assert (seen.content, seen.record) == (Blank(), intent)

    destroy.write_record(paths, disk.device, intent, place)
    assert disk.digest() == written

    destroy.erase_record(paths, disk.device, intent, place)
    assert disk.digest() == hashlib.sha256().hexdigest()
    destroy.erase_record(paths, disk.device, intent, place)
    assert disk.digest() == hashlib.sha256().hexdigest()


@pytest.mark.parametrize(
    "offset", [0, 4096, 512, 64 << 10, 16 * MIB - 1, GIB - 1, record.MEMBER_PLACE]
)
def test_record_only_on_blank(offset: int, disk: Disk) -> None:
    disk.put(offset, b"\x01")
    refused(disk, "content-refused", READY["write_record"][1])


def test_record_only_into_zeros(disk: Disk) -> None:
    """Its own place is read, whatever the proof samples."""
    disk.put(disk.single + 4095, b"\x01")
    refused(disk, "content-refused", READY["write_record"][1])


@pytest.mark.parametrize("kind", registry.TYPES)
def test_record_never_on_a_filesystem(kind: str, disk: Disk) -> None:
    subprocess.run([f"mkfs.{kind}", "-q", disk.path], check=True)
    refused(disk, "content-refused", READY["write_record"][1])
    refused(disk, "content-refused", READY["write_record of a member"][1])


@pytest.mark.parametrize("name", ["write_record", "erase_record", "make_filesystem"])
@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "b2" * 32},
        {"fs_uuid": OTHER},
        {"fs_type": "ext4"},
        {"volume_id": "vol-00000000000000bad"},
    ],
)
def test_another_record(name: str, changes: dict[str, object], disk: Disk) -> None:
    disk.put(disk.single, record.encode(disk.intent(**changes)))
    # the look takes the record of another volume for unknown content
    copied = name == "write_record" and "volume_id" in changes
    refused(disk, "content-refused" if copied else "record-refused", READY[name][1])


def test_a_record_for_another_volume_is_not_written(disk: Disk) -> None:
    intent = disk.intent(volume_id="vol-00000000000000bad")
    refused(
        disk,
        "record-refused",
        lambda disk: destroy.write_record(
            disk.machine.paths, disk.device, intent, disk.single
        ),
    )


@pytest.mark.parametrize("name", ["erase_record", "make_filesystem"])
def test_a_broken_record(name: str, disk: Disk) -> None:
    block = bytearray(record.encode(disk.intent()))
    block[300] ^= 1
    disk.put(disk.single, bytes(block))
    refused(disk, "record-refused", READY[name][1])


def test_no_record_no_filesystem(disk: Disk) -> None:
    refused(disk, "record-refused", READY["make_filesystem"][1])


def test_a_record_only_at_its_places(disk: Disk) -> None:
    for place in (0, 4096, disk.single + 4096, GIB):
        before = disk.digest()
        for act in (destroy.write_record, destroy.erase_record):
            with pytest.raises(ValueError):
                act(disk.machine.paths, disk.device, disk.intent(), place)
        assert disk.digest() == before


def refused(disk: Disk, kind: str, act: Act) -> KrakenError:
    """``act`` is refused, and nothing changed anywhere."""
    before = [one.digest() for one in disk.machine.disks]
    with pytest.raises(KrakenError) as caught:
        act(disk)
    assert caught.value.trouble.kind == kind
    assert [one.digest() for one in disk.machine.disks][: len(before)] == before
    return caught.value


# ---------------------------------------------------------------- filesystems


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", ()),
        ("ext4", ("-m", "0", "-O", "^orphan_file")),
        ("xfs", ()),
        ("xfs", ("-m", "reflink=0")),
        ("btrfs", ()),
        ("btrfs", ("-m", "single")),
    ],
)
def test_filesystem(kind: str, options: tuple[str, ...], disk: Disk) -> None:
    intent = disk.intent(kind)
    disk.put(disk.single, record.encode(intent))
    make(disk, intent, options=options)
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    assert seen.content == Known(kind, FS, "KRKN-data")
    assert seen.record == intent
    refused(disk, "content-refused", lambda disk: make(disk, intent))

    destroy.erase_record(disk.machine.paths, disk.device, intent, disk.single)
    check_filesystem(kind, disk)


def check_filesystem(kind: str, disk: Disk) -> None:
    check = {
        "ext4": ["e2fsck", "-f", "-n", disk.path],
        "xfs": ["xfs_repair", "-n", disk.path],
        "btrfs": ["btrfs", "check", disk.path],
    }[kind]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", registry.TYPES)
def test_data_beside_a_record(kind: str, share: float, disk: Disk) -> None:
    """A record is no licence where anything but our own lies there: at each
    of these shares of what the proof reads and mkfs does not write."""
    intent = disk.intent(kind)
    disk.put(disk.single, record.encode(intent))
    ours = rehearsal.extents(disk.machine.paths, disk.device, intent)
    free = [start for start in free_places(disk, ours)]
    disk.put(ours[0].start, b"half made, too")
    disk.put(free[round(share * (len(free) - 1))] + 4095, b"d")
    refused(disk, "content-refused", lambda disk: make(disk, intent))


@pytest.mark.parametrize("kind", registry.TYPES)
@pytest.mark.parametrize("remains", [False, True])
def test_who_is_asked_about_what_was_made(kind: str, remains: bool, disk: Disk) -> None:
    """That nothing is there, once.  Where something was: what it is, whether it
    is ours, that it is gone, and what was made."""
    intent = disk.intent(kind)
    if remains:
        ours = rehearsal.extents(disk.machine.paths, disk.device, intent)
        disk.put(ours[0].start + 8, b"half made")
    disk.put(disk.single, record.encode(intent))
    before = command.STARTED["wipefs"]
    make(disk, intent)
    asked = command.STARTED["wipefs"] - before
    assert asked == (4 if remains else 1)


def free_places(disk: Disk, ours: tuple[Extent, ...]) -> Iterator[int]:
    taken = {start for one in ours for start in range(one.start, one.end, 4096)} | {
        disk.single
    }
    for place in places.places(disk.device.size):
        for start in range(place.start, place.end, 4096):
            if start not in taken:
                yield start


@pytest.mark.parametrize("kind", registry.TYPES)
@pytest.mark.parametrize("other", registry.TYPES)
def test_a_whole_filesystem_beside_a_record(kind: str, other: str, disk: Disk) -> None:
    """Also one of the wanted type, all in our places, with another UUID."""
    intent = disk.intent(kind)
    subprocess.run([f"mkfs.{other}", "-q", disk.path], check=True)
    disk.put(disk.single, record.encode(intent))
    refused(disk, "content-refused", lambda disk: make(disk, intent))


def test_refused_option_comes_before_everything(disk: Disk) -> None:
    disk.put(disk.single, record.encode(disk.intent()))
    refused(
        disk,
        "mkfs-option-refused",
        lambda disk: make(disk, disk.intent(), options=("-f",)),
    )


def test_the_serial_changes_at_the_last_moment(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and mkfs the name goes to another volume."""
    disk.put(disk.single, record.encode(disk.intent()))
    look = probe.look

    def changing(*arguments: object, **more: object) -> object:
        seen = look(*arguments, **more)  # type: ignore[arg-type]
        wrong_serial(disk)
        return seen

    monkeypatch.setattr(probe, "look", changing)
    refused(disk, "device-changed", lambda disk: make(disk, disk.intent()))


# ------------------------------------------------------- mkfs that was killed


def writes_of(argv: tuple[str, ...], log: str) -> int:
    """How often mkfs writes (the thread of it that writes most)."""
    subprocess.run(
        ["strace", "-f", "-qq", "-e", f"trace={WRITING}", "-o", log, *argv],
        check=True,
        env=command.ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    with open(log) as file:
        threads = Counter(line.split()[0] for line in file if "pwrite64(" in line)
    return max(threads.values())


WRITING = "pwrite64"


def kill_at(argv: tuple[str, ...], number: int) -> int:
    """Run mkfs and kill it as it begins its ``number``-th write."""
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-e",
            f"trace={WRITING}",
            "-e",
            f"inject={WRITING}:signal=SIGKILL:when={number}",
            "-o",
            "/dev/null",
            *argv,
        ],
        env=command.ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return done.returncode


@pytest.mark.parametrize("share", soon((0.6,), [0.02, 0.3, 0.6, 0.95, 1.0], LATER))
@pytest.mark.parametrize("kind", soon(("xfs",), registry.TYPES, LATER))
def test_killed_mkfs_is_done_again(kind: str, share: float, machine: Machine) -> None:
    """Killed at a share of its writes, mkfs is finished by the next run:
    the state lies within our extents, and it is made anew."""
    assert command.available("strace"), "the package strace is missing"
    disk = machine.disk()
    intent = disk.intent(kind)
    argv = rehearsal.command_line(
        kind,
        disk.path,
        rehearsal.geometry(machine.paths, disk.device),
        uuid=FS,
        label="KRKN-data",
    )
    like = machine.disk()
    words = [word.replace(FS, OTHER) for word in argv]
    count = writes_of((*words[:-1], like.path), str(machine.base / "log"))
    disk.put(disk.single, record.encode(intent))
    assert kill_at(argv, max(1, round(count * share))) != 0

    ours = rehearsal.extents(machine.paths, disk.device, intent)
    left = [extent for extent in nonzero(disk) if extent.start != disk.single]
    for extent in left:
        assert any(one.start <= extent.start < one.end for one in ours), extent
    seen = disk.look()
    if left:
        assert not isinstance(seen, Blank)
        look = probe.look(disk.path, volume_id=disk.volume_id)
        look = half_made.look(machine.paths, disk.device, intent, (), look)
        assert look.content in (HalfMade(), Known(kind, FS, "KRKN-data"))
    if seen == Known(kind, FS, "KRKN-data"):
        # only the last write was lost, and it is whole: it is kept
        check_filesystem(kind, disk)
    else:
        make(disk, intent)
    assert disk.look() == Known(kind, FS, "KRKN-data")
    assert disk.get(disk.single, 4096) == record.encode(intent)


def nonzero(disk: Disk) -> list[Extent]:
    """4 KiB blocks of the volume that are not all zero."""
    disk.flush()
    found = []
    with open(disk.file, "rb") as file:
        for extent in rehearsal.data_extents(str(disk.file)):
            for start in range(extent.start, extent.end, 4096):
                file.seek(start)
                if any(file.read(4096)):
                    found.append(Extent(start, start + 4096))
    return found


@pytest.mark.parametrize("kind", registry.TYPES)
def test_half_made_without_a_record(kind: str, disk: Disk) -> None:
    subprocess.run([f"mkfs.{kind}", "-q", disk.path], check=True)
    disk.put(1024 if kind == "ext4" else 0, bytes(4096))
    disk.put(64 << 10, bytes(4096))
    refused(disk, "record-refused", lambda disk: make(disk, disk.intent(kind)))


def test_no_room_for_the_shadow(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "RESERVE", 1 << 60)
    disk.put(disk.single, record.encode(disk.intent()))
    disk.put(100 << 10, b"half")
    error = refused(disk, "content-refused", lambda disk: make(disk, disk.intent()))
    for directory in (disk.machine.paths.state, disk.machine.paths.run):
        assert f"{directory} has" in str(error)


def test_shadow_leaves_nothing(disk: Disk) -> None:
    state = Path(disk.machine.paths.state)
    state.mkdir()
    intent = disk.intent("btrfs")
    assert rehearsal.extents(disk.machine.paths, disk.device, intent)
    assert not list(state.iterdir())


# --------------------------------------------------------------------- arrays


def test_zero_superblock(disk: Disk) -> None:
    intent = array_intent(disk, disk, second(disk))
    half_member(disk, intent)
    assert isinstance(disk.look(), Known)
    destroy.zero_superblock(disk.machine.paths, disk.device, intent)
    seen = probe.look(disk.path, volume_id=disk.volume_id)
    assert (seen.content, seen.record) == (Blank(), intent)
    done = disk.digest()
    destroy.zero_superblock(disk.machine.paths, disk.device, intent)
    assert disk.digest() == done


@pytest.mark.parametrize("cut", [512, 4096 + 100, 4096 + 300, 8192 + 256])
def test_zero_superblock_of_a_creation_cut_off(cut: int, disk: Disk) -> None:
    """What a torn or unfinished creation leaves, superblock or not."""
    intent = array_intent(disk, disk, second(disk))
    disk.put(MEMBER, record.encode(intent))
    disk.put(4096, member_head(GIB)[4096:cut] or bytes(512))
    disk.put(8192, b"bitm" if cut > 4096 else b"b")
    destroy.zero_superblock(disk.machine.paths, disk.device, intent)
    assert disk.look() == Blank()


def foreign_superblock(disk: Disk) -> None:
    _, block = crafted.md1(disk.device.size, array_uuid=uuids.UUID(OTHER))
    disk.put(4096, block)


def torn_foreign_superblock(disk: Disk) -> None:
    _, block = crafted.md1(disk.device.size, array_uuid=uuids.UUID(OTHER), wrong=True)
    disk.put(4096, block)


def data_in_the_array(disk: Disk) -> None:
    disk.put(places.data_offset(disk.device.size) + 4096, b"data")


def data_before_the_superblock(disk: Disk) -> None:
    disk.put(0, b"data")


def filesystem_in_the_array(disk: Disk) -> None:
    image = disk.machine.base / "image"
    with open(image, "xb") as file:
        file.truncate(900 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    for extent in rehearsal.data_extents(str(image)):
        with open(image, "rb") as file:
            file.seek(extent.start)
            data = file.read(extent.end - extent.start)
        disk.put(places.data_offset(disk.device.size) + extent.start, data)


def no_record(disk: Disk) -> None:
    disk.put(MEMBER, bytes(4096))


def foreign_record(disk: Disk) -> None:
    disk.put(MEMBER, record.encode(array_intent(disk, disk, identity="b2" * 32)))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (foreign_superblock, "record-refused"),
        (torn_foreign_superblock, "record-refused"),
        (data_in_the_array, "content-refused"),
        (data_before_the_superblock, "content-refused"),
        (filesystem_in_the_array, "content-refused"),
        (no_record, "record-refused"),
        (foreign_record, "record-refused"),
    ],
)
def test_superblock_is_not_zeroed(change: Act, kind: str, disk: Disk) -> None:
    prepare, act = READY["zero_superblock"]
    prepare(disk)
    change(disk)
    refused(disk, kind, act)


def test_a_record_of_mkfs_alone_never_zeroes_a_superblock(disk: Disk) -> None:
    """Level -1: the array was there before; only its filesystem is ours."""
    intent = array_intent(disk, disk, level=-1)
    half_member(disk, intent)
    refused(
        disk,
        "record-refused",
        lambda disk: destroy.zero_superblock(disk.machine.paths, disk.device, intent),
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"level": 5}, "array-refused"),
        ({"level": 0}, "array-refused"),
        ({"level": 4}, "array-refused"),
        ({"uuid": OTHER}, "array-refused"),
        ({"name": "-x"}, "array-refused"),
        ({"name": "a/../b"}, "array-refused"),
        ({"name": "x" * 28}, "array-refused"),
    ],
)
def test_array_is_not_created(
    changes: dict[str, object], kind: str, disk: Disk
) -> None:
    READY["create_array"][0](disk)
    refused(disk, kind, lambda disk: create(disk, second(disk), **changes))


def test_array_of_unequal_members(disk: Disk) -> None:
    larger = disk.machine.disk(2 * GIB)
    for one in (disk, larger):
        one.put(MEMBER, record.encode(array_intent(one, disk, larger)))
    refused(disk, "array-refused", lambda disk: create(disk, larger))


def test_array_of_one_volume_twice(disk: Disk) -> None:
    disk.put(MEMBER, record.encode(array_intent(disk, disk, disk)))
    refused(disk, "array-refused", lambda disk: create(disk, disk))


@pytest.mark.parametrize(
    "change",
    [
        no_record,
        foreign_record,
        foreign_superblock,
        data_in_the_array,
        data_before_the_superblock,
    ],
)
def test_array_over_anything(change: Act, disk: Disk) -> None:
    """One member that is not as it must be, and no member is written."""
    other = second(disk)
    for one in (disk, other):
        one.put(MEMBER, record.encode(array_intent(one, disk, other)))
    change(other)
    before = [one.digest() for one in disk.machine.disks]
    command.STARTED.clear()
    with pytest.raises(KrakenError) as caught:
        create(disk, other)
    assert caught.value.trouble.kind in ("record-refused", "content-refused")
    assert "mdadm" not in command.STARTED
    assert [one.digest() for one in disk.machine.disks] == before


def existing(disk: Disk, other: Disk) -> Array:
    """An array as sysfs shows it, a loop device being its node."""
    node = disk.machine.disk()
    for number, one in enumerate((disk, other)):
        _, block = crafted.md1(
            one.device.size, number=number, data_offset=places.data_offset(GIB)
        )
        one.put(4096, block)
        (one.sysfs / "holders" / node.name).mkdir()
        node.write(f"slaves/{one.name}/x", "")
        node.write(f"md/dev-{one.name}/state", "in_sync")
    (node.sysfs / "device/serial").unlink()
    node.write("md/array_state", "clean")
    node.write("md/level", "raid1")
    node.write("md/raid_disks", "2")
    return Array(
        name=node.name,
        path=node.path,
        devno=node.devno,
        uuid=ARRAY,
        level="raid1",
        raid_disks=2,
        members=(disk.name, other.name),
        state="clean",
        size=node.device.size,
    )


def test_filesystem_on_an_array_that_was_there(disk: Disk) -> None:
    """Records on members that md holds; mkfs on the array; erased again."""
    other = second(disk)
    paths = disk.machine.paths
    array = existing(disk, other)
    intents = [array_intent(one, disk, other, level=-1) for one in (disk, other)]
    volumes = [(one.device, intent) for one, intent in zip((disk, other), intents)]
    node = disk.machine.disks[2]

    def make_on(target: Array) -> None:
        destroy.make_filesystem(
            paths, target, volumes, type="xfs", uuid=FS, label="KRKN-data"
        )

    with pytest.raises(KrakenError, match="no intent record"):
        make_on(array)
    for device, intent in volumes:
        destroy.write_record(paths, device, intent, MEMBER)
        destroy.write_record(paths, device, intent, MEMBER)

    for wrong in (
        replace(array, uuid=OTHER),
        replace(array, devno="9:99"),
        replace(array, name="md99"),
    ):
        before = [one.digest() for one in disk.machine.disks]
        with pytest.raises(KrakenError) as caught:
            make_on(wrong)
        assert caught.value.trouble.kind in (
            "array-changed",
            "record-refused",
            "device-changed",
        )
        assert [one.digest() for one in disk.machine.disks] == before

    node.put(50 * MIB, b"half made, by somebody else")
    before = [one.digest() for one in disk.machine.disks]
    with pytest.raises(KrakenError) as caught:
        make_on(array)
    assert caught.value.trouble.kind == "content-refused"
    assert [one.digest() for one in disk.machine.disks] == before
    node.put(50 * MIB, bytes(4096))

    # half made by ourselves: what mkfs.xfs writes first
    argv = rehearsal.command_line(
        "xfs", node.path, rehearsal.geometry(paths, array), uuid=FS
    )
    assert kill_at(argv, 5) != 0
    assert not isinstance(probe.look(node.path).content, Blank)
    make_on(array)
    assert probe.look(node.path).content == Known("xfs", FS, "KRKN-data")
    for device, intent in volumes:
        destroy.erase_record(paths, device, intent, MEMBER)
    for one in (disk, other):
        assert not any(one.get(MEMBER, 4096))
    assert isinstance(disk.look(), Known)


@pytest.mark.parametrize(
    "change",
    [
        lambda disk: disk.put(8 * MIB, b"data"),
        lambda disk: disk.put(disk.single, record.encode(disk.intent())),
        lambda disk: disk.machine.disks[-1].write("md/array_state", "inactive"),
        lambda disk: disk.machine.disks[-1].write("dev", "9:99"),
    ],
    ids=["data", "a record", "an array that does not run", "another array"],
)
def test_no_member_is_added(change: Act, disk: Disk) -> None:
    prepare, act = READY["add_member"]
    prepare(disk)
    change(disk)
    before = [one.digest() for one in disk.machine.disks]
    command.STARTED.clear()
    with pytest.raises(KrakenError) as caught:
        act(disk)
    refused = ("content-refused", "record-refused", "array-changed")
    assert caught.value.trouble.kind in refused
    assert "mdadm" not in command.STARTED
    assert [one.digest() for one in disk.machine.disks] == before


@pytest.mark.parametrize("offset", [256 << 10, 516 << 10])
def test_no_record_where_a_member_has_no_room(offset: int, disk: Disk) -> None:
    """An array of an old mdadm, whose data begins early."""
    _, block = crafted.md1(disk.device.size, data_offset=offset)
    disk.put(4096, block)
    act = READY["write_record of a member"][1]
    if offset > MEMBER + 4095:
        act(disk)
        assert disk.get(MEMBER, 4096) == record.encode(array_intent(disk, disk))
    else:
        refused(disk, "content-refused", act)


def test_no_record_on_a_member_of_another_array(disk: Disk) -> None:
    foreign_superblock(disk)
    refused(disk, "content-refused", READY["write_record of a member"][1])


class HalfArray:
    """What udev put together of the members of a creation that was cut off: a
    loop device stands for the array, with md's entries in sysfs."""

    def __init__(self, machine: Machine, state: str) -> None:
        self.disks = [machine.disk(), machine.disk()]
        self.records = [array_intent(disk, *self.disks) for disk in self.disks]
        for disk, intent in zip(self.disks, self.records):
            half_member(disk, intent)
        self.array = machine.disk()
        shutil.rmtree(self.array.sysfs / "device")
        for name, text in (
            ("array_state", state),
            ("uuid", ARRAY),
            ("raid_disks", "2"),
            *((f"dev-{disk.name}/slot", "0") for disk in self.disks),
        ):
            self.array.write(f"md/{name}", text)
        for disk in self.disks:
            (disk.sysfs / "holders" / self.array.name).mkdir()

    def stop(self) -> str:
        """The kind of the refusal; "command-failed" is mdadm's own word, who
        finds no array: nothing held it back."""
        array = Array(
            self.array.name,
            self.array.path,
            self.array.devno,
            ARRAY,
            "raid1",
            2,
            tuple(disk.name for disk in self.disks),
            "inactive",
        )
        volumes = [
            (disk.device, intent) for disk, intent in zip(self.disks, self.records)
        ]
        paths = self.array.machine.paths
        with pytest.raises(KrakenError) as caught:
            destroy.stop_array(paths, array, volumes)
        return caught.value.trouble.kind


STOPPED: dict[str, tuple[str, Callable[[HalfArray], object], str]] = {
    "inactive": ("inactive", lambda half: None, "command-failed"),
    "running, blank": ("clean", lambda half: None, "command-failed"),
    "running, with data": (
        "clean",
        lambda half: half.array.put(8 * MIB, b"data"),
        "content-refused",
    ),
    "running, with a filesystem": (
        "clean",
        lambda half: subprocess.run(["mkfs.ext4", "-q", half.array.path], check=True),
        "content-refused",
    ),
    "data on a member": (
        "inactive",
        lambda half: half.disks[1].put(8 * MIB, b"data"),
        "content-refused",
    ),
    "no record on a member": (
        "inactive",
        lambda half: half.disks[1].put(MEMBER, bytes(4096)),
        "record-refused",
    ),
    "another serial": (
        "inactive",
        lambda half: wrong_serial(half.disks[1]),
        "device-changed",
    ),
    "somebody else's disk in it": (
        "inactive",
        lambda half: half.array.write("md/dev-sdz/slot", "1"),
        "array-changed",
    ),
    "renumbered": (
        "inactive",
        lambda half: half.array.write("dev", "9:99"),
        "array-changed",
    ),
}


@pytest.mark.parametrize("name", STOPPED)
def test_stop_array(name: str, machine: Machine) -> None:
    state, prepare, kind = STOPPED[name]
    half = HalfArray(machine, state)
    prepare(half)
    before = [disk.digest() for disk in machine.disks]
    assert half.stop() == kind
    assert [disk.digest() for disk in machine.disks] == before


# ------------------------------------------------------------------ overwrite

CONTENTS: dict[str, Act] = {
    "data": lambda disk: disk.put(8192, os.urandom(8192)),
    "ext4": lambda disk: subprocess.run(["mkfs.ext4", "-q", disk.path], check=True),
    "xfs": lambda disk: subprocess.run(["mkfs.xfs", "-q", disk.path], check=True),
    "btrfs": lambda disk: subprocess.run(["mkfs.btrfs", "-q", disk.path], check=True),
    "md": foreign_superblock,
    "gpt": lambda disk: [disk.put(*part) for part in crafted.gpt(GIB)],
    "lvm": lambda disk: disk.put(*crafted.lvm(GIB)),
    "end": lambda disk: disk.put(GIB - 512, os.urandom(512)),
    "deep data": lambda disk: [
        disk.put(offset * MIB + 333, os.urandom(MIB)) for offset in range(20, 1000, 20)
    ],
}


@pytest.mark.parametrize("name", soon(("data", "ext4", "gpt"), CONTENTS, LATER))
def test_overwrite_of_exactly_this_content(name: str, disk: Disk) -> None:
    """One byte more, and the permission is void; with it, the whole way goes."""
    paths, intent = disk.machine.paths, disk.intent("ext4")
    CONTENTS[name](disk)
    seen = fingerprint(disk)
    disk.put(12 * MIB, b"\x01")
    refused(
        disk,
        "content-refused",
        lambda disk: destroy.wipe(paths, disk.device, seen),
    )
    disk.put(12 * MIB, b"\x00")
    destroy.wipe(paths, disk.device, seen)
    assert isinstance(disk.look(), (Blank, Unknown))
    place = disk.single
    destroy.write_record(paths, disk.device, intent, place, permitted=True)
    make(disk, intent, permitted=True)
    destroy.erase_record(paths, disk.device, intent, place)
    assert disk.look() == Known("ext4", FS, "KRKN-data")
    check_filesystem("ext4", disk)


@pytest.mark.parametrize("name", soon(("ext4", "md"), CONTENTS, LATER))
def test_overwrite_of_a_member_to_be(name: str, disk: Disk) -> None:
    """Its record comes after the wipe, at the place of a member."""
    paths = disk.machine.paths
    intent = array_intent(disk, disk, second(disk))
    CONTENTS[name](disk)
    destroy.wipe(paths, disk.device, fingerprint(disk))
    after = disk.look()
    assert isinstance(after, (Blank, Unknown))
    if isinstance(after, Unknown):
        # data that only samples see: nothing but the permission covers it
        refused(disk, "content-refused", READY["write_record"][1])
    destroy.write_record(paths, disk.device, intent, MEMBER, permitted=True)


class Cut(BaseException):
    """The power is gone."""


@contextmanager
def cut_at_write(number: int, torn: bool = False) -> Iterator[list[int]]:
    """The power fails at this write of ours, or within it; yields the count."""
    write, count = os.pwritev, [0]

    def counted(fd: int, buffers: Sequence[mmap.mmap], offset: int) -> int:
        count[0] += 1
        if count[0] != number:
            return write(fd, buffers, offset)
        if torn:
            # Sectors are written whole, in an order of the disk's own.
            half = len(buffers[0]) // 1024 * 512
            write(fd, [memoryview(buffers[0])[: half or 512]], offset)
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", counted)
        yield count


@pytest.mark.long
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs", "md", "gpt", "deep data"])
def test_a_wipe_that_was_cut_off_asks_for_a_new_fingerprint(
    name: str, torn: bool, machine: Machine
) -> None:
    """At every write of it: nothing is resumed, and what is left of a filesystem
    does not look like one."""
    disk = machine.disk()
    CONTENTS[name](disk)
    disk.flush()
    seen, before = fingerprint(disk), disk.look()
    kept = machine.base / "kept"
    subprocess.run(["cp", "--sparse=always", disk.file, kept], check=True)
    with cut_at_write(0) as count:
        destroy.wipe(machine.paths, disk.device, seen)
    for number in spread(count[0]):
        restore(disk, kept)
        with cut_at_write(number, torn), pytest.raises(Cut):
            destroy.wipe(machine.paths, disk.device, seen)
        look = probe.look(disk.path, volume_id=disk.volume_id, fingerprint=True)
        if look.content == before and isinstance(before, Known):
            assert look.fingerprint == seen, (number, "looks whole, and is not")
        elif name in registry.TYPES:
            assert not isinstance(look.content, Known), (number, look)
        if look.fingerprint == seen:
            continue
        refused(
            disk,
            "content-refused",
            lambda disk: destroy.wipe(machine.paths, disk.device, seen),
        )
        if isinstance(look.content, Unknown) and look.fingerprint:
            destroy.wipe(machine.paths, disk.device, look.fingerprint)
            assert not isinstance(disk.look(), Known)


def spread(count: int) -> list[int]:
    """A dozen of the numbers from 1 to ``count``, first and last ones."""
    ends = {*range(1, 6), *range(count - 2, count + 1)}
    some = {*ends, *range(1, count, max(1, count // 4))}
    return sorted(number for number in some if 0 < number <= count)


def restore(disk: Disk, kept: Path) -> None:
    subprocess.run(["blkdiscard", disk.path], check=True)
    with open(kept, "rb") as file:
        for extent in rehearsal.data_extents(str(kept)):
            file.seek(extent.start)
            disk.put(extent.start, file.read(extent.end - extent.start))


@pytest.mark.long
@pytest.mark.parametrize("kind", registry.TYPES)
def test_mkfs_that_was_killed_after_a_wipe(kind: str, machine: Machine) -> None:
    """Where samples still see what was given up, it is not done again: that was the
    permission of the run that was cut off."""
    disk = machine.disk()
    CONTENTS["deep data"](disk)
    intent = disk.intent(kind)
    destroy.wipe(machine.paths, disk.device, fingerprint(disk))
    destroy.write_record(
        machine.paths, disk.device, intent, disk.single, permitted=True
    )
    disk.put(rehearsal.extents(machine.paths, disk.device, intent)[0].start, b"half")
    refused(disk, "content-refused", lambda disk: make(disk, intent))
    refused(disk, "content-refused", lambda disk: make(disk, intent, permitted=True))


@pytest.mark.parametrize("name", ["data", "ext4", "xfs", "gpt", "md", "end"])
def test_permitted_alone_permits_nothing(name: str, disk: Disk) -> None:
    """Without the wipe, ``permitted`` is refused over any content."""
    CONTENTS[name](disk)
    intent = disk.intent("ext4")
    if name == "data":
        # Where mkfs.ext4 writes, data behind a record is half of its making:
        # with ``permitted`` and without.
        (start, *_) = sorted(
            set(range(0, 64 * MIB, 4096))
            - {
                at
                for extent in rehearsal.extents(disk.machine.paths, disk.device, intent)
                for at in range(extent.start, extent.end, 4096)
            }
        )
        disk.put(start, os.urandom(4096))
    refused(
        disk,
        "content-refused",
        lambda disk: destroy.write_record(
            disk.machine.paths, disk.device, intent, disk.single, permitted=True
        ),
    )
    disk.put(disk.single, record.encode(intent))
    refused(disk, "content-refused", lambda disk: make(disk, intent, permitted=True))


@pytest.mark.parametrize("wrong", ["", "0" * 64, "cut", "CAPITALS", "*"])
def test_another_fingerprint(wrong: str, disk: Disk) -> None:
    disk.put(8192, b"data")
    seen = fingerprint(disk)
    given = {"cut": seen[:-1], "CAPITALS": seen.upper()}.get(wrong, wrong)
    refused(
        disk,
        "content-refused",
        lambda disk: destroy.wipe(disk.machine.paths, disk.device, given),
    )


def test_blank_is_not_wiped(disk: Disk) -> None:
    refused(
        disk,
        "content-refused",
        lambda disk: destroy.wipe(disk.machine.paths, disk.device, "0" * 64),
    )
