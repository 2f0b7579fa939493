"""The edge to EC2, against servers on loopback and over real HTTP."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cc_kraken.cloud import session as module
from cc_kraken.cloud.answers import filter_value
from cc_kraken.cloud.ec2 import Ec2, shown
from cc_kraken.cloud.errors import Ec2Error, Reaction
from cc_kraken.cloud.protocol import IN_USE
from cc_kraken.cloud.session import NOISY
from cc_kraken.machine import schema_files
from cc_kraken.model import (
    Attachment,
    Ec2Options,
    Holder,
    Identity,
    KrakenError,
    Node,
    Section,
    Trouble,
)
from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.query import wildcard
from tests.lab.tls import Authority

pytest.importorskip("boto3")
import boto3.session  # noqa: E402
import botocore.loaders  # noqa: E402
import botocore.session  # noqa: E402

NODE = Node("kafka", "0")
SECRET = "wJalrSECRETbPxRfiCY"
TOKEN = "IQoJb3JpTOKENexample"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own credentials, configuration or proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)


def edge(
    endpoint: Optional[str] = None,
    instance: str = "i-0123456789abcdef0",
    *,
    namespace: str = "KRKN-IN",
    identity: Optional[Identity] = None,
    **options: Any,
) -> Ec2:
    identity = identity or Identity(instance, "us-east-1", "us-east-1a")
    chosen = Ec2Options(endpoint_url=endpoint, **options)
    return Ec2(identity, Section(tag_namespace=namespace, ec2=chosen))


def told(call: Callable[[], object]) -> Ec2Error:
    with pytest.raises(KrakenError) as caught:
        call()
    assert isinstance(caught.value, Ec2Error)
    assert caught.value.__cause__ is None
    return caught.value


def told_plain(call: Callable[[], object]) -> Trouble:
    with pytest.raises(KrakenError) as caught:
        call()
    return caught.value.trouble


# ------------------------------------------------------------ small servers

Answer = tuple[int, str]


class Server:
    """An HTTP server on loopback that notes every request it gets."""

    def __init__(
        self,
        answer: Callable[[str, str, str], Answer],
        tls: Optional[ssl.SSLContext] = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.seen: list[str] = []
        self.heads: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length).decode()
                outer.seen.append(f"{self.command} {self.path}")
                outer.heads.append(dict(self.headers))
                status, text = answer(self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = do_POST = any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        self._http = Http((address, 0), Handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        host = f"[{address}]" if ":" in address else address
        self.url = f"{scheme}://{host}:{self._http.server_address[1]}"
        threading.Thread(
            target=self._http.serve_forever, args=(0.02,), daemon=True
        ).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def serving(
    answer: Callable[[str, str, str], Answer],
    tls: Optional[ssl.SSLContext] = None,
    address: str = "127.0.0.1",
) -> Iterator[Server]:
    server = Server(answer, tls, address)
    try:
        yield server
    finally:
        server.close()


def no_volumes(method: str, path: str, body: str) -> Answer:
    name = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return 200, (
        f'<DescribeVolumesResponse xmlns="{name}"><volumeSet/>'
        "</DescribeVolumesResponse>"
    )


def refusing(code: str, message: str = "Text.", status: int = 400) -> Any:
    def answer(method: str, path: str, body: str) -> Answer:
        return status, (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}"
            "</Message></Error></Errors><RequestID>1</RequestID></Response>"
        )

    return answer


def metadata(role: int = 200, token: int = 200) -> Any:
    """A metadata service that knows instance credentials (IMDSv2)."""
    credentials = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAEXAMPLE",
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
        "LastUpdated": "2020-01-01T00:00:00Z",
    }

    def answer(method: str, path: str, body: str) -> Answer:
        if path == "/latest/api/token":
            return token, "metadata-token"
        if path == "/latest/meta-data/iam/security-credentials/":
            return role, "kraken-role" if role == 200 else "no"
        return 200, json.dumps(credentials)

    return answer


# ---------------------------------------------------------- values and text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("kafka", "kafka"),
        ("a*b?c", r"a\*b\?c"),
        ("back\\slash", r"back\\slash"),
        ("p[1]", "p[1]"),
        ("x" * 254, "x" * 254),
        ("x" * 256, "x" * 254 + "*"),
        ("x" * 253 + "??", "x" * 253 + "*"),
    ],
)
def test_filter_value(value: str, expected: str) -> None:
    assert filter_value(value) == expected


@given(st.text(max_size=256))
def test_filter_value_matches_its_text_by_the_rules_of_aws(value: str) -> None:
    pattern = filter_value(value)
    assert len(pattern) <= 255
    assert wildcard(pattern).fullmatch(value)
    if not pattern.endswith("*"):
        assert wildcard(pattern).fullmatch(value + "x") is None
        assert wildcard(pattern).fullmatch("x" + value) is None


def test_shown_hides_the_password() -> None:
    assert shown("http://u:p@proxy:3128/") == "http://proxy:3128/"
    assert shown("http://proxy:3128") == "http://proxy:3128"


# ------------------------------------------------------------------- bounds


def test_the_client_is_bounded(keys: None) -> None:
    client = edge("http://127.0.0.1:1")._client()
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 10)
    assert config.retries["total_max_attempts"] == 1
    assert config.retries["mode"] == "standard"
    assert config.parameter_validation is True
    assert "cc_kraken" in config.user_agent
    assert config.max_pool_connections >= 28


def test_a_peer_that_never_answers_is_given_up(
    keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        ec2 = edge(f"http://127.0.0.1:{silent.getsockname()[1]}")
        error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ec2-unreachable" and error.trouble.waits
    assert "for DescribeVolumes (no answer within 0.2 s)" in error.trouble.found
    assert ec2.calls == {"DescribeVolumes": 1}


def test_nobody_there(keys: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        ec2 = edge(f"http://127.0.0.1:{taken.getsockname()[1]}")
        texts = {str(told(lambda: ec2.volumes(NODE))) for _ in range(2)}
    (text,) = texts  # the same at each try, so that it is said once
    assert "Connection refused" in text and "0x" not in text


def test_no_name_service(keys: None) -> None:
    error = told(lambda: edge("http://ec2.invalid/").volumes(NODE))
    assert error.trouble.kind == "ec2-unreachable" and error.trouble.waits
    assert "ec2.invalid" in error.trouble.found


def test_an_answer_that_is_not_ec2s(keys: None) -> None:
    with serving(lambda *_: (200, "<html>sign in<br></html>")) as server:
        error = told(lambda: edge(server.url).volumes(NODE))
    assert error.trouble.kind == "ec2-answer" and error.trouble.waits


@pytest.mark.parametrize(
    ("status", "code", "waits", "requests"),
    [
        (503, "RequestLimitExceeded", True, 1),
        (500, "InternalError", True, 1),
        (503, "Unavailable", True, 1),
        (400, "ExpiredToken", True, 1),
        (400, "InvalidParameterValue", False, 1),
        (403, "UnauthorizedOperation", True, 1),
    ],
)
def test_errors_over_http(
    keys: None, status: int, code: str, waits: bool, requests: int
) -> None:
    with serving(refusing(code, status=status)) as server:
        ec2 = edge(server.url)
        error = told(lambda: ec2.volumes(NODE))
    assert (error.code, error.trouble.waits) == (code, waits)
    # what is counted is what was sent
    assert ec2.calls == {"DescribeVolumes": requests}
    assert len(server.seen) == requests


def test_a_missing_permission_is_named(keys: None) -> None:
    message = "You are not authorized. Encoded authorization failure message: " + (
        "aBc_-9" * 300
    )
    with serving(refusing("UnauthorizedOperation", message, 403)) as server:
        error = told(lambda: edge(server.url).instance_tags())
    assert "ec2:DescribeTags" in error.trouble.remedy
    assert "aBc_-9" not in str(error) and "You are not authorized" in str(error)


def test_a_region_is_needed(keys: None) -> None:
    ec2 = edge(identity=Identity("i-1", "", "us-east-1a"))
    assert told(lambda: ec2.volumes(NODE)).trouble.kind == "region-missing"


def test_the_configured_region_wins(keys: None) -> None:
    client = edge(region="eu-west-3")._client()
    assert client.meta.region_name == "eu-west-3"
    assert client.meta.endpoint_url == "https://ec2.eu-west-3.amazonaws.com"


def test_a_ca_bundle_that_is_not_there(keys: None) -> None:
    ec2 = edge("https://127.0.0.1:1", ca_bundle="/nonexistent/ca.pem")
    error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ca-bundle-missing"
    assert "/nonexistent/ca.pem" in error.trouble.found


@pytest.mark.parametrize("content", ["", "no certificate\n", "\0"])
def test_a_ca_bundle_without_certificates(
    keys: None, tmp_path: Path, content: str
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(content)
    ec2 = edge("https://127.0.0.1:1", ca_bundle=str(bundle))
    error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ca-bundle-missing" and not error.trouble.waits
    assert f"{bundle} holds no CA certificates" in error.trouble.found


@pytest.mark.parametrize("url", ["nonsense", "http://[::1", "https://me:secret@[::1"])
def test_an_endpoint_that_is_no_url(keys: None, url: str) -> None:
    error = told(lambda: edge(url).volumes(NODE))
    assert error.trouble.kind == "ec2-request" and url[-4:] in str(error)
    assert "secret" not in str(error)


def test_parameters_are_validated_before_they_are_sent(keys: None) -> None:
    with serving(no_volumes) as server:
        ec2 = edge(server.url)
        error = told(lambda: ec2.detach(None))  # type: ignore[arg-type]
    assert error.trouble.kind == "ec2-request" and not server.seen


def test_the_client_is_one_of_boto3s_session(keys: None, mocker: MockerFixture) -> None:
    session = mocker.spy(boto3.session.Session, "__init__")
    made = mocker.spy(boto3.session.Session, "client")
    client = edge("http://127.0.0.1:1")._client()
    assert made.spy_return is client
    # No part of botocore is replaced.
    core = session.call_args.kwargs["botocore_session"]
    assert type(core.get_component("data_loader")) is botocore.loaders.Loader


@pytest.mark.parametrize("name", ["boto3", "boto3.session", "botocore.session"])
def test_boto3_missing(mocker: MockerFixture, name: str) -> None:
    mocker.patch.dict(sys.modules, {name: None})
    error = told(lambda: edge().volumes(NODE))
    assert error.trouble.kind == "boto3-missing"
    assert "python3-boto3" in error.trouble.remedy


# ------------------------------------------------------- values out of XML

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
TAGS = """<tagSet>
<item><key>KRKN-IN:Prefix</key><value>kafka</value></item>
<item><key>KRKN-IN:NodeId</key><value>{}</value></item></tagSet>"""
ODD = """<item><volumeId>vol-2</volumeId><size>8</size><snapshotId/>
<sourceVolumeId>vol-9</sourceVolumeId><availabilityZone>us-east-1a</availabilityZone>
<status>in-use</status><attachmentSet><item><volumeId>vol-2</volumeId>
<status>attached</status><associatedResource>arn:aws:x</associatedResource>
</item></attachmentSet><operator><managed>true</managed></operator>
<multiAttachEnabled>true</multiAttachEnabled>{}</item>""".format(TAGS.format("0"))
SNAPSHOT = """<item><volumeId>vol-1</volumeId><size>8</size>
<snapshotId>snap-1</snapshotId><availabilityZone>us-east-1c</availabilityZone>
<status>creating</status>{}</item>""".format(TAGS.format("0"))
STRANGER = """<item><volumeId>vol-3</volumeId><size>8</size>
<status>available</status>{}</item>""".format(TAGS.format("00"))


def described(items: str, token: str = "") -> str:
    more = f"<nextToken>{token}</nextToken>" if token else ""
    return (
        f'<DescribeVolumesResponse xmlns="{NAMESPACE}"><volumeSet>{items}'
        f"</volumeSet>{more}</DescribeVolumesResponse>"
    )


NEWER = {
    ("Volume", "SourceVolumeId"),
    ("Volume", "Operator"),
    ("EbsInfo", "MaximumEbsAttachments"),
}
"""What the botocore of Debian 12 does not know (of 13: two of them)."""


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's description of EC2 without what is new in it."""
    found = botocore.loaders.create_loader().load_service_model("ec2", "service-2")
    service = json.loads(json.dumps(found))
    for shape, member in NEWER:
        service["shapes"][shape]["members"].pop(member)
    service["shapes"].pop("OperatorResponse")
    version = service["metadata"]["apiVersion"]
    place = tmp_path / "older" / "ec2" / version / "service-2.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(service))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path / "older"))


