"""What is asked of the metadata service itself, against the lab's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from cc_kraken.cloud import metadata as module
from cc_kraken.cloud.ec2 import Ec2
from cc_kraken.model import Identity, KrakenError, Section, Trouble
from tests.lab.metadata import Facts, Metadata

ID = "i-0123456789abcdef0"
TOKEN = "/latest/api/token"
PATH = "/latest/meta-data/autoscaling/target-lifecycle-state"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def service() -> Iterator[Metadata]:
    with Metadata(Facts(ID, lifecycle="Warmed:Stopped")) as made:
        yield made


def asked(service: Metadata) -> list[str]:
    return [f"{one.method} {one.path} {one.status}" for one in service.requests]


def refused(url: str) -> Trouble:
    with pytest.raises(KrakenError) as caught:
        module.lifecycle(url)
    trouble = caught.value.trouble
    assert (trouble.kind, trouble.waits) == ("metadata-unreachable", True)
    return trouble


@pytest.mark.parametrize("slash", ["", "/"])
def test_it_is_asked_with_a_token(service: Metadata, slash: str) -> None:
    assert module.lifecycle(service.url + slash) == "Warmed:Stopped"
    assert asked(service) == [f"PUT {TOKEN} 200", f"GET {PATH} 200"]


def test_an_instance_asks_where_its_datasource_has_found_the_service(
    service: Metadata,
) -> None:
    identity = Identity(ID, "us-east-1", "us-east-1a", metadata_url=service.url)
    assert Ec2(identity, Section()).lifecycle() == "Warmed:Stopped"
    service.change(lifecycle="InService")
    assert Ec2(identity, Section()).lifecycle() == "InService"


def test_an_instance_of_no_group(service: Metadata) -> None:
    service.change(lifecycle="")
    assert module.lifecycle(service.url) == ""
    assert asked(service) == [f"PUT {TOKEN} 200", f"GET {PATH} 404"]


def test_a_service_that_is_switched_off() -> None:
    """HttpEndpoint "disabled"."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        off = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        thread = threading.Thread(target=serve, args=(listener, [off]))
        thread.start()
        assert module.lifecycle(f"http://127.0.0.1:{listener.getsockname()[1]}") == ""
        thread.join()


def test_a_token_that_is_void_is_no_answer(service: Metadata) -> None:
    service.refuse_tokens(1)
    assert "HTTP status 401" in refused(service.url).found
    assert module.lifecycle(service.url) == "Warmed:Stopped"


@pytest.mark.parametrize("how", ["drop", "hang", "refuse"])
def test_no_answer_is_waited_for(
    service: Metadata, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    service.away(how)
    refused(service.url)
    service.back()
    assert module.lifecycle(service.url) == "Warmed:Stopped"


def test_an_answer_that_comes_too_late(
    service: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    service.delay = 1.0
    refused(service.url)


def serve(listener: socket.socket, answers: list[bytes]) -> None:
    for answer in answers:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(answer)


TOKEN_GIVEN = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nWar",
        b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
@pytest.mark.parametrize("before", [[], [TOKEN_GIVEN]])
def test_something_else_than_the_service_is_waited_for(
    before: list[bytes], answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given = (listener, [*before, answer])
        thread = threading.Thread(target=serve, args=given)
        thread.start()
        refused(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


def test_a_proxy_never_sees_the_token(
    service: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Metadata(Facts("i-proxy", lifecycle="of the proxy")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert module.lifecycle(service.url) == "Warmed:Stopped"
        assert proxy.requests == []
