"""A service that must know which node this instance is, and the list of the others."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.cloud import Cloud, Node
from tests.lab.image import Image, mounted
from tests.vm import nodes
from tests.vm.test_services import BOOT, active, until

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

EXAMPLE = Path(__file__).parents[2] / "examples/systemd/member.service"
HOSTILE = "-r \"x\" 'y' $HOME ${PATH} $(id) `id` \\ \\n %n %% ; é # 7"


def image_with_member(cloud: Cloud) -> Image:
    """The package's image, with the example in it and enabled."""
    root = cloud.home / "member.raw"
    argv = ["cp", "--sparse=always", "--reflink=auto", str(cloud.image.root), str(root)]
    subprocess.run(argv, check=True)
    with mounted(root, cloud.home / "mnt") as tree:
        units = tree / "etc/systemd/system"
        wants = units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (units / EXAMPLE.name).write_text(EXAMPLE.read_text())
        (wants / EXAMPLE.name).symlink_to(f"/etc/systemd/system/{EXAMPLE.name}")
    return replace(cloud.image, root=root)


def entered(node: Node, unit: str) -> int:
    """When a unit became active, in microseconds of this boot."""
    told = node.run(["systemctl", "show", unit, "-p", "ActiveEnterTimestampMonotonic"])
    return int(told.out.strip().partition("=")[2])


def says_who_it_is(node: Node) -> None:
    until("the member", lambda: active(node, "member.service") == "active")
    told = node.run("journalctl -b -o cat -u member.service", check=True).out
    assert f"member {HOSTILE} of {nodes.PREFIX}\n" in told
    known = entered(node, "cc-kraken-node.service")
    assert 0 < known <= entered(node, "cc-kraken@data.service")
    assert "ordering cycle" not in node.journal()


def test_a_service_knows_which_node_it_is_on() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        wish = {"fs_type": "ext4", "mount_path": "/krkn_data"}
        data = cloud.volume(1, nodes.set_tags(HOSTILE, "data", **wish))
        other = cloud.volume(1, nodes.set_tags("8", "data", **wish))
        section = {"prefix": nodes.PREFIX, "node_id": HOSTILE, "volumes": {"data": {}}}
        image = image_with_member(cloud)
        node = cloud.launch({}, cloud.config(section), image=image)
        assert node.wait_ready(BOOT)["result"]["errors"] == []
        says_who_it_is(node)
        peers = json.loads(node.run(["cc-kraken", "peers", "--json"], check=True).out)
        assert [
            (one["node_id"], one["state"], one["anchor"], one["instance_id"])
            for one in peers["nodes"]
        ] == [("8", "vacant", other, ""), (HOSTILE, "held", data, node.id)]
        waited = node.run(["cc-kraken", "wait", "--node"])
        assert waited.code == 0, waited
        node.reboot()
        node.wait_ready(BOOT)
        assert nodes.runs(nodes.status(node))["network"]["calls"] == {}
        says_who_it_is(node)
