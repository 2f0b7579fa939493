"""The part of EC2's API that we speak, for botocore.

botocore builds a client from a description of the whole service: for EC2 700
operations in 8 MiB of JSON, whose reading is the larger part of what a first
call costs, and stays in memory.  This is the same description of six
operations, in botocore's own format, with what we ask for and what we read.
It also says what an older botocore's does not: whether a volume is a copy of
another one, and who manages it.

tests/unit/test_ec2api.py holds it against the description in botocore.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

VERSION = "2016-11-15"

Shape = Dict[str, Any]


def _operation(name: str, answer: str) -> Shape:
    return {
        "name": name,
        "http": {"method": "POST", "requestUri": "/"},
        "input": {"shape": f"{name}Request"},
        "output": {"shape": answer},
    }


def _structure(**members: Shape) -> Shape:
    return {"type": "structure", "members": members}


def _list(shape: str, name: str = "item") -> Shape:
    return {"type": "list", "member": {"shape": shape, "locationName": name}}


def _at(name: str, shape: str = "String") -> Shape:
    return {"shape": shape, "locationName": name}


_PLAIN: Shape = {"shape": "String"}
_QUESTION = _structure(
    Filters=_at("Filter", "FilterList"),
    MaxResults=_at("maxResults", "Integer"),
    NextToken=_at("nextToken"),
)


def _answer(name: str, place: str, shape: str) -> Shape:
    return _structure(**{name: _at(place, shape), "NextToken": _at("nextToken")})


SERVICE: Dict[str, Any] = {
    "version": "2.0",
    "metadata": {
        "apiVersion": VERSION,
        "endpointPrefix": "ec2",
        "protocol": "ec2",
        "protocols": ["ec2"],
        "serviceAbbreviation": "Amazon EC2",
        "serviceFullName": "Amazon Elastic Compute Cloud",
        "serviceId": "EC2",
        "signatureVersion": "v4",
        "uid": f"ec2-{VERSION}",
        "xmlNamespace": f"http://ec2.amazonaws.com/doc/{VERSION}",
        "auth": ["aws.auth#sigv4"],
    },
    "operations": {
        "AttachVolume": _operation("AttachVolume", "VolumeAttachment"),
        "DetachVolume": _operation("DetachVolume", "VolumeAttachment"),
        **{
            name: _operation(name, f"{name}Result")
            for name in (
                "DescribeInstanceTypes",
                "DescribeInstances",
                "DescribeTags",
                "DescribeVolumes",
            )
        },
    },
    "shapes": {
        "String": {"type": "string"},
        "Integer": {"type": "integer"},
        "Boolean": {"type": "boolean"},
        "Filter": _structure(Name=_PLAIN, Values=_at("Value", "ValueStringList")),
        "FilterList": _list("Filter", "Filter"),
        "ValueStringList": _list("String"),
        "Tag": _structure(Key=_at("key"), Value=_at("value")),
        "TagList": _list("Tag"),
        # ---- AttachVolume, DetachVolume
        "AttachVolumeRequest": {
            **_structure(Device=_PLAIN, InstanceId=_PLAIN, VolumeId=_PLAIN),
            "required": ["Device", "InstanceId", "VolumeId"],
        },
        "DetachVolumeRequest": {
            **_structure(InstanceId=_PLAIN, VolumeId=_PLAIN),
            "required": ["VolumeId"],
        },
        "VolumeAttachment": _structure(
            DeleteOnTermination=_at("deleteOnTermination", "Boolean"),
            Device=_at("device"),
            InstanceId=_at("instanceId"),
            State=_at("status"),
            VolumeId=_at("volumeId"),
        ),
        "VolumeAttachmentList": _list("VolumeAttachment"),
        # ---- DescribeVolumes
        "DescribeVolumesRequest": _QUESTION,
        "DescribeVolumesResult": _answer("Volumes", "volumeSet", "VolumeList"),
        "VolumeList": _list("Volume"),
        "Volume": _structure(
            Attachments=_at("attachmentSet", "VolumeAttachmentList"),
            AvailabilityZone=_at("availabilityZone"),
            MultiAttachEnabled=_at("multiAttachEnabled", "Boolean"),
            Operator=_at("operator", "OperatorResponse"),
            Size=_at("size", "Integer"),
            SnapshotId=_at("snapshotId"),
            SourceVolumeId=_at("sourceVolumeId"),
            State=_at("status"),
            Tags=_at("tagSet", "TagList"),
            VolumeId=_at("volumeId"),
        ),
        "OperatorResponse": _structure(Managed=_at("managed", "Boolean")),
        # ---- DescribeTags
        "DescribeTagsRequest": _QUESTION,
        "DescribeTagsResult": _answer("Tags", "tagSet", "TagDescriptionList"),
        "TagDescriptionList": _list("TagDescription"),
        "TagDescription": _structure(
            Key=_at("key"), ResourceId=_at("resourceId"), Value=_at("value")
        ),
        # ---- DescribeInstances
        "DescribeInstancesRequest": _QUESTION,
        "DescribeInstancesResult": _answer(
            "Reservations", "reservationSet", "ReservationList"
        ),
        "ReservationList": _list("Reservation"),
        "Reservation": _structure(Instances=_at("instancesSet", "InstanceList")),
        "InstanceList": _list("Instance"),
        "Instance": _structure(
            BlockDeviceMappings=_at(
                "blockDeviceMapping", "InstanceBlockDeviceMappingList"
            ),
            InstanceId=_at("instanceId"),
            InstanceType=_at("instanceType"),
            RootDeviceName=_at("rootDeviceName"),
            State=_at("instanceState", "InstanceState"),
            Tags=_at("tagSet", "TagList"),
        ),
        "InstanceState": _structure(Name=_at("name")),
        "InstanceBlockDeviceMappingList": _list("InstanceBlockDeviceMapping"),
        "InstanceBlockDeviceMapping": _structure(DeviceName=_at("deviceName")),
        # ---- DescribeInstanceTypes
        "DescribeInstanceTypesRequest": _structure(
            InstanceTypes=_at("InstanceType", "RequestInstanceTypeList")
        ),
        "RequestInstanceTypeList": {
            "type": "list",
            "member": _PLAIN,
            "locationName": "InstanceType",
        },
        "DescribeInstanceTypesResult": _answer(
            "InstanceTypes", "instanceTypeSet", "InstanceTypeInfoList"
        ),
        "InstanceTypeInfoList": _list("InstanceTypeInfo"),
        "InstanceTypeInfo": _structure(
            EbsInfo=_at("ebsInfo", "EbsInfo"), InstanceType=_at("instanceType")
        ),
        "EbsInfo": _structure(
            MaximumEbsAttachments=_at("maximumEbsAttachments", "Integer")
        ),
    },
}

PAGINATORS: Dict[str, Any] = {
    "pagination": {
        name: {
            "input_token": "NextToken",
            "limit_key": "MaxResults",
            "output_token": "NextToken",
            "result_key": key,
        }
        for name, key in (
            ("DescribeInstances", "Reservations"),
            ("DescribeTags", "Tags"),
            ("DescribeVolumes", "Volumes"),
        )
    }
}


class Loader:
    """botocore's loader of descriptions, with ours for EC2."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def load_service_model(
        self, service_name: str, type_name: str, api_version: Optional[str] = None
    ) -> Any:
        if service_name == "ec2" and type_name == "service-2":
            return SERVICE
        if service_name == "ec2" and type_name == "paginators-1":
            return PAGINATORS
        if service_name == "ec2":
            # By its name: looking through all services for it takes as long
            # as reading it.
            try:
                return self._loader.load_data(f"ec2/{VERSION}/{type_name}")
            except Exception:  # of another version there
                pass
        return self._loader.load_service_model(service_name, type_name, api_version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
