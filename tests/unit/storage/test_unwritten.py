"""What is said when a byte is not written: whole sentences, put together."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Callable

import pytest

from cc_kraken.model import (
    Array,
    Blank,
    Device,
    HalfMade,
    Known,
    KrakenError,
    Record,
    Unknown,
)
from cc_kraken.storage import unwritten

FS = "f1a3c0de-0000-4000-8000-0123456789ab"
DISK = Device("nvme1n1", "/dev/nvme1n1", "259:1", "vol-00000000000000001", 1 << 30)
ARRAY = Array("md127", "/dev/md127", "9:127", FS, "raid1", 2, ("nvme1n1",), "clean")
OURS = Record("0" * 64, DISK.volume_id, "xfs", FS)
MEMBERS = Record("0" * 64, DISK.volume_id, "xfs", FS, FS, 1, 2)

SAID: dict[str, Callable[[], KrakenError]] = {
    "changed": lambda: unwritten.changed(
        DISK, "has 512 bytes now", "It had 4096 bytes"
    ),
    "in use": lambda: unwritten.in_use(ARRAY, "mounted at /data"),
    "busy": lambda: unwritten.cannot_open(DISK, OSError(errno.EBUSY, "")),
    "no disk": lambda: unwritten.cannot_open(DISK, OSError(errno.ENOTBLK, "")),
    "gone": lambda: unwritten.cannot_open(DISK, OSError(errno.ENOENT, "")),
    "locked": lambda: unwritten.locked(DISK.path),
    "read-only": lambda: unwritten.read_only(DISK),
    "failed": lambda: unwritten.io_error(
        DISK, OSError(errno.EIO, "Input/output error")
    ),
    "lost": lambda: unwritten.lost(DISK, 4096),
    "data": lambda: unwritten.not_blank(DISK, Unknown("Data without a signature.", 7)),
    "not read": lambda: unwritten.not_blank(
        DISK, Unknown("/dev/x fails.", 7, unread=True)
    ),
    "known": lambda: unwritten.not_blank(DISK, Known("xfs", FS)),
    "no record": lambda: unwritten.record(
        DISK, "no intent record", "its own intent record"
    ),
    "for xfs": lambda: unwritten.wrong_record(DISK, OURS, "a new array"),
    "for an array": lambda: unwritten.wrong_record(DISK, MEMBERS, f"xfs {FS}"),
    "a record": lambda: unwritten.record_present(DISK),
    "another": lambda: unwritten.content_changed(DISK, Blank(), f"xfs {FS}"),
    "no array": lambda: unwritten.array(
        FS, [DISK.volume_id], "the volumes differ in size"
    ),
    "array changed": lambda: unwritten.array_changed(ARRAY, "it is gone"),
    "made": lambda: unwritten.made_otherwise(
        DISK.path, HalfMade(), f"xfs with UUID {FS}"
    ),
    "members": lambda: unwritten.wrong_members(FS, "/dev/a has the role 3", ["/dev/a"]),
}


@pytest.mark.parametrize("name", SAID)
def test_each_part_is_a_sentence(name: str) -> None:
    trouble = SAID[name]().trouble
    for text in (trouble.found, trouble.expected, trouble.remedy):
        assert text.endswith(".") and ".." not in text, text
        assert text[0].isupper() or text.startswith(("/dev/", "mdadm", "overwrite"))
    parts = (f"[{trouble.kind}]", trouble.found, trouble.expected, trouble.remedy)
    together = " ".join(parts)
    assert str(trouble) == together and "; expected" not in together
    print(together)  # pytest -s


def test_every_refusal_is_read_here() -> None:
    source = Path(unwritten.__file__).read_text()
    kinds = set(re.findall(r'failure\(\s+"([a-z-]+)"', source))
    assert len(kinds) > 10
    assert kinds == {make().trouble.kind for make in SAID.values()}


def test_a_record_for_something_else_reads_well() -> None:
    assert str(SAID["for xfs"]()) == (
        "[record-refused] /dev/nvme1n1 (vol-00000000000000001) has an intent record "
        f"for xfs {FS}. It must have one for a new array. Nothing was written. Look "
        "at the volume by hand. cc-kraken plan shows what it holds now, and how to "
        "give that up."
    )
