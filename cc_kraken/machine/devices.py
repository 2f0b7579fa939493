"""Devices: which disks of this machine are EBS volumes, told by serial.

Everything comes from sysfs, never from a device name or a udev link.  Sizes
are in bytes, device numbers are text (``major:minor``).  A device that
vanishes while it is looked at is left out.  Sources: sysfs(5), Linux
Documentation/ABI/stable/sysfs-block, the EC2 user guide on EBS and NVMe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Optional

from cc_kraken.machine import mountinfo, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, Mount, Mounted

#: sysfs counts in units of this many bytes, whatever the disk's own sector.
SECTOR = 512
#: Mounted here: the system's own, never touched.
SYSTEM_PATHS = ("/", "/boot", "/boot/efi", "/efi", "/usr")

_SERIAL = re.compile(r"vol-?([0-9a-f]{17}|[0-9a-f]{8})")


@dataclass(frozen=True)
class Devices:
    """The disks found, by volume id.

    ``duplicates`` holds the volume ids that several disks claim; these are
    not in ``by_volume``.
    """

    by_volume: Mapping[str, Device] = field(default_factory=dict)
    duplicates: Mapping[str, tuple[Device, ...]] = field(default_factory=dict)


def scan(paths: Paths, volume_ids: Optional[Container[str]] = None) -> Devices:
    """Every disk whose serial names an EBS volume; one of ``volume_ids``, where
    they are given: of other disks nothing but the serial is read then.

    Raises :class:`KrakenError` ``cannot-read`` when /proc cannot be read.
    """
    found: dict[str, list[Device]] = {}
    by_path, swaps = mountinfo.mounted(paths), mountinfo.swaps(paths)
    for name, volume in claimed(paths).items():
        if volume_ids is None or volume in volume_ids:
            device = _device(paths, name, volume, by_path, swaps)
            if device is not None:
                found.setdefault(volume, []).append(device)
    return Devices(
        by_volume={key: one[0] for key, one in found.items() if len(one) == 1},
        duplicates={key: tuple(all) for key, all in found.items() if len(all) > 1},
    )


def of_volume(paths: Paths, volume_id: str) -> tuple[Device, ...]:
    """The disks that claim to be this volume.  Raises as :func:`scan` does."""
    found = scan(paths, (volume_id,))
    return (*found.by_volume.values(), *found.duplicates.get(volume_id, ()))


def present(paths: Paths) -> frozenset[tuple[str, str, str]]:
    """Kernel name, volume id and size (in sectors) of each disk that claims to
    be a volume, twins and all: little is read, and any change shows."""
    return frozenset(
        (name, volume, sysfs.disk(paths, name, "size") or "")
        for name, volume in claimed(paths).items()
    )


def claimed(paths: Paths) -> dict[str, str]:
    """The volume id that its serial spells, by the kernel name of each disk, twins
    and all."""
    found = {}
    for name in sysfs.names(_block(paths)):
        volume = volume_of_serial(sysfs.disk(paths, name, "device", "serial") or "")
        if volume is not None:
            found[name] = volume
    return found


def volume_of_serial(serial: str) -> Optional[str]:
    """The volume id that an NVMe serial spells (``vol0123…`` → ``vol-0123…``)."""
    match = _SERIAL.fullmatch(serial.strip(" \t\r\n\0"))
    return f"vol-{match.group(1)}" if match else None


def serial_of(paths: Paths, name: str) -> Optional[str]:
    """The volume id of the disk with this kernel name, as sysfs says now.

    None: no such disk, or its serial is not one of EBS.
    """
    if sysfs.disk(paths, name, "hidden") == "1":
        return None
    return volume_of_serial(sysfs.disk(paths, name, "device", "serial") or "")


def node(paths: Paths, devno: str) -> Optional[str]:
    """The path of the disk, array or partition with this number."""
    name = _name_of(paths, devno)
    return None if name is None else node_of(paths, name)


def node_of(paths: Paths, name: str) -> str:
    """The path of the disk, array or partition with this kernel name."""
    return os.path.join(paths.dev, name.replace("!", "/"))


def partitions(paths: Paths, name: str) -> tuple[str, ...]:
    """The kernel names of a disk's partitions."""
    return tuple(
        entry
        for entry in sysfs.names(_block(paths, name))
        if os.path.exists(_block(paths, name, entry, "partition"))
    )


