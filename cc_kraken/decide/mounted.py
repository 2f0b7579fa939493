"""Is a set that is mounted where it belongs, and what is it still to be told?"""

from __future__ import annotations

from typing import Optional

from cc_kraken.decide import copies, fstab_line, grow, owner, seen
from cc_kraken.decide.case import Base, Case, Noticed, Target
from cc_kraken.decide.disks import GIB
from cc_kraken.decide.plan import ASSEMBLED, ATTACHED, MOUNTED, Plan, Stop
from cc_kraken.decide.steps import Step, WriteFstab
from cc_kraken.filesystems import registry
from cc_kraken.model import Known, Mounted, Trouble, gib


def plan(case: Case, noticed: Noticed, base: Base, up: Mounted) -> Plan:
    """Nothing that holds for ``up`` can make it a failure, but for its place."""
    target, path, place = base.target, case.wanted.mount_path, up.mount.path
    if path is None:
        # Somebody else's mount: ours is done.
        state = ASSEMBLED if target.array_uuid else ATTACHED
        return Plan(case.name, state, base.steps, array_uuid=target.array_uuid)
    known = _filesystem(case, target, up)
    uuids = known.uuid, target.array_uuid
    noticed.warnings += copies.warnings(case.world, case.name, case.volume_ids, *uuids)
    lines = _lines(case, noticed, target, known, place) if known.uuid else []
    wrong = _not_up(case, up, known, path, lines)
    if wrong is not None:
        raise Stop(wrong, tuple(lines))
    steps: list[Step] = [*base.steps, *lines]
    outcomes = []
    pending = None
    if place != path:
        noticed.warnings.append(
            f"{case.name} is mounted at {place} and is to be at {path}: it moves "
            "at the next reboot."
        )
        outcomes.append(f"it is mounted at {path} at the next reboot")
    _warn_of_type(case, noticed, known, path)
    if place == path:
        steps += owner.steps_mounted(case, noticed, path)
        pending = owner.pending(case, path)
    _note_label(case, noticed, known, place)
    _warn_of_damage(case, noticed, up)
    grown = _growth(case, noticed, base, up)
    return Plan(
        case.name,
        MOUNTED,
        (*steps, *grown.steps),
        pending,
        outcomes=(*grown.outcomes, *outcomes),
        array_uuid=target.array_uuid,
        filesystem=known,
        mount_path="" if place == path else place,
    )


def _filesystem(case: Case, target: Target, up: Mounted) -> Known:
    look = case.world.looks.get(target.volume_id)
    if target.array_uuid:
        look = case.world.array_looks.get(target.array_uuid)
    if look is not None and isinstance(look.content, Known):
        # It is something else where a partition or a mapping is mounted.
        if look.content.type == up.mount.type:
            return look.content
    return Known(up.mount.type)


def _not_up(
    case: Case, up: Mounted, known: Known, path: str, lines: list[WriteFstab]
) -> Optional[Trouble]:
    """Why a set that is mounted is not up; ``lines``: what fstab needs."""
    world, name, place = case.world, case.name, up.mount.path
    if seen.up_at(world.mounts, path, frozenset(case.volume_ids)):
        return None
    if not up.seen:
        return seen.hidden(name, world.mounts, up)
    whose = [one.name for one in case.claims if one.wanted.mount_path == place]
    keys = (*case.volume_ids, f"UUID={known.uuid}")
    if not whose and any(place in world.former.get(one, ()) for one in keys):
        return None
    theirs = f", the path of the set {whose[0]}" if whose else ""
    if lines or world.fstab.get(name) == fstab_line.of_set(case, known):
        remedy = f"fstab has it at {path}: stop what uses {place}, and reboot. Or: "
    else:
        remedy = f"Correct fstab (see the warnings), stop what uses {place}, and: "
    both = f"{place} {path}" if seen.at(world.mounts, path) else place
    return Trouble(
        "mounted-elsewhere",
        f"The set {name} is mounted at {place}{theirs}.",
        f"It belongs at {path}.",
        f"{remedy}umount {both} && cc-kraken apply.",
    )


