"""ARRAY lines for mdadm, in a drop-in file of ours.

A line makes an array local to this machine and exempts it from ``AUTO``,
``HOMEHOST`` and ``POLICY`` lines that switch assembly off.  It carries the UUID
only: no device name, no members, no hostname.  Two lines that match one array make
mdadm refuse it ("multiple lines in mdadm.conf match"), whatever they match it by;
so a line of somebody else (goat, the installation of mdadm) for an array of ours
goes, where it says no more than ours.  Sources: mdadm.conf(5), mdadm's config.c
(conf_match, conf_test_dev) and Incremental.c, 4.2 to 4.6.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape, glob
from typing import Optional
from urllib.parse import quote, unquote

from cc_kraken.machine import files
from cc_kraken.machine.md import canonical_uuid, mdadm_uuid
from cc_kraken.machine.paths import Paths
from cc_kraken.model import ArrayLine, Device

DROP_IN = "cc-kraken.conf"
HEADER = (
    "# Written by cc-kraken: the arrays of this node's sets, by UUID.\n"
    "# Changes are lost; put lines of your own into another file.\n"
)

_WORD = re.compile(r"""(?:"[^"]*"?|'[^']*'?|[^ \t"'])+""")
_QUOTED = re.compile(r""""([^"]*)"?|'([^']*)'?""")
_ARRAY, _DEVICES = "array", "devices"
#: mdadm takes a keyword by its first three letters already.
_KEYWORD_MIN = 3
_IGNORE = "<ignore>"
#: What a line of ours does not say, and mdadm heeds.
_MORE = ("spare-group=", "bitmap=", "container=", "member=")
_NO_MORE = ("bitmap=none", "bitmap=internal")
#: By which udev knows an EBS volume, with the serial behind it.
_BY_ID = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"


def location(paths: Paths) -> str:
    """The drop-in's path: beside the main file that mdadm reads.

    Debian's mdadm prefers ``/etc/mdadm/mdadm.conf``, others prefer
    ``/etc/mdadm.conf``; each takes the other where its own is missing, and
    reads ``<that file>.d/*.conf`` as well, without a main file too.
    """
    return _drop_in(_main_files(paths)[0])


def text(uuids: Mapping[str, str]) -> str:
    """The drop-in for these arrays (UUID by set), "" for none."""
    lines = "".join(
        f"# {_plain(name)}\nARRAY UUID={mdadm_uuid(uuid)}\n"
        for name, uuid in sorted(uuids.items())
    )
    return HEADER + lines if lines else ""


def parse(config: str, file: str = "") -> tuple[ArrayLine, ...]:
    """The ARRAY lines of a text that identify an array to mdadm."""
    lines = (_array_line(words, file) for _, words in _logical_lines(config))
    return tuple(line for line in lines if line is not None)


def without(config: str, gone: Collection[ArrayLine]) -> str:
    """``config`` without these ARRAY lines, with what continues them, however often
    each of them is there; every other byte stays."""
    dropped: set[int] = set()
    for numbers, words in _logical_lines(config):
        if _array_line(words, "") in gone:
            dropped.update(numbers)
    lines = config.split("\n")
    return "\n".join(line for at, line in enumerate(lines) if at not in dropped)


def elsewhere(paths: Paths) -> tuple[ArrayLine, ...]:
    """The ARRAY lines in the files of mdadm's, except ours."""
    return tuple(
        replace(line, read=read)
        for name, config, read in _foreign(paths)
        for line in parse(config, name)
    )


def speaks_of(line: ArrayLine, uuid: str, name: str, devices: Iterable[str]) -> bool:
    """Whether a line is for the array with this UUID (canonical) and name
    (``any:KRKN-data``) on these devices (paths).

    The UUID decides where the line has one.  mdadm 4.2 wants its name and its
    devices to match, later ones do not read the name: so does one of them here.
    """
    if line.uuid:
        return line.uuid == uuid
    if line.devices:
        return any(_covers(one, path) for path in devices for one in line.devices)
    full = name.lower()
    return line.name.lower() in (full, full.rpartition(":")[2])


def keeps(line: ArrayLine, devices: Collection[str]) -> str:
    """Why a line for the array on these devices cannot give way to ours, which
    says nothing but "assemble this array"; "" where it can."""
    if line.device.lower() == _IGNORE:
        return "it tells mdadm to leave the array alone"
    if line.more:
        return f"ours has no {' '.join(line.more)}"
    if not line.uuid and not set(line.devices) <= set(devices):
        return "it is for other disks, too"
    return ""


def left_out(paths: Paths, devices: Iterable[Device]) -> dict[str, str]:
    """The volumes, of these disks, that the DEVICE lines keep from mdadm, each to
    the lines; none where there is no such line."""
    patterns: list[str] = []
    rules: list[str] = []
    for name, config, read in _foreign(paths):
        for _, words in _logical_lines(config if read else ""):
            some = [
                word
                for word in words[1:]
                if word.startswith("/") or word.lower() in ("partitions", "containers")
            ]
            if _is(words[0], _DEVICES) and some:
                patterns += some
                rules.append(f"{' '.join(words)} ({name})")
    if not patterns or "partitions" in (one.lower() for one in patterns):
        return {}
    return {
        device.volume_id: " and ".join(rules)
        for device in devices
        if not any(_permits(paths, pattern, device) for pattern in patterns)
    }


