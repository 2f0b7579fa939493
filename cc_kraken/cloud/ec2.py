"""The edge to EC2: few calls through boto3, values in, values out.

Nothing here decides.  A call gives values of :mod:`cc_kraken.model`, or raises
:class:`Ec2Error`, whose Trouble says whether time may cure it.  boto3 is
imported at the first call, for a reboot without a call must not pay for it.

Bounds: a connection is tried for 3 s, an answer awaited for 10 s, and each
request sent once, because the caller asks again in its next round with the
whole picture, and a throttle is met with patience, not with more requests.
The metadata service is asked for credentials only, through botocore, three
times for 2 s each, and never through a proxy.

Sources: the EC2 API reference (2016-11-15), botocore's documentation of
``botocore.config.Config`` and of its configuration variables.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)
from typing import Counter as Counts
from urllib.parse import urlsplit, urlunsplit

from cc_kraken.cloud import errors
from cc_kraken.cloud.errors import Reaction
from cc_kraken.machine import schema_files
from cc_kraken.model import (
    Attachment,
    Ec2Options,
    Holder,
    KrakenError,
    Trouble,
    Volume,
)

CONNECT_TIMEOUT = 3  # seconds
READ_TIMEOUT = 10  # seconds
ATTEMPTS = 1  # requests in all, for one call or one page
METADATA_TIMEOUT = 2  # seconds
METADATA_ATTEMPTS = 3
PAGE = 500  # results; DescribeVolumes allows 5 to 1000
FILTER_VALUES = 200  # in one filter
FILTER_LENGTH = 255  # characters of one value
THREADS = 32  # connections that are kept

# ------------------------------------------------------------------ outcomes


class Outcome(Enum):
    """What AttachVolume came to, where the caller has a next step."""

    ACCEPTED = "accepted"
    #: In use, perhaps by this instance: a fresh DescribeVolumes tells.
    ASK_AGAIN = "ask-again"
    NAME_TAKEN = "name-taken"
    NAME_INVALID = "name-invalid"


@dataclass(frozen=True)
class Attached:
    """An answer to AttachVolume; ``text`` is what EC2 said, if it refused."""

    outcome: Outcome
    volume_id: str
    device: str
    text: str = ""


@dataclass(frozen=True)
class OwnView:
    """This instance in EC2's view.

    ``devices``: the device names in use, as EC2 writes them, with the root
    device's.  A mapping of the image can be missing in it.
    """

    devices: FrozenSet[str]
    instance_type: str
    root_device: str = ""


class Ec2Error(KrakenError):
    """A call that failed; ``code`` is EC2's, "" where it sent none."""

    def __init__(self, trouble: Trouble, reaction: Reaction, code: str = "") -> None:
        super().__init__(trouble)
        self.reaction = reaction
        self.code = code


_OUTCOMES = {
    Reaction.DESCRIBE: Outcome.ASK_AGAIN,
    Reaction.NAME_TAKEN: Outcome.NAME_TAKEN,
    Reaction.NAME_INVALID: Outcome.NAME_INVALID,
}

# ------------------------------------------------------------------- silence

NOISY = ("boto3", "botocore", "urllib3", "s3transfer")


class _Silence:
    """Keeps :data:`NOISY` from logging, for as long as anybody is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: List[Tuple[logging.Logger, int, bool]] = []

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            for logger in self._loggers():
                self._saved.append((logger, logger.level, logger.propagate))
                logger.setLevel(logging.CRITICAL + 1)
                if logger.name in NOISY:
                    logger.propagate = False

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            while self._saved:
                logger, level, propagate = self._saved.pop()
                logger.setLevel(level)
                logger.propagate = propagate

    @staticmethod
    def _loggers() -> List[logging.Logger]:
        found = [logging.getLogger(name) for name in NOISY]
        for name, logger in list(logging.root.manager.loggerDict.items()):
            # a child with a level of its own does not ask its parent
            if (
                isinstance(logger, logging.Logger)
                and name.split(".")[0] in NOISY
                and "." in name
                and logger.level != logging.NOTSET
            ):
                found.append(logger)
        return found


_SILENCE = _Silence()


@contextmanager
def silenced() -> Iterator[None]:
    """boto3 and what it uses neither log nor propagate inside.

    cloud-init's root logger is at DEBUG, and botocore writes session tokens at
    that level.  May be nested and entered from several threads; the state
    before the first is there again after the last.
    """
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


# --------------------------------------------------------------- small things


def filter_value(value: str) -> str:
    """A literal value for a filter, where ``*`` and ``?`` are wildcards.

    What is too long for a filter is cut, and ends with a wildcard.
    """
    text = ""
    for character in value:
        piece = "\\" + character if character in "\\*?" else character
        if len(text) + len(piece) >= FILTER_LENGTH:
            return text + "*"
        text += piece
    return text


def shown(url: str) -> str:
    """A URL as a log may show it: without user and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _tags(raw: Optional[Iterable[Mapping[str, str]]]) -> Dict[str, str]:
    return {tag["Key"]: tag.get("Value") or "" for tag in raw or ()}


