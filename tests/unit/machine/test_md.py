"""md arrays as sysfs shows them, and names that mdadm can take."""

from __future__ import annotations

import os
import re
from pathlib import Path
from unittest.mock import DEFAULT, MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cc_kraken.machine import command
from cc_kraken.machine import md as arrays
from cc_kraken.model import Array, KrakenError
from tests.unit.tree import GIB, Tree

UUID = "01234567-89ab-4def-8123-456789abcdef"
MD_UUID = "01234567:89ab4def:81234567:89abcdef"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_scan(tree: Tree) -> None:
    tree.array("md127", ["nvme1n1", "nvme2n1"], uuid=UUID, size=3 * GIB)
    tree.virtual("loop0", [], major=7)
    tree.mount("/data", tree.number("md127"), "xfs", "/dev/md127")
    assert arrays.scan(tree.paths) == (
        Array(
            name="md127",
            path=f"{tree.paths.dev}/md127",
            devno=tree.number("md127"),
            uuid=UUID,
            level="raid0",
            raid_disks=2,
            members=("nvme1n1", "nvme2n1"),
            state="clean",
            size=3 * GIB,
            mounted=("/data",),
        ),
    )


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("clear", False),
        ("inactive", False),
        ("", False),
        ("readonly", True),
        ("read-auto", True),
        ("clean", True),
        ("active", True),
        ("active-idle", True),
        ("write-pending", True),
    ],
)
def test_running(tree: Tree, state: str, running: bool) -> None:
    tree.array("md0", ["nvme1n1"], state=state)
    (array,) = arrays.scan(tree.paths)
    assert array.running is running


def test_odd_values(tree: Tree) -> None:
    tree.array("md0", ["a"], level="raid5", raid_disks="4 (3)", degraded=1)
    tree.array("md1", ["b"], level="", uuid="nonsense", state="inactive")
    tree.array("md2", ["c"], uuid="00000000-0000-0000-0000-000000000000")
    five, inactive, zero = arrays.scan(tree.paths)
    assert (five.raid_disks, five.degraded, five.uuid) == (4, 1, "")
    assert (inactive.level, inactive.uuid, inactive.degraded) == ("", "", 0)
    assert zero.uuid == ""


def test_vanishing_array(tree: Tree) -> None:
    (tree.array("md0", ["a"]) / "dev").unlink()
    tree.array("md1", ["b"])
    assert [array.name for array in arrays.scan(tree.paths)] == ["md1"]


def test_uuid_forms() -> None:
    assert arrays.mdadm_uuid(UUID) == MD_UUID
    assert arrays.canonical_uuid(MD_UUID) == UUID
    assert arrays.canonical_uuid(UUID.upper()) == UUID
    with pytest.raises(ValueError, match="badly formed"):
        arrays.mdadm_uuid("--force")


@pytest.mark.parametrize(
    ("set_name", "name"),
    [
        ("data", "KRKN-data"),
        ("data1", "KRKN-data1_"),
        ("a.b-c_d", "KRKN-a.b-c_d"),
        ("x" * 22, "KRKN-" + "x" * 22),
    ],
)
def test_plain_array_names(set_name: str, name: str) -> None:
    assert arrays.array_name(set_name) == name


@given(st.lists(st.text(min_size=1, max_size=255), min_size=2, max_size=2, unique=True))
def test_array_names_fit_and_differ(names: list) -> None:
    made = [arrays.array_name(name) for name in names]
    for name in made:
        assert re.fullmatch(r"KRKN-[A-Za-z0-9._-]{0,21}[A-Za-z._-]", name)
    assert made[0] != made[1]


@pytest.mark.parametrize(
    "pair", [("data1", "data1_"), ("a b", "a_b"), ("y" * 22 + "1", "y" * 22 + "2")]
)
def test_likely_collisions(pair) -> None:
    assert arrays.array_name(pair[0]) != arrays.array_name(pair[1])


