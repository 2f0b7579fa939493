"""Whole runs that create volumes, against the strict EC2, in virtual time."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import pytest

from cc_kraken.act.report import DONE, FAILED, PENDING
from cc_kraken.model import Ec2Options, Section
from tests.unit.test_run_ec2 import (
    ME,
    ZONE,
    LabClock,
    Scene,
    environment,
    make,
    scene,
    tags,
)

__all__ = ["environment", "make", "scene"]
OTHER_ZONE = "us-east-1c"


@pytest.fixture(autouse=True)
def dates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabClock, "date", LabClock.now)


def section(scene: Scene, **create: Any) -> Section:
    settings: Dict[str, Any] = {"members": 2, "create": {"size": 8, **create}}
    options = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    return Section(ec2=options, volumes={"data": settings})


def created(scene: Scene) -> List[Dict[str, Any]]:
    client = scene.lab.client()
    found = client.describe_volumes(
        Filters=[{"Name": "tag-key", "Values": ["KRKN-IN:VolumeName"]}]
    )["Volumes"]
    return sorted(found, key=lambda one: str(one["Tags"]))


def test_a_node_without_volumes_gets_them(scene: Scene) -> None:
    assert scene.run(300, section=section(scene)) == DONE, scene.status()
    volumes = created(scene)
    assert len(volumes) == 2
    assert {one["VolumeId"] for one in volumes} == set(scene.attached())
    assert [one["Size"] for one in volumes] == [8, 8]
    assert all(one["Encrypted"] for one in volumes)
    assert 60 <= scene.took < 100
    assert scene.calls["CreateVolume"] == 2
    own = {one["Key"]: one["Value"] for one in volumes[0]["Tags"]}
    assert own == {
        **ME,
        "Name": "kafka-0-data-1",
        "KRKN-IN:VolumeName": "data",
        "KRKN-IN:VolumeSize": "2",
        "KRKN-IN:Member": "1",
    }
