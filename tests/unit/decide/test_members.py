"""What superblocks say together: one array, copies, two histories, a replacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cc_kraken.decide import members
from cc_kraken.decide.members import ArrayState, Seen
from cc_kraken.model import MdSuperblock, Trouble
from tests.unit import worlds as w

A, B, C = (w.volume_id(n) for n in (1, 2, 3))
RECOVERING, REPLACEMENT = 2, 16
GONE = 0xFFFE


def mirror(role: int | None, events: int = 10, **changes: object) -> MdSuperblock:
    active = changes.pop("active", (0, 1))
    block = w.superblock(role, count=2, level=1, events=events, active=active)  # type: ignore[arg-type]
    return replace(block, **changes)  # type: ignore[arg-type]


def state(blocks: Mapping[str, MdSuperblock]) -> ArrayState:
    found = members.read(blocks)
    assert isinstance(found, ArrayState), found
    return found


def trouble(blocks: Mapping[str, MdSuperblock]) -> Trouble:
    found = members.read(blocks)
    assert isinstance(found, Trouble), found
    return found


# ------------------------------------------------------------ made once more


def test_an_array_that_was_made_once_more_under_its_uuid_is_another_one() -> None:
    """The older one may have the higher event count."""
    old, new = 1_700_000_000, 1_760_000_000
    found = trouble({A: mirror(0, 3, created=new), B: mirror(1, 500, created=old)})
    assert found.kind == "array-foreign-member"
    for words in (A, B, "2023-11-14 22:13:20", "2025-10-09 08:53:20"):
        assert words in found.found


@pytest.mark.parametrize(("minor", "version"), [(0, "1.0"), (1, "1.1"), (-1, "1.x")])
def test_a_superblock_in_another_place_is_not_handled(minor: int, version: str) -> None:
    found = trouble({A: mirror(0, minor=minor), B: mirror(1, minor=minor)})
    assert found.kind == "array-metadata"
    assert f"version {version}." in found.found and "1.2" in found.expected
    assert "by hand" in found.remedy


def test_a_time_of_creation_beyond_any_calendar_is_told_too() -> None:
    far = (1 << 40) - 1
    assert str(A) in trouble({A: mirror(0, created=far), B: mirror(1)}).found


def test_one_who_was_added_later_may_begin_elsewhere() -> None:
    """mdadm chooses the offset of the data for each member by itself."""
    found = state({A: mirror(0), B: mirror(1, data_offset=2 << 20)})
    assert found.fresh == (A, B)


# ------------------------------------------------------------------- copies


@pytest.mark.parametrize("events", [10, 4], ids=["fresh", "stale"])
@pytest.mark.parametrize("role", [0, 1, 0xFFFF], ids=["same role", "other", "spare"])
def test_two_with_the_device_uuid_of_one_are_copies(role: int, events: int) -> None:
    """Whatever became of the original since the copy was made."""
    copy = mirror(role, events, device_uuid="0")
    found = trouble({A: mirror(0), B: copy})
    assert found.kind == "array-clone" and A in found.found and B in found.found


# ------------------------------------------------------------ two histories


def test_halves_that_were_each_used_alone_have_parted() -> None:
    """Neither is a stale one of the other: each has data of its own."""
    for events in (20, 500):
        found = trouble(
            {
                A: mirror(0, 100, active=(0, GONE)),
                B: mirror(1, events, active=(GONE, 1)),
            }
        )
        assert found.kind == "array-diverged"
        assert A in found.found and B in found.found
        assert "re-add" not in found.remedy and "empty" not in found.remedy


def test_one_who_fell_out_first_has_no_history_of_its_own() -> None:
    found = state({A: mirror(0, 100, active=(0, GONE)), B: mirror(1, 20)})
    assert (found.fresh, found.stale) == ((A,), (B,))


def test_one_who_saw_another_fail_and_then_fell_out_is_stale() -> None:
    """The failed one was replaced by a new volume meanwhile."""
    six = {
        w.volume_id(n): w.superblock(n, count=4, level=6, events=300) for n in range(3)
    }
    last = w.superblock(3, count=4, level=6, events=150, active=(1, 2, 3))
    found = state({**six, w.volume_id(3): last})
    assert found.stale == (w.volume_id(3),)


# -------------------------------------------------------------- replacements


def replacing(role: int, events: int = 10, **changes: object) -> MdSuperblock:
    flags = REPLACEMENT | RECOVERING
    return mirror(role, events, feature_map=flags, device_uuid="new", **changes)


def test_a_replacement_under_way_is_no_second_member() -> None:
    found = state({A: mirror(0), B: mirror(1), C: replacing(1)})
    assert (found.fresh, found.spare, found.missing) == ((A, B), (C,), ())


def test_a_replacement_does_not_stand_in_for_its_original() -> None:
    """It has a part of the data: what it is to replace is still missing."""
    found = state({A: mirror(0), C: replacing(1)})
    assert (found.fresh, found.spare, found.missing) == ((A,), (C,), (1,))


def test_a_replacement_that_fell_behind_is_stale() -> None:
    found = state({A: mirror(0), B: mirror(1), C: replacing(1, 2)})
    assert (found.fresh, found.stale, found.spare) == ((A, B), (C,), ())


def test_two_replacements_of_one_member_are_a_conflict() -> None:
    other = replace(replacing(1), device_uuid="newer")
    found = trouble({A: mirror(0), B: replacing(1), C: other})
    assert found.kind == "array-clone"


def test_a_member_that_is_being_rebuilt_does_not_carry_the_data() -> None:
    found = state({B: mirror(1, feature_map=RECOVERING)})
    assert found.fresh == (B,) and not found.may_run
    assert not found.enough_when_degraded
    whole = state({A: mirror(0), B: mirror(1, feature_map=RECOVERING)})
    assert whole.may_run and not whole.missing


# ----------------------------------------------------------- strange members


def test_members_of_a_running_array_are_the_volumes_of_the_set() -> None:
    array = w.array(1, 2)
    volumes = {"nvme1n1": A, "nvme2n1": B, "nvme3n1": C}
    assert members.wrong_members(array, volumes, "data", [A, B]) is None
    assert members.wrong_members(array, volumes, "data", [A, B, C]) is None
    found = members.wrong_members(array, volumes, "data", [A, C])
    assert found is not None and found.kind == "array-stranger"
    assert f"nvme2n1 ({B})" in found.found and "nvme1n1" not in found.found
    assert B in found.remedy and "mdadm --stop /dev/md127" in found.remedy


@pytest.mark.parametrize("name", ["sda", "nvme1n1p1"])
def test_a_disk_that_is_no_volume_is_a_stranger(name: str) -> None:
    array = replace(w.array(1), members=("nvme1n1", name), mounted=("/data",))
    found = members.wrong_members(array, {"nvme1n1": A}, "data", [A])
    assert found is not None and name in found.found
    assert "unmount /data" in found.remedy


# ------------------------------------------------------- what was seen before

SEEN = Seen(events=500, created=0, volumes=(A, B))


def test_the_older_half_alone_is_known_by_what_was_seen_before() -> None:
    found = members.outdated(state({B: mirror(1, 150)}), SEEN)
    assert found is not None and found.kind == "array-stale"
    assert B in found.found and A in found.found and "500" in found.found


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        (150, None),
        (500, SEEN),
        (499, SEEN),  # md takes one back when it has nothing to say
        (900, SEEN),
        (150, replace(SEEN, created=7)),  # made once more under its UUID
        (150, replace(SEEN, volumes=(A, C))),  # restored from snapshots
    ],
)
def test_what_was_seen_before_is_no_reason(events: int, seen: Seen | None) -> None:
    assert members.outdated(state({B: mirror(1, events)}), seen) is None


def test_what_is_kept_of_an_array() -> None:
    both = state({A: mirror(0, 500, active=(0, GONE)), B: mirror(1, 150)})
    assert members.seen_now(both, None) == SEEN
    # The younger half alone, then a new volume beside it: nobody is forgotten.
    alone = state({A: mirror(0, 600, active=(0, GONE))})
    assert members.seen_now(alone, SEEN) == replace(SEEN, events=600)
    # What is older takes nothing back; another array begins anew.
    older = state({B: mirror(1, 150)})
    assert members.seen_now(older, SEEN) == SEEN
    again = state({B: mirror(1, 2, created=9)})
    assert members.seen_now(again, SEEN) == Seen(2, 9, (B,))
    copies = state({C: mirror(1, 150)})
    assert members.seen_now(copies, SEEN) == Seen(150, 0, (C,))
