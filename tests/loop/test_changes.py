"""A node that changes, and one that another tool has set up: whole runs on
loop devices, as in ``test_run.py``.

What goat and kraken leave was measured: fstab lines by label, several times,
without ``nofail``, and labels that begin with the tag namespace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cc_kraken.machine import fstab
from cc_kraken.state import layout, report
from tests.conftest import attach, umount
from tests.loop import test_run as whole
from tests.loop.test_destroy import FS
from tests.loop.test_run import Machine, error_of, states

pytestmark = pytest.mark.long

machine = whole.machine

ROOT_LINE = "UUID=0000-root / ext4 errors=remount-ro 0 1\n"


def goat_tags(
    machine: Machine, namespace: str, name: str, fs_type: str
) -> dict[str, str]:
    every = {
        "Prefix": whole.NODE.prefix,
        "NodeId": whole.NODE.node_id,
        "VolumeName": name,
        "VolumeSize": "1",
        "RaidLevel": "0",
        "MountPath": machine.path(name),
        "FsType": fs_type,
    }
    return {f"{namespace}:{key}": value for key, value in every.items()}


def made_by_goat(machine: Machine, namespace: str, name: str, fs_type: str) -> str:
    """A volume with goat's tags, its filesystem and a file in it."""
    tags = goat_tags(machine, namespace, name, fs_type)
    volume = machine.lab.create_volume(1, whole.ZONE, tags)
    label = f"{namespace[:4]}-{name}"
    subprocess.run(
        [f"mkfs.{fs_type}", "-q", "-L", label, str(machine.file(volume))],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    there = machine.path("by-goat")
    os.mkdir(there)
    loop = attach(machine.file(volume))
    try:
        subprocess.run(["mount", "-t", fs_type, loop, there], check=True)
        Path(there, "file").write_text("from goat")
        umount(there)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
        os.rmdir(there)
    return volume


def goat_line(machine: Machine, label: str, name: str, fs_type: str) -> str:
    return f"LABEL={label} {machine.path(name)} {fs_type} defaults 0 1\n"


def blkid(device: str) -> tuple[str, str]:
    """UUID and label."""
    return tuple(
        subprocess.run(
            ["blkid", "-p", "-s", key, "-o", "value", device],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        for key in ("UUID", "LABEL")
    )  # type: ignore[return-value]


def attach_and_mount(machine: Machine, volume: str, name: str, fs_type: str) -> None:
    machine.lab.attach_volume(volume, machine.id, "/dev/sdf")
    machine.lab.wait_until(
        lambda: machine.lab.volume(volume).attachments[0].state == "attached"
    )
    os.mkdir(machine.path(name))
    argv = ["mount", "-t", fs_type, machine.disk(volume), machine.path(name)]
    subprocess.run(argv, check=True)


@pytest.mark.parametrize(
    ("namespace", "fs_type", "mounted"),
    [
        pytest.param("GOAT-IN", "ext4", True, id="goat, ext4, mounted"),
        pytest.param("GOAT-IN", "ext4", False, id="goat, ext4"),
        pytest.param("GOAT-IN", "xfs", True, id="goat, xfs, mounted"),
        pytest.param("GOAT-IN", "xfs", False, id="goat, xfs"),
        pytest.param("KRKN-IN", "ext4", False, id="kraken, ext4"),
    ],
)
def test_what_goat_has_set_up_is_taken_over(
    machine: Machine, namespace: str, fs_type: str, mounted: bool
) -> None:
    node = {f"{namespace}:Prefix": "kafka", f"{namespace}:NodeId": "0"}
    machine.lab.tag(machine.id, node)
    volume = made_by_goat(machine, namespace, "log", fs_type)
    label = f"{namespace[:4]}-log"
    line = goat_line(machine, label, "log", fs_type)
    with open(machine.paths.fstab, "w", encoding="utf-8") as file:
        file.write(f"{ROOT_LINE}{line}# from goat\n{line}{line}")
    if mounted:
        attach_and_mount(machine, volume, "log", fs_type)
    before = blkid(str(machine.file(volume)))
    status = machine.run(tag_namespace=namespace)
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert before[1] == label
    assert blkid(machine.disk(volume)) == before
    assert Path(machine.path("log"), "file").read_text() == "from goat"
    ours = fstab.entry("log", before[0], machine.path("log"), fs_type)
    assert machine.fstab == f"{ROOT_LINE}{fstab.render(ours)}\n# from goat\n"
    done = status["sets"]["log"]["done"]
    assert any(f"instead of LABEL={label}" in text for text in done)
    assert any("(3 lines)" in text for text in done)
    assert not any("make " + fs_type in text for text in done)
    assert status["sets"]["log"]["filesystem"]["label"] == label
    again = machine.run(tag_namespace=namespace)
    assert again["sets"]["log"]["done"] == []
    machine.unmount()
    table = ["-T", machine.paths.fstab]
    there = subprocess.run(
        ["findmnt", "--verify", *table], stdout=subprocess.PIPE, text=True
    )
    assert there.stdout.count(machine.path("log")) <= 1


def test_a_line_that_says_more_than_ours_stays_and_nothing_is_mounted_otherwise(
    machine: Machine,
) -> None:
    volume = made_by_goat(machine, "KRKN-IN", "log", "ext4")
    uuid, _ = blkid(str(machine.file(volume)))
    theirs = f"UUID={uuid} {machine.path('log')} ext4 noauto,ro,noload 0 0\n"
    Path(machine.paths.fstab).write_text(theirs)
    status = machine.run()
    assert error_of(status, "log") == "fstab-conflict"
    assert machine.fstab == theirs and machine.mounted() == {}
    remedy = status["sets"]["log"]["error"]["remedy"]
    assert "Take that line out" in remedy and "To keep ro, set MountOptions" in remedy
    # As it advises: by that line alone, or read-only by ours.
    retag(machine, volume, FsType="none")
    assert states(machine.run()) == {"log": "attached"}
    assert machine.fstab == theirs
    retag(machine, volume, FsType="ext4", MountOptions="ro")
    Path(machine.paths.fstab).write_text("")
    assert states(machine.run()) == {"log": "mounted"}
    assert ",ro" not in machine.fstab and " ro,nofail" in machine.fstab


def test_a_line_for_something_else_stops_only_what_is_not_mounted(
    machine: Machine,
) -> None:
    machine.volume("log")
    other = f"LABEL=somebody {machine.path('log')} ext4 defaults 0 1\n"
    Path(machine.paths.fstab).write_text(other)
    status = machine.run()
    assert error_of(status, "log") == "fstab-conflict"
    assert machine.fstab == other and machine.mounted() == {}
    Path(machine.paths.fstab).write_text("")
    assert states(machine.run()) == {"log": "mounted"}
    Path(machine.paths.fstab).write_text(other)
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert any("LABEL=somebody" in text for text in status["warnings"])
    assert machine.fstab == other


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_filesystem_of_nobody_we_know_is_used_and_not_relabelled(
    machine: Machine, fs_type: str
) -> None:
    """Also where the configuration names a label, which is for new ones."""
    volume = machine.volume("log", FsType=fs_type, Label="mine")
    argv = [f"mkfs.{fs_type}", "-q", str(machine.file(volume))]
    subprocess.run(argv, check=True)
    before = blkid(str(machine.file(volume)))
    status = machine.run()
    assert states(status) == {"log": "mounted"}
    assert status["sets"]["log"]["filesystem"]["uuid"] == before[0]
    assert blkid(machine.disk(volume)) == before
    done = " ".join(status["sets"]["log"]["done"])
    assert "make the directory" in done and f"make {fs_type}" not in done


def retag(machine: Machine, volume: str, **values: str) -> None:
    machine.lab.tag(volume, {f"KRKN-IN:{key}": value for key, value in values.items()})


def test_mount_options_that_change(machine: Machine) -> None:
    volume = machine.volume("log")
    machine.run()
    before = machine.lines()
    retag(machine, volume, MountOptions="noatime")
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert any("mount -o remount" in text for text in status["warnings"])
    (line,) = machine.lines()
    assert line == before[0].replace(" defaults,", " noatime,")
    again = machine.run()
    assert again["sets"]["log"]["done"] == [] and again["warnings"] == []


def test_a_mount_path_that_changes(machine: Machine) -> None:
    volume = machine.volume("log")
    machine.run()
    old, new = machine.path("log"), machine.path("new")
    retag(machine, volume, MountPath=new)
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert any("next reboot" in text for text in status["warnings"])
    assert list(machine.mounted()) == [old]
    (line,) = machine.lines()
    assert line.split()[1] == new
    machine.unmount()
    assert states(machine.run()) == {"log": "mounted"}
    assert list(machine.mounted()) == [new]
    assert len(machine.lines()) == 1


def test_a_set_with_a_new_name(machine: Machine) -> None:
    volume = machine.volume("log")
    machine.run()
    before = machine.lines()
    retag(machine, volume, VolumeName="journal")
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"journal": "mounted"})
    assert status["warnings"] == []
    assert machine.lines() == [before[0].replace(".set=log", ".set=journal")]
    assert machine.run()["sets"]["journal"]["done"] == []


