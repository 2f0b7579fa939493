"""The package that brings a program, on each family of distributions."""

from __future__ import annotations

from collections.abc import Mapping

from cc_kraken.filesystems import registry

#: On Debian, and on RHEL and its relatives; a filesystem's type says its own.
PACKAGES: Mapping[str, tuple[str, str]] = {
    "blkid": ("util-linux", "util-linux"),
    "dracut": ("dracut", "dracut"),
    "mdadm": ("mdadm", "mdadm"),
    "mount": ("mount", "util-linux"),
    "restorecon": ("policycoreutils", "policycoreutils"),
    "systemctl": ("systemd", "systemd"),
    "umount": ("mount", "util-linux"),
    "udevadm": ("udev", "systemd-udev"),
    "update-initramfs": ("initramfs-tools", "dracut"),
    "wipefs": ("util-linux", "util-linux"),
    **registry.PACKAGES,
}


def of(program: str) -> tuple[str, str]:
    """On Debian, and on RHEL; ("", "") where unknown."""
    return PACKAGES.get(program, ("", ""))
