"""The actions of the EC2 API that the lab answers itself: requests to XML.

Requests are nested as tests.lab.query.nest makes them; answers are mappings
of XML element names (botocore's service model ec2/2016-11-15).
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Optional,
)

from tests.lab import creation, instance_types, query
from tests.lab.metadata import check_tag_keys
from tests.lab.query import Ec2Error, boolean, integer, moment
from tests.lab.world import (
    ROOT_DEVICE,
    STATE_CODES,
    Attachment,
    Instance,
    Modification,
    Snapshot,
    Volume,
    World,
    new_id,
)

ACCOUNT = "123456789012"
VPC = "vpc-0123456789abcdef0"

#: Of RunInstances: what may be said, and what holds where nothing is.
METADATA_OPTIONS = {
    "HttpEndpoint": ("enabled", "disabled"),
    "HttpTokens": ("optional", "required"),
    "InstanceMetadataTags": ("disabled", "enabled"),
}


@dataclass
class _Lag:
    """How old the next answers are: ``seconds``, or anything up to it."""

    seconds: float
    left: Optional[int]
    share: float
    spread: bool


@dataclass(frozen=True)
class _Shown:
    """An instance and its attachments, as an answer shows them."""

    instance: Instance
    mapping: Sequence[Attachment]

    @property
    def id(self) -> str:
        return self.instance.id


class Actions(World):
    """The world, asked in EC2's way.

    ``page_size`` caps every page, also of requests without MaxResults.  With
    ``sparse_pages`` filters are applied after a page was cut, as EC2 may
    do: pages can then be short, or empty with a token.  The other arguments
    are World's.
    """

    def __init__(
        self,
        *,
        page_size: Optional[int] = None,
        sparse_pages: bool = False,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.page_size = page_size
        self.sparse_pages = sparse_pages
        self._tokens = creation.Tokens()
        self._lag: Optional[_Lag] = None
        self._random = random.Random(1)

    # ------------------------------------------------------------ stale reads

    def lag(
        self,
        seconds: float,
        answers: Optional[int] = None,
        *,
        share: float = 1.0,
        spread: bool = False,
        seed: int = 1,
    ) -> None:
        """Describe calls show the world as it was ``seconds`` ago.

        ``answers``: only so many of them (None: until ``lag(0)``), then the
        present again.  ``share``: of the answers, the others are up to date,
        so that what is shown goes back and forth.  ``spread``: any age up to
        ``seconds``.
        """
        with self._lock:
            self._random = random.Random(seed)
            self._lag = _Lag(seconds, answers, share, spread) if seconds else None

    def _moment_shown(self) -> Optional[float]:
        """The moment that this answer shows; None: now."""
        lag = self._lag
        if lag is None or lag.left == 0 or self._random.random() >= lag.share:
            return None
        if lag.left is not None:
            lag.left -= 1
        age = lag.seconds * (self._random.random() if lag.spread else 1.0)
        return self.clock.now() - age

    def _volumes_shown(
        self, volumes: Sequence[Volume], ids: Sequence[str], moment: Optional[float]
    ) -> list[Volume]:
        if moment is None:
            return [one for one in volumes if one.id in self._volumes]
        shown: list[Volume] = []
        for volume in volumes:
            past = self._as_of(volume.id, moment)
            if past is None and volume.id not in self._volumes:
                continue
            one = volume if past is None else past.resource
            if one is not None:
                shown.append(one)
            elif volume.id in ids:
                raise Ec2Error(
                    "InvalidVolume.NotFound",
                    f"The volume '{volume.id}' does not exist.",
                )
        return shown

    def _instances_shown(
        self, instances: Sequence[Instance], ids: Sequence[str], moment: Optional[float]
    ) -> list[_Shown]:
        shown: list[_Shown] = []
        for instance in instances:
            past = None if moment is None else self._as_of(instance.id, moment)
            if past is None:
                shown.append(_Shown(instance, self._attachments(instance.id)))
            elif past.resource is not None:
                shown.append(_Shown(past.resource, past.mapping))
            elif instance.id in ids:
                raise Ec2Error(
                    "InvalidInstanceID.NotFound",
                    f"The instance ID '{instance.id}' does not exist",
                )
        return shown

    def _candidates(self, request: Mapping[str, Any]) -> list[Volume]:
        """The volumes among which the filters choose: an index saves most of
        the work where a tag is asked for by its very value."""
        age = self.clock.now() - self._tagged_at
        stale = self._lag is not None and self._lag.seconds >= age
        if stale:
            gone = [volume for volume, _ in self._gone.values()]
            return [*self._volumes.values(), *gone]
        if self.sparse_pages:
            return list(self._volumes.values())
        choices = []
        for one in request.get("Filter", []):
            name, values = str(one.get("Name", "")), one.get("Value", [])
            plain = len(values) == 1 and not set(values[0]) & set("*?\\")
            if name.startswith("tag:") and plain:
                choices.append(self._tagged(name[len("tag:") :], values[0]))
        if choices:
            return min(choices, key=len)
        return list(self._volumes.values())

    # ------------------------------------------------------ actions: describe

    def _page(
        self,
        request: Mapping[str, Any],
        ids: str,
        smallest: int = 5,
        largest: int = 1000,
    ) -> Optional[int]:
        """The size of the page that is asked for, checked."""
        wanted = integer("maxResults", request.get("MaxResults"))
        if wanted is None:
            return self.page_size
        if ids and request.get(ids):
            name = {"VolumeId": "volumesSet", "InstanceId": "instancesSet"}.get(ids)
            if name is not None:
                raise Ec2Error(
                    "InvalidParameterCombination",
                    f"The parameter {name} cannot be used with the parameter "
                    "maxResults",
                )
        if wanted < smallest or wanted > largest:
            limit = "greater than 5" if wanted < smallest else f"at most {largest}"
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ( {wanted} ) for parameter maxResults is invalid. "
                f"Expecting a value {limit}.",
            )
        return min(wanted, self.page_size or wanted)

    def _paged(
        self,
        items: Sequence[Any],
        key: Callable[[Any], str],
        chosen: Callable[[Sequence[Any]], list[Any]],
        request: Mapping[str, Any],
        size: Optional[int],
    ) -> tuple[list[Any], Optional[str]]:
        """Filter and cut, in the order that ``sparse_pages`` says."""
        if self.sparse_pages:
            found, token = query.page(items, key, request, size)
            return chosen(found), token
        return query.page(chosen(items), key, request, size)

    def _describe_volumes(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        # Above 500 EC2 quietly gives 500 a page.
        size = self._page(request, "VolumeId", largest=10**9)
        if request.get("MaxResults") is not None:
            size = min(size or 500, 500)
        ids = request.get("VolumeId", [])
        some = [self._volume(one) for one in ids] or self._candidates(request)
        volumes = self._volumes_shown(some, ids, self._moment_shown())
        fields: dict[str, Callable[[Volume], list[str]]] = {
            **_VOLUME_FIELDS,
            "availability-zone-id": lambda volume: [self._zone_id(volume.zone)],
        }
        found, token = self._paged(
            volumes,
            lambda volume: str(volume.id),
            lambda some: query.select(
                some, request.get("Filter", []), fields, lambda one: one.tags
            ),
            request,
            size,
        )
        return {
            "volumeSet": [self._volume_xml(volume) for volume in found],
            "nextToken": token,
        }

    def _volume_xml(self, volume: Volume) -> Mapping[str, Any]:
        return {
            "volumeId": volume.id,
            "size": volume.size_gib,
            "snapshotId": volume.snapshot_id,
            "sourceVolumeId": volume.source_volume_id or None,
            "availabilityZone": volume.zone,
            "availabilityZoneId": self._zone_id(volume.zone),
            "status": volume.state,
            "createTime": moment(volume.create_time),
            "attachmentSet": [_attachment_xml(one) for one in volume.attachments],
            "tagSet": _tags_xml(volume.tags),
            "volumeType": volume.type,
            "iops": volume.iops,
            "throughput": volume.throughput,
            "encrypted": volume.encrypted,
            "kmsKeyId": volume.kms_key_id or None,
            "multiAttachEnabled": volume.multi_attach,
            "operator": {"managed": volume.managed},
        }

    def _describe_instances(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        size = self._page(request, "InstanceId")
        ids = request.get("InstanceId", [])
        wanted = [self._instance(one) for one in ids]
        wanted = wanted or self._instances_by_filter(request)
        shown = self._instances_shown(wanted, ids, self._moment_shown())
        fields: dict[str, Callable[[_Shown], list[str]]] = {
            **_INSTANCE_FIELDS,
            "block-device-mapping.volume-id": lambda one: [
                each.volume_id for each in one.mapping
            ],
            "block-device-mapping.device-name": lambda one: [
                each.device for each in one.mapping
            ],
        }
        found, token = self._paged(
            shown,
            lambda one: str(one.id),
            lambda some: query.select(
                some, request.get("Filter", []), fields, lambda one: one.instance.tags
            ),
            request,
            size,
        )
        return {
            "reservationSet": [self._reservation_xml([one]) for one in found],
            "nextToken": token,
        }

    def _reservation_xml(self, instances: Sequence[_Shown]) -> dict[str, Any]:
        return {
            "reservationId": instances[0].instance.reservation_id,
            "ownerId": ACCOUNT,
            "groupSet": [],
            "instancesSet": [self._instance_xml(one) for one in instances],
        }

    def _instances_by_filter(self, request: Mapping[str, Any]) -> list[Instance]:
        """As ``_candidates``, for a filter that names instances."""
        for one in request.get("Filter", []):
            values = one.get("Value", [])
            plain = not any(set(value) & set("*?\\") for value in values)
            if one.get("Name") == "instance-id" and plain:
                known = (self._instances.get(value) for value in values)
                return [instance for instance in known if instance is not None]
        return list(self._instances.values())

    def _instance_xml(self, shown: _Shown) -> Mapping[str, Any]:
        instance = shown.instance
        name = "ip-" + instance.private_ip.replace(".", "-") + ".ec2.internal"
        return {
            "instanceId": instance.id,
            "imageId": instance.image_id,
            "instanceState": _state_xml(instance.state),
            "privateDnsName": name,
            "amiLaunchIndex": 0,
            "instanceType": instance.type,
            "launchTime": moment(instance.launch_time),
            "subnetId": self.subnet(instance.zone),
            "keyName": instance.key_name or None,
            "iamInstanceProfile": {"arn": _profile_arn(instance.profile)}
            if instance.profile
            else None,
            "metadataOptions": {"state": "applied", **_named(instance)},
            "placement": {
                "availabilityZone": instance.zone,
                "availabilityZoneId": self._zone_id(instance.zone),
                "tenancy": "default",
            },
            "privateIpAddress": instance.private_ip,
            "architecture": "x86_64",
            "rootDeviceType": "ebs",
            "rootDeviceName": instance.root_device,
            "blockDeviceMapping": [
                {
                    "deviceName": one.device,
                    "ebs": {
                        "volumeId": one.volume_id,
                        "status": one.state,
                        "attachTime": moment(one.attach_time),
                        "deleteOnTermination": one.delete_on_termination,
                    },
                }
                for one in shown.mapping
            ],
            "virtualizationType": "hvm",
            "tagSet": _tags_xml(instance.tags),
            "hypervisor": "xen",  # what EC2 says here, for Nitro too
        }

    def _describe_tags(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        size = self._page(request, "")
        resources = self._tagged_resources(request, self._moment_shown())
        rows = [
            (kind, resource, key, value)
            for kind, resource, tags in resources
            for key, value in tags.items()
        ]
        fields: dict[str, Callable[[tuple[str, str, str, str]], list[str]]] = {
            "resource-type": lambda row: [row[0]],
            "resource-id": lambda row: [row[1]],
            "key": lambda row: [row[2]],
            "value": lambda row: [row[3]],
        }
        found, token = self._paged(
            rows,
            lambda row: f"{row[1]} {row[2]}",
            lambda some: query.select(
                some, request.get("Filter", []), fields, lambda row: {row[2]: row[3]}
            ),
            request,
            size,
        )
        return {
            "tagSet": [
                {"resourceType": kind, "resourceId": resource, "key": key, "value": v}
                for kind, resource, key, v in found
            ],
            "nextToken": token,
        }

    def _tagged_resources(
        self, request: Mapping[str, Any], moment: Optional[float]
    ) -> list[tuple[str, str, Mapping[str, str]]]:
        volumes: Sequence[Volume] = list(self._volumes.values())
        instances: Sequence[Instance] = list(self._instances.values())
        snapshots: Sequence[Snapshot] = list(self._snapshots.values())
        for one in request.get("Filter", []):
            values = one.get("Value", [])
            plain = not any(set(value) & set("*?\\") for value in values)
            if one.get("Name") == "resource-id" and plain:
                volumes = [self._volumes[x] for x in values if x in self._volumes]
                instances = [self._instances[x] for x in values if x in self._instances]
                snapshots = [self._snapshots[x] for x in values if x in self._snapshots]
        found: list[tuple[str, str, Mapping[str, str]]] = [
            ("volume", one.id, one.tags)
            for one in self._volumes_shown(volumes, (), moment)
        ]
        found += [
            ("instance", one.id, one.instance.tags)
            for one in self._instances_shown(instances, (), moment)
        ]
        return found + [("snapshot", one.id, one.tags) for one in snapshots]

    def _describe_types(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        size = self._page(request, "InstanceType", largest=100)
        names = request.get("InstanceType", []) or list(instance_types.TYPES)
        fields: dict[str, Callable[[str], list[str]]] = {
            "instance-type": lambda name: [name],
            "hypervisor": lambda name: [instance_types.get(name).hypervisor],
        }
        unknown = [name for name in names if instance_types.find(name) is None]
        if unknown:
            raise Ec2Error(
                "InvalidInstanceType",
                "The following supplied instance types do not exist: "
                f"[{', '.join(unknown)}]",
            )
        found, token = self._paged(
            names,
            str,
            lambda some: query.select(some, request.get("Filter", []), fields, None),
            request,
            size,
        )
        return {
            "instanceTypeSet": [self._type_xml(name) for name in found],
            "nextToken": token,
        }

    def _type_xml(self, name: str) -> Mapping[str, Any]:
        info = instance_types.get(name)
        nitro = info.hypervisor == "nitro"
        return {
            "instanceType": name,
            "hypervisor": info.hypervisor,
            "vCpuInfo": {"defaultVCpus": info.vcpus},
            "memoryInfo": {"sizeInMiB": info.mib},
            "networkInfo": {"maximumNetworkInterfaces": info.interfaces},
            "ebsInfo": {
                "ebsOptimizedSupport": "default" if nitro else "supported",
                "encryptionSupport": "supported",
                "nvmeSupport": "required" if nitro else "unsupported",
                "maximumEbsAttachments": self._attachment_limit(name),
                "attachmentLimitType": info.kind,
                "maximumEbsCards": info.cards,
            },
        }

    def _describe_modifications(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        size = self._page(request, "VolumeId", smallest=1, largest=500)
        ids = request.get("VolumeId", [])
        volumes = [self._volume(one) for one in ids] or list(self._volumes.values())
        for volume in volumes:
            if ids and volume.modification is None:
                raise Ec2Error(
                    "InvalidVolumeModification.NotFound",
                    f"Modification for volume '{volume.id}' does not exist.",
                )
        fields: dict[str, Callable[[Volume], list[str]]] = {
            "volume-id": lambda volume: [volume.id],
            "modification-state": lambda volume: [
                volume.modification.state if volume.modification else ""
            ],
        }
        found, token = self._paged(
            [volume for volume in volumes if volume.modification],
            lambda volume: str(volume.id),
            lambda some: query.select(some, request.get("Filter", []), fields, None),
            request,
            size,
        )
        return {
            "volumeModificationSet": [
                _modification_xml(volume, volume.modification) for volume in found
            ],
            "nextToken": token,
        }

    # -------------------------------------------------------- actions: change

    def _attach_volume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "VolumeId", "InstanceId", "Device")
        volume, instance = request["VolumeId"], request["InstanceId"]
        card = integer("ebsCardIndex", request.get("EbsCardIndex")) or 0
        return _attachment_xml(self._attach(volume, instance, request["Device"], card))

    def _detach_volume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "VolumeId")
        return _attachment_xml(
            self._detach(
                request["VolumeId"],
                request.get("InstanceId", ""),
                request.get("Device", ""),
            )
        )

    def _create_volume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The order of the checks matters: the account's limit comes before the
        client token."""
        zone = self._zone_of(request)
        snapshot = request.get("SnapshotId", "")
        origin = self._usable_snapshot(snapshot) if snapshot else None
        volume = creation.wanted(
            request,
            origin.size_gib if origin else None,
            bool(origin and origin.encrypted),
            _key_arn(self.region, "alias/aws/ebs"),
        )
        creation.check_kind_of_tags(request)
        tags = _specified_tags(request, "volume")
        creation.checked(request.get("ClientToken", ""))
        limit = self.storage_limits.get(volume.type)
        if limit is not None and self._stored(volume.type) + volume.size > limit:
            raise creation.over_limit(volume.type, limit)
        volume_id = self._tokens.made(zone, request, self.clock.now())
        if volume_id and not self._stands(volume_id):
            raise creation.burned()
        if not volume_id:
            volume_id = self.create_volume(
                volume.size,
                zone,
                tags,
                snapshot_id=snapshot,
                volume_type=volume.type,
                encrypted=volume.encrypted,
                kms_key_id=_key_arn(self.region, volume.kms_key_id),
                iops=volume.iops,
                throughput=volume.throughput,
                multi_attach=volume.multi_attach,
                checks_key=True,
            )
            self._tokens.keep(zone, request, volume_id, self.clock.now())
            return {**self._volume_xml(self._volume(volume_id)), "status": "creating"}
        return self._volume_xml(self._volume(volume_id))

    def _zone_of(self, request: Mapping[str, Any]) -> str:
        """The zone of a request that says it by name or by id."""
        zone, by_id = (request.get(f"AvailabilityZone{end}", "") for end in ("", "Id"))
        if zone and by_id:
            raise Ec2Error(
                "InvalidParameterCombination",
                "The parameters availabilityZone and availabilityZoneId cannot be "
                "used together",
            )
        for one in self.zones:
            if by_id and self._zone_id(one) == by_id:
                return one
        if by_id:
            raise Ec2Error(
                "InvalidZone.NotFound", f"The zone '{by_id}' does not exist."
            )
        _require(request, "AvailabilityZone")
        self._check_zone(zone)
        return str(zone)

    def _stored(self, kind: str) -> int:
        """GiB of all volumes of a type."""
        return sum(
            volume.size_gib
            for volume in self._volumes.values()
            if volume.type == kind and volume.state != "error"
        )

    def _stands(self, volume_id: str) -> bool:
        """Neither deleted nor failed."""
        volume = self._volumes.get(volume_id)
        return volume is not None and volume.state != "error"

    def _usable_snapshot(self, snapshot_id: str) -> Snapshot:
        if not re.fullmatch(r"snap-[0-9a-f]{8}([0-9a-f]{9})?", snapshot_id):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({snapshot_id}) for parameter snapshotId is invalid. "
                "Expected: 'snap-...'.",
            )
        snapshot = self._snapshot(snapshot_id)
        if snapshot.state != "completed":
            raise Ec2Error(
                "IncorrectState", f"Snapshot is in invalid state - {snapshot.state}"
            )
        return snapshot

    def _create_snapshot(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "VolumeId")
        made = self.create_snapshot(
            request["VolumeId"], _specified_tags(request, "snapshot")
        )
        return {**_snapshot_xml(self._snapshots[made]), "status": "pending"}

    def _create_snapshots(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of all volumes of an instance, at one moment."""
        _require(request, "InstanceSpecification")
        wanted = request["InstanceSpecification"]
        _require(wanted, "InstanceId")
        instance = self._instance(wanted["InstanceId"])
        copied = request.get("CopyTagsFromSource", "")
        if copied not in ("", "volume"):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({copied}) for parameter copyTagsFromSource is invalid.",
            )
        given = _specified_tags(request, "snapshot")
        without = set(wanted.get("ExcludeDataVolumeId", []))
        if boolean(wanted.get("ExcludeBootVolume")):
            without |= {
                one.volume_id
                for one in self._attachments(instance.id)
                if one.device == instance.root_device
            }
        made = []
        for one in self._attachments(instance.id):
            if one.volume_id in without:
                continue
            own = self._tags_of(one.volume_id) if copied else {}
            made.append(self.create_snapshot(one.volume_id, {**own, **given}))
        shown = [_snapshot_xml(self._snapshots[one]) for one in made]
        return {"snapshotSet": [{**one, "state": "pending"} for one in shown]}

    def _describe_snapshots(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        size = self._page(request, "SnapshotId")
        ids = request.get("SnapshotId", [])
        fields: dict[str, Callable[[Snapshot], list[str]]] = {
            "snapshot-id": lambda one: [one.id],
            "volume-id": lambda one: [one.volume_id],
            "status": lambda one: [one.state],
        }
        found, token = self._paged(
            [self._snapshot(one) for one in ids] or list(self._snapshots.values()),
            lambda one: str(one.id),
            lambda some: query.select(
                some, request.get("Filter", []), fields, lambda one: one.tags
            ),
            request,
            size,
        )
        return {
            "snapshotSet": [_snapshot_xml(one) for one in found],
            "nextToken": token,
        }

    def _copy_volumes(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A volume of a volume in the same zone, without a snapshot."""
        _require(request, "SourceVolumeId")
        source = self._volume(request["SourceVolumeId"])
        size = integer("size", request.get("Size")) or source.size_gib
        if size < source.size_gib:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Volume of {size}GiB is smaller than its source '{source.id}'",
            )
        made = self.create_volume(
            size,
            source.zone,
            _specified_tags(request, "volume"),
            source_volume_id=source.id,
            volume_type=request.get("VolumeType", source.type),
            encrypted=source.encrypted,
        )
        answer = {**self._volume_xml(self._volume(made)), "status": "creating"}
        return {"volumeSet": [answer]}

    def _delete_volume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "VolumeId")
        self.delete_volume(request["VolumeId"])
        return {"return": True}

    def _delete_snapshot(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Volumes that were made of it stay whole."""
        _require(request, "SnapshotId")
        del self._snapshots[self._snapshot(request["SnapshotId"]).id]
        return {"return": True}

    def _modify_volume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "VolumeId")
        volume = self._volume(request["VolumeId"])
        size = integer("size", request.get("Size"))
        change = self._modify(volume, volume.size_gib if size is None else size)
        return {"volumeModification": _modification_xml(volume, change)}

    def _create_tags(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "ResourceId", "Tag")
        tags = _tag_list(request["Tag"])
        for old in [self._tags_of(one) for one in request["ResourceId"]]:
            _count_tags({*old, *tags})
        for resource in request["ResourceId"]:
            self._tagging(resource).update(tags)
        self._changed.notify_all()
        return {"return": True}

    def _delete_tags(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "ResourceId")
        for resource in request["ResourceId"]:
            self._tags_of(resource)
        for tags in [self._tagging(one) for one in request["ResourceId"]]:
            for tag in request.get("Tag") or [{"Key": key} for key in list(tags)]:
                # With a value, only a tag of that very value is deleted.
                if tag.get("Value", tags.get(tag["Key"])) == tags.get(tag["Key"]):
                    tags.pop(tag["Key"], None)
        self._changed.notify_all()
        return {"return": True}

    def _run_instances(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(request, "ImageId", "MinCount", "MaxCount")
        root: Mapping[str, Any] = next(
            (
                one.get("Ebs", {})
                for one in request.get("BlockDeviceMapping", [])
                if one.get("DeviceName") == ROOT_DEVICE
            ),
            {},
        )
        tags = _specified_tags(request, "instance")
        profile = request.get("IamInstanceProfile", {}).get("Name", "")
        if profile and not self.profile_exists(profile):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({profile}) for parameter iamInstanceProfile.name is "
                "invalid. Invalid IAM Instance Profile name",
            )
        key_name = request.get("KeyName", "")
        if key_name and not self.key_pair_exists(key_name):
            raise Ec2Error(
                "InvalidKeyPair.NotFound",
                f"The key pair '{key_name}' does not exist",
            )
        metadata = _metadata_options(request.get("MetadataOptions", {}), tags)
        reservation = new_id("r")
        instances = [
            self._launch(
                request.get("InstanceType", "m5.large"),
                self._zone_of_launch(request),
                tags,
                reservation,
                user_data=base64.b64decode(request.get("UserData", "")),
                root_size_gib=int(root.get("VolumeSize", 8)),
                root_delete=boolean(root.get("DeleteOnTermination"), True),
                image_id=request["ImageId"],
                profile=profile,
                key_name=key_name,
                metadata_options=metadata,
            )
            for _ in range(int(request["MaxCount"]))
        ]
        return self._reservation_xml(
            [_Shown(one, self._attachments(one.id)) for one in instances]
        )

    def _zone_of_launch(self, request: Mapping[str, Any]) -> str:
        """The subnet decides; a zone beside it must be the subnet's."""
        wanted: str = request.get("Placement", {}).get("AvailabilityZone", "")
        subnet = request.get("SubnetId", "")
        zone = self._zone_of_subnet(subnet) if subnet else wanted or self.zones[0]
        if wanted not in ("", zone):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({wanted}) for parameter availabilityZone is invalid. "
                f"Subnet '{subnet}' is in the availability zone {zone}",
            )
        return zone

    def profile_exists(self, name: str) -> bool:
        """Whether IAM knows the instance profile; nobody is asked here."""
        return False

    def key_pair_exists(self, name: str) -> bool:
        return False

    def _describe_subnets(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The default subnets, one a zone."""
        size = self._page(request, "")
        wanted = [self._zone_of_subnet(one) for one in request.get("SubnetId", [])]
        fields: dict[str, Callable[[str], list[str]]] = {
            "subnet-id": lambda zone: [self.subnet(zone)],
            "availability-zone": lambda zone: [zone],
            "availability-zone-id": lambda zone: [self._zone_id(zone)],
            "default-for-az": lambda zone: ["true"],
            "state": lambda zone: ["available"],
            "vpc-id": lambda zone: [VPC],
        }
        found, token = self._paged(
            wanted or list(self.zones),
            str,
            lambda some: query.select(some, request.get("Filter", []), fields, None),
            request,
            size,
        )
        return {
            "subnetSet": [
                {
                    "subnetId": self.subnet(zone),
                    "vpcId": VPC,
                    "ownerId": ACCOUNT,
                    "state": "available",
                    "availabilityZone": zone,
                    "availabilityZoneId": self._zone_id(zone),
                    "defaultForAz": True,
                    "mapPublicIpOnLaunch": True,
                }
                for zone in found
            ],
            "nextToken": token,
        }

    def _change_states(
        self, request: Mapping[str, Any], change: Callable[[Instance], None]
    ) -> Mapping[str, Any]:
        _require(request, "InstanceId")
        instances = [self._instance(one) for one in request["InstanceId"]]
        rows = []
        for instance in instances:
            before = instance.state
            change(instance)
            rows.append(
                {
                    "instanceId": instance.id,
                    "currentState": _state_xml(instance.state),
                    "previousState": _state_xml(before),
                }
            )
        return {"instancesSet": rows}

    def _stop_instances(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._change_states(request, self._stop)

    def _start_instances(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._change_states(request, self._start)

    def _terminate_instances(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._change_states(request, self._terminate)

    def _modify_instance(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of ModifyInstanceAttribute only DeleteOnTermination."""
        _require(request, "InstanceId", "BlockDeviceMapping")
        self._instance(request["InstanceId"])
        attachments = {
            one.device: one for one in self._attachments(request["InstanceId"])
        }
        for mapping in request["BlockDeviceMapping"]:
            found = attachments.get(mapping.get("DeviceName", ""))
            if found is None:
                raise Ec2Error(
                    "InvalidInstanceAttributeValue",
                    f"No device is currently mapped at {mapping.get('DeviceName')}",
                )
            value = mapping.get("Ebs", {}).get("DeleteOnTermination")
            found.delete_on_termination = boolean(value, found.delete_on_termination)
        return {"return": True}


# ------------------------------------------------------------------- tables

Handler = Callable[[Actions, dict[str, Any]], Mapping[str, Any]]
_PAGES = {"MaxResults", "NextToken", "Filter"}

ACTIONS: dict[str, tuple[Handler, set[str]]] = {
    "DescribeVolumes": (
        Actions._describe_volumes,
        {"VolumeId", "IncludeManagedResources"} | _PAGES,
    ),
    "DescribeInstances": (
        Actions._describe_instances,
        {"InstanceId", "IncludeManagedResources"} | _PAGES,
    ),
    "DescribeTags": (Actions._describe_tags, _PAGES),
    "DescribeInstanceTypes": (Actions._describe_types, {"InstanceType"} | _PAGES),
    "DescribeVolumesModifications": (
        Actions._describe_modifications,
        {"VolumeId"} | _PAGES,
    ),
    "AttachVolume": (
        Actions._attach_volume,
        {"VolumeId", "InstanceId", "Device", "EbsCardIndex"},
    ),
    "DetachVolume": (
        Actions._detach_volume,
        {"VolumeId", "InstanceId", "Device"},
    ),
    "CreateVolume": (
        Actions._create_volume,
        {"AvailabilityZone", "AvailabilityZoneId", "Size", "SnapshotId"}
        | {"VolumeType", "Iops", "Throughput", "Encrypted", "KmsKeyId"}
        | {"MultiAttachEnabled", "ClientToken", "TagSpecification"},
    ),
    "CreateSnapshot": (
        Actions._create_snapshot,
        {"VolumeId", "Description", "TagSpecification"},
    ),
    "CreateSnapshots": (
        Actions._create_snapshots,
        {"InstanceSpecification", "Description", "TagSpecification"}
        | {"CopyTagsFromSource"},
    ),
    "DescribeSubnets": (Actions._describe_subnets, {"SubnetId"} | _PAGES),
    "DescribeSnapshots": (
        Actions._describe_snapshots,
        {"SnapshotId", "Owner"} | _PAGES,
    ),
    "CopyVolumes": (
        Actions._copy_volumes,
        {"SourceVolumeId", "Size", "VolumeType", "ClientToken", "TagSpecification"},
    ),
    "DeleteVolume": (Actions._delete_volume, {"VolumeId"}),
    "DeleteSnapshot": (Actions._delete_snapshot, {"SnapshotId"}),
    "ModifyVolume": (Actions._modify_volume, {"VolumeId", "Size"}),
    "CreateTags": (Actions._create_tags, {"ResourceId", "Tag"}),
    "DeleteTags": (Actions._delete_tags, {"ResourceId", "Tag"}),
    "RunInstances": (
        Actions._run_instances,
        {"ImageId", "MinCount", "MaxCount", "InstanceType", "Placement"}
        | {"TagSpecification", "UserData", "BlockDeviceMapping", "ClientToken"}
        | {"SubnetId", "IamInstanceProfile", "KeyName", "MetadataOptions"},
    ),
    "StopInstances": (Actions._stop_instances, {"InstanceId"}),
    "StartInstances": (Actions._start_instances, {"InstanceId"}),
    "TerminateInstances": (Actions._terminate_instances, {"InstanceId"}),
    "ModifyInstanceAttribute": (
        Actions._modify_instance,
        {"InstanceId", "BlockDeviceMapping"},
    ),
}


def _flag(value: bool) -> str:
    return "true" if value else "false"


_VOLUME_FIELDS: dict[str, Callable[[Volume], list[str]]] = {
    "volume-id": lambda volume: [volume.id],
    "size": lambda volume: [str(volume.size_gib)],
    "status": lambda volume: [volume.state],
    "snapshot-id": lambda volume: [volume.snapshot_id],
    "availability-zone": lambda volume: [volume.zone],
    "volume-type": lambda volume: [volume.type],
    "encrypted": lambda volume: [_flag(volume.encrypted)],
    "multi-attach-enabled": lambda volume: [_flag(volume.multi_attach)],
    "operator.managed": lambda volume: [_flag(volume.managed)],
    "create-time": lambda volume: [moment(volume.create_time)],
    "attachment.instance-id": lambda volume: [
        one.instance_id for one in volume.attachments
    ],
    "attachment.device": lambda volume: [one.device for one in volume.attachments],
    "attachment.status": lambda volume: [one.state for one in volume.attachments],
    "attachment.attach-time": lambda volume: [
        moment(one.attach_time) for one in volume.attachments
    ],
    "attachment.delete-on-termination": lambda volume: [
        _flag(one.delete_on_termination) for one in volume.attachments
    ],
}

_INSTANCE_FIELDS: dict[str, Callable[[_Shown], list[str]]] = {
    "instance-id": lambda one: [one.instance.id],
    "instance-type": lambda one: [one.instance.type],
    "instance-state-name": lambda one: [one.instance.state],
    "instance-state-code": lambda one: [str(STATE_CODES[one.instance.state])],
    "availability-zone": lambda one: [one.instance.zone],
    "image-id": lambda one: [one.instance.image_id],
    "private-ip-address": lambda one: [one.instance.private_ip],
    "reservation-id": lambda one: [one.instance.reservation_id],
    "root-device-name": lambda one: [one.instance.root_device],
}


def _attachment_xml(one: Attachment) -> dict[str, Any]:
    return {
        "volumeId": one.volume_id,
        "instanceId": one.instance_id,
        "device": one.device,
        "status": one.state,
        "attachTime": moment(one.attach_time),
        "deleteOnTermination": one.delete_on_termination,
        "ebsCardIndex": one.card,
    }


def _key_arn(region: str, key: str) -> str:
    """A KMS key by its ARN; it may be named by its id or an alias."""
    if not key or key.startswith("arn:"):
        return key
    where = key if key.startswith("alias/") else f"key/{key}"
    return f"arn:aws:kms:{region}:{ACCOUNT}:{where}"


def _snapshot_xml(one: Snapshot) -> dict[str, Any]:
    return {
        "snapshotId": one.id,
        "volumeId": one.volume_id,
        "status": one.state,
        "startTime": moment(one.start_time),
        "progress": "100%" if one.state == "completed" else "0%",
        "ownerId": ACCOUNT,
        "volumeSize": one.size_gib,
        "encrypted": one.encrypted,
        "tagSet": _tags_xml(one.tags),
    }


def _modification_xml(
    volume: Volume, change: Optional[Modification]
) -> Optional[dict[str, Any]]:
    if change is None:
        return None
    ended = None if change.end_time is None else moment(change.end_time)
    return {
        "volumeId": volume.id,
        "modificationState": change.state,
        "originalSize": change.original_size,
        "targetSize": change.target_size,
        "originalVolumeType": volume.type,
        "targetVolumeType": volume.type,
        "progress": 100 if change.state == "completed" else 0,
        "startTime": moment(change.start_time),
        "endTime": ended,
    }


def _metadata_options(
    request: Mapping[str, str], tags: Mapping[str, str]
) -> Mapping[str, str]:
    """The options in effect, checked, with their defaults."""
    for name, value in request.items():
        if name not in METADATA_OPTIONS:
            raise Ec2Error(
                "UnknownParameter",
                f"The parameter MetadataOptions.{name} is not recognized",
            )
        if value not in METADATA_OPTIONS[name]:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ({value}) for parameter {name} is invalid. "
                f"Expecting one of {', '.join(METADATA_OPTIONS[name])}.",
            )
    options = {
        name: request.get(name, most[0]) for name, most in METADATA_OPTIONS.items()
    }
    if options["InstanceMetadataTags"] == "enabled":
        try:
            check_tag_keys(tags)
        except ValueError as error:
            raise Ec2Error("InvalidParameterValue", str(error)) from None
    return options


