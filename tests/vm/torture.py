"""Power cuts at random moments of a first boot: ``make torture``.

QEMU is killed, then the instance gets its power back or is replaced, and the
next boot has to end with every set mounted, or refused with a reason; no
filesystem is damaged.  ``python3 -m tests.vm.torture [COUNT] [SEED]``.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

# Name: members, level, filesystem.
SETS = {
    "log": (1, 0, "ext4"),
    "data": (2, 0, "xfs"),
    "mirror": (2, 1, "ext4"),
    "meta": (1, 0, "btrfs"),
    "big": (3, 5, "xfs"),
}
CHECKS = {
    "ext4": "e2fsck -fn",
    "xfs": "xfs_repair -n",
    "btrfs": "btrfs check --readonly",
}
#: Seconds from the first AttachVolume to the end, until one boot has told.
WINDOW = 30.0
#: Part of the cuts that come before the first AttachVolume.
EARLY = 0.1


@dataclass
class Tally:
    """What came of the cuts."""

    seed: int
    cuts: int = 0
    replaced: int = 0
    mounted: int = 0
    refused: list[str] = field(default_factory=list)
    redone: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.cuts} power cuts ({self.replaced} continued on "
            f"a replaced instance), {self.mounted} sets mounted, "
            f"{len(self.refused)} refused, {len(self.wrong)} wrong; in {self.redone} "
            "something half made was taken up again"
        )


class Torture:
    def __init__(self, cloud: Cloud, seed: int) -> None:
        self.cloud = cloud
        self.random = random.Random(seed)
        self.tally = Tally(seed)
        self.window = WINDOW

    def round(self, number: int) -> None:
        cloud = self.cloud
        tags = krkn(prefix=nodes.PREFIX, node_id=number, volumes=",".join(SETS))
        volumes: list[str] = []
        for name, (size, level, kind) in SETS.items():
            own = nodes.set_tags(
                number, name, size, raid_level=level, fs_type=kind,
                mount_path=f"/t/{name}",
            )  # fmt: skip
            volumes += cloud.volumes(size, 1, own)
        mark = cloud.ec2.calls.mark()
        early = self.random.random() < EARLY
        share, replaced = self.random.random(), self.random.random() < 0.5
        user_data = cloud.config({"boot_wait": 120})
        node = cloud.launch(tags, user_data)
        moment = self._cut(node, mark, early, share)
        self.tally.cuts += 1
        if replaced:
            self.tally.replaced += 1
            node.terminate()
            node = cloud.launch(tags, user_data)
        else:
            node.power_on()
        node.wait_ready()
        how = "replaced" if replaced else "same instance"
        nodes.log(f"{number}: cut {moment}, {how}")
        self._judge(number, node)
        node.terminate()
        node.wait_released(*volumes)
        for volume in volumes:
            cloud.ec2.delete_volume(volume)
            cloud.backing(volume).unlink()

    def _cut(self, node: Node, mark: int, early: bool, share: float) -> str:
        """Kill it; when that was, in words."""
        if early:
            node.wait_reachable()
            time.sleep(share * 10)
            node.cut()
            return "before the first AttachVolume, or about then"
        deadline = time.monotonic() + 400
        while not self.cloud.ec2.calls.count("AttachVolume", mark, node.id):
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing was attached: {node.console[-2000:]}")
            time.sleep(0.05)
        seconds = share * self.window
        time.sleep(seconds)
        node.cut()
        return f"{seconds:.2f} s after the first AttachVolume"

    def _judge(self, number: int, node: Node) -> None:
        now = nodes.status(node)
        for name, (_, _, kind) in SETS.items():
            entry = now["sets"].get(name)
            if entry is None:
                self.tally.wrong.append(f"{number} {name}: not in the status: {now}")
                continue
            self._judge_set(f"{number} {name}", node, entry, kind, now)

    def _judge_set(
        self, name: str, node: Node, entry: dict[str, Any], kind: str, now: Any
    ) -> None:
        error = entry["error"]
        if entry["state"] != "mounted":
            told = f"{name}: {error}"
            if error and error["kind"] != "internal-error" and error["remedy"]:
                self.tally.refused.append(told)
            else:
                self.tally.wrong.append(f"{told} {entry['state']} {entry['reason']}")
            nodes.log(f"  REFUSED {told}")
            return
        runs = nodes.runs(now).values()
        done = [step for run in runs for step in run["done"].get(name.split()[1], [])]
        words = ("zero the", "stop the", "erase the", "make ")
        fresh = any(step.startswith("write the intent") for step in done)
        self.tally.redone += not fresh and any(step.startswith(words) for step in done)
        device = node.run(f"findmnt -n -o SOURCE {entry['mount_path']}").out.strip()
        look = node.run(
            f"umount {entry['mount_path']} && {CHECKS[kind]} {device}", timeout=300
        )
        if look.code != 0:
            self.tally.wrong.append(f"{name}: {kind} is damaged: {look.out}{look.err}")
        self.tally.mounted += 1
        nodes.log(f"  {name}: {'; '.join(done)}"[:150])

    def measure(self) -> None:
        """One boot that nobody cuts: how long the window is."""
        tags = krkn(prefix=nodes.PREFIX, node_id=0)
        own = nodes.set_tags(0, "data", 3, raid_level=5, fs_type="xfs", mount_path="/t")
        volumes = self.cloud.volumes(3, 1, own)
        mark = self.cloud.ec2.calls.mark()
        node = self.cloud.launch(tags, self.cloud.config({"boot_wait": 120}))
        while not self.cloud.ec2.calls.count("AttachVolume", mark, node.id):
            time.sleep(0.05)
        begun = time.monotonic()
        while node.run("findmnt /t").code != 0:
            if time.monotonic() - begun > 300:
                raise RuntimeError("the boot that was to be measured does not end")
        self.window = max(1.3 * (time.monotonic() - begun), 5.0)
        nodes.log(f"cuts come within {self.window:.0f} s of the first AttachVolume")
        node.terminate()
        node.wait_released(*volumes)


def torture(count: int, seed: int, *, measure: bool = True) -> Tally:
    """``count`` power cuts; what came of them."""
    nodes.log(f"{count} power cuts, seed {seed}")
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        one = Torture(cloud, seed)
        try:
            if measure:
                one.measure()
            for number in range(1, count + 1):
                one.round(number)
        finally:
            nodes.log(str(one.tally))
    for told in (*one.tally.refused, *one.tally.wrong):
        nodes.log(told)
    return one.tally


def main(words: list[str]) -> int:
    if nodes.OBSTACLE:
        print(nodes.OBSTACLE, file=sys.stderr)
        return 2
    count = int(words[0]) if words else 100
    seed = int(words[1]) if len(words) > 1 else random.randrange(1 << 32)
    return 1 if torture(count, seed).wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
