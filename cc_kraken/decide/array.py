"""Arrays: new, whole, half made, not to be started (design, section 7).  Pure."""

from __future__ import annotations

from typing import List, Mapping, Optional, Tuple

from cc_kraken.decide import members as arraystate
from cc_kraken.decide.filesystem import Formatting
from cc_kraken.decide.mount import Mounting
from cc_kraken.decide.plan import (
    ASSEMBLED,
    ATTACHED,
    PLANNED,
    Again,
    Plan,
    Stop,
    Target,
    stopped,
)
from cc_kraken.decide.steps import (
    AddMember,
    AssembleArray,
    CreateArray,
    EraseRecords,
    Step,
    StopArray,
    Wipe,
    WriteArrayLine,
    WriteRecords,
    ZeroSuperblocks,
)
from cc_kraken.machine import fstab, mdadm_conf
from cc_kraken.machine.md import array_name
from cc_kraken.model import (
    Array,
    Blank,
    HalfMade,
    Known,
    Look,
    MdSuperblock,
    Mounted,
    Record,
    Trouble,
)

MD_MEMBER = "linux_raid_member"


class Assembling(Formatting, Mounting):
    """From members to an array, and on to its filesystem."""

    def _plan_array(self) -> Plan:
        mounted = self._mounted()
        looks = {volume: self._look(volume) for volume in self.volume_ids}
        blocks = {
            volume: look.content.superblock
            for volume, look in looks.items()
            if isinstance(look.content, Known)
            and look.content.type == MD_MEMBER
            and look.content.superblock is not None
        }
        others = {v: look for v, look in looks.items() if v not in blocks}
        if not blocks:
            return self._plan_new_array(looks)
        state = arraystate.read(blocks)
        if isinstance(state, Trouble):
            raise Stop(state)
        half = self._half_made_array(looks, blocks, state.uuid)
        if half is not None:
            return half
        return self._plan_existing_array(state, blocks, others, looks, mounted)

    def _array_name(self) -> str:
        return array_name(self.claim.name)

    def _create_steps(
        self, records: Tuple[Record, ...], permitted: Tuple[str, ...]
    ) -> List[Step]:
        steps: List[Step] = [
            CreateArray(
                self.claim.name,
                uuid=self.new_array_uuid,
                name=self._array_name(),
                level=self.wanted.raid_level or 0,
                volume_ids=self.volume_ids,
                records=records,
                permitted=permitted,
            ),
            *self._array_line_steps(self.new_array_uuid, f"any:{self._array_name()}"),
        ]
        if self.wanted.fs_type:
            steps.append(
                self._mkfs(
                    records,
                    array_uuid=self.new_array_uuid,
                    permitted=bool(permitted),
                )
            )
        steps.append(EraseRecords(self.claim.name, records, member=True))
        return steps

    def _plan_new_array(self, looks: Mapping[str, Look]) -> Plan:
        if self.claim.trouble is not None:
            # Only an array that exists may do with fewer or unequal volumes.
            raise Stop(self.claim.trouble)
        if self.wanted.raid_level is None:
            # Nobody asks for an array: attached and left alone.
            return self._finish(ATTACHED, [])
        records = self._records(self.new_array_uuid, self.wanted.raid_level or 0)
        present = [look.record for look in looks.values() if look.record is not None]
        self._check_records(present)
        steps: List[Step] = []
        for volume_id, look in looks.items():
            self._check_not_held(volume_id)
            if isinstance(look.content, (Blank, HalfMade)):
                continue
            if self._permitted(volume_id, look) and look.record is None:
                steps.append(Wipe(self.claim.name, volume_id, look.fingerprint))
                continue
            if look.record is not None:
                raise self._refuse_record(look.content, look.record)
            raise self._refuse_content_of_member(volume_id, look)
        permitted = tuple(step.volume_id for step in steps if isinstance(step, Wipe))
        self._check_origin()
        stale = tuple(record for record in present if record not in records)
        if any(isinstance(look.content, HalfMade) for look in looks.values()):
            steps.append(ZeroSuperblocks(self.claim.name, tuple(present)))
        if stale:
            raise Again(*steps, EraseRecords(self.claim.name, stale, member=True))
        if len(present) < len(records):
            steps.append(
                WriteRecords(self.claim.name, records, member=True, permitted=permitted)
            )
        steps += self._create_steps(records, permitted)
        target = Target(array_uuid=self.new_array_uuid)
        return self._plan_mount(
            target, steps, Known(self.wanted.fs_type or "", self.fs_uuid)
        )

    def _refuse_content_of_member(self, volume_id: str, look: Look) -> Stop:
        return self._refuse_content(
            look.content,
            look,
            Target(device=self._device(volume_id)),
            "a member of this set's array, or a blank volume",
        )

    def _half_made_array(
        self,
        looks: Mapping[str, Look],
        blocks: Mapping[str, MdSuperblock],
        uuid: str,
    ) -> Optional[Plan]:
        """Superblocks of ours on some members only, and our record on all:
        the creation was cut off, and goes back to its beginning."""
        if len(blocks) == len(looks):
            return None
        records = [look.record for look in looks.values() if look.record is not None]
        if len(records) != len(looks):
            return None
        self._check_records(records)
        if any(record.array_uuid != uuid or record.level < 0 for record in records):
            return None
        if any(self._device(volume_id).mounted for volume_id in looks):
            return None
        self._check_origin()
        for volume_id, look in looks.items():
            if volume_id not in blocks and not isinstance(
                look.content, (Blank, HalfMade)
            ):
                assert look.record is not None
                raise self._refuse_record(look.content, look.record)
        steps: List[Step] = []
        array = self.world.array(uuid)
        if array is not None:
            # udev starts what has its superblocks, of RAID 5 for instance all
            # but the last one.
            shown = self.world.array_looks.get(uuid)
            blank = shown is not None and isinstance(self._heard(shown).content, Blank)
            if array.mounted or (array.running and not blank):
                return None
            self._check_no_strangers(uuid)
            steps.append(StopArray(self.claim.name, uuid, tuple(records)))
        steps.append(ZeroSuperblocks(self.claim.name, tuple(records)))
        return self._finish(
            PLANNED,
            steps,
            outcomes=("then the array is created from the beginning",),
        )

    def _plan_existing_array(
        self,
        state: arraystate.ArrayState,
        blocks: Mapping[str, MdSuperblock],
        others: Mapping[str, Look],
        looks: Mapping[str, Look],
        mounted: Optional[Mounted],
    ) -> Plan:
        steps: List[Step] = []
        self._check_no_strangers(state.uuid)
        outdated = arraystate.outdated(state, self.world.arrays_seen.get(state.uuid))
        if outdated is not None:
            raise Stop(outdated)
        array = self.world.array(state.uuid)
        if array is None or not array.running:
            self._check_copies(state.uuid)
        self._check_whole(state, others)
        for volume_id, look in others.items():
            if not isinstance(look.content, Blank) or look.record is not None:
                raise self._refuse_content_of_member(volume_id, look)
        self._warn_of_tags(state)
        self._note_allowed(state)
        degraded = bool(state.missing)
        if array is None or not array.running:
            steps.append(
                AssembleArray(
                    self.claim.name,
                    uuid=state.uuid,
                    name=self._array_name(),
                    # A spare may be about to take the place of a lost member.
                    volume_ids=state.fresh + state.spare,
                    degraded=degraded,
                )
            )
        steps += self._spare_steps(state, others)
        name = next(iter(blocks.values())).name
        runs = array is not None and array.running
        up = mounted is not None or (runs and self.wanted.fs_type is None)
        try:
            steps += self._array_line_steps(state.uuid, name)
        except Stop as stop:
            if not up:
                raise
            self.warnings.append(str(stop.trouble))
        target = Target(array_uuid=state.uuid, array=array)
        if mounted is not None:
            return self._plan_mounted(
                target, mounted, Known(mounted.mount.type), steps, blocks
            )
        if self.wanted.fs_type is None:
            return self._finish_array(target, steps, looks)
        shown = self.world.array_looks.get(state.uuid)
        if array is None or not array.running or shown is None:
            return self._plan_unseen_array(target, steps, looks)
        added = {step.volume_id for step in steps if isinstance(step, AddMember)}
        inside = {
            volume: look
            for volume, look in looks.items()
            if volume not in others or volume in added
        }
        more, known = self._filesystem_steps(self._heard(shown), target, inside)
        return self._plan_mount(target, steps + more, known)

    def _array_line_steps(self, uuid: str, name: str) -> List[Step]:
        """Our line for mdadm instead of those of somebody else's for this array:
        it starts none that two lines match.  ``name`` as in the superblocks."""
        claim, world = self.claim.name, self.world
        disks = [self._device(volume).path for volume in self.volume_ids]
        theirs = []
        for line in world.array_lines_foreign:
            if not mdadm_conf.speaks_of(line, uuid, name, disks):
                continue
            why = mdadm_conf.keeps(line, disks)
            if why and line.read:
                raise stopped(
                    "mdadm-conf-conflict",
                    f"{line.file} has a line for the array of the set {claim}, and "
                    f"ours cannot replace it, because {why}: {line.text}",
                    "no ARRAY line but ours for it: mdadm starts no array that has two",
                    f"Take that line out of {line.file} and run again, or take the "
                    "tags off the volumes.",
                )
            theirs += [] if why else [line]
        out = [volume for volume in self.volume_ids if volume in world.left_out]
        if out:
            raise stopped(
                "mdadm-conf-conflict",
                f"mdadm is told to leave out {', '.join(out)} of the set {claim}: "
                f"{world.left_out[out[0]]}",
                "a DEVICE line that has all disks of the set, or none",
                "Take that line out, or add /dev/nvme* to it, and run again. Without "
                "such a line mdadm looks at every disk.",
            )
        if not theirs and world.array_lines.get(uuid) == claim:
            return []
        return [WriteArrayLine(claim, uuid, tuple(theirs))]

    def _finish_array(
        self, target: Target, steps: List[Step], looks: Mapping[str, Look]
    ) -> Plan:
        """No filesystem is wanted: only a record may still lie there."""
        present = [look.record for look in looks.values() if look.record is not None]
        if present:
            self._check_records(present)
            if any(record.fs_type for record in present):
                raise self._refuse_record(Known(MD_MEMBER), present[0])
            steps.append(EraseRecords(self.claim.name, tuple(present), member=True))
        return self._finish(ASSEMBLED, steps, array_uuid=target.array_uuid)

    def _plan_unseen_array(
        self, target: Target, steps: List[Step], looks: Mapping[str, Look]
    ) -> Plan:
        """The array does not run: its first chunk, read through the member
        that holds it, tells what it will show."""
        head = self.world.heads.get(target.array_uuid)
        clean = all(look.record is None for look in looks.values())
        path = self.wanted.mount_path or ""
        # Whether a line of somebody else's names it shows when the array runs.
        clean = clean and not fstab.on_path(self.world.fstab_foreign, path)
        if clean and isinstance(head, Known) and head.type == self.wanted.fs_type:
            return self._plan_mount(target, steps, head)
        return self._finish(
            PLANNED,
            steps,
            outcomes=(
                f"where the array holds {self.wanted.fs_type}: it is mounted",
                "where it holds anything else: it is refused",
            ),
            array_uuid=target.array_uuid,
        )

    def _check_no_strangers(self, uuid: str) -> None:
        """In every array that has this UUID or a volume of this set: there can be
        several where there are copies.

        One of copies alone is no matter while ours runs without them.
        """
        volumes = {one.name: volume for volume, one in self.world.devices.items()}
        ours = {self._device(volume).name for volume in self.volume_ids}
        running = [set(one.members) for one in self.world.arrays if one.uuid == uuid]
        apart = any(members and members <= ours for members in running)
        for array in self.world.arrays:
            mine = ours & set(array.members)
            if not mine and (array.uuid != uuid or apart):
                continue
            trouble = arraystate.wrong_members(
                array, volumes, self.claim.name, self.volume_ids
            )
            if trouble is not None:
                raise Stop(trouble)

    def _check_running(self, state: arraystate.ArrayState, array: Array) -> None:
        """Whether what runs is the array with its newest content.

        Who is in it is the kernel's to say: the superblocks of an array in use
        are read one after another, and their event counts can differ.
        """
        inside = set(array.members)
        fresh = {volume: self._device(volume).name for volume in state.fresh}
        outside = [volume for volume, name in fresh.items() if name not in inside]
        older = [
            volume for volume in state.stale if self._device(volume).name in inside
        ]
        if outside and older:
            raise stopped(
                "array-stale",
                f"Array {array.name} ({state.uuid}) runs with {', '.join(older)}, "
                f"whose content is older than that of {', '.join(outside)}",
                "the members with the newest content in it",
                "Stop the array and whatever uses it, detach the older volume, and "
                "run again.",
            )
        for volume in state.stale:
            if volume not in older:
                self.warnings.append(
                    f"{volume} is stale and not in array {state.uuid}: add it back "
                    "by hand (mdadm --re-add), or replace it."
                )
        absent = bool(array.degraded and state.missing and not older)
        if not outside and not absent:
            self._warn_of_lost(state)
            return
        missing = ", ".join(outside) or f"{len(state.missing)} of its members"
        if not array.mounted and not self.wanted.allow_degraded:
            raise stopped(
                "array-members-missing",
                f"Array {array.name} ({state.uuid}) was started without {missing}",
                "all members that the freshest superblock names",
                "Bring it back, add it by hand (mdadm --re-add), or use the array as "
                "it is with allow_degraded: true.",
            )
        self.warnings.append(f"Array {state.uuid} runs without {missing}.")

    def _check_whole(
        self, state: arraystate.ArrayState, others: Mapping[str, Look]
    ) -> None:
        array = self.world.array(state.uuid)
        if array is not None and array.running:
            self._check_running(state, array)
            return
        if state.stale:
            raise stopped(
                "array-stale",
                f"{', '.join(state.stale)} fell out of array {state.uuid} "
                "earlier than the other members: its content is older",
                "members with the same event count",
                "Replace the stale volume by an empty one, or add it back by "
                "hand (mdadm --re-add).",
            )
        if state.missing and not (
            state.redundant
            and self.wanted.allow_degraded
            and state.enough_when_degraded
        ):
            remedy = "Bring the missing volumes back"
            if state.redundant:
                remedy += ", or start it without them with allow_degraded: true"
            raise stopped(
                "array-members-missing",
                f"Array {state.uuid} (RAID {state.level}) expects "
                f"{len(state.expected)} members and {len(state.fresh)} of them are "
                f"here ({', '.join(state.fresh)})",
                "all members that the freshest superblock names",
                remedy + ".",
            )
        if not state.may_run:
            raise stopped(
                "array-members-missing",
                f"Array {state.uuid} (RAID {state.level}) has lost more than it can "
                f"do without: {len(state.fresh)} of {state.raid_disks} members are "
                f"whole ({', '.join(state.fresh) or 'none'})",
                "enough members that carry the data",
                "Bring the lost volumes back, or restore the set from a backup.",
            )
        self._warn_of_lost(state)
        if state.missing:
            self.warnings.append(
                f"Array {state.uuid} is started without {len(state.missing)} of its "
                "members, as allow_degraded permits. Its content is that of "
                f"{arraystate.when(state.written)}: were the missing members used "
                "after that, stop what uses it and bring them back."
            )

    def _warn_of_lost(self, state: arraystate.ArrayState) -> None:
        if state.failed:
            self.warnings.append(
                f"Array {state.uuid} (RAID {state.level}) has already lost "
                f"{len(state.failed)} of {state.raid_disks} members and runs "
                "degraded: give the set a new, empty volume."
            )

    def _note_allowed(self, state: arraystate.ArrayState) -> None:
        if self.wanted.allow_degraded and not (state.missing or state.failed):
            self.notes.append(
                f"allow_degraded is on, and array {state.uuid} is whole: take it out "
                "again. While it is on, an older half may be started where the newer "
                "one is missing."
            )

    def _warn_of_tags(self, state: arraystate.ArrayState) -> None:
        wanted = self.wanted
        if wanted.raid_level is not None and wanted.raid_level != state.level:
            self.warnings.append(
                f"RaidLevel says {wanted.raid_level}, the array on the volumes of "
                f"{self.claim.name} is RAID {state.level}: it is used as it is."
            )
        if wanted.members != state.raid_disks:
            self.warnings.append(
                f"VolumeSize says {wanted.members}, the array on the volumes of "
                f"{self.claim.name} has {state.raid_disks} members: it is used as "
                "it is."
            )

    def _spare_steps(
        self, state: arraystate.ArrayState, others: Mapping[str, Look]
    ) -> List[Step]:
        steps: List[Step] = []
        slots = len(state.failed)
        if self.wanted.allow_degraded:
            # Started without them, the array counts them as lost.
            slots += len(state.missing)
        copies = {volume.id for volume in self.claim.volumes if volume.origin}
        for volume_id in sorted(others):
            self._check_not_held(volume_id)
            if volume_id in copies:
                self.warnings.append(
                    f"{volume_id} is a copy of another volume: it is not added to "
                    f"array {state.uuid}."
                )
                continue
            if slots <= 0 or not state.redundant:
                self.warnings.append(
                    f"{volume_id} is blank and array {state.uuid} has no free "
                    "slot for it: it is left alone."
                )
                continue
            slots -= 1
            steps.append(AddMember(self.claim.name, state.uuid, volume_id))
        return steps
