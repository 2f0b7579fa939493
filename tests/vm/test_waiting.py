"""What a boot waits for, and that it says so while it waits: the metadata
service, tags, and an old holder that ends long after the new instance is there.
"""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Optional

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

TAGS = krkn(prefix=nodes.PREFIX, node_id=7)


def set_tags() -> dict[str, str]:
    return nodes.set_tags(7, "data", fs_type="ext4", mount_path="/krkn_data")


def until(what: str, found: Callable[[], Optional[Any]], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def waiting_for(node: Node) -> str:
    """What status.json says now; "" when there is none, or nothing."""
    read = node.run(["cat", nodes.STATUS])
    if read.code != 0 or not read.out:
        return ""
    return str(json.loads(read.out)["waiting_for"] or "")


def awaited(node: Node, words: str) -> str:
    """The text of status.json, once it has these words."""

    def look() -> str:
        text = waiting_for(node)
        return text if words in text else ""

    return str(until(f"status.json to say {words!r}", look))


def lines(node: Node) -> list[str]:
    """The reasons that the log of this boot tells, in order."""
    log = node.read_file("/var/log/cloud-init.log")
    log += node.journal("--unit", "cc-kraken.service", "--output", "cat")
    return [
        line.partition("Waiting: ")[2]
        for line in log.splitlines()
        if "Waiting: " in line
    ]


def ends_mounted(node: Node, timeout: float = 600) -> None:
    booted = node.wait_ready(timeout)
    assert booted["result"]["errors"] == []
    now = nodes.status(node)
    assert nodes.states(now) == {"data": "mounted"}
    assert now["waiting_for"] is None
    node.run(["findmnt", "/krkn_data"], check=True)
    told = lines(node)
    assert told, "the log says what was waited for"
    again = [one for number, one in enumerate(told[1:]) if one == told[number]]
    assert not again, "and says it once"


def test_the_metadata_service_is_away_for_half_a_minute() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        cloud.volume(1, set_tags())
        node = cloud.launch(TAGS, cloud.config({"wait": 600}))
        # cloud-init has its metadata; what comes next are the credentials
        until(
            "cloud-init to crawl the metadata",
            lambda: any(
                one.path.endswith("instance-identity/document") and one.status == 200
                for one in node.metadata.requests
            ),
        )
        node.metadata.away("drop")
        node.wait_reachable()
        text = awaited(node, "no AWS credentials")
        assert "the metadata service does not answer" in text
        time.sleep(30)
        node.metadata.back()
        ends_mounted(node)


LATE = 40
INTERFACE = "/sys/class/net/e*"
DOWN = f"ip link set $(basename {INTERFACE}) down"
UP = f"ip link set $(basename {INTERFACE}) up"


def test_an_interface_that_comes_up_40_seconds_late() -> None:
    """As where the network stage begins before the network is there: it was up
    for cloud-init's own questions, and is down when the module has its own."""
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        cloud.volume(1, set_tags())
        # Without them it would be started after the stage that it is for.
        alone = "--property=DefaultDependencies=no"
        later = f"systemd-run --no-block {alone} sh -c 'sleep {LATE}; {UP}'"
        config = {"boot_wait": 300, "wait": 600}
        node = cloud.launch(
            TAGS, cloud.config(config, bootcmd=[DOWN, later]), metadata_tags=False
        )
        node.wait_reachable()
        assert waiting_for(node) or until("a reason", lambda: waiting_for(node))
        ends_mounted(node)
        first = nodes.runs(nodes.status(node))["network"]
        assert first["state"] == "done", "in the network stage itself"
        assert any("mount" in step for step in first["done"]["data"])


def test_tags_that_come_a_minute_late() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        volume = cloud.volume(1)
        node = cloud.launch({}, cloud.config({"wait": 600}), metadata_tags=False)
        node.wait_reachable()
        assert f"{node.id} has no tag KRKN-IN:Prefix" in awaited(node, "has no tag")
        cloud.ec2.tag_later(node.id, TAGS, 30)
        cloud.ec2.tag_later(volume, set_tags(), 60)
        assert "KRKN-IN:NodeId=7" in awaited(node, "No volume")
        ends_mounted(node)


@pytest.mark.parametrize("seconds", [45, pytest.param(600, marks=pytest.mark.slow)])
def test_the_old_holder_ends_after_the_new_instance_has_booted(seconds: int) -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        volume = cloud.volume(1, set_tags())
        old = cloud.ec2.run_instance(zone=cloud.ec2.zones[0], tags=TAGS)
        cloud.ec2.attach_volume(volume, old, "/dev/sdf")
        node = cloud.launch(TAGS, cloud.config({"wait": 1800, "final_wait": 1800}))
        node.wait_reachable()
        text = awaited(node, old)
        assert "running as the same node kafka/7" in text
        time.sleep(seconds)
        assert old in waiting_for(node)
        cloud.ec2.terminate_instance(old, 20, 3)
        # the holder is asked about every half a minute; it may be gone by then
        ends_mounted(node, 900)
        assert cloud.ec2.calls.count("DetachVolume") == 0
