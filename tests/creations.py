"""Volumes that are created at boot, in worlds where all goes wrong that can.

    python3 -m tests.creations --worlds 500

Each world has some instances, fixed or claiming, whose volumes are not there or only
in part, on the strict EC2 in virtual time (:mod:`tests.fleet`): a fifth of the answers
is up to 8 s old, a fifth of the CreateVolume calls end in a 503 after they were
carried out, runs are killed before and after any call and any note, KMS refuses now
and then, and so does the account's limit.  What else a world holds is its story
(``STORIES``): two instances of one node, founded nodes, two zones, volumes that exist,
that come late, that are misspelt, and arrays that have lost a member.

Judged at each CreateVolume, by the lab's own knowledge: none beside a volume that
exists, none for a member that was there, none by two tokens.  At the end: never more
volumes than members, and nobody stuck without an error that says why.
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional
from uuid import uuid5

from cc_kraken.act.waiting import Limits
from cc_kraken.decide import creating
from cc_kraken.decide.case import NAMESPACE
from cc_kraken.model import Identity, Known, MdSuperblock, Section
from tests import claims
from tests.claims import Chances, Claimant, Edge, Up
from tests.fleet import GIB, Boot, DirectEc2, in_turn
from tests.lab.world import Volume

ZONE, OTHER = "us-east-1a", "us-east-1b"
MEMBERS = {"log": 1, "data": 3}
STORM = Chances(outages=0.1, kills=0.02, stale=8.0, share=0.2, calm_after=400.0)
DONE_ANYWAY = 0.2
"""Of the CreateVolume calls: 503, and carried out all the same."""
BLIND = 20.0
"""Seconds for which a run cannot know of a volume: an answer may be 8 s old, and is
acted upon for 10 s."""
YOUNG = 3600.0


@dataclass
class Founder(Claimant):
    """An instance of these worlds."""


@dataclass(frozen=True)
class Made:
    """A volume of a set, as the lab knows it.  ``member``: 0 for a person's."""

    volume: Volume
    node_id: str
    name: str
    member: int


