"""Yesterday's snapshot, made into volumes and attached beside the originals."""

from __future__ import annotations

import shlex
import string
import subprocess
import time
from collections.abc import Sequence

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import mounted
from tests.vm import nodes

pytestmark = pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE)

NODE = 31
BOOT = 2400
"""Seconds for a boot on a machine that is busy."""
SERVICE = """\
[Unit]
Requires=cc-kraken@{name}.service
After=cc-kraken@{name}.service
RequiresMountsFor=/krkn_{name}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=cat /krkn_{name}/file

[Install]
WantedBy=multi-user.target
"""
Sets = dict[str, list[str]]


class Copied:
    """A node with its sets, and a copy of each volume beside it: those of the
    sets in ``before`` come before the originals in every list of devices, the
    others after them."""

    def __init__(
        self, cloud: Cloud, wanted: dict[str, dict[str, object]], before: Sequence[str]
    ) -> None:
        self.cloud = cloud
        self.own: Sets = {}
        for name, tags in wanted.items():
            more = {"mount_path": f"/krkn_{name}", "fs_type": "ext4", **tags}
            size = int(str(more.pop("volume_size", 1)))
            every = nodes.set_tags(NODE, name, size, **more)
            self.own[name] = cloud.volumes(size, 1, every)
        self.copies: Sets = {}
        self.order = [*before, *(name for name in wanted if name not in before)]
        self.before = [volume for name in before for volume in self.own[name]]

    def first_boot(self) -> Node:
        cloud = self.cloud
        # They keep the first slots until the copies come.
        places = cloud.volumes(len(self.before), 1, {})
        me = krkn(prefix=nodes.PREFIX, node_id=NODE)
        node = cloud.launch(me, cloud.config({"boot_wait": 600}), attached=places)
        assert node.wait_ready(BOOT)["result"]["errors"] == []
        for name in self.own:
            unit = SERVICE.format(name=name)
            node.write_file(f"/etc/systemd/system/needs-{name}.service", unit)
            node.run(["systemctl", "enable", f"needs-{name}.service"], check=True)
        self.write(node, "yesterday")
        self.copies = {
            name: [cloud.copy(volume, {}) for volume in volumes]
            for name, volumes in self.own.items()
        }
        self.write(node, "today")
        nodes.patient(node)
        for place in places:
            take_away(node, place)
        return node

    def write(self, node: Node, text: str) -> None:
        for name in self.own:
            nodes.write_file(node, f"/krkn_{name}/file", text)

    def attach_copies(self, node: Node) -> None:
        every = [one for name in self.order for one in self.copies[name]]
        for number, one in enumerate(every):
            node.attach(one, f"/dev/xvdc{string.ascii_lowercase[number]}")
            node.wait_for_disks(one)


def serials(node: Node, path: str) -> set[str]:
    """The serials of the disks below what is mounted at a path."""
    source = f"$(findmnt -n -o SOURCE {shlex.quote(path)})"
    listed = node.run(f"lsblk -n --inverse --list -o NAME {source}", check=True)
    disks = set(listed.out.split())
    return {serial for serial, name in node.serials().items() if name in disks}


def show(node: Node, names: Sequence[str]) -> None:
    """What a person sees."""
    units = " ".join(f"needs-{name}.service" for name in names)
    waits = "; ".join(f"cc-kraken wait {name}; echo {name}: $?" for name in names)
    for line in (
        "cloud-init status --long",
        "cc-kraken status",
        waits,
        f"systemctl is-active {units}",
        "findmnt --real; cat /proc/mdstat; ls -l /dev/disk/by-uuid",
        "journalctl -b -u cc-kraken.service --no-pager -o cat",
        "for u in nvme{1..20}n1; do udevadm info -q property /dev/$u 2>/dev/null "
        '| grep -E "^(DEVNAME|ID_SERIAL_SHORT|ID_FS_TYPE|SYSTEMD_READY)=" | '
        'tr "\\n" " "; echo; done | grep .',
    ):
        done = node.run(["bash", "-c", line])
        nodes.log(f"# {line}\n{done.out}{done.err}")


def check_after_reboot(node: Node, copied: Copied) -> None:
    """Every set is mounted from its own volumes, and every copy is named."""
    booted = node.wait_ready(BOOT)
    show(node, list(copied.own))
    now = nodes.status(node)
    read = {name: node.read_file(f"/krkn_{name}/file") for name in copied.own}
    assert read == dict.fromkeys(copied.own, "today")
    for name, volumes in copied.own.items():
        mine = {volume.replace("-", "") for volume in volumes}
        assert serials(node, f"/krkn_{name}") == mine
        warned = " ".join(now["sets"][name]["warnings"])
        for volume in (*volumes, *copied.copies[name]):
            assert volume in warned, name
    assert set(nodes.states(now).values()) == {"mounted"}
    assert booted["result"]["errors"] == []
    for name in copied.own:
        assert node.run(["cc-kraken", "wait", name]).code == 0
        unit = ["systemctl", "is-active", f"needs-{name}.service"]
        assert node.run(unit).out.strip() == "active"


