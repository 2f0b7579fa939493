"""Wall time on a virtual machine: the module and the floor, by turns, and a
peer where one is given.

One instance for all of it.  Between two runs everything is taken back: what is
mounted, arrays, attachments, files; the volumes of a first boot are new ones.

An emulated machine computes many times slower than a real one, and EC2's latency
would hardly count beside that.  *Dilated*, the latency is as many times longer:
then the ratio of module and floor is that of a machine with a processor like
this one's, where nothing but the clock is slow.

Volumes are read past the host's page cache: to fill it would be work of the very
processors that the machine has, and what EBS does is not the instance's work.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import peer as peers
from tests.bench.peer import Peer
from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import Progress

HERE = Path(__file__).parent
PREFIX, NODE_ID = "kafka", "0"
ATTACH_SECONDS = 2.0
TIME_LIMIT = 900


@dataclass(frozen=True)
class Set:
    """A set of one kind: its name, volumes, level and filesystem."""

    name: str
    members: int = 1
    level: int = 0
    type: str = "ext4"

    @property
    def path(self) -> str:
        return f"/krkn_{self.name}"


def singles(number: int) -> tuple[Set, ...]:
    return tuple(Set(f"s{index:02d}") for index in range(number))


CASES: dict[str, tuple[Set, ...]] = {
    "1+3": (Set("log"), Set("data", 3, 0, "xfs")),
    "1": singles(1),
    "8": singles(8),
    "24": singles(24),
}


@dataclass
class Taken:
    """One run: seconds, CPU seconds of its processes, seconds from the first
    AttachVolume to the last as EC2 saw them; ``more``: what else it told."""

    case: str
    kind: str
    who: str
    seconds: float
    cpu: float
    attaching: float
    more: dict[str, Any] = field(default_factory=dict)


def late(do: Any, seconds: float = ATTACH_SECONDS) -> Any:
    """What EC2 does to a machine, ``seconds`` later."""

    def hook(*given: Any) -> None:
        time.sleep(seconds)
        do(*given)

    return hook


#: What interpreters do all day; prints the seconds that it took at best.
WORK = """
import json, re, time
def work():
    begun = time.perf_counter()
    for number in range(300):
        text = json.dumps({str(n): [n, str(n)] for n in range(200)})
        json.loads(text)
        re.findall(r"[0-9]+", text)
        with open("/proc/self/status", "rb") as file:
            sorted(file.read().split())
    return time.perf_counter() - begun
