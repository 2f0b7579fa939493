"""EC2's error codes, and what is done about each: a pure table.

Sources: the EC2 API reference, "Error codes for the Amazon EC2 API"; the
texts that have to be matched are those of public reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    """One line of the table.

    ``expected`` and ``remedy`` may hold ``{action}`` (DescribeVolumes) and
    ``{permission}`` (ec2:DescribeVolumes).
    """

    reaction: Reaction
    kind: str
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
    "The account must stay within its rate of requests.",
    "cc_kraken asks again. If this stays, look for what else calls {action} in "
    "this account and region, or ask AWS for a higher rate.",
)
_UNAVAILABLE = Rule(
    Reaction.RETRY,
    "ec2-unavailable",
    "EC2 must do what it is asked for.",
    "cc_kraken asks again. If this stays, look at the AWS Health Dashboard.",
)
_CREDENTIALS = Rule(
    Reaction.RETRY,
    "credentials-refused",
    "The credentials must be valid, and the clock right.",
    "cc_kraken fetches new ones. If this stays, check the role of the instance "
    "profile, and the clock of this machine (timedatectl).",
)
# A change of policy or profile takes effect seconds to minutes later.
_PERMISSION = Rule(
    Reaction.RETRY,
    "permission-missing",
    "The role must have the permission {permission}.",
    "Allow {permission} in the role of this instance's profile. A change takes "
    "effect after a while: cc_kraken asks again.",
)
_ACCOUNT = Rule(
    Reaction.FATAL,
    "account-refused",
    "The account must be allowed to use EC2 in this region.",
    "Ask the owner of the AWS account.",
)
_REQUEST = Rule(
    Reaction.FATAL,
    "ec2-request",
    "EC2 must accept the request.",
    "Check the instance, the volume and kraken.ec2 in the configuration.",
)
_UNSUPPORTED = Rule(
    Reaction.FATAL,
    "ec2-unsupported",
    "EC2 must offer {action} for this volume and this instance.",
    "Choose another volume type or instance type, or release what AWS manages itself.",
)
_CREATION = Rule(
    Reaction.FATAL,
    "account-limit",
    "The account must have room within its limits.",
    "Remove what is not needed, or ask AWS for a higher limit.",
)
_NAME_TAKEN = Rule(
    Reaction.NEXT_NAME,
    "device-name-taken",
    "The device name must be free.",
    "Nothing to do: the next name is tried.",
)
_NAME_INVALID = Rule(
    Reaction.NEXT_NAME,
    "device-name-invalid",
    "EC2 must accept the device name.",
    "Nothing to do: the next name is tried.",
)
_STATE = Rule(
    Reaction.RETRY,
    "incorrect-state",
    "The instance must be running, and the volume available.",
    "cc_kraken asks again. If this stays, look at the state of both in EC2.",
)

_MODIFYING = Rule(
    Reaction.RETRY,
    "volume-modifying",
    "The modification of the volume must be over.",
    "Nothing to do: EC2 attaches the volume when its modification has left the state "
    "modifying. To see that state: aws ec2 describe-volumes-modifications.",
)

_KEY = Rule(
    Reaction.FATAL,
    "kms-permission-missing",
    "The role must have the right to use the KMS key of the encrypted volume.",
    f"Check that the key is enabled. Allow {KMS_PERMISSIONS} on it, in the role of "
    "this instance's profile and in the key's policy.",
)
_NO_INSTANCE = Rule(
    Reaction.RETRY,
    "instance-not-found",
    "EC2 must know the instance in this region.",
    "A new instance can take a moment. If this stays, check kraken.ec2.region "
    "and kraken.ec2.endpoint_url.",
)
_NO_VOLUME = Rule(
    Reaction.RETRY,
    "volume-not-found",
    "EC2 must know the volume in this region.",
    "A new volume can take a moment. If this stays, see who has deleted it "
    "(CloudTrail: DeleteVolume).",
)
_IN_USE = Rule(
    Reaction.DESCRIBE,
    "volume-in-use",
    "The volume must be available.",
    "See in EC2 what it is attached to, and detach it there.",
)
_ZONE = Rule(
    Reaction.FATAL,
    "zone-mismatch",
    "The volume and the instance must be in one availability zone.",
    "Start the instance in the volume's zone, or make a copy of the volume "
    "in the instance's zone.",
)
_MARKETPLACE = Rule(
    Reaction.FATAL,
    "marketplace-code",
    "The volume must have no AWS Marketplace product code.",
    "A volume with such a code can only be attached to a stopped instance. "
    "Copy its data to a volume without one.",
)
_LIMIT = Rule(
    Reaction.FATAL,
    "attachment-limit",
    "The instance must have fewer volumes than its type allows.",
    "Detach volumes (or network interfaces, where the limit is shared), or "
    "use an instance type with a higher limit.",
)

# CreateVolume.
_BURNED = Rule(
    Reaction.DESCRIBE,
    "create-token-burned",
    "EC2 must not have used the token before.",
    "Nothing to do: the next one is tried.",
)
_FULL = Rule(
    Reaction.FATAL,
    "create-limit",
    "The account must have room for another volume within its limits.",
    "Delete volumes that nobody needs, or ask AWS for a higher limit (Service Quotas: "
    "Amazon EBS). Then: cc-kraken apply.",
)
_CAPACITY = Rule(
    Reaction.RETRY,
    "create-capacity",
    "EC2 must have room for the volume in this zone.",
    "EC2 is asked again. If this stays, choose another type in create, or another "
    "zone.",
)
_NOT_CREATED = Rule(
    Reaction.FATAL,
    "create-refused",
    "EC2 must offer such a volume in this zone.",
    "Correct create of this set in the section. Then: cc-kraken apply.",
)
_SNAPSHOT = Rule(
    Reaction.RETRY,
    "create-snapshot",
    "The snapshot must be complete, and in this region.",
    "EC2 is asked again. If this stays, correct create.snapshot of this set, and see "
    "that the snapshot is shared with this account.",
)

_CODES: tuple[tuple[Rule, str], ...] = (
    (
        _THROTTLED,
        "RequestLimitExceeded EC2ThrottledException Throttling ThrottlingException "
        "ThrottledException RequestThrottled RequestThrottledException "
        "TooManyRequestsException BandwidthLimitExceeded SlowDown",
    ),
    (
        _UNAVAILABLE,
        "Unavailable ServiceUnavailable InternalError InternalFailure "
        "InternalServerError RequestTimeout RequestTimeoutException",
    ),
    (
        _CREDENTIALS,
        "AuthFailure ExpiredToken ExpiredTokenException RequestExpired "
        "InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch "
        "InvalidSignatureException",
    ),
    (_NO_INSTANCE, "InvalidInstanceID.NotFound"),
    (_NO_VOLUME, "InvalidVolume.NotFound"),
    (_STATE, "IncorrectState InvalidInstanceID.NotReady"),
    (_IN_USE, "VolumeInUse"),
    (_NAME_TAKEN, "InvalidDevice.InUse"),
    (
        _REQUEST,
        "InvalidParameterValue InvalidParameter InvalidParameterCombination "
        "MissingParameter InvalidInstanceID.Malformed InvalidVolumeID.Malformed "
        "IdempotentParameterMismatch",
    ),
    (_ZONE, "InvalidVolume.ZoneMismatch"),
    (_MARKETPLACE, "IncorrectInstanceState"),
    (_LIMIT, "AttachmentLimitExceeded"),
    (_KEY, "CustomerKeyHasBeenRevoked"),
    (_PERMISSION, "UnauthorizedOperation AccessDenied AccessDeniedException"),
    (_ACCOUNT, "OptInRequired PendingVerification Blocked"),
    (
        _UNSUPPORTED,
        "UnsupportedOperation UnsupportedOperationException Unsupported",
    ),
    (Rule(Reaction.DONE, "dry-run"), "DryRunOperation"),
    (Rule(Reaction.DONE, "not-attached"), "InvalidAttachment.NotFound"),
    (_CREATION, "TagLimitExceeded VolumeLimitExceeded"),
)

#: Codes without ``Client.`` or ``Server.`` in front.
TABLE: dict[str, Rule] = {
    code: line for line, codes in _CODES for code in codes.split()
}

# One code for many causes: here the text decides.  By action and code.
_TEXTS: dict[tuple[str, str], tuple[tuple[str, Rule], ...]] = {
    ("AttachVolume", "InvalidParameterValue"): (
        ("already in use", _NAME_TAKEN),
        ("not a valid ebs device name", _NAME_INVALID),
        ("invalid device name", _NAME_INVALID),
        ("is not a valid device", _NAME_INVALID),
    ),
    ("AttachVolume", "OperationNotPermitted"): (("modification state", _MODIFYING),),
}

# Codes of one action that mean something else, or nothing, for the others.
_OF_ACTION: dict[str, dict[str, Rule]] = {
    "CreateVolume": {
        code: line
        for line, codes in (
            (_BURNED, "IdempotentParameterMismatch"),
            (_FULL, "VolumeLimitExceeded MaxIOPSLimitExceeded"),
            (_CAPACITY, "InsufficientVolumeCapacity"),
            (_SNAPSHOT, "InvalidSnapshot.NotFound IncorrectState"),
            (_KEY, "KMSKeyNotAccessibleFault InvalidKmsKey.InvalidState"),
        )
        for code in codes.split()
    }
}
#: What a code that no table has means, by action.
_OTHERWISE: dict[str, Rule] = {"CreateVolume": _NOT_CREATED}

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
    if action == "DetachVolume" and name == "IncorrectState":
        # It is not attached any more; the next describe tells.
        return Rule(Reaction.DONE, "not-attached")
    if name in _OF_ACTION.get(action, {}):
        return _OF_ACTION[action][name]
    otherwise = _OTHERWISE.get(action, _REQUEST)
    if name in TABLE:
        line = TABLE[name]
        return line if line is not _REQUEST else otherwise
    if status == 429:
        return _THROTTLED
    return _UNAVAILABLE if status >= 500 else otherwise


def plain(message: str) -> str:
    """EC2's text on one line, without the encoded part, and not too long."""
    text = _UNPRINTABLE.sub(" ", _ENCODED.sub("", message)).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def trouble(
    action: str, code: str, message: str, status: int = 400, subject: str = ""
) -> Trouble:
    """The same as a Trouble; ``subject`` is what was asked for (``of vol-1``).

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
    return Trouble(
        kind=line.kind,
        found=f"EC2 answered {what} with {code}" + (f": {text}." if text else "."),
        expected=line.expected.format(**words),
        remedy=line.remedy.format(**words),
        waits=line.reaction in (Reaction.RETRY, Reaction.DESCRIBE),
    )


def refused(
    action: str, code: str, message: str, status: int = 400, subject: str = ""
) -> Ec2Error:
    """An answer of EC2 that is an error."""
    found = trouble(action, code, message, status, subject)
    return Ec2Error(found, rule(action, code, message, status).reaction, code)


def fatal(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    """Somebody has to do something before EC2 can be asked."""
    return Ec2Error(Trouble(kind, found, expected, remedy), Reaction.FATAL)


def waiting(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    """EC2 cannot be asked now; time may cure it."""
    trouble = Trouble(kind, found, expected, remedy, waits=True)
    return Ec2Error(trouble, Reaction.RETRY)