def _attachment(raw: Mapping[str, Any]) -> Attachment:
    return Attachment(
        instance_id=raw.get("InstanceId") or None,
        device=raw.get("Device") or None,
        state=raw.get("State") or "",
        delete_on_termination=bool(raw.get("DeleteOnTermination")),
    )


def _volume(raw: Mapping[str, Any]) -> Volume:
    attachments = [_attachment(item) for item in raw.get("Attachments") or ()]
    return Volume(
        id=raw["VolumeId"],
        size_gib=int(raw.get("Size") or 0),
        zone=raw.get("AvailabilityZone") or "",
        state=raw.get("State") or "",
        tags=_tags(raw.get("Tags")),
        # EC2 leaves the order open, inside lists too
        attachments=tuple(
            sorted(attachments, key=lambda a: (a.instance_id or "", a.device or ""))
        ),
        origin=raw.get("SnapshotId") or raw.get("SourceVolumeId") or "",
        multi_attach=bool(raw.get("MultiAttachEnabled")),
        managed=bool((raw.get("Operator") or {}).get("Managed")),
    )


def _chunks(values: Sequence[str], size: int) -> Iterator[List[str]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])


@contextmanager
def _no_proxy_in_environment() -> Iterator[None]:
    """botocore's metadata clients take their proxies from the environment when
    they are made, and proxies must never see instance credentials."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    taken = {k: v for k, v in os.environ.items() if k.lower() in names}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def _know_copies(loader: Any) -> None:
    """Add to botocore's description of EC2 what an older one lacks.

    Debian 12's and 13's drops from EC2's answer that a volume is a copy of another,
    and a copy must never be formatted.  The loader merges our file, as one of its
    "extras" (see botocore.loaders).
    """
    path = schema_files.path(schema_files.EC2)
    loader.search_paths.append(path[: -len(schema_files.EC2)])
    loader.extras_types.append("kraken")


class _Witness:
    """Stands before the metadata client's HTTP session and notes the status.

    botocore has one answer for "there is no role" and "nobody answers"; a person
    who reads it needs to know which.
    """

    def __init__(self, http: Any) -> None:
        self._http = http
        self.asked = False
        self.status: Optional[int] = None

    def send(self, request: Any) -> Any:
        self.asked, self.status = True, None
        response = self._http.send(request)
        self.status = response.status_code
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)


# -------------------------------------------------------------------- client


class Ec2:
    """EC2 in one region.

    Calls may come from several threads at once.  ``calls`` counts the
    requests that were sent, repeated ones included, by action.
    """

    def __init__(self, region: str, options: Ec2Options, log: logging.Logger) -> None:
        self.region = options.region or region
        self.options = options
        self.calls: Counts[str] = Counter()
        self._log = log
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._made: Any = None
        self._full: Optional[str] = None

    @property
    def where(self) -> str:
        """The API's place in words."""
        if self.options.endpoint_url:
            return shown(self.options.endpoint_url)
        return f"EC2 in {self.region}"

    # ------------------------------------------------------------- questions

    def volumes(
        self, prefix: str, node_id: str, namespace: str = "KRKN-IN"
    ) -> Tuple[Volume, ...]:
        """Every volume that carries the node's tags, by id (DescribeVolumes).

        In any zone and state: those are the caller's to judge.
        """
        wished = {f"{namespace}:Prefix": prefix, f"{namespace}:NodeId": node_id}
        filters = [
            {"Name": f"tag:{key}", "Values": [filter_value(value)]}
            for key, value in wished.items()
        ]
        found: Dict[str, Volume] = {}
        subject = f"of node {prefix}/{node_id}"
        for page in self._pages("DescribeVolumes", subject, Filters=filters):
            for raw in page.get("Volumes") or ():
                volume = _volume(raw)
                # a filter that takes a value too freely must not bring us
                # another node's volumes
                if all(volume.tags.get(k) == v for k, v in wished.items()):
                    found[volume.id] = volume
        return tuple(found[key] for key in sorted(found))

    def instance_tags(self, instance_id: str) -> Mapping[str, str]:
        """The instance's tags (DescribeTags); empty when there are none."""
        filters = [{"Name": "resource-id", "Values": [instance_id]}]
        tags: Dict[str, str] = {}
        for page in self._pages("DescribeTags", f"of {instance_id}", Filters=filters):
            tags.update(_tags(page.get("Tags")))
        return tags

    def holders(
        self, instance_ids: Iterable[str], namespace: str = "KRKN-IN"
    ) -> Mapping[str, Holder]:
        """The instances (DescribeInstances); one that EC2 does not know any
        more has the state ``gone``.  No id, no call."""
        ids = sorted(set(instance_ids))
        found = {key: Holder(instance_id=key, state="gone") for key in ids}
        for some in _chunks(ids, FILTER_VALUES):
            for raw in self._instances(some):
                tags = _tags(raw.get("Tags"))
                found[raw["InstanceId"]] = Holder(
                    instance_id=raw["InstanceId"],
                    state=(raw.get("State") or {}).get("Name") or "",
                    prefix=tags.get(f"{namespace}:Prefix"),
                    node_id=tags.get(f"{namespace}:NodeId"),
                )
        return found

    def own_view(self, instance_id: str) -> OwnView:
        """Which device names this instance uses (DescribeInstances)."""
        for raw in self._instances([instance_id]):
            root = raw.get("RootDeviceName") or ""
            names = {
                item.get("DeviceName") or ""
                for item in raw.get("BlockDeviceMappings") or ()
            }
            return OwnView(
                devices=frozenset((names | {root}) - {""}),
                instance_type=raw.get("InstanceType") or "",
                root_device=root,
            )
        code = "InvalidInstanceID.NotFound"
        message = f"it does not know {instance_id}"
        raise self._refused("DescribeInstances", code, message, 400, "")

    def attachment_limit(self, instance_type: str) -> Optional[int]:
        """How many volumes the type can have (DescribeInstanceTypes).

        None where EC2, or an older botocore's model of it, does not say.
        """
        answer = self._call(
            "DescribeInstanceTypes",
            f"of {instance_type}",
            InstanceTypes=[instance_type],
        )
        for raw in answer.get("InstanceTypes") or ():
            limit = (raw.get("EbsInfo") or {}).get("MaximumEbsAttachments")
            return int(limit) if limit else None
        return None

    # --------------------------------------------------------------- changes

    def attach(self, volume_id: str, instance_id: str, device: str) -> Attached:
        """Ask for an attachment (AttachVolume).

        The call has no idempotency token: after any answer, an error included,
        the truth is a fresh :meth:`volumes`.
        """
        subject = f"of {volume_id} to {instance_id} as {device}"
        try:
            self._call(
                "AttachVolume",
                subject,
                VolumeId=volume_id,
                InstanceId=instance_id,
                Device=device,
            )
        except Ec2Error as error:
            if error.reaction in _OUTCOMES:
                text = error.trouble.found
                return Attached(_OUTCOMES[error.reaction], volume_id, device, text)
            if error.code == "AttachmentLimitExceeded":
                raise self._with_limit(error, instance_id) from None
            raise
        return Attached(Outcome.ACCEPTED, volume_id, device)

    def detach(self, volume_id: str, instance_id: str) -> bool:
        """Take back an attachment (DetachVolume, never by force).

        False when there was nothing to detach.
        """
        try:
            self._call(
                "DetachVolume",
                f"of {volume_id} from {instance_id}",
                VolumeId=volume_id,
                InstanceId=instance_id,
            )
        except Ec2Error as error:
            if error.reaction is Reaction.DONE:
                return False
            raise
        return True

    # ---------------------------------------------------------------- inside

    def _instances(self, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        # by filter: a list of ids fails as a whole when one is gone
        filters = [{"Name": "instance-id", "Values": list(ids)}]
        subject = "of " + ", ".join(ids[:3]) + (" …" if len(ids) > 3 else "")
        for page in self._pages("DescribeInstances", subject, Filters=filters):
            for reservation in page.get("Reservations") or ():
                yield from reservation.get("Instances") or ()

    def _with_limit(self, error: Ec2Error, instance_id: str) -> Ec2Error:
        """The same error with the limit and what is in use; asked for once."""
        with self._lock:
            full = self._full
        if full is None:
            full = self._fullness(instance_id)
            with self._lock:
                self._full = full
        found = error.trouble.found + full
        return Ec2Error(replace(error.trouble, found=found), error.reaction, error.code)

    def _fullness(self, instance_id: str) -> str:
        try:
            own = self.own_view(instance_id)
        except KrakenError:
            return ""
        text = f" ({len(own.devices)} volumes are attached"
        try:
            limit = self.attachment_limit(own.instance_type)
        except KrakenError:
            limit = None
        if limit is not None:
            text += f", a {own.instance_type} can have {limit}, on some types "
            text += "fewer by each network interface"
        return text + ")"

    def _call(self, action: str, subject: str, **parameters: Any) -> Any:
        with silenced(), self._errors(action, subject):
            client = self._client()
            return getattr(client, _method(action))(**parameters)

    def _pages(self, action: str, subject: str, **parameters: Any) -> Iterator[Any]:
        """All pages, read before the first is given out, so that nobody's
        code runs inside the silence."""
        with silenced(), self._errors(action, subject):
            paginator = self._client().get_paginator(_method(action))
            config = {"PageSize": PAGE}
            pages = list(paginator.paginate(PaginationConfig=config, **parameters))
        yield from pages

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        if not self.region:
            raise _fatal(
                "region-missing",
                "no region is known",
                "the region of the instance's metadata or of the configuration",
                "Set kraken.ec2.region.",
            )
        bundle = self.options.ca_bundle
        if bundle and not os.path.isfile(bundle):
            raise _fatal(
                "ca-bundle-missing",
                f"there is no file {bundle}",
                "the CA certificates that kraken.ec2.ca_bundle names",
                "Correct the path, or write the file with write_files (the "
                "ca_certs module is too late).",
            )
        session = self._session()
        # After the session, which reports a boto3 that is missing.
        from botocore.config import Config

        proxy = self.options.https_proxy
        client = session.client(
            "ec2",
            endpoint_url=self.options.endpoint_url,
            verify=bundle,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=THREADS,
                user_agent_extra="cc_kraken",
                proxies={"http": proxy, "https": proxy} if proxy else None,
            ),
        )
        client.meta.events.register("before-send.ec2", self._count)
        return client

    def _session(self) -> Any:
        """A boto3 session that has credentials, or a Trouble about them."""
        try:
            import boto3.session
            import botocore.session
        except ImportError as error:
            raise _fatal(
                "boto3-missing",
                f"Python's boto3 cannot be imported ({errors.plain(str(error))})",
                "boto3 1.26 or later",
                "Install the package python3-boto3.",
            ) from None
        core = botocore.session.Session()
        core.set_config_variable("metadata_service_timeout", METADATA_TIMEOUT)
        core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        _know_copies(core.get_component("data_loader"))
        session = boto3.session.Session(region_name=self.region, botocore_session=core)
        with _no_proxy_in_environment():
            witness = _watch(core.get_component("credential_provider"))
        if session.get_credentials() is None:
            raise _no_credentials(witness)
        return session

    def _count(self, event_name: str = "", **_: Any) -> None:
        """A handler of botocore's ``before-send``; None lets it be sent."""
        with self._count_lock:
            self.calls[event_name.rpartition(".")[2]] += 1

    @contextmanager
    def _errors(self, action: str, subject: str) -> Iterator[None]:
        """Turn whatever botocore raises into one Ec2Error."""
        try:
            yield
        except KrakenError:
            raise
        except Exception as error:
            told = self._told(action, subject, error)
            if told.trouble.kind in ("credentials-refused", "permission-missing"):
                with self._lock:
                    self._made = None  # the next call fetches new ones
            self._log.debug("%s", told.trouble.found)
            raise told from None

    def _told(self, action: str, subject: str, error: Exception) -> Ec2Error:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            code = str(response["Error"].get("Code", "Unknown"))
            message = str(response["Error"].get("Message", ""))
            return self._refused(action, code, message, int(status), subject)
        told = self._unanswered(action, error)
        if told is not None:
            return told
        return _fatal(
            "ec2-request",
            f"{action} {subject} could not be sent to {self.where}: "
            f"{type(error).__name__}: {errors.plain(str(error))}",
            "a request that can be sent",
            "Check kraken.ec2 in the configuration.",
        )

    def _refused(
        self, action: str, code: str, message: str, status: int, subject: str
    ) -> Ec2Error:
        told = errors.trouble(action, code, message, status, subject)
        line = errors.rule(action, code, message, status)
        return Ec2Error(told, line.reaction, code)

    def _unanswered(self, action: str, error: Exception) -> Optional[Ec2Error]:
        """The errors of the way to EC2; None for anything else."""
        from botocore import exceptions as e
        from botocore import parsers

        reason = _reason(error)
        if isinstance(error, e.SSLError) and "CERTIFICATE_VERIFY" in str(error):
            return _fatal(
                "certificate-refused",
                f"the certificate of {self.where} cannot be verified ({reason})",
                "a certificate of a known authority",
                "Name the authority's certificates in kraken.ec2.ca_bundle, and "
                "check the clock of this machine.",
            )
        if isinstance(error, e.ProxyConnectionError):
            proxy = shown(self.options.https_proxy or "of the environment")
            return _unreachable(
                f"the proxy {proxy} cannot be reached ({reason})",
                "a proxy that answers",
                "Check kraken.ec2.https_proxy and the network.",
            )
        if isinstance(error, e.ReadTimeoutError):
            return _unreachable(
                f"{self.where} did not answer {action} within {READ_TIMEOUT} s",
                "an answer",
                "It is asked again; if this stays, check the network.",
            )
        if isinstance(error, e.ConnectTimeoutError):
            reason = f"no connection within {CONNECT_TIMEOUT} s"
        if isinstance(error, (e.CredentialRetrievalError, e.MetadataRetrievalError)):
            return _waiting(
                "credentials-missing",
                f"new credentials could not be had ({errors.plain(str(error))})",
                "credentials of the instance profile",
                "It is asked again; if this stays, check the metadata service.",
            )
        if isinstance(error, (parsers.ResponseParserError, e.PaginationError)):
            return _waiting(
                "ec2-answer",
                f"{self.where} answered {action} with something else than EC2 does",
                "the EC2 API",
                "Check kraken.ec2.endpoint_url, kraken.ec2.https_proxy and what "
                "else may answer in their place.",
            )
        if isinstance(
            error, (e.ConnectionError, e.HTTPClientError, e.IncompleteReadError)
        ):
            return _unreachable(
                f"{self.where} cannot be reached for {action} ({reason})",
                "a way to the EC2 API",
                "Check the network, its routes and name service, or name a VPC "
                "endpoint in kraken.ec2.endpoint_url or a proxy in "
                "kraken.ec2.https_proxy.",
            )
        return None


