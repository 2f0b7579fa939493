"""Directories of tests in memory: a run waits for the disk at each file that it writes,
and a loop device at each flush."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm"
ROOM = 1 << 30
"""Bytes: volumes are sparse, and what a test writes is a third of that."""


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """In the place of pytest's own.  It is removed at the end of the test."""
    here = os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > ROOM
    if request.node.get_closest_marker("on_disk"):
        here = False
    made = tempfile.mkdtemp(prefix="cc-kraken-", dir=MEMORY if here else None)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)
