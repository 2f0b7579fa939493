"""Runs that find one half of a mirror, on disks with superblocks made by hand.

There need be no md in the kernel: what is to be started fails at mdadm, what is
refused is refused before.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from tests.loop.test_run import GIB, Machine, error_of, machine

__all__ = ["machine"]
pytest.importorskip("boto3")
pytestmark = pytest.mark.long

GONE = 0xFFFE
MD_UUID = str(crafted.MD_UUID)


@pytest.fixture
def halves(machine: Machine) -> Iterator[tuple[str, str]]:
    """The newer half, which went on alone, and the older one, which fell out and
    believes that both are in step."""
    made = [machine.volume("data", 2, RaidLevel="1") for _ in range(2)]
    for number, volume in enumerate(made):
        place, block = crafted.md1(
            GIB,
            number=number,
            roles=((0, GONE), (0, 1))[number],
            events=(500, 150)[number],
            device_uuid=uuid.UUID(int=number + 1),
        )
        with open(machine.file(volume), "r+b") as file:
            file.seek(place)
            file.write(block)
    yield made[0], made[1]


def run(machine: Machine) -> dict[str, Any]:
    machine.wait = 10.0
    return machine.run(boot_wait=1, volumes={"data": {"allow_degraded": True}})


def test_the_older_half_alone_is_refused_by_who_has_seen_the_newer(
    machine: Machine, halves: tuple[str, str]
) -> None:
    newer, older = halves
    assert error_of(run(machine), "data") == "array-stale"
    kept = json.loads(Path(machine.paths.arrays).read_text())
    assert kept["instance_id"] == machine.id
    assert kept["arrays"][MD_UUID]["events"] == 500
    assert sorted(kept["arrays"][MD_UUID]["volumes"]) == sorted(halves)
    # Somebody takes the tags off the wrong one.
    machine.lab.tag(newer, {"KRKN-IN:NodeId": "not any more"})
    before = machine.digest(*halves)
    status = run(machine)
    assert error_of(status, "data") == "array-stale"
    for words in (older, newer, "500", "150"):
        assert words in status["sets"]["data"]["error"]["message"]
    assert machine.digest(*halves) == before
    # Who wants the older one says so: only then is it tried.
    Path(machine.paths.arrays).unlink()
    assert error_of(run(machine), "data") != "array-stale"


def test_a_dry_run_keeps_nothing(machine: Machine, halves: tuple[str, str]) -> None:
    machine.run(dry_run=True, boot_wait=1)
    assert not Path(machine.paths.arrays).exists()
