"""EC2 on loopback: strict, slow where EC2 is slow, and with EC2's own words.

The actions that a boot depends on are answered here (tests.lab.actions, over
the state in tests.lab.world).  Each checks what EC2 checks and refuses with
EC2's code and text.  Everything else goes to moto (imported when first
needed), which knows nothing of the volumes and instances here.

    with Ec2Lab(attach_seconds=2) as lab:
        volume = lab.create_volume(8, "us-east-1a", {"Name": "log"})
        instance = lab.run_instance("m5.large", "us-east-1a")
        lab.client().attach_volume(
            VolumeId=volume, InstanceId=instance, Device="/dev/sdf"
        )

``python3 -m tests.lab.ec2 --volumes 3 --instances 1`` runs it on its own.
Time comes from a clock (tests.lab.clock), so a test may move it by hand.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import secrets
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import parse_qsl, unquote, urlencode

from tests.lab import loopback, query
from tests.lab.actions import ACCOUNT, ACTIONS, Actions
from tests.lab.clock import ManualClock, RealClock
from tests.lab.query import Ec2Error, boolean
from tests.lab.world import ROLE

CONTROL = "/lab/"
CONTROLLED = (
    "calls advance create_volume create_snapshot delete_volume resize_volume "
    "run_instance stop_instance start_instance terminate_instance forget_instance "
    "attach_volume detach_volume device_of tag tag_later untag hide_device "
    "hold_attaching take_back_attaching hold_busy let_go refuse_key permit_key "
    "refuse_creation permit_creation limit_storage lift_storage "
    "set_delete_on_termination "
    "credentials expire_credentials renew_credentials lag limit forbid allow fail "
    "throttle unavailable delay heal"
).split()
"""What can be called over HTTP while the lab runs on its own."""


@dataclass(frozen=True)
class Call:
    """One call of the API, as it was answered.

    ``code`` is the error code, "" for success; ``status`` 0 when the answer
    was never sent.  ``instance_id``: whose credentials signed it, if known.
    """

    time: float
    action: str
    access_key: str
    instance_id: str
    parameters: Mapping[str, str]
    status: int
    code: str = ""

    @property
    def writes(self) -> bool:
        return not self.action.startswith(("Describe", "Get", "List"))


class CallLog:
    """Every call, in order; safe to read and write from any thread."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)

    def __iter__(self) -> Iterator[Call]:
        with self._lock:
            return iter(list(self._calls))

    def __len__(self) -> int:
        with self._lock:
            return len(self._calls)

    def mark(self) -> int:
        """A place in the log, for ``since``."""
        return len(self)

    def since(self, mark: int) -> list[Call]:
        return list(self)[mark:]

    def counts(self, since: int = 0, instance_id: str = "") -> Counter[str]:
        """How many calls by action, of one instance or of all."""
        return Counter(
            call.action
            for call in self.since(since)
            if not instance_id or call.instance_id == instance_id
        )

    def count(self, action: str, since: int = 0, instance_id: str = "") -> int:
        return self.counts(since, instance_id)[action]

    def writes(self, since: int = 0) -> list[Call]:
        """The calls that change something, refused ones too."""
        return [call for call in self.since(since) if call.writes]


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    code: str = ""
    content_type: str = "text/xml;charset=UTF-8"


@dataclass
class _Fault:
    """What happens to the next ``left`` calls of ``action`` (None: all)."""

    action: str
    left: Optional[int]
    error: Ec2Error
    after: bool = False


# ----------------------------------------------------------------- throttle

#: Tokens and tokens a second, of one action in one account and region
#: ("Request throttling for the Amazon EC2 API", EC2 developer guide).
NON_MUTATING = (100.0, 20.0)
UNPAGINATED = (50.0, 10.0)
MUTATING = (50.0, 5.0)
#: Describe actions that have the smaller bucket when asked for everything.
HEAVY_WITHOUT_FILTER = ("DescribeVolumes", "DescribeInstances", "DescribeSnapshots")


