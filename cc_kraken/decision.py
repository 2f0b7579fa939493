"""What is to be done: a pure function of what is wanted and what is found.

No I/O here.  Every rule of the design's sections 4 to 8 is one small function
that either returns nothing (go on), a :class:`Trouble` (stop here), or steps.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from cc_kraken import arraystate, fstab, growth, mkfs, wiping
from cc_kraken.arrays import array_name
from cc_kraken.model import (
    Array,
    Blank,
    Claim,
    Content,
    Device,
    FstabLine,
    HalfMade,
    Known,
    Look,
    MdSuperblock,
    Node,
    PathState,
    Record,
    Trouble,
    Unknown,
    Volume,
    WantedSet,
)
from cc_kraken.record import identity as set_identity
from cc_kraken.steps import (
    AddMember,
    AssembleArray,
    Attach,
    CheckFilesystem,
    CreateArray,
    Detach,
    EraseRecords,
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
    gib,
)
from cc_kraken.world import Mounted, World

GIB = 1024**3
ATTACH_LIMIT_SECONDS = 90
"""Longer in "attaching" is stuck (block-device practice on EC2)."""

MD_MEMBER = "linux_raid_member"
NAMESPACE = uuids.UUID("7b2f1c0e-4a3d-5e6f-8b9a-6b72616b656e")

MOUNTED, ASSEMBLED, ATTACHED = "mounted", "assembled", "attached"
PENDING, FAILED, PLANNED = "pending", "failed", "planned"


@dataclass(frozen=True)
class Plan:
    """What is to be done for one set now.

    ``state``: where the set stands when ``steps`` is empty.  ``outcomes``:
    what may follow on things that cannot be seen yet.  ``trouble`` with
    ``waits`` is awaited, without it the set has failed.  ``notes``: what a
    person may want to know, and need not act on.
    """

    name: str
    state: str
    steps: Tuple[Step, ...] = ()
    trouble: Optional[Trouble] = None
    warnings: Tuple[str, ...] = ()
    outcomes: Tuple[str, ...] = ()
    array_uuid: str = ""
    filesystem: Optional[Known] = None
    notes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Where a filesystem is or will be: one volume, or an array."""

    device: Optional[Device] = None
    array_uuid: str = ""
    array: Optional[Array] = None

    @property
    def volume_id(self) -> str:
        return self.device.volume_id if self.device else ""


class _Stop(Exception):
    """Ends the decision on one set with a trouble."""

    def __init__(self, trouble: Trouble, steps: Tuple[Step, ...] = ()) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble
        self.steps = steps


