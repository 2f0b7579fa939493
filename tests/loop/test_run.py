"""A whole run without a virtual machine: from AttachVolume to a mounted
filesystem.

EC2 is the lab's on loopback; its attach hook plugs a loop device, and writes
what sysfs would show of an NVMe disk below a directory.  Everything else is
the machine's own: reads, mkfs, mount, mountinfo.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid5

import pytest
from pytest_mock import MockerFixture

from cc_kraken import cli
from cc_kraken.act.executor import Executor
from cc_kraken.act.run import Run
from cc_kraken.boot import cloud_init, stage
from cc_kraken.decide.case import NAMESPACE
from cc_kraken.decide.steps import (
    Attach,
    EraseRecords,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    SetOwner,
    Step,
    Wipe,
    WriteFstab,
    WriteRecords,
)
from cc_kraken.filesystems import registry
from cc_kraken.machine import files, mount_points, systemd
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Ec2Options,
    Extent,
    Identity,
    Known,
    KrakenError,
    Node,
    PathState,
    Record,
    Section,
    Trouble,
)
from cc_kraken.proof import probe, record
from cc_kraken.state import layout, report
from cc_kraken.storage.make import Held
from tests.conftest import attach, umount
from tests.lab.ec2 import Ec2Lab
from tests.loop.test_destroy import FS, digest
from tests.unit.tree import index

pytest.importorskip("boto3")
pytestmark = pytest.mark.long

ZONE = "us-east-1a"
GIB, MIB = 1 << 30, 1 << 20
SCHEMA = Path(__file__).parents[2] / "schema" / "status.json"
NODE = Node("kafka", "0")


class Machine:
    """One instance of the lab's EC2, with its disks, /etc and /run."""

    def __init__(self, base: Path, stack: ExitStack, *loop_options: str) -> None:
        self.base = base
        self.stack = stack
        self.loop_options = loop_options
        self.paths = Paths(
            sys=str(base / "sys"),
            etc=str(base / "etc"),
            run=str(base / "run"),
            state=str(base / "state"),
            udev=str(base / "udev"),
        )
        for name in ("sys/block", "etc", "volumes"):
            (base / name).mkdir(parents=True)
        # Not below /tmp, which is one of the system's own directories.
        self.mounts = Path(tempfile.mkdtemp(prefix="cc-kraken-", dir="/srv"))
        stack.callback(shutil.rmtree, self.mounts)
        self.lab = stack.enter_context(Ec2Lab(on_attach=self._plug))
        self.id = self.lab.run_instance(zone=ZONE, tags=tags())
        self.wait = 60.0

    # ---- the hypervisor

    def file(self, volume_id: str) -> Path:
        """The content of a volume, whether it is attached or not."""
        path = self.base / "volumes" / volume_id
        if not path.exists():
            with open(path, "xb") as file:
                file.truncate(self.lab.volume(volume_id).size_gib * GIB)
        return path

    def _plug(self, instance_id: str, volume_id: str, _device: str) -> None:
        if instance_id == self.id:
            self.plug(volume_id)

    def plug(self, volume_id: str, serial: str = "") -> str:
        """A disk with the serial of this volume (or another's)."""
        path = attach(self.file(volume_id), *self.loop_options)
        self.stack.callback(subprocess.run, ["losetup", "--detach", path])
        name = os.path.basename(path)
        number = os.stat(path).st_rdev
        below = self.base / "new" / name
        (below / "device").mkdir(parents=True)
        (below / "holders").mkdir()
        size = self.file(volume_id).stat().st_size // 512
        for entry, text in (
            ("dev", f"{os.major(number)}:{os.minor(number)}"),
            ("size", str(size)),
            ("ro", "0"),
            ("device/serial", (serial or volume_id).replace("-", "")),
        ):
            (below / entry).write_text(f"{text}\n")
        below.rename(self.base / "sys" / "block" / name)
        index(self.base / "sys", name)
        return path

    def disk(self, volume_id: str) -> str:
        """The device of an attached volume."""
        serial = volume_id.replace("-", "")
        for entry in (self.base / "sys" / "block").iterdir():
            if (entry / "device/serial").read_text().strip() == serial:
                return f"/dev/{entry.name}"
        raise LookupError(volume_id)

    def volume(self, name: str, size: int = 1, **more: str) -> str:
        """A new volume of the set ``name``."""
        more.setdefault("FsType", "ext4")
        more.setdefault("MountPath", self.path(name))
        wanted = {key: value for key, value in more.items() if value}
        own = tags(VolumeName=name, VolumeSize=str(size), **wanted)
        return self.lab.create_volume(1, ZONE, own)

    def path(self, name: str) -> str:
        return str(self.mounts / name)

    def digest(self, *volumes: str) -> dict[str, str]:
        """Of every byte of these volumes."""
        found = {}
        for volume in volumes:
            path = self.file(volume)
            subprocess.run(["sync", "-f", str(path)], check=True)
            found[volume] = digest(path)
        return found

    # ---- the module

    def section(self, **changes: Any) -> Section:
        options = Ec2Options(endpoint_url=self.lab.endpoint_url)
        base = Section(ec2=options, boot_wait=5, digest="1")
        return replace(base, **changes)

    @property
    def identity(self) -> Identity:
        return Identity(self.id, "us-east-1", ZONE, None)

    def run(
        self,
        name: str = "apply",
        *,
        dry_run: bool = False,
        wait: float | None = None,
        clock: Clock | None = None,
        **section: Any,
    ) -> dict[str, Any]:
        """One run; its status, which is what status.json holds."""
        status = stage.carry_out(
            self.section(**section),
            self.identity,
            self.paths,
            cloud_init.Events(None).enter,
            name,
            seconds=self.wait if wait is None else wait,
            dry_run=dry_run,
            clock=clock,
        )
        told: dict[str, Any] = json.loads(json.dumps(status))
        check_schema(told)
        if name != "plan":
            with open(self.paths.status, encoding="utf-8") as file:
                assert json.load(file) == told
        return told

    def mounted(self) -> dict[str, str]:
        """Mount path to source, of what lies below our directory."""
        found = {}
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            words = line.split()
            if words[4].startswith(str(self.mounts)):
                found[words[4]] = words[words.index("-") + 2]
        return found

    @property
    def fstab(self) -> str:
        return files.read_text(self.paths.fstab) or ""

    def unmount(self) -> None:
        """All of them, hidden ones too: the last one first."""
        while self.mounted():
            umount(list(self.mounted())[-1])

    def lines(self) -> list[str]:
        return [line for line in self.fstab.splitlines() if line]


