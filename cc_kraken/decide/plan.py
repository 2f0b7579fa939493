"""What is to be done for one set, and what every part of a decision needs.  Pure."""

from __future__ import annotations

import functools
import uuid as uuids
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from cc_kraken.decide.steps import (
    Step,
)
from cc_kraken.decide.world import World
from cc_kraken.machine.command import package
from cc_kraken.machine.partitions import TABLES
from cc_kraken.model import (
    Array,
    Blank,
    Claim,
    Content,
    Device,
    HalfMade,
    Known,
    Layer,
    Look,
    Mounted,
    Node,
    Trouble,
    Unknown,
    WantedSet,
)
from cc_kraken.proof.record import identity as set_identity

GIB = 1024**3
NAMESPACE = uuids.UUID("7b2f1c0e-4a3d-5e6f-8b9a-6b72616b656e")

MOUNTED, ASSEMBLED, ATTACHED = "mounted", "assembled", "attached"
PENDING, FAILED, PLANNED = "pending", "failed", "planned"


@dataclass(frozen=True)
class Plan:
    """What is to be done for one set now.

    ``state``: where the set stands when ``steps`` is empty.  ``outcomes``:
    what may follow on things that cannot be seen yet.  ``trouble`` with
    ``waits`` is awaited, without it the set has failed.  ``notes``: what a
    person may want to know, and need not act on.  ``mount_path``: where it is
    mounted, if that is not where it belongs.
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
    mount_path: str = ""


@dataclass(frozen=True)
class Target:
    """Where a filesystem is or will be: one volume, or an array."""

    device: Optional[Device] = None
    array_uuid: str = ""
    array: Optional[Array] = None

    @property
    def layer(self) -> Optional[Layer]:
        return self.device or self.array

    @property
    def volume_id(self) -> str:
        return self.device.volume_id if self.device else ""


class Stop(Exception):
    """Ends the decision on one set with a trouble."""

    def __init__(self, trouble: Trouble, steps: Tuple[Step, ...] = ()) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble
        self.steps = steps


class Again(Exception):
    """Ends the decision on one set with steps after which it is looked at
    once more, because what follows depends on what is found then."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = steps


def stopped(
    kind: str, found: str, expected: str, remedy: str, *, waits: bool = False
) -> Stop:
    return Stop(Trouble(kind, found, expected, remedy, waits))


@functools.lru_cache(maxsize=256)
def _uuid(name: str) -> str:
    return str(uuids.uuid5(NAMESPACE, name))


class SetDecision:
    """The decision on one set: what is wanted, what was found, and what was
    noticed on the way."""

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
        self.fs_uuid = _uuid(f"filesystem {self.identity}")
        self.new_array_uuid = _uuid(f"array {self.identity}")

    @property
    def is_array(self) -> bool:
        return self.wanted.members > 1

    def _device(self, volume_id: str) -> Device:
        return self.world.devices[volume_id]

    def _look(self, volume_id: str) -> Look:
        look = self.world.looks.get(volume_id)
        if look is None:
            raise stopped(
                "device-unseen",
                f"{volume_id} could not be looked at yet",
                "its content",
                "Run again; if it stays so, see the kernel's log for its disk.",
                waits=True,
            )
        return self._heard(look)

    def _heard(self, look: Look) -> Look:
        """The same, if the device has answered."""
        if isinstance(look.content, Unknown) and look.content.silent:
            raise stopped(
                "device-silent",
                look.content.reason,
                "an answer",
                "See the kernel's log (dmesg) and the volume's status in EC2; the "
                "other sets do not wait for it.",
                waits=True,
            )
        return look

    def _check_not_held(self, volume_id: str) -> None:
        device = self._device(volume_id)
        if device.holders or device.mounted:
            by = ", ".join(device.holders + device.mounted)
            raise stopped(
                "device-held",
                f"{device.path} ({volume_id}) is in use by {by}",
                "a disk that nothing uses",
                "Unmount it, or stop what holds it. A filesystem does not become part "
                "of an array: correct VolumeSize, or take its tags off.",
            )

    def _mounted(self) -> Optional[Mounted]:
        """Where the set is mounted: at its own path before any other, and seen
        before hidden."""
        mounts = self.world.mounts_of(frozenset(self.volume_ids))
        path = self.wanted.mount_path
        return max(
            mounts, key=lambda one: (one.mount.path == path, one.seen), default=None
        )

    def _check_programs(self, needed: Sequence[str]) -> None:
        for program in needed:
            if program in self.world.missing_programs:
                raise stopped(
                    "program-missing",
                    f"The program {program} is not on this machine",
                    f"{program} for the set {self.claim.name}",
                    f"Install the package {package(program)[0] or program}.",
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


def tell(content: Content) -> str:
    """What a content is, in words."""
    if isinstance(content, Blank):
        return "nothing but zeros"
    if isinstance(content, HalfMade):
        return "a half-made filesystem of ours"
    if isinstance(content, Known) and content.type in TABLES:
        parts = "; ".join(content.inside) or "no partition that the kernel shows"
        return f"a partition table ({content.type}), and in it {parts}"
    if isinstance(content, Known):
        name = f" (UUID {content.uuid})" if content.uuid else ""
        label = f", label {content.label!r}" if content.label else ""
        return f"{content.type}{name}{label}"
    assert isinstance(content, Unknown)
    where = f", first at byte {content.offset}" if content.offset is not None else ""
    reason = content.reason.rstrip(".")
    return f"unknown content: {reason}{where}"
