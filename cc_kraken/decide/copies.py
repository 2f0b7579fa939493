"""Copies of a set's volumes that are attached too (design, section 8).  Pure.

A volume that was made from a snapshot shows the UUIDs of the original.  With
two such disks a mount by UUID may lead to either; md may take the copy of a
member for the member, and btrfs the copy of a device for the device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cc_kraken.decide.case import Case
from cc_kraken.decide.world import World
from cc_kraken.filesystems import registry
from cc_kraken.model import Signature, failure
from cc_kraken.proof.superblock import MD_MEMBER

_OWN_ARRAY = "mdadm --assemble --update=uuid /dev/md/copy {0}"
"""What gives the copy of an array with these members a UUID of its own."""


def beside(
    world: World, volumes: Collection[str], uuids: Collection[str]
) -> tuple[Signature, ...]:
    """The disks, not only of these volumes, that show one of the UUIDs."""
    return tuple(
        one
        for one in world.signatures
        if one.uuid and one.uuid in uuids and not set(one.volumes) <= set(volumes)
    )


def check(case: Case, *uuids: str) -> None:
    """A set must not be mounted by its UUID where another disk shows it too."""
    world = case.world
    found = _alike(beside(world, case.volume_ids, uuids))
    if found:
        raise failure(
            "array-clone" if found[0].type == MD_MEMBER else "filesystem-clone",
            f"{_describe(world, case.name, case.volume_ids, found)}.",
            "No two disks of this machine may have the same UUID.",
            f"{_detach(world, found)}, then: cc-kraken apply.{_keep(world, found)}",
        )


def warnings(world: World, name: str, volumes: Sequence[str], *uuids: str) -> list[str]:
    """The same of a set that is up, and stays so."""
    found = _alike(beside(world, volumes, uuids))
    if not found:
        return []
    return [
        f"{_describe(world, name, volumes, found)}. The set is mounted from its own "
        f"volumes. {_detach(world, found)}.{_keep(world, found)}"
    ]


def _alike(found: Sequence[Signature]) -> Sequence[Signature]:
    """Those with one UUID: the members of an array's copy are told together."""
    return [one for one in found if one.uuid == found[0].uuid]


def _describe(
    world: World, name: str, volumes: Sequence[str], found: Sequence[Signature]
) -> str:
    first = found[0]
    what = "array" if first.type == MD_MEMBER else first.type
    who = " and ".join(
        f"{', '.join(one.volumes)} ({one.path}{_where(world, one)})" for one in found
    )
    return (
        f"{who} {'have' if len(found) > 1 else 'has'} the same {what} UUID "
        f"{first.uuid} as {', '.join(volumes)}, the set {name}"
    )


def _where(world: World, one: Signature) -> str:
    return "".join(f", mounted at {path}" for path in _mounted(world, one))


def _mounted(world: World, one: Signature) -> list[str]:
    return [
        mounted.mount.path
        for mounted in world.mounts
        if mounted.volumes and set(one.volumes) <= mounted.volumes
    ]


def _detach(world: World, found: Sequence[Signature]) -> str:
    text = "Detach the copy"
    if any(_mounted(world, one) for one in found):
        text = "Unmount the copy and detach it"
    if found[0].type == MD_MEMBER:
        text += " (if it belongs to the set, give it the set's tags instead)"
    return text


def _keep(world: World, found: Sequence[Signature]) -> str:
    kind = registry.TYPES.get(found[0].type)
    command = kind.own_uuid if kind else ""
    if found[0].type == MD_MEMBER:
        command = _OWN_ARRAY
    system = any(set(one.volumes) & world.system_volumes for one in found)
    if not command or system:
        return ""
    paths = " ".join(one.path for one in found)
    return f" To keep it attached, give it its own UUID: {command.format(paths)}"
