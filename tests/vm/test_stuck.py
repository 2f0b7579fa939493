"""A disk that answers no read, on a machine whose kernel waits without end."""

from __future__ import annotations

import time

import pytest

from tests.lab.cloud import Cloud, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

NODE = 31


def test_the_boot_and_the_other_sets_go_on() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:

        def volume(name: str) -> str:
            path = f"/krkn_{name}"
            return cloud.volume(
                1, nodes.set_tags(NODE, name, fs_type="ext4", mount_path=path)
            )

        stuck = volume("stuck")
        volume("data")
        mark = cloud.ec2.calls.mark()
        node = cloud.launch(
            krkn(prefix=nodes.PREFIX, node_id=NODE),
            cloud.config({"boot_wait": 150, "wait": 300}),
            attached=[stuck],
            # As EC2's own images have it.
            kernel_options=["nvme_core.io_timeout=4294967295"],
        )
        # The other one is still to be attached: nothing is read before.
        until = time.monotonic() + 1200
        while not cloud.ec2.calls.counts(mark, node.id)["DescribeVolumes"]:
            assert time.monotonic() < until, node.console[-2000:]
            time.sleep(0.05)
        node.machine.choke(stuck)
        nodes.log("the disk answers no more")
        booted = node.wait_ready(2400)
        now = nodes.status(node)
        nodes.log(str(now["sets"]["stuck"]["error"]))
        assert nodes.states(now) == {"data": "mounted", "stuck": "failed"}
        said = now["sets"]["stuck"]["error"]["message"]
        assert "has not answered a read" in said
        (error,) = booted["result"]["errors"]
        assert "has not answered a read" in str(error)
        assert node.run(["systemctl", "is-active", "ssh"]).out.strip() == "active"
        assert node.run(["findmnt", "-n", "/krkn_data"]).code == 0
        sleeping = node.run("ps -eLo stat,comm | grep ^D; true").out
        nodes.log(sleeping)
        assert "D" in sleeping, "nothing hangs: the test has not choked the disk"
