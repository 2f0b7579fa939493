"""The command ``cc-kraken``, for people and for units.

Exit status: 0 all is well, 1 something is not (said on standard error),
2 wrong usage, and 3 of ``status``: not finished, or switched off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import re
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from cc_kraken.act import report
from cc_kraken.boot import cloud_init, stage
from cc_kraken.boot.configured import is_ec2
from cc_kraken.decide import seen
from cc_kraken.decide.plan import MOUNTED
from cc_kraken.machine import devices, mount_points
from cc_kraken.machine.clock import ended_by_signals
from cc_kraken.machine.paths import Paths
from cc_kraken.model import VERSION, KrakenError, Trouble

WAIT_EVERY = 0.5
ALIVE_EVERY = 5.0
NOT_FINISHED = 3

DESCRIPTION = """\
The EBS volumes of this EC2 instance, attached, formatted where blank, and mounted.

Tags say which volumes belong to it and where they go. At boot cloud-init brings
them up; this command shows what came of that, and does the same by hand.
"""
EPILOG = """\
First look:      cc-kraken status
What would run:  cc-kraken plan
An error:        cc-kraken explain zone-other
Before a boot:   cc-kraken check user-data.yaml

Exit status: 0 all is well, 1 something is not, 2 wrong usage;
of status also 3: not finished, or switched off. See cc-kraken(8).
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(argv)
    with _said(logging.DEBUG if options.debug else options.level, options.debug):
        try:
            code: int = options.call(options)
            return code
        except KrakenError as error:
            print(f"cc-kraken: {error}{report.more(str(error))}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            words = "interrupted; the next run goes on from here"
            print(f"cc-kraken: {words}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


@contextlib.contextmanager
def _said(level: int, debug: bool) -> Iterator[None]:
    """What the program logs goes to standard error.

    By our own logger: the import of cloud-init 22.4 takes away the root's handlers,
    and its own details are none of ours.
    """
    logger = logging.getLogger("cc_kraken")
    level_before, propagate_before = logger.level, logger.propagate
    handler = logging.StreamHandler()
    if debug:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        logger.propagate = propagate_before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cc-kraken",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="say every detail")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(level=logging.INFO)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, call: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        made.set_defaults(call=call)
        return made

    status = add("status", _status, "show each set as the last run left it")
    status.add_argument("--json", action="store_true", help="as JSON")
    plan = add("plan", _plan, "say what a run would do now, and change nothing")
    plan.add_argument("--json", action="store_true", help="the status as JSON")
    plan.set_defaults(level=logging.WARNING)
    apply = add("apply", _apply, "bring up what is not up")
    apply.add_argument(
        "--background", action="store_true", help="as cc-kraken.service does"
    )
    apply.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="for what is late (default: boot_wait of the section, 90)",
    )
    wait = add("wait", _wait, "wait until a set is mounted, or fail")
    wait.add_argument("set", metavar="SET", help="its VolumeName")
    wait.add_argument(
        "--attached",
        action="store_true",
        help="a set that has nothing to mount is enough",
    )
    explain = add("explain", _explain, "say what an error means and what to do")
    explain.add_argument(
        "kind", metavar="KIND", nargs="*", help="as in brackets: zone-other; none: list"
    )
    check = add("check", _check, "check user-data or a file of ours before a boot")
    check.add_argument("file", metavar="FILE", nargs="+", help="- is standard input")
    enable = add("enable", _enable, "put the module into cloud-init's lists")
    how = enable.add_mutually_exclusive_group()
    how.add_argument(
        "--schema",
        action="store_true",
        default=None,
        help="put the key kraken into cloud-init's schema, on RPM systems too",
    )
    how.add_argument(
        "--no-schema",
        dest="schema",
        action="store_false",
        help="leave cloud-init's schema alone",
    )
    how.add_argument(
        "--check",
        action="store_true",
        help="change nothing; fail unless cloud-init will run the module",
    )
    add("disable", _disable, "take that back")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


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
        words = "switched off by enabled: false; the strongest source decides"
        print(f"cc-kraken: {words}", file=sys.stderr)
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
    if status["dry_run"]:
        print(plan_text(status))
    text = stage.failures(status, pending=True)
    if text:
        print(f"cc-kraken: {text}", file=sys.stderr)
        return 1
    print(f"cc-kraken: {_summary(status)}")
    return 0


def _summary(status: Mapping[str, Any]) -> str:
    """A run that went well, in one line."""
    if status["dry_run"]:
        return "nothing was changed, because the section says dry_run: true"
    places = [
        f"{name} is {entry['state']}"
        + (f" at {entry['mount_path']}" if entry["mount_path"] else "")
        for name, entry in status["sets"].items()
    ]
    return f"{status['state']}: {', '.join(places)}"


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
    paths = Paths()
    status = report.read(paths)
    if status is None:
        print("cc-kraken: no run has left a status in this boot", file=sys.stderr)
        return NOT_FINISHED
    print(json.dumps(status, indent=2) if options.json else status_text(status))
    lost = [
        f"{name} is not up now: {_not_seen(name, entry, paths)}"
        for name, entry in status["sets"].items()
        if entry["state"] == MOUNTED and not report.is_up(entry, paths)
    ]
    for text in lost:
        print(f"cc-kraken: {text}", file=sys.stderr)
    if lost or status["state"] == report.FAILED:
        return 1
    finished = status["state"] == report.DONE and not status["dry_run"]
    return 0 if finished else NOT_FINISHED


def status_text(status: Mapping[str, Any]) -> str:
    """The status as a table."""
    node = status["node"]
    who = f"node {node['prefix']}/{node['node_id']}" if node else "no node"
    instance = status["instance"]
    if instance:
        who += f" on {instance['id']} in {instance['zone']}"
    lines = [f"{status['state']}: {who} (stage {status['stage']})"]
    if status["state"] == report.OFF:
        lines.append("enabled: false; user-data with enabled: true switches it on")
    if status["waiting_for"]:
        lines.append(f"waiting: {status['waiting_for']} ({report.awaited(status)})")
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
    hint = report.more("\n".join(lines).replace("\n", " "))
    return "\n".join([*lines, hint.strip()] if hint else lines)


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
    state = mount_points.path_state(entry["mount_path"])
    if state.entries or (state.uid, state.gid, state.mode) != (0, 0, 0o755):
        return
    owner, group, mode = pending["owner"], pending["group"], pending["mode"]
    uid = mount_points.user_id(owner) if owner is not None else None
    gid = mount_points.group_id(group) if group is not None else None
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
    mount_points.set_owner(entry["mount_path"], uid, gid, mode)


# ------------------------------------------------------------------ the rest


def _check(options: argparse.Namespace) -> int:
    return max([_check_file(name) for name in options.file])


def _check_file(name: str) -> int:
    from cc_kraken.boot import userdata

    shown = "standard input" if name == "-" else name
    try:
        with contextlib.ExitStack() as stack:
            stream = sys.stdin.buffer
            if name != "-":
                stream = stack.enter_context(open(name, "rb"))
            checked = userdata.check(stream.read(), shown)
    except OSError as error:
        raise KrakenError(
            Trouble(
                "cannot-read",
                f"{name} cannot be read: {error.strerror}",
                "a cloud-config file",
                "Name another file.",
            )
        ) from None
    except KrakenError as error:
        print(f"cc-kraken: {error}", file=sys.stderr)
        return 1
    for finding in checked.findings:
        print(finding, file=sys.stderr)
    if not checked.findings:
        right = "the kraken section is right" if checked.sections else ""
        print(f"{shown}: {right or 'no kraken section'}")
    for note in checked.notes:
        print(f"{shown}: {note}")
    return 1 if checked.findings else 0


def _explain(options: argparse.Namespace) -> int:
    from cc_kraken.boot import explain

    print(explain.text(options.kind) if options.kind else explain.listed())
    return 0


def _enable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    if options.check:
        found = enable.faults()
        for text in found:
            print(f"cc-kraken: {text}", file=sys.stderr)
        if not found:
            print("cloud-init will run the module at the next boot.")
        return 1 if found else 0
    _need_root()
    for text in enable.enable(schema=options.schema):
        print(text)
    return 0


def _disable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    _need_root()
    for text in enable.disable():
        print(text)
    return 0
