"""Which line of fstab does a set need, and which one is in its way?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cc_kraken.decide import seen
from cc_kraken.decide.case import Case, Target
from cc_kraken.decide.steps import WriteFstab
from cc_kraken.filesystems import registry
from cc_kraken.machine import fstab
from cc_kraken.machine.md import mdadm_uuid
from cc_kraken.model import FstabLine, Known, KrakenError, failure


def of_set(case: Case, known: Known) -> FstabLine:
    wanted = case.wanted
    path = wanted.mount_path or ""
    return fstab.entry(case.name, known.uuid, path, known.type, wanted.mount_options)


def steps(
    case: Case, target: Target, known: Known, place: str = ""
) -> list[WriteFstab]:
    """``place``: where the set is mounted now, if anywhere."""
    line = of_set(case, known)
    theirs = _to_replace(case, line, target, known, place)
    for foreign in fstab.on_path(case.world.fstab_foreign, line.path):
        if foreign not in theirs:
            raise failure(
                "fstab-conflict",
                f"fstab mounts {foreign.spec} at {foreign.path}.",
                f"Only the filesystem of the set {case.name} ({line.spec}) may be "
                "mounted there.",
                "Take that line out of fstab, then: cc-kraken apply. Or choose another "
                "MountPath.",
            )
    for one in theirs:
        more = fstab.says_more(one, line)
        if not one.set and (more or not fstab.same_type(one, line)):
            raise _says_more(case, one, more)
    once = case.name not in case.world.fstab_twice
    if once and not theirs and case.world.fstab.get(case.name) == line:
        return []
    return [WriteFstab(case.name, line, theirs)]


def _says_more(case: Case, one: FstabLine, more: Sequence[str]) -> KrakenError:
    """Why a line of somebody else's for this filesystem is not replaced."""
    how = f"with {', '.join(more)}" if more else f"as {one.type}"
    ours = registry.TYPES.get(case.wanted.fs_type or one.type)
    kept = [option for option in more if ours and ours.takes(option)]
    wish = ",".join((*case.wanted.mount_options, *kept))
    remedy = "Take that line out of fstab, and the set is mounted without this"
    if kept and len(kept) == len(more):
        remedy = f"To keep this, set MountOptions to {wish}, and ours replaces it"
        remedy += ". Or take that line out of fstab"
    elif kept:
        remedy += f". To keep {', '.join(kept)}, set MountOptions to {wish} as well"
    return failure(
        "fstab-conflict",
        f"fstab has a line of somebody else for the set {case.name}, and it "
        f"says more than ours: {one.spec} {one.path} {how}.",
        "It may say no more than the tags of the set.",
        f"{remedy}. To mount it by that line alone, set FsType to none.",
    )


def _to_replace(
    case: Case, line: FstabLine, target: Target, known: Known, place: str
) -> tuple[FstabLine, ...]:
    """Lines that mount this very filesystem where it belongs or is now, those of a
    set that has another name today, and at its path those of sets that belong
    elsewhere now: one that does not come up would leave its old line there."""
    live = {claim.name for claim in case.claims}
    devno = target.layer.devno if target.layer else ""
    foreign, resolved = case.world.fstab_foreign, case.world.fstab_devnos
    there = fstab.on_path(foreign, line.path)
    there += fstab.on_path(foreign, place or line.path)
    by_id = _by_id(target)
    found = [
        one
        for one in foreign
        if one in there and fstab.names(one, known, devno, resolved, by_id)
    ]
    renamed = [
        one
        for name, one in sorted(case.world.fstab.items())
        if name not in live and one.spec == line.spec
    ]
    elsewhere = {
        claim.name
        for claim in case.claims
        if claim.name != case.name and claim.wanted.mount_path != line.path
    }
    moved = [
        one
        for name, one in sorted(case.world.fstab.items())
        if name in elsewhere and one.path == line.path
    ]
    return (*found, *_swapped(case, line), *renamed, *moved)


def _swapped(case: Case, line: FstabLine) -> list[FstabLine]:
    """Lines on its path by a kernel name, which by now is that of another set's
    disk: one that they have mounted here, and that belongs elsewhere."""
    there = seen.at(case.world.mounts, line.path)
    elsewhere = {
        volume.id
        for claim in case.claims
        if claim.wanted.mount_path not in (None, line.path)
        for volume in claim.volumes
    }
    if there is None or not there.volumes or not there.volumes <= elsewhere:
        return []
    return [
        one
        for one in fstab.on_path(case.world.fstab_foreign, line.path)
        if case.world.fstab_devnos.get(one.spec) == there.device
        and re.match("/dev/(?!disk/)", one.spec)
        and not fstab.says_more(one, line)
    ]


def _by_id(target: Target) -> str:
    """A pattern of the links that udev makes for it below /dev/disk/by-id: the model
    is before the serial, the namespace may be behind it."""
    if target.array_uuid:
        return f"md-uuid-{mdadm_uuid(target.array_uuid)}"
    serial = target.volume_id.replace("-", "")
    return rf"nvme-.+_{serial}(_1|-ns-1)?"