def leaves(paths: Paths, devno: str) -> frozenset[str]:
    """Kernel names of the whole disks below a device (md, dm, partitions)."""
    top = _name_of(paths, devno)
    left = [] if top is None else [top]
    found: set[str] = set()
    seen: set[str] = set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if not os.path.isdir(_block(paths, name)):
            # A partition's directory lies in that of its disk.
            path = os.path.realpath(os.path.join(paths.sys, "class", "block", name))
            name = os.path.basename(os.path.dirname(path))
        below = sysfs.names(_block(paths, name, "slaves"))
        left += below
        if not below:
            found.add(name)
    return frozenset(found)


def volumes_behind(paths: Paths, devno: str) -> Optional[frozenset[str]]:
    """The ids of the volumes that a device lies on.

    None when it does not exist or lies on anything that is no EBS volume.
    """
    found = set()
    for name in leaves(paths, devno):
        volume = serial_of(paths, name)
        if volume is None:
            return None
        found.add(volume)
    return frozenset(found) or None


def volumes_behind_mount(paths: Paths, mount: Mount) -> Optional[frozenset[str]]:
    """Like :func:`volumes_behind`, for all devices of a mounted filesystem."""
    behind = [volumes_behind(paths, one) for one in _numbers_behind(paths, mount)]
    known = [volumes for volumes in behind if volumes]
    if len(known) < len(behind):
        return None
    return frozenset[str]().union(*known) or None


def mounts_now(
    paths: Paths, places: Optional[Container[str]] = None
) -> tuple[Mounted, ...]:
    """Every mount (or those at these paths), what lies behind it, and whether one
    sees it.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    tree = mountinfo.tree(paths)
    return tuple(
        Mounted(mount, volumes_behind_mount(paths, mount), seen=tree.seen(mount))
        for mount in tree.mounts
        if places is None or mount.path in places
    )


def root_volumes(paths: Paths) -> frozenset[str]:
    """The ids of the volumes behind the system's own directories.

    Every mount on such a path counts, hidden ones too.
    """
    serials = (
        serial_of(paths, name)
        for mount in mountinfo.tree(paths).mounts
        if mount.path in SYSTEM_PATHS
        for number in _numbers_behind(paths, mount)
        for name in leaves(paths, number)
    )
    return frozenset(volume for volume in serials if volume is not None)


def _numbers_behind(paths: Paths, mount: Mount) -> frozenset[str]:
    number = mountinfo.device_number(paths, mount)
    if number == mount.devno:
        return frozenset({mount.devno})
    from cc_kraken.filesystems import registry  # not at every reboot

    if mount.type in registry.SEVERAL:
        groups = mountinfo.groups(paths)
        if number is None:
            # The source says nothing (``/dev/root``): any of them may be it.
            return frozenset(each for group in groups for each in group)
        for group in groups:
            if number in group:
                return group
    return frozenset({number} if number is not None else ())


def _device(
    paths: Paths,
    name: str,
    volume: str,
    by_path: Mapping[str, tuple[str, ...]],
    swaps: frozenset[str],
) -> Optional[Device]:
    devno = sysfs.disk(paths, name, "dev")
    sectors = sysfs.disk(paths, name, "size")
    if not devno or sectors is None or not sectors.isdigit():
        return None
    parts = partitions(paths, name)
    numbers = [devno, *(sysfs.disk(paths, name, one, "dev") or "" for one in parts)]
    places = ("holders", *(os.path.join(one, "holders") for one in parts))
    holders = {
        one for place in places for one in sysfs.names(_block(paths, name, place))
    }
    device = Device(
        name=name,
        path=node_of(paths, name),
        devno=devno,
        volume_id=volume,
        size=int(sectors) * SECTOR,
        read_only=sysfs.disk(paths, name, "ro") != "0",
        partitions=parts,
        holders=tuple(sorted(holders)),
        mounted=tuple(path for number in numbers for path in by_path.get(number, ())),
        swap=any(number in swaps for number in numbers),
    )
    # The name may have gone to another disk meanwhile.
    return device if serial_of(paths, name) == volume else None


def _name_of(paths: Paths, devno: str) -> Optional[str]:
    """From the kernel's own index (Documentation/ABI/stable/sysfs-dev)."""
    try:
        link = os.readlink(os.path.join(paths.sys, "dev", "block", devno))
    except OSError:
        return None  # a number of no block device
    return os.path.basename(link)


def _block(paths: Paths, *parts: str) -> str:
    return os.path.join(paths.sys, "block", *parts)
