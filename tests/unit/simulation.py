"""A machine and its volumes as plain data, with a memory of every byte's truth.

The executor here carries steps out in small effects, so that it can be cut off
after any of them, and refuses nothing.  What it does is judged against what
really lies on the volumes, which the decision never sees: it is shown only
what :mod:`cc_kraken.act.observe` would find.  A step that would cost somebody data
raises :class:`Violation`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    Callable,
    Optional,
    Union,
)

from cc_kraken.cloud.protocol import IN_USE
from cc_kraken.config import sets
from cc_kraken.decide import creating, decision
from cc_kraken.decide import members as arraystate
from cc_kraken.decide.members import Seen
from cc_kraken.decide.plan import MOUNTED, Plan
from cc_kraken.decide.steps import (
    CHANGES,
    PHASES,
    AddMember,
    AssembleArray,
    Attach,
    CheckFilesystem,
    CreateArray,
    CreateVolumes,
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
from cc_kraken.machine.mountinfo import is_within
from cc_kraken.model import (
    Array,
    Attachment,
    Blank,
    Claim,
    Content,
    Device,
    FstabLine,
    HalfMade,
    Holder,
    Known,
    KrakenError,
    Look,
    MdSuperblock,
    Mount,
    Mounted,
    NewVolume,
    Node,
    PathState,
    Record,
    Section,
    Trouble,
    Unknown,
    Volume,
)
from cc_kraken.state import array_history
from tests.unit import worlds as w

MD_MEMBER = "linux_raid_member"
MEMBER, SINGLE = "member", "single"
OLD = "where it was before the volume was enlarged"
WHOLE, TORN, HALF = "whole", "torn", "half"
SPARE = 0xFFFF
QUIET_ROUNDS = 12
NOT_UP = ("mount-hidden", "mounted-elsewhere")


class Violation(AssertionError):
    """A step has destroyed, exposed or split what it must not."""


class Refused(Exception):
    """The guard's proof that the decision leaves to it: what lies behind a
    superblock is read right before it is taken back (destroy.py)."""


class Cut(Exception):
    """The run was killed, or the power went, at this point."""


@dataclass(frozen=True)
class Filesystem:
    """``state``: half (no signature yet), torn (it looks complete and is
    not), whole.  ``files``: somebody has mounted it, and has files in it."""

    type: str
    uuid: str
    state: str = WHOLE
    files: bool = False


@dataclass(frozen=True)
class Alien:
    """Anything else: a known ``type``, or bytes that nobody knows ("")."""

    type: str = ""
    mark: int = 0


Body = Union[None, Filesystem, Alien]


@dataclass
class Disk:
    """One volume: what EC2 says of it, and what really lies on it.

    ``body``: what it shows without an array.  ``share``: its part of an
    array's data is not zero.  ``torn``: its superblock is half written.
    ``residue``: old data outside the places that are always read.
    """

    id: str
    tags: Mapping[str, str]
    size_gib: int = 1
    origin: str = ""
    zone: str = w.ZONE
    holder: str = ""
    arrived: bool = False
    records: dict[str, Record] = field(default_factory=dict)
    block: Optional[MdSuperblock] = None
    torn: bool = False
    share: bool = False
    body: Body = None
    residue: bool = False

    @property
    def zero(self) -> bool:
        """Every byte outside the intent record is zero."""
        return not (self.block or self.torn or self.share or self.body or self.residue)


@dataclass
class Md:
    """An array that the kernel knows; members by volume id."""

    name: str
    uuid: str
    members: list[str]
    running: bool


def demand(true: object, why: str) -> None:
    if not true:
        raise Violation(why)


class SimulatedCloud:
    """The second :class:`cc_kraken.cloud.protocol.Cloud`: disks, and who has them.

    ``instances``: the others that it knows.  ``rivals``: volumes that another
    instance gets a moment before this one.  ``group``: what its group wants of it.
    """

    def __init__(self, disks: Iterable[Disk], instance: str = w.ME) -> None:
        self.disks = {disk.id: disk for disk in disks}
        self.instance = instance
        self.instances: dict[str, Holder] = {}
        self.rivals: list[str] = []
        self.group = ""
        self.tokens: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()

    def instance_tags(self) -> Mapping[str, str]:
        self.calls["instance_tags"] += 1
        return tags_of(w.NODE)

    def volumes(self, node: Node) -> tuple[Volume, ...]:
        self.calls["volumes"] += 1
        return tuple(
            self._volume(disk)
            for _, disk in sorted(self.disks.items())
            if tags_of(node).items() <= disk.tags.items()
        )

    def _volume(self, disk: Disk) -> Volume:
        state = "in-use" if disk.holder else "available"
        attachments: tuple[Attachment, ...] = ()
        if disk.holder:
            how = "attached" if disk.arrived else "attaching"
            attachments = (Attachment(disk.holder, "/dev/sdf", how),)
        return Volume(
            disk.id,
            disk.size_gib,
            disk.zone,
            state,
            disk.tags,
            attachments,
            disk.origin,
        )

    def prefix_volumes(self, prefix: str, zone: str = "") -> tuple[Volume, ...]:
        self.calls["prefix_volumes"] += 1
        return tuple(
            self._volume(disk)
            for _, disk in sorted(self.disks.items())
            if disk.tags.get("KRKN-IN:Prefix") == prefix and zone in ("", disk.zone)
        )

    def marked_volumes(self) -> tuple[Volume, ...]:
        self.calls["marked_volumes"] += 1
        return tuple(self._volume(disk) for _, disk in sorted(self.disks.items()))

    def lifecycle(self) -> str:
        return self.group

    def holders(self, instance_ids: Iterable[str]) -> Mapping[str, Holder]:
        ids = set(instance_ids)
        self.calls["holders"] += bool(ids)
        return {one: self.instances.get(one, Holder(one, "gone")) for one in ids}

    def create_volume(self, new: NewVolume) -> str:
        self.calls["create_volume"] += 1
        made = self.tokens.setdefault(new.token, w.volume_id(100 + len(self.tokens)))
        self.disks.setdefault(
            made,
            Disk(
                made,
                dict(new.tags),
                zone=new.zone,
                size_gib=new.wish.size_gib,
                origin=new.wish.snapshot,
            ),
        )
        return made

    def attach(self, volume_id: str) -> str:
        self.calls["attach"] += 1
        disk = self.disks[volume_id]
        if volume_id in self.rivals and not disk.holder:
            self.rivals.remove(volume_id)
            disk.holder = "i-0000000000000beef"
            self.instances[disk.holder] = Holder(disk.holder, "running", "other")
        if disk.holder:
            text = f"{volume_id} is attached to {disk.holder}"
            raise KrakenError(Trouble(IN_USE, text, "", "", waits=True))
        disk.holder, disk.arrived = self.instance, False
        return "/dev/sdf"

    def detach(self, volume_id: str) -> None:
        self.calls["detach"] += 1
        disk = self.disks[volume_id]
        if disk.holder == self.instance:
            disk.holder, disk.arrived = "", False


def tags_of(node: Node) -> dict[str, str]:
    return {"KRKN-IN:Prefix": node.prefix, "KRKN-IN:NodeId": node.node_id}


class Simulation:
    """A cloud, one instance at a time, and the volumes; rounds as the run does."""

    def __init__(
        self, section: Section, disks: Sequence[Disk], *, udev: bool = True
    ) -> None:
        self.section = section
        self.cloud = SimulatedCloud(disks)
        self.disks = self.cloud.disks
        self.bodies: dict[str, Body] = {}
        self.sizes: dict[str, int] = {}  # of filesystems, in bytes
        self.components: dict[str, int] = {}  # of arrays
        self.flagged: set[str] = set()  # ext4 that says it has errors
        self.roots: dict[str, PathState] = {}  # owner and mode of filesystems
        self.seen: dict[str, Seen] = {}  # what this instance has kept of arrays
        self.udev = udev
        self.slow = False
        self.must_exist: tuple[str, ...] = ()
        self.accounts: dict[str, Optional[int]] = {"user:app": 1000, "group:app": 1000}
        self.overdue = True
        self.done: list[Step] = []
        self.refused: set[str] = set()
        self.effects = 0
        self.left: Optional[int] = None
        self._boot()
        self._do: dict[type, Callable[..., Iterator[None]]] = {
            CreateVolumes: self._create_volumes,
            Attach: self._attach,
            Detach: self._detach,
            Wipe: self._wipe,
            WriteRecords: self._write_records,
            StopArray: self._stop_array,
            ZeroSuperblocks: self._zero_superblocks,
            CreateArray: self._create_array,
            AssembleArray: self._assemble,
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

    def __repr__(self) -> str:
        lines = [f"{self.section.volumes} udev={self.udev} {self.bodies} {self.paths}"]
        for disk in self.disks.values():
            lines.append(
                f"{disk.id} {sorted(disk.tags.items())[1:]} {disk.origin} "
                f"{disk.records} {disk.body} share={disk.share} torn={disk.torn}"
            )
            if disk.block is not None:
                one = disk.block
                lines.append(f"  {one.uuid} {one.role} of {one.roles} at {one.events}")
        return "\n".join(lines)

    @property
    def instance(self) -> str:
        return self.cloud.instance

    # ------------------------------------------------------ power and people

    def _boot(self) -> None:
        self.arrays: dict[str, Md] = {}
        self.table: list[tuple[str, str, str]] = []
        """Path, set, and volume or array UUID, in the order of mounting; "" and ""
        for somebody's."""
        self.former: dict[str, set[str]] = {}
        self.paths: dict[str, PathState] = {}
        self.fstab: dict[str, FstabLine] = {}
        self.array_lines: dict[str, str] = {}
        self.attached_now: set[str] = set()

    def kill(self) -> None:
        """The process is gone, the machine lives on."""
        self.attached_now = set()
        self.settle()

    def reboot(self) -> None:
        """Power cut and boot: systemd mounts what fstab says."""
        self.arrays, self.table, self.attached_now = {}, [], set()
        self.settle()
        # systemd orders by path.
        for line in sorted(self.fstab.values(), key=lambda line: line.path):
            for key, body in self._shown():
                if isinstance(body, Filesystem) and f"UUID={body.uuid}" == line.spec:
                    demand(not self._begun(key), f"{line.path}: mounted at boot")
                    demand(self._may_serve(body), "fstab mounts a ruin")
                    self.flagged.discard(key)  # systemd-fsck@.service
                    if line.path in self.mounts:
                        continue
                    self.table.append((line.path, line.set, key))
                    made = PathState("directory")
                    self.paths[line.path] = self.roots.get(key, made)
                    self._use(key)

    def replace_instance(self) -> None:
        number = int(self.instance[2:], 16) + 1
        for disk in self.disks.values():
            if disk.holder == self.instance:
                disk.holder, disk.arrived = "", False
        self.cloud.instance = f"i-{number:017x}"
        self.seen = {}
        self._boot()

    def arrive(self) -> None:
        for disk in self.disks.values():
            disk.arrived = disk.holder == self.instance
        self.settle()

    def enlarge(self, volume_id: str, gib: int = 1) -> None:
        """ModifyVolume; the record of a single volume has its place by size."""
        self._note_sizes()
        disk = self.disks[volume_id]
        disk.size_gib += gib
        if SINGLE in disk.records:
            disk.records[OLD] = disk.records.pop(SINGLE)

    def _note_sizes(self) -> None:
        for disk in self.disks.values():
            if disk.block is not None:
                self.component(disk.block.uuid)
                self.size(disk.block.uuid)
            self.size(disk.id)

    def component(self, uuid: str) -> int:
        rooms = [
            disk.size_gib * w.GIB - disk.block.data_offset
            for disk in self.disks.values()
            if disk.block is not None and disk.block.uuid == uuid
        ]
        return self.components.setdefault(uuid, min(rooms))

    def place(self, key: str) -> int:
        """Bytes of what a filesystem lies on: one member's worth, as a mirror."""
        if key in self.disks:
            return self.disks[key].size_gib * w.GIB
        return self.component(key)

    def size(self, key: str) -> int:
        return self.sizes.setdefault(key, self.place(key))

    def settle(self) -> None:
        """What md and udev do by themselves, the last-resort timer aside."""
        for md in self.arrays.values():
            self._rebuilt(md)
        if not self.udev:
            return
        found: dict[str, dict[str, MdSuperblock]] = {}
        for disk in self.disks.values():
            if disk.arrived and disk.block and not disk.torn:
                found.setdefault(disk.block.uuid, {})[disk.id] = disk.block
        for uuid, blocks in found.items():
            if uuid in self.arrays and self.arrays[uuid].running:
                continue
            state = arraystate.read(blocks)
            if isinstance(state, Trouble) or not state.fresh:
                continue
            running = not state.missing and state.enough_when_degraded
            members = [*state.fresh, *state.spare]
            self.arrays[uuid] = Md(
                f"md{127 - len(self.arrays)}", uuid, members, running
            )

    def _rebuilt(self, md: Md) -> None:
        """A spare that takes the free slot of a running array."""
        blocks = [self.disks[one].block for one in md.members]
        for one in md.members:
            block = self.disks[one].block
            assert block is not None
            free = set(range(block.raid_disks)) - set(block.roles)
            if md.running and block.role in (None, SPARE) and free:
                role = min(free)
                for other in md.members:
                    old = self.disks[other].block
                    assert old is not None
                    roles = tuple(sorted({*old.roles, role}))
                    mine = role if other == one else old.role
                    self.disks[other].block = replace(
                        old, roles=roles, role=mine, events=old.events + 2
                    )
                self.disks[one].share = self.bodies.get(md.uuid) is not None
        assert blocks

    # ----------------------------------------------------- what can be seen

    def claims(self) -> tuple[Claim, ...]:
        return sets.claims(
            self.section,
            w.NODE,
            w.ZONE,
            self.cloud.volumes(w.NODE),
            self.must_exist,
        ).claims

    def device(self, disk: Disk) -> Device:
        number = list(self.disks).index(disk.id)
        return Device(
            name=f"nvme{number}n1",
            path=f"/dev/nvme{number}n1",
            devno=f"259:{number}",
            volume_id=disk.id,
            size=disk.size_gib * w.GIB,
            holders=tuple(
                md.name for md in self.arrays.values() if disk.id in md.members
            ),
            mounted=tuple(path for path, _, key in self.table if key == disk.id),
        )

    def world(self, claims: Sequence[Claim]) -> World:
        here = {one.id: one for one in self.disks.values() if self._here(one)}
        devices = {key: self.device(disk) for key, disk in here.items()}
        looks = {
            volume.id: self.look(self.disks[volume.id])
            for claim in claims
            if all(volume.id in here for volume in claim.volumes)
            for volume in claim.volumes
            if claim.wanted.members > 1 or claim.wanted.fs_type
        }
        running = {uuid for uuid, md in self.arrays.items() if md.running}
        seen = {
            look.content.superblock.uuid
            for look in looks.values()
            if isinstance(look.content, Known) and look.content.superblock
        }
        return World(
            instance_id=self.instance,
            devices=devices,
            holders=self.cloud.holders({d.holder for d in self.disks.values()} - {""}),
            awaited={
                one.id: 5.0
                for one in self.disks.values()
                if one.holder == self.instance and not one.arrived
            },
            looks=looks,
            arrays=tuple(self._array(md, devices) for md in self.arrays.values()),
            array_looks={uuid: self.array_look(uuid) for uuid in seen & running},
            heads=self._heads(seen - running, looks),
            mounts=tuple(
                Mounted(
                    Mount(path, "9:1", self._type(key), key),
                    frozenset(self._behind(key)),
                    seen=self._seen(place),
                    device=devices[key].devno if key in devices else "9:1",
                    size=self.size(key),
                    errors=self._type(key) == "ext4" and key in self.flagged,
                )
                if key
                else Mounted(
                    Mount(path, "0:50", "tmpfs", "somebody"),
                    None,
                    seen=self._seen(place),
                )
                for place, (path, _, key) in enumerate(self.table)
            ),
            former=self._former(),
            paths={
                claim.wanted.mount_path: self.paths[claim.wanted.mount_path]
                for claim in claims
                if claim.wanted.mount_path in self.paths
            },
            fstab=dict(self.fstab),
            array_lines=dict(self.array_lines),
            arrays_seen=dict(self.seen),
            accounts=self.accounts,
            attached_now=frozenset(self.attached_now),
            overdue=self.overdue,
        )

    def _seen(self, place: int) -> bool:
        """Whether no later mount hides the one at this place of the table."""
        path = self.table[place][0]
        return not any(is_within(path, later[0]) for later in self.table[place + 1 :])

    @property
    def mounts(self) -> dict[str, tuple[str, str]]:
        """What one sees, by path: set, and volume or array UUID."""
        return {
            path: (name, key)
            for place, (path, name, key) in enumerate(self.table)
            if self._seen(place)
        }

    def in_use(self) -> set[str]:
        """What is mounted, hidden or not."""
        return {key for _, _, key in self.table if key}

    def _former(self) -> dict[str, frozenset[str]]:
        for line in self.fstab.values():
            self.former.setdefault(line.spec, set()).add(line.path)
        return {key: frozenset(paths) for key, paths in self.former.items()}

    def somebody_mounts(self, path: str, key: str = "") -> bool:
        """A tmpfs, or a volume or array that nothing uses; whether it could be."""
        if not key:
            self.table.append((path, "", ""))
            return True
        body = dict(self._shown()).get(key)
        whole = isinstance(body, Filesystem) and (body.state == WHOLE or body.files)
        if not whole or self.records_of(key) or key in self.in_use():
            return False
        name = self.disks[self._behind(key)[0]].tags["KRKN-IN:VolumeName"]
        self.table.append((path, name, key))
        self._use(key)
        return True

    def somebody_unmounts(self, path: str) -> None:
        """What one sees at this path."""
        for place, (there, _, _) in enumerate(self.table):
            if there == path and self._seen(place):
                del self.table[place]
                return

    def _here(self, disk: Disk) -> bool:
        return disk.holder == self.instance and disk.arrived

    def _array(self, md: Md, devices: Mapping[str, Device]) -> Array:
        block = next(self.disks[one].block for one in md.members)
        assert block is not None
        return Array(
            name=md.name,
            path=f"/dev/{md.name}",
            devno="9:1",
            uuid=md.uuid,
            level=f"raid{block.level}",
            raid_disks=block.raid_disks,
            members=tuple(devices[one].name for one in md.members if one in devices),
            state="clean" if md.running else "inactive",
            degraded=block.raid_disks - len(md.members),
            size=self.component(md.uuid),
            component=0 if block.level == 0 else self.component(md.uuid),
            action="" if block.level == 0 else "idle",
        )

    def look(self, disk: Disk) -> Look:
        """As :func:`cc_kraken.proof.probe.look` and the observer see it."""
        body = disk.body
        used = isinstance(body, Filesystem) and body.files and disk.block is None
        found = {one for place, one in disk.records.items() if place != OLD}
        if disk.block is not None:
            found = {one for place, one in disk.records.items() if place == MEMBER}
        if used:
            assert isinstance(body, Filesystem)
            own = disk.records.get(SINGLE)
            found = {own} if own is not None and self._exact(own, disk, body) else set()
        elif OLD in disk.records and (found or isinstance(body, Filesystem)):
            # A guard refuses what is left of two records; the decision is shown
            # what it would come to.
            return Look(Unknown("an intent record of before"), None, "")
        mark = "" if disk.zero else self.fingerprint(disk)
        if any(record.volume_id != disk.id for record in found):
            return Look(Unknown("an intent record of another volume"), None, mark)
        if len(found) > 1:
            return Look(Unknown("two intent records"), None, mark)
        record = next(iter(found), None)
        shown = self._signature(disk)
        if record is not None and self._unproved(shown, disk.body, record):
            half = (
                disk.torn and not disk.share and disk.body is None
                if record.array_uuid
                else self._half(disk.body, record)
            )
            if half and not disk.residue and (record.array_uuid or not disk.torn):
                return Look(HalfMade(), record, mark)
            return Look(Unknown("more than we half made"), record, mark)
        return Look(shown, record, mark)

    def _exact(self, record: Record, disk: Disk, body: Filesystem) -> bool:
        """Whether it is the record of making this very filesystem."""
        return (record.volume_id, record.fs_type, record.fs_uuid) == (
            disk.id,
            body.type,
            body.uuid,
        ) and not record.array_uuid

    def _signature(self, disk: Disk) -> Content:
        if disk.torn:
            return Unknown("a flawed superblock", 4096)
        if disk.block is not None:
            return Known(MD_MEMBER, disk.block.uuid, superblock=disk.block)
        if disk.share or disk.residue:
            return Unknown("data without a signature", 1 << 20)
        return self._of_body(disk.body, disk.id)

    def _of_body(self, body: Body, key: str) -> Content:
        if body is None:
            return Blank()
        if isinstance(body, Alien):
            return Known(body.type) if body.type else Unknown("random bytes", 0)
        if body.state == HALF:
            return Unknown("data without a signature", 1024)
        errors = body.type == "ext4" and key in self.flagged
        return Known(body.type, body.uuid, errors=errors, ever_mounted=body.files)

    def _unproved(self, shown: Content, body: Body, record: Record) -> bool:
        if isinstance(shown, Unknown):
            return True
        if not isinstance(shown, Known) or not isinstance(body, Filesystem):
            return False
        meant = (shown.type, shown.uuid) == (record.fs_type, record.fs_uuid)
        return meant and body.state != WHOLE and not body.files

    def _half(self, body: Body, record: Record) -> bool:
        return (
            isinstance(body, Filesystem)
            and not body.files
            and body.type == record.fs_type
            and body.state != WHOLE
        )

    def array_look(self, uuid: str) -> Look:
        body = self.bodies.get(uuid)
        shown = self._of_body(body, uuid)
        record = next(iter(self.records_of(uuid)), None)
        if record is not None and self._unproved(shown, body, record):
            if self._half(body, record):
                return Look(HalfMade(), None, "")
            return Look(Unknown("more than we half made"), None, "")
        return Look(shown, None, "")

    def _heads(self, uuids: set[str], looks: Mapping[str, Look]) -> dict[str, Content]:
        out: dict[str, Content] = {}
        for look in looks.values():
            block = look.content.superblock if isinstance(look.content, Known) else None
            if block is None or block.uuid not in uuids:
                continue
            shown = self._of_body(self.bodies.get(block.uuid), block.uuid)
            if block.role == (1 if block.level == 6 else 0) and shown != Blank():
                out[block.uuid] = shown
        return out

    def fingerprint(self, disk: Disk) -> str:
        if disk.residue and not (disk.block or disk.torn or disk.body or disk.share):
            return ""  # the places that are always read are zero
        what = (disk.id, disk.block, disk.torn, disk.share, disk.body)
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def _type(self, key: str) -> str:
        body = dict(self._shown()).get(key)
        return body.type if isinstance(body, Filesystem) else ""

    def _shown(self) -> list[tuple[str, Body]]:
        """What block devices show here: volumes, and arrays that run."""
        out: list[tuple[str, Body]] = [
            (disk.id, disk.body)
            for disk in self.disks.values()
            if self._here(disk) and disk.block is None and not disk.torn
        ]
        out += [
            (md.uuid, self.bodies.get(md.uuid))
            for md in self.arrays.values()
            if md.running
        ]
        return out

    def _behind(self, key: str) -> list[str]:
        return list(self.arrays[key].members) if key in self.arrays else [key]

    def records_of(self, key: str) -> list[Record]:
        if key in self.disks:
            return list(self.disks[key].records.values())
        return [
            disk.records[MEMBER]  # nobody sees one behind an array's metadata
            for disk in self.disks.values()
            if disk.block is not None and disk.block.uuid == key
            if MEMBER in disk.records
        ]

    def _may_serve(self, body: Filesystem) -> bool:
        """What was ever mounted is whole, whoever has mounted it."""
        return body.state == WHOLE or body.files

    def _begun(self, key: str) -> bool:
        """A record says that something is half made, and no user says otherwise."""
        body = dict(self._shown()).get(key)
        used = isinstance(body, Filesystem) and body.files
        return bool(self.records_of(key)) and not used

    # --------------------------------------------------------------- rounds

    def plan(self) -> tuple[Plan, ...]:
        """The decision on what can be seen now; what holds for each is
        checked, whatever it is."""
        claims = self.claims()
        world = self.world(claims)
        plans = decision.decide(w.NODE, claims, world)
        assert plans == decision.decide(w.NODE, claims, world), "not a function"
        self.seen = array_history.found(claims, world)
        by_name = {claim.name: claim for claim in claims}
        for plan in plans:
            self._check_plan(plan, by_name.get(plan.name), world)
        return plans

    def _check_plan(self, plan: Plan, claim: Optional[Claim], world: World) -> None:
        trouble = plan.trouble
        if claim is not None:
            self._check_up(plan, claim, world)
        if trouble is not None and trouble.kind != "owner-pending":
            last = {WriteFstab} if trouble.kind in NOT_UP else {Detach}
            only = {type(step) for step in plan.steps} <= last
            demand(only, f"{plan.name}: steps in spite of {trouble.kind}")
        if claim is None or not plan.steps:
            return
        whole = claim.trouble is None and len(claim.volumes) == claim.wanted.members
        tolerated = claim.trouble is not None and (
            claim.trouble.kind == "sizes-differ"
            or (claim.trouble.kind == "members-missing" and claim.wanted.allow_degraded)
        )
        for step in plan.steps:
            if isinstance(step, Detach):
                continue
            demand(whole or tolerated, f"{plan.name}: {step} although not complete")
            if not whole:
                # An array that exists may get its filesystem, whatever its
                # members measure by now.
                begins = [CreateArray, Wipe]
                if claim.trouble is None or claim.trouble.kind != "sizes-differ":
                    begins.append(WriteRecords)
                demand(
                    not isinstance(step, tuple(begins)),
                    f"{plan.name}: {step} on a set that is not complete",
                )
            if isinstance(step, Attach):
                self._check_attach(step, claim, world)

    def _check_up(self, plan: Plan, claim: Claim, world: World) -> None:
        """What is called mounted is what one sees there; and the other way round."""
        path, kind = claim.wanted.mount_path, plan.trouble and plan.trouble.kind
        if path is None:
            return
        volumes = {volume.id for volume in claim.volumes}

        def own(place: str) -> bool:
            key = self.mounts.get(place, ("", ""))[1]
            return bool(key) and set(self._behind(key)) <= volumes

        if plan.state == MOUNTED:
            place = plan.mount_path or path
            demand(own(place), f"{plan.name} is called mounted at {place}")
            self.former.setdefault(min(volumes), set()).add(place)
            theirs = {
                one.wanted.mount_path for one in self.claims() if one.name != plan.name
            }
            demand(place not in theirs, f"{plan.name} is up at another set's path")
        elif kind in NOT_UP:
            demand(not own(path), f"{plan.name} is up, and is called {kind}")

    def _check_attach(self, step: Attach, claim: Claim, world: World) -> None:
        demand(step.volume_ids == tuple(sorted(step.volume_ids)), "order of ids")
        for volume in claim.volumes:
            holders = {one.instance_id for one in volume.attachments}
            demand(
                holders <= {self.instance},
                f"attaches {step.volume_ids} while {volume.id} is held by {holders}",
            )

    def carry_out(self, plans: Sequence[Plan]) -> None:
        """Carry the steps out; Cut after ``self.left`` effects."""
        failed: set[str] = set()
        for phase in PHASES:
            for plan in plans:
                for step in plan.steps:
                    if step.phase != phase or plan.name in failed:
                        continue
                    if phase != "attach":
                        self.attached_now -= set(self._volumes_of(plan.name))
                    try:
                        for _ in self._do[type(step)](step):
                            self._count(step)
                    except Refused:
                        self.refused.add(plan.name)
                        failed.add(plan.name)
                        continue
                    if isinstance(step, Attach) and self._lost(step):
                        failed.add(plan.name)
                    self.done.append(step)

    def _count(self, step: Step) -> None:
        self.effects += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Cut(str(step))

    def _volumes_of(self, name: str) -> list[str]:
        return [
            volume.id
            for claim in self.claims()
            if claim.name == name
            for volume in claim.volumes
        ]

    def _lost(self, step: Attach) -> bool:
        return any(self.disks[one].holder != self.instance for one in step.volume_ids)

    def run(self, rounds: int = QUIET_ROUNDS) -> tuple[Plan, ...]:
        """Rounds until nothing is to be done; the last plans.

        A set that was refused stays refused for the rest of the run.
        """
        failed: dict[str, Plan] = {}
        self.refused = set()
        for _ in range(rounds):
            if not self.slow:
                self.arrive()
            plans = tuple(failed.get(plan.name, plan) for plan in self.plan())
            for plan in plans:
                if plan.trouble is not None and not plan.trouble.waits:
                    failed[plan.name] = replace(plan, steps=())
            todo = [p for p in plans if p.steps and p.name not in self.refused]
            if not todo:
                return plans
            self.carry_out(todo)
        raise Violation(f"{rounds} rounds, and still to do: {[p.steps for p in todo]}")

    # ---------------------------------------------------------------- steps

    def _create_volumes(self, step: CreateVolumes) -> Iterator[None]:
        for member in step.create.members:
            self.cloud.create_volume(creating.new_volume(step.wished, member, 1))
            yield

    def _attach(self, step: Attach) -> Iterator[None]:
        for number, volume_id in enumerate(step.volume_ids):
            if self.disks[volume_id].holder == self.instance:
                continue
            try:
                self.cloud.attach(volume_id)
            except KrakenError:
                if number == 0:
                    return
                continue
            self.attached_now.add(volume_id)
            yield

    def _detach(self, step: Detach) -> Iterator[None]:
        for volume_id in step.volume_ids:
            disk = self.disks[volume_id]
            device = self.device(disk)
            demand(disk.holder == self.instance, f"detaches {volume_id} from another")
            demand(volume_id in self.attached_now, f"{volume_id}: not by this run")
            demand(not device.mounted, f"detaches {volume_id}, which is mounted")
            self.cloud.detach(volume_id)
            self.attached_now.discard(volume_id)
            yield

    def _wipe(self, step: Wipe) -> Iterator[None]:
        disk = self._writable(step.volume_id)
        given = self.section.volumes.get(step.set, {}).get("overwrite", {})
        assert isinstance(given, Mapping)
        seen = self.fingerprint(disk)
        demand(
            given.get(disk.id) == seen == step.fingerprint,
            f"wipes {disk.id}, which nobody gave up",
        )
        disk.block, disk.torn, disk.body, disk.share = None, False, None, False
        disk.residue, disk.records = True, {}
        yield

    def _writable(self, volume_id: str) -> Disk:
        disk = self.disks[volume_id]
        device = self.device(disk)
        demand(self._here(disk), f"{volume_id} is not here")
        demand(not device.mounted, f"writes on {volume_id}, which is mounted")
        held = any(volume_id in md.members for md in self.arrays.values())
        demand(not held, f"{volume_id} is in an array")
        return disk

    def _wiped(self, disk: Disk, permitted: Sequence[str]) -> bool:
        """Blank, or all that is there was given up a moment ago."""
        bare = replace(disk, residue=False)
        return disk.zero or (bare.zero and disk.id in permitted)

    def _write_records(self, step: WriteRecords) -> Iterator[None]:
        place = MEMBER if step.member else SINGLE
        for record in step.records:
            disk = self.disks[record.volume_id]
            demand(self._here(disk), f"{disk.id} is not here")
            if disk.records.get(place) == record:
                continue
            if disk.body is None:
                disk.records.pop(OLD, None)  # nobody sees it: harmless
            if disk.block is not None:
                disk.records.pop(SINGLE, None)
            demand(not disk.records, f"{disk.id}: a record over a record")
            demand(not disk.origin, f"{disk.id}: a record on a copy")
            if disk.block is None:
                self._writable(disk.id)
                demand(
                    self._wiped(disk, step.permitted),
                    f"a record on {disk.id}, which is not blank",
                )
            else:
                demand(disk.block.uuid == record.array_uuid and step.member, "place")
                demand(
                    self.bodies.get(disk.block.uuid) is None,
                    f"a record on {disk.id}, whose array holds something",
                )
            disk.records[place] = record
            yield

    def _stop_array(self, step: StopArray) -> Iterator[None]:
        md = self.arrays[step.uuid]
        named = {record.volume_id for record in step.records}
        demand(set(md.members) <= named, "stops an array of others")
        for record in step.records:
            found = self.disks[record.volume_id].records.get(MEMBER)
            demand(found == record and record.level >= 0, "stops without a licence")
            disk = self.disks[record.volume_id]
            if disk.share or disk.body is not None or disk.residue:
                raise Refused(f"{disk.id}: data behind its superblock")
        busy = step.uuid in self.in_use()
        demand(not busy, "stops what is mounted")
        demand(self.bodies.get(step.uuid) is None, "stops what holds something")
        del self.arrays[step.uuid]
        yield

    def _zero_superblocks(self, step: ZeroSuperblocks) -> Iterator[None]:
        for record in step.records:
            disk = self._writable(record.volume_id)
            demand(disk.records.get(MEMBER) == record, f"{disk.id}: no such record")
            demand(record.volume_id == disk.id, f"{disk.id}: the record of another")
            if disk.block is None and not disk.torn:
                continue
            if disk.share or disk.body is not None or disk.residue:
                raise Refused(f"{disk.id}: data behind its superblock")
            demand(record.level >= 0, f"{disk.id}: the record is no licence")
            if disk.block is not None:
                demand(disk.block.uuid == record.array_uuid, f"{disk.id}: other array")
                demand(
                    self.bodies.get(record.array_uuid) is None,
                    f"{disk.id}: the array holds something",
                )
            disk.block, disk.torn = None, False
            yield

    def _create_array(self, step: CreateArray) -> Iterator[None]:
        for volume_id, record in zip(step.volume_ids, step.records):
            disk = self._writable(volume_id)
            demand(not disk.origin, f"{volume_id} is a copy")
            demand(disk.records == {MEMBER: record}, f"{volume_id}: no such record")
            demand(
                self._wiped(disk, step.permitted),
                f"creates over {volume_id}, which is not blank",
            )
        self.bodies[step.uuid] = None
        self.components.pop(step.uuid, None)
        count = len(step.volume_ids)
        # mdadm makes the last member of RAID 5 a spare that is rebuilt.
        active = tuple(range(count - 1 if step.level == 5 else count))
        for role, volume_id in enumerate(step.volume_ids):
            disk = self.disks[volume_id]
            disk.torn = True
            yield
            disk.torn = False
            disk.block = w.superblock(
                role if role in active else SPARE,
                count=count,
                level=step.level,
                uuid=step.uuid,
                active=active,
            )
            yield
        self.arrays[step.uuid] = Md(step.name, step.uuid, list(step.volume_ids), True)
        yield
        self._rebuilt(self.arrays[step.uuid])
        yield

    def _assemble(self, step: AssembleArray) -> Iterator[None]:
        blocks: dict[str, MdSuperblock] = {}
        for volume_id in step.volume_ids:
            disk = self.disks[volume_id]
            demand(self._here(disk), f"{volume_id} is not here")
            demand(disk.block and disk.block.uuid == step.uuid, f"{volume_id}: foreign")
            assert disk.block is not None
            blocks[volume_id] = disk.block
        there = {
            disk.id: disk.block
            for disk in self.disks.values()
            if disk.block and disk.block.uuid == step.uuid and self._here(disk)
        }
        freshest = max(block.events for block in there.values())
        for volume_id, block in blocks.items():
            if block.role in (None, SPARE):
                continue
            demand(block.events + 1 >= freshest, f"starts with the stale {volume_id}")
        spares = [
            one
            for one in blocks.values()
            if one.role in (None, SPARE) or arraystate.is_replacement(one)
        ]
        roles = {one.role for one in blocks.values() if one not in spares}
        demand(len(roles) + len(spares) == len(blocks), "starts with a clone")
        state = arraystate.read(blocks)
        assert isinstance(state, arraystate.ArrayState)
        demand(state.may_run, "starts what cannot run")
        demand(
            not state.missing or (step.degraded and self._degraded_allowed(step.set)),
            "starts without members that are expected",
        )
        md = Md(f"md{127 - len(self.arrays)}", step.uuid, list(step.volume_ids), True)
        self.arrays[step.uuid] = md
        for disk in self.disks.values():
            if disk.id in md.members:
                assert disk.block is not None
                roles_left = tuple(r for r in disk.block.roles if r in roles)
                disk.block = replace(
                    disk.block, events=disk.block.events + 2, roles=roles_left
                )
        yield

    def _degraded_allowed(self, name: str) -> bool:
        return bool(self.section.volumes.get(name, {}).get("allow_degraded"))

    def _add_member(self, step: AddMember) -> Iterator[None]:
        disk = self._writable(step.volume_id)
        demand(disk.zero and not disk.records, f"adds {disk.id}, which is not blank")
        md = self.arrays[step.uuid]
        block = self.disks[md.members[0]].block
        assert block is not None
        demand(md.running, "adds to what does not run")
        demand(len(md.members) < block.raid_disks, f"no free slot for {disk.id}")
        disk.block = replace(block, role=SPARE, device_uuid=disk.id)
        md.members.append(disk.id)
        yield
        self._rebuilt(md)
        yield

    def _write_array_line(self, step: WriteArrayLine) -> Iterator[None]:
        self.array_lines[step.uuid] = step.set
        yield

    def _make_filesystem(self, step: MakeFilesystem) -> Iterator[None]:
        key = step.array_uuid or step.records[0].volume_id
        place = MEMBER if step.array_uuid else SINGLE
        for record in step.records:
            disk = self.disks[record.volume_id]
            demand(self._here(disk), f"{disk.id} is not here")
            demand(not disk.origin, f"mkfs on the copy {disk.id}")
            demand(disk.records.get(place) == record, f"mkfs on {key} without a record")
            demand(record.fs_uuid == step.uuid, "mkfs of something else than recorded")
        demand(key not in self.in_use(), f"mkfs on {key}, which is mounted")
        if step.array_uuid:
            md = self.arrays.get(key)
            demand(md is not None and md.running, f"mkfs on {key}, which does not run")
            assert md is not None
            named = {record.volume_id for record in step.records}
            demand(set(md.members) <= named, "mkfs over members without records")
            body = self.bodies.get(key)
        else:
            disk = self._writable(key)
            demand(disk.block is None and not disk.torn, f"mkfs over a member: {key}")
            demand(not disk.share, f"mkfs over a part of an array: {key}")
            demand(not disk.residue or step.permitted, f"mkfs over what was on {key}")
            body = disk.body
        ours = (
            isinstance(body, Filesystem)
            and not body.files
            and (body.type, body.uuid) == (step.type, step.uuid)
        )
        demand(body is None or ours, f"mkfs over {body} on {key}")
        for state in (HALF, TORN, WHOLE):
            self._set_body(key, Filesystem(step.type, step.uuid, state))
            self.sizes[key] = self.place(key)
            self.flagged.discard(key)
            yield

    def _set_body(self, key: str, body: Body) -> None:
        if key in self.disks:
            self.disks[key].body = body
            self.disks[key].residue = False
            return
        self.bodies[key] = body
        for disk in self.disks.values():
            if disk.block is not None and disk.block.uuid == key:
                disk.share = body is not None

    def _erase_records(self, step: EraseRecords) -> Iterator[None]:
        place = MEMBER if step.member else SINGLE
        for record in step.records:
            disk = self.disks[record.volume_id]
            demand(self._here(disk), f"{disk.id} is not here")
            if place not in disk.records:
                continue
            demand(disk.records[place] == record, f"erases another record of {disk.id}")
            body = disk.body
            if disk.block is not None:
                body = self.bodies.get(disk.block.uuid)
            unfinished = isinstance(body, Filesystem) and not self._may_serve(body)
            demand(not unfinished, f"forgets that {disk.id} is half made")
            demand(not disk.torn, f"forgets that {disk.id} is half a member")
            del disk.records[place]
            yield

    def _make_directory(self, step: MakeDirectory) -> Iterator[None]:
        demand(step.path not in self.paths, f"{step.path} is there")
        self.paths[step.path] = PathState("directory")
        yield

    def _write_fstab(self, step: WriteFstab) -> Iterator[None]:
        for line in step.instead_of:
            demand(line.spec == step.line.spec, "the line of another filesystem goes")
            self.fstab.pop(line.set, None)
        self.fstab[step.set] = step.line
        yield

    def _remove_fstab(self, step: RemoveFstab) -> Iterator[None]:
        demand(step.set not in {c.name for c in self.claims()}, "the set is there")
        self.fstab.pop(step.set, None)
        yield

    def _check_filesystem(self, step: CheckFilesystem) -> Iterator[None]:
        key = step.array_uuid or step.volume_id
        demand(key in self.flagged, f"checks {key}, which has no errors")
        demand(not self._begun(key), f"checks {key}, which is half made")
        demand(key not in self.in_use(), f"checks {key}, which is mounted")
        self.flagged.discard(key)
        yield

    def _mount(self, step: MountFilesystem) -> Iterator[None]:
        key = step.array_uuid or step.volume_id
        body = dict(self._shown()).get(key)
        demand(isinstance(body, Filesystem), f"mounts {body} of {key}")
        assert isinstance(body, Filesystem)
        demand((body.type, body.uuid) == (step.type, step.uuid), "mounts another one")
        demand(self._may_serve(body), f"mounts what is half made: {key}")
        demand(not self._begun(key), f"mounts {key} with its intent record")
        damaged = body.type == "ext4" and key in self.flagged
        demand(not damaged, f"mounts {key}, which has errors")
        hidden = [path for path in self.mounts if is_within(path, step.path)]
        demand(not hidden, f"mounts over what is at {hidden}")
        state = self.paths.get(step.path)
        demand(state and state.kind == "directory", f"no directory at {step.path}")
        assert state is not None
        demand(not state.entries or step.covers, f"hides the files in {step.path}")
        self.table.append((step.path, step.set, key))
        self.paths[step.path] = self.roots.get(key, PathState("directory"))
        self._use(key)
        yield

    def _use(self, key: str) -> None:
        """Somebody writes a file, as soon as it is mounted."""
        body = dict(self._shown()).get(key)
        assert isinstance(body, Filesystem)
        self._set_body(key, replace(body, files=True))

    def _set_owner(self, step: SetOwner) -> Iterator[None]:
        demand(step.path in self.mounts, f"owner of {step.path}, not mounted")
        uid = self.accounts[f"user:{step.owner}"] if step.owner else 0
        gid = self.accounts[f"group:{step.group}"] if step.group else 0
        demand(uid is not None and gid is not None, "nobody of that name")
        mode = 0o755 if step.mode is None else step.mode
        made = PathState("directory", (), uid or 0, gid or 0, mode)
        self.paths[step.path] = self.roots[self.mounts[step.path][1]] = made
        yield

    def _grow_array(self, step: GrowArray) -> Iterator[None]:
        md = self.arrays[step.uuid]
        demand(md.running, f"grows {step.uuid}, which does not run")
        demand(not self._begun(step.uuid), "grows what is half made")
        demand(
            step.uuid in self.in_use(),
            "grows an array that nobody uses",
        )
        for one in md.members:
            block = self.disks[one].block
            assert block is not None
            demand(block.level != 0, "grows RAID 0")
            demand(len(md.members) == block.raid_disks, "grows a degraded array")
            room = self.disks[one].size_gib * w.GIB - block.data_offset
            demand(room >= step.after, f"{one} has no room for {step}")
        self.components[step.uuid] = step.after
        yield

    def _grow_filesystem(self, step: GrowFilesystem) -> Iterator[None]:
        key = step.array_uuid or step.volume_id
        demand(self.mounts.get(step.path, ("", ""))[1] == key, "grows another one")
        demand(not self._begun(key), f"grows {key} with its intent record")
        demand(self.size(key) < self.place(key), f"{key} has no room")
        self.sizes[key] = self.place(key)
        yield

    # ---------------------------------------------------------------- truth

    def precious(self) -> dict[str, object]:
        """What is somebody's, by place: none of it may ever change."""
        out: dict[str, object] = {}
        for disk in self.disks.values():
            if isinstance(disk.body, Alien) or (
                isinstance(disk.body, Filesystem) and disk.body.files
            ):
                out[disk.id] = disk.body
            if disk.share:
                out[f"{disk.id} share"] = True
        members = {disk.block.uuid for disk in self.disks.values() if disk.block}
        for uuid, body in self.bodies.items():
            if uuid not in members:
                continue  # a record of the simulation, no byte anywhere
            if isinstance(body, Alien) or (isinstance(body, Filesystem) and body.files):
                out[uuid] = body
        return out
