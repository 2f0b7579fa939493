"""EC2's error codes, and what is done about each: a pure table.

Sources: the EC2 API reference, "Error codes for the Amazon EC2 API"; the
texts that have to be matched are those of public reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from cc_kraken.model import KrakenError, Trouble

#: Longest piece of EC2's own text that is passed on, in characters.
LONGEST = 300


class Reaction(Enum):
    """What the caller does after an error of EC2."""

    #: Time may cure it: asked again, with back-off, up to the deadline.
    RETRY = "retry"
    #: The answer proves nothing: the truth is a fresh DescribeVolumes.
    DESCRIBE = "describe"
    #: The device name is taken, or not accepted: the next one.
    NEXT_NAME = "next-name"
    #: What was asked for is so already.
    DONE = "done"
    #: Somebody has to do something.
    FATAL = "fatal"


@dataclass(frozen=True)
class Rule:
    """What some codes mean.

    ``codes``: without ``Client.`` or ``Server.`` in front.  ``expected`` and ``remedy``
    may hold ``{action}`` (DescribeVolumes) and ``{permission}`` (ec2:DescribeVolumes).
    """

    reaction: Reaction
    kind: str
    codes: str = ""
    expected: str = ""
    remedy: str = ""


class Ec2Error(KrakenError):
    """A call that failed; ``code`` is EC2's, "" where it sent none."""

    def __init__(self, trouble: Trouble, reaction: Reaction, code: str = "") -> None:
        super().__init__(trouble)
        self.reaction = reaction
        self.code = code


KMS_PERMISSIONS = (
    "kms:CreateGrant (with the condition kms:GrantIsForAWSResource), "
    "kms:Decrypt, kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext "
    "and kms:ReEncrypt*"
)

_THROTTLED = Rule(
    Reaction.RETRY,
    "ec2-throttled",
    "RequestLimitExceeded EC2ThrottledException Throttling ThrottlingException "
    "ThrottledException RequestThrottled RequestThrottledException "
    "TooManyRequestsException BandwidthLimitExceeded SlowDown",
    "The account must stay within its rate of requests.",
    "cc_kraken asks again. If this stays, look for what else calls {action} in "
    "this account and region, or ask AWS for a higher rate.",
)
_UNAVAILABLE = Rule(
    Reaction.RETRY,
    "ec2-unavailable",
    "Unavailable ServiceUnavailable InternalError InternalFailure "
    "InternalServerError RequestTimeout RequestTimeoutException",
    "EC2 must do what it is asked for.",
    "cc_kraken asks again. If this stays, look at the AWS Health Dashboard.",
)
# A change of policy or profile takes effect seconds to minutes later.
_PERMISSION = Rule(
    Reaction.RETRY,
    "permission-missing",
    "UnauthorizedOperation AccessDenied AccessDeniedException",
    "The role must have the permission {permission}.",
    "Allow {permission} in the role of this instance's profile. A change takes "
    "effect after a while: cc_kraken asks again.",
)
_NAME_TAKEN = Rule(
    Reaction.NEXT_NAME,
    "device-name-taken",
    "InvalidDevice.InUse",
    "The device name must be free.",
    "Nothing to do: the next name is tried.",
)
_NAME_INVALID = Rule(
    Reaction.NEXT_NAME,
    "device-name-invalid",
    "",
    "EC2 must accept the device name.",
    "Nothing to do: the next name is tried.",
)
_MODIFYING = Rule(
    Reaction.RETRY,
    "volume-modifying",
    "",
    "The modification of the volume must be over.",
    "Nothing to do: EC2 attaches the volume when its modification has left the state "
    "modifying. To see that state: aws ec2 describe-volumes-modifications.",
)
_NOT_ATTACHED = Rule(Reaction.DONE, "not-attached", "InvalidAttachment.NotFound")
_KEY = Rule(
    Reaction.FATAL,
    "kms-permission-missing",
    "CustomerKeyHasBeenRevoked",
    "The role must have the right to use the KMS key of the encrypted volume.",
    f"Check that the key is enabled. Allow {KMS_PERMISSIONS} on it, in the role of "
    "this instance's profile and in the key's policy.",
)
#: What a code that no table has means.
_REQUEST = Rule(
    Reaction.FATAL,
    "ec2-request",
    "",
    "EC2 must accept the request.",
    "Check the instance, the volume and kraken.ec2 in the configuration.",
)
_NOT_CREATED = Rule(
    Reaction.FATAL,
    "create-refused",
    "",
    "EC2 must offer such a volume in this zone.",
    "Correct create of this set in the section. Then: cc-kraken apply.",
)

