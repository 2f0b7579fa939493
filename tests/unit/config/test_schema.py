"""The schema files, and how a mistake that jsonschema finds is told."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Callable

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import example, given, settings
from pytest_mock import MockerFixture

import cc_kraken
from cc_kraken.config import creation, validation, values
from cc_kraken.config.tags import SET_TAGS
from cc_kraken.filesystems import registry
from cc_kraken.machine import schema_files
from cc_kraken.model import Creation, Ec2Options, KrakenError, Section
from tests.conftest import MORE

DRAFT_04 = "http://json-schema.org/draft-04/schema#"
# Keywords that later drafts brought, which cloud-init's validator ignores.
LATER = {"const", "contains", "if", "then", "else", "prefixItems", "examples"}


def subschemas(schema: Any) -> Iterator[dict]:
    yield schema
    for key in ("properties", "patternProperties"):
        for one in schema.get(key, {}).values():
            yield from subschemas(one)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from subschemas(schema[key])


@pytest.fixture(scope="module")
def section() -> dict:
    return schema_files.load(schema_files.SECTION)


def test_every_pattern_is_told_in_words(section: dict) -> None:
    patterns = set()
    for schema in subschemas(section):
        patterns |= {schema["pattern"]} if "pattern" in schema else set()
        patterns |= set(schema.get("patternProperties", ()))
    assert patterns == set(validation.PATTERN_WORDS)
    for words in validation.PATTERN_WORDS.values():
        assert not re.search(r"[\\^$?*\[\]{}]", words)


def test_every_key_is_a_field_of_the_section(section: dict) -> None:
    keys = section["properties"]["kraken"]["properties"]
    fields = {field.name for field in dataclasses.fields(Section)}
    assert set(keys) == fields - {"digest", "sources", "off_by", "mistakes"}
    options = {field.name for field in dataclasses.fields(Ec2Options)}
    assert set(keys["ec2"]["properties"]) == options


@pytest.mark.parametrize("name", [schema_files.SECTION, schema_files.STATUS])
def test_files_are_draft_04(name: str) -> None:
    document = schema_files.load(name)
    assert document["$schema"] == DRAFT_04
    jsonschema.Draft4Validator.check_schema(document)
    for schema in subschemas(document):
        assert not LATER & set(schema)


def test_the_section_demands_nothing_and_refers_to_nothing(section: dict) -> None:
    for schema in subschemas(section):
        assert "required" not in schema
        assert "$ref" not in schema


def test_every_mapping_of_the_section_is_closed(section: dict) -> None:
    kraken = section["properties"]["kraken"]
    mappings = [one for one in subschemas(kraken) if "object" in one.get("type", ())]
    assert len(mappings) == 9
    assert all(one["additionalProperties"] is False for one in mappings)


def test_every_key_of_the_section_is_explained(section: dict) -> None:
    for schema in subschemas(section["properties"]["kraken"]):
        for key, one in schema.get("properties", {}).items():
            assert one["description"].endswith("."), key


def test_defaults_are_the_settings_of_volumes_without_volume_ids(
    section: dict,
) -> None:
    kraken = section["properties"]["kraken"]["properties"]
    (volume,) = kraken["volumes"]["patternProperties"].values()
    rest = dict(volume["properties"])
    del rest["volume_ids"], rest["overwrite"], rest["create"]
    assert rest == kraken["defaults"]["properties"]
    assert set(SET_TAGS.values()) < set(rest)


def test_the_schema_and_the_code_know_the_same_values(section: dict) -> None:
    settings_of = section["properties"]["kraken"]["properties"]["defaults"]
    keys = settings_of["properties"]
    assert keys["raid_level"]["enum"] == list(values.FEWEST_MEMBERS)
    assert keys["fs_type"]["enum"] == [*registry.TYPES, values.NO_FILESYSTEM]
    assert keys["members"]["maximum"] == values.MOST_MEMBERS
    assert keys["owner"]["maximum"] == values.LARGEST_ID
    kraken = section["properties"]["kraken"]["properties"]
    (volume,) = kraken["volumes"]["patternProperties"].values()
    create = volume["properties"]["create"]["properties"]
    assert create["type"]["enum"] == list(creation.TYPES)
    kinds = creation.TYPES.values()
    assert create["size"]["maximum"] == max(kind.sizes[1] for kind in kinds)
    for key, bounds in (
        ("iops", [kind.iops for kind in kinds if kind.iops]),
        ("throughput", [kind.throughput for kind in kinds if kind.throughput]),
    ):
        assert create[key]["minimum"] == min(least for least, _ in bounds)
        assert create[key]["maximum"] == max(most for _, most in bounds)
    assert create["after"]["default"] == Creation.after
    assert create["type"]["default"] == Creation.type


def test_found_in_a_checkout() -> None:
    path = schema_files.path(schema_files.SECTION)
    assert path.endswith("/schema/cloud-config-kraken.json")


def test_found_when_installed(tmp_path: Any) -> None:
    package = tmp_path / "cc_kraken"
    here = os.path.dirname(cc_kraken.__file__)
    shutil.copytree(here, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        os.path.dirname(schema_files.path(schema_files.SECTION)), package / "schemas"
    )
    script = (
        "import cc_kraken; from cc_kraken.machine import schema_files as s; "
        "print(s.path(s.STATUS)); s.load(s.STATUS); "
        "assert not hasattr(cc_kraken, 'schema')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.strip() == str(package / "schemas" / "status.json")


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(KrakenError, match="The file no.json"):
        schema_files.path("no.json")


# ------------------------------------------------------------- the mistakes

NAMES = st.sampled_from(["data", "log", "vol-0a", "vol-data", "a b", "", "x" * 65])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.sampled_from([2**32, 2**53, 3600, 10**30])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["ext4", "none", "full", "/data", "0750", "99", "vol-0123abcd", "us-east-1"]
        + ["https://x", "KRKN-IN", "aws:x", "data\n", "x" * 300, "0123456789abcdef"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def right(schema: Any) -> st.SearchStrategy:
    """Values that the schema allows, most of the time."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    names = schema["type"]
    kinds = [names] if isinstance(names, str) else names
    return st.one_of([RIGHT[kind](schema) for kind in kinds])


