"""What the cloud has said in this run, and what it has accepted since.

Answers can be old.  An attachment that was accepted counts for more than an
answer that does not show it, for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

from cc_kraken.cloud.protocol import Cloud
from cc_kraken.machine.clock import Clock
from cc_kraken.model import Attachment, Claim, Holder, Node, Volume

HOLDERS_FOR = 30.0
"""Seconds for which an answer about the holders of volumes is good."""
BELIEVED_FOR = 30.0
"""Seconds for which an accepted attachment is believed in."""
UNDONE_LIMIT = 3


@dataclass
class CloudView:
    """The volumes of the node and who holds them.

    ``attached_now``: attached by this run, and not used yet.
    """

    cloud: Cloud
    instance_id: str
    clock: Clock
    volumes: tuple[Volume, ...] = ()
    holders: Mapping[str, Holder] = field(default_factory=dict)
    attached_now: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._holders_at = 0.0
        self._awaited_since: dict[str, float] = {}
        self._accepted: dict[str, tuple[float, Attachment]] = {}
        self._undone: Counter[str] = Counter()

    def ask(self, node: Node) -> None:
        """Ask for the volumes of the node and for who holds them.

        Raises KrakenError; what was known before is then known still.
        """
        volumes = self.cloud.volumes(node)
        others = {
            attachment.instance_id
            for volume in volumes
            for attachment in volume.attachments
            if attachment.instance_id and attachment.instance_id != self.instance_id
        }
        moment = self.clock.now()
        old = moment - self._holders_at >= HOLDERS_FOR
        if not others:
            self.holders = {}
        elif old or not others <= set(self.holders):
            self.holders = self.cloud.holders(others)
            self._holders_at = moment
        self.volumes = tuple(self._believed(volume) for volume in volumes)

    def awaited(
        self, claims: Sequence[Claim], here: Container[str]
    ) -> dict[str, float]:
        """Seconds since the attachment of each volume, by its id, whose disk is not
        ``here`` yet."""
        moment = self.clock.now()
        found: dict[str, float] = {}
        for volume in (volume for claim in claims for volume in claim.volumes):
            if volume.id in here or not volume.attached_to(self.instance_id):
                self._awaited_since.pop(volume.id, None)
                continue
            since = self._awaited_since.setdefault(volume.id, moment)
            found[volume.id] = moment - since
        return found

    def _believed(self, volume: Volume) -> Volume:
        shown = volume.attached_to(self.instance_id)
        if shown or volume.id not in self._accepted:
            return volume
        since, attachment = self._accepted[volume.id]
        if self.clock.now() - since < BELIEVED_FOR:
            return replace(volume, state="in-use", attachments=(attachment,))
        del self._accepted[volume.id]
        self._undone[volume.id] += 1
        return volume

    def attached(self, volume_id: str, device: str) -> None:
        """The cloud has accepted: no need to ask before the disk shows itself."""
        attachment = Attachment(self.instance_id, device, "attaching")
        self.attached_now.add(volume_id)
        self._accepted[volume_id] = (self.clock.now(), attachment)
        self.volumes = tuple(self._believed(volume) for volume in self.volumes)

    def detached(self, volume_ids: Iterable[str]) -> None:
        self.attached_now.difference_update(volume_ids)
        for volume_id in volume_ids:
            self._accepted.pop(volume_id, None)

    def undone(self, volume_ids: Iterable[str]) -> Optional[str]:
        """A volume whose attachment was accepted again and again, and is not there."""
        undone = [one for one in volume_ids if self._undone[one] >= UNDONE_LIMIT]
        return min(undone, default=None)
