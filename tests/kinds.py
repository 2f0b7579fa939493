"""Every kind of error with a sample of each, as a user reads it.

    python3 -m tests.kinds [KIND …]

The program itself makes the samples: the tests named in ``kinds.txt`` are run, and what
they make it say is kept.  After a test has got another name, ``--find FILE …`` runs
whole files and names a test in them for each kind that has none.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cc_kraken.commands import explain
from cc_kraken.model import KrakenError, Trouble

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("kinds.txt")
"""A kind a line, and the test that is to make the program say it."""


class Heard:
    """A plugin of pytest: what the program says in each test, by kind."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, str]] = {}
        self._test = ""
        self._make = Trouble.__init__
        self._raise = KrakenError.__init__

    def __enter__(self) -> Heard:
        def make(trouble: Trouble, *words: Any, **named: Any) -> None:
            self._make(trouble, *words, **named)
            self._note(trouble, sys._getframe(1))

        def raise_(error: KrakenError, trouble: Trouble) -> None:
            self._raise(error, trouble)
            self._note(trouble, sys._getframe(1))  # a constant of its module

        Trouble.__init__ = make  # type: ignore[method-assign]
        KrakenError.__init__ = raise_  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Trouble.__init__ = self._make  # type: ignore[method-assign]
        KrakenError.__init__ = self._raise  # type: ignore[method-assign]

    def _note(self, trouble: Trouble, caller: FrameType) -> None:
        if caller.f_globals["__name__"] == "dataclasses":  # replace()
            assert caller.f_back is not None
            caller = caller.f_back
        if caller.f_globals["__name__"].startswith("cc_kraken."):
            by_test = self.said.setdefault(trouble.kind, {})
            by_test.setdefault(self._test, str(trouble))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._test = item.nodeid


def kinds() -> list[str]:
    """All that ``cc-kraken explain`` lists; a test says that the code has no other."""
    return [line.partition(":")[0] for line in explain.listed().splitlines()]


def listed() -> dict[str, str]:
    """The test for each kind."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def hear(tests: Iterable[str]) -> Heard:
    """Run these tests, and hear what the program says in them."""
    quiet = ["-q", "-n", "0", "-p", "no:cacheprovider"]
    output = io.StringIO()
    with Heard() as heard, contextlib.redirect_stdout(output):
        code = pytest.main([*quiet, f"--rootdir={ROOT}", *tests], plugins=[heard])
    if code != pytest.ExitCode.OK:
        print(output.getvalue(), file=sys.stderr)
    return heard


def samples(kinds: Iterable[str]) -> dict[str, str]:
    """A message of each kind; "" where its test has not made the program say it."""
    tests = listed()
    wanted = {kind: tests.get(kind, "") for kind in kinds}
    heard = hear(sorted({test for test in wanted.values() if test}))
    return {
        kind: heard.said.get(kind, {}).get(test, "") if test else ""
        for kind, test in wanted.items()
    }


def find(files: Iterable[str]) -> None:
    """Name a test for each kind that has none yet, the first that says it."""
    tests = listed() if LIST.exists() else {}
    for kind, by_test in hear(files).said.items():
        tests.setdefault(kind, next((test for test in by_test if test), ""))
    lines = [f"{kind} {test}\n" for kind, test in sorted(tests.items()) if test]
    LIST.write_text("".join(lines), encoding="utf-8")


def main(words: list[str]) -> int:
    if words[:1] == ["--find"]:
        find(words[1:])
        return 0
    found = samples(words or kinds())
    for text in found.values():
        if text:
            print(f"\n{text}")
    missing = [kind for kind, text in found.items() if not text]
    if missing:
        print(f"\nwithout a sample: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
