"""What EC2 is: volumes, instances and attachments that change over time.

Each change checks what EC2 checks and refuses with EC2's code and text
(Ec2Error).  Time comes from a clock; hooks join it to a data path (a
hypervisor).  How EC2 is asked is tests.lab.ec2.
"""

from __future__ import annotations

import copy
import hashlib
import random
import re
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Callable,
    Optional,
)

from tests.lab import instance_types
from tests.lab.clock import Clock, RealClock
from tests.lab.query import Ec2Error

ROLE = "kraken-node"
ROOT_DEVICE = "/dev/xvda"
IMAGE = "ami-0123456789abcdef0"

# "Device names for volumes" in the user guide, and what the EBS CSI driver
# found to be accepted beyond it (up to xvddx).  HVM: digits on sda alone.
DEVICE_NAME = re.compile(r"(/dev/)?(sd[b-z]|sda[12]?|xvd[a-z]|xvd[a-c][a-z]|xvdd[a-x])")

STATE_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}


class Busy(Exception):
    """Raised by ``on_detach`` while the guest still uses the disk."""


# -------------------------------------------------------------------- state


@dataclass
class Attachment:
    volume_id: str
    instance_id: str
    device: str
    state: str
    attach_time: float
    delete_on_termination: bool = False
    card: int = 0


@dataclass
class Modification:
    """A ModifyVolume under way or done; sizes in GiB."""

    state: str
    original_size: int
    target_size: int
    start_time: float
    end_time: Optional[float] = None


@dataclass
class Volume:
    id: str
    size_gib: int
    zone: str
    state: str
    create_time: float
    tags: dict[str, str] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    snapshot_id: str = ""
    source_volume_id: str = ""
    type: str = "gp3"
    iops: Optional[int] = None
    throughput: Optional[int] = None
    encrypted: bool = False
    kms_key_id: str = ""
    multi_attach: bool = False
    managed: bool = False
    modification: Optional[Modification] = None


@dataclass
class Snapshot:
    id: str
    volume_id: str
    size_gib: int
    start_time: float
    state: str = "completed"
    encrypted: bool = False
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Instance:
    id: str
    type: str
    zone: str
    state: str
    launch_time: float
    reservation_id: str
    private_ip: str
    tags: dict[str, str] = field(default_factory=dict)
    image_id: str = IMAGE
    user_data: bytes = b""
    profile: str = ""
    key_name: str = ""
    metadata_options: Mapping[str, str] = field(default_factory=dict)
    root_device: str = ROOT_DEVICE
    hidden_devices: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Past:
    """How a resource was until ``until``; ``mapping``: an instance's
    attachments."""

    until: float
    resource: Any
    mapping: tuple[Attachment, ...] = ()


PAST_KEPT = 16
GONE_KEPT = 600.0
"""Seconds for which a volume that is gone is known to old answers."""

# -------------------------------------------------------------------- world


