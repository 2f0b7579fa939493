"""Every level, the dry run, and that it says what the run then does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

SETS = {
    "one": (2, 1, "xfs"),
    "five": (3, 5, "ext4"),
    "six": (4, 6, "btrfs"),
    "ten": (4, 10, "xfs"),
}
TAGS = krkn(prefix=nodes.PREFIX, node_id=7)


def told(node: Node) -> dict[str, Any]:
    """What a dry run by hand says."""
    done = node.run(["cc-kraken", "plan", "--json"], timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.out)
    assert found["dry_run"] is True
    return found


def plan(found: dict[str, Any]) -> dict[str, list[str]]:
    """The steps that it would take, by set."""
    return {name: entry["plan"] for name, entry in found["sets"].items()}


def test_every_level_and_the_dry_run() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        ec2 = cloud.ec2
        node = cloud.launch(TAGS, cloud.config({"enabled": False}))
        node.wait_ready()
        assert ec2.calls.counts() == {}, "switched off"
        node.run("rm /run/cc-kraken/status.json")
        volumes: list[str] = []
        for name, (size, level, kind) in SETS.items():
            tags = nodes.set_tags(
                7, name, size, raid_level=level, fs_type=kind, mount_path=f"/m/{name}"
            )
            volumes += cloud.volumes(size, 1, tags)
        section = {"enabled": True, "boot_wait": 900}  # slow machines emulate it
        blank = nodes.checksums(cloud, volumes)

        # Not attached: the plan ends there and says what may follow.
        node.run("mkdir -p /etc/cc-kraken/conf.d /var/lib/cloud/instance/kraken.d")
        override = "/var/lib/cloud/instance/kraken.d/on.yaml"
        node.write_file(override, json.dumps({"kraken": cloud.section(section)}))
        found = told(node)
        assert all(len(one) == 1 and "attach" in one[0] for one in plan(found).values())
        assert "then it is mounted at /m/ten" in found["sets"]["ten"]["outcomes"]

        # The same where the configuration asks for it: then in status.json.
        dry = {**section, "dry_run": True}
        node.write_file(override, json.dumps({"kraken": cloud.section(dry)}))
        assert node.run(["cc-kraken", "apply"], timeout=300).code == 0
        assert plan(nodes.status(node)) == plan(found)
        node.write_file(override, json.dumps({"kraken": cloud.section(section)}))
        assert ec2.calls.writes() == []

        # Attached: the plan is what the run then does, to the word.
        for number, volume in enumerate(volumes):
            node.attach(volume, f"/dev/xvdb{chr(ord('a') + number)}")
        node.wait_for_disks(*volumes)
        steps = plan(told(node))
        assert nodes.checksums(cloud, volumes) == blank
        done = node.run(["cc-kraken", "apply"], timeout=600)
        assert done.code == 0, done.err
        now = nodes.status(node)
        assert {n: entry["done"] for n, entry in now["sets"].items()} == steps
        assert nodes.states(now) == dict.fromkeys(SETS, "mounted")
        for name, (_, level, kind) in SETS.items():
            array = now["sets"][name]["array"]
            assert array["level"] == f"raid{level}"
            found = node.run(f"findmnt -n -o FSTYPE /m/{name}", check=True).out.strip()
            assert found == kind
            nodes.write_file(node, f"/m/{name}/file", name)

        # Nothing left to do, by the plan and by the run.
        assert plan(told(node)) == dict.fromkeys(SETS, [])
        mark = ec2.calls.mark()
        assert node.run(["cc-kraken", "apply"], timeout=300).code == 0
        assert not any(entry["done"] for entry in nodes.status(node)["sets"].values())
        assert ec2.calls.writes(mark) == []

        # Another instance, whose udev assembles them under names of its own.
        same = nodes.uuids(now)
        node.terminate()
        other = cloud.launch(TAGS, cloud.config({}))
        other.wait_ready()
        now = nodes.status(other)
        assert nodes.uuids(now) == same
        for name in SETS:
            assert other.read_file(f"/m/{name}/file") == name
