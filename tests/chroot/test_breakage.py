"""Whatever is broken in the module or below it: the rest of the boot runs,
users are made, and ssh comes up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.chroot.conftest import RELEASE
from tests.chroot.ec2 import Machine, api, cloud_config
from tests.conftest import soon

Machines = Callable[..., Machine]

PACKAGES = "/usr/lib/python3/dist-packages"
SSH_PORT = 22

USER = {
    "name": "alice",
    "ssh_authorized_keys": [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGQ4x4E5EoXnNGRXmvY3gJvNcGZS4m+ZKjPoOlHgC"
        "2T alice"
    ],
}

Breaking = Callable[[Machine], None]


def replaced(name: str, text: str) -> Breaking:
    """A module of the distribution's, or of ours, with another content."""

    def do(machine: Machine) -> None:
        node = machine.node
        node.run("rm", "-rf", f"{PACKAGES}/{name}", f"{PACKAGES}/{name}.py", check=True)
        if text:
            node.write(f"{PACKAGES}/{name}.py", text)

    return do


def appended(name: str, text: str) -> Breaking:
    def do(machine: Machine) -> None:
        path = f"{PACKAGES}/cc_kraken/{name}.py"
        machine.node.write(path, machine.node.read(path) + text)

    return do


def full(*directories: str) -> Breaking:
    """Directories on a file system without a free byte."""

    def do(machine: Machine) -> None:
        for path in directories:
            machine.node.run("mkdir", "-p", path, check=True)
            options = ("-o", "size=4k,nr_inodes=8,mode=755")
            machine.node.run("mount", "-t", "tmpfs", *options, "tmpfs", path)
            machine.node.run("sh", "-c", f"yes > {path}/filler; true", check=True)

    return do


NEWER = "match 1:\n    case 1 if (x := 2) is not None: pass\ntype New[T] = list[T\n"
ENDS = "import sys\nsys.exit(3)\n"
HANGS = """

def hang(_run):
    import threading
    threading.Thread(target=threading.Event().wait, name="of-a-library").start()
    raise KeyboardInterrupt("a signal")


Run.go = hang
"""

BREAKAGES: dict[str, tuple[Breaking, str]] = {
    # Name: what is done, and a pattern of what is said.
    "no botocore": (replaced("botocore", ""), "botocore"),
    "botocore broken": (replaced("botocore", "raise ValueError('half')\n"), "half"),
    "botocore of a newer Python": (replaced("botocore", NEWER), "botocore|syntax"),
    "botocore ends the process": (replaced("botocore", ENDS), "SystemExit|botocore"),
    "botocore lacks a part": (replaced("botocore", "import nonesuch\n"), "nonesuch"),
    "boto3 ends the process": (replaced("boto3", ENDS), "SystemExit|boto3"),
    "no jsonschema": (replaced("jsonschema", ""), "python3-jsonschema"),
    "a module of ours broken": (
        replaced("cc_kraken/config/validation", NEWER),
        "syntax",
    ),
    "a module of ours missing": (
        replaced("cc_kraken/act/run", ""),
        "cc_kraken.act.run",
    ),
    "a module of ours ends": (appended("cloud/ec2", ENDS), "SystemExit"),
    "a thread that hangs": (appended("act/run", HANGS), "signal"),
    "the program does not start": (
        replaced("cc_kraken/__main__", NEWER),
        "without a result",
    ),
    "the stub's own module ends": (appended("boot/configured", ENDS), "SystemExit"),
    "no mkfs": (
        lambda machine: machine.node.write("/sbin/mkfs.ext4", "no program", 0o644),
        "mkfs",
    ),
    "no room for the status": (full("/run/cc-kraken"), "space|status"),
}


def with_a_volume(machine: Machines) -> Machine:
    made = machine(
        cloud_config(
            {
                "kraken": api(boot_wait=20, volumes={"data": {}}),
                "users": [USER],
                "runcmd": [["touch", "/root/ran"]],
            }
        )
    )
    made.volume("data", FsType="ext4", MountPath="/data")
    return made


def comes_up(machine: Machine) -> dict[str, Any]:
    """Boot; the rest of all stages ran and the ssh port answers."""
    node = machine.node
    machine.boot()
    assert node.run("id", "alice").code == 0, node.status()["text"]
    assert "ssh-ed25519" in node.read("/home/alice/.ssh/authorized_keys")
    assert node.exists("/etc/ssh/ssh_host_ed25519_key")
    # What comes later in the same stages and in the other ones.
    assert node.exists("/root/ran"), "the user's script"
    for stage in ("init-network", "modules-config", "modules-final"):
        assert re.search(rf"finish: {stage}: ", node.log), stage
    ssh_answers(machine)
    return node.status()


def ssh_answers(machine: Machine) -> None:
    node = machine.node
    node.run("mkdir", "-p", "/run/sshd", check=True)
    node.run("/usr/sbin/sshd", check=True)
    code = (
        "import socket\n"
        f"with socket.create_connection(('127.0.0.1', {SSH_PORT})) as s:\n"
        "    print(s.recv(64).decode())\n"
    )
    banner = node.python(code).strip()
    assert banner.startswith("SSH-2.0-")
    print(f"users are made, all stages ran, port {SSH_PORT} says {banner}")


#: In `make test`; the others in `make test-all`.
SOON = (
    "no botocore",
    "botocore of a newer Python",
    "botocore ends the process",
    "no jsonschema",
    "a thread that hangs",
)


@pytest.mark.parametrize("name", soon(SOON, BREAKAGES))
def test_the_rest_of_the_boot_runs(machine: Machines, name: str) -> None:
    breaking, said = BREAKAGES[name]
    made = with_a_volume(machine)
    breaking(made)
    print(f"\n{RELEASE}, {name}:")
    status = comes_up(made)
    assert status["status"] == "error", status
    told = " ".join(map(str, status["errors"]))
    print(f"cloud-init status: {status['status']}: {told}")
    assert re.search(said, told, re.I), told


def test_no_room_for_the_state_costs_a_warning(machine: Machines) -> None:
    """The set is up. cloud-init 23.4 and later calls such a boot degraded."""
    made = with_a_volume(machine)
    full("/var/lib/cc-kraken")(made)
    status = comes_up(made)
    assert (status["status"], status["errors"]) == ("done", []), status
    warned = "WARNING.*The next boot asks EC2 .*No space left on device"
    assert re.search(warned, made.node.log), made.node.log
    told = made.node.run("cc-kraken", "status")
    assert told.code == 0 and "No space left" in told.out + told.err
    assert re.search("data +mounted +/data", told.out), told.out


def test_the_package_half_removed(machine: Machines) -> None:
    """Listed and gone: cloud-init skips it, with a warning."""
    made = machine(cloud_config({"users": [USER], "runcmd": [["touch", "/root/ran"]]}))
    made.node.run("rm", "-r", f"{PACKAGES}/cc_kraken", check=True)
    assert comes_up(made)["status"] == "done"
