"""The result of a run, for people and programs: ``status.json``.

Written atomically at every change of meaning, so that a person who looks
while the run waits sees what it waits for.  Its schema is
``schema/status.json``.
"""

from __future__ import annotations

import datetime
import json
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Optional

from cc_kraken.decide import seen
from cc_kraken.machine import devices, files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    VERSION,
    Array,
    Claim,
    Device,
    Identity,
    KrakenError,
    Node,
    Trouble,
    kinds_in,
    of_set,
)

LOG = logging.getLogger(__name__)

RUNNING, DONE, PENDING, FAILED, OFF = "running", "done", "pending", "failed", "off"
STANDBY = "standby"
"""In a warm pool: the instance is no node yet."""
STATES = (RUNNING, DONE, PENDING, FAILED, OFF, STANDBY)
"""Of a run."""
UP = ("mounted", "assembled", "attached")
SET_STATES = (*UP, PENDING, FAILED, "planned")


def now(later: float = 0.0) -> str:
    """The time of day in UTC, ISO 8601, whole seconds; ``later`` seconds on."""
    moment = datetime.datetime.now(datetime.timezone.utc)
    moment += datetime.timedelta(seconds=min(later, 10**9))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def read(paths: Paths) -> Optional[dict[str, Any]]:
    """The status of this boot; None when no run has written one."""
    status = files.read_json(paths.status)
    return status if isinstance(status, dict) else None


def error(trouble: Trouble) -> dict[str, str]:
    """A trouble as ``status.json`` holds it."""
    return {
        "kind": trouble.kind,
        "message": str(trouble),
        "found": trouble.found,
        "expected": trouble.expected,
        "remedy": trouble.remedy,
    }


def more(text: str) -> str:
    """Where to read more about the errors in a text (``[zone-other] …``)."""
    if "cc-kraken explain" in text:
        return ""
    return more_about(kinds_in(text))


def more_about(kinds: Iterable[str]) -> str:
    words = " ".join(kinds)
    return f" More: cc-kraken explain {words}" if words else ""


def with_more(text: str) -> str:
    """A text, and where to read more about the errors in it."""
    return text + more(text)


def awaited(status: Mapping[str, Any]) -> str:
    """Since when and until when a run waits for what it waits for."""
    until = f" until {status['until']}" if status["until"] else ""
    return f"awaited since {status['waiting_since']}{until}"


EARLIER_KEPT = 5
_EARLIER_KEYS = (
    "stage",
    "state",
    "dry_run",
    "started",
    "finished",
    "phases",
    "calls",
    "processes",
)


