"""Command lines of mkfs, labels, and the allow-lists of options, type by type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.filesystems import registry
from cc_kraken.filesystems.base import Geometry
from cc_kraken.model import KrakenError

UUID = "f1a3c0de-0000-4000-8000-0123456789ab"
DEVICE = "/dev/nvme1n1"
STRIPES = Geometry(512, 512 << 10, 3 * (512 << 10))


def line(kind: str, *options: str, **more: object) -> str:
    words = registry.of(kind).argv(
        DEVICE,
        uuid=UUID,
        label="KRKN-data",
        options=options,
        **more,  # type: ignore[arg-type]
    )
    return " ".join(words)


EXT4 = f"mkfs.ext4 -q -U {UUID} -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"
XFS = "mkfs.xfs -q -K"
BTRFS = f"mkfs.btrfs -q -K -U {UUID}"
Row = tuple[str, str, dict[str, Any], str]
LINES: list[Row] = [
    ("ext4", "", {}, f"{EXT4},stride=0,stripe_width=0 -b 4096"),
    (
        "ext4",
        "",
        {"geometry": STRIPES},
        f"{EXT4},stride=128,stripe_width=384 -b 4096",
    ),
    (
        "ext4",
        "-E stride=16,stripe_width=32 -m 0 -O ^quota",
        {"geometry": STRIPES},
        f"{EXT4},stride=16,stripe_width=32 -O ^quota -b 4096 -m 0",
    ),
    (
        "ext4",
        "-O quota -O project,^orphan_file -b 1024",
        {"prezeroed": False},
        f"{EXT4[:-1]}0,stride=0,stripe_width=0 -O quota,project,^orphan_file -b 1024",
    ),
    ("xfs", "", {}, f"{XFS} -d noalign -m uuid={UUID} -s size=512"),
    (
        "xfs",
        "-m reflink=0 -i size=1024",
        {"geometry": Geometry(4096)},
        f"{XFS} -d noalign -i size=1024 -m uuid={UUID},reflink=0 -s size=4096",
    ),
    (
        "xfs",
        "",
        {"geometry": STRIPES, "usage": "[concurrency=num]"},
        f"{XFS} -d su=524288,sw=3,concurrency=0 -l concurrency=0 -m uuid={UUID}"
        " -s size=512",
    ),
    (
        "xfs",
        "-d sunit=128,swidth=256 -l size=64m",
        {"geometry": STRIPES},
        f"{XFS} -d sunit=128,swidth=256 -l size=64m -m uuid={UUID} -s size=512",
    ),
    ("btrfs", "", {}, f"{BTRFS} -d single -m dup"),
    (
        "btrfs",
        "--metadata single --csum=xxhash -O ^no-holes",
        {},
        f"{BTRFS} --csum xxhash -O ^no-holes -d single -m single",
    ),
]


@pytest.mark.parametrize(("kind", "options", "more", "expected"), LINES)
def test_command_line(
    kind: str, options: str, more: dict[str, Any], expected: str
) -> None:
    """Byte for byte: the rehearsal of a redone mkfs must be that of the first one."""
    assert line(kind, *options.split(), **more) == f"{expected} -L KRKN-data {DEVICE}"


REFUSED = {
    "ext4": (
        "-F; -n; -S; -V; -J device=/dev/sda; -d /etc; -l /etc/passwd; -z /tmp/undo; "
        f"-U {UUID}; -L x; -E offset=4096; -O bigalloc; -E packed_meta_blocks=1; "
        "-E packed_meta_blocks=0; -O ^metadata_csum; -g 4096; -E discard; "
        "-E lazy_itable_init=0; -E assume_storage_prezeroed=1; -E test_fs; "
        "-m 5 -m 4; -b 65536; -m -1; -E stride=1,"
    ),
    "xfs": (
        "-f; -N; -l logdev=/dev/sda; -l internal=0; -r rtdev=/dev/sda; "
        "-d name=/dev/sda; -d file; -p /etc/passwd; -c options=/etc/passwd; /dev/sda; "
        f"-m uuid={UUID}; -L x; -d size=1g; -d agcount=7; -l agnum=3; "
        "-d su=980k,sw=2; -d su=2m,sw=2; -d su=64,sw=2; -d sunit=96,swidth=192; -m; "
        "-m reflink; -m reflink=2; -m reflink=0,reflink=1; -m reflink=0 -m reflink=1; "
        "-m reflink=0,uuid=x; -mreflink=0; -d noalign=1"
    ),
    "btrfs": (
        f"-f; --force; -r /etc; --rootdir=/etc; /dev/sda; --uuid {UUID}; --label=x; "
        "-b 1g; -A 1g; -M; --metadata=raid1; --metadata=; -m=single"
    ),
}
ODD = [("xfs", ("-m", "reflink=0\n")), ("xfs", ("-m", "")), ("ext4", ("",))]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *[
            (kind, tuple(row.split()))
            for kind, rows in REFUSED.items()
            for row in rows.split("; ")
        ],
        *ODD,
    ],
)
def test_refused(kind: str, options: tuple[str, ...]) -> None:
    """What forces, makes nothing, asks, or names another device; another identity, size
    or place; what contradicts our own choices; what has not its form."""
    with pytest.raises(KrakenError) as caught:
        line(kind, *options)
    assert caught.value.trouble.kind == "mkfs-option-refused"
    assert "mkfs_options" in caught.value.trouble.remedy


GIB = 1 << 30
ROOM = [
    (("-J", "size=720"), 4, None),
    (("-J", "size=1900"), 4, "720 MiB at most on 4 GiB"),
    (("-J", "size=4000"), 8, "1440 MiB at most on 8 GiB"),
    (("-J", "size=8000"), 16, "2880 MiB at most on 16 GiB"),
    (("-J", "size=8000"), 100, None),
    (("-J", "size=700", "-i", "65536"), 4, None),
    (("-J", "size=700", "-i", "2048", "-I", "1024"), 4, "384 MiB at most on 4 GiB"),
    (("-J", "size=700", "-N", "2000000"), 4, "676 MiB at most on 4 GiB"),
    (("-J", "size=64", "-N", "99999999"), 4, "0 MiB at most on 4 GiB"),
    (("-i", "1500", "-I", "1024"), 4, None),
]


@pytest.mark.parametrize(("options", "gib", "refusal"), ROOM)
def test_a_journal_keeps_away_from_the_record(
    options: tuple[str, ...], gib: int, refusal: str | None
) -> None:
    if refusal is None:
        registry.of("ext4").check_room(options, gib * GIB)
        return
    with pytest.raises(KrakenError) as caught:
        registry.of("ext4").check_room(options, gib * GIB)
    assert caught.value.trouble.kind == "mkfs-option-refused"
    assert refusal in caught.value.trouble.expected


def test_the_log_of_xfs_is_never_near_the_record() -> None:
    """It lies within one of four allocation groups, the third one."""
    registry.of("xfs").check_room(("-l", "size=2g"), 4 * GIB)


@given(
    st.sampled_from(list(registry.TYPES)),
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from(["-m", "-d", "-E", "-O", "-l", "--csum", "-f", "-F"]),
            st.sampled_from(["reflink=0", "su=4k", "sw=2", "quota", "stride=4"]),
        ),
        max_size=6,
    ),
)
def test_nothing_unknown_passes(kind: str, options: list[str]) -> None:
    """What comes through holds only letters of the list, each once, and the
    device stands at the end alone."""
    try:
        words = registry.of(kind).argv(DEVICE, uuid=UUID, options=options)
    except KrakenError as error:
        assert error.trouble.kind == "mkfs-option-refused"
        return
    assert words[-1] == DEVICE
    letters = [word for word in words[1:-1:] if word.startswith("-")]
    ours = {"ext4": {"-q", "-U"}, "xfs": {"-q", "-K"}, "btrfs": {"-q", "-K", "-U"}}
    assert len(letters) == len(set(letters))
    assert set(letters) <= set(registry.of(kind).options) | ours[kind]
    assert not {"-f", "-F", "--force"} & set(words)
    assert not any("/" in word for word in words[:-1])


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("ext4", "KRKN-data", "KRKN-data"),
        ("ext4", "KRKN-0123456789abcdef", "KRKN-0123456789a"),
        ("xfs", "KRKN-0123456789abcdef", "KRKN-0123456"),
        ("btrfs", "x" * 300, "x" * 255),
        ("xfs", "KRKN-ääää", "KRKN-äää"),
        ("xfs", "KRKN-12345ää", "KRKN-12345ä"),
        ("xfs", "KRKN-123456ä", "KRKN-123456"),
        ("ext4", "a\nb\tc\0d", "abcd"),
        ("ext4", "\ud800a", "a"),
        ("xfs", "", ""),
    ],
)
def test_label(kind: str, text: str, expected: str) -> None:
    assert registry.of(kind).label(text) == expected


@given(st.sampled_from(list(registry.TYPES)), st.text())
def test_label_always_fits(kind: str, text: str) -> None:
    label = registry.of(kind).label(text)
    assert len(label.encode("utf-8")) <= registry.of(kind).label_bytes
    assert registry.of(kind).label(label) == label


def test_no_label_no_option() -> None:
    assert "-L" not in registry.of("xfs").argv(DEVICE, uuid=UUID, label="\n")


def test_a_label_is_never_an_option() -> None:
    words = registry.of("xfs").argv(DEVICE, uuid=UUID, label="-f")
    assert words[-3:] == ("-L", "-f", DEVICE)


def test_unknown_type() -> None:
    with pytest.raises(KrakenError, match="ntfs"):
        registry.of("ntfs")


@pytest.mark.parametrize(
    "change",
    [{"uuid": "x"}, {"uuid": UUID.upper()}, {"uuid": UUID + "\n"}, {"path": "-f"}],
)
def test_what_no_caller_may_pass(change: dict[str, str]) -> None:
    wanted = {"path": DEVICE, "uuid": UUID, **change}
    with pytest.raises(ValueError):
        registry.of("xfs").argv(wanted["path"], uuid=wanted["uuid"])
