"""The story that this project is about, told on a virtual EC2.

    make demo

A node of a Kafka cluster: one volume for its log, three for its data (RAID 0),
with the tags of the deck of 2017.  It boots, the volumes come up; a file is
written to each; it reboots; it is terminated without a warning; another
instance takes its place, and the files are there.  Meanwhile two instances that may
be any node claim one each; one dies, and a third takes its place.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import LabError, telling

PREFIX = "kraken-ex-v0.1"
NODE_ID = 1
SETS = ("log", "data")
FILE = "{mount}/the-old-one-wrote-this"


class Story:
    """Prints what happens, with the time since the beginning."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self.begun
        for line in text.splitlines() or [""]:
            print(f"[{seconds:5.0f} s] {line}", flush=True)

    def chapter(self, text: str) -> None:
        print(flush=True)
        self.say(text.upper())

    def show(self, node: Node, command: str) -> str:
        """Run a command inside, and print it as a person would see it."""
        finished = node.run(command, check=True)
        print(f"    # {command}")
        for line in finished.out.rstrip().splitlines():
            print(f"    {line}")
        return finished.out


def volume_tags(name: str, size: int, level: int, path: str) -> dict[str, str]:
    """The tags of the deck, to the letter."""
    return krkn(
        prefix=PREFIX,
        node_id=NODE_ID,
        volume_name=name,
        volume_size=size,
        raid_level=level,
        mount_path=path,
        fs_type="ext4",
    )


def wait_ready(story: Story, node: Node) -> None:
    with telling("booting, and cloud-init at work", story.say):
        node.wait_ready()


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.read_file("/run/cc-kraken/status.json"))
    return found


def report(story: Story, node: Node) -> dict[str, Any]:
    """What the module did, how long each phase took, what it asked of EC2."""
    now = status(node)
    story.say("What cc_kraken did:")
    for run in [*now["earlier"], now]:
        done = run.get("done") or {
            name: entry["done"] for name, entry in run.get("sets", {}).items()
        }
        phases = ", ".join(f"{p['name']} {p['seconds']:.1f} s" for p in run["phases"])
        calls = ", ".join(f"{key} {count}" for key, count in run["calls"].items())
        print(f"    stage {run['stage']}: {run['state']}")
        print(f"      phases: {phases or 'none'}; API calls: {calls or 'none'}")
        for name, steps in done.items():
            for step in steps:
                print(f"      {name}: {step}")
    return now


def look(story: Story, node: Node) -> None:
    story.show(node, "ls /dev/disk/by-label | grep KRKN")
    story.show(node, "grep KRKN -e kraken /etc/fstab || grep kraken /etc/fstab")
    story.show(node, "findmnt -n -o TARGET,SOURCE,FSTYPE,SIZE /krkn_log")
    story.show(node, "findmnt -n -o TARGET,SOURCE,FSTYPE,SIZE /krkn_data")
    story.show(node, "cat /etc/mdadm/mdadm.conf.d/*.conf")
    story.show(node, "cloud-init status")


def identities(node: Node) -> list[str]:
    """Filesystem and array UUIDs: the same disks, or not."""
    now = status(node)
    found = []
    for name in SETS:
        entry = now["sets"][name]
        found.append(f"{name} {entry['filesystem']['uuid']}")
        if entry["array"]:
            found.append(f"{name} array {entry['array']['uuid']}")
    return found


def check_files(story: Story, node: Node, text: str) -> None:
    for mount in ("/krkn_log", "/krkn_data"):
        found = story.show(node, f"cat {FILE.format(mount=mount)}").strip()
        if found != text:
            raise LabError(f"{mount} holds {found!r} instead of {text!r}")


def tell(story: Story) -> None:
    with Cloud(log=story.say, attach_seconds=2.0) as cloud:
        story.chapter("1. A node: four empty volumes and an instance")
        log = cloud.volume(1, volume_tags("log", 1, 0, "/krkn_log"))
        data = cloud.volumes(3, 1, volume_tags("data", 3, 0, "/krkn_data"))
        story.say(f"log: {log}; data: {', '.join(data)}")
        tags = krkn(prefix=PREFIX, node_id=NODE_ID)
        user_data = cloud.config({})
        print("    " + user_data.replace("\n", "\n    ").rstrip())
        first = cloud.launch(tags, user_data)
        others = AnyNode(cloud)
        others.launch()
        wait_ready(story, first)
        report(story, first)
        look(story, first)
        before = identities(first)

        story.chapter("2. A file on each volume, and a reboot")
        text = f"{first.id} was here"
        for mount in ("/krkn_log", "/krkn_data"):
            path = FILE.format(mount=mount)
            story.show(first, f"echo '{text}' > {path}; sync")
        others.launch()
        first.reboot()
        wait_ready(story, first)
        report(story, first)
        check_files(story, first, text)

        story.chapter("3. The instance is terminated, abruptly")
        first.terminate()

        story.chapter("4. Another one takes its place, with the same tags")
        second = cloud.launch(tags, user_data)
        others.launch()
        wait_ready(story, second)
        report(story, second)
        look(story, second)
        check_files(story, second, text)
        if identities(second) != before:
            raise LabError(f"{identities(second)} instead of {before}")
        story.say("The same arrays, the same filesystems, the same files.")
        second.terminate()
        others.tell(story)


class AnyNode:
    """The second act: two nodes, and instances that may be either.  They boot while
    the first act goes on, on the second processor."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.claimants: list[Node] = []
        prefix, set_tags = "kafka", krkn(mount_path="/krkn_log")
        for number in range(2):
            tags = krkn(prefix=prefix, node_id=number, volume_name="log")
            cloud.volume(1, {**tags, **krkn(fs_type="ext4"), **set_tags})
        self.tags = krkn(prefix=prefix, node_id="*", volumes="log")

    def launch(self) -> None:
        self.claimants.append(self.cloud.launch(self.tags, self.cloud.config({})))

    def tell(self, story: Story) -> None:
        story.chapter("5. Two nodes, and instances that may be either (NodeId=*)")
        story.say(
            f"{', '.join(one.id for one in self.claimants)} have booted meanwhile."
        )
        said = {}
        first, second, third = self.claimants
        for node in (first, second):
            wait_ready(story, node)
            story.show(node, "cat /run/cc-kraken/node.env")
            text = f"{node.id} was here"
            said[status(node)["node"]["node_id"]] = text
            story.show(node, f"echo '{text}' > /krkn_log/who; sync")
        if set(said) != {"0", "1"}:
            raise LabError(f"two instances are the nodes {sorted(said)}")

        story.chapter("6. One dies; the third takes its place, told by nobody which")
        lost = status(first)["node"]["node_id"]
        first.terminate()
        wait_ready(story, third)
        story.show(third, "cc-kraken wait log")
        report(story, third)
        found = story.show(third, "cat /krkn_log/who").strip()
        if (status(third)["node"]["node_id"], found) != (lost, said[lost]):
            raise LabError(f"the third is not node {lost}: it found {found!r}")
        story.chapter("We need 2 Kafka volumes, not 2 Kafka instances.")


def main() -> int:
    if os.geteuid() != 0:
        print("make demo needs root: it builds a disk image and runs QEMU.")
        return 1
    story = Story()
    try:
        tell(story)
    except KeyboardInterrupt:
        print("\nInterrupted; what was started is ended and cleared away.")
        return 130
    except LabError as error:
        story.say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
