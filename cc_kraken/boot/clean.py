"""What ``cloud-init clean`` takes away of ours, for an image without a past.

Run by the hook in ``/etc/cloud/clean.d``.  Lines of fstab and of mdadm's
configuration name the volumes of this node; an image made of the machine
must not hold them.  Volumes, and what is mounted, are left alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import List, Optional

from cc_kraken.machine.paths import Paths
from cc_kraken.model import KrakenError

#: Seconds; an initramfs takes one to two minutes on a small machine.
INITRAMFS_TIMEOUT = 900


def clean(paths: Optional[Paths] = None) -> List[str]:
    """Remove our lines and state; returns sentences that say what was done.

    A second call finds nothing.  Raises KrakenError when a file cannot be
    written, or the initramfs cannot be made.
    """
    from cc_kraken.act import udev_rules
    from cc_kraken.machine import files, fstab, mdadm_conf

    paths = paths or Paths()
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
    for path in (paths.status, paths.node_env):
        if files.remove(path):
            said.append(f"Removed {path}.")
    return said


def _refresh_initramfs() -> List[str]:
    """The initramfs has a copy of mdadm's configuration (where there is one
    and Debian's tool for it)."""
    from cc_kraken.machine import command

    if shutil.which("update-initramfs", path=command.PATH) is None:
        return []
    command.check(
        command.run(["update-initramfs", "-u"], timeout=INITRAMFS_TIMEOUT),
        "taking the arrays out of the initramfs",
    )
    return ["Made the initramfs anew."]


def main() -> int:
    """``python3 -m cc_kraken.boot.clean``: what the hook runs."""
    try:
        for sentence in clean():
            print(f"cc-kraken: {sentence}")
    except KrakenError as error:
        print(f"cc-kraken: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cc-kraken: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
