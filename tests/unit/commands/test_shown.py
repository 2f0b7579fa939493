"""What status says, in a pipe and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from cc_kraken import cli
from cc_kraken.commands import shown
from cc_kraken.state.report import Report
from tests.unit.tree import Tree

SGR = re.compile(r"\033\[[\d;]*m")
LATE = (
    "[members-missing] 2 of the 3 volumes of data are here: vol-2 and vol-3. All of "
    "them must be in us-east-1a. Create what is missing, or correct the tag Members."
)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The status of a node with a mounted set, an array, and one that is late."""
    tree = Tree(tmp_path)
    monkeypatch.setattr(cli, "Paths", lambda: tree.paths)
    made = Report(tree.paths, "background")
    made.status["node"] = {"prefix": "kafka", "node_id": "0"}
    made.status["instance"] = {"id": "i-1", "region": "us-east-1", "zone": "us-east-1a"}

    def volume(number: int, device: object = None) -> dict[str, Any]:
        size = 20 << 30 if device else None
        return {"id": f"vol-{number}", "device": device, "size": size}

    made.set("log").update(
        state="attached", volumes=[volume(1, "/dev/nvme1n1")], mount_path=None
    )
    made.set("data").update(
        state="assembled",
        volumes=[volume(2, "/dev/nvme2n1"), volume(3, "/dev/nvme3n1")],
        array={"device": "/dev/md127", "level": "raid1", "degraded": 1},
        filesystem={"type": "xfs"},
        mount_path="/krkn_data",
    )
    made.set("old").update(reason=LATE, volumes=[volume(4)])
    made.status["warnings"] = ["vol-1 goes with the instance"]
    made.finish("pending")
    return made


PLAIN = f"""\
pending: node kafka/0 on i-1 in us-east-1a (stage background)
SET   STATE      MOUNT PATH  TYPE  DEVICE        VOLUMES
log   attached   -           -     /dev/nvme1n1  vol-1
data  assembled  /krkn_data  xfs   /dev/md127    vol-2,vol-3
old   pending    -           -     -             vol-4
waiting: old: {LATE}
warning: vol-1 goes with the instance
More: cc-kraken explain members-missing
"""

TABLE = """\
pending  node kafka/0 on i-1 in us-east-1a (stage background)

SET   STATE      MOUNT PATH  TYPE  SIZE    DEVICE                   VOLUME
log   attached   -           -     20 GiB  nvme1n1                  vol-1
data  assembled  /krkn_data  xfs           md127 (raid1, degraded)
                                   20 GiB  nvme2n1                  vol-2
                                   20 GiB  nvme3n1                  vol-3
old   pending    -           -     -       -                        vol-4

waiting: old: [members-missing] 2 of the 3 volumes of data are here: vol-2 and
  vol-3. All of them must be in us-east-1a. Create what is missing, or correct
  the tag Members.
warning: vol-1 goes with the instance
More: cc-kraken explain members-missing
"""


def test_a_pipe_gets_one_line_a_set(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status"]) == 3
    assert capsys.readouterr().out == PLAIN


Typed = Callable[..., str]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """A function that runs a command on a terminal; what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = os.fdopen(theirs, "w")

    def run(*words: str) -> str:
        with monkeypatch.context() as patch:
            # As Python has it when started there.
            patch.setattr("sys.stdout", stream)
            patch.setattr("sys.__stdout__", stream)
            cli.main(words)
        stream.write("\0")  # the end; one read may get a part of it
        stream.flush()
        got = b""
        while not got.endswith(b"\0"):
            got += os.read(ours, 1 << 16)
        return got[:-1].decode().replace("\r\n", "\n")

    yield run
    stream.close()
    os.close(ours)


def test_a_terminal_gets_a_table_with_a_volume_a_line(
    report: Report, typed: Typed
) -> None:
    assert SGR.sub("", typed("status")) == TABLE


def test_states_and_labels_have_their_colours(report: Report, typed: Typed) -> None:
    report.set("old").update(state="failed", error={"message": "No."}, reason=None)
    report.finish("failed")
    said = typed("status")
    assert said.startswith("\033[1;31mfailed\033[0m  node kafka/0")
    for state, code in (("attached", 32), ("assembled", 32), ("failed", 31)):
        assert re.search(rf"(?m)^\w+ +\033\[{code}m{state}\033\[0m", said), state
    assert "\033[31merror: \033[0mold: No." in said
    assert "\033[33mwarning: \033[0mvol-1" in said


def test_a_set_that_is_not_up_now_is_red(report: Report, typed: Typed) -> None:
    report.set("log").update(state="mounted", mount_path="/gone")
    report.finish("done")
    said = typed("status")
    assert said.startswith("\033[1;31mnot up\033[0m  node kafka/0")
    assert re.search(r"(?m)^log +\033\[31mnot up\033\[0m", said)
    assert "\033[31merror: \033[0mlog is not up now: nothing is mounted" in said


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(
    report: Report, typed: Typed, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert typed("status") == TABLE


def test_json_is_the_same_on_a_terminal(report: Report, typed: Typed) -> None:
    assert typed("status", "--json").startswith("{\n")


def test_a_node_without_sets_has_no_table(report: Report) -> None:
    report.only([])
    report.status["warnings"] = []
    told = shown.terminal_text(report.status, 80, colour=False)
    assert told == "pending  node kafka/0 on i-1 in us-east-1a (stage background)"


def test_a_dry_run_says_why_it_is_not_finished(report: Report) -> None:
    report.status["dry_run"] = True
    (first, *_) = shown.status_text(report.status).splitlines()
    assert first.endswith("(stage background, a dry run: nothing was changed)")


def test_a_command_is_never_cut_at_its_hyphen(report: Report) -> None:
    report.status["warnings"] = ["Do it, then type on the node: cc-kraken apply."]
    for columns in range(40, 80):
        told = shown.terminal_text(report.status, columns, colour=False)
        assert "cc-\n" not in told and "cc-kraken" in told


def test_a_label_is_painted_and_not_the_same_word_in_the_text(report: Report) -> None:
    report.status["warnings"] = ["a warning: of a warning: here"]
    told = shown.terminal_text(report.status, 80, colour=True)
    assert "\033[33mwarning: \033[0ma warning: of a warning: here" in told
