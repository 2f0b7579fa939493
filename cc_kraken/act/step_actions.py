"""What each step does: to the cloud, to volumes and arrays, to filesystems and mounts.

:mod:`cc_kraken.act.executor` says when, and what an error costs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar

from cc_kraken.act.creating import Creating
from cc_kraken.cloud.protocol import IN_USE, Cloud
from cc_kraken.decide import steps
from cc_kraken.decide.members import wrong_members
from cc_kraken.decide.world import World
from cc_kraken.machine import (
    devices,
    files,
    fstab,
    md,
    mdadm_conf,
    mount_points,
    mountinfo,
)
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Device,
    Known,
    KrakenError,
    Layer,
    Look,
    Record,
    Trouble,
    failure,
    of_set,
)
from cc_kraken.proof import probe, record
from cc_kraken.state.report import Report
from cc_kraken.storage import (
    grow,
    make,
    mount_point,
    preconditions,
    preen,
    release,
    unwritten,
)

_Result = TypeVar("_Result")
LOG = logging.getLogger(__name__)

WORKERS = 32


@dataclass
class Carried:
    """What came of the steps of one round.

    ``attached``: volume id to device name, accepted by the cloud.  ``ask_again``:
    its answers left it open what is true.  ``kept``: volumes that were not
    detached, because something uses them.  ``not_grown``: why a set that is up
    could not be grown.  ``not_added``: why its array did not get a new member.
    """

    attached: dict[str, str] = field(default_factory=dict)
    detached: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    not_grown: dict[str, Trouble] = field(default_factory=dict)
    not_added: dict[str, Trouble] = field(default_factory=dict)
    ask_again: bool = False
    used: list[str] = field(default_factory=list)


@dataclass
class StepActions:
    """How one run carries out a step on this machine."""

    paths: Paths
    cloud: Cloud
    report: Report
    clock: Clock
    creating: Creating

    def __post_init__(self) -> None:
        self._files = threading.Lock()
        self._lines: Sequence[steps.Step] = ()
        """What is to be written into fstab."""
        self._world: World
        self._looks: dict[str, Look] = {}
        """What was found on a volume, or on an array (by its UUID), last."""
        self._carried: Carried
        self._do: Mapping[type[steps.Step], Callable[[Any], None]] = {
            steps.CreateVolumes: self._create_volumes,
            steps.Attach: self._attach,
            steps.Detach: self._detach,
            steps.Wipe: self._wipe,
            steps.WriteRecords: self._write_records,
            steps.StopArray: self._stop_array,
            steps.ZeroSuperblocks: self._zero_superblocks,
            steps.CreateArray: self._create_array,
            steps.AssembleArray: self._assemble_array,
            steps.AddMember: self._add_member,
            steps.WriteArrayLine: self._write_array_line,
            steps.MakeFilesystem: self._make_filesystem,
            steps.EraseRecords: self._erase_records,
            steps.MakeDirectory: lambda step: mount_points.make_directory(step.path),
            steps.WriteFstab: self._write_fstab,
            steps.CheckFilesystem: self._check_filesystem,
            steps.MountFilesystem: self._mount,
            steps.SetOwner: self._set_owner,
            steps.GrowArray: self._grow_array,
            steps.GrowFilesystem: self._grow_filesystem,
            steps.RemoveFstab: self._write_fstab,
        }
        assert set(self._do) == set(steps.CHANGES)

    # ---- the cloud

    def _create_volumes(self, step: steps.CreateVolumes) -> None:
        self._carried.ask_again = True
        self.creating.create(step)

    def _attach(self, step: steps.Attach) -> None:
        """The lowest volume id first: two claimants must not split a set."""
        first, *others = step.volume_ids
        self._attach_one(first)
        jobs = at_once("attach", self._attach_one, [(one,) for one in others])
        errors = [error for error in (job.exception() for job in jobs) if error]
        # What time does not cure counts for more than what it may.
        errors.sort(key=lambda e: isinstance(e, KrakenError) and e.trouble.waits)
        if errors:
            raise errors[0]

    def _attach_one(self, volume_id: str) -> None:
        try:
            self._carried.attached[volume_id] = self.cloud.attach(volume_id)
        except KrakenError as error:
            if error.trouble.kind == IN_USE:
                self._carried.ask_again = True
            raise

    def _detach(self, step: steps.Detach) -> None:
        self._carried.ask_again = True
        ids = step.volume_ids
        kept = release.unused(self.paths, self.clock, ids, self._detach_one)
        for volume_id, why in kept.items():
            self._carried.kept.append(volume_id)
            self.report.warn(_not_detached(step.set, volume_id, why), step.set)

    def _detach_one(self, volume_id: str) -> None:
        self.cloud.detach(volume_id)
        self._carried.detached.append(volume_id)

    # ---- volumes and arrays

    def _device(self, volume_id: str) -> Device:
        return self._world.devices[volume_id]

    def _volumes(self, records: Sequence[Record]) -> list[tuple[Device, Record]]:
        return [(self._device(one.volume_id), one) for one in records]

    def _place(self, device: Device, member: bool) -> int:
        return record.places(device.size)[0 if member else 1]

    def _place_found(self, device: Device, member: bool) -> int:
        """Where the record of this volume was seen, or has just been written."""
        look = self._world.looks.get(device.volume_id)
        if look is not None and look.moved is not None and not member:
            return look.moved
        return self._place(device, member)

    def _wipe(self, step: steps.Wipe) -> None:
        make.wipe(self.paths, self._device(step.volume_id), step.fingerprint)

    def _write_records(self, step: steps.WriteRecords) -> None:
        self._each(
            step.records,
            lambda one, device, seen: make.write_record(
                self.paths,
                device,
                one,
                self._place(device, step.member),
                permitted=one.volume_id in step.permitted,
                seen=seen,
            ),
        )

    def _erase_records(self, step: steps.EraseRecords) -> None:
        self._each(
            step.records,
            lambda one, device, seen: make.erase_record(
                self.paths,
                device,
                one,
                self._place_found(device, step.member),
                seen=seen,
            ),
        )

    def _stop_array(self, step: steps.StopArray) -> None:
        volumes = self._volumes(step.records)
        make.stop_array(self.paths, self._array(step.uuid), volumes)

    def _zero_superblocks(self, step: steps.ZeroSuperblocks) -> None:
        self._each(
            step.records,
            lambda one, device, _: make.zero_superblock(self.paths, device, one),
        )

    def _each(
        self,
        records: Sequence[Record],
        do: Callable[[Record, Device, Optional[Look]], Optional[Look]],
    ) -> None:
        """The volumes of one set side by side; the first error counts.  ``do`` takes
        what was found on a volume last, and returns what is there now."""
        jobs = at_once(
            "member",
            do,
            [
                (one, device, self._looks.get(one.volume_id))
                for device, one in self._volumes(records)
            ],
        )
        for one, job in zip(records, jobs):
            look = job.result()
            if look is not None:
                self._looks[one.volume_id] = look

    def _create_array(self, step: steps.CreateArray) -> None:
        make.create_array(
            self.paths,
            list(zip(map(self._device, step.volume_ids), step.records)),
            uuid=step.uuid,
            level=step.level,
            name=step.name,
            permitted=step.permitted,
            seen=self._looks,
        )

    def _assemble_array(self, step: steps.AssembleArray) -> None:
        members = [self._device(volume).path for volume in step.volume_ids]
        md.assemble(self.paths, step.name, step.uuid, members, incomplete=step.degraded)
        array = self._array(step.uuid)
        if step.degraded and not array.running:
            md.start_degraded(self.paths, array.name)
        names = [self._device(volume).name for volume in step.volume_ids]
        running = md.wait_running(self.paths, names)
        # udev may have added a copy meanwhile: it has the same UUIDs.
        serials = {one: devices.serial_of(self.paths, one) for one in running.members}
        trouble = wrong_members(running, serials, step.set, step.volume_ids)
        if trouble is not None:
            raise KrakenError(trouble)

    def _add_member(self, step: steps.AddMember) -> None:
        device, seen = self._device(step.volume_id), self._looks.get(step.volume_id)
        make.add_member(self.paths, self._array(step.uuid), device, seen=seen)

    def _array(self, uuid: str) -> Array:
        """The array as it runs now, found by its members' superblocks."""
        for array in self._world.own_first(md.scan(self.paths)):
            if array.uuid == uuid or self._member_uuid(array) == uuid:
                return array
        raise failure(
            "array-absent",
            f"Array {uuid} is not there after it was put together.",
            "The kernel must show it as an md device.",
            "See the kernel's log (dmesg) and /proc/mdstat for the reason.",
        )

    def _member_uuid(self, array: Array) -> str:
        for device in self._world.devices.values():
            if device.name in array.members:
                block = probe.superblock(device.path)
                return block.uuid if block is not None else ""
        return ""

    def _write_array_line(self, step: steps.WriteArrayLine) -> None:
        with self._files:
            mdadm_conf.add(self.paths, step.set, step.uuid, step.instead_of)

    # ---- filesystems and mounts

    def _target(self, array_uuid: str, volume_id: str) -> Layer:
        return self._array(array_uuid) if array_uuid else self._device(volume_id)

    def _make_filesystem(self, step: steps.MakeFilesystem) -> None:
        key = step.array_uuid or step.records[0].volume_id
        self._looks[key] = make.make_filesystem(
            self.paths,
            self._target(step.array_uuid, step.records[0].volume_id),
            self._volumes(step.records),
            type=step.type,
            uuid=step.uuid,
            label=step.label,
            options=step.options,
            permitted=step.permitted,
            seen=self._looks.get(key),
        )

    def _write_fstab(self, step: steps.Step) -> None:
        """The first step writes the lines of all sets: a write waits for the disk."""
        with self._files:
            if self._lines:
                text = fstab.read(self.paths)
                for one in self._lines:
                    if isinstance(one, steps.WriteFstab):
                        new = {one.set: one.line}
                        text = fstab.replace(text, new, one.instead_of)
                    else:
                        text = fstab.replace(text, {one.set: None})
                files.make_directories(self.paths.run)
                files.write_atomic(self.paths.unread, b"", 0o644)
                fstab.write(self.paths, text)
                self._lines = ()
            if isinstance(step, steps.RemoveFstab) and step.gone:
                mdadm_conf.drop(self.paths, step.set)

    def _check_filesystem(self, step: steps.CheckFilesystem) -> None:
        """As systemd does it at a boot, for what no boot has mounted yet."""
        target = self._target(step.array_uuid, step.volume_id)
        with make.held(self.paths, target) as disk:
            self._check_shown(target, step.type, step.uuid)
            preconditions.check_layer(target, self.paths, self._members(target))
            disk.check_exclusive()
            said = preen.repair(target.path, step.type)
        if said:
            LOG.info("%s: %s", step.set, said, extra=of_set(step.set))

    def _mount(self, step: steps.MountFilesystem) -> None:
        """Mount the very device, never whatever has its UUID."""
        target = self._target(step.array_uuid, step.volume_id)
        members = self._members(target)
        volumes = frozenset(device.volume_id for device in members)
        with make.kept_open(target):
            if mountinfo.at(self.paths, step.path) is None:
                self._check_shown(target, step.type, step.uuid)
                mount_point.mount(self.paths, target, volumes, step)
            else:
                # Somebody was faster: nothing is mounted over another mount.
                mount_point.verify(self.paths, target, volumes, step.path)
        if mount_points.path_state(step.path).as_made:
            mount_points.relabel(self.paths, step.path)

    def _check_shown(self, target: Layer, kind: str, uuid: str) -> None:
        """It is the right disk, and shows the filesystem that was seen."""
        preconditions.check_identity(self.paths, target)
        seen = self._looks.get(target.key)
        look = probe.look(target.path, volume_id=target.volume_id, seen=seen)
        shown = look.content
        whole = isinstance(shown, Known) and shown.ever_mounted
        if look.record is not None and not whole:
            raise unwritten.record_present(target)
        if not isinstance(shown, Known) or (shown.type, shown.uuid) != (kind, uuid):
            raise unwritten.content_changed(target, shown, f"{kind} {uuid}")

    def _set_owner(self, step: steps.SetOwner) -> None:
        uid = mount_points.user_id(step.owner) if step.owner is not None else None
        gid = mount_points.group_id(step.group) if step.group is not None else None
        mount_points.set_owner(step.path, uid, gid, step.mode)

    def _grow_array(self, step: steps.GrowArray) -> None:
        array = self._array(step.uuid)
        grow.array(self.paths, array, self._members(array), step.after)

    def _grow_filesystem(self, step: steps.GrowFilesystem) -> None:
        target = self._target(step.array_uuid, step.volume_id)
        members = self._members(target)
        grow.filesystem(self.paths, target, members, step.path, step.type)

    def _members(self, target: Layer) -> Sequence[Device]:
        """The volumes in it that are ours; what it has besides shows then."""
        return target.disks(self._world.devices.values())


def _not_detached(name: str, volume_id: str, why: Trouble) -> str:
    return (
        f"{name} is incomplete, but {volume_id} is not given back: "
        f"{why.found.rstrip('.')}. Stop what uses it, and detach it in EC2: until then "
        f"no other instance can have all of {name}."
    )


def at_once(
    name: str, do: Callable[..., _Result], items: Sequence[tuple[object, ...]]
) -> list[Future[_Result]]:
    """This with each of these arguments side by side, to the end of all."""
    workers = max(1, min(WORKERS, len(items)))
    with ThreadPoolExecutor(workers, thread_name_prefix=f"kraken-{name}") as pool:
        return [pool.submit(do, *item) for item in items]
