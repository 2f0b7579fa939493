"""Command lines of mkfs, labels, and the allow-lists of options, type by type."""

from __future__ import annotations

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


EXT4 = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"


@pytest.mark.parametrize(
    ("kind", "options", "more", "expected"),
    [
        (
            "ext4",
            (),
            {},
            f"mkfs.ext4 -q -U {UUID} -E {EXT4},stride=0,stripe_width=0 -b 4096",
        ),
        (
            "ext4",
            (),
            {"geometry": STRIPES},
            f"mkfs.ext4 -q -U {UUID} -E {EXT4},stride=128,stripe_width=384 -b 4096",
        ),
        (
            "ext4",
            ("-E", "stride=16,stripe_width=32", "-m", "0", "-O", "^quota"),
            {"geometry": STRIPES},
            f"mkfs.ext4 -q -U {UUID} -E {EXT4},stride=16,stripe_width=32"
            " -O ^quota -b 4096 -m 0",
        ),
        (
            "ext4",
            ("-O", "quota", "-O", "project,^orphan_file", "-b", "1024"),
            {"prezeroed": False},
            f"mkfs.ext4 -q -U {UUID} -E nodiscard,lazy_itable_init=1,"
            "lazy_journal_init=0,stride=0,stripe_width=0"
            " -O quota,project,^orphan_file -b 1024",
        ),
        (
            "xfs",
            (),
            {},
            f"mkfs.xfs -q -K -d noalign -m uuid={UUID} -s size=512",
        ),
        (
            "xfs",
            ("-m", "reflink=0", "-i", "size=1024"),
            {"geometry": Geometry(4096)},
            "mkfs.xfs -q -K -d noalign -i size=1024"
            f" -m uuid={UUID},reflink=0 -s size=4096",
        ),
        (
            "xfs",
            (),
            {"geometry": STRIPES, "usage": "concurrency=num"},
            "mkfs.xfs -q -K -d su=524288,sw=3,concurrency=0 -l concurrency=0"
            f" -m uuid={UUID} -s size=512",
        ),
        (
            "xfs",
            ("-d", "sunit=128,swidth=256", "-l", "size=64m"),
            {"geometry": STRIPES},
            "mkfs.xfs -q -K -d sunit=128,swidth=256 -l size=64m"
            f" -m uuid={UUID} -s size=512",
        ),
        (
            "btrfs",
            (),
            {},
            f"mkfs.btrfs -q -K -U {UUID} -d single -m dup",
        ),
        (
            "btrfs",
            ("--metadata", "single", "--csum=xxhash", "-O", "^no-holes"),
            {},
            f"mkfs.btrfs -q -K -U {UUID} --csum xxhash -O ^no-holes"
            " -d single -m single",
        ),
    ],
)
def test_command_line(
    kind: str, options: tuple[str, ...], more: dict[str, object], expected: str
) -> None:
    assert line(kind, *options, **more) == f"{expected} -L KRKN-data {DEVICE}"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        # what forces
        ("ext4", ("-F",)),
        ("xfs", ("-f",)),
        ("btrfs", ("-f",)),
        ("btrfs", ("--force",)),
        # what makes nothing, or asks
        ("ext4", ("-n",)),
        ("ext4", ("-S",)),
        ("xfs", ("-N",)),
        ("ext4", ("-V",)),
        # another device or file
        ("ext4", ("-J", "device=/dev/sda")),
        ("ext4", ("-d", "/etc")),
        ("ext4", ("-l", "/etc/passwd")),
        ("ext4", ("-z", "/tmp/undo")),
        ("xfs", ("-l", "logdev=/dev/sda")),
        ("xfs", ("-l", "internal=0")),
        ("xfs", ("-r", "rtdev=/dev/sda")),
        ("xfs", ("-d", "name=/dev/sda")),
        ("xfs", ("-d", "file")),
        ("xfs", ("-p", "/etc/passwd")),
        ("xfs", ("-c", "options=/etc/passwd")),
        ("btrfs", ("-r", "/etc")),
        ("btrfs", ("--rootdir=/etc",)),
        ("xfs", ("/dev/sda",)),
        ("btrfs", ("/dev/sda",)),
        # identity
        ("ext4", ("-U", UUID)),
        ("ext4", ("-L", "x")),
        ("xfs", ("-m", f"uuid={UUID}")),
        ("xfs", ("-L", "x")),
        ("btrfs", ("--uuid", UUID)),
        ("btrfs", ("--label=x",)),
        # size and places
        ("xfs", ("-d", "size=1g")),
        ("xfs", ("-d", "agcount=7")),
        ("xfs", ("-l", "agnum=3")),
        ("ext4", ("-E", "offset=4096")),
        ("ext4", ("-O", "bigalloc")),
        ("ext4", ("-E", "packed_meta_blocks=1")),
        ("ext4", ("-E", "packed_meta_blocks=0")),
        ("xfs", ("-d", "su=980k,sw=2")),
        ("xfs", ("-d", "su=2m,sw=2")),
        ("xfs", ("-d", "su=64,sw=2")),
        ("xfs", ("-d", "sunit=96,swidth=192")),
        ("ext4", ("-O", "^metadata_csum")),
        ("ext4", ("-g", "4096")),
        ("btrfs", ("-b", "1g")),
        ("btrfs", ("-A", "1g")),
        # what contradicts our own choices
        ("ext4", ("-E", "discard")),
        ("ext4", ("-E", "lazy_itable_init=0")),
        ("ext4", ("-E", "assume_storage_prezeroed=1")),
        ("ext4", ("-E", "test_fs")),
        # form
        ("xfs", ("-m",)),
        ("xfs", ("-m", "reflink")),
        ("xfs", ("-m", "reflink=2")),
        ("xfs", ("-m", "reflink=0,reflink=1")),
        ("xfs", ("-m", "reflink=0", "-m", "reflink=1")),
        ("xfs", ("-m", "reflink=0,uuid=x")),
        ("xfs", ("-m", "reflink=0\n")),
        ("xfs", ("-m", "")),
        ("xfs", ("-mreflink=0",)),
        ("xfs", ("-d", "noalign=1")),
        ("ext4", ("-m", "5", "-m", "4")),
        ("ext4", ("-b", "65536")),
        ("ext4", ("-m", "-1")),
        ("ext4", ("-E", "stride=1,")),
        ("ext4", ("",)),
        ("btrfs", ("-M",)),
        ("btrfs", ("--metadata=raid1",)),
        ("btrfs", ("--metadata=",)),
        ("btrfs", ("-m=single",)),
    ],
)
def test_refused(kind: str, options: tuple[str, ...]) -> None:
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
