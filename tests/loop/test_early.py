"""Disks that are looked at before the round that needs them.

Loop devices are no witnesses (who writes to their file is not counted): these
tests say that they are.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest

from cc_kraken.act import early, observe
from cc_kraken.act.early import Early
from cc_kraken.act.observe import Observer
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Attachment, Blank, Claim, Look, Section, Volume, WantedSet
from cc_kraken.proof import content, write_counters
from tests.conftest import attach, loop_obstacle
from tests.unit import worlds as w

GIB, MIB = 1 << 30, 1 << 20
SIZE = 64 * MIB
"""Small volumes are read whole."""
FEW = 8 * MIB
"""What others on this machine may read of a disk: some look at all of them."""


class Machine:
    """Disks below a directory that stands for /sys."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base, self.stack = base, stack
        self.before: dict[str, int] = {}
        self.paths = Paths(sys=str(base / "sys"), etc=str(base), run=str(base / "run"))
        (base / "sys/block").mkdir(parents=True)

    def plug(self, volume_id: str, held: bool = False) -> str:
        file = self.base / volume_id
        with open(file, "xb") as new:
            new.truncate(SIZE)
        path = attach(file)
        self.stack.callback(os.system, f"losetup --detach {path}")
        name, number = os.path.basename(path), os.stat(path).st_rdev
        below = self.base / "new" / name
        (below / "device").mkdir(parents=True)
        (below / "holders").mkdir()
        if held:
            (below / "holders/md127").mkdir()
        for entry, text in (
            ("dev", f"{os.major(number)}:{os.minor(number)}"),
            ("size", str(SIZE // 512)),
            ("ro", "0"),
            ("device/serial", volume_id.replace("-", "")),
        ):
            (below / entry).write_text(f"{text}\n")
        self.before[path] = sectors_read(path)
        below.rename(self.base / "sys/block" / name)
        return path

    def read(self, path: str) -> int:
        """Bytes that were read of this disk since it came."""
        return 512 * (sectors_read(path) - self.before[path])


def sectors_read(path: str) -> int:
    with open(f"/sys/block/{os.path.basename(path)}/stat") as file:
        return int(file.read().split()[2])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    if loop_obstacle():
        pytest.skip(loop_obstacle())
    monkeypatch.setattr(write_counters, "TRUSTED", re.compile(r"loop\d+"))
    monkeypatch.setattr(write_counters, "_SEEN", {})
    with ExitStack() as stack:
        yield Machine(tmp_path, stack)


@pytest.fixture
def looks(machine: Machine) -> Iterator[Early]:
    one = Early(machine.paths, full=False)
    yield one
    one.stop()


def until(true: object) -> None:
    end = time.monotonic() + 20
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def settled() -> None:
    """Long enough for several rounds of the watching thread."""
    time.sleep(5 * early.LOOK_EVERY)


def bytes_read_for_a_look(path: str, volume_id: str) -> int:
    look = content.look(path, volume_id=volume_id)
    assert look.content == Blank()
    return look.bytes_read


def test_a_disk_is_proved_when_it_comes(machine: Machine, looks: Early) -> None:
    looks.expect([w.volume_id(1)])
    path = machine.plug(w.volume_id(1))
    until(lambda: w.volume_id(1) in looks._looks)
    looks.take(w.volume_id(1), path)
    assert bytes_read_for_a_look(path, w.volume_id(1)) < MIB


def test_a_write_after_it_voids_it(machine: Machine, looks: Early) -> None:
    looks.expect([w.volume_id(1)])
    path = machine.plug(w.volume_id(1))
    until(lambda: w.volume_id(1) in looks._looks)
    looks.take(w.volume_id(1), path)
    with open(path, "r+b", buffering=0) as file:
        file.seek(SIZE // 2)
        file.write(b"\1" * 4096)
        os.fsync(file.fileno())
    found = content.look(path, volume_id=w.volume_id(1))
    assert found.content != Blank() and found.bytes_read >= SIZE


def test_what_nobody_expects_is_not_read(machine: Machine, looks: Early) -> None:
    """Another's volume, one that is in use, one whose look has begun."""
    stranger = machine.plug(w.volume_id(2))
    held = machine.plug(w.volume_id(3), held=True)
    looks.expect([w.volume_id(1), w.volume_id(3), w.volume_id(4)])
    looks.take(w.volume_id(4), "")
    taken = machine.plug(w.volume_id(4))
    expected = machine.plug(w.volume_id(1))
    until(lambda: w.volume_id(1) in looks._looks)
    settled()
    assert all(machine.read(path) < FEW for path in (stranger, held, taken))
    assert machine.read(expected) >= SIZE


def test_one_look_is_enough(machine: Machine, looks: Early) -> None:
    """However often it is expected."""
    looks.expect([w.volume_id(1)])
    path = machine.plug(w.volume_id(1))
    until(lambda: w.volume_id(1) in looks._looks)
    looks.take(w.volume_id(1), path)
    before = machine.read(path)
    looks.expect([w.volume_id(1)])
    settled()
    assert machine.read(path) < before + FEW


def test_without_the_kernels_word_nothing_is_read_twice(
    machine: Machine, looks: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_counters, "TRUSTED", re.compile("nvme"))
    looks.expect([w.volume_id(1)])
    path = machine.plug(w.volume_id(1))
    until(lambda: w.volume_id(1) in looks._looks)
    looks.take(w.volume_id(1), path)
    assert machine.read(path) < FEW


def test_after_its_end_nothing_is_begun(machine: Machine, looks: Early) -> None:
    looks.expect([w.volume_id(1)])
    looks.stop()
    path = machine.plug(w.volume_id(1))
    settled()
    assert machine.read(path) < FEW and not looks._looks


def test_no_more_than_some_at_a_time(
    machine: Machine, looks: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "MOST", 1)
    go_on, begun = threading.Event(), []

    def slow(path: str, **_: object) -> Look:
        begun.append(path)
        go_on.wait()
        return Look(Blank())

    monkeypatch.setattr(content, "look", slow)
    ids = [w.volume_id(number) for number in (1, 2, 3)]
    paths = {machine.plug(one) for one in ids}
    looks.expect(ids)
    until(lambda: begun)
    settled()
    assert len(begun) == 1
    go_on.set()
    until(lambda: set(begun) == paths)


# -------------------------------------------------------- within a look around


def claim(number: int, members: int = 1) -> Claim:
    """A set whose volumes have their disks here, or get them soon."""
    name = f"s{number}"
    volumes = tuple(
        Volume(
            w.volume_id(10 * number + member),
            1,
            w.ZONE,
            "in-use",
            attachments=(Attachment(w.ME, "/dev/sdf", "attached"),),
        )
        for member in range(members)
    )
    return Claim(name, WantedSet(name, fs_type="ext4", members=members), volumes)


def test_while_a_round_is_busy_the_next_disks_are_proved(machine: Machine) -> None:
    """The look that decides then finds the proof, and waits for one that is
    under way instead of reading the same again."""
    watcher = Observer(machine.paths, Section())
    one, pair = claim(1), claim(2, members=2)
    disks = {volume.id: machine.plug(volume.id) for volume in one.volumes}
    first, second = (volume.id for volume in pair.volumes)
    disks[first] = machine.plug(first)  # waits for the second
    try:
        world = watcher.look(w.ME, w.NODE, [one, pair], {})
        assert set(world.looks) == {one.volumes[0].id}
        until(lambda: machine.read(disks[first]) >= SIZE)
        disks[second] = machine.plug(second)
        until(lambda: second in watcher._early._looks)
        world = watcher.look(w.ME, w.NODE, [one, pair], {})
    finally:
        watcher.close()
    assert {
        volume: look.content for volume, look in world.looks.items()
    } == dict.fromkeys(disks, Blank())
    for volume in (first, second):
        assert world.looks[volume].bytes_read < MIB
        # once, and what wipefs reads
        assert machine.read(disks[volume]) < SIZE + 24 * MIB


def told_as_silent(
    machine: Machine, begun: threading.Event, answer: threading.Event
) -> None:
    """Two sets, of which the second one's disk comes later and hangs in its
    early look, which has ``begun``, until there is an ``answer``."""
    watcher = Observer(machine.paths, Section())
    sets = [claim(1), claim(2)]
    good, bad = w.volume_id(10), w.volume_id(20)
    machine.plug(good)
    try:
        watcher.look(w.ME, w.NODE, sets, {})
        machine.plug(bad)
        assert begun.wait(20)
        world = watcher.look(w.ME, w.NODE, sets, {})
    finally:
        watcher.close()
        answer.set()
    assert world.looks[good].content == Blank()
    assert "has not answered a read" in str(world.looks[bad].content)


def test_a_disk_that_hangs_in_it_keeps_nobody_waiting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as a disk that does not answer."""
    monkeypatch.setattr(observe, "NO_ANSWER", 0.5)
    monkeypatch.setattr(observe, "WATCH_EVERY", 0.05)
    real = content.look
    answer, begun = threading.Event(), threading.Event()

    def hangs(path: str, *, volume_id: str = "", **more: object) -> Look:
        if volume_id == w.volume_id(20):
            with content.reading(path):
                begun.set()
                answer.wait()
        return real(path, volume_id=volume_id, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(content, "look", hangs)
    told_as_silent(machine, begun, answer)


def test_a_disk_that_cannot_be_opened_keeps_nobody_waiting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open(2) waits while the kernel reads the partition table of a new disk."""
    monkeypatch.setattr(observe, "NO_ANSWER", 0.5)
    monkeypatch.setattr(observe, "WATCH_EVERY", 0.05)
    opening, answer, begun = os.open, threading.Event(), threading.Event()

    def hangs(path: str, *more: int, **others: int) -> int:
        early_one = threading.current_thread().name == "kraken-early"
        if early_one and str(path).startswith("/dev/loop"):
            begun.set()
            answer.wait()
        return opening(path, *more, **others)

    monkeypatch.setattr(os, "open", hangs)
    told_as_silent(machine, begun, answer)


def test_a_volume_that_comes_back_does_not_wait_for_what_it_was(
    machine: Machine, looks: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives another name while something hangs on the old one."""
    answer, begun = threading.Event(), threading.Event()

    def hangs(path: str, **_: object) -> Look:
        begun.set()
        answer.wait()
        return Look(Blank())

    monkeypatch.setattr(content, "look", hangs)
    looks.expect([w.volume_id(1)])
    machine.plug(w.volume_id(1))
    assert begun.wait(20)
    looks.take(w.volume_id(1), "/dev/another")
    answer.set()


def test_no_thread_to_be_had_is_no_early_look(
    machine: Machine, looks: Early, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = machine.plug(w.volume_id(1))
    looks.expect([w.volume_id(1)])
    monkeypatch.setattr(threading.Thread, "start", fail)
    looks.expect([w.volume_id(1), w.volume_id(2)])
    looks._begin([w.volume_id(1), w.volume_id(2)])
    looks.take(w.volume_id(1), path)
    fresh = Early(machine.paths, full=False)
    fresh.expect([w.volume_id(1)])
    fresh.take(w.volume_id(1), path)


def test_a_bare_attachment_is_not_read(machine: Machine) -> None:
    watcher = Observer(machine.paths, Section())
    bare = Claim("bare", WantedSet("bare"), claim(3).volumes)
    try:
        watcher.look(w.ME, w.NODE, [bare], {})
        path = machine.plug(bare.volumes[0].id)
        settled()
        assert machine.read(path) < FEW
    finally:
        watcher.close()
