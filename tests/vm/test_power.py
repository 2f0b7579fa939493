"""A few power cuts of those of ``make torture``."""

from __future__ import annotations

import random

import pytest

from tests.lab.cloud import Cloud
from tests.vm import nodes
from tests.vm.torture import DRAWN, Torture

pytestmark = pytest.mark.skipif(bool(nodes.OBSTACLE), reason=nodes.OBSTACLE)


def test_two_power_cuts() -> None:
    """One node, cut off in its first boot and in what comes after that."""
    seed = random.randrange(1 << 32)
    nodes.log(f"seed {seed}")
    with Cloud(release=nodes.RELEASE, log=nodes.log, attach_seconds=0.2) as cloud:
        torture = Torture(cloud, seed)
        torture.round(1, 2, least=2)
        nodes.log(str(torture.tally))
    wrong = [*torture.tally.wrong, *torture.tally.refused]
    assert not wrong, "\n".join(wrong)
    assert torture.tally.mounted == DRAWN + 1
