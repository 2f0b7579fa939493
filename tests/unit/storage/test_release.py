"""A volume is given back only when nothing uses it, at the very call."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.decide.steps import Detach
from cc_kraken.state.report import FAILED
from cc_kraken.storage import release, unwritten
from tests.unit.act.test_executor import Bench, bench, plan
from tests.unit.act.test_run import ME, ZONE, Scene, environment, make, scene
from tests.unit.tree import Tree

__all__ = ["bench", "environment", "make", "scene"]

pytestmark = pytest.mark.long


def mounted(tree: Tree, name: str) -> None:
    tree.mount("/mnt", tree.number(name), "ext4", f"/dev/{name}")


def partition(tree: Tree, name: str, **more: Any) -> str:
    """A partition on a disk that is there already."""
    (disk,) = (tree.base / "sys/devices").glob(f"*/*/nvme/*/{name}")
    where = f"{disk.relative_to(tree.base)}/{name}p1"
    tree._block(where, f"{name}p1", 259, 1 << 29, False, whole=False)
    tree.write(f"{where}/partition", "1\n")
    return f"{name}p1"


def held(tree: Tree, name: str) -> None:
    (tree.base / "sys/block" / name / "holders/md127").mkdir()


def held_in_part(tree: Tree, name: str) -> None:
    below = partition(tree, name)
    (tree.base / "sys/block" / name / below / "holders/dm-0").mkdir()


USES: dict[str, Callable[[Tree, str], None]] = {
    "mounted": mounted,
    "a partition is mounted": lambda tree, name: mounted(tree, partition(tree, name)),
    "in an array": held,
    "a partition is mapped": held_in_part,
    "swap": lambda tree, name: tree.swap(f"/dev/{name}"),
    "swap in a partition": lambda tree, name: tree.swap(
        f"/dev/{partition(tree, name)}"
    ),
}


def used_as_it_comes(
    scene: Scene, volume: str, use: Callable[[Tree, str], None]
) -> None:
    """Somebody uses the disk of this volume as soon as it is there."""
    disk = scene.tree.disk

    def come(number: int, serial: str) -> Any:
        made = disk(number, serial)
        if serial == volume.replace("-", ""):
            use(scene.tree, f"nvme{number}n1")
        return made

    scene.tree.disk = come  # type: ignore[assignment, method-assign]


def two(scene: Scene) -> list[str]:
    both = {"VolumeSize": "2", "RaidLevel": "1"}
    return sorted(scene.volume("data", **both) for _ in range(2))


@pytest.mark.parametrize("use", USES)
def test_what_was_used_meanwhile_is_not_given_back(scene: Scene, use: str) -> None:
    """EC2 accepts the first one, and refuses the second."""
    first, second = two(scene)
    used_as_it_comes(scene, first, USES[use])
    scene.lab.attachment_limits["m5.large"] = 2
    assert scene.run(60) == FAILED
    assert scene.error()["kind"] == "attachment-limit"
    scene.clock.advance(60)
    assert scene.calls["DetachVolume"] == 0
    assert list(scene.attached()) == [first]
    (said,) = [text for text in scene.report.status["warnings"] if first in text]
    assert "is not given back" in said and "detach it in EC2" in said


@pytest.mark.parametrize("use", USES)
def test_who_loses_a_member_keeps_what_was_used_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """A stranger takes the second one between our two calls, and somebody here
    uses the first one after it was looked at."""
    first, second = two(scene)
    other = scene.lab.run_instance(zone=ZONE, tags={"Name": "x"})
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        if volume == second and not scene.lab.volume(second).attachments:
            scene.lab.attach_volume(second, other, "/dev/sdf")
        return attach(self, volume)

    used_as_it_comes(scene, first, USES[use])
    monkeypatch.setattr(Ec2, "attach", late)
    assert scene.run(60) == FAILED
    assert scene.error()["kind"] == "holder-running"
    scene.clock.advance(60)
    assert scene.calls["DetachVolume"] == 0
    assert list(scene.attached()) == [first]


def test_while_it_waits_for_the_rest_it_asks_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other member is with the predecessor: what is used here stays, is told
    once, and counts as no step that changes nothing."""
    first, second = two(scene)
    old = scene.lab.run_instance(zone=ZONE, tags=ME)
    attach = Ec2.attach

    def late(self: Ec2, volume: str) -> str:
        if volume == second and not scene.lab.volume(second).attachments:
            scene.lab.attach_volume(second, old, "/dev/sdf")
        return attach(self, volume)

    monkeypatch.setattr(Ec2, "attach", late)

    # The kernel knows of a use that no file of /proc and /sys shows.
    def busy(paths: Any, device: Any, **kwargs: Any) -> Any:
        raise unwritten.in_use(device, "the kernel says that it is busy")

    monkeypatch.setattr(release.preconditions, "check_unused", busy)
    assert scene.run(300) == FAILED
    assert scene.error()["kind"] == "holder-predecessor"
    assert scene.calls["DetachVolume"] == 0
    assert list(scene.attached()) == [first]
    assert sum(first in text for text in scene.report.status["warnings"]) == 1


