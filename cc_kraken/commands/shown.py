"""What ``cc-kraken status``, ``plan`` and ``fleet`` say to people: lines for a pipe or
a log, a table for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from cc_kraken.decide import fleet
from cc_kraken.state import report

Remark = tuple[str, str]
"""What kind of remark it is ("" or error, waiting, warning, note), and its text."""

NOT_UP = "not up"
"""Instead of ``mounted``, and of ``done``: the last run saw a set mounted, and it is
not up now (``wait.looked_at``)."""

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
COLOURS: Mapping[str, str] = {
    **dict.fromkeys((report.DONE, *report.UP), GREEN),
    **dict.fromkeys((report.FAILED, NOT_UP), RED),
    "error": RED,
    "warning": YELLOW,
}
"""By state and kind of remark; other states are yellow, other remarks plain."""

GIB = 1 << 30
POOL = "this instance is in a warm pool: it claims no node there"


def painted(text: str, code: str, *, on: bool) -> str:
    """A text in a colour ("" for none), where colours are ``on``."""
    return f"\033[{code}m{text}\033[0m" if on and code else text


def plan_text(status: Mapping[str, Any]) -> str:
    """A dry run for people, step by step."""
    lines = [POOL] if status["state"] == report.STANDBY else []
    node = status["node"]
    if node:
        who = f"node {node['prefix']}/{node['node_id']}"
        lines.append(f"{who}: the plan (nothing has been changed)")
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
    return _page(lines, lines)


def status_text(status: Mapping[str, Any], hint: str = "") -> str:
    """The status as lines, for a pipe or a log.  ``hint``: how it is switched on."""
    lines = [f"{_run_state(status)}: {_who(status)}", *_about(status, hint)]
    rows = [("SET", "STATE", "MOUNT PATH", "TYPE", "DEVICE", "VOLUMES")]
    for name, entry in status["sets"].items():
        array = entry["array"]
        device = array["device"] if array else None
        if device is None:
            device = next((v["device"] for v in entry["volumes"] if v["device"]), "-")
        volumes = ",".join(volume["id"] for volume in entry["volumes"]) or "-"
        rows.append((name, _state(entry), *_place(entry), device, volumes))
    if len(rows) > 1:
        lines += aligned(rows)
    lines += [f"{kind}: {text}" if kind else text for kind, text in _remarks(status)]
    return _page(lines, lines)


def terminal_text(
    status: Mapping[str, Any], columns: int, hint: str = "", *, colour: bool
) -> str:
    """The status for a terminal that is ``columns`` wide: a volume a line, with its
    size, and what there is to say below the table, wrapped."""

    state = _run_state(status)
    shown = painted(state, f"{BOLD};{_colour(state)}", on=colour)
    lines = [f"{shown}  {_who(status)}"]
    for text in _about(status, hint):
        lines += textwrap.wrap(text, columns, break_on_hyphens=False)
    table = aligned([HEADER, *_volume_rows(status)])
    if len(table) > 1:
        lines += ["", painted(table[0], DIM, on=colour)]
        sets, start = iter(status["sets"].values()), table[0].index("STATE")
        for line in table[1:]:
            if colour and line[:1].strip():  # the first volume of a set
                state = _state(next(sets))
                line = _with_cell(line, start, state, _colour(state))
            lines.append(line)
    remarks = _remarks(status)
    if remarks:
        lines.append("")
    for kind, text in remarks:
        lines += _remark(kind, COLOURS.get(kind, ""), text, columns, colour)
    return _page(lines, [text for _, text in remarks], colour)


def _with_cell(line: str, start: int, cell: str, code: str) -> str:
    """A line of a table whose cell at ``start`` is coloured."""
    return line[:start] + painted(cell, code, on=True) + line[start + len(cell) :]


def _page(lines: Sequence[str], said: Sequence[str], colour: bool = False) -> str:
    """The lines, and below them where to read more about the errors ``said``."""
    hint = report.more(" ".join(said).replace("\n", " ")).strip()
    return "\n".join([*lines, painted(hint, BOLD, on=colour)] if hint else lines)


HEADER = ("SET", "STATE", "MOUNT PATH", "TYPE", "SIZE", "DEVICE", "VOLUME")


def _volume_rows(status: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row for each volume; what all of a set share stands in the first."""
    rows: list[Sequence[str]] = []
    for name, entry in status["sets"].items():
        shared: Sequence[str] = (name, _state(entry), *_place(entry))
        volumes = entry["volumes"] or [{"id": "-", "device": None, "size": None}]
        array = entry["array"]
        if array:
            worn = ", degraded" if array["degraded"] else ""
            device = f"{_short(array['device'])} ({array['level']}{worn})"
            rows.append((*shared, "", device, ""))
            shared = ("",) * len(shared)
        for volume in volumes:
            size = volume["size"]
            shown = "-" if size is None else f"{size / GIB:.4g} GiB"
            rows.append((*shared, shown, _short(volume["device"]), volume["id"]))
            shared = ("",) * len(shared)
    return rows


def _short(device: Optional[str]) -> str:
    """A device without its directory: an ordinary set then fits into 80 columns."""
    return (device or "-").replace("/dev/", "", 1)


def _state(entry: Mapping[str, Any]) -> str:
    return NOT_UP if entry.get("not_up") else str(entry["state"])


