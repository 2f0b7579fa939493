"""The kernel's counters, while a write ends between two reads of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken import model
from cc_kraken.machine import sysfs
from cc_kraken.proof import write_counters

Happening = Callable[[], None]
FILES = ("diskseq", "size", "inflight", "stat", "queue/iostats")


def disk(directory: Path, *, sectors: int = 1000, writing: int = 0) -> None:
    """The files of one disk: ``sectors`` were written, ``writing`` writes are in
    flight."""
    (directory / "queue").mkdir(parents=True, exist_ok=True)
    stat = [0] * 17
    stat[6], stat[8] = sectors, writing
    for name, text in (
        ("diskseq", "7"),
        ("size", "2097152"),
        ("stat", " ".join(map(str, stat))),
        ("inflight", f"0 {writing}"),
        ("queue/iostats", "1"),
    ):
        (directory / name).write_text(f"{text}\n")


@pytest.fixture
def sys_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk, of which ``/dev/null`` is the node."""
    there = tmp_path / "devices/nvme1n1"
    disk(there)
    number = os.stat("/dev/null").st_rdev
    link = tmp_path / f"dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../devices/nvme1n1")
    monkeypatch.setattr(write_counters, "SYS", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    return there


def testimony() -> model.Testimony | None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        return write_counters.testimony(fd)
    finally:
        os.close(fd)


def after(monkeypatch: pytest.MonkeyPatch, name: str, happening: Happening) -> None:
    """Let something happen right after this file was read."""
    real = sysfs.attribute
    pending = [happening]

    def attribute(*path: str) -> str | None:
        text = real(*path)
        if "/".join(path).endswith(f"/{name}") and pending:
            pending.pop()()
        return text

    monkeypatch.setattr(sysfs, "attribute", attribute)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("member", [False, True], ids=["a disk", "a member"])
def test_a_write_that_ends_between_two_reads_is_not_missed(
    sys_tree: Path, monkeypatch: pytest.MonkeyPatch, name: str, member: bool
) -> None:
    """It has changed the disk, so it is in flight or it is counted."""
    written = sys_tree
    if member:
        written = sys_tree / "slaves/nvme2n1"
        disk(written)
    before = testimony()
    assert before is not None
    disk(written, writing=1)
    after(monkeypatch, name, lambda: disk(written, sectors=1008))
    now = testimony()
    assert now is None or now != before


def test_a_write_in_flight_and_one_that_has_ended_end_a_testimony(
    sys_tree: Path,
) -> None:
    before = testimony()
    assert before is not None and testimony() == before
    disk(sys_tree, writing=1)
    assert testimony() is None
    disk(sys_tree, sectors=1008)
    assert testimony() not in (None, before)


def test_nothing_is_vouched_for_over_a_hibernation(
    sys_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another instance may have had the volume meanwhile: counters and diskseq
    are those of before, the clock of boot has gone on without the other one."""
    before = testimony()
    slept = {time.CLOCK_BOOTTIME: 20 * 10**9}
    real = time.clock_gettime_ns
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock: real(clock) + slept.get(clock, 0)
    )
    now = testimony()
    assert now is not None and now != before
    assert testimony() == now


@pytest.mark.parametrize("name", FILES)
def test_a_hibernation_between_two_reads_is_not_missed(
    sys_tree: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = testimony()
    slept = {time.CLOCK_BOOTTIME: 0}
    real = time.clock_gettime_ns
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock: real(clock) + slept.get(clock, 0)
    )
    after(monkeypatch, name, lambda: slept.update({time.CLOCK_BOOTTIME: 20 * 10**9}))
    assert testimony() != before
