"""Services that need sets, and images that are made of nodes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import Image, mounted
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


def waits_for(node: Node, name: str) -> bool:
    now = nodes.status(node)
    return now["state"] == "running" and name in (now["waiting_for"] or "")


def until(what: str, true: Callable[[], bool], seconds: float = BOOT) -> None:
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


def builder_of(cloud: Cloud) -> tuple[Node, list[str]]:
    """A node that has run, and its volumes."""
    data = nodes.set_tags(20, "data", fs_type="ext4", mount_path="/krkn_data")
    log = nodes.set_tags(
        20, "log", 2, raid_level=1, fs_type="xfs", mount_path="/krkn_log"
    )
    volumes = [cloud.volume(1, data), *cloud.volumes(2, 1, log)]
    # No user of the image's own: /home is to be empty.
    node = cloud.launch(tags(20), cloud.config({}, users=[]))
    assert node.wait_ready(BOOT)["result"]["errors"] == []
    for path in ("/krkn_data", "/krkn_log"):
        nodes.write_file(node, f"{path}/file", node.id)
    assert "set=data" in traces(node) and "ARRAY" in traces(node)
    return node, volumes


def image_with_services(cloud: Cloud) -> Image:
    """The package's image, with the services in it and enabled."""
    root = cloud.home / "services.raw"
    argv = ["cp", "--sparse=always", "--reflink=auto", str(cloud.image.root), str(root)]
    subprocess.run(argv, check=True)
    units = {f"needs-{name}.service": NEEDS.format(name=name) for name in NEEDED}
    units["consumer.service"] = EXAMPLE.read_text()
    with mounted(root, cloud.home / "mnt") as tree:
        home = tree / "etc/systemd/system"
        wants = home / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        for name, text in units.items():
            (home / name).write_text(text)
            (wants / name).symlink_to(f"/etc/systemd/system/{name}")
    return replace(cloud.image, root=root)


def test_services_at_first_boot_at_a_reboot_and_on_the_next_instance() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        image = image_with_services(cloud)
        node = services_at_first_boot(cloud, image)
        nodes.log("as they should be at first boot")
        services_at_a_reboot(node)
        nodes.log("as they should be at a reboot")
        services_on_a_replaced_instance(cloud, image, node)


def test_the_image_of_a_node_that_was_cleaned() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        builder, _ = builder_of(cloud)
        clean = ["cloud-init", "clean", "--logs", "--machine-id"]
        done = builder.run(clean, timeout=900)
        assert done.code == 0, done
        assert traces(builder) == "", "the hook leaves nothing"
        builder.stop()
        image = cloud.bake(builder)
        builder.terminate()
        cloud.volume(
            1, nodes.set_tags(NODE, "data", fs_type="ext4", mount_path="/krkn_data")
        )
        node = launch(cloud, image, cloud.config({"volumes": {"data": {}}}))
        booted = node.wait_ready(BOOT)
        assert booted["result"]["errors"] == []
        assert nodes.states(nodes.status(node)) == {"data": "mounted"}
        assert "krkn_log" not in node.read_file("/etc/fstab")
        assert "ARRAY" not in traces(node)
        assert node.run("cat /krkn_data/file").code != 0
        assert "ordering cycle" not in node.journal()


def test_the_image_of_a_live_node() -> None:
    """Its fstab and its notes are the old node's, and copies of the old node's
    volumes are attached by the launch template: never mistaken for it, nor mounted
    in its place."""
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        builder, volumes = builder_of(cloud)
        builder.run(["sync"], check=True)
        image = cloud.bake(builder)
        copies = [cloud.copy(volume, {}) for volume in volumes]
        builder.terminate()
        own = cloud.volume(
            1, nodes.set_tags(NODE, "data", fs_type="ext4", mount_path="/krkn_data")
        )
        before = nodes.checksums(cloud, copies)
        section = {"boot_wait": 20, "wait": 60, "volumes": {"data": {}}}
        node = launch(cloud, image, cloud.config(section), attached=copies)
        booted = node.wait_ready(BOOT)
        assert booted["result"]["errors"] == []
        now = nodes.status(node)
        assert now["node"]["node_id"] == str(NODE)
        # The old node's fstab has mounted no copy where the set belongs.
        assert nodes.states(now) == {"data": "mounted"}
        assert [entry["id"] for entry in now["sets"]["data"]["volumes"]] == [own]
        assert any("make ext4" in step for step in nodes.done(now, "data"))
        assert node.run("cat /krkn_data/file").code != 0
        assert node.run("findmnt /krkn_log").code == 1
        assert "krkn_log" not in node.read_file("/etc/fstab")
        # What is in the copies is whole: nothing of theirs was made anew.
        assert nodes.checksums(cloud, copies) == before


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
    # Long enough for /home to be there before the users are made.
    section = {"boot_wait": 150, "wait": 3000, "volumes": {name: {} for name in names}}
    node = launch(cloud, image, cloud.config(section, users=USERS))
    node.wait_reachable(BOOT)
    # The boot has gone on without the set that is not there; who needs one of
    # the others has it.
    until("logins", lambda: active(node, "ssh.service") == "active")
    until("the example", lambda: active(node, "consumer.service") == "active")
    assert has_the_home(node)
    until("the unit that waits for late", lambda: waits_for(node, "late"))
    assert nodes.states(nodes.status(node))["bad"] == "failed"
    for name in ("bad", "late"):
        assert active(node, f"needs-{name}.service") != "active"
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
    nodes.write_file(node, "/home/alice/letter", node.id)
    volume("added")
    return node


def services_at_a_reboot(node: Node) -> None:
    alice = has_the_home(node)
    nodes.patient(node)
    node.reboot()
    node.wait_ready(BOOT)
    assert settled(node) == AFTERWARDS
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


def launch(
    cloud: Cloud,
    image: Image,
    text: str,
    attached: Sequence[str] = (),
) -> Node:
    return cloud.launch(tags(NODE), text, image=image, attached=attached)
