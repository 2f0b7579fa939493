"""A fleet that boots at once: the real run, EC2's throttles, virtual time.

    python3 -m tests.fleet --nodes 1000

What runs is cc_kraken's own: the run with its waiting, the decision, the calls
of EC2 with their reactions to errors, the executor's part that attaches.  In
their place are only: time (a virtual clock, a thread for each instance, one of
them awake at a time), the way to EC2 (botocore's serializer and parser, and a
function call instead of HTTP), and the machine (disks that appear when EC2
says so, arrays and filesystems as facts about volume ids).

Reports the time until everything is mounted against the bound that the token
buckets set, the calls by node, and whether anything was attached twice, lost
or refused.  docs/reference/fleets.md explains the scenarios and the figures.
"""

from __future__ import annotations

import argparse
import functools
import gc
import heapq
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Optional,
)
from uuid import uuid5

from botocore.parsers import EC2QueryParser

from cc_kraken.act import step_actions
from cc_kraken.act.executor import Executor
from cc_kraken.act.run import Run
from cc_kraken.act.waiting import Limits
from cc_kraken.boot.cloud_init import Events
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.decide.case import NAMESPACE
from cc_kraken.decide.steps import (
    AssembleArray,
    CreateArray,
    Detach,
    EraseRecords,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    Step,
    WriteArrayLine,
    WriteFstab,
    WriteRecords,
)
from cc_kraken.decide.world import World
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Blank,
    Claim,
    Device,
    FstabLine,
    Identity,
    Known,
    Look,
    MdSuperblock,
    Mount,
    Mounted,
    PathState,
    Record,
    Section,
)
from cc_kraken.state import last_resort, node_env, udev_rules
from cc_kraken.state.report import DONE, Report
from tests.lab.clock import ManualClock
from tests.lab.ec2 import MUTATING, Ec2Lab
from tests.lab.world import seed_ids

LOG = logging.getLogger("fleet")
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
GIB = 1 << 30
STACK = 512 * 1024
TARGET = 1.1

# --------------------------------------------------------------------- time


class Ended(BaseException):
    """The simulation is over before this thread is."""


class _Thread:
    """One instance's thread; runs only when it is its turn."""

    def __init__(self, world: "Time", name: str, work: Callable[[], None]) -> None:
        self.turn = threading.Semaphore(0)
        self.ticket = 0
        self.ended = False
        self.error: Optional[BaseException] = None
        self._world = world
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            self._work()
        except Ended:
            pass
        except BaseException as error:  # told by Time.run, whatever it is
            self.error = error
        self.ended = True
        self._world.back.release()

    def join(self) -> None:
        self._thread.join()


class Time:
    """Virtual time: threads that sleep until it is their turn.

    The lab's clock is moved to the next event or the next thread's moment,
    whichever comes first.  Among what is due at one moment chance decides, by
    ``seed``, so that many seeds are many interleavings.
    """

    def __init__(self, seed: int = 0) -> None:
        self.clock = ManualClock(0.0)
        self.back = threading.Semaphore(0)
        self.current: Optional[_Thread] = None
        self.over = False
        self._random = random.Random(seed)
        self._due: list[tuple[float, float, int, _Thread]] = []
        self._threads: list[_Thread] = []

    def now(self) -> float:
        return self.clock.now()

    def start(self, name: str, work: Callable[[], None], delay: float = 0.0) -> None:
        thread = _Thread(self, name, work)
        self._threads.append(thread)
        self._plan(thread, self.now() + delay)

    def wake(self, thread: _Thread) -> None:
        """Its turn comes now, not when it had planned."""
        self._plan(thread, self.now())

    def _plan(self, thread: _Thread, moment: float) -> None:
        thread.ticket += 1
        heapq.heappush(
            self._due, (moment, self._random.random(), thread.ticket, thread)
        )

    def sleep(self, seconds: float) -> None:
        """Called by a thread of ``start``: let the others run meanwhile."""
        thread = self.current
        assert thread is not None
        # never so short that the clock would stand still
        self._plan(thread, self.now() + max(seconds, 1e-6))
        self.back.release()
        thread.turn.acquire()
        if self.over:
            raise Ended

    def run(self, until: float = float("inf")) -> None:
        """Go on until every thread has ended; raises what one has raised."""
        while self._due:
            moment, _, ticket, thread = self._due[0]
            if ticket != thread.ticket or thread.ended:
                heapq.heappop(self._due)
                continue
            event = self.clock.next_event()
            if min(moment, moment if event is None else event) > until:
                break
            if event is not None and event <= moment:
                self.clock.advance_to(event)
                continue
            heapq.heappop(self._due)
            self.clock.advance_to(moment)
            self._turn(thread)
        self._end()

    def _turn(self, thread: _Thread) -> None:
        self.current = thread
        thread.turn.release()
        self.back.acquire()
        self.current = None
        if thread.error is not None:
            raise thread.error

    def _end(self) -> None:
        self.over = True
        for thread in self._threads:
            if not thread.ended:
                self._turn(thread)
            thread.join()


