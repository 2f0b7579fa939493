"""Wall time on this very machine: module and floor, on loop devices.

Sets of one volume only (a container has no md), but with the processor's own
speed, which an emulated machine has not.  By turns, each on new volumes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.counts import signed
from tests.bench.machine import CASES, HERE, Taken, late
from tests.conftest import umount
from tests.lab.image import Progress
from tests.loop.test_counts import run
from tests.loop.test_run import Machine


def measure(cases: Sequence[str], runs: int, log: Progress) -> list[Taken]:
    found = []
    for case in cases:
        for _ in range(runs):
            for who in ("floor", "module"):
                for taken in _life(case, who):
                    found.append(taken)
                    log(
                        f"{case} {taken.kind}, {who}: {taken.seconds:.2f} s, "
                        f"CPU {taken.cpu:.2f} s"
                    )
    return found


def _life(case: str, who: str) -> list[Taken]:
    """A first boot, and the next instance with the same volumes."""
    found = []
    with tempfile.TemporaryDirectory() as base, ExitStack() as stack:
        # Else every read of a hole fills a page of this machine's memory.
        machine = Machine(Path(base), stack, "--direct-io=on")
        machine.lab.on_attach = late(machine.lab.on_attach)
        stack.callback(machine.unmount)
        stack.enter_context(signed(machine))
        volumes = {one.name: machine.volume(one.name) for one in CASES[case]}
        for kind in ("first boot", "replaced"):
            mark = machine.lab.calls.mark()
            if who == "floor":
                seconds, cpu = _floor(machine, kind, volumes)
            else:
                counts, _ = run(machine, deaf=True)
                seconds, cpu = counts.seconds, counts.cpu
            mounted = machine.mounted()
            assert set(mounted) == {machine.path(name) for name in volumes}
            moments = [
                call.time
                for call in machine.lab.calls.since(mark)
                if call.action == "AttachVolume"
            ]
            attaching = max(moments) - min(moments)
            found.append(Taken(case, kind, who, seconds, cpu, attaching))
            _take_back(machine, volumes)
    return found


def _floor(machine: Machine, kind: str, volumes: dict[str, str]) -> tuple[float, float]:
    names = (f"xvdb{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    words = [
        f"{name}:0:ext4:{machine.path(name)}:{device}={volume}"
        for (name, volume), device in zip(volumes.items(), names)
    ]
    address = machine.lab.endpoint_url.partition("//")[2].replace(":", "/")
    how = "make" if kind == "first boot" else "take"
    done = subprocess.run(
        ["bash", str(HERE / "floor.sh"), how, machine.id, *words],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "API": address,
            "SYS": machine.paths.sys,
            "STATE": str(machine.base),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, cpu = done.stdout.split()[-2:]
    return float(seconds), float(cpu)


def _take_back(machine: Machine, volumes: dict[str, str]) -> None:
    """The machine of an instance that has just been launched."""
    disks = {volume: machine.disk(volume) for volume in volumes.values()}
    for path in machine.mounted():
        umount(path)
    for volume, disk in disks.items():
        (machine.base / "sys/block" / os.path.basename(disk)).rename(
            machine.base
            / f"gone-{os.path.basename(disk)}-{volume}-{os.urandom(4).hex()}"
        )
        subprocess.run(["losetup", "--detach", disk], capture_output=True)
        machine.lab.detach_volume(volume)
    machine.lab.wait_until(
        lambda: all(not machine.lab.volume(one).attachments for one in volumes.values())
    )
    for path in (machine.paths.fstab, machine.paths.layout, machine.paths.status):
        if os.path.exists(path):
            os.unlink(path)
