"""One instance: a QEMU process, its disks, and what can be done to it.

There is no hardware virtualisation to count on, so QEMU emulates the CPU. A
guest reset ends the process (``-no-reboot``) and a thread of ours starts it
again with the same disks: that tells a reboot from a kernel panic, and a node
that boots again finds its volumes cold-plugged, as on EC2.

A power cut is SIGKILL for QEMU. What a volume has acknowledged is then in the
host's page cache and stays, flushed or not. That is what EBS does: its volumes
have no volatile cache, an acknowledged write is durable, and what is lost with
an instance is the guest's own memory, dirty pages included.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .image import ROOT_LABEL, Image, LabError, Progress, silent
from .qmp import Agent, Event, Finished, Gone, Monitor

PORTS = 24
EARLY_PANICS = 5
DETACH_SECONDS = 60
PANIC = "Kernel panic - not syncing"
#: The root disk is always the first controller.
ROOT_RESET = re.compile(rb"nvme nvme0: I/O \d+ QID \d+ timeout, reset controller")
# What init says first; a panic before it is the emulation's, not the program's.
USER_SPACE = re.compile(r"^\W*Welcome to |systemd\[1\]:", re.MULTILINE)
KERNEL_OPTIONS = (
    "console=ttyS0,115200",
    "rootfstype=ext4",
    "rw",
    "panic=-1",
    "loglevel=6",
    "systemd.show_status=1",
    # Emulated timers are late when the host is busy, which is no reason to give up.
    "no_timer_check",
    # As on EC2, the time is read from a register: the kernel mistrusts that one where
    # there can be two processors, and asks a device that QEMU emulates each time.
    "tsc=reliable",
    "mitigations=off",
)

_machines: weakref.WeakSet[Machine] = weakref.WeakSet()


@dataclass(frozen=True)
class Hardware:
    """What does not change in an instance's life.

    `instance_id` names it; `uuid` must begin with ``ec2`` for cloud-init;
    `forwards` maps an ``address:port`` inside 169.254.0.0/16 to a TCP port on
    the host's loopback; `root_serial` is the serial of the root disk.
    `direct`: volumes are read and written past the host's page cache, where
    its filesystem can: like EBS, whose work is not the instance's.
    """

    instance_id: str
    uuid: str
    mac: str
    root_serial: str
    forwards: Mapping[str, int] = field(default_factory=dict)
    memory_mib: int = 1024
    cpus: int = 1
    direct: bool = False


@dataclass
class _Volume:
    volume_id: str
    backing: Path
    port: int
    direct: bool
    plugged: bool = False


class Machine:
    """An instance that can be switched on, off, cut, and given disks."""

    def __init__(
        self,
        home: Path,
        image: Image,
        hardware: Hardware,
        progress: Progress = silent,
        on_off: Callable[[], None] = lambda: None,
        kernel_options: Sequence[str] = (),
    ) -> None:
        """`home`: a directory of its own, with a short path (sockets are in it).

        `on_off` is called (from another thread) when the guest has switched
        itself off.
        """
        self.home = home
        self.image = image
        self.hardware = hardware
        self.boots = 0
        self.early_panics = 0
        self.failure: str | None = None
        self._console_again = 0.0
        self.kernel_options = tuple(kernel_options)
        self._progress = progress
        self._on_off = on_off
        self._volumes: dict[str, _Volume] = {}
        self._lock = threading.RLock()
        self._agent_lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._agent = Agent(home / "agent")
        self._ending = False
        self._panics_in_a_row = 0
        home.mkdir(parents=True, exist_ok=True)
        self._overlay = home / "root.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        argv += ["-b", str(image.root), str(self._overlay)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        _machines.add(self)

    # Power

    @property
    def running(self) -> bool:
        """Whether it has power (a reboot in progress included)."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process id of QEMU, while there is one."""
        process = self._process
        return process.pid if process else None

    @property
    def console(self) -> Path:
        """The serial console's log of the current (or last) boot."""
        return self.home / f"console-{self.boots}.log"

    def power_on(self) -> None:
        """Start it; what is attached is there from the first moment."""
        with self._lock:
            if self._process is not None:
                raise LabError(f"{self.hardware.instance_id} is already running")
            self._ending = False
            self.failure = None
            self._launch()

    def power_off(self, timeout: float = 900) -> None:
        """Press the power button and wait for the guest to have shut down."""
        with self._lock:
            if self._monitor is None:
                return
            self._ending = True
            self._monitor.do("system_powerdown")
        self._wait(lambda: not self.running, timeout, "to switch itself off")

    def cut(self) -> None:
        """Take the power away, now."""
        with self._lock:
            self._ending = True
            process = self._process
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL)
        self._wait(lambda: not self.running, 30, "to be gone")

    def reboot(self, timeout: float = 900) -> None:
        """A reboot by the guest; returns when the next boot has begun."""
        boots = self.boots
        with contextlib.suppress(Gone):
            # Not as the agent does it, by logind: SELinux may not permit that.
            self.run(["systemctl", "--no-block", "reboot"], timeout=60, check=True)
        with self._agent_lock:
            self._agent.close()
        self._wait(lambda: self.boots > boots, timeout, "to begin its next boot")

    def save(self, path: Path) -> None:
        """Write the root disk, as it is now, to `path` as a raw image.

        While it runs its processors stand still, after a ``sync`` inside: what
        a power cut would leave.
        """
        argv = ["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw"]
        argv += [str(self._overlay), str(path)]
        if self.running:
            self.run(["sync"], check=True)
            argv.insert(2, "--force-share")
        with self._lock:
            monitor = self._monitor
            if monitor is not None:
                monitor.do("stop")
            try:
                subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
            finally:
                if monitor is not None:
                    monitor.do("cont")

    def close(self) -> None:
        """End it and forget its disk."""
        self.cut()
        self._agent.close()
        with contextlib.suppress(OSError):
            self._overlay.unlink()

    # Disks

    @property
    def attached(self) -> list[str]:
        """Ids of the volumes that are attached, in no order that means anything."""
        with self._lock:
            return list(self._volumes)

    def attach(self, volume_id: str, backing: Path) -> None:
        """Give it a volume: hot-plugged when it runs, else there at power-on."""
        with self._lock:
            if volume_id in self._volumes:
                raise LabError(f"{volume_id} is already attached")
            taken = {volume.port for volume in self._volumes.values()}
            free = [port for port in range(PORTS) if port not in taken]
            if not free:
                raise LabError(f"all {PORTS} slots of the instance are taken")
            direct = self.hardware.direct and _takes_direct(backing)
            volume = _Volume(volume_id, backing, free[0], direct)
            self._volumes[volume_id] = volume
            if self._monitor is None:
                return
            try:
                self._monitor.do("blockdev-add", **_node(volume))
                self._monitor.do("device_add", **_device(volume))
                volume.plugged = True
            except Gone:
                pass  # it is rebooting or ending: the next boot has it
            except BaseException:
                del self._volumes[volume_id]
                raise

    def choke(self, volume_id: str) -> None:
        """Let the disk answer nothing from now on, as an impaired volume does:
        a byte a second."""
        with self._lock:
            assert self._monitor is not None, "it runs"
            rates = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
            self._monitor.do(
                "block_set_io_throttle", id=_name(volume_id), bps=1, **rates
            )

    def detach(self, volume_id: str, timeout: float = DETACH_SECONDS) -> bool:
        """Take a volume away; False when the guest did not let go in time."""
        name = _name(volume_id)

        def deleted(event: Event) -> bool:
            data: dict[str, Any] = event.get("data", {})
            return event["event"] == "DEVICE_DELETED" and data.get("device") == name

        until = time.monotonic() + timeout
        again = 0.0
        while True:
            # The lock is not held all the time: others are attached meanwhile.
            with self._lock:
                volume = self._volumes.get(volume_id)
                if volume is None:
                    return True
                monitor = self._monitor
                if monitor is None or not volume.plugged:
                    del self._volumes[volume_id]
                    return True
                with contextlib.suppress(Gone):  # then it is off in a moment
                    if time.monotonic() >= again:
                        # A guest that is still booting does not hear the first.
                        again = time.monotonic() + 5
                        with contextlib.suppress(_Refused):
                            _ask(monitor, "device_del", id=name)
                    if monitor.take_event(deleted, 0.05):
                        _delete_node(monitor, name)
                        del self._volumes[volume_id]
                        return True
            if time.monotonic() > until:
                return False
            time.sleep(0.05)

    # Inside

    def wait_for_agent(self, timeout: float = 900) -> None:
        """Wait until commands can be run inside (well before the boot's end)."""
        self._wait(self._agent_answers, timeout, "to answer", pause=0.5)

    def run(
        self,
        command: str | Sequence[str],
        timeout: float = 600,
        check: bool = False,
        stdin: bytes = b"",
    ) -> Finished:
        """Run a program (a sequence) or a line for the shell (a string) as root.

        With `check`, an exit status other than 0 is a LabError.
        """
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        environment = (
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "HOME=/root",
        )
        with self._agent_lock:
            done = self._agent.run(argv, timeout, environment, stdin)
        if check and done.code != 0:
            raise LabError(f"in {self.hardware.instance_id}: {command}: {done}")
        return done

    def read_file(self, path: str) -> str:
        """The text of a file inside."""
        return self.run(["/bin/cat", path], check=True).out

    def write_file(self, path: str, text: str) -> None:
        """Make a file inside, and the directories that it is in."""
        where = os.path.dirname(path)
        self.run(["/bin/mkdir", "-p", where], check=True)
        script = 'cat > "$1"'
        argv = ["/bin/sh", "-c", script, "sh", path]
        self.run(argv, check=True, stdin=text.encode())

    def journal(self, *options: str) -> str:
        """The journal of this boot; `options` are journalctl's."""
        argv = ["journalctl", "--boot", "--no-pager", "--output=short-monotonic"]
        return self.run([*argv, *options], check=True).out

    def wait_for_boot(self, timeout: float = 1800) -> dict[str, Any]:
        """Wait for the end of cloud-init; what its status.json says (``v1``).

        Looks for /run/cloud-init/result.json, which this boot's final stage
        writes at its end, and starts no cloud-init beside the one that runs.
        """
        self._wait(self._booted, timeout, "to finish cloud-init", pause=1)
        status = json.loads(self.read_file("/run/cloud-init/status.json"))
        result = json.loads(self.read_file("/run/cloud-init/result.json"))
        found: dict[str, Any] = status["v1"]
        found["result"] = result["v1"]
        return found

    def tail(self, lines: int = 25) -> str:
        """The end of the console's log, for messages."""
        try:
            text = self.console.read_text(errors="replace")
        except FileNotFoundError:
            return "(no console yet)"
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])

    def _agent_answers(self) -> bool:
        with self._agent_lock:
            return self._agent.ping()

    def _booted(self) -> bool:
        if not self._agent_answers():
            return False
        with contextlib.suppress(Gone):
            argv = ["/usr/bin/test", "-e", "/run/cloud-init/result.json"]
            return self.run(argv, timeout=60).code == 0
        return False

    def _stands_still(self) -> bool:
        """Whether its root disk does."""
        if time.monotonic() < self._console_again:
            return False
        self._console_again = time.monotonic() + 5
        try:
            said = self.console.read_bytes()
        except FileNotFoundError:
            return False
        return stands_still(said)

    def _wait(
        self,
        reached: Callable[[], bool],
        timeout: float,
        what: str,
        pause: float = 0.1,
    ) -> None:
        until = time.monotonic() + timeout
        while not reached():
            reason = self.failure
            if not reason and not self.running:
                reason = None if reached() else "it has no power"
                if reason is None:
                    return
            if not reason and self._stands_still():
                reason = "its root disk stands still"
            if not reason and time.monotonic() > until:
                reason = f"not within {timeout:.0f} s"
            if reason:
                raise LabError(
                    f"waited for {self.hardware.instance_id} {what}: {reason}; "
                    f"the end of {self.console}:\n{self.tail()}"
                )
            time.sleep(pause)

    # The process

    def _launch(self) -> None:
        self.boots += 1
        for volume in self._volumes.values():
            volume.plugged = True
        socket = self.home / "monitor"
        for stale in (socket, self.home / "agent"):
            stale.unlink(missing_ok=True)
        with open(self.home / "qemu.log", "ab") as log:
            process = subprocess.Popen(
                self._argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is ours to handle, not QEMU's
            )
        self._process = process
        self._guard = _guard(process.pid)
        try:
            self._monitor = _connect(socket, process, self.home / "qemu.log")
        except BaseException:
            process.kill()
            process.wait()
            self._end()
            self._process = None
            raise
        keeper = threading.Thread(target=self._keep, args=(process,), daemon=True)
        keeper.start()

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of QEMU, find out what it means, and go on from there."""
        process.wait()
        with self._lock:
            asked = self._ending
            reason = self._end()
            # Between the two boots of a reboot it still counts as running.
            if reason == "guest-reset" and not asked and self._go_on():
                try:
                    self._launch()
                except (LabError, OSError) as error:
                    self.failure = str(error)
                    self._process = None
                return
            self._process = None
            if not asked and not self.failure and reason != "guest-shutdown":
                self.failure = f"QEMU ended ({reason}), see {self.home}/qemu.log"
        if not asked and reason == "guest-shutdown":
            self._on_off()

    def _end(self) -> str:
        """Clear up after a QEMU that has ended; why it did, in QEMU's words."""
        reason = "killed"
        if self._monitor is not None:
            self._monitor.drain()
            for event in self._monitor.events:
                if event["event"] == "SHUTDOWN":
                    reason = event["data"]["reason"]
            self._monitor.close()
        self._monitor = None
        if self._guard is not None:
            with contextlib.suppress(OSError):
                self._guard.communicate(b"\n")
            self._guard = None
        for volume in self._volumes.values():
            volume.plugged = False
        return reason

    def _go_on(self) -> bool:
        """Whether a reset is to be followed by another boot."""
        text = self.console.read_text(errors="replace")
        if PANIC not in text:
            self._panics_in_a_row = 0
            return True
        line = next(line for line in text.splitlines() if PANIC in line).strip()
        if USER_SPACE.search(text):
            self.failure = f"the kernel panicked in user space's time: {line}"
            return False
        self.early_panics += 1
        self._panics_in_a_row += 1
        self._progress(
            f"{self.hardware.instance_id}: early kernel panic, trying again: {line}"
        )
        if self._panics_in_a_row > EARLY_PANICS:
            self.failure = f"{EARLY_PANICS} early panics in a row: {line}"
            return False
        return True

    def _argv(self) -> list[str]:
        hardware = self.hardware
        options = [f"root=LABEL={ROOT_LABEL}", *KERNEL_OPTIONS]
        options += [*self.image.kernel_options, *self.kernel_options]
        uuid = hardware.uuid
        forwards = "".join(
            # -N: without it nc outlives a guest that has closed its connection.
            f",guestfwd=tcp:{address}-cmd:nc -N 127.0.0.1 {port}"
            for address, port in hardware.forwards.items()
        )
        argv = ["qemu-system-x86_64", "-name", hardware.instance_id]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-machine", "q35,vmport=off,smm=off", "-cpu", "qemu64,+rdrand"]
        argv += ["-accel", "tcg,thread=multi", "-smp", _processors(hardware.cpus)]
        argv += ["-m", str(hardware.memory_mib)]
        argv += ["-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd)]
        argv += ["-append", " ".join(options)]
        argv += ["-smbios", f"type=1,serial={uuid},uuid={uuid},manufacturer=Amazon EC2"]
        argv += ["-smbios", "type=3,asset=Amazon EC2"]
        argv += ["-serial", f"file:{self.console_of(self.boots)}"]
        argv += ["-qmp", f"unix:{self.home}/monitor,server=on,wait=off"]
        argv += ["-netdev", f"user,id=net,restrict=on,net=169.254.0.0/16{forwards}"]
        argv += ["-device", f"virtio-net-pci,netdev=net,mac={hardware.mac},romfile="]
        argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        argv += [
            "-chardev",
            f"socket,id=agent,path={self.home}/agent,server=on,wait=off",
        ]
        argv += [
            "-device",
            "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        ]
        # Flushed data of the root disk is in the qcow2 file also after a kill;
        # without flushes (cache=unsafe) its tables would be lost with QEMU.
        argv += ["-drive", f"id=root,if=none,format=qcow2,file={self._overlay}"]
        argv += ["-device", f"nvme,drive=root,serial={hardware.root_serial}"]
        argv += _ports()
        for volume in self._volumes.values():
            argv += ["-blockdev", json.dumps(_node(volume))]
            argv += ["-device", json.dumps(_device(volume))]
        return argv

    def console_of(self, boot: int) -> Path:
        """The console's log of boot number `boot` (from 1)."""
        return self.home / f"console-{boot}.log"


class _Refused(LabError):
    """QEMU said no."""


def _ask(monitor: Monitor, command: str, **arguments: Any) -> None:
    try:
        monitor.do(command, **arguments)
    except Gone:
        raise
    except LabError as error:
        raise _Refused(str(error)) from error


def _delete_node(monitor: Monitor, node: str) -> None:
    """The node is in use for a moment after the device has been deleted."""
    until = time.monotonic() + 10
    while True:
        try:
            _ask(monitor, "blockdev-del", **{"node-name": node})
            return
        except _Refused:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def stands_still(console: bytes) -> bool:
    """Whether the root disk answers nothing: the kernel resets its controller
    in vain.  Said at once, instead of after the longest wait."""
    return len(ROOT_RESET.findall(console)) > 1


def _processors(number: int) -> str:
    """The machine's processors, with room for another one.

    Where there can be one alone, QEMU leaves the guest's memory barriers out,
    although its disks have a thread of their own: the kernel's word that there
    is something to do (an NVMe shadow doorbell) is lost once in a million
    reads, and the disk stands still.  QEMU mended it later (tcg/tcg-op.c,
    tcg_gen_mb); 7.2 has the fault.
    """
    return f"{number},maxcpus={max(2, number)}"


def _name(volume_id: str) -> str:
    return volume_id.replace("-", "")


def _takes_direct(backing: Path) -> bool:
    """Whether the filesystem of this file knows O_DIRECT (tmpfs learnt it late)."""
    try:
        os.close(os.open(backing, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def _node(volume: _Volume) -> dict[str, Any]:
    """The block node of a volume.

    No flush reaches the host's disk (``no-flush``): a kill of QEMU leaves what
    it has written whole, and more than that is not asked of a lab. A discard makes
    a hole: EBS has none, and a program that relies on that shows here.
    """
    cache = {"direct": volume.direct, "no-flush": True}
    return {
        "driver": "raw",
        "node-name": _name(volume.volume_id),
        "discard": "unmap",
        "cache": cache,
        "file": {
            "driver": "file",
            "filename": str(volume.backing),
            "discard": "unmap",
            "cache": cache,
            # Linux's own asks for direct reads and writes.
            "aio": "native" if volume.direct else "threads",
        },
    }


def _device(volume: _Volume) -> dict[str, Any]:
    return {
        "driver": "nvme",
        "id": _name(volume.volume_id),
        "drive": _name(volume.volume_id),
        "serial": _name(volume.volume_id),
        "bus": f"rp{volume.port}",
    }


def _ports() -> list[str]:
    """Root ports, eight to a slot (0x10 …), as far from the fixed devices."""
    argv = []
    for port in range(PORTS):
        slot, function = 0x10 + port // 8, port % 8
        first = ",multifunction=on" if function == 0 else ""
        argv += [
            "-device",
            f"pcie-root-port,id=rp{port},bus=pcie.0,chassis={port + 1},"
            f"slot={port + 1},addr={slot:#x}.{function}{first}",
        ]
    return argv


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A process that kills QEMU should ours be killed, and be unable to."""
    script = 'read _ || kill -KILL "$1"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _connect(
    socket: Path, process: subprocess.Popen[bytes], log: Path, timeout: float = 30
) -> Monitor:
    until = time.monotonic() + timeout
    while True:
        try:
            return Monitor(socket)
        except Gone as error:
            if process.poll() is not None:
                end = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise LabError(f"QEMU did not start:\n{end}") from error
            if time.monotonic() > until:
                raise LabError(f"QEMU's monitor: {error}") from error
            time.sleep(0.05)


@atexit.register
def _cut_all() -> None:
    """No QEMU of ours outlives the process, however that ends (short of kill)."""
    for machine in list(_machines):
        with contextlib.suppress(Exception):
            machine.close()
            shutil.rmtree(machine.home, ignore_errors=True)
