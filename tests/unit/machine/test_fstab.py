"""fstab: our line changes, every other byte stays."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.machine import files, fstab
from cc_kraken.machine.paths import Paths
from cc_kraken.model import FstabLine, Known

UUID = "0123abcd-0000-4000-8000-00000000abcd"
FOREIGN = (
    "# /etc/fstab: static file system information.\n"
    "UUID=aaaa / ext4 errors=remount-ro 0 1\n"
    "\n"
    "odd line\r\n"
    "/dev/vdb\t/mnt\tauto\tdefaults,nofail,comment=cloudconfig\t0\t2\n"
)


def line(name: str = "data", path: str = "/data", **kwargs) -> FstabLine:
    return fstab.entry(name, UUID, path, kwargs.pop("fs_type", "ext4"), **kwargs)


def test_entry_of_ext4() -> None:
    assert fstab.render(line()) == (
        f"UUID={UUID} /data ext4 "
        "defaults,nofail,x-systemd.device-timeout=30s,X-kraken.set=data 0 2"
    )


@pytest.mark.parametrize(
    ("fs_type", "passno"), [("ext4", "2"), ("xfs", "0"), ("btrfs", "0")]
)
def test_passno(fs_type: str, passno: str) -> None:
    assert line(fs_type=fs_type).passno == passno


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ((), ("defaults",)),
        (("noatime",), ("noatime",)),
        (("noatime", "noatime", "ro"), ("noatime", "ro")),
        (("nofail", "fail"), ("defaults",)),
        (("x-systemd.device-timeout=9h", "noatime"), ("noatime",)),
        (("comment=cloudconfig",), ("defaults",)),
        (("X-kraken.set=other", "x-KRAKEN.set=other"), ("defaults",)),
    ],
)
def test_ours_wins_over_wishes(wanted, first) -> None:
    options = line(options=wanted).options
    assert options == (
        *first,
        "nofail",
        "x-systemd.device-timeout=30s",
        "X-kraken.set=data",
    )


@pytest.mark.parametrize(
    "path", ["/a b", "/a\tb", "/a\nb", "/a\\b", "/a\\040b", "/a#b", "/ü", "/a\rb"]
)
def test_strange_paths_survive(path: str) -> None:
    rendered = fstab.render(line(path=path))
    assert len(rendered.split()) == 6
    assert fstab.parse(rendered) == (line(path=path),)


@pytest.mark.parametrize("path", ["/a b", "/a\tb", "/a\nb", "/a\\b", "/a#b", "/ü"])
@pytest.mark.skipif(not shutil.which("findmnt"), reason="needs findmnt")
def test_findmnt_reads_strange_paths_alike(tmp_path: Path, path: str) -> None:
    table = tmp_path / "fstab"
    table.write_text(fstab.render(line(path=path)) + "\n", encoding="utf-8")
    out = subprocess.run(
        ["findmnt", "--tab-file", str(table), "--raw", "-n", "-o", "TARGET,OPTIONS"],
        stdout=subprocess.PIPE,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    ).stdout.decode()
    target, options = out.split()
    decoded = re.sub(
        r"(?:\\x[0-9a-f]{2})+",
        lambda m: bytes.fromhex(m.group().replace("\\x", "")).decode(),
        target,
    )
    assert decoded == path
    assert options == ",".join(line().options)


@pytest.mark.parametrize(
    "name", ["data", "a,b", "a b", "x=y", "ü", "a\nb", "%41", "#", "\udcff"]
)
def test_set_names_survive(name: str) -> None:
    text = fstab.replace(FOREIGN, {name: line(name)})
    assert list(fstab.ours(text)) == [name]
    assert fstab.replace(text, {name: None}) == FOREIGN


def test_appended_and_foreign_bytes_kept() -> None:
    text = fstab.replace(FOREIGN, {"data": line()})
    assert text == FOREIGN + fstab.render(line()) + "\n"


def test_replaced_in_place() -> None:
    first = fstab.replace(FOREIGN, {"data": line()}) + "# end\n"
    text = fstab.replace(first, {"data": line(path="/other")})
    assert text == FOREIGN + fstab.render(line(path="/other")) + "\n# end\n"
    assert fstab.replace(text, {"data": line(path="/other")}) == text


def test_duplicates_collapse() -> None:
    old = fstab.render(line(path="/old")) + "\n"
    text = fstab.replace(f"# a\n{old}# b\n{old}# c\n", {"data": line()})
    assert text == f"# a\n{fstab.render(line())}\n# b\n# c\n"


def test_other_sets_stay_and_removed_one_goes() -> None:
    log = fstab.render(line("log", "/log")) + "\n"
    data = fstab.render(line()) + "\n"
    assert fstab.replace(log + data, {"data": None}) == log
    assert fstab.replace(log, {"data": None}) == log


def test_no_final_newline() -> None:
    text = fstab.replace("UUID=aaaa / ext4 defaults 0 1", {"data": line()})
    assert text == f"UUID=aaaa / ext4 defaults 0 1\n{fstab.render(line())}\n"
    ours = fstab.render(line(path="/old"))
    assert fstab.replace(ours, {"data": line()}) == fstab.render(line()) + "\n"


def test_crlf() -> None:
    dos = "UUID=aaaa / ext4 defaults 0 1\r\n"
    text = fstab.replace(dos + fstab.render(line()) + "\r\n", {"data": line()})
    assert text == dos + fstab.render(line()) + "\n"
    assert fstab.parse(dos)[0].passno == "1"


def test_a_comment_is_never_ours() -> None:
    text = "#" + fstab.render(line()) + "\n"
    assert fstab.ours(text) == {}
    assert fstab.replace(text, {"data": None}) == text


@pytest.mark.parametrize(
    ("other", "hit"),
    [
        ("/dev/vdb /data ext4 defaults 0 0", True),
        ("/dev/vdb /data/ ext4 defaults 0 0", True),
        ("/dev/vdb //data ext4", True),
        (f"UUID={UUID} /else ext4 defaults 0 0", False),
        ("/dev/vdb /data2 ext4 defaults 0 0", False),
        ("/dev/vdb none swap sw 0 0", False),
        ("# /dev/vdb /data ext4 defaults 0 0", False),
    ],
)
def test_on_path(other: str, hit: bool) -> None:
    assert bool(fstab.on_path(fstab.parse(FOREIGN + other + "\n"), "/data")) is hit


EXT4 = Known("ext4", UUID, "GOAT-data")
XFS = Known("xfs", UUID, "GOAT-data")
HERE, THERE = "259:1", "259:2"


@pytest.mark.parametrize(
    ("other", "known", "resolved", "hit"),
    [
        ("LABEL=GOAT-data /data ext4 defaults 0 1", EXT4, {}, True),
        ("LABEL=GOAT-data /data ext4 defaults 0 1", EXT4, HERE, True),
        ("LABEL=GOAT-data /data ext4 defaults 0 1", EXT4, THERE, False),
        ('LABEL="GOAT-data" /data auto', EXT4, {}, True),
        ("LABEL=GOAT-date /data ext4 defaults 0 1", EXT4, {}, False),
        ("LABEL=goat-data /data ext4 defaults 0 1", EXT4, {}, False),
        ("LABEL= /data ext4 defaults 0 1", Known("ext4", UUID), {}, False),
        ("/dev/disk/by-label/GOAT-data /data ext4", EXT4, HERE, True),
        ("/dev/disk/by-label/GOAT\\x20a /data xfs", Known("xfs", UUID, "GOAT a"),
         {}, True),
        ("LABEL=GOAT\\040a /data xfs", Known("xfs", UUID, "GOAT a"), {}, True),
        # mkfs.ext4 has cut it to sixteen bytes, and goat wrote it whole.
        ("LABEL=GOAT-commitlogs01 /data ext4", Known("ext4", UUID, "GOAT-commitlogs0"),
         {}, True),
        (f"UUID={UUID} /data ext4 defaults 0 0", EXT4, {}, True),
        (f'UUID="{UUID.upper()}" /data ext4 defaults 0 0', EXT4, {}, True),
        (f"/dev/disk/by-uuid/{UUID} /data ext4 defaults 0 0", EXT4, THERE, True),
        ("UUID=aaaa /data ext4 defaults 0 0", EXT4, HERE, False),
        ("/dev/md0 /data xfs defaults 0 0", XFS, HERE, True),
        ("/dev/md0 /data xfs defaults 0 0", XFS, THERE, False),
        ("/dev/md0 /data xfs defaults 0 0", XFS, {}, False),
        ("LABEL=GOAT-data /data btrfs subvol=a 0 0", Known("btrfs", UUID, "GOAT-data"),
         {}, False),
        ("/dev/md0 /data none bind 0 0", XFS, HERE, False),
        ("PARTLABEL=GOAT-data /data ext4 defaults", EXT4, HERE, True),
        ("tmpfs /data tmpfs", EXT4, {}, False),
    ],
)  # fmt: skip
def test_whether_a_line_names_this_very_filesystem(
    other: str, known: Known, resolved: object, hit: bool
) -> None:
    (parsed,) = fstab.parse(other + "\n")
    found = {parsed.spec: resolved} if isinstance(resolved, str) else {}
    assert fstab.names(parsed, known, HERE, found) is hit


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("/dev/md0", "/dev/md0"),
        ("LABEL=GOAT-data", "/dev/disk/by-label/GOAT-data"),
        ('LABEL="a b/c"', "/dev/disk/by-label/a\\x20b\\x2fc"),
        (f"UUID={UUID}", f"/dev/disk/by-uuid/{UUID}"),
        ("LABEL=ü", "/dev/disk/by-label/ü"),
        ("LABEL=..", "/dev/disk/by-label/.."),
        ("tmpfs", ""),
        ("none", ""),
        ("LABEL=", ""),
        ("PARTUUID=ABCD-01", "/dev/disk/by-partuuid/abcd-01"),
        ("PARTUUID='4A739FD5'", "/dev/disk/by-partuuid/4a739fd5"),
        ('PARTLABEL="a b"', "/dev/disk/by-partlabel/a\\x20b"),
        ("ID=nvme-x_vol1", "/dev/disk/by-id/nvme-x_vol1"),
        (f'UUID="{UUID.upper()}"', f"/dev/disk/by-uuid/{UUID}"),
        ('LABEL="it\'s"', "/dev/disk/by-label/it\\x27s"),
        ('LABEL="a', ""),
        ("id=nvme-x_vol1", ""),
        ("FOO=bar", ""),
    ],
)
def test_the_node_of_a_spec(spec: str, path: str) -> None:
    assert fstab.node(spec) == path


def test_lines_of_others_are_replaced_however_often_they_are_there() -> None:
    goat = "LABEL=GOAT-data /data ext4 defaults 0 1\n"
    same = "LABEL=GOAT-data\t/data  ext4 defaults 0 1\n"
    other = "LABEL=GOAT-log /log ext4 defaults 0 1\n"
    text = f"# a\n{goat}# {goat}{same}{other}{goat}"
    gone = fstab.parse(goat)
    after = fstab.replace(text, {"data": line()}, gone)
    assert after == f"# a\n{fstab.render(line())}\n# {goat}{other}"
    assert fstab.replace(after, {"data": line()}, gone) == after
    marked = f"{goat}{fstab.render(line(path='/old'))}\n{other}"
    after = fstab.replace(marked, {"data": line()}, gone)
    assert after == f"{fstab.render(line())}\n{other}"


def test_the_line_of_a_former_name_is_replaced_where_it_stands() -> None:
    old = line("old")
    text = f"{fstab.render(old)}\n# end\n"
    after = fstab.replace(text, {"data": line()}, (old,))
    assert after == f"{fstab.render(line())}\n# end\n"


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("defaults", ()),
        ("defaults,nofail,rw,noatime", ()),
        ("discard,noatime,x-systemd.device-timeout=9,ro", ("discard", "ro")),
        ("comment=cloudconfig,nofail,,async,nouser,relatime", ()),
        ("comment=systemd.automount", ("comment=systemd.automount",)),
        ("X-mount.mkdir,x-systemd.growfs", ("X-mount.mkdir", "x-systemd.growfs")),
    ],
)
def test_options_by_which_a_line_says_more(options: str, more: tuple) -> None:
    (theirs,) = fstab.parse(f"LABEL=GOAT-data /data ext4 {options} 0 1")
    assert fstab.says_more(theirs, line(options=("noatime",))) == more


@pytest.mark.skipif(not shutil.which("findmnt"), reason="needs findmnt")
@pytest.mark.parametrize("tag", ["UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"])
def test_mount_knows_the_tags_that_we_know(tmp_path: Path, tag: str) -> None:
    """What libmount takes for a tag it looks for, and does not find here."""
    table = tmp_path / "fstab"
    table.write_text(f"{tag}=nowhere / ext4 defaults 0 0\n")
    argv = ["findmnt", "--verify", "--tab-file", str(table)]
    said = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
    assert f"source: {tag}=nowhere" in said and "unsupported" not in said
    assert fstab.node(f"{tag}=nowhere").startswith("/dev/disk/by-")


def test_empty_field_is_refused() -> None:
    with pytest.raises(ValueError, match="empty field"):
        fstab.render(line(fs_type=""))


def test_read_and_write(tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    assert fstab.read(paths) == ""
    (tmp_path / "fstab").write_bytes(b"# \xff\r\n")
    text = fstab.replace(fstab.read(paths), {"data": line()})
    assert fstab.write(paths, text)
    assert not fstab.write(paths, text)
    assert (tmp_path / "fstab").read_bytes() == (
        b"# \xff\r\n" + files.encode(fstab.render(line())) + b"\n"
    )


foreign_text = st.text(
    alphabet=st.sampled_from(" \t\n\r#/\\=,\"'\x0b\x0c\x85\u2028abUID01é\udcff"),
    max_size=120,
)


@given(foreign_text, st.text(min_size=1, max_size=20).filter(lambda s: "\0" not in s))
def test_any_foreign_text_survives(text: str, path: str) -> None:
    wanted = line(path="/" + path)
    added = fstab.replace(text, {"data": wanted})
    assert fstab.ours(added) == {"data": wanted}
    assert fstab.replace(added, {"data": wanted}) == added
    removed = fstab.replace(added, {"data": None})
    assert removed in (text, text + "\n")


@given(st.binary(max_size=200))
def test_parser_takes_any_bytes(data: bytes) -> None:
    for parsed in fstab.parse(files.decode(data)):
        assert parsed.path


@given(
    st.lists(
        st.sampled_from(
            [
                "LABEL=GOAT-data /data ext4 defaults 0 1",
                "LABEL=GOAT-data\t/data ext4 defaults,noatime 0 1",
                f"UUID={UUID} /data/ ext4",
                "LABEL=GOAT-log /log ext4 defaults 0 1",
                "LABEL=other /data ext4 defaults 0 1",
                f"UUID={UUID} /else ext4 defaults 0 1",
                fstab.render(line(path="/old")),
                fstab.render(line("log", "/log")),
                fstab.render(line("former")),
                "# LABEL=GOAT-data /data ext4 defaults 0 1",
                "",
                "odd",
            ]
        ),
        max_size=8,
    ),
    st.sampled_from(["", "\n"]),
)
def test_whatever_is_taken_over_the_rest_stays_in_its_order(
    lines: list, end: str
) -> None:
    text = "\n".join(lines) + end
    theirs = tuple(
        one
        for one in fstab.parse(text)
        if one.set == "former"
        or (not one.set and one.path != "/else" and fstab.names(one, EXT4, HERE, {}))
    )
    after = fstab.replace(text, {"data": line()}, theirs)
    assert fstab.replace(after, {"data": line()}, theirs) == after
    kept = [
        raw
        for raw in lines
        if not any(one in theirs or one.set == "data" for one in fstab.parse(raw))
    ]
    left = after.split("\n")
    left.remove(fstab.render(line()))
    assert [raw for raw in left if raw] == [raw for raw in kept if raw]
    assert after.count("X-kraken.set=data ") == 1