print(min(work() for _ in range(3)))
"""
#: Debian's own, of the same version inside and outside.
PYTHON = "/usr/bin/python3"


def slowness(node: Node) -> float:
    """How many times longer the machine computes than the one it runs on."""
    here = subprocess.run([PYTHON, "-IS", "-c", WORK], capture_output=True, check=True)
    there = node.run([PYTHON, "-IS", "-c", WORK], TIME_LIMIT, True)
    return float(there.out) / float(here.stdout)


class Bench:
    """An instance that is brought up again and again."""

    def __init__(
        self,
        cloud: Cloud,
        log: Progress,
        timeline: bool = False,
        dilated: bool = False,
        peer: Peer | None = None,
    ) -> None:
        self.cloud = cloud
        self.log = log
        self.peer = peer
        self.timeline = "/run/timeline" if timeline else ""
        self.slowness = 1.0
        # Without cloud-init's own stages: what is measured is the module.
        self.node: Node = cloud.launch(
            (peers.tags if peer else krkn)(prefix=PREFIX, node_id=NODE_ID),
            kernel_options=["cloud-init=disabled"],
            metadata_tokens=peer is None,
        )
        self.node.wait_reachable(TIME_LIMIT)
        self.node.run(
            "systemctl stop networking; cd /sys/class/net; for i in e*; do "
            "ip link set $i up; ip address add 169.254.0.15/16 dev $i; done; "
            "systemctl is-system-running --wait",
            TIME_LIMIT,
        )
        self.node.write_file("/root/floor.sh", (HERE / "floor.sh").read_text())
        self.node.write_file("/root/inside.py", (HERE / "inside.py").read_text())
        # The unit would look at all of it once more, beside the next run.
        self.node.write_file(
            "/run/systemd/system/cc-kraken.service.d/bench.conf",
            "[Service]\nExecStart=\nExecStart=/bin/true\n",
        )
        self.node.run(["systemctl", "daemon-reload"], check=True)
        if peer:
            peer.settle(cloud, self.node)
        if dilated:
            self.slowness = slowness(self.node)
        # The disk, too, takes that long to show itself.
        seconds = ATTACH_SECONDS * self.slowness
        cloud.ec2.attach_seconds = seconds
        cloud.ec2.on_attach = late(cloud.ec2.on_attach, seconds)
        log(f"attachment takes {seconds:.1f} s")

    # ---- volumes

    def make(self, sets: Sequence[Set], who: str = "module") -> dict[str, list[str]]:
        """New, blank volumes, by set."""
        made = {}
        for one in sets:
            tags = (peers.tags if who == "peer" else krkn)(
                prefix=PREFIX,
                node_id=NODE_ID,
                volume_name=one.name,
                volume_size=one.members,
                raid_level=one.level,
                fs_type=one.type,
                mount_path=one.path,
            )
            made[one.name] = sorted(self.cloud.volumes(one.members, 1, tags))
        return made

    def clean(self, sets: Sequence[Set], volumes: dict[str, list[str]]) -> None:
        """The instance without these volumes, as if it had never had them."""
        every = [volume for some in volumes.values() for volume in some]
        peers.wait_attached(self.cloud, every)
        if self.peer:
            self.peer.clean(self.node)
        paths = " ".join(one.path for one in sets)
        self.node.run(
            f"for p in {paths}; do umount $p; rmdir $p; done; "
            "for m in /dev/md?*; do [ -b $m ] && mdadm --stop $m; done; "
            "sed -i /X-kraken/d /etc/fstab; "
            "rm -rf /etc/mdadm/mdadm.conf.d /var/lib/cc-kraken /run/cc-kraken; "
            "systemctl stop cc-kraken.service; systemctl daemon-reload; "
            "udevadm settle; sync",
            TIME_LIMIT,
        )
        for volume in every:
            if self.cloud.ec2.volume(volume).attachments:
                self.node.detach(volume)
        self.node.wait_released(*every, timeout=TIME_LIMIT)

    def drop(self, volumes: dict[str, list[str]]) -> None:
        for some in volumes.values():
            for volume in some:
                self.cloud.ec2.delete_volume(volume)
                self.cloud.backing(volume).unlink()

    # ---- runs

    def floor(
        self, how: str, sets: Sequence[Set], volumes: dict[str, list[str]]
    ) -> tuple[float, float, dict[str, Any]]:
        names = iter(f"xvdb{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
        words = [
            f"{one.name}:{one.level}:{one.type}:{one.path}:"
            + ",".join(f"{next(names)}={volume}" for volume in volumes[one.name])
            for one in sets
        ]
        done = self.node.run(
            ["bash", "/root/floor.sh", how, self.node.id, *words], TIME_LIMIT, True
        )
        seconds, cpu = done.out.split()[-2:]
        return float(seconds), float(cpu), {}

    def module(self) -> tuple[float, float, dict[str, Any]]:
        ec2 = self.cloud.ec2
        placement = {"availability-zone": ec2.zones[0]}
        tags = {"instance": krkn(prefix=PREFIX, node_id=NODE_ID)}
        facts = {
            "cfg": {
                "kraken": self.cloud.section({"boot_wait": TIME_LIMIT}),
                "cloud_final_modules": [["kraken", "always"]],
            },
            "source": {
                "cloud_name": "aws",
                "metadata": {
                    "instance-id": self.node.id,
                    "placement": placement,
                    "tags": tags,
                },
                "identity": {},
                "region": ec2.region,
            },
            "timeline": self.timeline,
        }
        self.node.write_file("/root/facts.json", json.dumps(facts))
        done = self.node.run(
            ["python3", "/root/inside.py", "/root/facts.json"], TIME_LIMIT, True
        )
        told = json.loads(done.out.splitlines()[-1])
        if self.timeline:
            self.log(self.node.read_file(self.timeline).rstrip())
        status = json.loads(self.node.read_file("/run/cc-kraken/status.json"))
        told["phases"] = {phase["name"]: phase["seconds"] for phase in status["phases"]}
        told["processes"] = status["processes"]
        cpu = told.pop("own_cpu"), told.pop("children_cpu")
        told["cpu_children"] = cpu[1]
        return told.pop("seconds"), sum(cpu), told

    def take(
        self, case: str, kind: str, who: str, volumes: dict[str, list[str]]
    ) -> Taken:
        sets = CASES[case]
        mark = self.cloud.ec2.calls.mark()
        if who == "floor":
            how = "make" if kind == "first boot" else "take"
            seconds, cpu, more = self.floor(how, sets, volumes)
        elif who == "peer":
            return self.foreign(case, kind, volumes)
        else:
            seconds, cpu, more = self.module()
        mounted = self.node.run(["findmnt", "-rno", "TARGET"], check=True).out.split()
        absent = {one.path for one in sets} - set(mounted)
        if absent:
            log = self.node.run("cat /run/floor.log /run/cc-kraken/status.json").out
            raise RuntimeError(f"{who}: {absent} not mounted: {more} {log}")
        taken = Taken(case, kind, who, seconds, cpu, self.attaching(mark), more)
        self.log(f"{case} {kind}, {who}: {seconds:.2f} s, CPU {cpu:.2f} s {more or ''}")
        return taken

    def foreign(self, case: str, kind: str, volumes: dict[str, list[str]]) -> Taken:
        """A run of the peer; that it fails is a result like another."""
        assert self.peer is not None
        mark = self.cloud.ec2.calls.mark()
        more = self.peer.run(self.node)
        seconds, cpu = more.pop("seconds"), more.pop("cpu")
        more["calls"] = dict(self.node.calls(mark))
        more["refused"] = [
            f"{call.action}: {call.code}"
            for call in self.cloud.ec2.calls.since(mark)
            if call.code
        ]
        every = [volume for some in volumes.values() for volume in some]
        peers.wait_attached(self.cloud, every)
        more["sets"] = {
            one.path: self.peer.judged(
                self.node, kind, one.path, one.type, volumes[one.name]
            )
            for one in CASES[case]
        }
        taken = Taken(case, kind, "peer", seconds, cpu, self.attaching(mark), more)
        shown = {name: more[name] for name in ("ended", "said", "sets", "calls")}
        self.log(f"{case} {kind}, peer: {seconds:.2f} s, CPU {cpu:.2f} s {shown}")
        return taken

    def attaching(self, mark: int) -> float:
        """Seconds from the first AttachVolume to the last."""
        moments = [
            call.time
            for call in self.cloud.ec2.calls.since(mark)
            if call.action == "AttachVolume"
        ]
        return max(moments) - min(moments) if moments else 0.0


def measure(
    cases: Sequence[str],
    runs: int,
    log: Progress,
    timeline: bool = False,
    dilated: bool = False,
    peer: Peer | None = None,
) -> tuple[list[Taken], float]:
    """Every case, ``runs`` times; floor, module and ``peer`` by turns, each on
    volumes of its own that are then given to the next instance.  ``timeline``:
    what the module logs is logged, too.  Also: how many times EC2's latency was
    taken."""
    found: list[Taken] = []
    real = peer is not None
    with Cloud(log=log, detach_seconds=0.1, direct=True, real_name=real) as cloud:
        bench = Bench(cloud, log, timeline, dilated, peer)
        for case in cases:
            for _ in range(runs):
                for who in ("floor", "module", *(["peer"] if peer else [])):
                    volumes = bench.make(CASES[case], who)
                    for kind in ("first boot", "replaced"):
                        found.append(bench.take(case, kind, who, volumes))
                        begun = time.monotonic()
                        bench.clean(CASES[case], volumes)
                        log(f"taken back in {time.monotonic() - begun:.0f} s")
                    bench.drop(volumes)
    return found, bench.slowness
