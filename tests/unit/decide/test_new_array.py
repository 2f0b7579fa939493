"""An array of blank volumes, and one whose making was cut off."""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide.plan import ATTACHED, FAILED
from cc_kraken.model import Known, Trouble, Unknown
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    NEW_XFS,
    blanks,
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
    records,
    with_look,
)


@pytest.mark.parametrize(("level", "count"), [(0, 3), (1, 2), (5, 3), (6, 4), (10, 4)])
def test_blank_members_become_an_array(level: int, count: int) -> None:
    claim = raid_claim(w.raid(count, level), count)
    plan = decide(claim, raid_world(blanks(count)))
    assert names(plan.steps) == NEW_XFS


def test_half_an_array_with_our_records_goes_back_to_its_beginning() -> None:
    claim = raid_claim(w.raid())
    made = records(claim.wanted, *claim.volumes)
    block = w.member(0, uuid=made[0].array_uuid)
    looks = {
        1: dataclasses.replace(block, record=made[0]),
        2: dataclasses.replace(w.blank(), record=made[1]),
        3: dataclasses.replace(w.blank(), record=made[2]),
    }
    assert names(decide(claim, raid_world(looks)).steps) == ["ZeroSuperblocks"]

    # Not beside anything that the record does not explain.
    for strange in (Unknown("data", 512), Known("ext4", FS)):
        looks[3] = w.look(strange, made[2])
        plan = decide(claim, raid_world(looks))
        assert (plan.steps, kind(plan)) == ((), "record-unusable")
    without = {n: dataclasses.replace(one, record=None) for n, one in looks.items()}
    plan = decide(claim, raid_world(without))
    assert (plan.steps, plan.state) == ((), FAILED)


def test_members_of_different_sizes_are_refused_unless_the_array_exists() -> None:
    """It may have no filesystem yet: one was enlarged between the two."""
    claim = dataclasses.replace(
        raid_claim(w.raid()), trouble=Trouble("sizes-differ", "", "", "")
    )
    plan = decide(claim, raid_world(blanks(3)))
    assert (plan.steps, kind(plan)) == ((), "sizes-differ")
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.blank()},
        array_lines={w.ARRAY: "data"},
    )
    assert names(decide(claim, world).steps)[:2] == ["WriteRecords", "MakeFilesystem"]


def test_without_fs_type_and_raid_level_no_array_is_made() -> None:
    wanted = w.raid(fs_type=None, mount_path=None, raid_level=None)
    for looks in (blanks(), with_look(blanks(), 2, w.look(Known("xfs", FS)))):
        plan = decide(raid_claim(wanted), raid_world(looks))
        assert (plan.steps, plan.state, plan.trouble) == ((), ATTACHED, None)
    plan = decide(raid_claim(wanted), raid_world(members()))
    assert names(plan.steps) == ["AssembleArray", "WriteArrayLine"]
