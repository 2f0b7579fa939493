"""What a run asks of a cloud.  EC2 is one; the tests have a second.

Values come from :mod:`cc_kraken.model`.  A method that fails raises KrakenError,
whose Trouble says whether time may cure it (``waits``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from cc_kraken.model import Holder, NewVolume, Node, Volume

THROTTLED = "ec2-throttled"
"""The kind of the error of any call when the account has made too many."""

IN_USE = "volume-in-use"
"""The kind of the error of :meth:`Cloud.attach` when somebody has the volume.  It
may be this instance: only a new look at the volumes tells."""

TOKEN_BURNED = "create-token-burned"
"""The kind of the error of :meth:`Cloud.create_volume` when the token was used for a
volume that is no more: it makes none any more."""

LIMIT = "create-limit"
"""The kind of its error when the account has no room for another volume.  The one of
this token may be there all the same."""


@runtime_checkable
class Cloud(Protocol):
    """The cloud as one instance sees it.  Threads may call at the same time."""

    calls: Counter[str]
    """How many requests were sent, by action."""
    throttled: Counter[str]
    """How many of them the cloud has put off, because there were too many."""

    def instance_tags(self) -> Mapping[str, str]:
        """The tags of this instance; empty when it has none."""

    def volumes(self, node: Node) -> tuple[Volume, ...]:
        """Every volume with the node's tags, by id, in any zone and state."""

    def prefix_volumes(self, prefix: str, zone: str = "") -> tuple[Volume, ...]:
        """Every volume of all nodes of a prefix, by id; with ``zone`` of that zone."""

    def marked_volumes(self) -> tuple[Volume, ...]:
        """Every volume with a tag that is ours or looks like one of ours, of whichever
        node, by id, in any zone and state."""

    def lifecycle(self) -> str:
        """What the group that has launched this instance wants of it
        (``Warmed:Stopped``, ``InService``); "" where none has."""

    def holders(self, instance_ids: Iterable[str]) -> Mapping[str, Holder]:
        """The instances; one that nobody knows any more has the state ``gone``."""

    def attach(self, volume_id: str) -> str:
        """Ask for an attachment to this instance; the device's name in the cloud.

        There is no proof but the next look: an error can come after success.
        """

    def detach(self, volume_id: str) -> None:
        """Take the attachment to this instance back, never by force.

        It is no error when there is none.
        """

    def create_volume(self, new: NewVolume) -> str:
        """Ask for a volume; its id.  It is not available yet.

        Asked again with the same token, it is the same volume.
        """
