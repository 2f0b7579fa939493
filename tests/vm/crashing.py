"""Runs inside an instance: cc-kraken, cut off at a point of its own steps.

``python3 crashing.py POINTS.json``: a list of points, one after another, each
with the ``section`` to run under, the class name of a ``step`` and ``when``:
``before``, ``after``, or ``inside`` with ``program`` and ``writes``: that
program is killed as it begins that many writes to a block device, and the run
dies with it.  ``before write`` and ``after write`` with ``function`` and ``writes``:
at that write of this function of ``storage/make.py``.  Unless ``again`` is false, a
whole run follows.  One JSON line for each point on standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, Callable, NoReturn

KILLED = 137
SECTION = "/etc/cc-kraken/conf.d/50-lab.yaml"
STATUS = "/run/cc-kraken/status.json"
SAID = "/run/crashing.err"

# ptrace(2) and the registers of x86-64 (sys/user.h).
TRACEME, GETREGS, SYSCALL, SETOPTIONS = 0, 12, 24, 0x4200
GOOD, EXITKILL = 1, 0x100000
RDI, ORIG_RAX = 14, 15
WRITES = (1, 18, 20)  # write, pwrite64, writev
libc = ctypes.CDLL(None, use_errno=True)


def ptrace(what: int, pid: int, data: Any = 0) -> None:
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, *[ctypes.c_void_p] * 2)
    if libc.ptrace(what, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def run_until(argv: Sequence[str], writes: int, environment: dict[str, str]) -> bool:
    """Run ``argv`` and kill it at its write number ``writes``; whether it
    came to that."""
    pid = os.fork()
    if pid == 0:
        ptrace(TRACEME, 0)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.execvpe(argv[0], list(argv), environment)
    os.waitpid(pid, 0)
    ptrace(SETOPTIONS, pid, GOOD | EXITKILL)
    registers = (ctypes.c_ulonglong * 27)()
    seen, entering = 0, False
    while True:
        ptrace(SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return False
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            continue
        entering = not entering
        ptrace(GETREGS, pid, ctypes.addressof(registers))
        if not entering or registers[ORIG_RAX] not in WRITES:
            continue
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{registers[RDI]}")
            seen += path.startswith(("/dev/nvme", "/dev/md"))
        if seen >= writes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True


def cut(point: dict[str, Any]) -> None:
    """Make the executor of this process die at the point."""
    from cc_kraken.act.executor import Executor
    from cc_kraken.machine import command

    one, run = Executor._one, command.run

    def dying(self: Any, step: Any) -> None:
        here = type(step).__name__ == point["step"]
        if here and point["when"] == "before":
            die()
        if here and point["when"] == "inside":
            command.run = killing
        one(self, step)
        if here and point["when"] == "after":
            die()

    def killing(argv: Sequence[str], **more: Any) -> Any:
        if os.path.basename(argv[0]) != point["program"] or len(argv) < 2:
            return run(argv, **more)
        if not run_until(argv, point["writes"], command.ENVIRONMENT):
            raise RuntimeError(f"{argv[0]} has ended before that write")
        die()

    Executor._one = dying  # type: ignore[method-assign]
    if point["function"]:
        cut_at_write(point)


def cut_at_write(point: dict[str, Any]) -> None:
    """Die at the write number ``writes`` of a function of ``make``, whichever volume
    it is for: by ``Held.write``, ``Held.zero`` or ``run_on``, as its source says."""
    from cc_kraken.storage import make

    counting, count = threading.Lock(), 0

    def around(write: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*given: Any) -> Any:
            nonlocal count
            if sys._getframe(1).f_code.co_name != point["function"]:
                return write(*given)
            with counting:
                count += 1
                here = count == point["writes"]
            if here and point["when"] == "before write":
                die()
            result = write(*given)
            if here:
                die()
            return result

        return dying

    make.Held.write = around(make.Held.write)  # type: ignore[method-assign]
    make.Held.zero = around(make.Held.zero)  # type: ignore[method-assign]
    make.run_on = around(make.run_on)


def die() -> NoReturn:
    os._exit(KILLED)


def apply(before: Callable[[], None]) -> int:
    """``cc-kraken apply`` in a process of its own; its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            from cc_kraken import cli

            before()
            code = cli.main(["apply"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def play(point: dict[str, Any]) -> dict[str, Any]:
    with open(SECTION, "w") as file:
        json.dump({"kraken": point["section"]}, file)
    result: dict[str, Any] = {"id": point["id"]}
    if "step" in point:
        result["code"] = apply(lambda: cut(point))
        with open(SAID) as file:
            result["cut_said"] = file.read()[-2000:]
    if point.get("again", True):
        result["again"] = apply(lambda: None)
        with open(SAID) as file:
            result["said"] = file.read()[-2000:]
        with open(STATUS) as file:
            result["status"] = json.load(file)
    return result


def main() -> None:
    import boto3  # noqa: F401  once for all the processes that follow

    import cc_kraken.act.run  # noqa: F401

    os.makedirs(os.path.dirname(SECTION), exist_ok=True)
    with open(sys.argv[1]) as file:
        points = json.load(file)
    for point in points:
        print(json.dumps(play(point)), flush=True)


if __name__ == "__main__":
    main()
