"""What is to be done: a pure function of what is wanted and what is found.

No I/O here.  Every rule of the design's sections 4 to 8 is one small function
that either returns nothing (go on), a :class:`Trouble` (stop here), or steps.
"""

from __future__ import annotations

from typing import Sequence, Tuple

from cc_kraken.decide.array import Assembling
from cc_kraken.decide.attach import Attaching
from cc_kraken.decide.plan import (
    ATTACHED,
    FAILED,
    MOUNTED,
    PENDING,
    PLANNED,
    Again,
    Plan,
    Stop,
    Target,
    stopped,
)
from cc_kraken.decide.steps import (
    RemoveFstab,
    WriteFstab,
)
from cc_kraken.decide.world import World
from cc_kraken.model import (
    Claim,
    Known,
    Node,
)


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
    if any(mounted.mount.path == path for mounted in world.mounts):
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
            raise Stop(claim.trouble)
        plan = _SetDecision(node, claim, claims, world, warnings).plan()
    except Stop as stop:
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


class _SetDecision(Attaching, Assembling):
    """The decision on one set, from its volumes to its mount point."""

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
        except Again as again:
            return self._finish(
                PLANNED,
                again.steps,
                outcomes=("what follows is decided when the older intent is gone",),
            )

    def _plan_single(self) -> Plan:
        volume_id = self.volume_ids[0]
        device = self._device(volume_id)
        target = Target(device=device)
        mounted = self._mounted()
        if mounted is not None:
            return self._plan_mounted(target, mounted, Known(mounted.mount.type))
        if device.holders:
            raise stopped(
                "device-held",
                f"{device.path} ({volume_id}) is held by {', '.join(device.holders)}",
                "a disk that nothing uses",
                "It belongs to an array or a mapping: set VolumeSize and the tags "
                "of its set right, or stop what holds it.",
            )
        look = self._look(volume_id)
        steps, known = self._filesystem_steps(look, target, {volume_id: look})
        return self._plan_mount(target, steps, known)
