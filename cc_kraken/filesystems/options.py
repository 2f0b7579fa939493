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
from collections.abc import Mapping, Sequence

from cc_kraken.model import KrakenError, failure

Given = dict[str, list[str]]
"""Option letter: what was given for it, in order ("size=4096", "reflink=0")."""

BOOL = "[01]"
BYTES = r"[1-9][0-9]{0,9}[kKmM]?"
COUNT = "[1-9][0-9]{0,9}"


def either(names: str) -> str:
    """Each of these names, and each with ``^`` before it."""
    return " ".join(f"{name} ^{name}" for name in names.split())


def parse(
    kind: str,
    allowed: Mapping[str, str],
    long: Mapping[str, str],
    options: Sequence[str],
) -> Given:
    """``options`` by letter, every value checked.

    ``allowed``: for each letter the items of its list, as words: ``name`` or
    ``name=pattern``.  One word ``=pattern`` is an option with a plain value, once.
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
        _take(kind, letter, value, allowed[letter], given.setdefault(letter, []))
    return given


def _take(kind: str, letter: str, value: str, rule: str, items: list[str]) -> None:
    if rule.startswith("="):
        if items:
            raise refused(kind, f"{letter} {value}", f"{letter} once")
        if not re.fullmatch(rule[1:], value):
            raise refused(kind, f"{letter} {value}", f"a value like {rule[1:]}")
        items.append(value)
        return
    rules = dict(word.partition("=")[::2] for word in rule.split())
    for item in value.split(","):
        name, equals, content = item.partition("=")
        shown = f"{letter} {item}"
        if name not in rules:
            raise refused(kind, shown, f"one of {', '.join(sorted(rules))}")
        if any(other.partition("=")[0] == name for other in items):
            raise refused(kind, shown, f"{name} once")
        pattern = rules[name]
        if not pattern and equals:
            raise refused(kind, shown, f"{name} without a value")
        if pattern and not (equals and re.fullmatch(pattern, content)):
            raise refused(kind, shown, f"a value like {pattern}")
        items.append(item)


def flat(given: Given) -> list[str]:
    """Each option once: mke2fs and mkfs.btrfs heed only the last one."""
    words: list[str] = []
    for letter in sorted(given):
        words += [letter, ",".join(given[letter])]
    return words


def refused(kind: str, found: str, expected: str) -> KrakenError:
    return failure(
        kind="mkfs-option-refused",
        found=f"The mkfs option {found!r} is not allowed for {kind}.",
        expected=f"Allowed is {expected}.",
        remedy="Correct mkfs_options (the tag MkfsOptions). What forces, names another "
        "device, or changes UUID, label or places is refused.",
    )
