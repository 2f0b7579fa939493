"""When volumes are created: the table of the decision, of the token, of the tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import pytest

from cc_kraken.config import tags
from cc_kraken.decide import creating
from cc_kraken.decide.creating import (
    ATTEMPTS,
    FRESH,
    YOUNG,
    Answer,
    Begun,
    Create,
    Wait,
    Wished,
)
from cc_kraken.model import Attachment, Creation, Node, Trouble, Volume, WantedSet

NODE = Node("kafka", "0")
ZONE, ELSEWHERE = "us-east-1a", "us-east-1c"
DATE = 1_790_000_000.0
WISH = Creation(size_gib=100)
WANTED = WantedSet("data", members=3, raid_level=0, fs_type="xfs", create=WISH)
WISHED = Wished("KRKN-IN", NODE, ZONE, replace(WANTED, mount_path="/d"), ("log",))


def volume(number: int, member: Optional[int] = None, **more: Any) -> Volume:
    """Volume ``number`` of the set; ``tags`` come over its own (None: without it)."""
    own: dict[str, Optional[str]] = {
        "KRKN-IN:Prefix": "kafka",
        "KRKN-IN:NodeId": "0",
        "KRKN-IN:VolumeName": "data",
    }
    if member is not None:
        own.update({"KRKN-IN:Member": str(member), "KRKN-IN:VolumeSize": "3"})
    own.update(more.pop("tags", {}))
    settings = {"zone": ZONE, "state": "available", "created": DATE - 60, **more}
    found = {key: value for key, value in own.items() if value is not None}
    return Volume(f"vol-{number:017x}", 100, tags=found, **settings)


def answers(*volumes: Sequence[Volume], apart: float = 60.0) -> list[Answer]:
    """Answers at these intervals, each a tenth of a second after its question; the
    last one has just come."""
    last = len(volumes) - 1
    return [
        Answer(NOW - (last - i) * (apart + 0.1) - 0.1, NOW - (last - i) * apart, some)
        for i, some in enumerate(map(tuple, volumes))
    ]


NOW = 5000.0


def decide(
    given: Sequence[Answer], begun: Optional[Begun] = None, **more: Any
) -> creating.Step:
    return creating.next_step(
        more.get("wished", WISHED),
        given,
        more.get("now", NOW),
        more.get("date", DATE),
        begun,
        more.get("looked", ()),
    )


# ------------------------------------------------------------------ two looks


def test_nothing_is_created_after_one_look() -> None:
    answer = decide(answers([]))
    assert isinstance(answer, Wait) and answer.trouble.kind == "create-waiting"
    assert answer.seconds == 60 and answer.trouble.waits


def test_without_an_answer_one_is_asked_for_now() -> None:
    answer = decide([])
    assert isinstance(answer, Wait) and answer.seconds == 0


def test_two_empty_looks_a_minute_apart_permit_all_members() -> None:
    assert decide(answers([], [], apart=60.2)) == Create((1, 2, 3), ATTEMPTS)


@pytest.mark.parametrize("apart, created", [(59.9, False), (60.2, True)])
def test_the_time_counts_from_answer_to_question(apart: float, created: bool) -> None:
    found = decide(answers([], [], apart=apart))
    assert isinstance(found, Create if created else Wait)


def test_after_is_the_sets_own() -> None:
    wish = replace(WISHED, wanted=replace(WANTED, create=replace(WISH, after=300)))
    assert isinstance(decide(answers([], [], apart=200), wished=wish), Wait)
    assert isinstance(decide(answers([], [], apart=301), wished=wish), Create)


def test_a_dry_run_plans_after_one_look_however_long_the_answer_took() -> None:
    wish = replace(WISHED, wanted=replace(WANTED, create=replace(WISH, after=0)))
    assert decide(answers([]), wished=wish) == Create((1, 2, 3), ATTEMPTS)


def test_a_volume_that_was_seen_in_between_begins_the_time_anew() -> None:
    gone = answers([], [volume(1)], [], apart=61)
    found = decide(gone)
    assert isinstance(found, Wait) and found.seconds == 60


def test_an_old_second_look_is_asked_again() -> None:
    found = decide(answers([], [], apart=61), now=NOW + FRESH + 1)
    assert isinstance(found, Wait) and found.seconds == 0


# ------------------------------------------------------- what is there already

ATTACHED = (Attachment("i-1", "/dev/sdf", "attached"),)
PRESENT: dict[str, list[Volume]] = {
    "one of three, made by hand": [volume(1)],
    "all three": [volume(1), volume(2), volume(3)],
    "more than three": [volume(n) for n in range(1, 5)],
    "in another zone": [volume(1, zone=ELSEWHERE)],
    "one of ours in another zone": [volume(1, 1, zone=ELSEWHERE)],
    "in use": [volume(1, 1, state="in-use", attachments=ATTACHED)],
    "attached, and shown as available": [volume(1, 1, attachments=ATTACHED)],
    "an hour old": [volume(1, 1, created=DATE - YOUNG)],
    "of the future": [volume(1, 1, created=DATE + 1000)],
    "of another size": [replace(volume(1, 1), size_gib=200)],
    "one of ours and one by hand": [volume(1, 1), volume(2)],
    "one number twice": [volume(1, 1), volume(2, 1)],
    "a number too high": [volume(1, 4)],
    "number 0": [volume(1, 0)],
    "failed, made by hand": [volume(1, state="error")],
}


@pytest.mark.parametrize("case", list(PRESENT))
def test_beside_what_is_there_nothing_is_created(case: str) -> None:
    there = PRESENT[case]
    assert decide(answers(there, there, there, apart=500)) is None
    # Neither right after this run has seen none.
    assert decide(answers([], [], there, apart=500)) is None


@pytest.mark.parametrize("state", ["deleting", "deleted"])
def test_a_volume_on_its_way_out_is_not_there(state: str) -> None:
    gone = [volume(1, state=state)]
    dead = (volume(1).id,)
    assert decide(answers(gone, gone, apart=61)) == Create((1, 2, 3), ATTEMPTS, dead)


@pytest.mark.parametrize("state", ["available", "creating"])
def test_what_was_cut_off_is_completed_with_the_first_tokens(state: str) -> None:
    there = [volume(1, 2, state=state)]
    assert isinstance(decide(answers(there)), Wait)
    assert decide(answers(there, there, apart=61)) == Create((1, 3), 1)


def test_what_was_completed_between_two_looks_begins_the_time_anew() -> None:
    given = answers([], [volume(1, 1)], apart=61)
    assert isinstance(decide(given), Wait)


@pytest.mark.parametrize("more", [(2,), (2, 3)])
def test_a_volume_that_failed_is_awaited_until_ec2_has_removed_it(
    more: Sequence[int],
) -> None:
    failed = [volume(1, 1, state="error"), *(volume(n, n) for n in more)]
    answer = decide(answers(failed, failed, apart=61))
    assert isinstance(answer, Wait) and answer.trouble.kind == "create-failed"
    assert answer.trouble.waits and "KMS" in answer.trouble.remedy


# -------------------------------------------------------------- in one run


@pytest.mark.parametrize("begun", [None, Begun(NOW - 30, {1: volume(1).id})])
@pytest.mark.parametrize("answer", [[], [volume(1, 1, state="creating")]])
def test_a_volume_that_only_the_ordinary_look_shows_as_failed_is_awaited(
    begun: Optional[Begun], answer: list[Volume]
) -> None:
    """Two answers of EC2 may differ by seconds."""
    wish = replace(WISHED, wanted=replace(WANTED, members=1))
    failed = [volume(1, 1, state="error")]
    given = answers([], answer)
    found = decide(given, begun, wished=wish, looked=failed)
    assert isinstance(found, Wait) and found.trouble.kind == "create-failed"


def test_a_failed_volume_that_ec2_removes_by_now_holds_up_nothing() -> None:
    given = answers([], [volume(1, 1, state="deleting")], apart=61)
    found = decide(given, looked=[volume(1, 1, state="error")])
    assert isinstance(found, Create)


def test_a_run_goes_on_with_what_it_has_begun() -> None:
    given = [*answers([], [], apart=61)]
    begun = Begun(NOW - 5, {1: volume(1).id})
    assert decide(given, begun) == Create((2, 3), ATTEMPTS)


def test_volumes_that_ec2_does_not_show_yet_are_awaited() -> None:
    made = {number: volume(number).id for number in (1, 2, 3)}
    answer = decide(answers([], [volume(1, 1)], apart=61), Begun(NOW - 5, made))
    assert isinstance(answer, Wait) and answer.trouble.kind == "create-unseen"
    assert volume(3).id in answer.trouble.found


def test_a_volume_that_failed_in_this_run_is_created_again() -> None:
    begun = Begun(NOW - 30, {number: volume(number).id for number in (1, 2, 3)})
    there = [volume(2, 2), volume(3, 3)]
    given = answers([volume(1, 1, state="error"), *there], there, apart=20)
    assert decide(given, begun) == Create((1,), ATTEMPTS, (volume(1).id,))


def test_what_was_begun_an_hour_ago_permits_nothing() -> None:
    begun = Begun(NOW - YOUNG, {1: volume(1).id})
    assert isinstance(decide(answers([]), begun), Wait)


# ------------------------------------------------------------- near misses

NODE_TAGS = ("KRKN-IN:Prefix", "KRKN-IN:NodeId", "KRKN-IN:VolumeName")
LIKE: dict[str, dict[str, Optional[str]]] = {
    "the set in capitals": {"KRKN-IN:VolumeName": "Data"},
    "the set in the plural": {"KRKN-IN:VolumeName": "datas"},
    "no set, and a tag of one": {"KRKN-IN:VolumeName": None, "KRKN-IN:FsType": "xfs"},
    "the set's tag misspelt": {"KRKN-IN:VolumeName": None, "KRKN-IN:VolumName": "data"},
    "the set's tag in capitals": {
        "KRKN-IN:VolumeName": None,
        "KRKN-IN:VOLUMENAME": "data",
    },
    "the prefix's tag misspelt": {"KRKN-IN:Prefix": None, "KRKN-IN:Prefx": "kafka"},
    "the node's tag misspelt": {"KRKN-IN:NodeId": None, "KRKN-IN:NodeID": "0"},
    "another namespace's case": {
        "KRKN-IN:Prefix": None,
        "KRKN-IN:NodeId": None,
        "KRKN-IN:VolumeName": None,
        "krkn-in:Prefix": "kafka",
        "krkn-in:NodeId": "0",
        "krkn-in:VolumeName": "data",
    },
    "a letter of the namespace": {"KRKN-IN:Prefix": None, "KRKN-1N:Prefix": "kafka"},
    "half a namespace": {"KRKN-IN:Prefix": None, "KRKN:Prefix": "kafka"},
    "another namespace": {
        **dict.fromkeys(NODE_TAGS, None),
        "GOAT-IN:Prefix": "kafka",
        "GOAT-IN:NodeId": "0",
        "GOAT-IN:VolumeName": "data",
    },
    "the prefix in capitals": {"KRKN-IN:Prefix": "Kafka"},
    "the node with a zero": {"KRKN-IN:NodeId": "00"},
    "the node with a blank": {"KRKN-IN:NodeId": "0 "},
    "the prefix with a blank": {"KRKN-IN:Prefix": " kafka"},
    "the prefix with a blank that nobody sees": {"KRKN-IN:Prefix": "kafka\u200b"},
    "the prefix with a mark that nobody sees": {"KRKN-IN:Prefix": "\ufeffkafka"},
    "the node in wide digits": {"KRKN-IN:NodeId": "\uff10"},
    "the set with a blank that nobody sees": {"KRKN-IN:VolumeName": "da\u200bta"},
}


@pytest.mark.parametrize("case", list(LIKE))
def test_a_near_miss_is_refused_and_named(case: str) -> None:
    like = volume(7, tags=LIKE[case])
    for given in (answers([like]), answers([], [like], apart=61)):
        answer = decide(given)
        assert isinstance(answer, Trouble), answer
        assert answer.kind == "create-lookalike" and not answer.waits
        assert like.id in answer.found
    gone = replace(like, state="deleting")
    assert isinstance(decide(answers([gone], [gone], apart=61)), Create)


UNLIKE: dict[str, dict[str, Optional[str]]] = {
    "another set": {"KRKN-IN:VolumeName": "index"},
    "another declared set": {"KRKN-IN:VolumeName": "log"},
    "a declared set, its node misspelt": {
        "KRKN-IN:VolumeName": "log",
        "KRKN-IN:NodeId": None,
        "KRKN-IN:NodeID": "0",
    },
    "a set with a number": {"KRKN-IN:VolumeName": "data2"},
    "without a set, left alone": {"KRKN-IN:VolumeName": None},
    "another node": {"KRKN-IN:NodeId": "1"},
    "another prefix": {"KRKN-IN:Prefix": "kafka2"},
    "another set in another namespace": {
        **dict.fromkeys(NODE_TAGS, None),
        "GOAT-IN:Prefix": "kafka",
        "GOAT-IN:NodeId": "0",
        "GOAT-IN:VolumeName": "index",
    },
    "another node in another namespace": {
        **dict.fromkeys(NODE_TAGS, None),
        "GOAT-IN:Prefix": "kafka",
        "GOAT-IN:NodeId": "1",
        "GOAT-IN:VolumeName": "data",
    },
}


@pytest.mark.parametrize("case", list(UNLIKE))
def test_what_is_something_else_is_in_nobodys_way(case: str) -> None:
    other = volume(7, tags=UNLIKE[case])
    assert isinstance(decide(answers([other], [other], apart=61)), Create)


def test_no_set_is_created_beside_a_node_in_another_zone() -> None:
    other = volume(7, tags={"KRKN-IN:VolumeName": "log"}, zone=ELSEWHERE)
    answer = decide(answers([other], [other], apart=61))
    assert isinstance(answer, Trouble) and answer.kind == "create-zone"
    assert other.id in answer.found and ELSEWHERE in answer.remedy


# ------------------------------------------------------------------ the token


def test_a_token_is_the_same_at_each_time() -> None:
    """What EC2 remembers for 12 hours must not change with a release."""
    token = creating.token(WISHED, 1, 1)
    assert token == creating.token(WISHED, 1, 1)
    assert len(token) == 64 and int(token, 16)
    said = json.dumps(["kafka", "0", "data", 1, ZONE, 1], separators=(",", ":"))
    assert token == hashlib.sha256(said.encode()).hexdigest()


def wished(**create: Any) -> Wished:
    return replace(WISHED, wanted=replace(WANTED, create=replace(WISH, **create)))


OTHERS: dict[str, Wished] = {
    "prefix": replace(WISHED, node=Node("kafka2", "0")),
    "node": replace(WISHED, node=Node("kafka", "1")),
    "prefix and node run together": replace(WISHED, node=Node("kafk", "a0")),
    "set": replace(WISHED, wanted=replace(WANTED, name="log")),
    "zone": replace(WISHED, zone=ELSEWHERE),
}
SAME: dict[str, Wished] = {
    "members": replace(WISHED, wanted=replace(WANTED, members=4)),
    "size": wished(size_gib=101),
    "type": wished(type="gp2"),
    "encryption": wished(encrypted=False),
    "snapshot": wished(snapshot="snap-0541e52659458f1c9"),
    "tags": wished(tags={"Team": "data"}),
    "after": wished(after=10),
}


def test_all_that_tells_volumes_apart_is_in_the_token() -> None:
    tokens = {
        (name, member, attempt): creating.token(one, member, attempt)
        for name, one in {"itself": WISHED, **OTHERS}.items()
        for member in (1, 2)
        for attempt in (1, 2, 3)
    }
    assert len(set(tokens.values())) == len(tokens) == 6 * 6


@pytest.mark.parametrize("name", SAME)
def test_two_templates_that_differ_have_one_token(name: str) -> None:
    """EC2 refuses the second request, and there is one volume, not two."""
    assert creating.token(SAME[name], 1, 1) == creating.token(WISHED, 1, 1)


# ------------------------------------------------------------------- the tags


def test_a_new_volume_has_the_tags_of_its_set_and_the_users_own() -> None:
    one = replace(WISH, tags={"Team": "data", "Name": "mine"})
    made = replace(WISHED, wanted=replace(WISHED.wanted, create=one))
    assert creating.new_volume(made, 2, 1).tags == {
        "Name": "mine",
        "Team": "data",
        "KRKN-IN:Prefix": "kafka",
        "KRKN-IN:NodeId": "0",
        "KRKN-IN:VolumeName": "data",
        "KRKN-IN:VolumeSize": "3",
        "KRKN-IN:Member": "2",
        "KRKN-IN:RaidLevel": "0",
        "KRKN-IN:FsType": "xfs",
        "KRKN-IN:MountPath": "/d",
    }


def test_a_set_of_one_has_no_level_and_no_number_in_its_name() -> None:
    one = replace(WISHED, wanted=replace(WANTED, members=1))
    found = creating.tags_of(one, 1)
    assert found["Name"] == "kafka-0-data" and "KRKN-IN:RaidLevel" not in found
    assert found["KRKN-IN:VolumeSize"] == "1"


def test_no_tag_is_longer_than_ec2_allows() -> None:
    long = replace(WISHED, node=Node("k" * 256, "0"))
    far = replace(WISHED, wanted=replace(WANTED, mount_path="/" + "d" * 300))
    assert len(creating.tags_of(long, 1)["Name"]) == tags.LONGEST
    assert "KRKN-IN:MountPath" not in creating.tags_of(far, 1)


# ------------------------------------------------------------------ the units


@pytest.mark.parametrize(
    "wish, members, said",
    [
        (WISH, 3, "300 GiB of gp3"),
        (replace(WISH, iops=3000, throughput=125), 3, "300 GiB of gp3"),
        (
            replace(WISH, iops=4000, throughput=225),
            2,
            "200 GiB of gp3 (and 2000 provisioned IOPS and 200 MiB/s of "
            "throughput beyond what is included)",
        ),
        (
            replace(WISH, type="io2", iops=500),
            2,
            "200 GiB of io2 (and 1000 provisioned IOPS beyond what is included)",
        ),
        (
            Creation(snapshot="snap-0541e52659458f1c9"),
            3,
            "3 times the size of snap-0541e52659458f1c9 of gp3",
        ),
    ],
)
def test_what_it_adds_each_month(wish: Creation, members: int, said: str) -> None:
    assert creating.monthly(wish, members) == said
