"""A small HTTP server on 127.0.0.1, or ::1, that can also be slow, silent or gone."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """One HTTP answer.  ``delay``: seconds before its first byte is sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, owner: Server, tls: Optional[ssl.SSLContext]) -> None:
        self.owner = owner
        self.done = False
        if owner.ipv6:
            self.address_family = socket.AF_INET6
        super().__init__((owner.address, port), _Handler)
        if tls is not None:
            # the handshake belongs to the thread of its connection
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def server_bind(self) -> None:
        # HTTPServer would look its own name up in the DNS.
        if self.owner.hop_limit is not None:
            level, option = (socket.IPPROTO_IP, socket.IP_TTL)
            if self.owner.ipv6:
                level, option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            self.socket.setsockopt(level, option, self.owner.hop_limit)
        socketserver.TCPServer.server_bind(self)
        self.server_name = self.owner.address
        self.server_port = self.server_address[1]

    def accept(self) -> None:
        """Until ``wake``, without polling (as serve_forever does)."""
        while not self.done:
            try:
                request, address = self.get_request()
            except OSError:
                continue  # woken, or the peer was gone before it was served
            self.process_request(request, address)

    def wake(self) -> None:
        self.done = True
        self.socket.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment an answer: no wait for a delayed ACK
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.owner._connected(self.connection)

    def finish(self) -> None:
        self.server.owner._disconnected(self.connection)
        super().finish()

    def _serve(self) -> None:
        owner = self.server.owner
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if not owner._reachable():
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = owner._answer(
            Request(self.command, parts.path, parts.query, headers, body)
        )
        if response is None or not owner._pause(response.delay):
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        if not owner.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """The lab keeps its own log."""


class Server:
    """Answers each request with what ``answer`` returns for it (None: the
    connection is closed without an answer).  A thread a connection."""

    def __init__(
        self,
        answer: Callable[[Request], Optional[Response]],
        port: int = 0,
        keep_alive: bool = True,
        tls: Optional[ssl.SSLContext] = None,
        hop_limit: Optional[int] = None,
        address: str = ADDRESS,
    ) -> None:
        self._answer = answer
        self.hop_limit = hop_limit
        self.address = address
        self.ipv6 = ":" in address
        self.port = port
        self.keep_alive = keep_alive
        self._tls = tls
        self._http: Optional[_Http] = None
        self._thread: Optional[threading.Thread] = None
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._mode = "up"
        self._moved = threading.Event()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        host = f"[{self.address}]" if self.ipv6 else self.address
        return f"{scheme}://{host}:{self.port}"

    def start(self) -> None:
        """Listen; with port 0 the kernel chooses one, which is then kept."""
        http = _Http(self.port, self, self._tls)
        self.port = http.server_port
        self._http = http
        self._thread = threading.Thread(
            target=http.accept, name=f"lab-http-{self.port}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        http, thread = self._http, self._thread
        self._http = self._thread = None
        if http is not None and thread is not None:
            http.wake()
            thread.join()
            http.server_close()
        self._release()

    def away(self, how: str = "drop") -> None:
        """Be gone until ``back``.

        ``drop`` accepts and closes; ``hang`` accepts and never answers;
        ``refuse`` does not listen.  Open connections are closed.
        """
        if how not in ("drop", "hang", "refuse"):
            raise ValueError(f"{how!r}; expected drop, hang or refuse")
        self._mode = how
        if how == "refuse":
            self.stop()
        else:
            self._release()

    def back(self) -> None:
        """Answer again; who hung meanwhile is disconnected."""
        self._mode = "up"
        self._release()
        if self._http is None:
            self.start()

    def _release(self) -> None:
        with self._lock:
            self._moved.set()
            self._moved = threading.Event()
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the peer was first

    def _reachable(self) -> bool:
        moved = self._moved
        if self._mode == "hang":
            moved.wait()
            return False
        return self._mode == "up"

    def _pause(self, seconds: float) -> bool:
        """False when the server was stopped or sent away meanwhile."""
        return seconds <= 0 or not self._moved.wait(seconds)

    def _connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def _disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
