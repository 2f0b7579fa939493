"""Rehearsals and checks of many sets: a power cut leaves all of them half made."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, Extent, KrakenError, Record
from cc_kraken.proof import half_made, rehearsal

MIB = 1 << 20
MANY = 24

pytestmark = pytest.mark.skipif(
    not shutil.which("mkfs.ext4", path=command.PATH), reason="no mkfs.ext4"
)


def device(number: int, size: int) -> Device:
    volume = f"vol-{number:017x}"
    return Device(f"nvme{number}n1", f"/dev/nvme{number}n1", "259:1", volume, size)


def learn(tmp_path: Path, sizes: list[int]) -> list[tuple[Extent, ...]]:
    paths = Paths(sys=str(tmp_path / "sys"), state=str(tmp_path / "state"))
    start = threading.Barrier(len(sizes))

    def one(number: int) -> tuple[Extent, ...]:
        disk = device(number, sizes[number])
        record = Record("me", disk.volume_id, "ext4", "a-uuid", "", -1, 1)
        start.wait()
        return rehearsal.extents(paths, disk, record)

    with ThreadPoolExecutor(len(sizes)) as pool:
        found = list(pool.map(one, range(len(sizes))))
    assert os.listdir(paths.state) == []
    return found


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their room is counted one by one."""
    there: list[int] = []
    at_work: list[str] = []
    run = command.run

    def watched(argv: Any, **more: Any) -> command.Finished:
        at_work.append(argv[-1])
        there.append(len(at_work))
        time.sleep(0.01)
        finished = run(argv, **more)
        at_work.remove(argv[-1])
        return finished

    monkeypatch.setattr(command, "run", watched)
    found = learn(tmp_path, [(64 + number) * MIB for number in range(MANY)])
    assert all(found) and there == [1] * MANY


def test_equal_volumes_need_one(tmp_path: Path) -> None:
    before = Counter(command.STARTED)
    found = learn(tmp_path, [61 * MIB] * MANY)
    assert len(set(found)) == 1
    assert (command.STARTED - before)["mkfs.ext4"] == 1


def test_without_room_it_says_where_and_how_much(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    usage = mocker.Mock(free=5 * MIB)
    mocker.patch.object(shutil, "disk_usage", return_value=usage)
    with pytest.raises(KrakenError) as caught:
        learn(tmp_path, [62 * MIB])
    trouble = caught.value.trouble
    assert trouble.kind == "shadow-no-room"
    assert f"{tmp_path / 'state'} has 5 MiB free" in trouble.found
    assert "MiB free" in trouble.expected and "Make room" in trouble.remedy


def test_where_one_directory_cannot_be_made_the_next_one_serves(tmp_path: Path) -> None:
    """As on a root that is read-only: /run is in memory."""
    (tmp_path / "file").touch()
    paths = Paths(
        sys=str(tmp_path / "sys"),
        state=str(tmp_path / "file" / "state"),
        run=str(tmp_path / "run"),
    )
    disk = device(1, 63 * MIB)
    record = Record("me", disk.volume_id, "ext4", "a-uuid", "", -1, 1)
    assert rehearsal.extents(paths, disk, record)
    none = replace(paths, run=str(tmp_path / "file" / "run"))
    with pytest.raises(KrakenError) as caught:
        rehearsal.extents(none, replace(disk, size=65 * MIB), record)
    assert caught.value.trouble.kind == "shadow-no-room"
    assert paths.state in caught.value.trouble.found


def test_few_checkers_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds some ten MiB of a TiB in memory."""
    running, most, lock = 0, 0, threading.Lock()

    def run(argv: Any, **_: Any) -> command.Finished:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return command.Finished(tuple(argv), 0, "", "")

    monkeypatch.setattr(command, "run", run)
    with ThreadPoolExecutor(32) as pool:
        paths = map(str, range(64))
        assert all(pool.map(lambda path: half_made.sound(path, "xfs"), paths))
    assert 1 < most <= half_made.AT_ONCE
