"""A set is mounted when its own devices are what one sees at its mount path.

Whole runs on loop devices, as in ``test_run.py``.  What other programs do
between the check and mount(2) is done by a stand-in for ``command.run``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cc_kraken import cli
from cc_kraken.machine import command
from cc_kraken.state import layout
from tests.conftest import umount
from tests.loop import test_run as whole
from tests.loop.test_changes import retag
from tests.loop.test_interference import swapped, until_there
from tests.loop.test_run import Machine, error_of, ext4, states

pytestmark = pytest.mark.long

machine = whole.machine

Wait = Callable[[str], int]


@pytest.fixture
def wait(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Wait:
    """``cc-kraken wait SET`` on this machine; its exit status."""
    monkeypatch.setattr(cli, "Paths", lambda: machine.paths)
    monkeypatch.setattr(command, "SYSTEMD", str(machine.base / "no-systemd"))
    return lambda name: cli.main(["wait", name])


def message(status: dict[str, Any], name: str) -> str:
    return str(status["sets"][name]["error"]["message"])


def tmpfs(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "somebody", path], check=True)


def lies_on(path: str, device: str) -> bool:
    """Whether what one writes at ``path`` lands on this device."""
    return os.stat(path).st_dev == os.stat(device).st_rdev


def uuid_of(device: str) -> str:
    words = ["blkid", "-p", "-s", "UUID", "-o", "value", device]
    return subprocess.check_output(words, text=True).strip()


# -------------------------------------------------------------------- hidden


def test_a_parent_that_comes_late_is_not_mounted_over_a_set(
    machine: Machine, wait: Wait
) -> None:
    inner = machine.path("pg/wal")
    wal = machine.volume("wal", MountPath=inner)
    assert states(machine.run()) == {"wal": "mounted"}
    ext4(machine, machine.volume("pg"))
    for _ in range(2):
        status = machine.run()
        assert states(status) == {"pg": "failed", "wal": "mounted"}
        assert error_of(status, "pg") == "mounts-below"
        assert inner in message(status, "pg") and "umount" in message(status, "pg")
        assert layout.load(machine.paths) is None
        assert len(machine.lines()) == 1, "a line for pg would hide wal at any time"
    assert lies_on(inner, machine.disk(wal))
    assert (wait("wal"), wait("pg")) == (0, 1)
    Path(inner, "segment").write_text("precious")

    umount(inner)
    assert states(machine.run()) == {"pg": "mounted", "wal": "mounted"}
    assert Path(inner, "segment").read_text() == "precious"
    assert (wait("wal"), wait("pg")) == (0, 0)
    assert layout.load(machine.paths) is not None


def test_a_set_below_what_was_mounted_over_it_is_not_up(
    machine: Machine, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = machine.path("pg/wal")
    machine.volume("wal", MountPath=inner)
    pg = machine.volume("pg")
    assert machine.run()["state"] == "done"
    machine.unmount()
    retag(machine, pg, NodeId="another")
    assert states(machine.run()) == {"wal": "mounted"}
    retag(machine, pg, NodeId="0")
    subprocess.run(["mount", machine.disk(pg), machine.path("pg")], check=True)
    assert (wait("wal"), wait("nonesuch")) == (1, 1)  # before any run has looked
    assert machine.path("pg") in capsys.readouterr().err
    for _ in range(2):
        status = machine.run()
        assert states(status) == {"pg": "mounted", "wal": "failed"}
        assert error_of(status, "wal") == "mount-hidden"
        assert f"umount {machine.path('pg')}" in message(status, "wal")
        assert layout.load(machine.paths) is None
    assert (wait("wal"), wait("pg")) == (1, 0)

    umount(machine.path("pg"))
    umount(inner)
    assert states(machine.run()) == {"pg": "mounted", "wal": "mounted"}


def test_a_tmpfs_over_a_set(machine: Machine, wait: Wait) -> None:
    machine.volume("data")
    path = machine.path("data")
    assert machine.run()["state"] == "done"
    saved = layout.load(machine.paths)
    assert saved is not None and layout.mounted(machine.paths, saved)
    tmpfs(path)
    assert wait("data") == 1, "the status of the run before does not count"
    assert not layout.mounted(machine.paths, saved)
    for _ in range(2):
        status = machine.run()
        assert states(status) == {"data": "failed"}
        assert error_of(status, "data") == "mount-hidden"
        assert "somebody" in message(status, "data")
        assert f"umount {path}" in message(status, "data")
        assert layout.load(machine.paths) is None
        assert wait("data") == 1
    umount(path)
    assert wait("data") == 1, "no run has found it up"
    assert states(machine.run()) == {"data": "mounted"}
    assert wait("data") == 0


def test_a_known_filesystem_is_not_mounted_over_somebody_s_mount(
    machine: Machine,
) -> None:
    ext4(machine, machine.volume("data"))
    inside = machine.path("data/cache/live")
    tmpfs(inside)
    Path(inside, "file").write_text("live")
    status = machine.run()
    assert error_of(status, "data") == "mounts-below"
    assert "somebody" in message(status, "data") and inside in message(status, "data")
    assert Path(inside, "file").read_text() == "live"
    assert list(machine.mounted()) == [inside] and machine.lines() == []
    umount(inside)
    assert states(machine.run()) == {"data": "mounted"}


def test_a_blank_volume_is_not_formatted_for_a_path_with_mounts_below(
    machine: Machine,
) -> None:
    volume = machine.volume("data")
    tmpfs(machine.path("data/live"))
    before = machine.digest(volume)
    assert error_of(machine.run(), "data") == "mounts-below"
    assert machine.digest(volume) == before


# ------------------------------------------------------- at another's path


def exchanged(machine: Machine) -> tuple[str, str]:
    """Two sets, each mounted at the other's path by lines with kernel names."""
    one, two = machine.volume("one"), machine.volume("two")
    assert machine.run()["state"] == "done"
    machine.unmount()
    lines = ""
    for volume, name in ((one, "two"), (two, "one")):
        lines += f"{machine.disk(volume)} {machine.path(name)} ext4 defaults 0 0\n"
        argv = ["mount", machine.disk(volume), machine.path(name)]
        subprocess.run(argv, check=True)
    Path(machine.paths.fstab).write_text(lines)
    return one, two


