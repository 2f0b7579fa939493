"""Debian with SELinux enforcing: what its policy forbids, and what we make of it."""

from __future__ import annotations

import re

import pytest

from tests.lab.cloud import Cloud, Node
from tests.vm import deck, nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

HOLD = "/usr/lib/cloud-init-kraken/last-resort"
SAID = """
from cc_kraken.machine import command
print(command.run({argv!r}).err)
"""


def denied(node: Node) -> set[tuple[str, str]]:
    """Who was denied what of ours in this boot: program and path."""
    found = set()
    for line in node.journal("--output=cat").splitlines():
        if "avc:  denied" not in line:
            continue
        program = re.search(r'comm="([^"]*)"', line)
        path = re.search(r' path=(?:"([^"]*)"|([0-9A-F]+))', line)
        if program is None or path is None:
            continue
        text = path[1] or bytes.fromhex(path[2]).decode()
        if "kraken" in text or "krkn" in text:
            found.add((program[1], text))
    return found


def said(node: Node, *argv: str) -> str:
    """What a command that fails tells us, in its own domain."""
    script = SAID.format(argv=argv)
    return node.run(["python3", "-c", script], check=True).out.strip()


def check_messages(node: Node) -> None:
    """The reason reaches the operator, whatever domain the program is in."""
    assert "/dev/nonesuch" in said(node, "mdadm", "--detail", "/dev/nonesuch")
    assert "/nonesuch" in said(node, "mount", "/nonesuch")
    assert "/nonesuch" in said(node, "umount", "/nonesuch")
    assert "/nonesuch" in said(node, "restorecon", "/nonesuch")
    assert "/dev/nonesuch" in said(node, "mkfs.ext4", "/dev/nonesuch")


def check_hold(node: Node) -> None:
    """udev's timer would leave the mirror alone: systemd may run the condition,
    which may read the list before any run has written it."""
    mirror = node.run("basename $(findmnt -n -o SOURCE /krkn_mirror)", check=True).out
    node.run(["rm", "/run/cc-kraken/members"], check=True)
    asked = node.run(["systemd-run", "--wait", "--quiet", HOLD, mirror.strip()])
    assert asked.code == 1, asked
    assert f"{mirror.strip()} waits for its other members" in node.journal()
    other = node.run(["systemd-run", "--wait", "--quiet", HOLD, "md99"])
    assert other.code == 0, other


def test_a_node_where_selinux_is_enforced() -> None:
    with Cloud(release="bookworm+selinux", log=nodes.log) as cloud:
        deck.volumes(cloud)
        node = deck.first_boot(cloud)
        assert node.run("getenforce").out.strip() == "Enforcing"
        nodes.log(node.run("sestatus; cc-kraken status").out)
        assert denied(node) == set()
        for name in deck.SETS:
            label = node.run(f"stat -c %C /krkn_{name}", check=True).out.strip()
            assert label == "system_u:object_r:default_t:s0"
        check_messages(node)
        assert denied(node) == set()

        deck.reboot(cloud, node)
        # The policy's own: the condition then reads the file where it lies.
        assert denied(node) <= {("systemd-tmpfile", "/var/lib/cc-kraken/members")}
        check_hold(node)

        other = deck.replace(cloud, node)
        assert other.run("getenforce").out.strip() == "Enforcing"
        assert denied(other) == set()
