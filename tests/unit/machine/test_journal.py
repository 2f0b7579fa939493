"""A log record as journald's fields."""

from __future__ import annotations

import io
import logging
import os
import socket
from pathlib import Path

import pytest

from cc_kraken.machine import journal
from cc_kraken.model import of_set


def record(level: int, text: str, name: str = "") -> logging.LogRecord:
    made = logging.LogRecord("cc_kraken", level, "file.py", 1, text, (), None)
    vars(made).update(of_set(name) if name else {})
    return made


def fields(made: logging.LogRecord) -> list[str]:
    return journal.datagram(made, made.getMessage()).decode().splitlines()


def test_the_set_the_kinds_and_the_volumes_have_fields_of_their_own() -> None:
    text = (
        "The set data is not up: [zone-other] vol-0123456789abcdef0 and "
        "vol-00000002 are not in us-east-1a. Take vol-00000002 away."
    )
    assert fields(record(logging.ERROR, text, "data")) == [
        f"MESSAGE={text}",
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=cc-kraken",
        "KRAKEN_SET=data",
        "KRAKEN_KIND=zone-other",
        "KRAKEN_VOLUME=vol-0123456789abcdef0",
        "KRAKEN_VOLUME=vol-00000002",
    ]


def test_a_record_of_the_node_has_no_set() -> None:
    own = fields(record(logging.INFO, "node kafka/0"))
    assert own == ["MESSAGE=node kafka/0", "PRIORITY=6", "SYSLOG_IDENTIFIER=cc-kraken"]


def test_a_text_of_several_lines_cannot_make_a_field() -> None:
    text = "one\nKRAKEN_SET=other"
    data = journal.datagram(record(logging.INFO, text), text)
    size = len(text).to_bytes(8, "little")
    assert data.startswith(b"MESSAGE\n" + size + text.encode() + b"\nPRIORITY=6\n")


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_levels_are_those_of_syslog(level: str, priority: int) -> None:
    assert f"PRIORITY={priority}" in fields(record(getattr(logging, level), "a"))


def test_standard_error_is_the_journal_only_if_systemd_says_of_this_very_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not journal.gets_standard_error()
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert journal.gets_standard_error()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    assert not journal.gets_standard_error()


def test_there_is_no_handler_where_journald_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    assert journal.handler() is None


def test_a_journald_that_reads_nothing_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    elsewhere = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(journal.SOCKET)
        handler = journal.handler(logging.StreamHandler(elsewhere))
        assert handler is not None
        for number in range(10_000):
            handler.handle(record(logging.INFO, f"line {number}"))
        assert hung.recv(1 << 10).startswith(b"MESSAGE=line 0\n")
        handler.close()
    # What it did not take is said on the other way.
    assert elsewhere.getvalue().endswith("line 9999\n")
    assert "line 0\n" not in elsewhere.getvalue()
