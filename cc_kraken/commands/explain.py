"""The entries of docs/operations.md, for a machine without the page.

The page is the one home of what an error means; it is installed with the package.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Sequence

from cc_kraken.machine import schema_files
from cc_kraken.model import failure


def text(kinds: Sequence[str]) -> str:
    """The entries of these kinds; KrakenError ``kind-unknown``."""
    entries = _entries()
    texts = []
    for kind in (one.strip("[]").lower() for one in kinds):
        if kind not in entries:
            near = difflib.get_close_matches(kind, entries, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise failure(
                "kind-unknown",
                f"There is no error {kind}.",
                "It must be the word in brackets before an error.",
                f"{meant}All are listed by: cc-kraken explain.",
            )
        texts.append(f"{kind}\n\n{entries[kind]}")
    return "\n\n".join(texts)


def listed() -> str:
    """All kinds, each with what one sees."""
    lines = []
    for kind, entry in _entries().items():
        seen = re.search(r'See: +("[^"]*")', " ".join(entry.split()))
        lines.append(f"{kind}: {seen.group(1)}" if seen else kind)
    return "\n".join(lines)


def _entries() -> dict[str, str]:
    with open(schema_files.path(schema_files.OPERATIONS), encoding="utf-8") as file:
        page = file.read().partition("\n## Errors\n")[2]
    found = re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", page, re.M | re.S)
    return {kind: _plain(entry).strip() for kind, entry in found}


def _plain(entry: str) -> str:
    """Markdown as a terminal shows it."""
    entry = re.sub(r"\s*\*\*(See|Why|Do)\*\*", r"\n\1:", entry)
    entry = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", entry)
    # Emphasis goes; "NodeId=*" and what is escaped stay.
    entry = re.sub(r"(?<![\w=*\\`])\*{1,2}(\w[^*`]*?)\*{1,2}(?!\w)", r"\1", entry)
    entry = entry.replace("**", "").replace("\\*", "*")
    parts = re.split(r"\n(?=\n|See:|Why:|Do:)", entry)
    return "\n".join(map(_wrapped, parts))


def _wrapped(part: str) -> str:
    """A paragraph anew in lines; lists, tables and commands as they are."""
    if re.search(r"^ *([-|]|```)", part, re.M):
        return part
    text = textwrap.fill(
        part.strip(), 79, break_on_hyphens=False, break_long_words=False
    )
    return f"\n{text}" if part.startswith("\n") else text
