"""Lines of somebody else's for a real array and by real links of udev; and a volume
that is given back while somebody tries to mount it.
"""

from __future__ import annotations

import re

import pytest

from cc_kraken.machine import mdadm_conf
from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

CONF = "/etc/mdadm/mdadm.conf"
REST = "HOMEHOST <system>\nMAILADDR root\n"
#: What mdadm says of each member when udev asks it, and what comes of it.
ASK = r"""
for array in /sys/block/md*; do
    [ ! -e "$array" ] || mdadm --quiet --stop "/dev/${array##*/}" 2>&1
done
udevadm settle
for disk in "$@"; do mdadm --incremental "$disk" 2>&1; done
udevadm settle
cat /sys/block/md*/md/array_state 2>/dev/null
true
"""


def members(node: Node, volumes: list[str]) -> list[str]:
    names = node.serials()
    return [f"/dev/{names[one.replace('-', '')]}" for one in sorted(volumes)]


def asked(node: Node, disks: list[str]) -> tuple[str, bool]:
    """What mdadm says at the next boot, and whether the array comes up."""
    node.write_file("/root/ask.sh", ASK)
    said = node.run(["sh", "/root/ask.sh", *disks], timeout=120).out
    nodes.log(" ".join(said.split()))
    return said, bool(re.search("^(clean|active|read-auto)$", said, re.M))


def test_lines_for_mdadm_and_mount_and_a_volume_that_is_given_back() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        more = {"raid_level": 1, "fs_type": "ext4", "mount_path": "/krkn_data"}
        data = cloud.volumes(2, 1, nodes.set_tags(0, "data", 2, **more))
        node = cloud.launch(krkn(prefix=nodes.PREFIX, node_id=0), cloud.config({}))
        node.wait_ready()
        assert nodes.states(nodes.status(node)) == {"data": "mounted"}
        disks = members(node, data)
        ours = f"{CONF}.d/{mdadm_conf.DROP_IN}"
        (uuid,) = re.findall(r"^ARRAY UUID=(\S+)$", node.read_file(ours), re.M)
        node.run("umount /krkn_data && udevadm settle", check=True)

        # ---- a run replaces one by name, and keeps one that is meant
        name = "ARRAY /dev/md/data name=any:KRKN-data\n"
        node.write_file(CONF, REST + name)
        said, up = asked(node, disks)
        assert "multiple lines in mdadm.conf match" in said and not up
        done = node.kraken({}, timeout=300)
        assert done.code == 0, done.err
        assert node.read_file(CONF) == REST
        node.run("umount /krkn_data", check=True)
        said, up = asked(node, disks)
        assert "multiple lines" not in said and up, said
        for theirs in (f"ARRAY <ignore> UUID={uuid}\n", "DEVICE /dev/sd*\n"):
            node.write_file(CONF, REST + theirs)
            done = node.kraken({}, timeout=300)
            assert done.code == 1
            error = nodes.status(node)["sets"]["data"]["error"]
            assert error["kind"] == "mdadm-conf-conflict", error
            assert node.read_file(CONF) == REST + theirs
        node.write_file(CONF, REST)

        # ---- a line of fstab by what udev calls the disk
        log = cloud.volume(1, nodes.set_tags(0, "log", fs_type="ext4",
                                             mount_path="/krkn_log"))  # fmt: skip
        node.attach(log, "/dev/xvdm")
        node.wait_for_disks(log)
        (disk,) = members(node, [log])
        node.run(["mkfs.ext4", "-q", disk], check=True)
        node.run("udevadm settle", check=True)
        link = node.run(f"ls /dev/disk/by-id | grep {log.replace('-', '')} | head -1",
                        check=True).out.strip()  # fmt: skip
        theirs = f"ID={link} /krkn_log ext4 defaults 0 0\n"
        node.run(f"mkdir /krkn_log; echo '{theirs.strip()}' >> /etc/fstab; "
                 "mount /krkn_log && umount /krkn_log", check=True)  # fmt: skip
        done = node.kraken({}, timeout=300)
        assert done.code == 0, done.err
        nodes.log(node.read_file("/etc/fstab"))
        assert link not in node.read_file("/etc/fstab")
        assert "X-kraken.set=log" in node.read_file("/etc/fstab")

        # ---- a mount that races with DetachVolume
        race(cloud, node)


RACE = r"""
mkdir -p /stale
until mount -t ext4 /dev/disk/by-uuid/$1 /stale 2>/dev/null; do sleep 0.02; done
"""


def race(cloud: Cloud, node: Node) -> None:
    """EC2 accepts the first volume of a mirror and refuses the second, while
    somebody mounts the first one as soon as it is there."""
    both = {"raid_level": 1, "fs_type": "ext4", "mount_path": "/mirror"}
    first, _ = sorted(cloud.volumes(2, 1, nodes.set_tags(0, "mirror", 2, **both)))
    fs = "6f1ed002-ab55-4595-8590-14ebf0951522"
    node.attach(first, "/dev/xvdn")
    node.wait_for_disks(first)
    (disk,) = members(node, [first])
    node.run(["mkfs.ext4", "-q", "-U", fs, disk], check=True)
    node.detach(first)
    node.wait_released(first)
    here = len(cloud.ec2.attached_to(node.id))
    kind = cloud.ec2.instance(node.id).type
    cloud.ec2.attachment_limits[kind] = here + 1
    node.write_file("/root/race.sh", RACE)
    for _ in range(2):
        node.run(f"setsid sh /root/race.sh {fs} >/dev/null 2>&1 & echo $! > /run/race")
        done = node.kraken({}, timeout=300)
        assert done.code == 1
        error = nodes.status(node)["sets"]["mirror"]["error"]
        assert error["kind"] == "attachment-limit", error
        node.run("kill -- -$(cat /run/race); sleep 1")
        up = bool(node.run("findmnt -n /stale").out)
        held = any(one.volume_id == first for one in cloud.ec2.attached_to(node.id))
        warned = any("is not given back" in t for t in nodes.status(node)["warnings"])
        nodes.log(f"mounted: {up}, still attached: {held}, told: {warned}")
        assert up == held == warned
        if not up:
            continue
        node.run("umount /stale", check=True)
        node.detach(first)
        node.wait_released(first)
