"""May a set be mounted at its path now (design, section 8)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from cc_kraken.decide import copies, fstab_line, owner, seen
from cc_kraken.decide.case import Case, Target
from cc_kraken.decide.plan import ASSEMBLED, ATTACHED, PLANNED, Plan
from cc_kraken.decide.steps import (
    MOUNT,
    CheckFilesystem,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    Step,
)
from cc_kraken.model import Claim, Known, KrakenError, failure

DIRECTORY = "It must be a directory, or not be there."


def plan(
    case: Case,
    target: Target,
    steps: Sequence[Step],
    known: Optional[Known],
) -> Plan:
    """``steps`` lead to the filesystem ``known``, which is mounted then."""
    path, state = case.wanted.mount_path, PLANNED
    outcomes = []
    if path is None or known is None or case.wanted.fs_type is None:
        state = ASSEMBLED if target.array_uuid else ATTACHED
    else:
        copies.check(case, known.uuid, target.array_uuid)
        fresh = any(isinstance(step, MakeFilesystem) for step in steps)
        parent = _parent_to_come(case, path)
        if parent is not None:
            steps = _before_parent(case, path, parent, [] if fresh else steps)
            outcomes = [f"mounted at {path} after {parent.name}"]
        else:
            _check_path(case, path, fresh)
            steps = [*steps, *_steps(case, target, known, path, fresh)]
            if owner.is_wanted(case) and not fresh:
                outcomes = ["its owner is set where the root is as mkfs left it"]
    return Plan(
        case.name,
        state,
        tuple(steps),
        outcomes=tuple(outcomes),
        array_uuid=target.array_uuid,
        filesystem=known,
    )


def _steps(
    case: Case, target: Target, known: Known, path: str, fresh: bool
) -> list[Step]:
    steps: list[Step] = []
    state = case.world.paths.get(path)
    if state is None or state.kind == "absent":
        steps.append(MakeDirectory(case.name, path))
    steps += fstab_line.steps(case, target, known)
    if known.errors:
        steps.append(
            CheckFilesystem(
                case.name,
                type=known.type,
                uuid=known.uuid,
                array_uuid=target.array_uuid,
                volume_id=target.volume_id,
            )
        )
    steps.append(
        MountFilesystem(
            case.name,
            path=path,
            type=known.type,
            uuid=known.uuid,
            options=case.wanted.mount_options,
            array_uuid=target.array_uuid,
            volume_id=target.volume_id,
            covers=not fresh or case.wanted.mount_over,
        )
    )
    return [*steps, *(owner.steps(case, path) if fresh else [])]


def _parent_to_come(case: Case, path: str) -> Optional[Claim]:
    """The set whose mount path is above ``path`` and not mounted."""
    for claim in case.claims:
        above = claim.wanted.mount_path
        if claim.name == case.name or not above:
            continue
        if path.startswith(above.rstrip("/") + "/"):
            volumes = frozenset(volume.id for volume in claim.volumes)
            if seen.up_at(case.world.mounts, above, volumes) is None:
                return claim
    return None


def _before_parent(
    case: Case, path: str, parent: Claim, steps: Sequence[Step]
) -> list[Step]:
    """What may be done before ``parent`` is mounted.  Of a new filesystem nothing:
    only then can be seen what it would hide."""
    below = f"{path} lies below the mount path of the set {parent.name}, which"
    first = f"The set {parent.name} must be mounted first."
    volumes = frozenset(volume.id for volume in parent.volumes)
    for mounted in case.world.mounts_of(volumes):
        if mounted.mount.path != parent.wanted.mount_path:
            raise failure(
                "parent-moves",
                f"{below} is still mounted at {mounted.mount.path}.",
                f"The set {parent.name} must be at {parent.wanted.mount_path} first.",
                f"Reboot: {parent.name} moves, then {case.name} is mounted.",
            )
    if parent.name in case.world.failed:
        remedy = (
            f"Put {parent.name} right first (cc-kraken status), or choose another "
            "MountPath."
        )
        raise failure("parent-failed", f"{below} has failed.", first, remedy)
    before = [step for step in steps if step.phase != MOUNT]
    if not before:
        remedy = (
            f"{case.name} follows when {parent.name} is mounted. If it does not, see "
            f"what {parent.name} waits for (cc-kraken status)."
        )
        found = f"{below} is not mounted yet."
        raise failure("parent-not-mounted", found, first, remedy, waits=True)
    return before


def _check_path(case: Case, path: str, fresh: bool) -> None:
    mounts = case.world.mounts
    mounted = seen.at(mounts, path)
    if mounted is not None:
        raise KrakenError(seen.busy(path, case.name, mounted.mount))
    below = [one.mount for one in seen.below(mounts, path)]
    if below:
        raise KrakenError(seen.hides(path, case.name, below))
    state = case.world.paths.get(path)
    if state is None or state.kind == "absent":
        return
    if state.kind == "unreadable":
        raise failure(
            "mount-path-kind",
            f"{path} cannot be looked at.",
            DIRECTORY,
            "See the log for the reason, or choose another MountPath.",
        )
    if state.kind != "directory":
        raise failure(
            "mount-path-kind",
            f"{path} is a symbolic link, below one, or not a directory.",
            DIRECTORY,
            "Choose another MountPath, or take away what is there.",
        )
    if not state.entries:
        return
    names = ", ".join(state.entries)
    if fresh and not case.wanted.mount_over:
        raise failure(
            "mount-path-files",
            f"{path} has files in it ({names}), which the new filesystem would hide.",
            "It must be empty.",
            "Move the files away, or set mount_over: true.",
        )
    case.warn(f"Mounting at {path} hides what is in it: {names}.")
