"""Release volumes: DetachVolume, of those that nothing uses, at the very call.

A set is given back when another instance holds a part of it.  In the meantime
anybody can have mounted what came: a stale line in fstab, udev, a person.  So its
disk is waited for, looked at once more, and held exclusively until it is gone: who
tries to mount it by then is refused, and loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Callable, Optional

from cc_kraken.machine import devices, md
from cc_kraken.machine.clock import Clock
from cc_kraken.machine.paths import Paths
from cc_kraken.model import Device, KrakenError, Trouble
from cc_kraken.storage import make, preconditions

WORKERS = 32
#: Seconds, longer than EC2 takes for either: a disk that has not come by then is
#: no use to anybody here.
DISK_COMES, DISK_GOES = 10.0, 10.0


def unused(
    paths: Paths,
    clock: Clock,
    volume_ids: Sequence[str],
    detach: Callable[[str], object],
) -> dict[str, Trouble]:
    """Call ``detach`` for each of the volumes while nothing can use it, side by
    side; returns those that were not, and why.

    What ``detach`` raises passes through, when all have had their turn.
    """
    with ThreadPoolExecutor(
        min(WORKERS, len(volume_ids)), thread_name_prefix="kraken-detach"
    ) as pool:
        jobs = {
            volume_id: pool.submit(_one, paths, clock, volume_id, detach)
            for volume_id in volume_ids
        }
    whys = {volume_id: job.result() for volume_id, job in jobs.items()}
    return {volume_id: why for volume_id, why in whys.items() if why is not None}


def _one(
    paths: Paths, clock: Clock, volume_id: str, detach: Callable[[str], object]
) -> Optional[Trouble]:
    def there() -> bool:
        return volume_id in devices.claimed(paths).values()

    if not there():
        clock.watch(DISK_COMES, there)
    with ExitStack() as held:
        try:
            for device in devices.of_volume(paths, volume_id):
                _hold(paths, device, held)
        except KrakenError as error:
            return error.trouble
        detach(volume_id)
        clock.watch(DISK_GOES, lambda: not there())
    return None


def _hold(paths: Paths, device: Device, held: ExitStack) -> None:
    # udev has put it into an array that lacks the other members: nobody uses that.
    for array in md.holding(md.scan(paths), (device.name,)):
        make.stop_idle(paths, array)
    preconditions.check_unused(paths, device, partitions=True)
    if os.path.exists(device.path):  # it may have gone by itself
        disk = held.enter_context(make.held(paths, device))
        disk.check_unused(partitions=True)
        held.enter_context(disk.opened(os.O_RDONLY | os.O_EXCL))