def test_sets_that_exchange_their_names_and_paths(machine: Machine) -> None:
    one, two = machine.volume("one"), machine.volume("two")
    machine.run()
    retag(machine, one, VolumeName="two", MountPath=machine.path("two"))
    retag(machine, two, VolumeName="one", MountPath=machine.path("one"))
    status = machine.run()
    # A service of either would start on the data of the other.
    assert {error_of(status, name) for name in ("one", "two")} == {"mounted-elsewhere"}
    assert len(machine.lines()) == 2
    machine.unmount()
    assert machine.run()["state"] == "done"
    assert machine.mounted() == {
        machine.path("one"): machine.disk(two),
        machine.path("two"): machine.disk(one),
    }


def test_the_path_of_a_set_that_does_not_come_up_goes_to_another(
    machine: Machine,
) -> None:
    """At a reboot its old line would mount it there first."""
    old = machine.volume("old")
    machine.run()
    machine.unmount()
    retag(machine, old, MountPath=machine.path("elsewhere"), FsType="xfs")
    machine.volume("new", MountPath=machine.path("old"))
    status = machine.run()
    assert states(status) == {"old": "failed", "new": "mounted"}
    (line,) = machine.lines()
    assert line.endswith("X-kraken.set=new 0 2"), line
    retag(machine, old, FsType="ext4")
    status = machine.run()
    assert states(status) == {"old": "mounted", "new": "mounted"}
    assert len(machine.lines()) == 2 and status["warnings"] == []


