"""Device names for AttachVolume: a pure allocator, and its use by threads.

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
from string import ascii_lowercase
from typing import AbstractSet, Iterable, Set, Tuple

from cc_kraken.model import KrakenError, Trouble


def _two(first: str, last: str = "z") -> Tuple[str, ...]:
    return tuple(f"/dev/xvd{first}{c}" for c in ascii_lowercase if c <= last)


def _one(first: str, last: str) -> Tuple[str, ...]:
    return tuple(f"/dev/sd{c}" for c in ascii_lowercase if first <= c <= last)


#: Every name that is asked for, best first.
#:
#: The documented /dev/xvd[b-c][a-z] come first: 52 names that neither people
#: nor images nor launch templates use, against 11 of the recommended
#: /dev/sd[f-p], where all of these begin; each collision costs one call of a
#: throttled action.  Then the recommended ones, then those that the CSI driver
#: found to be accepted, and at last what is reserved for instance store.
#: Together they are enough for the largest limit of an instance type (128
#: volumes with the root volume).
CANDIDATES: Tuple[str, ...] = (
    _two("b")
    + _two("c")
    + _one("f", "p")
    + _two("a")
    + _two("d", last="x")
    + _one("q", "z")
    + _one("b", "e")
)

_XVD = re.compile(r"^xvd(?=[a-z]\d*$)")


def canonical(name: str) -> str:
    """The name without ``/dev/``, and with ``sd`` for a one-letter ``xvd``.

    EC2 accepts /dev/sdf beside a used /dev/xvdf and may then never complete
    the attachment, so both count as one name.
    """
    return _XVD.sub("sd", name[5:] if name.startswith("/dev/") else name)


def allocate(
    in_use: Iterable[str], bad: Iterable[str] = (), count: int = 1
) -> Tuple[str, ...]:
    """The first ``count`` candidates neither in use nor known to be bad.

    ``in_use``: names as EC2 shows them, with or without ``/dev/``; ``bad``:
    names that EC2 refused in this run.  Raises KrakenError
    (``device-names-exhausted``) when there are not as many.
    """
    used = {canonical(name) for name in in_use}
    refused = {canonical(name) for name in bad}
    free = [n for n in CANDIDATES if canonical(n) not in used | refused]
    if len(free) < count:
        raise KrakenError(_exhausted(len(used), len(refused), count, len(free)))
    return tuple(free[:count])


def _exhausted(used: int, refused: int, count: int, free: int) -> Trouble:
    return Trouble(
        kind="device-names-exhausted",
        found=f"only {free} device names are left on this instance "
        f"({used} in use, {refused} refused by EC2)",
        expected=f"{count} free of the {len(CANDIDATES)} names that EC2 accepts",
        remedy="Detach volumes that this instance does not need, or use an "
        "image with fewer block device mappings.",
    )


class Names:
    """The names of one run, for several threads at once.

    A name is given out once; one that EC2 refused is never given out again.
    """

    def __init__(self, in_use: AbstractSet[str]) -> None:
        self._lock = threading.Lock()
        self._in_use: Set[str] = set(in_use)
        self._bad: Set[str] = set()

    def take(self) -> str:
        """The next free name; KrakenError when there is none."""
        with self._lock:
            (name,) = allocate(self._in_use, self._bad)
            self._in_use.add(name)
            return name

    def reject(self, name: str) -> str:
        """Note that EC2 refused ``name``, and take the next one."""
        with self._lock:
            self._in_use.discard(name)
            self._bad.add(name)
        return self.take()

    @property
    def bad(self) -> Tuple[str, ...]:
        """The names that EC2 refused, in order."""
        with self._lock:
            return tuple(sorted(self._bad))
