"""What is to be grown: every case as a table, decided on plain values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_kraken.decide import decision, grow
from cc_kraken.decide.plan import MOUNTED, Plan
from cc_kraken.decide.steps import CheckFilesystem, GrowArray, GrowFilesystem, Step
from cc_kraken.decide.world import World
from cc_kraken.machine import fstab
from cc_kraken.model import Claim, Known, Look, Mounted, PathState, Trouble, Volume, gib
from tests.unit import worlds as w

FS = "11111111-2222-3333-4444-555555555555"
LEVELS = {1: 2, 5: 3, 6: 4, 10: 4}
OFFSET = 1 << 20
USED = w.GIB - OFFSET  # of each member


def decide(*args: object, **kwargs: object) -> Plan:
    (plan,) = decision.decide(w.NODE, *args, **kwargs)  # type: ignore[arg-type]
    return plan


def known(kind: str, **changes: object) -> Look:
    return w.look(dataclasses.replace(Known(kind, FS), **changes))  # type: ignore[arg-type]


# ------------------------------------------------------------- sets of one


def single(size: int, filesystem: int | None, **changes: object) -> World:
    """A mounted ext4 of so many bytes on a disk of so many GiB."""
    mounted = dataclasses.replace(
        w.mounted("/krkn_log", "ext4", 1),
        device=w.device(1).devno,
        size=filesystem,
    )
    world = w.world(
        1,
        looks={1: known("ext4")},
        devices={w.volume_id(1): w.device(1, size=size * w.GIB)},
        mounts=(dataclasses.replace(mounted, **changes),),  # type: ignore[arg-type]
        fstab={"log": fstab.entry("log", FS, "/krkn_log", "ext4")},
    )
    return world


def volume(number: int, size: int) -> Volume:
    return dataclasses.replace(w.attached(number), size_gib=size)


def test_a_filesystem_follows_its_volume() -> None:
    plan = decide(
        [w.claim(w.single(), volume(1, 3))],
        single(3, w.GIB),
    )
    assert plan.steps == (
        GrowFilesystem(
            "log",
            "/krkn_log",
            "ext4",
            before=w.GIB,
            after=3 * w.GIB,
            volume_id=w.volume_id(1),
        ),
    )
    assert (plan.state, plan.trouble, plan.warnings) == (MOUNTED, None, ())
    assert str(plan.steps[0]) == "grow the ext4 at /krkn_log from 1 GiB to 3 GiB"


NOT_GROWN: dict[str, tuple[World, dict[str, object]]] = {
    "it fills its volume": (single(3, 3 * w.GIB), {}),
    "all but what mkfs leaves": (single(3, 3 * w.GIB - grow.LEAST + 1), {}),
    "switched off": (single(3, w.GIB), {"grow": False}),
    "the size is not known": (single(3, None), {}),
    "something on the volume is mounted, not it": (
        single(3, w.GIB, device="253:0"),
        {},
    ),
    "a part of it is mounted": (
        single(
            3,
            w.GIB,
            mount=dataclasses.replace(
                w.mounted("/krkn_log", "ext4", 1).mount, root="/sub"
            ),
        ),
        {},
    ),
    "tried already": (
        dataclasses.replace(single(3, w.GIB), not_grown=frozenset({"log"})),
        {},
    ),
}


@pytest.mark.parametrize("name", NOT_GROWN)
def test_no_growth(name: str) -> None:
    world, changes = NOT_GROWN[name]
    plan = decide([w.claim(w.single(**changes), volume(1, 3))], world)
    assert (plan.steps, plan.warnings, plan.notes) == ((), (), ())
    assert (plan.state, plan.trouble, plan.outcomes) == (MOUNTED, None, ())


@pytest.mark.parametrize("changes", [{"errors": True}, {"read_only": True}])
def test_growth_is_put_off_where_nothing_can_be_written(
    changes: dict[str, object],
) -> None:
    plan = decide([w.claim(w.single(), volume(1, 3))], single(3, w.GIB, **changes))
    assert plan.steps == () and len(plan.outcomes) == 1
    assert len(plan.warnings) == 1


@pytest.mark.parametrize("disk, ec2, notes", [(1, 2, 1), (2, 1, 0), (2, 2, 0)])
def test_ec2_and_the_machine_disagree_about_a_mounted_volume(
    disk: int, ec2: int, notes: int
) -> None:
    """The modification is on its way, or EC2's answer is old: it stays up."""
    plan = decide([w.claim(w.single(), volume(1, ec2))], single(disk, disk * w.GIB))
    assert (plan.state, plan.trouble) == (MOUNTED, None)
    assert len(plan.notes) == notes and plan.warnings == ()


