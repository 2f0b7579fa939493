"""Is a set that is mounted where it belongs, and what is it still to be told?"""

from __future__ import annotations

from typing import Optional

from cc_kraken.decide import copies, fstab_line, grow, owner, seen
from cc_kraken.decide.case import Base, Case, Target
from cc_kraken.decide.plan import ASSEMBLED, ATTACHED, MOUNTED, Plan, Stop
from cc_kraken.decide.steps import Step, WriteFstab
from cc_kraken.filesystems import registry
from cc_kraken.model import Known, KrakenError, Mounted, Trouble


def plan(case: Case, base: Base, up: Mounted) -> Plan:
    """Nothing that holds for ``up`` can make it a failure, but for its place."""
    target, path, place = base.target, case.wanted.mount_path, up.mount.path
    if path is None:
        # Somebody else's mount: ours is done.
        state = ASSEMBLED if target.array_uuid else ATTACHED
        return Plan(case.name, state, base.steps, array_uuid=target.array_uuid)
    known = _filesystem(case, target, up)
    uuids = known.uuid, target.array_uuid
    for text in copies.warnings(case.world, case.name, case.volume_ids, *uuids):
        case.warn(text)
    lines = _lines(case, target, known, place) if known.uuid else []
    wrong = _not_up(case, up, known, path, lines)
    if wrong is not None:
        raise Stop(wrong, tuple(lines))
    steps: list[Step] = [*base.steps, *lines]
    outcomes, pending = [], None
    if place == path:
        steps += owner.steps_mounted(case, path)
        pending = owner.pending(case, path)
    else:
        case.warn(
            f"{case.name} is mounted at {place} and is to be at {path}: it moves "
            "at the next reboot."
        )
        outcomes.append(f"it is mounted at {path} at the next reboot")
    _compare(case, known, up)
    grown = grow.of_set(case, base, up)
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
    shown = look.content if look is not None else None
    if isinstance(shown, Known) and shown.type == up.mount.type:
        return shown
    return Known(up.mount.type)  # of a partition or a mapping that is mounted


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


def _lines(case: Case, target: Target, known: Known, place: str) -> list[WriteFstab]:
    """What fstab needs, or a warning of what is in its way."""
    line = fstab_line.of_set(case, known)
    if line.path != place and not _may_move(case, line.path, place):
        return []
    try:
        steps = fstab_line.steps(case, target, known, place)
    except KrakenError as error:
        case.warn(str(error))
        return []
    before = case.world.fstab.get(case.name)
    if before is not None and before.path == line.path == place:
        if before.options != line.options:
            case.warn(
                f"The mount options of {line.path} are now "
                f"{','.join(case.wanted.mount_options) or 'defaults'}: they hold "
                f"from the next reboot on, or after: mount -o remount {line.path}"
            )
    return steps


def _may_move(case: Case, path: str, place: str) -> bool:
    """Whether fstab may mount the set at ``path`` at the next reboot."""
    world = case.world
    state = world.paths.get(path)
    if state is not None and state.kind not in ("absent", "directory"):
        case.warn(
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
        case.warn(
            f"{' and '.join(inside)}, below {path}: fstab gets no line "
            f"for {case.name} that could hide it."
        )
        return False
    if state is not None and state.entries and seen.at(world.mounts, path) is None:
        case.warn(
            f"Mounting at {path} will hide what is in it: {', '.join(state.entries)}."
        )
    return True


def _compare(case: Case, known: Known, up: Mounted) -> None:
    """What is there with what is wished: a filesystem is used as it is."""
    wanted, path, place = case.wanted, case.wanted.mount_path, up.mount.path
    if wanted.fs_type and known.type != wanted.fs_type:
        case.warn(
            f"FsType says {wanted.fs_type}, {path} is {known.type}: it is used as it "
            "is."
        )
    meant = registry.cut(known.type, wanted.label or "")
    if wanted.label and known.uuid and known.label != meant:
        case.note(
            f"Label says {meant!r}, the {known.type} at {place} has "
            f"{known.label!r}: it is left as it is."
        )
    state = case.world.paths.get(place)
    if state is not None and state.kind == "unreadable":
        case.warn(
            f"{place} cannot be looked at: after an I/O error the kernel may answer "
            f"nothing there (dmesg). Stop what uses it, then: umount {place} && "
            "cc-kraken apply."
        )
    if up.errors:
        case.warn(
            f"The kernel has found errors in the {up.mount.type} at {place} (dmesg): "
            "take a snapshot, stop what uses it, and reboot or unmount it and run "
            "again. It is checked before it is mounted."
        )
    if up.read_only and "ro" not in wanted.mount_options:
        case.warn(
            f"{place} can only be read, which MountOptions does not ask for: the "
            "kernel does so after an error (dmesg)."
        )