def tags(**more: str) -> dict[str, str]:
    every = {"Prefix": NODE.prefix, "NodeId": NODE.node_id, **more}
    return {f"KRKN-IN:{key}": value for key, value in every.items()}


def check_schema(status: Mapping[str, Any]) -> None:
    import jsonschema

    jsonschema.Draft4Validator(json.loads(SCHEMA.read_text())).validate(status)


def states(status: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["state"] for name, entry in status["sets"].items()}


def error_of(status: Mapping[str, Any], name: str) -> str:
    return str(status["sets"][name]["error"]["kind"])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with ExitStack() as stack:
        made = Machine(tmp_path, stack)
        keys = made.lab.credentials(made.id)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
        monkeypatch.setenv("AWS_SESSION_TOKEN", keys["Token"])
        stack.callback(made.unmount)
        yield made


# ------------------------------------------------------------------ the story


def test_first_run_second_run_next_instance(machine: Machine) -> None:
    """Blank to mounted; then nothing to do; then the next instance goes on."""
    log = machine.volume("log", MountOptions="noatime")
    data = machine.volume("data", FsType="xfs", Owner="12", Mode="0750")
    first = machine.run()
    assert first["state"] == "done" and not first["errors"]
    assert states(first) == {"data": "mounted", "log": "mounted"}
    assert machine.mounted() == {
        machine.path("log"): machine.disk(log),
        machine.path("data"): machine.disk(data),
    }
    root = os.stat(machine.path("data"))
    assert (root.st_uid, root.st_mode & 0o7777) == (12, 0o750)
    assert machine.lab.calls.count("AttachVolume") == 2
    for line in machine.lines():
        fields = line.split()
        assert fields[0].startswith("UUID=") and "nofail" in fields[3]
    for volume in (log, data):
        seen = probe.look(machine.disk(volume), volume_id=volume)
        assert isinstance(seen.content, Known) and seen.record is None

    Path(machine.path("log"), "planted").write_text("still here")
    subprocess.run(["sync"], check=True)
    lines, mark = machine.lines(), machine.lab.calls.mark()
    layout_file = Path(machine.paths.layout).read_bytes()
    stamp = os.stat(machine.paths.fstab).st_mtime_ns
    second = machine.run("background")
    assert second["state"] == "done"
    assert [entry["done"] for entry in second["sets"].values()] == [[], []]
    assert machine.lab.calls.writes(mark) == []
    assert machine.lines() == lines
    assert os.stat(machine.paths.fstab).st_mtime_ns == stamp
    assert Path(machine.paths.layout).read_bytes() == layout_file
    assert second["earlier"][-1]["stage"] == "apply"

    machine.unmount()
    shutil.rmtree(machine.paths.etc)
    os.mkdir(machine.paths.etc)
    third = machine.run()
    assert states(third) == {"data": "mounted", "log": "mounted"}
    assert Path(machine.path("log"), "planted").read_text() == "still here"
    assert sorted(machine.lines()) == sorted(lines)
    done = [text for entry in third["sets"].values() for text in entry["done"]]
    assert not any(text.startswith(("make ext4", "make xfs")) for text in done)


