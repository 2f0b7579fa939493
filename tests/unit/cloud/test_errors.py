"""The table of EC2's error codes: every line, and the texts made of it."""

from __future__ import annotations

import pytest

from cc_kraken.cloud.errors import LONGEST, TABLE, Reaction, plain, refused, rule

R = Reaction
IN_USE = (
    "Invalid value '/dev/sdf' for unixDevice. Attachment point {} is already in use"
)
INVALID = "Value (/dev/nvme1n1) for parameter device is invalid. {}"
MODIFYING = "Cannot attach volume vol-1 when it is in modification state: MODIFYING"
ROOT = "Unable to detach root volume 'vol-1' from instance 'i-1'"

# action, code, message, HTTP status, reaction, kind
CASES = [
    ("AttachVolume", "VolumeInUse", "", 400, R.DESCRIBE, "volume-in-use"),
    ("AttachVolume", "IncorrectState", "vol", 400, R.RETRY, "incorrect-state"),
    ("AttachVolume", "IncorrectInstanceState", "", 400, R.FATAL, "marketplace-code"),
    ("AttachVolume", "InvalidVolume.ZoneMismatch", "", 400, R.FATAL, "zone-mismatch"),
    (
        "AttachVolume",
        "InvalidParameterValue",
        IN_USE.format("/dev/sdf"),
        400,
        R.NEXT_NAME,
        "device-name-taken",
    ),
    ("AttachVolume", "InvalidDevice.InUse", "", 400, R.NEXT_NAME, "device-name-taken"),
    (
        "AttachVolume",
        "InvalidParameterValue",
        INVALID.format("/dev/nvme1n1 is not a valid EBS device name."),
        400,
        R.NEXT_NAME,
        "device-name-invalid",
    ),
    ("AttachVolume", "InvalidParameterValue", "other", 400, R.FATAL, "ec2-request"),
    (
        "DescribeVolumes",
        "InvalidParameterValue",
        "already in use",
        400,
        R.FATAL,
        "ec2-request",
    ),
    (
        "AttachVolume",
        "OperationNotPermitted",
        MODIFYING,
        400,
        R.RETRY,
        "volume-modifying",
    ),
    ("AttachVolume", "OperationNotPermitted", "x", 400, R.FATAL, "ec2-request"),
    ("DetachVolume", "OperationNotPermitted", ROOT, 400, R.FATAL, "ec2-request"),
    ("AttachVolume", "AttachmentLimitExceeded", "", 400, R.FATAL, "attachment-limit"),
    (
        "AttachVolume",
        "CustomerKeyHasBeenRevoked",
        "",
        400,
        R.FATAL,
        "kms-permission-missing",
    ),
    (
        "AttachVolume",
        "InvalidInstanceID.NotFound",
        "",
        400,
        R.RETRY,
        "instance-not-found",
    ),
    ("AttachVolume", "InvalidVolume.NotFound", "", 400, R.RETRY, "volume-not-found"),
    ("DescribeVolumes", "RequestLimitExceeded", "", 503, R.RETRY, "ec2-throttled"),
    (
        "DescribeVolumes",
        "Client.RequestLimitExceeded",
        "",
        503,
        R.RETRY,
        "ec2-throttled",
    ),
    ("AttachVolume", "EC2ThrottledException", "", 400, R.RETRY, "ec2-throttled"),
    (
        "AttachVolume",
        "UnauthorizedOperation",
        "",
        403,
        R.RETRY,
        "permission-missing",
    ),
    ("DetachVolume", "InvalidAttachment.NotFound", "", 400, R.DONE, "not-attached"),
    ("DetachVolume", "IncorrectState", "available", 400, R.DONE, "not-attached"),
    ("CreateTags", "TagLimitExceeded", "", 400, R.FATAL, "account-limit"),
    ("CreateVolume", "VolumeLimitExceeded", "", 400, R.FATAL, "create-limit"),
    ("CreateVolume", "MaxIOPSLimitExceeded", "", 400, R.FATAL, "create-limit"),
    (
        "CreateVolume",
        "IdempotentParameterMismatch",
        "",
        400,
        R.DESCRIBE,
        "create-token-burned",
    ),
    (
        "CreateVolume",
        "InsufficientVolumeCapacity",
        "",
        400,
        R.RETRY,
        "create-capacity",
    ),
    ("CreateVolume", "InvalidSnapshot.NotFound", "", 400, R.RETRY, "create-snapshot"),
    ("CreateVolume", "IncorrectState", "", 400, R.RETRY, "create-snapshot"),
    ("CreateVolume", "InvalidParameterValue", "", 400, R.FATAL, "create-refused"),
    ("CreateVolume", "UnknownVolumeType", "", 400, R.FATAL, "create-refused"),
    ("CreateVolume", "NoSuchCodeYet", "", 400, R.FATAL, "create-refused"),
    ("CreateVolume", "NoSuchCodeYet", "", 503, R.RETRY, "ec2-unavailable"),
    ("CreateVolume", "RequestLimitExceeded", "", 503, R.RETRY, "ec2-throttled"),
    ("CreateVolume", "UnauthorizedOperation", "", 403, R.RETRY, "permission-missing"),
    ("AttachVolume", "VolumeLimitExceeded", "", 400, R.FATAL, "account-limit"),
    ("DescribeVolumes", "ExpiredToken", "", 400, R.RETRY, "credentials-refused"),
    ("DescribeVolumes", "RequestExpired", "", 400, R.RETRY, "credentials-refused"),
    ("DescribeVolumes", "AuthFailure", "", 401, R.RETRY, "credentials-refused"),
    ("DescribeVolumes", "Server.Unavailable", "", 503, R.RETRY, "ec2-unavailable"),
    ("DescribeVolumes", "InternalError", "", 500, R.RETRY, "ec2-unavailable"),
    # codes that nobody wrote down: by status
    ("DescribeVolumes", "SomethingNew", "", 503, R.RETRY, "ec2-unavailable"),
    ("DescribeVolumes", "429", "", 429, R.RETRY, "ec2-throttled"),
    ("DescribeVolumes", "SomethingNew", "", 400, R.FATAL, "ec2-request"),
    ("DescribeVolumes", "404", "Not Found", 404, R.FATAL, "ec2-request"),
    ("DescribeVolumes", "OptInRequired", "", 403, R.FATAL, "account-refused"),
    (
        "DetachVolume",
        "UnsupportedOperationException",
        "",
        400,
        R.FATAL,
        "ec2-unsupported",
    ),
]


