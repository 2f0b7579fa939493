"""Which volumes udev's last-resort timer must leave alone.

Thirty seconds after the first member of an array has come, mdadm's units
(mdadm-last-resort@.timer) start it without the others, where its level can do
without them: members that come later are then out of date.  Whether a set of
this node may start degraded is said by ``allow_degraded`` alone.  So the
members of its arrays are listed in a file, by which a condition of that unit
(installed with the package) keeps it from them; also at a reboot, when udev
is long at work before the first run begins.
"""

from __future__ import annotations

import logging
import os
from typing import Iterable

from cc_kraken.machine import files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, KrakenError

LOG = logging.getLogger(__name__)

NAME = "members"


def location(paths: Paths) -> str:
    return os.path.join(paths.state, NAME)


def text(instance_id: str, claims: Iterable[Claim]) -> str:
    """The file for these claims: the instance that it is meant for, then the
    volumes of every set of several, one a line."""
    volumes = sorted(
        volume.id
        for claim in claims
        if claim.wanted.members > 1
        for volume in claim.volumes
    )
    return "".join(f"{line}\n" for line in (f"instance {instance_id}", *volumes))


def write(paths: Paths, instance_id: str, claims: Iterable[Claim]) -> bool:
    """Write the file where it is not as it should be; True when it was.

    A disk that cannot be written is no reason to leave volumes unmounted.
    """
    try:
        os.makedirs(paths.state, mode=0o755, exist_ok=True)
        told = files.encode(text(instance_id, claims))
        return files.write_atomic(location(paths), told)
    except (KrakenError, OSError) as error:
        LOG.warning("udev may start arrays degraded: %s", error)
        return False
