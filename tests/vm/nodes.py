"""What the tests of the module on virtual machines share."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import jsonschema

from cc_kraken.machine import schema_files
from tests.lab.cloud import Cloud, Node, krkn
from tests.lab.image import missing

RELEASE = os.environ.get("RELEASE", "bookworm")
OBSTACLE = "; ".join(missing())
PREFIX = "kafka"
STATUS = "/run/cc-kraken/status.json"

# Inside, as root: `create NAME LEVEL DISK…`, `fill NAME`, `stop NAME`, `plant DISK
# [BLOCKS]`, and what they share.  No resync: what is written is written once.
SHELL = r"""
set -eu
md() { readlink -f /dev/md/"$1"; }
create() {
    name=$1 level=$2; shift 2
    map=--bitmap=none; clean=--assume-clean
    [ "$level" != 0 ] || { map=; clean=; }
    mdadm --quiet --create /dev/md/"$name" --metadata="${META-1.2}" --homehost=any \
        --name="$name" --level="$level" --raid-devices=$# $map $clean \
        ${SIZE:+--size=$SIZE --run} "$@" </dev/null
    udevadm settle
}
fill() {
    mkfs.ext4 -q "$(md "$1")"; mkdir -p /mnt/"$1"; mount "$(md "$1")" /mnt/"$1"
    echo precious > /mnt/"$1"/file; umount /mnt/"$1"
}
plant() {
    mkfs.ext4 -q "$@"; mkdir -p /mnt/plant; mount "$1" /mnt/plant
    echo precious > /mnt/plant/file; umount /mnt/plant
}
stop() { mdadm --quiet --stop "$(md "$1")"; udevadm settle; }
"""


def log(line: str) -> None:
    print(line, flush=True)


def set_tags(
    node_id: object, name: str, size: int = 1, **more: object
) -> dict[str, str]:
    """The tags of one volume of a set."""
    return krkn(
        prefix=PREFIX, node_id=node_id, volume_name=name, volume_size=size, **more
    )


def status(node: Node) -> dict[str, Any]:
    """The status of the last run, which is as its schema says."""
    found: dict[str, Any] = json.loads(node.read_file(STATUS))
    jsonschema.Draft4Validator(schema_files.load(schema_files.STATUS)).validate(found)
    return found


def runs(now: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The runs of this boot by stage (the last of each)."""
    return {run["stage"]: run for run in [*now["earlier"], now]}


def done(now: Mapping[str, Any], name: str) -> list[str]:
    """What all runs of this boot did to a set, in words."""
    last = {"done": {one: entry["done"] for one, entry in now["sets"].items()}}
    return [
        text for run in (*now["earlier"], last) for text in run["done"].get(name, [])
    ]


def states(now: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["state"] for name, entry in now["sets"].items()}


def uuids(now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Filesystem and array UUID of every set."""
    return {
        name: (
            entry["filesystem"]["uuid"] if entry["filesystem"] else "",
            entry["array"]["uuid"] if entry["array"] else "",
        )
        for name, entry in now["sets"].items()
    }


def patient(node: Node) -> None:
    """Give the disks of an emulated machine ten minutes at a reboot, not the 30 s of
    fstab: on a busy computer udev itself starts later than that."""
    node.run(["mkdir", "-p", "/etc/systemd/system/device.d"], check=True)
    text = "[Unit]\nJobRunningTimeoutSec=600\n"
    node.write_file("/etc/systemd/system/device.d/99-lab.conf", text)


def write_file(node: Node, path: str, text: str) -> None:
    node.run(f"printf %s {shlex.quote(text)} > {shlex.quote(path)}; sync", check=True)


def checksums(cloud: Cloud, volumes: list[str]) -> dict[str, str]:
    return {volume: cloud.backing_checksum(volume) for volume in volumes}


def traceback_in(text: str) -> bool:
    return re.search(r"^\s*Traceback \(most recent call last\)", text, re.M) is not None
