"""Every content against every wanted type, alone and as a member of a mirror to
be, in a dry run and in a run: what comes of it, and that nothing else is done.

``pytest -s`` prints the table.  The contents are those of test_probe.py.
"""

from __future__ import annotations

import re
import string
import subprocess
import uuid as uuids
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.filesystems import registry
from tests.conftest import attach, umount
from tests.loop.test_probe import Disk, matrix
from tests.loop.test_run import GIB, Machine, machine

__all__ = ["machine"]  # a fixture

SLOW = pytest.mark.slow
NAMES = tuple(matrix(GIB, ""))
#: Sets of a run: each is one disk or two, and an instance takes 26.
AT_ONCE = 12
CHUNKS = [NAMES[at : at + AT_ONCE] for at in range(0, len(NAMES), AT_ONCE)]


def planted(machine: Machine, volume: str, name: str, uuid: str) -> None:
    """The content, and a file on it where that can be."""
    file = machine.file(volume)
    device = attach(file)
    try:
        prepare, _ = matrix(GIB, uuid)[name]
        prepare(Disk(device, file))
        if name in registry.TYPES:
            target = machine.base / "planting"
            target.mkdir(exist_ok=True)
            subprocess.run(["mount", device, target], check=True)
            try:
                (target / "planted").write_text(name)
            finally:
                umount(target)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def expected(name: str, said: str, wanted: str, members: int) -> str:
    """How a set ends whose (first) volume has this content."""
    if said == "blank" or (name == wanted and members == 1):
        return "mounted"
    if said == "linux_raid_member" and members == 2 and "0.90" not in name:
        # One of two of somebody's array, beside a blank volume.
        return "array-metadata" if OLD_METADATA(name) else "array-members-missing"
    return "content-unknown" if said.startswith("unknown") else "content-other"


OLD_METADATA = re.compile(r"(mirror with )?md 1\.[01]\b").match


@pytest.mark.parametrize("members", [1, 2], ids=["single", "member"])
@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(kind, marks=pytest.mark.long if kind == "ext4" else SLOW)
        for kind in registry.TYPES
    ],
)
@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
def test_every_content_against_every_wish(
    machine: Machine, chunk: int, wanted: str, members: int
) -> None:
    sets: dict[str, tuple[str, list[str], str]] = {}
    for number, name in enumerate(CHUNKS[chunk]):
        if members == 2 and name == "zeros":
            continue  # made: needs md, and is seen in the virtual machines
        more = {"FsType": wanted, "MountPath": machine.path(f"s{number}")}
        if members > 1:
            more["RaidLevel"] = "1"
        volumes = [
            machine.volume(f"s{number}", members, **more) for _ in range(members)
        ]
        uuid = str(uuids.uuid4())
        planted(machine, volumes[0], name, uuid)
        sets[f"s{number}"] = (name, volumes, uuid)
    every = [volume for _, volumes, _ in sets.values() for volume in volumes]
    for letter, volume in zip(string.ascii_lowercase, every):
        machine.lab.attach_volume(volume, machine.id, f"/dev/xvdb{letter}")
    machine.lab.wait_until(
        lambda: all(
            machine.lab.volume(volume).attachments[0].state == "attached"
            for volume in every
        )
    )

    before = machine.digest(*every)
    dry = machine.run("plan", dry_run=True, wait=0)["sets"]
    assert machine.digest(*every) == before
    real = machine.run()["sets"]
    after = machine.digest(*every)
    wrong = []
    for own, (name, volumes, uuid) in sets.items():
        said = matrix(GIB, uuid)[name][1]
        ended = ending(real[own])
        print(f"{name:45} {wanted:5} {'alone' if members == 1 else 'member':6} {ended}")
        if ended != expected(name, said, wanted, members):
            wrong.append(f"{name}: {ended} {real[own]['error']}")
        if ended != "mounted":
            if ending(dry[own]) != ended:
                wrong.append(f"{name}: the dry run says {ending(dry[own])}")
            if real[own]["done"] or any(before[v] != after[v] for v in volumes):
                wrong.append(f"{name}: is changed, {real[own]['done']}")
        elif name == wanted:
            there = Path(machine.path(own), "planted").read_text()
            if there != name or real[own]["filesystem"]["uuid"] != uuid:
                wrong.append(f"{name}: is not what it was")
    assert not wrong, "\n".join(wrong)


def ending(entry: dict[str, Any]) -> str:
    return str(entry["error"]["kind"] if entry["error"] else entry["state"])
