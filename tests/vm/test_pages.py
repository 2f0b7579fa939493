"""A guide whose commands no chroot can type, because they are about an array."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chroot.reader import Reader
from tests.lab.cloud import Cloud, Node, krkn
from tests.pages import NODE, blocks
from tests.vm import nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
]

ME = krkn(prefix="kafka", node_id=0)


class OnMachine(Reader):
    """Types what is for the node on a virtual machine."""

    def __init__(self, directory: Path, cloud: Cloud, node: Node) -> None:
        super().__init__(directory, ())
        self.lab, self.region, self._machine = cloud.ec2, cloud.ec2.region, node

    def inside(self, text: str) -> tuple[int, str, str]:
        done = self._machine.run(["bash", "-euc", text], timeout=1800)
        return done.code, done.out, done.err


def test_a_failed_member(tmp_path: Path) -> None:
    data = krkn(
        volume_name="data",
        members=3,
        raid_level=5,
        fs_type="ext4",
        mount_path="/krkn_data",
    )
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        failed, *others = cloud.volumes(3, tags={**ME, **data})
        node = cloud.launch(ME, cloud.config({"boot_wait": 900}))
        node.wait_ready()
        node.run("echo kept >/krkn_data/file", check=True)
        array = node.run("findmnt -no SOURCE /krkn_data", check=True).out.strip()
        disk = f"/dev/{node.serials()[failed.replace('-', '')]}"
        reader = OnMachine(tmp_path, cloud, node)
        said = ""
        for block in blocks("docs/guides/replace-member.md"):
            node.run(f"mdadm --wait {array}", timeout=1800)  # as the page says
            text = block.text.replace("/dev/md127", array)
            text = text.replace("/dev/nvme3n1", disk)
            told = reader.type(replace(block, text=text), {"failed": failed})
            nodes.log(f"--- {text}{told}")
            said += told if block.place == NODE else ""
        (new,) = {
            one.id
            for one in cloud.ec2.volumes()
            if one.tags.get("KRKN-IN:NodeId") == "0" and one.id not in others
        }
        assert f"attach {new}\n  - where a volume is blank: it takes" in said
        assert "[3/3] [UUU]" in node.read_file("/proc/mdstat")
        shown = node.run("cc-kraken status", check=True).out
        nodes.log(shown)
        assert new in shown and failed not in shown and "degraded" not in shown
        assert node.read_file("/krkn_data/file") == "kept\n"
