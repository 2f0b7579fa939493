"""Where things are on the machine, so that tests can put them elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional


class _In:
    """The path of a name in one of the directories."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory, self._name = directory, name

    def __get__(self, paths: Paths, _: Optional[type[Paths]] = None) -> str:
        return os.path.join(getattr(paths, self._directory), self._name)


@dataclass(frozen=True)
class Paths:
    """Directories and files that the module reads or writes."""

    sys: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"
    etc: str = "/etc"
    run: str = "/run/cc-kraken"
    state: str = "/var/lib/cc-kraken"
    instance: str = "/var/lib/cloud/instance"
    udev: str = "/run/udev"

    fstab = _In("etc", "fstab")
    lock = _In("run", "lock")
    status = _In("run", "status.json")
    #: The status for Prometheus, where the section asks for it.
    metrics = _In("run", "metrics.prom")
    #: Which node this instance is, for services; absent until that is known.
    node_env = _In("run", "node.env")
    #: There while systemd has not read what we have changed in fstab.
    unread = _In("run", "fstab-unread")
    layout = _In("state", "layout.json")
    #: What this instance has seen of its arrays.
    arrays = _In("state", "arrays.json")
    #: Which node this instance has asked for, where it may be any.
    claim = _In("state", "claim.json")
    #: Another value at each boot (random(4)).
    boot_id = _In("proc", "sys/kernel/random/boot_id")