def test_a_set_that_is_not_mounted_waits_for_the_size() -> None:
    world = dataclasses.replace(single(1, w.GIB), mounts=())
    plan = decide([w.claim(w.single(), volume(1, 2))], world)
    assert plan.trouble is not None and plan.trouble.kind == "device-size"


# ----------------------------------------------------------------- arrays


def array_world(
    level: int,
    sizes: list[int],
    *,
    component: int = USED,
    filesystem: int | None = None,
    layout: int = 0x102,
    **changes: object,
) -> tuple[list[Claim], World]:
    """An array that is mounted, whose members have so many GiB."""
    count = len(sizes)
    data = {1: 1, 5: count - 1, 6: count - 2, 10: count // 2, 0: count}[level]
    size = data * (component if level else USED)
    numbers = range(1, count + 1)
    looks = {}
    for number in numbers:
        block = dataclasses.replace(
            w.superblock(number - 1, count=count, level=level),
            layout=layout,
            data_size=component or USED,
        )
        looks[number] = w.look(Known("linux_raid_member", w.ARRAY, superblock=block))
    array = w.array(
        *numbers,
        level=f"raid{level}",
        size=size,
        component=component if level else 0,
        action="idle" if level else "",
    )
    mounted = Mounted(
        dataclasses.replace(w.mounted("/krkn_data", "xfs", *numbers).mount),
        frozenset(w.volume_id(n) for n in numbers),
        device=array.devno,
        size=size if filesystem is None else filesystem,
    )
    world = w.world(
        *numbers,
        looks=looks,
        devices={
            w.volume_id(n): w.device(n, size=gib_ * w.GIB)
            for n, gib_ in zip(numbers, sizes)
        },
        arrays=(dataclasses.replace(array, **changes),),  # type: ignore[arg-type]
        array_looks={w.ARRAY: known("xfs")},
        array_lines={w.ARRAY: "data"},
        mounts=(mounted,),
        fstab={"data": fstab.entry("data", FS, "/krkn_data", "xfs")},
    )
    volumes = [volume(n, gib_) for n, gib_ in zip(numbers, sizes)]
    return [w.claim(w.raid(count, level), *volumes)], world


@pytest.mark.parametrize("level", LEVELS)
def test_an_array_first_and_then_its_filesystem(level: int) -> None:
    count = LEVELS[level]
    claims, world = array_world(level, [2] * count)
    plan = decide(claims, world)
    room = 2 * w.GIB - OFFSET
    array, filesystem = plan.steps
    assert array == GrowArray("data", w.ARRAY, USED, room)
    assert isinstance(filesystem, GrowFilesystem)
    data = {1: 1, 5: 2, 6: 2, 10: 2}[level]
    assert (filesystem.before, filesystem.after) == (data * USED, data * room)
    assert (plan.state, plan.warnings, plan.notes) == (MOUNTED, (), ())


def test_an_array_that_has_grown_before_its_filesystem() -> None:
    """Cut off between the two."""
    room = 2 * w.GIB - OFFSET
    claims, world = array_world(1, [2, 2], component=room, filesystem=USED)
    (step,) = decide(claims, world).steps
    assert isinstance(step, GrowFilesystem)
    assert (step.before, step.after, step.array_uuid) == (USED, room, w.ARRAY)


@pytest.mark.parametrize("level", LEVELS)
def test_half_grown_sets_wait_and_say_so(level: int) -> None:
    sizes = [2] * LEVELS[level]
    sizes[-1] = 1
    claims, world = array_world(level, sizes)
    claims[0] = dataclasses.replace(
        claims[0], trouble=Trouble("sizes-differ", "", "", "")
    )
    plan = decide(claims, world)
    assert (plan.steps, plan.trouble, plan.warnings) == ((), None, ())
    (note,) = plan.notes
    last = w.volume_id(len(sizes))
    assert f"it grows when {last} are enlarged" in note
    assert plan.state == MOUNTED


def test_it_grows_as_far_as_the_smallest_member() -> None:
    claims, world = array_world(1, [5, 3])
    step = decide(claims, world).steps[0]
    assert isinstance(step, GrowArray) and step.after == 3 * w.GIB - OFFSET


@pytest.mark.parametrize(
    "level, layout", [(0, 0), (10, 0x201)], ids=["RAID 0", "RAID 10 far"]
)
def test_what_cannot_grow_says_so_with_the_way_out(level: int, layout: int) -> None:
    claims, world = array_world(level, [2] * 4, layout=layout)
    plan = decide(claims, world)
    assert (plan.steps, plan.state, plan.trouble) == ((), MOUNTED, None)
    (warning,) = plan.warnings
    assert f"RAID {level}" in warning and "cannot grow" in warning
    assert all(w.volume_id(n) in warning for n in range(1, 5))
    assert "way out" in warning and "grow: false" in warning
    claims[0] = dataclasses.replace(
        claims[0], wanted=dataclasses.replace(claims[0].wanted, grow=False)
    )
    assert decide(claims, world).warnings == ()


def test_raid_0_of_the_size_it_has_says_nothing() -> None:
    claims, world = array_world(0, [1, 1])
    plan = decide(claims, world)
    assert (plan.steps, plan.warnings, plan.notes) == ((), (), ())


def test_raid_10_with_offset_copies_grows() -> None:
    claims, world = array_world(10, [2] * 4, layout=0x10201)
    assert isinstance(decide(claims, world).steps[0], GrowArray)


def test_an_array_without_a_write_since_it_was_started_grows() -> None:
    """btrfs is mounted without one, and nobody may write for long."""
    claims, world = array_world(6, [2] * 4, state="read-auto")
    plan = decide(claims, world)
    assert isinstance(plan.steps[0], GrowArray) and plan.outcomes == ()


BUSY = {
    "resync": {"action": "resync"},
    "recover": {"action": "recover", "degraded": 1},
    "degraded": {"degraded": 1},
    "reshape": {"action": "reshape"},
    "readonly": {"state": "readonly"},
}


@pytest.mark.parametrize("name", BUSY)
def test_an_array_that_is_not_in_step_grows_later(name: str) -> None:
    claims, world = array_world(5, [2] * 3, **BUSY[name])  # type: ignore[arg-type]
    plan = decide(claims, world)
    assert not [step for step in plan.steps if isinstance(step, GrowArray)]
    assert plan.trouble is None and plan.state == MOUNTED
    (outcome,) = plan.outcomes
    assert "grows to 2 GiB of each member when" in outcome


@given(
    level=st.sampled_from([0, *LEVELS]),
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=6),
    component=st.integers(1, 5),
    filled=st.integers(0, 5),
)
def test_growth_never_asks_for_more_than_there_is(
    level: int, sizes: list[int], component: int, filled: int
) -> None:
    used = component * w.GIB - OFFSET
    sizes = [max(size, component) for size in sizes]
    if level == 10:
        sizes = sizes[:4]
    claims, world = array_world(level, sizes, component=used)
    (mounted,) = world.mounts
    assert mounted.size is not None
    smaller = max(1, mounted.size - filled * w.GIB)
    world = dataclasses.replace(
        world, mounts=(dataclasses.replace(mounted, size=smaller),)
    )
    steps: tuple[Step, ...] = decide(claims, world).steps
    for step in steps:
        if isinstance(step, GrowArray):
            assert level != 0
            assert step.after <= min(sizes) * w.GIB - OFFSET
            assert step.after - step.before >= grow.LEAST
        else:
            assert isinstance(step, GrowFilesystem)
            assert step.after - step.before >= grow.LEAST


