"""Instances that may be any node, in machines: three claim two nodes; power cuts,
stops, a warm pool, a refresh."""

from __future__ import annotations

import time
from typing import Any, Callable

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE)

ANY = krkn(prefix=nodes.PREFIX, node_id="*", volumes="log,data")
PATHS = {"log": "/krkn_log", "data": "/krkn_data"}


def volumes(cloud: Cloud, node_id: int) -> list[str]:
    """A node: one volume for each set."""
    return [
        cloud.volume(1, nodes.set_tags(node_id, name, fs_type="ext4", mount_path=path))
        for name, path in PATHS.items()
    ]


def who(node: Node) -> str:
    """The node that an instance says it is; "" for none."""
    told = nodes.status(node)["node"]
    return told["node_id"] if told else ""


def write(node: Node) -> None:
    for path in PATHS.values():
        nodes.write_file(node, f"{path}/file", f"{node.id} was {who(node)}")


def files(node: Node) -> set[str]:
    return {node.read_file(f"{path}/file") for path in PATHS.values()}


def holders(cloud: Cloud, volume_ids: list[str]) -> set[str]:
    return {
        one.instance_id
        for volume in volume_ids
        for one in cloud.ec2.volume(volume).attachments
    }


def until(what: str, true: Callable[[], Any], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(2)


def is_up(node: Node) -> bool:
    return all(
        node.run(["mountpoint", "-q", path]).code == 0 for path in PATHS.values()
    )


@pytest.mark.slow
def test_three_claim_two_nodes() -> None:
    """The third waits, and takes over when one is terminated; a reboot asks nobody."""
    section = {"boot_wait": 20, "final_wait": 5, "wait": 3000}
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        made = {str(number): volumes(cloud, number) for number in range(2)}
        claimants = [cloud.launch(ANY, cloud.config(section)) for _ in range(3)]
        for node in claimants:
            node.wait_ready()
        up = {who(node): node for node in claimants if who(node)}
        assert set(up) == {"0", "1"}
        (third,) = [node for node in claimants if node not in up.values()]
        nodes.log(third.run("cc-kraken status").out)
        assert "claim-none-free" in nodes.status(third)["waiting_for"]
        for node_id, node in up.items():
            assert is_up(node) and holders(cloud, made[node_id]) == {node.id}
            write(node)
            nodes.log(node.run("cat /run/cc-kraken/node.env; cc-kraken status").out)

        gone = up["0"]
        said = files(gone)
        gone.terminate()
        until("the third to take over", lambda: is_up(third))
        until("its run to end", lambda: nodes.status(third)["state"] == "done")
        assert who(third) == "0" and files(third) == said
        assert holders(cloud, made["0"]) == {third.id}
        nodes.log(third.run("cc-kraken status").out)

        kept = up["1"]
        nodes.patient(kept)
        before = kept.calls()
        kept.reboot()
        kept.wait_ready()
        network = nodes.runs(nodes.status(kept))["network"]
        nodes.log(f"reboot, network stage: {network['calls']}")
        assert network["state"] == "done" and network["calls"] == {}
        assert who(kept) == "1" and is_up(kept)
        assert (kept.calls() - before)["AttachVolume"] == 0


@pytest.mark.slow
def test_a_cut_between_the_anchor_and_the_rest_and_a_stop() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        made = [volumes(cloud, number) for number in range(2)]
        cloud.ec2.limit("AttachVolume", 1, 0.05)
        node = cloud.launch(ANY, cloud.config({}))
        cloud.wait_for(
            "the anchor", lambda: node.calls()["AttachVolume"] >= 1, seconds=900
        )
        node.cut()
        assert [len(cloud.ec2.volume(one).attachments) for one in made[0]] in (
            [1, 0],
            [0, 1],
        )
        cloud.ec2.limit("AttachVolume", 50, 5)
        node.power_on()
        node.wait_ready()
        assert who(node) == "0" and is_up(node)
        assert holders(cloud, made[0]) == {node.id}
        assert holders(cloud, made[1]) == set()
        write(node)

        node.stop()
        other = cloud.launch(ANY, cloud.config({}))
        other.wait_ready()
        assert who(other) == "1"
        node.start()
        node.wait_ready()
        assert who(node) == "0" and files(node) == {f"{node.id} was 0"}


@pytest.mark.slow
def test_a_warm_pool_and_a_refresh() -> None:
    """Nothing is claimed in the pool; out of it, without a boot, a node is.  Then old
    before new, and new before old."""
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        made = volumes(cloud, 0)
        node = cloud.launch(ANY)
        node.wait_ready()
        node.stop()
        section = {"boot_wait": 20, "final_wait": 5, "wait": 3000}
        node.metadata.change(
            user_data=cloud.config(section), lifecycle="Warmed:Running"
        )
        node.start()
        booted = node.wait_ready()
        assert booted["result"]["errors"] == []
        nodes.log(node.run("cc-kraken status; cloud-init status").out)
        assert nodes.status(node)["state"] == "standby"
        # The background looks for the tags of the instance, and for no volume.
        assert set(node.calls()) <= {"DescribeTags"} and holders(cloud, made) == set()
        node.metadata.change(lifecycle="InService")
        until("the pool's instance to claim", lambda: is_up(node))
        until("its name", lambda: who(node) == "0")
        write(node)
        said = files(node)

        new = cloud.launch(ANY, cloud.config(section))
        new.wait_ready()
        assert who(new) == ""
        node.terminate()
        until("the new one to take over", lambda: is_up(new))
        assert files(new) == said

        new.terminate()
        last = cloud.launch(ANY, cloud.config(section))
        last.wait_ready()
        until("the last one to take over", lambda: is_up(last))
        assert files(last) == said
