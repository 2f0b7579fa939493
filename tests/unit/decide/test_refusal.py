"""What a refusal of a content says: what is there, and the ways out of it."""

from __future__ import annotations

import pytest

from cc_kraken.decide.plan import FAILED
from cc_kraken.model import Known, Look, Unknown
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    decide,
    kind,
    members,
    raid_claim,
    raid_world,
    shown,
)

MARK = "0123456789abcdef" * 4
INSIDE = (
    f"nvme1n1p1 (0.5 GiB): ext4 (UUID {FS}), label 'data'",
    "nvme1n1p2 (0.25 GiB): nothing that is known",
)


def refusal(look: Look) -> str:
    plan = shown(look)
    assert (plan.steps, plan.state) == ((), FAILED)
    assert kind(plan) in ("content-other", "content-unknown")
    return str(plan.trouble)


@pytest.mark.parametrize("table", ["gpt", "dos", "PMBR"])
@pytest.mark.parametrize("inside", [(), INSIDE])
def test_a_partition_table(table: str, inside: tuple[str, ...]) -> None:
    said = refusal(w.look(Known(table, FS, inside=inside), mark=MARK))
    assert f"has a partition table ({table})" in said
    assert all(one in said for one in inside)
    assert inside or "no partition" in said
    # No FsType helps: what does, comes before what destroys.
    assert "Correct FsType" not in said
    ways = ["without a partition table", "copy", "FsType to none", "fstab", "overwrite"]
    places = [said.index(way) for way in ways]
    assert places == sorted(places)
    assert f"overwrite: {{{w.volume_id(1)}: {MARK}}}" in said
    assert "Only to give up all" in said[places[3] : places[4]]


def test_a_partition_table_on_one_that_is_to_be_a_member() -> None:
    looks = {n: w.blank() for n in (1, 2, 3)}
    looks[2] = w.look(Known("gpt", FS, inside=INSIDE), mark=MARK)
    plan = decide(raid_claim(w.raid()), raid_world(looks))
    assert (plan.steps, kind(plan)) == ((), "content-other")
    said = str(plan.trouble)
    assert INSIDE[0] in said and "Members" not in said and "FsType" not in said
    assert "without a partition table" in said


@pytest.mark.parametrize(
    ("look", "way"),
    [
        (w.look(Known("xfs", FS), mark=MARK), "Correct FsType, or use another volume"),
        (w.look(Known("btrfs", FS), mark=MARK), "Correct FsType, or use another"),
        (w.member(0), "Correct Members, or use another volume"),
        (w.look(Known("LVM2_member", FS), mark=MARK), " Use another volume"),
        (w.look(Known("crypto_LUKS", FS), mark=MARK), " Use another volume"),
        (w.look(Known("ext3", FS), mark=MARK), " Use another volume"),
        (w.look(Unknown("data", 512), mark=MARK), " Use another volume"),
        (w.look(Unknown("data", 512)), " Use another volume"),
    ],
)
def test_only_a_way_that_helps_is_named(look: Look, way: str) -> None:
    said = refusal(look)
    assert way in said
    assert ("Correct" in said) == ("Correct" in way)


def test_a_filesystem_in_an_array_and_on_a_member() -> None:
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("ext4", FS))},
    )
    said = str(decide(raid_claim(w.raid()), world).trouble)
    assert "Correct FsType, or use another volume" in said
    looks = {n: w.blank() for n in (1, 2, 3)}
    looks[2] = w.look(Known("ext4", FS), mark=MARK)
    said = str(decide(raid_claim(w.raid()), raid_world(looks)).trouble)
    assert "Correct Members, or use another volume" in said
