"""Instance types: what DescribeInstanceTypes says of them."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import os
from dataclasses import dataclass
from typing import Optional

from tests.lab.query import Ec2Error


@dataclass(frozen=True)
class InstanceType:
    """``limit``: attachments, the root volume's too; ``kind`` of that limit:
    shared (with network interfaces and local disks) or dedicated; ``cards``: of
    EBS."""

    limit: int
    kind: str
    hypervisor: str
    vcpus: int
    mib: int
    interfaces: int
    cards: int = 1


TYPES: dict[str, InstanceType] = {
    "t2.micro": InstanceType(40, "shared", "xen", 1, 1024, 2),
    "t3.micro": InstanceType(27, "shared", "nitro", 2, 1024, 2),
    "t3.small": InstanceType(27, "shared", "nitro", 2, 2048, 3),
    "t3.medium": InstanceType(27, "shared", "nitro", 2, 4096, 3),
    "m4.large": InstanceType(40, "shared", "xen", 2, 8192, 2),
    "m5.large": InstanceType(27, "shared", "nitro", 2, 8192, 3),
    "m5d.large": InstanceType(26, "shared", "nitro", 2, 8192, 3),
    "c5.large": InstanceType(27, "shared", "nitro", 2, 4096, 3),
    "r5.large": InstanceType(27, "shared", "nitro", 2, 16384, 3),
    "m6i.large": InstanceType(27, "shared", "nitro", 2, 8192, 3),
    "m7i.large": InstanceType(32, "dedicated", "nitro", 2, 8192, 3),
    "m7i.48xlarge": InstanceType(128, "dedicated", "nitro", 192, 786432, 15),
    "c8gb.48xlarge": InstanceType(128, "dedicated", "nitro", 192, 393216, 24, 2),
    "d3.8xlarge": InstanceType(3, "shared", "nitro", 32, 262144, 3),
}


def find(name: str) -> Optional[InstanceType]:
    return TYPES.get(name) or _snapshot().get(name)


def get(name: str) -> InstanceType:
    """As ``find``, with EC2's error for a type that does not exist."""
    found = find(name)
    if found is None:
        raise Ec2Error(
            "InvalidParameterValue", f"Invalid value '{name}' for InstanceType."
        )
    return found


@functools.lru_cache(maxsize=None)
def _snapshot() -> dict[str, InstanceType]:
    """moto's snapshot of DescribeInstanceTypes, read without importing moto;
    empty where moto is not installed."""
    spec = importlib.util.find_spec("moto")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(folder, "ec2", "resources", "instance_types.json.gz")
        if os.path.exists(path):
            with gzip.open(path) as stream:
                raw = json.load(stream)
            return {
                name: InstanceType(
                    limit=info["EbsInfo"].get("MaximumEbsAttachments", 28),
                    kind=info["EbsInfo"].get("AttachmentLimitType", "shared"),
                    hypervisor=info.get("Hypervisor", "nitro"),
                    vcpus=info["VCpuInfo"]["DefaultVCpus"],
                    mib=info["MemoryInfo"]["SizeInMiB"],
                    interfaces=info["NetworkInfo"]["MaximumNetworkInterfaces"],
                    cards=info["EbsInfo"].get("MaximumEbsCards", 1),
                )
                for name, info in raw.items()
            }
    return {}
