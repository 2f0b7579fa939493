"""Which volumes udev's last-resort timer must leave alone.

Thirty seconds after the first member of an array has come, mdadm's units
(mdadm-last-resort@.timer) start it without the others, where its level can do
without them: members that come later are then out of date.  Only
``allow_degraded`` permits that for a set of this node.  So the members of its
arrays are listed in a file, and a condition of that unit (installed with the
package) keeps it from them.  The condition reads ``/run``, as SELinux permits to what
udev and systemd start so early; a line of tmpfiles.d copies the file to there at a
reboot, long before the first run.  Where a policy forbids that line to read the file
(Debian's does), the condition reads it where it lies.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable

from cc_kraken.machine import files
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Claim, KrakenError

LOG = logging.getLogger(__name__)

_INSTANCE = "instance "


def location(directory: str) -> str:
    return os.path.join(directory, "members")


def instance(paths: Paths) -> str:
    """The instance that the last run on this root disk was on; "" unknown."""
    with contextlib.suppress(KrakenError):
        first = (files.read_text(location(paths.state)) or "").partition("\n")[0]
        return first[len(_INSTANCE) :] if first.startswith(_INSTANCE) else ""
    return ""


def write(paths: Paths, instance_id: str, claims: Iterable[Claim]) -> bool:
    """Write the file where it is missing or differs; True if it was written.

    It names the instance that it is meant for, then the volumes of every set of
    several.  A disk that cannot be written is no reason to leave volumes unmounted.
    """
    several = [claim for claim in claims if claim.wanted.members > 1]
    volumes = sorted(volume.id for claim in several for volume in claim.volumes)
    lines = (f"{_INSTANCE}{instance_id}", *volumes)
    data = files.encode("".join(f"{line}\n" for line in lines))
    written = False
    try:
        for directory in (paths.run, paths.state):
            files.make_directories(directory)
            written = files.write_atomic(location(directory), data) or written
        return written
    except (KrakenError, OSError) as error:
        LOG.warning("udev may start arrays degraded: %s", error)
        return False