_RULES = (
    _THROTTLED,
    _UNAVAILABLE,
    _PERMISSION,
    _NAME_TAKEN,
    _NOT_ATTACHED,
    _KEY,
    Rule(
        Reaction.RETRY,
        "credentials-refused",
        "AuthFailure ExpiredToken ExpiredTokenException RequestExpired "
        "InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch "
        "InvalidSignatureException",
        "The credentials must be valid, and the clock right.",
        "cc_kraken fetches new ones. If this stays, check the role of the instance "
        "profile, and the clock of this machine (timedatectl).",
    ),
    Rule(
        Reaction.FATAL,
        "account-refused",
        "OptInRequired PendingVerification Blocked",
        "The account must be allowed to use EC2 in this region.",
        "Ask the owner of the AWS account.",
    ),
    Rule(
        Reaction.FATAL,
        "ec2-unsupported",
        "UnsupportedOperation UnsupportedOperationException Unsupported",
        "EC2 must offer {action} for this volume and this instance.",
        "Choose another volume type or instance type, or release what AWS manages "
        "itself.",
    ),
    Rule(
        Reaction.FATAL,
        "account-limit",
        "TagLimitExceeded VolumeLimitExceeded",
        "The account must have room within its limits.",
        "Remove what is not needed, or ask AWS for a higher limit.",
    ),
    Rule(
        Reaction.RETRY,
        "incorrect-state",
        "IncorrectState InvalidInstanceID.NotReady",
        "The instance must be running, and the volume available.",
        "cc_kraken asks again. If this stays, look at the state of both in EC2.",
    ),
    Rule(
        Reaction.RETRY,
        "instance-not-found",
        "InvalidInstanceID.NotFound",
        "EC2 must know the instance in this region.",
        "A new instance can take a moment. If this stays, check kraken.ec2.region "
        "and kraken.ec2.endpoint_url.",
    ),
    Rule(
        Reaction.RETRY,
        "volume-not-found",
        "InvalidVolume.NotFound",
        "EC2 must know the volume in this region.",
        "A new volume can take a moment. If this stays, see who has deleted it "
        "(CloudTrail: DeleteVolume).",
    ),
    Rule(
        Reaction.DESCRIBE,
        "volume-in-use",
        "VolumeInUse",
        "The volume must be available.",
        "See in EC2 what it is attached to, and detach it there.",
    ),
    Rule(
        Reaction.FATAL,
        "zone-mismatch",
        "InvalidVolume.ZoneMismatch",
        "The volume and the instance must be in one availability zone.",
        "Start the instance in the volume's zone, or make a copy of the volume "
        "in the instance's zone.",
    ),
    Rule(
        Reaction.FATAL,
        "marketplace-code",
        "IncorrectInstanceState",
        "The volume must have no AWS Marketplace product code.",
        "A volume with such a code can only be attached to a stopped instance. "
        "Copy its data to a volume without one.",
    ),
    Rule(
        Reaction.FATAL,
        "attachment-limit",
        "AttachmentLimitExceeded",
        "The instance must have fewer volumes than its type allows.",
        "Detach volumes (or network interfaces, where the limit is shared), or "
        "use an instance type with a higher limit.",
    ),
)
#: What some codes of CreateVolume mean, and of CreateVolume alone.
_OF_CREATION = (
    Rule(
        Reaction.DESCRIBE,
        "create-token-burned",
        "IdempotentParameterMismatch",
        "EC2 must not have used the token before.",
        "Nothing to do: the next one is tried.",
    ),
    Rule(
        Reaction.FATAL,
        "create-limit",
        "VolumeLimitExceeded MaxIOPSLimitExceeded",
        "The account must have room for another volume within its limits.",
        "Delete volumes that nobody needs, or ask AWS for a higher limit (Service "
        "Quotas: Amazon EBS). Then: cc-kraken apply.",
    ),
    Rule(
        Reaction.RETRY,
        "create-capacity",
        "InsufficientVolumeCapacity",
        "EC2 must have room for the volume in this zone.",
        "EC2 is asked again. If this stays, choose another type in create, or another "
        "zone.",
    ),
    Rule(
        Reaction.RETRY,
        "create-snapshot",
        "InvalidSnapshot.NotFound IncorrectState",
        "The snapshot must be complete, and in this region.",
        "EC2 is asked again. If this stays, correct create.snapshot of this set, and "
        "see that the snapshot is shared with this account.",
    ),
    replace(_KEY, codes="KMSKeyNotAccessibleFault InvalidKmsKey.InvalidState"),
)