def _permits(paths: Paths, pattern: str, device: Device) -> bool:
    """By the names that udev hands to mdadm, or what the pattern finds in /dev."""
    pattern = pattern.replace("[^", "[!")
    by_id = _BY_ID + device.volume_id.replace("-", "")
    if any(_covers(pattern, name) for name in (device.path, by_id, f"{by_id}_1")):
        return True
    if pattern.startswith("/dev/"):
        pattern = os.path.join(paths.dev, pattern[len("/dev/") :])
    found = (os.path.basename(os.path.realpath(one)) for one in glob(pattern))
    return device.name in found


def _covers(pattern: str, path: str) -> bool:
    """fnmatch(3) with FNM_PATHNAME: no star matches a slash."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def write(
    paths: Paths, uuids: Mapping[str, str], instead_of: Collection[ArrayLine] = ()
) -> bool:
    """Make the drop-in name these arrays (UUID by set), and take these lines out of
    all other files; True when anything changed.

    Without an array to name there is no file.  Raises :class:`KrakenError`
    ``cannot-write`` or ``cannot-read``.
    """
    # Theirs first: a run that is cut off here leaves an array without a line,
    # which is found by its superblocks, and none with two.
    changed = False
    for name, config, _ in _foreign(paths) if instead_of else ():
        left = without(config, instead_of)
        if left != config:
            changed = files.write_atomic(name, files.encode(left)) or changed
    path, stale = (_drop_in(main) for main in _main_files(paths))
    changed = files.remove(stale) or changed
    content = text(uuids)
    if not content:
        return files.remove(path) or changed
    files.make_directories(os.path.dirname(path))
    return files.write_atomic(path, files.encode(content)) or changed


def current(paths: Paths) -> dict[str, str]:
    """The arrays that our drop-in names now, canonical UUID by set."""
    found: dict[str, str] = {}
    name = ""
    for line in (files.read_text(location(paths)) or "").split("\n"):
        if line.startswith("# "):
            name = unquote(line[2:], errors="surrogateescape")
        found.update((name, one.uuid) for one in parse(line) if one.uuid)
    return found


def add(
    paths: Paths, set_name: str, uuid: str, instead_of: Collection[ArrayLine] = ()
) -> bool:
    """Name the array of one set, under no other name, and take out these lines of
    other files; True when anything changed."""
    others = {
        name: other
        for name, other in current(paths).items()
        if other != canonical_uuid(uuid)
    }
    return write(paths, {**others, set_name: uuid}, instead_of)


def drop(paths: Paths, set_name: str) -> bool:
    """Name the array of this set no longer; True when the drop-in changed."""
    left = current(paths)
    return left.pop(set_name, None) is not None and write(paths, left)


def _foreign(paths: Paths) -> Iterator[tuple[str, str, bool]]:
    """Every file of mdadm's, except ours: its name, its text, and whether the mdadm
    that is installed reads it."""
    for main, read in zip(_main_files(paths), (True, False)):
        for name in (main, *sorted(glob(f"{escape(main)}.d/*.conf"))):
            if os.path.basename(name) != DROP_IN and os.path.isfile(name):
                yield name, files.read_text(name) or "", read


def _main_files(paths: Paths) -> tuple[str, str]:
    """mdadm's two main files, the one that counts first."""
    debian = os.path.join(paths.etc, "mdadm", "mdadm.conf")
    other = os.path.join(paths.etc, "mdadm.conf")
    has_debian, has_other = os.path.exists(debian), os.path.exists(other)
    is_debian = has_debian
    if has_debian == has_other:
        is_debian = os.path.exists(os.path.join(paths.etc, "debian_version"))
    return (debian, other) if is_debian else (other, debian)


def _drop_in(main: str) -> str:
    return os.path.join(main + ".d", DROP_IN)


def _logical_lines(config: str) -> Iterator[tuple[list[int], list[str]]]:
    """Words of each line, and the numbers of the lines that they stand on; a
    line that begins with a blank continues one."""
    words: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(config.split("\n")):
        found = _words(line)
        if not found:
            continue
        if line[0] in " \t" and words:
            words += found
            numbers.append(number)
            continue
        if words:
            yield numbers, words
        words, numbers = found, [number]
    if words:
        yield numbers, words


def _is(word: str, keyword: str) -> bool:
    word = word.lower()
    return len(word) >= _KEYWORD_MIN and keyword.startswith(word)


def _array_line(words: Sequence[str], file: str) -> Optional[ArrayLine]:
    """The line, if it is an ARRAY line by which mdadm can know an array with
    metadata 1.x (which has no number of its own)."""
    if not _is(words[0], _ARRAY):
        return None
    device = ""
    said: dict[str, str] = {}
    more: list[str] = []
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if word.startswith("/") or not equals:
            device = device or word
        else:
            said.setdefault(key.lower(), value)
        if word.lower().startswith(_MORE) and word.lower() not in _NO_MORE:
            more.append(word)
    line = ArrayLine(
        file,
        device,
        canonical_uuid(said.get("uuid", "")),
        said.get("name", ""),
        tuple(one for one in said.get("devices", "").split(",") if one),
        tuple(more),
        " ".join(words),
    )
    known = line.name or line.devices
    return line if line.uuid or (known and "super-minor" not in said) else None


def _words(line: str) -> list[str]:
    """As conf_word() of mdadm's lib.c reads them."""
    words = _WORD.findall(line.rstrip("\r"))
    comment = next((at for at, word in enumerate(words) if word[0] == "#"), None)
    return [_QUOTED.sub(r"\1\2", word) for word in words[:comment]]


def _plain(name: str) -> str:
    """A set's name for a comment: a newline in it must not begin a line."""
    graphic = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
    return quote(name, safe=graphic, errors="surrogateescape")
