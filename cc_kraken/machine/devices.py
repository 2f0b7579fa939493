"""Devices: which disks of this machine are EBS volumes, told by serial.

Everything comes from sysfs, never from a device name or a udev link.  Sizes
are in bytes, device numbers are text (``major:minor``).  A device that
vanishes while it is looked at is left out.  Sources: sysfs(5), Linux
Documentation/ABI/stable/sysfs-block, the EC2 user guide on EBS and NVMe.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import (
    Container,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
)

from cc_kraken.machine import mounts, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, Mount, Mounted

#: sysfs counts in units of this many bytes, whatever the disk's own sector.
SECTOR = 512
#: Mounted here: the system's own, never touched.
SYSTEM_PATHS = ("/", "/boot", "/boot/efi", "/efi", "/usr")

_SERIAL = re.compile(r"vol-?([0-9a-f]{17}|[0-9a-f]{8})")

_SERIALS: Dict[str, Tuple[int, str]] = {}
"""By the path of a disk in sysfs: the inode of that entry, and its serial."""


@dataclass(frozen=True)
class Devices:
    """The disks found, by volume id.

    ``duplicates`` holds the volume ids that several disks claim; these are
    not in ``by_volume``.
    """

    by_volume: Mapping[str, Device] = field(default_factory=dict)
    duplicates: Mapping[str, Tuple[Device, ...]] = field(default_factory=dict)


def scan(paths: Paths, volume_ids: Optional[Container[str]] = None) -> Devices:
    """Every disk whose serial names an EBS volume; one of ``volume_ids``, where
    they are given: of other disks little more than the serial is read then.

    Raises :class:`KrakenError` ``cannot-read`` when /proc cannot be read.
    """
    found: Dict[str, List[Device]] = {}
    for device in _devices(paths, volume_ids):
        found.setdefault(device.volume_id, []).append(device)
    return Devices(
        by_volume={key: one[0] for key, one in found.items() if len(one) == 1},
        duplicates={key: tuple(all) for key, all in found.items() if len(all) > 1},
    )


def of_volume(paths: Paths, volume_id: str) -> Tuple[Device, ...]:
    """The disks that claim to be this volume; of the others only the serials
    are read.  Raises as :func:`scan` does."""
    return tuple(_devices(paths, (volume_id,)))


def present(paths: Paths) -> FrozenSet[Tuple[str, str, str]]:
    """Kernel name, volume id and size (in sectors) of each disk that claims to
    be a volume, twins and all: little is read, and any change shows."""
    return frozenset(
        (name, volume, _read(paths, name, "size") or "")
        for name, volume in claimed(paths).items()
    )


def claimed(paths: Paths) -> Dict[str, str]:
    """The volume id that its serial spells, by the kernel name of each disk, twins
    and all; of disks that were there before nothing is read.

    A disk keeps its serial as long as it is there (drivers/nvme/host/core.c,
    nvme_init_subsystem), and one that comes later under its name is another
    entry of sysfs.
    """
    found = {}
    for name, inode in sysfs.entries(_block(paths)).items():
        path = _block(paths, name)
        known = _SERIALS.get(path)
        if known is None or known[0] != inode:
            serial = _read(paths, name, "device", "serial")
            if serial is None:
                continue  # it has none, or cannot be asked now
            known = _SERIALS[path] = inode, serial
        volume = volume_of_serial(known[1])
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
    serial = _read(paths, name, "device", "serial")
    volume = None if serial is None else volume_of_serial(serial)
    if volume is None or _read(paths, name, "hidden") == "1":
        return None
    return volume


def node(paths: Paths, devno: str) -> Optional[str]:
    """The path of the disk, array or partition with this number."""
    name = _name_of(paths, devno)
    return None if name is None else os.path.join(paths.dev, name.replace("!", "/"))


def partitions(paths: Paths, name: str) -> Tuple[str, ...]:
    """The kernel names of a disk's partitions."""
    return tuple(
        entry
        for entry in sysfs.names(_block(paths, name))
        # the other entries, some forty, are none by their names
        if entry.startswith(name)
        and os.path.exists(_block(paths, name, entry, "partition"))
    )


def leaves(paths: Paths, devno: str) -> FrozenSet[str]:
    """Kernel names of the whole disks below a device (md, dm, partitions)."""
    name = _name_of(paths, devno)
    found: Set[str] = set()
    if name is not None:
        _add_leaves(paths, name, found, set())
    return frozenset(found)


def volumes_behind(paths: Paths, devno: str) -> Optional[FrozenSet[str]]:
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


def volumes_behind_mount(paths: Paths, mount: Mount) -> Optional[FrozenSet[str]]:
    """Like :func:`volumes_behind`, for all devices of a mounted filesystem."""
    found: Set[str] = set()
    for number in _numbers_behind(paths, mount):
        volumes = volumes_behind(paths, number)
        if volumes is None:
            return None
        found |= volumes
    return frozenset(found) or None


