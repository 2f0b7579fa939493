"""CreateVolume: what may be asked for, and which client token made which volume.

Bounds: botocore's service model ec2/2016-11-15.  Texts are EC2's where somebody
published them: aws-ebs-csi-driver #1038 (token), #2512 (limit) and its cloud.go
(iops), crossplane provider-aws #1858 (deleted), runs-on #260 and #426 (throughput),
rocicorp/mono #4410 (ratio), sodafoundation/strato #1116 (size).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from tests.lab.query import Ec2Error, boolean, integer

TOKEN_SECONDS = 12 * 3600.0
"""How long EC2 remembers a client token (measured, aws-ebs-csi-driver PR #2075)."""
TOKEN_LENGTH = 64


@dataclass(frozen=True)
class Kind:
    """Bounds of a volume type: GiB, IOPS, IOPS for each GiB, MiB/s."""

    sizes: tuple[int, int]
    iops: Optional[tuple[int, int]] = None
    ratio: int = 0
    throughput: Optional[tuple[int, int]] = None


KINDS = {
    "gp2": Kind((1, 16384)),
    "gp3": Kind((1, 65536), (3000, 80000), 500, (125, 2000)),
    "io1": Kind((4, 16384), (100, 64000), 50),
    "io2": Kind((4, 65536), (100, 256000), 1000),
    "st1": Kind((125, 16384)),
    "sc1": Kind((125, 16384)),
    "standard": Kind((1, 1024)),
}
MIBPS_FOR_EACH_IOPS = 0.25


@dataclass(frozen=True)
class Wanted:
    """The volume that a request asks for: GiB, IOPS, MiB/s (None: it has none)."""

    type: str
    size: int
    iops: Optional[int]
    throughput: Optional[int]
    encrypted: bool
    kms_key_id: str
    multi_attach: bool


def wanted(
    request: Mapping[str, Any], least: Optional[int], sealed: bool, default_key: str
) -> Wanted:
    """What ``request`` asks for, checked.

    ``least``: the size of its snapshot in GiB (None: there is no snapshot);
    ``sealed``: that snapshot is encrypted.  Raises Ec2Error.
    """
    name = request.get("VolumeType", "gp2")
    kind = KINDS.get(name)
    if kind is None:
        raise Ec2Error(
            "UnknownVolumeType",
            f"Unsupported volume type '{name}' for volume creation.",
        )
    size = _size(request, name, kind, least)
    iops = _iops(request, name, kind, size)
    throughput = _throughput(request, kind, iops)
    key = request.get("KmsKeyId", "")
    encrypted = boolean(request.get("Encrypted"))
    if key and not encrypted:
        raise Ec2Error(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        )
    encrypted = encrypted or sealed
    multi = boolean(request.get("MultiAttachEnabled"))
    if multi and name not in ("io1", "io2"):
        raise Ec2Error(
            "InvalidParameterCombination",
            f"The parameter MultiAttachEnabled is not supported for {name}.",
        )
    return Wanted(
        name,
        size,
        iops,
        throughput,
        encrypted,
        (key or default_key) if encrypted else "",
        multi,
    )


def _size(
    request: Mapping[str, Any], name: str, kind: Kind, least: Optional[int]
) -> int:
    size = integer("size", request.get("Size"))
    if size is None:
        if least is None:
            raise Ec2Error(
                "MissingParameter",
                "The request must contain the parameter size or snapshotId",
            )
        size = least
    if least is not None and size < least:
        raise Ec2Error(
            "InvalidParameterValue",
            f"Volume of {size}GiB is smaller than snapshot "
            f"'{request['SnapshotId']}', expect size >= {least}GiB",
        )
    smallest, largest = kind.sizes
    if not smallest <= size <= largest:
        bound, side = ("at least", "above the minimum")
        limit = smallest
        if size > largest:
            bound, side, limit = "at most", "below the maximum", largest
        raise Ec2Error(
            "InvalidParameterValue",
            f"The volume size is invalid for {name} volumes: {size} GiB. {name} "
            f"volumes must be {bound} {limit} GiB in size. Please specify a volume "
            f"size {side} limit.",
        )
    return size


def _iops(
    request: Mapping[str, Any], name: str, kind: Kind, size: int
) -> Optional[int]:
    iops = integer("iops", request.get("Iops"))
    if kind.iops is None:
        if iops is not None:
            raise Ec2Error(
                "InvalidParameterCombination",
                f"The parameter iops is not supported for {name} volumes.",
            )
        return min(max(100, 3 * size), 16000) if name == "gp2" else None
    if iops is None:
        if name != "gp3":
            raise Ec2Error(
                "MissingParameter",
                f"The parameter iops must be specified for {name} volumes.",
            )
        return kind.iops[0]
    _within("iops", iops, kind.iops)
    if iops > max(kind.ratio * size, kind.iops[0]):
        raise Ec2Error(
            "InvalidParameterValue",
            f"Iops to volume size ratio of {iops / size:f} is too high; maximum is "
            f"{kind.ratio}",
        )
    return iops


def _throughput(
    request: Mapping[str, Any], kind: Kind, iops: Optional[int]
) -> Optional[int]:
    throughput = integer("throughput", request.get("Throughput"))
    if kind.throughput is None or iops is None:
        if throughput is not None:
            raise Ec2Error(
                "InvalidParameterCombination",
                "throughput can only be specified for volumeType gp3.",
            )
        return None
    if throughput is None:
        return kind.throughput[0]
    _within("throughput", throughput, kind.throughput)
    if throughput > MIBPS_FOR_EACH_IOPS * iops:
        raise Ec2Error(
            "InvalidParameterValue",
            f"Throughput (MiBps) to iops ratio of {throughput / iops:f} is too high; "
            f"maximum is {MIBPS_FOR_EACH_IOPS:f} MiBps per iops",
        )
    return throughput


def _within(name: str, value: int, bounds: tuple[int, int]) -> None:
    if value > bounds[1]:
        text = f"Volume {name} of {value} is too high; maximum is {bounds[1]}."
    elif value < bounds[0]:
        text = f"Volume {name} of {value} is too low; minimum is {bounds[0]}."
    else:
        return
    raise Ec2Error("InvalidParameterValue", text)


def check_kind_of_tags(request: Mapping[str, Any]) -> None:
    """Only volumes are tagged by CreateVolume."""
    for one in request.get("TagSpecification", []):
        kind = one.get("ResourceType", "")
        if kind != "volume":
            raise Ec2Error(
                "InvalidParameterValue",
                f"'{kind}' is not a valid taggable resource type for this operation.",
            )


# ------------------------------------------------------------ client tokens


@dataclass(frozen=True)
class _Made:
    request: Mapping[str, Any]
    volume_id: str
    at: float


class Tokens:
    """The client tokens of an account; one that was used is good for 12 hours.

    EC2 compares everything but region and zone ("Ensuring idempotency in Amazon EC2
    API requests"): in another zone the same token makes another volume.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], _Made] = {}

    def made(self, zone: str, request: Mapping[str, Any], now: float) -> str:
        """The volume that this request made before; "" if there is none.

        Raises Ec2Error where the token was used for something else, or is none.
        """
        token = checked(request.get("ClientToken", ""))
        before = self._made.get((zone, token)) if token else None
        if before is None or now - before.at >= TOKEN_SECONDS:
            return ""
        if before.request != _compared(request):
            raise Ec2Error(
                "IdempotentParameterMismatch",
                f"The client token you have provided ({token}) is not valid for "
                "these parameters.",
            )
        return before.volume_id

    def keep(
        self, zone: str, request: Mapping[str, Any], volume_id: str, now: float
    ) -> None:
        token = request.get("ClientToken", "")
        if token:
            self._made[zone, token] = _Made(_compared(request), volume_id, now)


def burned() -> Ec2Error:
    """The token is remembered, and its volume is no more."""
    return Ec2Error(
        "IdempotentParameterMismatch",
        "The client token you have provided is associated with a resource that is "
        "already deleted. Please use a different client token.",
    )


def checked(token: str) -> str:
    if len(token) > TOKEN_LENGTH:
        raise Ec2Error(
            "InvalidParameterValue",
            f"Client token must be less than or equal to {TOKEN_LENGTH} characters",
        )
    if not re.fullmatch(r"[\x20-\x7e]*", token):
        raise Ec2Error(
            "InvalidParameterValue", "Client token must contain ASCII characters only"
        )
    return token


def _compared(request: Mapping[str, Any]) -> Mapping[str, Any]:
    apart = ("ClientToken", "AvailabilityZone", "AvailabilityZoneId")
    return {key: value for key, value in request.items() if key not in apart}


def over_limit(kind: str, gib: int) -> Ec2Error:
    """EC2 says this also for a token whose volume exists: it adds up first, and
    looks at tokens later (aws-ebs-csi-driver, cloud.go at 429e202)."""
    return Ec2Error(
        "VolumeLimitExceeded",
        f"You have exceeded your maximum {kind} storage limit of {gib / 1024:g} TiB in "
        "this region. Please contact AWS Support to request an Elastic Block Store "
        "service limit increase.",
    )
