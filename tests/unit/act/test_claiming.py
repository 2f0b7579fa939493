"""A claimant's run against the strict EC2: what it notes, asks for, gives back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from pytest_mock import MockerFixture

from cc_kraken.act.claiming import Claiming
from cc_kraken.cloud import errors
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.commands.shown import plan_text, status_text
from cc_kraken.decide import decision
from cc_kraken.decide.steps import OF_CLOUD
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Ec2Options, Identity, KrakenError, Section, Trouble
from cc_kraken.state.claim_file import OPEN_FOR, ClaimFile
from cc_kraken.state.report import DONE, FAILED, PENDING, STANDBY
from cc_kraken.storage import preconditions, unwritten
from tests.unit import worlds as w
from tests.unit.act.test_run import ZONE, Scene, environment, make, scene
from tests.unit.tree import Tree

__all__ = ["environment", "make", "scene"]


@pytest.fixture(autouse=True)
def group(mocker: MockerFixture) -> Any:
    """The instance is in no group, unless a test says so."""
    return mocker.patch.object(Ec2, "lifecycle", return_value="")


def node(scene: Scene, node_id: str) -> list[str]:
    """The volumes of a node, the anchor first."""
    tags = {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": node_id}
    return sorted(
        scene.lab.create_volume(1, ZONE, {**tags, "KRKN-IN:VolumeName": name})
        for name in ("log", "data")
    )


def other(scene: Scene, *volumes: str, **tags: str) -> str:
    made = scene.lab.run_instance(zone=ZONE, tags={"Name": "another", **tags})
    for number, volume in enumerate(volumes):
        scene.lab.attach_volume(volume, made, f"/dev/sd{'fgh'[number]}")
    return made


def taken_before(scene: Scene, mocker: MockerFixture, asked: str, taken: str) -> None:
    """Another instance gets ``taken`` a moment before this one asks for ``asked``."""
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        if volume == asked and not scene.lab.volume(taken).attachments:
            other(scene, taken)
        return attach(self, volume)

    mocker.patch.object(Ec2, "attach", late)


def run(scene: Scene, seconds: float = 300, **more: Any) -> str:
    options = Ec2Options(endpoint_url=scene.lab.endpoint_url)
    sets: dict[str, Any] = {"log": {}, "data": {}}
    section = Section(node_id="*", volumes=sets, ec2=options, boot_wait=30)
    section = replace(section, **more.pop("section", {}))
    return scene.run(seconds, section=section, **more)


def claim(scene: Scene) -> Optional[dict[str, Any]]:
    path = Path(scene.tree.paths.claim)
    return json.loads(path.read_text()) if path.exists() else None


def test_the_lowest_free_node_is_claimed(scene: Scene) -> None:
    taken, mine = node(scene, "0"), node(scene, "1")
    node(scene, "2")
    other(scene, *taken)
    assert run(scene) == DONE
    assert set(scene.attached()) == set(mine)
    assert scene.report.status["node"] == {"prefix": "kafka", "node_id": "1"}
    note = claim(scene)
    assert note is not None and note["state"] == "settled"
    assert set(note["calls"]) == set(mine)
    assert scene.report.status["claim"]["since"] in status_text(scene.report.status)
    # one for the choice, one behind the lock
    assert scene.calls["DescribeVolumes"] == 2
    assert scene.calls["AttachVolume"] == 2


def test_it_is_noted_before_it_is_sent(scene: Scene, mocker: MockerFixture) -> None:
    (anchor, _) = node(scene, "0")
    attach, seen = Ec2.attach, []

    def look(self: Ec2, volume: str) -> str:
        note = claim(scene)
        assert note is not None
        seen.append((volume, note["state"], dict(note["calls"])))
        return attach(self, volume)

    mocker.patch.object(Ec2, "attach", look)
    assert run(scene) == DONE
    volume, state, calls = seen[0]
    assert (volume, state) == (anchor, "claiming")
    assert list(calls) == [anchor] and not calls[anchor]["accepted"]


def test_what_cannot_be_noted_is_not_asked_for(scene: Scene) -> None:
    node(scene, "0")
    Path(scene.tree.paths.state).parent.mkdir(parents=True, exist_ok=True)
    Path(scene.tree.paths.state).write_text("no directory")
    assert run(scene) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "cannot-write"
    assert scene.calls["AttachVolume"] == 0


def test_a_dry_run_says_what_it_would_claim(scene: Scene) -> None:
    (anchor, _) = node(scene, "0")
    assert run(scene, dry_run=True) == DONE
    text = plan_text(scene.report.status)
    assert f"would claim kafka/0, by attaching {anchor} first" in text
    assert "attach" in "".join(scene.report.sets["log"]["plan"])
    assert scene.attached() == {} and claim(scene) is None


def test_none_is_free_until_an_instance_goes(scene: Scene) -> None:
    volumes = node(scene, "0")
    holder = other(scene, *volumes)
    assert run(scene, 20, final=False) == PENDING
    told = scene.report.status["waiting_for"]
    assert f"kafka/0: held by {holder}" in told and "claim-none-free" in told
    scene.later(60, lambda: scene.lab.terminate_instance(holder, 5, 5))
    assert run(scene) == DONE
    assert set(scene.attached()) == set(volumes)


def test_a_node_is_given_back_when_another_has_a_member(
    scene: Scene, mocker: MockerFixture
) -> None:
    """Between the choice and the look behind the lock."""
    first, second = node(scene, "0"), node(scene, "1")
    taken_before(scene, mocker, first[0], first[1])
    assert run(scene) == DONE
    assert set(scene.attached()) == set(second)
    assert scene.report.status["node"]["node_id"] == "1"
    assert scene.lab.volume(first[0]).attachments == []


def test_a_run_that_is_stopped_claims_no_further_node(
    scene: Scene, mocker: MockerFixture
) -> None:
    for node_id in "012":
        node(scene, node_id)
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        other(scene, volume)
        scene.run_now.clock.stop()
        return attach(self, volume)

    mocker.patch.object(Ec2, "attach", late)
    assert run(scene, final=False) == PENDING
    assert scene.calls["AttachVolume"] == 1
    assert scene.attached() == {} and claim(scene) is None
    assert "no time left to claim" in scene.report.status["waiting_for"]


def test_old_answers_do_not_make_it_ask_without_a_pause(
    scene: Scene, mocker: MockerFixture
) -> None:
    """EC2 has attached the anchor, answers 503, and still shows it as free."""
    volumes = node(scene, "0")
    scene.clock.advance(60)
    scene.lab.lag(20)
    scene.lab.attach_seconds = 15.0
    scene.lab.unavailable("AttachVolume")
    attach, asked = Ec2.attach, []

    def count(self: Ec2, volume: str) -> str:
        asked.append(volume)
        if len(asked) == 30:
            scene.lab.lag(0)  # or a run without pauses never ends
        return attach(self, volume)

    mocker.patch.object(Ec2, "attach", count)
    assert run(scene) == DONE
    assert set(scene.attached()) == set(volumes)
    assert asked.count(volumes[0]) < 10


def test_after_the_lock_nothing_is_used_before_all_is_ours(
    scene: Scene, mocker: MockerFixture
) -> None:
    """Another gets the last volume after the second look: the node goes back."""
    first, second = node(scene, "0"), node(scene, "1")
    taken_before(scene, mocker, first[1], first[1])
    assert run(scene) == DONE
    assert set(scene.attached()) == set(second)
    assert scene.lab.volume(first[0]).attachments == []


def test_what_nobody_shows_yet_is_given_back_too(
    scene: Scene, mocker: MockerFixture
) -> None:
    """EC2 accepts the second volume long after the anchor, and shows it later than it
    shows that another instance has the third."""
    (_, late), second = node(scene, "0"), node(scene, "1")
    tags = {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"}
    third = scene.lab.create_volume(1, ZONE, tags)
    scene.clock.advance(60)
    scene.lab.attach_seconds = 20.0
    attach, described, begun = Ec2.attach, Ec2._described, scene.clock.now()
    sent: list[float] = []
    taken = threading.Event()

    def slow(self: Ec2, volume: str) -> str:
        if volume in (late, third) and scene.clock.now() < begun + 40:
            raise errors.refused("AttachVolume", "IncorrectState", "")
        if volume == late and not sent:
            sent.append(scene.clock.now())
            other(scene, third)
            taken.set()
        assert volume != third or taken.wait(10)
        return attach(self, volume)

    def stale(self: Ec2, *given: Any) -> Any:
        old = sent and scene.clock.now() < sent[0] + 16
        return tuple(
            replace(one, attachments=(), state="available")
            if old and one.id == late
            else one
            for one in described(self, *given)
        )

    mocker.patch.object(Ec2, "attach", slow)
    mocker.patch.object(Ec2, "_described", stale)
    mocker.patch("cc_kraken.act.pacing.random.uniform", return_value=1.0)
    assert run(scene) == DONE
    assert set(scene.attached()) == set(second)
    assert scene.report.status["node"]["node_id"] == "1"


def test_a_disk_that_cannot_be_held_at_first_is_given_back_later(
    scene: Scene, mocker: MockerFixture
) -> None:
    """Nothing uses it: it has come under another number meanwhile."""
    first, second = node(scene, "0"), node(scene, "1")
    check = preconditions.check_unused
    refused: list[str] = []

    def changed(paths: Any, device: Any, **more: Any) -> None:
        if not refused:
            refused.append(device.volume_id)
            raise unwritten.changed(device, "is gone", "It was there")
        check(paths, device, **more)

    taken_before(scene, mocker, first[1], first[1])
    mocker.patch.object(preconditions, "check_unused", changed)
    assert run(scene) == DONE
    assert refused == [first[0]]
    assert set(scene.attached()) == set(second)


@pytest.mark.parametrize("code", ["AttachmentLimitExceeded", "UnauthorizedOperation"])
def test_what_would_stop_the_next_one_too_gives_no_node_up(
    scene: Scene, code: str
) -> None:
    (anchor, _) = node(scene, "0")
    node(scene, "1")
    scene.lab.fail("AttachVolume", code, "no", status=403, calls=None)
    assert run(scene, 100) == FAILED
    asked = {
        call.parameters["VolumeId"]
        for call in scene.lab.calls
        if call.action == "AttachVolume"
    }
    assert asked == {anchor}


def test_two_nodes_on_one_instance_are_refused(scene: Scene) -> None:
    for node_id in ("0", "1"):
        (anchor, _) = node(scene, node_id)
        scene.lab.attach_volume(anchor, scene.instance, f"/dev/sd{'fg'[int(node_id)]}")
    scene.clock.advance(30)
    assert run(scene) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "claim-two-nodes"
    assert scene.calls["AttachVolume"] == scene.calls["DetachVolume"] == 0


def test_a_note_of_another_prefix_whose_disk_is_here(scene: Scene) -> None:
    node(scene, "0")
    assert run(scene) == DONE
    scene.clock.advance(60)
    assert run(scene, section={"prefix": "rabbit"}) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "claim-two-nodes" and "kafka/0" in error["message"]
    # The prefix may be meant (docs/guides/rename-prefix.md).
    assert error["message"].endswith("Or replace the instance.")


def test_a_node_of_another_prefix_counts_without_its_anchor(scene: Scene) -> None:
    anchor, rest = node(scene, "0")
    assert run(scene) == DONE
    scene.lab.detach_volume(anchor)
    scene.clock.advance(60)
    assert set(scene.attached()) == {rest}
    for name in ("log", "data"):
        tags = {"KRKN-IN:Prefix": "rabbit", "KRKN-IN:NodeId": "0"}
        scene.lab.create_volume(1, ZONE, {**tags, "KRKN-IN:VolumeName": name})
    assert run(scene, section={"prefix": "rabbit"}) == FAILED
    (error,) = scene.report.status["errors"]
    assert error["kind"] == "claim-two-nodes" and rest in error["message"]
    assert set(scene.attached()) == {rest}


def test_a_reboot_finds_its_node_by_its_disks(scene: Scene) -> None:
    node(scene, "0")
    mine = node(scene, "1")
    for number, volume in enumerate(mine):
        scene.lab.attach_volume(volume, scene.instance, f"/dev/sd{'fg'[number]}")
    scene.clock.advance(30)
    assert run(scene) == DONE
    assert scene.report.status["node"]["node_id"] == "1"
    assert scene.calls["AttachVolume"] == 0


def test_in_a_warm_pool_nothing_is_claimed(scene: Scene, group: Any) -> None:
    node(scene, "0")
    group.return_value = "Warmed:Stopped"
    assert run(scene, 30, final=False) == STANDBY
    assert scene.report.status["state"] == STANDBY
    assert "warm pool" in status_text(scene.report.status)
    assert sum(scene.calls.values()) == 0


def test_out_of_the_pool_the_background_claims(scene: Scene, group: Any) -> None:
    """However long that takes: the time of the run begins then."""
    volumes = node(scene, "0")
    group.side_effect = ["Warmed:Running"] * 500 + ["InService"]
    assert run(scene, 60, background=True) == DONE
    assert set(scene.attached()) == set(volumes)
    assert scene.took > 4000


def test_a_silent_metadata_service_does_not_end_the_wait_in_the_pool(
    scene: Scene, group: Any
) -> None:
    """However long the instance has been in the pool by then."""
    volumes = node(scene, "0")
    silent = KrakenError(Trouble("metadata-unreachable", "HTTP 500", "", "", True))
    pool = ["Warmed:Running"] * 100
    group.side_effect = [*pool, silent, silent, *pool, "InService"]
    assert run(scene, 60, background=True) == DONE
    assert set(scene.attached()) == set(volumes)


# ---------------------------------------------------------------- the note


class At(Clock):
    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment

    def now(self) -> float:
        return self.moment


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    made.write("proc/sys/kernel/random/boot_id", "first\n")
    yield made


def noted(tree: Tree, clock: Clock, instance: str = "i-1") -> ClaimFile:
    return ClaimFile(tree.paths, instance, clock)


def test_a_call_is_open_for_a_while(tree: Tree) -> None:
    clock = At(100.0)
    file = noted(tree, clock)
    file.claim("kafka", "0")
    file.sending("vol-1")
    clock.moment += OPEN_FOR - 1
    again = noted(tree, clock)
    found = again.noted()
    assert found is not None and found.open == {"vol-1"} and not found.accepted
    clock.moment += 2
    found = again.noted()
    assert found is not None and found.open == frozenset()


def test_after_a_reboot_a_call_is_as_new_as_the_run(tree: Tree) -> None:
    """The clock begins anew there, and says nothing of how long that took."""
    file = noted(tree, At(5000.0))
    file.claim("kafka", "0")
    file.sending("vol-1")
    tree.write("proc/sys/kernel/random/boot_id", "second\n")
    clock = At(20.0)
    again = noted(tree, clock)
    found = again.noted()
    assert found is not None and found.open == {"vol-1"}
    clock.moment += OPEN_FOR + 1
    found = again.noted()
    assert found is not None and found.open == frozenset()


def test_a_no_leaves_an_earlier_call_open(tree: Tree) -> None:
    """It may be the reason for the no: the volume is in use, by us."""
    clock = At(100.0)
    file = noted(tree, clock)
    file.claim("kafka", "0")
    file.sending("vol-1")  # and no answer came
    clock.moment += 2
    file.sending("vol-1")
    file.answered("vol-1", accepted=False)
    found = file.noted()
    assert found is not None and found.open == {"vol-1"}
    clock.moment += OPEN_FOR - 1
    found = file.noted()
    assert found is not None and found.open == frozenset()


def test_a_no_to_the_first_call_closes_it(tree: Tree) -> None:
    file = noted(tree, At(100.0))
    file.claim("kafka", "0")
    file.sending("vol-1")
    file.answered("vol-1", accepted=False)
    found = noted(tree, At(100.0)).noted()
    assert found is not None and found.open == frozenset()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "calls": {"a": 1}}']
)
def test_a_file_that_cannot_be_read_is_no_note(tree: Tree, text: str) -> None:
    os.makedirs(tree.paths.state)
    Path(tree.paths.claim).write_text(text)
    assert noted(tree, At(0.0)).note is None


def test_the_note_of_another_instance_is_none(tree: Tree) -> None:
    file = noted(tree, At(100.0))
    file.claim("kafka", "0")
    file.sending("vol-1")
    assert noted(tree, At(100.0), "i-2").note is None
    assert noted(tree, At(100.0)).note is not None


def test_nothing_is_used_while_a_volume_of_the_node_is_not_attached(
    tree: Tree, mocker: MockerFixture
) -> None:
    log = w.claim(w.single(), w.attached(1))
    data = w.claim(w.single(name="data", mount_path="/data"), w.volume(2))
    world = w.world(1, looks={1: w.blank()})
    identity = Identity(w.ME, "us-east-1", w.ZONE)
    others = {
        name: mocker.Mock()
        for name in ("cloud", "observer", "executor", "creating", "report", "waiting")
    }
    claiming = Claiming(
        section=Section(),
        identity=identity,
        paths=tree.paths,
        clock=At(0.0),
        hold_up=mocker.Mock(),
        prefix="kafka",
        declared=("log", "data"),
        dry_run=False,
        **others,
    )
    plans = decision.decide(w.NODE, (log, data), world)
    assert any(step.phase not in OF_CLOUD for step in plans[0].steps)
    first, _ = claiming.check((log, data), plans, world)
    assert all(step.phase in OF_CLOUD for step in first.steps)
    assert first.trouble is not None and first.trouble.waits
    assert first.trouble.kind == "claim-incomplete"
    assert w.volume_id(2) in first.trouble.found
    assert "cc-kraken status" in first.trouble.remedy
