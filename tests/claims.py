"""Instances that may be any node, in worlds where all goes wrong that can.

    python3 -m tests.claims --worlds 500

Each world is a zone or two with some nodes and as many claimants or more, on the
strict EC2 in virtual time (:mod:`tests.fleet`): a fifth of the answers is up to 3 s
old, 15 % of the calls end in a 503 (half of those after they were carried out), runs
are killed before and after any call and any note, machines lose their power, old
instances are terminated while others wait.  Templates differ, and now and then an
instance with a fixed NodeId is among them.

Judged all the time: no node on two instances, no instance with volumes of two nodes,
nothing detached that is used.  At the end: no free node while an instance waits, and
every node that is up is whole on one instance.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from cc_kraken.act.waiting import Limits
from cc_kraken.decide import claiming
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Identity, Node, Section
from cc_kraken.state import claim_file
from cc_kraken.state.report import Report
from tests import fleet
from tests.fleet import (
    Boot,
    DirectEc2,
    Fleet,
    Machine,
    NodeClock,
    QuietReport,
    in_turn,
)

OUTAGES = 0.15
"""Of the calls; half of them are carried out all the same."""
KILLS = 0.03
"""At each call and each note: before it or after it."""
HARDER = {"stale": 12.0, "share": 0.5, "kills": 0.06}
"""For the worlds in which a rule is taken out."""
ANY = "*"
CLAIM_TARGET = 1.3
"""Times the bound of the attaches that are needed."""


class Killed(BaseException):
    """The run is gone, at once; ``reboot``: the machine's power, too."""

    def __init__(self, reboot: bool) -> None:
        super().__init__()
        self.reboot = reboot


class Violation(AssertionError):
    """Two have what one may have, or somebody lost what he used."""


@dataclass
class Chances:
    """What may go wrong in a world."""

    outages: float = OUTAGES
    kills: float = KILLS
    stale: float = 3.0
    """Seconds that an answer may be old."""
    share: float = 0.2
    """Of the answers that are."""
    calm_after: float = 400.0
    """Seconds after which nothing goes wrong any more."""


@dataclass
class Claimant(Boot):
    """One instance, over all its boots and runs.  ``node``: what it says it is."""

    sets: str = "log,data"
    fixed: str = ""
    node: Optional[str] = None
    boots: int = 0
    kills: int = 0
    gone: bool = False
    over: bool = False


