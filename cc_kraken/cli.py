"""The command ``cc-kraken``, for people and for units.

Exit status: 0 all is well, 1 something is not (said on standard error),
2 wrong usage, of ``fleet`` also that EC2 was not asked, and 3 of ``status``: not
finished, or switched off.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from cc_kraken.boot import cloud_init, stage
from cc_kraken.boot.configured import is_ec2
from cc_kraken.commands import fleet, peers, wait
from cc_kraken.commands.shown import (
    POOL,
    fleet_text,
    plan_text,
    status_text,
    terminal_text,
)
from cc_kraken.machine import journal
from cc_kraken.machine.clock import ended_by_signals
from cc_kraken.machine.paths import Paths
from cc_kraken.model import VERSION, KrakenError, failure, of_set
from cc_kraken.state import report

LOG = logging.getLogger(__name__)

NOT_FINISHED = 3
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

DESCRIPTION = """\
The EBS volumes of this EC2 instance: attached, formatted where blank, mounted.

Tags say which volumes belong to it and where they go. At boot cloud-init brings
them up; this command shows what came of that, and does the same by hand.
"""
EPILOG = """\
First look:      cc-kraken status
What would run:  cc-kraken plan
An error:        cc-kraken explain zone-other
Before a boot:   cc-kraken check user-data.yaml
An account:      cc-kraken fleet --region us-east-1

Exit status: 0 all is well, 1 something is not, 2 wrong usage, of fleet also
that EC2 was not asked; of status also 3: not finished, switched off, or a dry
run.
See cc-kraken(8).
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    _open_what_is_closed()
    options = _parser().parse_args(argv)
    # What a program reads (peers) is right, or it is not printed.
    if isinstance(sys.stdout, io.TextIOWrapper) and options.command != "peers":
        sys.stdout.reconfigure(errors="backslashreplace")
    with _said(logging.DEBUG if options.debug else options.level, options.debug):
        try:
            code: int = options.call(options)
            print(end="", flush=True)  # a reader that has gone away is met here
            return code
        except KrakenError as error:
            text = report.with_more(str(error))
            _complain(text, getattr(options, "set", ""))
            return 1
        except KeyboardInterrupt:
            _say("interrupted; the next run goes on from here")
            return 1
        except BrokenPipeError:
            _drop_output()
            return 1
        except OSError as error:
            # What a run writes to a file has the file's name.
            if error.errno not in FULL or error.filename is not None:
                raise
            _drop_output()
            _say(f"standard output cannot be written ({error.strerror})")
            return 1


def _open_what_is_closed() -> None:
    """Python has None for what its caller has closed, and so has nobody to print to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())


def _drop_output() -> None:
    """Or Python tries once more to write it as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str, name: str = "") -> None:
    """Say an error, of a set or of the node, to whoever reads standard error."""
    if journal.gets_standard_error():
        LOG.error("%s", text, extra=of_set(name))
    else:
        _say(text)


def _say(text: str) -> None:
    print(f"cc-kraken: {text}", file=sys.stderr)


