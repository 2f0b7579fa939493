"""Give up a claim to a node of another prefix, when the configuration has changed.

Its node may still be attached here, and an instance can be one node.
"""

from __future__ import annotations

from typing import Callable

from cc_kraken.act.claim_file import ClaimFile
from cc_kraken.act.observe import Observer
from cc_kraken.act.waiting import until_answered
from cc_kraken.cloud.protocol import Cloud
from cc_kraken.decide import claiming
from cc_kraken.model import Node, Trouble, failure


def given_up(
    file: ClaimFile,
    prefix: str,
    instance_id: str,
    cloud: Cloud,
    observer: Observer,
    hold_up: Callable[[Trouble], None],
) -> bool:
    """Whether the note is of another prefix: then nothing of its node is here, and no
    call can bring anything any more.  Raises KrakenError ``claim-two-nodes``."""
    note = file.note
    if note is None or note.prefix == prefix:
        return False
    former = Node(note.prefix, note.node_id)
    volumes = until_answered(lambda: cloud.volumes(former), hold_up)
    disks = observer.volumes_here()
    # Not its anchor alone.
    here = disks & {*note.calls, *(volume.id for volume in volumes)}
    here |= {volume.id for volume in volumes if volume.attached_to(instance_id)}
    if here:
        raise failure(
            "claim-two-nodes",
            f"{instance_id} is {former} ({', '.join(sorted(here))} is attached), and "
            f"is told to claim a node of {prefix}.",
            "An instance can be one node.",
            f"Correct the prefix, or detach the volumes of {former} in EC2, then: "
            "cc-kraken apply.",
        )
    while True:
        noted = file.noted()
        if noted is None or not noted.open:
            return True
        hold_up(claiming.unsure(former, instance_id))
