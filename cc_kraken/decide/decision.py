"""What is to be done: a pure function of what is wanted and what is found.

One module a question, asked in the order of :func:`_plan`.  Each returns what it
found (steps, a value), or ends the decision on the set with a KrakenError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cc_kraken.decide import array, attach, disks, filesystem, mount, mounted, seen
from cc_kraken.decide.case import Case, case_of
from cc_kraken.decide.plan import (
    ATTACHED,
    FAILED,
    MOUNTED,
    PENDING,
    PLANNED,
    Again,
    Plan,
    Stop,
)
from cc_kraken.decide.steps import RemoveFstab, Step, WriteFstab
from cc_kraken.decide.world import World
from cc_kraken.model import Claim, KrakenError, Node


def decide(node: Node, claims: Sequence[Claim], world: World) -> tuple[Plan, ...]:
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
    gone = sorted(set(world.fstab) - names - renamed)
    return (*plans, *(_decide_gone(name, claims, world) for name in gone))


def _decide_gone(name: str, claims: Sequence[Claim], world: World) -> Plan:
    path = world.fstab[name].path
    heirs = [
        frozenset(volume.id for volume in claim.volumes)
        for claim in claims
        if claim.wanted.mount_path == path
    ]
    taken = any(seen.up_at(world.mounts, path, volumes) for volumes in heirs)
    if not taken and any(one.mount.path == path for one in world.mounts):
        warning = (
            f"The set {name} is no longer among this node's volumes, but "
            f"{path} is still mounted: its fstab line stays until it is not."
        )
        return Plan(name, MOUNTED, warnings=(warning,))
    return Plan(name, ATTACHED, (RemoveFstab(name),))


def _decide_set(
    node: Node, claim: Claim, claims: Sequence[Claim], world: World
) -> Plan:
    case = case_of(node, claim, claims, world)
    try:
        if claim.trouble is not None and not _existing_may_do(claim, world):
            raise KrakenError(claim.trouble)
        plan = _plan(case)
        plan = replace(plan, steps=(*plan.steps, *_line_left(case)))
    except Again as again:
        plan = Plan(
            claim.name,
            PLANNED,
            again.steps,
            outcomes=again.outcomes,
            array_uuid=again.array_uuid,
        )
    except KrakenError as error:
        case.notes.clear()
        state = PENDING if error.trouble.waits else FAILED
        steps = error.steps if isinstance(error, Stop) else ()
        plan = Plan(claim.name, state, steps, error.trouble)
    return replace(plan, warnings=tuple(case.warnings), notes=tuple(case.notes))


def _plan(case: Case) -> Plan:
    """Question after question, from the volumes of a set to its mount point."""
    disks.check_own(case)
    to_attach = attach.steps(case)
    if case.is_array:
        case.check_program("mdadm")
    if to_attach:
        raise Again(to_attach, *_outcomes(case))
    attach.warn_of_termination(case)
    up = case.mounted()
    if not case.is_array and case.wanted.fs_type is None:
        # Attached and left alone, whoever uses it.
        return Plan(case.name, ATTACHED)
    disks.check_fit(case)
    base = array.base(case) if case.is_array else disks.base(case)
    if base is None:
        # Nobody asks for an array: attached and left alone.
        return Plan(case.name, ATTACHED)
    if up is not None and not base.created:
        return mounted.plan(case, base, up)
    steps, known = filesystem.steps(case, base)
    return mount.plan(case, base.target, steps, known)


def _line_left(case: Case) -> Sequence[Step]:
    """A set that is not to be mounted any more needs no line, once it is not."""
    line = case.world.fstab.get(case.name)
    if line is None or case.wanted.mount_path is not None:
        return ()
    own = case.world.mounts_of(frozenset(case.volume_ids))
    if any(one.mount.path == line.path for one in own):
        case.note(
            f"{line.path} stays mounted, and in fstab, though nothing asks for that "
            f"any more. To end it: umount {line.path} && cc-kraken apply."
        )
        return ()
    return (RemoveFstab(case.name, gone=False),)


def _existing_may_do(claim: Claim, world: World) -> bool:
    """Whether an array that exists already may live with this trouble."""
    if claim.trouble is None or claim.wanted.members < 2 or not claim.volumes:
        return False
    if claim.trouble.kind == "members-missing":
        copies = {bool(volume.origin) for volume in claim.volumes}
        mixed = len(copies) > 1  # refused at every level
        return claim.wanted.allow_degraded and world.overdue and not mixed
    return claim.trouble.kind == "sizes-differ"


def _outcomes(case: Case) -> tuple[str, ...]:
    """What may follow once the volumes are attached and can be looked at."""
    wanted, up = case.wanted, case.mounted()
    if case.is_array and up is not None:
        return (
            "where a volume is blank: it takes the place of a lost member",
            "where it was a member before: it is left alone, with a warning",
            "where it holds anything else: the set is refused, and stays mounted at "
            f"{up.mount.path}",
        )
    out = []
    if case.is_array:
        made = f", {wanted.fs_type} made" if wanted.fs_type else ""
        level = wanted.raid_level
        out.append(f"where all volumes are blank: RAID {level} is created{made}")
        out.append("where they carry one array: it is assembled and used")
    elif wanted.fs_type:
        out.append(f"where the volume is blank: {wanted.fs_type} is made")
        out.append(f"where it holds {wanted.fs_type}: it is used as it is")
    if wanted.fs_type:
        out.append("where anything else is found: the set is refused")
        if wanted.mount_path:
            out.append(_mounted_then(case, wanted.mount_path))
    return tuple(out)


def _mounted_then(case: Case, path: str) -> str:
    there = seen.at(case.world.mounts, path)
    if there is None:
        return f"then it is mounted at {path}"
    return f"it cannot be mounted: {seen.brief(there.mount)} is mounted at {path} now"
