"""Work in a fork: what comes back, and what does when nothing comes back."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from cc_kraken import child
from cc_kraken.model import KrakenError, Trouble

LOG = logging.getLogger(__name__)
TROUBLE = Trouble("kind", "found this", "that", "Do so.")


def carry_out(work: Callable[[], Any], seconds: float = 60) -> Any:
    return child.carry_out(lambda tell: work(), seconds, lambda value: None)


def test_the_result_of_another_process() -> None:
    def work() -> dict[str, object]:
        import wave  # noqa: F401  # nobody else needs it

        return {"process": os.getpid(), "bulk": "x" * 1_000_000}

    sys.modules.pop("wave", None)
    found = carry_out(work)
    assert found["process"] != os.getpid() and len(str(found["bulk"])) == 1_000_000
    assert "wave" not in sys.modules
    with pytest.raises(ChildProcessError):
        os.waitpid(int(str(found["process"])), 0)  # it is reaped


def test_its_records_come_out_here(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    def work() -> None:
        for number in range(2000):  # more than a pipe holds
            logging.getLogger("cc_kraken.run").info("record %d of %s", number, "many")
        try:
            raise ValueError("a reason")
        except ValueError:
            logging.getLogger("elsewhere").exception("failed")

    carry_out(work)
    told = [one.getMessage() for one in caplog.records if one.name == "cc_kraken.run"]
    assert told == [f"record {number} of many" for number in range(2000)]
    (last,) = [one for one in caplog.records if one.name == "elsewhere"]
    assert last.levelname == "ERROR" and last.process != os.getpid()
    assert "ValueError: a reason" in last.getMessage() + str(last.exc_text)


def test_what_it_tells_is_heard_here_in_its_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[object] = []

    def work(tell: child.Tell) -> str:
        tell("attach")
        LOG.warning("between")
        tell(None)
        return "done"

    def hear(value: object) -> None:
        heard.append((value, os.getpid(), len(caplog.records)))

    assert child.carry_out(work, 60, hear) == "done"
    assert heard == [("attach", os.getpid(), 0), (None, os.getpid(), 1)]


def test_a_logger_with_a_handler_of_its_own(tmp_path: Path) -> None:
    logger = logging.getLogger("apart")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        carry_out(lambda: logger.warning("once"))
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    assert (tmp_path / "log").read_text() == "once\n"


def test_levels_here_decide(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("cc_kraken.muted")
    caplog.set_level("ERROR", "cc_kraken.muted")

    def work() -> None:
        logger.setLevel(logging.DEBUG)
        logger.warning("not here")

    carry_out(work)
    assert "not here" not in caplog.text


def test_a_trouble_is_the_same_here() -> None:
    def work() -> None:
        raise KrakenError(TROUBLE)

    with pytest.raises(KrakenError) as caught:
        carry_out(work)
    assert caught.value.trouble == TROUBLE


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), MemoryError()])
def test_a_mistake_of_ours_has_its_traceback(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def a_function_of_ours() -> None:
        raise error

    with pytest.raises(RuntimeError, match="cc_kraken failed") as caught:
        carry_out(a_function_of_ours)
    assert repr(error) in str(caught.value)
    assert "a_function_of_ours" in caplog.text


def test_killed() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(KrakenError) as caught:
        carry_out(work)
    assert caught.value.trouble.kind == "run-killed"
    assert "signal 9" in str(caught.value)


def test_what_cannot_be_sent_is_no_result(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KrakenError, match="without a result"):
        carry_out(lambda: threading.Lock())
    assert "cannot pickle" in caplog.text


def test_a_handler_that_fails_costs_a_record_and_no_run() -> None:
    class Bad(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("no room")

    handler = Bad()
    logging.getLogger().addHandler(handler)
    try:
        assert carry_out(lambda: LOG.warning("lost") or "done") == "done"
    finally:
        logging.getLogger().removeHandler(handler)


def test_connections_end_though_the_work_hangs(tmp_path: Path) -> None:
    """cloud-init's stages since 24.3 end with their connection."""
    here, there = socket.socketpair()
    disk = tmp_path / "disk"
    os.mkfifo(disk)
    with pytest.raises(KrakenError, match="has not ended") as caught:
        carry_out(disk.read_text, 0.5)
    here.close()
    there.settimeout(10)
    assert there.recv(1) == b""
    there.close()
    disk.write_text("an answer")
    (pid,) = re.findall(r"process (\d+)", str(caught.value))
    os.waitpid(int(pid), 0)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_hangs_is_left_behind_and_can_go_on(tmp_path: Path) -> None:
    """Its records go where they went before, once nobody follows them."""
    log = logging.FileHandler(tmp_path / "log")
    logging.getLogger().addHandler(log)
    disk = tmp_path / "disk"
    os.mkfifo(disk)

    def work() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        disk.read_text()  # answers when somebody writes
        logging.getLogger("cc_kraken.run").warning("at last")
        (tmp_path / "end").write_text("")

    try:
        with pytest.raises(KrakenError) as caught:
            carry_out(work, 0.5)
    finally:
        logging.getLogger().removeHandler(log)
    assert caught.value.trouble.kind == "run-hangs"
    pid = int((tmp_path / "pid").read_text())
    assert str(pid) in str(caught.value)
    os.kill(pid, 0)  # not killed: it may be in the middle of mkfs
    disk.write_text("an answer")
    until((tmp_path / "end").exists)
    assert "at last" in (tmp_path / "log").read_text()
    os.waitpid(pid, 0)


def test_a_thread_that_hangs_keeps_no_result() -> None:
    def work() -> str:
        threading.Thread(target=threading.Event().wait).start()
        return "done"

    assert carry_out(work) == "done"
