"""The values that flow through a run: what is wanted and what is found.

Plain frozen dataclasses, which answer only what they hold; no I/O.
Sizes are in bytes unless a name says otherwise.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Optional, Union

VERSION = "0.1.0"

# --------------------------------------------------------------- who we are


@dataclass(frozen=True)
class Node:
    """The role that an instance plays; instances come and go, nodes stay."""

    prefix: str
    node_id: str

    def __str__(self) -> str:
        return f"{self.prefix}/{self.node_id}"


@dataclass(frozen=True)
class Claimant:
    """An instance whose NodeId is ``*``: it becomes whichever node of its prefix is
    free in its zone."""

    prefix: str


@dataclass(frozen=True)
class Identity:
    """This instance, as cloud-init's datasource describes it.

    ``tags`` is None where the metadata service offers no instance tags.
    ``metadata_url``: where the datasource has found that service.  ``partition``
    and ``domain``: AWS's for this region (``aws``, ``amazonaws.com``).
    """

    instance_id: str
    region: str
    zone: str
    tags: Optional[Mapping[str, str]] = None
    metadata_url: str = ""
    partition: str = ""
    domain: str = ""


# ------------------------------------------------------------------ trouble


@dataclass(frozen=True)
class Trouble:
    """Why something is not done, in the words that a person reads.

    ``kind`` is a stable slug (``members-missing``).  ``waits`` says that time
    may cure it: it is awaited up to the deadline, and an error after it.
    """

    kind: str
    found: str
    expected: str
    remedy: str
    waits: bool = False

    def __str__(self) -> str:
        text = self.found
        if text.endswith(".") and self.expected.endswith("."):
            text += f" {self.expected}"
        elif self.expected:
            text += f"; expected {self.expected}"
        if not text.endswith((".", "?")):
            text += "."
        return f"[{self.kind}] {text} {self.remedy}".rstrip()


SET_FIELD = "KRAKEN_SET"


def of_set(name: str) -> Mapping[str, str]:
    """For ``extra`` of a log record that speaks of one set: journald's field for it."""
    return {SET_FIELD: name}


def kinds_in(text: str) -> tuple[str, ...]:
    """The kinds of trouble that a text tells of (``[zone-other] …``), once each."""
    return tuple(dict.fromkeys(re.findall(r"(?:^| )\[([a-z][a-z0-9-]+)\] ", text)))


