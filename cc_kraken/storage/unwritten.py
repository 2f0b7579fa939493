"""What a person reads when a byte is not written, or was not written well.

One home for the troubles of the destroying path: each in whole sentences.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from cc_kraken.decide.refusal import describe
from cc_kraken.model import (
    Array,
    Content,
    Device,
    KrakenError,
    Layer,
    Record,
    failure,
)
from cc_kraken.proof import record as record_block

_OVERWRITE = (
    "Nothing was written. Look at the volume by hand. cc-kraken plan shows what it "
    "holds now, and how to give that up."
)


def changed(target: Layer, found: str, expected: str) -> KrakenError:
    """``found`` goes on after its name: "has 512 bytes"."""
    return failure(
        "device-changed",
        f"{target.title} {found}.",
        f"{expected}.",
        "Nothing was written. Run cc-kraken apply, which looks disks up afresh.",
    )


def in_use(target: Layer, how: str) -> KrakenError:
    return failure(
        "device-in-use",
        f"{target.title} is in use: {how}.",
        "Nothing may use it.",
        "Nothing was written. Stop what uses it, then: cc-kraken apply.",
    )


def cannot_open(target: Layer, error: OSError) -> KrakenError:
    if error.errno == errno.EBUSY:
        return in_use(target, "the kernel says that it is busy")
    if error.errno == errno.ENOTBLK:
        return changed(target, "is no block device now", "It was a disk")
    return failure(
        "device-missing",
        f"{target.title} cannot be opened ({os.strerror(error.errno or 0)}).",
        "It was there a moment ago.",
        "Nothing was written. See whether EC2 still shows its volume as attached here, "
        "then: cc-kraken apply.",
    )


def locked(path: str) -> KrakenError:
    return failure(
        "device-locked",
        f"Another process holds the lock of {path}.",
        "The run needs this lock (flock) before it writes.",
        f"See who holds it: lsof {path}.",
        waits=True,
    )


def read_only(device: Layer) -> KrakenError:
    return failure(
        "device-read-only",
        f"{device.title} is read-only.",
        "The run has to write to it.",
        "See in the kernel's log why (dmesg), then: cc-kraken apply.",
    )


def io_error(target: Layer, error: OSError) -> KrakenError:
    return failure(
        "write-failed",
        f"{target.title} failed: {error.strerror or error}.",
        "It must take reads and writes.",
        "The volume may be failing, or detached. See the kernel's log (dmesg) and the "
        "volume's status in EC2, then: cc-kraken apply.",
    )


def lost(target: Layer, start: int) -> KrakenError:
    return failure(
        "write-failed",
        f"{target.title} does not return what was written at byte {start}.",
        "It must return the same bytes.",
        "The volume may be failing. See the kernel's log (dmesg) and the volume's "
        "status in EC2.",
    )


def content(target: Layer, shown: Content, expected: str) -> KrakenError:
    return failure(
        "content-refused",
        f"{target.title} holds {describe(shown)}.",
        f"{expected}.",
        _OVERWRITE,
    )


def not_blank(target: Layer, shown: Content) -> KrakenError:
    return content(target, shown, "It must hold nothing but zeros")


def record(target: Layer, found: str, expected: str) -> KrakenError:
    """``found`` and ``expected`` go on after "has": "no intent record"."""
    return failure(
        "record-refused",
        f"{target.title} has {found}.",
        f"It must have {expected}.",
        _OVERWRITE,
    )


def wrong_record(device: Device, found: Record, expected: str) -> KrakenError:
    """The record is whole, and for something else."""
    meant = f"{found.fs_type or 'no filesystem'} {found.fs_uuid}".rstrip()
    if found.array_uuid:
        meant = f"array {found.array_uuid} of {found.members} volumes, with {meant}"
    return record(device, f"an intent record for {meant}", f"one for {expected}")


def record_present(target: Layer) -> KrakenError:
    return failure(
        "record-present",
        f"{target.title} has an intent record: it may be half made.",
        "Only a whole filesystem is mounted.",
        "Nothing was mounted. Run cc-kraken apply, which looks at it afresh.",
    )


def content_changed(target: Layer, shown: Content, expected: str) -> KrakenError:
    return failure(
        "content-changed",
        f"{target.title} holds {describe(shown)} now.",
        f"It held {expected} before.",
        "Nothing was mounted. Find out what wrote to it, then: cc-kraken apply.",
    )


def array(uuid: str, volumes: Sequence[str], wrong: str) -> KrakenError:
    return failure(
        "array-refused",
        f"The array {uuid} of {', '.join(volumes)} is not created: {wrong}.",
        "An array needs equal blank volumes with the same intent record.",
        "Nothing was written. Correct the tags of the set, then: cc-kraken apply.",
    )


def array_changed(array: Array, found: str) -> KrakenError:
    return failure(
        "array-changed",
        f"{array.title} is not as it was seen: {found}.",
        f"It was the array of {', '.join(array.members)}.",
        "Nothing was written. Run cc-kraken apply, which looks arrays up afresh.",
    )


def made_otherwise(path: str, shown: Content, expected: str) -> KrakenError:
    return failure(
        "made-otherwise",
        f"{path} holds {describe(shown)} after the step.",
        f"The step was to leave {expected}.",
        "See the kernel's log for I/O errors (dmesg), then: cc-kraken apply.",
    )


def wrong_members(uuid: str, wrong: str, paths: Sequence[str]) -> KrakenError:
    return failure(
        "made-otherwise",
        f"mdadm reported success, but {wrong}.",
        f"The superblocks of array {uuid} must lie on {', '.join(paths)}, in "
        "this order.",
        "Compare mdadm --examine of the members, then: cc-kraken apply.",
    )


def describe_block(block: bytes) -> str:
    """What lies in the place of a record."""
    if not any(block):
        return "no intent record"
    if record_block.decode(block) is not None:
        return "another intent record"
    return "unknown bytes where the record belongs"
