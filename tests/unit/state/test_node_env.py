"""node.env: what is in it, through a real sh and systemd's own reader, and when."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cc_kraken import handle
from cc_kraken.boot.clean import clean
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.config.values import odd_character
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Ec2Options, Identity, Node, Section
from cc_kraken.state import node_env
from cc_kraken.state.report import Report
from tests.unit.act.test_run import ZONE, Scene, environment, make, scene
from tests.unit.boot import test_stage
from tests.unit.boot.test_stage import tree as stage_tree

__all__ = ["environment", "make", "scene", "stage_tree"]  # fixtures

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
SHARED = [
    *glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so"),
    *glob.glob("/usr/lib*/systemd/libsystemd-shared-*.so"),
]


def by_shell(shell: str, path: Path, locale: str = "C") -> dict[str, str]:
    """What ``.`` in sh makes of the file; nothing but variables may come of it."""
    words = [shell, "sh"] if shell == "busybox" else [shell]
    script = 'set -eua; . "$1"; exec env -0'
    done = subprocess.run(
        [*words, "-c", script, "sh", str(path)],
        env={"PATH": os.environ["PATH"], "LC_ALL": locale},
        cwd=path.parent,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    pairs = (one.decode().partition("=") for one in done.stdout.split(b"\0") if one)
    return {name: value for name, _, value in pairs if name.startswith("KRAKEN_")}


def by_systemd(path: Path) -> dict[str, str]:
    """What systemd's reader of EnvironmentFile= makes of the file."""
    texts = ctypes.POINTER(ctypes.c_char_p)
    read = ctypes.CDLL(SHARED[0]).load_env_file
    read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(texts)]
    found = texts()
    assert read(None, str(path).encode(), ctypes.byref(found)) == 0
    lines: list[str] = []
    while (line := found[len(lines)]) is not None:
        lines.append(line.decode())
    return dict(line.split("=", 1) for line in lines)


def readers(path: Path) -> list[dict[str, str]]:
    found = [by_shell(shell, path) for shell in SHELLS]
    found += [by_shell(shell, path, "C.UTF-8") for shell in SHELLS]
    return found + ([by_systemd(path)] if SHARED else [])


def report(
    base: Path, node_id: str = "0", prefix: str = "kafka", **places: Optional[str]
) -> Report:
    """A report of a node with these sets, and where each is mounted."""
    made = Report(Paths(run=str(base)), "network")
    identity = Identity("i-00000000000000001", "us-east-1", ZONE)
    made.identify(identity, Node(prefix, node_id))
    for name, place in places.items():
        made.set(name)["mount_path"] = place
    return made


def written(base: Path, made: Report) -> Path:
    paths = Paths(run=str(base))
    node_env.keep(paths, made, ["a note of the run."])
    assert made.status["notes"][0] == "a note of the run."
    return Path(paths.node_env)


# ------------------------------------------------------------------ what is in it


def test_the_file_as_it_is(tmp_path: Path) -> None:
    made = report(tmp_path, log="/krkn_log", data="/srv/my data", raw=None)
    assert written(tmp_path, made).read_text() == (
        "KRAKEN_PREFIX=kafka\n"
        "KRAKEN_NODE_ID=0\n"
        "KRAKEN_INSTANCE_ID=i-00000000000000001\n"
        "KRAKEN_REGION=us-east-1\n"
        "KRAKEN_ZONE=us-east-1a\n"
        'KRAKEN_SETS="data log raw"\n'
        'KRAKEN_PATH_DATA="/srv/my data"\n'
        "KRAKEN_PATH_LOG=/krkn_log\n"
    )
    assert made.status["notes"] == ["a note of the run."]