class TokenBucket:
    """Full at first; a request that is refused costs nothing."""

    def __init__(self, capacity: float, refill: float, now: float) -> None:
        self.capacity = capacity
        self.refill = refill
        self.tokens = capacity
        self._at = now

    def take(self, now: float) -> bool:
        self.tokens = min(
            self.capacity, self.tokens + max(0.0, now - self._at) * self.refill
        )
        self._at = now
        # a hair below one is one: the sum of many refills is not exact
        if self.tokens < 1.0 - 1e-9:
            return False
        self.tokens -= 1.0
        return True


class Throttle:
    """The buckets of an account, on a clock."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[float, float]] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def limit(self, action: str, capacity: float, refill: float) -> None:
        """Another bucket for an action, full."""
        self._rates[action] = (capacity, refill)
        self._buckets.pop(action, None)

    def permits(self, action: str, parameters: Mapping[str, str], now: float) -> bool:
        name, rate = action, MUTATING
        if action.startswith(("Describe", "Get", "List")):
            rate = NON_MUTATING
            if action in HEAVY_WITHOUT_FILTER and not _narrowed(parameters):
                name, rate = f"{action} of everything", UNPAGINATED
        rate = self._rates.get(name, rate)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(*rate, now)
        return bucket.take(now)


def _permissions(action: str, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """What IAM is asked for: tags at creation need CreateTags, too."""
    tags = any(name.startswith("TagSpecification.") for name in parameters)
    return (action, "CreateTags") if tags else (action,)


def _narrowed(parameters: Mapping[str, str]) -> bool:
    """Whether a describe call asks for pages, by filter, or for ids."""
    return any(
        name == "MaxResults" or name.startswith(("Filter.", "VolumeId", "InstanceId"))
        for name in parameters
    )


# ---------------------------------------------------------------------- lab


class Ec2Lab(Actions):
    """One account in one region, on ``port`` of 127.0.0.1 (0: a free one).

    ``throttled``: with the token buckets that AWS publishes.  ``tls``: over
    HTTPS with this context.  The other
    arguments are those of Actions and World: zones, times, page size, hooks.
    ``calls`` is the log of all calls.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        throttled: bool = False,
        tls: Optional[ssl.SSLContext] = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.throttle_buckets = Throttle() if throttled else None
        self.calls = CallLog()
        self._server = loopback.Server(self._http, port, tls=tls)
        self._doors = [self._server]
        self._faults: list[_Fault] = []
        self._forbidden: dict[str, tuple[bool, bool, float]] = {}
        self._delays: dict[str, float] = {}
        self._moto_lock = threading.Lock()

    # ------------------------------------------------------ life of the lab

    def start(self) -> Ec2Lab:
        self._server.start()
        return self

    def stop(self) -> None:
        for door in self._doors:
            door.stop()
        self.clock.stop()

    def __enter__(self) -> Ec2Lab:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return self._server.url

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def host_name(self) -> str:
        """Where everybody looks for this region's EC2."""
        return f"ec2.{self.region}.amazonaws.com"

    def open_door(self, tls: ssl.SSLContext) -> int:
        """The same API over HTTPS too, until the end; the port.  Who comes in
        there is somebody on an instance: the lab's own control is not behind it.
        """
        door = loopback.Server(self._api, tls=tls)
        door.start()
        self._doors.append(door)
        return door.port

    def client(self, service: str = "ec2", **options: Any) -> Any:
        """A boto3 client of somebody outside (no instance)."""
        import boto3  # type: ignore[import-untyped, unused-ignore]

        options.setdefault("region_name", self.region)
        options.setdefault("aws_access_key_id", "AKIAOPERATOR")
        options.setdefault("aws_secret_access_key", "secret")
        return boto3.client(service, endpoint_url=self.endpoint_url, **options)

    # --------------------------------------------------------------- faults

    def forbid(
        self,
        action: str,
        *,
        bare: bool = False,
        encoded: bool = False,
        seconds: Optional[float] = None,
    ) -> None:
        """UnauthorizedOperation from now on.  ``bare``: the old text that
        names nothing; ``encoded``: with an encoded message at its end.
        ``seconds``: for so long, as when a policy was changed a moment ago."""
        until = math.inf if seconds is None else self.clock.now() + seconds
        with self._lock:
            self._forbidden[action] = (bare, encoded, until)

    def allow(self, action: str) -> None:
        with self._lock:
            self._forbidden.pop(action, None)

    def fail(
        self,
        action: str,
        code: str,
        text: str,
        *,
        status: int = 400,
        calls: Optional[int] = 1,
    ) -> None:
        """The next calls of an action ("*": any) are refused, nothing done.
        ``calls`` None: until ``heal``."""
        with self._lock:
            self._faults.append(_Fault(action, calls, Ec2Error(code, text, status)))

    def throttle(self, action: str, calls: Optional[int] = 1) -> None:
        """RequestLimitExceeded, nothing done."""
        self.fail(
            action,
            "RequestLimitExceeded",
            "Request limit exceeded.",
            status=503,
            calls=calls,
        )

    def unavailable(
        self, action: str, calls: Optional[int] = 1, *, after_success: bool = True
    ) -> None:
        """503 Unavailable; with ``after_success`` the call was carried out."""
        error = Ec2Error(
            "Unavailable",
            "The server is overloaded and can't handle the request.",
            503,
        )
        with self._lock:
            self._faults.append(_Fault(action, calls, error, after_success))

    def delay(self, seconds: float, action: str = "*") -> None:
        """Answers go out late (real seconds); the work is done at once."""
        with self._lock:
            self._delays[action] = seconds

    def limit(self, action: str, capacity: float, refill: float) -> None:
        """A token bucket for one action; ``refill`` in tokens a second of the
        clock.  The other actions have the published ones from now on."""
        with self._lock:
            if self.throttle_buckets is None:
                self.throttle_buckets = Throttle()
            self.throttle_buckets.limit(action, capacity, refill)

    def heal(self) -> None:
        """No more faults, delays, stale answers or forbidden actions; the
        token buckets stay."""
        with self._lock:
            self._faults.clear()
            self._delays.clear()
            self._forbidden.clear()
            self._stuck.clear()
            self._keyless.clear()
            self.permit_creation()
            self.storage_limits.clear()
            self._taken_back.clear()
            self._in_use.clear()
            self._lag = None

    def down(self, how: str = "drop") -> None:
        """The endpoint is away: drop, hang or refuse (loopback.Server)."""
        for door in self._doors:
            door.away(how)

    def up(self) -> None:
        for door in self._doors:
            door.back()

    # ---------------------------------------------------------------- calls

    def call(
        self, action: str, parameters: Mapping[str, str], access_key: str = ""
    ) -> Answer:
        """One call without HTTP, of an action that is answered here.

        ``parameters`` are flat, as on the wire: ``{"VolumeId.1": "vol-…"}``.
        The HTTP side comes here too.
        """
        instance_id = self._keys.get(access_key, ("", ""))[0]
        try:
            with self._lock:
                answer = self._perform(action, parameters, instance_id)
        except Ec2Error as error:
            answer = Answer(error.status, query.failure(error), error.code)
        self._log(action, parameters, access_key, answer)
        return answer

    def _log(
        self,
        action: str,
        parameters: Mapping[str, str],
        access_key: str,
        answer: Answer,
    ) -> None:
        instance_id = self._keys.get(access_key, ("", ""))[0]
        self.calls.add(
            Call(
                time=self.clock.now(),
                action=action,
                access_key=access_key,
                instance_id=instance_id,
                parameters=dict(parameters),
                status=answer.status,
                code=answer.code,
            )
        )

    def _perform(
        self, action: str, parameters: Mapping[str, str], instance_id: str
    ) -> Answer:
        """Faults, permission, DryRun, then the action itself."""
        if action not in ACTIONS:
            raise Ec2Error(
                "InvalidAction",
                f"The action {action} is not valid for this web service.",
            )
        buckets = self.throttle_buckets
        if buckets and not buckets.permits(action, parameters, self.clock.now()):
            raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
        late = self._fault(action)
        for needed in _permissions(action, parameters):
            forbidden = self._forbidden.get(needed)
            if forbidden is not None and self.clock.now() < forbidden[2]:
                raise self._unauthorized(needed, action, parameters, instance_id)
        handler, known = ACTIONS[action]
        request = query.nest(parameters)
        for name in request:
            if name not in known and name not in ("Action", "Version", "DryRun"):
                raise Ec2Error(
                    "UnknownParameter", f"The parameter {name} is not recognized"
                )
        if boolean(request.pop("DryRun", None)):
            raise Ec2Error(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
                412,
            )
        members = handler(self, request)
        if late is not None:
            raise late
        return Answer(200, query.success(action, members))

    def _fault(self, action: str) -> Optional[Ec2Error]:
        """Raises what is due now; returns what is due after the work."""
        for fault in self._faults:
            if fault.action in (action, "*") and fault.left != 0:
                if fault.left is not None:
                    fault.left -= 1
                if fault.after:
                    return fault.error
                raise fault.error
        return None

    def _unauthorized(
        self,
        needed: str,
        action: str,
        parameters: Mapping[str, str],
        instance_id: str,
    ) -> Ec2Error:
        """``needed``: the permission that ``action`` lacks."""
        bare, encoded, _ = self._forbidden[needed]
        text = "You are not authorized to perform this operation."
        if not bare:
            user = f"arn:aws:iam::{ACCOUNT}:user/operator"
            if instance_id:
                user = f"arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/{instance_id}"
            where = self._arn(action, parameters)
            resource = f" on resource: {where}" if where else ""
            text += (
                f" User: {user} is not authorized to perform: ec2:{needed}"
                f"{resource} because no identity-based policy allows the "
                f"ec2:{needed} action."
            )
        if encoded:
            message = base64.urlsafe_b64encode(secrets.token_bytes(96)).decode()
            text += f" Encoded authorization failure message: {message}"
        return Ec2Error("UnauthorizedOperation", text, 403)

    def _arn(self, action: str, parameters: Mapping[str, str]) -> str:
        """The resource that IAM names first; Describe calls have none."""
        if action == "CreateVolume":
            return f"arn:aws:ec2:{self.region}:{ACCOUNT}:volume/*"
        for name in ("VolumeId", "InstanceId", "ResourceId.1", "InstanceId.1"):
            resource = parameters.get(name, "")
            kind = {"vol": "volume", "i": "instance"}.get(resource.split("-")[0])
            if kind is not None:
                return f"arn:aws:ec2:{self.region}:{ACCOUNT}:{kind}/{resource}"
        return ""

    def profile_exists(self, name: str) -> bool:
        return self._known_to_moto(
            "iam", {"Action": "GetInstanceProfile", "InstanceProfileName": name}
        )

    def key_pair_exists(self, name: str) -> bool:
        return self._known_to_moto(
            "ec2", {"Action": "DescribeKeyPairs", "KeyName.1": name}
        )

    def _known_to_moto(self, service: str, parameters: Mapping[str, str]) -> bool:
        signed = f"AWS4-HMAC-SHA256 Credential=AKIALAB/20260101/{self.region}/{service}"
        request = loopback.Request(
            "POST",
            "/",
            "",
            {
                "authorization": f"{signed}/aws4_request, SignedHeaders=host",
                "content-type": "application/x-www-form-urlencoded; charset=utf-8",
            },
            urlencode(parameters).encode(),
        )
        return self._elsewhere(request, parameters["Action"], service).status == 200

    # -------------------------------------------------------------- control

    def _control(self, request: loopback.Request) -> loopback.Response:
        """``POST /lab/METHOD`` with a JSON object of arguments: what a test
        in this process does by calling the method."""
        name = request.path[len(CONTROL) :]
        try:
            given = json.loads(request.body or b"{}")
            if name == "calls":
                result: Any = self.calls.counts()
            elif name == "advance" and isinstance(self.clock, ManualClock):
                self.clock.advance(**given)
                result = self.clock.now()
            elif name in CONTROLLED:
                result = getattr(self, name)(**given)
            else:
                raise ValueError(f"there is no {name!r}; {', '.join(CONTROLLED)}")
            status = 200
        except (Ec2Error, TypeError, ValueError) as error:
            status, result = 400, {"error": str(error)}
        return loopback.Response(
            status,
            json.dumps(result).encode() + b"\n",
            {"Content-Type": "application/json"},
        )

    # ----------------------------------------------------------------- HTTP

    def _http(self, request: loopback.Request) -> loopback.Response:
        if request.path.startswith(CONTROL):
            return self._control(request)
        return self._api(request)

    def _api(self, request: loopback.Request) -> loopback.Response:
        text = request.query
        if request.method != "GET":
            text = request.body.decode(errors="replace")
        parameters = dict(parse_qsl(text, keep_blank_values=True))
        action = parameters.get("Action", "")
        access_key, service = _signer(request)
        token = request.headers.get("x-amz-security-token", "")
        refused = self._unauthentic(access_key, token)
        if refused is not None:
            answer = Answer(refused.status, query.failure(refused), refused.code)
            self._log(action, parameters, access_key, answer)
        elif action in ACTIONS and service == "ec2":
            answer = self.call(action, parameters, access_key)
        else:
            answer = self._elsewhere(request, action, service)
            self._log(action, parameters, access_key, answer)
        return loopback.Response(
            status=answer.status,
            body=answer.body,
            headers={"Content-Type": answer.content_type},
            delay=self._delays.get(action, self._delays.get("*", 0.0)),
        )

    def _unauthentic(self, access_key: str, token: str) -> Optional[Ec2Error]:
        """Any key will do, except that a role's key needs its token and must
        not be expired.  Signatures are not computed."""
        known = self._keys.get(access_key)
        if access_key in self._expired:
            return Ec2Error("RequestExpired", "Request has expired.")
        if known is not None and token == known[1]:
            return None
        if known is None and access_key and not access_key.startswith("ASIA"):
            return None
        return Ec2Error(
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            401,
        )

    def _elsewhere(
        self, request: loopback.Request, action: str, service: str
    ) -> Answer:
        """moto's answer, for what is not answered here."""
        try:
            with self._moto_lock:
                status, headers, body = _moto(request, service, self.region)
        except ImportError as error:
            problem = Ec2Error(
                "InvalidAction",
                f"The action {action} is not valid for this web service. "
                f"(The lab leaves it to moto: {error})",
            )
            return Answer(problem.status, query.failure(problem), problem.code)
        code = re.search(rb"<Code>([^<]*)</Code>", body)
        return Answer(
            status,
            body,
            code.group(1).decode() if code and status >= 400 else "",
            headers.get("content-type", headers.get("Content-Type", "text/xml")),
        )


