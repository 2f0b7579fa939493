"""Single values of tags and configuration: what is let through and what not."""

from __future__ import annotations

import os.path
import re
from typing import Any, Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cc_kraken.config import values
from cc_kraken.config.values import Unfit
from cc_kraken.filesystems import registry


def unfit(function: Callable[..., Any], *arguments: Any) -> Unfit:
    with pytest.raises(Unfit) as caught:
        function(*arguments)
    assert caught.value.expected
    return caught.value


@pytest.mark.parametrize(
    "path",
    ["/krkn_data", "/home", "/opt", "/srv", "/mnt", "/data/a/b", "/root/data"]
    + [
        "/var/lib/kafka",
        "/var/log",
        "/usr/local/data",
        "/opt/a b",
        "/a..b",
        "/...",
        "/-x",
    ]
    + [
        "/etcetera",
        "/börse",
        "/a#b",
        '/a"b',
        "/a%s",
        "/$(x)",
        "/a\\040b",
        "/" + "a" * 255,
    ],
)
def test_mount_paths(path: str) -> None:
    assert values.mount_path(path) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "not absolute"),
        ("data", "not absolute"),
        ("../data", "not absolute"),
        ("~/data", "not absolute"),
        ("/home/../etc", "not a normal path"),
        ("/home/./x", "not a normal path"),
        ("//data", "not a normal path"),
        ("/data/", "not a normal path"),
        ("/data//x", "not a normal path"),
        ("/data ", "ends in a blank"),
        ("/a\nb", "U+000A"),
        ("/a\tb", "U+0009"),
        ("/a\0b", "U+0000"),
        ("/a\x7f", "U+007F"),
        ("/a\u202eb", "U+202E"),
        ("/a\u200fb", "U+200F"),
        ("/a\u2028b", "U+2028"),
        ("/a\ud800", "U+D800"),
        ("/" + "a" * 256, "too long"),
        ("/" + "ä" * 128, "too long"),
        ("/aaaa" * 1000, "too long"),
        *[
            (path, "system's own")
            for path in ("/", "/etc", "/etc/x", "/proc", "/dev/x", "/sys", "/run/x")
            + ("/boot", "/boot/efi", "/usr", "/usr/lib", "/usr/local", "/bin", "/lib64")
            + (
                "/root",
                "/tmp",
                "/tmp/x",
                "/var",
                "/var/lib",
                "/var/tmp/x",
                "/var/run/x",
            )
            + (
                "/var/lib/cloud",
                "/var/lib/cloud/x",
                "/var/lib/cc-kraken",
                "/var/lib/dpkg",
            )
        ],
    ],
)
def test_mount_paths_that_are_refused(path: str, reason: str) -> None:
    assert reason in str(unfit(values.mount_path, path))


@given(st.text() | st.text("/.ab \n", max_size=12).map(lambda text: f"/{text}"))
def test_a_mount_path_is_absolute_normal_and_readable(text: str) -> None:
    try:
        path = values.mount_path(text)
    except Unfit:
        return
    assert path == text == os.path.normpath(text)
    assert os.path.isabs(path)
    assert path.isprintable() or not values.odd_character(path)
    for tree in ("/etc", "/proc", "/sys", "/dev", "/run", "/boot"):
        assert os.path.commonpath([path, tree]) != tree


@pytest.mark.parametrize(
    ("value", "number"),
    [("0750", 0o750), ("750", 0o750), ("2770", 0o2770), ("01777", 0o1777)],
)
def test_modes(value: str, number: int) -> None:
    assert values.mode(value) == number


@pytest.mark.parametrize(
    "value", ["", "75", "0o750", "888", "rwx", "017777", "-750", 488, True]
)
def test_modes_that_are_refused(value: Any) -> None:
    unfit(values.mode, value)


@pytest.mark.parametrize(
    ("value", "account"),
    [("kafka", "kafka"), ("0", "0"), (1000, "1000"), ("007", "7"), ("_apt", "_apt")]
    + [("a.b-c", "a.b-c"), ("host$", "host$"), ("4294967294", "4294967294")],
)
def test_accounts(value: Any, account: str) -> None:
    assert values.account(value) == account


@pytest.mark.parametrize(
    "value",
    ["", "-1", -1, "a b", "a:b", "-R", "--help", "a/b", "4294967295", "x" * 33, "1a"]
    + ["ka\nfka", "ñ"],
)
def test_accounts_that_are_refused(value: Any) -> None:
    unfit(values.account, value)


@pytest.mark.parametrize(
    ("value", "number"), [("3", 3), (3, 3), ("128", 128), ("01", 1)]
)
def test_members(value: Any, number: int) -> None:
    assert values.members(value) == number


@pytest.mark.parametrize(
    "value",
    ["0", "129", "-1", "3.0", "three", "", "1e2", "٣", True, 2.0, "3 ", "9" * 99],
)
def test_members_that_are_refused(value: Any) -> None:
    unfit(values.members, value)


