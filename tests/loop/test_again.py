"""A read that the kernel asks to repeat is repeated; one that fails is an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cc_kraken.model import Blank, Unknown
from cc_kraken.proof import directio, places, probe

MIB = 1 << 20
SIZE = 300 * MIB
AGAIN = (errno.EAGAIN, errno.EINTR)


def failing(
    monkeypatch: pytest.MonkeyPatch, code: int, times: int
) -> Callable[[], int]:
    """Let the next ``times`` reads fail; returns how many have."""
    real, left = os.preadv, times

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        nonlocal left
        if left:
            left -= 1
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    return lambda: times - left


@pytest.fixture
def disk(
    loop_device: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setattr(directio, "PAUSE", 0)
    yield loop_device(SIZE)


@pytest.mark.parametrize("code", AGAIN, ids=errno.errorcode.get)
def test_a_read_to_be_repeated_is_repeated(
    disk: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failed = failing(monkeypatch, code, directio.TRIES - 1)
    assert probe.look(disk).content == Blank()
    assert failed() == directio.TRIES - 1


@pytest.mark.parametrize("code", AGAIN, ids=errno.errorcode.get)
def test_it_is_repeated_so_often_and_no_more(
    disk: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failed = failing(monkeypatch, code, 10**9)
    found = probe.look(disk).content
    assert isinstance(found, Unknown) and os.strerror(code) in found.reason
    # Each read of a search for the page that cannot be read.
    assert failed() <= 10 * directio.TRIES


def test_an_input_output_error_is_not_tried_again(
    disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, errno.EIO, 1)
    found = probe.look(disk).content
    assert isinstance(found, Unknown) and os.strerror(errno.EIO) in found.reason


def test_the_next_look_reads_where_a_sample_failed(
    loop_device: Callable[..., str], mocker: MockerFixture
) -> None:
    """Samples of its own would hardly meet the place again."""
    disk = loop_device(64 << 30)
    real, failing = os.preadv, set[int]()
    fixed = places.places(64 << 30)

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        outside = not any(one.start <= offset < one.end for one in fixed)
        if outside and (not failing or offset in failing):
            failing.add(offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    mocker.patch("os.preadv", preadv)
    first = probe.look(disk)
    for _ in range(3):
        again = probe.look(disk, seen=first)
        assert isinstance(again.content, Unknown) and again.content.unread
    mocker.stopall()
    assert probe.look(disk, seen=again).content == Blank()


@pytest.mark.parametrize("code", AGAIN, ids=errno.errorcode.get)
def test_every_other_read_is_repeated_and_its_bytes_are_judged(
    disk: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real, asked = os.preadv, 0

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(directio, "TRIES", 100)
    assert probe.look(disk).content == Blank()
    assert asked > 100
    with open(disk, "r+b", buffering=0) as file:
        for place in (8 * MIB, SIZE - MIB):
            file.seek(place)
            file.write(b"\1")
        os.fsync(file.fileno())
    found = probe.look(disk)
    assert found.content == Unknown("Data without a known signature.", 8 * MIB)
    monkeypatch.undo()
    assert found.fingerprint == probe.look(disk).fingerprint


def test_a_read_that_gives_nothing_does_not_look_like_zeros(
    disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that is short, nor one that leaves the memory as it was."""
    for length in (0, 512, None):
        monkeypatch.setattr(
            os,
            "preadv",
            lambda fd, buffers, offset, n=length: len(buffers[0]) if n is None else n,
        )
        found = probe.look(disk).content
        assert isinstance(found, Unknown)
        # A short one has failed: what it left in memory is nobody's data.
        assert found.unread is (length is not None)


@pytest.mark.parametrize("code", AGAIN, ids=errno.errorcode.get)
def test_also_before_a_write(
    disk: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What is read back, and what is read to be erased."""
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    try:
        failing(monkeypatch, code, directio.TRIES - 1)
        assert directio.read(fd, 0, 4096) == bytes(4096)
        failing(monkeypatch, code, directio.TRIES)
        with pytest.raises(OSError, match=os.strerror(code)):
            directio.read(fd, 0, 4096)
    finally:
        os.close(fd)