@pytest.fixture
def mdadm(mocker: MockerFixture) -> MagicMock:
    """Stands for mdadm where there is no md."""
    return mocker.patch.object(command, "run", autospec=True, return_value=ended())


def ended(code: int = 0, err: str = "") -> command.Finished:
    return command.Finished(("mdadm",), code, "", err)


def asked(mdadm: MagicMock) -> list[list[str]]:
    return [list(call.args[0]) for call in mdadm.call_args_list]


def test_assemble(tree: Tree, mdadm: MagicMock) -> None:
    arrays.assemble(tree.paths, "KRKN-data", UUID, ["/dev/nvme1n1", "/dev/nvme2n1"])
    assert asked(mdadm) == [
        ["mdadm", "--assemble", "/dev/md/KRKN-data", f"--uuid={MD_UUID}"]
        + ["/dev/nvme1n1", "/dev/nvme2n1"]
    ]


def test_md_is_loaded_first_where_it_is_a_module(
    tree: Tree, mdadm: MagicMock, mocker: MockerFixture
) -> None:
    """mdadm 4.5 on Linux 6.18 does not load it by itself."""
    mocker.patch.object(command, "available", autospec=True, return_value=True)
    os.unlink(f"{tree.paths.proc}/mdstat")
    arrays.assemble(tree.paths, "KRKN-data", UUID, ["/dev/nvme1n1"])
    assert [argv[:2] for argv in asked(mdadm)] == [
        ["modprobe", "md_mod"],
        ["mdadm", "--assemble"],
    ]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["nvme8n1", "nvme9n1"], False),  # of another node, or a copy
        (["nvme1n1"], True),  # half of ours: mdadm goes on with it
    ],
)
def test_another_array_has_the_name(
    tree: Tree, mdadm: MagicMock, members: list, expected: bool
) -> None:
    tree.array("md127", members)
    link = Path(tree.paths.dev, "md/KRKN-data")
    link.parent.mkdir(parents=True)
    link.symlink_to("../md127")
    ours = ["/dev/nvme1n1", "/dev/nvme2n1"]
    found = arrays.node(tree.paths, "KRKN-data", UUID, ours)
    assert (found == "/dev/md/KRKN-data") == expected
    assert re.fullmatch("/dev/md/KRKN-data(-[a-z]+)?", found)
    arrays.assemble(tree.paths, "KRKN-data", UUID, ours)
    assert asked(mdadm)[0][2] == found
    long = arrays.node(tree.paths, "x" * arrays.NAME_MAX, UUID, ours)
    assert len(os.path.basename(long)) <= arrays.NAME_MAX


def test_assemble_that_udev_was_faster_with(tree: Tree, mdadm: MagicMock) -> None:
    mdadm.return_value = ended(1)
    tree.array("md127", ["nvme1n1", "nvme2n1"])
    arrays.assemble(tree.paths, "KRKN-data", UUID, ["/dev/nvme1n1", "/dev/nvme2n1"])


@pytest.mark.parametrize("code", [1, 2])
def test_assemble_that_fails(tree: Tree, mdadm: MagicMock, code: int) -> None:
    mdadm.return_value = ended(code, "mdadm: need 3 to start\n")
    tree.array("md127", ["nvme1n1"], state="inactive")
    tree.array("md126", ["nvme9n1"])
    with pytest.raises(KrakenError, match="need 3 to start") as caught:
        arrays.assemble(tree.paths, "KRKN-data", UUID, ["/dev/nvme1n1"])
    assert caught.value.trouble.kind == "assemble-failed"


def test_incomplete_adds_what_is_in_no_array_yet(tree: Tree, mdadm: MagicMock) -> None:
    md = tree.array("md127", ["nvme1n1"], state="inactive", level="") / "md"

    def join(argv: list[str], **_: object) -> object:
        (md / f"dev-{argv[-1][5:]}").mkdir()
        return DEFAULT

    mdadm.side_effect = join
    members = ["/dev/nvme1n1", "/dev/nvme2n1"]
    arrays.assemble(tree.paths, "KRKN-data", UUID, members, incomplete=True)
    assert asked(mdadm) == [["mdadm", "--incremental", "--config=none", "/dev/nvme2n1"]]


