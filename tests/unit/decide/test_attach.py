"""Are the volumes of a set attached here, and may they be?"""

from __future__ import annotations

import dataclasses
from typing import Optional

import pytest

from cc_kraken.decide.attach import CLAIM_SECONDS
from cc_kraken.decide.plan import FAILED, PENDING
from cc_kraken.decide.steps import Attach
from cc_kraken.model import Attachment, Holder, Known
from tests.unit import worlds as w
from tests.unit.decide.cases import FS, OTHER, decide, kind, names


def test_a_free_volume_is_attached_and_the_rest_is_foretold() -> None:
    plan = decide(w.claim(w.single(), w.volume(1)), w.world())
    assert plan.steps == (Attach("log", (w.volume_id(1),)),)
    assert "where the volume is blank: ext4 is made" in plan.outcomes


HOLDERS = {
    ("running", "kafka", "0"): ("holder-predecessor", True),
    ("running", "kafka", "1"): ("holder-running", False),
    ("running", None, None): ("holder-running", False),
    ("pending", "kafka", "0"): ("holder-predecessor", True),
    ("stopped", "kafka", "0"): ("holder-stopped", True),
    ("stopping", None, None): ("holder-stopped", True),
    ("shutting-down", None, None): ("holder-leaving", True),
    ("terminated", "kafka", "0"): ("holder-leaving", True),
    ("gone", None, None): ("holder-leaving", True),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_volume_that_another_instance_holds(
    holder: tuple[str, Optional[str], Optional[str]],
) -> None:
    state, prefix, node_id = holder
    volumes = (w.volume(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(holders={OTHER: Holder(OTHER, state, prefix, node_id)})
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert plan.trouble is not None
    assert (plan.trouble.kind, plan.trouble.waits) == HOLDERS[holder]
    assert plan.steps == ()  # nothing is attached before all members are free
    assert OTHER in str(plan.trouble)


@pytest.mark.parametrize("state", ["detaching", "busy"])
@pytest.mark.parametrize("holder", ["running", "stopped"])
def test_a_volume_that_another_instance_is_letting_go(holder: str, state: str) -> None:
    """Whoever the holder is: somebody has asked for the volume already."""
    volumes = (w.volume(1), w.attached(2, OTHER, state), w.volume(3))
    world = w.world(holders={OTHER: Holder(OTHER, holder)})
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert plan.trouble is not None and plan.steps == ()
    assert (plan.trouble.kind, plan.trouble.waits) == ("holder-detaching", True)
    assert ("busy" in plan.trouble.found) is (state == "busy")
    assert OTHER in plan.trouble.found


@pytest.mark.parametrize("state", ["detaching", "busy"])
def test_a_volume_that_is_being_detached_here_is_awaited(state: str) -> None:
    claim = w.claim(w.single(), w.attached(1, state=state))
    plan = decide(claim, w.world())
    assert (plan.state, kind(plan)) == (PENDING, "volume-detaching")
    assert plan.trouble is not None and plan.trouble.waits
    assert w.volume_id(1) in plan.trouble.found and state in plan.trouble.found
    assert "DetachVolume" in plan.trouble.remedy


def test_a_volume_that_something_without_a_name_holds() -> None:
    held = (Attachment(None, "", "attached"),)
    claim = w.claim(w.single(), w.volume(1, "in-use", attachments=held))
    plan = decide(claim, w.world())
    assert (plan.state, kind(plan)) == (FAILED, "volume-managed")
    assert plan.trouble is not None and w.volume_id(1) in plan.trouble.found
    assert "volume_ids" in plan.trouble.remedy


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (CLAIM_SECONDS - 1, ("holder-claiming", True)),
        (CLAIM_SECONDS, ("holder-running", False)),
    ],
)
def test_who_may_be_any_node_may_give_the_volume_back(
    elapsed: float, expected: tuple[str, bool]
) -> None:
    holders = {OTHER: Holder(OTHER, "running", "kafka", "*")}
    claim = w.claim(w.single(), w.attached(1, OTHER))
    plan = decide(claim, w.world(holders=holders, elapsed=elapsed))
    assert plan.trouble is not None
    assert (plan.trouble.kind, plan.trouble.waits) == expected
    assert w.volume_id(1) in plan.trouble.found and OTHER in plan.trouble.found
    assert OTHER in plan.trouble.remedy


def test_who_loses_a_member_lets_the_unused_others_go() -> None:
    volumes = (w.attached(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(
        1,
        holders={OTHER: Holder(OTHER, "running", "kafka", "0")},
        attached_now=frozenset({w.volume_id(1)}),
    )
    plan = decide(w.claim(w.raid(), *volumes), world)
    assert names(plan.steps) == ["Detach"]
    assert (plan.state, kind(plan)) == (PENDING, "holder-predecessor")


def test_what_was_attached_before_this_run_stays() -> None:
    volumes = (w.attached(1), w.attached(2, OTHER), w.volume(3))
    world = w.world(1, holders={OTHER: Holder(OTHER, "running", "kafka", "0")})
    assert decide(w.claim(w.raid(), *volumes), world).steps == ()


TWIN = {OTHER: Holder(OTHER, "running", "kafka", "0")}


@pytest.mark.parametrize("elapsed, left", [(0.0, True), (299.0, True), (300.0, False)])
def test_a_free_set_is_left_to_the_instance_that_has_another_one(
    elapsed: float, left: bool
) -> None:
    """Two instances of one node that boot together: one of them gets all of it."""
    log = w.claim(w.single(), w.attached(1, OTHER))
    data = w.claim(w.raid(), *(w.volume(n) for n in (2, 3, 4)))
    plan = decide(data, w.world(holders=TWIN, elapsed=elapsed), log)
    assert names(plan.steps) == ([] if left else ["Attach"])
    if left:
        assert plan.trouble is not None and plan.trouble.waits
        assert plan.trouble.kind == "holder-predecessor"
        assert "data" in plan.trouble.found and OTHER in plan.trouble.found


@pytest.mark.parametrize(
    "holder",
    [
        Holder(OTHER, "running", "kafka", "1"),
        Holder(OTHER, "shutting-down", "kafka", "0"),
        Holder(OTHER, "stopped", "kafka", "0"),
    ],
)
def test_no_other_holder_of_a_set_holds_up_a_free_one(holder: Holder) -> None:
    log = w.claim(w.single(), w.attached(1, OTHER))
    data = w.claim(w.raid(), *(w.volume(n) for n in (2, 3, 4)))
    plan = decide(data, w.world(holders={OTHER: holder}), log)
    assert names(plan.steps) == ["Attach"]


def test_who_has_a_set_of_its_own_takes_the_free_ones() -> None:
    """And an operator reads on each of two such instances that one has to go."""
    log = w.claim(w.single(), w.attached(1, OTHER))
    wal = w.claim(w.single(name="wal", mount_path="/wal"), w.attached(5))
    data = w.claim(w.raid(), *(w.volume(n) for n in (2, 3, 4)))
    world = w.world(5, holders=TWIN)
    assert names(decide(data, world, log, wal).steps) == ["Attach"]
    trouble = decide(log, world, wal, data).trouble
    assert trouble is not None and trouble.kind == "holder-predecessor"
    assert trouble.remedy.startswith("This instance has wal. Terminate one of the two,")


def test_attaching_is_awaited_and_in_the_end_called_stuck() -> None:
    claim = w.claim(w.single(), w.attached(1, state="attaching"))
    plan = decide(claim, w.world(awaited={w.volume_id(1): 89.0}))
    assert (plan.state, kind(plan)) == (PENDING, "attaching")
    plan = decide(claim, w.world(awaited={w.volume_id(1): 91.0}))
    assert (plan.state, kind(plan)) == (FAILED, "attach-stuck")


def test_delete_on_termination_is_a_warning_with_the_remedy() -> None:
    attachment = Attachment(w.ME, "/dev/sdf", "attached", delete_on_termination=True)
    volume = dataclasses.replace(w.attached(1), attachments=(attachment,))
    world = w.world(1, looks={1: w.look(Known("ext4", FS))})
    plan = decide(w.claim(w.single(), volume), world)
    assert "modify-instance-attribute" in plan.warnings[0]
    assert plan.steps


def test_all_free_members_are_attached_in_one_step() -> None:
    claim = w.claim(w.raid(), *(w.volume(n) for n in (3, 1, 2)))
    plan = decide(claim, w.world())
    assert plan.steps == (Attach("data", tuple(map(w.volume_id, (1, 2, 3)))),)


def test_a_new_member_of_a_mounted_array_is_foretold_as_that() -> None:
    """As docs/guides/replace-member.md has it: nothing is created."""
    claim = w.claim(w.raid(level=5), w.attached(1), w.attached(2), w.volume(3))
    world = w.world(1, 2, mounts=(w.mounted("/krkn_data", "xfs", 1, 2),))
    plan = decide(claim, world)
    assert plan.steps == (Attach("data", (w.volume_id(3),)),)
    assert plan.outcomes == (
        "where a volume is blank: it takes the place of a lost member",
        "where it was a member before: it is left alone, with a warning",
        "where it holds anything else: the set is refused, and stays mounted at "
        "/krkn_data",
    )


def test_mdadm_is_asked_for_before_anything_is_attached() -> None:
    claim = w.claim(w.raid(), *(w.volume(n) for n in (1, 2, 3)))
    plan = decide(claim, w.world(missing_programs=frozenset({"mdadm"})))
    assert (plan.steps, kind(plan)) == ((), "program-missing")
