"""What a filesystem type answers: the one protocol of ext4, xfs and btrfs.

A type says how; others run its commands.  It opens nothing but a filesystem that is
mounted, to ask for its size, and reads devices through a function that it is given.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Optional

from cc_kraken.filesystems.options import Given, flat, parse
from cc_kraken.model import MdSuperblock

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BLOCK = 4 * KIB
HEAD = 128 * KIB
"""Bytes of the head of a device that hold the superblock of every type."""

Read = Callable[[int, int], bytes]
"""``read(offset, length)`` of a device; its errors pass through."""
Place = tuple[int, int, int]
"""An offset, and how many bytes before it and behind it are worth reading."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Geometry:
    """What the device says about itself, in bytes (0: no stripes).

    ``sector`` is what it writes atomically; ``stripe_unit`` and
    ``stripe_width`` are sysfs' minimum and optimal I/O size of an array.
    """

    sector: int = 512
    stripe_unit: int = 0
    stripe_width: int = 0


@dataclass(frozen=True)
class Found:
    """A superblock.

    ``type`` as blkid names it; ``size`` in bytes that it claims of its
    device; ``offset`` where it lies; ``block`` bytes of a filesystem block.
    ``flaw``: why it cannot be what a tool left behind on purpose.
    ``errors``: the filesystem says of itself that it needs its checker;
    ``ever_mounted``: that somebody has mounted it, to write.
    """

    type: str
    offset: int
    uuid: str = ""
    label: str = ""
    size: int = 0
    block: int = 0
    flaw: str = ""
    errors: bool = False
    ever_mounted: bool = False
    superblock: Optional[MdSuperblock] = None


@dataclass(frozen=True)
class State:
    """A mounted filesystem: its size on its device (0: not known), whether
    the kernel has found it damaged (ext4), and its number of that device
    (btrfs)."""

    size: int
    errors: bool = False
    device: int = 1


