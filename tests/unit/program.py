"""The program that cloud-init's process starts, with a run of the test's own.

Both ends of the pipe are the real ones; what lies between them is replaced by
a function whose body the test gives as text, for it runs in another process.
"""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import pytest

import cc_kraken
from cc_kraken.boot import launch

PACKAGES = str(Path(cc_kraken.__file__).parents[1])

TEXT = """\
import sys
sys.path.insert(0, {packages!r})
import logging, os, signal, socket, threading, time
from cc_kraken.act import run
from cc_kraken.boot import program, stage
from cc_kraken.model import KrakenError, Trouble

LOG = logging.getLogger("cc_kraken.act.run")

def {function}:
{body}

{name} = replaced
program.main()
"""

Program = Callable[[str], None]

CARRY_OUT = "replaced(section, identity, paths, enter, name, **more)"
GO = "replaced(self)"


def _replacing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, name: str
) -> Program:
    def replace(body: str) -> None:
        script = tmp_path / "program.py"
        body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        script.write_text(
            TEXT.format(packages=PACKAGES, function=function, body=body, name=name)
        )
        words = [sys.executable, "-I", str(script)]
        monkeypatch.setattr(launch, "argv", lambda: words)

    return replace


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Makes the program do this, given as the body of ``stage.carry_out``."""
    return _replacing(monkeypatch, tmp_path, CARRY_OUT, "stage.carry_out")


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Makes each run of the program do this, given as the body of ``Run.go``."""
    return _replacing(monkeypatch, tmp_path, GO, "run.Run.go")


def hours_pass(monkeypatch: pytest.MonkeyPatch, hangs: Path) -> None:
    """For who follows the program, as soon as it has made ``hangs``.

    The program then says one more line, so that the one who follows it looks at the
    clock.
    """
    now = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: now() + 36000 * hangs.exists())
    monkeypatch.setattr(launch, "time", clock)
