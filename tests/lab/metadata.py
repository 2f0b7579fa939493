"""The instance metadata service, version 2, for one instance.

    facts = Facts(instance_id="i-…", user_data=b"#cloud-config\\n…")
    with Metadata(facts) as metadata:
        … http://127.0.0.1:PORT/latest/meta-data/instance-id …

What cloud-init's Ec2 datasource crawls and what boto3 asks for credentials is
there (cloudinit/sources/helpers/ec2.py; "Instance metadata categories" in the
EC2 user guide); little else is, so that a boot asks few questions.  A virtual
machine reaches it through QEMU's ``guestfwd=tcp:169.254.169.254:80-cmd:nc
127.0.0.1 PORT``.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Optional, Union
from urllib.parse import unquote

from tests.lab import loopback
from tests.lab.loopback import Request, Response

TOKEN_PATH = "/latest/api/token"
TOKEN_HEADER = "x-aws-ec2-metadata-token"
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
LONGEST_TTL = 21600

# Tags came with 2021-03-23; older cloud-init asks for the older ones.
VERSIONS = ("2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
VERSIONS_WITH_TAGS = ("2021-03-23", "latest")
# So did what a group wants of its instance, with 2021-07-15.
VERSIONS_WITH_GROUPS = ("latest",)

# Keys that EC2 lets into the metadata ("Using_Tags", instance tags).
TAG_KEY = re.compile(r"[A-Za-z0-9+\-=._:@,]{1,255}")

Tags = Mapping[str, str]
Tree = dict[str, Any]  # a mapping is a directory, a string or bytes a leaf


def check_tag_keys(tags: Tags) -> None:
    """ValueError for a key with which EC2 refuses tags in metadata."""
    bad = [key for key in tags if not TAG_KEY.fullmatch(key)]
    if bad:
        raise ValueError(f"EC2 refuses these tag keys in metadata: {bad}")


@dataclass(frozen=True)
class Facts:
    """What the service says.  ``tags`` None: tags in metadata are off; a
    function is asked anew at every request, as one for ``credentials``, ``role`` or
    ``lifecycle`` is.  ``role`` "": no profile; ``user_data`` None: none (404).
    ``lifecycle`` is what a group wants of the instance (``Warmed:Stopped``); "": it is
    of no group."""

    instance_id: str
    region: str = "us-east-1"
    zone: str = "us-east-1a"
    instance_type: str = "m5.large"
    ami_id: str = "ami-0123456789abcdef0"
    hostname: str = "ip-10-0-0-4.ec2.internal"
    local_ipv4: str = "10.0.0.4"
    mac: str = "52:54:00:12:34:56"
    account_id: str = "123456789012"
    tags: Union[Tags, Callable[[], Tags], None] = None
    user_data: Optional[bytes] = None
    role: Union[str, Callable[[], str]] = "kraken-node"
    credentials: Union[Mapping[str, str], Callable[[], Mapping[str, str]]] = field(
        default_factory=lambda: {
            "AccessKeyId": "AKIALAB",
            "SecretAccessKey": "secret",
            "Token": "session",
        }
    )
    lifecycle: Union[str, Callable[[], str]] = ""
    public_keys: Mapping[str, str] = field(default_factory=dict)
    security_groups: Sequence[str] = ("default",)
    block_devices: Mapping[str, str] = field(
        default_factory=lambda: {"ami": "/dev/xvda", "root": "/dev/xvda"}
    )

    @classmethod
    def of(cls, lab: Any, instance_id: str, **others: Any) -> Facts:
        """The facts of an instance of an Ec2Lab, with working credentials
        and live tags; ``others`` are fields that win over these."""
        instance = lab.instance(instance_id)
        known: dict[str, Any] = {
            "instance_id": instance_id,
            "region": lab.region,
            "zone": instance.zone,
            "instance_type": instance.type,
            "ami_id": instance.image_id,
            "local_ipv4": instance.private_ip,
            "hostname": "ip-" + instance.private_ip.replace(".", "-") + ".ec2.internal",
            "credentials": lambda: lab.credentials(instance_id),
            "role": lambda: lab.role(instance_id),
            "tags": lambda: lab.instance(instance_id).tags,
            "user_data": instance.user_data or None,
        }
        return cls(**{**known, **others})

    def __post_init__(self) -> None:
        if self.tags is not None and not callable(self.tags):
            check_tag_keys(self.tags)

    def current_credentials(self) -> Mapping[str, str]:
        return self.credentials() if callable(self.credentials) else self.credentials

    def current_role(self) -> str:
        return self.role() if callable(self.role) else self.role

    def current_lifecycle(self) -> str:
        return self.lifecycle() if callable(self.lifecycle) else self.lifecycle

    def current_tags(self) -> Optional[Tags]:
        return self.tags() if callable(self.tags) else self.tags


@dataclass(frozen=True)
class Asked:
    """One request as it was answered; ``status`` 0: it was not."""

    time: float
    method: str
    path: str
    status: int


class Metadata:
    """The service, on a port of 127.0.0.1, or of ::1: IPv6 alone.

    ``tokens_required`` False: version 1 as well (an instance with HttpTokens
    "optional").  ``facts`` may be replaced at any time.  ``delay`` (seconds) makes each
    answer late.  ``hop_limit`` is the TTL of its packets: with 1 (EC2's default)
    they reach the instance itself and nothing behind it.  ``requests`` is the log.
    """

    def __init__(
        self,
        facts: Facts,
        port: int = 0,
        hop_limit: int = 1,
        tokens_required: bool = True,
        address: str = loopback.ADDRESS,
    ) -> None:
        self.facts = facts
        self.tokens_required = tokens_required
        self.delay = 0.0
        self._log: list[Asked] = []
        self._tokens: dict[str, float] = {}
        self._refusals = 0
        self._timers: list[threading.Timer] = []
        self._lock = threading.Lock()
        # The real one closes after each answer, and a forwarder that is one
        # process a connection should end.
        self._server = loopback.Server(
            self._serve, port, keep_alive=False, hop_limit=hop_limit, address=address
        )

    def start(self) -> Metadata:
        self._server.start()
        return self

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._server.stop()

    def __enter__(self) -> Metadata:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def requests(self) -> list[Asked]:
        with self._lock:
            return list(self._log)

    def counts(self) -> Counter[str]:
        """How many requests by path."""
        return Counter(one.path for one in self.requests)

    # --------------------------------------------------- changes and faults

    def change(self, **fields: Any) -> None:
        """Other facts from now on: ``change(tags={…})``."""
        self.facts = replace(self.facts, **fields)

    def set_tags(self, tags: Union[Tags, Callable[[], Tags], None]) -> None:
        self.change(tags=tags)

    def away(self, how: str = "drop", seconds: Optional[float] = None) -> None:
        """Gone until ``back``: drop, hang or refuse (loopback.Server).

        ``seconds``: it comes back by itself.
        """
        self._server.away(how)
        if seconds is not None:
            timer = threading.Timer(seconds, self.back)
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def back(self) -> None:
        self._server.back()

    def refuse_tokens(self, requests: int = 1) -> None:
        """Every token is void, and the next requests with a token, new or
        not, are answered 401."""
        with self._lock:
            self._tokens.clear()
            self._refusals = requests

    # ------------------------------------------------------------- requests

    def _serve(self, request: Request) -> Response:
        response = self._respond(request)
        with self._lock:
            self._log.append(
                Asked(time.time(), request.method, request.path, response.status)
            )
        return replace(
            response,
            delay=self.delay,
            headers={"Server": "EC2ws", **response.headers},
        )

    def _respond(self, request: Request) -> Response:
        if request.path == TOKEN_PATH:
            return self._new_token(request)
        if request.method not in ("GET", "HEAD"):
            return _refusal(405, "Method Not Allowed")
        if not self._valid(request.headers.get(TOKEN_HEADER)):
            return _refusal(401, "Unauthorized")
        content = self._find(unquote(request.path))
        if content is None:
            return _refusal(404, "Not Found")
        return Response(200, content, {"Content-Type": "text/plain"})

    def _new_token(self, request: Request) -> Response:
        if request.method != "PUT":
            return _refusal(405, "Method Not Allowed")
        if "x-forwarded-for" in request.headers:
            return _refusal(403, "Forbidden")
        wanted = request.headers.get(TTL_HEADER, "")
        if not wanted.isdigit() or not 1 <= int(wanted) <= LONGEST_TTL:
            return _refusal(400, "Bad Request")
        token = secrets.token_urlsafe(40) + "=="
        with self._lock:
            self._tokens[token] = time.monotonic() + int(wanted)
        return Response(
            200, token.encode(), {"Content-Type": "text/plain", TTL_HEADER: wanted}
        )

    def _valid(self, token: Optional[str]) -> bool:
        if token is None:
            return not self.tokens_required
        with self._lock:
            if self._refusals > 0:
                self._refusals -= 1
                return False
            return time.monotonic() < self._tokens.get(token, 0.0)

    def _find(self, path: str) -> Optional[bytes]:
        """The leaf or the listing at ``path``, None where there is none.

        A directory is found with and without a slash at its end, a leaf only
        without.
        """
        version, _, rest = path.lstrip("/").partition("/")
        if not version:
            return "\n".join(VERSIONS).encode()
        if version not in VERSIONS:
            return None
        node: Any = tree(
            self.facts, version in VERSIONS_WITH_TAGS, version in VERSIONS_WITH_GROUPS
        )
        parts = rest.split("/")
        slash = parts[-1] == ""
        for part in parts[:-1] if slash else parts:
            if not isinstance(node, Mapping) or part not in node:
                return None
            node = node[part]
        if isinstance(node, Mapping):
            return _listing(node)
        if slash:
            return None
        return node if isinstance(node, bytes) else str(node).encode()


class Listed(dict[str, Any]):
    """A directory whose listing differs from its names (public-keys)."""

    def __init__(self, names: Sequence[str], *args: Any) -> None:
        super().__init__(*args)
        self.names = names


def _listing(node: Mapping[str, Any]) -> bytes:
    if isinstance(node, Listed):
        return "\n".join(node.names).encode()
    names = (
        f"{name}/" if isinstance(child, Mapping) else name
        for name, child in node.items()
    )
    return "\n".join(names).encode()


def _refusal(status: int, text: str) -> Response:
    page = (
        '<?xml version="1.0" encoding="iso-8859-1"?>\n'
        f"<html><head><title>{status} - {text}</title></head>"
        f"<body><h1>{status} - {text}</h1></body></html>\n"
    )
    return Response(status, page.encode(), {"Content-Type": "text/html"})


# --------------------------------------------------------------------- tree


def tree(facts: Facts, with_tags: bool = True, with_groups: bool = True) -> Tree:
    """Everything below a version."""
    root: Tree = {
        "dynamic": {"instance-identity": {"document": _document(facts)}},
        "meta-data": _meta_data(facts, with_tags, with_groups),
    }
    if facts.user_data is not None:
        root["user-data"] = facts.user_data
    return root


def _meta_data(facts: Facts, with_tags: bool, with_groups: bool) -> Tree:
    groups = "\n".join(facts.security_groups)
    data: Tree = {
        "ami-id": facts.ami_id,
        "ami-launch-index": "0",
        "block-device-mapping": dict(facts.block_devices),
        "hostname": facts.hostname,
        "instance-id": facts.instance_id,
        "instance-life-cycle": "on-demand",
        "instance-type": facts.instance_type,
        "local-hostname": facts.hostname,
        "local-ipv4": facts.local_ipv4,
        "mac": facts.mac,
        "network": {"interfaces": {"macs": {facts.mac: _interface(facts)}}},
        "placement": {"availability-zone": facts.zone, "region": facts.region},
        "reservation-id": "r-0123456789abcdef0",
        "security-groups": groups,
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }
    lifecycle = facts.current_lifecycle() if with_groups else ""
    if lifecycle:
        data["autoscaling"] = {"target-lifecycle-state": lifecycle}
    role = facts.current_role()
    if role:
        data["iam"] = _iam(facts, role)
    if facts.public_keys:
        data["public-keys"] = _public_keys(facts.public_keys)
    tags = facts.current_tags() if with_tags else None
    if tags:
        check_tag_keys(tags)
        data["tags"] = {"instance": dict(tags)}
    return data


def _interface(facts: Facts) -> Tree:
    """Enough for cloud-init: with a vpc-id it is no EC2-Classic."""
    return {
        "device-number": "0",
        "interface-id": "eni-0123456789abcdef0",
        "local-hostname": facts.hostname,
        "local-ipv4s": facts.local_ipv4,
        "mac": facts.mac,
        "owner-id": facts.account_id,
        "subnet-id": "subnet-0123456789abcdef0",
        "subnet-ipv4-cidr-block": "10.0.0.0/16",
        "vpc-id": "vpc-0123456789abcdef0",
    }


def _public_keys(keys: Mapping[str, str]) -> Listed:
    """Listed as ``0=name``, found as ``0/openssh-key``."""
    return Listed(
        [f"{number}={name}" for number, name in enumerate(keys)],
        {str(number): {"openssh-key": key} for number, key in enumerate(keys.values())},
    )


def _iam(facts: Facts, role: str) -> Tree:
    now = datetime.now(timezone.utc)
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    profile = f"arn:aws:iam::{facts.account_id}:instance-profile/{role}"
    info = {
        "Code": "Success",
        "LastUpdated": now.strftime(stamp),
        "InstanceProfileArn": profile,
        "InstanceProfileId": "AIPA0123456789ABCDEF0",
    }
    keys = {
        "Code": "Success",
        "LastUpdated": now.strftime(stamp),
        "Type": "AWS-HMAC",
        # A value of its own wins: a test may hand out expired credentials.
        "Expiration": (now + timedelta(hours=6)).strftime(stamp),
        **facts.current_credentials(),
    }
    return {
        "info": json.dumps(info, indent=2),
        "security-credentials": {role: json.dumps(keys, indent=2)},
    }


def _document(facts: Facts) -> str:
    return json.dumps(
        {
            "accountId": facts.account_id,
            "architecture": "x86_64",
            "availabilityZone": facts.zone,
            "imageId": facts.ami_id,
            "instanceId": facts.instance_id,
            "instanceType": facts.instance_type,
            "pendingTime": "2024-01-01T00:00:00Z",
            "privateIp": facts.local_ipv4,
            "region": facts.region,
            "version": "2017-09-30",
        },
        indent=2,
    )