def by_fstab(machine: Machine) -> None:
    """Mount what fstab names, as a boot does."""
    for line in machine.lines():
        path = line.split()[1]
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-T", machine.paths.fstab, path], check=True)


def test_sets_that_are_mounted_at_each_other_s_path(
    machine: Machine, wait: Wait
) -> None:
    one, two = exchanged(machine)
    right = {
        f"UUID={uuid_of(machine.disk(volume))} {machine.path(name)}"
        for volume, name in ((one, "one"), (two, "two"))
    }
    for number in range(2):
        status = machine.run()
        assert status["state"] == "failed"
        assert states(status) == {"one": "failed", "two": "failed"}
        for name, other in (("one", "two"), ("two", "one")):
            assert error_of(status, name) == "mounted-elsewhere"
            text = message(status, name)
            assert machine.path(name) in text and machine.path(other) in text
            assert f"the path of the set {other}" in text
            assert "reboot" in text
            done = status["sets"][name]["done"]
            assert len(done) == (0 if number else 1)
            assert wait(name) == 1
        # Each line is right by now: the next boot is.
        assert {" ".join(line.split()[:2]) for line in machine.lines()} == right
        assert layout.load(machine.paths) is None
    machine.unmount()
    by_fstab(machine)
    status = machine.run()
    assert (status["state"], set(states(status).values())) == ("done", {"mounted"})
    assert machine.mounted() == {
        machine.path("one"): machine.disk(one),
        machine.path("two"): machine.disk(two),
    }
    assert (wait("one"), wait("two")) == (0, 0)