def _by_code(rules: Iterable[Rule]) -> dict[str, Rule]:
    return {code: line for line in rules for code in line.codes.split()}


#: What a code means, whatever was asked for.
TABLE = _by_code(_RULES)
_OF_ACTION = {
    "CreateVolume": _by_code(_OF_CREATION),
    # It is not attached any more; the next describe tells.
    "DetachVolume": {"IncorrectState": _NOT_ATTACHED},
}
# One code for many causes: here the text decides.  By action and code.
_TEXTS = {
    ("AttachVolume", "InvalidParameterValue"): (
        ("already in use", _NAME_TAKEN),
        ("not a valid ebs device name", _NAME_INVALID),
        ("invalid device name", _NAME_INVALID),
        ("is not a valid device", _NAME_INVALID),
    ),
    ("AttachVolume", "OperationNotPermitted"): (("modification state", _MODIFYING),),
}

_DENIED = re.compile(
    r"is not authorized to perform: ([a-z0-9-]+:\w+)(?: on resource: (\S+))?"
)
_ENCODED = re.compile(r"\s*Encoded authorization failure message:?\s*\S*")
_DECODED = (
    "it is in CloudTrail's event of this call, and aws sts "
    "decode-authorization-message reads it"
)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f]+")


def rule(action: str, code: str, message: str = "", status: int = 400) -> Rule:
    """The reaction to an error of EC2.

    ``action`` as in the API (AttachVolume), ``code`` and ``message`` as EC2
    sends them, ``status`` of HTTP.  A code that the table does not have is
    judged by the status: 429 and 5xx may pass, anything else does not.
    """
    name = re.sub(r"^(Client|Server)\.", "", code)
    for text, answer in _TEXTS.get((action, name), ()):
        if text in message.lower():
            return answer
    line = _OF_ACTION.get(action, {}).get(name) or TABLE.get(name)
    if line is not None:
        return line
    if status == 429:
        return _THROTTLED
    if status >= 500:
        return _UNAVAILABLE
    return _NOT_CREATED if action == "CreateVolume" else _REQUEST


def plain(message: str) -> str:
    """EC2's text on one line, without the encoded part, and not too long."""
    text = _UNPRINTABLE.sub(" ", _ENCODED.sub("", message)).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def refused(
    action: str, code: str, message: str, status: int = 400, subject: str = ""
) -> Ec2Error:
    """An answer of EC2 that is an error.  ``subject``: of what (``of vol-1``).

    A device name that is taken is worded too, for the time when none is left.
    """
    line = rule(action, code, message, status)
    denied = _DENIED.search(message)
    permission = denied.group(1) if denied else f"ec2:{action}"
    if denied and denied.group(2):
        permission += f" on {denied.group(2).rstrip('.')}"
    words = {"action": action, "permission": permission}
    what = f"{action} {subject}".strip()
    text = plain(message).rstrip(".")
    if action == "CreateVolume" and not denied and _ENCODED.search(message):
        text += f" (EC2 has encoded its reason; {_DECODED})"
    trouble = Trouble(
        kind=line.kind,
        found=f"EC2 answered {what} with {code}" + (f": {text}." if text else "."),
        expected=line.expected.format(**words),
        remedy=line.remedy.format(**words),
        waits=line.reaction in (Reaction.RETRY, Reaction.DESCRIBE),
    )
    return Ec2Error(trouble, line.reaction, code)


def fatal(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    """Somebody has to do something before EC2 can be asked."""
    return Ec2Error(Trouble(kind, found, expected, remedy), Reaction.FATAL)


def waiting(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    """EC2 cannot be asked now; time may cure it."""
    trouble = Trouble(kind, found, expected, remedy, waits=True)
    return Ec2Error(trouble, Reaction.RETRY)
