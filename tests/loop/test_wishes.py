"""What is set when a filesystem is made, from tags and section, and told when
it differs later."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.loop.test_run import Machine, error_of, machine, states, tags

__all__ = ["machine"]  # a fixture

pytestmark = pytest.mark.long


def test_made_as_wished_and_told_when_it_differs(machine: Machine) -> None:
    """Of one set by its tags, of the other by the section's defaults."""
    volume = machine.volume(
        "data",
        FsType="xfs",
        MkfsOptions="-m reflink=0",
        MountOptions="noatime,logbufs=4",
        Owner="12",
        Group="13",
        Mode="2750",
        Label="queue",
    )
    other = machine.volume("log")
    defaults = {"owner": 14, "mode": "0700", "label": "mine", "mkfs_options": []}
    status = machine.run(defaults=defaults)
    assert states(status) == {"data": "mounted", "log": "mounted"}
    path = machine.path("data")
    root, log = os.stat(path), os.stat(machine.path("log"))
    assert (root.st_uid, root.st_gid, root.st_mode & 0o7777) == (12, 13, 0o2750)
    assert (log.st_uid, log.st_gid, log.st_mode & 0o7777) == (14, 0, 0o700)
    shown = subprocess.run(["xfs_info", path], capture_output=True, text=True)
    assert "reflink=0" in shown.stdout
    table = Path("/proc/self/mountinfo").read_text()
    (mount,) = [line for line in table.splitlines() if f" {path} " in line]
    assert "noatime" in mount and "logbufs=4" in mount
    assert labels(machine) == {"data": "queue", "log": "mine"}

    Path(path, "planted").write_text("x")
    os.chmod(path, 0o755)
    machine.lab.tag(volume, tags(Label="other"))
    status = machine.run(defaults={**defaults, "owner": 15})
    data, log_entry = status["sets"]["data"], status["sets"]["log"]
    assert data["done"] == log_entry["done"] == [] and status["warnings"] == []
    assert "12:13 with mode 0755" in data["notes"][0]
    assert "Label says 'other'" in data["notes"][1] and "'queue'" in data["notes"][1]
    # An empty root of another owner was set by a run or a person: it stays.
    (note,) = log_entry["notes"]
    assert "14:0 with mode 0700" in note
    assert machine.disk(other)
    assert os.stat(path).st_mode & 0o7777 == 0o755


def labels(machine: Machine) -> dict[str, str]:
    """As a run that only looks tells them."""
    sets = machine.run("plan", dry_run=True, wait=0)["sets"]
    return {name: entry["filesystem"]["label"] for name, entry in sets.items()}


@pytest.mark.parametrize(
    "key, value, kind",
    [
        ("MkfsOptions", "-f", "mkfs-options"),
        ("MkfsOptions", "-m uuid=generate", "mkfs-options"),
        ("MountOptions", "norecovery", "tag-value"),
        ("MountOptions", "nouuid", "tag-value"),
        ("MountOptions", "noauto", "tag-value"),
        ("MountOptions", "logdev=/dev/sda", "tag-value"),
    ],
)
def test_what_forces_or_misleads_is_refused_before_anything_is_attached(
    machine: Machine, key: str, value: str, kind: str
) -> None:
    machine.volume("data", FsType="xfs", **{key: value})
    assert error_of(machine.run(), "data") == kind
    assert machine.lab.calls.writes() == []
