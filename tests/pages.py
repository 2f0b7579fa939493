"""The commands of a page, as a reader would copy them.

A block of ``sh`` belongs to the place that the last bold line before it names:
``**On your machine**`` or ``**On the node**``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MACHINE, NODE = "your machine", "the node"
MARK = re.compile(r"^\*\*On (your machine|the node|the new node|every node)\*\*")


@dataclass(frozen=True)
class Block:
    """Commands to copy; ``line``: of the page, for messages."""

    page: str
    line: int
    place: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, heading: str = "") -> list[Block]:
    """The blocks of a page, or of one part of it, in order."""
    found: list[Block] = []
    place, fence, inside = "", None, not heading
    body: list[str] = []
    text = (ROOT / page).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None:
            if line.startswith("## ") and heading:
                inside = line == f"## {heading}"
            mark = MARK.match(line)
            if mark:
                place = MACHINE if mark.group(1) == MACHINE else NODE
            opened = re.match(r"^( *)```(\w+)$", line)
            if opened:
                fence, body, begun = opened, [], number
        elif line == f"{fence.group(1)}```":
            if fence.group(2) == "sh" and inside:
                indent = len(fence.group(1))
                code = "\n".join(one[indent:] for one in body) + "\n"
                found.append(Block(page, begun, place, code))
            fence = None
        else:
            body.append(line)
    return found


def commands(text: str) -> list[str]:
    """The commands of a block: lines, with those that continue them."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if found and _goes_on(found[-1]):
            found[-1] += line
        else:
            found.append(line)
    return found


def _goes_on(command: str) -> bool:
    """Whether the next line belongs to it, too."""
    document = re.search(r"<<'?(\w+)'?", command)
    if document:
        return not re.search(rf"^{document.group(1)}$", command, re.M)
    if command.endswith(("\\\n", "&&\n")):
        return True
    bare = re.sub(r"\\.", "", command)
    if bare.count("'") % 2 or bare.count('"') % 2:
        return True
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\$\{[^}]*\}", "", bare)
    opened = len(re.findall(r"\b(?:do|then)\b|\{$|\{ *\n", words))
    closed = len(re.findall(r"\b(?:done|fi)\b|^\}|\n\}", words))
    return opened > closed
