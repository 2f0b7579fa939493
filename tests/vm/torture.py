"""Power cuts at random moments of a first boot: ``make torture``.

QEMU is killed, then the instance gets its power back or is replaced, and may
be cut off again; the boot after the last cut has to end with every set mounted,
or refused with a reason.  No filesystem is damaged, and a file that was there
is there.  Several nodes at a time, each in a cloud of its own.

    python3 -m tests.vm.torture [COUNT] [--seed SEED] [--jobs JOBS]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cc_kraken.state.report import RUNNING
from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import LabError
from tests.vm import nodes

# Name: members, level, filesystem.
SETS = {
    "log": (1, 0, "ext4"),
    "data": (2, 0, "xfs"),
    "mirror": (2, 1, "ext4"),
    "meta": (1, 0, "btrfs"),
    "big": (3, 5, "xfs"),
}
#: Of these in each round, and OLD besides, which has a file.
DRAWN = 3
OLD = "old"
CHECKS = {
    "ext4": "e2fsck -fn",
    "xfs": "xfs_repair -n",
    "btrfs": "btrfs check --readonly",
}
#: Cuts of one node, one after another, and how often.
CUTS = {1: 3, 2: 3, 3: 3, 4: 1}
#: From when on cuts come: how often, and in how many seconds, to begin with.
BOOT, CALL, WRITE = "the machine answers", "the first call", "the first write"
FROM = {BOOT: 1, CALL: 3, WRITE: 6}
SPAN = {BOOT: 10.0, CALL: 20.0, WRITE: 12.0}

# In the order in which they come about, and how the next boot shows it: the
# words with which one of its steps begins.
FOUND = (
    ("untouched", r"write the intent"),
    ("record only, or array half made", r"zero the|stop the|create RAID"),
    ("record, filesystem not or half made", r"make (ext4|xfs|btrfs) "),
    ("made, record still there", r"erase the"),
    ("finished", r""),
)


@dataclass
class Tally:
    """What came of the cuts; ``late``: those of a boot whose run was over;
    ``found``: how many sets were how far."""

    seed: int
    cuts: int = 0
    late: int = 0
    replaced: int = 0
    mounted: int = 0
    refused: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.cuts += other.cuts
        self.late += other.late
        self.replaced += other.replaced
        self.mounted += other.mounted
        self.refused += other.refused
        self.found += other.found
        self.wrong += other.wrong

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.cuts} power cuts ({self.late} after the run, "
            f"{self.replaced} continued on a replaced instance), "
            f"{self.mounted} sets mounted, "
            f"{len(self.refused)} refused, {len(self.wrong)} wrong; the last boots "
            "found " + ", ".join(f"{self.found[name]} {name}" for name, _ in FOUND)
        )


class Torture:
    def __init__(self, cloud: Cloud, seed: int) -> None:
        self.cloud = cloud
        self.random = random.Random(seed)
        self.tally = Tally(seed)
        #: What the spans are multiplied with, by what the cuts have met.
        self.pace = 1.0

    def round(self, number: int, most: int, least: int = 1) -> None:
        """One node that is cut off once or more often, ``most`` at most."""
        cloud, draw = self.cloud, self.random
        names = sorted(draw.sample(list(SETS), DRAWN))
        cuts = draw.choices(list(CUTS), list(CUTS.values()))[0]
        cuts = max(least, min(cuts, most))
        plans = [
            (
                draw.choices(list(FROM), list(FROM.values()))[0],
                draw.random(),
                draw.random() < 0.5,
            )
            for _ in range(max(CUTS))
        ][:cuts]
        tags = krkn(prefix=nodes.PREFIX, node_id=number)
        volumes = [self.old(number)]
        blank = []
        for name in names:
            size, level, kind = SETS[name]
            own = nodes.set_tags(
                number, name, size, raid_level=level, fs_type=kind,
                mount_path=f"/t/{name}",
            )  # fmt: skip
            blank += cloud.volumes(size, 1, own)
        volumes += blank
        user_data = cloud.config({"boot_wait": 600})
        mark = cloud.ec2.calls.mark()
        node = cloud.launch(tags, user_data)
        for since, share, replaced in plans:
            moment = self.cut(node, mark, blank, since, share)
            self.tally.cuts += 1
            nodes.log(
                f"{number}: cut {moment}, then "
                + ("a replaced instance" if replaced else "the same instance")
            )
            mark = cloud.ec2.calls.mark()
            if replaced:
                self.tally.replaced += 1
                node.terminate()
                node = cloud.launch(tags, user_data)
            else:
                node.power_on()
        node.wait_ready(1200)
        self.judge(number, node, [OLD, *names])
        node.terminate()
        node.wait_released(*volumes)
        for volume in volumes:
            cloud.ec2.delete_volume(volume)
            cloud.backing(volume).unlink()

    def old(self, number: int) -> str:
        """A volume with an ext4 that has a file."""
        tags = nodes.set_tags(number, OLD, fs_type="ext4", mount_path=f"/t/{OLD}")
        volume = self.cloud.volume(1, tags)
        with tempfile.TemporaryDirectory() as there:
            Path(there, "file").write_text("precious")
            made = ["mkfs.ext4", "-q", "-d", there, str(self.cloud.backing(volume))]
            subprocess.run(made, check=True)
        return volume

    def cut(
        self, node: Node, mark: int, blank: list[str], since: str, share: float
    ) -> str:
        """Kill it; when that was, in words."""
        before, late = self.written(blank), False
        deadline = time.monotonic() + 600
        for beat in itertools.count(1):
            if since == CALL and self.cloud.ec2.calls.counts(mark, node.id):
                break
            if since == WRITE and self.written(blank) != before:
                break
            if beat % 20 == 0 and self.answers(node):
                # what is whole already is neither asked for nor written to
                late = self.has_ended(node)
                if since == BOOT or late:
                    break
            if node.machine.failure or time.monotonic() > deadline:
                raise LabError(f"nothing happens: {node.console[-2000:]}")
            time.sleep(0.1)
        seconds = share * SPAN[since] * self.pace
        time.sleep(seconds)
        node.cut()
        self.tally.late += late
        return f"{seconds:.2f} s after {'the run' if late else since}"

    def written(self, volumes: list[str]) -> list[int]:
        """When each was written to last, as the file behind it tells."""
        return [self.cloud.backing(one).stat().st_mtime_ns for one in volumes]

    def answers(self, node: Node) -> bool:
        try:
            node.wait_reachable(0.1)
        except LabError:
            return False
        return True

    def has_ended(self, node: Node) -> bool:
        """Whether the first run of this boot is over."""
        try:
            told = node.run(["cat", nodes.STATUS], 60)
        except LabError:
            return False
        return told.code == 0 and json.loads(told.out)["state"] != RUNNING

    def judge(self, number: int, node: Node, names: list[str]) -> None:
        now = nodes.status(node)
        found = []
        for name in names:
            entry = now["sets"].get(name)
            if entry is None:
                self.tally.wrong.append(f"{number} {name}: not in the status: {now}")
            elif entry["state"] != "mounted":
                self.refusal(f"{number} {name}", entry)
            else:
                found.append(self.mounted(number, node, name, entry, now))
        if not found:
            return
        if all(one == "finished" for one in found):
            self.pace *= 0.85
        elif all(one in ("untouched", "finished") for one in found):
            self.pace *= 1.15

    def refusal(self, name: str, entry: dict[str, Any]) -> None:
        error = entry["error"]
        told = f"{name}: {error} {entry['state']} {entry['reason']}"
        reasoned = error and error["kind"] != "internal-error" and error["remedy"]
        # Nothing was to be made of what was whole before.
        reasoned = reasoned and not name.endswith(f" {OLD}")
        (self.tally.refused if reasoned else self.tally.wrong).append(told)
        nodes.log(f"  REFUSED {told}")

    def mounted(
        self, number: int, node: Node, name: str, entry: dict[str, Any], now: Any
    ) -> str:
        """How far it was when the last boot came."""
        done = nodes.done(now, name)
        found = next(
            told for told, words in FOUND if any(re.match(words, one) for one in done)
            or not words
        )  # fmt: skip
        kind = entry["filesystem"]["type"]
        path = entry["mount_path"]
        look = node.run(
            f"d=$(findmnt -n -o SOURCE {path}) && cat {path}/file 2>/dev/null; "
            f"umount {path} && {CHECKS[kind]} $d >/run/check 2>&1 || cat /run/check",
            timeout=600,
        )
        if look.code != 0 or look.out != ("precious" if name == OLD else ""):
            self.tally.wrong.append(f"{number} {name}: {kind}: {look.out}{look.err}")
        self.tally.mounted += 1
        self.tally.found[found] += name != OLD
        nodes.log(f"  {name:6} {kind:5} {found}: {'; '.join(done)}"[:150])
        return found


def torture(count: int, seed: int) -> Tally:
    """``count`` power cuts; what came of them."""
    nodes.log(f"{count} power cuts, seed {seed}")
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.5) as cloud:
        one = Torture(cloud, seed)
        try:
            number = 0
            while one.tally.cuts < count:
                number += 1
                one.round(number, count - one.tally.cuts)
        finally:
            for told in (*one.tally.refused, *one.tally.wrong, str(one.tally)):
                nodes.log(told)
    return one.tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.vm.torture")
    parser.add_argument("count", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if nodes.OBSTACLE:
        print(nodes.OBSTACLE, file=sys.stderr)
        return 2
    jobs = max(1, min(given.jobs, given.count))
    shares = [given.count // jobs + (job < given.count % jobs) for job in range(jobs)]
    whole = Tally(given.seed)
    with ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(torture, shares, range(given.seed, given.seed + jobs)):
            whole.add(part)
    nodes.log(str(whole))
    return 1 if whole.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
