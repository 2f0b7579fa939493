"""A rule for udev: the UUIDs of a set that is up belong to its own volumes.

At a reboot systemd mounts by UUID, and md assembles by UUID, long before a run
begins.  A copy of a volume has the same UUIDs.  So the rule names the serials
that each UUID belongs to.  Any other EBS disk that shows it, and any array with
such a disk in it, is a copy:

- systemd takes it for a device that is not ready, and mounts nothing from it;
- its links give way to those of the original (``link_priority``);
- md and btrfs do not take it for a part of the set.

A person can mount a copy by its device all the same.  Sources: udev(7),
systemd.device(5), the rules of systemd, mdadm and btrfs-progs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Callable
from urllib.parse import quote, unquote

from cc_kraken.decide.plan import FAILED, PENDING, Plan
from cc_kraken.decide.world import World
from cc_kraken.filesystems import registry
from cc_kraken.machine import command, devices, files, sysfs
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.md import mdadm_uuid
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, KrakenError, Signature
from cc_kraken.proof.superblock import MD_MEMBER

LOG = logging.getLogger(__name__)

NAME = "63-zz-cc-kraken.rules"
"""After the rules that read a disk (60-…) and describe an array (63-md-…), before
those that put it into one, or tell btrfs of it (64-…, on other systems 65-…)."""
MEMBER_COPY = "linux_raid_member_copy"
"""The type of a copied member, which no rule takes for a member."""

_VOLUME = re.compile(r"vol-([0-9a-f]{17}|[0-9a-f]{8})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOST_MEMBERS = 384
"""What md's metadata has room for."""
_LOOK_AGAIN = 10.0
"""Seconds that udev has to look at a disk again."""

_HEAD = """\
# Written by cc-kraken. Two disks with one UUID: a copy, such as a volume made from
# a snapshot, does not take the place of the original. Changes are lost.
ACTION=="remove", GOTO="cc_kraken_end"
SUBSYSTEM!="block", GOTO="cc_kraken_end"
KERNEL=="md*", GOTO="cc_kraken_sets"
ATTRS{serial}=="vol*", GOTO="cc_kraken_sets"
GOTO="cc_kraken_end"
LABEL="cc_kraken_sets"
"""
_MOUNTED = "\n".join(
    f'TEST=="{one.mounted_test}", GOTO="cc_kraken_end"'
    for one in registry.TYPES.values()
)
_TAIL = f"""\
ENV{{CC_KRAKEN}}=="own", OPTIONS+="link_priority=110"
ENV{{CC_KRAKEN}}!="copy", GOTO="cc_kraken_end"
OPTIONS+="link_priority=-100"
ENV{{ID_FS_TYPE}}=="linux_raid_member", ENV{{ID_FS_TYPE}}="{MEMBER_COPY}"
# What is mounted stays so: systemd would unmount it.
{_MOUNTED}
ENV{{SYSTEMD_READY}}="0"
LABEL="cc_kraken_end"
"""


@dataclass(frozen=True)
class Entry:
    """One set: its volumes' ids, the UUIDs of its filesystem and of its array ("":
    none), and how many members that has."""

    volumes: Sequence[str]
    filesystem: str = ""
    array: str = ""
    members: int = 1

    @property
    def fit(self) -> bool:
        """Whether it can be written into a rule: nothing here is a pattern."""
        uuids = [uuid for uuid in (self.filesystem, self.array) if uuid]
        return (
            bool(self.volumes and uuids)
            and all(_VOLUME.fullmatch(volume) for volume in self.volumes)
            and all(_UUID.fullmatch(uuid) for uuid in uuids)
            and 1 <= self.members <= _MOST_MEMBERS
        )


def location(paths: Paths) -> str:
    return os.path.join(paths.etc, "udev", "rules.d", NAME)


def wanted(
    claims: Sequence[Claim], plans: Sequence[Plan], world: World
) -> dict[str, Entry]:
    """The sets that are up, or are brought up now.  Pure.

    None that shares a UUID with the system's own volume: that one must be found.
    """
    by_name = {plan.name: plan for plan in plans}
    system = {
        one.uuid for one in world.signatures if set(one.volumes) & world.system_volumes
    }
    found: dict[str, Entry] = {}
    for claim in claims:
        plan = by_name.get(claim.name)
        if plan is None or plan.state in (FAILED, PENDING):
            continue
        known = plan.filesystem if claim.wanted.mount_path else None
        array = world.array(plan.array_uuid) if plan.array_uuid else None
        entry = Entry(
            volumes=tuple(sorted(volume.id for volume in claim.volumes)),
            filesystem=known.uuid if known is not None else "",
            array=plan.array_uuid,
            members=max(len(claim.volumes), array.raid_disks if array else 1),
        )
        if entry.fit and not system & {entry.filesystem, entry.array}:
            found[claim.name] = entry
    return found


