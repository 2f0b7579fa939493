"""A node that goat has set up is taken over, and then changes, on real arrays.

The states are those that goat 1.0.5 leaves (measured), made here with mdadm and
mkfs: array names with quotes and a host's name in them, lines in fstab by label
and several times, ``/etc/mdadm.conf`` with names of devices.
"""

from __future__ import annotations

import re

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

NAMESPACE = "GOAT-IN"
IDENTITY = krkn(NAMESPACE, prefix=nodes.PREFIX, node_id=0)
SECTION = {"tag_namespace": NAMESPACE}
FOREIGN = "tmpfs /mnt tmpfs noauto 0 0\n"

# $1: the single disk; the others: the members.
GOAT = r"""
set -eu
log=$1; shift
mkfs.ext4 -q -L GOAT-log "$log"
mdadm --quiet --create /dev/md0 --level=0 --name="'GOAT-data'" \
    --homehost="$(hostname)" --raid-devices=$# "$@" </dev/null
udevadm settle
mkfs.xfs -q -L GOAT-data /dev/md0
mkdir -p /krkn_log /krkn_data
echo 'tmpfs /mnt tmpfs noauto 0 0' >> /etc/fstab
for run in 1 2 3; do
    echo 'LABEL=GOAT-log /krkn_log ext4 defaults 0 1' >> /etc/fstab
    echo 'LABEL=GOAT-data /krkn_data xfs defaults 0 1' >> /etc/fstab
done
systemctl daemon-reload
mount /krkn_log
mount /krkn_data
mdadm --detail --scan --verbose > /etc/mdadm.conf
chmod 600 /etc/mdadm.conf
cat /etc/mdadm.conf >> /etc/mdadm/mdadm.conf
for path in /krkn_log /krkn_data; do
    head -c 5000000 /dev/urandom > $path/file
done
sync
"""


def goat_tags(name: str, size: int, fs_type: str) -> dict[str, str]:
    return krkn(
        NAMESPACE,
        prefix=nodes.PREFIX,
        node_id=0,
        volume_name=name,
        volume_size=size,
        raid_level=0,
        mount_path=f"/krkn_{name}",
        fs_type=fs_type,
    )


def sums(node: Node, *paths: str) -> list[str]:
    found = node.run(["sha256sum", *(f"{path}/file" for path in paths)], check=True)
    return [line.split()[0] for line in found.out.splitlines()]


def labels(node: Node) -> str:
    node.run("udevadm settle")
    return node.run("lsblk -n -o LABEL,UUID | grep GOAT- | sort -u", check=True).out


def lines(node: Node) -> list[str]:
    """Those of fstab that are ours."""
    text = node.read_file("/etc/fstab")
    return [line for line in text.splitlines() if "X-kraken.set=" in line]


def mounted(node: Node, path: str) -> str:
    return node.run(f"findmnt -n -o OPTIONS {path}").out.strip()


def apply(node: Node, **section: object) -> None:
    done = node.kraken({**SECTION, **section}, timeout=300)
    assert done.code == 0, done.err


def steps(node: Node) -> list[str]:
    return [t for one in nodes.status(node)["sets"].values() for t in one["done"]]


def reboot(node: Node) -> None:
    nodes.patient(node)
    node.reboot()
    node.wait_ready()
    assert nodes.status(node)["state"] == "done"
    journal = node.journal("-b")
    assert "Duplicate entry" not in journal and "ordering cycle" not in journal


