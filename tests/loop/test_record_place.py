"""The places of the intent record: nothing that we run writes there.

mkfs is run with our own command lines on sparse files of many sizes; a record
lies at the place before, and must lie there afterwards, byte for byte, with
nothing near it.  What mdadm writes on a member is computed as its super1.c
does, and read from superblocks by our own parser and by mdadm.  What a running
md does is for the virtual machines: :func:`check_member` is theirs, too.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.config.values import FEWEST_MEMBERS
from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import HEAD, Geometry
from cc_kraken.machine import md
from cc_kraken.model import Extent, KrakenError, Record
from cc_kraken.proof import places, record, rehearsal
from tests import crafted
from tests.conftest import umount

pytestmark = pytest.mark.long

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
UUID = "f1a3c0de-0000-4000-8000-0123456789ab"
INTENT = Record(
    identity="a1" * 32,
    volume_id="vol-0123456789abcdef0",
    fs_type="xfs",
    fs_uuid=UUID,
)

MakeDevice = Callable[..., str]


# ---------------------------------------------------------------------- mkfs


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on xfs, which takes sparse files of 64 TiB (ext4: 16)."""
    base = tmp_path_factory.mktemp("room")
    image, mounted = base / "image", base / "mounted"
    with open(image, "xb") as file:
        file.truncate(32 * GIB)
    mounted.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    umount(mounted)


SIZES = (
    *(GIB * number for number in (1, 2, 3, 5, 7, 8, 13, 16, 23, 31, 100, 125)),
    *(GIB * number for number in (292, 293, 333, 500, 999, 1023)),
    *(TIB * number for number in (1, 3, 4, 5, 16)),
)
#: btrfs writes no more on large ones, xfs and ext4 do.
LARGEST = (64 * TIB,)

#: Options that move structures, with sizes at which that could matter.
MOVING: dict[str, tuple[tuple[str, ...], ...]] = {
    "ext4": (
        ("-b", "1024"),
        ("-b", "2048"),
        ("-i", "1024"),
        ("-i", "4096", "-I", "1024"),
        ("-N", "4000000"),
        ("-T", "news"),
        ("-T", "largefile4"),
        ("-J", "size=256"),
        ("-i", "1500", "-I", "1024"),
        ("-O", "sparse_super2"),
        ("-E", "num_backup_sb=2", "-O", "sparse_super2"),
        ("-E", "orphan_file_size=4m", "-O", "orphan_file"),
        ("-E", "stride=16,stripe_width=64"),
        ("-O", "^has_journal,^orphan_file"),
        ("-O", "quota,project,inline_data,verity"),
        ("-O", "^64bit"),
    ),
    "xfs": (
        ("-b", "size=1024"),
        ("-b", "size=2k"),
        ("-s", "size=4096"),
        ("-d", "su=64k,sw=4"),
        ("-d", "su=1m,sw=2"),
        ("-d", "su=256k,sw=2", "-b", "size=1024"),
        ("-d", "sunit=2048,swidth=8192"),
        ("-l", "size=64m"),
        ("-l", "size=240m"),
        ("-m", "reflink=0,rmapbt=1"),
        ("-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0"),
        ("-i", "size=2048"),
        ("-n", "size=64k"),
    ),
    "btrfs": (
        ("-m", "single"),
        ("-d", "dup"),
        ("-n", "64k"),
        ("--csum", "blake2"),
        ("-R", "quota"),
    ),
}


@pytest.mark.parametrize("kind", registry.TYPES)
def test_mkfs_leaves_the_record(kind: str, room: Path) -> None:
    for size in (*SIZES, *(LARGEST if kind != "ext4" else ())):
        check_mkfs(room, kind, size, ())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind, several in MOVING.items() for options in several],
)
def test_options_leave_the_record(
    kind: str, options: tuple[str, ...], room: Path
) -> None:
    for size in (3 * GIB, 7 * GIB, 125 * GIB):
        check_mkfs(room, kind, size, options)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("kind", registry.TYPES)
def test_sector_sizes(kind: str, sector: int, room: Path) -> None:
    check_mkfs(room, kind, 4 * GIB, (), Geometry(sector))


