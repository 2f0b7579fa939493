"""One node's sets, and what has to hold of them on any kind of machine.

Three volumes as RAID 0, two as RAID 1, one alone: they come up on blank volumes,
after a reboot without a call, and on another instance with what was on them.
"""

from __future__ import annotations

import json

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

NODE = 40
TAGS = krkn(prefix=nodes.PREFIX, node_id=NODE)
SETS = {"log": (1, 0, "ext4"), "data": (3, 0, "xfs"), "mirror": (2, 1, "ext4")}
MADE = ("create", "make ext4", "make xfs", "record")


def volumes(cloud: Cloud) -> dict[str, list[str]]:
    """The volumes of each set, all blank."""
    found = {}
    for name, (size, level, kind) in SETS.items():
        tags = nodes.set_tags(
            NODE, name, size, raid_level=level, fs_type=kind, mount_path=f"/krkn_{name}"
        )
        found[name] = cloud.volumes(size, 1, tags)
    return found


def check(node: Node) -> None:
    """All sets are up, and cloud-init has no complaint."""
    now = nodes.status(node)
    assert nodes.states(now) == dict.fromkeys(SETS, "mounted"), now["sets"]
    assert node.run(["cc-kraken", "status"]).code == 0
    for name, (_, _, kind) in SETS.items():
        found = node.run(f"findmnt -n -o FSTYPE /krkn_{name}", check=True).out.strip()
        assert found == kind
    told = json.loads(node.run("cloud-init status --format json").out)
    assert (told["status"], told["errors"]) == ("done", [])
    assert not nodes.traceback_in(node.read_file("/var/log/cloud-init.log"))


def first_boot(cloud: Cloud) -> Node:
    """A node of blank volumes; it writes a file on each set."""
    node = cloud.launch(TAGS, cloud.config({}))
    node.wait_ready()
    check(node)
    for name in SETS:
        nodes.write_file(node, f"/krkn_{name}/file", node.id)
    return node


def reboot(cloud: Cloud, node: Node) -> None:
    """The system brings the sets up by itself: the network stage asks nobody."""
    same, mark = nodes.uuids(nodes.status(node)), cloud.ec2.calls.mark()
    nodes.patient(node)
    node.reboot()
    node.wait_ready()
    check(node)
    now = nodes.status(node)
    assert nodes.runs(now)["network"]["calls"] == {}
    assert cloud.ec2.calls.writes(mark) == []
    assert nodes.uuids(now) == same


def replace(cloud: Cloud, node: Node) -> Node:
    """Another instance in its place has the same sets, and its files."""
    same = nodes.uuids(nodes.status(node))
    node.terminate()
    other = cloud.launch(TAGS, cloud.config({}))
    other.wait_ready()
    check(other)
    now = nodes.status(other)
    assert nodes.uuids(now) == same
    for name in SETS:
        assert other.read_file(f"/krkn_{name}/file") == node.id
        steps = nodes.done(now, name)
        assert not any(word in step for step in steps for word in MADE), steps
    return other
