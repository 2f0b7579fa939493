"""Whole runs that create volumes, against the strict EC2, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cc_kraken.act.creating import Creating
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.commands.shown import plan_text, status_text
from cc_kraken.model import Ec2Options, KrakenError, Section
from cc_kraken.state.report import DONE, FAILED, PENDING
from tests.conftest import LATER, soon
from tests.unit.act.test_run import (
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


class Killed(BaseException):
    """The run ends here, as with SIGKILL."""


@pytest.fixture(autouse=True)
def edges(monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    """The lab's time is that of the calendar; the instance is in no group."""
    monkeypatch.setattr(LabClock, "date", LabClock.now)
    mocker.patch.object(Ec2, "lifecycle", return_value="")


def section(scene: Scene, members: int = 3, **more: Any) -> Section:
    create: Mapping[str, Any] = more.pop("create", {})
    sets = {"data": {"members": members, "create": {"size": 1, **create}}}
    sets.update(more.pop("sets", {}))
    options = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    return Section(ec2=options, volumes=sets, **more)


def run(scene: Scene, seconds: float = 300, **more: Any) -> str:
    """A run of a section (``members``, ``create``, ``sets``), or of this one."""
    keys = ("final", "background", "dry_run", "ask_tags")
    how = {key: more.pop(key) for key in keys if key in more}
    return scene.run(seconds, section=section(scene, **more), **how)


def existing(scene: Scene) -> list[dict[str, Any]]:
    """The volumes of the prefix, in the order of their names."""
    found = scene.lab.client().describe_volumes(
        Filters=[{"Name": "tag-key", "Values": ["KRKN-IN:VolumeName"]}]
    )["Volumes"]
    for one in found:
        one["tags"] = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
    return sorted(found, key=lambda one: str(one["tags"].get("Name")))


def wide_looks(scene: Scene) -> int:
    """How often a run has asked for all that has tags like ours."""
    return sum("?refix" in str(call.parameters) for call in scene.lab.calls)


def cut_off(scene: Scene, mocker: MockerFixture, after: int, **more: Any) -> None:
    """A run that is killed after so many volumes."""
    create = Ec2.create_volume
    made: list[str] = []

    def killing(self: Ec2, new: Any) -> str:
        if len(made) == after:
            raise Killed
        made.append(create(self, new))
        return made[-1]

    patched = mocker.patch.object(Ec2, "create_volume", killing)
    with pytest.raises(Killed):
        run(scene, **more)
    mocker.stop(patched)
    assert len(existing(scene)) == after


# ------------------------------------------------------------------ a new node


def test_a_node_without_volumes_gets_them_in_one_run(scene: Scene) -> None:
    assert run(scene) == DONE
    volumes = existing(scene)
    assert {one["VolumeId"] for one in volumes} == set(scene.attached())
    assert [one["Size"] for one in volumes] == [1, 1, 1]
    assert all(one["Encrypted"] for one in volumes)
    assert 60 <= scene.took < 90
    assert scene.calls["CreateVolume"] == 3
    assert volumes[0]["tags"] == {
        **ME,
        "Name": "kafka-0-data-1",
        "KRKN-IN:VolumeName": "data",
        "KRKN-IN:VolumeSize": "3",
        "KRKN-IN:Member": "1",
    }
    assert run(scene) == DONE and len(existing(scene)) == 3


def test_without_create_nothing_is_created_and_nothing_more_is_asked(
    scene: Scene,
) -> None:
    assert run(scene, sets={"data": {}}) == FAILED
    assert scene.error()["kind"] == "set-absent"
    assert scene.calls["CreateVolume"] == 0
    assert wide_looks(scene) == 0


def test_what_exists_is_used_and_nothing_more_is_asked(scene: Scene) -> None:
    volume = scene.volume()
    assert run(scene, members=1) == DONE
    assert list(scene.attached()) == [volume]
    assert scene.calls["CreateVolume"] == 0 and scene.calls["DescribeVolumes"] == 1