def _signer(request: loopback.Request) -> tuple[str, str]:
    """Access key and service out of a SigV4 header, or of the query of a URL that
    was signed for somebody else; the signature is not checked."""
    signed = request.headers.get("authorization", "") or unquote(request.query)
    scope = re.search(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/", signed)
    if scope is not None:
        return scope.group(1), scope.group(2)
    old = dict(parse_qsl(request.query)).get("AWSAccessKeyId", "")  # S3 alone
    return old, "s3" if old else ""


def _moto(
    request: loopback.Request, service: str, region: str
) -> tuple[int, Mapping[str, str], bytes]:
    """moto's in-process answer, as if the call had gone to AWS's host."""
    from botocore.awsrequest import (  # type: ignore[import-untyped, unused-ignore]
        AWSPreparedRequest,
    )
    from botocore.compat import (  # type: ignore[import-untyped, unused-ignore]
        HTTPHeaders,
    )
    from moto.core.botocore_stubber import (  # type: ignore[import-not-found, unused-ignore]
        BotocoreStubber,
    )

    host = f"{service or 'ec2'}.{region}.amazonaws.com"
    headers = HTTPHeaders()
    for name, value in request.headers.items():
        if name != "host":
            headers[name] = value
    headers["Host"] = host
    url = f"https://{host}{request.path}"
    if request.query:
        url += f"?{request.query}"
    prepared = AWSPreparedRequest(request.method, url, headers, request.body, False)
    stub: type[Any] = BotocoreStubber
    try:
        answer = stub().process_request(prepared)
    except NotImplementedError as error:
        raise ImportError(f"not in moto either: {error}") from error
    if answer is None:
        raise ImportError(f"moto has no service {service!r}")
    status, answered, body = answer
    return status, answered, body.encode() if isinstance(body, str) else body


# -------------------------------------------------------------- on its own


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.lab.ec2", description="A strict EC2 on 127.0.0.1."
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="default: a free one")
    add("--region", default="us-east-1")
    add("--zone", default="", help="of the volumes and instances below")
    add("--volumes", type=int, default=0, help="how many to create")
    add("--size", type=int, default=1, help="their size in GiB")
    add("--tag", action="append", default=[], metavar="KEY=VALUE", help="theirs")
    add("--instances", type=int, default=0, help="how many to launch")
    add("--instance-type", default="m5.large")
    add("--attach-seconds", type=float, default=2.0)
    add("--detach-seconds", type=float, default=2.0)
    add("--pending-seconds", type=float, default=0.0)
    add("--terminate-seconds", type=float, default=10.0)
    add("--release-seconds", type=float, default=3.0)
    add("--create-seconds", type=float, default=0.0)
    add("--tag-seconds", type=float, default=0.0, help="tags at creation come late")
    add("--profile-seconds", type=float, default=0.0, help="the role comes late")
    add("--page-size", type=int, default=None)
    add("--throttled", action="store_true", help="the published token buckets")
    add("--lag", type=float, default=0.0, help="some answers are this old (seconds)")
    add("--lag-share", type=float, default=0.3, help="how many, 0 to 1")
    add("--manual-clock", action="store_true", help="moved by POST /lab/advance")
    return parser.parse_args()


