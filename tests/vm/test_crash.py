"""A run killed at every step, before and after it, and inside the long ones:
the next run comes to the same end, on the same instance or on another one, and
files that were there are there.

The points come from ``steps.CHANGES``: a step without a point fails the test.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.steps import CHANGES
from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes
from tests.vm.test_arrays import SHELL
from tests.vm.torture import torture

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

RUNNER = "/root/crashing.py"
KILLED = 137
PORTS = 20
AT_ONCE = 4
OTHER = krkn(prefix="somebody", node_id="else")
JUNK = "dd if=/dev/urandom of=$1 bs=4k count=1 seek=2048 conv=fsync status=none"
MADE = 'create $n 1 "$@"; fill $n; stop $n'
FAILED = (
    'create $n 1 "$@"; mdadm --quiet /dev/md/$n --fail $2 --remove $2; fill $n; '
    "stop $n; blkdiscard $2"
)


@dataclass
class Point:
    """Where a run is cut off, in a set that has to take that step.

    ``disks``: members of a mirror, or one volume.  ``past``: shell lines that
    give them one (see ``SHELL`` of test_arrays); with ``keeps`` there is a
    file.  ``first``: another cut before this one, on the same set.
    """

    step: str
    when: str
    disks: int = 2
    level: int = 1
    kind: str = "ext4"
    program: str = ""
    writes: int = 0
    past: str = ""
    keeps: bool = False
    first: Point | None = None
    number: int = 0
    judged: bool = False
    volumes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f" at write {self.writes} of {self.program}" if self.program else ""
        shape = f"RAID {self.level}" if self.disks > 1 else "single"
        after = f", after {self.first.when} {self.first.step}" if self.first else ""
        return f"{self.when} {self.step}{where} ({shape}, {self.kind}{after})"

    def told(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "step": self.step,
            "when": self.when,
            "program": self.program,
            "writes": self.writes,
        }


def inside(program: str, writes: int, **more: Any) -> Point:
    step = "CreateArray" if program == "mdadm" else "MakeFilesystem"
    kind = "ext4" if program == "mdadm" else program.partition(".")[2]
    return Point(step, "inside", program=program, writes=writes, kind=kind, **more)


def both(step: str, **more: Any) -> list[Point]:
    return [Point(step, when, **more) for when in ("before", "after")]


def half(writes: int = 3) -> Point:
    return inside("mdadm", writes)


FRESH = (
    "Attach", "WriteRecords", "CreateArray", "WriteArrayLine", "MakeFilesystem",
    "EraseRecords", "MakeDirectory", "WriteFstab", "MountFilesystem", "SetOwner",
)  # fmt: skip

POINTS: list[Point] = [
    *(point for step in FRESH for point in both(step)),
    *both("AssembleArray", past=MADE, keeps=True),
    *both("AddMember", past=FAILED, keeps=True),
    *both("StopArray", first=half()),
    *both("ZeroSuperblocks", first=half()),
    *both("Wipe", disks=1, past=JUNK),
    *(inside("mdadm", writes) for writes in (1, 2, 3, 4)),
    *(inside("mkfs.ext4", writes, disks=1) for writes in (2, 12)),
    *(inside("mkfs.xfs", writes, disks=1) for writes in (2, 12)),
    *(inside("mkfs.btrfs", writes, disks=1) for writes in (2, 12)),
    inside("mkfs.xfs", 4),
]
# Their situations need more than one set; see the test of each.
ELSEWHERE = {"Detach", "RemoveFstab"}

REPLACED: list[Point] = [
    Point("WriteRecords", "after"),
    inside("mdadm", 2),
    inside("mdadm", 4),
    Point("CreateArray", "after"),
    inside("mkfs.ext4", 6, disks=2),
    inside("mkfs.xfs", 6, disks=2, level=0),
    inside("mkfs.btrfs", 6, disks=1),
    inside("mkfs.xfs", 3, disks=1),
    Point("MakeFilesystem", "after"),
    Point("EraseRecords", "after"),
    Point("MountFilesystem", "after"),
]


def test_every_step_has_its_points() -> None:
    there = {(point.step, point.when) for point in POINTS}
    for change in CHANGES:
        if change.__name__ not in ELSEWHERE:
            assert (change.__name__, "before") in there, change
            assert (change.__name__, "after") in there, change


class Lab:
    """Points, each a set of a node of its own, on one instance."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.wrong: list[str] = []
        self.node = self.launch()
        self.numbers = iter(range(1000, 2000))

    def launch(self) -> Node:
        # Without a section: only the runs of this test.
        node = self.cloud.launch(krkn(prefix=nodes.PREFIX, node_id=1))
        node.wait_ready()
        node.write_file(RUNNER, (Path(__file__).parent / "crashing.py").read_text())
        return node

    def section(self, point: Point) -> dict[str, Any]:
        return self.cloud.section(
            {
                "enabled": True,
                "prefix": nodes.PREFIX,
                "node_id": point.number,
                "boot_wait": 100,
                "volumes": {"data": point.settings},
            }
        )

    def prepare(self, points: list[Point]) -> None:
        script = [SHELL]
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        for point in points:
            point.number = next(self.numbers)
            tags = nodes.set_tags(
                point.number,
                "data",
                point.disks,
                raid_level=point.level,
                fs_type=point.kind,
                mount_path=f"/c/{point.number}",
                owner="nobody",
            )
            point.volumes = self.cloud.volumes(point.disks, 1, tags)
            if not point.past:
                continue
            for volume in point.volumes:
                self.node.attach(volume, f"/dev/xvdb{next(letters)}")
            self.node.wait_for_disks(*point.volumes)
            names = self.node.serials()
            disks = " ".join(f"/dev/{names[v.replace('-', '')]}" for v in point.volumes)
            script.append(f"( n=p{point.number}; set -- {disks}; {point.past} )")
        self.node.write_file("/root/past.sh", "\n".join(script))
        self.node.run(["bash", "/root/past.sh"], timeout=300, check=True)

    def play(self, points: list[Point], again: bool = True) -> None:
        """Cut, and run again; what is not as it should be is noted."""
        orders: list[dict[str, Any]] = []
        found: dict[int, dict[str, Any]] = {}
        for point in points:
            order = {"section": self.section(point), "again": again}
            if point.first is not None:
                first = {**point.first.told(), "id": -point.number, "again": False}
                orders.append({**order, **first})
            orders.append({**order, **point.told()})
            if len(orders) >= AT_ONCE or point is points[-1]:
                found.update(self.run(orders))
                orders = []
                self._judge_all(points, found, again)

    def _judge_all(
        self, points: list[Point], found: dict[int, dict[str, Any]], again: bool
    ) -> None:
        for point in points:
            if point.number not in found or point.judged:
                continue
            point.judged = True
            for number in (-point.number, point.number):
                if number in found and found[number]["code"] != KILLED:
                    said = found[number]["cut_said"].strip()
                    self.wrong.append(f"{point}: was not reached: {said}")
            if again:
                self.judge(point, found[point.number])
            else:
                nodes.log(f"  {point}: cut")

    def again(self, points: list[Point]) -> None:
        orders = [{"id": p.number, "section": self.section(p)} for p in points]
        found = self.run(orders)
        for point in points:
            self.judge(point, found[point.number])

    def run(self, orders: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        self.node.write_file("/root/points.json", json.dumps(orders))
        done = self.node.run(
            ["python3", RUNNER, "/root/points.json"], timeout=480, check=True
        )
        results = [json.loads(line) for line in done.out.splitlines()]
        return {result["id"]: result for result in results}

    def judge(self, point: Point, result: dict[str, Any]) -> None:
        entry = result["status"]["sets"]["data"]
        state = entry["state"]
        nodes.log(f"  {str(point):58} {state:8} {'; '.join(entry['done'])}"[:170])
        if nodes.traceback_in(result["said"]):
            self.wrong.append(f"{point}: {result['said']}")
        if result["again"] != 0 or state != "mounted":
            self.wrong.append(f"{point}: {state}: {entry['error']}")
            return
        path = f"/c/{point.number}"
        look = self.node.run(
            f"findmnt -n -o FSTYPE {path}; stat -c %U {path}; cat {path}/file"
        ).out.split()
        if look[:1] != [point.kind]:
            self.wrong.append(f"{point}: at {path} is {look}")
        if point.keeps and look[2:] != ["precious"]:
            self.wrong.append(f"{point}: its file is gone: {look}")
        if not point.keeps and look[1:] != ["nobody"]:
            self.wrong.append(f"{point}: not as it should be made: {look}")

    def clear(self) -> None:
        self.node.run("umount /c/*; mdadm --stop --scan")
        mine = [
            one.volume_id
            for one in self.cloud.ec2.attached_to(self.node.id)
            if one.device != "/dev/xvda" and one.device != "/dev/sda1"
        ]
        for volume in mine:
            self.node.detach(volume)
        self.node.wait_released(*mine)


def batches(points: list[Point]) -> list[list[Point]]:
    out: list[list[Point]] = [[]]
    for point in points:
        if sum(one.disks for one in out[-1]) + point.disks > PORTS:
            out.append([])
        out[-1].append(point)
    return out


def give_up(lab: Lab, points: list[Point]) -> None:
    """Learn the fingerprints that a refusal names, and permit them."""
    orders = [{"id": p.number, "section": lab.section(p)} for p in points]
    found = lab.run(orders)
    for point in points:
        error = found[point.number]["status"]["sets"]["data"]["error"]
        mark = re.search(r"overwrite: \{(\S+): ([0-9a-f]{64})\}", error["message"])
        assert mark is not None, error
        point.settings = {"overwrite": {mark.group(1): mark.group(2)}}


@pytest.mark.slow
def test_every_step_on_the_same_instance() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        lab = Lab(cloud)
        for points in batches(POINTS):
            lab.prepare(points)
            give_up(lab, [point for point in points if point.step == "Wipe"])
            lab.play(points)
            lab.clear()
        assert not lab.wrong, "\n".join(lab.wrong)
        nodes.log(f"{len(POINTS)} points")


def test_on_a_replaced_instance_and_the_steps_of_two_sets() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        lab = Lab(cloud)
        for when in ("before", "after"):
            gone(lab, when)
            rival(lab, when)
        lab.prepare(REPLACED)
        lab.play(REPLACED, again=False)
        lab.node.terminate()
        lab.node = lab.launch()
        lab.again(REPLACED)
        assert not lab.wrong, "\n".join(lab.wrong)
        nodes.log(f"{len(REPLACED)} points")


def gone(lab: Lab, when: str) -> None:
    """RemoveFstab: the second set of the node is no more."""
    point = Point("RemoveFstab", when, disks=1)
    lab.prepare([point])
    tags = nodes.set_tags(point.number, "gone", fs_type="ext4", mount_path="/gone")
    other = lab.cloud.volume(1, tags)
    found = lab.run([{"id": 1, "section": lab.section(point)}])
    assert found[1]["again"] == 0, found
    lab.node.run("umount /gone", check=True)
    lab.cloud.ec2.tag(other, {"KRKN-IN:NodeId": "nobody's"})
    lab.play([point])
    if "/gone" in lab.node.read_file("/etc/fstab"):
        lab.wrong.append(f"{point}: the line is still there")
    lab.clear()


def rival(lab: Lab, when: str) -> None:
    """Detach: a rival takes the second member after we got the first."""
    point = Point("Detach", when)
    lab.prepare([point])
    ec2 = lab.cloud.ec2
    first, second = sorted(point.volumes)
    other = ec2.run_instance("m5.large", ec2.zones[0], OTHER)
    ec2.delay(2.0, "AttachVolume")

    def take() -> None:
        deadline = time.monotonic() + 120
        while not ec2.volume(first).attachments and time.monotonic() < deadline:
            time.sleep(0.02)
        ec2.attach_volume(second, other, "/dev/sdf")

    thief = threading.Thread(target=take)
    thief.start()
    order = {"section": lab.section(point), **point.told()}
    result = lab.run([order])[point.number]
    thief.join()
    ec2.heal()
    if result["code"] != KILLED:
        lab.wrong.append(f"{point}: was not reached: {result['cut_said']}")
    error = result["status"]["sets"]["data"]["error"]
    if error is None or error["kind"] != "holder-running":
        lab.wrong.append(f"{point}: {error}")
    ec2.detach_volume(second)
    lab.cloud.wait_for("the rival", lambda: not ec2.volume(second).attachments, 60)
    lab.again([point])
    lab.clear()


def test_power_cuts() -> None:
    """A few of those of ``make torture``."""
    tally = torture(3, random.randrange(1 << 32), measure=False)
    assert not tally.wrong, "\n".join(tally.wrong)
