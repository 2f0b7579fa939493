"""Services that need sets, in images that are baked: from a node's first life
to the instances that are made of its root disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import Image
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

EXAMPLE = Path(__file__).parents[2] / "examples/systemd/consumer.service"
NEEDS = """\
[Unit]
Description=needs the set {name}
Requires=cc-kraken@{name}.service
After=cc-kraken@{name}.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=findmnt /krkn_{name}

[Install]
WantedBy=multi-user.target
"""
NEEDED = ("late", "added", "bad", "nonesuch")
USERS = [{"name": "kafka", "system": True}, {"name": "alice"}]
NODE = 22
BOOT = 1200
"""Seconds for a boot on a machine that is busy."""


def tags(node_id: int) -> dict[str, str]:
    return krkn(prefix=nodes.PREFIX, node_id=node_id)


def active(node: Node, unit: str) -> str:
    return node.run(["systemctl", "is-active", unit]).out.strip()


def until(what: str, true: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(1)


def settled(node: Node) -> dict[str, str]:
    """How every service stands when the boot is over: no job is left, and no
    ordering cycle was broken."""
    until("all jobs to end", lambda: "No jobs" in node.run("systemctl list-jobs").out)
    assert "ordering cycle" not in node.journal()
    units = ("consumer", *(f"needs-{name}" for name in NEEDED))
    return {unit: active(node, f"{unit}.service") for unit in units}


def traces(node: Node) -> str:
    """What names volumes of a node on its root disk."""
    return node.run(
        "grep -s X-kraken.set /etc/fstab; "
        "grep -rhs '^ARRAY' /etc/mdadm; ls /var/lib/cc-kraken 2>/dev/null; "
        "ls /run/cc-kraken/status.json 2>/dev/null"
    ).out


def has_the_home(node: Node, uid: str = "") -> str:
    """alice has her home on the volume; her number."""
    assert node.run("findmnt -n -o TARGET /home", check=True).out.strip() == "/home"
    found = node.run("stat -c '%U %u' /home/alice", check=True).out.split()
    assert found[0] == "alice"
    assert not uid or found[1] == uid
    return found[1]


def test_images_and_the_services_in_them() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        # A node that has run, with the services in its root disk.
        data = nodes.set_tags(20, "data", fs_type="ext4", mount_path="/krkn_data")
        log = nodes.set_tags(
            20, "log", 2, raid_level=1, fs_type="xfs", mount_path="/krkn_log"
        )
        old = [cloud.volume(1, data), *cloud.volumes(2, 1, log)]
        builder = cloud.launch(tags(20), cloud.config({}))
        assert builder.wait_ready(BOOT)["result"]["errors"] == []
        for path in ("/krkn_data", "/krkn_log"):
            nodes.write_file(builder, f"{path}/file", builder.id)
        home = "/etc/systemd/system"
        builder.write_file(f"{home}/consumer.service", EXAMPLE.read_text())
        for name in NEEDED:
            builder.write_file(f"{home}/needs-{name}.service", NEEDS.format(name=name))
        names = ["consumer", *(f"needs-{name}" for name in NEEDED)]
        builder.run(["systemctl", "enable", *names], check=True)
        assert "set=data" in traces(builder) and "ARRAY" in traces(builder)
        builder.stop()
        live = cloud.bake(builder)

        # The same again after `cloud-init clean`.
        builder.start()
        builder.wait_ready(BOOT)
        clean = ["cloud-init", "clean", "--logs", "--machine-id"]
        done = builder.run(clean, timeout=900)
        assert done.code == 0, done
        left = traces(builder).splitlines()
        assert left == [], "the hook leaves nothing"
        builder.stop()
        baked = cloud.bake(builder)

        first = services_at_first_boot(cloud, baked)
        services_at_a_reboot(cloud, first)
        services_on_a_replaced_instance(cloud, baked, first)
        the_image_of_a_live_node(cloud, live, old)


def services_at_first_boot(cloud: Cloud, image: Image) -> Node:
    def volume(name: str, **more: str) -> str:
        more = {"mount_path": f"/krkn_{name}", "fs_type": "ext4", **more}
        return cloud.volume(1, nodes.set_tags(NODE, name, **more))

    volume("data", owner="kafka", group="kafka")
    volume("home", mount_path="/home")
    bad = volume("bad")
    with open(cloud.backing(bad), "r+b") as disk:
        disk.write(b"what nobody knows" * 300)
    names = ("data", "home", "bad", "late")
    section = {"boot_wait": 20, "wait": 3000, "volumes": {name: {} for name in names}}
    node = launch(cloud, image, cloud.config(section, users=USERS))
    node.wait_reachable(600)
    # The boot has gone on without the set that is not there; who needs one of
    # the others has it.
    until("logins", lambda: active(node, "ssh.service") == "active")
    until("the example", lambda: active(node, "consumer.service") == "active")
    assert has_the_home(node)
    until(
        "the failed set's service",
        lambda: active(node, "needs-bad.service") in ("inactive", "failed"),
    )
    waiting = nodes.status(node)
    assert waiting["state"] == "running" and "late" in waiting["waiting_for"]
    assert nodes.states(waiting)["bad"] == "failed"
    assert active(node, "needs-late.service") != "active"
    # By hand meanwhile: who has the lock, and what that one waits for.
    by_hand = node.run(["cc-kraken", "apply", "--wait", "3"], timeout=120)
    assert by_hand.code == 1 and "cc-kraken.service" in by_hand.err, by_hand
    assert "late" in by_hand.err
    time.sleep(90)
    assert active(node, "needs-late.service") != "active"
    volume("late")
    booted = node.wait_ready(BOOT)
    (error,) = booted["result"]["errors"]
    assert "bad" in str(error) and "late" not in str(error)
    assert settled(node) == {
        "consumer": "active",
        "needs-late": "active",
        "needs-added": "inactive",
        "needs-bad": "inactive",
        "needs-nonesuch": "inactive",
    }
    for name in ("bad", "nonesuch", "added"):
        assert active(node, f"cc-kraken@{name}.service") == "failed"
        told = node.journal("--unit", f"cc-kraken@{name}.service")
        assert f"The set {name} is not up" in told
    owner = node.run("stat -c %U:%G /krkn_data", check=True).out.strip()
    assert owner == "kafka:kafka"
    # Nothing of the node that the image was made of.
    assert "krkn_log" not in node.read_file("/etc/fstab")
    assert "ARRAY" not in traces(node)
    nodes.write_file(node, "/home/alice/letter", node.id)
    volume("added")
    return node


def services_at_a_reboot(cloud: Cloud, node: Node) -> None:
    alice = has_the_home(node)
    node.reboot()
    node.wait_ready(BOOT)
    assert settled(node) == AFTERWARDS
    assert nodes.runs(nodes.status(node))["network"]["state"] != "done"
    has_the_home(node, alice)


AFTERWARDS = {
    "consumer": "active",
    "needs-late": "active",
    "needs-added": "active",
    "needs-bad": "inactive",
    "needs-nonesuch": "inactive",
}


def services_on_a_replaced_instance(cloud: Cloud, image: Image, old: Node) -> None:
    alice = has_the_home(old)
    old.terminate()
    names = ("data", "home", "bad", "late", "added")
    section = {"volumes": {name: {} for name in names}}
    node = launch(cloud, image, cloud.config(section, users=USERS))
    node.wait_ready(BOOT)
    assert settled(node) == AFTERWARDS
    has_the_home(node, alice)
    assert node.read_file("/home/alice/letter") == old.id
    node.terminate()


def the_image_of_a_live_node(cloud: Cloud, image: Image, old: list[str]) -> None:
    """Its fstab and its notes are the old node's, and copies of the old node's
    volumes are attached by the launch template."""
    copies = [cloud.copy(volume, {}) for volume in old]
    own = cloud.volume(
        1, nodes.set_tags(NODE + 1, "data", fs_type="ext4", mount_path="/krkn_data")
    )
    blank = cloud.backing_checksum(own)
    section = {"boot_wait": 20, "wait": 60, "volumes": {"data": {}}}
    node = launch(cloud, image, cloud.config(section), NODE + 1, attached=copies)
    booted = node.wait_ready(BOOT)
    now = nodes.status(node)
    assert now["node"]["node_id"] == str(NODE + 1)
    assert set(now["sets"]) == {"data"}
    # The old node's fstab has mounted a copy where the set belongs.
    assert nodes.states(now) == {"data": "failed"}
    error = now["sets"]["data"]["error"]["message"]
    assert "/krkn_data" in error
    nodes.log(error)
    assert error in str(booted["result"]["errors"])
    assert [entry["id"] for entry in now["sets"]["data"]["volumes"]] == [own]
    for run in nodes.runs(now).values():
        assert not any("filesystem" in step for step in run["done"].get("data", ()))
    assert cloud.backing_checksum(own) == blank
    for path in ("/krkn_data", "/krkn_log"):
        found = node.run(["cat", f"{path}/file"])
        assert found.code or found.out, "what is in the copies is whole"


def launch(
    cloud: Cloud,
    image: Image,
    text: str,
    node_id: int = NODE,
    attached: Sequence[str] = (),
) -> Node:
    return cloud.launch(tags(node_id), text, image=image, attached=attached)