def main() -> int:
    """Serve until interrupted; the endpoint and the ids on stdout, and each
    call as it is answered."""
    wanted = _arguments()
    lab = Ec2Lab(
        port=wanted.port,
        region=wanted.region,
        attach_seconds=wanted.attach_seconds,
        detach_seconds=wanted.detach_seconds,
        pending_seconds=wanted.pending_seconds,
        terminate_seconds=wanted.terminate_seconds,
        release_seconds=wanted.release_seconds,
        create_seconds=wanted.create_seconds,
        tag_seconds=wanted.tag_seconds,
        profile_seconds=wanted.profile_seconds,
        page_size=wanted.page_size,
        throttled=wanted.throttled,
        clock=ManualClock() if wanted.manual_clock else RealClock(),
    )
    lab.lag(wanted.lag, share=wanted.lag_share, spread=True)
    tags = dict(text.partition("=")[::2] for text in wanted.tag)
    zone = wanted.zone or lab.zones[0]
    try:
        with lab:
            print(f"endpoint {lab.endpoint_url}")
            for _ in range(wanted.volumes):
                print(f"volume {lab.create_volume(wanted.size, zone, tags)}")
            for _ in range(wanted.instances):
                print(f"instance {lab.run_instance(wanted.instance_type, zone)}")
            print(
                f"try: AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x aws --region "
                f"{lab.region} --endpoint-url {lab.endpoint_url} ec2 "
                "describe-volumes",
                flush=True,
            )
            told = 0
            while True:
                threading.Event().wait(0.2)
                for call in lab.calls.since(told):
                    told += 1
                    who = call.instance_id or call.access_key
                    result = call.code or "ok"
                    print(f"{call.action} {call.status} {result} {who}", flush=True)
    except KeyboardInterrupt:
        return 0
    except (OSError, Ec2Error) as error:
        print(f"tests.lab.ec2: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
