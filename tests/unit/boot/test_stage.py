"""The module as cloud-init calls it: what leaves it, and what it leaves."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cc_kraken import handle
from cc_kraken.act import run
from cc_kraken.boot import cloud_init, configured, stage
from cc_kraken.config import loading
from cc_kraken.machine import command, systemd
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, KrakenError, Trouble
from cc_kraken.state import layout, lock, report
from cc_kraken.state.report import Report
from tests.unit.program import Program, go, hours_pass
from tests.unit.tree import GIB, Tree

__all__ = ["go"]  # a fixture

ROOT = Path(__file__).parents[3]
VOLUME = "vol-00000000000000001"
ME = "i-00000000000000001"
ON: dict[str, Any] = {"kraken": {"boot_wait": 1, "ec2": {"region": "us-east-1"}}}
BOTH = {**ON, "cloud_final_modules": [["kraken", "always"]]}
WRONG = {"kraken": {"volumez": {}}}
SOURCE = SimpleNamespace(
    cloud_name="aws",
    metadata={"instance-id": ME, "placement": {"availability-zone": "us-east-1a"}},
    identity={},
    region="us-east-1",
)


def cloud(reporter: str = "init-network/config-kraken", source: Any = SOURCE) -> Any:
    return SimpleNamespace(
        datasource=source, reporter=SimpleNamespace(fullname=reporter)
    )


FINAL = cloud("modules-final/config-kraken")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    paths = replace(made.paths, instance=str(tmp_path / "instance"))
    made.paths = paths
    monkeypatch.setattr(stage, "Paths", lambda: paths)
    monkeypatch.setattr(command, "SYSTEMD", str(tmp_path / "no-systemd"))
    below = ("etc/cc-kraken/conf.d", "instance/kraken.d")
    places = tuple(str(tmp_path / name) for name in below)
    monkeypatch.setattr(configured, "DIRECTORIES", places)
    monkeypatch.setattr(configured, "STATUS", paths.status)
    monkeypatch.setattr(stage, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(stage, "ALIVE_EVERY", 0.05)
    monkeypatch.setattr(stage, "MOUNT_GRACE", 0.2)
    return made


def told(tree: Tree) -> dict[str, Any]:
    found = report.read(tree.paths)
    assert found is not None
    return found


def write(tree: Tree, name: str, state: str, **sets: str) -> None:
    """A status as a run of this stage would leave it."""
    made = Report(tree.paths, name)
    for key, value in sets.items():
        made.set(key)["state"] = value
    made.status["calls"] = {"DescribeVolumes": 1} if sets else {}
    made.status["state"] = state
    made.write()


# ----------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("cfg", "given"),
    [
        ({}, cloud()),
        ({}, FINAL),
        (ON, cloud(source=SimpleNamespace(cloud_name="azure"))),
        ({"kraken": {"enabled": False}}, FINAL),
    ],
)
def test_silence(tree: Tree, cfg: dict[str, Any], given: Any) -> None:
    handle("kraken", cfg, given, None, [])
    assert not os.path.exists(tree.paths.status)


def test_switched_off(tree: Tree) -> None:
    cfg = {"kraken": {"enabled": False}}
    handle("kraken", cfg, cloud(), None, [])
    assert told(tree)["state"] == "off"
    handle("kraken", cfg, FINAL, None, [])


def test_a_mistake_in_a_section_that_is_switched_off_is_a_warning(
    tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    """Else cloud-init says that all is well, and nothing is mounted."""
    tree.write("etc/cc-kraken/conf.d/image.yaml", "kraken: {enabled: false}\n")
    handle("kraken", {"kraken": {"enabeld": True}}, cloud(), None, [])
    status = told(tree)
    (text,) = status["warnings"]
    assert text.startswith("Switched off, and wrong: [config-unknown-key] kraken.ena")
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == [
        text
    ]
    (note,) = status["notes"]
    assert note.startswith("Switched off by enabled: false in ")
    assert note.endswith("/etc/cc-kraken/conf.d/image.yaml.")
    assert status["state"] == "off"


def test_every_calling_convention(tree: Tree) -> None:
    off = {"kraken": {"enabled": False}}
    for positional, named in (
        (("kraken", off, cloud(), None, []), {}),
        (("kraken", off, cloud(), []), {}),
        ((), {"name": "kraken", "cfg": off, "cloud": cloud(), "args": []}),
    ):
        handle(*positional, **named)
        assert told(tree)["state"] == "off"
        os.unlink(tree.paths.status)
    with pytest.raises(RuntimeError):
        handle()


def test_where_nobody_asks_nothing_is_imported(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle("kraken", {}, cloud(), None, [])
    assert not os.path.exists(tree.paths.run)
    monkeypatch.setitem(sys.modules, "cc_kraken.boot.stage", None)
    handle("kraken", {}, cloud(), None, [])
    tree.write("etc/cc-kraken/conf.d/README", "")
    handle("kraken", {}, FINAL, None, [])
    tree.write("etc/cc-kraken/conf.d/image.yaml", "")
    with pytest.raises(ImportError):
        handle("kraken", {}, cloud(), None, [])
    with pytest.raises(ImportError):
        handle("kraken", {"kraken": None}, cloud(), None, [])


def test_on_another_cloud_nothing_is_imported(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cc_kraken.boot.stage", None)
    other = cloud(source=SimpleNamespace(cloud_name="azure"))
    handle("kraken", {"kraken": {}}, other, None, [])
    with pytest.raises(ImportError):
        handle("kraken", {"kraken": {}}, None, None, [])


def test_the_stub_looks_where_the_configuration_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = Paths()
    assert paths.status == configured.STATUS
    assert loading.KEY == configured.KEY
    seen: list[str] = []

    def no_files(directory: str) -> tuple[str, ...]:
        seen.append(directory)
        return ()

    monkeypatch.setattr(loading, "_files", no_files)
    assert loading.load({}, paths) is None
    assert sorted(seen) == sorted(configured.DIRECTORIES)


def test_a_module_that_ends_the_process_on_import(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = ModuleType("cc_kraken.boot.stage")

    def end(_name: str) -> None:
        raise SystemExit(3)

    ends.__dict__["__getattr__"] = end
    monkeypatch.setitem(sys.modules, "cc_kraken.boot.stage", ends)
    with pytest.raises(RuntimeError, match="SystemExit"):
        handle("kraken", {"kraken": {}}, cloud(), None, [])


# -------------------------------------------------------------- what is wrong


def test_a_wrong_section_is_one_error_in_the_last_entry(tree: Tree) -> None:
    with pytest.raises(RuntimeError, match="volumez"):
        handle("kraken", WRONG, cloud(), None, [])
    assert told(tree)["state"] == "failed"
    listed = {**WRONG, "cloud_final_modules": ["kraken"]}
    handle("kraken", listed, cloud(), None, [])
    with pytest.raises(RuntimeError, match="volumez"):
        handle("kraken", listed, FINAL, None, [])


def test_a_wrong_section_by_hand_takes_down_no_set_that_is_up(tree: Tree) -> None:
    """Else whoever waits for the set would be told that there is none."""
    write(tree, "background", "done", data="attached", log="pending")
    with pytest.raises(RuntimeError, match="volumez"):
        handle("kraken", WRONG, cloud("single/kraken"), None, [])
    status = told(tree)
    assert status["state"] == "failed" and list(status["sets"]) == ["data"]
    assert status["earlier"][0]["stage"] == "background"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("SystemExit(1)", "SystemExit(1)"),
        ("KeyboardInterrupt()", "KeyboardInterrupt()"),
        ("ValueError('odd')", "ValueError('odd')"),
        ("MemoryError()", "MemoryError()"),
        ("KrakenError(Trouble('kind', 'Found this', 'that', 'Do so.'))", "Found this"),
    ],
)
@pytest.mark.parametrize("given", [cloud(), cloud("single/kraken")])
def test_whatever_happens_is_one_runtime_error_and_leaves_nothing_behind(
    tree: Tree, go: Program, given: Any, error: str, words: str
) -> None:
    go(f"""
        os.umask(0o777)
        os.chdir("/dev")
        os.environ["LEFT"] = "behind"
        del os.environ["PATH"]
        socket.setdefaulttimeout(3)
        threading.Thread(target=threading.Event().wait).start()
        raise {error}
    """)
    umask = os.umask(0o027)
    gc.collect()  # what tests before this one have left open is closed now
    before = process_state()
    try:
        with pytest.raises(RuntimeError) as caught:
            handle("kraken", ON, given, None, [])
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert words in repr(caught.value) == str(caught.value)
    assert process_state() == before
    assert told(tree)["state"] == "failed"
    assert os.stat(tree.paths.run).st_mode & 0o777 == 0o755


def process_state() -> tuple[object, ...]:
    """What cloud-init goes on with."""
    numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    return (
        dict(os.environ),
        os.getcwd(),
        socket.getdefaulttimeout(),
        threading.enumerate(),
        {number: signal.getsignal(number) for number in numbers},
        [
            (name, logger.level, logger.propagate, list(logger.handlers))
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger)
        ],
        sorted(os.listdir("/proc/self/fd")),
    )


def test_no_region_and_no_credentials_are_sentences(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(RuntimeError, match="credentials"):
        handle("kraken", ON, cloud(), None, [])


# ------------------------------------------------------------- the fast way


def reboot(tree: Tree) -> Identity:
    """A machine that has rebooted: everything is where it was."""
    tree.disk(1, VOLUME.replace("-", ""))
    tree.mount("/data", tree.number("nvme1n1"), "ext4", "/dev/nvme1n1")
    identity = cloud_init.identity(SOURCE)
    section = stage.loading.load(ON, tree.paths)
    assert section is not None
    saved = {
        "version": 1,
        "instance_id": ME,
        "digest": layout.digest(section, identity),
        "node": {"prefix": "kafka", "node_id": "0"},
        "sets": {
            "data": {
                "mount_path": "/data",
                "volumes": [VOLUME],
                "sizes": {VOLUME: GIB},
                "required": True,
                "filesystem": {"type": "ext4", "uuid": "u", "label": ""},
                "array": None,
            }
        },
    }
    tree.write("state/layout.json", json.dumps(saved))
    return identity


FAST = """
import sys
from types import ModuleType, SimpleNamespace

