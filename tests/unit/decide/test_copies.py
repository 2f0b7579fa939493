"""A copy of a set's volumes is attached too: what is decided, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from cc_kraken.decide import copies, decision
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.world import World
from cc_kraken.model import Array, Claim, Known, Look, Signature
from cc_kraken.proof import signatures
from tests.unit import worlds as w
from tests.unit.decide.cases import LOG
from tests.unit.tree import Tree

FS = "0d1f4e0a-6f5d-4cc4-9a43-4f6d1c1b9d11"
OTHER_FS = "77777777-6f5d-4cc4-9a43-4f6d1c1b9d11"
MEMBER = "linux_raid_member"


def shows(number: int, kind: str, uuid: str, path: str = "") -> Signature:
    return Signature((w.volume_id(number),), path or f"/dev/nvme{number}n1", kind, uuid)


def decide(claim: Claim, world: World) -> Plan:
    return decision.decide(w.NODE, (claim,), world)[0]


def one_volume(kind: str = "ext4", up: bool = False, **kwargs: object) -> World:
    mounts = (w.mounted("/krkn_log", kind, 1),) if up else ()
    looks = {1: Look(Known(kind, FS))}
    return w.world(1, looks=looks, **{"mounts": mounts, **kwargs})


def array_of_two(up: bool = False, **kwargs: object) -> World:
    looks = {n: w.member(n - 1, count=2, level=1) for n in (1, 2)}
    return w.world(
        1,
        2,
        looks=looks,
        **{
            "mounts": (w.mounted("/krkn_data", "xfs", 1, 2),) if up else (),
            "arrays": (w.array(1, 2, level="raid1"),),
            "array_looks": {w.ARRAY: Look(Known("xfs", FS))},
            **kwargs,
        },
    )


OWN = (shows(1, "ext4", FS),)
OWN_ARRAY = (
    shows(1, MEMBER, w.ARRAY),
    shows(2, MEMBER, w.ARRAY),
    Signature((w.volume_id(1), w.volume_id(2)), "/dev/md127", "xfs", FS),
)
COPIED_ARRAY = Signature((w.volume_id(8), w.volume_id(9)), "/dev/md126", "xfs", FS)

SINGLE = {
    "nothing but its own volume": (OWN, None),
    "another filesystem on another disk": ((*OWN, shows(9, "ext4", OTHER_FS)), None),
    "a disk without a superblock": ((*OWN, shows(9, "ext4", "")), None),
    "a copy": ((*OWN, shows(9, "ext4", FS)), "filesystem-clone"),
    "a copy that counts as another type": (
        (*OWN, shows(9, "ext3", FS)),
        "filesystem-clone",
    ),
    "a copy in a partition": (
        (*OWN, shows(9, "ext4", FS, "/dev/nvme9n1p1")),
        "filesystem-clone",
    ),
    "a copy in an array": ((*OWN, COPIED_ARRAY), "filesystem-clone"),
}


@pytest.mark.parametrize("case", SINGLE)
@pytest.mark.parametrize("up", [False, True])
def test_a_set_of_one(case: str, up: bool) -> None:
    seen, kind = SINGLE[case]
    world = one_volume(up=up, signatures=seen)
    plan = decide(LOG, world)
    check(plan, kind, up)


ARRAYS = {
    "nothing but its own": (OWN_ARRAY, None),
    "a copy of a member": ((*OWN_ARRAY, shows(9, MEMBER, w.ARRAY)), "array-clone"),
    "a copy with an array UUID of its own": (
        (*OWN_ARRAY, COPIED_ARRAY),
        "filesystem-clone",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("up", [False, True])
def test_an_array(case: str, up: bool) -> None:
    seen, kind = ARRAYS[case]
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    check(decide(claim, array_of_two(up, signatures=seen)), kind, up)


def check(plan: Plan, kind: Optional[str], up: bool) -> None:
    """Refused before a mount, and a warning of a set that is up; both name both."""
    clones = [text for text in plan.warnings if "UUID" in text]
    if kind is None or up:
        assert plan.trouble is None
        assert plan.state == ("mounted" if up else "planned")
        assert len(clones) == (kind is not None)
        said = "".join(clones)
    else:
        assert plan.trouble is not None and plan.trouble.kind == kind
        assert plan.steps == () and not plan.trouble.waits
        said = str(plan.trouble)
    if kind is not None:
        assert w.volume_id(1) in said and w.volume_id(9) in said
        assert "Detach the copy" in said


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("ext4", "e2fsck -fp /dev/nvme9n1; tune2fs -U random /dev/nvme9n1"),
        ("xfs", "xfs_admin -U generate /dev/nvme9n1"),
        ("btrfs", "btrfstune -u /dev/nvme9n1"),
    ],
)
def test_what_keeps_both(kind: str, command: str) -> None:
    world = one_volume(kind, signatures=(shows(9, kind, FS),))
    plan = decide(w.claim(w.single(fs_type=kind), w.attached(1)), world)
    assert plan.trouble is not None and command in plan.trouble.remedy


def test_the_members_of_a_copied_array_are_told_together() -> None:
    seen = (shows(8, MEMBER, w.ARRAY), shows(9, MEMBER, w.ARRAY), COPIED_ARRAY)
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    plan = decide(claim, array_of_two(signatures=seen))
    assert plan.trouble is not None
    assert plan.trouble.found == (
        f"{w.volume_id(8)} (/dev/nvme8n1) and {w.volume_id(9)} (/dev/nvme9n1) have "
        f"the same array UUID {w.ARRAY} as {w.volume_id(1)}, {w.volume_id(2)}, the "
        "set data."
    )
    assert "--update=uuid /dev/md/copy /dev/nvme8n1 /dev/nvme9n1" in str(plan.trouble)
    assert "give it the set's tags" in plan.trouble.remedy


def test_a_copy_that_is_mounted_where_the_set_belongs() -> None:
    """As fstab did it without our rule for udev."""
    world = one_volume(
        signatures=(shows(9, "ext4", FS),), mounts=(w.mounted("/krkn_log", "ext4", 9),)
    )
    plan = decide(LOG, world)
    assert plan.trouble is not None and plan.trouble.kind == "filesystem-clone"
    assert plan.trouble.found.startswith(
        f"{w.volume_id(9)} (/dev/nvme9n1, mounted at /krkn_log) has the same ext4 UUID"
    )
    assert (
        "Unmount the copy and detach it, then: cc-kraken apply." in plan.trouble.remedy
    )


def test_the_systems_own_volume_gets_no_new_uuid() -> None:
    world = one_volume(
        signatures=(shows(9, "ext4", FS, "/dev/nvme9n1p1"),),
        system_volumes=frozenset({w.volume_id(9)}),
    )
    plan = decide(LOG, world)
    assert plan.trouble is not None and plan.trouble.kind == "filesystem-clone"
    assert "tune2fs" not in plan.trouble.remedy


def test_a_copy_with_the_tags_of_another_set_refuses_both() -> None:
    first = LOG
    second = w.claim(w.single(name="old", mount_path="/krkn_old"), w.attached(2))
    known = Look(Known("ext4", FS))
    world = w.world(
        1,
        2,
        looks={1: known, 2: known},
        signatures=(shows(1, "ext4", FS), shows(2, "ext4", FS)),
    )
    plans = decision.decide(w.NODE, (first, second), world)
    kinds = [plan.trouble and plan.trouble.kind for plan in plans]
    assert kinds == ["filesystem-clone", "filesystem-clone"]


# ------------------------------------------------------------------ arrays


def copied_array(*members: int) -> Array:
    return w.array(*members, name="md126", path="/dev/md126", level="raid1")


def test_an_array_is_not_assembled_beside_a_copy() -> None:
    world = array_of_two(
        arrays=(), array_looks={}, signatures=(shows(9, MEMBER, w.ARRAY),)
    )
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    plan = decide(claim, world)
    assert plan.trouble is not None and plan.trouble.kind == "array-clone"
    assert plan.steps == ()


def test_a_set_of_which_a_part_lies_in_an_array_with_a_copy() -> None:
    """What udev puts together of RAID 1: equal event counts, one day between them."""
    world = array_of_two(arrays=(copied_array(1, 9),), array_looks={})
    world = w.world(
        1,
        2,
        9,
        looks={n: world.looks[w.volume_id(n)] for n in (1, 2)},
        arrays=world.arrays,
    )
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    plan = decide(claim, world)
    assert plan.trouble is not None and plan.trouble.kind == "array-stranger"
    assert f"contains nvme9n1 ({w.volume_id(9)}), which does not" in plan.trouble.found
    assert "mdadm --stop" in plan.trouble.remedy


@pytest.mark.parametrize("first", [True, False])
def test_an_array_of_copies_alone_beside_a_set_that_is_up(first: bool) -> None:
    """The set's own array counts, whichever comes first by name."""
    own = w.array(1, 2, level="raid1")
    both = (copied_array(8, 9), own) if first else (own, copied_array(8, 9))
    seen = (*OWN_ARRAY, shows(8, MEMBER, w.ARRAY), shows(9, MEMBER, w.ARRAY))
    world = array_of_two(True, arrays=both, signatures=seen)
    assert world.array(w.ARRAY) == own
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    check(decide(claim, world), "array-clone", True)