@pytest.mark.parametrize(
    "size, text",
    [(w.GIB, "1 GiB"), (w.GIB * 3 // 2, "1.5 GiB"), (w.GIB - OFFSET, "1 GiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert gib(size) == text


# ------------------------------------------- what is set once, and differs later


STATES = {
    "as wished": (PathState("directory", ("file",), 12, 12, 0o750), 0),
    "another owner": (PathState("directory", ("file",), 0, 12, 0o750), 1),
    "another mode": (PathState("directory", ("file",), 12, 12, 0o755), 1),
}


@pytest.mark.parametrize("name", STATES)
def test_an_owner_that_differs_later_is_told(name: str) -> None:
    state, count = STATES[name]
    wanted = w.single(owner="app", group="app", mode=0o750)
    world = dataclasses.replace(
        single(1, w.GIB),
        paths={"/krkn_log": state},
        accounts={"user:app": 12, "group:app": 12},
    )
    plan = decide([w.claim(wanted, volume(1, 1))], world)
    assert (plan.steps, plan.warnings, len(plan.notes)) == ((), (), count)


@pytest.mark.parametrize(
    "kind, label, there, count",
    [
        ("ext4", "data", "data", 0),
        ("ext4", "data", "GOAT-data", 1),
        ("ext4", "a label that is much too long", "a label that is ", 0),
        ("ext4", None, "GOAT-data", 0),
    ],
)
def test_a_label_that_differs_later_is_told(
    kind: str, label: str | None, there: str, count: int
) -> None:
    world = dataclasses.replace(
        single(1, w.GIB), looks={w.volume_id(1): known(kind, label=there)}
    )
    plan = decide([w.claim(w.single(label=label), volume(1, 1))], world)
    assert (plan.steps, plan.warnings, len(plan.notes)) == ((), (), count)


# ------------------------------------------------------------ errors in ext4


def test_an_ext4_with_errors_is_checked_before_it_is_mounted() -> None:
    world = dataclasses.replace(
        single(1, w.GIB),
        mounts=(),
        looks={w.volume_id(1): known("ext4", errors=True)},
    )
    plan = decide([w.claim(w.single(), volume(1, 1))], world)
    assert [type(step).__name__ for step in plan.steps] == [
        "MakeDirectory",
        "CheckFilesystem",
        "MountFilesystem",
    ]
    (check,) = [step for step in plan.steps if isinstance(step, CheckFilesystem)]
    assert (check.volume_id, check.uuid) == (w.volume_id(1), FS)


def test_errors_while_it_is_mounted_are_a_warning() -> None:
    world = single(1, w.GIB, errors=True)
    plan = decide([w.claim(w.single(), volume(1, 1))], world)
    assert (plan.steps, plan.state, plan.trouble) == ((), MOUNTED, None)
    assert "errors in the ext4 at /krkn_log" in plan.warnings[0]


def test_a_filesystem_that_the_kernel_made_read_only() -> None:
    world = single(1, w.GIB, read_only=True)
    plan = decide([w.claim(w.single(), volume(1, 1))], world)
    assert "can only be read" in plan.warnings[0]
    asked = w.single(mount_options=("ro",))
    line = fstab.entry("log", FS, "/krkn_log", "ext4", ("ro",))
    world = dataclasses.replace(world, fstab={"log": line})
    assert decide([w.claim(asked, volume(1, 1))], world).warnings == ()
