"""The two JSON sockets of a QEMU process: its monitor, and the guest's agent.

Monitor: QEMU's docs/interop/qmp-spec. Agent: docs/interop/qemu-ga-ref.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .image import LabError


class Gone(LabError):
    """The socket's other end has ended or does not answer."""


class _Lines:
    """JSON objects, one a line, over a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise Gone(f"{path.name}: {error}") from error
        self._rest = b""

    def send(self, message: dict[str, Any], lead: bytes = b"") -> None:
        try:
            self._socket.sendall(lead + json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next object, or None when none has come in `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                # The agent marks the start of an answer after a sync by 0xff.
                text = line.rpartition(b"\xff")[2].strip()
                try:
                    found = json.loads(text) if text else None
                except ValueError:
                    continue
                if isinstance(found, dict):
                    return found
                continue
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError as error:
                raise Gone(str(error)) from error
            if not data:
                raise Gone("the socket was closed by its other end")
            self._rest += data

    def close(self) -> None:
        self._socket.close()


Event = dict[str, Any]


class Monitor:
    """QMP: commands to QEMU, and the events that it reports."""

    def __init__(self, path: Path) -> None:
        self._lines = _Lines(path)
        self.events: list[Event] = []
        try:
            if self._lines.receive(30) is None:
                raise Gone("QEMU's monitor sent no greeting")
            self.do("qmp_capabilities")
        except BaseException:
            self._lines.close()
            raise

    def do(self, command: str, **arguments: Any) -> Any:
        """Run one command; a refusal is a LabError with QEMU's own words."""
        self._lines.send({"execute": command, "arguments": arguments})
        while True:
            answer = self._lines.receive(60)
            if answer is None:
                raise Gone(f"QEMU did not answer {command} within 60 s")
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error']['desc']}")
            self.events.append(answer)

    def take_event(self, wanted: Callable[[Event], bool], timeout: float) -> bool:
        """Whether an event that is wanted has come or comes in time; takes it."""
        until = time.monotonic() + timeout
        while True:
            for event in self.events:
                if wanted(event):
                    self.events.remove(event)
                    return True
            left = until - time.monotonic()
            answer = self._lines.receive(left) if left > 0 else None
            if answer is None:
                return False
            self.events.append(answer)

    def drain(self) -> None:
        """Take in what QEMU has said before it ended."""
        try:
            while (answer := self._lines.receive(0.2)) is not None:
                self.events.append(answer)
        except Gone:
            pass

    def close(self) -> None:
        self._lines.close()


@dataclass(frozen=True)
class Finished:
    """What a command in the guest left: exit status (-N: signal N) and output."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.out}{self.err}"


class Agent:
    """The guest agent: commands inside, without any network."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: _Lines | None = None

    def ping(self, timeout: float = 2) -> bool:
        """Whether the agent answers."""
        try:
            self._synchronised(timeout)
            self._do("guest-ping", {}, timeout)
        except Gone:
            self.close()
            return False
        return True

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 120,
        environment: Sequence[str] = (),
        stdin: bytes = b"",
    ) -> Finished:
        """Run a program in the guest as root and wait for its end.

        Past `timeout` seconds: LabError; the program is not ended.
        """
        until = time.monotonic() + timeout
        arguments: dict[str, Any] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "capture-output": True,
        }
        if environment:
            arguments["env"] = list(environment)
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        try:
            self._synchronised(timeout)
            started = self._do("guest-exec", arguments, timeout)
            pause = 0.05
            while True:
                status = self._do("guest-exec-status", started, timeout)
                if status["exited"]:
                    return _finished(status)
                if time.monotonic() > until:
                    raise LabError(
                        f"still running in the guest after {timeout:.0f} s: "
                        + " ".join(argv)
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, 0.5)
        except Gone:
            self.close()
            raise

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _synchronised(self, timeout: float) -> None:
        """Throw away what an earlier, given up conversation left in the channel."""
        if self._lines is None:
            self._lines = _Lines(self._path)
        number = random.randrange(1 << 30)
        message = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._lines.send(message, lead=b"\xff")
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            answer = self._lines.receive(left)
            if answer is not None and answer.get("return") == number:
                return
        raise Gone(f"the guest's agent has not answered within {timeout:.0f} s")

    def _do(self, command: str, arguments: dict[str, Any], timeout: float) -> Any:
        assert self._lines is not None
        self._lines.send({"execute": command, "arguments": arguments})
        answer = self._lines.receive(timeout)
        if answer is None:
            raise Gone(f"the guest's agent has not answered {command}")
        if "error" in answer:
            raise LabError(f"the agent refused {command}: {answer['error']['desc']}")
        return answer["return"]


def _finished(status: dict[str, Any]) -> Finished:
    def text(key: str) -> str:
        return base64.b64decode(status.get(key, "")).decode(errors="replace")

    code = -status["signal"] if "signal" in status else status["exitcode"]
    return Finished(code, text("out-data"), text("err-data"))
