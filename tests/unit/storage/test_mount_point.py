"""What is said when mount(8) refuses; tests/loop mounts for real."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cc_kraken.decide.steps import MountFilesystem
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, KrakenError
from cc_kraken.storage import mount_point

FS = "f1a3c0de-0000-4000-8000-0123456789ab"
DISK = Device("nvme1n1", "/dev/nvme1n1", "259:1", "vol-00000000000000001", 1 << 30)


def test_a_filesystem_that_the_kernel_refuses(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    path = str(tmp_path.resolve())
    ran = command.Finished(("mount",), 32, "", "mount: unknown filesystem feature.")
    mocker.patch.object(command, "run", return_value=ran)
    step = MountFilesystem("data", path, "ext4", FS, (), volume_id=DISK.volume_id)
    with pytest.raises(KrakenError) as caught:
        mount_point.mount(Paths(), DISK, frozenset({DISK.volume_id}), step)
    trouble = caught.value.trouble
    assert trouble.kind == "mount-failed"
    for word in (DISK.path, "the set data", path, "unknown filesystem feature."):
        assert word in trouble.found
    assert "dmesg" in trouble.remedy and "e2fsck -f" in trouble.remedy
