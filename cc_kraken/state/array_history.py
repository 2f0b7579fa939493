"""What this instance has seen of its arrays, in ``arrays.json``.

A member that fell out of its array does not know it: alone it says that all were
in step.  With ``allow_degraded`` it would be started, with its older content.
Where this instance has seen the array later than that, it is not.  The file
permits nothing, and another instance ignores it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cc_kraken.decide import members
from cc_kraken.decide.members import ArrayState, Seen
from cc_kraken.decide.world import World
from cc_kraken.machine import files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, KrakenError

LOG = logging.getLogger(__name__)

VERSION = 1


def load(paths: Paths, instance_id: str) -> dict[str, Seen]:
    """What was kept, by array UUID; nothing where there is no file of this
    instance that can be read."""
    try:
        content = files.read_json(paths.arrays)
        if (content["version"], content["instance_id"]) != (VERSION, instance_id):
            return {}
        return {
            str(uuid): Seen(
                int(one["events"]),
                int(one["created"]),
                tuple(str(volume) for volume in one["volumes"]),
            )
            for uuid, one in content["arrays"].items()
        }
    except (AttributeError, KeyError, KrakenError, TypeError, ValueError):
        return {}


def save(paths: Paths, instance_id: str, claims: Iterable[Claim], world: World) -> bool:
    """Keep what was seen of the arrays of these sets; True where anything is new.

    A disk that cannot be written is no reason to leave volumes unmounted.
    """
    now = found(claims, world)
    if now == dict(world.arrays_seen):
        return False
    content = {
        "version": VERSION,
        "instance_id": instance_id,
        "arrays": {uuid: one.__dict__ for uuid, one in now.items()},
    }
    try:
        return files.write_json(paths.arrays, content)
    except KrakenError as error:
        LOG.warning("What was seen of the arrays is not kept: %s", error)
        return False


def found(claims: Iterable[Claim], world: World) -> dict[str, Seen]:
    """What is known of each array that may start degraded, after a look around."""
    now = dict(world.arrays_seen)
    for claim in claims:
        ids = [volume.id for volume in claim.volumes]
        blocks = members.superblocks(world.looks, ids)
        state = members.read(blocks) if blocks else None
        if isinstance(state, ArrayState) and state.redundant:
            now[state.uuid] = members.seen_now(state, now.get(state.uuid))
    return now
