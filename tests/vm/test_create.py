"""A node whose volumes do not exist: created in one boot, cut off between two
creations, and used by the instance that replaces it."""

from __future__ import annotations

import json

import pytest

from tests.lab.cloud import Cloud, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
]

TAGS = krkn(prefix=nodes.PREFIX, node_id=0)
CREATE = {"size": 1, "after": 20}
SECTION = {
    "boot_wait": 900,
    "volumes": {
        "log": {"fs_type": "ext4", "mount_path": "/krkn_log", "create": CREATE},
        "data": {
            "members": 3,
            "raid_level": 0,
            "fs_type": "xfs",
            "mount_path": "/krkn_data",
            "create": CREATE,
        },
    },
}
PATHS = ("/krkn_log", "/krkn_data")


def created(cloud: Cloud) -> dict[str, tuple[str, str]]:
    """The volumes of the node: set and member, by id."""
    return {
        one.id: (one.tags["KRKN-IN:VolumeName"], one.tags["KRKN-IN:Member"])
        for one in cloud.ec2.volumes()
        if one.tags.get("KRKN-IN:NodeId") == "0"
    }


def test_a_node_comes_up_whose_volumes_do_not_exist() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        # Two are created, and the others wait for a token of EC2's throttle.
        cloud.ec2.limit("CreateVolume", 2, 0.001)
        node = cloud.launch(TAGS, cloud.config(SECTION))
        cloud.wait_for("two volumes", lambda: len(created(cloud)) >= 2, seconds=900)
        node.cut()
        half = created(cloud)
        assert len(half) == 2

        cloud.ec2.limit("CreateVolume", 100, 5)
        node.power_on()
        node.wait_ready()
        nodes.log(node.run("cc-kraken status").out)
        status = nodes.status(node)
        nodes.log(json.dumps(nodes.runs(status), indent=1))
        assert status["state"] == "done"
        whole = created(cloud)
        assert half.items() <= whole.items()
        assert sorted(whole.values()) == [
            ("data", "1"),
            ("data", "2"),
            ("data", "3"),
            ("log", "1"),
        ]
        for path in PATHS:
            assert node.run(["mountpoint", "-q", path]).code == 0
            nodes.write_file(node, f"{path}/file", f"{node.id} was here")
        said = {node.read_file(f"{path}/file") for path in PATHS}

        node.terminate()
        new = cloud.launch(TAGS, cloud.config(SECTION))
        new.wait_ready()
        nodes.log(new.run("cc-kraken status").out)
        assert nodes.status(new)["state"] == "done"
        assert {new.read_file(f"{path}/file") for path in PATHS} == said
        assert created(cloud) == whole
        calls = new.calls()
        assert calls["CreateVolume"] == 0 and calls["AttachVolume"] == 4
