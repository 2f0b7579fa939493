"""The main job: a node comes up, again after a reboot, and on a new instance."""

from __future__ import annotations

import json
import re

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE)

TAGS = krkn(prefix=nodes.PREFIX, node_id=0, volumes="log,data,meta")
MOUNTS = {"/krkn_log": "ext4", "/krkn_data": "xfs", "/krkn_meta": "btrfs"}
AUTO_OFF = (
    "mkdir -p /etc/mdadm/mdadm.conf.d && "
    "echo AUTO -all > /etc/mdadm/mdadm.conf.d/off.conf"
)


def check_mounts(node: Node) -> None:
    for path, kind in MOUNTS.items():
        found = node.run(f"findmnt -n -o FSTYPE {path}", check=True).out.strip()
        assert found == kind
        # systemd has read their lines by now, and has left them alone
        shown = node.run(
            "systemctl show -p ActiveState,FragmentPath,NeedDaemonReload "
            f'"$(systemd-escape --path --suffix=mount {path})"',
            check=True,
        ).out
        assert set(shown.split()) == {
            "ActiveState=active",
            f"FragmentPath=/run/systemd/generator/{path[1:]}.mount",
            "NeedDaemonReload=no",
        }


def check_clean(node: Node) -> None:
    """cloud-init is content, nobody was left out, no ordering cycle."""
    told = json.loads(node.run("cloud-init status --format json").out)
    assert (told["status"], told["errors"]) == ("done", [])
    assert "ordering cycle" not in node.journal()
    assert not nodes.traceback_in(node.read_file("/var/log/cloud-init.log"))


def tell_calls(what: str, run: dict[str, object]) -> None:
    calls = run["calls"]
    nodes.log(f"{what}: {calls or 'no API call'}, {run['processes']} processes")


def fingerprints(node: Node) -> str:
    """Everything that a second run could write, with its times."""
    return node.run(
        "stat -c '%n %Y %Z %i %s' /etc/fstab /etc/mdadm/mdadm.conf.d/* "
        "/var/lib/cc-kraken/* /krkn_*",
        check=True,
    ).out


def test_a_node_comes_up_and_lives_on() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=2.0) as cloud:
        ec2 = cloud.ec2
        for name, size, kind, level in (
            ("log", 1, "ext4", 0),
            ("data", 3, "xfs", 0),
            ("meta", 1, "btrfs", 0),
        ):
            tags = nodes.set_tags(
                0,
                name,
                size,
                raid_level=level,
                fs_type=kind,
                mount_path=f"/krkn_{name}",
            )
            cloud.volumes(size, 1, tags)
        user_data = cloud.config({})

        # First boot: from nothing to mounted volumes.
        node = cloud.launch(TAGS, user_data)
        node.wait_ready()
        now = nodes.status(node)
        assert nodes.states(now) == dict.fromkeys(("data", "log", "meta"), "mounted")
        check_mounts(node)
        check_clean(node)
        first = nodes.runs(now)
        for stage, run in first.items():
            tell_calls(f"first boot, {stage}", run)
        assert first["network"]["calls"] == {
            "AttachVolume": 5,
            "DescribeInstances": 1,
            "DescribeVolumes": 1,
        }
        assert first["background"]["calls"] == {"DescribeTags": 1, "DescribeVolumes": 1}
        assert ec2.calls.counts(instance_id=node.id) == {
            "AttachVolume": 5,
            "DescribeInstances": 1,
            "DescribeTags": 1,
            "DescribeVolumes": 2,
        }
        analyzed = node.run("cloud-init analyze show").out
        for phase in ("identify", "attach", "assemble", "mkfs", "mount"):
            assert re.search(rf"->{phase} (\(duration: \S+\) )?@", analyzed), analyzed
        fstab = node.read_file("/etc/fstab")
        assert fstab.count("X-kraken.set=") == 3 and "comment=cloudconfig" not in fstab
        secrets = node.run(
            "grep -cE 'SessionToken|Authorization|AKIA|ASIA' /var/log/cloud-init.log"
        ).out.strip()
        assert secrets == "0"

        # Second run: nothing to do, no call that writes, nothing written.
        before, mark = fingerprints(node), ec2.calls.mark()
        done = node.run(["cc-kraken", "apply"], timeout=300)
        assert done.code == 0, done.err
        assert not any(entry["done"] for entry in nodes.status(node)["sets"].values())
        assert ec2.calls.writes(mark) == []
        assert ec2.calls.counts(mark) == {"DescribeTags": 1, "DescribeVolumes": 1}
        assert fingerprints(node) == before
        tell_calls("second run, by hand", nodes.status(node))
        single = node.run(
            "cloud-init single --name kraken --frequency always", timeout=300
        )
        assert single.code == 0, single.err
        assert fingerprints(node) == before

        # Reboot: systemd mounts, the network stage asks nobody.
        same = nodes.uuids(nodes.status(node))
        for path in MOUNTS:
            nodes.write_file(node, f"{path}/file", node.id)
        mark = ec2.calls.mark()
        nodes.patient(node)
        node.reboot()
        node.wait_ready()
        check_mounts(node)
        check_clean(node)
        again = nodes.runs(nodes.status(node))
        assert again["network"]["calls"] == {}
        assert ec2.calls.counts(mark) == {"DescribeTags": 1, "DescribeVolumes": 1}
        assert again["network"]["processes"] <= 2
        for stage, run in again.items():
            tell_calls(f"reboot, {stage}", run)

        # Terminated without a shutdown, and replaced.
        owner = node.id
        node.terminate()
        mark = ec2.calls.mark()
        other = cloud.launch(TAGS, user_data)
        other.wait_ready()
        check_replacement(other, owner, same)
        counts = ec2.calls.counts(mark, other.id)
        assert counts["AttachVolume"] == 5 and counts["DescribeTags"] == 1

        # Once more, where nothing assembles arrays by itself.
        other.terminate()
        last = cloud.launch(TAGS, cloud.config({}, bootcmd=[AUTO_OFF]))
        last.wait_ready()
        check_replacement(last, owner, same)
        done_by = nodes.runs(nodes.status(last))["network"]["done"]
        assert any("assemble" in step for step in done_by["data"])


def check_replacement(node: Node, owner: str, same: dict[str, tuple[str, str]]) -> None:
    """Same arrays, same filesystems, same files, and none made anew."""
    now = nodes.status(node)
    assert nodes.uuids(now) == same
    check_mounts(node)
    check_clean(node)
    for path in MOUNTS:
        assert node.read_file(f"{path}/file") == owner
    for stage, run in nodes.runs(now).items():
        tell_calls(f"replacement, {stage}", run)
    made = nodes.runs(now)["network"]["done"]
    assert not any(
        word in step
        for steps in made.values()
        for step in steps
        for word in ("create", "make ext4", "make xfs", "make btrfs", "record")
    )