class World:
    """One account in one region.

    All ``*_seconds`` are times on ``clock``: volume creation, attach,
    detach, pending to running, stopping, shutting-down to terminated,
    terminated to volumes released, ModifyVolume to the new size, and from
    there to completed.  ``error_seconds``: how long a volume that could not be
    created is shown in the state error before it is gone.  ``tag_seconds``: tags
    that are given at creation are there so much later.  ``profile_seconds``: from
    the launch to the moment when the metadata service knows the instance's role.

    Hooks, each called in a thread of its own, one after another for one
    volume or instance: ``on_attach(instance_id, volume_id, device)`` when the
    disk is to appear in a running instance; the attachment is ``attached``
    when that has returned and ``attach_seconds`` have passed.  ``on_detach``
    (same arguments) takes it away, and may raise Busy: state ``busy``, tried
    again every second.  ``on_resize(volume_id, size_gib)``;
    ``on_copy(volume_id, source_id)`` when a volume is made of a snapshot or of
    another volume, ``on_copy(snapshot_id, volume_id)`` when a snapshot is made;
    ``on_state(instance_id, state)`` at each state that an instance enters.  A
    hook that raises leaves things as they are for ever, and is listed in
    ``hook_errors``.
    """

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        zones: Sequence[str] = (),
        clock: Optional[Clock] = None,
        create_seconds: float = 0.0,
        error_seconds: float = 0.0,
        attach_seconds: float = 0.0,
        detach_seconds: float = 0.0,
        pending_seconds: float = 0.0,
        stop_seconds: float = 0.0,
        terminate_seconds: float = 0.0,
        release_seconds: float = 0.0,
        modify_seconds: float = 0.0,
        optimize_seconds: float = 0.0,
        tag_seconds: float = 0.0,
        profile_seconds: float = 0.0,
        on_attach: Optional[Callable[[str, str, str], None]] = None,
        on_detach: Optional[Callable[[str, str, str], None]] = None,
        on_resize: Optional[Callable[[str, int], None]] = None,
        on_copy: Optional[Callable[[str, str], None]] = None,
        on_state: Optional[Callable[[str, str], None]] = None,
    ) -> None:
        self.region = region
        self.zones = tuple(zones) or tuple(region + letter for letter in "abc")
        self.clock = clock or RealClock()
        self.create_seconds = create_seconds
        self.error_seconds = error_seconds
        self.attach_seconds = attach_seconds
        self.detach_seconds = detach_seconds
        self.pending_seconds = pending_seconds
        self.stop_seconds = stop_seconds
        self.terminate_seconds = terminate_seconds
        self.release_seconds = release_seconds
        self.modify_seconds = modify_seconds
        self.optimize_seconds = optimize_seconds
        self.tag_seconds = tag_seconds
        self.profile_seconds = profile_seconds
        self.on_attach = on_attach
        self.on_detach = on_detach
        self.on_resize = on_resize
        self.on_copy = on_copy
        self.on_state = on_state

        self.hook_errors: list[str] = []
        self.attachment_limits: dict[str, int] = {}
        self.storage_limits: dict[str, int] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._volumes: dict[str, Volume] = {}
        self._gone: dict[str, tuple[Volume, float]] = {}
        self._instances: dict[str, Instance] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._by_instance: dict[str, list[Attachment]] = {}
        self._by_tag: Optional[dict[tuple[str, str], list[Volume]]] = None
        self._tagged_at = 0.0
        self._past: dict[str, list[Past]] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._expired: set[str] = set()
        self._generation: dict[str, int] = {}
        self._stuck: set[str] = set()
        self._keyless: set[str] = set()
        self._no_keys: set[str] = set()
        self._failing = 0
        self._taken_back: dict[str, list[float]] = {}
        self._in_use: set[str] = set()
        self._hooks: dict[str, deque[Callable[[], None]]] = {}

    def wait_until(self, true: Callable[[], bool], seconds: float = 30.0) -> bool:
        """Wait (real time) for a change of state that makes ``true`` true."""
        with self._changed:
            return self._changed.wait_for(true, seconds)

    # ------------------------------------- what a person or a test can do

    def create_volume(
        self,
        size_gib: int,
        zone: str,
        tags: Optional[Mapping[str, str]] = None,
        *,
        snapshot_id: str = "",
        source_volume_id: str = "",
        volume_type: str = "gp3",
        encrypted: bool = False,
        kms_key_id: str = "",
        iops: Optional[int] = None,
        throughput: Optional[int] = None,
        multi_attach: bool = False,
        managed: bool = False,
        checks_key: bool = False,
    ) -> str:
        """A new volume; its id (vol- and 17 hexadecimal digits).

        ``checks_key``: it ends in error where ``refuse_creation`` says so.
        """
        with self._changed:
            self._check_zone(zone)
            volume = Volume(
                id=new_id("vol"),
                size_gib=size_gib,
                zone=zone,
                state="creating",
                create_time=self.clock.now(),
                snapshot_id=snapshot_id,
                source_volume_id=source_volume_id,
                type=volume_type,
                iops=iops,
                throughput=throughput,
                encrypted=encrypted,
                kms_key_id=kms_key_id,
                multi_attach=multi_attach,
                managed=managed,
            )
            self._volumes[volume.id] = volume
            self._past[volume.id] = [Past(volume.create_time, None)]
            self._tag_at_creation(volume, tags or {})
            fill: Optional[Callable[[], None]] = None
            source = snapshot_id or source_volume_id
            if self.on_copy is not None and source:
                copied = self.on_copy

                def fill() -> None:
                    copied(volume.id, source)

            then = self._created
            if checks_key and encrypted and self._key_fails(kms_key_id):
                then = self._not_created
            self._when_both(self.create_seconds, volume.id, fill, lambda: then(volume))
            return volume.id

    def create_snapshot(
        self, volume_id: str, tags: Optional[Mapping[str, str]] = None
    ) -> str:
        """A snapshot of the volume as it is now; its id."""
        with self._changed:
            volume = self._volume(volume_id)
            snapshot = Snapshot(
                id=new_id("snap"),
                volume_id=volume_id,
                size_gib=volume.size_gib,
                start_time=self.clock.now(),
                encrypted=volume.encrypted,
                state="pending",
                tags=dict(tags or {}),
            )
            self._snapshots[snapshot.id] = snapshot
            keep: Optional[Callable[[], None]] = None
            if self.on_copy is not None:
                copied = self.on_copy

                def keep() -> None:
                    copied(snapshot.id, volume_id)

            def completed() -> None:
                snapshot.state = "completed"

            self._when_both(self.create_seconds, snapshot.id, keep, completed)
            return snapshot.id

    def delete_volume(self, volume_id: str) -> None:
        with self._changed:
            volume = self._volume(volume_id)
            if volume.attachments:
                holder = volume.attachments[0].instance_id
                raise Ec2Error(
                    "VolumeInUse",
                    f"Volume {volume_id} is currently attached to {holder}",
                )
            self._forget(volume_id)
            self._changed.notify_all()

    def resize_volume(self, volume_id: str, size_gib: int) -> None:
        """What ModifyVolume does."""
        with self._changed:
            self._modify(self._volume(volume_id), size_gib)

    def run_instance(
        self,
        instance_type: str = "m5.large",
        zone: str = "",
        tags: Optional[Mapping[str, str]] = None,
        *,
        user_data: bytes = b"",
        root_size_gib: int = 8,
        root_delete_on_termination: bool = True,
    ) -> str:
        """A new instance with its root volume; its id."""
        with self._changed:
            return self._launch(
                instance_type,
                zone or self.zones[0],
                tags or {},
                new_id("r"),
                user_data=user_data,
                root_size_gib=root_size_gib,
                root_delete=root_delete_on_termination,
            ).id

    def stop_instance(self, instance_id: str) -> None:
        with self._changed:
            self._stop(self._instance(instance_id))

    def start_instance(self, instance_id: str) -> None:
        with self._changed:
            self._start(self._instance(instance_id))

    def terminate_instance(
        self,
        instance_id: str,
        delay: Optional[float] = None,
        release: Optional[float] = None,
    ) -> None:
        """``delay``: seconds shutting down; ``release``: seconds from
        terminated to volumes detached."""
        with self._changed:
            self._terminate(self._instance(instance_id), delay, release)

    def forget_instance(self, instance_id: str) -> None:
        """A terminated instance is no longer shown (an hour later in EC2)."""
        with self._changed:
            if self._instance(instance_id).state != "terminated":
                raise ValueError(f"{instance_id} is not terminated")
            del self._instances[instance_id]
            self._past.pop(instance_id, None)
            self._changed.notify_all()

    def attach_volume(self, volume_id: str, instance_id: str, device: str) -> None:
        """What AttachVolume does, without a call of the API."""
        with self._changed:
            self._attach(volume_id, instance_id, device)

    def detach_volume(self, volume_id: str, instance_id: str = "") -> None:
        with self._changed:
            self._detach(volume_id, instance_id, "")

    def tag(self, resource_id: str, tags: Mapping[str, str]) -> None:
        with self._changed:
            self._tagging(resource_id).update(tags)
            self._changed.notify_all()

    def tag_later(
        self, resource_id: str, tags: Mapping[str, str], seconds: float
    ) -> None:
        """Tags that are there in ``seconds`` on the clock."""
        with self._changed:
            self._tags_of(resource_id)
            self._after(seconds, lambda: self._tagging(resource_id).update(tags))

    def untag(self, resource_id: str, *keys: str) -> None:
        with self._changed:
            for key in keys:
                self._tagging(resource_id).pop(key, None)
            self._changed.notify_all()

    def hide_device(self, instance_id: str, device: str) -> None:
        """Occupy a name that DescribeInstances does not show (an AMI's
        mapping)."""
        with self._lock:
            self._instance(instance_id).hidden_devices.add(_bare(device))

    def hold_attaching(self, volume_id: str) -> None:
        """The next attachment of this volume stays "attaching" for ever."""
        with self._lock:
            self._stuck.add(volume_id)

    def take_back_attaching(self, volume_id: str, seconds: float = 5.0) -> None:
        """The next attachment of this volume is accepted, and gone again after
        ``seconds``: how EC2 answers late that it cannot be (a KMS key that is
        being disabled, for one)."""
        with self._lock:
            self._taken_back.setdefault(volume_id, []).append(seconds)

    def hold_busy(self, volume_id: str) -> None:
        """The system of the instance that has the volume does not let go of it:
        once detached it is ``detaching`` for ``detach_seconds``, and then
        ``busy`` until ``let_go``."""
        with self._lock:
            self._in_use.add(volume_id)

    def let_go(self, volume_id: str) -> None:
        with self._lock:
            self._in_use.discard(volume_id)

    def refuse_key(self, volume_id: str) -> None:
        """The KMS key of this (now encrypted) volume cannot be used."""
        with self._lock:
            self._volume(volume_id).encrypted = True
            self._keyless.add(volume_id)

    def permit_key(self, volume_id: str) -> None:
        with self._lock:
            self._keyless.discard(volume_id)

    def refuse_creation(self, kms_key_id: str = "", volumes: int = 1) -> None:
        """Volumes that are created encrypted end in error, and their client tokens
        are burned: all with this KMS key (its ARN), or else the next ``volumes``."""
        with self._lock:
            if kms_key_id:
                self._no_keys.add(kms_key_id)
            else:
                self._failing += volumes

    def permit_creation(self) -> None:
        with self._lock:
            self._no_keys.clear()
            self._failing = 0

    def limit_storage(self, volume_type: str, gib: int) -> None:
        """The account's limit for all volumes of a type together."""
        with self._lock:
            self.storage_limits[volume_type] = gib

    def lift_storage(self, volume_type: str) -> None:
        with self._lock:
            self.storage_limits.pop(volume_type, None)

    def set_delete_on_termination(self, volume_id: str, value: bool) -> None:
        with self._lock:
            for attachment in self._volume(volume_id).attachments:
                attachment.delete_on_termination = value

    def volume(self, volume_id: str) -> Volume:
        """A copy: how the volume stands now."""
        with self._lock:
            return copy.deepcopy(self._volume(volume_id))

    def instance(self, instance_id: str) -> Instance:
        """A copy: how the instance stands now."""
        with self._lock:
            return copy.deepcopy(self._instance(instance_id))

    def volumes(self) -> list[Volume]:
        with self._lock:
            return copy.deepcopy(list(self._volumes.values()))

    def attached_to(self, instance_id: str) -> list[Attachment]:
        """The attachments of an instance, its root volume's too."""
        with self._lock:
            return copy.deepcopy(self._attachments(instance_id))

    def device_of(self, volume_id: str) -> str:
        """The name that it is attached under; what an instance reads in the
        vendor data of the volume's NVMe controller."""
        with self._lock:
            held = self._volume(volume_id).attachments
            return held[0].device if held else ""

    def credentials(self, instance_id: str) -> dict[str, str]:
        """Keys of the instance's role; calls signed with them are logged
        with the instance id, and need the session token."""
        with self._lock:
            self._instance(instance_id)
            seed = f"{instance_id} {self._generation.get(instance_id, 0)}"
            digest = hashlib.sha256(seed.encode()).hexdigest()
            key = "ASIA" + digest[:16].upper()
            token = f"session-{digest[:40]}"
            self._keys[key] = (instance_id, token)
            return {
                "AccessKeyId": key,
                "SecretAccessKey": digest[:40],
                "Token": token,
            }

    def role(self, instance_id: str) -> str:
        """The role of the instance's profile; "" while it has not arrived."""
        with self._lock:
            since = self.clock.now() - self._instance(instance_id).launch_time
            return ROLE if since >= self.profile_seconds else ""

    def expire_credentials(self, instance_id: str) -> None:
        """What ``credentials`` has handed out so far is expired; the next
        ones are good."""
        with self._lock:
            self._expired.add(self.credentials(instance_id)["AccessKeyId"])
            self.renew_credentials(instance_id)

    def renew_credentials(self, instance_id: str) -> None:
        """``credentials`` hands out others from now on, as when the instance gets
        another profile; those before are good still."""
        with self._lock:
            self._generation[instance_id] = self._generation.get(instance_id, 0) + 1

    # ---------------------------------------------------------- small tools

    def _note(self, resource: Any) -> None:
        """Keep how a volume or an instance is, right before it changes."""
        past = self._past.setdefault(resource.id, [])
        if isinstance(resource, Volume):
            kept = replace(
                resource,
                tags=dict(resource.tags),
                attachments=[copy.copy(one) for one in resource.attachments],
            )
            past.append(Past(self.clock.now(), kept))
        else:
            mapping = tuple(copy.copy(one) for one in self._attachments(resource.id))
            kept_instance = replace(resource, tags=dict(resource.tags))
            past.append(Past(self.clock.now(), kept_instance, mapping))
        if len(past) > PAST_KEPT:
            del past[0]

    def _forget(self, volume_id: str) -> None:
        """It is gone; answers that are old show it still."""
        now = self.clock.now()
        for old in [one for one, (_, at) in self._gone.items() if now - at > GONE_KEPT]:
            del self._gone[old]
            self._past.pop(old, None)
        self._note(self._volumes[volume_id])
        volume = self._volumes.pop(volume_id)
        self._gone[volume_id] = volume, now
        self._by_tag, self._tagged_at = None, now

    def _as_of(self, resource_id: str, moment: float) -> Optional[Past]:
        """How it was at ``moment``; None: as it is now.  Past.resource None:
        it was not there yet."""
        for past in self._past.get(resource_id, ()):
            if past.until > moment:
                return past
        return None

    def _tagging(self, resource_id: str) -> dict[str, str]:
        """The tags of a resource, about to be changed."""
        tags = self._tags_of(resource_id)
        if resource_id in self._volumes:
            self._note(self._volumes[resource_id])
        elif resource_id in self._instances:
            self._note(self._instances[resource_id])
        self._by_tag, self._tagged_at = None, self.clock.now()
        return tags

    def _tag_at_creation(self, resource: Any, tags: Mapping[str, str]) -> None:
        if isinstance(resource, Volume):
            self._by_tag, self._tagged_at = None, self.clock.now()
        if self.tag_seconds <= 0:
            resource.tags.update(tags)
        elif tags:
            self.tag_later(resource.id, tags, self.tag_seconds)

    def _tagged(self, key: str, value: str) -> list[Volume]:
        """The volumes with a tag of just this value."""
        if self._by_tag is None:
            self._by_tag = {}
            for volume in self._volumes.values():
                for item in volume.tags.items():
                    self._by_tag.setdefault(item, []).append(volume)
        return self._by_tag.get((key, value), [])

    def _when_both(
        self,
        seconds: float,
        subject: str,
        hook: Optional[Callable[[], None]],
        then: Callable[[], None],
    ) -> None:
        """``then`` when the time is over and the hook has returned."""
        missing = {"time", "hook"}

        def arrived(what: str) -> None:
            missing.discard(what)
            if not missing:
                then()

        self._after(seconds, lambda: arrived("time"))
        self._hook(subject, hook, lambda: arrived("hook"))

    def _after(self, seconds: float, function: Callable[[], None]) -> None:
        """Do it later on the clock; at once when there is nothing to wait."""

        def locked() -> None:
            with self._changed:
                function()
                self._changed.notify_all()

        if seconds <= 0:
            locked()
        else:
            self.clock.later(seconds, locked)

    def _hook(
        self,
        subject: str,
        hook: Optional[Callable[[], None]],
        then: Callable[[], None],
        busy: Callable[[], None] = lambda: None,
    ) -> None:
        """Call ``hook`` in a thread and ``then`` (locked) when it returned;
        the hooks of one subject run one after another."""
        if hook is None:
            hook = _nothing
        if hook is _nothing and subject not in self._hooks:
            self._after(0, then)
            return
        waiting = self._hooks.get(subject)
        task = _Task(self, subject, hook, then, busy)
        if waiting is not None:
            waiting.append(task.run)
            return
        self._hooks[subject] = deque([task.run])
        self.clock.spawn(lambda: self._run_hooks(subject))

    def _run_hooks(self, subject: str) -> None:
        while True:
            with self._lock:
                waiting = self._hooks[subject]
                if not waiting:
                    del self._hooks[subject]
                    return
                run = waiting.popleft()
            run()

    def _volume(self, volume_id: str) -> Volume:
        if not re.fullmatch(r"vol-[0-9a-f]{8}([0-9a-f]{9})?", volume_id):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({volume_id}) for parameter volumeId is invalid. "
                "Expected: 'vol-...'.",
            )
        if volume_id not in self._volumes:
            raise Ec2Error(
                "InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist."
            )
        return self._volumes[volume_id]

    def _instance(self, instance_id: str) -> Instance:
        if not re.fullmatch(r"i-[0-9a-f]{8}([0-9a-f]{9})?", instance_id):
            raise Ec2Error(
                "InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"'
            )
        if instance_id not in self._instances:
            raise Ec2Error(
                "InvalidInstanceID.NotFound",
                f"The instance ID '{instance_id}' does not exist",
            )
        return self._instances[instance_id]

    def _tags_of(self, resource_id: str) -> dict[str, str]:
        if resource_id.startswith("vol-"):
            return self._volume(resource_id).tags
        if resource_id.startswith("i-"):
            return self._instance(resource_id).tags
        if resource_id.startswith("snap-"):
            return self._snapshot(resource_id).tags
        raise Ec2Error("InvalidID", f"The ID '{resource_id}' is not valid")

    def _snapshot(self, snapshot_id: str) -> Snapshot:
        if snapshot_id not in self._snapshots:
            raise Ec2Error(
                "InvalidSnapshot.NotFound",
                f"The snapshot '{snapshot_id}' does not exist.",
            )
        return self._snapshots[snapshot_id]

    def _attachments(self, instance_id: str) -> list[Attachment]:
        return list(self._by_instance.get(instance_id, ()))

    def _check_zone(self, zone: str) -> None:
        if zone not in self.zones:
            raise Ec2Error("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")

    def subnet(self, zone: str) -> str:
        """The id of the zone's default subnet."""
        digest = hashlib.sha256(f"subnet of {zone}".encode()).hexdigest()
        return f"subnet-0{digest[:16]}"

    def _zone_of_subnet(self, subnet: str) -> str:
        for zone in self.zones:
            if self.subnet(zone) == subnet:
                return zone
        raise Ec2Error(
            "InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist"
        )

    def _zone_id(self, zone: str) -> str:
        """us-east-1a is use1-az1 here; in EC2 it differs by account."""
        area, direction, number = self.region.rsplit("-", 2)
        short = f"{area}{direction[0]}{number}"
        return f"{short}-az{self.zones.index(zone) + 1}"

    # ------------------------------------------------------------- volumes

    def _created(self, volume: Volume) -> None:
        if volume.state == "creating":
            self._note(volume)
            volume.state = "available"

    def _key_fails(self, kms_key_id: str) -> bool:
        if kms_key_id in self._no_keys:
            return True
        if self._failing:
            self._failing -= 1
            return True
        return False

    def _not_created(self, volume: Volume) -> None:
        """KMS has refused: EC2 takes the volume back a while later."""
        if volume.state == "creating":
            self._note(volume)
            volume.state = "error"
            self._after(self.error_seconds, lambda: self._take_back(volume.id))

    def _take_back(self, volume_id: str) -> None:
        if volume_id in self._volumes:  # nobody was quicker
            self._forget(volume_id)

    def _attach(
        self, volume_id: str, instance_id: str, device: str, card: int = 0
    ) -> Attachment:
        """Checks in EC2's order; then "attaching", and what follows."""
        bare = _bare(device)
        if not DEVICE_NAME.fullmatch(device):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({device}) for parameter device is invalid. "
                f"{device} is not a valid EBS device name.",
            )
        volume = self._volume(volume_id)
        instance = self._instance(instance_id)
        self._check_attachable(volume, instance)
        used = {_bare(one.device) for one in self._attachments(instance_id)}
        if bare in used or bare in instance.hidden_devices:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Invalid value '{device}' for unixDevice. "
                f"Attachment point {device} is already in use",
            )
        limit = self._attachment_limit(instance.type)
        if len(used) >= limit:
            raise Ec2Error(
                "AttachmentLimitExceeded",
                f"You may attach up to {limit} devices for this instance type. "
                "Please use a larger instance size to attach more volumes.",
            )
        if not 0 <= card < instance_types.get(instance.type).cards:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({card}) for parameter ebsCardIndex is invalid.",
            )
        self._note(volume)
        self._note(instance)
        moment = self.clock.now()
        attachment = Attachment(
            volume_id, instance_id, device, "attaching", moment, card=card
        )
        volume.attachments.append(attachment)
        self._by_instance.setdefault(instance_id, []).append(attachment)
        volume.state = "in-use"
        self._changed.notify_all()
        answer = copy.copy(attachment)
        self._begin_attach(instance, attachment)
        return answer

    def _check_attachable(self, volume: Volume, instance: Instance) -> None:
        if volume.zone != instance.zone:
            raise Ec2Error(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume.id}' is not in the same availability zone "
                f"as instance '{instance.id}'",
            )
        holders = [one.instance_id for one in volume.attachments]
        if holders and (not volume.multi_attach or instance.id in holders):
            raise Ec2Error(
                "VolumeInUse", f"{volume.id} is already attached to an instance"
            )
        if volume.state not in ("available", "in-use"):
            raise Ec2Error("IncorrectState", f"{volume.id} is not 'available'.")
        if instance.state not in ("running", "stopped"):
            raise Ec2Error(
                "IncorrectState", f"Instance '{instance.id}' is not 'running'."
            )
        change = volume.modification
        if change is not None and change.state == "modifying":
            raise Ec2Error(
                "OperationNotPermitted",
                f"Cannot attach volume {volume.id} when it is in modification "
                "state: MODIFYING",
            )
        if volume.id in self._keyless:
            raise Ec2Error(
                "CustomerKeyHasBeenRevoked",
                f"Volume {volume.id} cannot be attached. The encrypted volume was "
                "unable to access the KMS master key.",
            )

    def _begin_attach(self, instance: Instance, attachment: Attachment) -> None:
        if attachment.volume_id in self._stuck:
            self._stuck.discard(attachment.volume_id)
            return
        volume = self._volumes[attachment.volume_id]
        taken_back = self._taken_back.get(volume.id)
        if taken_back:
            seconds = taken_back.pop(0)
            self._after(seconds, lambda: self._release(volume, attachment))
            return

        def attached() -> None:
            if attachment.state == "attaching":
                self._note(volume)
                self._note(instance)
                attachment.state = "attached"

        plug = self._disk_hook(self.on_attach, attachment)
        if instance.state == "stopped":
            plug = None
        self._when_both(self.attach_seconds, volume.id, plug, attached)

    def _disk_hook(
        self, hook: Optional[Callable[[str, str, str], None]], one: Attachment
    ) -> Optional[Callable[[], None]]:
        if hook is None:
            return None
        call = hook
        return lambda: call(one.instance_id, one.volume_id, one.device)

    def _detach(self, volume_id: str, instance_id: str, device: str) -> Attachment:
        volume = self._volume(volume_id)
        if instance_id:
            self._instance(instance_id)
        if not volume.attachments:
            raise Ec2Error(
                "IncorrectState",
                f"Volume '{volume_id}' is in the '{volume.state}' state.",
            )
        if not instance_id and len(volume.attachments) > 1:
            raise Ec2Error(
                "InvalidParameterCombination",
                f"The volume '{volume_id}' has several attachments; "
                "an instance ID must be specified.",
            )
        for attachment in volume.attachments:
            if instance_id in ("", attachment.instance_id) and (
                device in ("", attachment.device)
            ):
                return self._begin_detach(volume, attachment)
        raise Ec2Error(
            "InvalidAttachment.NotFound",
            f"The volume '{volume_id}' is not attached to instance '{instance_id}'"
            + (f" as device '{device}'." if device else "."),
        )

    def _begin_detach(self, volume: Volume, attachment: Attachment) -> Attachment:
        instance = self._instances[attachment.instance_id]
        if attachment.device == instance.root_device and instance.state != "stopped":
            raise Ec2Error(
                "OperationNotPermitted",
                f"Unable to detach root volume '{volume.id}' from instance "
                f"'{instance.id}'",
            )
        if attachment.state in ("detaching", "busy"):
            return copy.copy(attachment)
        self._note(volume)
        self._note(instance)
        attachment.state = "detaching"
        self._changed.notify_all()
        answer = copy.copy(attachment)
        missing = {"time", "disk"}

        def gone(what: str) -> None:
            missing.discard(what)
            if missing:
                return
            if volume.id in self._in_use:
                attachment.state = "busy"
                self._after(1.0, lambda: gone(what))
            else:
                self._release(volume, attachment)

        def busy() -> None:
            attachment.state = "busy"
            self.clock.later(1.0, take)

        def take() -> None:
            with self._lock:
                self._hook(volume.id, unplug, lambda: gone("disk"), busy)

        unplug = None
        if instance.state in ("running", "pending"):
            unplug = self._disk_hook(self.on_detach, attachment)
        self._after(self.detach_seconds, lambda: gone("time"))
        take()
        return answer

    def _release(self, volume: Volume, attachment: Attachment) -> None:
        """The attachment is no more."""
        self._note(volume)
        instance = self._instances.get(attachment.instance_id)
        if instance is not None:
            self._note(instance)
        # by identity: two attachments of one volume may look alike
        volume.attachments = [
            one for one in volume.attachments if one is not attachment
        ]
        kept = self._by_instance.get(attachment.instance_id, [])
        self._by_instance[attachment.instance_id] = [
            one for one in kept if one is not attachment
        ]
        if not volume.attachments and volume.state == "in-use":
            volume.state = "available"
        self._changed.notify_all()

    def _modify(self, volume: Volume, size_gib: int) -> Modification:
        last = volume.modification
        if last is not None and last.state in ("modifying", "optimizing"):
            raise Ec2Error(
                "IncorrectModificationState",
                f"Volume {volume.id} cannot be modified in modification state "
                f"{last.state.upper()}",
            )
        if size_gib < volume.size_gib:
            raise Ec2Error(
                "InvalidParameterValue",
                "New size cannot be smaller than existing size",
            )
        change = Modification("modifying", volume.size_gib, size_gib, self.clock.now())
        volume.modification = change
        answer = copy.copy(change)
        missing = {"time", "disk"}

        def completed() -> None:
            change.state, change.end_time = "completed", self.clock.now()

        def bigger(what: str) -> None:
            missing.discard(what)
            if not missing:
                volume.size_gib, change.state = size_gib, "optimizing"
                self._after(self.optimize_seconds, completed)

        resize = None
        if self.on_resize is not None:
            hook = self.on_resize

            def resize() -> None:
                hook(volume.id, size_gib)

        self._after(self.modify_seconds, lambda: bigger("time"))
        self._hook(volume.id, resize, lambda: bigger("disk"))
        return answer

    # ----------------------------------------------------------- instances

    def _attachment_limit(self, instance_type: str) -> int:
        known = self.attachment_limits.get(instance_type)
        return instance_types.get(instance_type).limit if known is None else known

    def _launch(
        self,
        instance_type: str,
        zone: str,
        tags: Mapping[str, str],
        reservation_id: str,
        *,
        user_data: bytes = b"",
        root_size_gib: int = 8,
        root_delete: bool = True,
        image_id: str = IMAGE,
        profile: str = "",
        key_name: str = "",
        metadata_options: Optional[Mapping[str, str]] = None,
    ) -> Instance:
        self._check_zone(zone)
        instance_types.get(instance_type)
        number = len(self._instances) + 4
        instance = Instance(
            id=new_id("i"),
            type=instance_type,
            zone=zone,
            state="pending",
            launch_time=self.clock.now(),
            reservation_id=reservation_id,
            private_ip=f"10.0.{number // 250}.{number % 250 + 1}",
            image_id=image_id,
            user_data=user_data,
            profile=profile,
            key_name=key_name,
            metadata_options=metadata_options or {},
        )
        self._instances[instance.id] = instance
        self._past[instance.id] = [Past(instance.launch_time, None)]
        self._tag_at_creation(instance, tags)
        root = Volume(
            id=new_id("vol"),
            size_gib=root_size_gib,
            zone=zone,
            state="in-use",
            create_time=self.clock.now(),
            snapshot_id="snap-0123456789abcdef0",
        )
        root.attachments.append(
            Attachment(
                root.id,
                instance.id,
                ROOT_DEVICE,
                "attached",
                self.clock.now(),
                root_delete,
            )
        )
        self._volumes[root.id] = root
        self._by_instance[instance.id] = list(root.attachments)
        self._enter(instance, "pending")
        self._after(self.pending_seconds, lambda: self._running(instance))
        return instance

    def _enter(
        self,
        instance: Instance,
        state: str,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        if instance.state != state:
            self._note(instance)
        instance.state = state
        self._changed.notify_all()
        call: Optional[Callable[[], None]] = None
        if self.on_state is not None:
            hook = self.on_state

            def call() -> None:
                hook(instance.id, state)

        self._hook(instance.id, call, then)

    def _running(self, instance: Instance) -> None:
        if instance.state == "pending":
            self._enter(instance, "running")

    def _stop(self, instance: Instance) -> None:
        if instance.state in ("stopping", "stopped"):
            return
        if instance.state != "running":
            raise Ec2Error(
                "IncorrectInstanceState",
                f"The instance '{instance.id}' is not in a state from which it "
                "can be stopped.",
            )
        self._enter(instance, "stopping")
        self._after(self.stop_seconds, lambda: self._stopped(instance))

    def _stopped(self, instance: Instance) -> None:
        if instance.state == "stopping":
            self._enter(instance, "stopped")

    def _start(self, instance: Instance) -> None:
        if instance.state in ("pending", "running"):
            return
        if instance.state != "stopped":
            raise Ec2Error(
                "IncorrectInstanceState",
                f"The instance '{instance.id}' is not in a state from which it "
                "can be started.",
            )
        self._enter(instance, "pending")
        self._after(self.pending_seconds, lambda: self._running(instance))

    def _terminate(
        self,
        instance: Instance,
        delay: Optional[float] = None,
        release: Optional[float] = None,
    ) -> None:
        if instance.state in ("shutting-down", "terminated"):
            return
        until_gone = self.terminate_seconds if delay is None else delay
        until_free = self.release_seconds if release is None else release

        def free() -> None:
            self._after(until_free, lambda: self._release_all(instance))

        # The volumes are let go only when the machine is really off.
        self._enter(instance, "shutting-down")
        self._after(until_gone, lambda: self._enter(instance, "terminated", free))

    def _release_all(self, instance: Instance) -> None:
        for attachment in self._attachments(instance.id):
            volume = self._volumes[attachment.volume_id]
            self._release(volume, attachment)
            if attachment.delete_on_termination and not volume.attachments:
                self._forget(volume.id)


def _nothing() -> None:
    """The hook of who has none; keeps its turn behind the others."""


@dataclass(frozen=True)
class _Task:
    world: World
    subject: str
    hook: Callable[[], None]
    then: Callable[[], None]
    busy: Callable[[], None]

    def run(self) -> None:
        """The hook without the lock, what follows from it with the lock."""
        follows = self.then
        try:
            self.hook()
        except Busy:
            follows = self.busy
        except Exception:  # whatever a hypervisor may say; it is reported
            text = f"hook for {self.subject}:\n{traceback.format_exc()}"
            self.world.hook_errors.append(text)
            print(text, file=sys.stderr)
            return
        self.world._after(0, follows)


_ids: random.Random = random.SystemRandom()


def seed_ids(seed: int) -> None:
    """From now on the ids in this process follow from ``seed``."""
    global _ids
    _ids = random.Random(seed)


def new_id(prefix: str) -> str:
    return f"{prefix}-0{_ids.getrandbits(64):016x}"


def _bare(device: str) -> str:
    return device[len("/dev/") :] if device.startswith("/dev/") else device
