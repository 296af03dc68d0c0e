# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/loopback.py. Debian's Orthanc can't serve HTTPS (it crashes at the first connection, without any script), so a TLS
server of Python's own stands for it here; plain HTTP is shown by every script's tests on the real Orthanc."""

from __future__ import annotations

import http.server
import importlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str]] = []
    connections: set[int] = set()

    def do_GET(self) -> None:
        Handler.seen.append((self.command, self.path, self.headers["Authorization"]))
        Handler.connections.add(self.client_address[1])
        body = json.dumps({"Details": "no such thing"} if "missing" in self.path else [1, 2]).encode()
        self.send_response(404 if "missing" in self.path else 200)
        if "untyped" not in self.path:  # as what Orthanc says of an error
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED  # as "SslVerifyPeers"
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.seen.clear()
    Handler.connections.clear()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def piece(orthanc_standin: StandIn) -> Iterator[ModuleType]:
    orthanc_standin.returns["GenerateRestApiAuthorizationToken"] = "Bearer token"
    yield importlib.import_module("common.loopback")
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


def test_with_tls_and_client_certificates_one_connection_serves_many_requests(
    piece: ModuleType, tls_server: int, certificate: Path
) -> None:
    configuration = {
        "HttpPort": tls_server,
        "SslEnabled": True,
        "SslCertificate": str(certificate),
        "SslVerifyPeers": True,
    }
    loopback = piece.Loopback(configuration)
    assert [loopback.get("/changes?since=1") for _ in range(3)] == [[1, 2]] * 3
    assert Handler.seen == [("GET", "/changes?since=1", "Bearer token")] * 3
    assert len(Handler.connections) == 1
    loopback.close()


def test_an_error_names_the_request_without_its_parameters(
    piece: ModuleType, tls_server: int, certificate: Path
) -> None:
    loopback = piece.Loopback(
        {"HttpPort": tls_server, "SslEnabled": True, "SslCertificate": str(certificate), "SslVerifyPeers": True}
    )
    with pytest.raises(piece.LoopbackError, match=r"^GET /missing: no such thing$") as caught:
        loopback.get("/missing?PatientName=Doe")
    assert caught.value.status == 404
    with pytest.raises(piece.LoopbackError, match=r"^GET /missing/untyped: no such thing$"):
        loopback.get("/missing/untyped")
    loopback.close()


def test_a_kept_connection_that_orthanc_closed_is_opened_again(
    piece: ModuleType, tls_server: int, certificate: Path
) -> None:
    loopback = piece.Loopback(
        {"HttpPort": tls_server, "SslEnabled": True, "SslCertificate": str(certificate), "SslVerifyPeers": True}
    )
    assert loopback.get("/changes") == [1, 2]
    loopback._local.connection.sock.shutdown(socket.SHUT_RDWR)  # as Orthanc does after a second, or a 304
    assert loopback.get("/changes") == [1, 2]
    loopback.close()


def test_what_must_not_arrive_twice_is_not_sent_over_a_connection_that_orthanc_may_have_closed(
    piece: ModuleType, tls_server: int, certificate: Path
) -> None:
    loopback = piece.Loopback(
        {"HttpPort": tls_server, "SslEnabled": True, "SslCertificate": str(certificate), "SslVerifyPeers": True}
    )
    assert loopback.get("/changes") == [1, 2]
    loopback._local.connection.sock.shutdown(socket.SHUT_RDWR)  # just now: it is not too old to be used
    assert loopback.post("/modalities/PACS/store", {}) == [1, 2]
    assert [path for _, path, _ in Handler.seen] == ["/changes", "/modalities/PACS/store"]
    loopback.close()


def test_no_answer_is_an_error_of_status_0(piece: ModuleType) -> None:
    with pytest.raises(piece.LoopbackError) as caught:
        piece.Loopback({"HttpPort": 1}).get("/system")
    assert caught.value.status == 0


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        (None, "127.0.0.1"),
        (["10.0.0.1", "127.0.0.1"], "127.0.0.1"),
        (["0.0.0.0"], "127.0.0.1"),  # noqa: S104
        (["10.0.0.1"], "10.0.0.1"),
    ],
)
def test_it_goes_where_orthanc_listens(piece: ModuleType, addresses: list[str] | None, host: str) -> None:
    assert piece.Loopback({"HttpBindAddresses": addresses}).host == host
