"""What holds for a set as a whole, and for one that is gone."""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide import decision
from cc_kraken.decide.plan import ATTACHED, PENDING
from cc_kraken.machine import fstab
from cc_kraken.model import Mount, Mounted, Trouble
from tests.unit import worlds as w
from tests.unit.decide.cases import FS, blanks, decide, names, raid_claim, raid_world


def test_without_fs_type_a_volume_is_attached_and_left_alone() -> None:
    plan = decide(w.claim(w.single(fs_type=None), w.attached(1)), w.world(1))
    assert (plan.steps, plan.state) == ((), ATTACHED)


def test_a_mount_of_somebody_else_leaves_a_set_without_fs_type_attached() -> None:
    world = w.world(1, mounts=(w.mounted("/theirs", "ext4", 1),))
    plan = decide(w.claim(w.single(fs_type=None), w.attached(1)), world)
    assert (plan.steps, plan.state) == ((), ATTACHED)


def test_the_line_of_a_set_that_is_gone_is_taken_out_unless_mounted() -> None:
    line = fstab.entry("old", FS, "/old", "ext4")
    world = w.world(fstab={"old": line})
    (plan,) = decision.decide(w.NODE, (), world)
    assert names(plan.steps) == ["RemoveFstab"]
    up = dataclasses.replace(world, mounts=(w.mounted("/old", "ext4", 4),))
    (plan,) = decision.decide(w.NODE, (), up)
    assert plan.steps == () and "still mounted" in plan.warnings[0]


@pytest.mark.parametrize(
    ("mounts", "steps"),
    [
        ((), ["RemoveFstab"]),
        ((("/krkn_log", 1),), []),
        # Hidden, and mounted all the same.
        ((("/krkn_log", 1), ("/krkn_log", 0)), []),
        # Somebody else's: nobody is told to unmount that.
        ((("/krkn_log", 0),), ["RemoveFstab"]),
        ((("/krkn_log", 2),), ["RemoveFstab"]),
    ],
)
def test_a_set_that_is_not_to_be_mounted_keeps_its_line_while_it_is(
    mounts: tuple[tuple[str, int], ...], steps: list[str]
) -> None:
    line = fstab.entry("log", FS, "/krkn_log", "ext4")
    world = w.world(1, fstab={"log": line}, mounts=w.stacked(*mounts))
    wanted = w.single(fs_type=None, mount_path=None)
    plan = decide(w.claim(wanted, w.attached(1)), world)
    assert names(plan.steps) == steps
    assert any("umount /krkn_log" in note for note in plan.notes) == (not steps)


def test_the_trouble_of_a_claim_ends_its_plan() -> None:
    late = Trouble("members-missing", "2 of 3", "3", "Tag it.", waits=True)
    claim = dataclasses.replace(raid_claim(w.raid()), trouble=late)
    plan = decide(claim, raid_world(blanks()))
    assert (plan.steps, plan.state, plan.trouble) == ((), PENDING, late)


def test_a_plan_to_attach_tells_what_is_mounted_at_the_path() -> None:
    """Else the run attaches the volume, and refuses the set after that."""
    claim = w.claim(w.single(), w.volume(1))
    path = claim.wanted.mount_path
    assert path is not None
    other = Mounted(Mount(path, "0:50", "tmpfs", "tmpfs"), None)
    plan = decide(claim, w.world(mounts=(other,)))
    assert names(plan.steps) == ["Attach"]
    said = f"it cannot be mounted: tmpfs (tmpfs) is mounted at {path} now"
    assert plan.outcomes[-1] == said
    assert decide(claim, w.world()).outcomes[-1] == f"then it is mounted at {path}"
