"""Debian sid: dracut makes the initrd, and kernel and mdadm are today's."""

from __future__ import annotations

import re

import pytest

from tests.lab.cloud import Cloud, Node
from tests.vm import deck, nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]


def version(node: Node, command: str) -> tuple[int, int]:
    """The first version that a command prints, as major and minor."""
    printed = node.run(f"{command} 2>&1", check=True).out
    nodes.log(f"{command}: {printed.strip()}")
    found = re.search(r"(\d+)\.(\d+)", printed)
    assert found is not None, printed
    return int(found[1]), int(found[2])


def test_a_node_whose_initrd_dracut_made() -> None:
    with Cloud(release="sid+dracut", log=nodes.log) as cloud:
        deck.volumes(cloud)
        node = deck.first_boot(cloud)
        # Before kernel 6.18 and mdadm 4.5, --create loaded md by itself.
        assert version(node, "uname -r") >= (6, 18)
        assert version(node, "mdadm --version") >= (4, 5)
        assert "dracut" in said(node, "systemd", "dracut")

        deck.reboot(cloud, node)
        # The initrd has left the arrays to the system, which knows copies.
        assembled = said(node, "kernel", "md/raid1:.* active with 2 out of 2")
        switched = said(node, "systemd", "Switching root")
        assert seconds(switched) < seconds(assembled)

        other = deck.replace(cloud, node)
        nodes.log(other.run(["cc-kraken", "status"]).out)


def said(node: Node, by: str, text: str) -> str:
    """The lines of this boot with ``text``; the lab's agent logs each search, too."""
    return node.journal("--identifier", by, "--grep", text)


def seconds(lines: str) -> float:
    """When the last of these lines of the journal was written."""
    found = re.findall(r"^\[ *([\d.]+)\]", lines, re.M)
    assert found, lines
    return float(found[-1])
