"""command.py: how programs are started, bounded, and reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cc_kraken
from cc_kraken.machine import command
from cc_kraken.model import KrakenError

PYTHON = "/usr/bin/python3"


def python(code: str) -> list[str]:
    return [PYTHON, "-c", code]


def test_output_and_code_come_back() -> None:
    finished = command.run(
        python("import sys; print('ä'); print('oh', file=sys.stderr); sys.exit(3)")
    )
    assert (finished.code, finished.out, finished.err) == (3, "ä\n", "oh\n")


def test_arguments_reach_the_program_as_they_are() -> None:
    odd = ["$(id)", "a b", "'", '"', "*", ";reboot", "-n", "ü", "\n"]
    code = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
    assert command.run([*python(code), *odd]).out == repr(odd)


def test_environment_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("MKE2FS_CONFIG", "/tmp/other")
    seen = command.run(["env"]).out.split()
    assert sorted(seen) == [
        "BLKID_FILE=/dev/null",
        "LC_ALL=C",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_standard_input_is_empty() -> None:
    assert command.run(["cat"]).out == ""
    assert command.run(["readlink", "/proc/self/fd/0"]).out == "/dev/null\n"


def test_no_descriptor_of_ours_is_inherited() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        listed = command.run(["ls", "/proc/self/fd"]).out.split()
    finally:
        os.close(reader)
        os.close(writer)
    assert str(writer) not in listed


def test_it_has_a_session_of_its_own() -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), os.getcwd())"
    assert command.run(python(code)).out == "True /\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("mkfs.xfs", ["mkfs.xfs", "xfsprogs"]),
        ("mkfs.ext4", ["e2fsprogs"]),
        ("mkfs.btrfs", ["btrfs-progs"]),
        ("mdadm", ["package mdadm"]),
        ("udevadm", ["udev (Debian)", "systemd-udev (RHEL)"]),
        ("kraken-none", ["kraken-none"]),
    ],
)
def test_missing_program_names_its_package(
    program: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATH", "/nonexistent")
    with pytest.raises(KrakenError) as caught:
        command.run([program])
    assert caught.value.trouble.kind == "program-missing"
    assert all(word in str(caught.value) for word in words)


def test_nul_is_refused_before_anything_is_started() -> None:
    command.STARTED.clear()
    with pytest.raises(KrakenError) as caught:
        command.run(["echo", "a\0b"])
    assert caught.value.trouble.kind == "command-argument"
    assert not command.STARTED


def test_timeout_kills_the_whole_session() -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    time.sleep(600)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(KrakenError) as caught:
        command.run(python(code), timeout=1)
    assert caught.value.trouble.kind == "command-timeout"
    listed = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert "time.sleep(600)\nprint" not in listed


def test_too_much_output_is_an_error() -> None:
    with pytest.raises(KrakenError) as caught:
        command.run(python(f"print('x' * {command.OUTPUT_LIMIT})"))
    assert caught.value.trouble.kind == "command-output"


def test_check_shows_the_last_lines() -> None:
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(9)]; exit(4)"
    with pytest.raises(KrakenError) as caught:
        command.check(command.run(python(code)), "counting")
    text = str(caught.value)
    assert "exit status 4 while counting" in text
    assert "line 8" in text and "line 2" not in text
    assert command.check(command.run(["true"]), "nothing").code == 0


def test_check_names_the_signal() -> None:
    finished = command.run(python("import os; os.kill(os.getpid(), 9)"))
    assert finished.code == -signal.SIGKILL
    with pytest.raises(KrakenError, match="SIGKILL"):
        command.check(finished, "dying")


def test_processes_are_counted() -> None:
    command.STARTED.clear()
    workers = [threading.Thread(target=command.run, args=(["true"],)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    command.run(["/usr/bin/env"])
    assert command.STARTED == {"true": 8, "env": 1}


WRITER = """
import os, signal, sys, threading, time
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
from cc_kraken.machine import command
code = ("import time, sys; open({mark!r}, 'w').write('begun'); time.sleep(1);"
        "print('x' * 100000); sys.stdout.flush(); open({mark!r}, 'w').write('whole')")
def end():
    while not os.path.exists({mark!r}):
        time.sleep(0.01)
    os.kill(os.getpid(), {signal})
threading.Thread(target=end, daemon=True).start()
command.run([{python!r}, "-c", code], timeout=None)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_writes_outlives_us(
    number: signal.Signals, tmp_path: os.PathLike[str]
) -> None:
    """Whatever ends us, it goes on to its end: also the output that nobody
    reads any more does not kill it."""
    mark = os.path.join(tmp_path, "mark")
    root = os.path.dirname(os.path.dirname(cc_kraken.__file__))
    script = WRITER.format(root=root, mark=mark, signal=int(number), python=PYTHON)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert ended.returncode != 0
    for _ in range(200):
        if open(mark).read() == "whole":
            return
        time.sleep(0.05)
    raise AssertionError("the command was cut off")


def test_the_time_that_was_given_is_told() -> None:
    with pytest.raises(KrakenError, match=r"sleep 30 did not end within 0\.2 s"):
        command.run(["sleep", "30"], timeout=0.2)


@pytest.mark.parametrize("name", ["mdadm", "mount", "umount", "restorecon", "mkfs.xfs"])
def test_where_selinux_lets_a_program_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / name
    program.write_text(
        "#!/bin/sh\nfor at in 1 2; do [ -p /dev/fd/$at ] && echo pipe >&$at; done\n"
        "echo last\nexit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(command, "PATH", f"{tmp_path}:/usr/bin:/bin")
    done = command.run([name])
    piped = "" if name == "mkfs.xfs" else "pipe\n"
    assert (done.code, done.out, done.err) == (3, f"{piped}last\n", piped)


def test_who_goes_on_for_a_program_outlives_its_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mdadm may leave somebody behind who continues a reshape, and who speaks."""
    go, lived = tmp_path / "go", tmp_path / "lived"
    program = tmp_path / "mdadm"
    program.write_text(
        f"#!/bin/sh\n(while [ ! -e {go} ]; do sleep 0.02; done\n"
        f"echo more; echo more >&2; : > {lived}) & echo $!\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(command, "PATH", f"{tmp_path}:/usr/bin:/bin")
    left = int(command.run(["mdadm"]).out)
    go.touch()
    while os.path.exists(f"/proc/{left}") and not lived.exists():
        time.sleep(0.02)
    assert lived.exists()


def test_a_program_that_says_too_much_for_a_pipe_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mdadm"
    program.write_text("#!/bin/sh\ntimeout 60 yes | head -c 100000\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(command, "PATH", f"{tmp_path}:/usr/bin:/bin")
    done = command.run(["mdadm"], timeout=60)
    assert done.code == 3 and 0 < len(done.out) <= command.PIPE_SIZE


def test_nobody_waits_for_who_keeps_a_pipe_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mount"
    program.write_text("#!/bin/sh\nsleep 60 & echo $!\n")
    program.chmod(0o755)
    monkeypatch.setattr(command, "PATH", f"{tmp_path}:/usr/bin:/bin")
    left = int(command.run(["mount"]).out)
    os.kill(left, signal.SIGKILL)  # it is still there