def test_an_array_of_a_newer_kernel_leads_back_to_that(
    tree: Tree, mdadm: MagicMock
) -> None:
    said = "mdadm: failed to add /dev/nvme1n1 to /dev/md/x: Invalid argument\n"
    mdadm.return_value = ended(1, said)
    with pytest.raises(KrakenError) as caught:
        arrays.assemble(tree.paths, "KRKN-data", UUID, ["/dev/nvme1n1"])
    assert "go back to an image with the newer" in caught.value.trouble.remedy


def test_incomplete_that_fails(tree: Tree, mdadm: MagicMock) -> None:
    tree.array("md127", ["nvme1n1"], state="inactive", level="")
    mdadm.return_value = ended(1, "mdadm: metadata mismatch\n")
    members = ["/dev/nvme1n1", "/dev/nvme2n1"]
    with pytest.raises(KrakenError, match="metadata mismatch") as caught:
        arrays.assemble(tree.paths, "KRKN-data", UUID, members, incomplete=True)
    assert caught.value.trouble.kind == "assemble-failed"


def test_start_degraded(tree: Tree) -> None:
    directory = tree.array("md127", ["nvme1n1"], state="inactive", level="raid1")
    arrays.start_degraded(tree.paths, "md127")
    assert (directory / "md/array_state").read_text().startswith("read-auto")


@pytest.mark.parametrize("state", ["clean", "clear", "active"])
def test_start_degraded_only_what_is_inactive(tree: Tree, state: str) -> None:
    directory = tree.array("md127", ["nvme1n1"], state=state)
    with pytest.raises(KrakenError, match=state):
        arrays.start_degraded(tree.paths, "md127")
    assert (directory / "md/array_state").read_text() == f"{state}\n"
    with pytest.raises(KrakenError, match="unknown"):
        arrays.start_degraded(tree.paths, "md7")


class Clock:
    """Time that passes only by sleeping; things can happen meanwhile."""

    def __init__(self, happening=None) -> None:
        self.now = 0.0
        self.happening = happening or {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.happening if when <= self.now]:
            self.happening.pop(when)()


def test_wait_running(tree: Tree, mocker: MockerFixture) -> None:
    directory = tree.array("md127", ["nvme1n1"], state="inactive", size=0)
    clock = Clock(
        {
            1.0: lambda: (directory / "md/array_state").write_text("clean\n"),
            2.0: lambda: (directory / "size").write_text("2048\n"),
        }
    )
    mocker.patch.object(arrays, "time", clock)
    found = arrays.wait_running(tree.paths, ["nvme1n1"])
    assert found.size == 2048 * 512
    assert 2.0 <= clock.now < 3.0


def test_wait_running_in_vain(tree: Tree, mocker: MockerFixture) -> None:
    mocker.patch.object(arrays, "time", Clock())
    with pytest.raises(KrakenError, match="in no array") as caught:
        arrays.wait_running(tree.paths, ["nvme1n1"])
    assert caught.value.trouble.waits
    tree.array("md127", ["nvme1n1"], state="inactive")
    with pytest.raises(KrakenError, match="inactive"):
        arrays.wait_running(tree.paths, ["nvme1n1"])


def test_wait_running_split(tree: Tree, mocker: MockerFixture) -> None:
    tree.array("md127", ["nvme1n1"])
    tree.array("md126", ["nvme2n1"])
    mocker.patch.object(arrays, "time", Clock())
    with pytest.raises(KrakenError, match="md126, md127") as caught:
        arrays.wait_running(tree.paths, ["nvme1n1", "nvme2n1"])
    assert caught.value.trouble.kind == "array-split"