sys.path.insert(0, {root!r})
from cc_kraken import handle; from cc_kraken.boot import stage
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths

paths = Paths(**{paths!r})
stage.Paths = lambda: paths
command.SYSTEMD = "/nonexistent"
cloud = SimpleNamespace(
    datasource=SimpleNamespace(**{source!r}),
    reporter=SimpleNamespace(fullname="init-network/config-kraken"),
)
handle("kraken", {cfg!r}, cloud, None, [])
heavy = {{"boto3", "botocore", "cc_kraken.act.run", "cc_kraken.cloud.ec2"}}
heavy &= set(sys.modules)
assert not heavy, heavy
"""


def test_a_reboot_with_everything_in_place_imports_no_boto3(tree: Tree) -> None:
    reboot(tree)
    program = FAST.format(
        root=str(Path(__file__).parents[3]),
        paths=vars(tree.paths),
        source=vars(SOURCE),
        cfg=ON,
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    found = told(tree)
    assert (found["state"], found["stage"]) == ("done", "network")
    assert found["sets"]["data"]["state"] == "mounted" and found["calls"] == {}


COPY = "vol-0c0c0c0c0c0c0c0c0"


@pytest.mark.parametrize("where", ["disk", "partition", "array"])
def test_a_copy_is_named_on_the_fast_way(tree: Tree, where: str) -> None:
    """No call, no disk asked: udev has read them all by then."""
    reboot(tree)
    tree.disk(2, COPY.replace("-", ""), partitions=["nvme2n1p1"], holders=["md127"])
    tree.array("md127", ["nvme2n1"])
    shown = {"disk": "nvme2n1", "partition": "nvme2n1p1", "array": "md127"}
    number = tree.number(shown[where])
    tree.write(f"udev/data/b{number}", "S:x\nE:ID_FS_UUID=u\nE:ID_FS_TYPE=ext4\n")
    handle("kraken", ON, cloud(), None, [])
    found = told(tree)
    assert (found["state"], found["stage"]) == ("done", "network")
    assert found["sets"]["data"]["state"] == "mounted" and found["calls"] == {}
    (said,) = found["sets"]["data"]["warnings"]
    assert said in found["warnings"]
    assert said.startswith(f"data: {COPY} (")
    assert f"{shown[where]}) has the same ext4 UUID u as {VOLUME}" in said


def test_other_disks_are_no_copies_on_the_fast_way(tree: Tree) -> None:
    reboot(tree)
    tree.disk(0, "vol0f0f0f0f0f0f0f0f0")
    tree.mount("/boot", tree.number("nvme0n1"), "ext4", "/dev/nvme0n1")
    tree.disk(2, COPY.replace("-", ""))
    tree.write(f"udev/data/b{tree.number('nvme2n1')}", "E:ID_FS_UUID=v\n")
    for name in ("nvme0n1", "nvme1n1"):
        tree.write(f"udev/data/b{tree.number(name)}", "E:ID_FS_UUID=u\n")
    handle("kraken", ON, cloud(), None, [])
    assert told(tree)["warnings"] == []


def test_the_fast_way_is_not_taken_when_something_is_missing(
    tree: Tree, go: Program
) -> None:
    reboot(tree)
    (tree.base / "proc/self/mountinfo").write_text(
        "20 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
    )
    go("""
        self.report.set("asked")["state"] = "mounted"
        self.report.finish("done")
    """)
    handle("kraken", ON, cloud(), None, [])
    assert told(tree)["stage"] == "network" and "asked" in told(tree)["sets"]


def test_a_path_that_has_changed_in_fstab_is_not_waited_for(
    tree: Tree, go: Program, mocker: MockerFixture
) -> None:
    reboot(tree)
    (tree.base / "proc/self/mountinfo").write_text(
        "20 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
        f"21 20 {tree.number('nvme1n1')} / /new rw - ext4 /dev/nvme1n1 rw\n"
    )
    go("""
        self.report.set("asked")["state"] = "mounted"
        self.report.finish("done")
    """)
    clock = mocker.patch.object(stage, "time", HandTime())
    handle("kraken", ON, cloud(), None, [])
    assert "asked" in told(tree)["sets"] and clock.now == 0


def test_a_run_that_hangs_is_left_behind(
    tree: Tree,
    go: Program,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, reads = tree.base / "disk", tree.base / "reads"
    os.mkfifo(disk)
    go(f"""
        self.report.set("data", required=True)
        self.report.write()
        os.mkdir({str(reads)!r})
        LOG.warning("The disk does not answer.")
        with open({str(disk)!r}) as disk:
            disk.read()
        self.report.finish("done")
    """)
    hours_pass(monkeypatch, reads)
    with pytest.raises(RuntimeError, match="data is not up yet"):
        handle("kraken", ON, cloud(), None, [])
    (error,) = [one for one in caplog.records if one.levelname == "ERROR"]
    said = error.getMessage()
    assert "is still going after 301 s. The boot continues" in said and "dmesg" in said
    # It has the lock as long as it lasts, and ends by itself.
    assert stage.at_work(tree.paths)
    disk.write_text("an answer")
    assert stage.join(tree.paths, 30)["state"] == "done"


def test_a_run_that_was_killed_is_handed_over(
    tree: Tree, go: Program, caplog: pytest.LogCaptureFixture
) -> None:
    go("""
        self.report.set("data", required=True)
        self.report.write()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    with pytest.raises(RuntimeError, match="data is not up yet"):
        handle("kraken", ON, cloud(), None, [])
    (error,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "killed by signal 9" in error.getMessage()
    assert not stage.at_work(tree.paths)


@pytest.mark.parametrize(
    "error",
    ["OSError(28, 'full')", "KrakenError(Trouble('kind', 'Found this', '', ''))"],
)
def test_a_run_that_could_not_be_carried_through_is_handed_over(
    tree: Tree, go: Program, mocker: MockerFixture, error: str
) -> None:
    """It is an error of this boot, and the unit tries again all the same."""
    go(f"raise {error}")
    mocker.patch.object(command, "SYSTEMD", str(tree.base))
    done = command.Finished((), 0, "", "")
    started = mocker.patch.object(command, "run", return_value=done)
    with pytest.raises(RuntimeError, match="full|Found this"):
        handle("kraken", BOTH, cloud(), None, [])
    words = ["systemctl", "start", "--no-block", "cc-kraken.service"]
    started.assert_called_once_with(words)


# ------------------------------------------------------------------ joining

FINISHED: list[tuple[str, str, dict[str, str], bool]] = [
    ("network", "done", {"a": "mounted"}, False),
    ("network", "pending", {"a": "pending"}, False),
    ("background", "running", {}, False),
    ("background", "running", {"a": "mounted", "b": "pending"}, False),
    ("background", "running", {"a": "mounted", "b": "failed"}, True),
    ("background", "done", {"a": "mounted"}, True),
    ("background", "failed", {}, True),
    ("apply", "done", {"a": "mounted"}, True),
]


@pytest.mark.parametrize(("name", "state", "sets", "expected"), FINISHED)
def test_when_the_background_knows(
    tree: Tree, name: str, state: str, sets: dict[str, str], expected: bool
) -> None:
    write(tree, name, state, **sets)
    assert stage.finished(told(tree)) is expected


def test_what_an_earlier_run_found_is_no_look_of_the_background(tree: Tree) -> None:
    write(tree, "network", "done", a="mounted")
    Report(tree.paths, "background", earlier=told(tree)).write()
    assert told(tree)["sets"]["a"]["state"] == "mounted"
    assert not stage.finished(told(tree))


def test_joining_ends_when_nobody_is_at_work(tree: Tree) -> None:
    write(tree, "network", "pending", data="pending")
    status = stage.join(tree.paths, 60)
    assert status["errors"][0]["kind"] == "background-ended"
    with pytest.raises(RuntimeError, match="cc-kraken.service"):
        handle("kraken", BOTH, FINAL, None, [])


def test_without_systemd_there_is_nothing_to_join_when_all_is_up(tree: Tree) -> None:
    write(tree, "network", "done", data="mounted")
    assert stage.join(tree.paths, 60)["errors"] == []
    handle("kraken", BOTH, FINAL, None, [])


def at_work(tree: Tree, then: Callable[[], None]) -> threading.Thread:
    """A run that holds the lock for a while, and leaves something."""
    begun = threading.Event()

    def work() -> None:
        with lock.held(tree.paths, 5):
            begun.set()
            threading.Event().wait(0.4)
            then()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(5)
    return thread


def test_joining_a_run_that_is_at_work(tree: Tree) -> None:
    write(tree, "network", "pending", data="pending")
    thread = at_work(tree, lambda: write(tree, "background", "done", data="mounted"))
    assert stage.at_work(tree.paths)
    handle("kraken", BOTH, FINAL, None, [])
    thread.join()
    assert not stage.at_work(tree.paths)


def test_joining_starts_no_process_while_the_lock_is_held(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tree, "network", "pending", data="pending")
    started: list[object] = []
    monkeypatch.setattr(command, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(stage, "ALIVE_EVERY", 0.02)
    monkeypatch.setattr(stage, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(stage.command, "run", started.append)
    with lock.held(tree.paths, 5):
        assert stage.join(tree.paths, 0.2)["state"] == "pending"
    assert started == []


class HandTime:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("before", "seconds"), [("done", 60), ("pending", 600)])
def test_an_ec2_that_is_silent_does_not_hold_a_boot_with_all_in_place(
    tree: Tree, mocker: MockerFixture, before: str, seconds: float
) -> None:
    """A reboot while EC2 is down, or the permission for DescribeTags is gone."""
    write(tree, "network", before, data="mounted")
    Report(tree.paths, "background", earlier=told(tree)).write()
    with lock.held(tree.paths, 5):
        clock = mocker.patch.object(stage, "time", HandTime())
        stage.join(tree.paths, 600)
    assert round(clock.now) == seconds


def test_joining_has_an_end(tree: Tree) -> None:
    write(tree, "background", "running", data="pending")
    thread = at_work(tree, lambda: None)
    status = stage.join(tree.paths, 0.1)
    thread.join()
    assert "data is not up yet" in str(stage.failures(status, pending=True))


def test_a_section_that_came_too_late(tree: Tree) -> None:
    both = {**BOTH, "cloud_init_modules": ["mounts", ["kraken", "always"]]}
    with pytest.raises(RuntimeError, match="came after the module's turn"):
        handle("kraken", both, FINAL, None, [])


def test_an_instance_that_nobody_knows_is_said_in_both_stages(tree: Tree) -> None:
    """Not that the section came too late."""
    source = SimpleNamespace(cloud_name="aws", metadata={"instance-id": ME})
    cfg = {**BOTH, "cloud_init_modules": [["kraken", "always"]]}
    for reporter in ("init-network/config-kraken", "modules-final/config-kraken"):
        with pytest.raises(RuntimeError, match="instance-unknown"):
            handle("kraken", cfg, cloud(reporter, source), None, [])


def test_listed_in_the_final_stage_only(tree: Tree) -> None:
    with pytest.raises(RuntimeError, match="cc-kraken enable"):
        handle("kraken", BOTH, FINAL, None, [])


# ----------------------------------------------------------------- failures


def status(tree: Tree, state: str, **sets: dict[str, Any]) -> dict[str, Any]:
    made = Report(tree.paths, "apply")
    for name, changes in sets.items():
        made.set(name).update(changes)
    made.status["state"] = state
    return made.status


def test_failures(tree: Tree) -> None:
    up = {"state": "mounted"}
    failed = {"state": "failed", "error": {"message": "refused"}}
    waiting = {"state": "pending", "reason": "for a volume"}
    text = stage.failures
    assert text(status(tree, "done", a=up), pending=True) is None
    assert text(status(tree, "failed", a=failed), pending=False) == "a: refused"
    soft = {**failed, "required": False}
    assert text(status(tree, "done", a=up, b=soft), pending=True) is None
    later = status(tree, "pending", a=up, b=waiting)
    assert text(later, pending=False) is None
    assert text(later, pending=True) == "b is not up yet: for a volume"
    assert "not finished" in str(text(status(tree, "pending"), pending=True))
    assert text(status(tree, "failed"), pending=False) == "the run failed"


@pytest.mark.parametrize("ends", ["done", "killed"])
@pytest.mark.parametrize("reporter", ["init-network", "single"])
def test_phases_are_reported_by_cloud_inits_own_process(
    tree: Tree,
    go: Program,
    monkeypatch: pytest.MonkeyPatch,
    reporter: str,
    ends: str,
) -> None:
    """A reporter's threads (webhook) are in no other one."""
    entered: list[Any] = []
    enter = cloud_init.Events.enter

    def entering(self: cloud_init.Events, phase: Any) -> None:
        entered.append(phase)
        enter(self, phase)

    monkeypatch.setattr(cloud_init.Events, "enter", entering)
    go(f"""
        self.entered("attach")
        self.entered("mount")
        if {ends!r} == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        self.entered(None)
        self.report.finish("done")
    """)
    with contextlib.suppress(RuntimeError):
        handle("kraken", ON, cloud(f"{reporter}/kraken"), None, [])
    assert entered[:3] == ["attach", "mount", None] and not any(entered[3:])


def test_two_runs_at_once(tree: Tree) -> None:
    thread = at_work(tree, lambda: None)
    with pytest.raises(KrakenError) as caught, lock.held(tree.paths, 0):
        raise AssertionError("both have the lock")
    assert caught.value.trouble.kind == "run-locked"
    with lock.held(tree.paths, 5):
        thread.join()


def test_a_lock_that_cannot_be_made_is_a_sentence(tree: Tree) -> None:
    """As where /run is full, or read-only."""
    os.makedirs(tree.paths.lock)
    with pytest.raises(KrakenError) as caught, lock.held(tree.paths, 0):
        pass
    assert caught.value.trouble.kind == "cannot-write"
    assert tree.paths.lock in caught.value.trouble.found


def test_a_background_that_never_had_the_lock_says_so(tree: Tree) -> None:
    """The run of the network stage hangs: who waits for a set must not, too."""
    write(tree, "network", "running", data="pending")
    section = stage.loading.load(ON, tree.paths)
    assert section is not None
    with lock.held(tree.paths, 5), pytest.raises(KrakenError, match="at work"):
        stage.carry_out(
            section,
            cloud_init.identity(SOURCE),
            tree.paths,
            cloud_init.Events(None).enter,
            "background",
            seconds=0.1,
        )
    found = told(tree)
    assert (found["stage"], found["state"]) == ("background", "failed")
    (error,) = found["errors"]
    assert error["kind"] == "run-locked"


def plan(tree: Tree, cfg: dict[str, Any]) -> None:
    section = stage.loading.load(cfg, tree.paths)
    assert section is not None
    stage.carry_out(
        section,
        cloud_init.identity(SOURCE),
        tree.paths,
        cloud_init.Events(None).enter,
        "plan",
        seconds=0,
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("waits", "proof", "looks"),
    [(True, "sampled", True), (False, "sampled", False), (True, "full", False)],
)
def test_a_plan_works_while_another_run_does_nothing_but_wait(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, waits: bool, proof: str, looks: bool
) -> None:
    """A proof of every byte would keep that run from the disks for too long."""
    other = Report(tree.paths, "background")
    other.waiting("a volume is late" if waits else None)
    other.write()
    monkeypatch.setattr(run.Run, "go", lambda self: "done")
    cfg = {"kraken": {**ON["kraken"], "blank_proof": proof}}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.held(tree.paths, 5))
        if not looks:
            stack.enter_context(pytest.raises(KrakenError, match="run-locked"))
        plan(tree, cfg)
    assert told(tree)["stage"] == "background", "the plan left no status"


def test_a_plan_works_while_the_background_waits_in_a_warm_pool(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock for days, and looks at no disk."""
    Report(tree.paths, "background").standby(True)
    monkeypatch.setattr(run.Run, "go", lambda self: "standby")
    with lock.held(tree.paths, 5):
        plan(tree, ON)
    assert told(tree)["state"] == "standby"


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", ["network", "single", "background"])
def test_what_a_run_could_not_make_systemd_read_the_next_one_does(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, name: str, fails: bool
) -> None:
    """Before anything else, whatever there is to do."""
    seen: list[str] = []

    def reload() -> bool:
        seen.append("reload")
        if fails:
            raise KrakenError(Trouble("command-failed", "systemctl failed", "", ""))
        return True

    monkeypatch.setattr(systemd, "reload", reload)
    monkeypatch.setattr(run.Run, "go", lambda self: seen.append("run"))
    section = stage.loading.load(ON, tree.paths)
    assert section is not None
    identity = cloud_init.identity(SOURCE)
    enter = cloud_init.Events(None).enter
    Path(tree.paths.run).mkdir()
    Path(tree.paths.unread).touch()
    for _ in range(2):
        status = stage.carry_out(section, identity, tree.paths, enter, name, seconds=1)
    if fails:
        # it is no reason not to look after the volumes, and is tried again
        assert seen == ["reload", "run"] * 2
        assert "systemctl failed" in str(status["warnings"])
    else:
        assert seen == ["reload", "run", "run"]


def test_who_has_the_lock_and_what_that_one_waits_for(
    tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    write(tree, "background", "running")
    text = "EC2 has no volume that is tagged with KRKN-IN:NodeId=0"
    held = told(tree) | {"waiting_for": text}
    Path(tree.paths.status).write_text(json.dumps(held))
    thread = at_work(tree, lambda: None)
    caplog.set_level("INFO")
    with pytest.raises(KrakenError) as caught, lock.held(tree.paths, 0.2):
        raise AssertionError("both have the lock")
    said = str(caught.value)
    assert "cc-kraken.service" in said and text in said
    assert "systemctl stop cc-kraken.service" in said
    # And at once, not only when the patience is over.
    (first,) = [r for r in caplog.records if "cc-kraken.service" in r.getMessage()]
    assert text in first.getMessage()
    thread.join()


def test_paths_are_the_machine_s_own() -> None:
    assert Paths().status == "/run/cc-kraken/status.json"


def test_a_plan_that_brings_nothing_up_is_no_failure(tmp_path: Path) -> None:
    told = report.Report(Paths(run=str(tmp_path)), "apply", dry_run=True)
    told.set("data")["state"] = "planned"
    told.finish(report.DONE)
    assert stage.failures(told.status, pending=True) is None
    told.status["dry_run"] = False
    assert stage.failures(told.status, pending=True) is not None
