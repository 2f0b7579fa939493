"""What holds in every world: nothing is lost, and the end is reached.

Worlds of volumes with any past, rivals, faults and cuts are thrown at the
decision; :mod:`tests.unit.simulation` carries out what it says and knows what
really lies on each volume.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Callable, Optional

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from cc_kraken.decide.plan import MOUNTED
from cc_kraken.decide.steps import (
    CHANGES,
    AssembleArray,
    Attach,
    Step,
    WriteArrayLine,
    WriteRecords,
)
from cc_kraken.model import Holder, PathState, Record, Section
from cc_kraken.proof.record import identity
from tests.conftest import MORE
from tests.unit import worlds as w
from tests.unit.simulation import (
    HALF,
    MEMBER,
    SINGLE,
    TORN,
    WHOLE,
    Alien,
    Cut,
    Disk,
    Filesystem,
    Simulation,
)

OTHER = "99999999-2222-3333-4444-555555555555"
RIVAL = "i-0000000000000beef"
LEVELS = {0: 2, 1: 2, 5: 3, 6: 4, 10: 2}


def tags(name: str, count: int, **more: object) -> dict[str, str]:
    """Tags of a member; keys are those of the tags, without the namespace."""
    own = {"Prefix": w.NODE.prefix, "NodeId": w.NODE.node_id, "VolumeName": name}
    own.update({"VolumeSize": str(count)})
    own.update({key: str(value) for key, value in more.items() if value is not None})
    return {f"KRKN-IN:{key}": value for key, value in own.items()}


def blank_set(
    name: str, count: int, first: int = 1, **more: object
) -> tuple[Disk, ...]:
    return tuple(
        Disk(w.volume_id(first + n), tags(name, count, **more)) for n in range(count)
    )


# -------------------------------------------------- every cut, and what follows

SHAPES: dict[str, tuple[int, Optional[int], Optional[str]]] = {
    "ext4": (1, None, "ext4"),
    "xfs": (1, None, "xfs"),
    "raid0": (2, 0, "xfs"),
    "raid1": (2, 1, "ext4"),
    "raid5": (3, 5, "btrfs"),
    "raid6": (4, 6, "ext4"),
    "raid10": (4, 10, "xfs"),
    "bare array": (3, 5, None),
}
AFTER: Mapping[str, Callable[[Simulation], None]] = {
    "killed": Simulation.kill,
    "power cut": Simulation.reboot,
    "replaced": Simulation.replace_instance,
}


def shaped(shape: str, udev: bool) -> Simulation:
    count, level, kind = SHAPES[shape]
    disks = blank_set(
        "data",
        count,
        RaidLevel=level,
        FsType=kind,
        MountPath="/data" if kind else None,
        Owner="app" if kind else None,
    )
    return Simulation(Section(), disks, udev=udev)


def end_state(simulation: Simulation) -> object:
    """What the user has in the end: content, arrays, mounts, no record."""
    return (
        [
            (one.id, one.body, one.block and one.block.uuid)
            for one in _disks(simulation)
        ],
        simulation.bodies,
        simulation.roots,
        sorted(simulation.mounts.items()),
        [one.records for one in _disks(simulation)],
        simulation.fstab,
        simulation.array_lines,
    )


def _disks(simulation: Simulation) -> list[Disk]:
    return list(simulation.disks.values())


@pytest.mark.parametrize("udev", [True, False], ids=["udev", "no udev"])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("shape", SHAPES)
def test_cut_anywhere_reaches_the_same_end(shape: str, after: str, udev: bool) -> None:
    """Inside the long steps too: a record or a superblock on some members
    only, mkfs with and without its signature, mdadm in the middle."""
    whole = shaped(shape, udev)
    whole.run()
    expected, effects = end_state(whole), whole.effects
    assert effects > 6
    for point in range(1, effects + 1):
        simulation = shaped(shape, udev)
        simulation.left = point
        with pytest.raises(Cut) as cut:
            simulation.run()
        simulation.left = None
        AFTER[after](simulation)
        plans = simulation.run()
        where = f"cut {point}, {cut.value}"
        assert [plan.trouble for plan in plans] == [None], where
        assert end_state(simulation) == expected, where
        done = len(simulation.done)
        simulation.run(1)
        assert len(simulation.done) == done, where


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_enlarged_has_grown_in_the_end(shape: str, after: str) -> None:
    """Wherever it is cut off: all of it, but for RAID 0; nothing is lost."""
    simulation = shaped(shape, True)
    simulation.run()
    before = simulation.precious()
    for disk in simulation.disks.values():
        simulation.enlarge(disk.id, 2)
    whole = copy.deepcopy(simulation)
    effects = whole.effects
    whole.run()
    for point in range(whole.effects - effects + 1):
        other = copy.deepcopy(simulation)
        if point:
            other.left = point
            with pytest.raises(Cut):
                other.run()
            other.left = None
            AFTER[after](other)
        other.run()
        for _, key in other.mounts.values():
            level = SHAPES[shape][1]
            gib = 1 if level == 0 else 3
            offset = 0 if level is None else 1 << 20
            assert other.size(key) == other.place(key) == gib * w.GIB - offset
        assert other.precious() == before
        done = len(other.done)
        other.run(1)
        assert len(other.done) == done


def test_the_cuts_are_at_every_step_that_a_first_boot_can_take() -> None:
    """So that a new step cannot be forgotten here."""
    seen: set[type] = set()
    for shape in SHAPES:
        simulation = shaped(shape, True)
        simulation.run()
        seen |= {type(step) for step in simulation.done}
    later = {
        "StopArray",
        "Detach",
        "Wipe",
        "ZeroSuperblocks",
        "AssembleArray",
        "AddMember",
    }
    later |= {"RemoveFstab", "CheckFilesystem", "GrowArray", "GrowFilesystem"}
    later.add("CreateVolumes")  # tests/creations.py
    assert {step.__name__ for step in set(CHANGES) - seen} == later


# ----------------------------------------------------------------- any world


def filesystem_uuid(simulation_name: str, ids: Sequence[str]) -> str:
    """The UUID that a run on these volumes, blank, would choose."""
    return _intent(simulation_name, ids)[0].fs_uuid


def _intent(name: str, ids: Sequence[str]) -> tuple[Record, ...]:
    """The records that a run would write on these volumes, blank."""
    count = len(ids)
    level = None if count == 1 else 1
    disks = [
        Disk(
            one,
            tags(name, count, RaidLevel=level, FsType="ext4", MountPath="/data"),
            holder=w.ME,
            arrived=True,
        )
        for one in ids
    ]
    (plan,) = Simulation(Section(), disks).plan()
    written = [step for step in plan.steps if isinstance(step, WriteRecords)]
    return written[0].records


@st.composite
def pasts(draw: st.DrawFn, disks: Sequence[Disk], name: str, kind: str) -> object:
    """Give the volumes of one set a past; what shows on an array, by UUID."""
    ids = [disk.id for disk in disks]
    bodies: dict[str, object] = {}
    what = draw(st.sampled_from(["blank", "any", "array", "array", "any array"]))
    event(f"past: {what}")
    if what == "blank":
        return bodies
    intent = {record.volume_id: record for record in _intent(name, ids)}
    level = int(disks[0].tags.get("KRKN-IN:RaidLevel", "0"))
    if what.endswith("array") and len(disks) > 1:
        array = draw(st.sampled_from([w.ARRAY, intent[ids[0]].array_uuid]))
        uuid = intent[ids[0]].fs_uuid
        shown = draw(
            st.sampled_from(
                [
                    None,
                    Filesystem(kind, OTHER, files=True),
                    Filesystem(kind, uuid, files=True),
                    Filesystem(kind, uuid, draw(st.sampled_from([HALF, TORN, WHOLE]))),
                    Filesystem("xfs" if kind != "xfs" else "ext4", OTHER, files=True),
                    Alien("LVM2_member"),
                    Alien(mark=7),
                ]
            )
        )
        bodies[array] = shown
        lost = draw(st.sampled_from([(), (), (0,), (1,)]))
        active = tuple(role for role in range(len(disks)) if role not in lost)
        for role, disk in enumerate(disks):
            if role in lost and draw(st.booleans()):
                continue  # a new, empty volume in its place
            disk.block = w.superblock(
                role,
                count=len(disks),
                level=level,
                uuid=array,
                active=active,
                events=10 if role not in lost else 4,
            )
            disk.share = shown is not None
        records = draw(st.sampled_from(["none", "none", "all", "some"]))
        for disk in disks:
            if records == "all" or (records == "some" and draw(st.booleans())):
                disk.records[MEMBER] = replace(
                    intent[disk.id], array_uuid=array, fs_type=kind, level=-1
                )
        if what == "array":
            return bodies
    for disk in draw(st.lists(st.sampled_from(list(disks)), unique_by=id)):
        _spoil(draw, disk, intent[disk.id], kind, len(disks) > 1)
    return bodies


def _spoil(
    draw: st.DrawFn, disk: Disk, intent: Record, kind: str, member: bool
) -> None:
    """Put anything on one volume, ours or not."""
    place = MEMBER if member else SINGLE
    what = draw(
        st.sampled_from(
            ["alien", "filesystem", "record", "stale record", "foreign record",
             "copied record", "two records", "half made", "record and files",
             "foreign member", "zeroed superblock", "stale member", "blank",
             "clone", "copy", "torn superblock", "used alone", "replacement"]
        )
    )  # fmt: skip
    event(f"spoilt: {what}")
    if what == "alien":
        disk.block = None
        disk.body = Alien(draw(st.sampled_from(["", "LVM2_member", "swap", "gpt"])))
    elif what == "filesystem":
        disk.block, disk.share = None, False
        disk.body = Filesystem(kind, OTHER, files=draw(st.booleans()))
    elif what == "record":
        disk.records[place] = intent
    elif what == "stale record":
        disk.records[place] = replace(intent, fs_uuid=OTHER, members=9)
    elif what == "foreign record":
        other = identity(w.NODE, "another", [disk.id])
        disk.records[place] = replace(intent, identity=other)
    elif what == "copied record":
        disk.records[place] = replace(intent, volume_id=w.volume_id(99))
    elif what == "two records":
        disk.records = {MEMBER: intent, SINGLE: replace(intent, members=9)}
    elif what == "half made" and not member:
        disk.records[place] = intent
        state = draw(st.sampled_from([HALF, TORN, WHOLE]))
        disk.body = Filesystem(intent.fs_type, intent.fs_uuid, state)
    elif what == "record and files" and disk.block is None:
        disk.records[place] = intent
        state = draw(st.sampled_from([TORN, WHOLE]))
        disk.body = Filesystem(intent.fs_type, intent.fs_uuid, state, files=True)
    elif what == "foreign member":
        disk.body, disk.share = None, True
        disk.block = w.superblock(0, count=2, uuid=OTHER)
    elif what == "zeroed superblock":
        disk.block = None
    elif what == "stale member" and disk.block is not None:
        disk.block = replace(disk.block, events=2)
    elif what == "blank":
        disk.block, disk.body, disk.share, disk.records = None, None, False, {}
    elif what == "clone" and disk.block is not None:
        disk.block = replace(disk.block, role=0)
    elif (
        what == "used alone" and disk.block is not None and disk.block.role is not None
    ):
        events = draw(st.integers(8, 12))
        disk.block = replace(disk.block, roles=(disk.block.role,), events=events)
    elif what == "replacement" and disk.block is not None:
        disk.block = replace(disk.block, feature_map=16 | 2)
    elif what == "copy":
        disk.origin = "snap-00000000000000001"
    elif what == "torn superblock" and disk.block is None:
        disk.torn = True
        if draw(st.booleans()):
            disk.records[place] = intent


@st.composite
def machines(draw: st.DrawFn, quiet: bool = False) -> Simulation:
    """One to three sets with any past on one instance."""
    disks: list[Disk] = []
    bodies: dict[str, object] = {}
    volumes: dict[str, dict[str, object]] = {}
    paths = ["/a", "/b", "/a/c"]
    for number, name in enumerate(["one", "two", "three"][: draw(st.integers(1, 3))]):
        level = draw(st.sampled_from([None, None, 0, 1, 5, 6, 10]))
        least = 1 if level is None else LEVELS[level]
        count = least if level is None else draw(st.integers(least, 4))
        kind = draw(st.sampled_from(["ext4", "xfs", "btrfs", None]))
        made = blank_set(
            name,
            count,
            first=10 * (number + 1),
            RaidLevel=level,
            FsType=kind,
            MountPath=paths[number] if kind and draw(st.integers(0, 19)) else None,
            Owner=draw(st.sampled_from([None, "app", "late"])) if kind else None,
        )
        found = draw(pasts(made, name, kind or "ext4"))
        if draw(st.integers(0, 7)) == 0:
            for disk in made:
                disk.origin = "snap-00000000000000001"
        assert isinstance(found, dict)
        if not set(found) & set(bodies):
            bodies.update(found)
        else:
            for disk in made:  # one array UUID, one body: keep it simple
                disk.block, disk.share, disk.records = None, False, {}
        own: dict[str, object] = {}
        if draw(st.integers(0, 3)) == 0:
            own["allow_degraded"] = True
        if draw(st.integers(0, 3)) == 0:
            own["mount_over"] = True
        volumes[name] = own
        kept = list(made)
        if not quiet and count > 1 and draw(st.integers(0, 5)) == 0:
            kept.pop()
        disks += kept
    simulation = Simulation(Section(), disks, udev=draw(st.booleans()))
    simulation.bodies.update(bodies)  # type: ignore[arg-type]
    for uuid, body in simulation.bodies.items():
        if isinstance(body, Filesystem) and not simulation.records_of(uuid):
            # Without a record it is somebody's, whatever its state.
            simulation.bodies[uuid] = replace(body, files=True)
    simulation.accounts.update({"user:late": None, "group:late": None})
    for name, own in volumes.items():
        if draw(st.integers(0, 3)) == 0:
            own["overwrite"] = _overwrite(draw, simulation, name)
    simulation.section = Section(volumes=volumes)
    for key in (*simulation.bodies, *(disk.id for disk in disks)):
        if draw(st.integers(0, 3)) == 0:
            simulation.flagged.add(key)
    if draw(st.integers(0, 3)) == 0:
        path = draw(st.sampled_from(paths))
        simulation.paths[path] = PathState("directory", ("file",))
    return simulation


def _overwrite(draw: st.DrawFn, simulation: Simulation, name: str) -> dict[str, str]:
    out = {}
    for disk in simulation.disks.values():
        if disk.tags["KRKN-IN:VolumeName"] == name and draw(st.booleans()):
            right = simulation.fingerprint(disk)
            out[disk.id] = right if draw(st.booleans()) else "0" * 64
    return out


def given_up(simulation: Simulation) -> set[str]:
    """The volumes that ``overwrite`` names with what is on them."""
    out: set[str] = set()
    for own in simulation.section.volumes.values():
        given_ = own.get("overwrite", {})
        assert isinstance(given_, dict)
        out |= {
            volume_id
            for volume_id, mark in given_.items()
            if volume_id in simulation.disks
            and simulation.fingerprint(simulation.disks[volume_id]) == mark
        }
    return out


def kept(simulation: Simulation, free: set[str]) -> dict[str, object]:
    """What must be the same in the end; ``free``: volumes given up."""
    arrays = {
        disk.block.uuid
        for disk in simulation.disks.values()
        if disk.block is not None and disk.id in free
    }
    return {
        key: value
        for key, value in simulation.precious().items()
        if key.split()[0] not in free | arrays
    }


@settings(max_examples=250 * MORE, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_run_ends_and_the_next_one_does_nothing(data: st.DataObject) -> None:
    simulation = data.draw(machines())
    free = given_up(simulation)
    before = kept(simulation, free)
    plans = simulation.run()
    for plan in plans:
        event(f"{plan.state} {plan.trouble.kind if plan.trouble else ''}")
        if plan.trouble is not None and not plan.trouble.waits:
            paths = {path for path, (name, _) in simulation.mounts.items()
                     if name == plan.name}  # fmt: skip
            assert not paths, f"{plan.name} was refused and is mounted"
    done = len(simulation.done)
    simulation.run(2)
    assert len(simulation.done) == done
    after = simulation.precious()
    assert {key: after.get(key) for key in before} == before


@settings(max_examples=150 * MORE, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_plan_is_what_the_run_does(data: st.DataObject) -> None:
    """With all attached: what the dry run prints is done, and no more where
    it does not list outcomes."""
    simulation = data.draw(machines(quiet=True))
    for disk in simulation.disks.values():
        disk.holder = simulation.instance
    simulation.arrive()
    planned = {plan.name: plan for plan in simulation.plan()}
    simulation.run()
    done: dict[str, list[Step]] = {name: [] for name in planned}
    for step in simulation.done:
        done[step.set].append(step)
    for name, plan in planned.items():
        steps = sorted(plan.steps, key=lambda step: _order(step))
        if plan.outcomes or (plan.trouble is not None and plan.trouble.waits):
            assert done[name][: len(steps)] == steps
            event("with outcomes")
        else:
            assert done[name] == steps
            event("to the word")


def _order(step: Step) -> int:
    from cc_kraken.decide.steps import PHASES

    return PHASES.index(step.phase)


@settings(max_examples=250 * MORE, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_cut_in_any_world_loses_nothing(data: st.DataObject) -> None:
    """Cut, and cut again: the end is reached, or it is refused."""
    simulation = data.draw(machines())
    free = given_up(simulation)
    before = kept(simulation, free)
    for _ in range(data.draw(st.integers(1, 3))):
        simulation.left = data.draw(st.integers(1, 30))
        try:
            simulation.run()
            break
        except Cut as cut:
            event(f"cut: {str(cut).split()[0]}")
        finally:
            simulation.left = None
        AFTER[data.draw(st.sampled_from(list(AFTER)))](simulation)
        simulation.udev = data.draw(st.booleans())
    for plan in simulation.run():
        event(f"{plan.state} {plan.trouble.kind if plan.trouble else ''}")
    after = simulation.precious()
    assert {key: after.get(key) for key in before} == before


# ------------------------------------------------------- things that happen


class Story(RuleBasedStateMachine):
    """Rounds, between which EC2, rivals and people do what they like."""

    @initialize(data=st.data(), slow=st.booleans())
    def begin(self, data: st.DataObject, slow: bool) -> None:
        self.simulation: Simulation = data.draw(machines())
        self.simulation.slow = slow
        self.before = kept(self.simulation, given_up(self.simulation))
        self.refused: set[str] = set()

    @rule(effects=st.one_of(st.none(), st.integers(1, 20)),
          after=st.sampled_from(list(AFTER)))  # fmt: skip
    def one_round(self, effects: Optional[int], after: str) -> None:
        if not self.simulation.slow:
            self.simulation.arrive()
        plans = [plan for plan in self.simulation.plan() if plan.steps]
        self.simulation.left = effects
        try:
            self.simulation.carry_out(plans)
        except Cut:
            AFTER[after](self.simulation)
        finally:
            self.simulation.left = None

    @rule()
    def disks_appear(self) -> None:
        self.simulation.arrive()

    @rule(data=st.data())
    def a_rival_waits_for(self, data: st.DataObject) -> None:
        self.simulation.cloud.rivals.append(data.draw(self._id()))

    @rule(data=st.data(), state=st.sampled_from(["running", "stopped", "gone"]))
    def a_rival_takes(self, data: st.DataObject, state: str) -> None:
        disk = self.simulation.disks[data.draw(self._id())]
        if not disk.holder:
            disk.holder, disk.arrived = RIVAL, False
            self.simulation.cloud.instances[RIVAL] = Holder(RIVAL, state, "kafka", "7")

    @rule()
    def the_rival_lets_go(self) -> None:
        for disk in self.simulation.disks.values():
            if disk.holder == RIVAL:
                disk.holder = ""

    @rule(data=st.data())
    def somebody_tags_otherwise(self, data: st.DataObject) -> None:
        disk = self.simulation.disks[data.draw(self._id())]
        key, value = data.draw(
            st.sampled_from(
                [
                    ("RaidLevel", "1"),
                    ("VolumeSize", "2"),
                    ("FsType", "ext4"),
                    ("MountPath", "/a"),
                    ("MountPath", "/b"),
                    ("MountPath", "/a/c"),
                    ("MountPath", "/d"),
                ]
            )
        )
        disk.tags = {**disk.tags, f"KRKN-IN:{key}": value}

    @rule(data=st.data(), gib=st.integers(1, 3))
    def a_volume_is_enlarged(self, data: st.DataObject, gib: int) -> None:
        self.simulation.enlarge(data.draw(self._id()), gib)

    @rule(data=st.data())
    def the_kernel_finds_errors_on(self, data: st.DataObject) -> None:
        self.simulation.flagged.add(data.draw(self._id()))

    @rule()
    def the_user_is_made(self) -> None:
        self.simulation.accounts.update({"user:late": 1001, "group:late": 1001})

    @rule(path=st.sampled_from(["/a", "/b", "/a/c"]))
    def files_appear_in(self, path: str) -> None:
        if path not in self.simulation.mounts:
            self.simulation.paths[path] = PathState("directory", ("file",))

    @rule(data=st.data(), path=st.sampled_from(["/a", "/a/c", "/a/c/x", "/b", "/e"]))
    def somebody_mounts(self, data: st.DataObject, path: str) -> None:
        """A tmpfs, or a volume of ours, wherever it belongs."""
        what = data.draw(st.one_of(st.just(""), self._id()))
        self.simulation.somebody_mounts(path, what)

    @rule(path=st.sampled_from(["/a", "/a/c", "/b"]))
    def somebody_unmounts(self, path: str) -> None:
        self.simulation.somebody_unmounts(path)

    @rule()
    def the_power_goes(self) -> None:
        self.simulation.reboot()

    @rule()
    def it_is_replaced(self) -> None:
        self.simulation.replace_instance()

    def _id(self) -> st.SearchStrategy[str]:
        return st.sampled_from(sorted(self.simulation.disks))

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "before"):
            after = self.simulation.precious()
            assert {key: after.get(key) for key in self.before} == self.before

    def teardown(self) -> None:
        if not hasattr(self, "before"):
            return
        self.simulation.slow = False
        self.simulation.cloud.rivals.clear()
        self.the_rival_lets_go()
        self.simulation.run()
        done = len(self.simulation.done)
        self.simulation.run(2)
        assert len(self.simulation.done) == done
        self.nothing_is_lost()


TestStory = Story.TestCase
TestStory.settings = settings(
    max_examples=80 * MORE,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
)


# ------------------------------------------------ worlds that were found so


def pair(level: Optional[int] = 1, kind: Optional[str] = "ext4") -> Simulation:
    disks = blank_set("data", 2, RaidLevel=level, FsType=kind, MountPath="/data")
    return Simulation(Section(), disks)


def test_a_wish_that_changed_after_the_record_was_written() -> None:
    """The old record goes in a round of its own: writing comes before
    erasing in the order of the phases."""
    disks = blank_set("log", 1, FsType="ext4", MountPath="/log")
    simulation = Simulation(Section(), disks)
    (record,) = _intent("log", [disks[0].id])
    disks[0].records[SINGLE] = record
    disks[0].tags = tags("log", 1, FsType="xfs", MountPath="/log")
    (plan,) = simulation.run()
    assert plan.state == MOUNTED
    assert isinstance(disks[0].body, Filesystem) and disks[0].body.type == "xfs"


def test_a_level_that_changed_in_the_middle_of_a_creation() -> None:
    """The half-made superblock is taken back under its own record, before
    that record goes."""
    simulation = shaped("raid1", False)
    simulation.left = 6  # two attached, two records, one superblock and a half
    with pytest.raises(Cut, match="create RAID 1"):
        simulation.run()
    simulation.left = None
    for disk in simulation.disks.values():
        disk.tags = {**disk.tags, "KRKN-IN:RaidLevel": "0"}
    (plan,) = simulation.run()
    assert plan.state == MOUNTED
    assert {one.block and one.block.level for one in _disks(simulation)} == {0}


def test_raid_5_that_udev_started_without_its_last_member() -> None:
    """All but the last superblock are enough for udev: it is stopped, and
    made from the beginning."""
    simulation = shaped("raid5", True)
    simulation.left = 10
    with pytest.raises(Cut, match="create RAID 5"):
        simulation.run()
    simulation.left = None
    simulation.kill()
    assert [md.running for md in simulation.arrays.values()] == [True]
    (plan,) = simulation.run()
    assert plan.state == MOUNTED
    assert "StopArray" in {type(step).__name__ for step in simulation.done}


def test_no_filesystem_on_an_array_whose_volumes_are_not_all_there() -> None:
    """It would be made under a record that names a part of the set."""
    simulation = pair()
    one, other = _disks(simulation)
    one.block = w.superblock(0, count=2, level=1, active=(0, 1))
    del simulation.disks[other.id]
    simulation.bodies[w.ARRAY] = None
    simulation.section = Section(volumes={"data": {"allow_degraded": True}})
    (plan,) = simulation.run()
    assert plan.trouble is not None and plan.trouble.kind == "members-missing"
    assert not one.records and simulation.bodies[w.ARRAY] is None


@pytest.mark.parametrize(
    "level, count, left", [(0, 2, 1), (5, 3, 1), (6, 4, 1), (10, 4, 1)]
)
def test_an_array_that_has_lost_too_much(level: int, count: int, left: int) -> None:
    """Recorded as lost by the array itself: told, and not tried."""
    disks = blank_set("data", count, RaidLevel=level, FsType="ext4", MountPath="/d")
    simulation = Simulation(Section(), disks, udev=False)
    for role, disk in enumerate(disks[:left]):
        active = tuple(range(left))
        disk.block = w.superblock(role, count=count, level=level, active=active)
        disk.share = True
    simulation.bodies[w.ARRAY] = Filesystem("ext4", OTHER, files=True)
    (plan,) = simulation.run()
    assert plan.trouble is not None
    assert plan.trouble.kind == "array-members-missing"
    assert not simulation.arrays


def test_a_spare_is_put_together_with_the_others() -> None:
    """RAID 5 is made with a spare that takes the last place at once; cut off
    before, it must not be left out."""
    simulation = shaped("raid5", False)
    simulation.left = 13  # the array runs, nothing is rebuilt
    with pytest.raises(Cut):
        simulation.run()
    simulation.left = None
    simulation.replace_instance()
    simulation.run()
    (md,) = simulation.arrays.values()
    assert len(md.members) == 3


def _single(s: Simulation, record: Record, one: Disk, other: Disk) -> None:
    del s.disks[other.id]
    one.tags = tags("data", 1, FsType="ext4", MountPath="/data")
    one.records[SINGLE] = record


def _member(s: Simulation, record: Record, one: Disk, other: Disk) -> None:
    one.records[MEMBER] = record


def _older_wish(s: Simulation, record: Record, one: Disk, other: Disk) -> None:
    one.records[MEMBER] = replace(record, level=0)


def _blank_array(s: Simulation, record: Record, one: Disk, other: Disk) -> None:
    for role, disk in enumerate((one, other)):
        disk.block = w.superblock(role, count=2, level=0)
    s.bodies[w.ARRAY] = None
    one.records[MEMBER] = replace(record, array_uuid=w.ARRAY, level=-1)


def _half_an_array(s: Simulation, record: Record, one: Disk, other: Disk) -> None:
    one.records[MEMBER] = record
    other.records[MEMBER] = replace(record, volume_id=other.id)
    one.block = w.superblock(0, count=2, level=1, uuid=record.array_uuid)
    s.bodies[record.array_uuid] = None


@pytest.mark.parametrize(
    "past",
    [_single, _member, _older_wish, _blank_array, _half_an_array],
    ids=lambda past: past.__name__.strip("_").replace("_", " "),
)
def test_a_record_does_not_permit_to_format_a_copy(
    past: Callable[[Simulation, Record, Disk, Disk], None],
) -> None:
    """A volume from a snapshot is never formatted, also where it carries a
    record with its own id."""
    simulation = pair()
    one, other = _disks(simulation)
    one.origin = other.origin = "snap-00000000000000001"
    ids = [one.id] if past is _single else [one.id, other.id]
    past(simulation, _intent("data", ids)[0], one, other)
    (plan,) = simulation.run()
    assert plan.trouble is not None and plan.trouble.kind == "snapshot-blank"
    changes = {type(step) for step in simulation.done} - {Attach, AssembleArray}
    assert changes <= {WriteArrayLine}


def test_what_was_finished_for_an_older_wish() -> None:
    """Its record goes, and it is judged as anybody's filesystem."""
    disks = blank_set("log", 1, FsType="xfs", MountPath="/log")
    simulation = Simulation(Section(), disks)
    (record,) = _intent("log", [disks[0].id])
    disks[0].records[SINGLE] = record
    disks[0].body = Filesystem("ext4", record.fs_uuid, files=True)
    (plan,) = simulation.run()
    assert plan.trouble is not None and plan.trouble.kind == "content-other"
    assert not disks[0].records and not simulation.mounts