@contextlib.contextmanager
def _said(level: int, debug: bool) -> Iterator[None]:
    """What the program logs goes to standard error, or with fields to journald when
    that is what reads it.

    By our own logger: the import of cloud-init 22.4 takes away the root's handlers,
    and its own details are none of ours.
    """
    logger = logging.getLogger("cc_kraken")
    level_before, propagate_before = logger.level, logger.propagate
    handler: logging.Handler = logging.StreamHandler()
    if journal.gets_standard_error():
        handler = journal.handler(otherwise=handler) or handler
    if debug:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level_before)
        logger.propagate = propagate_before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cc-kraken",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _flag(parser, "--debug", "say every detail")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(level=logging.INFO)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, call: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        made.set_defaults(call=call)
        return made

    status = add("status", _status, "show each set, and whether it is up now")
    form = status.add_mutually_exclusive_group()
    _flag(form, "--json", "as JSON")
    _flag(form, "--prometheus", "as metrics for Prometheus")
    plan = add("plan", _plan, "say what a run would do now, and change nothing")
    _flag(plan, "--json", "the status as JSON")
    plan.epilog = "Exit status: 0, also where a set waits; 1 where a set is refused."
    plan.set_defaults(level=logging.CRITICAL)  # the plan says all of it, once
    apply = add("apply", _apply, "bring up what is not up")
    _flag(apply, "--background", "as cc-kraken.service does")
    text = "for what is late (default: boot_wait of the section, 90)"
    apply.add_argument("--wait", type=_seconds, metavar="SECONDS", help=text)
    waits = add("wait", _wait, "wait until a set is mounted, or fail")
    awaited = waits.add_mutually_exclusive_group(required=True)
    awaited.add_argument("set", metavar="SET", nargs="?", help="its VolumeName")
    _flag(awaited, "--node", "wait until it is known which node this instance is")
    _flag(waits, "--attached", "a set that has nothing to mount is enough")
    peers.add_options(add("peers", _peers, "say which instance is which node"))
    text = "check the volumes of an account, on your own machine"
    fleet.add_options(add("fleet", _fleet, text))
    text = "say what an error means and what to do, or list all errors"
    explain = add("explain", _explain, text)
    text = "as in brackets: zone-other"
    explain.add_argument("kind", metavar="KIND", nargs="*", help=text)
    check = add("check", _check, "check user-data, or a file of conf.d, before a boot")
    check.add_argument("file", metavar="FILE", nargs="+", help="- is standard input")
    enable = add("enable", _enable, "put the module into cloud-init's lists")
    how = enable.add_mutually_exclusive_group()
    text = "put the key kraken into cloud-init's schema, on RPM systems too"
    _flag(how, "--schema", text, default=None)
    text = "leave cloud-init's schema alone"
    how.add_argument("--no-schema", dest="schema", action="store_false", help=text)
    _flag(how, "--check", "change nothing; fail unless cloud-init will run the module")
    add("disable", _disable, "take the module out of those lists")
    return parser


def _flag(parser: Any, name: str, text: str, **more: object) -> None:
    parser.add_argument(name, action="store_true", help=text, **more)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _need_root() -> None:
    if os.geteuid() != 0:
        found = f"This is run by user {os.geteuid()}."
        raise failure("not-root", found, "Only root may run it.", "Run it with sudo.")


def _run(name: str, wait: Optional[float] = None) -> Optional[dict[str, Any]]:
    """A run by hand or of the unit; None when there is nothing to do here."""
    _need_root()
    os.umask(0o022)  # what is written here is for everybody to read
    paths = Paths()
    section, datasource = stage.load_by_hand(paths)
    if not is_ec2(datasource):
        _say("this is no EC2 instance: nothing to do")
        return None
    if section is None:
        _say("there is no kraken section and no file of ours: nothing to do")
        return None
    if not section.enabled:
        _say(
            f"switched off by enabled: false in {section.off_by}. User-data and "
            "/etc/cloud/cloud.cfg.d are stronger than /etc/cc-kraken/conf.d."
        )
        if section.mistakes:
            _say(f"switched off, and wrong: {report.with_more(section.mistakes)}")
        return None
    background = name == "background"
    if wait is None:
        wait = float(section.wait if background else section.boot_wait)
    with ended_by_signals() as clock:
        return stage.carry_out(
            section,
            cloud_init.identity(datasource),
            paths,
            cloud_init.Events(None).enter,
            name,
            seconds=wait,
            dry_run=section.dry_run or name == "plan",
            clock=clock,
            notes=_notes() if background else (),
        )


def _notes() -> Sequence[str]:
    """What is wrong with how the module is listed in cloud-init."""
    from cc_kraken.boot import enable

    try:
        text = enable.stale(Paths())
    except KrakenError as error:
        text = str(error)
    return (text,) if text else ()


def _plan(options: argparse.Namespace) -> int:
    status = _run("plan", wait=0.0)
    if status is None:
        return 0
    print(json.dumps(status, indent=2) if options.json else plan_text(status))
    return 1 if status["state"] == report.FAILED else 0


def _apply(options: argparse.Namespace) -> int:
    status = _run("background") if options.background else _run("apply", options.wait)
    if status is None:
        return 0
    if status["dry_run"]:
        print(plan_text(status))
    text = stage.failures(status, pending=True)
    if text:
        _complain(text if options.background else _in_short(status) or text)
        return 1
    print(f"cc-kraken: {_summary(status)}")
    return 0


def _in_short(status: Mapping[str, Any]) -> Optional[str]:
    """What failed in a run that has said each reason as it came; None: one is not
    said yet."""
    kinds = [entry["kind"] for entry in status["errors"]]
    failed = [f"[{kind}]" for kind in kinds]
    for name, entry in status["sets"].items():
        if entry["error"]:
            kinds.append(entry["error"]["kind"])
            failed.append(f"{name} [{kinds[-1]}]")
        elif entry["required"] and entry["state"] not in report.UP:
            return None
    if not failed:
        return None
    more = report.more_about(dict.fromkeys(kinds))
    return f"failed: {', '.join(failed)}. The reasons stand above.{more}"


