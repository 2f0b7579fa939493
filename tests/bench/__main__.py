"""Measures, prints tables, writes JSON: ``make bench``.

    python3 -m tests.bench [--runs N] [--cases 1+3,1,8,24] [--machine-only]
                           [--no-machine] [--timeline] [--undilated] [--docs]
                           [--peer "PATH ARGUMENT …"]

``--no-machine`` leaves the virtual machine out, ``--machine-only`` all else;
``--timeline`` prints each line that the module logs on that machine, with its
milliseconds.  EC2's latency there is as many times longer as the machine is slower
than this one, but with ``--undilated``; ``--docs`` puts the tables, with the date, into
docs/project/speed.md; ``--peer``: a third, beside floor and module, on that machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import counts, loops, machine
from tests.bench.peer import Peer
from tests.bench.table import Row, spread, table
from tests.lab.image import missing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "project" / "speed.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

HEADINGS = (
    "",
    "floor, s",
    "module, s",
    "ratio",
    "floor, CPU s",
    "module, CPU s",
    "attaching, floor, s",
    "attaching, module, s",
)
PEER_HEADINGS = (
    "",
    "peer, s",
    "to the floor",
    "peer, CPU s",
    "attaching, peer, s",
    "API calls",
    "as wanted",
    "ended",
)


def rows(taken: Sequence[machine.Taken]) -> list[Row]:
    found = []
    for case, kind in dict.fromkeys((one.case, one.kind) for one in taken):
        of = {
            who: [
                one
                for one in taken
                if (one.case, one.kind, one.who) == (case, kind, who)
            ]
            for who in ("floor", "module")
        }
        middle = {
            who: statistics.median(one.seconds for one in some)
            for who, some in of.items()
        }
        found.append(
            (
                f"{kind}, {case} volumes",
                spread([one.seconds for one in of["floor"]]),
                spread([one.seconds for one in of["module"]]),
                f"{middle['module'] / middle['floor']:.2f}",
                spread([one.cpu for one in of["floor"]]),
                spread([one.cpu for one in of["module"]]),
                spread([one.attaching for one in of["floor"]]),
                spread([one.attaching for one in of["module"]]),
            )
        )
    return found


def phases(taken: Sequence[machine.Taken]) -> str:
    """Where the module's time goes, by status.json."""
    every = [one for one in taken if one.who == "module"]
    names = list(dict.fromkeys(name for one in every for name in one.more["phases"]))
    found = []
    for case, kind in dict.fromkeys((one.case, one.kind) for one in every):
        of = [one for one in every if (one.case, one.kind) == (case, kind)]
        row = [f"{kind}, {case} volumes"]
        for name in names:
            seconds = [one.more["phases"].get(name, 0.0) for one in of]
            row.append(f"{statistics.median(seconds):.2f}")
        processes = statistics.median(one.more["processes"] for one in of)
        stays = statistics.median(one.more["stays"] for one in of) / 1024
        found.append((*row, f"{processes:.0f}", f"{stays:.0f}"))
    return table(("", *names, "processes", "MiB after"), found)


def peer_rows(taken: Sequence[machine.Taken]) -> list[Row]:
    """What the peer took, and whether the sets then were as their tags say."""
    every = [one for one in taken if one.who == "peer"]
    found = []
    for case, kind in dict.fromkeys((one.case, one.kind) for one in every):
        same = [one for one in taken if (one.case, one.kind) == (case, kind)]
        floor = statistics.median(one.seconds for one in same if one.who == "floor")
        of = [one for one in same if one.who == "peer"]
        middle = statistics.median(one.seconds for one in of)
        wrong = [wrong for one in of for wrong in one.more["sets"].values()]
        found.append(
            (
                f"{kind}, {case} volumes",
                spread([one.seconds for one in of]),
                f"{middle / floor:.2f}",
                spread([one.cpu for one in of]),
                spread([one.attaching for one in of]),
                f"{statistics.median(sum(one.more['calls'].values()) for one in of):g}",
                f"{wrong.count('')} of {len(wrong)}",
                ", ".join(dict.fromkeys(one.more["ended"] for one in of)),
            )
        )
    return found