def test_our_description_is_botocores() -> None:
    """A newer botocore says the same of what we add to an older one's."""
    ours = json.loads(Path(schema_files.path(schema_files.EC2)).read_text())["merge"]
    loader = botocore.loaders.create_loader()
    theirs = loader.load_service_model("ec2", "service-2")["shapes"]
    assert set(ours) == {"shapes"}
    added = set()
    for name, shape in ours["shapes"].items():
        assert shape.get("type", theirs[name]["type"]) == theirs[name]["type"]
        for key, member in shape["members"].items():
            added.add((name, key))
            other = theirs[name]["members"][key]
            assert member["locationName"] == other["locationName"]
            kinds = [theirs[one["shape"]]["type"] for one in (member, other)]
            assert kinds[0] == kinds[1]
    assert added == NEWER | {("OperatorResponse", "Managed")}
    version = loader.determine_latest_version("ec2", "service-2")
    assert f"/ec2/{version}/" in schema_files.path(schema_files.EC2)


def test_what_newer_volumes_say_also_with_an_older_botocore(
    keys: None, older: None
) -> None:
    bodies: list[str] = []

    def answer(method: str, path: str, body: str) -> Answer:
        bodies.append(body)
        if "NextToken=more" in body:
            return 200, described(SNAPSHOT + STRANGER)
        return 200, described(ODD, token="more")

    with serving(answer) as server:
        ec2 = edge(server.url)
        first, second = ec2.volumes(NODE)
    assert (first.id, first.origin, first.state) == ("vol-1", "snap-1", "creating")
    assert (first.managed, first.multi_attach) == (False, False)
    assert first.attachments == () and first.zone == "us-east-1c"
    assert (second.id, second.origin) == ("vol-2", "vol-9")
    assert (second.managed, second.multi_attach) == (True, True)
    assert second.attachments == (Attachment(None, None, "attached"),)
    assert ec2.calls == {"DescribeVolumes": 2}
    assert all("MaxResults=500" in body for body in bodies)


