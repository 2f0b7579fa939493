"""Costs that can be counted, and CPU seconds on this very machine."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cc_kraken.state.report import Report
from tests.bench.table import Row, spread
from tests.counting import Counts, count
from tests.loop.test_counts import run
from tests.loop.test_run import Machine
from tests.unit.simulations.test_counts import SOURCE, Boot, reboot

HEADINGS = (
    "",
    "API calls",
    "processes",
    "modules (ours)",
    "files",
    "MiB read(2)",
    "MiB of disks",
    "KiB written",
    "CPU seconds",
    "MiB at most",
    "MiB after",
)


@dataclass
class Counted:
    """One situation: what a first call in a process costs, several times, and
    its files and bytes without those of Python's imports (``warm``)."""

    title: str
    calls: Mapping[str, int]
    cold: Sequence[Counts]
    warm: Counts

    def row(self) -> Row:
        first = self.cold[0]
        return (
            self.title,
            str(sum(self.calls.values())),
            str(first.processes),
            f"{sum(first.modules.values())} ({first.own})",
            str(self.warm.opened),
            f"{self.warm.read / (1 << 20):.2f}",
            f"{self.warm.disk / (1 << 20):.2f}",
            f"{self.warm.written / 1024:.0f}",
            spread([one.cpu for one in self.cold]),
            f"{statistics.median(one.peak for one in self.cold) / 1024:.0f}",
            f"{statistics.median(one.stays for one in self.cold) / 1024:.0f}",
        )


def measure(runs: int) -> list[Counted]:
    return [*_without_disks(runs), *_with_disks(runs)]


def _without_disks(runs: int) -> list[Counted]:
    with tempfile.TemporaryDirectory() as base:
        silent = Boot(Path(base, "silent"))
        job = {
            "paths": vars(silent.paths),
            "cfg": {},
            "stage": "network",
            "source": SOURCE,
        }
        found = [count(job) for _ in range(runs)]
        quiet = Counted("not configured", {}, found, count({**job, "warm": True}))

        boot = reboot(Boot(Path(base, "reboot")))
        found = [boot.count("network") for _ in range(runs)]
        again = Counted(
            "reboot, network stage (1+3 volumes)",
            {},
            found,
            boot.count("network", warm=True),
        )

        told = Report(boot.paths, "background")
        told.set("data")["state"] = "mounted"
        told.finish("done")
        found = [boot.count("final") for _ in range(runs)]
        final = Counted("final stage", {}, found, boot.count("final", warm=True))
    return [quiet, again, final]


def _with_disks(runs: int) -> list[Counted]:
    """Of one volume with ext4: each run on a volume of its own."""
    kinds: dict[str, list[Counts]] = {"first boot": [], "all": [], "replaced": []}
    called: dict[str, Mapping[str, int]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as base, ExitStack() as stack:
            machine = Machine(Path(base), stack)
            stack.callback(machine.unmount)
            stack.enter_context(signed(machine))
            machine.volume("log")
            for kind, stage in (("first boot", "apply"), ("all", "background")):
                counts, called[kind] = run(machine, stage)
                kinds[kind].append(counts)
            machine.unmount()
            shutil.rmtree(machine.paths.etc)
            os.mkdir(machine.paths.etc)
            counts, called["replaced"] = run(machine)
            kinds["replaced"].append(counts)
    titles = {
        "first boot": "first boot (1 volume)",
        "all": "background unit, all in place (1 volume)",
        "replaced": "replaced instance, volume attached (1 volume)",
    }
    return [
        Counted(titles[kind], called[kind], found, found[0])
        for kind, found in kinds.items()
    ]


class signed(ExitStack):
    """The environment with the credentials of this machine's role."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        keys = machine.lab.credentials(machine.id)
        self.wanted: dict[str, Any] = {
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["Token"],
        }

    def __enter__(self) -> signed:
        before = dict(os.environ)
        os.environ.update(self.wanted)
        self.callback(os.environ.update, before)
        self.callback(os.environ.clear)
        return self
