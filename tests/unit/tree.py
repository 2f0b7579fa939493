"""A machine as files: /sys, /proc, /dev and /etc below one directory.

The tree has the shape of a real one (``devices/pci…/nvme/nvmeN/nvmeNn1`` with
links from ``block``, ``class/block`` and ``dev/block``), so that
``lsblk --sysroot`` accepts it, too.  Nodes in /dev are no block devices: the
code under test falls back to kernel names for them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cc_kraken.machine.paths import Paths

EBS_MODEL = "Amazon Elastic Block Store"
GIB = 1 << 30


def index(sys: Path, name: str) -> None:
    """The kernel's own links to ``block/NAME``, by name and by number."""
    number = (sys / "block" / name / "dev").read_text().strip()
    for link in (
        sys / "class/block" / os.path.basename(name),
        sys / "dev/block" / number,
    ):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../block/{name}")


class Tree:
    """One machine; each method adds something to it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.paths = Paths(
            sys=str(base / "sys"),
            proc=str(base / "proc"),
            dev=str(base / "dev"),
            etc=str(base / "etc"),
            run=str(base / "run"),
            state=str(base / "state"),
            udev=str(base / "udev"),
        )
        for name in ("sys/block", "sys/class/block", "sys/dev/block", "dev", "etc"):
            (base / name).mkdir(parents=True)
        (base / "proc/self").mkdir(parents=True)
        self.write("proc/mdstat", "Personalities :\n")
        self.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
        self._mounts: list[str] = []
        self._minor = 0
        self.mount("/", "254:1", "ext4", "/dev/vda1")

    def write(self, name: str, text: str) -> Path:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    def disk(
        self,
        number: int,
        serial: str | None,
        *,
        size: int = GIB,
        model: str | None = EBS_MODEL,
        read_only: bool = False,
        partitions: Sequence[str] = (),
        holders: Sequence[str] = (),
    ) -> Path:
        """An NVMe disk ``nvme<number>n1``; its directory in /sys."""
        controller = f"sys/devices/pci0000:00/0000:00:{number:02x}.0/nvme/nvme{number}"
        name = f"nvme{number}n1"
        if serial is not None:
            self.write(f"{controller}/serial", f"{serial:<20}\n")
        if model is not None:
            self.write(f"{controller}/model", f"{model:<40}\n")
        self.write(f"{controller}/transport", "pcie\n")
        (self.base / controller / "subsystem").mkdir()
        directory = self._block(f"{controller}/{name}", name, 259, size, read_only)
        (directory / "device").symlink_to("..")
        for index, partition in enumerate(partitions, 1):
            below = f"{controller}/{name}/{partition}"
            self._block(below, partition, 259, size // 2, False, whole=False)
            self.write(f"{below}/partition", f"{index}\n")
        for holder in holders:
            (directory / "holders" / holder).mkdir()
        return directory

    def nodeless(self, name: str) -> None:
        """A disk without a node in /dev: nobody can open it."""
        (self.base / "dev" / name).unlink()

    def virtual(
        self, name: str, slaves: Sequence[str], *, size: int = GIB, major: int = 9
    ) -> Path:
        """An md or dm device on other devices."""
        where = f"sys/devices/virtual/block/{name}"
        directory = self._block(where, name, major, size, False)
        for slave in slaves:
            (directory / "slaves" / slave).mkdir()
        return directory

    def array(
        self,
        name: str,
        members: Sequence[str],
        *,
        state: str = "clean",
        level: str = "raid0",
        raid_disks: str | None = None,
        degraded: int = 0,
        uuid: str | None = None,
        size: int = GIB,
    ) -> Path:
        """An md array."""
        directory = self.virtual(name, members, size=size)
        md = f"{directory.relative_to(self.base)}/md"
        self.write(f"{md}/array_state", f"{state}\n")
        self.write(f"{md}/level", f"{level}\n")
        self.write(f"{md}/raid_disks", f"{raid_disks or len(members)}\n")
        if level != "raid0":
            self.write(f"{md}/degraded", f"{degraded}\n")
        if uuid is not None:
            self.write(f"{md}/uuid", f"{uuid}\n")
        for member in members:
            (self.base / md / f"dev-{member}").mkdir()
        return directory

    def mount(
        self,
        path: str,
        devno: str,
        type: str = "ext4",
        source: str = "none",
        *,
        parent: int | None = None,
        root: str = "/",
    ) -> int:
        """A line of mountinfo; its id (the root's is 20)."""
        number = 20 + len(self._mounts)
        above = parent if parent is not None else (1 if path == "/" else 20)
        self._mounts.append(
            f"{number} {above} {devno} {root} {path} rw,relatime shared:1 - "
            f"{type} {source} rw\n"
        )
        self.write("proc/self/mountinfo", "".join(self._mounts))
        return number

    def swap(self, node: str) -> None:
        """A line of /proc/swaps."""
        path = self.base / "proc/swaps"
        path.write_text(path.read_text() + f"{node} partition 1024 0 -2\n")

    def btrfs(self, uuid: str, members: Sequence[str]) -> None:
        """A mounted btrfs, as /sys/fs/btrfs shows it."""
        for member in members:
            (self.base / "sys/fs/btrfs" / uuid / "devices" / member).mkdir(parents=True)

    def number(self, name: str) -> str:
        """The number of a disk or partition."""
        return (self.base / "sys/class/block" / name / "dev").read_text().strip()

    def _block(
        self,
        where: str,
        name: str,
        major: int,
        size: int,
        read_only: bool,
        *,
        whole: bool = True,
    ) -> Path:
        devno = f"{major}:{self._minor}"
        self._minor += 1
        self.write(f"{where}/dev", f"{devno}\n")
        self.write(f"{where}/size", f"{size // 512}\n")
        self.write(f"{where}/ro", f"{int(read_only)}\n")
        self.write(
            f"{where}/uevent",
            f"MAJOR={major}\nMINOR={devno.split(':')[1]}\nDEVNAME={name}\n"
            f"DEVTYPE={'disk' if whole else 'partition'}\n",
        )
        self.write(f"{where}/queue/logical_block_size", "512\n")
        directory = self.base / where
        (directory / "holders").mkdir()
        links = [f"sys/class/block/{name}", f"sys/dev/block/{devno}"]
        if whole:
            (directory / "slaves").mkdir()
            links.append(f"sys/block/{name}")
        for link in links:
            path = self.base / link
            path.symlink_to(os.path.relpath(directory, path.parent))
        (self.base / "dev" / name).touch()
        return directory
