"""``create`` and ``node_ids`` in the section: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cc_kraken import cli
from cc_kraken.config import creation, loading, sets, tags, wish
from cc_kraken.config.loading import Source
from cc_kraken.model import Creation, KrakenError, Node, Section, Volume

NAMESPACE = "KRKN-IN"


def read(**said: Any) -> Creation:
    return creation.read({"size": 100, **said}, NAMESPACE)


def test_what_is_not_said_is_gp3_and_encrypted() -> None:
    assert read() == Creation(size_gib=100, type="gp3", encrypted=True, after=60)


RIGHT: tuple[Mapping[str, Any], ...] = (
    {"size": 1},
    {"size": 65536, "iops": 80000, "throughput": 2000},
    {"size": 6, "iops": 3000},
    {"size": 8, "iops": 4000, "throughput": 1000},
    {"throughput": 750},
    {"type": "gp2", "size": 16384},
    {"type": "io1", "size": 4, "iops": 200},
    {"type": "io2", "size": 256, "iops": 256000},
    {"type": "st1", "size": 125},
    {"type": "standard", "size": 1024},
    {"size": 0, "snapshot": "snap-0541e52659458f1c9"},
    {"encrypted": False},
    {"kms_key_id": "alias/data"},
    {"tags": {"Team": "data", "cost": 7, "a:b": "c"}},
)


@pytest.mark.parametrize("said", RIGHT, ids=str)
def test_what_ec2_allows_is_right(said: Mapping[str, Any]) -> None:
    assert isinstance(read(**said), Creation)


WRONG: tuple[tuple[Mapping[str, Any], str, str], ...] = (
    ({"size": 0}, "size", "a snapshot"),
    ({"type": "gp2", "size": 16385}, "size", "1 to 16384"),
    ({"type": "io1", "size": 3, "iops": 100}, "size", "4 to 16384"),
    ({"type": "sc1", "size": 124}, "size", "125 to 16384"),
    ({"type": "standard", "size": 1025}, "size", "1 to 1024"),
    ({"type": "io2"}, "iops", "the IOPS of each io2"),
    ({"type": "gp2", "iops": 3000}, "iops", "none for gp2; gp3, io1, io2 take it"),
    ({"iops": 2999}, "iops", "3000 to 80000"),
    ({"iops": 80001, "size": 1000}, "iops", "3000 to 80000"),
    ({"iops": 50001}, "iops", "at most 50000 for 100 GiB"),
    ({"iops": 3001, "size": 6}, "iops", "at most 3000"),
    ({"type": "io1", "iops": 5001}, "iops", "at most 5000"),
    ({"throughput": 124}, "throughput", "125 to 2000"),
    ({"type": "io2", "iops": 100, "throughput": 200}, "throughput", "gp3 take it"),
    ({"throughput": 751}, "iops", "at least 3004"),
    ({"kms_key_id": "alias/x", "encrypted": False}, "kms_key_id", "no key"),
    ({"tags": {"aws:x": "1"}}, "tags", "aws:"),
    ({"tags": {"AWS:x": "1"}}, "tags", "aws:"),
    ({"tags": {"KRKN-IN:Owner": "1"}}, "tags", "no tag of KRKN-IN"),
    ({"tags": {"krkn-in:Prefix": "1"}}, "tags", "no tag of KRKN-IN"),
    ({"tags": {"KRKN_IN:Prefix": "1"}}, "tags", "no tag of KRKN-IN"),
    ({"tags": {"a": "b\u202e"}}, "tags", "that people can read"),
    ({"tags": {str(n): "" for n in range(41)}}, "tags", "at most 40"),
)


@pytest.mark.parametrize("said, key, expected", WRONG, ids=str)
def test_what_ec2_would_refuse_is_refused_by_key(
    said: Mapping[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(creation.Wrong) as caught:
        read(**said)
    assert caught.value.key == key and expected in caught.value.expected


def section(text: str) -> Section:
    (source,) = loading.parse(text, "test")
    found = loading.build([source])
    assert found is not None
    return found


def claim(text: str) -> Any:
    node = Node("kafka", "0")
    return sets.claims(section(text), node, "us-east-1a", (), ["data"]).claims[0]


def test_a_set_that_would_not_be_mounted_is_not_created() -> None:
    one = claim("kraken: {volumes: {data: {fs_type: xfs, create: {size: 1}}}}")
    assert one.trouble.kind == "mount-incomplete"


def test_a_set_with_a_wrong_create_is_refused() -> None:
    one = claim("kraken: {volumes: {data: {create: {type: st1, size: 1}}}}")
    assert one.trouble.kind == "config-value" and not one.trouble.waits
    assert "kraken.volumes.data.create.size is 1" in one.trouble.found


def test_several_members_are_not_made_of_one_snapshot() -> None:
    create = "create: {snapshot: snap-0541e52659458f1c9}"
    one = claim(f"kraken: {{volumes: {{data: {{members: 2, {create}}}}}}}")
    assert one.trouble.kind == "config-value" and "snapshot" in one.trouble.found
    assert claim(f"kraken: {{volumes: {{data: {{{create}}}}}}}").trouble.kind == (
        "set-absent"
    )


def test_no_tag_makes_a_set_be_created() -> None:
    text = "kraken: {volumes: {data: {}}}"
    mine = {"Prefix": "kafka", "NodeId": "0", "VolumeName": "data", "Create": "1"}
    found = {f"KRKN-IN:{tag}": value for tag, value in mine.items()}
    volume = Volume("vol-1", 1, "us-east-1a", "available", found)
    node = Node("kafka", "0")
    (one,) = sets.claims(section(text), node, "us-east-1a", (volume,), ["data"]).claims
    assert one.wanted.create is None and "Create" not in tags.NAMES


@pytest.mark.parametrize(
    "where",
    [
        "defaults: {create: {size: 1}}",
        "volumes: {data: {create: {volume_type: gp3}}}",
        "volumes: {data: {create: {tags: {'aws:x': y}}}}",
        "volumes: {data: {create: {size: '1'}}}",
        "volumes: {data: {create: {snapshot: latest}}}",
        "node_ids: '*'",
        "node_ids: {us-east-1: '0'}",
        "node_ids: {us-east-1a: ['0']}",
    ],
)
def test_what_the_schema_does_not_know_is_refused(where: str) -> None:
    with pytest.raises(KrakenError, match="config-"):
        section(f"kraken: {{{where}}}")


NODES: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    ("'0,3'", {"us-east-1a": ("0", "3"), "us-east-1b": ("0", "3")}),
    ("' 0, 3 ,0,'", {"us-east-1a": ("0", "3")}),
    ("7", {"us-east-1a": ("7",)}),
    ("a-1", {"us-east-1a": ("a-1",)}),
    (
        "{us-east-1a: '0,1', us-east-1b: 2}",
        {"us-east-1a": ("0", "1"), "us-east-1b": ("2",), "us-east-1c": ()},
    ),
)


@pytest.mark.parametrize("said, expected", NODES)
def test_the_nodes_that_may_be_founded(
    said: str, expected: Mapping[str, tuple[str, ...]]
) -> None:
    found = section(f"kraken: {{node_ids: {said}}}")
    assert {zone: creation.nodes(found, zone) for zone in expected} == expected


def test_without_node_ids_there_are_none() -> None:
    assert creation.nodes(Section(), "us-east-1a") == ()


def test_check_names_a_node_that_two_zones_list(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "user-data"
    zones = "{us-east-1a: '0,1', us-east-1b: '1'}"
    file.write_text(f"#cloud-config\nkraken: {{node_ids: {zones}}}\n")
    assert cli.main(["check", str(file)]) == 1
    said = capsys.readouterr().err
    assert "lists the node 1 for us-east-1a and us-east-1b" in said


def test_check_names_every_set_whose_create_is_wrong() -> None:
    value = {"volumes": {"a": {"create": {}}, "b": {"create": {"size": 1}}}}
    found = wish.wrong(loading.build([Source("test", value)]) or Section())
    assert [place for place, _ in found] == ["kraken.volumes.a"]


# --------------------------------------------------------------------- Member


def test_a_number_of_a_member_is_read_beside_their_count() -> None:
    found = {"KRKN-IN:Member": "2", "KRKN-IN:VolumeSize": "3"}
    assert tags.read(found, NAMESPACE) == {"member": "2", "members": "3"}
    assert tags.misspelt(found, NAMESPACE) == {}


def test_a_member_without_their_count_was_meant_for_it() -> None:
    found = {"KRKN-IN:Member": "3"}
    assert tags.misspelt(found, NAMESPACE) == {"KRKN-IN:Member": "Members"}