class World(Fleet):
    """Nodes, and instances that claim them."""

    def __init__(
        self, seed: int, base: str, chances: Chances, section: Section, **lab: Any
    ) -> None:
        super().__init__(seed, section, **{"throttled": False, **lab})
        self.seed = seed
        self.base = base
        self.chances = chances
        self.chance = random.Random(seed * 7919)
        self.nodes: dict[str, list[str]] = {}
        self.node_of: dict[str, str] = {}
        self.kills = 0
        self.seen: list[str] = []
        self.begun = 0.0
        self.turn = self._others
        self.lab.on_detach = self._on_detach

    def _others(self) -> None:
        self.time.sleep(self.chance.choice((0.0, 0.0, 0.02, 0.2)))

    # -------------------------------------------------------------- to build

    def node(self, node_id: str, zone: str) -> None:
        self.nodes[node_id] = self.volumes(node_id, zone)
        self.node_of.update(dict.fromkeys(self.nodes[node_id], node_id))

    def claimant(self, zone: str, sets: str = "log,data", fixed: str = "") -> Claimant:
        tags = self.tags(fixed or ANY, Volumes=sets)
        instance_id = self.lab.run_instance("m5.large", zone, tags)
        clock = NodeClock(self.time)
        machine = Machine(self.storage, clock, 1)
        boot = Claimant(fixed or ANY, instance_id, machine, sets=sets, fixed=fixed)
        paths = self.paths(boot)
        os.makedirs(paths.state)
        os.makedirs(paths.proc)
        os.symlink("/proc/self", os.path.join(paths.proc, "self"))
        self.boots[instance_id] = boot
        self._new_boot(boot)
        return boot

    def paths(self, boot: Boot) -> Paths:
        own = os.path.join(self.base, boot.instance_id)
        return Paths(
            run=self._paths.run,
            etc=self._paths.etc,
            state=os.path.join(own, "state"),
            proc=os.path.join(own, "proc"),
        )

    def report(self, boot: Boot, stage: str) -> Report:
        assert isinstance(boot, Claimant)
        return _Watching(self.paths(boot), stage, self, boot)

    def edge(self, boot: Boot, identity: Identity) -> DirectEc2:
        return self.edge_of(Edge, boot, identity, self, boot)

    def settle(self, seed: int) -> float:
        begun = super().settle(seed)
        stale, share = self.chances.stale, self.chances.share
        self.lab.lag(stale, share=share, spread=True, seed=seed)
        return begun

    # --------------------------------------------------------------- to live

    def live(self, boot: Boot) -> None:
        """Boot after boot and run after run, until one comes to its end."""
        assert isinstance(boot, Claimant)
        stage = "network"
        while not boot.gone:
            final = stage != "network"
            limits = Limits(
                float(self.section.wait if final else self.section.boot_wait),
                final=final,
                background=final,
            )
            try:
                state = self.run(boot, stage, limits)
            except Killed as killed:
                boot.kills += 1
                self.kills += 1
                boot.node = None
                if boot.gone:
                    return
                self.time.sleep(self.chance.uniform(1, 5))
                if killed.reboot:
                    self.time.sleep(self.chance.uniform(5, 20))
                    self._new_boot(boot)
                    stage = "network"
                else:
                    stage = "background"
                continue
            if state == "failed" or stage == "background":
                break
            stage = "background"
        boot.over = True

    def _new_boot(self, boot: Claimant) -> None:
        """systemd mounts what fstab says, udev starts what is whole."""
        boot.boots += 1
        path = self.paths(boot).boot_id
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{boot.instance_id}-{boot.boots}\n")
        machine = boot.machine
        machine.mounts.clear()
        machine.arrays.clear()
        for volume in sorted(machine.disks):
            block = self.storage.content(volume).superblock
            if block is not None:
                machine._assemble(block)
        for line in machine.fstab.values():
            uuid = line.spec.partition("=")[2]
            for volumes, known in self._shown(machine):
                if known is not None and known.uuid == uuid:
                    machine.mounts[line.path] = (line.type, volumes)

    def _shown(self, machine: Machine) -> Iterator[Any]:
        for volume in machine.disks:
            yield frozenset({volume}), self.storage.content(volume).filesystem
        for uuid, members in machine.arrays.items():
            yield frozenset(members), self.storage.arrays.get(uuid)

    def terminate(self, boot: Claimant) -> None:
        boot.gone, boot.node = True, None
        boot.machine.mounts.clear()
        boot.machine.arrays.clear()
        self.lab.terminate_instance(
            boot.instance_id, self.chance.uniform(5, 40), self.lab.release_seconds
        )
        boot.machine.clock.stop()
        boot.machine.clock.stir()

    # -------------------------------------------------------------- to judge

    def is_node(self, boot: Claimant, node: Optional[Node]) -> None:
        """An instance says which node it is now."""
        boot.node = node.node_id if node is not None else None
        if boot.node is None or boot.gone:
            boot.node = None  # it is off, and says nothing any more
            return
        for other in self.claimants:
            if other is not boot and other.node == boot.node and not boot.fixed:
                if other.fixed and not other.machine.mounts:
                    continue  # it waits, as its tags say
                raise Violation(
                    f"{boot.instance_id} and {other.instance_id} are both {boot.node}"
                )

    @property
    def claimants(self) -> list[Claimant]:
        return [boot for boot in self.boots.values() if isinstance(boot, Claimant)]

    def _on_attach(self, instance_id: str, volume_id: str, device: str) -> None:
        super()._on_attach(instance_id, volume_id, device)
        held = (one.volume_id for one in self.lab.attached_to(instance_id))
        nodes = {self.node_of_volume(one) for one in (*held, volume_id)} - {""}
        if len(nodes) > 1:
            self.seen.append(f"{instance_id} has volumes of the nodes {sorted(nodes)}")

    def node_of_volume(self, volume_id: str) -> str:
        return self.node_of.get(volume_id, "")

    def detaching(self, boot: Claimant, volume_id: str) -> None:
        if volume_id in boot.machine.in_use():
            raise Violation(f"{volume_id} is detached and in use")

    def end(self) -> list[str]:
        """What is wrong when everything has come to rest."""
        wrong = [*self.seen, *self.lab.hook_errors]
        holders: dict[str, set[str]] = {}
        for node_id, volumes in self.nodes.items():
            holders[node_id] = {
                one.instance_id
                for volume in volumes
                for one in self.lab.volume(volume).attachments
            }
        up = {
            boot.node_id_up(): boot
            for boot in map(Up, self.claimants)
            if boot.node_id_up()
        }
        for node_id, instances in holders.items():
            if len(instances) > 1:
                wrong.append(f"{node_id} is split: {sorted(instances)}")
            if instances and node_id not in up:
                wrong.append(f"{node_id} is held by {sorted(instances)} and not up")
        for boot in self.claimants:
            if boot.gone or Up(boot).node_id_up() or boot.fixed:
                continue
            zone = self.lab.instance(boot.instance_id).zone
            free = [
                node_id
                for node_id, volumes in self.nodes.items()
                if not holders[node_id] and self.lab.volume(volumes[0]).zone == zone
            ]
            if free:
                wrong.append(
                    f"{boot.instance_id} is stuck beside {free}: {boot.states} "
                    f"{boot.troubles[-1:]}"
                )
        return wrong


