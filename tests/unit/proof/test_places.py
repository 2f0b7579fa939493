"""The table of places against what the real mkfs leave behind."""

from __future__ import annotations

import bisect
import hashlib
import os
import random
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cc_kraken.filesystems import ext4, xfs
from cc_kraken.filesystems.base import BLOCK, GIB, KIB, MIB, TIB
from cc_kraken.model import Extent
from cc_kraken.proof import places
from tests.conftest import LATER, MORE, soon
from tests.counting import proof_cost

Spans = list[tuple[int, int]]

SIZES = st.one_of(
    st.integers(1, 64 * TIB),
    st.integers(1, 65536).map(lambda gib: gib * GIB),
    st.integers(places.WHOLE - 8192, places.WHOLE + 8192),
)


class Always(random.Random):
    """Draws the same at every time: the first place of a slice, or the last."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


RANDOMS = st.one_of(
    st.sampled_from([Always(0.0), Always(1 - 2**-53)]), st.integers().map(random.Random)
)


# ------------------------------------------------------------------- the shape


@given(SIZES)
def test_places_are_inside_sorted_disjoint_and_aligned(size: int) -> None:
    found = places.places(size)
    assert found == places.places(size)
    before = -1
    for place in found:
        assert before < place.start < place.end <= size
        assert place.start % BLOCK == 0
        assert place.end % BLOCK == 0 or place.end == size
        before = place.end


FROZEN = [
    (257 * MIB, "9a0eecea88d13d8f"),
    (GIB, "2b4b6faa61b5aa72"),
    (7 * GIB, "7d9d562466dbacac"),
    (100 * GIB, "eda917eac1438551"),
    (777 * GIB + 512, "0de92b7dc8261ad2"),
    (16 * TIB, "1795d467e30feced"),
    (64 * TIB, "0474fb1a6b71c241"),
]


@pytest.mark.parametrize(("size", "digest"), FROZEN)
def test_the_places_stay_the_same(size: int, digest: str) -> None:
    """A fingerprint that ``overwrite`` names is of what lies there."""
    text = repr([(place.start, place.end) for place in places.places(size)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@given(SIZES)
def test_both_ends_are_read(size: int) -> None:
    found = places.places(size)
    assert found[0].start == 0 and found[0].end >= min(size, places.EDGE)
    assert found[-1].end == size
    assert found[-1].start <= max(0, size - places.EDGE)


@given(SIZES)
def test_reads_and_bytes_are_bounded(size: int) -> None:
    """The worst case is 64 TiB, the largest volume that EBS has."""
    reads, volume = proof_cost(size)
    assert reads <= 20_000
    assert volume <= 450 * MIB
    if size <= 16 * TIB:
        assert reads <= 8_000
        assert volume <= 300 * MIB


@pytest.mark.parametrize("size", [1, 512, 4096, 1 * MIB, places.WHOLE])
def test_small_volumes_are_read_whole(size: int) -> None:
    assert places.places(size) == (Extent(0, size),)
    assert places.samples(size, random.Random(1)) == ()


def test_whole_means_everything() -> None:
    assert places.places(TIB, whole=True) == (Extent(0, TIB),)
    assert proof_cost(TIB, whole=True) == (1, TIB)


@pytest.mark.parametrize("size", [0, -1])
def test_nothing_to_read_of_nothing(size: int) -> None:
    assert places.places(size) == ()


# ----------------------------------------------------------------- the samples


@given(st.integers(places.WHOLE + 1, 64 * TIB), RANDOMS)
def test_one_sample_in_each_slice(size: int, rng: random.Random) -> None:
    drawn = places.samples(size, rng)
    assert len(drawn) == places.SAMPLES
    for index, sample in enumerate(drawn):
        assert sample.end - sample.start == places.SAMPLE
        assert sample.start % BLOCK == 0
        assert size * index // places.SAMPLES <= sample.start
        assert sample.end <= size * (index + 1) // places.SAMPLES


def test_samples_are_drawn_anew() -> None:
    rng = random.Random(7)
    assert places.samples(TIB, rng) != places.samples(TIB, rng)


@settings(max_examples=60 * MORE)
@given(
    st.integers(places.WHOLE + 1, 16 * TIB),
    st.floats(0, 1),
    RANDOMS,
)
def test_two_slices_in_one_piece_are_always_seen(
    size: int, where: float, rng: random.Random
) -> None:
    length = -(-2 * size // places.SAMPLES)
    start = int((size - length) * where)
    assert _hit(places.samples(size, rng), [(start, start + length)])


@pytest.mark.parametrize("size", [GIB, 100 * GIB, 777 * GIB, 16 * TIB])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 1.0])
def test_detection_limit_of_one_piece(size: int, share: float) -> None:
    """The docstring's b / w - (b / 2 w) ** 2, against a simulation."""
    rng = random.Random(20240229)
    width = size / places.SAMPLES
    length = int(share * width)
    tries = 300
    seen = 0
    for _ in range(tries):
        start = rng.randrange(size - length)
        seen += _hit(places.samples(size, rng), [(start, start + length)])
    least = share - (share / 2) ** 2
    # three standard deviations of a fair count
    assert seen / tries >= least - 3 * (least * (1 - least) / tries) ** 0.5 - 0.005