def _summary(status: Mapping[str, Any]) -> str:
    """A run that went well, in one line."""
    if status["dry_run"]:
        return "nothing was changed, because the section says dry_run: true"
    if status["state"] == report.STANDBY:
        return POOL
    places = [
        f"{name} is {entry['state']}"
        + (f" at {entry['mount_path']}" if entry["mount_path"] else "")
        for name, entry in status["sets"].items()
    ]
    return f"{status['state']}: {', '.join(places)}"


def _status(options: argparse.Namespace) -> int:
    paths = Paths()
    status = report.read(paths)
    if status is None:
        _complain(
            "No run has left a status in this boot. 'cloud-init status --long' tells "
            "whether cloud-init ran; 'cc-kraken enable --check', whether it runs the "
            "module. By hand: cc-kraken apply."
        )
        return NOT_FINISHED
    status = wait.looked_at(status, paths)
    lost = [name for name, entry in status["sets"].items() if entry["not_up"]]
    if options.json:
        print(json.dumps(status, indent=2))
    elif options.prometheus:
        from cc_kraken.state import metrics

        print(metrics.text(status), end="")
        for name in lost:
            _say(f"{name} is not up now: {status['sets'][name]['not_up']}")
    elif sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        hint = _hint(status, paths)
        print(terminal_text(status, columns, hint, colour=_has_colour()))
    else:
        print(status_text(status, _hint(status, paths)))
    if lost or status["state"] == report.FAILED:
        return 1
    finished = status["state"] == report.DONE and not status["dry_run"]
    return 0 if finished else NOT_FINISHED


def _hint(status: Mapping[str, Any], paths: Paths) -> str:
    """What to do where nothing that arrives switches the module on; else ""."""
    if status["state"] != report.OFF:
        return ""
    from cc_kraken.commands import userdata

    name = os.path.join(paths.instance, "user-data.txt")
    right = userdata.is_right(name)
    return "" if right else f"Check the user-data: cc-kraken check {name}"


def _has_colour() -> bool:
    """Whether a terminal is to show colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _wait(options: argparse.Namespace) -> int:
    if options.node:
        wait.for_node(Paths())
    else:
        wait.for_set(options.set, Paths(), attached=options.attached)
    return 0


def _peers(options: argparse.Namespace) -> int:
    _need_root()
    return peers.command(options)


def _fleet(options: argparse.Namespace) -> int:
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else 0
    colour = terminal and _has_colour()
    return fleet.command(options, lambda one: fleet_text(one, columns, colour=colour))


def _check(options: argparse.Namespace) -> int:
    return max([_check_file(name) for name in options.file])


def _check_file(name: str) -> int:
    from cc_kraken.commands import userdata

    shown = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        checked = userdata.check(data, shown)
    except OSError as error:
        raise failure(
            "cannot-read",
            f"{name} cannot be read: {error.strerror}.",
            "It must be a cloud-config file.",
            "Name another file.",
        ) from None
    except KrakenError as error:
        _say(report.with_more(str(error)))
        return 1
    findings = sorted(checked.findings, key=lambda one: one.line)
    for finding in findings:
        print(finding, file=sys.stderr)
    more = report.more(" ".join(one.text for one in findings))
    if more:
        print(more.strip(), file=sys.stderr)
    if not checked.findings:
        right = "the kraken section is right"
        print(f"{shown}: {right if checked.sections else 'no kraken section'}")
    for note in checked.notes:
        print(f"{shown}: {note}")
    return 1 if checked.findings else 0


def _explain(options: argparse.Namespace) -> int:
    from cc_kraken.commands import explain

    print(explain.text(options.kind) if options.kind else explain.listed())
    return 0


def _enable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    if options.check:
        found = enable.faults(Paths())
        for text in found:
            _say(text)
        if not found:
            print("cloud-init will run the module at the next boot.")
        return 1 if found else 0
    _need_root()
    for text in enable.enable(Paths(), options.schema):
        print(text)
    return 0


def _disable(options: argparse.Namespace) -> int:
    from cc_kraken.boot import enable

    _need_root()
    for text in enable.disable(Paths()):
        print(text)
    return 0