# -------------------------------------------------------------------- errors


def _fatal(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    return Ec2Error(Trouble(kind, found, expected, remedy), Reaction.FATAL)


def _waiting(kind: str, found: str, expected: str, remedy: str) -> Ec2Error:
    told = Trouble(kind, found, expected, remedy, waits=True)
    return Ec2Error(told, Reaction.RETRY)


def _unreachable(found: str, expected: str, remedy: str) -> Ec2Error:
    return _waiting("ec2-unreachable", found, expected, remedy)


def _reason(error: Exception) -> str:
    """The system's own words, the same at each try: botocore's text has the
    address of an object in it."""
    text = f"{error} {getattr(error, 'kwargs', {}).get('error', '')}"
    # the last one: urllib3 repeats the cause at the end of its own text
    system = re.findall(r"\[Errno -?\d+\] ([^()'\"<>]+)", text)
    if system:
        return errors.plain(system[-1])
    verify = re.search(r"certificate verify failed: ([^(]+)", text)
    if verify:
        return errors.plain(verify.group(1))
    return type(error).__name__


def _watch(resolver: Any) -> Optional[_Witness]:
    """A witness at the metadata client; None when botocore has changed."""
    try:
        fetcher = resolver.get_provider("iam-role")._role_fetcher
        witness = _Witness(fetcher._session)
        fetcher._session = witness
    except Exception:  # private names: do without
        return None
    return witness


def _no_credentials(witness: Optional[_Witness]) -> Ec2Error:
    expected = "an instance profile"
    remedy = (
        "Give the instance a profile whose role has the IAM policy of the "
        "documentation (ec2:DescribeVolumes, ec2:DescribeTags, "
        "ec2:DescribeInstances, ec2:AttachVolume, ec2:DetachVolume)."
    )
    kind = "credentials-missing"
    if witness is not None and not witness.asked:
        found = "there are no AWS credentials, and the metadata service is switched off"
        return _fatal(kind, found, expected, remedy)
    found = "there are no AWS credentials"
    if witness is None:
        pass
    elif witness.status is None:
        found += ": the metadata service does not answer"
    elif witness.status == 404:
        found += ": this instance has no instance profile, or it has not arrived yet"
    elif witness.status == 200:
        found += ": the metadata service has none for the instance profile's role"
    else:
        found += f": the metadata service answers with HTTP status {witness.status}"
    return _waiting(kind, found, expected, remedy)


def _method(action: str) -> str:
    """``DescribeVolumes`` as boto3 names it: ``describe_volumes``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower()
