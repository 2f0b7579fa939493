"""What comes late: a volume long after the boot has gone on, and a service
that waits for it."""

from __future__ import annotations

import time

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

TAGS = krkn(prefix=nodes.PREFIX, node_id=3)
CONSUMER = """\
[Unit]
Description=a service that needs the set data
Requires=cc-kraken@data.service
After=cc-kraken@data.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'findmnt /late && date > /late/started'

[Install]
WantedBy=multi-user.target
"""

SCRIPT = "/var/lib/cloud/scripts/per-boot/seen.sh"
"""A script of the user's, which the final stage runs (as it does runcmd)."""


def active(node: Node, unit: str) -> str:
    return node.run(["systemctl", "is-active", unit]).out.strip()


def wait_until(what: str, true: object, seconds: float) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(1)


def test_a_late_volume_and_the_service_that_needs_it() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        # An image with the package, on an instance without a section: silence.
        node = cloud.launch(TAGS)
        booted = node.wait_ready()
        assert booted["result"]["errors"] == []
        assert node.run("ls /run/cc-kraken /var/lib/cc-kraken/layout.json").code != 0
        assert cloud.ec2.calls.counts() == {}
        assert active(node, "cc-kraken.service") == "inactive"
        node.write_file("/etc/systemd/system/consumer.service", CONSUMER)
        node.run("systemctl enable consumer.service", check=True)
        node.write_file(SCRIPT, "#!/bin/sh\nfindmnt /late > /root/seen\n")
        node.run(["chmod", "755", SCRIPT], check=True)

        # Its section comes at the next start; its volume, a minute after that.
        node.stop()
        section = {"boot_wait": 3, "wait": 900, "volumes": {"data": {}}}
        node.metadata.change(user_data=cloud.config(section))
        node.start()
        node.wait_reachable()
        wait_until(
            "people to be able to log in",
            lambda: active(node, "ssh.service") == "active",
            300,
        )
        wait_until(
            "the background unit",
            lambda: active(node, "cc-kraken.service") == "activating",
            300,
        )
        assert active(node, "consumer.service") != "active"
        assert "running" in node.run("cloud-init status").out
        time.sleep(60)
        waiting = nodes.status(node)
        assert waiting["state"] == "running" and "data" in waiting["waiting_for"]
        assert active(node, "consumer.service") != "active"

        cloud.volume(1, nodes.set_tags(3, "data", fs_type="ext4", mount_path="/late"))
        booted = node.wait_ready()
        assert booted["result"]["errors"] == []
        assert nodes.states(nodes.status(node)) == {"data": "mounted"}
        wait_until(
            "the service", lambda: active(node, "consumer.service") == "active", 120
        )
        assert node.run("cat /late/started", check=True).out
        assert "/late" in node.read_file("/root/seen"), "a user's script finds it"
        assert "ordering cycle" not in node.journal()

        # A set that this node does not have, and one that has failed.
        unknown = node.run(["cc-kraken", "wait", "nonesuch"], timeout=60)
        assert unknown.code == 1 and "no such set" in unknown.err
        started = node.run("systemctl start cc-kraken@nonesuch.service", timeout=60)
        assert started.code != 0
