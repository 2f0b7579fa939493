"""The story API: volumes, instances that come and go, and what they have done.

    with Cloud(log=print) as cloud:
        data = cloud.volumes(3, tags=krkn(prefix="kafka", node_id=0, …))
        node = cloud.launch(tags=krkn(prefix="kafka", node_id=0), user_data=…)
        node.wait_ready()
        print(node.run("findmnt --real").out)
        node.terminate()

EC2's side is `tests.lab.ec2`, the metadata service `tests.lab.metadata`, an
instance's machine `tests.lab.machine`; this module ties them together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ec2 import Ec2Lab
from .image import (
    Image,
    LabError,
    Progress,
    base_image,
    ended_by_signals,
    in_use,
    installed_image,
    silent,
)
from .machine import Hardware, Machine
from .metadata import Facts, Metadata
from .qmp import Finished
from .world import ROOT_DEVICE, Busy

if TYPE_CHECKING:
    from .tls import Authority

METADATA_ADDRESS = "169.254.169.254:80"
ENDPOINT_ADDRESS = "169.254.42.1:80"
# What the guest uses as `kraken: {ec2: {endpoint_url: …}}`.
ENDPOINT_FOR_GUEST = "http://169.254.42.1"
# The same EC2 over TLS, for who looks for it under its real name.
DOOR_ADDRESS = "169.254.42.1:443"
CA_FILE = "/usr/local/share/ca-certificates/cc-kraken-lab.crt"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CHUNK = 1 << 20
GIB = 1 << 30


def krkn(namespace: str = "KRKN-IN", **values: object) -> dict[str, str]:
    """Tags: ``krkn(node_id=0)`` is ``{"KRKN-IN:NodeId": "0"}``."""
    return {
        f"{namespace}:{''.join(part.capitalize() for part in key.split('_'))}": str(
            value
        )
        for key, value in values.items()
    }


def cloud_config(content: Mapping[str, Any]) -> str:
    """User-data of a mapping."""
    import yaml  # type: ignore[import-untyped, unused-ignore]

    text: str = yaml.safe_dump(dict(content), sort_keys=False)
    return "#cloud-config\n" + text


class Cloud:
    """An EC2 of its own, and the instances in it, for as long as the block lasts.

    ``release``: the Debian release of the instances. ``installed`` False leaves
    cc_kraken out of their root disk. ``image``: instead of both, a root disk
    that is there already. ``direct``: the host's page cache has no part in the
    volumes. ``log`` is told what is happening, for
    people. All other arguments are those of `Ec2Lab` (``attach_seconds=2``, …).
    """

    def __init__(
        self,
        release: str = "bookworm",
        log: Progress = silent,
        *,
        installed: bool = True,
        image: Image | None = None,
        memory_mib: int = 1024,
        direct: bool = False,
        real_name: bool = False,
        **ec2: Any,
    ) -> None:
        ec2.setdefault("attach_seconds", 1.0)
        ec2.setdefault("detach_seconds", 0.5)
        ec2.setdefault("release_seconds", 3.0)
        self.ec2 = Ec2Lab(
            on_attach=self._on_attach,
            on_detach=self._on_detach,
            on_resize=self._on_resize,
            on_state=self._on_state,
            **ec2,
        )
        self.release = release
        self.log = log
        self.memory_mib = memory_mib
        self.direct = direct
        self.nodes: dict[str, Node] = {}
        self.endpoint_for_guest = ENDPOINT_FOR_GUEST
        self.authority: Authority | None = None
        self.forwards: dict[str, int] = {}
        self._real_name = real_name
        self._installed = installed
        self._image = image
        self._home: Path | None = None
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._plugging = threading.Lock()

    def __enter__(self) -> Cloud:
        with contextlib.ExitStack() as stack:
            stack.enter_context(ended_by_signals())
            if self._image is None:
                build = installed_image if self._installed else base_image
                self._image = build(self.release, self.log)
            stack.enter_context(in_use(self._image))
            # Short: unix sockets live in it, and their paths may have 107 bytes.
            self._home = Path(tempfile.mkdtemp(prefix="cc-lab-"))
            stack.callback(shutil.rmtree, self._home, ignore_errors=True)
            self.ec2.start()
            stack.callback(self.ec2.stop)
            self.forwards[ENDPOINT_ADDRESS] = self.ec2.port
            if self._real_name:
                from .tls import Authority

                self.authority = Authority()
                context = self.authority.server(self.ec2.host_name)
                self.forwards[DOOR_ADDRESS] = self.ec2.open_door(context)
            stack.callback(self._close_nodes)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            with contextlib.suppress(OSError):
                self._keep_logs()
        for error in self.ec2.hook_errors:
            self.log(f"a failure in the lab itself: {error}")
        self._stack.close()

    @property
    def home(self) -> Path:
        """The lab's own directory, gone at the end."""
        if self._home is None:
            raise LabError("the cloud is not there: use it in a with statement")
        return self._home

    @property
    def image(self) -> Image:
        """The root disk that instances start from."""
        if self._image is None:
            raise LabError("the cloud is not there: use it in a with statement")
        return self._image

    # Volumes

    def volume(
        self,
        size_gib: int = 1,
        tags: Mapping[str, str] | None = None,
        *,
        zone: str = "",
        **others: Any,
    ) -> str:
        """Create a volume, blank; its id. `others` as `Ec2Lab.create_volume`."""
        where = zone or self.ec2.zones[0]
        volume_id = self.ec2.create_volume(size_gib, where, tags, **others)
        self.backing(volume_id)
        return volume_id

    def volumes(
        self,
        count: int,
        size_gib: int = 1,
        tags: Mapping[str, str] | None = None,
        *,
        zone: str = "",
        **others: Any,
    ) -> list[str]:
        """Create `count` volumes that are alike; their ids."""
        return [self.volume(size_gib, tags, zone=zone, **others) for _ in range(count)]

    def copy(self, volume_id: str, tags: Mapping[str, str] | None = None) -> str:
        """A volume made from a snapshot of `volume_id` as it is now; its id.

        `tags`: the original's, if none are given (as backup tools do).
        """
        origin = self.ec2.volume(volume_id)
        chosen = origin.tags if tags is None else tags
        made = self.ec2.create_volume(
            origin.size_gib,
            origin.zone,
            chosen,
            snapshot_id=f"snap-{secrets.token_hex(8)}0",
        )
        source, target = str(self.backing(volume_id)), str(self.backing(made))
        subprocess.run(["cp", "--sparse=always", source, target], check=True)
        return made

    def backing(self, volume_id: str) -> Path:
        """The sparse file that holds what is on the volume."""
        path = self.home / f"{volume_id}.raw"
        with self._lock:
            if not path.exists():
                with open(path, "wb") as made:
                    made.truncate(self.ec2.volume(volume_id).size_gib * GIB)
        return path

    def backing_checksum(self, volume_id: str) -> str:
        """Digest of a volume's content: of its size and its non-zero MiBs.

        A hole and written zeros are the same, as they are for who reads.
        """
        digest = hashlib.sha256()
        with open(self.backing(volume_id), "rb") as volume:
            size = os.fstat(volume.fileno()).st_size
            digest.update(str(size).encode())
            for offset in _data_chunks(volume.fileno(), size):
                data = os.pread(volume.fileno(), CHUNK, offset)
                if data.count(0) != len(data):
                    digest.update(f"\0{offset}\0".encode())
                    digest.update(data)
        return digest.hexdigest()

    # Instances

    def launch(
        self,
        tags: Mapping[str, str] | None = None,
        user_data: str | bytes = "",
        *,
        zone: str = "",
        instance_type: str = "m5.large",
        metadata_tags: bool = True,
        metadata_tokens: bool = True,
        attached: Sequence[str] = (),
        kernel_options: Sequence[str] = (),
        image: Image | None = None,
    ) -> Node:
        """Run an instance; returns when it has power.

        ``metadata_tags`` False: the metadata service does not tell its tags;
        ``metadata_tokens`` False: it answers without a token, too.
        ``attached``: volumes that are attached before it has power.
        ``image``: another root disk than the cloud's own.
        """
        data = user_data.encode() if isinstance(user_data, str) else user_data
        where = zone or self.ec2.zones[0]
        instance_id = self.ec2.run_instance(instance_type, where, tags, user_data=data)
        node = Node(
            self, instance_id, metadata_tags, kernel_options, image or self.image
        )
        node.metadata.tokens_required = metadata_tokens
        self.nodes[instance_id] = node
        for number, volume_id in enumerate(attached):
            name = f"/dev/sd{chr(ord('f') + number)}"
            self.ec2.attach_volume(volume_id, instance_id, name)
            self._plug_in(node, volume_id, name)
        self.log(f"{instance_id}: power on ({where})")
        node.machine.power_on()
        return node

    def bake(self, node: Node) -> Image:
        """An image of the root disk of `node`, which may be running (CreateImage
        without a reboot)."""
        root = self.home / f"image-{secrets.token_hex(4)}.raw"
        self.log(f"{node.id}: an image is made of its root disk")
        node.machine.save(root)
        return replace(self.image, root=root)

    def config(self, section: Mapping[str, Any] | None = None, **others: Any) -> str:
        """A #cloud-config text with a `kraken` section that finds this EC2.

        `others` are further top-level keys: ``runcmd=[…]``.
        """
        return cloud_config({"kraken": self.section(section), **others})

    def section(self, section: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A `kraken` section with this EC2's endpoint in it."""
        made = dict(section or {})
        ec2 = {"endpoint_url": self.endpoint_for_guest, **made.get("ec2", {})}
        return {**made, "ec2": ec2}

    def wait_for(self, what: str, true: Any, seconds: float = 60) -> None:
        """Wait for a state of EC2; LabError when it does not come."""
        if not self.ec2.wait_until(true, seconds):
            raise LabError(f"waited {seconds:.0f} s for {what}")

    # What EC2 does to machines

    def _on_attach(self, instance_id: str, volume_id: str, device: str) -> None:
        node = self.nodes.get(instance_id)
        if node is not None:
            self._plug_in(node, volume_id, device)

    def _plug_in(self, node: Node, volume_id: str, device: str) -> None:
        """EC2 and who launches it may both come to do it."""
        with self._plugging:
            if volume_id not in node.machine.attached:
                self.log(f"{node.id}: {volume_id} is plugged in ({device})")
                node.machine.attach(volume_id, self.backing(volume_id))

    def _on_detach(self, instance_id: str, volume_id: str, device: str) -> None:
        node = self.nodes.get(instance_id)
        if node is None:
            return
        if not node.machine.detach(volume_id, timeout=10):
            raise Busy(f"{instance_id} has not let go of {volume_id} ({device})")
        self.log(f"{instance_id}: {volume_id} is unplugged")

    def _on_resize(self, volume_id: str, size_gib: int) -> None:
        # QEMU cannot resize what its NVMe controller has: the guest sees the
        # new size when the volume is attached again, or when it is booted.
        os.truncate(self.backing(volume_id), size_gib * GIB)

    def _on_state(self, instance_id: str, state: str) -> None:
        node = self.nodes.get(instance_id)
        if node is None:
            return  # it is being launched, and gets its power there
        if state == "running" and not node.machine.running:
            # Nothing is plugged in or unplugged while it is stopped.
            there = self.ec2.attached_to(instance_id)
            for volume_id in node.machine.attached:
                if volume_id not in [one.volume_id for one in there]:
                    node.machine.detach(volume_id)
            for one in there:
                if one.device != ROOT_DEVICE:
                    self._on_attach(instance_id, one.volume_id, one.device)
            node.machine.power_on()
        elif state == "stopping":
            node.machine.power_off()
        elif state == "shutting-down":
            if node.shuts_down:
                node.machine.power_off()
            node.machine.cut()
        elif state == "terminated":
            node.machine.cut()

    def _close_nodes(self) -> None:
        for node in self.nodes.values():
            node.close()

    def _keep_logs(self) -> None:
        """After a failure, put what the machines said where it can be read."""
        kept = Path(tempfile.mkdtemp(prefix="cc-lab-logs-"))
        found = [*self.home.glob("*/console-*.log"), *self.home.glob("*/qemu.log")]
        for path in found:
            shutil.copy2(path, kept / f"{path.parent.name}-{path.name}")
        if found:
            self.log(f"the consoles' logs are kept in {kept}")
        else:
            kept.rmdir()


class Node:
    """One instance, as a person sees it: from EC2, from its console, from inside."""

    def __init__(
        self,
        cloud: Cloud,
        instance_id: str,
        metadata_tags: bool,
        kernel_options: Sequence[str],
        image: Image,
    ) -> None:
        self.cloud = cloud
        self.id = instance_id
        self.shuts_down = False
        number = len(cloud.nodes) + 1
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        others: dict[str, Any] = {"mac": mac}
        if not metadata_tags:
            others["tags"] = None
        self.metadata = Metadata(Facts.of(cloud.ec2, instance_id, **others))
        self.metadata.start()
        root = next(
            one.volume_id
            for one in cloud.ec2.attached_to(instance_id)
            if one.device == ROOT_DEVICE
        )
        digits = instance_id.removeprefix("i-").rjust(17, "0")
        hardware = Hardware(
            instance_id=instance_id,
            uuid=f"ec2{digits[:5]}-{digits[5:9]}-4000-8000-{digits[5:17]}",
            mac=mac,
            root_serial=root.replace("-", ""),
            forwards={METADATA_ADDRESS: self.metadata.port, **cloud.forwards},
            memory_mib=cloud.memory_mib,
            direct=cloud.direct,
        )
        self.machine = Machine(
            cloud.home / f"n{number}",
            image,
            hardware,
            cloud.log,
            on_off=self._switched_off,
            kernel_options=kernel_options,
        )

    # Looking

    @property
    def state(self) -> str:
        """EC2's word for it: running, stopped, terminated, …"""
        return self.cloud.ec2.instance(self.id).state

    @property
    def console(self) -> str:
        """What the current (or last) boot has written to the serial console."""
        return self.machine.console.read_text(errors="replace")

    def wait_ready(self, timeout: float = 1800) -> dict[str, Any]:
        """Wait for the end of cloud-init; its status.json (`v1`), and `result`."""
        begun = time.monotonic()
        status = self.machine.wait_for_boot(timeout)
        took = time.monotonic() - begun
        self.cloud.log(f"{self.id}: cloud-init is done, waited {took:.0f} s")
        return status

    def wait_reachable(self, timeout: float = 900) -> None:
        """Wait until commands can be run inside; the boot may be far from done."""
        self.machine.wait_for_agent(timeout)

    def run(
        self, command: str | Sequence[str], timeout: float = 600, check: bool = False
    ) -> Finished:
        """Run a shell line (string) or program (sequence) inside, as root."""
        return self.machine.run(command, timeout, check)

    def read_file(self, path: str) -> str:
        """The text of a file inside."""
        return self.machine.read_file(path)

    def write_file(self, path: str, text: str) -> None:
        """Make a file inside, with its directories."""
        self.machine.write_file(path, text)

    def journal(self, *options: str) -> str:
        """This boot's journal; `options` are journalctl's."""
        return self.machine.journal(*options)

    def serials(self) -> dict[str, str]:
        """The NVMe disks inside: serial to device name, the root disk's too."""
        script = (
            "for d in /sys/block/nvme*n*; do "
            'echo "$(cat $d/device/serial) ${d##*/}"; done'
        )
        lines = self.run(script, check=True).out.splitlines()
        return {serial: name for serial, name in (line.split() for line in lines)}

    def wait_for_disks(self, *volume_ids: str, timeout: float = 300) -> None:
        """Wait until the kernel inside knows the volumes' disks."""
        wanted = {volume_id.replace("-", "") for volume_id in volume_ids}
        until = time.monotonic() + timeout
        while wanted - set(self.serials()):
            if time.monotonic() > until:
                absent = ", ".join(sorted(wanted - set(self.serials())))
                raise LabError(f"{self.id} does not see {absent}")
            time.sleep(0.2)

    def calls(self, since: int = 0) -> Counter[str]:
        """How many calls of the API it has made, by action.

        `since` is a ``cloud.ec2.calls.mark()``.
        """
        return self.cloud.ec2.calls.counts(since, self.id)

    # Doing

    def kraken(
        self, section: Mapping[str, Any], *arguments: str, timeout: float = 1200
    ) -> Finished:
        """Run ``cc-kraken apply`` with `section` from a file in conf.d.

        `arguments` instead of ``apply``: ``node.kraken({}, "plan")``.
        """
        import yaml  # type: ignore[import-untyped, unused-ignore]

        text = yaml.safe_dump({"kraken": self.cloud.section(section)})
        self.write_file("/etc/cc-kraken/conf.d/50-lab.yaml", text)
        return self.run(["cc-kraken", *(arguments or ("apply",))], timeout)

    def know_real_name(self) -> None:
        """The instance finds EC2 under its real name, and believes that it is
        EC2: a line in /etc/hosts, and the lab's authority among the others."""
        if self.cloud.authority is None:
            raise LabError("the cloud has no door for it: Cloud(real_name=True)")
        address = DOOR_ADDRESS.partition(":")[0]
        hosts = self.read_file("/etc/hosts")
        line = f"{address} {self.cloud.ec2.host_name}\n"
        self.write_file("/etc/hosts", hosts + line)
        self.write_file(CA_FILE, self.cloud.authority.pem)
        self.run(["update-ca-certificates"], check=True)

    def attach(self, volume_id: str, device: str = "/dev/sdf") -> None:
        """Somebody attaches a volume by hand (AttachVolume from outside)."""
        self.cloud.ec2.client().attach_volume(
            VolumeId=volume_id, InstanceId=self.id, Device=device
        )

    def detach(self, volume_id: str) -> None:
        """Somebody detaches a volume by hand (DetachVolume from outside)."""
        self.cloud.ec2.client().detach_volume(VolumeId=volume_id, InstanceId=self.id)

    # Power

    def reboot(self, timeout: float = 900) -> None:
        """``reboot`` inside; returns when the next boot has begun."""
        self.cloud.log(f"{self.id}: reboot")
        self.machine.reboot(timeout)

    def cut(self) -> None:
        """The power goes away, and nobody has noticed: EC2 says running."""
        self.cloud.log(f"{self.id}: power cut")
        self.machine.cut()

    def power_on(self) -> None:
        """The power is back after a `cut`, with all that is attached."""
        self.cloud.log(f"{self.id}: power on")
        self.machine.power_on()

    def stop(self, timeout: float = 900) -> None:
        """StopInstances: an orderly shutdown; the volumes stay attached."""
        self.cloud.log(f"{self.id}: stop")
        self.cloud.ec2.stop_instance(self.id)
        self._until_off("stopped", timeout)

    def start(self) -> None:
        """StartInstances."""
        self.cloud.log(f"{self.id}: start")
        self.cloud.ec2.start_instance(self.id)
        until = time.monotonic() + 60
        while not self.machine.running:
            if time.monotonic() > until:
                raise LabError(f"{self.id} has not got its power within 60 s")
            time.sleep(0.1)

    def terminate(
        self,
        shutdown: bool = False,
        delay: float | None = None,
        release: float | None = None,
    ) -> None:
        """TerminateInstances; returns when it is off and "terminated".

        Abrupt, unless `shutdown` presses its power button first. The volumes
        are released `release` seconds later (default: the cloud's
        ``release_seconds``); `delay`: how long it is "shutting-down".
        """
        how = "after a shutdown" if shutdown else "abruptly"
        self.cloud.log(f"{self.id}: terminate, {how}")
        self.shuts_down = shutdown
        self.cloud.ec2.terminate_instance(self.id, delay, release)
        self._until_off("terminated", 900 + (delay or 0))
        self.machine.close()

    def wait_released(self, *volume_ids: str, timeout: float = 300) -> None:
        """Wait until EC2 has taken the volumes from this instance."""

        def free() -> bool:
            return not any(
                one.instance_id == self.id
                for volume_id in volume_ids
                for one in self.cloud.ec2.volume(volume_id).attachments
            )

        self.cloud.wait_for("the volumes to be released", free, timeout)

    def close(self) -> None:
        """End the machine and its metadata service."""
        self.machine.close()
        self.metadata.stop()

    def _switched_off(self) -> None:
        """It was shut down from inside: EC2 makes that a stop."""
        self.cloud.ec2.stop_instance(self.id)

    def _until_off(self, state: str, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self.machine.running or self.state != state:
            if time.monotonic() > until:
                raise LabError(
                    f"{self.id} is not off and {state} within {timeout:.0f} s "
                    f"({self.state}):\n{self.machine.tail()}"
                )
            time.sleep(0.1)


def _data_chunks(descriptor: int, size: int) -> Iterator[int]:
    """Offsets of the chunks in which the file has data."""
    offset = 0
    while offset < size:
        try:
            found = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        offset = found // CHUNK * CHUNK
        yield offset
        offset += CHUNK