# --------------------------------------------------------------------- TLS


def test_a_private_authority(keys: None, tmp_path: Path) -> None:
    authority = Authority()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    with serving(no_volumes, authority.server("127.0.0.1")) as server:
        assert edge(server.url, ca_bundle=str(bundle)).volumes(NODE) == ()
        error = told(lambda: edge(server.url).volumes(NODE))
    assert error.trouble.kind == "certificate-refused" and not error.trouble.waits
    assert "kraken.ec2.ca_bundle" in error.trouble.remedy
    assert "local issuer" in error.trouble.found


@pytest.mark.parametrize(
    ("days", "waits", "words"), [(800, True, "not yet valid"), (-800, False, "expired")]
)
def test_a_clock_that_is_behind_may_be_set_in_time(
    keys: None,
    tmp_path: Path,
    mocker: MockerFixture,
    days: int,
    waits: bool,
    words: str,
) -> None:
    moment = datetime.now(timezone.utc) + timedelta(days=days)
    mocker.patch("tests.lab.tls.datetime").now.return_value = moment
    authority = Authority()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    with serving(no_volumes, authority.server("127.0.0.1")) as server:
        error = told(lambda: edge(server.url, ca_bundle=str(bundle)).volumes(NODE))
    assert error.trouble.kind == "certificate-refused"
    assert words in error.trouble.found and error.trouble.waits == waits


