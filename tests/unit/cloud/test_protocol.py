"""What a run asks of a cloud: EC2 and the tests' simulation keep one contract."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional, get_type_hints

import pytest

from cc_kraken.act.run import Run
from cc_kraken.act.waiting import Limits
from cc_kraken.boot.cloud_init import Events
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.cloud.protocol import IN_USE, Cloud
from cc_kraken.model import (
    Creation,
    Ec2Options,
    Holder,
    Identity,
    KrakenError,
    NewVolume,
    Node,
    Section,
)
from cc_kraken.state.report import DONE, Report
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.unit import worlds as w
from tests.unit.simulation import Disk, SimulatedCloud, tags_of
from tests.unit.tree import Tree

pytest.importorskip("boto3")

KINDS: Mapping[str, type[Cloud]] = {"EC2": Ec2, "simulation": SimulatedCloud}
METHODS = [name for name, one in vars(Cloud).items() if inspect.isfunction(one)]
METHODS = [name for name in METHODS if not name.startswith("_")]


class Place:
    """A cloud with one instance in it, and what else happens there."""

    def __init__(self, kind: str, lab: Ec2Lab) -> None:
        self.lab = lab
        self.real = kind == "EC2"
        self.simulated = SimulatedCloud(())
        self.cloud: Cloud = self.simulated
        self.me = w.ME
        if self.real:
            self.me = lab.run_instance(zone=w.ZONE, tags=tags_of(w.NODE))
            options = Ec2Options(endpoint_url=lab.endpoint_url)
            identity = Identity(self.me, "us-east-1", w.ZONE)
            self.cloud = Ec2(identity, Section(ec2=options))

    def volume(self, node: Node = w.NODE) -> str:
        if self.real:
            return self.lab.create_volume(1, w.ZONE, tags_of(node))
        made = w.volume_id(len(self.simulated.disks) + 1)
        self.simulated.disks[made] = Disk(made, tags_of(node))
        return made

    def stranger(self, volume_id: str) -> str:
        """Another instance that has this volume."""
        other = Node("rabbit", "1")
        if self.real:
            made = self.lab.run_instance(zone=w.ZONE, tags=tags_of(other))
            self.lab.attach_volume(volume_id, made, "/dev/sdf")
            return made
        made = "i-00000000000000009"
        self.simulated.disks[volume_id].holder = made
        known = Holder(made, "running", other.prefix, other.node_id)
        self.simulated.instances[made] = known
        return made

    def holder(self, volume_id: str) -> Optional[str]:
        if self.real:
            assert isinstance(self.lab.clock, ManualClock)
            self.lab.clock.advance(60)
        found = {volume.id: volume for volume in self.cloud.volumes(w.NODE)}[volume_id]
        assert found.state == ("in-use" if found.attachments else "available")
        return found.attachments[0].instance_id if found.attachments else None


@pytest.fixture(params=list(KINDS))
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Ec2Lab(clock=ManualClock()) as lab:
        yield Place(request.param, lab)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_methods_are_those_of_the_protocol(kind: str, method: str) -> None:
    theirs, ours = getattr(KINDS[kind], method), getattr(Cloud, method)
    assert list(inspect.signature(theirs).parameters) == list(
        inspect.signature(ours).parameters
    )
    assert get_type_hints(theirs) == get_type_hints(ours)


def test_an_object_of_each_is_a_cloud(place: Place) -> None:
    assert isinstance(place.cloud, Cloud)
    assert len(METHODS) == 9 and not isinstance(object(), Cloud)


def test_a_node_has_its_own_volumes_alone(place: Place) -> None:
    mine = {place.volume() for _ in range(3)}
    place.volume(Node("kafka", "1"))
    place.volume(Node("rabbit", "0"))
    found = place.cloud.volumes(w.NODE)
    assert [volume.id for volume in found] == sorted(mine)
    assert {volume.tags["KRKN-IN:NodeId"] for volume in found} == {"0"}
    assert sum(place.cloud.calls.values()) == 1


def test_a_volume_is_created_once_for_a_token(place: Place) -> None:
    wish = Creation(size_gib=2, tags={"Team": "data"})
    tags = {**tags_of(w.NODE), "KRKN-IN:Member": "1"}
    one, other = (NewVolume(w.ZONE, wish, tags, token * 64) for token in "ab")
    made = place.cloud.create_volume(one)
    assert place.cloud.create_volume(one) == made != place.cloud.create_volume(other)
    found = {volume.id: volume for volume in place.cloud.volumes(w.NODE)}
    assert len(found) == 2
    assert (found[made].size_gib, found[made].zone) == (2, w.ZONE)
    assert found[made].tags == tags


def test_volumes_that_look_like_ours_are_shown_with_those_of_every_node(
    place: Place,
) -> None:
    mine, others = place.volume(), place.volume(Node("rabbit", "0"))
    found = place.cloud.marked_volumes()
    assert [volume.id for volume in found] == sorted((mine, others))


def test_the_tags_of_this_instance(place: Place) -> None:
    assert place.cloud.instance_tags() == tags_of(w.NODE)


def test_what_is_attached_is_detached_again(place: Place) -> None:
    volume = place.volume()
    assert place.holder(volume) is None
    assert place.cloud.attach(volume).startswith("/dev/")
    assert place.holder(volume) == place.me
    for _ in range(2):
        place.cloud.detach(volume)
        assert place.holder(volume) is None


@pytest.mark.parametrize("who", ["another", "this instance"])
def test_a_volume_that_somebody_has_is_not_attached(place: Place, who: str) -> None:
    volume = place.volume()
    if who == "another":
        holder = place.stranger(volume)
    else:
        holder = place.me
        place.cloud.attach(volume)
    with pytest.raises(KrakenError) as caught:
        place.cloud.attach(volume)
    assert (caught.value.trouble.kind, caught.value.trouble.waits) == (IN_USE, True)
    assert place.holder(volume) == holder


def test_what_another_has_is_not_detached(place: Place) -> None:
    volume = place.volume()
    holder = place.stranger(volume)
    place.cloud.detach(volume)
    assert place.holder(volume) == holder


def test_holders(place: Place) -> None:
    other, gone = place.stranger(place.volume()), "i-0123456789abcdef0"
    found = place.cloud.holders([other, gone, other])
    assert {k: replace(v, private_ip="", private_dns="") for k, v in found.items()} == {
        other: Holder(other, "running", "rabbit", "1"),
        gone: Holder(gone, "gone"),
    }
    before = sum(place.cloud.calls.values())
    assert place.cloud.holders([]) == {}
    assert sum(place.cloud.calls.values()) == before


def test_a_run_needs_nothing_but_the_protocol(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    cloud = SimulatedCloud(())
    for number, name in enumerate(("log", "data"), 1):
        tags = {**tags_of(w.NODE), "KRKN-IN:VolumeName": name}
        disk = Disk(w.volume_id(number), tags)
        cloud.disks[disk.id] = disk
    attach: Callable[[str], str] = cloud.attach
    plugged: dict[str, int] = {}

    def plug(volume_id: str) -> str:
        device = attach(volume_id)
        plugged[volume_id] = len(plugged) + 1
        tree.disk(plugged[volume_id], volume_id.replace("-", ""))
        tree.nodeless(f"nvme{plugged[volume_id]}n1")
        return device

    cloud.attach = plug  # type: ignore[method-assign]
    identity = Identity(w.ME, "us-east-1", w.ZONE)
    told = Report(tree.paths, "test")
    section, limits = Section(), Limits(60, final=True)
    run = Run(
        section,
        identity,
        tree.paths,
        told,
        limits,
        Events(None).enter,
        cloud,
        ask_tags=False,
    )
    assert run.go() == DONE
    assert {name: entry["state"] for name, entry in told.sets.items()} == {
        "log": "attached",
        "data": "attached",
    }
    assert told.status["calls"] == {"attach": 2, "instance_tags": 1, "volumes": 1}
