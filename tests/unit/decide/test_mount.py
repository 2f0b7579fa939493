"""May a set be mounted at its path now?"""

from __future__ import annotations

from typing import Optional

import pytest

from cc_kraken.decide.plan import FAILED
from cc_kraken.model import Known, PathState
from tests.unit import worlds as w
from tests.unit.decide.cases import FS, LOG, decide, kind, names, path_plan


def test_a_directory_with_files_is_a_warning_or_a_refusal() -> None:
    full = w.directory("precious")
    known = path_plan(full, known=True)
    assert known.steps and "precious" in known.warnings[0]
    new = path_plan(full, known=False)
    assert (new.steps, kind(new)) == ((), "mount-path-files")
    assert path_plan(full, known=False, over=True).steps


@pytest.mark.parametrize("found", ["symlink", "other"])
def test_a_mount_path_that_is_no_directory(found: str) -> None:
    plan = path_plan(PathState(found), known=False)
    assert (plan.steps, kind(plan)) == ((), "mount-path-kind")


def test_a_path_where_something_else_is_mounted() -> None:
    world = w.world(
        1, looks={1: w.blank()}, mounts=(w.mounted("/krkn_log", "ext4", 5),)
    )
    plan = decide(LOG, world)
    assert (plan.steps, kind(plan)) == ((), "mount-path-busy")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([("/krkn_log/a", 0)], "mounts-below"),
        ([("/krkn_log/a", 2), ("/krkn_log/b/c", 0)], "mounts-below"),
        ([("/krkn_log2", 0), ("/", 0)], None),
        ([("/krkn_log", 0), ("/krkn_log/a", 0)], "mount-path-busy"),
        # Hidden already: what is to be mounted hides nothing.
        ([("/krkn_log/a", 0), ("/", 0)], None),
    ],
)
def test_nothing_is_mounted_over_mounts(
    mounts: list[tuple[str, int]], expected: Optional[str], known: bool
) -> None:
    content = w.look(Known("ext4", FS)) if known else w.blank()
    world = w.world(1, looks={1: content}, mounts=w.stacked(*mounts))
    plan = decide(LOG, world)
    assert kind(plan) == expected
    assert bool(plan.steps) == (expected is None)
    if expected == "mounts-below":
        assert all(path in str(plan.trouble) for path, _ in mounts)


def test_a_set_below_another_one_waits_for_its_mount() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))}
    plan = decide(child, w.world(1, 2, looks=looks), parent)
    assert kind(plan) == "parent-not-mounted"
    # It may wait for nothing at all, and be mounted by this very run.
    assert "wal follows when pg is mounted." in str(plan.trouble)
    there = w.world(1, 2, looks=looks, mounts=(w.mounted("/pg", "ext4", 2),))
    assert names(decide(child, there, parent).steps)[-1] == "MountFilesystem"


def test_a_set_below_one_that_has_failed_fails_at_once() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    for look in (w.blank(), w.look(Known("ext4", FS))):
        world = w.world(1, looks={1: look}, failed=frozenset({"pg"}))
        plan = decide(child, world, parent)
        assert (plan.steps, kind(plan)) == ((), "parent-failed")


def test_a_new_filesystem_below_another_set_is_made_after_its_mount() -> None:
    """What its directory holds can be seen only then."""
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.blank(), 2: w.look(Known("ext4", w.ARRAY))}
    plan = decide(child, w.world(1, 2, looks=looks), parent)
    assert (plan.steps, kind(plan)) == ((), "parent-not-mounted")
    mounts = (w.mounted("/pg", "ext4", 2),)
    paths = {"/pg/wal": w.directory("segment")}
    there = w.world(1, 2, looks=looks, mounts=mounts, paths=paths)
    assert kind(decide(child, there, parent)) == "mount-path-files"


def test_a_set_below_one_that_moves_at_the_next_reboot() -> None:
    parent = w.claim(w.single(name="pg", mount_path="/pg"), w.attached(2))
    child = w.claim(w.single(name="wal", mount_path="/pg/wal"), w.attached(1))
    looks = {1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))}
    world = w.world(1, 2, looks=looks, mounts=(w.mounted("/old", "ext4", 2),))
    plan = decide(child, world, parent)
    assert (kind(plan), plan.state) == ("parent-moves", FAILED)
