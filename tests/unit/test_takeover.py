"""What somebody else wrote for a filesystem or an array of a set: which lines ours
takes the place of, and which are left to a person."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cc_kraken import arrays, fstab, values
from cc_kraken.model import Known
from cc_kraken.plan import MOUNTED
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
    text = f"ID=md-uuid-{arrays.mdadm_uuid(w.ARRAY)} /krkn_data xfs defaults 0 0\n"
    world = raid_world(
        members(),
        arrays=(w.array(1, 2, 3),),
        array_looks={w.ARRAY: w.look(Known("xfs", FS))},
        fstab_foreign=fstab.parse(text),
    )
    plan = decide(raid_claim(w.raid()), world)
    assert line_step(plan).instead_of == fstab.parse(text)
