"""``cc-kraken wait``: until a set is mounted, or until this instance is a node.

It looks at what runs leave in /run/cc-kraken, and gives up when nobody is at work.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional

from cc_kraken.boot import stage
from cc_kraken.decide import seen
from cc_kraken.decide.plan import MOUNTED
from cc_kraken.machine import devices, mount_points
from cc_kraken.machine.mountinfo import names_inside
from cc_kraken.machine.paths import Paths
from cc_kraken.model import failure
from cc_kraken.state import report

NEVER = "the module never ran in this boot"
OFF = "the module is switched off by enabled: false"
DRY = "the last run was a dry run"
WARM = "this instance is in a warm pool, and no run waits for the end of that"

Status = Mapping[str, Any]


def for_set(given: str, paths: Paths, *, attached: bool) -> None:
    """Return when a set is up, its owner settled.  ``attached``: one that has nothing
    to mount is up when it is attached and assembled.

    Raises KrakenError ``set-not-up`` and ``owner-pending``.
    """
    wanted = report.UP if attached else (MOUNTED,)

    def is_there(status: Status) -> bool:
        entry = status["sets"].get(_set_name(given, status))
        there = entry is not None and entry["state"] in wanted
        return there and report.is_up(entry, paths)

    status = _until(is_there, paths)
    name = _set_name(given, status) if status else given
    if status is None or not is_there(status):
        why = _why(name, status, paths)
        remedy = "" if "cc-kraken apply" in why else "See cc-kraken status."
        raise failure("set-not-up", f"The set {name} is not up: {why}", "", remedy)
    others = [entry["mount_path"] for entry in status["sets"].values()]
    _settle(name, status["sets"][name], others)


def for_node(paths: Paths) -> None:
    """Return when ``node.env`` says which node this instance is.

    Raises KrakenError ``node-unknown``.
    """
    status = _until(lambda _: os.path.exists(paths.node_env), paths)
    if status is None or not os.path.exists(paths.node_env):
        raise failure(
            "node-unknown",
            f"This instance is no node: {_why_no_node(status)}",
            "",
            "See cc-kraken status.",
        )


def _until(is_there: Callable[[Status], bool], paths: Paths) -> Optional[Status]:
    """The first status for which that is so, else the last one of a run."""
    return stage.watch(paths, lambda one: is_there(one) or _is_over(one), math.inf)


def _is_over(status: Status) -> bool:
    """Whether nobody goes on after this run.  In a warm pool a run waits."""
    at_work = (report.RUNNING, report.STANDBY)
    return status["stage"] != "network" and status["state"] not in at_work


def _set_name(given: str, status: Status) -> str:
    """The set that is meant: a unit's instance name may have systemd's
    escapes in it (``my\\x2dset``)."""
    if given in status["sets"]:
        return given
    return re.sub(
        r"\\x([0-9a-f]{2})", lambda found: chr(int(found.group(1), 16)), given
    )


def not_seen(name: str, entry: Mapping[str, Any], paths: Paths) -> str:
    """Why a set that was mounted is not up now, and what to do."""
    path, volumes = entry["mount_path"], report.volumes(entry)
    now = devices.mounts_now(paths)
    for one in now:
        if one.mount.path == path and one.volumes and one.volumes <= volumes:
            return str(seen.hidden(name, now, one))
    found = seen.at(now, path)
    if found is None:
        return f"nothing is mounted at {path} now. To mount it: cc-kraken apply."
    what = seen.brief(found.mount)
    return f"{what} is mounted at {path} now. Unmount it, then: cc-kraken apply."


def looked_at(status: Status, paths: Paths) -> dict[str, Any]:
    """The status, and how its sets are now: ``not_up`` says of each set why it is not
    up although the last run saw it mounted, or is None."""
    sets = {}
    for name, entry in status["sets"].items():
        gone = entry["state"] == MOUNTED and not report.is_up(entry, paths)
        sets[name] = {**entry, "not_up": not_seen(name, entry, paths) if gone else None}
    return {**status, "sets": sets}


def _why(name: str, status: Optional[Status], paths: Paths) -> str:
    if status is None:
        return NEVER
    entry = status["sets"].get(name)
    if entry is not None and entry["error"]:
        return str(entry["error"]["message"])
    if entry is not None and entry["reason"] and entry["state"] != MOUNTED:
        return str(entry["reason"])
    if status["errors"]:
        return str(status["errors"][0]["message"])
    if entry is not None and entry["state"] == MOUNTED:
        return not_seen(name, entry, paths)
    if status["state"] == report.STANDBY:
        return WARM
    if status["state"] == report.OFF:
        return OFF
    if status["dry_run"] and (entry is not None or not status["sets"]):
        return DRY
    if entry is None:
        known = ", ".join(sorted(status["sets"])) or "none"
        return f"this node has no such set (it has: {known})"
    if entry["state"] in report.UP:
        return (
            f"it is {entry['state']}, not mounted (cc-kraken wait --attached is "
            "content with that)"
        )
    return f"it is {entry['state']}"


def _why_no_node(status: Optional[Status]) -> str:
    if status is None:
        return NEVER
    if status["errors"]:
        return str(status["errors"][0]["message"])
    if status["state"] == report.OFF:
        return OFF
    if status["state"] == report.STANDBY:
        return WARM
    if status["dry_run"]:
        return DRY
    return str(status["waiting_for"] or "no run has written node.env in this boot")


def _settle(
    name: str, entry: Mapping[str, Any], others: Iterable[Optional[str]]
) -> None:
    """Give the mount its owner, if it still waits for one: the service that
    asks is about to start.  ``others``: mount points that may lie in it."""
    pending, path = entry.get("owner"), entry["mount_path"]
    if not pending or not path or os.geteuid() != 0:
        return
    state = mount_points.path_state(path)
    if not state.as_made_but_for(names_inside(path, others)):
        return
    owner, group, mode = pending["owner"], pending["group"], pending["mode"]
    uid = mount_points.user_id(owner) if owner is not None else None
    gid = mount_points.group_id(group) if group is not None else None
    absent = [f"user {owner}"] if owner is not None and uid is None else []
    absent += [f"group {group}"] if group is not None and gid is None else []
    if absent:
        raise failure(
            "owner-pending",
            f"There is no {' and no '.join(absent)} yet, so "
            f"{entry['mount_path']} stays with root.",
            f"The set {name} names it in Owner or Group.",
            f"Make the {' and the '.join(absent)} before the service starts.",
        )
    mount_points.set_owner(entry["mount_path"], uid, gid, mode)
