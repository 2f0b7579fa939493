"""A run as a program of its own: what comes back, and what happens when nothing
comes back."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from cc_kraken.boot import launch
from cc_kraken.cloud.session import NOISY
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Ec2Options, Identity, KrakenError, Section
from tests.unit.program import Program, hours_pass, work

__all__ = ["work"]  # a fixture

SECTION = Section(
    prefix="kafka",
    boot_wait=7,
    ec2=Ec2Options(endpoint_url="http://127.0.0.1:1/"),
    defaults={"fs_type": "ext4"},
    volumes={"data": {"mount_path": "/dätä", "overwrite": {"vol-1": "f00"}}},
    digest="d" * 64,
)
IDENTITY = Identity(
    "i-00000000000000001", "us-east-1", "us-east-1a", {"Volumes": "log,data"}
)
PATHS = Paths(run="/run/elsewhere")


def carry_out(
    seconds: float = math.inf,
    enter: launch.Enter = lambda phase: None,
    stage: str = "network",
) -> dict[str, Any]:
    return launch.carry_out(SECTION, IDENTITY, PATHS, stage, enter, seconds)


# ---------------------------------------------------------------- what crosses


def test_the_status_comes_from_another_process(work: Program) -> None:
    work("""
        import wave
        return {"process": os.getpid(), "bulk": "x" * 1_000_000}
    """)
    sys.modules.pop("wave", None)
    found = carry_out()
    assert found["process"] != os.getpid() and len(found["bulk"]) == 1_000_000
    assert "wave" not in sys.modules
    with pytest.raises(ChildProcessError):
        os.waitpid(found["process"], 0)  # it is reaped


@pytest.mark.parametrize("stage", ["network", "single"])
def test_the_run_is_given_what_cloud_init_knows(work: Program, stage: str) -> None:
    work("""
        given = [section, identity, paths, name, more["seconds"]]
        return {"given": [repr(one) for one in given], "rest": repr(more["dry_run"])}
    """)
    assert carry_out(stage=stage) == {
        "given": [repr(one) for one in (SECTION, IDENTITY, PATHS, stage, 7)],
        "rest": "False",
    }


def test_its_records_come_out_here(
    work: Program, caplog: pytest.LogCaptureFixture
) -> None:
    work("""
        for number in range(2000):  # more than a pipe holds
            LOG.debug("record %d of %s", number, "many")
        try:
            raise ValueError("a reason")
        except ValueError:
            logging.getLogger("elsewhere").exception("failed")
    """)
    caplog.set_level("DEBUG")
    carry_out()
    told = [one for one in caplog.records if one.name == "cc_kraken.act.run"]
    texts = [one.getMessage() for one in told]
    assert texts == [f"record {number} of many" for number in range(2000)]
    assert {(one.levelname, one.filename) for one in told} == {("DEBUG", "program.py")}
    (last,) = [one for one in caplog.records if one.name == "elsewhere"]
    # cloud-init's status lists errors, and the exception that follows, too.
    assert last.levelname == "INFO" and last.process != os.getpid()
    assert "ValueError: a reason" in last.getMessage()


def test_of_other_libraries_warnings_alone_come_out(
    work: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """Their details can hold credentials."""
    # Where a run in this very process has silenced them.
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    work("""
        logging.getLogger("botocore.auth").debug("a token")
        logging.getLogger("botocore.auth").warning("a warning")
    """)
    caplog.set_level("DEBUG")
    carry_out()
    assert "a warning" in caplog.text and "a token" not in caplog.text


def test_phases_are_heard_here_in_their_order(
    work: Program, caplog: pytest.LogCaptureFixture
) -> None:
    work("""
        enter("attach")
        LOG.warning("between")
        enter("mount")
    """)
    heard: list[object] = []

    def enter(phase: Optional[str]) -> None:
        heard.append((phase, os.getpid(), len(caplog.records)))

    carry_out(enter=enter)
    me = os.getpid()
    assert heard == [("attach", me, 0), ("mount", me, 1), (None, me, 1)]


@pytest.mark.parametrize(
    "code", ["print('{')", "os.system('echo {')", "os.write(1, b'{')"]
)
def test_what_others_print_does_not_get_between_the_lines(
    work: Program, capfd: pytest.CaptureFixture[str], code: str
) -> None:
    work(f"{code}\nreturn {{'state': 'done'}}")
    assert carry_out() == {"state": "done"}
    assert "{" in capfd.readouterr().err


def test_handlers_and_levels_of_this_process_decide(
    work: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work("""
        logging.getLogger("cc_kraken.apart").warning("once")
        logging.getLogger("cc_kraken.muted").warning("not here")
    """)
    caplog.set_level("ERROR", "cc_kraken.muted")
    apart = logging.getLogger("cc_kraken.apart")
    handler = logging.FileHandler(tmp_path / "log")
    apart.addHandler(handler)
    try:
        carry_out()
    finally:
        apart.removeHandler(handler)
    assert (tmp_path / "log").read_text() == "once\n"
    assert "not here" not in caplog.text


def test_a_handler_that_fails_costs_a_record_and_no_run(work: Program) -> None:
    class Bad(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("no room")

    work("""
        LOG.warning("lost")
        return {"state": "done"}
    """)
    handler = Bad()
    logging.getLogger().addHandler(handler)
    try:
        assert carry_out() == {"state": "done"}
    finally:
        logging.getLogger().removeHandler(handler)


# ---------------------------------------------------------------- how it is run


def test_it_has_nothing_of_this_process_but_standard_error(work: Program) -> None:
    work("""
        names = os.listdir("/proc/self/fd")
        open_files = {}
        for name in names:
            try:
                open_files[name] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass  # that of the directory itself
        umask = os.umask(0)
        return {"open": open_files, "umask": umask, "directory": os.getcwd()}
    """)
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    umask = os.umask(0o077)
    try:
        found = carry_out()
    finally:
        os.umask(umask)
        os.close(reading)
        os.close(writing)
    assert (found["umask"], found["directory"]) == (0o022, "/")
    shared = os.readlink("/proc/self/fd/2")
    (own,) = [one for name, one in found["open"].items() if int(name) > 2]
    assert own.startswith("pipe:")
    assert found["open"]["1"] == found["open"]["2"] == shared


def test_signals_end_the_run_after_the_step_that_is_under_way(work: Program) -> None:
    work("""
        told = []
        for number in (signal.SIGTERM, signal.SIGINT):
            more["clock"]._stop.clear()
            os.kill(os.getpid(), number)
            told.append(more["clock"].stopped)
        return {"stopped": told}
    """)
    assert carry_out() == {"stopped": [True, True]}


def started(environment: dict[str, str], cwd: Path) -> str:
    """What the real program says to an order that asks for nothing."""
    done = subprocess.run(
        launch.argv(),
        input="{}",
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()[-1] + done.stderr


def test_the_program_is_this_copy_whatever_the_caller_s_environment_says(
    tmp_path: Path,
) -> None:
    for name in ("cc_kraken", "json", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('another one')\n")
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    said = started({**environment, "PYTHONSTARTUP": "/nonexistent"}, tmp_path)
    assert said == '{"error": "cc_kraken failed: KeyError(\'section\')"}'


def test_without_a_known_interpreter_it_is_the_system_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert launch.argv()[0] == sys.executable
    monkeypatch.setattr(sys, "executable", "")
    assert launch.argv()[0] == "/usr/bin/python3"
    assert "KeyError('section')" in started({}, tmp_path)


# ------------------------------------------------------------ what goes wrong


def test_an_error_is_the_same_sentence_here(
    work: Program, caplog: pytest.LogCaptureFixture
) -> None:
    work("""
        raise KrakenError(Trouble("kind", "Found this", "that", "Do so."))
    """)
    with pytest.raises(RuntimeError) as caught:
        carry_out()
    assert str(caught.value) == "[kind] Found this; expected that. Do so."
    assert caplog.records == []


@pytest.mark.parametrize(
    "error", ["ValueError('odd')", "SystemExit(3)", "MemoryError()"]
)
def test_a_fault_of_ours_has_its_traceback(
    work: Program, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    work(f"""
        def a_function_of_ours():
            raise {error}
        a_function_of_ours()
    """)
    caplog.set_level("INFO")
    with pytest.raises(RuntimeError, match="cc_kraken failed") as caught:
        carry_out()
    assert error in str(caught.value)
    (record,) = caplog.records
    assert record.levelname == "INFO" and "a_function_of_ours" in record.getMessage()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("os._exit(3)", "ended without a result"),
        # In the middle of a line.
        (
            "os.write(3, b'{\"log'); os.kill(os.getpid(), signal.SIGKILL)",
            "killed by signal 9",
        ),
    ],
)
def test_killed(work: Program, code: str, words: str) -> None:
    work(code)
    left: list[Optional[str]] = []
    with pytest.raises(KrakenError, match=words) as caught:
        carry_out(enter=left.append)
    assert caught.value.trouble.kind == "run-killed"
    assert left == [None]  # the phase has ended


def test_a_thread_that_hangs_keeps_no_result(work: Program) -> None:
    work("""
        signal.alarm(60)
        threading.Thread(target=threading.Event().wait).start()
        return {"process": os.getpid()}
    """)
    process = carry_out()["process"]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


# ------------------------------------------------------------------ what hangs

HANGS = """
    signal.alarm(60)  # no test takes that long
    with open({pid!r}, "w") as file:
        file.write(str(os.getpid()))
    enter("mkfs")
    with open({disk!r}) as disk:
        disk.read()  # answers when somebody writes
    LOG.warning("at last")
    enter("mount")
    with open({end!r}, "w"):
        pass
    return {{"state": "done"}}