class NodeClock(Clock):
    """The clock of one instance's run."""

    def __init__(self, world: Time) -> None:
        super().__init__()
        self._world = world
        self._watching: Optional[_Thread] = None

    def now(self) -> float:
        return self._world.now()

    date = now

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def watch(self, seconds: float, changed: Callable[[], bool]) -> None:
        end = self.now() + max(seconds, 0.0)
        while self.now() <= end:
            self._watching = self._world.current
            self._world.sleep(end - self.now())
            self._watching = None
            if changed():
                return

    def stir(self) -> None:
        """Something has changed on the machine."""
        if self._watching is not None:
            self._world.wake(self._watching)
            self._watching = None


class InTurn:
    """A ThreadPoolExecutor whose jobs run one after another, in an order
    that chance decides: their calls are instants in this time."""

    chance = random.Random(0)

    def __init__(self, *_: object, **__: object) -> None:
        self._jobs: list[tuple["_Job", Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "_Job":
        job = _Job()
        self._jobs.append((job, lambda: function(*arguments)))
        return job

    def __enter__(self) -> "InTurn":
        return self

    def __exit__(self, *_: object) -> None:
        self.chance.shuffle(self._jobs)
        for job, work in self._jobs:
            try:
                job.value = work()
            except Exception as error:
                job.error = error


class _Job:
    value: Any = None
    error: Optional[Exception] = None

    def exception(self) -> Optional[Exception]:
        return self.error

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


@contextmanager
def in_turn(seed: int) -> Iterator[None]:
    """The executor's threads become turns; chance comes from ``seed``."""
    InTurn.chance = random.Random(seed)
    state = random.getstate()
    random.seed(seed)
    inside, disk = vars(step_actions), vars(last_resort)
    rules = vars(udev_rules)
    before = inside["ThreadPoolExecutor"], disk["write"], node_env.keep, rules["keep"]
    inside["ThreadPoolExecutor"] = InTurn
    disk["write"] = lambda *_: True  # a file for udev
    rules["keep"] = lambda *_: None  # and another one
    vars(node_env)["keep"] = lambda *_: None  # and one for services
    size = threading.stack_size(STACK)
    try:
        yield
    finally:
        threading.stack_size(size)
        inside["ThreadPoolExecutor"], disk["write"] = before[:2]
        vars(node_env)["keep"], rules["keep"] = before[2:]
        random.setstate(state)


# ---------------------------------------------------------------------- wire


class OnceParser(EC2QueryParser):
    """botocore's parser, which reads a volume that it has read before from memory.

    A thousand claimants read a thousand volumes many times, and few change between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[tuple[tuple[str, Optional[str]], ...], Any] = {}

    def _handle_structure(self, shape: Any, node: Any) -> Any:
        if shape.name != "Volume":
            return super()._handle_structure(shape, node)
        text = tuple((element.tag, element.text) for element in node.iter())
        if text not in self._read:
            self._read[text] = super()._handle_structure(shape, node)
        return self._read[text]


class Wire:
    """botocore's own serializer and parser, without a connection."""

    def __init__(self) -> None:
        import botocore.serialize
        import botocore.session

        core = botocore.session.Session()
        self._model = core.get_service_model("ec2")
        self._serializer = botocore.serialize.create_serializer("ec2", False)
        self._parser = OnceParser()

    def request(self, action: str, parameters: Mapping[str, Any]) -> dict[str, str]:
        operation = self._model.operation_model(action)
        made = self._serializer.serialize_to_request(dict(parameters), operation)
        body: dict[str, str] = made["body"]
        return {name: str(value) for name, value in body.items() if name != "Action"}

    def answer(self, action: str, status: int, body: bytes) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        operation = self._model.operation_model(action)
        shape = operation.output_shape
        raw = {"status_code": status, "headers": {}, "body": body}
        parsed: dict[str, Any] = self._parser.parse(raw, shape)
        if status >= 300:
            raise ClientError(parsed, action)
        return parsed


@functools.lru_cache(maxsize=None)
def wire() -> Wire:
    """The one for all: reading the model of the API takes its time."""
    return Wire()


class DirectEc2(Ec2):
    """The edge to EC2 with calls of functions instead of requests."""

    def __init__(
        self,
        identity: Identity,
        section: Section,
        lab: Ec2Lab,
        wire: Wire,
        key: str,
        turn: Callable[[], None],
        sleep: Callable[[float], None],
    ) -> None:
        super().__init__(identity, section, sleep)
        self._lab = lab
        self._wire = wire
        self._key = key
        self._turn = turn

    def _send(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        flat = self._wire.request(action, parameters)
        self._turn()
        self.calls[action] += 1
        answer = self._lab.call(action, flat, self._key)
        return self._wire.answer(action, answer.status, answer.body)

    def _call(self, action: str, subject: str, **parameters: Any) -> Any:
        with self._errors(action, subject):
            return self._send(action, parameters)


# ------------------------------------------------------------------- machine


@dataclass
class Content:
    """What lies on one volume."""

    record: Optional[Record] = None
    superblock: Optional[MdSuperblock] = None
    filesystem: Optional[Known] = None


@dataclass
class Storage:
    """What lies on all volumes, whoever has them; arrays by UUID."""

    volumes: dict[str, Content] = field(default_factory=dict)
    arrays: dict[str, Optional[Known]] = field(default_factory=dict)
    copies: set[str] = field(default_factory=set)
    """Volumes that were made from a snapshot: nothing is made on them."""

    def content(self, volume_id: str) -> Content:
        return self.volumes.setdefault(volume_id, Content())


class Machine:
    """One instance from inside."""

    def __init__(self, storage: Storage, clock: NodeClock, sizes: int) -> None:
        self.storage = storage
        self.clock = clock
        self.size = sizes * GIB
        self.disks: dict[str, str] = {}
        self.arrays: dict[str, tuple[str, ...]] = {}
        self.mounts: dict[str, tuple[str, frozenset[str]]] = {}
        self.fstab: dict[str, FstabLine] = {}
        self.array_lines: dict[str, str] = {}
        self.directories: set[str] = set()
        self.mounted_at: dict[str, float] = {}

    def plug(self, volume_id: str) -> None:
        self.disks[volume_id] = f"nvme{len(self.disks) + 1}n1"
        block = self.storage.content(volume_id).superblock
        if block is not None:
            self._assemble(block)
        self.clock.stir()

    def unplug(self, volume_id: str) -> None:
        self.disks.pop(volume_id, None)
        self.clock.stir()

    def _assemble(self, block: MdSuperblock) -> None:
        """As udev's rules do: the array runs when its last member is there."""
        members = tuple(
            volume
            for volume in sorted(self.disks)
            if (other := self.storage.content(volume).superblock) is not None
            and other.uuid == block.uuid
        )
        if len(members) == block.raid_disks:
            self.arrays[block.uuid] = members

    def in_use(self) -> frozenset[str]:
        """What is mounted, or in an array that runs."""
        groups = [*self.arrays.values(), *(one for _, one in self.mounts.values())]
        return frozenset(volume for group in groups for volume in group)

    def device(self, volume_id: str) -> Device:
        holders = [
            f"md{number}"
            for number, members in enumerate(self.arrays.values(), 127)
            if volume_id in members
        ]
        name = self.disks[volume_id]
        return Device(
            name, f"/dev/{name}", f"259:{name[4]}", volume_id, self.size, False, (),
            tuple(holders),
        )  # fmt: skip


class MachineObserver:
    """What :class:`cc_kraken.act.observe.Observer` would find on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def disks(self) -> frozenset[tuple[str, str, str]]:
        return frozenset(
            (name, volume, "") for volume, name in self.machine.disks.items()
        )

    def volumes_here(self) -> frozenset[str]:
        return frozenset(self.machine.disks)

    def volumes_in_use(self) -> frozenset[str]:
        return self.machine.in_use()

    def look(self, instance_id: str, claims: Sequence[Claim]) -> World:
        machine, storage = self.machine, self.machine.storage
        devices = {volume: machine.device(volume) for volume in machine.disks}
        looks = {
            volume.id: self._look(storage.content(volume.id))
            for claim in claims
            if all(volume.id in devices for volume in claim.volumes)
            for volume in claim.volumes
        }
        arrays = tuple(
            Array(
                f"md{number}", f"/dev/md{number}", f"9:{number}", uuid, "raid0",
                len(members), tuple(devices[one].name for one in members), "clean",
            )
            for number, (uuid, members) in enumerate(machine.arrays.items(), 127)
        )  # fmt: skip
        return World(
            instance_id,
            devices=devices,
            looks=looks,
            arrays=arrays,
            array_looks={
                uuid: Look(storage.arrays.get(uuid) or Blank())
                for uuid in machine.arrays
            },
            mounts=tuple(
                Mounted(Mount(path, "259:1", type, path), volumes)
                for path, (type, volumes) in machine.mounts.items()
            ),
            paths={path: PathState("directory") for path in machine.directories},
            fstab=dict(machine.fstab),
            array_lines=dict(machine.array_lines),
        )

    def _look(self, content: Content) -> Look:
        if content.superblock is not None:
            block = content.superblock
            known = Known("linux_raid_member", block.uuid, superblock=block)
            return Look(known, content.record)
        return Look(content.filesystem or Blank(), content.record)


class MachineExecutor(Executor):
    """Attaches as the real one does; the machine's part is a fact at once."""

    def __init__(self, machine: Machine, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.machine = machine
        self.storage = machine.storage
        facts: dict[type, Callable[[Any], None]] = {
            WriteRecords: self._fact_records,
            EraseRecords: self._fact_no_records,
            CreateArray: self._fact_array,
            AssembleArray: self._fact_assembled,
            WriteArrayLine: self._fact_array_line,
            MakeFilesystem: self._fact_filesystem,
            MakeDirectory: lambda step: machine.directories.add(step.path),
            WriteFstab: self._fact_fstab,
            MountFilesystem: self._fact_mounted,
            Detach: self._fact_detached,
        }
        do: dict[type, Callable[[Step], None]] = dict(self._do)
        do.update(facts)
        self._do = do

    def _fact_detached(self, step: Detach) -> None:
        """Held while EC2 is asked, as :mod:`cc_kraken.storage.release` does it."""
        self._carried.ask_again = True
        for volume in step.volume_ids:
            if volume in self.machine.in_use():
                self._carried.kept.append(volume)
            else:
                self._detach_one(volume)

    def _fact_records(self, step: WriteRecords) -> None:
        for record in step.records:
            content = self.storage.content(record.volume_id)
            assert record.volume_id in self.machine.disks
            assert record.volume_id not in self.storage.copies
            assert content.superblock is None and content.filesystem is None
            content.record = record

    def _fact_no_records(self, step: EraseRecords) -> None:
        for record in step.records:
            self.storage.content(record.volume_id).record = None

    def _fact_array(self, step: CreateArray) -> None:
        roles = tuple(range(len(step.volume_ids)))
        for role, volume in enumerate(step.volume_ids):
            content = self.storage.content(volume)
            assert volume in self.machine.disks and content.record is not None
            assert content.superblock is None and content.filesystem is None
            content.superblock = MdSuperblock(
                step.uuid, step.name, step.level, len(roles), role, 1, volume,
                1 << 20, GIB, 512 << 10, 0, 0, roles,
            )  # fmt: skip
        self.storage.arrays[step.uuid] = None
        self.machine.arrays[step.uuid] = step.volume_ids

    def _fact_assembled(self, step: AssembleArray) -> None:
        raise AssertionError("udev has assembled it already")

    def _fact_filesystem(self, step: MakeFilesystem) -> None:
        made = Known(step.type, step.uuid, step.label)
        if step.array_uuid:
            assert self.storage.arrays[step.array_uuid] is None, "made twice"
            self.storage.arrays[step.array_uuid] = made
            return
        content = self.storage.content(step.records[0].volume_id)
        assert content.filesystem is None, "made twice"
        content.filesystem = made

    def _fact_array_line(self, step: WriteArrayLine) -> None:
        self.machine.array_lines[step.uuid] = step.set

    def _fact_fstab(self, step: WriteFstab) -> None:
        self.machine.fstab[step.set] = step.line

    def _fact_mounted(self, step: MountFilesystem) -> None:
        volumes = frozenset({step.volume_id})
        if step.array_uuid:
            volumes = frozenset(self.machine.arrays[step.array_uuid])
        self.machine.mounts[step.path] = (step.type, volumes)
        self.machine.mounted_at[step.set] = self.clock.now()


class QuietReport(Report):
    """A report that nobody reads while the run goes on."""

    def write(self) -> None:
        pass


# --------------------------------------------------------------------- fleet


@dataclass
class Boot:
    """One instance of a node, from its boot to the end of its runs."""

    node_id: str
    instance_id: str
    machine: Machine
    began: float = 0.0
    ended: float = -1.0
    states: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    kinds: tuple[str, ...] = ()
    """Of the errors of its last run."""
    calls: Counter[str] = field(default_factory=Counter)
    lines: int = 0

    @property
    def mounted_at(self) -> Optional[float]:
        times = self.machine.mounted_at
        return max(times.values()) if set(times) == {"log", "data"} else None


class Fleet:
    """Nodes with two sets each: ``log`` of one volume, ``data`` of three."""

    VOLUMES = 4

    def __init__(
        self, seed: int = 1, section: Optional[Section] = None, **lab: Any
    ) -> None:
        seed_ids(seed)
        self.time = Time(seed)
        settings: dict[str, Any] = {
            "attach_seconds": 2.0,
            "detach_seconds": 2.0,
            "release_seconds": 3.0,
            "throttled": True,
        }
        self.lab = Ec2Lab(
            clock=self.time.clock,
            zones=ZONES,
            on_attach=self._on_attach,
            on_detach=self._on_detach,
            **{**settings, **lab},
        )
        self.section = section or Section()
        self.storage = Storage()
        self.wire = wire()
        self.boots: dict[str, Boot] = {}
        self.turn: Callable[[], None] = lambda: None
        nowhere = os.path.join(tempfile.gettempdir(), "no-such-directory")
        self._paths = Paths(run=nowhere, state=nowhere, etc=nowhere)

    # EC2's hooks

    def _on_attach(self, instance_id: str, volume_id: str, device: str) -> None:
        """The disk shows itself when EC2 says "attached"."""
        boot = self.boots.get(instance_id)
        if boot is None:
            return
        machine = boot.machine

        def plug() -> None:
            if any(
                one.volume_id == volume_id and one.state in ("attaching", "attached")
                for one in self.lab.attached_to(instance_id)
            ):
                machine.plug(volume_id)

        self.time.clock.later(self.lab.attach_seconds, plug)

    def _on_detach(self, instance_id: str, volume_id: str, device: str) -> None:
        boot = self.boots.get(instance_id)
        if boot is not None:
            boot.machine.unplug(volume_id)

    # What people do

    def tags(self, node_id: str, **more: str) -> dict[str, str]:
        words = {"Prefix": "kafka", "NodeId": node_id, **more}
        return {f"KRKN-IN:{key}": value for key, value in words.items()}

    def volumes(self, node_id: str, zone: str) -> list[str]:
        """The volumes of a node, new."""
        log = {"VolumeName": "log", "FsType": "ext4", "MountPath": "/krkn_log"}
        data = {"VolumeName": "data", "FsType": "xfs", "MountPath": "/krkn_data"}
        data.update(VolumeSize="3", RaidLevel="0")
        wanted = [log, data, data, data]
        return [
            self.lab.create_volume(1, zone, self.tags(node_id, **tags))
            for tags in wanted
        ]

    def strangers(self, count: int) -> None:
        """Other volumes of the account, some with tags that look like ours."""
        for number in range(count):
            tags = {"Name": f"other-{number}"}
            if number % 10 == 0:
                tags = self.tags(f"x{number}", VolumeName="log")
            self.lab.create_volume(1, ZONES[number % 3], tags)

    def settle(self, seed: int) -> float:
        """What was made until now is old; from now on a fifth of the answers
        is up to 3 s old.  Returns the time."""
        self.time.clock.advance(60.0)
        self.lab.lag(3.0, share=0.2, spread=True, seed=seed)
        return self.time.now()

    def launch(self, node_id: str, zone: str) -> Boot:
        instance_id = self.lab.run_instance("m5.large", zone, self.tags(node_id))
        clock = NodeClock(self.time)
        boot = Boot(node_id, instance_id, Machine(self.storage, clock, 1))
        self.boots[instance_id] = boot
        return boot

    def hold(self, node_id: str, zone: str, volumes: Sequence[str]) -> str:
        """An old instance that has all volumes of a node, in use before."""
        instance_id = self.lab.run_instance("m5.large", zone, self.tags(node_id))
        for number, volume in enumerate(volumes):
            self.lab.attach_volume(volume, instance_id, f"/dev/xvdb{'abcd'[number]}")
        return instance_id

    def boot(
        self, boot: Boot, delay: float, then: Callable[[Boot], None] = lambda _: None
    ) -> None:
        """The instance reaches the network stage in ``delay`` seconds."""

        def work() -> None:
            boot.began = self.time.now()
            self.live(boot)
            boot.ended = self.time.now()
            then(boot)

        self.time.start(boot.instance_id, work, delay)

    def live(self, boot: Boot) -> None:
        """The two runs of a boot: the network stage, and the unit after it."""
        limits = Limits(float(self.section.boot_wait), final=False)
        state = self.run(boot, "network", limits)
        limits = Limits(float(self.section.wait), final=True, background=True)
        if state != "failed":
            self.run(boot, "background", limits)

    def report(self, boot: Boot, stage: str) -> Report:
        return QuietReport(self.paths(boot), stage)

    def paths(self, boot: Boot) -> Paths:
        return self._paths

    def edge(self, boot: Boot, identity: Identity) -> "DirectEc2":
        return self.edge_of(DirectEc2, boot, identity)

    def edge_of(
        self, kind: type["DirectEc2"], boot: Boot, identity: Identity, *more: Any
    ) -> "DirectEc2":
        """This instance's way to EC2; ``more``: what this kind of it needs."""
        key = self.lab.credentials(boot.instance_id)["AccessKeyId"]
        return kind(
            identity,
            self.section,
            self.lab,
            self.wire,
            key,
            self.turn,
            boot.machine.clock.sleep,
            *more,
        )

    def run(self, boot: Boot, stage: str, limits: Limits) -> str:
        instance = self.lab.instance(boot.instance_id)
        identity = Identity(
            boot.instance_id, self.lab.region, instance.zone, instance.tags
        )
        paths = self.paths(boot)
        told = self.report(boot, stage)
        edge = self.edge(boot, identity)
        run = Run(
            self.section,
            identity,
            paths,
            told,
            limits,
            Events(None).enter,
            edge,
            ask_tags=stage != "network",
            clock=boot.machine.clock,
        )
        run.observer = MachineObserver(boot.machine)  # type: ignore[assignment]
        run.executor = MachineExecutor(
            boot.machine,
            run.paths,
            edge,
            told,
            run.clock,
            run.creating,
            run._enter,
        )
        run._begin()
        state = run.go()
        boot.states.append(state)
        boot.calls.update(edge.calls)
        boot.troubles += [one["message"] for one in told.status["errors"]]
        failed = {name: one["error"] for name, one in told.sets.items() if one["error"]}
        boot.troubles += [f"{name}: {one['message']}" for name, one in failed.items()]
        errors = (*told.status["errors"], *failed.values())
        boot.kinds = tuple(one["kind"] for one in errors)
        return state


# ----------------------------------------------------------------- scenarios


@dataclass
class Outcome:
    """What came of a scenario; times in seconds since its beginning."""

    title: str
    fleet: Fleet
    boots: list[Boot]
    begun: float
    bound: float
    why: str
    target: float = TARGET

    @property
    def seconds(self) -> float:
        return max((boot.mounted_at or 1e9) for boot in self.boots) - self.begun

    @property
    def ratio(self) -> float:
        return self.seconds / self.bound

    def wrong(self) -> list[str]:
        """What must not be, one sentence each."""
        found = []
        for boot in self.boots:
            if boot.mounted_at is None or boot.states[-1] != DONE or boot.troubles:
                found.append(
                    f"node {boot.node_id}: {boot.states} {'; '.join(boot.troubles)}"
                )
            here = {
                one.volume_id
                for one in self.fleet.lab.attached_to(boot.instance_id)
                if one.device != "/dev/xvda"
            }
            names = {
                volume: self.fleet.lab.volume(volume).tags.get("KRKN-IN:NodeId")
                for volume in here
            }
            if len(here) != Fleet.VOLUMES or set(names.values()) != {boot.node_id}:
                found.append(f"node {boot.node_id} has {names}")
        for call in self.fleet.lab.calls:
            if call.action == "DetachVolume":
                found.append(f"{call.instance_id} detached {call.parameters}")
        accepted = Counter(
            call.parameters["VolumeId"]
            for call in self.fleet.lab.calls
            if call.action == "AttachVolume" and call.status == 200
        )
        found += [f"{key} attached {n} times" for key, n in accepted.items() if n > 1]
        return found

    def table(self) -> list[str]:
        lines = [
            self.title,
            f"  all mounted after   {self.seconds:8.1f} s",
            f"  bound               {self.bound:8.1f} s   ({self.why})",
            f"  ratio               {self.ratio:8.3f}     (target {self.target})",
        ]
        waits = sorted((boot.mounted_at or 1e9) - boot.began for boot in self.boots)
        half, most = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        lines.append(f"  a node waits        {half:8.1f} s   median, {most:.1f} s p99")
        lines.append("  calls                 a node (most)      in all   throttled")
        log = list(self.fleet.lab.calls)
        refused = Counter(c.action for c in log if c.code == "RequestLimitExceeded")
        for action in sorted({call.action for call in log}):
            each = [boot.calls[action] for boot in self.boots]
            mean = sum(each) / len(each)
            lines.append(
                f"    {action:<19}{mean:8.1f} ({max(each):4d}) {sum(each):11d} "
                f"{refused[action]:11d}"
            )
        others = Counter(
            f"{call.action} {call.code}"
            for call in log
            if call.code and call.code != "RequestLimitExceeded"
        )
        for text, count in sorted(others.items()):
            lines.append(f"    answered {text}: {count}")
        wrong = self.wrong()
        lines.append(f"  attached twice, lost or refused: {len(wrong) or 'none'}")
        lines += [f"    {text}" for text in wrong[:5]]
        return lines


def bucket_bound(ready: Sequence[float], rate: tuple[float, float] = MUTATING) -> float:
    """When the last of these calls can be served by a token bucket that is
    full at 0, each call at its ``ready`` moment at the earliest."""
    capacity, refill = rate
    tokens, at = capacity, 0.0
    for moment in sorted(ready):
        moment = max(moment, at)
        tokens = min(capacity, tokens + (moment - at) * refill)
        if tokens < 1.0:
            moment += (1.0 - tokens) / refill
            tokens = 1.0
        tokens -= 1.0
        at = moment
    return at


def all_at_once(nodes: int, others: int, seed: int = 1, **settings: Any) -> Outcome:
    """Every node boots within two seconds, on new and blank volumes."""
    fleet = Fleet(seed, **settings)
    chance = random.Random(seed)
    fleet.strangers(others)
    boots = []
    for number in range(nodes):
        zone = ZONES[number % 3]
        fleet.volumes(f"{number}", zone)
        boots.append(fleet.launch(f"{number}", zone))
    begun = fleet.settle(seed)
    delays = [chance.uniform(0, 2) for _ in boots]
    for boot, delay in zip(boots, delays):
        fleet.boot(boot, delay)
    fleet.time.run()
    ready = [delay for delay in delays for _ in range(Fleet.VOLUMES)]
    bound = bucket_bound(ready) + fleet.lab.attach_seconds
    return Outcome(
        f"{nodes} nodes with {Fleet.VOLUMES} volumes boot at once",
        fleet, boots, begun, bound,
        f"{nodes * Fleet.VOLUMES} x AttachVolume, 50 and 5/s, 2 s to attach",
    )  # fmt: skip


def zone_replaced(nodes: int, others: int, seed: int = 1, **settings: Any) -> Outcome:
    """The instances of one zone are replaced at once; the old ones shut down
    for half a minute to a minute and a half, and the new ones are there
    before that."""
    fleet = Fleet(seed, **settings)
    chance = random.Random(seed)
    fleet.strangers(others)
    boots, ready, held = [], [], []
    for number in range(nodes):
        node_id = f"{number}"
        volumes = fleet.volumes(node_id, ZONES[0])
        _made_before(fleet, node_id, volumes)
        held.append((node_id, fleet.hold(node_id, ZONES[0], volumes)))
    begun = fleet.settle(seed)
    for node_id, old in held:
        gone = chance.uniform(30, 90)
        fleet.lab.terminate_instance(old, gone, 3.0)
        ready += [gone + 3.0] * Fleet.VOLUMES
        boots.append(fleet.launch(node_id, ZONES[0]))
    for boot in boots:
        fleet.boot(boot, chance.uniform(10, 30))
    fleet.time.run()
    bound = bucket_bound(ready) + fleet.lab.attach_seconds
    return Outcome(
        f"{nodes} nodes of one zone are replaced, the old ones still hold",
        fleet, boots, begun, bound,
        f"{len(ready)} x AttachVolume, volumes free after 33 to 93 s",
    )  # fmt: skip


def rolling(nodes: int, others: int, seed: int = 1, **settings: Any) -> Outcome:
    """One tenth of the nodes at a time: the old instance is terminated, the
    new one boots 25 s later, and when it is up the next node's turn comes."""
    fleet = Fleet(seed, **settings)
    chance = random.Random(seed)
    fleet.strangers(others)
    todo: list[tuple[str, str]] = []
    for number in range(nodes):
        node_id, zone = f"{number}", ZONES[number % 3]
        volumes = fleet.volumes(node_id, zone)
        _made_before(fleet, node_id, volumes)
        todo.append((node_id, fleet.hold(node_id, zone, volumes)))
    todo.reverse()
    begun = fleet.settle(seed)
    boots: list[Boot] = []
    release: list[float] = []
    lasted: list[float] = []

    def next_one(_: Optional[Boot] = None) -> None:
        if not todo:
            return
        node_id, old = todo.pop()
        gone = chance.uniform(20, 40)
        release.append(fleet.time.now() - begun + gone + 3.0)
        lasted.append(gone + 3.0)
        fleet.lab.terminate_instance(old, gone, 3.0)
        boot = fleet.launch(node_id, fleet.lab.instance(old).zone)
        boots.append(boot)
        fleet.boot(boot, 25.0, next_one)

    for _ in range(max(1, nodes // 10)):
        next_one()
    fleet.time.run()
    slots = max(1, nodes // 10)
    own = fleet.lab.attach_seconds
    # The tokens that there can be from the first release on, and the time that
    # the places take in which nodes are replaced.
    first = min(release)
    served = bucket_bound([first] * (nodes * Fleet.VOLUMES)) + own
    in_places = sum(one + own for one in lasted) / slots
    return Outcome(
        f"{nodes} nodes are replaced, {slots} at a time",
        fleet, boots, begun, max(served, in_places),
        f"{nodes * Fleet.VOLUMES} x AttachVolume after {first:.0f} s; "
        f"{in_places:.0f} s for {nodes} in {slots} places",
    )  # fmt: skip


def _made_before(fleet: Fleet, node_id: str, volumes: Sequence[str]) -> None:
    """An earlier instance has made the array and the filesystems."""
    log, *data = volumes
    fleet.storage.content(log).filesystem = Known("ext4", f"log-{node_id}")
    uuid = str(uuid5(NAMESPACE, node_id))
    roles = tuple(range(len(data)))
    for role, volume in enumerate(sorted(data)):
        fleet.storage.content(volume).superblock = MdSuperblock(
            uuid, "any:KRKN-data", 0, len(data), role, 10, volume,
            1 << 20, GIB, 512 << 10, 0, 0, roles,
        )  # fmt: skip
    fleet.storage.arrays[uuid] = Known("xfs", f"data-{node_id}")


def _claims(order: str, nodes: int, others: int, seed: int = 1) -> Outcome:
    """As many instances as nodes, and none is told which it is."""
    from tests import claims

    return claims.burst(order, nodes, others, seed)


SCENARIOS: dict[str, tuple[Callable[..., Outcome], float]] = {
    "boot": (all_at_once, 1.0),
    "zone": (zone_replaced, 1 / 3),
    "rolling": (rolling, 1.0),
    "claim-lowest": (functools.partial(_claims, "lowest"), 1.0),
    "claim-spread": (functools.partial(_claims, "spread"), 1.0),
}
"""Name: function, and its share of ``--nodes``."""


def simulate(name: str, nodes: int, others: int, seed: int = 1) -> Outcome:
    scenario, share = SCENARIOS[name]
    with in_turn(seed):
        return scenario(max(1, round(nodes * share)), others, seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.fleet")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--others", type=int, default=10000, help="other volumes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("scenario", nargs="*", default=list(SCENARIOS))
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    good = True
    for name in wanted.scenario:
        begun = time.monotonic()
        outcome = simulate(name, wanted.nodes, wanted.others, wanted.seed)
        took = time.monotonic() - begun
        print(
            "\n".join(outcome.table()), f"\n  ({took:.0f} s to simulate)\n", flush=True
        )
        good = good and not outcome.wrong() and outcome.ratio <= outcome.target
        del outcome
        gc.collect()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
