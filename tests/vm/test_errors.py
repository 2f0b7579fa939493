"""Each ordinary mistake: what is said, that nothing is changed, and that the
other sets still come up."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any, Callable

import pytest

from tests.lab.cloud import Cloud, Node
from tests.vm import nodes

pytestmark = pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE)

OTHER_ZONE = "us-east-1b"
STRONGEST = "/var/lib/cloud/instance/kraken.d/case.yaml"
"""Above user-data, which has the short times of the first mistake."""
MESSAGE = re.compile(r"^(?!Waiting).*\[[a-z0-9-]+\] [^.,].*$", re.MULTILINE)
"""An error in full, with its kind; the last line of a run has the kinds alone."""


class Case:
    """One mistake on a node of its own, tried by hand on one instance."""

    def __init__(self, cloud: Cloud, node: Node, number: int) -> None:
        self.cloud, self.node, self.number = cloud, node, number
        self.volumes: list[str] = []

    def volume(self, name: str, size: int = 1, **more: Any) -> str:
        where = {"zone": more.pop("zone")} if "zone" in more else {}
        more.setdefault("fs_type", "ext4")
        more.setdefault("mount_path", f"/e/{self.number}/{name}")
        tags = nodes.set_tags(self.number, name, size, **more)
        made = self.cloud.volume(1, tags, **where)
        self.volumes.append(made)
        return made

    def apply(self, **section: Any) -> str:
        """Run; must fail and change no byte.  What was said."""
        section = {
            "enabled": True,
            "prefix": nodes.PREFIX,
            "node_id": self.number,
            "boot_wait": 180,
            **section,
        }
        before = nodes.checksums(self.cloud, self.volumes)
        text = json.dumps({"kraken": self.cloud.section(section)})
        self.node.write_file(STRONGEST, text)
        done = self.node.run(["cc-kraken", "apply"], timeout=300)
        assert done.code == 1, f"it has not failed: {done.out}{done.err}"
        assert nodes.checksums(self.cloud, self.volumes) == before
        assert not nodes.traceback_in(done.err), done.err
        said: str = MESSAGE.findall(done.err)[-1]
        nodes.log(f"{self.number}: {said}")
        return said


def missing_volume(case: Case) -> tuple[str, ...]:
    case.volume("data", 3, raid_level=0)
    case.volume("data", 3, raid_level=0)
    said = case.apply(boot_wait=2)
    assert case.cloud.ec2.volume(case.volumes[0]).state == "available"
    return (said, "2", "3", case.volumes[0])


def no_volume(case: Case) -> tuple[str, ...]:
    return (case.apply(boot_wait=2), "No volume", f"KRKN-IN:NodeId={case.number}")


def other_zone(case: Case) -> tuple[str, ...]:
    case.volume("data", zone=OTHER_ZONE)
    return (case.apply(), OTHER_ZONE, "us-east-1a")


def shared_mount_path(case: Case) -> tuple[str, ...]:
    for name in ("one", "two"):
        case.volume(name, mount_path="/e/shared")
    return (case.apply(), "/e/shared", "one", "two")


def other_filesystem(case: Case) -> tuple[str, ...]:
    made = case.volume("data")
    path = str(case.cloud.backing(made))
    subprocess.run(["mkfs.xfs", "-q", path], check=True)
    return (case.apply(), made, "xfs", "ext4", "overwrite")


def unknown_bytes(case: Case) -> tuple[str, ...]:
    made = case.volume("data")
    with open(case.cloud.backing(made), "r+b") as volume:
        volume.seek(8 << 20)
        volume.write(os.urandom(4096))
    return (case.apply(), made, str(8 << 20), "overwrite")


def unknown_bytes_beside_a_good_set(case: Case) -> tuple[str, ...]:
    made = case.volume("data")
    with open(case.cloud.backing(made), "r+b") as volume:
        volume.write(os.urandom(4096))
    good = nodes.set_tags(case.number, "good", fs_type="ext4", mount_path="/e/good")
    case.cloud.volume(1, good)
    said = case.apply()
    found = nodes.states(nodes.status(case.node))
    assert found == {"data": "failed", "good": "mounted"}
    return (said, made)


def held_by_a_running_instance(case: Case) -> tuple[str, ...]:
    made = case.volume("data")
    ec2 = case.cloud.ec2
    holder = ec2.run_instance("m5.large", "us-east-1a", {"Name": "a stranger"})
    case.cloud.wait_for("running", lambda: ec2.instance(holder).state == "running")
    ec2.attach_volume(made, holder, "/dev/sdf")
    return (case.apply(), made, holder, "running")


def forbidden_describe(case: Case) -> tuple[str, ...]:
    case.volume("data")
    case.cloud.ec2.forbid("DescribeVolumes")
    try:
        return (case.apply(boot_wait=2), "ec2:DescribeVolumes")
    finally:
        case.cloud.ec2.allow("DescribeVolumes")


def forbidden_attach(case: Case) -> tuple[str, ...]:
    case.volume("data")
    case.cloud.ec2.forbid("AttachVolume")
    try:
        return (case.apply(boot_wait=20), "ec2:AttachVolume")
    finally:
        case.cloud.ec2.allow("AttachVolume")


def without_program(program: str, **tags: Any) -> Callable[[Case], tuple[str, ...]]:
    def case_of(case: Case) -> tuple[str, ...]:
        for _ in range(tags.get("size", 1)):
            case.volume("data", **tags)
        path = case.node.run(f"command -v {program}", check=True).out.strip()
        case.node.run(f"mv {path} {path}.away", check=True)
        try:
            return (case.apply(), program, "Install the package")
        finally:
            case.node.run(f"mv {path}.away {path}", check=True)

    return case_of


def no_network(case: Case) -> tuple[str, ...]:
    case.volume("data")
    case.cloud.ec2.down("drop")
    try:
        return (case.apply(boot_wait=2), "169.254.42.1")
    finally:
        case.cloud.ec2.up()


def unknown_key(case: Case) -> tuple[str, ...]:
    said = case.apply(volumes={"data": {"mount_pth": "/data"}})
    return (said, "mount_pth", "mount_path")


def wrong_type(case: Case) -> tuple[str, ...]:
    return (case.apply(boot_wait="soon"), "boot_wait", "soon")


CASES = {
    "a set with a volume missing": missing_volume,
    "no volume at all": no_volume,
    "volumes in another zone": other_zone,
    "two sets on one mount path": shared_mount_path,
    "a filesystem of another type": other_filesystem,
    "unknown bytes": unknown_bytes,
    "unknown bytes, and a good set": unknown_bytes_beside_a_good_set,
    "held by a running instance": held_by_a_running_instance,
    "not allowed to look": forbidden_describe,
    "not allowed to attach": forbidden_attach,
    "no mdadm": without_program("mdadm", size=2, raid_level=0),
    "no mkfs.xfs": without_program("mkfs.xfs", fs_type="xfs"),
    "no network": no_network,
    "an unknown key": unknown_key,
    "a wrong type": wrong_type,
}


def test_mistakes() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        # An instance without tags: the first mistake is its own boot.
        precious = cloud.volume(
            1, nodes.set_tags(0, "data", fs_type="ext4", mount_path="/d")
        )
        before = cloud.backing_checksum(precious)
        section = {"boot_wait": 1, "wait": 3, "final_wait": 60}
        node = cloud.launch({}, cloud.config(section))
        booted = node.wait_ready()
        assert booted["result"]["errors"], "cloud-init status must say error"
        told = nodes.status(node)
        (error,) = told["errors"]
        nodes.log(f"no tags: {error['message']}")
        assert "KRKN-IN:Prefix" in error["message"]
        assert "KRKN-IN:NodeId" in error["message"]
        assert node.run("cloud-init status").out.strip() == "status: error"
        assert "users_groups" in node.read_file("/var/log/cloud-init.log")
        assert cloud.backing_checksum(precious) == before

        failures = []
        for number, (name, play) in enumerate(CASES.items(), 1):
            nodes.log(f"{number}: {name}")
            try:
                said, *words = play(Case(cloud, node, number))
                absent = [word for word in words if word not in said]
                if absent:
                    failures.append(f"{name}: {absent} not in: {said}")
            except AssertionError as error:
                failures.append(f"{name}: {error}")
        assert not failures, "\n".join(failures)