def _lines(
    case: Case, noticed: Noticed, target: Target, known: Known, place: str
) -> list[WriteFstab]:
    """What fstab needs, or a warning of what is in its way."""
    line = fstab_line.of_set(case, known)
    if line.path != place and not _may_move(case, noticed, line.path, place):
        return []
    try:
        steps = fstab_line.steps(case, target, known, place)
    except Stop as stop:
        noticed.warnings.append(str(stop.trouble))
        return []
    before = case.world.fstab.get(case.name)
    if before is not None and before.path == line.path == place:
        if before.options != line.options:
            noticed.warnings.append(
                f"The mount options of {line.path} are now "
                f"{','.join(case.wanted.mount_options) or 'defaults'}: they hold "
                f"from the next reboot on, or after: mount -o remount {line.path}"
            )
    return steps


def _may_move(case: Case, noticed: Noticed, path: str, place: str) -> bool:
    """Whether fstab may mount the set at ``path`` at the next reboot."""
    world = case.world
    state = world.paths.get(path)
    if state is not None and state.kind not in ("absent", "directory"):
        noticed.warnings.append(
            f"{path} is not a directory: fstab still has {place} for {case.name}."
        )
        return False
    own = case.mounted()
    inside = [
        f"{seen.brief(one.mount)} is mounted at {one.mount.path}"
        for one in seen.below(world.mounts, path)
        if own is None or one.volumes != own.volumes
    ]
    if inside:
        noticed.warnings.append(
            f"{' and '.join(inside)}, below {path}: fstab gets no line "
            f"for {case.name} that could hide it."
        )
        return False
    if state is not None and state.entries and seen.at(world.mounts, path) is None:
        noticed.warnings.append(
            f"Mounting at {path} will hide what is in it: {', '.join(state.entries)}."
        )
    return True


def _growth(case: Case, noticed: Noticed, base: Base, up: Mounted) -> grow.Growth:
    if not case.wanted.grow or case.name in case.world.not_grown:
        return grow.Growth(case.name)
    for volume in case.claim.volumes:
        device = case.device(volume.id)
        if device.size < volume.size_gib * GIB:
            noticed.notes.append(
                f"EC2 says that {volume.id} has {volume.size_gib} GiB, and "
                f"{device.path} has {gib(device.size)} so far: it grows when "
                "the machine sees the new size, at the next boot at the latest."
            )
    found, array = grow.Growth(case.name), base.target.array
    if base.target.device is not None:
        found = grow.of_volume(case.name, base.target.device, up)
    elif array is not None:
        inside = {
            volume: grow.Member(case.device(volume), block)
            for volume, block in base.blocks.items()
            if case.device(volume).name in array.members
        }
        found = grow.of_array(case.name, array, inside, up)
    noticed.warnings += found.warnings
    noticed.notes += found.notes
    return found


def _warn_of_type(case: Case, noticed: Noticed, known: Known, path: str) -> None:
    wanted = case.wanted.fs_type
    if wanted and known.type != wanted:
        noticed.warnings.append(
            f"FsType says {wanted}, {path} is {known.type}: it is used as it is."
        )


def _note_label(case: Case, noticed: Noticed, known: Known, path: str) -> None:
    wanted = case.wanted.label
    if not wanted or not known.uuid:
        return
    meant = registry.cut(known.type, wanted)
    if known.label != meant:
        noticed.notes.append(
            f"Label says {meant!r}, the {known.type} at {path} has "
            f"{known.label!r}: it is left as it is."
        )


def _warn_of_damage(case: Case, noticed: Noticed, up: Mounted) -> None:
    path = up.mount.path
    if up.errors:
        noticed.warnings.append(
            f"The kernel has found errors in the {up.mount.type} at {path} (dmesg): "
            "take a snapshot, stop what uses it, and reboot or unmount it and run "
            "again. It is checked before it is mounted."
        )
    if up.read_only and "ro" not in case.wanted.mount_options:
        noticed.warnings.append(
            f"{path} can only be read, which MountOptions does not ask for: the "
            "kernel does so after an error (dmesg)."
        )
