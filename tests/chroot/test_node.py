"""Which node an instance is, and who the others are, with each release's own sh,
cloud-init, boto3 and systemd."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chroot.ec2 import Machine, api, cloud_config
from tests.lab.cloud import krkn

Machines = Callable[..., Machine]

HOSTILE = "-r \"x\" 'y' $HOME ${PATH} $(id) `id` \\ \\n %n %% ; é # 7"
BY_SYSTEMD = """\
import ctypes, glob, sys
libraries = glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so")
if not libraries:
    sys.exit("this release's systemd is not here")
texts = ctypes.POINTER(ctypes.c_char_p)
read = ctypes.CDLL(libraries[0]).load_env_file
read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(texts)]
found, number = texts(), 0
assert read(None, b"/run/cc-kraken/node.env", ctypes.byref(found)) == 0
while found[number]:
    sys.stdout.buffer.write(found[number] + b"\\0")
    number += 1
"""


def variables(out: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in out.split("\0") if one)
    return {name: value for name, _, value in pairs if name.startswith("KRAKEN_")}


@pytest.fixture
def booted(machine: Machines) -> Machine:
    """A node with a name that no reader may take apart, and a vacant one beside it."""
    section = api(prefix="kafka", node_id=HOSTILE, volumes={"data": {}})
    made = machine(cloud_config({"kraken": section}), node_id=HOSTILE)
    made.volume("data", MountPath="/krkn_data", FsType="ext4")
    other = krkn(prefix="kafka", node_id="8", volume_name="data")
    made.lab.create_volume(1, "us-east-1b", other)
    done = made.boot()
    assert [str(one) for one in done.values() if one.code] == []
    return made


def test_the_node_in_sh_and_in_systemd(booted: Machine) -> None:
    node = booted.node
    assert node.run("cc-kraken", "wait", "--node").code == 0
    expected = {
        "KRAKEN_PREFIX": "kafka",
        "KRAKEN_NODE_ID": HOSTILE,
        "KRAKEN_INSTANCE_ID": booted.id,
        "KRAKEN_REGION": "us-east-1",
        "KRAKEN_ZONE": "us-east-1a",
        "KRAKEN_SETS": "data",
        "KRAKEN_PATH_DATA": "/krkn_data",
    }
    script = "set -eua; . /run/cc-kraken/node.env; exec env -0"
    assert variables(node.run("sh", "-c", script, check=True).out) == expected
    read = node.run("python3", "-c", BY_SYSTEMD)
    if read.code:
        assert "systemd is not here" in read.err
    else:
        assert variables(read.out) == expected
    before = node.read("/run/cc-kraken/node.env")
    node.restart()
    asked = booted.lab.calls.mark()
    booted.boot()
    assert booted.lab.calls.since(asked) == []
    assert node.read("/run/cc-kraken/node.env") == before


def test_the_peers(booted: Machine) -> None:
    node = booted.node
    told: dict[str, Any] = json.loads(
        node.run("cc-kraken", "peers", "--json", check=True).out
    )
    assert told["instance_id"] == booted.id
    assert [
        (one["node_id"], one["state"], one["instance_id"]) for one in told["nodes"]
    ] == [("8", "vacant", ""), (HOSTILE, "held", booted.id)]
    address = booted.lab.instance(booted.id).private_ip
    shape = ("--wait", "1", "--format", "{zone}={private_ip}:2380", "--join", ",")
    listed = node.run("cc-kraken", "peers", *shape)
    assert (listed.code, listed.out) == (0, f"us-east-1a={address}:2380\n")
    booted.lab.throttle("DescribeInstances", None)
    failed = node.run("cc-kraken", "peers")
    assert (failed.code, failed.out) == (1, "") and "[ec2-throttled]" in failed.err


def test_a_machine_that_is_no_node(machine: Machines) -> None:
    made = machine(cloud_config({"kraken": api(boot_wait=1, wait=1)}))
    made.lab.untag(made.id, "KRKN-IN:Prefix")
    made.boot()
    waited = made.node.run("cc-kraken", "wait", "--node")
    assert waited.code == 1 and "[node-unknown]" in waited.err
    assert "KRKN-IN:Prefix" in waited.err
    assert not made.node.exists("/run/cc-kraken/node.env")
