"""ARRAY lines for mdadm, in a drop-in file of ours.

A line makes an array local to this machine and exempts it from an ``AUTO``
line that switches assembly off.  It carries the UUID only: no device name,
no members, no hostname.  Two lines for one array make mdadm refuse it
("multiple lines in mdadm.conf match"), so an array that somebody else's line
names gets none.  Sources: mdadm.conf(5), mdadm's config.c (4.2 to 4.6).
"""

from __future__ import annotations

import os
import re
from typing import Dict, FrozenSet, Iterator, List, Mapping, Set, Tuple
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
    for words in _logical_lines(config):
        keyword = words[0].lower()
        if len(keyword) < _KEYWORD_MIN or not _KEYWORD.startswith(keyword):
            continue
        for word in words[1:]:
            if word.lower().startswith("uuid="):
                found.add(_canonical(word[len("uuid=") :]))
    return frozenset(found - {""})


def named_elsewhere(paths: Paths) -> FrozenSet[str]:
    """The array UUIDs in every file of mdadm's except ours."""
    found: Set[str] = set()
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
                found |= named(files.read_text(name) or "")
    return frozenset(found)


def write(paths: Paths, uuids: Mapping[str, str]) -> bool:
    """Make the drop-in name these arrays (UUID by set); True when it changed.

    Without an array to name there is no file.  Raises :class:`KrakenError`
    ``cannot-write`` or ``cannot-read``.
    """
    others = named_elsewhere(paths)
    mine = {
        name: uuid for name, uuid in uuids.items() if canonical_uuid(uuid) not in others
    }
    path = location(paths)
    changed = False
    for stale in {_drop_in(main) for main in _main_files(paths)} - {path}:
        changed = files.remove(stale) or changed
    content = text(mine)
    if not content:
        return files.remove(path) or changed
    files.make_directories(os.path.dirname(path))
    return files.write_atomic(path, files.encode(content)) or changed


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


def _logical_lines(config: str) -> Iterator[List[str]]:
    """Words of each line; a line that begins with a blank continues one."""
    words: List[str] = []
    for line in config.split("\n"):
        found = _words(line)
        if not found:
            continue
        if line[0] in " \t" and words:
            words += found
            continue
        if words:
            yield words
        words = found
    if words:
        yield words


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


def every(paths: Paths) -> FrozenSet[str]:
    """The array UUIDs that mdadm's configuration names, ours included."""
    return frozenset(current(paths).values()) | named_elsewhere(paths)


def add(paths: Paths, set_name: str, uuid: str) -> bool:
    """Name the array of one set; True when the drop-in changed."""
    return write(paths, {**current(paths), set_name: uuid})


def drop(paths: Paths, set_name: str) -> bool:
    """Name the array of this set no longer; True when the drop-in changed."""
    left = current(paths)
    return left.pop(set_name, None) is not None and write(paths, left)
