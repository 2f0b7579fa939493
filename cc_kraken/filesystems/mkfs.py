"""Command lines of mkfs for ext4, xfs and btrfs, and which options may pass.

Pure: nothing is run here.  Whatever mkfs would otherwise find out from the
device (sector size, stripes, rotation) or from the machine (processors, kernel
modules) and that moves its structures is said explicitly, so that the same
command on an empty file of the same size (shadow.py) writes the same places.
Sources: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Pattern, Sequence, Tuple

from cc_kraken.model import KrakenError, Trouble

#: What a label can hold, in bytes.
LABEL_BYTES: Mapping[str, int] = {"ext4": 16, "xfs": 12, "btrfs": 255}
TYPES: Tuple[str, ...] = tuple(LABEL_BYTES)

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


def label(kind: str, text: str) -> str:
    """``text`` as a label that a filesystem of type ``kind`` can hold.

    Control characters are left out; the rest is cut between characters.
    """
    clean = "".join(c for c in text if c.isprintable())
    cut = clean.encode("utf-8", "ignore")[: LABEL_BYTES[kind]]
    return cut.decode("utf-8", "ignore")


def cut(kind: str, text: str) -> str:
    """:func:`label`; of a type that we do not make, ``text`` itself."""
    return label(kind, text) if kind in TYPES else text


def argv(
    kind: str,
    path: str,
    *,
    uuid: str,
    label_text: str = "",
    options: Sequence[str] = (),
    geometry: Geometry = Geometry(),
    concurrency: bool = False,
    prezeroed: bool = True,
) -> Tuple[str, ...]:
    """The command that makes a filesystem of type ``kind`` at ``path``.

    ``concurrency``: this mkfs.xfs sizes allocation groups by the number of
    processors (xfsprogs 6.8 and later), and is told not to.  ``prezeroed``:
    the target was proved blank, so the journal need not be zeroed.  Raises
    KrakenError ``mkfs-option-refused`` and ``fs-type-unknown``; ValueError
    for a UUID or path that is none.
    """
    if kind not in TYPES:
        raise KrakenError(_unknown_type(kind))
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"not a UUID: {uuid!r}")
    if not path.startswith("/"):
        raise ValueError(f"not an absolute path: {path!r}")
    given = parse(kind, options)
    name = label(kind, label_text)
    if kind == "ext4":
        words = _ext4(uuid, given, geometry, prezeroed)
    elif kind == "xfs":
        words = _xfs(uuid, given, geometry, concurrency)
    else:
        words = _btrfs(uuid, given)
    return (f"mkfs.{kind}", *words, *(("-L", name) if name else ()), path)


# ------------------------------------------------------------- command lines

#: Option letter: what was given for it, in order ("size=4096", "reflink=0").
Given = Dict[str, List[str]]


def _ext4(uuid: str, given: Given, geometry: Geometry, prezeroed: bool) -> List[str]:
    # The kernel zeroes the inode tables after the mount: the proof of
    # blankness is sampled, so assume_storage_prezeroed would promise more
    # than is known.  The journal needs no zeros where no older one can be.
    lazy = int(prezeroed)
    extended = ["nodiscard", "lazy_itable_init=1", f"lazy_journal_init={lazy}"]
    own = given.pop("-E", [])
    names = {_name(item) for item in own}
    block = int(given.setdefault("-b", ["4096"])[0])
    if not names & {"stride", "stripe_width", "stripe-width"}:
        # 0 as well: it keeps mke2fs from asking the device.
        extended.append(f"stride={geometry.stripe_unit // block}")
        extended.append(f"stripe_width={geometry.stripe_width // block}")
    words = ["-q", "-U", uuid, "-E", ",".join(extended + own)]
    return words + _flat(given)


def _xfs(uuid: str, given: Given, geometry: Geometry, concurrency: bool) -> List[str]:
    data = given.setdefault("-d", [])
    if not data:
        if geometry.stripe_unit:
            width = geometry.stripe_width // geometry.stripe_unit
            data += [f"su={geometry.stripe_unit}", f"sw={width}"]
        else:
            data.append("noalign")
    if concurrency:
        data.append("concurrency=0")
        given.setdefault("-l", []).append("concurrency=0")
    given.setdefault("-s", [f"size={geometry.sector}"])
    given.setdefault("-m", []).insert(0, f"uuid={uuid}")
    return ["-q", "-K", *_flat(given)]


def _btrfs(uuid: str, given: Given) -> List[str]:
    # Before 5.15 the profile of metadata depended on the disk's rotation.
    given.setdefault("-m", ["dup"])
    given.setdefault("-d", ["single"])
    return ["-q", "-K", "-U", uuid, *_flat(given)]


def _flat(given: Given) -> List[str]:
    """Each option once: mke2fs and mkfs.btrfs heed only the last one."""
    words: List[str] = []
    for letter in sorted(given):
        words += [letter, ",".join(given[letter])]
    return words


def _name(item: str) -> str:
    return item.partition("=")[0]


# ---------------------------------------------------------------- allow-list

_BOOL = "[01]"
_BYTES = r"[1-9][0-9]{0,9}[kKmM]?"
_COUNT = "[1-9][0-9]{0,9}"
#: Powers of two from 4 KiB to 1 MiB; in sectors of 512 bytes; with a unit or without.
_SECTORS = "8|16|32|64|128|256|512|1024|2048"
_STRIPE = (
    "(4|8|16|32|64|128|256|512|1024)[kK]|1[mM]"
    "|4096|8192|16384|32768|65536|131072|262144|524288|1048576"
)


@dataclass(frozen=True)
class _Option:
    """One option letter.  ``values``: sub-option name to the pattern of its
    value (None: it takes none), or "" for an option with a plain value."""

    values: Mapping[str, Optional[Pattern[str]]]
    many: bool = True


def _option(many: bool = True, **values: Optional[str]) -> _Option:
    table = {
        name.replace("__", "-"): None if pattern is None else re.compile(pattern)
        for name, pattern in values.items()
    }
    return _Option(table, many)


def _plain(pattern: str) -> _Option:
    return _Option({"": re.compile(pattern)}, many=False)


def _names(*names: str, both: bool = True) -> _Option:
    """A list of feature names, each with ``^`` before it where ``both``."""
    table: Dict[str, Optional[Pattern[str]]] = {name: None for name in names}
    if both:
        table.update({f"^{name}": None for name in names})
    return _Option(table)


_EXT4_FEATURES = _names(
    "64bit",
    "casefold",
    "dir_index",
    "dir_nlink",
    "ea_inode",
    "encrypt",
    "extra_isize",
    "fast_commit",
    "has_journal",
    "huge_file",
    "inline_data",
    "large_dir",
    "large_file",
    "metadata_csum_seed",
    "orphan_file",
    "project",
    "quota",
    "sparse_super2",
    "stable_inodes",
    "verity",
)

#: Left out on purpose: what forces (-f, -F), what makes nothing (-n, -N, -S),
#: what reads or writes another file or device (-d file/name, -l logdev, -J
#: device, -p, -c, -r, -z), what changes the identity (-U, -L, -m uuid), the
#: size, or the places of structures beyond what test_record_place.py proves
#: (agcount, agsize, agnum, -g, -G, -C, bigalloc, ^metadata_csum, packed_meta_blocks,
#: -A, -b of btrfs; stripes of xfs that are no power of two: the headers of its
#: allocation groups come near the record), and what contradicts our own choices
#: (discard, lazy_*_init).  :func:`check_room` is the rest of it.
ALLOWED: Mapping[str, Mapping[str, _Option]] = {
    "ext4": {
        "-b": _plain("1024|2048|4096"),
        "-e": _plain("continue|remount-ro"),
        "-i": _plain("[1-9][0-9]{3,7}"),
        "-I": _plain("256|512|1024"),
        "-m": _plain(r"[0-9]{1,2}(\.[0-9]{1,2})?"),
        "-N": _plain("[1-9][0-9]{1,9}"),
        "-T": _plain("small|big|huge|news|largefile|largefile4"),
        "-J": _option(size="[1-9][0-9]{0,3}", fast_commit_size="[1-9][0-9]{0,3}"),
        "-E": _option(
            stride=_COUNT,
            stripe_width=_COUNT,
            stripe__width=_COUNT,
            num_backup_sb="[012]",
            orphan_file_size=_BYTES,
            quotatype="(usr|grp|prj)(quota)?(:(usr|grp|prj)(quota)?){0,2}",
            encoding=r"utf8(-[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,2})?)?",
        ),
        "-O": _EXT4_FEATURES,
    },
    "xfs": {
        "-b": _option(size="1024|2048|4096|[124]k"),
        "-d": _option(
            su=_STRIPE, sw=_COUNT, sunit=_SECTORS, swidth=_COUNT, noalign=None
        ),
        "-i": _option(
            size="256|512|1024|2048|[12]k",
            maxpct="[0-9]{1,2}|100",
            attr="2",
            projid32bit="1",
            sparse=_BOOL,
            nrext64=_BOOL,
            exchange=_BOOL,
        ),
        "-l": _option(
            size="[1-9][0-9]{0,9}[kKmMgG]?",
            su=_BYTES,
            sunit=_COUNT,
            version="2",
            lazy__count=_BOOL,
        ),
        "-m": _option(
            crc="1",
            finobt=_BOOL,
            rmapbt=_BOOL,
            reflink=_BOOL,
            inobtcount=_BOOL,
            bigtime=_BOOL,
        ),
        "-n": _option(
            size="4096|8192|16384|32768|65536|(4|8|16|32|64)k",
            version="2|ci",
            ftype="1",
            parent=_BOOL,
        ),
        "-s": _option(size="512|4096|4k"),
    },
    "btrfs": {
        "-d": _plain("single|dup"),
        "-m": _plain("single|dup"),
        "-n": _plain("4096|8192|16384|32768|65536|(4|8|16|32|64)k"),
        "-s": _plain("4096|4k"),
        "-O": _names(
            "block-group-tree",
            "extref",
            "free-space-tree",
            "no-holes",
            "quota",
            "skinny-metadata",
            "squota",
        ),
        "-R": _names("free-space-tree", "quota"),
        "--csum": _plain("crc32c|xxhash|sha256|blake2"),
    },
}

#: The long names that mkfs.btrfs has for them.
_LONG: Mapping[str, str] = {
    "--data": "-d",
    "--metadata": "-m",
    "--nodesize": "-n",
    "--sectorsize": "-s",
    "--features": "-O",
    "--runtime-features": "-R",
    "--checksum": "--csum",
}


def parse(kind: str, options: Sequence[str]) -> Given:
    """``options`` by letter, every value checked against the allow-list.

    An option and its value are two items (``-m``, ``reflink=0``) or one with
    ``=`` for long options.  Raises KrakenError ``mkfs-option-refused``.
    """
    allowed = ALLOWED[kind]
    given: Given = {}
    words = list(options)
    while words:
        word = words.pop(0)
        head, equals, value = word.partition("=")
        letter = _LONG.get(head, head) if kind == "btrfs" else word
        if letter not in allowed:
            raise _refused(kind, word, f"one of {', '.join(sorted(allowed))}")
        if not (kind == "btrfs" and head.startswith("--") and equals):
            if not words:
                raise _refused(kind, word, "a value after it")
            value = words.pop(0)
        _take(kind, letter, value, allowed[letter], given)
    return given


def _take(kind: str, letter: str, value: str, option: _Option, given: Given) -> None:
    if not option.many:
        if letter in given:
            raise _refused(kind, f"{letter} {value}", f"{letter} once")
        _check(kind, letter, "", value, option)
        given[letter] = [value]
        return
    for item in value.split(","):
        name, equals, content = item.partition("=")
        if any(_name(other) == name for other in given.get(letter, [])):
            raise _refused(kind, f"{letter} {item}", f"{name} once")
        _check(kind, letter, name, content if equals else None, option)
        given.setdefault(letter, []).append(item)


def _check(
    kind: str, letter: str, name: str, value: Optional[str], option: _Option
) -> None:
    shown = f"{letter} {name}" if value is None else f"{letter} {name}={value}"
    if not name:
        shown = f"{letter} {value}"
    if name not in option.values:
        raise _refused(kind, shown, f"one of {', '.join(sorted(option.values))}")
    pattern = option.values[name]
    if pattern is None and value is None:
        return
    if pattern is None:
        raise _refused(kind, shown, f"{name} without a value")
    if value is None or not pattern.fullmatch(value):
        raise _refused(kind, shown, f"a value like {pattern.pattern}")


def check_room(kind: str, options: Sequence[str], size: int) -> None:
    """On a volume of ``size`` bytes these options leave the record's place alone.

    The journal of ext4 begins in the middle of the volume (get_midpoint_journal_block()
    of e2fsprogs) and goes on behind whatever is there; the record lies three eighths
    of the volume further.  Half of what inode tables leave free of that is allowed.
    Raises KrakenError ``mkfs-option-refused``.
    """
    if kind != "ext4":
        return
    given = parse(kind, options)
    journal = dict(item.split("=") for item in given.get("-J", ()))
    wanted = int(journal.get("size", 0)) << 20
    inodes = size // int(given.get("-i", ["4096"])[0])
    if "-N" in given:
        inodes = int(given["-N"][0])
    tables = inodes * int(given.get("-I", ["256"])[0])
    most = (size - tables) * 3 // 16
    if wanted > most:
        raise _refused(
            kind,
            f"-J size={journal['size']}",
            f"a journal of {max(most, 0) >> 20} MiB at most on {size >> 30} GiB",
        )


def _refused(kind: str, found: str, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            kind="mkfs-option-refused",
            found=f"the mkfs option {found!r} is not allowed for {kind}",
            expected=expected,
            remedy="Correct mkfs_options (tag MkfsOptions): what forces, names "
            "another device, or changes UUID, label or places is refused.",
        )
    )


def _unknown_type(kind: str) -> Trouble:
    return Trouble(
        kind="fs-type-unknown",
        found=f"the filesystem type is {kind!r}",
        expected=f"one of {', '.join(TYPES)}",
        remedy="Correct fs_type (tag FsType).",
    )
