"""Tags: their names, their values, and which node and sets they speak of."""

from __future__ import annotations

from typing import Any, Optional

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cc_kraken.config import tags
from cc_kraken.model import Node, Section, Trouble

NS = "KRKN-IN"


def tagged(namespace: str = NS, **values: Any) -> dict[str, Any]:
    return {f"{namespace}:{name}": value for name, value in values.items()}


def test_the_tags_of_the_deck() -> None:
    volume = tagged(
        Prefix="kraken-ex-v0.1",
        NodeId="0",
        VolumeName="data",
        VolumeSize="3",
        MountPath="/krkn_data",
        RaidLevel="0",
        FsType="ext4",
    )
    volume["Name"] = "kraken-ex-v0.1-data-disk-0"
    assert tags.read(volume, NS) == {
        "prefix": "kraken-ex-v0.1",
        "node_id": "0",
        "volume_name": "data",
        "members": "3",
        "mount_path": "/krkn_data",
        "raid_level": "0",
        "fs_type": "ext4",
    }


def test_every_tag_has_its_key() -> None:
    every = {name: f" {name} " for name in tags.NAMES if name != "VolumeSize"}
    read = tags.read(tagged(**every), NS)
    assert read.pop("members") == "Members"
    assert {key: tags.tag_of(key) for key in read} == read
    assert tags.tag_of("members") == "Members"


@pytest.mark.parametrize("key", ["overwrite", "allow_degraded", "mount_over"])
def test_what_only_the_configuration_may_say(key: str) -> None:
    camel = "".join(word.capitalize() for word in key.split("_"))
    assert tags.read(tagged(**{camel: "true", key: "true"}), NS) == {}


@pytest.mark.parametrize(
    ("given", "members"),
    [
        ({"VolumeSize": "3"}, "3"),
        ({"Members": "3"}, "3"),
        ({"VolumeSize": "3", "Members": " 3 "}, "3"),
        ({"VolumeSize": "3", "Members": ""}, "3"),
        ({"VolumeSize": "3", "Members": "2"}, "2 (Members) and 3 (VolumeSize)"),
    ],
)
def test_members_is_an_alias(given: dict, members: str) -> None:
    assert tags.read(tagged(**given), NS) == {"members": members}


@pytest.mark.parametrize(
    "other", ["krkn-in:Prefix", "KRKN-IN:prefix", "Prefix", "GOAT-IN:Prefix"]
)
def test_names_are_exact(other: str) -> None:
    assert tags.read({other: "kafka"}, NS) == {}


def test_another_namespace() -> None:
    assert tags.read(tagged("GOAT-IN", Prefix="a"), "GOAT-IN") == {"prefix": "a"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", " a "),
        (None, ""),
        (b"\xffa", "\\xffa"),
        (["a", "b"], "a\nb"),
        ({"a": 1}, '{"a": 1}'),
        (7, "7"),
    ],
)
def test_text(value: object, text: str) -> None:
    assert tags.text(value) == text


ODD = st.recursive(
    st.none() | st.text() | st.binary() | st.integers() | st.floats() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(tagged(**tags.NAMES))) | st.text(), ODD))
def test_any_tags_are_read(some: dict[str, object]) -> None:
    read = tags.read(some, NS)
    assert set(read) <= set(tags.NAMES.values())
    assert all(value and value == value.strip() for value in read.values())
    assert set(tags.misspelt(some, NS).values()) <= set(tags.NAMES)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KRKN-IN:Mountpath", "MountPath"),
        ("KRKN-IN:MountPth", "MountPath"),
        ("KRKN-IN:FSType", "FsType"),
        ("krkn-in:RaidLevel", "RaidLevel"),
        ("KRKN_IN:FsType", "FsType"),
        ("KRNK-IN:FsTyp", "FsType"),
        ("KRKN-IN:Team", None),
        ("KRKN-IN:Name", None),
        ("KRKN-IN:VolumeType", None),
        ("KRKN-IN:MountPath", None),
        ("GOAT-IN:MountPath", None),
        ("Team:MountPth", None),
        ("MountPath", None),
    ],
)
def test_misspelt_tags(name: str, meant: Optional[str]) -> None:
    assert tags.misspelt({name: "x"}, NS) == ({name: meant} if meant else {})
    assert tags.misspelt({name: " "}, NS) == {}


# ------------------------------------------------------------------ the node


def test_the_node_is_in_the_tags() -> None:
    found = tags.node(Section(), tagged(Prefix=" kafka", NodeId="0"))
    assert found == Node("kafka", "0")


def test_the_section_is_stronger() -> None:
    section = Section(prefix="log", node_id="7")
    assert tags.node(section, tagged(Prefix="kafka")) == Node("log", "7")
    one = tags.node(Section(node_id="7"), tagged(Prefix="kafka", NodeId="0"))
    assert one == Node("kafka", "7")


@pytest.mark.parametrize(
    ("section", "instance", "words"),
    [
        (Section(), None, ["KRKN-IN:Prefix and no tag KRKN-IN:NodeId"]),
        (Section(), {}, ["i-1 has no tag", "kraken.prefix and kraken.node_id"]),
        (Section(), tagged(Prefix="a"), ["i-1 has no tag KRKN-IN:NodeId."]),
        (Section(), tagged(Prefix="a", NodeId=" "), ["no tag KRKN-IN:NodeId."]),
        (Section(node_id="1"), {}, ["i-1 has no tag KRKN-IN:Prefix."]),
        (Section(tag_namespace="GOAT-IN"), {}, ["GOAT-IN:Prefix"]),
    ],
)
def test_missing_tags_are_awaited(section: Section, instance: Any, words: list) -> None:
    found = tags.node(section, instance, "i-1")
    assert isinstance(found, Trouble)
    assert found.kind == "identity-missing"
    assert found.waits
    for word in words:
        assert word in str(found)


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        (tagged(Prefx="a", NodeId="0"), "identity-missing"),
        (tagged(Prefix="a", nodeid="0"), "identity-missing"),
        (tagged(Prefix="a", NodeId="0", Volume="log"), "tag-misspelt"),
        (tagged(Prefix="a", NodeId="0", Volume="log", Volumes="log"), ""),
        (tagged(Prefix="a", NodeId="0", Node="0", MountPth="/log"), ""),
    ],
)
def test_misspelt_tags_of_the_instance(own: Any, kind: str) -> None:
    found = tags.node(Section(), own, "i-1")
    assert (found.kind if isinstance(found, Trouble) else "") == kind
    if isinstance(found, Trouble):
        assert "(KRKN-IN:" in str(found) and "?)" in str(found)


@pytest.mark.parametrize("value", ["a\tb", "a\u202eb", "a\0", "x" * 257, ["a", "b"]])
def test_an_unfit_node_is_refused(value: Any) -> None:
    found = tags.node(Section(), tagged(Prefix=value, NodeId="0"))
    assert isinstance(found, Trouble)
    assert found.kind == "identity-unfit"
    assert not found.waits
    assert str(found).isprintable()


# ------------------------------------------------------------------ the sets


@pytest.mark.parametrize(
    ("volumes", "tag", "names"),
    [
        ({}, None, ()),
        ({}, "log,data", ("log", "data")),
        ({}, " log , data,,log ", ("log", "data")),
        ({}, "log data", ("log", "data")),
        ({"data": {}}, None, ("data",)),
        ({"data": {}}, "log,data", ("data", "log")),
    ],
)
def test_declared(volumes: dict, tag: Optional[str], names: tuple) -> None:
    instance = None if tag is None else tagged(Volumes=tag)
    assert tags.declared(Section(volumes=volumes), instance) == names
