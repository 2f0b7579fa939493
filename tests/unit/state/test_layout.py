"""The layout: when it is kept, when it counts, and that it never harms."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.model import Identity, Section
from cc_kraken.state import layout
from tests.unit.tree import GIB, Tree

VOLUME = "vol-00000000000000001"
ME = Identity("i-00000000000000001", "us-east-1", "us-east-1a", {"a": "b"})
SECTION = Section(digest="1")


def entry(**changes: object) -> dict[str, object]:
    return {
        "state": "mounted",
        "required": True,
        "reason": None,
        "error": None,
        "volumes": [
            {"id": VOLUME, "device": "/dev/nvme1n1", "size": GIB, "state": "in-use"}
        ],
        "array": None,
        "filesystem": {"type": "ext4", "uuid": "u", "label": ""},
        "mount_path": "/data",
        "plan": [],
        "outcomes": [],
        **changes,
    }


def status(**sets: dict[str, object]) -> dict[str, object]:
    return {"node": {"prefix": "kafka", "node_id": "0"}, "sets": sets}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.disk(1, VOLUME.replace("-", ""))
    made.mount("/data", made.number("nvme1n1"), "ext4", "/dev/nvme1n1")
    return made


def test_what_is_saved_is_found_again(tree: Tree) -> None:
    assert layout.save(tree.paths, SECTION, ME, status(data=entry()))
    saved = layout.load(tree.paths)
    assert saved is not None
    assert layout.matches(saved, SECTION, ME)
    assert layout.mounted(tree.paths, saved) and layout.present(tree.paths, saved)
    # Nothing has changed: nothing is written.
    assert not layout.save(tree.paths, SECTION, ME, status(data=entry()))


@pytest.mark.parametrize(
    ("paths", "moved"),
    [([], False), (["/data"], False), (["/new"], True), (["/new", "/data"], False)],
)
def test_a_set_that_is_mounted_elsewhere_has_moved(
    tree: Tree, paths: list[str], moved: bool
) -> None:
    layout.save(tree.paths, SECTION, ME, status(data=entry()))
    saved = layout.load(tree.paths)
    assert saved is not None
    lines = ["20 1 254:1 / / rw - ext4 /dev/vda1 rw"]
    for number, path in enumerate(paths, 21):
        disk = f"{tree.number('nvme1n1')} / {path} rw - ext4 /dev/nvme1n1 rw"
        lines.append(f"{number} 20 {disk}")
    (tree.base / "proc/self/mountinfo").write_text("\n".join([*lines, ""]))
    assert layout.moved(tree.paths, saved) is moved


@pytest.mark.parametrize(
    "change",
    [
        {"instance_id": "i-00000000000000002"},
        {"tags": {"a": "c"}},
        {"tags": None},
    ],
)
def test_another_instance_or_other_tags(tree: Tree, change: dict[str, Any]) -> None:
    layout.save(tree.paths, SECTION, ME, status(data=entry()))
    saved = layout.load(tree.paths)
    assert saved is not None
    assert not layout.matches(saved, SECTION, dataclasses.replace(ME, **change))
    assert not layout.matches(saved, Section(digest="2"), ME)


@pytest.mark.parametrize(
    "other",
    [
        entry(state="pending", reason="waits"),
        entry(state="failed", error={"message": "no"}),
        entry(state="attached"),
        entry(reason="the owner is pending"),
        entry(plan=["grow the ext4 at /data from 1 GiB to 2 GiB"]),
        entry(outcomes=["the array grows when its resync is over"]),
    ],
)
def test_a_set_that_is_not_up_removes_the_layout(
    tree: Tree, other: dict[str, object]
) -> None:
    layout.save(tree.paths, SECTION, ME, status(data=entry()))
    layout.save(tree.paths, SECTION, ME, status(data=entry(), other=other))
    assert not os.path.exists(tree.paths.layout)


def test_a_volume_that_was_enlarged_ends_the_fast_way(tree: Tree) -> None:
    layout.save(tree.paths, SECTION, ME, status(data=entry()))
    saved = layout.load(tree.paths)
    assert saved is not None
    assert not layout.enlarged(tree.paths, saved)
    size = tree.base / "sys/block/nvme1n1/size"
    size.write_text(f"{2 * GIB // 512}\n")
    assert layout.enlarged(tree.paths, saved)
    assert layout.mounted(tree.paths, saved)


def test_other_volumes_behind_the_path(tree: Tree) -> None:
    layout.save(tree.paths, SECTION, ME, status(data=entry()))
    saved = layout.load(tree.paths)
    assert saved is not None
    serial = tree.base / "sys/block/nvme1n1/device/serial"
    serial.write_text("vol00000000000000002\n")
    assert not layout.mounted(tree.paths, saved)
    assert not layout.present(tree.paths, saved)


def test_a_copy_in_the_array_behind_the_path_ends_the_fast_way(
    tmp_path: Path,
) -> None:
    """udev took the copy for the member, and fstab mounted the array by UUID."""
    tree = Tree(tmp_path)
    ids = [f"vol-{number:017x}" for number in (1, 2, 3)]
    for number, one in enumerate(ids, 1):
        tree.disk(number, one.replace("-", ""))
    array = tree.array("md127", ["nvme1n1", "nvme2n1"])
    tree.mount("/data", tree.number("md127"), "ext4", "/dev/md127")
    both = entry(volumes=[{"id": one, "size": GIB} for one in ids[:2]])
    layout.save(tree.paths, SECTION, ME, status(data=both))
    saved = layout.load(tree.paths)
    assert saved is not None and layout.mounted(tree.paths, saved)
    for below in ("slaves/nvme2n1", "md/dev-nvme2n1"):
        (array / below).rename(array / below.replace("nvme2", "nvme3"))
    assert layout.present(tree.paths, saved)
    assert not layout.mounted(tree.paths, saved)


WHOLE = {
    "version": 1,
    "instance_id": ME.instance_id,
    "digest": layout.digest(SECTION, ME),
    "node": {"prefix": "kafka", "node_id": "0"},
    "sets": {
        "data": {
            "mount_path": "/data",
            "volumes": [VOLUME],
            "sizes": {VOLUME: GIB},
            "required": True,
            "filesystem": None,
            "array": None,
        }
    },
}


def test_the_whole_one_counts(tree: Tree) -> None:
    tree.write("state/layout.json", json.dumps(WHOLE))
    assert layout.load(tree.paths) == WHOLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        json.dumps({**WHOLE, "version": 2}),
        json.dumps({**WHOLE, "node": None}),
        json.dumps({**WHOLE, "node": {}}),
        json.dumps({**WHOLE, "sets": []}),
        json.dumps({**WHOLE, "sets": {"data": None}}),
        json.dumps({**WHOLE, "sets": {"data": {**WHOLE["sets"]["data"], "sizes": 1}}}),  # type: ignore[index]
        json.dumps({**WHOLE, "sets": {"data": {"mount_path": "/data"}}}),
        json.dumps(
            {**WHOLE, "sets": {"data": {**WHOLE["sets"]["data"], "mount_path": 1}}}  # type: ignore[index]
        ),
        json.dumps({**WHOLE, "sets": {"data": {**WHOLE["sets"]["data"], "array": 1}}}),  # type: ignore[index]
        json.dumps(
            {**WHOLE, "sets": {"data": {**WHOLE["sets"]["data"], "array": {}}}}  # type: ignore[index]
        ),
    ],
)
def test_a_damaged_layout_is_none(tree: Tree, text: str) -> None:
    tree.write("state/layout.json", text)
    assert layout.load(tree.paths) is None
