"""Arrays: md as the kernel knows it, and the commands that bring one up.

What an array is comes from sysfs; nothing here trusts an exit status or a
udev link.  Array UUIDs are in canonical form (8-4-4-4-12), also where mdadm
writes ``aaaaaaaa:bbbbbbbb:cccccccc:dddddddd``.  Sources: md(4), mdadm(8),
Linux Documentation/admin-guide/md.rst.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
import uuid as uuids
from collections.abc import Iterable, Sequence

from cc_kraken.machine import command, mountinfo, sysfs
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Array, KrakenError, failure

SECTOR = 512
#: Longest name that md 1.2 stores together with the homehost ``any:``.
NAME_MAX = 27
NAME_PREFIX = "KRKN-"
#: Seconds that an array has to start, and between two looks at it.
STARTS, POLL = 30.0, 0.1
#: KiB of a stripe on one member; mdadm's default.
CHUNK = 512

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


def scan(paths: Paths) -> tuple[Array, ...]:
    """Every md array that the kernel knows, also inactive ones.

    ``uuid`` is "" where the kernel does not tell it; ``level`` is "" and
    ``raid_disks`` 0 before an array was started.
    """
    by_path = mountinfo.mounted(paths)
    arrays = []
    for name in sysfs.names(os.path.join(paths.sys, "block")):
        state = sysfs.disk(paths, name, "md", "array_state")
        devno = sysfs.disk(paths, name, "dev")
        if state is not None and devno:
            arrays.append(_array(paths, name, state, devno, by_path.get(devno, ())))
    return tuple(arrays)


def array_name(set_name: str) -> str:
    """The array's name for people: ``KRKN-<set>`` in what mdadm can take.

    At most 27 of the POSIX portable characters (mdadm 4.3 and 4.4 refuse
    others), not ending in a digit (that would steer the device's number).
    Different sets have different names.
    """
    wanted = NAME_PREFIX + set_name
    name = wanted + "_" if wanted[-1].isdigit() else wanted
    unfit = _UNFIT.search(wanted) or wanted.endswith("_") or len(name) > NAME_MAX
    return _told_apart(_UNFIT.sub("_", wanted), set_name) if unfit else name


def _told_apart(name: str, by: str) -> str:
    """The name with five letters that ``by`` makes."""
    digest = hashlib.sha256(by.encode("utf-8", "surrogateescape")).digest()
    letters = "".join(chr(ord("a") + byte % 26) for byte in digest[:5])
    return f"{name[: NAME_MAX - 6]}-{letters}"


def node(paths: Paths, name: str, uuid: str, members: Iterable[str]) -> str:
    """Where mdadm is to put the array ``uuid``: ``/dev/md/<name>``, or a
    longer one beside it where another array has that (the same set of another
    node, or a copy of this one): mdadm takes no name twice.

    ``members`` are the paths of its devices.
    """
    there = os.path.basename(os.path.realpath(os.path.join(paths.dev, "md", name)))
    ours = {os.path.basename(member) for member in members}
    for array in scan(paths):
        if array.name == there and not ours & set(array.members):
            return f"/dev/md/{_told_apart(name, uuid)}"
    return f"/dev/md/{name}"


def mdadm_uuid(uuid: str) -> str:
    """An array UUID as mdadm writes it (``aaaaaaaa:bbbbbbbb:…``).

    Raises ValueError for what is no UUID.
    """
    digits = uuids.UUID(uuid.replace(":", "")).hex
    return ":".join(digits[start : start + 8] for start in range(0, 32, 8))


def canonical_uuid(uuid: str) -> str:
    """An array UUID in canonical form; "" for what is none.

    mdadm lets these separate the digits anywhere.
    """
    try:
        return str(uuids.UUID(re.sub("[:. -]", "", uuid)))
    except ValueError:
        return ""


def load_driver(paths: Paths) -> None:
    """Load md where it is a module that nobody has loaded yet: mdadm 4.5 does not,
    and fails on Linux 6.18 (md-raid-utilities/mdadm issue 236).

    Where it cannot be loaded, mdadm says so.
    """
    loaded = os.path.exists(os.path.join(paths.proc, "mdstat"))
    if not loaded and command.available("modprobe"):
        command.run(["modprobe", "md_mod"])


def assemble(
    paths: Paths,
    name: str,
    uuid: str,
    members: Sequence[str],
    *,
    incomplete: bool = False,
) -> None:
    """Assemble and start the array ``uuid`` from the device paths ``members``.

    Merges with what udev has put together so far, and starts when all
    members are there that the freshest superblock expects; otherwise what
    was not there before is stopped again.  ``incomplete``: the members are
    put together one by one, the freshest first, as udev does it; what cannot
    start for lack of members stays inactive, for :func:`start_degraded`.

    Success by mdadm proves nothing, nor does its failure (udev can have been
    first): look again with :func:`scan`.  Raises :class:`KrakenError`
    ``assemble-failed`` when the members are in no running array after it.
    """
    load_driver(paths)
    if incomplete:
        _gather(paths, uuid, members)
        return
    # Without a timeout: it writes the members' superblocks.
    place, wanted = node(paths, name, uuid, members), f"--uuid={mdadm_uuid(uuid)}"
    argv = ["mdadm", "--assemble", place, wanted, *members]
    finished = command.run(argv, timeout=None)
    if finished.code == 0:
        return
    names = [os.path.basename(member) for member in members]
    if any(array.running for array in holding(scan(paths), names)):
        return
    raise _not_assembled(uuid, members, finished.said)


def _gather(paths: Paths, uuid: str, members: Sequence[str]) -> None:
    said = []
    for member in members:
        if not holding(scan(paths), [os.path.basename(member)]):
            # No configuration: its AUTO line could forbid this.
            argv = ["mdadm", "--incremental", "--config=none", member]
            said.append(command.run(argv, timeout=None).said)
    names = {os.path.basename(member) for member in members}
    if not any(names <= set(array.members) for array in scan(paths)):
        raise _not_assembled(uuid, members, " ".join(said))


def start_degraded(paths: Paths, name: str) -> None:
    """Start the inactive array ``name`` (``md127``) without its lost members.

    Only for a set that allows it, and for redundant levels: the kernel
    refuses what cannot work without the missing data, and a dirty RAID 4, 5
    or 6.  What mdadm does for an insisted start is this one write.  It
    starts read-only until first written to.  Raises :class:`KrakenError`
    ``start-degraded``.
    """
    state = sysfs.disk(paths, name, "md", "array_state")
    if state != "inactive":
        raise _not_started(name, f"its state is {state or 'unknown'}")
    path = os.path.join(paths.sys, "block", name, "md", "array_state")
    try:
        with open(path, "r+b", buffering=0) as file:
            file.write(b"read-auto")
    except OSError as error:
        raise _not_started(name, f"the kernel says: {error.strerror}") from error


def create_argv(
    members: Sequence[str],
    *,
    node: str,
    uuid: str,
    level: int,
    name: str,
    data_offset: int,
) -> tuple[str, ...]:
    """The command that creates an array of the device paths ``members`` at ``node``.

    ``data_offset``: mdadm 4's own choice for this size, but said by us, so that no
    version decides it: at least 2 MiB for a member of 1 GiB, far behind the record's
    place, and among the offsets behind which the proof of blankness looks.  mdadm 4.4
    asks unless ``--bitmap`` is given for a redundant level, and 4.2 refuses the word,
    ``none`` too, for RAID 0.
    """
    words = [
        "mdadm",
        "--create",
        node,
        "--metadata=1.2",
        f"--uuid={mdadm_uuid(uuid)}",
        f"--level={level}",
        f"--raid-devices={len(members)}",
        "--homehost=any",
        f"--name={name}",
        f"--data-offset={data_offset >> 10}K",
    ]
    if level != 0:
        words.append("--bitmap=internal")
    if level != 1:
        words.append(f"--chunk={CHUNK}")
    return (*words, *members)


def read_write(array: Array) -> None:
    """End the state ``read-auto`` of a running array, as its first write does.

    A resync that is due begins.
    """
    _manage(array, "allowing writes to", "--readwrite")


def grow(array: Array) -> None:
    """Let a running array use all that its members have now.

    md makes the bitmap fit by itself, and brings the new room in step.
    """
    _manage(array, "growing", "--grow", "--size=max")


def _manage(array: Array, doing: str, mode: str, *options: str) -> None:
    """Raises :class:`KrakenError` ``command-failed``."""
    argv = ["mdadm", mode, array.path, *options]
    command.check(command.run(argv, timeout=None), f"{doing} {array.path}")


def holding(arrays: Iterable[Array], members: Iterable[str]) -> tuple[Array, ...]:
    """The arrays that hold any of these disks (kernel names)."""
    wanted = set(members)
    return tuple(array for array in arrays if wanted & set(array.members))


def wait_running(paths: Paths, members: Sequence[str]) -> Array:
    """The one running array that holds these disks (kernel names).

    It is waited for until it runs and has a size; a resync is not waited for.
    Raises :class:`KrakenError` ``array-not-running`` (it waits) or ``array-split``.
    """
    end = time.monotonic() + STARTS
    while True:
        arrays = holding(scan(paths), members)
        if len(arrays) == 1 and arrays[0].running and arrays[0].size:
            return arrays[0]
        if time.monotonic() >= end:
            raise _not_running(arrays, members)
        time.sleep(POLL)


def _array(
    paths: Paths, name: str, state: str, devno: str, mounted: tuple[str, ...]
) -> Array:
    level = sysfs.disk(paths, name, "md", "level") or ""
    entries = sysfs.names(os.path.join(paths.sys, "block", name, "md"))
    md_uuid = canonical_uuid(sysfs.disk(paths, name, "md", "uuid") or "")
    return Array(
        name=name,
        path=os.path.join(paths.dev, name),
        devno=devno,
        uuid="" if not md_uuid.strip("0-") else md_uuid,
        level="" if level == "clear" else level,
        # While it is reshaped both counts are shown: "4 (3)".
        raid_disks=sysfs.count(paths, name, "md", "raid_disks"),
        members=tuple(one[len("dev-") :] for one in entries if one.startswith("dev-")),
        state=state,
        degraded=sysfs.count(paths, name, "md", "degraded"),
        size=sysfs.count(paths, name, "size") * SECTOR,
        read_only=sysfs.disk(paths, name, "ro") != "0",
        mounted=mounted,
        component=sysfs.count(paths, name, "md", "component_size") * 1024,
        action=sysfs.disk(paths, name, "md", "sync_action") or "",
    )


def _not_assembled(uuid: str, members: Sequence[str], said: str) -> KrakenError:
    remedy = f"Compare what mdadm --examine {' '.join(members)} shows."
    if os.strerror(errno.EINVAL) in said:  # in English: LC_ALL=C
        remedy += (
            " If the kernel's log says that a member has no valid superblock, an"
            " older kernel refuses what a newer one has written. Nothing is lost:"
            " go back to an image with the newer kernel."
        )
    return failure(
        kind="assemble-failed",
        found=f"mdadm does not put the array {mdadm_uuid(uuid)} together: "
        f"{said.rstrip('.')}.",
        expected="All members must be here that its freshest superblock expects.",
        remedy=remedy,
    )


def _not_started(name: str, why: str) -> KrakenError:
    return failure(
        kind="start-degraded",
        found=f"The array {name} cannot be started without its missing members: "
        f"{why.rstrip('.')}.",
        expected="It must be inactive, redundant, and have enough members.",
        remedy="Attach the missing volumes, then: cc-kraken apply.",
    )


def _not_running(arrays: Sequence[Array], members: Sequence[str]) -> KrakenError:
    disks = ", ".join(members)
    if len(arrays) > 1:
        return failure(
            kind="array-split",
            found=f"The disks {disks} are in several arrays: "
            f"{', '.join(array.name for array in arrays)}.",
            expected="One array must hold them all.",
            remedy="Compare mdadm --detail of these arrays. Stop the one that is not "
            "in use (mdadm --stop), then: cc-kraken apply.",
        )
    found = "in no array"
    if arrays:
        found = f"in {arrays[0].name}, whose state is {arrays[0].state!r}"
    return failure(
        kind="array-not-running",
        found=f"After {STARTS:g} s the disks {disks} are {found}.",
        expected="They must be in an array that runs.",
        remedy="See what md says in the kernel's log (dmesg).",
        waits=True,
    )
