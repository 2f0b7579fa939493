"""The steps that a plan is made of: every change that a run can make.

A step says what is to be done, in a sentence (``str``), and nothing of how.
The executor has one function for each class here.  ``CHANGES`` are all of them:
the points at which a run may be cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from cc_kraken.decide import creating
from cc_kraken.decide.creating import Create, Wished
from cc_kraken.model import ArrayLine, FstabLine, Record, gib

CREATE = "create"
ATTACH = "attach"
ASSEMBLE = "assemble"
MKFS = "mkfs"
MOUNT = "mount"
GROW = "grow"
PHASES = (CREATE, ATTACH, ASSEMBLE, MKFS, MOUNT, GROW)
OF_CLOUD = (CREATE, ATTACH)
"""Phases that ask the cloud, and use no volume."""
CHANGES: list[type[Step]] = []


@dataclass(frozen=True)
class Step:
    """One change to one set; ``phase`` orders the steps of all sets."""

    phase: ClassVar[str]
    set: str

    def __init_subclass__(cls, phase: str) -> None:
        cls.phase = phase
        CHANGES.append(cls)


def _volumes(records: tuple[Record, ...]) -> str:
    return ", ".join(record.volume_id for record in records)


@dataclass(frozen=True)
class CreateVolumes(Step, phase=CREATE):
    """CreateVolume for the members of a set of which EC2 has no volume."""

    wished: Wished
    create: Create

    @property
    def monthly(self) -> str:
        return creating.monthly(self.wished.wish, len(self.create.members))

    def __str__(self) -> str:
        members, of = self.create.members, self.wished.wanted.members
        which = f"volume {', '.join(map(str, members))} of {of}"
        return (
            f"create {which} ({creating.described(self.wished.wish)}) in "
            f"{self.wished.zone}"
        )


@dataclass(frozen=True)
class Attach(Step, phase=ATTACH):
    """AttachVolume: the first volume alone, then the others side by side."""

    volume_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"attach {', '.join(self.volume_ids)}"


@dataclass(frozen=True)
class Detach(Step, phase=ATTACH):
    """DetachVolume of what this run attached and nothing has used, because
    a rival holds another member of the set."""

    volume_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"detach {', '.join(self.volume_ids)}, unused, from this instance"


@dataclass(frozen=True)
class Wipe(Step, phase=ASSEMBLE):
    """Zero the places that the proof reads, as ``overwrite`` permits."""

    volume_id: str
    fingerprint: str

    def __str__(self) -> str:
        return (
            f"wipe {self.volume_id}, whose content (fingerprint "
            f"{self.fingerprint[:16]}) the configuration gives up"
        )


@dataclass(frozen=True)
class WriteRecords(Step, phase=ASSEMBLE):
    """Write and flush the intent record on every volume of the set.

    ``permitted``: volumes that ``overwrite`` has just wiped.
    """

    records: tuple[Record, ...]
    member: bool
    permitted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"write the intent record on {_volumes(self.records)}"


@dataclass(frozen=True)
class StopArray(Step, phase=ASSEMBLE):
    """``mdadm --stop`` of what udev put together of a half-made array."""

    uuid: str
    records: tuple[Record, ...]

    def __str__(self) -> str:
        return f"stop the half-made array {self.uuid}"


@dataclass(frozen=True)
class ZeroSuperblocks(Step, phase=ASSEMBLE):
    """Take back the md superblocks of an array that was half made."""

    records: tuple[Record, ...]

    def __str__(self) -> str:
        volumes = _volumes(self.records)
        return f"zero the superblocks of the half-made array on {volumes}"


@dataclass(frozen=True)
class CreateArray(Step, phase=ASSEMBLE):
    """``mdadm --create`` over members that carry our record and are blank."""

    uuid: str
    name: str
    level: int
    volume_ids: tuple[str, ...]
    records: tuple[Record, ...]
    permitted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"create RAID {self.level} array {self.name} ({self.uuid}) of "
            f"{', '.join(self.volume_ids)}"
        )


@dataclass(frozen=True)
class AssembleArray(Step, phase=ASSEMBLE):
    """``mdadm --assemble`` by UUID."""

    uuid: str
    name: str
    volume_ids: tuple[str, ...]
    degraded: bool = False

    def __str__(self) -> str:
        how = " degraded" if self.degraded else ""
        return f"assemble array {self.uuid}{how} from {', '.join(self.volume_ids)}"


@dataclass(frozen=True)
class AddMember(Step, phase=ASSEMBLE):
    """``mdadm --add`` of a blank volume into a free slot."""

    uuid: str
    volume_id: str

    def __str__(self) -> str:
        return f"add the blank {self.volume_id} to array {self.uuid}"


@dataclass(frozen=True)
class WriteArrayLine(Step, phase=ASSEMBLE):
    """An ``ARRAY`` line for mdadm, by UUID only; those of somebody else's in
    ``instead_of`` go."""

    uuid: str
    instead_of: tuple[ArrayLine, ...] = ()

    def __str__(self) -> str:
        text = f"name array {self.uuid} in mdadm's configuration"
        if self.instead_of:
            files = dict.fromkeys(line.file for line in self.instead_of)
            text += f", instead of in {', '.join(files)}"
        return text


@dataclass(frozen=True)
class MakeFilesystem(Step, phase=MKFS):
    """mkfs on a volume, or on an array (``array_uuid``), that is blank or
    that our own record says was half made."""

    type: str
    uuid: str
    label: str
    options: tuple[str, ...]
    records: tuple[Record, ...]
    array_uuid: str = ""
    permitted: bool = False

    def __str__(self) -> str:
        where = self.array_uuid and f"array {self.array_uuid}"
        where = where or self.records[0].volume_id
        return f"make {self.type} (UUID {self.uuid}, label {self.label}) on {where}"


@dataclass(frozen=True)
class EraseRecords(Step, phase=MKFS):
    """Erase and flush the intent records: what was meant is made."""

    records: tuple[Record, ...]
    member: bool

    def __str__(self) -> str:
        return f"erase the intent record on {_volumes(self.records)}"


@dataclass(frozen=True)
class MakeDirectory(Step, phase=MOUNT):
    """Make the mount point."""

    path: str

    def __str__(self) -> str:
        return f"make the directory {self.path}"


@dataclass(frozen=True)
class WriteFstab(Step, phase=MOUNT):
    """Write or replace the set's line in fstab.  ``instead_of``: lines for the
    same filesystem that go, of somebody else's or of a set's former name."""

    line: FstabLine
    instead_of: tuple[FstabLine, ...] = ()

    def __str__(self) -> str:
        line = self.line
        text = f"write {line.spec} {line.path} {line.type} into fstab"
        if self.instead_of:
            briefs = [
                f"{one.spec} {one.path} {one.type} {','.join(one.options)}"
                for one in self.instead_of
            ]
            text += f", instead of {' and '.join(dict.fromkeys(briefs))}"
            if len(briefs) > len(set(briefs)):
                text += f" ({len(briefs)} lines)"
        return text


@dataclass(frozen=True)
class CheckFilesystem(Step, phase=MOUNT):
    """What fsck does by itself, on a filesystem that says it needs it."""

    type: str
    uuid: str
    array_uuid: str = ""
    volume_id: str = ""

    def __str__(self) -> str:
        where = self.array_uuid and f"array {self.array_uuid}"
        return f"check the {self.type} on {where or self.volume_id}, which has errors"


@dataclass(frozen=True)
class MountFilesystem(Step, phase=MOUNT):
    """Mount, and verify that it is the right device that is mounted.

    ``covers``: what the directory holds may be hidden.  It is not where this run
    makes the filesystem: then the directory is looked at once more.
    """

    path: str
    type: str
    uuid: str
    options: tuple[str, ...]
    array_uuid: str = ""
    volume_id: str = ""
    covers: bool = True

    def __str__(self) -> str:
        return f"mount {self.uuid} at {self.path}"


@dataclass(frozen=True)
class SetOwner(Step, phase=MOUNT):
    """Owner, group and mode of a filesystem that is as mkfs left it."""

    path: str
    owner: Optional[str]
    group: Optional[str]
    mode: Optional[int]

    def __str__(self) -> str:
        words = []
        if self.owner is not None or self.group is not None:
            words.append(f"owner {self.owner or ''}:{self.group or ''}")
        if self.mode is not None:
            words.append(f"mode {self.mode:04o}")
        return f"set {' and '.join(words)} on {self.path}"


@dataclass(frozen=True)
class GrowArray(Step, phase=GROW):
    """``mdadm --grow --size=max``: all members have more than it uses.

    ``before`` and ``after``: bytes of each member, as seen and at most.
    """

    uuid: str
    before: int
    after: int

    def __str__(self) -> str:
        return (
            f"grow array {self.uuid} from {gib(self.before)} to "
            f"{gib(self.after)} of each member"
        )


@dataclass(frozen=True)
class GrowFilesystem(Step, phase=GROW):
    """Let the filesystem mounted at ``path`` fill its device.

    ``before`` and ``after``: bytes of the filesystem as seen, and at most.
    """

    path: str
    type: str
    before: int
    after: int
    array_uuid: str = ""
    volume_id: str = ""

    def __str__(self) -> str:
        return (
            f"grow the {self.type} at {self.path} from {gib(self.before)} to "
            f"{gib(self.after)}"
        )


@dataclass(frozen=True)
class RemoveFstab(Step, phase=MOUNT):
    """Take out the line of a set that this node no longer has, with its ``ARRAY``
    line, or of one that it no longer mounts (``gone`` False)."""

    gone: bool = True

    def __str__(self) -> str:
        return f"take the line of the set {self.set} out of fstab"


#: What is still done for a set that has failed.
LAST = (Detach, WriteFstab)
