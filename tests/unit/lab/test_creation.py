"""The lab's CreateVolume, driven by the real boto3: a test a rule of EC2's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.clock import ManualClock
from tests.lab.ec2 import MUTATING, Ec2Lab
from tests.unit.lab.test_ec2 import client, codes, refusal

pytest.importorskip("boto3")

ZONE = "us-east-1a"
HOUR = 3600.0
PLAIN = {"AvailabilityZone": ZONE, "Size": 10, "VolumeType": "gp3"}
SEALED = {**PLAIN, "Encrypted": True, "ClientToken": "t" * 64}
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:us-east-1:123456789012:key/{KEY}"
GONE = (
    "IdempotentParameterMismatch",
    "The client token you have provided is associated with a resource that is already "
    "deleted. Please use a different client token.",
    400,
)


@pytest.fixture
def lab() -> Iterator[Ec2Lab]:
    """Creation takes 3 s; what fails is shown for 5 s more."""
    with Ec2Lab(clock=ManualClock(), create_seconds=3, error_seconds=5) as lab:
        yield lab


def make(lab: Ec2Lab, **wanted: Any) -> Any:
    return client(lab).create_volume(**{**PLAIN, **wanted})


def described(lab: Ec2Lab) -> list[tuple[str, str]]:
    found = client(lab).describe_volumes()["Volumes"]
    return [(one["VolumeId"], one["State"]) for one in found]


def advance(lab: Ec2Lab, seconds: float) -> None:
    assert isinstance(lab.clock, ManualClock)
    lab.clock.advance(seconds)


# ------------------------------------------------------------ what is asked for


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({}, {"Iops": 3000, "Throughput": 125, "Encrypted": False}),
        ({"Iops": 5000, "Throughput": 1250}, {"Iops": 5000, "Throughput": 1250}),
        ({"Size": 65536, "Iops": 80000}, {"Size": 65536, "Iops": 80000}),
        ({"VolumeType": "gp2"}, {"Iops": 100}),
        ({"VolumeType": "gp2", "Size": 1000}, {"Iops": 3000}),
        ({"VolumeType": "io1", "Iops": 500}, {"Iops": 500}),
        ({"VolumeType": "io2", "Iops": 10000}, {"Iops": 10000}),
        ({"VolumeType": "st1", "Size": 125}, {"VolumeType": "st1"}),
        ({"VolumeType": "standard", "Size": 1024}, {"Size": 1024}),
        (
            {"Encrypted": True},
            {"KmsKeyId": "arn:aws:kms:us-east-1:123456789012:alias/aws/ebs"},
        ),
        ({"Encrypted": True, "KmsKeyId": KEY}, {"KmsKeyId": ARN, "Encrypted": True}),
        ({"Encrypted": True, "KmsKeyId": ARN}, {"KmsKeyId": ARN}),
    ],
)
def test_a_volume_has_what_was_asked_for(
    lab: Ec2Lab, wanted: dict[str, Any], shown: dict[str, Any]
) -> None:
    made = make(lab, **wanted)
    assert shown.items() <= made.items()
    (found,) = client(lab).describe_volumes(VolumeIds=[made["VolumeId"]])["Volumes"]
    assert shown.items() <= found.items()


VALUE, TOGETHER = "InvalidParameterValue", "InvalidParameterCombination"


@pytest.mark.parametrize(
    ("wanted", "code", "part"),
    [
        ({"Size": 0}, VALUE, "gp3 volumes must be at least 1 GiB in size"),
        ({"Size": 65537}, VALUE, "gp3 volumes must be at most 65536 GiB in size"),
        ({"VolumeType": "gp2", "Size": 16385}, VALUE, "at most 16384 GiB"),
        ({"VolumeType": "io2", "Size": 3, "Iops": 100}, VALUE, "at least 4 GiB"),
        ({"VolumeType": "st1"}, VALUE, "st1 volumes must be at least 125 GiB"),
        ({"VolumeType": "sc1", "Size": 16385}, VALUE, "at most 16384 GiB"),
        ({"VolumeType": "standard", "Size": 1025}, VALUE, "at most 1024 GiB"),
        ({"VolumeType": "gp4"}, "UnknownVolumeType", "Unsupported volume type 'gp4'"),
        ({"Iops": 2999}, VALUE, "Volume iops of 2999 is too low; minimum is 3000."),
        ({"Iops": 80001}, VALUE, "Volume iops of 80001 is too high; maximum is 80000."),
        ({"Iops": 5001}, VALUE, "Iops to volume size ratio of 500.100000 is too high"),
        ({"VolumeType": "io1", "Iops": 501}, VALUE, "maximum is 50"),
        ({"VolumeType": "io2"}, "MissingParameter", "iops must be specified for io2"),
        ({"VolumeType": "gp2", "Iops": 3000}, TOGETHER, "not supported for gp2"),
        ({"Throughput": 124}, VALUE, "Volume throughput of 124 is too low"),
        ({"Throughput": 2001}, VALUE, "Volume throughput of 2001 is too high"),
        (
            {"Throughput": 1000},
            VALUE,
            "Throughput (MiBps) to iops ratio of 0.333333 is too high; maximum is "
            "0.250000 MiBps per iops",
        ),
        (
            {"VolumeType": "io2", "Iops": 3000, "Throughput": 500},
            TOGETHER,
            "throughput can only be specified for volumeType gp3.",
        ),
        ({"MultiAttachEnabled": True}, TOGETHER, "not supported for gp3"),
        (
            {"KmsKeyId": KEY},
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        ),
        (
            {"AvailabilityZone": "us-east-1z"},
            "InvalidZone.NotFound",
            "The zone 'us-east-1z' does not exist.",
        ),
        ({"AvailabilityZoneId": "use1-az1"}, TOGETHER, "availabilityZoneId"),
        ({"SnapshotId": "snap-12"}, VALUE, "Expected: 'snap-...'."),
        (
            {"SnapshotId": "snap-0123456789abcdef9"},
            "InvalidSnapshot.NotFound",
            "The snapshot 'snap-0123456789abcdef9' does not exist.",
        ),
        (
            {"ClientToken": "t" * 65},
            VALUE,
            "Client token must be less than or equal to 64 characters",
        ),
        ({"ClientToken": "zähler"}, VALUE, "ASCII"),
        (
            {"TagSpecifications": [{"ResourceType": "instance", "Tags": []}]},
            VALUE,
            "'instance' is not a valid taggable resource type for this operation.",
        ),
        (
            {
                "TagSpecifications": [
                    {"ResourceType": "volume", "Tags": [{"Key": "aws:a", "Value": ""}]}
                ]
            },
            VALUE,
            "reserved for internal use",
        ),
        (
            {
                "TagSpecifications": [
                    {
                        "ResourceType": "volume",
                        "Tags": [{"Key": f"{n}", "Value": ""} for n in range(51)],
                    }
                ]
            },
            "TagLimitExceeded",
            "50",
        ),
    ],
)
def test_a_volume_that_cannot_be_is_refused(
    lab: Ec2Lab, wanted: dict[str, Any], code: str, part: str
) -> None:
    told = refusal(make, lab=lab, **wanted)
    assert (told[0], told[2]) == (code, 400)
    assert part in told[1]
    assert described(lab) == []


def test_a_size_or_a_snapshot_is_needed(lab: Ec2Lab) -> None:
    create = client(lab).create_volume
    assert refusal(create, AvailabilityZone=ZONE)[:2] == (
        "MissingParameter",
        "The request must contain the parameter size or snapshotId",
    )
    assert refusal(create, Size=1)[0] == "MissingParameter"


def test_a_zone_may_be_named_by_its_id(lab: Ec2Lab) -> None:
    create = client(lab).create_volume
    made = create(AvailabilityZoneId="use1-az2", Size=1)
    assert made["AvailabilityZone"] == "us-east-1b"
    assert refusal(create, AvailabilityZoneId="use1-az9", Size=1)[0] == (
        "InvalidZone.NotFound"
    )


def test_a_volume_has_its_tags_from_the_first_moment(lab: Ec2Lab) -> None:
    tags = [{"Key": "KRKN-IN:NodeId", "Value": "0"}]
    made = make(lab, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])
    assert (made["State"], made["Tags"]) == ("creating", tags)
    advance(lab, 3)
    assert described(lab) == [(made["VolumeId"], "available")]


# ---------------------------------------------------------------- client tokens


def test_one_token_makes_one_volume(lab: Ec2Lab) -> None:
    first = make(lab, **SEALED)
    advance(lab, 3)
    again = make(lab, **SEALED)
    assert again["VolumeId"] == first["VolumeId"]
    assert again["State"] == "available"
    assert len(described(lab)) == 1


def test_a_token_counts_also_when_the_first_answer_was_a_failure(lab: Ec2Lab) -> None:
    lab.unavailable("CreateVolume")
    assert refusal(make, lab=lab, **SEALED)[2] == 503
    ((made, _),) = described(lab)
    assert make(lab, **SEALED)["VolumeId"] == made


@pytest.mark.parametrize(
    "other",
    [
        {"Size": 11},
        {"VolumeType": "gp2"},
        {"Encrypted": False},
        {"Iops": 3000},
        {
            "TagSpecifications": [
                {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}
            ]
        },
    ],
)
def test_a_token_is_for_one_request(lab: Ec2Lab, other: dict[str, Any]) -> None:
    make(lab, **SEALED)
    told = refusal(make, lab=lab, **{**SEALED, **other})
    assert told[0] == "IdempotentParameterMismatch"
    assert "t" * 64 in told[1]


def test_a_token_is_for_one_zone(lab: Ec2Lab) -> None:
    make(lab, **SEALED)
    make(lab, **{**SEALED, "AvailabilityZone": "us-east-1b"})
    assert len(described(lab)) == 2


def test_a_token_is_forgotten_after_twelve_hours(lab: Ec2Lab) -> None:
    first = make(lab, **SEALED)["VolumeId"]
    advance(lab, 12 * HOUR - 1)
    assert make(lab, **SEALED)["VolumeId"] == first
    advance(lab, 1)
    assert make(lab, **SEALED)["VolumeId"] != first


def test_the_token_of_a_deleted_volume_is_burned(lab: Ec2Lab) -> None:
    lab.delete_volume(make(lab, **SEALED)["VolumeId"])
    assert refusal(make, lab=lab, **SEALED) == GONE
    assert make(lab, **{**SEALED, "ClientToken": "another"})["State"] == "creating"
    advance(lab, 12 * HOUR)
    assert make(lab, **SEALED)["State"] == "creating"


@pytest.mark.parametrize("by_key", [True, False])
def test_a_key_that_cannot_be_used_ends_in_error_and_burns_the_token(
    lab: Ec2Lab, by_key: bool
) -> None:
    wanted = {**SEALED, "KmsKeyId": KEY}
    lab.refuse_creation(ARN if by_key else "")
    made = make(lab, **wanted)
    assert made["State"] == "creating"
    assert make(lab, **wanted)["VolumeId"] == made["VolumeId"]
    advance(lab, 3)
    assert described(lab) == [(made["VolumeId"], "error")]
    assert refusal(make, lab=lab, **wanted) == GONE
    advance(lab, 5)
    assert described(lab) == []
    assert refusal(make, lab=lab, **wanted) == GONE
    lab.permit_creation()
    make(lab, **{**wanted, "ClientToken": "another"})
    advance(lab, 3)
    assert [state for _, state in described(lab)] == ["available"]


def test_only_what_is_encrypted_needs_a_key(lab: Ec2Lab) -> None:
    lab.refuse_creation()
    make(lab)
    advance(lab, 3)
    assert [state for _, state in described(lab)] == ["available"]


def test_at_the_limit_a_token_is_not_looked_at(lab: Ec2Lab) -> None:
    made = make(lab, **SEALED)
    lab.limit_storage("gp3", 15)
    told = refusal(make, lab=lab, **SEALED)
    assert told[0] == "VolumeLimitExceeded"
    assert told[1].startswith("You have exceeded your maximum gp3 storage limit of ")
    assert [volume for volume, _ in described(lab)] == [made["VolumeId"]]
    make(lab, VolumeType="gp2")
    lab.lift_storage("gp3")
    assert make(lab, **SEALED)["VolumeId"] == made["VolumeId"]


# ------------------------------------------------------- permissions, throttles


@pytest.mark.parametrize("missing", ["CreateVolume", "CreateTags"])
def test_a_missing_permission_is_named(lab: Ec2Lab, missing: str) -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}]
    lab.forbid(missing)
    code, text, status = refusal(make, lab=lab, TagSpecifications=tags)
    assert (code, status) == ("UnauthorizedOperation", 403)
    assert f"perform: ec2:{missing} on resource: arn:aws:ec2:us-east-1:" in text
    assert ":volume/* because" in text
    assert described(lab) == []


def test_without_tags_the_permission_for_tags_is_not_needed(lab: Ec2Lab) -> None:
    lab.forbid("CreateTags")
    assert make(lab)["State"] == "creating"


def test_creation_has_a_bucket_of_its_own() -> None:
    """Others who attach take nothing from it."""
    clock = ManualClock()
    with Ec2Lab(clock=clock, throttled=True) as lab:
        volume = lab.create_volume(1, ZONE)
        instance = lab.run_instance(zone=ZONE)
        attach = {"VolumeId": volume, "InstanceId": instance, "Device": "/dev/sdf"}
        codes(client(lab).attach_volume, int(MUTATING[0]), **attach)
        found = codes(client(lab).create_volume, int(MUTATING[0]) + 1, **PLAIN)
        assert found == [""] * int(MUTATING[0]) + ["RequestLimitExceeded"]
        clock.advance(1)
        found = codes(client(lab).create_volume, int(MUTATING[1]) + 1, **PLAIN)
        assert found == [""] * int(MUTATING[1]) + ["RequestLimitExceeded"]


# ---------------------------------------------------------------- stale answers


def test_an_old_answer_does_not_show_a_new_volume_and_shows_one_that_is_gone(
    lab: Ec2Lab,
) -> None:
    make(lab, **SEALED)
    lab.lag(6, answers=1)
    assert described(lab) == []
    advance(lab, 3)
    lab.refuse_creation()
    failed = make(lab, **{**SEALED, "ClientToken": "another"})["VolumeId"]
    advance(lab, 8)
    assert failed not in dict(described(lab))
    lab.lag(2, answers=1)
    assert dict(described(lab))[failed] == "error"
    lab.lag(7, answers=1)
    assert dict(described(lab))[failed] == "creating"
