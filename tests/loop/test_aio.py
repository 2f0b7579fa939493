"""Reads that are under way together, against the bytes of a real disk."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cc_kraken.model import Blank, Extent, Unknown
from cc_kraken.proof import aio, content
from cc_kraken.proof.aio import DEPTH, PAGE, ROOM, Batch
from tests.conftest import MORE

pytestmark = pytest.mark.long

MIB = 1 << 20
SIZE = 8 * MIB
PAGES = SIZE // PAGE
CLOSED = 1 << 20
"""No descriptor has this number."""


@pytest.fixture
def disk(tmp_path: Path, loop_device: Callable[..., str]) -> Iterator[int]:
    """A descriptor of a disk of random bytes, which are in ``tmp_path/bytes``."""
    file = tmp_path / "bytes"
    file.write_bytes(random.Random(7).randbytes(SIZE))
    fd = os.open(loop_device(path=file), os.O_RDONLY | os.O_DIRECT)
    yield fd
    os.close(fd)


@pytest.fixture
def zeros(loop_device: Callable[..., str]) -> str:
    """A disk of zeros; a whole batch of them."""
    return loop_device(ROOM)


SPANS = st.lists(
    st.tuples(st.integers(0, PAGES - 1), st.integers(1, 16)).map(
        lambda one: (one[0] * PAGE, min(one[1], PAGES - one[0]) * PAGE)
    ),
    max_size=3 * DEPTH,
)


@settings(
    max_examples=30 * MORE, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SPANS)
def test_each_read_gives_the_bytes_of_its_place(
    disk: int, tmp_path: Path, spans: list[aio.Span]
) -> None:
    expected = (tmp_path / "bytes").read_bytes()
    grouped = list(aio.batches(spans))
    assert [span for group in grouped for span in group] == spans
    with Batch(disk) as now, Batch(disk) as then:
        for one, other in zip([[], *grouped], [*grouped, []]):
            # The next ones are under way while these are looked at.
            then.begin(other)
            assert list(now.spans) == one
            for number, (start, length) in enumerate(one):
                assert now.result(number) == length
                assert now.data(number) == expected[start : start + length]
            assert now.zero is (not one)
            then.end()
            now, then = then, now


def test_a_batch_is_filled_but_not_over_filled() -> None:
    small = [(at * PAGE, PAGE) for at in range(2 * DEPTH + 1)]
    assert [len(group) for group in aio.batches(small)] == [DEPTH, DEPTH, 1]
    large = [(0, ROOM), (0, ROOM - PAGE), (0, PAGE), (0, 2 * PAGE)]
    assert list(aio.batches(large)) == [large[:1], large[1:3], large[3:]]
    odd = [(0, ROOM - PAGE - 1), (0, PAGE + 1)]
    assert len(list(aio.batches(odd))) == 2, "each begins at a page"
    assert list(aio.batches([])) == []


@pytest.mark.parametrize("spans", [[(0, PAGE)] * (DEPTH + 1), [(0, ROOM), (0, PAGE)]])
def test_more_than_fits_is_refused(disk: int, spans: list[aio.Span]) -> None:
    with Batch(disk) as batch, pytest.raises(ValueError, match="too much"):
        batch.begin(spans)


@pytest.mark.parametrize("length", [PAGE, 4 * PAGE, ROOM])
@pytest.mark.parametrize(
    "place", [0, 1, PAGE - 1, PAGE, 2 * PAGE - 1, 3 * PAGE + 5, ROOM - 1]
)
def test_one_byte_is_seen_wherever_it_is(zeros: str, place: int, length: int) -> None:
    """In any of the reads, of any size, at any place of the memory."""
    spans = [(start, length) for start in range(0, ROOM, length)][:DEPTH]
    covered = place < spans[-1][0] + length
    fd = os.open(zeros, os.O_RDWR | os.O_DIRECT)
    try:
        with Batch(fd) as batch:
            batch.begin(spans)
            batch.end()
            assert batch.zero
            with open(zeros, "r+b", buffering=0) as file:
                file.seek(place)
                file.write(b"\x80")
                os.fsync(file.fileno())
            batch.begin(spans)
            batch.end()
            assert batch.zero is not covered
    finally:
        os.close(fd)


def test_the_same_byte_in_every_page_is_not_zero(
    tmp_path: Path, loop_device: Callable[..., str]
) -> None:
    file = tmp_path / "same"
    file.write_bytes((b"\0" * 100 + b"\1" + b"\0" * (PAGE - 101)) * (ROOM // PAGE))
    fd = os.open(loop_device(path=file), os.O_RDONLY | os.O_DIRECT)
    try:
        with Batch(fd) as batch:
            batch.begin([(0, ROOM)])
            batch.end()
            assert batch.result(0) == ROOM and not batch.zero
    finally:
        os.close(fd)


def test_a_read_that_fails_has_its_error_and_the_others_their_bytes(
    disk: int, tmp_path: Path
) -> None:
    expected = (tmp_path / "bytes").read_bytes()
    os.truncate(tmp_path / "bytes", SIZE // 2)
    with Batch(disk) as batch:
        batch.begin([(0, PAGE), (SIZE - PAGE, PAGE), (PAGE, PAGE)])
        batch.end()
        assert [batch.result(number) for number in range(3)] == [
            PAGE,
            -errno.EIO,
            PAGE,
        ]
        assert batch.data(2) == expected[PAGE : 2 * PAGE]
        assert not batch.zero


def test_what_the_kernel_does_not_take_is_an_error(disk: int) -> None:
    with Batch(disk) as batch:
        # Not aligned; behind the end; a good one.
        batch.begin([(512 + 1, PAGE), (SIZE, PAGE), (0, PAGE)])
        batch.end()
        assert batch.result(0) < 0 and batch.result(1) <= 0
        assert batch.result(2) == PAGE
        assert not batch.zero
    with Batch(CLOSED) as batch:
        batch.begin([(0, PAGE)] * 3)
        batch.end()
        assert [batch.result(number) for number in range(3)] == [-errno.EBADF] * 3
        assert not batch.zero


def test_memory_that_no_read_has_filled_is_not_zero(zeros: str) -> None:
    """Were a read's bytes to go elsewhere, zeros of before must not count."""
    fd = os.open(zeros, os.O_RDONLY | os.O_DIRECT)
    try:
        with Batch(fd) as batch:
            batch.begin([(0, ROOM)])
            batch.end()
            assert batch.zero
        with Batch(CLOSED) as batch:
            batch.begin([(0, PAGE), (PAGE, PAGE)])
            batch.end()
            assert batch.data(0)[0] == batch.data(1)[0] == 0xFF
    finally:
        os.close(fd)