class KrakenError(Exception):
    """An error whose text is a sentence for the operator (no traceback)."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def failure(
    kind: str, found: str, expected: str, remedy: str, waits: bool = False
) -> KrakenError:
    """The error of a :class:`Trouble`."""
    return KrakenError(Trouble(kind, found, expected, remedy, waits))


# ------------------------------------------------------------------- wanted


@dataclass(frozen=True)
class Creation:
    """How the volumes of a set are created where none exists (``create:``).

    ``size_gib`` of each, 0: as the snapshot.  ``iops`` and ``throughput`` (MiB/s) are
    0 where EC2's own are taken.  ``after``: seconds between the two looks that must
    find none.  ``tags``: the user's own.
    """

    size_gib: int = 0
    type: str = "gp3"
    iops: int = 0
    throughput: int = 0
    encrypted: bool = True
    kms_key_id: str = ""
    snapshot: str = ""
    after: int = 60
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NewVolume:
    """One volume that a cloud is asked for.

    ``wish`` says of what kind, ``tags`` are all that it gets.  ``token``: two
    requests with the same one make one volume (64 characters).
    """

    zone: str
    wish: Creation
    tags: Mapping[str, str]
    token: str


@dataclass(frozen=True)
class Ec2Options:
    """The ``ec2:`` part of the section; None is "as the datasource says"."""

    region: Optional[str] = None
    endpoint_url: Optional[str] = None
    ca_bundle: Optional[str] = None
    https_proxy: Optional[str] = None
    use_dualstack: Optional[bool] = None
    use_fips: Optional[bool] = None


@dataclass(frozen=True)
class Section:
    """The ``kraken:`` section after merging and validation.

    ``defaults`` and ``volumes`` keep the validated keys as written (snake
    case), so that tags can be merged between them.  Times are seconds.
    ``digest`` identifies the content (sha256, hex), ``sources`` what it was
    merged from and checked against.  Where it is switched off, ``off_by`` is the
    place that says so, ``mistakes`` what is wrong all the same, and the rest unknown.
    """

    enabled: bool = True
    tag_namespace: str = "KRKN-IN"
    prefix: Optional[str] = None
    node_id: Optional[str] = None
    node_ids: Union[str, Mapping[str, str]] = ""
    claim_order: str = "lowest"
    dry_run: bool = False
    boot_wait: int = 90
    wait: int = 3600
    final_wait: int = 600
    blank_proof: str = "sampled"
    metrics: bool = False
    ec2: Ec2Options = field(default_factory=Ec2Options)
    defaults: Mapping[str, object] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    digest: str = ""
    sources: str = field(default="", compare=False)
    off_by: str = ""
    mistakes: str = ""


@dataclass(frozen=True)
class WantedSet:
    """One set as wanted, after merging configuration and tags.

    ``fs_type`` None: attach and assemble only.  ``mount_path`` None: no
    mount.  ``raid_level`` None in a set of one.
    """

    name: str
    members: int = 1
    raid_level: Optional[int] = None
    fs_type: Optional[str] = None
    mount_path: Optional[str] = None
    mount_options: tuple[str, ...] = ()
    mkfs_options: tuple[str, ...] = ()
    owner: Optional[str] = None
    group: Optional[str] = None
    mode: Optional[int] = None
    label: Optional[str] = None
    required: bool = True
    grow: bool = True
    allow_degraded: bool = False
    mount_over: bool = False
    volume_ids: tuple[str, ...] = ()
    overwrite: Mapping[str, str] = field(default_factory=dict)
    declared: bool = False
    create: Optional[Creation] = None


@dataclass(frozen=True)
class Claim:
    """One set of this node: its wish, the volumes that carry its name, and
    what is wrong with either, if anything."""

    name: str
    wanted: WantedSet
    volumes: tuple["Volume", ...] = ()
    trouble: Optional[Trouble] = None
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- found: EC2


@dataclass(frozen=True)
class Attachment:
    """One attachment; EC2 leaves the instance out for managed ones."""

    instance_id: Optional[str]
    device: Optional[str]
    state: str
    delete_on_termination: bool = False


@dataclass(frozen=True)
class Volume:
    """One EBS volume as DescribeVolumes shows it.

    ``origin`` is the snapshot or the volume that it was made from, or "".
    ``created``: seconds since 1970.
    """

    id: str
    size_gib: int
    zone: str
    state: str
    tags: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    origin: str = ""
    multi_attach: bool = False
    managed: bool = False
    encrypted: bool = False
    created: float = 0.0

    def attached_to(self, instance_id: str) -> bool:
        """Whether EC2 shows it there, or on its way there or from there."""
        return any(one.instance_id == instance_id for one in self.attachments)


@dataclass(frozen=True)
class Holder:
    """An instance that holds one of our volumes.

    ``state``: as DescribeInstances names it, or ``gone``.  The addresses are those of
    its first network interface, "" where it has none.
    """

    instance_id: str
    state: str
    prefix: Optional[str] = None
    node_id: Optional[str] = None
    private_ip: str = ""
    private_dns: str = ""


@dataclass(frozen=True)
class Instance(Holder):
    """An instance with all that ``cc-kraken fleet`` asks of it.

    ``root_device``: the device name of its root volume.
    """

    zone: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    root_device: str = ""


# ------------------------------------------------------- found: the machine


class Layer(ABC):
    """What a filesystem can lie on: a disk, an array of disks.

    Whoever makes, mounts or grows a filesystem asks these, and never which it is.
    ``devno`` is ``major:minor``; ``mounted`` are the paths.
    """

    name: str
    path: str
    devno: str
    size: int
    read_only: bool
    mounted: tuple[str, ...]
    #: The EBS volume that it is, "" where it lies on others; that one carries the
    #: intent record of its filesystem.
    volume_id: str
    #: Whether it spreads what is written in stripes, whose size sysfs tells.
    striped = False

    #: The array whose UUID the intent records below it name; "" for none.
    array_uuid = ""

    @abstractmethod
    def disks(self, devices: Iterable["Device"]) -> tuple["Device", ...]:
        """Those of these that it lies on."""

    @abstractmethod
    def lies_on(self, names: Set[str]) -> bool:
        """Whether these disks (kernel names) are what it lies on."""

    @property
    def key(self) -> str:
        """By which looks and messages know it, whatever the kernel calls it."""
        return self.volume_id or self.array_uuid or self.name

    @property
    def title(self) -> str:
        """Its path, and what it is, for people."""
        array = f"array {self.array_uuid}" if self.array_uuid else self.name
        return f"{self.path} ({self.volume_id or array})"


@dataclass(frozen=True)
class Device(Layer):
    """A whole NVMe disk whose serial names an EBS volume (sysfs)."""

    name: str
    path: str
    devno: str
    volume_id: str
    size: int
    read_only: bool = False
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    mounted: tuple[str, ...] = ()
    swap: bool = False

    def disks(self, devices: Iterable["Device"]) -> tuple["Device", ...]:
        return (self,)

    def lies_on(self, names: Set[str]) -> bool:
        return names == {self.name}


@dataclass(frozen=True)
class Array(Layer):
    """An md array that the kernel knows, running or not (sysfs).

    ``members`` are kernel names of the disks in it; ``state`` is sysfs
    ``md/array_state``; ``level`` as sysfs says it (``raid0``).  ``component``:
    bytes of each member that it uses (0 for RAID 0).  ``action``: what it is
    doing to its members (``idle``, ``resync``; "" for RAID 0).
    """

    name: str
    path: str
    devno: str
    uuid: str
    level: str
    raid_disks: int
    members: tuple[str, ...]
    state: str
    degraded: int = 0
    size: int = 0
    read_only: bool = False
    mounted: tuple[str, ...] = ()
    component: int = 0
    action: str = ""

    # Not annotated, so no field.
    volume_id = ""

    @property
    def array_uuid(self) -> str:  # type: ignore[override]
        return self.uuid

    @property
    def running(self) -> bool:
        return self.state not in ("clear", "inactive", "")

    @property
    def striped(self) -> bool:  # type: ignore[override]
        return self.level in ("raid0", "raid4", "raid5", "raid6", "raid10")

    def disks(self, devices: Iterable[Device]) -> tuple[Device, ...]:
        return tuple(one for one in devices if one.name in self.members)

    def lies_on(self, names: Set[str]) -> bool:
        """A degraded array has fewer members than volumes."""
        return names >= set(self.members)


@dataclass(frozen=True)
class MdSuperblock:
    """An md 1.x superblock, read by ourselves.

    Offsets and sizes in bytes.  ``roles`` maps device numbers to roles
    (0xFFFF spare, 0xFFFE failed, 0xFFFD journal).  ``minor`` is the
    placement: 0 (end), 1 (start), 2 (4 KiB).  ``created`` and ``update_time``
    are seconds since 1970.  ``component``: bytes of each member that the array uses
    (0 for RAID 0).
    """

    uuid: str
    name: str
    level: int
    raid_disks: int
    role: Optional[int]
    events: int
    device_uuid: str
    data_offset: int
    data_size: int
    chunk: int
    layout: int
    update_time: int
    roles: tuple[int, ...]
    minor: int = 2
    feature_map: int = 0
    created: int = 0
    component: int = 0


@dataclass(frozen=True)
class Extent:
    """Bytes ``start`` to ``end`` (exclusive) of a device."""

    start: int
    end: int


@dataclass(frozen=True)
class Blank:
    """Proved blank: every probe agrees, every read succeeded, all zero."""


@dataclass(frozen=True)
class HalfMade:
    """Our own intent record, and nothing but zeros outside it and outside
    the structures that the recorded step itself writes."""


@dataclass(frozen=True)
class Known:
    """A known content: ``type`` is blkid's name for it (``ext4``,
    ``linux_raid_member``, ``LVM2_member``, ``gpt`` …).

    ``size``: bytes that the filesystem says it has (0: not known).
    ``errors``: it says of itself that it needs its checker (ext4).
    ``inside``: what lies in the partitions of a table, a phrase each.
    ``ever_mounted``: that somebody has mounted it, to write: it is whole, and an
    intent record beside it has outlived its time.  None of them makes it another
    content.
    """

    type: str
    uuid: str = ""
    label: str = ""
    superblock: Optional[MdSuperblock] = None
    size: int = field(default=0, compare=False)
    errors: bool = field(default=False, compare=False)
    inside: tuple[str, ...] = field(default=(), compare=False)
    ever_mounted: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Unknown:
    """Anything else.  ``offset``: the first byte in the way, where one is known.

    ``unread``: a read failed or has no answer yet, so nobody knows what it holds.
    """

    reason: str
    offset: Optional[int] = None
    unread: bool = False


Content = Union[Blank, HalfMade, Known, Unknown]


@dataclass(frozen=True)
class Record:
    """The intent record: what a run set out to make on these very volumes.

    ``identity`` is the sha256 (hex) over node, set and volume ids;
    ``volume_id`` is the volume that this copy of the record lies on.
    """

    identity: str
    volume_id: str
    fs_type: str
    fs_uuid: str
    array_uuid: str = ""
    level: int = -1
    members: int = 1


@dataclass(frozen=True)
class Testimony:
    """The kernel's counters of one disk: ``sequence`` is its number among all
    disks of this boot; ``size``, ``written`` and ``discarded`` are sectors (an
    enlarged volume has places that nobody has looked at); ``below`` are those
    of an array's members.  ``slept``: seconds since the boot in which the
    machine was suspended or hibernated."""

    sequence: int
    size: int
    written: int
    discarded: int
    below: tuple["Testimony", ...] = ()
    slept: int = 0


@dataclass(frozen=True)
class Look:
    """The outcome of one classification of one device by direct reads.

    ``fingerprint`` (hex) is of what the fixed places hold; "" when blank.
    ``moved``: where the record lies, when that is the place of the size that
    the volume had before it was enlarged.  ``testimony``: from before its first
    byte was read; as long as it holds, nothing was written since (None: nobody
    vouches for that).  ``drawn``: the seed of the samples.
    """

    content: Content
    record: Optional[Record] = None
    fingerprint: str = ""
    moved: Optional[int] = None
    bytes_read: int = 0
    reads: int = 0
    testimony: Optional[Testimony] = field(default=None, compare=False)
    drawn: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo.

    ``id``: the number of the mount; ``parent``: that of the one it is in.
    """

    path: str
    devno: str
    type: str
    source: str
    root: str = "/"
    id: int = 0
    parent: int = 0


