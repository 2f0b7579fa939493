"""One set, as every question of a decision sees it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from cc_kraken.decide.steps import Step
from cc_kraken.decide.world import World
from cc_kraken.machine import packages
from cc_kraken.model import (
    Array,
    Claim,
    Device,
    Layer,
    Look,
    MdSuperblock,
    Mounted,
    Node,
    Record,
    WantedSet,
    failure,
)
from cc_kraken.proof.record import identity

NAMESPACE = uuid.UUID("7b2f1c0e-4a3d-5e6f-8b9a-6b72616b656e")


@dataclass(frozen=True)
class Case:
    """What is wanted of one set, and what was found.

    ``claims``: those of all sets, this one among them.  ``identity``: of the set
    in its intent records.  ``fs_uuid``, ``array_uuid``: of what is made anew.
    ``warnings`` and ``notes`` gather what is noticed on the way.
    """

    claim: Claim
    claims: Sequence[Claim]
    node: Node
    world: World
    volume_ids: tuple[str, ...]
    identity: str
    fs_uuid: str
    array_uuid: str
    warnings: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.claim.name

    @property
    def wanted(self) -> WantedSet:
        return self.claim.wanted

    @property
    def is_array(self) -> bool:
        return self.wanted.members > 1

    def device(self, volume_id: str) -> Device:
        return self.world.devices[volume_id]

    def warn(self, text: str) -> None:
        """Something that a person has to look at."""
        self.warnings.append(text)

    def note(self, text: str) -> None:
        """Something that a person may want to know, and need not act on."""
        self.notes.append(text)

    def mounted(self) -> Optional[Mounted]:
        """Where the set is mounted: at its own path before any other, and seen
        before hidden."""
        mounts = self.world.mounts_of(frozenset(self.volume_ids))
        path = self.wanted.mount_path
        return max(
            mounts, key=lambda one: (one.mount.path == path, one.seen), default=None
        )

    def check_program(self, program: str) -> None:
        if program in self.world.missing_programs:
            raise failure(
                "program-missing",
                f"The program {program} is not on this machine.",
                f"The set {self.name} needs it.",
                f"Install the package {packages.of(program)[0] or program}.",
            )


def case_of(node: Node, claim: Claim, claims: Sequence[Claim], world: World) -> Case:
    volume_ids = tuple(sorted(volume.id for volume in claim.volumes))
    own = identity(node, claim.name, volume_ids)
    fs_uuid, array_uuid = (
        str(uuid.uuid5(NAMESPACE, f"{what} {own}")) for what in ("filesystem", "array")
    )
    return Case(
        claim, claims, node, world, volume_ids, own, fs_uuid, array_uuid,
        list(claim.warnings),
    )  # fmt: skip


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


@dataclass(frozen=True)
class Base:
    """What the filesystem lies on, when ``steps`` are done.

    ``look``: what it shows (None: cannot be seen yet).  ``members``: the volumes
    below it, which may carry records; ``blocks``: their superblocks.
    ``created``: the records of an array that is made anew, of volumes of which
    ``overwrite`` gives up those in ``wiped``.
    """

    target: Target
    steps: tuple[Step, ...] = ()
    look: Optional[Look] = None
    members: Mapping[str, Look] = field(default_factory=dict)
    blocks: Mapping[str, MdSuperblock] = field(default_factory=dict)
    created: tuple[Record, ...] = ()
    wiped: tuple[str, ...] = ()
