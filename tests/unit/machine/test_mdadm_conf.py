"""ARRAY lines: ours alone, by UUID, and never a second one for an array."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.machine import mdadm_conf
from cc_kraken.machine.paths import Paths
from cc_kraken.model import ArrayLine
from tests.unit import worlds as w

ONE = "01234567-89ab-4def-8123-456789abcdef"
MD_ONE = "01234567:89ab4def:81234567:89abcdef"
TWO = "ffffffff-89ab-4def-8123-456789abcdef"
MD_TWO = "ffffffff:89ab4def:81234567:89abcdef"


def named(text: str) -> set[str]:
    """The UUIDs that the ARRAY lines of a text name."""
    return {line.uuid for line in mdadm_conf.parse(text) if line.uuid}


def test_text() -> None:
    text = mdadm_conf.text({"log": TWO, "data": ONE})
    assert text == mdadm_conf.HEADER + (
        f"# data\nARRAY UUID={MD_ONE}\n# log\nARRAY UUID={MD_TWO}\n"
    )
    assert mdadm_conf.text({}) == ""


@pytest.mark.parametrize(
    "name", ["a\nARRAY UUID=x", "a\r\n b", "\u2028", "\udcff", "#"]
)
def test_a_set_name_makes_no_line(name: str) -> None:
    text = mdadm_conf.text({name: ONE})
    assert named(text) == {ONE}
    assert text.count("\n") == mdadm_conf.HEADER.count("\n") + 2
    text.encode("ascii")


@pytest.mark.parametrize(
    "line",
    [
        f"ARRAY /dev/md/0 metadata=1.2 UUID={MD_ONE} name=host:0",
        f"ARRAY /dev/md0 level=raid1 num-devices=2\n  UUID={MD_ONE}\n",
        f"array <ignore> uuid={MD_ONE.upper()}",
        f"ARR UUID={ONE}",
        f'ARRAY "UUID={MD_ONE}"',
        f"ARRAY UUID='{MD_ONE}' # note",
        f"ARRAY UUID={MD_ONE}\r",
    ],
)
def test_named(line: str) -> None:
    assert named(f"MAILADDR root\nHOMEHOST <system>\n{line}") == {ONE}


@pytest.mark.parametrize(
    "line",
    [
        f"# ARRAY UUID={MD_ONE}",
        f"ARRAY /dev/md0 # UUID={MD_ONE}",
        f"AR UUID={MD_ONE}",
        f"DEVICE UUID={MD_ONE}",
        "ARRAY UUID=nonsense",
        f"ARRAYS UUID={MD_ONE}",
        f"DEVICE partitions\n# note\n\tARRAY UUID={MD_ONE}",
    ],
)
def test_not_named(line: str) -> None:
    assert named(line) == set()


@pytest.mark.parametrize(
    ("present", "place"),
    [
        ([], "mdadm.conf.d"),
        (["debian_version"], "mdadm/mdadm.conf.d"),
        (["mdadm/mdadm.conf"], "mdadm/mdadm.conf.d"),
        (["mdadm.conf"], "mdadm.conf.d"),
        (["debian_version", "mdadm.conf"], "mdadm.conf.d"),
        (["debian_version", "mdadm.conf", "mdadm/mdadm.conf"], "mdadm/mdadm.conf.d"),
        (["mdadm.conf", "mdadm/mdadm.conf"], "mdadm.conf.d"),
    ],
)
def test_location(tmp_path: Path, present: list, place: str) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = Paths(etc=str(tmp_path))
    assert mdadm_conf.location(paths) == str(tmp_path / place / "cc-kraken.conf")


def test_write_and_take_back(tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    assert not mdadm_conf.write(paths, {})
    assert list(tmp_path.iterdir()) == []
    assert mdadm_conf.write(paths, {"data": ONE})
    assert not mdadm_conf.write(paths, {"data": ONE})
    path = Path(mdadm_conf.location(paths))
    assert path.read_text() == mdadm_conf.text({"data": ONE})
    assert path.stat().st_mode & 0o777 == 0o644
    assert mdadm_conf.write(paths, {})
    assert not path.exists()


@pytest.mark.parametrize(
    "name", ["data", "a b", "%41", "a\nb", "é", "\udcff", "#", " "]
)
def test_one_set_at_a_time(tmp_path: Path, name: str) -> None:
    paths = Paths(etc=str(tmp_path))
    assert mdadm_conf.current(paths) == {}
    assert mdadm_conf.add(paths, name, ONE)
    assert mdadm_conf.add(paths, "log", TWO)
    assert not mdadm_conf.add(paths, "log", TWO)
    assert mdadm_conf.current(paths) == {name: ONE, "log": TWO}
    assert mdadm_conf.drop(paths, name)
    assert not mdadm_conf.drop(paths, name)
    assert mdadm_conf.current(paths) == {"log": TWO}
    assert mdadm_conf.drop(paths, "log")
    assert not Path(mdadm_conf.location(paths)).exists()


GOAT = (
    "ARRAY /dev/md0 level=raid0 num-devices=3 metadata=1.2 "
    f"name=\"ip-172-31-18-112:'GOAT-data'\" UUID={MD_ONE}\n"
    "   devices=/dev/xvdc,/dev/xvdd,/dev/xvde\n"
)


def of_array(paths: Paths, uuid: str) -> list[ArrayLine]:
    return [line for line in mdadm_conf.elsewhere(paths) if line.uuid == uuid]


def test_lines_of_others_for_our_arrays_go_and_every_other_byte_stays(
    tmp_path: Path,
) -> None:
    paths = Paths(etc=str(tmp_path))
    main = tmp_path / "mdadm.conf"
    first = "# mdadm.conf\nHOMEHOST <system>\r\n"
    last = f"# {GOAT.splitlines()[0]}\nARRAY /dev/md/1 UUID={MD_TWO}\n\tname=x:1"
    main.write_text(first + GOAT + last, newline="")
    main.chmod(0o600)
    (tmp_path / "mdadm.conf.d").mkdir()
    other = tmp_path / "mdadm.conf.d" / "other.conf"
    other.write_text(f"ARRAY <ignore> UUID={MD_TWO}\nARRAY /dev/md/3 name=3\n")
    unread = tmp_path / "mdadm.conf.d" / "not-read"
    unread.write_text(f"ARRAY UUID={MD_ONE}\n")
    before = other.read_bytes(), unread.read_bytes()
    found = mdadm_conf.elsewhere(paths)
    assert [(line.file, line.uuid, line.name) for line in found] == [
        (str(main), ONE, "ip-172-31-18-112:'GOAT-data'"),
        (str(main), TWO, "x:1"),
        (str(other), TWO, ""),
        (str(other), "", "3"),
    ]
    theirs = of_array(paths, ONE)
    assert mdadm_conf.add(paths, "data", ONE, theirs)
    assert not mdadm_conf.add(paths, "data", ONE, theirs)
    assert main.read_bytes().decode() == first + last
    assert main.stat().st_mode & 0o777 == 0o600
    assert (other.read_bytes(), unread.read_bytes()) == before
    assert mdadm_conf.current(paths) == {"data": ONE}
    assert mdadm_conf.elsewhere(paths) == found[1:]


@pytest.mark.parametrize(
    ("present", "read", "place"),
    [
        # goat writes where mdadm of Debian does not look; ours goes where it does
        (["debian_version", "mdadm/mdadm.conf"], False, "mdadm/mdadm.conf.d"),
        (["debian_version"], True, "mdadm.conf.d"),
        ([], True, "mdadm.conf.d"),
    ],
)
def test_the_file_that_goat_wrote(
    tmp_path: Path, present: list, read: bool, place: str
) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = Paths(etc=str(tmp_path))
    (tmp_path / "mdadm.conf").write_text(GOAT)
    (theirs,) = of_array(paths, ONE)
    assert theirs.read is read
    assert mdadm_conf.add(paths, "data", ONE, [theirs])
    assert (tmp_path / "mdadm.conf").read_text() == ""
    assert mdadm_conf.location(paths) == str(tmp_path / place / "cc-kraken.conf")
    assert mdadm_conf.current(paths) == {"data": ONE}
    assert mdadm_conf.elsewhere(paths) == ()


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (f"ARRAY UUID={MD_ONE}", ""),
        (f"a\nARRAY UUID={MD_ONE}\nb\n", "a\nb\n"),
        (f"ARRAY /dev/md0\n# note\n  UUID={MD_ONE}\n\n", "# note\n\n"),
        (f"ARRAY x\nDEVICE\n  UUID={MD_ONE}\n", f"ARRAY x\nDEVICE\n  UUID={MD_ONE}\n"),
        (f"ARRAY UUID={MD_TWO}\n", f"ARRAY UUID={MD_TWO}\n"),
        (f"ARRAY UUID={MD_ONE}\r\nb\r\n", "b\r\n"),
    ],
)  # fmt: skip
def test_without(config: str, left: str) -> None:
    gone = [line for line in mdadm_conf.parse(config) if line.uuid == ONE]
    assert mdadm_conf.without(config, gone) == left
    assert mdadm_conf.without(left, gone) == left


def test_a_set_with_a_new_name(tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    mdadm_conf.add(paths, "data", ONE)
    assert mdadm_conf.add(paths, "store", ONE)
    assert mdadm_conf.current(paths) == {"store": ONE}
    assert not mdadm_conf.drop(paths, "data")


def test_moves_with_the_main_file(tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    mdadm_conf.write(paths, {"data": ONE})
    old = Path(mdadm_conf.location(paths))
    (tmp_path / "mdadm").mkdir()
    (tmp_path / "mdadm/mdadm.conf").touch()
    assert mdadm_conf.write(paths, {"data": ONE})
    assert not old.exists()
    assert Path(mdadm_conf.location(paths)).exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("""ARRAY name="ip-1:'GOAT-data'" #x""", "ip-1:'GOAT-data'"),
        ("""ARRAY "name=a b" """, "a b"),
        ("""ARRAY na'me='"a"b'#c d'""", "ab#c d"),
        ("""ARRAY name=a#b""", "a#b"),
        ("""ARRAY name="a b""", "a b"),
    ],
)
def test_words_as_mdadm_reads_them(text: str, name: str) -> None:
    (line,) = mdadm_conf.parse(text)
    assert line.name == name


