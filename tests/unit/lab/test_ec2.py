"""The lab's EC2, driven by the real boto3 over loopback: a test a rule."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.query import wildcard
from tests.lab.tls import Authority
from tests.lab.world import Busy

boto3 = pytest.importorskip("boto3")

ZONE = "us-east-1a"
SDF = "/dev/sdf"
FAST = {"retries": {"total_max_attempts": 1}, "read_timeout": 10}


def client(lab: Ec2Lab, **options: Any) -> Any:
    """A client that tries once, so that each answer is seen."""
    from botocore.config import Config

    return lab.client(config=Config(**{**FAST, **options}))


@pytest.fixture
def lab() -> Iterator[Ec2Lab]:
    """Everything at once, no hooks, a clock that stands still."""
    with Ec2Lab(clock=ManualClock()) as lab:
        yield lab


def slow(**seconds: Any) -> tuple[Ec2Lab, ManualClock]:
    clock = ManualClock()
    return Ec2Lab(clock=clock, **seconds), clock


def refusal(call: Callable[..., Any], **parameters: Any) -> tuple[str, str, int]:
    """Code, text and HTTP status of a call that must be refused."""
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return answer["Error"]["Code"], answer["Error"]["Message"], status


def pair(lab: Ec2Lab, **volume: Any) -> tuple[str, str]:
    """A volume and a running instance in one zone."""
    return lab.create_volume(1, ZONE, **volume), lab.run_instance(zone=ZONE)


def attach(lab: Ec2Lab, volume: str, instance: str, device: str = SDF) -> Any:
    return client(lab).attach_volume(
        VolumeId=volume, InstanceId=instance, Device=device
    )


def state(lab: Ec2Lab, volume: str) -> tuple[str, list[str]]:
    """Volume state and attachment states, as DescribeVolumes shows them."""
    found = client(lab).describe_volumes(VolumeIds=[volume])["Volumes"][0]
    return found["State"], [one["State"] for one in found["Attachments"]]


# ---------------------------------------------------------- volumes over time


def test_a_volume_is_as_it_was_made(lab: Ec2Lab) -> None:
    tags = {"KRKN-IN:VolumeName": "log & <data>", "empty": ""}
    volume = lab.create_volume(3, "us-east-1c", tags, snapshot_id="snap-1")
    found = client(lab).describe_volumes()["Volumes"][0]
    assert len(volume) == len("vol-") + 17
    assert found["VolumeId"] == volume
    assert found["Size"] == 3
    assert found["AvailabilityZone"] == "us-east-1c"
    assert found["SnapshotId"] == "snap-1"
    assert found["MultiAttachEnabled"] is False
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == tags
    assert found["CreateTime"].timestamp() == lab.clock.now()


def test_a_volume_is_creating_before_it_is_available() -> None:
    lab, clock = slow(create_seconds=5)
    with lab:
        volume, instance = pair(lab)
        assert state(lab, volume) == ("creating", [])
        assert refusal(attach, lab=lab, volume=volume, instance=instance)[:2] == (
            "IncorrectState",
            f"{volume} is not 'available'.",
        )
        clock.advance(5)
        assert state(lab, volume) == ("available", [])


def test_attaching_takes_its_time_and_is_in_use_from_the_start() -> None:
    lab, clock = slow(attach_seconds=4)
    with lab:
        volume, instance = pair(lab)
        answer = attach(lab, volume, instance)
        assert answer["State"] == "attaching"
        assert (answer["VolumeId"], answer["Device"]) == (volume, SDF)
        clock.advance(3)
        assert state(lab, volume) == ("in-use", ["attaching"])
        clock.advance(1)
        assert state(lab, volume) == ("in-use", ["attached"])


def test_detaching_takes_its_time() -> None:
    lab, clock = slow(detach_seconds=4)
    with lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        answer = client(lab).detach_volume(VolumeId=volume)
        assert answer["State"] == "detaching"
        assert state(lab, volume) == ("in-use", ["detaching"])
        clock.advance(4)
        assert state(lab, volume) == ("available", [])


def test_a_held_attachment_stays_attaching() -> None:
    lab, clock = slow(attach_seconds=1)
    with lab:
        volume, instance = pair(lab)
        lab.hold_attaching(volume)
        attach(lab, volume, instance)
        clock.advance(100_000)
        assert state(lab, volume) == ("in-use", ["attaching"])


# ------------------------------------------------------ what attach refuses


def test_another_zone(lab: Ec2Lab) -> None:
    volume = lab.create_volume(1, "us-east-1b")
    instance = lab.run_instance(zone=ZONE)
    assert refusal(attach, lab=lab, volume=volume, instance=instance) == (
        "InvalidVolume.ZoneMismatch",
        f"The volume '{volume}' is not in the same availability zone as instance "
        f"'{instance}'",
        400,
    )


def test_a_volume_is_attached_once_also_to_the_same_instance(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    attach(lab, volume, instance)
    for holder in (instance, lab.run_instance(zone=ZONE)):
        assert refusal(
            attach, lab=lab, volume=volume, instance=holder, device="/dev/sdg"
        ) == ("VolumeInUse", f"{volume} is already attached to an instance", 400)


def test_multi_attach_takes_several_instances_but_each_once(lab: Ec2Lab) -> None:
    volume, instance = pair(lab, volume_type="io2", multi_attach=True)
    other = lab.run_instance(zone=ZONE)
    attach(lab, volume, instance)
    attach(lab, volume, other)
    assert state(lab, volume) == ("in-use", ["attached", "attached"])
    assert refusal(attach, lab=lab, volume=volume, instance=other, device="/dev/sdg")[
        0
    ] == ("VolumeInUse")


@pytest.mark.parametrize("device", [SDF, "sdf"])
def test_a_name_in_use(lab: Ec2Lab, device: str) -> None:
    volume, instance = pair(lab)
    attach(lab, lab.create_volume(1, ZONE), instance)
    assert refusal(
        attach, lab=lab, volume=volume, instance=instance, device=device
    ) == (
        "InvalidParameterValue",
        f"Invalid value '{device}' for unixDevice. Attachment point {device} is "
        "already in use",
        400,
    )


def test_a_hidden_name_is_in_use_and_not_shown(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.hide_device(instance, SDF)
    code, text, _ = refusal(attach, lab=lab, volume=volume, instance=instance)
    assert (code, text.endswith("is already in use")) == ("InvalidParameterValue", True)
    found = client(lab).describe_instances(InstanceIds=[instance])
    mappings = found["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
    assert [one["DeviceName"] for one in mappings] == ["/dev/xvda"]


@pytest.mark.parametrize(
    "device", ["/dev/nvme1n1", "/dev/sdf1", "/dev/xvddy", "/dev/xvdaaa", "/dev/vdb"]
)
def test_no_device_name(lab: Ec2Lab, device: str) -> None:
    volume, instance = pair(lab)
    assert refusal(
        attach, lab=lab, volume=volume, instance=instance, device=device
    ) == (
        "InvalidParameterValue",
        f"Value ({device}) for parameter device is invalid. {device} is not a valid "
        "EBS device name.",
        400,
    )


@pytest.mark.parametrize(
    "device", ["/dev/sdf", "/dev/sdz", "/dev/xvdc", "/dev/xvdba", "/dev/xvddx"]
)
def test_device_names(lab: Ec2Lab, device: str) -> None:
    volume, instance = pair(lab)
    attach(lab, volume, instance, device)
    assert lab.volume(volume).attachments[0].device == device


def test_the_attachment_limit_counts_the_root_volume(lab: Ec2Lab) -> None:
    instance = lab.run_instance("d3.8xlarge", ZONE)
    for device in ("/dev/sdf", "/dev/sdg"):
        attach(lab, lab.create_volume(1, ZONE), instance, device)
    volume = lab.create_volume(1, ZONE)
    code, text, _ = refusal(
        attach, lab=lab, volume=volume, instance=instance, device="/dev/sdh"
    )
    assert code == "AttachmentLimitExceeded"
    assert text.startswith("You may attach up to 3 devices for this instance type.")
    assert state(lab, volume) == ("available", [])


def test_a_volume_is_attached_to_the_first_card_unless_told(lab: Ec2Lab) -> None:
    instance = lab.run_instance("c8gb.48xlarge", ZONE)
    first, second, third = (lab.create_volume(1, ZONE) for _ in range(3))
    call = client(lab).attach_volume
    assert attach(lab, first, instance)["EbsCardIndex"] == 0
    words = {"InstanceId": instance, "Device": "/dev/sdg"}
    assert call(VolumeId=second, EbsCardIndex=1, **words)["EbsCardIndex"] == 1
    words["Device"] = "/dev/sdh"
    refused = refusal(call, VolumeId=third, EbsCardIndex=2, **words)
    assert refused[0] == "InvalidParameterValue"
    shown = client(lab).describe_volumes(VolumeIds=[second])["Volumes"][0]
    assert shown["Attachments"][0]["EbsCardIndex"] == 1


@pytest.mark.parametrize("act", ["pending", "stopping", "shutting-down", "terminated"])
def test_an_instance_that_does_not_run(act: str) -> None:
    lab, clock = slow(pending_seconds=5, stop_seconds=5, terminate_seconds=5)
    with lab:
        volume, instance = pair(lab)
        if act != "pending":
            clock.advance(5)
        if act == "stopping":
            lab.stop_instance(instance)
        if act in ("shutting-down", "terminated"):
            lab.terminate_instance(instance)
        if act == "terminated":
            clock.advance(5)
        assert lab.instance(instance).state == act
        assert refusal(attach, lab=lab, volume=volume, instance=instance) == (
            "IncorrectState",
            f"Instance '{instance}' is not 'running'.",
            400,
        )


def test_a_stopped_instance_takes_a_volume(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.stop_instance(instance)
    attach(lab, volume, instance)
    assert state(lab, volume) == ("in-use", ["attached"])


UNKNOWN_VOLUME, UNKNOWN_INSTANCE = "vol-" + "0" * 17, "i-" + "0" * 17


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("describe_volumes", {"VolumeIds": [UNKNOWN_VOLUME]}, "InvalidVolume.NotFound"),
        (
            "describe_instances",
            {"InstanceIds": [UNKNOWN_INSTANCE]},
            "InvalidInstanceID.NotFound",
        ),
        ("detach_volume", {"VolumeId": UNKNOWN_VOLUME}, "InvalidVolume.NotFound"),
        ("detach_volume", {"VolumeId": "disk"}, "InvalidParameterValue"),
        (
            "terminate_instances",
            {"InstanceIds": ["server"]},
            "InvalidInstanceID.Malformed",
        ),
        ("create_tags", {"Resources": ["x"], "Tags": [{"Key": "a"}]}, "InvalidID"),
        (
            "describe_instance_types",
            {"InstanceTypes": ["z9.none"]},
            "InvalidInstanceType",
        ),
        (
            "create_volume",
            {"AvailabilityZone": "us-east-1z", "Size": 1},
            "InvalidZone.NotFound",
        ),
    ],
)
def test_what_does_not_exist(
    lab: Ec2Lab, action: str, parameters: dict[str, Any], code: str
) -> None:
    assert refusal(getattr(client(lab), action), **parameters)[0] == code


def test_attaching_what_does_not_exist(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    assert refusal(attach, lab=lab, volume=UNKNOWN_VOLUME, instance=instance)[0] == (
        "InvalidVolume.NotFound"
    )
    assert refusal(attach, lab=lab, volume=volume, instance=UNKNOWN_INSTANCE)[0] == (
        "InvalidInstanceID.NotFound"
    )


def test_detaching_what_is_not_attached(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    detach = client(lab).detach_volume
    assert refusal(detach, VolumeId=volume)[:2] == (
        "IncorrectState",
        f"Volume '{volume}' is in the 'available' state.",
    )
    attach(lab, volume, instance)
    other = lab.run_instance(zone=ZONE)
    assert refusal(detach, VolumeId=volume, InstanceId=other)[0] == (
        "InvalidAttachment.NotFound"
    )


def test_a_root_volume_is_not_detached(lab: Ec2Lab) -> None:
    instance = lab.run_instance(zone=ZONE)
    root = lab.attached_to(instance)[0].volume_id
    assert refusal(client(lab).detach_volume, VolumeId=root)[0] == (
        "OperationNotPermitted"
    )


def test_an_attached_volume_is_not_deleted(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    attach(lab, volume, instance)
    assert refusal(client(lab).delete_volume, VolumeId=volume)[0] == "VolumeInUse"
    lab.detach_volume(volume)
    client(lab).delete_volume(VolumeId=volume)
    assert refusal(client(lab).delete_volume, VolumeId=volume)[0] == (
        "InvalidVolume.NotFound"
    )


# ------------------------------------------------------------ the data path


def test_attached_needs_the_time_and_the_disk() -> None:
    clock = ManualClock()
    plugged: list[tuple[str, str, str]] = []
    with Ec2Lab(clock=clock, attach_seconds=2) as lab:
        lab.on_attach = lambda *what: plugged.append(what)
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        clock.advance(0)
        assert plugged == [(instance, volume, SDF)]
        assert state(lab, volume)[1] == ["attaching"]
        clock.advance(2)
        assert state(lab, volume)[1] == ["attached"]


def test_a_slow_disk_holds_the_attachment_back() -> None:
    appears = threading.Event()
    with Ec2Lab(on_attach=lambda *_: bool(appears.wait(30)) or None) as lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        assert state(lab, volume)[1] == ["attaching"]
        appears.set()
        assert lab.wait_until(
            lambda: (
                [one.state for one in lab.volume(volume).attachments] == ["attached"]
            )
        )


def test_attach_and_detach_reach_the_data_path_in_order() -> None:
    seen: list[str] = []
    hold = threading.Event()

    def plug(*_: str) -> None:
        hold.wait(30)
        seen.append("plug")

    with Ec2Lab(on_attach=plug, on_detach=lambda *_: seen.append("unplug")) as lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        client(lab).detach_volume(VolumeId=volume)
        hold.set()
        assert lab.wait_until(lambda: lab.volume(volume).state == "available")
    assert seen == ["plug", "unplug"]


def test_a_busy_disk_is_tried_again() -> None:
    clock = ManualClock()
    mounted = [True]

    def unplug(*_: str) -> None:
        if mounted[0]:
            raise Busy

    with Ec2Lab(clock=clock, on_detach=unplug) as lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        client(lab).detach_volume(VolumeId=volume)
        clock.advance(10)
        assert state(lab, volume) == ("in-use", ["busy"])
        mounted[0] = False
        clock.advance(10)
        assert state(lab, volume) == ("available", [])


def test_a_system_that_does_not_let_go_keeps_the_volume_busy() -> None:
    lab, clock = slow(detach_seconds=5)
    with lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        lab.hold_busy(volume)
        client(lab).detach_volume(VolumeId=volume)
        assert state(lab, volume) == ("in-use", ["detaching"])
        clock.advance(5)
        assert state(lab, volume) == ("in-use", ["busy"])
        clock.advance(600)
        assert state(lab, volume) == ("in-use", ["busy"])
        lab.let_go(volume)
        clock.advance(1)
        assert state(lab, volume) == ("available", [])


def test_a_hook_that_fails_is_reported_and_the_volume_stays_attaching(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = ManualClock()

    def plug(*_: str) -> None:
        raise OSError("no free port")

    with Ec2Lab(clock=clock, on_attach=plug) as lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        clock.advance(100)
        assert state(lab, volume)[1] == ["attaching"]
        assert "no free port" in lab.hook_errors[0]
    assert "no free port" in capsys.readouterr().err


# --------------------------------------------------------------- instances


def test_states_of_an_instance_over_time() -> None:
    lab, clock = slow(pending_seconds=3, stop_seconds=4, terminate_seconds=5)
    entered: list[tuple[str, str]] = []
    lab.on_state = lambda *what: entered.append(what)

    with lab:
        ec2 = client(lab)
        run = ec2.run_instances(
            ImageId="ami-1",
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.small",
            Placement={"AvailabilityZone": "us-east-1b"},
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}
            ],
        )["Instances"][0]
        instance = run["InstanceId"]
        assert run["State"]["Name"] == "pending"
        clock.advance(3)
        found = ec2.describe_instances()["Reservations"][0]["Instances"][0]
        assert found["State"] == {"Code": 16, "Name": "running"}
        assert found["Placement"]["AvailabilityZone"] == "us-east-1b"
        assert found["Tags"] == [{"Key": "a", "Value": "b"}]
        ec2.stop_instances(InstanceIds=[instance])
        clock.advance(4)
        assert lab.instance(instance).state == "stopped"
        ec2.start_instances(InstanceIds=[instance])
        clock.advance(3)
        change = ec2.terminate_instances(InstanceIds=[instance])
        row = change["TerminatingInstances"][0]
        assert row["PreviousState"]["Name"] == "running"
        assert row["CurrentState"]["Name"] == "shutting-down"
        clock.advance(5)
        assert lab.instance(instance).state == "terminated"
    names = ["pending", "running", "stopping", "stopped", "pending", "running"]
    names += ["shutting-down", "terminated"]
    assert entered == [(instance, name) for name in names]


def launch(lab: Ec2Lab, **more: Any) -> Any:
    wanted = {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, **more}
    # moto is loaded by the first call that names a key pair or a profile.
    patient = client(lab, read_timeout=120)
    return patient.run_instances(**wanted)["Instances"][0]


def test_a_subnet_gives_the_zone(lab: Ec2Lab) -> None:
    ours = [{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    (found,) = client(lab).describe_subnets(Filters=ours)["Subnets"]
    subnet = found["SubnetId"]
    made = launch(lab, SubnetId=subnet)
    assert made["SubnetId"] == subnet
    assert made["Placement"]["AvailabilityZone"] == "us-east-1b"
    other = {"AvailabilityZone": "us-east-1a"}
    code, text, _ = refusal(launch, lab=lab, SubnetId=subnet, Placement=other)
    assert code == "InvalidParameterValue" and subnet in text
    code, _, _ = refusal(launch, lab=lab, SubnetId="subnet-0123456789abcdef0")
    assert code == "InvalidSubnetID.NotFound"


def test_metadata_options_are_checked_and_shown(lab: Ec2Lab) -> None:
    options = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a b", "Value": ""}]}]
    shown = launch(lab, MetadataOptions=options)["MetadataOptions"]
    assert shown["HttpTokens"] == "required"
    assert shown["InstanceMetadataTags"] == "enabled"
    assert launch(lab)["MetadataOptions"]["HttpTokens"] == "optional"
    wrong = {"HttpTokens": "always"}
    code, text, _ = refusal(launch, lab=lab, MetadataOptions=wrong)
    assert code == "InvalidParameterValue" and "always" in text
    code, text, _ = refusal(
        launch, lab=lab, MetadataOptions=options, TagSpecifications=tags
    )
    assert code == "InvalidParameterValue" and "a b" in text
    ignored = {"HttpPutResponseHopLimit": 2}
    code, _, _ = refusal(launch, lab=lab, MetadataOptions=ignored)
    assert code == "UnknownParameter"


def test_a_key_pair_and_a_profile_must_be_there(lab: Ec2Lab) -> None:
    pytest.importorskip("moto")
    profile = {"Name": "lab-profile"}
    code, _, _ = refusal(launch, lab=lab, KeyName="lab-key")
    assert code == "InvalidKeyPair.NotFound"
    code, text, _ = refusal(launch, lab=lab, IamInstanceProfile=profile)
    assert (code, text.split(".")[-1]) == (
        "InvalidParameterValue",
        " Invalid IAM Instance Profile name",
    )
    client(lab).create_key_pair(KeyName="lab-key")
    lab.client("iam").create_instance_profile(InstanceProfileName="lab-profile")
    made = launch(lab, KeyName="lab-key", IamInstanceProfile=profile)
    assert made["KeyName"] == "lab-key"
    assert made["IamInstanceProfile"]["Arn"].endswith(":instance-profile/lab-profile")


def test_snapshots_of_all_volumes_of_an_instance(lab: Ec2Lab) -> None:
    volume, instance = pair(lab, tags={"a": "b"})
    attach(lab, volume, instance)
    root = lab.attached_to(instance)[0].volume_id
    ask = client(lab).create_snapshots
    every = ask(InstanceSpecification={"InstanceId": instance})["Snapshots"]
    assert {one["VolumeId"] for one in every} == {root, volume}
    assert all(one["State"] == "pending" and not one["Tags"] for one in every)
    (one,) = ask(
        InstanceSpecification={"InstanceId": instance, "ExcludeBootVolume": True},
        CopyTagsFromSource="volume",
    )["Snapshots"]
    assert (one["VolumeId"], one["Tags"]) == (volume, [{"Key": "a", "Value": "b"}])
    client(lab).delete_snapshot(SnapshotId=one["SnapshotId"])
    left = client(lab).describe_snapshots()["Snapshots"]
    assert {each["SnapshotId"] for each in left} == {e["SnapshotId"] for e in every}
    code, _, _ = refusal(client(lab).delete_snapshot, SnapshotId=one["SnapshotId"])
    assert code == "InvalidSnapshot.NotFound"
    wrong = {"InstanceSpecification": {"InstanceId": instance}}
    code, _, _ = refusal(ask, **wrong, CopyTagsFromSource="all")
    assert code == "InvalidParameterValue"


def test_termination_lets_go_of_volumes_late() -> None:
    lab, clock = slow(terminate_seconds=20, release_seconds=5)
    with lab:
        volume, instance = pair(lab)
        root = lab.attached_to(instance)[0].volume_id
        attach(lab, volume, instance)
        lab.terminate_instance(instance)
        clock.advance(24)
        assert lab.instance(instance).state == "terminated"
        assert state(lab, volume) == ("in-use", ["attached"])
        clock.advance(1)
        assert state(lab, volume) == ("available", [])
        assert root not in {one.id for one in lab.volumes()}


def test_termination_with_delays_of_its_own() -> None:
    lab, clock = slow(terminate_seconds=1, release_seconds=1)
    with lab:
        volume, instance = pair(lab)
        attach(lab, volume, instance)
        lab.terminate_instance(instance, delay=45, release=10)
        clock.advance(54)
        assert state(lab, volume) == ("in-use", ["attached"])
        clock.advance(1)
        assert state(lab, volume) == ("available", [])


def test_delete_on_termination(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    attach(lab, volume, instance)
    ebs = {"DeleteOnTermination": True}
    client(lab).modify_instance_attribute(
        InstanceId=instance,
        BlockDeviceMappings=[{"DeviceName": SDF, "Ebs": ebs}],
    )
    found = client(lab).describe_volumes(
        Filters=[{"Name": "attachment.delete-on-termination", "Values": ["true"]}]
    )["Volumes"]
    assert volume in {one["VolumeId"] for one in found}
    lab.terminate_instance(instance)
    assert volume not in {one.id for one in lab.volumes()}


def test_an_instance_can_be_forgotten(lab: Ec2Lab) -> None:
    instance = lab.run_instance()
    lab.terminate_instance(instance)
    lab.forget_instance(instance)
    assert refusal(client(lab).describe_instances, InstanceIds=[instance])[0] == (
        "InvalidInstanceID.NotFound"
    )


def test_instance_types_tell_their_limit(lab: Ec2Lab) -> None:
    found = client(lab).describe_instance_types(InstanceTypes=["m5d.large"])
    info = found["InstanceTypes"][0]
    assert info["Hypervisor"] == "nitro"
    assert info["EbsInfo"]["NvmeSupport"] == "required"
    # Older botocore does not know these members.
    body = lab.call("DescribeInstanceTypes", {"InstanceType.1": "m5d.large"}).body
    assert b"<maximumEbsAttachments>26</maximumEbsAttachments>" in body
    assert b"<attachmentLimitType>shared</attachmentLimitType>" in body


# ------------------------------------------------------------------ growing


def test_a_volume_grows_in_stages() -> None:
    lab, clock = slow(modify_seconds=3, optimize_seconds=60)
    grown: list[tuple[str, int]] = []
    lab.on_resize = lambda *what: grown.append(what)

    def shown() -> tuple[str, int]:
        ec2 = client(lab)
        change = ec2.describe_volumes_modifications(VolumeIds=[volume])
        size = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"]
        return change["VolumesModifications"][0]["ModificationState"], size

    with lab:
        volume = lab.create_volume(2, ZONE)
        modify = client(lab).modify_volume
        answer = modify(VolumeId=volume, Size=5)["VolumeModification"]
        assert (answer["OriginalSize"], answer["TargetSize"]) == (2, 5)
        assert shown() == ("modifying", 2)
        clock.advance(3)
        assert grown == [(volume, 5)]
        assert shown() == ("optimizing", 5)
        assert refusal(modify, VolumeId=volume, Size=6)[:2] == (
            "IncorrectModificationState",
            f"Volume {volume} cannot be modified in modification state OPTIMIZING",
        )
        clock.advance(60)
        assert shown() == ("completed", 5)
        assert refusal(modify, VolumeId=volume, Size=4)[:2] == (
            "InvalidParameterValue",
            "New size cannot be smaller than existing size",
        )


def test_a_volume_in_modification_cannot_be_attached() -> None:
    lab, clock = slow(modify_seconds=30, optimize_seconds=60)
    with lab:
        volume, instance = pair(lab)
        client(lab).modify_volume(VolumeId=volume, Size=2)
        words = {"lab": lab, "volume": volume, "instance": instance}
        assert refusal(attach, **words) == (
            "OperationNotPermitted",
            f"Cannot attach volume {volume} when it is in modification state: "
            "MODIFYING",
            400,
        )
        assert state(lab, volume) == ("available", [])
        clock.advance(30)  # optimizing: the new size can be used
        assert attach(lab, volume, instance)["State"] == "attaching"


# --------------------------------------------------------------------- tags


def test_tags_come_and_go(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    ec2 = client(lab)
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    ec2.create_tags(Resources=[volume, instance], Tags=tags)
    ec2.delete_tags(Resources=[volume], Tags=[{"Key": "a", "Value": "other"}])
    assert lab.volume(volume).tags == {"a": "1", "b": "2"}
    ec2.delete_tags(Resources=[volume], Tags=[{"Key": "a"}])
    assert lab.volume(volume).tags == {"b": "2"}
    assert lab.instance(instance).tags == {"a": "1", "b": "2"}


def test_describe_tags_of_one_resource(lab: Ec2Lab) -> None:
    volume, instance = pair(lab, tags={"n": "v"})
    lab.tag(instance, {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"})
    found = client(lab).describe_tags(
        Filters=[{"Name": "resource-id", "Values": [instance]}]
    )["Tags"]
    assert {one["Key"]: one["Value"] for one in found} == {
        "KRKN-IN:Prefix": "kafka",
        "KRKN-IN:NodeId": "0",
    }
    assert {one["ResourceType"] for one in found} == {"instance"}


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": "aws:x", "Value": ""}], "InvalidParameterValue"),
        ([{"Key": "k" * 128, "Value": ""}], "InvalidParameterValue"),
        ([{"Key": "a"}, {"Key": "a"}], "InvalidParameterValue"),
        ([{"Key": str(n), "Value": ""} for n in range(51)], "TagLimitExceeded"),
    ],
)
def test_tags_that_are_refused(
    lab: Ec2Lab, tags: list[dict[str, str]], code: str
) -> None:
    volume = lab.create_volume(1, ZONE)
    create = client(lab).create_tags
    assert refusal(create, Resources=[volume], Tags=tags)[0] == code
    assert lab.volume(volume).tags == {}


# ------------------------------------------------------------------ filters


def found_by(lab: Ec2Lab, *filters: tuple[str, list[str]]) -> list[str]:
    pairs = [{"Name": name, "Values": values} for name, values in filters]
    answer = client(lab).describe_volumes(Filters=pairs)
    return sorted(one["VolumeId"] for one in answer["Volumes"])


def test_values_are_alternatives_and_filters_add_up(lab: Ec2Lab) -> None:
    one = lab.create_volume(1, ZONE, {"p": "x", "n": "0"})
    two = lab.create_volume(1, ZONE, {"p": "y", "n": "0"})
    lab.create_volume(1, "us-east-1b", {"p": "z", "n": "0"})
    assert found_by(lab, ("tag:p", ["x", "y"])) == sorted([one, two])
    assert found_by(lab, ("tag:p", ["x", "z"]), ("availability-zone", [ZONE])) == [one]
    assert found_by(lab, ("tag-key", ["p", "none"]), ("tag:n", ["1"])) == []
    assert found_by(lab, ("tag:p", ["X"])) == []


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("kafka*", ["kafka-*", "kafka1", "kafka[1]"]),
        ("kafka?", ["kafka1"]),
        ("kafka[1]", ["kafka[1]"]),
        (r"kafka-\*", ["kafka-*"]),
        ("*", ["kafka-*", "kafka1", "kafka[1]"]),
    ],
)
def test_wildcards(lab: Ec2Lab, pattern: str, matches: list[str]) -> None:
    for value in ("kafka[1]", "kafka-*", "kafka1"):
        lab.create_volume(1, ZONE, {"p": value})
    found = found_by(lab, ("tag:p", [pattern]))
    assert sorted(lab.volume(one).tags["p"] for one in found) == matches


def test_a_backslash_makes_anything_literal() -> None:
    for text in ("a*b?c", "back\\slash", "[x]", "a.b", "*", ""):
        escaped = "".join("\\" + character for character in text)
        assert wildcard(escaped).fullmatch(text)
    assert not wildcard("a.b").fullmatch("axb")


def test_filters_by_state_and_attachment(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    free = lab.create_volume(1, ZONE)
    attach(lab, volume, instance)
    assert found_by(lab, ("status", ["available"])) == [free]
    assert found_by(
        lab, ("attachment.instance-id", [instance]), ("attachment.device", [SDF])
    ) == [volume]
    assert found_by(lab, ("multi-attach-enabled", ["true"])) == []
    assert found_by(lab, ("operator.managed", ["true"])) == []
    assert len(found_by(lab, ("availability-zone-id", ["use1-az1"]))) == 3


def test_an_unknown_filter(lab: Ec2Lab) -> None:
    bad = [{"Name": "colour", "Values": ["red"]}]
    for action in ("describe_volumes", "describe_instances", "describe_tags"):
        assert refusal(getattr(client(lab), action), Filters=bad)[:2] == (
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
        )


# -------------------------------------------------------------------- pages


def test_pages_show_each_volume_once() -> None:
    with Ec2Lab(clock=ManualClock(), page_size=3) as lab:
        volumes = [lab.create_volume(1, ZONE) for _ in range(8)]
        pages = client(lab).get_paginator("describe_volumes").paginate()
        found = [[one["VolumeId"] for one in page["Volumes"]] for page in pages]
        assert [len(page) for page in found] == [3, 3, 2]
        assert sorted(sum(found, [])) == sorted(volumes)
        assert lab.calls.count("DescribeVolumes") == 3


def test_max_results_makes_pages_too(lab: Ec2Lab) -> None:
    for _ in range(7):
        lab.create_volume(1, ZONE)
    first = client(lab).describe_volumes(MaxResults=5)
    assert (len(first["Volumes"]), bool(first["NextToken"])) == (5, True)
    second = client(lab).describe_volumes(MaxResults=5, NextToken=first["NextToken"])
    assert (len(second["Volumes"]), "NextToken" in second) == (2, False)


def test_sparse_pages_may_be_empty_and_go_on() -> None:
    with Ec2Lab(clock=ManualClock(), page_size=2, sparse_pages=True) as lab:
        for number in range(9):
            lab.create_volume(1, ZONE, {"p": "mine" if number == 4 else "other"})
        wanted = [{"Name": "tag:p", "Values": ["mine"]}]
        pages = client(lab).get_paginator("describe_volumes").paginate(Filters=wanted)
        sizes = [len(page["Volumes"]) for page in pages]
        assert (len(sizes), sum(sizes)) == (5, 1)


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("describe_volumes", {"MaxResults": 4}, "InvalidParameterValue"),
        ("describe_tags", {"MaxResults": 1001}, "InvalidParameterValue"),
        ("describe_volumes", {"NextToken": "made-up"}, "InvalidPaginationToken"),
        (
            "describe_instances",
            {"MaxResults": 5, "InstanceIds": [UNKNOWN_INSTANCE]},
            "InvalidParameterCombination",
        ),
        (
            "describe_volumes",
            {"MaxResults": 5, "VolumeIds": [UNKNOWN_VOLUME]},
            "InvalidParameterCombination",
        ),
    ],
)
def test_pages_that_are_refused(
    lab: Ec2Lab, action: str, parameters: dict[str, Any], code: str
) -> None:
    assert refusal(getattr(client(lab), action), **parameters)[0] == code


def test_a_token_is_good_for_its_own_request_only() -> None:
    with Ec2Lab(clock=ManualClock(), page_size=1) as lab:
        for _ in range(2):
            lab.create_volume(1, ZONE)
        token = client(lab).describe_volumes()["NextToken"]
        other = [{"Name": "status", "Values": ["available"]}]
        assert refusal(client(lab).describe_volumes, NextToken=token, Filters=other)[
            0
        ] == ("InvalidPaginationToken")


# ------------------------------------------------------------------- faults


def test_a_forbidden_action_names_user_action_and_resource(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.forbid("AttachVolume", encoded=True)
    code, text, status = refusal(attach, lab=lab, volume=volume, instance=instance)
    assert (code, status) == ("UnauthorizedOperation", 403)
    assert text.startswith("You are not authorized to perform this operation. User: ")
    assert "is not authorized to perform: ec2:AttachVolume on resource: arn:" in text
    assert f":volume/{volume} because" in text
    assert "Encoded authorization failure message: " in text
    assert state(lab, volume) == ("available", [])
    lab.allow("AttachVolume")
    attach(lab, volume, instance)


def test_a_policy_that_takes_effect_later() -> None:
    lab, clock = slow()
    with lab:
        lab.forbid("DescribeVolumes", seconds=20)
        clock.advance(19)
        assert refusal(client(lab).describe_volumes)[0] == "UnauthorizedOperation"
        clock.advance(1)
        assert client(lab).describe_volumes()["Volumes"] == []


def test_a_bare_refusal_names_nothing(lab: Ec2Lab) -> None:
    lab.forbid("DescribeVolumes", bare=True)
    assert refusal(client(lab).describe_volumes)[:2] == (
        "UnauthorizedOperation",
        "You are not authorized to perform this operation.",
    )


def test_throttling_refuses_the_next_calls_of_one_action(lab: Ec2Lab) -> None:
    lab.throttle("DescribeVolumes", 2)
    ec2 = client(lab)
    for _ in range(2):
        assert refusal(ec2.describe_volumes) == (
            "RequestLimitExceeded",
            "Request limit exceeded.",
            503,
        )
        ec2.describe_instances()
    ec2.describe_volumes()


def test_botocore_takes_it_for_throttling_and_retries(lab: Ec2Lab) -> None:
    lab.throttle("DescribeTags", 1)
    patient = client(lab, retries={"total_max_attempts": 3, "mode": "standard"})
    patient.describe_tags()
    assert [call.code for call in lab.calls] == ["RequestLimitExceeded", ""]


def test_unavailable_after_success(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.unavailable("AttachVolume")
    code, _, status = refusal(attach, lab=lab, volume=volume, instance=instance)
    assert (code, status) == ("Unavailable", 503)
    assert state(lab, volume) == ("in-use", ["attached"])
    assert refusal(attach, lab=lab, volume=volume, instance=instance)[0] == (
        "VolumeInUse"
    )


def test_unavailable_without_success(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.unavailable("AttachVolume", after_success=False)
    assert refusal(attach, lab=lab, volume=volume, instance=instance)[2] == 503
    assert state(lab, volume) == ("available", [])


def test_any_other_error(lab: Ec2Lab) -> None:
    lab.fail("*", "RequestExpired", "Request has expired.", calls=None)
    for action in ("describe_volumes", "describe_tags"):
        assert refusal(getattr(client(lab), action)) == (
            "RequestExpired",
            "Request has expired.",
            400,
        )
    lab.heal()
    client(lab).describe_volumes()


def test_a_late_answer_is_for_work_that_was_done(lab: Ec2Lab) -> None:
    from botocore.exceptions import ReadTimeoutError

    volume, instance = pair(lab)
    lab.delay(60, "AttachVolume")
    impatient = client(lab, read_timeout=0.2)
    with pytest.raises(ReadTimeoutError):
        impatient.attach_volume(VolumeId=volume, InstanceId=instance, Device=SDF)
    assert state(lab, volume) == ("in-use", ["attached"])


@pytest.mark.parametrize("how", ["drop", "refuse", "hang"])
def test_the_endpoint_goes_away_and_comes_back(lab: Ec2Lab, how: str) -> None:
    from botocore.exceptions import (
        ConnectionClosedError,
        EndpointConnectionError,
        ReadTimeoutError,
    )

    expected = {
        "drop": ConnectionClosedError,
        "refuse": EndpointConnectionError,
        "hang": ReadTimeoutError,
    }[how]
    port = lab.port
    ec2 = client(lab, read_timeout=0.2)
    lab.down(how)
    with pytest.raises(expected):
        ec2.describe_volumes()
    lab.up()
    client(lab).describe_volumes()
    assert lab.port == port


def test_dry_run_says_so_and_does_nothing(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    assert refusal(
        client(lab).attach_volume,
        VolumeId=volume,
        InstanceId=instance,
        Device=SDF,
        DryRun=True,
    ) == (
        "DryRunOperation",
        "Request would have succeeded, but DryRun flag is set.",
        412,
    )
    assert state(lab, volume) == ("available", [])
    lab.forbid("AttachVolume")
    assert refusal(
        client(lab).attach_volume,
        VolumeId=volume,
        InstanceId=instance,
        Device=SDF,
        DryRun=True,
    )[0] == ("UnauthorizedOperation")


def test_a_parameter_that_the_lab_would_ignore_is_refused(lab: Ec2Lab) -> None:
    volume = lab.create_volume(1, ZONE)
    modify = client(lab).modify_volume
    assert refusal(modify, VolumeId=volume, Iops=9000)[0] == "UnknownParameter"


# ----------------------------------------------------------------- throttle


def codes(call: Callable[..., Any], count: int, **parameters: Any) -> list[str]:
    from botocore.exceptions import ClientError

    found = []
    for _ in range(count):
        try:
            call(**parameters)
            found.append("")
        except ClientError as error:
            found.append(error.response["Error"]["Code"])
    return found


FILTER = [{"Name": "tag:none", "Values": ["none"]}]
LIMIT = "RequestLimitExceeded"


@pytest.mark.parametrize(
    ("action", "parameters", "burst", "refill"),
    [
        ("describe_tags", {}, 100, 20),
        ("describe_volumes", {"Filters": FILTER}, 100, 20),
        ("describe_volumes", {"MaxResults": 5}, 100, 20),
        ("describe_volumes", {}, 50, 10),
        ("describe_instances", {}, 50, 10),
        ("delete_tags", {"Resources": ["vol-0123456789abcdef0"]}, 50, 5),
    ],
)
def test_a_bucket_for_each_action(
    action: str, parameters: dict[str, Any], burst: int, refill: int
) -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock, throttled=True) as lab:
        ec2 = client(lab)
        call = getattr(ec2, action)
        ec2.describe_instance_types(InstanceTypes=["m5.large"])  # a bucket of its own
        assert LIMIT not in codes(call, burst, **parameters)
        assert codes(call, 2, **parameters) == [LIMIT] * 2
        clock.advance(1)  # what was refused has cost nothing
        after = codes(call, refill + 1, **parameters)
        assert LIMIT not in after[:-1] and after[-1] == LIMIT
        clock.advance(3600)  # never fuller than full
        assert codes(call, burst + 1, **parameters).count(LIMIT) == 1


def test_a_bucket_of_ones_own(lab: Ec2Lab) -> None:
    lab.limit("DescribeTags", 1, 0.5)
    assert codes(client(lab).describe_tags, 2) == ["", LIMIT]
    lab.clock.advance(1)
    assert codes(client(lab).describe_tags, 1) == [LIMIT]
    lab.clock.advance(1)
    assert codes(client(lab).describe_tags, 1) == [""]


# ------------------------------------------------------- eventual consistency


def test_stale_answers_go_back_and_come_again() -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock) as lab:
        volume, instance = pair(lab)
        clock.advance(10)
        attach(lab, volume, instance)
        clock.advance(1)
        assert state(lab, volume) == ("in-use", ["attached"])
        lab.lag(5, answers=2)
        assert state(lab, volume) == ("available", [])
        mapping = client(lab).describe_instances(InstanceIds=[instance])
        shown = mapping["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
        assert [one["DeviceName"] for one in shown] == ["/dev/xvda"]
        assert state(lab, volume) == ("in-use", ["attached"])
        # what is done is done to the present
        lab.lag(5)
        assert refusal(attach, lab=lab, volume=volume, instance=instance)[0] == (
            "VolumeInUse"
        )
        clock.advance(5)
        assert state(lab, volume) == ("in-use", ["attached"])


def test_what_is_new_may_not_be_there_yet() -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock) as lab:
        lab.lag(5)
        volume, instance = pair(lab, tags={"a": "b"})
        ec2 = client(lab)
        wanted = [{"Name": "tag:a", "Values": ["b"]}]
        assert ec2.describe_volumes(Filters=wanted)["Volumes"] == []
        assert refusal(ec2.describe_volumes, VolumeIds=[volume])[0] == (
            "InvalidVolume.NotFound"
        )
        assert refusal(ec2.describe_instances, InstanceIds=[instance])[0] == (
            "InvalidInstanceID.NotFound"
        )
        assert ec2.describe_tags()["Tags"] == []
        clock.advance(5)
        assert len(ec2.describe_volumes(Filters=wanted)["Volumes"]) == 1
        assert len(ec2.describe_tags()["Tags"]) == 1


def test_some_answers_are_stale_and_others_are_not() -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock) as lab:
        volume, instance = pair(lab)
        clock.advance(10)
        attach(lab, volume, instance)
        clock.advance(1)
        lab.lag(8, share=0.5, spread=True, seed=3)
        seen = [state(lab, volume)[0] for _ in range(30)]
        assert {"available", "in-use"} == set(seen)
        first = seen.index("in-use")
        assert "available" in seen[first:], "it goes backwards"


@pytest.mark.parametrize("what", ["volume", "instance"])
def test_tags_that_come_late(what: str) -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock, tag_seconds=60) as lab:
        ec2 = client(lab)
        if what == "volume":
            made = lab.create_volume(1, ZONE, {"a": "b"})
        else:
            made = lab.run_instance(tags={"a": "b"})
        wanted = [{"Name": "resource-id", "Values": [made]}]
        clock.advance(59)
        assert ec2.describe_tags(Filters=wanted)["Tags"] == []
        clock.advance(1)
        assert [x["Key"] for x in ec2.describe_tags(Filters=wanted)["Tags"]] == ["a"]
        lab.tag_later(made, {"c": "d"}, 5)
        clock.advance(5)
        assert len(ec2.describe_tags(Filters=wanted)["Tags"]) == 2


# --------------------------------------------------------- attachments go wrong


def test_a_key_that_cannot_be_used(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    lab.refuse_key(volume)
    assert client(lab).describe_volumes(VolumeIds=[volume])["Volumes"][0]["Encrypted"]
    assert refusal(attach, lab=lab, volume=volume, instance=instance) == (
        "CustomerKeyHasBeenRevoked",
        f"Volume {volume} cannot be attached. The encrypted volume was unable to "
        "access the KMS master key.",
        400,
    )
    lab.permit_key(volume)
    attach(lab, volume, instance)


def test_an_attachment_that_is_taken_back() -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock) as lab:
        volume, instance = pair(lab)
        lab.take_back_attaching(volume, 5)
        attach(lab, volume, instance)
        assert state(lab, volume) == ("in-use", ["attaching"])
        clock.advance(5)
        assert state(lab, volume) == ("available", [])
        assert [one.device for one in lab.attached_to(instance)] == ["/dev/xvda"]
        attach(lab, volume, instance)
        assert state(lab, volume) == ("in-use", ["attached"])


# -------------------------------------------------------- under its real name


def test_a_door_for_who_looks_for_ec2_under_its_real_name(
    lab: Ec2Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """boto3 without an endpoint: only the name service (and the port) lies."""
    from botocore.config import Config
    from botocore.exceptions import SSLError

    authority = Authority()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    port = lab.open_door(authority.server(lab.host_name))
    asked: list[str] = []

    def resolve(host: str, *_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def volumes(region: str, verify: str) -> list[Any]:
        keys = lab.credentials(instance)
        ec2 = boto3.client(
            "ec2",
            region,
            verify=verify,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["Token"],
            config=Config(**FAST),
        )
        found: list[Any] = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        return found

    instance = lab.run_instance(zone=ZONE)
    volume = lab.create_volume(1, ZONE)
    assert [one["VolumeId"] for one in volumes(lab.region, str(bundle))] == [volume]
    assert lab.calls.counts(instance_id=instance) == {"DescribeVolumes": 1}

    with pytest.raises(SSLError, match="does not match|doesn.t match|mismatch"):
        volumes("eu-west-1", str(bundle))
    other = tmp_path / "other.pem"
    other.write_text(Authority("another").pem)
    with pytest.raises(SSLError, match="verify failed"):
        volumes(lab.region, str(other))
    assert asked == [lab.host_name, "ec2.eu-west-1.amazonaws.com", lab.host_name]
    assert len(lab.calls) == 1


def test_behind_that_door_is_nothing_but_ec2(lab: Ec2Lab) -> None:
    authority = Authority()
    port = lab.open_door(authority.server(lab.host_name))
    context = ssl.create_default_context(cadata=authority.pem)
    raw = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(raw, server_hostname=lab.host_name) as peer:
        peer.sendall(
            b"POST /lab/heal HTTP/1.1\r\nHost: ec2\r\nConnection: close\r\n\r\n"
        )
        assert peer.recv(100).startswith(b"HTTP/1.1 401 ")


# ------------------------------------------------------------------ snapshots


def test_a_volume_of_a_snapshot() -> None:
    clock = ManualClock()
    copied: list[tuple[str, str]] = []
    with Ec2Lab(
        clock=clock, create_seconds=2, on_copy=lambda to, of: copied.append((to, of))
    ) as lab:
        ec2 = client(lab)
        volume = lab.create_volume(4, ZONE)
        clock.advance(2)
        snapshot = ec2.create_snapshot(VolumeId=volume, Description="nightly")
        assert snapshot["State"] == "pending"
        made = {"AvailabilityZone": ZONE, "SnapshotId": snapshot["SnapshotId"]}
        assert refusal(ec2.create_volume, **made)[0] == "IncorrectState"
        clock.advance(2)
        found = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
        assert [one["State"] for one in found] == ["completed"]
        assert refusal(ec2.create_volume, **made, Size=3) == (
            "InvalidParameterValue",
            f"Volume of 3GiB is smaller than snapshot '{snapshot['SnapshotId']}', "
            "expect size >= 4GiB",
            400,
        )
        new = ec2.create_volume(**made)
        assert (new["Size"], new["SnapshotId"]) == (4, snapshot["SnapshotId"])
        copy = ec2.copy_volumes(SourceVolumeId=volume)["Volumes"][0]
        assert copy["SourceVolumeId"] == volume
        clock.advance(2)
        assert state(lab, new["VolumeId"]) == ("available", [])
        assert copied == [
            (snapshot["SnapshotId"], volume),
            (new["VolumeId"], snapshot["SnapshotId"]),
            (copy["VolumeId"], volume),
        ]
    with Ec2Lab() as lab:
        made["SnapshotId"] = "snap-0123456789abcdef1"
        assert refusal(client(lab).create_volume, **made)[0] == (
            "InvalidSnapshot.NotFound"
        )


# ------------------------------------------------------------- the call log


def test_every_call_is_in_the_log(lab: Ec2Lab) -> None:
    volume, instance = pair(lab)
    client(lab).describe_volumes()
    mark = lab.calls.mark()
    attach(lab, volume, instance)
    refusal(attach, lab=lab, volume=volume, instance=instance)
    first, second = lab.calls.since(mark)
    assert (first.action, first.status, first.code) == ("AttachVolume", 200, "")
    assert first.parameters["VolumeId"] == volume
    assert (second.status, second.code) == (400, "VolumeInUse")
    assert lab.calls.counts() == {"DescribeVolumes": 1, "AttachVolume": 2}
    assert lab.calls.count("AttachVolume", since=mark) == 2
    assert [call.action for call in lab.calls.writes()] == ["AttachVolume"] * 2


def test_calls_of_an_instance_are_known_by_its_keys(lab: Ec2Lab) -> None:
    instance = lab.run_instance()
    keys = lab.credentials(instance)
    lab.client(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["Token"],
    ).describe_tags()
    client(lab).describe_tags()
    assert [call.instance_id for call in lab.calls] == [instance, ""]
    assert lab.calls.count("DescribeTags", instance_id=instance) == 1


def test_role_keys_need_their_token(lab: Ec2Lab) -> None:
    keys = lab.credentials(lab.run_instance())
    wrong = lab.client(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token="stale",
    )
    assert refusal(wrong.describe_tags)[::2] == ("AuthFailure", 401)


def test_expired_credentials_and_the_next_ones(lab: Ec2Lab) -> None:
    instance = lab.run_instance()

    def signed(keys: dict[str, str]) -> Any:
        return lab.client(
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["Token"],
        )

    old = lab.credentials(instance)
    lab.expire_credentials(instance)
    assert refusal(signed(old).describe_tags) == (
        "RequestExpired",
        "Request has expired.",
        400,
    )
    signed(lab.credentials(instance)).describe_tags()
    assert lab.calls.count("DescribeTags", instance_id=instance) == 2


def test_calls_may_come_all_at_once(lab: Ec2Lab) -> None:
    """One volume, many claimants: exactly one gets it."""
    volume = lab.create_volume(1, ZONE)
    instances = [lab.run_instance(zone=ZONE) for _ in range(8)]
    ec2 = client(lab)
    results: list[str] = []

    def claim(instance: str) -> None:
        from botocore.exceptions import ClientError

        try:
            ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=SDF)
            results.append("")
        except ClientError as error:
            results.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=claim, args=(one,)) for one in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [""] + ["VolumeInUse"] * 7
    assert lab.calls.count("AttachVolume") == 8


# -------------------------------------------------------- moto, and alone


@pytest.mark.long
def test_what_the_lab_does_not_know_moto_answers(lab: Ec2Lab) -> None:
    pytest.importorskip("moto")
    patient = client(lab, read_timeout=120)  # moto is loaded by the first call
    zones = patient.describe_availability_zones()["AvailabilityZones"]
    assert ZONE in {one["ZoneName"] for one in zones}
    assert lab.client("sts").get_caller_identity()["Account"] == "123456789012"
    assert lab.calls.counts() == {
        "DescribeAvailabilityZones": 1,
        "GetCallerIdentity": 1,
    }


def test_it_runs_on_its_own_and_without_moto_or_boto3() -> None:
    program = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        "sys.modules['moto'] = None\n"
        "from tests.lab.ec2 import main\n"
        "sys.argv = ['ec2', '--volumes', '2', '--instances', '1', '--tag', 'a=b']\n"
        "sys.exit(main())\n"
    )
    top = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=top, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline().split() for _ in range(4)]
            endpoint = lines[0][1]
            ec2 = boto3.client(
                "ec2",
                "us-east-1",
                endpoint_url=endpoint,
                aws_access_key_id="x",
                aws_secret_access_key="x",
            )
            wanted = [{"Name": "tag:a", "Values": ["b"]}]
            found = ec2.describe_volumes(Filters=wanted)["Volumes"]
        finally:
            process.terminate()
    assert {one["VolumeId"] for one in found} == {lines[1][1], lines[2][1]}
    assert lines[3][0] == "instance"


def test_it_can_be_steered_over_http(lab: Ec2Lab) -> None:
    import json
    import urllib.error
    import urllib.request

    def post(method: str, **arguments: Any) -> Any:
        request = urllib.request.Request(
            f"{lab.endpoint_url}/lab/{method}", json.dumps(arguments).encode()
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    volume = post("create_volume", size_gib=1, zone=ZONE, tags={"a": "b"})
    instance = post("run_instance", zone=ZONE)
    post("forbid", action="AttachVolume")
    assert refusal(attach, lab=lab, volume=volume, instance=instance)[2] == 403
    post("heal")
    attach(lab, volume, instance)
    before = post("advance", seconds=0)
    assert post("advance", seconds=60) == before + 60
    assert post("device_of", volume_id=volume) == SDF
    assert post("calls") == {"AttachVolume": 2}
    for method, arguments in [("nonesuch", {}), ("tag", {"resource_id": "vol-1"})]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(method, **arguments)
        assert caught.value.code == 400 and "error" in json.load(caught.value)
