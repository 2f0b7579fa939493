"""Every rule of a claim as a row: what EC2, the machine and the note show, and what
a claimant does then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest

from cc_kraken.decide.claiming import (
    CLAIMING,
    GIVING_BACK,
    LOCKED,
    SETTLED,
    Answer,
    Forget,
    GiveBack,
    Lock,
    Noted,
    Situation,
    Take,
    next_step,
    ordered,
)
from cc_kraken.model import Attachment, Section, Trouble, Volume
from tests.unit import worlds as w

ME, RIVAL, OTHER = w.ME, "i-0000000000000beef", "i-0000000000000cafe"
ALL = ("log", "data")


def vol(number: int) -> str:
    return f"vol-{number:017x}"


def volume(
    number: int, node: str, name: str = "log", holder: str = "", **more: Any
) -> Volume:
    tags = {"Prefix": "kafka", "NodeId": node, "VolumeName": name}
    tags.update({"FsType": "ext4", "MountPath": f"/{name}"}, **more.pop("tags", {}))
    state = more.pop("attachment", "attached")
    return Volume(
        vol(number),
        1,
        more.pop("zone", w.ZONE),
        more.pop("state", "in-use" if holder else "available"),
        {f"KRKN-IN:{key}": value for key, value in tags.items()},
        (Attachment(holder, "/dev/sdf", state),) if holder else (),
    )


def node(number: int, holder: str = "", other: Optional[str] = None) -> list[Volume]:
    """A node of two sets: its volumes 10n (data) and 10n+1 (log)."""
    name = str(number)
    second = holder if other is None else other
    return [
        volume(10 * number, name, "data", holder),
        volume(10 * number + 1, name, "log", second),
    ]


def look(*volumes: Volume, **more: Any) -> Situation:
    section = more.pop("section", Section())
    declared: tuple[str, ...] = more.pop("declared", ALL)
    return Situation(ME, section, "kafka", w.ZONE, declared, tuple(volumes), **more)


def noted(
    node_id: str, state: str = CLAIMING, calls: str = "", accepted: bool = False
) -> Noted:
    """``calls``: numbers of the volumes of calls that can still come true."""
    open_calls = frozenset(vol(int(one)) for one in calls.split())
    return Noted(node_id, state, open_calls, open_calls if accepted else frozenset())


NOTHING: frozenset[str] = frozenset()
FREE, MINE, THEIRS = node(1), node(1, ME), node(1, RIVAL)
HALF = node(1, ME, "")  # the anchor is ours
LOST = node(1, ME, RIVAL)
STOLEN = node(1, RIVAL, ME)  # somebody has the anchor, and a member is ours

ROWS: dict[str, tuple[Situation, Answer]] = {
    # nobody yet
    "the lowest free node": (look(*node(2), *FREE), Take("1", vol(10))),
    "ten comes after two": (look(*node(10), *node(2)), Take("2", vol(20))),
    "a node that another holds is passed over": (
        look(*THEIRS, *node(2)),
        Take("2", vol(20)),
    ),
    "one member that another holds is enough": (
        look(*node(1, "", RIVAL), *node(2)),
        Take("2", vol(20)),
    ),
    "a node that was just lost is passed over": (
        look(*FREE, *node(2), avoided=frozenset({"1"})),
        Take("2", vol(20)),
    ),
    "a node without a declared set is passed over": (
        look(FREE[0], *node(2)),
        Take("2", vol(20)),
    ),
    "a volume in the making is not free": (
        look(FREE[0], replace(FREE[1], state="creating"), *node(2)),
        Take("2", vol(20)),
    ),
    "the anchor is of a declared set": (
        look(*FREE, declared=("log",)),
        Take("1", vol(11)),
    ),
    # what is ours comes first
    "disks of a node in this machine": (
        look(*FREE, *node(2), here=frozenset({vol(20), vol(21)})),
        Lock("2"),
    ),
    "attachments that EC2 shows": (look(*node(2), *MINE), Lock("1")),
    "a member without the anchor: the anchor is asked for": (
        look(*node(1, "", ME), *node(2)),
        Take("1", vol(10)),
    ),
    # behind the lock
    "the anchor is ours, the rest is free": (look(*HALF), Lock("1")),
    "another has a member": (look(*LOST, *node(2)), GiveBack("1", (vol(10),))),
    "another has the anchor": (look(*STOLEN), GiveBack("1", (vol(11),))),
    "what is used is kept": (
        look(*LOST, here=frozenset({vol(10)}), used=frozenset({vol(10)})),
        Lock("1"),
    ),
    "what was settled is kept": (look(*LOST, noted=noted("1", SETTLED)), Lock("1")),
    "what was locked and never used is not": (
        look(*LOST, noted=noted("1", LOCKED)),
        GiveBack("1", (vol(10),)),
    ),
    # what was asked for, and is not to be seen
    "accepted, and an old answer": (
        look(*FREE, noted=noted("1", calls="10", accepted=True)),
        Lock("1"),
    ),
    "sent, and no answer": (
        look(*FREE, *node(2), noted=noted("1", calls="10")),
        Take("1", vol(10)),
    ),
    "sent, and another has it": (
        look(*THEIRS, *node(2), noted=noted("1", calls="10")),
        GiveBack("1", ()),
    ),
    "sent, and the volume is gone": (
        look(*node(2), noted=noted("1", calls="10")),
        GiveBack("1", ()),
    ),
    "too old to come true, and still free": (
        look(*node(0), *FREE, noted=noted("1")),
        Take("1", vol(10)),
    ),
    "too old to come true, and taken": (
        look(*node(0), *THEIRS, noted=noted("1")),
        Forget("1"),
    ),
    "another node is ours: the noted one can come no more": (
        look(*FREE, *node(2, ME), noted=noted("1")),
        Forget("1"),
    ),
    # giving back
    "given back, as far as it is ours": (
        look(*LOST, noted=noted("1", GIVING_BACK)),
        GiveBack("1", (vol(10),)),
    ),
    "neither the machine nor EC2 shows it": (
        look(*THEIRS, noted=noted("1", GIVING_BACK)),
        Forget("1"),
    ),
    "a disk that is still here is not given back": (
        look(*FREE, here=frozenset({vol(10)}), noted=noted("1", GIVING_BACK)),
        GiveBack("1", (vol(10),)),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_next_step(name: str) -> None:
    given, wanted = ROWS[name]
    assert next_step(given) == wanted


STAYS: dict[str, tuple[Situation, str, bool, str]] = {
    "no set is declared": (look(*FREE, declared=()), "claim-undeclared", False, "log"),
    "two nodes whose disks are here": (
        look(*FREE, *node(2), here=frozenset({vol(10), vol(20)})),
        "claim-two-nodes",
        False,
        "kafka/1 (vol-0000000000000000a), kafka/2 (vol-00000000000000014)",
    ),
    "two nodes, one by an answer that may be old": (
        look(*MINE, *node(2), here=frozenset({vol(20)})),
        "claim-two-nodes",
        True,
        "kafka/1",
    ),
    "no volume in this zone": (
        look(*(replace(one, zone="us-east-1f") for one in FREE)),
        "claim-none-here",
        True,
        w.ZONE,
    ),
    "none after some time": (look(late=True), "claim-none-here", False, "zones"),
    "a volume for any node is none": (
        look(volume(1, "*"), late=True),
        "claim-none-here",
        False,
        "vol-00000000000000001 has KRKN-IN:NodeId=*, which is for instances",
    ),
    "all are held": (
        look(*THEIRS, *node(2, OTHER)),
        "claim-none-free",
        True,
        f"kafka/1: held by {RIVAL}; kafka/2: held by {OTHER}",
    ),
    "one is incomplete": (
        look(*THEIRS, *node(2)[:1]),
        "claim-none-free",
        True,
        "kafka/2: No volume of the node kafka/2 has the tag KRKN-IN:VolumeName=log",
    ),
    "one was lost just now": (
        look(*FREE, avoided=frozenset({"1"})),
        "claim-none-free",
        True,
        "kafka/1: another instance was faster just now",
    ),
    "given back, and a call can still come true": (
        look(*THEIRS, noted=noted("1", GIVING_BACK, "11")),
        "claim-giving-back",
        True,
        "kafka/1",
    ),
    "given back, and EC2 is at work": (
        look(
            volume(10, "1", "data", ME, attachment="detaching"),
            volume(11, "1", "log", RIVAL),
            noted=noted("1", GIVING_BACK),
        ),
        "claim-giving-back",
        True,
        "kafka/1",
    ),
    "another node is ours, and a call for the noted one can still come true": (
        look(*FREE, *node(2, ME), noted=noted("1", calls="10")),
        "claim-giving-back",
        True,
        "kafka/1",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_awaited_or_refused(name: str) -> None:
    given, kind, waits, text = STAYS[name]
    answer = next_step(given)
    assert isinstance(answer, Trouble)
    assert (answer.kind, answer.waits) == (kind, waits)
    assert text in str(answer)


def test_of_many_nodes_ten_are_told() -> None:
    held = [one for number in range(300) for one in node(number, OTHER)]
    answer = next_step(look(*held))
    assert isinstance(answer, Trouble)
    text = answer.found
    assert text.count("held by") == 10 and "; and 290 more)" in text


def test_the_system_volume_is_no_ones_anchor() -> None:
    found = look(*FREE, *node(2), system=frozenset({vol(10)}))
    assert next_step(found) == Take("2", vol(20))


def test_pinned_volumes_are_the_set() -> None:
    section = Section(volumes={"log": {"volume_ids": [vol(11)]}})
    copy = volume(5, "1", "log")
    found = look(copy, FREE[1], declared=("log",), section=section)
    assert next_step(found) == Take("1", vol(11))


def test_spread_is_each_instance_s_own_order() -> None:
    """The same at each look, and not that of the others."""
    section = Section(claim_order="spread")
    volumes = [one for number in range(20) for one in node(number)]
    orders = set()
    for number in range(30):
        given = replace(look(*volumes, section=section), instance_id=f"i-{number}")
        assert ordered(given) == ordered(given)
        assert sorted(ordered(given), key=int) == [str(n) for n in range(20)]
        orders.add(ordered(given)[0])
    assert len(orders) > 8


def test_no_answer_ever_takes_a_second_node() -> None:
    """Whatever is shown: what is ours decides, or nothing is asked for."""
    shapes = {
        "free": ("", ""),
        "half": (ME, ""),
        "lost": (ME, RIVAL),
        "theirs": (RIVAL, RIVAL),
    }
    notes = [
        None,
        *(
            noted("1", state, calls, accepted)
            for state in (CLAIMING, LOCKED, SETTLED, GIVING_BACK)
            for calls in ("", "10")
            for accepted in (False, True)
        ),
    ]
    for first in shapes.values():
        for second in shapes.values():
            for note in notes:
                given = look(*node(1, *first), *node(2, *second), noted=note)
                answer = next_step(given)
                if isinstance(answer, Take) and answer.node_id == "2":
                    assert not given.ours("1")
                    assert note is None
                if isinstance(answer, Lock):
                    other = "1" if answer.node_id == "2" else "2"
                    assert not given.ours(other)


@pytest.mark.parametrize("throttled, highest", [(0, 0), (1, 99), (2, 149)])
def test_a_crowd_does_not_queue_for_the_lowest_node(
    throttled: int, highest: int
) -> None:
    nodes = [volume for number in range(150) for volume in node(number)]
    wanted = look(*nodes, throttled=throttled)
    taken = set()
    for number in range(60):
        answer = next_step(replace(wanted, instance_id=f"i-{number:017x}"))
        assert isinstance(answer, Take)
        taken.add(int(answer.node_id))
    assert max(taken) <= highest
    if throttled:
        assert len(taken) > 30 and max(taken) > 0.8 * highest


@pytest.mark.parametrize("blank", ["1 ", " 1"])
def test_a_volume_whose_node_id_has_a_blank_is_named_and_never_used(blank: str) -> None:
    """EC2 finds it for no run of node 1, so a claimant does not count it either."""
    tagged = [replace(one, tags={**one.tags, "KRKN-IN:NodeId": blank}) for one in FREE]
    alone = next_step(look(*tagged))
    assert isinstance(alone, Trouble) and alone.kind == "claim-none-here"
    half = next_step(look(tagged[0], FREE[1]))
    assert isinstance(half, Trouble) and half.kind == "claim-none-free"
    for answer in (alone, half):
        assert f"{vol(10)} has KRKN-IN:NodeId='{blank}'" in answer.found
    assert next_step(look(*tagged, *node(2))) == Take("2", vol(20))
    held = [replace(one, attachments=MINE[0].attachments) for one in tagged]
    assert next_step(look(*held, *node(2))) == Take("2", vol(20))