def test_a_set_that_is_not_to_be_mounted_any_more(machine: Machine) -> None:
    """At each reboot its line would mount it again."""
    volume = machine.volume("data")
    machine.run()
    retag(machine, volume, FsType="none")
    status = machine.run()
    assert states(status) == {"data": "attached"}
    (note,) = status["sets"]["data"]["notes"]
    assert f"umount {machine.path('data')}" in note and len(machine.lines()) == 1
    machine.unmount()
    status = machine.run()
    assert (states(status), status["state"]) == ({"data": "attached"}, "done")
    assert machine.lines() == [] and status["sets"]["data"]["notes"] == []
    assert machine.run()["sets"]["data"]["done"] == []


def test_a_line_that_is_there_twice_and_one_of_a_set_that_is_gone(
    machine: Machine,
) -> None:
    """At a reboot the first line of a path counts, and each path of a set."""
    machine.volume("data")
    machine.run()
    before = machine.fstab
    path, uuid = machine.path("data"), before.split(" ")[0]
    gone = before.replace("=data", "=gone").replace(uuid, f"UUID={FS}")
    Path(machine.paths.fstab).write_text(gone + before)
    status = machine.run()
    assert (machine.fstab, status["warnings"]) == (before, [])
    twice = before + before.replace(path, f"{path}-before")
    Path(machine.paths.fstab).write_text(twice)
    status = machine.run()
    assert (machine.fstab, status["warnings"]) == (before, [])
    assert machine.run()["sets"]["data"]["done"] == []


def test_a_set_that_is_added(machine: Machine) -> None:
    machine.volume("log")
    assert states(machine.run()) == {"log": "mounted"}
    kept = machine.lines()
    machine.volume("data", FsType="xfs")
    status = machine.run("background")
    assert (status["state"], states(status)) == (
        "done",
        {"data": "mounted", "log": "mounted"},
    )
    assert status["sets"]["log"]["done"] == []
    assert machine.lines()[:1] == kept and len(machine.lines()) == 2
    saved = layout.load(machine.paths)
    assert saved is not None and set(saved["sets"]) == {"log", "data"}


