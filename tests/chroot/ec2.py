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

ZONE = "us-east-1a"
GIB = 1 << 30
STATUS = "/run/cc-kraken/status.json"
API_FILE = "/etc/cloud/cloud.cfg.d/96_api.cfg"


def cloud_config(content: object, head: str = "#cloud-config") -> str:
    """User-data of a mapping."""
    return f"{head}\n{yaml.safe_dump(content, sort_keys=False)}"


class Machine:
    """``tags``: of the instance, beside Prefix and NodeId; ``user_data`` as
    EC2 hands it out."""

    def __init__(self, node: Node, user_data: str | None = None, **tags: Any) -> None:
        self.node = node
        self.lab = Ec2Lab(on_attach=self._plug)
        self._tags = {"prefix": "kafka", "node_id": 0, **tags}
        self._user_data = user_data
        self._stack = ExitStack()
        self._disks = Path(tempfile.mkdtemp(prefix="cc-chroot-disks-"))

    def __enter__(self) -> Machine:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._disks)
            stack.enter_context(self.lab)
            self.id = self.lab.run_instance(zone=ZONE, tags=krkn(**self._tags))
            facts = Facts.of(self.lab, self.id, user_data=_bytes(self._user_data))
            self.metadata = stack.enter_context(Metadata(facts))
            self.node.become_ec2()
            self.node.forward(METADATA_ADDRESS, 80, self.metadata.port)
            self.node.forward(ENDPOINT_ADDRESS, 80, self.lab.port)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

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

    def backing(self, volume_id: str) -> Path:
        """The sparse file that holds what is on the volume."""
        file = self._disks / volume_id
        if not file.exists():
            with open(file, "xb") as stream:
                stream.truncate(self.lab.volume(volume_id).size_gib * GIB)
        return file

    @property
    def result(self) -> dict[str, Any]:
        """The status that the last run left."""
        found: dict[str, Any] = json.loads(self.node.read(STATUS))
        return found

    def _plug(self, instance_id: str, volume_id: str, _device: str) -> None:
        if instance_id != self.id:
            return
        file = self.backing(volume_id)
        device = attach(file)
        # Mounted inside until the node ends: detached when nobody has it open.
        self._stack.callback(subprocess.run, ["losetup", "--detach", device])
        self.node.plug(os.path.basename(device), volume_id, device, file.stat().st_size)


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