"""


class Disk:
    """One that answers no read before :meth:`answer`."""

    def __init__(self, at: Path, work: Program) -> None:
        self.path, self.pid, self.end = at / "disk", at / "pid", at / "end"
        os.mkfifo(self.path)
        work(HANGS.format(pid=str(self.pid), disk=str(self.path), end=str(self.end)))

    def answer(self) -> int:
        """Its run goes on; the exit status of that."""
        until(self._answered)
        until(self.end.exists)
        return os.waitpid(int(self.pid.read_text()), 0)[1]

    def _answered(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False  # nobody reads it
        os.write(descriptor, b"an answer")
        os.close(descriptor)
        return True


@pytest.fixture
def disk(tmp_path: Path, work: Program) -> Disk:
    return Disk(tmp_path, work)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_hangs_is_left_behind_and_can_go_on(
    disk: Disk, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records go to standard error once nobody follows them."""
    threads = threading.active_count()
    hours_pass(monkeypatch, disk.pid)
    with pytest.raises(KrakenError) as caught:
        carry_out(300.0)
    assert caught.value.trouble.kind == "run-hangs"
    said = str(caught.value)
    (pid,) = re.findall(
        r"\(process (\d+)\) is still going after 300 s\. The boot", said
    )
    assert threading.active_count() == threads
    os.kill(int(pid), 0)  # not killed: it may be in the middle of mkfs
    assert disk.answer() == 0
    assert disk.pid.read_text() == pid
    assert capfd.readouterr().err == "WARNING: at last\n"


def test_connections_end_though_the_run_hangs(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cloud-init's stages since 24.3 end with their connection."""
    here, there = socket.socketpair()
    here.set_inheritable(True)
    hours_pass(monkeypatch, disk.pid)
    with pytest.raises(KrakenError, match="still going"):
        carry_out(300.0)
    here.close()
    there.settimeout(10)
    assert there.recv(1) == b""
    there.close()
    disk.answer()


def test_what_interrupts_cloud_init_leaves_the_run_to_itself(disk: Disk) -> None:
    """At a shutdown the run is told by itself."""

    def interrupt(phase: Optional[str]) -> None:
        if phase is not None:
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        carry_out(enter=interrupt)
    assert disk.answer() == 0
