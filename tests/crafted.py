"""Structures made by hand, where no tool makes them without a device."""

from __future__ import annotations

import struct
import uuid
import zlib

from cc_kraken.proof import superblock

SECTOR = 512
MD_UUID = uuid.UUID("8a1d2c3e-0001-4002-8003-a00000000004")
DEVICE_UUID = uuid.UUID("5d000000-0001-4002-8003-b00000000005")


def md1(
    size: int,
    *,
    minor: int = 2,
    level: int = 1,
    disks: int = 2,
    number: int = 0,
    roles: tuple[int, ...] = (0, 1),
    events: int = 17,
    data_offset: int = 2 << 20,
    array_uuid: uuid.UUID = MD_UUID,
    name: str = "any:KRKN-data",
    max_dev: int = 128,
    chunk: int = 512 << 10,
    layout: int = 0,
    features: int = 0,
    created: int = 1_700_000_000,
    device_uuid: uuid.UUID = DEVICE_UUID,
    wrong: bool = False,
) -> tuple[int, bytes]:
    """Offset and bytes of a superblock of version 1.``minor`` on a device of
    ``size`` bytes.  Source: struct mdp_superblock_1 in linux/raid/md_p.h."""
    offset = {0: superblock.md10_offset(size), 1: 0, 2: 4096}[minor]
    if minor == 0:
        data_offset, data_size = 0, offset - (1 << 20)
    else:
        data_size = size - data_offset
    if level in (0, 5, 6, 10):
        data_size = data_size // chunk * chunk
    block = bytearray(256 + 2 * max_dev)
    struct.pack_into("<4I", block, 0, 0xA92B4EFC, 1, features, 0)
    block[16:32] = array_uuid.bytes
    block[32:64] = name.encode().ljust(32, b"\0")
    struct.pack_into(
        "<QiIQII",
        block,
        64,
        created,
        level,
        layout,
        0 if level == 0 else data_size // SECTOR,
        0 if level == 1 else chunk // SECTOR,
        disks,
    )
    struct.pack_into(
        "<QQQ", block, 128, data_offset // SECTOR, data_size // SECTOR, offset // SECTOR
    )
    struct.pack_into("<I", block, 160, number)
    block[168:184] = device_uuid.bytes
    struct.pack_into("<QQQ", block, 192, 1_700_000_001, events, (1 << 64) - 1)
    struct.pack_into("<I", block, 220, max_dev)
    table = (*roles, *(0xFFFF,) * (max_dev - len(roles)))
    struct.pack_into(f"<{max_dev}H", block, 256, *table)
    checksum = superblock.md1_checksum(bytes(block).ljust(4096, b"\0"))
    struct.pack_into("<I", block, 216, checksum ^ wrong)
    return offset, bytes(block).ljust(4096, b"\0")


def md090(size: int, *, wrong: bool = False) -> tuple[int, bytes]:
    """Version 0.90, little-endian: struct mdp_superblock_s in md_p.h."""
    words = [0] * 1024
    words[0:16] = [
        0xA92B4EFC,
        0,
        90,
        0,
        0,
        0x11111111,
        1_700_000_000,
        1,
        size // 1024 - 128,
        2,
        2,
        0,
        0,
        0x22222222,
        0x33333333,
        0x44444444,
    ]
    words[32:37] = [1_700_000_001, 1, 2, 2, 0]
    words[39] = 7  # events
    for number in range(2):  # the two disks
        words[128 + 32 * number : 133 + 32 * number] = [number, 7, number, number, 6]
    words[992:997] = [0, 7, 0, 0, 6]  # this disk
    total = sum(words)
    words[38] = (total & 0xFFFFFFFF) + (total >> 32) ^ wrong
    return superblock.md090_offset(size), struct.pack("<1024I", *words)


def lvm(size: int) -> tuple[int, bytes]:
    """The label of a physical volume, in sector 1 (lvm2 label.h)."""
    body = struct.pack("<I8s", 32, b"LVM2 001")
    body += b"abcdefABCDEFghijklmnopqrstuvwxyz" + struct.pack("<Q", size)
    body = body.ljust(512 - 20, b"\0")
    checksum = zlib.crc32(body, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return 512, struct.pack("<8sQI", b"LABELONE", 1, checksum) + body


def luks(version: int) -> tuple[int, bytes]:
    """A LUKS header (cryptsetup docs/on-disk-format*.pdf)."""
    name = b"a3e14a0b-4cf4-4b84-9d01-111111111111"
    head = b"LUKS\xba\xbe" + struct.pack(">H", version)
    if version == 1:
        head += b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0")
        head += b"sha256".ljust(32, b"\0")
        return 0, head.ljust(168, b"\0") + name + bytes(4)
    head += struct.pack(">QQ", 16384, 3) + bytes(48) + b"sha256".ljust(32, b"\0")
    return 0, head.ljust(168, b"\0") + name.ljust(40, b"\0") + bytes(48 + 304)


def mbr(*, empty: bool = False, kind: int = 0x83) -> tuple[int, bytes]:
    sector = bytearray(512)
    if not empty:
        struct.pack_into("<BBHBBHII", sector, 446, 0, 0, 2, kind, 0, 0, 2048, 4096)
    sector[510:] = b"\x55\xaa"
    return 0, bytes(sector)


def gpt(size: int) -> list[tuple[int, bytes]]:
    """Both copies of an empty GPT and its protective MBR (UEFI 5.3)."""
    last = size // SECTOR - 1
    entries = bytes(128 * 128)

    def header(own: int, other: int, table: int) -> bytes:
        def pack(checksum: int) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART",
                0x10000,
                92,
                checksum,
                0,
                own,
                other,
                34,
                last - 33,
                MD_UUID.bytes_le,
                table,
                128,
                128,
                zlib.crc32(entries),
            )

        return pack(zlib.crc32(pack(0)))

    sector = bytearray(mbr(kind=0xEE)[1])
    struct.pack_into("<II", sector, 454, 1, min(last, 0xFFFFFFFF))
    return [
        (0, bytes(sector)),
        (SECTOR, header(1, last, 2)),
        (last * SECTOR, header(last, 1, last - 32)),
    ]


def zfs() -> list[tuple[int, bytes]]:
    """Uberblocks in the first two labels (OpenZFS uberblock_impl.h)."""
    uberblock = struct.pack("<QQQQQ", 0x00BAB10C, 5000, 42, 1, 1_700_000_000)
    return [
        (label + (128 << 10) + 1024 * number, uberblock)
        for label in (0, 256 << 10)
        for number in range(8)
    ]


def bcache() -> tuple[int, bytes]:
    """The superblock of a backing device (bcache-tools bcache.h)."""
    body = struct.pack("<QQ", 8, 1)  # its own sector; version: a backing device
    body += bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    body += DEVICE_UUID.bytes + MD_UUID.bytes
    body = body.ljust(208 - 8, b"\0")
    return 4096, struct.pack("<Q", _crc64(body)) + body


def _crc64(data: bytes) -> int:
    """CRC-64/WE without its last complement: bcache's own."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte << 56
        for _ in range(8):
            crc = crc << 1 ^ (0x42F0E1EBA9EA3693 if crc >> 63 else 0)
            crc &= (1 << 64) - 1
    return crc ^ (1 << 64) - 1