def test_what_a_line_says() -> None:
    (line,) = mdadm_conf.parse(
        "arr /dev/md/x LEVEL=raid1 Name='a b' devices=/dev/a,/dev/b*\n"
        f"# between\n\tuuid={MD_ONE.upper()} spare-group=g bitmap=/x #no\n",
        "file",
    )
    assert (line.file, line.device, line.uuid, line.name) == (
        "file", "/dev/md/x", ONE, "a b",
    )  # fmt: skip
    assert line.devices == ("/dev/a", "/dev/b*")
    assert line.more == ("spare-group=g", "bitmap=/x")
    assert line.text == (
        "arr /dev/md/x LEVEL=raid1 Name=a b devices=/dev/a,/dev/b* "
        f"uuid={MD_ONE.upper()} spare-group=g bitmap=/x"
    )


DEVICE_LINES = {
    # the lines, and the disks of nvme1n1 and nvme2n1 that they leave out
    "": "",
    "MAILADDR root": "",
    "DEVICE": "",
    "DEVICE nonsense": "",
    "DEVICE partitions": "",
    "dev Partitions containers": "",
    "DEVICE containers": "12",
    "DEVICE /dev/sd* /dev/xvd*": "12",
    "DEVICE /dev/nvme*n1": "",
    "DEVICE /dev/nvme1n1": "2",
    "DEVICE /dev/nvme1n1\nDEVICE /dev/sda\n  /dev/nvme2n[!2-9]": "",
    "DEVICE /dev/nvme[^2]n1": "2",
    "DEVICE /*/nvme1n1 /*": "2",
    "DEVICE /dev/disk/by-path/one*": "2",
    "DEVICE /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol*": "",
    "DEVICE /dev/disk/by-id/nvme-*_vol00000000000000002_1": "1",
    "# DEVICE /dev/sda": "",
    "DEVICES /dev/sda": "12",
    "DEVICESX /dev/sda": "",
    "DE /dev/sda": "",
}


