"""The one thing that is asked of the metadata service itself: cloud-init's version
of it does not know warm pools.

Sources: EC2's user guide, "Instance metadata categories" (autoscaling/, from version
2021-07-15 on), and "Use IMDSv2".
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Optional

from cc_kraken.cloud.errors import plain, waiting

DEFAULT = "http://169.254.169.254"
TIMEOUT = 2.0  # seconds
TOKEN = "X-aws-ec2-metadata-token"


def lifecycle(url: str = "") -> str:
    """``autoscaling/target-lifecycle-state``: ``InService``, ``Warmed:Stopped``;
    "" for an instance of no group, or without a metadata service.

    Raises Ec2Error ``metadata-unreachable``, which waits.
    """
    base = (url or DEFAULT).rstrip("/")
    token = _ask(f"{base}/latest/api/token", {f"{TOKEN}-ttl-seconds": "60"}, "PUT")
    if token is None:
        return ""
    path = "latest/meta-data/autoscaling/target-lifecycle-state"
    return _ask(f"{base}/{path}", {TOKEN: token}, "GET") or ""


def _ask(url: str, headers: Mapping[str, str], method: str) -> Optional[str]:
    """The answer; None where there is no such thing, or the service is off."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    # Never through a proxy, which would see the token.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            # Without a size, so that half an answer is an error.
            return str(answer.read().decode("ascii", "replace").strip())
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 405):
            return None
        reason = f"HTTP status {error.code}"
    except (OSError, http.client.HTTPException) as error:
        reason = plain(str(getattr(error, "reason", error)))
    raise waiting(
        "metadata-unreachable",
        f"The metadata service does not say whether this instance is in a warm pool "
        f"({reason}).",
        "It must answer before a node is claimed.",
        "cc_kraken asks again. If this stays, check the instance's metadata options, "
        "and the firewall of this machine.",
    )
