"""What the tables of the decision share: a set, a world, and its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

from cc_kraken.decide import decision
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import Step, WriteFstab, WriteRecords
from cc_kraken.decide.world import World
from cc_kraken.machine import fstab
from cc_kraken.model import Claim, Known, Look, PathState, Record, Volume, WantedSet
from tests.unit import worlds as w

LOG = w.claim(w.single(), w.attached(1))
OTHER = "i-00000000000000002"
FS = "11111111-2222-3333-4444-555555555555"
NEW_XFS = [
    "WriteRecords",
    "CreateArray",
    "WriteArrayLine",
    "MakeFilesystem",
    "EraseRecords",
    "MakeDirectory",
    "WriteFstab",
    "MountFilesystem",
]


def decide(claim: Claim, world: World, *others: Claim) -> Plan:
    return decision.decide(w.NODE, (claim, *others), world)[0]


def shown(look: Look, **wanted: object) -> Plan:
    """The plan of a set of one, whose volume shows this."""
    claim = w.claim(w.single(**wanted), w.attached(1))
    return decide(claim, w.world(1, looks={1: look}))


def names(steps: Sequence[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def kind(plan: Plan) -> Optional[str]:
    return plan.trouble.kind if plan.trouble else None


def records(wanted: WantedSet, *volumes: Volume) -> tuple[Record, ...]:
    """The intent records that a run on blank volumes would write."""
    numbers = [int(volume.id[4:], 16) for volume in volumes]
    world = w.world(*numbers, looks={n: w.blank() for n in numbers})
    plan = decide(w.claim(wanted, *volumes), world)
    (step,) = [step for step in plan.steps if isinstance(step, WriteRecords)]
    return step.records


RECORD = records(w.single(), w.attached(1))[0]


OVERWRITE = ["Wipe", "WriteRecords", "MakeFilesystem", "EraseRecords"]


def device_case(**change: object) -> World:
    found = w.world(1, looks={1: w.blank()})
    device = dataclasses.replace(w.device(1), **change)  # type: ignore[arg-type]
    return dataclasses.replace(found, devices={w.volume_id(1): device})


def raid_claim(wanted: WantedSet, count: int = 3) -> Claim:
    return w.claim(wanted, *(w.attached(n) for n in range(1, count + 1)))


def raid_world(looks: dict[int, Look], **kwargs: object) -> World:
    return w.world(*looks, looks=looks, **kwargs)


def blanks(count: int = 3) -> dict[int, Look]:
    return {n: w.blank() for n in range(1, count + 1)}


def members(count: int = 3, **kwargs: object) -> dict[int, Look]:
    return {n: w.member(n - 1, count=count, **kwargs) for n in range(1, count + 1)}


def with_look(looks: dict[int, Look], number: int, look: Look) -> dict[int, Look]:
    return {**looks, number: look}


def path_plan(state: PathState, *, known: bool, over: bool = False) -> Plan:
    look = w.look(Known("ext4", FS)) if known else w.blank()
    world = w.world(1, looks={1: look}, paths={"/krkn_log": state})
    return decide(w.claim(w.single(mount_over=over), w.attached(1)), world)


OLD = ("/old", 1)


def running(looks: dict[int, Look], *inside: int, **kwargs: object) -> World:
    """A set whose mirror runs with these members."""
    change = {"level": "raid1", "degraded": int(len(inside) < len(looks)), **kwargs}
    return raid_world(
        looks,
        arrays=(w.array(*inside, **change),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        array_lines={w.ARRAY: "data"},
    )


GOAT_LINE = "LABEL=GOAT-log /krkn_log ext4 defaults 0 1\n"
GOAT_FS = Known("ext4", FS, "GOAT-log")


def goat(text: str = GOAT_LINE, **kwargs: object) -> World:
    """A machine whose fstab has these lines of somebody else's."""
    looks = {1: w.look(GOAT_FS)}
    return w.world(1, looks=looks, fstab_foreign=fstab.parse(text), **kwargs)


def up(*paths: str) -> dict[str, object]:
    return {"mounts": tuple(w.mounted(path, "ext4", 1) for path in paths)}


def line_step(plan: Plan) -> WriteFstab:
    (step,) = [step for step in plan.steps if isinstance(step, WriteFstab)]
    return step
