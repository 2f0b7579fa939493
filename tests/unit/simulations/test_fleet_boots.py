"""``fleet`` says that a node comes up exactly when a boot of it does.

Worlds with mistakes in tags, numbers, zones, sizes and holders, on the strict EC2 in
virtual time.  What boots is the real run (:mod:`tests.fleet`); what judges before is
``cc-kraken fleet``, with its own calls to the same EC2.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any, Optional

import pytest

from cc_kraken.cloud.account import Account
from cc_kraken.decide import fleet
from cc_kraken.decide.fleet import Judged
from cc_kraken.model import Device, Node, Section
from tests.conftest import LATER, MORE, soon
from tests.fleet import GIB, ZONES, Boot, DirectEc2, Fleet, Machine, NodeClock, in_turn
from tests.lab.ec2 import Ec2Lab

pytest.importorskip("boto3")

WORLDS = 100 * MORE
NODE = Node("kafka", "0")
SECTION = Section(boot_wait=20, wait=150)
VALUES: dict[str, tuple[str, ...]] = {
    "Prefix": ("kafka ", "Kafka", "other"),
    "NodeId": ("1", "*", "0 "),
    "VolumeName": ("log", "data", "dta", "not fit!", "vol-0123"),
    "Members": ("1", "2", "4", "x", "0"),
    "VolumeSize": ("3", "100"),
    "RaidLevel": ("0", "1", "5", "7", "none"),
    "FsType": ("ext4", "btrfs", "none", "ext3"),
    "MountPath": ("/data", "/log", "/log/data", "/etc", "data", "/"),
    "MountOptions": ("noatime", "noatime,discard", "uid=7", "ro"),
    "MkfsOptions": ("-m reflink=0", "-F", "-L x"),
    "Label": ("mine", "a/b"),
    "Colour": ("blue",),
}
MISTAKES = ("value",) * 3 + (
    "gone", "misspelt", "fewer", "more", "zone", "size", "copy",
)  # fmt: skip
MISSPELT = {"Prefix": "Prefx", "NodeId": "nodeid", "MountPath": "Mountpath"}
MISSPELT.update({"FsType": "FSType", "Members": "Member", "VolumeName": "VolumName"})


class Sized(Machine):
    """A machine whose disks are as large as EC2 says."""

    def __init__(self, world: Fleet) -> None:
        super().__init__(world.storage, NodeClock(world.time), 1)
        self._lab = world.lab

    def device(self, volume_id: str) -> Device:
        size = self._lab.volume(volume_id).size_gib * GIB
        return replace(super().device(volume_id), size=size)


class World(Fleet):
    """A node or two of an account, with mistakes that chance chooses."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, SECTION, throttled=False)
        self.chance = random.Random(seed)
        self.made: list[str] = []
        self.told: list[str] = []

    def set_up(self) -> None:
        chance = self.chance
        self.zone = chance.choice(ZONES[:2])
        self.made = self.volumes("0", self.zone)
        if chance.random() < 0.4:
            self.volumes("1", self.zone)
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            self._mistake()
        self._hold()
        self.time.clock.advance(60.0)

    def _some(self) -> list[str]:
        some = self.chance.choice(
            (self.made[:1], self.made[1:], [self.chance.choice(self.made)])
        )
        return [one for one in some if one in self.made]

    def _mistake(self) -> None:
        what = self.chance.choice(MISTAKES)
        some, key = self._some(), self.chance.choice(sorted(VALUES))
        self.told.append(f"{what} {key} of {some}")
        for one in some:
            volume = self.lab.volume(one)
            if what == "value":
                value = self.chance.choice(VALUES[key])
                self.lab.tag(one, {f"KRKN-IN:{key}": value})
                self.told[-1] += f" {value!r}"
            elif what == "gone":
                self.lab.untag(one, f"KRKN-IN:{key}")
            elif what == "misspelt":
                value = volume.tags.get(f"KRKN-IN:{key}", "x")
                self.lab.untag(one, f"KRKN-IN:{key}")
                self.lab.tag(one, {f"KRKN-IN:{MISSPELT.get(key, key + 's')}": value})
            elif what == "fewer":
                self.made.remove(one)
                self.lab.delete_volume(one)
            elif what == "size":
                self.lab.resize_volume(one, 2)
            else:
                self._another(one, what)
            if what in ("fewer", "more", "copy", "zone"):
                break

    def _another(self, one: str, what: str) -> None:
        volume = self.lab.volume(one)
        zone = ZONES[2] if what == "zone" else volume.zone
        more = {}
        if what == "copy":
            more["snapshot_id"] = self.lab.create_snapshot(one)
        self.made.append(self.lab.create_volume(1, zone, volume.tags, **more))
        if what == "zone":
            self.made.remove(one)
            self.lab.delete_volume(one)

    def _hold(self) -> None:
        """Nobody, the node's own instance, another one, or two of them."""
        chance = self.chance
        who = chance.choice(("nobody", "nobody", "own", "own", "waiting", "foreign",
                             "two", "stopped", "foreign stopped"))  # fmt: skip
        self.told.append(who)
        if who == "nobody":
            return
        node_id = {"foreign": "8", "foreign stopped": "8"}.get(who, "0")
        boots = [self._instance(node_id) for _ in range(2 if who == "two" else 1)]
        here = [one for one in self.made if self.lab.volume(one).zone == self.zone]
        if who == "waiting":
            here = []
        elif who != "two" and chance.random() < 0.4:
            here = chance.sample(here, len(here) // 2)
        for number, volume in enumerate(here):
            boot = boots[number % len(boots)]
            self.lab.attach_volume(
                volume, boot.instance_id, f"/dev/sd{'fghijkl'[number]}"
            )
        self.time.clock.advance(10.0)
        if who.endswith("stopped"):
            self.lab.stop_instance(boots[0].instance_id)

    def _instance(self, node_id: str, zone: str = "") -> Boot:
        tags = self.tags(node_id)
        volumes = self.chance.choice(("", "", "log,data", "log", "log,dta"))
        tags.update({"KRKN-IN:Volumes": volumes} if volumes else {})
        if node_id == "0" and not zone and self.chance.random() < 0.1:
            tags["KRKN-IN:Nodeid"] = tags.pop("KRKN-IN:NodeId")
        made = self.lab.run_instance("m5.large", zone or self.zone, tags)
        boot = Boot(node_id, made, Sized(self))
        self.boots[made] = boot
        self.told.append(f"{made} {tags}")
        return boot

    # --------------------------------------------------------- fleet, and a boot

    def judged(self) -> Optional[Judged]:
        account = Direct(SECTION, self.lab, self.wire)
        volumes = account.tagged_volumes()
        instances = account.instances(
            one.instance_id or "" for each in volumes for one in each.attachments
        )
        found = fleet.judge(SECTION, volumes, instances)
        return next((one for one in found.nodes if one.node == NODE), None)

    def comes_up(self, judged: Optional[Judged]) -> bool:
        """Boot the node: on its instance, else on a new one."""
        boot = self.boots.get(judged.view if judged else "")
        if boot is None:
            zone = judged.zone if judged else self.zone
            boot = self._instance_like_others(zone)
        elif self.lab.instance(boot.instance_id).state == "stopped":
            self.lab.start_instance(boot.instance_id)
        self.time.clock.advance(10.0)
        self.boot(boot, 0.0)
        self.time.run()
        self.told += [*boot.states, *boot.troubles]
        return boot.states[-1] == "done"

    def _instance_like_others(self, zone: str) -> Boot:
        """From the launch template of its prefix, where there is one."""
        said = {
            one.tags.get("KRKN-IN:Volumes", "")
            for one in map(self.lab.instance, self.boots)
            if {"KRKN-IN:Prefix", "KRKN-IN:NodeId"} <= set(one.tags)
        }
        tags = self.tags("0")
        if len(said) == 1 and said != {""}:
            tags["KRKN-IN:Volumes"] = said.pop()
        made = self.lab.run_instance("m5.large", zone, tags)
        boot = Boot("0", made, Sized(self))
        self.boots[made] = boot
        return boot


class Direct(Account):
    """The edge to EC2 with calls of functions, as the runs have it."""

    def __init__(self, section: Section, lab: Ec2Lab, wire: Any) -> None:
        super().__init__(section, lab.region)
        self._lab, self._wire, self._key, self._turn = lab, wire, "AKIA", lambda: None

    _send = DirectEc2._send
    _call = DirectEc2._call


def one_world(seed: int) -> tuple[bool, bool, World, Optional[Judged]]:
    """What fleet says, and what a boot comes to."""
    with in_turn(seed):
        world = World(seed)
        world.set_up()
        judged = world.judged()
        says = judged is not None and judged.comes_up
        return says, world.comes_up(judged), world, judged


@pytest.mark.parametrize("part", soon([0], range(4), LATER))
def test_fleet_says_that_a_node_comes_up_exactly_when_it_does(part: int) -> None:
    told: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    for seed in range(part * WORLDS, (part + 1) * WORLDS):
        says, is_up, world, judged = one_world(seed)
        told[says, is_up] += 1
        if says != is_up:
            why = [str(one.trouble) for one in judged.wrong] if judged else []
            wrong.append(f"seed {seed}: fleet {says}, boot {is_up}: {world.told} {why}")
    assert not wrong, "\n".join([str(dict(told)), *wrong[:8]])
    assert min(told[True, True], told[False, False]) > WORLDS / 5, told
