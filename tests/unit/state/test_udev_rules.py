"""The rule for udev: what it says, of which sets, and what udev makes of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from cc_kraken.decide import decision
from cc_kraken.decide.world import World
from cc_kraken.machine import command
from cc_kraken.machine import md as arrays
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, FstabLine, Known, Look, Signature
from cc_kraken.state import udev_rules
from cc_kraken.state.udev_rules import Entry
from tests.unit import worlds as w
from tests.unit.tree import Tree

FS = "0d1f4e0a-6f5d-4cc4-9a43-4f6d1c1b9d11"
OTHER_FS = "77777777-6f5d-4cc4-9a43-4f6d1c1b9d11"
MD_UUID = "4a739fd5:5f392dd6:1b198f88:5cd3f50b"
ONE = Entry((w.volume_id(1),), FS)
TWO = Entry((w.volume_id(2), w.volume_id(3)), OTHER_FS, w.ARRAY, 2)


def serial(number: int, dash: str = "") -> str:
    return w.volume_id(number).replace("-", dash)


# ------------------------------------------------------------------- its text


def test_the_rule_of_a_set_of_one_and_of_an_array() -> None:
    lines = udev_rules.text({"log": ONE, "data": TWO}).splitlines()
    one = f"{serial(1)}|{serial(1, '-')}"
    two = f"{serial(2)}|{serial(2, '-')}|{serial(3)}|{serial(3, '-')}"
    begin = lines.index('LABEL="cc_kraken_sets"') + 1
    end = lines.index('ENV{CC_KRAKEN}=="own", OPTIONS+="link_priority=110"')
    assert lines[begin:end] == [
        f"# set data {w.volume_id(2)},{w.volume_id(3)} {OTHER_FS} {w.ARRAY} 2",
        f'ENV{{ID_FS_UUID}}=="{OTHER_FS}|{w.ARRAY}", ENV{{CC_KRAKEN}}="copy"',
        f"# set log {w.volume_id(1)} {FS} - 1",
        f'ENV{{ID_FS_UUID}}=="{FS}", ENV{{CC_KRAKEN}}="copy"',
        f'ENV{{ID_FS_UUID}}=="{w.ARRAY}", ATTRS{{serial}}=="{two}", '
        'ENV{CC_KRAKEN}="own"',
        f'ENV{{ID_FS_UUID}}=="{OTHER_FS}", ENV{{MD_UUID}}=="{MD_UUID}", '
        'ENV{CC_KRAKEN}="own"',
        f'ENV{{ID_FS_UUID}}=="{FS}", ATTRS{{serial}}=="{one}", ENV{{CC_KRAKEN}}="own"',
        f'ENV{{MD_UUID}}=="{MD_UUID}", ATTR{{md/rd0/block/device/serial}}!="{two}", '
        'ENV{CC_KRAKEN}="copy"',
        f'ENV{{MD_UUID}}=="{MD_UUID}", ATTR{{md/rd1/block/device/serial}}!="{two}", '
        'ENV{CC_KRAKEN}="copy"',
    ]


def test_it_comes_between_the_rules_that_it_must() -> None:
    others = ["60-persistent-storage.rules", "63-md-raid-arrays.rules"]
    others += [udev_rules.NAME, "64-btrfs.rules", "64-md-raid-assembly.rules"]
    assert others == sorted(others)


def test_no_set_no_file() -> None:
    assert udev_rules.text({}) == ""


HOSTILE = {
    "a serial that ends its value": replace(ONE, volumes=('vol-1", RUN+="/bin/rm',)),
    "a serial that is a pattern": replace(ONE, volumes=("vol-*",)),
    "one of two serials": replace(TWO, volumes=(w.volume_id(2), "vol-00000000?")),
    "a serial in capitals": replace(ONE, volumes=(w.volume_id(0xABC).upper(),)),
    "no volume": replace(ONE, volumes=()),
    "a UUID that is a pattern": replace(ONE, filesystem="*"),
    "a UUID with a line end": replace(ONE, filesystem=FS + "\n"),
    "a UUID that is none": replace(ONE, filesystem="1234-ABCD"),
    "an array UUID as mdadm has it": replace(TWO, array=MD_UUID),
    "no UUID": replace(ONE, filesystem=""),
    "no member": replace(TWO, members=0),
    "more members than md can have": replace(TWO, members=1 << 20),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_id_comes_into_no_rule(case: str) -> None:
    entry = HOSTILE[case]
    assert udev_rules.text({"bad": entry}) == ""
    assert udev_rules.text({"bad": entry, "log": ONE}) == udev_rules.text({"log": ONE})


NAMES = ("log", "a b", 'x"\nRUN+="/bin/rm', "back\\", "\udcff", "ünï", "-", "%41")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_comment(name: str, tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    text = udev_rules.text({name: TWO})
    plain = udev_rules.text({"log": TWO})
    rules = [line for line in text.splitlines() if not line.startswith("#")]
    assert rules == [line for line in plain.splitlines() if not line.startswith("#")]
    path = Path(udev_rules.location(paths))
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert udev_rules.current(paths) == {name: TWO}


def test_comments_that_somebody_has_edited_are_no_sets(tmp_path: Path) -> None:
    paths = Paths(etc=str(tmp_path))
    path = Path(udev_rules.location(paths))
    path.parent.mkdir(parents=True)
    path.write_text("# set\n# set a b\n# set a * - - 1\n# set a vol-1 x y z\n")
    assert udev_rules.current(paths) == {}


# -------------------------------------------------------- what udev makes of it


@dataclass
class Event:
    """A device as a rule sees it, and what the rules have made of it."""

    kernel: str
    env: dict[str, str] = field(default_factory=dict)
    serial: str = ""
    slots: Mapping[int, str] = field(default_factory=dict)
    there: tuple[str, ...] = ()
    action: str = "add"
    priority: int = 0

    @property
    def ready(self) -> bool:
        return self.env.get("SYSTEMD_READY") != "0"


def evaluate(text: str, event: Event) -> Event:
    """The part of udev(7) that the file uses.  That udev itself does the same:
    tests/vm/test_copy.py."""
    rules = [line for line in text.splitlines() if line and line[0] != "#"]
    at = 0
    while at < len(rules):
        keys = re.findall(r'([A-Z]+)(?:\{([^}]+)\})?(==|!=|\+=|=)"([^"]*)"', rules[at])
        assert (
            ", ".join(f'{k}{"{" + a + "}" if a else ""}{o}"{v}"' for k, a, o, v in keys)
            == rules[at]
        )
        matches = [key for key in keys if key[2] in ("==", "!=")]
        at += 1
        if not all(matched(event, *key) for key in matches):
            continue
        for name, attribute, _, value in keys[len(matches) :]:
            if name == "GOTO":
                (at,) = [n for n, r in enumerate(rules) if r == f'LABEL="{value}"']
            elif name == "ENV":
                event.env[attribute] = value
            elif name == "OPTIONS":
                event.priority = int(value.partition("link_priority=")[2])
            else:
                assert name == "LABEL"
    return event


def matched(event: Event, key: str, attribute: str, operator: str, want: str) -> bool:
    if key == "TEST":
        path = want.replace("%k", event.kernel)
        path = path.replace("$env{ID_FS_UUID}", event.env.get("ID_FS_UUID", ""))
        return (path in event.there) == (operator == "==")
    if key in ("ATTR", "ATTRS"):
        slot = re.fullmatch(r"md/rd(\d+)/block/device/serial", attribute)
        found = event.slots.get(int(slot[1])) if slot else event.serial
        if not found:
            return False  # whatever the operator
    else:
        found = {
            "ACTION": event.action,
            "SUBSYSTEM": "block",
            "KERNEL": event.kernel,
            "ENV": event.env.get(attribute, ""),
        }[key]
    like = any(fnmatchcase(found, pattern) for pattern in want.split("|"))
    return like == (operator == "==")


def disk(number: int, kind: str = "ext4", uuid: str = FS, **more: object) -> Event:
    env = {"ID_FS_TYPE": kind, "ID_FS_UUID": uuid}
    event = Event(f"nvme{number}n1", env, serial(number))
    return replace(event, **more)  # type: ignore[arg-type]


def running(*members: int, uuid: str = OTHER_FS, md: str = MD_UUID) -> Event:
    env = {"ID_FS_TYPE": "xfs", "ID_FS_UUID": uuid, "MD_UUID": md}
    slots = {slot: serial(number) for slot, number in enumerate(members)}
    return Event("md127", env, slots=slots)


MEMBER = "linux_raid_member"
EVENTS = {
    # what it is, whether systemd may use it, what becomes of its links
    "the volume": (disk(1), True, 110),
    "the volume, its serial with a dash": (
        disk(1, serial=serial(1, "-")),
        True,
        110,
    ),
    "a copy": (disk(9), False, -100),
    "a copy in a partition": (disk(9, kernel="nvme9n1p1"), False, -100),
    "a copy that is mounted": (disk(9, there=("/sys/fs/ext4/nvme9n1",)), True, -100),
    "a copy that is gone": (disk(9, action="remove"), True, 0),
    "another disk": (disk(9, uuid="88888888" + FS[8:]), True, 0),
    "a disk that is no EBS volume": (disk(9, serial="AWS0123"), True, 0),
    "a member": (disk(2, MEMBER, w.ARRAY), True, 110),
    "a copy of a member": (disk(9, MEMBER, w.ARRAY), False, -100),
    "the array": (running(2, 3), True, 110),
    "the array without a member": (running(2), True, 110),
    "the array with a copy in it": (running(2, 9), False, -100),
    "an array of copies": (running(8, 9), False, -100),
    "an array of copies with its own UUID": (
        running(8, 9, md="00000000:00000000:00000000:00000001"),
        False,
        -100,
    ),
    "another array": (
        running(8, 9, uuid=FS[::-1], md="00000000:00000000:00000000:00000001"),
        True,
        0,
    ),
    "the array's filesystem on a disk": (disk(9, "xfs", OTHER_FS), False, -100),
    "the volume of another set with this UUID": (disk(1, uuid=OTHER_FS), False, -100),
}


@pytest.mark.parametrize("case", EVENTS)
def test_who_is_a_copy(case: str) -> None:
    given, ready, priority = EVENTS[case]
    before = dict(given.env)
    found = evaluate(udev_rules.text({"log": ONE, "data": TWO}), replace(given))
    assert (found.ready, found.priority) == (ready, priority)
    given.env.clear()
    given.env.update(before)


def test_no_rule_takes_a_copied_member_for_a_member() -> None:
    text = udev_rules.text({"data": TWO})
    assert evaluate(text, disk(9, MEMBER, w.ARRAY)).env["ID_FS_TYPE"] == (
        udev_rules.MEMBER_COPY
    )
    assert evaluate(text, disk(2, MEMBER, w.ARRAY)).env["ID_FS_TYPE"] == MEMBER


def test_two_sets_with_one_uuid_keep_both_of_their_volumes() -> None:
    text = udev_rules.text({"log": ONE, "old": replace(ONE, volumes=(w.volume_id(2),))})
    for number in (1, 2):
        assert evaluate(text, disk(number)).ready
    assert not evaluate(text, disk(3)).ready


# ------------------------------------------------------------- in the initramfs

HOOK = Path(__file__).parents[3] / "debian/cloud-init-kraken.initramfs-hook"


def named(event: Event, label: str) -> Event:
    event.env["ID_FS_LABEL"] = label
    return event


EARLY = {
    "a member of a set, or a copy of one": (
        named(disk(2, MEMBER, w.ARRAY), f"any:{arrays.array_name('data')}"),
        False,
    ),
    "a member of another array": (named(disk(2, MEMBER, w.ARRAY), "any:root"), True),
    "a member without a name": (disk(2, MEMBER, w.ARRAY), True),
    "a filesystem": (named(disk(1), "KRKN-log"), True),
    "a disk that is no EBS volume": (
        named(disk(2, MEMBER, w.ARRAY, serial="AWS0123"), "any:KRKN-data"),
        True,
    ),
    "what is gone": (
        named(disk(2, MEMBER, w.ARRAY, action="remove"), "any:KRKN-data"),
        True,
    ),
}


@pytest.mark.parametrize("case", EARLY)
def test_the_initramfs_leaves_the_arrays_of_sets_alone(
    case: str, tmp_path: Path
) -> None:
    given, ready = EARLY[case]
    destination = {"PATH": "/usr/bin:/bin", "DESTDIR": str(tmp_path)}
    subprocess.run(["sh", HOOK], env=destination, check=True)
    (made,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert made == tmp_path / "lib/udev/rules.d" / udev_rules.NAME
    assert evaluate(made.read_text(), given).ready == ready


def test_the_hook_comes_after_that_of_udev() -> None:
    told = subprocess.run(
        ["sh", HOOK, "prereqs"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["udev"]


# ----------------------------------------------------------------- which sets


LINE = FstabLine(f"UUID={FS}", "/krkn_log", "ext4", ("defaults",), set="log")


def single(number: int = 1) -> Claim:
    return w.claim(w.single(), w.attached(number))


def world_of(number: int = 1, **kwargs: object) -> World:
    return w.world(number, looks={number: Look(Known("ext4", FS))}, **kwargs)


def kept(paths: Paths, world: World, *claims: Claim) -> list[str]:
    """What a round does; its warnings."""
    said: list[str] = []
    plans = decision.decide(w.NODE, claims, world)
    udev_rules.keep(paths, claims, plans, world, said.append)
    return said


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_set_is_named_before_it_is_mounted_and_once(tree: Tree) -> None:
    claim = single()
    assert kept(tree.paths, world_of(), claim) == []
    assert udev_rules.current(tree.paths) == {"log": ONE}
    path = Path(udev_rules.location(tree.paths))
    before = path.stat()
    up = world_of(mounts=(w.mounted("/krkn_log", "ext4", 1),))
    kept(tree.paths, up, claim)
    assert (path.stat().st_ino, before.st_mode & 0o777) == (before.st_ino, 0o644)


def test_another_volume_takes_the_place_of_the_first(tree: Tree) -> None:
    kept(tree.paths, world_of(1), single(1))
    kept(tree.paths, world_of(2), single(2))
    assert udev_rules.current(tree.paths)["log"].volumes == (w.volume_id(2),)


def test_a_set_that_is_not_up_keeps_its_entry_with_its_line(tree: Tree) -> None:
    kept(tree.paths, world_of(), single())
    away = w.world(fstab={"log": LINE})
    kept(tree.paths, away, w.claim(w.single(), w.volume(1)))
    assert udev_rules.current(tree.paths) == {"log": ONE}
    kept(tree.paths, w.world(fstab={"log": LINE}))
    assert udev_rules.current(tree.paths) == {"log": ONE}
    kept(tree.paths, w.world())
    assert not Path(udev_rules.location(tree.paths)).exists()


def test_a_set_that_is_refused_gets_no_entry(tree: Tree) -> None:
    copy = Signature((w.volume_id(9),), "/dev/nvme9n1", "ext4", FS)
    kept(tree.paths, world_of(signatures=(copy,)), single())
    assert not Path(udev_rules.location(tree.paths)).exists()


def test_a_uuid_of_the_systems_own_volume_comes_into_no_rule(tree: Tree) -> None:
    """It would hide the disk that the machine boots from."""
    root = Signature((w.volume_id(7),), "/dev/nvme7n1p1", "ext4", FS)
    up = world_of(
        mounts=(w.mounted("/krkn_log", "ext4", 1),),
        signatures=(root,),
        system_volumes=frozenset({w.volume_id(7)}),
    )
    kept(tree.paths, up, single())
    assert not Path(udev_rules.location(tree.paths)).exists()


def test_an_array_with_its_members_and_its_filesystem(tree: Tree) -> None:
    looks = {n: w.member(n - 1, count=2, level=1) for n in (1, 2)}
    world = w.world(
        1,
        2,
        looks=looks,
        arrays=(w.array(1, 2, level="raid1", raid_disks=3),),
        array_looks={w.ARRAY: Look(Known("xfs", FS))},
    )
    claim = w.claim(w.raid(2, 1), w.attached(1), w.attached(2))
    kept(tree.paths, world, claim)
    volumes = (w.volume_id(1), w.volume_id(2))
    assert udev_rules.current(tree.paths) == {"data": Entry(volumes, FS, w.ARRAY, 3)}
    # Mounted, and this once its superblock could not be read.
    seen = replace(
        world,
        array_looks={},
        mounts=(w.mounted("/krkn_data", "xfs", 1, 2),),
        array_lines={w.ARRAY: "data"},
    )
    kept(tree.paths, seen, claim)
    assert udev_rules.current(tree.paths)["data"].filesystem == FS


def test_an_array_that_is_only_assembled(tree: Tree) -> None:
    looks = {n: w.member(n - 1, count=2) for n in (1, 2)}
    world = w.world(1, 2, looks=looks, arrays=(w.array(1, 2),))
    wanted = w.raid(2, 0, fs_type=None, mount_path=None)
    kept(tree.paths, world, w.claim(wanted, w.attached(1), w.attached(2)))
    assert udev_rules.current(tree.paths)["data"].array == w.ARRAY


def test_a_file_that_cannot_be_written_is_a_warning(tree: Tree) -> None:
    tree.write("etc/udev", "a file where a directory belongs")
    (said,) = kept(tree.paths, world_of(), single())
    assert "At the next reboot a copy could be mounted" in said


# ------------------------------------------- a volume that an older rule hides


UDEVADM = """\
#!/bin/sh
echo "$@" >> {base}/called
# The new rule, and the event that was asked for.
grep -q {volume} {rules} && echo E:ID_FS_UUID={uuid} > {data}
"""


def test_a_volume_that_an_older_rule_hides_is_shown_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken the place of another, and has its UUID: systemd must see it
    before it is mounted."""
    kept(tree.paths, world_of(1), single(1))
    below = tree.disk(2, serial(2))
    tree.array("md127", ["nvme2n1"])
    data = tree.write(f"udev/data/b{tree.number('nvme2n1')}", "E:CC_KRAKEN=copy\n")
    paths = tree.paths
    program = tree.write(
        "bin/udevadm",
        UDEVADM.format(
            base=tree.base,
            volume=w.volume_id(2),
            rules=udev_rules.location(paths),
            uuid=FS,
            data=data,
        ),
    )
    program.chmod(0o755)
    monkeypatch.setattr(command, "PATH", f"{program.parent}:/usr/bin:/bin")
    kept(paths, world_of(2), single(2))
    assert (tree.base / "called").read_text() == "control --reload\n"
    assert (below / "uevent").read_text() == "change"
    assert udev_rules.properties(paths, tree.number("nvme2n1")) == {"ID_FS_UUID": FS}


def test_where_nothing_is_hidden_no_program_is_started(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.disk(1, serial(1))
    tree.write(f"udev/data/b{tree.number('nvme1n1')}", "E:CC_KRAKEN=own\n")
    paths = tree.paths
    monkeypatch.setattr(command, "run", None)
    assert kept(paths, world_of(), single()) == []