class World(claims.World):
    """Nodes that may be founded, and the judge of every CreateVolume."""

    def __init__(self, seed: int, base: str, chances: Chances, story: "Story") -> None:
        chance = random.Random(seed * 104729)
        super().__init__(
            seed,
            base,
            chances,
            story.section,
            create_seconds=chance.choice((0.0, 3.0, 20.0)),
            error_seconds=chance.choice((0.0, 10.0)),
        )
        self.story = story
        self.templates: dict[str, Section] = {}
        """Sections of instances that have another one than the story's."""
        self.created = 0
        self.meant: dict[str, tuple[str, str]] = {}
        """Volumes whose tags do not say what they are: node and set."""
        self.served: set[str] = set()
        """Volumes on which something was made, and those that are gone since."""
        self.lab.on_copy = self._on_copy

    # -------------------------------------------------------------- to build

    def person(self, node_id: str, name: str, zone: str, **odd: str) -> list[str]:
        """A set that somebody has made; ``odd``: other tags than they should be."""
        wanted = {
            "log": {"FsType": "ext4", "MountPath": "/krkn_log"},
            "data": {"FsType": "xfs", "MountPath": "/krkn_data", "RaidLevel": "0"},
        }[name]
        tags = self.tags(node_id, VolumeName=name, Members=f"{MEMBERS[name]}", **wanted)
        tags.update(odd)
        made = [
            self.lab.create_volume(1, zone, {k: v for k, v in tags.items() if v})
            for _ in range(MEMBERS[name])
        ]
        self.meant.update(dict.fromkeys(made, (node_id, name)))
        return made

    def filled(self, volumes: list[str], by_us: bool) -> None:
        """They have been in service: an array with a filesystem, or a filesystem."""
        self.served.update(volumes)
        if len(volumes) == 1:
            self.storage.content(volumes[0]).filesystem = Known("ext4", volumes[0])
            return
        uuid, roles = str(uuid5(NAMESPACE, volumes[0])), tuple(range(len(volumes)))
        for role, volume in enumerate(sorted(volumes)):
            if by_us:
                self.lab.tag(volume, {"KRKN-IN:Member": f"{role + 1}"})
            self.storage.content(volume).superblock = MdSuperblock(
                uuid, "any:KRKN-data", 0, len(roles), role, 10, volume,
                1 << 20, GIB, 512 << 10, 0, 0, roles,
            )  # fmt: skip
        self.storage.arrays[uuid] = Known("xfs", uuid)

    def snapshot(self) -> str:
        """Of a volume with an ext4 that was in service."""
        volume = self.lab.create_volume(1, ZONE)
        self.storage.content(volume).filesystem = Known("ext4", "of-the-snapshot")
        made = self.lab.create_snapshot(volume)
        self.time.clock.advance(60)
        self.lab.delete_volume(volume)
        return made

    def _on_copy(self, made: str, source: str) -> None:
        content = self.storage.content(source)
        self.storage.volumes[made] = replace(content)
        if made.startswith("vol-"):
            self.storage.copies.add(made)

    def edge(self, boot: Boot, identity: Identity) -> DirectEc2:
        return self.edge_of(_Judged, boot, identity, self, boot)

    def run(self, boot: Boot, stage: str, limits: Limits) -> str:
        """With its own template's section."""
        self.section = self.templates.get(boot.instance_id, self.story.section)
        return super().run(boot, stage, limits)

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Somebody does this, also when no instance is at work any more."""
        self.time.start("somebody", work, seconds)

    # -------------------------------------------------------------- to judge

    def made(self) -> list[Made]:
        """The volumes of nodes that stand: neither failed nor deleted."""
        found = []
        for one in self.lab.volumes():
            node_id = one.tags.get("KRKN-IN:NodeId", "")
            name = one.tags.get("KRKN-IN:VolumeName", "")
            node_id, name = self.meant.get(one.id, (node_id, name))
            if name in MEMBERS and one.state != "error":
                member = int(one.tags.get("KRKN-IN:Member", "0"))
                found.append(Made(one, node_id, name, member))
        return found

    def node_of_volume(self, volume_id: str) -> str:
        if volume_id in self.meant:
            return self.meant[volume_id][0]
        return self.lab.volume(volume_id).tags.get("KRKN-IN:NodeId", "")

    def used(self, volume_id: str) -> bool:
        content = self.storage.content(volume_id)
        made = (content.record, content.superblock, content.filesystem)
        return volume_id in self.served or any(made)

    def check(self, new: Made, before: list[Made]) -> None:
        """A volume was created: it must not have been."""
        self.created += 1
        now, same = self.time.now(), []
        for one in before:
            if (one.node_id, one.name) == (new.node_id, new.name):
                same.append(one)
        for one in same:
            age = now - one.volume.create_time
            told = f"{new.volume.id} was created beside {one.volume.id}"
            if one.volume.zone == new.volume.zone and one.member == new.member:
                self.seen.append(f"{told}, which is member {one.member} as well")
            if self.used(one.volume.id) and one.volume.id not in self.storage.copies:
                self.seen.append(f"{told}, which was in service")
            if age >= YOUNG:
                self.seen.append(f"{told}, which is {age:.0f} s old")
            if one.member == 0 and age > BLIND:
                self.seen.append(f"{told}, which somebody has made {age:.0f} s before")
            if one.volume.zone != new.volume.zone and age > BLIND + YOUNG / 60:
                self.seen.append(f"{told}, which is in {one.volume.zone}")

    def end(self) -> list[str]:
        wrong = [*self.seen, *self.lab.hook_errors]
        each: Counter[tuple[str, str, str]] = Counter()
        for one in self.made():
            each[one.node_id, one.name, one.volume.zone] += 1
        for (node_id, name, zone), count in each.items():
            if count > MEMBERS[name]:
                wrong.append(f"{node_id} has {count} volumes of {name} in {zone}")
        wrong += self._split()
        up = Counter(one for one in (Up(b).node_id_up() for b in self.claimants) if one)
        wrong += [f"{node_id} is up {n} times" for node_id, n in up.items() if n > 1]
        for boot in self.claimants:
            if not boot.gone and not Up(boot).node_id_up():
                wrong += self._stuck(boot, set(up))
        for node_id in self.story.up:
            if node_id not in up and not self.story.may_fail:
                told = [
                    (boot.states[-1:], boot.troubles[-1:]) for boot in self.claimants
                ]
                wrong.append(f"{node_id} is not up: {told}")
        return wrong

    def _split(self) -> Iterator[str]:
        """None has a part of a set.  Two instances of one node have a set each only
        where the first one has failed; a person ends one of them."""
        holders: dict[tuple[str, str], set[str]] = {}
        for one in self.made():
            held = {each.instance_id for each in one.volume.attachments}
            for name in (one.name, ""):
                holders.setdefault((one.node_id, name), set()).update(held)
        for (node_id, name), instances in holders.items():
            if len(instances) > 1 and (name or not self.story.may_fail):
                told = f"{name} of {node_id}" if name else node_id
                yield f"{told} is split: {sorted(instances)}"
        fixed = [one for one in self.claimants if one.fixed and not one.gone]
        if len(fixed) > 1:
            self.story.errors.add("holder-predecessor")

    def _stuck(self, boot: Claimant, up: set[str]) -> Iterator[str]:
        if not boot.kinds:
            yield f"{boot.instance_id} is stuck without an error: {boot.states}"
            return
        known = set(boot.kinds) & self.story.errors
        waits = any(kind in WAITS for kind in boot.kinds) and bool(up)
        if not known and not waits:
            yield f"{boot.instance_id} ends with {boot.troubles[-2:]}"


WAITS = ("holder-running", "holder-predecessor", "claim-none-free", "claim-none-here")
"""What who is not needed ends with."""


class _Judged(Edge):
    """The way to EC2, with a judge at CreateVolume."""

    world: World

    def outages(self, action: str) -> tuple[float, float]:
        before, after = super().outages(action)
        return (before, DONE_ANYWAY) if action == "CreateVolume" else (before, after)

    def _answer(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if action != "CreateVolume":
            return super()._answer(action, parameters)
        world = self.world
        before = world.made()
        known = {one.volume.id for one in before}
        answer = super()._answer(action, parameters)
        for one in world.made():
            if one.volume.id not in known:
                world.check(one, before)
        return answer


# ------------------------------------------------------------------ stories


@dataclass
class Story:
    """What a world holds, and what may come of it.

    ``up``: nodes that must be up at the end, unless ``may_fail``; ``errors``: kinds
    with which an instance may end that is not up.
    """

    name: str
    section: Section
    zones: tuple[str, ...] = (ZONE,)
    up: set[str] = field(default_factory=set)
    errors: set[str] = field(default_factory=set)
    may_fail: bool = False


def _section(chance: random.Random, **more: Any) -> Section:
    create = {"size": 1, "after": chance.choice((30, 60, 60))}
    volumes: dict[str, dict[str, Any]] = {
        "log": {"fs_type": "ext4", "mount_path": "/krkn_log"},
        "data": {"fs_type": "xfs", "mount_path": "/krkn_data", "raid_level": 0},
    }
    for name, settings in volumes.items():
        settings.update(members=MEMBERS[name], create=dict(create))
    return Section(boot_wait=30, wait=900, volumes=volumes, **more)


def _new(world: World, chance: random.Random) -> None:
    """One node, whose instances are one or two at a time."""
    for _ in range(chance.choice((1, 2, 2))):
        world.claimant(ZONE, fixed="0")
    world.story.up = {"0"}


def _templates(world: World, chance: random.Random) -> None:
    """A refresh has begun: the new template wants another type, or other tags."""
    _new(world, chance)
    other = copy.deepcopy(world.story.section)
    for settings in other.volumes.values():
        settings["create"].update(
            chance.choice(({"type": "gp2"}, {"tags": {"Build": "2"}}))
        )
    world.templates[world.claimant(ZONE, fixed="0").instance_id] = other


def _copied(world: World, chance: random.Random) -> None:
    """The log is made from a snapshot."""
    snapshot = world.snapshot()
    world.story.section.volumes["log"]["create"]["snapshot"] = snapshot
    _new(world, chance)


def _replaced(world: World, chance: random.Random) -> None:
    """The instance is terminated while it creates, or later; another comes."""
    old = world.claimant(ZONE, fixed="0")
    moment = chance.uniform(30, 400)
    world.later(moment, lambda: world.terminate(old))
    world.later(moment + chance.uniform(0, 30), lambda: _comes(world, fixed="0"))
    world.story.up = {"0"}


def _comes(world: World, fixed: str = "") -> Claimant:
    boot = world.claimant(ZONE, fixed=fixed)
    world.boot(boot, 0.0)
    return boot


def _founded(world: World, chance: random.Random) -> None:
    """Claimants found nodes; some exist already."""
    nodes = chance.randint(1, 3)
    there = chance.choice((0, 0, 1))
    for number in range(nodes + there):
        world.claimant(ZONE)
        if number >= nodes:
            for name in MEMBERS:
                world.person(f"{number}", name, ZONE)
    for _ in range(chance.choice((0, 0, 1))):
        world.claimant(ZONE)
    _found(world, ",".join(f"{one}" for one in range(nodes)))
    world.story.up = {f"{one}" for one in range(nodes + there)}


def _mapped(world: World, chance: random.Random) -> None:
    """Two zones, each with its own nodes."""
    for zone in (ZONE, OTHER):
        for _ in range(chance.choice((1, 2))):
            world.claimant(zone)
    _found(world, {ZONE: "0", OTHER: "1"})
    world.story.up = {"0", "1"}


def _two_zones(world: World, chance: random.Random) -> None:
    """The same list in two zones: a person has to decide."""
    for zone in (ZONE, OTHER):
        world.claimant(zone)
    _found(world, "0")
    world.story.may_fail = True
    world.story.errors |= {"zone-mixed", "create-zone", "members-missing"}
    # The other zone was first, or both have a part.
    world.story.errors |= {"claim-none-here", "claim-none-free"}


def _half(world: World, chance: random.Random) -> None:
    """One of the two sets exists, and has been in service."""
    name = chance.choice(("log", "data"))
    world.filled(world.person("0", name, ZONE), False)
    _new(world, chance)


def _late(world: World, chance: random.Random) -> None:
    """Somebody makes the volumes beside the instance."""
    for name in MEMBERS:
        world.later(
            60 + chance.uniform(5, 25), lambda name=name: world.person("0", name, ZONE)
        )
    _new(world, chance)


def _elsewhere(world: World, chance: random.Random) -> None:
    """The volumes are in another zone."""
    for name in ("log", "data")[: chance.choice((1, 2))]:
        world.filled(world.person("0", name, OTHER), False)
    _new(world, chance)
    world.story.up = set()
    world.story.errors |= {"create-zone", "zone-other", "zone-mixed", "no-volumes"}


ODD = (
    {"KRKN-IN:NodeId": "", "KRKN-IN:NodeID": "0"},
    {"KRKN-IN:VolumeName": "", "KRKN-IN:VolumName": "data"},
    {"KRKN-IN:VolumeName": "Data"},
    {"KRKN-IN:Prefix": "", "KRKN-IN:Prefx": "kafka"},
    {"KRKN-IN:Prefix": "", "KRKN:Prefix": "kafka"},
    {"KRKN-IN:Prefix": "Kafka"},
    {"KRKN-IN:NodeId": "00"},
)


def _misspelt(world: World, chance: random.Random) -> None:
    """The array exists, and one tag of its volumes is wrong; a person may see it."""
    odd = chance.choice(ODD)
    volumes = world.person("0", "data", ZONE, **odd)
    world.filled(volumes, False)
    _new(world, chance)
    if chance.random() < 0.5:

        def corrected() -> None:
            right = world.tags("0", VolumeName="data")
            for volume in volumes:
                world.lab.untag(volume, *odd)
                world.lab.tag(volume, {key: right[key] for key in odd if key in right})

        moment = chance.uniform(80, 200)
        world.later(moment, corrected)
        world.later(moment + 500, lambda: _again(world))
    else:
        world.story.up = set()
    # Two sets with one path are refused before anything is created.
    world.story.errors |= {"create-lookalike", "tag-misspelt", "mount-path-shared"}


def _again(world: World) -> None:
    """Somebody runs ``cc-kraken apply`` where it is not up."""
    for boot in world.claimants:
        if boot.over and not boot.gone and not Up(boot).node_id_up():
            boot.over = False
            world.boot(boot, 0.0)


def _lost(world: World, chance: random.Random) -> None:
    """An array that cc_kraken has created lost a member, hours later."""
    volumes = world.person("0", "data", ZONE)
    world.filled(volumes, True)
    world.lab.delete_volume(chance.choice(volumes))
    world.time.clock.advance(chance.uniform(1.1, 30) * 3600)
    _new(world, chance)
    world.story.up = set()
    world.story.errors |= {"members-missing"}


def _lost_soon(world: World, chance: random.Random) -> None:
    """The same within the hour: a person deletes a member of a node that was up."""
    old = world.claimant(ZONE, fixed="0")

    def deleted() -> None:
        if not Up(old).node_id_up():
            if not old.over:
                world.later(60, deleted)
            return
        world.terminate(old)
        world.later(60, lose)

    def lose() -> None:
        volumes = [one.volume.id for one in world.made() if one.name == "data"]
        world.served.update(volumes)
        world.lab.delete_volume(chance.choice(sorted(volumes)))
        _comes(world, fixed="0")

    world.later(460, deleted)
    world.story.errors |= {"members-missing", "create-burned"}


def _found(world: World, node_ids: Any) -> None:
    world.story.section = replace(world.story.section, node_ids=node_ids)


STORIES: Mapping[str, tuple[Callable[[World, random.Random], None], int]] = {
    "new": (_new, 5),
    "templates": (_templates, 2),
    "copied": (_copied, 1),
    "replaced": (_replaced, 3),
    "founded": (_founded, 4),
    "mapped": (_mapped, 2),
    "two zones": (_two_zones, 2),
    "half": (_half, 2),
    "late": (_late, 2),
    "elsewhere": (_elsewhere, 1),
    "misspelt": (_misspelt, 2),
    "lost": (_lost, 2),
    "lost soon": (_lost_soon, 2),
}
"""Each story, and how often it is told."""


# ------------------------------------------------------------------- worlds


@dataclass
class Outcome:
    """What came of one world."""

    seed: int
    story: str
    kills: int
    created: int
    up: int
    wrong: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)


def one_world(
    seed: int, chances: Optional[Chances] = None, story: str = "", after: float = -1
) -> Outcome:
    """A story and accidents, all drawn by ``seed``; ``after``: of the section."""
    chance = random.Random(seed)
    drawn = chance.choices(list(STORIES), [one for _, one in STORIES.values()])[0]
    section = _section(chance)
    if after >= 0:
        for settings in section.volumes.values():
            settings["create"]["after"] = after
    directory = tempfile.mkdtemp(prefix="kraken-creations-", dir=claims._memory())
    try:
        with in_turn(seed):
            return _world(
                seed,
                chance,
                chances or STORM,
                Story(story or drawn, section),
                directory,
            )
    finally:
        shutil.rmtree(directory)


def _world(
    seed: int, chance: random.Random, chances: Chances, story: Story, directory: str
) -> Outcome:
    world = World(seed, directory, chances, story)
    STORIES[story.name][0](world, chance)
    world.begun = world.settle(seed)
    _accidents(world, chance)
    for boot in world.claimants:
        world.boot(boot, chance.choice((0.0, chance.uniform(0, 8))))
    wrong: list[str] = []
    with claims.killed_at_notes(world):
        try:
            world.time.run()
            world.time.clock.advance(600)  # whoever was terminated last is gone
        except AssertionError as error:
            wrong.append(str(error) or repr(error))
    wrong = wrong or world.end()
    up = sum(bool(Up(boot).node_id_up()) for boot in world.claimants)
    calls: Counter[str] = Counter()
    for boot in world.claimants:
        calls.update(boot.calls)
    return Outcome(seed, story.name, world.kills, world.created, up, wrong, calls)


def _accidents(world: World, chance: random.Random) -> None:
    """KMS, the account's limit, EC2's throttles."""
    if chance.random() < 0.15:
        world.lab.refuse_creation(volumes=chance.choice((1, 1, 2, 4)))
        world.story.may_fail = True
        world.story.errors |= {"create-burned", "members-missing", "create-failed"}
    if chance.random() < 0.15:
        stored = sum(one.size_gib for one in world.lab.volumes() if one.type == "gp3")
        world.lab.limit_storage("gp3", stored + chance.randint(0, 3))
        world.later(chance.uniform(60, 400), lambda: world.lab.lift_storage("gp3"))
        world.story.may_fail = True
        world.story.errors |= {"create-limit"}
    if chance.random() < 0.3:
        world.lab.limit("CreateVolume", 2, 0.1)


def many(seeds: Any, chances: Optional[Chances] = None) -> list[Outcome]:
    return [one_world(seed, chances) for seed in seeds]


def told(outcomes: list[Outcome]) -> str:
    """One line about many worlds."""
    wrong = [one for one in outcomes if one.wrong]
    kills, created, up = (
        sum(getattr(one, key) for one in outcomes) for key in ("kills", "created", "up")
    )
    line = (
        f"{len(outcomes)} worlds, {kills} kills, {created} volumes created, "
        f"{up} nodes up, {len(wrong)} wrong"
    )
    return "\n".join(
        [line, *(f"  seed {one.seed} ({one.story}): {one.wrong}" for one in wrong[:9])]
    )


# ---------------------------------------------------------------- the rules


def _no_tokens(patch: Callable[[Any, str, Any], None]) -> None:
    chance = random.Random(0)
    patch(creating, "token", lambda *_: f"{chance.getrandbits(256):064x}")


def _no_second_look(patch: Callable[[Any, str, Any], None]) -> None:
    long_ago = creating.Answer(float("-inf"), float("-inf"), ())
    patch(creating, "_first_alike", lambda *_: long_ago)


def _no_age(patch: Callable[[Any, str, Any], None]) -> None:
    patch(creating, "YOUNG", float("inf"))


RULES = {
    "tokens": _no_tokens,
    "second look": _no_second_look,
    "60 minutes": _no_age,
}
"""A rule, and how to take it out.  The fourth is ``after``."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.creations")
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="of the first world")
    parser.add_argument("--story", choices=list(STORIES), default="")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun = time.monotonic()
    outcomes = []
    for seed in range(wanted.seed, wanted.seed + wanted.worlds):
        outcomes.append(one_world(seed, story=wanted.story))
        if outcomes[-1].wrong:
            print(told(outcomes[-1:]), flush=True)
    print(told(outcomes), f"({time.monotonic() - begun:.0f} s to simulate)")
    return 1 if any(one.wrong for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