@pytest.mark.parametrize("size", [GIB, 7 * GIB])
def test_ext4_with_a_journal_that_is_zeroed(size: int, room: Path) -> None:
    """After ``overwrite``, and with the largest journal for the size."""
    check_mkfs(room, "ext4", size, (), prezeroed=False)


#: Options of ext4 that leave its journal more or less room.
DENSE: tuple[tuple[str, ...], ...] = (
    (),
    ("-i", "1024", "-I", "512"),
    ("-i", "1500", "-I", "1024"),
    ("-N", "400000"),
    ("-b", "1024"),
    ("-O", "^64bit,sparse_super2"),
)


@pytest.mark.parametrize("options", DENSE)
def test_the_largest_journal_that_is_allowed(
    options: tuple[str, ...], room: Path
) -> None:
    """Zeroed, so that all of it shows; one MiB more is refused."""
    for size in (GIB, 3 * GIB, 4 * GIB, 7 * GIB, 8 * GIB, 16 * GIB, 23 * GIB):
        most = largest_journal(options, size)
        more = (*options, "-J", f"size={most + 1}")
        with pytest.raises(KrakenError) as caught:
            registry.of("ext4").check_room(more, size)
        assert caught.value.trouble.kind == "mkfs-option-refused"
        assert f"{most} MiB at most" in caught.value.trouble.expected
        largest = (*options, "-J", f"size={most}")
        registry.of("ext4").check_room(largest, size)
        check_mkfs(room, "ext4", size, largest, prezeroed=False)