def disk(bench: Bench, number: int, volume: str) -> None:
    bench.tree.disk(number, volume.replace("-", ""))
    bench.tree.nodeless(f"nvme{number}n1")


def test_what_nothing_uses_is_given_back_when_its_disk_has_come(bench: Bench) -> None:
    """A disk that is not there yet cannot be held: who mounts it as it comes would
    lose it."""
    (volume,) = bench.volumes(1)
    bench.lab.clock.later(3, lambda: disk(bench, 1, volume))
    bench.lab.attach_volume(volume, bench.instance, "/dev/sdf")
    begun = bench.clock.now()
    outcome = bench.carry_out(plan("data", Detach("data", (volume,))))
    assert outcome.detached == [volume] and outcome.ask_again
    assert bench.clock.now() - begun >= 3
    calls = [call for call in bench.lab.calls if call.action == "DetachVolume"]
    assert calls[0].time >= begun + 3


def test_a_disk_that_never_comes_is_not_waited_for_long(bench: Bench) -> None:
    (volume,) = bench.volumes(1)
    bench.lab.attach_volume(volume, bench.instance, "/dev/sdf")
    begun = bench.clock.now()
    outcome = bench.carry_out(plan("data", Detach("data", (volume,))))
    assert outcome.detached == [volume]
    assert bench.clock.now() - begun < 2 * release.DISK_COMES


def test_one_that_is_used_keeps_no_other(bench: Bench) -> None:
    volumes = bench.volumes(3)
    for number, volume in enumerate(volumes, 1):
        bench.lab.attach_volume(volume, bench.instance, f"/dev/sd{'fgh'[number - 1]}")
        disk(bench, number, volume)
    mounted(bench.tree, "nvme2n1")
    outcome = bench.carry_out(plan("data", Detach("data", volumes)))
    assert sorted(outcome.detached) == [volumes[0], volumes[2]]
    assert outcome.kept == [volumes[1]]
    assert outcome.troubles == {}
    (done,) = bench.report.sets["data"]["done"]
    assert volumes[0] in done and volumes[1] not in done


def test_two_disks_of_one_volume_are_not_let_go(bench: Bench) -> None:
    (volume,) = bench.volumes(1)
    bench.lab.attach_volume(volume, bench.instance, "/dev/sdf")
    for number in (1, 2):
        disk(bench, number, volume)
    outcome = bench.carry_out(plan("data", Detach("data", (volume,))))
    assert (outcome.detached, outcome.kept) == ([], [volume])
    assert bench.report.sets["data"]["done"] == []


def test_an_answer_of_ec2_is_no_use_of_the_disk(bench: Bench) -> None:
    volumes = bench.volumes(2)
    bench.lab.attach_volume(volumes[1], bench.instance, "/dev/sdf")
    bench.lab.fail("DetachVolume", "UnauthorizedOperation", "no", status=403, calls=1)
    outcome = bench.carry_out(plan("data", Detach("data", volumes)))
    assert outcome.troubles["data"].kind == "permission-missing"
    assert outcome.kept == []
