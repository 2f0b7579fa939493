"""Read and write errors of device-mapper's making below a wanted volume, and
members that device-mapper or md holds: refused, with the reason, and not
changed by a byte, in the dry run and in the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

RUNNER = "/root/mapping.py"
ALL = (1 << 30) // 512
MIB = 2048  # sectors


def but(start: int, length: int) -> tuple[str, ...]:
    """A table with errors in these sectors, the disk's own before and behind."""
    lines = [f"{start} {length} error"]
    if start:
        lines.insert(0, f"0 {start} linear DEV 0")
    end = start + length
    if end < ALL:
        lines.append(f"{end} {ALL - end} linear DEV {end}")
    return tuple(lines)


def flakey(*features: str, up: int = 0) -> tuple[str, ...]:
    more = f" {len(features)} {' '.join(features)}" if features else ""
    return (f"0 {ALL} flakey DEV 0 {up} 3600{more}",)


@dataclass
class Case:
    """A set whose first disk has this ``table`` below it, or that is ``held``
    (shell lines; its first disk is $1).  ``past``: shell lines, before that.
    ``ends``: a state, or the kind of an error; ``says``: words of it."""

    name: str
    ends: str
    table: tuple[str, ...] = ()
    held: str = ""
    past: str = ""
    says: str = ""
    disks: int = 1
    volumes: list[str] = field(default_factory=list)


LINEAR = (f"0 {ALL} linear DEV 0",)
PLANT = "plant $1"

CASES = (
    Case("nothing wrong", "mounted", LINEAR),
    Case("nothing wrong, ext4", "mounted", LINEAR, past=PLANT),
    Case("error at 0", "content-unknown", but(0, 8), says="Read error"),
    Case("error at 8 MiB", "content-unknown", but(8 * MIB, 8), says="Read error"),
    Case("error at the end", "content-unknown", but(ALL - 8, 8), says="Read error"),
    Case("ext4, error at 0", "content-unknown", but(0, 8), past=PLANT,
         says="Read error"),
    Case("member, error at 0", "content-unknown", but(0, 8), says="Read error",
         disks=2),
    Case("error everywhere", "content-unknown", flakey(), says="Read error"),
    Case("writes are lost", "write-failed", flakey("drop_writes"),
         says="does not return what was written"),
    Case("writes are errors", "write-failed", flakey("error_writes"),
         says="Input/output error"),
    Case("member, writes are lost", "write-failed", flakey("drop_writes"),
         says="does not return what was written", disks=2),
    Case("held by dm", "device-held", says="dm-",
         held=f"echo 0 {ALL} linear $1 0 | dmsetup create holder"),
    Case("member held by dm", "device-held", says="dm-", disks=2,
         held=f"echo 0 {ALL} linear $1 0 | dmsetup create holder"),
    Case("held by md", "device-held", says="md",
         held="mdadm --build /dev/md/holder --level=1 --raid-devices=2 $1 missing"),
)  # fmt: skip
FREE = "dmsetup remove holder 2>/dev/null || mdadm --stop /dev/md/holder 2>/dev/null"


def play(cloud: Cloud, node: Node, number: int, case: Case) -> list[str]:
    """What is not as it should be, a sentence each."""
    tags = nodes.set_tags(
        number, "data", case.disks, raid_level=1 if case.disks > 1 else 0,
        fs_type="ext4", mount_path=f"/c/{number}",
    )  # fmt: skip
    case.volumes = sorted(cloud.volumes(case.disks, 1, tags))
    for letter, volume in zip("abc", case.volumes):
        node.attach(volume, f"/dev/xvdb{letter}")
    node.wait_for_disks(*case.volumes, timeout=900)
    names = node.serials()
    disks = " ".join(f"/dev/{names[v.replace('-', '')]}" for v in case.volumes)
    past = f"{nodes.SHELL}\nset -- {disks}\n{case.past}\nudevadm settle\n{case.held}\n"
    node.run(["bash", "-c", past + "udevadm settle; sync"], timeout=900, check=True)
    # The other member can have got its record before the first is at fault.
    kept = case.volumes[:1] if case.ends == "write-failed" else case.volumes
    before = nodes.checksums(cloud, kept)
    section = cloud.section(
        {
            "enabled": True,
            "prefix": nodes.PREFIX,
            "node_id": number,
            "boot_wait": 600,
        }
    )
    tables = {case.volumes[0]: case.table} if case.table else {}
    order = {"section": section, "tables": tables}
    node.write_file("/root/case.json", json.dumps(order))
    done = node.run(["python3", RUNNER, "/root/case.json"], timeout=1200, check=True)
    dry, real = (json.loads(line)["sets"]["data"] for line in done.out.splitlines())
    node.run(FREE)
    error: dict[str, Any] = real["error"] or {}
    ended = error.get("kind") or real["state"]
    nodes.log(f"  {case.name:24} {ended:18} {error.get('message', '')}"[:160])
    out = []
    if ended != case.ends or case.says not in error.get("message", ""):
        out.append(
            f"ends {ended}: {error} {real['done']} {nodes.traceback_in(done.err)}"
        )
    planned = (dry["error"] or {}).get("kind", "")
    if planned != (case.ends if case.ends not in ("mounted", "write-failed") else ""):
        out.append(f"the dry run says {dry['error']}")
    changed = nodes.checksums(cloud, kept) != before
    if changed and case.ends != "mounted":
        out.append("is changed")
    if nodes.traceback_in(done.err):
        out.append(done.err)
    for volume in case.volumes:
        node.detach(volume)
    node.wait_released(*case.volumes)
    return [f"{case.name}: {one}" for one in out]


def test_every_fault() -> None:
    """``pytest -s`` prints the table: the fault, how the set ends, and why."""
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        node = cloud.launch(krkn(prefix=nodes.PREFIX, node_id=1))
        node.wait_ready()
        node.write_file(RUNNER, (Path(__file__).parent / "mapping.py").read_text())
        node.run("mkdir -p /etc/cc-kraken/conf.d; modprobe dm-mod; modprobe dm-flakey")
        wrong: list[str] = []
        for number, case in enumerate(CASES, 3000):
            wrong += play(cloud, node, number, case)
        assert not wrong, "\n".join(wrong)
        nodes.log(f"{len(CASES)} faults")
