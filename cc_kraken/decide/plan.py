"""What is to be done for one set, and the two ways in which a decision ends early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from cc_kraken.decide.steps import Step
from cc_kraken.model import Known, KrakenError, Trouble

MOUNTED, ASSEMBLED, ATTACHED = "mounted", "assembled", "attached"
PENDING, FAILED, PLANNED = "pending", "failed", "planned"


@dataclass(frozen=True)
class Plan:
    """What is to be done for one set now.

    ``state``: where the set stands when ``steps`` is empty.  ``outcomes``:
    what may follow on things that cannot be seen yet.  ``trouble`` with
    ``waits`` is awaited, without it the set has failed.  ``notes``: what a
    person may want to know, and need not act on.  ``mount_path``: where it is
    mounted, if that is not where it belongs.
    """

    name: str
    state: str
    steps: tuple[Step, ...] = ()
    trouble: Optional[Trouble] = None
    warnings: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    array_uuid: str = ""
    filesystem: Optional[Known] = None
    notes: tuple[str, ...] = ()
    mount_path: str = ""


class Stop(KrakenError):
    """Ends the decision on one set, as any KrakenError does.  ``steps`` are done all
    the same."""

    def __init__(self, trouble: Trouble, steps: tuple[Step, ...]) -> None:
        super().__init__(trouble)
        self.steps = steps


class Again(Exception):
    """Do these steps, then look at this set anew: the rest depends on it."""

    def __init__(
        self, steps: Sequence[Step], *outcomes: str, array_uuid: str = ""
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.outcomes = outcomes
        self.array_uuid = array_uuid