@pytest.mark.parametrize(("value", "level"), [("0", 0), ("10", 10), (6, 6)])
def test_raid_levels(value: Any, level: int) -> None:
    assert values.raid_level(value) == level


@pytest.mark.parametrize("value", ["4", "raid0", "-1", "", False, "100"])
def test_raid_levels_that_are_refused(value: Any) -> None:
    unfit(values.raid_level, value)


@pytest.mark.parametrize("value", ["data", "log-1", "a.b_c", "0", "x" * 64, "vol-data"])
def test_names_of_sets(value: str) -> None:
    assert values.set_name(value) == value


@pytest.mark.parametrize(
    "value",
    ["", "-x", ".x", "a b", "a/b", "a\n", "x" * 65, "vol-0a1b", "a%i", "ä", "../x"],
)
def test_names_of_sets_that_are_refused(value: str) -> None:
    unfit(values.set_name, value)


@pytest.mark.parametrize("value", ["data", "KRKN-data", "a b", "ä"])
def test_labels(value: str) -> None:
    assert values.label(value) == value


@pytest.mark.parametrize("value", ["", " ", "a/b", "a\nb", "a\u202e", "x" * 256])
def test_labels_that_are_refused(value: str) -> None:
    unfit(values.label, value)


@pytest.mark.parametrize(
    ("value", "fs_type"),
    [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("none", None)],
)
def test_fs_types(value: str, fs_type: Any) -> None:
    assert values.fs_type(value) == fs_type


@pytest.mark.parametrize("value", ["", "ext3", "EXT4", "xfs -f", "{'a': 1}"])
def test_fs_types_that_are_refused(value: str) -> None:
    assert "ext4, xfs, btrfs, none" in unfit(values.fs_type, value).expected


@pytest.mark.parametrize(
    ("value", "words"),
    [("-m reflink=0", ("-m", "reflink=0")), (["-i", 8192], ("-i", "8192")), ("", ())],
)
def test_mkfs_options(value: Any, words: tuple) -> None:
    assert values.mkfs_options(value) == words


@pytest.mark.parametrize("value", [["a b"], ["a\n"], "-L ä", ["\0"], [""]])
def test_mkfs_options_that_are_refused(value: Any) -> None:
    unfit(values.mkfs_options, value)


@pytest.mark.parametrize(
    ("value", "fs_type", "options"),
    [
        ("noatime", "ext4", ("noatime",)),
        ("noatime, nodiratime,noatime", "xfs", ("noatime", "nodiratime")),
        ("defaults,nofail,auto", "ext4", ()),
        ("", "ext4", ()),
        ("data=writeback,commit=60,barrier=0,barrier", "ext4")
        + (("data=writeback", "commit=60", "barrier=0", "barrier"),),
        ("allocsize=64m,logbufs=8,inode64", "xfs")
        + (("allocsize=64m", "logbufs=8", "inode64"),),
        ("compress=zstd:3,discard=async,discard", "btrfs")
        + (("compress=zstd:3", "discard=async", "discard"),),
    ],
)
def test_mount_options(value: str, fs_type: str, options: tuple) -> None:
    assert values.mount_options(value, fs_type) == options


@pytest.mark.parametrize("fs_type", registry.TYPES)
@pytest.mark.parametrize(
    "value",
    ["bind", "rbind", "move", "remount", "loop", "offset=1", "X-kraken.set=a", "noauto"]
    + [
        "x-systemd.automount",
        "comment=cloudconfig",
        "device=/dev/sda",
        "logdev=/dev/sda",
    ]
    + ["sb=131072", "nouuid", "norecovery", "noload", "degraded", "rescue=all", "user"]
    + ["_netdev", "subvol=x", "uid=0", "noatime=1", "commit=x", "data", "noatime x"]
    + ["noatime,bind", "=", "=x", "NOATIME", "no\natime", "--bind", "nofail=1"],
)
def test_mount_options_that_are_refused(value: str, fs_type: str) -> None:
    assert fs_type in unfit(values.mount_options, value, fs_type).expected


def test_options_of_another_filesystem_are_refused() -> None:
    assert "'data=ordered'" in str(unfit(values.mount_options, "data=ordered", "xfs"))
    unfit(values.mount_options, "allocsize=1m", "ext4")
    unfit(values.mount_options, "inode64", "btrfs")


@given(
    st.text() | st.text("noatime=,x-. \n\t\0", max_size=20),
    st.sampled_from(list(registry.TYPES)),
)
def test_mount_options_are_plain_words(text: str, fs_type: str) -> None:
    try:
        options = values.mount_options(text, fs_type)
    except Unfit:
        return
    for option in options:
        assert re.fullmatch(r"[a-z0-9_:=.-]+", option)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a\u202eb", "'a\\u202eb'"),
        (3, "3"),
        ("x" * 99, "'" + "x" * 76 + "…"),
    ],
)
def test_quoted(value: Any, text: str) -> None:
    assert values.quoted(value) == text