class _Again(Exception):
    """Ends the decision on one set with steps after which it is looked at
    once more, because what follows depends on what is found then."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = steps


def _stop(
    kind: str, found: str, expected: str, remedy: str, *, waits: bool = False
) -> _Stop:
    return _Stop(Trouble(kind, found, expected, remedy, waits))


# ------------------------------------------------------------------ the node


def decide(node: Node, claims: Sequence[Claim], world: World) -> Tuple[Plan, ...]:
    """The plans of all sets of this node, one a claim, plus one for every
    fstab line of ours whose set is gone."""
    plans = [_decide_set(node, claim, claims, world) for claim in claims]
    names = {claim.name for claim in claims}
    renamed = {
        line.set
        for plan in plans
        for step in plan.steps
        if isinstance(step, WriteFstab)
        for line in step.instead_of
    }
    for name in sorted(set(world.fstab) - names - renamed):
        plans.append(_decide_gone(name, world))
    return tuple(plans)


def _decide_gone(name: str, world: World) -> Plan:
    path = world.fstab[name].path
    if world.mounted_at(path) is not None:
        return Plan(
            name,
            MOUNTED,
            warnings=(
                f"The set {name} is no longer among this node's volumes, but "
                f"{path} is still mounted: its fstab line stays until it is not.",
            ),
        )
    return Plan(name, ATTACHED, steps=(RemoveFstab(name),))


def _decide_set(
    node: Node, claim: Claim, claims: Sequence[Claim], world: World
) -> Plan:
    warnings = list(claim.warnings)
    try:
        if claim.trouble is not None and not _existing_may_do(claim, world):
            raise _Stop(claim.trouble)
        plan = _SetDecision(node, claim, claims, world, warnings).plan()
    except _Stop as stop:
        state = PENDING if stop.trouble.waits else FAILED
        return Plan(
            claim.name,
            state,
            steps=stop.steps,
            trouble=stop.trouble,
            warnings=tuple(warnings),
        )
    return plan


def _existing_may_do(claim: Claim, world: World) -> bool:
    """Whether an array that exists already may live with this trouble."""
    if claim.trouble is None or claim.wanted.members < 2 or not claim.volumes:
        return False
    if claim.trouble.kind == "members-missing":
        copies = {bool(volume.origin) for volume in claim.volumes}
        mixed = len(copies) > 1  # refused at every level
        return claim.wanted.allow_degraded and world.overdue and not mixed
    return claim.trouble.kind == "sizes-differ"


# ------------------------------------------------------------------- one set


class _SetDecision:
    """The decision on one set; its methods follow the life of a set."""

    def __init__(
        self,
        node: Node,
        claim: Claim,
        claims: Sequence[Claim],
        world: World,
        warnings: List[str],
    ) -> None:
        self.node = node
        self.claim = claim
        self.claims = claims
        self.world = world
        self.warnings = warnings
        self.notes: List[str] = []
        self.wanted: WantedSet = claim.wanted
        self.volume_ids = tuple(sorted(volume.id for volume in claim.volumes))
        self.identity = set_identity(node, claim.name, self.volume_ids)
        self.fs_uuid = str(uuids.uuid5(NAMESPACE, f"filesystem {self.identity}"))
        self.new_array_uuid = str(uuids.uuid5(NAMESPACE, f"array {self.identity}"))

    @property
    def is_array(self) -> bool:
        return self.wanted.members > 1

    def plan(self) -> Plan:
        self._check_not_system()
        self._check_duplicates()
        attach = self._attach_step()
        self._check_programs(("mdadm",) if self.is_array else ())
        if attach is not None:
            return self._finish(PLANNED, [attach], outcomes=self._outcomes())
        self._warn_of_termination()
        if not self.is_array and self.wanted.fs_type is None:
            # Attached and left alone, whoever uses it.
            return self._finish(MOUNTED if self._mounted() else ATTACHED, [])
        self._check_devices()
        try:
            return self._plan_array() if self.is_array else self._plan_single()
        except _Again as again:
            return self._finish(
                PLANNED,
                again.steps,
                outcomes=("what follows is decided when the older intent is gone",),
            )

    # ---- attach (sections 4 and 5)

    def _check_not_system(self) -> None:
        for volume in self.volume_ids:
            if volume in self.world.system_volumes:
                raise _stop(
                    "system-volume",
                    f"{volume} is the volume behind / or /boot",
                    "volumes for data only",
                    f"Take the tags off {volume}.",
                )

    def _attach_step(self) -> Optional[Attach]:
        troubles: List[Trouble] = []
        free: List[str] = []
        for volume in self.claim.volumes:
            trouble = self._attachment_trouble(volume)
            if trouble is not None:
                troubles.append(trouble)
            elif self._is_free(volume):
                free.append(volume.id)
        if troubles:
            troubles.sort(key=lambda trouble: trouble.waits)
            raise _Stop(troubles[0], self._give_way(troubles))
        return Attach(self.claim.name, tuple(sorted(free))) if free else None

    def _give_way(self, troubles: Sequence[Trouble]) -> Tuple[Step, ...]:
        """Who loses a member to a rival lets the others go, unused."""
        if not any(trouble.kind.startswith("holder-") for trouble in troubles):
            return ()
        unused = [
            volume
            for volume in self.volume_ids
            if volume in self.world.attached_now and not self._in_use(volume)
        ]
        return (Detach(self.claim.name, tuple(unused)),) if unused else ()

    def _in_use(self, volume_id: str) -> bool:
        device = self.world.devices.get(volume_id)
        return device is not None and bool(
            device.holders or device.mounted or device.swap
        )

    def _ours(self, volume: Volume) -> bool:
        return any(
            attachment.instance_id == self.world.instance_id
            for attachment in volume.attachments
        )

    def _is_free(self, volume: Volume) -> bool:
        if volume.id in self.world.devices and not volume.attachments:
            return False  # the device says more than a stale answer of EC2's
        return not volume.attachments and volume.state == "available"

    def _attachment_trouble(self, volume: Volume) -> Optional[Trouble]:
        for attachment in volume.attachments:
            if attachment.instance_id != self.world.instance_id:
                return self._holder_trouble(volume, attachment.instance_id or "")
            if attachment.state in ("detaching", "busy"):
                return Trouble(
                    "volume-detaching",
                    f"{volume.id} is being detached from this instance "
                    f"({attachment.state})",
                    "an attachment that stays",
                    "It is attached again once EC2 has let it go; if that lasts, look "
                    "for what detaches it (CloudTrail: DetachVolume).",
                    waits=True,
                )
            if volume.id not in self.world.devices:
                return self._absent_trouble(volume, attachment.state)
        if volume.attachments or volume.id in self.world.devices:
            return None
        if volume.state != "available":
            return Trouble(
                "volume-state",
                f"{volume.id} is in the state {volume.state}",
                "available",
                f"Look at {volume.id} in EC2 (describe-volumes) if that lasts.",
                waits=True,
            )
        return None

    def _absent_trouble(self, volume: Volume, state: str) -> Trouble:
        seconds = self.world.awaited.get(volume.id, 0.0)
        if seconds > ATTACH_LIMIT_SECONDS:
            return Trouble(
                "attach-stuck",
                f"{volume.id} has been {state} for {int(seconds)} s and has no "
                "device in this machine",
                f"a device within {ATTACH_LIMIT_SECONDS} s",
                f"Detach {volume.id} in EC2 and run again, or replace the instance.",
            )
        return Trouble(
            "attaching",
            f"{volume.id} is {state} and its device is not there yet",
            "an NVMe device with its serial",
            f"If it stays away, detach {volume.id} in EC2 and run again, or replace "
            "the instance.",
            waits=True,
        )

    def _holder_trouble(self, volume: Volume, instance_id: str) -> Trouble:
        if not instance_id:
            return Trouble(
                "volume-managed",
                f"{volume.id} is attached to something that EC2 does not name",
                "a volume that nobody else manages",
                "Pin other volumes with volume_ids.",
            )
        holder = self.world.holders.get(instance_id)
        state = holder.state if holder else "unknown"
        attached = f"{volume.id} is attached to {instance_id}"
        if state in ("shutting-down", "terminated", "gone", "unknown"):
            return Trouble(
                "holder-leaving",
                f"{attached}, which is {state}",
                "a free volume",
                f"It is attached once EC2 has let it go; if that lasts, see in EC2 why "
                f"{instance_id} does not end.",
                waits=True,
            )
        if any(
            attachment.state == "detaching"
            for attachment in volume.attachments
            if attachment.instance_id == instance_id
        ):
            return Trouble(
                "holder-detaching",
                f"{volume.id} is being detached from {instance_id}",
                "a free volume",
                "It is attached once EC2 has let it go; if that lasts, unmount it on "
                f"{instance_id}.",
                waits=True,
            )
        if state in ("stopped", "stopping"):
            return Trouble(
                "holder-stopped",
                f"{attached}, which is {state} and keeps it",
                "a free volume",
                f"Terminate {instance_id} or detach the volume from it; it is "
                "never taken away.",
                waits=True,
            )
        same = (
            holder is not None
            and holder.prefix == self.node.prefix
            and holder.node_id == self.node.node_id
        )
        if same:
            return Trouble(
                "holder-predecessor",
                f"{attached}, which is {state} as the same node {self.node}",
                "a free volume",
                f"Terminate {instance_id} if it is not on its way out.",
                waits=True,
            )
        return Trouble(
            "holder-running",
            f"{attached}, which is {state} and is not this node ({self.node})",
            "a free volume",
            f"Terminate {instance_id}, detach the volume from it, or correct the "
            "tags; it is never taken away.",
        )

    # ---- devices (section 5)

    def _device(self, volume_id: str) -> Device:
        return self.world.devices[volume_id]

    def _check_duplicates(self) -> None:
        for volume in self.volume_ids:
            names = self.world.duplicates.get(volume)
            if names:
                raise _stop(
                    "device-duplicate",
                    f"The disks {', '.join(names)} both have the serial of {volume}",
                    "one disk for each volume",
                    "Detach the volume, or reboot the instance.",
                )

    def _check_devices(self) -> None:
        mounted = self._mounted() is not None
        for volume in self.claim.volumes:
            device = self._device(volume.id)
            if device.read_only:
                raise _stop(
                    "device-read-only",
                    f"{device.path} ({volume.id}) is read-only",
                    "a disk that can be written",
                    "Look at the kernel's log for the reason.",
                )
            if device.size != volume.size_gib * GIB and not mounted:
                raise _stop(
                    "device-size",
                    f"{device.path} ({volume.id}) has {device.size} bytes and EC2 "
                    f"says {volume.size_gib} GiB",
                    "the same size",
                    "A modification of the volume may be on its way: it is waited for.",
                    waits=True,
                )
            if device.swap:
                raise _stop(
                    "device-swap",
                    f"{device.path} ({volume.id}) is in use as swap",
                    "a disk that nothing uses",
                    "Take it out of use as swap, or take its tags off.",
                )

    def _warn_of_termination(self) -> None:
        for volume in self.claim.volumes:
            for attachment in volume.attachments:
                if attachment.delete_on_termination and self._ours(volume):
                    self.warnings.append(
                        f"EC2 deletes {volume.id} with this instance "
                        "(DeleteOnTermination). Switch it off: aws ec2 "
                        "modify-instance-attribute --instance-id "
                        f"{self.world.instance_id} --block-device-mappings "
                        f"DeviceName={attachment.device},"
                        "Ebs={DeleteOnTermination=false}"
                    )

    # ---- a set of one

    def _plan_single(self) -> Plan:
        volume_id = self.volume_ids[0]
        device = self._device(volume_id)
        target = Target(device=device)
        mounted = self._mounted()
        if mounted is not None:
            return self._plan_mounted(target, mounted, Known(mounted.mount.type))
        if device.holders:
            raise _stop(
                "device-held",
                f"{device.path} ({volume_id}) is held by {', '.join(device.holders)}",
                "a disk that nothing uses",
                "It belongs to an array or a mapping: set VolumeSize and the tags "
                "of its set right, or stop what holds it.",
            )
        look = self._look(volume_id)
        steps, known = self._filesystem_steps(look, target, [look])
        return self._plan_mount(target, steps, known)

    def _look(self, volume_id: str) -> Look:
        look = self.world.looks.get(volume_id)
        if look is None:
            raise _stop(
                "device-unseen",
                f"{volume_id} could not be looked at yet",
                "its content",
                "Run again; if it stays so, see the kernel's log for its disk.",
                waits=True,
            )
        return look

    # ---- filesystem (sections 6 and 8)

    def _records(self, array_uuid: str = "", level: int = -1) -> Tuple[Record, ...]:
        """The intent on every volume.  ``level`` -1: the array is there
        already, and the record is no licence to take it back."""
        return tuple(
            Record(
                identity=self.identity,
                volume_id=volume_id,
                fs_type=self.wanted.fs_type or "",
                fs_uuid=self.fs_uuid if self.wanted.fs_type else "",
                array_uuid=array_uuid,
                level=level,
                members=self.wanted.members,
            )
            for volume_id in self.volume_ids
        )

    def _mkfs(
        self,
        records: Tuple[Record, ...],
        *,
        array_uuid: str = "",
        permitted: bool = False,
    ) -> MakeFilesystem:
        kind = self.wanted.fs_type or ""
        self._check_programs((f"mkfs.{kind}",))
        return MakeFilesystem(
            self.claim.name,
            type=kind,
            uuid=self.fs_uuid,
            label=mkfs.label(kind, self.wanted.label or f"KRKN-{self.claim.name}"),
            options=self.wanted.mkfs_options,
            records=records,
            array_uuid=array_uuid,
            permitted=permitted,
        )

    def _filesystem_steps(
        self, look: Look, target: Target, members: Sequence[Look]
    ) -> Tuple[List[Step], Known]:
        """What is to be done until the wanted filesystem is there.

        ``look`` is of where the filesystem belongs, ``members`` of the
        volumes (the same one in a set of one), which may carry records.
        """
        records = self._records(target.array_uuid)
        made = Known(self.wanted.fs_type or "", self.fs_uuid)
        content = look.content
        present = [member.record for member in members if member.record is not None]
        missing = self.claim.trouble
        if missing is not None and (present or isinstance(content, Blank)):
            # Made only where all volumes are there that the record is to name.
            if missing.kind == "members-missing":
                raise _Stop(missing)
        permitted = not self.is_array and self._permitted(target.volume_id, look)
        if present:
            try:
                if look.moved is not None and not isinstance(content, Known):
                    # Enlarged since: what it may explain lies elsewhere now.
                    raise self._refuse_record(content, present[0])
                return self._filesystem_of_record(content, present, records, target)
            except _Stop as stop:
                # Named with its record, it may be given up like anything else.
                if not permitted:
                    raise self._naming(stop, look, target) from None
        elif isinstance(content, Blank):
            self._check_origin()
            erase = EraseRecords(self.claim.name, records, member=self.is_array)
            write = WriteRecords(self.claim.name, records, member=self.is_array)
            make = self._mkfs(records, array_uuid=target.array_uuid)
            return [write, make, erase], made
        elif isinstance(content, Known) and content.type == self.wanted.fs_type:
            self._check_btrfs(content)
            return [], content
        if permitted:
            self._check_origin()
            return self._overwrite_steps(look.fingerprint, wiped=False), made
        raise self._refuse_content(content, look, target)

    def _overwrite_steps(self, fingerprint: str, *, wiped: bool) -> List[Step]:
        """From a content that was given up to the filesystem, on one volume."""
        (base,) = self._records()
        record = replace(base, given_up=fingerprint[: wiping.DIGITS])
        steps: List[Step] = []
        if not wiped:
            steps.append(
                Wipe(self.claim.name, record.volume_id, fingerprint, record=record)
            )
        return [
            *steps,
            self._mkfs((record,), permitted=True),
            EraseRecords(self.claim.name, (record,), member=False),
        ]

    def _overwriting(self, content: Content, record: Record) -> List[Step]:
        """Finish what was begun on a volume whose content was given up.

        While there is something left of it, the permission must still be
        there; when all of it is wiped, the record says enough.
        """
        if not isinstance(content, HalfMade):
            raise self._refuse_record(content, record)
        (base,) = self._records()
        wiped = replace(record, part=-1, found="", rest="")
        if wiped != replace(base, given_up=record.given_up):
            raise self._refuse_record(content, record)
        if record == wiped:
            return self._overwrite_steps(record.given_up, wiped=True)
        given = self.wanted.overwrite.get(record.volume_id, "")
        if not given.startswith(record.given_up):
            raise _stop(
                "overwrite-withdrawn",
                f"{record.volume_id} was being wiped, as overwrite permitted for the "
                f"content with the fingerprint {record.given_up}…, and does not "
                "permit any more",
                "the same entry of overwrite, to go on",
                "Put it back to have the volume wiped and formatted; what is left "
                "of its content is not touched without it.",
            )
        return self._overwrite_steps(given, wiped=False)

    def _filesystem_of_record(
        self,
        content: Content,
        present: Sequence[Record],
        records: Tuple[Record, ...],
        target: Target,
    ) -> Tuple[List[Step], Known]:
        self._check_records(present)
        erase = EraseRecords(
            self.claim.name, tuple(present), member=bool(target.array_uuid)
        )
        first = present[0]
        if first.given_up and not isinstance(content, Known) and not self.is_array:
            made = Known(first.fs_type, first.fs_uuid)
            return self._overwriting(content, first), made
        if isinstance(content, Known):
            if (content.type, content.uuid) == (first.fs_type, first.fs_uuid):
                return [erase], content
            raise self._refuse_record(content, first)
        if isinstance(content, (Blank, HalfMade)):
            meant = (self.wanted.fs_type, self.fs_uuid)
            if any((one.fs_type, one.fs_uuid) != meant for one in present):
                if isinstance(content, Blank):
                    # Nothing was begun: the wish has changed meanwhile.
                    raise _Again(erase)
                raise self._refuse_record(content, first)
            made = Known(first.fs_type, first.fs_uuid)
            make = self._mkfs(tuple(present), array_uuid=target.array_uuid)
            if len(present) == len(records):
                return [make, erase], made
            if isinstance(content, Blank) and set(present) <= set(records):
                write = WriteRecords(self.claim.name, records, member=self.is_array)
                make = self._mkfs(records, array_uuid=target.array_uuid)
                erase = replace(erase, records=records)
                return [write, make, erase], made
            if isinstance(content, Blank):
                raise _Again(erase)
            raise self._refuse_record(content, first)
        raise self._refuse_record(content, first)

    def _check_records(self, present: Sequence[Record]) -> None:
        for record in present:
            if record.identity != self.identity:
                raise _stop(
                    "record-foreign",
                    f"{record.volume_id} carries the intent record of another set "
                    "or of other volumes",
                    "a record of this very set, or none",
                    "Look at the volume by hand; to give its content up, see "
                    "overwrite.",
                )

    def _refuse_record(self, content: Content, record: Record) -> _Stop:
        return _stop(
            "record-unusable",
            f"{record.volume_id} carries the intent record of making "
            f"{record.fs_type or 'an array'}, but holds {_tell(content)}",
            "nothing but zeros and our own half-made structures",
            "It is never mounted or made anew like this. Look at the volume by "
            "hand; to give its content up, see overwrite.",
        )

    def _check_origin(self) -> None:
        for volume in self.claim.volumes:
            if volume.origin:
                raise _stop(
                    "snapshot-blank",
                    f"{volume.id} was made from {volume.origin} and shows no "
                    f"{self.wanted.fs_type or 'array'}",
                    "the content that it was copied from",
                    "A copy is never formatted: use an empty volume, or correct "
                    "FsType.",
                )

    def _check_btrfs(self, known: Known) -> None:
        clones = [
            other
            for other, look in self.world.looks.items()
            if other not in self.volume_ids
            and isinstance(look.content, Known)
            and look.content.type == known.type
            and known.uuid
            and look.content.uuid == known.uuid
        ]
        if clones:
            raise _stop(
                "filesystem-clone",
                f"{', '.join(clones)} has the same filesystem UUID {known.uuid} "
                f"as the set {self.claim.name}",
                "each filesystem UUID once on this machine",
                "Detach the copy, or give it a UUID of its own.",
            )

    def _naming(self, stop: _Stop, look: Look, target: Target) -> _Stop:
        """The refusal of a record, with what overwrite would have to name."""
        if not look.fingerprint or not target.volume_id:
            return stop
        remedy = (
            f"{stop.trouble.remedy} What is there now: overwrite: "
            f"{{{target.volume_id}: {look.fingerprint}}}."
        )
        return _Stop(replace(stop.trouble, remedy=remedy))

    def _permitted(self, volume_id: str, look: Look) -> bool:
        given = self.wanted.overwrite.get(volume_id, "")
        return bool(given) and bool(look.fingerprint) and given == look.fingerprint

    def _refuse_content(
        self,
        content: Content,
        look: Look,
        target: Target,
        expected: str = "",
        correct: str = "Correct FsType",
    ) -> _Stop:
        where = target.volume_id or f"array {target.array_uuid}"
        path = target.device.path if target.device else ""
        path = path or (target.array.path if target.array else "")
        found = f"{where} ({path}) holds {_tell(content)}"
        remedy = f"Nothing was written. {correct}, or use another volume"
        offset = content.offset if isinstance(content, Unknown) else None
        if look.fingerprint and target.volume_id:
            remedy += (
                "; to give this content up, set overwrite: "
                f"{{{target.volume_id}: {look.fingerprint}}}"
            )
        elif offset is not None and target.volume_id:
            remedy += (
                "; to give this content up, set blank_proof: full, and run again for "
                "a fingerprint of every byte"
            )
        kind = "content-other" if isinstance(content, Known) else "content-unknown"
        return _stop(
            kind,
            found,
            expected or f"{self.wanted.fs_type}, or a blank volume",
            remedy + ".",
        )

    # ---- arrays (section 7)

    def _plan_array(self) -> Plan:
        mounted = self._mounted()
        looks = {volume: self._look(volume) for volume in self.volume_ids}
        blocks = {
            volume: look.content.superblock
            for volume, look in looks.items()
            if isinstance(look.content, Known)
            and look.content.type == MD_MEMBER
            and look.content.superblock is not None
        }
        others = {v: look for v, look in looks.items() if v not in blocks}
        if not blocks:
            return self._plan_new_array(looks)
        state = arraystate.read(blocks)
        if isinstance(state, Trouble):
            raise _Stop(state)
        half = self._half_made_array(looks, blocks, state.uuid)
        if half is not None:
            return half
        return self._plan_existing_array(state, blocks, others, looks, mounted)

    def _array_name(self) -> str:
        return array_name(self.claim.name)

    def _create_steps(
        self, records: Tuple[Record, ...], permitted: Tuple[str, ...]
    ) -> List[Step]:
        steps: List[Step] = [
            CreateArray(
                self.claim.name,
                uuid=self.new_array_uuid,
                name=self._array_name(),
                level=self.wanted.raid_level or 0,
                volume_ids=self.volume_ids,
                records=records,
                permitted=permitted,
            ),
            WriteArrayLine(self.claim.name, self.new_array_uuid),
        ]
        if self.wanted.fs_type:
            steps.append(
                self._mkfs(
                    records,
                    array_uuid=self.new_array_uuid,
                    permitted=bool(permitted),
                )
            )
        steps.append(EraseRecords(self.claim.name, records, member=True))
        return steps

    def _plan_new_array(self, looks: Mapping[str, Look]) -> Plan:
        if self.claim.trouble is not None:
            # Only an array that exists may do with fewer or unequal volumes.
            raise _Stop(self.claim.trouble)
        if self.wanted.raid_level is None:
            # Nobody asks for an array: attached and left alone.
            return self._finish(ATTACHED, [])
        records = self._records(self.new_array_uuid, self.wanted.raid_level or 0)
        present = [look.record for look in looks.values() if look.record is not None]
        self._check_records(present)
        steps: List[Step] = []
        for volume_id, look in looks.items():
            self._check_not_held(volume_id)
            if isinstance(look.content, (Blank, HalfMade)):
                continue
            if self._permitted(volume_id, look) and look.record is None:
                steps.append(Wipe(self.claim.name, volume_id, look.fingerprint))
                continue
            if look.record is not None:
                raise self._refuse_record(look.content, look.record)
            raise self._refuse_content_of_member(volume_id, look)
        permitted = tuple(step.volume_id for step in steps if isinstance(step, Wipe))
        if not present:
            self._check_origin()
        stale = tuple(record for record in present if record not in records)
        if any(isinstance(look.content, HalfMade) for look in looks.values()):
            steps.append(ZeroSuperblocks(self.claim.name, tuple(present)))
        if stale:
            raise _Again(*steps, EraseRecords(self.claim.name, stale, member=True))
        if len(present) < len(records):
            steps.append(
                WriteRecords(self.claim.name, records, member=True, permitted=permitted)
            )
        steps += self._create_steps(records, permitted)
        target = Target(array_uuid=self.new_array_uuid)
        return self._plan_mount(
            target, steps, Known(self.wanted.fs_type or "", self.fs_uuid)
        )

    def _check_not_held(self, volume_id: str) -> None:
        device = self._device(volume_id)
        if device.holders or device.mounted:
            by = ", ".join(device.holders + device.mounted)
            raise _stop(
                "device-held",
                f"{device.path} ({volume_id}) is in use by {by}",
                "a disk that nothing uses",
                "Unmount it, or stop what holds it. A filesystem does not become part "
                "of an array: correct VolumeSize, or take its tags off.",
            )

    def _refuse_content_of_member(self, volume_id: str, look: Look) -> _Stop:
        return self._refuse_content(
            look.content,
            look,
            Target(device=self._device(volume_id)),
            "a member of this set's array, or a blank volume",
            "Correct VolumeSize",
        )

    def _half_made_array(
        self,
        looks: Mapping[str, Look],
        blocks: Mapping[str, MdSuperblock],
        uuid: str,
    ) -> Optional[Plan]:
        """Superblocks of ours on some members only, and our record on all:
        the creation was cut off, and goes back to its beginning."""
        if len(blocks) == len(looks):
            return None
        records = [look.record for look in looks.values() if look.record is not None]
        if len(records) != len(looks):
            return None
        self._check_records(records)
        if any(record.array_uuid != uuid or record.level < 0 for record in records):
            return None
        if any(self._device(volume_id).mounted for volume_id in looks):
            return None
        for volume_id, look in looks.items():
            if volume_id not in blocks and not isinstance(
                look.content, (Blank, HalfMade)
            ):
                assert look.record is not None
                raise self._refuse_record(look.content, look.record)
        steps: List[Step] = []
        array = self.world.array(uuid)
        if array is not None:
            # udev starts what has its superblocks, of RAID 5 for instance all
            # but the last one.
            shown = self.world.array_looks.get(uuid)
            blank = shown is not None and isinstance(shown.content, Blank)
            if array.mounted or (array.running and not blank):
                return None
            self._check_no_strangers(uuid)
            steps.append(StopArray(self.claim.name, uuid, tuple(records)))
        steps.append(ZeroSuperblocks(self.claim.name, tuple(records)))
        return self._finish(
            PLANNED,
            steps,
            outcomes=("then the array is created from the beginning",),
        )

    def _plan_existing_array(
        self,
        state: arraystate.ArrayState,
        blocks: Mapping[str, MdSuperblock],
        others: Mapping[str, Look],
        looks: Mapping[str, Look],
        mounted: Optional[Mounted],
    ) -> Plan:
        steps: List[Step] = []
        self._check_no_strangers(state.uuid)
        self._check_whole(state, others)
        for volume_id, look in others.items():
            if not isinstance(look.content, Blank) or look.record is not None:
                raise self._refuse_content_of_member(volume_id, look)
        self._warn_of_tags(state)
        array = self.world.array(state.uuid)
        degraded = bool(state.missing)
        if array is None or not array.running:
            steps.append(
                AssembleArray(
                    self.claim.name,
                    uuid=state.uuid,
                    name=self._array_name(),
                    # A spare may be about to take the place of a lost member.
                    volume_ids=state.fresh + state.spare,
                    degraded=degraded,
                )
            )
        steps += self._spare_steps(state, others)
        theirs = self.world.array_lines_foreign.get(state.uuid, ())
        if theirs or self.world.array_lines.get(state.uuid) != self.claim.name:
            steps.append(WriteArrayLine(self.claim.name, state.uuid, theirs))
        target = Target(array_uuid=state.uuid, array=array)
        if mounted is not None:
            return self._plan_mounted(
                target, mounted, Known(mounted.mount.type), steps, blocks
            )
        if self.wanted.fs_type is None:
            return self._finish_array(target, steps, looks)
        shown = self.world.array_looks.get(state.uuid)
        if array is None or not array.running or shown is None:
            return self._plan_unseen_array(target, steps, looks)
        more, known = self._filesystem_steps(shown, target, list(looks.values()))
        return self._plan_mount(target, steps + more, known)

    def _finish_array(
        self, target: Target, steps: List[Step], looks: Mapping[str, Look]
    ) -> Plan:
        """No filesystem is wanted: only a record may still lie there."""
        present = [look.record for look in looks.values() if look.record is not None]
        if present:
            self._check_records(present)
            if any(record.fs_type for record in present):
                raise self._refuse_record(Known(MD_MEMBER), present[0])
            steps.append(EraseRecords(self.claim.name, tuple(present), member=True))
        return self._finish(ASSEMBLED, steps, array_uuid=target.array_uuid)

    def _plan_unseen_array(
        self, target: Target, steps: List[Step], looks: Mapping[str, Look]
    ) -> Plan:
        """The array does not run: its first chunk, read through the member
        that holds it, tells what it will show."""
        head = self.world.heads.get(target.array_uuid)
        clean = all(look.record is None for look in looks.values())
        if clean and isinstance(head, Known) and head.type == self.wanted.fs_type:
            return self._plan_mount(target, steps, head)
        return self._finish(
            PLANNED,
            steps,
            outcomes=(
                f"where the array holds {self.wanted.fs_type}: it is mounted",
                "where it holds anything else: it is refused",
            ),
            array_uuid=target.array_uuid,
        )

    def _check_no_strangers(self, uuid: str) -> None:
        array = self.world.array(uuid)
        if array is None:
            return
        ours = {self._device(volume).name for volume in self.volume_ids}
        strangers = sorted(set(array.members) - ours)
        if strangers:
            raise _stop(
                "array-stranger",
                f"Array {array.name} ({uuid}) runs with {', '.join(strangers)}, "
                f"which are not among the volumes of {self.claim.name}",
                "only the volumes of this set in its array",
                "Stop the array and detach the copies, or pin the volumes with "
                "volume_ids.",
            )

    def _check_running(self, state: arraystate.ArrayState, array: Array) -> None:
        """Whether what runs is the array with its newest content.

        Who is in it is the kernel's to say: the superblocks of an array in use
        are read one after another, and their event counts can differ.
        """
        inside = set(array.members)
        fresh = {volume: self._device(volume).name for volume in state.fresh}
        outside = [volume for volume, name in fresh.items() if name not in inside]
        older = [
            volume for volume in state.stale if self._device(volume).name in inside
        ]
        if outside and older:
            raise _stop(
                "array-stale",
                f"Array {array.name} ({state.uuid}) runs with {', '.join(older)}, "
                f"whose content is older than that of {', '.join(outside)}",
                "the members with the newest content in it",
                "Stop the array and whatever uses it, detach the older volume, and "
                "run again.",
            )
        for volume in state.stale:
            if volume not in older:
                self.warnings.append(
                    f"{volume} is stale and not in array {state.uuid}: add it back "
                    "by hand (mdadm --re-add), or replace it."
                )
        absent = bool(array.degraded and state.missing and not older)
        if not outside and not absent:
            self._warn_of_lost(state)
            return
        missing = ", ".join(outside) or f"{len(state.missing)} of its members"
        if not array.mounted and not self.wanted.allow_degraded:
            raise _stop(
                "array-members-missing",
                f"Array {array.name} ({state.uuid}) was started without {missing}",
                "all members that the freshest superblock names",
                "Bring it back, add it by hand (mdadm --re-add), or use the array as "
                "it is with allow_degraded: true.",
            )
        self.warnings.append(f"Array {state.uuid} runs without {missing}.")

    def _check_whole(
        self, state: arraystate.ArrayState, others: Mapping[str, Look]
    ) -> None:
        array = self.world.array(state.uuid)
        if array is not None and array.running:
            self._check_running(state, array)
            return
        if state.stale:
            raise _stop(
                "array-stale",
                f"{', '.join(state.stale)} fell out of array {state.uuid} "
                "earlier than the other members: its content is older",
                "members with the same event count",
                "Replace the stale volume by an empty one, or add it back by "
                "hand (mdadm --re-add).",
            )
        if state.missing and not (
            state.redundant
            and self.wanted.allow_degraded
            and state.enough_when_degraded
        ):
            remedy = "Bring the missing volumes back"
            if state.redundant:
                remedy += ", or start it without them with allow_degraded: true"
            raise _stop(
                "array-members-missing",
                f"Array {state.uuid} (RAID {state.level}) expects "
                f"{len(state.expected)} members and {len(state.fresh)} of them are "
                f"here ({', '.join(state.fresh)})",
                "all members that the freshest superblock names",
                remedy + ".",
            )
        if not state.may_run:
            raise _stop(
                "array-members-missing",
                f"Array {state.uuid} (RAID {state.level}) has lost more than it can "
                f"do without: {len(state.fresh)} of {state.raid_disks} members are "
                f"whole ({', '.join(state.fresh) or 'none'})",
                "enough members that carry the data",
                "Bring the lost volumes back, or restore the set from a backup.",
            )
        self._warn_of_lost(state)
        if state.missing:
            self.warnings.append(
                f"Array {state.uuid} is started without {len(state.missing)} of its "
                "members, as allow_degraded permits."
            )

    def _warn_of_lost(self, state: arraystate.ArrayState) -> None:
        if state.failed:
            self.warnings.append(
                f"Array {state.uuid} (RAID {state.level}) has already lost "
                f"{len(state.failed)} of {state.raid_disks} members and runs "
                "degraded: give the set a new, empty volume."
            )

    def _warn_of_tags(self, state: arraystate.ArrayState) -> None:
        wanted = self.wanted
        if wanted.raid_level is not None and wanted.raid_level != state.level:
            self.warnings.append(
                f"RaidLevel says {wanted.raid_level}, the array on the volumes of "
                f"{self.claim.name} is RAID {state.level}: it is used as it is."
            )
        if wanted.members != state.raid_disks:
            self.warnings.append(
                f"VolumeSize says {wanted.members}, the array on the volumes of "
                f"{self.claim.name} has {state.raid_disks} members: it is used as "
                "it is."
            )

    def _spare_steps(
        self, state: arraystate.ArrayState, others: Mapping[str, Look]
    ) -> List[Step]:
        steps: List[Step] = []
        slots = len(state.failed)
        copies = {volume.id for volume in self.claim.volumes if volume.origin}
        for volume_id in sorted(others):
            self._check_not_held(volume_id)
            if volume_id in copies:
                self.warnings.append(
                    f"{volume_id} is a copy of another volume: it is not added to "
                    f"array {state.uuid}."
                )
                continue
            if slots <= 0 or not state.redundant:
                self.warnings.append(
                    f"{volume_id} is blank and array {state.uuid} has no free "
                    "slot for it: it is left alone."
                )
                continue
            slots -= 1
            steps.append(AddMember(self.claim.name, state.uuid, volume_id))
        return steps

    # ---- mount (section 8)

    def _mounted(self) -> Optional[Mounted]:
        """Where the set is mounted, at its own path if there."""
        mounts = self.world.mounts_of(frozenset(self.volume_ids))
        for mounted in mounts:
            if mounted.mount.path == self.wanted.mount_path:
                return mounted
        return mounts[0] if mounts else None

    def _line(self, known: Known) -> FstabLine:
        return fstab.entry(
            self.claim.name,
            known.uuid,
            self.wanted.mount_path or "",
            known.type,
            self.wanted.mount_options,
        )

    def _plan_mounted(
        self,
        target: Target,
        mounted: Mounted,
        known: Known,
        steps: Sequence[Step] = (),
        blocks: Mapping[str, MdSuperblock] = {},
    ) -> Plan:
        todo = list(steps)
        path = self.wanted.mount_path
        if path is None:
            return self._finish(MOUNTED, todo, array_uuid=target.array_uuid)
        known = self._mounted_filesystem(known, target)
        if mounted.mount.path != path:
            self.warnings.append(
                f"{self.claim.name} is mounted at {mounted.mount.path} and is to be "
                f"at {path}: it moves at the next reboot."
            )
        if self.wanted.fs_type and known.type != self.wanted.fs_type:
            self.warnings.append(
                f"FsType says {self.wanted.fs_type}, {path} is {known.type}: it is "
                "used as it is."
            )
        if known.uuid:
            todo += self._mounted_line(target, mounted, known)
        if mounted.mount.path == path:
            todo += self._owner_steps(path, fresh=False)
            self._note_owner(path)
        self._note_label(known, mounted.mount.path)
        self._warn_of_damage(mounted)
        grown = self._growth(target, mounted, blocks)
        return self._finish(
            MOUNTED,
            [*todo, *grown.steps],
            outcomes=grown.outcomes,
            array_uuid=target.array_uuid,
            filesystem=known,
            trouble=self._owner_pending(path),
        )

    def _growth(
        self, target: Target, mounted: Mounted, blocks: Mapping[str, MdSuperblock]
    ) -> growth.Growth:
        if not self.wanted.grow or self.claim.name in self.world.not_grown:
            return growth.Growth()
        for volume in self.claim.volumes:
            device = self._device(volume.id)
            if device.size < volume.size_gib * GIB:
                self.notes.append(
                    f"EC2 says that {volume.id} has {volume.size_gib} GiB, and "
                    f"{device.path} has {gib(device.size)} so far: it grows when "
                    "the machine sees the new size, at the next boot at the latest."
                )
        if target.device is not None:
            found = growth.of_volume(self.claim.name, target.device, mounted)
        elif target.array is not None:
            inside = {
                volume: growth.Member(self._device(volume), block)
                for volume, block in blocks.items()
                if self._device(volume).name in target.array.members
            }
            found = growth.of_array(self.claim.name, target.array, inside, mounted)
        else:
            return growth.Growth()
        self.warnings += found.warnings
        self.notes += found.notes
        return found

    def _note_label(self, known: Known, path: str) -> None:
        wanted = self.wanted.label
        if not wanted or not known.uuid:
            return
        meant = mkfs.label(known.type, wanted)
        if known.label != meant:
            self.notes.append(
                f"Label says {meant!r}, the {known.type} at {path} has "
                f"{known.label!r}: it is left as it is."
            )

    def _note_owner(self, path: str) -> None:
        state = self.world.paths.get(path)
        if not self._owner_wanted() or state is None or self._unknown_accounts():
            return
        if not self._owned(state) and not state.as_made:
            self.notes.append(
                f"{path} belongs to {state.uid}:{state.gid} with mode "
                f"{state.mode:04o}, which is not what Owner, Group and Mode say: "
                "they are set when a filesystem is new, and it is left as it is."
            )

    def _warn_of_damage(self, mounted: Mounted) -> None:
        path, kind = mounted.mount.path, mounted.mount.type
        if mounted.errors:
            self.warnings.append(
                f"The kernel has found errors in the {kind} at {path} (dmesg): take "
                "a snapshot, stop what uses it, and reboot or unmount it and run "
                "again. It is checked before it is mounted."
            )
        if mounted.read_only and "ro" not in self.wanted.mount_options:
            self.warnings.append(
                f"{path} can only be read, which MountOptions does not ask for: the "
                "kernel does so after an error (dmesg)."
            )

    def _mounted_filesystem(self, known: Known, target: Target) -> Known:
        look: Optional[Look] = self.world.looks.get(target.volume_id)
        if target.array_uuid:
            look = self.world.array_looks.get(target.array_uuid)
        if look is None or not isinstance(look.content, Known):
            return known
        # It is something else where a partition or a mapping is mounted.
        return look.content if look.content.type == known.type else known

    # ---- the line in fstab (section 8)

    def _mounted_line(
        self, target: Target, mounted: Mounted, known: Known
    ) -> List[Step]:
        """The line of a set that is mounted, which nothing in fstab can make
        a failure."""
        line = self._line(known)
        if mounted.mount.path != line.path:
            state = self.world.paths.get(line.path)
            if state is not None and state.kind not in ("absent", "directory"):
                self.warnings.append(
                    f"{line.path} is not a directory: fstab still has "
                    f"{mounted.mount.path} for {self.claim.name}."
                )
                return []
            if state is not None and state.entries:
                self.warnings.append(
                    f"Mounting at {line.path} will hide what is in it: "
                    f"{', '.join(state.entries)}."
                )
        try:
            steps = self._fstab_steps(line, target, known, mounted.mount.path)
        except _Stop as stop:
            self.warnings.append(str(stop.trouble))
            return []
        before = self.world.fstab.get(self.claim.name)
        if before is not None and before.path == line.path == mounted.mount.path:
            if before.options != line.options:
                self.warnings.append(
                    f"The mount options of {line.path} are now "
                    f"{','.join(self.wanted.mount_options) or 'defaults'}: they hold "
                    f"from the next reboot on, or after: mount -o remount {line.path}"
                )
        return steps

    def _fstab_steps(
        self, line: FstabLine, target: Target, known: Known, place: str = ""
    ) -> List[Step]:
        """``place``: where the set is mounted now, if anywhere."""
        theirs = self._lines_to_replace(line, target, known, place)
        for foreign in fstab.on_path(self.world.fstab_foreign, line.path):
            if foreign not in theirs:
                raise _stop(
                    "fstab-conflict",
                    f"fstab mounts {foreign.spec} at {foreign.path}",
                    f"{line.path} free for the set {self.claim.name}, or a line for "
                    f"its own filesystem ({line.spec})",
                    "Take that line out of fstab and run again, or choose another "
                    "MountPath.",
                )
        if not theirs and self.world.fstab.get(self.claim.name) == line:
            return []
        lost = [fstab.options_lost(one, line) for one in theirs if not one.set]
        options = ",".join(dict.fromkeys(one for found in lost for one in found))
        if options:
            self.warnings.append(
                f"The line in fstab that {self.claim.name} had before it was ours "
                f"has the options {options}, ours has not: name them in MountOptions "
                "to keep them."
            )
        return [WriteFstab(self.claim.name, line, theirs)]

    def _lines_to_replace(
        self, line: FstabLine, target: Target, known: Known, place: str
    ) -> Tuple[FstabLine, ...]:
        """Lines that mount this very filesystem where it belongs or is now,
        and those of a set that has another name today."""
        live = {claim.name for claim in self.claims}
        device = target.device or target.array
        devno = device.devno if device else ""
        there = [
            *fstab.on_path(self.world.fstab_foreign, line.path),
            *(fstab.on_path(self.world.fstab_foreign, place) if place else ()),
        ]
        found = [
            one
            for one in self.world.fstab_foreign
            if one in there and fstab.names(one, known, devno, self.world.fstab_devnos)
        ]
        renamed = [
            one
            for name, one in sorted(self.world.fstab.items())
            if name not in live and one.spec == line.spec
        ]
        return (*found, *renamed)

    def _plan_mount(self, target: Target, steps: List[Step], known: Known) -> Plan:
        path = self.wanted.mount_path
        fresh = any(isinstance(step, MakeFilesystem) for step in steps)
        if path is None or self.wanted.fs_type is None:
            state = ASSEMBLED if target.array_uuid else ATTACHED
            return self._finish(
                state, steps, array_uuid=target.array_uuid, filesystem=known
            )
        parent = self._waits_for(path)
        if parent is not None:
            self._check_parent_stays(path, parent)
        if parent in self.world.failed:
            raise _stop(
                "parent-failed",
                f"{path} lies below the mount path of the set {parent}, which has "
                "failed",
                f"{parent} mounted first",
                f"Correct {parent}, or choose another MountPath.",
            )
        if parent is not None:
            # What a new filesystem would hide can be seen only then.
            before = [] if fresh else [step for step in steps if step.phase != "mount"]
            if before:
                return self._finish(
                    PLANNED,
                    before,
                    outcomes=(f"mounted at {path} after {parent}",),
                    array_uuid=target.array_uuid,
                    filesystem=known,
                )
            raise _stop(
                "parent-not-mounted",
                f"{path} lies below the mount path of the set {parent}, which is "
                "not mounted yet",
                f"{parent} mounted first",
                f"See what {parent} waits for (cc-kraken status).",
                waits=True,
            )
        self._check_path(path, fresh)
        line = self._line(known)
        steps = list(steps)
        if self._path_kind(path) == "absent":
            steps.append(MakeDirectory(self.claim.name, path))
        steps += self._fstab_steps(line, target, known)
        if known.errors:
            steps.append(
                CheckFilesystem(
                    self.claim.name,
                    type=known.type,
                    uuid=known.uuid,
                    array_uuid=target.array_uuid,
                    volume_id=target.volume_id,
                )
            )
        steps.append(
            MountFilesystem(
                self.claim.name,
                path=path,
                type=known.type,
                uuid=known.uuid,
                options=self.wanted.mount_options,
                array_uuid=target.array_uuid,
                volume_id=target.volume_id,
                covers=not fresh or self.wanted.mount_over,
            )
        )
        outcomes: Tuple[str, ...] = ()
        if fresh:
            steps += self._owner_steps(path, fresh=True)
        elif self._owner_wanted():
            outcomes = ("its owner is set where the root is as mkfs left it",)
        return self._finish(
            PLANNED,
            steps,
            outcomes=outcomes,
            array_uuid=target.array_uuid,
            filesystem=known,
        )

    def _owner_wanted(self) -> bool:
        wanted = self.wanted
        wishes = (wanted.owner, wanted.group, wanted.mode)
        return any(wish is not None for wish in wishes)

    def _waits_for(self, path: str) -> Optional[str]:
        """The set whose mount path is above ``path`` and not mounted."""
        for claim in self.claims:
            above = claim.wanted.mount_path
            if claim.name == self.claim.name or not above:
                continue
            if path.startswith(above.rstrip("/") + "/"):
                volumes = frozenset(volume.id for volume in claim.volumes)
                mounted = self.world.mounted_at(above)
                if mounted is None or mounted.volumes != volumes:
                    return claim.name
        return None

    def _check_parent_stays(self, path: str, parent: str) -> None:
        """A set that is to move is not where it will be before a reboot."""
        above = next(claim for claim in self.claims if claim.name == parent)
        volumes = frozenset(volume.id for volume in above.volumes)
        for mounted in self.world.mounts_of(volumes):
            if mounted.mount.path != above.wanted.mount_path:
                raise _stop(
                    "parent-moves",
                    f"{path} lies below the mount path of the set {parent}, which is "
                    f"still mounted at {mounted.mount.path}",
                    f"{parent} at {above.wanted.mount_path}",
                    f"Reboot: {parent} moves then, and {self.claim.name} is mounted "
                    "after it.",
                )

    def _path_kind(self, path: str) -> str:
        state = self.world.paths.get(path)
        return state.kind if state else "absent"

    def _check_path(self, path: str, fresh: bool) -> None:
        mounted = self.world.mounted_at(path)
        if mounted is not None:
            raise _stop(
                "mount-path-busy",
                f"{mounted.mount.source} ({mounted.mount.type}) is mounted at {path}",
                f"{path} free for the set {self.claim.name}",
                "Unmount it, or choose another MountPath.",
            )
        state = self.world.paths.get(path)
        if state is None or state.kind == "absent":
            return
        if state.kind == "unreadable":
            raise _stop(
                "mount-path-kind",
                f"{path} cannot be looked at",
                "a directory, or nothing",
                "See the log for the reason, or choose another MountPath.",
            )
        if state.kind != "directory":
            raise _stop(
                "mount-path-kind",
                f"{path} is a symbolic link, below one, or not a directory",
                "a directory, or nothing",
                "Choose another MountPath, or take away what is there.",
            )
        if not state.entries:
            return
        names = ", ".join(state.entries)
        if fresh and not self.wanted.mount_over:
            raise _stop(
                "mount-path-files",
                f"{path} has files in it ({names}), which the new filesystem would "
                "hide",
                "an empty directory",
                "Move the files away, or set mount_over: true.",
            )
        self.warnings.append(f"Mounting at {path} hides what is in it: {names}.")

    def _owner_steps(self, path: str, *, fresh: bool) -> List[Step]:
        wanted = self.wanted
        if not self._owner_wanted():
            return []
        state = self.world.paths.get(path)
        if not fresh and (state is None or not state.as_made or self._owned(state)):
            return []
        if self._unknown_accounts():
            return []
        return [
            SetOwner(self.claim.name, path, wanted.owner, wanted.group, wanted.mode)
        ]

    def _unknown_accounts(self) -> List[str]:
        """The wanted user and group that do not exist yet."""
        wanted = self.wanted
        return [
            f"{kind} {name}"
            for kind, name in (("user", wanted.owner), ("group", wanted.group))
            if name is not None and self.world.accounts.get(f"{kind}:{name}") is None
        ]

    def _owner_pending(self, path: str) -> Optional[Trouble]:
        state = self.world.paths.get(path)
        unknown = self._unknown_accounts()
        if not unknown or state is None or not state.as_made:
            return None
        return Trouble(
            "owner-pending",
            f"There is no {' and no '.join(unknown)} yet, {path} stays with root",
            f"the owner that the set {self.claim.name} names",
            f"Make {' and '.join(unknown)}, or correct Owner and Group; the owner is "
            f"set when they exist (cc-kraken wait {self.claim.name} does it right "
            "before a service).",
            waits=True,
        )

    def _owned(self, state: PathState) -> bool:
        accounts = self.world.accounts
        wanted = self.wanted
        uid = accounts.get(f"user:{wanted.owner}") if wanted.owner else state.uid
        gid = accounts.get(f"group:{wanted.group}") if wanted.group else state.gid
        mode = state.mode if wanted.mode is None else wanted.mode
        return (state.uid, state.gid, state.mode) == (uid, gid, mode)

    # ---- common

    def _check_programs(self, needed: Sequence[str]) -> None:
        for program in needed:
            if program in self.world.missing_programs:
                raise _stop(
                    "program-missing",
                    f"The program {program} is not on this machine",
                    f"{program} for the set {self.claim.name}",
                    f"Install the package {PACKAGES.get(program, program)}.",
                )

    def _outcomes(self) -> Tuple[str, ...]:
        wanted = self.wanted
        many = self.is_array
        out: List[str] = []
        if many:
            level = wanted.raid_level
            out.append(
                f"where all volumes are blank: RAID {level} is created"
                + (f", {wanted.fs_type} made" if wanted.fs_type else "")
            )
            out.append("where they carry one array: it is assembled and used")
        elif wanted.fs_type:
            out.append(f"where the volume is blank: {wanted.fs_type} is made")
            out.append(f"where it holds {wanted.fs_type}: it is used as it is")
        if wanted.fs_type:
            out.append("where anything else is found: the set is refused")
        if wanted.fs_type and wanted.mount_path:
            out.append(f"then it is mounted at {wanted.mount_path}")
        return tuple(out)

    def _finish(
        self,
        state: str,
        steps: Sequence[Step],
        *,
        outcomes: Tuple[str, ...] = (),
        array_uuid: str = "",
        filesystem: Optional[Known] = None,
        trouble: Optional[Trouble] = None,
    ) -> Plan:
        return Plan(
            self.claim.name,
            state,
            steps=tuple(steps),
            trouble=trouble,
            warnings=tuple(self.warnings),
            outcomes=outcomes,
            array_uuid=array_uuid,
            filesystem=filesystem,
            notes=tuple(self.notes),
        )


PACKAGES: Dict[str, str] = {
    "mdadm": "mdadm",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
}


def _tell(content: Content) -> str:
    """What a content is, in words."""
    if isinstance(content, Blank):
        return "nothing but zeros"
    if isinstance(content, HalfMade):
        return "a half-made filesystem of ours"
    if isinstance(content, Known):
        name = f" (UUID {content.uuid})" if content.uuid else ""
        label = f", label {content.label!r}" if content.label else ""
        return f"{content.type}{name}{label}"
    assert isinstance(content, Unknown)
    where = f", first at byte {content.offset}" if content.offset is not None else ""
    return f"unknown content: {content.reason}{where}"
