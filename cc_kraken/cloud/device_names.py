"""Device names for AttachVolume.

On Nitro instances, the only ones served, a device name is a label inside EC2
and nothing else, so any name that EC2 accepts will do.  What matters is that a
name is not taken, also not by a mapping of the image that DescribeInstances
does not show, and that a name is not used again within a run (a name that was
freed a moment ago can leave the next volume "attaching").

Sources: the EC2 user guide, "Device names for volumes", and the list that the
EBS CSI driver found by trial (``pkg/cloud/devicemanager/device_names.go``).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from string import ascii_lowercase

from cc_kraken.model import failure

#: Every name that is asked for, best first.
#:
#: The documented /dev/xvd[b-c][a-z] come first: 52 names that neither people
#: nor images nor launch templates use, against 11 of the recommended
#: /dev/sd[f-p], where all of these begin; each collision costs one call of a
#: throttled action.  Then the recommended ones, then those that the CSI driver
#: found to be accepted, and at last what is reserved for instance store.
#: Together they are enough for the largest limit of an instance type (128
#: volumes with the root volume).
CANDIDATES = tuple(
    f"/dev/{stem}{letter}"
    for stem, letters in (
        ("xvdb", ascii_lowercase),
        ("xvdc", ascii_lowercase),
        ("sd", "fghijklmnop"),
        ("xvda", ascii_lowercase),
        ("xvdd", "abcdefghijklmnopqrstuvwx"),
        ("sd", "qrstuvwxyz"),
        ("sd", "bcde"),
    )
    for letter in letters
)

_XVD = re.compile(r"^xvd(?=[a-z]\d*$)")


def canonical(name: str) -> str:
    """The name without ``/dev/``, and with ``sd`` for a one-letter ``xvd``.

    EC2 accepts /dev/sdf beside a used /dev/xvdf and may then never complete
    the attachment, so both count as one name.
    """
    return _XVD.sub("sd", name[5:] if name.startswith("/dev/") else name)


class Names:
    """The names of one run, each given out once; threads may ask."""

    def __init__(self, in_use: Iterable[str]) -> None:
        """``in_use``: names as EC2 shows them, with or without ``/dev/``."""
        used = {canonical(name) for name in in_use}
        self._free = (name for name in CANDIDATES if canonical(name) not in used)
        self._given: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, volume_id: str) -> str:
        """The name of a volume: it keeps the one that it was asked for with,
        because names are few, and the call before may have succeeded."""
        with self._lock:
            return self._given.get(volume_id) or self._next(volume_id)

    def refused(self, volume_id: str) -> str:
        """The next name for a volume; EC2 has refused the one before."""
        with self._lock:
            return self._next(volume_id)

    def freed(self, volume_id: str) -> None:
        """The volume was detached, and its name is not used again."""
        with self._lock:
            self._given.pop(volume_id, None)

    def _next(self, volume_id: str) -> str:
        name = next(self._free, None)
        if name is None:
            raise failure(
                "device-names-exhausted",
                f"All {len(CANDIDATES)} device names that EC2 accepts are in use on "
                "this instance, or were refused.",
                "One must be free.",
                "Detach volumes that this instance does not need, or use an image "
                "with fewer block device mappings.",
            )
        self._given[volume_id] = name
        return name
