"""What the kernel says in its small files (sysfs(5), proc(5)).

Read with three system calls where a file object of Python takes nine: at each
of them another thread may take Python's lock, and threads that look at two
dozen disks side by side do little else.
"""

from __future__ import annotations

import os
from typing import Dict, List, Optional

#: Bytes; an attribute of sysfs has no more.
PAGE = 4096


def read(path: str) -> bytes:
    """The whole of a file.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, 16 * PAGE)]
        while parts[-1]:
            parts.append(os.read(descriptor, 16 * PAGE))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def attribute(*path: str) -> Optional[str]:
    """The text of an attribute without the space around it; None where there
    is none, or it cannot be read."""
    try:
        descriptor = os.open("/".join(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, PAGE)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    return data.decode("utf-8", "replace").strip(" \t\r\n\0")


def entries(directory: str) -> Dict[str, int]:
    """What is in a directory, by name, sorted: the number of its inode, which no
    entry of sysfs has had before (fs/kernfs/dir.c).  Nothing where there is none."""
    try:
        with os.scandir(directory) as found:
            return dict(sorted((entry.name, entry.inode()) for entry in found))
    except OSError:
        return {}


def names(directory: str) -> List[str]:
    """What is in a directory, sorted; nothing where there is none."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