def text(entries: Mapping[str, Entry]) -> str:
    """The file for these sets, "" for none; those that are not fit are left out."""
    # What shows a UUID is a copy, then, unless it is of the set, then, if a copy
    # is in it, it is one after all.
    copies, own, mixed = [], [], []
    for name, entry in sorted(entries.items()):
        if not entry.fit:
            continue
        filesystem, array, volumes = entry.filesystem, entry.array, entry.volumes
        # A serial may have its volume's dash, or not.
        serials = "|".join(f"{one.replace('-', '')}|{one}" for one in volumes)
        uuids = "|".join(uuid for uuid in (filesystem, array) if uuid)
        # The comment is read back by current; no name can end the line.
        quoted = quote(name, safe="", errors="surrogateescape")
        copies += [
            f"# set {quoted} {','.join(volumes)} {filesystem or '-'} {array or '-'} "
            f"{entry.members}",
            f'{_shows(uuids)}, ENV{{CC_KRAKEN}}="copy"',
        ]
        disk = f'{_shows(array or filesystem)}, ATTRS{{serial}}=="{serials}"'
        own.append(f'{disk}, ENV{{CC_KRAKEN}}="own"')
        if not array:
            continue
        running = f'ENV{{MD_UUID}}=="{mdadm_uuid(array)}"'
        if filesystem:
            own.append(f'{_shows(filesystem)}, {running}, ENV{{CC_KRAKEN}}="own"')
        mixed += [
            f'{running}, ATTR{{md/rd{slot}/block/device/serial}}!="{serials}", '
            'ENV{CC_KRAKEN}="copy"'
            for slot in range(entry.members)
        ]
    lines = [f"{line}\n" for line in (*copies, *own, *mixed)]
    return "".join([_HEAD, *lines, _TAIL]) if lines else ""


def _shows(uuids: str) -> str:
    return f'ENV{{ID_FS_UUID}}=="{uuids}"'


def current(paths: Paths) -> dict[str, Entry]:
    """The sets that the file names now."""
    found: dict[str, Entry] = {}
    for line in (files.read_text(location(paths)) or "").split("\n"):
        words = line.split(" ")
        if words[:2] != ["#", "set"] or len(words) != 7 or not words[6].isdigit():
            continue
        name, volumes, *uuids = words[2:6]
        filesystem, array = ("" if uuid == "-" else uuid for uuid in uuids)
        entry = Entry(tuple(volumes.split(",")), filesystem, array, int(words[6]))
        if entry.fit:
            found[unquote(name, errors="surrogateescape")] = entry
    return found


def keep(
    paths: Paths,
    claims: Sequence[Claim],
    plans: Sequence[Plan],
    world: World,
    warn: Callable[[str], None],
) -> None:
    """Bring the file up to date, before anything is mounted.

    A set that is not up now keeps its entry as long as fstab or mdadm's
    configuration has a line for it.  udev reads a changed file by itself, before
    the next disk comes.  A fault here leaves no volume unmounted.
    """
    new = wanted(claims, plans, world)
    lasting = {*world.fstab, *world.array_lines.values()}
    try:
        old = {name: one for name, one in current(paths).items() if name in lasting}
        for name, entry in new.items():
            before = old.get(name)
            if before and before.array == entry.array and not entry.filesystem:
                # Its filesystem has not been seen this time.
                new[name] = replace(entry, filesystem=before.filesystem)
        content = text({**old, **new})
        if not content:
            remove(paths)
            return
        files.make_directories(os.path.dirname(location(paths)))
        if files.write_atomic(location(paths), files.encode(content), 0o644):
            _show_again(paths, {one for entry in new.values() for one in entry.volumes})
    except (KrakenError, OSError) as error:
        warn(f"At the next reboot a copy could be mounted for a set: {error}")


def remove(paths: Paths) -> bool:
    """Take the file away; True when it was there.  Raises ``cannot-write``."""
    return files.remove(location(paths))


def properties(paths: Paths, devno: str) -> dict[str, str]:
    """What udev has noted of a block device; nothing where it has not seen it."""
    try:
        text = files.read_text(os.path.join(paths.udev, "data", f"b{devno}")) or ""
    except KrakenError:
        return {}
    lines = [line[2:] for line in text.split("\n") if line.startswith("E:")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def shown(paths: Paths, disks: Mapping[str, str]) -> tuple[Signature, ...]:
    """What udev has read of these disks (kernel name to volume id), of their
    partitions, and of what lies on them: no disk is asked."""
    found: dict[str, Signature] = {}
    for disk, volume in disks.items():
        for name in (disk, *devices.partitions(paths, disk), *_holders(paths, disk)):
            said = properties(paths, sysfs.number(paths, name) or "")
            path = devices.node_of(paths, name)
            kind, uuid = said.get("ID_FS_TYPE", ""), said.get("ID_FS_UUID", "")
            kind = MD_MEMBER if kind == MEMBER_COPY else kind
            if uuid:
                found.setdefault(path, Signature((volume,), path, kind, uuid))
    return tuple(found.values())


def _show_again(paths: Paths, volumes: Collection[str]) -> None:
    """Volumes that an older rule took for copies, because they have taken the
    place of others: systemd must see them before they are mounted."""
    hidden = _hidden(paths, volumes)
    if not hidden:
        return
    argv = ["udevadm", "control", "--reload"]
    command.check(command.run(argv, timeout=_LOOK_AGAIN), "making udev read its rules")
    for name in hidden:
        with open(os.path.join(paths.sys, "block", name, "uevent"), "wb") as stream:
            stream.write(b"change")
    Clock().watch(_LOOK_AGAIN, lambda: not _hidden(paths, volumes))
    if _hidden(paths, volumes):
        LOG.warning("udev still takes %s for copies", ", ".join(hidden))


def _hidden(paths: Paths, volumes: Collection[str]) -> list[str]:
    """The kernel names of those disks of these volumes, and of what lies on them,
    that udev takes for copies."""
    mine = [disk for disk, one in devices.claimed(paths).items() if one in volumes]
    names = [name for disk in mine for name in (disk, *_holders(paths, disk))]
    said = {name: properties(paths, sysfs.number(paths, name) or "") for name in names}
    return [name for name in names if said[name].get("CC_KRAKEN") == "copy"]


def _holders(paths: Paths, disk: str) -> list[str]:
    return sysfs.names(os.path.join(paths.sys, "block", disk, "holders"))