def test_a_set_that_is_mounted_where_nobody_wants_it(
    machine: Machine, wait: Wait
) -> None:
    volume = machine.volume("data")
    ext4(machine, volume)
    machine.lab.attach_volume(volume, machine.id, "/dev/sdf")
    until_there(machine, volume)
    os.mkdir(machine.path("by-hand"))
    argv = ["mount", machine.disk(volume), machine.path("by-hand")]
    subprocess.run(argv, check=True)
    for _ in range(2):
        status = machine.run()
        assert error_of(status, "data") == "mounted-elsewhere"
        assert f"umount {machine.path('by-hand')}" in message(status, "data")
        assert wait("data") == 1
    (line,) = machine.lines()
    assert line.split()[1] == machine.path("data")
    umount(machine.path("by-hand"))
    assert states(machine.run()) == {"data": "mounted"}


@pytest.mark.parametrize("evidence", ["status", "layout", "fstab"])
def test_a_path_that_changes_is_told_where_it_is(
    machine: Machine, wait: Wait, evidence: str
) -> None:
    """Whichever file still tells that the set was put there by us."""
    volume = machine.volume("data")
    machine.run()
    old, new = machine.path("data"), machine.path("new")
    (line,) = machine.lines()
    if evidence != "status":
        os.unlink(machine.paths.status)
    if evidence != "layout":
        os.unlink(machine.paths.layout)
    if evidence != "fstab":
        Path(machine.paths.fstab).write_text("")
    retag(machine, volume, MountPath=new)
    for _ in range(3):
        status = machine.run()
        assert (status["state"], states(status)) == ("done", {"data": "mounted"})
        assert status["sets"]["data"]["mount_path"] == old
        assert any("next reboot" in text for text in status["warnings"])
        assert layout.load(machine.paths) is None, "it is not where it belongs"
        assert wait("data") == 0
    machine.unmount()
    by_fstab(machine)
    status = machine.run()
    assert status["sets"]["data"]["mount_path"] == new
    assert layout.load(machine.paths) is not None


def test_a_path_that_changes_to_that_of_another_set_which_stays(
    machine: Machine, wait: Wait
) -> None:
    """Its old path is wanted by another set: a service of that one would start on
    the wrong data."""
    volume = machine.volume("data")
    machine.run()
    other = machine.volume("other", MountPath=machine.path("data"))
    ext4(machine, other)
    retag(machine, volume, MountPath=machine.path("new"))
    status = machine.run()
    assert states(status) == {"data": "failed", "other": "failed"}
    assert error_of(status, "data") == "mounted-elsewhere"
    assert error_of(status, "other") == "mount-path-busy"
    assert (wait("data"), wait("other")) == (1, 1)


# --------------------------------------------- between the check and mount(2)


