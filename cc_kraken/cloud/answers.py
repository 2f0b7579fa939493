"""EC2's answers as values of :mod:`cc_kraken.model`, and values as its filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from cc_kraken.model import Attachment, Holder, Instance, NewVolume, Volume

FILTER_LENGTH = 255  # characters of one value


def filter_value(value: str) -> str:
    """A literal value for a filter, where ``*`` and ``?`` are wildcards.

    What is too long for a filter is cut, and ends with a wildcard.
    """
    text = ""
    for character in value:
        piece = "\\" + character if character in "\\*?" else character
        if len(text) + len(piece) >= FILTER_LENGTH:
            return text + "*"
        text += piece
    return text


def tags(raw: Optional[Iterable[Mapping[str, str]]]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value") or "" for tag in raw or ()}


def volume(raw: Mapping[str, Any]) -> Volume:
    attachments = [_attachment(item) for item in raw.get("Attachments") or ()]
    return Volume(
        id=raw["VolumeId"],
        size_gib=int(raw.get("Size") or 0),
        zone=raw.get("AvailabilityZone") or "",
        state=raw.get("State") or "",
        tags=tags(raw.get("Tags")),
        # EC2 leaves the order open, inside lists too
        attachments=tuple(
            sorted(attachments, key=lambda a: (a.instance_id or "", a.device or ""))
        ),
        origin=raw.get("SnapshotId") or raw.get("SourceVolumeId") or "",
        multi_attach=bool(raw.get("MultiAttachEnabled")),
        managed=bool((raw.get("Operator") or {}).get("Managed")),
        encrypted=bool(raw.get("Encrypted")),
        created=raw["CreateTime"].timestamp() if raw.get("CreateTime") else 0.0,
    )


def new_volume(new: NewVolume) -> dict[str, Any]:
    """The parameters of CreateVolume, without those that the wish leaves to EC2."""
    wish = new.wish
    tagged = [{"Key": key, "Value": value} for key, value in sorted(new.tags.items())]
    found = {
        "AvailabilityZone": new.zone,
        "VolumeType": wish.type,
        "ClientToken": new.token,
        "TagSpecifications": [{"ResourceType": "volume", "Tags": tagged}],
        "Size": wish.size_gib,
        "Iops": wish.iops,
        "Throughput": wish.throughput,
        "Encrypted": wish.encrypted,
        "KmsKeyId": wish.kms_key_id,
        "SnapshotId": wish.snapshot,
    }
    return {key: value for key, value in found.items() if value}


def _attachment(raw: Mapping[str, Any]) -> Attachment:
    return Attachment(
        instance_id=raw.get("InstanceId") or None,
        device=raw.get("Device") or None,
        state=raw.get("State") or "",
        delete_on_termination=bool(raw.get("DeleteOnTermination")),
    )


def holder(raw: Mapping[str, Any], namespace: str) -> Holder:
    found = tags(raw.get("Tags"))
    return Holder(
        instance_id=raw["InstanceId"],
        state=(raw.get("State") or {}).get("Name") or "",
        prefix=found.get(f"{namespace}:Prefix"),
        node_id=found.get(f"{namespace}:NodeId"),
        private_ip=raw.get("PrivateIpAddress") or "",
        private_dns=raw.get("PrivateDnsName") or "",
    )


def instance(raw: Mapping[str, Any], namespace: str) -> Instance:
    return Instance(
        **vars(holder(raw, namespace)),
        zone=(raw.get("Placement") or {}).get("AvailabilityZone") or "",
        tags=tags(raw.get("Tags")),
        root_device=raw.get("RootDeviceName") or "",
    )


def device_names(raw: Mapping[str, Any]) -> frozenset[str]:
    """The names in use on an instance, with the root device's.

    A mapping of the image can be missing in it.
    """
    mappings = raw.get("BlockDeviceMappings") or ()
    names = {item.get("DeviceName") or "" for item in mappings}
    return frozenset((names | {raw.get("RootDeviceName") or ""}) - {""})
