"""The lab's metadata service: by plain HTTP, as cloud-init walks it, and with
the real boto3 behind its role's credentials."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

import pytest

from tests.lab.clock import ManualClock
from tests.lab.ec2 import Ec2Lab
from tests.lab.metadata import Facts, Metadata

ID = "i-0123456789abcdef0"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
MD = "/latest/meta-data/"
IP_MINTTL = 21  # linux/in.h


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    facts = Facts(ID, tags={"KRKN-IN:Prefix": "kafka"}, user_data=b"#cloud-config\n")
    with Metadata(facts) as metadata:
        yield metadata


def ask(
    metadata: Metadata, method: str, path: str, headers: dict[str, str]
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", metadata.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def token(metadata: Metadata, ttl: str = "60") -> str:
    status, text = ask(metadata, "PUT", "/latest/api/token", {TTL: ttl})
    assert status == 200
    return text


def get(metadata: Metadata, path: str) -> tuple[int, str]:
    return ask(metadata, "GET", path, {TOKEN: token(metadata)})


def text(metadata: Metadata, path: str) -> str:
    status, body = get(metadata, path)
    assert status == 200, path
    return body


# ------------------------------------------------------------------- tokens


def test_nothing_without_a_token(metadata: Metadata) -> None:
    for headers in ({}, {TOKEN: "made-up"}):
        assert ask(metadata, "GET", MD + "instance-id", headers)[0] == 401


def test_version_1_where_tokens_are_optional(metadata: Metadata) -> None:
    metadata.tokens_required = False
    assert ask(metadata, "GET", MD + "instance-id", {}) == (200, ID)
    assert text(metadata, MD + "instance-id") == ID
    assert ask(metadata, "GET", MD + "instance-id", {TOKEN: "made-up"})[0] == 401


@pytest.mark.parametrize("ttl", [None, "0", "21601", "soon", "-1"])
def test_a_token_needs_a_life_time(metadata: Metadata, ttl: Optional[str]) -> None:
    headers = {} if ttl is None else {TTL: ttl}
    assert ask(metadata, "PUT", "/latest/api/token", headers)[0] == 400


def test_no_token_through_a_proxy(metadata: Metadata) -> None:
    headers = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert ask(metadata, "PUT", "/latest/api/token", headers)[0] == 403


def test_only_tokens_are_put_and_the_rest_is_read(metadata: Metadata) -> None:
    assert ask(metadata, "GET", "/latest/api/token", {})[0] == 405
    assert ask(metadata, "POST", MD + "instance-id", {})[0] == 405


# --------------------------------------------------------------------- tree


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("instance-id", ID),
        ("instance-type", "m5.large"),
        ("ami-id", "ami-0123456789abcdef0"),
        ("local-ipv4", "10.0.0.4"),
        ("placement/availability-zone", "us-east-1a"),
        ("placement/region", "us-east-1"),
        ("placement", "availability-zone\nregion"),
        ("placement/", "availability-zone\nregion"),
        ("network/interfaces/macs/", "52:54:00:12:34:56/"),
        ("iam/", "info\nsecurity-credentials/"),
        ("iam/security-credentials/", "kraken-node"),
        ("tags/", "instance/"),
        ("tags/instance/", "KRKN-IN:Prefix"),
        ("tags/instance/KRKN-IN:Prefix", "kafka"),
        ("services/domain", "amazonaws.com"),
        ("block-device-mapping/root", "/dev/xvda"),
        ("security-groups", "default"),
    ],
)
@pytest.mark.parametrize("version", ["latest", "2021-03-23"])
def test_the_tree(metadata: Metadata, version: str, path: str, expected: str) -> None:
    assert text(metadata, f"/{version}/meta-data/{quote(path)}") == expected


@pytest.mark.parametrize(
    "path",
    [MD + "none", MD + "instance-id/", MD + "instance-id/x", "/2030-01-01/meta-data/"],
)
def test_what_is_not_there(metadata: Metadata, path: str) -> None:
    assert get(metadata, path)[0] == 404


def test_the_versions_are_listed(metadata: Metadata) -> None:
    assert text(metadata, "/").splitlines()[-2:] == ["2021-03-23", "latest"]


def test_user_data_or_none(metadata: Metadata) -> None:
    assert text(metadata, "/2021-03-23/user-data") == "#cloud-config\n"
    metadata.change(user_data=None)
    assert get(metadata, "/2021-03-23/user-data")[0] == 404


def test_tags_are_off_or_on_and_only_in_recent_versions(metadata: Metadata) -> None:
    assert get(metadata, "/2018-09-24/meta-data/tags/")[0] == 404
    assert get(metadata, "/2018-09-24/meta-data/instance-id")[0] == 200
    metadata.set_tags(None)
    assert get(metadata, MD + "tags/instance/")[0] == 404
    assert "tags/" not in text(metadata, MD).splitlines()
    metadata.set_tags({"a": "1", "b": ""})
    assert text(metadata, MD + "tags/instance/") == "a\nb"
    assert text(metadata, MD + "tags/instance/b") == ""


def test_tags_that_metadata_cannot_hold_are_refused(metadata: Metadata) -> None:
    with pytest.raises(ValueError, match="a key"):
        metadata.set_tags({"a key": "1"})


def test_no_profile(metadata: Metadata) -> None:
    metadata.change(role="")
    assert get(metadata, MD + "iam/security-credentials/")[0] == 404


def test_a_profile_that_comes_late() -> None:
    clock = ManualClock()
    with Ec2Lab(clock=clock, profile_seconds=25) as lab:
        with Metadata(Facts.of(lab, lab.run_instance())) as service:
            path = MD + "iam/security-credentials/"
            assert get(service, path)[0] == 404
            clock.advance(25)
            assert text(service, path) == "kraken-node"


def test_what_a_group_wants_of_its_instance(metadata: Metadata) -> None:
    path = "meta-data/autoscaling/target-lifecycle-state"
    assert get(metadata, f"/latest/{path}")[0] == 404
    assert "autoscaling/" not in text(metadata, MD).splitlines()
    states = ["Warmed:Stopped", "InService"]
    metadata.change(lifecycle=lambda: states.pop(0))
    assert text(metadata, f"/latest/{path}") == "Warmed:Stopped"
    assert text(metadata, f"/latest/{path}") == "InService"
    metadata.change(lifecycle="InService")
    assert "autoscaling/" in text(metadata, MD).splitlines()
    assert get(metadata, f"/2021-03-23/{path}")[0] == 404


def test_public_keys_are_listed_by_number(metadata: Metadata) -> None:
    metadata.change(public_keys={"me": "ssh-ed25519 AAAA me"})
    assert text(metadata, MD + "public-keys/") == "0=me"
    assert text(metadata, MD + "public-keys/0/openssh-key") == "ssh-ed25519 AAAA me"


def test_the_identity_document(metadata: Metadata) -> None:
    path = "/latest/dynamic/instance-identity"
    assert text(metadata, path) == "document"
    document = json.loads(text(metadata, path + "/document"))
    assert document["instanceId"] == ID
    assert (document["region"], document["availabilityZone"]) == (
        "us-east-1",
        "us-east-1a",
    )


# ------------------------------------------------- as cloud-init walks it


def crawl(metadata: Metadata, path: str) -> dict[str, Any]:
    """cloud-init's walk (MetadataMaterializer): a listing's lines with a slash
    are directories, ``N=name`` is a key, the others are leaves."""
    found: dict[str, Any] = {}
    for line in text(metadata, path).splitlines():
        name = line.rstrip("/")
        if name == "security-credentials":
            continue
        if line.endswith("/"):
            found[name] = crawl(metadata, path + quote(name) + "/")
        elif "=" in line:
            number, name = line.split("=", 1)
            found[name] = text(metadata, f"{path}{number}/openssh-key")
        else:
            found[name] = text(metadata, path + quote(name))
    return found


def test_cloud_init_can_walk_all_of_it(metadata: Metadata) -> None:
    metadata.change(public_keys={"me": "ssh-ed25519 AAAA me"})
    found = crawl(metadata, "/2021-03-23/meta-data/")
    assert found["tags"] == {"instance": {"KRKN-IN:Prefix": "kafka"}}
    assert found["public-keys"] == {"me": "ssh-ed25519 AAAA me"}
    interface = found["network"]["interfaces"]["macs"]["52:54:00:12:34:56"]
    assert interface["vpc-id"].startswith("vpc-")
    assert interface["device-number"] == "0"
    assert json.loads(found["iam"]["info"])["Code"] == "Success"
    assert {one.status for one in metadata.requests} == {200}


# ------------------------------------------------------------------- faults


def test_refused_tokens(metadata: Metadata) -> None:
    old = token(metadata)
    metadata.refuse_tokens(2)
    assert ask(metadata, "GET", MD, {TOKEN: token(metadata)})[0] == 401
    assert ask(metadata, "GET", MD, {TOKEN: old})[0] == 401
    assert ask(metadata, "GET", MD, {TOKEN: old})[0] == 401
    assert ask(metadata, "GET", MD, {TOKEN: token(metadata)})[0] == 200


@pytest.mark.parametrize("how", ["drop", "refuse"])
def test_away_and_back(metadata: Metadata, how: str) -> None:
    port = metadata.port
    metadata.away(how)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(metadata, MD)
    metadata.back()
    assert metadata.port == port
    assert get(metadata, MD)[0] == 200


def test_hanging_answers_nobody(metadata: Metadata) -> None:
    metadata.away("hang")
    with socket.create_connection(("127.0.0.1", metadata.port)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.settimeout(0.2)
        with pytest.raises(socket.timeout):
            peer.recv(1)
        metadata.back()
        peer.settimeout(10)
        assert peer.recv(1) == b""


def test_a_late_answer_comes(metadata: Metadata) -> None:
    metadata.delay = 0.05
    assert get(metadata, MD + "instance-id") == (200, ID)


def test_requests_are_logged(metadata: Metadata) -> None:
    get(metadata, MD + "none")
    first, second = metadata.requests
    assert (first.method, first.path, first.status) == (
        "PUT",
        "/latest/api/token",
        200,
    )
    assert (second.method, second.path, second.status) == ("GET", MD + "none", 404)
    assert metadata.counts()["/latest/api/token"] == 1


def test_a_connection_is_for_one_answer(metadata: Metadata) -> None:
    """A forwarder that is one process a connection must come to its end."""
    with socket.create_connection(("127.0.0.1", metadata.port), timeout=10) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while True:
            part = peer.recv(4096)
            if not part:
                break
            answer += part
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close\r\n" in answer


# -------------------------------------------------------- together with EC2


def test_the_facts_of_an_instance_are_live() -> None:
    with Ec2Lab(clock=ManualClock(), region="eu-west-1") as lab:
        instance = lab.run_instance("t3.small", "eu-west-1b", {"a": "1"})
        with Metadata(Facts.of(lab, instance, user_data=b"x")) as metadata:
            assert text(metadata, MD + "instance-id") == instance
            assert text(metadata, MD + "placement/region") == "eu-west-1"
            assert text(metadata, MD + "placement/availability-zone") == "eu-west-1b"
            assert text(metadata, MD + "tags/instance/a") == "1"
            lab.tag(instance, {"a": "2"})
            assert text(metadata, MD + "tags/instance/a") == "2"
            assert text(metadata, "/latest/user-data") == "x"


@pytest.mark.parametrize(("hops", "reached"), [(1, False), (2, True)])
def test_the_hop_limit_is_on_the_wire(hops: int, reached: bool) -> None:
    """Who takes no packet with a TTL below 2 (IP_MINTTL, ip(7)) hears nothing
    of a service whose packets have 1."""
    with Metadata(Facts("i-0"), hop_limit=hops) as metadata:
        token(metadata)
        with socket.socket() as far:
            far.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 2)
            far.settimeout(10 if reached else 1)
            try:
                far.connect(("127.0.0.1", metadata.port))
                heard = True
            except TimeoutError:
                heard = False
    assert heard == reached


def test_boto3_finds_the_role_and_ec2_knows_the_caller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real credential chain: token, role, keys, a signed call."""
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    nothing = str(tmp_path / "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", nothing)
    monkeypatch.setenv("AWS_CONFIG_FILE", nothing)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with Ec2Lab(clock=ManualClock()) as lab:
        instance = lab.run_instance()
        with Metadata(Facts.of(lab, instance)) as metadata:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
            ec2 = boto3.session.Session().client(
                "ec2", "us-east-1", endpoint_url=lab.endpoint_url
            )
            ec2.describe_tags()
        assert [call.instance_id for call in lab.calls] == [instance]
