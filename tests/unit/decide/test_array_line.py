"""Which ARRAY line does mdadm need, and which one is in its way?"""

from __future__ import annotations

import dataclasses

import pytest

from cc_kraken.decide.plan import ASSEMBLED, MOUNTED
from cc_kraken.decide.steps import WriteArrayLine
from cc_kraken.decide.world import World
from cc_kraken.machine import fstab, md, mdadm_conf
from cc_kraken.model import ArrayLine, Known
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    decide,
    kind,
    members,
    names,
    raid_claim,
    raid_world,
)


def test_an_array_line_of_somebody_else_is_replaced() -> None:
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS, "GOAT-data"))},
        array_lines_foreign=(ArrayLine("/etc/mdadm.conf", uuid=w.ARRAY),),
        fstab_foreign=fstab.parse("LABEL=GOAT-data /krkn_data xfs defaults 0 1\n"),
        fstab_devnos={"LABEL=GOAT-data": "9:127"},
    )
    plan = decide(raid_claim(w.raid()), world)
    assert names(plan.steps) == [
        "WriteArrayLine",
        "MakeDirectory",
        "WriteFstab",
        "MountFilesystem",
    ]
    assert "/etc/mdadm.conf" in str(plan.steps[0])
    both = dataclasses.replace(world, array_lines={w.ARRAY: "data"})
    assert "WriteArrayLine" in names(decide(raid_claim(w.raid()), both).steps)


MD = md.mdadm_uuid(w.ARRAY)


OTHER = MD.replace("4a73", "4a74")


NAME = "any:KRKN-data"


CONF = "/etc/mdadm/mdadm.conf"


DISKS = "/dev/nvme1n1,/dev/nvme2n1,/dev/nvme3n1"


#: what a line says, and what becomes of it: it is "replaced", it is "kept" (and so
#: the set is refused), or it is of no array of ours ("")
ARRAY_LINES = {
    "by UUID": (f"ARRAY UUID={MD}", "replaced"),
    "by UUID, as mdadm writes it": (
        f"ARRAY /dev/md0 level=raid0 num-devices=3 metadata=1.2 spares=1 name=x:0 "
        f"UUID={MD}\n   devices=/dev/xvdc,/dev/xvdd", "replaced"),
    "by UUID, with a bitmap inside": (f"ARRAY UUID={MD} bitmap=internal", "replaced"),
    "by name": (f"ARRAY /dev/md/data name={NAME}", "replaced"),
    "by name in other letters": ("ARRAY name=ANY:krkn-DATA", "replaced"),
    "by name without a host": ("ARR name=KRKN-data", "replaced"),
    "by devices": (f"ARRAY /dev/md0 devices={DISKS}", "replaced"),
    "by one device": ("array devices=/dev/nvme2n1", "replaced"),
    "by devices, with a name that mdadm 4.3 does not read": (
        f"ARRAY /dev/md0 name=x:0 devices={DISKS}", "replaced"),
    "ignored by UUID": (f"ARRAY <ignore> UUID={MD}", "kept"),
    "ignored by name": (f"ARRAY <IGNORE> name={NAME}", "kept"),
    "ignored by devices": (f"ARRAY <ignore> devices={DISKS}", "kept"),
    "ignored, and other words differ": (f"ARRAY <ignore> name=x UUID={MD}", "kept"),
    "a pattern": ("ARRAY /dev/md0 devices=/dev/nvme*n1", "kept"),
    "one device more": (f"ARRAY devices={DISKS},/dev/nvme9n1", "kept"),
    "with a group of spares": (f"ARRAY UUID={MD} spare-group=all", "kept"),
    "with a bitmap in a file": (f"ARRAY UUID={MD} bitmap=/var/md0", "kept"),
    "of another UUID": (f"ARRAY /dev/md0 UUID={OTHER} name={NAME}", ""),
    "of another UUID, ignored": (f"ARRAY <ignore> UUID={OTHER} devices={DISKS}", ""),
    "of another name": ("ARRAY name=any:KRKN-data2", ""),
    "of other devices": ("ARRAY devices=/dev/nvme11n1,/dev/nvme1n1p1", ""),
    "of devices in a directory": ("ARRAY devices=/dev/*/nvme1n1,/*", ""),
    "by number alone, which only old metadata has": ("ARRAY super-minor=0", ""),
    "by number and devices": ("ARRAY super-minor=0 devices=/dev/nvme1n1", ""),
    "that identifies nothing": ("ARRAY /dev/md/KRKN-data level=0", ""),
    "that is a comment": (f"#ARRAY <ignore> UUID={MD}", ""),
    "that is the tail of another keyword": (f"CREATE owner=root\n UUID={MD}", ""),
}  # fmt: skip