def largest_journal(options: tuple[str, ...], size: int) -> int:
    """In MiB, asked for from above."""
    for most in range(size * 3 // 16 >> 20, 0, -1):
        with suppress(KrakenError):
            registry.of("ext4").check_room((*options, "-J", f"size={most}"), size)
            return most
    raise AssertionError("no journal at all")


@pytest.mark.parametrize(
    ("kind", "gib", "words"),
    [
        ("ext4", 4, ("-J", "size=1900")),
        ("ext4", 8, ("-J", "size=4000")),
        ("ext4", 16, ("-J", "size=8000")),
        ("xfs", 1, ("-d", "su=980k,sw=2")),
        ("xfs", 6, ("-d", "su=900k,sw=2")),
    ],
)
def test_what_is_refused_does_take_the_place(
    kind: str, gib: int, words: tuple[str, ...], room: Path
) -> None:
    """With these options mkfs writes over the record."""
    size, path = gib * GIB, room / "refused.img"
    with pytest.raises(KrakenError):
        registry.of(kind).parse(words)
        registry.of(kind).check_room(words, size)
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(record.single_place(size))
        file.write(record.encode(INTENT))
    argv = list(registry.of(kind).argv(str(path), uuid=UUID, prezeroed=False))
    if words[0] == "-d":
        argv[argv.index("noalign")] = words[1]
    else:
        argv[1:1] = words
    try:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        with open(path, "rb") as file:
            file.seek(record.single_place(size))
            assert file.read(4096) != record.encode(INTENT)
    finally:
        path.unlink()


def check_mkfs(
    room: Path,
    kind: str,
    size: int,
    options: tuple[str, ...],
    shape: Geometry | None = None,
    prezeroed: bool = True,
) -> None:
    """mkfs over a record; it survives, and no data comes near it."""
    place = record.single_place(size)
    block = record.encode(INTENT)
    path = room / f"{kind}.img"
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(place)
        file.write(block)
    argv = rehearsal.command_line(
        kind,
        str(path),
        shape or Geometry(),
        uuid=UUID,
        label="KRKN-data",
        options=options,
        prezeroed=prezeroed,
    )
    try:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        with open(path, "rb") as file:
            file.seek(place)
            assert file.read(4096) == block, f"{kind} of {size}: the record is lost"
        near = Extent(place - 512 * KIB, place + 512 * KIB)
        touching = [
            extent
            for extent in rehearsal.data_extents(str(path))
            if extent.start < near.end and near.start < extent.end
        ]
        assert touching == [Extent(place, place + 4096)], f"{kind} of {size}"
        check_former_place(path, size, place)
    finally:
        path.unlink()


def check_former_place(path: Path, size: int, place: int) -> None:
    """The filesystem tells where its record lies when the volume was enlarged."""
    with open(path, "rb") as file:
        (found,) = registry.superblocks(file.read(HEAD), size)
    assert not found.flaw
    assert record.former_place(size, found.size) is None
    for more in (GIB, 9 * GIB, size):
        assert record.former_place(size + more, found.size) == place
        assert record.is_former_place(size + more, place)


@given(st.integers(1, 64 * 1024), st.integers(1, 64 * 1024))
def test_no_other_place_is_a_former_one(one: int, other: int) -> None:
    small, large = sorted((one * GIB, other * GIB))
    place = record.single_place(small)
    assert record.is_former_place(large, place) == (small < large)
    assert not record.is_former_place(large, place + 4096)


# --------------------------------------------------------------------- mdadm


def choose_bm_space(sectors: int) -> int:
    """Sectors kept for the bitmap: super1.c, choose_bm_space()."""
    if sectors < 64 * 2:
        return 0
    if sectors - 64 * 2 >= 200 * 1024 * 1024 * 2:
        return 128 * 2
    if sectors - 4 * 2 > 8 * 1024 * 1024 * 2:
        return 64 * 2
    return 4 * 2


def metadata_end(size: int, level: int, disks: int, data_offset: int) -> int:
    """Byte behind all that ``mdadm --create`` lays before the data, with an
    internal bitmap: add_internal_bitmap1() and write_init_super1()."""
    used = (size - data_offset) // 512
    synced = used * disks // 2 if level == 10 else used
    room = choose_bm_space(used)
    bits = synced * 512 // 4096 + 1
    chunk = 4096
    while bits > (room * 512 - 256) * 8:
        chunk *= 2
        bits = (bits + 1) // 2
    chunk = max(chunk, 64 * MIB)
    bitmap = -(-(-(-synced * 512 // chunk) // 8 + 256) // 4096) * 4096
    assert bitmap <= room * 512 + 4096
    log = 4096
    return 4096 + 4096 + max(bitmap, room * 512) + log


@given(
    st.integers(1, 64 * 1024),
    st.sampled_from(sorted(FEWEST_MEMBERS)),
    st.integers(2, 128),
)
def test_mdadm_leaves_the_record(gib: int, level: int, disks: int) -> None:
    """Every size from 1 GiB to 64 TiB, every level, up to 128 members."""
    size = gib * GIB
    offset = places.data_offset(size)
    member = record.extent(record.MEMBER_PLACE)
    assert offset % MIB == 0
    assert metadata_end(size, level, disks, offset) <= 160 * KIB < member.start
    assert member.end <= MIB < offset <= size // 100


def test_create_says_the_data_offset() -> None:
    words = md.create_argv(
        ["/dev/a", "/dev/b"],
        node="/dev/md/KRKN-data",
        uuid=UUID,
        level=1,
        name="KRKN-data",
        data_offset=places.data_offset(GIB),
    )
    assert words == (
        "mdadm",
        "--create",
        "/dev/md/KRKN-data",
        "--metadata=1.2",
        "--uuid=f1a3c0de:00004000:80000123:456789ab",
        "--level=1",
        "--raid-devices=2",
        "--homehost=any",
        "--name=KRKN-data",
        "--data-offset=2048K",
        "--bitmap=internal",
        "/dev/a",
        "/dev/b",
    )


@pytest.mark.parametrize(
    ("level", "bitmap", "chunk"),
    [
        (0, None, "--chunk=512"),
        (1, "--bitmap=internal", None),
        (5, "--bitmap=internal", "--chunk=512"),
        (6, "--bitmap=internal", "--chunk=512"),
        (10, "--bitmap=internal", "--chunk=512"),
    ],
)
def test_create_asks_nothing_and_forces_nothing(
    level: int, bitmap: str | None, chunk: str | None
) -> None:
    words = md.create_argv(
        ["/dev/a"] * 4,
        node="/dev/md/KRKN-data",
        uuid=UUID,
        level=level,
        name="KRKN-data",
        data_offset=places.data_offset(TIB),
    )
    assert [word for word in words if word.startswith("--bitmap")] == (
        [bitmap] if bitmap else []
    )
    assert [word for word in words if word.startswith("--chunk")] == (
        [chunk] if chunk else []
    )
    assert "--data-offset=132096K" in words
    assert not {"--run", "--force", "--assume-clean", "-f", "-R"} & set(words)


def check_member(head: bytes) -> tuple[Extent, ...]:
    """A member that mdadm made (its first 12 KiB): superblock, bitmap,
    bad-block log and data leave the record alone.  Also for the virtual
    machines, where md runs."""
    used = record.md_extents(head)
    assert len(used) >= 2, "no md superblock of version 1.2"
    member = record.extent(record.MEMBER_PLACE)
    for extent in used:
        assert extent.end <= member.start or member.end <= extent.start, used
    for extent in used[:-1]:
        for own in rehearsal.MD_EXTENTS:
            assert own.start <= extent.start and extent.end <= own.end, used
    return used


def member_head(
    size: int, *, bitmap: bool = True, chunk: int = 64 * MIB, log: int | None = None
) -> bytes:
    """The first 12 KiB of a member, as write_init_super1() lays them out."""
    _, block = crafted.md1(size, data_offset=places.data_offset(size))
    superblock = bytearray(block)
    sectors = (size - places.data_offset(size)) // 512
    head = bytearray(12288)
    room = choose_bm_space(sectors)
    if bitmap:
        struct.pack_into("<I", superblock, 8, 1)
        struct.pack_into("<i", superblock, 96, 8)
        struct.pack_into("<II", head, 8192, 0x6D746962, 4)
        head[8200:8216] = crafted.MD_UUID.bytes
        struct.pack_into("<QII", head, 8192 + 40, sectors, 0, chunk)
        room = -(-(-(-sectors * 512 // chunk) // 8 + 256) // 4096) * 8
    struct.pack_into("<Hi", superblock, 186, 8, log if log is not None else 8 + room)
    struct.pack_into("<I", superblock, 216, 0)
    checksum = crafted.superblock.md1_checksum(bytes(superblock))
    struct.pack_into("<I", superblock, 216, checksum)
    head[4096:8192] = superblock
    return bytes(head)


@pytest.mark.parametrize("size", [GIB, 9 * GIB, 300 * GIB, 16 * TIB])
@pytest.mark.parametrize("bitmap", [True, False])
def test_members_as_mdadm_reads_them(
    size: int, bitmap: bool, room: Path, loop_device: MakeDevice
) -> None:
    """Our reading of where md's metadata lies is mdadm's."""
    path = room / "member.img"
    path.write_bytes(member_head(size, bitmap=bitmap))
    os.truncate(path, size)
    device = loop_device(path=path)
    try:
        used = check_member(path.open("rb").read(12288))
        said = subprocess.run(
            ["mdadm", "--examine", device], capture_output=True, text=True, check=True
        ).stdout
    finally:
        path.unlink()
    assert f"Data Offset : {used[-1].start // 512} sectors" in said
    log = re.search(r"Bad Block Log : \d+ entries available at offset (\d+) s", said)
    starts = [extent.start for extent in used]
    assert log and 4096 + 512 * int(log.group(1)) in starts
    if bitmap:
        assert "Internal Bitmap : 8 sectors from superblock" in said
        shown = subprocess.run(
            ["mdadm", "--examine-bitmap", device],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        bits = re.search(r"Bitmap : (\d+) bits", shown)
        assert bits
        end = next(extent.end for extent in used if extent.start == 8192)
        assert end - 8192 == -(-(-(-int(bits.group(1)) // 8) + 256) // 4096) * 4096


def test_a_layout_that_leaves_no_room_is_seen() -> None:
    """The check above can fail: a bad-block log right there, data before."""
    with pytest.raises(AssertionError):
        check_member(member_head(9 * GIB, log=(508 * KIB) // 512))
    with pytest.raises(AssertionError):
        check_member(member_head(16 * TIB, chunk=32 * KIB))
    with pytest.raises(AssertionError):
        check_member(bytes(12288))