@pytest.mark.parametrize("text", DEVICE_LINES)
@pytest.mark.parametrize("name", ["mdadm.conf", "mdadm.conf.d/site.conf"])
def test_disks_that_device_lines_leave_out(
    tmp_path: Path, text: str, name: str
) -> None:
    paths = Paths(etc=str(tmp_path), dev=str(tmp_path / "dev"))
    links = tmp_path / "dev/disk/by-path"
    links.mkdir(parents=True)
    disks = [w.device(1), w.device(2)]
    for disk in disks:
        (tmp_path / "dev" / disk.name).touch()
    (links / "one-1").symlink_to("../../nvme1n1")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    left = mdadm_conf.left_out(paths, disks)
    assert set(left) == {w.volume_id(int(one)) for one in DEVICE_LINES[text]}
    assert all(str(tmp_path / name) in rule for rule in left.values())
    # Nobody reads it where there is another main file beside a Debian.
    (tmp_path / "debian_version").touch()
    (tmp_path / "mdadm").mkdir()
    (tmp_path / "mdadm/mdadm.conf").touch()
    assert mdadm_conf.left_out(paths, disks) == {}


@given(st.text(alphabet=st.sampled_from("ARY UID=:0af#\"'\n\t\r-<é"), max_size=200))
def test_any_text(text: str) -> None:
    for uuid in named(text):
        assert len(uuid) == 36
    assert mdadm_conf.without(text, ()) == text
    left = mdadm_conf.without(text, mdadm_conf.parse(text))
    assert mdadm_conf.parse(left) == ()


@pytest.mark.skipif(not shutil.which("mdadm"), reason="needs mdadm")
def test_mdadm_accepts_it(tmp_path: Path) -> None:
    """mdadm complains about each line that it does not understand."""

    def complaints(text: str) -> str:
        config = tmp_path / "config"
        config.write_text(text)
        argv = ["mdadm", "--detail", "--scan", f"--config={config}"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return done.stderr.decode()

    assert complaints(mdadm_conf.text({"a # b 'c": ONE, "log": TWO})) == ""
    assert "no identity" in complaints("ARRAY /dev/md/0\n")