@pytest.mark.parametrize("size", [10 * GIB, TIB])
def test_detection_limit_of_scattered_blocks(size: int) -> None:
    """A share of 0.0281 % of all blocks is seen in 99 of 100 runs."""
    rng = random.Random(20240301)
    share = 0.000281
    tries = 200
    missed = 0
    for _ in range(tries):
        sampled = sum(
            (sample.end - sample.start) // BLOCK for sample in places.samples(size, rng)
        )
        # each block is in use with this probability, whichever it is
        missed += not any(rng.random() < share for _ in range(sampled))
    assert missed <= 8


# ------------------------------------------------------------- tools' own words


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        # seen on arrays that mdadm 4 made, and read off super1.c
        (1 * GIB, 2 * MIB),
        (2 * GIB, 3 * MIB),
        (16 * GIB, 17 * MIB),
        (100 * GIB, 65 * MIB),
        (128 * GIB, 129 * MIB),
        (16 * TIB, 129 * MIB),
    ],
)
def test_data_offset(size: int, offset: int) -> None:
    assert places.data_offset(size) == offset
    assert offset in places.data_offsets(size)


@given(st.integers(1, 65536).map(lambda gib: gib * GIB), st.data())
def test_data_offset_of_a_volume_that_was_smaller(
    size: int, data: st.DataObject
) -> None:
    smaller = data.draw(st.integers(1, size // GIB)) * GIB
    chunk = data.draw(st.sampled_from([0, 64 * KIB, 256 * KIB, 512 * KIB]))
    assert places.data_offset(smaller, chunk) in places.data_offsets(size)


@pytest.mark.parametrize("gib", [1, 7, 8, 9, 100, 512, 513, 1024, 4095, 4096, 16000])
@pytest.mark.parametrize(
    ("unit", "disks"), [(0, 0), (512, 2), (512, 3), (512, 8), (64, 4), (256, 5)]
)
def test_allocation_groups_are_those_of_mkfs_xfs(
    tmp_path: Path, gib: int, unit: int, disks: int
) -> None:
    size = gib * GIB - 65 * MIB
    size -= size % (unit * KIB * disks or BLOCK)
    image = _sparse(tmp_path, size)
    stripe = ["-d", f"su={unit}k,sw={disks}"] if unit else []
    said = _run(["mkfs.xfs", "-N", *stripe, str(image)])
    match = re.search(r"agsize=(\d+) blks", said)
    assert match is not None
    mine = xfs.group_size(size, unit * KIB, unit * KIB * disks)
    assert mine == int(match[1]) * BLOCK


# ------------------------------------------------------------ what is left over


def leave(kind: str, image: Path, size: int, options: Sequence[str] = ()) -> Spans:
    """The non-zero blocks that a real mkfs leaves on ``size`` bytes.

    The journal is not zeroed and nothing is discarded: on a sparse file both
    would only take time.
    """
    command = {
        "ext4": ["mkfs.ext4", "-q", "-E", "nodiscard,assume_storage_prezeroed=1"],
        "xfs": ["mkfs.xfs", "-q", "-K"],
        "btrfs": ["mkfs.btrfs", "-q", "-K"],
    }[kind]
    _sparse(image.parent, size, image.name)
    try:
        _run([*command, *options, str(image)])
        return list(_nonzero(image))
    finally:
        image.unlink()


@pytest.mark.parametrize("gib", soon((1, 100), [1, 10, 100, 1000, 16383], LATER))
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_a_filesystem_leaves_behind_each_offset(
    tmp_path: Path, kind: str, gib: int
) -> None:
    """With the first MiB of the device and of the filesystem zeroed."""
    size = gib * GIB
    offsets = places.data_offsets(size)
    found = places.places(size)
    left: Spans = []
    for offset in offsets:
        if kind == "xfs" or not left:
            # the others lie at the same places whatever their size
            inside = size - (offset if kind == "xfs" else offsets[-1])
            left = leave(kind, tmp_path / "image", inside)
        shifted = [(start + offset, end + offset) for start, end in left]
        rest = _without(_without(shifted, 0, MIB), offset, offset + MIB)
        assert rest
        assert _hit(found, rest), f"behind {offset // MIB} MiB"


@pytest.mark.parametrize("block", [1024, 2048])
@pytest.mark.parametrize("gib", [4, 300])
def test_what_an_ext4_of_other_blocks_leaves(
    tmp_path: Path, block: int, gib: int
) -> None:
    size = gib * GIB
    found = places.places(size)
    left = leave("ext4", tmp_path / "image", size - 2 * MIB, ["-b", str(block)])
    for offset in (0, 63 * 512, 136 * KIB, 192 * KIB, MIB, 2 * MIB):
        shifted = [(start + offset, end + offset) for start, end in left]
        # only what is far behind: the backups
        rest = [span for span in shifted if span[0] >= 200 * MIB]
        assert rest
        assert _hit(found, rest), f"behind {offset} bytes"


def test_backups_of_an_ext4_with_blocks_of_64_kib() -> None:
    """mkfs makes those only where pages are as large, or by force."""
    found = [place // (32 * GIB) for place in ext4.places(TIB, 64 * KIB)]
    assert set(found) >= {1, 3, 5, 7, 9, 25, 27, 31}
    for offset in (0, 129 * MIB):
        for group in (1, 3, 5, 7, 9, 25, 27):
            start = offset + group * 32 * GIB
            assert _hit(places.places(TIB), [(start, start + 1024)])


def test_what_sparse_super2_leaves(tmp_path: Path) -> None:
    size = 500 * GIB
    left = leave(
        "ext4", tmp_path / "image", size, ["-O", "sparse_super2,^resize_inode"]
    )
    rest = [span for span in left if span[0] >= places.EDGE]
    assert _hit(places.places(size), rest)


@pytest.mark.parametrize("groups", [6, 8, 16, 32, 48, 64, 96])
def test_what_an_xfs_per_processor_leaves(tmp_path: Path, groups: int) -> None:
    size = 500 * GIB
    for offset in (0, MIB, 129 * MIB):
        options = ["-d", f"agcount={groups}"]
        left = leave("xfs", tmp_path / "image", size - offset, options)
        shifted = [(start + offset, end + offset) for start, end in left]
        rest = _without(shifted, 0, offset + MIB)
        assert _hit(places.places(size), rest)


@pytest.mark.parametrize("disks", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("chunk", [64 * KIB, 256 * KIB, 512 * KIB, MIB])
@pytest.mark.parametrize("gib", [2, 300])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_a_filesystem_over_an_array_leaves_on_each_member(
    tmp_path: Path, kind: str, gib: int, chunk: int, disks: int
) -> None:
    """RAID 0 as mdadm makes it, its superblocks and heads zeroed: a member
    that holds anything else than zeros is hit."""
    size = gib * GIB
    offset = places.data_offset(size, chunk)
    row = chunk * disks
    options = {
        "ext4": [
            "-E",
            "nodiscard,assume_storage_prezeroed=1,"
            f"stride={chunk // BLOCK},stripe_width={row // BLOCK}",
        ],
        "xfs": ["-d", f"su={chunk},sw={disks}"],
        "btrfs": [],
    }[kind]
    array = (size - offset) // chunk * row
    left = leave(kind, tmp_path / "image", array, options)
    found = places.places(size)
    held = 0
    for member in range(disks):
        mapped = list(_on_member(left, member, disks, chunk, offset))
        rest = _without(_without(mapped, 0, MIB), offset, offset + MIB)
        held += bool(rest)
        assert not rest or _hit(found, rest), f"member {member}"
    assert held >= 1


@pytest.mark.parametrize("level", ["5 of 3", "5 of 4", "6 of 6", "10 of 4"])
def test_a_row_is_found_on_every_member(level: str) -> None:
    """Parity and mirrors: what lies in a row is read on each member of it."""
    disks = {"5 of 3": 2, "5 of 4": 3, "6 of 6": 4, "10 of 4": 2}[level]
    size = 100 * GIB
    chunk = 512 * KIB
    offset = places.data_offset(size)
    array = (size - offset) // chunk * chunk * disks
    found = places.places(size)
    for place in ext4.places(array):
        at = offset + place // (chunk * disks) * chunk + place % chunk
        assert _hit(found, [(at, at + BLOCK)])


# --------------------------------------------------------------------- helpers


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _sparse(folder: Path, size: int, name: str = "image") -> Path:
    image = folder / name
    with image.open("wb") as file:
        file.truncate(size)
    return image


def _nonzero(image: Path) -> Iterator[tuple[int, int]]:
    """The blocks of 4 KiB that are not zero."""
    zero = bytes(BLOCK)
    with image.open("rb") as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        position = 0
        while position < size:
            try:
                start = os.lseek(fd, position, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                return
            position = os.lseek(fd, max(start, position), os.SEEK_HOLE)
            for piece in range(start, position, MIB):
                data = os.pread(fd, min(MIB, position - piece), piece)
                if not data.strip(b"\0"):
                    continue
                for at in range(0, len(data), BLOCK):
                    block = data[at : at + BLOCK]
                    if block != zero[: len(block)]:
                        yield piece + at, piece + at + len(block)


def _on_member(
    spans: Iterable[tuple[int, int]], member: int, disks: int, chunk: int, offset: int
) -> Iterator[tuple[int, int]]:
    for start, end in spans:
        while start < end:
            stop = min(end, (start // chunk + 1) * chunk)
            number = start // chunk
            if number % disks == member:
                at = offset + number // disks * chunk + start % chunk
                yield at, at + stop - start
            start = stop


def _without(spans: Spans, low: int, high: int) -> Spans:
    rest = []
    for start, end in spans:
        if start < low:
            rest.append((start, min(end, low)))
        if end > high:
            rest.append((max(start, high), end))
    return rest


def _hit(found: Sequence[Extent], spans: Spans) -> bool:
    starts = [place.start for place in found]
    for start, end in spans:
        index = bisect.bisect_left(starts, end) - 1
        if index >= 0 and found[index].end > start:
            return True
    return False
