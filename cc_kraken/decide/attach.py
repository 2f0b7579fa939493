"""Are the volumes of a set attached here, and may they be (design, section 4)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from cc_kraken.config.tags import ANY_NODE
from cc_kraken.decide.case import Case
from cc_kraken.decide.plan import Stop
from cc_kraken.decide.steps import Attach, Detach, Step
from cc_kraken.model import Attachment, Holder, KrakenError, Trouble, Volume

NEVER = "cc_kraken never takes it away."
CLAIM_SECONDS = 120
"""For so long an instance that may be any node is given to settle or to give back."""
WHOLE_SECONDS = 300
"""For so long a free set is left to another instance that runs as the same node and
has a set already: of two that boot together one gets the whole node."""
DETACHING = ("detaching", "busy")
"""States of an attachment that ends."""
ATTACH_LIMIT_SECONDS = 90
"""Longer in "attaching" is stuck (block-device practice on EC2)."""


def steps(case: Case) -> tuple[Step, ...]:
    """Nothing is attached before all of them are free or here."""
    troubles: list[Trouble] = []
    free: list[str] = []
    for volume in case.claim.volumes:
        trouble = _trouble(case, volume)
        if trouble is not None:
            troubles.append(trouble)
        elif not volume.attachments and volume.id not in case.world.devices:
            free.append(volume.id)
    if free and not troubles:
        _check_no_twin(case)
    if free and all(trouble.kind == "attaching" for trouble in troubles):
        # Those are ours: the others need not wait for their disks.
        return (Attach(case.name, tuple(sorted(free))),)
    if troubles:
        troubles.sort(key=lambda trouble: trouble.waits)
        raise Stop(troubles[0], _give_way(case, troubles))
    return ()


def warn_of_termination(case: Case) -> None:
    here = case.world.instance_id
    for volume in case.claim.volumes:
        for one in volume.attachments:
            if one.delete_on_termination and one.instance_id == here:
                case.warn(
                    f"EC2 deletes {volume.id} with this instance "
                    f"(DeleteOnTermination). {keep_at_termination(one)}"
                )


def keep_at_termination(one: Attachment) -> str:
    """What to do, so that EC2 does not delete a volume with its instance."""
    return (
        f"Switch it off: aws ec2 modify-instance-attribute --instance-id "
        f"{one.instance_id} --block-device-mappings DeviceName={one.device},"
        "Ebs={DeleteOnTermination=false}"
    )


def _give_way(case: Case, troubles: Sequence[Trouble]) -> tuple[Step, ...]:
    """Who loses a member to a rival lets the others go, unused."""
    if not any(trouble.kind.startswith("holder-") for trouble in troubles):
        return ()
    devices = case.world.devices
    used = {
        volume
        for volume, one in devices.items()
        if one.holders or one.mounted or one.swap
    }
    mine = [volume for volume in case.volume_ids if volume in case.world.attached_now]
    unused = tuple(volume for volume in mine if volume not in used)
    return (Detach(case.name, unused),) if unused else ()


def _here(case: Case) -> list[str]:
    """The sets of the node of which this instance has a volume."""
    return [
        claim.name
        for claim in case.claims
        if any(
            volume.id in case.world.devices
            or volume.attached_to(case.world.instance_id)
            for volume in claim.volumes
        )
    ]


def _check_no_twin(case: Case) -> None:
    """Whether another instance runs as this node, and has a set of it already."""
    if case.world.elapsed >= WHOLE_SECONDS or _here(case):
        return
    for claim in case.claims:
        for volume in claim.volumes:
            trouble = _trouble(case, volume)
            if trouble is not None and trouble.kind == "holder-predecessor":
                found = (
                    f"{trouble.found} It has the set {claim.name}, so {case.name} is "
                    f"left to it for {WHOLE_SECONDS} s."
                )
                expected = "One instance must have all sets of a node."
                raise KrakenError(replace(trouble, found=found, expected=expected))


def _trouble(case: Case, volume: Volume) -> Optional[Trouble]:
    for attachment in volume.attachments:
        if attachment.instance_id != case.world.instance_id:
            return _held(case, volume, attachment.instance_id or "")
        if attachment.state in DETACHING:
            return Trouble(
                "volume-detaching",
                f"{volume.id} is being detached from this instance "
                f"({attachment.state}).",
                "It must stay attached.",
                "It is attached again once EC2 has let it go. If that lasts, look "
                "for what detaches it (CloudTrail: DetachVolume).",
                waits=True,
            )
        if volume.id not in case.world.devices:
            return _absent(case, volume, attachment.state)
    # The device says more than a stale answer of EC2's.
    if volume.attachments or volume.id in case.world.devices:
        return None
    if volume.state != "available":
        return Trouble(
            "volume-state",
            f"{volume.id} is in the state {volume.state}.",
            "It must be available.",
            f"If that lasts, look at {volume.id} in EC2 (describe-volumes).",
            waits=True,
        )
    return None


def _absent(case: Case, volume: Volume, state: str) -> Trouble:
    """Attached, says EC2, and there is no disk of it yet."""
    seconds = case.world.awaited.get(volume.id, 0.0)
    if seconds > ATTACH_LIMIT_SECONDS:
        return Trouble(
            "attach-stuck",
            f"{volume.id} has been {state} for {int(seconds)} s and has no "
            "device in this machine.",
            f"The device must be there within {ATTACH_LIMIT_SECONDS} s.",
            f"Detach {volume.id} in EC2, then: cc-kraken apply. Or replace the "
            "instance.",
        )
    return Trouble(
        "attaching",
        f"{volume.id} is {state} and its device is not there yet.",
        "An NVMe device with its serial must appear.",
        f"If it stays away, detach {volume.id} in EC2, then: cc-kraken apply. Or "
        "replace the instance.",
        waits=True,
    )


def _held(case: Case, volume: Volume, instance_id: str) -> Trouble:
    """By another instance: it is never taken away."""
    if not instance_id:
        return Trouble(
            "volume-managed",
            f"{volume.id} is attached to something that EC2 does not name.",
            "Nobody else may manage the volumes of a set.",
            "Pin other volumes with volume_ids.",
        )
    holder = case.world.holders.get(instance_id, Holder(instance_id, "unknown"))
    state, prefix, node_id = holder.state, holder.prefix, holder.node_id
    may_be_any = prefix == case.node.prefix and node_id == ANY_NODE
    attached = f"{volume.id} is attached to {instance_id}, which is {state}"
    states = {one.state for one in volume.attachments if one.instance_id == instance_id}
    soon = "cc_kraken attaches it as soon as EC2 has released it. If that lasts,"
    waits = True
    if state in ("shutting-down", "terminated", "gone", "unknown"):
        kind = "holder-leaving"
        found = f"{attached}."
        remedy = f"{soon} see in EC2 why {instance_id} does not end."
    elif states & set(DETACHING):
        busy = ", whose system has not let go of it (busy)" if "busy" in states else ""
        kind = "holder-detaching"
        found = f"{volume.id} is being detached from {instance_id}{busy}."
        remedy = f"{soon} unmount it on {instance_id}."
    elif state in ("stopped", "stopping"):
        kind = "holder-stopped"
        found = f"{attached} and keeps it."
        remedy = f"Terminate {instance_id}, or detach the volume from it: {NEVER}"
    elif prefix == case.node.prefix and node_id == case.node.node_id:
        kind = "holder-predecessor"
        found = f"{attached} as the same node {case.node}."
        remedy = f"Terminate {instance_id} if it is not on its way out."
        here = _here(case)
        if here:
            remedy = (
                f"This instance has {' and '.join(here)}. Terminate one of the two, "
                "then run cc-kraken apply on the other: it gets the rest."
            )
    elif may_be_any and case.world.elapsed < CLAIM_SECONDS:
        kind = "holder-claiming"
        found = f"{attached} and may be any node of {case.node.prefix}."
        remedy = (
            f"{instance_id} gives it back if it becomes another node. If that lasts, "
            f"take the fixed NodeId off this instance, or terminate {instance_id}."
        )
    else:
        kind = "holder-running"
        waits = False
        found = f"{attached} and is not this node ({case.node})."
        remedy = (
            f"Terminate {instance_id}, detach the volume from it, or correct the "
            f"tags: {NEVER}"
        )
    return Trouble(kind, found, "The volume must be free.", remedy, waits)