def peer_faults(taken: Sequence[machine.Taken]) -> list[str]:
    """A line for everything that is not as wanted after a run of the peer."""
    found = []
    for one in taken:
        if one.who != "peer":
            continue
        wrong = [f"{path}: {why}" for path, why in one.more["sets"].items() if why]
        if wrong or one.more["ended"] != "exit status 0":
            said = f"; it said: {one.more['said']}" if one.more["said"] else ""
            parts = "; ".join([one.more["ended"], *wrong])
            found.append(f"- {one.kind}, {one.case} volumes: {parts}{said}")
    return list(dict.fromkeys(found))


def _load() -> str:
    return f"{os.getloadavg()[1]:.0f} on {os.cpu_count()} processors"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default=",".join(machine.CASES))
    parser.add_argument("--no-machine", action="store_true")
    parser.add_argument("--machine-only", action="store_true")
    parser.add_argument("--timeline", action="store_true")
    parser.add_argument("--undilated", action="store_true")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--json", default="build/bench.json")
    parser.add_argument("--peer", default="", metavar="'PATH ARGUMENT …'")
    given = parser.parse_args()
    if given.peer and given.no_machine:
        parser.error("--peer: a peer runs on the virtual machine only")
    if given.peer and given.docs:
        parser.error("--docs: a peer's figures do not belong into the documentation")
    try:
        peer = Peer(given.peer) if given.peer else None
    except ValueError as error:
        parser.error(str(error))

    def say(line: str) -> None:
        print(line, flush=True)

    date = datetime.date.today().isoformat()
    cases = given.cases.split(",")
    text = [f"{date}, median of {given.runs} (minimum to maximum)."]
    result: dict[str, Any] = {"date": date, "runs": given.runs}
    if not given.machine_only:
        counted = counts.measure(given.runs)
        text.append(table(counts.HEADINGS, [one.row() for one in counted]))
        say(text[-1] + "\n")
        by_loops = loops.measure(
            [one for one in cases if one.isdigit()], given.runs, say
        )
        text += [
            f"On this machine, with a load of {_load()}, on loop devices:",
            table(HEADINGS, rows(by_loops)),
        ]
        say("\n\n".join(text[-2:]))
        result["counts"] = [asdict(one) for one in counted]
        result["loops"] = [asdict(one) for one in by_loops]
    if not given.no_machine and missing():
        say("no virtual machine: " + "; ".join(missing()))
    elif not given.no_machine:
        taken, slowness = machine.measure(
            cases, given.runs, say, given.timeline, not given.undilated, peer
        )
        result["machine"] = [asdict(one) for one in taken]
        result["slowness"] = slowness
        begun = len(text)
        text += [
            "On a virtual machine, with a load of "
            f"{_load()}"
            + (
                f"; it computes {slowness:.1f} times slower than the one it runs on, "
                "and EC2's latency is as many times longer:"
                if not given.undilated
                else ":"
            ),
            table(HEADINGS, rows(taken)),
            "The module's seconds by phase, its processes, and the memory that "
            "stays in its process:",
            phases(taken),
        ]
        if peer:
            text += [
                f"The peer, {given.peer}: on how many sets exactly what their tags "
                "say was mounted, all runs taken together:",
                table(PEER_HEADINGS, peer_rows(taken)),
                *(["\n".join(faults)] if (faults := peer_faults(taken)) else []),
            ]
        say("\n\n".join(text[begun:]))
    path = ROOT / given.json
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    say(f"\n{given.json} is written.")
    if given.docs:
        page = DOCS.read_text()
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        body = "\n\n".join(text)
        DOCS.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}")
        say(f"{DOCS.relative_to(ROOT)} is written.")


if __name__ == "__main__":
    main()
