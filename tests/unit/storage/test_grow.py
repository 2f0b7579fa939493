"""What is said of a filesystem that does not grow; tests/loop grows for real."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cc_kraken.machine import command, devices
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, KrakenError, Trouble
from cc_kraken.storage import grow
from tests.unit.tree import Tree


@dataclass
class Mounted:
    """A volume with an ext4 of 16 MiB, which is mounted."""

    paths: Paths
    device: Device
    path: str

    def refused(self, kind: str) -> Trouble:
        with pytest.raises(KrakenError) as caught:
            grow.filesystem(self.paths, self.device, (self.device,), self.path, kind)
        return caught.value.trouble


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    mkfs = shutil.which("mkfs.ext4", path=command.PATH)
    if mkfs is None:
        pytest.skip("no mkfs.ext4")
    tree = Tree(tmp_path)
    tree.disk(1, "vol00000000000000001")
    node = tmp_path / "dev/nvme1n1"
    subprocess.run([mkfs, "-q", str(node), "16M"], check=True)
    path = tmp_path / "data"
    path.mkdir()
    tree.mount(str(path), tree.number("nvme1n1"), "ext4", str(node))
    (device,) = devices.of_volume(tree.paths, "vol-00000000000000001")
    return Mounted(tree.paths, device, str(path))


def test_another_filesystem_than_was_seen(mounted: Mounted) -> None:
    trouble = mounted.refused("xfs")
    assert trouble.kind == "grow-refused"
    assert mounted.path in trouble.found and "xfs" in trouble.expected
    assert "the next run" in trouble.remedy


def test_a_program_that_refuses(mounted: Mounted, mocker: MockerFixture) -> None:
    ran = command.Finished(("resize2fs",), 1, "", "resize2fs: No space.\n")
    mocker.patch.object(command, "run", return_value=ran)
    trouble = mounted.refused("ext4")
    assert trouble.kind == "grow-failed"
    assert mounted.path in trouble.found and "resize2fs: No space" in trouble.found
    assert "dmesg" in trouble.remedy and "grow: false" in trouble.remedy