def _earlier(status: Optional[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs before this one in this boot, newest last."""
    if status is None:
        return []
    short = {key: status.get(key) for key in _EARLIER_KEYS}
    short["done"] = {
        name: entry["done"]
        for name, entry in status.get("sets", {}).items()
        if entry.get("done")
    }
    return [*status.get("earlier", []), short][-EARLIER_KEPT:]


def is_up(entry: Mapping[str, Any], paths: Paths) -> bool:
    """Whether a set that the status calls up is up now, where the status says."""
    path = entry["mount_path"]
    if entry["state"] != "mounted" or path is None:
        return entry["state"] in UP
    now = devices.mounts_now(paths, {path})
    return seen.up_at(now, path, volumes(entry)) is not None


def volumes(entry: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(volume["id"] for volume in entry["volumes"])


def _still_up(
    status: Optional[Mapping[str, Any]], paths: Paths
) -> dict[str, dict[str, Any]]:
    """The sets that the run before found up, and that are: they count as such until
    this one has looked, for a service may be waiting for nothing else."""
    if status is None or status.get("dry_run"):
        return {}
    lists = ("done", "plan", "outcomes", "notes", "warnings")
    return {
        name: {**entry, **{key: [] for key in lists}}
        for name, entry in status.get("sets", {}).items()
        if is_up(entry, paths)
    }


class Report:
    """What a run has to say, gathered and kept in ``status.json``.

    Sets are plain dictionaries in the shape of the schema.  The methods may
    be called from the threads that work on different sets.
    """

    def __init__(
        self,
        paths: Paths,
        stage: str,
        *,
        dry_run: bool = False,
        earlier: Optional[Mapping[str, Any]] = None,
        kept: bool = True,
        until: Optional[float] = None,
        metrics: Optional[Callable[[Mapping[str, Any]], str]] = None,
    ) -> None:
        """``earlier``: the status of the run before, kept in short form, its
        sets that are up as they are.  ``kept`` False: no file is written.
        ``until``: seconds from now for which what is late is awaited.
        ``metrics``: makes the text of ``metrics.prom`` of a status."""
        self._paths = paths
        self._kept = kept
        self._metrics = metrics
        self._lock = threading.Lock()
        self._phase: Optional[str] = None
        self._phase_begun = 0.0
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._noted: set[tuple[str, str]] = set()
        before = (earlier or {}).get("since_boot") or {}
        self._before: dict[str, Counter[str]] = {
            key: Counter(before.get(key)) for key in ("calls", "throttled")
        }
        self.status: dict[str, Any] = {
            "version": 1,
            "cc_kraken": VERSION,
            "instance": None,
            "node": None,
            "claim": None,
            "stage": stage,
            "state": RUNNING,
            "dry_run": dry_run,
            "started": now(),
            "until": None if until is None else now(until),
            "updated": now(),
            "finished": None,
            "waiting_for": None,
            "waiting_since": None,
            "sets": _still_up(earlier, paths),
            "phases": [],
            "calls": {},
            "processes": 0,
            "since_boot": {
                "runs": before.get("runs", 0) + 1,
                **{key: dict(count) for key, count in self._before.items()},
            },
            "notes": [],
            "warnings": [],
            "errors": [],
            "earlier": _earlier(earlier),
        }

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        sets: dict[str, dict[str, Any]] = self.status["sets"]
        return sets

    def identify(self, identity: Identity, node: Optional[Node]) -> bool:
        """Who this is; returns whether the node is another than before."""
        self.status["instance"] = {
            "id": identity.instance_id,
            "region": identity.region,
            "zone": identity.zone,
        }
        before = self.status["node"]
        shown = node and {"prefix": node.prefix, "node_id": node.node_id}
        self.status["node"] = shown
        return bool(shown != before)

    def claim(self, claim: Optional[Mapping[str, Any]]) -> None:
        """The claim of an instance that may be any node (``ClaimFile.as_status``)."""
        self.status["claim"] = claim

    def standby(self, there: bool) -> None:
        """Whether the run waits in a warm pool."""
        state = STANDBY if there else RUNNING
        if self.status["state"] != state:
            self.status["state"] = state
            self.write()

    def set(self, name: str, *, required: bool = True) -> dict[str, Any]:
        """The entry of one set, made on first use."""
        return self.sets.setdefault(
            name,
            {
                "state": PENDING,
                "required": required,
                "reason": None,
                "error": None,
                "volumes": [],
                "array": None,
                "filesystem": None,
                "mount_path": None,
                "owner": None,
                "done": [],
                "plan": [],
                "outcomes": [],
                "notes": [],
                "warnings": [],
            },
        )

    def describe(
        self,
        claim: Claim,
        devices: Mapping[str, Device],
        array: Optional[Array],
        place: str = "",
    ) -> None:
        """The volumes of a set, their devices and its array.  ``place``: where it is
        mounted, if not where it belongs."""
        entry = self.set(claim.name, required=claim.wanted.required)
        entry["required"] = claim.wanted.required
        entry["mount_path"] = place or claim.wanted.mount_path
        entry["volumes"] = [
            {
                "id": volume.id,
                "device": devices[volume.id].path if volume.id in devices else None,
                "size": devices[volume.id].size if volume.id in devices else None,
                "state": volume.state,
            }
            for volume in claim.volumes
        ]
        if array is not None:
            entry["array"] = {
                "uuid": array.uuid,
                "name": array.name,
                "level": array.level,
                "device": array.path,
                "state": array.state,
                "degraded": array.degraded,
            }

    def only(self, names: Iterable[str]) -> None:
        """Forget the sets that this node no longer has."""
        with self._lock:
            for name in set(self.sets) - set(names):
                del self.sets[name]

    def done(self, name: str, text: str) -> None:
        """One change that was made to a set.

        A set that this node no longer has (its fstab line was taken out) has
        no entry, and gets none: it would count as one that is not up.
        """
        with self._lock:
            entry = self.sets.get(name)
            if entry is not None:
                entry["done"].append(text)

    def warn(self, text: str, name: Optional[str] = None) -> None:
        """A warning, logged once a run."""
        with self._lock:
            warnings: list[str] = self.status["warnings"]
            if name is not None:
                own: list[str] = self.set(name)["warnings"]
                if text not in own:
                    own.append(text)
            if text in warnings:
                return
            warnings.append(text)
        LOG.warning("%s", text, extra=of_set(name or ""))

    def notes(self, name: str, texts: Sequence[str]) -> None:
        """What a person may want to know of a set ("": of the node), and need not;
        logged once."""
        entry = self.set(name) if name else self.status
        for text in texts:
            if (name, text) not in self._noted:
                self._noted.add((name, text))
                shown = f"{name}: {text}" if name else text
                LOG.info("%s", shown, extra=of_set(name))
        entry["notes"] = list(texts)

    def fail(self, trouble: Trouble) -> None:
        """An error that is not one set's own."""
        if error(trouble) not in self.status["errors"]:
            self.status["errors"].append(error(trouble))

    def phase(self, name: Optional[str]) -> None:
        """Time from now on belongs to ``name``."""
        moment = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] += moment - self._phase_begun
            self.status["phases"] = [
                {"name": name, "seconds": round(seconds, 3)}
                for name, seconds in self._seconds.items()
            ]
        self._phase, self._phase_begun = name, moment

    def waiting(self, reason: Optional[str], *, quiet: bool = False) -> None:
        """What is awaited; logged when it changes, not once a second."""
        if reason == self.status["waiting_for"]:
            return
        self.status["waiting_for"] = reason
        self.status["waiting_since"] = now() if reason else None
        if reason and not quiet:
            LOG.info("Waiting: %s", reason)
        self.write()

    def count(
        self, calls: Counter[str], throttled: Counter[str], processes: int
    ) -> None:
        """What this run has cost up to now: requests by action, processes."""
        self.status["calls"] = dict(sorted(calls.items()))
        self.status["processes"] = processes
        for key, count in (("calls", calls), ("throttled", throttled)):
            total = self._before[key] + count
            self.status["since_boot"][key] = dict(sorted(total.items()))

    def finish(self, state: str) -> None:
        self.phase(None)
        self.status["state"] = state
        if state != PENDING:
            self.status["waiting_for"] = self.status["waiting_since"] = None
        self.status["finished"] = now()
        self.write()

    def write(self) -> None:
        """Bring ``status.json`` up to date, and ``metrics.prom`` if it is wanted."""
        if not self._kept:
            return
        with self._lock:
            self.status["updated"] = now()
            # With an indent Python encodes, without one its C library: what
            # people read is the end, and a run of 24 sets writes often.
            indent = None if self.status["state"] == RUNNING else 2
            data = json.dumps(self.status, indent=indent) + "\n"
            metrics = self._metrics(self.status) if self._metrics else None
        files.make_directories(self._paths.run)
        if metrics is not None:
            try:
                files.write_atomic(self._paths.metrics, files.encode(metrics), 0o644)
            except KrakenError as error:  # no reason to leave volumes unmounted
                self.warn(str(error))
        files.write_atomic(self._paths.status, data.encode(), 0o644)
