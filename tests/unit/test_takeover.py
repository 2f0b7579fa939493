"""What somebody else wrote for a filesystem or an array of a set: which lines ours
takes the place of, and which are left to a person."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cc_kraken.config import values
from cc_kraken.decide.plan import ASSEMBLED, MOUNTED
from cc_kraken.decide.steps import WriteArrayLine
from cc_kraken.decide.world import World
from cc_kraken.machine import fstab, md, mdadm_conf
from cc_kraken.model import Known
from tests.unit import worlds as w
from tests.unit.test_decision import (
    FS,
    LOG,
    decide,
    goat,
    kind,
    line_step,
    members,
    names,
    raid_claim,
    raid_world,
    up,
)

# ------------------------------------------------------------------------ fstab

SAYS_MORE = {
    # options, those that are named, those that MountOptions can have
    "noauto": ("noauto", "noauto", ""),
    "read-only, without its journal": ("noauto,ro,noload", "noauto, ro, noload", "ro"),
    "what MountOptions can have": ("noatime,discard", "noatime, discard", None),
    "one that ours has, and one more": ("errors=remount-ro,commit=5",
                                        "errors=remount-ro", None),
    "on demand": ("x-systemd.automount", "x-systemd.automount", ""),
    "on demand, as it was written once": ("comment=systemd.automount",
                                          "comment=systemd.automount", ""),
    "mounted by people": ("user,exec", "user", ""),
    "after something else": ("x-systemd.requires=vault.service",
                             "x-systemd.requires=vault.service", ""),
    "the spare superblock": ("sb=131072", "sb=131072", ""),
    "under a label of its own": ("context=system_u:object_r:tmp_t:s0",
                                 "context=system_u:object_r:tmp_t:s0", ""),
}  # fmt: skip


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("name", SAYS_MORE)
def test_a_line_that_says_more_than_ours_is_named_and_stays(
    name: str, mounted: bool
) -> None:
    options, told, keep = SAYS_MORE[name]
    text = f"LABEL=GOAT-log /krkn_log ext4 {options} 0 1\n"
    claim = w.claim(w.single(mount_options=("commit=5",)), w.attached(1))
    world = goat(text, **(up("/krkn_log") if mounted else {}))
    plan = decide(claim, world)
    assert plan.steps == ()
    if mounted:
        assert (plan.state, plan.trouble) == (MOUNTED, None)
        (said,) = plan.warnings
    else:
        assert kind(plan) == "fstab-conflict" and plan.warnings == ()
        said = str(plan.trouble)
    assert f"with {told}" in said and "LABEL=GOAT-log /krkn_log" in said
    # The advice holds: no value of it is refused, and then nothing is left to say.
    advice = re.search(r"MountOptions to (\S+?)[,.]? ", said + " ")
    assert (advice is not None) == (keep != "")
    without = goat("", **(up("/krkn_log") if mounted else {}))
    assert decide(claim, without).warnings == ()
    if advice is None:
        return
    wish = values.mount_options(advice.group(1), "ext4")
    assert wish[0] == "commit=5"
    wiser = w.claim(w.single(mount_options=wish), w.attached(1))
    after = decide(wiser, world)
    if keep is None:
        assert (after.trouble, after.warnings) == (None, ())
        assert line_step(after).instead_of == fstab.parse(text)
    else:
        # What it cannot have is left to a person.
        assert after.steps == ()


@pytest.mark.parametrize("kind_of_line", ["xfs", "ext3", "none", "vfat", "fuse.s3fs"])
def test_a_line_that_mounts_it_as_something_else_is_named(kind_of_line: str) -> None:
    text = f"LABEL=GOAT-log /krkn_log {kind_of_line} defaults 0 1\n"
    plan = decide(LOG, goat(text))
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")
    assert f"as {kind_of_line}" in str(plan.trouble)


def test_a_line_that_the_set_leaves_behind_must_say_no_more_either() -> None:
    text = "LABEL=GOAT-log /old ext4 ro,noauto 0 1\n"
    plan = decide(LOG, goat(text, **up("/old")))
    assert plan.steps == ()
    assert any("with ro, noauto" in told for told in plan.warnings)


IDS = [
    "ID=nvme-Amazon_Elastic_Block_Store_vol00000000000000001",
    "ID=nvme-QEMU_NVMe_Ctrl_vol00000000000000001_1",
    "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol00000000000000001-ns-1",
    "PARTUUID=0a0a",
    'PARTLABEL="kafka log"',
    "/dev/disk/by-path/pci-0000:00:1f.0-nvme-1",
]


@pytest.mark.parametrize("spec", IDS)
def test_a_line_by_what_udev_names_the_disk(spec: str) -> None:
    text = f"{spec} /krkn_log ext4 defaults 0 0\n".replace("kafka log", "kafka\\040log")
    (line,) = fstab.parse(text)
    plan = decide(LOG, goat(text, fstab_devnos={line.spec: "259:1"}))
    assert line_step(plan).instead_of == (line,)
    plan = decide(LOG, goat(text, fstab_devnos={line.spec: "259:9"}))
    assert kind(plan) == "fstab-conflict"
    # udev has not made its link yet: the serial says the same.
    own = "vol00000000000000001" in spec
    early = decide(LOG, goat(text))
    assert kind(early) == (None if own else "fstab-conflict")


@pytest.mark.parametrize(
    "spec",
    [
        "ID=nvme-Amazon_Elastic_Block_Store_vol00000000000000001-part1",
        "ID=nvme-Amazon_Elastic_Block_Store_vol00000000000000001_1-part1",
        "ID=nvme-Amazon_Elastic_Block_Store_vol00000000000000002",
        "ID=vol00000000000000001",
    ],
)
def test_a_line_by_the_name_of_something_else(spec: str) -> None:
    plan = decide(LOG, goat(f"{spec} /krkn_log ext4 defaults 0 0\n"))
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")


@pytest.mark.parametrize(
    "spec", ["/dev/md0", "/dev/md/data", "ID=md-name-any:KRKN-data", "LABEL=GOAT-data"]
)
def test_a_line_is_judged_when_the_array_runs(spec: str) -> None:
    """Before that no link leads to it."""
    head = Known("xfs", FS, "GOAT-data")
    text = f"{spec} /krkn_data xfs defaults 0 0\n"
    world = raid_world(
        members(), heads={w.ARRAY: head}, fstab_foreign=fstab.parse(text)
    )
    plan = decide(raid_claim(w.raid()), world)
    assert plan.trouble is None and names(plan.steps)[0] == "AssembleArray"
    runs = dataclasses.replace(
        world,
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(head)},
        fstab_devnos={spec: "9:127"},
    )
    plan = decide(raid_claim(w.raid()), runs)
    assert line_step(plan).instead_of == fstab.parse(text)


def test_an_array_by_the_name_that_udev_makes_of_its_uuid() -> None:
    text = f"ID=md-uuid-{md.mdadm_uuid(w.ARRAY)} /krkn_data xfs defaults 0 0\n"
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        fstab_foreign=fstab.parse(text),
    )
    plan = decide(raid_claim(w.raid()), world)
    assert line_step(plan).instead_of == fstab.parse(text)


# ------------------------------------------------------------------ mdadm's lines

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
        members(),
        array_lines_foreign=lines,
        **(up_now if runs else {}),
        **kwargs,
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


@pytest.mark.parametrize("case", ["runs", "new", "is mounted", "assembled"])
def test_device_lines_that_leave_a_disk_out(case: str) -> None:
    rule = f"DEVICE /dev/sd* ({CONF})"
    kwargs: dict[str, object] = {"left_out": {w.volume_id(2): rule}}
    wanted = w.raid()
    if case == "new":
        world = raid_world({n: w.blank() for n in (1, 2, 3)}, **kwargs)
    else:
        world = with_conf("", **kwargs)
    if case == "is mounted":
        mount = w.mounted("/krkn_data", "xfs", 1, 2, 3)
        world = dataclasses.replace(world, mounts=(mount,))
    if case == "assembled":
        wanted = w.raid(fs_type=None, mount_path=None)
    plan = decide(raid_claim(wanted), world)
    assert not any(isinstance(step, WriteArrayLine) for step in plan.steps)
    if case in ("is mounted", "assembled"):
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