class Up:
    """The node whose declared sets an instance has mounted."""

    def __init__(self, boot: Claimant) -> None:
        self._boot = boot

    def node_id_up(self) -> str:
        boot = self._boot
        wanted = {f"/krkn_{name}" for name in boot.sets.split(",")}
        if boot.gone or not wanted <= set(boot.machine.mounts):
            return ""
        return boot.node or ""


class Edge(DirectEc2):
    """The way to EC2, with outages and sudden ends."""

    def __init__(self, *given: Any) -> None:
        *given_up, self.world, self.boot = given
        super().__init__(*given_up)

    def lifecycle(self) -> str:
        return ""

    def _send(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        world = self.world
        if action == "DetachVolume":
            world.detaching(self.boot, parameters["VolumeId"])
        fate = world.chance.random() if stormy(world) else 1.0
        before, after = self.outages(action)
        strike(world, self.boot)
        if fate < before:
            raise _outage(action)
        answer = self._answer(action, parameters)
        strike(world, self.boot)
        if fate < before + after:
            raise _outage(action)
        return answer

    def _answer(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return super()._send(action, parameters)

    def outages(self, action: str) -> tuple[float, float]:
        """Shares of the calls that fail before and after they are carried out."""
        half = self.world.chances.outages / 2
        return half, half


def _outage(action: str) -> Exception:
    from botocore.exceptions import ClientError

    error = {"Code": "Unavailable", "Message": "The server is overloaded."}
    return ClientError(
        {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 503}}, action
    )


def stormy(world: World) -> bool:
    return world.time.now() - world.begun < world.chances.calm_after


def strike(world: World, boot: Claimant) -> None:
    """It may be the end of the run, here; it is for a machine that is gone."""
    if boot.gone:
        raise Killed(False)
    if stormy(world) and world.chance.random() < world.chances.kills:
        raise Killed(world.chance.random() < 0.4)


class _Watching(QuietReport):
    """Tells the judge who an instance says it is."""

    def __init__(self, paths: Paths, stage: str, world: World, boot: Claimant) -> None:
        super().__init__(paths, stage)
        self._world, self._boot = world, boot

    def identify(self, identity: Identity, node: Optional[Node]) -> bool:
        self._world.is_node(self._boot, node)
        return super().identify(identity, node)


@contextmanager
def killed_at_notes(world: World) -> Iterator[None]:
    """Runs are killed before and after each note as well."""
    save = claim_file.ClaimFile._save

    def cut(self: claim_file.ClaimFile) -> None:
        boot = world.boots[self._instance_id]
        assert isinstance(boot, Claimant)
        strike(world, boot)
        save(self)
        strike(world, boot)

    claim_file.ClaimFile._save = cut  # type: ignore[method-assign]
    try:
        yield
    finally:
        claim_file.ClaimFile._save = save  # type: ignore[method-assign]


# ------------------------------------------------------------------- worlds


@dataclass
class Outcome:
    """What came of one world."""

    seed: int
    kills: int
    up: int
    wrong: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)


def one_world(seed: int, chances: Optional[Chances] = None, base: str = "") -> Outcome:
    """Nodes, claimants and accidents, all drawn by ``seed``."""
    chance = random.Random(seed)
    chances = chances or Chances()
    section = Section(
        boot_wait=30, wait=900, claim_order=chance.choice(("lowest", "spread"))
    )
    directory = tempfile.mkdtemp(prefix="kraken-claims-", dir=base or _memory())
    try:
        with in_turn(seed):
            return _world(seed, chance, chances, section, directory)
    finally:
        shutil.rmtree(directory)


