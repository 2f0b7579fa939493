"""The status for Prometheus, in its text format.

Names follow Prometheus' conventions: base units, ``_total`` for what only grows, one
series for each state.  Sources: "Exposition formats" and "Metric and label naming" of
the Prometheus documentation.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cc_kraken.state.report import SET_STATES, STATES

Labels = Mapping[str, object]
Samples = Sequence[tuple[Labels, float]]
"""Values by their labels."""
Family = tuple[str, str, Samples]
"""Name, help, and the samples; a counter is named ``…_total``."""

MOMENTS = (
    ("run_start", "started", "When the last run began."),
    ("run_end", "finished", "When the last run ended; absent while it goes on."),
    ("status_update", "updated", "When the status changed last."),
    ("waiting_start", "waiting_since", "Since when the node waits; absent if not."),
)
"""By name and key of the status: times of day."""
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def text(status: Mapping[str, Any]) -> str:
    """``status.json`` as metrics.  What is not known has no sample."""
    lines: list[str] = []
    for name, words, samples in _families(status):
        if samples:
            kind = "counter" if name.endswith("_total") else "gauge"
            name = f"cc_kraken_{name}"
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value}" for labels, value in samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Labels) -> str:
    # No UTF-8 in a value (a lone surrogate) would cost the whole file.
    texts = {
        name: str(value).encode("utf-8", "replace").decode().translate(ESCAPES)
        for name, value in labels.items()
        if value is not None
    }
    written = ",".join(f'{name}="{text}"' for name, text in texts.items())
    return f"{{{written}}}" if written else ""


def _families(status: Mapping[str, Any]) -> Iterator[Family]:
    version = {"version": status["cc_kraken"]}
    yield "build_info", "The version of cc_kraken.", [(version, 1)]
    if status["node"]:
        instance = status["instance"]
        place = {key: instance[key] for key in ("region", "zone")}
        who = {**status["node"], "instance_id": instance["id"], **place}
        yield "node_info", "The node that this instance is.", [(who, 1)]
    yield from _of_run(status)
    yield from _of_boot(status.get("since_boot") or {})
    yield from _of_sets(status["sets"])
    yield "error_info", "An error that stands, by its kind.", _errors(status)
    count = len(status["warnings"])
    yield "warnings", "How many warnings the last run gave.", [({}, count)]


def _of_run(status: Mapping[str, Any]) -> Iterator[Family]:
    what = {"stage": status["stage"], "dry_run": str(status["dry_run"]).lower()}
    words = "What has started the last run, and whether it only makes a plan."
    yield "run_info", words, [(what, 1)]
    words = "Whether the last run is in this state."
    yield "run_state", words, _one_of(STATES, status["state"])
    for name, key, words in MOMENTS:
        if status[key]:
            yield f"{name}_timestamp_seconds", words, [({}, _moment(status[key]))]
    words = "How long this phase of the last run took."
    phases = [({"phase": one["name"]}, one["seconds"]) for one in status["phases"]]
    yield "run_phase_duration_seconds", words, phases


def _of_boot(boot: Mapping[str, Any]) -> Iterator[Family]:
    """What only grows from the boot on."""
    if boot:
        yield "runs_total", "Runs since the boot.", [({}, boot["runs"])]
    for name, key, words in (
        ("api_calls", "calls", "Requests to the API of EC2 since the boot."),
        ("api_throttled", "throttled", "Requests that EC2 throttled since the boot."),
    ):
        counts = boot.get(key, {}).items()
        yield (
            f"{name}_total",
            words,
            [({"action": one}, count) for one, count in counts],
        )


def _of_sets(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    states = [
        ({"set": name, **labels}, value)
        for name, one in sets.items()
        for labels, value in _one_of(SET_STATES, one["state"])
    ]
    yield "set_state", "Whether the set is in this state.", states
    places = [(_place(name, one), 1) for name, one in sets.items()]
    words = "Where the set is mounted, and its type of filesystem."
    yield "set_info", words, places
    required = [({"set": name}, int(one["required"])) for name, one in sets.items()]
    yield "set_required", "Whether the node fails without the set.", required
    missing = [
        ({"set": name}, one["array"]["degraded"])
        for name, one in sets.items()
        if one["array"]
    ]
    words = "How many members the array of the set lacks."
    yield "set_array_missing_members", words, missing


def _one_of(states: Sequence[str], current: str) -> Samples:
    return [({"state": state}, int(state == current)) for state in states]


def _place(name: str, one: Mapping[str, Any]) -> Labels:
    """The labels as node_exporter names them, to join with its own."""
    filesystem = one["filesystem"] or {}
    return {
        "set": name,
        "mountpoint": one["mount_path"],
        "fstype": filesystem.get("type"),
    }


def _errors(status: Mapping[str, Any]) -> Samples:
    found: dict[tuple[Any, str], float] = {
        (name, one["error"]["kind"]): 1
        for name, one in status["sets"].items()
        if one["error"]
    }
    found.update({(None, one["kind"]): 1 for one in status["errors"]})
    return [({"set": name, "kind": kind}, one) for (name, kind), one in found.items()]


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return int(moment.replace(tzinfo=datetime.timezone.utc).timestamp())
