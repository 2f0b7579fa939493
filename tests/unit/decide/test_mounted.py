"""Is a set that is mounted where it belongs?"""

from __future__ import annotations

import dataclasses
from typing import Optional

import pytest

from cc_kraken.decide.plan import FAILED, MOUNTED
from cc_kraken.machine import fstab
from cc_kraken.model import Known, PathState
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    GOAT_FS,
    LOG,
    OLD,
    decide,
    kind,
    line_step,
    names,
    up,
)


def test_nothing_is_left_to_do_when_mounted_with_its_fstab_line() -> None:
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    world = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
        fstab={"log": line},
    )
    plan = decide(LOG, world)
    assert (plan.steps, plan.state, plan.trouble) == ((), MOUNTED, None)


def test_a_changed_path_moves_at_the_next_reboot() -> None:
    world = w.world(
        1,
        looks={1: w.look(Known("ext4", FS))},
        mounts=(w.mounted("/old", "ext4", 1),),
        former={w.volume_id(1): frozenset({"/old"})},
    )
    plan = decide(LOG, world)
    assert names(plan.steps) == ["WriteFstab"]
    assert "next reboot" in plan.warnings[0]
    assert (plan.state, plan.mount_path) == (MOUNTED, "/old")
    assert plan.outcomes == ("it is mounted at /krkn_log at the next reboot",)


HERE = ("/krkn_log", 1)


UP: dict[str, tuple[list[tuple[str, int]], set[str], Optional[str]]] = {
    # What is mounted, by whose disk (0: somebody's), in the order of the mounts;
    # where the set has been before; what becomes of it.
    "at its path": ([HERE], set(), None),
    "at its path, upon another mount": ([("/krkn_log", 0), HERE], set(), None),
    "at its path and elsewhere": ([HERE, ("/bind", 1)], set(), None),
    "covered": ([HERE, ("/krkn_log", 0)], set(), "mount-hidden"),
    "covered, and elsewhere": ([HERE, OLD, ("/krkn_log", 0)], {"/old"},
                               "mount-hidden"),
    "covered by another set": ([HERE, ("/krkn_log", 2)], set(), "mount-hidden"),
    "below another mount": ([HERE, ("/", 0)], set(), "mount-hidden"),
    "where it was": ([OLD], {"/old"}, None),
    "where it was, and covered": ([OLD, ("/old", 0)], {"/old"}, "mount-hidden"),
    "where it was, and another set is to be": ([("/two", 1)], {"/two"},
                                               "mounted-elsewhere"),
    "at the path of another set": ([("/two", 1)], set(), "mounted-elsewhere"),
    "where nobody wants it": ([OLD], set(), "mounted-elsewhere"),
    "where it was never": ([OLD], {"/older"}, "mounted-elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("evidence", [w.volume_id(1), f"UUID={FS}"])
@pytest.mark.parametrize("name", UP)
def test_a_mounted_set_is_up_where_one_sees_it(name: str, evidence: str) -> None:
    mounts, former, expected = UP[name]
    world = w.world(
        *(1, 2),
        looks={n: w.look(Known("ext4", FS if n == 1 else w.ARRAY)) for n in (1, 2)},
        mounts=w.stacked(*mounts),
        former={evidence: frozenset(former)},
        fstab={"log": fstab.entry("log", FS, "/krkn_log", "ext4")},
    )
    two = w.claim(w.single(name="two", mount_path="/two"), w.attached(2))
    plan = decide(LOG, world, two)
    assert kind(plan) == expected
    assert plan.state == (FAILED if expected else MOUNTED)
    assert plan.steps == ()  # its line in fstab is right
    if plan.trouble is not None:
        place = mounts[0][0]
        assert place in plan.trouble.found and "umount" in plan.trouble.remedy


def test_no_line_for_a_path_below_which_another_set_is_mounted() -> None:
    """systemd would mount it over that one for whoever asks for the path."""
    child = w.claim(w.single(name="wal", mount_path="/krkn_log/wal"), w.attached(2))
    world = w.world(
        *(1, 2),
        looks={1: w.look(Known("ext4", FS)), 2: w.look(Known("ext4", w.ARRAY))},
        mounts=w.stacked(OLD, ("/krkn_log/wal", 2)),
        former={w.volume_id(1): frozenset({"/old"})},
    )
    plan = decide(LOG, world, child)
    assert (plan.state, plan.steps) == (MOUNTED, ())
    assert any("/krkn_log/wal" in text for text in plan.warnings)


def test_the_table_of_a_mounted_partition_is_no_line_for_fstab() -> None:
    world = w.world(
        1,
        looks={1: w.look(Known("gpt", FS))},
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
    )
    plan = decide(LOG, world)
    assert (plan.steps, plan.state) == ((), MOUNTED)


def test_changed_mount_options_are_written_and_told_once() -> None:
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    world = w.world(1, looks={1: w.look(GOAT_FS)}, fstab={"log": line})
    world = dataclasses.replace(world, **up("/krkn_log"))
    claim = w.claim(w.single(mount_options=("noatime",)), w.attached(1))
    plan = decide(claim, world)
    assert names(plan.steps) == ["WriteFstab"]
    assert any("remount /krkn_log" in text for text in plan.warnings)
    after = dataclasses.replace(world, fstab={"log": line_step(plan).line})
    plan = decide(claim, after)
    assert (plan.steps, plan.warnings) == ((), ())


@pytest.mark.parametrize("found", ["symlink", "other", "unreadable"])
def test_a_set_does_not_move_to_what_is_no_directory(found: str) -> None:
    world = w.world(
        1,
        looks={1: w.look(GOAT_FS)},
        paths={"/krkn_log": PathState(found)},
        former={w.volume_id(1): frozenset({"/old"})},
        **up("/old"),
    )
    plan = decide(LOG, world)
    assert (plan.state, plan.steps, plan.trouble) == (MOUNTED, (), None)
    assert len(plan.warnings) == 2


def test_a_set_that_moves_will_hide_files() -> None:
    paths = {"/krkn_log": w.directory("precious")}
    former = {w.volume_id(1): frozenset({"/old"})}
    looks = {1: w.look(GOAT_FS)}
    world = w.world(1, looks=looks, paths=paths, former=former, **up("/old"))
    plan = decide(LOG, world)
    assert names(plan.steps) == ["WriteFstab"]
    assert any("precious" in text for text in plan.warnings)
