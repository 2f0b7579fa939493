"""What a look around brings together, over a machine of files."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken.act import observe
from cc_kraken.act.observe import Observer
from cc_kraken.decide import seen
from cc_kraken.decide.world import World
from cc_kraken.machine import mount_points
from cc_kraken.model import KrakenError, Look, Section, Trouble, Unknown
from cc_kraken.proof import directio
from cc_kraken.state.report import Report
from tests.unit import worlds as w
from tests.unit.tree import Tree


def serial(number: int) -> str:
    return w.volume_id(number).replace("-", "")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def look(tree: Tree, *claims: object) -> World:
    observer = Observer(tree.paths, Section())
    return observer.look(w.ME, claims)  # type: ignore[arg-type]


def test_disks_by_serial_and_twins_apart(tree: Tree) -> None:
    tree.disk(1, serial(1))
    tree.disk(2, serial(2))
    tree.disk(3, serial(2))
    tree.disk(4, "AWS12345678901234567")
    world = look(tree)
    assert set(world.devices) == {w.volume_id(1)}
    assert world.duplicates == {w.volume_id(2): ("nvme2n1", "nvme3n1")}


def test_what_nobody_asks_to_use_is_not_read(tree: Tree) -> None:
    tree.disk(1, serial(1))
    bare = w.claim(w.single(fs_type=None, mount_path=None), w.attached(1))
    assert look(tree, bare).looks == {}


def test_what_cannot_be_read_is_unknown(tree: Tree) -> None:
    tree.disk(1, serial(1))  # its node is no block device
    world = look(tree, w.claim(w.single(), w.attached(1)))
    content = world.looks[w.volume_id(1)].content
    assert isinstance(content, Unknown) and "block device" in content.reason


def test_a_set_with_a_missing_disk_is_not_looked_at_in_part(tree: Tree) -> None:
    tree.disk(1, serial(1))
    world = look(tree, w.claim(w.raid(2, 1), w.attached(1), w.attached(2)))
    assert world.looks == {}


def test_mounts_fstab_and_accounts(tree: Tree) -> None:
    tree.disk(1, serial(1))
    tree.mount("/krkn_log", tree.number("nvme1n1"), "ext4", "/dev/nvme1n1")
    tree.write(
        "etc/fstab",
        "/dev/sdz /other ext4 defaults 0 0\n"
        "UUID=1 /krkn_log ext4 nofail,X-kraken.set=log 0 2\n",
    )
    wanted = w.single(owner="root", group="no-such-group")
    world = look(tree, w.claim(wanted, w.attached(1)))
    mounted = seen.at(world.mounts, "/krkn_log")
    assert mounted is not None and mounted.volumes == {w.volume_id(1)}
    assert set(world.fstab) == {"log"}
    assert [line.path for line in world.fstab_foreign] == ["/other"]
    assert world.accounts == {"user:root": 0, "group:no-such-group": None}


def test_what_a_line_of_somebody_else_mounts_is_found_by_the_links_of_udev(
    tree: Tree,
) -> None:
    tree.disk(1, serial(1))
    links = {
        "ID=nvme-x_vol1": "by-id/nvme-x_vol1",
        "PARTUUID=ABCD-01": "by-partuuid/abcd-01",
        "PARTLABEL=log": "by-partlabel/log",
        "LABEL='log'": "by-label/log",
        'UUID="ABCD"': "by-uuid/abcd",
        "/dev/disk/by-path/pci-1": "by-path/pci-1",
    }
    for link in links.values():
        path = tree.base / "dev/disk" / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("../../nvme1n1")
    text = [f"{spec} /x{number} ext4\n" for number, spec in enumerate(links)]
    tree.write("etc/fstab", "".join(text) + "PARTUUID=other /y ext4\n")
    number = tree.number("nvme1n1")
    assert look(tree).fstab_devnos == dict.fromkeys(links, number)


def test_a_mount_that_another_one_hides_is_told_as_such(tree: Tree) -> None:
    for number in (1, 2):
        tree.disk(number, serial(number))
    for number, path in ((1, "/pg/wal"), (2, "/pg")):
        node = f"nvme{number}n1"
        tree.mount(path, tree.number(node), "xfs", f"/dev/{node}")
    world = look(tree, *(w.claim(w.single(), w.attached(n)) for n in (1, 2)))
    told = {one.mount.path: one.seen for one in world.mounts}
    assert told == {"/": True, "/pg/wal": False, "/pg": True}
    assert [one.mount.path for one in world.mounts_of({w.volume_id(1)})] == ["/pg/wal"]
    assert seen.at(world.mounts, "/pg/wal") is None


def test_where_a_set_has_been_is_remembered(tree: Tree) -> None:
    """From a run before, from the layout, and from a line that is replaced."""
    tree.write(
        "state/layout.json",
        json.dumps(
            {
                "version": 1,
                "instance_id": w.ME,
                "node": {"prefix": "kafka", "node_id": "0"},
                "sets": {
                    "log": {
                        "mount_path": "/layout",
                        "volumes": [w.volume_id(1)],
                        "sizes": {},
                        "required": True,
                        "filesystem": None,
                        "array": None,
                    }
                },
            }
        ),
    )
    told = Report(tree.paths, "network")
    for name, state in (("up", "mounted"), ("down", "failed")):
        entry = {"state": state, "mount_path": f"/{name}"}
        told.set(name).update(entry, volumes=[{"id": w.volume_id(1)}])
    told.write()
    observer = Observer(tree.paths, Section())

    def former(line: str, instance: str = w.ME) -> dict[str, set[str]]:
        tree.write("etc/fstab", line)
        found = observer.look(instance, ()).former
        return {key: set(paths) for key, paths in found.items()}

    before = {w.volume_id(1): {"/layout", "/up"}}
    line = "UUID=1 /old ext4 X-kraken.set=log 0 2\nUUID=2 /not-ours ext4 auto 0 0\n"
    assert former(line) == {**before, "UUID=1": {"/old"}}
    line = line.replace("/old", "/new")
    assert former(line) == {**before, "UUID=1": {"/old", "/new"}}
    observer = Observer(tree.paths, Section())
    assert former("", "i-00000000000000009") == {w.volume_id(1): {"/up"}}


def test_the_volume_behind_the_root_is_known(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.disk(0, serial(7))
    tree.mount("/boot", tree.number("nvme0n1"), "ext4", "/dev/nvme0n1")
    assert look(tree).system_volumes == {w.volume_id(7)}


def test_an_array_gets_its_members(tree: Tree) -> None:
    for number in (1, 2):
        tree.disk(number, serial(number))
    tree.array("md127", ["nvme1n1", "nvme2n1"], uuid=w.ARRAY)
    world = look(tree, w.claim(w.raid(2, 0), w.attached(1), w.attached(2)))
    (array,) = world.arrays
    assert (array.uuid, array.members) == (w.ARRAY, ("nvme1n1", "nvme2n1"))


def test_a_path_that_cannot_be_looked_at(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> object:
        raise KrakenError(Trouble("cannot-read", path, "", ""))

    monkeypatch.setattr(mount_points, "path_state", fail)
    world = look(tree, w.claim(w.single(), w.attached(1)))
    assert world.paths["/krkn_log"].kind == "unreadable"


# ------------------------------------------------------- disks that do not answer


def observer(tree: Tree) -> Observer:
    return Observer(tree.paths, Section())


def found(text: str) -> Look:
    return Look(Unknown(text))


def test_a_disk_that_answers_no_read_keeps_nobody_waiting(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of them as are read at a time; what comes after them is read,
    and they are not asked again before they have answered."""
    monkeypatch.setattr(observe, "NO_ANSWER", 0.3)
    monkeypatch.setattr(observe, "WATCH_EVERY", 0.05)
    answer, asked = threading.Event(), []

    def hangs(path: str) -> Look:
        asked.append(path)
        with directio.reading(path):
            answer.wait()
        return found("at last")

    def slow() -> Look:
        # many reads, each of them answered
        for _ in range(10):
            with directio.reading("/dev/good"):
                time.sleep(0.05)
        return found("good")

    paths = [f"/dev/bad{number}" for number in range(observe.WORKERS)]
    jobs: dict[str, Callable[[], Look]] = {path: partial(hangs, path) for path in paths}
    jobs["/dev/good"] = slow
    watcher = observer(tree)
    try:
        first = watcher._side_by_side(jobs)
        assert first.pop("/dev/good") == found("good")
        assert list(first) and set(first) == set(paths)
        for path, look in first.items():
            assert f"{path} has not answered a read" in str(look.content)
        again = watcher._side_by_side(jobs)
        assert again.pop("/dev/good") == found("good") and again == first
        assert sorted(asked) == sorted(paths)
    finally:
        answer.set()
    until = time.monotonic() + 30
    while not all(job.done() for job in watcher._hung.values()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert set(watcher._side_by_side(jobs).values()) == {
        found("at last"),
        found("good"),
    }


def test_a_mistake_in_a_look_is_not_swallowed(tree: Tree) -> None:
    def mistake() -> Look:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        observer(tree)._side_by_side({"/dev/x": mistake})