@pytest.mark.slow
def test_a_copy_beside_the_original_at_a_reboot() -> None:
    """One comes before its original, one after it; then neither is mounted while
    the other is there, and a person takes the copy away."""
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        wanted: dict[str, dict[str, object]] = {"early": {}, "late": {"fs_type": "xfs"}}
        copied = Copied(cloud, wanted, ["early"])
        node = copied.first_boot()
        copied.attach_copies(node)
        node.reboot()
        check_after_reboot(node, copied)
        assert nodes.runs(nodes.status(node))["network"]["calls"] == {}
        refused_while_it_is_there(node, copied)
        in_the_place_of_the_original(node, copied)


def refused_while_it_is_there(node: Node, copied: Copied) -> None:
    (own,), (copy,) = copied.own["early"], copied.copies["early"]
    node.run("systemctl stop needs-early cc-kraken@early; umount /krkn_early")
    refused = node.run(["cc-kraken", "apply"])
    nodes.log(refused.err)
    error = nodes.status(node)["sets"]["early"]["error"]
    assert refused.code == 1 and error["kind"] == "filesystem-clone"
    assert own in error["message"] and copy in error["message"]
    assert node.run("findmnt /krkn_early").code == 1
    # As the remedy says.
    take_away(node, copy)
    assert node.run(["cc-kraken", "apply"]).code == 0
    assert node.read_file("/krkn_early/file") == "today"
    assert nodes.status(node)["sets"]["early"]["warnings"] == []


def take_away(node: Node, volume: str) -> None:
    node.detach(volume)
    node.wait_released(volume)
    node.cloud.wait_for("it to go", lambda: volume not in node.machine.attached, 120)


def in_the_place_of_the_original(node: Node, copied: Copied) -> None:
    """The rule still names the original when the copy gets the set's tags: systemd
    must see it before it is mounted, and does not unmount it."""
    (own,), (copy,) = copied.own["late"], copied.copies["late"]
    node.run("systemctl stop needs-late cc-kraken@late; umount /krkn_late")
    take_away(node, own)
    tags = [
        {"Key": key, "Value": value}
        for key, value in copied.cloud.ec2.volume(own).tags.items()
    ]
    client = copied.cloud.ec2.client()
    client.delete_tags(Resources=[own], Tags=[{"Key": one["Key"]} for one in tags])
    client.create_tags(Resources=[copy], Tags=tags)
    done = node.run(["cc-kraken", "apply"])
    nodes.log(done.out + done.err)
    assert done.code == 0
    node.run(["systemctl", "daemon-reload"], check=True)
    time.sleep(10)  # for a systemd that were to unmount it
    assert serials(node, "/krkn_late") == {copy.replace("-", "")}
    assert node.read_file("/krkn_late/file") == "yesterday"
    assert node.run("systemctl start needs-late").code == 0


@pytest.mark.slow
def test_copies_of_members_at_a_reboot() -> None:
    """md takes a copy for the member, and btrfs for the device."""
    mirror = {"volume_size": 2, "raid_level": 1}
    stripe = {"volume_size": 2, "raid_level": 0}
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        wanted: dict[str, dict[str, object]] = {
            "emirror": mirror,
            "estripe": stripe,
            "esnap": {"fs_type": "btrfs"},
            "lstripe": stripe,
            "lsnap": {"fs_type": "btrfs"},
        }
        copied = Copied(cloud, wanted, ["emirror", "estripe", "esnap"])
        node = copied.first_boot()
        copied.attach_copies(node)
        node.reboot()
        check_after_reboot(node, copied)


@pytest.mark.slow
def test_a_btrfs_copy_that_was_written_to_more_often() -> None:
    """The kernel takes the newer one, whichever is asked for: nothing is mounted."""
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        copied = Copied(cloud, {"snap": {"fs_type": "btrfs"}}, [])
        node = copied.first_boot()
        (own,), (copy,) = copied.own["snap"], copied.copies["snap"]
        with mounted(cloud.backing(copy), cloud.home / "copy") as tree:
            for number in range(40):
                (tree / "file").write_text(f"elsewhere {number}")
                subprocess.run(["sync", "-f", tree / "file"], check=True)
        copied.attach_copies(node)
        node.reboot()
        node.wait_ready(BOOT)
        show(node, ["snap"])
        entry = nodes.status(node)["sets"]["snap"]
        if entry["state"] == "mounted":
            assert node.read_file("/krkn_snap/file") == "today"
            assert copy in " ".join(entry["warnings"])
            return
        assert entry["error"]["kind"] == "filesystem-clone"
        assert own in entry["error"]["message"] and copy in entry["error"]["message"]
        assert node.run("findmnt /krkn_snap").code == 1
        unit = ["systemctl", "is-active", "needs-snap.service"]
        assert node.run(unit).out.strip() != "active"
