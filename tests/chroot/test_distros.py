"""A row of ``make distros`` for the release, and lists like RHEL 8's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.chroot import distros
from tests.chroot.conftest import RELEASE
from tests.chroot.ec2 import Machine, api, cloud_config


def test_the_row_of_the_release(installed: tuple[Path, ...]) -> None:
    made = distros.row(installed, None)
    print(RELEASE, made.cells)
    assert made.faults == {}


def test_a_fault_is_seen(installed: tuple[Path, ...]) -> None:
    """The row of a machine whose lists lost the entry."""
    from tests.chroot.node import Node

    with Node(installed) as node, Machine(node, "#cloud-config\n{}\n") as machine:
        node.run("cc-kraken", "disable", check=True)
        machine.boot()
        made = distros.Row("", "", "", "")
        distros._first_boot(made, machine, distros.Said.of(node))
    assert {"called", "lists", "mounts", "analyze"} <= set(made.faults), made


def test_lists_like_those_of_rhel_8(machine: Callable[..., Machine]) -> None:
    """A section that write_files makes is there when the module has its turn."""
    wanted = {
        "kraken": api(volumes={"data": {"mount_path": "/data", "fs_type": "xfs"}})
    }
    path = "/var/lib/cloud/instance/kraken.d/node.yaml"
    files = [{"path": path, "content": yaml.safe_dump(wanted)}]
    made = machine(cloud_config({"write_files": files}))
    node = made.node
    node.run("cc-kraken", "disable", check=True)
    distros.like_rhel_8(node)
    told = node.run("cc-kraken", "enable", check=True).out
    assert "after write_files" in told and "mounts in a later stage" in told, told
    made.volume("data")
    done = made.boot()
    assert [str(one) for one in done.values() if one.code] == []
    assert node.complaints() == []
    assert list(node.disks()) == ["/data"]
    assert made.result["state"] == "done"