def test_several_sets_are_created_by_the_same_looks(scene: Scene) -> None:
    log = {"log": {"create": {"size": 1, "type": "gp2"}}}
    assert run(scene, sets=log) == DONE
    assert len(scene.attached()) == 4
    assert wide_looks(scene) == 2


def test_the_status_tells_what_is_awaited_and_what_is_done(scene: Scene) -> None:
    seen: list[str] = []
    scene.later(30, lambda: seen.append(status_text(scene.status())))
    assert run(scene) == DONE
    assert "No volume of the set data of kafka/0 exists." in seen[0]
    assert "60 s apart" in seen[0]
    phases = [one["name"] for one in scene.status()["phases"]]
    assert phases[:3] == ["identify", "create", "attach"]
    done = scene.status()["sets"]["data"]["done"]
    assert done[0].startswith("create volume 1, 2, 3 of 3 (1 GiB gp3, encrypted)")


def test_what_comes_between_the_looks_is_used(scene: Scene) -> None:
    scene.later(40, lambda: scene.volume())
    assert run(scene, members=1) == DONE
    assert scene.calls["CreateVolume"] == 0


def test_a_dry_run_lists_what_would_be_created_and_creates_nothing(
    scene: Scene,
) -> None:
    create = {"size": 100, "iops": 4000}
    assert run(scene, dry_run=True, create=create) == DONE
    told = plan_text(scene.report.status)
    assert "create volume 1, 2, 3 of 3 (100 GiB gp3, 4000 IOPS, encrypted)" in told
    assert "this adds 300 GiB of gp3 (and 3000 provisioned IOPS" in told
    assert " beyond what is included) to the monthly bill\n" in told
    assert "then they are attached, and used like blank ones" in told
    assert scene.took < 10 and scene.calls["CreateVolume"] == 0


def test_of_one_volume_a_dry_run_speaks_as_of_one(scene: Scene) -> None:
    assert run(scene, dry_run=True, members=1) == DONE
    told = plan_text(scene.report.status)
    assert "then it is attached, and used like a blank one" in told


def test_what_a_network_stage_has_not_created_the_background_creates(
    scene: Scene,
) -> None:
    assert run(scene, 30, final=False) == PENDING
    assert run(scene, 300) == DONE


# ------------------------------------------------------- a stale or failed look


def test_a_failed_call_is_no_answer(scene: Scene) -> None:
    # The first wide look is refused; the minute begins with the one that answers.
    scene.later(0.0, lambda: None)
    scene.lab.unavailable("DescribeVolumes", calls=None)
    scene.later(100, scene.lab.heal)
    assert run(scene, 400) == DONE
    assert scene.took >= 160


def test_a_volume_that_ec2_shows_late_is_not_made_twice(scene: Scene) -> None:
    volume = scene.volume()
    scene.lab.lag(30)
    assert run(scene, 300, members=1) == DONE
    assert list(scene.attached()) == [volume]
    assert scene.calls["CreateVolume"] == 0


def test_volumes_that_ec2_shows_late_are_not_created_again(scene: Scene) -> None:
    scene.lab.lag(45)
    assert run(scene, 400) == DONE
    assert scene.calls["CreateVolume"] == 3 == len(existing(scene))


@pytest.mark.parametrize("lost", range(3))
def test_an_answer_that_was_lost_makes_no_second_volume(
    scene: Scene, lost: int, mocker: MockerFixture
) -> None:
    create = Ec2.create_volume
    count = iter(range(100))

    def losing(self: Ec2, new: Any) -> str:
        made = create(self, new)
        if next(count) == lost:
            raise KrakenError(_unavailable())
        return made

    mocker.patch.object(Ec2, "create_volume", losing)
    assert run(scene, 400) == DONE
    assert len(existing(scene)) == 3


def _unavailable() -> Any:
    from cc_kraken.cloud import errors

    return errors.refused("CreateVolume", "InternalError", "", 500).trouble


def test_a_throttled_creation_goes_on_without_looking_for_a_minute(
    scene: Scene,
) -> None:
    scene.later(55, lambda: scene.lab.throttle("CreateVolume", calls=12))
    assert run(scene, 600) == DONE
    assert len(existing(scene)) == 3
    assert wide_looks(scene) == 2


