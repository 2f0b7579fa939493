"""Who is which node, from the volumes and their holders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import pytest

from cc_kraken.decide import peers
from cc_kraken.decide.peers import HELD, LEAVING, UNCLEAR, VACANT, Peer
from cc_kraken.model import Attachment, Holder, Section, Volume
from tests.unit.worlds import volume_id

A, B = "i-0000000000000000a", "i-0000000000000000b"
SETS = ("log", "data")


def volume(
    number: int,
    name: str = "log",
    node: str = "0",
    holder: Optional[str] = "",
    state: str = "attached",
    zone: str = "us-east-1a",
    prefix: str = "kafka",
    **more: str,
) -> Volume:
    own = {"Prefix": prefix, "NodeId": node, "VolumeName": name, **more}
    tags = {f"KRKN-IN:{key}": value for key, value in own.items() if value}
    attachments: tuple[Attachment, ...] = ()
    if holder != "":
        attachments = (Attachment(holder, "/dev/sdf", state),)
    shown = "in-use" if attachments else "available"
    return Volume(volume_id(number), 1, zone, shown, tags, attachments)


def found(
    *volumes: Volume,
    declared: Sequence[str] = SETS,
    section: Optional[Section] = None,
    holders: Optional[Mapping[str, str]] = None,
) -> tuple[Peer, ...]:
    """The nodes; ``holders``: the states of instances, ``running`` where none is."""
    known = {A: "running", B: "running", **(holders or {})}
    made: dict[str, Holder] = {
        key: Holder(key, state, private_ip=f"10.0.0.{key[-1]}")
        for key, state in known.items()
    }
    section = section or Section()
    nodes = peers.by_anchor(section, "kafka", declared, volumes)
    return peers.with_holders(nodes, made)


def node(*volumes: Volume, **named: object) -> Peer:
    (one,) = found(*volumes, **named)  # type: ignore[arg-type]
    return one


def whole(node: str, start: int, holder: Optional[str] = "") -> tuple[Volume, ...]:
    """A node of two sets, whose log has the lowest id."""
    return (
        volume(start, "log", node, holder),
        volume(start + 1, "data", node, holder, Members="2"),
        volume(start + 2, "data", node, holder, Members="2"),
    )


def test_who_holds_the_anchor_is_the_node() -> None:
    log, *data = whole("0", 1)
    held = volume(1, "log", "0", A)
    assert node(held, *data) == Peer(
        "kafka", "0", HELD, "us-east-1a", volume_id(1), A, "running", "10.0.0.a"
    )
    one = volume(2, "data", "0", B, Members="2")
    assert node(held, one, data[1]).instance_id == A
    assert node(log, one, data[1]).instance_id == ""
    assert node(log, one, data[1]).state == VACANT


def test_vacant_nodes_are_listed_and_all_are_in_order_of_number() -> None:
    nodes = found(*whole("10", 10, A), *whole("9", 20), *whole("x", 30, B))
    assert [(one.node_id, one.state, one.instance_id) for one in nodes] == [
        ("9", VACANT, ""),
        ("10", HELD, A),
        ("x", HELD, B),
    ]


def test_every_zone_counts() -> None:
    nodes = found(
        volume(1, node="0", holder=A, zone="us-east-1a"),
        volume(2, node="1", holder=B, zone="us-east-1c"),
        declared=("log",),
    )
    assert [one.zone for one in nodes] == ["us-east-1a", "us-east-1c"]
    assert [one.state for one in nodes] == [HELD, HELD]


def test_others_are_no_peers() -> None:
    assert (
        found(volume(1, prefix="rabbit"), volume(2, node="*"), volume(3, node="")) == ()
    )


@pytest.mark.parametrize("state", ["detaching", "busy"])
def test_who_is_about_to_let_go_is_leaving(state: str) -> None:
    one = node(volume(1, holder=A, state=state), declared=("log",))
    assert (one.state, one.instance_id) == (LEAVING, A)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pending", HELD),
        ("running", HELD),
        ("stopping", HELD),
        ("stopped", HELD),
        ("shutting-down", LEAVING),
        ("terminated", LEAVING),
        ("gone", UNCLEAR),
    ],
)
def test_the_state_of_the_instance(state: str, expected: str) -> None:
    one = node(volume(1, holder=A), declared=("log",), holders={A: state})
    assert (one.state, one.instance_id) == (expected, A)
    assert bool(one.reason) == (expected == UNCLEAR)
    assert one.private_ip == ("" if state == "gone" else "10.0.0.a")


def test_without_declared_sets_the_lowest_of_all_sets_is_the_anchor() -> None:
    volumes = whole("0", 2, A)
    assert node(*volumes, declared=()).anchor == volume_id(2)
    # A volume without a name is in no set: it may be the root disk of anybody.
    root = volume(1, "", "0", B)
    assert node(root, *volumes, declared=()).instance_id == A
    assert node(root, *volumes).instance_id == A
    assert node(root, volume(3, "", "0", A), declared=()).instance_id == B


def test_a_set_that_is_not_declared_has_no_anchor() -> None:
    extra = volume(1, "extra", "0", B)
    assert node(extra, *whole("0", 2, A)).instance_id == A


UNSURE = {
    "a member that is not shown": (
        (volume(2, "data", holder=A, Members="2"), volume(1, "log")),
        "its set data has 1 of 2 volumes",
    ),
    "a set that is not shown": (
        (volume(2, "log", holder=A),),
        "its set data has 0 of 1 volumes",
    ),
    "a copy": (
        (*whole("0", 2, A), volume(1, "log")),
        "its set log has 2 of 1 volumes",
    ),
    "members that disagree": (
        (
            volume(1, "log", holder=A),
            volume(2, "data", Members="2"),
            volume(3, "data", Members="3"),
        ),
        "its set data has",
    ),
    "several zones": (
        (volume(1, "log", holder=A), volume(2, "data", zone="us-east-1b")),
        "its volumes are in several zones",
    ),
    "no declared set": ((volume(1, "other", holder=A),), "no volume of log or data"),
    "a holder without a name": (
        (volume(1, "log", holder=None), volume(2, "data")),
        "EC2 does not name the one instance",
    ),
    "a NodeId that nobody can read": (
        tuple(whole("0\x1b[2J", 1, A)),
        "its NodeId has the character U+001B",
    ),
}


@pytest.mark.parametrize("case", UNSURE)
def test_nobody_is_named_where_it_cannot_be_said(case: str) -> None:
    volumes, reason = UNSURE[case]
    one = node(*volumes)
    assert (one.state, one.instance_id) == (UNCLEAR, "")
    assert reason in one.reason
    assert peers.not_held([one]) == [
        f"kafka/{one.node_id} is unclear, because {one.reason}"
    ]


def test_a_node_of_which_nothing_is_attached_is_vacant_however_odd() -> None:
    """Its volumes are still being made: no reason to doubt the list."""
    assert node(volume(1, "log")).state == VACANT
    assert node(volume(1, "other")).state == VACANT


def test_a_pin_is_about_the_node_whose_volume_it_names() -> None:
    section = Section(volumes={"log": {"volume_ids": [volume_id(2)]}})
    copy = volume(1, "log", "0")
    own = volume(2, "log", "0", A)
    other = volume(3, "log", "1", B)
    nodes = found(copy, own, other, declared=("log",), section=section)
    assert [one.instance_id for one in nodes] == [A, B]
    assert [one.anchor for one in nodes] == [volume_id(2), volume_id(3)]
