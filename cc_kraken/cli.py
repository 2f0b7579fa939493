"""The command ``cc-kraken``, for people and for units.

Exit status: 0 all is well, 1 something is not (said on standard error),
2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from cc_kraken.act import report
from cc_kraken.boot import cloud_init, stage
from cc_kraken.boot.configured import is_ec2
from cc_kraken.decide import seen
from cc_kraken.decide.plan import MOUNTED
from cc_kraken.machine import devices, mounts
from cc_kraken.machine.clock import ended_by_signals
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError, Trouble

LOG = logging.getLogger("cc_kraken")

WAIT_EVERY = 0.5
ALIVE_EVERY = 5.0


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(levelname)s: %(message)s" if options.debug else "%(message)s",
        stream=sys.stderr,
    )
    try:
        code: int = options.call(options)
        return code
    except KrakenError as error:
        print(f"cc-kraken: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cc-kraken: interrupted; the next run goes on from here", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cc-kraken",
        description="Bring up the EBS volumes of this node, as the kraken section "
        "and the tags say.",
    )
    parser.add_argument("--debug", action="store_true", help="say every detail")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    plan = commands.add_parser("plan", help="look at everything, change nothing")
    plan.add_argument("--json", action="store_true", help="the status as JSON")
    plan.set_defaults(call=_plan)

    apply = commands.add_parser("apply", help="bring the volumes up")
    apply.add_argument(
        "--background", action="store_true", help="as cc-kraken.service does"
    )
    apply.add_argument(
        "--wait", type=float, metavar="SECONDS", help="how long to wait (boot_wait)"
    )
    apply.set_defaults(call=_apply)

    status = commands.add_parser("status", help="what the last run left")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(call=_status)

    wait = commands.add_parser("wait", help="wait until a set is mounted")
    wait.add_argument(
        "--attached",
        action="store_true",
        help="a set that has no mount path is enough",
    )
    wait.add_argument("set", metavar="SET")
    wait.set_defaults(call=_wait)

    check = commands.add_parser("check", help="check user-data before a boot")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(call=_check)

    enable = commands.add_parser("enable", help="list the module in cloud-init")
    enable.add_argument(
        "--no-schema", action="store_true", help="leave cloud-init's schema alone"
    )
    enable.set_defaults(call=_enable)
    disable = commands.add_parser("disable", help="take that back")
    disable.set_defaults(call=_disable)
    return parser


def _need_root() -> None:
    if os.geteuid() != 0:
        raise KrakenError(
            Trouble(
                "not-root",
                f"This is run by user {os.geteuid()}",
                "root",
                "Run it with sudo.",
            )
        )


# ------------------------------------------------------------------ the runs


def _run(
    name: str, *, wait: Optional[float], dry_run: bool
) -> Optional[Dict[str, Any]]:
    """A run by hand or of the unit; None when there is nothing to do here."""
    _need_root()
    paths = Paths()
    section, datasource = stage.load_by_hand(paths)
    if not is_ec2(datasource):
        print("cc-kraken: this is no EC2 instance: nothing to do", file=sys.stderr)
        return None
    if section is None:
        print(
            "cc-kraken: there is no kraken section and no file of ours: nothing to do",
            file=sys.stderr,
        )
        return None
    if not section.enabled:
        print("cc-kraken: switched off by enabled: false", file=sys.stderr)
        return None
    background = name == "background"
    seconds = wait if wait is not None else float(section.boot_wait)
    if background:
        seconds = float(section.wait)
    with ended_by_signals() as clock:
        return stage.carry_out(
            section,
            cloud_init.identity(datasource),
            paths,
            cloud_init.Events(None, "kraken"),
            name,
            seconds=seconds,
            final=True,
            dry_run=dry_run or section.dry_run,
            clock=clock,
            notes=_notes() if background else (),
        )


def _notes() -> Sequence[str]:
    """What is wrong with how the module is listed in cloud-init."""
    from cc_kraken.boot import enable

    try:
        text = enable.stale()
    except KrakenError as error:
        text = str(error)
    return (text,) if text else ()


def _plan(options: argparse.Namespace) -> int:
    logging.getLogger().setLevel(logging.DEBUG if options.debug else logging.WARNING)
    status = _run("plan", wait=0.0, dry_run=True)
    if status is None:
        return 0
    print(json.dumps(status, indent=2) if options.json else plan_text(status))
    return 1 if status["state"] == report.FAILED else 0


def _apply(options: argparse.Namespace) -> int:
    name = "background" if options.background else "apply"
    status = _run(name, wait=options.wait, dry_run=False)
    if status is None:
        return 0
    text = stage.failures(status, pending=True)
    if text:
        print(f"cc-kraken: {text}", file=sys.stderr)
        return 1
    return 0


def plan_text(status: Mapping[str, Any]) -> str:
    """A dry run for people, step by step."""
    lines: List[str] = []
    node = status["node"]
    if node:
        lines.append(f"node {node['prefix']}/{node['node_id']}: nothing is changed")
    for name, entry in status["sets"].items():
        lines.append(f"{name}:")
        if entry["error"]:
            lines.append(f"  refused: {entry['error']['message']}")
        elif entry["reason"]:
            lines.append(f"  waits: {entry['reason']}")
        elif not entry["plan"]:
            lines.append(f"  {entry['state']}: nothing to do")
        lines += [f"  {n}. {step}" for n, step in enumerate(entry["plan"], 1)]
        lines += [f"  - {outcome}" for outcome in entry["outcomes"]]
    lines += [f"note: {text}" for text in status.get("notes", ())]
    lines += [f"warning: {text}" for text in status["warnings"]]
    lines += [f"error: {entry['message']}" for entry in status["errors"]]
    return "\n".join(lines)


# -------------------------------------------------------------------- status


def _status(options: argparse.Namespace) -> int:
    status = report.read(Paths())
    if status is None:
        print("cc-kraken: no run has left a status in this boot", file=sys.stderr)
        return 1
    print(json.dumps(status, indent=2) if options.json else status_text(status))
    return 1 if status["state"] == report.FAILED else 0


def status_text(status: Mapping[str, Any]) -> str:
    """The status as a table."""
    node = status["node"]
    who = f"node {node['prefix']}/{node['node_id']}" if node else "no node"
    instance = status["instance"]
    if instance:
        who += f" on {instance['id']} in {instance['zone']}"
    lines = [f"{status['state']}: {who} (stage {status['stage']})"]
    if status["waiting_for"]:
        lines.append(f"waiting: {status['waiting_for']}")
    rows = [("SET", "STATE", "MOUNT PATH", "TYPE", "DEVICE", "VOLUMES")]
    for name, entry in status["sets"].items():
        array, filesystem = entry["array"], entry["filesystem"]
        device = array["device"] if array else None
        if device is None:
            device = next((v["device"] for v in entry["volumes"] if v["device"]), "-")
        rows.append(
            (
                name,
                entry["state"],
                entry["mount_path"] or "-",
                filesystem["type"] if filesystem else "-",
                device,
                ",".join(volume["id"] for volume in entry["volumes"]) or "-",
            )
        )
    if len(rows) > 1:
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
    for name, entry in status["sets"].items():
        if entry["error"]:
            lines.append(f"error: {name}: {entry['error']['message']}")
        elif entry["reason"]:
            lines.append(f"{name}: {entry['reason']}")
        if entry["state"] in report.UP:
            lines += [f"{name}: later: {text}" for text in entry["outcomes"]]
        lines += [f"{name}: {text}" for text in entry.get("notes", ())]
    lines += [f"error: {entry['message']}" for entry in status["errors"]]
    lines += [f"note: {text}" for text in status.get("notes", ())]
    lines += [f"warning: {text}" for text in status["warnings"]]
    return "\n".join(lines)


# ---------------------------------------------------------------------- wait


def _wait(options: argparse.Namespace) -> int:
    paths = Paths()
    name = options.set
    next_alive = time.monotonic() + ALIVE_EVERY
    while True:
        status = report.read(paths)
        if status is None:
            raise _not_up(name, "the module never ran in this boot")
        name = _set_name(options.set, status)
        entry = status["sets"].get(name)
        if entry is not None and _is_there(entry, paths, options.attached):
            _settle(name, entry, paths)
            return 0
        over = status["stage"] != "network" and status["state"] != report.RUNNING
        if over:
            raise _not_up(name, _why(name, status, entry, paths))
        if time.monotonic() >= next_alive:
            next_alive = time.monotonic() + ALIVE_EVERY
            if not stage.at_work(paths) and not stage.background_alive():
                status = report.read(paths) or status
                entry = status["sets"].get(name)
                if entry is None or not _is_there(entry, paths, options.attached):
                    raise _not_up(name, _why(name, status, entry, paths))
        time.sleep(WAIT_EVERY)


def _is_there(entry: Mapping[str, Any], paths: Paths, attached: bool) -> bool:
    wanted = report.UP if attached else (MOUNTED,)
    return entry["state"] in wanted and report.is_up(entry, paths)


def _set_name(given: str, status: Mapping[str, Any]) -> str:
    """The set that is meant: a unit's instance name may have systemd's
    escapes in it (``my\\x2dset``)."""
    if given in status["sets"]:
        return given
    return re.sub(
        r"\\x([0-9a-f]{2})", lambda found: chr(int(found.group(1), 16)), given
    )


def _not_seen(name: str, entry: Mapping[str, Any], paths: Paths) -> str:
    """Why a set that was mounted is not up now."""
    path, volumes = entry["mount_path"], report.volumes(entry)
    now = devices.mounts_now(paths)
    for one in now:
        if one.mount.path == path and one.volumes and one.volumes <= volumes:
            return str(seen.hidden(name, now, one))
    found = seen.at(now, path)
    what = seen.brief(found.mount) if found else "nothing"
    return f"{what} is mounted at {path} now"


def _why(
    name: str,
    status: Mapping[str, Any],
    entry: Optional[Mapping[str, Any]],
    paths: Paths,
) -> str:
    if entry is not None and entry["error"]:
        return str(entry["error"]["message"])
    if entry is not None and entry["reason"] and entry["state"] != MOUNTED:
        return str(entry["reason"])
    if status["errors"]:
        return str(status["errors"][0]["message"])
    if entry is not None and entry["state"] == MOUNTED:
        return _not_seen(name, entry, paths)
    if entry is None:
        known = ", ".join(sorted(status["sets"])) or "none"
        return f"this node has no such set (it has: {known})"
    if entry["state"] in report.UP:
        return (
            f"it is {entry['state']}, not mounted (cc-kraken wait --attached is "
            "content with that)"
        )
    return f"it is {entry['state']}"


def _not_up(name: str, why: str) -> KrakenError:
    return KrakenError(
        Trouble(
            "set-not-up",
            f"The set {name} is not up: {why.rstrip('.')}",
            "",
            "See cc-kraken status.",
        )
    )


def _settle(name: str, entry: Mapping[str, Any], paths: Paths) -> None:
    """Give the mount its owner, if it still waits for one: the service that
    asks is about to start."""
    pending = entry.get("owner")
    if not pending or not entry["mount_path"] or os.geteuid() != 0:
        return
    state = mounts.path_state(entry["mount_path"])
    if state.entries or (state.uid, state.gid, state.mode) != (0, 0, 0o755):
        return
    owner, group, mode = pending["owner"], pending["group"], pending["mode"]
    uid = mounts.user_id(owner) if owner is not None else None
    gid = mounts.group_id(group) if group is not None else None
    if (owner is not None and uid is None) or (group is not None and gid is None):
        raise KrakenError(
            Trouble(
                "owner-pending",
                f"There is no user {owner} or no group {group} yet, "
                f"{entry['mount_path']} stays with root",
                f"the owner that the set {name} names",
                "Make the user before the service starts.",
            )
        )
    mounts.set_owner(entry["mount_path"], uid, gid, mode)


# ------------------------------------------------------------------ the rest


def _check(options: argparse.Namespace) -> int:
    from cc_kraken.boot import userdata

    try:
        with open(options.file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise KrakenError(
            Trouble(
                "cannot-read",
                f"{options.file} cannot be read: {error.strerror}",
                "a cloud-config file",
                "Name another file.",
            )
        ) from None
    checked = userdata.check(data, options.file)
    for finding in checked.findings:
        print(finding, file=sys.stderr)
    if not checked.findings:
        right = "the kraken section is right" if checked.sections else ""
        print(f"{options.file}: {right or 'no kraken section'}")
    for note in checked.notes:
        print(f"{options.file}: {note}")
    return 1 if checked.findings else 0


def _enable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    _need_root()
    for text in enable.enable(no_schema=options.no_schema):
        print(text)
    return 0


def _disable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    _need_root()
    for text in enable.disable():
        print(text)
    return 0