# ------------------------------------------------------------------ looking


def test_every_disk_is_asked_its_partitions_and_what_lies_on_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    disks = [
        w.device(1),
        w.device(2, partitions=("nvme2n1p1", "nvme2n1p2")),
        w.device(3),
    ]
    arrays = (w.array(1, 3), w.array(2, state="inactive", path="/dev/md9"))
    found = signatures.places(tree.paths, disks, arrays)
    dev = tree.paths.dev
    assert found == {
        f"{dev}/nvme1n1": (w.volume_id(1),),
        f"{dev}/nvme2n1": (w.volume_id(2),),
        f"{dev}/nvme2n1p1": (w.volume_id(2),),
        f"{dev}/nvme2n1p2": (w.volume_id(2),),
        f"{dev}/nvme3n1": (w.volume_id(3),),
        "/dev/md127": (w.volume_id(1), w.volume_id(3)),
    }


def test_what_cannot_be_asked_shows_nothing(tmp_path: Path) -> None:
    assert not isinstance(signatures.ask(str(tmp_path / "none")).content, Known)
    assert not isinstance(signatures.ask(str(tmp_path)).content, Known)


def test_no_copy_of_nothing() -> None:
    """A UUID that is not known is nobody's."""
    world = w.world(1, signatures=(shows(9, "ext4", ""),))
    assert copies.beside(world, [w.volume_id(1)], ("", "")) == ()
