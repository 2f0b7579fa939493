"""``make try``: what it tells, and that nothing stays of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from tests.chroot import conftest
from tests.chroot.conftest import RELEASE
from tests.chroot.node import Node
from tests.conftest import soon
from tests.trial import RELEASE as TRIAL

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(RELEASE != TRIAL, reason=f"it is told on {TRIAL}")


def begin(tmp_path: Path) -> subprocess.Popen[str]:
    """The trial with a place of its own for its files, as at a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.trial"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left(tmp_path: Path) -> str:
    """Files, loop devices and mounts of it that are still there."""
    loops = subprocess.run(["losetup", "--list"], capture_output=True, text=True)
    mounts = Path("/proc/self/mountinfo").read_text()
    lines = [*loops.stdout.splitlines(), *mounts.splitlines()]
    found = [line for line in lines if str(tmp_path) in line]
    return "\n".join([*found, *map(str, tmp_path.iterdir())])


def test_a_replacement_is_told_and_nothing_stays(
    installed: object, tmp_path: Path
) -> None:
    trial = begin(tmp_path)
    told, _ = trial.communicate()
    assert trial.returncode == 0, told
    assert told.count("# cat /krkn_data/the-old-one-wrote-this") == 1
    assert "[content-unknown]" in told
    assert left(tmp_path) == ""


@pytest.mark.parametrize("signals", soon([3], [1, 3]))
@pytest.mark.parametrize("after", ["1. A NODE", "is terminated"])
def test_ctrl_c_leaves_nothing(
    installed: object, tmp_path: Path, after: str, signals: int
) -> None:
    trial = begin(tmp_path)
    assert trial.stdout is not None
    for line in trial.stdout:
        if after in line:
            break
    for _ in range(signals):  # an impatient person
        os.killpg(trial.pid, signal.SIGINT)
    rest, _ = trial.communicate()
    assert trial.returncode == 130, rest
    assert "Interrupted." in rest
    assert left(tmp_path) == ""


def test_a_node_that_is_interrupted_as_it_starts_leaves_nothing(
    installed: tuple[Path, ...], tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch.object(tempfile, "tempdir", str(tmp_path))
    mocker.patch.object(Node, "seed", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), Node(installed, user_data="#cloud-config"):
        pass
    assert left(tmp_path) == ""


def test_a_machine_without_root_is_told_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests import trial

    monkeypatch.setattr(conftest.os, "geteuid", lambda: 1000)
    assert trial.main() == 1
    assert "not root: chroots need root" in capsys.readouterr().out
