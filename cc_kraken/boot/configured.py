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


def is_configured(
    _name: object = None,
    cfg: Any = None,
    cloud: Any = None,
    *_others: object,
    **_more: object,
) -> bool:
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
    return (
        _word(datasource, "cloud_name") == "aws"
        or _word(datasource, "platform") == "ec2"
        or _word(datasource, "platform_type") == "ec2"
    )


def _word(datasource: object, name: str) -> object:
    try:
        return getattr(datasource, name, None)
    except Exception:
        # Properties of the datasource compute, and fail on objects that an
        # older cloud-init pickled.
        return None


def _has_files(directory: str) -> bool:
    try:
        return any(name.endswith(".yaml") for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