def test_a_prefix_with_a_new_name(machine: Machine) -> None:
    """Half-way there is no volume, which is an error that touches nothing."""
    volume = machine.volume("log")
    machine.run()
    lines = machine.lines()
    machine.lab.tag(machine.id, {"KRKN-IN:Prefix": "rabbit"})
    status = machine.run(wait=1)
    assert [error["kind"] for error in status["errors"]] == ["no-volumes"]
    assert machine.lines() == lines and list(machine.mounted()) == [machine.path("log")]
    retag(machine, volume, Prefix="rabbit")
    status = machine.run()
    assert (status["state"], states(status)) == ("done", {"log": "mounted"})
    assert status["sets"]["log"]["done"] == []
    assert status["node"] == {"prefix": "rabbit", "node_id": "0"}
    assert machine.lines() == lines


def test_volume_size_that_is_raised_before_the_volume_is_there(
    machine: Machine,
) -> None:
    """What is mounted stays so; what would become an array is refused."""
    volume = machine.volume("log")
    machine.run()
    lines = machine.lines()
    retag(machine, volume, VolumeSize="2", RaidLevel="0")
    status = machine.run(wait=1)
    assert error_of(status, "log") == "members-missing"
    more = machine.volume("log", size=2, RaidLevel="0")
    before = machine.digest(more)
    status = machine.run(wait=30)
    assert error_of(status, "log") == "device-held"
    assert machine.digest(more) == before
    assert list(machine.mounted()) == [machine.path("log")]
    assert machine.lines() == lines
    machine.unmount()
    before = machine.digest(more, volume)
    status = machine.run(wait=30)
    assert error_of(status, "log") == "content-other"
    assert machine.digest(more, volume) == before
    assert "RAID" not in machine.fstab


def test_a_nested_pair_moves_together(machine: Machine) -> None:
    outer = machine.volume("pg")
    inner = machine.volume("wal", MountPath=machine.path("pg/wal"))
    assert machine.run()["state"] == "done"
    retag(machine, outer, MountPath=machine.path("db"))
    retag(machine, inner, MountPath=machine.path("db/wal"))
    status = machine.run()
    assert (status["state"], len(status["warnings"])) == ("done", 2)
    assert list(machine.mounted()) == [machine.path("pg"), machine.path("pg/wal")]
    machine.unmount()
    assert machine.run()["state"] == "done"
    assert list(machine.mounted()) == [machine.path("db"), machine.path("db/wal")]
    assert len(machine.lines()) == 2


def test_a_new_set_below_one_that_has_files_where_it_goes(machine: Machine) -> None:
    machine.volume("pg")
    machine.run()
    hidden = Path(machine.path("pg"), "wal")
    hidden.mkdir()
    (hidden / "segment").write_text("precious")
    machine.unmount()
    inner = machine.volume("wal", MountPath=machine.path("pg/wal"))
    before = machine.digest(inner)
    status = machine.run()
    assert states(status) == {"pg": "mounted", "wal": "failed"}
    assert error_of(status, "wal") == "mount-path-files"
    assert machine.digest(inner) == before
    assert (hidden / "segment").read_text() == "precious"


def test_a_user_that_comes_is_seen_soon_without_whole_looks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cc_kraken.act import observe

    machine.volume("log", Owner="latecomer")
    machine.run("network")
    looks = 0
    asked = 0
    look = observe.Observer.look

    def counted(self: observe.Observer, *args: object, **more: object) -> object:
        nonlocal looks
        looks += 1
        return look(self, *args, **more)  # type: ignore[arg-type]

    def user_id(owner: str) -> int | None:
        nonlocal asked
        asked += 1
        return 4711 if asked > 4 else None

    monkeypatch.setattr(observe.Observer, "look", counted)
    monkeypatch.setattr(observe.mount_points, "user_id", user_id)
    status = machine.run("background", wait=60)
    assert states(status) == {"log": "mounted"} and status["state"] == "done"
    assert os.stat(machine.path("log")).st_uid == 4711
    assert looks <= 3
    assert report.read(machine.paths) is not None
