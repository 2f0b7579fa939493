"""``claim.json``: what this instance has asked EC2 for, noted before it was asked.

A hint and never a right: the attachment alone makes an instance a node.  The note
tells a run that was cut off which calls can still come true.  An entry of another
boot counts as made when this run has begun: no clock is trusted over a reboot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

from cc_kraken.decide.claiming import CLAIMING, GIVING_BACK, LOCKED, SETTLED, Noted
from cc_kraken.machine import files
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.state.report import now as time_of_day

OPEN_FOR = 30.0
"""Seconds after which a call that nobody sees any trace of has done nothing."""


@dataclass(frozen=True)
class Call:
    """One AttachVolume: when it was sent (the run's clock), and whether EC2 has
    said yes."""

    at: float
    accepted: bool = False


@dataclass(frozen=True)
class Note:
    """The claim of this instance.  ``calls``: by volume id; ``since``: UTC."""

    prefix: str
    node_id: str
    state: str
    since: str
    calls: Mapping[str, Call]


class ClaimFile:
    """The note, in memory and on disk; every change is on disk when it returns.

    Raises KrakenError ``cannot-write``: what is not noted must not be asked for.
    """

    def __init__(self, paths: Paths, instance_id: str, clock: Clock) -> None:
        self._paths = paths
        self._instance_id = instance_id
        self._clock = clock
        self._boot = (files.read_text(paths.boot_id) or "").strip()
        self._earlier: Optional[Call] = None
        self.note: Optional[Note] = self._load()

    def noted(self) -> Optional[Noted]:
        """The note as a decision may rest on it now."""
        if self.note is None:
            return None
        moment = self._clock.now()
        fresh = {
            volume: call
            for volume, call in self.note.calls.items()
            if moment - call.at < OPEN_FOR
        }
        accepted = frozenset(volume for volume, call in fresh.items() if call.accepted)
        return Noted(self.note.node_id, self.note.state, frozenset(fresh), accepted)

    def as_status(self) -> Optional[dict[str, str]]:
        """The claim as ``status.json`` shows it."""
        if self.note is None:
            return None
        shown = asdict(self.note)
        del shown["calls"]
        return shown

    def claim(self, prefix: str, node_id: str) -> None:
        """The node is asked for from now on; of the same node, calls are kept."""
        old = self.note
        if old is None or (old.prefix, old.node_id) != (prefix, node_id):
            self.note = Note(prefix, node_id, CLAIMING, time_of_day(), {})
        else:
            self.note = replace(old, state=CLAIMING)

    def sending(self, volume_id: str) -> None:
        """An AttachVolume is about to be sent."""
        assert self.note is not None
        self._earlier = self.note.calls.get(volume_id)
        self._change(volume_id, Call(self._clock.now()))

    def sending_more(self, volume_ids: Iterable[str]) -> None:
        """AttachVolume calls behind the anchor's are about to be sent."""
        assert self.note is not None
        calls = dict.fromkeys(volume_ids, Call(self._clock.now()))
        self.note = replace(self.note, calls={**self.note.calls, **calls})
        self._save()

    def answered(self, volume_id: str, *, accepted: bool) -> None:
        """EC2 has said yes, or no; an earlier call for the volume is as open as it
        was: it may be the reason for the no."""
        assert self.note is not None
        call = self.note.calls.get(volume_id)
        if accepted and call is not None:
            self._change(volume_id, replace(call, accepted=True))
        else:
            self._change(volume_id, self._earlier)

    def _change(self, volume_id: str, call: Optional[Call]) -> None:
        assert self.note is not None
        calls = {key: one for key, one in self.note.calls.items() if key != volume_id}
        if call is not None:
            calls[volume_id] = call
        self.note = replace(self.note, calls=calls)
        self._save()

    def enter(self, state: str) -> None:
        """The claim has come to this state."""
        if self.note is not None and self.note.state != state:
            self.note = replace(self.note, state=state)
            self._save()

    def forget(self) -> None:
        self.note = None
        files.remove(self._paths.claim)

    def _save(self) -> None:
        assert self.note is not None
        content = {
            "version": 1,
            "instance_id": self._instance_id,
            "boot": self._boot,
            **asdict(self.note),
        }
        files.write_json(self._paths.claim, content)

    def _load(self) -> Optional[Note]:
        """The note that this instance has left; None where none can be read."""
        content = files.read_json(self._paths.claim)
        try:
            if not _well_formed(content) or content["instance_id"] != self._instance_id:
                return None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        moment = self._clock.now()
        same = bool(self._boot) and content["boot"] == self._boot
        calls = {
            volume: Call(min(call["at"], moment) if same else moment, call["accepted"])
            for volume, call in content["calls"].items()
        }
        words = {key: content[key] for key in ("prefix", "node_id", "state", "since")}
        return Note(**words, calls=calls)


def _well_formed(content: Any) -> bool:
    words = ("instance_id", "boot", "prefix", "node_id", "since")
    calls = content["calls"].values()
    return (
        content["version"] == 1
        and content["state"] in (CLAIMING, LOCKED, SETTLED, GIVING_BACK)
        and all(isinstance(content[word], str) for word in words)
        and all(isinstance(call["at"], (int, float)) for call in calls)
        and all(isinstance(call["accepted"], bool) for call in calls)
    )
