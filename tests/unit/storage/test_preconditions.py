"""Guards that need no device: what an array is when a step begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from cc_kraken.machine import md
from cc_kraken.model import KrakenError
from cc_kraken.storage import preconditions
from tests.unit.tree import Tree

UUID = "4a739fd5-5f39-2dd6-1b19-8f885cd3f50b"


def test_a_mounted_array_takes_a_member_and_nothing_else(tmp_path: Path) -> None:
    """A blank replacement comes while the degraded array is in use."""
    tree = Tree(tmp_path)
    tree.disk(1, "vol00000000000000001")
    tree.array("md127", ["nvme1n1"], level="raid1", raid_disks="2", degraded=1)
    (array,) = md.scan(tree.paths)
    preconditions.check_layer(array, tree.paths)
    tree.mount("/data", tree.number("md127"), "xfs", "/dev/md127")
    preconditions.check_layer(array, tree.paths, used=True)
    with pytest.raises(KrakenError) as caught:
        preconditions.check_layer(array, tree.paths)
    assert caught.value.trouble.kind == "device-in-use"
    assert "/data" in str(caught.value)


def test_an_array_that_is_not_as_it_was_seen_takes_no_member(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.disk(1, "vol00000000000000001")
    tree.array("md127", ["nvme1n1"], level="raid1", raid_disks="2", uuid=UUID)
    (array,) = md.scan(tree.paths)
    (tmp_path / "sys/block/md127/md/array_state").write_text("inactive\n")
    with pytest.raises(KrakenError) as caught:
        preconditions.check_layer(array, tree.paths, used=True)
    assert caught.value.trouble.kind == "array-changed"
