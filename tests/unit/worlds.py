"""Builders for the inputs of a decision: claims and worlds, in few words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Optional

from cc_kraken.decide.world import World
from cc_kraken.machine.mountinfo import is_within
from cc_kraken.model import (
    Array,
    Attachment,
    Blank,
    Claim,
    Content,
    Device,
    Known,
    Look,
    MdSuperblock,
    Mount,
    Mounted,
    Node,
    PathState,
    Record,
    Volume,
    WantedSet,
)

NODE = Node("kafka", "0")
ME = "i-00000000000000001"
ZONE = "us-east-1a"
GIB = 1024**3
ARRAY = "4a739fd5-5f39-2dd6-1b19-8f885cd3f50b"


def volume_id(number: int) -> str:
    return f"vol-{number:017x}"


def volume(number: int, state: str = "available", **kwargs: object) -> Volume:
    return dataclasses.replace(
        Volume(volume_id(number), 1, ZONE, state),
        **kwargs,  # type: ignore[arg-type]
    )


def attached(number: int, instance: str = ME, state: str = "attached") -> Volume:
    one = Attachment(instance, f"/dev/sd{'fghijklmnop'[number]}", state)
    return volume(number, "in-use", attachments=(one,))


def device(number: int, **kwargs: object) -> Device:
    return dataclasses.replace(
        Device(
            name=f"nvme{number}n1",
            path=f"/dev/nvme{number}n1",
            devno=f"259:{number}",
            volume_id=volume_id(number),
            size=GIB,
        ),
        **kwargs,  # type: ignore[arg-type]
    )


def single(**kwargs: object) -> WantedSet:
    return dataclasses.replace(
        WantedSet("log", fs_type="ext4", mount_path="/krkn_log"),
        **kwargs,  # type: ignore[arg-type]
    )


def raid(members: int = 3, level: int = 0, **kwargs: object) -> WantedSet:
    return dataclasses.replace(
        WantedSet(
            "data",
            members=members,
            raid_level=level,
            fs_type="xfs",
            mount_path="/krkn_data",
        ),
        **kwargs,  # type: ignore[arg-type]
    )


def claim(wanted: WantedSet, *volumes: Volume, **kwargs: object) -> Claim:
    return dataclasses.replace(
        Claim(wanted.name, wanted, volumes),
        **kwargs,  # type: ignore[arg-type]
    )


def superblock(
    role: Optional[int],
    *,
    count: int = 3,
    level: int = 0,
    events: int = 10,
    uuid: str = ARRAY,
    active: Optional[tuple[int, ...]] = None,
) -> MdSuperblock:
    roles = tuple(range(count)) if active is None else active
    return MdSuperblock(
        uuid=uuid,
        name="any:KRKN-data",
        level=level,
        raid_disks=count,
        role=role,
        events=events,
        device_uuid=f"{role}",
        data_offset=1 << 20,
        data_size=GIB - (1 << 20),
        chunk=512 << 10,
        layout=0,
        update_time=events,
        roles=roles,
    )


def member(role: Optional[int], **kwargs: object) -> Look:
    block = superblock(role, **kwargs)  # type: ignore[arg-type]
    return Look(Known("linux_raid_member", block.uuid, superblock=block))


def array(*members: int, **kwargs: object) -> Array:
    return dataclasses.replace(
        Array(
            name="md127",
            path="/dev/md127",
            devno="9:127",
            uuid=ARRAY,
            level="raid0",
            raid_disks=len(members),
            members=tuple(f"nvme{number}n1" for number in members),
            state="clean",
            size=3 * GIB,
        ),
        **kwargs,  # type: ignore[arg-type]
    )


def look(content: Content, record: Optional[Record] = None, mark: str = "") -> Look:
    return Look(content, record, mark)


def blank() -> Look:
    return Look(Blank())


def world(*numbers: int, looks: Mapping[int, Look] = {}, **kwargs: object) -> World:
    """A world in which the disks of these volumes are there."""
    return dataclasses.replace(
        World(
            ME,
            devices={volume_id(n): device(n) for n in numbers},
            looks={volume_id(n): one for n, one in looks.items()},
        ),
        **kwargs,  # type: ignore[arg-type]
    )


def mounted(path: str, kind: str, *numbers: int) -> Mounted:
    return Mounted(
        Mount(path, "259:1", kind, f"/dev/nvme{numbers[0]}n1"),
        frozenset(volume_id(n) for n in numbers),
    )


def stacked(*mounts: tuple[str, int]) -> tuple[Mounted, ...]:
    """Path and number of the volume (0: of nobody), in the order of mounting: one
    hides what is at its path and below."""
    return tuple(
        dataclasses.replace(
            mounted(path, "ext4", number),
            volumes=frozenset({volume_id(number)}) if number else None,
            seen=not any(is_within(path, later) for later, _ in mounts[place + 1 :]),
        )
        for place, (path, number) in enumerate(mounts)
    )


def directory(*entries: str) -> PathState:
    return PathState("directory", entries)
