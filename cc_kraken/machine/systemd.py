"""systemd reads fstab again: its units of an older one could unmount what is new."""

from __future__ import annotations

import os

from cc_kraken.machine import command, files
from cc_kraken.machine.paths import Paths


def reload() -> bool:
    """Make systemd read fstab; False where it is not the init.

    Raises ``command-failed``.
    """
    if not command.has_systemd():
        return False
    finished = command.run(["systemctl", "daemon-reload"])
    command.check(finished, "making systemd read fstab")
    return True


def read_fstab(paths: Paths) -> None:
    """Make systemd read fstab if we have changed it since it did.

    Raises as :func:`reload` does; then, after a fault of ours, and where fstab is
    changed meanwhile, the next call does it.
    """
    if not os.path.exists(paths.unread):
        return
    files.remove(paths.unread)
    try:
        reload()
    except BaseException:
        files.write_atomic(paths.unread, b"", 0o644)
        raise