# ----------------------------------------------------------- cut off, and lost


@pytest.mark.parametrize("after", soon([1], [1, 2], LATER))
def test_what_was_cut_off_between_two_members_is_completed(
    scene: Scene, mocker: MockerFixture, after: int
) -> None:
    cut_off(scene, mocker, after)
    assert run(scene) == DONE
    assert len(existing(scene)) == 3 == len(scene.attached())


def test_a_replaced_instance_completes_it_with_the_same_tokens(
    scene: Scene, mocker: MockerFixture
) -> None:
    cut_off(scene, mocker, 2)
    scene.lab.terminate_instance(scene.instance)
    scene.instance = scene.lab.run_instance(zone=ZONE, tags=ME)
    assert run(scene) == DONE
    assert len(existing(scene)) == 3


@pytest.mark.long
def test_after_an_hour_nothing_is_completed(
    scene: Scene, mocker: MockerFixture
) -> None:
    cut_off(scene, mocker, 2)
    scene.clock.advance(3600)
    assert run(scene) == FAILED
    assert scene.error()["kind"] == "members-missing"
    assert len(existing(scene)) == 2


def test_a_lost_member_is_not_replaced(scene: Scene) -> None:
    """Not even in the hour in which the array was made."""
    assert run(scene) == DONE
    lost = existing(scene)[1]["VolumeId"]
    scene.lab.terminate_instance(scene.instance)
    scene.clock.advance(120)
    scene.lab.delete_volume(lost)
    scene.instance = scene.lab.run_instance(zone=ZONE, tags=ME)
    assert run(scene) == FAILED
    assert scene.error()["kind"] in ("create-burned", "members-missing")
    assert len(existing(scene)) == 2


def test_a_set_that_was_deleted_as_a_whole_is_created_anew(scene: Scene) -> None:
    """Each member has burned its first token; those made before it are this run's."""
    assert run(scene) == DONE
    old = [one["VolumeId"] for one in existing(scene)]
    scene.lab.terminate_instance(scene.instance)
    scene.clock.advance(120)
    for volume in old:
        scene.lab.delete_volume(volume)
    scene.clock.advance(120)
    scene.instance = scene.lab.run_instance(zone=ZONE, tags=ME)
    assert run(scene, 900) == DONE
    assert len(existing(scene)) == 3 == len(scene.attached())


# --------------------------------------------------------------- EC2 says no


def test_a_volume_that_ec2_cannot_make_is_made_with_the_next_token(
    scene: Scene,
) -> None:
    scene.lab.refuse_creation(volumes=1)
    assert run(scene, 900) == DONE
    assert len(scene.attached()) == 3


@pytest.mark.long
def test_a_key_that_cannot_be_used_ends_after_three_tokens(scene: Scene) -> None:
    scene.lab.refuse_creation(volumes=1000)
    assert run(scene, 3000) == FAILED
    assert scene.error()["kind"] == "create-burned"
    assert "KMS" in scene.error()["message"]
    assert scene.calls["CreateVolume"] < 20


def test_at_the_accounts_limit_the_set_is_refused_with_the_limit(
    scene: Scene,
) -> None:
    root = scene.lab.client().describe_volumes()["Volumes"][0]["Size"]
    scene.lab.limit_storage("gp3", root + 2)
    assert run(scene) == FAILED
    assert scene.error()["kind"] == "create-limit"
    assert "quota" in scene.error()["message"].lower()
    assert len(existing(scene)) == 2


def test_at_the_limit_a_volume_that_is_there_counts(
    scene: Scene, mocker: MockerFixture
) -> None:
    """EC2 ignores the token there: the answer of the first call was lost."""
    create = Ec2.create_volume
    lost: list[str] = []

    def losing(self: Ec2, new: Any) -> str:
        if lost:
            return create(self, new)
        lost.append(create(self, new))
        scene.lab.limit_storage("gp3", 1)
        scene.clock.advance(5)
        raise KrakenError(_unavailable())

    mocker.patch.object(Ec2, "create_volume", losing)
    assert run(scene, members=1) == DONE
    assert list(scene.attached()) == lost


