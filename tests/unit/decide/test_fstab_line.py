"""Which line of fstab does a set need, and which one is in its way?"""

from __future__ import annotations

import dataclasses
import re

import pytest

from cc_kraken.config import values
from cc_kraken.decide import decision
from cc_kraken.decide.plan import FAILED, MOUNTED
from cc_kraken.decide.steps import WriteFstab
from cc_kraken.machine import fstab, md
from cc_kraken.model import Known
from tests.unit import worlds as w
from tests.unit.decide.cases import (
    FS,
    GOAT_FS,
    GOAT_LINE,
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


@pytest.mark.parametrize(
    ("text", "steps", "remedy"),
    [
        ("", 1, "fstab has it at"),
        ("/dev/nvme2n1 /krkn_log ext4 defaults 0 0\n", 1, "fstab has it at"),
        ("/dev/nvme1n1 /two ext4 defaults 0 0\n", 1, "fstab has it at"),
        # By intent, with more than ours says, or for a disk that is not there.
        (f"UUID={w.ARRAY} /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
        ("/dev/disk/by-id/x /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
        ("/dev/nvme2n1 /krkn_log ext4 noauto,ro 0 0\n", 0, "Correct fstab"),
        ("/dev/nvme9n1 /krkn_log ext4 defaults 0 0\n", 0, "Correct fstab"),
    ],
)
def test_fstab_is_put_right_where_kernel_names_were_swapped(
    text: str, steps: int, remedy: str
) -> None:
    """Also if only one of the two lines is wrong."""
    one, two = (
        dataclasses.replace(w.mounted(path, "ext4", n), device=f"259:{n}")
        for n, path in ((1, "/two"), (2, "/krkn_log"))
    )
    devnos = {f"/dev/nvme{n}n1": f"259:{n}" for n in (1, 2)}
    devnos.update({f"UUID={w.ARRAY}": "259:2", "/dev/disk/by-id/x": "259:2"})
    world = w.world(
        *(1, 2),
        looks={n: w.look(Known("ext4", FS if n == 1 else w.ARRAY)) for n in (1, 2)},
        mounts=(one, two),
        fstab_foreign=fstab.parse(text),
        fstab_devnos=devnos,
    )
    other = w.claim(w.single(name="two", mount_path="/two"), w.attached(2))
    plan = decide(LOG, world, other)
    assert kind(plan) == "mounted-elsewhere" and plan.trouble is not None
    assert names(plan.steps) == ["WriteFstab"] * steps
    assert remedy in plan.trouble.remedy
    assert ("the warnings" in plan.trouble.remedy) == bool(plan.warnings)
    for step in plan.steps:
        assert isinstance(step, WriteFstab)
        after = fstab.replace(text, {"log": step.line}, step.instead_of)
        assert after == fstab.render(step.line) + "\n"


def test_a_foreign_fstab_line_on_the_same_path() -> None:
    foreign = fstab.parse("/dev/sdz /krkn_log ext4 defaults 0 0\n")
    world = w.world(1, looks={1: w.blank()}, fstab_foreign=foreign)
    plan = decide(LOG, world)
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        GOAT_LINE,
        GOAT_LINE * 3,
        f"UUID={FS} /krkn_log/ ext4 auto,rw,nouser,async,relatime,_netdev 0 0\n",
        f"UUID={FS} /krkn_log ext4 x-systemd.device-timeout=9,comment=mine 0 0\n",
        "LABEL=GOAT-log /krkn_log auto defaults 0 0\n",
        "LABEL=GOAT-log /krkn_log xfs,ext4 defaults 0 0\n",
        f"/dev/sdx /krkn_log ext4 defaults 0 0\n{GOAT_LINE}",
    ],
)
def test_a_line_for_this_very_filesystem_is_taken_over(
    text: str, mounted: bool
) -> None:
    found = {"LABEL=GOAT-log": "259:1", "/dev/sdx": "259:1"}
    world = goat(text, fstab_devnos=found, **(up("/krkn_log") if mounted else {}))
    plan = decide(LOG, world)
    assert plan.trouble is None
    step = line_step(plan)
    assert set(step.instead_of) == set(fstab.parse(text))
    after = fstab.replace(text, {"log": step.line}, step.instead_of)
    assert after == fstab.render(step.line) + "\n"
    assert "instead of" in str(step)
    done = dataclasses.replace(world, fstab={"log": step.line}, fstab_foreign=())
    assert "WriteFstab" not in names(decide(LOG, done).steps)


@pytest.mark.parametrize(
    "text",
    [
        "/dev/sdz /krkn_log ext4 defaults 0 0\n",
        "LABEL=other /krkn_log ext4 defaults 0 0\n",
        f"{GOAT_LINE}UUID=aaaa /krkn_log xfs defaults 0 0\n",
        "tmpfs /krkn_log tmpfs defaults 0 0\n",
        "LABEL=GOAT-log /krkn_log btrfs subvol=x 0 0\n",
    ],
)
def test_a_line_for_something_else_is_refused_or_where_mounted_a_warning(
    text: str,
) -> None:
    plan = decide(LOG, goat(text))
    assert (plan.steps, kind(plan)) == ((), "fstab-conflict")
    plan = decide(LOG, goat(text, **up("/krkn_log")))
    assert (plan.state, plan.steps, plan.trouble) == (MOUNTED, (), None)
    assert any("fstab mounts" in text for text in plan.warnings)


def test_a_line_by_label_where_the_label_is_found_on_another_disk() -> None:
    plan = decide(LOG, goat(fstab_devnos={"LABEL=GOAT-log": "259:9"}))
    assert kind(plan) == "fstab-conflict"


def test_a_line_elsewhere_is_left_alone_unless_the_set_moves_from_there() -> None:
    text = "LABEL=GOAT-log /old ext4 defaults 0 1\n"
    assert line_step(decide(LOG, goat(text))).instead_of == ()
    plan = decide(LOG, goat(text, **up("/old")))
    assert (plan.state, kind(plan)) == (FAILED, "mounted-elsewhere")
    assert line_step(plan).instead_of == fstab.parse(text)


def test_a_new_filesystem_takes_no_line_over() -> None:
    world = dataclasses.replace(goat(), looks={w.volume_id(1): w.blank()})
    assert kind(decide(LOG, world)) == "fstab-conflict"


def test_a_set_with_a_new_name_replaces_its_old_lines() -> None:
    old = fstab.entry("old", FS, "/krkn_log", "ext4")
    world = w.world(
        1, looks={1: w.look(GOAT_FS)}, fstab={"old": old}, **up("/krkn_log")
    )
    (plan,) = decision.decide(w.NODE, (LOG,), world)
    assert line_step(plan).instead_of == (old,)
    done = dataclasses.replace(world, fstab={"log": line_step(plan).line})
    (plan,) = decision.decide(w.NODE, (LOG,), done)
    assert (plan.steps, plan.warnings) == ((), ())
    named = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        array_lines={w.ARRAY: "old"},
    )
    assert "WriteArrayLine" in names(decide(raid_claim(w.raid()), named).steps)


def test_the_line_of_another_set_that_is_gone_is_no_former_name() -> None:
    old = fstab.entry("old", w.ARRAY, "/krkn_log", "ext4")
    world = w.world(1, looks={1: w.look(GOAT_FS)}, fstab={"old": old})
    plans = decision.decide(w.NODE, (LOG,), world)
    assert line_step(plans[0]).instead_of == ()
    assert names(plans[1].steps) == ["RemoveFstab"]


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
