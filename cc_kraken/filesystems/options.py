"""Options of mkfs from a tag or the configuration, held against an allow-list.

Left out of each list on purpose: what forces (-f, -F), what makes nothing (-n, -N,
-S), what reads or writes another file or device (-d file/name, -l logdev, -J device,
-p, -c, -r, -z), what changes the identity (-U, -L, -m uuid), the size, or the places
of structures beyond what test_record_place.py proves (agcount, agsize, agnum, -g, -G,
-C, bigalloc, ^metadata_csum, packed_meta_blocks, -A, -b of btrfs; stripes of xfs that
are no power of two: the headers of its allocation groups come near the record), and
what contradicts our own choices (discard, lazy_*_init).  ``check_room`` of a type is
the rest of it.
"""

from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional, Sequence, Union

from cc_kraken.model import KrakenError, Trouble

Rule = Union[str, Mapping[str, Optional[str]]]
"""Of one option: the pattern of its value, which is given once; or the patterns by
name of the items in its list (None: an item without a value)."""

Given = Dict[str, List[str]]
"""Option letter: what was given for it, in order ("size=4096", "reflink=0")."""

BOOL = "[01]"
BYTES = r"[1-9][0-9]{0,9}[kKmM]?"
COUNT = "[1-9][0-9]{0,9}"


def names(words: str, both: bool = True) -> Rule:
    """A list of feature names, each with ``^`` before it where ``both``."""
    table: Dict[str, Optional[str]] = {}
    for word in words.split():
        table[word] = None
        if both:
            table[f"^{word}"] = None
    return table


def parse(
    kind: str,
    allowed: Mapping[str, Rule],
    long: Mapping[str, str],
    options: Sequence[str],
) -> Given:
    """``options`` by letter, every value checked.

    An option and its value are two items (``-m``, ``reflink=0``), or one with
    ``=`` for an option with two dashes.  Raises KrakenError ``mkfs-option-refused``.
    """
    given: Given = {}
    words = list(options)
    while words:
        word = words.pop(0)
        head, equals, value = word.partition("=")
        letter = long.get(head, head)
        joined = bool(equals) and head.startswith("--")
        if letter not in allowed or (equals and not joined):
            raise refused(kind, word, f"one of {', '.join(sorted(allowed))}")
        if not joined:
            if not words:
                raise refused(kind, word, "a value after it")
            value = words.pop(0)
        _take(kind, letter, value, allowed[letter], given)
    return given


def _take(kind: str, letter: str, value: str, rule: Rule, given: Given) -> None:
    items = given.setdefault(letter, [])
    if isinstance(rule, str):
        if items:
            raise refused(kind, f"{letter} {value}", f"{letter} once")
        if not re.fullmatch(rule, value):
            raise refused(kind, f"{letter} {value}", f"a value like {rule}")
        items.append(value)
        return
    for item in value.split(","):
        name, equals, content = item.partition("=")
        shown = f"{letter} {item}"
        if name not in rule:
            raise refused(kind, shown, f"one of {', '.join(sorted(rule))}")
        if any(other.partition("=")[0] == name for other in items):
            raise refused(kind, shown, f"{name} once")
        pattern = rule[name]
        if pattern is None and equals:
            raise refused(kind, shown, f"{name} without a value")
        if pattern is not None and not (equals and re.fullmatch(pattern, content)):
            raise refused(kind, shown, f"a value like {pattern}")
        items.append(item)


def flat(given: Given) -> List[str]:
    """Each option once: mke2fs and mkfs.btrfs heed only the last one."""
    words: List[str] = []
    for letter in sorted(given):
        words += [letter, ",".join(given[letter])]
    return words


def refused(kind: str, found: str, expected: str) -> KrakenError:
    return KrakenError(
        Trouble(
            kind="mkfs-option-refused",
            found=f"the mkfs option {found!r} is not allowed for {kind}",
            expected=expected,
            remedy="Correct mkfs_options (tag MkfsOptions): what forces, names "
            "another device, or changes UUID, label or places is refused.",
        )
    )