# ------------------------------------------------------------- credentials


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def point(url: str) -> None:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)

    return point


def test_the_metadata_service_is_asked_patiently(
    keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    watch = module._watch

    def noted(resolver: Any) -> Any:
        made.append(resolver)
        return watch(resolver)

    monkeypatch.setattr(module, "_watch", noted)
    edge("http://127.0.0.1:1")._client()
    fetcher = made[0].get_provider("iam-role")._role_fetcher
    assert (fetcher._timeout, fetcher._num_attempts) == (2, 3)
    assert isinstance(fetcher._session, module._Recorder)


@pytest.mark.parametrize("by", ["option", "environment"])
def test_proxies_are_for_ec2_and_never_for_the_metadata_service(
    imds: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    with serving(no_volumes) as proxy, serving(metadata()) as service:
        imds(service.url)
        if by == "environment":
            for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
        before = dict(os.environ)
        chosen = proxy.url if by == "option" else None
        ec2 = edge("http://ec2.example.invalid/", https_proxy=chosen)
        assert ec2.volumes(NODE) == ()
        assert dict(os.environ) == before
    assert [seen.split("/")[-1] for seen in service.seen] == [
        "token",
        "",
        "kraken-role",
    ]
    assert proxy.seen == ["POST http://ec2.example.invalid/"]
    assert proxy.heads[0]["X-Amz-Security-Token"] == TOKEN


def test_a_proxy_that_is_away_is_named_without_its_password(keys: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        ec2 = edge(https_proxy=f"http://kafka:hunter2@{place}")
        error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ec2-unreachable" and error.trouble.waits
    assert place in str(error) and "hunter2" not in str(error)


def test_no_instance_profile_is_named_and_waited_for(
    imds: Callable[[str], None],
) -> None:
    """EC2 can bring it minutes after the boot."""
    answers = [metadata(role=404)]
    with serving(lambda *a: answers[0](*a)) as service, serving(no_volumes) as api:
        imds(service.url)
        ec2 = edge(api.url)
        error = told(lambda: ec2.volumes(NODE))
        assert error.trouble.kind == "credentials-missing" and error.trouble.waits
        assert "no instance profile" in error.trouble.found
        answers[0] = metadata()
        assert ec2.volumes(NODE) == ()


def test_a_metadata_service_switched_off() -> None:
    error = told(lambda: edge("http://127.0.0.1:1").volumes(NODE))
    assert error.trouble.kind == "credentials-missing" and not error.trouble.waits
    assert "switched off" in error.trouble.found


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_metadata_service_that_is_not_ready_is_waited_for(
    imds: Callable[[str], None], status: int
) -> None:
    answers = [metadata(role=status, token=status)]
    with serving(lambda *a: answers[0](*a)) as service, serving(no_volumes) as api:
        imds(service.url)
        ec2 = edge(api.url)
        error = told(lambda: ec2.volumes(NODE))
        assert error.trouble.waits and str(status) in error.trouble.found
        assert api.seen == [] and not ec2.calls
        answers[0] = metadata()  # the same object, a round later
        assert ec2.volumes(NODE) == ()


def test_a_metadata_service_that_is_away_is_waited_for(
    imds: Callable[[str], None],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        imds(f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = told(lambda: edge("http://127.0.0.1:1").volumes(NODE))
    assert error.trouble.waits and "does not answer" in error.trouble.found


def test_refused_credentials_are_fetched_again(imds: Callable[[str], None]) -> None:
    answers = [refusing("ExpiredToken")]
    with serving(metadata()) as service, serving(lambda *a: answers[0](*a)) as api:
        imds(service.url)
        ec2 = edge(api.url)
        error = told(lambda: ec2.volumes(NODE))
        assert error.trouble.kind == "credentials-refused" and error.trouble.waits
        answers[0] = no_volumes
        ec2.volumes(NODE)
        ec2.volumes(NODE)
    assert service.seen.count("PUT /latest/api/token") == 2


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_credentials_come_from_where_the_datasource_found_the_metadata(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with serving(metadata(), address=address) as service, serving(no_volumes) as api:
        where = Identity("i-1", "us-east-1", "us-east-1a", metadata_url=service.url)
        ec2 = edge(api.url, identity=where)
        assert ec2.volumes(NODE) == ()
    assert len(service.seen) == 3


def test_an_address_in_the_environment_goes_before_the_datasources(
    imds: Callable[[str], None],
) -> None:
    with serving(metadata()) as service, serving(no_volumes) as api:
        imds(service.url)
        where = Identity(
            "i-1", "us-east-1", "us-east-1a", metadata_url="http://[::1]:9"
        )
        assert edge(api.url, identity=where).volumes(NODE) == ()


# ---------------------------------------------------------------- endpoints

CORE = botocore.session.Session()
#: Region, partition, and the domain that the metadata service names.
REGIONS = [
    (region, partition["id"], partition["outputs"]["dnsSuffix"])
    for partition in CORE.get_component("data_loader").load_data("partitions")[
        "partitions"
    ]
    for region in partition["regions"]
    if "global" not in region
]


@pytest.fixture(params=["this botocore", "one that knows aws alone"])
def partitions(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.param == "this botocore":
        return
    loader = CORE.get_component("data_loader")
    for name in ("partitions", "endpoints"):
        found = json.loads(json.dumps(loader.load_data(name)))
        found["partitions"] = found["partitions"][:1]
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))


def endpoint(here: str, partition: str, domain: str, **options: Any) -> str:
    where = Identity("i-1", here, f"{here}a", partition=partition, domain=domain)
    url = options.pop("endpoint_url", None)
    client = edge(url, identity=where, **options)._client()
    found: str = client.meta.endpoint_url
    return found


def test_the_endpoint_is_in_the_domain_of_the_metadata(
    keys: None, partitions: None
) -> None:
    assert len({partition for _, partition, _ in REGIONS}) > 5
    new = [
        ("eusc-xx-west-9", "aws-eusc", "amazonaws.eu"),
        ("zz-1", "aws-zz", "zz.test"),
    ]
    for region, partition, domain in [*one_of_each(REGIONS), *new]:
        found = endpoint(region, partition, domain)
        assert found == f"https://ec2.{region}.{domain}"


def one_of_each(regions: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return list({partition: one for one in regions for partition in [one[1]]}.values())


HERE = "http://127.0.0.1:9"
OWN = {"endpoint_url": HERE}
AWS, EUSC = ("aws", "amazonaws.com"), ("aws-eusc", "amazonaws.eu")


@pytest.mark.parametrize(
    ("region", "services", "options", "expected"),
    [
        ("us-east-1", AWS, {"use_dualstack": True}, "https://ec2.us-east-1.api.aws"),
        ("us-east-1", AWS, {"use_fips": True}, "https://ec2-fips.us-east-1.amazonaws.com"),
        ("us-east-1", AWS, {"use_fips": False}, "https://ec2.us-east-1.amazonaws.com"),
        ("us-east-1", AWS, {"region": "cn-north-1"}, "https://ec2.cn-north-1.amazonaws.com.cn"),
        ("us-east-1", AWS, {**OWN, "use_fips": True, "use_dualstack": True}, HERE),
        ("zz-1", ("", ""), {}, "https://ec2.zz-1.amazonaws.com"),
        ("zz-1", ("aws-zz", "zz.test"), {"use_fips": True}, "https://ec2-fips.zz-1.zz.test"),
        ("zz-1", ("aws-zz", "zz.test"), OWN, HERE),
        ("eusc-de-east-1", EUSC, {"use_dualstack": True}, "https://ec2.eusc-de-east-1.api.amazonwebservices.eu"),
    ],
)  # fmt: skip
def test_the_endpoint_that_the_section_asks_for(
    keys: None,
    region: str,
    services: tuple[str, str],
    options: dict[str, Any],
    expected: str,
) -> None:
    assert endpoint(region, *services, **options) == expected


def test_a_dualstack_endpoint_that_botocore_does_not_know(keys: None) -> None:
    error = told(lambda: endpoint("zz-1", "aws-zz", "zz.test", use_dualstack=True))
    assert error.trouble.kind == "ec2-request" and not error.trouble.waits
    assert "kraken.ec2.endpoint_url" in error.trouble.remedy


def test_keys_of_the_section_go_before_the_environment(
    keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    assert endpoint("us-east-1", *AWS) == "https://ec2.us-east-1.api.aws"
    off = endpoint("us-east-1", *AWS, use_dualstack=False)
    assert off == "https://ec2.us-east-1.amazonaws.com"


# ------------------------------------------------------------------ silence


def test_nothing_is_logged_at_debug(
    imds: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """As with ``cc-kraken --debug``: the root logger is at DEBUG."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    with serving(metadata()) as service, serving(no_volumes) as api:
        imds(service.url)
        with caplog.at_level(logging.DEBUG):
            edge(api.url).volumes(NODE)
            with serving(refusing("InternalError", status=500)) as broken:
                told(lambda: edge(broken.url).detach("vol-1"))
            logging.getLogger("urllib3.new.child").critical("inside")
    names = {record.name.split(".")[0] for record in caplog.records}
    assert names == {"cc_kraken"}
    assert SECRET not in caplog.text and TOKEN not in caplog.text


def test_importing_the_edge_does_not_import_boto3() -> None:
    code = "import sys, cc_kraken.cloud.ec2, cc_kraken.cloud.device_names; "
    code += "print('botocore' in sys.modules or 'boto3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# ------------------------------------------------------- against the lab EC2

TAGGED = {"KRKN-IN:Prefix": "kafka", "KRKN-IN:NodeId": "0"}
ZONE = "us-east-1a"


@pytest.fixture
def lab(keys: None) -> Iterator[Ec2Lab]:
    with Ec2Lab(clock=ManualClock(), attach_seconds=2, detach_seconds=2) as running:
        yield running


def test_volumes_of_the_node_and_of_no_other(lab: Ec2Lab) -> None:
    mine = [lab.create_volume(n + 1, ZONE, {**TAGGED, "x": str(n)}) for n in range(3)]
    mine.append(lab.create_volume(4, "us-east-1c", TAGGED, snapshot_id="snap-1"))
    mine.append(lab.create_volume(5, ZONE, TAGGED, source_volume_id=mine[0]))
    mine.append(lab.create_volume(6, ZONE, TAGGED, managed=True))
    mine.append(
        lab.create_volume(7, ZONE, TAGGED, multi_attach=True, volume_type="io2")
    )
    for other in ({}, {**TAGGED, "KRKN-IN:NodeId": "1"}, {"KRKN-IN:Prefix": "kafka"}):
        lab.create_volume(1, ZONE, other)
    found = edge(lab.endpoint_url).volumes(NODE)
    assert [volume.id for volume in found] == sorted(mine)
    by_size = {volume.size_gib: volume for volume in found}
    assert by_size[2].tags == {**TAGGED, "x": "1"} and by_size[2].origin == ""
    assert by_size[4].zone == "us-east-1c" and by_size[4].origin == "snap-1"
    assert by_size[5].origin == mine[0]
    assert [size for size, v in by_size.items() if v.managed] == [6]
    assert [size for size, v in by_size.items() if v.multi_attach] == [7]
    assert lab.calls.counts() == {"DescribeVolumes": 1}


@pytest.mark.parametrize("prefix", ["a*", "a?b", "p[1]", "back\\slash", "*", "é?"])
def test_wildcards_in_tags_are_literal(lab: Ec2Lab, prefix: str) -> None:
    tags = {"GOAT-IN:Prefix": prefix, "GOAT-IN:NodeId": "*"}
    mine = lab.create_volume(1, ZONE, tags)
    for near in ("ab", "axb", "p1", "a"):
        lab.create_volume(1, ZONE, {"GOAT-IN:Prefix": near, "GOAT-IN:NodeId": "0"})
    node = Node(prefix, "*")
    found = edge(lab.endpoint_url, namespace="GOAT-IN").volumes(node)
    assert [volume.id for volume in found] == [mine]


def test_all_pages_are_read(lab: Ec2Lab) -> None:
    lab.page_size, lab.sparse_pages = 5, True
    ids = [lab.create_volume(1, ZONE, TAGGED) for _ in range(12)]
    ec2 = edge(lab.endpoint_url)
    assert [volume.id for volume in ec2.volumes(NODE)] == sorted(ids)
    assert ec2.calls == lab.calls.counts() == {"DescribeVolumes": 3}


def test_a_throttled_page_is_asked_for_again_and_the_others_are_kept(
    lab: Ec2Lab,
) -> None:
    """In a busy account no three pages are served in a row."""
    lab.page_size = 5
    ids = [lab.create_volume(1, ZONE, TAGGED) for _ in range(12)]
    ec2, slept = edge(lab.endpoint_url), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            lab.heal()

    ec2._sleep = sleep
    pages = ec2._pages("DescribeVolumes", "of all")
    found = list(next(pages)["Volumes"])
    lab.throttle("DescribeVolumes", calls=9)
    for page in pages:
        found += page["Volumes"]
    assert sorted(one["VolumeId"] for one in found) == sorted(ids)
    assert ec2.calls == {"DescribeVolumes": 6} and len(slept) == 3
    assert ec2.throttled == {"DescribeVolumes": 3}


def test_a_page_that_stays_throttled_is_given_up(lab: Ec2Lab) -> None:
    lab.page_size = 5
    for _ in range(12):
        lab.create_volume(1, ZONE, TAGGED)
    ec2, slept = edge(lab.endpoint_url), []
    ec2._sleep = slept.append
    pages = ec2._pages("DescribeVolumes", "of all")
    next(pages)
    lab.throttle("DescribeVolumes", calls=99)
    assert told(lambda: next(pages)).trouble.kind == "ec2-throttled"
    assert len(slept) == 7 and sum(slept) < 64


def test_instance_tags(lab: Ec2Lab) -> None:
    instance = lab.run_instance(tags={**TAGGED, "Name": "kafka 0", "empty": ""})
    lab.run_instance(tags={"Name": "other"})
    ec2 = edge(lab.endpoint_url, instance)
    assert ec2.instance_tags() == {**TAGGED, "Name": "kafka 0", "empty": ""}
    assert ec2.calls == {"DescribeTags": 1}
    assert edge(lab.endpoint_url).instance_tags() == {}


def addresses(lab: Ec2Lab, instance_id: str) -> tuple[str, str]:
    ip = lab.instance(instance_id).private_ip
    return ip, f"ip-{ip.replace('.', '-')}.ec2.internal"


def test_holders(lab: Ec2Lab) -> None:
    running = lab.run_instance(tags=TAGGED)
    stopped = lab.run_instance(tags={"Name": "x"})
    lab.stop_instance(stopped)
    forgotten = lab.run_instance()
    lab.terminate_instance(forgotten)
    lab.clock.advance(60)  # type: ignore[attr-defined]
    lab.forget_instance(forgotten)
    ec2 = edge(lab.endpoint_url)
    found = ec2.holders([stopped, running, forgotten, running])
    assert found == {
        running: Holder(running, "running", "kafka", "0", *addresses(lab, running)),
        stopped: Holder(stopped, "stopped", None, None, *addresses(lab, stopped)),
        forgotten: Holder(forgotten, "gone"),
    }
    assert ec2.holders([]) == {}
    assert lab.calls.counts() == {"DescribeInstances": 1}


def test_more_holders_than_a_filter_takes(lab: Ec2Lab) -> None:
    ids = [f"i-{number:017x}" for number in range(201)]
    found = edge(lab.endpoint_url).holders(ids)
    assert {holder.state for holder in found.values()} == {"gone"}
    assert len(found) == 201 and lab.calls.count("DescribeInstances") == 2


def test_an_instance_that_is_not_shown_yet(lab: Ec2Lab) -> None:
    error = told(lambda: edge(lab.endpoint_url).attach("vol-0123456789abcdef0"))
    assert error.trouble.waits and "i-0123456789abcdef0" in error.trouble.found


def test_attach_and_detach(lab: Ec2Lab) -> None:
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE, TAGGED)
    ec2 = edge(lab.endpoint_url, instance)
    assert ec2.attach(volume) == "/dev/xvdba"
    (found,) = ec2.volumes(NODE)
    assert found.state == "in-use"
    assert found.attachments == (Attachment(instance, "/dev/xvdba", "attaching"),)
    for _ in range(2):  # to detach what is not attached is no error
        ec2.detach(volume)
        lab.clock.advance(60)  # type: ignore[attr-defined]
    assert ec2.volumes(NODE)[0].state == "available"
    assert ec2.attach(volume) == "/dev/xvdbb"


def test_every_candidate_name_is_accepted(lab: Ec2Lab) -> None:
    instance = lab.run_instance("m7i.48xlarge", ZONE)
    ec2 = edge(lab.endpoint_url, instance)
    names = {ec2.attach(lab.create_volume(1, ZONE)) for _ in range(127)}
    assert len(names) == 127 and ec2.calls["AttachVolume"] == 127
    error = told_plain(lambda: ec2.attach(lab.create_volume(1, ZONE)))
    assert error.kind == "device-names-exhausted"


def test_a_name_in_use_is_passed_over(lab: Ec2Lab) -> None:
    """Also one that EC2 does not show, and the one of the root device."""
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE)
    lab.attach_volume(lab.create_volume(1, ZONE), instance, "/dev/xvdba")
    lab.hide_device(instance, "/dev/xvdbb")
    ec2 = edge(lab.endpoint_url, instance)
    assert ec2.attach(volume) == "/dev/xvdbc"
    assert ec2.calls == {"DescribeInstances": 1, "AttachVolume": 2}


def test_an_invalid_name_is_passed_over(lab: Ec2Lab) -> None:
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE)
    text = "/dev/xvdba is not a valid EBS device name."
    lab.fail("AttachVolume", "InvalidParameterValue", text, calls=1)
    assert edge(lab.endpoint_url, instance).attach(volume) == "/dev/xvdbb"


def test_in_use_means_ask_again(lab: Ec2Lab) -> None:
    """503 after the attachment was made: the next request is refused with
    VolumeInUse, and the volume is ours."""
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE, TAGGED)
    lab.unavailable("AttachVolume")
    ec2 = edge(lab.endpoint_url, instance)
    assert told(lambda: ec2.attach(volume)).trouble.waits
    error = told(lambda: ec2.attach(volume))
    assert (error.trouble.kind, error.trouble.waits) == (IN_USE, True)
    (found,) = ec2.volumes(NODE)
    assert found.attachments[0].instance_id == instance
    asked = {call.parameters["Device"] for call in lab.calls if call.writes}
    assert asked == {"/dev/xvdba"}  # names are few
    assert ec2.calls["AttachVolume"] == 2


def test_a_throttled_request_is_left_to_the_caller(lab: Ec2Lab) -> None:
    ec2 = edge(lab.endpoint_url)
    lab.throttle("DescribeVolumes", 1)
    error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ec2-throttled" and error.trouble.waits
    assert ec2.volumes(NODE) == ()
    assert ec2.calls == lab.calls.counts() == {"DescribeVolumes": 2}


@pytest.mark.parametrize("how", ["drop", "refuse"])
def test_an_endpoint_that_is_away(lab: Ec2Lab, how: str) -> None:
    ec2 = edge(lab.endpoint_url)
    assert ec2.volumes(NODE) == ()
    lab.down(how)
    error = told(lambda: ec2.volumes(NODE))
    assert error.trouble.kind == "ec2-unreachable" and error.trouble.waits
    lab.up()
    assert ec2.volumes(NODE) == ()


def test_another_zone(lab: Ec2Lab) -> None:
    instance, volume = lab.run_instance(), lab.create_volume(1, "us-east-1b")
    error = told(lambda: edge(lab.endpoint_url, instance).attach(volume))
    assert error.trouble.kind == "zone-mismatch" and not error.trouble.waits


def test_the_attachment_limit_tells_what_is_in_use(lab: Ec2Lab) -> None:
    instance = lab.run_instance("d3.8xlarge", ZONE)
    volumes = [lab.create_volume(1, ZONE) for _ in range(4)]
    ec2 = edge(lab.endpoint_url, instance)
    ec2.attach(volumes[0])
    ec2.attach(volumes[1])
    for volume in volumes[2:]:
        error = told(partial(ec2.attach, volume))
        assert error.trouble.kind == "attachment-limit" and not error.trouble.waits
        assert "3 volumes are attached" in error.trouble.found
        assert "The type d3.8xlarge can have 3" in error.trouble.found
    # the limit is looked up once, whatever the number of volumes
    assert ec2.calls["DescribeInstances"] == 2
    assert ec2.calls["DescribeInstanceTypes"] == 1


@pytest.mark.parametrize(
    ("state", "advance"), [("creating", "volume"), ("pending", "instance")]
)
def test_not_ready_yet_is_waited_for(lab: Ec2Lab, state: str, advance: str) -> None:
    lab.create_seconds = 5 if state == "creating" else 0
    lab.pending_seconds = 5 if state == "pending" else 0
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE)
    ec2 = edge(lab.endpoint_url, instance)
    error = told(lambda: ec2.attach(volume))
    assert error.code == "IncorrectState" and error.trouble.waits
    lab.clock.advance(10)  # type: ignore[attr-defined]
    assert ec2.attach(volume) == "/dev/xvdba"


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(
    "action",
    [
        "DescribeVolumes",
        "DescribeTags",
        "DescribeInstances",
        "AttachVolume",
        "DetachVolume",
    ],
)
def test_each_forbidden_action_is_named(
    lab: Ec2Lab, action: str, encoded: bool
) -> None:
    lab.forbid(action, bare=True, encoded=encoded)
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE)
    ec2 = edge(lab.endpoint_url, instance)
    calls: dict[str, Callable[[], object]] = {
        "DescribeVolumes": lambda: ec2.volumes(NODE),
        "DescribeTags": ec2.instance_tags,
        "DescribeInstances": lambda: ec2.attach(volume),
        "AttachVolume": lambda: ec2.attach(volume),
        "DetachVolume": lambda: ec2.detach(volume),
    }
    error = told(calls[action])
    assert error.reaction is Reaction.RETRY and error.trouble.waits
    assert f"ec2:{action}" in error.trouble.remedy
    assert "ncoded" not in str(error) and len(str(error)) < 500


def test_a_key_of_kms_that_is_refused(lab: Ec2Lab) -> None:
    instance, volume = lab.run_instance(), lab.create_volume(1, ZONE, encrypted=True)
    text = "The customer key cannot be accessed."
    lab.fail("AttachVolume", "CustomerKeyHasBeenRevoked", text)
    error = told(lambda: edge(lab.endpoint_url, instance).attach(volume))
    assert "kms:CreateGrant" in error.trouble.remedy and not error.trouble.waits


def test_threads_attach_through_one_client(lab: Ec2Lab) -> None:
    instance = lab.run_instance("m5.large", ZONE)
    ec2 = edge(lab.endpoint_url, instance)
    volumes = [lab.create_volume(1, ZONE, TAGGED) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        names = list(pool.map(ec2.attach, volumes))
    assert len(set(names)) == 20
    assert ec2.calls["AttachVolume"] == lab.calls.count("AttachVolume") == 20
    assert ec2.calls["DescribeInstances"] == 1
    found = {v.id: v.attachments[0].device for v in ec2.volumes(NODE)}
    assert found == dict(zip(volumes, names))
