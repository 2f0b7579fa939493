"""A node in a chroot as an instance of the lab's EC2.

    with Machine(node, "#cloud-config\\nkraken: …") as machine:
        machine.volume("data", MountPath="/data", FsType="ext4")
        machine.boot()

The metadata service and the API are the lab's, at the addresses that a virtual
machine has them at; AttachVolume plugs a loop device with the volume's serial.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.chroot.node import ENDPOINT, ENDPOINT_ADDRESS, METADATA_ADDRESS, Done, Node
from tests.conftest import attach
from tests.lab.cloud import krkn
from tests.lab.ec2 import Ec2Lab
from tests.lab.metadata import Facts, Metadata
from tests.lab.world import Busy

ZONE = "us-east-1a"
GIB = 1 << 30
STATUS = "/run/cc-kraken/status.json"
API_FILE = "/etc/cloud/cloud.cfg.d/96_api.cfg"


def cloud_config(content: object, head: str = "#cloud-config") -> str:
    """User-data of a mapping."""
    return f"{head}\n{yaml.safe_dump(content, sort_keys=False)}"


class Account:
    """An EC2 of its own, and the files that are its volumes."""

    def __init__(self) -> None:
        self.lab = Ec2Lab(
            on_attach=self._attached,
            on_detach=self._detached,
            on_copy=self._copied,
            on_state=self._entered,
        )
        self.machines: dict[str, Machine] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Account:
        with ExitStack() as stack:
            self.disks = Path(tempfile.mkdtemp(prefix="cc-chroot-disks-"))
            stack.callback(shutil.rmtree, self.disks)
            stack.callback(self._let_go)
            stack.enter_context(self.lab)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _let_go(self) -> None:
        """No loop device stays, not even one that was made while all ended."""
        for file in self.disks.iterdir():
            argv = ["losetup", "--noheadings", "--output=NAME", "--associated", file]
            found = subprocess.run(argv, capture_output=True, text=True).stdout
            for device in found.split():
                subprocess.run(["losetup", "--detach", device])

    def backing(self, volume_id: str) -> Path:
        """The sparse file that holds what is on the volume."""
        file = self.disks / volume_id
        if not file.exists():
            with open(file, "xb") as stream:
                stream.truncate(self.lab.volume(volume_id).size_gib * GIB)
        return file

    def copy(self, volume_id: str, tags: dict[str, str]) -> str:
        """A volume from a snapshot of another one, as that is now."""
        origin = self.lab.volume(volume_id)
        made = self.lab.create_volume(
            origin.size_gib, origin.zone, tags, snapshot_id="snap-0123456789abcdef0"
        )
        source, target = str(self.backing(volume_id)), str(self.disks / made)
        subprocess.run(["cp", "--sparse=always", source, target], check=True)
        return made

    def _attached(self, instance_id: str, volume_id: str, _device: str) -> None:
        machine = self.machines.get(instance_id)
        if machine is not None:
            machine.plug(volume_id)

    def _detached(self, instance_id: str, volume_id: str, _device: str) -> None:
        machine = self.machines.get(instance_id)
        if machine is not None:
            machine.unplug(volume_id)

    def _copied(self, made: str, origin: str) -> None:
        """What a snapshot holds, or a volume that was made of one.  Nothing is
        flushed for it, as in EC2."""
        source = self.disks / origin
        if source.exists():
            target = str(self.disks / made)
            subprocess.run(["cp", "--sparse=always", source, target], check=True)

    def _entered(self, instance_id: str, state: str) -> None:
        machine = self.machines.get(instance_id)
        if machine is not None and state == "terminated":
            machine.power_off()


class Machine:
    """``tags``: of the instance, beside Prefix and NodeId; ``user_data`` as
    EC2 hands it out; ``account``: one that others are in too; ``instance``: one
    that somebody has launched there, with its own tags, user-data and options."""

    def __init__(
        self,
        node: Node,
        user_data: str | None = None,
        account: Account | None = None,
        instance: str = "",
        **tags: Any,
    ) -> None:
        self.node = node
        self._account = account
        self._tags = {"prefix": "kafka", "node_id": 0, **tags}
        self._user_data = user_data
        self._stack = ExitStack()
        self._devices: dict[str, str] = {}
        self.id = instance
        self.upper = Path()  # of the node, where it is to stay

    def __enter__(self) -> Machine:
        with ExitStack() as stack:
            self.account = self._account or stack.enter_context(Account())
            self.lab = self.account.lab
            facts = self._facts()
            self.account.machines[self.id] = self
            stack.callback(self.account.machines.pop, self.id)
            self.metadata = stack.enter_context(Metadata(facts))
            self.node.become_ec2()
            self.node.forward(METADATA_ADDRESS, 80, self.metadata.port)
            self.node.forward(ENDPOINT_ADDRESS, 80, self.lab.port)
            # Mounted inside until the node ends: detached when nobody has
            # them open.
            stack.callback(self._unplug)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _facts(self) -> Facts:
        if not self.id:
            self.id = self.lab.run_instance(zone=ZONE, tags=krkn(**self._tags))
            return Facts.of(self.lab, self.id, user_data=_bytes(self._user_data))
        launched = self.lab.instance(self.id)
        hidden: dict[str, Any] = {}
        if launched.metadata_options["InstanceMetadataTags"] == "disabled":
            hidden["tags"] = None
        if not launched.profile:
            hidden["role"] = ""
        return Facts.of(self.lab, self.id, **hidden)

    def terminate(self) -> None:
        """End the instance after a shutdown; its volumes are free then."""
        self.power_off()
        self.lab.terminate_instance(self.id, 0, 0)

    def power_off(self) -> None:
        for path in reversed(self.node.disks()):
            self.node.run("umount", path, check=True)
        self._unplug()

    def device(self, volume_id: str) -> str:
        """The disk that is this volume."""
        return self._devices[volume_id]

    def unplug(self, volume_id: str) -> None:
        """Take one disk away; Busy while something is mounted from it."""
        device = self._devices[volume_id]
        if device in self.node.disks().values():
            raise Busy
        self.node.unplug(os.path.basename(device))
        del self._devices[volume_id]
        subprocess.run(["losetup", "--detach", device], check=True)

    def _unplug(self) -> None:
        while self._devices:
            subprocess.run(["losetup", "--detach", self._devices.popitem()[1]])

    def seed(self, user_data: str | None) -> None:
        """The user-data of the next boot (stop, modify, start)."""
        self.metadata.change(user_data=_bytes(user_data))

    def api_in_image(self, section: dict[str, Any] | None = None) -> None:
        """Where the API is, in the image's own configuration."""
        content = {"kraken": {**api(), **(section or {})}}
        self.node.write(API_FILE, yaml.safe_dump(content))

    def boot(self) -> dict[str, Done]:
        return self.node.boot()

    def volume(self, name: str, size: int = 1, **more: str) -> str:
        """A new volume of 1 GiB, of the set ``name``."""
        own = krkn(
            prefix=self._tags["prefix"],
            node_id=self._tags["node_id"],
            volume_name=name,
            volume_size=size,
        )
        wanted = {f"KRKN-IN:{key}": value for key, value in more.items()}
        return self.lab.create_volume(1, ZONE, {**own, **wanted})

    @property
    def result(self) -> dict[str, Any]:
        """The status that the last run left."""
        found: dict[str, Any] = json.loads(self.node.read(STATUS))
        return found

    def plug(self, volume_id: str) -> str:
        """Make the volume a disk of the node's; its device."""
        file = self.account.backing(volume_id)
        device = attach(file)
        self._devices[volume_id] = device
        name = os.path.basename(device)
        self.node.plug(name, volume_id, device, file.stat().st_size)
        return device


def api(**more: Any) -> dict[str, Any]:
    """A section that knows where the API is; short waits."""
    return {
        "ec2": {"endpoint_url": ENDPOINT},
        "boot_wait": 120,
        "wait": 200,
        "final_wait": 5,
        **more,
    }


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