def _memory() -> Optional[str]:
    """Notes are fsynced: in memory that costs nothing."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _world(
    seed: int,
    chance: random.Random,
    chances: Chances,
    section: Section,
    directory: str,
) -> Outcome:
    world = World(seed, directory, chances, section)
    zones = chance.choice((1, 1, 2))
    nodes = chance.randint(2, 5)
    for number in range(nodes):
        world.node(f"{number}", f"us-east-1{'ab'[number % zones]}")
    mixed = chance.random() < 0.3
    fixed = chance.random() < 0.2
    more = chance.choice((0, 0, 1, 2))
    for number in range(nodes + more):
        sets = "log" if mixed and number % 2 else "log,data"
        zone = f"us-east-1{'ab'[number % zones]}"
        name = "0" if fixed and number == 0 else ""
        world.claimant(zone, sets, name)
    world.begun = world.time.now()
    world.settle(seed)
    world.begun = world.time.now()
    for boot in world.claimants:
        world.boot(boot, chance.uniform(0, 8))
    for boot in chance.sample(world.claimants, chance.choice((0, 0, 1, 2))):
        moment = chance.uniform(20, 300)
        world.time.clock.later(moment, lambda one=boot: world.terminate(one))
    wrong: list[str] = []
    with killed_at_notes(world):
        try:
            world.time.run()
            world.time.clock.advance(600)  # whoever was terminated last is gone
        except Violation as violation:
            wrong.append(str(violation))
    wrong = wrong or world.end()
    up = sum(bool(Up(boot).node_id_up()) for boot in world.claimants)
    calls: Counter[str] = Counter()
    for boot in world.claimants:
        calls.update(boot.calls)
    return Outcome(seed, world.kills, up, wrong, calls)


def many(seeds: Any, chances: Optional[Chances] = None) -> list[Outcome]:
    return [one_world(seed, chances) for seed in seeds]


def told(outcomes: list[Outcome]) -> str:
    """One line about many worlds."""
    wrong = [one for one in outcomes if one.wrong]
    kills, up = (sum(getattr(one, key) for one in outcomes) for key in ("kills", "up"))
    line = f"{len(outcomes)} worlds, {kills} kills, {up} nodes up, {len(wrong)} wrong"
    return "\n".join([line, *(f"  seed {one.seed}: {one.wrong}" for one in wrong[:9])])


def burst(order: str, nodes: int, others: int, seed: int = 1) -> fleet.Outcome:
    """All instances of a group boot within two seconds, under EC2's throttles, and as
    many nodes are free; volumes are new and blank."""
    directory = tempfile.mkdtemp(prefix="kraken-claims-", dir=_memory())
    try:
        calm = Chances(outages=0.0, kills=0.0)
        section = Section(claim_order=order)
        world = World(seed, directory, calm, section, throttled=True)
        world.turn = lambda: None
        chance = random.Random(seed)
        world.strangers(others)
        for number in range(nodes):
            zone = fleet.ZONES[number % 3]
            world.node(f"{number}", zone)
            world.claimant(zone)
        world.begun = world.settle(seed)
        delays = [chance.uniform(0, 2) for _ in world.claimants]
        for boot, delay in zip(world.claimants, delays):
            world.boot(boot, delay)
        world.time.run()
    finally:
        shutil.rmtree(directory)
    for boot in world.claimants:
        boot.node_id = boot.node or ANY
    ready = [delay for delay in delays for _ in range(Fleet.VOLUMES)]
    return fleet.Outcome(
        f"{nodes} instances claim {nodes} nodes, {order} first",
        world,
        list(world.claimants),
        world.begun,
        fleet.bucket_bound(ready) + world.lab.attach_seconds,
        f"{nodes * Fleet.VOLUMES} x AttachVolume, 50 and 5/s, 2 s to attach",
        CLAIM_TARGET,
    )


# ---------------------------------------------------------------- the rules


def _no_record(patch: Callable[[Any, str, Any], None]) -> None:
    patch(claim_file.ClaimFile, "_load", lambda self: None)


def _not_noted_before(patch: Callable[[Any, str, Any], None]) -> None:
    patch(claim_file.ClaimFile, "sending", lambda self, volume_id: None)
    patch(claim_file.ClaimFile, "sending_more", lambda self, volume_ids: None)


def _no_second_look(patch: Callable[[Any, str, Any], None]) -> None:
    patch(claiming.Situation, "rivals", lambda self, node_id: {})


def _not_thirty_seconds(patch: Callable[[Any, str, Any], None]) -> None:
    patch(claim_file, "OPEN_FOR", 0.0)


RULES = {
    "record": _no_record,
    "noted before it is sent": _not_noted_before,
    "second look": _no_second_look,
    "thirty seconds": _not_thirty_seconds,
}
"""A rule of the protocol, and how to take it out."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.claims")
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="of the first world")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun = time.monotonic()
    outcomes = many(range(wanted.seed, wanted.seed + wanted.worlds))
    print(told(outcomes), f"({time.monotonic() - begun:.0f} s to simulate)")
    return 1 if any(one.wrong for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
