"""EC2's error codes, and what is done about each: a pure table.

Sources: the EC2 API reference, "Error codes for the Amazon EC2 API"; the
texts that have to be matched are those of public reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Dict, Tuple

from cc_kraken.model import Trouble

#: Longest piece of EC2's own text that is passed on, in characters.
LONGEST = 300


class Reaction(Enum):
    """What the caller does after an error of EC2."""

    #: Time may cure it: asked again, with back-off, up to the deadline.
    RETRY = "retry"
    #: The answer proves nothing: the truth is a fresh DescribeVolumes.
    DESCRIBE = "describe"
    #: The device name is taken: the next one.
    NAME_TAKEN = "name-taken"
    #: EC2 does not accept this device name: the next one.
    NAME_INVALID = "name-invalid"
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


KMS_PERMISSIONS = (
    "kms:CreateGrant (with the condition kms:GrantIsForAWSResource), "
    "kms:Decrypt, kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext "
    "and kms:ReEncrypt*"
)

_THROTTLED = Rule(
    Reaction.RETRY,
    "ec2-throttled",
    "an answer within the request rate of the account",
    "It is asked again; if this stays, look for what else calls {action} in "
    "this account and region, or ask AWS for a higher rate.",
)
_UNAVAILABLE = Rule(
    Reaction.RETRY,
    "ec2-unavailable",
    "an answer",
    "It is asked again; if this stays, look at the AWS Health Dashboard.",
)
_CREDENTIALS = Rule(
    Reaction.RETRY,
    "credentials-refused",
    "valid credentials and a right clock",
    "They are fetched again; if this stays, check the role of the instance "
    "profile and the clock of this machine.",
)
# A change of policy or profile takes effect seconds to minutes later.
_PERMISSION = Rule(
    Reaction.RETRY,
    "permission-missing",
    "the permission {permission}",
    "Allow {permission} in the role of this instance's profile; a change takes "
    "effect after a while, so it is asked again.",
)
_ACCOUNT = Rule(
    Reaction.FATAL,
    "account-refused",
    "an account that may use EC2 in this region",
    "Ask the owner of the AWS account.",
)
_REQUEST = Rule(
    Reaction.FATAL,
    "ec2-request",
    "a request that EC2 accepts",
    "Check the instance, the volume and kraken.ec2 in the configuration.",
)
_UNSUPPORTED = Rule(
    Reaction.FATAL,
    "ec2-unsupported",
    "a volume and an instance for which EC2 offers {action}",
    "Choose another volume type or instance type, or release what AWS manages itself.",
)
_CREATION = Rule(
    Reaction.FATAL,
    "account-limit",
    "room within the limits of the account",
    "Remove what is not needed, or ask AWS for a higher limit.",
)
_NAME_TAKEN = Rule(
    Reaction.NAME_TAKEN,
    "device-name-taken",
    "a free device name",
    "The next name is tried.",
)
_NAME_INVALID = Rule(
    Reaction.NAME_INVALID,
    "device-name-invalid",
    "a device name that EC2 accepts",
    "The next name is tried.",
)
_STATE = Rule(
    Reaction.RETRY,
    "incorrect-state",
    "a running instance and an available volume",
    "It is asked again; if this stays, look at the state of both in EC2.",
)

_MODIFYING = Rule(
    Reaction.RETRY,
    "volume-modifying",
    "a volume whose modification is over",
    "Nothing: EC2 attaches it when the modification has left the state modifying; "
    "see describe-volumes-modifications.",
)

#: Codes without ``Client.`` or ``Server.`` in front.
TABLE: Dict[str, Rule] = {
    "RequestLimitExceeded": _THROTTLED,
    "EC2ThrottledException": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "ThrottledException": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "RequestThrottledException": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "BandwidthLimitExceeded": _THROTTLED,
    "SlowDown": _THROTTLED,
    "Unavailable": _UNAVAILABLE,
    "ServiceUnavailable": _UNAVAILABLE,
    "InternalError": _UNAVAILABLE,
    "InternalFailure": _UNAVAILABLE,
    "InternalServerError": _UNAVAILABLE,
    "RequestTimeout": _UNAVAILABLE,
    "RequestTimeoutException": _UNAVAILABLE,
    "AuthFailure": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "RequestExpired": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "InvalidInstanceID.NotFound": Rule(
        Reaction.RETRY,
        "instance-not-found",
        "an instance that EC2 knows in this region",
        "A new instance can take a moment; if this stays, check kraken.ec2.region "
        "and kraken.ec2.endpoint_url.",
    ),
    "InvalidVolume.NotFound": Rule(
        Reaction.RETRY,
        "volume-not-found",
        "a volume that EC2 knows in this region",
        "A new volume can take a moment; if this stays, the volume was deleted.",
    ),
    "IncorrectState": _STATE,
    "InvalidInstanceID.NotReady": _STATE,
    "VolumeInUse": Rule(
        Reaction.DESCRIBE,
        "volume-in-use",
        "an available volume",
        "Detach it from the instance that holds it.",
    ),
    "InvalidDevice.InUse": _NAME_TAKEN,
    "InvalidParameterValue": _REQUEST,
    "InvalidParameter": _REQUEST,
    "InvalidParameterCombination": _REQUEST,
    "MissingParameter": _REQUEST,
    "InvalidInstanceID.Malformed": _REQUEST,
    "InvalidVolumeID.Malformed": _REQUEST,
    "InvalidVolume.ZoneMismatch": Rule(
        Reaction.FATAL,
        "zone-mismatch",
        "the volume and the instance in one availability zone",
        "Start the instance in the volume's zone, or make a copy of the volume "
        "in the instance's zone.",
    ),
    "IncorrectInstanceState": Rule(
        Reaction.FATAL,
        "marketplace-code",
        "a volume without an AWS Marketplace product code",
        "A volume with such a code can only be attached to a stopped instance: "
        "copy its data to a volume without one.",
    ),
    "AttachmentLimitExceeded": Rule(
        Reaction.FATAL,
        "attachment-limit",
        "fewer volumes than the limit of the instance type",
        "Detach volumes (or network interfaces, where the limit is shared), or "
        "use an instance type with a higher limit.",
    ),
    "CustomerKeyHasBeenRevoked": Rule(
        Reaction.FATAL,
        "kms-permission-missing",
        "the right to use the KMS key of the encrypted volume",
        f"Allow {KMS_PERMISSIONS} on that key in the role of this instance's "
        "profile and in the key's policy, and check that the key is enabled.",
    ),
    "UnauthorizedOperation": _PERMISSION,
    "AccessDenied": _PERMISSION,
    "AccessDeniedException": _PERMISSION,
    "OptInRequired": _ACCOUNT,
    "PendingVerification": _ACCOUNT,
    "Blocked": _ACCOUNT,
    "UnsupportedOperation": _UNSUPPORTED,
    "UnsupportedOperationException": _UNSUPPORTED,
    "Unsupported": _UNSUPPORTED,
    "DryRunOperation": Rule(Reaction.DONE, "dry-run"),
    "InvalidAttachment.NotFound": Rule(Reaction.DONE, "not-attached"),
    "TagLimitExceeded": _CREATION,
    "VolumeLimitExceeded": _CREATION,
    "IdempotentParameterMismatch": _REQUEST,
}

# One code for many causes: here the text decides.  By action and code.
_TEXTS: Dict[Tuple[str, str], Tuple[Tuple[str, Rule], ...]] = {
    ("AttachVolume", "InvalidParameterValue"): (
        ("already in use", _NAME_TAKEN),
        ("not a valid ebs device name", _NAME_INVALID),
        ("invalid device name", _NAME_INVALID),
        ("is not a valid device", _NAME_INVALID),
    ),
    ("AttachVolume", "OperationNotPermitted"): (("modification state", _MODIFYING),),
}

_ENCODED = re.compile(r"\s*Encoded authorization failure message:?\s*\S*")
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
    if name in TABLE:
        return TABLE[name]
    if status == 429:
        return _THROTTLED
    return _UNAVAILABLE if status >= 500 else _REQUEST


def plain(message: str) -> str:
    """EC2's text on one line, without the encoded part, and not too long."""
    text = _UNPRINTABLE.sub(" ", _ENCODED.sub("", message)).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def trouble(
    action: str, code: str, message: str, status: int = 400, subject: str = ""
) -> Trouble:
    """The same as a Trouble; ``subject`` is what was asked for (``of vol-1``).

    Reactions that the caller handles without an error (a name that is taken,
    a volume in use) are worded too, for the time when nothing else is left.
    """
    line = rule(action, code, message, status)
    words = {"action": action, "permission": f"ec2:{action}"}
    what = f"{action} {subject}".strip()
    text = plain(message).rstrip(".")
    return Trouble(
        kind=line.kind,
        found=f"EC2 answered {what} with {code}" + (f": {text}" if text else ""),
        expected=line.expected.format(**words),
        remedy=line.remedy.format(**words),
        waits=line.reaction in (Reaction.RETRY, Reaction.DESCRIBE),
    )