@pytest.mark.parametrize(
    ("action", "code", "message", "status", "reaction", "kind"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{case[3]}-{case[5]}" for case in CASES],
)
def test_reaction(
    action: str, code: str, message: str, status: int, reaction: Reaction, kind: str
) -> None:
    line = rule(action, code, message, status)
    assert (line.reaction, line.kind) == (reaction, kind)
    told = refused(action, code, message, status).trouble
    assert told.kind == kind and action in told.found and code in told.found


@pytest.mark.parametrize("code", sorted(TABLE))
def test_every_line_can_be_worded(code: str) -> None:
    told = refused(
        "AttachVolume", code, "Text of EC2.", subject="of vol-1 to i-1"
    ).trouble
    assert told.kind and "vol-1" in told.found and code in told.found
    assert "{" not in str(told) and ".." not in str(told)
    if TABLE[code].reaction is not Reaction.DONE:
        assert told.expected and told.remedy.endswith(".")
    assert told.waits == (TABLE[code].reaction in (R.RETRY, R.DESCRIBE))


def test_a_refused_permission_is_named_as_in_a_policy() -> None:
    told = refused("DescribeVolumes", "UnauthorizedOperation", "No.", 403).trouble
    assert "ec2:DescribeVolumes" in told.remedy and told.waits


def test_a_refused_key_names_the_permissions_of_kms() -> None:
    told = refused("AttachVolume", "CustomerKeyHasBeenRevoked", "", 400).trouble
    assert "kms:CreateGrant" in told.remedy and "kms:Decrypt" in told.remedy


def test_the_encoded_part_and_line_ends_are_cut() -> None:
    text = (
        "You are not authorized to perform this operation.\n User: arn:aws:x "
        "is not authorized. Encoded authorization failure message: " + "aB3_-" * 200
    )
    assert plain(text) == (
        "You are not authorized to perform this operation. User: arn:aws:x "
        "is not authorized."
    )


def test_a_long_text_is_cut_and_control_characters_are_gone() -> None:
    assert len(plain("x" * 5000)) == LONGEST
    assert plain("a\x1b[31mb\x00\tc") == "a [31mb c"


DENIED = (
    "You are not authorized to perform this operation. User: arn:aws:sts::1:x/i-1 is "
    "not authorized to perform: {} on resource: {} because no identity-based policy "
    "allows the action."
)


@pytest.mark.parametrize(
    "permission, resource",
    [
        ("ec2:CreateTags", "arn:aws:ec2:us-east-1:1:volume/*"),
        ("ec2:CreateVolume", "arn:aws:ec2:us-east-1::snapshot/snap-1"),
        ("kms:CreateGrant", "arn:aws:kms:us-east-1:1:key/1234"),
    ],
)
def test_the_permission_that_ec2_names_is_named_with_its_resource(
    permission: str, resource: str
) -> None:
    message = DENIED.format(permission, resource)
    told = refused("CreateVolume", "UnauthorizedOperation", message, 403).trouble
    assert told.remedy.startswith(f"Allow {permission} on {resource} in the role")
    rights = f"{permission} on {resource}"
    assert told.expected == f"The role must have the permission {rights}."


def test_a_reason_that_is_encoded_alone_is_said_as_such() -> None:
    message = "You are not authorized. Encoded authorization failure message: aB3_"
    told = refused("CreateVolume", "UnauthorizedOperation", message, 403).trouble
    assert "aws sts decode-authorization-message" in told.found
    assert "aB3_" not in told.found