@pytest.mark.parametrize("action", ["CreateVolume", "CreateTags"])
def test_a_missing_permission_is_named_with_its_resource(
    scene: Scene, action: str
) -> None:
    scene.lab.forbid(action)
    assert run(scene) == FAILED
    assert scene.error()["kind"] == "permission-missing"
    assert f"Allow ec2:{action} on arn:aws:ec2:" in scene.error()["message"]
    assert existing(scene) == []


def test_an_encoded_reason_is_said_as_such(scene: Scene) -> None:
    scene.lab.forbid("CreateVolume", bare=True, encoded=True)
    assert run(scene) == FAILED
    assert "decode-authorization-message" in scene.error()["message"]


def test_a_request_that_ec2_refuses_is_the_sections_fault(scene: Scene) -> None:
    scene.lab.fail("CreateVolume", "InvalidParameterValue", "No.", calls=None)
    assert run(scene) == FAILED
    assert scene.error()["kind"] == "create-refused"
    assert "create of this set" in scene.error()["message"]


# ------------------------------------------------------------- near misses


@pytest.mark.long
def test_a_near_miss_is_named_and_nothing_is_created(scene: Scene) -> None:
    like = scene.lab.create_volume(1, ZONE, {**tags("x"), "KRKN-IN:VolumeName": "Data"})
    other = scene.lab.create_volume(
        1, ZONE, {"krkn-in:Prefix": "kafka", "krkn-in:NodeId": "0", "Name": "y"}
    )
    assert run(scene) == FAILED
    assert scene.error()["kind"] == "create-lookalike"
    assert like in scene.error()["message"] and other in scene.error()["message"]
    assert scene.calls["CreateVolume"] == 0


@pytest.mark.long
def test_volumes_in_another_zone_are_no_reason_to_begin_anew(scene: Scene) -> None:
    scene.lab.create_volume(1, OTHER_ZONE, tags("data"))
    assert run(scene, members=1) == FAILED
    assert scene.error()["kind"] == "zone-other"
    assert scene.calls["CreateVolume"] == 0


def test_a_snapshot_makes_volumes_that_are_not_formatted(scene: Scene) -> None:
    source = scene.lab.create_volume(1, ZONE)
    scene.clock.advance(60)
    snapshot = scene.lab.create_snapshot(source)
    scene.clock.advance(600)
    create = {"size": 1, "snapshot": snapshot}
    sets = {"data": {"create": create, "fs_type": "ext4", "mount_path": "/srv/d"}}
    assert run(scene, sets=sets) == FAILED
    (made,) = existing(scene)
    assert made["SnapshotId"] == snapshot
    assert scene.calls["CreateVolume"] == 1


# ------------------------------------------------------------------ founding


def claim(scene: Scene, seconds: float = 600, **more: Any) -> str:
    return run(scene, seconds, **{"node_id": "*", "node_ids": "0,1", **more})


def nodes_of(volumes: list[dict[str, Any]]) -> list[str]:
    return sorted({one["tags"]["KRKN-IN:NodeId"] for one in volumes})


def test_a_claimant_founds_a_node_and_claims_it(scene: Scene) -> None:
    log = {"log": {"create": {"size": 1}}}
    assert claim(scene, sets=log) == DONE
    assert scene.report.status["node"] == {"prefix": "kafka", "node_id": "0"}
    assert nodes_of(existing(scene)) == ["0"] and len(scene.attached()) == 4


def test_a_free_node_is_taken_before_one_is_founded(scene: Scene) -> None:
    free = {**ME, "KRKN-IN:NodeId": "7", "KRKN-IN:VolumeName": "data"}
    volume = scene.lab.create_volume(1, ZONE, free)
    assert claim(scene, members=1) == DONE
    assert list(scene.attached()) == [volume] and scene.calls["CreateVolume"] == 0


