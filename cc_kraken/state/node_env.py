"""Say which node this instance is: ``node.env``, for services and scripts.

There as soon as the node and its sets are known, before the sets are up; absent until
then.  Fit for systemd's ``EnvironmentFile=`` and for ``.`` in sh, which agree on this:
a value in double quotes, with a backslash before each of ``"``, ``\\``, ``$`` and
`````.  Sources: systemd.exec(5), and POSIX, "Shell Command Language", 2.2.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cc_kraken.config.values import Unfit, odd_character, quoted, set_name
from cc_kraken.machine import files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError
from cc_kraken.state.report import Report

PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]*")
"""Needs no quotes, so that readers which know none can have it too."""
SPECIAL = re.compile(r'(["\\$`])')


def keep(paths: Paths, report: Report, notes: Sequence[str] = ()) -> None:
    """Bring the file up to date with a report: away while the node is not settled.
    ``notes``: of the node, to which those of this file are added.  A file that cannot
    be written is a warning.  Its directory is there, as that of ``status.json``."""
    settled = report.status["node"] is not None
    text, left_out = content(report.status) if settled else ("", [])
    try:
        if settled:
            files.write_atomic(paths.node_env, files.encode(text), 0o644)
        else:
            files.remove(paths.node_env)
    except KrakenError as error:
        report.warn(str(error))
    report.notes("", [*notes, *left_out])


def content(status: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The file for a status (``status.json``), and a sentence for each variable that
    is left out."""
    node, instance = status["node"], status["instance"]
    values = {
        "KRAKEN_PREFIX": node["prefix"],
        "KRAKEN_NODE_ID": node["node_id"],
        "KRAKEN_INSTANCE_ID": instance["id"],
        "KRAKEN_REGION": instance["region"],
        "KRAKEN_ZONE": instance["zone"],
    }
    names, notes = _names(status["sets"])
    # Blanks: what a loop in sh and ``$KRAKEN_SETS`` in a unit split at.
    values["KRAKEN_SETS"] = " ".join(names)
    values.update(_paths(status["sets"], names, notes))
    lines = []
    for name, value in values.items():
        odd = odd_character(value)
        if odd:
            what = f"{quoted(value)} has the character {odd}"
            notes.append(f"node.env has no {name}: {what}.")
        elif PLAIN.fullmatch(value):
            lines.append(f"{name}={value}\n")
        else:
            escaped = SPECIAL.sub(r"\\\1", value)
            lines.append(f'{name}="{escaped}"\n')
    return "".join(lines), notes


def _names(sets: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    names, notes = [], []
    for name, entry in sorted(sets.items()):
        try:
            names.append(set_name(name))
        except Unfit as unfit:
            # A volume without a name stands in the status under its id: no set.
            if not any(volume["id"] == name for volume in entry["volumes"]):
                notes.append(
                    f"KRAKEN_SETS in node.env lacks {quoted(name)}: it {unfit}."
                )
    return names, notes


def _paths(
    sets: Mapping[str, Any], names: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """``KRAKEN_PATH_<SET>`` of each set that is mounted somewhere."""
    by_variable: dict[str, list[str]] = {}
    for name in names:
        variable = "KRAKEN_PATH_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        by_variable.setdefault(variable, []).append(name)
    found = {}
    for variable, alike in by_variable.items():
        if len(alike) > 1:
            both = " and ".join(alike)
            notes.append(f"node.env has no {variable}: it would be that of {both}.")
        elif sets[alike[0]]["mount_path"]:
            found[variable] = sets[alike[0]]["mount_path"]
    return found
