"""A volume with a partition table: what is in it is told, and none of it touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.loop import test_run as whole
from tests.loop.test_run import MIB, Machine, error_of, states

pytestmark = pytest.mark.long

machine = whole.machine

#: First MiB, MiB, and what is made in it, by the number of the partition.
LAYOUTS = {
    "gpt": ("label: gpt\n1MiB,200MiB\n201MiB,100MiB\n301MiB,64MiB\n",
            {1: (1, 200, "ext4"), 2: (201, 100, ""), 3: (301, 64, "swap")}),
    "dos": ("label: dos\n1MiB,100MiB,83\n101MiB,800MiB,5\n102MiB,400MiB,83\n",
            {1: (1, 100, ""), 2: (101, 800, ""), 5: (102, 400, "xfs")}),
}  # fmt: skip
MADE = {
    "ext4": ["mkfs.ext4", "-q", "-L", "precious"],
    "xfs": ["mkfs.xfs", "-q", "-L", "precious"],
    "swap": ["mkswap", "-L", "sw"],
}


def blkid(path: Path) -> str:
    argv = ["blkid", "-p", "-s", "UUID", "-o", "value", str(path)]
    return subprocess.check_output(argv, text=True).strip()


def partitioned(machine: Machine, volume: str, table: str) -> dict[int, str]:
    """Make the partitions, and show them as the kernel does; UUIDs by number."""
    text, parts = LAYOUTS[table]
    file = machine.file(volume)
    subprocess.run(["sfdisk", "-q", str(file)], input=text, text=True, check=True)
    uuids = {}
    for number, (start, size, kind) in parts.items():
        if not kind:
            continue
        part = machine.base / f"part{number}"
        with open(part, "wb") as empty:
            empty.truncate(size * MIB)
        subprocess.run([*MADE[kind], str(part)], check=True, stdout=subprocess.DEVNULL)
        uuids[number] = blkid(part)
        argv = ["dd", f"if={part}", f"of={file}", "bs=1M", f"seek={start}"]
        subprocess.run([*argv, "conv=notrunc,sparse"], check=True, stderr=-3)
    return uuids


def shown(machine: Machine, device: str, table: str) -> None:
    name = Path(device).name
    for number, (start, size, _) in LAYOUTS[table][1].items():
        below = machine.base / "sys/block" / name / f"{name}p{number}"
        (below / "holders").mkdir(parents=True)
        sectors = 2 if number == 2 and table == "dos" else size * MIB // 512
        for entry, value in (
            ("partition", number),
            ("start", start * MIB // 512),
            ("size", sectors),
            ("dev", f"259:{900 + number}"),
        ):
            (below / entry).write_text(f"{value}\n")


@pytest.mark.parametrize("table", LAYOUTS)
def test_what_is_in_the_partitions_is_told(machine: Machine, table: str) -> None:
    volume = machine.volume("data")
    uuids = partitioned(machine, volume, table)
    device = machine.plug(volume)
    shown(machine, device, table)
    machine.lab.on_attach = lambda *_: None
    before = machine.digest(volume)
    status = machine.run()
    assert error_of(status, "data") == "content-other"
    said = status["sets"]["data"]["error"]["message"]
    name = Path(device).name
    assert f"partition table ({table})" in said
    if table == "gpt":
        assert f"{name}p1 (0.2 GiB): ext4 (UUID {uuids[1]}), label 'precious'" in said
        assert f"{name}p2 (0.1 GiB): nothing that is known" in said
        assert f"{name}p3 (0.06 GiB): swap (UUID {uuids[3]}), label 'sw'" in said
    else:
        # The entry that holds the other ones is no place for a filesystem.
        assert f"{name}p2" not in said
        assert f"{name}p5 (0.39 GiB): xfs (UUID {uuids[5]}), label 'precious'" in said
    assert "Correct FsType" not in said
    assert machine.digest(volume) == before
    # As it advises: attached, and left to a line of one's own.
    machine.lab.tag(volume, {"KRKN-IN:FsType": "none"})
    assert states(machine.run()) == {"data": "attached"}
    assert machine.digest(volume) == before
