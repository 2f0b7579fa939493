"""Volumes that are enlarged: each filesystem and each level follows at the next
boot, half-grown sets wait, and RAID 0 says that it cannot.

QEMU's NVMe does not announce a new size: a reboot shows it.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab.cloud import Cloud, Node, krkn
from tests.vm import nodes

pytestmark = [
    pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE),
    pytest.mark.slow,
]

SETS = {
    "ext4": (1, None, "ext4"),
    "xfs": (1, None, "xfs"),
    "btrfs": (1, None, "btrfs"),
    "zero": (2, 0, "ext4"),
    "one": (2, 1, "xfs"),
    "five": (3, 5, "ext4"),
    "six": (4, 6, "btrfs"),
    "ten": (4, 10, "xfs"),
}
"""Volumes, level, filesystem."""
DATA = {"zero": 2, "one": 1, "five": 2, "six": 2, "ten": 2}
"""How many members' worth of data an array holds."""
HALF = "six"
TAGS = krkn(prefix=nodes.PREFIX, node_id=8)
GIB, MIB = 1 << 30, 1 << 20

# What mkfs and md leave of a GiB, and more than they ever take of one.
REST = 128 * MIB

# Seconds for a boot with eighteen volumes, on a machine that others use.
BOOT = 3600

# No initial resync: every byte of these members is zero.  RAID 5 is made with
# a spare that is rebuilt, which is waited for.
IN_STEP = r"""
for md in /sys/block/md*/md; do
    if [ "$(cat $md/level)" != raid0 ] && [ "$(cat $md/sync_action)" = resync ]; then
        echo frozen > $md/sync_action; echo none > $md/resync_start
        echo idle > $md/sync_action
    fi
done
grep -l -v idle /sys/block/md*/md/sync_action || true
"""


def sizes(node: Node) -> dict[str, tuple[int, int]]:
    """Of the filesystem and of what it lies on, in MiB, by set."""
    found = {}
    for name in SETS:
        line = node.run(
            f"findmnt -n -b -o SOURCE,SIZE /g/{name}; "
            f"lsblk -n -b -d -o SIZE $(findmnt -n -o SOURCE /g/{name})",
            check=True,
        ).out.split()
        found[name] = (int(line[1]) // MIB, int(line[2]) // MIB)
    return found


def wait_in_step(node: Node) -> None:
    deadline = time.monotonic() + 1200
    while node.run(IN_STEP).out.strip():
        assert time.monotonic() < deadline, node.read_file("/proc/mdstat")
        time.sleep(5)


def booted(node: Node) -> dict[str, Any]:
    node.wait_ready(BOOT)
    now = nodes.status(node)
    assert now["state"] == "done", now
    assert nodes.states(now) == dict.fromkeys(SETS, "mounted")
    for name in SETS:
        assert node.read_file(f"/g/{name}/file") == name
    return now


def enlarge(cloud: Cloud, *volumes: str) -> None:
    """ModifyVolume; returns when the disks have their new size."""
    for volume in volumes:
        cloud.ec2.resize_volume(volume, 2)
    deadline = time.monotonic() + 600
    while any(cloud.backing(one).stat().st_size != 2 * GIB for one in volumes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def show(what: str, found: dict[str, tuple[int, int]]) -> None:
    for name, (count, level, kind) in SETS.items():
        filesystem, device = found[name]
        below = "" if level is None else f" on RAID {level} of {count}"
        print(f"{what}: {kind}{below}: {filesystem} MiB of {device} MiB", flush=True)


def test_filesystems_and_arrays_follow_their_volumes() -> None:
    with Cloud(release=nodes.RELEASE, log=nodes.log) as cloud:
        volumes: dict[str, list[str]] = {}
        for name, (count, level, kind) in SETS.items():
            level_tag = {} if level is None else {"raid_level": level}
            tags = nodes.set_tags(
                8, name, count, fs_type=kind, mount_path=f"/g/{name}", **level_tag
            )
            volumes[name] = list(cloud.volumes(count, 1, tags))
        node = cloud.launch(TAGS, cloud.config({"boot_wait": 2400}))
        node.wait_ready(BOOT)
        now = nodes.status(node)
        assert nodes.states(now) == dict.fromkeys(SETS, "mounted")
        for name in SETS:
            nodes.write_file(node, f"/g/{name}/file", name)
        before = sizes(node)
        show("before", before)
        wait_in_step(node)
        same = nodes.uuids(now)

        # Everything is enlarged, but for one member.
        late = volumes[HALF][-1]
        every = [volume for name in SETS for volume in volumes[name]]
        enlarge(cloud, *(volume for volume in every if volume != late))
        node.reboot(BOOT)
        now = booted(node)
        assert nodes.uuids(now) == same
        after = sizes(node)
        show("after", after)
        for name, (_, level, kind) in SETS.items():
            grown = [text for text in nodes.done(now, name) if text.startswith("grow ")]
            print(name, grown, now["sets"][name]["notes"], flush=True)
            if name in ("zero", HALF):
                assert grown == [] and after[name][1] == before[name][1]
                continue
            more = DATA.get(name, 1) * 1024
            assert after[name][1] - before[name][1] == more
            assert after[name][0] - before[name][0] > more - REST // MIB
            whats = [text.split()[1] for text in grown]
            assert whats == (["the"] if level is None else ["array", "the"])
            assert f"grow the {kind} at /g/{name}" in grown[-1]
        (warning,) = now["warnings"]
        print(warning, flush=True)
        assert "RAID 0 cannot grow" in warning and "way out" in warning
        (note,) = now["sets"][HALF]["notes"]
        assert f"it grows when {late} are enlarged" in note
        mark = cloud.ec2.calls.mark()
        assert node.run(["cc-kraken", "apply"], timeout=1200).code == 0
        assert not any(e["done"] for e in nodes.status(node)["sets"].values())
        assert cloud.ec2.calls.writes(mark) == []

        # The last member; the others have nothing left to do.
        enlarge(cloud, late)
        node.reboot(BOOT)
        now = booted(node)
        last = sizes(node)
        show("last", last)
        for name in SETS:
            grown = [text for text in nodes.done(now, name) if text.startswith("grow ")]
            assert bool(grown) == (name == HALF), name
        assert last[HALF][1] - before[HALF][1] == DATA[HALF] * 1024
        assert nodes.uuids(now) == same