def test_layout_is_what_makes_a_reboot_cheap(machine: Machine) -> None:
    machine.volume("log")
    machine.run()
    saved = layout.load(machine.paths)
    assert saved is not None
    assert layout.matches(saved, machine.section(), machine.identity)
    assert layout.mounted(machine.paths, saved)
    other = replace(machine.identity, instance_id="i-0fedcba9876543210")
    assert not layout.matches(saved, machine.section(), other)
    assert not layout.matches(saved, machine.section(digest="2"), machine.identity)
    machine.unmount()
    assert not layout.mounted(machine.paths, saved)
    assert layout.present(machine.paths, saved)


def test_a_dry_run_says_what_the_run_does_and_does_none_of_it(
    machine: Machine,
) -> None:
    volume = machine.volume("log")
    before = machine.digest(volume)
    plan = machine.run("plan", dry_run=True, wait=0)
    assert plan["sets"]["log"]["plan"] == [f"attach {volume}"]
    assert "where the volume is blank: ext4 is made" in plan["sets"]["log"]["outcomes"]
    assert machine.lab.calls.writes() == []

    device = "/dev/sdf"
    machine.lab.attach_volume(volume, machine.id, device)
    machine.lab.wait_until(
        lambda: machine.lab.volume(volume).attachments[0].state == "attached"
    )
    plan = machine.run("plan", dry_run=True, wait=0)
    said = plan["sets"]["log"]["plan"]
    assert len(said) == 6
    assert plan["sets"]["log"]["state"] == "planned"
    assert machine.digest(volume) == before
    assert machine.lab.calls.writes() == []
    assert machine.fstab == "" and machine.mounted() == {}
    assert os.listdir(machine.mounts) == []
    assert not os.path.exists(machine.paths.layout)
    assert not os.path.exists(machine.paths.status)
    assert machine.run()["sets"]["log"]["done"] == said


# ---------------------------------------------------------------- refusals


def put(machine: Machine, volume: str, offset: int, data: bytes) -> None:
    with open(machine.file(volume), "r+b") as file:
        file.seek(offset)
        file.write(data)


def ext4(machine: Machine, volume: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(machine.file(volume))], check=True)


def foreign_record(machine: Machine, volume: str) -> None:
    own = record.identity(NODE, "another", [volume])
    block = record.encode(Record(own, volume, "ext4", FS))
    put(machine, volume, record.single_place(GIB), block)


def copied_record(machine: Machine, volume: str) -> None:
    other = "vol-0123456789abcdef0"
    own = record.identity(NODE, "data", [other])
    block = record.encode(Record(own, other, "xfs", FS))
    put(machine, volume, record.single_place(GIB), block)