@dataclass(frozen=True)
class Mounted:
    """A mount, and the volumes that lie behind it (None: not only EBS volumes).

    ``seen``: no other mount hides it.  ``device``: number of the device that is
    mounted.  ``size``: bytes that the filesystem says it has.  Both None where
    nobody has asked.  ``errors``: the kernel has found it damaged.
    """

    mount: Mount
    volumes: Optional[frozenset[str]]
    seen: bool = True
    device: Optional[str] = None
    size: Optional[int] = None
    errors: bool = False
    read_only: bool = False


@dataclass(frozen=True)
class Signature:
    """A UUID that a disk, a partition or an array shows.

    ``volumes``: the ids of the volumes below it; ``type`` as blkid names it.
    """

    volumes: tuple[str, ...]
    path: str
    type: str
    uuid: str


@dataclass(frozen=True)
class FstabLine:
    """One fstab line that is ours (``set`` from ``X-kraken.set=``) or not
    (``set`` ""), unescaped."""

    spec: str
    path: str
    type: str
    options: tuple[str, ...]
    freq: str = "0"
    passno: str = "0"
    set: str = ""


@dataclass(frozen=True)
class ArrayLine:
    """One ``ARRAY`` line for mdadm that is not ours (mdadm.conf(5)).

    ``uuid`` is canonical, ``devices`` are patterns; "" and () where it has none.
    ``more``: words by which it says more than a line of ours.  ``text``: its words.
    ``read``: mdadm reads this file.
    """

    file: str = field(compare=False)
    device: str = ""
    uuid: str = ""
    name: str = ""
    devices: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    text: str = field(default="", compare=False)
    read: bool = field(default=True, compare=False)


ENTRIES_SHOWN = 10


@dataclass(frozen=True)
class PathState:
    """A mount point as found.

    ``kind``: absent, directory, symlink (it or a parent is one), other.
    ``entries``: names inside (``lost+found`` left out), cut at 10.
    """

    kind: str
    entries: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    mode: int = 0o755

    @property
    def as_made(self) -> bool:
        """Whether it is as mkfs leaves the root of a filesystem."""
        return self.as_made_but_for(frozenset())

    def as_made_but_for(self, names: Set[str]) -> bool:
        """The same; what may lie in it are directories with these names."""
        return (
            self.kind == "directory"
            and (self.uid, self.gid, self.mode) == (0, 0, 0o755)
            and names >= set(self.entries)
            and len(self.entries) < ENTRIES_SHOWN
        )


def gib(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / (1 << 30):.2f}".rstrip("0").rstrip(".") + " GiB"