class Filesystem(ABC):
    """A type.  Each has one instance, in the registry."""

    name: str
    #: With its programs, on Debian and on RHEL and its relatives.
    package: tuple[str, str]
    #: What blkid calls what :meth:`superblock` reads; the name, if nothing is said.
    kinds: tuple[str, ...] = ()
    #: Of its superblock.
    offset: int

    # ---- mkfs
    label_bytes: int
    label_option = "-L"
    #: The options of mkfs that may be given (options.py), and long names of some.
    options: Mapping[str, str]
    long_options: Mapping[str, str] = {}
    #: A command whose output says what this mkfs knows (``usage`` of :meth:`argv`).
    usage: tuple[str, ...] = ()

    # ---- mounts
    #: Words: patterns of its own mount options.
    mount_options: str
    #: For a rule of udev: the path that is there while the device ``%k`` is mounted.
    mounted_test: str
    #: Where sysfs has the devices of each that is mounted from several of them.
    several = ""
    #: Whether a mount can show a part of it as its root, by which the whole grows.
    subvolumes = False

    # ---- commands; the device or mount point comes last
    #: Reads only, and all of it: exit status 0 where nothing is wrong.
    checker: tuple[str, ...]
    #: Repairs what may be repaired unasked before a mount; () where the mount does it.
    preener: tuple[str, ...] = ()
    #: Its exit statuses after which the filesystem can be mounted.
    preened = range(1)
    grower: str

    # ---- words for a person
    #: What helps where a mount fails; nothing of it is done unasked.
    repair: str
    #: What gives a copy at ``{0}`` a UUID of its own.
    own_uuid: str

    # ------------------------------------------------------------------- mkfs

    @property
    def mkfs(self) -> str:
        return f"mkfs.{self.name}"

    @property
    def programs(self) -> tuple[str, ...]:
        return (self.mkfs, self.checker[0], *self.preener[:1], self.grower)

    def label(self, text: str) -> str:
        """``text`` as a label that a filesystem of this type can hold.

        Control characters are left out; the rest is cut between characters.
        """
        clean = "".join(c for c in text if c.isprintable())
        cut = clean.encode("utf-8", "ignore")[: self.label_bytes]
        return cut.decode("utf-8", "ignore")

    def parse(self, options: Sequence[str]) -> Given:
        """``options`` of mkfs by letter.  KrakenError ``mkfs-option-refused``."""
        return parse(self.name, self.options, self.long_options, options)

    def argv(
        self,
        path: str,
        *,
        uuid: str,
        label: str = "",
        options: Sequence[str] = (),
        geometry: Geometry = Geometry(),
        usage: str = "",
        prezeroed: bool = True,
    ) -> tuple[str, ...]:
        """The command that makes a filesystem of this type at ``path``.

        ``prezeroed``: the target was proved blank, so the journal need not be
        zeroed.  Raises KrakenError ``mkfs-option-refused``; ValueError for a UUID
        or path that is none.

        Whatever mkfs would otherwise find out from the device (sector size, stripes,
        rotation) or from the machine (processors, kernel modules) and that moves its
        structures is said explicitly.  So the same command writes to the same places
        of an empty file of the same size (proof/rehearsal.py).
        """
        if not _UUID.fullmatch(uuid):
            raise ValueError(f"not a UUID: {uuid!r}")
        if not path.startswith("/"):
            raise ValueError(f"not an absolute path: {path!r}")
        given = self.parse(options)
        words = self.words(uuid, given, geometry, usage, prezeroed)
        name = self.label(label)
        named = (self.label_option, name) if name else ()
        return (self.mkfs, *words, *flat(given), *named, path)

    @abstractmethod
    def words(
        self, uuid: str, given: Given, geometry: Geometry, usage: str, prezeroed: bool
    ) -> list[str]:
        """Our own options.  One that a user may set, too, goes into ``given``: some
        mkfs obey only the last of two."""

    def check_room(self, options: Sequence[str], size: int) -> None:
        """On a volume of ``size`` bytes these options leave the intent record's place
        alone; all do, if a type says nothing.  KrakenError ``mkfs-option-refused``."""
        return

    def written(self, size: int, options: Sequence[str]) -> int:
        """Bytes that mkfs writes at most on a device of ``size`` bytes."""
        return 64 * MIB

    # ------------------------------------------------------------ superblocks

    @abstractmethod
    def superblock(
        self, head: bytes, size: int, read: Optional[Read] = None
    ) -> Optional[Found]:
        """Its superblock in ``head`` (128 KiB) of a device of ``size`` bytes.

        None where its magic is not.  Never raises, whatever the bytes.  ``read``: for
        what is not in the head; without it ``ever_mounted`` may be missing.
        """

    @abstractmethod
    def places(self, size: int) -> Iterator[Place]:
        """What mkfs leaves on a disk, a partition or a mirror of ``size`` bytes, for
        the proof of blankness to read: where the first MiB was overwritten."""

    def striped_places(self, size: int, unit: int, width: int) -> Iterator[int]:
        """The same offsets in an array with stripes."""
        return (place for place, _, _ in self.places(size))

    # ----------------------------------------------------------------- mounts

    def takes(self, option: str) -> bool:
        """Whether it is a mount option of this type, and of nothing but its own."""
        words = f"{MOUNT_OPTIONS} {self.mount_options}".split()
        return any(re.fullmatch(word, option) for word in words)

    @abstractmethod
    def state(self, path: str, node: str) -> Optional[State]:
        """What the kernel says of the filesystem that is mounted at ``path`` from
        ``node``; None over several devices.  Raises OSError and struct.error.

        The superblock on the device can be older, and statvfs(2) leaves out what the
        filesystem keeps for itself.
        """

    @abstractmethod
    def grow_argv(self, path: str, node: str, now: State) -> tuple[str, ...]:
        """The command that lets it fill its device while it is mounted."""


#: From mount(8).  Left out on purpose, here and in the types: what chooses another
#: device or superblock (device=, logdev=, sb=, loop, offset=), what skips recovery
#: (noload, norecovery, nouuid, degraded, rescue=), what decides whether and how the
#: line takes part in the boot (noauto, user, _netdev, X-*, x-*, comment=), and what
#: makes another operation of it (bind, move, remount, subvol=).
MOUNT_OPTIONS = (
    "rw ro atime noatime diratime nodiratime relatime norelatime strictatime "
    "nostrictatime lazytime nolazytime dev nodev suid nosuid exec noexec sync "
    "async dirsync symfollow nosymfollow iversion noiversion discard nodiscard "
    "acl noacl silent loud"
)
NUMBER = r"[0-9]{1,10}"
SIZE = r"[0-9]{1,10}[kKmMgG]?"


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def crc32c(data: bytes) -> int:
    """The CRC-32C register after ``data`` (the customary sum is its
    complement)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def text(raw: bytes) -> str:
    return bytes(raw).split(b"\0", 1)[0].decode("utf-8", "replace")


def beyond(what: str, claimed: int, size: int) -> str:
    return (
        f"{what} of {claimed} bytes, beyond the end of the device "
        f"({size} bytes): the device was made smaller, or it is a copy"
    )