def with_conf(
    text: str, *, runs: bool = True, read: bool = True, **kwargs: object
) -> World:
    """A whole array, and these lines of somebody else's for mdadm."""
    lines = mdadm_conf.parse(text, CONF)
    lines = tuple(dataclasses.replace(line, read=read) for line in lines)
    up_now = {
        "arrays": (w.array(1, 2, 3),),
        "array_looks": {w.ARRAY: w.look(Known("xfs", FS))},
    }
    return raid_world(
        members(), array_lines_foreign=lines, **(up_now if runs else {}), **kwargs
    )


@pytest.mark.parametrize("case", ["runs", "does not run", "is mounted"])
@pytest.mark.parametrize("name", ARRAY_LINES)
def test_array_lines_of_somebody_else(name: str, case: str) -> None:
    text, becomes = ARRAY_LINES[name]
    world = with_conf(text, runs=case != "does not run")
    if case == "is mounted":
        mount = w.mounted("/krkn_data", "xfs", 1, 2, 3)
        world = dataclasses.replace(world, mounts=(mount,))
    plan = decide(raid_claim(w.raid()), world)
    written = [step for step in plan.steps if isinstance(step, WriteArrayLine)]
    if becomes == "kept":
        assert written == []
        if case == "is mounted":
            assert (plan.state, plan.trouble) == (MOUNTED, None)
            said = " ".join(plan.warnings)
        else:
            assert (plan.steps, kind(plan)) == ((), "mdadm-conf-conflict")
            said = str(plan.trouble)
        assert CONF in said and " ".join(text.split()) in said
        return
    assert (plan.trouble, plan.warnings) == (None, ())
    (step,) = written
    theirs = mdadm_conf.parse(text, CONF) if becomes else ()
    assert step.instead_of == theirs
    # They go, and nothing else does.
    left = mdadm_conf.without(f"HOMEHOST x\n{text}\nMAILADDR y\n", step.instead_of)
    kept = "" if becomes else f"{text}\n"
    assert left == f"HOMEHOST x\n{kept}MAILADDR y\n"
    assert (CONF in str(step)) == bool(becomes)


@pytest.mark.parametrize(
    "name", ["by name", "by devices", "ignored by name", "a pattern"]
)
def test_an_array_that_is_to_be_made_is_not_made_into_a_conflict(name: str) -> None:
    """Before anything is written: at the next boot mdadm would refuse it."""
    text, becomes = ARRAY_LINES[name]
    world = raid_world(
        {n: w.blank() for n in (1, 2, 3)},
        array_lines_foreign=mdadm_conf.parse(text, CONF),
    )
    plan = decide(raid_claim(w.raid()), world)
    if becomes == "kept":
        assert (plan.steps, kind(plan)) == ((), "mdadm-conf-conflict")
        return
    (step,) = [step for step in plan.steps if isinstance(step, WriteArrayLine)]
    assert step.instead_of == mdadm_conf.parse(text, CONF)


def test_a_line_in_a_file_that_mdadm_does_not_read_is_no_conflict() -> None:
    text = f"ARRAY <ignore> UUID={MD}\n"
    plan = decide(raid_claim(w.raid()), with_conf(text, read=False))
    assert plan.trouble is None
    (step,) = [step for step in plan.steps if isinstance(step, WriteArrayLine)]
    assert step.instead_of == ()
    plan = decide(raid_claim(w.raid()), with_conf(f"ARRAY UUID={MD}\n", read=False))
    (step,) = [step for step in plan.steps if isinstance(step, WriteArrayLine)]
    assert len(step.instead_of) == 1


@pytest.mark.parametrize(
    "case", ["runs", "new", "is mounted", "assembled", "assembled, theirs is mounted"]
)
def test_device_lines_that_leave_a_disk_out(case: str) -> None:
    rule = f"DEVICE /dev/sd* ({CONF})"
    kwargs: dict[str, object] = {"left_out": {w.volume_id(2): rule}}
    wanted = w.raid()
    if case == "new":
        world = raid_world({n: w.blank() for n in (1, 2, 3)}, **kwargs)
    else:
        world = with_conf("", **kwargs)
    if "is mounted" in case:
        mount = w.mounted("/krkn_data", "xfs", 1, 2, 3)
        world = dataclasses.replace(world, mounts=(mount,))
    if case.startswith("assembled"):
        wanted = w.raid(fs_type=None, mount_path=None)
    plan = decide(raid_claim(wanted), world)
    assert not any(isinstance(step, WriteArrayLine) for step in plan.steps)
    if case not in ("runs", "new"):
        # What is up is not made a failure by a file.
        assert (plan.state, plan.trouble) == (
            MOUNTED if case == "is mounted" else ASSEMBLED,
            None,
        )
        said = " ".join(plan.warnings)
    else:
        assert (plan.steps, kind(plan)) == ((), "mdadm-conf-conflict")
        said = str(plan.trouble)
    assert rule in said and w.volume_id(2) in said and w.volume_id(1) not in said
