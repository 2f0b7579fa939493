"""Carry out the steps of the plans: no other module does.

Phase by phase over all sets, the sets of a phase side by side, the steps of a
set in their order.  The lines of all sets go into fstab in one write, then systemd
reads it, and only then is anything mounted.  A step that fails ends its own set only.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Callable, Optional

from cc_kraken.act.step_actions import Carried, StepActions, at_once
from cc_kraken.act.waiting import stopped
from cc_kraken.decide.plan import Plan
from cc_kraken.decide.steps import (
    GROW,
    MOUNT,
    OF_CLOUD,
    PHASES,
    AddMember,
    CheckFilesystem,
    Detach,
    EraseRecords,
    MakeDirectory,
    MakeFilesystem,
    MountFilesystem,
    RemoveFstab,
    SetOwner,
    Step,
    Wipe,
    WriteFstab,
)
from cc_kraken.decide.world import World
from cc_kraken.machine import systemd
from cc_kraken.model import KrakenError, Trouble, of_set

LOG = logging.getLogger(__name__)

RELOADS = 2
"""How often systemd is asked to read fstab before the sets fail."""
FSTAB = (WriteFstab, RemoveFstab)
BY_FSTAB = (*FSTAB, MountFilesystem)
"""Steps after or before which systemd must have read it."""
AFTER_FSTAB = (CheckFilesystem, MountFilesystem, SetOwner)


@dataclass
class Executor(StepActions):
    """Carries out steps on one machine for one run."""

    enter: Callable[[Optional[str]], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begun: set[str] = set()
        """Sets on whose volumes something is half wiped or half made."""

    def carry_out(self, plans: Sequence[Plan], world: World) -> Carried:
        self._world = world
        self._looks = {**world.looks, **world.array_looks}
        self._carried = Carried()
        for phase in PHASES:
            steps = {
                plan.name: [step for step in plan.steps if step.phase == phase]
                for plan in plans
            }
            if phase == MOUNT:
                self._side_by_side(phase, _of(steps, (MakeDirectory,)))
                lines = self._unfailed(_of(steps, FSTAB))
                self._lines = [step for some in lines.values() for step in some]
                self._side_by_side(phase, lines)
                self._reload(self._unfailed(_of(steps, BY_FSTAB)))
                self._side_by_side(phase, _of(steps, AFTER_FSTAB))
            else:
                self._side_by_side(phase, steps)
        return self._carried

    def _unfailed(
        self, steps: Mapping[str, Sequence[Step]]
    ) -> dict[str, Sequence[Step]]:
        """The sets that have steps left, and have not failed."""
        return {
            name: some
            for name, some in steps.items()
            if some and name not in self._carried.troubles
        }

    def _side_by_side(self, phase: str, steps: Mapping[str, Sequence[Step]]) -> None:
        """The steps of each set that has not failed."""
        work = self._unfailed(steps)
        if not work:
            return
        self.enter(phase)
        jobs = at_once(phase, self._set_steps, list(work.items()))
        for job in jobs:
            job.result()

    def _reload(self, names: Collection[str]) -> None:
        """systemd reads fstab, where this run or one before has changed it, and one
        of these sets goes by it."""
        if not names:
            return
        for _ in range(RELOADS):
            try:
                systemd.read_fstab(self.paths)
                return
            except KrakenError as error:
                trouble = error.trouble
                LOG.warning("%s", error)
            except Exception as error:
                LOG.exception("cannot make systemd read fstab")
                trouble = _fault("make systemd read fstab", error)
        self._carried.troubles.update(dict.fromkeys(names, trouble))

    def _set_steps(self, name: str, steps: Sequence[Step]) -> None:
        for step in steps:
            if self.clock.stopped and name not in self._begun:
                self._carried.troubles[name] = stopped(step)
                return
            try:
                self._one(step)
                continue
            except KrakenError as error:
                trouble = error.trouble
            except Exception as error:
                LOG.exception("%s: cannot %s", name, step, extra=of_set(name))
                trouble = _fault(str(step), error)
            if isinstance(step, AddMember):
                # The array serves without it, as degraded as it is.
                self._carried.not_added[name] = trouble
                continue
            # What cannot be grown is mounted and serves as it is.
            growing = step.phase == GROW
            troubles = self._carried.not_grown if growing else self._carried.troubles
            troubles[name] = trouble
            return

    def _one(self, step: Step) -> None:
        if step.phase not in OF_CLOUD:
            self._carried.used.append(step.set)
        LOG.info("%s: %s", step.set, step, extra=of_set(step.set))
        if isinstance(step, (Wipe, MakeFilesystem)):
            self._begun.add(step.set)
        self._do[type(step)](step)
        if isinstance(step, EraseRecords):
            self._begun.discard(step.set)
        if isinstance(step, Detach):
            gone = [one for one in step.volume_ids if one not in self._carried.kept]
            step = replace(step, volume_ids=tuple(gone))
            if not gone:
                return
        self.report.done(step.set, str(step))


def _of(
    steps: Mapping[str, Sequence[Step]], kinds: tuple[type[Step], ...]
) -> dict[str, list[Step]]:
    return {
        name: [step for step in some if isinstance(step, kinds)]
        for name, some in steps.items()
    }


def _fault(doing: str, error: Exception) -> Trouble:
    return Trouble(
        "internal-error",
        f"While it was to {doing}, cc_kraken failed with "
        f"{type(error).__name__}: {error}",
        "",
        "This is a fault of cc_kraken: please report it with the traceback in the "
        "log. The next run goes on from here.",
    )