def _named(instance: Instance) -> dict[str, str]:
    """The options as answers name them: httpTokens."""
    return {
        name[0].lower() + name[1:]: value
        for name, value in instance.metadata_options.items()
    }


def _profile_arn(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:instance-profile/{name}"


def _state_xml(state: str) -> dict[str, Any]:
    return {"code": STATE_CODES[state], "name": state}


def _tags_xml(tags: Mapping[str, str]) -> list[dict[str, str]]:
    ordered = sorted(tags, key=query.scatter)
    return [{"key": key, "value": tags[key]} for key in ordered]


def _require(request: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not request.get(name):
            label = name[0].lower() + name[1:]
            raise Ec2Error(
                "MissingParameter", f"The request must contain the parameter {label}"
            )


def _tag_list(items: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Tags of a request, by AWS's rules ("Tag restrictions")."""
    tags: dict[str, str] = {}
    for item in items:
        key, value = item.get("Key", ""), item.get("Value", "")
        if key.lower().startswith("aws:"):
            raise Ec2Error(
                "InvalidParameterValue",
                f"Value ( {key} ) for parameter key is invalid. Tag keys starting "
                "with 'aws:' are reserved for internal use",
            )
        if not key or len(key) > 127:
            raise Ec2Error(
                "InvalidParameterValue",
                f"Tag key exceeds the maximum length of 127 characters: {key!r}"
                if key
                else "Tag key cannot be empty",
            )
        if len(value) > 255:
            raise Ec2Error(
                "InvalidParameterValue",
                "Tag value exceeds the maximum length of 255 characters",
            )
        if key in tags:
            raise Ec2Error(
                "InvalidParameterValue", f"Duplicate tag key '{key}' specified."
            )
        tags[key] = value
    return tags


def _specified_tags(request: Mapping[str, Any], kind: str) -> dict[str, str]:
    for one in request.get("TagSpecification", []):
        if one.get("ResourceType") == kind:
            tags = _tag_list(one.get("Tag", []))
            _count_tags(tags)
            return tags
    return {}


def _count_tags(keys: Collection[str]) -> None:
    if len(keys) > 50:
        raise Ec2Error("TagLimitExceeded", "Tag limit exceeded: 50 tags a resource.")