def test_what_is_under_way_ends_with_the_context(disk: int) -> None:
    with Batch(disk) as batch:
        batch.begin([(0, ROOM)])
    assert batch.result(0) == ROOM


def test_a_fault_of_ours_leaves_nobody_waiting(disk: int) -> None:
    with pytest.raises(OverflowError):
        with Batch(disk) as batch:
            batch.begin([(0, PAGE), (-1, -PAGE)])


def test_nothing_holds_a_disk_after_a_look(loop_device: Callable[..., str]) -> None:
    """The kernel lets go of a file a moment after the last answer; mdadm
    --stop, or losetup here, would find it in use."""
    path = loop_device(64 * MIB)
    backing = f"/sys/block/{os.path.basename(path)}/loop/backing_file"
    with open(backing) as file:
        name = file.read().strip()
    for _ in range(60):
        assert content.look(path).content == Blank()
        subprocess.run(["losetup", "--detach", path], check=True)
        assert not os.path.exists(backing)
        subprocess.run(["losetup", path, name], check=True)


# ---------------------------------------------- a kernel without asynchronous I/O


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_CALLS", {})


def no_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "ctypes", None)


def used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """fs.aio-max-nr: more than that many at once get EAGAIN."""
    monkeypatch.setattr(aio, "DEPTH", 1 << 24)


@pytest.mark.parametrize("lack", [nowhere, used_up, no_ctypes])
def test_without_it_the_same_is_found(
    lack: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    loop_device: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lack(monkeypatch)
    with pytest.raises(OSError) as caught:
        Batch(0)
    assert caught.value.errno in (errno.ENOSYS, errno.EAGAIN, errno.EINVAL)
    size = 300 * MIB
    blank = content.look(loop_device(size))
    assert blank.content == Blank() and blank.bytes_read > 64 * MIB

    path = loop_device(size)
    with open(path, "r+b", buffering=0) as file:
        file.seek(size - 5)
        file.write(b"\1")
        os.fsync(file.fileno())
    assert content.look(path).content == Unknown(
        "Data without a known signature.", size - 5
    )
    reader = content.Reader(path)
    try:
        (pieces,) = [found for found in reader.pieces([Extent(0, size)]) if found]
    finally:
        reader.close()
    ((start, data),) = pieces
    assert start == size // MIB * MIB - MIB and bytes(data)[-5] == 1

    os.truncate(tmp_path / "disk1", size - MIB)
    found = content.look(path).content
    assert isinstance(found, Unknown) and "read error" in found.reason.lower()


def test_python_without_ctypes_finds_a_blank_disk(
    loop_device: Callable[..., str],
) -> None:
    """A policy of SELinux may refuse its import."""
    code = (
        "import sys; sys.modules['ctypes'] = None; from cc_kraken.proof import content;"
        f"print(content.look({loop_device(64 * MIB)!r}).content)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Blank()\n", "")