def test_the_next_claimant_founds_the_next_node_and_the_third_none(
    scene: Scene,
) -> None:
    assert claim(scene) == DONE
    for expected in (DONE, FAILED):
        scene.tree = type(scene.tree)(scene.base / f"next-{expected}")
        scene.instance = scene.lab.run_instance(zone=ZONE, tags=ME)
        scene.base = scene.base / f"next-{expected}"
        assert claim(scene) == expected
    assert nodes_of(existing(scene)) == ["0", "1"] and len(existing(scene)) == 6
    assert scene.report.status["errors"][0]["kind"] == "claim-none-free"


@pytest.mark.parametrize("after", [600, 3600])
def test_however_long_the_wait_a_node_is_founded_after_it(
    scene: Scene, after: int
) -> None:
    """Though the claimant looks again every two minutes, whose node it is."""
    assert claim(scene, 9000, create={"after": after}) == DONE
    assert after <= scene.took < after + 300


def test_without_node_ids_nothing_is_founded(scene: Scene) -> None:
    assert claim(scene, node_ids="") == FAILED
    assert scene.calls["CreateVolume"] == 0
    assert wide_looks(scene) == 0


def test_a_node_of_another_zone_is_not_founded_again(scene: Scene) -> None:
    there = {**ME, "KRKN-IN:VolumeName": "data"}
    scene.lab.create_volume(1, OTHER_ZONE, there)
    assert claim(scene, members=1) == DONE
    assert scene.report.status["node"]["node_id"] == "1"


def test_by_zone_only_its_own_nodes_are_founded(scene: Scene) -> None:
    assert claim(scene, node_ids={OTHER_ZONE: "0", ZONE: "5"}) == DONE
    assert nodes_of(existing(scene)) == ["5"]


def test_a_node_in_two_zones_is_refused(scene: Scene) -> None:
    assert claim(scene, node_ids={OTHER_ZONE: "0", ZONE: "0"}) == FAILED
    assert scene.report.status["errors"][0]["kind"] == "config-value"
    assert scene.calls["CreateVolume"] == 0


def test_who_was_killed_while_founding_leaves_it_to_the_next(
    scene: Scene, mocker: MockerFixture
) -> None:
    cut_off(scene, mocker, 2, node_id="*", node_ids="0,1")
    assert claim(scene) == DONE
    assert nodes_of(existing(scene)) == ["0"] and len(existing(scene)) == 3


def test_who_loses_the_node_that_it_has_founded_goes_on_to_the_next(
    scene: Scene, mocker: MockerFixture
) -> None:
    create = Creating.create
    lost: list[str] = []

    def losing(*arguments: Any) -> None:
        create(*arguments)
        if lost:
            return
        scene.clock.advance(10)
        lost.append(scene.lab.run_instance(zone=ZONE, tags={"Name": "faster"}))
        for number, one in enumerate(existing(scene)):
            scene.lab.attach_volume(one["VolumeId"], lost[0], f"/dev/sd{'fgh'[number]}")

    mocker.patch.object(Creating, "create", losing)
    assert claim(scene) == DONE
    assert scene.report.status["node"]["node_id"] == "1"
    assert nodes_of(existing(scene)) == ["0", "1"] and len(existing(scene)) == 6


def test_a_dry_run_of_a_claimant_tells_what_it_would_found(scene: Scene) -> None:
    assert claim(scene, dry_run=True) == DONE
    told = plan_text(scene.report.status)
    assert "would found kafka/0" in told and "3 GiB of gp3 to the monthly" in told
    assert scene.calls["CreateVolume"] == 0


def test_a_near_miss_of_a_listed_node_is_told_at_the_end(scene: Scene) -> None:
    like = {**ME, "KRKN-IN:VolumeName": "Data"}
    volume = scene.lab.create_volume(1, ZONE, like)
    assert claim(scene, node_ids="0") == FAILED
    assert scene.report.status["errors"][0]["kind"] == "create-lookalike"
    assert volume in scene.report.status["errors"][0]["message"]