def mounts_now(
    paths: Paths, places: Optional[Container[str]] = None
) -> Tuple[Mounted, ...]:
    """Every mount (or those at these paths), what lies behind it, and whether one
    sees it.

    Raises :class:`KrakenError` ``cannot-read``.
    """
    tree = mounts.tree(paths)
    return tuple(
        Mounted(
            line.mount, volumes_behind_mount(paths, line.mount), seen=tree.seen(line)
        )
        for line in tree.lines
        if places is None or line.mount.path in places
    )


def root_volumes(paths: Paths) -> FrozenSet[str]:
    """The ids of the volumes behind the system's own directories.

    Every mount on such a path counts, hidden ones too.
    """
    found = set()
    for mount in mounts.scan(paths):
        if mount.path not in SYSTEM_PATHS:
            continue
        for number in _numbers_behind(paths, mount):
            for name in leaves(paths, number):
                volume = serial_of(paths, name)
                if volume is not None:
                    found.add(volume)
    return frozenset(found)


def _numbers_behind(paths: Paths, mount: Mount) -> FrozenSet[str]:
    number = mounts.device_number(paths, mount)
    if number == mount.devno:
        return frozenset({mount.devno})
    from cc_kraken.filesystems import registry  # not at every reboot

    if mount.type in registry.SEVERAL:
        groups = mounts.groups(paths)
        if number is None:
            # The source says nothing (``/dev/root``): any of them may be it.
            return frozenset(each for group in groups for each in group)
        for group in groups:
            if number in group:
                return group
    return frozenset() if number is None else frozenset({number})


def _devices(
    paths: Paths, volume_ids: Optional[Container[str]] = None
) -> Iterator[Device]:
    """The disks that are EBS volumes: of these, or any."""
    disks = claimed(paths)
    by_path = mounts.mounted(paths)
    swaps = mounts.swaps(paths)
    for name, volume in disks.items():
        if volume_ids is None or volume in volume_ids:
            device = _device(paths, name, volume, by_path, swaps)
            if device is not None:
                yield device


def _device(
    paths: Paths,
    name: str,
    volume: str,
    by_path: Mapping[str, Tuple[str, ...]],
    swaps: FrozenSet[str],
) -> Optional[Device]:
    devno = _read(paths, name, "dev")
    sectors = _read(paths, name, "size")
    if not devno or sectors is None or not sectors.isdigit():
        return None
    parts = partitions(paths, name)
    numbers = [devno]
    holders = set(sysfs.names(_block(paths, name, "holders")))
    for partition in parts:
        numbers.append(_read(paths, name, partition, "dev") or "")
        holders |= set(sysfs.names(_block(paths, name, partition, "holders")))
    device = Device(
        name=name,
        path=os.path.join(paths.dev, name.replace("!", "/")),
        devno=devno,
        volume_id=volume,
        size=int(sectors) * SECTOR,
        read_only=_read(paths, name, "ro") != "0",
        partitions=parts,
        holders=tuple(sorted(holders)),
        mounted=tuple(path for number in numbers for path in by_path.get(number, ())),
        swap=any(number in swaps for number in numbers),
    )
    # The name may have gone to another disk meanwhile.
    return device if serial_of(paths, name) == volume else None


def _name_of(paths: Paths, devno: str) -> Optional[str]:
    try:
        # The kernel's own index (Documentation/ABI/stable/sysfs-dev).
        link = os.readlink(os.path.join(paths.sys, "dev", "block", devno))
        return os.path.basename(link)
    except OSError:
        pass  # a number of no block device, or a /sys without it
    for name in sysfs.names(_block(paths)):
        if _read(paths, name, "hidden") == "1":
            continue
        if _read(paths, name, "dev") == devno:
            return name
        for partition in partitions(paths, name):
            if _read(paths, name, partition, "dev") == devno:
                return partition
    return None


def _add_leaves(paths: Paths, name: str, found: Set[str], seen: Set[str]) -> None:
    if name in seen:
        return
    seen.add(name)
    if not os.path.isdir(_block(paths, name)):
        name = _disk_of(paths, name) or name
    below = sysfs.names(_block(paths, name, "slaves"))
    for slave in below:
        _add_leaves(paths, slave, found, seen)
    if not below:
        found.add(name)


def _disk_of(paths: Paths, partition: str) -> Optional[str]:
    for disk in sysfs.names(_block(paths)):
        if os.path.exists(_block(paths, disk, partition, "partition")):
            return disk
    return None


def _block(paths: Paths, *parts: str) -> str:
    return "/".join((paths.sys, "block", *parts))


def _read(paths: Paths, *parts: str) -> Optional[str]:
    return sysfs.attribute(paths.sys, "block", *parts)
