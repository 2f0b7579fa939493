"""python3 -m tests.kinds has a sample of every kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import kinds

ROOT = Path(__file__).parents[3]


def test_every_kind_has_a_test_that_makes_the_program_say_it() -> None:
    assert sorted(kinds.listed()) == sorted(kinds.kinds())


def test_every_test_of_the_list_is_there() -> None:
    """One that got another name would leave all kinds without a sample."""
    tests = set(kinds.listed().values())
    files = sorted({test.partition("::")[0] for test in tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert sorted(tests - set(done.stdout.splitlines())) == []


def test_a_kind_is_printed_as_a_user_sees_it() -> None:
    words = ["zone-other", "mount-path-files", "not-root"]
    command = [sys.executable, "-m", "tests.kinds", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.findall(r"^\[([a-z0-9-]+)\] \S", done.stdout, re.M) == words