@pytest.fixture
def before_mount(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something when mount(8) has been asked to mount (``after``: has done)."""
    run = command.run

    def set_up(do: Callable[[], object], *, after: bool = False) -> None:
        def stand_in(argv: Sequence[str], **more: Any) -> command.Finished:
            mounting = argv[0] == "mount" and not done
            if mounting:
                done.append(True)
            if mounting and not after:
                do()
            finished = run(argv, **more)
            if mounting and after:
                do()
            return finished

        done: list[bool] = []
        monkeypatch.setattr(command, "run", stand_in)

    return set_up


BeforeMount = Callable[..., None]


def data(machine: Machine) -> str:
    """A set that is to be mounted, with a known filesystem; its volume."""
    volume = machine.volume("data")
    ext4(machine, volume)
    os.mkdir(machine.path("data"))
    return volume


def test_a_directory_that_is_exchanged_for_a_link(
    machine: Machine, before_mount: BeforeMount
) -> None:
    data(machine)
    path, moved, other = (machine.path(name) for name in ("data", "moved", "other"))
    os.mkdir(other)

    def exchange() -> None:
        os.rename(path, moved)
        os.symlink(other, path)

    before_mount(exchange)
    status = machine.run()
    assert error_of(status, "data") == "mount-differs"
    assert machine.mounted() == {}
    os.unlink(path)
    os.rename(moved, path)
    assert states(machine.run()) == {"data": "mounted"}


def test_a_parent_that_is_exchanged_for_a_link(
    machine: Machine, before_mount: BeforeMount
) -> None:
    """What is unmounted again is found by the directory, wherever it is now."""
    volume = machine.volume("data", MountPath=machine.path("above/data"))
    ext4(machine, volume)
    above, moved, other = (machine.path(name) for name in ("above", "moved", "other"))
    os.makedirs(f"{above}/data")
    os.makedirs(f"{other}/data")
    tmpfs(f"{other}/data")

    def exchange() -> None:
        os.rename(above, moved)
        os.symlink(other, above)

    before_mount(exchange)
    assert error_of(machine.run(), "data") == "mount-differs"
    assert list(machine.mounted()) == [f"{other}/data"], "somebody's stays"


@pytest.fixture
def nodes(machine: Machine) -> Iterator[Path]:
    """The machine has its device nodes in a directory of its own."""
    directory = machine.base / "dev"
    directory.mkdir()
    machine.paths = replace(machine.paths, dev=str(directory))
    plug = machine.plug

    def plugged(volume_id: str, serial: str = "") -> str:
        name = os.path.basename(plug(volume_id, serial))
        subprocess.run(["cp", "-a", f"/dev/{name}", directory], check=True)
        return str(directory / name)

    machine.plug = plugged  # type: ignore[method-assign]
    yield directory


def test_a_name_that_leads_to_another_disk(
    machine: Machine, nodes: Path, before_mount: BeforeMount
) -> None:
    volume, other = data(machine), machine.volume("other", FsType="", MountPath="")
    ext4(machine, other)

    def exchange() -> None:
        until_there(machine, volume, other)
        mine, theirs = (
            nodes / os.path.basename(machine.disk(one)) for one in (volume, other)
        )
        mine.rename(nodes / "away")
        theirs.rename(mine)
        (nodes / "away").rename(theirs)

    before_mount(exchange)
    status = machine.run()
    assert error_of(status, "data") == "mount-differs"
    assert machine.mounted() == {}


def test_a_name_that_another_volume_has_now(
    machine: Machine, before_mount: BeforeMount
) -> None:
    """The kernel gives names and numbers again: the serial tells."""
    machine.wait = 10.0
    volume, other = data(machine), machine.volume("other", FsType="", MountPath="")

    def exchange() -> None:
        until_there(machine, volume, other)
        swapped(machine, volume, other)

    before_mount(exchange)
    status = machine.run()
    assert error_of(status, "data") == "device-changed"
    assert machine.mounted() == {}


def test_a_mount_that_comes_below_the_path_is_not_hidden(
    machine: Machine, before_mount: BeforeMount
) -> None:
    data(machine)
    inside = machine.path("data/live")
    before_mount(lambda: tmpfs(inside))
    assert error_of(machine.run(), "data") == "mounts-below"
    assert list(machine.mounted()) == [inside]
    Path(inside, "file").write_text("seen")


def test_a_mount_that_comes_at_the_path_is_not_covered(
    machine: Machine, before_mount: BeforeMount
) -> None:
    data(machine)
    before_mount(lambda: tmpfs(machine.path("data")))
    assert error_of(machine.run(), "data") == "mount-path-busy"
    assert machine.mounted() == {machine.path("data"): "somebody"}
    umount(machine.path("data"))
    assert machine.mounted() == {}


def test_what_somebody_mounts_over_it_is_not_unmounted(
    machine: Machine, before_mount: BeforeMount
) -> None:
    data(machine)
    before_mount(lambda: tmpfs(machine.path("data")), after=True)
    status = machine.run()
    assert error_of(status, "data") == "mount-differs"
    assert "somebody" in message(status, "data")
    assert machine.mounted() == {machine.path("data"): "somebody"}
