"""What the kernel says in its small files (sysfs(5), proc(5))."""

from __future__ import annotations

import os
import re
from typing import Optional

from cc_kraken.machine.paths import Paths


def read(path: str) -> bytes:
    """The whole of a file.  Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def attribute(*path: str) -> Optional[str]:
    """The text of an attribute without the space around it; None where there
    is none, or it cannot be read."""
    try:
        data = read(os.path.join(*path))
    except (OSError, ValueError):
        return None
    return data.decode("utf-8", "replace").strip(" \t\r\n\0")


def names(directory: str) -> list[str]:
    """What is in a directory, sorted; nothing where there is none."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def disk(paths: Paths, *path: str) -> Optional[str]:
    """An attribute of a whole disk or array, as :func:`attribute` has it."""
    return attribute(paths.sys, "block", *path)


def count(paths: Paths, *path: str) -> int:
    """The number that such an attribute begins with; 0 where there is none."""
    found = re.match(r"\d+", disk(paths, *path) or "")
    return int(found.group()) if found else 0


def number(paths: Paths, name: str) -> Optional[str]:
    """The number of the disk, array or partition with this kernel name."""
    return attribute(paths.sys, "class", "block", name, "dev")
