"""What one look around found: everything that a decision may rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from cc_kraken.decide.members import Seen
from cc_kraken.model import (
    Array,
    ArrayLine,
    Content,
    Device,
    FstabLine,
    Holder,
    Look,
    Mounted,
    PathState,
    Signature,
)


@dataclass(frozen=True)
class World:
    """The machine and EC2, as found in one round.

    Keyed by volume id: ``devices``, ``duplicates`` (kernel names that share
    a serial), ``looks``, ``awaited`` (seconds since the attachment began).
    Keyed by array UUID: ``array_looks``, ``heads`` (what an array that does
    not run would show first, read through its members), ``array_lines`` (the
    set under which our file for mdadm names it), ``arrays_seen`` (what this
    instance has kept of it).
    ``left_out``: volumes that mdadm does not look at, to the ``DEVICE`` lines
    because of which.
    ``former``: volume id, or ``UUID=`` of a filesystem, to the paths at which a run
    or a line of ours has had it mounted.
    ``signatures``: of every EBS disk, whoever it belongs to.
    ``fstab_twice``: the sets of which it has several lines (``fstab``: the first).
    ``fstab_devnos``: what a line that is not ours mounts, to the number of the
    device that udev's links name for it now.
    ``accounts``: user or group name to number, None where there is none yet;
    users as ``user:NAME``, groups as ``group:NAME``.
    ``attached_now``: volumes that this run attached and has not used yet.
    ``elapsed``: seconds since the run has begun.
    ``overdue``: missing volumes have been waited for long enough.
    ``failed``: sets that this run has given up.
    ``not_grown``: sets that this run has tried to grow, and could not.
    ``not_added``: sets to whose array it has tried to add a member, and could not.
    """

    instance_id: str
    devices: Mapping[str, Device] = field(default_factory=dict)
    duplicates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    system_volumes: frozenset[str] = frozenset()
    holders: Mapping[str, Holder] = field(default_factory=dict)
    awaited: Mapping[str, float] = field(default_factory=dict)
    looks: Mapping[str, Look] = field(default_factory=dict)
    arrays: tuple[Array, ...] = ()
    array_looks: Mapping[str, Look] = field(default_factory=dict)
    heads: Mapping[str, Content] = field(default_factory=dict)
    signatures: tuple[Signature, ...] = ()
    mounts: tuple[Mounted, ...] = ()
    paths: Mapping[str, PathState] = field(default_factory=dict)
    former: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fstab: Mapping[str, FstabLine] = field(default_factory=dict)
    fstab_twice: frozenset[str] = frozenset()
    fstab_foreign: tuple[FstabLine, ...] = ()
    fstab_devnos: Mapping[str, str] = field(default_factory=dict)
    array_lines: Mapping[str, str] = field(default_factory=dict)
    array_lines_foreign: tuple[ArrayLine, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    arrays_seen: Mapping[str, Seen] = field(default_factory=dict)
    accounts: Mapping[str, Optional[int]] = field(default_factory=dict)
    missing_programs: frozenset[str] = frozenset()
    attached_now: frozenset[str] = frozenset()
    elapsed: float = 0.0
    overdue: bool = False
    failed: frozenset[str] = frozenset()
    not_grown: frozenset[str] = frozenset()
    not_added: frozenset[str] = frozenset()

    def array(self, uuid: str) -> Optional[Array]:
        for array in self.own_first(self.arrays):
            if array.uuid == uuid:
                return array
        return None

    def own_first(self, arrays: Iterable[Array]) -> list[Array]:
        """Arrays with disks that were looked at first: an array that was put
        together from copies has the UUID of the original."""
        own = {self.devices[one].name for one in self.looks if one in self.devices}
        return sorted(arrays, key=lambda array: not own & set(array.members))

    def mounts_of(self, volumes: frozenset[str]) -> tuple[Mounted, ...]:
        """Every mount of these, hidden ones too: see :mod:`cc_kraken.decide.seen`."""
        return tuple(
            mounted
            for mounted in self.mounts
            if mounted.volumes and mounted.volumes <= volumes
        )
