"""Images that are made of a node, and the instances that are started from them;
a home on a volume, on an instance and on the next one.

The upper directory of a node's overlay is its image.  What systemd and md have
to do with it: tests/vm/test_services.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chroot.ec2 import Account, Machine, api, cloud_config
from tests.chroot.node import Node

Start = Callable[..., Machine]
USERS = [{"name": "kafka", "system": True}, {"name": "alice"}]


@pytest.fixture
def account() -> Iterator[Account]:
    with Account() as made:
        yield made


@pytest.fixture
def start(
    installed: tuple[Path, ...], account: Account, tmp_path: Path
) -> Iterator[Start]:
    """A function ``(text, *images, **tags)`` that starts an instance from the
    package's layers with the images on top; what it writes is an image then
    (`image_of`)."""
    with ExitStack() as stack:

        def make(text: str, *images: Path, **tags: object) -> Machine:
            at = tmp_path / f"machine-{len(account.machines)}"
            for name in ("upper", "work"):
                (at / name).mkdir(parents=True)
            lower = (*reversed(images), *installed)
            node = Node(lower, upper=at / "upper", work=at / "work")
            stack.enter_context(node)
            machine = Machine(node, text, account, **tags)
            machine.upper = at / "upper"
            return stack.enter_context(machine)

        yield make


def text(*names: str, **more: object) -> str:
    volumes = {name: {} for name in names}
    return cloud_config({"kraken": api(volumes=volumes), **more})


def traces(node: Node) -> str:
    return node.run(
        *("sh", "-c"),
        "grep -s X-kraken.set /etc/fstab; grep -rhs ^ARRAY /etc/mdadm; "
        "ls /var/lib/cc-kraken /run/cc-kraken/status.json 2>/dev/null",
    ).out


def lived(start: Start) -> tuple[Machine, str]:
    """A node that has run, and its volume."""
    machine = start(text("data"), node_id=1)
    volume = machine.volume("data", FsType="ext4", MountPath="/krkn_data")
    machine.boot()
    assert list(machine.node.disks()) == ["/krkn_data"]
    machine.node.write("/krkn_data/file", machine.id)
    assert "set=data" in traces(machine.node)
    return machine, volume


def test_the_image_of_a_node_that_was_cleaned(start: Start) -> None:
    old, _ = lived(start)
    clean = ("cloud-init", "clean", "--logs", "--machine-id")
    assert old.node.run(*clean).code == 0
    assert traces(old.node) == ""
    old.terminate()
    new = start(text("data"), old.upper, node_id=2)
    assert "krkn" not in new.node.read("/etc/fstab")
    new.volume("data", FsType="xfs", MountPath="/krkn_data")
    new.boot()
    assert new.node.status()["status"] == "done"
    assert list(new.node.disks()) == ["/krkn_data"]
    (line,) = [one for one in new.node.read("/etc/fstab").splitlines() if "krkn" in one]
    assert " xfs " in line
    assert new.result["node"]["node_id"] == "2"
    assert not new.node.exists("/krkn_data/file")


def test_the_image_of_a_node_that_nobody_cleaned(start: Start) -> None:
    """As with cloud-init 22.2, which has no hooks for it. The set of the old node is
    none of the new one's, so its line would cost every boot 30 s."""
    old, _ = lived(start)
    old.terminate()
    new = start(text("log"), old.upper, node_id=2)
    assert "set=data" in traces(new.node)
    new.volume("log", FsType="xfs", MountPath="/krkn_log")
    new.boot()
    assert new.node.status()["status"] == "done"
    (line,) = [one for one in new.node.read("/etc/fstab").splitlines() if "krkn" in one]
    assert "set=log" in line
    assert f"of {old.id}: data" in new.node.log


@pytest.mark.slow
def test_the_image_of_a_live_node(start: Start, account: Account) -> None:
    """Nobody has cleaned it, and a copy of the old node's volume is attached by
    the launch template: systemd mounts that by the old node's line in fstab."""
    old, volume = lived(start)
    old.node.run("sync", check=True)
    copy = account.copy(volume, {})
    old.terminate()
    new = start(text("data"), old.upper, node_id=2)
    own = new.volume("data", FsType="xfs", MountPath="/krkn_data")
    account.lab.attach_volume(copy, new.id, "/dev/sdf")
    device = new.plug(copy)
    new.node.run("mount", device, "/krkn_data", check=True)
    new.boot()
    assert new.node.status()["status"] == "error"
    now = new.result
    assert now["node"]["node_id"] == "2"
    assert now["sets"]["data"]["state"] == "failed"
    message = now["sets"]["data"]["error"]["message"]
    assert "/krkn_data" in message, message
    print(message)
    assert [entry["id"] for entry in now["sets"]["data"]["volumes"]] == [own]
    # Its own volume is blank still; the copy is as it was.
    with open(account.backing(own), "rb") as disk:
        assert not any(disk.read(16 << 20))
    assert new.node.read("/krkn_data/file") == old.id


@pytest.mark.slow
def test_the_image_of_a_live_node_whose_volumes_are_not_there(start: Start) -> None:
    old, _ = lived(start)
    old.terminate()
    new = start(text("data"), old.upper, node_id=2)
    new.volume("data", FsType="xfs", MountPath="/krkn_data")
    new.boot()
    assert new.node.status()["status"] == "done"
    assert list(new.node.disks()) == ["/krkn_data"]
    assert new.node.read("/etc/fstab").count("X-kraken.set") == 1
    assert not new.node.exists("/krkn_data/file")


def test_homes_on_a_volume_and_the_next_instance(start: Start) -> None:
    first = start(text("home", users=USERS))
    first.volume("home", FsType="ext4", MountPath="/home")
    first.boot()
    node = first.node
    assert node.status()["status"] == "done", node.status()["text"]
    assert list(node.disks()) == ["/home"]
    owner = node.run("stat", "-c", "%U:%u", "/home/alice", check=True).out
    assert owner.startswith("alice:")
    node.write("/home/alice/letter", "dear Bob")
    first.terminate()
    other = start(text("home", users=USERS))
    other.boot()
    node = other.node
    assert node.status()["status"] == "done", node.status()["text"]
    assert list(node.disks()) == ["/home"]
    assert node.run("stat", "-c", "%U:%u", "/home/alice", check=True).out == owner
    assert node.read("/home/alice/letter") == "dear Bob"


@pytest.mark.slow
def test_tags_of_a_copy_are_no_second_node(start: Start, account: Account) -> None:
    """The copy carries the old volume's tags, as backups do: two claim the
    place, and neither is attached."""
    old, volume = lived(start)
    copy = account.copy(volume, dict(account.lab.volume(volume).tags))
    old.terminate()
    short = cloud_config({"kraken": api(boot_wait=20, volumes={"data": {}})})
    new = start(short, old.upper, node_id=1)
    new.boot()
    assert new.node.status()["status"] == "error"
    message = new.result["sets"]["data"]["reason"]
    print(message)
    assert volume in message and copy in message and "volume_ids" in message, message
    assert new.node.disks() == {}