def test_a_goat_node_is_taken_over_and_changes() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        node = cloud.launch(IDENTITY)
        node.wait_ready()
        (log,) = cloud.volumes(1, 1, goat_tags("log", 1, "ext4"))
        data = cloud.volumes(2, 1, goat_tags("data", 2, "xfs"))
        for number, volume in enumerate((log, *data)):
            node.attach(volume, f"/dev/xvd{'fgh'[number]}")
        node.wait_for_disks(log, *data)
        names = node.serials()
        disks = [f"/dev/{names[one.replace('-', '')]}" for one in (log, *data)]
        node.write_file("/root/goat.sh", GOAT)
        node.run(["bash", "/root/goat.sh", *disks], timeout=200, check=True)
        goat_conf = node.read_file("/etc/mdadm.conf")
        nodes.log(goat_conf)
        assert ":'GOAT-data'" in goat_conf and "devices=/dev/" in goat_conf
        own = sums(node, "/krkn_log", "/krkn_data")
        nodes.log(f"files as goat's node wrote them: {own}")
        before = labels(node)

        # ---- taken over, while mounted
        apply(node)
        now = nodes.status(node)
        assert nodes.states(now) == {"log": "mounted", "data": "mounted"}
        nodes.log("\n".join(steps(node)))
        text = node.read_file("/etc/fstab")
        assert FOREIGN in text and "LABEL=GOAT" not in text
        assert len(lines(node)) == 2 and all("nofail" in line for line in lines(node))
        for name in ("/etc/mdadm.conf", "/etc/mdadm/mdadm.conf"):
            assert "GOAT" not in node.read_file(name), name
        assert "HOMEHOST" in node.read_file("/etc/mdadm/mdadm.conf")
        ours = node.read_file("/etc/mdadm/mdadm.conf.d/cc-kraken.conf")
        (uuid,) = re.findall(r"^ARRAY UUID=(\S+)$", ours, re.M)
        assert uuid in goat_conf
        scan = node.run("mdadm --detail --scan", check=True)
        assert scan.err == ""
        assert labels(node) == before
        apply(node)
        assert steps(node) == []

        # ---- it changes: options, a path, a name, a set more
        key = f"{NAMESPACE}:"
        cloud.ec2.tag(log, {f"{key}MountPath": "/log", f"{key}MountOptions": "noatime"})
        for volume in data:
            cloud.ec2.tag(volume, {f"{key}VolumeName": "store"})
        cloud.volumes(1, 1, goat_tags("more", 1, "ext4"))
        apply(node)
        now = nodes.status(node)
        assert nodes.states(now) == dict.fromkeys(("log", "store", "more"), "mounted")
        nodes.log("\n".join([*steps(node), *now["warnings"]]))
        assert any("next reboot" in warning for warning in now["warnings"])
        assert len(lines(node)) == 3 and "set=data" not in node.read_file("/etc/fstab")
        ours = node.read_file("/etc/mdadm/mdadm.conf.d/cc-kraken.conf")
        assert re.findall(r"^# (\S+)\nARRAY UUID=(\S+)$", ours, re.M) == [
            ("store", uuid)
        ]
        assert mounted(node, "/krkn_log") and not mounted(node, "/log")
        apply(node)
        assert steps(node) == []

        # ---- over a reboot, by our lines
        text = node.read_file("/etc/fstab")
        reboot(node)
        # The layout had /krkn_log: EC2 is asked once.
        calls = nodes.runs(nodes.status(node))["network"]["calls"]
        assert calls == {"DescribeVolumes": 1}
        assert node.read_file("/etc/fstab") == text
        assert "noatime" in mounted(node, "/log") and not mounted(node, "/krkn_log")
        assert mounted(node, "/krkn_more")
        found = sums(node, "/log", "/krkn_data")
        nodes.log(f"after the takeover, the change and the reboot: {found}")
        assert found == own

        # ---- a set is taken away, and its line with it
        more = [one for one in cloud.ec2.attached_to(node.id)
                if one.volume_id not in (log, *data) and "xvda" not in one.device
                and "sda1" not in one.device]  # fmt: skip
        assert len(more) == 1
        cloud.ec2.untag(more[0].volume_id, f"{key}NodeId")
        apply(node)
        assert len(lines(node)) == 3, "it is mounted still"
        node.run("umount /krkn_more", check=True)
        apply(node)
        assert len(lines(node)) == 2

        # ---- and a new instance goes on, which has none of goat's files
        node.terminate()
        other = cloud.launch(IDENTITY, cloud.config(SECTION))
        other.wait_ready()
        now = nodes.status(other)
        assert nodes.states(now) == {"log": "mounted", "store": "mounted"}
        found = sums(other, "/log", "/krkn_data")
        nodes.log(f"on the next instance: {found}")
        assert found == own
        assert labels(other) == before


def test_a_nested_pair_a_raised_size_and_another_prefix() -> None:
    """What a change of Terraform's does to a running node, and to its reboot."""

    def volume(name: str, path: str, size: int = 1, **more: object) -> str:
        tags = nodes.set_tags(0, name, size, fs_type="xfs", mount_path=path, **more)
        return cloud.volume(1, tags)

    def reasons(node: Node) -> dict[str, str]:
        """The kinds of the sets' errors; all failed runs by hand end with 1."""
        done = node.run(["cc-kraken", "apply", "--wait", "5"], timeout=300)
        now = nodes.status(node)
        kinds = {n: e["error"]["kind"] for n, e in now["sets"].items() if e["error"]}
        for error in now["errors"]:
            kinds["the node"] = error["kind"]
        assert done.code == (1 if kinds else 0), done.err
        nodes.log(f"{kinds} {now['warnings']}")
        return kinds

    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        inner = volume("wal", "/pg/wal")
        outer = volume("pg", "/pg")
        node = cloud.launch(
            krkn(prefix=nodes.PREFIX, node_id=0), cloud.config({"boot_wait": 300})
        )
        node.wait_ready()
        assert nodes.states(nodes.status(node)) == dict.fromkeys(
            ("pg", "wal"), "mounted"
        )
        for path in ("/pg", "/pg/wal"):
            nodes.write_file(node, f"{path}/file", path)
        before = lines(node)

        # ---- the number of volumes is raised before they are there
        cloud.ec2.tag(inner, krkn(volume_size=2, raid_level=0))
        assert reasons(node) == {"wal": "members-missing"}
        more = volume("wal", "/pg/wal", 2, raid_level=0)
        blank = cloud.backing_checksum(more)
        assert reasons(node) == {"wal": "device-held"}
        assert cloud.backing_checksum(more) == blank
        assert lines(node) == before and mounted(node, "/pg/wal")
        cloud.ec2.tag(inner, krkn(volume_size=1))
        cloud.ec2.untag(more, "KRKN-IN:NodeId")

        # ---- another prefix: first the instance, then the volumes
        cloud.ec2.tag(node.id, krkn(prefix="rabbit"))
        assert reasons(node) == {"the node": "no-volumes"}
        assert lines(node) == before and mounted(node, "/pg/wal")
        for one in (inner, outer):
            cloud.ec2.tag(one, krkn(prefix="rabbit"))
        assert reasons(node) == {}
        now = nodes.status(node)
        assert now["node"] == {"prefix": "rabbit", "node_id": "0"}
        assert steps(node) == [] and lines(node) == before

        # ---- and over a reboot, the outer one first
        reboot(node)
        order = node.run("findmnt -n -r -o TARGET | grep ^/pg", check=True).out.split()
        assert order == ["/pg", "/pg/wal"]
        assert {path: node.read_file(f"{path}/file") for path in order} == {
            path: path for path in order
        }
