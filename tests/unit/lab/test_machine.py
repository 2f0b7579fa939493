"""The lab's machine: what QEMU is told, and what a kernel says."""

from __future__ import annotations

import pytest

from tests.lab.machine import _processors, stands_still

RESET = "[  {}.541835] nvme nvme{}: I/O {} QID {} timeout, reset controller\n"


@pytest.mark.parametrize(
    ("said", "still"),
    [
        ("", False),
        (RESET.format(95, 0, 64, 1), False),  # it may have helped
        (RESET.format(95, 0, 64, 1) + RESET.format(156, 0, 65, 1), True),
        (RESET.format(95, 0, 64, 1) + RESET.format(156, 24, 65, 1), False),
        (RESET.format(95, 10, 6, 1) + RESET.format(156, 10, 6, 1), False),
        ("[ 65.5] nvme nvme0: I/O 170 (I/O Cmd) QID 1 timeout, aborting\n" * 3, False),
    ],
)
def test_a_root_disk_that_stands_still(said: str, still: bool) -> None:
    """Its controller was reset in vain; a disk of ours that hangs is a test's
    own business."""
    assert stands_still(said.encode()) is still


@pytest.mark.parametrize(
    ("number", "told"), [(1, "1,maxcpus=2"), (2, "2,maxcpus=2"), (4, "4,maxcpus=4")]
)
def test_there_is_room_for_a_second_processor(number: int, told: str) -> None:
    """Without, QEMU forgets what the kernel tells its disks."""
    assert _processors(number) == told