def _run_state(status: Mapping[str, Any]) -> str:
    lost = any(entry.get("not_up") for entry in status["sets"].values())
    return NOT_UP if lost and status["state"] == report.DONE else str(status["state"])


def _place(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Where a set is mounted, and the type of its filesystem."""
    filesystem = entry["filesystem"]
    return entry["mount_path"] or "-", filesystem["type"] if filesystem else "-"


def _colour(state: str) -> str:
    return COLOURS.get(state, YELLOW)


def _who(status: Mapping[str, Any]) -> str:
    node, instance = status["node"], status["instance"]
    who = f"node {node['prefix']}/{node['node_id']}" if node else "no node"
    if instance:
        who += f" on {instance['id']} in {instance['zone']}"
    dry = ", a dry run: nothing was changed" if status["dry_run"] else ""
    return f"{who} (stage {status['stage']}{dry})"


def _about(status: Mapping[str, Any], hint: str) -> list[str]:
    """What is to be known before the table."""
    lines = []
    if status["state"] == report.OFF:
        how = "enabled: false; user-data with enabled: true switches it on"
        lines.append(f"{how}. {hint}" if hint else how)
    if status["state"] == report.STANDBY:
        lines.append(POOL)
    claim = status.get("claim")
    if claim and claim["state"] in ("claiming", "giving-back"):
        doing = claim["state"].replace("-", " ")
        lines.append(
            f"{doing} {claim['prefix']}/{claim['node_id']} since {claim['since']}"
        )
    elif claim:
        lines.append(f"claimed since {claim['since']}")
    if status["waiting_for"]:
        lines.append(f"waiting: {status['waiting_for']} ({report.awaited(status)})")
    return lines


def _remarks(status: Mapping[str, Any]) -> list[Remark]:
    """What is to be said below the table: of each set, then of the node."""
    found: list[Remark] = []
    for name, entry in status["sets"].items():
        if entry["error"]:
            found.append(("error", f"{name}: {entry['error']['message']}"))
        elif entry["reason"]:
            found.append(("waiting", f"{name}: {entry['reason']}"))
        if entry.get("not_up"):
            found.append(("error", f"{name} is not up now: {entry['not_up']}"))
        if entry["state"] in report.UP:
            found += [("", f"{name}: later: {text}") for text in entry["outcomes"]]
        found += [("", f"{name}: {text}") for text in entry.get("notes", ())]
    found += [("error", entry["message"]) for entry in status["errors"]]
    found += [("note", text) for text in status.get("notes", ())]
    found += [("warning", text) for text in status["warnings"]]
    return found


FLEET_HEADER = ("NODE", "ZONE", "STATE", "COMES UP", "HOLDER", "SETS")
FLEET_COLOURS: Mapping[str, str] = {
    **dict.fromkeys((fleet.HELD, fleet.CLAIMED, fleet.FREE), GREEN),
    "no": RED,
}


def fleet_text(judged: fleet.Fleet, columns: int = 0, *, colour: bool = False) -> str:
    """A node a line, then what is wrong; ``columns`` 0: nothing is wrapped."""
    rows: list[tuple[str, ...]] = [FLEET_HEADER]
    for one in judged.nodes:
        names = [
            f"{claim.name} ({len(claim.volumes)})"
            if len(claim.volumes) != 1
            else claim.name
            for claim in one.claims
        ]
        comes_up = "yes" if one.comes_up else "no"
        sets = ", ".join(names) or "-"
        holder = one.instance_id or "-"
        rows.append((str(one.node), one.zone, one.state, comes_up, holder, sets))
    lines: list[str] = []
    if len(rows) > 1:
        table = aligned(rows)
        lines.append(painted(table[0], DIM, on=colour))
        for row, line in zip(rows[1:], table[1:]):
            for column in (3, 2) if colour else ():  # from the right: codes take room
                start = table[0].index(FLEET_HEADER[column])
                code = FLEET_COLOURS.get(row[column], "")
                line = _with_cell(line, start, row[column], code)
            lines.append(line)
        lines.append("")
    texts = [str(one.trouble) for one in judged.findings]
    for finding, text in zip(judged.findings, texts):
        lines += _remark("finding", RED, _place_of(finding) + text, columns, colour)
    for text in judged.notes:
        lines += _remark("note", YELLOW, text, columns, colour)
    lines.append(
        f"{_count(len(judged.nodes), 'node')}, {_count(len(texts), 'finding')}."
    )
    return _page(lines, texts, colour)


def _place_of(one: fleet.Finding) -> str:
    """Of which node and set it is, as far as the tags say."""
    parts = [one.prefix, *([one.node_id, one.set] if one.node_id else [])]
    return f"{'/'.join(filter(None, parts))}: " if one.prefix else ""


def _remark(word: str, code: str, text: str, columns: int, colour: bool) -> list[str]:
    """One remark, wrapped at ``columns`` (0: not at all); ``word`` may be ""."""
    label = f"{word}: " if word else ""
    lines = [label + text]
    if columns:
        lines = textwrap.wrap(
            lines[0], columns, subsequent_indent="  ", break_on_hyphens=False
        )
    lines[0] = lines[0].replace(label, painted(label, code, on=colour), 1)
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, of which the first row is the head."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    ]