REFUSED = {
    "another filesystem": (ext4, "content-other"),
    "random bytes at 8 MiB": (
        lambda machine, volume: put(machine, volume, 8 * MIB, os.urandom(4096)),
        "content-unknown",
    ),
    "one byte at the end": (
        lambda machine, volume: put(machine, volume, GIB - 1, b"\1"),
        "content-unknown",
    ),
    "the record of another set": (foreign_record, "record-foreign"),
    "a record that a snapshot copied": (copied_record, "content-unknown"),
    "a partition table": (
        lambda machine, volume: subprocess.run(
            ["sfdisk", "-q", str(machine.file(volume))],
            input=b"label: gpt\n,512M\n",
            check=True,
        ),
        "content-other",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_content_keeps_every_byte_and_the_other_set_comes_up(
    machine: Machine, name: str
) -> None:
    prepare, kind = REFUSED[name]
    bad = machine.volume("data", FsType="xfs")
    machine.volume("log")
    prepare(machine, bad)  # type: ignore[no-untyped-call]
    before = machine.digest(bad)
    status = machine.run()
    assert status["state"] == "failed"
    assert states(status) == {"data": "failed", "log": "mounted"}
    assert error_of(status, "data") == kind
    assert machine.digest(bad) == before
    assert list(machine.mounted()) == [machine.path("log")]
    assert len(machine.lines()) == 1
    assert layout.load(machine.paths) is None
    text = stage.failures(status, pending=True)
    assert text is not None and text.startswith("data: ") and bad in text


def test_overwrite_names_exactly_that_content(machine: Machine) -> None:
    volume = machine.volume("data", FsType="xfs")
    ext4(machine, volume)
    error = machine.run()["sets"]["data"]["error"]["remedy"]
    mark = re.search(r"\{vol-\w+: ([0-9a-f]{64})\}", error)
    assert mark is not None
    wrong = {"data": {"overwrite": {volume: "0" * 64}}}
    before = machine.digest(volume)
    assert machine.run(volumes=wrong)["state"] == "failed"
    assert machine.digest(volume) == before
    right = {"data": {"overwrite": {volume: mark.group(1)}}}
    assert states(machine.run(volumes=right)) == {"data": "mounted"}
    machine.unmount()
    # The same permission once more is void, and there is nothing to permit.
    again = machine.run(volumes=right)
    assert states(again) == {"data": "mounted"}
    assert not any("make xfs" in text for text in again["sets"]["data"]["done"])


def test_files_in_the_mount_path(machine: Machine) -> None:
    volume = machine.volume("data")
    os.mkdir(machine.path("data"))
    Path(machine.path("data"), "precious").write_text("x")
    before = machine.digest(volume)
    assert error_of(machine.run(), "data") == "mount-path-files"
    assert machine.digest(volume) == before
    over = {"data": {"mount_over": True}}
    assert states(machine.run(volumes=over)) == {"data": "mounted"}


def test_what_else_is_mounted_at_the_path_stays(machine: Machine) -> None:
    volume = machine.volume("data")
    os.mkdir(machine.path("data"))
    subprocess.run(["mount", "-t", "tmpfs", "none", machine.path("data")], check=True)
    before = machine.digest(volume)
    assert error_of(machine.run(), "data") == "mount-path-busy"
    assert machine.digest(volume) == before
    assert machine.mounted() == {machine.path("data"): "none"}


def test_a_disk_that_cannot_be_read_at_first_is_read_again(
    machine: Machine, mocker: MockerFixture
) -> None:
    """Its reads fail for two seconds; the other set does not wait for it."""
    log, data = machine.volume("log"), machine.volume("data")
    other: list[float] = []
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        ends = other and time.monotonic() > other[0] + 2
        its = ""
        with contextlib.suppress(
            LookupError
        ):  # the other set is read before it is there
            its = machine.disk(log)
        if os.readlink(f"/proc/self/fd/{fd}") == its and not ends:
            if not other and machine.path("data") in machine.mounted():
                other.append(time.monotonic())
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    mocker.patch("os.preadv", preadv)
    status = machine.run()
    assert states(status) == {"data": "mounted", "log": "mounted"}
    assert machine.mounted()[machine.path("data")] == machine.disk(data)


def test_a_disk_that_cannot_be_read_in_time_is_no_content(
    machine: Machine, mocker: MockerFixture
) -> None:
    machine.volume("log")
    mocker.patch("os.preadv", side_effect=OSError(errno.EIO, "Input/output error"))
    status = machine.run(wait=2)
    assert error_of(status, "log") == "device-silent"
    remedy = status["sets"]["log"]["error"]["remedy"]
    assert "overwrite" not in remedy and "dmesg" in remedy


def test_two_disks_with_one_serial(machine: Machine) -> None:
    """Refused at once, in its own words, and nothing is attached for it."""
    volume = machine.volume("data")
    before = machine.digest(volume)
    twin = machine.volume("twin", FsType="", MountPath="")
    machine.lab.attach_volume(volume, machine.id, "/dev/sdf")
    machine.lab.wait_until(
        lambda: machine.lab.volume(volume).attachments[0].state == "attached"
    )
    machine.plug(twin, serial=volume)
    status = machine.run(wait=3)
    assert error_of(status, "data") == "device-duplicate"
    assert machine.digest(volume) == before


# ------------------------------------------------------------ half-made things


def intent(volume: str, kind: str) -> Record:
    """The record that a run writes on a blank volume of the set data."""
    own = record.identity(NODE, "data", [volume])
    uuid = str(uuid5(NAMESPACE, f"filesystem {own}"))
    return Record(own, volume, kind, uuid)


def finished_but_for_the_record(machine: Machine, volume: str, kind: str) -> None:
    mine = intent(volume, kind)
    argv = registry.of(kind).argv(str(machine.file(volume)), uuid=mine.fs_uuid)
    subprocess.run(argv, check=True)
    put(machine, volume, record.single_place(GIB), record.encode(mine))


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_run_that_was_cut_off_before_the_record_was_erased(
    machine: Machine, kind: str
) -> None:
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    status = machine.run()
    assert states(status) == {"data": "mounted"}
    assert status["sets"]["data"]["done"][1:3] == [
        f"erase the intent record on {volume}",
        f"make the directory {machine.path('data')}",
    ]


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_run_that_was_cut_off_within_mkfs(machine: Machine, kind: str) -> None:
    """Its remains are taken back, and it is made anew."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    # What was not written yet: inode tables, the root's inodes, all trees.
    start, end = {
        "ext4": (40 << 12, MIB),
        "xfs": (4096, MIB),
        "btrfs": (20 * MIB, 64 * MIB),
    }[kind]
    put(machine, volume, start, bytes(end - start))
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert any(
        text.startswith(f"make {kind} ") for text in status["sets"]["data"]["done"]
    )


@pytest.mark.parametrize("kind", registry.TYPES)
def test_a_filesystem_that_somebody_mounted_beside_our_record_is_kept(
    machine: Machine, kind: str
) -> None:
    """The run was cut off before it erased the record; a person mounted the
    filesystem by hand and used it, and the power failed."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    file = machine.file(volume)
    by_hand = machine.path("by-hand")
    os.mkdir(by_hand)
    loop = attach(file)
    try:
        subprocess.run(["mount", "-t", kind, loop, by_hand], check=True)
        Path(by_hand, "precious").write_text("a")
        subprocess.run(["sync", "-f", by_hand], check=True)
        cut = file.with_name("cut")
        subprocess.run(["cp", "--sparse=always", file, cut], check=True)
        umount(by_hand)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
        os.rmdir(by_hand)
    cut.rename(file)
    before = machine.digest(volume)
    status = machine.run()
    assert not any("make " + kind in text for text in status["sets"]["data"]["done"])
    if states(status) == {"data": "mounted"}:
        assert Path(machine.path("data"), "precious").read_text() == "a"
    else:
        assert machine.digest(volume) == before


class Cut(BaseException):
    """The power is gone."""


STEPS = (
    Attach,
    WriteRecords,
    MakeFilesystem,
    EraseRecords,
    MakeDirectory,
    WriteFstab,
    MountFilesystem,
    SetOwner,
)


@pytest.mark.parametrize("last", STEPS)
def test_cut_off_after_each_step_and_finished_by_the_next_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, last: type[Step]
) -> None:
    volume = machine.volume("data", FsType="xfs", Owner="12")
    one = Executor._one

    def until(self: Executor, step: Step) -> None:
        one(self, step)
        if isinstance(step, last):
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_one", until)
        with pytest.raises(Cut):
            machine.run()
    told = report.read(machine.paths)
    assert told is not None and told["state"] == "failed"
    if last is Attach:
        machine.lab.wait_until(
            lambda: machine.lab.volume(volume).attachments[0].state == "attached"
        )
    seen = probe.look(machine.disk(volume), volume_id=volume)
    assert (seen.record is not None) == (last in (WriteRecords, MakeFilesystem))
    status = machine.run()
    assert states(status) == {"data": "mounted"}
    assert status["sets"]["data"]["filesystem"]["uuid"] == intent(volume, "xfs").fs_uuid
    assert machine.mounted() == {machine.path("data"): machine.disk(volume)}
    assert len(machine.lines()) == 1
    assert os.stat(machine.path("data")).st_uid == 12
    assert probe.look(machine.disk(volume), volume_id=volume).record is None
    assert machine.lab.calls.count("AttachVolume") == 1


def new_fingerprint(machine: Machine, volume: str) -> dict[str, Any]:
    """What a run prints to give up what is on this volume now."""
    for proof in ("sampled", "full"):
        remedy = machine.run(blank_proof=proof)["sets"]["data"]["error"]["remedy"]
        mark = re.search(r"\{vol-\w+: ([0-9a-f]{64})\}", remedy)
        if mark is not None:
            return {"data": {"overwrite": {volume: mark.group(1)}}}
        assert "blank_proof: full" in remedy
    raise AssertionError(remedy)


@pytest.mark.parametrize(
    "last", ["inside", Wipe, WriteRecords, MakeFilesystem, EraseRecords]
)
def test_an_overwrite_that_was_cut_off(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, last: object
) -> None:
    """Nothing is resumed: what is left asks for a new fingerprint, until the
    filesystem is whole."""
    volume = machine.volume("data", FsType="xfs")
    for at in range(3 * MIB, GIB, 20 * MIB):
        put(machine, volume, at, os.urandom(MIB))
    permitted = new_fingerprint(machine, volume)
    one, zero = Executor._one, Held.zero

    def until(self: Executor, step: Step) -> None:
        one(self, step)
        if isinstance(last, type) and isinstance(step, last):
            raise Cut

    def zero_some(self: Held, extents: Sequence[Extent]) -> None:
        some = extents[:4] if last == "inside" else extents
        zero(self, some)
        if len(some) < len(extents):
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_one", until)
        patch.setattr(Held, "zero", zero_some)
        with pytest.raises(Cut):
            machine.run(volumes=permitted)
    seen = probe.look(machine.disk(volume), volume_id=volume)
    assert (seen.record is not None) == (last in (WriteRecords, MakeFilesystem))
    status = {}
    if last not in (MakeFilesystem, EraseRecords):
        before = machine.digest(volume)
        assert states(machine.run(volumes=permitted)) == {"data": "failed"}
        assert machine.digest(volume) == before
        status = {"volumes": new_fingerprint(machine, volume), "blank_proof": "full"}
        assert status["volumes"] != permitted
        assert machine.digest(volume) == before
    status = machine.run(**status)
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert probe.look(machine.disk(volume), volume_id=volume).record is None


def enlarge(machine: Machine, volume: str) -> None:
    """ModifyVolume to 3 GiB, on a volume that may be attached."""
    machine.lab.resize_volume(volume, 3)
    os.truncate(machine.file(volume), 3 * GIB)
    with contextlib.suppress(LookupError):
        disk = machine.disk(volume)
        subprocess.run(["losetup", "--set-capacity", disk], check=True)
        size = machine.base / "sys/block" / os.path.basename(disk) / "size"
        size.write_text(f"{3 * GIB // 512}\n")


@pytest.mark.parametrize("kind", registry.TYPES)
def test_enlarged_before_the_record_was_erased(machine: Machine, kind: str) -> None:
    """The filesystem says where its record lies: it is found and erased."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    enlarge(machine, volume)
    status = machine.run()
    assert states(status) == {"data": "mounted"}, status["sets"]["data"]["error"]
    assert f"erase the intent record on {volume}" in status["sets"]["data"]["done"]
    with open(machine.file(volume), "rb") as file:
        file.seek(record.single_place(GIB))
        assert not any(file.read(4096))


@pytest.mark.parametrize("share", ["nothing", "the superblock", "a part"])
@pytest.mark.parametrize("kind", registry.TYPES)
def test_enlarged_after_a_cut_within_mkfs(
    machine: Machine, kind: str, share: str
) -> None:
    """Made if nothing was written; else refused, though the superblock looks
    whole: never mounted half made, never formatted."""
    volume = machine.volume("data", FsType=kind)
    finished_but_for_the_record(machine, volume, kind)
    start, end = {
        "ext4": (40 << 12, MIB),
        "xfs": (4096, MIB),
        "btrfs": (20 * MIB, 64 * MIB),
    }[kind]
    if share == "a part":
        start, end = 0, {"ext4": 4096, "xfs": 512, "btrfs": 128 << 10}[kind]
    if share == "nothing":
        with open(machine.file(volume), "r+b") as file:
            file.truncate(0)
            file.truncate(GIB)
        mine = record.encode(intent(volume, kind))
        put(machine, volume, record.single_place(GIB), mine)
    else:
        put(machine, volume, start, bytes(end - start))
    enlarge(machine, volume)
    before = machine.digest(volume)
    status = machine.run()
    if states(status) == {"data": "mounted"}:
        assert share == "nothing"
        assert any(
            text.startswith(f"make {kind} ") for text in status["sets"]["data"]["done"]
        )
        return
    expected = {
        "nothing": "content-unknown",  # a sample has hit the record
        "the superblock": "record-unusable",
        "a part": "content-unknown",
    }
    assert error_of(status, "data") == expected[share]
    assert machine.digest(volume) == before


def test_nothing_is_mounted_over_what_somebody_else_just_mounted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd can react to the new fstab before we mount."""
    machine.volume("data")

    def reload() -> bool:
        path = machine.path("data")
        subprocess.run(["mount", "-t", "tmpfs", "other", path], check=True)
        return True

    monkeypatch.setattr(systemd, "reload", reload)
    status = machine.run()
    assert error_of(status, "data") == "mount-differs"
    assert machine.mounted() == {machine.path("data"): "other"}
    umount(machine.path("data"))
    assert machine.mounted() == {}


def test_a_path_that_cannot_be_looked_at_concerns_its_set_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = machine.volume("data")
    machine.volume("log")
    before = machine.digest(volume)
    path_state = mount_points.path_state

    def look(path: str) -> PathState:
        if path == machine.path("data"):
            raise KrakenError(Trouble("cannot-read", "an I/O error", "", ""))
        return path_state(path)

    monkeypatch.setattr(mount_points, "path_state", look)
    status = machine.run()
    assert states(status) == {"data": "failed", "log": "mounted"}
    assert error_of(status, "data") == "mount-path-kind"
    assert machine.digest(volume) == before


# -------------------------------------------------------- incomplete, nested


def test_a_set_that_is_not_complete_attaches_nothing(machine: Machine) -> None:
    for _ in range(2):
        machine.volume("data", size=3, RaidLevel="0")
    status = machine.run(wait=2)
    assert error_of(status, "data") == "members-missing"
    assert machine.lab.calls.writes() == []
    pending = machine.run("network", wait=2)
    assert (pending["state"], states(pending)) == ("pending", {"data": "pending"})
    assert stage.failures(pending, pending=False) is None
    assert "not up yet" in str(stage.failures(pending, pending=True))


def test_a_set_below_another_one_is_mounted_after_it(machine: Machine) -> None:
    machine.volume("pg")
    machine.volume("wal", MountPath=machine.path("pg/wal"))
    assert states(machine.run()) == {"pg": "mounted", "wal": "mounted"}
    assert list(machine.mounted()) == [machine.path("pg"), machine.path("pg/wal")]


def test_a_set_below_one_that_is_refused_does_not_wait_for_ever(
    machine: Machine,
) -> None:
    bad = machine.volume("pg")
    put(machine, bad, 4096, b"somebody's")
    machine.volume("wal", MountPath=machine.path("pg/wal"))
    status = machine.run(wait=20)
    assert states(status) == {"pg": "failed", "wal": "failed"}
    assert "pg" in status["sets"]["wal"]["error"]["message"]
    assert machine.mounted() == {}


def test_a_volume_without_fs_type_is_attached_and_left_alone(
    machine: Machine,
) -> None:
    volume = machine.volume("raw", FsType="", MountPath="")
    put(machine, volume, 0, os.urandom(4096))
    nameless = machine.lab.create_volume(1, ZONE, tags())
    before = machine.digest(volume, nameless)
    status = machine.run()
    assert set(states(status).values()) == {"attached"}
    assert status["state"] == "done"
    assert machine.digest(volume, nameless) == before


def test_volumes_without_fs_type_and_level_are_attached_and_left_alone(
    machine: Machine,
) -> None:
    volumes = [machine.volume("raw", size=2, FsType="", MountPath="") for _ in range(2)]
    before = machine.digest(*volumes)
    status = machine.run()
    assert states(status) == {"raw": "attached"}
    assert machine.digest(*volumes) == before


# --------------------------------------------------------------- what changes


def test_a_set_that_is_gone_loses_its_line_and_is_no_error(machine: Machine) -> None:
    gone = machine.volume("old")
    machine.volume("log")
    assert machine.run()["state"] == "done"
    assert len(machine.lines()) == 2
    machine.lab.untag(gone, "KRKN-IN:NodeId")
    still = machine.run()
    assert (still["state"], states(still)) == ("done", {"log": "mounted"})
    assert any("old" in text and "still mounted" in text for text in still["warnings"])
    assert len(machine.lines()) == 2
    umount(machine.path("old"))
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert stage.failures(status, pending=True) is None
    assert len(machine.lines()) == 1
    assert layout.load(machine.paths) is not None


def test_an_owner_that_comes_late(machine: Machine) -> None:
    machine.volume("log", Owner="nobody-of-this-name")
    status = machine.run("network")
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert "nobody-of-this-name" in status["sets"]["log"]["reason"]
    assert stage.failures(status, pending=True) is None
    waited = machine.run("background", wait=3)
    assert waited["state"] == "failed"
    assert error_of(waited, "log") == "owner-pending"


def test_an_owner_that_comes_late_and_a_set_below(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory that a run has made for it is nothing that somebody left there."""
    machine.volume("pg", Owner="latecomer")
    machine.volume("wal", MountPath=machine.path("pg/wal"))
    status = machine.run("network")
    assert states(status) == {"pg": "mounted", "wal": "mounted"}
    assert "latecomer" in str(status["sets"]["pg"]["reason"])
    monkeypatch.setattr(mount_points, "user_id", lambda _: 4711)
    monkeypatch.setattr(cli, "Paths", lambda: machine.paths)
    assert cli.main(["wait", "pg"]) == 0
    assert os.stat(machine.path("pg")).st_uid == 4711
    os.chown(machine.path("pg"), 0, 0)
    assert machine.run("background")["state"] == "done"
    assert os.stat(machine.path("pg")).st_uid == 4711
    os.chown(machine.path("pg"), 0, 0)
    Path(machine.path("pg"), "precious").touch()
    assert machine.run("background")["state"] == "done"
    assert os.stat(machine.path("pg")).st_uid == 0


def test_a_run_that_is_told_to_stop_begins_nothing(machine: Machine) -> None:
    volume = machine.volume("log")
    before = machine.digest(volume)
    clock = Clock()
    clock.stop()
    status = machine.run(clock=clock)
    assert status["state"] == "failed" and states(status)["log"] != "mounted"
    assert machine.lab.calls.writes() == [] and machine.digest(volume) == before
    assert states(machine.run()) == {"log": "mounted"}


def test_no_time_at_all_is_no_success(machine: Machine) -> None:
    machine.volume("log")
    status = machine.run("network", wait=0)
    assert (status["state"], states(status)) == ("pending", {"log": "pending"})


# --------------------------------------------------------------------- EC2


def test_throttled_and_unavailable_is_waited_out(machine: Machine) -> None:
    machine.volume("log")
    machine.lab.throttle("AttachVolume", calls=3)
    assert states(machine.run()) == {"log": "mounted"}
    machine.volume("data")
    machine.lab.unavailable("AttachVolume", calls=1)  # it was done all the same
    machine.lab.throttle("DescribeVolumes", calls=3)
    assert states(machine.run())["data"] == "mounted"
    assert machine.lab.calls.count("DetachVolume") == 0


def test_a_permission_that_is_missing_is_named(machine: Machine) -> None:
    machine.volume("log")
    machine.lab.forbid("AttachVolume")
    status = machine.run(wait=10)
    assert error_of(status, "log") == "permission-missing"
    assert "ec2:AttachVolume" in status["sets"]["log"]["error"]["message"]


def test_held_by_a_stranger_and_by_a_predecessor(machine: Machine) -> None:
    held, mine = machine.volume("data"), machine.volume("log")
    stranger = machine.lab.run_instance(zone=ZONE)
    machine.lab.attach_volume(held, stranger, "/dev/sdf")
    status = machine.run()
    assert states(status) == {"data": "failed", "log": "mounted"}
    assert error_of(status, "data") == "holder-running"
    assert machine.disk(mine)
    machine.lab.tag(stranger, tags())
    status = machine.run(wait=2)
    assert error_of(status, "data") == "holder-predecessor"
    assert machine.lab.calls.count("DetachVolume") == 0


def test_ec2_away_while_all_is_mounted(machine: Machine) -> None:
    """The run fails, but says of the set what is true: it is mounted."""
    machine.volume("log")
    machine.run("network")
    machine.lab.down("refuse")
    status = machine.run("background", wait=2)
    assert status["state"] == "failed"
    assert states(status) == {"log": "mounted"}


def test_the_background_knows_from_the_start_what_is_mounted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a service that needs a mounted set would wait for EC2."""
    machine.volume("log")
    machine.run("network")
    seen = []

    def look(self: Run) -> str:
        with open(self.paths.status, encoding="utf-8") as file:
            seen.append(json.load(file))
        return "failed"

    monkeypatch.setattr(Run, "_go", look)
    machine.run("background", wait=2)
    assert states(seen[0]) == {"log": "mounted"}
    assert seen[0]["state"] == "running"
    # Nobody has looked yet whether there are more sets.
    assert not stage.finished(seen[0])
