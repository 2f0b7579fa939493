"""Whether what lies beside an intent record is what a cut-off mkfs has left.

A power cut keeps no order of writes, so a superblock can be there without the rest.
What was ever mounted is whole: who has used it knows better than any checker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence, Union

from cc_kraken.filesystems import check, rehearsal
from cc_kraken.machine.paths import Paths
from cc_kraken.model import (
    Array,
    Device,
    Known,
    KrakenError,
    Look,
    Record,
    Unknown,
)
from cc_kraken.proof import content


def look(
    paths: Paths,
    target: Union[Device, Array],
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
        if not meant or shown.ever_mounted or check.sound(target.path, shown.type):
            return seen
    elif not isinstance(shown, Unknown):
        return seen
    single = isinstance(target, Device)
    volume_id = target.volume_id if isinstance(target, Device) else ""
    try:
        ours = rehearsal.extents(paths, target, intent, options)
    except KrakenError as error:
        if error.trouble.kind == "program-missing":
            raise
        again = content.look(
            target.path, volume_id=volume_id, full=full, fingerprint=True
        )
        return replace(again, content=Unknown(error.trouble.found))
    return content.look(
        target.path,
        volume_id=volume_id,
        full=full,
        ours=ours,
        licence=None if single else intent,
    )
