"""The command ``cc-kraken``, for people and for units.

Exit status: 0 all is well, 1 something is not (said on standard error),
2 wrong usage, of ``fleet`` also that EC2 was not asked, and 3 of ``status``: not
finished, or switched off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from cc_kraken.act import report
from cc_kraken.boot import cloud_init, fleet, peers, stage, wait
from cc_kraken.boot.configured import is_ec2
from cc_kraken.decide.plan import MOUNTED
from cc_kraken.machine import journal
from cc_kraken.machine.clock import ended_by_signals
from cc_kraken.machine.paths import Paths
from cc_kraken.model import VERSION, KrakenError, failure, of_set
from cc_kraken.shown import fleet_text, plan_text, status_text, terminal_text

LOG = logging.getLogger(__name__)

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
An account:      cc-kraken fleet --region us-east-1

Exit status: 0 all is well, 1 something is not, 2 wrong usage, of fleet also that
EC2 was not asked; of status also 3: not finished, or switched off. See cc-kraken(8).
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(argv)
    with _said(logging.DEBUG if options.debug else options.level, options.debug):
        try:
            code: int = options.call(options)
            return code
        except KrakenError as error:
            text = f"{error}{report.more(str(error))}"
            _complain(text, getattr(options, "set", ""))
            return 1
        except KeyboardInterrupt:
            words = "interrupted; the next run goes on from here"
            print(f"cc-kraken: {words}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def _complain(text: str, name: str = "") -> None:
    """Say an error, of a set or of the node, to whoever reads standard error."""
    if journal.gets_standard_error():
        LOG.error("%s", text, extra=of_set(name))
    else:
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
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument(
        "--prometheus", action="store_true", help="as metrics for Prometheus"
    )
    plan = add("plan", _plan, "say what a run would do now, and change nothing")
    plan.add_argument("--json", action="store_true", help="the status as JSON")
    plan.set_defaults(level=logging.CRITICAL)  # the plan says all of it, once
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
    waits = add("wait", _wait, "wait until a set is mounted, or fail")
    _wait_options(waits)
    peers.add_options(add("peers", _peers, "say which instance is which node"))
    text = "check the volumes of an account, on your own machine"
    fleet.add_options(add("fleet", _fleet, text))
    explain = add(
        "explain",
        _explain,
        "say what an error means and what to do, or list all errors",
    )
    explain.add_argument(
        "kind", metavar="KIND", nargs="*", help="as in brackets: zone-other"
    )
    check = add("check", _check, "check user-data, or a file of conf.d, before a boot")
    check.add_argument("file", metavar="FILE", nargs="+", help="- is standard input")
    enable = add("enable", _enable, "put the module into cloud-init's lists")
    _enable_options(enable)
    add("disable", _disable, "take the module out of those lists")
    return parser


def _wait_options(waits: argparse.ArgumentParser) -> None:
    awaited = waits.add_mutually_exclusive_group(required=True)
    awaited.add_argument("set", metavar="SET", nargs="?", help="its VolumeName")
    awaited.add_argument(
        "--node",
        action="store_true",
        help="wait until it is known which node this instance is",
    )
    waits.add_argument(
        "--attached",
        action="store_true",
        help="a set that has nothing to mount is enough",
    )


def _enable_options(enable: argparse.ArgumentParser) -> None:
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


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _need_root() -> None:
    if os.geteuid() != 0:
        raise failure(
            "not-root",
            f"This is run by user {os.geteuid()}.",
            "Only root may run it.",
            "Run it with sudo.",
        )


# ------------------------------------------------------------------ the runs


def _run(
    name: str, *, wait: Optional[float], dry_run: bool
) -> Optional[dict[str, Any]]:
    """A run by hand or of the unit; None when there is nothing to do here."""
    _need_root()
    os.umask(0o022)  # what is written here is for everybody to read
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
        words = (
            "switched off by enabled: false. User-data and /etc/cloud/cloud.cfg.d are "
            "stronger than /etc/cc-kraken/conf.d."
        )
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
        _complain(text)
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


# -------------------------------------------------------------------- status


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
    if options.json:
        print(json.dumps(status, indent=2))
    elif options.prometheus:
        from cc_kraken.boot import metrics

        print(metrics.text(status), end="")
    elif sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        print(terminal_text(status, columns, colour=_has_colour()))
    else:
        print(status_text(status))
    lost = [
        f"{name} is not up now: {wait.not_seen(name, entry, paths)}"
        for name, entry in status["sets"].items()
        if entry["state"] == MOUNTED and not report.is_up(entry, paths)
    ]
    for text in lost:
        print(f"cc-kraken: {text}", file=sys.stderr)
    if lost or status["state"] == report.FAILED:
        return 1
    finished = status["state"] == report.DONE and not status["dry_run"]
    return 0 if finished else NOT_FINISHED


def _has_colour() -> bool:
    """Whether a terminal is to show colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# ---------------------------------------------------------------------- wait


def _wait(options: argparse.Namespace) -> int:
    if options.node:
        wait.for_node(Paths())
    else:
        wait.for_set(options.set, Paths(), attached=options.attached)
    return 0


# ------------------------------------------------------------------ the rest


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
    from cc_kraken.boot import userdata

    shown = "standard input" if name == "-" else name
    try:
        with contextlib.ExitStack() as stack:
            stream = sys.stdin.buffer
            if name != "-":
                stream = stack.enter_context(open(name, "rb"))
            checked = userdata.check(stream.read(), shown)
    except OSError as error:
        raise failure(
            "cannot-read",
            f"{name} cannot be read: {error.strerror}.",
            "It must be a cloud-config file.",
            "Name another file.",
        ) from None
    except KrakenError as error:
        print(f"cc-kraken: {error}", file=sys.stderr)
        return 1
    for finding in sorted(checked.findings, key=lambda one: one.line):
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