def right_string(schema: Any) -> st.SearchStrategy:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"])
    return st.text(min_size=schema.get("minLength", 0), max_size=9)


def right_object(schema: Any) -> st.SearchStrategy:
    # One value in eight is anything; sometimes there is an odd key.
    known = {
        key: st.integers(0, 7).flatmap(
            lambda dice, one=one: right(one) if dice else VALUES  # type: ignore[misc]
        )
        for key, one in schema.get("properties", {}).items()
    }
    parts = [st.fixed_dictionaries({}, optional=known)]
    for pattern, one in schema.get("patternProperties", {}).items():
        names = st.from_regex(pattern, fullmatch=True) | NAMES
        parts.append(st.dictionaries(names, right(one), max_size=2))
    odd = st.dictionaries(st.text(max_size=6), VALUES, min_size=1, max_size=1)
    parts.append(st.integers(0, 15).flatmap(lambda dice: st.just({}) if dice else odd))
    return st.tuples(*parts).map(
        lambda parts: {key: one for part in parts for key, one in part.items()}
    )


RIGHT: dict[str, Callable[[Any], st.SearchStrategy]] = {
    "null": lambda _: st.none(),
    "boolean": lambda _: st.booleans(),
    "integer": lambda one: st.integers(one["minimum"], one["maximum"]),
    "string": right_string,
    "array": lambda one: st.lists(right(one["items"]), max_size=3),
    "object": right_object,
}


def sections() -> st.SearchStrategy:
    return right(schema_files.load(schema_files.SECTION)["properties"]["kraken"])


@given(sections() | VALUES)
@settings(max_examples=400 * MORE)
@example({"volumes": {"data": {"raid_level": True}}})
@example({"volumes": {"data": {"raid_level": 1.0}}})
@example({"wait": float("nan")})
@example({"volumes": {"data\n": None}})
@example({"volumes": {"data": {"mkfs_options": ["-m", 0]}}})
def test_what_jsonschema_finds_is_told_and_nothing_else(value: Any) -> None:
    document = schema_files.load(schema_files.SECTION)
    ours = validation.mistakes({"kraken": value}, document)
    theirs = list(jsonschema.Draft4Validator(document).iter_errors({"kraken": value}))
    assert bool(ours) == bool(theirs), (ours, theirs)
    # And the same places, an unknown key being theirs one level higher.
    ours_at = {
        one.path.rpartition(".")[0] if one.kind == "unknown-key" else one.path
        for one in ours
    }
    theirs_at = {dotted(error.absolute_path) for error in theirs}
    if all("'" not in place for place in ours_at | theirs_at):
        assert {place.split("[")[0] for place in ours_at} == {
            place.split("[")[0] for place in theirs_at
        }


def dotted(path: Any) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{validation._key(step)}" if text else validation._key(step)
    return text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"uniqueItems": True}, [1, 1]),
        ({"required": ["a"]}, {}),
        ({"anyOf": [{"type": "string"}]}, 1),
        ({"not": {}}, 1),
    ],
)
def test_every_keyword_of_json_schema_counts(schema: Any, value: Any) -> None:
    """Also those that our schema does not use yet."""
    (found,) = validation.mistakes(value, schema, "kraken.x")
    assert (found.kind, found.path) == ("value", "kraken.x")


