"""ARRAY lines for mdadm, in a drop-in file of ours.

A line makes an array local to this machine and exempts it from an ``AUTO``
line that switches assembly off.  It carries the UUID only: no device name,
no members, no hostname.  Two lines for one array make mdadm refuse it
("multiple lines in mdadm.conf match"), and a line that names members or a
host holds for one instance only; so the line of somebody else (goat, the
installation of mdadm) for an array of ours is taken out.  Sources:
mdadm.conf(5), mdadm's config.c (4.2 to 4.6).
"""

from __future__ import annotations

import os
import re
from typing import (
    Collection,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    Sequence,
    Set,
    Tuple,
)
from urllib.parse import quote, unquote

from cc_kraken import files
from cc_kraken.arrays import canonical_uuid, mdadm_uuid
from cc_kraken.paths import Paths

DROP_IN = "cc-kraken.conf"
HEADER = (
    "# Written by cc-kraken: the arrays of this node's sets, by UUID.\n"
    "# Changes are lost; put lines of your own into another file.\n"
)

_KEYWORD = "array"
#: mdadm takes a keyword by its first three letters already.
_KEYWORD_MIN = 3


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


def named(config: str) -> FrozenSet[str]:
    """The array UUIDs (canonical) that the ARRAY lines of a text name."""
    found: Set[str] = set()
    for _, words in _logical_lines(config):
        found |= _uuids_of(words)
    return frozenset(found)


def without(config: str, uuids: Collection[str]) -> str:
    """``config`` without the ARRAY lines, with what continues them, that name
    one of these arrays (canonical UUIDs); every other byte stays."""
    dropped: Set[int] = set()
    for numbers, words in _logical_lines(config):
        if _uuids_of(words) & set(uuids):
            dropped.update(numbers)
    lines = config.split("\n")
    return "\n".join(line for at, line in enumerate(lines) if at not in dropped)


def elsewhere(paths: Paths) -> Dict[str, Tuple[str, ...]]:
    """The files of mdadm's, except ours, that name an array, by its UUID."""
    found: Dict[str, List[str]] = {}
    for name in _foreign_files(paths):
        for uuid in named(files.read_text(name) or ""):
            found.setdefault(uuid, []).append(name)
    return {uuid: tuple(names) for uuid, names in found.items()}


def write(paths: Paths, uuids: Mapping[str, str]) -> bool:
    """Make the drop-in, and no other file, name these arrays (UUID by set);
    True when anything changed.

    Without an array to name there is no file.  Raises :class:`KrakenError`
    ``cannot-write`` or ``cannot-read``.
    """
    # Theirs first: a run that is cut off here leaves an array without a line,
    # which is found by its superblocks, and none with two.
    changed = _take_out(paths, [canonical_uuid(uuid) for uuid in uuids.values()])
    path = location(paths)
    for stale in {_drop_in(main) for main in _main_files(paths)} - {path}:
        changed = files.remove(stale) or changed
    content = text(uuids)
    if not content:
        return files.remove(path) or changed
    files.make_directories(os.path.dirname(path))
    return files.write_atomic(path, files.encode(content)) or changed


def _take_out(paths: Paths, uuids: Collection[str]) -> bool:
    changed = False
    for name in _foreign_files(paths) if uuids else ():
        before = files.read_text(name) or ""
        after = without(before, uuids)
        if after != before:
            changed = files.write_atomic(name, files.encode(after)) or changed
    return changed


def _foreign_files(paths: Paths) -> Iterator[str]:
    """Every file that mdadm may read, except ours."""
    for main in _main_files(paths):
        names = [main]
        directory = main + ".d"
        if os.path.isdir(directory):
            names += [
                os.path.join(directory, name)
                for name in sorted(os.listdir(directory))
                if name.endswith(".conf") and not name.startswith(".")
            ]
        for name in names:
            if os.path.basename(name) != DROP_IN and os.path.isfile(name):
                yield name


def _main_files(paths: Paths) -> Tuple[str, str]:
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


def _logical_lines(config: str) -> Iterator[Tuple[List[int], List[str]]]:
    """Words of each line, and the numbers of the lines that they stand on; a
    line that begins with a blank continues one."""
    words: List[str] = []
    numbers: List[int] = []
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


def _uuids_of(words: Sequence[str]) -> Set[str]:
    """The arrays that the words of one line name, if it is an ARRAY line."""
    keyword = words[0].lower()
    if len(keyword) < _KEYWORD_MIN or not _KEYWORD.startswith(keyword):
        return set()
    found = {
        _canonical(word[len("uuid=") :])
        for word in words[1:]
        if word.lower().startswith("uuid=")
    }
    return found - {""}


def _words(line: str) -> List[str]:
    words = re.findall(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""", line.rstrip("\r"))
    for index, word in enumerate(words):
        if word.startswith("#"):
            words = words[:index]
            break
    return [re.sub("[\"']", "", word) for word in words]


def _canonical(uuid: str) -> str:
    # mdadm lets these separate the digits anywhere.
    try:
        return canonical_uuid(re.sub("[:. -]", "", uuid))
    except ValueError:
        return ""


def _plain(name: str) -> str:
    """A set's name for a comment: a newline in it must not begin a line."""
    graphic = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
    return quote(name, safe=graphic, errors="surrogateescape")


def current(paths: Paths) -> Dict[str, str]:
    """The arrays that our drop-in names now, canonical UUID by set."""
    found: Dict[str, str] = {}
    name = ""
    for line in (files.read_text(location(paths)) or "").split("\n"):
        if line.startswith("# "):
            name = unquote(line[2:], errors="surrogateescape")
        for uuid in named(line):
            found[name] = uuid
    return found


def add(paths: Paths, set_name: str, uuid: str) -> bool:
    """Name the array of one set, under no other name, and in no other file;
    True when anything changed."""
    others = {
        name: other
        for name, other in current(paths).items()
        if other != canonical_uuid(uuid)
    }
    return write(paths, {**others, set_name: uuid})


def drop(paths: Paths, set_name: str) -> bool:
    """Name the array of this set no longer; True when the drop-in changed."""
    left = current(paths)
    return left.pop(set_name, None) is not None and write(paths, left)
