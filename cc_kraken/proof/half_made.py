"""Whether what lies beside an intent record is what a cut-off mkfs has left.

A power cut keeps no order of writes, so a superblock can be there without the rest.
What was ever mounted is whole: who has used it knows better than any checker.
The checker is asked only where our record still lies beside a filesystem that looks
complete and was never mounted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from cc_kraken.filesystems import registry
from cc_kraken.machine import command
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Known, KrakenError, Layer, Look, Record, Unknown
from cc_kraken.proof import probe, rehearsal

AT_ONCE = 8
"""Checkers.  Each holds some ten MiB in memory for a TiB of its filesystem."""

_SLOTS = threading.Semaphore(AT_ONCE)


def look(
    paths: Paths,
    target: Layer,
    intent: Record,
    options: Sequence[str],
    seen: Look,
    *,
    full: bool = False,
) -> Look:
    """``seen``, the look at ``target``, in the light of its record ``intent`` (of an
    array: of its members).

    HalfMade where the recorded step, with these mkfs ``options``, explains all that is
    there.  Unknown, with a fingerprint, where that cannot be found out.  Raises
    KrakenError ``program-missing``.
    """
    shown = seen.content
    if isinstance(shown, Known):
        meant = (shown.type, shown.uuid) == (intent.fs_type, intent.fs_uuid)
        if not meant or shown.ever_mounted or sound(target.path, shown.type):
            return seen
    elif not isinstance(shown, Unknown):
        return seen
    try:
        ours = rehearsal.extents(paths, target, intent, options)
    except KrakenError as error:
        if error.trouble.kind == "program-missing":
            raise
        again = probe.look(
            target.path, volume_id=target.volume_id, full=full, fingerprint=True
        )
        return replace(again, content=Unknown(error.trouble.found))
    return probe.look(
        target.path,
        volume_id=target.volume_id,
        full=full,
        ours=ours,
        licence=None if target.volume_id else intent,
    )


def sound(path: str, kind: str) -> bool:
    """Whether the checker of this type finds nothing wrong on ``path``; it only reads.

    False for a type that we do not make, and where it cannot judge: alone that is no
    licence.  Raises KrakenError ``program-missing``, and ``command-failed`` where it
    was killed.
    """
    filesystem = registry.TYPES.get(kind)
    if filesystem is None:
        return False
    try:
        with _SLOTS:
            finished = command.run([*filesystem.checker, path], timeout=None)
    except KrakenError as error:
        # Of a TiB that is torn e2fsck has more to say than anybody reads.
        if error.trouble.kind != "command-output":
            raise
        return False
    if finished.code < 0:
        command.check(finished, f"checking the {kind} on {path}")
    return finished.code == 0
