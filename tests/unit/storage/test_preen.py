"""What is said of a filesystem that its checker leaves to a person."""

from __future__ import annotations

import pytest
from pytest_mock import MockerFixture

from cc_kraken.machine import command
from cc_kraken.model import KrakenError
from cc_kraken.storage import preen


def checker(mocker: MockerFixture, code: int) -> None:
    ran = command.Finished(("e2fsck",), code, "Unattached inode 12.\n", "")
    mocker.patch.object(command, "run", return_value=ran)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_it_repairs_by_itself_is_told(code: int, mocker: MockerFixture) -> None:
    checker(mocker, code)
    assert preen.repair("/dev/nvme1n1", "ext4") == "Unattached inode 12."


def test_errors_that_it_does_not_repair(mocker: MockerFixture) -> None:
    checker(mocker, 4)
    with pytest.raises(KrakenError) as caught:
        preen.repair("/dev/nvme1n1", "ext4")
    trouble = caught.value.trouble
    assert trouble.kind == "filesystem-errors"
    assert "/dev/nvme1n1" in trouble.found and "Unattached inode" in trouble.found
    assert "snapshot" in trouble.remedy
    assert "e2fsck -f /dev/nvme1n1)" in trouble.remedy
