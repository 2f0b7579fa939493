"""Whether anybody asks for the module on this machine.

cloud-init calls the module at every boot of every instance that the image is
on.  Where nobody asks, that costs this look and no import.
"""

from __future__ import annotations

import os
from typing import Any

KEY = "kraken"
DIRECTORIES = ("/etc/cc-kraken/conf.d", "/var/lib/cloud/instance/kraken.d")
"""Where :mod:`cc_kraken.config.loading` reads files."""
STATUS = "/run/cc-kraken/status.json"


def is_configured(cfg: Any, cloud: Any) -> bool:
    """Takes what cloud-init hands to the module.  True when in doubt: what
    cannot be read is told by those who want to read it."""
    if cfg is None or cloud is None:
        return True
    if not is_ec2(getattr(cloud, "datasource", None)):
        return False
    return KEY in cfg or os.path.exists(STATUS) or any(map(_has_files, DIRECTORIES))


def is_ec2(datasource: object) -> bool:
    """Whether the datasource speaks of an EC2 instance.

    ``cloud_name`` is ``aws`` there; private clouds that speak EC2 have
    ``platform`` ``ec2`` and another name.
    """
    name, platform = (
        attribute(datasource, "cloud_name"),
        attribute(datasource, "platform"),
    )
    return name == "aws" or platform == "ec2"


def attribute(owner: object, name: str) -> object:
    """None where there is none: properties of the datasource compute, and fail on
    objects that another version of cloud-init pickled."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def _has_files(directory: str) -> bool:
    try:
        return any(name.endswith(".yaml") for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
