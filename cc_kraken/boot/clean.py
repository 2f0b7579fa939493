"""What ``cloud-init clean`` takes away of ours, for an image without a past.

Run by the hook in ``/etc/cloud/clean.d``.  Lines of fstab and of mdadm's
configuration name the volumes of this node; an image made of the machine
must not hold them.  Volumes, and what is mounted, are left alone.

cloud-init 22.2 has no such hooks, and people forget to clean: what an image has
brought along goes at the first boot (:func:`forget_other`).
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Callable

from cc_kraken.machine import command, files, fstab, mdadm_conf
from cc_kraken.machine.md import mdadm_uuid
from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError
from cc_kraken.state import last_resort, udev_rules

INITRAMFS_TIMEOUT = 900  # seconds; it takes one to two minutes on a small machine


def clean(paths: Paths) -> list[str]:
    """Remove our lines and state; returns sentences that say what was done.

    A second call finds nothing.  Raises KrakenError when a file cannot be
    written, or the initramfs cannot be made.
    """
    said = []
    text = fstab.read(paths)
    sets = sorted(fstab.ours(text))
    if sets and fstab.write(paths, fstab.replace(text, dict.fromkeys(sets))):
        said.append(f"Removed from {paths.fstab}: {', '.join(sets)}.")
    if mdadm_conf.write(paths, {}):
        said.append(f"Removed {mdadm_conf.location(paths)}.")
        said += _refresh_initramfs()
    if udev_rules.remove(paths):
        said.append(f"Removed {udev_rules.location(paths)}.")
    if os.path.isdir(paths.state):
        shutil.rmtree(paths.state)
        said.append(f"Removed {paths.state}.")
    files.remove(last_resort.location(paths.run))
    for path in (paths.status, paths.node_env, paths.metrics):
        if files.remove(path):
            said.append(f"Removed {path}.")
    return said


def forget_other(paths: Paths, instance_id: str) -> list[str]:
    """On an instance made from another one's image: remove our lines for volumes
    that are not in this machine, which every boot would wait for.

    A line for a disk that is here stays, for a root disk that was moved together
    with its volumes.  Raises as :func:`clean` does.
    """
    former = last_resort.instance(paths)
    if former in ("", instance_id):
        return []

    def is_here(link: str) -> bool:
        return os.path.exists(os.path.join(paths.dev, "disk", link))

    said = []
    text = fstab.read(paths)
    gone = [
        name
        for name, line in fstab.ours(text).items()
        if not is_here(line.spec.replace("UUID=", "by-uuid/"))
    ]
    if gone:
        files.make_directories(paths.run)
        files.write_atomic(paths.unread, b"", 0o644)
        fstab.write(paths, fstab.replace(text, dict.fromkeys(gone)))
        said.append(f"Removed from {paths.fstab}, of {former}: {', '.join(gone)}")
    arrays = mdadm_conf.current(paths)
    here = {
        name: uuid
        for name, uuid in arrays.items()
        if is_here(f"by-id/md-uuid-{mdadm_uuid(uuid)}")
    }
    if here != arrays and mdadm_conf.write(paths, here):
        absent = ", ".join(sorted(set(arrays) - set(here)))
        said.append(f"Removed ARRAY lines, of {former}: {absent}")
    return said


_INITRAMFS = (
    ("update-initramfs", "-u"),
    # It replaces the images that are there only when told so.
    ("dracut", "--force", "--regenerate-all"),
)


def _refresh_initramfs() -> list[str]:
    """The initramfs, where there is one, has a copy of mdadm's configuration."""
    for argv in _INITRAMFS:
        if command.available(argv[0]):
            done = command.run(argv, timeout=INITRAMFS_TIMEOUT)
            command.check(done, "taking the arrays out of the initramfs")
            return ["Made the initramfs anew."]
    return []


def run_for_script(action: Callable[[Paths], list[str]]) -> int:
    """Carry it out for a script, and print what was done or why not; the exit
    status."""
    try:
        for sentence in action(Paths()):
            print(f"cc-kraken: {sentence}")
    except KrakenError as error:
        print(f"cc-kraken: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cc-kraken: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":  # what the hook runs
    sys.exit(run_for_script(clean))