@pytest.mark.parametrize(("value", "fits"), [(1, True), (True, False), (0, False)])
def test_true_is_no_number(value: Any, fits: bool) -> None:
    schema = {"type": "integer", "minimum": 1, "enum": [1, 5]}
    assert (validation.mistakes(value, schema) == []) is fits


def test_a_wrong_type_is_one_mistake() -> None:
    schema = {"type": "integer", "enum": [0, 1], "minimum": 0}
    (found,) = validation.mistakes("0", schema, "kraken.raid_level")
    assert found.kind == "type"


def test_mistakes_come_in_one_order_however_they_are_written() -> None:
    one = {"type": "string", "pattern": "^/", "minLength": 2}
    schema = {
        "additionalProperties": False,
        "properties": {"a": one, "b": one, "c": {"items": one}},
    }
    value = {"z": 1, "b": "x", "a": 1, "c": ["/x", 2, "x"]}
    for written in (value, dict(reversed(value.items()))):
        found = [mistake.path for mistake in validation.mistakes(written, schema)]
        assert found == ["z", "a", "b", "b", "c[1]", "c[2]", "c[2]"]


@pytest.mark.parametrize(
    "value", [1 << 100_000, [1 << 100_000]], ids=["too large", "in a list"]
)
def test_a_number_that_python_does_not_print(section: dict, value: Any) -> None:
    (found,) = validation.mistakes({"kraken": {"wait": value}}, section)
    assert found.kind in ("type", "value") and len(found.found) < 200


def test_a_value_that_is_nested_too_deeply(section: dict) -> None:
    value: Any = {}
    for _ in range(100_000):
        value = {"x": value}
    (found,) = validation.mistakes({"kraken": {"wait": value}}, section)
    assert found.kind in ("type", "value") and len(found.found) < 200


def test_jsonschema_missing(section: dict, mocker: MockerFixture) -> None:
    mocker.patch.dict(sys.modules, {"jsonschema": None})
    with pytest.raises(KrakenError) as caught:
        validation.mistakes({}, section)
    assert caught.value.trouble.kind == "jsonschema-missing"
    assert "python3-jsonschema" in caught.value.trouble.remedy


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing (null)"),
        (True, "the boolean true"),
        (42, "the number 42"),
        pytest.param(1 << 100000, "the number of thousands of digits", id="huge"),
        ("x", "the string 'x'"),
        ({}, "an empty mapping"),
        ({"a": 1, "b c": 2}, "a mapping with the keys a, 'b c'"),
        ([1, 2], "a list of 2"),
        (b"x", "a bytes (b'x')"),
    ],
)
def test_describe(value: Any, text: str) -> None:
    assert validation.describe(value) == text


# ------------------------------------------------------------- status.json


def status(**changes: Any) -> dict:
    done = {
        "version": 1,
        "cc_kraken": "0.1.0",
        "instance": {"id": "i-1", "region": "us-east-1", "zone": "us-east-1a"},
        "node": {"prefix": "kafka", "node_id": "0"},
        "claim": None,
        "stage": "network",
        "state": "failed",
        "dry_run": False,
        "started": "2024-05-01T10:00:00Z",
        "until": "2024-05-01T11:00:00Z",
        "updated": "2024-05-01T10:00:01.250Z",
        "finished": None,
        "waiting_for": None,
        "waiting_since": None,
        "sets": {
            "data": {
                "state": "failed",
                "required": True,
                "reason": None,
                "error": {
                    "kind": "members-missing",
                    "message": "m",
                    "found": "f",
                    "expected": "e",
                    "remedy": "r",
                },
                "volumes": [{"id": "vol-1", "device": None, "state": "available"}],
                "array": None,
                "filesystem": None,
                "mount_path": None,
                "owner": None,
                "done": [],
                "plan": ["attach vol-1"],
                "outcomes": [],
                "warnings": [],
            }
        },
        "phases": [{"name": "attach", "seconds": 1.5}],
        "calls": {"DescribeVolumes": 1},
        "processes": 3,
        "warnings": [],
        "errors": [],
        "earlier": [],
    }
    done.update(changes)
    return done


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"node": None, "instance": None, "state": "off"}, True),
        ({"finished": "2024-05-01T10:00:00+00:00"}, True),
        ({"finished": "2024-05-01 10:00"}, False),
        ({"state": "ok"}, False),
        ({"version": 2}, False),
        ({"sets": {"data": {"state": "mounted"}}}, False),
        ({"phases": [{"name": "attach", "seconds": -1}]}, False),
        ({"more": 1}, False),
    ],
)
def test_status(changes: dict, right: bool) -> None:
    validator = jsonschema.Draft4Validator(schema_files.load(schema_files.STATUS))
    assert validator.is_valid(json.loads(json.dumps(status(**changes)))) is right