def test_a_loop_in_sh_has_every_set(tmp_path: Path) -> None:
    written(tmp_path, report(tmp_path, log="/log", data="/data"))
    loop = '. ./node.env; for set in $KRAKEN_SETS; do echo "<$set>"; done'
    done = subprocess.run(
        ["sh", "-c", loop], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "<data>\n<log>\n"


HOSTILE = [
    'say "hi"',
    "it's",
    "$HOME ${PATH} $(touch ran) `touch ran`",
    "\\ \\\\ \\n \\x41 \\$x \\",
    "end in a backslash\\",
    "%n %% %i",
    "-rf",
    "--",
    "~root",
    "a:~root",
    "# no comment",
    "; touch ran",
    "a=b",
    "!x !!",
    "*",
    "ÁÖ日本語 😀 e\u0301",
    " blanks ",
    "",
    "x" * 256,
    '"' * 256,
    "\\" * 255,
    "é" * 256,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_comes_out_as_it_was(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, report(tmp_path, value, value, data="/" + value))
    found = readers(path)
    assert len(found) >= 2
    for one in found:
        assert one["KRAKEN_NODE_ID"] == one["KRAKEN_PREFIX"] == value
        assert one["KRAKEN_PATH_DATA"] == "/" + value
        assert one["KRAKEN_ZONE"] == ZONE
    assert sorted(os.listdir(tmp_path)) == ["node.env"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.text(max_size=60), min_size=1, max_size=30))
def test_any_value_comes_out_as_it_was_or_not_at_all(
    tmp_path: Path, values: list[str]
) -> None:
    made = report(tmp_path, **{f"s{n}": "/" + text for n, text in enumerate(values)})
    expected = {
        f"KRAKEN_PATH_S{number}": "/" + text
        for number, text in enumerate(values)
        if not odd_character(text)
    }
    for one in readers(written(tmp_path, made)):
        assert {k: v for k, v in one.items() if "_PATH_" in k} == expected
    assert len(made.status["notes"]) == 1 + len(values) - len(expected)


@pytest.mark.parametrize(
    "value", ["a\nKRAKEN_ZONE=x", "a\0b", "\x1b[2J", "a\u202eb", "a\u2028b", "\udcff"]
)
def test_a_value_that_is_fit_for_neither_is_left_out(
    tmp_path: Path, value: str
) -> None:
    made = report(tmp_path, value, data="/data")
    path = written(tmp_path, made)
    for one in readers(path):
        assert "KRAKEN_NODE_ID" not in one
        assert (one["KRAKEN_ZONE"], one["KRAKEN_PATH_DATA"]) == (ZONE, "/data")
    (_, said) = made.status["notes"]
    assert said.startswith("node.env has no KRAKEN_NODE_ID: ")
    assert f"U+{ord(odd_character_of(value)):04X}" in said


def odd_character_of(text: str) -> str:
    return next(one for one in text if odd_character(one))


def test_two_sets_with_one_variable_have_none(tmp_path: Path) -> None:
    places = {"a-b": "/one", "a_b": None, "A.c": "/three", "0": "/four"}
    made = report(tmp_path, **places)
    for one in readers(written(tmp_path, made)):
        assert {k: v for k, v in one.items() if "_PATH_" in k} == {
            "KRAKEN_PATH_A_C": "/three",
            "KRAKEN_PATH_0": "/four",
        }
        assert one["KRAKEN_SETS"] == "0 A.c a-b a_b"
    assert made.status["notes"][1:] == [
        "node.env has no KRAKEN_PATH_A_B: it would be that of a-b and a_b."
    ]


def test_a_name_that_no_set_can_have_is_left_out(tmp_path: Path) -> None:
    vol = "vol-00000000000000009"
    made = report(tmp_path, **{"$(touch ran)": "/a", "data": "/data", vol: None})
    made.set(vol)["volumes"] = [{"id": vol}]
    for one in readers(written(tmp_path, made)):
        assert one["KRAKEN_SETS"] == "data"
        assert [k for k in one if "_PATH_" in k] == ["KRAKEN_PATH_DATA"]
    assert made.status["notes"][1:] == [
        "KRAKEN_SETS in node.env lacks '$(touch ran)': it is not fit for a name."
    ]


def test_everybody_can_read_it_and_it_is_replaced_as_a_whole(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        path = written(tmp_path, report(tmp_path, data="/data"))
        with open(path) as before:
            written(tmp_path, report(tmp_path, "1", data="/data"))
            assert "KRAKEN_NODE_ID=0\n" in before.read()
    finally:
        os.umask(umask)
    assert "KRAKEN_NODE_ID=1\n" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_it_is_absent_while_the_node_is_not_settled(tmp_path: Path) -> None:
    path = written(tmp_path, made := report(tmp_path, data="/data"))
    assert path.exists()
    made.status["node"] = None
    node_env.keep(Paths(run=str(tmp_path)), made)
    node_env.keep(Paths(run=str(tmp_path)), made)
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "node.env").mkdir()
    made = report(tmp_path, data="/data")
    written(tmp_path, made)
    (warning,) = made.status["warnings"]
    assert warning.startswith("[cannot-write]") and "node.env" in warning


# -------------------------------------------------------------------------- when


class Calls:
    """What node.env says at each AttachVolume."""

    def __init__(self, scene: Scene, mocker: MockerFixture) -> None:
        self.seen: list[tuple[str, Optional[str]]] = []
        self.before: Callable[[str], None] = lambda _: None
        send = Ec2.attach

        def attach(ec2: Ec2, volume_id: str) -> str:
            self.before(volume_id)
            self.seen.append((volume_id, said(scene)))
            return send(ec2, volume_id)

        mocker.patch.object(Ec2, "attach", attach)


def said(scene: Scene) -> Optional[str]:
    """The id of the node; None without the file."""
    path = Path(scene.tree.paths.node_env)
    return by_shell(SHELLS[0], path)["KRAKEN_NODE_ID"] if path.exists() else None


def test_a_fixed_node_says_who_it_is_before_its_sets_are_up(
    scene: Scene, mocker: MockerFixture
) -> None:
    calls = Calls(scene, mocker)
    volume = scene.volume()
    assert scene.run() == "done"
    assert calls.seen == [(volume, "0")]


def test_without_a_volume_nothing_is_said(scene: Scene) -> None:
    assert scene.run(20) == "failed"
    assert said(scene) is None


def test_a_dry_run_writes_nothing(scene: Scene) -> None:
    scene.volume()
    options = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    scene.run(section=Section(ec2=options))
    os.unlink(scene.tree.paths.node_env)
    scene.run_now.dry_run = True
    assert scene.run_now.go() == "done"
    assert said(scene) is None


def test_a_claimed_node_is_said_behind_the_lock_and_no_longer_when_it_is_lost(
    scene: Scene, mocker: MockerFixture
) -> None:
    rival = scene.lab.run_instance(zone=ZONE, tags={"Name": "rival"})
    nodes = [
        [scene.volume(name, NodeId=node) for name in ("data", "log")]
        for node in ("0", "1")
    ]
    for one in nodes:
        one.sort()
    calls = Calls(scene, mocker)

    def faster(volume_id: str) -> None:
        if volume_id == nodes[0][1]:
            scene.lab.attach_volume(volume_id, rival, "/dev/sdf")
            calls.before = lambda _: None

    calls.before = faster
    options = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    section = Section(node_id="*", volumes={"data": {}, "log": {}}, ec2=options)
    assert scene.run(section=section) == "done"
    assert [volume for volume, _ in calls.seen] == [*nodes[0], *nodes[1]]
    first, _, third, last = (said for _, said in calls.seen)
    assert first is None, "the anchor is the lock"
    assert third is None and last in (None, "1"), "the lost node is said no longer"
    assert said(scene) == "1"


def test_the_cheap_reboot_says_it_without_a_call(stage_tree: Any) -> None:
    test_stage.reboot(stage_tree)
    handle("kraken", test_stage.ON, test_stage.cloud(), None, [])
    assert test_stage.told(stage_tree)["calls"] == {}
    found = by_shell(SHELLS[0], Path(stage_tree.paths.node_env))
    assert found["KRAKEN_INSTANCE_ID"] == test_stage.ME
    assert found["KRAKEN_SETS"] == "data" and found["KRAKEN_PATH_DATA"]


def test_an_image_holds_no_node(stage_tree: Any) -> None:
    test_stage.reboot(stage_tree)
    handle("kraken", test_stage.ON, test_stage.cloud(), None, [])
    assert f"Removed {stage_tree.paths.node_env}." in clean(stage_tree.paths)
    assert not os.path.exists(stage_tree.paths.node_env)
