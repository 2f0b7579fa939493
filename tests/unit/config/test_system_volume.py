"""A root volume that carries the node's tags: left alone, told once, no failure."""

from __future__ import annotations

import logging
from typing import Any, Optional

import pytest

from cc_kraken.commands import shown
from cc_kraken.config import sets
from cc_kraken.model import Section, Volume
from cc_kraken.state.report import DONE, FAILED
from tests.unit.act.test_run import ME, Scene, environment, make, scene, tags
from tests.unit.config.test_sets import NODE, ZONE, configured, ids, volume

__all__ = ["environment", "make", "scene"]

ROOT = ids(9)[0]
TOLD = f"{ROOT} is the volume behind / or /boot of this instance"


def judged(*volumes: Volume, section: Optional[Section] = None, names: Any = ()) -> Any:
    return sets.claims(
        section or Section(), NODE, ZONE, volumes, names, frozenset({ROOT})
    )


@pytest.mark.parametrize("name", [None, "data", "not fit / at all"])
def test_it_is_no_member_of_a_set_and_no_set_of_its_own(name: Optional[str]) -> None:
    found = judged(volume(9, name, FsType="vfat"), volume(1))
    (claim,) = found.claims
    assert (claim.name, claim.trouble) == ("data", None)
    assert [one.id for one in claim.volumes] == list(ids(1))
    (note,) = found.notes
    assert note.startswith(TOLD)


def test_alone_it_makes_no_set() -> None:
    found = judged(volume(9, "data"))
    assert found.claims == () and len(found.notes) == 1
    trouble = sets.no_volumes(NODE, Section(), found.notes)
    assert trouble.waits and TOLD in str(trouble)


def test_a_set_that_must_exist_is_absent_and_the_text_says_why_it_is() -> None:
    found = judged(volume(9, "data"), names=("data",))
    (claim,) = found.claims
    trouble = claim.trouble
    assert trouble is not None and (trouble.kind, trouble.waits) == ("set-absent", True)
    assert f"{ROOT} is behind / or /boot of this instance" in str(trouble)


def test_it_does_not_count_as_a_member() -> None:
    both = {"VolumeSize": "2", "RaidLevel": "1"}
    (claim,) = judged(volume(9, **both), volume(1, **both)).claims
    assert claim.trouble is not None and claim.trouble.kind == "members-missing"
    assert f"{ROOT} is behind / or /boot" in str(claim.trouble)


MOUNTED = {"FsType": "ext4", "MountPath": "/data"}


def test_tags_of_it_do_not_disagree_with_those_of_the_set() -> None:
    (claim,) = judged(volume(9, FsType="vfat"), volume(1, **MOUNTED)).claims
    assert claim.trouble is None and claim.wanted.fs_type == "ext4"


def test_who_pins_a_set_to_it_is_told_at_once() -> None:
    section = configured(volume_ids=[ROOT])
    (claim,) = judged(volume(9), section=section, names=("data",)).claims
    trouble = claim.trouble
    assert trouble is not None
    assert (trouble.kind, trouble.waits) == ("system-volume", False)
    assert ROOT in str(trouble) and "volume_ids" in str(trouble)


def root(scene: Scene, **more: str) -> str:
    """The root volume of the instance, with its tags; the machine runs from it."""
    (volume,) = [
        one.volume_id
        for one in scene.lab.attached_to(scene.instance)
        if one.device == "/dev/xvda"
    ]
    scene.lab.tag(volume, {f"KRKN-IN:{key}": value for key, value in more.items()})
    scene.lab.tag(volume, ME)
    scene.tree.disk(90, volume.replace("-", ""))
    scene.tree.mount("/boot", scene.tree.number("nvme90n1"), "ext4", "/dev/nvme90n1")
    return volume


@pytest.mark.parametrize("name", ["", "data"])
def test_a_boot_with_it(
    scene: Scene, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It has made every boot fail."""
    own = root(scene, **({"VolumeName": name, "FsType": "vfat"} if name else {}))
    volume = scene.volume()
    with caplog.at_level(logging.INFO, "cc_kraken"):
        assert scene.run(60) == DONE
    assert list(scene.attached()) == [volume]
    assert set(scene.report.sets) == {"data"}
    assert [one["id"] for one in scene.report.sets["data"]["volumes"]] == [volume]
    # Nobody has to act: no warning, which would degrade the boot.
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len([text for text in caplog.messages if own in text]) == 1
    (note,) = scene.status()["notes"]
    assert own in note and note in shown.status_text(scene.status())
    # The next run says so again, and does as little.
    assert scene.run(60) == DONE
    assert len(scene.status()["notes"]) == 1


def test_a_node_that_has_nothing_else(scene: Scene) -> None:
    own = root(scene, VolumeName="data")
    assert scene.run(30) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "no-volumes" and own in error["message"]
    later = scene.lab.create_volume(1, "us-east-1a", tags("data"))
    assert scene.run(60) == DONE
    assert list(scene.attached()) == [later]
