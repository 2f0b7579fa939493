"""What a run costs in things that can be counted, whatever machine counts.

The module runs in an interpreter of its own (``python -m tests.counting``),
because imports and memory can be counted only there; the lab's EC2 and the
disks stay in the process that asks (:func:`count`).  Files and processes come
from Python's audit hooks, bytes from ``/proc/self/io``: what the kernel has
given to read(2) and taken from write(2), direct reads and child processes
included, sockets not; and, whoever asked for them, what was read of disks.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

from cc_kraken.machine.paths import Paths

ROOT = Path(__file__).parents[1]


def proof_cost(size: int, whole: bool = False) -> tuple[int, int]:
    """Reads and bytes of one proof of blankness, samples included."""
    from cc_kraken.proof import places  # not where a run is counted

    extents = [*places.places(size, whole)]
    if not whole:
        extents += places.samples(size, random.Random())
    return len(extents), sum(extent.end - extent.start for extent in extents)


BUNDLED = ("boto3", "botocore", "s3transfer", "urllib3", "jmespath", "dateutil")
"""boto3 and what comes with it."""


@dataclass(frozen=True)
class Counts:
    """One call of the module.

    ``opened``: files opened, Python's own modules not among them; ``listed``:
    directories listed; ``read`` and ``written``: bytes of read(2) and write(2);
    ``disk``: bytes that came from disks; ``started``: processes by program;
    ``modules``: what was imported, by top-level name; ``peak`` and ``stays``: KiB of
    memory added at most, and still there after it.
    ``seconds``, and ``cpu`` seconds of the process and of those that it
    started.  ``error``: what it raised, "" for nothing.
    """

    opened: int
    listed: int
    read: int
    written: int
    disk: int
    started: dict[str, int]
    modules: dict[str, int]
    peak: int
    stays: int
    seconds: float
    cpu: float
    error: str = ""
    files: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        return sum(self.started.values())

    @property
    def own(self) -> int:
        """Modules of ours that were imported."""
        return self.modules.get("cc_kraken", 0)

    @property
    def bundled(self) -> int:
        """Modules of boto3 and its company that were imported."""
        return sum(self.modules.get(name, 0) for name in BUNDLED)


def count(job: Mapping[str, Any], environment: Mapping[str, str] = {}) -> Counts:
    """Carry out ``job`` (see :func:`_job`) in an interpreter of its own."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_")
        and not name.lower().endswith("_proxy")
        and name != "PYTHONDONTWRITEBYTECODE"
    }
    # An installed package is compiled.
    own["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "pycache")
    done = subprocess.run(
        [sys.executable, "-m", "tests.counting"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**own, **environment},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    told = json.loads(done.stdout.splitlines()[-1])
    return Counts(**{**told, "files": tuple(told["files"])})


# ------------------------------------------------------------- in the other one


class _Ear:
    """Hears what the interpreter is about to do, while it listens."""

    def __init__(self) -> None:
        self.listens = False
        self.files: list[str] = []
        self.listed = 0
        self.started: Counter[str] = Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listens:
            return
        if event == "open":
            path = arguments[0]
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            # a number: a descriptor that becomes a file object
            if isinstance(path, str) and not path.endswith((".py", ".pyc", ".so")):
                self.files.append(path)
        elif event in ("os.listdir", "os.scandir"):
            self.listed += 1
        elif event == "subprocess.Popen":
            self.started[os.path.basename(arguments[0] or arguments[1][0])] += 1


def _measured(
    ear: _Ear, do: Callable[[], object], before: set[str], deaf: bool
) -> Counts:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held = _memory("VmRSS")
    error = ""
    busy, begun = _busy(), time.monotonic()
    empty, reading = _io(), _io()
    ear.files, ear.listed, ear.started = [], 0, Counter()
    ear.listens = not deaf
    try:
        do()
    except RuntimeError as raised:
        error = str(raised)
    finally:
        ear.listens = False
    after, most = _io(), _memory("VmHWM")
    seconds, cpu = time.monotonic() - begun, _busy() - busy
    gc.collect()
    # One look at the counters is in the difference between two of them.
    own = reading["rchar"] - empty["rchar"]
    modules = Counter(name.split(".")[0] for name in set(sys.modules) - before)
    return Counts(
        opened=len(ear.files),
        listed=ear.listed,
        read=after["rchar"] - reading["rchar"] - own,
        written=after["wchar"] - reading["wchar"],
        disk=after["read_bytes"] - reading["read_bytes"],
        started=dict(ear.started),
        modules=dict(modules),
        peak=max(0, most - held),
        stays=_memory("VmRSS") - held,
        seconds=seconds,
        cpu=cpu,
        error=error,
        files=tuple(ear.files),
    )


def _io() -> dict[str, int]:
    with open("/proc/self/io", "rb", buffering=0) as file:
        lines = file.read(4096).decode("ascii").splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def _busy() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(
            resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
    )


def _memory(name: str) -> int:
    """KiB of a line of ``/proc/self/status``."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def _job(job: Mapping[str, Any]) -> Callable[[], object]:
    """What is to be called.

    ``paths``: fields of Paths; ``cfg``: cloud-init's configuration;
    ``stage``: network, final (both by the module's ``handle``) or background;
    ``source``: attributes of the datasource; ``programs``: where commands are
    looked for instead of the system's own directories; ``witnesses``: a
    pattern of the disks whose writes the kernel sees; ``deaf``: only time,
    bytes and memory count.
    """
    import cc_kraken
    from cc_kraken.boot import configured

    given = dict(job["paths"])
    paths = Paths(**given)
    sys.modules["cc_kraken.machine.paths"].Paths = functools.partial(Paths, **given)  # type: ignore[attr-defined]
    configured.DIRECTORIES = (
        os.path.join(paths.etc, "cc-kraken", "conf.d"),
        os.path.join(paths.instance, "kraken.d"),
    )
    configured.STATUS = paths.status
    source = SimpleNamespace(**job["source"])
    names = {"network": "init-network", "final": "modules-final"}
    reporter = SimpleNamespace(fullname=f"{names.get(job['stage'], '')}/config-kraken")
    cloud = SimpleNamespace(datasource=source, reporter=reporter)

    def prepare() -> None:
        if "witnesses" in job:
            # Loop devices are none, because their file can be written to.
            from cc_kraken.proof import write_counters

            write_counters.TRUSTED = re.compile(job["witnesses"])
        if "programs" in job:
            from cc_kraken.machine import command

            command.PATH = job["programs"]
            command.SYSTEMD = job["programs"]

    def background() -> None:
        prepare()
        from cc_kraken.boot import cloud_init, stage
        from cc_kraken.config import loading

        section = loading.load(job["cfg"], paths)
        assert section is not None
        stage.carry_out(
            section,
            cloud_init.identity(source),
            paths,
            cloud_init.Events(None).enter,
            job["stage"],
            seconds=section.boot_wait,
        )

    def handle() -> None:
        prepare()
        cc_kraken.handle("kraken", job["cfg"], cloud, None, [])

    return handle if job["stage"] in names else background


def main() -> None:
    job = json.load(sys.stdin)
    ear = _Ear()
    _io(), _memory("VmRSS")  # Python imports something for these
    before = set(sys.modules)
    do = _job(job)
    if job.get("warm"):
        # What Python itself reads to import something is no cost of a second
        # call, and is counted as modules.
        do()
        before = set(sys.modules)
    print(json.dumps(asdict(_measured(ear, do, before, job.get("deaf", False)))))


if __name__ == "__main__":
    main()
