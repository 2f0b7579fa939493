"""What a boot costs where nothing is to be done, in numbers that cannot blur.

Whole calls of the module in an interpreter of their own (tests.counting), on
a machine that is files.  What runs on disks cost: tests/loop/test_counts.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cc_kraken.boot import cloud_init
from cc_kraken.config import loading
from cc_kraken.state import layout
from cc_kraken.state.report import Report
from tests.counting import Counts, count
from tests.unit.tree import GIB, Tree

ME = "i-00000000000000001"
SOURCE: dict[str, Any] = {
    "cloud_name": "aws",
    "metadata": {"instance-id": ME, "placement": {"availability-zone": "us-east-1a"}},
    "identity": {},
    "region": "us-east-1",
}
CFG: dict[str, Any] = {
    "kraken": {"ec2": {"region": "us-east-1"}},
    "cloud_final_modules": [["kraken", "always"]],
}
LARGEST = 16384 * GIB
# Of a reboot with nothing to do (docs/project/speed.md says them, too).
FILES, FILES_PER_VOLUME = 12, 5
BYTES, BYTES_PER_VOLUME = 5 << 10, 1200


class Boot:
    """A machine whose sets are mounted, as systemd leaves it at a reboot."""

    def __init__(self, base: Path) -> None:
        self.tree = Tree(base)
        self.paths = replace(self.tree.paths, instance=str(base / "instance"))
        self.sets: dict[str, dict[str, Any]] = {}
        self.disks = 0
        programs = base / "programs"
        programs.mkdir()
        (programs / "systemctl").write_text("#!/bin/sh\n")
        (programs / "systemctl").chmod(0o755)
        self.programs = str(programs)

    def add(self, name: str, members: int = 1, size: int = GIB) -> None:
        volumes = []
        disks = []
        for _ in range(members):
            self.disks += 1
            volumes.append(f"vol-{self.disks:017x}")
            self.tree.disk(self.disks, volumes[-1].replace("-", ""), size=size)
            disks.append(f"nvme{self.disks}n1")
        device = disks[0]
        if members > 1:
            device = f"md{127 - len(self.sets)}"
            self.tree.array(device, disks, size=size * members)
        path = f"/krkn_{name}"
        self.tree.mount(path, self.tree.number(device), "xfs", f"/dev/{device}")
        self.sets[name] = {
            "state": "mounted",
            "mount_path": path,
            "volumes": [{"id": volume, "size": size} for volume in volumes],
            "required": True,
            "filesystem": {"type": "xfs", "uuid": "", "label": ""},
            "array": None,
            "error": None,
            "reason": None,
            "outcomes": [],
            "plan": [],
        }

    def save(self) -> None:
        """The layout that the run before has left."""
        section = loading.load(CFG, self.paths)
        assert section is not None
        node = {"prefix": "kafka", "node_id": "0"}
        status = {"sets": self.sets, "node": node}
        source = type("Source", (), SOURCE)
        assert layout.save(self.paths, section, cloud_init.identity(source), status)

    def count(self, stage: str, cfg: Mapping[str, Any] = CFG, **more: Any) -> Counts:
        job = {
            "paths": vars(self.paths),
            "cfg": cfg,
            "stage": stage,
            "source": SOURCE,
            "programs": self.programs,
            **more,
        }
        found = count(job)
        assert found.error == ""
        return found


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


def reboot(boot: Boot, sizes: int = GIB) -> Boot:
    """The deck's node: one volume, and an array of three."""
    boot.add("log", 1, sizes)
    boot.add("data", 3, sizes)
    boot.save()
    return boot


# ---------------------------------------------------------------- silent boots


@pytest.mark.parametrize("stage", ["network", "final"])
def test_not_configured_is_the_stub_alone(boot: Boot, stage: str) -> None:
    found = count(
        {"paths": vars(boot.paths), "cfg": {}, "stage": stage, "source": SOURCE}
    )
    assert found.modules == {"cc_kraken": 2}  # the package boot, and configured
    assert (found.opened, found.processes, found.written) == (0, 0, 0)
    assert found.listed <= 2


# --------------------------------------------------------------- nothing to do


def test_a_reboot_asks_nobody(boot: Boot) -> None:
    """No API call is possible: nothing is imported that could make one."""
    found = reboot(boot).count("network")
    assert found.bundled == 0 and "jsonschema" not in found.modules
    assert "cc_kraken.act.run" not in found.modules and found.own <= 23
    assert found.started == {"systemctl": 1}


def test_what_a_reboot_reads(boot: Boot) -> None:
    found = reboot(boot).count("network", warm=True)
    assert found.modules == {}
    assert found.opened <= FILES + 4 * FILES_PER_VOLUME
    assert found.read <= BYTES + 4 * BYTES_PER_VOLUME
    assert found.written <= 4096
    assert not any(
        os.path.relpath(path, boot.paths.dev).startswith(("nvme", "md"))
        for path in found.files
    )


def test_the_size_of_the_volumes_is_no_matter(tmp_path: Path) -> None:
    small = reboot(Boot(tmp_path / "small")).count("network", warm=True)
    large = reboot(Boot(tmp_path / "large"), LARGEST).count("network", warm=True)
    assert (large.opened, large.listed) == (small.opened, small.listed)
    # more digits
    assert 0 <= large.read - small.read < 256


@pytest.mark.parametrize("number", [1, 24])
def test_each_volume_costs_its_own_files_only(boot: Boot, number: int) -> None:
    for index in range(number):
        boot.add(f"s{index}")
    boot.save()
    found = boot.count("network", warm=True)
    assert found.opened <= FILES + number * FILES_PER_VOLUME
    assert found.read <= BYTES + number * BYTES_PER_VOLUME
    assert found.processes == 1


# ---------------------------------------------------------------- final stage


def test_the_final_stage_reads_a_result(boot: Boot) -> None:
    boot.add("data")
    boot.save()
    told = Report(boot.paths, "background")
    told.set("data")["state"] = "mounted"
    told.finish("done")
    found = boot.count("final")
    assert found.bundled == 0 and found.started == {}
    assert "jsonschema" not in found.modules
    assert found.written == 0
    found = boot.count("final", warm=True)
    # The result twice, and that the configuration was found right before: 64
    # bytes for an import of jsonschema.
    assert found.opened <= 3 and found.read <= 8192
