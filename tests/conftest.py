"""What all tests share: hypothesis profiles, markers, loop devices."""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Callable

import hypothesis
import pytest

import cc_kraken

#: `make random EXAMPLES=20` looks twenty times as long as `make check`.
MORE = int(os.environ.get("EXAMPLES", "1"))

# The same examples in every run, on fast and slow machines.  `make random` asks
# for the other profile, and draws by a seed.
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    max_examples=100 * MORE,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "random", hypothesis.settings.get_profile("default"), derandomize=False
)
hypothesis.settings.load_profile("default")
# Hypothesis also draws constants of the modules that are loaded: all, always.
for module in pkgutil.walk_packages(cc_kraken.__path__, "cc_kraken."):
    if module.name != "cc_kraken.__main__":  # which would run
        importlib.import_module(module.name)


def read_models_once() -> None:
    """Let botocore read each of its models once in this process, not once a session.

    The model of EC2 alone takes a fifth of a second.  What a loader is told to search
    and to merge is part of the key.  A place of a test's own is read each time.
    """
    from botocore.loaders import Loader

    kept: dict[object, object] = {}

    def once(name: str) -> None:
        read = getattr(Loader, name)

        def from_memory(self: Any, *words: str, **named: str) -> object:
            if "AWS_DATA_PATH" in os.environ:
                return read(self, *words, **named)
            merged = (tuple(self.search_paths), tuple(self.extras_types))
            key = (name, merged, words, tuple(sorted(named.items())))
            if key not in kept:
                kept[key] = read(self, *words, **named)
            return kept[key]

        setattr(Loader, name, from_memory)

    once("list_available_services")
    once("load_service_model")
    once("load_data_with_path")


with suppress(ImportError):
    read_models_once()

#: As the module's own commands have it: without libblkid's cache mkfs.btrfs does not
#: refuse a UUID that was on another test's device a second ago.
os.environ["BLKID_FILE"] = "/dev/null"

TESTS = Path(__file__).parent
LOOP_NODES = 64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by directory, and skip what this machine cannot do, saying why."""
    no_loop = loop_obstacle()
    for item in items:
        where = item.path.relative_to(TESTS).parts[0]
        if where == "vm":
            item.add_marker(pytest.mark.vm)
        if where == "loop":
            item.add_marker(pytest.mark.loop)
        if no_loop and item.get_closest_marker("loop"):
            item.add_marker(pytest.mark.skip(reason=no_loop))


#: For rows that belong to `make test`, not to `make check`.
LATER = pytest.mark.long


def soon(
    first: Sequence[object],
    table: Iterable[object],
    mark: pytest.MarkDecorator = pytest.mark.slow,
) -> list[object]:
    """The rows of a table as parameters: all but the `first` ones with `mark`."""
    rows = list(table)
    assert all(row in rows for row in first)
    return [row if row in first else pytest.param(row, marks=mark) for row in rows]


def loop_obstacle() -> str:
    """Why there are no loop devices here; "" if there are."""
    if os.geteuid() != 0:
        return "not root: loop devices need root"
    if not os.path.exists("/dev/loop-control"):
        return "no /dev/loop-control: this kernel or container has no loop devices"
    return ""


def make_loop_nodes() -> None:
    """Make the nodes that a container without udev lacks (major 7)."""
    for number in range(LOOP_NODES):
        path = f"/dev/loop{number}"
        if not os.path.exists(path):
            os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(7, number))


def attach(path: Path, *options: str) -> str:
    """Attach a file to a free loop device; the path of the device.

    Two test runs may ask at once: losetup then loses a race, and is asked
    again.  ``options``: of losetup(8).
    """
    make_loop_nodes()
    for _ in range(10):
        done = subprocess.run(
            ["losetup", "--find", "--show", *options, str(path)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout.strip()
    raise RuntimeError(f"losetup: {done.stderr.strip()}")


def umount(path: Path | str) -> None:
    """Unmount; waits up to 30 s while another process looks at a loop device
    on a file there (mkfs.btrfs and blkid read every block device, and a
    detached loop device lets go of its file when the last reader has).
    """
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(["umount", path], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if "busy" not in done.stderr or time.monotonic() > deadline:
            raise RuntimeError(done.stderr.strip())
        time.sleep(0.2)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function ``(size: bytes) -> path`` of a loop device on a sparse file
    of that size, or ``(path=…)`` on a file that exists.  All are detached at
    the end, whatever happened.
    """
    obstacle = loop_obstacle()
    if obstacle:
        pytest.skip(obstacle)
    with ExitStack() as attached:

        def make(size: int = 0, *, path: Path | None = None) -> str:
            if path is None:
                path = tmp_path / f"disk{len(list(tmp_path.glob('disk*')))}"
                with open(path, "xb") as file:
                    file.truncate(size)
            device = attach(path)
            attached.callback(
                subprocess.run, ["losetup", "--detach", device], check=True
            )
            return device

        yield make
