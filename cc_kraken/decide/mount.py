"""Mount points, fstab, owners and growth (design, section 8).  Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import List, Mapping, Optional, Sequence, Tuple

from cc_kraken.decide import copies, growth, seen
from cc_kraken.decide.plan import (
    ASSEMBLED,
    ATTACHED,
    GIB,
    MOUNTED,
    PLANNED,
    Plan,
    SetDecision,
    Stop,
    Target,
    stopped,
)
from cc_kraken.decide.steps import (
    CheckFilesystem,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    SetOwner,
    Step,
    WriteFstab,
)
from cc_kraken.filesystems import registry
from cc_kraken.machine import fstab
from cc_kraken.machine.md import mdadm_uuid
from cc_kraken.model import (
    FstabLine,
    Known,
    Look,
    MdSuperblock,
    Mounted,
    PathState,
    Trouble,
    gib,
)


class Mounting(SetDecision):
    """Where a filesystem is mounted, and what holds for one that is."""

    def _line(self, known: Known) -> FstabLine:
        return fstab.entry(
            self.claim.name,
            known.uuid,
            self.wanted.mount_path or "",
            known.type,
            self.wanted.mount_options,
        )

    def _plan_mounted(
        self,
        target: Target,
        mounted: Mounted,
        known: Known,
        steps: Sequence[Step] = (),
        blocks: Mapping[str, MdSuperblock] = {},
    ) -> Plan:
        todo = list(steps)
        path = self.wanted.mount_path
        if path is None:
            return self._finish(MOUNTED, todo, array_uuid=target.array_uuid)
        known = self._mounted_filesystem(known, target)
        self.warnings += copies.warnings(
            self.world, self.claim.name, self.volume_ids, known.uuid, target.array_uuid
        )
        lines = self._mounted_line(target, mounted, known) if known.uuid else []
        wrong = self._not_up(mounted, known, path, lines)
        if wrong is not None:
            raise Stop(wrong, tuple(lines))
        if mounted.mount.path != path:
            self.warnings.append(
                f"{self.claim.name} is mounted at {mounted.mount.path} and is to be "
                f"at {path}: it moves at the next reboot."
            )
        if self.wanted.fs_type and known.type != self.wanted.fs_type:
            self.warnings.append(
                f"FsType says {self.wanted.fs_type}, {path} is {known.type}: it is "
                "used as it is."
            )
        todo += lines
        pending = None
        if mounted.mount.path == path:
            todo += self._owner_steps(path, fresh=False)
            self._note_owner(path)
            pending = self._owner_pending(path)
        self._note_label(known, mounted.mount.path)
        self._warn_of_damage(mounted)
        grown = self._growth(target, mounted, blocks)
        plan = self._finish(
            MOUNTED,
            [*todo, *grown.steps],
            outcomes=grown.outcomes,
            array_uuid=target.array_uuid,
            filesystem=known,
            trouble=pending,
        )
        if mounted.mount.path == path:
            return plan
        later = f"it is mounted at {path} at the next reboot"
        return replace(
            plan, outcomes=(*plan.outcomes, later), mount_path=mounted.mount.path
        )

    def _not_up(
        self, mounted: Mounted, known: Known, path: str, lines: Sequence[Step]
    ) -> Optional[Trouble]:
        """Why a set that is mounted is not up; ``lines``: what fstab needs."""
        name, place = self.claim.name, mounted.mount.path
        if seen.up_at(self.world.mounts, path, frozenset(self.volume_ids)):
            return None
        if not mounted.seen:
            return seen.hidden(name, self.world.mounts, mounted)
        whose = [one.name for one in self.claims if one.wanted.mount_path == place]
        keys = (*self.volume_ids, f"UUID={known.uuid}")
        if not whose and any(place in self.world.former.get(one, ()) for one in keys):
            return None
        theirs = f", the path of the set {whose[0]}" if whose else ""
        if lines or self.world.fstab.get(name) == self._line(known):
            remedy = f"fstab has it at {path}: stop what uses {place}, and reboot. Or: "
        else:
            remedy = f"Correct fstab (see the warnings), stop what uses {place}, and: "
        both = f"{place} {path}" if seen.at(self.world.mounts, path) else place
        return Trouble(
            "mounted-elsewhere",
            f"The set {name} is mounted at {place}{theirs}",
            f"it at {path}",
            f"{remedy}umount {both} && cc-kraken apply.",
        )

    def _growth(
        self, target: Target, mounted: Mounted, blocks: Mapping[str, MdSuperblock]
    ) -> growth.Growth:
        if not self.wanted.grow or self.claim.name in self.world.not_grown:
            return growth.Growth()
        for volume in self.claim.volumes:
            device = self._device(volume.id)
            if device.size < volume.size_gib * GIB:
                self.notes.append(
                    f"EC2 says that {volume.id} has {volume.size_gib} GiB, and "
                    f"{device.path} has {gib(device.size)} so far: it grows when "
                    "the machine sees the new size, at the next boot at the latest."
                )
        if target.device is not None:
            found = growth.of_volume(self.claim.name, target.device, mounted)
        elif target.array is not None:
            inside = {
                volume: growth.Member(self._device(volume), block)
                for volume, block in blocks.items()
                if self._device(volume).name in target.array.members
            }
            found = growth.of_array(self.claim.name, target.array, inside, mounted)
        else:
            return growth.Growth()
        self.warnings += found.warnings
        self.notes += found.notes
        return found

    def _note_label(self, known: Known, path: str) -> None:
        wanted = self.wanted.label
        if not wanted or not known.uuid:
            return
        meant = registry.cut(known.type, wanted)
        if known.label != meant:
            self.notes.append(
                f"Label says {meant!r}, the {known.type} at {path} has "
                f"{known.label!r}: it is left as it is."
            )

    def _note_owner(self, path: str) -> None:
        state = self.world.paths.get(path)
        if not self._owner_wanted() or state is None or self._unknown_accounts():
            return
        if not self._owned(state) and not state.as_made:
            self.notes.append(
                f"{path} belongs to {state.uid}:{state.gid} with mode "
                f"{state.mode:04o}, which is not what Owner, Group and Mode say: "
                "they are set when a filesystem is new, and it is left as it is."
            )

    def _warn_of_damage(self, mounted: Mounted) -> None:
        path, kind = mounted.mount.path, mounted.mount.type
        if mounted.errors:
            self.warnings.append(
                f"The kernel has found errors in the {kind} at {path} (dmesg): take "
                "a snapshot, stop what uses it, and reboot or unmount it and run "
                "again. It is checked before it is mounted."
            )
        if mounted.read_only and "ro" not in self.wanted.mount_options:
            self.warnings.append(
                f"{path} can only be read, which MountOptions does not ask for: the "
                "kernel does so after an error (dmesg)."
            )

    def _mounted_filesystem(self, known: Known, target: Target) -> Known:
        look: Optional[Look] = self.world.looks.get(target.volume_id)
        if target.array_uuid:
            look = self.world.array_looks.get(target.array_uuid)
        if look is None or not isinstance(look.content, Known):
            return known
        # It is something else where a partition or a mapping is mounted.
        return look.content if look.content.type == known.type else known

    def _mounted_line(
        self, target: Target, mounted: Mounted, known: Known
    ) -> List[Step]:
        """The line of a set that is mounted, which nothing in fstab can make
        a failure."""
        line = self._line(known)
        if mounted.mount.path != line.path:
            state = self.world.paths.get(line.path)
            if state is not None and state.kind not in ("absent", "directory"):
                self.warnings.append(
                    f"{line.path} is not a directory: fstab still has "
                    f"{mounted.mount.path} for {self.claim.name}."
                )
                return []
            inside = [
                f"{seen.brief(one.mount)} is mounted at {one.mount.path}"
                for one in seen.below(self.world.mounts, line.path)
                if one.volumes != mounted.volumes
            ]
            if inside:
                self.warnings.append(
                    f"{' and '.join(inside)}, below {line.path}: fstab gets no line "
                    f"for {self.claim.name} that could hide it."
                )
                return []
            taken = seen.at(self.world.mounts, line.path)
            if state is not None and state.entries and taken is None:
                self.warnings.append(
                    f"Mounting at {line.path} will hide what is in it: "
                    f"{', '.join(state.entries)}."
                )
        try:
            steps = self._fstab_steps(line, target, known, mounted.mount.path)
        except Stop as stop:
            self.warnings.append(str(stop.trouble))
            return []
        before = self.world.fstab.get(self.claim.name)
        if before is not None and before.path == line.path == mounted.mount.path:
            if before.options != line.options:
                self.warnings.append(
                    f"The mount options of {line.path} are now "
                    f"{','.join(self.wanted.mount_options) or 'defaults'}: they hold "
                    f"from the next reboot on, or after: mount -o remount {line.path}"
                )
        return steps

    def _fstab_steps(
        self, line: FstabLine, target: Target, known: Known, place: str = ""
    ) -> List[Step]:
        """``place``: where the set is mounted now, if anywhere."""
        theirs = self._lines_to_replace(line, target, known, place)
        for foreign in fstab.on_path(self.world.fstab_foreign, line.path):
            if foreign not in theirs:
                raise stopped(
                    "fstab-conflict",
                    f"fstab mounts {foreign.spec} at {foreign.path}",
                    f"{line.path} free for the set {self.claim.name}, or a line for "
                    f"its own filesystem ({line.spec})",
                    "Take that line out of fstab and run again, or choose another "
                    "MountPath.",
                )
        for one in theirs:
            more = fstab.says_more(one, line)
            if not one.set and (more or not fstab.same_type(one, line)):
                raise self._says_more(one, more)
        if not theirs and self.world.fstab.get(self.claim.name) == line:
            return []
        return [WriteFstab(self.claim.name, line, theirs)]

    def _says_more(self, one: FstabLine, more: Sequence[str]) -> Stop:
        """Why a line of somebody else's for this filesystem is not replaced."""
        how = f"with {', '.join(more)}" if more else f"as {one.type}"
        ours = registry.TYPES.get(self.wanted.fs_type or one.type)
        kept = [option for option in more if ours and ours.takes(option)]
        wish = ",".join((*self.wanted.mount_options, *kept))
        remedy = "Take that line out of fstab, and the set is mounted without this"
        if kept and len(kept) == len(more):
            remedy = f"To keep this, set MountOptions to {wish}, and ours replaces it"
            remedy += "; or take that line out of fstab"
        elif kept:
            remedy += f"; to keep {', '.join(kept)}, set MountOptions to {wish} as well"
        return stopped(
            "fstab-conflict",
            f"fstab has a line of somebody else for the set {self.claim.name}, and it "
            f"says more than ours: {one.spec} {one.path} {how}",
            "a line that says no more than the tags of the set",
            f"{remedy}. To mount it by that line alone, set FsType to none.",
        )

    def _lines_to_replace(
        self, line: FstabLine, target: Target, known: Known, place: str
    ) -> Tuple[FstabLine, ...]:
        """Lines that mount this very filesystem where it belongs or is now,
        and those of a set that has another name today."""
        live = {claim.name for claim in self.claims}
        devno = target.layer.devno if target.layer else ""
        resolved = self.world.fstab_devnos
        there = [
            *fstab.on_path(self.world.fstab_foreign, line.path),
            *(fstab.on_path(self.world.fstab_foreign, place) if place else ()),
        ]
        by_id = _by_id(target) if there else ""
        found = [
            one
            for one in self.world.fstab_foreign
            if one in there
            and fstab.names(one, known, devno, resolved, by_id, registry.cut)
        ]
        found += self._swapped_lines(line)
        renamed = [
            one
            for name, one in sorted(self.world.fstab.items())
            if name not in live and one.spec == line.spec
        ]
        return (*found, *renamed)

    def _swapped_lines(self, line: FstabLine) -> List[FstabLine]:
        """Lines on its path by a kernel name, which by now is that of another set's
        disk: one that they have mounted here, and that belongs elsewhere."""
        there = seen.at(self.world.mounts, line.path)
        elsewhere = {
            volume.id
            for claim in self.claims
            if claim.wanted.mount_path not in (None, line.path)
            for volume in claim.volumes
        }
        if there is None or not there.volumes or not there.volumes <= elsewhere:
            return []
        return [
            one
            for one in fstab.on_path(self.world.fstab_foreign, line.path)
            if self.world.fstab_devnos.get(one.spec) == there.device
            and re.match("/dev/(?!disk/)", one.spec)
            and not fstab.says_more(one, line)
        ]

    def _plan_mount(self, target: Target, steps: List[Step], known: Known) -> Plan:
        path = self.wanted.mount_path
        fresh = any(isinstance(step, MakeFilesystem) for step in steps)
        if path is None or self.wanted.fs_type is None:
            state = ASSEMBLED if target.array_uuid else ATTACHED
            return self._finish(
                state, steps, array_uuid=target.array_uuid, filesystem=known
            )
        self._check_copies(known.uuid, target.array_uuid)
        parent = self._waits_for(path)
        if parent is not None:
            self._check_parent_stays(path, parent)
        if parent in self.world.failed:
            raise stopped(
                "parent-failed",
                f"{path} lies below the mount path of the set {parent}, which has "
                "failed",
                f"{parent} mounted first",
                f"Correct {parent}, or choose another MountPath.",
            )
        if parent is not None:
            # What a new filesystem would hide can be seen only then.
            before = [] if fresh else [step for step in steps if step.phase != "mount"]
            if before:
                return self._finish(
                    PLANNED,
                    before,
                    outcomes=(f"mounted at {path} after {parent}",),
                    array_uuid=target.array_uuid,
                    filesystem=known,
                )
            raise stopped(
                "parent-not-mounted",
                f"{path} lies below the mount path of the set {parent}, which is "
                "not mounted yet",
                f"{parent} mounted first",
                f"See what {parent} waits for (cc-kraken status).",
                waits=True,
            )
        self._check_path(path, fresh)
        line = self._line(known)
        steps = list(steps)
        if self._path_kind(path) == "absent":
            steps.append(MakeDirectory(self.claim.name, path))
        steps += self._fstab_steps(line, target, known)
        if known.errors:
            steps.append(
                CheckFilesystem(
                    self.claim.name,
                    type=known.type,
                    uuid=known.uuid,
                    array_uuid=target.array_uuid,
                    volume_id=target.volume_id,
                )
            )
        steps.append(
            MountFilesystem(
                self.claim.name,
                path=path,
                type=known.type,
                uuid=known.uuid,
                options=self.wanted.mount_options,
                array_uuid=target.array_uuid,
                volume_id=target.volume_id,
                covers=not fresh or self.wanted.mount_over,
            )
        )
        outcomes: Tuple[str, ...] = ()
        if fresh:
            steps += self._owner_steps(path, fresh=True)
        elif self._owner_wanted():
            outcomes = ("its owner is set where the root is as mkfs left it",)
        return self._finish(
            PLANNED,
            steps,
            outcomes=outcomes,
            array_uuid=target.array_uuid,
            filesystem=known,
        )

    def _check_copies(self, *uuids: str) -> None:
        name, volumes = self.claim.name, self.volume_ids
        trouble = copies.trouble(self.world, name, volumes, *uuids)
        if trouble is not None:
            raise Stop(trouble)

    def _owner_wanted(self) -> bool:
        wanted = self.wanted
        wishes = (wanted.owner, wanted.group, wanted.mode)
        return any(wish is not None for wish in wishes)

    def _waits_for(self, path: str) -> Optional[str]:
        """The set whose mount path is above ``path`` and not mounted."""
        for claim in self.claims:
            above = claim.wanted.mount_path
            if claim.name == self.claim.name or not above:
                continue
            if path.startswith(above.rstrip("/") + "/"):
                volumes = frozenset(volume.id for volume in claim.volumes)
                if seen.up_at(self.world.mounts, above, volumes) is None:
                    return claim.name
        return None

    def _check_parent_stays(self, path: str, parent: str) -> None:
        """A set that is to move is not where it will be before a reboot."""
        above = next(claim for claim in self.claims if claim.name == parent)
        volumes = frozenset(volume.id for volume in above.volumes)
        for mounted in self.world.mounts_of(volumes):
            if mounted.mount.path != above.wanted.mount_path:
                raise stopped(
                    "parent-moves",
                    f"{path} lies below the mount path of the set {parent}, which is "
                    f"still mounted at {mounted.mount.path}",
                    f"{parent} at {above.wanted.mount_path}",
                    f"Reboot: {parent} moves then, and {self.claim.name} is mounted "
                    "after it.",
                )

    def _path_kind(self, path: str) -> str:
        state = self.world.paths.get(path)
        return state.kind if state else "absent"

    def _check_path(self, path: str, fresh: bool) -> None:
        mounted = seen.at(self.world.mounts, path)
        if mounted is not None:
            raise Stop(seen.busy(path, self.claim.name, mounted.mount))
        below = [one.mount for one in seen.below(self.world.mounts, path)]
        if below:
            raise Stop(seen.hides(path, self.claim.name, below))
        state = self.world.paths.get(path)
        if state is None or state.kind == "absent":
            return
        if state.kind == "unreadable":
            raise stopped(
                "mount-path-kind",
                f"{path} cannot be looked at",
                "a directory, or nothing",
                "See the log for the reason, or choose another MountPath.",
            )
        if state.kind != "directory":
            raise stopped(
                "mount-path-kind",
                f"{path} is a symbolic link, below one, or not a directory",
                "a directory, or nothing",
                "Choose another MountPath, or take away what is there.",
            )
        if not state.entries:
            return
        names = ", ".join(state.entries)
        if fresh and not self.wanted.mount_over:
            raise stopped(
                "mount-path-files",
                f"{path} has files in it ({names}), which the new filesystem would "
                "hide",
                "an empty directory",
                "Move the files away, or set mount_over: true.",
            )
        self.warnings.append(f"Mounting at {path} hides what is in it: {names}.")

    def _owner_steps(self, path: str, *, fresh: bool) -> List[Step]:
        wanted = self.wanted
        if not self._owner_wanted():
            return []
        state = self.world.paths.get(path)
        if not fresh and (state is None or not state.as_made or self._owned(state)):
            return []
        if self._unknown_accounts():
            return []
        return [
            SetOwner(self.claim.name, path, wanted.owner, wanted.group, wanted.mode)
        ]

    def _unknown_accounts(self) -> List[str]:
        """The wanted user and group that do not exist yet."""
        wanted = self.wanted
        return [
            f"{kind} {name}"
            for kind, name in (("user", wanted.owner), ("group", wanted.group))
            if name is not None and self.world.accounts.get(f"{kind}:{name}") is None
        ]

    def _owner_pending(self, path: str) -> Optional[Trouble]:
        state = self.world.paths.get(path)
        unknown = self._unknown_accounts()
        if not unknown or state is None or not state.as_made:
            return None
        return Trouble(
            "owner-pending",
            f"There is no {' and no '.join(unknown)} yet, {path} stays with root",
            f"the owner that the set {self.claim.name} names",
            f"Make {' and '.join(unknown)}, or correct Owner and Group; the owner is "
            f"set when they exist (cc-kraken wait {self.claim.name} does it right "
            "before a service).",
            waits=True,
        )

    def _owned(self, state: PathState) -> bool:
        accounts = self.world.accounts
        wanted = self.wanted
        uid = accounts.get(f"user:{wanted.owner}") if wanted.owner else state.uid
        gid = accounts.get(f"group:{wanted.group}") if wanted.group else state.gid
        mode = state.mode if wanted.mode is None else wanted.mode
        return (state.uid, state.gid, state.mode) == (uid, gid, mode)


def _by_id(target: Target) -> str:
    """A pattern of the links that udev makes for it below /dev/disk/by-id: the model
    is before the serial, the namespace may be behind it."""
    if target.array_uuid:
        return f"md-uuid-{mdadm_uuid(target.array_uuid)}"
    serial = target.volume_id.replace("-", "")
    return rf"nvme-.+_{serial}(_1|-ns-1)?"
