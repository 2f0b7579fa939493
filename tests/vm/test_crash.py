"""A run killed at every step, before and after it, and inside the long ones:
the next run comes to the same end, on the same instance or on another one, and
files that were there are there.

The points are in ``points.py``.
"""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes
from tests.vm.points import BATCHES, POINTS, REPLACED, SEVERAL, Point

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

RUNNER = "/root/crashing.py"
KILLED = 137
AT_ONCE = 4
OTHER = krkn(prefix="somebody", node_id="else")


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
                "boot_wait": 600,
                "volumes": {point.name: point.settings},
            }
        )

    def prepare(self, points: list[Point]) -> None:
        script = [nodes.SHELL]
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        for point in points:
            point.number = next(self.numbers)
            tags = nodes.set_tags(
                point.number,
                point.name,
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
        self.node.run(["bash", "/root/past.sh"], timeout=1800, check=True)

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
            ["python3", RUNNER, "/root/points.json"], timeout=1800, check=True
        )
        results = [json.loads(line) for line in done.out.splitlines()]
        return {result["id"]: result for result in results}

    def judge(self, point: Point, result: dict[str, Any]) -> None:
        entry = result["status"]["sets"][point.name]
        state = entry["state"]
        nodes.log(f"  {str(point):58} {state:8} {'; '.join(entry['done'])}"[:170])
        if nodes.traceback_in(result["said"]):
            self.wrong.append(f"{point}: {result['said']}")
        if result["again"] != 0 or state != "mounted":
            self.wrong.append(f"{point}: {state}: {entry['error']}")
            return
        path = f"/c/{point.number}"
        kind, uuid, size, lines, owner, *file = self.node.run(
            f"findmnt -n -b -o FSTYPE,UUID,SIZE {path} && "
            f"grep -c ' {path} ' /etc/fstab; stat -c %U {path}; cat {path}/file",
        ).out.split()
        if (kind, uuid) != (point.kind, entry["filesystem"]["uuid"]):
            self.wrong.append(f"{point}: at {path} is {kind} {uuid}")
        if lines != "1":
            self.wrong.append(f"{point}: {lines} lines in fstab")
        if int(size) >> 20 < point.least:
            self.wrong.append(f"{point}: has {int(size) >> 20} MiB")
        if point.keeps and file != ["precious"]:
            self.wrong.append(f"{point}: its file is gone: {file}")
        if not point.keeps and (owner != "nobody" or file):
            self.wrong.append(f"{point}: not as it should be made: {owner} {file}")

    def done(self, points: list[Point]) -> None:
        assert not self.wrong, "\n".join(self.wrong)
        nodes.log(f"all {len(points)} points have passed")

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


def give_up(lab: Lab, points: list[Point]) -> None:
    """Learn the fingerprints that a refusal names, and permit them."""
    orders = [{"id": p.number, "section": lab.section(p)} for p in points]
    found = lab.run(orders)
    for point in points:
        error = found[point.number]["status"]["sets"][point.name]["error"]
        mark = re.search(r"\{(vol-\w+): ([0-9a-f]{64})\}", error["remedy"])
        assert mark is not None, error
        point.settings = {"overwrite": {mark.group(1): mark.group(2)}}


@pytest.mark.parametrize("number", range(len(BATCHES)))
def test_every_step_on_the_same_instance(number: int) -> None:
    """``pytest -s`` prints each point, and what the next run did."""
    points = BATCHES[number]
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        lab = Lab(cloud)
        nodes.log(f"{len(points)} of {len(POINTS)} points")
        lab.prepare(points)
        give_up(lab, [point for point in points if point.step == "Wipe"])
        lab.play(points)
        lab.done(points)


def test_on_a_replaced_instance() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        lab = Lab(cloud)
        lab.prepare(REPLACED)
        lab.play(REPLACED, again=False)
        lab.node.terminate()
        lab.node = lab.launch()
        lab.again(REPLACED)
        lab.done(REPLACED)


def test_the_steps_of_several_sets() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        lab = Lab(cloud)
        for point in SEVERAL:
            PLAYS[point.step](lab, point)
        lab.done(SEVERAL)


def gone(lab: Lab, point: Point) -> None:
    """RemoveFstab: the second set of the node is no more."""
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


def rival(lab: Lab, point: Point) -> None:
    """Detach: a rival takes the second member after we got the first."""
    lab.prepare([point])
    ec2 = lab.cloud.ec2
    first, second = sorted(point.volumes)
    other = ec2.run_instance("m5.large", ec2.zones[0], OTHER)
    ec2.delay(2.0, "AttachVolume")

    def take() -> None:
        deadline = time.monotonic() + 600
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
    error = result["status"]["sets"][point.name]["error"]
    if error is None or error["kind"] != "holder-running":
        lab.wrong.append(f"{point}: {error}")
    ec2.detach_volume(second)
    lab.cloud.wait_for("the rival", lambda: not ec2.volume(second).attachments, 60)
    lab.again([point])
    lab.clear()


def absent(lab: Lab, point: Point) -> None:
    """CreateVolumes: the volumes of the node do not exist."""
    point.number = next(lab.numbers)
    point.settings = {
        "members": point.disks,
        "raid_level": point.level,
        "fs_type": point.kind,
        "mount_path": f"/c/{point.number}",
        "owner": "nobody",
        "create": {"size": 1, "after": 10},
    }
    lab.play([point])
    made = [
        volume
        for volume in lab.cloud.ec2.volumes()
        if volume.tags.get("KRKN-IN:NodeId") == str(point.number)
    ]
    if len(made) != point.disks:
        lab.wrong.append(f"{point}: {len(made)} volumes")
    lab.clear()


PLAYS = {"RemoveFstab": gone, "Detach": rival, "CreateVolumes": absent}
