"""What lies in the partitions of a disk, for the refusal that names it.

Partitions are not supported: a set uses whole volumes.  Nothing here decides
anything, and nothing is written.  Sources: blkid(8), sysfs-block.
"""

from __future__ import annotations

from cc_kraken.machine import sysfs
from cc_kraken.machine.command import run
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Layer, gib

TABLES = ("gpt", "dos", "PMBR")
"""Partition tables, by blkid's names."""
SHOWN = 8
#: Sectors of 512 bytes that the kernel shows of an entry which only holds others.
_EXTENDED = 2


def inside(paths: Paths, whole: Layer) -> tuple[str, ...]:
    """A phrase for each partition that the kernel shows of this disk or array, the
    first eight: ``nvme1n1p1 (20 GiB): ext4 (UUID …), label 'data'``.

    Raises KrakenError where blkid is missing.
    """
    found = []
    for name in sysfs.names("/".join((paths.sys, "block", whole.name))):
        number, start, sectors = (
            sysfs.attribute(paths.sys, "block", whole.name, name, entry) or ""
            for entry in ("partition", "start", "size")
        )
        if number.isdigit() and int(sectors) > _EXTENDED:
            found.append((int(number), name, int(start) * 512, int(sectors) * 512))
    found.sort()
    phrases = [
        f"{name} ({gib(size)}): {_content(whole.path, start, size)}"
        for _, name, start, size in found[:SHOWN]
    ]
    return (*phrases, *(("others",) if len(found) > SHOWN else ()))


def blkid(*words: str) -> tuple[int, dict[str, str]]:
    """What libblkid finds on a device, the last of the words: exit status and tags
    (TYPE, UUID, PTTYPE …)."""
    done = run(["blkid", "-p", "-o", "export", *words])
    tags = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    return done.code, tags


def _content(path: str, start: int, size: int) -> str:
    _, tags = blkid("-O", str(start), "-S", str(size), path)
    kind = tags.get("TYPE") or tags.get("PTTYPE")
    if not kind:
        return "nothing that is known"
    uuid = f" (UUID {tags['UUID']})" if "UUID" in tags else ""
    label = f", label {tags['LABEL']!r}" if "LABEL" in tags else ""
    return f"{kind}{uuid}{label}"
