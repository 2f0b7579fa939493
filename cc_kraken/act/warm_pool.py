"""Wait in the warm pool of an Auto Scaling group: nothing is claimed there.

The instance may be stopped there for days, so it must hold no volume of a node.
"""

from __future__ import annotations

from typing import Callable

from cc_kraken.act.waiting import Waiting, until_answered
from cc_kraken.cloud.protocol import Cloud
from cc_kraken.model import Trouble

STANDBY_EVERY = 10.0
"""Seconds: has the group taken this instance out of its warm pool?"""
WARM = "Warmed:"


class Standby(Exception):
    """The instance is in a warm pool, and nobody is to wait for it."""


def stand_by(
    cloud: Cloud, waiting: Waiting, hold_up: Callable[[Trouble], None]
) -> None:
    """Return when the instance is in no warm pool.  Raises :class:`Standby`."""

    def warm() -> bool:
        return until_answered(cloud.lifecycle, hold_up).startswith(WARM)

    stood = False
    while warm():
        if not waiting.limits.background or waiting.clock.stopped:
            raise Standby
        stood = True
        waiting.report.standby(True)
        waiting.clock.sleep(STANDBY_EVERY)
    if stood:
        waiting.report.standby(False)
        waiting.begun = waiting.clock.now()
