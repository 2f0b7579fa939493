"""Arrays with any past: used, finished, or refused with a reason; never split,
and what is refused is not changed by a byte.

Arrays are prepared inside the instance with mdadm; each is a set of its own,
and a batch of sets is brought up by one run.  What begins with a creation that
was cut off is in ``test_crash.py``.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Callable

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

AUTO_OFF = "/etc/mdadm/mdadm.conf.d/off.conf"
PORTS = 23
#: Seconds after which a missing member counts as missing: the whole run of
#: those sets that wait for one, while all others have their time.
WAIT = 5
TIME = 1800


@dataclass
class Case:
    """One set.  ``script``: how its disks ($1 $2 …) got their past, in the
    array named ``$n``.  ``ends``: a state, or the kind of a refusal.
    ``steps``: words with which steps begin that it takes; a set that is refused
    takes no others but attaching.  ``tagged``: how many volumes it says it has;
    ``outside``: what happens in EC2 between the past and the run; ``said``:
    words of a warning."""

    name: str
    script: str
    ends: str
    disks: int = 2
    level: int = 1
    tagged: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    steps: tuple[str, ...] = ()
    outside: Callable[[Batch, Case], None] | None = None
    keeps: bool = True
    volumes: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/c/{self.name}"

    @property
    def waits(self) -> bool:
        """Whether it ends only when the time is over."""
        return self.ends in ("members-missing", "members-surplus")


MADE = 'create $n $l "$@"; fill $n; stop $n'
DEGRADED = {"allow_degraded": True}
LOST = f"{MADE}; mdadm --quiet --assemble --run /dev/md/$n $1; echo; stop $n"
# One member recorded as failed and gone from the array, the data on the rest.
FAILED = (
    'create $n $l "$@"; mdadm --quiet /dev/md/$n --fail ${!#} --remove ${!#}; '
    "fill $n; stop $n; "
)
# The same set twice: an older array of the first two disks, a newer one.
OLDER = (
    "create ${n}o 1 $1 $2; fill ${n}o; stop ${n}o; create $n 1 $3 $4; fill $n; stop $n"
)
# Half by half, each without the other.
ALONE = (
    f"{MADE}; for d in $1 $2; do mdadm --quiet --assemble --run /dev/md/$n $d; "
    "mount /dev/md/$n /mnt/$n; echo $d > /mnt/$n/own; umount /mnt/$n; stop $n; done"
)
# A replacement that never gets far.
REPLACING = (
    "create $n 1 $1 $2; fill $n; d=/sys/block/$(basename $(md $n))/md; "
    "echo 1 > $d/sync_speed_min; echo 1 > $d/sync_speed_max; "
    "mdadm --quiet /dev/md/$n --add $3; "
    "mdadm --quiet /dev/md/$n --replace $1 --with $3; sleep 1; stop $n; "
    'mdadm --examine $3 | grep "Replacement device 0"'
)
# Byte for byte the second member, and in its place; mounted as fstab does it.
STRANGER = (
    "create $n 0 $1 $2; fill $n; stop $n; "
    "dd if=$2 of=$3 bs=1M conv=fsync status=none; udevadm settle; "
    "mdadm --quiet --assemble /dev/md/$n $1 $3; "
    "mkdir -p /c/$n; mount -o ro $(md $n) /c/$n"
)
# Made once more, under the UUID that it had.
REMADE = (
    "made() { mdadm --quiet --create /dev/md/$n --uuid=$u --metadata=1.2 --level=1 "
    "--homehost=any --raid-devices=2 --bitmap=none --assume-clean $@ </dev/null; }; "
    "u=$(cat /proc/sys/kernel/random/uuid); made $1 $2; fill $n; stop $n; sleep 2; "
    "mdadm --zero-superblock $1; made $1 $3; stop $n"
)


def take_away(batch: Batch, case: Case) -> None:
    """The last volume is gone from EC2."""
    gone = case.volumes.pop()
    batch.release([gone])
    batch.cloud.ec2.delete_volume(gone)


def becomes_a_copy(batch: Batch, case: Case) -> None:
    """The last volume is replaced by one from its snapshot."""
    batch.release([case.volumes[-1]])
    made = batch.cloud.copy(case.volumes[-1])
    batch.cloud.ec2.delete_volume(case.volumes[-1])
    case.volumes[-1] = made


def last_is_not_tagged(batch: Batch, case: Case) -> None:
    """The last volume stays attached, and is no longer one of the set."""
    batch.cloud.ec2.tag(case.volumes.pop(), {"KRKN-IN:NodeId": "nobody"})


def has_copies(batch: Batch, case: Case) -> None:
    """Copies from snapshots of all volumes, with their tags, beside them."""
    for volume in tuple(case.volumes):
        batch.cloud.copy(volume)


def pinned_beside_copies(batch: Batch, case: Case) -> None:
    has_copies(batch, case)
    case.settings["volume_ids"] = list(case.volumes)


def pinned_to_the_newer(_batch: Batch, case: Case) -> None:
    case.settings["volume_ids"] = case.volumes[2:]


def all_are_copies(batch: Batch, case: Case) -> None:
    batch.release(case.volumes)
    made = [batch.cloud.copy(volume) for volume in case.volumes]
    for volume in case.volumes:
        batch.cloud.ec2.delete_volume(volume)
    case.volumes[:] = made


CASES = (
    # ---- used as they are
    *(
        Case(f"used{level}", MADE, "mounted", disks, level, steps=("assemble",))
        for level, disks in ((0, 2), (1, 2), (5, 3), (6, 4), (10, 4))
    ),
    Case("elsewhere", f"{MADE}; mdadm --quiet --assemble /dev/md/other $1 $2",
         "mounted"),
    Case("retagged", MADE, "mounted", level=1, settings={"raid_level": 0},
         said="RAID 1: it is used as it is"),
    Case("copies", MADE, "mounted", outside=all_are_copies),
    Case("pinned", MADE, "mounted", outside=pinned_beside_copies),
    # ---- degraded only where it is said, or recorded already
    *(
        Case(f"lost{level}", MADE, "mounted", disks, level, settings=DEGRADED,
             said="allow_degraded", outside=take_away, steps=("degraded",))
        for level, disks in ((1, 2), (5, 3), (6, 4), (10, 4))
    ),
    Case("replaced", FAILED + "mdadm --quiet --zero-superblock $3; "
         "blkdiscard $3",
         "mounted", 3, 5, said="degraded until md has copied",
         steps=("add the blank",)),
    *(
        Case(f"failed{level}", FAILED, "mounted", disks, level, tagged=disks - 1,
             said=f"lost 1 of {disks}", outside=take_away, steps=("assemble",))
        for level, disks in ((1, 3), (10, 4))
    ),
    *(  # with tags that allow no set of that level, only at the operator's word
        Case(f"failed{level}", FAILED, "mounted", disks, level, settings=DEGRADED,
             said=f"lost 1 of {disks}", outside=take_away, steps=("assemble",))
        for level, disks in ((5, 3), (6, 4))
    ),
    Case("replacing", REPLACING, "mounted", 3, steps=("assemble",),
         said="has 2 members: it is used as it is"),
    # Two arrays that were this set, one after the other.
    Case("history", OLDER, "mounted", 4, tagged=2, outside=pinned_to_the_newer),
    # ---- refused
    *(
        Case(f"missing{level}", MADE, "members-missing", disks, level,
             outside=take_away)
        for level, disks in ((0, 2), (1, 2), (5, 3), (6, 4), (10, 4))
    ),
    Case("missing0d", MADE, "array-members-missing", 2, 0, settings=DEGRADED,
         outside=take_away),
    *(
        Case(f"mixed{level}", MADE, "snapshot-mixed", disks, level,
             outside=becomes_a_copy)
        for level, disks in ((0, 2), (1, 2), (5, 3), (6, 4), (10, 4))
    ),
    Case("surplus", MADE, "members-surplus", outside=has_copies),
    Case("histories", OLDER, "members-surplus", 4, tagged=2),
    Case("stale", f"{MADE}; mdadm --quiet --assemble --run /dev/md/$n $1; "
         "mount /dev/md/$n /mnt/$n; echo more > /mnt/$n/more; umount /mnt/$n; stop $n",
         "array-stale"),
    Case("foreign", "create $n 1 $1 $2; fill $n; stop $n; create ${n}b 1 $3 $4; "
         "stop ${n}b", "array-foreign-member", 4, 1),
    Case("alone", ALONE, "array-diverged"),
    Case("stranger", STRANGER, "array-stranger", 3, 0, tagged=2,
         outside=last_is_not_tagged),
    Case("remade", REMADE, "array-foreign-member", 3, tagged=2,
         outside=last_is_not_tagged),
    Case("zeroed", f"{MADE}; mdadm --zero-superblock $2", "array-members-missing"),
    Case("emptied", f"{MADE}; blkdiscard $2", "array-members-missing"),
    Case("partial", "create $n 1 $1 $2; stop $n; mdadm --zero-superblock $2",
         "array-members-missing"),
    Case("partial0", "create $n 0 $1 $2; stop $n; mdadm --zero-superblock $2",
         "array-members-missing", level=0),
    Case("recount", MADE, "members-missing", 2, 1, tagged=3),
    Case("old10", f"META=1.0; {MADE}", "array-metadata"),
    Case("old090", f"META=0.90; {MADE}", "content-other"),
    # what is in an array is seen when it runs, which changes nothing on it
    Case("otherfs", 'create $n 1 "$@"; mkfs.xfs -q /dev/md/$n; stop $n',
         "content-other", steps=("assemble", "name array")),
    Case("junk", 'create $n 1 "$@"; dd if=/dev/urandom of=/dev/md/$n bs=4k count=1 '
         "seek=2048 conv=fsync status=none; stop $n", "content-unknown",
         steps=("assemble", "name array")),
    # ---- made
    Case("fresh", ":", "mounted", keeps=False, steps=("create",)),
    Case("bare", 'create $n 1 "$@"; stop $n', "mounted", keeps=False,
         steps=("assemble", "make ext4")),
)  # fmt: skip


class Batch:
    """Sets of one node that are brought up by one run."""

    def __init__(
        self, cloud: Cloud, node: Node, number: int, cases: list[Case]
    ) -> None:
        self.cloud, self.node, self.number = cloud, node, number
        self.cases = cases
        self.letters = iter("abcdefghijklmnopqrstuvwxyz")

    @property
    def ports(self) -> int:
        return sum(case.disks for case in self.cases)

    def prepare(self) -> None:
        for case in self.cases:
            tags = nodes.set_tags(
                self.number,
                case.name,
                case.tagged or case.disks,
                raid_level=case.level,
                fs_type="ext4",
                mount_path=case.path,
            )
            case.volumes = self.cloud.volumes(case.disks, 1, tags)
            for volume in case.volumes:
                self.node.attach(volume, f"/dev/xvdb{next(self.letters)}")
        self.node.wait_for_disks(*self.volumes(self.cases), timeout=TIME)
        names = self.node.serials()
        script = [nodes.SHELL]
        for case in self.cases:
            disks = " ".join(f"/dev/{names[v.replace('-', '')]}" for v in case.volumes)
            script.append(
                f"( n={case.name} l={case.level}; set -- {disks}; {case.script} )"
            )
        self.node.write_file("/root/past.sh", "\n".join(script))
        self.node.run(["bash", "/root/past.sh"], timeout=TIME, check=True)
        for case in self.cases:
            if case.outside is not None:
                case.outside(self, case)

    def release(self, volumes: list[str]) -> None:
        for volume in volumes:
            self.node.detach(volume)
        self.node.wait_released(*volumes)

    def play(self) -> list[str]:
        """A dry run, which changes nothing, then bring all up; what is not as
        it should be, one sentence each."""
        self.node.run("sync", check=True)
        before = nodes.checksums(self.cloud, self.volumes(self.cases))
        section = {
            "enabled": True,
            "prefix": nodes.PREFIX,
            "node_id": self.number,
            "boot_wait": WAIT,
            "volumes": {case.name: case.settings for case in self.cases},
        }
        told = self.node.kraken(section, "plan", "--json", timeout=TIME)
        planned = json.loads(told.out)["sets"]
        wrong = self._changed(before, self.cases, "by the dry run")
        wait = WAIT if self.cases[0].waits else TIME
        done = self.node.kraken(
            section, "apply", "--wait", str(wait), timeout=TIME + 100
        )
        assert not nodes.traceback_in(done.err), done.err
        now = nodes.status(self.node)
        assert now["sets"], f"there was no run: {done.out}{done.err}"
        for case in self.cases:
            wrong += self._judge(case, now)
            plan, made = planned[case.name], now["sets"][case.name]
            if plan["plan"] != made["done"][: len(plan["plan"])]:
                wrong.append(f"{case.name}: {plan['plan']} planned, {made['done']}")
        refused = [case for case in self.cases if case.ends != "mounted"]
        return wrong + self._changed(before, refused, "although it was refused")

    def volumes(self, cases: list[Case]) -> list[str]:
        return [volume for case in cases for volume in case.volumes]

    def _changed(
        self, before: dict[str, str], cases: list[Case], how: str
    ) -> list[str]:
        after = nodes.checksums(self.cloud, self.volumes(cases))
        return [
            f"{case.name}: {volume} is changed {how}"
            for case in cases
            for volume in case.volumes
            if before[volume] != after[volume]
        ]

    def _judge(self, case: Case, now: dict[str, Any]) -> list[str]:
        entry = now["sets"][case.name]
        error = entry["error"] or {}
        ended = error.get("kind") or entry["state"]
        warnings = " ".join(entry["warnings"])
        steps = " ".join(entry["done"])
        nodes.log(
            f"  {case.name:10} RAID {case.level:<2} {ended:22} "
            f"{error.get('message', '') or steps}"[:150]
        )
        out = []
        if ended != case.ends:
            out.append(f"ends {ended} instead of {case.ends}: {error or entry}")
        if case.said not in warnings:
            out.append(f"does not say {case.said!r}: {warnings!r}")
        out += [f"has not done {one!r}" for one in case.steps if one not in steps]
        if case.ends != "mounted":
            allowed = ("attach", *case.steps)
            out += [one for one in entry["done"] if not one.startswith(allowed)]
        if case.ends == "mounted" and ended == "mounted" and case.keeps:
            if self.node.run(f"cat {case.path}/file").out != "precious\n":
                out.append("its file is gone")
            made = [one for one in entry["done"] if one.split()[0] in ("create", "make")
                    and "directory" not in one]  # fmt: skip
            out += [f"has done: {one}" for one in made]
        return [f"{case.name}: {one}" for one in out]


def batches() -> list[list[Case]]:
    """All cases, in as many batches as the ports of the machine make them."""
    out: list[list[Case]] = []
    for case in sorted(CASES, key=lambda case: case.waits):
        ports = sum(one.disks for one in out[-1]) if out else PORTS
        if ports + case.disks > PORTS or out[-1][0].waits != case.waits:
            out.append([])
        out[-1].append(case)
    return out


BATCHES = batches()


@pytest.mark.parametrize("number", range(len(BATCHES)))
def test_every_past(number: int) -> None:
    """``pytest -s`` prints the table: the set, its level, how it ends and why."""
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        node = cloud.launch(krkn(prefix=nodes.PREFIX, node_id=1))
        node.wait_ready()
        node.write_file(AUTO_OFF, "AUTO -all\n")
        batch = Batch(cloud, node, 100 + number, BATCHES[number])
        nodes.log(f"{len(batch.cases)} of {len(CASES)} pasts, {batch.ports} volumes")
        batch.prepare()
        wrong = batch.play()
        assert not wrong, "\n".join(wrong)


LATE_TAGS = krkn(prefix=nodes.PREFIX, node_id=2)


def degraded(node: Node) -> str:
    """What md runs with fewer members than it has."""
    return node.run(
        'for d in /sys/block/md*/md; do [ "$(cat $d/array_state)" = inactive ] '
        '|| [ "$(cat $d/degraded)" = 0 ] || echo $d; done'
    ).out.strip()


def test_members_that_come_late_are_waited_for() -> None:
    """udev's timer starts what is there after 30 s; not where it is a set of
    this node: on a replaced instance, and at a reboot."""
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        names = {"one": (2, 1), "five": (3, 5)}
        sets = {
            name: cloud.volumes(
                size,
                1,
                nodes.set_tags(
                    2, name, size, raid_level=level, fs_type="ext4",
                    mount_path=f"/c/{name}",
                ),
            )
            for name, (size, level) in names.items()
        }  # fmt: skip
        node = cloud.launch(LATE_TAGS, cloud.config({"boot_wait": 60}))
        node.wait_ready()
        for name in names:
            nodes.write_file(node, f"/c/{name}/file", name)
        last = [volumes[-1] for volumes in sets.values()]
        while re.search("recovery|resync", node.read_file("/proc/mdstat")):
            time.sleep(2)

        # A reboot with one half of the mirror alone; later two members of the
        # RAID 5, which udev puts together; the last of each are not there yet.
        node.stop()
        away = [*sets["five"], *last[:1]]
        for volume in away:
            cloud.ec2.detach_volume(volume)
        node.wait_released(*away)
        for volume in last:
            cloud.ec2.tag(volume, {"KRKN-IN:NodeId": "not yet"})
        node.start()
        node.wait_reachable()
        assert not set(node.serials()) & {one.replace("-", "") for one in away}
        for letter, volume in zip("ab", sets["five"]):
            node.attach(volume, f"/dev/xvdc{letter}")
        while "last-resort" not in node.journal("-b", "-t", "systemd"):
            if _up(node) > 900:
                told = node.run("cat /proc/mdstat; journalctl -b | grep -i md[0-9a/]")
                raise AssertionError(f"the timer has not begun at all: {told.out}")
            time.sleep(2)
        begun = _up(node)
        while _up(node) < begun + 45:
            time.sleep(2)
        assert degraded(node) == ""
        for volume in last:
            cloud.ec2.tag(volume, {"KRKN-IN:NodeId": "2"})
        node.wait_ready()
        deadline = time.monotonic() + 1200
        while set(nodes.states(nodes.status(node)).values()) != {"mounted"}:
            assert time.monotonic() < deadline, nodes.status(node)
            time.sleep(2)
        assert degraded(node) == ""
        for name in names:
            assert node.read_file(f"/c/{name}/file") == name


def _up(node: Node) -> float:
    return float(node.run("cat /proc/uptime", check=True).out.split()[0])
