"""The bench's tables with and without a peer, and how a peer is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import HEADINGS, PEER_HEADINGS, peer_faults, peer_rows, rows
from tests.bench.machine import Taken
from tests.bench.peer import Peer, tags

INSIDE = Path(__file__).parents[2] / "bench" / "peer_inside.py"


def taken(who: str, seconds: float, **more: Any) -> Taken:
    return Taken("1", "first boot", who, seconds, 0.5, 0.25, more)


def of_peer(seconds: float, **more: Any) -> Taken:
    usual = {
        "ended": "exit status 0",
        "said": "",
        "calls": {"DescribeVolumes": 1, "AttachVolume": 1},
        "sets": {"/krkn_s00": ""},
    }
    return taken("peer", seconds, **{**usual, **more})


def test_a_peer_has_a_table_of_its_own() -> None:
    others = [taken("floor", 2.0), taken("module", 3.0)]
    peers = [of_peer(4.0), of_peer(6.0)]
    assert rows(others + peers) == rows(others)
    assert all(len(row) == len(HEADINGS) for row in rows(others))
    (row,) = peer_rows(others + peers)
    assert row == (
        "first boot, 1 volumes",
        "5.00 (4.00 to 6.00)",
        "2.50",
        "0.50 (0.50 to 0.50)",
        "0.25 (0.25 to 0.25)",
        "2",
        "2 of 2",
        "exit status 0",
    )
    assert len(row) == len(PEER_HEADINGS)
    assert peer_faults(others + peers) == []
    assert peer_rows(others) == []


def test_a_peer_that_fails_is_a_row_that_says_so() -> None:
    runs = [
        taken("floor", 2.0),
        of_peer(4.0, said="done"),
        of_peer(
            1.0,
            ended="exit status 1",
            said="no volume",
            sets={"/krkn_s00": "nothing is mounted"},
            calls={},
        ),
    ]
    (row,) = peer_rows(runs)
    assert row[-2:] == ("1 of 2", "exit status 0, exit status 1")
    assert peer_faults(runs) == [
        "- first boot, 1 volumes: exit status 1; /krkn_s00: nothing is mounted; "
        "it said: no volume"
    ]


def test_a_peer_is_a_file_and_its_arguments(tmp_path: Path) -> None:
    path = tmp_path / "my peer"
    path.write_text("")
    peer = Peer(f"'{path}' --level debug ebs")
    assert (peer.path, peer.inside) == (str(path), "/opt/peer/my peer")
    assert peer.arguments == ["--level", "debug", "ebs"]
    for words in ("/nonexistent ebs", str(tmp_path), "''"):
        with pytest.raises(ValueError, match="there is no file"):
            Peer(words)


def test_tags_for_either_kind_of_peer() -> None:
    assert tags(node_id=0, volume_size=3) == {
        "KRKN-IN:NodeId": "0",
        "KRKN-IN:VolumeSize": "3",
        "GOAT-IN:NodeId": "0",
        "GOAT-IN:VolumeSize": "3",
    }


@pytest.mark.parametrize(
    ("seconds", "command", "ended", "said"),
    [
        ("60", ["sh", "-c", "echo on; echo err >&2; exit 3"], "status 3", "on\nerr\n"),
        ("60", ["sh", "-c", "kill -TERM $$"], "signal 15", ""),
        ("0.1", ["sh", "-c", "echo on; sleep 60 & wait"], "killed after 0 s", "on\n"),
        ("60", ["/nonexistent"], "cannot be started: No such file or directory", ""),
    ],
)
def test_how_a_peer_ends(
    tmp_path: Path, seconds: str, command: list[str], ended: str, said: str
) -> None:
    output = tmp_path / "output"
    done = subprocess.run(
        [sys.executable, str(INSIDE), seconds, str(output), *command],
        check=True,
        capture_output=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["ended"].endswith(ended)
    assert told["seconds"] >= 0 and told["cpu"] >= 0
    if seconds != "0.1":  # else it may not even have begun
        assert output.read_text() == said
