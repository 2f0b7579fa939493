"""Others at work at the same time: a second run, disks that change under a run,
and a machine whose files cannot be written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.act.executor import Executor
from cc_kraken.boot import cloud_init, stage
from cc_kraken.decide.steps import (
    EraseRecords,
    MakeFilesystem,
    MountFilesystem,
    Step,
    WriteRecords,
)
from cc_kraken.proof import probe
from cc_kraken.state import layout
from tests.conftest import umount
from tests.loop.test_run import Machine, error_of, machine, states

__all__ = ["machine"]  # a fixture

pytestmark = pytest.mark.long


def test_two_runs_at_once(machine: Machine) -> None:
    """The second waits for the first, and finds nothing left to do."""
    volumes = [machine.volume("log"), machine.volume("data", FsType="xfs")]
    for letter, volume in zip("ab", volumes):
        machine.lab.attach_volume(volume, machine.id, f"/dev/xvdb{letter}")
    machine.lab.wait_until(
        lambda: all(
            machine.lab.volume(one).attachments[0].state == "attached"
            for one in volumes
        )
    )
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def run(name: str) -> None:
        # The status file is that of the last of them.
        try:
            answers.put(carry_out(machine, name))
        except BaseException as error:
            answers.put(error)

    runs = [context.Process(target=run, args=(name,)) for name in ("apply", "network")]
    for one in runs:
        one.start()
    found = [answers.get(timeout=300) for _ in runs]
    for one in runs:
        one.join()
    assert [one.exitcode for one in runs] == [0, 0]
    for status in found:
        assert states(status) == {"data": "mounted", "log": "mounted"}
    done = [[step for e in s["sets"].values() for step in e["done"]] for s in found]
    assert sorted(map(bool, done)) == [False, True]
    assert len(machine.lines()) == 2
    assert len(machine.mounted()) == 2


def carry_out(machine: Machine, name: str) -> Any:
    return stage.carry_out(
        machine.section(),
        machine.identity,
        machine.paths,
        cloud_init.Events(None).enter,
        name,
        seconds=600,
        dry_run=False,
    )


def serial(machine: Machine, path: str, volume: str) -> None:
    entry = Path(machine.paths.sys, "block", os.path.basename(path), "device/serial")
    entry.write_text(volume.replace("-", "") + "\n")


def until_there(machine: Machine, *volumes: str) -> None:
    """A set may be worked on before the disk of another one has come."""
    end = time.monotonic() + 20
    for volume in volumes:
        while True:
            try:
                machine.disk(volume)
                break
            except LookupError:
                assert time.monotonic() < end
                time.sleep(0.02)


def swapped(machine: Machine, one: str, other: str) -> Callable[[], None]:
    """Two volumes have taken each other's place; gives the way back."""
    first, second = machine.disk(one), machine.disk(other)

    def put(here: str, there: str) -> None:
        serial(machine, first, here)
        serial(machine, second, there)

    put(other, one)
    return lambda: put(one, other)


def vanished(machine: Machine, one: str, _other: str) -> Callable[[], None]:
    entry = Path(machine.paths.sys, "block", os.path.basename(machine.disk(one)))
    away = machine.base / "away"
    shutil.move(entry, away)

    def back() -> None:
        shutil.move(away, entry)

    return back


def renumbered(machine: Machine, one: str, _other: str) -> Callable[[], None]:
    entry = Path(machine.paths.sys, "block", os.path.basename(machine.disk(one)))
    number = (entry / "dev").read_text()
    (entry / "dev").write_text("259:77\n")

    def back() -> None:
        (entry / "dev").write_text(number)

    return back


@pytest.mark.parametrize("change", [swapped, vanished, renumbered])
@pytest.mark.parametrize(
    "before", [WriteRecords, MakeFilesystem, EraseRecords, MountFilesystem]
)
def test_a_disk_changes_between_the_look_and_the_step(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    before: type[Step],
    change: Callable[[Machine, str, str], Callable[[], None]],
) -> None:
    if (before, change) == (MountFilesystem, renumbered):
        pytest.skip("the node itself is as it was here; what is mounted is verified")
    volume = machine.volume("data", FsType="xfs")
    other = machine.volume("other", FsType="", MountPath="")
    one = Executor._one
    seen: dict[str, str] = {}

    def changing(self: Executor, step: Step) -> None:
        if isinstance(step, before) and not seen:
            until_there(machine, volume, other)
            seen.update(machine.digest(volume, other))
            back = change(machine, volume, other)
            try:
                one(self, step)
            finally:
                back()
        else:
            one(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_one", changing)
        status = machine.run()
    entry = status["sets"]["data"]
    assert seen and entry["state"] != "mounted", entry
    kind = error_of(status, "data")
    assert kind in ("device-changed", "device-missing"), entry["error"]
    assert machine.digest(volume, other) == seen
    again = machine.run()
    assert states(again)["data"] == "mounted", again["sets"]["data"]["error"]
    assert machine.mounted() == {machine.path("data"): machine.disk(volume)}
    assert probe.look(machine.disk(volume), volume_id=volume).record is None


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_an_fstab_that_cannot_be_written(machine: Machine, how: str) -> None:
    """Said in a sentence; what others wrote into it stays; the next run ends it."""
    machine.volume("log")
    etc = machine.paths.etc
    with ExitStack() as stack:
        words = ["-t", "tmpfs", "-o", "size=64k", "none", etc]
        subprocess.run(["mount", *words], check=True)
        stack.callback(umount, Path(etc))
        theirs = "/dev/vda1 / ext4 defaults 0 1"
        Path(machine.paths.fstab).write_text(theirs)  # without a newline
        ballast = Path(etc, "ballast")
        if how == "full":
            with open(ballast, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
        else:
            subprocess.run(["mount", "-o", "remount,ro", etc], check=True)
        status = machine.run()
        assert status["sets"]["log"]["error"]["kind"] != "internal-error"
        assert status["state"] == "failed", status["sets"]["log"]
        assert machine.fstab == theirs
        if how == "full":
            ballast.unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", etc], check=True)
        assert states(machine.run()) == {"log": "mounted"}
        assert machine.lines()[0] == theirs and len(machine.lines()) == 2


@pytest.mark.parametrize("options", ["ro", "nr_inodes=1"])
def test_a_state_directory_that_takes_no_file(machine: Machine, options: str) -> None:
    """What is kept there saves a boot time: the sets are up without it."""
    machine.volume("log")
    os.makedirs(machine.paths.state)
    words = ["-t", "tmpfs", "-o", options, "none", machine.paths.state]
    subprocess.run(["mount", *words], check=True)
    try:
        status = machine.run()
        assert states(status) == {"log": "mounted"} and status["state"] == "done"
        assert any(machine.paths.state in text for text in status["warnings"])
        assert layout.load(machine.paths) is None
    finally:
        umount(Path(machine.paths.state))
    status = machine.run()
    assert status["warnings"] == [] and layout.load(machine.paths) is not None
