"""EC2 as a :class:`~cc_kraken.cloud.protocol.Cloud`: few calls through boto3.

Nothing here decides.  boto3 is imported at the first call, for a reboot without a
call must not pay for it.

Source: the EC2 API reference (2016-11-15).
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Optional
from urllib.parse import urlsplit, urlunsplit

from cc_kraken.cloud import answers, metadata, session
from cc_kraken.cloud.device_names import Names
from cc_kraken.cloud.errors import Ec2Error, Reaction, fatal, plain, refused, waiting
from cc_kraken.cloud.protocol import THROTTLED
from cc_kraken.model import (
    Ec2Options,
    Holder,
    Identity,
    KrakenError,
    NewVolume,
    Node,
    Section,
    Volume,
)

LOG = logging.getLogger(__name__)

FILTER_VALUES = 200  # in one filter
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0)
"""Seconds before a throttled page is asked for again, in one listing."""
LOOKALIKES = ("*:?refix*", "*:?ode?d", "*:?ode??d", "*:?olume?ame", "*:?olume??ame")
"""Keys that are meant for ours in a namespace that is misspelt."""


def shown(url: str) -> str:
    """A URL as a log may show it: without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL at all: boto3 says so
        return re.sub(r"//.*@", "//", url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Calls:
    """EC2's calls in one region: how one is sent, counted, and read page by page.

    ``calls`` counts the requests that were sent, repeated ones included;
    ``throttled`` those that EC2 throttled.
    """

    page = 500  # results; DescribeVolumes allows 5 to 1000

    def __init__(
        self,
        identity: Identity,
        options: Ec2Options,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.identity = identity
        self.options = options
        self.region = options.region or identity.region
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self._sleep = sleep
        self._lock = threading.RLock()
        self._made: Any = None

    @property
    def where(self) -> str:
        """The API's place in words."""
        if self.options.endpoint_url:
            return shown(self.options.endpoint_url)
        return f"EC2 in {self.region}"

    def _call(self, action: str, subject: str, **parameters: Any) -> Any:
        with self._errors(action, subject):
            client = self._client()
            from botocore import xform_name

            return getattr(client, xform_name(action))(**parameters)

    def _pages(self, action: str, subject: str, **parameters: Any) -> Iterator[Any]:
        """Every page. A throttled one but the first is asked for again: to begin anew
        would throw away what has been read, and a busy account serves no three pages
        in a row."""
        parameters["MaxResults"] = self.page
        page = self._call(action, subject, **parameters)
        pauses = list(PAUSES)
        while True:
            yield page
            token = page.get("NextToken")
            if not token:
                return
            page = None
            while page is None:
                try:
                    page = self._call(action, subject, NextToken=token, **parameters)
                except Ec2Error as error:
                    if error.trouble.kind != THROTTLED or not pauses:
                        raise
                    self._sleep(pauses.pop(0) * random.uniform(0.5, 1.0))
            if page.get("NextToken") == token:
                raise self._strange(action)

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._connect()
                self._made.meta.events.register("before-send.ec2", self._count)
            return self._made

    def _connect(self) -> Any:
        return session.client(self.identity, self.options)

    def _count(self, event_name: str = "", **_: Any) -> None:
        """A handler of botocore's ``before-send``; None lets it be sent."""
        with self._lock:
            self.calls[event_name.rpartition(".")[2]] += 1

    @contextmanager
    def _errors(self, action: str, subject: str) -> Iterator[None]:
        """Turn whatever botocore raises into one Ec2Error."""
        try:
            yield
        except KrakenError:
            raise
        except Exception as error:
            problem = self._error(action, subject, error)
            if problem.trouble.kind == THROTTLED:
                with self._lock:
                    self.throttled[action] += 1
            if problem.trouble.kind in ("credentials-refused", "permission-missing"):
                with self._lock:
                    self._made = None  # the next call fetches new ones
            LOG.debug("%s", problem.trouble.found)
            raise problem from None

    def _error(self, action: str, subject: str, error: Exception) -> Ec2Error:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            code = str(response["Error"].get("Code", "Unknown"))
            message = str(response["Error"].get("Message", ""))
            return refused(action, code, message, int(status), subject)
        return self._unanswered(action, error) or fatal(
            "ec2-request",
            f"{action} {subject} could not be sent to {self.where}: "
            f"{type(error).__name__}: {plain(str(error)).rstrip('.')}.",
            "boto3 must accept the request.",
            "Check kraken.ec2 in the configuration.",
        )

    def _unanswered(self, action: str, error: Exception) -> Optional[Ec2Error]:
        """The errors of the way to EC2; None for anything else."""
        from botocore import exceptions as e
        from botocore import parsers

        reason = _reason(error)
        if isinstance(error, e.SSLError) and "CERTIFICATE_VERIFY" in str(error):
            refusal = fatal(
                "certificate-refused",
                f"The certificate of {self.where} cannot be verified ({reason}).",
                "A known authority must have signed it.",
                "Name the authority's certificates in kraken.ec2.ca_bundle, and "
                "check the clock of this machine.",
            )
            if "not yet valid" not in reason:
                return refusal
            # A clock that is behind is often set some seconds after the boot.
            return Ec2Error(replace(refusal.trouble, waits=True), Reaction.RETRY)
        if isinstance(error, e.ProxyConnectionError):
            proxy = shown(self.options.https_proxy or "of the environment")
            return waiting(
                "ec2-unreachable",
                f"The proxy {proxy} cannot be reached ({reason}).",
                "It must answer.",
                "Check kraken.ec2.https_proxy and the network.",
            )
        if isinstance(error, (e.CredentialRetrievalError, e.MetadataRetrievalError)):
            return waiting(
                "credentials-missing",
                f"No new credentials could be fetched ({plain(str(error))}).",
                "The metadata service must give those of the instance profile.",
                "cc_kraken asks again. If this stays, check the instance's metadata "
                "options and its profile.",
            )
        if isinstance(error, parsers.ResponseParserError):
            return self._strange(action)
        if isinstance(error, e.ReadTimeoutError):
            reason = f"no answer within {session.READ_TIMEOUT} s"
        elif isinstance(error, e.ConnectTimeoutError):
            reason = f"no connection within {session.CONNECT_TIMEOUT} s"
        elif not isinstance(
            error, (e.ConnectionError, e.HTTPClientError, e.IncompleteReadError)
        ):
            return None
        return waiting(
            "ec2-unreachable",
            f"{self.where} cannot be reached for {action} ({reason}).",
            "There must be a way to the EC2 API.",
            "Check the network, its routes and name service. Or name a VPC endpoint "
            "in kraken.ec2.endpoint_url, or a proxy in kraken.ec2.https_proxy.",
        )

    def _strange(self, action: str) -> Ec2Error:
        return waiting(
            "ec2-answer",
            f"{self.where} answered {action} with something else than EC2 does.",
            "The EC2 API must answer.",
            "Check kraken.ec2.endpoint_url, kraken.ec2.https_proxy, and what else "
            "may answer in their place.",
        )


class Ec2(Calls):
    """EC2 in the region of one instance."""

    def __init__(
        self,
        identity: Identity,
        section: Section,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(identity, section.ec2, sleep)
        self.instance_id = identity.instance_id
        self.namespace = section.tag_namespace
        self._names: Optional[Names] = None
        self._full: Optional[str] = None

    # ------------------------------------------------------------- questions

    def instance_tags(self) -> Mapping[str, str]:
        """See :class:`Cloud` (DescribeTags)."""
        filters = [{"Name": "resource-id", "Values": [self.instance_id]}]
        tags: dict[str, str] = {}
        subject = f"of {self.instance_id}"
        for page in self._pages("DescribeTags", subject, Filters=filters):
            tags.update(answers.tags(page.get("Tags")))
        return tags

    def volumes(self, node: Node) -> tuple[Volume, ...]:
        """See :class:`Cloud` (DescribeVolumes)."""
        wished = {"Prefix": node.prefix, "NodeId": node.node_id}
        return self._volumes(f"of node {node}", wished)

    def prefix_volumes(self, prefix: str, zone: str = "") -> tuple[Volume, ...]:
        """See :class:`Cloud` (DescribeVolumes)."""
        return self._volumes(f"of {prefix}", {"Prefix": prefix}, zone)

    def _volumes(
        self, subject: str, wished: Mapping[str, str], zone: str = ""
    ) -> tuple[Volume, ...]:
        filters = [
            {
                "Name": f"tag:{self.namespace}:{tag}",
                "Values": [answers.filter_value(value)],
            }
            for tag, value in wished.items()
        ]
        if zone:
            filters.append({"Name": "availability-zone", "Values": [zone]})
        # a filter that takes a value too freely must not bring us another node's
        # volumes
        return tuple(
            volume
            for volume in self._described(subject, filters)
            if wished
            == {tag: volume.tags.get(f"{self.namespace}:{tag}") for tag in wished}
        )

    def _described(
        self, subject: str, filters: Sequence[Mapping[str, Any]]
    ) -> tuple[Volume, ...]:
        found: dict[str, Volume] = {}
        for page in self._pages("DescribeVolumes", subject, Filters=filters):
            for raw in page.get("Volumes") or ():
                volume = answers.volume(raw)
                found[volume.id] = volume
        return tuple(found[key] for key in sorted(found))

    def marked_volumes(self) -> tuple[Volume, ...]:
        """See :class:`Cloud` (DescribeVolumes)."""
        keys = [answers.filter_value(f"{self.namespace}:") + "*", *LOOKALIKES]
        filters = [{"Name": "tag-key", "Values": keys}]
        return self._described(f"with tags of {self.namespace}", filters)

    def lifecycle(self) -> str:
        """See :class:`Cloud` (the instance's metadata service)."""
        return metadata.lifecycle(self.identity.metadata_url)

    def holders(self, instance_ids: Iterable[str]) -> Mapping[str, Holder]:
        """See :class:`Cloud` (DescribeInstances).  No id, no call."""
        ids = sorted(set(instance_ids))
        found = {key: Holder(instance_id=key, state="gone") for key in ids}
        for start in range(0, len(ids), FILTER_VALUES):
            for raw in self._with_ids(ids[start : start + FILTER_VALUES]):
                holder = answers.holder(raw, self.namespace)
                found[holder.instance_id] = holder
        return found

    # --------------------------------------------------------------- changes

    def attach(self, volume_id: str) -> str:
        """See :class:`Cloud` (AttachVolume, which has no idempotency token).

        A device name that EC2 refuses is followed by the next one.
        """
        with self._lock:
            if self._names is None:
                self._names = Names(answers.device_names(self._own()))
        name = self._names.of(volume_id)
        while True:
            try:
                self._call(
                    "AttachVolume",
                    f"of {volume_id} to {self.instance_id} as {name}",
                    VolumeId=volume_id,
                    InstanceId=self.instance_id,
                    Device=name,
                )
                return name
            except Ec2Error as error:
                if error.code == "AttachmentLimitExceeded":
                    raise self._with_limit(error) from None
                if error.reaction is not Reaction.NEXT_NAME:
                    raise
                LOG.info("%s The next name is tried.", error.trouble.found)
            name = self._names.refused(volume_id)

    def detach(self, volume_id: str) -> None:
        """See :class:`Cloud` (DetachVolume)."""
        try:
            self._call(
                "DetachVolume",
                f"of {volume_id} from {self.instance_id}",
                VolumeId=volume_id,
                InstanceId=self.instance_id,
            )
        except Ec2Error as error:
            if error.reaction is not Reaction.DONE:
                raise
        if self._names is not None:
            self._names.freed(volume_id)

    def create_volume(self, new: NewVolume) -> str:
        """See :class:`Cloud` (CreateVolume)."""
        subject = f"in {new.zone}"
        answer = self._call("CreateVolume", subject, **answers.new_volume(new))
        return str(answer["VolumeId"])

    # ---------------------------------------------------------------- inside

    def _with_ids(self, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        # by filter: a list of ids fails as a whole when one is gone
        filters = [{"Name": "instance-id", "Values": list(ids)}]
        subject = "of " + ", ".join(ids[:3]) + (" …" if len(ids) > 3 else "")
        return self._instances(subject, filters)

    def _instances(
        self, subject: str, filters: Sequence[Mapping[str, Any]]
    ) -> Iterator[Mapping[str, Any]]:
        for page in self._pages("DescribeInstances", subject, Filters=filters):
            for reservation in page.get("Reservations") or ():
                yield from reservation.get("Instances") or ()

    def _own(self) -> Mapping[str, Any]:
        """This instance as EC2 shows it."""
        for raw in self._with_ids([self.instance_id]):
            return raw
        message = f"it does not know {self.instance_id}"
        raise refused("DescribeInstances", "InvalidInstanceID.NotFound", message)

    def _with_limit(self, error: Ec2Error) -> Ec2Error:
        """The same error with the limit and what is in use; asked for once."""
        with self._lock:
            if self._full is None:
                self._full = self._fullness()
        found = error.trouble.found + self._full
        return Ec2Error(replace(error.trouble, found=found), error.reaction, error.code)

    def _fullness(self) -> str:
        text = ""
        try:
            own = self._own()
            kind = own.get("InstanceType") or ""
            text = f" {len(answers.device_names(own))} volumes are attached."
            answer = self._call(
                "DescribeInstanceTypes", f"of {kind}", InstanceTypes=[kind]
            )
            # Also an older botocore's description of EC2 may not have it.
            info = answer["InstanceTypes"][0]["EbsInfo"]
            text += (
                f" The type {kind} can have {info['MaximumEbsAttachments']}, and on "
            )
            text += "some types one less for each network interface."
        except (KrakenError, LookupError):
            pass
        return text


def _reason(error: Exception) -> str:
    """The system's own words, the same at each try: botocore's text has the
    address of an object in it."""
    text = f"{error} {getattr(error, 'kwargs', {}).get('error', '')}"
    # the last one: urllib3 repeats the cause at the end of its own text
    system = re.findall(r"\[Errno -?\d+\] ([^()'\"<>]+)", text)
    if system:
        return plain(system[-1])
    verify = re.search(r"certificate verify failed: ([^(]+)", text)
    if verify:
        return plain(verify.group(1))
    return type(error).__name__
