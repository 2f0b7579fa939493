"""The section: where it comes from, what it may say, how a mistake reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional
from unittest.mock import MagicMock

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import example, given, settings
from pytest_mock import MockerFixture

import cc_kraken
from cc_kraken.config import loading
from cc_kraken.config.loading import Source
from cc_kraken.machine import schema_files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Section
from tests.conftest import MORE


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(
        etc=str(tmp_path / "etc"),
        instance=str(tmp_path / "instance"),
        state=str(tmp_path / "state"),
    )


def image(paths: Paths, name: str, text: str) -> str:
    return put(os.path.join(paths.etc, "cc-kraken", "conf.d", name), text)


def instance(paths: Paths, name: str, text: str) -> str:
    return put(os.path.join(paths.instance, "kraken.d", name), text)


def put(path: str, text: str) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(text)
    return path


def refusal(cfg: Any, paths: Paths) -> KrakenError:
    with pytest.raises(KrakenError) as caught:
        loading.load(cfg, paths)
    return caught.value


# ------------------------------------------------------------- on, off, silent


@pytest.mark.parametrize("cfg", [None, {}, {"users": []}])
def test_no_key_and_no_file_is_silence(cfg: Any, paths: Paths) -> None:
    assert loading.load(cfg, paths) is None


def test_silence_imports_neither_yaml_nor_jsonschema() -> None:
    script = (
        "import sys; from cc_kraken.config import loading as configuration; "
        "from cc_kraken.machine.paths import Paths; "
        "p = Paths(etc='/nonexistent', instance='/nonexistent'); "
        "assert configuration.load({'users': []}, p) is None; "
        "print(sorted({'yaml', 'jsonschema', 'boto3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(cc_kraken.__file__)),
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("value", [None, {}])
def test_nothing_means_on_with_tags_only(value: Any, paths: Paths) -> None:
    section = loading.load({"kraken": value}, paths)
    assert section is not None
    assert section == Section(digest=section.digest)
    assert section.enabled


def test_a_bare_key_in_a_file_means_on(paths: Paths) -> None:
    image(paths, "10.yaml", "kraken:\n")
    assert loading.load({}, paths) is not None


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_says_nothing(text: str, paths: Paths) -> None:
    image(paths, "10.yaml", text)
    assert loading.load({}, paths) is None


def test_other_files_are_not_read(paths: Paths) -> None:
    image(paths, "10.yaml.dpkg-old", "}")
    image(paths, "README", "}")
    assert loading.load({}, paths) is None


def test_enabled_false_switches_off_what_an_image_switched_on(paths: Paths) -> None:
    image(paths, "10.yaml", "kraken: {prefix: kafka}\n")
    section = loading.load({"kraken": {"enabled": False}}, paths)
    assert section is not None
    assert not section.enabled


def test_enabled_false_does_not_look_at_a_broken_image(paths: Paths) -> None:
    image(paths, "10.yaml", "kraken: {prefix: [\n")
    section = loading.load({"kraken": {"enabled": False}}, paths)
    assert section is not None
    assert not section.enabled


def test_what_is_wrong_in_a_section_that_is_switched_off_is_known(paths: Paths) -> None:
    """It was meant to switch on what the image switches off."""
    image(paths, "10.yaml", "kraken: {enabled: false}\n")
    section = loading.load({"kraken": {"enabeld": True, "waits": 9}}, paths)
    assert section is not None and not section.enabled
    assert section.off_by.endswith("conf.d/10.yaml")
    found = section.mistakes
    assert "kraken.enabeld is an unknown key in cloud-init's" in found
    assert "Did you mean enabled?" in found and "kraken.waits" in found
    right = loading.load({"kraken": {"wait": 9}}, paths)
    assert right is not None and (right.enabled, right.mistakes) == (False, "")


def test_who_is_switched_off_needs_no_jsonschema(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    off = loading.load({"kraken": {"enabled": False}}, paths)
    assert off is not None and (off.enabled, off.mistakes) == (False, "")
    more = loading.load({"kraken": {"enabled": False, "wait": 9}}, paths)
    assert more is not None and not more.enabled
    assert "[jsonschema-missing]" in more.mistakes


def test_the_strongest_word_about_enabled_counts(paths: Paths) -> None:
    image(paths, "10.yaml", "kraken: {enabled: false}\n")
    off = loading.load({"kraken": {"prefix": "kafka"}}, paths)
    on = loading.load({"kraken": {"enabled": True}}, paths)
    assert off is not None and on is not None
    assert (off.enabled, on.enabled) == (False, True)


# ---------------------------------------------------------------- the content


def test_the_section_of_the_design(paths: Paths) -> None:
    text = """
    prefix: kafka
    node_id: 0
    dry_run: false
    boot_wait: 91
    wait: 3601
    final_wait: 601
    metrics: true
    ec2: {region: us-east-1, endpoint_url: null, ca_bundle: null, use_fips: true}
    defaults: {fs_type: ext4}
    volumes:
      data:
        mount_path: /krkn_data
        fs_type: xfs
        raid_level: 0
        members: 3
        required: true
        mount_options: noatime
        mkfs_options: [-m, reflink=0]
        owner: kafka
        group: kafka
        mode: "0750"
        label: data
        grow: true
        allow_degraded: false
        mount_over: false
        volume_ids: []
        overwrite: {vol-0123456789abcdef0: 0123456789abcdef}
      log:
    """
    section = loading.load({"kraken": yaml.safe_load(text)}, paths)
    assert section is not None
    assert (section.prefix, section.node_id) == ("kafka", "0")
    assert (section.boot_wait, section.wait, section.final_wait) == (91, 3601, 601)
    assert section.metrics
    assert section.ec2.region == "us-east-1"
    assert section.ec2.endpoint_url is None
    assert (section.ec2.use_fips, section.ec2.use_dualstack) == (True, None)
    assert section.defaults == {"fs_type": "ext4"}
    assert section.volumes["data"]["mkfs_options"] == ["-m", "reflink=0"]
    assert section.volumes["log"] == {}


def test_sources_are_merged_weakest_first(paths: Paths) -> None:
    image(paths, "20.yaml", "kraken: {prefix: b, boot_wait: 20, wait: 20}\n")
    image(
        paths,
        "10.yaml",
        "kraken: {prefix: a, boot_wait: 10, final_wait: 10, dry_run: true,\n"
        "  volumes: {data: {fs_type: xfs, mount_path: /a, mkfs_options: [-K]}}}\n",
    )
    cfg = {
        "kraken": {
            "wait": 30,
            "node_id": 30,
            "volumes": {"data": {"mount_path": "/b", "mkfs_options": ["-q"]}},
        }
    }
    instance(paths, "x.yaml", "#cloud-config\nkraken: {node_id: x, ec2: {}}\n")
    section = loading.load(cfg, paths)
    assert section is not None
    assert (section.prefix, section.node_id) == ("b", "x")
    assert (section.boot_wait, section.wait, section.final_wait) == (20, 30, 10)
    assert section.dry_run
    assert section.volumes == {
        "data": {"fs_type": "xfs", "mount_path": "/b", "mkfs_options": ["-q"]}
    }


def test_nothing_takes_nothing_away(paths: Paths) -> None:
    image(paths, "10.yaml", "kraken: {volumes: {data: {fs_type: xfs}}}\n")
    section = loading.load({"kraken": {"volumes": {"data": None}}}, paths)
    bare = loading.load({"kraken": {"volumes": None}}, paths)
    assert section is not None and bare is not None
    assert section.volumes == bare.volumes == {"data": {"fs_type": "xfs"}}


def test_the_digest_is_of_the_content(paths: Paths) -> None:
    def digest(value: Any) -> str:
        section = loading.load({"kraken": value}, paths)
        assert section is not None
        return section.digest

    assert digest({"prefix": "a", "wait": 5}) == digest({"wait": 5, "prefix": "a"})
    assert digest({"prefix": "a"}) != digest({"prefix": "b"})
    assert digest({}) != digest({"enabled": False})
    assert len(digest({})) == 64


# ------------------------------------------------ what was found right before


def remember(paths: Paths, section: Optional[Section]) -> None:
    """As the last good run does it."""
    assert section is not None
    put(paths.checked, section.sources)


@pytest.fixture
def asked(mocker: MockerFixture) -> MagicMock:
    return mocker.spy(loading, "check")


def test_what_the_last_good_run_found_right_is_right(
    paths: Paths, asked: MagicMock
) -> None:
    image(paths, "10.yaml", "kraken: {volumes: {data: {fs_type: xfs}}}\n")
    cfg = {"kraken": {"prefix": "kafka", "wait": 30}}
    first = loading.load(cfg, paths)
    assert asked.call_count == 2
    remember(paths, first)
    assert loading.load(cfg, paths) == first
    assert asked.call_count == 2


@pytest.mark.parametrize(
    "text",
    [
        "kraken: {volumes: {7: {}}}\n",
        "kraken: {volumes: {'7': {}}, wait: 1.0}\n",
        "kraken: {volumes: {'7': {}}, wait: true}\n",
        "kraken: {volumes: {'7': {}}, wait: '1'}\n",
        "kraken: {volumes: {'7': {}}, prefix: 1}\n",
    ],
)
def test_what_differs_only_in_its_types_is_looked_at(paths: Paths, text: str) -> None:
    """Also where a stronger source hides it, and the whole is the same."""
    image(paths, "10.yaml", "kraken: {volumes: {'7': {}}, wait: 1}\n")
    cfg = {"kraken": {"prefix": "kafka"}}
    remember(paths, loading.load(cfg, paths))
    image(paths, "10.yaml", text)
    assert refusal(cfg, paths).trouble.kind.startswith("config-")


def test_with_another_schema_all_is_looked_at_again(
    paths: Paths, tmp_path: Path, mocker: MockerFixture, asked: MagicMock
) -> None:
    cfg = {"kraken": {"prefix": "kafka"}}
    remember(paths, loading.load(cfg, paths))
    newer = tmp_path / "newer.json"
    newer.write_text(Path(schema_files.path(schema_files.SECTION)).read_text() + "\n")
    mocker.patch.object(schema_files, "path", return_value=str(newer))
    loading.load(cfg, paths)
    assert asked.call_count == 2


@pytest.mark.parametrize("value", [{"prefx": "a"}, {"wait": 1 << 100_000}], ids=[1, 2])
def test_an_empty_memory_permits_nothing(paths: Paths, value: Any) -> None:
    put(paths.checked, "")
    assert refusal({"kraken": value}, paths).trouble.kind.startswith("config-")


# -------------------------------------------------------------- its mistakes


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (
            {"volumes": {"data": {"mount_pth": "/d"}}},
            "config-unknown-key",
            ["kraken.volumes.data.mount_pth is an unknown key in cloud-init's"]
            + ["Did you mean mount_path?"],
        ),
        ({"MountPath": "/d"}, "config-unknown-key", ["kraken.MountPath"]),
        (
            {"defaults": {"FsType": "xfs"}},
            "config-unknown-key",
            ["Did you mean fs_type?"],
        ),
        ({"defaults": {"volume_ids": []}}, "config-unknown-key", ["volume_ids"]),
        ({"xyzzy": 1}, "config-unknown-key", ["xyzzy", "expected enabled, tag_na"]),
        (
            {"volumes": {"a b": {}}},
            "config-unknown-key",
            ["'a b'", "letters, digits, dots"],
        ),
        ({"volumes": {"vol-0a": {}}}, "config-unknown-key", ["vol-0a"]),
        (True, "config-type", ["kraken is the boolean true", "a mapping or nothing"]),
        ("{}", "config-type", ["kraken is the string '{}'"]),
        ([], "config-type", ["an empty list"]),
        ({"prefix": 42}, "config-type", ["the number 42", "Write it in quotes."]),
        ({"prefix": {"a": 1}}, "config-type", ["a mapping with the key a"]),
        ({"node_id": 1.5}, "config-type", ["kraken.node_id is the number 1.5"]),
        ({"node_id": True}, "config-type", ["the boolean true"]),
        ({"node_id": -1}, "config-value", ["from 0"]),
        ({"wait": "60"}, "config-type", ["'60'", "Write it without quotes."]),
        ({"enabled": "false"}, "config-type", ["Write it without quotes."]),
        ({"enabled": "yes please"}, "config-type", ["Correct the value."]),
        ({"wait": "1h"}, "config-type", ["Correct the value."]),
        ({"wait": -1}, "config-value", ["a whole number from 0 to 604800"]),
        ({"blank_proof": "none"}, "config-value", ["one of sampled, full"]),
        ({"tag_namespace": "aws:x"}, "config-value", ["tag_namespace"]),
        ({"ec2": {"endpoint_url": "ftp://x"}}, "config-value", ["endpoint_url"]),
        (
            {"volumes": {"data": {"mode": 488}}},
            "config-type",
            ["the number 488", 'in quotes, as in "0750"'],
        ),
        ({"volumes": {"data": {"mode": "rwx"}}}, "config-value", ["'rwx'"]),
        ({"volumes": {"data": {"raid_level": 4}}}, "config-value", ["0, 1, 5, 6, 10"]),
        ({"volumes": {"data": {"raid_level": "0"}}}, "config-type", ["without quotes"]),
        ({"volumes": {"data": {"members": 0}}}, "config-value", ["from 1 to 128"]),
        ({"volumes": {"data": {"mount_path": "d"}}}, "config-value", ["'d'"]),
        ({"volumes": {"data": {"volume_ids": ["x"]}}}, "config-value", ["_ids[0]"]),
        ({"volumes": {"data": {"volume_ids": "vol-1"}}}, "config-type", ["a list"]),
        ({"volumes": {"data": {"overwrite": True}}}, "config-type", ["overwrite"]),
        ({"volumes": ["data"]}, "config-type", ["a list of 1", "a mapping"]),
        ({1: 2}, "config-type", ["the number 1 as key"]),
        ({"volumes": {7: {}}}, "config-type", ["the number 7 as key"]),
        ({"prefix": "a\nb"}, "config-value", ["kraken.prefix", "U+000A"]),
        (
            {"volumes": {"data": {"mount_path": "/a\u202eb"}}},
            "config-value",
            ["U+202E", "without control characters"],
        ),
        ({"defaults": {"mkfs_options": ["a\0"]}}, "config-value", ["[0]", "U+0000"]),
    ],
)
def test_mistakes(value: Any, kind: str, words: list, paths: Paths) -> None:
    error = refusal({"kraken": value}, paths)
    assert error.trouble.kind == kind
    assert not error.trouble.waits
    for word in words:
        assert word in str(error), str(error)
    assert "\n" not in str(error)


def test_all_mistakes_are_named(paths: Paths) -> None:
    cfg = {"kraken": {"wait": "1", "prefx": "a", "volumes": {"d": {"mode": 1}}}}
    error = refusal(cfg, paths)
    assert str(error) == (
        "[config-unknown-key] kraken.prefx is an unknown key in cloud-init's "
        "configuration (user-data or /etc/cloud); expected enabled, tag_namespace, "
        "prefix, node_id, node_ids, claim_order, dry_run, boot_wait, wait, final_wait, "
        "blank_proof, metrics, ec2, defaults, volumes. Did you mean prefix?"
        " Also wrong: "
        "kraken.wait is the string '1'; expected a whole number from 0 to 604800. "
        "Write it without quotes. kraken.volumes.d.mode is the number 1; expected a"
        " string of three or four octal digits, like 0750. Write the octal digits "
        'in quotes, as in "0750": without them YAML makes another number of it. '
        "For user-data, cc-kraken check /var/lib/cloud/instance/user-data.txt tells "
        "the lines."
    )


def test_a_mistake_in_user_data_says_who_tells_its_line(paths: Paths) -> None:
    says = "cc-kraken check /var/lib/cloud/instance/user-data.txt tells the lines."
    assert str(refusal({"kraken": {"prefx": "a"}}, paths)).endswith(says)
    image(paths, "10.yaml", "kraken: {prefx: a}\n")
    assert says not in str(refusal({}, paths))


def test_of_very_many_mistakes_the_first_are_told(paths: Paths) -> None:
    cfg = {"kraken": {f"odd{number:02}": 1 for number in range(40)}}
    text = str(refusal(cfg, paths))
    assert "kraken.odd00 is an unknown key" in text
    assert "kraken.odd08 is an unknown key" in text and "odd09" not in text
    assert " And 31 more." in text


def test_a_mistake_names_its_file(paths: Paths) -> None:
    path = image(paths, "10.yaml", "kraken: {prefx: a}\n")
    error = refusal({"kraken": {"prefix": "b"}}, paths)
    assert f"kraken.prefx is an unknown key in {path}" in str(error)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("kraken:\n  a: b\n c: d\n", "config-syntax", ["10.yaml line 3", "YAML"]),
        ("kraken: {a: [\n", "config-syntax", ["10.yaml line 2"]),
        ("kraken: {prefix: !!python/name:os.system x}", "config-syntax", ["line 1"]),
        ("kraken: {wait: 2020-13-45}", "config-syntax", ["10.yaml"]),
        ("kraken: {wait: !!int ''}", "config-syntax", ["10.yaml"]),
        ("kraken: {wait: !!bool x}", "config-syntax", ["10.yaml"]),
        ("kraken: {wait: " + "9" * 5000 + "}", "config-", ["10.yaml"]),
        ("kraken: &a {volumes: {data: *a}}", "config-unknown-key", ["data.volumes"]),
        ("kraken: {wait: 2020-01-01}", "config-type", ["a date"]),
        ("[" * 5000, "config-syntax", ["10.yaml"]),
        ("- kraken\n", "config-type", ["a list of 1", "top-level kraken:"]),
        (
            "prefix: a\n",
            "config-unknown-key",
            ["'prefix'", "under a top-level kraken:"],
        ),
        ("kraken: {}\nusers: []\n", "config-unknown-key", ["'users'"]),
    ],
)
def test_broken_files(text: str, kind: str, words: list, paths: Paths) -> None:
    image(paths, "10.yaml", text)
    error = refusal({}, paths)
    assert error.trouble.kind.startswith(kind), str(error)
    for word in words:
        assert word in str(error), str(error)
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)


def test_a_file_that_is_not_text(paths: Paths) -> None:
    path = image(paths, "10.yaml", "")
    Path(path).write_bytes(b"kraken: \xff\xfe\n")
    error = refusal({}, paths)
    assert error.trouble.kind == "config-unreadable"
    assert path in str(error)


def test_a_file_that_is_a_directory(paths: Paths) -> None:
    image(paths, "10.yaml/x", "")
    assert refusal({}, paths).trouble.kind == "config-unreadable"


def test_a_file_that_is_gone(paths: Paths, tmp_path: Path) -> None:
    image(paths, "10.yaml", "")
    os.remove(os.path.join(paths.etc, "cc-kraken", "conf.d", "10.yaml"))
    os.symlink(
        tmp_path / "gone", os.path.join(paths.etc, "cc-kraken", "conf.d", "10.yaml")
    )
    assert refusal({}, paths).trouble.kind == "config-unreadable"


# ---------------------------------------------------------------- properties

KEYS = ["enabled", "prefix", "node_id", "wait", "ec2", "defaults", "volumes", "kraken"]
ANYTHING: st.SearchStrategy = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS + ["data", "fs_type", "mode"])
            | st.integers()
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(ANYTHING, min_size=1, max_size=3))
@settings(max_examples=300 * MORE)
@example([{"volumes": {"data": None}}, {"volumes": None}])
def test_whatever_is_said_is_a_section_or_a_sentence(values: list) -> None:
    sources = [Source(f"file {index}", value) for index, value in enumerate(values)]
    try:
        section = loading.build(sources)
    except KrakenError as error:
        assert error.trouble.kind.startswith("config-")
        assert error.trouble.remedy
        assert str(error).isprintable()
    else:
        assert section is not None
        assert len(section.digest) == 64
        for value in values if section.enabled else []:
            assert not loading.check(value)


RIGHT: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "prefix": st.sampled_from(["a", "b"]),
        "wait": st.integers(0, 9),
        "volumes": st.dictionaries(
            st.sampled_from(["data", "log"]),
            st.fixed_dictionaries(
                {},
                optional={
                    "fs_type": st.sampled_from(["xfs", "ext4"]),
                    "mkfs_options": st.lists(st.just("-K"), max_size=2),
                },
            ),
        ),
    },
)


@given(RIGHT, RIGHT, RIGHT)
def test_merging_is_associative_and_the_strongest_wins(a: Any, b: Any, c: Any) -> None:
    merge = loading._merge
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    section = loading.build([Source("a", a), Source("b", b), Source("c", c)])
    assert section is not None
    for key in ("prefix", "wait"):
        said = [source[key] for source in (a, b, c) if key in source]
        if said:
            assert getattr(section, key) == said[-1]
