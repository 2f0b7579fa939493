"""Carry out the steps of the plans: the only place where a plan becomes fact.

Phase by phase over all sets, the sets of a phase side by side, the steps of a
set in their order.  Nothing is mounted before systemd has read the fstab of all,
where it holds units that could contradict it; where it has never heard of any of
the mount points, the next run makes it read fstab (:mod:`cc_kraken.boot.stage`).
A step that fails ends its own set only.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import (
    Callable,
    Deque,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
)

from cc_kraken.act import grow, guard, make, mount_point, preen, release
from cc_kraken.act.report import Report
from cc_kraken.cloud.protocol import IN_USE, Cloud
from cc_kraken.decide import members as arraystate
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import (
    CHANGES,
    FILES,
    GROW,
    MOUNT,
    PHASES,
    AddMember,
    AssembleArray,
    Attach,
    CheckFilesystem,
    CreateArray,
    Detach,
    EraseRecords,
    GrowArray,
    GrowFilesystem,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    RemoveFstab,
    SetOwner,
    Step,
    StopArray,
    Wipe,
    WriteArrayLine,
    WriteFstab,
    WriteRecords,
    ZeroSuperblocks,
)
from cc_kraken.decide.world import World
from cc_kraken.machine import devices, files, fstab, md, mdadm_conf, mounts
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Device,
    FstabLine,
    Known,
    KrakenError,
    Layer,
    Record,
    Trouble,
)
from cc_kraken.proof import content, record

LOG = logging.getLogger(__name__)

WORKERS = 32
RELOADS = 2
"""How often systemd is asked to read fstab before the sets fail."""
BY_FSTAB = (WriteFstab, RemoveFstab, MountFilesystem)
"""Steps after or before which systemd must have read it."""
OTHERS = tuple(step for step in CHANGES if step not in FILES)

_Change = Tuple[str, Optional[FstabLine], Sequence[FstabLine], "Future[None]"]
"""A set, its line in fstab (None: none), the lines that go, and who waits."""


@dataclass
class Carried:
    """What came of the steps of one round.

    ``attached``: volume id to device name, accepted by the cloud.  ``ask_again``:
    its answers left it open what is true.  ``kept``: volumes that were not
    detached, because something uses them.  ``not_grown``: why a set that is up
    could not be grown.
    """

    attached: Dict[str, str] = field(default_factory=dict)
    detached: List[str] = field(default_factory=list)
    kept: List[str] = field(default_factory=list)
    troubles: Dict[str, Trouble] = field(default_factory=dict)
    not_grown: Dict[str, Trouble] = field(default_factory=dict)
    ask_again: bool = False
    used: List[str] = field(default_factory=list)


class Executor:
    """Carries out steps on one machine for one run."""

    def __init__(
        self,
        paths: Paths,
        cloud: Cloud,
        report: Report,
        enter: Callable[[Optional[str]], None],
        clock: Clock,
        *,
        hands_on: bool = False,
    ) -> None:
        """``hands_on``: cc-kraken.service carries on after this run."""
        self.paths = paths
        self.cloud = cloud
        self.report = report
        self.enter = enter
        self.clock = clock
        self.hands_on = hands_on
        self._files = threading.Lock()
        self._begun: Set[str] = set()
        """Sets on whose volumes something is half wiped or half made."""
        self._changes: Deque[_Change] = deque()
        """Of fstab, asked for and not yet begun."""
        self._world: World
        self._carried: Carried
        self._do: Mapping[Type[Step], Callable[[Step], None]] = {
            Attach: self._attach,
            Detach: self._detach,
            Wipe: self._wipe,
            WriteRecords: self._write_records,
            StopArray: self._stop_array,
            ZeroSuperblocks: self._zero_superblocks,
            CreateArray: self._create_array,
            AssembleArray: self._assemble_array,
            AddMember: self._add_member,
            WriteArrayLine: self._write_array_line,
            MakeFilesystem: self._make_filesystem,
            EraseRecords: self._erase_records,
            MakeDirectory: self._make_directory,
            WriteFstab: self._write_fstab,
            CheckFilesystem: self._check_filesystem,
            MountFilesystem: self._mount,
            SetOwner: self._set_owner,
            GrowArray: self._grow_array,
            GrowFilesystem: self._grow_filesystem,
            RemoveFstab: self._remove_fstab,
        }
        assert set(self._do) == set(CHANGES)

    def carry_out(self, plans: Sequence[Plan], world: World) -> Carried:
        """Carry out the steps of these plans."""
        self._world = world
        self._carried = Carried()
        for phase in PHASES:
            steps = {
                plan.name: [step for step in plan.steps if step.phase == phase]
                for plan in plans
            }
            if phase == MOUNT:
                self._side_by_side(phase, _of(steps, FILES))
                by_fstab = _of(steps, BY_FSTAB)
                late = self.hands_on and self._unheard_of(by_fstab)
                if not late:
                    self._reload(by_fstab)
                self._side_by_side(phase, _of(steps, OTHERS))
                if late and any(by_fstab[name] for name in self._carried.troubles):
                    self._reload_late()
            else:
                self._side_by_side(phase, steps)
        return self._carried

    def _side_by_side(self, phase: str, steps: Mapping[str, Sequence[Step]]) -> None:
        """The steps of each set that has not failed."""
        work = {
            name: some
            for name, some in steps.items()
            if some and name not in self._carried.troubles
        }
        if not work:
            return
        self.enter(phase)
        with ThreadPoolExecutor(
            min(WORKERS, len(work)), thread_name_prefix=f"kraken-{phase}"
        ) as pool:
            jobs = [pool.submit(self._set_steps, *item) for item in work.items()]
        for job in jobs:
            job.result()

    def _reload(self, steps: Mapping[str, Sequence[Step]]) -> None:
        """systemd reads fstab where it was changed, now or by a run before,
        and one of these sets goes by it."""
        names = [
            name
            for name, some in steps.items()
            if some and name not in self._carried.troubles
        ]
        if not names:
            return
        for _ in range(RELOADS):
            try:
                mounts.read_fstab(self.paths)
                return
            except KrakenError as error:
                trouble = error.trouble
                LOG.warning("%s", error)
            except Exception as error:
                LOG.exception("cannot make systemd read fstab")
                trouble = _fault("make systemd read fstab", error)
        self._carried.troubles.update(dict.fromkeys(names, trouble))

    def _unheard_of(self, steps: Mapping[str, Sequence[Step]]) -> bool:
        """Whether systemd knows nothing of where these steps mount, and no line of
        fstab goes that it may know."""
        where = set()
        for step in (step for some in steps.values() for step in some):
            if isinstance(step, MountFilesystem):
                where.add(step.path)
            elif isinstance(step, WriteFstab) and not step.instead_of:
                if step.set in self._world.fstab:
                    return False
                where.add(step.line.path)
            else:
                return False
        return not any(mounts.has_unit(path) for path in where)

    def _reload_late(self) -> None:
        """A set whose line is in fstab is not mounted: whoever asks systemd for
        its path must wait for it in vain, and not write below it."""
        try:
            mounts.read_fstab(self.paths)
        except KrakenError as error:
            LOG.warning("%s", error)

    def _set_steps(self, name: str, steps: Sequence[Step]) -> None:
        for step in steps:
            if self.clock.stopped and name not in self._begun:
                self._carried.troubles[name] = _stopped(step)
                return
            try:
                self._one(step)
            except KrakenError as error:
                self._note(name, step, error.trouble)
                return
            except Exception as error:
                LOG.exception("%s: cannot %s", name, step)
                self._note(name, step, _fault(str(step), error))
                return

    def _note(self, name: str, step: Step, trouble: Trouble) -> None:
        # What cannot be grown is mounted and serves as it is.
        growing = step.phase == GROW
        told = self._carried.not_grown if growing else self._carried.troubles
        told[name] = trouble

    def _one(self, step: Step) -> None:
        if step.phase != "attach":
            self._carried.used.append(step.set)
        LOG.info("%s: %s", step.set, step)
        if isinstance(step, (Wipe, MakeFilesystem)):
            self._begun.add(step.set)
        self._do[type(step)](step)
        if isinstance(step, EraseRecords):
            self._begun.discard(step.set)
        if isinstance(step, Detach):
            gone = [one for one in step.volume_ids if one not in self._carried.kept]
            step = replace(step, volume_ids=tuple(gone))
            if not gone:
                return
        self.report.done(step.set, str(step))

    # ---- the cloud

    def _attach(self, step: Step) -> None:
        """The lowest volume id first: two claimants must not split a set."""
        assert isinstance(step, Attach)
        first, *others = step.volume_ids
        self._attach_one(first)
        if not others:
            return
        with ThreadPoolExecutor(
            min(WORKERS, len(others)), thread_name_prefix="kraken-attach"
        ) as pool:
            jobs = [pool.submit(self._attach_one, volume) for volume in others]
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

    def _detach(self, step: Step) -> None:
        assert isinstance(step, Detach)
        self._carried.ask_again = True
        volumes = step.volume_ids
        kept = release.unused(self.paths, self.clock, volumes, self._detach_one)
        for volume_id, why in kept.items():
            self._carried.kept.append(volume_id)
            self.report.warn(release.told(step.set, volume_id, why), step.set)

    def _detach_one(self, volume_id: str) -> None:
        self.cloud.detach(volume_id)
        self._carried.detached.append(volume_id)

    # ---- volumes and arrays

    def _device(self, volume_id: str) -> Device:
        return self._world.devices[volume_id]

    def _place(self, device: Device, member: bool) -> int:
        return record.places(device.size)[0 if member else 1]

    def _place_found(self, device: Device, member: bool) -> int:
        """Where the record of this volume was seen, or has just been written."""
        look = self._world.looks.get(device.volume_id)
        if look is not None and look.moved is not None and not member:
            return look.moved
        return self._place(device, member)

    def _wipe(self, step: Step) -> None:
        assert isinstance(step, Wipe)
        make.wipe(self.paths, self._device(step.volume_id), step.fingerprint)

    def _write_records(self, step: Step) -> None:
        assert isinstance(step, WriteRecords)
        self._each(
            step.records,
            lambda one, device: make.write_record(
                self.paths,
                device,
                one,
                self._place(device, step.member),
                permitted=one.volume_id in step.permitted,
            ),
        )

    def _erase_records(self, step: Step) -> None:
        assert isinstance(step, EraseRecords)
        self._each(
            step.records,
            lambda one, device: make.erase_record(
                self.paths, device, one, self._place_found(device, step.member)
            ),
        )

    def _stop_array(self, step: Step) -> None:
        assert isinstance(step, StopArray)
        members = [self._device(one.volume_id) for one in step.records]
        make.stop_array(self.paths, self._array(step.uuid), members, step.records)

    def _zero_superblocks(self, step: Step) -> None:
        assert isinstance(step, ZeroSuperblocks)
        self._each(
            step.records,
            lambda one, device: make.zero_superblock(self.paths, device, one),
        )

    def _each(
        self,
        records: Sequence[Record],
        do: Callable[[Record, Device], object],
    ) -> None:
        """The volumes of one set side by side; the first error counts."""
        if len(records) == 1:
            do(records[0], self._device(records[0].volume_id))
            return
        with ThreadPoolExecutor(
            min(WORKERS, len(records)), thread_name_prefix="kraken-member"
        ) as pool:
            jobs = [
                pool.submit(do, one, self._device(one.volume_id)) for one in records
            ]
        for job in jobs:
            job.result()

    def _create_array(self, step: Step) -> None:
        assert isinstance(step, CreateArray)
        make.create_array(
            self.paths,
            [self._device(volume) for volume in step.volume_ids],
            step.records,
            uuid=step.uuid,
            level=step.level,
            name=step.name,
            permitted=step.permitted,
        )

    def _assemble_array(self, step: Step) -> None:
        assert isinstance(step, AssembleArray)
        members = [self._device(volume).path for volume in step.volume_ids]
        md.assemble(self.paths, step.name, step.uuid, members, incomplete=step.degraded)
        array = self._array(step.uuid)
        if step.degraded and not array.running:
            md.start_degraded(self.paths, array.name)
        names = [self._device(volume).name for volume in step.volume_ids]
        running = md.wait_running(self.paths, names)
        # udev may have added a copy meanwhile: it has the same UUIDs.
        serials = {one: devices.serial_of(self.paths, one) for one in running.members}
        trouble = arraystate.wrong_members(running, serials, step.set, step.volume_ids)
        if trouble is not None:
            raise KrakenError(trouble)

    def _add_member(self, step: Step) -> None:
        assert isinstance(step, AddMember)
        make.add_member(
            self.paths, self._array(step.uuid), self._device(step.volume_id)
        )

    def _array(self, uuid: str) -> Array:
        """The array as it runs now, found by its members' superblocks."""
        for array in self._world.own_first(md.scan(self.paths)):
            if array.uuid == uuid or self._member_uuid(array) == uuid:
                return array
        raise KrakenError(
            Trouble(
                "array-absent",
                f"Array {uuid} is not there after it was put together",
                "an md device",
                "See the kernel's log and /proc/mdstat for the reason.",
            )
        )

    def _member_uuid(self, array: Array) -> str:
        for device in self._world.devices.values():
            if device.name in array.members:
                block = content.superblock(device.path)
                return block.uuid if block is not None else ""
        return ""

    def _write_array_line(self, step: Step) -> None:
        assert isinstance(step, WriteArrayLine)
        with self._files:
            mdadm_conf.add(self.paths, step.set, step.uuid, step.instead_of)

    # ---- filesystems and mounts

    def _target(self, array_uuid: str, volume_id: str) -> "Device | Array":
        return self._array(array_uuid) if array_uuid else self._device(volume_id)

    def _make_filesystem(self, step: Step) -> None:
        assert isinstance(step, MakeFilesystem)
        members = [self._device(one.volume_id) for one in step.records]
        make.make_filesystem(
            self.paths,
            self._target(step.array_uuid, step.records[0].volume_id),
            members,
            step.records,
            type=step.type,
            uuid=step.uuid,
            label=step.label,
            options=step.options,
            permitted=step.permitted,
        )

    def _make_directory(self, step: Step) -> None:
        assert isinstance(step, MakeDirectory)
        mounts.make_directory(step.path)

    def _write_fstab(self, step: Step) -> None:
        assert isinstance(step, WriteFstab)
        self._change_fstab(step.set, step.line, step.instead_of)

    def _remove_fstab(self, step: Step) -> None:
        assert isinstance(step, RemoveFstab)
        self._change_fstab(step.set, None)
        with self._files:
            mdadm_conf.drop(self.paths, step.set)

    def _change_fstab(
        self,
        name: str,
        line: Optional[FstabLine],
        instead_of: Sequence[FstabLine] = (),
    ) -> None:
        """A write waits for the disk; what other sets want by then comes with
        the next one, all at once."""
        done: "Future[None]" = Future()
        self._changes.append((name, line, instead_of, done))
        with self._files:
            self._write_changes()
        done.result()

    def _write_changes(self) -> None:
        changes = []
        while self._changes:
            changes.append(self._changes.popleft())
        if not changes:
            return
        try:
            text = fstab.read(self.paths)
            for name, line, instead_of, _ in changes:
                text = fstab.replace(text, {name: line}, instead_of)
            os.makedirs(self.paths.run, mode=0o755, exist_ok=True)
            files.write_atomic(self.paths.unread, b"", 0o644)
            fstab.write(self.paths, text)
        except Exception as error:
            for *_, done in changes:
                done.set_exception(error)
        else:
            for *_, done in changes:
                done.set_result(None)

    def _check_filesystem(self, step: Step) -> None:
        """As systemd does it at a boot, for what no boot has mounted yet."""
        assert isinstance(step, CheckFilesystem)
        target = self._target(step.array_uuid, step.volume_id)
        self._check_shown(target, step.type, step.uuid)
        if isinstance(target, Array):
            guard.check_array(self.paths, target, self._members(target))
        else:
            guard.check_unused(self.paths, target)
        guard.check_exclusive(target)
        self._check_serial(target)
        said = preen.preen(target.path, step.type)
        if said:
            LOG.info("%s: %s", step.set, said)

    def _mount(self, step: Step) -> None:
        """Mount the very device, never whatever has its UUID."""
        assert isinstance(step, MountFilesystem)
        target = self._target(step.array_uuid, step.volume_id)
        members = self._members(target)
        volumes = frozenset(device.volume_id for device in members)
        wish = mount_point.Wish(
            step.set, step.path, step.type, step.options, step.covers
        )
        with guard.held(target):
            if mounts.at(self.paths, step.path) is None:
                self._check_shown(target, step.type, step.uuid)
                mount_point.mount(self.paths, target, volumes, wish)
            else:
                # Somebody was faster: nothing is mounted over another mount.
                mount_point.verify(self.paths, target, volumes, step.path)
        if mounts.path_state(step.path).as_made:
            mounts.relabel(self.paths, step.path)

    def _check_shown(self, target: Layer, kind: str, uuid: str) -> None:
        """It is the right disk, and shows the filesystem that was seen."""
        self._check_serial(target)
        look = content.look(target.path, volume_id=target.volume_id)
        shown = look.content
        whole = isinstance(shown, Known) and shown.ever_mounted
        if look.record is not None and not whole:
            raise KrakenError(
                Trouble(
                    "record-present",
                    f"{target.path} carries an intent record",
                    "a filesystem that is whole",
                    "Run again: it is looked at afresh.",
                )
            )
        if not isinstance(shown, Known) or (shown.type, shown.uuid) != (kind, uuid):
            raise KrakenError(
                Trouble(
                    "content-changed",
                    f"{target.path} does not show {kind} with UUID {uuid}",
                    "the filesystem that was seen before",
                    "Run again: the new content is looked at afresh.",
                )
            )

    def _check_serial(self, target: Layer) -> None:
        if not target.volume_id:
            return
        found = devices.serial_of(self.paths, target.name)
        if found != target.volume_id:
            raise KrakenError(
                Trouble(
                    "device-changed",
                    f"{target.path} was {target.volume_id} and is now {found}",
                    target.volume_id,
                    "Run again.",
                )
            )

    def _set_owner(self, step: Step) -> None:
        assert isinstance(step, SetOwner)
        uid = mounts.user_id(step.owner) if step.owner is not None else None
        gid = mounts.group_id(step.group) if step.group is not None else None
        mounts.set_owner(step.path, uid, gid, step.mode)

    # ---- growth

    def _grow_array(self, step: Step) -> None:
        assert isinstance(step, GrowArray)
        array = self._array(step.uuid)
        grow.array(self.paths, array, self._members(array), step.after)

    def _grow_filesystem(self, step: Step) -> None:
        assert isinstance(step, GrowFilesystem)
        target = self._target(step.array_uuid, step.volume_id)
        members = self._members(target)
        grow.filesystem(self.paths, target, members, step.path, step.type)

    def _members(self, target: Layer) -> Sequence[Device]:
        """The volumes in it that are ours; what it has besides shows then."""
        return target.disks(self._world.devices.values())


def _of(
    steps: Mapping[str, Sequence[Step]], kinds: Tuple[Type[Step], ...]
) -> Dict[str, List[Step]]:
    return {
        name: [step for step in some if isinstance(step, kinds)]
        for name, some in steps.items()
    }


def _fault(doing: str, error: Exception) -> Trouble:
    return Trouble(
        "internal-error",
        f"While it was to {doing}, cc_kraken failed with "
        f"{type(error).__name__}: {error}",
        "",
        "This is a fault of cc_kraken: please report it with the traceback in the "
        "log. The next run goes on from here.",
    )


def _stopped(step: Step) -> Trouble:
    return Trouble(
        "stopped",
        f"The run was told to end before it was to {step}",
        "",
        "The next run goes on from here.",
        waits=True,
    )
