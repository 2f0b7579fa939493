"""What a round's plans come to, in the report and in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Optional

from cc_kraken.decide.plan import MOUNTED, PLANNED, Plan
from cc_kraken.decide.steps import GROW
from cc_kraken.decide.world import World
from cc_kraken.model import Claim, Trouble, of_set
from cc_kraken.state.report import DONE, FAILED, PENDING, Report, error

LOG = logging.getLogger(__name__)


def to_come(plan: Plan) -> bool:
    """Whether a set is not up before these steps: growing is no such step."""
    return any(step.phase != GROW for step in plan.steps)


def update(
    report: Report,
    plan: Plan,
    claim: Optional[Claim],
    world: World,
    held: Optional[Trouble],
    *,
    dry_run: bool,
) -> None:
    """Bring the entry of one set up to date.

    ``claim`` None: a set that this node no longer has.  ``held``: why its steps
    were put off.
    """
    if claim is None:
        for text in plan.warnings:
            report.warn(text)
        return
    array = world.array(plan.array_uuid) if plan.array_uuid else None
    report.describe(claim, world.devices, array, plan.mount_path)
    entry = report.set(plan.name)
    entry["plan"] = [str(step) for step in plan.steps]
    entry["outcomes"] = list(plan.outcomes)
    if plan.filesystem is not None and plan.filesystem.uuid:
        entry["filesystem"] = {
            "type": plan.filesystem.type,
            "uuid": plan.filesystem.uuid,
            "label": plan.filesystem.label,
        }
    trouble = plan.trouble
    refused = trouble is not None and not trouble.waits
    entry["error"] = error(trouble) if trouble and refused else None
    entry["reason"] = str(trouble) if trouble and not refused else None
    entry["state"] = plan.state
    if dry_run:
        if plan.steps and plan.state != MOUNTED:
            entry["state"] = PLANNED
    elif to_come(plan) and trouble is None:
        entry["state"] = PENDING
        entry["reason"] = str(held) if held else f"to do: {plan.steps[0]}"
    entry["owner"] = None
    if trouble is not None and trouble.kind == "owner-pending":
        # What cc-kraken wait needs to settle it by itself.
        wish = claim.wanted
        entry["owner"] = {"owner": wish.owner, "group": wish.group, "mode": wish.mode}
    report.notes(plan.name, plan.notes)
    for text in plan.warnings:
        report.warn(f"{plan.name}: {text}", plan.name)


def log_planned(plans: Sequence[Plan]) -> str:
    """Log what a run would do; the end state of a dry run."""
    for plan in plans:
        own = of_set(plan.name)
        if plan.trouble is not None:
            LOG.info("%s: %s", plan.name, plan.trouble, extra=own)
        for step in plan.steps:
            LOG.info("%s: would %s", plan.name, step, extra=own)
        for outcome in plan.outcomes:
            LOG.info("%s: %s", plan.name, outcome, extra=own)
    refused = any(plan.trouble and not plan.trouble.waits for plan in plans)
    return FAILED if refused else DONE


def log_done(report: Report, plans: Sequence[Plan]) -> None:
    for plan in plans:
        entry = report.sets.get(plan.name)
        if entry is None:
            continue
        where = f" at {entry['mount_path']}" if entry["mount_path"] else ""
        did = "; ".join(entry["done"]) or "nothing to do"
        own = of_set(plan.name)
        LOG.info("%s is %s%s (%s)", plan.name, plan.state, where, did, extra=own)
