"""cc_kraken.boot.diversion: our key in cloud-init's schema (the real dpkg-divert
in a directory)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pytest_mock import MockerFixture

from cc_kraken.boot import diversion
from cc_kraken.boot.diversion import Diversion
from cc_kraken.model import KrakenError

# The two shapes of cloud-init's schema, with one key each.
OPEN: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "$defs": {
        "all_modules": {"enum": ["mounts", "ssh"]},
        "cc_ssh": {"properties": {"ssh_pwauth": {"type": "boolean"}}},
    },
    "allOf": [{"$ref": "#/$defs/cc_ssh"}],
}
CLOSED: dict[str, Any] = {
    **OPEN,
    "properties": {"ssh_pwauth": {}},
    "additionalProperties": False,
}

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-divert") is None, reason="no dpkg-divert here"
)


def text(schema: dict[str, Any], version: int = 1) -> bytes:
    return json.dumps({**schema, "description": f"version {version}"}).encode()


@pytest.fixture
def system(tmp_path: Path) -> Diversion:
    """A root directory with dpkg's records and cloud-init's schema."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    found = Diversion(root=str(tmp_path))
    Path(found.path).parent.mkdir(parents=True)
    Path(found.path).write_bytes(text(CLOSED))
    return found


def diverted_by(system: Diversion) -> str:
    return subprocess.run(
        [
            "dpkg-divert",
            f"--root={system.root}",
            "--listpackage",
            f"/{diversion.SCHEMA}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def files(system: Diversion) -> dict[str, bytes]:
    directory = Path(system.path).parent
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def accepts(system: Diversion, config: dict[str, Any]) -> bool:
    schema = json.loads(Path(system.path).read_bytes())
    jsonschema.Draft4Validator.check_schema(schema)
    return jsonschema.Draft4Validator(schema).is_valid(config)


@pytest.mark.parametrize("stock", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("config", "right"),
    [
        ({"kraken": {"wait": 60}}, True),
        ({"kraken": None}, True),
        ({"kraken": {"volumes": {"data": {"members": 3}}}}, True),
        ({"kraken": {"wait": "long"}}, False),
        ({"kraken": {"colour": "red"}}, False),
        ({"ssh_pwauth": True}, True),
        ({"ssh_pwauth": "x"}, False),
    ],
)
def test_the_key_is_validated_and_the_others_as_before(
    system: Diversion, stock: dict[str, Any], config: dict[str, Any], right: bool
) -> None:
    Path(system.path).write_bytes(text(stock))
    system.register()
    assert accepts(system, config) is right


def test_a_closed_schema_stays_closed(system: Diversion) -> None:
    assert not accepts(system, {"kraken": {}})
    system.register()
    assert accepts(system, {"kraken": {}})
    assert not accepts(system, {"krakken": {}})


def test_there_and_back_is_as_before(system: Diversion) -> None:
    before = files(system)
    system.register()
    assert diverted_by(system) == "cloud-init-kraken"
    assert files(system)["schema-cloud-config-v1.json.distrib"] == text(CLOSED)
    system.unregister()
    assert diverted_by(system) == ""
    assert files(system) == before
    assert system.unregister() == []


def test_twice_is_once(system: Diversion) -> None:
    system.register()
    before = files(system)
    assert system.register() == ["cloud-init's schema knows the key kraken already."]
    assert files(system) == before


def test_an_upgrade_underneath_is_taken_up(system: Diversion) -> None:
    system.register()
    Path(system.original).write_bytes(text(CLOSED, version=2))
    system.register()
    assert b"version 2" in Path(system.path).read_bytes()
    system.unregister()
    assert Path(system.path).read_bytes() == text(CLOSED, version=2)


def cut_after_copy(system: Diversion) -> None:
    Path(system.original).write_bytes(Path(system.path).read_bytes())


def cut_after_divert(system: Diversion) -> None:
    cut_after_copy(system)
    system._divert("--add")


def cut_in_unregister(system: Diversion) -> None:
    system.register()
    system._divert("--remove")


@pytest.mark.parametrize("cut", [cut_after_copy, cut_after_divert, cut_in_unregister])
def test_what_was_cut_off_is_finished_either_way(system: Diversion, cut: Any) -> None:
    before = files(system)
    cut(system)
    system.register()
    assert accepts(system, {"kraken": {}})
    assert files(system)["schema-cloud-config-v1.json.distrib"] == text(CLOSED)
    system.unregister()
    cut(system)
    system.unregister()
    assert files(system) == before
    assert diverted_by(system) == ""


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"$defs": {}}', b'{"allOf": []}'])
def test_a_schema_of_another_shape_is_left_alone(
    system: Diversion, content: bytes
) -> None:
    Path(system.path).write_bytes(content)
    (said,) = system.register()
    assert "left alone" in said
    assert files(system) == {Path(system.path).name: content}
    assert diverted_by(system) == ""


def test_the_diversion_of_another_package_is_left_alone(system: Diversion) -> None:
    path = f"/{diversion.SCHEMA}"
    subprocess.run(
        [
            *["dpkg-divert", f"--root={system.root}", "--quiet", "--no-rename"],
            *["--package", "other", "--divert", f"{path}.other", "--add", path],
        ],
        check=True,
    )
    before = files(system)
    assert "other diverts" in system.register()[0]
    assert system.unregister() == []
    assert files(system) == before
    assert diverted_by(system) == "other"


def test_what_dpkg_refuses_is_told(system: Diversion) -> None:
    shutil.rmtree(Path(system.root) / "var/lib/dpkg")
    with pytest.raises(KrakenError) as caught:
        system.register()
    trouble = caught.value.trouble
    assert trouble.kind == "diversion-failed"
    assert "var/lib/dpkg" in trouble.found and diversion.SCHEMA in trouble.expected
    assert "--no-schema" in trouble.remedy


def test_without_cloud_init_there_is_nothing_to_do(tmp_path: Path) -> None:
    system = Diversion(root=str(tmp_path))
    assert "there is no" in system.register()[0]
    assert system.unregister() == []
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------- without dpkg


@pytest.fixture
def rpm(system: Diversion, mocker: MockerFixture) -> Diversion:
    """The same system where rpm is the package manager."""
    mocker.patch.object(shutil, "which", return_value=None)
    return system


def test_without_dpkg_the_file_is_put_back_as_it_was(rpm: Diversion) -> None:
    before, stat = files(rpm), Path(rpm.path).stat()
    assert not rpm.by_itself and not rpm.registered
    assert any("rpm -V" in text for text in rpm.register())
    assert accepts(rpm, {"kraken": {"wait": 60}}) and rpm.registered
    assert rpm.register() == ["cloud-init's schema knows the key kraken already."]
    rpm.unregister()
    assert files(rpm) == before
    after = Path(rpm.path).stat()
    assert (after.st_mtime_ns, after.st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert rpm.unregister() == []


def test_an_upgrade_by_rpm_is_taken_up(rpm: Diversion) -> None:
    rpm.register()
    Path(rpm.path).unlink()
    Path(rpm.path).write_bytes(text(CLOSED, version=2))
    rpm.register()
    assert b"version 2" in Path(rpm.path).read_bytes() and rpm.registered
    rpm.unregister()
    assert files(rpm) == {Path(rpm.path).name: text(CLOSED, version=2)}


@pytest.mark.parametrize("gone", [True, False])
def test_an_older_original_is_never_put_in_place_of_a_newer(
    rpm: Diversion, gone: bool
) -> None:
    """cloud-init was renewed, or removed, and the trigger did not run."""
    rpm.register()
    Path(rpm.path).unlink()
    if not gone:
        Path(rpm.path).write_bytes(text(CLOSED, version=2))
    rpm.unregister()
    left = {} if gone else {Path(rpm.path).name: text(CLOSED, version=2)}
    assert files(rpm) == left
