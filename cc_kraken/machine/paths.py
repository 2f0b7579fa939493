"""Where things are on the machine, so that tests can put them elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass


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

    @property
    def fstab(self) -> str:
        return os.path.join(self.etc, "fstab")

    @property
    def status(self) -> str:
        return os.path.join(self.run, "status.json")

    @property
    def node_env(self) -> str:
        """Which node this instance is, for services; absent until that is known."""
        return os.path.join(self.run, "node.env")

    @property
    def metrics(self) -> str:
        """The status for Prometheus, where the section asks for it."""
        return os.path.join(self.run, "metrics.prom")

    @property
    def lock(self) -> str:
        return os.path.join(self.run, "lock")

    @property
    def unread(self) -> str:
        """There while systemd has not read what we have changed in fstab."""
        return os.path.join(self.run, "fstab-unread")

    @property
    def layout(self) -> str:
        return os.path.join(self.state, "layout.json")

    @property
    def arrays(self) -> str:
        """What this instance has seen of its arrays."""
        return os.path.join(self.state, "arrays.json")

    @property
    def claim(self) -> str:
        """Which node this instance has asked for, where it may be any."""
        return os.path.join(self.state, "claim.json")

    @property
    def boot_id(self) -> str:
        """Another value at each boot (random(4))."""
        return os.path.join(self.proc, "sys/kernel/random/boot_id")
